"""A server in a thread of its own: the process under test is the client's side."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

from usbferry.backends.virtual import VirtualSource
from usbferry.registry import load_exporter, open_source
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving


class Served:
    """Serves what is at `addresses`, two zeros by default, until `stop`."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses or ("virtual:zero",) * 2
        self._started: Future[str] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self.address = self._started.result(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.catalog = Catalog()
        try:
            async with serving(self.catalog) as server:
                self.sources = [open_source(address) for address in self._addresses]
                for source in self.sources:
                    await server.offer(source)
                ((host, port),) = await server.listen("127.0.0.1", 0, load_exporter("usbip"))
                self._started.set_result(f"usbip://{host}:{port}")
                await self._stop.wait()
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            raise

    def device(self, place: int = 0) -> object:
        """A virtual device that it serves."""
        source = self.sources[place]
        assert isinstance(source, VirtualSource)
        return source.device

    def holders(self) -> list[bool]:
        return [offer.holder is not None for offer in self.catalog.list()]

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)
