"""What leaves a controller, in which order, and how much at a time; what is lost leaves again.

    outbox -> [room in the transport] -> [little under way] -> record ~~~ target

Bulk waits for the room that `lanes` finds, and `pace` says how much may be under way: else what is urgent would wait
behind it, here, in the systems of both ends, or in the network between.
"""

from __future__ import annotations

from math import inf
from typing import Final

from ..limits import Limits
from .asking import Asking
from .framing import records
from .messages import TRANSPORT, Call
from .outbox import Sent
from .pace import HELD_SECONDS, LONG, Pace, Stream
from .states import Controller
from .trips import Trips

_BULK: Final = int(Call.BULK)
_PART: Final = Call.PART << 24
_PINGS: Final = frozenset({Call.VERSION, Call.HEARTBEAT})  # answered at once


class Sending(Asking):
    """A controller without the answers to its transfers."""

    def __init__(self, limits: Limits, *, resends: bool) -> None:
        super().__init__(limits, resends=resends)
        self.releasing = False  # RELEASE has no answer yet
        self._now = self._beat = 0.0
        self._holds_back = False  # bulk, for the transport has enough
        self._holds_long = False  # what is long, for so much is under way
        self._begin()

    def _begin(self) -> None:
        """On a new transport nothing is known of it."""
        self._stream = Stream()
        self._pace, self._trips = Pace(), Trips()  # in place of that, where packets get lost
        self._leaving: list[Sent] = []  # of what is in `outgoing` there: they are waited for from when they leave

    # -- to the target ------------------------------------------------------------------------------------------------

    def _put(self, call: Sent) -> None:
        self._outbox.put(call)
        self._proceed()

    def _proceed(self) -> None:
        if self.state is Controller.USING:
            self._send()

    def _send(self) -> None:
        self._holds_back = self._holds_long = False
        for call in self._outbox.leaving(self._may_leave):
            self._transmit(call)
        if not self._holds_long:
            self._stream.goes_on()
        if self._outbox.wants_acknowledgement:
            self._acknowledge()

    @property
    def _has_room(self) -> bool:
        """Whether the transport wants more bulk; what comes later and is urgent would wait behind it."""
        return self.outgoing_bytes < self._room

    def _may_leave(self, call: Sent) -> bool:
        if self._resends and not self._pace.has_room(call):
            return False
        if call.number == _BULK and not self._has_room:
            self._holds_back = True
            return False
        if call.cost > LONG and not self._resends and (self._holds_long or not self._stream.has_room(call)):
            self._stream.holds(self._now)
            self._holds_long = True
            return False
        return True

    def _transmit(self, call: Sent) -> None:
        if self._resends:
            self._leaving.append(call)
            if not call.identifier & TRANSPORT:
                self._pace.sent(call)
        elif call.identifier & TRANSPORT:
            call.since = self._now
        elif call.cost > LONG:
            self._stream.sent(call)
        self._say_call(call)

    def _say_call(self, call: Sent) -> None:
        packet = 0 if call.identifier & TRANSPORT else self._way.packet_bytes  # calls of the transport are never cut
        self._say_records(records(call.identifier, call.word, call.head, call.payload, _PART, packet))

    def leaves(self, now: float) -> None:
        """What is in `outgoing` is sent now; to be told where packets get lost, for from then on answers are missed."""
        for call in self._leaving:
            self._trips.sent(call, now)
        self._leaving.clear()

    def _acknowledge(self) -> None:
        self._beat = self._now
        if all(call.number != Call.HEARTBEAT for call in (*self._asked.values(), *self._later)):
            self._ask(Call.HEARTBEAT, self._outbox.acknowledge(self._longest // 8))

    # -- what is known of it ------------------------------------------------------------------------------------------

    def _is_at_target(self, call: Sent) -> None:
        """IN_PROGRESS."""
        if self._resends:
            self._trips.is_at_target(call, self._now)
            self._pace.in_progress(call)
            self._proceed()
        elif call.under_way:
            self._arrived(call)

    def _was_answered(self, call: Sent, size: int | None) -> None:
        """By its final reply, which has a body of as many bytes; None is for one that only says what went wrong."""
        if self._resends:
            self._trips.heard(call, self._now)
            if not call.identifier & TRANSPORT:
                self._pace.answered(call, size)
                self._proceed()
        elif call.number in _PINGS:
            self._stream.answered_after(self._now - call.since)
        elif call.under_way:
            self._arrived(call)

    def _arrived(self, call: Sent) -> None:
        """On a stream, nothing of it is on its way any more."""
        self._stream.rests(call)
        if self._stream.is_holding:
            self._stream.moves(self._now)
            self._proceed()

    def _resumed_at(self, expected: int) -> None:
        """The target has all calls before that one, and never had the others."""
        again = self._outbox.resumed(expected)
        if self._resends:
            for call in self._outbox.sent.values():
                self._trips.resumed(call, self._now)
        for call in again:
            self._transmit(call)

    # -- time ---------------------------------------------------------------------------------------------------------

    def _due(self) -> float:
        """When `_look_again` wants to be called."""
        if self._resends:
            return min([call.due for call in self._unanswered()], default=inf)
        return self._stream.held_since + HELD_SECONDS

    def _look_again(self) -> None:
        """At what has no answer for long."""
        now = self._now
        if self._resends:
            for call in self._unanswered():
                if now >= call.due:
                    self._send_again(call)
            self._proceed()
        elif now >= self._stream.held_since + HELD_SECONDS and self._stream.is_over(now):
            for call in self._outbox.sent.values():
                self._stream.rests(call)
            self._stream.goes_on()
            self._proceed()

    def _unanswered(self) -> list[Sent]:
        is_sending = self.state is Controller.USING or self.releasing
        return [*self._asked.values(), *(self._outbox.sent.values() if is_sending else ())]

    def _send_again(self, call: Sent) -> None:
        if self._trips.rests(call, self._now):
            self._pace.rests(call)
            return
        if self._trips.again(call, self._now) and not call.identifier & TRANSPORT:
            self._pace.lost(call, self._now, self._trips.mean)
        self._say_call(call)
