"""What is offered and who holds it: sources in, bus ids out, one importer per device."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from ..backends.buffered import Buffered
from ..device import Busy, Change, Claimant, Device, DeviceError, NotFound, Source, Unavailable
from ..registry import PROTOCOLS
from ..transports.refusals import Refusals
from ..usb.info import DeviceInfo

log: Final = logging.getLogger(__name__)
_PORTS: Final = 127  # devices on one USB bus, and so per bus number here


@dataclass(slots=True)
class Offer:
    """One device of the catalog under its public name."""

    info: DeviceInfo  # as it is offered: name, bus and address are the catalog's
    source: Source
    source_name: str  # its name there
    holder: Claimant | None = None
    device: Device | None = None  # while it is held

    def current(self) -> DeviceInfo:
        """The offer as it is now: an open device knows its descriptors and its settings, a remote list does not."""
        info, holder = self.info, self.holder.address if self.holder is not None else self.info.holder
        if self.device is None:
            return replace(info, holder=holder)
        now = replace(self.device.info, name=info.name, bus=info.bus, address=info.address, path=info.path)
        return replace(now, alternates=dict(now.alternates), holder=holder)


class Catalog:
    """Every device that this process offers. Names are bus ids, "1-1" and on, stable for the same sources."""

    def __init__(self, buffer: float = 0.0) -> None:
        """`buffer` is seconds of isochronous packets for devices that do not wait, see `backends.ahead`."""
        self._buffer = buffer
        self._offers: dict[str, Offer] = {}
        self._names: dict[tuple[Source, str], str] = {}  # for good: who comes back is called as before
        self._taken: set[str] = set()
        self._next = 0  # where the search for a free name goes on
        self._sources: list[Source] = []
        self._changes: dict[Source, AsyncIterator[Change]] = {}  # of sources that nobody follows yet
        self.draining = False  # no new claims
        self.refusals = Refusals()
        self._watchers: list[Callable[[], None]] = []

    async def add(self, source: Source) -> list[Offer]:
        """Offer every device of `source`. Raises DeviceError when the source cannot be read.

        It is watched from before it is listed, so that `follow` misses nothing.
        """
        self._sources.append(source)
        self._changes[source] = source.watch()
        found = await source.list()
        if source.name and found and (reason := source.why_not_offered(found[0])):
            raise DeviceError(f"{source.address} {reason}; --force shares it all the same")
        return [self._offer(source, info) for info in found if self._is_offered(source, info)]

    def _is_offered(self, source: Source, info: DeviceInfo) -> bool:
        """Whether nothing speaks against it; what does is said."""
        reason = source.why_not_offered(info)
        if reason is not None:
            log.warning("%s is left out, it %s; --force shares it all the same", info, reason)
        return reason is None

    async def follow(self, source: Source) -> None:
        """Offer what appeared at `source` since it was added and withdraw what left, while the source tells."""
        async for change in self._changes.pop(source, None) or source.watch():
            if change.info is not None:
                if self._is_offered(source, change.info):
                    self._offer(source, change.info)
            else:
                self._offers.pop(self._names.get((source, change.name), ""), None)
                self._tell()

    def _name(self, source: Source, source_name: str) -> str:
        """The public name of a source's device: the one it had before, or the next free one."""
        name = self._names.get((source, source_name))
        if name is None:
            is_free = source.has_bus_ids and source_name not in self._taken
            name = self._names[source, source_name] = source_name if is_free else self._free_name()
            self._taken.add(name)
        return name

    def _free_name(self) -> str:
        while (name := f"{self._next // _PORTS + 1}-{self._next % _PORTS + 1}") in self._taken:
            self._next += 1
        if self._next >= 255 * _PORTS:
            raise DeviceError(f"{self._next} devices are offered already, the bus numbers end here")
        return name

    def _offer(self, source: Source, info: DeviceInfo) -> Offer:
        name = self._name(source, info.name)
        bus, address = info.bus, info.address
        if not (source.has_bus_ids and name == info.name):
            bus, address = (int(number) for number in name.split("-"))
            address += 1  # 1 is a bus's own hub
        public = replace(info, name=name, bus=bus, address=address, path=info.path or f"/usbferry/{name}")
        offer = self._offers.get(name)
        if offer is None:
            offer = self._offers[name] = Offer(public, source, info.name)
        else:
            offer.info = public  # the same device, told once more: who holds it keeps it
        self._tell()
        return offer

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Call `watcher` whenever an offer or its holder changes; what this returns ends that."""
        self._watchers.append(watcher)

        def unwatch() -> None:
            with suppress(ValueError):
                self._watchers.remove(watcher)

        return unwatch

    def _tell(self) -> None:
        for watcher in tuple(self._watchers):
            watcher()

    def list(self) -> list[Offer]:
        """Every offer, held ones too, in the order they were added."""
        return list(self._offers.values())

    async def claim(self, name: str, claimant: Claimant) -> tuple[Offer, Device]:
        """Open the device `name` for one claimant; "" is the only one there is.

        Raises NotFound, Busy, or DeviceError.
        """
        offer = self._offers.get(name or self._only())
        if offer is None:
            raise NotFound(f"no device {name!r} here" if name else "no device here")
        name = offer.info.name
        if offer.holder is not None:
            raise Busy(f"{name} is in use by {offer.holder.address}", offer.holder)
        if self.draining:
            raise Unavailable("the server is closing")
        offer.holder = claimant
        try:
            offer.device = self._buffered(await offer.source.open(offer.source_name, claimant), claimant)
        except BaseException:
            offer.holder = None
            raise
        self._tell()
        return offer, offer.device

    def _buffered(self, device: Device, claimant: Claimant) -> Device:
        protocol = PROTOCOLS.get(claimant.protocol)
        if protocol is None or protocol.has_streams or self._buffer <= device.patience:
            return device
        return Buffered(device, self._buffer)

    def _only(self) -> str:
        if len(self._offers) > 1:
            raise NotFound(f"there are {len(self._offers)} devices here, and none was named")
        return next(iter(self._offers), "")

    async def release(self, offer: Offer) -> None:
        """Take a device back. It stays busy until it is closed and reset."""
        device = offer.device
        try:
            if device is not None:
                await device.close()
        finally:
            offer.device = offer.holder = None
            self._tell()

    async def close(self) -> None:
        """Close every source, whatever becomes of the others."""
        for source in self._sources:
            try:
                await source.close()
            except Exception:
                log.exception("%s could not be closed", source.address)
