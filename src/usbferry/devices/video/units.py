"""Units of a camera that a host sets numbers of: what it asks of them, UVC §4.2.2.

Most numbers have a range. Modes and switches have none: they are one of a few values, of which GET_RES tells the bits.
Some can be set only while a mode or a switch leaves them to the host.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import ClassVar, Final, NamedTuple

from .uvc import Error, Request

_GET_AND_SET: Final = 0x03  # of GET_INFO, §4.1.2
_AUTOMATIC: Final = 0x04  # disabled, as the device sets it by itself


class Refused(ValueError):
    """What a host may not ask; `error` is how it is told."""

    def __init__(self, error: Error, text: str) -> None:
        super().__init__(text)
        self.error = error


class Number(NamedTuple):
    """One that a host sets, with what it is at first."""

    name: str
    least: int
    most: int
    usual: int
    step: int = 1


class Control(NamedTuple):
    """Numbers that are set together: their selector (UVC §A.9), their bit in bmControls, and their layout.

    `choices` are the values of one without a range; `free_if` is another one's value that leaves it to the host.
    """

    selector: int
    bit: int
    layout: Struct
    numbers: tuple[Number, ...]
    choices: tuple[int, ...] = ()
    free_if: tuple[str, int] | None = None


class Unit:
    """The numbers of one unit. `changed` hears the name and the new value of each that becomes another."""

    controls: ClassVar[tuple[Control, ...]] = ()
    bits: ClassVar[int] = 0  # bmControls

    def __init_subclass__(cls) -> None:
        cls.bits = sum(1 << control.bit for control in cls.controls)

    def __init__(self, changed: Callable[[str, int], None] = lambda name, value: None) -> None:
        self._controls = {control.selector: control for control in self.controls}
        self._usual = {number.name: number.usual for control in self.controls for number in control.numbers}
        self._changed = changed
        self.restore()

    def restore(self) -> None:
        """What it was before there was a host."""
        self.values = dict(self._usual)

    @property
    def is_neutral(self) -> bool:
        return self.values == self._usual

    def has(self, selector: int) -> bool:
        return selector in self._controls

    def get(self, request: int, selector: int) -> bytes:
        """The data stage of a request that reads. Raises Refused."""
        control = self._controls[selector]
        if request == Request.GET_INFO:
            return bytes((_GET_AND_SET if self._is_free(control) else _GET_AND_SET | _AUTOMATIC,))
        if request == Request.GET_LEN:
            return control.layout.size.to_bytes(2, "little")
        return control.layout.pack(*(self._asked(request, control, number) for number in control.numbers))

    def _asked(self, request: int, control: Control, number: Number) -> int:
        if request == Request.GET_CUR:
            return self.values[number.name]
        if request == Request.GET_DEF:
            return number.usual
        if control.choices and request != Request.GET_RES:
            raise Refused(Error.INVALID_REQUEST, f"{number.name} has no range")
        steps = sum(control.choices) if control.choices else number.step
        return {Request.GET_MIN: number.least, Request.GET_MAX: number.most, Request.GET_RES: steps}[Request(request)]

    def set(self, selector: int, data: bytes) -> None:
        """The host sets one. Raises Refused for what it cannot be, or cannot be now."""
        control = self._controls[selector]
        if len(data) != control.layout.size:
            raise Refused(Error.OUT_OF_RANGE, f"{control.numbers[0].name} has {control.layout.size} bytes")
        values = control.layout.unpack(data)
        for number, value in zip(control.numbers, values, strict=True):
            if not number.least <= value <= number.most or (control.choices and value not in control.choices):
                allowed = " or ".join(map(str, control.choices)) or f"{number.least} to {number.most}"
                raise Refused(Error.OUT_OF_RANGE, f"{number.name} is {allowed}, not {value}")
        if not self._is_free(control):
            raise Refused(Error.WRONG_STATE, f"{control.numbers[0].name} is automatic")
        for number, value in zip(control.numbers, values, strict=True):
            if value != self.values[number.name]:
                self.values[number.name] = value
                self._changed(number.name, value)

    def _is_free(self, control: Control) -> bool:
        return control.free_if is None or self.values[control.free_if[0]] == control.free_if[1]
