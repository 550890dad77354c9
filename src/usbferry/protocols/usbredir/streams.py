"""Streams that the exporter runs by itself: it asks the device again and again, and passes on what comes.

    device --completions--> stream --packets--> importer        isochronous and interrupt IN, buffered bulk
    device <---transfers--- stream <--packets-- importer        isochronous OUT

A stream says how many transfers are due, makes them, and hears how each ended. One that must stop says so itself:
status stall, whatever the cause, for that is the importer's only sign that it must start again.

Overload. Interrupt and bulk endpoints are not asked while too much waits to be sent: a device that is not asked keeps
what it has, where the reference host reads on and drops. Isochronous devices do not wait: their packets are dropped
from three times the target on until half of it is left, and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

from ...usb.transfer import Buffer, Completion, Flags, IsoPacket, Transfer
from ...usb.types import Speed, Status, TransferType
from ..record import Record
from .infos import Pipe
from .messages import (
    BufferedBulkPacket,
    BulkReceivingStatus,
    PeriodicPacket,
    StreamStatus,
    Type,
    WireStatus,
    wire_status,
)

ISO_SECONDS: Final = 0.06  # of packets between device and importer; QEMU found that it needs as much (redirect.c)
MAX_ISO_PACKETS: Final = 32  # of one transfer, and
MAX_ISO_TRANSFERS: Final = 16  # of a stream, in the reference host
MAX_BULK_TRANSFERS: Final = 64  # of a stream; QEMU wants 5
INTERRUPT_TRANSFERS: Final = 5  # that it keeps waiting at an interrupt endpoint
_HIGH, _LOW = 3.0, 0.5  # times the target
_WAITING_PACKETS: Final = 800  # not sent yet, before an interrupt or bulk endpoint is not asked any more
_WAITING_BYTES: Final = 1 << 20
_PACKET_BYTES: Final = 20  # of headers
_ERRORS: Final = 8  # in a row, after which a stream stops: some devices would fail for ever


class Host(Protocol):
    """What a stream wants of its exporter."""

    dropped: int  # isochronous packets

    def say(self, kind: int, id: int, body: Record, data: Buffer = b"") -> None: ...
    def waiting_bytes(self) -> int:
        """Said, and not taken by the network yet."""


class Stream:
    """One running stream. `flying` are its transfers at the device, by tag."""

    def __init__(self, host: Host, endpoint: int) -> None:
        self.endpoint = endpoint
        self.flying: dict[int, Transfer] = {}
        self.is_running = True
        self._host = host
        self._id = 0  # of the next packet

    def due(self) -> int:
        """Transfers to submit now."""
        raise NotImplementedError

    def make(self) -> Transfer:
        """The next of those that are due."""
        raise NotImplementedError

    def ended(self, transfer: Transfer, completion: Completion) -> None:
        """One of `flying` ended while the stream ran."""
        raise NotImplementedError

    def tell(self, status: WireStatus, id: int = 0) -> None:
        """Say how the stream does."""
        self._host.say(Type.ISO_STREAM_STATUS, id, StreamStatus(status, self.endpoint))

    def fail(self) -> None:
        """Stop, and say so."""
        self.is_running = False
        self.tell(WireStatus.STALL)

    @property
    def is_held(self) -> bool:
        """Whether it waits for the network."""
        return False

    def _next_id(self) -> int:
        self._id += 1
        return self._id - 1


class IsoIn(Stream):
    """Every packet of the device becomes a packet of the protocol, empty ones included."""

    def __init__(
        self,
        host: Host,
        endpoint: int,
        pipe: Pipe,
        speed: Speed,
        shape: tuple[int, int],
        seconds: float = ISO_SECONDS,
    ) -> None:
        super().__init__(host, endpoint)
        self._packets, self._transfers = shape
        self._size = pipe.packet
        self._target = seconds * 1e6 / pipe.interval_us(speed) * (pipe.packet + _PACKET_BYTES)  # bytes
        self._is_dropping = False

    def due(self) -> int:
        return self._transfers - len(self.flying)

    def make(self) -> Transfer:
        packets = [IsoPacket(n * self._size, self._size) for n in range(self._packets)]
        return Transfer(self.endpoint, self._packets * self._size, b"", b"", Flags.ISO_ASAP, packets)

    def ended(self, transfer: Transfer, completion: Completion) -> None:
        packets = completion.packets or ()
        if completion.status != Status.OK or sum(p.actual for p in packets) != len(completion.data):
            self.fail()
            return
        waiting = self._host.waiting_bytes()
        if waiting > self._target * (_LOW if self._is_dropping else _HIGH):
            self._is_dropping = True
            self._host.dropped += len(packets)
            self._id += len(packets)
            return
        self._is_dropping = False
        self._say(packets, memoryview(completion.data))

    def _say(self, packets: Sequence[IsoPacket], data: memoryview) -> None:
        at = 0
        for packet in packets:
            body = PeriodicPacket(self.endpoint, wire_status(packet.status), packet.actual)
            self._host.say(Type.ISO_PACKET, self._next_id(), body, data[at : at + packet.actual])
            at += packet.actual


class IsoOut(Stream):
    """Packets are gathered into transfers; half of what the stream can hold must be there before the first is made."""

    def __init__(self, host: Host, endpoint: int, pipe: Pipe, shape: tuple[int, int]) -> None:
        super().__init__(host, endpoint)
        self._packets, self._transfers = shape
        self._size = pipe.packet
        self._filling: list[bytes] = []
        self._filled: deque[tuple[int, list[bytes]]] = deque()  # the id of the first packet, and all of them
        self._ids: dict[Transfer, int] = {}
        self._first = 0  # id of the first packet of `_filling`
        self._to_drop = 0
        self._has_begun = False
        self.underruns = 0

    def take(self, id: int, data: Buffer) -> None:
        """A packet of the importer's. One too many is dropped, and others to be back at half."""
        if len(data) > self._size:
            self.tell(WireStatus.INVAL, id)
            return
        if self._to_drop:
            self._to_drop -= 1
            self._host.dropped += 1
            return
        if len(self._filled) + len(self.flying) >= self._transfers:
            self._host.dropped += 1
            self._to_drop = self._packets * self._transfers // 2
            return
        if not self._filling:
            self._first = id
        self._filling.append(bytes(data))
        if len(self._filling) == self._packets:
            self._filled.append((self._first, self._filling))
            self._filling = []

    def due(self) -> int:
        if not self._has_begun and len(self._filled) < max(1, self._transfers // 2):
            return 0
        return len(self._filled)

    def make(self) -> Transfer:
        self._has_begun = True
        id, gathered = self._filled.popleft()
        packets, offset = [], 0
        for one in gathered:
            packets.append(IsoPacket(offset, len(one)))
            offset += len(one)
        transfer = Transfer(self.endpoint, offset, b"".join(gathered), b"", Flags.ISO_ASAP, packets)
        self._ids[transfer] = id
        return transfer

    def ended(self, transfer: Transfer, completion: Completion) -> None:
        """One status for each transfer that failed; a stall, or an endpoint that is gone, stops the stream."""
        id = self._ids.pop(transfer)
        failed = completion.status or next((p.status for p in completion.packets or () if p.status), Status.OK)
        if completion.status in (Status.STALL, Status.GONE, Status.SHUTDOWN, Status.CANCELLED):
            self.fail()
        elif failed:
            self.tell(wire_status(failed), id)
        if not self.flying and not self._filled:
            self._has_begun = False  # the device ran dry: gather again
            self.underruns += 1


class Receiving(Stream):
    """Transfers that wait at an interrupt or bulk IN endpoint, each to become a packet."""

    def __init__(
        self, host: Host, endpoint: int, kind: TransferType, size: int, transfers: int, stream_id: int = 0
    ) -> None:
        super().__init__(host, endpoint)
        self.stream_id = stream_id
        self._is_bulk = kind is TransferType.BULK
        self._size = size
        self._transfers = transfers
        self._errors = 0  # in a row
        self._limit = min(_WAITING_PACKETS * (size + _PACKET_BYTES), _WAITING_BYTES)

    @property
    def is_held(self) -> bool:
        return self._host.waiting_bytes() > self._limit

    def due(self) -> int:
        return 0 if self.is_held else self._transfers - len(self.flying)

    def make(self) -> Transfer:
        return Transfer(self.endpoint, self._size, stream_id=self.stream_id)

    def tell(self, status: WireStatus, id: int = 0) -> None:
        if self._is_bulk:
            body: Any = BulkReceivingStatus(self.stream_id, self.endpoint, status)
            self._host.say(Type.BULK_RECEIVING_STATUS, id, body)
        else:
            self._host.say(Type.INTERRUPT_RECEIVING_STATUS, id, StreamStatus(status, self.endpoint))

    def ended(self, transfer: Transfer, completion: Completion) -> None:
        """A stall stops it, for the importer to see and to clear."""
        status, data = completion.status, completion.data
        if len(data) > self._size:
            status, data = Status.OVERFLOW, data[: self._size]
        self._errors = self._errors + 1 if status not in (Status.OK, Status.SHORT) else 0
        if status in (Status.STALL, Status.GONE, Status.SHUTDOWN, Status.CANCELLED) or self._errors > _ERRORS:
            self.fail()
            return
        if self._is_bulk:
            body: Any = BufferedBulkPacket(self.stream_id, len(data), self.endpoint, wire_status(status))
            self._host.say(Type.BUFFERED_BULK_PACKET, self._next_id(), body, data)
        else:
            body = PeriodicPacket(self.endpoint, wire_status(status), len(data))
            self._host.say(Type.INTERRUPT_PACKET, self._next_id(), body, data)
