"""A server: a listening address, a catalog, and the pumps of those who came. Owns every task it starts."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from math import inf
from typing import Any, Final, Protocol

from ..device import Source
from ..devices.clock import LoopClock
from ..protocols.limits import DEFAULT_LIMITS, Limits
from ..transports import tcp
from ..transports.link import Link, StreamLink
from ..transports.place import Listening, Place
from .answers import Exporter, OnPackets
from .catalog import Catalog, Offer
from .pump import Pump

log: Final = logging.getLogger(__name__)
MAX_CONNECTIONS: Final = 4096
DRAIN_SECONDS: Final = 10.0  # for importers to be closed cleanly
RETRY_SECONDS: Final = 0.5  # before a lost connection is made again; each failure doubles it, up to
MAX_RETRY_SECONDS: Final = 8.0
# Who says nothing for so long is connected to anew: a QEMU whose machine was restored takes the connection for that of
# its state, and a new one for what it is. The next one waits twice as long: that machine may be paused.
SILENT_SECONDS: Final = 10.0
BRIEF_SECONDS: Final = 1.0  # a connection that was closed sooner was not wanted, and is such a failure too
ABORT_SECONDS: Final = 1.0  # more, once the connections of those that were not are cut


class MakeExporter(Protocol):
    """The class of a protocol's exporter, which may be OnPackets, or what calls it."""

    def __call__(self, limits: Limits, now: float, /) -> Exporter: ...


class _Refused:
    """The user of a connection that is not served: closed at once."""

    needed = 1

    def __init__(self, reason: str, level: int = logging.WARNING) -> None:
        self._reason = reason
        self._level = level

    def opened(self, link: Link) -> None:
        log.log(self._level, "%s turned away: %s", link.peer, self._reason)
        link.abort()

    def received(self, view: memoryview) -> int:
        return len(view)

    def lost(self, error: Exception | None) -> None:
        pass


class Server:
    """Serves one catalog on any number of addresses. Made by `serving`."""

    def __init__(
        self, catalog: Catalog, tasks: asyncio.TaskGroup, limits: Limits, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        self.catalog = catalog
        self.pumps: set[Pump] = set()
        self._tasks = tasks
        self._limits = limits
        self._max_connections = max_connections
        self._listening: list[Listening] = []
        self._following: list[asyncio.Task[None]] = []
        self._is_full = False  # which was said; and again when there was room meanwhile
        self._working: set[asyncio.Task[None]] = set()  # claims and releases
        self._sessions: dict[bytes, Pump] = {}
        self._clock = LoopClock(inf)  # no connection has a timer in the loop, while it waits
        self._empty = asyncio.Event()  # no pump is left
        self._empty.set()

    async def offer(self, source: Source) -> list[Offer]:
        """Offer a source's devices, those that appear later too. Raises DeviceError when it cannot be read."""
        offers = await self.catalog.add(source)
        self._following.append(self._start(self.catalog.follow(source)))
        return offers

    async def listen(self, host: str, port: int, exporter: MakeExporter) -> list[tuple[str, int]]:
        """Serve a protocol on an address; the addresses it really has (port 0 asks for a free one).

        Raises OSError when the address cannot be had.
        """
        listening = await tcp.listen(host, port, lambda: self._user(exporter))
        self._listening.append(listening)
        return [sock.getsockname()[:2] for sock in listening.sockets]

    async def adopt(self, sock: socket.socket, exporter: MakeExporter) -> None:
        """Serve a protocol on a stream socket that is connected, such as one of a pair. It is the server's then."""
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: StreamLink(self._user(exporter)), sock)

    async def listen_at(self, place: Place, exporter: MakeExporter) -> list[Place]:
        """Serve a protocol at a place; the places it really has. Raises OSError when it cannot be had."""
        opens = exporter.opens if isinstance(exporter, OnPackets) else bool
        listening = await place.listen(lambda: self._user(exporter), opens)
        self._listening.append(listening)
        if place.path:
            return [place]
        names = [sock.getsockname() for sock in listening.sockets]
        return [replace(place, host=name[0], port=name[1]) for name in names]

    def connect_to(self, place: Place, exporter: MakeExporter) -> None:
        """Serve a protocol to whoever listens at a place: connect, and again when the connection is lost."""
        self._following.append(self._start(self._keep_connected(place, exporter)))

    async def _keep_connected(self, place: Place, exporter: MakeExporter) -> None:
        wait, patience = RETRY_SECONDS, SILENT_SECONDS
        while True:
            trouble, was_silent = await self._connect_once(place, exporter, patience)
            patience = 2 * patience if was_silent else SILENT_SECONDS
            if not trouble:
                wait = RETRY_SECONDS
            else:
                if wait == RETRY_SECONDS:
                    log.warning("%s", trouble)
                wait = min(2 * wait, MAX_RETRY_SECONDS)
            await asyncio.sleep(wait)

    async def _connect_once(self, place: Place, exporter: MakeExporter, patience: float) -> tuple[str, bool]:
        """Serve one connection to its end, or until its peer was silent for `patience` seconds.

        What went wrong with it, for people, "" if nothing did; and whether its peer was silent.
        """
        ended = asyncio.Event()
        user = self._user(exporter, ended.set)
        try:
            await place.connect(user)
        except BaseException as error:
            if isinstance(user, Pump):
                self._ended(user)
            if not isinstance(error, OSError):  # TimeoutError is one
                raise
            return f"no connection to {place}, trying on: {place.reason(error)}", False
        log.info("connected to %s", place)
        loop = asyncio.get_running_loop()
        since = loop.time()
        was_silent = False
        if isinstance(user, Pump):
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await ended.wait()
            if user.is_unheard and not ended.is_set():
                log.info("%s has said nothing for %g s, connecting anew", place, patience)
                was_silent = True
                user.abort()
            await ended.wait()
        if was_silent or loop.time() >= since + BRIEF_SECONDS:
            return "", was_silent
        return f"the connection to {place} was closed at once, trying on; its log may say why", False

    def _user(self, exporter: MakeExporter, ended: Callable[[], object] = lambda: None) -> Pump | _Refused:
        if self.catalog.draining:
            return _Refused("the server is closing")
        if len(self.pumps) >= self._max_connections:
            level, self._is_full = logging.DEBUG if self._is_full else logging.WARNING, True
            return _Refused(f"{self._max_connections} connections are open", level)
        now = asyncio.get_running_loop().time()

        def over(pump: Pump) -> None:
            self._ended(pump)
            ended()

        pump = Pump(exporter(self._limits, now), self.catalog, self._sessions, self._spawn, over, clock=self._clock)
        self.pumps.add(pump)
        self._empty.clear()
        return pump

    def _ended(self, pump: Pump) -> None:
        self.pumps.discard(pump)
        self._is_full = False
        if not self.pumps:
            self._empty.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._tasks.create_task(_alone(work))
        task.add_done_callback(lambda task: work.close())  # one that was cancelled before it began was never awaited
        return task

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._start(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def drain(self) -> None:
        """No new imports; current ones are told, their devices reset and given back.

        What takes longer than DRAIN_SECONDS for that, such as a device that does not close, is given up.
        """
        self.catalog.draining = True
        for listening in self._listening:
            listening.close()
        for task in self._following:
            task.cancel()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                async with asyncio.TaskGroup() as group:
                    for pump in tuple(self.pumps):
                        group.create_task(_alone(pump.stop()))
                await self._empty.wait()
        except TimeoutError:
            log.warning("%d connections did not close in %g s", len(self.pumps), DRAIN_SECONDS)
            for pump in tuple(self.pumps):
                pump.abort()
            with suppress(TimeoutError):  # what they held is still given back, where it can be
                async with asyncio.timeout(ABORT_SECONDS):
                    await self._empty.wait()
        for task in tuple(self._working):
            task.cancel()
        self._clock.close()


async def _alone(work: Coroutine[Any, Any, None]) -> None:
    """What goes wrong with one connection or source is said, and ends no other."""
    try:
        await work
    except Exception:
        log.exception("unexpected")


@asynccontextmanager
async def serving(
    catalog: Catalog, limits: Limits = DEFAULT_LIMITS, max_connections: int = MAX_CONNECTIONS
) -> AsyncIterator[Server]:
    """A Server for the length of a `with`; it drains and closes the catalog at the end.

    What the body raises comes out as it is, not in an ExceptionGroup.
    """
    error: Exception | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            server = Server(catalog, tasks, limits, max_connections)
            try:
                yield server
            except Exception as raised:
                error = raised
            finally:
                await server.drain()
    finally:
        await catalog.close()
    if error is not None:
        raise error
