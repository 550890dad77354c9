"""Where the sound that a host plays goes, written as text.

    null                  nowhere
    counter               it is checked to be the counter of `source=counter`: what is missing is told
    wav:PATH              a WAV file, begun anew whenever a host takes the device; when it plays at another rate, the
                          next is PATH-2.wav, and so on
    file:PATH             a file that the bare samples are appended to
    fifo:PATH             a FIFO that programs read the samples from
    tcp://HOST:PORT       samples to a server (see bridges)
    listen://HOST:PORT    samples to a client

A host's clock is ours, by the feedback endpoint. What a far side does not take waits in a queue, and the host is asked
for less; what does not fit any more is lost and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Final

from ...device import DeviceError
from ...usb.transfer import Buffer
from ..bridges.bridge import Bridge
from ..bridges.bridge import make as make_bridge
from ..bridges.stream import ByteQueue
from . import wav
from .pcm import Format
from .rate_matching import Matching
from .sources import counted

log: Final = logging.getLogger(__name__)
_BRIDGES: Final = ("file", "fifo", "tcp", "listen")
_PIECE: Final = 64 * 1024  # bytes that a WAV file is written in
_UNWRITTEN: Final = 64 << 20  # bytes kept for a disk that does not keep up


class Sink:
    """Takes frames. `lost` counts those that it could not."""

    def __init__(self) -> None:
        self.lost = 0

    async def begin(self, sound: Format, seconds: float) -> None:
        """The device came into being; `sound` is what it will begin with. Raises DeviceError."""

    async def end(self) -> None:
        """It ceased to be; all that was written is where it belongs."""

    def start(self, sound: Format) -> None:
        """A host begins to play."""

    def write(self, data: Buffer) -> None:
        """Whole frames. They are kept no longer than the call, or copied."""

    def stop(self) -> None:
        """The host stopped."""

    def pace(self) -> float:
        """What the nominal rate is to be multiplied by, for the queue neither to run full nor empty."""
        return 1.0


class Check(Sink):
    """`frames` is how many of a counter came, `gaps` how often one was not the number after the one before.

    Silence around the counter is not of it: hosts begin and end with some.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frames = self.gaps = 0

    def start(self, sound: Format) -> None:
        self._frame_bytes = sound.frame_bytes
        self._next: int | None = None
        self._silent = False
        self.frames = self.gaps = 0

    def write(self, data: Buffer) -> None:
        count = len(data) // self._frame_bytes
        if self._next is not None and not self._silent and data == counted(self._next, count, self._frame_bytes):
            self.frames += count
            self._next = self._after(self._next + count - 1)
            return
        for at in range(0, count * self._frame_bytes, self._frame_bytes):
            self._one(int.from_bytes(data[at : at + self._frame_bytes], "little"))

    def _one(self, number: int) -> None:
        if not number and self._next != 0:
            self._silent = self.frames > 0
            return
        self.gaps += self.frames > 0 and (self._silent or number != self._next)
        self._silent = False
        self.frames += 1
        self._next = self._after(number)

    def _after(self, number: int) -> int:
        return (number + 1) & (1 << 8 * self._frame_bytes) - 1

    def stop(self) -> None:
        log.info("counter: %d frames, %d gaps", self.frames, self.gaps)


class WavWriter(Sink):
    """A thread writes the file, in pieces and in order; the head is right whenever a host has stopped."""

    def __init__(self, path: str) -> None:
        super().__init__()
        if not path:
            raise ValueError("wav: needs a path, as in to=wav:PATH")
        self._path = Path(path).expanduser()
        self._file: BinaryIO | None = None
        self._format = Format()
        self._length = 0  # of the samples in the file
        self._number = 1
        self._waiting = bytearray()
        self._unwritten = 0
        self._thread: ThreadPoolExecutor | None = None

    async def begin(self, sound: Format, seconds: float) -> None:
        """The file is made now, rather than when a host plays: it tells at once that it cannot be."""
        self._format, self._number = sound, 1
        self._waiting, self._length, self.lost = bytearray(), 0, 0
        self._open(self._path, sound)
        self._thread = ThreadPoolExecutor(1, "wav")

    async def end(self) -> None:
        self.stop()
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(thread.shutdown)
        if self._file is not None:
            self._file.close()
            self._file = None

    def start(self, sound: Format) -> None:
        if sound != self._format and self._length:
            self._number += 1
            path = self._path.with_stem(f"{self._path.stem}-{self._number}")
            self._do(lambda: self._next_file(path, sound))
            self._length = 0
        self._format = sound

    def write(self, data: Buffer) -> None:
        self._waiting += data
        if len(self._waiting) >= _PIECE:
            self._write()

    def stop(self) -> None:
        self._write()
        sound, length = self._format, self._length
        self._do(lambda: wav.rewrite(self._opened, sound, length))

    def _write(self) -> None:
        piece, self._waiting = bytes(self._waiting), bytearray()
        if self._unwritten > _UNWRITTEN:
            self.lost += len(piece) // self._format.frame_bytes
            return
        self._length += len(piece)
        self._do(lambda: self._opened.write(piece), len(piece))

    def _do(self, work: Callable[[], Any], size: int = 0) -> None:
        if self._thread is not None:
            self._unwritten += size
            loop = asyncio.get_running_loop()
            loop.run_in_executor(self._thread, work).add_done_callback(lambda done: self._done(done, size))

    def _done(self, work: asyncio.Future[Any], size: int) -> None:
        self._unwritten -= size
        if (error := work.exception()) is not None:
            log.error("%s: not written: %s", self._path, error)

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _next_file(self, path: Path, sound: Format) -> None:
        self._opened.close()
        self._open(path, sound)

    @property
    def _opened(self) -> BinaryIO:
        assert self._file is not None
        return self._file

    def _open(self, path: Path, sound: Format) -> None:
        try:
            self._file = path.open("wb")
            self._file.write(wav.head(sound, 0))
            self._file.flush()
        except OSError as error:
            raise DeviceError(f"{path} cannot be written: {error.strerror}") from error


class Piped(Sink):
    """Samples for a bridge."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self.bridge = bridge
        self._told = 0  # of those lost

    async def begin(self, sound: Format, seconds: float) -> None:
        full = max(2, int(seconds * sound.rate)) * sound.frame_bytes
        self._queue = ByteQueue(full)
        self._matching = Matching(full // 2, full)
        await self.bridge.start(ByteQueue(), self._queue)

    async def end(self) -> None:
        await self.bridge.stop()

    def start(self, sound: Format) -> None:
        self._frame_bytes = sound.frame_bytes
        self._matching.restart()

    def stop(self) -> None:
        if self.lost > self._told:
            log.warning("%s: %d frames had no room, as too little is taken", self.bridge, self.lost - self._told)
            self._told = self.lost

    def write(self, data: Buffer) -> None:
        if self._queue.room < len(data):
            self.lost += len(data) // self._frame_bytes
        else:
            self._queue.put(data)

    def pace(self) -> float:
        return 2 - self._matching.factor(len(self._queue))


def make(text: str) -> Sink:
    """The sink that `text` names. Raises ValueError with a text for the user."""
    kind, _, rest = text.partition(":")
    if kind in ("null", "counter"):
        if rest:
            raise ValueError(f"{text!r}: write {kind} alone")
        return Sink() if kind == "null" else Check()
    if kind == "wav":
        return WavWriter(rest)
    if kind in _BRIDGES:
        return Piped(make_bridge(text))
    raise ValueError(
        f"{text!r} is no place for sound: write null, counter, wav:PATH, file:PATH, fifo:PATH, tcp://HOST:PORT"
        " or listen://HOST:PORT"
    )
