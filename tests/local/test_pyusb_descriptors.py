"""Descriptors as pyusb's libusb backend lays them out: names, counts, and where the extra ones are."""

from __future__ import annotations

import pytest

from usbferry.local.pyusb_descriptors import describe, describe_device
from usbferry.usb import build
from usbferry.usb.descriptors import parse_configuration
from usbferry.usb.info import DeviceInfo
from usbferry.usb.tree import Association, Companion, Configuration, DeviceDescriptor, Endpoint, Interface
from usbferry.usb.types import Speed, TransferType

BULK = TransferType.BULK
DEVICE = DeviceDescriptor(0x1209, 0x0001, 0x0310, release=0x0123, manufacturer=1, serial=3, configurations=2)


def info(*configurations: Configuration, **others: object) -> DeviceInfo:
    return DeviceInfo("1-1", DEVICE, configurations, **others)  # type: ignore[arg-type]


def test_a_device():
    fields = describe_device(info(Configuration(1), Configuration(2), speed=Speed.SUPER), 3, 4, (1, 2))
    assert (fields.bLength, fields.bDescriptorType, fields.bcdUSB, fields.bcdDevice) == (18, 1, 0x0310, 0x0123)
    assert (fields.iManufacturer, fields.iProduct, fields.iSerialNumber, fields.bNumConfigurations) == (1, 0, 3, 2)
    assert (fields.bus, fields.address, fields.port_number, fields.port_numbers, fields.speed) == (3, 4, 2, (1, 2), 4)


def test_a_configuration_with_all_its_parts():
    one = Interface(0, 0, endpoints=(Endpoint(0x81, BULK, 512), Endpoint(0x01, BULK, 512)), extra=(b"\x03\x24\x01",))
    other = Interface(0, 1, endpoints=(Endpoint(0x81, BULK, 512, extra=(b"\x02\x25",)),))
    second = Interface(1, 0, interface_class=8, string=5)
    [layout] = describe(info(Configuration(7, (one, other, second), extra=(b"\x03\x99\x00",))))
    assert (layout.fields.bConfigurationValue, layout.fields.bNumInterfaces) == (7, 2)
    assert layout.fields.extra_descriptors == [3, 0x99, 0]
    assert [[s.fields.bAlternateSetting for s in settings] for settings in layout.interfaces] == [[0, 1], [0]]
    first = layout.interfaces[0][0]
    assert (first.fields.extra_descriptors, first.fields.bNumEndpoints) == ([3, 0x24, 1], 2)
    assert [e.bEndpointAddress for e in first.endpoints] == [0x81, 0x01]
    assert layout.interfaces[0][1].endpoints[0].extra_descriptors == [2, 0x25]
    assert (layout.interfaces[1][0].fields.bInterfaceClass, layout.interfaces[1][0].fields.iInterface) == (8, 5)


def test_an_association_lies_with_what_comes_before_it():
    interfaces = tuple(Interface(n, endpoints=(Endpoint(0x81 + n, BULK, 512),)) for n in range(3))
    joined = (Association(0, 1, 2), Association(1, 2, 3))
    [layout] = describe(info(Configuration(1, interfaces, associations=joined)))
    assert layout.fields.extra_descriptors == [8, 11, 0, 1, 2, 0, 0, 0]
    assert layout.interfaces[0][0].endpoints[0].extra_descriptors == [8, 11, 1, 2, 3, 0, 0, 0]


def test_companions_are_extra_and_audio_endpoints_have_their_two_bytes():
    fast = Endpoint(0x81, BULK, 1024, companion=Companion(15))
    audio = Endpoint(0x02, TransferType.ISOCHRONOUS, 192, 4, refresh=5, synch_address=0x83)
    [layout] = describe(info(Configuration(1, (Interface(0, endpoints=(fast, audio)),))))
    first, second = layout.interfaces[0][0].endpoints
    assert (first.extra_descriptors, first.bRefresh) == ([6, 48, 15, 0, 0, 0], 0)
    assert (second.bLength, second.bRefresh, second.bSynchAddress) == (9, 5, 0x83)


@pytest.mark.parametrize(
    "broken", [b"\x05\x05\x82\x02\x40", b"\x07\x05\x00\x02\x40\x00\x00"], ids=["short", "number 0"]
)
def test_broken_endpoints_are_extra_and_not_counted(broken):
    raw = bytearray(build.configuration(Configuration(1, (Interface(0, endpoints=(Endpoint(0x81, BULK, 64),)),))))
    raw[13] = 2  # bNumEndpoints
    raw += broken
    raw[2] = len(raw)
    [layout] = describe(info(parse_configuration(bytes(raw))))
    setting = layout.interfaces[0][0]
    assert (setting.fields.bNumEndpoints, len(setting.endpoints)) == (1, 1)
    assert bytes(setting.endpoints[0].extra_descriptors) == broken


def test_what_only_a_list_tells_of_has_interfaces_without_endpoints():
    told = info(interface_classes=((8, 6, 80), (3, 1, 1)))
    assert describe_device(told, 1, 2, (1,)).bNumConfigurations == 1
    [layout] = describe(told)
    assert [s.fields.bInterfaceClass for [s] in layout.interfaces] == [8, 3]
    assert [s.fields.bNumEndpoints for [s] in layout.interfaces] == [0, 0]
