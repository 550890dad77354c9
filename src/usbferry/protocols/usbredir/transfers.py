"""Data packets and what else becomes a transfer: in flight at the device, cancelled, answered in their order.

Cancel strategy. Each data packet is answered once. A cancel asks the device, and the answer is what then is true:
status cancelled, or the result of a transfer that was done before ("the usb-guest can check if the packet completed
normally", usb-redirection-protocol.md). The reference host says "cancelled" at once instead, whatever becomes of the
data. A guest may use the id again before that (QEMU does, for a ring that was stopped and goes on): ids are not unique,
and answers of one endpoint keep their order, which QEMU asserts (usb_packet_complete, hw/usb/core.c).

Nearly all packets are bulk and control packets about which nothing is unusual, between peers of this decade. They have
a short way, `data_packets`, which reads each with one `unpack`, and leaves others, and mistakes, to the codec's tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Any, Final, Protocol

from ...usb import setup as requests
from ...usb.setup import SET_ADDRESS, Setup
from ...usb.transfer import Buffer, Completion, Transfer
from ...usb.types import Status, TransferType
from ..errors import ProtocolError
from ..events import Cancel, Event, Submit
from ..limits import Limits
from ..pending import Entry, Pending
from .codec import LONG_BULK, Codec, Packet, length_of
from .messages import BulkPacket, ControlPacket, Header, Type, wire_status
from .settings import Settings

_BULK: Final = int(Type.BULK_PACKET)
_BODY: Final = BulkPacket.SIZE
_HEADER: Final = Header.SIZE  # bytes, in the longest form
_CONTROL: Final = int(Type.CONTROL_PACKET)
_SIZE: Final = LONG_BULK.size  # of both kinds of packets, in the longest form, but for their data
_OF_SETTINGS: Final = (0x00, 0x01)  # request types of what changes them: standard, to the device or an interface
_LONG_CONTROL: Final = Struct("<" + "".join((*Header.FORMATS.values(), *ControlPacket.FORMATS.values())))
_pack_bulk: Final = LONG_BULK.pack
_pack_control: Final = _LONG_CONTROL.pack
_unpack_setup: Final = Struct("<BBHH2x").unpack
DATA: Final = frozenset((Type.CONTROL_PACKET, Type.BULK_PACKET, Type.INTERRUPT_PACKET))
_OK: Final = Status.OK


class Host(Protocol):
    """What is written of the exporter: how much of its view is done with, and what it has to say."""

    consumed: int
    outgoing: list[Buffer]
    outgoing_bytes: int


class Transfers:
    """Of one connection. `tags` gives numbers."""

    def __init__(self, host: Host, codec: Codec, settings: Settings, limits: Limits, tags: Iterator[int]) -> None:
        self.pending = Pending()
        self.is_used = True  # something happened since the last reset
        # The submit that was just emitted. What is `asked` of it: type and id of its packet, and the layout, which for
        # control and bulk is only the endpoint.
        self.current: Submit | None = None
        self._host = host
        self._codec = codec
        self._settings = settings
        self._limits = limits
        self._tags = tags
        self._tag_of: dict[int, int] = {}  # id -> tag, newest first served, of data packets that may be cancelled

    def forget_all(self) -> None:
        """The device is gone; what it still says of these comes too late."""
        self.pending, self.current = Pending(), None
        self._tag_of.clear()

    def settle(self) -> None:
        """The pump has seen the last submit: one that has no answer now gets it later."""
        if self.current is not None:
            self._park(self.current)

    def complete(self, tag: int, completion: Completion) -> bool:
        """Answer a transfer, when those before it on its endpoint are answered; whether it was one of these."""
        current, pending = self.current, self.pending
        if current is not None and current.tag == tag:
            if not pending.entries or not pending.waits_on(current.transfer):
                self.current = None
                self._answer(current, completion)
                return True
            self._park(current)
        elif tag not in pending.entries:
            return False
        alone = pending.finish_alone(tag)
        for entry in pending.finish(tag, completion) if alone is None else (alone,):
            id = entry.asked[1]
            if self._tag_of.get(id) == entry.tag:
                del self._tag_of[id]
            self._answer(entry, entry.completion or completion)
        return True

    # -- packets ------------------------------------------------------------------------------------------------------

    def control(self, packet: Packet) -> Event | None:
        body: Any = packet.body
        setup = Setup(body.request_type, body.request, body.value, body.index, body.length)
        transfer = Transfer(0x80 if setup.is_in else 0, body.length, packet.data, setup.pack())
        packet = Packet(packet.kind, packet.id, body.endpoint)
        if (setup.length and setup.is_in != (body.endpoint >= 0x80)) or body.endpoint & 0x7F:
            return self._refuse(packet, transfer, Status.INVALID)
        if (setup.request_type, setup.request) == SET_ADDRESS:
            return self._refuse(packet, transfer, _OK)  # the bus's own business, never the device's
        return self.submit(packet, transfer)

    def bulk(self, packet: Packet) -> Event | None:
        body: Any = packet.body
        length = length_of(body)
        transfer = Transfer(body.endpoint, length, packet.data, stream_id=body.stream_id)
        if not self._settings.has_endpoint(body.endpoint, TransferType.BULK) or length > self._limits.transfer_bytes:
            return self._refuse(packet, transfer, Status.INVALID)
        return self.submit(packet, transfer)

    def interrupt(self, packet: Packet) -> Event | None:
        """OUT alone. QEMU sends all of a guest's transfer in one packet, however many packets it has on the bus."""
        body: Any = packet.body
        transfer = Transfer(body.endpoint, body.length, packet.data)
        if not self._settings.has_endpoint(body.endpoint, TransferType.INTERRUPT):
            return self._refuse(packet, transfer, Status.INVALID)
        return self.submit(packet, transfer)

    def submit(self, packet: Packet, transfer: Transfer) -> Event | None:
        """Ask the device, unless too much waits there already: then the answer comes in its order, for QEMU's sake."""
        self.is_used = True
        pending, limits = self.pending, self._limits
        if len(pending) >= limits.transfers or pending.bytes + transfer.length > limits.bytes_in_flight:
            return self._refuse(packet, transfer, Status.NO_MEMORY)
        tag = next(self._tags)
        self.current = Submit(tag, transfer, (packet.kind, packet.id, packet.body))
        return self.current

    def data_packets(self, view: memoryview, at: int) -> Iterator[Event]:
        """The hot loop: bulk and control packets from `at` on, while they are whole, allowed and in their longest form.

        Without a device no endpoint is in force, and it ends at once.
        """
        host, settings, pending, limits, tags = self._host, self._settings, self.pending, self._limits, self._tags
        unpack, end, waiting = LONG_BULK.unpack_from, len(view), pending.entries
        self._codec.needed = _HEADER
        while at + _SIZE <= end and settings.pipes:
            kind, rest, id, endpoint, _, length, stream_id, high = unpack(view, at)
            body = at + _SIZE
            if kind == _BULK:
                setup, length = b"", high << 16 | length
                if endpoint not in settings.bulk or length > limits.transfer_bytes:
                    return
            elif kind == _CONTROL:
                setup, stream_id, length = _setup_in(view, at), 0, high
                if not _is_plain(setup, endpoint, length):
                    return
            else:
                return
            after = body if endpoint >= 0x80 else body + length
            if rest != after - at - _HEADER:
                return
            if after > end:
                self._codec.needed = after - at
                return
            if waiting and (len(waiting) >= limits.transfers or pending.bytes + length > limits.bytes_in_flight):
                return
            at = host.consumed = after
            self.is_used = True
            tag, address = next(tags), endpoint
            if kind == _CONTROL:
                address = setup[0] & 0x80 if length else 0
            transfer = Transfer(
                address, length, view[body:after] if endpoint < 0x80 else b"", setup, 0, None, stream_id
            )
            self.current = event = Submit(tag, transfer, (kind, id, endpoint))
            try:
                yield event
            finally:
                if self.current is not None:  # the device answers later: `_park`, without its call
                    self.current = None
                    pending.add(event)
                    self._tag_of[id] = tag
            if pending is not self.pending:
                return  # the device is gone

    def _refuse(self, packet: Packet, transfer: Transfer, status: Status) -> Event | None:
        """Answer without asking the device, but not before what was asked earlier."""
        if len(self.pending) >= 2 * self._limits.transfers:
            raise ProtocolError(f"{len(self.pending)} transfers without answer, the limit is {self._limits.transfers}")
        tag = next(self._tags)
        refused = Transfer(transfer.endpoint, 0, b"", transfer.setup, stream_id=transfer.stream_id)
        self.current = Submit(tag, refused, (packet.kind, packet.id, packet.body))
        self.complete(tag, Completion(status))
        return None

    def _park(self, entry: Entry) -> None:
        self.current = None
        self.pending.add(entry)
        kind, id, _ = entry.asked
        if kind in DATA:
            self._tag_of[id] = entry.tag

    def cancel(self, packet: Packet) -> Event | None:
        tag = self._tag_of.pop(packet.id, None)
        if tag is None:
            return None  # it has been answered
        entry = self.pending.cancel(tag, tag)
        assert entry is not None
        if entry.completion is None:
            return Cancel(tag, entry.transfer)
        self.pending.release(entry)  # its answer was held back
        self._answer(entry, entry.completion)
        return None

    # -- answers ------------------------------------------------------------------------------------------------------

    def _answer(self, entry: Entry, completion: Completion) -> None:
        """The packet comes back with another status and length, and with data for IN alone.

        A device that gave more than was asked for babbled: that is the status, with what fits.
        """
        transfer = entry.transfer
        kind, id, body = entry.asked
        status, is_in = completion.status, transfer.endpoint >= 0x80
        data = completion.data if is_in else b""
        actual = len(data) if is_in else completion.actual
        if actual > transfer.length:
            status, actual = Status.OVERFLOW, transfer.length
            data = data[:actual]
        number = 0 if status is _OK else wire_status(status)
        if kind == _BULK:
            self._say_bulk(id, transfer.endpoint, number, actual, transfer.stream_id, data)
        elif kind == _CONTROL:
            if status == _OK and transfer.setup[0] in _OF_SETTINGS:
                self._settings.follow(Setup.parse(transfer.setup))
            self._say_control(id, body, transfer.setup, number, data, actual)
        elif kind == Type.SET_CONFIGURATION:
            self._settings.configured(id, body.configuration, completion)
        elif kind == Type.SET_ALT_SETTING:
            self._settings.alternated(id, body.interface, body.alternate, completion)
        else:
            self.say_data(kind, id, body, number, data, actual)

    def _say_control(self, id: int, endpoint: int, setup: bytes, status: int, data: Buffer, actual: int) -> None:
        request_type, request, value, index = _unpack_setup(setup)
        if self._codec.has_long_bulk:
            rest, host = _BODY + len(data), self._host
            host.outgoing.append(
                _pack_control(_CONTROL, rest, id, endpoint, request, request_type, status, value, index, actual)
            )
            host.outgoing_bytes += _HEADER + rest
            if rest > _BODY:
                host.outgoing.append(data)
        else:
            body = ControlPacket(endpoint, request, request_type, status, value, index, actual)
            self.say_data(_CONTROL, id, body, status, data, actual)

    def _say_bulk(self, id: int, endpoint: int, status: int, actual: int, stream_id: int, data: Buffer) -> None:
        """What `Codec.pack` would make of it; nothing about it can be wrong."""
        host, size = self._host, len(data)
        if self._codec.has_long_bulk:
            low, high = actual & 0xFFFF, actual >> 16
            host.outgoing.append(_pack_bulk(_BULK, _BODY + size, id, endpoint, status, low, stream_id, high))
            host.outgoing_bytes += _SIZE + size
        else:
            head = self._codec.pack_bulk(id, endpoint, status, actual, stream_id, size)
            host.outgoing.append(head)
            host.outgoing_bytes += len(head) + size
        if size:
            host.outgoing.append(data)

    def say_data(self, kind: int, id: int, body: Any, status: int, data: Buffer, actual: int) -> None:
        """Send a data packet back, as an answer."""
        if kind == _BULK:
            self._say_bulk(id, body.endpoint, status, actual, body.stream_id, data)
            return
        body.status, body.length = status, actual
        head = self._codec.pack(kind, id, body, data)
        self._host.outgoing.append(head)
        self._host.outgoing_bytes += len(head) + len(data)
        if len(data):
            self._host.outgoing.append(data)


def _setup_in(view: memoryview, at: int) -> bytes:
    """The setup packet in a control packet, whose fields have another order there."""
    return bytes((view[at + _HEADER + 2], view[at + _HEADER + 1])) + view[at + _HEADER + 4 : at + _SIZE]


def _is_plain(setup: bytes, endpoint: int, length: int) -> bool:
    """Whether a control request contradicts itself nowhere, and is the device's business."""
    agrees = not length or setup[0] & 0x80 == endpoint
    return agrees and not endpoint & 0x7F and not (setup[0] == 0 and setup[1] == requests.Request.SET_ADDRESS)
