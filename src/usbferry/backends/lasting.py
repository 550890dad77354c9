"""A connection whose claim outlives its links: one that is lost is made anew, and what was in flight goes on.

Whoever uses the device notices nothing but time, until the server has given the device up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol, runtime_checkable

from ..protocols.errors import ProtocolError
from ..transports.link import Link
from ..usb.types import Status
from .chore import Chore
from .connection import Connection, Importer

log: Final = logging.getLogger(__name__)
FIRST_PAUSE: Final = 0.05  # seconds between attempts to connect, doubled each time
LAST_PAUSE: Final = 1.0
RELEASE_SECONDS: Final = 3.0  # for a device to be given back where packets get lost


@runtime_checkable
class Patient(Importer, Protocol):
    """An importer that can do with several links, one after the other; `protocols.ferry.importer` says how."""

    ended: str
    releasing: bool

    @property
    def done(self) -> bool: ...
    def release(self) -> None: ...
    def set_way(self, way: Link) -> None: ...
    def connected(self, now: float) -> None: ...
    def disconnected(self, now: float) -> bool: ...


class LastingConnection(Connection):
    """A Connection of such an importer. `connect` makes one attempt, and raises OSError or TimeoutError."""

    def __init__(self, importer: Patient, server: str, connect: Callable[[Connection], Awaitable[None]]) -> None:
        super().__init__(importer, server)
        self._patient = importer
        self._connect = connect
        self._connecting: Chore | None = None
        self._pause = 0.0  # before the next attempt; a link that brought something begins anew

    def opened(self, link: Link) -> None:
        super().opened(link)
        link.keep_short()
        self._patient.set_way(link)
        self._patient.connected(self._loop.time())
        self._flush_soon()

    def received(self, view: memoryview) -> int:
        self._pause = 0.0
        consumed = super().received(view)
        if self._patient.done and self._link is not None:
            self._link.close()
        return consumed

    def lost(self, error: Exception | None) -> None:
        waits = self._patient.disconnected(self._loop.time())
        if not waits or self.over is not None or self._error is not None:
            super().lost(error)
            return
        log.info("%s: the connection is lost, the device waits", self.server)
        self._link = None
        self._alarm.stop()
        if self._connecting is not None:  # its link came and went before it heard of it
            self._connecting.cancel()
        self._connecting = Chore(self._connect_again(), f"{self.server}: connecting again", self._gave_up)

    async def _connect_again(self) -> None:
        while True:
            await asyncio.sleep(self._pause)
            self._pause = min(max(2 * self._pause, FIRST_PAUSE), LAST_PAUSE)
            self._patient.tick(self._loop.time())
            if self._patient.done:
                super().lost(None)
                return
            with suppress(OSError, TimeoutError):
                await self._connect(self)
            if self._link is not None:  # also where time was over when it came: two would be in each other's way
                return

    def _gave_up(self) -> None:
        """Nobody connects any more."""
        super().lost(None)

    async def close(self) -> None:
        """As every connection, and the device is given back at once: nobody waits for this claim any more."""
        if self._connecting is not None:
            await self._connecting.end()
        self._end(Status.SHUTDOWN)
        self._patient.release()
        self._flush()
        if self._link is None:
            self._end_alarm()
            self._lost.set()
        elif self._link.is_lossy and self._patient.releasing:
            with suppress(TimeoutError):  # it is sent until it is answered
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._lost.wait()
        await super().close()

    def _reason(self, error: Exception | None) -> str:
        return self._patient.ended or super()._reason(error)

    def _leave(self, reason: str) -> None:
        super()._leave(self._patient.ended or reason)

    def _tick(self, now: float) -> None:
        try:
            super()._tick(now)
        except ProtocolError as error:  # the server is silent: this link is of no use
            log.info("%s: %s", self.server, error)
            if self._link is not None:
                self._link.abort()
