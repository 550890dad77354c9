"""A device served to this machine's kernel by this process: any Device becomes one that vhci_hcd can use.

    kernel (vhci_hcd) <--socket pair--> exporter, pump <--> Counted <--> any Device

The kernel gets what our exporter writes and nothing else: what a remote server says is read by an importer first, and
built anew from what came of it. Kernels have been taken over by numbers they believed (CVE-2016-3955 and later).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..device import Claimant, Device, Source, Through
from ..registry import load_exporter
from ..server.catalog import Catalog
from ..server.listen import serving
from ..usb.info import DeviceInfo
from ..usb.transfer import Completion, Transfer
from ..usb.types import Status

log: Final = logging.getLogger(__name__)
SEND_BYTES: Final = 1 << 20  # unread on one end of the socket pair
_SO_SNDBUFFORCE: Final = 32  # include/uapi/asm-generic/socket.h
NAME: Final = "1-1"  # of the one device that a relay serves

Answer = Completion | asyncio.Future[Completion]


@dataclass(slots=True)
class Counts:
    """What went through a relay."""

    transfers: int = 0  # that ended
    bytes_in: int = 0  # from the device
    bytes_out: int = 0  # to it
    errors: int = 0  # transfers that ended neither well nor cancelled

    def __str__(self) -> str:
        return (
            f"{self.transfers} transfers, {self.bytes_in} bytes from the device, {self.bytes_out} bytes to it, "
            f"{self.errors} errors"
        )


class Counted(Through):
    """A device that counts what another one does."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.counts = Counts()
        self._submit = device.submit

    def submit(self, transfer: Transfer) -> Answer:
        answer = self._submit(transfer)
        if isinstance(answer, Completion):
            self._count(transfer, answer)
        else:
            answer.add_done_callback(partial(self._ended, transfer))
        return answer

    def _ended(self, transfer: Transfer, future: asyncio.Future[Completion]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._count(transfer, future.result())

    def _count(self, transfer: Transfer, completion: Completion) -> None:
        counts = self.counts
        counts.transfers += 1
        if transfer.endpoint & 0x80:
            counts.bytes_in += len(completion.data)
        else:
            counts.bytes_out += completion.actual
        if completion.status > Status.CANCELLED or completion.status == Status.STALL:
            counts.errors += 1


class _Opened(Source):
    """A source of one device that is open already."""

    def __init__(self, address: str, device: Device) -> None:
        self.address = address
        self._device = device

    async def list(self) -> list[DeviceInfo]:
        return [self._device.info]

    async def open(self, name: str, claimant: Claimant) -> Device:
        return self._device

    async def close(self) -> None:
        await self._device.close()


class Relay:
    """Serves an open device on one end of a socket pair, until `stop`; then the device is closed."""

    def __init__(self, address: str, device: Device) -> None:
        self.device = Counted(device)
        self.theirs, self._ours = socket.socketpair()
        for end in (self.theirs, self._ours):
            _widen(end)
        self.theirs.setblocking(False)
        self._address = address
        self._stop = asyncio.Event()
        self.closed = asyncio.Event()  # `run` has ended, and the device is given back

    @property
    def counts(self) -> Counts:
        return self.device.counts

    def stop(self) -> None:
        """Let `run` come to its end. May be called twice, and from a callback."""
        self._stop.set()

    async def run(self) -> None:
        """Serve. The kernel's end is the caller's: it imports `NAME` there, gives it to the kernel and closes it."""
        try:
            async with serving(Catalog()) as server:
                await server.offer(_Opened(self._address, self.device))
                await server.adopt(self._ours, load_exporter("usbip"))
                await self._stop.wait()
        finally:
            self.closed.set()
        log.info("%s: %s", self._address, self.counts)


def _widen(end: socket.socket) -> None:
    """Let a whole disk transfer be under way: less waking up on both sides. Over the system's limit takes root."""
    for option in (_SO_SNDBUFFORCE, socket.SO_SNDBUF):
        with suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, option, SEND_BYTES)
            return
