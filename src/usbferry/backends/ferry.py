"""`ferry://HOST[:PORT][/DEVICE]`: a server whose devices outlive lost connections, and which tells of changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from weakref import WeakSet

from ..device import Change
from ..protocols.ferry.importer import Importer
from ..transports import tcp
from .connection import Connection
from .lasting import LastingConnection
from .news import News, NewsConnection
from .remote import RemoteSource

RECONNECT_SECONDS: Final = 2.0  # for one attempt of many


class FerrySource(RemoteSource):
    """What a server offers over ferry."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._news: WeakSet[News] = WeakSet()

    def watch(self) -> AsyncIterator[Change]:
        """Its first changes are all that there is; then what comes, goes and changes hands."""
        news = News(self._connect_for_news, self.selector.matches if self.selector.terms else lambda info: True)
        self._news.add(news)
        return news

    async def close(self) -> None:
        for news in tuple(self._news):
            await news.aclose()

    async def _connect(self) -> Connection:
        return await self._connected(LastingConnection(Importer(), self.where, self._connect_again))

    async def _connect_again(self, connection: Connection) -> None:
        await tcp.connect(self.host, self.port, connection, RECONNECT_SECONDS)

    async def _connect_for_news(self) -> NewsConnection:
        return await self._connected(NewsConnection(Importer(), self.where))
