"""Servers behind each other: what one offers over a protocol, the next passes on over another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from tempfile import TemporaryDirectory

from usbferry.device import Source
from usbferry.registry import PROTOCOLS, TRANSPORTS, load_exporter, open_source
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving
from usbferry.transports.place import parse


@asynccontextmanager
async def chained(source: Source, way: str) -> AsyncIterator[Source]:
    """What is at the near end of `way`, as "usbip>ferry+udp": over USB/IP first, from there over UDP.

    The last source is left to the caller to close.
    """
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(TemporaryDirectory())
        for number, hop in enumerate(way.split(">") if way else ()):
            server = await stack.enter_async_context(serving(Catalog()))
            await server.offer(source)
            protocol, _, transport = hop.partition("+")
            at_file = transport in TRANSPORTS and TRANSPORTS[transport].at_files
            asked = f"{hop}://{directory}/{number}" if at_file else f"{hop}://127.0.0.1:0"
            [there] = await server.listen_at(parse(asked, 0), load_exporter(protocol))
            named = there.naming("1-1") if PROTOCOLS[protocol].chooses else there
            source = open_source(f"{hop}://{named.whole}")
        yield source
