"""Capture files: the blocks that we write, and the records of what Wireshark, tcpdump and dumpcap write.

Sources: draft-ietf-opsawg-pcapng (blocks and options), draft-ietf-opsawg-pcap (the classic file).
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final, Literal, NamedTuple

from ...usb.transfer import Buffer
from .events import CaptureError

MAX_PACKET: Final = 262_144  # bytes; Wireshark takes a file with a longer one for broken (wiretap/wtap.h)
_SECTION, _INTERFACE, _SIMPLE, _ENHANCED, _STATISTICS = 0x0A0D0D0A, 1, 3, 6, 5
_MAGIC: Final = 0x1A2B3C4D
_CLASSIC: Final = {0xA1B2C3D4: 1e-6, 0xA1B23C4D: 1e-9}  # magic number -> unit of the times after the second
_LONGEST_BLOCK: Final = 160 << 20  # bytes of one block that is read; USBPcap's packets may have 128 MiB
_ORDERS: Final[dict[str, Literal["little", "big"]]] = {"<": "little", ">": "big"}

# options
_END, _IF_NAME, _IF_DESCRIPTION, _IF_SPEED, _IF_TSRESOL, _IF_TSOFFSET, _USER_APPLICATION, _DROPPED = (
    0,
    2,
    3,
    8,
    9,
    14,
    4,
    5,
)

_BLOCK: Final = Struct("<II")
_TAIL: Final = Struct("<I")
_OPTION: Final = Struct("<HH")
_PACKET: Final = Struct("<IIIII")


# -- writing -----------------------------------------------------------------------------------------------------------


def _block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = len(body) + 12
    return _BLOCK.pack(kind, length) + body + _TAIL.pack(length)


def _options(*options: tuple[int, bytes]) -> bytes:
    packed = (_OPTION.pack(code, len(value)) + value + bytes(-len(value) % 4) for code, value in options if value)
    return b"".join(packed) + bytes(4)


def section(application: str) -> bytes:
    """The start of a file."""
    head = Struct("<IHHq").pack(_MAGIC, 1, 0, -1)
    return _block(_SECTION, head + _options((_USER_APPLICATION, application.encode())))


def interface(linktype: int, name: str, description: str, bits_per_second: int) -> bytes:
    """An interface, which later packets name by its number, from 0; their times are nanoseconds."""
    speed = bits_per_second.to_bytes(8, "little") if bits_per_second else b""
    names = ((_IF_NAME, name.encode()), (_IF_DESCRIPTION, description.encode()))
    return _block(
        _INTERFACE, Struct("<HHI").pack(linktype, 0, 0) + _options(*names, (_IF_SPEED, speed), (_IF_TSRESOL, b"\x09"))
    )


def packet(number: int, ns: int, head: bytes, data: Buffer) -> bytes:
    """A packet of interface `number` at `ns` nanoseconds since the epoch, of two parts."""
    size = len(head) + len(data)
    pad = -size % 4
    length = 32 + size + pad
    front = _BLOCK.pack(_ENHANCED, length) + _PACKET.pack(number, ns >> 32, ns & 0xFFFFFFFF, size, size)
    return b"".join((front, head, data, bytes(pad), _TAIL.pack(length)))


def statistics(number: int, ns: int, dropped: int) -> bytes:
    """How many packets of an interface are missing."""
    body = Struct("<III").pack(number, ns >> 32, ns & 0xFFFFFFFF)
    return _block(_STATISTICS, body + _options((_DROPPED, dropped.to_bytes(8, "little"))))


# -- reading -----------------------------------------------------------------------------------------------------------


class Record(NamedTuple):
    """A packet of a capture."""

    linktype: int
    endian: str  # "<" or ">", that of the machine that captured
    seconds: float  # since the epoch
    data: memoryview
    length: int  # bytes it had, of which the capture may have kept fewer
    bits_per_second: int  # of its interface, 0 where that is not said


def is_capture(start: bytes) -> bool:
    """Whether a file that begins with these bytes is one, as far as four of them say."""
    numbers = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    return bool(numbers & {_SECTION, *_CLASSIC})


def records(raw: Buffer) -> Iterator[Record]:
    """The packets of a whole file, in its order. What is cut off at its end is left out: who captured was stopped.

    Raises CaptureError for what is no capture.
    """
    data = memoryview(raw).toreadonly().cast("B")
    if not is_capture(bytes(data[:4])):
        raise CaptureError("it is no capture file (pcap or pcapng)")
    if bytes(data[:4]) == _SECTION.to_bytes(4, "little"):
        return _blocks(data)
    return _classic(data)


def _classic(data: memoryview) -> Iterator[Record]:
    endian = "<" if int.from_bytes(data[:4], "little") in _CLASSIC else ">"
    file, head = Struct(endian + "IHHiIII"), Struct(endian + "IIII")
    if len(data) < file.size:
        return
    magic, _, _, _, _, _, linktype = file.unpack_from(data)
    unit, at = _CLASSIC[magic], file.size
    while at + head.size <= len(data):
        seconds, rest, kept, length = head.unpack_from(data, at)
        at += head.size
        if kept > len(data) - at:
            return
        yield Record(linktype & 0xFFFF, endian, seconds + rest * unit, data[at : at + kept], length, 0)
        at += kept


class _Interface(NamedTuple):
    linktype: int
    unit: float  # seconds
    offset: int  # of its times, seconds
    bits_per_second: int
    snap: int  # bytes of a packet that were kept at most, 0 for all


def _blocks(data: memoryview) -> Iterator[Record]:
    endian, interfaces, at = "<", list[_Interface](), 0
    while at + 12 <= len(data):
        if bytes(data[at : at + 4]) == b"\n\r\r\n":
            endian, interfaces = _section(data, at), []
        kind, length = Struct(endian + "II").unpack_from(data, at)
        if length < 12 or length % 4 or length > _LONGEST_BLOCK:
            raise CaptureError(f"it is broken at byte {at}: a block of {length} bytes")
        if length > len(data) - at:
            return
        body = data[at + 8 : at + length - 4]
        if kind == _INTERFACE:
            interfaces.append(_interface(body, endian))
        elif kind in (_ENHANCED, _SIMPLE):
            yield _record(kind, body, endian, interfaces, at)
        at += length


def _section(data: memoryview, at: int) -> str:
    magic = data[at + 8 : at + 12]
    for endian, order in _ORDERS.items():
        if magic == _MAGIC.to_bytes(4, order):
            return endian
    raise CaptureError(f"it is broken at byte {at}: a section of no byte order")


def _interface(body: memoryview, endian: str) -> _Interface:
    layout = Struct(endian + "HHI")
    if len(body) < layout.size:
        raise CaptureError("it is broken: an interface without a link type")
    linktype, _, snap = layout.unpack_from(body)
    options = _read_options(body[layout.size :], endian)
    numbers = {code: int.from_bytes(value[:8], _ORDERS[endian]) for code, value in options}
    resolution = numbers.get(_IF_TSRESOL, 6)
    unit = 2.0 ** -(resolution & 0x7F) if resolution & 0x80 else 10.0 ** -(resolution & 0x7F)
    return _Interface(linktype, unit, numbers.get(_IF_TSOFFSET, 0), numbers.get(_IF_SPEED, 0), snap)


def _read_options(body: memoryview, endian: str) -> Iterator[tuple[int, bytes]]:
    layout, at = Struct(endian + "HH"), 0
    while at + layout.size <= len(body):
        code, length = layout.unpack_from(body, at)
        at += layout.size
        if code == _END or length > len(body) - at:
            return
        yield code, bytes(body[at : at + length])
        at += length + -length % 4


def _record(kind: int, body: memoryview, endian: str, interfaces: list[_Interface], at: int) -> Record:
    layout = Struct(endian + ("IIIII" if kind == _ENHANCED else "I"))
    if len(body) < layout.size:
        raise CaptureError(f"it is broken at byte {at}: a packet without a length")
    if kind == _ENHANCED:
        number, high, low, kept, length = layout.unpack_from(body)
    else:
        (length,) = layout.unpack_from(body)
        number, high, low, kept = 0, 0, 0, min(length, len(body) - layout.size)
    if number >= len(interfaces):
        raise CaptureError(f"it is broken at byte {at}: a packet of an interface that is not there")
    if kept > len(body) - layout.size:
        raise CaptureError(f"it is broken at byte {at}: a packet of {kept} bytes in a block that is shorter")
    one = interfaces[number]
    if kind == _SIMPLE and one.snap:
        kept = min(kept, one.snap)
    seconds = one.offset + (high << 32 | low) * one.unit
    data = body[layout.size : layout.size + kept]
    return Record(one.linktype, endian, seconds, data, length, one.bits_per_second)
