"""Ethernet frames in a queue of bytes, each with its length before it: how sockets of QEMU and passt carry them.

    00 00 00 2a | frame of 42 bytes | 00 00 05 ea | frame of 1514 bytes | ...

So any bridge that carries bytes carries frames. Source: QEMU, net/stream.c (`-netdev stream`); passt(1), "--socket".
"""

from __future__ import annotations

import logging
from typing import Final

from ...usb.transfer import Buffer
from .stream import ByteQueue

log: Final = logging.getLogger(__name__)
MOST: Final = 1514  # bytes of a frame without its CRC: IEEE 802.3 §3.2.7
_LENGTH: Final = 4
_SANE: Final = (
    128 * 1024
)  # a length beyond any that is offered to QEMU and passt: there the other end speaks something else
LIMIT: Final = 256 * 1024  # bytes each way


class FrameQueue(ByteQueue):
    """Bytes that are frames: one end puts or takes those, the other bytes in pieces of any size."""

    __slots__ = ("_told",)

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__(limit)
        self._told = False

    def put_frame(self, frame: Buffer) -> None:
        """Append a frame."""
        self.put(len(frame).to_bytes(_LENGTH, "big") + frame)

    def next_frame(self) -> bytes | None:
        """The next whole frame, which stays until `drop_frame`; longer ones than Ethernet has are left out."""
        while len(self) >= _LENGTH:
            size = int.from_bytes(self.peek(_LENGTH), "big")
            if size > _SANE:
                self._complain(size)
                return None
            if len(self) < _LENGTH + size:
                return None
            if 0 < size <= MOST:
                return bytes(self.peek(_LENGTH + size)[_LENGTH:])
            self.drop(_LENGTH + size)
        return None

    def drop_frame(self) -> None:
        """Remove what `next_frame` gave."""
        self.drop(_LENGTH + int.from_bytes(self.peek(_LENGTH), "big"))

    def take_frame(self) -> bytes | None:
        """Remove and return the next whole frame."""
        frame = self.next_frame()
        if frame is not None:
            self.drop_frame()
        return frame

    def skip_all(self) -> None:
        """Leave out every whole frame; one that has begun goes on."""
        while self.take_frame() is not None:
            pass

    def restart(self) -> None:
        """The other end is another one: what has begun does not go on."""
        self.clear()
        self._told = False

    def _complain(self, size: int) -> None:
        """Lengths cannot be found again in what follows."""
        if not self._told:
            self._told = True
            log.warning("a frame of %d bytes: the other end does not send lengths and frames; it is not heard", size)
        self.clear()
