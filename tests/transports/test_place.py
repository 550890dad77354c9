"""Places as text, and socket files as places."""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
import re
import socket
import sys
from pathlib import Path

import pytest

from tests.conftest import Run
from usbferry.device import DeviceError
from usbferry.registry import PROTOCOLS, TRANSPORTS, load_exporter, load_transport, open_source
from usbferry.server.answers import OnPackets
from usbferry.transports.link import Link
from usbferry.transports.place import Place, parse


@pytest.mark.parametrize(
    ("address", "place", "text"),
    [
        ("usbredir://host", Place("host", 4000), "host:4000"),
        ("usbredir://host:1", Place("host", 1), "host:1"),
        ("usbredir://host:1/1-2", Place("host", 1, name="1-2"), "host:1"),
        ("usbredir://[::1]:7", Place("::1", 7), "[::1]:7"),
        ("usbredir://:4001", Place("", 4001), ":4001"),
        ("usbredir://:0", Place("", 0), ":0"),
        ("usbredir:///run/vm%201.sock", Place("", 0, "/run/vm 1.sock"), "/run/vm 1.sock"),
        ("usbredir:///run/vm?device=1-2", Place("", 0, "/run/vm", "1-2"), "/run/vm"),
    ],
)
def test_places(address: str, place: Place, text: str) -> None:
    assert parse(address, 4000) == place
    assert str(place) == text
    assert parse(f"usbredir://{place.whole}", 4000) == place or "%" in address


@pytest.mark.parametrize(
    ("address", "place", "transport"),
    [
        ("ferry+udp://host", Place("host", 4000, other="udp"), "udp"),
        ("ferry+udp://[::1]:7/1-2", Place("::1", 7, name="1-2", other="udp"), "udp"),
        ("ferry+seqpacket:///run/x?device=1-2", Place("", 0, "/run/x", "1-2", "seqpacket"), "seqpacket"),
        ("ferry+unix:///run/x", Place("", 0, "/run/x"), "unix"),
        ("ferry+tcp://host", Place("host", 4000), "tcp"),
        ("ferry://host", Place("host", 4000), "tcp"),
    ],
)
def test_a_transport_may_be_named(address: str, place: Place, transport: str) -> None:
    assert parse(address, 4000) == place
    assert place.transport == transport
    assert parse(f"{place.scheme('ferry')}://{place.whole}", 4000) == place


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("ferry+udp:///run/x", "write it as ferry+udp://HOST:PORT$"),
        ("ferry+unix://host", "write it as ferry+unix:///SOCKET-FILE$"),
        ("ferry+sctp://host", "there is no ferry+sctp; there are: ferry+tcp, ferry+unix, ferry+seqpacket, ferry+udp$"),
        ("usbredir+udp://host", r"there is no usbredir\+udp; there are: usbredir\+tcp, usbredir\+unix$"),
    ],
)
def test_a_transport_that_does_not_fit(address: str, text: str) -> None:
    with pytest.raises(ValueError, match=text.replace("ferry+", r"ferry\+")):
        parse(address, 4000)


def test_sources_may_name_their_transport() -> None:
    for address in ("usbip+tcp://host/1-2", "usbredir+unix:///run/x", "ferry+udp://host/1-2", "ferry:///run/x"):
        assert open_source(address).address == address
    for address in ("usbip+udp://host", "virtual+udp:zero"):
        with pytest.raises(ValueError, match="there is no "):
            open_source(address)
    udp, file = open_source("ferry+udp://host:32740/1-2"), open_source("ferry:///run/a%20b?device=1-2")
    assert (udp.place, udp.at("1-3")) == ("ferry+udp://host", "ferry+udp://host/1-3")
    assert (file.place, file.at("1-3")) == ("ferry:///run/a%20b", "ferry:///run/a%20b?device=1-3")
    assert (udp.name, file.name) == ("1-2", "1-2")


def test_listeners_take_what_their_rows_say() -> None:
    """One took any words that it was given, and another was known by its name."""
    for name, row in TRANSPORTS.items():
        parameters = inspect.signature(load_transport(name).listen).parameters
        words = {"user"} if row.connects else {"user", "opens"}
        assert set(parameters) == words | ({"path", "mode"} if row.at_files else {"host", "port"}), name
    for name, protocol in PROTOCOLS.items():
        on_packets = not all(TRANSPORTS[transport].connects for transport in protocol.transports)
        assert isinstance(load_exporter(name), OnPackets) is on_packets


@pytest.mark.parametrize(
    "address",
    [
        "usbredir:host",
        "usbredir:/run/x",
        "usbredir://",
        "usbredir:///",
        "usbredir://a:b",
        "usbredir://u@h",
        "usbredir://h?x=1",
    ],
)
def test_what_is_no_place(address: str) -> None:
    with pytest.raises(ValueError, match="write it as usbredir://HOST:PORT or usbredir:///SOCKET-FILE"):
        parse(address, 4000)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("host:port", "a port is a number up to 65535"),
        ("host:65536", "a port is a number up to 65535"),
        ("host:0", "a port is a number from 1 to 65535"),
        ("fe80::1", "an IPv6 address stands in brackets, as in [::1]:PORT"),
        ("::1/1-2", "an IPv6 address stands in brackets, as in [::1]:PORT"),
        ("[::1", "what is in brackets is an IPv6 address"),
        ("[::1]:port", "a port is a number up to 65535"),
    ],
)
def test_what_is_wrong_is_said_in_our_words(where: str, text: str) -> None:
    """Python's were "Port could not be cast to integer value as ':1'". The port of an example is the protocol's."""
    for scheme, port in (("usbip", 3240), ("ferry", 32740), ("ferry+udp", 32740), ("usbredir", 4000)):
        said = text.replace("PORT", str(port))
        with pytest.raises(
            ValueError, match=rf"://{re.escape(where)}' is no address, write it as .*: {re.escape(said)}$"
        ):
            open_source(f"{scheme}://{where}")


linux = pytest.mark.skipif(sys.platform != "linux", reason="sockets that keep borders")


class Echo:
    """The user of a link that sends back what comes, or only notes it."""

    needed = 1

    def __init__(self, *, answers: bool = True) -> None:
        self.heard = b""
        self.has_heard = asyncio.Event()
        self.lost_ = asyncio.Event()
        self._answers = answers

    def opened(self, link: Link) -> None:
        self.link = link

    def received(self, view: memoryview) -> int:
        self.heard += view
        self.has_heard.set()
        if self._answers:
            self.link.write([bytes(view)], len(view))
        return len(view)

    def lost(self, error: Exception | None) -> None:
        self.lost_.set()


@pytest.mark.skipif(sys.platform == "win32", reason="no socket files")
async def test_a_socket_file(tmp_path: Path) -> None:
    place = parse(f"usbredir://{tmp_path}/sock", 4000)
    far, near = Echo(), Echo(answers=False)
    server = await place.listen(lambda: far)
    with pytest.raises(OSError, match="somebody listens there already"):
        await place.listen(Echo)
    link = await place.connect(near)
    assert link.peer == str(place)
    link.write([b"hello"], 5)
    await near.has_heard.wait()
    link.abort()
    await far.lost_.wait()
    await near.lost_.wait()
    server.close()
    assert far.heard == near.heard == b"hello"


@pytest.mark.skipif(sys.platform == "win32", reason="no socket files")
@pytest.mark.parametrize("transport", ["unix", pytest.param("seqpacket", marks=linux)])
def test_who_may_use_a_socket_file_may_be_said(run: Run, tmp_path: Path, transport: str) -> None:
    """libvirt's machines run as a user of their own, who may write to no file of ours."""
    rights = {}

    async def work() -> None:
        for option in ("", "?mode=666", "?mode=0660", "?mode=000"):
            path = tmp_path / f"sock{option[-3:]}"
            server = await parse(f"ferry+{transport}://{path}{option}", 4000, is_made=True).listen(Echo)
            rights[option] = path.stat().st_mode & 0o777
            server.close()
            await asyncio.sleep(0)

    umask = os.umask(0o077)
    try:
        run(work())
    finally:
        os.umask(umask)
    assert list(rights.values()) == [0o700, 0o666, 0o660, 0]


@pytest.mark.skipif(sys.platform == "win32", reason="no socket files")
async def test_a_socket_file_that_may_not_be_used_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be that of a server, which nobody could have reached any more."""
    path = tmp_path / "sock"
    server = await parse(f"usbredir://{path}?mode=000", 4000, is_made=True).listen(Echo)

    def refused(self: socket.socket, address: str) -> None:  # as of everybody but root
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refused)
    place = Place("", 0, str(path))
    with pytest.raises(PermissionError) as raised:
        await place.listen(Echo)
    assert place.no_listening(raised.value).startswith(
        "the file is there, and this user may not use it; choose another"
    )
    assert path.is_socket()
    server.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no socket files")
async def test_who_stops_while_a_file_is_being_made_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(Place("", 0, str(path)).listen(Echo))
        await asyncio.sleep(0)
        listening.cancel()
    assert not path.exists()


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("usbredir:///x?mode=rw", "mode=rw is no access to a file; 660 is its user's and group's, 666 everybody's"),
        ("usbredir:///x?mode=6660", "mode=6660 is no access to a file"),
        ("usbredir:///x?mode=", "mode= is no access to a file"),
        ("usbredir://:4000?mode=660", "is no address, write it as"),
        ("usbredir:///x?group=kvm", "SOCKET-FILE; options of a socket file are device and mode$"),
        ("usbredir:///x?mode", "is no address, write it as"),
        ("usbredir:///x?mode=600&mode=666", "is no address, write it as"),
        ("usbredir:///x?device", "is no address, write it as"),
    ],
)
def test_what_is_no_mode(address: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse(address, 4000, is_made=True)


def test_only_who_makes_a_file_says_who_may_use_it() -> None:
    place = Place("", 0, "/x", "1-2", mode=0o660)
    assert parse("usbredir:///x?mode=660&device=1-2", 4000, is_made=True) == place
    assert parse("usbredir:///x?device=1-2&mode=660", 4000, is_made=True) == place
    assert place.whole == "/x?device=1-2"
    with pytest.raises(ValueError, match="is no address"):
        parse("usbredir:///x?mode=660", 4000)


@pytest.mark.skipif(sys.platform == "win32", reason="no socket files")
async def test_a_socket_file_that_was_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = await Place("", 0, str(path)).listen(Echo)
    server.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no socket files")
async def test_a_socket_file_that_is_not_there(tmp_path: Path) -> None:
    """It was told that there is no such file or directory, and neither which, nor what to do."""
    file = tmp_path / "plain"
    file.touch()
    for path, text in (
        (tmp_path / "sock", "there is no socket file; is the path right, and a server running?"),
        (tmp_path / "x" / "sock", f"there is no folder {tmp_path / 'x'}; is the path right, and a server running?"),
        (file, "the file is no socket; is the path right?"),
    ):
        with pytest.raises(DeviceError) as raised:
            await open_source(f"usbredir://{path}").list()
        assert str(raised.value) == f"no connection to {path}: {text}"


@linux
@pytest.mark.parametrize(
    ("listens", "asked", "meant"),
    [
        ("ferry+seqpacket://{}", "ferry://{}", "ferry+seqpacket://{}"),
        ("ferry://{}", "ferry+seqpacket://{}?device=1-3", "ferry://{}?device=1-3"),
        ("ferry://{}", "ferry://{}/1-3", "ferry://{}?device=1-3"),
        ("ferry+seqpacket://{}", "ferry+seqpacket://{}/1-3", "ferry+seqpacket://{}?device=1-3"),
    ],
)
async def test_the_address_that_was_meant_is_told(listens: str, asked: str, meant: str, tmp_path: Path) -> None:
    """What Linux says of it helps nobody: wrong protocol type, not a directory."""
    path = tmp_path / "f.sock"
    listening = await parse(listens.format(path), 4000).listen(Echo)
    source = open_source(asked.format(path))
    with pytest.raises(DeviceError) as raised:
        await source.list()
    listening.close()
    assert str(raised.value).endswith(f": write {meant.format(path)}")


def test_what_was_meant_is_told_where_it_is_so() -> None:
    wrong_kind, no_folder = OSError(errno.EPROTOTYPE, ""), OSError(errno.ENOTDIR, "")
    for address in ("usbredir:///x/y", "ferry:///x/y/1-3"):
        text = parse(address, 4000).no_connection(no_folder, address.partition(":")[0])
        there = "/x" if "1-3" not in address else "/x/y"
        assert text == f"there is no folder {there}; is the path right, and a server running?"
    told = parse("usbredir:///x", 4000).no_connection(wrong_kind, "usbredir")
    assert told == "a socket of another kind is there; is the path right?"


@linux
@pytest.mark.parametrize("scheme", ["ferry", "ferry+seqpacket"])
async def test_a_socket_file_goes_with_who_listens_there(scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "f.sock"
    place = parse(f"{scheme}://{path}", 4000)
    first = await place.listen(Echo)
    path.unlink()
    second = await place.listen(Echo)
    first.close()
    assert path.is_socket(), "it is another one's by now"
    second.close()
    assert not path.exists()
    path.write_text("another's")
    second.close()
    assert path.exists()
