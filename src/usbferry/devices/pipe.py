"""One endpoint of a virtual device: transfers in order, the halt, NAKs, the pace of its service interval.

    submit -> [held or halted or others wait?] -> handler -> Completion at once
                          |                          |-> None: NAK, waits for `kick`
                          `-> queue <----------------'-> future: works on it, later ones wait

`open` is the one flag of the hot path: nothing waits, is halted, held or paced, so the handler is asked directly.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from ..usb.transfer import Completion, Flags, Transfer
from ..usb.tree import Endpoint
from ..usb.types import Speed, Status, TransferType
from .clock import Clock, Timer

Answer = Completion | asyncio.Future[Completion] | None
Handler = Callable[[Transfer], Answer]

# Seconds that a paced pipe may be behind before it gives up catching up. Isochronous importers resubmit by the clock of
# their own bus, a network away; an interrupt endpoint only makes up for the grain of the event loop's timers.
_ISO_LAG: Final = 0.1
_INTERRUPT_LAG: Final = 0.004
_US: Final = 1e-6


class _Waiting:
    """A transfer in the queue and the future that its importer holds."""

    __slots__ = ("answer", "transfer", "working")

    def __init__(self, transfer: Transfer, answer: asyncio.Future[Completion]) -> None:
        self.transfer = transfer
        self.answer = answer
        self.working = False  # its handler's future is under way


class Pipe:
    """An endpoint in the current settings. `handler` is asked for the head of the queue alone."""

    def __init__(self, endpoint: Endpoint, handler: Handler, speed: Speed, clock: Clock) -> None:
        self.endpoint = endpoint
        self.handler = handler
        self.halted = False
        self.toggle_resets = 0  # how often the host's and the device's data toggles were set to DATA0 together
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Waiting] = deque()
        self._holds = 0
        self._kicking = self._kicked_again = False
        self._dead: Status | None = None
        self._paced = endpoint.type in (TransferType.INTERRUPT, TransferType.ISOCHRONOUS)
        self._interval = endpoint.interval_us(speed) * _US if self._paced else 0.0
        self._lag = _ISO_LAG if endpoint.type is TransferType.ISOCHRONOUS else _INTERRUPT_LAG
        self._packet = max(1, endpoint.service_bytes)
        self._free_at = 0.0  # when the bus has served what was completed so far
        self._timer: Timer | None = None
        self.open = not self._paced

    def __len__(self) -> int:
        return len(self._queue)

    def submit(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        """Queue or answer one transfer, by the rules of `device.Device.submit`."""
        if self.open:
            answer = self.handler(transfer)
            if isinstance(answer, Completion):
                return _checked(transfer, answer) if transfer.flags else answer
            return self._enqueue(transfer, answer)
        if not self._queue:
            if self._dead is not None:
                return Completion(self._dead)
            if self.halted and not self._holds:
                return Completion(Status.STALL)
        future = self._enqueue(transfer, None)
        self.kick()
        return future

    def cancel(self, transfer: Transfer) -> None:
        """End a waiting transfer. One that its handler works on ends by itself, with its real result."""
        for waiting in self._queue:
            if waiting.transfer is transfer:
                if not waiting.working:
                    self._queue.remove(waiting)
                    waiting.answer.set_result(Completion(Status.CANCELLED))
                    self._settle()
                    self.kick()
                return

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
        while self._queue and not self._holds:
            head = self._queue[0]
            if head.working:
                return
            if self.halted:
                self._finish(head, Completion(Status.STALL))
                continue
            if self._paced and not self._due(head.transfer):
                return
            answer = self.handler(head.transfer)
            if answer is None:
                return
            if isinstance(answer, Completion):
                self._finish(head, _checked(head.transfer, answer))
            else:
                self._work(head, answer)
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

    def hold(self) -> None:
        """A barrier begins: later transfers wait."""
        self._holds += 1
        self.open = False

    def unhold(self) -> None:
        """A barrier ended."""
        self._holds -= 1
        self._settle()
        self.kick()

    def flush(self, status: Status, *, dead: bool = False) -> None:
        """End everything that waits with `status`; a dead pipe answers so from now on."""
        if dead:
            self._dead = status
            self.open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            self._finish(self._queue[0], Completion(status))
        self._settle()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _enqueue(self, transfer: Transfer, work: asyncio.Future[Completion] | None) -> asyncio.Future[Completion]:
        """Its payload was lent: from here on the queue owns a copy."""
        if transfer.data.__class__ is memoryview:
            transfer.data = bytes(transfer.data)
        waiting = _Waiting(transfer, self._loop.create_future())
        self._queue.append(waiting)
        self.open = False
        if work is not None:
            self._work(waiting, work)
        return waiting.answer

    def _work(self, waiting: _Waiting, work: asyncio.Future[Completion]) -> None:
        waiting.working = True
        work.add_done_callback(lambda done: self._worked(waiting, done))

    def _worked(self, waiting: _Waiting, work: asyncio.Future[Completion]) -> None:
        if waiting.answer.done():
            return  # flushed meanwhile
        if work.cancelled():
            waiting.answer.cancel()
        elif (error := work.exception()) is not None:
            waiting.answer.set_exception(error)
        else:
            waiting.answer.set_result(_checked(waiting.transfer, work.result()))
        self._queue.remove(waiting)
        self.kick()

    def _finish(self, waiting: _Waiting, completion: Completion) -> None:
        self._queue.popleft()
        if not waiting.answer.done():
            waiting.answer.set_result(completion)
        if self._paced and completion.status == Status.OK:
            self._served(waiting.transfer, completion)

    def _settle(self) -> None:
        self.open = not (self._queue or self.halted or self._holds or self._paced or self._dead is not None)

    # -- pace ---------------------------------------------------------------------------------------------------------

    def _due(self, transfer: Transfer) -> bool:
        """Whether the bus has come round to this transfer; if not, a timer is set."""
        if self.endpoint.type is TransferType.ISOCHRONOUS:
            due = max(self._free_at, self._start_of(transfer)) + len(transfer.packets or ()) * self._interval
        else:
            due = self._free_at
        if due <= self._clock.now():
            return True
        if self._timer is None:
            self._timer = self._clock.call_at(due, self._timed)
        return False

    def _start_of(self, transfer: Transfer) -> float:
        """An isochronous pipe that ran dry starts again in the next interval."""
        now = self._clock.now()
        if self._free_at < now - self._lag or not self._free_at:
            self._free_at = now
        return self._free_at

    def _timed(self) -> None:
        self._timer = None
        self.kick()

    def _served(self, transfer: Transfer, completion: Completion) -> None:
        now = self._clock.now()
        if transfer.packets is not None:
            intervals = len(transfer.packets)
        else:
            intervals = max(1, -(-completion.actual // self._packet))
        base = self._free_at if self._free_at > now - self._lag else now
        self._free_at = base + intervals * self._interval


def _checked(transfer: Transfer, completion: Completion) -> Completion:
    """SHORT_NOT_OK is honoured here, for every handler."""
    short = transfer.flags & Flags.SHORT_NOT_OK and transfer.endpoint & 0x80 and completion.actual < transfer.length
    if short and completion.status == Status.OK and transfer.packets is None:
        return Completion(Status.SHORT, completion.data)
    return completion
