"""A gamepad: two sticks, two triggers, a direction pad, fifteen buttons and a light, moved by lines or from Python.

    gamepad = Gamepad()
    gamepad.tap("a")
    gamepad.stick("left", 0.5, -1)    # half way to the right, all the way up
    gamepad.trigger("right", 0.25)
    gamepad.dpad("up-left")           # gamepad.dpad() lets go
    await gamepad.flushed()           # the host has it all

Lines: `press a`, `release a`, `tap start`, `stick left 0.5 -1`, `trigger right 0.25`, `dpad up-left`, `dpad`. Buttons
and axes stand where Linux's gamepad specification (Documentation/input/gamepad.rst) and hid-input look for them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from struct import Struct
from typing import ClassVar, Final

from ..usb.tree import DeviceDescriptor
from ..usb.types import Speed
from .chapter9 import Stall
from .clock import Clock
from .driven import Verb
from .hid.driven import StateHid
from .hid.reports import INPUT, OUTPUT, Page, application, padding, variables

log: Final = logging.getLogger(__name__)

# In the order of BTN_SOUTH to BTN_THUMBR, which hid-input gives to buttons 1 to 15 of a gamepad.
BUTTONS: Final = ("a", "b", "c", "x", "y", "z", "lb", "rb", "lt", "rt", "back", "start", "guide", "ls", "rs")
WAYS: Final = ("up", "up-right", "right", "down-right", "down", "down-left", "left", "up-left")
SIDES: Final = ("left", "right")

_REPORT: Final = Struct("<HBhhhhBB")  # buttons, direction pad, left x and y, right x and y, left and right trigger
_FAR: Final = 32767  # a stick at its stop
_PULLED: Final = 255  # a trigger at its stop
_CENTRE: Final = 8  # the direction pad's null value: nobody touches it


@dataclass(frozen=True, slots=True)
class Pad:
    """Everything that a host is told: buttons as bits, the direction pad as a number of WAYS, axes as reported."""

    buttons: int = 0
    way: int = _CENTRE
    sticks: tuple[int, int, int, int] = (0, 0, 0, 0)
    triggers: tuple[int, int] = (0, 0)


class Gamepad(StateHid[Pad]):
    """`pipe` is a FIFO, a file, or `-` for standard input, with lines as the module has them.

    They are obeyed from `delay` seconds after a host began to read the gamepad.
    """

    at_rest = Pad()
    descriptor = DeviceDescriptor(0x1209, 0x0007)
    product = "Gamepad"
    input_bytes = _REPORT.size
    output_bytes = 1
    speeds = (Speed.FULL, Speed.HIGH)  # a report has more than the 8 bytes of low speed
    report_descriptor = application(
        Page.DESKTOP,
        0x05,  # Gamepad
        variables(INPUT, Page.BUTTON, range(1, 16)),
        padding(INPUT, 1),
        variables(INPUT, Page.DESKTOP, (0x39,), low=0, high=7, bits=4, null=True),  # Hat Switch
        padding(INPUT, 4),
        variables(INPUT, Page.DESKTOP, (0x30, 0x31, 0x33, 0x34), low=-_FAR, high=_FAR, bits=16),  # X, Y, Rx, Ry
        variables(INPUT, Page.DESKTOP, (0x32, 0x35), low=0, high=_PULLED, bits=8),  # Z, Rz
        variables(OUTPUT, Page.LED, (0x4B,)),  # Generic Indicator
        padding(OUTPUT, 7),
    )
    verbs: ClassVar = {
        **dict.fromkeys(("press", "release", "tap"), Verb(str)),
        "stick": Verb(str, float, float),
        "trigger": Verb(str, float),
        "dpad": Verb(str, least=0),
    }

    def __init__(
        self,
        *,
        pipe: str = "",
        delay: float = 1.0,
        speed: Speed = Speed.FULL,
        serial: str = "",
        clock: Clock | None = None,
    ) -> None:
        self.speed = speed
        self.serial = serial
        self.light = False
        self.light_changed: Callable[[bool], None] | None = None
        super().__init__(pipe=pipe, delay=delay, clock=clock)

    # -- for people ---------------------------------------------------------------------------------------------------

    def press(self, button: str) -> None:
        """Hold a button down, by its name in BUTTONS. Raises ValueError for another."""
        self._change(buttons=self.now.buttons | _button(button))

    def release(self, button: str) -> None:
        """Let go of a button."""
        self._change(buttons=self.now.buttons & ~_button(button))

    def tap(self, button: str) -> None:
        """Press a button, and let go of it."""
        self.press(button)
        self.release(button)

    def stick(self, side: str, x: float, y: float) -> None:
        """Hold the left or right stick at a place from -1 to 1, to the right and down. Raises ValueError."""
        at = 2 * _side(side)
        sticks = list(self.now.sticks)
        sticks[at : at + 2] = (round(_part(value, -1.0) * _FAR) for value in (x, y))
        self._change(sticks=(sticks[0], sticks[1], sticks[2], sticks[3]))

    def trigger(self, side: str, pull: float) -> None:
        """Hold the left or right trigger at a place from 0 to 1. Raises ValueError."""
        pulled = round(_part(pull, 0.0) * _PULLED)
        left, right = self.now.triggers
        self._change(triggers=(left, pulled) if _side(side) else (pulled, right))

    def dpad(self, way: str = "") -> None:
        """Hold the direction pad, one of WAYS; without a way let go of it. Raises ValueError."""
        if way and way not in WAYS:
            raise ValueError(f"{way!r} is none of {', '.join(WAYS)}")
        self._change(way=WAYS.index(way) if way else _CENTRE)

    def _change(self, **fields: object) -> None:
        self.change(replace(self.now, **fields))  # type: ignore[arg-type]  # its callers name fields of Pad

    # -- reports ------------------------------------------------------------------------------------------------------

    def report(self, state: Pad) -> bytes:
        return _REPORT.pack(state.buttons, state.way, *state.sticks, *state.triggers)

    def output(self, report: bytes) -> None:
        if len(report) != 1:
            raise Stall
        light = bool(report[0] & 1)
        if light != self.light:
            self.light = light
            log.info("%s: light %s", self.product, "on" if light else "off")
            if self.light_changed is not None:
                self.light_changed(light)

    def current_output(self) -> bytes:
        return bytes((self.light,))

    # -- its life -----------------------------------------------------------------------------------------------------

    def was_reset(self) -> None:
        super().was_reset()
        self.light = False


def _button(name: str) -> int:
    if name not in BUTTONS:
        raise ValueError(f"there is no button {name!r}; there are: {', '.join(BUTTONS)}")
    return 1 << BUTTONS.index(name)


def _side(name: str) -> int:
    if name not in SIDES:
        raise ValueError(f"{name!r} is neither left nor right")
    return SIDES.index(name)


def _part(value: float, least: float) -> float:
    if not least <= value <= 1:
        raise ValueError(f"{value:g} is not between {least:g} and 1")
    return value
