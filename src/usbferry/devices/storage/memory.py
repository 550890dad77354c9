"""Disks without an image: bytes in memory, and those put together from extents, such as the files of a folder.

Memory is taken only where something other than zeros was written; over another backing it holds what was changed.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...usb.transfer import Buffer
from .bulk_only import Backing
from .image import is_zero, read_exactly

_CHUNK: Final = 1 << 16
_ZEROS: Final = bytes(_CHUNK)
_NOWAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None)
_OPEN_FILES: Final = 64  # of a folder, at one time


class Memory(Backing):
    """`size` bytes, zeros at first, or those of `base`, which stays as it is. Kept over claims, as a stick would."""

    def __init__(self, size: int, base: Backing | None = None) -> None:
        self.size = size
        self.readonly = False
        self.is_quick = base is None
        self._base = base
        self._chunks: dict[int, bytes | bytearray] = {}  # those that differ from the base; bytes only for zeros
        self._lent: set[int] = set()  # chunks that a reader may still hold a view of: written to anew, not again

    def open(self) -> None:
        if self._base is not None:
            self._base.open()

    def close(self) -> None:
        if self._base is not None:
            self._base.close()

    def peek(self, offset: int, length: int) -> Buffer | None:
        return self._gather(offset, length, None if self._base is None else self._base.peek)

    def read(self, offset: int, length: int) -> Buffer:
        found = self._gather(offset, length, None if self._base is None else self._base.read)
        assert found is not None
        return found

    def write(self, offset: int, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            view = memoryview(piece)
            for number, start, stop, at in _split(offset, len(piece)):
                part = view[at : at + stop - start]
                if stop - start == _CHUNK and is_zero(bytes(part)):
                    self._drop(number)
                else:
                    self._writable(number)[start:stop] = part
            offset += len(piece)

    def zero(self, offset: int, length: int) -> None:
        for number, start, stop, _ in _split(offset, length):
            if stop - start == _CHUNK:
                self._drop(number)
            elif self._base is not None or number in self._chunks:
                self._writable(number)[start:stop] = bytes(stop - start)

    def _drop(self, number: int) -> None:
        self._lent.discard(number)
        if self._base is None:
            self._chunks.pop(number, None)
        else:
            self._chunks[number] = _ZEROS

    def _writable(self, number: int) -> bytearray:
        chunk = self._chunks.get(number)
        if isinstance(chunk, bytearray):
            if number not in self._lent:
                return chunk
            new = bytearray(chunk)
        elif chunk is None and self._base is not None:
            start = number * _CHUNK
            new = bytearray(self._base.read(start, min(_CHUNK, self.size - start)))
            new.extend(bytes(_CHUNK - len(new)))
        else:
            new = bytearray(_CHUNK)
        self._chunks[number] = new
        self._lent.discard(number)
        return new

    def _gather(self, offset: int, length: int, base: Callable[[int, int], Buffer | None] | None) -> Buffer | None:
        if base is not None and not self._chunks:
            return base(offset, length)
        number, start = divmod(offset, _CHUNK)
        if start + length <= _CHUNK and (base is None or number in self._chunks):
            one = self._chunks.get(number, _ZEROS)
            if one is not _ZEROS:
                self._lent.add(number)
            return memoryview(one)[start : start + length]
        buffer = bytearray(length)
        for number, start, stop, at in _split(offset, length):
            chunk: Buffer | None = self._chunks.get(number)
            if chunk is not None:
                buffer[at : at + stop - start] = memoryview(chunk)[start:stop]
            elif base is not None:
                part = base(number * _CHUNK + start, stop - start)
                if part is None:
                    return None
                buffer[at : at + stop - start] = part
        return buffer


def _split(offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
    """A range by chunks: (number, start and stop within it, place within the range)."""
    at = 0
    while at < length:
        number, start = divmod(offset + at, _CHUNK)
        stop = min(_CHUNK, start + length - at)
        yield number, start, stop, at
        at += stop - start


@dataclass(frozen=True, slots=True)
class Extent:
    """`length` bytes of the disk at `offset`: given ones, or those of a file from its start."""

    offset: int
    length: int
    source: bytes | Path


class Composed(Backing):
    """Bytes from extents that do not overlap, zeros between them; files are opened when they are read. Read-only."""

    readonly = True

    def __init__(self, size: int, extents: Iterable[Extent]) -> None:
        self.size = size
        self._extents = sorted((e for e in extents if e.length), key=lambda e: e.offset)
        self._offsets = [e.offset for e in self._extents]
        self._files: OrderedDict[Path, int] = OrderedDict()
        self._lock = threading.Lock()  # of _files: the loop peeks while the thread opens and closes

    def close(self) -> None:
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1])

    def peek(self, offset: int, length: int) -> Buffer | None:
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return self._gather(offset, length, self._peek_file)
        finally:
            self._lock.release()

    def read(self, offset: int, length: int) -> Buffer:
        found = self._gather(offset, length, self._read_file)
        assert found is not None
        return found

    def write(self, offset: int, pieces: Sequence[bytes]) -> None:
        raise PermissionError("this disk is read-only")

    def zero(self, offset: int, length: int) -> None:
        raise PermissionError("this disk is read-only")

    def _gather(self, offset: int, length: int, file: Callable[[Path, int, int], Buffer | None]) -> Buffer | None:
        buffer = bytearray(length)
        end = offset + length
        for extent in self._extents[max(0, bisect_right(self._offsets, offset) - 1) :]:
            if extent.offset >= end:
                break
            start, stop = max(offset, extent.offset), min(end, extent.offset + extent.length)
            if start >= stop:
                continue
            at = start - extent.offset
            part: Buffer | None
            if isinstance(extent.source, bytes):
                part = memoryview(extent.source)[at : at + stop - start]
            else:
                part = file(extent.source, at, stop - start)
            if part is None:
                return None
            buffer[start - offset : stop - offset] = part
        return buffer

    def _peek_file(self, path: Path, offset: int, length: int) -> Buffer | None:
        fd = self._files.get(path)
        if fd is None or _NOWAIT is None:
            return None
        buffer = bytearray(length)
        try:
            return buffer if os.preadv(fd, (buffer,), offset, _NOWAIT) == length else None
        except OSError:
            return None

    def _read_file(self, path: Path, offset: int, length: int) -> Buffer:
        return read_exactly(self._file(path), offset, length)

    def _file(self, path: Path) -> int:
        fd = self._files.get(path)
        if fd is None:
            fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            with self._lock:
                self._files[path] = fd
                if len(self._files) > _OPEN_FILES:
                    os.close(self._files.popitem(last=False)[1])
        return fd
