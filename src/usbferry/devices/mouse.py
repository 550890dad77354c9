"""A mouse with five buttons and two wheels, moved by lines from a pipe or from Python.

    mouse = Mouse()
    mouse.move(300, -20)     # right and up; in boot protocol it takes three reports
    mouse.click("left")
    mouse.wheel(-1)          # towards you; mouse.hwheel(1) to the right
    await mouse.flushed()    # the host has it all

Lines: `move 10 -5`, `click left`, `press right`, `release right`, `wheel -1`, `hwheel 2`; `#` begins a comment.
Boot mouse: HID 1.11 appendix B.2, in which there are three buttons and no wheels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import Struct
from typing import ClassVar, Final

from ..usb.tree import DeviceDescriptor
from ..usb.types import Speed
from .clock import Clock
from .driven import Verb, whole
from .hid.device import BOOT
from .hid.driven import DrivenHid
from .hid.reports import INPUT, Page, application, padding, physical, variables

BUTTONS: Final = {"left": 0x01, "right": 0x02, "middle": 0x04, "back": 0x08, "forward": 0x10}

_REPORT: Final = Struct("<Bhhbb")  # buttons, x, y, wheel, horizontal wheel
_BOOT_REPORT: Final = Struct("<Bbb")
_FAR: Final = 32767  # a report moves this far at most
_NEAR: Final = 127  # the same in boot protocol, and for the wheels
_LONGEST: Final = 1 << 24  # a longer way is a mistake, and would keep a boot host busy for minutes


@dataclass(frozen=True, slots=True)
class Motion:
    """What happened at once: the way, and the buttons that are down afterwards."""

    buttons: int = 0
    x: int = 0
    y: int = 0
    wheel: int = 0
    hwheel: int = 0


class Mouse(DrivenHid[Motion]):
    """`pipe` is a FIFO, a file, or `-` for standard input, with lines as the module has them.

    They are obeyed from `delay` seconds after a host began to read the mouse.
    """

    # Of pid.codes' numbers for tests, as the keyboard's.
    descriptor = DeviceDescriptor(0x1209, 0x0002)
    product = "Mouse"
    boot = 2
    default_idle = 0.0  # §7.2.4: mice report changes alone
    input_bytes = _REPORT.size
    report_descriptor = application(
        Page.DESKTOP,
        0x02,  # Mouse
        physical(
            Page.DESKTOP,
            0x01,  # Pointer
            variables(INPUT, Page.BUTTON, range(1, 6)),
            padding(INPUT, 3),
            variables(INPUT, Page.DESKTOP, (0x30, 0x31), low=-_FAR, high=_FAR, bits=16, relative=True),  # X, Y
            variables(INPUT, Page.DESKTOP, (0x38,), low=-_NEAR, high=_NEAR, bits=8, relative=True),  # Wheel
            variables(INPUT, Page.CONSUMER, (0x0238,), low=-_NEAR, high=_NEAR, bits=8, relative=True),  # AC Pan
        ),
    )

    verbs: ClassVar = {
        "move": Verb(whole, whole),
        "wheel": Verb(whole),
        "hwheel": Verb(whole),
        **dict.fromkeys(("click", "press", "release"), Verb(str, least=0)),
    }

    def __init__(
        self,
        *,
        pipe: str = "",
        delay: float = 1.0,
        speed: Speed = Speed.LOW,
        serial: str = "",
        clock: Clock | None = None,
    ) -> None:
        self.speed = speed
        self.serial = serial
        self._told = 0  # the buttons that the host knows to be down
        self._down = 0  # those that are down once it has fetched the queue
        super().__init__(pipe=pipe, delay=delay, clock=clock)

    # -- for people ---------------------------------------------------------------------------------------------------

    def move(self, x: int, y: int) -> None:
        """Move to the right and down."""
        self._queue_motion(x=x, y=y)

    def wheel(self, notches: int) -> None:
        """Turn the wheel away from you, which scrolls up."""
        self._queue_motion(wheel=notches)

    def hwheel(self, notches: int) -> None:
        """Tilt the wheel to the right."""
        self._queue_motion(hwheel=notches)

    def press(self, button: str = "left") -> None:
        """Hold a button down: left, right, middle, back or forward. Raises ValueError for another."""
        self._down |= _button(button)
        self._queue_motion()

    def release(self, button: str = "left") -> None:
        """Let go of a button."""
        self._down &= ~_button(button)
        self._queue_motion()

    def click(self, button: str = "left") -> None:
        """Press a button, and let go of it."""
        self.press(button)
        self.release(button)

    def _queue_motion(self, **way: int) -> None:
        if any(abs(distance) > _LONGEST for distance in way.values()):
            raise ValueError(f"a way of more than {_LONGEST} at once")
        self.queue(Motion(self._down, **way))

    # -- reports ------------------------------------------------------------------------------------------------------

    def encode(self, change: Motion) -> tuple[bytes, Motion | None]:
        """As much of the way as fits, straight on: all that is left goes in as many more reports."""
        self._told = change.buttons
        if self.protocol == BOOT:
            now, rest = _split(replace(change, wheel=0, hwheel=0), _NEAR)
            return _BOOT_REPORT.pack(now.buttons & 0x07, now.x, now.y), rest
        now, rest = _split(change, _FAR)
        return _REPORT.pack(now.buttons, now.x, now.y, now.wheel, now.hwheel), rest

    def current_report(self) -> bytes:
        """The buttons that are down, and no way: it is told once."""
        return self.encode(Motion(self._told))[0]

    # -- its life -----------------------------------------------------------------------------------------------------

    async def closed(self) -> None:
        await super().closed()
        self._told = self._down = 0


def _button(name: str) -> int:
    if name not in BUTTONS:
        raise ValueError(f"there is no button {name!r}; there are: {', '.join(BUTTONS)}")
    return BUTTONS[name]


def _split(change: Motion, limit: int) -> tuple[Motion, Motion | None]:
    """One step of a way in equal steps, the pointer's no longer than `limit`, and what is left after it."""
    ways = {"x": limit, "y": limit, "wheel": _NEAR, "hwheel": _NEAR}
    steps = max(-(-abs(getattr(change, name)) // most) for name, most in ways.items())
    if steps <= 1:
        return change, None
    first = {name: round(getattr(change, name) / steps) for name in ways}
    return Motion(change.buttons, **first), Motion(
        change.buttons, **{name: getattr(change, name) - first[name] for name in ways}
    )
