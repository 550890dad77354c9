"""SHORT_NOT_OK (§6.6): a transfer that came back short stops its queue, before the one behind it has begun.

So nothing behind such a transfer goes to the device until it has ended. If it ended short, its queue is stopped: what
is in it, and what comes, is cancelled, until a submit says RESTART. That one was sent by a controller that knew.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ...usb.setup import SET_CONFIGURATION, SET_INTERFACE, Setup, is_clear_halt
from ...usb.transfer import Flags, Transfer
from ...usb.types import Status

Key = tuple[int, int]  # endpoint, stream
_SHORT_NOT_OK: Final = int(Flags.SHORT_NOT_OK)


class Gates:
    """The queues of one claim that have such a transfer at the device, and those that one has stopped."""

    def __init__(self) -> None:
        self.ready: deque[tuple[int, Transfer]] = deque()  # may go to the device now
        self.held: dict[Key, deque[tuple[int, Transfer]]] = {}  # behind the transfer that `_first` names
        self.stopped: set[Key] = set()
        self._first: dict[Key, int] = {}

    def passes(self, tag: int, transfer: Transfer) -> bool:
        """Whether a transfer may go to the device. If not, it is held, or its queue is stopped."""
        guards = transfer.flags & _SHORT_NOT_OK and transfer.endpoint & 0x80
        if not (guards or self.held or self.stopped):
            return True  # as it goes nearly always
        key = (transfer.endpoint, transfer.stream_id)
        if key in self.stopped:
            return False
        if key in self.held:
            self.held[key].append((tag, transfer))
            return False
        if guards:
            self.held[key] = deque()
            self._first[key] = tag
        return True

    def is_stopped(self, transfer: Transfer) -> bool:
        return (transfer.endpoint, transfer.stream_id) in self.stopped

    def ended(self, tag: int, transfer: Transfer, status: int) -> list[int]:
        """A transfer ended; the tags of those that it takes with it."""
        if not self._first:
            return []
        key = (transfer.endpoint, transfer.stream_id)
        if self._first.get(key) != tag:
            return []
        del self._first[key]
        held = self.held.pop(key)
        if status == Status.SHORT:
            self.stopped.add(key)
            return [one for one, _ in held]
        while held:
            self.ready.append(held[0])
            if not self.passes(*held.popleft()):
                raise AssertionError("a queue that is open")
            if key in self.held:
                self.held[key] = held
                break
        return []

    def withdraw(self, tag: int, transfer: Transfer) -> bool:
        """Take back one that has not gone to the device; whether that is so."""
        held = self.held.get((transfer.endpoint, transfer.stream_id))
        for queue in (self.ready, held):
            if queue is not None and (tag, transfer) in queue:
                queue.remove((tag, transfer))
                return True
        return False

    def clear(self) -> None:
        """The device is gone: nothing that was held goes to it."""
        self.ready.clear()
        self.held.clear()
        self._first.clear()

    def restart(self, transfer: Transfer) -> None:
        """The controller knows that this queue was stopped."""
        self.stopped.discard((transfer.endpoint, transfer.stream_id))

    def restart_all(self) -> None:
        self.stopped.clear()

    def heard(self, setup: Setup) -> None:
        """A control request passes: some end a stop, for they begin the queue anew."""
        if is_clear_halt(setup):
            self.stopped = {key for key in self.stopped if key[0] != setup.index & 0x8F}
        elif (setup.request_type, setup.request) in (SET_CONFIGURATION, SET_INTERFACE):
            self.stopped.clear()
