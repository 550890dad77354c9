"""Packets of an importer whose answers have to come: in flight at the exporter, cancelled, completed.

A transfer is one packet whose id is its tag, but interrupt OUT may take several. Bulk packets have a short way here
too, `bulk_packets`: those that end well and say nothing odd, between peers of this decade.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator
from typing import Any, Final, Protocol

from ...usb.transfer import Completion, Transfer
from ...usb.types import Status
from ..errors import ProtocolError
from ..events import LENT_FROM, Completed, Event, Lent
from ..limits import Limits
from .codec import LONG_BULK, Codec, Packet, length_of
from .messages import Header, Type, status_of

MAX_ID: Final = 0xFFFFFFFF
ANSWERED: Final = frozenset(
    (
        Type.CONFIGURATION_STATUS,
        Type.ALT_SETTING_STATUS,
        Type.BULK_STREAMS_STATUS,
        Type.RESET_STATUS,
        Type.CONTROL_PACKET,
        Type.BULK_PACKET,
        Type.INTERRUPT_PACKET,
    )
)
_OK: Final = Status.OK
_BULK: Final = int(Type.BULK_PACKET)
_SIZE: Final = LONG_BULK.size
_HEADER: Final = Header.SIZE


class Host(Protocol):
    """What is written of the importer: how much of its view is done with."""

    consumed: int


class Flight:
    """A transfer whose answer has to come, in one packet or in `left`."""

    __slots__ = ("actual", "is_cancelled", "kind", "left", "status", "tag", "transfer")

    def __init__(self, tag: int, kind: int, transfer: Transfer) -> None:
        self.tag = tag
        self.kind = kind  # of the answer
        self.transfer = transfer
        self.left = 1  # packets without answer
        self.is_cancelled = False
        self.status: Status = _OK
        self.actual = 0


class Flights:
    """Of one connection. `completed` hears of the end of each, in the general way."""

    def __init__(self, host: Host, codec: Codec, limits: Limits, own: deque[Event], others: Container[int]) -> None:
        self.claiming = 0  # tag of the question that comes before a claim's answer
        self._host = host
        self._codec = codec
        self._limits = limits
        self._own = own
        self._others = others  # tags that are taken, of transfers that are none of these
        self._tag = 0
        self._unused = MAX_ID  # up to here no number was ever given
        self._flying: dict[int, Flight | Transfer] = {}  # by id; a bulk packet that is all of a transfer stands bare
        self._split: dict[int, tuple[Flight, list[int]]] = {}  # by tag: those of several packets, and their ids

    def next(self) -> int:
        """The next number that is free: a parked read may be older than the last turn of the counter."""
        tag = self._tag + 1
        if tag <= self._unused:
            self._tag = tag
            return tag
        self._unused = 0
        tag = self._tag % MAX_ID + 1
        while tag in self._flying or tag in self._split or tag in self._others:
            tag = tag % MAX_ID + 1
        self._tag = tag
        return tag

    def fly(self, tag: int, kind: int, transfer: Transfer) -> Flight:
        """A packet was sent, with its tag for an id. `kind` is its answer's."""
        flight = self._flying[tag] = Flight(tag, kind, transfer)
        return flight

    def fly_bulk(self, tag: int, transfer: Transfer) -> None:
        """A bulk packet was sent, with its tag for an id."""
        self._flying[tag] = transfer

    def _of(self, id: int) -> Flight | None:
        """What is in flight there."""
        flight = self._flying.get(id)
        return self.fly(id, _BULK, flight) if isinstance(flight, Transfer) else flight

    def another(self, flight: Flight) -> int:
        """One more packet for the same transfer; its id."""
        id = self.next()
        self._flying[id] = flight
        flight.left += 1
        self._split.setdefault(flight.tag, (flight, [flight.tag]))[1].append(id)
        return id

    def cancel(self, tag: int) -> list[int]:
        """Note that a transfer is to end; the ids of its packets that are to be cancelled, none for a second time."""
        flight, ids = self._split.get(tag) or (self._of(tag), [tag])
        if flight is None or flight.tag != tag or flight.is_cancelled or flight.kind < Type.CONTROL_PACKET:
            return []
        flight.is_cancelled = True
        return [id for id in ids if self._flying.get(id) is flight]

    def clear(self, status: Status) -> None:
        """The device is gone, and everything ends."""
        ended = {flight.tag for id in self._flying if (flight := self._of(id)) is not None}
        self._flying.clear()
        self._split.clear()
        self._own.extend(Completed(tag, status) for tag in sorted(ended) if tag != self.claiming)

    def admit(self, kind: int, id: int, body: Any) -> None:
        """Refuse from the headers alone what no transfer asked for."""
        if kind < Type.CONTROL_PACKET:
            return
        length = length_of(body)
        is_of_stream = kind == Type.INTERRUPT_PACKET and body.endpoint >= 0x80  # those have numbers of the exporter's
        flight = self._of(id) if kind in ANSWERED and not is_of_stream else None
        if flight is not None and flight.kind == kind and length > flight.transfer.length:
            raise ProtocolError(f"{length} bytes in the answer to #{id}, a transfer of {flight.transfer.length}")
        if length > self._limits.transfer_bytes and flight is None:
            raise ProtocolError(f"{length} bytes that nobody asked for, the limit is {self._limits.transfer_bytes}")

    # -- answers ------------------------------------------------------------------------------------------------------

    def bulk_packets(self, view: memoryview, at: int) -> Iterator[Event]:
        """The hot loop: answers of success from `at` on, while they are whole and in the longest form."""
        host, flying, unpack, end = self._host, self._flying, LONG_BULK.unpack_from, len(view)
        self._codec.needed = _HEADER
        while at + _SIZE <= end:
            kind, rest, id, endpoint, status, length, _, high = unpack(view, at)
            transfer = flying.get(id)
            if kind != _BULK or status or transfer.__class__ is not Transfer or endpoint != transfer.endpoint:
                return
            body, length = at + _SIZE, high << 16 | length
            after = body + length if endpoint >= 0x80 else body
            if length > transfer.length or rest != after - at - _HEADER:
                return
            if after > end:
                self._codec.needed = after - at
                return
            at = host.consumed = after
            del flying[id]
            if length >= LENT_FROM:
                yield Lent(id, _OK, view[body:after], length)
            else:
                yield Completed(id, _OK, bytes(view[body:after]), length)

    def answered(self, packet: Packet) -> Completed | None:
        """The answer to a packet of ours; one that we know nothing of came too late, and says nothing."""
        flight = self._of(packet.id)
        if flight is None or flight.kind != packet.kind:
            return None
        body: Any = packet.body
        transfer, status = flight.transfer, status_of(body.status, flight.is_cancelled)
        if packet.kind >= Type.CONTROL_PACKET and (body.endpoint ^ _endpoint(flight)) & 0x8F:
            raise ProtocolError(f"an answer for endpoint {body.endpoint:02x} to #{packet.id}, {transfer}")
        del self._flying[packet.id]
        flight.left -= 1
        flight.status = flight.status or status
        if packet.kind >= Type.CONTROL_PACKET:
            flight.actual += length_of(body)
        if flight.left:
            return None
        self._split.pop(flight.tag, None)
        return Completed.of(flight.tag, _completion(flight, packet))


def _completion(flight: Flight, packet: Packet) -> Completion:
    body: Any = packet.body
    transfer, status = flight.transfer, flight.status
    if packet.kind == Type.CONFIGURATION_STATUS:
        return Completion(status, bytes([body.configuration])[: transfer.length] if transfer.is_in else b"")
    if packet.kind == Type.ALT_SETTING_STATUS:
        return Completion(status, bytes([body.alternate])[: transfer.length] if transfer.is_in else b"")
    if packet.kind < Type.CONTROL_PACKET:
        return Completion(status)
    if transfer.is_in:
        return Completion(status, bytes(packet.data))
    return Completion(status, b"", min(flight.actual, transfer.length))


def _endpoint(flight: Flight) -> int:
    """As it was sent: a control packet's is the direction of its request, whether it has data or not."""
    transfer = flight.transfer
    return transfer.setup[0] & 0x80 if flight.kind == Type.CONTROL_PACKET else transfer.endpoint
