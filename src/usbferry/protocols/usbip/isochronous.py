"""Isochronous packets as the importer has them: laid out for a server, and read from its replies."""

from __future__ import annotations

from copy import copy

from ...usb.transfer import Completion, IsoPacket, Transfer
from ..errors import ProtocolError
from .messages import IsoDescriptor, status_of


def without_gaps(transfer: Transfer, packets: list[IsoPacket]) -> Transfer:
    """An isochronous transfer whose buffer holds its packets one after the other, and nothing else.

    Raises ValueError where packets overlap or lie outside the buffer.
    """
    end = 0
    if any(packet.length < 0 or packet.offset < 0 for packet in packets):
        raise ValueError("a packet of less than no bytes, or before its buffer")
    for packet in packets:
        if packet.offset != end:
            break
        end += packet.length
    else:
        if end == transfer.length:
            return transfer
    dense, payload = copy(transfer), memoryview(transfer.data)
    dense.length = sum(packet.length for packet in packets)
    if dense.length > transfer.length or any(p.offset + p.length > transfer.length for p in packets):
        raise ValueError(f"packets outside their buffer of {transfer.length} bytes, or one over another")
    if not transfer.is_in:
        dense.data = b"".join([payload[p.offset : p.offset + p.length] for p in packets])
    return dense


def descriptors(packets: list[IsoPacket]) -> bytes:
    """What is asked of each packet; done and status must be 0, for Linux adds them up."""
    pack, offset, packed = IsoDescriptor.STRUCT.pack, 0, []
    for packet in packets:
        packed.append(pack(offset, packet.length, 0, 0))
        offset += packet.length
    return b"".join(packed)


def completion_of(transfer: Transfer, status: int, actual: int, start_frame: int, payload: memoryview) -> Completion:
    """What a RET_SUBMIT says of a transfer; `payload` is its data and then its packets. Raises ProtocolError."""
    assert transfer.packets is not None
    data = bytes(payload[:actual]) if transfer.endpoint & 0x80 else b""
    packets = []
    for asked, (_, _, done, packet_status) in zip(
        transfer.packets, IsoDescriptor.STRUCT.iter_unpack(payload[len(data) :]), strict=True
    ):
        if done > asked.length:
            raise ProtocolError(f"{done} bytes in an isochronous packet of {asked.length}")
        packets.append(IsoPacket(asked.offset, asked.length, done, status_of(packet_status)))
    total = sum(p.actual for p in packets)
    if transfer.is_in and total != actual:
        raise ProtocolError(f"isochronous packets of {total} bytes with {actual} bytes of data")
    return Completion(status_of(status), data, total, packets, start_frame)
