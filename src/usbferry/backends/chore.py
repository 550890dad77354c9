"""Work that goes on beside the object that needs it, and ends with that: a task whose end nobody has to await.

A TaskGroup would want to be entered and left in one task, which sources, connections and watchers are not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

log: Final = logging.getLogger(__name__)


class Chore:
    """Runs `work` until `end`. What goes wrong with it is logged under `name`, and then `failed` is called."""

    def __init__(self, work: Coroutine[Any, Any, None], name: str, failed: Callable[[], object]) -> None:
        self._name = name
        self._failed = failed
        self._task = asyncio.get_running_loop().create_task(work)
        self._task.add_done_callback(self._done)

    def cancel(self) -> None:
        """Let it come to its end. May be called from anywhere in its loop's thread, and twice."""
        self._task.cancel()

    async def end(self) -> None:
        """Cancel it, and wait for its end; who is cancelled over that hears of it."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def _done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("%s ended: unexpected %r", self._name, error, exc_info=error)
            self._failed()
