"""Barriers: a control request that changes endpoints, and still waits, is not overtaken by what was submitted later.

    SET_INTERFACE waits behind a slow request -> transfers on its endpoints wait at the gate -> it ends, they go on

Nothing passes through here while no such request waits, which is nearly always.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from ..device import Promise
from ..usb.transfer import Completion, Transfer
from ..usb.types import Status

log: Final = logging.getLogger(__name__)


class _Barrier:
    """One request that waits; `held` was submitted after it and before the next barrier."""

    __slots__ = ("addresses", "held", "request")

    def __init__(self, request: Transfer, addresses: frozenset[int]) -> None:
        self.request = request
        self.addresses = addresses
        self.held: dict[Transfer, Promise] = {}  # in their order


class Gate:
    """Where transfers wait behind barriers. `go` submits one that may go on; `moved` hears of each barrier's end."""

    def __init__(
        self, go: Callable[[Transfer], Completion | asyncio.Future[Completion]], moved: Callable[[], None]
    ) -> None:
        self._go = go
        self._moved = moved
        self._barriers: deque[_Barrier] = deque()

    def addresses(self) -> set[int]:
        """The endpoints that no transfer reaches now: a barrier's own, and those that it holds something for.

        The barrier that such a one was for may have ended, while the last one before it has not.
        """
        return {transfer.endpoint for barrier in self._barriers for transfer in barrier.held} | self.barred()

    def barred(self) -> set[int]:
        """The endpoints that a barrier is for."""
        return {address for barrier in self._barriers for address in barrier.addresses}

    def is_holding(self, *, control: bool = False) -> bool:
        """Whether anything waits here; with `control`, whether a control transfer does."""
        held = (transfer for barrier in self._barriers for transfer in barrier.held)
        return any(not (control and transfer.endpoint & 0x0F) for transfer in held)

    def put_up(self, request: Transfer, addresses: frozenset[int]) -> None:
        """Hold what comes for these endpoints until `ended(request)`."""
        self._barriers.append(_Barrier(request, addresses))

    def ended(self, request: Transfer) -> None:
        """A request was answered, before the next one is looked at. One that is no barrier changes nothing."""
        at = next((at for at, barrier in enumerate(self._barriers) if barrier.request is request), None)
        if at is None:
            return
        barrier = self._barriers[at]
        del self._barriers[at]
        if at:  # cancelled before its turn: what it held waits for the one before
            self._barriers[at - 1].held |= barrier.held
            barrier.held = {}
        self._moved()
        for transfer, answer in barrier.held.items():
            self.let_go(transfer, answer)

    def let_go(self, transfer: Transfer, answer: Promise) -> None:
        """Submit one that was held. What is wrong with it ends it alone: others wait behind it."""
        try:
            _forward(self._go(transfer), answer)
        except Exception as error:
            _fail(transfer, answer, error)

    def submit(self, transfer: Transfer, answer: Promise | None = None) -> Promise:
        """Hold a transfer for an endpoint of a barrier. Its payload was lent, so it is copied.

        One that was let go and is held again has its `answer` already.
        """
        if transfer.data.__class__ is not bytes:
            transfer.data = bytes(transfer.data)
        if answer is None:
            answer = Promise(loop=asyncio.get_running_loop())
        self._barriers[-1].held[transfer] = answer
        return answer

    def cancel(self, transfer: Transfer) -> bool:
        """End a held transfer; whether it was one."""
        for barrier in self._barriers:
            answer = barrier.held.pop(transfer, None)
            if answer is not None:
                answer.fulfil(Completion(Status.CANCELLED))
                return True
        return False

    def flush(self, status: Status) -> None:
        """End everything held with `status`; there is no barrier any more."""
        barriers, self._barriers = self._barriers, deque()
        for barrier in barriers:
            for answer in barrier.held.values():
                answer.fulfil(Completion(status))
        if barriers:
            self._moved()


class DirectGate(Gate):
    """A gate whose `go` gets the answer too and sees to its end, or returns the Completion that it is.

    To hand a result from one future to another takes a turn of the loop, in which a later transfer that did not wait
    could end before the one that did.
    """

    def __init__(
        self,
        go: Callable[[Transfer, Promise], Completion | asyncio.Future[Completion]],
        moved: Callable[[], None],
    ) -> None:
        super().__init__(_never, moved)
        self._send = go

    def let_go(self, transfer: Transfer, answer: Promise) -> None:
        try:
            done = self._send(transfer, answer)
        except Exception as error:
            _fail(transfer, answer, error)
            return
        if isinstance(done, Completion):
            answer.fulfil(done)


def _fail(transfer: Transfer, answer: Promise, error: Exception) -> None:
    """Its caller would have been told by an exception, had it not waited."""
    if not isinstance(error, ValueError):
        log.error("a transfer that had waited failed: %s", transfer, exc_info=error)
    answer.fulfil(Completion(Status.INVALID))


def _never(transfer: Transfer) -> Completion:
    raise NotImplementedError


def _forward(source: Completion | asyncio.Future[Completion], answer: Promise) -> None:
    if isinstance(source, Completion):
        answer.fulfil(source)
    elif isinstance(source, Promise) and not source.done():
        source.hear(answer.fulfil)
    else:
        source.add_done_callback(lambda done: answer.fulfil(done.result()))
