"""A conversation with a USB/IP exporter that reads like a wire trace. The bytes are made here with `struct`, at the
offsets of the kernel's packed structures, so that a layout that is wrong in the same way at both ends is still found.

    talk = imported()
    talk.says(submit(1, IN, 1, 64))         the importer sends
    talk.asks("submit #1 in 81 64")         what the pump is asked for, all of it
    talk.does(1, Completion(OK, b"abc"))    the device answers
    talk.hears(ret_submit(1, data=b"abc"))  what goes back, every byte
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from tests.protocols import talk as base
from usbferry.protocols.events import Cancel, Claim, Event, List, Reset, Submit
from usbferry.protocols.limits import DEFAULT_LIMITS, Limits
from usbferry.protocols.usbip.exporter import Exporter
from usbferry.usb.info import DeviceInfo
from usbferry.usb.tree import Configuration, DeviceDescriptor, Interface
from usbferry.usb.types import Speed

OUT, IN = 0, 1
DEVID = 0x0001000F
EPIPE, ECONNRESET, ENOMEM, EINVAL, EREMOTEIO, EXDEV, EPROTO, ENODEV, ESHUTDOWN, EOVERFLOW = (
    -32, -104, -12, -22, -121, -18, -71, -19, -108, -75,
)  # fmt: skip

INFO = DeviceInfo(
    "1-1",
    DeviceDescriptor(0x0525, 0xA4A0, device_class=0xFF, device_subclass=1, device_protocol=2, release=0x0512),
    (Configuration(1, (Interface(0, 0, 8, 6, 0x50), Interface(1, 0, 0xFF))),),
    Speed.HIGH,
    bus=1,
    address=15,
    path="/usbferry",
)


# -- messages -----------------------------------------------------------------------------------------------------


def op(code: int, body: bytes = b"", status: int = 0, version: int = 0x0111) -> bytes:
    return struct.pack(">HHI", version, code, status) + body


def op_import(busid: bytes = b"1-1") -> bytes:
    return op(0x8003, busid.ljust(32, b"\0"))


def submit(
    seqnum: int,
    way: int,
    ep: int,
    length: int | None = None,
    payload: bytes = b"",
    *,
    flags: int = 0,
    start_frame: int = 0,
    packets: int = 0,
    interval: int = 0,
    setup: bytes = bytes(8),
    devid: int = DEVID,
    iso: Iterable[tuple[int, int]] = (),
) -> bytes:
    """CMD_SUBMIT. `iso` are the offsets and lengths of its packets; their number is theirs unless given."""
    descriptors = [struct.pack(">IIII", offset, size, 0, 0) for offset, size in iso]
    header = struct.pack(
        ">IIIIIIiiii8s",
        1, seqnum, devid, way, ep,
        flags, len(payload) if length is None else length, start_frame, packets or len(descriptors), interval, setup,
    )  # fmt: skip
    return header + payload + b"".join(descriptors)


def control(seqnum: int, setup: bytes | str, payload: bytes = b"", length: int | None = None, way: int | None = None):
    """CMD_SUBMIT of a control transfer; direction and length are the setup's unless given."""
    raw = bytes.fromhex(setup) if isinstance(setup, str) else setup
    size = int.from_bytes(raw[6:8], "little")
    direction = raw[0] >> 7 if way is None else way
    if length is None:
        length = size if direction else len(payload)
    return submit(seqnum, direction, 0, length, payload, setup=raw)


def unlink(seqnum: int, target: int, *, devid: int = DEVID, way: int = 0, ep: int = 0) -> bytes:
    return struct.pack(">IIIIII24x", 2, seqnum, devid, way, ep, target)


def ret_submit(
    seqnum: int,
    status: int = 0,
    data: bytes = b"",
    *,
    actual: int | None = None,
    start_frame: int = 0,
    packets: int = 0,
    errors: int = 0,
    iso: Iterable[tuple[int, int, int, int]] = (),
) -> bytes:
    """RET_SUBMIT. `iso` are offset, length, actual and status of its packets."""
    descriptors = [struct.pack(">IIIi", *one) for one in iso]
    count = len(data) if actual is None else actual
    header = struct.pack(">II12xiiiii8x", 3, seqnum, status, count, start_frame, packets or len(descriptors), errors)
    return header + data + b"".join(descriptors)


def ret_unlink(seqnum: int, status: int = 0) -> bytes:
    return struct.pack(">II12xi24x", 4, seqnum, status)


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
        case List():
            return "list"
    return type(event).__name__


class Talk(base.Talk):
    """With USB/IP's exporter."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(Exporter(limits, now=0.0), _text)


def imported(limits: Limits = DEFAULT_LIMITS, info: DeviceInfo = INFO) -> Talk:
    """A connection on which the device was imported."""
    talk = Talk(limits)
    talk.says(op_import()).asks("claim 1-1")
    talk.exporter.accept(info)
    talk.exporter.outgoing, talk.exporter.outgoing_bytes = [], 0
    return talk
