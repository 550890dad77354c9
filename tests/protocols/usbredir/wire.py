"""A conversation with a usbredir exporter that reads like a wire trace. The bytes are made here with `struct`, from the
protocol's text, so that a layout that is wrong in the same way at both ends is still found.

    talk = connected()
    talk.says(bulk(7, 0x81, 64))              the importer sends
    talk.asks("submit #1 in 81 64")           what the pump is asked for, all of it
    talk.does(1, Completion(OK, b"abc"))      the device answers
    talk.hears(bulk(7, 0x81, data=b"abc"))    what goes back, every byte
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from tests.protocols import talk as base
from usbferry.protocols.events import (
    AllocStreams,
    Cancel,
    Claim,
    Event,
    FreeStreams,
    Note,
    Reset,
    Submit,
)
from usbferry.protocols.limits import DEFAULT_LIMITS, Limits
from usbferry.protocols.usbredir.exporter import Exporter
from usbferry.usb.info import DeviceInfo
from usbferry.usb.tree import Configuration, DeviceDescriptor, Endpoint, Interface
from usbferry.usb.types import Speed

SUCCESS, CANCELLED, INVAL, IOERROR, STALL, TIMEOUT, BABBLE = range(7)
ALL = 0xFF  # capabilities, as bits
STREAMS, VERSION, FILTER, ACK, SIZES, LONG_IDS, LONG_BULK, RECEIVING = (1 << bit for bit in range(8))

ENDPOINTS = (
    Endpoint(0x81, 2, 512),
    Endpoint(0x02, 2, 512),
    Endpoint(0x83, 3, 8, 4),
    Endpoint(0x04, 3, 8, 4),
    Endpoint(0x85, 1, 100, 4),
    Endpoint(0x06, 1, 100, 4),
)
INFO = DeviceInfo(
    "1-1",
    DeviceDescriptor(0x1209, 0x0001, device_class=0xFF, device_subclass=1, device_protocol=2, release=0x0512),
    (
        Configuration(1, (Interface(0, 0, 8, 6, 0x50, ENDPOINTS), Interface(0, 1, 8, 6, 0x62), Interface(1, 0, 3))),
        Configuration(2, (Interface(0),)),
    ),
    Speed.HIGH,
)


# -- messages -----------------------------------------------------------------------------------------------------


def packet(kind: int, id: int, body: bytes = b"", data: bytes = b"", *, long: bool = True) -> bytes:
    return struct.pack("<IIQ" if long else "<III", kind, len(body) + len(data), id) + body + data


def hello(caps: Iterable[int] = (ALL,), version: bytes = b"peer") -> bytes:
    words = b"".join(struct.pack("<I", word) for word in caps)
    return packet(0, 0, struct.pack("64s", version) + words, long=False)


def control(id: int, setup: str, data: bytes = b"", *, status: int = 0, length: int | None = None, endpoint=None):
    """A control packet of either side. `length` is what is wanted or was done, unless the data says so."""
    request_type, request, value, index, wanted = struct.unpack("<BBHHH", bytes.fromhex(setup))
    if endpoint is None:
        endpoint = request_type & 0x80
    length = length if length is not None else len(data) if data else wanted if status == 0 and not data else 0
    return packet(100, id, struct.pack("<BBBBHHH", endpoint, request, request_type, status, value, index, length), data)


def bulk(id: int, endpoint: int, length: int | None = None, data: bytes = b"", *, status: int = 0, stream: int = 0):
    length = len(data) if length is None else length
    return packet(101, id, struct.pack("<BBHIH", endpoint, status, length & 0xFFFF, stream, length >> 16), data)


def iso(id: int, endpoint: int, data: bytes = b"", *, length: int | None = None, status: int = 0) -> bytes:
    return packet(102, id, struct.pack("<BBH", endpoint, status, len(data) if length is None else length), data)


def interrupt(id: int, endpoint: int, data: bytes = b"", *, length: int | None = None, status: int = 0) -> bytes:
    return packet(103, id, struct.pack("<BBH", endpoint, status, len(data) if length is None else length), data)


def buffered(id: int, endpoint: int, data: bytes, *, status: int = 0, stream: int = 0) -> bytes:
    return packet(104, id, struct.pack("<IIBB", stream, len(data), endpoint, status), data)


def connect(release: int | None = 0x0512) -> bytes:
    body = struct.pack("<BBBBHH", 2, 0xFF, 1, 2, 0x1209, 1)
    return packet(1, 0, body + (struct.pack("<H", release) if release is not None else b""))


def interfaces(*found: tuple[int, int, int, int]) -> bytes:
    columns = [bytes(column).ljust(32, b"\0") for column in zip(*found, strict=True)]
    return packet(4, 0, struct.pack("<I", len(found)) + b"".join(columns))


def endpoints(found: dict[int, tuple[int, int, int, int]], *, sizes: bool = True, streams: bool = True) -> bytes:
    """`found` has type, interval, interface and packet size by slot; slots 0 and 16 are there without being named."""
    rows = {0: (0, 0, 0, 0), 16: (0, 0, 0, 0), **found}
    columns = zip(*[rows.get(slot, (255, 0, 0, 0)) for slot in range(32)], strict=True)
    kinds, intervals, numbers, packets = columns
    body = bytes(kinds) + bytes(intervals) + bytes(numbers)
    if sizes:
        body += struct.pack("<32H", *packets) + (bytes(128) if streams else b"")
    return packet(5, 0, body)


FIRST_ENDPOINTS = {
    17: (2, 0, 0, 512), 2: (2, 0, 0, 512), 19: (3, 4, 0, 8), 4: (3, 4, 0, 8), 21: (1, 4, 0, 100), 6: (1, 4, 0, 100),
}  # fmt: skip
FIRST_INTERFACES = ((0, 8, 6, 0x50), (1, 3, 0, 0))
SETTINGS = interfaces(*FIRST_INTERFACES) + endpoints(FIRST_ENDPOINTS)


# -- the conversation ---------------------------------------------------------------------------------------------


def _text(event: Event) -> str:
    match event:
        case Submit():
            return f"submit #{event.tag} {event.transfer}"
        case Cancel():
            return f"cancel #{event.tag}"
        case Reset():
            return f"reset #{event.tag}"
        case Claim():
            return f"claim {event.name}"
        case AllocStreams():
            return f"alloc #{event.tag} {event.count} {' '.join(f'{e:02x}' for e in event.endpoints)}"
        case FreeStreams():
            return f"free #{event.tag} {' '.join(f'{e:02x}' for e in event.endpoints)}"
        case Note():
            return f"note {event.text}"
    return type(event).__name__.lower()


class Talk(base.Talk):
    """With usbredir's exporter."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS, **options: object) -> None:
        super().__init__(Exporter(limits, 0.0, "1-1", **options), _text)  # type: ignore[arg-type]


def connected(limits: Limits = DEFAULT_LIMITS, info: DeviceInfo = INFO, caps: int = ALL, **options: object) -> Talk:
    """A connection on which the device is connected."""
    talk = Talk(limits, **options)
    talk.says(hello((caps,))).asks("claim 1-1")
    talk.exporter.accept(info)
    talk.takes()
    return talk
