"""A kernel made of files and one event loop: sysfs as vhci_hcd has it, which takes sockets and lets go of them.

It checks what the real one checks, with the same errors. Source: drivers/usb/usbip/vhci_sysfs.c of Linux 6.1.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from usbferry.local import vhci
from usbferry.local.vhci import FREE, NOT_ASSIGNED, USED

HEADER = "hub port sta spd dev      sockfd local_busid\n"


# What sysfs says of every device here.
ATTRIBUTES = {
    "idVendor": "1209",
    "idProduct": "0001",
    "manufacturer": "Hand",
    "product": "Made",
    "serial": "0001",
}


class Socket:
    """A port, and the connection it holds."""

    def __init__(self, number: int, hub: str, device: str) -> None:
        self.number, self.hub, self.device = number, hub, device
        self.state, self.speed, self.devid, self.fd = FREE, 0, 0, 0
        self.connection: socket.socket | None = None
        self.received = bytearray()  # from the exporter
        self.news = asyncio.Event()

    def row(self) -> str:
        seen = "000 00000000 000000 0-0"
        if self.state == USED:
            seen = f"{self.speed:03} {self.devid:08x} {self.fd:06} {self.device}"
        return f"{self.hub}  {self.number:04} {self.state:03} {seen}\n"

    async def says(self, raw: bytes) -> None:
        """Send something, as the kernel's own sender would."""
        assert self.connection is not None
        await asyncio.get_running_loop().sock_sendall(self.connection, raw)

    async def hears(self, size: int) -> bytes:
        """The next bytes from the exporter."""
        async with asyncio.timeout(10):
            while len(self.received) < size:
                self.news.clear()
                await self.news.wait()
        found = bytes(self.received[:size])
        del self.received[:size]
        return found


class Kernel:
    """`controllers` of them, each with `ports` per hub, under `root`."""

    def __init__(self, root: Path, controllers: int = 2, ports: int = 3) -> None:
        self.root = root
        self.vhci = vhci.Vhci(root)
        self.enumerates = True  # whether an attached device gets an address and a folder
        self.before_attach: Callable[[int], None] = lambda number: None  # somebody is quicker
        self._folder = root / "sys/devices/platform/vhci_hcd.0"
        self._devices = root / "sys/bus/usb/devices"
        self._driver = root / "sys/bus/usb/drivers/usbhid"
        self._folder.mkdir(parents=True)
        self._driver.mkdir(parents=True)
        self._devices.mkdir(parents=True)
        for name in ("attach", "detach"):
            (self._folder / name).touch()
        self.ports = [
            Socket((2 * c + h) * ports + p, hub, f"{2 * c + h + 1}-{p + 1}")
            for c in range(controllers)
            for h, hub in enumerate(("hs", "ss"))
            for p in range(ports)
        ]
        self._shown = asyncio.Event()
        self._per_file = 2 * ports
        self.show()

    def show(self) -> None:
        """Write the status files anew."""
        for at in range(0, len(self.ports), self._per_file):
            name = f"status.{at // self._per_file}" if at else "status"
            rows = (one.row() for one in self.ports[at : at + self._per_file])
            (self._folder / name).write_text(HEADER + "".join(rows))
        self._shown.set()

    async def reaches(self, number: int, state: int) -> None:
        """Wait until a port is in a state."""
        async with asyncio.timeout(10):
            while self.ports[number].state != state:
                self._shown.clear()
                await self._shown.wait()

    def write(self, path: Path, words: str) -> None:
        """In place of `vhci._write`."""
        verb = {"attach": self._attach, "detach": self._detach}[path.name]
        verb(*(int(word) for word in words.split()))

    def _attach(self, number: int, fd: int, devid: int, speed: int) -> None:
        self.before_attach(number)
        if not (0 < speed <= 5 and 0 <= number < len(self.ports)):
            raise _error(errno.EINVAL)
        port = self.ports[number]
        assert (port.hub == "ss") == (speed == 5), "the kernel would take another port than it was told"
        if port.state != FREE:
            raise _error(errno.EBUSY)
        port.connection = socket.socket(fileno=os.dup(fd))
        port.connection.setblocking(False)
        assert port.connection.type == socket.SOCK_STREAM
        asyncio.get_running_loop().add_reader(port.connection.fileno(), self._readable, port)
        self.take(number, fd, devid, speed)

    def take(self, number: int, fd: int = 3, devid: int = 0x10002, speed: int = 3) -> None:
        """A port is taken, by us or by another."""
        port = self.ports[number]
        port.state, port.speed, port.devid, port.fd = USED if self.enumerates else NOT_ASSIGNED, speed, devid, fd
        if self.enumerates:
            folder = self._devices / port.device
            folder.mkdir()
            for name, text in ATTRIBUTES.items():
                (folder / name).write_text(text + "\n")
            interface = folder / f"{port.device}:1.0"
            interface.mkdir()
            (interface / "driver").symlink_to(self._driver)
        self.show()

    def _detach(self, number: int) -> None:
        if number >= len(self.ports) or self.ports[number].state == FREE:
            raise _error(errno.EINVAL)
        self.drop(number)

    def drop(self, number: int) -> None:
        """A connection ends: it is shut down, and the port is free."""
        port = self.ports[number]
        if port.connection is not None:
            asyncio.get_running_loop().remove_reader(port.connection.fileno())
            with suppress(OSError):
                port.connection.shutdown(socket.SHUT_RDWR)
            port.connection.close()
            port.connection = None
        port.state = FREE
        folder = self._devices / port.device
        shutil.rmtree(folder, ignore_errors=True)
        self.show()

    def _readable(self, port: Socket) -> None:
        assert port.connection is not None
        got = port.connection.recv(1 << 16)
        if not got:
            self.drop(port.number)
        port.received += got
        port.news.set()


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
