"""A touch screen for several fingers, moved by lines or from Python.

    touch = Touch(width=1920, height=1080)
    touch.tap(960, 540)
    touch.down(0, 100, 100); touch.down(1, 300, 100)    # two fingers
    touch.move(1, 500, 100)
    touch.up(0); touch.up(1)
    touch.swipe(100, 900, 100, 100)                     # in steps of the host's fetching
    await touch.flushed()                               # the host has it all

Lines: the same verbs, `down 0 100 100`, `move 0 120 100`, `up 0`, `tap 960 540`, `swipe 100 900 100 100`. Each report
has all fingers that are down, and those just lifted: HID Usage Tables §16, and Microsoft's "Touchscreen required HID
top-level collections", which hid-multitouch reads too. Reports have ids as theirs do: hid-multitouch asks for a feature
report without one in a request of no bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import Struct
from typing import ClassVar, Final

from ..usb.tree import DeviceDescriptor
from ..usb.types import Speed
from .chapter9 import Stall
from .clock import Clock
from .driven import Verb, whole
from .hid.driven import StateHid
from .hid.reports import FEATURE, INPUT, Page, application, logical, measured, padding, report, variables

_FINGER: Final = Struct("<BBHH")  # tip, finger, x, y
_TAIL: Final = Struct("<BH")  # fingers that the report has, scan time
_TOUCHES, _MOST = 1, 2  # report ids
_SCAN_UNIT: Final = 0.0001  # seconds
_SIDE: Final = 32767  # pixels of a side at most: logical maxima are signed
_SWIPE_STEPS: Final = 20
_INCH_DOTS: Final = 96  # pixels of an inch, from which hosts know how large the screen is
_INCH: Final = 0x13  # the unit, HID 1.11 §6.2.2.7; hundredths of it are counted


@dataclass(frozen=True, slots=True)
class Finger:
    """Where a finger is, or was when it was lifted."""

    number: int
    x: int
    y: int
    tip: bool = True


Frame = tuple[Finger, ...]


class Touch(StateHid[Frame]):
    """A screen of `width` by `height` pixels that tells up to `fingers` apart.

    `pipe` is a FIFO, a file, or `-` for standard input, with lines as the module has them. They are obeyed from `delay`
    seconds after a host began to read the screen.
    """

    at_rest: Frame = ()
    descriptor = DeviceDescriptor(0x1209, 0x0008)
    product = "Touch screen"
    report_ids = (_TOUCHES, _MOST)
    speeds = (Speed.FULL, Speed.HIGH)  # a report has more than the 8 bytes of low speed
    verbs: ClassVar = {
        **dict.fromkeys(("down", "move"), Verb(whole, whole, whole)),
        "up": Verb(whole),
        "tap": Verb(whole, whole),
        "swipe": Verb(whole, whole, whole, whole),
    }

    def __init__(
        self,
        *,
        width: int = 1920,
        height: int = 1080,
        fingers: int = 10,
        pipe: str = "",
        delay: float = 1.0,
        speed: Speed = Speed.FULL,
        serial: str = "",
        clock: Clock | None = None,
    ) -> None:
        if not 1 < width <= _SIDE or not 1 < height <= _SIDE:
            raise ValueError(f"width and height are 2 to {_SIDE}")
        if not 1 <= fingers <= 10:
            raise ValueError("fingers are 1 to 10: that many fit a report")
        self.width, self.height, self.fingers = width, height, fingers
        self.speed = speed
        self.serial = serial
        self.input_bytes = 1 + fingers * _FINGER.size + _TAIL.size
        self.report_descriptor = _report_descriptor(width, height, fingers)
        super().__init__(pipe=pipe, delay=delay, clock=clock)

    # -- for people ---------------------------------------------------------------------------------------------------

    def down(self, finger: int, x: int, y: int) -> None:
        """Put a finger, 0 to 9, on a pixel. Raises ValueError for one beyond the screen, or that is down already."""
        if finger in self._down:
            raise ValueError(f"finger {finger} is down already")
        self._place(finger, x, y)

    def move(self, finger: int, x: int, y: int) -> None:
        """Move a finger that is down. Raises ValueError."""
        self._known(finger)
        self._place(finger, x, y)

    def up(self, finger: int) -> None:
        """Lift a finger that is down. Raises ValueError."""
        was = self._known(finger)
        others = (one for one in self._down.values() if one is not was)
        self.change((*others, replace(was, tip=False)))

    def tap(self, x: int, y: int) -> None:
        """Touch a pixel with a finger that is free, and lift it."""
        finger = self._free()
        self.down(finger, x, y)
        self.up(finger)

    def swipe(self, x: int, y: int, to_x: int, to_y: int) -> None:
        """Draw a free finger from one pixel to another, in twenty steps."""
        self._check(to_x, to_y)
        finger = self._free()
        self.down(finger, x, y)
        for step in range(1, _SWIPE_STEPS + 1):
            self.move(finger, x + (to_x - x) * step // _SWIPE_STEPS, y + (to_y - y) * step // _SWIPE_STEPS)
        self.up(finger)

    @property
    def _down(self) -> dict[int, Finger]:
        """The fingers that are down once the host has fetched the queue."""
        return {one.number: one for one in self.now if one.tip}

    def _place(self, finger: int, x: int, y: int) -> None:
        if not 0 <= finger < self.fingers:
            raise ValueError(f"there is no finger {finger}; they are 0 to {self.fingers - 1}")
        self._check(x, y)
        down = {**self._down, finger: Finger(finger, x, y)}
        self.change(tuple(down.values()))

    def _check(self, x: int, y: int) -> None:
        if not 0 <= x < self.width or not 0 <= y < self.height:
            raise ValueError(f"{x}, {y} is beyond the screen, which has {self.width} by {self.height} pixels")

    def _known(self, finger: int) -> Finger:
        if finger not in self._down:
            raise ValueError(f"finger {finger} is not down")
        return self._down[finger]

    def _free(self) -> int:
        for finger in range(self.fingers):
            if finger not in self._down:
                return finger
        raise ValueError("all fingers are down")

    # -- reports ------------------------------------------------------------------------------------------------------

    def report(self, state: Frame) -> bytes:
        fingers = [_FINGER.pack(one.tip, one.number, one.x, one.y) for one in state]
        none = _FINGER.pack(0, 0, 0, 0)
        scan = round(self.clock.now() / _SCAN_UNIT) & 0xFFFF
        padded = (*fingers, none * (self.fingers - len(fingers)))
        return b"".join((bytes((_TOUCHES,)), *padded, _TAIL.pack(len(fingers), scan)))

    def report_of(self, report_id: int) -> bytes:
        if report_id != _TOUCHES:
            raise Stall
        return self.current_report()

    def feature(self, report_id: int) -> bytes:
        """How many fingers it tells apart."""
        if report_id != _MOST:
            raise Stall
        return bytes((_MOST, self.fingers))


def _report_descriptor(width: int, height: int, fingers: int) -> bytes:
    finger = logical(
        Page.DIGITIZER,
        0x22,  # Finger
        variables(INPUT, Page.DIGITIZER, (0x42,)),  # Tip Switch
        padding(INPUT, 7),
        variables(INPUT, Page.DIGITIZER, (0x51,), high=9, bits=8),  # Contact Identifier
        _axis(0x30, width),
        _axis(0x31, height),
    )
    return application(
        Page.DIGITIZER,
        0x04,  # Touch Screen
        report(_TOUCHES),
        *[finger] * fingers,
        variables(INPUT, Page.DIGITIZER, (0x54,), high=fingers, bits=8),  # Contact Count
        variables(INPUT, Page.DIGITIZER, (0x56,), high=0xFFFF, bits=16),  # Scan Time
        report(_MOST),
        variables(FEATURE, Page.DIGITIZER, (0x55,), high=fingers, bits=8),  # Contact Count Maximum
    )


def _axis(usage: int, pixels: int) -> bytes:
    size = pixels * 100 // _INCH_DOTS
    return measured(_INCH, -2, size, variables(INPUT, Page.DESKTOP, (usage,), high=pixels - 1, bits=16))
