"""A folder as a storage of objects: each file and folder in it has a handle, given when it is first looked at.

Links and what is neither file nor folder are left out, names that a host gives are names and no paths: nothing outside
of the folder is reached. All here may block, and is called from threads.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .codes import FORMATS, ROOT, Format

_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
_PART: Final = ".usbferry-part-"  # how the name of a file that is still coming begins
_MOST_NAME: Final = 255  # bytes
_NEVER: Final = {"/", "\\", "\0", *([":"] if os.name == "nt" else [])}  # the last would be a drive, or a stream
_DEEPEST: Final = 100  # folders in each other
_GRAIN_NS: Final = 3_000_000_000  # what happens so shortly after another change may have the same time, on FAT too


class NoObject(Exception):
    """A handle of nothing that is there now."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of an object. `parent` is 0 in the folder itself; `size` is bytes, 0 of a folder."""

    handle: int
    parent: int
    name: str
    is_folder: bool
    size: int
    modified: float

    @property
    def format(self) -> Format:
        if self.is_folder:
            return Format.FOLDER
        return FORMATS.get(os.path.splitext(self.name)[1].lower(), Format.UNDEFINED)


class Store:
    """The objects of a folder. Every method raises OSError as its system does, and NoObject."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._places: dict[int, tuple[int, str]] = {}  # handle -> its parent's, its name
        self._handles: dict[tuple[int, str], int] = {}

    def room(self) -> tuple[int, int]:
        """Bytes in all, and free."""
        usage = shutil.disk_usage(self.folder)
        return usage.total, usage.free

    def inside(self, parent: int) -> list[Entry]:
        """What is in a folder, by name; 0 is the folder itself."""
        with self._lock:
            return self._inside(parent)

    def everything(self) -> list[Entry]:
        """All of it, folders before what they have."""
        with self._lock:
            found = self._inside(0)
            for entry in found:  # it grows meanwhile
                if entry.is_folder:
                    with suppress(OSError, NoObject):  # one that may not be read, or went
                        found += self._inside(entry.handle)
            return found

    def look(self, parent: int, stamp: int) -> tuple[int, set[int] | None]:
        """What is in a folder by now, and its stamp; None while that is the one of an earlier look."""
        with self._lock:
            now = self._folder(parent).stat().st_mtime_ns
            if now == stamp:
                return stamp, None
            is_settled = abs(time.time_ns() - now) > _GRAIN_NS
            return now if is_settled else 0, {entry.handle for entry in self._inside(parent)}

    def entry(self, handle: int) -> Entry:
        """An object as it is now."""
        with self._lock:
            return self._entry(handle)

    def read(self, handle: int, offset: int, size: int) -> bytes:
        """A piece of a file; what is behind its end is not there."""
        with self._lock:
            path = self._path(handle)
        descriptor = os.open(path, os.O_RDONLY | _NOFOLLOW)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NoObject
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, size)
        finally:
            os.close(descriptor)

    # -- changes ------------------------------------------------------------------------------------------------------

    def make_folder(self, parent: int, name: str) -> int:
        """A new folder; its handle."""
        with self._lock:
            (self._folder(parent) / name).mkdir()
            return self._handle(parent, name)

    def begin(self, parent: int, name: str) -> tuple[int, Path]:
        """A handle for a file that is to come, and the place where it gathers. FileExistsError when it is there."""
        with self._lock:
            folder = self._folder(parent)
            if os.path.lexists(folder / name):
                raise FileExistsError(name)
            part = folder / (_PART + secrets.token_hex(8))
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o666))
            return self._handle(parent, name), part

    def append(self, part: Path, data: bytes) -> None:
        """More of a file that is coming; one that was given up is not there any more."""
        descriptor = os.open(part, os.O_WRONLY | os.O_APPEND | _NOFOLLOW)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)

    def finish(self, handle: int, part: Path) -> None:
        """It is all there: it gets its name."""
        with self._lock:
            path = self._path(handle)
            if os.path.lexists(path):
                raise FileExistsError(path.name)
            part.rename(path)

    def give_up(self, part: Path) -> None:
        """It does not come."""
        part.unlink(missing_ok=True)

    def delete(self, handle: int) -> None:
        """A file, or a folder with all in it."""
        with self._lock:
            entry, path = self._entry(handle), self._path(handle)
            if entry.is_folder:
                shutil.rmtree(path)
            else:
                path.unlink()
            self._forget(handle)

    def rename(self, handle: int, name: str) -> None:
        """In the same folder."""
        with self._lock:
            parent, former = self._place(handle)
            new = self._folder(parent) / name
            if os.path.lexists(new):
                raise FileExistsError(name)
            self._path(handle).rename(new)
            gone = self._handles.get((parent, name))
            if gone is not None:
                self._forget(gone)  # of a file that was called so, and is not there: it is not this one
            self._handles.pop((parent, former), None)
            self._places[handle] = (parent, name)
            self._handles[parent, name] = handle

    # -- inside -------------------------------------------------------------------------------------------------------

    def _inside(self, parent: int) -> list[Entry]:
        with os.scandir(self._folder(parent)) as found:
            names = [one.name for one in found if not one.name.startswith(_PART) and _is_plain(one)]
        entries = []
        for name in sorted(names):
            with suppress(OSError, NoObject):  # it went meanwhile
                entries.append(self._entry(self._handle(parent, name)))
        return entries

    def _entry(self, handle: int) -> Entry:
        parent, name = self._place(handle)
        try:
            found = self._path(handle).lstat()
        except FileNotFoundError:
            raise NoObject from None
        is_folder = stat.S_ISDIR(found.st_mode)
        if not is_folder and not stat.S_ISREG(found.st_mode):
            raise NoObject
        return Entry(handle, parent, name, is_folder, 0 if is_folder else found.st_size, found.st_mtime)

    def _handle(self, parent: int, name: str) -> int:
        handle = self._handles.get((parent, name))
        if handle is None:
            handle = len(self._places) + 1
            self._places[handle] = (parent, name)
            self._handles[parent, name] = handle
        return handle

    def _place(self, handle: int) -> tuple[int, str]:
        try:
            return self._places[handle]
        except KeyError:
            raise NoObject from None

    def _path(self, handle: int) -> Path:
        parent, name = self._place(handle)
        return self._folder(parent) / name

    def _folder(self, handle: int) -> Path:
        """Where a folder is: no link leads there, all the way, which is not too long."""
        names = []
        while handle:
            handle, name = self._place(handle)
            names.append(name)
            if len(names) > _DEEPEST:
                raise NoObject
        path = self.folder
        for name in reversed(names):
            path /= name
            if not stat.S_ISDIR(path.lstat().st_mode):
                raise NoObject
        return path

    def _forget(self, handle: int) -> None:
        """Its number stays taken: hosts may still have it."""
        place = self._places[handle]
        self._places[handle] = (ROOT, "")
        self._handles.pop(place, None)


def is_name(name: str) -> bool:
    """Whether a file may be called so."""
    if name in ("", ".", "..") or _NEVER & set(name) or name.startswith(_PART):
        return False
    try:
        return len(os.fsencode(name)) <= _MOST_NAME
    except UnicodeEncodeError:
        return False


def _is_plain(found: os.DirEntry[str]) -> bool:
    return found.is_dir(follow_symlinks=False) or found.is_file(follow_symlinks=False)
