"""Waiting for a future that belongs to somebody else: who waits may leave or be cancelled, it stays as it is.

`asyncio.wait` and `asyncio.shield` do that too, with a second future and a turn of the loop between: half as much work
again as a short transfer is. A task takes whatever is like a future (`asyncio.isfuture`), so this is like one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any


class Watch:
    """Awaited once, by one task, until `future` is done, or until `leave`."""

    __slots__ = ("_asyncio_future_blocking", "_context", "_future", "_wake")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self._future = future
        self._wake: Callable[[Any], object] | None = None  # of the task that waits
        self._context: Context | None = None
        self._asyncio_future_blocking = False  # what makes it like one

    def __await__(self) -> Generator[Any, None, None]:
        if not self._future.done():
            self._asyncio_future_blocking = True
            yield self

    def leave(self) -> None:
        """Wake who waits, though the future may not be done."""
        ended = self._take_off()
        if ended is not None:
            ended.set_result(None)

    # -- for the task -------------------------------------------------------------------------------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._future.get_loop()

    def add_done_callback(self, wake: Callable[[Any], object], *, context: Context | None = None) -> None:
        self._wake, self._context = wake, context
        self._future.add_done_callback(wake, context=context)

    def cancel(self, msg: Any = None) -> bool:
        """The task is cancelled: it alone."""
        ended = self._take_off()
        return ended is not None and ended.cancel(msg)

    def _take_off(self) -> asyncio.Future[None] | None:
        """Another future for the task to hear of, in the place of the one that is not done yet."""
        wake, self._wake = self._wake, None
        if wake is None or self._future.done():
            return None
        self._future.remove_done_callback(wake)
        ended: asyncio.Future[None] = self._future.get_loop().create_future()
        ended.add_done_callback(wake, context=self._context)
        return ended
