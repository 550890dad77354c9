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
from typing import Any, ClassVar, Final

from ..device import Busy, Device, ResetOutcome
from ..usb.info import DeviceInfo
from ..usb.setup import RequestType, Setup
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
from .chapter9 import Stall, strings_of
from .clock import Clock, LoopClock
from .endpoints import Endpoints
from .faults import Faults
from .handlers import Reply, data, done, endpoint, reply_with, request
from .pipe import ISO_LAG, Answer, Handler

# What a device of one's own is written with, from one place.
__all__ = [
    "Answer",
    "Clock",
    "Completion",
    "Configuration",
    "DeviceDescriptor",
    "Endpoint",
    "Interface",
    "Reply",
    "Setup",
    "Speed",
    "Stall",
    "Status",
    "Transfer",
    "VirtualDevice",
    "data",
    "done",
    "endpoint",
    "request",
]

_CONTROL_PACKET: Final = {Speed.LOW: 8, Speed.SUPER: 9, Speed.SUPER_PLUS: 9}  # bMaxPacketSize0, 64 for the others
_SUPER_BOS: Final = Bos((UsbExtension(0x02), SuperSpeedCapability(0, 0x0E, 1, 10, 2047)))


class VirtualDevice(Endpoints, Device):
    """A device that exists in this process. Subclasses declare; see the module's example."""

    descriptor: DeviceDescriptor
    manufacturer: str = "usbferry"
    product: str = ""
    serial: str = ""
    strings: Mapping[int, str] = {}  # more of them, at 4 and up
    speed: Speed = Speed.HIGH
    bos: Bos | None = None  # at SuperSpeed there is a plain one by default
    patience = ISO_LAG

    _endpoint_handlers: ClassVar[dict[int, str]] = {}
    _request_handlers: ClassVar[dict[tuple[int, int], str]] = {}
    requests: ClassVar[Mapping[tuple[int, int], int]] = {}  # (bmRequestType, bRequest) that it handles -> interface_at

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._endpoint_handlers = dict(cls._endpoint_handlers)
        cls._request_handlers = dict(cls._request_handlers)
        cls.requests = requests = dict(cls.requests)
        for name, value in vars(cls).items():
            if hasattr(value, "_endpoint"):
                cls._endpoint_handlers[value._endpoint] = name
            for *kind, interface_at in getattr(value, "_requests", ()):
                request_type, code = kind
                cls._request_handlers[request_type, code] = name
                requests[request_type, code] = interface_at

    def __init__(self, *, clock: Clock | None = None) -> None:
        names = (self.manufacturer, self.product, self.serial)
        super().__init__(self._describe(names), strings_of(names, self.strings), self.bos or self._default_bos())
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self.is_open = False  # from the start of `open` to the end of `close`
        self._is_plugged = self._for_one_claim = False
        self.faults = Faults(self)
        # Its source's: it vanished, for so long, to be replaced by another device.
        self.left: Callable[[float | None, Device | None], None] = lambda away, become: None
        self.freed: Callable[[], None] = lambda: None  # its source's: a claim has ended
        # A composite's, whose part it is: it describes itself anew; and its interfaces' numbers in there.
        self.redescribed: Callable[[], None] = lambda: None
        self.interface_numbers: Mapping[int, int] = {}

    # -- what a subclass declares -------------------------------------------------------------------------------------

    def interfaces(self) -> tuple[Interface, ...]:
        """The interfaces of the one configuration, alternate settings included, built for `self.speed`."""
        return ()

    def configurations(self) -> tuple[Configuration, ...]:
        """Every configuration; by default one, with `interfaces`."""
        return (Configuration(interfaces=self.interfaces()),)

    def bulk(self, address: int, *, burst: int = 0, streams: int = 0) -> Endpoint:
        """A bulk endpoint for `self.speed`; with bursts of `burst` + 1 packets, 2**`streams` streams.

        Raises ValueError at low speed, which has none.
        """
        self._not_at_low_speed("bulk", "5.8.3")
        if self.speed >= Speed.SUPER:
            return Endpoint(address, TransferType.BULK, 1024, companion=Companion(burst, streams))
        return Endpoint(address, TransferType.BULK, 512 if self.speed is Speed.HIGH else 64)

    def interrupt(self, address: int, size: int, interval: int) -> Endpoint:
        """An interrupt endpoint of `size` bytes; `interval` is bInterval in the units of `self.speed`."""
        companion = Companion(0, 0, size) if self.speed >= Speed.SUPER else None
        return Endpoint(address, TransferType.INTERRUPT, size, interval, companion)

    def isochronous(self, address: int, size: int, interval: int, *, attributes: int = 0) -> Endpoint:
        """An isochronous endpoint, one packet of `size` bytes; `attributes` are its synchronisation and usage bits.

        Raises ValueError at low speed, which has none.
        """
        self._not_at_low_speed("isochronous", "5.6.3")
        companion = Companion(0, 0, size) if self.speed >= Speed.SUPER else None
        return Endpoint(address, TransferType.ISOCHRONOUS | attributes, size, interval, companion)

    def _not_at_low_speed(self, kind: str, section: str) -> None:
        if self.speed < Speed.FULL:
            raise ValueError(f"low speed has no {kind} endpoints (USB 2.0 §{section}): use full, high or super")

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

    # -- for handlers -------------------------------------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        """The device's time."""
        if self._clock is None:
            self._clock = LoopClock()
        return self._clock

    def later(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine for a handler, which returns the task. It is cancelled, and ends, before `closed` is called.

        A thread that it waits for cannot be cancelled: shield it, and wait for it in `closed`.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def vanish(
        self, reason: str = "unplugged", *, away: float | None = None, become: tuple[int, int] | Device | None = None
    ) -> None:
        """Leave, as if unplugged: all that is pending ends with GONE. Nothing happens when it has left already.

        Its source has it again `away` seconds later, or never; or it has what `become` is instead: the same device with
        another idVendor and idProduct, or another virtual device.
        """
        if self.is_present:
            self.leave(Status.GONE)
            self.gone.set_result(reason)
        elif self.is_open:
            return
        if isinstance(become, tuple):
            self.identify(replace(self.info.device, vendor_id=become[0], product_id=become[1]))
            become = None
        self.left(away, become)

    def reappear(self, reason: str, *, away: float) -> None:
        """Leave, and come back `away` seconds later as what the class declares now: a bootloader, other firmware."""
        self.vanish(reason, away=away)
        self.describe_again()

    def describe_again(self) -> None:
        """Be from the next claim on what the class declares now."""
        names = (self.manufacturer, self.product, self.serial)
        self.redescribe(self._describe(names), strings_of(names, self.strings))
        self.redescribed()

    def change_speed(self, speed: Speed) -> None:
        """Be at another speed than it was made for, as all parts of a composite have to. Raises ValueError.

        What a device has reckoned with its speed already cannot be changed: those that have not done so override this.
        """
        raise ValueError("make it with the speed of the others")

    def interface_number(self, own: int) -> int:
        """bInterfaceNumber by which the host knows an interface: another one in a composite. For notifications."""
        return self.interface_numbers.get(own, own)

    # -- the seam -----------------------------------------------------------------------------------------------------

    def reset(self) -> asyncio.Future[ResetOutcome]:
        future = asyncio.get_running_loop().create_future()
        if not self.is_present:
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
            self.appear()
            self.faults.begin()
            self._set_configuration(Setup(0, 9, self._first))
        except BaseException:
            self.is_present = False
            self._control_pipe = None
            await self._end_claim()
            raise

    async def close(self) -> None:
        if self._control_pipe is None:
            return
        self.leave(Status.SHUTDOWN)
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
            usb=0x0320 if self.speed >= Speed.SUPER and self.descriptor.usb < 0x0300 else self.descriptor.usb,
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

    def handler_of(self, address: int) -> Handler:
        """Who answers an endpoint's transfers, behind the faults that were asked for."""
        name = self._endpoint_handlers.get(address)
        handler: Handler = getattr(self, name) if name else self._no_handler
        return self.faults.over(address, handler if address & 0x0F else self._control)

    def _no_handler(self, transfer: Transfer) -> Answer:
        """A declared endpoint without a handler has nothing to give and takes nothing: it NAKs for ever."""
        return None

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
        return reply_with(transfer, reply)

    async def _reply_later(self, transfer: Transfer, reply: asyncio.Future[bytes | None]) -> Completion:
        try:
            return reply_with(transfer, await reply)
        except Stall:
            return Completion(Status.STALL)
