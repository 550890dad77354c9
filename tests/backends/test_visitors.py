"""`usbredir://:PORT` as a source: exporters connect to us, our own and such as do what they should not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import pytest

from tests.backends.test_redir import ME, control, done, until, use
from usbferry import aio
from usbferry.backends import redir
from usbferry.backends.redir import RedirSource
from usbferry.device import Busy, Change, DeviceError, NotFound, Source, Unavailable
from usbferry.protocols.usbredir.exporter import Exporter
from usbferry.registry import load_exporter, open_source
from usbferry.server import listen as server_listen
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving
from usbferry.usb import setup as requests
from usbferry.usb.transfer import Transfer
from usbferry.usb.types import Status

HERE = "usbredir://127.0.0.1:0?listen"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@asynccontextmanager
async def listening(address: str = HERE) -> AsyncIterator[RedirSource]:
    source = open_source(address)
    assert isinstance(source, RedirSource)
    assert await source.list() == []
    try:
        yield source
    finally:
        await source.close()


@asynccontextmanager
async def brought(source: RedirSource, *addresses: str) -> AsyncIterator[Catalog]:
    """A server that connects to `source` with the first of these devices."""
    catalog = Catalog()
    async with serving(catalog) as server:
        for address in addresses or ("virtual:zero",):
            await server.offer(open_source(address))
        server.connect_to(source.where, partial(Exporter, name="1-1"))
        yield catalog


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporters that were turned away, or lost their connection, come again at once."""
    monkeypatch.setattr(server_listen, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(server_listen, "MAX_RETRY_SECONDS", 0.05)


async def test_a_device_is_brought_used_and_used_again() -> None:
    async with listening() as source, brought(source):
        [info] = await source.find()
        assert source.at(info.name) == HERE
        for _ in range(2):
            device = await source.open(info.name, ME)
            assert [one.name for one in await source.list()] == [info.name]
            with pytest.raises(Busy, match=r"the device of 127.0.0.1:\d+ is in use here"):
                await source.open(info.name, ME)
            await use(device)
            await device.close()


async def test_an_exporter_that_is_there_first_is_waited_for(tmp_path: Path) -> None:
    """The Python API, over a socket file: it listens, and the exporter that tried in vain till then connects."""
    place = redir.parse(f"usbredir://{tmp_path}/sock", 4000)
    async with serving(Catalog()) as server:
        await server.offer(open_source("virtual:zero"))
        server.connect_to(place, Exporter)
        async with await aio.open(f"usbredir://{tmp_path}/sock?listen") as device:
            assert device.info.product == "Gadget Zero"
            assert len(await device.read(0x81, 512)) == 512


async def test_a_lost_connection_is_told_and_so_is_the_next() -> None:
    async with listening() as source:
        changes = source.watch()
        for _ in range(3):
            async with brought(source):
                arrived = await anext(changes)
                assert arrived.info is not None
                device = await source.open(arrived.name, ME)
                waits = device.submit(Transfer(0x82, 4))
            assert isinstance(waits, asyncio.Future)
            assert (await asyncio.wait_for(waits, 10)).status in (Status.GONE, Status.CANCELLED, Status.SHUTDOWN)
            assert await asyncio.wait_for(device.gone, 10) in ("the connection was closed", "the device was unplugged")
            assert await anext(changes) == Change(arrived.name, None)
            assert await source.list() == []
            await device.close()
            with pytest.raises(NotFound, match="nobody has brought a device"):
                await source.open(arrived.name, ME)


async def test_a_device_that_is_plugged_in_again_is_brought_again() -> None:
    async with listening() as source, brought(source, "virtual:zero?fault=vanish:0x01:away=0.05"):
        changes = source.watch()
        [info] = await source.find()
        device = await source.open(info.name, ME)
        assert (await done(device, Transfer(0x01, 1, b"x"))).status == Status.SHUTDOWN
        assert await asyncio.wait_for(device.gone, 10) == "the device was unplugged"
        while (await anext(changes)).info is not None:
            pass
        assert (await anext(changes)).info is not None
        await device.close()
        again = await source.open(info.name, ME)
        assert len((await done(again, Transfer(0x81, 4))).data) == 4
        await again.close()


async def test_settings_do_not_outlive_their_user() -> None:
    async with listening() as source, brought(source):
        [info] = await source.find()
        device = await source.open(info.name, ME)
        await control(device, requests.set_interface(0, 1))
        await device.close()
        again = await source.open(info.name, ME)
        assert again.info.alternates == {}
        assert (await control(again, requests.Setup(0x81, 10, 0, 0, 1))).data == b"\0"
        await again.close()


async def test_who_is_turned_away_is_spoken_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides said it twice a second."""

    def said(text: str, level: int) -> int:
        return sum(text in record.getMessage() and record.levelno == level for record in caplog.records)

    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(server_listen, "BRIEF_SECONDS", 60.0)
    away, closed = "turned away, another one's device is there", "was closed at once, trying on"
    async with listening() as source:
        changes = source.watch()
        for times in (1, 2):
            async with brought(source):
                assert (await anext(changes)).info is not None
                before = said(away, logging.DEBUG)
                async with brought(source):
                    await until(lambda before=before: said(away, logging.DEBUG) >= before + 3)
                assert (said(away, logging.WARNING), said(closed, logging.WARNING)) == (times, times)
            assert (await anext(changes)).info is None


async def test_two_that_wait_for_a_device_tell_each_other_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """One waited ten seconds for it, and the other for ever; who asks again is spoken of once."""
    async with listening() as source, asyncio.timeout(5):
        there = f"usbredir://{source.where}"
        for ask in (open_source(there).list(), open_source(there).open("", ME)):
            with pytest.raises(Unavailable) as raised:
                await ask
            why = "it waits for a device itself (usbferry usb-guest)"
            assert str(raised.value) == f"{source.where}: {why}; usbferry serve ADDRESS --to {there} brings it one"
        assert await source.list() == []
    [said] = warnings(caplog)
    assert said.endswith(f": turned away, {why}; usbferry serve ADDRESS --on is for it")


async def test_a_stranger_who_comes_again_and_again_is_spoken_of_once(caplog: pytest.LogCaptureFixture) -> None:
    async with listening() as source, asyncio.timeout(5):
        for _ in range(3):
            reader, writer = await asyncio.open_connection(source.where.host, source.where.port)
            with closing(writer):
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
                await reader.read()  # a hello, and it is closed
    [said] = warnings(caplog)
    assert "it does not speak usbredir, it says 'GET / HTTP/1.1'; to this port come those who bring" in said


async def test_a_second_device_waits_until_the_first_has_left() -> None:
    async with listening() as source:
        changes = source.watch()
        async with brought(source):
            first = await anext(changes)
            async with brought(source, "virtual:keyboard") as other:
                await asyncio.sleep(0.1)  # it is turned away, again and again
                assert [offer.holder for offer in other.list()] == [None]
                assert [one.name for one in await source.list()] == [first.name]
                device = await source.open(first.name, ME)
                await use(device)
                await device.close()
        assert await anext(changes) == Change(first.name, None)


async def test_who_brings_nothing_makes_room_for_who_does() -> None:
    """One that says nothing, one that says nonsense."""
    async with listening() as source:
        silent = await asyncio.open_connection(source.where.host, source.where.port)
        loud = await asyncio.open_connection(source.where.host, source.where.port)
        loud[1].write(b"GET / HTTP/1.1\r\n\r\n" * 100)
        async with brought(source):
            [info] = await asyncio.wait_for(source.find(), 10)
            device = await source.open(info.name, ME)
            await use(device)
            await device.close()
        for reader, writer in (silent, loud):
            with closing(writer):
                await asyncio.wait_for(reader.read(), 10)  # it is closed


async def test_a_gateway_offers_what_is_brought_and_again_after_the_loss() -> None:
    """usbredir comes in by a listening place, USB/IP goes out; the device keeps its bus id."""
    source = open_source(HERE)
    assert isinstance(source, RedirSource)
    async with serving(Catalog()) as gateway:
        assert await gateway.offer(source) == []
        [(host, port)] = await gateway.listen("127.0.0.1", 0, load_exporter("usbip"))
        for _ in range(2):
            async with brought(source):
                await until(lambda: bool(gateway.catalog.list()))
                async with await aio.open(f"usbip://{host}:{port}/1-1") as device:
                    await use(device.device)
            await until(lambda: not gateway.catalog.list())


async def test_nobody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redir, "VISIT_SECONDS", 0.05)
    async with listening() as source:
        port = source.where.port
        remedy = f"run: usbredirect --to HOST:{port}, or usbferry serve ADDRESS --to usbredir://HOST:{port}"
        with pytest.raises(NotFound, match=remedy):
            await source.find()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer), pytest.raises(NotFound, match=rf"who connected to 127.0.0.1:{port} has offered no dev"):
            await source.find()


async def test_a_port_that_cannot_be_had() -> None:
    async with listening() as source:
        other: Source = open_source(f"usbredir://127.0.0.1:{source.where.port}?listen")
        with pytest.raises(DeviceError, match=r"cannot listen on 127.0.0.1:\d+: the port is in use; choose another"):
            await other.list()
        await other.close()
