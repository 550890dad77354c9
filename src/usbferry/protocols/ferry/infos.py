"""What lists, claims and descriptions say of a device (§6.3): identity, settings, texts, and its descriptors.

Texts are UTF-8 behind a u16 length. A reader takes descriptors that it cannot parse for absent: a device may be broken,
and the list it stands in is not.
"""

from __future__ import annotations

from contextlib import suppress
from struct import Struct, error
from typing import Annotated, Final

from ...usb import build
from ...usb.descriptors import Configuration, DescriptorError, DeviceDescriptor, parse_configuration, parse_device
from ...usb.info import DeviceInfo
from ...usb.types import Speed
from ..errors import ProtocolError
from ..limits import Limits
from ..record import BIG, Record, record, u8, u16

_SIZE: Final = Struct(">H")
_MOST_TEXT: Final = 1024  # bytes of one text; a USB string has 378 at most
_MOST_CONFIGURATIONS: Final = 8  # USB_MAXCONFIG, drivers/usb/core/config.c


@record(BIG)
class Fixed(Record):
    """Follows the name."""

    speed: u8  # as enum usb_device_speed, include/uapi/linux/usb/ch9.h
    configuration: u8  # bConfigurationValue in force, 0 when unconfigured
    bus: u16
    address: u16
    device: Annotated[bytes, "18s"]  # its device descriptor


def device_name(name: str) -> bytes:
    """A length byte and the name. Raises ValueError for what is none: 1 to 255 characters of ASCII."""
    if not name.isascii() or not 0 < len(name) < 256:
        raise ValueError(f"{name!r} is no device name: it has 1 to 255 characters of ASCII")
    return bytes((len(name),)) + name.encode("ascii")


def parse_name(body: memoryview) -> str:
    """The name that is the whole body. Raises ValueError, of which UnicodeDecodeError is one."""
    if len(body) < 2 or body[0] != len(body) - 1:
        raise ValueError(f"a name of {len(body)} bytes that says otherwise")
    return bytes(body[1:]).decode("ascii")


def pack(info: DeviceInfo, limits: Limits) -> bytes:
    """One device record."""
    active = info.configurations
    alternates = sorted(info.alternates.items())[: limits.interfaces_listed]
    classes = info.classes[: limits.interfaces_listed]
    return b"".join(
        (
            device_name(info.name),
            Fixed(info.speed, info.configuration, info.bus, info.address, build.device(info.device)).pack(),
            *(_text(t) for t in (info.path, info.manufacturer, info.product, info.serial, info.holder)),
            bytes((len(alternates),)),
            *(bytes(pair) for pair in alternates),
            bytes((len(classes),)),
            *(bytes(triple) for triple in classes),
            bytes((min(len(active), _MOST_CONFIGURATIONS),)),
            *(_sized(build.configuration(c)) for c in active[:_MOST_CONFIGURATIONS]),
        )
    )


def parse(body: memoryview, limits: Limits) -> DeviceInfo:
    """One device record; what follows it is a later version's. Raises ProtocolError."""
    try:
        return _Reader(body).device(limits)
    except (error, IndexError, UnicodeDecodeError) as broken:
        raise ProtocolError(f"a device record of {len(body)} bytes: {broken}") from None


class _Reader:
    """Reads a record from its start."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    def device(self, limits: Limits) -> DeviceInfo:
        name = self._take(self._number()).decode("ascii")
        fixed = Fixed.parse(self._body, self._at)
        self._at += Fixed.SIZE
        path, manufacturer, product, serial, holder = (self._text() for _ in range(5))
        alternates = [self._take(2) for _ in range(self._number(limits.interfaces_listed))]
        classes = [self._take(3) for _ in range(self._number(limits.interfaces_listed))]
        configurations = [self._configuration() for _ in range(self._number(_MOST_CONFIGURATIONS))]
        device = DeviceDescriptor(0, 0)
        with suppress(DescriptorError):
            device = parse_device(fixed.device)
        return DeviceInfo(
            name,
            device,
            tuple(c for c in configurations if c is not None),
            Speed(fixed.speed) if fixed.speed in Speed.__members__.values() else Speed.UNKNOWN,
            fixed.configuration,
            {pair[0]: pair[1] for pair in alternates},
            fixed.bus,
            fixed.address,
            path,
            manufacturer,
            product,
            serial,
            tuple((one[0], one[1], one[2]) for one in classes),
            holder,
        )

    def _take(self, size: int) -> bytes:
        taken = bytes(self._body[self._at : self._at + size])
        if len(taken) < size:
            raise IndexError(f"{size} bytes at {self._at}, there are {len(taken)}")
        self._at += size
        return taken

    def _number(self, most: int = 255) -> int:
        number = self._take(1)[0]
        if number > most:
            raise ProtocolError(f"{number} of something in a device record, the limit is {most}")
        return number

    def _length(self) -> int:
        number: int = _SIZE.unpack(self._take(_SIZE.size))[0]
        return number

    def _text(self) -> str:
        size = self._length()
        if size > _MOST_TEXT:
            raise ProtocolError(f"a text of {size} bytes in a device record, the limit is {_MOST_TEXT}")
        return self._take(size).decode("utf-8", "replace")

    def _configuration(self) -> Configuration | None:
        raw = self._take(self._length())
        try:
            return parse_configuration(raw)
        except DescriptorError:
            return None


def _text(text: str) -> bytes:
    return _sized(text.encode("utf-8", "replace")[:_MOST_TEXT])


def _sized(raw: bytes) -> bytes:
    return _SIZE.pack(len(raw)) + raw
