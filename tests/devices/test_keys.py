"""Keys by name."""

import pytest

from usbferry.devices.hid.keys import KEYS, usage_of


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("a", 0x04),
        ("Z", 0x1D),
        ("1", 0x1E),
        ("0", 0x27),
        ("Enter", 0x28),
        ("capslock", 0x39),
        ("f1", 0x3A),
        ("f12", 0x45),
        ("f13", 0x68),
        ("f24", 0x73),
        ("numlock", 0x53),
        ("kp.", 0x63),
        ("102nd", 0x64),
        ("ctrl", 0xE0),
        ("altgr", 0xE6),
        ("rightmeta", 0xE7),
        ("\\", 0x31),
        (0x87, 0x87),
        (0xE7, 0xE7),
    ],
)
def test_names_and_numbers(name, usage):
    assert usage_of(name) == usage


def test_an_unknown_name_suggests_others():
    with pytest.raises(ValueError, match="there is no key 'entre'; perhaps enter"):
        usage_of("entre")
    with pytest.raises(ValueError, match=r"^there is no key 'ß'$"):
        usage_of("ß")


@pytest.mark.parametrize("usage", [0, 3, 0xDE, 0xE8, -1])
def test_what_a_report_cannot_name(usage):
    with pytest.raises(ValueError, match="is no key"):
        usage_of(usage)


def test_two_names_of_one_key_are_meant():
    assert len(set(KEYS.values())) == 26 + 10 + 24 + 18 + 14 + 19 + 8
