"""Conversations with a ferry target that read like a wire trace. The bytes are made here with `struct`, by the tables
of the specification, so that a layout that is wrong in the same way at both ends is still found.

    talk = claimed()                                  a target whose device is claimed
    talk.says(bulk(1, 0x81, 64))                      the controller sends
    talk.asks("submit #1 in 81 64")                   what the pump is asked for, all of it
    talk.does(1, Completion(OK, b"abc"))              the device answers
    talk.hears(reply(1, 0, b"abc"))                   what goes back, every byte
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
    Reset,
    Resume,
    Submit,
)
from usbferry.protocols.ferry.exporter import Exporter
from usbferry.protocols.limits import DEFAULT_LIMITS, Limits
from usbferry.usb import build
from usbferry.usb.info import DeviceInfo
from usbferry.usb.transfer import Completion
from usbferry.usb.tree import Configuration, DeviceDescriptor, Interface

TOKEN, INSTANCE = b"0123456789abcdef", b"instance"
T = 0x80000000  # identifiers of the transport's calls
SHORT_NOT_OK, RESTART, STREAM = 0x0001, 0x0100, 0x0200
FAILED = 256  # and a Status

INFO = DeviceInfo(
    "1-1",
    DeviceDescriptor(0x0525, 0xA4A0, device_class=0xFF, release=0x0512),
    (Configuration(1, (Interface(0, 0, 8, 6, 0x50),)),),
    bus=1,
    address=15,
    path="/usbferry/1-1",
    product="Zero",
    alternates={0: 0},
)


def record(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def call(identifier: int, number: int, body: bytes = b"", *, endpoint: int = 0, flags: int = 0) -> bytes:
    return record(struct.pack(">IBBH", identifier, number, endpoint, flags) + body)


def reply(identifier: int, status: int = 0, body: bytes = b"") -> bytes:
    return record(struct.pack(">II", identifier, status) + body)


def u32(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def version(identifier: int = T, versions: Iterable[int] = (1,), capabilities: int = 15) -> bytes:
    listed = tuple(versions)
    return call(identifier, 1, u32(capabilities, len(listed), *listed))


def version_reply(identifier: int = T, limits: Limits = DEFAULT_LIMITS) -> bytes:
    body = struct.pack(
        ">II8sHHIII",
        1, 15, INSTANCE, limits.heartbeat_seconds, limits.grace_seconds,
        limits.transfers, limits.bytes_in_flight, limits.transfer_bytes,
    )  # fmt: skip
    return reply(identifier, 0, body)


def claim(identifier: int = T + 1, name: bytes = b"1-1") -> bytes:
    return call(identifier, 3, bytes([len(name)]) + name)


def resume(identifier: int, outstanding: Iterable[int] = (), token: bytes = TOKEN) -> bytes:
    numbers = tuple(outstanding)
    return call(identifier, 20, token + u32(len(numbers), *numbers))


def heartbeat(identifier: int, *ends: int) -> bytes:
    return call(identifier, 21, u32(*ends))


def bulk(
    identifier: int, endpoint: int, length: int = 0, data: bytes = b"", *, flags: int = 0, stream: int = 0
) -> bytes:
    """IN of `length` bytes, or OUT of `data`."""
    body = u32(length or len(data)) + (u32(stream) if stream else b"") + data
    return call(identifier, 6, body, endpoint=endpoint, flags=flags | (STREAM if stream else 0))


def interrupt(identifier: int, endpoint: int, length: int, interval: int, data: bytes = b"") -> bytes:
    return call(identifier, 8, u32(length, interval) + data, endpoint=endpoint)


def control(identifier: int, setup: str, data: bytes = b"") -> bytes:
    raw = bytes.fromhex(setup)
    return call(identifier, 5, raw + data, endpoint=raw[0] & 0x80)


def iso(
    identifier: int, endpoint: int, lengths: Iterable[int], data: bytes = b"", *, frame: int = 0, flags: int = 0
) -> bytes:
    listed = tuple(lengths)
    body = struct.pack(">IiI", 1, frame, len(listed)) + u32(*listed) + data
    return call(identifier, 7, body, endpoint=endpoint, flags=flags)


def iso_reply(
    identifier: int, packets: Iterable[tuple[int, int]], data: bytes = b"", *, frame: int = 0, status: int = 0
) -> bytes:
    """`packets` are status and bytes of each."""
    done = tuple(packets)
    return reply(identifier, status, struct.pack(">iI", frame, len(done)) + b"".join(u32(*one) for one in done) + data)


def unlink(identifier: int, target: int) -> bytes:
    return call(identifier, 9, u32(target))


def parts(identifier: int, word: bytes, body: bytes, sizes: Iterable[int], *, is_reply: bool = False) -> list[bytes]:
    """A message in parts of these sizes; `word` is what stands after its identifier, if it were whole."""
    whole, at, found = word + body, 0, []
    for size in sizes:
        piece = u32(len(whole), at) + whole[at : at + size]
        found.append(reply(identifier, 6, piece) if is_reply else call(identifier, 255, piece))
        at += size
    return found


def device(info: DeviceInfo = INFO) -> bytes:
    """A device record."""

    def text(value: str) -> bytes:
        return struct.pack(">H", len(value.encode())) + value.encode()

    def sized(raw: bytes) -> bytes:
        return struct.pack(">H", len(raw)) + raw

    return b"".join(
        [
            bytes([len(info.name)]) + info.name.encode(),
            struct.pack(">BBHH18s", info.speed, info.configuration, info.bus, info.address, build.device(info.device)),
            *map(text, (info.path, info.manufacturer, info.product, info.serial, info.holder)),
            bytes([len(info.alternates)]) + b"".join(bytes(pair) for pair in sorted(info.alternates.items())),
            bytes([len(info.classes)]) + b"".join(bytes(triple) for triple in info.classes),
            bytes([len(info.configurations)]) + b"".join(sized(build.configuration(c)) for c in info.configurations),
        ]
    )


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
        case Resume():
            return f"resume {event.session!r}"
        case AllocStreams():
            return f"alloc #{event.tag} {event.count} of {bytes(event.endpoints).hex()}"
        case FreeStreams():
            return f"free #{event.tag} {bytes(event.endpoints).hex()}"
    return type(event).__name__.lower()


class Talk(base.Talk):
    """With a ferry target, which a controller talks to."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(Exporter(limits, 0.0, instance=INSTANCE, token=lambda: TOKEN), _text)
        self.limits = limits

    def does(self, tag: int, completion: Completion | None = None) -> Talk:
        """The device answers a transfer; then the pump looks whether there is more to do."""
        super().does(tag, completion or Completion())
        return self.goes_on() if self.exporter.has_events else self

    def loses_transport(self) -> bool:
        """Whether the session waits for another."""
        self.held = b""
        return self.exporter.disconnected(self.now)

    def finds_transport(self) -> Talk:
        self.exporter.connected(self.now)
        return self


def open_(limits: Limits = DEFAULT_LIMITS) -> Talk:
    """A transport on which a version was agreed."""
    return Talk(limits).says(version()).hears(version_reply(limits=limits))


def claimed(limits: Limits = DEFAULT_LIMITS, info: DeviceInfo = INFO) -> Talk:
    """A transport on which the device was claimed, by a controller that has shown that it has the token."""
    talk = open_(limits)
    talk.says(claim()).asks("claim 1-1")
    talk.exporter.accept(info)
    return talk.hears(reply(T + 1, 0, TOKEN + device(info))).says(call(T + 2, 22)).asks().hears()
