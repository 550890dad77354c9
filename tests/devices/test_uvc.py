"""Class-specific descriptors, field by field as the tables of UVC have them; the kernel reads them in the guest."""

from struct import calcsize, unpack

import pytest

from usbferry.devices.video import uvc
from usbferry.devices.video.uvc import Coding, Format, Frame, Info

FORMATS = (Format(Coding.MJPEG, (Frame(640, 480, (30, 15)),)), Format(Coding.YUY2, (Frame(160, 120, (15,)),)))


def fields(raw: bytes, layout: str) -> tuple:
    """What a descriptor holds after its length, type and subtype; its length is checked."""
    assert raw[0] == len(raw) == 3 + calcsize("<" + layout)
    assert raw[1] == 0x24
    return raw[2], *unpack("<" + layout, raw[3:])


@pytest.mark.parametrize("controls", [0, 0x0003])
@pytest.mark.parametrize(("version", "release"), [("1.1", 0x0110), ("1.5", 0x0150)])
def test_the_control_interface(version, release, controls):
    """Table 3-3: bcdUVC, wTotalLength, dwClockFrequency, bInCollection, baInterfaceNr; and what it counts."""
    head, *units = uvc.control(version, 1, 0x020A, controls)
    total = len(head) + sum(map(len, units))
    assert fields(head, "HHIBB") == (0x01, release, total, 1_000_000, 1, 1)
    assert [raw[2] for raw in units] == ([0x02, 0x05, 0x03] if controls else [0x02, 0x03])
    before, bus = (3 if controls else 1), units[-1]
    assert fields(bus, "BHBBB") == (0x03, 2, 0x0101, 0, before, 0)


def test_a_lens():
    """Table 3-6: it says nothing of its focal lengths, and has three bytes of controls."""
    assert fields(uvc.camera(0x02020A), "BHBBHHHB3s") == (0x02, 1, 0x0201, 0, 0, 0, 0, 0, 3, b"\x0a\x02\x02")


@pytest.mark.parametrize(("version", "size"), [("1.1", 2), ("1.5", 3)])
def test_a_processing_unit(version, size):
    """Table 3-8: what it is behind, no zoom, as many bytes of controls as its version has, and no names."""
    got = fields(uvc.processing(version, 0x000B), f"BBHB{size}sBB")
    assert got == (0x05, 3, 1, 0, size, b"\x0b".ljust(size, b"\0"), 0, 0)


def test_the_header_of_the_streaming_interface():
    """Table 3-14: bNumFormats, wTotalLength, bEndpointAddress, bmInfo, bTerminalLink, ..., bmaControls."""
    head, *rest = uvc.streaming(0x81, FORMATS)
    total = len(head) + sum(map(len, rest))
    assert fields(head, "BHBBBBBBBBB") == (0x01, 2, total, 0x81, 0, 2, 0, 0, 0, 1, 0, 0)
    assert [raw[2] for raw in rest] == [0x06, 0x07, 0x0D, 0x04, 0x05, 0x0D]


def test_mjpeg():
    """Tables 3-1 and 3-2 of the MJPEG payload."""
    _, head, frame, colour, *_ = uvc.streaming(0x81, FORMATS)
    assert fields(head, "BBBBBBBB") == (0x06, 1, 1, 0, 1, 0, 0, 0, 0)
    size = 640 * 480 * 2
    expected = (0x07, 1, 0, 640, 480, size * 8 * 15, size * 8 * 30, size, 333_333, 2, 333_333, 666_666)
    assert fields(frame, "BBHHIIIIBII") == expected
    assert fields(colour, "BBB") == (0x0D, 1, 1, 4)


def test_yuy2():
    """Tables 3-1 and 3-2 of the uncompressed payload: the GUID begins with the letters."""
    *_, head, frame, _ = uvc.streaming(0x81, FORMATS)
    got = fields(head, "BB4s12sBBBBBB")
    assert got == (0x04, 2, 1, b"YUY2", bytes.fromhex("000010008000 00aa00389b71"), 16, 1, 0, 0, 0, 0)
    size = 160 * 120 * 2
    assert fields(frame, "BBHHIIIIBI") == (
        0x05,
        1,
        0,
        160,
        120,
        size * 8 * 15,
        size * 8 * 15,
        size,
        666_666,
        1,
        666_666,
    )


def test_the_usual_rate_is_the_first_and_intervals_are_in_order():
    _, _, frame, *_ = uvc.streaming(0x81, (Format(Coding.MJPEG, (Frame(640, 480, (15, 30, 5)),)),))
    assert unpack("<IB3I", frame[21:]) == (666_666, 3, 333_333, 666_666, 2_000_000)


def test_a_payload_header():
    """§2.4.3.3: length, info, presentation time."""
    assert uvc.payload_header(Info.FRAME_ID | Info.END_OF_FRAME, 0x1_0000_0002) == bytes.fromhex("06 87 02000000")
    assert uvc.payload_header(Info(0), 7) == bytes.fromhex("06 84 07000000")
