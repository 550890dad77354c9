"""A bulk flood and an interrupt endpoint on one connection of ferry; a fast controller and a slow device."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.server.process import Process
from usbferry.device import Claimant, Device
from usbferry.registry import open_source
from usbferry.usb.setup import set_interface
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status

FLOOD, INTERRUPTS = 0x81, 0x84
DEPTH, LENGTH = 16, 64 * 1024  # of the flood, as a disk is read
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


@pytest.mark.slow
@pytest.mark.parametrize("way", ["in", "out"])
async def test_a_bulk_flood_does_not_hold_up_interrupts(way: str) -> None:
    payload = bytes(LENGTH)
    async with served() as (_, device):

        def flood() -> Awaitable[Completion]:
            is_in = way == "in"
            return end(device.submit(Transfer(FLOOD if is_in else 0x01, LENGTH, b"" if is_in else payload)))

        medians = []
        async with flooded(flood) as done:
            for _ in range(TRIES):
                medians.append(await latency(device))
                if medians[-1] < MOST:
                    break
        assert done[0] > 100, "that was no flood"
        assert min(medians) < MOST, medians


@pytest.mark.slow
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
