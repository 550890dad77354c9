"""`usbredir://` as a source, against our own server: both sides of the protocol over real sockets, and gateways."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from usbferry.backends import redir
from usbferry.device import Busy, Claimant, Device, DeviceError, ResetOutcome, Unavailable
from usbferry.protocols.usbredir.exporter import Exporter
from usbferry.protocols.usbredir.messages import ALL_CAPABILITIES, Capability
from usbferry.registry import load_exporter, open_source
from usbferry.server import listen as server_listen
from usbferry.server.catalog import Catalog
from usbferry.server.listen import Server, serving
from usbferry.transports.place import Place
from usbferry.usb import setup as requests
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion, IsoPacket, Transfer
from usbferry.usb.types import Status

ME = Claimant("local")
LOCAL = Place("127.0.0.1", 0)


@asynccontextmanager
async def served(*addresses: str, **options: object) -> AsyncIterator[tuple[Server, str]]:
    """A server with these devices, the first over usbredir; and its address."""
    async with serving(Catalog()) as server:
        for address in addresses:
            await server.offer(open_source(address))
        [place] = await server.listen_at(LOCAL, partial(Exporter, name="1-1", **options))
        yield server, f"usbredir://{place}"


@asynccontextmanager
async def opened(address: str) -> AsyncIterator[Device]:
    source = open_source(address)
    [info] = await source.list()
    device = await source.open(info.name, ME)
    try:
        yield device
    finally:
        await device.close()
        await source.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  (nobody tells)
            await asyncio.sleep(0.01)


async def done(device: Device, transfer: Transfer) -> Completion:
    answer = device.submit(transfer)
    return answer if isinstance(answer, Completion) else await asyncio.wait_for(answer, 10)


async def control(device: Device, setup: Setup, data: bytes = b"") -> Completion:
    is_in = setup.is_in
    return await done(device, Transfer(0x80 if is_in else 0, setup.length, data, setup.pack()))


async def use(device: Device) -> None:
    """Everything that Gadget Zero can, once."""
    assert device.info.product == "Gadget Zero"
    assert device.info.configuration == 1
    assert (await control(device, requests.set_interface(0, 1))).status == Status.OK
    assert (await control(device, Setup(0x81, 10, 0, 0, 1))).data == b"\1"
    payload = bytes(range(256)) * 8192  # 2 MiB: in pieces
    out = await done(device, Transfer(0x01, len(payload), payload))
    assert (out.status, out.actual) == (Status.OK, len(payload))
    assert len((await done(device, Transfer(0x81, 100_000))).data) == 100_000
    looped = asyncio.ensure_future(done(device, Transfer(0x82, 512)))  # noqa: TID251
    await done(device, Transfer(0x02, 3, b"abc"))
    assert (await looped).data == b"abc"
    assert len((await done(device, Transfer(0x84, 1000))).data) == 1000
    assert (await done(device, Transfer(0x04, 1000, bytes(1000)))).actual == 1000
    assert (await control(device, Setup(0x40, 0x99))).status == Status.STALL
    await control(device, Setup(0x40, 0x5B, length=4), b"kept")
    assert (await control(device, Setup(0xC0, 0x5C, length=4))).data == b"kept"
    halt = Setup(0x02, 3, 0, 0x81)
    assert (await control(device, halt)).status == Status.OK
    assert (await done(device, Transfer(0x81, 4))).status == Status.STALL
    assert (await control(device, requests.clear_halt(0x81))).status == Status.OK
    assert (await done(device, Transfer(0x81, 4))).status == Status.OK
    waits = Transfer(0x82, 4)
    waiting = device.submit(waits)
    assert isinstance(waiting, asyncio.Future)
    device.cancel(waits)
    assert (await waiting).status == Status.CANCELLED
    assert await device.reset() is ResetOutcome.SAME
    assert len((await done(device, Transfer(0x81, 4))).data) == 4


async def iso(device: Device) -> None:
    await control(device, requests.set_interface(0, 1))
    packets = [IsoPacket(n * 1024, 1024) for n in range(8)]
    reads = [device.submit(Transfer(0x83, 8192, packets=list(packets))) for _ in range(9)]
    writes = [device.submit(Transfer(0x03, 8192, bytes(8192), packets=list(packets))) for _ in range(9)]
    for answer in (*reads, *writes):
        assert isinstance(answer, asyncio.Future)
        completion = await asyncio.wait_for(answer, 10)
        assert (completion.status, completion.actual) == (Status.OK, 8192)


@pytest.mark.parametrize("missing", [None, *Capability], ids=lambda one: "none" if one is None else one.name)
async def test_a_device_with_and_without_each_capability(missing: Capability | None) -> None:
    options = {"capabilities": ALL_CAPABILITIES - {missing}}
    async with served("virtual:zero", **options) as (_, address), opened(address) as device:
        await use(device)


async def test_isochronous_streams_both_ways() -> None:
    async with served("virtual:zero") as (_, address), opened(address) as device:
        await iso(device)


async def test_a_gateway_from_usbip_to_usbredir() -> None:
    async with serving(Catalog()) as far:
        await far.offer(open_source("virtual:zero"))
        [(host, port)] = await far.listen("127.0.0.1", 0, load_exporter("usbip"))
        async with served(f"usbip://{host}:{port}") as (_, address), opened(address) as device:
            await use(device)


async def test_a_gateway_from_usbredir_to_usbip_and_a_chain_of_two() -> None:
    async with served("virtual:zero") as (_, redir), serving(Catalog()) as middle:
        await middle.offer(open_source(redir))
        [(host, port)] = await middle.listen("127.0.0.1", 0, load_exporter("usbip"))
        async with served(f"usbip://{host}:{port}") as (_, last), opened(last) as device:
            await use(device)


async def test_one_that_is_held_is_waited_for_on_the_connection() -> None:
    """The protocol has no word for busy: the second hears of the device when the first lets go."""
    async with served("virtual:zero") as (server, address):
        async with opened(address) as first:
            source = open_source(address)
            second = asyncio.ensure_future(source.open("", ME))  # noqa: TID251
            await until(lambda: len(server.pumps) == 2)
            assert not second.done()
            assert len((await done(first, Transfer(0x81, 4))).data) == 4
        device = await asyncio.wait_for(second, 10)
        assert len((await done(device, Transfer(0x81, 4))).data) == 4
        await device.close()


@pytest.mark.slow
async def test_one_that_is_held_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redir, "DEVICE_SECONDS", 0.5)
    monkeypatch.setattr(redir, "LIST_SECONDS", 0.25)
    why = r"^127\.0\.0\.1:\d+ has offered no device within 0\.25 s: somebody else uses it, or it is not there$"
    async with served("virtual:zero") as (_, address), opened(address):
        with pytest.raises(Unavailable, match=why):
            await open_source(address).list()
        with pytest.raises(Unavailable, match=why.replace("0\\.25", "0\\.5")):
            await open_source(address).open("", ME)


async def test_the_connection_that_listed_is_the_one_that_opens() -> None:
    async with served("virtual:zero") as (server, address):
        source = open_source(address)
        [info] = await source.list()
        assert source.at(info.name) == address
        [pump] = server.pumps
        device = await source.open(info.name, ME)
        assert server.pumps == {pump}
        assert [one.name for one in await source.list()] == [info.name]  # it is there, whoever has it
        with pytest.raises(Busy):
            await source.open(info.name, ME)
        await device.close()
        await source.close()


async def test_who_closes_the_device_leaves_it_to_the_next_on_the_connection() -> None:
    """What waits ends, settings are as after plugging in, and a server that ends with its connection does not."""
    async with served("virtual:zero") as (server, address):
        source = open_source(address)
        device = await source.open("", ME)
        [pump] = server.pumps
        await control(device, requests.set_interface(0, 1))
        await control(device, Setup(0x02, 3, 0, 0x81))  # halted
        waits = device.submit(Transfer(0x82, 4))
        assert isinstance(waits, asyncio.Future)
        await device.close()
        assert waits.result().status == Status.SHUTDOWN
        assert (await done(device, Transfer(0x81, 4))).status == Status.SHUTDOWN
        again = await source.open("", ME)
        assert server.pumps == {pump}
        assert again.info.alternates == {}
        assert (await control(again, Setup(0x81, 10, 0, 0, 1))).data == b"\0"
        await use(again)
        await again.close()
        await again.close()
        await source.close()
        await until(lambda: not server.pumps)


async def test_a_device_that_leaves_comes_back_on_the_connection() -> None:
    """Unplugged and plugged again: the exporter says so, waits for the acknowledgement, and offers it again."""
    async with served("virtual:zero?fault=vanish:0x01:away=0.05") as (_, address):
        source = open_source(address)
        [info] = await source.list()
        device = await source.open(info.name, ME)
        assert (await done(device, Transfer(0x01, 1, b"x"))).status == Status.SHUTDOWN
        assert await asyncio.wait_for(device.gone, 10) == "the device was unplugged"
        await device.close()
        again = await source.open(info.name, ME)
        assert len((await done(again, Transfer(0x81, 4))).data) == 4
        await again.close()


async def test_reading_ahead_over_real_sockets() -> None:
    """As an option of the address: every read has its bytes, in their order, without having been asked for."""
    async with served("virtual:serial?to=echo") as (_, address):
        source = open_source(f"{address}?ahead=0x82,0x81&buffer=0.1")
        device = await source.open("", ME)
        bulk_in = next(e.address for i in device.info.interfaces for e in i.endpoints if e.type == 2 and e.is_in)
        bulk_out = next(e.address for i in device.info.interfaces for e in i.endpoints if e.type == 2 and not e.is_in)
        await control(device, Setup(0x21, 0x22, 3))  # DTR and RTS: somebody is there
        said = bytes(range(256)) * 20
        reads = [device.submit(Transfer(bulk_in, 512)) for _ in range(2)]
        assert (await done(device, Transfer(bulk_out, len(said), said))).actual == len(said)
        heard = b""
        while len(heard) < len(said):
            answer = reads.pop(0) if reads else device.submit(Transfer(bulk_in, 512))
            heard += (answer if isinstance(answer, Completion) else await asyncio.wait_for(answer, 10)).data
        assert heard == said
        streams = device._connection.importer._intake._inboxes  # type: ignore[attr-defined]
        assert bulk_in in streams
        await device.close()
        await source.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no socket files")
async def test_who_may_bring_a_device_may_be_said(tmp_path: Path) -> None:
    file = tmp_path / "sock"
    source = open_source(f"usbredir://{file}?listen&mode=622")
    async with asyncio.TaskGroup() as tasks:
        listing = tasks.create_task(source.list())
        await until(file.exists)
        assert os.stat(file).st_mode & 0o777 == 0o622
        listing.cancel()
    await source.close()
    with pytest.raises(ValueError, match="and mode with listen at a socket file"):
        open_source(f"usbredir://{file}?mode=622")


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("ahead=1", "ahead=1 is no IN endpoint; write it as 0x81"),
        ("ahead=x", "ahead=x is no IN endpoint"),
        ("buffer=0", "buffer=0 is no time; write it in seconds, as 0.1, up to 10"),
        ("buffer=soon", "buffer=soon is no time"),
        ("faster", "options are listen, ahead and buffer, and mode with listen at a socket file"),
    ],
)
def test_what_is_no_option(option: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        open_source(f"usbredir://host?{option}")


async def test_a_device_that_is_brought_where_one_is_offered(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tries on, and each of the two says so once."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(server_listen, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(server_listen, "MAX_RETRY_SECONDS", 0.05)
    said = "broke usbredir: both sides offer a device: interface_info came from the usb-"

    def levels() -> list[int]:
        return [record.levelno for record in caplog.records if said in record.getMessage()]

    async with served("virtual:zero") as (_, address), serving(Catalog()) as other:
        await other.offer(open_source("virtual:zero"))
        other.connect_to(Place("127.0.0.1", int(address.rpartition(":")[2])), partial(Exporter, name=""))
        await until(lambda: len(levels()) >= 6)
    assert levels().count(logging.WARNING) == 2


async def test_nobody_listens() -> None:
    with pytest.raises(DeviceError, match=r"no connection to 127.0.0.1:9: Connection refused; is a server running"):
        await open_source("usbredir://127.0.0.1:9").list()


@pytest.mark.parametrize(
    "address", ["usbredir://host/1-1", "usbredir://:4000?device=1-1", "usbredir://", "usbredir:///"]
)
def test_what_is_no_source(address: str) -> None:
    with pytest.raises(ValueError, match="write it as usbredir://HOST"):
        open_source(address)


@pytest.mark.slow
async def test_an_exporter_connects_again_and_again(tmp_path: Path) -> None:
    """`serve --to`: nobody listens, then somebody does, then the connection is lost."""
    place = Place("", 0, str(tmp_path / "sock"))
    heard: list[bytes] = []
    async with serving(Catalog()) as server:
        await server.offer(open_source("virtual:zero"))
        server.connect_to(place, partial(Exporter))
        await asyncio.sleep(0.05)

        async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.append(await reader.readexactly(80))
            writer.close()
            await writer.wait_closed()

        listening = await asyncio.start_unix_server(guest, place.path)
        async with listening:
            await until(lambda: len(heard) == 2)
    assert heard[0] == heard[1]
    assert heard[0][12:].startswith(b"usbferry usb-host\0")


async def test_who_says_nothing_is_connected_to_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A QEMU whose machine was restored does not say hello to the first who connects. Who did, may be silent."""
    monkeypatch.setattr(server_listen, "SILENT_SECONDS", 0.02)
    monkeypatch.setattr(server_listen, "RETRY_SECONDS", 0.02)
    place = Place("", 0, str(tmp_path / "sock"))
    ended: list[int] = []
    speaks = asyncio.Event()

    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await reader.readexactly(80)
        if speaks.is_set():
            writer.write(hello)
        await reader.read()
        ended.append(speaks.is_set())
        writer.close()

    listening = await asyncio.start_unix_server(guest, place.path)
    async with listening, serving(Catalog()) as server:
        await server.offer(open_source("virtual:zero"))
        server.connect_to(place, partial(Exporter))
        await until(lambda: len(ended) == 3)
        speaks.set()
        await until(lambda: any(not pump.is_unheard for pump in server.pumps))
        count = len(ended)
        await asyncio.sleep(0.1)
        assert len(ended) == count
        assert set(ended) == {False}


class Nowhere:
    """A place that never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def connect(self, user: object, timeout: float = 10.0) -> None:
        self.asked.set()
        await asyncio.get_running_loop().create_future()


async def test_a_server_ends_while_it_still_connects() -> None:
    nowhere = Nowhere()
    async with asyncio.timeout(5), serving(Catalog()) as server:
        server.connect_to(nowhere, partial(Exporter))  # type: ignore[arg-type]
        await nowhere.asked.wait()
    assert not server.pumps


async def test_the_pauses_grow_before_who_closes_at_once_is_connected_to_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were always the first one."""
    monkeypatch.setattr(server_listen, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(server_listen, "BRIEF_SECONDS", 60.0)
    came: list[float] = []

    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(asyncio.get_running_loop().time())
        writer.close()

    closing = await asyncio.start_server(closes, "127.0.0.1", 0)
    async with closing, serving(Catalog()) as server:
        server.connect_to(Place(*closing.sockets[0].getsockname()), partial(Exporter))
        await until(lambda: len(came) == 4)
    assert came[3] - came[0] > 0.2, "0.04 + 0.08 + 0.16 s, where it was 3 * 0.02 s"
