"""Bulk streams of a remote device: set up, used and given back over every protocol that has them, and over gateways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.backends.test_redir import ME, done
from usbferry.device import Claimant, Device, Source
from usbferry.local.relay import Counted
from usbferry.registry import load_exporter, open_source
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving
from usbferry.usb.info import DeviceInfo
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status

LARGE = 3 << 20  # bytes: goes in pieces


class Striped(Counted):
    """Each read brings the number of its stream; reads of stream 7 wait. `said` is what was asked of the streams."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.said: list[tuple[str, tuple[int, ...], int]] = []

    def submit(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        if transfer.endpoint != 0x81:
            return super().submit(transfer)
        if transfer.stream_id == 7:
            return asyncio.get_running_loop().create_future()
        return Completion(Status.OK, bytes([transfer.stream_id]) * transfer.length)

    def alloc_streams(self, endpoints: tuple[int, ...], count: int) -> Completion:
        self.said.append(("alloc", endpoints, count))
        return Completion(Status.NO_MEMORY if count > 16 else Status.OK)

    def free_streams(self, endpoints: tuple[int, ...]) -> Completion:
        self.said.append(("free", endpoints, 0))
        return Completion(Status.OK)


class OneSource(Source):
    """One Striped."""

    address = "striped:"

    def __init__(self) -> None:
        self._zero = open_source("virtual:zero")
        self.device: Striped

    async def list(self) -> list[DeviceInfo]:
        return await self._zero.list()

    async def open(self, name: str, claimant: Claimant) -> Device:
        self.device = Striped(await self._zero.open(name, claimant))
        return self.device

    async def close(self) -> None:
        await self._zero.close()


@asynccontextmanager
async def offered(source: Source, protocol: str) -> AsyncIterator[str]:
    async with serving(Catalog()) as server:
        await server.offer(source)
        [(host, port)] = await server.listen("127.0.0.1", 0, load_exporter(protocol))
        yield f"{protocol}://{host}:{port}"


async def use(device: Device, first: OneSource) -> None:
    async def answer(one: Completion | asyncio.Future[Completion]) -> Completion:
        return one if isinstance(one, Completion) else await asyncio.wait_for(one, 10)

    assert (await answer(device.alloc_streams((0x81, 0x01), 16))).status == Status.OK
    assert (await answer(device.alloc_streams((0x81,), 17))).status not in (Status.OK, Status.SHORT)
    assert (await answer(device.alloc_streams((0x81,), 0))).status == Status.INVALID
    parked = device.submit(Transfer(0x81, LARGE, stream_id=7))
    for number in (3, 1, 2):
        assert (await done(device, Transfer(0x81, 5, stream_id=number))).data == bytes([number]) * 5
    large = await done(device, Transfer(0x81, LARGE, stream_id=9))
    assert large.data == b"\x09" * LARGE  # in pieces, which another stream does not hold up
    assert isinstance(parked, asyncio.Future)
    assert not parked.done()
    assert (await answer(device.free_streams((0x81, 0x01)))).status == Status.OK
    assert [(what, sorted(where), count) for what, where, count in first.device.said] == [
        ("alloc", [0x01, 0x81], 16),
        ("alloc", [0x81], 17),
        ("free", [0x01, 0x81], 0),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("chain", [["usbredir"], ["ferry"], ["usbredir", "ferry"], ["ferry", "usbredir", "usbredir"]])
async def test_streams_cross_every_protocol_that_has_them(chain: list[str]) -> None:
    first = OneSource()
    source: Source = first
    async with asyncio.timeout(30), AsyncExitStack() as gateways:
        for protocol in chain:
            source = open_source(await gateways.enter_async_context(offered(source, protocol)))
        [info] = await source.list()
        device = await source.open(info.name, ME)
        await use(device, first)
        await device.close()
        await source.close()


async def test_usbip_has_no_streams() -> None:
    async with offered(OneSource(), "usbip") as address:
        source = open_source(address)
        [info] = await source.list()
        device = await source.open(info.name, ME)
        answer = device.alloc_streams((0x81,), 4)
        assert isinstance(answer, Completion)
        assert answer.status == Status.INVALID
        await device.close()
        answer = device.free_streams((0x81,))
        assert isinstance(answer, Completion)
        assert answer.status == Status.SHUTDOWN
        await source.close()
