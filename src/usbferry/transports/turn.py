"""What one read sets off is written when all of it was looked at: after the read, and not a turn of the loop later.

A link opens a turn around each read; who has something to write by then says `defer(flush)`. A gateway's way there and
back is two turns of the loop shorter for it, each of which asks the system for news.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


class _Turn(threading.local):
    """Of this thread, and so of its event loop."""

    waiting: list[Callable[[], object]] | None = None  # None outside of a turn
    tidying: list[Callable[[], object]] | None = None  # what is to come behind all that waits


_turn = _Turn()


def defer(flush: Callable[[], object]) -> bool:
    """Call `flush` at the end of the turn, and be True; outside of one, call it soon.

    At the end of a turn, what a link lent is still there: its buffer is put in order behind all of these.
    """
    waiting = _turn.waiting
    if waiting is None:
        asyncio.get_running_loop().call_soon(flush)
        return False
    waiting.append(flush)
    return True


def at_the_end(tidy: Callable[[], object]) -> None:
    """Call `tidy` at the end of the turn, behind all that is deferred; outside of one, at once."""
    if _turn.waiting is None:
        tidy()
    elif _turn.tidying is None:
        _turn.tidying = [tidy]
    else:
        _turn.tidying.append(tidy)


def take(read: Callable[[], object]) -> None:
    """A turn: call `read`, then all that it defers, and what that defers."""
    if _turn.waiting is not None:
        read()
        return
    waiting = _turn.waiting = []
    try:
        read()
    finally:
        try:
            for flush in waiting:
                _call(flush)
        finally:
            _turn.waiting = None  # else what is deferred after an interrupt would wait for ever
            if _turn.tidying is not None:
                tidying, _turn.tidying = _turn.tidying, None
                for tidy in tidying:
                    tidy()


def _call(flush: Callable[[], object]) -> None:
    """As the loop would: what goes wrong with one ends no other."""
    try:
        flush()
    except Exception as error:
        context = {"message": "could not be written", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
