"""Bridges to FIFOs: what the host writes is read there by any program, such as `cat print.fifo | lp`; or the reverse.

It is kept open for reading too, so readers may come and go: what nobody reads waits, and the device takes no more.
"""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

from ...device import DeviceError
from .bridge import Bridge, BridgeOptions

_CHUNK = 64 * 1024  # bytes written at once


class Fifo(Bridge):
    """`to=fifo:PATH`, made if it is not there. Nothing comes back from it."""

    def __init__(self, options: BridgeOptions) -> None:
        super().__init__(options)
        if not options.address:
            raise ValueError("fifo: needs a path, as in to=fifo:PATH")
        if not hasattr(os, "mkfifo"):
            raise ValueError("fifo: needs Unix; elsewhere take to=listen://HOST:PORT")
        self._path = Path(options.address).expanduser()
        self._fd = -1
        self._waits = False

    async def begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = open_fifo(self._path)
        self.connected = True
        self.move()

    async def end(self) -> None:
        self._wait(False)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def pass_on(self) -> None:
        while self.from_host and self._fd >= 0:
            try:
                written = os.write(self._fd, self.from_host.peek(_CHUNK))
            except BlockingIOError:
                self._wait(True)
                return
            self.from_host.drop(written)
            self.took()
        self._wait(False)

    def _wait(self, waits: bool) -> None:
        """Be called when there is room again, or no more."""
        if waits and not self._waits:
            self._loop.add_writer(self._fd, self.move)
        elif self._waits and not waits:
            self._loop.remove_writer(self._fd)
        self._waits = waits

    def __str__(self) -> str:
        return f"fifo:{self.options.address}"


class FifoReader(Bridge):
    """`fifo:PATH`, made if it is not there. Kept open for writing too, so that writers come and go."""

    def __init__(self, options: BridgeOptions) -> None:
        super().__init__(options)
        if not options.address:
            raise ValueError("fifo: needs a path, as in source=fifo:PATH")
        self._path = Path(options.address).expanduser()

    async def begin(self) -> None:
        self._fd = open_fifo(self._path)
        self._watching = False
        self.connected = True
        self.move()

    async def end(self) -> None:
        self._watch(False)
        os.close(self._fd)

    def fetch(self) -> None:
        while room := self.to_host.room:
            try:
                self.to_host.put(os.read(self._fd, room))
            except BlockingIOError:
                break
        self._watch(room > 0)

    def _watch(self, on: bool) -> None:
        if on != self._watching:
            self._watching = on
            loop = asyncio.get_running_loop()
            if on:
                loop.add_reader(self._fd, self.move)
            else:
                loop.remove_reader(self._fd)

    def __str__(self) -> str:
        return f"fifo:{self.options.address}"


def open_fifo(path: Path) -> int:
    """A FIFO, made if it is not there, for both ways: it lasts while its other ends come and go. Raises DeviceError."""
    try:
        if not path.exists():
            os.mkfifo(path)
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}") from error
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise DeviceError(f"{path} is no FIFO; a file is to=file:PATH")
    return fd
