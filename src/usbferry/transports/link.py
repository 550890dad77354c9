"""A link: one connected peer. Here that of a byte stream: its receive buffer, its writes, and its back-pressure.

Received bytes stay in one buffer until the user of the link has consumed them; it gets a view of all of them after each
read. Views are lent until `received` returns, or to the end of its turn where there is one, then the buffer is used
again. Reading stops while written bytes pile up, and while the user has what it asked for but takes nothing (an import
that is still being decided).
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, Protocol, cast

from ..usb.transfer import Buffer
from . import turn

SMALL_BUFFER: Final = 4 * 1024  # an idle connection costs this much
LARGE_BUFFER: Final = 1028 * 1024  # as a busy one grows: 16 times 64 KiB with headers; larger for one message alone
IDLE_SECONDS: Final = 5.0  # without a full buffer, before a large one is given back
CLOSE_SECONDS: Final = 5.0  # for the peer to take the last bytes
HIGH_WATER: Final = 1024 * 1024  # unsent bytes at which reading stops
SHORT_QUEUE: Final = 128 * 1024  # the same where what is urgent shall not wait behind what is not
_GATHER_BYTES: Final = 1536  # a piece, on average, from which gathering beats copying into one; measured
_MAX_PIECES: Final = 1024  # IOV_MAX of Linux and macOS


class User(Protocol):
    """What a link wants of its user."""

    @property
    def needed(self) -> int:
        """Bytes that must be there before `received` can consume more."""

    def opened(self, link: Link) -> None:
        """The stream is connected."""

    def received(self, view: memoryview) -> int:
        """All bytes not consumed yet; returns how many are now. The view is lent until this returns."""

    def lost(self, error: Exception | None) -> None:
        """The stream ended, by the peer, by an error, or by `close`. Called once, and nothing after it."""


class Link(ABC):
    """One connected peer, on a stream or by packets. Made by `transports.tcp` and its like."""

    packet_bytes = 0  # of the largest packet; 0 on a stream
    is_lossy = False  # what is sent may be lost, come twice, or be overtaken
    is_prompt = False  # what is written may change as soon as `write` has returned

    def __init__(self, user: User) -> None:
        self.blocked = False  # too many bytes unsent: write no more than what answers what was read
        self.reads_while_blocked = False  # for the side that asks: if both sides wait to be read, neither ever is
        self.peer = ""
        self.user = user

    @abstractmethod
    def write(self, pieces: Sequence[Buffer], size: int) -> None:
        """Send `pieces`, `size` bytes in all, in one go. They must not change until they are sent, see `is_prompt`."""

    @property
    @abstractmethod
    def unsent(self) -> int:
        """Bytes that wait here for the network."""

    @abstractmethod
    def keep_short(self) -> None:
        """Let little wait here and in the system: the user says first what is urgent, when it is offered a turn.

        It goes on reading while it is `blocked`, for it bounds by itself what it has to say.
        """

    def proven(self) -> None:
        """The user says that the peer is who it seems, and no other's packets in its name."""
        return  # as it is of all that connects

    @abstractmethod
    def process(self) -> None:
        """Offer the unconsumed bytes again, after something has changed at the user."""

    @abstractmethod
    def close(self) -> None:
        """Send what is queued, for `CLOSE_SECONDS` at most, then close. Nothing is received any more."""

    @abstractmethod
    def abort(self) -> None:
        """Close now; what is queued is lost."""


class StreamLink(Link, asyncio.BufferedProtocol):
    """A byte stream."""

    def __init__(self, user: User) -> None:
        super().__init__(user)
        self._transport: asyncio.Transport | None = None
        self._fd = -1  # the socket, where its transport may be passed by while nothing is queued in it
        self._buffer = bytearray(SMALL_BUFFER)
        self._root = memoryview(self._buffer)
        self._start = self._end = 0  # of the unconsumed bytes
        self._paused = False
        self._shrink: asyncio.TimerHandle | None = None
        self._closing: asyncio.TimerHandle | None = None

    # -- for the user -------------------------------------------------------------------------------------------------

    def write(self, pieces: Sequence[Buffer], size: int) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if size < _GATHER_BYTES * len(pieces):
            pieces = (b"".join(pieces),)
        if self._fd >= 0 and not transport.get_write_buffer_size():
            pieces = _gather(self._fd, pieces, size)
        if pieces:
            transport.writelines(pieces) if self._fd < 0 else transport.write(b"".join(pieces))

    @property
    def unsent(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def keep_short(self) -> None:
        self.reads_while_blocked = True
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=SHORT_QUEUE - 1)

    def process(self) -> None:
        if self._transport is not None:
            self._offer()

    def close(self) -> None:
        if self._transport is not None and self._closing is None:
            self._transport.close()
            self._closing = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.abort)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- for asyncio --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.peer = _name(transport.get_extra_info("peername"))
        # uvloop's own queue is in get_write_buffer_size, too, seen from 0.19 to 0.23.
        is_known = type(transport).__module__.split(".")[0] in ("asyncio", "uvloop")
        if is_known and transport.get_extra_info("sslcontext") is None and hasattr(os, "writev"):
            self._fd = transport.get_extra_info("socket").fileno()
            self.is_prompt = True  # what the system does not take, the transport gets as a copy
        self.user.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._root[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        turn.take(self._offer)

    def eof_received(self) -> bool:
        return False  # close: half-open connections are of no use to any of the protocols

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self.blocked = False
        # Not at once: asyncio (seen in 3.11) loses a transport twice that is closed while it calls this.
        asyncio.get_running_loop().call_soon(self.process)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fd = -1
        for timer in (self._shrink, self._closing):
            if timer is not None:
                timer.cancel()
        self.user.lost(exc)

    # -- the receive buffer -------------------------------------------------------------------------------------------

    def _offer(self) -> None:
        self._start += self.user.received(self._root[self._start : self._end])
        full = self._end == len(self._buffer)
        if self._start == self._end:
            self._start = self._end = 0
            if not (full or self.blocked or self._paused):
                return  # as it goes nearly always
        if self._transport is None or self._transport.is_closing():
            return
        needed = self.user.needed
        blocked = self.blocked and not self.reads_while_blocked
        waiting = blocked or self._end - self._start >= needed  # the user has enough, and does not take it
        if full and not waiting:
            self._make_room(needed)
        if waiting != self._paused and (full or self._paused or blocked):
            self._pause(waiting)

    def _pause(self, stop: bool) -> None:
        assert self._transport is not None
        self._paused = stop
        if stop:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
            if self._end == len(self._buffer):
                self._make_room(self.user.needed)

    def _make_room(self, needed: int) -> None:
        """Move the unconsumed bytes to the front, of a larger buffer if reads fill this one.

        A message larger than the buffer makes it grow as its bytes arrive, not as its header promises.
        """
        size = len(self._buffer)
        limit = max(LARGE_BUFFER, needed)
        if size < limit:
            self._replace(min(2 * size, limit))
            self._watch_idleness()
        else:
            turn.at_the_end(self._move_down)

    def _move_down(self) -> None:
        held = self._end - self._start
        self._buffer[:held] = self._buffer[self._start : self._end]
        self._start, self._end = 0, held

    def _replace(self, size: int) -> None:
        held = self._end - self._start
        buffer = bytearray(size)
        buffer[:held] = self._root[self._start : self._end]
        self._buffer, self._root = buffer, memoryview(buffer)
        self._start, self._end = 0, held

    def _watch_idleness(self) -> None:
        if self._shrink is not None:
            self._shrink.cancel()
        self._shrink = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._give_back)

    def _give_back(self) -> None:
        self._shrink = None
        if self._transport is not None and self._start == self._end:
            self._replace(SMALL_BUFFER)
            self.user.received(self._root[:0])  # or its view of the large one would keep that alive
        else:
            self._watch_idleness()


def _gather(fd: int, pieces: Sequence[Buffer], size: int) -> Sequence[Buffer]:
    """Write as much as the socket takes without copying; what is left. Errors are left for the transport to meet."""
    while pieces:
        try:
            sent = os.writev(fd, pieces[:_MAX_PIECES])
        except OSError:
            break
        if sent == size:
            return ()
        pieces, size = _after(sent, pieces), size - sent
    return pieces


def _after(sent: int, pieces: Sequence[Buffer]) -> Sequence[Buffer]:
    """What follows the first `sent` bytes."""
    for at, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:], *pieces[at + 1 :]]
        sent -= len(piece)
    return ()


def _name(peer: object) -> str:
    if isinstance(peer, tuple) and len(peer) >= 2:
        return f"[{peer[0]}]:{peer[1]}" if ":" in str(peer[0]) else f"{peer[0]}:{peer[1]}"
    return str(peer) if peer else "local"
