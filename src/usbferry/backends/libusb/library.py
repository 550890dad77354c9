"""libusb itself and one context of it: transfers go in, completions come out in the event loop.

On Linux the loop watches libusb's descriptors and has its events handled without waiting, in its own thread. While a
transfer is asked to end, and that takes as long as the kernel likes, a thread handles them: libusb does it under a lock
that it wants here too. So it is done, all the time, where the descriptors cannot be watched. A completion is put in a
queue then, and the loop is woken only if it does not know yet: 0.2 us each where one wake-up for each costs 5.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, Final

from ...device import DeviceError
from ...extras import install
from ...transports import turn
from ...usb.types import Status
from .descriptors import Descriptors

log: Final = logging.getLogger(__name__)

# enum libusb_error, libusb.h
IO, INVALID_PARAM, ACCESS, NO_DEVICE, NOT_FOUND, BUSY = -1, -2, -3, -4, -5, -6
TIMEOUT, OVERFLOW, PIPE, INTERRUPTED, NO_MEM, NOT_SUPPORTED, OTHER = -7, -8, -9, -10, -11, -12, -99

STATUSES: Final = {
    IO: Status.PROTOCOL,
    INVALID_PARAM: Status.INVALID,
    ACCESS: Status.FAILED,
    NO_DEVICE: Status.GONE,
    NOT_FOUND: Status.STALL,
    BUSY: Status.BUSY,
    TIMEOUT: Status.TIMEOUT,
    OVERFLOW: Status.OVERFLOW,
    PIPE: Status.STALL,
    INTERRUPTED: Status.FAILED,
    NO_MEM: Status.NO_MEMORY,
    NOT_SUPPORTED: Status.INVALID,
    OTHER: Status.FAILED,
}

_HAS_HOTPLUG: Final = 0x0001  # LIBUSB_CAP_HAS_HOTPLUG
_ARRIVED_OR_LEFT: Final = 0x03  # LIBUSB_HOTPLUG_EVENT_DEVICE_ARRIVED | _LEFT
_ANY: Final = -1  # LIBUSB_HOTPLUG_MATCH_ANY
LEFT: Final = 0x02  # LIBUSB_HOTPLUG_EVENT_DEVICE_LEFT

# glibc hands the memory of large buffers back to the kernel when they are freed, and is given it anew, a page fault for
# each 4 KiB: for 64 KiB three times what all else costs. It keeps as much as the largest that it has seen freed.
KEPT_BYTES: Final = 16 << 20  # what the kernel lets usbfs have in flight

# Declared with plain addresses, which cost a third of ctypes' own pointer objects for each call.
_TransferCallback: Final = getattr(ctypes, "WINFUNCTYPE", ctypes.CFUNCTYPE)(None, ctypes.c_void_p)


class LibraryError(Exception):
    """A call of libusb's failed. `code` is its enum libusb_error."""

    def __init__(self, code: int) -> None:
        super().__init__(_words(code))
        self.code = code


def check(code: int) -> int:
    """What a call returned, if that is no error. Raises LibraryError."""
    if code < 0:
        raise LibraryError(code)
    return code


def _words(code: int) -> str:
    text: bytes | None = library().libusb_strerror(code)
    return text.decode(errors="replace") if text else f"libusb error {code}"


@cache
def library() -> Any:
    """The functions and structures of libusb: the file in $USBFERRY_LIBUSB, else the bundled one, else the system's.

    Raises DeviceError with the remedy where there is none.
    """
    try:
        import usb1
    except ImportError:
        raise DeviceError(
            f"devices of this machine need two more packages: {install('libusb1', 'libusb-package')}"
        ) from None
    try:
        usb1.loadLibrary(_file())
        from usb1 import libusb1
    except OSError as error:
        raise DeviceError(f"libusb cannot be loaded ({error}); try: {install('libusb-package')}") from error
    return libusb1


@cache
def _file() -> Any:
    """The library's file; None leaves the choice to usb1, which knows where systems keep theirs."""
    path = os.environ.get("USBFERRY_LIBUSB") or _bundled()
    return getattr(ctypes, "WinDLL", ctypes.CDLL)(path, use_errno=True) if path else None


def _bundled() -> str | None:
    try:
        import libusb_package
    except ImportError:
        return None
    path = libusb_package.get_library_path()
    return str(path) if path else None


def streams() -> Any:
    """Where the calls for bulk streams are, which usb1 does not declare; None where libusb has none."""
    file = _file()
    return file if file is not None and hasattr(file, "libusb_alloc_streams") else None


Listener = Callable[[int, int, int], None]


class Context:
    """One libusb context, for one event loop. `open` and `close` are called in a thread, all else in the loop.

    `flying` has what is to be called when a transfer ends, by the address of its struct libusb_transfer; the owner
    frees the struct then, and not before.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.flying: dict[int, Callable[[], None]] = {}
        self.pointer: Any = None  # libusb_context *
        # Structs libusb_transfer that nobody uses: of each the pointer, the address, and what ctypes makes of it.
        self.spare: list[tuple[Any, int, Any]] = []
        self.listeners: set[Listener] = set()
        """Called with (event, bus, address) when a device arrived or left, as far as libusb learns of it."""
        self.callback = 0  # for every transfer's struct
        self._loop = loop
        self._ended: deque[int] = deque()
        self._is_awake = False  # the loop will look at `_ended`
        self._stop = ctypes.c_int(0)
        self._thread: threading.Thread | None = None  # that handles events all the time
        self._descriptors: Descriptors | None = None
        self._is_watching = False
        self._asking = 0  # threads that ask libusb for the end of transfers
        self._handling = threading.Lock()  # of a thread that handles events once
        self._hotplug: Any = None
        self._no_time: Any = None  # struct timeval *

    def open(self) -> None:
        """Start it. Raises DeviceError."""
        lib = library()
        pointer = lib.libusb_context_p()
        try:
            check(lib.libusb_init_context(ctypes.byref(pointer), None, 0))
        except LibraryError as error:
            raise DeviceError(f"libusb does not start: {error}") from error
        self.pointer = pointer
        self._no_time = ctypes.byref(lib.timeval(0, 0))
        bytearray(KEPT_BYTES)
        self._callback = _TransferCallback(self._completed)
        self.callback = ctypes.cast(self._callback, ctypes.c_void_p).value or 0
        self._watch_plugs()
        try:
            self._descriptors = Descriptors(lib, pointer, self._start_thread)
        except OSError:
            self._start_thread()
        else:
            self._loop.call_soon_threadsafe(self._watch)

    def rest(self) -> None:
        """Handle no events any more: its devices are closed, and it is next."""
        self._stop.value = 1
        self._watch()

    def close(self) -> None:
        """End it, after `rest`."""
        lib = library()
        if self._thread is not None:
            lib.libusb_interrupt_event_handler(self.pointer)
            self._thread.join()
        for pointer, *_ in self.spare:
            lib.libusb_free_transfer(pointer)
        with self._handling:
            lib.libusb_exit(self.pointer)
        if self._descriptors is not None:
            self._descriptors.close()

    def asking(self, future: asyncio.Future[None]) -> None:
        """A thread asks for the end of transfers until `future` ends."""
        self._asking += 1
        future.add_done_callback(self._asked)

    def _asked(self, _: object) -> None:
        self._asking -= 1

    def _watch_plugs(self) -> None:
        lib = library()
        if lib.libusb_has_capability(_HAS_HOTPLUG):
            self._hotplug = lib.libusb_hotplug_callback_fn_p(self._plugged)
            args = (_ARRIVED_OR_LEFT, 0, _ANY, _ANY, _ANY, self._hotplug, None, None)
            lib.libusb_hotplug_register_callback(self.pointer, *args)

    # -- in the thread that handles events ----------------------------------------------------------------------------

    def _start_thread(self) -> None:
        """Called in any thread."""
        with self._handling:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="libusb events", daemon=True)
        self._thread.start()
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._watch)

    def _run(self) -> None:
        lib, stop = library(), ctypes.byref(self._stop)
        while not self._stop.value:
            code = lib.libusb_handle_events_completed(self.pointer, stop)
            if code < 0 and code != INTERRUPTED:
                log.error("libusb handles no events: %s", _words(code))
                time.sleep(0.1)  # it may pass; not as fast as the machine can until then

    def _handle(self) -> int:
        """Handle what there is, and do not wait for more."""
        return int(library().libusb_handle_events_timeout_completed(self.pointer, self._no_time, None))

    def _handle_here(self) -> None:
        with self._handling:
            if not self._stop.value:
                self._handle()

    def _completed(self, address: int) -> None:
        self._ended.append(address)
        if not self._is_awake:
            self._is_awake = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._wake)

    def _plugged(self, context: object, device: Any, event: int, data: object) -> int:
        lib = library()
        where = (event, lib.libusb_get_bus_number(device), lib.libusb_get_device_address(device))
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._tell, *where)
        return 0

    # -- in the loop --------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Watch the descriptors, or do so no more."""
        if self._descriptors is None:
            return
        watch = self._thread is None and not self._stop.value
        if watch and not self._is_watching:
            self._loop.add_reader(self._descriptors.fileno(), self._ready)
        elif self._is_watching and not watch:
            self._loop.remove_reader(self._descriptors.fileno())
        self._is_watching = watch

    def _ready(self) -> None:
        if self._asking:
            assert self._descriptors is not None
            self._loop.remove_reader(self._descriptors.fileno())
            self._is_watching = False
            self._loop.run_in_executor(None, self._handle_here).add_done_callback(lambda _: self._watch())
            return
        self._is_awake = True
        code = self._handle()
        turn.take(self._deliver)
        if code < 0 and code != INTERRUPTED:
            self._start_thread()  # which says so, and takes its time

    def _wake(self) -> None:
        turn.take(self._deliver)

    def _deliver(self) -> None:
        self._is_awake = False  # first: what ends from here on wakes the loop again
        ended, flying = self._ended, self.flying
        while ended:
            try:
                flying.pop(ended.popleft())()
            except Exception:  # one that cannot be told of must not keep the others
                log.exception("unexpected")

    def _tell(self, event: int, bus: int, address: int) -> None:
        for listener in tuple(self.listeners):
            listener(event, bus, address)
