"""`usbredir://HOST[:PORT]` and `usbredir:///SOCKET-FILE`: the device that a usbredir server has, such as usbredirect.

A server has one device, and many end with their connection. So the one that finds the device is kept, and opening the
device takes it.
"""

from __future__ import annotations

from typing import Final

from ..device import Busy, Claimant, Device, DeviceError, Source
from ..protocols.events import Claimed, Listed
from ..registry import PROTOCOLS, load_importer
from ..transports.place import parse
from ..transports.reasons import reason
from ..usb.info import DeviceInfo
from .connection import Connection
from .remote import CONNECT_SECONDS, RemoteDevice

DEVICE_SECONDS: Final = 10.0  # for the server to say which device it has


class RedirSource(Source):
    """The one device at the other end of a stream. Raises ValueError for an address that is none."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._scheme = address.partition(":")[0]
        self._place = parse(address, PROTOCOLS[self._scheme].port)
        if self._place.name or not (self._place.host or self._place.path):
            raise ValueError(f"{address!r} is no address, write it as {self._scheme}://HOST[:PORT] without a device")
        self._kept: Connection | None = None
        self._opened: Connection | None = None

    async def list(self) -> list[DeviceInfo]:
        """Raises DeviceError when there is no server, or it has no device now."""
        if self._opened is not None and self._opened.over is None:
            raise Busy(f"the device of {self._place} is in use here")
        connection = await self._connection()
        try:
            answer: Listed = await connection.ask(connection.importer.list_devices, seconds=DEVICE_SECONDS)
        except BaseException:
            await connection.close()
            raise
        self._kept = connection
        return answer.devices

    async def read(self, info: DeviceInfo) -> DeviceInfo:
        if info.configurations:
            return info
        device = await self.open(info.name, Claimant("local"))
        await device.close()
        return device.info

    def at(self, name: str) -> str:
        return self.address  # there is no other

    async def open(self, name: str, claimant: Claimant) -> Device:
        """The device is the only one, whatever its name."""
        connection = await self._connection()
        try:
            answer: Claimed = await connection.ask(connection.importer.claim, name, seconds=DEVICE_SECONDS)
            device = RemoteDevice(connection, answer.info)
            await device.prepare()
        except BaseException:
            await connection.close()
            raise
        connection.in_use = True
        self._opened = connection
        return device

    async def close(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.close()

    async def _connection(self) -> Connection:
        """The one that is kept, while it lives, or a new one."""
        kept, self._kept = self._kept, None
        if kept is not None and kept.over is None:
            return kept
        connection = Connection(load_importer(self._scheme)(), str(self._place))
        try:
            await self._place.connect(connection, CONNECT_SECONDS)
        except TimeoutError:
            raise DeviceError(f"no connection to {self._place} within {CONNECT_SECONDS:g} s") from None
        except OSError as error:
            raise DeviceError(f"no connection to {self._place}: {reason(error)}") from error
        return connection
