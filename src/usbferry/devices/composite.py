"""Several of these devices in one: each is a function of a composite device, and a driver of its own takes it.

    keyboard, port = Keyboard(), Serial(to="pty")
    dock = Composite([keyboard, port])       # interface 0 is the keyboard's, 1 and 2 are the port's
    keyboard.type("hello")                   # they are what they were

    host --transfer for 0x82--> composite --the same for 0x81--> its part --answer--> host

A part is a whole device, with numbers and endpoints as it declared them; only what crosses the border is renumbered.
Parts with several interfaces have an interface association, as drivers of several functions want it: USB 3.2 §9.6.4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Final

from ..device import Device, ResetOutcome
from ..usb.setup import Recipient, Request, RequestType, Setup, set_configuration, set_interface
from ..usb.transfer import Completion, Transfer
from ..usb.tree import Association, Configuration, DeviceDescriptor, Endpoint, Interface
from ..usb.types import Speed, Status
from . import parts as composing
from .chapter9 import REMOTE_WAKEUP, SELF_POWERED, strings_of
from .clock import Clock
from .fault import Fault, check
from .faults import Faults
from .pipe import Answer, Pipe
from .renumber import Numbering, Numbers
from .virtual import VirtualDevice

_MOST_POWER: Final = {Speed.SUPER: 112, Speed.SUPER_PLUS: 112}  # bMaxPower of 900 mA, in units of 8 mA
_USUAL_POWER: Final = 250  # of 500 mA, in units of 2 mA
_ASSOCIATED: Final = (0xEF, 0x02, 0x01)  # of a device: "look for associations"


class Composite(VirtualDevice):
    """`devices` are its parts, each made and nowhere else in use; or `parts` are their names, keyboard+serial+disk, and
    PART.OPTION their options: `disk.size=64M`, `serial2.to=pty` for the second of that name.

    `id` is its VENDOR:PRODUCT. All parts are at its `speed`; without one at the highest of theirs. Of what parts say of
    a device as a whole it tells nothing: their ids, serial numbers and BOS.
    """

    descriptor = DeviceDescriptor(0x1D6B, 0x0104)  # Linux's own composite gadgets are "Multifunction Composite Gadget"

    def __init__(
        self,
        devices: Sequence[VirtualDevice] = (),
        *,
        parts: str = "",
        id: str = "",
        product: str = "",
        serial: str = "",
        speed: Speed | None = None,
        clock: Clock | None = None,
        **of_parts: str,
    ) -> None:
        self.parts = (*devices, *composing.made(parts, of_parts, speed))
        if any(isinstance(part, Composite) for part in self.parts):
            raise ValueError("a composite device is no part of another: take its parts")
        composing.check(self.parts)
        self.speed = composing.one_speed(self.parts, speed)
        self.serial = serial
        self.product = product or composing.title(self.parts)
        if id:
            vendor_id, product_id = composing.ids(id)
            self.descriptor = replace(self.descriptor, vendor_id=vendor_id, product_id=product_id)
        self._asked: dict[Transfer, Callable[[], None]] = {}  # transfers that a part has -> what cancels them there
        self._number()
        super().__init__(clock=clock)
        self.faults = _PartFaults(self)
        for part in self.parts:
            part.left = self._part_left
            part.redescribed = self._part_redescribed
            part.faults.whole = self

    # -- descriptors --------------------------------------------------------------------------------------------------

    def _number(self) -> None:
        """Give all parts their numbers, for what they are now."""
        numbering = Numbering(strings_of((self.manufacturer, self.product, self.serial), {}))
        self._numbers: dict[VirtualDevice, Numbers] = {}
        self._associations: list[Association] = []
        self._settings: list[Interface] = []
        for part in self.parts:
            (own,) = part.info.configurations
            numbers = self._numbers[part] = numbering.numbers(own, part.texts)
            self._associations += self._functions(part, own, numbers, numbering.text(part.product or "part", 4))
            self._settings += map(numbers.interface, own.interfaces)
            part.interface_numbers = numbers.interfaces
        self.strings = {index: text for index, text in numbering.texts.items() if index > 3}
        self._by_endpoint = {n.endpoints[own]: (p, own) for p, n in self._numbers.items() for own in n.endpoints}
        self._by_interface = {n.interfaces[own]: (p, own) for p, n in self._numbers.items() for own in n.interfaces}
        device_class, subclass, protocol = _ASSOCIATED if self._associations else (0, 0, 0)
        self.descriptor = replace(
            self.descriptor, device_class=device_class, device_subclass=subclass, device_protocol=protocol
        )

    def _functions(self, part: VirtualDevice, own: Configuration, numbers: Numbers, name: int) -> list[Association]:
        """The associations of a part: its own, or one made for several interfaces that have none."""
        if own.associations:
            made = [numbers.association(one, len(self._settings)) for one in own.associations]
            return [replace(one, string=one.string or name) for one in made]
        if len(numbers.interfaces) < 2:
            return []
        first = own.interfaces[0]
        codes = (first.interface_class, first.interface_subclass, first.interface_protocol)
        return [Association(numbers.interfaces[first.number], len(numbers.interfaces), *codes, string=name)]

    def configurations(self) -> tuple[Configuration, ...]:
        """One, with what the parts have in theirs; it says that it needs the power of all, as far as a port has it."""
        own = [part.info.configurations[0] for part in self.parts]
        wakes = REMOTE_WAKEUP * any(one.attributes & REMOTE_WAKEUP for one in own)
        powers = SELF_POWERED * any(one.attributes & SELF_POWERED for one in own)
        power = min(sum(one.max_power for one in own), _MOST_POWER.get(self.speed, _USUAL_POWER))
        return (
            Configuration(
                interfaces=tuple(self._settings),
                attributes=0x80 | wakes | powers,
                max_power=power,
                associations=tuple(self._associations),
            ),
        )

    def part_at(self, address: int) -> tuple[VirtualDevice, int]:
        """Whose endpoint an address is, and what that part calls it. Raises KeyError where there is none."""
        return self._by_endpoint[address]

    # -- transfers ----------------------------------------------------------------------------------------------------

    def pass_on(
        self, transfer: Transfer, part: VirtualDevice, own: Transfer
    ) -> Completion | asyncio.Future[Completion]:
        """Have a part answer a transfer, which is `own` in its words."""
        answer = part.submit(own)
        if isinstance(answer, asyncio.Future):
            transfer.data = own.data  # a copy: the payload was lent
            self._asked[transfer] = partial(part.cancel, own)
            answer.add_done_callback(lambda _: self._asked.pop(transfer, None))
        return answer

    def cancel(self, transfer: Transfer) -> None:
        asked = self._asked.get(transfer)
        if asked is None:
            super().cancel(transfer)
        else:
            asked()

    def _add_pipes(self, interface: Interface) -> None:
        for one in interface.endpoints:
            self._pipes[one.address] = _Passage(one, self, *self._by_endpoint[one.address])

    def is_halted(self, endpoint: int) -> bool | None:
        part, own = self._by_endpoint.get(endpoint, (None, 0))
        return None if part is None else part.is_halted(own)

    def set_halt(self, endpoint: int, halted: bool) -> None:
        part, own = self._by_endpoint.get(endpoint, (None, 0))
        if part is not None:
            part.set_halt(own, halted)

    def alloc_streams(self, endpoints: tuple[int, ...], count: int) -> Completion | asyncio.Future[Completion]:
        part, own = self._of_one_part(endpoints)
        return Completion(Status.INVALID) if part is None else part.alloc_streams(own, count)

    def free_streams(self, endpoints: tuple[int, ...]) -> Completion | asyncio.Future[Completion]:
        part, own = self._of_one_part(endpoints)
        return Completion(Status.INVALID) if part is None else part.free_streams(own)

    def _of_one_part(self, endpoints: tuple[int, ...]) -> tuple[VirtualDevice | None, tuple[int, ...]]:
        """A driver has the endpoints of one function."""
        found = [self._by_endpoint[address] for address in endpoints if address in self._by_endpoint]
        if not found or len(found) < len(endpoints) or len({part for part, _ in found}) > 1:
            return None, ()
        return found[0][0], tuple(own for _, own in found)

    # -- requests -----------------------------------------------------------------------------------------------------

    def _control(self, transfer: Transfer) -> Answer:
        part, setup = self._for_part(Setup.parse(transfer.setup))
        if part is None:
            return super()._control(transfer)
        own = Transfer(transfer.endpoint, transfer.length, transfer.data, setup.pack(), transfer.flags)
        return self.pass_on(transfer, part, own)

    def _for_part(self, setup: Setup) -> tuple[VirtualDevice | None, Setup]:
        """Which part a request is for, and how that part has it; None for those of the whole."""
        kind = (setup.request_type, setup.request)
        is_standard = setup.type is RequestType.STANDARD
        if kind in self.requests or (is_standard and kind != (0x81, Request.GET_DESCRIPTOR)):
            return None, setup
        if setup.recipient == Recipient.DEVICE:
            return next((part for part in self.parts if kind in part.requests), None), setup
        if setup.recipient == Recipient.ENDPOINT:
            part, own = self._by_endpoint.get(setup.index & 0x8F, (None, 0))
            return part, replace(setup, index=setup.index & 0xFF70 | own)
        for part, numbers in self._numbers.items():
            at = part.requests.get(kind)
            number = None if at is None else numbers.own_interface(setup.index >> at & 0xFF)
            if at is not None and number is not None:
                return part, replace(setup, index=setup.index & ~(0xFF << at) | number << at)
        return None, setup

    def configured(self, value: int) -> None:
        super().configured(value)
        for part in self.parts:
            part.standard(set_configuration(part.info.configurations[0].value if value else 0), b"")

    def interface_set(self, number: int, alternate: int) -> None:
        super().interface_set(number, alternate)
        part, own = self._by_interface[number]
        part.standard(set_interface(own, alternate), b"")

    # -- life ---------------------------------------------------------------------------------------------------------

    async def plugged(self) -> None:
        async with AsyncExitStack() as so_far:
            for part in self.parts:
                await part.plug()
                so_far.push_async_callback(part.unplug)
            so_far.pop_all()

    async def unplugged(self) -> None:
        async with AsyncExitStack() as all_of_them:
            for part in self.parts:
                all_of_them.push_async_callback(part.unplug)

    async def opened(self) -> None:
        async with AsyncExitStack() as so_far:
            for part in self.parts:
                await part.open()
                so_far.push_async_callback(part.close)
            so_far.pop_all()

    async def closed(self) -> None:
        async with AsyncExitStack() as all_of_them:
            for part in self.parts:
                all_of_them.push_async_callback(part.close)

    def reset(self) -> asyncio.Future[ResetOutcome]:
        """What is not the same in one of them makes it so for the whole."""
        outcomes = [super().reset(), *(part.reset() for part in self.parts)]
        answer: asyncio.Future[ResetOutcome] = asyncio.get_running_loop().create_future()

        def heard(_: object = None) -> None:
            if all(one.done() for one in outcomes) and not answer.done():
                others = (one.result() for one in outcomes if one.result() is not ResetOutcome.SAME)
                answer.set_result(next(others, ResetOutcome.SAME))

        heard()
        for one in outcomes:
            if not one.done():
                one.add_done_callback(heard)
        return answer

    def _part_left(self, away: float | None, become: Device | None) -> None:
        """A part cannot be unplugged alone."""
        self.vanish("a part of it left", away=away, become=become)

    def _part_redescribed(self) -> None:
        """A part comes back as something else: the whole is described anew."""
        self._number()
        self.describe_again()


class _Passage(Pipe):
    """An endpoint that is a part's, which has the queue, the halt and the pace."""

    def __init__(self, endpoint: Endpoint, whole: Composite, part: VirtualDevice, own: int) -> None:
        super().__init__(endpoint, _nobody, whole.speed, whole.clock)
        self._whole, self._part, self._own = whole, part, own

    def submit(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        t = transfer
        own = Transfer(self._own, t.length, t.data, t.setup, t.flags, t.packets, t.stream_id, t.interval, t.start_frame)
        return self._whole.pass_on(transfer, self._part, own)

    def flush(self, status: Status, *, dead: bool = False) -> None:
        self._part.flush_endpoint(self._own, status, dead=dead)


def _nobody(transfer: Transfer) -> Answer:
    raise NotImplementedError


class _PartFaults(Faults):
    """The faults of all parts, by the endpoints of the whole."""

    def __init__(self, device: Composite) -> None:
        super().__init__(device)
        self._whole = device

    def add(self, fault: Fault) -> Fault:
        if fault.endpoint:
            check(fault, self._endpoints())
            part, own = self._whole.part_at(fault.endpoint)
            return part.faults.add(replace(fault, endpoint=own))
        if fault.endpoint is None and fault.after:
            check(fault, self._endpoints())
            for part in self._whole.parts:
                part.faults.share(fault)  # which counts the transfers of all of them
        return super().add(fault)

    def clear(self) -> None:
        super().clear()
        for part in self._whole.parts:
            part.faults.clear()
