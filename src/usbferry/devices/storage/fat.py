"""Reading a FAT file system (FAT12, FAT16, FAT32) through whatever can read blocks; no I/O here.

Everything that needs bytes is a generator: it yields (first block, count) and is sent those blocks, so that the same
code runs over a file, a USB disk read by asyncio, or a test.

    walk = fat.read_tree()
    wanted = next(walk)
    try:
        while True:
            wanted = walk.send(await disk.read(*wanted))
    except StopIteration as finished:
        files = finished.value            # path -> content

Disks are not trusted: chains that loop or leave the disk, and folders without end, raise FatError. Source: Microsoft,
"FAT: General Overview of On-Disk Format" 1.03. The writing side is `fat_image`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from struct import Struct, unpack_from
from typing import Final, TypeVar

from ...usb.transfer import Buffer
from .fat_names import named

T = TypeVar("T")
Blocks = Generator[tuple[int, int], Buffer, T]
"""Yields (first block, count), is sent the blocks, returns T."""

BOOT: Final = Struct("<3s8sHBHBHHBHHHII")
"""jump, OEM name, bytes in a sector, sectors in a cluster, reserved sectors, FATs, root entries, sectors (16 bits),
media, sectors in a FAT (16 bits), sectors in a track, heads, hidden sectors, sectors (32 bits).
"""
DIRECTORY: Final = 0x10  # attribute
PARTITION_TABLE: Final = 446
_FAT_PARTITIONS: Final = {0x01, 0x04, 0x06, 0x0B, 0x0C, 0x0E, 0xEF}
_DIRECTORY_BYTES: Final = 65536 * 32  # FAT 1.03: a directory has at most 65,536 entries
_MAX_ENTRIES: Final = 100_000  # of a whole tree
_MAX_DEPTH: Final = 64
_FAT_PIECE: Final = 4096  # bytes of the FAT that are read in one go
_REQUEST_BYTES: Final = 1 << 20  # at most, asked for in one go


class FatError(ValueError):
    """This is no FAT file system, or a damaged one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder."""

    path: str  # with "/" between folders
    size: int
    is_folder: bool
    cluster: int  # its first one, 0 when it has none
    modified: tuple[int, int, int, int, int, int]  # year to second, in whatever time zone it was written


def run(steps: Blocks[T], read: Callable[[int, int], Buffer]) -> T:
    """Run a generator of this module with a plain read(first block, count)."""
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send(read(*wanted))
    except StopIteration as finished:
        result: T = finished.value
        return result


def read_tree(*, block: int = 512, limit: int = 256 << 20) -> Blocks[dict[str, bytes]]:
    """Every file of the first FAT file system on a disk of `block`-byte blocks: path -> content.

    Raises FatError, also when the files are more than `limit` bytes together.
    """
    volume = yield from open_volume(block)
    files = [entry for entry in (yield from volume.walk()) if not entry.is_folder]
    total = sum(entry.size for entry in files)
    if total > limit:
        raise FatError(f"the files have {total} bytes together, more than {limit}")
    tree = {}
    for entry in files:
        tree[entry.path] = yield from volume.read(entry)
    return tree


def open_volume(block: int = 512) -> Blocks[Volume]:
    """The FAT file system that begins at block 0, or in the first partition that has one."""
    first = bytes((yield 0, max(1, 512 // block)))
    if _is_boot_sector(first):
        return Volume(first, 0, block)
    if len(first) >= 512 and first[510:512] == b"\x55\xaa":
        for at in range(PARTITION_TABLE, PARTITION_TABLE + 64, 16):
            kind, start = first[at + 4], unpack_from("<I", first, at + 8)[0]
            if kind in _FAT_PARTITIONS and start:
                boot = bytes((yield start, max(1, 512 // block)))
                if _is_boot_sector(boot):
                    return Volume(boot, start * block, block)
    raise FatError("there is no FAT file system here")


def _is_boot_sector(raw: bytes) -> bool:
    if len(raw) < 512 or raw[510:512] != b"\x55\xaa":
        return False
    _, _, sector, per_cluster, reserved, fats, *_ = BOOT.unpack_from(raw)
    sizes = sector in (512, 1024, 2048, 4096) and per_cluster in (1, 2, 4, 8, 16, 32, 64, 128)
    return sizes and reserved > 0 and fats in (1, 2) and raw[0] in (0xE9, 0xEB)


class Volume:
    """A file system: where its parts are, in bytes from the start of the disk."""

    def __init__(self, boot: bytes, start: int, block: int) -> None:
        _, _, sector, per_cluster, reserved, fats, roots, small, _, fat16, _, _, _, large = BOOT.unpack_from(boot)
        total, fat = small or large, fat16 or unpack_from("<I", boot, 36)[0]
        self._block = block
        self.cluster = sector * per_cluster  # bytes
        self._fat = start + reserved * sector
        self._root = self._fat + fats * fat * sector
        self._root_bytes = roots * 32
        self._data = self._root + -(-self._root_bytes // sector) * sector
        self.clusters = (total * sector - (self._data - start)) // self.cluster
        # "the FAT type is determined by the count of clusters" and by nothing else.
        self.bits = 12 if self.clusters < 4085 else 16 if self.clusters < 65525 else 32
        self._root_cluster = unpack_from("<I", boot, 44)[0] if self.bits == 32 else 0
        if self.clusters < 1 or not fat or (self.clusters + 2) * self.bits > fat * sector * 8:
            raise FatError("the sizes in the boot sector do not fit together")
        self._pieces: dict[int, bytes] = {}  # of the FAT

    def walk(self) -> Blocks[list[Entry]]:
        """Every file and folder, a folder before what is in it."""
        found: list[Entry] = []
        todo: list[tuple[Entry | None, int]] = [(None, 0)]
        seen = {self._root_cluster}
        while todo:
            folder, depth = todo.pop(0)
            entries = yield from self.entries(folder)
            found += entries
            if len(found) > _MAX_ENTRIES or depth > _MAX_DEPTH:
                raise FatError("there are folders within folders without end")
            for entry in entries:
                if entry.is_folder:
                    if entry.cluster in seen:
                        raise FatError(f"{entry.path}: this folder is also another one")
                    seen.add(entry.cluster)
                    todo.append((entry, depth + 1))
        return found

    def entries(self, folder: Entry | None = None) -> Blocks[list[Entry]]:
        """What is in a folder, or in the root."""
        if folder is None and self.bits != 32:
            raw = yield from self._bytes(self._root, self._root_bytes)
        else:
            first = self._root_cluster if folder is None else folder.cluster
            raw = b""
            for offset, length in (yield from self._chain(first, _DIRECTORY_BYTES)):
                raw += yield from self._bytes(offset, length)
        prefix = f"{folder.path}/" if folder is not None else ""
        return [self._entry(prefix + name, fields) for name, fields in named(raw)]

    def _entry(self, path: str, fields: tuple[int, ...]) -> Entry:
        attributes, _, _, _, _, _, high, time, date, low, size = fields
        cluster = low | (high & 0x0FFF) << 16 if self.bits == 32 else low
        modified = (1980 + (date >> 9), date >> 5 & 15, date & 31, time >> 11, time >> 5 & 63, (time & 31) * 2)
        return Entry(path, size, bool(attributes & DIRECTORY), cluster, modified)

    def extents(self, entry: Entry) -> Blocks[list[tuple[int, int]]]:
        """Where a file lies: (first byte of the disk, bytes), cut to its size."""
        runs = []
        left = entry.size
        for offset, length in (yield from self._chain(entry.cluster, entry.size)) if left else ():
            runs.append((offset, min(length, left)))
            left -= runs[-1][1]
        if left:
            raise FatError(f"{entry.path}: {left} of its {entry.size} bytes are not there")
        return runs

    def read(self, entry: Entry) -> Blocks[bytes]:
        """A file's content."""
        pieces = []
        for offset, length in (yield from self.extents(entry)):
            pieces.append((yield from self._bytes(offset, length)))
        return b"".join(pieces)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _chain(self, cluster: int, limit: int) -> Blocks[list[tuple[int, int]]]:
        """A chain of clusters as runs of (offset, bytes), up to `limit` bytes of it."""
        runs: list[tuple[int, int]] = []
        end = {12: 0xFF8, 16: 0xFFF8, 32: 0x0FFFFFF8}[self.bits]
        count = 0
        while cluster < end and count * self.cluster < limit:
            count += 1
            if not 2 <= cluster < self.clusters + 2 or count > self.clusters:
                raise FatError(f"a chain goes to cluster {cluster} of {self.clusters}, or in a circle")
            offset = self._data + (cluster - 2) * self.cluster
            if runs and sum(runs[-1]) == offset:
                runs[-1] = (runs[-1][0], runs[-1][1] + self.cluster)
            else:
                runs.append((offset, self.cluster))
            cluster = yield from self._next(cluster)
        return runs

    def _next(self, cluster: int) -> Blocks[int]:
        at, size = cluster * self.bits // 8, 4 if self.bits == 32 else 2
        raw = b""
        for where in range(at, at + size):  # an entry of FAT12 may lie in two pieces
            number, offset = divmod(where, _FAT_PIECE)
            if number not in self._pieces:
                length = min(_FAT_PIECE, (self.clusters + 2) * self.bits // 8 + 4 - number * _FAT_PIECE)
                self._pieces[number] = yield from self._bytes(self._fat + number * _FAT_PIECE, length)
            raw += self._pieces[number][offset : offset + 1]
        value = int.from_bytes(raw, "little")
        if self.bits == 12:
            return value >> 4 if cluster & 1 else value & 0xFFF
        return value & 0x0FFFFFFF

    def _bytes(self, offset: int, length: int) -> Blocks[bytes]:
        """Any bytes of the disk, by whole blocks."""
        pieces = []
        first, skip = divmod(offset, self._block)
        last = -(-(offset + length) // self._block)
        most = _REQUEST_BYTES // self._block
        for block in range(first, last, most):
            count = min(most, last - block)
            piece = yield block, count
            if len(piece) != count * self._block:
                raise ValueError(f"{count} blocks of {self._block} bytes were wanted, {len(piece)} bytes came")
            pieces.append(piece)
        whole = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
        return whole[skip : skip + length]
