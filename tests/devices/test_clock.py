"""The device clock: virtual time that only a test moves, and the event loop's."""

import asyncio
import math

from usbferry.devices.clock import Alarm, LoopClock, VirtualClock


def test_virtual_time_passes_only_by_advance():
    clock = VirtualClock()
    assert clock.now() == 0.0
    clock.advance(0.25)
    clock.advance(0.25)
    assert clock.now() == 0.5


def test_calls_run_at_their_own_time_in_order():
    clock, seen = VirtualClock(), []
    for name, when in (("c", 0.3), ("a", 0.1), ("b", 0.2), ("b too", 0.2)):
        clock.call_at(when, lambda name=name: seen.append((name, clock.now())))
    clock.advance(0.25)
    assert seen == [("a", 0.1), ("b", 0.2), ("b too", 0.2)]
    assert clock.now() == 0.25
    clock.advance(1)
    assert seen[-1] == ("c", 0.3)


def test_a_call_made_by_a_call_runs_in_the_same_advance_when_it_falls_due():
    clock, seen = VirtualClock(), []

    def again():
        seen.append(clock.now())
        clock.call_at(clock.now() + 1, again)

    clock.call_at(1, again)
    clock.advance(3.5)
    assert seen == [1, 2, 3]


def test_a_call_for_the_past_runs_now():
    clock, seen = VirtualClock(), []
    clock.advance(5)
    clock.call_at(1, lambda: seen.append(clock.now()))
    clock.advance(0)
    assert seen == [5]


def test_a_cancelled_call_does_not_run():
    clock, seen = VirtualClock(), []
    timer = clock.call_at(1, lambda: seen.append("cancelled"))
    timer.cancel()
    clock.advance(2)
    timer.cancel()
    assert seen == []


def test_a_call_can_cancel_another_of_the_same_time():
    clock, seen = VirtualClock(), []
    clock.call_at(1, lambda: later.cancel())
    later = clock.call_at(1, lambda: seen.append("late"))
    clock.advance(1)
    assert seen == []


async def test_the_loop_clock_is_the_loops():
    loop, clock = asyncio.get_running_loop(), LoopClock()
    called = asyncio.Event()
    before = loop.time()
    clock.call_at(clock.now(), called.set)
    clock.call_at(clock.now(), lambda: 1 / 0).cancel()
    await called.wait()
    assert before <= clock.now() <= loop.time() + 1e-6


def test_an_alarm_rings_at_the_earliest_of_its_times() -> None:
    clock, rang = VirtualClock(), list[float]()
    alarm = Alarm(clock, rang.append)
    for when in (5.0, 3.0, None, 4.0):
        alarm.set(when)
    assert alarm.wakes == 3.0
    clock.advance(10)
    assert rang == [3.0]
    assert alarm.wakes == math.inf


def test_an_alarm_may_be_set_anew_while_it_rings() -> None:
    clock, rang = VirtualClock(), list[float]()

    def ring(now: float) -> None:
        rang.append(now)
        alarm.set(now + 1 if len(rang) < 3 else None)

    alarm = Alarm(clock, ring)
    alarm.set(1.0)
    clock.advance(10)
    assert rang == [1.0, 2.0, 3.0]


def test_an_alarm_that_is_stopped_is_set_later_too() -> None:
    clock, rang = VirtualClock(), list[float]()
    alarm = Alarm(clock, rang.append)
    alarm.set(1.0)
    alarm.stop()
    alarm.set(2.0)
    clock.advance(10)
    assert rang == [2.0]
