"""What HID devices share: their descriptors and requests, and a queue of changes that the host fetches as reports.

    queue(change) --> deque --> the host polls endpoint 0x81 --> encode(change) --> report
                                nothing queued: the last report again when the idle time is over, else a NAK

A subclass declares its report descriptor and says how a change becomes a report at the moment it leaves, for the host
may have switched between boot and report protocol since. Most have one report each way, without a report id; others
name their `report_ids`. Source: HID 1.11.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import ClassVar, Final, Generic, TypeVar

from ...usb.setup import Recipient, Request, RequestType, Setup
from ...usb.transfer import Completion, Transfer
from ...usb.tree import Endpoint, Interface
from ...usb.types import Speed, Status
from ..chapter9 import Stall
from ..clock import Clock, Timer
from ..pipe import Answer
from ..virtual import VirtualDevice, data, done, endpoint, request

HID: Final = 0x21  # bDescriptorType of the HID descriptor, §7.1
REPORT: Final = 0x22  # of the report descriptor

# The first half of wValue in GET_REPORT and SET_REPORT, §7.2.1
INPUT_REPORT: Final = 1
OUTPUT_REPORT: Final = 2
FEATURE_REPORT: Final = 3

BOOT, REPORT_PROTOCOL = 0, 1  # wValue of SET_PROTOCOL, §7.2.6
IN, OUT = 0x81, 0x01  # the endpoints

_GET: Final = 0x80 | RequestType.CLASS | Recipient.INTERFACE
_SET: Final = RequestType.CLASS | Recipient.INTERFACE
_IDLE_UNIT: Final = 0.004  # seconds, §7.2.4
_NEVER: Final = float("inf")
_LATE_CHANGE: Final = 0.004  # SET_IDLE this short before a report is due takes effect after it, §7.2.4

# bInterval: 10 ms is the shortest at low speed (USB 2.0 §5.7.4); at the others one millisecond, as gaming devices do.
_INTERVALS: Final = {Speed.LOW: 10, Speed.FULL: 1, Speed.HIGH: 4}

T = TypeVar("T")


class HidDevice(VirtualDevice, Generic[T]):
    """A HID device with one interface; `T` is a change of its state, as its queue holds it."""

    report_descriptor: bytes
    boot: int = 0  # bInterfaceProtocol of a boot device: 1 keyboard, 2 mouse; 0 for others (§4.3)
    country: int = 0  # bCountryCode (§6.2.1)
    input_bytes: int = 8  # the longest input report
    report_ids: tuple[int, ...] = ()  # the first byte of each report is one of them, but in boot protocol
    output_bytes: int = 0  # the longest output report; with `interrupt_out` it has an endpoint of its own
    interrupt_out: bool = False
    default_idle: float = 0.0  # seconds after which an unchanged report is sent again; 0: never
    delay: float = 0.0  # seconds from a host's first poll to the first change: drivers and programs take a moment
    speeds: ClassVar[tuple[Speed, ...]] = (Speed.LOW, Speed.FULL, Speed.HIGH)

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._check_speed(self.speed)
        super().__init__(clock=clock)
        self.protocol = REPORT_PROTOCOL
        self.idle = self.default_idle
        self._queue: deque[tuple[T, float]] = deque()  # changes, and how long each shows before the next may follow
        self._free_at: float | None = None  # when the next change may leave; None until the host's first poll
        self._last_report = 0.0  # when the last report left
        self._repeat_at = _NEVER  # when it leaves again, should nothing change
        self._timer: Timer | None = None
        self._waiters: list[asyncio.Future[bool]] = []

    def _check_speed(self, speed: Speed) -> None:
        if speed not in self.speeds:
            raise ValueError(f"it runs at {', '.join(s.name.lower() for s in self.speeds)} speed alone")

    def change_speed(self, speed: Speed) -> None:
        self._check_speed(speed)
        self.speed = speed
        self.describe_again()

    def interfaces(self) -> tuple[Interface, ...]:
        subclass = 1 if self.boot else 0  # §4.2
        extra = (self._hid_descriptor(),)
        return (Interface(0, 0, 0x03, subclass, self.boot, self._endpoints(), extra=extra),)

    def _endpoints(self) -> tuple[Endpoint, ...]:
        interval = _INTERVALS[self.speed]
        incoming = self.interrupt(IN, self.input_bytes, interval)
        return (incoming, self.interrupt(OUT, self.output_bytes, interval)) if self.interrupt_out else (incoming,)

    def _hid_descriptor(self) -> bytes:
        """§6.2.1: bcdHID 1.11, the country, one class descriptor, which is the report's."""
        length = len(self.report_descriptor).to_bytes(2, "little")
        return bytes((9, HID, 0x11, 0x01, self.country, 1, REPORT)) + length

    # -- what a subclass says -----------------------------------------------------------------------------------------

    def encode(self, change: T) -> tuple[bytes, T | None]:
        """The report of a change that leaves now, and what is left of the change for the next one."""
        raise NotImplementedError

    def current_report(self) -> bytes:
        """The state that the host was told last; of several reports, the one that is repeated when it is idle."""
        raise NotImplementedError

    def report_of(self, report_id: int) -> bytes:
        """The same for a host that asks for the report with this id; 0 where there are none."""
        return self.current_report()

    def output(self, report: bytes) -> None:
        """An output report came. Raises Stall to refuse it."""
        raise Stall

    def current_output(self) -> bytes:
        """The output report in force, for a host that asks. Raises Stall."""
        raise Stall

    def feature(self, report_id: int) -> bytes:
        """A feature report, for a host that asks. Raises Stall where there is none."""
        raise Stall

    # -- the queue ----------------------------------------------------------------------------------------------------

    def queue(self, change: T, pause: float = 0.0) -> None:
        """Let the host fetch a change after those before it; the next follows `pause` seconds later or more."""
        self._queue.append((change, pause))
        self.kick(IN)

    async def flushed(self) -> bool:
        """Wait until the host has fetched everything queued; False when it left first."""
        if not self._queue:
            return True
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return await waiter

    @endpoint(IN)
    def _give(self, transfer: Transfer) -> Answer:
        now = self.clock.now()
        report = self._next_report(now)
        if report is None:
            if now < self._repeat_at:
                self._ask_again(min(self._repeat_at, self._free_at or 0.0 if self._queue else _NEVER))
                return None
            report = self.current_report()
        self._reported(now)
        if len(report) > transfer.length:
            return Completion(Status.OVERFLOW, report[: transfer.length])
        return data(report)

    def _next_report(self, now: float) -> bytes | None:
        if self._free_at is None:
            self._free_at = now + self.delay
        if not self._queue or now < self._free_at:
            return None
        change, pause = self._queue.popleft()
        report, rest = self.encode(change)
        if rest is not None:
            self._queue.appendleft((rest, pause))
            return report
        self._free_at = now + pause
        if not self._queue:
            self._end_waiters(True)
        return report

    def _reported(self, when: float) -> None:
        self._last_report = when
        self._repeat_at = when + self.idle if self.idle else _NEVER

    def _end_waiters(self, fetched: bool) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(fetched)

    def _ask_again(self, when: float) -> None:
        self._cancel_timer()
        if when < _NEVER:
            self._timer = self.clock.call_at(when, lambda: self.kick(IN))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @endpoint(OUT)
    def _take(self, transfer: Transfer) -> Answer:
        try:
            self.output(bytes(transfer.data))
        except Stall:
            self.halt(OUT)
            return Completion(Status.STALL)
        return done(transfer)

    # -- requests, §7 -------------------------------------------------------------------------------------------------

    @request(0x80 | Recipient.INTERFACE, Request.GET_DESCRIPTOR)
    def _get_class_descriptor(self, setup: Setup, _: bytes) -> bytes:
        self._check_interface(setup)
        if setup.value == HID << 8:
            return self._hid_descriptor()
        if setup.value == REPORT << 8:
            return self.report_descriptor
        raise Stall

    @request(_GET, 0x01)
    def _get_report(self, setup: Setup, _: bytes) -> bytes:
        self._check_interface(setup)
        self._check_id(setup)
        if setup.value >> 8 == INPUT_REPORT:
            return self.report_of(setup.value & 0xFF)
        if setup.value >> 8 == OUTPUT_REPORT:
            return self.current_output()
        if setup.value >> 8 == FEATURE_REPORT:
            return self.feature(setup.value & 0xFF)
        raise Stall

    @request(_SET, 0x09)
    def _set_report(self, setup: Setup, report: bytes) -> None:
        self._check_interface(setup)
        self._check_id(setup)
        if setup.value >> 8 != OUTPUT_REPORT:
            raise Stall
        self.output(report)

    @request(_GET, 0x02)
    def _get_idle(self, setup: Setup, _: bytes) -> bytes:
        self._check_interface(setup)
        if setup.value and setup.value not in self.report_ids:
            raise Stall  # a report id that it does not have
        return bytes((round(self.idle / _IDLE_UNIT),))

    @request(_SET, 0x0A)
    def _set_idle(self, setup: Setup, _: bytes) -> None:
        """The new time, one for all reports, counts from the last one, unless the next is due within 4 ms."""
        self._check_interface(setup)
        if setup.value & 0xFF and setup.value & 0xFF not in self.report_ids:
            raise Stall
        self.idle = (setup.value >> 8) * _IDLE_UNIT
        if not 0 <= self._repeat_at - self.clock.now() < _LATE_CHANGE:
            self._reported(self._last_report)
            self.kick(IN)

    @request(_GET, 0x03)
    def _get_protocol(self, setup: Setup, _: bytes) -> bytes:
        self._check_boot(setup)
        return bytes((self.protocol,))

    @request(_SET, 0x0B)
    def _set_protocol(self, setup: Setup, _: bytes) -> None:
        self._check_boot(setup)
        if setup.value not in (BOOT, REPORT_PROTOCOL):
            raise Stall
        self.protocol = setup.value

    def _check_interface(self, setup: Setup) -> None:
        if setup.index or not self.info.configuration:
            raise Stall

    def _check_id(self, setup: Setup) -> None:
        """In GET_REPORT and SET_REPORT, which name one report, §7.2.1."""
        ids = self.report_ids if self.protocol == REPORT_PROTOCOL else ()
        if setup.value & 0xFF not in (ids or (0,)):
            raise Stall

    def _check_boot(self, setup: Setup) -> None:
        """Only boot devices have two protocols, §7.2.5."""
        self._check_interface(setup)
        if not self.boot:
            raise Stall

    # -- its life -----------------------------------------------------------------------------------------------------

    def settings_changed(self) -> None:
        self._start_over()

    def was_reset(self) -> None:
        self._start_over()

    def _start_over(self) -> None:
        """A device begins in report protocol, §7.2.6, and its first idle time runs from here. The queue goes on."""
        self.protocol = REPORT_PROTOCOL
        self.idle = self.default_idle
        self._reported(self.clock.now())
        self._cancel_timer()

    async def closed(self) -> None:
        """What the host did not fetch is lost, as with a device that is unplugged."""
        self._cancel_timer()
        self._queue.clear()
        self._free_at = None
        self._end_waiters(False)
