"""The commands of a small oscilloscope: two channels, a time base, and waveforms that are the same each time.

Channel 1 has a sine of 1 kHz and 2 V from top to bottom, channel 2 a square wave of 500 Hz and 1 V.
"""

from __future__ import annotations

import math
from typing import Final

from .scpi import Instrument, ScpiError, block, decimal, number, scpi

CHANNELS: Final = (1, 2)
_DIVISIONS: Final = 10  # across
_LEVELS: Final = 25  # of a sample in a vertical division; 128 is the middle
_FREQUENCIES: Final = {1: 1000.0, 2: 500.0}
_AMPLITUDES: Final = {1: 1.0, 2: 0.5}  # volts, from the middle
_MAX_POINTS: Final = 50_000  # computed while everything else waits


class Oscilloscope(Instrument):
    """`acquisitions` counts how often it was triggered by its host."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.acquisitions = 0
        super().__init__()

    def reset(self) -> None:
        self._scales = dict.fromkeys(CHANNELS, 1.0)  # volts in a division
        self._shown = {1: True, 2: False}
        self._timebase = 1e-3  # seconds in a division
        self._source = 1
        self._points = 1000
        self.running = True

    def trigger(self) -> None:
        self.acquisitions += 1

    def samples(self, channel: int) -> bytes:
        """The waveform as it is sent: a byte for each point, 0 and 255 at the ends of the screen."""
        step = _DIVISIONS * self._timebase / self._points
        return bytes(self._sample(channel, step * point) for point in range(self._points))

    def _sample(self, channel: int, seconds: float) -> int:
        phase = seconds * _FREQUENCIES[channel] % 1.0
        wave = math.sin(2 * math.pi * phase) if channel == 1 else math.copysign(1.0, 0.5 - phase)
        return max(0, min(255, round(128 + wave * _AMPLITUDES[channel] / self._scales[channel] * _LEVELS)))

    # -- channels -----------------------------------------------------------------------------------------------------

    @scpi("CHANnel<n>:SCALe")
    def _set_scale(self, channel: int, value: str) -> None:
        self._scales[_checked(channel)] = decimal(value, 1e-3, 10)

    @scpi("CHANnel<n>:SCALe?")
    def _scale(self, channel: int) -> str:
        return f"{self._scales[_checked(channel)]:.6E}"

    @scpi("CHANnel<n>:DISPlay")
    def _show(self, channel: int, value: str) -> None:
        if value.upper() not in ("ON", "OFF", "1", "0"):
            raise ScpiError(-224)
        self._shown[_checked(channel)] = value.upper() in ("ON", "1")

    @scpi("CHANnel<n>:DISPlay?")
    def _is_shown(self, channel: int) -> str:
        return str(int(self._shown[_checked(channel)]))

    @scpi("TIMebase:SCALe")
    def _set_timebase(self, value: str) -> None:
        self._timebase = decimal(value, 1e-9, 10)

    @scpi("TIMebase:SCALe?")
    def _timebase_is(self) -> str:
        return f"{self._timebase:.6E}"

    # -- acquisition --------------------------------------------------------------------------------------------------

    @scpi("RUN")
    def _run(self) -> None:
        self.running = True

    @scpi("STOP")
    def _stop(self) -> None:
        self.running = False

    @scpi("SINGle")
    def _single(self) -> None:
        self.running = False
        self.trigger()

    # -- waveforms ----------------------------------------------------------------------------------------------------

    @scpi("WAVeform:SOURce")
    def _set_source(self, value: str) -> None:
        text = value.upper().removeprefix("CHANNEL").removeprefix("CHAN")
        self._source = _checked(number(text, 0, 255))

    @scpi("WAVeform:SOURce?")
    def _source_is(self) -> str:
        return f"CHAN{self._source}"

    @scpi("WAVeform:POINts")
    def _set_points(self, value: str) -> None:
        self._points = number(value, 1, _MAX_POINTS)

    @scpi("WAVeform:POINts?")
    def _points_are(self) -> str:
        return str(self._points)

    @scpi("WAVeform:PREamble?")
    def _preamble(self) -> str:
        """Format (byte), type (normal), points, averages; x and y increment, origin and reference."""
        x = _DIVISIONS * self._timebase / self._points
        y = self._scales[self._source] / _LEVELS
        return f"0,0,{self._points},1,{x:.6E},0.000000E+00,0,{y:.6E},0.000000E+00,128"

    @scpi("WAVeform:DATA?")
    @scpi("CURVe?")
    def _data(self) -> bytes:
        return block(self.samples(self._source))

    # -- measurements -------------------------------------------------------------------------------------------------

    @scpi("MEASure:FREQuency?")
    def _frequency(self) -> str:
        return f"{_FREQUENCIES[self._source]:.6E}"

    @scpi("MEASure:VPP?")
    def _peak_to_peak(self) -> str:
        return f"{2 * _AMPLITUDES[self._source]:.6E}"


def _checked(channel: int) -> int:
    if channel not in CHANNELS:
        raise ScpiError(-113)
    return channel
