"""A client as a process, for `test_lost`: it uses six devices in six ways, and says when it hears that each is gone.

python -m tests.backends.losing HOST PORT    says "ready" once all of them work, then a line of JSON for each that goes
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

import usbferry
from usbferry import aio

WAYS = ("idle", "parked", "reading", "writing", "synchronous, idle", "synchronous, parked")
WARM = 100  # transfers before a way counts as working


class Ways:
    """Each way returns once its device is gone, with the words for it. `working` hears when it has begun."""

    def __init__(self, server: str, working: Callable[[], None]) -> None:
        self._server = server
        self._working = working

    async def use(self, place: int) -> None:
        name, address = WAYS[place], f"{self._server}/1-{place + 1}"
        if name.startswith("synchronous"):
            told = await asyncio.to_thread(self._synchronous, name, address)
        else:
            async with await aio.open(address) as device:
                told = await self._asynchronous(name, device)
        print(json.dumps([name, time.monotonic(), told]), flush=True)  # noqa: T201

    async def _asynchronous(self, name: str, device: aio.Handle) -> str:
        match name:
            case "idle":
                self._working()
                return await device.wait_gone()
            case "parked":
                return await self._parked(device)
            case "reading":
                return await self._busy(lambda: device.read(0x81, 65536))
            case _:
                return await self._busy(lambda: device.write(0x01, bytes(65536)))

    async def _parked(self, device: aio.Handle) -> str:
        self._working()
        try:
            await device.read(0x82, 64)
        except aio.DeviceGone as error:
            return str(error)
        raise AssertionError("it was to wait for ever")

    async def _busy(self, transfer: Callable[[], Awaitable[object]]) -> str:
        """Much, and many at the same time."""
        left = WARM

        async def work() -> None:
            nonlocal left
            while True:
                await transfer()
                left -= 1
                if left == 0:
                    self._working()

        found = await asyncio.gather(*[work() for _ in range(16)], return_exceptions=True)
        assert {type(error) for error in found} == {aio.DeviceGone}, found
        return str(found[0])

    def _synchronous(self, name: str, address: str) -> str:
        with usbferry.open(address) as device:
            device.read(0x81, 8)
            self._working()
            try:
                if name.endswith("parked"):
                    device.read(0x82, 64)
                while not device.is_gone:
                    time.sleep(0.01)
                device.read(0x81, 8)
            except aio.DeviceGone as error:
                return str(error)
        raise AssertionError("it was to be gone")


async def main(host: str, port: str) -> None:
    loop, ready, count = asyncio.get_running_loop(), asyncio.Event(), 0

    def working() -> None:
        nonlocal count
        count += 1
        if count == len(WAYS):
            ready.set()

    ways = Ways(f"usbip://{host}:{port}", lambda: loop.call_soon_threadsafe(working))
    async with asyncio.TaskGroup() as tasks:
        for place in range(len(WAYS)):
            tasks.create_task(ways.use(place))
        await ready.wait()
        print("ready", flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
