"""Device records: what is said of a device arrives, and what cannot be said is refused, whatever is cut or changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import strategies as usb
from tests.protocols.ferry.wire import INFO, device
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.ferry import infos
from usbferry.protocols.limits import DEFAULT_LIMITS
from usbferry.usb.info import DeviceInfo
from usbferry.usb.types import Speed

NAME = 1 + len(INFO.name)
DESCRIPTOR = NAME + 6  # where the device descriptor is
TEXTS = NAME + infos.Fixed.SIZE


def parse(raw: bytes) -> DeviceInfo:
    return infos.parse(memoryview(raw), DEFAULT_LIMITS)


@pytest.mark.slow
@given(usb.devices, st.lists(usb.configurations(), max_size=3), usb.texts, usb.speeds, st.integers(0, 255))
def test_what_is_said_arrives(described, configurations, text, speed, configuration):
    info = DeviceInfo("1-1", described, tuple(configurations), speed, configuration, {3: 1}, 2, 3, text, text, text)
    got = parse(infos.pack(info, DEFAULT_LIMITS))
    info.interface_classes = info.classes[: DEFAULT_LIMITS.interfaces_listed]
    assert got == info


def test_what_follows_is_of_a_later_version():
    assert parse(device() + b"more") == parse(device())


def test_a_record_that_is_cut_anywhere():
    raw = device()
    for size in range(len(raw)):
        with pytest.raises(ProtocolError, match="device record"):
            parse(raw[:size])


def test_descriptors_that_are_broken_are_absent():
    raw = bytearray(device())
    raw[DESCRIPTOR] = 3
    raw[-9 - 9] = 0  # bLength of the configuration
    info = parse(raw)
    assert (info.device.vendor_id, info.configurations, info.classes) == (0, (), ((8, 6, 0x50),))


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [(1, 0xFF, "ascii"), (TEXTS, 0x04, "a text of 10"), (len(device()) - 18 - 3, 9, "9 of something")],
)
def test_what_cannot_be(at: int, value: int, why: str):
    raw = bytearray(device())
    raw[at] = value
    with pytest.raises(ProtocolError, match=why):
        parse(raw)


def test_a_speed_that_nobody_knows():
    raw = bytearray(device())
    raw[NAME] = 99
    assert parse(raw).speed is Speed.UNKNOWN
