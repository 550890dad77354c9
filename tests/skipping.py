"""An event loop whose time jumps to whatever is due next: hours pass in milliseconds, in their true order.

Only for programs without a network: what is under way elsewhere cannot be waited for. A program that waits for nothing
at all is an error.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    skipped = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("nothing is due, for ever")
            self.skipped += max(0.0, timeout)
        return ready


class SkippingLoop(asyncio.SelectorEventLoop):
    """Begins at time 0."""

    def __init__(self) -> None:
        self._skipping = _Selector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.skipped


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, without waiting for anything. No task may be left."""
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        result = runner.run(work)
        assert asyncio.all_tasks(runner.get_loop()) == set()
        return result
