"""Sound as numbers: the format of samples, how many go into each packet, and their loudness.

A frame is one sample of each channel, as in sound programs; those of the bus are called intervals here. Samples are
signed and little endian, the type "PCM" of Universal Serial Bus Device Class Definition for Audio Data Formats.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final

from ...usb.transfer import Buffer

MUTED: Final = 0.0
_CODES: Final = {2: "h", 4: "i"}  # of `array`, by the bytes of a sample
_PER_SECOND: Final = 1_000_000_000  # millihertz times microseconds in one frame


@dataclass(frozen=True, slots=True)
class Format:
    """What the samples of a stream are. Raises ValueError for what no USB device can be."""

    rate: int = 48000  # frames per second
    channels: int = 2
    bits: int = 16  # of a sample: 16, 24 or 32

    def __post_init__(self) -> None:
        if self.bits not in (16, 24, 32):
            raise ValueError(f"samples have 16, 24 or 32 bits, not {self.bits}")
        if not 1 <= self.channels <= 8:
            raise ValueError(f"there are 1 to 8 channels, not {self.channels}")
        if not 4000 <= self.rate <= 384_000:
            raise ValueError(f"rates are 4000 to 384000 Hz, not {self.rate}")

    @property
    def sample_bytes(self) -> int:
        return self.bits // 8

    @property
    def frame_bytes(self) -> int:
        return self.channels * self.bits // 8

    def __str__(self) -> str:
        return f"{self.rate} Hz, {self.channels} x {self.bits} bits"


class Pace:
    """How many frames each packet holds, so that in the long run they are exactly `rate` in a second.

    The remainder is carried on in whole numbers, and `rate` may change at any time: 44.1 kHz is 44 frames in nine
    packets of a millisecond, and 45 in the tenth.
    """

    def __init__(self, interval_us: int) -> None:
        self._interval_us = interval_us
        self._remainder = 0

    def frames(self, rate: float) -> int:
        """Of the next packet; `rate` is frames per second, heeded to a thousandth."""
        whole, self._remainder = divmod(self._remainder + round(rate * 1000) * self._interval_us, _PER_SECOND)
        return whole

    def restart(self) -> None:
        self._remainder = 0


def packet_frames(rate: int, interval_us: int) -> int:
    """The most that a packet must be able to hold: one more than ever at `rate`, for a clock that is a little quick."""
    return -(-rate * interval_us // 1_000_000) + 1


def decibels(level: int) -> float:
    """The factor that a volume of UAC is, which counts 1/256 dB: UAC 1.0 §5.2.2.4.3.2."""
    return float(10 ** (level / 256 / 20))


def scaled(data: Buffer, sample_bytes: int, factor: float) -> Buffer:
    """The same samples, `factor` times as loud; 0 to 1, so that none is clipped. At 1 they are not touched."""
    if factor == 1:
        return data
    if factor == MUTED:
        return bytes(len(data))
    code = _CODES.get(sample_bytes)
    if code is not None:
        samples = _native(array(code, bytes(data)))
        return _native(array(code, [int(one * factor) for one in samples])).tobytes()
    raw = bytes(data)
    three = (int.from_bytes(raw[at : at + 3], "little", signed=True) for at in range(0, len(raw), 3))
    return b"".join(int(one * factor).to_bytes(3, "little", signed=True) for one in three)


def _native(samples: array[int]) -> array[int]:
    """Turns them from little endian into the machine's order, or back."""
    if _SWAPS:
        samples.byteswap()
    return samples


_SWAPS: Final = array("h", b"\1\0")[0] != 1
