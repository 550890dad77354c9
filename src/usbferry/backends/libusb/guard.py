"""Gives interfaces back to the kernel's drivers when the process that claimed them was killed. Linux alone.

Whoever claims an interface in a regular way also gives it back; one that is killed does not, and its keyboard stays
dead until it is plugged in again. So a small process of our own stands by while interfaces are claimed: it reads which
are, and which are no longer, and acts on what is left when its standard input ends.

    python guard.py     reads lines `+ NODE INTERFACE` and `- NODE INTERFACE`
"""

from __future__ import annotations

import errno
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Final

_IOCTL: Final = struct.Struct("@iiP")  # struct usbdevfs_ioctl, include/uapi/linux/usbdevice_fs.h
_USBDEVFS_IOCTL: Final = 0xC0005512 | _IOCTL.size << 16
_USBDEVFS_CONNECT: Final = 0x5517
_USBDEVFS_RESET: Final = 0x5514
_PATIENCE: Final = 10.0  # seconds for the kernel to close the files of the dead

_lock: Final = threading.Lock()
_claims: Final[set[tuple[str, int]]] = set()
_process: subprocess.Popen[bytes] | None = None


def claimed(node: str, number: int) -> None:
    """An interface that a kernel driver had is ours. Called before it is."""
    with _lock, suppress(OSError):  # without a guard it is as it is everywhere else
        _claims.add((node, number))
        if _process is None or _process.poll() is not None:
            _start()
        else:
            _tell("+", node, number)


def released(node: str, numbers: Collection[int]) -> None:
    """These interfaces are given back, or gone. The guard goes with the last one of all devices."""
    global _process
    with _lock:
        for number in numbers:
            _claims.discard((node, number))
            with suppress(OSError):
                _tell("-", node, number)
        if not _claims and _process is not None:
            process, _process = _process, None
            process.communicate()


def _start() -> None:
    """A guard that knows all that is claimed, the first or after one that died."""
    global _process
    command, quiet = [sys.executable, "-I", "-S", __file__], subprocess.DEVNULL
    _process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)
    for node, number in _claims:
        _tell("+", node, number)


def _tell(sign: str, node: str, number: int) -> None:
    if _process is not None and _process.stdin is not None:
        _process.stdin.write(f"{sign} {node} {number}\n".encode())
        _process.stdin.flush()


def main() -> None:
    """The guard itself."""
    left: dict[str, set[int]] = {}
    for line in sys.stdin:
        sign, node, number = line.split()
        numbers = left.setdefault(node, set())
        numbers.add(int(number)) if sign == "+" else numbers.discard(int(number))
    for node, numbers in left.items():
        if numbers:
            with suppress(OSError):
                _give_back(node, numbers)


def _give_back(node: str, numbers: set[int]) -> None:
    """Reset what was left half done, and let the drivers probe."""
    import fcntl

    with open(node, "r+b", buffering=0) as file:
        with suppress(OSError):
            fcntl.ioctl(file, _USBDEVFS_RESET, 0)
        for number in sorted(numbers):
            give_up = time.monotonic() + _PATIENCE
            while time.monotonic() < give_up:
                try:
                    fcntl.ioctl(file, _USBDEVFS_IOCTL, _IOCTL.pack(number, _USBDEVFS_CONNECT, 0))
                    break
                except OSError as error:
                    if error.errno != errno.EBUSY:  # the dead has it still
                        break  # not in the configuration in force, or unplugged
                time.sleep(0.05)


if __name__ == "__main__":
    main()
