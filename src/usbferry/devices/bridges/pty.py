"""A bridge to a pseudo-terminal: programs open its path as they would a serial port.

The terminal exists as long as its device, raw, whoever has it open: what the host writes while nobody reads waits
there, and then the host waits. It takes the host's rate and stop bits as its own, so that `stty` shows them; Linux's
know no other size than 8 bits and no parity, and none can carry a break, DTR or RTS.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
import termios
import tty
from typing import Final

from ...device import DeviceError
from ..cdc import LineCoding
from .bridge import Bridge, notes

_CHUNK: Final = 16 * 1024  # bytes offered to the terminal at once; it takes some 4 KiB when nobody reads
_LOOK_SECONDS: Final = 0.02
_LOOKS: Final = 2
_ISPEED, _OSPEED, _CFLAG = 4, 5, 2  # places in what termios.tcgetattr gives


class Pty(Bridge):
    """`link` is a symbolic link to make, so that the path is the same each time."""

    path: str = ""
    """The terminal's own path, while it exists."""

    async def begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reading = self._blocked = False
        self._master, self._slave = os.openpty()  # our own end of it keeps it there while nobody has it open
        try:
            tty.setraw(self._slave)
            os.set_blocking(self._master, False)
            self.path = os.ttyname(self._slave)
            self._link()
        except BaseException:
            self._close()
            raise
        notes.info("%s", self)
        self.connected = True
        self.move()

    async def end(self) -> None:
        if not self.unsent():
            await self._let_read()
        if self._reading:
            self._loop.remove_reader(self._master)
        if self._blocked:
            self._loop.remove_writer(self._master)
        self._unlink()
        self._close()

    async def _let_read(self) -> None:
        """What a terminal holds goes with it. It does not tell when it is read, so here, and only here, we look."""
        held, looks, patience = 0, 0, self.grace
        while looks < _LOOKS and patience > 0:  # one look is not enough: bytes are on their way in the kernel
            await asyncio.sleep(_LOOK_SECONDS)
            before, held = held, self._held()
            looks = 0 if held else looks + 1
            patience = self.grace if held != before else patience - _LOOK_SECONDS

    def _held(self) -> int:
        return int.from_bytes(fcntl.ioctl(self._slave, termios.FIONREAD, bytes(4)), sys.byteorder)

    # -- bytes --------------------------------------------------------------------------------------------------------

    def fetch(self) -> None:
        if not self._reading and self.to_host.room:
            self._reading = True
            self._loop.add_reader(self._master, self._readable)

    def _readable(self) -> None:
        """One read for each turn of the loop, so that a busy terminal leaves time for others."""
        try:
            data = os.read(self._master, max(1, self.to_host.room))
        except BlockingIOError:
            return
        self.to_host.put(data)
        if not self.to_host.room:
            self._reading = False
            self._loop.remove_reader(self._master)

    def pass_on(self) -> None:
        while self.from_host and not self._blocked:
            try:
                count = os.write(self._master, self.from_host.peek(_CHUNK))
            except BlockingIOError:
                self._blocked = True
                self._loop.add_writer(self._master, self._writable)
                return
            self.from_host.drop(count)
            self.took()

    def _writable(self) -> None:
        self._blocked = False
        self._loop.remove_writer(self._master)
        self.move()

    # -- the line -----------------------------------------------------------------------------------------------------

    def line_coding(self, coding: LineCoding) -> None:
        """A rate that terminals have no code for is left out."""
        attributes = termios.tcgetattr(self._slave)
        speed = getattr(termios, f"B{coding.rate}", None)
        if speed is not None and coding.rate:  # B0 would hang up
            attributes[_ISPEED] = attributes[_OSPEED] = speed
        attributes[_CFLAG] &= ~termios.CSTOPB
        if coding.stop_bits > 1:
            attributes[_CFLAG] |= termios.CSTOPB
        with contextlib.suppress(termios.error):  # a system whose terminals know fewer
            termios.tcsetattr(self._slave, termios.TCSANOW, attributes)

    # -- the link -----------------------------------------------------------------------------------------------------

    def _link(self) -> None:
        """A link to a terminal is one that a killed process left; anything else of that name stays."""
        link = self.options.link
        if link is None:
            return
        if link.is_symlink() and os.path.dirname(os.readlink(link)) != os.path.dirname(self.path):
            raise DeviceError(f"{link} leads to {os.readlink(link)}, which is no terminal: name another link")
        if link.exists() and not link.is_symlink():
            raise DeviceError(f"{link} is there already and no link: name another")
        new = link.with_name(f".{link.name}.{os.getpid()}")
        try:
            new.symlink_to(self.path)
            new.replace(link)  # at no moment is there none
        except OSError as error:
            new.unlink(missing_ok=True)
            raise DeviceError(f"{link} cannot be made: {error.strerror}") from error

    def _unlink(self) -> None:
        link = self.options.link
        if link is not None:
            with contextlib.suppress(OSError):
                if os.readlink(link) == self.path:  # another server's by now, perhaps
                    link.unlink()

    def _close(self) -> None:
        os.close(self._master)
        os.close(self._slave)
        self.path = ""

    def __str__(self) -> str:
        return f"pty {self.options.link} -> {self.path}" if self.options.link else f"pty {self.path}"
