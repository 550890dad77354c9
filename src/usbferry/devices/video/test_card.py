"""A test card: colour bars, a number that counts the pictures, and the same number as 32 squares that programs read.

    the number in binary    four rows of eight squares, the highest bit first; white is 1
    colour bars             with the number in decimal, where there is room for it
    a runner                one step to the right with each picture

It is a mosaic of squares, 16 pixels each way, so that it can be made in plain Python, quickly, in each coding.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from . import jpeg
from .jpeg import SQUARE, Colour, Row
from .lens import Lens
from .looks import Looks
from .uvc import Coding

# White, yellow, cyan, green, magenta, red, blue, black at full scale; JFIF 1.02 has the arithmetic.
BARS: Final[tuple[Colour, ...]] = (
    (255, 128, 128),
    (226, 1, 149),
    (179, 171, 1),
    (150, 44, 21),
    (105, 212, 235),
    (76, 85, 255),
    (29, 255, 107),
    (0, 128, 128),
)
WHITE: Final = BARS[0]
BLACK: Final = BARS[7]
_GREY: Final[Colour] = (64, 128, 128)
_BITS_ACROSS: Final = 8
_BIT_ROWS: Final = 4
_SMALLEST: Final = _BITS_ACROSS * SQUARE  # pixels across
_DIGITS: Final = 6
_FONT: Final = {  # three squares across, five down
    "0": "111 101 101 101 111",
    "1": "010 110 010 010 111",
    "2": "111 001 111 100 111",
    "3": "111 001 111 001 111",
    "4": "101 101 111 001 001",
    "5": "111 100 111 001 111",
    "6": "111 100 111 101 111",
    "7": "111 001 010 010 010",
    "8": "111 101 111 101 111",
    "9": "111 101 111 001 111",
}


def check(width: int, height: int) -> None:
    """Raises ValueError for a size that has no room for the number."""
    if width < _SMALLEST or height < (_BIT_ROWS + 2) * SQUARE:
        raise ValueError(f"a test card is at least {_SMALLEST}x{(_BIT_ROWS + 2) * SQUARE}, not {width}x{height}")


def card(
    number: int, width: int, height: int, coding: Coding, looks: Looks | None = None, lens: Lens | None = None
) -> bytes:
    """Picture `number`, encoded, as it looks to who has controls for that, through a lens."""
    rows = _mosaic(number, -(-width // SQUARE), -(-height // SQUARE))
    if lens is not None:
        rows = lens.seen(rows)
    if looks is not None:
        rows = [looks.row(row) for row in rows]
    if coding is Coding.MJPEG:
        return jpeg.squares(rows, width, height)
    return b"".join([_yuy2(row, width) for row in rows])[: width * height * 2]


def _mosaic(number: int, across: int, down: int) -> list[Row]:
    bars = tuple(BARS[column * len(BARS) // across] for column in range(across))
    rows = [_bits(number >> 24 - 8 * row & 0xFF, across) for row in range(_BIT_ROWS)]
    rows += [bars] * (down - _BIT_ROWS - 1)
    runner = [_GREY] * across
    runner[number % across] = WHITE
    rows.append(tuple(runner))
    if across >= 4 * _DIGITS + 1 and down >= _BIT_ROWS + 9:
        _write(rows, f"{number % 10**_DIGITS:0{_DIGITS}}", (across - 4 * _DIGITS - 1) // 2, _BIT_ROWS + 1)
    return rows


@lru_cache(maxsize=256)
def _bits(byte: int, across: int) -> Row:
    """Eight bits over the whole width."""
    return tuple(WHITE if byte >> 7 - column * _BITS_ACROSS // across & 1 else BLACK for column in range(across))


def _write(rows: list[Row], text: str, left: int, top: int) -> None:
    """White digits on black, with a margin of one square."""
    for line in range(7):
        row = list(rows[top + line])
        row[left : left + 4 * len(text) + 1] = [BLACK] * (4 * len(text) + 1)
        for place, digit in enumerate(text):
            for column, dot in enumerate(_FONT[digit].split()[line - 1] if 0 < line < 6 else ""):
                if dot == "1":
                    row[left + 1 + 4 * place + column] = WHITE
        rows[top + line] = tuple(row)


@lru_cache(maxsize=64)
def _yuy2(row: Row, width: int) -> bytes:
    """The lines of one row of squares: two pixels are Y, Cb, Y, Cr."""
    line = b"".join([bytes((y, cb, y, cr)) * (SQUARE // 2) for y, cb, cr in row])
    return line[: width * 2] * SQUARE


def number_of(luma: list[list[int]]) -> int:
    """The number that a card shows; `luma` is the brightness of each bit's middle, four rows of eight.

    The place of bit (row, column) is `place_of`.
    """
    return sum(
        (value > 127) << 31 - 8 * row - column for row, line in enumerate(luma) for column, value in enumerate(line)
    )


def place_of(row: int, column: int, width: int) -> tuple[int, int]:
    """The pixel, to the right and down, in the middle of a bit."""
    across = -(-width // SQUARE)
    squares = [at for at in range(across) if at * _BITS_ACROSS // across == column]
    middle = squares[0] * SQUARE + min(len(squares) * SQUARE, width - squares[0] * SQUARE) // 2
    return middle, row * SQUARE + SQUARE // 2
