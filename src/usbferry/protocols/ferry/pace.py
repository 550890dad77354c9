"""How much a controller has under way on a network that loses packets: more with each answer, half after a loss.

Replies come only to calls, so this bounds both ways. What waits at the target is not under way: it says IN_PROGRESS.
But what is read there may be answered any time, and its reply is long: it counts until it has waited for a while.
Isochronous and interrupt transfers are not bounded: the device's own pace does that, and they come late or not at all.
"""

from __future__ import annotations

from typing import Final

from .messages import Call
from .outbox import FIRST_RESEND, Sent

FIRST_WINDOW: Final = 32 * 1024  # bytes; doubled with each window of answers, until the first loss
LEAST_WINDOW: Final = 4 * 1024
LARGEST_WINDOW: Final = 256 * 1024
BACK_OFF_SECONDS: Final = FIRST_RESEND  # losses in less than this are one
_OVERHEAD: Final = 64  # bytes of a call and its reply, besides their data
_PERIODIC: Final = frozenset({Call.ISOCHRONOUS, Call.INTERRUPT})


class Pace:
    """One transport."""

    def __init__(self) -> None:
        self.window = FIRST_WINDOW
        self._steep = LARGEST_WINDOW  # up to here the window doubles, from here on it grows by a packet
        self._under_way = 0
        self._backed_off = 0.0

    def has_room(self, call: Sent) -> bool:
        """Whether a call may be sent; one may always."""
        if not self._under_way or call.number in _PERIODIC:
            return True
        return self._under_way + call.cost + _OVERHEAD <= self.window

    def sent(self, call: Sent) -> None:
        if not call.under_way and call.number not in _PERIODIC:
            call.under_way = True
            self._under_way += call.cost + _OVERHEAD

    def in_progress(self, call: Sent) -> None:
        """It is at the target."""
        if not call.is_in:
            self.rests(call)

    def lost(self, call: Sent, now: float) -> None:
        """A call was lost on its way, or its reply."""
        call.is_lost = True
        if now >= self._backed_off + BACK_OFF_SECONDS:
            self._backed_off = now
            self.window = self._steep = max(self.window // 2, LEAST_WINDOW)

    def answered(self, call: Sent) -> None:
        """A call has its reply."""
        self.rests(call)
        if self.window < LARGEST_WINDOW and not call.is_lost:
            size = call.cost + _OVERHEAD
            grown = size if self.window < self._steep else size * 1024 // self.window
            self.window = min(self.window + grown, LARGEST_WINDOW)

    def rests(self, call: Sent) -> None:
        """Nothing of it is on its way."""
        if call.under_way:
            call.under_way = False
            self._under_way -= call.cost + _OVERHEAD
