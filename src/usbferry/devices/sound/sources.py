"""Where the sound that a host records comes from, written as text.

    silence               nothing but zeros
    tone:HZ               a sine at half of full scale
    counter               each frame is its own number, little endian over all its channels: what is lost shows
    wav:PATH              a WAV file, from its start for each recording, again and again; the device has its format
    fifo:PATH             samples that programs write to a FIFO
    tcp://HOST:PORT       samples from a server (see bridges)
    listen://HOST:PORT    samples from a client

What comes by a pipe waits in a queue, and its far side waits when that is full. When it has run empty there is silence
until it is half full again: one gap rather than many.
"""

from __future__ import annotations

import math
import sys
from array import array
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Final

from ...device import DeviceError
from ...usb.transfer import Buffer
from ..bridges.bridge import Bridge, BridgeOptions
from ..bridges.bridge import make as make_bridge
from ..bridges.fifo import FifoReader
from ..bridges.stream import ByteQueue
from .pcm import Format
from .rate_matching import Matching
from .wav import WavFile

_BRIDGES: Final = ("tcp", "listen")


class Source:
    """Gives frames, as many as asked for. `format` is what it is bound to, if it is."""

    format: Format | None = None

    async def begin(self, sound: Format, seconds: float) -> None:
        """The device came into being; `sound` is what it will begin with. Raises DeviceError."""

    async def end(self) -> None:
        """It ceased to be."""

    def start(self, sound: Format) -> None:
        """A host begins to record."""

    def read(self, frames: int) -> Buffer:
        """Exactly so many frames."""
        raise NotImplementedError

    def pace(self) -> float:
        """What the nominal rate is to be multiplied by, for the far side neither to wait nor to starve."""
        return 1.0


class Silence(Source):
    def start(self, sound: Format) -> None:
        self._frame_bytes = sound.frame_bytes

    def read(self, frames: int) -> bytes:
        return bytes(frames * self._frame_bytes)


class Counter(Source):
    """Frame n is the number n, from 0 in each recording; it begins anew when the frame's bytes cannot hold more."""

    def start(self, sound: Format) -> None:
        self._next = 0
        self._frame_bytes = sound.frame_bytes

    def read(self, frames: int) -> bytes:
        first, self._next = self._next, self._next + frames
        return counted(first, frames, self._frame_bytes)


def counted(first: int, frames: int, frame_bytes: int) -> bytes:
    """Frames with the numbers `first` and up."""
    mask = (1 << 8 * frame_bytes) - 1
    numbers = [number & mask for number in range(first, first + frames)]
    if frame_bytes == 4 and sys.byteorder == "little":
        return array("I", numbers).tobytes()
    return b"".join(number.to_bytes(frame_bytes, "little") for number in numbers)


class Repeated(Source):
    """The same frames again and again."""

    _data: Buffer = b""

    def start(self, sound: Format) -> None:
        self._frame_bytes = sound.frame_bytes
        self._at = 0

    def read(self, frames: int) -> Buffer:
        length = frames * self._frame_bytes
        piece = self._data[self._at : self._at + length]
        self._at += length
        if len(piece) == length:
            return piece
        pieces, missing = [piece], length - len(piece)
        while missing:
            pieces.append(self._data[:missing])
            self._at = len(pieces[-1])
            missing -= self._at
        return b"".join(pieces)


class Tone(Repeated):
    """`hertz` is whole: so many periods fit a second, and a part of it that begins where it ends is all there is."""

    def __init__(self, text: str) -> None:
        try:
            self._hertz = int(text or "440")
        except ValueError:
            raise ValueError(f"{text!r} is no pitch; write it in whole hertz, as tone:440") from None
        if self._hertz < 1:
            raise ValueError("a tone has at least 1 Hz")

    def start(self, sound: Format) -> None:
        super().start(sound)
        frames = sound.rate // math.gcd(sound.rate, self._hertz)
        peak = 1 << sound.bits - 2
        samples = (round(peak * math.sin(2 * math.pi * self._hertz * n / sound.rate)) for n in range(frames))
        self._data = b"".join(
            one.to_bytes(sound.sample_bytes, "little", signed=True) * sound.channels for one in samples
        )


class Wav(Repeated):
    """The file is mapped: the system reads ahead in it, and an hour of music takes no memory of ours."""

    def __init__(self, path: str) -> None:
        if not path:
            raise ValueError("wav: needs a path, as in source=wav:PATH")
        self._file = WavFile.read(Path(path).expanduser())
        self.format = self._file.format
        self._map: mmap | None = None

    async def begin(self, sound: Format, seconds: float) -> None:
        try:
            with self._file.path.open("rb") as file:
                self._map = mmap(file.fileno(), 0, access=ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DeviceError(f"{self._file.path} cannot be read: {error}") from error
        whole = self._file.length // self._file.format.frame_bytes * self._file.format.frame_bytes
        self._data = memoryview(self._map)[self._file.offset : self._file.offset + whole]
        if not self._data:
            raise DeviceError(f"{self._file.path} has no samples")

    async def end(self) -> None:
        if self._map is not None:
            self._data = b""  # views of it that are still on their way keep the map
            self._map = None


class Piped(Source):
    """Samples from a bridge. `silent` counts the frames that were not there in time."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self.silent = 0
        self._waited: int | None = None  # bytes of silence given while the queue fills; None: it has filled

    async def begin(self, sound: Format, seconds: float) -> None:
        full = max(2, int(seconds * sound.rate)) * sound.frame_bytes
        self._queue, self._target = ByteQueue(full), full // 2
        self._matching = Matching(self._target, full)
        await self.bridge.start(self._queue, ByteQueue())

    async def end(self) -> None:
        await self.bridge.stop()

    def start(self, sound: Format) -> None:
        """What waits in the queue is as old as the queue is long: it is not forgotten, for it may be the beginning."""
        self._frame_bytes = sound.frame_bytes
        self._waited = 0
        self._matching.restart()

    def read(self, frames: int) -> Buffer:
        wanted = frames * self._frame_bytes
        if self._waited is not None:
            if len(self._queue) < self._target and self._waited < self._target:
                self._waited += wanted if self._queue else 0  # what comes no more is not waited for, however short
                return bytes(wanted)
            self._waited = None
        there = min(len(self._queue), wanted) // self._frame_bytes * self._frame_bytes
        got = self._queue.take(there)
        if there < wanted:
            self.silent += (wanted - there) // self._frame_bytes
            self._waited = 0
            self._matching.restart()
            got += bytes(wanted - there)
        return got

    def pace(self) -> float:
        return 1.0 if self._waited is not None else self._matching.factor(len(self._queue))


def make(text: str) -> Source:
    """The source that `text` names. Raises ValueError with a text for the user."""
    kind, _, rest = text.partition(":")
    if kind in ("silence", "counter"):
        if rest:
            raise ValueError(f"{text!r}: write {kind} alone")
        return Silence() if kind == "silence" else Counter()
    if kind == "tone":
        return Tone(rest)
    if kind == "wav":
        return Wav(rest)
    if kind == "fifo":
        return Piped(FifoReader(BridgeOptions(rest)))
    if kind in _BRIDGES:
        return Piped(make_bridge(text))
    raise ValueError(
        f"{text!r} is no source of sound: write silence, tone:HZ, counter, wav:PATH, fifo:PATH, tcp://HOST:PORT"
        " or listen://HOST:PORT"
    )
