"""A bridge of frames to a TAP interface of this system's kernel: Linux, as root or as who the interface was made for.

    ip tuntap add dev ferry0 mode tap user "$USER" && ip link set ferry0 up    # by root, once

Without it the interface is made, which needs root, and goes with the device. Source: Linux,
Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import struct
from contextlib import suppress
from typing import Final, cast

from ...device import DeviceError
from .bridge import Bridge, BridgeOptions, notes
from .frames import MOST, FrameQueue

log: Final = logging.getLogger(__name__)
_TUN: Final = "/dev/net/tun"
_TUNSETIFF: Final = 0x400454CA  # include/uapi/linux/if_tun.h
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_NAME: Final = 16  # IFNAMSIZ, its NUL included


class Tap(Bridge):
    """`to=tap:NAME`. What the interface would send while it is down is lost, as it is to the kernel."""

    def __init__(self, options: BridgeOptions) -> None:
        super().__init__(options)
        self._name = options.address
        if not self._name or len(self._name.encode()) >= _NAME or "/" in self._name:
            raise ValueError(f"{self._name!r} is no interface's name: write tap:ferry0, at most {_NAME - 1} characters")
        self._fd = -1
        self._reading = False

    async def begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        fd = -1
        try:
            fd = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", self._name.encode(), _IFF_TAP | _IFF_NO_PI))
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise DeviceError(f"{self}: {_refusal(error, self._name)}") from error
        self._fd = fd
        notes.info("%s: there; give it an address, or put it into a bridge, and set it up", self)
        self.connected = True
        self.move()

    async def end(self) -> None:
        self._close()

    def _close(self) -> None:
        self._read(False)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def pass_on(self) -> None:
        frames = cast(FrameQueue, self.from_host)
        while self._fd >= 0 and (frame := frames.take_frame()) is not None:
            with suppress(OSError):  # EIO: the interface is down; ENOBUFS: the kernel has no room. Frames may be lost
                os.write(self._fd, frame)
            self.took()

    def fetch(self) -> None:
        frames = cast(FrameQueue, self.to_host)
        while frames.room and self._fd >= 0:
            try:
                frame = os.read(self._fd, MOST + 4)  # with a VLAN's tag, which the queue leaves out
            except BlockingIOError:
                break
            except OSError as error:  # EBADFD: the interface was deleted
                log.warning("%s: is gone: %s", self, error.strerror)
                self._close()
                self.connected = False
                return
            frames.put_frame(frame)
        self._read(frames.room > 0 and self._fd >= 0)

    def _read(self, reads: bool) -> None:
        """Be called when there is a frame, or no more."""
        if reads and not self._reading:
            self._loop.add_reader(self._fd, self.move)
        elif self._reading and not reads:
            self._loop.remove_reader(self._fd)
        self._reading = reads

    def unsent(self) -> int:
        return 0  # it takes all at once

    def __str__(self) -> str:
        return f"tap:{self._name}"


def _refusal(error: OSError, name: str) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"only root may make it; root lets you use one with: ip tuntap add dev {name} mode tap user $USER"
    if error.errno == errno.EBUSY:
        return "another program has it"
    if error.errno in (errno.ENOENT, errno.ENODEV):
        return f"this kernel has no {_TUN}; root loads it with: modprobe tun"
    return error.strerror or str(error)
