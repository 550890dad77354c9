"""Bridges: what the far end of a device's byte stream is, written as text.

    echo                 what the host writes comes back (here)
    pty                  a pseudo-terminal that programs open (pty.py)
    tcp://HOST:PORT      a server to connect to, again whenever it is lost (tcp.py)
    listen://HOST:PORT   a client to wait for, one at a time (tcp.py)
    file:PATH            a file that what the host writes is appended to (file.py)
    unix:PATH            a program that listens at a Unix socket, as tcp (tcp.py)
    fifo:PATH            a FIFO that programs read what the host writes from (fifo.py)
    tap:NAME             for frames, see frames.py: a network interface of this system (tap.py)

A bridge lives as long as its device exists, claimed or not: programs keep their terminal, peers their connection, while
hosts come and go. What a host was told is taken is passed on after it left, and what a far side has sent waits for the
next one. Only an echo is the host's own, and forgotten with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

from ..cdc import LineCoding, Lines
from .stream import ByteQueue

log: Final = logging.getLogger(__name__)
# Where a far side is has to be told also by a program that shows no more than warnings, which is what people run.
notes: Final = logging.getLogger(f"{__name__}.notes")
notes.setLevel(logging.INFO)
GRACE_SECONDS: Final = 2.0  # without a byte taken, before `stop` gives up on the far side


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """What a bridge is made from: its address without its kind, and the options that are some bridge's own."""

    address: str = ""
    link: Path | None = None
    input: Path | None = None
    frames: bool = False  # the bytes are frames: those of one peer do not go on with the next


class Bridge:
    """The far end of two queues. A subclass puts into `to_host`, takes from `from_host`, and tells of `connected`.

    Each step of one queue may set off the next of the other, all in one call: `move` is the one place they start from,
    and is not entered twice, so that no piece overtakes another.
    """

    to_host: ByteQueue
    from_host: ByteQueue

    def __init__(self, options: BridgeOptions | None = None) -> None:
        self.options = options or BridgeOptions()
        self.grace = GRACE_SECONDS
        self.connected_changed: Callable[[], None] = lambda: None  # the device's
        self._connected = False
        self._moving = self._move_again = False
        self._stopping: asyncio.Event | None = None  # set whenever the far side took something

    @property
    def connected(self) -> bool:
        """Whether there is a far side now: a device with modem lines tells it as DCD."""
        return self._connected

    @connected.setter
    def connected(self, connected: bool) -> None:
        if connected != self._connected:
            self._connected = connected
            self.connected_changed()

    # -- for the device -----------------------------------------------------------------------------------------------

    async def start(self, to_host: ByteQueue, from_host: ByteQueue) -> None:
        """Begin. Raises DeviceError when there can be no such far side, and leaves nothing open then."""
        self.to_host, self.from_host = to_host, from_host
        to_host.drained = from_host.filled = self.move
        await self.begin()

    async def stop(self) -> None:
        """End, when the far side has what the host wrote, or has taken nothing of it for `grace` seconds."""
        self._stopping = asyncio.Event()
        try:
            while self.unsent():
                self._stopping.clear()
                async with asyncio.timeout(self.grace):
                    await self._stopping.wait()
        except TimeoutError:
            log.warning("%s: the far side did not take the last %d bytes", self, self.unsent())
        finally:
            self.to_host.drained = self.from_host.filled = lambda: None
            await self.end()
            self.connected = False

    def move(self) -> None:
        """Move what can be moved, both ways."""
        self._move_again = True
        if self._moving:
            return
        self._moving = True
        try:
            while self._move_again:
                self._move_again = False
                self.pass_on()
                self.fetch()
        finally:
            self._moving = False

    def host_left(self) -> None:
        """The claim ended, or the device was reset."""

    def line_coding(self, coding: LineCoding) -> None:
        """The host chose a line coding."""

    def control_lines(self, lines: Lines) -> None:
        """The host raised or lowered DTR or RTS."""

    def send_break(self, on: bool) -> None:
        """The host's break began or ended."""

    # -- what a subclass does -----------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Open what is needed; both queues are there. Raises DeviceError."""

    async def end(self) -> None:
        """Close it again."""

    def pass_on(self) -> None:
        """Give the far side of `from_host` what it takes now, and say `took`; call `move` when it takes more."""

    def fetch(self) -> None:
        """Let the far side put into `to_host` while there is room."""

    def unsent(self) -> int:
        """Bytes that the host was told are taken and the far side has not got."""
        return len(self.from_host)

    def took(self) -> None:
        """The far side took something: `stop` may be waiting for it."""
        if self._stopping is not None:
            self._stopping.set()


class Echo(Bridge):
    """What the host writes comes back to it."""

    async def begin(self) -> None:
        self.connected = True

    def pass_on(self) -> None:
        while self.from_host and self.to_host.room:
            self.to_host.put(self.from_host.take(self.to_host.room))

    def unsent(self) -> int:
        return 0  # it was the host's, and the host is gone

    def host_left(self) -> None:
        self.from_host.clear()
        self.to_host.clear()

    def __str__(self) -> str:
        return "echo"


_KINDS: Final = {
    "echo": f"{__name__}:Echo",
    "pty": "usbferry.devices.bridges.pty:Pty",
    "tcp": "usbferry.devices.bridges.tcp:Client",
    "listen": "usbferry.devices.bridges.tcp:Listener",
    "unix": "usbferry.devices.bridges.tcp:UnixClient",
    "file": "usbferry.devices.bridges.file:File",
    "fifo": "usbferry.devices.bridges.fifo:Fifo",
    "tap": "usbferry.devices.bridges.tap:Tap",
}
_WRITTEN: Final = {
    "tcp": "tcp://HOST:PORT",
    "listen": "listen://HOST:PORT",
    "unix": "unix:PATH",
    "file": "file:PATH",
    "fifo": "fifo:PATH",
    "tap": "tap:NAME",
}
BYTES: Final = ("echo", "pty", "tcp", "listen", "unix", "file", "fifo")  # what a stream of any bytes may go to
FRAMES: Final = ("echo", "tcp", "listen", "unix", "tap")  # and what one of frames may
_OWN_OPTIONS: Final = {"link": "pty", "input": "file"}


def make(to: str, *, link: Path | None = None, input: Path | None = None, frames: bool = False) -> Bridge:
    """The bridge `to` names, of bytes or of `frames`; `link` is for a pty, `input` for a file.

    Raises ValueError with a text for the user.
    """
    kind, _, address = to.partition(":")
    kinds = FRAMES if frames else BYTES
    if kind not in kinds:
        *most, last = (_WRITTEN.get(one, one) for one in kinds)
        raise ValueError(f"{to!r} is no far side: write {', '.join(most)} or {last}")
    for name, value in (("link", link), ("input", input)):
        if value is not None and kind != _OWN_OPTIONS[name]:
            raise ValueError(f"{name} goes with to={_OWN_OPTIONS[name]}, not with to={to}")
    if address and kind in ("echo", "pty"):
        raise ValueError(f"{to!r}: write {kind} alone")
    module, _, name = _KINDS[kind].partition(":")
    try:
        factory: type[Bridge] = getattr(import_module(module), name)
    except ImportError as error:
        raise ValueError(f"{kind} needs Unix: {error}") from error
    return factory(BridgeOptions(address, link, input, frames))
