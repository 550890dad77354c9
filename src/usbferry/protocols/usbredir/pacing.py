"""Isochronous streams of an importer: transfers end at the pace of their endpoint, whatever the network does.

IN begins when `seconds` of packets are there, and OUT tells its user only that the time has passed in which its packets
are played.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from ...usb.transfer import Completion, IsoPacket, Transfer, filled_from
from ...usb.types import Speed, Status
from .inboxes import Ended, Inbox
from .infos import Pipe
from .messages import Type, status_of

ISO_SECONDS: Final = 0.06  # of packets that wait here or there; QEMU's choice too (redirect.c)
_MAX_PACKETS: Final = 32  # of one transfer of the exporter's, and
_MAX_TRANSFERS: Final = 16  # of a stream, in the reference host


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

    kind = Type.ISO_PACKET

    def __init__(self, ended: Ended, begin: Callable[[], None], halt: Callable[[], None], shape: Shape) -> None:
        super().__init__(ended, begin, halt)
        self._shape = shape
        self._waiting: deque[tuple[int, Transfer]] = deque()
        self._arrived: deque[tuple[int, bytes]] = deque()
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
            self._ended(tag, filled_from(self._arrived, transfer))

    def _add(self, tag: int, transfer: Transfer) -> None:
        self._waiting.append((tag, transfer))

    def _wanted(self) -> int:
        return len(self._waiting[0][1].packets or ()) if self._waiting else 0


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
