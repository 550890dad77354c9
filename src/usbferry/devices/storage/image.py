"""An image file, or a block device, as the backing of a disk. Holes stay holes, and zeros may become some.

The file is held, and locked, only while the disk is claimed: exclusively to write, shared to only read. The lock is
advisory (flock): it keeps other disks, mtools and QEMU's like from the image, not `cp`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ...device import Busy, DeviceError
from ...usb.transfer import Buffer
from .bulk_only import Backing

try:
    import fcntl
except ImportError:  # Windows has no advisory locks on whole files
    fcntl = None  # type: ignore[assignment]

_NOWAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None)  # Linux 4.14
_BINARY: Final = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_PUNCH: Final = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, include/uapi/linux/falloc.h
_PUNCH_BYTES: Final = 4096  # the least that can become a hole
_NO_LOCKS: Final = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_NO_PUNCH: Final = {errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EINVAL}
_NO_NOWAIT: Final = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class Image(Backing):
    """`path`, made with `size` bytes, all of them a hole, if it does not exist. Raises DeviceError."""

    def __init__(self, path: Path, *, size: int = 0, readonly: bool = False) -> None:
        self.path = path
        self.readonly = readonly
        self._fd = -1
        self._can_peek = _NOWAIT is not None and hasattr(os, "preadv")
        self._can_punch = True
        self._dirty = False  # something was written that may not be on stable storage yet
        if size and not readonly and not os.path.exists(path):  # Path.exists raises for what may not be looked at
            _create(path, size)
        self.size = 0
        self.open()  # so that an image which cannot be had is told when the disk is made
        self.close()
        if size and self.size != size:
            raise DeviceError(f"{path} has {self.size} bytes, not {size}: leave the size out, or take another image")
        if not self.size:
            raise DeviceError(f"{path} is empty: give the size of a disk to make, and a name that does not exist yet")

    def open(self) -> None:
        try:
            fd = os.open(self.path, (os.O_RDONLY if self.readonly else os.O_RDWR) | _BINARY)
        except FileNotFoundError:
            remedy = "" if self.readonly else "; give a size, such as size=64M, to make it"
            raise DeviceError(f"{self.path} does not exist{remedy}") from None
        except PermissionError as error:
            remedy = "let this user read and write it, or run this as root"
            if self.readonly:
                remedy = "let this user read it, or run this as root"
            elif os.access(self.path, os.R_OK):
                remedy = "perhaps readonly=1 is what you want"
            raise DeviceError(f"{self.path} may not be opened ({error.strerror}); {remedy}") from None
        except OSError as error:
            raise DeviceError(f"{self.path}: {error.strerror}") from error
        try:
            size = self._examine(fd)
        except BaseException:
            os.close(fd)
            raise
        if self.size and size != self.size:
            os.close(fd)
            raise DeviceError(f"{self.path} had {self.size} bytes and now has {size}: serve it anew")
        self._fd, self.size = fd, size

    def _examine(self, fd: int) -> int:
        """Lock it and give its size."""
        kind = os.fstat(fd).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
            raise DeviceError(f"{self.path} is neither a file nor a block device")
        if fcntl is not None:
            try:
                fcntl.flock(fd, (fcntl.LOCK_SH if self.readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(f"{self.path} is in use by another process or disk") from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise DeviceError(f"{self.path} cannot be locked: {error.strerror}") from error
        return os.lseek(fd, 0, os.SEEK_END)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            if self._dirty:
                _sync(fd)
        finally:
            self._dirty = False
            os.close(fd)

    def peek(self, offset: int, length: int) -> Buffer | None:
        if not self._can_peek:
            return None
        assert _NOWAIT is not None
        buffer = bytearray(length)
        try:
            count = os.preadv(self._fd, (buffer,), offset, _NOWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            self._can_peek = error.errno not in _NO_NOWAIT
            return None
        return buffer if count == length else None

    def read(self, offset: int, length: int) -> Buffer:
        return read_exactly(self._fd, offset, length)

    def write(self, offset: int, pieces: Sequence[bytes]) -> None:
        self._dirty = True
        length = sum(map(len, pieces))
        if length >= _PUNCH_BYTES and self._can_punch and all(map(is_zero, pieces)):
            self.zero(offset, length)
        else:
            write_all(self._fd, offset, pieces)

    def zero(self, offset: int, length: int) -> None:
        self._dirty = True
        if not length or (self._can_punch and self._punch(offset, length)):
            return
        zeros = bytes(min(length, 1 << 20))
        for at in range(offset, offset + length, len(zeros)):
            write_all(self._fd, at, (zeros[: offset + length - at],))

    def sync(self) -> None:
        if self._dirty:
            _sync(self._fd)
            self._dirty = False

    def _punch(self, offset: int, length: int) -> bool:
        if _fallocate is None:
            number = errno.ENOSYS
        elif not _fallocate(self._fd, _PUNCH, offset, length):
            return True
        else:
            number = ctypes.get_errno()
        if number not in _NO_PUNCH:
            raise OSError(number, os.strerror(number))
        self._can_punch = False
        return False


def is_zero(piece: bytes) -> bool:
    """Whether it is all zeros; soon known when it is not."""
    return not piece or (not piece[0] and not piece[-1] and piece == bytes(len(piece)))


def read_exactly(fd: int, offset: int, length: int) -> bytearray:
    """`length` bytes of a file; OSError when it ends before."""
    buffer = bytearray(length)
    rest = memoryview(buffer)
    while rest:
        if hasattr(os, "preadv"):
            count = os.preadv(fd, (rest,), offset)
        else:
            os.lseek(fd, offset, os.SEEK_SET)
            chunk = os.read(fd, len(rest))
            count = len(chunk)
            rest[:count] = chunk
        if not count:
            raise OSError(errno.EIO, "the file ends before the disk does")
        offset, rest = offset + count, rest[count:]
    return buffer


def write_all(fd: int, offset: int, pieces: Sequence[bytes]) -> None:
    """Write `pieces` one after the other."""
    if len(pieces) > 1 and hasattr(os, "pwritev"):
        count = os.pwritev(fd, pieces[:1024], offset)  # IOV_MAX
        if count == sum(map(len, pieces)):
            return
        pieces, offset = (b"".join(pieces)[count:],), offset + count
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            if hasattr(os, "pwrite"):
                count = os.pwrite(fd, rest, offset)
            else:
                os.lseek(fd, offset, os.SEEK_SET)
                count = os.write(fd, rest)
            offset, rest = offset + count, rest[count:]


def _create(path: Path, size: int) -> None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
        try:
            os.ftruncate(fd, size)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
    except PermissionError as error:
        raise DeviceError(f"{path} cannot be made: this user may make no file there; name another folder") from error
    except OSError as error:
        raise DeviceError(f"{path} cannot be made with {size} bytes: {error.strerror}") from error


def _sync(fd: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def _load_fallocate() -> Any:
    """fallocate(2), which Python does not wrap; None where the system has none. It may block, and frees the GIL."""
    if not hasattr(os, "posix_fallocate"):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    function = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function


_fallocate: Final = _load_fallocate()
