"""The base of every virtual device: declare descriptors, write handlers for what is not standard, and that is all.

    class Echo(VirtualDevice):
        descriptor = DeviceDescriptor(0x1209, 0x0001)
        product = "Echo"

        def interfaces(self):
            return (Interface(0, endpoints=(self.bulk(0x01), self.bulk(0x81))),)

        @endpoint(0x01)
        def _take(self, transfer):
            self.held = bytes(transfer.data)
            self.kick(0x81)
            return done(transfer)

        @endpoint(0x81)
        def _give(self, transfer):
            return data(self.held) if self.held else None    # None is a NAK: asked again after `kick`

A handler gets the transfer at the head of its endpoint's queue. Transfers of a device are answered in its event loop;
work that may block goes to a thread, as a future.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final, TypeVar

from ..device import Busy, Device, ResetOutcome
from ..usb.info import DeviceInfo
from ..usb.setup import CLEAR_ENDPOINT_FEATURE, SET_CONFIGURATION, SET_INTERFACE, RequestType, Setup
from ..usb.transfer import Completion, Transfer
from ..usb.tree import (
    Bos,
    Companion,
    Configuration,
    DeviceDescriptor,
    Endpoint,
    Interface,
    SuperSpeedCapability,
    UsbExtension,
)
from ..usb.types import Speed, Status, TransferType
from .chapter9 import Chapter9, Stall, strings_of
from .clock import Clock, LoopClock
from .faults import Faults
from .gate import Gate
from .pipe import Answer, Handler, Pipe, Waiting

Reply = bytes | None | asyncio.Future[bytes | None]
F = TypeVar("F", bound=Callable[..., Any])

_CONTROL_PACKET: Final = {Speed.LOW: 8, Speed.SUPER: 9, Speed.SUPER_PLUS: 9}  # bMaxPacketSize0, 64 for the others
_ENDPOINTS: Final = frozenset(number | way for number in range(1, 16) for way in (0x00, 0x80))
_SUPER_BOS: Final = Bos((UsbExtension(0x02), SuperSpeedCapability(0, 0x0E, 1, 10, 2047)))


_OK: Final = Status.OK  # found sooner than by attribute, for every transfer


def endpoint(address: int) -> Callable[[F], F]:
    """Mark a method as the handler of an endpoint's transfers, in every setting that has the endpoint.

    `method(transfer) -> Completion | Future[Completion] | None`.
    """

    def mark(method: F) -> F:
        method._endpoint = address  # type: ignore[attr-defined]
        return method

    return mark


def request(request_type: int, code: int) -> Callable[[F], F]:
    """Mark a method as the handler of one control request, standard ones included.

    `method(setup, data) -> bytes | None | Future[bytes | None]` gives the data stage of an IN request, cut here to
    its length, and nothing for OUT; it raises Stall to refuse. `data` is what an OUT request brought.
    """

    def mark(method: F) -> F:
        method._request = (request_type, code)  # type: ignore[attr-defined]
        return method

    return mark


def done(transfer: Transfer) -> Completion:
    """An OUT transfer taken whole."""
    return Completion(_OK, b"", transfer.length)


def data(payload: bytes | bytearray | memoryview) -> Completion:
    """An IN transfer's bytes."""
    return Completion(_OK, payload)


class VirtualDevice(Chapter9, Device):
    """A device that exists in this process. Subclasses declare; see the module's example."""

    descriptor: DeviceDescriptor
    manufacturer: str = "usbferry"
    product: str = ""
    serial: str = ""
    strings: Mapping[int, str] = {}  # more of them, at 4 and up
    speed: Speed = Speed.HIGH
    bos: Bos | None = None  # at SuperSpeed there is a plain one by default

    _endpoint_handlers: ClassVar[dict[int, str]] = {}
    _request_handlers: ClassVar[dict[tuple[int, int], str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._endpoint_handlers = dict(cls._endpoint_handlers)
        cls._request_handlers = dict(cls._request_handlers)
        for name, value in vars(cls).items():
            if hasattr(value, "_endpoint"):
                cls._endpoint_handlers[value._endpoint] = name
            if hasattr(value, "_request"):
                cls._request_handlers[value._request] = name

    def __init__(self, *, clock: Clock | None = None) -> None:
        names = (self.manufacturer, self.product, self.serial)
        super().__init__(self._describe(names), strings_of(names, self.strings), self.bos or self._default_bos())
        self._clock = clock
        self._pipes: dict[int, Pipe] = {}  # of the settings in force
        self._routes: Mapping[int, Pipe | Gate] = self._pipes  # the same, but for endpoints behind a barrier
        self._gate = Gate(self._submit_past_barriers, self._reroute)
        self._control_pipe: Pipe | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._absent = Status.GONE  # what an endpoint answers that is not there
        self.is_open = False  # from the start of `open` to the end of `close`
        self._is_plugged = self._for_one_claim = False
        self.faults = Faults(self)
        self.left: Callable[[float | None], None] = lambda away: None  # its source's: it vanished, for so long
        self.freed: Callable[[], None] = lambda: None  # its source's: a claim has ended

    # -- what a subclass declares -------------------------------------------------------------------------------------

    def interfaces(self) -> tuple[Interface, ...]:
        """The interfaces of the one configuration, alternate settings included, built for `self.speed`."""
        return ()

    def configurations(self) -> tuple[Configuration, ...]:
        """Every configuration; by default one, with `interfaces`."""
        return (Configuration(interfaces=self.interfaces()),)

    def bulk(self, address: int, *, burst: int = 0, streams: int = 0) -> Endpoint:
        """A bulk endpoint for `self.speed`; with bursts of `burst` + 1 packets, 2**`streams` streams."""
        if self.speed >= Speed.SUPER:
            return Endpoint(address, TransferType.BULK, 1024, companion=Companion(burst, streams))
        return Endpoint(address, TransferType.BULK, 512 if self.speed is Speed.HIGH else 64)

    def interrupt(self, address: int, size: int, interval: int) -> Endpoint:
        """An interrupt endpoint of `size` bytes; `interval` is bInterval in the units of `self.speed`."""
        companion = Companion(0, 0, size) if self.speed >= Speed.SUPER else None
        return Endpoint(address, TransferType.INTERRUPT, size, interval, companion)

    def isochronous(self, address: int, size: int, interval: int, *, attributes: int = 0) -> Endpoint:
        """An isochronous endpoint, one packet of `size` bytes; `attributes` are its synchronisation and usage bits."""
        companion = Companion(0, 0, size) if self.speed >= Speed.SUPER else None
        return Endpoint(address, TransferType.ISOCHRONOUS | attributes, size, interval, companion)

    # -- hooks --------------------------------------------------------------------------------------------------------

    async def plugged(self) -> None:
        """The device came into being, though nobody has claimed it yet. Raises DeviceError when it cannot."""

    async def unplugged(self) -> None:
        """It ceased to be: what outlived its claims ends here."""

    async def opened(self) -> None:
        """The device was claimed, before anything is submitted. Raises DeviceError when it cannot serve."""

    async def closed(self) -> None:
        """The claim ended and nothing is pending any more."""

    def was_reset(self) -> None:
        """A port reset: forget half-done work. What the next host must not see goes here."""

    def settings_changed(self) -> None:
        """A configuration or an alternate setting came into force."""

    def halt_cleared(self, address: int) -> None:
        """CLEAR_FEATURE(ENDPOINT_HALT) came for an endpoint."""

    # -- for handlers -------------------------------------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        """The device's time."""
        if self._clock is None:
            self._clock = LoopClock()
        return self._clock

    def kick(self, address: int) -> None:
        """Ask an endpoint's handler again; nothing happens where the current settings lack the endpoint."""
        pipe = self._pipes.get(address)
        if pipe is not None:
            pipe.kick()

    def halt(self, address: int) -> None:
        """Halt an endpoint: it stalls until the host clears it."""
        self.set_halt(address, True)

    def later(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine for a handler, which returns the task. It is cancelled, and ends, before `closed` is called.

        A thread that it waits for cannot be cancelled: shield it, and wait for it in `closed`.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def vanish(
        self, reason: str = "unplugged", *, away: float | None = None, become: tuple[int, int] | None = None
    ) -> None:
        """Leave, as if unplugged: all that is pending ends with GONE. Nothing happens when it has left already.

        Its source has it again `away` seconds later, or never, and with idVendor and idProduct `become`, if given.
        """
        if self._absent is Status.STALL:
            self._leave(Status.GONE)
            self.gone.set_result(reason)
        elif self.is_open:
            return
        if become is not None:
            self.identify(replace(self.info.device, vendor_id=become[0], product_id=become[1]))
        self.left(away)

    def rewire(self) -> None:
        """Ask the endpoints' handlers by way of the faults as they are now."""
        for address, pipe in self._pipes.items():
            pipe.handler = self._handler(address)

    # -- the seam -----------------------------------------------------------------------------------------------------

    def submit(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        pipe = self._routes.get(transfer.endpoint)
        if pipe is None:
            return Completion(self._absent)
        return pipe.submit(transfer)

    def cancel(self, transfer: Transfer) -> None:
        pipe = self._pipes.get(transfer.endpoint)
        if not self._gate.cancel(transfer) and pipe is not None:
            pipe.cancel(transfer)

    def reset(self) -> asyncio.Future[ResetOutcome]:
        future = asyncio.get_running_loop().create_future()
        if self._absent is Status.GONE:
            future.set_result(ResetOutcome.GONE)
            return future
        self._gate.flush(Status.SHUTDOWN)
        self._flush(Status.SHUTDOWN)
        self._reset_state()
        self.was_reset()
        self._make_pipes()
        future.set_result(ResetOutcome.SAME)
        return future

    async def plug(self) -> None:
        """Bring the device into being until `unplug`; `open` does it for one claim otherwise. Raises DeviceError."""
        if not self._is_plugged:
            self._is_plugged = True
            try:
                await self.plugged()
            except BaseException:
                self._is_plugged = False
                raise

    async def unplug(self) -> None:
        """End its being. It is closed already; it may be plugged again."""
        if self._is_plugged:
            self._is_plugged = False
            await self.unplugged()

    async def open(self) -> None:
        """Begin a claim: configured, alternate settings 0, nothing pending. Raises DeviceError."""
        if self.is_open:
            raise Busy("it is in use")
        self.is_open = True
        self.gone = asyncio.get_running_loop().create_future()
        self._for_one_claim = not self._is_plugged
        try:
            await self.plug()
            await self.opened()
            self._absent = Status.STALL
            self.faults.begin()
            self._control_pipe = _ControlPipe(self._handler(0), self.info.speed, self.clock, self)
            self._set_configuration(Setup(0, 9, self._first))
        except BaseException:
            self._absent = Status.GONE
            self._control_pipe = None
            await self._end_claim()
            raise

    async def close(self) -> None:
        if self._control_pipe is None:
            return
        self._leave(Status.SHUTDOWN)
        self._control_pipe = None
        try:
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._reset_state()
            self.was_reset()
            await self.closed()
        finally:
            self.info.configuration = self._first
            self.info.alternates.clear()
            await self._end_claim()

    async def _end_claim(self) -> None:
        try:
            self.faults.end()
            if self._for_one_claim:
                await self.unplug()
        finally:
            self.is_open = False
            self.freed()

    # -- chapter 9's hooks --------------------------------------------------------------------------------------------

    def configured(self, value: int) -> None:
        self._make_pipes()
        self.settings_changed()

    def interface_set(self, number: int, alternate: int) -> None:
        """Only this interface's endpoints start afresh; transfers on the others go on."""
        active = self.info.active
        assert active is not None
        mine = {e.address for i in active.interfaces if i.number == number for e in i.endpoints}
        for address in mine & self._pipes.keys():
            self._pipes.pop(address).flush(Status.SHUTDOWN, dead=True)
        for interface in self.info.interfaces:
            if interface.number == number:
                self._add_pipes(interface)
        self._reroute()
        self.settings_changed()

    def is_halted(self, endpoint: int) -> bool | None:
        pipe = self._pipes.get(endpoint)
        return None if pipe is None else pipe.halted

    def set_halt(self, endpoint: int, halted: bool) -> None:
        pipe = self._pipes.get(endpoint)
        if pipe is None:
            return
        if halted:
            pipe.halt()
        else:
            pipe.clear()
            self.halt_cleared(endpoint)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _describe(self, names: tuple[str, str, str]) -> DeviceInfo:
        manufacturer, product, serial = names
        configurations = self.configurations()
        descriptor = replace(
            self.descriptor,
            manufacturer=self.descriptor.manufacturer or bool(manufacturer) * 1,
            product=self.descriptor.product or bool(product) * 2,
            serial=self.descriptor.serial or bool(serial) * 3,
            configurations=len(configurations),
            max_packet0=_CONTROL_PACKET.get(self.speed, self.descriptor.max_packet0),
            usb=max(self.descriptor.usb, 0x0320) if self.speed >= Speed.SUPER else self.descriptor.usb,
        )
        return DeviceInfo(
            name="",
            device=descriptor,
            configurations=configurations,
            speed=self.speed,
            configuration=configurations[0].value if configurations else 0,  # as `open` sets it
            manufacturer=manufacturer,
            product=product,
            serial=serial,
        )

    @property
    def _first(self) -> int:
        """bConfigurationValue of the first configuration, 0 for a device that has none."""
        return self.info.configurations[0].value if self.info.configurations else 0

    def _default_bos(self) -> Bos | None:
        return _SUPER_BOS if self.speed >= Speed.SUPER else None

    def _make_pipes(self) -> None:
        self._flush(Status.SHUTDOWN, dead=True, control=False)
        assert self._control_pipe is not None
        self._pipes = {0x00: self._control_pipe, 0x80: self._control_pipe}
        for interface in self.info.interfaces:
            self._add_pipes(interface)
        self._reroute()

    def _leave(self, status: Status) -> None:
        """All that is pending ends with `status`, and what comes from now on with GONE."""
        self._absent = Status.GONE
        self._gate.flush(status)
        self._flush(status, dead=True)
        self._pipes = {}
        self._reroute()

    def _add_pipes(self, interface: Interface) -> None:
        for one in interface.endpoints:
            self._pipes[one.address] = Pipe(one, self._handler(one.address), self.info.speed, self.clock)

    def _handler(self, address: int) -> Handler:
        """Who answers an endpoint's transfers, behind the faults that were asked for."""
        name = self._endpoint_handlers.get(address)
        handler: Handler = getattr(self, name) if name else self._no_handler
        return self.faults.over(address, handler if address & 0x0F else self._control)

    def _no_handler(self, transfer: Transfer) -> Answer:
        """A declared endpoint without a handler has nothing to give and takes nothing: it NAKs for ever."""
        return None

    def _flush(self, status: Status, *, dead: bool = False, control: bool = True) -> None:
        for address, pipe in self._pipes.items():
            if control or address & 0x0F:
                pipe.flush(status, dead=dead)

    # -- barriers -----------------------------------------------------------------------------------------------------

    def request_waits(self, transfer: Transfer) -> None:
        """A control request is not done yet. If it changes endpoints, nothing later may reach them before it."""
        addresses = self._touched(Setup.parse(transfer.setup))
        if addresses:
            self._gate.put_up(transfer, addresses)
            self._reroute()

    def request_ended(self, transfer: Transfer) -> None:
        """A control request that waited is answered."""
        self._gate.ended(transfer)

    def _touched(self, setup: Setup) -> frozenset[int]:
        kind = (setup.request_type, setup.request)
        if kind == SET_CONFIGURATION:
            return _ENDPOINTS
        if kind == SET_INTERFACE:
            settings = (i for c in self.info.configurations for i in c.interfaces if i.number == setup.index)
            return frozenset(e.address for i in settings for e in i.endpoints)
        if kind == CLEAR_ENDPOINT_FEATURE:
            return frozenset((setup.index & 0x8F,)) & _ENDPOINTS
        return frozenset()

    def _reroute(self) -> None:
        held = self._gate.addresses()
        self._routes = {**self._pipes, **dict.fromkeys(held, self._gate)} if held else self._pipes

    def _submit_past_barriers(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        pipe = self._pipes.get(transfer.endpoint)
        return Completion(self._absent) if pipe is None else pipe.submit(transfer)

    # -- control requests ---------------------------------------------------------------------------------------------

    def _control(self, transfer: Transfer) -> Answer:
        setup = Setup.parse(transfer.setup)
        try:
            name = self._request_handlers.get((setup.request_type, setup.request))
            if name is not None:
                reply = getattr(self, name)(setup, bytes(transfer.data))
            elif setup.type is RequestType.STANDARD:
                reply = self.standard(setup, bytes(transfer.data))
            else:
                raise Stall
        except Stall:
            return Completion(Status.STALL)
        if isinstance(reply, asyncio.Future):
            return self.later(self._reply_later(transfer, reply))
        return _reply(transfer, reply)

    async def _reply_later(self, transfer: Transfer, reply: asyncio.Future[bytes | None]) -> Completion:
        try:
            return _reply(transfer, await reply)
        except Stall:
            return Completion(Status.STALL)


class _ControlPipe(Pipe):
    """The default endpoint; its device hears of requests that are not done at once, and of their end."""

    def __init__(self, handler: Handler, speed: Speed, clock: Clock, device: VirtualDevice) -> None:
        super().__init__(Endpoint(0, TransferType.CONTROL, 64), handler, speed, clock)
        self._device = device

    def submit(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        answer = super().submit(transfer)
        if isinstance(answer, asyncio.Future) and not answer.done():
            self._device.request_waits(transfer)
        return answer

    def _finish(self, waiting: Waiting, completion: Completion) -> None:
        super()._finish(waiting, completion)
        self._device.request_ended(waiting.transfer)


def _reply(transfer: Transfer, payload: bytes | None) -> Completion:
    if transfer.endpoint & 0x80:
        return Completion(Status.OK, (payload or b"")[: transfer.length])
    return Completion(Status.OK, b"", transfer.length)
