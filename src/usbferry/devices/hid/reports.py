"""HID report descriptors, declared readably: each function gives the bytes of some items, a descriptor is their sum.

    application(Page.DESKTOP, 0x06,                          # a keyboard:
        variables(INPUT, Page.KEYBOARD, range(0xE0, 0xE8)),  # a bit for each modifier
        padding(INPUT, 8),
        array(INPUT, Page.KEYBOARD, range(0, 0x66), count=6))  # the numbers of up to six keys

Source: HID 1.11 §6.2.2; usages: HID Usage Tables 1.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final


class Page(IntEnum):
    """Usage pages, HID Usage Tables §3."""

    DESKTOP = 0x01
    KEYBOARD = 0x07
    LED = 0x08
    BUTTON = 0x09
    CONSUMER = 0x0C
    DIGITIZER = 0x0D
    FIDO = 0xF1D0


class Item(IntEnum):
    """bTag and bType of a short item, HID 1.11 §6.2.2.4 to §6.2.2.8; the size bits are zero."""

    INPUT = 0x80
    OUTPUT = 0x90
    COLLECTION = 0xA0
    FEATURE = 0xB0
    END_COLLECTION = 0xC0
    USAGE_PAGE = 0x04
    LOGICAL_MINIMUM = 0x14
    LOGICAL_MAXIMUM = 0x24
    PHYSICAL_MINIMUM = 0x34
    PHYSICAL_MAXIMUM = 0x44
    UNIT_EXPONENT = 0x54
    UNIT = 0x64
    REPORT_SIZE = 0x74
    REPORT_ID = 0x84
    REPORT_COUNT = 0x94
    USAGE = 0x08
    USAGE_MINIMUM = 0x18
    USAGE_MAXIMUM = 0x28


INPUT: Final = Item.INPUT
OUTPUT: Final = Item.OUTPUT
FEATURE: Final = Item.FEATURE

# Bits of the main items, HID 1.11 §6.2.2.5; without VARIABLE a field is an array.
CONSTANT: Final = 0x01
VARIABLE: Final = 0x02
RELATIVE: Final = 0x04
NULL_STATE: Final = 0x40

_PHYSICAL, _APPLICATION, _LOGICAL = 0x00, 0x01, 0x02
_SIGNED: Final = {Item.LOGICAL_MINIMUM, Item.LOGICAL_MAXIMUM, Item.PHYSICAL_MINIMUM, Item.PHYSICAL_MAXIMUM}


def item(tag: Item, value: int) -> bytes:
    """One short item in as few bytes as hold its value. Logical limits are signed, the others are not."""
    if tag is Item.END_COLLECTION:
        return bytes((tag,))
    signed = tag in _SIGNED
    for code, size in ((1, 1), (2, 2), (3, 4)):
        low, high = (-1 << 8 * size - 1, 1 << 8 * size - 1) if signed else (0, 1 << 8 * size)
        if low <= value < high:
            return bytes((tag | code,)) + value.to_bytes(size, "little", signed=signed)
    raise ValueError(f"{tag.name} is {value}, it must fit 32 bits")


def application(page: int, usage: int, *fields: bytes) -> bytes:
    """What a system takes for one device, with all its fields."""
    return _collection(_APPLICATION, page, usage, fields)


def physical(page: int, usage: int, *fields: bytes) -> bytes:
    """Fields that describe one point of the device, such as a mouse's pointer."""
    return _collection(_PHYSICAL, page, usage, fields)


def logical(page: int, usage: int, *fields: bytes) -> bytes:
    """Fields that belong together, such as those of one finger."""
    return _collection(_LOGICAL, page, usage, fields)


def measured(unit: int, exponent: int, high: int, *fields: bytes) -> bytes:
    """Fields whose largest value is `high` units of 10 to the `exponent`, §6.2.2.7; what follows them has no unit."""
    before = (Item.PHYSICAL_MAXIMUM, high), (Item.UNIT_EXPONENT, exponent & 0x0F), (Item.UNIT, unit)
    after = (Item.PHYSICAL_MAXIMUM, 0), (Item.UNIT_EXPONENT, 0), (Item.UNIT, 0)
    return b"".join([item(Item.PHYSICAL_MINIMUM, 0), *(item(*one) for one in before), *fields]) + b"".join(
        item(*one) for one in after
    )


def report(number: int) -> bytes:
    """The fields that follow belong to the report with this id."""
    return item(Item.REPORT_ID, number)


def variables(
    kind: Item,
    page: int,
    usages: Sequence[int],
    *,
    low: int = 0,
    high: int = 1,
    bits: int = 1,
    relative: bool = False,
    null: bool = False,
) -> bytes:
    """A field of `bits` for each usage, holding its value between `low` and `high`; with `null` any other is none."""
    flags = VARIABLE | (RELATIVE if relative else 0) | (NULL_STATE if null else 0)
    return _usages(page, usages) + _values(low, high, bits, len(usages)) + item(kind, flags)


def array(kind: Item, page: int, usages: range, *, count: int, bits: int = 8) -> bytes:
    """`count` fields that name the usages in force; 0 stands for none."""
    return _usages(page, usages) + _values(usages[0], usages[-1], bits, count) + item(kind, 0)


def data(kind: Item, page: int, usage: int, count: int) -> bytes:
    """Bytes that are a program's own affair."""
    return item(Item.USAGE_PAGE, page) + item(Item.USAGE, usage) + _values(0, 0xFF, 8, count) + item(kind, VARIABLE)


def padding(kind: Item, bits: int) -> bytes:
    """Bits without meaning, to fill a byte."""
    return item(Item.REPORT_COUNT, 1) + item(Item.REPORT_SIZE, bits) + item(kind, CONSTANT)


def _collection(kind: int, page: int, usage: int, fields: tuple[bytes, ...]) -> bytes:
    head = item(Item.USAGE_PAGE, page) + item(Item.USAGE, usage) + item(Item.COLLECTION, kind)
    return head + b"".join(fields) + item(Item.END_COLLECTION, 0)


def _usages(page: int, usages: Sequence[int]) -> bytes:
    head = item(Item.USAGE_PAGE, page)
    if isinstance(usages, range):
        return head + item(Item.USAGE_MINIMUM, usages[0]) + item(Item.USAGE_MAXIMUM, usages[-1])
    return head + b"".join(item(Item.USAGE, usage) for usage in usages)


def _values(low: int, high: int, bits: int, count: int) -> bytes:
    return (
        item(Item.LOGICAL_MINIMUM, low)
        + item(Item.LOGICAL_MAXIMUM, high)
        + item(Item.REPORT_SIZE, bits)
        + item(Item.REPORT_COUNT, count)
    )
