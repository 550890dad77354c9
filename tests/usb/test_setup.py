"""Setup packets: eight bytes each way, and the requests that must be recognised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import strategies as usb
from usbferry.usb import setup as s
from usbferry.usb.setup import Recipient, Request, RequestType, Setup

VECTORS = [
    ("80 06 00 01 00 00 12 00", s.get_descriptor(1, length=18)),
    ("80 06 02 03 09 04 ff 00", s.get_descriptor(3, 2, language=0x0409)),
    ("00 09 01 00 00 00 00 00", s.set_configuration(1)),
    ("01 0b 02 00 01 00 00 00", s.set_interface(1, 2)),
    ("02 01 00 00 81 00 00 00", s.clear_halt(0x81)),
    ("00 05 07 00 00 00 00 00", Setup(*s.SET_ADDRESS, value=7)),
    ("23 03 04 00 01 00 00 00", Setup(*s.SET_PORT_FEATURE, value=s.PORT_RESET, index=1)),
    ("21 0a 00 00 00 00 00 00", Setup(0x21, 0x0A)),  # HID SET_IDLE
    ("c0 ff 34 12 78 56 ff ff", Setup(0xC0, 0xFF, 0x1234, 0x5678, 0xFFFF)),
]


@pytest.mark.parametrize(("text", "setup"), VECTORS)
def test_vectors(text: str, setup: Setup) -> None:
    raw = bytes.fromhex(text)
    assert setup.pack() == raw
    assert Setup.parse(raw) == Setup.parse(memoryview(raw)) == Setup.parse(bytearray(raw)) == setup


@given(usb.setups)
def test_round_trip(setup: Setup) -> None:
    assert Setup.parse(setup.pack()) == setup


@given(st.binary(min_size=8, max_size=8))
def test_any_eight_bytes_are_a_setup(raw: bytes) -> None:
    setup = Setup.parse(raw)
    assert setup.pack() == raw
    assert raw[0] == raw[0] & 0x80 | setup.type | setup.recipient
    assert str(setup).isprintable()


@pytest.mark.parametrize("length", [0, 1, 7, 9, 64])
def test_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"has 8 bytes, not {length}"):
        Setup.parse(bytes(length))


@pytest.mark.parametrize(
    "setup", [Setup(256, 0), Setup(0, 256), Setup(0, 0, 0x10000), Setup(0, 0, 0, -1), Setup(0, 0, 0, 0, 0x10000)]
)
def test_a_field_that_does_not_fit_is_a_value_error(setup: Setup) -> None:
    with pytest.raises(ValueError, match="no setup packet"):
        setup.pack()


@pytest.mark.parametrize(
    ("request_type", "length", "is_in"), [(0x80, 18, True), (0x80, 0, False), (0x00, 18, False), (0xC1, 1, True)]
)
def test_direction_is_that_of_the_data_stage(request_type: int, length: int, is_in: bool) -> None:
    assert Setup(request_type, 0, length=length).is_in is is_in


def test_type_and_recipient() -> None:
    setup = Setup(0xA1, 1)
    assert (setup.type, setup.recipient) == (RequestType.CLASS, Recipient.INTERFACE)
    assert (Setup(0x7F, 0).type, Setup(0x7F, 0).recipient) == (RequestType.RESERVED, 31)


def test_clear_halt_is_recognised() -> None:
    assert s.is_clear_halt(s.clear_halt(0x81))
    assert not s.is_clear_halt(Setup(0x02, Request.CLEAR_FEATURE, value=1, index=0x81))  # another feature
    assert not s.is_clear_halt(Setup(0x00, Request.CLEAR_FEATURE, value=0))  # of the device
    assert not s.is_clear_halt(Setup(0x02, Request.SET_FEATURE, value=0, index=0x81))
    assert not s.is_clear_halt(Setup(0x22, Request.CLEAR_FEATURE, value=0, index=0x81))  # of a class


def test_port_reset_is_recognised() -> None:
    assert s.is_port_reset(Setup(0x23, Request.SET_FEATURE, value=4, index=3))
    assert not s.is_port_reset(Setup(0x23, Request.SET_FEATURE, value=8, index=3))  # port power
    assert not s.is_port_reset(Setup(0x23, Request.CLEAR_FEATURE, value=4, index=3))
    assert not s.is_port_reset(Setup(0x03, Request.SET_FEATURE, value=4, index=3))


@pytest.mark.parametrize(
    ("setup", "text"),
    [
        (s.get_descriptor(1, length=18), "80 GET_DESCRIPTOR value 0100 index 0000 length 18"),
        (s.set_interface(1, 2), "01 SET_INTERFACE value 0002 index 0001 length 0"),
        (Setup(0x80, 0x63), "80 0x63 value 0000 index 0000 length 0"),  # no standard request
        (Setup(0x21, Request.SET_CONFIGURATION), "21 0x09 value 0000 index 0000 length 0"),  # HID SET_REPORT
    ],
)
def test_text(setup: Setup, text: str) -> None:
    assert str(setup) == text
