"""A bulk endpoint with streams (USB 3.2 §8.12.1.4): transfers name the stream that they are of, and wait for no other.

One halt for all of them, and one handler: the transfer that it is asked about says which stream.
"""

from __future__ import annotations

import asyncio

from ..usb.transfer import Completion, Transfer
from ..usb.tree import Endpoint
from ..usb.types import Speed, Status
from .clock import Clock
from .pipe import Handler, Pipe


class Streams(Pipe):
    """Streams 1 to `count` of an endpoint, each with a queue of its own. There is no stream 0."""

    def __init__(self, endpoint: Endpoint, handler: Handler, speed: Speed, clock: Clock, count: int) -> None:
        self._each = {number: Pipe(endpoint, handler, speed, clock) for number in range(1, count + 1)}
        super().__init__(endpoint, handler, speed, clock)

    @property
    def handler(self) -> Handler:
        """Who answers the transfers of every stream."""
        return self._handler

    @handler.setter
    def handler(self, handler: Handler) -> None:
        self._handler = handler
        for pipe in self._each.values():
            pipe.handler = handler

    def __len__(self) -> int:
        return sum(map(len, self._each.values()))

    def submit(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        pipe = self._each.get(transfer.stream_id)
        return Completion(Status.INVALID) if pipe is None else pipe.submit(transfer)

    def cancel(self, transfer: Transfer) -> None:
        pipe = self._each.get(transfer.stream_id)
        if pipe is not None:
            pipe.cancel(transfer)

    def has(self, number: int) -> bool:
        return number in self._each

    def kick(self) -> None:
        for pipe in self._each.values():
            if len(pipe):
                pipe.kick()

    def kick_stream(self, number: int) -> None:
        """Ask the handler again for one stream alone."""
        pipe = self._each.get(number)
        if pipe is not None:
            pipe.kick()

    def halt(self) -> None:
        self.halted = True
        for pipe in self._each.values():
            pipe.halt()

    def clear(self) -> None:
        self.halted = False
        self.toggle_resets += 1
        for pipe in self._each.values():
            pipe.clear()

    def flush(self, status: Status, *, dead: bool = False) -> None:
        for pipe in self._each.values():
            pipe.flush(status, dead=dead)
