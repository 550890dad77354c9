"""A server that is not where it is looked for: its machine's other ways are asked, and the one that answers is told."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.backends.test_remote import free_port
from usbferry.backends import connection, elsewhere
from usbferry.backends.doubts import Silent, Unreached, Wordless
from usbferry.backends.elsewhere import Elsewhere, others
from usbferry.backends.ferry import FerrySource
from usbferry.backends.handover import claim
from usbferry.backends.remote import RemoteSource
from usbferry.device import Claimant, DeviceError
from usbferry.registry import PROTOCOLS, load_exporter, open_source
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving
from usbferry.transports.place import Place
from usbferry.transports.reasons import with_listening

ME = Claimant("here")


@asynccontextmanager
async def served(protocol: str, transport: str = "") -> AsyncIterator[int]:
    """Gadget Zero at a port of this machine."""
    async with serving(Catalog()) as server:
        await server.offer(open_source("virtual:zero"))
        [place] = await server.listen_at(Place("127.0.0.1", 0, other=transport), load_exporter(protocol))
        yield place.port


@pytest.mark.parametrize("question", ["list", "open"])
@pytest.mark.parametrize(("asked", "there"), [("ferry", "ferry+udp"), ("ferry+udp", "ferry")])
async def test_the_other_transport(asked: str, there: str, question: str) -> None:
    async with served("ferry", there.partition("+")[2]) as port, asyncio.timeout(5):
        source = open_source(f"{asked}://127.0.0.1:{port}/1-1?buffer=0.1")
        with pytest.raises(Unreached) as raised:
            await (source.list() if question == "list" else source.open("1-1", ME))
        where = f"127.0.0.1:{port}"
        meant = f"{there}://{where}/1-1?buffer=0.1"
        assert str(raised.value) == f"no connection to {where}: Connection refused; write {meant}, which answers"
        [info] = await open_source(meant).list()
        assert info.name == "1-1"


@pytest.mark.parametrize("question", ["list", "open"])
async def test_silence_by_udp(question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DOUBT_SECONDS", 0.05)
    async with served("ferry") as port, asyncio.timeout(5):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", port))  # few use UDP; of TCP it may be some connection's by now
            source = open_source(f"ferry+udp://127.0.0.1:{port}")
            with pytest.raises(Silent) as raised:
                await (source.list() if question == "list" else source.open("1-1", ME))
    where = f"127.0.0.1:{port}"
    assert str(raised.value) == f"{where} says nothing by UDP; write ferry://{where}, which answers"


async def test_the_other_protocol_where_no_port_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the kernel's driver too, which gets a connection of its own."""
    async with served("ferry") as port, asyncio.timeout(5):
        rows = {"usbip": PROTOCOLS["usbip"]._replace(port=free_port()), "ferry": PROTOCOLS["ferry"]._replace(port=port)}
        for name, row in rows.items():
            monkeypatch.setitem(PROTOCOLS, name, row)
        source = RemoteSource("usbip://localhost/1-1")
        for ask in (source.list(), source.open("1-1", ME), claim(source, "1-1")):
            with pytest.raises(Unreached, match=r"; write ferry://localhost/1-1, which answers$"):
                await ask


@pytest.mark.parametrize(("asked", "there"), [("usbip", "ferry"), ("ferry", "usbip")])
async def test_the_other_protocol_at_a_port_that_was_written(asked: str, there: str) -> None:
    """A machine and its port alone are USB/IP's, whatever it is that is served there."""
    async with served(there) as port, asyncio.timeout(5):
        source = open_source(f"{asked}://127.0.0.1:{port}/1-1")
        assert isinstance(source, RemoteSource)
        asks = [source.list(), source.open("1-1", ME), *([claim(source, "1-1")] if asked == "usbip" else [])]
        for ask in asks:
            with pytest.raises(Wordless) as raised:
                await ask
            what = f"127.0.0.1:{port}: the connection was closed without an answer"
            assert str(raised.value) == f"{what}; write {there}://127.0.0.1:{port}/1-1, which answers"


async def test_what_answers_otherwise_is_not_told() -> None:
    """A port that is open is no server: what came here has said nothing."""

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with server, asyncio.timeout(5):
        port = server.sockets[0].getsockname()[1]
        source = FerrySource(f"ferry+udp://127.0.0.1:{port}")
        with pytest.raises(Unreached, match=r"Connection refused; is a server running there\?$"):
            await source.list()


async def test_a_port_that_resets_connections_may_be_another_protocols() -> None:
    """A socket that is closed with something unread in it is reset."""

    def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    async def ask(address: str) -> None:
        asked.append(address)

    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    async with server, asyncio.timeout(5):
        where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ways = "Connection reset by peer", "the connection was closed without an answer"  # it is found when we write
        source = RemoteSource(f"usbip://{where}/1-1")
        for question in (source.list, lambda: source.open("1-1", ME), lambda: claim(source, "1-1")):
            asked: list[str] = []
            source.elsewhere = Elsewhere(source.address, source.port, ask)
            with pytest.raises(Wordless) as raised:
                await question()
            meant = f"ferry://{where}/1-1"
            assert str(raised.value) in [f"{where}: {how}; write {meant}, which answers" for how in ways]
            assert asked == [meant]


async def test_who_tries_on_does_not_ask_elsewhere_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def ask(address: str) -> None:
        asked.append(address)
        raise DeviceError("nobody")

    looking = Elsewhere("ferry://host", None, ask)
    for _ in range(3):
        assert await looking.find() == ""
    assert asked == ["ferry+udp://host", "usbip://host"]
    assert await looking.find(is_foreign=True) == ""
    assert len(asked) == 2, "it has a port of its own"
    monkeypatch.setattr(elsewhere, "QUIET_SECONDS", 0.0)
    await looking.find()
    assert len(asked) == 4


async def test_an_answer_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "ASK_SECONDS", 0.01)
    never = asyncio.Event()
    assert await Elsewhere("ferry://host", 5, lambda address: never.wait()).find() == ""


@pytest.mark.parametrize(
    ("address", "port", "found"),
    [
        ("ferry://[::1]/1-2", None, ["ferry+udp://[::1]/1-2", "usbip://[::1]/1-2"]),
        ("ferry+tcp://host:5", 5, ["ferry+udp://host:5"]),
        ("ferry+udp://host", None, ["ferry://host", "usbip://host"]),
        ("usbip://host/046d:*", None, ["ferry://host/046d:*"]),
        ("usbip://host:5", 5, []),
        ("ferry:///run/ferry?device=1-2", None, []),
    ],
)
def test_the_other_ways(address: str, port: int | None, found: list[str]) -> None:
    assert others(address, port) == found


@pytest.mark.parametrize(
    ("host", "number", "text"),
    [
        ("lab", 111, "no; is a server running there, and listening to other machines (usbferry serve --listen :3240)?"),
        (
            "192.0.2.7",
            111,
            "no; is a server running there, and listening to other machines (usbferry serve --listen :3240)?",
        ),
        ("::1", 111, "no; is a server running there?"),
        ("lab", 113, "no; is a server running there?"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="numbers of errors")
def test_a_server_may_listen_to_its_own_machine_alone(host: str, number: int, text: str) -> None:
    assert with_listening("no; is a server running there?", OSError(number, "x"), host, "--listen :3240") == text


@pytest.mark.parametrize(
    ("scheme", "option"),
    [("usbip", "--listen :PORT"), ("ferry", "--on ferry://:PORT"), ("usbredir", "--on usbredir://:PORT")],
)
async def test_the_option_is_that_of_the_protocol(scheme: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*args: object, **words: object) -> None:
        raise ConnectionRefusedError(111, "refused")

    for transport in ("tcp", "udp"):  # the other way is asked, too
        monkeypatch.setattr(f"usbferry.transports.{transport}.connect", refused)
    port = free_port()
    with pytest.raises(
        Unreached, match=re.escape(f"other machines (usbferry serve {option.replace('PORT', str(port))})?")
    ):
        await open_source(f"{scheme}://192.0.2.1:{port}").list()
