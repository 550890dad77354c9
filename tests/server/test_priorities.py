"""A bulk flood, and sound or an interrupt endpoint, on one connection of ferry; a fast controller and a slow device."""

from __future__ import annotations

import asyncio
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from bench import jitter
from bench.bus import BULK_IN, BULK_OUT
from tests.server.process import Process
from usbferry import aio
from usbferry.device import Claimant, Device
from usbferry.registry import open_source
from usbferry.usb.setup import set_interface
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status

FLOOD, INTERRUPTS = 0x81, 0x84
DEPTH, LENGTH = 16, 64 * 1024  # of the flood, as a disk is read
LARGE = 1024 * 1024  # as it is read by what looks far ahead
INTERVAL = 0.001  # seconds
SECONDS = 0.25  # of one measurement
TRIES = 12  # on a busy machine: one of them has both CPUs
MOST = 0.002  # seconds


async def end(answer: Completion | asyncio.Future[Completion]) -> Completion:
    completion = answer if isinstance(answer, Completion) else await answer
    assert completion.status == Status.OK
    return completion


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Process, Device]]:
    """A Gadget Zero in another process, with its periodic endpoints."""
    with Process("--on", "ferry://127.0.0.1:0", "virtual:zero") as server:
        while (found := re.search(r"ferry://127\.0\.0\.1:\d+", server.said())) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        source = open_source(found[0])
        device = await source.open("1-1", Claimant("local"))
        try:
            await end(device.submit(Transfer(0, 0, b"", set_interface(0, 1).pack())))
            yield server, device
        finally:
            await device.close()
            await source.close()


@asynccontextmanager
async def flooded(work: Callable[[], Awaitable[object]]) -> AsyncIterator[list[int]]:
    """DEPTH of it at any time; how many were done."""
    done, goes_on = [0], True

    async def one() -> None:
        while goes_on:
            await work()
            done[0] += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(DEPTH):
            tasks.create_task(one())
        yield done
        goes_on = False


async def latency(device: Device) -> float:
    """The median of some interrupt transfers, one each millisecond."""
    took, until = list[float](), time.perf_counter() + SECONDS
    while (began := time.perf_counter()) < until:
        await end(device.submit(Transfer(INTERRUPTS, 64)))
        took.append(time.perf_counter() - began)
        await asyncio.sleep(INTERVAL)
    return statistics.median(took)


@pytest.mark.alone
@pytest.mark.parametrize("length", [LENGTH, LARGE])
@pytest.mark.parametrize("way", ["in", "out"])
async def test_a_bulk_flood_does_not_hold_up_interrupts(way: str, length: int) -> None:
    """Beside large transfers too, unless the machine is so busy that three of them take longer."""
    payload = bytes(length)
    async with served() as (_, device):

        def flood() -> Awaitable[Completion]:
            is_in = way == "in"
            return end(device.submit(Transfer(FLOOD if is_in else 0x01, length, b"" if is_in else payload)))

        medians, mosts = [], []
        async with flooded(flood) as done:
            for _ in range(TRIES):
                before, began = done[0], time.perf_counter()
                medians.append(await latency(device))
                each = (time.perf_counter() - began) / max(done[0] - before, 1)
                mosts.append(max(MOST, 3 * each) if length == LARGE else MOST)
                if medians[-1] < mosts[-1]:
                    break
        assert done[0] > (30 if length == LARGE else 100), "that was no flood"
        assert medians[-1] < mosts[-1], (medians, mosts)


@pytest.mark.alone
async def test_a_fast_controller_of_a_slow_device_costs_no_memory() -> None:
    """More than the device does in a second waits for it, again and again."""
    async with served() as (server, device):

        async def many() -> None:
            reads = [end(device.submit(Transfer(INTERRUPTS, 512))) for _ in range(1500)]  # 8,000 a second
            writes = [end(device.submit(Transfer(0x01, 4096, bytes(4096)))) for _ in range(500)]
            await asyncio.gather(*reads, *writes)

        await many()
        before = server.memory()
        for _ in range(8):
            await many()
        assert server.memory() < before + (8 << 20)


@pytest.mark.alone
@pytest.mark.timeout(150)
async def test_sound_is_whole_beside_a_bulk_flood_on_one_connection() -> None:
    """On a bus that does not wait no millisecond is lost, neither recorded nor played, and all are in order."""
    payload, missing = bytes(LENGTH), []
    for _ in range(TRIES):
        command = [sys.executable, jitter.__file__, "serve", "ferry://127.0.0.1:0", "0"]
        server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        [where] = await jitter.line(server, 30)
        async with await aio.open(f"{where}/1-1?buffer=0.2") as headset:
            await headset.set_interface(1, 1)
            await headset.set_interface(2, 1)
            recording = jitter.Recording(headset)
            jitter.Playing(headset)

            def flood(device: Device = headset.device) -> Awaitable[Completion]:
                into, out = Transfer(BULK_IN, LENGTH), Transfer(BULK_OUT, LENGTH, payload)
                return asyncio.gather(end(device.submit(into)), end(device.submit(out)))

            async with flooded(flood) as done:
                await asyncio.sleep(jitter.WARMING + 1)
        server.terminate()
        played = await jitter.line(server, 30)
        await server.wait()
        assert done[0] > 100, "that was no flood"
        assert all(a < b for a, b in pairwise(recording.numbers)), "recorded, and not in order"
        missing.append((jitter.judged(recording.numbers, recording.late)[0], played[0]))
        if missing[-1] == (0, 0):
            break
    assert missing[-1] == (0, 0), missing
    assert len(recording.numbers) > 500
