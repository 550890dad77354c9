"""One direction of a sound device: its controls, how its packets are filled or emptied, and its two ends.

Recording   source -> loudness -> packets    by the device's clock, and a little more or less by the source's
Playing     packets -> loudness -> sink      as many as the host sends, whom the feedback endpoint tells how many
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final

from ...usb.transfer import Buffer, Completion, Transfer
from ...usb.types import Speed, Status
from .controls import Control, Range
from .pcm import MUTED, Format, Pace, decibels, packet_frames, scaled
from .rate_matching import feedback
from .sinks import Sink
from .sources import Source

log: Final = logging.getLogger(__name__)
_DECIBEL: Final = 256  # of a volume
QUIETEST: Final = -60  # decibels
_LARGEST: Final = {Speed.FULL: 1023}  # bytes of an isochronous packet, 1024 for the others


class SoundStream:
    """What both have. `name` is for people; the first of `rates` is the one it begins with."""

    def __init__(self, name: str, sound: Format, rates: Sequence[int]) -> None:
        self.name = name
        self.rates = tuple(rates)
        self.is_running = False
        self.changed: Callable[[], None] = lambda: None  # the device's: the host set a control
        self.volume = Control(0, 2, (Range(QUIETEST * _DECIBEL, 0, _DECIBEL),), changed=self._loudness_set)
        self.mute = Control(0, 1, changed=self._loudness_set)
        self.rate = Control(rates[0], 4, tuple(Range(r, r, 0) for r in self.rates), size_1=3, changed=self._rate_set)
        self._sound = sound
        self._factor = 1.0

    @property
    def format(self) -> Format:
        """What its samples are now."""
        return replace(self._sound, rate=self.rate.value)

    def interval(self, speed: Speed) -> int:
        """bInterval of its endpoint: a millisecond, or less where a millisecond's samples do not fit a packet.

        Raises ValueError where there is none.
        """
        most = _LARGEST.get(speed, 1024)
        for exponent in range(4 if speed.has_microframes else 1, 0, -1):
            if self._packet_bytes(speed, exponent) <= most:
                return exponent
        raise ValueError(
            f"{max(self.rates)} Hz, {self._sound.channels} x {self._sound.bits} bits do not fit a packet at this speed"
            f" ({most} bytes): take fewer channels, lower rates or speed=high"
        )

    def packet_bytes(self, speed: Speed) -> int:
        """Of its largest packet."""
        return self._packet_bytes(speed, self.interval(speed))

    def _packet_bytes(self, speed: Speed, exponent: int) -> int:
        return packet_frames(max(self.rates), _interval_us(speed, exponent)) * self._sound.frame_bytes

    def start(self) -> None:
        """The host chose the alternate setting that streams."""
        if self.is_running:
            self.stop()
        self.is_running = True
        log.info("%s: %s", self.name, self.format)
        self._begin()

    def stop(self) -> None:
        """It chose the other, or left."""
        if self.is_running:
            self.is_running = False
            self._finish()

    def restore(self) -> None:
        """Forget what a host set."""
        for control in (self.volume, self.mute, self.rate):
            control.restore()

    def _begin(self) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        """Its end hears of the end, if it wants to."""

    def _loudness_set(self) -> None:
        self._factor = MUTED if self.mute.value else decibels(self.volume.value)
        log.info("%s: %g dB%s", self.name, self.volume.value / _DECIBEL, ", muted" if self.mute.value else "")
        self.changed()

    def _rate_set(self) -> None:
        if self.is_running:
            self._finish()
            self._begin()
        self.changed()


class Recording(SoundStream):
    """What a host records."""

    def __init__(self, name: str, source: Source, sound: Format, rates: Sequence[int], speed: Speed) -> None:
        super().__init__(name, sound, rates)
        self.source = source
        self._pace = Pace(_interval_us(speed, self.interval(speed)))

    def _begin(self) -> None:
        self._pace.restart()
        self.source.start(self.format)

    def give(self, transfer: Transfer) -> Completion:
        """Each packet has what an interval's clock ticks give; a host that asks for less loses nothing."""
        assert transfer.packets is not None
        each = self._sound.frame_bytes
        rate = self.rate.value * self.source.pace()
        frames = 0
        for packet in transfer.packets:
            now = min(self._pace.frames(rate), packet.length // each)
            packet.actual = now * each
            frames += now
        data = scaled(self.source.read(frames), self._sound.sample_bytes, self._factor)
        return Completion(Status.OK, data, packets=transfer.packets)


class Playing(SoundStream):
    """What a host plays."""

    def __init__(self, name: str, sink: Sink, sound: Format, rates: Sequence[int], speed: Speed) -> None:
        super().__init__(name, sound, rates)
        self.sink = sink
        self._full_speed = not speed.has_microframes

    def _begin(self) -> None:
        self.sink.start(self.format)

    def _finish(self) -> None:
        self.sink.stop()

    def take(self, transfer: Transfer) -> Completion:
        """Packets need not adjoin each other in the transfer's buffer, nor hold whole frames."""
        assert transfer.packets is not None
        whole = 0
        for packet in transfer.packets:
            packet.actual = packet.length
            whole += packet.length
        self.sink.write(scaled(self._payload(transfer, whole), self._sound.sample_bytes, self._factor))
        return Completion(Status.OK, b"", whole, transfer.packets)

    def _payload(self, transfer: Transfer, whole: int) -> Buffer:
        each = self._sound.frame_bytes
        packets = transfer.packets or ()
        if whole == len(transfer.data) and not whole % each:
            return transfer.data
        pieces = (transfer.data[p.offset : p.offset + p.length // each * each] for p in packets)
        return b"".join(pieces)

    def feed_back(self, transfer: Transfer) -> Completion:
        """How many frames the host is to send in a bus interval."""
        assert transfer.packets is not None
        wanted = feedback(self.rate.value * self.sink.pace(), full_speed=self._full_speed)
        for packet in transfer.packets:
            packet.actual = min(packet.length, len(wanted))
        return Completion(Status.OK, b"".join(wanted[: p.actual] for p in transfer.packets), packets=transfer.packets)

    @cached_property
    def feedback_bytes(self) -> int:
        return 3 if self._full_speed else 4


def _interval_us(speed: Speed, exponent: int) -> int:
    return (125 if speed.has_microframes else 1000) << exponent - 1
