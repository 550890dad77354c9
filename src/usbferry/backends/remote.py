"""Devices that a server offers: `usbip://HOST[:PORT]` is a Source, each device of it an importer on a connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar
from urllib.parse import quote

from ..device import Busy, Claimant, Device, DeviceError, NotFound, Source
from ..protocols.events import Claimed, Listed
from ..registry import PROTOCOLS, load_importer, open_source
from ..selector import Selector, described, listed, select
from ..transports import tcp
from ..transports.place import check_peer, split
from ..transports.reasons import reason, with_listening
from ..usb.info import DeviceInfo
from .buffered import MAX_SECONDS, Buffered
from .connection import Connection
from .doubts import Doubt, Silent, connecting
from .elsewhere import Elsewhere
from .imported import RemoteDevice
from .options import no_others, without_buffer

log: Final = logging.getLogger(__name__)
CONNECT_SECONDS: Final = 10.0
LIST_SECONDS: Final = 5.0  # a list takes no server longer than a moment
CLAIM_SECONDS: Final = 30.0  # usbipd-win restarts a driver over it
BUSY_RETRIES: Final = 5  # a server that resets the device after its last user says busy for a moment
BUSY_SECONDS: Final = 0.2  # before the first retry, doubled each time
BUSY_PATIENCE: Final = BUSY_SECONDS * (2**BUSY_RETRIES - 1)  # of all pauses together

C = TypeVar("C", bound=Connection)
T = TypeVar("T")


class RemoteSource(Source):
    """`SCHEME://HOST[:PORT][/DEVICE]`: what a server of that protocol offers; DEVICE is a bus id, or any selector.

    `?buffer=SECONDS` behind it has isochronous streams run ahead of their user by as much, see `ahead`.

    Raises ValueError for bad addresses.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        form = f"{address.partition(':')[0]}://HOST[:PORT][/DEVICE]"
        bare, self.buffer = without_buffer(address, MAX_SECONDS)
        no_others(address, bare, form)
        parts, port = split(bare, form)
        if not parts.hostname or parts.query or parts.fragment or parts.username is not None:
            raise ValueError(f"{address!r} is no address, write it as {form}")
        check_peer(address, form, port)
        self.scheme = parts.scheme.partition("+")[0]
        self.host = parts.hostname
        self.port = port or PROTOCOLS[self.scheme].port
        self._select(parts.path.strip("/"))
        self.elsewhere = Elsewhere(address, parts.port, listing)

    def _select(self, device: str) -> None:
        """Which devices are meant. Raises ValueError."""
        try:
            selector = Selector.parse(device)
        except ValueError as error:
            raise ValueError(f"{self.address!r}: {error}") from None
        self.selector: Selector = selector
        self.name = selector.name if selector.is_name else ""

    @property
    def where(self) -> str:
        """The server's name in messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def list(self) -> list[DeviceInfo]:
        """Raises NotFound when the address names or describes a device that is not there."""
        async with self.elsewhere.told():
            devices = await self._listed(self._doubt_silence)
        found, unread = await select(self, self.selector, devices)
        if self.selector.terms and not found:
            unknown = f"; not asked: {', '.join(map(str, unread))}" if unread else ""
            there = listed(devices, "none that is free")
            raise NotFound(f"{self.where} lists no device {str(self.selector)!r}; it has: {there}{unknown}")
        return found

    async def _listed(self, doubt: Doubt | None = None) -> Sequence[DeviceInfo]:
        """All that the server lists."""
        connection = await self._connect()
        try:
            answer: Listed = await connection.ask(connection.importer.list_devices, seconds=LIST_SECONDS, doubt=doubt)
        finally:
            await connection.close()
        return answer.devices

    async def doubt(self) -> None:
        """Raise DeviceError if this is no server: one that is silent over a claim.

        An import may take long, a list takes none of them long. Only one that is silent over both is given up, for some
        have a single connection and refuse a second one.
        """
        try:
            await self._listed()
        except Silent:
            raise
        except DeviceError as error:
            log.debug("%s is silent, and does not list: %s", self.where, error)

    async def _doubt_silence(self) -> None:
        """Raise DeviceError if it is known where else the server is that says nothing here."""

    async def with_others(self, error: NotFound) -> NotFound:
        """An error over a device that the server does not have, with what it has."""
        try:
            return NotFound(f"{error}; it has: {listed(await self._listed(), 'none that is free')}")
        except DeviceError:
            return error

    async def read(self, info: DeviceInfo) -> DeviceInfo:
        """By an import that ends at once. The server takes the device from its own driver for it, and resets it."""
        if info.configurations:
            return info
        device = await self._open(info.name)
        await device.close()
        return device.info

    def at(self, name: str) -> str:
        return f"{self.place}/{quote(name)}"

    @property
    def place(self) -> str:
        """The same for the same server, whether its port was said or left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_usual = self.port == PROTOCOLS[self.scheme].port
        return f"{self._prefix}://{host if is_usual else self.where}"

    @property
    def _prefix(self) -> str:
        """What stands before the colon of its addresses."""
        return self.scheme

    async def open(self, name: str, claimant: Claimant) -> Device:
        async with self.elsewhere.told():
            device = await self.patiently(lambda: self._open(name))
        if self.selector.terms and not self.selector.is_name and not self.selector.matches(device.info):
            await device.close()
            raise NotFound(f"{self.where}: {described(device.info)} is no longer {self.selector}")
        return self._buffered(device)

    def _buffered(self, device: Device) -> Device:
        return Buffered(device, self.buffer) if self.buffer else device

    async def patiently(self, claim: Callable[[], Awaitable[T]]) -> T:
        """What `claim` gives; while that is Busy, it is tried again for as long as a server takes to reset a device.

        A server that waited for as long itself, as a gateway does, is believed at once.
        """
        wait, loop = BUSY_SECONDS, asyncio.get_running_loop()
        until = loop.time() + BUSY_PATIENCE
        for attempt in range(BUSY_RETRIES):
            try:
                return await claim()
            except Busy as error:
                if loop.time() >= until:
                    raise
                if not attempt:
                    log.info("%s; trying again for %g s", error, BUSY_PATIENCE)
                await asyncio.sleep(wait)
                wait *= 2
        return await claim()

    async def try_open(self, name: str, claimant: Claimant) -> Device:
        return self._buffered(await self._open(name))

    async def _open(self, name: str) -> RemoteDevice:
        connection = await self._connect()
        try:
            question = connection.importer.claim
            answer: Claimed = await connection.ask(question, name, seconds=CLAIM_SECONDS, doubt=self.doubt)
            device = RemoteDevice(connection, answer.info)
            await device.prepare()
        except ValueError as error:
            await connection.close()
            raise NotFound(f"{self.where}: {error}") from error
        except NotFound as error:
            await connection.close()
            raise await self.with_others(error) from None
        except BaseException:
            await connection.close()
            raise
        connection.in_use = True
        return device

    async def _connect(self) -> Connection:
        return await self._connected(Connection(load_importer(self.scheme)(), self.where))

    async def _to(self, connection: Connection, seconds: float) -> None:
        """One attempt. Raises OSError or TimeoutError."""
        await tcp.connect(self.host, self.port, connection, seconds)

    async def _connected(self, connection: C) -> C:
        """A connection, once it is one. Raises DeviceError."""
        with connecting(self.where, CONNECT_SECONDS, self._why):
            await self._to(connection, CONNECT_SECONDS)
        return connection

    def _why(self, error: OSError) -> str:
        """Why there is no connection, for people."""
        return with_listening(reason(error), error, self.host, f"--listen :{self.port}")


async def listing(address: str) -> Sequence[DeviceInfo]:
    """All that the server at an address lists, whatever device is named there. Raises DeviceError."""
    source = open_source(address)
    assert isinstance(source, RemoteSource)
    return await source._listed()
