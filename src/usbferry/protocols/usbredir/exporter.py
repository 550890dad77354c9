"""usbredir's usb-host, the side that has the device. No I/O.

    HELLO --hello--> CLAIMING --accept--> SERVING --gone--> WAITING --a device again--> CLAIMING
                         `------refuse, not there or busy------^           DONE: refused for good

One device on a connection at a time; the connection outlives it, and waits where there is none. A device that is not
wanted leaves it UNWANTED for a while: who connects again at once, as QEMU does each second, is offered it less often.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum, auto
from itertools import count
from typing import Any, Final

from ...usb.info import DeviceInfo
from ...usb.transfer import Buffer, Completion
from ...usb.types import Status, TransferType
from ..errors import ProtocolError
from ..events import AllocStreams, Claim, Event, FreeStreams, Note, Refusal, Release, Reset, Watch
from ..limits import DEFAULT_LIMITS, Limits
from ..record import Record
from . import filter as filters
from .answers import ANSWERS
from .codec import Codec, Packet, length_of
from .infos import device_connect
from .messages import (
    ALL_CAPABILITIES,
    Capability,
    Dialect,
    Empty,
    ResetStatus,
    Sender,
    Type,
    WireStatus,
    address_of,
    wire_status,
)
from .runner import Runner
from .settings import Settings
from .streams import ISO_SECONDS
from .transfers import DATA, Transfers

VERSION: Final = "usbferry usb-host"
UNWANTED_SECONDS: Final = 30.0  # before a device is offered again to who did not want it: each time it is opened
HELD_SECONDS: Final = 0.01  # after which a stream that waits for the network looks again
_NEVER_RESET: Final = frozenset(((0x1210, 0x001C), (0x2798, 0x0001)))  # they do not survive it; the reference's list
_MAX_STREAMS: Final = 0xFFFF  # USB 3.2 §8.12.1.4
_OK: Final = Status.OK
_EMPTY: Final = memoryview(b"")
_NO_BODY: Final = Empty()


class State(Enum):
    HELLO = auto()  # waits for the peer's
    CLAIMING = auto()  # waits for `accept` or `refuse`
    SERVING = auto()
    WAITING = auto()  # there is no device now
    UNWANTED = auto()  # there is one, and it is not for this peer
    DONE = auto()  # everything said: write what is left and close


class Exporter:
    """One usbredir connection, seen from the side that has the device `name`; "" is the only one there is."""

    protocol = "usbredir"
    is_prompt = True
    session = b""  # the claim ends with its connection

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        now: float = 0.0,
        name: str = "",
        *,
        dialect: Dialect = Dialect.RELEASED,
        capabilities: frozenset[Capability] = ALL_CAPABILITIES,
        rules: tuple[filters.Rule, ...] = (),
        iso_seconds: float = ISO_SECONDS,
    ) -> None:
        """`rules` are told to the peer, and count here too. `iso_seconds` of isochronous packets are meant to wait."""
        self.state = State.HELLO
        self.consumed = 0  # bytes of the last view that are done with
        self.outgoing: list[Buffer] = []  # taken and cleared by the pump
        self.outgoing_bytes = 0
        self.dropped = 0  # isochronous packets, for the network was too slow or the importer too fast
        self.unsent: Callable[[], int] = lambda: 0  # bytes that the network has not taken yet; the pump says so
        self.peer_rules: tuple[filters.Rule, ...] = ()  # the peer's filter, where it sent one
        self._name = name
        self._limits = limits
        self._codec = Codec(Sender.EXPORTER, dialect, capabilities, self._admit)
        self._dialect = dialect
        self._rules = rules
        self._view: memoryview = _EMPTY
        self._begun: float | None = None  # when the first byte of the hello came
        self._now = now
        self._unwanted_since = now
        self._tags = count(1)
        self._stream_requests: dict[int, tuple[int, int, Any]] = {}  # alloc and free that wait: type, id, layout
        self._resets: dict[int, int] = {}  # tag -> id
        self._own: deque[Event] = deque()  # events that no packet asked for
        self._settings = Settings(self.say, self._codec.has)
        self._transfers = Transfers(self, self._codec, self._settings, limits, self._tags)
        self._runner = Runner(self, self._settings, limits, iso_seconds, self._tags, self._own)
        self._is_watching = self._may_claim = False
        self._is_acknowledged = self._is_released = True  # the last disconnect
        self._put(self._codec.hello(VERSION))

    # -- what the pump calls ------------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Nothing more will be said: the connection is closed once `outgoing` is written."""
        return self.state is State.DONE and not self._own

    @property
    def is_unheard(self) -> bool:
        """Whether the importer has said nothing yet."""
        return self.state is State.HELLO and self._begun is None

    @property
    def needed(self) -> int:
        """Bytes that must be there before the next packet can be read."""
        return self._codec.needed

    @property
    def in_flight(self) -> int:
        """Transfers that have no answer yet, those of streams aside."""
        return len(self._transfers.pending)

    @property
    def has_events(self) -> bool:
        """Whether `events` has something to say without more bytes."""
        return bool(
            self._own or (self._may_claim and self._can_claim()) or (self._runner.running and self._runner.is_due)
        )

    def receive(self, view: memoryview, now: float) -> None:
        """Look at all received bytes that are not consumed yet; `events` reads them and counts up `consumed`."""
        self._view = view
        self._now = now
        self.consumed = 0
        if len(view) and self._begun is None:
            self._begun = now

    def events(self) -> Iterator[Event]:
        """What the importer wants, packet by packet, and what the streams do. May be left early and called again.

        Raises ProtocolError when the importer breaks the protocol.
        """
        if self.has_events:
            yield from self._unasked()
        while self.state not in (State.CLAIMING, State.DONE):
            if self._codec.has_long_bulk:
                yield from self._transfers.data_packets(self._view, self.consumed)
                if len(self._view) - self.consumed < self._codec.needed:
                    break
            packet = self._codec.read(self._view, self.consumed)
            if packet is None:
                break
            self.consumed += self._codec.size
            event = self._take(packet)
            if event is not None:
                try:
                    yield event
                finally:
                    self._transfers.settle()
            if self._own or self._may_claim or self._runner.running:
                yield from self._unasked()

    def deadline(self) -> float | None:
        """When `tick` wants to be called.

        An importer that says nothing is let be: QEMU sends its hello when its machine runs, and libvirt starts machines
        paused. (`server.listen` connects anew to one that it has connected to.) One that began has to finish its hello.
        """
        if self.state is State.HELLO:
            return None if self._begun is None else self._begun + self._limits.handshake_seconds
        if self.state is State.UNWANTED:
            return self._unwanted_since + UNWANTED_SECONDS
        return self._now + HELD_SECONDS if self._runner.running and self._runner.is_held else None

    def tick(self, now: float) -> None:
        """Let time pass. Raises ProtocolError when the importer took too long over its hello."""
        self._now = now
        deadline = self.deadline()
        if self.state is State.HELLO and deadline is not None and now >= deadline:
            raise ProtocolError(f"no whole hello within {self._limits.handshake_seconds:g} s")
        if self.state is State.UNWANTED and deadline is not None and now >= deadline:
            self.state = State.DONE

    def accept(self, info: DeviceInfo) -> None:
        """Answer Claim: the importer has the device. Infos first: QEMU takes no device without them."""
        self._transfers.is_used, self._may_claim = True, False
        if self._rules and filters.check(self._rules, info) is not filters.Verdict.ALLOWED:
            self._own.append(Note(f"{info} is not redirected: the filter given here does not admit it"))
            self._give_up()
            return
        self.state = State.SERVING
        self._settings.begin(info)
        if self._codec.has(Type.DEVICE_CONNECT):
            self.say(Type.DEVICE_CONNECT, 0, device_connect(info))

    def refuse(self, reason: Refusal) -> None:
        """Answer Claim: there is no such device now. The protocol has no word for it; the connection waits for one."""
        if reason in (Refusal.NOT_FOUND, Refusal.BUSY) and self._dialect is Dialect.RELEASED:
            self.state = State.WAITING
            self._watch()
        else:
            self.state = State.DONE

    def complete(self, tag: int, completion: Completion) -> None:
        """Answer the Submit of `tag`, once; those of its own streams too.

        The reply may wait for earlier transfers on its endpoint. A tag that is not in flight is ignored.
        """
        if self._transfers.complete(tag, completion):
            return
        if tag in self._runner.flying:
            self._runner.ended(tag, completion)
        elif tag in self._stream_requests:
            self._say_status(*self._stream_requests.pop(tag), wire_status(completion.status))

    def reset_done(self, tag: int, ok: bool) -> None:
        """Answer Reset. Only the draft tells the importer; after a failure `gone` follows."""
        id = self._resets.pop(tag, 0)
        self._say_reset(id, WireStatus.SUCCESS if ok else WireStatus.IOERROR)

    def gone(self) -> None:
        """The device left, and everything pending is answered."""
        if self.state is not State.SERVING:
            return
        self._forget_device()
        if not self._codec.has(Type.DEVICE_DISCONNECT):
            self.state = State.DONE  # the draft's device is its connection
            return
        self.state = State.WAITING
        self.say(Type.DEVICE_DISCONNECT)
        self._is_acknowledged = not self._codec.has(Type.DEVICE_DISCONNECT_ACK)
        self._is_released = False
        self._own.append(Release())

    def released(self) -> None:
        """Answer Release: whatever comes next may be claimed."""
        self._is_released = True
        if self.state is State.WAITING:
            self._watch()

    def noticed(self) -> None:
        """Answer Watch: a device came, left or changed hands."""
        self._may_claim = self.state in (State.WAITING, State.CLAIMING)

    def disconnected(self, now: float) -> bool:
        """The transport is lost; whether the claim waits for another. This one's ends with its connection."""
        self.state = State.DONE
        return False

    # -- for the streams ----------------------------------------------------------------------------------------------

    def waiting_bytes(self) -> int:
        """Bytes said that the network has not taken."""
        return self.unsent()

    def say(self, kind: int, id: int = 0, body: Record = _NO_BODY, data: Buffer = b"") -> None:
        """Send a packet."""
        self._put(self._codec.pack(kind, id, body, data))
        if len(data):
            self._put(data)

    # -- events that no packet asked for ------------------------------------------------------------------------------

    def _unasked(self) -> Iterator[Event]:
        while self._own:
            yield self._own.popleft()
        if self._can_claim():
            self._may_claim = False
            self.state = State.CLAIMING
            yield Claim(self._name)
        yield from self._runner.events()

    def _can_claim(self) -> bool:
        ready = self._may_claim and self._is_acknowledged and self._is_released
        return ready and self.state is State.WAITING and not self._own

    def _watch(self) -> None:
        """Look for a device; once more after the watch has begun, for one may have come in between."""
        if not self._is_watching:
            self._is_watching = self._may_claim = True
            self._own.append(Watch())

    # -- packets ------------------------------------------------------------------------------------------------------

    def _admit(self, kind: int, id: int, body: Any) -> None:
        """Refuse from the header what would cost memory before it is there."""
        if kind >= Type.CONTROL_PACKET and body.endpoint < 0x80 and length_of(body) > self._limits.transfer_bytes:
            raise ProtocolError(f"{length_of(body)} bytes in #{id}, the limit is {self._limits.transfer_bytes}")

    def _take(self, packet: Packet) -> Event | None:
        kind = packet.kind
        if kind == Type.HELLO:
            return self._greeted()
        if self.state is State.SERVING:
            return _HANDLERS[kind](self, packet)
        if kind == Type.DEVICE_DISCONNECT_ACK:
            return self._acknowledged(packet)
        if kind in ANSWERS or kind in DATA:
            self._answer_absent(packet)
        elif kind == Type.FILTER_FILTER:
            return self._filter(packet)
        return None

    def _greeted(self) -> Event | None:
        """The peer's hello; a second one means nothing."""
        if self.state is not State.HELLO:
            return None
        if self._rules and self._codec.has(Type.FILTER_FILTER):
            self.say(Type.FILTER_FILTER, data=filters.wire_of(self._rules))
        self.state = State.CLAIMING
        return Claim(self._name)

    def _filter(self, packet: Packet) -> Event | None:
        """The peer judges the device by it. One that cannot be read is passed over, as by the reference."""
        try:
            self.peer_rules = filters.parse_wire(packet.data)
        except ValueError as error:
            return Note(f"the peer's filter cannot be read: {error}")
        return None

    def _rejected(self, packet: Packet) -> Event | None:
        info = self._settings.info
        self._forget_device()
        self._give_up()
        return Note(f"the peer does not want {info}: its filter, or the speed of its ports, does not admit it")

    def _give_up(self) -> None:
        """Others may have the device. The connection stays for a while, with nothing to say."""
        self.state = State.UNWANTED
        self._unwanted_since = self._now
        self._is_released = False
        self._own.append(Release())

    def _forget_device(self) -> None:
        self._runner.forget_all()
        self._transfers.forget_all()
        self._stream_requests.clear()
        self._own.clear()
        self._settings.end()

    def _acknowledged(self, packet: Packet) -> Event | None:
        self._is_acknowledged = True
        return None

    def _answer_absent(self, packet: Packet) -> None:
        """There is no device: every question is answered, none with success."""
        body, ioerror = packet.body, WireStatus.IOERROR
        if packet.kind in DATA:
            self._transfers.say_data(packet.kind, packet.id, body, ioerror, b"", 0)
        else:
            self._say_status(packet.kind, packet.id, body, ioerror)

    def _say_status(self, kind: int, id: int, body: Any, status: WireStatus) -> None:
        """Answer a question whose status is all there is to say."""
        answer, make = ANSWERS[kind]
        self.say(answer, id, make(body, status))

    # -- what becomes a transfer --------------------------------------------------------------------------------------

    def _control(self, packet: Packet) -> Event | None:
        return self._transfers.control(packet)

    def _bulk(self, packet: Packet) -> Event | None:
        return self._transfers.bulk(packet)

    def _interrupt(self, packet: Packet) -> Event | None:
        return self._transfers.interrupt(packet)

    def _cancel(self, packet: Packet) -> Event | None:
        return self._transfers.cancel(packet)

    def _set_configuration(self, packet: Packet) -> Event | None:
        return self._transfers.submit(packet, self._settings.set_configuration(packet))

    def _set_alternate(self, packet: Packet) -> Event | None:
        transfer = self._settings.set_alternate(packet)
        return self._transfers.submit(packet, transfer) if transfer is not None else None

    def _get_configuration(self, packet: Packet) -> Event | None:
        self._settings.get_configuration(packet)
        return None

    def _get_alternate(self, packet: Packet) -> Event | None:
        self._settings.get_alternate(packet)
        return None

    # -- reset --------------------------------------------------------------------------------------------------------

    def _reset(self, packet: Packet) -> Event | None:
        """No reply. Streams end first, and the importer hears it of each; nothing is reset twice in a row."""
        device = self._settings.info.device
        self._runner.fail_all()
        if not self._transfers.is_used or (device.vendor_id, device.product_id) in _NEVER_RESET:
            self._say_reset(packet.id, WireStatus.SUCCESS)
            return None
        self._transfers.is_used = False
        tag = next(self._tags)
        self._resets[tag] = packet.id
        self._own.append(Reset(tag))  # after the streams' cancels
        return None

    def _say_reset(self, id: int, status: WireStatus) -> None:
        if self._codec.has(Type.RESET_STATUS):
            self.say(Type.RESET_STATUS, id, ResetStatus(status))

    # -- streams ------------------------------------------------------------------------------------------------------

    def _start_iso(self, packet: Packet) -> Event | None:
        self._transfers.is_used = True
        self._runner.start_iso(packet)
        return None

    def _start_interrupt(self, packet: Packet) -> Event | None:
        self._transfers.is_used = True
        self._runner.start_interrupt(packet)
        return None

    def _start_bulk(self, packet: Packet) -> Event | None:
        self._transfers.is_used = True
        self._runner.start_bulk(packet)
        return None

    def _stop(self, packet: Packet) -> Event | None:
        self._runner.stop(packet)
        self._say_status(packet.kind, packet.id, packet.body, WireStatus.SUCCESS)
        return None

    def _iso(self, packet: Packet) -> Event | None:
        self._runner.iso(packet)
        return None

    def _bulk_streams(self, packet: Packet) -> Event | None:
        """Streams for all the endpoints, or for none."""
        body: Any = packet.body
        if self._dialect is Dialect.DRAFT:
            endpoints: tuple[int, ...] = (body.endpoint,)
        else:
            endpoints = tuple(address_of(place) for place in range(32) if body.endpoints >> place & 1)
        is_alloc = packet.kind == Type.ALLOC_BULK_STREAMS
        known = all(self._settings.has_endpoint(endpoint, TransferType.BULK) for endpoint in endpoints)
        if not (endpoints and known) or (is_alloc and not 0 < body.count <= _MAX_STREAMS):
            self._say_status(packet.kind, packet.id, body, WireStatus.INVAL)
            return None
        self._transfers.is_used = True
        tag = next(self._tags)
        self._stream_requests[tag] = (packet.kind, packet.id, body)
        return AllocStreams(tag, endpoints, body.count) if is_alloc else FreeStreams(tag, endpoints)

    def _put(self, chunk: Buffer) -> None:
        self.outgoing.append(chunk)
        self.outgoing_bytes += len(chunk)


_HANDLERS: Final[dict[int, Callable[[Exporter, Packet], Event | None]]] = {
    Type.RESET: Exporter._reset,
    Type.SET_CONFIGURATION: Exporter._set_configuration,
    Type.GET_CONFIGURATION: Exporter._get_configuration,
    Type.SET_ALT_SETTING: Exporter._set_alternate,
    Type.GET_ALT_SETTING: Exporter._get_alternate,
    Type.START_ISO_STREAM: Exporter._start_iso,
    Type.STOP_ISO_STREAM: Exporter._stop,
    Type.START_INTERRUPT_RECEIVING: Exporter._start_interrupt,
    Type.STOP_INTERRUPT_RECEIVING: Exporter._stop,
    Type.ALLOC_BULK_STREAMS: Exporter._bulk_streams,
    Type.FREE_BULK_STREAMS: Exporter._bulk_streams,
    Type.CANCEL_DATA_PACKET: Exporter._cancel,
    Type.FILTER_REJECT: Exporter._rejected,
    Type.FILTER_FILTER: Exporter._filter,
    Type.DEVICE_DISCONNECT_ACK: Exporter._acknowledged,
    Type.START_BULK_RECEIVING: Exporter._start_bulk,
    Type.STOP_BULK_RECEIVING: Exporter._stop,
    Type.CONTROL_PACKET: Exporter._control,
    Type.BULK_PACKET: Exporter._bulk,
    Type.ISO_PACKET: Exporter._iso,
    Type.INTERRUPT_PACKET: Exporter._interrupt,
}
