"""`ferry://HOST[:PORT][/DEVICE]`: a server whose devices outlive lost connections, and which tells of changes.

`ferry+udp://HOST`, `ferry:///SOCKET-FILE?device=DEVICE` and `ferry+seqpacket:///SOCKET-FILE` lead there by other ways.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import quote
from weakref import WeakSet

from ..device import Busy, Change, Claimant, Device, DeviceError
from ..protocols.ferry.importer import Importer
from ..registry import PROTOCOLS
from ..transports.place import check_peer, parse, split
from .buffered import MAX_SECONDS
from .connection import Connection
from .doubts import Silent
from .elsewhere import Elsewhere
from .lasting import LastingConnection
from .news import News, NewsConnection
from .options import no_others, without_buffer
from .remote import RemoteSource, listing

RECONNECT_SECONDS: Final = 2.0  # for one attempt of many


class FerrySource(RemoteSource):
    """What a server offers over ferry. Raises ValueError for bad addresses."""

    def __init__(self, address: str) -> None:
        self.address = address
        form = f"{address.partition(':')[0]}://HOST[:PORT][/DEVICE]"
        bare, self.buffer = without_buffer(address, MAX_SECONDS)
        no_others(address, bare, form, *(["device"] if ":///" in bare else []))
        parts, port = split(bare, form)
        check_peer(address, form, port)
        self._place = place = parse(bare, PROTOCOLS["ferry"].port)
        if not (place.host or place.path):
            raise ValueError(f"{address!r} is no address, write it as {form}")
        self.scheme, self.host, self.port = "ferry", place.host, place.port
        self._select(parts.query.removeprefix("device=") if place.path else parts.path.strip("/"))
        self.elsewhere = Elsewhere(address, port, listing)
        self._news: WeakSet[News] = WeakSet()

    @property
    def where(self) -> str:
        return str(self._place)

    @property
    def place(self) -> str:
        return f"{self._prefix}://{quote(self._place.path)}" if self._place.path else super().place

    @property
    def _prefix(self) -> str:
        return self._place.scheme("ferry")

    def at(self, name: str) -> str:
        return f"{self.place}?device={quote(name)}" if self._place.path else super().at(name)

    def watch(self) -> AsyncIterator[Change]:
        """Its first changes are all that there is; then what comes, goes and changes hands."""
        news = News(self._connect_for_news, self.selector.matches if self.selector.terms else lambda info: True)
        self._news.add(news)
        return news

    async def close(self) -> None:
        for news in tuple(self._news):
            await news.aclose()

    def _importer(self) -> Importer:
        return Importer(resends=self._place.transport == "udp")

    async def _to(self, connection: Connection, seconds: float) -> None:
        await self._place.connect(connection, seconds)

    def _why(self, error: OSError) -> str:
        return self._place.no_connection(error, "ferry")

    async def open(self, name: str, claimant: Claimant) -> Device:
        try:
            return await super().open(name, claimant)
        except Busy as error:
            raise await self._with_holder(error, name) from None

    async def _with_holder(self, error: Busy, name: str) -> Busy:
        """An error over a device that is in use, with who that is: the list says so."""
        try:
            holder = next((info.holder for info in await self._listed() if info.name == name), "")
        except DeviceError:
            return error
        return Busy(f"{error}, {holder}") if holder else error

    async def doubt(self) -> None:
        await self._doubt_silence()
        await super().doubt()

    async def _doubt_silence(self) -> None:
        """A packet that is lost says nothing of it; where streams are answered, the server is told by them."""
        if self._place.transport == "udp" and (found := await self.elsewhere.find()):
            raise Silent(f"{self.where} says nothing by UDP; write {found}, which answers")

    async def _connect(self) -> Connection:
        return await self._connected(LastingConnection(self._importer(), self.where, self._connect_again))

    async def _connect_again(self, connection: Connection) -> None:
        await self._to(connection, RECONNECT_SECONDS)

    async def _connect_for_news(self) -> NewsConnection:
        return await self._connected(NewsConnection(self._importer(), self.where))
