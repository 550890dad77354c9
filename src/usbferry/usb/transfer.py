"""One transfer and how it ended: the two records that every protocol, device and backend exchanges.

These are the hottest objects of the program, so they have slots, are not frozen, and are built positionally.
A transfer's type is not in it: the endpoint's descriptor decides, and only the device knows its current settings.
"""

from __future__ import annotations

from collections import deque
from enum import IntFlag
from typing import Final

from .types import Status

Buffer = bytes | bytearray | memoryview


class Flags(IntFlag):
    """What an importer may ask of one transfer; meaning as Linux URB_*, include/linux/usb.h."""

    NONE = 0
    SHORT_NOT_OK = 0x01  # a short IN transfer ends with Status.SHORT; its data is still given
    ISO_ASAP = 0x02  # start in the next free frame and ignore start_frame
    ZERO_PACKET = 0x40  # a bulk OUT transfer of whole packets ends with an empty one


class IsoPacket:
    """One isochronous packet of a transfer: where it lies in the buffer, and what became of it."""

    __slots__ = ("actual", "length", "offset", "status")

    def __init__(self, offset: int, length: int, actual: int = 0, status: int = Status.OK) -> None:
        self.offset = offset  # bytes from the start of the transfer's buffer
        self.length = length  # bytes asked for or sent
        self.actual = actual  # bytes done
        self.status = status

    def __repr__(self) -> str:
        return f"IsoPacket({self.offset}, {self.length}, {self.actual}, {self.status!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IsoPacket):
            return NotImplemented
        return (self.offset, self.length, self.actual, self.status) == (
            other.offset,
            other.length,
            other.actual,
            other.status,
        )

    __hash__ = None  # type: ignore[assignment]  # mutable


class Transfer:
    """One request to move data over one endpoint.

    `endpoint` is the address with the direction bit (0x81); control transfers use 0x00 or 0x80 by the direction of
    their data stage. `length` is bytes asked for (IN) or sent (OUT). `data` is the payload of an OUT transfer and is
    only lent: it may be a view into a receive buffer that is used again once `Device.submit` has returned, so who
    needs it longer copies it. `setup` holds the 8 raw bytes of a control transfer. `packets` lists the isochronous
    packets, their offsets relative to `data` or to the answer's full-length buffer.
    """

    __slots__ = (
        *("data", "endpoint", "flags", "interval", "length", "packets", "setup", "start_frame", "stream_id"),
        "number",  # unset, until who carries it out notes its own name for it here, as in Linux's urb->hcpriv
    )
    number: int

    def __init__(
        self,
        endpoint: int,
        length: int,
        data: Buffer = b"",
        setup: bytes = b"",
        flags: int = 0,
        packets: list[IsoPacket] | None = None,
        stream_id: int = 0,
        interval: int = 0,
        start_frame: int = 0,
    ) -> None:
        self.endpoint = endpoint
        self.length = length
        self.data = data
        self.setup = setup
        self.flags = flags
        self.packets = packets
        self.stream_id = stream_id
        self.interval = interval  # as the importer gave it; devices go by their descriptors
        self.start_frame = start_frame

    @property
    def is_in(self) -> bool:
        return self.endpoint >= 0x80

    def __str__(self) -> str:
        way = "in" if self.endpoint & 0x80 else "out"
        kind = f"iso*{len(self.packets)} " if self.packets is not None else ""
        text = f"{kind}{way} {self.endpoint:02x} {self.length}"
        return f"{text} setup {bytes(self.setup).hex()}" if self.setup else text

    __repr__ = __str__


class Completion:
    """How a transfer ended.

    `data` is what an IN transfer brought, never more than its length; for isochronous IN it is compact, the bytes of
    each packet one after the other. `actual` is the number of bytes done, in either direction: for IN it is
    `len(data)`. `packets` are the transfer's packets with `actual` and `status` filled in.
    """

    __slots__ = ("actual", "data", "packets", "start_frame", "status")

    def __init__(
        self,
        status: int = Status.OK,
        data: Buffer = b"",
        actual: int = -1,
        packets: list[IsoPacket] | None = None,
        start_frame: int = 0,
    ) -> None:
        self.status = status
        self.data = data
        self.actual = len(data) if actual < 0 else actual
        self.packets = packets
        self.start_frame = start_frame

    @property
    def error_count(self) -> int:
        """Isochronous packets that did not end well."""
        return sum(packet.status != Status.OK for packet in self.packets or ())

    def __str__(self) -> str:
        return f"{_STATUS_NAMES.get(self.status, f'status {self.status}')} {self.actual}"

    def __repr__(self) -> str:
        return f"Completion({self})"


def filled_from(arrived: deque[tuple[int, bytes]], transfer: Transfer) -> Completion:
    """End an isochronous IN transfer with the oldest packets that arrived, a status and data each, which are taken."""
    parts, packets = [], []
    for asked in transfer.packets or ():
        status, data = arrived.popleft()
        if len(data) > asked.length:
            status, data = Status.OVERFLOW, data[: asked.length]
        parts.append(data)
        packets.append(IsoPacket(asked.offset, asked.length, len(data), status))
    return Completion(Status.OK, b"".join(parts), packets=packets)


_STATUS_NAMES: Final = {int(status): status.name.lower() for status in Status}
