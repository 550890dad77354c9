"""How long a round trip takes, and so when a call that may be lost is sent again: by time (RFC 6298), or sooner.

    silent --[a word of it]--> at the target, or its reply is on its way --> answered
       |-----[a word of what was sent after it]--> sent again soon
       '-----[timeout]--> sent again, and all wait longer until the next measurement

A target on such a network says a word at once of each call that came: its reply, a part of that, or IN_PROGRESS. So
what is measured is the network, however long devices take; and of a call of which there was a word only the reply can
be lost, which is told by the reply to a later one of its queue.
"""

from __future__ import annotations

from typing import Final

from .messages import MASK, TRANSPORT, Call
from .outbox import FIRST_RESEND, LAST_RESEND, Sent

LEAST_RESEND: Final = 0.02  # seconds: what two busy processes, at 5 ms of work a turn, may make of any round trip
REORDERED: Final = 4  # what is late by a fourth of a round trip was lost, not overtaken; RFC 8985 has that too
LEAST_REORDERED: Final = 0.001  # seconds: event loops have no finer timers
_AT_ONCE: Final = frozenset({Call.VERSION, Call.LIST, Call.RESUME, Call.HEARTBEAT})  # of the transport's: answered so


class Trips:
    """Those of one transport."""

    def __init__(self) -> None:
        self.timeout = FIRST_RESEND  # until there is a measurement
        self.mean = self._spread = 0.0  # SRTT, 0 until there is a measurement, and RTTVAR
        self._measured = 0.0  # when; of what is under way at once one measurement is enough
        self._silent: dict[int, Sent] = {}  # calls of the session, sent once, of which there was no word; oldest first

    def sent(self, call: Sent, now: float) -> None:
        """A call leaves, for the first time on this transport."""
        call.since, call.wait = now, self.timeout
        if call.in_progress:  # on an earlier one
            call.in_progress = call.is_resting = False
        if not call.identifier & TRANSPORT:
            self._silent[call.identifier] = call
        elif call.number not in _AT_ONCE:
            call.wait = FIRST_RESEND
        call.due = now + call.wait

    def resumed(self, call: Sent, now: float) -> None:
        """One that the target had on an earlier transport: its reply comes unasked."""
        call.since, call.in_progress, call.is_resting, call.wait = now, True, True, FIRST_RESEND
        call.due = now + call.wait

    def heard(self, call: Sent, now: float) -> None:
        """A word of a call: it was received, and what was sent before it and is silent was perhaps not."""
        if call.identifier & TRANSPORT:
            if call.number in _AT_ONCE and not call.is_again:
                self._measure(now - call.since)
            return
        silent = self._silent
        if silent.pop(call.identifier, None) is None:
            return  # there was one before, or it was sent twice, and nobody knows which of both this is about (Karn)
        if call.since >= self._measured:
            self._measured = now
            self._measure(now - call.since)
        while silent:
            first = next(iter(silent))
            if call.identifier - first & MASK > MASK // 2:
                break
            self._hurry(silent.pop(first), now)

    def is_at_target(self, call: Sent, now: float) -> None:
        """IN_PROGRESS: it has all the time it needs, and is asked for now and then."""
        self.heard(call, now)
        if not call.in_progress:
            call.in_progress, call.wait = True, FIRST_RESEND
            call.due = now + call.wait

    def has_part(self, call: Sent, now: float) -> None:
        """A part of its reply came, and the others should be on their way."""
        self.heard(call, now)
        call.wait = self.timeout
        call.due = now + call.wait

    def is_overtaken(self, call: Sent, now: float) -> None:
        """A later call of its queue has its reply, so this one's was sent as well."""
        if not call.is_overtaken:
            call.is_overtaken, call.wait = True, self.timeout
            self._silent.pop(call.identifier, None)
            self._hurry(call, now)

    def rests(self, call: Sent, now: float) -> bool:
        """Whether a call that is due is known to be at the target: then it is left alone for a while, once."""
        if not call.in_progress or call.is_resting or call.is_overtaken:
            return False
        call.is_resting = True
        self._later(call, now)
        return True

    def again(self, call: Sent, now: float) -> bool:
        """A call that is due is sent again; whether it, or its reply, counts as lost."""
        is_lost = not call.in_progress or call.is_overtaken
        if now >= call.since + call.wait:
            self._later(call, now)
            self._silent.pop(call.identifier, None)
            if is_lost and not call.identifier & TRANSPORT:
                self.timeout = max(self.timeout, call.wait)  # RFC 6298 §5.5 and 5.7: each time, not only the first
        call.since, call.is_again = now, True
        call.due = now + call.wait
        return is_lost

    def _later(self, call: Sent, now: float) -> None:
        call.wait = min(2 * call.wait, LAST_RESEND)
        call.due = now + call.wait

    def _hurry(self, call: Sent, now: float) -> None:
        call.due = min(call.due, now + max(self.mean / REORDERED, LEAST_REORDERED))

    def _measure(self, trip: float) -> None:
        """RFC 6298 §2."""
        if self.mean:
            self._spread += (abs(self.mean - trip) - self._spread) / 4
            self.mean += (trip - self.mean) / 8
        else:
            self.mean, self._spread = trip, trip / 2
        self.timeout = min(max(self.mean + 4 * self._spread, LEAST_RESEND), LAST_RESEND)
