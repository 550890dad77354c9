"""USB descriptors: bytes -> tree. `build.py` is the way back; the classes live in `tree.py` and are offered here too.

What the bytes said is kept, in their order: `build.configuration(parse_configuration(raw)) == raw` unless the device
miscounted its interfaces or endpoints or used reserved fields. Devices are sloppy, so the rule is that of Linux
drivers/usb/core/config.c: a descriptor that makes no sense where it stands is kept raw and otherwise ignored, and only
bytes that cannot be walked are a `DescriptorError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from struct import Struct, unpack
from typing import Final

from .transfer import Buffer
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

__all__ = [
    "Association",
    "Bos",
    "Capability",
    "CapabilityType",
    "Companion",
    "Configuration",
    "ContainerId",
    "DescriptorError",
    "DescriptorType",
    "DeviceDescriptor",
    "Endpoint",
    "Interface",
    "PlatformCapability",
    "Qualifier",
    "RawCapability",
    "SspIsoCompanion",
    "SuperSpeedCapability",
    "SuperSpeedPlus",
    "UsbExtension",
    "parse_bos",
    "parse_configuration",
    "parse_device",
    "parse_languages",
    "parse_qualifier",
    "parse_string",
    "split",
]

# What follows bLength and bDescriptorType.
_DEVICE: Final = Struct("<HBBBBHHHBBBB")
_QUALIFIER: Final = Struct("<HBBBBB")
_CONFIGURATION: Final = Struct("<HBBBBB")
_INTERFACE: Final = Struct("<BBBBBBB")
_ENDPOINT: Final = Struct("<BBHB")
_COMPANION: Final = Struct("<BBH")
_SSP_COMPANION: Final = Struct("<HI")
_ASSOCIATION: Final = Struct("<BBBBBB")
_BOS: Final = Struct("<HB")
_SUPERSPEED: Final = Struct("<BHBBH")


class DescriptorError(ValueError):
    """The bytes are no descriptor of the wanted kind. Parsing raises nothing else, whatever the bytes."""


def split(raw: Buffer) -> Iterator[bytes]:
    """Each descriptor of a sequence, whole. Raises DescriptorError where the next one cannot be walked."""
    data, position = bytes(raw), 0
    while position < len(data):
        length, left = data[position], len(data) - position
        if length < 2 or length > left:
            raise DescriptorError(f"descriptor of {length} bytes at offset {position}, where {left} are left")
        yield data[position : position + length]
        position += length


def parse_device(raw: Buffer) -> DeviceDescriptor:
    """Decode a device descriptor; bytes after its 18 are ignored."""
    data = _checked(raw, _DEVICE, DescriptorType.DEVICE)
    usb, cls, subclass, protocol, packet0, vendor, product, *others = _DEVICE.unpack_from(data, 2)
    return DeviceDescriptor(vendor, product, usb, cls, subclass, protocol, packet0, *others)


def parse_qualifier(raw: Buffer) -> Qualifier:
    """Decode a device qualifier; the reserved tenth byte may be missing."""
    data = _checked(raw, _QUALIFIER, DescriptorType.DEVICE_QUALIFIER)
    return Qualifier(*_QUALIFIER.unpack_from(data, 2))


def parse_languages(raw: Buffer) -> tuple[int, ...]:
    """The language identifiers of string descriptor 0."""
    units = _string_units(raw)
    return tuple(int.from_bytes(units[at : at + 2], "little") for at in range(0, len(units), 2))


def parse_string(raw: Buffer) -> str:
    """The text of a string descriptor.

    As Linux does (usb_string, drivers/usb/core/message.c): the shorter of bLength and the bytes given counts, half a
    character at the end is dropped, the text ends at the first NUL. Lone surrogates become U+FFFD.
    """
    return _string_units(raw).decode("utf-16-le", "replace").partition("\0")[0]


def _string_units(raw: Buffer) -> bytes:
    data = bytes(raw)
    if len(data) < 2 or data[0] < 2 or data[1] != DescriptorType.STRING:
        raise DescriptorError(f"no string descriptor: {data[:8].hex(' ')}")
    end = min(len(data), data[0])
    return data[2 : end - end % 2]


def _checked(raw: Buffer, layout: Struct, *kinds: DescriptorType) -> bytes:
    """The bytes, if they begin with a descriptor of one of `kinds` that is long enough for `layout`."""
    data, least = bytes(raw), layout.size + 2
    if len(data) < least or data[0] < least:
        raise DescriptorError(f"{kinds[0].name} descriptor needs {least} bytes: {data[:least].hex(' ')}")
    if data[1] not in kinds:
        raise DescriptorError(f"descriptor of type {data[1]} where {kinds[0].name} was wanted")
    return data


def _whole(data: bytes, total: int) -> bytes:
    """The descriptor at the start of `data` and all that belongs to it by its wTotalLength."""
    if not data[0] <= total <= len(data):
        raise DescriptorError(f"wTotalLength is {total}, bLength {data[0]}, but {len(data)} bytes were given")
    return data[:total]


# --- configurations -------------------------------------------------------------------------------------------------
#
# Two passes. The first cuts the bytes into runs: a configuration, interface or endpoint descriptor that makes sense,
# and the raw ones up to the next such. The second gives each run its meaning. Associations are recognised only ahead of
# an interface, so the first pass moves them to the interface's run: from the first association on, all is `ahead`.


@dataclass(slots=True)
class _Run:
    head: bytes
    rest: list[bytes] = field(default_factory=list)
    ahead: list[bytes] = field(default_factory=list)


def parse_configuration(raw: Buffer) -> Configuration:
    """Decode a configuration, or an other-speed configuration, with all its descriptors.

    Bytes beyond wTotalLength are ignored. An invalid endpoint (short, or of number 0 or above 15) is kept raw in the
    `extra` of what it follows; so is all of an interface whose own descriptor is short.
    """
    data = _checked(raw, _CONFIGURATION, DescriptorType.CONFIGURATION, DescriptorType.OTHER_SPEED_CONFIGURATION)
    total, _, value, string, attributes, max_power = _CONFIGURATION.unpack_from(data, 2)
    first, *runs = _runs(split(_whole(data, total)))
    settings: list[tuple[_Run, list[Endpoint]]] = []
    associations: list[Association] = []
    for run in runs:
        if run.head[1] == DescriptorType.INTERFACE:
            associations += _associations(run.ahead, len(settings))
            settings.append((run, []))
        else:
            settings[-1][1].append(_endpoint(run))
    interfaces = tuple(_interface(run, tuple(endpoints)) for run, endpoints in settings)
    return Configuration(
        value,
        interfaces,
        attributes,
        max_power,
        string,
        _placed(associations, interfaces),
        tuple(first.rest),
        first.head[9:],
    )


def _runs(descriptors: Iterator[bytes]) -> list[_Run]:
    runs = [_Run(next(descriptors))]
    skipping = False
    for raw in descriptors:
        last = runs[-1]
        if raw[1] == DescriptorType.INTERFACE:
            skipping = len(raw) < 9
        if skipping or not _begins_run(raw):
            last.rest.append(raw)
            continue
        run = _Run(raw)
        if raw[1] == DescriptorType.INTERFACE:
            at = next((at for at, other in enumerate(last.rest) if _is_association(other)), len(last.rest))
            last.rest, run.ahead = last.rest[:at], last.rest[at:]
        elif len(runs) == 1:
            raise DescriptorError(f"endpoint {raw[2]:#04x} before any interface")
        runs.append(run)
    return runs


def _begins_run(raw: bytes) -> bool:
    if raw[1] == DescriptorType.ENDPOINT:
        return len(raw) >= 7 and raw[2] & 0x0F != 0 and raw[2] & 0x70 == 0
    return raw[1] == DescriptorType.INTERFACE


def _is_association(raw: bytes) -> bool:
    return raw[1] == DescriptorType.INTERFACE_ASSOCIATION and len(raw) >= 8


def _interface(run: _Run, endpoints: tuple[Endpoint, ...]) -> Interface:
    number, alternate, _, cls, subclass, protocol, string = _INTERFACE.unpack_from(run.head, 2)
    extra, tail = tuple(run.rest), run.head[9:]
    return Interface(number, alternate, cls, subclass, protocol, endpoints, string, extra, tail)


def _endpoint(run: _Run) -> Endpoint:
    head, rest = run.head, run.rest
    companion = ssp_companion = None
    if rest and rest[0][1] == DescriptorType.SS_ENDPOINT_COMPANION and len(rest[0]) >= 6:
        burst, attributes, per_interval = _COMPANION.unpack_from(rest[0], 2)
        companion = Companion(burst, attributes, per_interval, rest[0][6:])
        rest = rest[1:]
        if rest and rest[0][1] == DescriptorType.SSP_ISO_ENDPOINT_COMPANION and len(rest[0]) >= 8:
            ssp_companion = SspIsoCompanion(_SSP_COMPANION.unpack_from(rest[0], 2)[1], rest[0][8:])
            rest = rest[1:]
    refresh, synch_address, tail = (head[7], head[8], head[9:]) if len(head) >= 9 else (None, None, head[7:])
    address, attributes, max_packet, interval = _ENDPOINT.unpack_from(head, 2)
    return Endpoint(
        address,
        attributes,
        max_packet,
        interval,
        companion,
        ssp_companion,
        refresh,
        synch_address,
        tuple(rest),
        tail,
    )


def _associations(raws: list[bytes], before: int) -> list[Association]:
    """The associations in front of interface descriptor `before`; the first of `raws` is one."""
    found: list[tuple[bytes, list[bytes]]] = []
    for raw in raws:
        if _is_association(raw):
            found.append((raw, []))
        else:
            found[-1][1].append(raw)
    return [_association(raw, tuple(extra), before) for raw, extra in found]


def _association(raw: bytes, extra: tuple[bytes, ...], before: int) -> Association:
    first, count, cls, subclass, protocol, string = _ASSOCIATION.unpack_from(raw, 2)
    return Association(first, count, cls, subclass, protocol, string, extra, before, raw[8:])


def _placed(associations: list[Association], interfaces: tuple[Interface, ...]) -> tuple[Association, ...]:
    """The associations, without `before` where they stand in the usual place."""
    usual: dict[int, int] = {}
    for index, interface in enumerate(interfaces):
        usual.setdefault(interface.number, index)
    return tuple(replace(a, before=None) if usual.get(a.first) == a.before else a for a in associations)


# --- binary device object store -------------------------------------------------------------------------------------


def parse_bos(raw: Buffer) -> Bos:
    """Decode a BOS with all its capabilities, however many it counts; other descriptors in it are left out."""
    data = _checked(raw, _BOS, DescriptorType.BOS)
    _, *others = split(_whole(data, _BOS.unpack_from(data, 2)[0]))
    return Bos(tuple(_capability(d) for d in others if d[1] == DescriptorType.DEVICE_CAPABILITY and len(d) >= 3))


def _capability(raw: bytes) -> Capability:
    kind, body = raw[2], raw[3:]
    match kind, len(body):
        case CapabilityType.USB_2_EXTENSION, 4:
            return UsbExtension(int.from_bytes(body, "little"))
        case CapabilityType.SUPERSPEED, _SUPERSPEED.size:
            return SuperSpeedCapability(*_SUPERSPEED.unpack(body))
        case CapabilityType.CONTAINER_ID, 17:
            return ContainerId(body[1:])
        case CapabilityType.PLATFORM, length if length >= 17:
            return PlatformCapability(body[1:17], body[17:])
        case CapabilityType.SUPERSPEED_PLUS, length if length >= 13 and length == 13 + 4 * (body[1] & 0x1F):
            _, attributes, functionality, _, *sublinks = unpack(f"<BIHH{(length - 9) // 4}I", body)
            return SuperSpeedPlus(attributes, functionality, tuple(sublinks))
    return RawCapability(kind, body)
