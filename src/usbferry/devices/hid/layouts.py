"""Keyboard layouts: which keys write which character, as tables.

Each line of a layout holds the characters of one row of keys, at one level: plain, with Shift, with AltGr. A space is
a key without a character there. A combining character (U+0302, ...) is a dead key: it waits for the next key, and
changes it. Where systems disagree, as on AltGr+2 of the French layout, the tables go with Linux (xkeyboard-config).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

SHIFT: Final = 0xE1  # Keyboard LeftShift, HID Usage Tables §10
ALTGR: Final = 0xE6  # Keyboard RightAlt

# The rows of keys as usages. The last key of the third row and the first of the fourth are those that American
# keyboards lack; that of the second is the one that only they have there.
_ROWS: Final = (
    (0x35, *range(0x1E, 0x28), 0x2D, 0x2E),  # ` 1 to 0 - =
    (0x14, 0x1A, 0x08, 0x15, 0x17, 0x1C, 0x18, 0x0C, 0x12, 0x13, 0x2F, 0x30, 0x31),  # q to p [ ] \
    (0x04, 0x16, 0x07, 0x09, 0x0A, 0x0B, 0x0D, 0x0E, 0x0F, 0x33, 0x34, 0x32),  # a to l ; ' #
    (0x64, 0x1D, 0x1B, 0x06, 0x19, 0x05, 0x11, 0x10, 0x36, 0x37, 0x38),  # < z to m , . /
)
_LEVELS: Final = ((), (SHIFT,), (ALTGR,), (SHIFT, ALTGR))
_EVERYWHERE: Final = {"\n": 0x28, "\x1b": 0x29, "\b": 0x2A, "\t": 0x2B, " ": 0x2C, "\x7f": 0x4C}

# The bare accents: a dead key and the space bar, or, where that writes a quotation mark, the dead key twice.
_SPACED: Final = {"\u0300": "`", "\u0302": "^", "\u0303": "~"}
_DOUBLED: Final = {"\u0301": "´", "\u0308": "¨"}


class Stroke(NamedTuple):
    """One key pressed and released while others are held."""

    key: int  # usage, HID Usage Tables §10
    held: tuple[int, ...] = ()


class Untypable(ValueError):
    """A layout has no keys for some characters."""

    def __init__(self, layout: str, characters: Iterable[str]) -> None:
        self.characters = "".join(dict.fromkeys(characters))
        names = ", ".join(f"{c!r} (U+{ord(c):04X} {unicodedata.name(c, 'unnamed')})" for c in self.characters)
        super().__init__(f"the keyboard layout {layout!r} cannot type {names}")


class Layout:
    """One layout. `country` is its bCountryCode, HID 1.11 §6.2.1."""

    def __init__(self, name: str, country: int, *levels: tuple[str, str, str, str]) -> None:
        self.name = name
        self.country = country
        self._strokes: dict[str, tuple[Stroke, ...]] = {c: (Stroke(key),) for c, key in _EVERYWHERE.items()}
        dead: dict[str, Stroke] = {}
        for held, rows in zip(_LEVELS, levels, strict=False):
            for keys, characters in zip(_ROWS, rows, strict=True):
                for key, character in zip(keys, characters, strict=False):
                    stroke = Stroke(key, held)
                    if unicodedata.combining(character):
                        dead.setdefault(character, stroke)
                    elif character != " ":
                        self._strokes.setdefault(character, (stroke,))
        self._compose(dead)

    def _compose(self, dead: dict[str, Stroke]) -> None:
        """What dead keys write: the bare accent, and each letter that Unicode composes with it."""
        plain = [(c, strokes[0]) for c, strokes in self._strokes.items() if c.isalpha()]
        for accent, first in dead.items():
            if accent in _SPACED:
                self._strokes.setdefault(_SPACED[accent], (first, Stroke(_EVERYWHERE[" "])))
            else:
                self._strokes.setdefault(_DOUBLED[accent], (first, first))
            for letter, second in plain:
                whole = unicodedata.normalize("NFC", letter + accent)
                if len(whole) == 1:
                    self._strokes.setdefault(whole, (first, second))

    def strokes(self, text: str) -> list[Stroke]:
        """The keys that write `text`, in order. Raises Untypable with all the characters that it has no keys for."""
        characters = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
        if missing := [c for c in characters if c not in self._strokes]:
            raise Untypable(self.name, missing)
        return [stroke for c in characters for stroke in self._strokes[c]]

    def characters(self) -> Iterator[str]:
        """Everything that it can type."""
        yield from self._strokes


US: Final = Layout(
    "us",
    33,
    ("`1234567890-=", "qwertyuiop[]\\", "asdfghjkl;'", " zxcvbnm,./"),
    ("~!@#$%^&*()_+", "QWERTYUIOP{}|", 'ASDFGHJKL:"', " ZXCVBNM<>?"),
)
UK: Final = Layout(
    "uk",
    32,
    ("`1234567890-=", "qwertyuiop[]", "asdfghjkl;'#", "\\zxcvbnm,./"),
    ('¬!"£$%^&*()_+', "QWERTYUIOP{}", "ASDFGHJKL:@~", "|ZXCVBNM<>?"),
    ("    €", "", "", ""),
)
DE: Final = Layout(
    "de",
    9,
    ("\u03021234567890ß\u0301", "qwertzuiopü+", "asdfghjklöä#", "<yxcvbnm,.-"),
    ('°!"§$%&/()=?\u0300', "QWERTZUIOPÜ*", "ASDFGHJKLÖÄ'", ">YXCVBNM;:_"),
    ("  ²³   {[]}\\", "@ €        ~", "", "|      µ"),
)
FR: Final = Layout(
    "fr",
    8,
    ("²&é\"'(-è_çà)=", "azertyuiop\u0302$", "qsdfghjklmù*", "<wxcvbn,;:!"),
    (" 1234567890°+", "AZERTYUIOP\u0308£", "QSDFGHJKLM%µ", ">WXCVBN?./§"),
    ("  ~#{[|`\\^@]}", "  €        ¤", "", ""),
)
LAYOUTS: Final = {layout.name: layout for layout in (US, UK, DE, FR)}
