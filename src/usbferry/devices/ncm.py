"""NCM transfer blocks: several Ethernet frames in one USB transfer. Bytes to frames and back, 16-bit form.

    NTH: "NCMH" 12 sequence block-length index   NDP: "NCM0" length next-index, (index, length) of each frame, (0, 0)

Source: Universal Serial Bus Communications Class Subclass Specification for Network Control Model Devices 1.0, §3.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from ..usb.transfer import Buffer

_HEADER: Final = Struct("<4sHHHH")  # §3.2.1
_POINTERS: Final = Struct("<4sHH")  # §3.3.1
_POINTER: Final = Struct("<HH")
_NTH, _NDP, _NDP_CRC = b"NCMH", b"NCM0", b"NCM1"
_ALIGNMENT: Final = 4
PARAMETERS: Final = Struct("<HHIHHHHIHHHH")  # §6.2.1

BLOCK_BYTES: Final = 16 * 1024  # each way; 2048 is the least, §6.2.7
LEAST_BLOCK_BYTES: Final = 2048


def parameters() -> bytes:
    """What a device says of the blocks it gives and takes: 16-bit ones, everything aligned to 4."""
    ndp = (_ALIGNMENT, 0, _ALIGNMENT, 0)
    return PARAMETERS.pack(PARAMETERS.size, 0x01, BLOCK_BYTES, *ndp, BLOCK_BYTES, *ndp)


def overhead(frames: Sequence[Buffer]) -> int:
    """Bytes that a block of these frames has besides them, at most."""
    return _HEADER.size + _POINTERS.size + _POINTER.size * (len(frames) + 1) + _ALIGNMENT * (len(frames) + 1)


def pack(frames: Sequence[Buffer], sequence: int) -> bytes:
    """One block, its pointers first, as they are known when it is begun."""
    table = _POINTERS.size + _POINTER.size * (len(frames) + 1)
    pointers = bytearray(_POINTERS.pack(_NDP, table, 0))
    body = bytearray()
    at = _HEADER.size + table
    for frame in frames:
        body += bytes(-(at + len(body)) % _ALIGNMENT)
        pointers += _POINTER.pack(at + len(body), len(frame))
        body += frame
    pointers += _POINTER.pack(0, 0)
    header = _HEADER.pack(_NTH, _HEADER.size, sequence & 0xFFFF, at + len(body), _HEADER.size)
    return header + pointers + body


def length(block: Buffer) -> int:
    """wBlockLength, as soon as the header is there: 0 before, and where the transfer's end is the block's."""
    return _HEADER.unpack_from(block)[3] if len(block) >= _HEADER.size else 0


def parse(block: Buffer) -> list[bytes]:
    """The frames of a block, without their CRCs.

    Raises ValueError for one that is not as the specification says, and for tables that go back and frames that
    overlap: out of one block a host could have gigabytes made.
    """
    if len(block) < _HEADER.size:
        raise ValueError(f"a block of {len(block)} bytes")
    signature, size, _, total, at = _HEADER.unpack_from(block)
    if signature != _NTH or size != _HEADER.size or total > len(block):
        raise ValueError(f"no NTH16: {bytes(block[:12]).hex()}")
    places: list[tuple[int, int]] = []
    view = memoryview(block)
    while at:
        following = _pointers(view, at, places)
        if following and following <= at:
            raise ValueError(f"a table at {at} is followed by one at {following}")
        at = following
    if sum(count for _, count in places) > len(view):
        raise ValueError(f"{len(places)} frames that overlap")
    return [bytes(view[index : index + count]) for index, count in places]


def _pointers(view: memoryview, at: int, places: list[tuple[int, int]]) -> int:
    """Add where the frames of one table are, and their bytes; where the next table is, or 0."""
    if at % _ALIGNMENT or at + _POINTERS.size > len(view):
        raise ValueError(f"an NDP16 at {at}")
    signature, size, following = _POINTERS.unpack_from(view, at)
    if signature not in (_NDP, _NDP_CRC) or size < 16 or size % 4 or at + size > len(view):
        raise ValueError(f"no NDP16: {bytes(view[at : at + 8]).hex()}")
    for index, count in _POINTER.iter_unpack(view[at + _POINTERS.size : at + size]):
        if not index or not count:
            break
        if index + count > len(view):
            raise ValueError(f"a frame of {count} bytes at {index}, in a block of {len(view)}")
        places.append((index, count - 4 * (signature == _NDP_CRC)))
    return int(following)
