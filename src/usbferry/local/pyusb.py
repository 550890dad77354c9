"""A pyusb backend: `usb.core.find(backend=usbferry.pyusb_backend("usbip://host"))`, for any addresses of ours.

What it gives and raises is what pyusb's libusb1 backend does, down to the error numbers and the words, for programs
test these: usb/backend/libusb1.py of pyusb 1.3.1, and Linux drivers/usb/core/devio.c as far as its answers show.

It needs no lock: what `bus` and `sync` give may be used from any thread, so several may transfer on one handle.
"""

from __future__ import annotations

import errno
import weakref
from array import array
from collections.abc import Callable, Iterator
from typing import Final, NoReturn, ParamSpec, TypeVar

import usb.backend
from usb.core import USBError, USBTimeoutError

from .. import aio
from ..device import Busy, DeviceError, NotFound, Unavailable
from ..usb.info import DeviceInfo
from ..usb.tree import Endpoint
from ..usb.types import Status
from . import sync
from .bus import Bus, Import, Port
from .pyusb_descriptors import Fields, Layout, Setting, describe, describe_device

P = ParamSpec("P")
T = TypeVar("T")

_IO, _INVALID, _ACCESS, _NO_DEVICE, _NOT_FOUND, _BUSY, _TIMEOUT, _OVERFLOW, _PIPE, _INTERRUPTED, _NO_MEM = range(
    -1, -12, -1
)  # enum libusb_error
_ERRORS: Final = {
    _IO: ("Input/Output Error", errno.EIO),
    _INVALID: ("Invalid parameter", errno.EINVAL),
    _ACCESS: ("Access denied (insufficient permissions)", errno.EACCES),
    _NO_DEVICE: ("No such device (it may have been disconnected)", errno.ENODEV),
    _NOT_FOUND: ("Entity not found", errno.ENOENT),
    _BUSY: ("Resource busy", errno.EBUSY),
    _TIMEOUT: ("Operation timed out", errno.ETIMEDOUT),
    _OVERFLOW: ("Overflow", errno.EOVERFLOW),
    _PIPE: ("Pipe error", errno.EPIPE),
    _INTERRUPTED: ("System call interrupted (perhaps due to signal)", errno.EINTR),
    _NO_MEM: ("Insufficient memory", errno.ENOMEM),
}
_OF_STATUS: Final = {
    Status.STALL: _PIPE,
    Status.CANCELLED: _IO,
    Status.GONE: _NO_DEVICE,
    Status.SHUTDOWN: _NO_DEVICE,
    Status.TIMEOUT: _TIMEOUT,
    Status.SHORT: _IO,
    Status.OVERFLOW: _OVERFLOW,
    Status.PROTOCOL: _IO,
    Status.CRC: _IO,
    Status.NO_RESPONSE: _IO,
    Status.UNDERRUN: _IO,
    Status.OVERRUN: _IO,
    Status.NOT_DONE: _IO,
    Status.NO_MEMORY: _NO_MEM,
    Status.NO_BANDWIDTH: _IO,
    Status.INVALID: _INVALID,
    Status.BUSY: _BUSY,
    Status.FAILED: _IO,
}
_ISO_PACKETS: Final = 512  # in one transfer; a longer read or write is several
_MAX_INTERFACES: Final = 32  # USB_MAXINTERFACES, include/linux/usb.h


class Handle:
    """What `open_device` gives: one user of an import. A device may have several in a process, as with libusb."""

    def __init__(self, port: Port, held: Import) -> None:
        self.held = held
        self.device = held.handle
        self.user = object()
        self._finalizer = weakref.finalize(self, _release, port, held, self.user)
        self._finalizer.atexit = False  # `sync` sees to it

    def close(self) -> None:
        """Give it back, soon: the collector may be the caller, which must not be made to wait."""
        self._finalizer()

    def endpoint(self, address: int) -> Endpoint:
        """An endpoint of the settings in force. Raises USBError where they have none such."""
        for interface in self.device.interfaces:
            for endpoint in interface.endpoints:
                if endpoint.address == address:
                    return endpoint
        _fail(_NOT_FOUND)


def _release(port: Port, held: Import, user: object) -> None:
    for interface in [one for one, owner in tuple(held.claims.items()) if owner is user]:
        del held.claims[interface]
    sync.start(port.release(held))


def _drop(bus: Bus) -> None:
    """The program has no backend any more, and so no device of it."""
    sync.closed(bus)
    sync.start(bus.close())


class Backend(usb.backend.IBackend):  # type: ignore[misc]  # pyusb has no types
    """The devices at `addresses`. Raises ValueError for an address that makes no sense.

    A server that cannot be reached has no devices, and is named in one warning: programs of pyusb take no other answer.
    """

    def __init__(self, *addresses: str) -> None:
        super().__init__()
        self._bus = Bus(addresses)
        self._described: dict[Port, tuple[DeviceInfo, tuple[Layout, ...]]] = {}
        sync.opened(self._bus)
        self._finalizer = weakref.finalize(self, _drop, self._bus)
        self._finalizer.atexit = False

    def close(self) -> None:
        """Give every device back now, whoever has it open; else the collector does, when nobody has the backend."""
        if self._finalizer.detach():
            sync.closed(self._bus)
            sync.run(self._bus.close())

    # -- what is there ------------------------------------------------------------------------------------------------

    def enumerate_devices(self) -> Iterator[Port]:
        ports = sync.run(self._bus.ports())
        self._described = {port: known for port, known in self._described.items() if port in ports}
        return iter(ports)

    def get_parent(self, dev: Port) -> None:
        """Hubs are the server's business."""
        return None

    def get_device_descriptor(self, dev: Port) -> Fields:
        return describe_device(dev.info, dev.bus, dev.address, dev.numbers)

    def get_configuration_descriptor(self, dev: Port, config: int) -> Fields:
        configurations = self._configurations(dev)
        if not 0 <= config < len(configurations):
            _fail(_NOT_FOUND)
        return configurations[config].fields

    def get_interface_descriptor(self, dev: Port, intf: int, alt: int, config: int) -> Fields:
        """Raises IndexError behind the last one, which is how pyusb's loops end."""
        return self._setting(dev, intf, alt, config).fields

    def get_endpoint_descriptor(self, dev: Port, ep: int, intf: int, alt: int, config: int) -> Fields:
        """Raises IndexError behind the last one."""
        return self._setting(dev, intf, alt, config).endpoints[ep]

    def _setting(self, dev: Port, intf: int, alt: int, config: int) -> Setting:
        configurations = self._configurations(dev)
        if not 0 <= config < len(configurations):
            _fail(_NOT_FOUND)
        return configurations[config].interfaces[intf][alt]

    def _configurations(self, dev: Port) -> tuple[Layout, ...]:
        """pyusb asks for these again and again, so they are laid out once."""
        known = self._described.get(dev)
        if known is None or known[0] is not dev.info:
            known = self._described[dev] = (dev.info, describe(dev.info))
        return known[1]

    # -- handles ------------------------------------------------------------------------------------------------------

    def open_device(self, dev: Port) -> Handle:
        try:
            return Handle(dev, sync.run(dev.acquire()))
        except DeviceError as error:
            _fail(_of_error(error), error)

    def close_device(self, dev_handle: Handle) -> None:
        dev_handle.close()

    def get_configuration(self, dev_handle: Handle) -> int:
        return dev_handle.device.info.configuration

    def set_configuration(self, dev_handle: Handle, config_value: int) -> None:
        """As devio.c's proc_setconfig: not while an interface is claimed, the caller's own included."""
        if dev_handle.held.claims:
            _fail(_BUSY)
        value = max(config_value, 0)  # libusb says -1 for "unconfigured"
        if value and all(c.value != value for c in dev_handle.device.configurations):
            _fail(_NOT_FOUND)
        _translated(dev_handle.device.set_configuration, value)

    def claim_interface(self, dev_handle: Handle, intf: int) -> None:
        if not 0 <= intf < _MAX_INTERFACES:
            _fail(_INVALID)
        if dev_handle.device.is_gone:
            _fail(_NO_DEVICE)
        if all(interface.number != intf for interface in dev_handle.device.interfaces):
            _fail(_NOT_FOUND)
        if dev_handle.held.claims.setdefault(intf, dev_handle.user) is not dev_handle.user:
            _fail(_BUSY)

    def release_interface(self, dev_handle: Handle, intf: int) -> None:
        if dev_handle.held.claims.get(intf) is not dev_handle.user:
            _fail(_NOT_FOUND)
        del dev_handle.held.claims[intf]

    def set_interface_altsetting(self, dev_handle: Handle, intf: int, altsetting: int) -> None:
        if dev_handle.held.claims.get(intf) is not dev_handle.user:
            _fail(_NOT_FOUND)
        _translated(dev_handle.device.set_interface, intf, altsetting)

    def clear_halt(self, dev_handle: Handle, ep: int) -> None:
        dev_handle.endpoint(ep)
        _translated(dev_handle.device.clear_halt, ep)

    def reset_device(self, dev_handle: Handle) -> None:
        """The import and what is claimed stay. A device that became another one is not found, as with libusb."""
        try:
            dev_handle.device.reset()
        except aio.DeviceGone as error:
            _fail(_NOT_FOUND, error)
        except aio.TransferError as error:
            _fail(_OF_STATUS[error.status], error)

    def is_kernel_driver_active(self, dev_handle: Handle, intf: int) -> bool:
        """Never: the device is this process's alone. `NotImplementedError` would be some programs' end."""
        return False

    def detach_kernel_driver(self, dev_handle: Handle, intf: int) -> None:
        """Nothing to do. libusb says "not found" there, but a program that does not ask first means no harm."""

    def attach_kernel_driver(self, dev_handle: Handle, intf: int) -> None:
        """Nothing to do."""

    # -- transfers ----------------------------------------------------------------------------------------------------

    def ctrl_transfer(
        self,
        dev_handle: Handle,
        bmRequestType: int,
        bRequest: int,
        wValue: int,
        wIndex: int,
        data: array[int],
        timeout: int,
    ) -> int:
        device, seconds = dev_handle.device, _seconds(timeout)
        if bmRequestType & 0x80:
            room = _bytes_of(data)
            setup = (bmRequestType, bRequest, wValue, wIndex, len(room))
            return _fill(room, _translated(device.control, *setup, timeout=seconds))
        payload = data.tobytes()
        _translated(device.control, bmRequestType, bRequest, wValue, wIndex, payload, timeout=seconds)
        return len(payload)

    def bulk_write(self, dev_handle: Handle, ep: int, intf: int, data: array[int], timeout: int) -> int:
        """The bytes that were taken. A timeout is an error only when there were none, as in pyusb."""
        try:
            return dev_handle.device.write(ep, data.tobytes(), timeout=_seconds(timeout))
        except aio.TimedOut as error:
            return error.actual or _fail(_TIMEOUT, error)
        except (aio.TransferError, ValueError) as error:
            _fail(_of_error(error), error)

    def bulk_read(self, dev_handle: Handle, ep: int, intf: int, buff: array[int], timeout: int) -> int:
        """The bytes that came, now in `buff`. A timeout is an error only when there were none, as in pyusb."""
        room = _bytes_of(buff)
        try:
            return _fill(room, dev_handle.device.read(ep, len(room), timeout=_seconds(timeout)))
        except aio.TimedOut as error:
            return _fill(room, error.data) or _fail(_TIMEOUT, error)
        except (aio.TransferError, ValueError) as error:
            _fail(_of_error(error), error)

    intr_write = bulk_write
    intr_read = bulk_read

    def iso_write(self, dev_handle: Handle, ep: int, intf: int, data: array[int], timeout: int) -> int:
        """As many packets as the data needs, each as long as the endpoint can; the bytes that went out."""
        device, seconds, sent = dev_handle.device, _seconds(timeout), 0
        for at, lengths in _iso_transfers(data.itemsize * len(data), dev_handle.endpoint(ep)):
            packets, payload = [], memoryview(data).cast("B")
            for length in lengths:
                packets.append(bytes(payload[at : at + length]))
                at += length
            done = _translated(device.write_packets, ep, packets, timeout=seconds)
            sent += sum(actual for _, actual in done)
        return sent

    def iso_read(self, dev_handle: Handle, ep: int, intf: int, buff: array[int], timeout: int) -> int:
        """What came, without the gaps that libusb leaves behind short packets: pyusb could not tell where they are."""
        device, seconds, room, at = dev_handle.device, _seconds(timeout), _bytes_of(buff), 0
        for _, lengths in _iso_transfers(len(room), dev_handle.endpoint(ep)):
            for _, packet in _translated(device.read_packets, ep, lengths, timeout=seconds):
                at += _fill(room[at:], packet)
        return at


def _iso_transfers(total: int, endpoint: Endpoint) -> Iterator[tuple[int, list[int]]]:
    """Where each transfer begins, and the lengths of its packets."""
    packet = endpoint.service_bytes
    if not packet:
        _fail(_INVALID)
    step = packet * _ISO_PACKETS
    for start in range(0, total, step):
        end = min(start + step, total)
        yield start, [min(packet, end - at) for at in range(start, end, packet)]


def _bytes_of(buffer: array[int]) -> memoryview:
    return memoryview(buffer).cast("B")


def _fill(room: memoryview, data: bytes) -> int:
    room[: len(data)] = data
    return len(data)


def _seconds(milliseconds: int) -> float | None:
    """pyusb's timeouts, of which 0 is none."""
    return milliseconds / 1000 if milliseconds else None


# -- errors ------------------------------------------------------------------------------------------------------------


def _translated(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    try:
        return function(*arguments, **named)
    except (aio.TransferError, ValueError) as error:
        _fail(_of_error(error), error)


def _of_error(error: Exception) -> int:
    """The libusb error for one of ours."""
    if isinstance(error, aio.TransferError):
        return _OF_STATUS[error.status]
    if isinstance(error, Busy | Unavailable):
        return _BUSY
    if isinstance(error, NotFound):
        return _NO_DEVICE
    if isinstance(error.__cause__, OSError):  # files and servers of which a device is made
        return _ACCESS if isinstance(error.__cause__, PermissionError) else _NO_DEVICE
    return _INVALID if isinstance(error, ValueError) else _IO


def _fail(code: int, cause: Exception | None = None) -> NoReturn:
    """Raise pyusb's error for a libusb code. Why a device cannot be opened is added: libusb has no words for that."""
    text, number = _ERRORS[code]
    if isinstance(cause, DeviceError):
        text = f"{text}: {cause}"
    raise (USBTimeoutError if code == _TIMEOUT else USBError)(text, code, number) from cause
