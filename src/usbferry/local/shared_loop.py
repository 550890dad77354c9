"""The event loop of this process's synchronous callers, and the one place that crosses threads.

Their devices live in it. Who waits for a transfer runs that loop meanwhile, in his own thread (leader and
followers, as libusb has it): no hand-over between threads, which would cost more than the transfer's own round trip.

    caller, nobody leads ........ leads: runs the loop until his transfer has ended
    caller, another one leads ... follows: hands his transfer over, and waits on a lock
    caller, background leads .... takes the lead from it
    nobody calls for a moment ... the background thread leads, so that a lost connection is noticed
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` wraps in enums, which takes longer than a round trip
import asyncio
import atexit
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import FrameType
from typing import Any, Final, Protocol, Self, TypeVar

from .. import aio
from ..device import Device
from ..usb.transfer import Completion, Transfer
from ..usb.types import Status

T = TypeVar("T")
CLOSE_SECONDS: Final = 10.0
_IDLE_SECONDS: Final = 0.005  # without a call, before the background thread leads again
_FAILED: Final = Completion(Status.FAILED)
_SIGINT: Final = int(signal.SIGINT)


class Call:
    """One transfer on its way through the loop."""

    __slots__ = ("_done", "completion", "device", "error", "leading", "transfer")

    def __init__(self, device: Device, transfer: Transfer) -> None:
        self.device = device
        self.transfer = transfer
        self.completion: Completion | None = None
        self.error: BaseException | None = None  # the caller's mistake
        self.leading: asyncio.AbstractEventLoop | None = None  # to stop at the end, when its caller runs it
        self._done = threading.Lock()
        self._done.acquire()

    def start(self) -> None:
        """In the loop."""
        try:
            answer = self.device.submit(self.transfer)
        except Exception as error:
            self.error = error
            self._finish(_FAILED)
            return
        if isinstance(answer, Completion):
            self._finish(answer)
        else:
            answer.add_done_callback(self._ended)

    def _ended(self, future: asyncio.Future[Completion]) -> None:
        if future.cancelled():
            self._finish(_FAILED)
            return
        self.error = future.exception()
        self._finish(_FAILED if self.error is not None else future.result())

    def _finish(self, completion: Completion) -> None:
        self.completion = completion
        self._done.release()
        if self.leading is not None:
            self.leading.stop()

    def ended(self) -> Completion:
        """How it ended; CANCELLED when it has not. Raises what the device made of a mistake of the caller's."""
        if self.error is not None:
            raise self.error
        return self.completion or Completion(Status.CANCELLED)

    def wait(self, timeout: float | None) -> None:
        """As a follower, until it has ended or the time is over."""
        self._done.acquire(timeout=-1 if timeout is None else timeout)


class Closing(Protocol):
    """What is closed when the program ends."""

    async def close(self) -> None: ...


class SharedLoop:
    """The loop, and who runs it."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._leader: int | None = None  # a thread's identity
        self._followers = 0
        self._wanting = 0  # callers that wait for the background thread to leave them the lead
        self._last_call = 0.0  # its start or end
        self._asleep = False  # the background thread, until it is told that nobody leads any more
        self._loop: asyncio.AbstractEventLoop | None = None
        self._background: threading.Thread | None = None
        self._is_ending = False
        self._open: set[Closing] = set()
        self._started: set[asyncio.Task[Any]] = set()

    # -- callers ------------------------------------------------------------------------------------------------------

    def call(self, call: Call, timeout: float | None) -> None:
        """Bring a transfer to its end, or to `timeout`. Ctrl-C raises KeyboardInterrupt, and breaks nothing."""
        loop = self._get()
        if asyncio._get_running_loop() is None and self._lead():
            try:
                self._run_until(loop, call, timeout)
            finally:
                self._stop_leading()
        else:
            with self.following():
                loop.call_soon_threadsafe(call.start)
                call.wait(timeout)
        if self._is_ending and threading.current_thread().daemon:
            threading.Event().wait()  # its device was closed because the program ends, and so does this thread

    def soon(self, callback: Any, *arguments: Any) -> None:
        """Call back in the loop, from any thread."""
        self._get().call_soon_threadsafe(callback, *arguments)

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine in the loop and wait for it, from any thread but the leader's."""
        loop = self._get()
        with self.following():
            future = asyncio.run_coroutine_threadsafe(work, loop)
            try:
                return future.result(timeout)
            except KeyboardInterrupt:
                future.cancel()  # nobody would have what it opens
                raise

    def _run_until(self, loop: asyncio.AbstractEventLoop, call: Call, timeout: float | None) -> None:
        call.leading = loop
        end = None if timeout is None else loop.time() + timeout
        timer = None if end is None else loop.call_at(end, loop.stop)
        with _InterruptLater(loop) as interrupt:
            _start_in(loop, call)
            while True:  # once in any case: who calls without a pause must not keep others from being served
                loop.run_forever()
                if call.completion is not None or interrupt.came or (end is not None and loop.time() >= end):
                    break
        call.leading = None
        if timer is not None:
            timer.cancel()

    # -- who leads ----------------------------------------------------------------------------------------------------

    def _lead(self) -> bool:
        """Become the leader, unless another caller is."""
        with self._state:
            self._last_call = time.monotonic()
            background = self._background.ident if self._background is not None else None
            while self._leader is not None:
                if self._leader != background or self._followers:
                    return False
                self._get().call_soon_threadsafe(self._get().stop)
                self._wanting += 1
                try:
                    self._state.wait()
                finally:
                    self._wanting -= 1
                    self._tell_background()  # Ctrl-C may have come
            self._leader = threading.get_ident()
            return True

    def _stop_leading(self) -> None:
        with self._state:
            self._leader = None
            self._last_call = time.monotonic()
            self._tell_background()

    def following(self) -> Following:
        """For the length of a `with`, the caller waits without leading: somebody else does."""
        return Following(self)

    def follow(self, count: int) -> None:
        """One follower more, or less: as long as there is one, somebody leads."""
        with self._state:
            self._followers += count
            self._state.notify_all()

    def _in_background(self) -> None:
        loop = self._get()
        while True:
            with self._state:
                while (seconds := self._until_background_leads()) != 0.0:
                    self._state.wait(seconds)
                self._leader = threading.get_ident()
            loop.run_forever()
            with self._state:
                self._leader = None
                self._state.notify_all()

    def _until_background_leads(self) -> float | None:
        """Seconds until the background thread may lead; None when it sleeps until it is told.

        While short calls follow each other it looks once in a while, for to wake it would cost each of them more than
        the call itself.
        """
        free = self._leader is None
        if free and self._followers:
            return 0.0
        rest = max(0.0, self._last_call + _IDLE_SECONDS - time.monotonic())
        if rest or (free and not self._wanting):
            return rest
        self._asleep = True
        return None

    def _tell_background(self) -> None:
        if self._asleep or self._followers:
            self._asleep = False
            self._state.notify_all()

    def _get(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            with self._state:
                if self._loop is None:
                    self._loop = asyncio.new_event_loop()
                    self._loop.set_default_executor(_Threads())
                    self._background = threading.Thread(target=self._in_background, name="usbferry", daemon=True)
                    self._background.start()
                    atexit.register(self._at_exit)
        return self._loop

    # -- what is open -------------------------------------------------------------------------------------------------

    def opened(self, thing: Closing) -> None:
        """Close it at the program's end, unless it is closed before."""
        self._open.add(thing)

    def closed(self, thing: Closing) -> None:
        self._open.discard(thing)

    def forgotten(self, handle: aio.Handle) -> None:
        """The program dropped its handle: the device is given back."""
        if handle in self._open:
            self._open.discard(handle)
            self.start(handle.close())

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Have a coroutine run, and wait for nothing: it may be the collector that calls, in the midst of anything."""
        self.soon(self._start, work)

    def _start(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self._get().create_task(work)
        self._started.add(task)  # the loop itself would not keep it alive
        task.add_done_callback(self._started.discard)

    def _at_exit(self) -> None:
        self._is_ending = True
        things, self._open = tuple(self._open), set()
        for ending in (*(thing.close() for thing in things), self._wait_for_started()):
            with suppress(Exception):
                self.run(ending, CLOSE_SECONDS)

    async def _wait_for_started(self) -> None:
        if self._started:
            await asyncio.wait(self._started)


class _Threads(ThreadPoolExecutor):
    """The loop's threads. When the program ends Python takes no more work for any, while devices still close: their
    last blocks go to their files then and there."""

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> Future[T]:
        try:
            return super().submit(work, *arguments, **named)
        except RuntimeError:
            future: Future[T] = Future()
            try:
                future.set_result(work(*arguments, **named))
            except Exception as error:
                future.set_exception(error)
            return future


def _start_in(loop: asyncio.AbstractEventLoop, call: Call) -> None:
    """Start a call as if `loop` ran, which saves a turn of it."""
    asyncio._set_running_loop(loop)
    try:
        call.start()
    finally:
        asyncio._set_running_loop(None)


class Following:
    """For the length of a `with`, somebody waits for the loop without running it."""

    def __init__(self, loop: SharedLoop) -> None:
        self._loop = loop

    def __enter__(self) -> None:
        self._loop.follow(1)

    def __exit__(self, *error: object) -> None:
        self._loop.follow(-1)


class _InterruptLater:
    """Ctrl-C while the main thread runs the loop: the loop stops first, and only then comes KeyboardInterrupt.

    Raised in the middle of a callback, it would leave a connection half-way through a message.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._mine = False
        self.came = False

    def __enter__(self) -> Self:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and _signal.getsignal(_SIGINT) is signal.default_int_handler:
            _signal.signal(_SIGINT, self._note)
            self._mine = True
        return self

    def __exit__(self, *error: object) -> None:
        if self._mine:
            _signal.signal(_SIGINT, signal.default_int_handler)
        if self.came:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        self._loop.call_soon_threadsafe(self._loop.stop)


LOOP: Final = SharedLoop()
