"""A device over ferry, on real sockets through a proxy that cuts: whoever uses it loses nothing but time.

Gadget Zero's loopback gives back what was written, once and in order, so a transfer that was lost or done twice shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from usbferry.backends import lasting
from usbferry.backends.connection import Connection
from usbferry.backends.imported import RemoteDevice
from usbferry.device import Busy, Claimant, DeviceError, NotFound
from usbferry.protocols.limits import Limits
from usbferry.registry import load_exporter, open_source
from usbferry.server.catalog import Catalog
from usbferry.server.listen import Server, serving
from usbferry.usb.setup import Setup, set_interface
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status

ME = Claimant("local")
SECONDS = 20.0


@dataclass
class Proxy:
    """Passes bytes between a client and the server; `cut` resets both sides, in the middle of whatever is under way."""

    port: int  # of the server
    where: str = ""
    pairs: list[asyncio.StreamWriter] = field(default_factory=list)
    budget: int | None = None  # bytes that still pass before the next cut
    cuts: int = 0
    refuses: bool = False
    mute: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.pairs += [writer, far_writer]
        with contextlib.suppress(ConnectionError):
            async with asyncio.TaskGroup() as group:
                group.create_task(self.copy(reader, far_writer))
                group.create_task(self.copy(far_reader, writer))

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.mute:
                    continue
                if self.budget is not None:
                    data, over = data[: self.budget], len(data) > self.budget
                    self.budget -= len(data)
                    writer.write(data)
                    if over:
                        self.cut()
                        return
                else:
                    writer.write(data)
                await writer.drain()
        writer.close()

    def cut(self) -> None:
        self.cuts += 1
        self.budget = None
        pairs, self.pairs = self.pairs, []
        for writer in pairs:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def ferried(limits: Limits | None = None) -> AsyncIterator[tuple[Server, Proxy]]:
    async with serving(Catalog(), limits or Limits(heartbeat_seconds=5, grace_seconds=5)) as server:
        await server.offer(open_source("virtual:zero"))
        [(_, port)] = await server.listen("127.0.0.1", 0, load_exporter("ferry"))
        proxy = Proxy(port)
        listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
        proxy.where = f"ferry://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        try:
            yield server, proxy
        finally:
            proxy.cut()
            listening.close()


@contextlib.asynccontextmanager
async def opened(where: str) -> AsyncIterator[RemoteDevice]:
    source = open_source(where)
    device = await source.open("1-1", ME)
    assert isinstance(device, RemoteDevice)
    try:
        yield device
    finally:
        await device.close()
        await source.close()


async def done(answer: Completion | asyncio.Future[Completion]) -> Completion:
    async with asyncio.timeout(SECONDS):
        return answer if isinstance(answer, Completion) else await answer


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(int(SECONDS * 1000)):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it does not come to that")


async def until_free(server: Server) -> None:
    await until(lambda: server.catalog.list()[0].holder is None)


async def until_lost(device: RemoteDevice) -> None:
    await until(lambda: device._connection._link is None)


async def test_a_device_over_ferry() -> None:
    async with ferried() as (server, proxy):
        [info] = await open_source(proxy.where).list()
        assert (info.name, info.product, info.holder) == ("1-1", "Gadget Zero", "")
        assert [e.address for e in info.interfaces[0].endpoints] == [0x81, 0x01, 0x82, 0x02]
        async with opened(proxy.where) as device:
            assert (device.info.product, device.info.configuration) == ("Gadget Zero", 1)
            assert len((await done(device.submit(Transfer(0x81, 300_000)))).data) == 300_000
            [info] = await open_source(proxy.where).list()
            assert info.holder.startswith("127.0.0.1:")
            with pytest.raises(Busy):
                await open_source(proxy.where).try_open("1-1", ME)
        await until_free(server)
        with pytest.raises(NotFound):
            await open_source(proxy.where).open("9-9", ME)


@pytest.mark.slow
async def test_who_comes_and_goes_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "usbferry.server.pump")

    def said() -> list[str]:
        return [re.sub(r"127\.0\.0\.1:\d+", "HIM", record.getMessage()) for record in caplog.records]

    async with ferried(Limits(heartbeat_seconds=5, grace_seconds=1)) as (server, proxy):
        async with opened(proxy.where) as device:
            proxy.cut()
            assert len((await done(device.submit(Transfer(0x81, 512)))).data) == 512
        await until_free(server)
        lost = ["1-1 waits for HIM, whose connection is lost", "1-1 goes on with HIM"]
        assert said() == ["1-1 imported by HIM", *lost, "1-1 released by HIM"]
        caplog.clear()
        async with opened(proxy.where) as device:
            proxy.refuses = True
            proxy.cut()
            await until_free(server)
        assert said() == ["1-1 imported by HIM", lost[0], "1-1 released by HIM"], "for nobody came back"


async def test_every_transfer_once_however_often_the_connection_is_cut() -> None:
    rng = random.Random(1)
    messages = [bytes([n % 256]) * rng.choice((1, 512, 5000, 200_000)) for n in range(120)]
    async with ferried() as (_, proxy), opened(proxy.where) as device:
        reads = [device.submit(Transfer(0x82, 200_000)) for _ in messages[:40]]
        got = []
        for number, message in enumerate(messages):
            if number % 6 == 3:
                proxy.budget = rng.randrange(30_000)  # then it is cut, in a record or between two
            assert await done(device.submit(Transfer(0x02, len(message), message))) is not None
            completion = await done(reads.pop(0))
            assert completion.status == Status.OK
            got.append(bytes(completion.data))
            if number + 40 < len(messages):
                reads.append(device.submit(Transfer(0x82, 200_000)))
        assert [(len(one), one[:1]) for one in got] == [(len(one), one[:1]) for one in messages]
        assert got == messages
        assert proxy.cuts >= 10


async def test_a_pipeline_of_writes_over_cuts() -> None:
    rng = random.Random(2)
    messages = [n.to_bytes(4, "big") * rng.choice((1, 100)) for n in range(400)]
    async with ferried() as (_, proxy), opened(proxy.where) as device:
        reads = [device.submit(Transfer(0x82, 4096)) for _ in messages]
        proxy.budget = 20_000
        writes = []
        for number, message in enumerate(messages):
            writes.append(device.submit(Transfer(0x02, len(message), message)))
            if number % 100 == 0:
                await asyncio.sleep(0)
                proxy.budget = proxy.budget or rng.randrange(5000)
        assert {(await done(write)).status for write in writes} == {Status.OK}
        assert [bytes((await done(read)).data) for read in reads] == messages
        assert proxy.cuts


async def test_a_cancel_while_there_is_no_connection() -> None:
    async with ferried() as (_, proxy), opened(proxy.where) as device:
        sent = Transfer(0x82, 512)
        answer = device.submit(sent)
        await asyncio.sleep(0)
        proxy.refuses = True
        proxy.cut()
        await until_lost(device)
        device.cancel(sent)
        late = Transfer(0x82, 512)
        never_left = device.submit(late)
        device.cancel(late)
        assert (await done(never_left)).status == Status.CANCELLED
        proxy.refuses = False
        assert (await done(answer)).status == Status.CANCELLED
        assert len((await done(device.submit(Transfer(0x81, 100)))).data) == 100


@pytest.mark.slow
async def test_a_device_that_is_given_back_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server gives up after its grace time, and so does who cannot reach it."""
    monkeypatch.setattr(lasting, "LAST_PAUSE", 0.1)
    async with ferried(Limits(grace_seconds=1)) as (server, proxy), opened(proxy.where) as device:
        answer = device.submit(Transfer(0x82, 512))
        await asyncio.sleep(0)
        proxy.refuses = True
        proxy.cut()
        assert (await done(answer)).status == Status.GONE
        assert await device.gone == "no connection to the server for 1 s"
        await until_free(server)


async def test_a_server_that_was_started_again() -> None:
    async with ferried() as (_, first), opened(first.where) as device:
        answer = device.submit(Transfer(0x82, 512))
        await asyncio.sleep(0)
        async with ferried() as (_, second):
            first.port = second.port
            first.cut()
            assert (await done(answer)).status == Status.GONE
            assert await device.gone == "the server has given the device up, or was started again"


async def test_a_device_that_leaves() -> None:
    async with ferried() as (server, proxy), opened(proxy.where) as device:
        answer = device.submit(Transfer(0x82, 512))
        await asyncio.sleep(0)
        server.catalog.list()[0].device.vanish("unplugged")  # type: ignore[union-attr]
        assert (await done(answer)).status == Status.GONE
        async with asyncio.timeout(SECONDS):
            assert await device.gone == "the device has left the server"


@pytest.mark.slow
async def test_a_connection_that_is_silent_is_replaced() -> None:
    """As a network does that loses its route: nothing is closed, nothing comes."""
    async with ferried(Limits(heartbeat_seconds=1, grace_seconds=30)) as (_, proxy), opened(proxy.where) as device:
        proxy.mute = True
        answer = device.submit(Transfer(0x81, 100))
        await until_lost(device)
        proxy.mute = False
        assert len((await done(answer)).data) == 100


async def test_a_server_that_grants_less_than_a_packet() -> None:
    async with ferried(Limits(transfer_bytes=300)) as (_, proxy):
        with pytest.raises(DeviceError, match=r"it broke ferry: version 1, 2048 calls, 300 bytes of a transfer"):
            await open_source(proxy.where).open("1-1", ME)


@pytest.mark.parametrize("late", ["times out", "does not end"])
async def test_a_connection_that_comes_when_its_time_is_over(late: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was there, and another was made beside it; or it was lost, and two at once made the next."""
    tries = over = 0
    async with ferried() as (_, proxy), opened(proxy.where) as device:
        connection = device._connection
        assert isinstance(connection, lasting.LastingConnection)
        connect = connection._connect

        async def slowly(connection: Connection) -> None:
            nonlocal tries, over
            tries += 1
            await connect(connection)
            if late == "times out":
                raise TimeoutError
            try:
                await asyncio.Event().wait()
            finally:
                over += 1

        monkeypatch.setattr(connection, "_connect", slowly)
        for cut in range(1, 4):
            proxy.cut()
            await until(lambda wanted=cut: tries >= wanted)  # type: ignore[misc]
            assert len((await done(device.submit(Transfer(0x81, 100)))).data) == 100
            await asyncio.sleep(3 * lasting.FIRST_PAUSE / 2)  # long enough for one try too many
            assert (tries, over) == (cut, cut - 1 if late == "does not end" else 0)
        assert len((await done(device.submit(Transfer(0x81, 100)))).data) == 100


async def test_what_a_server_does_not_take_ends_though_it_had_to_wait() -> None:
    """An exception in the callback that lets it go lost it, and all that waited behind it."""
    vendor = Transfer(0x80, 2000, b"", Setup(0xC0, 0x77, length=2000).pack())
    async with ferried(Limits(transfer_bytes=1024)) as (_, proxy), opened(proxy.where) as device:
        assert (await done(device.submit(vendor))).status == Status.NO_MEMORY
        setting = device.submit(Transfer(0, 0, b"", set_interface(0, 0).pack()))
        first = device.submit(Transfer(0x81, 8))
        waiting = device.submit(Transfer(0, 0, b"", set_interface(0, 1).pack()))
        large, small = device.submit(vendor), device.submit(Transfer(0x81, 8))
        assert not any(isinstance(answer, Completion) for answer in (setting, first, waiting, large, small))
        ends = [await done(answer) for answer in (setting, first, waiting, large, small)]
        assert [end.status for end in ends] == [Status.OK, Status.OK, Status.OK, Status.NO_MEMORY, Status.OK]


async def test_closing_while_there_is_no_connection() -> None:
    async with ferried() as (_, proxy):
        async with opened(proxy.where) as device:
            answer = device.submit(Transfer(0x82, 512))
            await asyncio.sleep(0)
            proxy.refuses = True
            proxy.cut()
            await asyncio.sleep(0.01)
        assert (await done(answer)).status == Status.SHUTDOWN


@pytest.mark.skipif(sys.platform != "linux", reason="timerfd")
async def test_closing_while_there_is_no_connection_keeps_no_file() -> None:
    """Its heartbeat's timer stayed open until it would have come."""
    async with ferried(Limits(heartbeat_seconds=3600, grace_seconds=3600)) as (_, proxy):
        async with opened(proxy.where) as device:
            clock = device._connection._clock
            assert clock._fine is not None
            proxy.refuses = True
            proxy.cut()
            await until_lost(device)
        assert clock._fine is None
