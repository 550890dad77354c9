"""What comes and goes at a server that tells: one connection that waits for news, and a list after each.

While there is no connection nothing is told but that, once; after it, what has changed meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from ..device import Change, DeviceError, Watching
from ..protocols.events import Changed, Event
from ..usb.info import DeviceInfo
from .chore import Chore
from .lasting import LastingConnection

log: Final = logging.getLogger(__name__)
LIST_SECONDS: Final = 10.0
Tell = Callable[[Change | None], None]
Trouble = Callable[[str], None]
RETRY_SECONDS: Final = 1.0  # after a connection that failed, before the next


class NewsConnection(LastingConnection):
    """A connection that claims nothing. `changed` is set when there is news, and when there will be none any more."""

    def __init__(self, importer: Any, server: str) -> None:
        super().__init__(importer, server, self._never)
        self.changed = asyncio.Event()

    async def _never(self, connection: object) -> None:
        raise AssertionError("nothing is claimed that could wait")

    def watch(self) -> None:
        self.importer.watch()  # type: ignore[attr-defined]
        self._flush()

    def lost(self, error: Exception | None) -> None:
        super().lost(error)
        self.changed.set()

    def _answered(self, event: Event) -> None:
        if isinstance(event, Changed):
            self.changed.set()
        else:
            super()._answered(event)


class News(Watching):
    """The changes at a server, from the state that the first connection finds. Who drops it is told no more."""

    def __init__(
        self, connect: Callable[[], Awaitable[NewsConnection]], is_meant: Callable[[DeviceInfo], bool]
    ) -> None:
        super().__init__()
        tell: weakref.WeakMethod[Tell] = weakref.WeakMethod(self.tell)
        trouble: weakref.WeakMethod[Trouble] = weakref.WeakMethod(self._trouble)
        self._following = Chore(_follow(tell, trouble, connect, is_meant), "a watch", lambda: _end(tell))
        loop = asyncio.get_running_loop()
        self._dropped = weakref.finalize(self, _cancel, loop, self._following)

    def _trouble(self, why: str) -> None:
        if self.on_trouble is not None:
            self.on_trouble(why)

    async def aclose(self) -> None:
        self._dropped()
        await self._following.end()
        await super().aclose()


def _cancel(loop: asyncio.AbstractEventLoop, following: Chore) -> None:
    """From whichever thread the garbage is collected in, and after the loop too."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(following.cancel)


async def _follow(
    tell: weakref.WeakMethod[Tell],
    trouble: weakref.WeakMethod[Trouble],
    connect: Callable[[], Awaitable[NewsConnection]],
    is_meant: Callable[[DeviceInfo], bool],
) -> None:
    known: dict[str, DeviceInfo] = {}
    is_lost = False
    while True:
        try:
            connection = await connect()
            try:
                connection.watch()
                while connection.over is None:
                    await connection.changed.wait()
                    connection.changed.clear()
                    answer = await connection.ask(connection.importer.list_devices, seconds=LIST_SECONDS)
                    found = {info.name: info for info in answer.devices if is_meant(info)}
                    if is_lost and (say := trouble()) is not None:
                        say("")
                    is_lost = False
                    _tell(tell(), known, found)
                    known = found
            finally:
                await connection.close()
        except DeviceError as error:
            log.debug("no news: %s", error)
            if not is_lost and (say := trouble()) is not None:
                say(str(error))
            is_lost = True
        await asyncio.sleep(RETRY_SECONDS)


def _end(tell: weakref.WeakMethod[Tell]) -> None:
    """Who watches hears that there will be no news any more, and may look by himself."""
    told = tell()
    if told is not None:
        told(None)


def _tell(tell: Tell | None, known: dict[str, DeviceInfo], found: dict[str, DeviceInfo]) -> None:
    if tell is None:
        return
    for name in known.keys() - found.keys():
        tell(Change(name, None))
    for name, info in found.items():
        if known.get(name) != info:
            tell(Change(name, info))
