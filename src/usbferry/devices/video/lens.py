"""A lens: exposure, focus, zoom, pan and tilt; the controls of a camera terminal, UVC §4.2.2.1, and what they do.

The test card hangs a metre away, well lit for a thirtieth of a second. Exposure and focus are automatic until a host
wants them otherwise; then the card is as bright as the time is long, and blurred as it is out of focus. To pan or tilt
by a degree moves the view by one square of the card.
"""

from __future__ import annotations

import math
from functools import lru_cache
from struct import Struct
from typing import Final

from .jpeg import Colour, Row
from .units import Control, Number, Unit

MANUAL: Final = 0x01  # of bAutoExposureMode, UVC §4.2.2.1.2
APERTURE_PRIORITY: Final = 0x08  # the time is automatic; as most cameras have it, whose iris is what it is
_DEGREE: Final = 3600  # arc seconds
_TEN_DEGREES: Final = 10 * _DEGREE
_BYTE, _SHORT, _LONG, _TWO_SIGNED = Struct("<B"), Struct("<H"), Struct("<I"), Struct("<ii")
_EXPOSURE: Final = 333  # units of 100 us
_DISTANCE: Final = 1000  # mm
_ZOOM: Final = 100  # per cent
_GREY: Final = 128  # of Cb and Cr: no colour
_NOTHING: Final[Colour] = (0, _GREY, _GREY)  # beside the card


class Lens(Unit):
    """Selectors: UVC §A.9.4; bits: §3.7.2.3."""

    controls = (
        Control(
            0x02, 1, _BYTE, (Number("exposure_mode", 1, 8, APERTURE_PRIORITY),), choices=(MANUAL, APERTURE_PRIORITY)
        ),
        Control(0x04, 3, _LONG, (Number("exposure", 1, 10000, _EXPOSURE),), free_if=("exposure_mode", MANUAL)),
        Control(0x08, 17, _BYTE, (Number("focus_auto", 0, 1, 1),), choices=(0, 1)),
        Control(0x06, 5, _SHORT, (Number("focus", 100, 10000, _DISTANCE),), free_if=("focus_auto", 0)),
        Control(0x0B, 9, _SHORT, (Number("zoom", _ZOOM, 400, _ZOOM),)),
        Control(
            0x0D,
            11,
            _TWO_SIGNED,
            (
                Number("pan", -_TEN_DEGREES, _TEN_DEGREES, 0, _DEGREE),
                Number("tilt", -_TEN_DEGREES, _TEN_DEGREES, 0, _DEGREE),
            ),
        ),
    )

    def seen(self, rows: list[Row]) -> list[Row]:
        """The same card, as it is seen now."""
        values = self.values
        if values["zoom"] != _ZOOM or values["pan"] or values["tilt"]:
            rows = _framed(rows, values["zoom"], round(values["pan"] / _DEGREE), round(values["tilt"] / _DEGREE))
        blur = 0 if values["focus_auto"] else round(abs(math.log2(values["focus"] / _DISTANCE)))
        if blur:
            rows = _blurred(rows, blur)
        if values["exposure_mode"] == MANUAL and values["exposure"] != _EXPOSURE:
            rows = [_exposed(row, values["exposure"]) for row in rows]
        return rows


def _framed(rows: list[Row], zoom: int, right: int, up: int) -> list[Row]:
    """What is in view: each square shows the one that lies there, nearer to the middle by `zoom` per cent."""
    across, down = len(rows[0]), len(rows)
    columns = _places(across, zoom, right)
    beside = (_NOTHING,) * across
    return [_picked(rows[row], columns) if 0 <= row < down else beside for row in _places(down, zoom, -up)]


@lru_cache(maxsize=64)
def _places(count: int, zoom: int, by: int) -> tuple[int, ...]:
    """The square that is seen at each place; all are counted from their middle."""
    return tuple(((2 * place + 1 - count) * _ZOOM + count * zoom) // (2 * zoom) + by for place in range(count))


@lru_cache(maxsize=256)
def _picked(row: Row, columns: tuple[int, ...]) -> Row:
    return tuple(row[column] if 0 <= column < len(row) else _NOTHING for column in columns)


def _blurred(rows: list[Row], radius: int) -> list[Row]:
    """Each square is the mean of those around it, across and then down."""
    spread = [_spread(row, radius) for row in rows]
    return [_mean(tuple(spread[max(0, at - radius) : at + radius + 1])) for at in range(len(rows))]


@lru_cache(maxsize=256)
def _spread(row: Row, radius: int) -> Row:
    return tuple(_mean_colour(row[max(0, at - radius) : at + radius + 1]) for at in range(len(row)))


@lru_cache(maxsize=256)
def _mean(rows: tuple[Row, ...]) -> Row:
    return tuple(_mean_colour(column) for column in zip(*rows, strict=True))


def _mean_colour(colours: tuple[Colour, ...]) -> Colour:
    y, cb, cr = (sum(parts) // len(colours) for parts in zip(*colours, strict=True))
    return y, cb, cr


@lru_cache(maxsize=256)
def _exposed(row: Row, time: int) -> Row:
    return tuple((_lit(y, 0, time), _lit(cb, _GREY, time), _lit(cr, _GREY, time)) for y, cb, cr in row)


def _lit(value: int, dark: int, time: int) -> int:
    """What is twice as far from `dark` after twice the time, up to a byte's end."""
    return min(max(dark + (value - dark) * time // _EXPOSURE, 0), 255)
