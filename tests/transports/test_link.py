"""Links over real sockets, on each event loop that is installed: what is written arrives, what arrives is offered."""

from __future__ import annotations

import asyncio
import select
import socket
import weakref
from collections.abc import Callable, Sequence

import pytest

from tests.conftest import Run
from usbferry.transports import link, tcp, turn
from usbferry.transports.link import HIGH_WATER, LARGE_BUFFER, SMALL_BUFFER, Link
from usbferry.usb.transfer import Buffer


class Taker:
    """A user that takes whole messages of `size` bytes, while `takes` says so."""

    def __init__(self, size: int = 1) -> None:
        self.needed = size
        self.takes = True
        self.taken = bytearray()
        self.most_offered = 0
        self.link: Link | None = None
        self.changed = asyncio.Event()
        self.ended: list[Exception | None] = []

    def opened(self, link: Link) -> None:
        self.link = link
        self.changed.set()

    def received(self, view: memoryview) -> int:
        self.most_offered = max(self.most_offered, len(view))
        whole = len(view) - len(view) % self.needed if self.takes else 0
        self.taken += view[:whole]
        self.changed.set()
        return whole

    def lost(self, error: Exception | None) -> None:
        self.ended.append(error)
        self.changed.set()

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():
            self.changed.clear()
            await self.changed.wait()


class Pair:
    """A link, its user, and the plain socket at the other end."""

    def __init__(self, user: Taker) -> None:
        self.user = user

    async def __aenter__(self) -> Pair:
        self._listening = await tcp.listen("127.0.0.1", 0, lambda: self.user)
        self.peer = socket.create_connection(self._listening.sockets[0].getsockname())
        self.peer.setblocking(False)
        await self.user.until(lambda: self.user.link is not None)
        assert self.user.link is not None
        self.link = self.user.link
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.peer.close()
        self.link.abort()
        await self.user.until(lambda: bool(self.user.ended))
        self._listening.close()
        await self._listening.wait_closed()

    async def read(self, size: int) -> bytes:
        loop, parts = asyncio.get_running_loop(), []
        while size:
            parts.append(await loop.sock_recv(self.peer, size))
            assert parts[-1]
            size -= len(parts[-1])
        return b"".join(parts)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.peer, data)


def pieces_of(*sizes: int) -> list[Buffer]:
    """Pieces of these sizes, each of its own bytes, every other one a view."""
    made: list[Buffer] = []
    for number, size in enumerate(sizes):
        piece = (number * 2654435761 % (1 << 32)).to_bytes(4, "big") * (size // 4 + 1)
        made.append(memoryview(piece)[:size] if number % 2 else piece[:size])
    return made


SHAPES: dict[str, Sequence[int]] = {
    "one small piece": (48,),
    "an empty piece among others": (48, 0, 65536, 48),
    "headers with small data": (48, 512) * 64,
    "more small pieces than one writev takes": (48, 512) * 1500,
    "more large pieces than one writev takes": (48, 4096) * 1500,
    "headers with large data": (48, 65536) * 16,
    "more than a socket holds": (48, 1 << 20) * 12,
    "one piece larger than a socket holds": (48, 20 << 20),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_pieces_arrive_in_order_and_whole(shape: str, run: Run) -> None:
    async def scene() -> None:
        async with Pair(Taker()) as pair:
            first, then = pieces_of(*SHAPES[shape]), pieces_of(7, 100_000, 48)
            for pieces in (first, then, first):  # the later ones find the socket full where the first filled it
                pair.link.write(pieces, sum(map(len, pieces)))
            expected = b"".join([*first, *then, *first])
            assert await pair.read(len(expected)) == expected

    run(scene())


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_nothing_overtakes_what_is_queued(turns: int, run: Run) -> None:
    """Not in the same turn of the loop either, when uvloop has what it was given, and does not count it yet."""

    async def scene() -> None:
        async with Pair(Taker()) as pair:
            first, then = pieces_of(48, 20 << 20), pieces_of(48, 65536)
            pair.link.write(first, 48 + (20 << 20))
            for _ in range(turns):
                await asyncio.sleep(0)
            expected, arrived = b"".join([*first, *then]), bytearray()
            while len(arrived) < 1 << 18:  # the socket has room again, before the loop knows
                assert select.select([pair.peer], [], [], 5)[0]
                arrived += pair.peer.recv(65536)
            pair.link.write(then, 48 + 65536)
            arrived += await pair.read(len(expected) - len(arrived))
            assert arrived == expected

    run(scene())


def test_what_was_written_may_change_at_once(run: Run) -> None:
    """Sent or copied: a gateway writes what it has read, and reads again into the same place."""

    async def scene() -> None:
        async with Pair(Taker()) as pair:
            assert pair.link.is_prompt
            payload = bytearray(b"\x01") * (20 << 20)
            for size in (48, 4096, len(payload)):  # the last is more than the socket takes
                pair.link.write([b"head", memoryview(payload)[:size]], 4 + size)
            payload[:] = bytes(len(payload))
            for size in (48, 4096, len(payload)):
                assert await pair.read(4 + size) == b"head" + b"\x01" * size

    run(scene())


def test_reading_stops_while_unsent_bytes_pile_up(run: Run) -> None:
    async def scene() -> None:
        user = Taker()
        async with Pair(user) as pair:
            pieces = pieces_of(16 << 20)
            total = 0
            while not pair.link.blocked:
                pair.link.write(pieces, 16 << 20)
                total += 16 << 20
                assert total <= HIGH_WATER + (64 << 20)
            await pair.send(b"ping")
            await user.until(lambda: bool(user.taken))  # the read that was under way is still offered
            sending = asyncio.gather(pair.send(bytes(64 << 20)))
            for _ in range(500):  # turns of the loop: enough to read everything, were it read
                await asyncio.sleep(0)
            assert len(user.taken) < 8 << 20
            await pair.read(total)
            await sending
            await user.until(lambda: len(user.taken) == 4 + (64 << 20))
            assert not pair.link.blocked

    run(scene())


def test_a_message_larger_than_the_buffer_is_offered_whole(run: Run) -> None:
    async def scene() -> None:
        size = 3 * LARGE_BUFFER + 5
        user = Taker(size)
        async with Pair(user) as pair:
            message = b"".join(pieces_of(size))
            await pair.send(message * 2)
            await user.until(lambda: len(user.taken) == 2 * size)
            assert user.taken == message * 2
            assert user.most_offered >= size

    run(scene())


class Forwarder(Taker):
    """Looks at what it was offered at the end of the turn only, as who hands it on does."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.views: list[memoryview] = []

    def received(self, view: memoryview) -> int:
        whole = len(view) - len(view) % self.needed
        self.views.append(view[:whole])
        if not turn.defer(self.flush):
            self.flush()  # it was offered once more, outside of a turn
        return whole

    def flush(self) -> None:
        self.taken += b"".join(self.views)
        self.views.clear()
        self.changed.set()


def test_what_is_lent_is_there_to_the_end_of_its_turn(run: Run) -> None:
    """What is not whole is moved to the front of a full buffer, over what has not been written yet."""

    async def scene() -> None:
        message = b"".join(pieces_of(*(300_000,) * 40))
        user = Forwarder(300_000)
        async with Pair(user) as pair:
            await pair.send(message)
            await user.until(lambda: len(user.taken) == len(message))
            assert user.taken == message

    run(scene())


class Keeper(Taker):
    """Keeps the last view it was offered, as exporters and importers do between two messages."""

    def received(self, view: memoryview) -> int:
        self.view = view
        return super().received(view)


class Tracked(bytearray):
    """One that can be referred to weakly."""


def test_an_idle_link_gives_its_large_buffer_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user that kept its last view used to keep the whole buffer with it."""
    buffers: list[weakref.ref[Tracked]] = []
    sizes: list[int] = []

    def made(size: int) -> Tracked:
        buffer = Tracked(size)
        buffers.append(weakref.ref(buffer))
        sizes.append(size)
        return buffer

    monkeypatch.setattr(link, "bytearray", made, raising=False)
    monkeypatch.setattr(link, "IDLE_SECONDS", 0.01)

    async def scene() -> None:
        async with Pair(Keeper()) as pair:
            sent = b"".join(pieces_of(1 << 20))
            await pair.send(sent)
            await pair.user.until(lambda: len(pair.user.taken) == len(sent))
            await pair.user.until(lambda: pair.user.view.nbytes == 0)
            assert max(sizes) > SMALL_BUFFER
            await asyncio.sleep(0)
            assert [len(one) for buffer in buffers if (one := buffer()) is not None] == [SMALL_BUFFER]
            await pair.send(b"and on")
            await pair.user.until(lambda: pair.user.taken.endswith(b"and on"))

    run(scene())


def test_what_is_not_taken_is_kept_and_offered_again(run: Run) -> None:
    async def scene() -> None:
        user = Taker(4)
        user.takes = False
        async with Pair(user) as pair:
            sent = b"".join(pieces_of(20 << 20))
            sending = asyncio.gather(pair.send(sent))
            await user.until(lambda: user.most_offered == SMALL_BUFFER)  # full: reading stops
            user.takes = True
            pair.link.process()
            await sending
            await user.until(lambda: len(user.taken) == len(sent))
            assert user.taken == sent

    run(scene())


def test_close_sends_what_is_queued(run: Run) -> None:
    async def scene() -> None:
        async with Pair(Taker()) as pair:
            pieces = pieces_of(48, 20 << 20)
            pair.link.write(pieces, 48 + (20 << 20))
            pair.link.close()
            pair.link.write([b"too late"], 8)
            assert await pair.read(48 + (20 << 20)) == b"".join(pieces)
            assert await asyncio.get_running_loop().sock_recv(pair.peer, 8) == b""

    run(scene())


def test_the_peer_leaving_ends_the_link_once(run: Run) -> None:
    async def scene() -> None:
        user = Taker()
        async with Pair(user) as pair:
            pair.peer.close()
            await user.until(lambda: bool(user.ended))
            pair.link.write([b"nobody"], 6)
            pair.link.close()
            pair.link.abort()
        assert len(user.ended) == 1

    run(scene())
