"""Class-specific descriptors, field by field as the tables of UAC 1.0 and 2.0 have them; lsusb is a witness too."""

from struct import calcsize, unpack

import pytest

from usbferry.devices.sound import uac
from usbferry.devices.sound.pcm import Format

STEREO, MONO24 = Format(), Format(48000, 1, 24)


def fields(raw: bytes, layout: str) -> tuple:
    """What a descriptor holds after its length, type and subtype; its length is checked."""
    assert raw[0] == len(raw) == 3 + calcsize("<" + layout)
    return raw[1], raw[2], *unpack("<" + layout, raw[3:])


def test_the_header_of_version_1():
    """Table 4-2: bcdADC, wTotalLength, bInCollection, baInterfaceNr."""
    assert fields(uac.header_1(bytes(30), (1, 2)), "HHB2s") == (0x24, 0x01, 0x0100, 40, 2, b"\1\2")


def test_terminals_of_version_1():
    """Tables 4-3 and 4-4."""
    assert fields(uac.input_1(4, 0x0201, 3, STEREO), "BHBBHBB") == (0x24, 0x02, 4, 0x0201, 3, 2, 0x0003, 0, 0)
    assert fields(uac.output_1(6, 0x0101, 0, 5), "BHBBB") == (0x24, 0x03, 6, 0x0101, 0, 5, 0)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_feature_unit_of_version_1(channels):
    """Table 4-7: mute is bit 0, volume bit 1 of the master channel's byte; no other channel has any."""
    raw = uac.feature_1(5, 4, channels)
    assert fields(raw, f"BBBB{channels}sB") == (0x24, 0x06, 5, 4, 1, 0x03, bytes(channels), 0)


def test_a_stream_of_version_1():
    """Tables 4-19 and, of Formats, 2-1: the rates are three bytes each."""
    general, kind = uac.stream_1(1, STEREO, (48000, 44100))
    assert fields(general, "BBH") == (0x24, 0x01, 1, 1, 0x0001)
    rates = (48000).to_bytes(3, "little") + (44100).to_bytes(3, "little")
    assert fields(kind, "BBBBB6s") == (0x24, 0x02, 1, 2, 2, 16, 2, rates)


def test_an_endpoint_of_version_1_has_a_sampling_frequency():
    """Table 4-21, D0 of bmAttributes."""
    assert uac.endpoint_1() == bytes((7, 0x25, 0x01, 0x01, 0, 0, 0))


def test_the_header_of_version_2():
    """Table 4-5: bcdADC, bCategory, wTotalLength, bmControls."""
    assert fields(uac.header_2(bytes(30), 4), "HBHB") == (0x24, 0x01, 0x0200, 4, 39, 0)


def test_the_clock_of_version_2():
    """Table 4-6: internal and programmable; its frequency can be set, its validity read."""
    assert fields(uac.clock(10, 0), "BBBBB") == (0x24, 0x0A, 10, 0b11, 0b0111, 0, 0)


def test_terminals_of_version_2():
    """Tables 4-9 and 4-10."""
    got = fields(uac.input_2(1, 0x0101, 0, STEREO, 10), "BHBBBIBHB")
    assert got == (0x24, 0x02, 1, 0x0101, 0, 10, 2, 0x00000003, 0, 0, 0)
    assert fields(uac.output_2(3, 0x0301, 0, 2, 10), "BHBBBHB") == (0x24, 0x03, 3, 0x0301, 0, 2, 10, 0, 0)


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_the_feature_unit_of_version_2(channels):
    """Table 4-13: mute and volume of the master channel can be set, pairs of bits 0b11."""
    got = fields(uac.feature_2(2, 1, channels), f"BBI{4 * channels}sB")
    assert got == (0x24, 0x06, 2, 1, 0b1111, bytes(4 * channels), 0)


def test_a_stream_of_version_2():
    """Tables 4-27 and, of Formats, 2-2."""
    general, kind = uac.stream_2(6, MONO24)
    assert fields(general, "BBBIBIB") == (0x24, 0x01, 6, 0, 1, 0x00000001, 1, 0, 0)
    assert fields(kind, "BBB") == (0x24, 0x02, 1, 3, 24)


def test_an_endpoint_of_version_2():
    """Table 4-34."""
    assert uac.endpoint_2() == bytes((8, 0x25, 0x01, 0, 0, 0, 0, 0))
