"""Probe and commit: how a host and a camera agree on a format, a size and a rate, without I/O.

    host: SET_CUR(PROBE) what it wants -> GET_CUR(PROBE) what it can have -> ... -> SET_CUR(COMMIT) the same

A camera changes what it cannot do to what is nearest, and adds what the host has to know: how large a picture and a
payload can be. Source: UVC §4.3.1.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from struct import Struct
from typing import Final

from .uvc import CLOCK_HZ, UNITS, Coding, Format, Frame

_PROBE: Final = Struct("<HBBIHHHHHII")  # 26 bytes: all of UVC 1.0
_PROBE_1_1: Final = Struct("<IBBBB")  # and what 1.1 adds
_PROBE_1_5: Final = Struct("<BBBBHQ")
_LENGTHS: Final = {"1.1": 34, "1.5": 48}  # bytes of the whole
_SHORTEST: Final = _PROBE.size
_FRAME_ID_AND_END: Final = 0x03  # bmFramingInfo: both bits are in payload headers


@dataclass(frozen=True, slots=True)
class Mode:
    """What a stream carries: `format` and `frame` count from 1, as in the descriptors; `interval` is 100 ns units."""

    format: int
    frame: int
    interval: int


class Negotiation:
    """The probe and commit controls of one streaming interface.

    `payload(coding, frame, interval)` is the most bytes of a payload of such a stream.
    """

    def __init__(self, version: str, formats: Sequence[Format], payload: Callable[[Coding, Frame, int], int]) -> None:
        self._formats = formats
        self._payload = payload
        self._length = _LENGTHS[version]
        self.default = self._nearest(1, 1, 0)
        self.probed = self.default
        self.committed: Mode | None = None

    def restart(self) -> None:
        """Nothing was agreed on."""
        self.probed, self.committed = self.default, None

    @property
    def length(self) -> int:
        """Bytes of what the host reads."""
        return self._length

    def probe(self, data: bytes) -> None:
        """The host wants this; it gets what is nearest. Raises ValueError when it is no probe."""
        self.probed = self._nearest(*_wanted(data))

    def commit(self, data: bytes) -> Mode:
        """The host takes this. Raises ValueError when it is nothing that it can have."""
        wanted = Mode(*_wanted(data))
        if self._nearest(wanted.format, wanted.frame, wanted.interval) != wanted:
            raise ValueError(f"there is no {wanted}")
        self.committed = self.probed = wanted
        return wanted

    def pack(self, mode: Mode) -> bytes:
        """What the host reads of a mode."""
        one, frame = self.of(mode)
        payload = self._payload(one.coding, frame, mode.interval)
        raw = _PROBE.pack(0, mode.format, mode.frame, mode.interval, 0, 0, 0, 0, 0, frame.most_bytes, payload)
        raw += _PROBE_1_1.pack(CLOCK_HZ, _FRAME_ID_AND_END, 1, 1, 1)
        return (raw + _PROBE_1_5.pack(1, 0, 0, 0, 0, 0))[: self._length]

    def least(self) -> Mode:
        """The quickest of what was probed, as GET_MIN gives it."""
        return replace(self.probed, interval=min(self.of(self.probed)[1].intervals))

    def most(self) -> Mode:
        """The slowest, as GET_MAX gives it."""
        return replace(self.probed, interval=max(self.of(self.probed)[1].intervals))

    def of(self, mode: Mode) -> tuple[Format, Frame]:
        """The format and the frame of a mode that was agreed on."""
        one = self._formats[mode.format - 1]
        return one, one.frames[mode.frame - 1]

    def _nearest(self, number: int, index: int, interval: int) -> Mode:
        """An interval of 0 is the usual one; formats and frames that are not there become the first."""
        number = number if 1 <= number <= len(self._formats) else 1
        frames = self._formats[number - 1].frames
        index = index if 1 <= index <= len(frames) else 1
        intervals = frames[index - 1].intervals
        return Mode(number, index, min(intervals, key=lambda one: abs(one - interval)) if interval else intervals[0])


def _wanted(data: bytes) -> tuple[int, int, int]:
    """Format, frame and interval. A host of an older version sends fewer bytes than we give."""
    if len(data) < _SHORTEST:
        raise ValueError(f"a probe has {_SHORTEST} bytes or more, not {len(data)}")
    _, number, index, interval, *_ = _PROBE.unpack_from(data)
    return number, index, interval


def seconds(interval: int) -> float:
    """Of a frame interval."""
    return interval / UNITS
