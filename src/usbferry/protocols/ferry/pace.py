"""How much a controller has under way: `Pace` on a network that loses packets, `Stream` on one that does not.

Replies come only to calls, so this bounds both ways. What waits at the target is not under way: it says IN_PROGRESS.
Isochronous and interrupt transfers are not bounded: the device's own pace does that, and they come late or not at all.
"""

from __future__ import annotations

from math import inf
from typing import Final

from .framing import PART_BYTES
from .messages import Call
from .outbox import FIRST_RESEND, Sent

FIRST_WINDOW: Final = 32 * 1024  # bytes; doubled with each window of answers, until the first loss
LEAST_WINDOW: Final = 4 * 1024
LARGEST_WINDOW: Final = 256 * 1024
BACK_OFF_SECONDS: Final = FIRST_RESEND  # losses in less than this are one, and so are those of a round trip
_OVERHEAD: Final = 64  # bytes of a call and its reply, besides their data
NEAR: Final = (2 << 20) + LARGEST_WINDOW  # bytes of bulk on a stream: a large piece is worked on, one is on its way
RATE: Final = 512 << 20  # bytes a second that it has besides for each second of a round trip
LONG: Final = PART_BYTES  # of the shorter ones there are seldom that many, and counting would cost each of them
HELD_SECONDS: Final = 0.1  # without an answer, after which nothing is under way: the target may say no IN_PROGRESS
_BULK: Final = int(Call.BULK)
_PERIODIC: Final = frozenset({Call.ISOCHRONOUS, Call.INTERRUPT})


class Pace:
    """One transport that loses packets: more with each answer, half after a loss.

    What is read at the target may be answered any time, and its reply is long: it counts until it has waited for a
    while.
    """

    def __init__(self) -> None:
        self.window = FIRST_WINDOW
        self._steep = LARGEST_WINDOW  # up to here the window doubles, from here on it grows by a packet
        self._under_way = 0
        self._backed_off = 0.0

    def has_room(self, call: Sent) -> bool:
        """Whether a call may be sent; one may always."""
        return not self._under_way or self._under_way + call.cost + _OVERHEAD <= self.window or not self._counts(call)

    def sent(self, call: Sent) -> None:
        if not call.under_way and self._counts(call):
            call.under_way = True
            self._under_way += call.cost + _OVERHEAD

    def _counts(self, call: Sent) -> bool:
        return call.number not in _PERIODIC

    def in_progress(self, call: Sent) -> None:
        """It is at the target."""
        if not call.is_in:
            self.rests(call)

    def lost(self, call: Sent, now: float, trip: float) -> None:
        """A call was lost on its way, or its reply. Until a round trip is over, nothing shows what less has done."""
        call.is_lost = True
        if now >= self._backed_off + max(BACK_OFF_SECONDS, trip):
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


class Stream(Pace):
    """A transport that loses nothing: as much bulk as keeps it busy, for what is urgent waits behind all of it.

    That is what the systems at both ends hold of it, many MiB where a process reads more slowly than another writes.
    How much keeps it busy depends on how far the target is, as its fastest answer tells.
    """

    def __init__(self) -> None:
        super().__init__()
        self.window = 1 << 62  # until there was an answer
        self.held_since = inf  # something waits for an answer to another, or a little longer
        self._is_doubted = False

    def answered_after(self, seconds: float) -> None:
        """A round trip."""
        self.window = min(self.window, max(NEAR, int(RATE * seconds)))

    @property
    def is_holding(self) -> bool:
        return self.held_since < inf

    def holds(self, now: float) -> None:
        self.held_since = now

    def goes_on(self) -> None:
        """There was an answer, or something new."""
        self.held_since, self._is_doubted = inf, False

    def is_over(self, now: float) -> bool:
        """Whether what has waited for so long goes on without an answer; not the first time, for that may be old."""
        if not self._is_doubted:
            self._is_doubted, self.held_since = True, now
            return False
        return True

    def _counts(self, call: Sent) -> bool:
        return call.number == _BULK and call.cost > LONG

    def in_progress(self, call: Sent) -> None:
        """It is at the target, and its device is slower than the transport."""
        self.rests(call)
