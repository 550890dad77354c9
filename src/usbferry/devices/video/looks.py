"""How bright, contrasting and coloured pictures are: the controls of a processing unit, UVC §4.2.2.3, and what they do.

Units are those that people know: per cent, and degrees on the wheel of colours. What is neutral changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from .jpeg import Colour, Row
from .uvc import Request


class Kind(NamedTuple):
    """One control: its selector (UVC §A.9.5), its bit in bmControls (§3.7.2.5), and the values it takes."""

    name: str
    selector: int
    bit: int
    least: int
    most: int
    neutral: int


KINDS: Final = (
    Kind("brightness", 0x02, 0, -100, 100, 0),
    Kind("contrast", 0x03, 1, 0, 200, 100),
    Kind("hue", 0x06, 2, -180, 180, 0),
    Kind("saturation", 0x07, 3, 0, 200, 100),
)
BITS: Final = sum(1 << kind.bit for kind in KINDS)
_SIZE: Final = 2  # bytes of each value
_MIDDLE: Final = 128  # grey, and no colour
_GET_AND_SET: Final = b"\x03"


class Looks:
    """What a host has set. `changed` hears the name and the new value."""

    def __init__(self, changed: Callable[[str, int], None] = lambda name, value: None) -> None:
        self._kinds = {kind.selector: kind for kind in KINDS}
        self._changed = changed
        self.restore()

    def restore(self) -> None:
        """What it was before there was a host."""
        self.values = {kind.name: kind.neutral for kind in KINDS}

    @property
    def is_neutral(self) -> bool:
        return all(self.values[kind.name] == kind.neutral for kind in KINDS)

    def has(self, selector: int) -> bool:
        return selector in self._kinds

    def get(self, request: int, selector: int) -> bytes:
        """The data stage of a request that reads one of them."""
        kind = self._kinds[selector]
        if request == Request.GET_INFO:
            return _GET_AND_SET
        numbers = {
            Request.GET_CUR: self.values[kind.name],
            Request.GET_MIN: kind.least,
            Request.GET_MAX: kind.most,
            Request.GET_RES: 1,
            Request.GET_DEF: kind.neutral,
            Request.GET_LEN: _SIZE,
        }
        return numbers[Request(request)].to_bytes(_SIZE, "little", signed=True)

    def set(self, selector: int, data: bytes) -> None:
        """The host sets one. Raises ValueError for what it cannot be."""
        kind = self._kinds[selector]
        value = int.from_bytes(data, "little", signed=True)
        if len(data) != _SIZE or not kind.least <= value <= kind.most:
            raise ValueError(f"{kind.name} is {kind.least} to {kind.most}, not {value}")
        if value != self.values[kind.name]:
            self.values[kind.name] = value
            self._changed(kind.name, value)

    def row(self, row: Row) -> Row:
        """The same colours, as they look now."""
        return _row(row, *self.values.values())


@lru_cache(maxsize=1024)
def _row(row: Row, brightness: int, contrast: int, hue: int, saturation: int) -> Row:
    return tuple(_colour(one, brightness, contrast, hue, saturation) for one in row)


@lru_cache(maxsize=1024)
def _colour(colour: Colour, brightness: int, contrast: int, hue: int, saturation: int) -> Colour:
    """Y away from grey by contrast, and up by brightness; Cb and Cr away from none by saturation, and turned by hue."""
    y, cb, cr = colour
    y = round((y - _MIDDLE) * contrast / 100 + _MIDDLE + brightness * 255 / 100)
    turn, length = math.radians(hue), saturation / 100
    blue, red = (cb - _MIDDLE) * length, (cr - _MIDDLE) * length
    cb = round(blue * math.cos(turn) - red * math.sin(turn) + _MIDDLE)
    cr = round(blue * math.sin(turn) + red * math.cos(turn) + _MIDDLE)
    return _byte(y), _byte(cb), _byte(cr)


def _byte(value: int) -> int:
    return min(max(value, 0), 255)
