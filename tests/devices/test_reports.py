"""Report descriptors: items against the bytes of HID 1.11, and the boot devices of its appendix B."""

import pytest

from usbferry.devices.hid.reports import (
    INPUT,
    OUTPUT,
    Item,
    Page,
    application,
    array,
    item,
    padding,
    physical,
    variables,
)
from usbferry.devices.keyboard import Keyboard
from usbferry.devices.mouse import Mouse

# HID 1.11 appendix B.1 and B.2, but for the order of items within a field.
KEYBOARD = """
    05 01 09 06 a1 01
      05 07 19 e0 29 e7 15 00 25 01 75 01 95 08 81 02
      95 01 75 08 81 01
      05 08 19 01 29 05 15 00 25 01 75 01 95 05 91 02
      95 01 75 03 91 01
      05 07 19 00 29 65 15 00 25 65 75 08 95 06 81 00
    c0
"""
MOUSE = """
    05 01 09 02 a1 01
      05 01 09 01 a1 00
        05 09 19 01 29 03 15 00 25 01 75 01 95 03 81 02
        95 01 75 05 81 01
        05 01 09 30 09 31 15 81 25 7f 75 08 95 02 81 06
      c0
    c0
"""


def test_the_boot_keyboard():
    built = application(
        Page.DESKTOP,
        0x06,
        variables(INPUT, Page.KEYBOARD, range(0xE0, 0xE8)),
        padding(INPUT, 8),
        variables(OUTPUT, Page.LED, range(1, 6)),
        padding(OUTPUT, 3),
        array(INPUT, Page.KEYBOARD, range(0x66), count=6),
    )
    assert built == bytes.fromhex(KEYBOARD)


def test_the_boot_mouse():
    built = application(
        Page.DESKTOP,
        0x02,
        physical(
            Page.DESKTOP,
            0x01,
            variables(INPUT, Page.BUTTON, range(1, 4)),
            padding(INPUT, 5),
            variables(INPUT, Page.DESKTOP, (0x30, 0x31), low=-127, high=127, bits=8, relative=True),
        ),
    )
    assert built == bytes.fromhex(MOUSE)


@pytest.mark.parametrize(
    ("tag", "value", "raw"),
    [
        (Item.USAGE, 0, "09 00"),
        (Item.USAGE, 0xFF, "09 ff"),  # unsigned
        (Item.USAGE, 0x0238, "0a 38 02"),
        (Item.USAGE, 0xFF00_0001, "0b 01 00 00 ff"),
        (Item.LOGICAL_MAXIMUM, 127, "25 7f"),
        (Item.LOGICAL_MAXIMUM, 128, "26 80 00"),  # signed: one byte more
        (Item.LOGICAL_MAXIMUM, 32768, "27 00 80 00 00"),
        (Item.LOGICAL_MINIMUM, -128, "15 80"),
        (Item.LOGICAL_MINIMUM, -32767, "16 01 80"),
        (Item.REPORT_ID, 3, "85 03"),
        (Item.FEATURE, 2, "b1 02"),
        (Item.END_COLLECTION, 0, "c0"),
    ],
)
def test_items(tag, value, raw):
    assert item(tag, value) == bytes.fromhex(raw)


@pytest.mark.parametrize(("tag", "value"), [(Item.USAGE, -1), (Item.USAGE, 1 << 32), (Item.LOGICAL_MINIMUM, -1 << 40)])
def test_a_value_that_does_not_fit(tag, value):
    with pytest.raises(ValueError, match="32 bits"):
        item(tag, value)


def report_bits(descriptor: bytes, kind: Item) -> int:
    """Bits of the report of a kind, by a reader of its own: sizes times counts."""
    at, size, count, total = 0, 0, 0, 0
    while at < len(descriptor):
        tag, length = descriptor[at] & 0xFC, (0, 1, 2, 4)[descriptor[at] & 3]
        value = int.from_bytes(descriptor[at + 1 : at + 1 + length], "little")
        at += 1 + length
        if tag == Item.REPORT_SIZE:
            size = value
        elif tag == Item.REPORT_COUNT:
            count = value
        elif tag == kind:
            total += size * count
    return total


@pytest.mark.parametrize("kind", [Keyboard, Mouse])
def test_reports_are_as_long_as_their_device_says(kind):
    assert report_bits(kind.report_descriptor, INPUT) == 8 * kind.input_bytes
    assert report_bits(kind.report_descriptor, OUTPUT) == 8 * kind.output_bytes
