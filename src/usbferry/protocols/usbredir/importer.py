"""usbredir's usb-guest, the side that uses the device: transfers in, packets out, answers back. No I/O.

The exporter says when there is a device, and one connection may see several, one after the other. Requests that have
packets of their own are turned into them and back: configurations, alternate settings, reset. Interrupt IN and
isochronous endpoints are streams of the exporter's, see `intake`; all other packets have an answer, see `flights`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from ...usb import setup as requests
from ...usb.info import DeviceInfo
from ...usb.setup import Request, Setup
from ...usb.transfer import Buffer, Completion, Transfer
from ...usb.tree import DeviceDescriptor
from ...usb.types import Speed, Status, TransferType
from ..events import Claimed, Completed, Event, Left, Listed, Refusal, Refused
from ..limits import DEFAULT_LIMITS, Limits
from ..record import Record
from . import filter as filters
from .codec import HELLO, Codec, Packet
from .flights import ANSWERED, Flights
from .infos import device_info, interface_classes, peer_pipes
from .intake import Intake
from .messages import (
    ALL_CAPABILITIES,
    AllocBulkStreams,
    Capability,
    ControlPacket,
    Dialect,
    DraftAllocBulkStreams,
    Empty,
    EndpointOnly,
    FreeBulkStreams,
    GetAltSetting,
    InterfaceInfo,
    PeriodicPacket,
    Sender,
    SetAltSetting,
    SetConfiguration,
    Type,
    slot,
)
from .pacing import ISO_SECONDS

VERSION: Final = "usbferry usb-guest"
_SHORT_BULK: Final = 0xFFFF // 1024 * 1024  # bytes of a transfer without 32-bit lengths, whole packets of any size
_LONG_BULK: Final = 64 << 20
_EMPTY: Final = memoryview(b"")
_NO_BODY: Final = Empty()
_OK: Final = Status.OK
_BULK: Final = int(Type.BULK_PACKET)
_GET_CONFIGURATION: Final = (0x80, Request.GET_CONFIGURATION)
_GET_INTERFACE: Final = (0x81, Request.GET_INTERFACE)


class Importer:
    """One usbredir connection, seen from the side that uses the device."""

    protocol = "usbredir"
    is_prompt = True
    opening = HELLO

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        *,
        dialect: Dialect = Dialect.RELEASED,
        capabilities: frozenset[Capability] = ALL_CAPABILITIES,
        rules: tuple[filters.Rule, ...] = (),
        iso_seconds: float = ISO_SECONDS,
        ahead: frozenset[int] = frozenset(),
    ) -> None:
        """`rules` say which devices are wanted, and the peer hears them. `iso_seconds` hide the network's jitter.

        `ahead` are bulk IN endpoints that the exporter reads without being asked (buffered bulk): for devices that talk
        all the time, over networks that are slow. What a driver wants the device to forget is not forgotten there.
        """
        self.consumed = 0
        self.outgoing: list[Buffer] = []
        self.outgoing_bytes = 0
        self.peer_rules: tuple[filters.Rule, ...] = ()
        self._codec = codec = Codec(Sender.IMPORTER, dialect, capabilities, self._admit)
        self._dialect = dialect
        self._rules = rules
        self._view: memoryview = _EMPTY
        self._question = ""  # "list" or "claim", until it is answered
        self._info: DeviceInfo | None = None  # of the device that is connected
        self._interfaces: InterfaceInfo | None = None
        self._own: deque[Event] = deque()
        self._intake = Intake(self._say, self._own, dialect, iso_seconds, ahead)
        self._flights = Flights(self, codec, limits, self._own, self._intake.inbox_of)
        self._put(codec.hello(VERSION))

    # -- questions ----------------------------------------------------------------------------------------------------

    limit = 0x7FFFFFFF  # bytes of a transfer that is taken at all; of bulk, `largest`

    @property
    def largest(self) -> int:
        """Bytes of the largest bulk transfer that goes in one packet."""
        return _LONG_BULK if Capability.BULK_LENGTH_32_BITS in self._codec.in_force else _SHORT_BULK

    @property
    def dropped(self) -> int:
        """Packets of streams that came faster than they were used; see `inboxes` and `pacing` for the rules."""
        return self._intake.dropped

    def list_devices(self) -> None:
        """Ask which device there is; the answer is Listed, once there is one."""
        self._question = "list"
        self._answer_question()

    def claim(self, name: str) -> None:
        """Ask for the device, whatever its name; the answer is Claimed or Refused, once there is one."""
        self._question = "claim"
        self._answer_question()

    def submit(self, transfer: Transfer) -> int:
        """Send a transfer; the answer is Completed with the tag that this returns.

        Its payload must not change until it is sent. Raises ValueError when that is not as long as the transfer says,
        or for a bulk transfer of more than `largest` bytes.
        """
        endpoint, length = transfer.endpoint, transfer.length
        if endpoint < 0x80 and len(transfer.data) != length:
            raise ValueError(f"{len(transfer.data)} bytes of payload in a transfer of {length}")
        if length < 0:
            raise ValueError(f"a transfer of {length} bytes")
        tag = self._flights.next()
        if endpoint in self._intake.asked and transfer.packets is None:
            self._bulk(tag, transfer)  # as it goes nearly always
        elif self._info is None:
            self._own.append(Completed(tag, Status.GONE))
        elif not transfer.endpoint & 0x0F:
            self._control(tag, transfer)
        elif transfer.packets is not None:
            self._intake.submit(tag, transfer, TransferType.ISOCHRONOUS)
        elif self._is_interrupt(transfer):
            self._interrupt(tag, transfer)
        elif self._intake.reads_ahead(endpoint) and self._codec.has(Type.START_BULK_RECEIVING):
            self._intake.submit(tag, transfer, TransferType.BULK)
        else:
            self._bulk(tag, transfer)
        return tag

    def cancel(self, tag: int) -> None:
        """Ask for a transfer's end; its Completed still comes. An unknown tag is ignored: it has ended."""
        if not self._intake.cancel(tag):
            for id in self._flights.cancel(tag):
                self._say(Type.CANCEL_DATA_PACKET, id)

    def alloc_streams(self, endpoints: tuple[int, ...], count: int) -> int:
        """Ask for bulk streams; the answer is Completed with this tag. The draft does it for one endpoint alone."""
        tag = self._flights.next()
        if not self._codec.has(Type.ALLOC_BULK_STREAMS) or (self._dialect is Dialect.DRAFT and len(endpoints) != 1):
            return self._end_now(tag, Completion(Status.INVALID))
        self._flights.fly(tag, Type.BULK_STREAMS_STATUS, Transfer(0, 0))
        body: Record
        if self._dialect is Dialect.DRAFT:
            body = DraftAllocBulkStreams(endpoints[0], count)
        else:
            body = AllocBulkStreams(_mask(endpoints), count)
        self._say(Type.ALLOC_BULK_STREAMS, tag, body)
        return tag

    def free_streams(self, endpoints: tuple[int, ...]) -> int:
        """Give bulk streams back; the answer is Completed with this tag."""
        tag = self._flights.next()
        if not self._codec.has(Type.FREE_BULK_STREAMS) or (self._dialect is Dialect.DRAFT and len(endpoints) != 1):
            return self._end_now(tag, Completion(Status.INVALID))
        self._flights.fly(tag, Type.BULK_STREAMS_STATUS, Transfer(0, 0))
        is_draft = self._dialect is Dialect.DRAFT
        body = EndpointOnly(endpoints[0]) if is_draft else FreeBulkStreams(_mask(endpoints))
        self._say(Type.FREE_BULK_STREAMS, tag, body)
        return tag

    # -- answers ------------------------------------------------------------------------------------------------------

    @property
    def needed(self) -> int:
        """Bytes that must be there before the next packet can be read."""
        return self._codec.needed

    @property
    def has_events(self) -> bool:
        """Whether `events` has something to say without more bytes."""
        return bool(self._own)

    def receive(self, view: memoryview, now: float) -> None:
        """Look at all received bytes that are not consumed yet; `events` reads them and counts up `consumed`."""
        self._view = view
        self.consumed = 0

    def events(self) -> Iterator[Event]:
        """What the exporter said, packet by packet. Raises ProtocolError when it breaks the protocol."""
        codec, own = self._codec, self._own
        while True:
            while own:
                yield own.popleft()
            if codec.has_long_bulk:
                yield from self._flights.bulk_packets(self._view, self.consumed)
                if len(self._view) - self.consumed < codec.needed:
                    return
            packet = codec.read(self._view, self.consumed)
            if packet is None:
                return
            self.consumed += codec.size
            self._take(packet)

    def deadline(self) -> float | None:
        """When `tick` wants to be called; long past for at once."""
        return self._intake.deadline()

    def tick(self, now: float) -> None:
        """Let time pass: isochronous transfers end at their pace."""
        self._intake.tick(now)

    # -- submits ------------------------------------------------------------------------------------------------------

    def _control(self, tag: int, transfer: Transfer) -> None:
        setup = Setup.parse(transfer.setup)
        special = _REQUESTS.get((setup.request_type, setup.request))
        if special is not None:
            special(self, tag, transfer, setup)
        elif requests.is_port_reset(setup):
            self._reset(tag, transfer)
        else:
            if requests.is_clear_halt(setup):
                self._intake.stop(lambda endpoint: endpoint == setup.index & 0x8F)
            self._flights.fly(tag, Type.CONTROL_PACKET, transfer)
            body = ControlPacket(
                setup.request_type & 0x80,
                setup.request,
                setup.request_type,
                0,
                setup.value,
                setup.index,
                setup.length,
            )
            self._say(Type.CONTROL_PACKET, tag, body, b"" if setup.request_type & 0x80 else transfer.data)

    def _set_address(self, tag: int, transfer: Transfer, setup: Setup) -> None:
        self._end_now(tag, Completion(_OK))

    def _set_configuration(self, tag: int, transfer: Transfer, setup: Setup) -> None:
        self._intake.stop(lambda endpoint: True)
        self._flights.fly(tag, Type.CONFIGURATION_STATUS, transfer)
        self._say(Type.SET_CONFIGURATION, tag, SetConfiguration(setup.value & 0xFF))

    def _get_configuration(self, tag: int, transfer: Transfer, setup: Setup) -> None:
        self._flights.fly(tag, Type.CONFIGURATION_STATUS, transfer)
        self._say(Type.GET_CONFIGURATION, tag)

    def _set_interface(self, tag: int, transfer: Transfer, setup: Setup) -> None:
        pipes = self._intake.pipes
        self._intake.stop(lambda endpoint: endpoint not in pipes or pipes[endpoint].interface == setup.index)
        self._flights.fly(tag, Type.ALT_SETTING_STATUS, transfer)
        self._say(Type.SET_ALT_SETTING, tag, SetAltSetting(setup.index & 0xFF, setup.value & 0xFF))

    def _get_interface(self, tag: int, transfer: Transfer, setup: Setup) -> None:
        self._flights.fly(tag, Type.ALT_SETTING_STATUS, transfer)
        self._say(Type.GET_ALT_SETTING, tag, GetAltSetting(setup.index & 0xFF))

    def _reset(self, tag: int, transfer: Transfer) -> None:
        """No answer but the draft's. Streams are stopped first, or a late word of their end would be taken for new."""
        self._intake.stop(lambda endpoint: True)
        if self._codec.has(Type.RESET_STATUS):
            self._flights.fly(tag, Type.RESET_STATUS, transfer)
        else:
            self._end_now(tag, Completion(_OK))
        self._say(Type.RESET, tag)

    def _bulk(self, tag: int, transfer: Transfer) -> None:
        endpoint, length = transfer.endpoint, transfer.length
        data = b"" if endpoint >= 0x80 else transfer.data
        size = len(data)
        head = self._codec.pack_bulk(tag, endpoint, 0, length, transfer.stream_id, size)
        self.outgoing.append(head)
        self.outgoing_bytes += len(head) + size
        if size:
            self.outgoing.append(data)
        self._flights.fly_bulk(tag, transfer)

    def _is_interrupt(self, transfer: Transfer) -> bool:
        pipe = self._intake.pipes.get(transfer.endpoint)
        return transfer.interval > 0 if pipe is None else pipe.type is TransferType.INTERRUPT

    def _interrupt(self, tag: int, transfer: Transfer) -> None:
        if not self._codec.has(Type.INTERRUPT_PACKET):
            self._end_now(tag, Completion(Status.INVALID))  # the draft has no word for them
        elif transfer.is_in:
            self._intake.submit(tag, transfer, TransferType.INTERRUPT)
        else:
            self._interrupt_out(tag, transfer)

    def _interrupt_out(self, tag: int, transfer: Transfer) -> None:
        """In packets of the endpoint's size: the reference host refuses longer ones."""
        pipe = self._intake.pipes.get(transfer.endpoint)
        size = min(pipe.packet if pipe is not None and pipe.packet else 0xFFFF, 0xFFFF)
        pieces = [transfer.data[at : at + size] for at in range(0, transfer.length, size)] or [b""]
        flight = self._flights.fly(tag, Type.INTERRUPT_PACKET, transfer)
        for number, piece in enumerate(pieces):
            id = self._flights.another(flight) if number else tag
            self._say(Type.INTERRUPT_PACKET, id, PeriodicPacket(transfer.endpoint, 0, len(piece)), piece)

    def _end_now(self, tag: int, completion: Completion) -> int:
        self._own.append(Completed.of(tag, completion))
        return tag

    # -- packets ------------------------------------------------------------------------------------------------------

    def _admit(self, kind: int, id: int, body: Any) -> None:
        self._flights.admit(kind, id, body)

    def _take(self, packet: Packet) -> None:
        handler = _HANDLERS.get(packet.kind)
        if handler is not None:
            handler(self, packet)
        elif packet.kind in ANSWERED:
            self._answered(packet)

    def _greeted(self, packet: Packet) -> None:
        if self._rules and self._codec.has(Type.FILTER_FILTER):
            self._say(Type.FILTER_FILTER, 0, _NO_BODY, filters.wire_of(self._rules))
        if self._dialect is Dialect.DRAFT and self._info is None:
            self._info = _unknown()  # it is implied by the connection
        self._answer_question()

    def _filter(self, packet: Packet) -> None:
        with suppress(ValueError):  # as the reference; it decides about nothing here
            self.peer_rules = filters.parse_wire(packet.data)

    def _interface_info(self, packet: Packet) -> None:
        assert isinstance(packet.body, InterfaceInfo)
        self._interfaces = packet.body
        if self._info is not None:
            self._info.interface_classes = interface_classes(packet.body)

    def _ep_info(self, packet: Packet) -> None:
        """Endpoints that changed have new streams."""
        self._intake.change(peer_pipes(packet.body))  # type: ignore[arg-type]

    def _connect(self, packet: Packet) -> None:
        """A device. One that comes while there is one is none (QEMU ignores it too)."""
        body: Any = packet.body
        if self._info is not None:
            return
        self._info = device_info(body, self._interfaces)
        self._intake.speed = self._info.speed if self._info.speed is not Speed.UNKNOWN else Speed.FULL
        if self._rules and filters.check(self._rules, self._info) is not filters.Verdict.ALLOWED:
            text = f"{self._info} is not wanted: the filter given here does not admit it"
            self._info = None
            if self._codec.has(Type.FILTER_REJECT):
                self._say(Type.FILTER_REJECT)
            if self._question:
                self._question = ""
                self._own.append(Refused(Refusal.FAILED, text))
            return
        self._answer_question()

    def _answer_question(self) -> None:
        if not self._question or (self._info is None and not self._faces_importer):
            return
        question, self._question = self._question, ""
        if self._info is None:
            version = self._codec.peer_version
            who = f" ({version})" if version.isprintable() else ""
            self._own.append(Refused(Refusal.UNAVAILABLE, f"it waits for a device itself{who}"))
            return
        if question == "list":
            self._own.append(Listed([self._info]))
            return
        flights = self._flights
        flights.claiming = flights.next()  # the claim is answered when the configuration in force is known
        flights.fly(flights.claiming, Type.CONFIGURATION_STATUS, Transfer(0x80, 1))
        self._say(Type.GET_CONFIGURATION, flights.claiming)

    @property
    def _faces_importer(self) -> bool:
        """Whether the peer has no device to offer, by its own words: "qemu usb-redir guest 7.2", and ours.

        A hello has no field for the side that it is of, so two importers would wait for each other's device.
        """
        version = self._codec.peer_version
        return "guest" in version and "host" not in version and self._dialect is Dialect.RELEASED

    def _disconnect(self, packet: Packet) -> None:
        """The device left: all that waits ends, and whatever still comes of it is late."""
        if self._codec.has(Type.DEVICE_DISCONNECT_ACK):
            self._say(Type.DEVICE_DISCONNECT_ACK)
        if self._info is None:
            return
        self._info = self._interfaces = None
        self._intake.clear(Status.GONE)
        self._flights.clear(Status.GONE)
        if self._flights.claiming:
            self._flights.claiming, self._question = 0, "claim"  # the next device may answer it
            return
        self._own.append(Left())

    def _stream_status(self, packet: Packet) -> None:
        self._intake.status(packet)

    def _stream_packet(self, packet: Packet) -> None:
        self._intake.arrived(packet)

    def _interrupt_packet(self, packet: Packet) -> None:
        body: Any = packet.body
        if body.endpoint < 0x80:
            self._answered(packet)
        else:
            self._intake.arrived(packet)

    def _answered(self, packet: Packet) -> None:
        ended = self._flights.answered(packet)
        if ended is None:
            return
        if ended.tag != self._flights.claiming:
            self._own.append(ended)
        elif self._info is not None:
            self._flights.claiming = 0
            self._info.configuration = ended.data[0] if ended.data else 0
            self._own.append(Claimed(replace(self._info, alternates={})))  # one for each who claims it

    def _say(self, kind: int, id: int = 0, body: Record = _NO_BODY, data: Buffer = b"") -> None:
        self._put(self._codec.pack(kind, id, body, data))
        if len(data):
            self._put(data)

    def _put(self, chunk: Buffer) -> None:
        self.outgoing.append(chunk)
        self.outgoing_bytes += len(chunk)


def _mask(endpoints: tuple[int, ...]) -> int:
    return sum(1 << slot(endpoint) for endpoint in set(endpoints))


def _unknown() -> DeviceInfo:
    """A device of the draft's, which says nothing of it."""
    return DeviceInfo("device", DeviceDescriptor(0, 0), speed=Speed.UNKNOWN, configuration=0)


_REQUESTS: Final[dict[tuple[int, int], Callable[[Importer, int, Transfer, Setup], None]]] = {
    requests.SET_ADDRESS: Importer._set_address,
    requests.SET_CONFIGURATION: Importer._set_configuration,
    _GET_CONFIGURATION: Importer._get_configuration,
    requests.SET_INTERFACE: Importer._set_interface,
    _GET_INTERFACE: Importer._get_interface,
}
_HANDLERS: Final[dict[int, Callable[[Importer, Packet], None]]] = {
    Type.HELLO: Importer._greeted,
    Type.FILTER_FILTER: Importer._filter,
    Type.INTERFACE_INFO: Importer._interface_info,
    Type.EP_INFO: Importer._ep_info,
    Type.DEVICE_CONNECT: Importer._connect,
    Type.DEVICE_DISCONNECT: Importer._disconnect,
    Type.ISO_STREAM_STATUS: Importer._stream_status,
    Type.INTERRUPT_RECEIVING_STATUS: Importer._stream_status,
    Type.ISO_PACKET: Importer._stream_packet,
    Type.BULK_RECEIVING_STATUS: Importer._stream_status,
    Type.BUFFERED_BULK_PACKET: Importer._stream_packet,
    Type.INTERRUPT_PACKET: Importer._interrupt_packet,
}
