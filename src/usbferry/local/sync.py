"""The synchronous handle, and the one place that crosses threads: `with usbferry.open("usbip://host/1-2") as device`.

Devices live in one event loop, in a thread of its own that the first `open` starts. A call hands its transfer over and
waits on a lock, which costs less than a coroutine: no task, no second future.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from .. import aio
from ..device import Device
from ..usb.info import DeviceInfo
from ..usb.setup import Setup
from ..usb.transfer import Buffer, Completion, Transfer
from ..usb.tree import Configuration, Interface
from ..usb.types import Status

T = TypeVar("T")
_CLOSE_SECONDS: Final = 10.0


class _Loop:
    """The event loop's thread, started once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="usbferry", daemon=True).start()
            return self._loop

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine there and wait for it, from any other thread."""
        return asyncio.run_coroutine_threadsafe(work, self.get()).result(timeout)


_loop: Final = _Loop()


class _Call:
    """One transfer on its way through the loop's thread."""

    __slots__ = ("_done", "completion", "device", "transfer")

    def __init__(self, device: Device, transfer: Transfer) -> None:
        self.device = device
        self.transfer = transfer
        self.completion: Completion | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def start(self) -> None:
        """In the loop's thread."""
        try:
            answer = self.device.submit(self.transfer)
        except Exception:
            self._finish(Completion(Status.FAILED))
            raise
        if isinstance(answer, Completion):
            self._finish(answer)
        else:
            answer.add_done_callback(self._ended)

    def _ended(self, future: asyncio.Future[Completion]) -> None:
        failed = future.cancelled() or future.exception() is not None
        self._finish(Completion(Status.FAILED) if failed else future.result())

    def _finish(self, completion: Completion) -> None:
        self.completion = completion
        self._done.release()

    def wait(self, timeout: float | None) -> Completion | None:
        """In the caller's thread; None when the time is over."""
        self._done.acquire(timeout=-1 if timeout is None else timeout)
        return self.completion


class Handle:
    """An open device, until `close`. Any thread may call, and several at the same time.

    Each method is the one of `usbferry.aio.Handle`, and waits for its end.
    """

    def __init__(self, handle: aio.Handle) -> None:
        self._handle = handle
        self._device = handle.device
        self._loop = _loop.get()
        self._finalizer = weakref.finalize(self, _forgotten, handle)

    @property
    def info(self) -> DeviceInfo:
        """Identity, descriptors, strings and current settings."""
        return self._device.info

    @property
    def configurations(self) -> tuple[Configuration, ...]:
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
        """Up to `length` bytes from a bulk or interrupt IN endpoint; a short packet ends it early."""
        return bytes(self._do(aio.read_transfer(endpoint, length), timeout).data)

    def write(self, endpoint: int, data: Buffer, *, timeout: float | None = None, zero_packet: bool = False) -> int:
        """Send `data` to a bulk or interrupt OUT endpoint; the bytes that were taken."""
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
            _loop.run(self._handle.close(), _CLOSE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, transfer: Transfer, timeout: float | None) -> Completion:
        call = _Call(self._device, transfer)
        self._loop.call_soon_threadsafe(call.start)
        try:
            completion = call.wait(timeout)
        except BaseException:  # Ctrl-C: the transfer must not go on without its caller
            self._loop.call_soon_threadsafe(self._device.cancel, transfer)
            raise
        if completion is None:
            self._loop.call_soon_threadsafe(self._device.cancel, transfer)
            completion = aio.timed_out(call.wait(aio.CANCEL_SECONDS) or Completion(Status.CANCELLED))
        return aio.checked(transfer, completion)


def open(address: str) -> Handle:
    """Claim the device at `address`, such as "usbip://host/1-2" or "virtual:zero".

    An address that stands for several devices must name one. Raises ValueError for an address that makes no sense,
    and DeviceError: NotFound, Busy (somebody else has it), or with the reason in words.
    """
    return Handle(_loop.run(aio.open(address)))


def _forgotten(handle: aio.Handle) -> None:
    """The program dropped its handle, or ends, without `close`: the device is given back all the same."""
    _loop.run(handle.close(), _CLOSE_SECONDS)
