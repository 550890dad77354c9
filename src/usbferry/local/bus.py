"""The devices at some addresses as one bus: seen without being taken, and imported once for all who open them here.

    addresses --list--> Port ----look----> its descriptors, kept for as long as the list says the same of it
                        Port <--acquire--- an open device: the first one imports, the next ones share
                        Port <--release--- the last one gives it back

Everything here runs in the loop of `sync`, so nothing is locked but what waits for the network.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from .. import aio
from ..device import Busy, Claimant, DeviceError, NotFound, Source
from ..registry import open_source
from ..usb.info import DeviceInfo
from . import sync

log: Final = logging.getLogger(__name__)
LINGER_SECONDS: Final = 1.0  # an import made for its descriptors alone: who finds a device mostly opens it next
_LOOKS: Final = 8  # devices of which the descriptors are read at the same time
_BUS_ID: Final = re.compile(r"\d+-(\d+(?:\.\d+)*)")
_ADDRESSES: Final = 256  # on one bus: its byte


class Import:
    """A device that this process holds, and how many have it open."""

    def __init__(self, handle: sync.Handle) -> None:
        self.handle = handle
        self.users = 0
        self.claims: dict[int, object] = {}  # interface -> who of them has claimed it


class Port:
    """A device of the bus, for as long as its source says the same of it; another one in its place is another Port."""

    def __init__(self, source: Source, told: DeviceInfo, bus: int, address: int) -> None:
        self.source = source
        self.name = told.name
        self.info = replace(told)  # as the list has it, until it was read from the device
        self.bus = bus
        self.address = address
        self.numbers = _port_numbers(told.name) or (address,)
        self.is_current = True
        self._told = _identity(told)
        self._trouble = ""  # what was said of it last
        self._import: Import | None = None
        self._lock = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None

    @property
    def is_known(self) -> bool:
        """Whether its descriptors were read."""
        return bool(self.info.configurations)

    @property
    def is_held(self) -> bool:
        """Whether it is imported by this process, and there."""
        return self._import is not None and not self._import.handle.is_gone

    def is_still(self, told: DeviceInfo) -> bool:
        """Whether a list means this very device. While it is held here, its settings may be whatever was set."""
        told_now = _identity(told)
        return self.is_current and (told_now == self._told or (self.is_held and told_now[:-1] == self._told[:-1]))

    async def look(self) -> None:
        """Read its descriptors, if nobody has it: else only what the list says is known."""
        try:
            async with self._lock:
                await self._imported(patient=False)
                self._start_idling()
        except Busy as error:
            log.info("%s", error)
        except DeviceError as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                log.warning("usbferry: %s", error)

    async def acquire(self) -> Import:
        """One user more. Raises NotFound when it is gone or another device is in its place, Busy, or DeviceError."""
        async with self._lock:
            held = await self._imported(patient=True)
            self._stop_idling()
            held.users += 1
            return held

    async def release(self, held: Import) -> None:
        """One user less; with the last one the device is given back."""
        async with self._lock:
            held.users -= 1
            if not held.users:
                await self._give_back(held)

    async def close(self) -> None:
        """Give it back, whoever has it."""
        async with self._lock:
            if self._import is not None:
                await self._give_back(self._import)

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _imported(self, *, patient: bool) -> Import:
        if self._import is not None and self._import.handle.is_gone:
            await self._give_back(self._import)
        if not self.is_current:
            raise self._is_another()
        if self._import is None:
            opens = self.source.open if patient else self.source.try_open
            device = await opens(self.name, Claimant("local"))
            held = self._import = Import(sync.Handle(aio.Handle(device, None)))
            if self.is_known and not _is_same(self.info, device.info):
                self.is_current = False
                await self._give_back(held)
                raise self._is_another()
            self.info = replace(device.info)
        return self._import

    def _is_another(self) -> NotFound:
        return NotFound(f"{self.name} at {self.source.address} left, or is another device now")

    async def _give_back(self, held: Import) -> None:
        self._stop_idling()
        if self._import is held:
            self._import = None
        try:
            await sync.close(held.handle)
        except Exception:
            log.exception("%s at %s could not be closed", self.name, self.source.address)

    def _start_idling(self) -> None:
        if self._import is not None and not self._import.users and self._idle is None:
            self._idle = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._idled)

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _idled(self) -> None:
        self._idle = None
        if self._import is not None:
            sync.start(self._close_idle(self._import))

    async def _close_idle(self, held: Import) -> None:
        async with self._lock:
            if not held.users:
                await self._give_back(held)


class Bus:
    """What is at some addresses. Raises ValueError for an address that makes no sense."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self._sources = [open_source(address) for address in addresses]
        if not self._sources:
            raise ValueError("which devices? Give an address, such as usbip://host")
        self._ports: list[Port] = []
        self._buses: dict[tuple[Source, int], int] = {}  # a server's bus -> its number here
        self._used: set[tuple[int, int]] = set()  # buses and addresses
        self._troubles: dict[Source, str] = {}  # what was said of a source last
        self._asked: set[Source] = set()  # those that were waited for, if they are to be
        self._listing = asyncio.Lock()
        self._looking = asyncio.Semaphore(_LOOKS)

    async def ports(self) -> list[Port]:
        """The devices there now, held or not, source by source. A source that cannot be read has none, and says why."""
        async with self._listing:
            there = await self._read()
            await asyncio.gather(*[self._look(port) for port in there if not port.is_known])
            return there

    async def close(self) -> None:
        """Give every device back, and end the virtual ones."""
        for port in self._ports:
            await port.close()
        for source in self._sources:
            await source.close()

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _read(self) -> list[Port]:
        lists = await asyncio.gather(*map(self._list, self._sources))
        there = [
            port for source, infos in zip(self._sources, lists, strict=True) for port in self._ports_of(source, infos)
        ]
        for port in self._ports:
            if port not in there:
                port.is_current = False
        self._ports = there
        return there

    async def _list(self, source: Source) -> list[DeviceInfo]:
        asked, self._asked = self._asked, self._asked | {source}
        try:
            infos = await (source.list() if source in asked else source.find())
        except DeviceError as error:
            if isinstance(error, NotFound) and any(port.is_held for port in self._ports if port.source is source):
                return []  # what is meant is held here, and a server does not tell of that
            if self._troubles.get(source) != str(error):
                self._troubles[source] = str(error)
                log.warning("usbferry: %s", error)
            return []
        self._troubles.pop(source, None)
        return infos

    def _ports_of(self, source: Source, infos: list[DeviceInfo]) -> Iterator[Port]:
        """Some servers do not list a device that is in use, not even to who uses it."""
        mine = {port.name: port for port in self._ports if port.source is source}
        for info in infos:
            port = mine.pop(info.name, None)
            yield port if port is not None and port.is_still(info) else self._port(source, info)
        yield from (port for port in mine.values() if port.is_held)

    def _port(self, source: Source, info: DeviceInfo) -> Port:
        bus = self._bus_number(source, info.bus)
        return Port(source, info, bus, self._free_address(bus, info.address))

    def _bus_number(self, source: Source, wanted: int) -> int:
        """The server's own number for it, or the next that no other server's bus has."""
        number = self._buses.get((source, wanted))
        if number is None:
            taken = set(self._buses.values())
            number = next(n for n in itertools.count(wanted) if n not in taken)
            self._buses[source, wanted] = number
        return number

    def _free_address(self, bus: int, wanted: int) -> int:
        """The server's own number, or the next that no device has had: as in kernels, who comes back has another one,
        by which programs tell it from what they knew."""
        others = itertools.chain(range(wanted, _ADDRESSES), range(1, _ADDRESSES))
        here = {port.address for port in self._ports if port.bus == bus}
        fresh = (address for address in others if (bus, address) not in self._used)
        address = next(fresh, None) or next(a for a in itertools.count(1) if a not in here)
        self._used.add((bus, address))
        return address

    async def _look(self, port: Port) -> None:
        async with self._looking:
            await port.look()


def _identity(info: DeviceInfo) -> tuple[Any, ...]:
    """What a list says of a device as long as it is the same one. Its classes, the last, may change with settings."""
    d = info.device
    kind = (d.vendor_id, d.product_id, d.release, d.device_class, d.device_subclass, d.device_protocol)
    return (*kind, d.configurations, info.speed, info.bus, info.address, info.classes)


def _is_same(one: DeviceInfo, other: DeviceInfo) -> bool:
    return one.device == other.device and one.configurations == other.configurations


def _port_numbers(name: str) -> tuple[int, ...]:
    """The ports on the way to it, as its bus id "1-2.3" has them."""
    found = _BUS_ID.fullmatch(name)
    return tuple(int(number) for number in found[1].split(".")) if found else ()
