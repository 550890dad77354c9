"""usbredir's usb-guest, the side that uses the device: transfers in, packets out, answers back. No I/O.

The exporter says when there is a device, and one connection may see several, one after the other. Requests that have
packets of their own are turned into them and back: configurations, alternate settings, reset. Interrupt IN and
isochronous endpoints are streams of the exporter's, see `inboxes`.
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
from ..errors import ProtocolError
from ..events import Claimed, Completed, Event, Left, Listed, Refusal, Refused
from ..limits import DEFAULT_LIMITS, Limits
from ..record import Record
from . import filter as filters
from .codec import Codec, Packet, length_of
from .inboxes import ISO_SECONDS, Inbox, InterruptIn, IsoIn, IsoOut, Shape
from .infos import Pipe, device_info, interface_classes, peer_pipes
from .messages import (
    ALL_CAPABILITIES,
    AllocBulkStreams,
    BulkPacket,
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
    StartIsoStream,
    Type,
    slot,
    status_of,
)

VERSION: Final = "usbferry usb-guest"
MAX_ID: Final = 0xFFFFFFFF
_SHORT_BULK: Final = 0xFFFF // 1024 * 1024  # bytes of a transfer without 32-bit lengths, whole packets of any size
_LONG_BULK: Final = 64 << 20
_EMPTY: Final = memoryview(b"")
_NO_BODY: Final = Empty()
_OK: Final = Status.OK
_GET_CONFIGURATION: Final = (0x80, Request.GET_CONFIGURATION)
_GET_INTERFACE: Final = (0x81, Request.GET_INTERFACE)


class _Flight:
    """A transfer whose answer has to come. `ids` are those of the packets it was sent in, without answer yet."""

    __slots__ = ("actual", "ids", "is_cancelled", "kind", "status", "tag", "transfer")

    def __init__(self, tag: int, kind: int, transfer: Transfer) -> None:
        self.tag = tag
        self.kind = kind  # of the answer
        self.transfer = transfer
        self.ids = [tag]
        self.is_cancelled = False
        self.status: Status = _OK
        self.actual = 0


class Importer:
    """One usbredir connection, seen from the side that uses the device."""

    protocol = "usbredir"
    opening = Type.HELLO.to_bytes(4, "little")  # what all that an exporter says begins with

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        *,
        dialect: Dialect = Dialect.RELEASED,
        capabilities: frozenset[Capability] = ALL_CAPABILITIES,
        rules: tuple[filters.Rule, ...] = (),
        iso_seconds: float = ISO_SECONDS,
    ) -> None:
        """`rules` say which devices are wanted, and the peer hears them. `iso_seconds` hide the network's jitter."""
        self.consumed = 0
        self.outgoing: list[Buffer] = []
        self.outgoing_bytes = 0
        self.peer_rules: tuple[filters.Rule, ...] = ()
        self._codec = Codec(Sender.IMPORTER, dialect, capabilities, self._admit)
        self._dialect = dialect
        self._limits = limits
        self._rules = rules
        self._iso_seconds = iso_seconds
        self._view: memoryview = _EMPTY
        self._question = ""  # "list" or "claim", until it is answered
        self._info: DeviceInfo | None = None  # of the device that is connected
        self._interfaces: InterfaceInfo | None = None
        self._pipes: dict[int, Pipe] = {}
        self._tag = 0
        self._flying: dict[int, _Flight] = {}  # by the id of each of their packets
        self._by_tag: dict[int, _Flight] = {}
        self._inboxes: dict[int, Inbox] = {}
        self._inbox_of: dict[int, Inbox] = {}  # by the tag of a transfer that waits there
        self._iso_id = 0
        self._claiming = 0  # tag of the question about the configuration
        self._own: deque[Event] = deque()
        self._put(self._codec.hello(VERSION))

    # -- questions ----------------------------------------------------------------------------------------------------

    @property
    def largest(self) -> int:
        """Bytes of the largest bulk transfer that goes in one packet."""
        return _LONG_BULK if Capability.BULK_LENGTH_32_BITS in self._codec.in_force else _SHORT_BULK

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
        if transfer.endpoint < 0x80 and len(transfer.data) != transfer.length:
            raise ValueError(f"{len(transfer.data)} bytes of payload in a transfer of {transfer.length}")
        if transfer.length < 0:
            raise ValueError(f"a transfer of {transfer.length} bytes")
        tag = self._next()
        if self._info is None:
            self._own.append(Completed(tag, Completion(Status.GONE)))
        elif not transfer.endpoint & 0x0F:
            self._control(tag, transfer)
        elif transfer.packets is not None:
            self._stream(tag, transfer, TransferType.ISOCHRONOUS)
        elif self._is_interrupt(transfer):
            self._interrupt(tag, transfer)
        else:
            self._bulk(tag, transfer)
        return tag

    def cancel(self, tag: int) -> None:
        """Ask for a transfer's end; its Completed still comes. An unknown tag is ignored: it has ended."""
        inbox = self._inbox_of.get(tag)
        if inbox is not None:
            inbox.cancel(tag)
            return
        flight = self._by_tag.get(tag)
        if flight is not None and not flight.is_cancelled and flight.kind >= Type.CONTROL_PACKET:
            flight.is_cancelled = True
            for id in flight.ids:
                self._say(Type.CANCEL_DATA_PACKET, id)

    def alloc_streams(self, endpoints: tuple[int, ...], count: int) -> int:
        """Ask for bulk streams; the answer is Completed with this tag. The draft does it for one endpoint alone."""
        tag = self._next()
        if not self._codec.has(Type.ALLOC_BULK_STREAMS) or (self._dialect is Dialect.DRAFT and len(endpoints) != 1):
            return self._end_now(tag, Completion(Status.INVALID))
        self._fly(tag, Type.BULK_STREAMS_STATUS, Transfer(0, 0))
        body: Record
        if self._dialect is Dialect.DRAFT:
            body = DraftAllocBulkStreams(endpoints[0], count)
        else:
            body = AllocBulkStreams(_mask(endpoints), count)
        self._say(Type.ALLOC_BULK_STREAMS, tag, body)
        return tag

    def free_streams(self, endpoints: tuple[int, ...]) -> int:
        """Give bulk streams back; the answer is Completed with this tag."""
        tag = self._next()
        if not self._codec.has(Type.FREE_BULK_STREAMS) or (self._dialect is Dialect.DRAFT and len(endpoints) != 1):
            return self._end_now(tag, Completion(Status.INVALID))
        self._fly(tag, Type.BULK_STREAMS_STATUS, Transfer(0, 0))
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
        while True:
            while self._own:
                yield self._own.popleft()
            packet = self._codec.read(self._view, self.consumed)
            if packet is None:
                return
            self.consumed += self._codec.size
            self._take(packet)

    def deadline(self) -> float | None:
        """When `tick` wants to be called; long past for at once."""
        found = [due for inbox in self._inboxes.values() if (due := inbox.deadline()) is not None]
        return min(found, default=None)

    def tick(self, now: float) -> None:
        """Let time pass: isochronous transfers end at their pace."""
        for inbox in self._inboxes.values():
            inbox.tick(now)

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
                self._stop_streams(lambda endpoint: endpoint == setup.index & 0x8F)
            self._fly(tag, Type.CONTROL_PACKET, transfer)
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
        self._stop_streams(lambda endpoint: True)
        self._fly(tag, Type.CONFIGURATION_STATUS, transfer)
        self._say(Type.SET_CONFIGURATION, tag, SetConfiguration(setup.value & 0xFF))

    def _get_configuration(self, tag: int, transfer: Transfer, setup: Setup) -> None:
        self._fly(tag, Type.CONFIGURATION_STATUS, transfer)
        self._say(Type.GET_CONFIGURATION, tag)

    def _set_interface(self, tag: int, transfer: Transfer, setup: Setup) -> None:
        pipes = self._pipes
        self._stop_streams(lambda endpoint: endpoint not in pipes or pipes[endpoint].interface == setup.index)
        self._fly(tag, Type.ALT_SETTING_STATUS, transfer)
        self._say(Type.SET_ALT_SETTING, tag, SetAltSetting(setup.index & 0xFF, setup.value & 0xFF))

    def _get_interface(self, tag: int, transfer: Transfer, setup: Setup) -> None:
        self._fly(tag, Type.ALT_SETTING_STATUS, transfer)
        self._say(Type.GET_ALT_SETTING, tag, GetAltSetting(setup.index & 0xFF))

    def _reset(self, tag: int, transfer: Transfer) -> None:
        """No answer but the draft's. Streams are stopped first, or a late word of their end would be taken for new."""
        self._stop_streams(lambda endpoint: True)
        if self._codec.has(Type.RESET_STATUS):
            self._fly(tag, Type.RESET_STATUS, transfer)
        else:
            self._end_now(tag, Completion(_OK))
        self._say(Type.RESET, tag)

    def _bulk(self, tag: int, transfer: Transfer) -> None:
        length = transfer.length
        body = BulkPacket(transfer.endpoint, 0, length & 0xFFFF, transfer.stream_id, length >> 16)
        self._say(Type.BULK_PACKET, tag, body, b"" if transfer.is_in else transfer.data)
        self._fly(tag, Type.BULK_PACKET, transfer)

    def _is_interrupt(self, transfer: Transfer) -> bool:
        pipe = self._pipes.get(transfer.endpoint)
        return transfer.interval > 0 if pipe is None else pipe.type is TransferType.INTERRUPT

    def _interrupt(self, tag: int, transfer: Transfer) -> None:
        if not self._codec.has(Type.INTERRUPT_PACKET):
            self._end_now(tag, Completion(Status.INVALID))  # the draft has no word for them
        elif transfer.is_in:
            self._stream(tag, transfer, TransferType.INTERRUPT)
        else:
            self._interrupt_out(tag, transfer)

    def _interrupt_out(self, tag: int, transfer: Transfer) -> None:
        """In packets of the endpoint's size: the reference host refuses longer ones."""
        pipe = self._pipes.get(transfer.endpoint)
        size = min(pipe.packet if pipe is not None and pipe.packet else 0xFFFF, 0xFFFF)
        pieces = [transfer.data[at : at + size] for at in range(0, transfer.length, size)] or [b""]
        flight = self._fly(tag, Type.INTERRUPT_PACKET, transfer)
        for number, piece in enumerate(pieces):
            id = tag
            if number:
                id = self._next()
                self._flying[id] = flight
                flight.ids.append(id)
            self._say(Type.INTERRUPT_PACKET, id, PeriodicPacket(transfer.endpoint, 0, len(piece)), piece)

    def _stream(self, tag: int, transfer: Transfer, kind: TransferType) -> None:
        endpoint = transfer.endpoint
        inbox = self._inboxes.get(endpoint)
        if inbox is None:
            pipe = self._pipes.get(endpoint)
            if pipe is None and self._dialect is Dialect.DRAFT:
                largest = max((p.length for p in transfer.packets or ()), default=0)
                pipe = Pipe(kind, largest, max(1, transfer.interval.bit_length()), 0)
            if pipe is None or pipe.type is not kind:
                self._end_now(tag, Completion(Status.INVALID))
                return
            inbox = self._inboxes[endpoint] = self._new_inbox(endpoint, pipe)
        self._inbox_of[tag] = inbox
        inbox.submit(tag, transfer)

    def _new_inbox(self, endpoint: int, pipe: Pipe) -> Inbox:
        assert self._info is not None
        if pipe.type is TransferType.INTERRUPT:
            body = EndpointOnly(endpoint)
            return InterruptIn(
                self._inbox_ended,
                lambda: self._say(Type.START_INTERRUPT_RECEIVING, 0, body),
                lambda: self._say(Type.STOP_INTERRUPT_RECEIVING, 0, body),
                pipe,
            )
        speed = self._info.speed if self._info.speed is not Speed.UNKNOWN else Speed.FULL
        shape = Shape(pipe, speed, endpoint >= 0x80, self._iso_seconds)

        def begin() -> None:
            self._iso_id = 0
            self._say(Type.START_ISO_STREAM, 0, StartIsoStream(endpoint, shape.packets, shape.transfers))

        def halt() -> None:
            self._say(Type.STOP_ISO_STREAM, 0, EndpointOnly(endpoint))

        def send(data: bytes) -> None:
            self._say(Type.ISO_PACKET, self._iso_id, PeriodicPacket(endpoint, 0, len(data)), data)
            self._iso_id = self._iso_id + 1 & MAX_ID

        if endpoint >= 0x80:
            return IsoIn(self._inbox_ended, begin, halt, shape)
        return IsoOut(self._inbox_ended, begin, halt, shape, send)

    def _stop_streams(self, touches: Callable[[int], bool]) -> None:
        """Before what takes their endpoints from them, as the protocol wants it."""
        for endpoint, inbox in tuple(self._inboxes.items()):
            if touches(endpoint):
                inbox.stop(Status.SHUTDOWN)

    def _inbox_ended(self, tag: int, completion: Completion) -> None:
        del self._inbox_of[tag]
        self._own.append(Completed(tag, completion))

    def _end_now(self, tag: int, completion: Completion) -> int:
        self._own.append(Completed(tag, completion))
        return tag

    def _fly(self, tag: int, kind: int, transfer: Transfer) -> _Flight:
        flight = _Flight(tag, kind, transfer)
        self._flying[tag] = self._by_tag[tag] = flight
        return flight

    # -- packets ------------------------------------------------------------------------------------------------------

    def _admit(self, kind: int, id: int, body: Any) -> None:
        """Refuse from the headers alone what no transfer asked for."""
        if kind < Type.CONTROL_PACKET:
            return
        length = length_of(body)
        flight = self._flying.get(id) if kind in _ANSWERED else None
        if flight is not None and flight.kind == kind and length > flight.transfer.length:
            raise ProtocolError(f"{length} bytes in the answer to #{id}, a transfer of {flight.transfer.length}")
        if length > self._limits.transfer_bytes and flight is None:
            raise ProtocolError(f"{length} bytes that nobody asked for, the limit is {self._limits.transfer_bytes}")

    def _take(self, packet: Packet) -> None:
        handler = _HANDLERS.get(packet.kind)
        if handler is not None:
            handler(self, packet)
        elif packet.kind in _ANSWERED:
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
        """Endpoints that changed have new streams; the old ones were stopped before."""
        body: Any = packet.body
        pipes = peer_pipes(body)
        for endpoint in [e for e in self._inboxes if pipes.get(e) != self._pipes.get(e)]:
            self._inboxes.pop(endpoint).end(Status.SHUTDOWN)
        self._pipes = pipes

    def _connect(self, packet: Packet) -> None:
        """A device. One that comes while there is one is none (QEMU ignores it too)."""
        body: Any = packet.body
        if self._info is not None:
            return
        self._info = device_info(body, self._interfaces)
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
        if self._info is None or not self._question:
            return
        question, self._question = self._question, ""
        if question == "list":
            self._own.append(Listed([self._info]))
            return
        self._claiming = self._next()  # the claim is answered when the configuration in force is known
        self._fly(self._claiming, Type.CONFIGURATION_STATUS, Transfer(0x80, 1))
        self._say(Type.GET_CONFIGURATION, self._claiming)

    def _disconnect(self, packet: Packet) -> None:
        """The device left: all that waits ends, and whatever still comes of it is late."""
        if self._codec.has(Type.DEVICE_DISCONNECT_ACK):
            self._say(Type.DEVICE_DISCONNECT_ACK)
        if self._info is None:
            return
        self._info = self._interfaces = None
        self._pipes = {}
        inboxes, self._inboxes = self._inboxes, {}
        for inbox in inboxes.values():
            inbox.end(Status.GONE)
        flights, self._by_tag = self._by_tag, {}
        self._flying.clear()
        for tag in flights:
            if tag != self._claiming:
                self._own.append(Completed(tag, Completion(Status.GONE)))
        if self._claiming:
            self._claiming, self._question = 0, "claim"  # the next device may answer it
            return
        self._own.append(Left())

    def _stream_status(self, packet: Packet) -> None:
        body: Any = packet.body
        inbox = self._inboxes.get(body.endpoint)
        if inbox is not None:
            inbox.told(body.status)

    def _iso(self, packet: Packet) -> None:
        body: Any = packet.body
        inbox = self._inboxes.get(body.endpoint)
        if isinstance(inbox, IsoIn):
            inbox.take(body.status, bytes(packet.data))

    def _interrupt_packet(self, packet: Packet) -> None:
        body: Any = packet.body
        if body.endpoint < 0x80:
            self._answered(packet)
            return
        inbox = self._inboxes.get(body.endpoint)
        if isinstance(inbox, InterruptIn):
            inbox.take(body.status, bytes(packet.data))

    def _answered(self, packet: Packet) -> None:
        """The answer to a packet of ours; one that we know nothing of came too late, and says nothing."""
        flight = self._flying.get(packet.id)
        if flight is None or flight.kind != packet.kind:
            return
        body: Any = packet.body
        transfer, status = flight.transfer, status_of(body.status, flight.is_cancelled)
        if packet.kind >= Type.CONTROL_PACKET and (body.endpoint ^ _endpoint(flight)) & 0x8F:
            raise ProtocolError(f"an answer for endpoint {body.endpoint:02x} to #{packet.id}, {transfer}")
        del self._flying[packet.id]
        flight.ids.remove(packet.id)
        flight.status = flight.status or status
        if packet.kind >= Type.CONTROL_PACKET:
            flight.actual += length_of(body)
        if not flight.ids:
            del self._by_tag[flight.tag]
            self._completed(flight.tag, _completion(flight, packet))

    def _completed(self, tag: int, completion: Completion) -> None:
        if tag != self._claiming:
            self._own.append(Completed(tag, completion))
        elif self._info is not None:
            self._claiming = 0
            self._info.configuration = completion.data[0] if completion.data else 0
            self._own.append(Claimed(replace(self._info, alternates={})))  # one for each who claims it

    def _next(self) -> int:
        """The next number that is free: a parked read may be older than the last turn of the counter."""
        tag = self._tag % MAX_ID + 1
        while tag in self._flying or tag in self._by_tag or tag in self._inbox_of:
            tag = tag % MAX_ID + 1
        self._tag = tag
        return tag

    def _say(self, kind: int, id: int = 0, body: Record = _NO_BODY, data: Buffer = b"") -> None:
        self._put(self._codec.pack(kind, id, body, data))
        if len(data):
            self._put(data)

    def _put(self, chunk: Buffer) -> None:
        self.outgoing.append(chunk)
        self.outgoing_bytes += len(chunk)


def _completion(flight: _Flight, packet: Packet) -> Completion:
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


def _endpoint(flight: _Flight) -> int:
    """As it was sent: a control packet's is the direction of its request, whether it has data or not."""
    transfer = flight.transfer
    return transfer.setup[0] & 0x80 if flight.kind == Type.CONTROL_PACKET else transfer.endpoint


def _mask(endpoints: tuple[int, ...]) -> int:
    return sum(1 << slot(endpoint) for endpoint in set(endpoints))


def _unknown() -> DeviceInfo:
    """A device of the draft's, which says nothing of it."""
    return DeviceInfo("device", DeviceDescriptor(0, 0), speed=Speed.UNKNOWN, configuration=0)


_ANSWERED: Final = frozenset(
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
    Type.ISO_PACKET: Importer._iso,
    Type.INTERRUPT_PACKET: Importer._interrupt_packet,
}
