"""The records of USBPcap on Windows, LINKTYPE_USBPCAP (249): one transfer has two, a control transfer perhaps four.

Source: desowin.org/usbpcap/captureformat.html; USBD_STATUS in the Windows driver kit's usb.h.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from ...usb.transfer import Buffer
from ...usb.types import Status, TransferType
from .events import CaptureError, Event, Packet
from .pcapng import Record

LINKTYPE: Final = 249
_HEAD: Final = Struct(
    "<HQIHBHHBBI"
)  # headerLen, irpId, status, function, info, bus, device, endpoint, transfer, length
_ISO: Final = Struct("<III")  # startFrame, numberOfPackets, errorCount
_PACKET: Final = Struct("<III")  # offset, length, status
_TYPES: Final = (TransferType.ISOCHRONOUS, TransferType.INTERRUPT, TransferType.CONTROL, TransferType.BULK)
_STAGE_SETUP, _STAGE_COMPLETE = 0, 3
_SETUP: Final = 8  # bytes
_MAX_PACKETS: Final = 1024  # of one transfer, as USBPcap says
_STATUS: Final = {
    0x00000000: Status.OK,
    0xC0000001: Status.CRC,
    0xC0000004: Status.STALL,
    0xC0000005: Status.NO_RESPONSE,
    0xC0000008: Status.OVERRUN,
    0xC0000009: Status.SHORT,
    0xC000000C: Status.OVERFLOW,
    0xC0000030: Status.STALL,
    0x80000200: Status.INVALID,
    0xC0006000: Status.TIMEOUT,
    0xC0007000: Status.GONE,
    0xC0010000: Status.CANCELLED,
}


def event(record: Record) -> Event | None:
    """What a record says; None for what is no transfer. Raises CaptureError for one that is none."""
    if len(record.data) < _HEAD.size:
        raise CaptureError(f"it is broken: a USBPcap record of {len(record.data)} bytes")
    size, number, status, _, info, bus, device, endpoint, transfer, length = _HEAD.unpack_from(record.data)
    if not _HEAD.size <= size <= len(record.data):
        raise CaptureError(f"it is broken: a USBPcap header of {size} bytes in a record of {len(record.data)}")
    if transfer >= len(_TYPES):
        return None  # what Windows tells its own drivers
    is_end, own, data = bool(info & 1), record.data[_HEAD.size : size], record.data[size:]
    kind, setup, packets = _TYPES[transfer], b"", tuple[Packet, ...]()
    if kind is TransferType.CONTROL:
        stage = own[0] if own else _STAGE_COMPLETE
        is_end = is_end or stage == _STAGE_COMPLETE
        if not is_end:
            if stage != _STAGE_SETUP or len(data) < _SETUP:
                return None
            setup, data, length = bytes(data[:_SETUP]), data[_SETUP:], max(0, length - _SETUP)
            endpoint = endpoint & 0x0F | setup[0] & 0x80
    elif kind is TransferType.ISOCHRONOUS:
        packets = _packets(own, data, has_data=is_end == bool(endpoint & 0x80))
    carries = is_end == bool(endpoint & 0x80) and not packets
    ended = _STATUS.get(status, Status.FAILED) if is_end else Status.OK
    content, is_whole = data[:length] if carries else b"", not carries or len(data) >= length
    place = (bus, device & 0xFF)
    return Event(
        record.seconds, place, number, is_end, kind, endpoint, ended, length, content, setup, packets, is_whole
    )


def _packets(head: memoryview, data: memoryview, *, has_data: bool) -> tuple[Packet, ...]:
    if len(head) < _ISO.size:
        return ()
    _, count, _ = _ISO.unpack_from(head)
    found = []
    for at in range(_ISO.size, min(len(head), _ISO.size + min(count, _MAX_PACKETS) * _PACKET.size), _PACKET.size):
        if at + _PACKET.size > len(head):
            break
        offset, length, status = _PACKET.unpack_from(head, at)
        content: Buffer = data[offset : offset + length] if has_data else b""
        found.append(Packet(_STATUS.get(status, Status.FAILED), content))
    return tuple(found)
