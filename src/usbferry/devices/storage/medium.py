"""Which medium a disk has, by its options: an image file, memory, or the files of a folder; and its names."""

from __future__ import annotations

import hashlib
from itertools import count
from pathlib import Path

from . import fat_image
from .bulk_only import Backing
from .image import Image
from .memory import Composed, Memory

_memory_disks = count(1)


def choose(image: Path | None, files: Path | None, size: int, readonly: bool, block: int) -> Backing:
    """Where the bytes are, by the options. Raises ValueError or DeviceError."""
    if size % block:
        raise ValueError(f"size {size} is no whole number of {block}-byte blocks; 64M is 64 MiB")
    if image is not None and files is not None:
        raise ValueError("image and files exclude each other")
    if files is not None:
        return _of_files(files, size, readonly, block)
    if image is not None:
        return Image(image, size=size, readonly=readonly)
    if size <= 0:
        raise ValueError("a disk needs image=FILE, files=FOLDER, or size=BYTES to be in memory")
    return Memory(size)


def _of_files(folder: Path, size: int, readonly: bool, block: int) -> Backing:
    """A disk with one partition, and in it the files of a folder."""
    try:
        tree = fat_image.scan(folder)
        start = fat_image.PARTITION_OFFSET
        if size and size <= start:
            raise ValueError(f"{size} bytes are too few for a file system")
        image = fat_image.make(tree, size=size and size - start, sector=block, hidden=start // block)
    except OSError as error:
        raise ValueError(f"{error.filename or folder}: {error.strerror}") from error
    composed = Composed(*fat_image.partitioned(image, block=block))
    return composed if readonly else Memory(composed.size, composed)


def printable(option: str, text: str) -> str:
    """`text`, if it can be a string descriptor and SCSI data alike. Raises ValueError."""
    if not (text.isascii() and text.isprintable() and len(text) <= 126):
        raise ValueError(f"{option} is up to 126 printable ASCII characters")
    return text


def serial_of(path: Path | None) -> str:
    """The same for the same image at every start. BOT §4.1.1: at least 12 digits, 0 to 9 and A to F."""
    name = f"memory {next(_memory_disks)}" if path is None else str(path.absolute())
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16].upper()
