"""Who handles a libusb context's events: the event loop, a thread while transfers are asked to end, or one for good."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest

from tests.devices.host import turn
from usbferry.backends.libusb.library import Context, library

pytest.importorskip("usb1", reason="libusb1 is not installed")
pytestmark = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="only on Linux libusb's descriptors are watched")
HERE = threading.get_ident


class Watched(Context):
    """Notes in which thread events are handled."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.handled: list[int] = []

    def _handle(self) -> int:
        self.handled.append(HERE())
        return super()._handle()

    def has_thread(self) -> bool:
        return self._thread is not None

    def interrupt(self) -> None:
        """Give libusb something to do."""
        library().libusb_interrupt_event_handler(self.pointer)


async def until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up, "it does not come about"
        await asyncio.sleep(0.001)


@pytest.fixture
async def context() -> AsyncIterator[Watched]:
    made = Watched(asyncio.get_running_loop())
    await asyncio.to_thread(made.open)
    yield made
    made.rest()
    await asyncio.to_thread(made.close)
    assert not [thread for thread in threading.enumerate() if thread.name == "libusb events"]


async def test_the_loop_handles_them_and_is_left_alone_then(context):
    context.interrupt()
    await until(lambda: context.handled)
    await turn()
    handled = len(context.handled)
    await turn()
    assert len(context.handled) == handled
    assert context.handled == [HERE()] * handled
    assert not context.has_thread()


async def test_what_ends_in_any_thread_is_told_in_the_loop(context):
    told = []
    context.flying = {at: lambda at=at: told.append((at, HERE())) for at in range(3)}
    await asyncio.to_thread(lambda: [context._completed(at) for at in (2, 0, 1)])
    await until(lambda: len(told) == 3)
    assert told == [(at, HERE()) for at in (2, 0, 1)]


async def test_a_thread_handles_them_while_transfers_are_asked_to_end(context):
    """It may wait for who asks, as libusb does under a transfer's lock; the loop goes on."""
    asked, lock = asyncio.get_running_loop().create_future(), threading.Lock()
    handle = context._handle

    def waits() -> int:
        with lock:
            return handle()

    context.asking(asked)
    context._handle = waits
    context.handled.clear()  # of what comes first
    with lock:
        context.interrupt()
        await asyncio.sleep(0.02)
        assert context.handled == []
    await until(lambda: context.handled)
    assert HERE() not in context.handled
    asked.set_result(None)
    await turn()
    context._handle = handle
    await until(lambda: context._is_watching)
    context.handled.clear()
    context.interrupt()
    await until(lambda: context.handled)
    assert {*context.handled} == {HERE()}


async def test_a_context_ends_while_a_thread_handles_its_events(context):
    context.asking(asyncio.get_running_loop().create_future())
    context.interrupt()
    context._ready()


async def test_a_descriptor_that_cannot_be_watched_needs_a_thread(context):
    with tempfile.TemporaryFile() as file:
        context._descriptors._add(file.fileno(), 1)
        assert context.has_thread()
        context._descriptors._remove(file.fileno())
    await until(lambda: not context._is_watching)
    context.handled.clear()
    context.interrupt()
    await asyncio.sleep(0.02)
    assert context.handled == []


async def test_events_that_cannot_be_handled_are_a_threads_affair(context, caplog):
    context._handle = lambda: -99
    context.interrupt()
    await until(context.has_thread)
    await until(lambda: not context._is_watching)
