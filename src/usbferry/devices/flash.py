"""Flash memory of a device, as its bootloader sees it: pages that are erased whole, and bytes written once after that.

It lives in memory, and in a file when there is one: read when it is made, written by `save`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

ERASED: Final = 0xFF
_LARGEST: Final = 64 << 20  # bytes; all of it is in memory


class FlashError(Exception):
    """What cannot be done to these addresses."""


class OutOfRange(FlashError):
    """There is no memory, or no page begins there."""


class NotErased(FlashError):
    """A bit would have to become 1, which only erasing does."""


class Flash:
    """`size` bytes from `address` on, in pages of `page` bytes. Raises ValueError for what makes no sense."""

    def __init__(self, size: int, page: int, address: int, file: Path | None) -> None:
        if page < 1 or size < page or size % page:
            raise ValueError(f"a flash of {size} bytes is no whole number of pages of {page} bytes")
        if size > _LARGEST or address < 0 or address + size > 1 << 32:
            raise ValueError(f"a flash of {size} bytes at {address:#x}: it has at most 64 MiB, below 4 GiB")
        if file is not None and not file.absolute().parent.is_dir():
            raise ValueError(f"{file} is no place for a file")
        self.address = address
        self.size = size
        self.page = page
        self._file = file
        self._bytes = bytearray(self._load())

    def __str__(self) -> str:
        """Its layout in the form that DfuSe tools read from a string descriptor: STMicroelectronics UM0424."""
        unit, letter = (1024, "K") if self.page % 1024 == 0 else (1, " ")
        return f"@Flash /0x{self.address:08X}/{self.size // self.page:02d}*{self.page // unit:03d}{letter}g"

    @property
    def content(self) -> bytes:
        """All of it."""
        return bytes(self._bytes)

    def read(self, address: int, length: int) -> bytes:
        """Bytes from an address on, fewer at the end."""
        at = address - self.address
        return bytes(self._bytes[at : at + length]) if 0 <= at < self.size else b""

    def erase(self, address: int) -> None:
        """Erase the page that an address is in. Raises OutOfRange."""
        at = self._place(address, 1) // self.page * self.page
        self._bytes[at : at + self.page] = bytes((ERASED,)) * self.page

    def erase_all(self) -> None:
        self._bytes[:] = bytes((ERASED,)) * self.size

    def write(self, address: int, data: bytes) -> None:
        """Write bytes, where bits can only become 0. Raises OutOfRange or NotErased, and has then written nothing."""
        at = self._place(address, len(data))
        if any(new & ~old for new, old in zip(data, self._bytes[at : at + len(data)], strict=True)):
            raise NotErased(f"what is at {address:#x} is not erased")
        self._bytes[at : at + len(data)] = data

    def replace(self, image: bytes) -> None:
        """Erase everything and write an image to the start. Raises OutOfRange."""
        self._place(self.address, len(image))
        self.erase_all()
        self._bytes[: len(image)] = image

    def save(self, length: int | None = None) -> None:
        """Write the first `length` bytes to the file, if there is one: blocks. Raises OSError."""
        if self._file is not None:
            fresh = self._file.with_name(self._file.name + ".new")
            fresh.write_bytes(self._bytes[:length])
            fresh.replace(self._file)

    def _place(self, address: int, length: int) -> int:
        at = address - self.address
        if not 0 <= at <= at + length <= self.size:
            raise OutOfRange(f"there is no flash at {address:#x}")
        return at

    def _load(self) -> bytes:
        if self._file is None or not self._file.exists():
            return bytes((ERASED,)) * self.size
        content = self._file.read_bytes()
        if len(content) > self.size:
            raise ValueError(f"{self._file} has {len(content)} bytes, more than a flash of {self.size}")
        return content.ljust(self.size, bytes((ERASED,)))
