"""How bright, contrasting and coloured pictures are: the controls of a processing unit, UVC §4.2.2.3, and what they do.

Units are those that people know: per cent, and degrees on the wheel of colours. What is neutral changes nothing.
"""

from __future__ import annotations

import math
from functools import lru_cache
from struct import Struct
from typing import Final

from .jpeg import Colour, Row
from .units import Control, Number, Unit

_SIGNED: Final = Struct("<h")
_MIDDLE: Final = 128  # grey, and no colour


class Looks(Unit):
    """Selectors: UVC §A.9.5; bits: §3.7.2.5."""

    controls = (
        Control(0x02, 0, _SIGNED, (Number("brightness", -100, 100, 0),)),
        Control(0x03, 1, _SIGNED, (Number("contrast", 0, 200, 100),)),
        Control(0x06, 2, _SIGNED, (Number("hue", -180, 180, 0),)),
        Control(0x07, 3, _SIGNED, (Number("saturation", 0, 200, 100),)),
    )

    def row(self, row: Row) -> Row:
        """The same colours, as they look now."""
        now = self.values
        return _row(row, now["brightness"], now["contrast"], now["hue"], now["saturation"])


@lru_cache(maxsize=256)
def _row(row: Row, brightness: int, contrast: int, hue: int, saturation: int) -> Row:
    return tuple(_colour(one, brightness, contrast, hue, saturation) for one in row)


@lru_cache(maxsize=256)
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
