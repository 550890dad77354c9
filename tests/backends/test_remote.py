"""Devices of other processes: against our own server, one played by the test, and servers that break in every way."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.backends.hand import (
    CONFIGURATIONS,
    DEVICE,
    SUPER,
    Hand,
    HandServer,
    Peer,
    Script,
    bad_server,
    descriptors,
    hand_server,
    ret_submit,
)
from usbferry import aio
from usbferry.backends import connection, enumeration, imported, pieces, remote
from usbferry.backends.connection import Connection
from usbferry.backends.doubts import Silent, Unreached, Wordless
from usbferry.backends.imported import RemoteDevice
from usbferry.backends.lasting import LastingConnection
from usbferry.backends.remote import RemoteSource
from usbferry.device import Busy, Claimant, DeviceError, NotFound, Promise, ResetOutcome, Unavailable
from usbferry.devices.zero import Zero
from usbferry.protocols.ferry.importer import Importer as FerryImporter
from usbferry.protocols.ferry.outbox import FIRST_RESEND
from usbferry.protocols.usbip.messages import DeviceRecord
from usbferry.registry import load_exporter, load_importer, open_source
from usbferry.selector import Ambiguous
from usbferry.server.catalog import Catalog
from usbferry.server.listen import Server, serving
from usbferry.transports import udp
from usbferry.usb import setup as requests
from usbferry.usb.descriptors import Configuration, Interface
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion, Flags, IsoPacket, Transfer
from usbferry.usb.types import Speed, Status

ME = Claimant("local")


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    """No task and no unread future outlives a test; sockets left open are found by pytest."""
    lost: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: lost.append(str(context)))
    yield
    gc.collect()
    await turns()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert lost == []


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@asynccontextmanager
async def zero_server() -> AsyncIterator[tuple[Server, str]]:
    """Our own server with a Gadget Zero, and its address."""
    async with serving(Catalog()) as server:
        await server.offer(open_source("virtual:zero"))
        [(host, port)] = await server.listen("127.0.0.1", 0, load_exporter("usbip"))
        yield server, f"usbip://{host}:{port}"


@asynccontextmanager
async def zero() -> AsyncIterator[RemoteDevice]:
    async with zero_server() as (_, address), opened(address) as device:
        yield device


@asynccontextmanager
async def opened(address: str, name: str = "1-1") -> AsyncIterator[RemoteDevice]:
    device = await RemoteSource(address).open(name, ME)
    assert isinstance(device, RemoteDevice)
    try:
        yield device
    finally:
        await device.close()


@asynccontextmanager
async def in_hand(owner: HandServer) -> AsyncIterator[tuple[RemoteDevice, Hand]]:
    async with opened(owner.address) as device:
        yield device, await owner.hands.get()


async def done(answer: Completion | asyncio.Future[Completion]) -> Completion:
    return answer if isinstance(answer, Completion) else await answer


def pending(answer: Completion | asyncio.Future[Completion]) -> asyncio.Future[Completion]:
    assert isinstance(answer, asyncio.Future)
    assert not answer.done()
    return answer


def control(setup: Setup, data: bytes = b"") -> Transfer:
    return Transfer(0x80 if setup.is_in else 0, setup.length, data, setup.pack())


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "where", "name"),
    [
        ("usbip://host", "host:3240", ""),
        ("usbip://host/", "host:3240", ""),
        ("usbip://host:1234/1-2.3", "host:1234", "1-2.3"),
        ("usbip://[::1]/1-1", "[::1]:3240", "1-1"),
        ("usbip://[fe80::1%25eth0]:5", "[fe80::1%25eth0]:5", ""),
        ("usbip://192.0.2.7/usbip-vudc.0", "192.0.2.7:3240", "usbip-vudc.0"),
        ("usbip://host/046d:c52b,serial=AB*", "host:3240", ""),
        ("usbip://host/1-2,serial=AB*", "host:3240", ""),
    ],
)
def test_addresses(address: str, where: str, name: str) -> None:
    source = RemoteSource(address)
    assert (source.where, source.name, source.address) == (where, name, address)


@pytest.mark.parametrize(
    "address",
    ["usbip:", "usbip://", "usbip:host", "usbip:///1-1", "usbip://host:port", "usbip://host:65536", "usbip://[::1",
     "usbip://host/1-1?speed=high", "usbip://me@host"],
)  # fmt: skip
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"is no address, write it as usbip://HOST\[:PORT\]\[/DEVICE\]"):
        RemoteSource(address)


# --- lists ------------------------------------------------------------------------------------------------------------


async def test_a_list_of_our_own_server() -> None:
    async with zero_server() as (_, address):
        [found] = await RemoteSource(address).list()
        assert (found.name, found.device.vendor_id, found.speed, found.classes) == (
            "1-1",
            0x0525,
            Speed.HIGH,
            ((255, 0, 0),),
        )


async def test_one_device_of_a_list() -> None:
    async with zero_server() as (server, address):
        await server.offer(open_source("virtual:zero?speed=super"))
        assert [d.name for d in await RemoteSource(address).list()] == ["1-1", "1-2"]
        assert [d.name for d in await RemoteSource(address + "/1-2").list()] == ["1-2"]


async def test_a_device_that_is_not_in_the_list() -> None:
    async with zero_server() as (_, address):
        with pytest.raises(NotFound, match="lists no device '9-9'; it has: 1-1"):
            await RemoteSource(address + "/9-9").list()


# --- selectors --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def several(*devices: str) -> AsyncIterator[tuple[Server, str]]:
    """Our own server with these virtual devices, and its address."""
    async with serving(Catalog()) as server:
        for device in devices:
            await server.offer(open_source(device))
        [(host, port)] = await server.listen("127.0.0.1", 0, load_exporter("usbip"))
        yield server, f"usbip://{host}:{port}"


ONE, TWO, MOUSE = "virtual:zero?serial=AB%201", "virtual:zero?serial=AB%202", "virtual:mouse"


async def all_free(server: Server) -> None:
    """The server takes back what its users let go, once it has heard of it."""
    stirred = asyncio.Event()
    unwatch = server.catalog.watch(stirred.set)
    while any(offer.holder for offer in server.catalog.list()):
        stirred.clear()
        await stirred.wait()
    unwatch()


async def names(address: str) -> list[str]:
    return [info.name for info in await RemoteSource(address).list()]


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("0525:a4a0", ["1-1", "1-2"]),
        ("0525:*,serial=ab%20*", ["1-1", "1-2"]),
        ("serial=AB 2", ["1-2"]),
        ("class=hid", ["1-3"]),
        ("class=mouse,port=1-*", ["1-3"]),
        ("0525:a4a0,port=1-2", ["1-2"]),
        ("1-2,serial=AB*", ["1-2"]),
        ("product=*ZERO", ["1-1", "1-2"]),
    ],
)
async def test_those_that_a_selector_means(selector: str, found: list[str]) -> None:
    async with several(ONE, TWO, MOUSE) as (_, address):
        assert await names(f"{address}/{selector}") == found


async def test_what_the_list_tells_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a device takes it from its driver: only candidates are, and only for strings."""
    read: list[str] = []
    plain = RemoteSource._open

    async def noting(self: RemoteSource, name: str) -> RemoteDevice:
        read.append(name)
        return await plain(self, name)

    monkeypatch.setattr(RemoteSource, "_open", noting)
    async with several(ONE, TWO, MOUSE) as (server, address):
        assert await names(f"{address}/0525:*,class=vendor") == ["1-1", "1-2"]
        assert read == []
        [found] = await RemoteSource(f"{address}/class=hid,manufacturer=*").list()
        assert (read, found.product) == (["1-3"], "Mouse")
        await all_free(server)


async def test_a_busy_one_is_left_alone_and_named() -> None:
    async with several(ONE, TWO) as (server, address), opened(address, "1-2"):
        [_, held] = server.catalog.list()
        holder = held.holder
        assert await names(f"{address}/serial=AB*") == ["1-1"]
        there = r"1-1 0525:a4a0 \(.*\), 1-2 0525:a4a0 \(.*\)"
        text = rf"lists no device 'serial=AB%202'; it has: {there}; not asked: 1-2 at .*uses it$"
        await fails(RemoteSource(f"{address}/serial=AB%202").list(), text, NotFound)
        assert held.holder is holder


async def test_nothing_that_a_selector_means() -> None:
    async with several(ONE) as (_, address):
        await fails(RemoteSource(f"{address}/046d:*").list(), r"lists no device '046d:\*'; it has: 1-1 05", NotFound)


async def test_a_device_that_became_another_is_given_back() -> None:
    """The list is older than the claim: somebody may have plugged something else into that port."""
    async with several(ONE, TWO) as (server, address):
        source = RemoteSource(f"{address}/serial=AB%202")
        await fails(source.open("1-1", ME), "1-1 0525:a4a0 .* serial AB 1 .* is no longer serial=AB%202", NotFound)
        await all_free(server)
        device = await source.open("1-2", ME)
        assert device.info.serial == "AB 2"
        await device.close()


async def test_a_handle_by_selector_and_what_it_could_mean() -> None:
    async with several(ONE, TWO, MOUSE) as (_, address):
        async with await aio.open(f"{address}/serial=*2") as handle:
            assert handle.info.name == "1-2"
        with pytest.raises(Ambiguous) as caught:
            await aio.open(f"{address}/0525:a4a0,serial=AB*")
        head, *candidates = str(caught.value).split("\n")
        end = f"/0525:a4a0,serial=AB* stands for 2 devices; name one by its bus id, such as {address}/1-1"
        assert head.endswith(end)
        assert candidates == [f"  1-{n} 0525:a4a0 usbferry Gadget Zero serial AB {n} (vendor specific)" for n in (1, 2)]


async def test_where_each_of_several_is() -> None:
    assert RemoteSource("usbip://[::1]:5/046d:*,class=hid").at("1-2") == "usbip://[::1]:5/1-2"
    assert RemoteSource("usbip://host").at("1-2") == "usbip://host/1-2"
    assert {RemoteSource(f"usbip://{one}").place for one in ("host", "HOST/", "host:3240/1-2")} == {"usbip://host"}
    assert RemoteSource("usbip://[::1]:3240").place == "usbip://[::1]"


def test_an_address_with_a_selector_that_makes_no_sense() -> None:
    with pytest.raises(ValueError, match=r"^'usbip://host/046d:': '046d:' is no VID:PID: four") as caught:
        RemoteSource("usbip://host/046d:")
    assert "\n" not in str(caught.value)


# --- servers that are not there, or not what they should be -----------------------------------------------------------


def says(*chunks: bytes, after: int = 0) -> Script:
    """Reads `after` bytes, says something, and waits."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(after)
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()

    return script


def then_closes(script: Script) -> Script:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await script(reader, writer)
        writer.close()

    return closing


def then_resets(script: Script) -> Script:
    async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await script(reader, writer)
        await writer.drain()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    return resetting


def op(code: int, status: int = 0, version: int = 0x0111) -> bytes:
    return version.to_bytes(2, "big") + code.to_bytes(2, "big") + status.to_bytes(4, "big")


def record(busid: bytes = b"1-1", interfaces: int = 0) -> bytes:
    raw = DeviceRecord(b"", busid, 1, 2, 3, 0x1209, 1, 0x100, 0, 0, 0, 1, 1, interfaces)
    return raw.pack()


async def fails(ask: Awaitable[object], text: str, kind: type[DeviceError] = DeviceError) -> None:
    """One clear error: of one line, and with the server's address."""
    with pytest.raises(DeviceError, match=text) as caught:
        await ask
    assert type(caught.value) is kind
    assert "127.0.0.1:" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_nobody_listens() -> None:
    source = RemoteSource(f"usbip://127.0.0.1:{free_port()}")
    for ask in (source.list(), source.open("1-1", ME)):
        await fails(ask, r"no connection to 127.0.0.1:\d+: Connection refused; is a server running there\?", Unreached)


async def test_nobody_listens_where_there_are_no_connections() -> None:
    source = open_source(f"ferry+udp://127.0.0.1:{free_port()}")
    for ask in (source.list(), source.open("1-1", ME)):
        await fails(
            ask, r"^no connection to 127.0.0.1:\d+: Connection refused; is a server running there\?$", Unreached
        )
    await source.close()


async def test_nobody_listens_at_any_of_a_names_addresses() -> None:
    source = RemoteSource(f"usbip://localhost:{free_port()}")
    with pytest.raises(DeviceError, match=r"^no connection to localhost:\d+: Connection refused; is a server"):
        await source.list()


async def test_a_name_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nobody)
    with pytest.raises(
        DeviceError, match=r"^no connection to nobody.invalid:3240: Name or service not known; is the name right\?$"
    ):
        await RemoteSource("usbip://nobody.invalid").list()


async def test_a_connection_that_is_never_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stuck(*args: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(remote.tcp, "connect", stuck)
    with pytest.raises(DeviceError, match=r"^no connection to 192.0.2.1:3240 within 10 s$"):
        await RemoteSource("usbip://192.0.2.1").list()


async def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LIST_SECONDS", 0.02)
    monkeypatch.setattr(remote, "CLAIM_SECONDS", 0.02)
    async with bad_server(says()) as address:
        await fails(RemoteSource(address).list(), r"did not answer within 0.02 s; does it speak USB/IP\?$", Silent)
        await fails(RemoteSource(address).open("1-1", ME), "did not answer within 0.02 s", Silent)


class Slow:
    """A server that takes its time over an import; to lists it says what it is told to."""

    def __init__(self, listing: Script) -> None:
        self.listing = listing
        self.asked: list[bytes] = []
        self.may_import = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        code = (await reader.readexactly(8))[2:4]
        self.asked.append(code)
        if code == b"\x80\x05":
            await self.listing(reader, writer)
            self.may_import.set()
        else:
            await reader.readexactly(32)
            await self.may_import.wait()
            writer.write(op(3, status=2))
            await reader.read()


@pytest.mark.parametrize("listing", [then_closes(says(op(5) + bytes(4))), then_closes(says())], ids=["lists", "closes"])
async def test_who_takes_long_over_an_import_is_asked_for_its_list_and_waited_for(
    listing: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """usbipd-win restarts a driver first, and some servers have one connection only: silence alone says nothing."""
    monkeypatch.setattr(connection, "DOUBT_SECONDS", 0.02)
    server = Slow(listing)
    async with bad_server(server) as address:
        await fails(RemoteSource(address).try_open("1-1", ME), "somebody else uses it", Busy)
        assert server.asked == [b"\x80\x03", b"\x80\x05"]


async def test_an_answer_is_not_kept_waiting_by_the_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of the list: the one that comes first counts."""
    monkeypatch.setattr(connection, "DOUBT_SECONDS", 0.02)
    server = Slow(says(after=1))
    async with bad_server(server) as address, asyncio.timeout(4):
        asyncio.get_running_loop().call_later(0.1, server.may_import.set)
        await fails(RemoteSource(address).try_open("1-1", ME), "somebody else uses it", Busy)
        assert server.asked == [b"\x80\x03", b"\x80\x05"]


async def test_who_is_silent_over_an_import_and_a_list_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DOUBT_SECONDS", 0.02)
    monkeypatch.setattr(remote, "LIST_SECONDS", 0.02)
    async with bad_server(says()) as address:
        await fails(RemoteSource(address).open("1-1", ME), r"did not answer within 0.02 s; does it speak", Silent)


@pytest.mark.parametrize("scheme", ["usbip", "ferry", "usbredir"])
@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", ", it says 'SSH-2.0-OpenSSH_9.2'"),
        (b"220\n", ", it says '220'"),
        (b"\xff" * 4, ""),
    ],
)
async def test_another_kind_of_server_is_named_at_once(scheme: str, said: bytes, words: str) -> None:
    """Few bytes of it are enough, and all that is said of them is what people can read."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await reader.read()

    title = "USB/IP" if scheme == "usbip" else scheme
    async with bad_server(script) as address:
        source = open_source(address.replace("usbip", scheme))
        for ask in (source.list(), source.open("1-1", ME)):
            await fails(ask, rf": it does not speak {title}{re.escape(words)}; is the port right\?$")
        await source.close()


async def test_a_usbredir_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DOUBT_SECONDS", 0.01)
    monkeypatch.setattr(connection, "GREETING_SECONDS", 0.02)
    async with bad_server(says()) as address:
        await fails(open_source(address.replace("usbip", "usbredir")).list(), "did not answer within 0.02 s", Silent)


async def test_a_list_that_trickles_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LIST_SECONDS", 0.05)

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(op(5) + (4096).to_bytes(4, "big"))
        while not reader.at_eof():
            writer.write(record())
            await writer.drain()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.readexactly(1000), 0.01)

    async with bad_server(trickle) as address:
        await fails(RemoteSource(address).list(), "did not answer within 0.05 s$", Silent)


LIST_ANSWERS = {
    "hangs up": (then_closes(says(after=8)), "the connection was closed"),
    "resets": (then_resets(says(after=8)), r"127.0.0.1:[0-9]+: Connection reset by peer; does it speak USB/IP\?$"),
    "hangs up in the middle": (then_closes(says(op(5)[:5], after=8)), "the connection was closed"),
    "another version": (says(op(5, version=0x0110), after=8), "speaks version 0x0110, known is 0x0111"),
    "no USB/IP": (
        says(b"HTTP/1.1 400 Bad Request\r\n\r\n", after=8),
        "does not speak USB/IP, it says 'HTTP/1.1 400 Bad Request'; is the port right",
    ),
    "another answer": (says(op(3), after=8), "answer 0x0003, expected was 0x0005"),
    "refuses": (says(op(5, 1), after=8), "does not list its devices, it gave status 1"),
    "2**32 - 1 devices": (says(op(5) + b"\xff\xff\xff\xff", after=8), "list of 4294967295 devices, the limit is 4096"),
    "too many interfaces": (says(op(5) + b"\0\0\0\1" + record(interfaces=255), after=8), "255 interfaces"),
}


@pytest.mark.parametrize("case", LIST_ANSWERS)
async def test_a_list_that_fails(case: str) -> None:
    script, text = LIST_ANSWERS[case]
    kind = {"refuses": Unavailable, "hangs up": Wordless, "resets": Wordless}.get(case, DeviceError)
    async with bad_server(script) as address:
        await fails(RemoteSource(address).list(), text, kind)


@pytest.mark.parametrize("hung_up", [True, False])
async def test_a_server_that_speaks_before_it_is_asked(hung_up: bool) -> None:
    class FakeLink:
        is_lossy = False
        is_prompt = False

        def abort(self) -> None:
            asyncio.get_running_loop().call_soon(made.lost, None)

        def write(self, pieces: object, size: int) -> None:
            pass

    made = Connection(load_importer("usbip")(), "there:3240")
    made.opened(FakeLink())  # type: ignore[arg-type]
    made.received(memoryview(b"\1\x11 ready"))
    if hung_up:
        await turns()
    with pytest.raises(DeviceError, match=r"^there:3240: it broke usbip: the server spoke before it was asked$"):
        await made.ask(made.importer.claim, "1-1", seconds=5)
    assert made.gone.done()


async def test_what_leaves_where_packets_get_lost_is_waited_for_from_then_on() -> None:
    """It was from when something had come last, so the first transfer after a pause was sent twice."""

    async def connect(connection: Connection) -> None: ...

    loop, importer = asyncio.get_running_loop(), FerryImporter(resends=True)
    made = LastingConnection(importer, "there", connect)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        link = await udp.connect("127.0.0.1", silent.getsockname()[1], made)
        await asyncio.sleep(0.01)
        began = loop.time()
        importer.claim("1-1")
        made._flush()
        due = importer.deadline()
        assert due is not None
        assert began + FIRST_RESEND <= due <= loop.time() + FIRST_RESEND
        made.over = Status.SHUTDOWN  # or it would connect again
        link.abort()
        await turns()


async def test_a_server_that_hangs_up_before_it_is_asked() -> None:
    made = Connection(load_importer("usbip")(), "there:3240")
    made.lost(None)
    with pytest.raises(
        DeviceError, match=r"^there:3240: the connection was closed without an answer; does it speak USB/IP\?$"
    ):
        await made.ask(made.importer.list_devices, seconds=5)


CLAIM_ANSWERS = {
    "hangs up": (then_closes(says(after=40)), "the connection was closed"),
    "hangs up in the middle": (then_closes(says(op(3) + record()[:100], after=40)), "the connection was closed"),
    "resets": (then_resets(says(op(3) + record()[:100], after=40)), "127.0.0.1:[0-9]+: Connection reset by peer$"),
    "another version": (says(op(3, version=0x0100), after=40), "speaks version 0x0100"),
    "another device": (says(op(3) + record(b"1-2"), after=40), "gave '1-2', asked for was '1-1'"),
    "garbage after the import": (says(op(3) + record() + b"garbage" * 20, after=40), "command 0x67617262"),
    "a reply to nothing": (says(op(3) + record() + ret_submit(99), after=40), "a reply to #99"),
    "an unlink of nothing": (says(op(3) + record() + b"\0\0\0\4" + bytes(44), after=40), "an unlink answered, #0"),
}


@pytest.mark.parametrize("case", CLAIM_ANSWERS)
async def test_an_import_that_fails(case: str) -> None:
    script, text = CLAIM_ANSWERS[case]
    async with bad_server(script) as address:
        await fails(RemoteSource(address).open("1-1", ME), text, Wordless if case == "hangs up" else DeviceError)


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (1, Unavailable, "cannot export"),
        (3, DeviceError, "the server could not open it, its log should say why"),
        (4, NotFound, "no such device"),
        (5, DeviceError, "its log should say why"),
        (77, DeviceError, "status 77"),
    ],
)
async def test_an_import_that_is_refused(
    status: int, kind: type[DeviceError], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LIST_SECONDS", 0.02)  # what else there is, this one does not say
    async with bad_server(says(op(3, status), after=40)) as address:
        await fails(RemoteSource(address).open("1-1", ME), text, kind)


async def test_a_device_that_is_not_there_comes_with_those_that_are() -> None:
    """The list is asked for then, and only then."""
    async with serving(Catalog()) as server:
        await server.offer(open_source("virtual:zero"))
        await server.offer(open_source("virtual:keyboard"))
        [(host, port)] = await server.listen("127.0.0.1", 0, load_exporter("usbip"))
        source = RemoteSource(f"usbip://{host}:{port}")
        there = r"1-1 0525:a4a0 \(vendor specific\), 1-2 1209:0001 \(keyboard\)"
        text = f"9-9 at .*: the server has no such device; it has: {there}"
        await fails(source.open("9-9", ME), text, NotFound)


@pytest.mark.parametrize("name", ["", "a" * 32, "\udc80"])
async def test_a_name_that_no_device_can_have(name: str) -> None:
    async with bad_server(says()) as address:
        await fails(RemoteSource(address).open(name, ME), "bus id|surrogates", NotFound)


async def test_a_busy_device_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux's server says busy while it resets the device after its last user."""
    waits: list[float] = []
    busy = 3

    async def no_sleep(seconds: float) -> None:
        waits.append(seconds)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal busy
        if busy:
            busy -= 1
            await says(op(3, 2), after=40)(reader, writer)
        else:
            peer = Peer(reader, writer)
            await peer.imported()
            await peer.described()

    monkeypatch.setattr(remote.asyncio, "sleep", no_sleep)
    async with bad_server(script) as address, opened(address) as device:
        assert device.info.product == "Made"
    monkeypatch.undo()
    assert waits == [0.2, 0.4, 0.8]


async def times_asked_for_what_stays_busy() -> int:
    asked = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await says(op(3, 2), after=40)(reader, writer)

    async with bad_server(script) as address:
        await fails(RemoteSource(address).open("1-1", ME), "somebody else uses it", Busy)
    return asked


async def test_a_device_that_stays_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BUSY_SECONDS", 0.0)
    assert await times_asked_for_what_stays_busy() == 6


async def test_a_server_that_waited_for_it_itself_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a gateway each attempt took all of the gateway's own: 43 seconds together."""
    monkeypatch.setattr(remote, "BUSY_PATIENCE", 0.0)
    assert await times_asked_for_what_stays_busy() == 1


async def test_our_own_server_tells_busy_from_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BUSY_SECONDS", 0.0)
    async with zero_server() as (_, address), opened(address):
        await fails(RemoteSource(address).open("1-1", ME), r"^1-1 at 127.0.0.1:\d+: somebody else uses it$", Busy)
        await fails(
            RemoteSource(address).open("7-7", ME), r"^7-7 at .*: the server has no such device; it has: 1-1 ", NotFound
        )


async def test_who_waits_for_a_busy_device_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of six attempts was a line of the server's log."""
    monkeypatch.setattr(remote, "BUSY_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "usbferry")
    async with zero_server() as (_, address):
        for _ in range(2):
            async with opened(address):  # another user, so it is news again
                for _ in range(2):
                    await fails(RemoteSource(address).open("1-1", ME), "somebody else uses it$", Busy)
    said = [record.getMessage() for record in caplog.records if "1-1" in record.getMessage()]
    assert [bool(re.search("may not have '1-1': 1-1 is in use by", line)) for line in said].count(True) == 2
    assert [line.endswith("somebody else uses it; trying again for 6.2 s") for line in said].count(True) == 4


# --- reading the descriptors ------------------------------------------------------------------------------------------


def while_preparing(*, after: int, then: Callable[[Peer], Awaitable[None]]) -> Script:
    """Answers an import and `after` requests for descriptors, and then does something else."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        await peer.imported()
        await peer.described(after)
        await then(peer)

    return script


async def hangs_up(peer: Peer) -> None:
    await peer.request()
    peer.writer.close()


async def hangs_up_in_the_middle(peer: Peer) -> None:
    seqnum, _ = await peer.request()
    peer.writer.write(ret_submit(seqnum, bytes(9))[:50])
    peer.writer.close()


async def lies_about_the_length(peer: Peer) -> None:
    seqnum, setup = await peer.request()
    peer.writer.write(ret_submit(seqnum, bytes(setup.length + 1)))


async def promises_much(peer: Peer) -> None:
    seqnum, _ = await peer.request()
    peer.writer.write(ret_submit(seqnum, b"", actual=0x7FFFFFFF))


async def gives_a_negative_length(peer: Peer) -> None:
    seqnum, _ = await peer.request()
    peer.writer.write(ret_submit(seqnum, b"", actual=0xFFFFFFFF))


async def answers_another(peer: Peer) -> None:
    seqnum, _ = await peer.request()
    peer.writer.write(ret_submit(seqnum + 1))


async def stalls(peer: Peer) -> None:
    seqnum, _ = await peer.request()
    peer.writer.write(ret_submit(seqnum, status=-32))


async def fails_with_eproto(peer: Peer) -> None:
    seqnum, _ = await peer.request()
    peer.writer.write(ret_submit(seqnum, status=-71))


async def gives_nothing(peer: Peer) -> None:
    seqnum, _ = await peer.request()
    peer.writer.write(ret_submit(seqnum))


async def gives_zeros(peer: Peer) -> None:
    seqnum, setup = await peer.request()
    peer.writer.write(ret_submit(seqnum, bytes(setup.length)))


async def gives_garbage(peer: Peer) -> None:
    await peer.request()
    peer.writer.write(b"\xff" * 64)


async def is_silent(peer: Peer) -> None:
    await peer.request()


PREPARING = {
    hangs_up: "the connection was closed",
    hangs_up_in_the_middle: "the connection was closed",
    lies_about_the_length: "bytes done of a transfer of",
    promises_much: "2147483647 bytes done of a transfer of",
    gives_a_negative_length: "-1 bytes done of a transfer of",
    answers_another: "a reply to #",
    stalls: "1-1 at 127.0.0.1:[0-9]+ refuses 80 GET_DESCRIPTOR value 0[12]00 index 0000",
    fails_with_eproto: "1-1 at 127.0.0.1:[0-9]+ answers 80 GET_DESCRIPTOR .* with PROTOCOL",
    gives_nothing: "broken descriptors",
    gives_zeros: "broken descriptors",
    gives_garbage: "command 0xffffffff",
    is_silent: "does not answer 80 GET_DESCRIPTOR",
}


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("then", PREPARING)
async def test_a_server_that_fails_over_descriptors(
    then: Callable[[Peer], Awaitable[None]],
    after: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if then is is_silent:
        monkeypatch.setattr(enumeration, "CONTROL_SECONDS", 0.02)
    errors: set[type[DeviceError]] = {enumeration.Stalled} if then is stalls else {DeviceError, enumeration.Failed}
    async with bad_server(while_preparing(after=after, then=then)) as address:
        with pytest.raises(DeviceError, match=PREPARING[then]) as caught:
            await RemoteSource(address).open("1-1", ME)
    assert type(caught.value) in errors
    assert "127.0.0.1:" in str(caught.value)
    assert caplog.records == []  # who asked is told, and nobody else


async def test_descriptors_that_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer comes in time; all of them together do not."""
    monkeypatch.setattr(enumeration, "PREPARE_SECONDS", 0.05)
    monkeypatch.setattr(enumeration, "CONTROL_SECONDS", 100.0)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        await peer.imported()
        await peer.described(2)

    async with bad_server(script) as address:
        await fails(RemoteSource(address).open("1-1", ME), "took longer than 0.05 s over its descriptors")


async def test_as_many_configurations_as_linux_takes_are_read() -> None:
    device = enumeration.parse_device(descriptors()[1, 0])
    many = {**descriptors(), (1, 0): descriptors()[1, 0][:17] + b"\xff"}
    for index in range(255):
        many[2, index] = descriptors()[2, 0]
    assert device.configurations == 2
    async with hand_server(many) as owner, in_hand(owner) as (opened_device, _):
        assert len(opened_device.info.configurations) == 8


async def test_what_the_server_said_is_replaced_by_the_devices_own_words() -> None:
    async with hand_server(speed=Speed.SUPER) as owner, in_hand(owner) as (device, _):
        info = device.info
        assert info.device == DEVICE
        assert info.configurations == CONFIGURATIONS
        assert (info.name, info.speed, info.configuration) == ("1-1", Speed.SUPER, 1)
        assert (info.manufacturer, info.product, info.serial) == ("Hand", "Made", "0001")
        assert info.alternates == {}


@pytest.mark.parametrize("configuration", [0, 7])
async def test_a_device_without_configuration_gets_its_first(configuration: int) -> None:
    """Linux's server hands devices over unconfigured."""
    async with hand_server(configuration=configuration) as owner, in_hand(owner) as (device, hand):
        assert requests.set_configuration(1) in hand.requests
        assert device.info.configuration == 1
        assert device.info.active == CONFIGURATIONS[0]
        pending(device.submit(Transfer(0x81, 8)))


async def test_a_configured_device_is_told_its_configuration_once_more() -> None:
    """usbipd-win has no endpoints before: it traps the request for VBoxUsb, which opens them (AttachedEndpoint.cs)."""
    async with hand_server(configuration=2) as owner, in_hand(owner) as (device, hand):
        assert [s for s in hand.requests if s.request == requests.Request.SET_CONFIGURATION] == [
            requests.set_configuration(2)
        ]
        assert device.info.active == CONFIGURATIONS[1]


async def test_a_device_that_refuses_its_first_configuration() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        await peer.imported(configuration=0)
        await peer.described(5)
        await stalls(peer)

    async with bad_server(script) as address:
        with pytest.raises(DeviceError, match="refuses 00 SET_CONFIGURATION value 0001"):
            await RemoteSource(address).open("1-1", ME)


async def test_a_configured_device_may_refuse_to_be_configured_again() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        await peer.imported(configuration=1)
        await peer.described(5)
        await stalls(peer)  # its configuration
        await stalls(peer)  # its languages

    async with bad_server(script) as address:
        device = await RemoteSource(address).open("1-1", ME)
        assert device.info.active == CONFIGURATIONS[0]
        await device.close()


async def test_a_device_without_configurations() -> None:
    bare = {(1, 0): descriptors()[1, 0][:17] + b"\0"}
    async with hand_server(bare, configuration=0) as owner, in_hand(owner) as (device, _):
        assert device.info.configurations == ()
        assert device.submit(Transfer(0x81, 8)).status == Status.STALL  # type: ignore[union-attr]


@pytest.mark.parametrize("missing", [0, 1, 2, 3])
async def test_strings_that_are_not_there_stay_empty(missing: int) -> None:
    table = descriptors()
    del table[3, missing]
    async with hand_server(table) as owner, in_hand(owner) as (device, _):
        found = (device.info.manufacturer, device.info.product, device.info.serial)
        wanted = ["Hand", "Made", "0001"] if missing else ["", "", ""]
        if missing:
            wanted[missing - 1] = ""
        assert list(found) == wanted


@pytest.mark.parametrize("broken", [b"", b"\x02", b"\x05\x03abc", b"\xff\x04ab", b"\x04\x03\x00\xd8"])
async def test_strings_that_are_broken_do_no_harm(broken: bytes) -> None:
    table = {**descriptors(), (3, 2): broken}
    async with hand_server(table) as owner, in_hand(owner) as (device, _):
        assert device.info.manufacturer == "Hand"
        assert device.info.serial == "0001"


async def test_a_device_that_hangs_over_its_strings_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enumeration, "CONTROL_SECONDS", 0.02)
    after = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        await peer.imported()
        await peer.described(6)
        await peer.request()  # for the first string, without an answer
        unlink = await reader.readexactly(48)
        assert unlink[:4] == b"\0\0\0\2"
        after.set()

    async with bad_server(script) as address, opened(address) as device:
        await after.wait()
        assert (device.info.manufacturer, device.info.product) == ("", "")
        assert device.info.configurations == CONFIGURATIONS


@pytest.mark.parametrize(("usb", "speed"), [(0x0200, Speed.UNKNOWN), (0x0320, Speed.SUPER_PLUS)])
async def test_a_speed_that_linux_has_no_word_for(usb: int, speed: Speed) -> None:
    raw = bytearray(descriptors()[1, 0])
    raw[2:4] = usb.to_bytes(2, "little")
    table = {**descriptors(), (1, 0): bytes(raw)}
    async with hand_server(table, speed=Speed.UNKNOWN) as owner, in_hand(owner) as (device, _):
        assert device.info.speed is speed


# --- transfers --------------------------------------------------------------------------------------------------------


async def test_bulk_both_ways() -> None:
    async with zero() as device:
        wrote = await done(device.submit(Transfer(0x02, 5, b"hello")))
        assert (wrote.status, wrote.actual) == (Status.OK, 5)
        read = await done(device.submit(Transfer(0x82, 512)))
        assert (read.status, read.data) == (Status.OK, b"hello")


async def test_control_both_ways() -> None:
    async with zero() as device:
        out = Setup(0x40, 0x5B, length=3)
        assert (await done(device.submit(control(out, b"abc")))).actual == 3
        back = Setup(0xC0, 0x5C, length=64)
        assert (await done(device.submit(control(back)))).data == b"abc"
        assert (await done(device.submit(control(Setup(0xC0, 0x99, length=4))))).status == Status.STALL


async def test_iso_and_interrupt_both_ways() -> None:
    async with zero() as device:
        await done(device.submit(control(requests.set_interface(0, 1))))
        packets = [IsoPacket(0, 100), IsoPacket(100, 0), IsoPacket(100, 1024)]
        out = await done(device.submit(Transfer(0x03, 1124, bytes(1124), packets=packets)))
        assert (out.status, out.actual, out.error_count) == (Status.OK, 1124, 0)
        read = await done(device.submit(Transfer(0x83, 1124, packets=[IsoPacket(p.offset, p.length) for p in packets])))
        assert (read.status, read.data, [p.actual for p in read.packets or ()]) == (0, bytes(1124), [100, 0, 1024])
        assert (await done(device.submit(Transfer(0x84, 64)))).data == bytes(64)
        assert (await done(device.submit(Transfer(0x04, 64, bytes(64))))).actual == 64


async def test_many_in_flight_end_in_order() -> None:
    async with zero() as device:
        ends: list[int] = []
        answers = [pending(device.submit(Transfer(0x81, 512))) for _ in range(100)]
        for number, answer in enumerate(answers):
            answer.add_done_callback(lambda _, number=number: ends.append(number))
        assert {c.actual for c in await asyncio.gather(*answers)} == {512}
        await turns()
        assert ends == list(range(100))


async def test_lent_payloads_are_copied() -> None:
    async with zero() as device:
        buffer = bytearray(b"hello")
        first = device.submit(Transfer(0x02, 5, memoryview(buffer)))
        buffer[:] = b"-----"
        await done(first)
        assert (await done(device.submit(Transfer(0x82, 512)))).data == b"hello"


@pytest.mark.parametrize("length", [pieces.PIECE, pieces.PIECE + 1, 5 * pieces.PIECE])
async def test_large_transfers(length: int) -> None:
    async with zero() as device:
        wrote = await done(device.submit(Transfer(0x01, length, bytes(length))))
        assert (wrote.status, wrote.actual) == (Status.OK, length)
        read = await done(device.submit(Transfer(0x81, length)))
        assert (read.status, len(read.data)) == (Status.OK, length)
    assert device._in_pieces == {}


async def test_much_both_ways_at_once() -> None:
    """Neither side may stop reading because what it writes is not taken."""
    async with zero() as device:
        length = 512 * 1024
        transfers = [Transfer(0x01, length, bytes(length)), Transfer(0x81, length)]
        answers = [device.submit(Transfer(t.endpoint, length, t.data)) for _ in range(40) for t in transfers]
        async with asyncio.timeout(20):
            ended = [await done(answer) for answer in answers]
        assert {(c.status, c.actual) for c in ended} == {(Status.OK, length)}


async def test_an_endpoint_that_is_not_there_stalls_and_nothing_is_sent() -> None:
    """Linux's server loses the connection over one."""
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        for address in (0x02, 0x83, 0x8F, 0x86):
            answer = device.submit(Transfer(address, 0))
            assert isinstance(answer, Completion)
            assert answer.status == Status.STALL
        device.submit(Transfer(0x81, 8))
        assert (await hand.transfer()).endpoint == 0x81


@pytest.mark.parametrize(
    "transfer",
    [
        Transfer(0x83, 8),
        Transfer(0x83, 8, packets=[]),
        Transfer(0x83, 1025, packets=[IsoPacket(0, 1025)]),
        Transfer(0x83, 8, packets=[IsoPacket(0, 4), IsoPacket(8, 4)]),
        Transfer(0x83, 8, packets=[IsoPacket(0, 8), IsoPacket(0, 8)]),
        Transfer(0x83, 0, packets=[IsoPacket(0, 0)] * 1025),
        Transfer(0x81, 8, packets=[IsoPacket(0, 8)]),
        Transfer(0x81, 0, packets=[]),
        Transfer(0x00, 0),
        Transfer(0x00, 0, setup=b"\0" * 7),
        Transfer(0x80, 8, setup=Setup(0x80, 6, length=18).pack()),
        Transfer(0x00, 2, b"ab", Setup(0x80, 6, length=2).pack()),
        Transfer(0x80, 2, b"", Setup(0x00, 6, length=2).pack()),
    ],
    ids=str,
)
async def test_transfers_that_end_a_connection_are_not_sent(transfer: Transfer) -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        await second_setting(device, hand)
        answer = device.submit(transfer)
        assert isinstance(answer, Completion)
        assert answer.status == Status.INVALID
        device.submit(Transfer(0x81, 8))
        assert (await hand.transfer()).endpoint == 0x81


async def second_setting(device: RemoteDevice, hand: Hand) -> None:
    """Bring interface 0 into its setting with periodic endpoints."""
    answer = device.submit(control(requests.set_interface(0, 1)))
    hand.complete((await hand.submit()).tag)
    assert (await done(answer)).status == Status.OK


async def test_more_iso_data_than_a_kernel_can_allocate() -> None:
    async with hand_server({**descriptors(configurations=[SUPER, SUPER])}) as owner, in_hand(owner) as (device, _):
        packets = [IsoPacket(49152 * n, 49152) for n in range(100)]
        answer = device.submit(Transfer(0x81, 4915200, packets=packets))
        assert isinstance(answer, Completion)
        assert answer.status == Status.NO_MEMORY


async def test_a_large_transfer_to_an_endpoint_that_is_not_there_yet() -> None:
    """Its packets are not known, so it cannot be cut."""
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        owner.configures = False
        device.submit(control(requests.set_configuration(2)))
        small, large = Transfer(0x86, 4 << 20), Transfer(0x86, (4 << 20) + 1)
        device.submit(small)
        answer = pending(device.submit(large))
        hand.complete((await hand.submit()).tag)
        sent = await hand.submit()
        assert sent.transfer.length == 4 << 20
        assert not answer.done()  # what was asked for earlier on an endpoint ends earlier
        hand.complete(sent.tag)
        assert (await answer).status == Status.NO_MEMORY


async def test_what_is_refused_here_does_not_overtake_what_was_sent() -> None:
    """Completions of an endpoint come in the order of submission, whoever makes them; others' do not wait."""
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        ended: list[str] = []
        answers: list[asyncio.Future[Completion]] = []

        def submit(name: str, transfer: Transfer) -> None:
            answers.append(pending(device.submit(transfer)))
            answers[-1].add_done_callback(lambda done: ended.append(name))

        submit("first", Transfer(0x81, 8))
        submit("odd", Transfer(0x81, 8, packets=[IsoPacket(0, 8)]))
        submit("odder", Transfer(0x81, 8, packets=[]))
        submit("last", Transfer(0x81, 8))
        elsewhere = device.submit(Transfer(0x01, 8, bytes(8), packets=[IsoPacket(0, 8)]))
        assert isinstance(elsewhere, Completion)
        assert elsewhere.status == Status.INVALID
        first, last = (await hand.submit()).tag, (await hand.submit()).tag
        for tag in (first, last):
            hand.complete(tag)  # in one write
        async with asyncio.timeout(10):
            await asyncio.gather(*answers)
        assert ended == ["first", "odd", "odder", "last"]


async def test_what_is_refused_ends_with_the_connection_too() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        sent = pending(device.submit(Transfer(0x81, 8)))
        refused = pending(device.submit(Transfer(0x81, 8, packets=[])))
        await hand.submit()
        await device.close()
        assert (await sent).status == Status.SHUTDOWN
        assert (await refused).status == Status.INVALID


async def test_a_payload_of_another_length_is_the_callers_mistake() -> None:
    async with zero() as device:
        with pytest.raises(ValueError, match="3 bytes of payload in a transfer of 4"):
            device.submit(Transfer(0x01, 4, b"abc"))
        assert (await done(device.submit(Transfer(0x01, 3, b"abc")))).status == Status.OK


@pytest.mark.parametrize(
    ("speed", "endpoint", "interval"),
    [
        (Speed.HIGH, 0x81, 0),
        (Speed.HIGH, 0x84, 64),  # microframes: 2 ** (7 - 1)
        (Speed.HIGH, 0x83, 1),
        (Speed.HIGH, 0x03, 8),
        (Speed.FULL, 0x84, 7),  # milliseconds
        (Speed.FULL, 0x03, 8),
    ],
)
async def test_intervals_tell_a_server_the_type(speed: Speed, endpoint: int, interval: int) -> None:
    """usbipd-win infers it from the interval, 0 for bulk; Linux takes the number for its own."""
    async with hand_server(speed=speed) as owner, in_hand(owner) as (device, hand):
        await second_setting(device, hand)
        packets = [IsoPacket(0, 8)] if endpoint & 0x7F == 3 else None
        device.submit(Transfer(endpoint, 8, b"" if endpoint & 0x80 else bytes(8), packets=packets, interval=99))
        assert (await hand.transfer()).interval == interval


async def test_control_transfers_have_no_interval() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        device.submit(control(Setup(0xC0, 1, length=4)))
        transfer = await hand.transfer()
        assert (transfer.interval, transfer.setup, transfer.length) == (0, Setup(0xC0, 1, length=4).pack(), 4)


async def test_who_is_woken_by_an_answer_asks_again_in_the_same_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of the loop later costs a tenth of the rate."""
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        first, order = pending(device.submit(Transfer(0x81, 8))), []
        asked = await hand.submit()
        link = device._connection._link
        assert link is not None
        write = link.write
        monkeypatch.setattr(link, "write", lambda pieces, size: order.append("asked") or write(pieces, size))

        async def user() -> None:
            await first
            asyncio.get_running_loop().call_soon(order.append, "next turn")
            device.submit(Transfer(0x81, 8))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(user())
            await turns()
            hand.complete(asked.tag)
        await hand.submit()
        assert order == ["asked", "next turn"]


async def test_the_same_transfer_twice_in_flight() -> None:
    async with zero() as device:
        transfer = Transfer(0x81, 8)
        answers = [device.submit(transfer), device.submit(transfer)]
        assert [(await done(answer)).actual for answer in answers] == [8, 8]


# --- cancelling -------------------------------------------------------------------------------------------------------


async def test_a_cancelled_transfer_ends_with_the_servers_word() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        transfer = Transfer(0x81, 8)
        answer = pending(device.submit(transfer))
        asked = await hand.submit()
        device.cancel(transfer)
        device.cancel(transfer)
        assert (await hand.cancel()).tag == asked.tag
        hand.complete(asked.tag, Completion(Status.CANCELLED))
        assert (await answer).status == Status.CANCELLED
        device.cancel(transfer)
        await turns()
        assert hand.events.empty()


async def test_a_cancel_that_came_too_late() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        transfer = Transfer(0x81, 8)
        answer = pending(device.submit(transfer))
        asked = await hand.submit()
        device.cancel(transfer)
        await hand.cancel()
        hand.complete(asked.tag, Completion(Status.OK, b"data"))
        ended = await answer
        assert (ended.status, ended.data) == (Status.OK, b"data")


async def test_a_cancel_in_the_turn_of_its_submit() -> None:
    async with zero() as device:
        transfer = Transfer(0x82, 512)  # nothing to loop back: it would wait for ever
        answer = pending(device.submit(transfer))
        device.cancel(transfer)
        assert (await answer).status == Status.CANCELLED


async def test_many_cancelled_at_once() -> None:
    async with zero() as device:
        transfers = [Transfer(0x82, 512) for _ in range(200)]
        answers = [pending(device.submit(transfer)) for transfer in transfers]
        for transfer in reversed(transfers):
            device.cancel(transfer)
        assert {(await answer).status for answer in answers} == {Status.CANCELLED}
        assert device._connection._flying == {}


# --- settings ---------------------------------------------------------------------------------------------------------


async def test_another_setting_brings_other_endpoints() -> None:
    async with zero() as device:
        assert (await done(device.submit(Transfer(0x84, 8)))).status == Status.STALL
        assert (await done(device.submit(control(requests.set_interface(0, 1))))).status == Status.OK
        assert device.info.alternates == {0: 1}
        assert (await done(device.submit(Transfer(0x84, 8)))).status == Status.OK
        assert (await done(device.submit(control(requests.set_interface(0, 5))))).status == Status.STALL
        assert device.info.alternates == {0: 1}
        assert (await done(device.submit(control(requests.set_configuration(1))))).status == Status.OK
        assert device.info.alternates == {}
        assert (await done(device.submit(Transfer(0x84, 8)))).status == Status.STALL


async def test_a_device_that_is_unconfigured_has_no_endpoints() -> None:
    async with zero() as device:
        assert (await done(device.submit(control(requests.set_configuration(0))))).status == Status.OK
        assert device.info.configuration == 0
        assert (await done(device.submit(Transfer(0x81, 8)))).status == Status.STALL


async def test_what_is_submitted_behind_a_setting_waits_for_it() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        device.submit(control(requests.set_interface(0, 1)))
        behind = pending(device.submit(Transfer(0x84, 8)))  # not there before
        buffer = bytearray(b"abc")
        second = pending(device.submit(Transfer(0x01, 3, buffer)))
        buffer[:] = b"---"
        other = pending(device.submit(Transfer(0x85, 8)))  # of the other interface: it does not wait
        setting = await hand.submit()
        assert (await hand.transfer()).endpoint == 0x85
        await turns()
        assert hand.events.empty()
        hand.complete(setting.tag)
        first, last = await hand.submit(), await hand.submit()
        assert (first.transfer.endpoint, last.transfer.endpoint, last.transfer.data) == (0x84, 0x01, b"abc")
        hand.complete(first.tag, Completion(Status.OK, b"1"))
        hand.complete(last.tag, Completion(Status.OK, b"", 3))
        assert ((await behind).data, (await second).actual) == (b"1", 3)
        assert not other.done()


async def test_what_is_submitted_behind_a_setting_that_takes_its_endpoint() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        owner.configures = False
        device.submit(control(requests.set_configuration(2)))
        gone, new = pending(device.submit(Transfer(0x81, 8))), pending(device.submit(Transfer(0x86, 8)))
        hand.complete((await hand.submit()).tag)
        assert (await gone).status == Status.STALL
        assert (await hand.transfer()).endpoint == 0x86
        assert device.info.configuration == 2
        assert not new.done()


async def test_a_setting_that_is_refused_changes_nothing() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        owner.configures = False
        device.submit(control(requests.set_configuration(2)))
        waits = pending(device.submit(Transfer(0x86, 8)))
        device.submit(Transfer(0x81, 8))
        hand.complete((await hand.submit()).tag, Completion(Status.STALL))
        assert (await waits).status == Status.STALL
        assert (await hand.transfer()).endpoint == 0x81
        assert device.info.configuration == 1


async def test_what_is_submitted_behind_a_clear_halt_waits_on_that_endpoint_alone() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        device.submit(control(requests.clear_halt(0x81)))
        device.submit(Transfer(0x81, 8))
        device.submit(Transfer(0x82, 8))
        clear = await hand.submit()
        assert (await hand.transfer()).endpoint == 0x82
        await turns()
        assert hand.events.empty()
        hand.complete(clear.tag)
        assert (await hand.transfer()).endpoint == 0x81


async def test_a_setting_that_waits_holds_what_comes_behind_it() -> None:
    """Though what it waits for does not touch those endpoints."""
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        device.submit(control(requests.clear_halt(0x81)))
        device.submit(Transfer(0x81, 1))
        setting = pending(device.submit(control(requests.set_interface(1, 0))))
        behind = pending(device.submit(Transfer(0x82, 2)))
        ordinary = pending(device.submit(control(Setup(0xC0, 1, length=3))))
        device.submit(Transfer(0x01, 4, b"free"))
        clear = await hand.submit()
        assert (await hand.transfer()).endpoint == 0x01
        await turns()
        assert hand.events.empty()
        hand.complete(clear.tag)
        order = [await hand.submit() for _ in range(3)]
        assert [one.transfer.length for one in order] == [1, 0, 3]
        await turns()
        assert hand.events.empty()
        hand.complete(order[1].tag)
        assert (await setting).status == Status.OK
        assert (await hand.transfer()).length == 2
        assert not behind.done()
        assert not ordinary.done()


async def test_a_setting_that_waits_can_be_cancelled() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        device.submit(control(requests.clear_halt(0x81)))
        device.submit(Transfer(0x81, 1))
        setting = control(requests.set_interface(1, 0))
        answer = pending(device.submit(setting))
        assert 0x82 in device._gated
        device.cancel(setting)
        assert (await answer).status == Status.CANCELLED
        device.submit(Transfer(0x82, 2))
        clear = await hand.submit()
        assert (await hand.transfer()).length == 2
        hand.complete(clear.tag)
        assert (await hand.transfer()).length == 1
        await turns()
        assert device._gated == set()


async def test_less_than_no_bytes_are_the_callers_mistake_and_cost_no_connection() -> None:
    async with zero() as device:
        with pytest.raises(ValueError, match="a transfer of -1 bytes"):
            device.submit(Transfer(0x81, -1))
        held = pending(device.submit(control(requests.set_interface(0, 1))))
        with pytest.raises(ValueError, match="a transfer of -1 bytes"):
            device.submit(Transfer(0x81, -1))  # it would have to wait
        await held
        for packets in ([IsoPacket(0, -4)], [IsoPacket(-4, 4)]):
            assert (await done(device.submit(Transfer(0x83, 4, packets=packets)))).status == Status.INVALID
        assert (await done(device.submit(Transfer(0x81, 8)))).data == bytes(8)


async def test_a_mistake_is_told_at_once_to_who_would_have_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not to a callback, where it would end what waits with it."""
    monkeypatch.setattr(imported, "PIECE", 1024)
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        with pytest.raises(ValueError, match="3 bytes of payload"):
            device.submit(Transfer(0x01, 4096, b"abc"))
        assert device._in_pieces == {}
        device.submit(control(requests.clear_halt(0x01)))
        with pytest.raises(ValueError, match="3 bytes of payload"):
            device.submit(Transfer(0x01, 4, b"abc"))
        device.submit(Transfer(0x01, 4, b"good"))
        with pytest.raises(ValueError, match="3 bytes of payload"):
            device.submit(Transfer(0x00, 4, b"abc", Setup(0x40, 1, length=4).pack()))
        with pytest.raises(ValueError, match="3 bytes of payload"):
            device.submit(Transfer(0x00, 0, b"abc", requests.set_configuration(2).pack()))
        hand.complete((await hand.submit()).tag)
        assert (await hand.transfer()).data == b"good"


async def test_what_waits_behind_a_setting_can_be_cancelled() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        device.submit(control(requests.set_interface(0, 1)))
        transfer = Transfer(0x81, 8)
        answer = pending(device.submit(transfer))
        device.cancel(transfer)
        assert (await answer).status == Status.CANCELLED
        hand.complete((await hand.submit()).tag)
        device.submit(Transfer(0x82, 8))
        assert (await hand.transfer()).endpoint == 0x82


@pytest.mark.parametrize("closes", ["server", "client"])
async def test_what_waits_behind_a_setting_ends_with_the_connection(closes: str) -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        setting = pending(device.submit(control(requests.set_interface(0, 1))))
        waits = pending(device.submit(Transfer(0x81, 8)))
        await hand.submit()
        if closes == "server":
            hand.transport.close()
        else:
            await device.close()
        wanted = Status.GONE if closes == "server" else Status.SHUTDOWN
        assert ((await setting).status, (await waits).status) == (wanted, wanted)


# --- large transfers in pieces ----------------------------------------------------------------------------------------


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imported, "PIECE", 1500)  # two packets of 512


@pytest.mark.usefixtures("small_pieces")
async def test_a_large_write_goes_in_pieces_of_whole_packets() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        data = bytes(range(256)) * 10
        buffer = bytearray(data)
        answer = pending(device.submit(Transfer(0x01, len(data), memoryview(buffer), flags=Flags.ZERO_PACKET)))
        buffer[:] = bytes(len(buffer))
        behind = pending(device.submit(Transfer(0x01, 3, b"abc")))
        other = pending(device.submit(Transfer(0x82, 8)))
        got = []
        for _ in range(4):
            event = await hand.submit()
            if event.transfer.endpoint == 0x01:
                got.append((event.transfer.data, event.transfer.flags))
                hand.complete(event.tag, Completion(Status.OK, b"", event.transfer.length))
        assert got == [(data[:1024], 0), (data[1024:2048], 0), (data[2048:], Flags.ZERO_PACKET)]
        assert (await answer).actual == 2560
        event = await hand.submit()
        assert event.transfer.data == b"abc"
        hand.complete(event.tag, Completion(Status.OK, b"", 3))
        assert (await behind).actual == 3
        assert not other.done()
        assert device._in_pieces == {}


@pytest.mark.usefixtures("small_pieces")
async def test_a_large_read_ends_with_a_short_piece() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        answer = pending(device.submit(Transfer(0x81, 4096, flags=Flags.SHORT_NOT_OK)))
        behind = [pending(device.submit(Transfer(0x81, 8))) for _ in range(2)]
        first = await hand.submit()
        assert (first.transfer.length, first.transfer.flags) == (1024, Flags.SHORT_NOT_OK)
        hand.complete(first.tag, Completion(Status.OK, b"a" * 1024))
        second = await hand.submit()
        assert hand.events.empty()
        hand.complete(second.tag, Completion(Status.SHORT, b"b" * 10))
        ended = await answer
        assert (ended.status, ended.data) == (Status.SHORT, b"a" * 1024 + b"b" * 10)
        for waits in behind:  # both are under way at the same time now
            event = await hand.submit()
            hand.complete(event.tag, Completion(Status.OK, b"c"))
            assert (await waits).data == b"c"


@pytest.mark.usefixtures("small_pieces")
async def test_a_large_transfer_that_fails_says_what_it_did() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        answer = pending(device.submit(Transfer(0x01, 4096, bytes(4096))))
        hand.complete((await hand.submit()).tag, Completion(Status.OK, b"", 1024))
        hand.complete((await hand.submit()).tag, Completion(Status.STALL, b"", 512))
        ended = await answer
        assert (ended.status, ended.actual, ended.data) == (Status.STALL, 1536, b"")


async def test_a_server_that_takes_less_than_a_packet(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be cut: there were endless pieces of no bytes."""
    monkeypatch.setattr(imported, "PIECE", 300)
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        assert (await done(device.submit(Transfer(0x81, 512)))).status == Status.NO_MEMORY
        small = pending(device.submit(Transfer(0x01, 300, bytes(300))))
        large = pending(device.submit(Transfer(0x01, 512, bytes(512))))
        hand.complete((await hand.submit()).tag, Completion(Status.OK, b"", 300))
        assert ((await small).status, (await large).status) == (Status.OK, Status.NO_MEMORY)
        assert hand.events.empty()
        with pytest.raises(AssertionError):
            pieces.Pieces(device.submit, device.cancel, list, 0)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("wins", [True, False])
async def test_a_large_transfer_that_is_cancelled_says_what_it_did(wins: bool) -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        large, behind = Transfer(0x01, 4096, bytes(4096)), Transfer(0x01, 8, bytes(8))
        answer, waits = pending(device.submit(large)), pending(device.submit(behind))
        hand.complete((await hand.submit()).tag, Completion(Status.OK, b"", 1024))
        second = await hand.submit()
        device.cancel(large)
        device.cancel(behind)
        assert (await waits).status == Status.CANCELLED
        await hand.cancel()
        hand.complete(second.tag, Completion(Status.CANCELLED) if wins else Completion(Status.OK, b"", 1024))
        ended = await answer
        assert (ended.status, ended.actual) == (Status.CANCELLED, 1024 if wins else 2048)
        await turns()
        assert hand.events.empty()
        assert device._in_pieces == {}


@pytest.mark.usefixtures("small_pieces")
async def test_a_cancel_loses_against_the_last_piece() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        large = Transfer(0x01, 2048, bytes(2048))
        answer = pending(device.submit(large))
        hand.complete((await hand.submit()).tag, Completion(Status.OK, b"", 1024))
        second = await hand.submit()
        device.cancel(large)
        await hand.cancel()
        hand.complete(second.tag, Completion(Status.OK, b"", 1024))
        ended = await answer
        assert (ended.status, ended.actual) == (Status.OK, 2048)


@pytest.mark.usefixtures("small_pieces")
async def test_a_thousand_large_transfers_end_with_the_connection() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        answers = [pending(device.submit(Transfer(0x81, length))) for length in 1000 * (4096, 8)]
        await hand.submit()
        hand.transport.close()
        assert {(await answer).status for answer in answers} == {Status.GONE}
        assert device._in_pieces == {}


@pytest.mark.usefixtures("small_pieces")
async def test_pieces_wait_for_a_setting_and_end_where_their_endpoint_left() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        owner.configures = False
        answer = pending(device.submit(Transfer(0x81, 4096)))
        first = await hand.submit()
        device.submit(control(requests.set_configuration(2)))
        setting = await hand.submit()
        hand.complete(first.tag, Completion(Status.OK, bytes(1024)))
        await turns()
        hand.complete(setting.tag)
        ended = await answer
        assert (ended.status, ended.actual) == (Status.STALL, 1024)
        assert hand.events.empty()


# --- reset ------------------------------------------------------------------------------------------------------------


async def test_a_reset_of_our_own_server() -> None:
    async with zero() as device:
        await done(device.submit(control(requests.set_interface(0, 1))))
        await done(device.submit(Transfer(0x02, 5, b"hello")))
        parked = pending(device.submit(Transfer(0x84, 512)))
        assert await device.reset() is ResetOutcome.SAME
        await parked
        assert device.info.alternates == {0: 1}
        assert (await done(device.submit(Transfer(0x84, 8)))).status == Status.OK
        empty = Transfer(0x82, 512)  # what was looped is forgotten
        answer = pending(device.submit(empty))
        device.cancel(empty)
        assert (await answer).status == Status.CANCELLED


async def test_a_reset_holds_what_comes_behind_it() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        outcome = device.reset()
        device.submit(Transfer(0x81, 8))
        reset = await hand.reset()
        await turns()
        assert hand.events.empty()
        hand.exporter.reset_done(reset.tag, True)
        hand.flush()
        assert await outcome is ResetOutcome.SAME
        assert (await hand.transfer()).endpoint == 0x81


async def test_a_server_that_knows_no_reset(caplog: pytest.LogCaptureFixture) -> None:
    """usbipd-win hands the request to the device, which stalls: it is the same, and not gone."""
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        outcome = device.reset()
        hand.complete((await hand.reset()).tag, Completion(Status.STALL))
        assert await outcome is ResetOutcome.SAME
    assert "does not reset devices" in caplog.text


async def test_a_device_that_does_not_come_back_from_its_reset() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        outcome = device.reset()
        hand.complete((await hand.reset()).tag, Completion(Status.GONE))
        assert await outcome is ResetOutcome.GONE
        await device.close()
        assert await device.reset() is ResetOutcome.GONE


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_a_device_that_leaves_ends_all_that_is_pending() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        answers = [pending(device.submit(Transfer(0x81, 8))) for _ in range(3)]
        for _ in answers:
            await hand.submit()
        assert not device.gone.done()
        hand.transport.close()
        assert await device.gone == "the connection was closed"
        assert [(await answer).status for answer in answers] == 3 * [Status.GONE]
        for transfer in (Transfer(0x81, 8), Transfer(0x99, 8), control(Setup(0xC0, 1, length=1))):
            answer = device.submit(transfer)
            assert isinstance(answer, Completion)
            assert answer.status == Status.GONE
        device.cancel(Transfer(0x81, 8))
        assert await device.reset() is ResetOutcome.GONE


async def test_our_own_servers_device_vanishes() -> None:
    async with zero_server() as (server, address), opened(address) as device:
        answer = pending(device.submit(Transfer(0x82, 8)))
        await done(device.submit(Transfer(0x81, 8)))
        [offer] = server.catalog.list()
        assert isinstance(offer.device, Zero)
        offer.device.vanish()
        assert (await answer).status == Status.GONE
        assert await device.gone == "the connection was closed"


async def test_a_server_that_goes_wrong_in_use_is_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        answer = pending(device.submit(Transfer(0x81, 8)))
        await hand.submit()
        hand.transport.write(ret_submit(4711))
        assert (await answer).status == Status.GONE
        assert await device.gone == "it broke usbip: a reply to #4711, which is not in flight"
    [line] = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "127.0.0.1" in line
    assert "a reply to #4711" in line


async def test_a_transfer_that_came_before_the_broken_message_has_ended_well() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        answer = pending(device.submit(Transfer(0x81, 8)))
        asked = await hand.submit()
        hand.exporter.complete(asked.tag, Completion(Status.OK, b"data"))
        hand.exporter.outgoing.append(b"\xff" * 48)
        hand.flush()
        assert (await answer).data == b"data"
        await device.gone


@pytest.mark.parametrize("ends", ["answers", "connection"])
async def test_who_fails_over_a_completion_fails_alone(ends: str, caplog: pytest.LogCaptureFixture) -> None:
    """The listener is an exporter of ours: its mistake cut the connection to the server, or left others unanswered."""

    def fail(completion: Completion) -> None:
        raise RuntimeError("broken")

    async with hand_server() as owner, in_hand(owner) as (device, hand):
        first, second = (pending(device.submit(Transfer(0x81, 8))) for _ in range(2))
        assert isinstance(first, Promise)
        first.hear(fail)
        tags = [(await hand.submit()).tag for _ in range(2)]
        if ends == "answers":
            for tag in tags:
                hand.complete(tag, Completion(Status.OK, b"12345678"))
        else:
            hand.transport.close()
        wanted = Status.OK if ends == "answers" else Status.GONE
        async with asyncio.timeout(5):
            assert ((await first).status, (await second).status) == (wanted, wanted)
            assert ends == "answers" or await device.gone == "the connection was closed"
        assert device.gone.done() == (ends == "connection")
        assert "a completion was not taken" in caplog.text


async def test_an_offer_of_no_bytes_is_no_word_of_the_server() -> None:
    """A link offers what it has after a pause of writing too; who was not heard yet is doubted all the same."""
    link = Connection(load_importer("usbredir")(), "host:1")
    assert link.received(memoryview(b"")) == 0
    assert "does it speak usbredir?" in str(link.silent(1))
    assert link.received(memoryview(b"\0")) == 0  # as a server of another protocol may begin too
    assert "does it speak" not in str(link.silent(1))
    link.received(memoryview(b"\0\0\0\1 no hello"))
    assert link._reason(None) == "it does not speak usbredir; is the port right?"


async def test_close_ends_what_is_pending_and_says_nothing_of_gone() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        answer = pending(device.submit(Transfer(0x81, 8)))
        await hand.submit()
        await device.close()
        assert hand.lost.is_set() or await hand.lost.wait()
        assert (await answer).status == Status.SHUTDOWN
        assert not device.gone.done()
        after = device.submit(Transfer(0x81, 8))
        assert isinstance(after, Completion)
        assert after.status == Status.SHUTDOWN
        await device.close()
        await device.close()


async def test_closed_by_two_at_once() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, _):
        await asyncio.gather(device.close(), device.close())


async def test_what_was_submitted_just_before_close_is_not_half_sent() -> None:
    async with hand_server() as owner, in_hand(owner) as (device, hand):
        answer = pending(device.submit(Transfer(0x01, 3, b"abc")))
        await device.close()
        assert (await answer).status == Status.SHUTDOWN
        await hand.lost.wait()
        assert hand.held == b""


async def test_an_open_that_is_cancelled_leaves_nothing() -> None:
    async def is_waiting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(40)
        reached.set()

    reached = asyncio.Event()
    async with bad_server(is_waiting) as address, asyncio.TaskGroup() as group:
        task = group.create_task(RemoteSource(address).open("1-1", ME))
        await reached.wait()
        task.cancel()


async def test_a_device_is_free_again_once_it_is_closed() -> None:
    async with zero_server() as (_, address):
        for _ in range(3):
            async with opened(address) as device:
                assert (await done(device.submit(Transfer(0x81, 8)))).status == Status.OK


# --- a gateway: the device of a server, served again ------------------------------------------------------------------


@asynccontextmanager
async def gateway(address: str) -> AsyncIterator[tuple[Server, str]]:
    async with serving(Catalog()) as server:
        await server.offer(open_source(address))
        [(host, port)] = await server.listen("127.0.0.1", 0, load_exporter("usbip"))
        yield server, f"usbip://{host}:{port}"


async def test_a_gateway_passes_everything_on() -> None:
    async with zero_server() as (_, first), gateway(first) as (_, second):
        [listed] = await RemoteSource(second).list()
        assert (listed.device.vendor_id, listed.classes) == (0x0525, ((255, 0, 0),))
        async with opened(second) as device:
            assert device.info.product == "Gadget Zero"
            await done(device.submit(control(requests.set_interface(0, 1))))
            await done(device.submit(Transfer(0x02, 5, b"hello")))
            assert (await done(device.submit(Transfer(0x82, 512)))).data == b"hello"
            packets = [IsoPacket(0, 64), IsoPacket(64, 64)]
            assert (await done(device.submit(Transfer(0x83, 128, packets=packets)))).actual == 128
            large = 3 * pieces.PIECE
            assert (await done(device.submit(Transfer(0x81, large)))).actual == large
            parked = Transfer(0x82, 512)
            answer = pending(device.submit(parked))
            device.cancel(parked)
            assert (await answer).status == Status.CANCELLED
            assert (await done(device.submit(Transfer(0x8A, 8)))).status == Status.STALL
            assert await device.reset() is ResetOutcome.SAME


async def test_a_gateway_tells_that_its_device_is_gone() -> None:
    async with hand_server() as owner, gateway(owner.address) as (_, second), opened(second) as device:
        await owner.hands.get()  # the list's
        hand = await owner.hands.get()
        answer = pending(device.submit(Transfer(0x81, 8)))
        await hand.submit()
        hand.transport.close()
        assert (await answer).status == Status.GONE
        assert await device.gone == "the connection was closed"


async def test_a_gateway_gives_the_device_back_when_its_importer_leaves() -> None:
    async with hand_server() as owner, gateway(owner.address) as (_, second):
        await owner.hands.get()
        async with opened(second):
            hand = await owner.hands.get()
        await hand.lost.wait()


async def test_a_gateway_whose_server_is_away_refuses(caplog: pytest.LogCaptureFixture) -> None:
    async with zero_server() as (first_server, first), gateway(first) as (_, second):
        await first_server.drain()
        with pytest.raises(DeviceError):
            await RemoteSource(second).open("1-1", ME)
    assert "Connection refused" in caplog.text


async def test_an_interface_of_one_configuration_only() -> None:
    table = descriptors(configurations=[Configuration(1, (Interface(0),)), *CONFIGURATIONS[1:]])
    async with hand_server(table) as owner, in_hand(owner) as (device, _):
        assert device._touched(requests.set_interface(0, 0)) == {0x86}
        assert device._touched(requests.clear_halt(0x81)) == {0x81}
        assert device._touched(Setup(0, requests.Request.SET_FEATURE, 1)) is None
