"""What a relay takes of each transfer: a server's answers with it on the way, and without.

    python bench/relay.py PORT BUSID LENGTH IN_FLIGHT SECONDS

This process is the relay, as `usbferry attach --relay` is; another one plays the kernel at the end of its socket pair,
and then with a socket to the server itself: bulk IN transfers of LENGTH bytes, as many in flight as it is told. Prints
JSON: "direct_us" and "relay_us" are the median times of a transfer, "added_us" what is between them, and "cpu_us" the
time that this process worked for each.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import struct
import sys
import time
from collections import deque
from collections.abc import Callable

from usbferry.backends import handover
from usbferry.backends.remote import RemoteSource
from usbferry.cli.serve import loop_factory
from usbferry.device import Claimant
from usbferry.local.relay import NAME, Relay

ENDPOINT = 1


class Wrong(Exception):
    """An answer that is not what was asked for."""


def play_kernel(end: socket.socket, devid: int, length: int, in_flight: int, seconds: float) -> list[float]:
    """Transfers until the time is over; how long each took, in microseconds."""
    end.setblocking(True)
    took, sent = [], deque[float]()
    started = now = time.perf_counter()
    answer = bytearray(48 + length)
    seqnum = 0
    while now - started < seconds or sent:
        batch = b""
        while len(sent) < in_flight and now - started < seconds:
            seqnum += 1
            head = (1, seqnum, devid, 1, ENDPOINT, 0x200, length, 0, 0, 0)
            batch += struct.pack(">10I8x", *head)
            sent.append(time.perf_counter())
        end.sendall(batch)
        got = end.recv_into(answer, len(answer), socket.MSG_WAITALL)
        now = time.perf_counter()
        if got != len(answer) or answer[:8] != struct.pack(">II", 3, seqnum - len(sent) + 1):
            raise Wrong(f"answered wrongly: {bytes(answer[:48]).hex()}")
        took.append((now - sent.popleft()) * 1e6)
    return took


async def in_a_process(work: Callable[[], list[float]]) -> list[float]:
    """What `work` gives in a process of its own, while this one goes on. Raises Wrong."""
    result, end = os.pipe()
    if os.fork() == 0:
        found: object = "it ended"
        try:
            found = work()
        except (Wrong, OSError) as error:
            found = str(error)
        finally:
            with os.fdopen(end, "w") as file:
                json.dump(found, file)
            os._exit(0)
    os.close(end)
    with os.fdopen(result) as file:
        told = json.loads(await asyncio.to_thread(file.read))
    await asyncio.to_thread(os.wait)
    if isinstance(told, str):
        raise Wrong(told)
    times: list[float] = told
    return times


async def compare(port: int, busid: str, length: int, in_flight: int, seconds: float) -> dict[str, float]:
    source = RemoteSource(f"usbip://127.0.0.1:{port}")
    connection, info = await handover.claim(source, busid)
    devid = info.bus << 16 | info.address
    with connection:
        direct = await in_a_process(lambda: play_kernel(connection, devid, length, in_flight, seconds))
    async with asyncio.TaskGroup() as tasks:
        relay = Relay(source.address, await source.open(busid, Claimant("local")))
        tasks.create_task(relay.run())
        with relay.theirs as end:
            info = await handover.claim_on(end, NAME, "the relay")
            devid = info.bus << 16 | info.address
            before = time.process_time()
            relayed = await in_a_process(lambda: play_kernel(end, devid, length, in_flight, seconds))
            worked = time.process_time() - before
        relay.stop()
    times = statistics.median(direct), statistics.median(relayed)
    return {
        "direct_us": times[0],
        "relay_us": times[1],
        "added_us": times[1] - times[0],
        "cpu_us": worked / len(relayed) * 1e6,
        "transfers": len(relayed),
    }


def main(port: str, busid: str, length: str, in_flight: str, seconds: str) -> None:
    with asyncio.Runner(loop_factory=loop_factory(os.environ.get("USBFERRY_LOOP", "auto"))) as runner:
        try:
            figures = runner.run(compare(int(port), busid, int(length), int(in_flight), float(seconds)))
        except* Wrong as wrong:
            raise SystemExit(f"relay: {wrong.exceptions[0]}") from None
    print(json.dumps({name: round(value, 1) for name, value in figures.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
