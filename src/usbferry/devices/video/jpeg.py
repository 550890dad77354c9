"""JPEG: where a picture ends and how large it is; and the few pictures we make ourselves, of squares of one colour.

A square of 16 x 16 pixels in one colour is the least a JPEG can say, the mean of each of its blocks and nothing more,
so that such a picture takes no mathematics and is exact: with a quantiser of 8 the means are the colours. Each row of
squares ends with a restart, after which nothing depends on what was before: rows that stay the same are encoded once.
Source: ITU-T T.81, and JFIF 1.02 for the colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from mmap import mmap
from typing import Final

SQUARE: Final = 16  # pixels each way

Colour = tuple[int, int, int]  # Y, Cb, Cr, each 0 to 255
Row = tuple[Colour, ...]

_START: Final = b"\xff\xd8"
_FRAME_TYPES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOFn, T.81 table B.1
_ALONE: Final = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length
_SCAN: Final = 0xDA
_END: Final = 0xD9


class NoPicture(ValueError):
    """These bytes are no JPEG."""


class Ending:
    """Where the picture ends that begins at `start`. Asked again when more has come, it goes on from where it was."""

    def __init__(self, start: int = 0) -> None:
        self._start = start
        self._at = start + 2
        self._in_scan = False

    def find(self, data: bytes | bytearray | mmap, stop: int | None = None) -> int:
        """The place after the picture, before `stop`; 0 while its end is not there. Raises NoPicture."""
        stop = len(data) if stop is None else min(stop, len(data))
        if stop - self._start >= 2 and data[self._start : self._start + 2] != _START:
            raise NoPicture("a JPEG begins with ff d8")
        while True:
            if self._in_scan:
                if not self._pass_scan(data, stop):
                    return 0
                self._in_scan = False
                if data[self._at + 1] == _END:
                    return self._at + 2
            if self._at + 4 > stop:
                return 0
            self._pass_segment(data)

    def _pass_segment(self, data: bytes | bytearray | mmap) -> None:
        at = self._at
        if data[at] != 0xFF:
            raise NoPicture(f"byte {at - self._start} is no marker")
        kind = data[at + 1]
        if kind == 0xFF or kind in _ALONE:
            self._at += 1 if kind == 0xFF else 2
            return
        self._at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        self._in_scan = kind == _SCAN

    def _pass_scan(self, data: bytes | bytearray | mmap, stop: int) -> bool:
        """To the marker after a scan: in it, ff is followed by 00, or is a restart. False when it is not there."""
        at = self._at
        while (found := data.find(b"\xff", at, stop)) >= 0 and found + 1 < stop:
            kind = data[found + 1]
            if kind and kind not in _ALONE and kind != 0xFF:
                self._at = found
                return True
            at = found + (1 if kind == 0xFF else 2)
        self._at = found if found >= 0 else max(at, stop)
        return False


def end_of(data: bytes | bytearray) -> int:
    """Where the picture that begins at 0 ends; 0 while its end is not there. Raises NoPicture."""
    return Ending().find(data)


def size_of(data: bytes | bytearray | memoryview) -> tuple[int, int]:
    """Width and height in pixels. Raises NoPicture."""
    at = 2
    if bytes(data[:2]) != _START:
        raise NoPicture("a JPEG begins with ff d8")
    while at + 9 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind in _FRAME_TYPES:
            height, width = (int.from_bytes(data[at + o : at + o + 2], "big") for o in (5, 7))
            return width, height
        at += 1 if kind == 0xFF else 2 if kind in _ALONE else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise NoPicture("it does not say how large it is")


# -- pictures of squares -----------------------------------------------------------------------------------------------

_DC_COUNTS: Final = bytes((0, 1, 5, 1, 1, 1, *bytes(10)))  # codes by length, T.81 table K.3 as far as it is needed
_DC_CODES: Final = ("00", "010", "011", "100", "101", "110", "1110", "11110", "111110")
_END_OF_BLOCK: Final = "0"  # the one AC code that there is


def _segment(kind: int, body: bytes) -> bytes:
    return bytes((0xFF, kind)) + (2 + len(body)).to_bytes(2, "big") + body


@lru_cache(maxsize=16)
def _head(width: int, height: int) -> bytes:
    """All before the scan's data. Luma has four blocks in a square, each chroma one (4:2:0)."""
    per_row = -(-width // SQUARE)
    return b"".join(
        (
            _START,
            _segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
            _segment(0xDB, b"\0" + b"\x08" * 64),
            _segment(0xC0, b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + _COMPONENTS),
            _segment(0xC4, b"\x00" + _DC_COUNTS + bytes(range(9))),
            _segment(0xC4, b"\x10" + bytes((1, *bytes(15), 0x00))),
            _segment(0xDD, per_row.to_bytes(2, "big")),
            _segment(_SCAN, b"\3\1\0\2\0\3\0\0\x3f\0"),
        )
    )


_COMPONENTS: Final = b"\3" + b"\1\x22\0" + b"\2\x11\0" + b"\3\x11\0"


def _difference(value: int) -> str:
    """A DC difference: its category's code, and so many bits, T.81 §F.1.2.1."""
    size = abs(value).bit_length()
    bits = value if value >= 0 else value + (1 << size) - 1
    return _DC_CODES[size] + (f"{bits:0{size}b}" if size else "") + _END_OF_BLOCK


_DIFFERENCES: Final = {value: _difference(value) for value in range(-255, 256)}
_SAME: Final = _DIFFERENCES[0] * 3  # the other three blocks of luma


@lru_cache(maxsize=256)
def _encoded(row: Row) -> bytes:
    """One row of squares; before it the predictions are 0, which is grey."""
    bits: list[str] = []
    last_y = last_cb = last_cr = 128
    for y, cb, cr in row:
        bits += (_DIFFERENCES[y - last_y], _SAME, _DIFFERENCES[cb - last_cb], _DIFFERENCES[cr - last_cr])
        last_y, last_cb, last_cr = y, cb, cr
    whole = "".join(bits)
    whole += "1" * (-len(whole) % 8)
    return int(whole, 2).to_bytes(len(whole) // 8, "big").replace(b"\xff", b"\xff\0")


def squares(rows: Sequence[Row], width: int, height: int) -> bytes:
    """A picture of `width` x `height` pixels; `rows` cover it, what is beyond its edges is not seen."""
    parts = [_head(width, height)]
    for number, row in enumerate(rows):
        parts += (_encoded(row), bytes((0xFF, 0xD0 + number % 8)))
    parts[-1] = bytes((0xFF, _END))
    return b"".join(parts)
