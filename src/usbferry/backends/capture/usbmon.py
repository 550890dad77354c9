"""The records of Linux usbmon, LINKTYPE_USB_LINUX (189) and LINKTYPE_USB_LINUX_MMAPPED (220): one transfer has two.

    S (submitted): setup, what is sent        C (its end): status, what came

Source: Linux Documentation/usb/usbmon.rst, struct mon_bin_hdr in drivers/usb/mon/mon_bin.c; numbers are in the byte
order of the machine that captured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final

from ...protocols.usbip.messages import ERRNO, status_of
from ...usb.transfer import Buffer
from ...usb.types import Status, TransferType
from .events import CaptureError, Event, Packet
from .pcapng import Record

LINKTYPE: Final = 220
SHORT_LINKTYPE: Final = 189  # the same without the last four numbers, and without isochronous descriptors
# id, type, xfer_type, epnum, devnum, busnum, flag_setup, flag_data, ts_sec, ts_usec, status, length, len_cap
_HEAD: Final = "QBBBBHBBqiiII"
_LAYOUT: Final = {
    (linktype, endian): Struct(endian + _HEAD + tail)
    for linktype, tail in ((SHORT_LINKTYPE, "8s"), (LINKTYPE, "8siiII"))
    for endian in "<>"
}
_OURS: Final = _LAYOUT[LINKTYPE, "<"]
_ISO: Final = {endian: Struct(endian + "iIII") for endian in "<>"}  # status, offset, length, padding
_COUNTS: Final = Struct("<ii")  # error_count and numdesc, where a control transfer has its setup packet
_TYPES: Final = (TransferType.ISOCHRONOUS, TransferType.INTERRUPT, TransferType.CONTROL, TransferType.BULK)
_NUMBERS: Final = {kind: number for number, kind in enumerate(_TYPES)}
_SUBMITTED, _ENDED, _REFUSED = b"SCE"
_EINPROGRESS: Final = -115
_ISO_BYTES: Final = 16  # of a descriptor
_PRESENT: Final = 0  # a flag_setup or flag_data that says that there is one


def head(event: Event, interval: int = 0, start_frame: int = 0, flags: int = 0) -> bytes:
    """What stands before an event's data: the header, and the descriptors of isochronous packets."""
    data, packets = event.data, event.packets
    status = ERRNO.get(event.status, ERRNO[Status.FAILED]) if event.is_end else _EINPROGRESS
    setup, missing = event.setup, ord(">" if event.is_end else "<")
    if packets:
        setup = _COUNTS.pack(sum(p.status != Status.OK for p in packets) if event.is_end else 0, len(packets))
    seconds, rest = divmod(event.seconds, 1.0)
    start = _OURS.pack(
        event.transfer,
        _ENDED if event.is_end else _SUBMITTED,
        _NUMBERS[event.type],
        event.endpoint,
        event.device[1],
        event.device[0],
        _PRESENT if event.setup else ord("-"),
        _PRESENT if data else missing,
        int(seconds),
        int(rest * 1e6),
        status,
        event.length,
        len(data) + _ISO_BYTES * len(packets),
        setup,
        interval,
        start_frame,
        flags,
        len(packets),
    )
    return start + b"".join(_descriptors(packets)) if packets else start


def _descriptors(packets: Iterable[Packet]) -> Iterator[bytes]:
    offset = 0
    for packet in packets:
        yield _ISO["<"].pack(ERRNO.get(packet.status, ERRNO[Status.FAILED]), offset, len(packet.data), 0)
        offset += len(packet.data)


def event(record: Record) -> Event:
    """What a record says. Raises CaptureError for one that is none."""
    layout = _LAYOUT[record.linktype, record.endian]
    if len(record.data) < layout.size:
        raise CaptureError(f"it is broken: a usbmon record of {len(record.data)} bytes")
    number, kind, transfer, endpoint, address, bus, has_setup, _, _, _, status, length, kept, setup, *more = (
        layout.unpack_from(record.data)
    )
    if kind not in (_SUBMITTED, _ENDED, _REFUSED) or transfer >= len(_TYPES):
        raise CaptureError(f"it is broken: a usbmon record of type {kind}, transfer type {transfer}")
    is_end = kind != _SUBMITTED
    data, packets = record.data[layout.size :], tuple[Packet, ...]()
    if more and more[3]:
        packets, data = _packets(data, more[3], record.endian, has_data=is_end == bool(endpoint & 0x80))
        kept -= min(kept, more[3] * _ISO_BYTES)
    carries = is_end == bool(endpoint & 0x80)
    return Event(
        record.seconds,
        (bus, address),
        number,
        is_end,
        _TYPES[transfer],
        endpoint,
        status_of(status) if is_end else Status.OK,
        length,
        data[: min(kept, length)] if carries and not packets else b"",
        setup if not is_end and has_setup == _PRESENT and _TYPES[transfer] is TransferType.CONTROL else b"",
        packets,
        not carries or bool(packets) or min(kept, len(data)) >= length,
    )


def _packets(data: memoryview, count: int, endian: str, *, has_data: bool) -> tuple[tuple[Packet, ...], memoryview]:
    """The descriptors in front of the data, and what is behind them."""
    layout = _ISO[endian]
    rest = data[min(len(data), count * layout.size) :]
    found = []
    for at in range(0, len(data) - len(rest) - layout.size + 1, layout.size):
        status, offset, length, _ = layout.unpack_from(data, at)
        content: Buffer = rest[offset : offset + length] if has_data else b""
        found.append(Packet(status_of(status), content))
    return tuple(found), rest
