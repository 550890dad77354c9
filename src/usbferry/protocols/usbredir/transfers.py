"""Data packets and what else becomes a transfer: in flight at the device, cancelled, answered in their order.

Cancel strategy. Each data packet is answered once. A cancel asks the device, and the answer is what then is true:
status cancelled, or the result of a transfer that was done before ("the usb-guest can check if the packet completed
normally", usb-redirection-protocol.md). The reference host says "cancelled" at once instead, whatever becomes of the
data. A guest may use the id again before that (QEMU does, for a ring that was stopped and goes on): ids are not unique,
and answers of one endpoint keep their order, which QEMU asserts (usb_packet_complete, hw/usb/core.c).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from ...usb.setup import SET_ADDRESS, Setup
from ...usb.transfer import Buffer, Completion, Transfer
from ...usb.types import Status, TransferType
from ..errors import ProtocolError
from ..events import Cancel, Event, Submit
from ..limits import Limits
from ..pending import Entry, Pending
from .codec import Codec, Packet, length_of
from .messages import BulkPacket, Type, WireStatus, wire_status
from .settings import Settings

DATA: Final = frozenset((Type.CONTROL_PACKET, Type.BULK_PACKET, Type.INTERRUPT_PACKET))
_OK: Final = Status.OK

Asked = tuple[int, int, Any, Transfer]  # type, id and layout of what asked for a transfer


class Transfers:
    """Of one connection. `put` sends bytes, `tags` gives numbers."""

    def __init__(
        self, codec: Codec, settings: Settings, limits: Limits, tags: Iterator[int], put: Callable[[Buffer], None]
    ) -> None:
        self.pending = Pending()
        self.is_used = True  # something happened since the last reset
        self._codec = codec
        self._settings = settings
        self._limits = limits
        self._tags = tags
        self._put = put
        self._asked: dict[int, Asked] = {}  # tag of a transfer that waits -> what asked for it
        self._tag_of: dict[int, int] = {}  # id -> tag, newest first served, of data packets that may be cancelled
        self._current: tuple[int, Asked] | None = None  # the submit that was just emitted, and its tag

    def forget_all(self) -> None:
        """The device is gone; what it still says of these comes too late."""
        self.pending, self._current = Pending(), None
        self._asked.clear()
        self._tag_of.clear()

    def settle(self) -> None:
        """The pump has seen the last submit: one that has no answer now gets it later."""
        if self._current is not None:
            self._park(*self._current)

    def complete(self, tag: int, completion: Completion) -> None:
        """Answer a transfer, when those before it on its endpoint are answered."""
        current = self._current
        if current is not None and current[0] == tag:
            if not self.pending.waits_on(current[1][3]):
                self._current = None
                self._answer(*current[1], completion)
                return
            self._park(*current)
        for entry in self.pending.finish(tag, completion):
            self._finish(entry)

    # -- packets ------------------------------------------------------------------------------------------------------

    def control(self, packet: Packet) -> Event | None:
        body: Any = packet.body
        setup = Setup(body.request_type, body.request, body.value, body.index, body.length)
        transfer = Transfer(0x80 if setup.is_in else 0, body.length, packet.data, setup.pack())
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
        self._current = (tag, (packet.kind, packet.id, packet.body, transfer))
        return Submit(tag, transfer)

    def _refuse(self, packet: Packet, transfer: Transfer, status: Status) -> Event | None:
        """Answer without asking the device, but not before what was asked earlier."""
        if len(self.pending) >= 2 * self._limits.transfers:
            raise ProtocolError(f"{len(self.pending)} transfers without answer, the limit is {self._limits.transfers}")
        tag = next(self._tags)
        refused = Transfer(transfer.endpoint, 0, b"", transfer.setup, stream_id=transfer.stream_id)
        self._current = (tag, (packet.kind, packet.id, packet.body, refused))
        self.complete(tag, Completion(status))
        return None

    def _park(self, tag: int, asked: Asked) -> None:
        self._current = None
        kind, id, _, transfer = asked
        self.pending.add(tag, transfer)
        self._asked[tag] = asked
        if kind in DATA:
            self._tag_of[id] = tag

    def cancel(self, packet: Packet) -> Event | None:
        tag = self._tag_of.pop(packet.id, None)
        if tag is None:
            return None  # it has been answered
        entry = self.pending.cancel(tag, tag)
        assert entry is not None
        if entry.completion is None:
            return Cancel(tag, entry.transfer)
        self.pending.release(entry)
        self._finish(entry)
        return None

    def _finish(self, entry: Entry) -> None:
        asked = self._asked.pop(entry.tag)
        if self._tag_of.get(asked[1]) == entry.tag:
            del self._tag_of[asked[1]]
        assert entry.completion is not None
        self._answer(*asked, entry.completion)

    def _answer(self, kind: int, id: int, body: Any, transfer: Transfer, completion: Completion) -> None:
        if kind == Type.SET_CONFIGURATION:
            self._settings.configured(id, body.configuration, completion)
        elif kind == Type.SET_ALT_SETTING:
            self._settings.alternated(id, body.interface, body.alternate, completion)
        else:
            if kind == Type.CONTROL_PACKET and completion.status == _OK:
                self._settings.follow(Setup.parse(transfer.setup))
            self._reply(kind, id, body, transfer, completion)

    def _reply(self, kind: int, id: int, body: Any, transfer: Transfer, completion: Completion) -> None:
        """The packet comes back with another status and length, and with data for IN alone.

        A device that gave more than was asked for babbled: that is the status, with what fits.
        """
        status, length = completion.status, transfer.length
        data = completion.data if transfer.endpoint >= 0x80 else b""
        actual = len(data) if transfer.endpoint >= 0x80 else completion.actual
        if actual > length:
            status, data, actual = Status.OVERFLOW, data[:length], length
        self.say_data(kind, id, body, wire_status(status), data, actual)

    def say_data(self, kind: int, id: int, body: Any, status: WireStatus, data: Buffer, actual: int) -> None:
        if body.__class__ is BulkPacket:
            self._put(self._codec.pack_bulk(id, body.endpoint, status, actual, body.stream_id, len(data)))
            if len(data):
                self._put(data)
            return
        body.status, body.length = status, actual
        self._put(self._codec.pack(kind, id, body, data))
        if len(data):
            self._put(data)
