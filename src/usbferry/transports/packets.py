"""Links on sockets that carry packets: each record of the user's is one, without the marker that it has on a stream.

    user --marker, record, marker, record--> PacketLink --record--> PacketSocket ~~~ peer

So a protocol of records is the same on both. A marker is the length of what follows it, 4 bytes, as ferry has them.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from ..usb.transfer import Buffer
from .link import CLOSE_SECONDS, SHORT_QUEUE, Link, User

MARKER: Final = 4  # bytes
RECEIVE_BYTES: Final = 128 * 1024  # more than any packet has
SOCKET_BYTES: Final = 1 << 20  # of the system's buffers; it may allow less
MOST_HELD: Final = 1 << 20  # bytes that the user does not take, before no more are read
_PACKETS_A_TURN: Final = 64  # before others have their turn

Received = Callable[[list[tuple[bytes, Any]]], None]  # packets and where they came from


class PacketSocket:
    """A packet socket on the event loop: what came is given on once a turn, and what does not go yet waits.

    It is one link's, or that of many peers who are told apart by their addresses.
    """

    def __init__(self, sock: socket.socket, received: Received, failed: Callable[[Exception | None], None]) -> None:
        self.sock = sock
        self.unsent = 0  # bytes
        self.drained: Callable[[], None] = lambda: None  # after `unsent` was too much
        self._received = received
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[list[Buffer], Any]] = deque()
        self._closing: asyncio.TimerHandle | None = None
        self._is_full = False
        sock.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            size = sock.getsockopt(socket.SOL_SOCKET, option)
            sock.setsockopt(socket.SOL_SOCKET, option, max(size // 2, SOCKET_BYTES))  # Linux says twice what it has
        self.read(True)

    def read(self, on: bool) -> None:
        """Begin or stop to read."""
        if self.sock.fileno() < 0:
            return
        if on:
            self._loop.add_reader(self.sock, self._readable)
        else:
            self._loop.remove_reader(self.sock)

    def send(self, packet: list[Buffer], address: Any = None) -> None:
        """Send one packet, now or when there is room."""
        if self.sock.fileno() < 0:
            return
        if self._queue or not self._send_now(packet, address):
            if not self._queue:
                self._loop.add_writer(self.sock, self._writable)
            self._queue.append((packet, address))
            self.unsent += sum(map(len, packet))
            self._is_full = self._is_full or self.unsent >= SHORT_QUEUE

    def _send_now(self, packet: list[Buffer], address: Any) -> bool:
        try:
            self.sock.sendmsg(packet, (), 0, *([] if address is None else [address]))
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if address is None:
                self._loop.call_soon(self._fail, error)
        return True  # one of many peers who cannot be reached is lost to us as its packets are

    def _writable(self) -> None:
        while self._queue and self._send_now(*self._queue[0]):
            packet, _ = self._queue.popleft()
            self.unsent -= sum(map(len, packet))
        if not self._queue:
            self._loop.remove_writer(self.sock)
            if self._closing is not None:
                self.abort()
        if self._is_full and self.unsent <= SHORT_QUEUE // 4:
            self._is_full = False
            self.drained()

    def _readable(self) -> None:
        packets: list[tuple[bytes, Any]] = []
        try:
            for _ in range(_PACKETS_A_TURN):
                packet, address = self.sock.recvfrom(RECEIVE_BYTES)
                if not packet and self.sock.type == socket.SOCK_SEQPACKET:
                    raise EOFError
                packets.append((packet, address))
        except (BlockingIOError, InterruptedError):
            pass
        except (OSError, EOFError) as error:
            self._loop.call_soon(self._fail, None if isinstance(error, EOFError) else error)
            self.read(False)
        if packets:
            self._received(packets)

    def _fail(self, error: Exception | None) -> None:
        if self.sock.fileno() >= 0:
            self._failed(error)

    def close(self) -> None:
        """Send what is queued, for `CLOSE_SECONDS` at most, then close."""
        self.read(False)
        if not self._queue:
            self.abort()
        elif self._closing is None:
            self._closing = self._loop.call_later(CLOSE_SECONDS, self.abort)

    def abort(self) -> None:
        """Close now."""
        if self._closing is not None:
            self._closing.cancel()
        if self.sock.fileno() >= 0:
            self._loop.remove_reader(self.sock)
            self._loop.remove_writer(self.sock)
            self.sock.close()


class PacketLink(Link):
    """One peer on a packet socket. `ended` is called when it is closed, to take it off the socket."""

    def __init__(self, user: User, peer: str, packet_bytes: int, *, is_lossy: bool) -> None:
        super().__init__(user)
        self.peer = peer
        self.packet_bytes = packet_bytes
        self.is_lossy = is_lossy
        self._loop = asyncio.get_running_loop()
        self._socket: PacketSocket | None = None
        self._address: Any = None
        self._ended: Callable[[], None] = lambda: None
        self._proven: Callable[[], object] = lambda: None
        self._held = memoryview(b"")  # received and not consumed
        self._paused = False

    def begin(
        self,
        sock: PacketSocket,
        address: Any,
        ended: Callable[[], None],
        proven: Callable[[], object] = lambda: None,
    ) -> None:
        """Serve the user on this socket from now on; `proven` is called when it says so of its peer."""
        self._socket, self._address, self._ended, self._proven = sock, address, ended, proven
        self.user.opened(self)

    # -- for the user -------------------------------------------------------------------------------------------------

    def write(self, pieces: Sequence[Buffer], size: int) -> None:
        if self._socket is None:
            return
        for packet in packets(pieces):
            self._socket.send(packet, self._address)
        self.blocked = self._socket.unsent >= SHORT_QUEUE

    @property
    def unsent(self) -> int:
        return self._socket.unsent if self._socket is not None else 0

    def keep_short(self) -> None:
        self.reads_while_blocked = True  # it is short

    def proven(self) -> None:
        self._proven()

    def process(self) -> None:
        if self._socket is not None:
            self._offer()

    def close(self) -> None:
        if self._socket is not None:
            self._socket, ended = None, self._ended
            ended()
            self._loop.call_soon(self.user.lost, None)

    def abort(self) -> None:
        self.close()

    # -- for the socket -----------------------------------------------------------------------------------------------

    def arrived(self, packets: Sequence[bytes]) -> None:
        """Packets of this peer, in the order in which they came."""
        if self._socket is None or (self.is_lossy and len(self._held) > MOST_HELD):
            return
        raw = b"".join([part for packet in packets for part in (len(packet).to_bytes(MARKER, "big"), packet)])
        self._held = memoryview(b"".join((self._held, raw)) if len(self._held) else raw)
        self._offer()

    def drained(self) -> None:
        """There is room to send again."""
        self.blocked = False
        self._loop.call_soon(self.process)

    def move(self, own: PacketSocket) -> None:
        """Go on at another socket of its own. What the last one has not sent is lost, as anything may be."""
        if self._socket is not None:
            self._socket.abort()
        self._socket, self._ended = own, own.close
        self.blocked = False

    def failed(self, error: Exception | None) -> None:
        """The socket is of no use any more."""
        if self._socket is not None:
            self._socket, ended = None, self._ended
            ended()
            self.user.lost(error)

    def _offer(self) -> None:
        held = self._held
        consumed = self.user.received(held)
        self._held = held[consumed:]
        waits = len(self._held) > MOST_HELD or (self.blocked and not self.reads_while_blocked)
        if waits != self._paused and not self.is_lossy and self._socket is not None:
            self._paused = waits
            self._socket.read(not waits)


def begin_alone(link: PacketLink, sock: socket.socket) -> PacketLink:
    """Give a link a connected socket of its own, which is closed if the user will not have it."""
    own = own_socket(link, sock)
    try:
        link.begin(own, None, own.close)
    except BaseException:
        own.abort()
        raise
    return link


def own_socket(link: PacketLink, sock: socket.socket) -> PacketSocket:
    """A connected socket whose packets are all the link's."""
    own = PacketSocket(sock, lambda came: link.arrived([packet for packet, _ in came]), link.failed)
    own.drained = link.drained
    return own


def packets(pieces: Sequence[Buffer]) -> Iterator[list[Buffer]]:
    """Records, each of which begins a piece with its marker, as packets without."""
    packet, missing = list[Buffer](), 0
    for piece in pieces:
        if not missing:
            missing = int.from_bytes(piece[:MARKER], "big")
            piece = memoryview(piece)[MARKER:]
        packet.append(piece)
        missing -= len(piece)
        if not missing:
            yield packet
            packet = []
