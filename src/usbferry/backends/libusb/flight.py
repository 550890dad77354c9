"""One transfer in libusb's words: a struct libusb_transfer on the way there, a Completion on the way back.

A payload is copied at most once each way: OUT bytes that are ours already go as they are, what was lent is copied; what
an IN transfer brings is a view of the buffer that libusb filled.
"""

from __future__ import annotations

import ctypes
from struct import Struct, calcsize
from typing import Any, Final

from ...device import Promise
from ...usb.transfer import Buffer, Completion, Flags, IsoPacket, Transfer
from ...usb.types import Status
from .library import STATUSES, Context, library, streams

SETUP: Final = 8  # bytes
SPARES: Final = 64  # structs that are kept: to allocate and free one costs a quarter of all that is done for a transfer
BULK_STREAM: Final = 4  # LIBUSB_TRANSFER_TYPE_BULK_STREAM
ADD_ZERO_PACKET: Final = 0x08  # LIBUSB_TRANSFER_ADD_ZERO_PACKET

# struct libusb_transfer, libusb.h: dev_handle, flags, endpoint, type, timeout, status, length, actual_length, callback,
# user_data, buffer, num_iso_packets. All at once it is filled in a third of the time that ctypes takes field by field.
_STRUCT: Final = Struct("@PBBBIiiiPPPi")
_END: Final = Struct("@i4xi")  # status and actual_length
_STATUS: Final = calcsize("@PBBBI")

_SHORT_NOT_OK: Final = int(Flags.SHORT_NOT_OK)  # plain numbers are found sooner, for every transfer
_COMPLETED, _CANCELLED, _NO_DEVICE = 0, 3, 5

# enum libusb_transfer_status; CANCELLED besides is the flight's own `verdict`
_ENDS: Final = {
    _COMPLETED: Status.OK,
    1: Status.PROTOCOL,  # LIBUSB_TRANSFER_ERROR: bit stuffing, CRC, no answer; libusb does not say which
    2: Status.TIMEOUT,
    _CANCELLED: Status.CANCELLED,
    4: Status.STALL,
    _NO_DEVICE: Status.GONE,
    6: Status.OVERFLOW,
}


class Flight:
    """A transfer that is with libusb. `end` makes its answer; then the struct is freed."""

    __slots__ = (
        "_buffer",
        "_context",
        "_is_asked",
        "_struct",
        "address",
        "due",
        "future",
        "is_cancelled",
        "is_over",
        "pointer",
        "transfer",
        "verdict",
    )

    def __init__(self, transfer: Transfer, future: Promise) -> None:
        self.transfer = transfer
        self.future = future
        self.verdict = Status.CANCELLED  # what a cancel means to who submitted it: that, or its endpoint went away
        self.is_cancelled = False  # asked once: libusb answers a second time with an error at best
        self._is_asked = False  # a thread is about to ask libusb for its end, and needs the struct
        self.is_over = False  # libusb has finished with it
        self.due = 0.0  # when a control transfer has taken too long, by the event loop's clock

    def prepare(self, context: Context, handle: int, kind: int, flags: int = 0) -> None:
        """Fill the struct. `handle` is the address of an opened libusb_device_handle, `flags` are libusb's.

        It has no time limit: to keep one, libusb would ask the kernel for the transfer's end, and wait for it, where
        events are handled.
        """
        transfer = self.transfer
        packets = transfer.packets
        count = len(packets) if packets is not None else 0
        if packets is None and context.spare:
            self.pointer, self.address, self._struct = context.spare.pop()
        else:
            self.pointer = library().libusb_alloc_transfer(count)
            if not self.pointer:
                raise MemoryError
            self._struct = self.pointer.contents
            self.address = ctypes.addressof(self._struct)
        self._context = context
        buffer = self._buffer = self._fill()
        if transfer.stream_id:
            kind = BULK_STREAM
            streams().libusb_transfer_set_stream_id(self.pointer, transfer.stream_id)
        size = len(buffer)
        where = _address(buffer) if size else 0
        head = (handle, flags, transfer.endpoint, kind, 0, 0, size, 0, context.callback, 0, where, count)
        _STRUCT.pack_into(self._struct, 0, *head)
        if packets is not None:
            for place, packet in zip(_descriptors(self.address, count), packets, strict=True):
                place.length = packet.length

    def leave_zero_packet(self) -> bool:
        """Take ADD_ZERO_PACKET back, with which libusb ends a full last packet by an empty one; whether it was so."""
        was_asked = bool(self._struct.flags & ADD_ZERO_PACKET)
        self._struct.flags &= ~ADD_ZERO_PACKET
        return was_asked

    def ask(self) -> Any:
        """Its pointer, for who asks libusb to cancel it, and calls `asked` then."""
        self._is_asked = True
        return self.pointer

    def asked(self) -> None:
        self._is_asked = False
        if self.is_over:
            self.free()

    def free(self) -> None:
        """Let go of the struct, now or when nobody needs it any more: one of the usual size is kept for the next."""
        self.is_over = True
        if self._is_asked:
            return
        spare = self._context.spare
        if self.transfer.packets is None and len(spare) < SPARES:
            spare.append((self.pointer, self.address, self._struct))
        else:
            library().libusb_free_transfer(self.pointer)

    def end(self) -> Completion:
        """The answer, from a struct that libusb has finished with."""
        transfer = self.transfer
        status, actual = _END.unpack_from(self._struct, _STATUS)
        result = _ENDS.get(status, Status.FAILED)
        if status == _CANCELLED:
            result = self.verdict
        if transfer.packets is not None:
            return self._end_packets(result)
        if not transfer.is_in:
            return Completion(result, b"", actual)
        if result == Status.OK and actual < transfer.length and transfer.flags & _SHORT_NOT_OK:
            result = Status.SHORT  # libusb's own flag for it ends with an error that says nothing
        start = SETUP if transfer.setup else 0
        return Completion(result, memoryview(self._buffer)[start : start + actual])

    def _fill(self) -> Buffer:
        """The buffer that libusb reads or writes."""
        transfer = self.transfer
        if transfer.setup:
            if transfer.is_in:
                answer = bytearray(SETUP + transfer.length)
                answer[:SETUP] = transfer.setup
                return answer
            buffer, transfer.data = bytes(transfer.setup) + transfer.data, b""
            return buffer
        if transfer.packets is not None:
            return self._fill_packets(transfer.packets)
        if transfer.is_in:
            return bytearray(transfer.length)
        if transfer.data.__class__ is not bytes:
            transfer.data = bytearray(transfer.data)  # whose address is told sooner
        return transfer.data

    def _fill_packets(self, packets: list[IsoPacket]) -> Buffer:
        """libusb knows no gaps between packets: what does not adjoin is moved together."""
        at, is_moved = 0, False
        for packet in packets:
            is_moved |= packet.offset != at
            at += packet.length
        if self.transfer.is_in:
            return bytearray(at)
        data, self.transfer.data = self.transfer.data, b""
        view = memoryview(data)
        if not is_moved and len(view) == at:
            return data if isinstance(data, bytes) else bytes(view)
        return b"".join([view[packet.offset : packet.offset + packet.length] for packet in packets])

    def _end_packets(self, result: Status) -> Completion:
        """Isochronous: each packet has its own status, the whole is well when it ran to its end."""
        packets, total, at, pieces = self.transfer.packets or [], 0, 0, []
        view = memoryview(self._buffer)
        for place, packet in zip(_descriptors(self.address, len(packets)), packets, strict=True):
            packet.actual = min(place.actual_length, packet.length)
            packet.status = _ENDS.get(place.status, Status.FAILED)
            if packet.status == Status.CANCELLED or (result != Status.OK and packet.status == Status.PROTOCOL):
                packet.status = Status.NOT_DONE  # its frame never came
            total += packet.actual
            pieces.append(view[at : at + packet.actual])
            at += packet.length
        if not self.transfer.is_in:
            return Completion(result, b"", total, packets)
        return Completion(result, view if total == at else b"".join(pieces), total, packets)


def refused(code: int) -> Completion:
    """The answer for a transfer that libusb did not take."""
    return Completion(STATUSES.get(code, Status.FAILED))


def _address(buffer: Buffer) -> int:
    """Where its bytes are, for as long as somebody holds it."""
    if isinstance(buffer, bytes):
        return ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p).value or 0
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _descriptors(address: int, count: int) -> Any:
    """The packets' own structs, which follow the transfer's."""
    lib = library()
    return (lib.libusb_iso_packet_descriptor * count).from_address(address + lib.libusb_transfer.iso_packet_desc.offset)
