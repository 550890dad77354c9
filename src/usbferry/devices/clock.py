"""The device clock that paces periodic endpoints: real time in service, a virtual one in tests."""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Callable
from itertools import count
from typing import Final, Protocol

from .timerfd import FineTimers

_FINE_SECONDS: Final = 0.1  # longer than that, a millisecond is nothing


class Timer(Protocol):
    """A call to come."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Seconds that only go forward, and calls at a time."""

    def now(self) -> float: ...
    def call_at(self, when: float, callback: Callable[[], None]) -> Timer: ...


class LoopClock:
    """Real time, and calls in the running event loop: on Linux to the grain of the scheduler, else of a millisecond.

    Those that are further off than `fine` seconds are the loop's own. That is cheaper for a short while, but one that
    waits for long makes each turn of the loop dearer, by 2 us, for it must ask the system to be woken in time.
    """

    def __init__(self, fine: float = _FINE_SECONDS) -> None:
        self.loop = asyncio.get_running_loop()
        self._fine_seconds = fine
        self._fine: FineTimers | None = None
        self._has_fine = True
        self.now = time.monotonic  # uvloop's own time stands still while it works, and counts milliseconds

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        delay = when - self.now()
        if delay < self._fine_seconds and self._has_fine:
            try:
                self._fine = self._fine or FineTimers(self.loop)
                return self._fine.call_at(when, callback)
            except (OSError, NotImplementedError):  # no timerfd, no files left, or a loop that watches none
                self._has_fine = False
        return _CoarseTimer(self, when, callback)

    def close(self) -> None:
        """Forget the fine calls to come, and close their file: one far off, though cancelled, would keep it open."""
        fine, self._fine, self._has_fine = self._fine, None, False
        if fine is not None:
            fine.close()


class _CoarseTimer:
    """One of the loop's own, which on uvloop may be early: it counts milliseconds from where it last looked."""

    def __init__(self, clock: LoopClock, when: float, callback: Callable[[], None]) -> None:
        self._clock, self._when, self._callback = clock, when, callback
        self._wait()

    def _wait(self) -> None:
        left = max(0.0, self._when - self._clock.now())
        self._handle = self._clock.loop.call_later(math.ceil(left * 1000) / 1000, self._run)

    def _run(self) -> None:
        if self._clock.now() < self._when:
            self._wait()
        else:
            self._callback()

    def cancel(self) -> None:
        self._handle.cancel()


class Alarm:
    """One call to come, at the earliest of the times that it was set to. Whose it is looks up what is due then."""

    def __init__(self, clock: Clock, ring: Callable[[float], None]) -> None:
        """`ring` gets the time that it is, never one before that which was asked for."""
        self.wakes = math.inf  # when it rings
        self._clock, self._ring = clock, ring
        self._timer: Timer | None = None

    def set(self, when: float | None) -> None:
        """Ring at `when`, or earlier if that was asked for before; None asks for nothing."""
        if when is not None and when < self.wakes:
            self.stop()
            self.wakes = when
            self._timer = self._clock.call_at(when, self._rings)

    def stop(self) -> None:
        """Not to ring, until it is set again."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.wakes = None, math.inf

    def _rings(self) -> None:
        now = max(self._clock.now(), self.wakes)
        self._timer, self.wakes = None, math.inf
        self._ring(now)


class VirtualClock:
    """Time that passes only by `advance`: a test sees every microframe, and takes no time for it."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[tuple[float, int, _VirtualTimer]] = []
        self._order = count()

    def now(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        timer = _VirtualTimer(callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass, and run what falls due, each at its own time."""
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, when)
            timer.run()
        self._now = end


class _VirtualTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def run(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()
