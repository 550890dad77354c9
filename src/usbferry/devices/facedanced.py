"""A device written for Facedancer 3, driven by transfers rather than by a board: we are its backend.

    control request   handle_request; it replies, acknowledges or stalls, now or later
    OUT transfer      handle_data_available, packet by packet
    IN transfer       the packets that it has sent; when there are none, handle_nak and handle_buffer_available

An endpoint that has nothing waits. It is asked again whenever its program sends something, and by and by, for a board
would ask at each of the host's attempts: after its service interval, on a bulk endpoint after 1 to 16 ms.
Facedancer has no isochronous transfers: nothing comes from such an endpoint, and what is sent there is lost.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final

from ..backends.chore import Chore
from ..usb import setup as requests
from ..usb.descriptors import DescriptorError, parse_configuration, parse_device, parse_string
from ..usb.info import DeviceInfo
from ..usb.setup import SET_CONFIGURATION, SET_INTERFACE, Setup, is_clear_halt
from ..usb.transfer import Completion, Flags, Transfer
from ..usb.tree import Configuration, DescriptorType
from ..usb.types import Speed, Status, TransferType
from .chapter9 import Stall
from .clock import Clock, Timer
from .pipe import Answer, Handler
from .virtual import VirtualDevice, data, done

log: Final = logging.getLogger(__name__)
_FIRST_PAUSE: Final = 0.001  # seconds until a bulk endpoint is asked again, doubled each time
_LAST_PAUSE: Final = 0.016
_LANGUAGE: Final = 0x0409


class Backend:
    """What a Facedancer device has for a board: its methods are those of `facedancer.backends.base`."""

    def __init__(self) -> None:
        self.owner: Facedanced | None = None
        self.speed = Speed.UNKNOWN  # that it wants to have
        self.request: Any = None  # that is being answered
        self.outcome: bytes | Status | None = None  # of that: a reply, or STALL; None while there is none

    def get_version(self) -> str:
        return "usbferry"

    def connect(self, usb_device: Any, max_packet_size_ep0: int = 64, device_speed: Any = None) -> None:
        self.speed = Speed[device_speed.name] if device_speed is not None else Speed.FULL

    def disconnect(self) -> None:
        """Its program unplugs it."""
        if self.owner is not None:
            self.owner.vanish("its program disconnected it")

    def reset(self) -> None: ...
    def set_address(self, address: int, defer: bool = False) -> None: ...
    def configured(self, configuration: Any) -> None: ...
    def validate_configuration(self, configuration: Any) -> None: ...
    def service_irqs(self) -> None: ...
    def read_from_endpoint(self, endpoint_number: int) -> bytes:
        return b""  # it is handed what comes

    def send_on_control_endpoint(
        self, endpoint_number: int, in_request: Any, data: bytes, blocking: bool = True
    ) -> None:
        if in_request is self.request:
            self._answer(bytes(data))

    def ack_status_stage(self, direction: int = 0, endpoint_number: int = 0, blocking: bool = False) -> None:
        self._answer(b"")

    def send_on_endpoint(self, endpoint_number: int, data: bytes, blocking: bool = True) -> None:
        if endpoint_number == 0:
            self._answer(bytes(data))
        elif self.owner is not None:
            self.owner.came(endpoint_number, bytes(data))

    def stall_endpoint(self, endpoint_number: int, direction: int = 0) -> None:
        if endpoint_number == 0:
            self._answer(Status.STALL)
        elif self.owner is not None:
            self.owner.halt(endpoint_number | int(direction) << 7)

    def clear_halt(self, endpoint_number: int, direction: int) -> None:
        if self.owner is not None:
            self.owner.set_halt(endpoint_number | int(direction) << 7, False)

    def _answer(self, outcome: bytes | Status) -> None:
        """The first one counts: observers of a request may acknowledge it too."""
        if self.outcome is None and self.request is not None:
            self.outcome = outcome
            if self.owner is not None:
                self.owner.kick(0)


class _Lane:
    """What one IN endpoint has sent."""

    def __init__(self) -> None:
        self.packets: deque[tuple[bytes, int]] = deque()  # each with the size that it had when it was whole
        self.found = bytearray()  # of the transfer that waits
        self.is_primed = False  # it has heard that there is room
        self.pause = _FIRST_PAUSE
        self.timer: Timer | None = None

    def clear(self) -> None:
        self.packets.clear()
        self.found.clear()
        self.is_primed, self.pause = False, _FIRST_PAUSE
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Facedanced(VirtualDevice):
    """A Facedancer device as one of ours."""

    def __init__(
        self,
        device: Any,
        coroutines: Iterable[Coroutine[Any, Any, Any]] = (),
        *,
        speed: Speed = Speed.UNKNOWN,
        clock: Clock | None = None,
    ) -> None:
        """`device` is a `facedancer.USBDevice`; `coroutines` run beside it from the first claim on.

        Raises ValueError when it does not say what it is.
        """
        self._facedancer = device
        self._coroutines, self._chores = list(coroutines), list[Chore]()
        self._backend = device.backend = Backend()
        self._lanes: dict[int, _Lane] = {}
        self._asked: Transfer | None = None  # the control request that it has not answered yet
        self._hears = False  # it is about to hear of a setting by the host's own request
        device.connect()
        self._told = self._described(speed or self._backend.speed)
        info = self._told
        self.descriptor, self.speed = info.device, info.speed
        self.manufacturer, self.product, self.serial = info.manufacturer, info.product, info.serial
        super().__init__(clock=clock)
        self.redescribe(info, {})
        self._backend.owner = self

    def configurations(self) -> tuple[Configuration, ...]:
        return self._told.configurations

    # -- what it says of itself ---------------------------------------------------------------------------------------

    def _described(self, speed: Speed) -> DeviceInfo:
        try:
            device = parse_device(self._descriptor(DescriptorType.DEVICE))
            found = [self._descriptor(DescriptorType.CONFIGURATION, index) for index in range(device.configurations)]
            configurations = tuple(map(parse_configuration, found))
        except DescriptorError as error:
            raise ValueError(f"it does not say what it is: {error}") from error
        if not configurations:
            raise ValueError("it has no configuration; is @use_inner_classes_automatically missing?")
        bulk = [e.packet_size for c in configurations for i in c.interfaces for e in i.endpoints if e.type == 2]
        if speed is Speed.FULL and max(bulk, default=0) > 64:
            speed = Speed.HIGH  # it says nothing of its speed, but its packets do
        names = [self._text(index) for index in (device.manufacturer, device.product, device.serial)]
        return DeviceInfo(
            name="",
            device=device,
            configurations=configurations,
            speed=speed,
            configuration=configurations[0].value,
            manufacturer=names[0],
            product=names[1],
            serial=names[2],
        )

    def _descriptor(self, kind: int, index: int = 0, language: int = 0) -> bytes:
        """As a host gets it; b"" where it is refused."""
        outcome = self._ask(requests.get_descriptor(kind, index, language=language, length=0xFFFF).pack())
        return outcome if isinstance(outcome, bytes) else b""

    def _text(self, index: int) -> str:
        try:
            return parse_string(self._descriptor(DescriptorType.STRING, index, _LANGUAGE)) if index else ""
        except DescriptorError:
            return ""

    @property
    def isochronous_endpoints(self) -> list[int]:
        """Those of which Facedancer can make no use."""
        everything = (e for c in self._told.configurations for i in c.interfaces for e in i.endpoints)
        return sorted({e.address for e in everything if e.type is TransferType.ISOCHRONOUS})

    # -- its life -----------------------------------------------------------------------------------------------------

    async def opened(self) -> None:
        if not self._chores:
            name = f"a coroutine of {self._told.title}"
            self._chores = [Chore(self._run(coroutine), name, lambda: None) for coroutine in self._coroutines]

    async def unplugged(self) -> None:
        for chore in self._chores:
            await chore.end()
        for coroutine in self._coroutines:  # of those that had no time to begin
            coroutine.close()
        self._chores, self._coroutines = [], []
        self._backend.owner = None
        self._facedancer.disconnect()

    async def _run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            await coroutine
        except Exception as error:
            if not self._ends(error):
                raise

    def _call(self, method: Callable[..., Any], *arguments: Any) -> None:
        """Something that its program does, which may end it."""
        try:
            method(*arguments)
        except Exception as error:
            if not self._ends(error):
                raise

    def _ends(self, error: Exception) -> bool:
        """Whether an error is the program's wish to end."""
        ends = type(error).__name__ == "EndEmulation"
        if ends:
            self.vanish(f"its program ended: {error}")
        return ends

    def was_reset(self) -> None:
        for lane in self._lanes.values():
            lane.clear()
        self._asked = None
        self._call(self._facedancer.handle_bus_reset)
        if self.is_present:  # by a host, which has its settings restored
            self._ask(requests.set_configuration(self.info.configuration).pack())
            for number, alternate in self.info.alternates.items():
                self._ask(requests.set_interface(number, alternate).pack())

    def configured(self, value: int) -> None:
        """It hears of every configuration: of the one that a claim begins with, too."""
        for lane in self._lanes.values():
            lane.clear()
        super().configured(value)
        if not self._hears and self._ask(requests.set_configuration(value).pack()) == Status.STALL:
            log.warning("%s refuses its configuration %d", self._told.title, value)

    def interface_set(self, number: int, alternate: int) -> None:
        active = self.info.active
        for setting in active.interfaces if active is not None else ():
            for one in setting.endpoints:
                if setting.number == number and one.address in self._lanes:
                    self._lanes[one.address].clear()
        super().interface_set(number, alternate)

    # -- control requests ---------------------------------------------------------------------------------------------

    def _ask(self, raw: bytes) -> bytes | Status | None:
        """Hand it a request; its reply, b"" for an acknowledgement, STALL, or None while it thinks."""
        backend = self._backend
        backend.outcome = None
        backend.request = self._facedancer.create_request(raw)
        self._call(self._facedancer.handle_request, backend.request)
        return backend.outcome

    def _control(self, transfer: Transfer) -> Answer:
        raw = bytes(transfer.setup)
        outcome = self._backend.outcome
        if self._asked is not transfer:
            self._asked = transfer
            outcome = self._ask(raw + bytes(transfer.data))
        if not self.is_present:
            return Completion(Status.GONE)
        if outcome is None:
            return None
        self._asked = self._backend.request = None
        if isinstance(outcome, Status):
            return Completion(outcome)
        self._follow(Setup.parse(raw))
        return data(outcome[: transfer.length]) if transfer.endpoint & 0x80 else done(transfer)

    def _follow(self, setup: Setup) -> None:
        """What it has agreed to changes our endpoints too."""
        if (setup.request_type, setup.request) not in (SET_CONFIGURATION, SET_INTERFACE) and not is_clear_halt(setup):
            return
        self._hears = True
        try:
            self.standard(setup, b"")
        except Stall:
            log.debug("%s agreed to what its descriptors lack: %s", self._told.title, setup)
        finally:
            self._hears = False

    # -- endpoints ----------------------------------------------------------------------------------------------------

    def handler_of(self, address: int) -> Handler:
        if address & 0x0F == 0:
            return super().handler_of(address)
        return self.faults.over(address, partial(self._give if address & 0x80 else self._take, address))

    def _take(self, address: int, transfer: Transfer) -> Answer:
        if transfer.packets is not None:
            for packet in transfer.packets:
                packet.actual = packet.length
            return Completion(Status.OK, b"", transfer.length, transfer.packets)
        payload, size, taken = bytes(transfer.data), self._packet_size(address), 0
        pieces = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
        if transfer.flags & Flags.ZERO_PACKET and payload and not len(payload) % size:
            pieces.append(b"")
        for piece in pieces:
            self._call(self._facedancer.handle_data_available, address & 0x0F, piece)
            if not self.is_present:
                return Completion(Status.GONE)
            if self.is_halted(address):
                return Completion(Status.STALL, b"", taken)
            taken += len(piece)
        return done(transfer)

    def came(self, number: int, packet: bytes) -> None:
        """It has sent a packet."""
        self._lane(number | 0x80).packets.append((packet, len(packet)))
        self.kick(number | 0x80)

    def _give(self, address: int, transfer: Transfer) -> Answer:
        if transfer.packets is not None:
            return Completion(Status.OK, b"", packets=transfer.packets)
        lane, size = self._lane(address), self._packet_size(address)
        while True:
            if not lane.packets:
                self._invite(address, lane)
            if not self.is_present:
                return Completion(Status.GONE)
            if self.is_halted(address):
                return Completion(Status.STALL)
            if not lane.packets:
                self._ask_again(address, lane)
                return None
            (packet, whole), room = lane.packets.popleft(), transfer.length - len(lane.found)
            lane.is_primed, lane.pause = False, _FIRST_PAUSE
            if len(packet) > room:
                lane.packets.appendleft((packet[room:], whole))
            lane.found += packet[:room]
            if whole < size or len(packet) >= room:
                found, lane.found = lane.found, bytearray()
                return data(found)

    def _invite(self, address: int, lane: _Lane) -> None:
        """The host wants something, and there is nothing: its program may send it now."""
        self._call(self._facedancer.handle_nak, address & 0x0F)
        if not lane.packets and not lane.is_primed and self.is_present:
            lane.is_primed = True
            self._call(self._facedancer.handle_buffer_available, address & 0x0F)

    def _ask_again(self, address: int, lane: _Lane) -> None:
        if lane.timer is not None:
            return
        interval = self._pipes[address].endpoint.interval_us(self.info.speed) / 1e6
        pause, lane.pause = max(interval, lane.pause), min(2 * lane.pause, _LAST_PAUSE)

        def due() -> None:
            lane.timer = None
            self.kick(address)

        lane.timer = self.clock.call_at(self.clock.now() + pause, due)

    def _lane(self, address: int) -> _Lane:
        return self._lanes.setdefault(address, _Lane())

    def _packet_size(self, address: int) -> int:
        return max(1, self._pipes[address].endpoint.packet_size)
