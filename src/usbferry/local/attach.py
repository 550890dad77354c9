"""Attach a device to this machine's kernel, so that its own driver binds.

    async with asyncio.TaskGroup() as tasks:
        attachment = await attach(open_source("usbip://host/1-2"), "1-2", tasks)
        ended = await attachment.gone()         # or: await attachment.detach()

There are two ways. A USB/IP server's connection goes to the kernel itself, which needs us no more; any other device is
served to it by a relay in this process, and so is one of a USB/IP server if the caller wants that.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from functools import partial
from typing import Final, NamedTuple

from ..backends import handover
from ..backends.remote import RemoteSource
from ..device import Claimant, DeviceError, Source
from ..usb.info import DeviceInfo
from .ports import Note
from .relay import NAME, Counts, Relay
from .vhci import FREE_SECONDS, Record, Vhci

log: Final = logging.getLogger(__name__)


class Ended(NamedTuple):
    """How an attachment came to its end."""

    reason: str  # in words
    by_hand: bool  # somebody detached it, with our tool or another; it is not to be attached again by itself


DETACHED: Final = Ended("detached", True)


async def attach(
    source: Source, name: str, tasks: asyncio.TaskGroup, *, relay: bool = False, vhci: Vhci | None = None
) -> Attachment:
    """Attach the device `name` of `source` to the kernel; returns when the kernel has read what it is.

    A `usbip://` source's device is passed to the kernel as a socket, unless `relay` or the source's buffer asks for a
    relay, as all others have; a relay runs in `tasks` until the attachment ends. `source` stays the caller's, to be
    closed after the end.

    Raises DeviceError with the remedy: NotFound, Busy (the device is in use, or every port is), the kernel's module is
    not loaded, not root, no connection.
    """
    vhci = vhci or Vhci()
    vhci.check()
    if isinstance(source, RemoteSource) and source.scheme == "usbip" and not (relay or source.buffer):
        connection, info = await handover.claim(source, name)
        claimed = _Claimed(connection, info, info)
    else:
        claimed = await _through_a_relay(source, name, tasks)
    return await _give(vhci, source, name, claimed)


class _Claimed(NamedTuple):
    """A device that is ours, and the connection by which the kernel shall have it."""

    connection: socket.socket
    info: DeviceInfo
    exported: DeviceInfo  # the same as the exporter at the other end of the connection has it
    relay: Relay | None = None


async def _through_a_relay(source: Source, name: str, tasks: asyncio.TaskGroup) -> _Claimed:
    device = await source.open(name, Claimant("local", "kernel"))
    try:
        relay = Relay(source.address, device)
    except BaseException:
        await device.close()
        raise
    tasks.create_task(relay.run())
    try:
        exported = await handover.claim_on(relay.theirs, NAME, "the relay")
    except BaseException:
        relay.theirs.close()
        relay.stop()
        raise
    return _Claimed(relay.theirs, device.info, exported, relay)


async def _give(vhci: Vhci, source: Source, name: str, claimed: _Claimed) -> Attachment:
    """Give a connection to the kernel, and see what becomes of it."""
    devid, speed = claimed.exported.bus << 16 | claimed.exported.address, claimed.exported.speed
    end: _End | None = None
    try:
        end = _End(claimed.connection)
        number = vhci.attach(claimed.connection.fileno(), devid, speed)
    except BaseException:
        end.close() if end is not None else claimed.connection.close()
        if claimed.relay is not None:
            claimed.relay.stop()
        raise
    record = None
    if isinstance(source, RemoteSource) and source.scheme == "usbip":
        record = Record(source.host, str(source.port), name)
    attachment = Attachment(vhci, number, source.address, claimed, end, record)
    try:
        await attachment.wait_enumerated()
    except BaseException:
        await attachment.detach()
        raise
    return attachment


class Attachment:
    """A device that is attached to this machine's kernel. Made by `attach`."""

    def __init__(
        self, vhci: Vhci, port: int, address: str, claimed: _Claimed, end: _End, record: Record | None
    ) -> None:
        self.port = port  # of vhci, as `detach` counts
        self.info = claimed.info  # as the source tells it; the strings of a direct connection are the kernel's
        self.address = address
        self._vhci = vhci
        self._row = vhci.port(port)
        self._relay = claimed.relay
        self._end = end
        self._server = record.host if record is not None else ""
        self._detaching = False
        self._ended: Ended | None = None
        vhci.remove_record(port)  # an old one may have stayed
        self._record = vhci.write_record(port, record)
        if self._relay is not None:
            self._note = Note(vhci, port, address, self._relay.counts)
            end.over.add_done_callback(self._relay_ended)

    @property
    def is_relayed(self) -> bool:
        """Whether this process carries its transfers: when the process ends, the device is gone."""
        return self._relay is not None

    @property
    def counts(self) -> Counts | None:
        """What went through the relay, if there is one."""
        return self._relay.counts if self._relay is not None else None

    @property
    def device(self) -> str:
        """Its name in this machine's sysfs, such as "1-1"."""
        return self._row.device

    async def gone(self) -> Ended:
        """Wait until the kernel has let go of it and the port is free: detached, or the device or its server left."""
        await asyncio.shield(self._end.over)
        if self._ended is None:
            ended = DETACHED if self._detaching else self._why()
            await self._vhci.wait_free(self._row)
            if self._has_record():  # and not that of who has the port by now
                self._vhci.remove_record(self.port)
            if self._relay is not None:
                await self._relay.closed.wait()
            self._ended = ended
        return self._ended

    async def detach(self) -> None:
        """Take it from the kernel, and wait until its port is free. May be called twice, and after its end."""
        if not self._end.over.done():
            self._detaching = True
            try:
                self._vhci.detach(self.port)
                await asyncio.wait([self._end.over], timeout=FREE_SECONDS)
            except DeviceError as error:
                log.debug("port %d: %s", self.port, error)  # it ended this moment, or the module is unloaded
            self._end.close()
        await self.gone()

    def leave(self) -> None:
        """Watch it no longer. Attached directly, it stays with the kernel; through a relay, it ends."""
        self._end.close()

    async def wait_enumerated(self) -> None:
        """Wait until the kernel has read what the device is. Raises DeviceError."""
        row = self._row = await self._vhci.wait_enumerated(self.port)
        if self._relay is None:
            info, said = self.info, partial(self._vhci.attribute, row)
            info.manufacturer, info.product, info.serial = said("manufacturer"), said("product"), said("serial")

    def _relay_ended(self, over: asyncio.Future[None]) -> None:
        assert self._relay is not None
        self._note.close()
        self._relay.stop()

    def _why(self) -> Ended:
        """A connection that ends with its record was lost; who detaches by a tool, the usbip one too, removes that.

        Without a record, on a full disk, it counts as detached: nobody should have to fight a keeper for a port. Of a
        relay that comes second: a device that left its source was lost, whatever became of the record.
        """
        if self._relay is not None and self._relay.device.gone.done():
            return Ended(self._relay.device.gone.result(), False)
        if not self._has_record():
            return DETACHED
        if self._relay is not None or not self._server:
            return Ended("the kernel dropped it; `dmesg` may say why", False)
        return Ended(f"the connection to {self._server} was closed", False)

    def _has_record(self) -> bool:
        return bool(self._record) and self._vhci.has_record(self.port, self._record)


class _End:
    """Tells when a connection that the kernel holds has ended, by whomever; a second descriptor of it can see that.

    The readiness to read, which event loops watch, would wake this process for every byte of the kernel's.
    """

    def __init__(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = loop.create_future()
        self._connection = connection
        self._epoll = select.epoll()
        self._epoll.register(connection, select.EPOLLRDHUP)  # and, always, EPOLLHUP and EPOLLERR
        self._loop = loop
        loop.add_reader(self._epoll.fileno(), self.close)

    def close(self) -> None:
        """Give the descriptors back; `over` then is. May be called twice."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._connection.close()
        if not self.over.done():
            self.over.set_result(None)
