"""How much a controller has under way on a network that loses packets: more with each answer, half after a loss.

Replies come only to calls, so this bounds both ways. What waits at the target is not under way: it says IN_PROGRESS.
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
        if not call.under_way and not call.in_progress and call.number not in _PERIODIC:
            call.under_way = True
            self._under_way += call.cost + _OVERHEAD

    def in_progress(self, call: Sent) -> None:
        """It is at the target, and takes its time there."""
        self._arrived(call)
        call.in_progress = True

    def answered(self, call: Sent, now: float) -> None:
        """One that had to be sent again, though the target was not at work on it, was lost on its way, or its reply."""
        self._arrived(call)
        if call.wait > FIRST_RESEND and not call.in_progress:
            if now >= self._backed_off + BACK_OFF_SECONDS:
                self._backed_off = now
                self.window = self._steep = max(self.window // 2, LEAST_WINDOW)
        elif self.window < LARGEST_WINDOW:
            size = call.cost + _OVERHEAD
            grown = size if self.window < self._steep else size * 1024 // self.window
            self.window = min(self.window + grown, LARGEST_WINDOW)

    def _arrived(self, call: Sent) -> None:
        if call.under_way:
            call.under_way = False
            self._under_way -= call.cost + _OVERHEAD
