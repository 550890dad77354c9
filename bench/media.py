"""What sound, pictures and fast reports cost `usbferry serve`: part of `make bench`, or by itself:

    python bench/media.py [--seconds 5] [--json FILE]

A server process of ours and a client in this one, over USB/IP on the loopback. Cost is the server's own processor time,
as a share of one core; the client's is not in it. A period is the time between two reports as the client gets them,
which is late by the client too. Streams go on by the server's clock, so the work is the same on every machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from usbferry import aio
from usbferry.aio import Handle
from usbferry.devices.video import test_card
from usbferry.devices.video.uvc import Coding, Request
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion, IsoPacket, Transfer

TICK: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
IN_FLIGHT: Final = 4  # transfers of a stream, as drivers have them
PICTURE_BYTES: Final = 200_000  # of a picture of 1080p, as webcams send them


class Row(NamedTuple):
    """One line of the result."""

    work: str
    cpu_percent: float | None  # of one core, the server's
    grown_kib: int | None  # resident memory from the first second to the end
    more: str


class Process(NamedTuple):
    """A server, and where it listens."""

    pid: int
    port: int

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def resident_kib(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE // 1024


@contextmanager
def server(*addresses: str) -> Iterator[Process]:
    command = [sys.executable, "-m", "usbferry", "serve", *addresses, "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"listening on 127\.0\.0\.1:(\d+)", line):
                yield Process(process.pid, int(found[1]))
                return
        raise RuntimeError("the server does not listen")
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


class Stream:
    """Keeps `IN_FLIGHT` transfers with a device, until it is stopped; `came` is called with each that ended."""

    def __init__(self, handle: Handle, make: Callable[[], Transfer], came: Callable[[Completion], None]) -> None:
        self._handle, self._make, self._came = handle, make, came
        self._stopped = False
        for _ in range(IN_FLIGHT):
            self._submit()

    def _submit(self) -> None:
        self._handle.submit(self._make()).add_done_callback(self._ended)

    def _ended(self, answer: asyncio.Future[Completion]) -> None:
        if self._stopped or answer.cancelled():
            return
        self._came(answer.result())
        self._submit()

    def stop(self) -> None:
        self._stopped = True


def packets(endpoint: int, count: int, length: int) -> Transfer:
    data = b"" if endpoint & 0x80 else bytes(count * length)
    return Transfer(endpoint, count * length, data, packets=[IsoPacket(n * length, length) for n in range(count)])


async def sound(handle: Handle, seen: dict[str, int]) -> list[Stream]:
    """A headset records and plays, eight packets of a millisecond in a transfer, and asks for feedback."""
    await handle.set_interface(1, 1)
    await handle.set_interface(2, 1)

    def came(completion: Completion) -> None:
        seen["frames"] = seen.get("frames", 0) + completion.actual // 4

    return [
        Stream(handle, lambda: packets(0x82, 8, 196), came),
        Stream(handle, lambda: packets(0x01, 8, 192), lambda completion: None),
        Stream(handle, lambda: packets(0x81, 1, 4), lambda completion: None),
    ]


async def pictures(handle: Handle, seen: dict[str, int]) -> list[Stream]:
    """A camera, 32 packets of a microframe in a transfer, as Linux takes them."""
    setup = Setup(0xA1, Request.GET_DEF, 0x0100, 1, 34)
    mode = await handle.request(setup)
    await handle.control(0x21, Request.SET_CUR, 0x0200, 1, mode)
    await handle.set_interface(1, 6)

    def came(completion: Completion) -> None:
        seen["bytes"] = seen.get("bytes", 0) + completion.actual

    return [Stream(handle, lambda: packets(0x81, 32, 3072), came)]


async def reports(handle: Handle, seen: dict[str, int], times: list[float]) -> list[Stream]:
    """An interrupt source, asked as often as the bus can."""
    await handle.set_interface(0, 1)
    return [Stream(handle, lambda: Transfer(0x84, 8), lambda completion: times.append(time.perf_counter()))]


Begin = Callable[[Handle, dict[str, int]], Awaitable[list[Stream]]]


async def measured(process: Process, count: int, begin: Begin, seconds: float) -> tuple[float, int, dict[str, int]]:
    """The server's share of a core, how much it grew, and what was seen."""
    seen: dict[str, int] = {}
    async with AsyncExitStack() as stack:
        streams = []
        for number in range(1, count + 1):
            handle = await stack.enter_async_context(await aio.open(f"usbip://127.0.0.1:{process.port}/1-{number}"))
            streams += await begin(handle, seen)
        await asyncio.sleep(1)
        seen.clear()
        cpu, resident, began = process.cpu_seconds(), process.resident_kib(), time.perf_counter()
        await asyncio.sleep(seconds)
        elapsed = time.perf_counter() - began
        share = 100 * (process.cpu_seconds() - cpu) / elapsed
        grown = process.resident_kib() - resident
        for stream in streams:
            stream.stop()
    return share, grown, {key: round(value / elapsed) for key, value in seen.items()}


def film(path: Path) -> None:
    """Ten pictures of 1080p; comments make them as large as real ones."""
    with path.open("wb") as file:
        for number in range(10):
            picture = test_card.card(number, 1920, 1080, Coding.MJPEG)
            padding = max(0, PICTURE_BYTES - len(picture))
            comments = b"".join(
                b"\xff\xfe" + (size + 2).to_bytes(2, "big") + bytes(size)
                for size in [60_000] * (padding // 60_000) + [padding % 60_000]
            )
            file.write(picture[:2] + comments + picture[2:])


def cost(work: str, addresses: Sequence[str], begin: Begin, seconds: float, unit: str) -> Row:
    with server(*addresses) as process:
        share, grown, seen = asyncio.run(measured(process, len(addresses), begin, seconds))
    return Row(
        work, round(share, 1), grown, ", ".join(f"{value:,} {key} a second" for key, value in seen.items()) + unit
    )


def period(speed: str, hertz: int, seconds: float) -> Row:
    times: list[float] = []

    async def begin(handle: Handle, seen: dict[str, int]) -> list[Stream]:
        return await reports(handle, seen, times)

    with server(f"virtual:zero?speed={speed}") as process:
        share, grown, _ = asyncio.run(measured(process, 1, begin, seconds))
    steps = sorted((b - a) * 1e3 for a, b in zip(times[hertz:], times[hertz + 1 :], strict=False))
    cuts = statistics.quantiles(steps, n=100)
    said = (
        f"{len(steps) / (times[-1] - times[hertz]):,.0f} a second; period p50 {cuts[49]:.3f} ms, p99 {cuts[98]:.3f} ms"
    )
    return Row(f"reports at {hertz} Hz", round(share, 1), grown, said)


def measure(seconds: float) -> Iterator[Row]:
    headset = "virtual:headset?source=tone:440&rates=48000"
    yield cost("stereo sound both ways", [headset], sound, seconds, "")
    yield cost("the same of eight devices", [headset] * 8, sound, seconds, "")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mjpeg"
        film(path)
        yield cost("1080p30 MJPEG", [f"virtual:camera?source=mjpeg:{path}"], pictures, seconds, "")
    yield period("full", 1000, seconds)
    yield period("high", 8000, seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--json", type=Path, help="write the rows there too")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for row in measure(options.seconds):
        sys.stdout.write(f"{row.work:28} {row.cpu_percent:6.1f} % of a core  {row.grown_kib:+6} KiB  {row.more}\n")
        sys.stdout.flush()
        rows.append(row._asdict())
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
