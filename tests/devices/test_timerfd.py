"""Fine timers: never early, in order, few turns of the loop, and no file left behind; on both event loops."""

import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from usbferry.devices.clock import LoopClock
from usbferry.devices.timerfd import FineTimers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")


def loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    found = {"asyncio": asyncio.new_event_loop}
    try:
        import uvloop
    except ImportError:
        return found
    return {**found, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=loops())
def run(request) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    def run(work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=loops()[request.param]) as runner:
            return runner.run(work)

    return run


def files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_calls_come_in_order_and_none_is_early(run):
    async def work() -> list[tuple[int, bool]]:
        clock, seen, done = LoopClock(), [], asyncio.Event()
        start = clock.now()
        for step in (5, 1, 3, 2, 4):
            when = start + step * 0.0007
            clock.call_at(when, lambda step=step, when=when: seen.append((step, clock.now() >= when)))
        clock.call_at(start + 0.005, done.set)
        await done.wait()
        return seen

    assert run(work()) == [(step, True) for step in range(1, 6)]


def test_a_wait_takes_no_turns_of_the_loop(run):
    """uvloop rounds 0.4 ms down to none: a timer set again until its time had come took half of a core."""

    async def work() -> int:
        clock, turns, done = LoopClock(), 0, asyncio.Event()

        def again(when: float) -> None:
            nonlocal turns
            turns += 1
            if clock.now() < when:
                clock.call_at(when, lambda: again(when))
            else:
                done.set()

        when = clock.now() + 0.0204
        again(when)
        await done.wait()
        return turns

    assert run(work()) == 2


def test_calls_for_now_and_for_the_past_come_too(run):
    async def work() -> None:
        clock, done = LoopClock(), [asyncio.Event() for _ in range(3)]
        for when, event in zip((clock.now(), 0.0, clock.now() - 1), done, strict=True):
            clock.call_at(when, event.set)
        for event in done:
            await asyncio.wait_for(event.wait(), 5)

    run(work())


def test_a_cancelled_call_does_not_come_and_one_may_cancel_another(run):
    async def work() -> list[str]:
        clock, seen, done = LoopClock(), [], asyncio.Event()
        start = clock.now() + 0.001
        clock.call_at(start, lambda: seen.append("cancelled")).cancel()
        clock.call_at(start, lambda: last.cancel())
        last = clock.call_at(start, lambda: seen.append("cancelled by another"))
        clock.call_at(start, done.set)
        await done.wait()
        return seen

    assert run(work()) == []


@pytest.mark.parametrize("live", [0, 1, 200])
def test_cancelled_calls_are_not_kept_until_their_time(run, live):
    """Each was: a timeout far ahead that is set and cancelled a thousand times a second filled the memory."""

    async def work() -> tuple[int, list[int]]:
        timers, seen, done = FineTimers(asyncio.get_running_loop()), [], asyncio.Event()
        start, most = time.monotonic() + 0.02, 0
        for number in range(live):
            timers.call_at(start + number * 1e-6, lambda number=number: seen.append(number))
        for number in range(5000):
            timers.call_at(start + 60 + number % 7, lambda: seen.append(-1)).cancel()
            most = max(most, len(timers._timers))
        timers.call_at(start + 0.001, done.set)
        await done.wait()
        return most, seen

    most, seen = run(work())
    assert most <= max(64, 2 * live + 2)
    assert seen == list(range(live))


def test_a_call_that_fails_is_reported_and_keeps_none_from_coming(run):
    async def work() -> list[str]:
        reported = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))
        clock, done = LoopClock(), asyncio.Event()
        when = clock.now() + 0.001
        clock.call_at(when, lambda: 1 / 0)
        clock.call_at(when, done.set)
        await asyncio.wait_for(done.wait(), 5)
        return [type(error).__name__ for error in reported]

    assert run(work()) == ["ZeroDivisionError"]


def test_no_file_stays_open(run):
    async def work() -> None:
        for _ in range(5):
            clock, done = LoopClock(), asyncio.Event()
            clock.call_at(clock.now() + 0.0005, done.set)
            await done.wait()

    before = files()
    run(work())
    assert files() == before


def test_a_call_may_close_its_clock(run):
    """As whoever gives a connection on does. The loop was told to watch file -1 no longer, and complained."""

    async def work() -> list[str]:
        loop, reported, done = asyncio.get_running_loop(), [], asyncio.Event()
        loop.set_exception_handler(lambda loop, context: reported.append(str(context["exception"])))
        clock = LoopClock()

        def end() -> None:
            clock.close()
            loop.call_soon(done.set)

        clock.call_at(clock.now() + 0.0005, end)
        await done.wait()
        assert clock._fine is None
        return reported

    assert run(work()) == []


def test_the_file_is_watched_only_while_a_call_is_to_come(run):
    async def work() -> list[bool]:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        timers = FineTimers(loop)
        watched = [timers._watched]
        timers.call_at(time.monotonic() + 0.0005, done.set)
        watched.append(timers._watched)
        await done.wait()
        return [*watched, timers._watched]

    assert run(work()) == [False, True, False]


def test_where_there_is_no_timerfd_the_loops_own_timers_do(run, monkeypatch):
    monkeypatch.setattr("usbferry.devices.timerfd._LIBC", None)

    async def work() -> bool:
        clock, done = LoopClock(), asyncio.Event()
        when = clock.now() + 0.0104
        clock.call_at(when, done.set)
        await done.wait()
        return clock.now() >= when

    assert run(work())
