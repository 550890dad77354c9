"""Links on packets: each record of the user's is one packet, and what comes is offered as it would be on a stream."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.transports.test_link import Taker
from usbferry.transports import seqpacket, udp
from usbferry.transports.link import Link
from usbferry.transports.packets import MOST_HELD, SOCKET_BYTES, packets
from usbferry.transports.place import Place, parse

posix = pytest.mark.skipif(sys.platform == "win32", reason="no socket files")


def record(text: bytes) -> bytes:
    """What a user of a stream says."""
    return len(text).to_bytes(4, "big") + text


@pytest.mark.parametrize(
    ("pieces", "cut"),
    [
        ([], []),
        ([record(b"one")], [b"one"]),
        ([record(b"one"), record(b"two")], [b"one", b"two"]),
        ([(5).to_bytes(4, "big") + b"he", b"ll", b"o", record(b"x")], [b"hello", b"x"]),
        ([(5).to_bytes(4, "big"), memoryview(b"hello")], [b"hello"]),
    ],
)
def test_records_are_cut_at_their_borders(pieces: list[bytes], cut: list[bytes]) -> None:
    assert [b"".join(packet) for packet in packets(pieces)] == cut


async def heard_first(made: list[Taker], what: bytes) -> None:
    await asyncio.wait_for(exist(made, 1), 5)
    await heard(made[0], what)


async def heard(taker: Taker, what: bytes) -> None:
    await asyncio.wait_for(taker.until(lambda: bytes(taker.taken) == what), 5)


async def exist(made: list[Taker], count: int) -> None:
    while len(made) < count:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def met(place: Place, near: Taker) -> AsyncIterator[list[Taker]]:
    """Somebody who listens there, and one who has said hello; whom the listener made."""
    made: list[Taker] = []

    def user() -> Taker:
        made.append(Taker())
        return made[-1]

    listening = await place.listen(user)
    if place.host:
        place = Place(place.host, listening.sockets[0].getsockname()[1], other=place.other)
    try:
        link = await place.connect(near)
        link.write([record(b"hello")], 9)
        await exist(made, 1)
        await heard(made[0], record(b"hello"))
        yield made
    finally:
        for taker in (*made, near):
            if taker.link is not None and not taker.ended:
                taker.link.abort()
        listening.close()
        await asyncio.sleep(0)


places = pytest.mark.parametrize("address", ["ferry+udp://127.0.0.1:0", pytest.param("ferry+seqpacket", marks=posix)])


def place_of(address: str, directory: Path) -> Place:
    return parse(address if "://" in address else f"{address}://{directory}/sock", 0)


@places
def test_what_is_said_arrives_in_one_piece(run: Run, tmp_path: Path, address: str) -> None:
    async def work() -> None:
        near = Taker()
        async with met(place_of(address, tmp_path), near) as [far]:
            assert far.link is not None
            far.link.write([record(b"a"), (2000).to_bytes(4, "big"), bytes(2000)], 2009)
            await heard(near, record(b"a") + record(bytes(2000)))
            assert far.link.packet_bytes == near.link.packet_bytes > 1000
            assert far.link.peer

    run(work())


@places
def test_what_is_not_taken_is_offered_again(run: Run, tmp_path: Path, address: str) -> None:
    async def work() -> None:
        near = Taker()
        async with met(place_of(address, tmp_path), near) as [far]:
            near.takes = False
            far.link.write([record(b"a")], 5)
            await near.until(lambda: near.most_offered == 5)
            far.link.write([record(b"b")], 5)
            await near.until(lambda: near.most_offered == 10)
            near.takes = True
            near.link.process()
            assert near.taken == record(b"a") + record(b"b")

    run(work())


@places
def test_who_closes_says_what_is_queued_first(run: Run, tmp_path: Path, address: str) -> None:
    async def work() -> None:
        near = Taker()
        async with met(place_of(address, tmp_path), near) as [far]:
            for _ in range(20):
                far.link.write([record(bytes(1000))], 1004)
            far.link.close()
            await heard(near, record(bytes(1000)) * 20)
            await far.until(lambda: bool(far.ended))
            assert far.ended == [None]
            far.link.write([record(b"x")], 5)  # goes nowhere
            assert far.link.unsent == 0

    run(work())


@posix
def test_a_file_whose_peer_leaves_ends_and_one_that_takes_nothing_stops_the_other(run: Run, tmp_path: Path) -> None:
    async def work() -> None:
        near = Taker()
        async with met(parse(f"ferry+seqpacket://{tmp_path}/sock", 0), near) as [far]:
            near.takes = False
            sent = 0
            while sent < 3 * MOST_HELD or not far.link.unsent:
                far.link.write([record(bytes(50_000))], 50_004)
                sent += 50_004
                await asyncio.sleep(0)
            assert near.most_offered <= MOST_HELD + 64 * 50_004
            near.takes = True
            near.link.process()
            await near.until(lambda: len(near.taken) == sent)
            near.link.abort()
            await far.until(lambda: bool(far.ended))

    run(work())


@posix
async def test_one_socket_file_has_one_listener_of_whatever_kind(tmp_path: Path) -> None:
    packet, stream = parse(f"ferry+seqpacket://{tmp_path}/a", 0), parse(f"ferry://{tmp_path}/a", 0)
    listening = await packet.listen(Taker)
    for place in (packet, stream):
        with pytest.raises(OSError, match="somebody listens there already"):
            await place.listen(Taker)
    listening.close()
    assert not os.path.exists(packet.path)  # noqa: ASYNC240 - it takes no time
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(packet.path)
    (await packet.listen(Taker)).close()
    with pytest.raises(FileNotFoundError):
        await packet.connect(Taker())


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """This process may open no file."""
    resource = pytest.importorskip("resource")
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, allowed[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)


@posix
def test_a_system_without_room_is_asked_again_later_and_not_at_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The listener stayed readable: the loop did nothing but look at it."""

    async def work() -> None:
        made: list[Taker] = []

        def user() -> Taker:
            made.append(Taker())
            return made[-1]

        for seconds in (0.01, 3600.0):
            listening = await parse(f"ferry+seqpacket://{tmp_path}/sock", 0).listen(user)
            monkeypatch.setattr(seqpacket, "AGAIN_SECONDS", seconds)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as knocks:
                with no_more_files():
                    knocks.connect(f"{tmp_path}/sock")
                    caplog.clear()
                    while not caplog.records:  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(0)
                    for _ in range(200):
                        await asyncio.sleep(0)
                if seconds < 1:
                    await asyncio.wait_for(exist(made, 1), 5)
            listening.close()
        assert "nobody is let in for 3600 s: Too many open files" in caplog.text
        assert (len(caplog.records), len(made)) == (1, 1)
        await made[0].until(lambda: bool(made[0].ended))

    run(work())


@posix
async def test_who_cannot_be_served_is_not_kept(tmp_path: Path) -> None:
    class Unwilling(Taker):
        def opened(self, link: Link) -> None:
            raise ValueError("not now")

    def nobody() -> Taker:
        raise ValueError("never")

    failed: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failed.append(str(context["exception"])))
    for user in (Unwilling, nobody):
        listening = await parse(f"ferry+seqpacket://{tmp_path}/sock", 0).listen(user)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as knocks:
            knocks.setblocking(False)
            knocks.connect(f"{tmp_path}/sock")
            assert await asyncio.wait_for(loop.sock_recv(knocks, 1), 5) == b""
        listening.close()
    assert failed == ["not now", "never"]


async def test_peers_of_one_port_are_told_apart() -> None:
    made: list[Taker] = []

    def user() -> Taker:
        made.append(Taker())
        return made[-1]

    listening = await udp.listen("127.0.0.1", 0, user, opens=lambda packet: packet.startswith(b"open"))
    address = listening.sockets[0].getsockname()
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        one.sendto(b"stray", address)
        one.sendto(b"open 1", address)
        two.sendto(b"open 2", address)
        two.sendto(b"more", address)
        await exist(made, 2)
        await heard(made[0], record(b"open 1"))
        await heard(made[1], record(b"open 2") + record(b"more"))
        made[0].link.write([record(b"to one")], 10)
        assert await asyncio.to_thread(one.recv, 100) == b"to one"
        made[0].link.close()
        listening.close()  # who is there stays
        one.sendto(b"open 3", address)
        two.sendto(b"last", address)
        await heard(made[1], record(b"open 2") + record(b"more") + record(b"last"))
        assert len(made) == 2
        made[1].link.close()
        await asyncio.sleep(0)
        assert listening.sockets[0].fileno() < 0


async def test_peers_that_may_not_exist_have_few_places(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A forged packet each took the places of those who connect."""
    monkeypatch.setattr(udp, "MAX_UNPROVEN", 2)
    made: list[Taker] = []

    def user() -> Taker:
        made.append(Taker())
        return made[-1]

    listening = await udp.listen("127.0.0.1", 0, user)
    address = listening.sockets[0].getsockname()
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(6)]
        for peer in peers[:4]:
            peer.sendto(b"hello", address)
        peers[0].sendto(b"all", address)
        await heard_first(made, record(b"hello") + record(b"all"))
        assert len(made) == 2
        assert [entry.levelname for entry in caplog.records] == ["WARNING"], "said once"
        assert made[0].link is not None
        made[0].link.proven()
        peers[4].sendto(b"hello", address)  # has the place of the one that is known
        peers[5].sendto(b"hello", address)
        await asyncio.wait_for(exist(made, 3), 5)
        assert made[1].link is not None
        made[1].link.close()
        await made[1].until(lambda: bool(made[1].ended))
        peers[5].sendto(b"again", address)  # and that of the one that left
        await asyncio.wait_for(exist(made, 4), 5)
        await heard(made[3], record(b"again"))
        assert len(caplog.records) == 1
        listening.close()
        for taker in (made[0], *made[2:]):
            assert taker.link is not None
            taker.link.close()
        assert listening.sockets[0].fileno() < 0


async def test_one_that_cannot_be_served_costs_no_other_its_packets(caplog: pytest.LogCaptureFixture) -> None:
    """All that came after its packet in the same turn was dropped."""

    class Broken(Taker):
        def received(self, view: memoryview) -> int:
            raise ValueError("it breaks")

    made: list[Taker] = []

    def user() -> Taker:
        if len(made) == 1:
            made.append(Taker())
            raise ValueError("not this one")
        made.append(Broken() if not made else Taker())
        return made[-1]

    listening = await udp.listen("127.0.0.1", 0, user)
    address = listening.sockets[0].getsockname()
    with contextlib.ExitStack() as stack:
        one, two, three = (stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(3))
        for peer in (one, two, three):
            peer.sendto(b"hello", address)
        await asyncio.wait_for(exist(made, 3), 5)
        await heard(made[2], record(b"hello"))
        await asyncio.wait_for(made[0].until(lambda: bool(made[0].ended)), 5)
        name = f"127.0.0.1:{one.getsockname()[1]}"
        assert [entry.getMessage() for entry in caplog.records].count(f"{name} could not be served") == 1
        assert len(caplog.records) == 2
        listening.close()
        assert made[2].link is not None
        made[2].link.close()
        assert listening.sockets[0].fileno() < 0


async def test_nobody_there_is_found_out_by_the_first_packet() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    taker = Taker()
    link: Link = await udp.connect("127.0.0.1", port, taker)
    link.write([record(b"hello")], 9)
    await asyncio.wait_for(taker.until(lambda: bool(taker.ended)), 5)
    assert isinstance(taker.ended[0], ConnectionRefusedError)


async def test_the_next_address_of_a_host_is_tried_where_nobody_is_at_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of localhost only ::1 was, and who listened at 127.0.0.1 was never reached."""
    made: list[Taker] = []

    def user() -> Taker:
        made.append(Taker())
        return made[-1]

    listening = await udp.listen("127.0.0.1", 0, user)
    there = listening.sockets[0].getsockname()
    with socket.socket(type=socket.SOCK_DGRAM) as free, socket.socket(type=socket.SOCK_DGRAM) as other:
        free.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        nobody = [free.getsockname(), other.getsockname()]
    ways: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ways)

    def at(*addresses: object) -> None:
        ways[:] = [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", address) for address in addresses]

    at(*nobody, there)
    near = Taker()
    link: Link = await udp.connect("localhost", 1, near)
    async with asyncio.timeout(5):
        while not made:
            link.write([record(b"hello")], 9)
            await asyncio.sleep(0.001)
    assert link.peer == f"127.0.0.1:{there[1]}"
    assert made[0].link is not None
    made[0].link.write([record(b"yes")], 7)
    await heard(near, record(b"yes"))
    made[0].link.close()
    listening.close()
    at(*nobody)
    last = Taker()
    refused: Link = await udp.connect("localhost", 1, last)
    async with asyncio.timeout(5):
        while not last.ended:
            refused.write([record(b"hello")], 9)
            await asyncio.sleep(0.001)
    assert isinstance(last.ended[0], ConnectionRefusedError)
    link.close()
    await near.until(lambda: bool(near.ended))


async def test_who_has_answered_is_not_left_for_another_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        ways = [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", peer.getsockname()) for peer in (one, two)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ways)
        near = Taker()
        link = await udp.connect("localhost", 1, near)
        link.write([record(b"hello")], 9)
        _, address = await asyncio.to_thread(one.recvfrom, 100)
        one.sendto(b"yes", address)
        await heard(near, record(b"yes"))
        one.close()
        async with asyncio.timeout(5):
            while not near.ended:
                link.write([record(b"more")], 8)
                await asyncio.sleep(0.001)
        assert isinstance(near.ended[0], ConnectionRefusedError)


async def test_every_interface_has_the_same_port() -> None:
    listening = await udp.listen("", 0, Taker)
    assert len({sock.getsockname()[1] for sock in listening.sockets}) == 1
    listening.close()
    assert seqpacket.PACKET_BYTES < SOCKET_BYTES
    with pytest.raises(OSError, match=r"Name|name|nodename|getaddrinfo"):
        await udp.connect("nobody.invalid", 1, Taker())
