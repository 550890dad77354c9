"""What is plugged in now, told without opening it: identities, descriptors, bus ids, and on Linux strings and drivers.

Each scan asks a context of its own: one that lives longer learns of changes from netlink, which containers lack.
"""

from __future__ import annotations

import ctypes
import logging
from dataclasses import dataclass
from typing import Any, Final

from ...usb.descriptors import DescriptorError, parse_configuration, parse_device
from ...usb.info import DeviceInfo
from ...usb.tree import Configuration
from ...usb.types import Speed
from . import sysfs
from .library import LibraryError, check, library

log: Final = logging.getLogger(__name__)
_PORTS: Final = 7  # hubs between a device and its host, with the host's own: USB 2.0 §4.1.1
_SPEEDS: Final = {1: Speed.LOW, 2: Speed.FULL, 3: Speed.HIGH, 4: Speed.SUPER, 5: Speed.SUPER_PLUS}


@dataclass(frozen=True, slots=True)
class Plugged:
    """A device that is there. Two of them are equal when it was not plugged anew between."""

    name: str  # its bus id, "1-2.3": the bus, and the port of each hub on the way
    bus: int
    address: int  # another one after each plugging, and after some resets
    vendor_id: int
    product_id: int


def plugged_in(context: Any = None) -> dict[Plugged, DeviceInfo]:
    """What is there, by bus id; root hubs are no devices. Blocks for some milliseconds. Raises LibraryError."""
    found = []
    with _Listing(context) as devices:
        for device in devices:
            plugged = identify(device)
            if plugged is not None and (info := _describe(plugged, device)) is not None:
                found.append((plugged, info))
    return dict(sorted(found, key=lambda one: _order(one[0].name)))


class _Listing:
    """The devices of a context, or of one made for this, while a `with` lasts."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._is_own = context is None
        self._list: Any = None

    def __enter__(self) -> list[Any]:
        lib = library()
        if self._is_own:
            self._context = lib.libusb_context_p()
            check(lib.libusb_init_context(ctypes.byref(self._context), None, 0))
        self._list = lib.libusb_device_p_p()
        try:
            count = check(lib.libusb_get_device_list(self._context, ctypes.byref(self._list)))
        except LibraryError:
            self._exit()
            raise
        return list(self._list[:count])

    def __exit__(self, *_: object) -> None:
        library().libusb_free_device_list(self._list, 1)
        self._exit()

    def _exit(self) -> None:
        if self._is_own:
            library().libusb_exit(self._context)


def find(context: Any, plugged: Plugged) -> Any:
    """The libusb_device of a context, referenced, or None where the context does not know it."""
    with _Listing(context) as devices:
        for device in devices:
            if identify(device) == plugged:
                return library().libusb_ref_device(device)
    return None


def identify(device: Any) -> Plugged | None:
    """Which device it is; None for a root hub, and for what left this moment."""
    lib = library()
    ports = (ctypes.c_uint8 * _PORTS)()
    count = lib.libusb_get_port_numbers(device, ports, _PORTS)
    descriptor = lib.libusb_device_descriptor()
    if count <= 0 or lib.libusb_get_device_descriptor(device, ctypes.byref(descriptor)) < 0:
        return None
    bus = lib.libusb_get_bus_number(device)
    name = f"{bus}-{'.'.join(str(port) for port in ports[:count])}"
    address = lib.libusb_get_device_address(device)
    return Plugged(name, bus, address, descriptor.idVendor, descriptor.idProduct)


def _describe(plugged: Plugged, device: Any) -> DeviceInfo | None:
    lib = library()
    descriptor = lib.libusb_device_descriptor()
    lib.libusb_get_device_descriptor(device, ctypes.byref(descriptor))
    try:
        parsed = parse_device(bytes(descriptor))
        configurations = tuple(_configurations(device, parsed.configurations))
    except DescriptorError as error:
        log.warning("%s is left out, its descriptors are broken: %s", plugged.name, error)
        return None
    return DeviceInfo(
        plugged.name,
        parsed,
        configurations,
        _SPEEDS.get(lib.libusb_get_device_speed(device), Speed.UNKNOWN),
        _active(plugged.name, device),
        bus=plugged.bus,
        address=plugged.address,
        path=sysfs.path(plugged.name),
        manufacturer=sysfs.text(plugged.name, "manufacturer"),
        product=sysfs.text(plugged.name, "product"),
        serial=sysfs.text(plugged.name, "serial"),
        drivers=sysfs.drivers(plugged.name),
    )


def _configurations(device: Any, count: int) -> list[Configuration]:
    found = []
    lib = library()
    for index in range(count):
        pointer = lib.libusb_config_descriptor_p()
        if lib.libusb_get_config_descriptor(device, index, ctypes.byref(pointer)) < 0:
            continue  # some devices announce more than they have
        try:
            found.append(parse_configuration(_raw(pointer.contents)))
        finally:
            lib.libusb_free_config_descriptor(pointer)
    return found


def _active(name: str, device: Any) -> int:
    """bConfigurationValue in force, 0 for none."""
    lib = library()
    pointer = lib.libusb_config_descriptor_p()
    if lib.libusb_get_active_config_descriptor(device, ctypes.byref(pointer)) < 0:
        return 0
    value = int(pointer.contents.bConfigurationValue)
    lib.libusb_free_config_descriptor(pointer)
    return value


def _raw(configuration: Any) -> bytes:
    """The bytes that libusb took apart, and which it gives to nobody: its structs begin with them."""
    pieces = [_extra(configuration)]
    for interface in configuration.interface[: configuration.bNumInterfaces]:
        for setting in interface.altsetting[: interface.num_altsetting]:
            pieces += [_start(setting, 9), _extra(setting)]
            for endpoint in setting.endpoint[: setting.bNumEndpoints]:
                pieces += [_start(endpoint, min(endpoint.bLength, 9)), _extra(endpoint)]
    rest = b"".join(pieces)
    head = bytearray(_start(configuration, 9))
    head[2:4] = (len(head) + len(rest)).to_bytes(2, "little")
    return bytes(head) + rest


def _start(struct: Any, count: int) -> bytes:
    return ctypes.string_at(ctypes.addressof(struct), count)


def _extra(struct: Any) -> bytes:
    return ctypes.string_at(struct.extra, struct.extra_length) if struct.extra_length else b""


def _order(name: str) -> list[int]:
    return [int(part) for part in name.replace("-", ".").split(".")]
