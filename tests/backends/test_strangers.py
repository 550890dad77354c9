"""Two ends that speak different protocols: each is told so in one line, with what to do, and at once."""

from __future__ import annotations

import asyncio
import re
import sys
from itertools import permutations
from pathlib import Path

import pytest

from tests.backends.test_redir import until
from tests.protocols.test_openings import FOREIGN, TITLES
from usbferry.backends.connection import Connection
from usbferry.backends.doubts import doubted
from usbferry.device import Claimant, DeviceError
from usbferry.registry import PROTOCOLS, load_exporter, load_importer, open_source
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving
from usbferry.transports.place import Place

ME = Claimant("here")


@pytest.mark.parametrize("question", ["list", "open"])
@pytest.mark.parametrize(("on", "asked"), [*permutations(PROTOCOLS, 2)])
async def test_a_port_of_another_protocol(on: str, asked: str, question: str, caplog: pytest.LogCaptureFixture) -> None:
    """usbredir speaks first, so its server is named; the others close, and their logs name the client."""
    async with serving(Catalog()) as server, asyncio.timeout(5):
        await server.offer(open_source("virtual:zero"))
        [place] = await server.listen_at(Place("127.0.0.1", 0), load_exporter(on))
        source = open_source(f"{asked}://{place}")
        with pytest.raises(DeviceError) as raised:
            await (source.list() if question == "list" else source.open("1-1", ME))
        await source.close()
        titles = TITLES.get(asked, asked), TITLES.get(on, on)
        if on == "usbredir":
            text = f"{place}: it does not speak {titles[0]} but {titles[1]}; write {on}://{place}"
        elif asked != "usbredir":
            text = f"{place}: the connection was closed without an answer; write {on}://{place}, which answers"
        else:
            text = f"{place}: the connection was closed without an answer; does it speak {titles[0]}?"
        assert str(raised.value) == text
        remedy = f"write {on}:// there, or serve it --on {asked}://HOST here"
        said = rf"127\.0\.0\.1:\d+: it does not speak {titles[1]} but {titles[0]}; {remedy}$"
        await until(lambda: any(re.match(said, one.getMessage()) for one in caplog.records))


@pytest.mark.parametrize("client", ["a browser", "TLS"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_client_of_none_of_them(protocol: str, client: str, caplog: pytest.LogCaptureFixture) -> None:
    raw, words = FOREIGN[client]
    async with serving(Catalog()) as server, asyncio.timeout(5):
        [place] = await server.listen_at(Place("127.0.0.1", 0), load_exporter(protocol))
        reader, writer = await asyncio.open_connection(place.host, place.port)
        writer.write(raw)
        await reader.read()
        writer.close()
        here = "127.0.0.1:{}".format(writer.get_extra_info("sockname")[1])
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line == f"{here}: it does not speak {TITLES.get(protocol, protocol)}{words}; is the port right there?"


@pytest.mark.skipif(sys.platform == "win32", reason="no socket files")
async def test_a_socket_file_of_something_else(tmp_path: Path) -> None:
    """As of QEMU's monitor, beside that of its usbredir."""

    async def monitor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"QMP": {}}\r\n')
        await reader.read()
        writer.close()

    path = tmp_path / "monitor"
    async with await asyncio.start_unix_server(monitor, path), asyncio.timeout(5):
        with pytest.raises(DeviceError) as raised:
            await open_source(f"usbredir://{path}").list()
    assert str(raised.value) == f"""{path}: it does not speak usbredir, it says '{{"QMP": {{}}}}'; is the path right?"""


async def test_who_tries_on_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """Who offers a device by `serve --to` connects every eight seconds, for ever."""
    async with serving(Catalog()) as server, asyncio.timeout(5):
        [place] = await server.listen_at(Place("127.0.0.1", 0), load_exporter("usbip"))
        for _ in range(3):
            with pytest.raises(DeviceError):
                await open_source(f"usbredir://{place}").list()
    assert [record.levelname for record in caplog.records if record.name.endswith("answers")] == ["WARNING"]


async def test_who_comes_to_use_a_device_where_they_are_brought(caplog: pytest.LogCaptureFixture) -> None:
    """It went without a word on either side."""
    waiting = open_source("usbredir://127.0.0.1:0?listen")
    await waiting.list()
    source = open_source(f"ferry://{waiting.where}")  # type: ignore[attr-defined]
    with pytest.raises(DeviceError, match="it does not speak ferry but usbredir"):
        await source.list()
    said = "it does not speak usbredir but ferry; to this port come those who bring a device, by usbredir"
    await until(lambda: said in caplog.text)
    await waiting.close()


@pytest.mark.parametrize(
    ("protocol", "server", "remedy"),
    [
        ("ferry", "host:3240", " 3240 is the port of USB/IP: write usbip://host:3240"),
        ("usbip", "[::1]:32740", " 32740 is the port of ferry: write ferry://[::1]:32740"),
        ("usbip", "host:4000", " 4000 is the port of usbredir: write usbredir://host:4000"),
        ("usbip", "host:3240", ""),
        ("ferry", "/run/usbferry.sock", ""),
    ],
)
def test_a_port_that_is_usually_anothers(protocol: str, server: str, remedy: str) -> None:
    assert doubted(protocol, server) == f"does it speak {TITLES.get(protocol, protocol)}?{remedy}"


async def test_a_stranger_who_comes_in_two_pieces_is_told_all_the_same() -> None:
    """Four zeros may begin a hello, and are too few for ferry to say that they begin none of its records."""
    link = Connection(load_importer("ferry")(), "host:1")
    hello = bytes(4) + b"\x44" + bytes(75)
    assert link.received(memoryview(hello[:4])) == 0
    assert link._error is None
    link.received(memoryview(hello))
    assert link._reason(None) == "it does not speak ferry but usbredir; write usbredir://host:1"


@pytest.mark.parametrize("piece", [1, 12, 100])
async def test_what_comes_later_is_no_opening(piece: int) -> None:
    """usbipd writes its answer in pieces, and the second of a list begins with a path."""
    link = Connection(load_importer("usbip")(), "host:1")
    link.importer.list_devices()
    exporter = load_exporter("usbip")()
    exporter.receive(memoryview(b"".join(link.importer.outgoing)), 0.0)
    assert len(list(exporter.events())) == 1
    exporter.listed(await open_source("virtual:zero").list())
    said, at = b"".join(exporter.outgoing), 0
    for end in (*range(piece, len(said), piece), len(said)):
        at += link.received(memoryview(said[at:end]))
        assert link._error is None
    assert at == len(said)
