"""The streams that an importer has at its exporter: one inbox for each endpoint that something was submitted to.

Interrupt IN and isochronous endpoints are always streams. Bulk IN endpoints are where `ahead` names them: then the
exporter reads without being asked, and what it read waits here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ...usb.transfer import Buffer, Completion, Transfer
from ...usb.types import Speed, Status, TransferType
from ..events import Completed, Event
from ..record import Record
from .codec import Packet
from .flights import MAX_ID
from .inboxes import BulkIn, Inbox, InterruptIn
from .infos import Pipe
from .messages import (
    Dialect,
    EndpointOnly,
    PeriodicPacket,
    StartBulkReceiving,
    StartIsoStream,
    StopBulkReceiving,
    Type,
)
from .pacing import IsoIn, IsoOut, Shape

AHEAD_BYTES: Final = 512  # of a transfer of the exporter's, in whole packets, and
AHEAD_TRANSFERS: Final = 5  # how many it keeps at the device; both as QEMU has it (redirect.c)

Say = Callable[[int, int, Record, Buffer], None]


class Intake:
    """Of one connection. `say` sends packets, `own` takes what ended."""

    def __init__(
        self, say: Say, own: deque[Event], dialect: Dialect, iso_seconds: float, ahead: frozenset[int]
    ) -> None:
        self.pipes: dict[int, Pipe] = {}  # the endpoints in force, as far as the exporter says
        self.asked: frozenset[int] = frozenset()  # bulk endpoints of them that are no streams
        self.speed = Speed.FULL
        self._say = say
        self._own = own
        self._dialect = dialect
        self._iso_seconds = iso_seconds
        self._ahead = ahead
        self._inboxes: dict[int, Inbox] = {}  # by endpoint
        self.inbox_of: dict[int, Inbox] = {}  # by the tag of a transfer that waits there
        self._dropped = 0  # by streams that are over

    @property
    def dropped(self) -> int:
        """Packets that nobody came for in time."""
        return self._dropped + sum(inbox.dropped for inbox in self._inboxes.values())

    def reads_ahead(self, endpoint: int) -> bool:
        """Whether a bulk endpoint is a stream."""
        return endpoint in self._ahead

    def submit(self, tag: int, transfer: Transfer, kind: TransferType) -> None:
        """Complete a transfer from its endpoint's stream, which is started if it does not run."""
        endpoint = transfer.endpoint
        inbox = self._inboxes.get(endpoint)
        if inbox is None:
            pipe = self.pipes.get(endpoint)
            if pipe is None and self._dialect is Dialect.DRAFT:
                largest = max((p.length for p in transfer.packets or ()), default=0)
                pipe = Pipe(kind, largest, max(1, transfer.interval.bit_length()), 0)
            if pipe is None or pipe.type is not kind:
                self._own.append(Completed(tag, Status.INVALID))
                return
            inbox = self._inboxes[endpoint] = self._new(endpoint, pipe)
        self.inbox_of[tag] = inbox
        inbox.submit(tag, transfer)

    def cancel(self, tag: int) -> bool:
        """End one transfer now; whether it was here."""
        inbox = self.inbox_of.get(tag)
        return inbox is not None and inbox.cancel(tag)

    def stop(self, touches: Callable[[int], bool]) -> None:
        """Before what takes their endpoints from them, as the protocol wants it."""
        for endpoint, inbox in tuple(self._inboxes.items()):
            if touches(endpoint):
                inbox.stop(Status.SHUTDOWN)

    def change(self, pipes: dict[int, Pipe]) -> None:
        """Endpoints that changed have new streams; the old ones were stopped before."""
        for endpoint in [e for e in self._inboxes if pipes.get(e) != self.pipes.get(e)]:
            self._over(self._inboxes.pop(endpoint), Status.SHUTDOWN)
        self.pipes = pipes
        bulk = [address for address, pipe in pipes.items() if pipe.type is TransferType.BULK]
        self.asked = frozenset(bulk) - self._ahead

    def clear(self, status: Status) -> None:
        """The device is gone, and everything ends."""
        inboxes, self._inboxes, self.pipes, self.asked = self._inboxes, {}, {}, frozenset()
        for inbox in inboxes.values():
            self._over(inbox, status)

    def deadline(self) -> float | None:
        """When `tick` wants to be called; long past for at once."""
        if not self._inboxes:
            return None
        found = [due for inbox in self._inboxes.values() if (due := inbox.deadline()) is not None]
        return min(found, default=None)

    def tick(self, now: float) -> None:
        """Let time pass: isochronous transfers end at their pace."""
        for inbox in self._inboxes.values():
            inbox.tick(now)

    # -- packets ------------------------------------------------------------------------------------------------------

    def status(self, packet: Packet) -> None:
        body: Any = packet.body
        inbox = self._inboxes.get(body.endpoint)
        if inbox is not None:
            inbox.told(body.status)

    def arrived(self, packet: Packet) -> None:
        """A packet of a stream, of whatever kind."""
        body: Any = packet.body
        inbox = self._inboxes.get(body.endpoint)
        if inbox is not None and inbox.kind == packet.kind:
            inbox.take(body.status, bytes(packet.data))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _over(self, inbox: Inbox, status: Status) -> None:
        self._dropped += inbox.dropped
        inbox.end(status)

    def _ended(self, tag: int, completion: Completion) -> None:
        del self.inbox_of[tag]
        self._own.append(Completed.of(tag, completion))

    def _tell(self, kind: int, body: Record) -> Callable[[], None]:
        return lambda: self._say(kind, 0, body, b"")

    def _new(self, endpoint: int, pipe: Pipe) -> Inbox:
        if pipe.type is TransferType.BULK:
            return self._bulk(endpoint, pipe)
        one = EndpointOnly(endpoint)
        if pipe.type is TransferType.INTERRUPT:
            start, stop = Type.START_INTERRUPT_RECEIVING, Type.STOP_INTERRUPT_RECEIVING
            return InterruptIn(self._ended, self._tell(start, one), self._tell(stop, one), pipe)
        shape = Shape(pipe, self.speed, endpoint >= 0x80, self._iso_seconds)
        begin = StartIsoStream(endpoint, shape.packets, shape.transfers)
        halt = self._tell(Type.STOP_ISO_STREAM, one)
        if endpoint >= 0x80:
            return IsoIn(self._ended, self._tell(Type.START_ISO_STREAM, begin), halt, shape)
        return self._iso_out(endpoint, begin, halt, shape)

    def _iso_out(self, endpoint: int, start: StartIsoStream, halt: Callable[[], None], shape: Shape) -> Inbox:
        id = 0

        def begin() -> None:
            nonlocal id
            id = 0
            self._say(Type.START_ISO_STREAM, 0, start, b"")

        def send(data: bytes) -> None:
            nonlocal id
            self._say(Type.ISO_PACKET, id, PeriodicPacket(endpoint, 0, len(data)), data)
            id = id + 1 & MAX_ID

        return IsoOut(self._ended, begin, halt, shape, send)

    def _bulk(self, endpoint: int, pipe: Pipe) -> Inbox:
        packet = pipe.packet or AHEAD_BYTES
        size = -(-AHEAD_BYTES // packet) * packet
        start = StartBulkReceiving(0, size, endpoint, AHEAD_TRANSFERS)
        stop = StopBulkReceiving(0, endpoint)
        begin, halt = self._tell(Type.START_BULK_RECEIVING, start), self._tell(Type.STOP_BULK_RECEIVING, stop)
        return BulkIn(self._ended, begin, halt, size)
