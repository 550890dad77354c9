"""What `load` does, done by usbferry's own client: one device opened, kept busy, every answer checked and counted.

    client.py PORT BUSID in|out ENDPOINT LENGTH DEPTH SECONDS      asyncio: DEPTH tasks, each one call after the other
    client.py PORT BUSID sync-in|sync-out ENDPOINT LENGTH 1 SECONDS      the synchronous API

It is written as a user's program would be, with the calls that the documents teach, and prints the line of JSON that
`load` prints. USBFERRY_LOOP=uvloop in the environment runs asyncio on that.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from time import perf_counter

import usbferry
from usbferry import aio
from usbferry.aio import TransferError
from usbferry.device import DeviceError


class Wrong(Exception):
    """An answer that is not what was asked for."""


class Result:
    """Each answer's time. `seconds` is from the first question to the last answer; open and close do not count."""

    def __init__(self, length: int) -> None:
        self.seconds = 0.0
        self._length = length
        self._times: list[float] = []

    def note(self, seconds: float, done: int) -> None:
        if done != self._length:
            raise Wrong(f"{done} bytes done of {self._length}")
        self._times.append(seconds)

    def figures(self) -> dict[str, float]:
        """As `load` prints them: `mean_us` is from one answer to the next, the percentiles each answer's own time."""
        times, seconds = sorted(self._times), self.seconds
        return {
            "answers": len(times),
            "seconds": seconds,
            "per_second": len(times) / seconds,
            "mb_per_second": len(times) * self._length / seconds / 1e6,
            "mean_us": seconds / len(times) * 1e6,
            "p50_us": times[len(times) // 2] * 1e6,
            "p99_us": times[len(times) * 99 // 100] * 1e6,
        }


async def in_flight(address: str, mode: str, endpoint: int, length: int, depth: int, seconds: float) -> Result:
    """Keep `depth` transfers in flight for `seconds`."""
    result, payload = Result(length), bytes(length)

    async def reads(device: aio.Handle, end: float) -> None:
        now = perf_counter()
        while now < end:
            since, done = now, len(await device.read(endpoint | 0x80, length))
            now = perf_counter()
            result.note(now - since, done)

    async def writes(device: aio.Handle, end: float) -> None:
        now = perf_counter()
        while now < end:
            since, done = now, await device.write(endpoint, payload)
            now = perf_counter()
            result.note(now - since, done)

    async with await aio.open(address) as device:
        start, work = perf_counter(), reads if mode == "in" else writes
        await asyncio.gather(*[work(device, start + seconds) for _ in range(depth)])
        result.seconds = perf_counter() - start
    return result


def one_by_one(address: str, mode: str, endpoint: int, length: int, seconds: float) -> Result:
    """One transfer after the other, with the synchronous API."""
    result, payload = Result(length), bytes(length)
    with usbferry.open(address) as device:
        start = now = perf_counter()
        while now < start + seconds:
            reads = mode == "sync-in"
            since, done = now, len(device.read(endpoint | 0x80, length)) if reads else device.write(endpoint, payload)
            now = perf_counter()
            result.note(now - since, done)
        result.seconds = now - start
    return result


def measure(port: str, busid: str, mode: str, endpoint: int, length: int, depth: int, seconds: float) -> Result:
    address = f"usbip://127.0.0.1:{port}/{busid}"
    if mode.startswith("sync-"):
        return one_by_one(address, mode, endpoint, length, seconds)
    factory = None
    if os.environ.get("USBFERRY_LOOP") == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(in_flight(address, mode, endpoint, length, depth, seconds))


def main(words: Sequence[str]) -> int:
    port, busid, mode, *numbers, seconds = words
    endpoint, length, depth = (int(number, 0) for number in numbers)
    try:
        result = measure(port, busid, mode, endpoint, length, depth, float(seconds))
    except (DeviceError, TransferError, Wrong) as error:
        print(f"client: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result.figures()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
