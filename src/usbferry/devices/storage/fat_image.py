"""Making a FAT file system (FAT16 or FAT32) of files: where every byte of it is, without writing any.

The result is a list of extents: a few made here (boot sector, FATs, folders), and each file's own bytes where they are.
A folder of a terabyte is laid out as soon as its names and sizes are known. Files lie in one piece each, in order.
Source: Microsoft, "FAT: General Overview of On-Disk Format" 1.03. The reading side is `fat`.
"""

from __future__ import annotations

import hashlib
import os
import time
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from struct import pack
from sys import byteorder
from typing import Final, Union

from . import fat
from .fat_names import ENTRY, clean, entry_count, long_entries, shorten
from .memory import Extent

Tree = Mapping[str, Union[bytes, Path, "Tree"]]
"""Names of files, with their bytes or the path of a file that has them, and of folders."""

MIB: Final = 1 << 20
PARTITION_OFFSET: Final = MIB  # as every system aligns its first partition today
_LARGEST_FILE: Final = (1 << 32) - 1
_FAT16_BYTES: Final = 512 * MIB  # file systems below get FAT16
_ARCHIVE: Final = 0x20  # attribute of files
_LABEL: Final = 0x08
_MEDIA: Final = 0xF8  # not removable: what every partition has
_CLUSTERS16: Final = (2048, 4096, 8192, 16384, 32768, 1024, 512)  # by preference
_CLUSTERS32: Final = ((8 << 30, 4096), (16 << 30, 8192), (32 << 30, 16384))  # up to so many bytes; above, 32 KiB
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Image:
    """A file system of `size` bytes; its extents are relative to its own start."""

    size: int
    extents: tuple[Extent, ...]
    bits: int  # 16 or 32


@dataclass(slots=True)
class _Node:
    """A file or folder to be: its entry in its folder, and its clusters."""

    name: str
    short: bytes
    source: bytes | Path = b""
    size: int = 0  # bytes of content; of a folder, of its entries
    modified: tuple[int, ...] = _EPOCH
    children: list[_Node] | None = None  # of a folder
    cluster: int = 0
    parent: _Node | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Geometry:
    """The sizes of a file system's parts, in sectors unless said otherwise."""

    bits: int
    sector: int  # bytes
    per_cluster: int
    reserved: int
    fat: int
    root_entries: int
    total: int

    @property
    def root(self) -> int:
        return self.root_entries * 32 // self.sector

    @property
    def data(self) -> int:
        return self.reserved + 2 * self.fat + self.root

    @property
    def clusters(self) -> int:
        return (self.total - self.data) // self.per_cluster

    @property
    def cluster(self) -> int:
        """Bytes."""
        return self.per_cluster * self.sector

    def offset(self, cluster: int) -> int:
        """Bytes from the start of the file system."""
        return self.data * self.sector + (cluster - 2) * self.cluster


def scan(folder: Path) -> Tree:
    """The tree of a folder. Symbolic links are left out, so that nothing outside the folder is served, and so is all
    that is no file. Raises OSError.
    """
    tree: dict[str, bytes | Path | Tree] = {}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.is_dir(follow_symlinks=False):
                tree[entry.name] = scan(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                tree[entry.name] = Path(entry.path)
    return tree


def make(tree: Tree, *, size: int = 0, sector: int = 512, label: str = "USBFERRY", hidden: int = 0) -> Image:
    """Lay out a file system of `size` bytes, by default as large as the files need and some room.

    `hidden` is the number of sectors before it on its disk. Raises ValueError when the files do not fit.
    """
    root = _Node("", b"", children=[])
    nodes = [root, *_nodes(tree, root)]
    shape = _shape(nodes, size, sector)
    used = _allocate(nodes, shape)
    volume_id = hashlib.sha256(repr([(n.name, n.size, n.modified) for n in nodes]).encode()).digest()[:4]
    title = label.upper().encode("ascii", "replace")[:11].ljust(11)
    boot = _boot_sector(shape, hidden, volume_id, title)
    extents = [Extent(0, len(boot), boot)]
    if shape.bits == 32:
        info = pack("<I480xIII12xI", 0x41615252, 0x61417272, shape.clusters - used, 2 + used, 0xAA550000)
        spots = ((sector, info), (6 * sector, boot), (7 * sector, info))  # FSInfo, and the backups of both
        extents += [Extent(at, len(raw), raw) for at, raw in spots]
    table = _table(nodes, shape)
    for number in range(2):
        extents.append(Extent((shape.reserved + number * shape.fat) * sector, len(table), table))
    for node in nodes:
        source = node.source if node.children is None else _folder(node, title if node is root else b"")
        at = shape.offset(node.cluster) if node.cluster else (shape.reserved + 2 * shape.fat) * sector
        extents.append(Extent(at, len(source) if isinstance(source, bytes) else node.size, source))
    return Image(shape.total * sector, tuple(extents), shape.bits)


def partitioned(image: Image, *, block: int = 512) -> tuple[int, tuple[Extent, ...]]:
    """A disk with the file system as its one partition, made with `hidden=PARTITION_OFFSET // block`: its size and
    extents. Windows wants a partition table on disks that are not removable.
    """
    kind = 0x0C if image.bits == 32 else 0x0E  # FAT32 and FAT16 by block addresses
    start, count = PARTITION_OFFSET // block, image.size // block
    far = b"\xfe\xff\xff"  # cylinder, head and sector, beyond what they can say
    entry = pack("<B3sB3sII", 0, far, kind, far, start, count)
    signature = hashlib.sha256(image.extents[0].source if isinstance(image.extents[0].source, bytes) else b"").digest()
    record = (bytes(440) + signature[:4] + b"\0\0" + entry).ljust(510, b"\0") + b"\x55\xaa"
    moved = (replace(extent, offset=extent.offset + PARTITION_OFFSET) for extent in image.extents)
    return PARTITION_OFFSET + image.size, (Extent(0, 512, record), *moved)


# -- the tree ---------------------------------------------------------------------------------------------------------


def _nodes(tree: Tree, parent: _Node) -> Iterator[_Node]:
    """Everything below, a folder before what is in it, and each folder's size on the way."""
    names: set[str] = set()
    shorts: set[bytes] = set()
    assert parent.children is not None
    parent.size = 32 if not parent.name else 64  # the label of the root; "." and ".." of the others
    made = []
    for name, what in tree.items():
        clean_name = clean(name, names)
        node = _Node(clean_name, shorten(clean_name, shorts), parent=parent)
        parent.size += 32 * entry_count(node.name, node.short)
        parent.children.append(node)
        made.append((node, what))
    if parent.size > 65535 * 32:
        raise ValueError(f"{parent.name or 'the folder'} has too many files for one folder of a FAT file system")
    for node, what in made:
        if isinstance(what, bytes):
            node.source, node.size = what, len(what)
        elif isinstance(what, Path):
            about = what.stat()
            node.source, node.size = what, about.st_size
            node.modified = time.localtime(about.st_mtime)[:6]
        else:
            node.children = []
        if node.children is None and node.size > _LARGEST_FILE:
            raise ValueError(f"{node.name} has {node.size} bytes; FAT has no files of 4 GiB and more")
        yield node
        if node.children is not None:
            assert isinstance(what, Mapping)
            yield from _nodes(what, node)


def _needed(nodes: list[_Node], cluster: int, *, with_root: bool) -> int:
    """Clusters for all the files and folders."""
    return sum(-(-node.size // cluster) for node in nodes[0 if with_root else 1 :])


# -- sizes ------------------------------------------------------------------------------------------------------------


def _shape(nodes: list[_Node], size: int, sector: int) -> _Geometry:
    """The geometry of `size` bytes, or the smallest that all fits into, with an eighth to spare."""
    content = _needed(nodes, 4096, with_root=True) * 4096
    wanted = size or max(16 * MIB * sector // 512, -(-(content + content // 8 + MIB) // MIB) * MIB)
    while True:
        shape = _geometry(wanted, sector, nodes[0].size // 32)
        missing = _needed(nodes, shape.cluster, with_root=shape.bits == 32) - shape.clusters
        if missing <= 0:
            return shape
        if size:
            raise ValueError(
                f"the files need {missing * shape.cluster / MIB:.1f} MiB more than there are: a larger size"
            )
        wanted += max(MIB, -(-missing * shape.cluster // MIB) * MIB)


def _geometry(size: int, sector: int, root_entries: int) -> _Geometry:
    total = size // sector
    if total >= 1 << 32:
        raise ValueError(f"a FAT file system has less than 2**32 sectors, not {total}")
    if size < _FAT16_BYTES:
        per_sector = sector // 32
        entries = -(-max(512, root_entries) // per_sector) * per_sector
        for cluster in _CLUSTERS16:
            if cluster >= sector and (shape := _divide(16, total, sector, cluster, entries)):
                return shape
        raise ValueError(f"{size} bytes are too few for a FAT16 file system")
    cluster = next((cluster for most, cluster in _CLUSTERS32 if size <= most), 32768)
    shape = _divide(32, total, sector, max(cluster, sector), 0)
    assert shape is not None
    return shape


def _divide(bits: int, total: int, sector: int, cluster: int, root_entries: int) -> _Geometry | None:
    """Divide up `total` sectors, the data at a multiple of 4 KiB; None when FAT type and number of clusters differ."""
    per_cluster = cluster // sector
    fat = -(-(total // per_cluster + 2) * bits // 8 // sector)
    shape = _Geometry(bits, sector, per_cluster, 1 if bits == 16 else 32, fat, root_entries, total)
    shape = replace(shape, reserved=shape.reserved + -shape.data % max(1, 4096 // sector))
    least, most = (4085, 65524) if bits == 16 else (65525, 0x0FFFFFF4)
    return shape if least <= shape.clusters <= most else None


def _allocate(nodes: list[_Node], shape: _Geometry) -> int:
    """Give every node its clusters, one piece each, one after the other; how many that were."""
    cluster = 2
    for node in nodes:
        if node.size and not (shape.bits == 16 and node.parent is None):
            node.cluster = cluster
            cluster += -(-node.size // shape.cluster)
    return cluster - 2


# -- bytes ------------------------------------------------------------------------------------------------------------


def _boot_sector(shape: _Geometry, hidden: int, volume_id: bytes, label: bytes) -> bytes:
    small = shape.total if shape.bits == 16 and shape.total < 65536 else 0
    raw = fat.BOOT.pack(
        b"\xeb\x3c\x90" if shape.bits == 16 else b"\xeb\x58\x90",
        b"MSWIN4.1",  # "recommended, because there are some FAT drivers that check it"
        shape.sector,
        shape.per_cluster,
        shape.reserved,
        2,
        shape.root_entries,
        small,
        _MEDIA,
        shape.fat if shape.bits == 16 else 0,
        63,
        255,
        hidden,
        0 if small else shape.total,
    )
    if shape.bits == 32:
        raw += pack("<IHHIHH12x", shape.fat, 0, 0, 2, 1, 6)  # FAT, flags, version, root, FSInfo, backup
    raw += pack("<BBB4s11s8s", 0x80, 0, 0x29, volume_id, label, b"FAT%d   " % shape.bits)
    return raw.ljust(510, b"\0") + b"\x55\xaa"


def _table(nodes: list[_Node], shape: _Geometry) -> bytes:
    """One FAT, as far as it is in use."""
    end = 0xFFFF if shape.bits == 16 else 0x0FFFFFFF
    table = array("H" if shape.bits == 16 else "I", (end & ~0xFF | _MEDIA, end))
    for node in nodes:
        if node.cluster:
            table.extend(range(node.cluster + 1, node.cluster + -(-node.size // shape.cluster)))
            table.append(end)
    if byteorder == "big":
        table.byteswap()
    return table.tobytes()


def _folder(node: _Node, label: bytes) -> bytes:
    assert node.children is not None
    if node.parent is None:
        raw = [_entry(label, _LABEL, 0, 0, _EPOCH)]
    else:
        above = node.parent.cluster if node.parent.parent is not None else 0  # ".." to the root is 0, also in FAT32
        raw = [
            _entry(b".".ljust(11), fat.DIRECTORY, node.cluster, 0, node.modified),
            _entry(b"..".ljust(11), fat.DIRECTORY, above, 0, node.modified),
        ]
    for child in node.children:
        raw.append(long_entries(child.name, child.short))
        if child.children is not None:
            raw.append(_entry(child.short, fat.DIRECTORY, child.cluster, 0, child.modified))
        else:
            raw.append(_entry(child.short, _ARCHIVE, child.cluster, child.size, child.modified))
    return b"".join(raw)


def _entry(short: bytes, attributes: int, cluster: int, size: int, modified: tuple[int, ...]) -> bytes:
    year, month, day, hour, minute, second = modified if 1980 <= modified[0] <= 2107 else _EPOCH
    date = year - 1980 << 9 | month << 5 | day
    clock = hour << 11 | minute << 5 | min(second, 59) // 2
    return ENTRY.pack(short, attributes, 0, 0, clock, date, date, cluster >> 16, clock, date, cluster & 0xFFFF, size)
