"""Probe and commit, UVC 1.1 and 1.5 §4.3.1.1."""

from struct import pack, unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbferry.devices.video.probe import Mode, Negotiation
from usbferry.devices.video.uvc import Coding, Format, Frame

FORMATS = (
    Format(Coding.MJPEG, (Frame(640, 480, (30, 15)), Frame(1280, 720, (30,)))),
    Format(Coding.YUY2, (Frame(160, 120, (15,)),)),
)
USUAL, SLOW = 333_333, 666_666


def negotiation(version="1.1") -> Negotiation:
    return Negotiation(version, FORMATS, lambda coding, frame, interval: 3072 if coding is Coding.MJPEG else 512)


def wanted(number: int, index: int, interval: int, length: int = 26) -> bytes:
    return pack("<HBBI", 1, number, index, interval).ljust(length, b"\0")


@pytest.mark.parametrize(("version", "length"), [("1.1", 34), ("1.5", 48)])
def test_what_a_host_reads_has_the_length_of_its_version(version, length):
    one = negotiation(version)
    assert (one.length, len(one.pack(one.default))) == (length, length)


def test_the_fields_of_a_probe():
    """Table 4-75: hint, format, frame, interval, ..., dwMaxVideoFrameSize at 18, dwMaxPayloadTransferSize at 22."""
    one = negotiation()
    one.probe(wanted(1, 2, USUAL))
    raw = one.pack(one.probed)
    assert unpack("<HBBI", raw[:8]) == (0, 1, 2, USUAL)
    assert raw[8:18] == bytes(10)
    assert unpack("<II", raw[18:26]) == (1280 * 720 * 2, 3072)
    assert unpack("<IBBBB", raw[26:]) == (1_000_000, 3, 1, 1, 1)


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ((1, 1, USUAL), Mode(1, 1, USUAL)),
        ((1, 1, SLOW), Mode(1, 1, SLOW)),
        ((1, 1, 500_001), Mode(1, 1, SLOW)),
        ((1, 1, 1), Mode(1, 1, USUAL)),
        ((1, 1, 0), Mode(1, 1, USUAL)),
        ((2, 1, USUAL), Mode(2, 1, SLOW)),
        ((2, 2, SLOW), Mode(2, 1, SLOW)),
        ((3, 1, USUAL), Mode(1, 1, USUAL)),
        ((0, 0, 0), Mode(1, 1, USUAL)),
    ],
)
@pytest.mark.parametrize("length", [26, 34, 48])
def test_what_is_not_there_becomes_what_is_nearest(asked, got, length):
    one = negotiation()
    one.probe(wanted(*asked, length))
    assert one.probed == got


@given(number=st.integers(0, 255), index=st.integers(0, 255), interval=st.integers(0, 0xFFFFFFFF))
def test_whatever_is_probed_can_be_committed(number, index, interval):
    one = negotiation()
    one.probe(wanted(number, index, interval))
    assert one.commit(one.pack(one.probed)) == one.probed == one.committed


@pytest.mark.parametrize("asked", [(3, 1, USUAL), (1, 3, USUAL), (1, 1, 1), (2, 1, USUAL), (0, 1, USUAL)])
def test_what_cannot_be_is_not_committed(asked):
    one = negotiation()
    with pytest.raises(ValueError, match="there is no"):
        one.commit(wanted(*asked))
    assert one.committed is None


def test_a_probe_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="26 bytes or more"):
        negotiation().probe(bytes(25))


def test_the_least_and_the_most_are_of_what_was_probed():
    one = negotiation()
    one.probe(wanted(1, 1, SLOW))
    assert (one.least(), one.most()) == (Mode(1, 1, USUAL), Mode(1, 1, SLOW))


def test_a_restart_forgets_what_was_agreed_on():
    one = negotiation()
    one.commit(wanted(2, 1, SLOW))
    one.restart()
    assert (one.committed, one.probed) == (None, one.default)
