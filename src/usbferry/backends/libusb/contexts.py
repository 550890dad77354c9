"""The event loop's one libusb context, lent to whoever needs it: opened for the first, closed by the last."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from .library import Context


@dataclass(eq=False, slots=True)
class Lent:
    """A context and how many have it."""

    opening: asyncio.Future[Context]
    users: int = 0


_current: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Lent]] = WeakKeyDictionary()


async def borrow(stale: Lent | None = None) -> Lent:
    """The loop's context, or a new one in the place of `stale`, which lives on while somebody has it.

    Raises DeviceError.
    """
    loop = asyncio.get_running_loop()
    lent = _current.get(loop)
    if lent is None or lent is stale:
        lent = _current[loop] = Lent(loop.run_in_executor(None, _opened, loop))
    lent.users += 1
    try:
        await asyncio.shield(lent.opening)
    except BaseException:
        await give_back(lent)
        raise
    return lent


def hold(lent: Lent) -> Lent:
    """One user more of a context that somebody has."""
    lent.users += 1
    return lent


async def give_back(lent: Lent) -> None:
    """One user less."""
    lent.users -= 1
    if lent.users:
        return
    loop = asyncio.get_running_loop()
    if _current.get(loop) is lent:
        del _current[loop]
    await asyncio.wait([lent.opening])
    if lent.opening.exception() is None:
        context = lent.opening.result()
        context.rest()
        await loop.run_in_executor(None, context.close)


def _opened(loop: asyncio.AbstractEventLoop) -> Context:
    context = Context(loop)
    context.open()
    return context
