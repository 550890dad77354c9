"""What is lost of sound on its way through a bad network, by path and by how much of it is buffered.

    python bench/jitter.py [--seconds 20] [--json docs/jitter.json] [--path ferry+udp] [--weather loss] [--buffer 60]

It needs root, for it makes network namespaces.

A headset that does not wait (see `bus`) is served by one process and used by another, which has 20 ms of transfers
under way in each direction, as Linux's drivers have. On some paths a third one lies between, at the user's end of the
network. For each path, weather and buffer: the part of the device's milliseconds that were lost, and how late the
others were. A run's first second does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.bus import IN, INTERVAL, OUT, PACKET, STAMP, BusSource
from bench.weather import SERVER, Network, Weather, network
from usbferry import aio
from usbferry.aio import Handle
from usbferry.cli.outlets import Outlet
from usbferry.registry import open_source
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving
from usbferry.usb.transfer import Completion, IsoPacket, Transfer
from usbferry.usb.types import Status

SEED: Final = 20261121


class Way(NamedTuple):
    """How a device comes to its user: the protocol over the network, who has the buffer, what a hop speaks."""

    protocol: str
    at_server: bool = False  # else whoever uses that protocol has it
    hop: str = ""


PATHS: Final = {
    "usbip kernel": Way("usbip", at_server=True),  # a kernel has no buffer
    "usbip": Way("usbip"),
    "ferry": Way("ferry"),
    "ferry+udp": Way("ferry+udp"),
    "usbredir": Way("usbredir"),
    "relay": Way("usbip", hop="usbip"),  # as `usbferry attach` carries it, but for the kernel
    "gateway": Way("usbip", hop="ferry"),
}
BUFFERS_MS: Final = (0, 20, 60, 200)
WEATHERS: Final = {
    "clear": Weather(),
    "jitter": Weather(jitter=0.02),
    "loss": Weather(delay=0.005, loss=0.01),
}
PACKETS, TRANSFERS = 4, 5  # of a transfer; under way: uvcvideo has as many, snd-usb-audio at most 18 ms
WARMING: Final = 1.0  # seconds that do not count
PORT: Final = 4000


class Row(NamedTuple):
    """What came of one run: the part of milliseconds that was lost, and milliseconds of delay of the others."""

    path: str
    weather: str
    buffer_ms: int
    in_lost: float
    in_p50: float
    in_p99: float
    out_lost: float
    out_p50: float
    out_p99: float
    seconds: float


def judged(numbers: Sequence[int], late: Sequence[float]) -> tuple[float, float, float]:
    """The part lost between the first and the last number, and the delays."""
    if len(numbers) < 100:
        return 1.0, 0.0, 0.0
    cuts = statistics.quantiles(late, n=100)
    lost = 1 - len(set(numbers)) / (numbers[-1] - numbers[0] + 1)
    return round(lost, 5), round(cuts[49] * 1e3, 1), round(cuts[98] * 1e3, 1)


def seconds_of(protocol: str, buffer_ms: int) -> float:
    """What an importer is told; over usbredir there is always a buffer, of a packet at least."""
    return max(buffer_ms / 1e3, INTERVAL if protocol == "usbredir" else 0.0)


# -- the two processes ------------------------------------------------------------------------------------------------


def told_to_stop() -> asyncio.Event:
    """Set by SIGTERM. A second one, as who ends a process that has been told to sends, is ignored from then on.

    It could come while the loop closes, which has no pipe for it any more and complains.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def received() -> None:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, received)
    return stop


async def serve(where: str, buffer: float) -> None:
    """Until SIGTERM. A line of JSON says where it listens, and at the end one what was played: see `judged`."""
    stop = told_to_stop()
    source = BusSource()
    async with serving(Catalog(buffer)) as server:
        await server.offer(source)
        say((await Outlet.parse(where, "--on").listen(server))[1])
        await stop.wait()
    heard = source.last.heard if source.last is not None else []
    heard = [one for one in heard if one[0] > heard[0][0] + WARMING / INTERVAL]
    say(judged([interval for interval, *_ in heard], [late for *_, late in heard]))


async def carry(address: str, where: str) -> None:
    """A relay or a gateway, until SIGTERM: the device at one address is offered at another."""
    stop = told_to_stop()
    async with serving(Catalog()) as server:
        await server.offer(open_source(address))
        say((await Outlet.parse(where, "--on").listen(server))[1])
        await stop.wait()


class Recording:
    """Takes what comes, and asks for more."""

    def __init__(self, handle: Handle) -> None:
        self.numbers: list[int] = []
        self.late: list[float] = []
        self._handle, self._since = handle, time.monotonic() + WARMING
        for _ in range(TRANSFERS):
            self._submit()

    def _submit(self) -> None:
        packets = [IsoPacket(n * PACKET, PACKET) for n in range(PACKETS)]
        answer = self._handle.submit(Transfer(IN, PACKETS * PACKET, packets=packets))
        answer.add_done_callback(self._came)

    def _came(self, answer: asyncio.Future[Completion]) -> None:
        now, at = time.monotonic(), 0
        if answer.cancelled() or answer.result().status != Status.OK:
            return
        for packet in answer.result().packets or ():
            if packet.actual >= STAMP.size and now > self._since:
                made, number = STAMP.unpack_from(answer.result().data, at)
                self.numbers.append(number)
                self.late.append(now - made)
            at += packet.actual
        self._submit()


class Playing:
    """Gives the next packets whenever some were taken."""

    def __init__(self, handle: Handle) -> None:
        self._handle, self.given = handle, 0  # packets
        for _ in range(TRANSFERS):
            self._submit()

    def _submit(self) -> None:
        now, packets, data = time.monotonic(), [], b""
        for n in range(PACKETS):
            packets.append(IsoPacket(n * PACKET, PACKET))
            data += STAMP.pack(now, self.given).ljust(PACKET)
            self.given += 1
        self._handle.submit(Transfer(OUT, len(data), data, packets=packets)).add_done_callback(self._went)

    def _went(self, answer: asyncio.Future[Completion]) -> None:
        if not answer.cancelled() and answer.result().status == Status.OK:
            self._submit()


async def use(address: str, seconds: float) -> None:
    """A line of JSON says what was recorded."""
    async with await aio.open(address) as headset:
        await headset.set_interface(1, 1)
        await headset.set_interface(2, 1)
        recording = Recording(headset)
        Playing(headset)
        await asyncio.sleep(WARMING + seconds)
        result = judged(recording.numbers, recording.late)
    say(result)


def say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


# -- the runs ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def process(namespace: str, *words: object, of: str = __file__) -> AsyncIterator[asyncio.subprocess.Process]:
    command = ["ip", "netns", "exec", namespace, sys.executable, of, *map(str, words)]
    started = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        yield started
    finally:
        with suppress(ProcessLookupError):
            started.terminate()
        await started.wait()


async def line(of: asyncio.subprocess.Process, limit: float) -> Any:
    assert of.stdout is not None
    async with asyncio.timeout(limit):
        return json.loads(await of.stdout.readline() or "null")


@asynccontextmanager
async def hop(net: Network, protocol: str, address: str) -> AsyncIterator[str]:
    """Where the device is for its user: behind a process that carries it, or at `address` where there is none."""
    if not protocol:
        yield address
        return
    here = f"{protocol}://127.0.0.1:{PORT}"
    async with process(net.client, "carry", address, here) as carrier:
        await line(carrier, 30)
        yield f"{here}/1-1"


async def run(net: Network, path: str, weather: str, buffer_ms: int, seconds: float) -> Row:
    """One run over a network. Raises RuntimeError when one of the processes failed."""
    protocol, at_server, between = PATHS[path]
    place = f"{protocol}://{SERVER}:{PORT}"
    name = "" if protocol == "usbredir" else "/1-1"
    address = f"{place}{name}" + ("" if at_server else f"?buffer={seconds_of(protocol, buffer_ms):g}")
    with net.carry(WEATHERS[weather], SEED):
        async with process(net.server, "serve", place, buffer_ms / 1e3 if at_server else 0) as server:
            await line(server, 30)
            async with hop(net, between, address) as nearest, process(net.client, "use", nearest, seconds) as client:
                recorded = await line(client, seconds + 60)
                await client.wait()
            server.terminate()
            played = await line(server, 60)
    if recorded is None or played is None:
        raise RuntimeError(f"{path} failed, see above")
    return Row(path, weather, buffer_ms, *recorded, *played, seconds)


async def measure(cells: Sequence[tuple[str, str, int]], seconds: float, at_once: int) -> AsyncIterator[Row]:
    """Each of path, weather and buffer, some at the same time, each over a network of its own."""
    waiting, rows = list(reversed(cells)), asyncio.Queue[Row]()

    async def work(number: int) -> None:
        with network(number) as net:
            while waiting:
                rows.put_nowait(await run(net, *waiting.pop(), seconds))

    async with asyncio.TaskGroup() as tasks:
        for number in range(at_once):
            tasks.create_task(work(number))
        for _ in cells:
            yield await rows.get()


async def main(options: argparse.Namespace) -> None:
    with suppress(PermissionError):
        os.sched_setscheduler(
            0, os.SCHED_RR, os.sched_param(1)
        )  # what is late because the machine is busy tells nothing of the network
    every = [(p, w, b) for p in PATHS for w in WEATHERS for b in BUFFERS_MS]
    cells = [one for one in every if one[0] in options.path and one[1] in options.weather and one[2] in options.buffer]
    rows = []
    async for row in measure(cells, options.seconds, options.at_once):
        sys.stdout.write(
            f"{row.path:12} {row.weather:7} {row.buffer_ms:4} ms   in: {row.in_lost:7.2%} lost, {row.in_p50:5.0f} to"
            f" {row.in_p99:5.0f} ms   out: {row.out_lost:7.2%} lost, {row.out_p50:5.0f} to {row.out_p99:5.0f} ms\n"
        )
        sys.stdout.flush()
        rows.append(row)
    if options.json:
        if cells != every:
            others = [Row(**row) for row in json.loads(options.json.read_text())]
            rows += [row for row in others if row[:3] not in cells]
        rows.sort(key=lambda row: every.index(row[:3]))
        lines = ",\n".join(f"  {json.dumps(row._asdict())}" for row in rows)
        options.json.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(sys.argv[2], float(sys.argv[3])))
    elif sys.argv[1:2] == ["carry"]:
        asyncio.run(carry(*sys.argv[2:]))
    elif sys.argv[1:2] == ["use"]:
        asyncio.run(use(sys.argv[2], float(sys.argv[3])))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--seconds", type=float, default=20)
        parser.add_argument("--at-once", type=int, default=2, help="runs at the same time")
        parser.add_argument("--json", type=Path, help="write the rows there; of some paths alone, in place of theirs")
        parser.add_argument("--path", nargs="+", choices=PATHS, default=PATHS)
        parser.add_argument("--weather", nargs="+", choices=WEATHERS, default=WEATHERS)
        parser.add_argument("--buffer", nargs="+", type=int, choices=BUFFERS_MS, default=BUFFERS_MS, help="ms")
        asyncio.run(main(parser.parse_args()))
