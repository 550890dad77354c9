"""What a disk says of itself: INQUIRY with its vital product data, and the mode pages (SPC-4 §6.4, §7.5, §7.8)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from struct import pack, unpack
from typing import Final

from .sense import INVALID_LIST, LIST_LENGTH, Check

MAX_UNMAP_BYTES: Final = 1 << 30  # of one UNMAP: where files have no holes, zeros must be written
MAX_SAME_BYTES: Final = 1 << 23  # of one WRITE SAME: what a disk in memory fills without holding up the loop
MAX_UNMAPS: Final = 256  # descriptors in one UNMAP
_MEDIUM_ROTATION: Final = 1  # non-rotating: hosts then do not sort requests by place


@dataclass(frozen=True, slots=True)
class Identity:
    """What does not change: the names, and the shape of the medium."""

    blocks: int
    block: int = 512  # bytes in a block
    removable: bool = False
    readonly: bool = False
    vendor: str = "usbferry"
    product: str = "Virtual disk"
    revision: str = "0001"
    serial: str = ""


def inquiry(disk: Identity) -> bytes:
    """Standard INQUIRY data, SPC-4 §6.4.2: 36 bytes, as much as every host asks for."""
    names = _ascii(disk.vendor, 8) + _ascii(disk.product, 16) + _ascii(disk.revision, 4)
    return pack(">BBBBBBBB", 0, disk.removable << 7, 6, 0x02, 31, 0, 0, 0) + names  # SPC-4, RESPONSE DATA FORMAT 2


def vital_product_data(disk: Identity, page: int) -> bytes | None:
    """One VPD page, or None where there is none."""
    make = _VPD.get(page)
    if make is None:
        return None
    body = make(disk)
    return pack(">BBH", 0, page, len(body)) + body


def _supported(disk: Identity) -> bytes:
    return bytes(sorted(_VPD))


def _serial(disk: Identity) -> bytes:
    return disk.serial.encode("ascii", "replace")[:252]


def _identification(disk: Identity) -> bytes:
    """SPC-4 §7.8.6: a T10 vendor name, and a locally assigned NAA number, the same for the same serial number."""
    name = _ascii(disk.vendor, 8) + _ascii(disk.product, 16) + _serial(disk)[:32]
    number = bytearray(hashlib.sha256(name).digest()[:8])
    number[0] = 0x30 | number[0] & 0x0F  # NAA 3h, locally assigned
    return pack(">BBxB", 0x02, 0x01, len(name)) + name + pack(">BBxB", 0x01, 0x03, 8) + number


def _block_limits(disk: Identity) -> bytes:
    """SBC-3 §6.6.3. WSNZ: a WRITE SAME of 0 blocks does not mean all of them."""
    granularity = max(1, 4096 // disk.block)
    unmap, same, best = MAX_UNMAP_BYTES // disk.block, MAX_SAME_BYTES // disk.block, (1 << 20) // disk.block
    return pack(">BBHIIIIIIIQ20x", 1, 0, granularity, 0, best, 0, unmap, MAX_UNMAPS, granularity, 0, same)


def _characteristics(disk: Identity) -> bytes:
    return pack(">HBB56x", _MEDIUM_ROTATION, 0, 0)  # SBC-3 §6.6.2


def _provisioning(disk: Identity) -> bytes:
    """SBC-3 §6.6.4: UNMAP and both WRITE SAME unmap, what is unmapped reads as zeros; thin."""
    return pack(">BBBx", 0, 0x80 | 0x40 | 0x20 | 0x04, 0x02)


_VPD: Final[dict[int, Callable[[Identity], bytes]]] = {
    0x00: _supported,
    0x80: _serial,
    0x83: _identification,
    0xB0: _block_limits,
    0xB1: _characteristics,
    0xB2: _provisioning,
}


def _ascii(text: str, width: int) -> bytes:
    return text.encode("ascii", "replace")[:width].ljust(width)


# -- mode pages -----------------------------------------------------------------------------------------------------

WCE: Final = 0x04  # WRITE CACHE ENABLED, of the caching page's first byte
CACHING: Final = 0x08


def mode_pages(page: int, caching: bool) -> bytes | None:
    """Mode page `page`, or all of them for 3Fh; None where there is none. Also the mask of what may be changed."""
    found = b""
    for code, length in _MODE_PAGES.items():
        if page in (code, 0x3F):
            body = bytearray(length)
            if code == CACHING and caching:
                body[0] = WCE
            found += bytes((code, length)) + body
    return found or None


# SPC-4 §7.5, SBC-3 §6.5: error recovery, caching, control, informational exceptions. All fields but WCE are 0.
_MODE_PAGES: Final = {0x01: 0x0A, CACHING: 0x12, 0x0A: 0x0A, 0x1C: 0x0A}


def block_descriptor(disk: Identity, long: bool) -> bytes:
    """SBC-3 §6.4.2: the medium's size and its blocks'. The short one says FFFFFFFFh where it has no room."""
    if long:
        return pack(">Q4xI", disk.blocks, disk.block)
    return pack(">II", min(disk.blocks, 0xFFFFFFFF), disk.block)


def selected(disk: Identity, data: bytes, is_long: bool, caching: bool) -> bool:
    """WCE as a MODE SELECT leaves it; all else must be as MODE SENSE gives it (SPC-4 §6.11). Raises Check."""
    head = 8 if is_long else 4
    if len(data) < head:
        raise Check(LIST_LENGTH)
    described = int.from_bytes(data[6:8], "big") if is_long else data[3]
    if described:
        _check_descriptor(disk, data[head : head + described], described)
    at = head + described
    while at < len(data):
        code, length = data[at] & 0x3F, data[at + 1] if at + 1 < len(data) else -1
        if length != _MODE_PAGES.get(code):
            raise Check(INVALID_LIST)
        body = data[at + 2 : at + 2 + length]
        if len(body) < length:
            raise Check(LIST_LENGTH)
        wce = code == CACHING and bool(body[0] & WCE)
        if any(body[1:]) or body[0] != wce * WCE or (wce and disk.readonly):
            raise Check(INVALID_LIST)
        caching = wce if code == CACHING else caching
        at += 2 + length
    return caching


def _check_descriptor(disk: Identity, raw: bytes, length: int) -> None:
    """A block descriptor cannot change the medium; 0 blocks mean all of them."""
    if length not in (8, 16) or len(raw) < length:
        raise Check(LIST_LENGTH if len(raw) < length else INVALID_LIST)
    blocks, block = unpack(">Q4xI", raw) if length == 16 else unpack(">II", raw)
    if block & 0xFFFFFF != disk.block or (blocks and raw != block_descriptor(disk, length == 16)):
        raise Check(INVALID_LIST)
