"""A session's calls without reply, seen from the controller: their identifiers, the window, what is acknowledged.

    put -> waiting -> [room in the window] -> sent -> answered -> acknowledged, which makes room

Bulk leaves a part of the window to the others, and waits behind them: a flood of it holds up no interrupt transfer.
What is read leaves a part to what is written: reads may be parked for hours. So each endpoint's bulk has a queue of its
own, and waits behind no other's; of what is left to others it may have one call, where it has none. All transfers leave
some of the window to calls that are none: where all are parked, an UNLINK is what makes room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from math import inf
from typing import Final

from ...usb.transfer import Buffer, Transfer
from ..errors import ProtocolError
from .framing import Assembly
from .messages import FIRST, MASK, Call, words

NO_IDENTIFIER: Final = -1
RESERVE: Final = 16  # bulk leaves a sixteenth of the window to others, and reads of its calls one more, 1 at least
KEPT: Final = 64  # and all transfers a 64th of its calls, and one of 8 at least, to UNLINK and RELEASE
ACKNOWLEDGE: Final = 4  # replies are acknowledged when they take a fourth of it
FIRST_RESEND: Final = 0.1  # seconds, where no round trip was measured; doubled each time
LAST_RESEND: Final = 2.0


class Sent:
    """One call, and what came of its reply. Made for every transfer: what most never have is the class's."""

    identifier = NO_IDENTIFIER
    tag = 0
    transfer: Transfer | None = None  # whose end is waited for
    parts: Assembly | None = None  # of the reply
    since = 0.0  # sent last
    due = inf  # to be sent again, where the transport loses packets: see `trips`
    wait = FIRST_RESEND
    is_again = in_progress = False  # sent more than once; at the target
    is_resting = is_overtaken = False  # there for long; its reply has left before another that came
    is_lost = False  # was, at least once
    under_way = 0  # bytes that it is taken for, while they are on their way, there or back

    def __init__(self, number: int, word: int, head: bytes = b"", payload: Buffer = b"", cost: int = 0) -> None:
        self.number = number
        self.word = word  # after the identifier
        self.head = head  # of the body
        self.payload = payload
        self.cost = cost  # bytes of the window

    @property
    def endpoint(self) -> int:
        """Its address with the direction bit; 0 of a call that has none."""
        return self.word >> 16 & 0xFF

    @property
    def is_in(self) -> bool:
        """Whether what a transfer reads comes with its reply."""
        return bool(self.word & 1 << 23)

    def lose_transport(self) -> None:
        """What is known of its way is of no use on another one."""
        self.parts, self.due = None, inf
        self.is_again = self.in_progress = self.is_resting = self.is_overtaken = self.is_lost = False
        self.under_way = 0


class Outbox:
    """The calls of one session."""

    def __init__(self, calls: int, size: int) -> None:
        self.grant(calls, size)
        self.sent: dict[int, Sent] = {}  # by identifier, oldest first
        self._next = FIRST
        self._unlinks: deque[Sent] = deque()  # they may pass what has not left: what they are for has
        self._urgent: deque[Sent] = deque()
        self._bulk: dict[int, deque[Sent]] = {}  # by endpoint, none of them empty
        self._used = self._used_bytes = 0
        self._is_full = False  # something waits for room in the window
        self._answered: list[tuple[int, int]] = []  # identifier and bytes of replies not acknowledged
        self._answered_bytes = 0
        self._acknowledging: list[tuple[int, int]] = []  # those of the heartbeat that is on its way

    def grant(self, calls: int, size: int) -> None:
        """The window: calls and bytes."""
        self.calls, self.size = calls, size
        kept = min(max(calls // KEPT, 1), calls // 8)
        self._all = (calls, size)
        self._transfers = (calls - kept, size)
        self._bulks = (calls - kept - calls // RESERVE, size - size // RESERVE)
        parkable = min(self._bulks[0] - max(calls // RESERVE, 1), self._transfers[0] - 2 * min(kept, 1))
        self._parkable = (parkable, self._bulks[1])
        self._firsts = (self._bulks[0] - 1, self._bulks[1])

    def put(self, call: Sent) -> None:
        """One call more; `leaving` gives it out when there is room."""
        if call.number == Call.BULK:
            self._bulk.setdefault(call.endpoint, deque()).append(call)
        else:
            (self._unlinks if call.number == Call.UNLINK else self._urgent).append(call)

    def withdraw(self, call: Sent) -> bool:
        """Take back one that has not left; whether that is so."""
        queue = self._bulk.get(call.endpoint) if call.number == Call.BULK else self._urgent
        if call.identifier != NO_IDENTIFIER or queue is None or call not in queue:
            return False
        queue.remove(call)
        if not queue and queue is not self._urgent:
            del self._bulk[call.endpoint]
        return True

    def leaving(self, may: Callable[[Sent], bool]) -> Iterator[Sent]:
        """The calls that may be sent now, with their identifiers, as long as `may` says so too."""
        self._is_full = False
        for queue, bounds in ((self._unlinks, self._all), (self._urgent, self._transfers)):
            while queue:
                call = queue[0]
                if not self._has_room(call.cost, bounds if call.transfer is not None else self._all):
                    self._is_full = True
                    return
                if not may(call):
                    return
                queue.popleft()
                self._leave(call)
                yield call
        if self._bulk:
            yield from self._bulk_leaving(may)

    def _bulk_leaving(self, may: Callable[[Sent], bool]) -> Iterator[Sent]:
        """What was put first, and where its endpoint has no room, the others go on."""
        queues = list(self._bulk.values())
        while queues:
            queue = min(queues, key=_first_tag)
            call = queue[0]
            bounds = self._parkable if call.is_in else self._bulks
            if not self._has_room(call.cost, bounds) and not self._is_first(call):
                self._is_full = True
            elif may(call):
                queue.popleft()
                if not queue:
                    del self._bulk[call.endpoint]
                self._leave(call)
                yield call
                if queue:
                    continue
            queues = [one for one in queues if one is not queue]

    def _is_first(self, call: Sent) -> bool:
        """Whether bulk may have of what is left to others: it is its endpoint's only one."""
        endpoint, bounds = call.endpoint, self._firsts if call.is_in else self._transfers
        return self._has_room(call.cost, bounds) and all(one.endpoint != endpoint for one in self.sent.values())

    def leaves_at_once(self, call: Sent) -> bool:
        """Whether a bulk call may be sent now, without having waited; then it has its identifier."""
        if self._bulk or self._urgent or self._unlinks:
            return False
        if not self._has_room(call.cost, self._parkable) and (call.is_in or not self._has_room(call.cost, self._bulks)):
            return False
        self._leave(call)
        return True

    def _leave(self, call: Sent) -> None:
        call.identifier = identifier = self._next
        self._next = identifier + 1 & MASK
        self.sent[identifier] = call
        self._used += 1
        self._used_bytes += call.cost

    def _has_room(self, cost: int, bounds: tuple[int, int]) -> bool:
        calls, size = bounds
        return not self._used or (self._used < calls and self._used_bytes + cost <= size)

    def answered(self, identifier: int) -> Sent | None:
        """A final reply came; its call, or None when that had one before. Raises ProtocolError for one never sent."""
        call = self.sent.pop(identifier, None)
        if call is None:
            self.check(identifier)
            return None
        self._answered.append((identifier, call.cost))
        self._answered_bytes += call.cost
        return call

    def check(self, identifier: int) -> None:
        """Raises ProtocolError for an identifier that no call had."""
        if not 0 < (self._next - identifier & MASK) <= MASK // 2:
            raise ProtocolError(f"a reply to #{identifier}, the last call was #{self._next - 1 & MASK}")

    @property
    def wants_acknowledgement(self) -> bool:
        """Whether what is answered takes up enough of the window, or something waits for any of it."""
        much = len(self._answered) * ACKNOWLEDGE >= self.calls or self._answered_bytes * ACKNOWLEDGE >= self.size
        return (much or bool(self._is_full and self._answered)) and not self._acknowledging

    def acknowledge(self, most: int) -> bytes:
        """The body of a heartbeat: first and last identifier of each run of replies that are here.

        There are `most` runs, the oldest, and the others come with the next one.
        """
        answered, runs, count = self._answered, list[int](), 0
        answered.sort(key=self._age)
        for identifier, _ in answered:
            if runs and identifier == runs[-1] + 1 & MASK:
                runs[-1] = identifier
            elif len(runs) == 2 * most:
                break
            else:
                runs += (identifier, identifier)
            count += 1
        self._acknowledging, self._answered = answered[:count], answered[count:]
        self._answered_bytes = sum(cost for _, cost in self._answered)
        return words(runs)

    def _age(self, answered: tuple[int, int]) -> int:
        return answered[0] - self._next & MASK

    def acknowledged(self) -> None:
        """The heartbeat was answered: there is room again."""
        self._used -= len(self._acknowledging)
        self._used_bytes -= sum(cost for _, cost in self._acknowledging)
        self._acknowledging = []

    def resuming(self) -> list[int]:
        """The identifiers that are outstanding. By naming them, all others are acknowledged."""
        self._answered, self._answered_bytes, self._acknowledging = [], 0, []
        self._used, self._used_bytes = len(self.sent), sum(call.cost for call in self.sent.values())
        return list(self.sent)

    def resumed(self, expected: int) -> list[Sent]:
        """The target goes on at `expected`: what to send once more. Raises ProtocolError for what cannot be."""
        if self._next == FIRST and not self.sent:
            self._next = expected  # a claim that was taken over
        if self._next - expected & MASK > self.calls:
            raise ProtocolError(f"the session resumes at #{expected}, the next call is #{self._next}")
        return [call for number, call in self.sent.items() if number - expected & MASK <= MASK // 2]


def _first_tag(queue: deque[Sent]) -> int:
    return queue[0].tag
