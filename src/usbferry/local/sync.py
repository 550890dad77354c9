"""The synchronous handle: `with usbferry.open("usbip://host/1-2") as device`. Who waits runs `shared_loop`."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from .. import aio
from ..usb.setup import Setup
from ..usb.transfer import Buffer, Completion, Transfer
from ..usb.types import Status
from .shared_loop import CLOSE_SECONDS, LOOP, Call

# For this package: who else works in the loop.
run, start, opened, closed = LOOP.run, LOOP.start, LOOP.opened, LOOP.closed


class Handle(aio.Described):
    """An open device, until `close`. Any thread may call, and several at the same time.

    Each method is the one of `usbferry.aio.Handle`, and waits for its end.
    """

    def __init__(self, handle: aio.Handle) -> None:
        super().__init__(handle.device)
        self._handle = handle
        self._finalizer = weakref.finalize(self, LOOP.forgotten, handle)
        self._finalizer.atexit = False  # `LOOP` sees to it
        LOOP.opened(handle)

    def __repr__(self) -> str:
        return repr(self._handle)

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
        LOOP.run(self._handle.set_configuration(value))

    def set_interface(self, interface: int, alternate: int) -> None:
        """Select an alternate setting."""
        LOOP.run(self._handle.set_interface(interface, alternate))

    def clear_halt(self, endpoint: int) -> None:
        """End an endpoint's halt, and start its data toggle again."""
        LOOP.run(self._handle.clear_halt(endpoint))

    def request(self, setup: Setup) -> bytes:
        """Any control request that sends no data, as a Setup."""
        return bytes(self._do(aio.request_transfer(setup), aio.CONTROL_SECONDS).data)

    def get_descriptor(self, kind: int, index: int = 0, *, language: int = 0, length: int = 255) -> bytes:
        """A descriptor, raw, up to `length` bytes."""
        return LOOP.run(self._handle.get_descriptor(kind, index, language=language, length=length))

    def get_string(self, index: int, language: int = 0x0409) -> str:
        """A string descriptor's text. Raises DescriptorError when it is none."""
        return LOOP.run(self._handle.get_string(index, language))

    def reset(self) -> None:
        """Reset the device, and restore its configuration and alternate settings. Raises DeviceGone."""
        LOOP.run(self._handle.reset())

    def close(self) -> None:
        """Give the device back; what is under way in other threads ends with DeviceGone. May be called twice."""
        if self._finalizer.detach():
            LOOP.closed(self._handle)
            LOOP.run(self._handle.close(), CLOSE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _close(self) -> None:
        if self._finalizer.detach():
            LOOP.closed(self._handle)
            await self._handle.close()

    def _do(self, transfer: Transfer, timeout: float | None) -> Completion:
        if timeout is not None:
            aio.check_timeout(timeout)
        call = Call(self._device, transfer)
        try:
            LOOP.call(call, timeout)
        except BaseException:  # Ctrl-C: the transfer must not go on without its caller
            LOOP.soon(self._device.cancel, transfer)
            raise
        if call.completion is None:
            LOOP.soon(self._device.cancel, transfer)
            with LOOP.following():
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
    return Handle(LOOP.run(aio.open(address)))
