"""What the four submit calls and their replies say of a transfer (§6.5), both ways."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from ...usb.setup import SET_ADDRESS, Setup
from ...usb.transfer import Buffer, Completion, Flags, IsoPacket, Transfer
from ...usb.types import Status
from ..errors import ProtocolError
from ..events import LENT_FROM, Completed, Lent
from ..limits import Limits
from .messages import (
    DEVICE_FLAGS,
    Call,
    Interrupt,
    Isochronous,
    IsochronousReply,
    IsoResult,
    WireFlags,
    code_of,
    explicit_call,
    parse_words,
    status_of,
    words,
)

_SETUP_BYTES: Final = 8
_CONTROL, _ISOCHRONOUS, _INTERRUPT = int(Call.CONTROL), int(Call.ISOCHRONOUS), int(Call.INTERRUPT)
_STREAM: Final = int(WireFlags.STREAM)
_OK: Final = Status.OK


class Body(NamedTuple):
    """A submit as it is sent: what its header says, what its body begins with, and its data."""

    number: int
    endpoint: int
    flags: int
    head: bytes
    data: Buffer


def encode(transfer: Transfer) -> Body:
    """The call for a transfer. Raises ValueError when its parts do not fit together."""
    address, flags, data = transfer.endpoint, transfer.flags & DEVICE_FLAGS, transfer.data
    if not transfer.is_in and len(data) != transfer.length:
        raise ValueError(f"{len(data)} bytes of payload in a transfer of {transfer.length}")
    if transfer.length < 0:
        raise ValueError(f"a transfer of {transfer.length} bytes")
    if not address & 0x0F:
        return _encode_control(transfer, flags)
    if transfer.packets is not None:
        dense = _dense(transfer, transfer.packets)
        lengths = [packet.length for packet in transfer.packets]
        head = Isochronous(transfer.interval, transfer.start_frame, len(lengths)).pack() + words(lengths)
        return Body(Call.ISOCHRONOUS, address, flags, head, dense)
    number, head = Call.BULK, words([transfer.length])
    if transfer.interval:
        number, head = Call.INTERRUPT, Interrupt(transfer.length, transfer.interval).pack()
    if transfer.stream_id:
        flags, head = flags | WireFlags.STREAM, head + words([transfer.stream_id])
    return Body(number, address, flags, head, b"" if transfer.is_in else data)


def _encode_control(transfer: Transfer, flags: int) -> Body:
    setup = Setup.parse(transfer.setup)
    if setup.length != transfer.length or (setup.length and setup.is_in != transfer.is_in):
        raise ValueError(f"a transfer of {transfer.length} bytes with setup {setup}")
    explicit = explicit_call(setup)
    if explicit is not None:
        number, body = explicit
        return Body(number, 0, 0, body, b"")
    data = b"" if transfer.is_in else transfer.data
    return Body(Call.CONTROL, transfer.endpoint & 0x80, flags, bytes(transfer.setup), data)


def _dense(transfer: Transfer, packets: list[IsoPacket]) -> Buffer:
    """The data of packets, one after the other. Raises ValueError where they lie outside of theirs."""
    total = sum(packet.length for packet in packets)
    if any(packet.length < 0 or packet.offset < 0 for packet in packets):
        raise ValueError("a packet of less than no bytes, or before its buffer")
    if total > transfer.length or any(p.offset + p.length > transfer.length for p in packets):
        raise ValueError(f"packets outside their buffer of {transfer.length} bytes, or one over another")
    if transfer.is_in:
        return b""
    payload = memoryview(transfer.data)
    return b"".join([payload[p.offset : p.offset + p.length] for p in packets])


def decode(number: int, endpoint: int, flags: int, body: memoryview, limits: Limits) -> Transfer:
    """The transfer of a submit. Raises ValueError or struct.error for one that is malformed."""
    if number == _CONTROL:
        return _decode_control(flags, body)
    if not endpoint & 0x0F or endpoint & 0x70:
        raise ValueError(f"endpoint {endpoint:#04x}")
    if number == _ISOCHRONOUS:
        return _decode_isochronous(endpoint, flags, body, limits)
    length, at, interval, stream = int.from_bytes(body[:4], "big"), 4, 0, 0
    if number == _INTERRUPT:
        interval, at = Interrupt.parse(body).interval, Interrupt.SIZE
    if flags & _STREAM:
        [stream], at = parse_words(body[at : at + 4], 0, 1), at + 4
    _check_data(len(body) - at, endpoint, length)
    return Transfer(endpoint, length, body[at:], b"", flags & DEVICE_FLAGS, None, stream, interval)


def _decode_control(flags: int, body: memoryview) -> Transfer:
    raw, data = bytes(body[:_SETUP_BYTES]), body[_SETUP_BYTES:]
    setup = Setup.parse(raw)
    if (setup.request_type, setup.request) == SET_ADDRESS:
        raise ValueError("SET_ADDRESS is the business of whom the device is plugged into")
    address = 0x80 if setup.is_in else 0
    _check_data(len(data), address, setup.length)
    return Transfer(address, setup.length, data, raw, flags & DEVICE_FLAGS)


def _decode_isochronous(endpoint: int, flags: int, body: memoryview, limits: Limits) -> Transfer:
    call = Isochronous.parse(body)
    if call.count > limits.iso_packets:
        raise ValueError(f"{call.count} packets, the limit is {limits.iso_packets}")
    start = Isochronous.SIZE + 4 * call.count
    packets = iso_packets(parse_words(body[Isochronous.SIZE : start], 0, call.count))
    length, flags = sum(p.length for p in packets), flags & DEVICE_FLAGS
    _check_data(len(body) - start, endpoint, length)
    transfer = Transfer(endpoint, length, body[start:], b"", flags, packets, 0, call.interval)
    transfer.start_frame = 0 if flags & Flags.ISO_ASAP else call.start_frame
    return transfer


def iso_packets(lengths: Iterable[int]) -> list[IsoPacket]:
    """Packets one after the other: there are no gaps on the wire."""
    packets, offset = [], 0
    for length in lengths:
        packets.append(IsoPacket(offset, length))
        offset += length
    return packets


def _check_data(size: int, endpoint: int, length: int) -> None:
    if size != (0 if endpoint & 0x80 else length):
        raise ValueError(f"{size} bytes of data in a transfer of {length}")


def encode_reply(transfer: Transfer, completion: Completion) -> tuple[int, bytes, Buffer]:
    """Status, beginning of the body, and data of a reply. A device that gave more than was asked for has babbled."""
    if transfer.packets is not None:
        return _encode_isochronous(transfer, transfer.packets, completion)
    status, length, data = completion.status, transfer.length, completion.data
    if transfer.endpoint & 0x80:
        if len(data) > length:
            status, data = Status.OVERFLOW, data[:length]
        return code_of(status), b"", kept(data)
    actual = min(completion.actual, length)
    all_done = actual == length and (status == Status.OK or not length)
    return code_of(status), b"" if all_done else words([actual]), b""


def is_bulk(transfer: Transfer) -> bool:
    """Whether it came as BULK, or would go as that."""
    return not (transfer.interval or transfer.setup or transfer.packets is not None) and transfer.endpoint & 0x0F != 0


def kept(data: Buffer) -> Buffer:
    """A reply's data, which is kept until it is acknowledged, and must not change meanwhile."""
    if data.__class__ is bytes or (data.__class__ is memoryview and data.obj.__class__ is bytes):
        return data
    return bytes(data)


def _encode_isochronous(transfer: Transfer, asked: list[IsoPacket], completion: Completion) -> tuple[int, bytes, bytes]:
    """One result for each packet; none where the transfer failed as a whole or the device contradicts itself."""
    done, data = completion.packets or [], bytes(completion.data) if transfer.is_in else b""
    agrees = len(done) == len(asked) and all(0 <= d.actual <= a.length for d, a in zip(done, asked, strict=True))
    if not agrees or (transfer.is_in and sum(d.actual for d in done) != len(data)):
        return code_of(completion.status or Status.FAILED), b"", b""
    results = [IsoResult(code_of(d.status), d.actual).pack() for d in done]
    head = IsochronousReply(completion.start_frame, len(done)).pack()
    return code_of(completion.status), head + b"".join(results), data


def decode_reply(
    tag: int, transfer: Transfer, code: int, body: memoryview, *, is_lent: bool = True, lends: bool = False
) -> Completed:
    """How the transfer of `tag` ended. A body that is not lent is not copied, nor a long one where it may be lent on.

    Raises ProtocolError for what cannot be.
    """
    status = status_of(code) if code else Status.OK
    if transfer.packets is not None:
        return Completed.of(tag, _decode_results(transfer, transfer.packets, status, body))
    if transfer.endpoint >= 0x80:
        if len(body) > transfer.length:
            raise ProtocolError(f"{len(body)} bytes in the reply to {transfer}")
        if lends and len(body) >= LENT_FROM:
            return Lent(tag, status, body)
        return Completed(tag, status, bytes(body) if is_lent else body)
    actual = transfer.length if status == Status.OK else 0
    if len(body):
        actual = int.from_bytes(body, "big")
    if len(body) not in (0, 4) or actual > transfer.length:
        raise ProtocolError(f"{len(body)} bytes in the reply to {transfer}, of which {actual} bytes were done")
    return Completed(tag, status, b"", actual)


def _decode_results(transfer: Transfer, asked: list[IsoPacket], status: Status, body: memoryview) -> Completion:
    """Without results, the transfer failed as a whole."""
    if not len(body):
        failed = [IsoPacket(p.offset, p.length, 0, Status.NOT_DONE) for p in asked]
        return Completion(status or Status.FAILED, b"", 0, failed)
    start = IsochronousReply.SIZE + IsoResult.SIZE * len(asked)
    if len(body) < start or IsochronousReply.parse(body).count != len(asked):
        raise ProtocolError(f"{len(body)} bytes in the reply to {len(asked)} packets")
    results = IsoResult.STRUCT.iter_unpack(body[IsochronousReply.SIZE : start])
    packets = [IsoPacket(p.offset, p.length, done, status_of(c)) for p, (c, done) in zip(asked, results, strict=True)]
    data, total = bytes(body[start:]), sum(p.actual for p in packets)
    if any(p.actual > p.length for p in packets) or len(data) != (total if transfer.is_in else 0):
        raise ProtocolError(f"isochronous packets of {total} bytes with {len(data)} bytes of data")
    return Completion(status, data, total, packets, IsochronousReply.parse(body).start_frame)
