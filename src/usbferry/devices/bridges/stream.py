"""Byte streams over a pair of bulk endpoints: a bounded queue each way, flow control by NAK, transfers that end.

    host --OUT--> take() --> from_host --> the far side takes   full: the endpoint NAKs until there is room
    host <--IN--- give() <-- to_host <---- the far side puts    empty: the endpoint NAKs until there are bytes

Whoever changes a queue calls the other end at once: no timer, no polling, and nothing waits that could go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ...usb.transfer import Buffer, Completion, Transfer
from ...usb.types import Status
from ..pipe import Answer
from ..virtual import VirtualDevice

LIMIT: Final = 64 * 1024  # bytes in one queue, where a device names no other


def _nobody() -> None:
    """The end of a queue that nobody is at yet."""


class ByteQueue:
    """Bytes in their order, from one end that puts to one that takes.

    The putting end stops when `room` is 0; as no piece is cut, the queue holds at most `limit` bytes and one piece.
    Each end sets the callback it wants to hear of: `filled` follows every put, `drained` all that was taken.
    """

    __slots__ = ("_bytes", "drained", "filled", "limit")

    def __init__(self, limit: int = LIMIT) -> None:
        if limit < 1:
            raise ValueError(f"a buffer of {limit} bytes holds nothing")
        self.limit = limit
        self.filled: Callable[[], None] = _nobody
        self.drained: Callable[[], None] = _nobody
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def room(self) -> int:
        """Bytes until the limit; 0 says stop."""
        return max(0, self.limit - len(self._bytes))

    def put(self, data: Buffer) -> None:
        """Append a copy of `data`."""
        if data:
            self._bytes += data
            self.filled()

    def take(self, count: int) -> bytearray:
        """Remove and return the first `count` bytes, or as many as there are."""
        if count >= len(self._bytes):
            taken, self._bytes = self._bytes, bytearray()
        else:
            taken = self._bytes[:count]
            del self._bytes[:count]
        if taken:
            self.drained()
        return taken

    def peek(self, count: int) -> bytearray:
        """A copy of the first bytes, for an end that learns only afterwards how many it got rid of: then `drop`."""
        return self._bytes[:count]

    def drop(self, count: int) -> None:
        """Remove the first `count` bytes."""
        del self._bytes[:count]
        if count:
            self.drained()

    def clear(self) -> None:
        """Forget everything."""
        self.drop(len(self._bytes))


class Stream:
    """The device's side of both queues: `give` and `take` are what its two handlers return.

        @endpoint(0x81)
        def _give(self, transfer):
            return self.stream.give(transfer)

    `packet` is the endpoints' packet size at the device's speed. The far side of `to_host` puts while there is `room`
    and hears `drained`; the far side of `from_host` takes and hears `filled`.
    """

    def __init__(
        self, device: VirtualDevice, in_address: int, out_address: int, packet: int, limit: int = LIMIT
    ) -> None:
        self.to_host = ByteQueue(limit)
        self.from_host = ByteQueue(limit)
        self.to_host.filled = lambda: device.kick(in_address)
        self.from_host.drained = lambda: device.kick(out_address)
        self._packet = packet
        self._unended = False  # the last transfer was filled to the brim, so it did not say that the data stops there

    def give(self, transfer: Transfer) -> Answer:
        """Answer an IN transfer: with what there is, never waiting for more; None while there is nothing.

        A transfer ends when it is full or with a short packet (USB 2.0 §5.8.3). Fewer bytes than were asked for are
        such an end: where they fill whole packets, the zero-length packet after them is implied, as a completion does
        not tell it from a short one. What ends by being full may go on in the next transfer; when nothing follows,
        that one is the zero-length packet. Firmware sends it (Linux u_serial.c sets `zero` on the request that empties
        its buffer), and hosts that read until a short packet wait for it.
        """
        if not self.to_host and not self._unended:
            return None
        data = self.to_host.take(transfer.length)
        full = 0 < len(data) == transfer.length
        self._unended = full and not self.to_host and not transfer.length % self._packet
        return Completion(Status.OK, data)

    def take(self, transfer: Transfer) -> Answer:
        """Answer an OUT transfer: taken whole, or None while the queue is full.

        Never in part: a host that cancels one hears of no byte, and sends them all again.
        """
        if not self.from_host.room:
            return None
        self.from_host.put(transfer.data)
        return Completion(Status.OK, b"", transfer.length)

    def restart(self) -> None:
        """The host's endpoints start afresh: no transfer is owed its end. The bytes stay."""
        self._unended = False
