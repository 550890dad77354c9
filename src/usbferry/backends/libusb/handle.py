"""An opened device and the calls of libusb that block: each runs in the device's own thread, one after the other.

The rule that keeps the machine's own drivers well: an interface is claimed with its kernel driver detached, and it is
released with the driver bound to it again. Between the two, settings are changed and the device is reset without that.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from ...device import ResetOutcome
from ...usb.info import DeviceInfo
from . import guard, sysfs
from .library import NO_DEVICE, NOT_FOUND, NOT_SUPPORTED, Context, LibraryError, check, library, streams

log: Final = logging.getLogger(__name__)
T = TypeVar("T")


class Handle:
    """One libusb_device_handle. `address` is for transfers; every method is for the thread that `call` runs it in."""

    def __init__(self, context: Context, device: Any, info: DeviceInfo) -> None:
        """Open it. Blocks. Raises LibraryError."""
        self.context = context
        self.info = info
        self.claimed: list[int] = []
        self._node = sysfs.node(info.bus, info.address)
        self._guarded: set[int] = set()  # interfaces of ours that a driver is to have again
        self._device = device  # a reference of ours
        self.pointer = library().libusb_device_handle_p()
        try:
            check(library().libusb_open(device, ctypes.byref(self.pointer)))
        except LibraryError:
            library().libusb_unref_device(device)
            raise
        self.address: int = ctypes.cast(self.pointer, ctypes.c_void_p).value or 0
        self._thread = ThreadPoolExecutor(1, f"libusb {info.name}")
        self._canceller = ThreadPoolExecutor(1, f"libusb cancels {info.name}")

    def call(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Run something that blocks, behind what was asked for before."""
        return asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def cancel(self, transfers: Iterable[Any]) -> asyncio.Future[None]:
        """Ask for the end of transfers, which are not freed before this ends; each may have ended by itself.

        In a thread of its own: the kernel answers when the controller has let go, a frame or two later, and what the
        other thread does may wait for seconds.
        """
        asked = asyncio.get_running_loop().run_in_executor(self._canceller, _cancel, tuple(transfers))
        self.context.asking(asked)
        return asked

    def begin(self) -> None:
        """Make it ours, its settings known: the configuration in force or else its first, alternate settings 0."""
        info = self.info
        self._detach(True)
        value = ctypes.c_int()
        check(library().libusb_get_configuration(self.pointer, ctypes.byref(value)))
        if not value.value and info.configurations:
            value.value = info.configurations[0].value
            check(library().libusb_set_configuration(self.pointer, value.value))
        info.configuration = value.value
        self._claim()
        several = {i.number for i in info.interfaces if self._has_alternates(i.number)}
        for number in several & set(self.claimed):
            self.set_interface(number, 0)

    def set_configuration(self, value: int) -> None:
        """Another configuration. The interfaces of the old one are let go before, those of the new one claimed."""
        self._detach(False)  # what is let go now is not for the kernel's drivers
        try:
            self._release()
            check(library().libusb_set_configuration(self.pointer, value or -1))
            self.info.configuration = value
            self.info.alternates.clear()
        finally:
            self._detach(True)
            self._claim()

    def set_interface(self, number: int, alternate: int) -> None:
        check(library().libusb_set_interface_alt_setting(self.pointer, number, alternate))
        self.info.alternates.pop(number, None)
        if alternate:
            self.info.alternates[number] = alternate

    def clear_halt(self, address: int) -> None:
        check(library().libusb_clear_halt(self.pointer, address))

    def reset(self) -> ResetOutcome:
        """Reset its port. The system restores the configuration, and what claimed the interfaces; we, the settings."""
        alternates = dict(self.info.alternates)
        try:
            check(library().libusb_reset_device(self.pointer))
            for number, alternate in alternates.items():
                self.set_interface(number, alternate)
        except LibraryError as error:
            if error.code not in (NOT_FOUND, NO_DEVICE):
                raise
            return ResetOutcome.GONE
        return ResetOutcome.SAME

    def alloc_streams(self, endpoints: Iterable[int], count: int) -> int:
        """How many streams there are now on each. Raises LibraryError."""
        file = streams()
        if file is None:
            raise LibraryError(NOT_SUPPORTED)
        addresses = bytes(endpoints)
        return check(file.libusb_alloc_streams(self.pointer, ctypes.c_uint32(count), addresses, len(addresses)))

    def free_streams(self, endpoints: Iterable[int]) -> None:
        file = streams()
        if file is None:
            raise LibraryError(NOT_SUPPORTED)
        addresses = bytes(endpoints)
        check(file.libusb_free_streams(self.pointer, addresses, len(addresses)))

    def end(self, configuration: int, is_here: bool) -> None:
        """Give it back as it was found: reset, in `configuration`, kernel drivers bound again. Nothing is in flight."""
        try:
            if is_here:
                self.info.alternates.clear()
                if self.reset() is ResetOutcome.GONE:
                    self.claimed.clear()
                    return
                if self.info.configuration != configuration:
                    self.set_configuration(configuration)
        except LibraryError as error:
            log.warning("%s was not given back as it was found: %s", self.info.name, error)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of it as it is; what is claimed still goes back to its drivers."""
        self._release()
        library().libusb_close(self.pointer)
        guard.released(self._node, self._guarded)
        library().libusb_unref_device(self._device)

    def stop(self) -> None:
        """The threads end with what they do now."""
        self._thread.shutdown(wait=False)
        self._canceller.shutdown(wait=False)

    def _has_alternates(self, number: int) -> bool:
        active = self.info.active
        return active is not None and sum(i.number == number for i in active.interfaces) > 1

    def _detach(self, automatic: bool) -> None:
        code = library().libusb_set_auto_detach_kernel_driver(self.pointer, int(automatic))
        if code < 0 and code != NOT_SUPPORTED:  # as on Windows, where a driver is for good
            log.debug("%s: %s", self.info.name, LibraryError(code))

    def _claim(self) -> None:
        for number in sorted({interface.number for interface in self.info.interfaces} - set(self.claimed)):
            if sys.platform == "linux" and library().libusb_kernel_driver_active(self.pointer, number) == 1:
                self._guarded.add(number)
                guard.claimed(self._node, number)
            check(library().libusb_claim_interface(self.pointer, number))
            self.claimed.append(number)

    def _release(self) -> None:
        while self.claimed:
            code = library().libusb_release_interface(self.pointer, self.claimed.pop())
            if code < 0 and code not in (NOT_FOUND, NO_DEVICE):
                log.warning("%s: an interface is not let go: %s", self.info.name, LibraryError(code))


def _cancel(transfers: tuple[Any, ...]) -> None:
    for transfer in transfers:
        library().libusb_cancel_transfer(transfer)
