"""Records on a stream, and what is longer than a record: cut into parts, put together again. The same both ways.

    marker 4 | record            the marker is the record's length; its bit 31 is 0 in version 1 (§4.1)

A part says which bytes of the whole it has, so parts of several messages may mix, arrive in any order, or twice. That
is how an interrupt answer passes a bulk transfer (§4.4).
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple, Protocol

from ...usb.transfer import Buffer
from ..errors import ProtocolError
from .messages import Part

MARKER: Final = 4  # bytes
HEADER: Final = 8  # of every call and every reply
PART_BYTES: Final = 64 * 1024  # of data in one record
RECORD_BYTES: Final = PART_BYTES + 256  # the data and what stands before it
OVERHEAD: Final = 64 * 1024  # of a message in parts, besides its data: what is said of isochronous packets
QUANTUM: Final = 512  # parts begin and end at multiples of it, but for the last one's end


class Way(Protocol):
    """What a transport says of itself."""

    @property
    def packet_bytes(self) -> int:
        """Of the largest packet; 0 on a stream."""

    @property
    def is_lossy(self) -> bool:
        """Whether what is sent may be lost, come twice, or be overtaken."""

    @property
    def unsent(self) -> int:
        """Bytes that wait for the network."""

    @property
    def blocked(self) -> bool:
        """Whether those are many, of which there will be news."""

    def proven(self) -> None:
        """Who is there has shown that it gets what is sent there: the packets are not in somebody else's name."""


class Stream(NamedTuple):
    """A stream that takes all that comes."""

    packet_bytes: int = 0
    is_lossy: bool = False
    unsent: int = 0
    blocked: bool = False

    def proven(self) -> None: ...


STREAM: Final = Stream()
_RECORD: Final = Struct(">III")  # marker, identifier, and the word of the call or the status
_PART: Final = Struct(">IIIII")
pack_record: Final = _RECORD.pack


def records(identifier: int, word: int, head: bytes, data: Buffer, part: int, packet: int = 0) -> list[Buffer]:
    """One message as records: `word` after the identifier, then `head`, then `data`, which is not copied.

    What does not fit one record, or one packet of `packet` bytes where they are that small, goes in parts, whose own
    word is `part`.
    """
    size = HEADER + len(head) + len(data)
    if size <= RECORD_BYTES and (not packet or size <= packet):
        first = pack_record(size, identifier, word) + head
        return [first, data] if len(data) else [first]
    room = min(PART_BYTES, (packet - HEADER - Part.SIZE) // QUANTUM * QUANTUM) if packet else PART_BYTES
    head = word.to_bytes(4, "big") + head
    view, total, found = memoryview(data), size - 4, list[Buffer]()
    for offset in range(0, total, room):
        here = min(room, total - offset)
        own, at = head[offset : offset + here], max(offset - len(head), 0)
        found.append(_PART.pack(HEADER + Part.SIZE + here, identifier, part, total, offset) + own)
        if here > len(own):
            found.append(view[at : at + here - len(own)])
    return found


class Assembly:
    """A message that comes in parts. `whole` is it, from its second word on, once `add` says so."""

    __slots__ = ("_missing", "_seen", "total", "whole")

    def __init__(self, total: int) -> None:
        self.total = total
        self.whole = memoryview(bytearray(total))
        self._seen = bytearray(-(-total // QUANTUM))
        self._missing = len(self._seen)

    def add(self, body: memoryview) -> bool:
        """Put in what follows the header of a PART; whether that was the last. Raises ProtocolError."""
        part, data = Part.parse(body), body[Part.SIZE :]
        end = part.offset + len(data)
        uneven = part.offset % QUANTUM or (end % QUANTUM and end != self.total)
        if part.total != self.total or end > self.total or uneven or not len(data):
            raise ProtocolError(f"part {part.offset}..{end} of {part.total} bytes, in a message of {self.total}")
        self.whole[part.offset : end] = data
        first, last = part.offset // QUANTUM, -(-end // QUANTUM)
        self._missing -= self._seen.count(0, first, last)
        self._seen[first:last] = b"\1" * (last - first)
        return not self._missing


def part_total(body: memoryview, most: int) -> int:
    """How long the whole will be. Raises ProtocolError beyond `most` bytes, before anything is allocated."""
    if len(body) < Part.SIZE:
        raise ProtocolError(f"a part of {len(body)} bytes, it has at least {Part.SIZE}")
    total = Part.parse(body).total
    if not 4 <= total <= most:
        raise ProtocolError(f"a message of {total} bytes in parts, allowed are 4 to {most}")
    return total
