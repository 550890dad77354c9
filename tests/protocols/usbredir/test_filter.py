"""Filters by their rules, one at a time; `test_reference` holds them against the library's on random ones."""

import pytest

from usbferry.protocols.usbredir.filter import Rule, Verdict, check, parse, parse_wire, text_of, wire_of
from usbferry.usb.info import DeviceInfo
from usbferry.usb.tree import Configuration, DeviceDescriptor, Interface

ALLOWED, DENIED, NO_MATCH = Verdict.ALLOWED, Verdict.DENIED, Verdict.NO_MATCH
KEYS, BOOT_KEYBOARD, AUDIO, STORAGE = (3, 0, 0), (3, 1, 1), (1, 1, 0), (8, 6, 0x50)


def device(*interfaces, device_class=0, vendor=0x1209, product=1, release=0x0100):
    settings = tuple(Interface(number, 0, *one) for number, one in enumerate(interfaces))
    descriptor = DeviceDescriptor(vendor, product, device_class=device_class, release=release)
    return DeviceInfo("1-1", descriptor, (Configuration(1, settings),))


@pytest.mark.parametrize(
    ("rules", "verdict"),
    [
        ("", NO_MATCH),
        ("8,-1,-1,-1,1", ALLOWED),
        ("8,-1,-1,-1,0", DENIED),
        ("3,-1,-1,-1,1", NO_MATCH),
        ("-1,0x1209,-1,-1,1", ALLOWED),
        ("-1,0x1209,2,-1,1", NO_MATCH),
        ("-1,-1,-1,0x100,1", ALLOWED),
        ("-1,-1,-1,0x101,0|-1,-1,-1,-1,1", ALLOWED),
        ("8,-1,-1,-1,0|-1,-1,-1,-1,1", DENIED),  # the first that matches
    ],
)
def test_the_first_match_decides(rules, verdict):
    assert check(parse(rules), device(STORAGE)) is verdict


def test_without_a_match_the_default_counts():
    assert check((), device(STORAGE), default_allow=True) is ALLOWED


def test_every_interface_must_be_allowed():
    rules = parse("8,-1,-1,-1,1")
    assert check(rules, device(STORAGE, AUDIO)) is NO_MATCH
    assert check(rules, device(STORAGE, STORAGE)) is ALLOWED


@pytest.mark.parametrize(
    ("device_class", "verdict"), [(0x00, ALLOWED), (0xEF, ALLOWED), (0xFF, NO_MATCH), (8, ALLOWED)]
)
def test_the_devices_own_class_counts_unless_it_leaves_it_to_its_interfaces(device_class, verdict):
    assert check(parse("8,-1,-1,-1,1"), device(STORAGE, device_class=device_class)) is verdict


def test_volume_keys_are_passed_over():
    rules = parse("1,-1,-1,-1,1|3,-1,-1,-1,0")
    assert check(rules, device(AUDIO, KEYS)) is ALLOWED
    assert check(rules, device(AUDIO, KEYS), skip_hid=False) is DENIED
    assert check(rules, device(AUDIO, BOOT_KEYBOARD)) is DENIED


def test_keys_that_are_all_there_is_are_not_passed_over():
    rules = parse("3,-1,-1,-1,0")
    assert check(rules, device(KEYS)) is DENIED
    assert check(rules, device(KEYS, KEYS)) is DENIED


def test_a_device_without_interfaces_comes_to_an_end():
    """The library of 0.8 did not: it called itself for ever."""
    assert check(parse("-1,-1,-1,-1,0"), device()) is ALLOWED
    assert check(parse("-1,-1,-1,-1,0"), device(device_class=8)) is DENIED


def test_rules_as_text():
    rules = parse("0x03,1133,-1,0x0100,1|-1,-1,-1,-1,0")
    assert rules == (Rule(3, 1133, -1, 0x100, True), Rule(-1, -1, -1, -1, False))
    assert text_of(rules) == "0x03,0x046d,-1,0x0100,1|-1,-1,-1,-1,0"
    assert wire_of(rules) == text_of(rules).encode() + b"\0"
    assert parse_wire(memoryview(wire_of(rules))) == rules


def test_empty_rules_and_fields_vanish():
    assert parse("||3,,-1,-1,-1,,1|") == (Rule(3, -1, -1, -1, True),)


@pytest.mark.parametrize(
    "text", ["3", "3,-1,-1,-1", "3,-1,-1,-1,1,1", "x,-1,-1,-1,1", "256,-1,-1,-1,1", "3,65536,-1,-1,1", "-2,-1,-1,-1,1"]
)
def test_what_is_no_rule(text):
    with pytest.raises(ValueError, match="filter rule"):
        parse(text)
