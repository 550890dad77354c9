"""A file that a thread of its own writes: who records never waits for a disk, and memory is bounded.

What the disk does not keep up with is left out, counted, and told; so is a disk that is full. A FIFO is written once
somebody reads it, and ends with its reader.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, Final

from ...device import DeviceError
from .pcapng import is_capture

log: Final = logging.getLogger(__name__)
MAX_WAITING: Final = 64 << 20  # bytes that wait for the disk; half a second of a fast device
_BATCH: Final = 4 << 20  # bytes of one write
_PAUSE: Final = 0.02  # seconds
_CLOSE_SECONDS: Final = 30.0  # for what waits at the end
_READER_SECONDS: Final = 2.0  # there, for a FIFO's reader to take a piece
_PIECE: Final = 64 << 10  # bytes of one write to it, as many as a FIFO holds


class Writer:
    """Appends to `path` until `close`. A capture that is there already is written anew."""

    def __init__(self, path: Path) -> None:
        """Raises DeviceError when the file cannot be written, or is something else than a capture."""
        self.path = path
        self.dropped = 0  # pieces
        self._waiting: deque[bytes] = deque()
        self._bytes = 0  # of those
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._written = 0  # bytes
        self._has_failed = False
        try:
            self._is_fifo = path.is_fifo()
            self._file = _read_fifo(path) if self._is_fifo else _opened(path)
        except OSError as error:
            raise DeviceError(f"{path} cannot be recorded to: {error.strerror}") from error
        self._thread = threading.Thread(target=self._run, name=f"writes {path.name}", daemon=True)
        self._thread.start()

    def write(self, piece: bytes) -> bool:
        """Add a piece; False where it is left out, for want of room or because the file cannot be written any more."""
        with self._lock:
            if self._has_failed or self._bytes + len(piece) > MAX_WAITING:
                self.dropped += 1
                return False
            was_empty = not self._waiting
            self._waiting.append(piece)
            self._bytes += len(piece)
        if was_empty:
            self._wake.set()
        return True

    def close(self) -> None:
        """Write what waits, and end. May be called twice, and blocks as long as the disk does, within bounds."""
        self._closing.set()
        self._wake.set()
        give_up, patience = time.monotonic() + _CLOSE_SECONDS, _READER_SECONDS if self._is_fifo else _CLOSE_SECONDS
        while self._thread.is_alive() and time.monotonic() < give_up:
            before = self._written
            self._thread.join(patience)
            if self._written == before:
                break
        if self._thread.is_alive():
            log.error("%s takes nothing any more: the end of the recording is lost", self.path)
        if self.dropped and not self._has_failed:
            log.warning("%s: %d packets are missing, the disk did not keep up", self.path, self.dropped)
            self.dropped = 0

    def _run(self) -> None:
        try:
            if self._file is None:
                self._file = self._awaited()
            with self._file:
                while self._step():
                    pass
        except OSError as error:
            self._fail(error)

    def _awaited(self) -> IO[bytes]:
        """The FIFO, once somebody reads it. Raises OSError when that has not come before the end."""
        while not self._closing.wait(_PAUSE):
            if (file := _read_fifo(self.path)) is not None:
                return file
        if (file := _read_fifo(self.path)) is None:
            raise OSError(errno.ENXIO, "nobody reads it")
        return file

    def _step(self) -> bool:
        """One write; whether there may be more."""
        self._wake.wait()
        self._closing.wait(_PAUSE)  # so that one write has many pieces, and who records seldom wakes this thread
        self._wake.clear()
        while batch := self._take():
            self._write_all(batch)
        return not self._closing.is_set() or bool(self._waiting)

    def _write_all(self, batch: bytes) -> None:
        """A disk that is nearly full takes a part; what comes behind half a block would make the file none."""
        assert self._file is not None
        rest = memoryview(batch)
        while rest:
            written = self._file.write(rest[:_PIECE] if self._is_fifo else rest)
            self._written += written
            rest = rest[written:]

    def _take(self) -> bytes:
        with self._lock:
            pieces, size = [], 0
            while self._waiting and size < _BATCH:
                pieces.append(self._waiting.popleft())
                size += len(pieces[-1])
            self._bytes -= size
        return b"".join(pieces)

    def _fail(self, error: OSError) -> None:
        with self._lock:
            self._has_failed = True
            self.dropped += len(self._waiting)
            self._waiting.clear()
            self._bytes = 0
        log.error("%s: %s; the recording ends here, the device goes on", self.path, error.strerror)


def is_other_file(path: Path) -> bool:
    """Whether there is a file that a recording would not overwrite. What cannot be read is not known to be one."""
    if not path.is_file():  # a FIFO would wait for its other end
        return False
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        return False
    return bool(start) and not is_capture(start)


def _read_fifo(path: Path) -> IO[bytes] | None:
    """The FIFO, when somebody reads it. Not opened to read as well: then it would never end with its reader."""
    try:
        number = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
    os.set_blocking(number, True)
    return os.fdopen(number, "wb", buffering=0)


def _opened(path: Path) -> IO[bytes]:
    """The file, empty. Raises DeviceError for a file that somebody may still want."""
    number = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    file = os.fdopen(number, "r+b" if stat.S_ISREG(os.fstat(number).st_mode) else "wb", buffering=0)
    try:
        if file.readable():
            start = file.read(4)
            if start and not is_capture(start):
                raise DeviceError(f"{path} is there and no capture: it is not overwritten")
            _lock(file, path)
            file.seek(0)
            file.truncate()
    except BaseException:
        file.close()
        raise
    return file


def _lock(file: IO[bytes], path: Path) -> None:
    """Two recordings in one file would be none. Raises DeviceError."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DeviceError(f"{path} is being recorded to already") from None
