"""Text that comes from a FIFO, a file or standard input while the event loop runs, for devices that people drive.

A FIFO is kept open, so writers may come and go. A file is read once through; `rewind` begins it anew.
"""

from __future__ import annotations

import asyncio
import codecs
import io
import logging
import os
import stat
from pathlib import Path
from typing import Final

from ...device import DeviceError

log: Final = logging.getLogger(__name__)
_CHUNK: Final = 4096  # bytes of one read
_LINE: Final = 4096  # characters of one line


class Feed:
    """An open source of text; `-` is standard input. Raises DeviceError when it cannot be opened."""

    def __init__(self, path: str) -> None:
        self._descriptor = 0 if path == "-" else _open(path)
        self._is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._text = ""  # read, and not given yet
        self._decoder = _decoder()
        self._is_ours = path != "-"

    def close(self) -> None:
        """Nobody reads it any more."""
        if self._is_ours:
            self._is_ours = False
            os.close(self._descriptor)

    def rewind(self) -> None:
        """A file begins anew; what comes from elsewhere goes on."""
        if self._is_file:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self._text, self._decoder = "", _decoder()

    async def character(self) -> str | None:
        """The next character, None at the end. No UTF-8 comes as U+FFFD, each kind of line end as a newline."""
        if not self._text and not await self._fill():
            return None
        character, self._text = self._text[0], self._text[1:]
        return character

    async def line(self) -> str | None:
        """The next line without its end, None at the end; a line over 4096 characters comes in pieces."""
        while "\n" not in self._text and len(self._text) < _LINE:
            if not await self._fill():
                break
        line, newline, self._text = self._text.partition("\n")
        return line if line or newline else None

    async def _fill(self) -> bool:
        """Wait for more text; whether there was some before the end."""
        while True:
            try:
                raw = await _read(self._descriptor)
            except OSError as error:  # a terminal that hung up
                log.warning("input ended: %s", error)
                raw = b""
            text = self._decoder.decode(raw, final=not raw)
            self._text += text
            if text or not raw:
                return bool(text)


def _decoder() -> io.IncrementalNewlineDecoder:
    utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return io.IncrementalNewlineDecoder(utf8, translate=True)


def _open(path: str) -> int:
    """A FIFO is opened for writing too: otherwise its end comes whenever no writer is there."""
    where = Path(path).expanduser()
    try:
        if where.is_dir():
            raise DeviceError(f"{where} is a directory")
        is_fifo = stat.S_ISFIFO(where.stat().st_mode)
        return os.open(where, (os.O_RDWR if is_fifo else os.O_RDONLY) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise DeviceError(f"{where} is not there; a FIFO is made with: mkfifo {where}") from None
    except OSError as error:
        raise DeviceError(f"{where} cannot be read: {error.strerror}") from error


async def _read(descriptor: int) -> bytes:
    """Some bytes, none at the end. What cannot be watched, as a file, is read in a thread."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except (PermissionError, NotImplementedError):  # epoll refuses files; Windows has no add_reader
        return await asyncio.to_thread(os.read, descriptor, _CHUNK)
    try:
        await ready.wait()
        return os.read(descriptor, _CHUNK)
    finally:
        loop.remove_reader(descriptor)
