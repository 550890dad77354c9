"""Names on a FAT file system: the 11 bytes of a short name, and the long one in the entries before it.

Source: Microsoft, "FAT: General Overview of On-Disk Format" 1.03 ("FAT 1.03"), the sections on directory entries,
long directory entries, and their short names.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

ENTRY: Final = Struct("<11sBBBHHHHHHHI")
"""name, attributes, case, tenths, created (time, date), accessed, cluster high, written (time, date), cluster low, size
"""
LONG: Final = Struct("<B10sBBB12sH4s")  # order, 5 units, attributes, type, checksum, 6 units, cluster (0), 2 units
LONG_NAME: Final = 0x0F  # attributes of a long name's entry
_LAST: Final = 0x40  # in the order of the entry that comes first
_UNITS: Final = 13  # UTF-16 units in one entry
_LONGEST: Final = 255
_ILLEGAL: Final = str.maketrans(dict.fromkeys([*map(chr, range(32)), *'"*/:<>?\\|', "\x7f"], "_"))
_SHORT_ALLOWED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'()-@^_`{}~")
_LOWER_BASE, _LOWER_EXTENSION = 0x08, 0x10  # of the case byte: Windows NT's way to save a long name


def clean(name: str, taken: set[str]) -> str:
    """`name` as FAT can keep it, and different from all in `taken`, whatever the case; it is added there."""
    name = name.encode("utf-16-le", "replace").decode("utf-16-le", "replace")  # no lone surrogates
    name = name.translate(_ILLEGAL).rstrip(". ") or "_"
    stem, dot, extension = name.rpartition(".")
    if not stem:
        stem, dot, extension = name, "", ""
    tail = dot + extension if len(extension) < 16 else ""
    stem = stem if tail or not dot else name
    number = 1
    made = _fitting(stem, tail)
    while made.upper() in taken:
        number += 1
        made = _fitting(stem, f" ({number}){tail}")
    taken.add(made.upper())
    return made


def _fitting(stem: str, tail: str) -> str:
    while len((stem + tail).encode("utf-16-le")) > 2 * _LONGEST:
        stem = stem[:-1]
    return stem + tail


def shorten(name: str, taken: set[bytes]) -> bytes:
    """A short name for `name`, different from all in `taken`, where it is added (FAT 1.03, basis-name generation)."""
    base, _, extension = name.upper().lstrip(".").rpartition(".")
    if not base:
        base, extension = extension, ""
    basis, lossy = _short_part(base)
    suffix, lossy_suffix = _short_part(extension)
    padded = suffix[:3].ljust(3)
    made = basis[:8].ljust(8) + padded
    exact = not (lossy or lossy_suffix or len(basis) > 8 or len(suffix) > 3 or name.startswith(".") or not basis)
    number = 0
    while not exact or made in taken:
        exact = True
        number += 1
        tail = b"~%d" % number
        made = (basis[: 8 - len(tail)] + tail).ljust(8) + padded
        if number > 4 and made in taken:
            number += len(taken) >> 3  # many alike: do not try every number
    taken.add(made)
    return made


def _short_part(text: str) -> tuple[bytes, bool]:
    """What of a part may stand in a short name, and whether that lost something."""
    kept = "".join(c if c in _SHORT_ALLOWED else "_" for c in text if c not in " .")
    return kept.encode("ascii"), kept != text


def shown(short: bytes, case: int = 0) -> str:
    """A short name as people see it; 05h stands for E5h, which would mean a deleted entry."""
    raw = b"\xe5" + short[1:] if short[0] == 0x05 else short
    base, extension = (part.decode("cp437").rstrip() for part in (raw[:8], raw[8:]))
    base = base.lower() if case & _LOWER_BASE else base
    extension = extension.lower() if case & _LOWER_EXTENSION else extension
    return f"{base}.{extension}" if extension else base


def checksum(short: bytes) -> int:
    """Ties long entries to their short one: FAT 1.03, ChkSum()."""
    total = 0
    for byte in short:
        total = ((total >> 1 | total << 7) + byte) & 0xFF
    return total


def long_entries(name: str, short: bytes) -> bytes:
    """The entries that go before the short one; none where the short name says it all."""
    if name == shown(short):
        return b""
    units = name.encode("utf-16-le")
    count = -(-len(units) // (2 * _UNITS))
    if len(units) % (2 * _UNITS):
        units = (units + b"\0\0").ljust(count * 2 * _UNITS, b"\xff")
    made = []
    for number in range(count, 0, -1):
        part = units[(number - 1) * 2 * _UNITS : number * 2 * _UNITS]
        order = number | _LAST if number == count else number
        made.append(LONG.pack(order, part[:10], LONG_NAME, 0, checksum(short), part[10:22], 0, part[22:]))
    return b"".join(made)


def entry_count(name: str, short: bytes) -> int:
    """How many directory entries a name takes, its short one included."""
    return 1 if name == shown(short) else 1 + -(-len(name.encode("utf-16-le")) // (2 * _UNITS))


def named(directory: bytes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The entries of a directory up to its end, each with its name: the long one where that is intact.

    Gives (name, fields of ENTRY after the name). Deleted entries and volume labels are left out, and so are "." and
    "..". A name has no separators, whatever the disk says.
    """
    parts: list[bytes] = []
    expected, tie = 0, -1  # the order that the next long entry must have, and the checksum of all
    for at in range(0, len(directory) - 31, 32):
        raw = directory[at : at + 32]
        if not raw[0]:
            return
        if raw[11] & 0x3F == LONG_NAME and raw[0] != 0xE5:
            order, first, _, _, check, second, _, third = LONG.unpack(raw)
            if order & _LAST:
                parts, expected, tie = [], order & 0x3F, check
            if (order & 0x3F, check) == (expected, tie) and expected:
                parts.insert(0, first + second + third)
                expected -= 1
            else:
                parts, tie = [], -1
            continue
        short, *fields = ENTRY.unpack(raw)
        whole = parts and not expected and tie == checksum(short)
        name = _long(parts) if whole else ""
        parts, expected, tie = [], 0, -1
        if raw[0] in (0xE5, 0x2E) or fields[0] & 0x08:
            continue
        name = (name or shown(short, fields[1])).translate(_ILLEGAL)
        yield "_" if name in ("", ".", "..") else name, tuple(fields)


def _long(parts: list[bytes]) -> str:
    units = b"".join(parts)
    ends = (i for i in range(0, len(units), 2) if units[i : i + 2] == b"\0\0")
    return units[: next(ends, len(units))].decode("utf-16-le", "replace")
