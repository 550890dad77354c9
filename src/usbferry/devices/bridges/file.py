"""A bridge to files: what the host writes is appended to one, what it reads comes from another.

Files may be slow (a network, a sleeping disk), so a thread reads and writes them, one piece at a time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ...device import DeviceError
from .bridge import Bridge, BridgeOptions

log: Final = logging.getLogger(__name__)
_CHUNK: Final = 64 * 1024  # bytes read or written at once
_BINARY: Final = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
RETRY_SECONDS: Final = 1.0  # after a failed write: a full disk may be made room on


class File(Bridge):
    """`to=file:PATH` names the file to append to, made if it is not there; none is needed with `input` alone, and what
    the host writes is forgotten then. Each claim reads `input` from its start; at its end comes nothing more.
    """

    def __init__(self, options: BridgeOptions) -> None:
        super().__init__(options)
        if not options.address and options.input is None:
            raise ValueError("file: needs a path, as in to=file:PATH, or an input")
        self._output_path = Path(options.address).expanduser() if options.address else None

    async def begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._output = self._input = -1
        self._piece = b""  # being written, or to be written again
        self._offset = 0  # of the next read
        self._claim = 0  # what an earlier one asked for is not given to a later one
        self._at_end = self._ended = False
        self._reading: asyncio.Future[Any] | None = None
        self._writing: asyncio.Future[Any] | None = None
        self._retry: asyncio.TimerHandle | None = None
        try:
            if self._output_path is not None:
                self._output = _open(self._output_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            if self.options.input is not None:
                self._input = _open(self.options.input, os.O_RDONLY)
        except DeviceError:
            self._close()
            raise
        self.connected = True
        self.move()

    async def end(self) -> None:
        self._ended = True
        if self._retry is not None:
            self._retry.cancel()
        for work in (self._reading, self._writing):
            if work is not None:
                await asyncio.wait((work,))  # a thread cannot be stopped, and has the file
        self._close()

    def host_left(self) -> None:
        self._claim += 1
        self._offset = 0
        self._at_end = False
        self.to_host.clear()
        self.move()

    def unsent(self) -> int:
        return len(self.from_host) + len(self._piece)

    # -- reading ------------------------------------------------------------------------------------------------------

    def fetch(self) -> None:
        if self._input < 0 or self._at_end or self._ended:
            return
        if self._reading is None and self.to_host.room:
            claim, count = self._claim, min(self.to_host.room, _CHUNK)
            self._reading = self._in_thread(_read_at, self._input, self._offset, count)
            self._reading.add_done_callback(lambda done: self._was_read(claim, done))

    def _was_read(self, claim: int, done: asyncio.Future[bytes]) -> None:
        self._reading = None
        if claim == self._claim:
            if (error := done.exception()) is not None:
                log.error("%s: not read: %s", self.options.input, error)
            data = b"" if error is not None else done.result()
            self._at_end = not data
            self._offset += len(data)
            self.to_host.put(data)
        self.move()

    # -- writing ------------------------------------------------------------------------------------------------------

    def pass_on(self) -> None:
        if self._output < 0:
            self.from_host.clear()
        elif self._ended:
            return
        elif self._writing is None and self._retry is None and (self.from_host or self._piece):
            self._piece = self._piece or bytes(self.from_host.take(_CHUNK))
            self._writing = self._in_thread(os.write, self._output, self._piece)
            self._writing.add_done_callback(self._was_written)

    def _was_written(self, done: asyncio.Future[int]) -> None:
        self._writing = None
        if (error := done.exception()) is not None:
            if self.connected:
                log.error("%s: not written, trying on: %s", self, error)
            self.connected = False
            self._retry = self._loop.call_later(RETRY_SECONDS, self._write_again)
            return
        self.connected = True
        self._piece = self._piece[done.result() :]
        self.took()
        self.move()

    def _write_again(self) -> None:
        self._retry = None
        self.move()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        return self._loop.run_in_executor(None, work, *arguments)

    def _close(self) -> None:
        for fd in (self._output, self._input):
            if fd >= 0:
                os.close(fd)
        self._output = self._input = -1

    def __str__(self) -> str:
        return f"file:{self.options.address}"


def _open(path: Path, flags: int) -> int:
    """Regular files alone, and the null device: anything else could hold a thread for ever."""
    try:
        fd = os.open(path, flags | _BINARY | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode) and str(path) != os.devnull:
        os.close(fd)
        raise DeviceError(
            f"{path} is no file; programs are reached by to=pty, to=tcp://HOST:PORT or to=listen://HOST:PORT"
        )
    return fd


def _read_at(fd: int, offset: int, count: int) -> bytes:
    os.lseek(fd, offset, os.SEEK_SET)  # os.pread is not everywhere, and one thread at a time reads
    return os.read(fd, count)
