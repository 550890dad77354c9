"""Descriptors as pyusb's backends give them: objects with the specification's field names, and the extra ones as bytes.

What is extra follows libusb's descriptor.c: all between a configuration, interface or endpoint descriptor and the next
such one belongs to the first; so an association lies with what comes before it.
"""

from __future__ import annotations

from struct import Struct
from types import SimpleNamespace
from typing import Final, NamedTuple

from ..usb import build
from ..usb.descriptors import split
from ..usb.info import DeviceInfo
from ..usb.tree import Configuration, DescriptorType, Interface
from ..usb.types import Speed

Fields = SimpleNamespace


class Setting(NamedTuple):
    """An alternate setting."""

    fields: Fields
    endpoints: list[Fields]


class Layout(NamedTuple):
    """A configuration; of each interface all settings, interfaces in the device's order."""

    fields: Fields
    interfaces: list[list[Setting]]


# Layouts and names of what follows bLength and bDescriptorType.
_DEVICE: Final = (
    Struct("<HBBBBHHHBBBB"),
    "bcdUSB bDeviceClass bDeviceSubClass bDeviceProtocol bMaxPacketSize0 idVendor idProduct bcdDevice iManufacturer "
    "iProduct iSerialNumber bNumConfigurations",
)
_CONFIGURATION: Final = (
    Struct("<HBBBBB"),
    "wTotalLength bNumInterfaces bConfigurationValue iConfiguration bmAttributes bMaxPower",
)
_INTERFACE: Final = (
    Struct("<BBBBBBB"),
    "bInterfaceNumber bAlternateSetting bNumEndpoints bInterfaceClass bInterfaceSubClass bInterfaceProtocol iInterface",
)
_ENDPOINT: Final = (Struct("<BBHBBB"), "bEndpointAddress bmAttributes wMaxPacketSize bInterval bRefresh bSynchAddress")
_SPEEDS: Final = {Speed.LOW: 1, Speed.FULL: 2, Speed.HIGH: 3, Speed.SUPER: 4, Speed.SUPER_PLUS: 5}  # enum libusb_speed


def describe_device(info: DeviceInfo, bus: int, address: int, ports: tuple[int, ...]) -> Fields:
    """The device descriptor, and where the device is."""
    fields = _fields(build.device(info.device), *_DEVICE)
    fields.bNumConfigurations = len(info.configurations) or 1
    fields.bus, fields.address, fields.speed = bus, address, _SPEEDS.get(info.speed, 0)
    fields.port_number, fields.port_numbers = ports[-1], ports
    return fields


def describe(info: DeviceInfo) -> tuple[Layout, ...]:
    """The configurations; where they were not read, one with the interfaces' classes as a list has them."""
    return tuple(_layout(configuration) for configuration in info.configurations or (_told(info),))


def _told(info: DeviceInfo) -> Configuration:
    interfaces = (Interface(number, 0, *kind) for number, kind in enumerate(info.classes))
    return Configuration(info.configuration or 1, tuple(interfaces))


def _layout(configuration: Configuration) -> Layout:
    head, *others = split(build.configuration(configuration))
    layout = Layout(_fields(head, *_CONFIGURATION), [])
    settings: dict[int, list[Setting]] = {}
    last, is_skipping = layout.fields, False
    for raw in others:
        if raw[1] == DescriptorType.INTERFACE:
            is_skipping = len(raw) < 9  # as `usb.descriptors` has it: all of a broken one is extra
        if raw[1] == DescriptorType.INTERFACE and not is_skipping:
            last = _fields(raw, *_INTERFACE)
            settings.setdefault(last.bInterfaceNumber, []).append(Setting(last, []))
            current = settings[last.bInterfaceNumber][-1]
        elif raw[1] == DescriptorType.ENDPOINT and not is_skipping and _is_endpoint(raw):
            last = _fields(raw, *_ENDPOINT)
            current.endpoints.append(last)
        else:
            last.extra_descriptors += raw
    layout.interfaces.extend(settings.values())
    return _counted(layout)


def _is_endpoint(raw: bytes) -> bool:
    return len(raw) >= 7 and raw[2] & 0x0F != 0 and raw[2] & 0x70 == 0


def _counted(layout: Layout) -> Layout:
    """What a device says of its numbers may be wrong, and pyusb goes by it."""
    layout.fields.bNumInterfaces = len(layout.interfaces)
    for setting in (setting for settings in layout.interfaces for setting in settings):
        setting.fields.bNumEndpoints = len(setting.endpoints)
    return layout


def _fields(raw: bytes, struct: Struct, names: str) -> Fields:
    """A descriptor by its names; fields that it is too short for are 0."""
    values = struct.unpack(raw[2 : 2 + struct.size].ljust(struct.size, b"\0"))
    named = dict(zip(names.split(), values, strict=True))
    return Fields(bLength=raw[0], bDescriptorType=raw[1], extra_descriptors=[], **named)
