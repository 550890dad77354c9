"""A drawing tablet with a pen: place, pressure, tilt, two buttons and an eraser, moved by lines or from Python.

    tablet = Tablet()
    tablet.hover(1000, 2000)
    tablet.draw(1000, 2000, 0.5)     # the tip touches with half the pressure
    tablet.draw(1200, 2100, 0.7)
    tablet.press("barrel")           # tablet.release("barrel")
    tablet.tilt(30, -10)             # degrees, to the right and towards you
    tablet.erase(1000, 2000, 0.5)    # with the other end of the pen
    tablet.away()                    # the pen is out of reach
    await tablet.flushed()           # the host has it all

Lines: the same verbs. As a pointer that is moved to places, rather than ways, `hover 16000 9000` is enough. Source: HID
Usage Tables §16, Microsoft's "Pen required HID top-level collections", as hid-input reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import Struct
from typing import ClassVar, Final

from ..usb.tree import DeviceDescriptor
from ..usb.types import Speed
from .clock import Clock
from .driven import Verb, whole
from .hid.driven import StateHid
from .hid.reports import INPUT, Page, application, measured, padding, physical, variables

_REPORT: Final = Struct("<BHHHbb")  # switches, x, y, pressure, tilt to the right, tilt towards the user
_SIDE: Final = 32767
_PRESSED: Final = 4095  # the strongest pressure
_TILTED: Final = 90  # degrees
_TIP, _BARREL, _SECOND, _INVERT, _ERASER, _IN_RANGE = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_CENTIMETRE: Final = 0x11  # the unit, HID 1.11 §6.2.2.7; hundredths of it are counted
_DEGREE: Final = 0x14
_UNITS: Final = 100  # of a coordinate to the millimetre
BUTTONS: Final = {"barrel": _BARREL, "second": _SECOND}


@dataclass(frozen=True, slots=True)
class Pen:
    """Everything that a host is told."""

    switches: int = 0
    x: int = 0
    y: int = 0
    pressure: int = 0
    tilt_x: int = 0
    tilt_y: int = 0


class Tablet(StateHid[Pen]):
    """`width` and `height` are its coordinates, a hundred to the millimetre; an A4 sheet unless told.

    `pipe` is a FIFO, a file, or `-` for standard input, with lines as the module has them. They are obeyed from `delay`
    seconds after a host began to read the tablet.
    """

    at_rest = Pen()
    descriptor = DeviceDescriptor(0x1209, 0x0009)
    product = "Tablet"
    input_bytes = _REPORT.size
    speeds = (Speed.FULL, Speed.HIGH)  # a report has more than the 8 bytes of low speed
    verbs: ClassVar = {
        "hover": Verb(whole, whole),
        **dict.fromkeys(("draw", "erase"), Verb(whole, whole, float, least=2)),
        "tilt": Verb(whole, whole),
        **dict.fromkeys(("press", "release"), Verb(str)),
        "away": Verb(),
    }

    def __init__(
        self,
        *,
        width: int = 29700,
        height: int = 21000,
        pipe: str = "",
        delay: float = 1.0,
        speed: Speed = Speed.FULL,
        serial: str = "",
        clock: Clock | None = None,
    ) -> None:
        if not 1 < width <= _SIDE or not 1 < height <= _SIDE:
            raise ValueError(f"width and height are 2 to {_SIDE}")
        self.width, self.height = width, height
        self.speed = speed
        self.serial = serial
        self.report_descriptor = _report_descriptor(width, height)
        super().__init__(pipe=pipe, delay=delay, clock=clock)

    # -- for people ---------------------------------------------------------------------------------------------------

    def hover(self, x: int, y: int) -> None:
        """Hold the pen above a place, without touching. Raises ValueError for one beyond the tablet."""
        self._put(x, y, 0, 0.0)

    def draw(self, x: int, y: int, pressure: float = 0.5) -> None:
        """Touch a place, with a pressure from 0 to 1. Raises ValueError."""
        self._put(x, y, _TIP, pressure)

    def erase(self, x: int, y: int, pressure: float = 0.5) -> None:
        """Touch a place with the pen's other end. Raises ValueError."""
        self._put(x, y, _INVERT | _ERASER, pressure)

    def tilt(self, x: int, y: int) -> None:
        """Lean the pen, in degrees from -90 to 90, to the right and towards the user. Raises ValueError."""
        if not -_TILTED <= x <= _TILTED or not -_TILTED <= y <= _TILTED:
            raise ValueError(f"a pen leans {-_TILTED} to {_TILTED} degrees")
        self.change(replace(self.now, tilt_x=x, tilt_y=y))

    def press(self, button: str = "barrel") -> None:
        """Hold a button of the pen: barrel or second. Raises ValueError for another."""
        self.change(replace(self.now, switches=self.now.switches | _button(button)))

    def release(self, button: str = "barrel") -> None:
        """Let go of a button of the pen."""
        self.change(replace(self.now, switches=self.now.switches & ~_button(button)))

    def away(self) -> None:
        """Take the pen out of reach."""
        self.change(replace(self.now, switches=0, pressure=0))

    def _put(self, x: int, y: int, touching: int, pressure: float) -> None:
        if not 0 <= x < self.width or not 0 <= y < self.height:
            raise ValueError(f"{x}, {y} is beyond the tablet, which goes to {self.width - 1}, {self.height - 1}")
        if not 0 <= pressure <= 1:
            raise ValueError(f"pressure {pressure:g} is not between 0 and 1")
        held = self.now.switches & (_BARREL | _SECOND)
        switches, pressed = held | _IN_RANGE | touching, round(pressure * _PRESSED)
        self.change(replace(self.now, switches=switches, x=x, y=y, pressure=pressed))

    # -- reports ------------------------------------------------------------------------------------------------------

    def report(self, state: Pen) -> bytes:
        return _REPORT.pack(state.switches, state.x, state.y, state.pressure, state.tilt_x, state.tilt_y)


def _button(name: str) -> int:
    if name not in BUTTONS:
        raise ValueError(f"the pen has no button {name!r}; it has: {', '.join(BUTTONS)}")
    return BUTTONS[name]


def _report_descriptor(width: int, height: int) -> bytes:
    return application(
        Page.DIGITIZER,
        0x02,  # Pen
        physical(
            Page.DIGITIZER,
            0x20,  # Stylus
            # Tip Switch, Barrel Switch, Secondary Barrel Switch, Invert, Eraser, In Range
            variables(INPUT, Page.DIGITIZER, (0x42, 0x44, 0x5A, 0x3C, 0x45, 0x32)),
            padding(INPUT, 2),
            _axis(0x30, width),
            _axis(0x31, height),
            variables(INPUT, Page.DIGITIZER, (0x30,), high=_PRESSED, bits=16),  # Tip Pressure
            measured(_DEGREE, 0, 0, variables(INPUT, Page.DIGITIZER, (0x3D, 0x3E), low=-_TILTED, high=_TILTED, bits=8)),
        ),
    )


def _axis(usage: int, size: int) -> bytes:
    return measured(_CENTIMETRE, -3, size, variables(INPUT, Page.DESKTOP, (usage,), high=size - 1, bits=16))
