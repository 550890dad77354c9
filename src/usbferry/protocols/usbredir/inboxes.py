"""What an importer keeps of streams: packets that come by themselves meet transfers that wait for them.

    submit --> waiting --.                                one for each endpoint whose exporter runs a stream
                          >-- matched --> completed
    packets --> arrived -'

Each start and stop has one answer, in its order, so a status with none of them owed was not asked for: the stream is
dead. What arrives before a stop is answered belongs to the stream before it.

Isochronous transfers are completed at the pace of their endpoint, whatever the network does: IN begins when `seconds`
of packets are there, and OUT tells its user only that the time has passed in which its packets are played.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from ...usb.transfer import Completion, IsoPacket, Transfer
from ...usb.types import Speed, Status
from .infos import Pipe
from .messages import WireStatus, status_of

ISO_SECONDS: Final = 0.06  # of packets that wait here or there; QEMU's choice too (redirect.c)
_MAX_PACKETS: Final = 32  # of one transfer of the exporter's, and
_MAX_TRANSFERS: Final = 16  # of a stream, in the reference host
_INTERRUPTS: Final = 1000  # packets that wait for a reader before new ones are dropped

Ended = Callable[[int, Completion], None]


class Inbox:
    """One endpoint's stream, started when something is submitted. `begin` and `halt` send the packets for it."""

    def __init__(self, ended: Ended, begin: Callable[[], None], halt: Callable[[], None]) -> None:
        self.is_running = False
        self.dropped = 0  # packets that nobody came for in time
        self._ended = ended
        self._begin = begin
        self._halt = halt
        self._owed: deque[bool] = deque()  # answers: True to a start, False to a stop

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
            is_start = self._owed.popleft()
        if number != WireStatus.SUCCESS and True not in self._owed:
            self._failed(status_of(number), is_start)

    @property
    def is_ours(self) -> bool:
        """Whether what arrives now belongs to the stream that runs."""
        return self.is_running and False not in self._owed

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


class InterruptIn(Inbox):
    """Packets are joined until one is short or the transfer full."""

    def __init__(self, ended: Ended, begin: Callable[[], None], halt: Callable[[], None], pipe: Pipe) -> None:
        super().__init__(ended, begin, halt)
        self._packet = pipe.packet or 1
        self._waiting: deque[tuple[int, Transfer]] = deque()
        self._arrived: deque[tuple[Status, bytes]] = deque()
        self._joined = bytearray()  # for the first that waits

    def take(self, status: int, data: bytes) -> None:
        """A packet."""
        if not self.is_ours:
            return
        if len(self._arrived) >= _INTERRUPTS:
            self.dropped += 1
            return
        self._arrived.append((status_of(status, cancelled=False), data))
        self._match()

    def cancel(self, tag: int) -> bool:
        for place, (other, _) in enumerate(self._waiting):
            if other == tag:
                del self._waiting[place]
                joined = b"" if place else self._take_joined()
                self._ended(tag, Completion(Status.CANCELLED, joined))
                return True
        return False

    def end(self, status: Status) -> None:
        self._arrived.clear()
        waiting, self._waiting = self._waiting, deque()
        for tag, _ in waiting:
            self._ended(tag, Completion(status, self._take_joined()))

    def _add(self, tag: int, transfer: Transfer) -> None:
        self._waiting.append((tag, transfer))
        self._match()

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

    def _take_joined(self) -> bytes:
        joined, self._joined = bytes(self._joined), bytearray()
        return joined


class Shape:
    """How an isochronous stream is cut: packets of one transfer, transfers, packets of the buffer, seconds of one."""

    def __init__(self, pipe: Pipe, speed: Speed, is_in: bool, seconds: float) -> None:
        self.interval = pipe.interval_us(speed) / 1e6
        per_second = 1 / self.interval
        self.target = max(1, int(per_second * seconds))
        self.packets = min(max(int(per_second / 100), 1), _MAX_PACKETS)
        transfers = -(-self.target // self.packets) * (1 if is_in else 2)
        self.transfers = min(max(transfers, 1), _MAX_TRANSFERS)


class IsoIn(Inbox):
    """Packets wait until enough are there, then leave at their pace; when they run out, they gather again."""

    def __init__(self, ended: Ended, begin: Callable[[], None], halt: Callable[[], None], shape: Shape) -> None:
        super().__init__(ended, begin, halt)
        self._shape = shape
        self._waiting: deque[tuple[int, Transfer]] = deque()
        self._arrived: deque[tuple[Status, bytes]] = deque()
        self._due: float | None = None  # when the next transfer ends; None while packets gather

    def take(self, status: int, data: bytes) -> None:
        """A packet. Beyond twice the target they are dropped down to it."""
        if not self.is_ours:
            return
        self._arrived.append((status_of(status, cancelled=False), data))
        if len(self._arrived) > 2 * self._shape.target + self._wanted():
            while len(self._arrived) > self._shape.target:
                self._arrived.popleft()
                self.dropped += 1

    def cancel(self, tag: int) -> bool:
        for place, (other, transfer) in enumerate(self._waiting):
            if other == tag:
                del self._waiting[place]
                self._ended(tag, _undone(transfer, Status.CANCELLED))
                return True
        return False

    def end(self, status: Status) -> None:
        self._arrived.clear()
        self._due = None
        waiting, self._waiting = self._waiting, deque()
        for tag, transfer in waiting:
            self._ended(tag, _undone(transfer, status))

    def deadline(self) -> float | None:
        if not self._waiting:
            return None
        if self._due is None:
            return 0.0 if len(self._arrived) >= max(self._shape.target, self._wanted()) else None
        return self._due

    def tick(self, now: float) -> None:
        if self._due is None and self.deadline() is not None:
            self._due = now
        while self._waiting and self._due is not None and now >= self._due:
            tag, transfer = self._waiting[0]
            if len(self._arrived) < self._wanted():
                self._due = None
                return
            self._waiting.popleft()
            self._due += self._shape.interval * len(transfer.packets or ())
            self._ended(tag, self._filled(transfer))

    def _add(self, tag: int, transfer: Transfer) -> None:
        self._waiting.append((tag, transfer))

    def _wanted(self) -> int:
        return len(self._waiting[0][1].packets or ()) if self._waiting else 0

    def _filled(self, transfer: Transfer) -> Completion:
        parts, packets = [], []
        for asked in transfer.packets or ():
            status, data = self._arrived.popleft()
            if len(data) > asked.length:
                status, data = Status.OVERFLOW, data[: asked.length]
            parts.append(data)
            packets.append(IsoPacket(asked.offset, asked.length, len(data), status))
        return Completion(Status.OK, b"".join(parts), packets=packets)


class IsoOut(Inbox):
    """`send` puts a packet on the wire at once; a transfer ends when the time of its packets has passed."""

    def __init__(
        self,
        ended: Ended,
        begin: Callable[[], None],
        halt: Callable[[], None],
        shape: Shape,
        send: Callable[[bytes], None],
    ) -> None:
        super().__init__(ended, begin, halt)
        self._shape = shape
        self._send = send
        self._waiting: deque[tuple[int, Transfer, float]] = deque()  # and how long its packets last
        self._due: float | None = None  # when the first that waits ends
        self._last: float | None = None  # when the one before it did
        self._error = Status.OK  # of packets that were sent before

    def cancel(self, tag: int) -> bool:
        """Its packets are sent: that is what it is told."""
        for place, (other, transfer, _) in enumerate(self._waiting):
            if other == tag:
                del self._waiting[place]
                if not place:
                    self._due = None
                self._ended(tag, self._played(transfer))
                return True
        return False

    def end(self, status: Status) -> None:
        self._due = self._last = None
        waiting, self._waiting = self._waiting, deque()
        for tag, transfer, _ in waiting:
            self._ended(tag, _undone(transfer, status))

    def deadline(self) -> float | None:
        if not self._waiting:
            return None
        return 0.0 if self._due is None else self._due

    def tick(self, now: float) -> None:
        while self._waiting:
            tag, transfer, lasting = self._waiting[0]
            if self._due is None:
                self._due = max(now, self._last if self._last is not None else now) + lasting
            if now < self._due:
                return
            self._waiting.popleft()
            # One that comes late is played late; the slack is what the exporter has buffered.
            self._last, self._due = max(self._due, now - self._shape.target * self._shape.interval), None
            self._ended(tag, self._played(transfer))
            if self._waiting:
                self._due = self._last + self._waiting[0][2]

    def _add(self, tag: int, transfer: Transfer) -> None:
        data, packets = memoryview(transfer.data), transfer.packets or []
        for packet in packets:
            self._send(bytes(data[packet.offset : packet.offset + packet.length]))
        self._waiting.append((tag, transfer, len(packets) * self._shape.interval))

    def _played(self, transfer: Transfer) -> Completion:
        error, self._error = self._error, Status.OK
        packets = [
            IsoPacket(p.offset, p.length, 0 if error else p.length, error or Status.OK) for p in transfer.packets or ()
        ]
        return Completion(Status.OK, b"", sum(p.actual for p in packets), packets)

    def _failed(self, status: Status, is_start: bool) -> None:
        """Only a stall stops the stream; any other status is of packets sent before."""
        if status is Status.STALL or is_start:
            super()._failed(status, is_start)
        else:
            self._error = status


def _undone(transfer: Transfer, status: Status) -> Completion:
    packets = [IsoPacket(p.offset, p.length, 0, Status.NOT_DONE) for p in transfer.packets or ()]
    return Completion(status, b"", 0, packets)
