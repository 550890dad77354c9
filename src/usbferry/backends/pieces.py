"""Transfers too large for a peer, sent in pieces, one after the other.

A Linux server allocates each transfer in one go; where that fails its device is unusable until it is bound again. So
bulk and interrupt transfers go in pieces of whole packets. A short piece ends the transfer as a short packet would;
later transfers on the endpoint wait, for the bytes that follow a short packet are theirs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from ..usb.transfer import Completion, Flags, Transfer
from ..usb.types import Status

PIECE: Final = 1 << 20  # bytes; Linux has such a run free for hours, not 4 MiB of it

Answer = Completion | asyncio.Future[Completion]


class Pieces:
    """One endpoint while it has a transfer in pieces. `submit` and `cancel` reach the peer; `ended` says it is over."""

    def __init__(
        self,
        submit: Callable[[Transfer], Answer],
        cancel: Callable[[Transfer], None],
        ended: Callable[[], None],
        size: int,
    ) -> None:
        assert size > 0  # or a transfer would never end
        self._submit = submit
        self._cancel = cancel
        self._ended = ended
        self._size = size  # bytes of a piece, whole packets
        self._queue: deque[tuple[Transfer, asyncio.Future[Completion]]] = deque()  # the first is under way
        self._piece = Transfer(0, 0)
        self._data = bytearray()
        self._actual = 0
        self._cancelled = False

    def submit(self, transfer: Transfer) -> asyncio.Future[Completion]:
        """Send a transfer when those before it have ended. Its payload was lent, so it is copied."""
        if transfer.data.__class__ is not bytes:
            transfer.data = bytes(transfer.data)
        answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._queue.append((transfer, answer))
        if len(self._queue) == 1:
            self._run()
        return answer

    def cancel(self, transfer: Transfer) -> bool:
        """Ask for a transfer's end, if it is here; the piece that is under way ends with the truth."""
        for place, (other, answer) in enumerate(self._queue):
            if other is transfer:
                if place:
                    del self._queue[place]
                    answer.set_result(Completion(Status.CANCELLED))
                else:
                    self._cancelled = True
                    self._cancel(self._piece)
                return True
        return False

    def _run(self) -> None:
        """Go on with the first of the queue, until something must be waited for."""
        while self._queue:
            transfer, answer = self._queue[0]
            if transfer.length <= self._size:
                self._queue.popleft()
                forward(self._submit(transfer), answer)
                continue
            self._piece = self._cut(transfer)
            step = self._submit(self._piece)
            if not isinstance(step, Completion):
                step.add_done_callback(self._later)
                return
            self._took(step)
        self._ended()

    def _later(self, step: asyncio.Future[Completion]) -> None:
        self._took(step.result())
        self._run()

    def _cut(self, transfer: Transfer) -> Transfer:
        at = self._actual
        length = min(self._size, transfer.length - at)
        is_last = at + length == transfer.length
        payload = b"" if transfer.is_in else memoryview(transfer.data)[at : at + length]
        flags = transfer.flags if is_last else transfer.flags & ~Flags.ZERO_PACKET
        return Transfer(transfer.endpoint, length, payload, b"", flags, None, transfer.stream_id)

    def _took(self, step: Completion) -> None:
        transfer, answer = self._queue[0]
        self._data += step.data
        self._actual += step.actual
        status = step.status
        if status == Status.OK and step.actual == self._piece.length and self._actual < transfer.length:
            if not self._cancelled:
                return
            status = Status.CANCELLED
        answer.set_result(Completion(status, bytes(self._data), self._actual))
        self._queue.popleft()
        self._data, self._actual, self._cancelled = bytearray(), 0, False


def forward(source: Answer, answer: asyncio.Future[Completion]) -> None:
    """Let `answer` end as `source` does."""
    if isinstance(source, Completion):
        answer.set_result(source)
    else:
        source.add_done_callback(lambda done: answer.set_result(done.result()))
