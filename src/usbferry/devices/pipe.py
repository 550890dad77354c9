"""One endpoint of a virtual device: transfers in order, the halt, NAKs, the pace of its service interval.

    submit -> [halted, paced, or others wait?] -> handler -> Completion at once
                          |                          |-> None: NAK, waits for `kick`
                          `-> queue <----------------'-> future: works on it, later ones wait

`open` is the one flag of the hot path: nothing waits, is halted or paced, so the handler is asked directly. A handler
that raises fails its transfer, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from ..device import Promise
from ..usb.transfer import Completion, Flags, Transfer
from ..usb.tree import Endpoint
from ..usb.types import Speed, Status, TransferType
from .clock import Clock, Timer

Answer = Completion | asyncio.Future[Completion] | None
Handler = Callable[[Transfer], Answer]

log: Final = logging.getLogger(__name__)

# Seconds that a paced pipe may be behind before it gives up catching up. Isochronous importers resubmit by the clock of
# their own bus, a network away; an interrupt endpoint only makes up for the grain of the event loop's timers.
ISO_LAG: Final = 0.1
_INTERRUPT_LAG: Final = 0.004
_US: Final = 1e-6


class Waiting:
    """A transfer in the queue, and its importer's promise: told at once, as the next may be answered this very turn."""

    __slots__ = ("answer", "due", "transfer", "working")

    def __init__(self, transfer: Transfer, answer: Promise) -> None:
        self.transfer = transfer
        self.answer = answer
        self.working = False  # its handler's future is under way
        self.due: float | None = None  # when a paced pipe asks its handler, known once it is the head


class Pipe:
    """An endpoint in the current settings. `handler` is asked for the head of the queue alone."""

    def __init__(self, endpoint: Endpoint, handler: Handler, speed: Speed, clock: Clock) -> None:
        self.endpoint = endpoint
        self.handler = handler
        self.halted = False
        self.toggle_resets = 0  # how often the host's and the device's data toggles were set to DATA0 together
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._queue: OrderedDict[Transfer, Waiting] = OrderedDict()  # by identity: a cancel finds its transfer at once
        self._kicking = self._kicked_again = False
        self._dead: Status | None = None
        self._isochronous = endpoint.type is TransferType.ISOCHRONOUS
        self._paced = endpoint.is_periodic
        self._interval = endpoint.interval_us(speed) * _US if self._paced else 0.0
        self._lag = ISO_LAG if self._isochronous else _INTERRUPT_LAG
        self._packet = max(1, endpoint.service_bytes)
        self._free_at = 0.0  # when the bus has served what was completed so far
        self._timer: Timer | None = None
        self.open = not self._paced

    def __len__(self) -> int:
        return len(self._queue)

    def submit(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        """Queue or answer one transfer, by the rules of `device.Device.submit`."""
        if self.open and transfer.packets is None:
            try:
                answer = self.handler(transfer)
            except Exception:
                return self._failed(transfer)
            if isinstance(answer, Completion):
                return _checked(transfer, answer) if transfer.flags else answer
            return self._enqueue(transfer, answer)
        if not self._queue and (refusal := self._refusal(transfer)) is not None:
            return Completion(refusal)
        future = self._enqueue(transfer, None)
        self.kick()
        return future

    def cancel(self, transfer: Transfer) -> None:
        """End a waiting transfer. One that its handler works on ends by itself, with its real result."""
        waiting = self._queue.get(transfer)
        if waiting is not None and not waiting.working:
            self._finish(waiting, Completion(Status.CANCELLED))
            self.kick()

    def kick(self) -> None:
        """Ask the handler again: there is data, room, or a reason to answer.

        A handler may kick its own pipe, by way of another's (a loopback): that asks once more when it has returned.
        """
        if self._kicking:
            self._kicked_again = True
            return
        self._kicking = True
        try:
            self._serve()
            while self._kicked_again:
                self._kicked_again = False
                self._serve()
        finally:
            self._kicking = self._kicked_again = False

    def _serve(self) -> None:
        while self._queue:
            head = next(iter(self._queue.values()))
            if head.working:
                return
            if (refusal := self._refusal(head.transfer)) is not None:
                self._finish(head, Completion(refusal))
                continue
            if self._paced and not self._is_due(head):
                return
            try:
                answer = self.handler(head.transfer)
            except Exception:
                answer = self._failed(head.transfer)
            if isinstance(answer, Completion):
                self._finish(head, _checked(head.transfer, answer))
            elif answer is not None:
                self._work(head, answer)
            elif not head.answer.done():
                return
        self._settle()

    def halt(self) -> None:
        """Stall everything that waits and comes, until `clear`."""
        self.halted = True
        self.open = False
        self.kick()

    def clear(self) -> None:
        """End the halt; the data toggle starts again at DATA0, whether it was halted or not (USB 2.0 §9.4.5)."""
        self.halted = False
        self.toggle_resets += 1
        self._settle()
        self.kick()

    def flush(self, status: Status, *, dead: bool = False) -> None:
        """End everything that waits with `status`; a dead pipe answers so from now on."""
        if dead:
            self._dead = status
        for waiting in tuple(self._queue.values()):
            self._finish(waiting, Completion(status))
        self._settle()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _refusal(self, transfer: Transfer) -> Status | None:
        """What no handler is asked for."""
        if self._dead is not None:
            return self._dead
        if self.halted:
            return Status.STALL
        if (transfer.packets is not None) is not self._isochronous:
            return Status.INVALID
        return None

    def _enqueue(self, transfer: Transfer, work: asyncio.Future[Completion] | None) -> asyncio.Future[Completion]:
        """Its payload was lent: from here on the queue owns a copy."""
        if transfer in self._queue:
            raise ValueError(f"submitted twice: {transfer}")
        if transfer.data.__class__ is not bytes:
            transfer.data = bytes(transfer.data)
        waiting = self._queue[transfer] = Waiting(transfer, Promise(loop=self._loop))
        self.open = False
        if work is not None:
            self._work(waiting, work)
        if self._dead is not None:  # by the handler itself, as is a halt
            self.flush(self._dead)
        elif self.halted:
            self.kick()
        return waiting.answer

    def _work(self, waiting: Waiting, work: asyncio.Future[Completion]) -> None:
        if not isinstance(work, asyncio.Future):
            log.error("the handler of endpoint %02x answered %r", self.endpoint.address, work)
            self._finish(waiting, Completion(Status.FAILED))
            return
        waiting.working = True
        work.add_done_callback(lambda done: self._worked(waiting, done))

    def _worked(self, waiting: Waiting, work: asyncio.Future[Completion]) -> None:
        try:
            completion = _checked(waiting.transfer, work.result())
        except asyncio.CancelledError:
            completion = Completion(Status.FAILED)  # the handler gave up on it
        except Exception:
            completion = self._failed(waiting.transfer)
        self._finish(waiting, completion)
        self.kick()

    def _failed(self, transfer: Transfer) -> Completion:
        log.exception("the handler of endpoint %02x failed over %s", self.endpoint.address, transfer)
        return Completion(Status.FAILED)

    def _finish(self, waiting: Waiting, completion: Completion) -> None:
        """Answer a transfer, unless it was flushed while its handler worked on it."""
        if self._queue.pop(waiting.transfer, None) is None:
            return
        if self._timer is not None:  # it was the head's
            self._timer.cancel()
            self._timer = None
        waiting.answer.fulfil(completion)
        if self._paced and completion.status == Status.OK:
            self._served(waiting, completion)

    def _settle(self) -> None:
        self.open = not (self._queue or self.halted or self._paced or self._dead is not None)

    # -- pace ---------------------------------------------------------------------------------------------------------

    def _is_due(self, head: Waiting) -> bool:
        """Whether the bus has come round to this transfer; if not, a timer is set.

        An isochronous transfer is due when its last packet is, an interrupt transfer as soon as the bus is free. A pipe
        that ran dry starts again now.
        """
        now = self._clock.now()
        if head.due is None:
            head.due = self._free_at if self._free_at > now - self._lag else now
            head.due += len(head.transfer.packets or ()) * self._interval
        if head.due <= now:
            return True
        if self._timer is None:
            self._timer = self._clock.call_at(head.due, self._timed)
        return False

    def _timed(self) -> None:
        self._timer = None
        self.kick()

    def _served(self, waiting: Waiting, completion: Completion) -> None:
        now, due = self._clock.now(), waiting.due
        self._free_at = due if due is not None and due > now - self._lag else now
        if not self._isochronous:
            self._free_at += max(1, -(-completion.actual // self._packet)) * self._interval


def _checked(transfer: Transfer, completion: Any) -> Completion:
    """SHORT_NOT_OK is honoured here, for every handler."""
    if not isinstance(completion, Completion):
        raise TypeError(f"a handler answered {completion!r}")
    short = transfer.flags & Flags.SHORT_NOT_OK and transfer.endpoint & 0x80 and completion.actual < transfer.length
    if short and completion.status == Status.OK and transfer.packets is None:
        return Completion(Status.SHORT, completion.data)
    return completion
