"""UVC, the video device class: its codes, and the descriptors of a camera, one function each.

A camera has a terminal for its lens and one for the bus, and a streaming interface with formats, each of which has
frames: a size and the intervals it can come at. Source: "UVC" is Universal Serial Bus Device Class Definition for Video
Devices 1.1 and 1.5, "MJPEG" and "Uncompressed" its payload documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag
from struct import pack
from typing import Final

VIDEO: Final = 0x0E  # bInterfaceClass
CONTROL: Final = 0x01  # bInterfaceSubClass
STREAMING: Final = 0x02
COLLECTION: Final = 0x03  # of an interface association
PROTOCOLS: Final = {"1.1": 0x00, "1.5": 0x01}  # bInterfaceProtocol by version, UVC §A.3
_RELEASES: Final = {"1.1": 0x0110, "1.5": 0x0150}  # bcdUVC

CLOCK_HZ: Final = 1_000_000  # dwClockFrequency: presentation times are microseconds
UNITS: Final = 10_000_000  # of a frame interval in a second

_CS_INTERFACE: Final = 0x24
_CAMERA: Final = 0x0201  # ITT_CAMERA, UVC §B.2
_BUS: Final = 0x0101  # TT_STREAMING
_YUY2: Final = bytes.fromhex("59555932 0000 1000 8000 00aa00389b71")  # its GUID, Uncompressed table 2-1


class Request(IntEnum):
    """bRequest, UVC §A.8."""

    SET_CUR = 0x01
    GET_CUR = 0x81
    GET_MIN = 0x82
    GET_MAX = 0x83
    GET_RES = 0x84
    GET_LEN = 0x85
    GET_INFO = 0x86
    GET_DEF = 0x87


PROBE: Final = 0x01  # control selectors of a streaming interface, UVC §A.9.7
COMMIT: Final = 0x02
ERROR_CODE: Final = 0x02  # VC_REQUEST_ERROR_CODE_CONTROL, UVC §A.9.1


class Error(IntEnum):
    """Why the last request was refused, UVC §4.2.1.2."""

    NONE = 0x00
    WRONG_STATE = 0x02
    OUT_OF_RANGE = 0x04
    INVALID_CONTROL = 0x06
    INVALID_REQUEST = 0x07


class Info(IntFlag):
    """bmHeaderInfo of a payload's header, UVC §2.4.3.3."""

    FRAME_ID = 0x01  # the same for a whole picture, and another for the next
    END_OF_FRAME = 0x02
    TIME = 0x04  # dwPresentationTime is there
    END_OF_HEADER = 0x80


HEADER_BYTES: Final = 6  # of a payload: length, info, presentation time


class Coding(Enum):
    """How pictures are carried."""

    MJPEG = "mjpeg"
    YUY2 = "yuy2"


def most_bytes(size: tuple[int, int]) -> int:
    """Of a picture: YUY2 has two for each pixel, and no JPEG of ours is larger. A host has no room for more."""
    return size[0] * size[1] * 2


@dataclass(frozen=True, slots=True)
class Frame:
    """A size in pixels, and the rates that it can come at, in pictures per second; the first is the usual one."""

    width: int
    height: int
    rates: tuple[int, ...]

    @property
    def most_bytes(self) -> int:
        return most_bytes((self.width, self.height))

    @property
    def intervals(self) -> tuple[int, ...]:
        """Between pictures, in units of 100 ns."""
        return tuple(UNITS // rate for rate in self.rates)


@dataclass(frozen=True, slots=True)
class Format:
    """A coding and its frames, whose indices count from 1, in their order."""

    coding: Coding
    frames: tuple[Frame, ...]


# -- the control interface ---------------------------------------------------------------------------------------------

CAMERA_UNIT: Final = 1
BUS_UNIT: Final = 2
PROCESSING_UNIT: Final = 3


def control(version: str, streaming: int, lens: int, looks: int) -> tuple[bytes, ...]:
    """What the control interface has: its header, UVC §3.7.2, and the units that pictures go through.

    `lens` and `looks` are bits of the camera terminal and of the processing unit, which is there if it has any.
    """
    units = [camera(lens)]
    if looks:
        units.append(processing(version, looks))
    units.append(bus(PROCESSING_UNIT if looks else CAMERA_UNIT))
    total = 13 + sum(map(len, units))
    return _interface(0x01, pack("<HHIBB", _RELEASES[version], total, CLOCK_HZ, 1, streaming)), *units


def camera(controls: int) -> bytes:
    """A lens, which does not say how its zoom is made, UVC §3.7.2.3."""
    fields = (CAMERA_UNIT, _CAMERA, 0, 0, 0, 0, 0, 3)
    return _interface(0x02, pack("<BHBBHHHB", *fields) + controls.to_bytes(3, "little"))


def processing(version: str, controls: int) -> bytes:
    """What changes pictures, UVC §3.7.2.5: bmControls has two bytes in 1.1, three in 1.5; no analog video."""
    size = 2 if version == "1.1" else 3
    head = pack("<BBHB", PROCESSING_UNIT, CAMERA_UNIT, 0, size)
    return _interface(0x05, head + controls.to_bytes(size, "little") + bytes(2))


def bus(source: int) -> bytes:
    """Where pictures go, UVC §3.7.2.2."""
    return _interface(0x03, pack("<BHBBB", BUS_UNIT, _BUS, 0, source, 0))


# -- the streaming interface -------------------------------------------------------------------------------------------


def streaming(endpoint: int, formats: Sequence[Format]) -> tuple[bytes, ...]:
    """What the streaming interface has: its header with the length of all, formats and frames, UVC §3.9.2."""
    parts = [part for number, one in enumerate(formats, 1) for part in _format(number, one)]
    size = 13 + len(formats)
    total = size + sum(map(len, parts))
    fields = (len(formats), total, endpoint, 0, BUS_UNIT, 0, 0, 0, 1)
    return _interface(0x01, pack("<BHBBBBBBB", *fields) + bytes(len(formats))), *parts


def _format(number: int, one: Format) -> list[bytes]:
    count = len(one.frames)
    if one.coding is Coding.MJPEG:
        head = _interface(0x06, bytes((number, count, 0, 1, 0, 0, 0, 0)))  # MJPEG table 3-1
    else:
        head = _interface(0x04, bytes((number, count)) + _YUY2 + bytes((16, 1, 0, 0, 0, 0)))  # Uncompressed table 3-1
    kind = 0x07 if one.coding is Coding.MJPEG else 0x05
    frames = [_frame(kind, index, frame) for index, frame in enumerate(one.frames, 1)]
    return [head, *frames, _colour()]


def _frame(kind: int, number: int, one: Frame) -> bytes:
    """The same in both documents: MJPEG table 3-2, Uncompressed table 3-2."""
    bits = 8 * one.most_bytes
    rates = (bits * min(one.rates), bits * max(one.rates))
    slowest_to_most = (min(rate, 0xFFFFFFFF) for rate in rates)
    usual, *_ = one.intervals
    intervals = sorted(one.intervals)
    fields = (number, 0, one.width, one.height, *slowest_to_most, one.most_bytes, usual, len(intervals))
    return _interface(kind, pack("<BBHHIIIIB", *fields) + pack(f"<{len(intervals)}I", *intervals))


def _colour() -> bytes:
    """sRGB's primaries and curve, the matrix of SMPTE 170M, as JPEG has them: UVC §3.9.2.6."""
    return _interface(0x0D, bytes((1, 1, 4)))


def payload_header(info: Info, time_us: int) -> bytes:
    """What each payload begins with."""
    return pack("<BBI", HEADER_BYTES, info | Info.TIME | Info.END_OF_HEADER, time_us & 0xFFFFFFFF)


def _interface(subtype: int, body: bytes) -> bytes:
    return bytes((3 + len(body), _CS_INTERFACE, subtype)) + body
