"""Exporters that come by themselves: a place is listened at, and who connects there brings a device.

    nobody --connects--> silent --says what it has--> here --its connection ends, or its device leaves--> nobody

One device at a time. Who has brought none yet makes room for who comes after it; who comes while there is one is turned
away, and may try again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from ..device import Change, DeviceError
from ..protocols.events import Event, Listed, Refused
from ..protocols.openings import Stranger
from ..transports.link import Link
from ..transports.place import Listening, Place
from ..transports.refusals import Refusals
from ..usb.info import DeviceInfo
from .connection import Connection, Importer

log: Final = logging.getLogger(__name__)


class Visitor(Connection):
    """A connection that an exporter made. It is asked at once which device it has."""

    def __init__(self, importer: Importer, server: str, visitors: Visitors) -> None:
        super().__init__(importer, server)
        self.info: DeviceInfo | None = None  # of its device, once it said so
        self.in_use = True  # by who may wait for a device, and would not be told why there is none
        self._visitors = visitors
        self._peer = ""
        self.gone.add_done_callback(lambda gone: visitors.left(self))

    def opened(self, link: Link) -> None:
        super().opened(link)
        self.server = f"{self.server}, {link.peer}"
        self._peer = link.peer
        self._visitors.came(self)
        self.importer.list_devices()
        self._flush()

    def leave(self) -> None:
        """Close the connection. It is lost soon."""
        if self._link is not None:
            self._link.close()

    def lost(self, error: Exception | None) -> None:
        super().lost(error)
        self._visitors.lost(self)

    def _answered(self, event: Event) -> None:
        if isinstance(event, Listed) and (self._answer is None or self._answer.done()):
            [self.info] = event.devices
            self._visitors.brought(self)
        elif isinstance(event, Refused) and self.info is None:
            self._visitors.brings_none(self, event.text)
        else:
            super()._answered(event)

    def level(self, why: str) -> int:
        """At which is logged why it is not let in: who is turned away tries on."""
        return self._visitors.refusals.level(self._peer, why, self._loop.time())

    def _remedy(self, error: Stranger) -> str:
        return f"to this port come those who bring a device, by {self.importer.protocol}"

    def _successor(self) -> Connection:
        other = Visitor(self.importer, self.server, self._visitors)
        other.info, other._peer = self.info, self._peer
        self._visitors.took_over(self, other)
        return other


class Visitors:
    """Listens at a place from `listen` until `close`. `tell` hears of each device that comes and goes."""

    def __init__(self, place: Place, importer: Callable[[], Importer], tell: Callable[[Change], None]) -> None:
        self.place = place  # once it is listened at, with the port that it really has
        self.here: Visitor | None = None  # whose device is there
        self._importer = importer
        self._tell = tell
        self._connected: set[Visitor] = set()
        self._listening: Listening | None = None
        self._starting = asyncio.Lock()
        self._arrived = asyncio.Event()
        self.refusals = Refusals()

    async def listen(self) -> None:
        """Begin, if that was not done. Raises DeviceError when the place cannot be had."""
        async with self._starting:
            if self._listening is not None:
                return
            try:
                self._listening = await self.place.listen(self._visitor)
            except OSError as error:
                raise DeviceError(f"cannot listen on {self.place}: {self.place.no_listening(error)}") from error
            if not self.place.path:
                self.place = replace(self.place, port=self._listening.sockets[0].getsockname()[1])
            log.info("listening on %s for who brings a device", self.place)

    async def wait(self, seconds: float) -> bool:
        """Until there is a device; False when there is none in that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.here is None:
                    await self._arrived.wait()
        return self.here is not None

    async def close(self) -> None:
        """Listen no more, and close every connection."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for visitor in tuple(self._connected):
            await visitor.close()

    @property
    def is_silent(self) -> bool:
        """Whether somebody is connected who says of no device."""
        return self.here is None and bool(self._connected)

    # -- what the visitors tell ---------------------------------------------------------------------------------------

    def _visitor(self) -> Visitor:
        return Visitor(self._importer(), str(self.place), self)

    def came(self, visitor: Visitor) -> None:
        """One more connection: it is let in, or leaves at once."""
        if self.here is not None or self._listening is None:
            level = visitor.level(f"not beside {self.here.server if self.here is not None else ''}")
            log.log(level, "%s: turned away, another one's device is there", visitor.server)
            visitor.leave()
            return
        for other in self._connected:
            log.info("%s: closed, it has brought no device and another one came", other.server)
            other.leave()
        self._connected.add(visitor)

    def brought(self, visitor: Visitor) -> None:
        """It has a device."""
        assert visitor.info is not None
        if self.here is None and visitor in self._connected:
            log.info("%s: it brings %s", visitor.server, visitor.info)
            self.here = visitor
            self._arrived.set()
            self._tell(Change(visitor.info.name, visitor.info))

    def brings_none(self, visitor: Visitor, why: str) -> None:
        """It will not: it came for one."""
        log.log(visitor.level(why), "%s: turned away, %s; usbferry serve ADDRESS --on is for it", visitor.server, why)
        visitor.leave()

    def took_over(self, visitor: Visitor, other: Visitor) -> None:
        """The same exporter and the same device, for its next user."""
        self._connected.discard(visitor)
        self._connected.add(other)
        if self.here is visitor:
            self.here = other

    def left(self, visitor: Visitor) -> None:
        """Its device left, or it is lost. Its next device comes by a new connection."""
        if self.here is visitor:
            assert visitor.info is not None
            log.info("%s: its device is gone: %s", visitor.server, visitor.reason)
            self.here = None
            self._arrived.clear()
            self._tell(Change(visitor.info.name, None))
        visitor.leave()

    def lost(self, visitor: Visitor) -> None:
        """Its connection is closed."""
        self._connected.discard(visitor)
        self.left(visitor)
