"""The far sides of a byte stream: each with its real terminal, socket or file; slow, leaving, coming back."""

import asyncio
import contextlib
import errno
import logging
import os
import select
import socket
import struct
import sys
import termios
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.devices.stream_host import pattern
from usbferry.device import DeviceError
from usbferry.devices.bridges import file as bridge_file
from usbferry.devices.bridges import tcp as bridge_tcp
from usbferry.devices.bridges.bridge import Bridge, Echo, make
from usbferry.devices.bridges.stream import ByteQueue
from usbferry.devices.cdc import LineCoding

LIMIT = 4096
ENOUGH = 1 << 20  # more than any kernel holds for a terminal or a loopback socket with small buffers


class Ends:
    """A bridge that runs, and the device's ends of its queues."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        bridge.grace = 0.05
        self.to_host, self.from_host = ByteQueue(LIMIT), ByteQueue(LIMIT)
        self._news = asyncio.Event()
        self.to_host.filled = self.from_host.drained = bridge.connected_changed = self._news.set

    async def happens(self, condition):
        """Wait until it holds; looked at whenever a queue or the connection changed."""
        while not condition():
            self._news.clear()
            await self._news.wait()

    async def write(self, data, piece=1000):
        """As a host does that is held back when the queue is full."""
        for at in range(0, len(data), piece):
            await self.happens(lambda: self.from_host.room)
            self.from_host.put(data[at : at + piece])

    async def read(self, count):
        """As a host does that reads on and on."""
        got = bytearray()
        while len(got) < count:
            await self.happens(lambda: len(self.to_host))
            got += self.to_host.take(1000)
        return bytes(got)


@contextlib.asynccontextmanager
async def running(bridge):
    ends = Ends(bridge)
    await bridge.start(ends.to_host, ends.from_host)
    try:
        yield ends
    finally:
        await bridge.stop()


async def hears(text):
    """Wait until it is logged."""
    heard = asyncio.Event()

    class Handler(logging.Handler):
        def emit(self, record):
            if text in record.getMessage():
                heard.set()

    handler = Handler()
    logging.getLogger("usbferry").addHandler(handler)
    try:
        await heard.wait()
    finally:
        logging.getLogger("usbferry").removeHandler(handler)


async def both(*work):
    """All of it at once; its results."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
    return [task.result() for task in tasks]


# -- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "options", "text"),
    [
        ("smoke", {}, "is no far side: write echo, pty"),
        ("", {}, "is no far side"),
        ("pty:/tmp/x", {}, "write pty alone"),
        ("tcp://host", {}, "write //HOST:PORT"),
        ("tcp://:1", {}, "nowhere to connect"),
        ("tcp://host:0", {}, "nowhere to connect"),
        ("tcp://host:99999", {}, "write //HOST:PORT"),
        ("tcp://host:1/path", {}, "write //HOST:PORT"),
        ("tcp:host:1", {}, "write //HOST:PORT"),
        ("listen://host", {}, "write //HOST:PORT"),
        ("file:", {}, "needs a path"),
        ("echo", {"link": "x"}, "link goes with to=pty"),
        ("pty", {"input": "x"}, "input goes with to=file"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused_in_words(to, options, text):
    with pytest.raises(ValueError, match=text):
        make(to, **options)


@pytest.mark.parametrize("to", ["tcp://192.0.2.1:80", "tcp://[2001:db8::1]:80", "listen://:80", "file:/tmp/x", "echo"])
def test_a_bridge_says_what_it_is(to):
    assert str(make(to)) == to


# -- echo -----------------------------------------------------------------------------------------------------------


async def test_an_echo_brings_back_everything_and_holds_back_a_host_that_does_not_read():
    data = pattern(50_000)
    async with running(Echo()) as ends:
        _, got = await both(ends.write(data), ends.read(len(data)))
        assert got == data
        while ends.from_host.room:
            ends.from_host.put(bytes(1000))
        assert not ends.to_host.room  # both queues are full: the host is held back
        assert len(ends.to_host) + len(ends.from_host) <= 2 * LIMIT + 2000


async def test_an_echo_is_forgotten_with_its_host():
    async with running(Echo()) as ends:
        ends.from_host.put(bytes(LIMIT))
        ends.from_host.put(b"mine")
        ends.bridge.host_left()
        assert (len(ends.from_host), len(ends.to_host)) == (0, 0)


@given(pieces=st.lists(st.integers(1, 3000), max_size=20), takes=st.lists(st.integers(1, 3000), min_size=1))
def test_an_echo_keeps_the_order_of_pieces_of_any_size(pieces, takes):
    async def run():
        async with running(Echo()) as ends:
            data, at, got, turn = pattern(sum(pieces)), 0, b"", 0
            waiting = list(pieces)

            def refill():
                """A host whose next write waits: taken in the very call that made the room."""
                nonlocal at
                while waiting and ends.from_host.room:
                    piece = waiting.pop(0)
                    at += piece
                    ends.from_host.put(data[at - piece : at])

            ends.from_host.drained = refill
            refill()
            while len(got) < len(data):
                got += ends.to_host.take(takes[turn % len(takes)])
                turn += 1
            assert got == data

    asyncio.run(run())


# -- pty ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def terminal(path):
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    try:
        yield fd
    finally:
        os.close(fd)


def read_fd(fd, count, size=4096):
    got = bytearray()
    while len(got) < count:
        got += os.read(fd, min(size, count - len(got)))
    return bytes(got)


def write_fd(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[:4096]) :]


async def test_a_terminal_carries_a_mebibyte_both_ways_at_once():
    out, back = pattern(ENOUGH, 1), pattern(ENOUGH, 2)
    async with running(make("pty")) as ends:
        with terminal(ends.bridge.path) as fd:
            _, got, _, seen = await both(
                ends.write(out),
                ends.read(len(back)),
                asyncio.to_thread(write_fd, fd, back),
                asyncio.to_thread(read_fd, fd, len(out)),
            )
    assert seen == out
    assert got == back


async def test_a_terminal_is_raw_every_byte_passes_and_none_echoes():
    every = bytes(range(256))
    async with running(make("pty")) as ends:
        with terminal(ends.bridge.path) as fd:
            await ends.write(every)
            assert await asyncio.to_thread(read_fd, fd, 256) == every
            assert select.select([fd], [], [], 0)[0] == []
            write_fd(fd, every)
            assert await ends.read(256) == every
        assert len(ends.to_host) == 0


async def test_a_terminal_nobody_reads_holds_the_host_back_and_loses_nothing():
    data = pattern(ENOUGH)
    async with running(make("pty")) as ends:
        loop = asyncio.get_running_loop()
        sent = 0
        while ends.from_host.room:  # nobody has it open: the kernel's buffer fills, then ours
            ends.from_host.put(data[sent : sent + 1000])
            sent += 1000
            assert sent < len(data)
        started = loop.time()
        await asyncio.sleep(0)
        assert loop.time() - started < 1  # and the loop goes on
        with terminal(ends.bridge.path) as fd:
            got = await asyncio.to_thread(read_fd, fd, sent, 100)
        assert got == data[:sent]


async def test_a_host_that_does_not_read_holds_back_who_writes_to_the_terminal():
    data = pattern(ENOUGH)
    async with running(make("pty")) as ends:
        with terminal(ends.bridge.path) as fd:
            os.set_blocking(fd, False)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += os.write(fd, data[sent : sent + 1000])
                    await asyncio.sleep(0)
                    assert sent < len(data)
            await ends.happens(lambda: not ends.to_host.room)
            assert await ends.read(sent) == data[:sent]


async def test_programs_may_close_the_terminal_and_open_it_again():
    async with running(make("pty")) as ends:
        path = ends.bridge.path
        for number in range(3):
            with terminal(path) as fd:
                write_fd(fd, b"hello %d" % number)
                assert await ends.read(7) == b"hello %d" % number
            await ends.write(b"while nobody looks %d" % number)  # kept for whoever opens it next
        with terminal(path) as fd:
            assert await asyncio.to_thread(read_fd, fd, 60) == b"".join(b"while nobody looks %d" % n for n in range(3))
        assert ends.bridge.path == path


async def test_what_a_program_wrote_before_it_closed_the_terminal_arrives():
    data = pattern(3000)
    async with running(make("pty")) as ends:
        with terminal(ends.bridge.path) as fd:
            write_fd(fd, data)
        assert await ends.read(len(data)) == data


async def test_a_terminal_has_the_rate_and_stop_bits_of_its_host():
    async with running(make("pty")) as ends:
        with terminal(ends.bridge.path) as fd:
            ends.bridge.line_coding(LineCoding(57600, 7, "E", 2))
            attributes = termios.tcgetattr(fd)
            assert attributes[4:6] == [termios.B57600, termios.B57600]
            assert attributes[2] & termios.CSTOPB
            ends.bridge.line_coding(LineCoding(12345))  # no code for it: as it was
            attributes = termios.tcgetattr(fd)
            assert attributes[4:6] == [termios.B57600, termios.B57600]
            assert not attributes[2] & termios.CSTOPB
            ends.bridge.line_coding(LineCoding(0))
            assert termios.tcgetattr(fd)[4] == termios.B57600


async def test_a_link_is_there_as_long_as_its_terminal(tmp_path):
    link = tmp_path / "ttyLAB"
    async with running(make("pty", link=link)) as ends:
        assert os.readlink(link) == ends.bridge.path
        with terminal(link) as fd:
            write_fd(fd, b"x")
            assert await ends.read(1) == b"x"
    assert list(tmp_path.iterdir()) == []


async def test_a_link_that_a_killed_process_left_is_taken_over(tmp_path):
    link = tmp_path / "ttyLAB"
    link.symlink_to("/dev/pts/999999")
    async with running(make("pty", link=link)) as ends:
        assert os.readlink(link) == ends.bridge.path
    assert not link.is_symlink()


async def test_a_link_that_another_has_taken_over_is_left_to_it(tmp_path):
    link = tmp_path / "ttyLAB"
    async with running(make("pty", link=link)):
        async with running(make("pty", link=link)) as newer:
            path = newer.bridge.path
            assert os.readlink(link) == path
            link.unlink()
            link.symlink_to("/dev/pts/999999")
        assert os.readlink(link) == "/dev/pts/999999"


@pytest.mark.parametrize("kind", ["file", "link", "folder missing"])
async def test_a_name_that_is_something_else_is_no_link_to_make(tmp_path, kind):
    link = tmp_path / "ttyLAB"
    if kind == "file":
        link.write_text("precious")
    elif kind == "link":
        link.symlink_to("/etc/passwd")
    else:
        link = tmp_path / "missing" / "ttyLAB"
    open_before = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else None
    with pytest.raises(DeviceError, match="ttyLAB"):
        await make("pty", link=link).start(ByteQueue(), ByteQueue())
    if kind == "file":
        assert link.read_text() == "precious"
    if open_before is not None:
        assert set(os.listdir("/proc/self/fd")) == open_before


async def test_where_a_terminal_is_is_told_without_asking(caplog):
    """`serve` shows warnings and worse, and this."""
    caplog.set_level(logging.WARNING)
    caplog.handler.setLevel(logging.NOTSET)  # what loggers let through
    async with running(make("pty")) as ends:
        assert f"pty {ends.bridge.path}" in caplog.text


async def test_the_end_waits_for_a_far_side_that_reads_and_not_for_one_that_does_not(caplog):
    data = pattern(LIMIT)
    bridge = make("pty")
    ends = Ends(bridge)
    await bridge.start(ends.to_host, ends.from_host)
    while ends.from_host.room:
        ends.from_host.put(data)
    await bridge.stop()
    assert "did not take the last" in caplog.text


async def test_the_end_lets_a_program_read_what_its_terminal_holds():
    data = pattern(3000)
    bridge = make("pty")
    ends = Ends(bridge)
    await bridge.start(ends.to_host, ends.from_host)
    bridge.grace = 30
    with terminal(bridge.path) as fd:
        ends.from_host.put(data)  # all of it goes into the terminal at once
        stopping = asyncio.get_running_loop().create_task(bridge.stop())
        await asyncio.sleep(0)
        assert await asyncio.to_thread(read_fd, fd, len(data), 100) == data
        await stopping


# -- tcp ------------------------------------------------------------------------------------------------------------


class Peer:
    """A server or client at the other end of a bridge, with small buffers; in blocking calls, through threads."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(30)

    def send(self, data):
        self.sock.sendall(data)

    def receive(self, count):
        got = bytearray()
        while len(got) < count:
            piece = self.sock.recv(min(65536, count - len(got)))
            if not piece:
                break
            got += piece
        return bytes(got)

    def close(self):
        self.sock.close()


@contextlib.contextmanager
def server():
    """A listening socket, and the address of a bridge to it."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(30)
        yield listening, f"tcp://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.asynccontextmanager
async def accepted(listening):
    sock, _ = await asyncio.to_thread(listening.accept)
    with contextlib.closing(Peer(sock)) as peer:
        yield peer


def client(port):
    return contextlib.closing(Peer(socket.create_connection(("127.0.0.1", port), 30)))


async def test_a_connection_carries_a_mebibyte_both_ways_at_once():
    out, back = pattern(ENOUGH, 1), pattern(ENOUGH, 2)
    with server() as (listening, address):
        async with running(make(address)) as ends:
            await ends.happens(lambda: ends.bridge.connected)
            async with accepted(listening) as peer:
                _, got, _, seen = await both(
                    ends.write(out),
                    ends.read(len(back)),
                    asyncio.to_thread(peer.send, back),
                    asyncio.to_thread(peer.receive, len(out)),
                )
    assert seen == out
    assert got == back


async def test_a_listener_serves_one_client_after_the_other():
    async with running(make("listen://127.0.0.1:0")) as ends:
        for number in range(3):
            with client(ends.bridge.port) as peer:
                await ends.happens(lambda: ends.bridge.connected)
                await ends.write(b"to %d" % number)
                assert await asyncio.to_thread(peer.receive, 4) == b"to %d" % number
                peer.send(b"from %d" % number)
                assert await ends.read(6) == b"from %d" % number
            await ends.happens(lambda: not ends.bridge.connected)


async def test_a_second_client_is_turned_away_and_the_first_undisturbed(caplog):
    async with running(make("listen://127.0.0.1:0")) as ends:
        with client(ends.bridge.port) as first:
            await ends.happens(lambda: ends.bridge.connected)
            with client(ends.bridge.port) as second, contextlib.suppress(ConnectionResetError):
                assert await asyncio.to_thread(second.receive, 1) == b""
            first.send(b"still here")
            assert await ends.read(10) == b"still here"
    assert "turned away" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody tells that a peer has left before all is read")
async def test_a_client_that_left_is_followed_by_the_next_though_the_host_has_not_read_all_of_it():
    sent = [pattern(30_000, seed) for seed in range(3)]
    async with running(make("listen://127.0.0.1:0")) as ends:
        for data in sent:
            with client(ends.bridge.port) as peer:
                await asyncio.to_thread(peer.send, data)  # the kernel holds it: the host reads nothing
        with client(ends.bridge.port) as peer:
            with client(ends.bridge.port) as another, contextlib.suppress(ConnectionResetError):
                assert await asyncio.to_thread(another.receive, 1) == b""
            peer.send(b"the last")
            await ends.write(b"to the last")
            assert await asyncio.to_thread(peer.receive, 11) == b"to the last"
            assert await ends.read(90_008) == b"".join(sent) + b"the last"
            assert ends.bridge.connected
        await ends.happens(lambda: not ends.bridge.connected)


async def test_a_connection_that_breaks_under_a_flood_of_writes_takes_no_more_of_it(caplog):
    """What is written in the very call in which it broke used to go into the void."""
    async with running(make("listen://127.0.0.1:0")) as ends:
        with client(ends.bridge.port) as peer:
            await ends.happens(lambda: ends.bridge.connected)
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        data, at = pattern(ENOUGH), 0

        def refill():
            nonlocal at
            while ends.from_host.room and at < len(data):
                at += 1000
                ends.from_host.put(data[at - 1000 : at])

        ends.from_host.drained = refill
        refill()
        assert len(ends.from_host) >= LIMIT
        assert at < 100_000
        await ends.happens(lambda: not ends.bridge.connected)
        with client(ends.bridge.port) as peer:
            rest = len(data) - at + len(ends.from_host)
            assert await asyncio.to_thread(peer.receive, rest) == data[-rest:]
    assert "socket.send() raised" not in caplog.text


async def test_what_is_written_while_nobody_is_connected_waits():
    async with running(make("listen://127.0.0.1:0")) as ends:
        await ends.write(b"are you there")
        with client(ends.bridge.port) as peer:
            assert await asyncio.to_thread(peer.receive, 13) == b"are you there"


@pytest.mark.slow
async def test_a_slow_peer_holds_the_host_back_and_loses_nothing():
    data = pattern(8 * ENOUGH)
    with server() as (listening, address):
        async with running(make(address)) as ends:
            await ends.happens(lambda: ends.bridge.connected)
            sent = 0
            while ends.from_host.room:
                ends.from_host.put(data[sent : sent + 10_000])
                sent += 10_000
                assert sent < len(data)
            async with accepted(listening) as peer:
                assert await asyncio.to_thread(peer.receive, sent) == data[:sent]


@pytest.mark.slow
async def test_a_host_that_does_not_read_holds_the_peer_back_and_memory_is_bounded():
    data = pattern(8 * ENOUGH)
    async with running(make("listen://127.0.0.1:0")) as ends:
        with client(ends.bridge.port) as peer:
            sending = threading.Thread(target=peer.send, args=(data,))
            sending.start()
            await ends.happens(lambda: not ends.to_host.room)
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(ends.to_host) <= LIMIT + 256 * 1024  # and one piece, as asyncio reads them
            assert await ends.read(len(data)) == data
            sending.join()


async def test_a_server_that_leaves_and_returns_is_found_again(monkeypatch):
    monkeypatch.setattr(bridge_tcp, "FIRST_DELAY", 0.01)
    with server() as (listening, address):
        async with running(make(address)) as ends:
            for number in range(3):
                async with accepted(listening) as peer:
                    peer.send(b"%d" % number)
                    assert await ends.read(1) == b"%d" % number
                await ends.happens(lambda: not ends.bridge.connected)
                await ends.write(b"%d" % number)  # while nobody is there
                async with accepted(listening) as peer:
                    assert await asyncio.to_thread(peer.receive, 1) == b"%d" % number
                await ends.happens(lambda: not ends.bridge.connected)


async def test_a_server_that_is_not_there_yet_is_tried_again_and_said_once(monkeypatch, caplog):
    monkeypatch.setattr(bridge_tcp, "FIRST_DELAY", 0.01)
    with server() as (_, address):
        pass  # its port is free again
    async with running(make(address)) as ends:
        await hears("trying on")
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", ends.bridge.port))
            again.listen()
            await ends.happens(lambda: ends.bridge.connected)
    assert caplog.text.count("trying on") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="how to make one deliberately is known of Linux")
async def test_a_client_does_not_take_itself_for_its_server():
    """Who keeps trying a local port may be given just that port, and then is connected with itself."""
    with server() as (_, address):
        pass
    async with running(make(address)) as ends:
        itself = socket.socket()
        itself.bind(("127.0.0.1", 0))
        itself.connect(itself.getsockname())
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: bridge_tcp._Connection(ends.bridge), sock=itself)
        ends.bridge.made(connection)
        assert not ends.bridge.connected
        await connection.ended


@pytest.mark.slow
async def test_a_peer_that_goes_in_the_middle_takes_only_what_it_was_given():
    """What no connection was given yet goes to the next one, in order, none twice."""
    data = pattern(16 * ENOUGH)
    async with running(make("listen://127.0.0.1:0")) as ends:
        ends.bridge.grace = 5
        with client(ends.bridge.port) as peer:
            await ends.happens(lambda: ends.bridge.connected)
            writing = asyncio.get_running_loop().create_task(ends.write(data))
            first = await asyncio.to_thread(peer.receive, 100_000)
        await ends.happens(lambda: not ends.bridge.connected)
        with client(ends.bridge.port) as peer:
            start = await asyncio.to_thread(peer.receive, 8)
            at = data.index(start)
            rest = start + await asyncio.to_thread(peer.receive, len(data) - at - 8)
            await writing
    assert first == data[: len(first)]
    assert at >= len(first)
    assert rest == data[at:]


async def test_a_listener_whose_address_is_taken_says_so():
    async with running(make("listen://127.0.0.1:0")) as ends:
        with pytest.raises(DeviceError, match=r"listen://127\.0\.0\.1:"):
            await make(f"listen://127.0.0.1:{ends.bridge.port}").start(ByteQueue(), ByteQueue())


async def test_the_end_passes_on_what_the_host_was_told_is_taken():
    data = pattern(LIMIT)
    bridge = make("listen://127.0.0.1:0")
    ends = Ends(bridge)
    await bridge.start(ends.to_host, ends.from_host)
    with client(bridge.port) as peer:
        ends.from_host.put(data)  # before the connection is even accepted
        bridge.grace = 30
        await bridge.stop()
        assert await asyncio.to_thread(peer.receive, len(data) + 1) == data


async def test_the_end_does_not_wait_for_a_peer_that_reads_nothing(caplog):
    bridge = make("listen://127.0.0.1:0")
    ends = Ends(bridge)
    await bridge.start(ends.to_host, ends.from_host)
    with client(bridge.port):
        await ends.happens(lambda: bridge.connected)
        while ends.from_host.room:
            ends.from_host.put(bytes(100_000))
        await bridge.stop()
    assert "did not take the last" in caplog.text


# -- files ----------------------------------------------------------------------------------------------------------


async def test_what_the_host_writes_is_appended(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"before ")
    data = pattern(300_000)
    async with running(make(f"file:{path}")) as ends:
        await ends.write(data)
    assert path.read_bytes() == b"before " + data


async def test_a_file_to_read_is_read_to_its_end_and_from_its_start_by_each_host(tmp_path):
    path = tmp_path / "in"
    data = pattern(300_000)
    path.write_bytes(data)
    async with running(make("file:", input=path)) as ends:
        assert await ends.read(len(data)) == data
        assert len(ends.to_host) == 0
        for _ in range(3):
            ends.bridge.host_left()
            assert (await ends.read(100_000))[:100_000] == data[:100_000]
        await ends.write(b"forgotten")
        assert len(ends.from_host) == 0


async def test_no_more_is_read_than_there_is_room_for(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(bytes(100_000))
    async with running(make("file:", input=path)) as ends:
        await ends.happens(lambda: len(ends.to_host))
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(ends.to_host) == LIMIT


async def test_a_full_disk_holds_the_host_back_and_is_tried_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(bridge_file, "RETRY_SECONDS", 0.001)
    full, real_write = True, os.write
    data = pattern(20_000)

    def write(fd, piece):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(fd, piece[:7000])  # and in pieces

    monkeypatch.setattr(bridge_file.os, "write", write)
    async with running(make(f"file:{tmp_path / 'log'}")) as ends:
        ends.from_host.put(data)
        await ends.happens(lambda: not ends.bridge.connected)
        full = False
        await ends.happens(lambda: ends.bridge.connected)
        ends.bridge.grace = 30
    assert (tmp_path / "log").read_bytes() == data
    assert caplog.text.count("trying on") == 1


async def test_the_null_device_is_a_sink():
    async with running(make(f"file:{os.devnull}")) as ends:
        await ends.write(bytes(100_000))


@pytest.mark.parametrize("kind", ["folder", "fifo", "missing folder", "terminal"])
async def test_what_could_hold_a_thread_for_ever_is_no_file(tmp_path, kind):
    path = tmp_path / "it"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "terminal":
        path = "/dev/ptmx"
    else:
        path = path / "missing"
    with pytest.raises(DeviceError, match=str(path)):
        await make(f"file:{path}").start(ByteQueue(), ByteQueue())
    with pytest.raises(DeviceError, match=str(path)):
        await make(f"file:{tmp_path / 'log'}", input=path).start(ByteQueue(), ByteQueue())


# -- any sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=20)
@given(pieces=st.lists(st.integers(1, 20_000), max_size=12), size=st.integers(1, 5000))
@pytest.mark.parametrize("kind", ["pty", "tcp"])
def test_pieces_of_any_size_arrive_in_order(kind, pieces, size):
    async def run():
        data = pattern(sum(pieces))
        async with contextlib.AsyncExitStack() as stack:
            listening, address = stack.enter_context(server())
            async with running(make(address if kind == "tcp" else "pty")) as ends:
                if kind == "tcp":
                    peer = await stack.enter_async_context(accepted(listening))
                    peer.sock.setblocking(True)
                    far = peer.sock.fileno()
                else:
                    far = stack.enter_context(terminal(ends.bridge.path))
                at = 0

                async def write():
                    nonlocal at
                    for piece in pieces:
                        await ends.write(data[at : at + piece], size)
                        at += piece

                back = data[::-1]
                _, got, _, seen = await both(
                    write(),
                    ends.read(len(back)),
                    asyncio.to_thread(write_fd, far, back),
                    asyncio.to_thread(read_fd, far, len(data), size),
                )
                assert seen == data
                assert got == back

    asyncio.run(run())
