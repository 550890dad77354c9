"""What an importer keeps of streams: packets that come by themselves meet transfers that wait for them.

    submit --> waiting --.                                one for each endpoint whose exporter runs a stream
                          >-- matched --> completed
    packets --> arrived -'

Each start and stop has one answer, in its order, so a status with none of them owed was not asked for: the stream is
dead. What arrives before a stop is answered belongs to the stream before it.

Those of isochronous endpoints, which keep a pace, are in `pacing`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from ...usb.transfer import Completion, Transfer
from ...usb.types import Status
from ..errors import ProtocolError
from .infos import Pipe
from .messages import Type, WireStatus, status_of

_AHEAD_BYTES: Final = 64 * 1024  # of a bulk endpoint that wait for a reader before the exporter is told to pause
_UNDER_WAY_BYTES: Final = 16 << 20  # that may come after that; a host has 800 packets of its own, and the network's
_PACKET_COST: Final = 64  # bytes more that each packet counts for: empty ones are not for nothing
_INTERRUPTS: Final = 1000  # packets that wait for a reader before new ones are dropped

Ended = Callable[[int, Completion], None]


class Inbox:
    """One endpoint's stream, started when something is submitted. `begin` and `halt` send the packets for it."""

    kind: int | None = None  # of the packets that it takes; None for those that only go out

    def __init__(self, ended: Ended, begin: Callable[[], None], halt: Callable[[], None]) -> None:
        self.is_running = False
        self.dropped = 0  # packets that nobody came for in time
        self._ended = ended
        self._begin = begin
        self._halt = halt
        self._owed: deque[bool | None] = deque()  # answers: True to a start, False to a stop, None to a pause

    def submit(self, tag: int, transfer: Transfer) -> None:
        """Take a transfer that is to be completed from the stream."""
        if not self.is_running:
            self.is_running = True
            self._owed.append(True)
            self._begin()
        self._add(tag, transfer)

    def stop(self, status: Status) -> None:
        """End the stream, and with `status` what waits for it."""
        if self.is_running:
            self.is_running = False
            self._owed.append(False)
            self._halt()
        self.end(status)

    def told(self, number: int) -> None:
        """A status packet of this endpoint."""
        is_start = False
        if self._owed:
            if not self._owed[0] and number != WireStatus.SUCCESS:
                return  # the stream before died of itself
            is_start = bool(self._owed.popleft())
        if number != WireStatus.SUCCESS and True not in self._owed:
            self._failed(status_of(number), is_start)

    @property
    def is_ours(self) -> bool:
        """Whether what arrives now belongs to the stream that runs."""
        return self.is_running and False not in self._owed

    def take(self, status: int, data: bytes) -> None:
        """A packet."""

    def cancel(self, tag: int) -> bool:
        """End one transfer, if it waits here."""
        raise NotImplementedError

    def end(self, status: Status) -> None:
        """End all that waits, and forget what arrived."""
        raise NotImplementedError

    def deadline(self) -> float | None:
        """When `tick` wants to be called."""
        return None

    def tick(self, now: float) -> None:
        """Let time pass."""

    def _add(self, tag: int, transfer: Transfer) -> None:
        raise NotImplementedError

    def _failed(self, status: Status, is_start: bool) -> None:
        """The stream died, or did not start: who waits hears why, and who comes next starts it again."""
        self.is_running = False
        self.end(status)


class Joining(Inbox):
    """Packets are joined for the first transfer that waits, until it is full or one of them ends it."""

    def __init__(self, ended: Ended, begin: Callable[[], None], halt: Callable[[], None]) -> None:
        super().__init__(ended, begin, halt)
        self._waiting: deque[tuple[int, Transfer]] = deque()
        self._joined = bytearray()

    def cancel(self, tag: int) -> bool:
        for place, (other, _) in enumerate(self._waiting):
            if other == tag:
                del self._waiting[place]
                self._ended(tag, Completion(Status.CANCELLED, b"" if place else self._take_joined()))
                return True
        return False

    def end(self, status: Status) -> None:
        self._forget()
        waiting, self._waiting = self._waiting, deque()
        for tag, _ in waiting:
            self._ended(tag, Completion(status, self._take_joined()))

    def _forget(self) -> None:
        """What arrived is worth nothing."""
        raise NotImplementedError

    def _match(self) -> None:
        """Complete what can be completed."""
        raise NotImplementedError

    def _add(self, tag: int, transfer: Transfer) -> None:
        self._waiting.append((tag, transfer))
        self._match()

    def _take_joined(self) -> bytes:
        joined, self._joined = bytes(self._joined), bytearray()
        return joined


class InterruptIn(Joining):
    """A packet that is shorter than the endpoint's ends a transfer."""

    kind = Type.INTERRUPT_PACKET

    def __init__(self, ended: Ended, begin: Callable[[], None], halt: Callable[[], None], pipe: Pipe) -> None:
        super().__init__(ended, begin, halt)
        self._packet = pipe.packet or 1
        self._arrived: deque[tuple[Status, bytes]] = deque()

    def take(self, status: int, data: bytes) -> None:
        if not self.is_ours:
            return
        if len(self._arrived) >= _INTERRUPTS:
            self.dropped += 1
            return
        self._arrived.append((status_of(status, cancelled=False), data))
        self._match()

    def _forget(self) -> None:
        self._arrived.clear()

    def _match(self) -> None:
        while self._waiting and self._arrived:
            tag, transfer = self._waiting[0]
            status, data = self._arrived.popleft()
            self._joined += data
            if status == Status.OK and len(self._joined) > transfer.length:
                status = Status.OVERFLOW
            if status != Status.OK or len(data) < self._packet or len(self._joined) == transfer.length:
                self._waiting.popleft()
                self._ended(tag, Completion(status, self._take_joined()[: transfer.length]))


class BulkIn(Joining):
    """What was read ahead, as a stream of bytes in which a transfer of the exporter's that is not full is an end.

    When more waits than `_AHEAD_BYTES`, and nobody for it, the exporter is told to pause; nothing is dropped.
    One that goes on regardless, or gives more than a transfer was to have, is no honest peer.
    """

    kind = Type.BUFFERED_BULK_PACKET

    def __init__(self, ended: Ended, begin: Callable[[], None], halt: Callable[[], None], size: int) -> None:
        super().__init__(ended, begin, halt)
        self._size = size  # bytes of a transfer of the exporter's
        self._arrived: deque[tuple[Status, bytes, bool]] = deque()  # and whether it ends a transfer
        self._bytes = 0
        self._is_paused = False

    @property
    def is_ours(self) -> bool:
        return (self.is_running or self._is_paused) and False not in self._owed

    def submit(self, tag: int, transfer: Transfer) -> None:
        self._is_paused = False
        super().submit(tag, transfer)

    def take(self, status: int, data: bytes) -> None:
        if not self.is_ours:
            return
        if len(data) > self._size:
            raise ProtocolError(f"{len(data)} bytes of buffered_bulk_packet, whose transfers have {self._size}")
        self._arrived.append((status_of(status, cancelled=False), data, len(data) < self._size))
        self._bytes += len(data) + _PACKET_COST
        self._match()
        if self._bytes > _UNDER_WAY_BYTES:
            raise ProtocolError(f"more than {_UNDER_WAY_BYTES} bytes of buffered_bulk_packet after it was told to stop")
        if self.is_running and not self._waiting and self._bytes > _AHEAD_BYTES:
            self.is_running, self._is_paused = False, True
            self._owed.append(None)
            self._halt()

    def _forget(self) -> None:
        self._arrived.clear()
        self._bytes, self._is_paused = 0, False

    def _match(self) -> None:
        while self._waiting and self._arrived:
            tag, transfer = self._waiting[0]
            status, data, is_end = self._arrived.popleft()
            self._bytes -= len(data) + _PACKET_COST
            room = transfer.length - len(self._joined)
            if len(data) > room:
                self._arrived.appendleft((status, data[room:], is_end))
                self._bytes += len(data) - room + _PACKET_COST
                status, data, is_end = Status.OK, data[:room], False
            self._joined += data
            if is_end or status != Status.OK or len(self._joined) == transfer.length:
                self._waiting.popleft()
                self._ended(tag, Completion(status, self._take_joined()))
