"""The synchronous handle, and the one place that crosses threads: `with usbferry.open("usbip://host/1-2") as device`.

Devices live in one event loop. Who waits for a transfer runs that loop meanwhile, in his own thread (leader and
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
import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from .. import aio
from ..device import Device
from ..usb.info import DeviceInfo
from ..usb.setup import Setup
from ..usb.transfer import Buffer, Completion, Transfer
from ..usb.tree import Configuration, Interface
from ..usb.types import Status

T = TypeVar("T")
_CLOSE_SECONDS: Final = 10.0
_IDLE_SECONDS: Final = 0.005  # without a call, before the background thread leads again
_FAILED: Final = Completion(Status.FAILED)
_SIGINT: Final = int(signal.SIGINT)


class _Call:
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


class _Loop:
    """The event loop of this process's synchronous callers, and who runs it."""

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

    def call(self, call: _Call, timeout: float | None) -> None:
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

    def _run_until(self, loop: asyncio.AbstractEventLoop, call: _Call, timeout: float | None) -> None:
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

    def following(self) -> _Following:
        """For the length of a `with`, the caller waits without leading: somebody else does."""
        return _Following(self)

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
                self.run(ending, _CLOSE_SECONDS)

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


def _start_in(loop: asyncio.AbstractEventLoop, call: _Call) -> None:
    """Start a call as if `loop` ran, which saves a turn of it."""
    asyncio._set_running_loop(loop)
    try:
        call.start()
    finally:
        asyncio._set_running_loop(None)


class _Following:
    """For the length of a `with`, somebody waits for the loop without running it."""

    def __init__(self, loop: _Loop) -> None:
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


_loop: Final = _Loop()
# For this package: who else works in the loop.
run, start, opened, closed = _loop.run, _loop.start, _loop.opened, _loop.closed


class Handle:
    """An open device, until `close`. Any thread may call, and several at the same time.

    Each method is the one of `usbferry.aio.Handle`, and waits for its end.
    """

    def __init__(self, handle: aio.Handle) -> None:
        self._handle = handle
        self._device = handle.device
        self._finalizer = weakref.finalize(self, _loop.forgotten, handle)
        self._finalizer.atexit = False  # `_Loop` sees to it
        _loop.opened(handle)

    def __repr__(self) -> str:
        return repr(self._handle)

    @property
    def info(self) -> DeviceInfo:
        """Identity, descriptors, strings and current settings."""
        return self._device.info

    @property
    def configurations(self) -> tuple[Configuration, ...]:
        """Every configuration of the device, with its interfaces and their endpoints."""
        return self._device.info.configurations

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """Those of the configuration in force, each in its current alternate setting."""
        return self._device.info.interfaces

    @property
    def is_gone(self) -> bool:
        """Whether the device left for good."""
        return self._device.gone.done()

    def control(
        self,
        request_type: int,
        request: int,
        value: int = 0,
        index: int = 0,
        data_or_length: Buffer | int = 0,
        *,
        timeout: float | None = aio.CONTROL_SECONDS,
    ) -> bytes:
        """A control request: with a length, what the device gave (IN); with data, sends it (OUT)."""
        transfer = aio.control_transfer(request_type, request, value, index, data_or_length)
        return bytes(self._do(transfer, timeout).data)

    def read(self, endpoint: int, length: int, *, timeout: float | None = None) -> bytes:
        """Up to `length` bytes from a bulk or interrupt IN endpoint; a short packet ends it early.

        A timeout raises TimedOut, with what came until then in its `data`.
        """
        return bytes(self._do(aio.read_transfer(endpoint, length), timeout).data)

    def write(self, endpoint: int, data: Buffer, *, timeout: float | None = None, zero_packet: bool = False) -> int:
        """Send `data` to a bulk or interrupt OUT endpoint; the bytes that were taken.

        `zero_packet` ends a transfer of whole packets with an empty one, as some protocols want it.
        """
        return self._do(aio.write_transfer(endpoint, data, zero_packet), timeout).actual

    def read_packets(
        self, endpoint: int, lengths: Sequence[int], *, timeout: float | None = None
    ) -> list[tuple[Status, bytes]]:
        """One isochronous IN transfer of packets of the given lengths; each one's status and bytes."""
        return aio.packets_read(self._do(aio.read_packets_transfer(endpoint, lengths), timeout))

    def write_packets(
        self, endpoint: int, packets: Sequence[Buffer], *, timeout: float | None = None
    ) -> list[tuple[Status, int]]:
        """One isochronous OUT transfer; each packet's status and the bytes that went out."""
        return aio.packets_written(self._do(aio.write_packets_transfer(endpoint, packets), timeout))

    def set_configuration(self, value: int) -> None:
        """Select a configuration by its bConfigurationValue; 0 unconfigures the device."""
        _loop.run(self._handle.set_configuration(value))

    def set_interface(self, interface: int, alternate: int) -> None:
        """Select an alternate setting."""
        _loop.run(self._handle.set_interface(interface, alternate))

    def clear_halt(self, endpoint: int) -> None:
        """End an endpoint's halt, and start its data toggle again."""
        _loop.run(self._handle.clear_halt(endpoint))

    def request(self, setup: Setup) -> bytes:
        """Any control request that sends no data, as a Setup."""
        return bytes(self._do(aio.request_transfer(setup), aio.CONTROL_SECONDS).data)

    def get_descriptor(self, kind: int, index: int = 0, *, language: int = 0, length: int = 255) -> bytes:
        """A descriptor, raw, up to `length` bytes."""
        return _loop.run(self._handle.get_descriptor(kind, index, language=language, length=length))

    def get_string(self, index: int, language: int = 0x0409) -> str:
        """A string descriptor's text. Raises DescriptorError when it is none."""
        return _loop.run(self._handle.get_string(index, language))

    def reset(self) -> None:
        """Reset the device, and restore its configuration and alternate settings. Raises DeviceGone."""
        _loop.run(self._handle.reset())

    def close(self) -> None:
        """Give the device back; what is under way in other threads ends with DeviceGone. May be called twice."""
        if self._finalizer.detach():
            _loop.closed(self._handle)
            _loop.run(self._handle.close(), _CLOSE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _close(self) -> None:
        if self._finalizer.detach():
            _loop.closed(self._handle)
            await self._handle.close()

    def _do(self, transfer: Transfer, timeout: float | None) -> Completion:
        if timeout is not None:
            aio.check_timeout(timeout)
        call = _Call(self._device, transfer)
        try:
            _loop.call(call, timeout)
        except BaseException:  # Ctrl-C: the transfer must not go on without its caller
            _loop.soon(self._device.cancel, transfer)
            raise
        if call.completion is None:
            _loop.soon(self._device.cancel, transfer)
            with _loop.following():
                call.wait(aio.CANCEL_SECONDS)
            return aio.checked(self._device, transfer, aio.timed_out(call.ended()))
        return aio.checked(self._device, transfer, call.ended())


async def close(handle: Handle) -> None:
    """`handle.close()`, for who works in the loop."""
    await handle._close()


def open(address: str) -> Handle:
    """Claim the device at `address`, such as "usbip://host/1-2" or "virtual:zero".

    A selector may say which device is meant: "usbip://host/046d:c52b,serial=AB*". An address that stands for several
    raises Ambiguous, which lists them; one that makes no sense ValueError. Otherwise DeviceError: NotFound, Busy
    (somebody else has it), or with the reason in words.
    """
    return Handle(_loop.run(aio.open(address)))
