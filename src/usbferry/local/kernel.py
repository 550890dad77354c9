"""This machine's kernel as `keep` wants it: it takes devices, and tells which it has already, by whomever."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import cached_property
from typing import Final

from ..backends.remote import RemoteSource
from ..device import DeviceError, NotFound, Source
from ..usb.info import DeviceInfo
from .attach import DETACHED, Attachment, Ended, attach
from .ports import info
from .vhci import USED, Port, Record, Vhci

_POLL_SECONDS: Final = 0.5  # between two looks at a port whose connection another process has made


class Kernel:
    """Attaches devices; relays run in `tasks`, which must outlive whoever keeps them attached."""

    def __init__(self, tasks: asyncio.TaskGroup, vhci: Vhci | None = None) -> None:
        self._tasks = tasks
        self._vhci = vhci or Vhci()

    async def attach(self, source: Source, name: str, *, relay: bool) -> Attachment:
        """Raises DeviceError."""
        return await attach(source, name, self._tasks, relay=relay, vhci=self._vhci)

    def existing(self, source: Source) -> dict[str, Adopted]:
        """What the kernel has of a USB/IP server, by its bus id there; of other sources nothing outlives its relay."""
        if not isinstance(source, RemoteSource) or source.scheme != "usbip":
            return {}
        server, found = (source.host, str(source.port)), {}
        for port in self._vhci.ports():
            record = self._vhci.read_record(port.number) if port.state == USED else None
            if record is not None and record[:2] == server:
                found[record.name] = Adopted(self._vhci, port, record)
        return found


class Adopted:
    """A device that another process, or one before this, attached; seen through to its end all the same."""

    def __init__(self, vhci: Vhci, row: Port, record: Record) -> None:
        self.port = row.number
        self._vhci = vhci
        self._row = row
        self._record = record

    @cached_property
    def info(self) -> DeviceInfo:
        """What the kernel says of it."""
        return info(self._vhci, self._row)

    async def gone(self) -> Ended:
        """Wait until the port has it no longer; who detaches by a tool removes the record first."""
        while self._is_there():  # noqa: ASYNC110  a status file cannot be waited for
            await asyncio.sleep(_POLL_SECONDS)
        await self._vhci.wait_free(self._row)
        if self._vhci.read_record(self.port) != self._record:
            return DETACHED
        self._vhci.remove_record(self.port)
        return Ended(f"the connection to {self._record.host} was closed", False)

    async def detach(self) -> None:
        """Take it from the kernel, and wait until its port is free."""
        if self._is_there():
            self._vhci.remove_record(self.port)
            with suppress(NotFound):  # it ended this moment
                self._vhci.detach(self.port)
            await self._vhci.wait_free(self._row)

    def _is_there(self) -> bool:
        try:
            now = self._vhci.port(self.port)
        except DeviceError:
            return False  # the module was unloaded
        return now.state == USED and now[2:6] == self._row[2:6]
