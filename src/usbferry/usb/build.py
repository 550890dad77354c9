"""USB descriptors: tree -> bytes. Lengths and counts are worked out here; a value that does not fit is a ValueError."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .tree import (
    Association,
    Bos,
    Capability,
    CapabilityType,
    Companion,
    Configuration,
    ContainerId,
    DescriptorType,
    DeviceDescriptor,
    Endpoint,
    Interface,
    PlatformCapability,
    Qualifier,
    RawCapability,
    SspIsoCompanion,
    SuperSpeedCapability,
    SuperSpeedPlus,
    UsbExtension,
)

MAX_STRING_UNITS: Final = 126  # UTF-16 units in a string descriptor; bLength is even, so at most 254


def device(d: DeviceDescriptor) -> bytes:
    return _descriptor(
        DescriptorType.DEVICE,
        "HBBBBHHHBBBB",
        bcdUSB=d.usb,
        bDeviceClass=d.device_class,
        bDeviceSubClass=d.device_subclass,
        bDeviceProtocol=d.device_protocol,
        bMaxPacketSize0=d.max_packet0,
        idVendor=d.vendor_id,
        idProduct=d.product_id,
        bcdDevice=d.release,
        iManufacturer=d.manufacturer,
        iProduct=d.product,
        iSerialNumber=d.serial,
        bNumConfigurations=d.configurations,
    )


def qualifier_of(d: DeviceDescriptor) -> Qualifier:
    """The qualifier of a device that is at its other speed what it is at this one."""
    return Qualifier(d.usb, d.device_class, d.device_subclass, d.device_protocol, d.max_packet0, d.configurations)


def qualifier(q: Qualifier) -> bytes:
    return _descriptor(
        DescriptorType.DEVICE_QUALIFIER,
        "HBBBBBB",
        bcdUSB=q.usb,
        bDeviceClass=q.device_class,
        bDeviceSubClass=q.device_subclass,
        bDeviceProtocol=q.device_protocol,
        bMaxPacketSize0=q.max_packet0,
        bNumConfigurations=q.configurations,
        bReserved=0,
    )


def configuration(c: Configuration) -> bytes:
    """The configuration with all its descriptors, as GET_DESCRIPTOR returns it."""
    return _configuration(DescriptorType.CONFIGURATION, c)


def other_speed(c: Configuration) -> bytes:
    """The same as an other-speed configuration, USB 2.0 §9.6.4."""
    return _configuration(DescriptorType.OTHER_SPEED_CONFIGURATION, c)


def _configuration(kind: DescriptorType, c: Configuration) -> bytes:
    body = _raws(c.extra)
    ahead = _ahead(c)
    for index, setting in enumerate(c.interfaces):
        body += b"".join(_association(a) for a in ahead.get(index, ())) + interface(setting)
    return (
        _descriptor(
            kind,
            "HBBBBB",
            c.tail,
            wTotalLength=9 + len(c.tail) + len(body),
            bNumInterfaces=len({setting.number for setting in c.interfaces}),
            bConfigurationValue=c.value,
            iConfiguration=c.string,
            bmAttributes=c.attributes,
            bMaxPower=c.max_power,
        )
        + body
    )


def _ahead(c: Configuration) -> dict[int, list[Association]]:
    """The associations by the index of the interface descriptor that they stand in front of."""
    usual: dict[int, int] = {}
    for index, setting in enumerate(c.interfaces):
        usual.setdefault(setting.number, index)
    ahead: dict[int, list[Association]] = {}
    for a in c.associations:
        at = usual.get(a.first) if a.before is None else a.before
        if at is None or not 0 <= at < len(c.interfaces):
            raise ValueError(f"association of interface {a.first} has no place in front of an interface")
        ahead.setdefault(at, []).append(a)
    return ahead


def _association(a: Association) -> bytes:
    return _descriptor(
        DescriptorType.INTERFACE_ASSOCIATION,
        "BBBBBB",
        a.tail,
        bFirstInterface=a.first,
        bInterfaceCount=a.count,
        bFunctionClass=a.function_class,
        bFunctionSubClass=a.function_subclass,
        bFunctionProtocol=a.function_protocol,
        iFunction=a.string,
    ) + _raws(a.extra)


def interface(i: Interface) -> bytes:
    """The interface descriptor with its class-specific ones and its endpoints."""
    head = _descriptor(
        DescriptorType.INTERFACE,
        "BBBBBBB",
        i.tail,
        bInterfaceNumber=i.number,
        bAlternateSetting=i.alternate,
        bNumEndpoints=len(i.endpoints),
        bInterfaceClass=i.interface_class,
        bInterfaceSubClass=i.interface_subclass,
        bInterfaceProtocol=i.interface_protocol,
        iInterface=i.string,
    )
    return b"".join((head, _raws(i.extra), *map(endpoint, i.endpoints)))


def endpoint(e: Endpoint) -> bytes:
    """The endpoint descriptor with its companions and class-specific ones."""
    if e.address & 0x0F == 0 or e.address & 0x70:
        raise ValueError(f"endpoint address is {e.address:#04x}, its number must be 1 to 15")
    long = e.refresh is not None or e.synch_address is not None
    audio = {"bRefresh": e.refresh or 0, "bSynchAddress": e.synch_address or 0} if long else {}
    head = _descriptor(
        DescriptorType.ENDPOINT,
        "BBHBBB" if long else "BBHB",
        e.tail,
        bEndpointAddress=e.address,
        bmAttributes=e.attributes,
        wMaxPacketSize=e.max_packet,
        bInterval=e.interval,
        **audio,
    )
    return head + _companions(e.companion, e.ssp_companion) + _raws(e.extra)


def _companions(companion: Companion | None, ssp_companion: SspIsoCompanion | None) -> bytes:
    if companion is None:
        if ssp_companion is not None:
            raise ValueError("a SuperSpeedPlus isochronous companion needs a companion in front of it")
        return b""
    raw = _descriptor(
        DescriptorType.SS_ENDPOINT_COMPANION,
        "BBH",
        companion.tail,
        bMaxBurst=companion.max_burst,
        bmAttributes=companion.attributes,
        wBytesPerInterval=companion.bytes_per_interval,
    )
    if ssp_companion is None:
        return raw
    return raw + _descriptor(
        DescriptorType.SSP_ISO_ENDPOINT_COMPANION,
        "HI",
        ssp_companion.tail,
        wReserved=0,
        dwBytesPerInterval=ssp_companion.bytes_per_interval,
    )


def bos(b: Bos) -> bytes:
    """The BOS with all its capabilities."""
    body = b"".join(map(_capability, b.capabilities))
    return _descriptor(DescriptorType.BOS, "HB", wTotalLength=5 + len(body), bNumDeviceCaps=len(b.capabilities)) + body


def _capability(c: Capability) -> bytes:
    match c:
        case UsbExtension():
            return _device_capability(CapabilityType.USB_2_EXTENSION, "I", bmAttributes=c.attributes)
        case SuperSpeedCapability():
            return _device_capability(
                CapabilityType.SUPERSPEED,
                "BHBBH",
                bmAttributes=c.attributes,
                wSpeedsSupported=c.speeds,
                bFunctionalitySupport=c.functionality,
                bU1DevExitLat=c.u1_latency_us,
                wU2DevExitLat=c.u2_latency_us,
            )
        case SuperSpeedPlus():
            return _superspeed_plus(c)
        case ContainerId():
            return _device_capability(CapabilityType.CONTAINER_ID, "", b"\0" + _uuid(c.uuid))
        case PlatformCapability():
            return _device_capability(CapabilityType.PLATFORM, "", b"\0" + _uuid(c.uuid) + c.data)
        case RawCapability():
            return _device_capability(c.kind, "", c.data)


def _superspeed_plus(c: SuperSpeedPlus) -> bytes:
    if len(c.sublinks) != (c.attributes & 0x1F) + 1:
        raise ValueError(f"{len(c.sublinks)} sublink speeds, but bmAttributes {c.attributes:#x} says otherwise")
    return _device_capability(
        CapabilityType.SUPERSPEED_PLUS,
        "BIHH",
        b"".join(_number("bmSublinkSpeedAttr", "I", sublink) for sublink in c.sublinks),
        bReserved=0,
        bmAttributes=c.attributes,
        wFunctionalitySupport=c.functionality,
        wReserved=0,
    )


def _device_capability(kind: int, layout: str, tail: bytes = b"", /, **fields: int) -> bytes:
    return _descriptor(DescriptorType.DEVICE_CAPABILITY, "B" + layout, tail, bDevCapabilityType=kind, **fields)


def _uuid(uuid: bytes) -> bytes:
    if len(uuid) != 16:
        raise ValueError(f"a UUID has 16 bytes, not {len(uuid)}")
    return uuid


def string(text: str) -> bytes:
    """A string descriptor. Raises ValueError for more than 126 UTF-16 units or a lone surrogate."""
    units = text.encode("utf-16-le")
    if len(units) > 2 * MAX_STRING_UNITS:
        raise ValueError(f"a string descriptor holds {MAX_STRING_UNITS} UTF-16 units, not {len(units) // 2}")
    return _descriptor(DescriptorType.STRING, "", units)


def languages(ids: Iterable[int]) -> bytes:
    """String descriptor 0: the languages, USB 2.0 §9.6.7, such as 0x0409 for English (United States)."""
    return _descriptor(DescriptorType.STRING, "", b"".join(_number("wLANGID", "H", language) for language in ids))


# --- bytes ----------------------------------------------------------------------------------------------------------

_SIZES: Final = {"B": 1, "H": 2, "I": 4}


def _descriptor(kind: DescriptorType, layout: str, tail: bytes = b"", /, **fields: int) -> bytes:
    """One descriptor: its header, the fields in their order with the sizes in `layout`, and `tail`."""
    numbers = (_number(name, size, value) for size, (name, value) in zip(layout, fields.items(), strict=True))
    body = b"".join(numbers) + tail
    return _number(f"bLength of {kind.name}", "B", len(body) + 2) + bytes((kind,)) + body


def _number(name: str, size: str, value: int) -> bytes:
    length = _SIZES[size]
    if not 0 <= value < 1 << 8 * length:
        raise ValueError(f"{name} is {value}, it must be 0 to {(1 << 8 * length) - 1}")
    return value.to_bytes(length, "little")


def _raws(raws: Iterable[bytes]) -> bytes:
    for raw in raws:
        if len(raw) < 2 or raw[0] != len(raw):
            raise ValueError(f"raw descriptor of {len(raw)} bytes does not begin with its length: {raw[:8].hex(' ')}")
    return b"".join(raws)
