"""Descriptors, tree to bytes: what is drawn comes back, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from usb_protocol.emitters import DeviceDescriptorCollection
from usb_protocol.emitters import descriptors as emitters
from usb_protocol.types.descriptors import standard as oracle

from tests import strategies as usb
from tests.usb import vectors
from usbferry.usb import build
from usbferry.usb import descriptors as d

# --- round trips ----------------------------------------------------------------------------------------------------


@given(usb.devices)
def test_device(device: d.DeviceDescriptor) -> None:
    raw = build.device(device)
    assert (len(raw), raw[0], raw[1]) == (18, 18, 1)
    assert d.parse_device(raw) == device


@given(usb.qualifiers)
def test_qualifier(qualifier: d.Qualifier) -> None:
    raw = build.qualifier(qualifier)
    assert (len(raw), raw[0], raw[1], raw[9]) == (10, 10, 6, 0)
    assert d.parse_qualifier(raw) == qualifier


@given(usb.configurations())
def test_configuration(configuration: d.Configuration) -> None:
    raw = build.configuration(configuration)
    assert raw[2] | raw[3] << 8 == len(raw)
    assert d.parse_configuration(raw) == configuration
    assert build.other_speed(configuration) == raw[:1] + b"\x07" + raw[2:]


@given(usb.stores)
def test_bos(store: d.Bos) -> None:
    raw = build.bos(store)
    assert raw[2] | raw[3] << 8 == len(raw)
    assert raw[4] == len(store.capabilities)
    assert d.parse_bos(raw) == store


@given(usb.texts)
def test_string(text: str) -> None:
    raw = build.string(text)
    assert raw[0] == len(raw)
    assert d.parse_string(raw) == text


@given(usb.language_ids)
def test_languages(ids: tuple[int, ...]) -> None:
    assert d.parse_languages(build.languages(ids)) == ids


def test_device_vector() -> None:
    assert build.device(d.parse_device(vectors.KEYBOARD_DEVICE)) == vectors.KEYBOARD_DEVICE


def test_bos_vector() -> None:
    assert build.bos(d.parse_bos(vectors.STORAGE_BOS)) == vectors.STORAGE_BOS


# --- by hand --------------------------------------------------------------------------------------------------------


def test_a_configuration_counts_interfaces_not_settings() -> None:
    raw = build.configuration(
        d.Configuration(
            interfaces=(d.Interface(0), d.Interface(0, 1), d.Interface(1)),
            associations=(d.Association(1, 1, 0x0E),),
        )
    )
    assert raw == bytes.fromhex(
        "09 02 2c 00 02 01 00 80 32"
        "09 04 00 00 00 ff 00 00 00"
        "09 04 00 01 00 ff 00 00 00"
        "08 0b 01 01 0e 00 00 00"
        "09 04 01 00 00 ff 00 00 00"
    )


def test_qualifier_of() -> None:
    device = d.DeviceDescriptor(1, 2, 0x0200, 0xEF, 2, 1, 64, configurations=2)
    assert build.qualifier(build.qualifier_of(device)) == bytes.fromhex("0a 06 00 02 ef 02 01 40 02 00")


def test_an_audio_endpoint_needs_only_one_of_its_two_bytes() -> None:
    raw = build.endpoint(d.Endpoint(0x01, 0x05, 192, 1, synch_address=0x81))
    assert raw == bytes.fromhex("09 05 01 05 c0 00 01 00 81")


def test_the_longest_string_has_126_units() -> None:
    raw = build.string("\N{GRINNING FACE}" * 63)
    assert (len(raw), raw[0]) == (254, 254)


# --- what does not fit ----------------------------------------------------------------------------------------------

DEVICE = d.DeviceDescriptor(1, 2)
ENDPOINT = d.Endpoint(0x81, 2, 64)


def with_interface(**fields: object) -> Callable[[], bytes]:
    return lambda: build.configuration(d.Configuration(interfaces=(replace(d.Interface(0), **fields),)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("emit", "message"),
    [
        (lambda: build.device(replace(DEVICE, vendor_id=0x10000)), "idVendor is 65536, it must be 0 to 65535"),
        (lambda: build.device(replace(DEVICE, serial=-1)), "iSerialNumber is -1, it must be 0 to 255"),
        (lambda: build.qualifier(d.Qualifier(0x200, 0, 0, 0, 256, 1)), "bMaxPacketSize0 is 256"),
        (lambda: build.configuration(d.Configuration(max_power=500)), "bMaxPower is 500"),
        (
            lambda: build.configuration(d.Configuration(extra=(b"\xff\x24" + bytes(253),) * 257)),
            "wTotalLength is 65544",
        ),
        (with_interface(number=256), "bInterfaceNumber is 256"),
        (with_interface(endpoints=(ENDPOINT,) * 256), "bNumEndpoints is 256"),
        (with_interface(tail=bytes(250)), "bLength of INTERFACE is 259"),
        (with_interface(extra=(b"\x03\x24",)), "raw descriptor of 2 bytes does not begin with its length: 03 24"),
        (with_interface(extra=(b"\x01",)), "raw descriptor of 1 bytes"),
        (with_interface(extra=(b"",)), "raw descriptor of 0 bytes"),
        (lambda: build.endpoint(replace(ENDPOINT, address=0x80)), "endpoint address is 0x80"),
        (lambda: build.endpoint(replace(ENDPOINT, address=0x11)), "endpoint address is 0x11"),
        (lambda: build.endpoint(replace(ENDPOINT, address=0x181)), "bEndpointAddress is 385"),
        (lambda: build.endpoint(replace(ENDPOINT, ssp_companion=d.SspIsoCompanion(1))), "needs a companion"),
        (
            lambda: build.endpoint(replace(ENDPOINT, companion=d.Companion(bytes_per_interval=1 << 16))),
            "wBytesPerInterval",
        ),
        (lambda: build.configuration(d.Configuration(associations=(d.Association(3, 1, 0),))), "association of interf"),
        (
            lambda: build.configuration(
                d.Configuration(interfaces=(d.Interface(0),), associations=(d.Association(0, 1, 0, before=1),))
            ),
            "association of interface 0 has no place",
        ),
        (lambda: build.bos(d.Bos((d.UsbExtension(1 << 32),))), "bmAttributes is 4294967296"),
        (lambda: build.bos(d.Bos((d.ContainerId(bytes(15)),))), "a UUID has 16 bytes, not 15"),
        (lambda: build.bos(d.Bos((d.PlatformCapability(bytes(17)),))), "a UUID has 16 bytes, not 17"),
        (lambda: build.bos(d.Bos((d.SuperSpeedPlus(1, 0, (1,)),))), "1 sublink speeds"),
        (lambda: build.bos(d.Bos((d.RawCapability(6, bytes(253)),))), "bLength of DEVICE_CAPABILITY is 256"),
        (lambda: build.bos(d.Bos((d.UsbExtension(0),) * 256)), "bNumDeviceCaps is 256"),
        (lambda: build.string("x" * 127), "126 UTF-16 units, not 127"),
        (lambda: build.string("\N{GRINNING FACE}" * 64), "126 UTF-16 units, not 128"),
        (lambda: build.string("\ud83d"), "surrogates not allowed"),
        (lambda: build.languages([0x10409]), "wLANGID is 66569"),
        (lambda: build.languages([0x0409] * 127), "bLength of STRING is 256"),
    ],
)
def test_refused(emit: Callable[[], bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        emit()


# --- a second opinion -----------------------------------------------------------------------------------------------

bcd = st.sampled_from([0x0100, 0x0110, 0x0200, 0x0201, 0x0210, 0x0300, 0x0320])  # it takes versions for decimals


@given(usb.devices, bcd, bcd)
def test_device_agrees_with_usb_protocol(device: d.DeviceDescriptor, version: int, release: int) -> None:
    device = replace(device, usb=version, release=release)
    emitter = emitters.DeviceDescriptorEmitter()
    emitter.bcdUSB, emitter.bcdDevice = _decimal(version), _decimal(release)
    emitter.bDeviceClass, emitter.bDeviceSubclass = device.device_class, device.device_subclass
    emitter.bDeviceProtocol, emitter.bMaxPacketSize0 = device.device_protocol, device.max_packet0
    emitter.idVendor, emitter.idProduct = device.vendor_id, device.product_id
    emitter.iManufacturer, emitter.iProduct = device.manufacturer, device.product
    emitter.iSerialNumber, emitter.bNumConfigurations = device.serial, device.configurations
    assert emitter.emit() == build.device(device)


def _decimal(version: int) -> float:
    return float(f"{version >> 8}.{version & 0xFF:02x}")


def test_configuration_agrees_with_usb_protocol() -> None:
    collection = DeviceDescriptorCollection()
    with collection.ConfigurationDescriptor() as c:
        c.bConfigurationValue, c.iConfiguration, c.bmAttributes, c.bMaxPower = 3, 4, 0xC0, 0
        with c.InterfaceAssociationDescriptor() as a:
            a.bFirstInterface, a.bInterfaceCount, a.iFunction = 1, 1, 9
            a.bFunctionClass, a.bFunctionSubClass, a.bFunctionProtocol = 8, 6, 80
        with c.InterfaceDescriptor() as i:
            i.bInterfaceNumber, i.bInterfaceClass, i.bInterfaceSubclass, i.bInterfaceProtocol = 1, 8, 6, 80
            with i.EndpointDescriptor(add_default_superspeed=True) as e:
                e.bEndpointAddress, e.wMaxPacketSize, e.bInterval = 0x81, 1024, 0
            with i.EndpointDescriptor() as e:
                e.bEndpointAddress, e.bmAttributes, e.wMaxPacketSize, e.bInterval = 2, 3, 64, 7
    tree = d.Configuration(
        value=3,
        interfaces=(
            d.Interface(
                1,
                0,
                8,
                6,
                80,
                (d.Endpoint(0x81, 2, 1024, companion=d.Companion()), d.Endpoint(0x02, 3, 64, 7)),
            ),
        ),
        attributes=0xC0,
        max_power=0,
        string=4,
        associations=(d.Association(1, 1, 8, 6, 80, 9),),
    )
    assert collection.get_descriptor_bytes(2) == build.configuration(tree)


@given(usb.texts)
def test_strings_agree_with_usb_protocol(text: str) -> None:
    assert oracle.StringDescriptor.parse(build.string(text)).bString == text


@given(usb.language_ids)
def test_languages_agree_with_usb_protocol(ids: tuple[int, ...]) -> None:
    assert tuple(oracle.StringLanguageDescriptor.parse(build.languages(ids)).wLANGID) == ids


def test_qualifier_agrees_with_usb_protocol() -> None:
    raw = build.qualifier(d.Qualifier(0x0200, 1, 2, 3, 64, 5))
    parsed = oracle.DeviceQualifierDescriptor.parse(b"\x09" + raw[1:])  # it forgets the reserved byte in bLength
    assert (parsed.bcdUSB, parsed.bDeviceClass, parsed.bDeviceSubclass, parsed.bDeviceProtocol) == (2.0, 1, 2, 3)
    assert (parsed.bMaxPacketSize0, parsed.bNumConfigurations) == (64, 5)


def test_bos_agrees_with_usb_protocol() -> None:
    emitter = emitters.BinaryObjectStoreDescriptorEmitter()
    with emitter.USB2Extension() as e:
        e.bmAttributes = 0x0000F41E
    with emitter.SuperSpeedUSBDeviceCapability() as s:
        s.bmAttributes, s.wSpeedsSupported, s.bFunctionalitySupport = 2, 0x0E, 1
        s.bU1DevExitLat, s.wU2DevExitLat = 10, 0x07FF
    store = d.Bos((d.UsbExtension(0xF41E), d.SuperSpeedCapability(2, 0x0E, 1, 10, 0x07FF)))
    assert emitter.emit() == build.bos(store)
