"""What a disk keeps its bytes in: a Backing, which may block, and Storage, which never lets the event loop wait for it.

    Disk --read/write/zero/sync--> Storage --one thread, in order--> Backing (an image file, memory, a folder)
                                      `----peek, at once, when nothing is under way----^

One thread, so that what was asked first is done first. A read that the backing can answer without waiting (the page
cache has it) is answered at once, unless a change is still on its way to the thread.

Writes are not held back in a buffer here: the answer to a write comes when the backing has taken it, so that an error
belongs to the command that caused it. That costs no time, as it overlaps the host's own round trip for the status, and
the system's page cache is the buffer. On stable storage are they after `sync`, and after `close`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from ...usb.transfer import Buffer

T = TypeVar("T")
_WINDOW: Final = 1 << 20  # bytes that a stream of reads is ahead of its reader, and of one read into the future
_FILL: Final = 1 << 20  # bytes written in one go when a block is repeated


class Backing(ABC):
    """Bytes from 0 to `size`. Errors are OSErrors. All but `peek` may block, and are called one at a time."""

    size: int
    readonly: bool
    is_quick = False
    """Nothing here ever waits: it may all be called in the event loop."""

    def open(self) -> None:
        """Begin a claim. Raises DeviceError when it cannot be had."""

    def close(self) -> None:
        """End the claim; what was written is on stable storage."""

    def peek(self, offset: int, length: int) -> Buffer | None:
        """The bytes if they are at hand, without waiting. May be called while `read` runs in the thread."""
        return None

    @abstractmethod
    def read(self, offset: int, length: int) -> Buffer:
        """Exactly `length` bytes."""

    @abstractmethod
    def write(self, offset: int, pieces: Sequence[bytes]) -> None:
        """Put `pieces` one after the other."""

    @abstractmethod
    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros, and give back what it took where that is possible."""

    def sync(self) -> None:
        """Put what was written on stable storage."""


class Storage:
    """A backing, served from one event loop. A result is what was asked for, or a future of it."""

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        self._executor: ThreadPoolExecutor | None = None
        self._changes = 0  # writes and the like that the thread has not done yet
        self._next = -1  # where a sequential read would go on
        self._ahead: tuple[int, int, asyncio.Future[Buffer]] | None = None  # offset, length, the bytes

    @property
    def size(self) -> int:
        return self._backing.size

    @property
    def readonly(self) -> bool:
        return self._backing.readonly

    async def open(self) -> None:
        """Begin a claim. Raises DeviceError."""
        await asyncio.to_thread(self._backing.open)

    async def close(self) -> None:
        """Wait for what is under way, then put all of it on stable storage."""
        executor, self._ahead = self._executor, None
        try:
            await (asyncio.to_thread(self._backing.close) if executor is None else self._run(self._backing.close))
        finally:
            self._executor = None
            if executor is not None:
                executor.shutdown(wait=False)

    def peek(self, offset: int, length: int) -> Buffer | None:
        """`length` bytes if they are at hand; as quick a `read` as there is."""
        if self._changes or length > _WINDOW:
            return None
        found = self._backing.peek(offset, length)
        if found is not None:
            self._next = offset + length
        return found

    def read(self, offset: int, length: int) -> Buffer | asyncio.Future[Buffer]:
        """`length` bytes; the ones after them are fetched ahead when the reads follow each other and had to wait."""
        is_sequential = offset == self._next
        self._next = offset + length
        if not self._changes and (found := self._backing.peek(offset, length)) is not None:
            return found
        answer = self._take_ahead(offset, length)
        if answer is None:
            answer = self._run(self._backing.read, offset, length)
        if is_sequential:
            self._read_ahead(offset + length, min(length, _WINDOW))
        return answer

    def write(self, offset: int, pieces: Sequence[bytes]) -> asyncio.Future[None] | None:
        """Put `pieces`, which are kept until then, one after the other. None: it is done."""
        return self._change(self._backing.write, offset, pieces)

    def zero(self, offset: int, length: int) -> asyncio.Future[None] | None:
        """Make a range read as zeros: a hole where the backing has holes."""
        return self._change(self._backing.zero, offset, length)

    def fill(self, offset: int, length: int, block: bytes) -> asyncio.Future[None] | None:
        """Repeat `block` over a range of whole blocks."""
        return self._change(self._fill, offset, length, block)

    def sync(self) -> asyncio.Future[None] | None:
        """Everything written before is on stable storage."""
        return self._change(self._backing.sync)

    def compare(self, offset: int, pieces: Sequence[bytes]) -> asyncio.Future[bool] | bool:
        """Whether the bytes there are `pieces`."""
        if self._backing.is_quick:
            return self._compare(offset, pieces)
        return self._run(self._compare, offset, pieces)

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _fill(self, offset: int, length: int, block: bytes) -> None:
        run = block * max(1, min(length, _FILL) // len(block))
        for at in range(offset, offset + length, len(run)):
            self._backing.write(at, (run[: offset + length - at],))

    def _compare(self, offset: int, pieces: Sequence[bytes]) -> bool:
        expected = b"".join(pieces)
        return bytes(self._backing.read(offset, len(expected))) == expected

    # -- in the loop --------------------------------------------------------------------------------------------------

    def _change(self, work: Callable[..., None], *arguments: Any) -> asyncio.Future[None] | None:
        self._ahead = None
        if self._backing.is_quick:
            work(*arguments)
            return None
        self._changes += 1
        future = self._run(work, *arguments)
        future.add_done_callback(self._changed)
        return future

    def _changed(self, future: asyncio.Future[None]) -> None:
        self._changes -= 1

    def _run(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        if self._executor is None:  # an idle disk, and one in memory, have no thread
            self._executor = ThreadPoolExecutor(1, "usbferry-disk")
        return asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    def _take_ahead(self, offset: int, length: int) -> Buffer | asyncio.Future[Buffer] | None:
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead[:2] != (offset, length):
            return None
        future = ahead[2]
        if not future.done():
            return future
        return None if future.cancelled() or future.exception() else future.result()

    def _read_ahead(self, offset: int, length: int) -> None:
        if offset + length <= self.size:
            future = self._run(self._backing.read, offset, length)
            future.add_done_callback(_retrieve)
            self._ahead = (offset, length, future)


class Stream:
    """Consecutive bytes of a storage, fetched a window ahead of who takes them.

    `ready` is called when bytes have come, or an error, that `take` waited for.
    """

    def __init__(self, storage: Storage, offset: int, length: int, ready: Callable[[], None]) -> None:
        self._storage = storage
        self._ready = ready
        self._next = offset  # of the first byte not asked for yet
        self._end = offset + length
        self._held: deque[Buffer] = deque()
        self._held_bytes = 0
        self._wanted = 0
        self._pending: asyncio.Future[Buffer] | None = None
        self.error: OSError | None = None
        self.left = length
        self._fetch(_WINDOW)

    def take(self, count: int) -> Buffer | None:
        """The next `count` bytes, or as many as are left; None until they are there, or `error` is."""
        count = min(count, self.left)
        if self._held_bytes < count:
            self._fetch(max(count, _WINDOW))
            if self._held_bytes < count:
                self._wanted = count
                return None
        self.left -= count
        self._held_bytes -= count
        taken = self._cut(count)
        if self._next < self._end and self._held_bytes < _WINDOW:
            self._fetch(_WINDOW)
        return taken

    def stop(self) -> None:
        """Nobody will take any more."""
        self._end = self._next

    def _cut(self, count: int) -> Buffer:
        head = self._held.popleft() if count else b""
        if len(head) == count:
            return head
        pieces = [head]
        have = len(head)
        while have < count:
            pieces.append(self._held.popleft())
            have += len(pieces[-1])
        last = memoryview(pieces[-1])
        if have > count:
            keep = len(last) - (have - count)
            self._held.appendleft(last[keep:])
            pieces[-1] = last[:keep]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _fetch(self, window: int) -> None:
        """Ask for what is missing to a window, one read at a time."""
        while self._pending is None and self._next < self._end and self._held_bytes < window and self.error is None:
            length = min(window - self._held_bytes, self._end - self._next)
            answer = self._storage.read(self._next, length)
            self._next += length
            if isinstance(answer, asyncio.Future):
                self._pending = answer
                answer.add_done_callback(self._fetched)
            else:
                self._hold(answer)

    def _hold(self, chunk: Buffer) -> None:
        self._held.append(chunk)
        self._held_bytes += len(chunk)

    def _fetched(self, future: asyncio.Future[Buffer]) -> None:
        self._pending = None
        error = None if future.cancelled() else future.exception()
        if error is None and not future.cancelled():
            self._hold(future.result())
            self._fetch(max(self._wanted, _WINDOW))
        else:
            self.error = error if isinstance(error, OSError) else OSError(f"the read failed: {error or 'cancelled'}")
        if self._wanted and (self._held_bytes >= self._wanted or self.error is not None):
            self._wanted = 0
            self._ready()


class Held:
    """Bytes that are all there, taken as from a Stream."""

    __slots__ = ("_data", "left")
    error: OSError | None = None

    def __init__(self, data: Buffer) -> None:
        self._data = data
        self.left = len(data)

    def take(self, count: int) -> Buffer:
        data = self._data
        if count >= self.left:
            self.left = 0
            return data
        self.left -= count
        self._data = memoryview(data)[count:]
        return memoryview(data)[:count]


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Nobody may come for a read ahead: its error is then of no interest."""
    if not future.cancelled():
        future.exception()
