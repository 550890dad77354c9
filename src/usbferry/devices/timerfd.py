"""Linux's timerfd: calls at a time finer than an event loop's timers, which wait in whole milliseconds.

asyncio's epoll rounds up, so that each of a thousand reports in a second would be late by up to as long as it has;
uvloop rounds down, and would go round and round until the time has come. A timerfd is a file like others to both.
Python has it from 3.13 on; the C library does everywhere. Source: timerfd_create(2).
"""

from __future__ import annotations

import ctypes
import heapq
import os
import struct
import sys
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, Final

_NONBLOCK: Final = os.O_NONBLOCK if hasattr(os, "O_NONBLOCK") else 0
_CLOEXEC: Final = getattr(os, "O_CLOEXEC", 0)
_ABSOLUTE: Final = 1  # TFD_TIMER_ABSTIME
_MONOTONIC: Final = 1  # CLOCK_MONOTONIC, whose seconds time.monotonic has
_ITIMERSPEC: Final = struct.Struct("@llll")  # no interval, and when: seconds, nanoseconds
_SECOND: Final = 1_000_000_000
_FEW: Final = 64  # timers, among which nobody looks for cancelled ones


def _library() -> Any:
    """The C library, if it has timerfd."""
    if sys.platform != "linux":
        return None
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None, use_errno=True)
        _ = library.timerfd_create, library.timerfd_settime
        return library
    return None


_LIBC: Final = _library()


class FineTimer:
    """A call to come."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FineTimers:
    """The timers of one event loop, behind one file. Raises OSError where there is no timerfd.

    The loop watches the file only while a timer is to come. Cancelled ones go when they are next, or half of all.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._fd = -1
        if _LIBC is None:
            raise OSError("there is no timerfd")
        self._loop = loop
        self._timers: list[tuple[float, int, FineTimer]] = []
        self._sweep_at = _FEW  # so many are looked through for cancelled ones
        self._order = count()
        self._armed = float("inf")
        self._watched = False
        self._fd = _LIBC.timerfd_create(_MONOTONIC, _NONBLOCK | _CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def close(self) -> None:
        """Forget all calls to come, and the file with them. There is no `call_at` after it."""
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._fd)
        self._timers.clear()
        os.close(self._fd)
        self._fd = -1

    def call_at(self, when: float, callback: Callable[[], None]) -> FineTimer:
        """Call it when time.monotonic() is `when`, and not before."""
        timer = FineTimer(callback)
        self._forget_cancelled()
        heapq.heappush(self._timers, (when, next(self._order), timer))
        if when < self._armed:
            self._arm(when)
        if not self._watched:
            self._watched = True
            self._loop.add_reader(self._fd, self._expired)
        return timer

    def _forget_cancelled(self) -> None:
        """A timeout far ahead, set and cancelled with each transfer, would be kept a thousand times.

        All are looked through only when they are twice as many as were left the last time.
        """
        timers = self._timers
        while timers and timers[0][2].callback is None:
            heapq.heappop(timers)
        if len(timers) >= self._sweep_at:
            timers[:] = [entry for entry in timers if entry[2].callback is not None]
            heapq.heapify(timers)
            self._sweep_at = max(_FEW, 2 * len(timers))

    def _arm(self, when: float) -> None:
        """Rounded up: never early. A time that has passed expires at once, but 0 would mean never."""
        self._armed = when
        at = max(1, -int(-when * _SECOND // 1))
        spec = _ITIMERSPEC.pack(0, 0, at // _SECOND, at % _SECOND)
        _LIBC.timerfd_settime(self._fd, _ABSOLUTE, spec, None)

    def _expired(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._fd, 8)
        self._armed = float("inf")
        now = time.monotonic()
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers)[2])
        try:
            self._call(due)
        finally:
            if self._timers and self._timers[0][0] < self._armed:
                self._arm(self._timers[0][0])
            elif self._watched and not self._timers:  # or one of them has closed it
                self._watched = False
                self._loop.remove_reader(self._fd)

    def _call(self, due: list[FineTimer]) -> None:
        """One that raises is reported as any callback's error is, and the others are called all the same."""
        for timer in due:
            callback, timer.callback = timer.callback, None
            if callback is None:
                continue
            try:
                callback()
            except Exception as error:
                self._loop.call_exception_handler({"message": f"{callback} failed", "exception": error})
