"""Waiting for a future without owning it, in each kind of task and loop that there is."""

from __future__ import annotations

import asyncio
from asyncio.tasks import _PyTask  # type: ignore[attr-defined]  # what runs where there is no C, and takes other paths
from collections.abc import Callable, Coroutine, Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from usbferry.watch import Watch

Begin = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    if request.param == "uvloop" and find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    module = __import__(request.param)
    made = module.new_event_loop()
    yield made
    made.close()


@pytest.fixture(params=["C", "Python"])
def begin(request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop) -> Begin:
    return loop.create_task if request.param == "C" else lambda work: _PyTask(work, loop=loop)


def turn(loop: asyncio.AbstractEventLoop, turns: int = 3) -> None:
    for _ in range(turns):
        loop.run_until_complete(asyncio.sleep(0))


async def wait(watch: Watch) -> str:
    await watch
    return "woken"


def test_a_future_that_is_done_is_not_waited_for(loop: asyncio.AbstractEventLoop, begin: Begin) -> None:
    future = loop.create_future()
    future.set_result(1)
    watch = Watch(future)
    assert loop.run_until_complete(begin(wait(watch))) == "woken"
    watch.leave()
    assert future.result() == 1


def test_who_waits_is_woken_when_it_is_done(loop: asyncio.AbstractEventLoop, begin: Begin) -> None:
    future = loop.create_future()
    tasks = [begin(wait(Watch(future))) for _ in range(2)]
    turn(loop)
    assert not any(task.done() for task in tasks)
    future.set_result(1)
    assert [loop.run_until_complete(task) for task in tasks] == ["woken", "woken"]


def test_its_exception_is_raised_at_who_waits(loop: asyncio.AbstractEventLoop, begin: Begin) -> None:
    future = loop.create_future()
    task = begin(wait(Watch(future)))
    turn(loop)
    future.set_exception(LookupError())
    assert isinstance(future.exception(), LookupError)
    with pytest.raises(LookupError):
        loop.run_until_complete(task)


def test_a_cancelled_task_leaves_the_future_as_it_is(loop: asyncio.AbstractEventLoop, begin: Begin) -> None:
    future = loop.create_future()
    tasks = [begin(wait(Watch(future))) for _ in range(2)]
    turn(loop)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(tasks[0])
    assert not future.done()
    future.set_result(1)
    assert loop.run_until_complete(tasks[1]) == "woken"


def test_cancelled_before_it_began_to_wait(loop: asyncio.AbstractEventLoop, begin: Begin) -> None:
    future = loop.create_future()
    task = begin(wait(Watch(future)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    assert not future.done()


def test_cancelled_in_the_turn_in_which_it_is_done(loop: asyncio.AbstractEventLoop, begin: Begin) -> None:
    future = loop.create_future()
    task = begin(wait(Watch(future)))
    turn(loop)
    future.set_result(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    assert future.result() == 1


def test_who_leaves_is_woken_though_it_is_not_done(loop: asyncio.AbstractEventLoop, begin: Begin) -> None:
    future, callbacks = loop.create_future(), []
    watch = Watch(future)
    task = begin(wait(watch))
    turn(loop)
    watch.leave()
    watch.leave()
    assert loop.run_until_complete(task) == "woken"
    assert not future.done()
    future.add_done_callback(callbacks.append)
    future.set_result(1)
    turn(loop)
    assert callbacks == [future]


def test_a_future_of_another_loop_is_refused(loop: asyncio.AbstractEventLoop, begin: Begin) -> None:
    other = asyncio.new_event_loop()
    with pytest.raises(RuntimeError, match="attached to a different loop"):
        loop.run_until_complete(begin(wait(Watch(other.create_future()))))
    other.close()
