"""How much a controller has under way: `Pace` on a network that loses packets, `Stream` on one that does not.

Replies come only to calls, so this bounds both ways: what is written goes there, and what is read comes back. What
waits at the target is not under way: it says IN_PROGRESS. Isochronous and interrupt transfers are not bounded: the
device's own pace does that, and they come late or not at all; nor are calls that are no transfers.
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
FORGETS: Final = 8  # with each answer that is shorter, an eighth of what reads were taken for
BACK_OFF_SECONDS: Final = FIRST_RESEND  # losses in less than this are one, and so are those of a round trip
_OVERHEAD: Final = 64  # bytes of a call and its reply, besides their data
NEAR: Final = (2 << 20) + LARGEST_WINDOW  # bytes of bulk on a stream: a large piece is worked on, one is on its way
RATE: Final = 512 << 20  # bytes a second that it has besides for each second of a round trip
LONG: Final = PART_BYTES  # of the shorter ones there are seldom that many, and counting would cost each of them
HELD_SECONDS: Final = 0.1  # without an answer, after which nothing is under way: the target may say no IN_PROGRESS
_BULK: Final = int(Call.BULK)
_COUNTED: Final = frozenset({_BULK, int(Call.CONTROL)})


class Window:
    """Of one endpoint: bytes that may be under way, and those that are.

    A read is taken for what the largest of the last ones brought: a network adapter asks for 16 KiB and gets a packet.
    Should all be full at once, they are not more than `most`.
    """

    def __init__(self, size: int, most: int = LARGEST_WINDOW) -> None:
        self.size = size
        self._steep = self._most = most  # up to there it doubles, from there on it grows by a packet
        self._under_way = self._asked = 0  # what calls are taken for, and all that they may bring
        self._brings = most  # what a read is taken for, until one was answered
        self._backed_off = 0.0

    def has_room(self, call: Sent) -> bool:
        """Whether a call may be sent; one may always."""
        if not self._under_way:
            return True
        return self._under_way + self._size(call) <= self.size and self._asked + call.cost <= self._most

    def begin(self, call: Sent) -> None:
        """It is under way."""
        call.under_way = self._size(call)
        self._under_way += call.under_way
        self._asked += call.cost

    def end(self, call: Sent) -> None:
        """No more of it is."""
        self._under_way -= call.under_way
        self._asked -= call.cost
        call.under_way = 0

    def _size(self, call: Sent) -> int:
        return (min(call.cost, self._brings) if call.is_in else call.cost) + _OVERHEAD

    def brought(self, call: Sent, size: int) -> None:
        """An answer, and the bytes in it. One that is full says nothing of longer ones: a disk's status is short."""
        if call.is_in:
            brings = self._brings
            if size < call.cost:
                brings = min(brings, call.cost) if brings == self._most else brings  # of the first
                brings -= brings // FORGETS
            self._brings = max(size, brings)

    def grow(self, call: Sent, size: int) -> None:
        """By an answer."""
        if self.size < self._most:
            size = (size if call.is_in else call.cost) + _OVERHEAD
            grown = size if self.size < self._steep else size * 1024 // self.size
            self.size = min(self.size + grown, self._most)

    def halve(self, now: float, trip: float) -> None:
        """After a loss. Until a round trip is over, nothing shows what less has done."""
        if now >= self._backed_off + max(BACK_OFF_SECONDS, trip):
            self._backed_off = now
            self.size = self._steep = max(self.size // 2, LEAST_WINDOW)


class Pace:
    """One transport that loses packets, each endpoint for itself: a read that waits for data holds up nothing else.

    What is read at the target may be answered any time, and its reply is long: it counts until it has waited for a
    while.
    """

    def __init__(self) -> None:
        self._windows: dict[int, Window] = {}  # by endpoint

    def of(self, call: Sent) -> Window:
        """That of its endpoint, so of one direction."""
        window = self._windows.get(call.endpoint)
        if window is None:
            window = self._windows[call.endpoint] = Window(FIRST_WINDOW)
        return window

    def has_room(self, call: Sent) -> bool:
        """Whether a call may be sent."""
        return not self._counts(call) or self.of(call).has_room(call)

    def sent(self, call: Sent) -> None:
        if not call.under_way and self._counts(call):
            self.of(call).begin(call)

    def _counts(self, call: Sent) -> bool:
        return call.number in _COUNTED

    def in_progress(self, call: Sent) -> None:
        """It is at the target."""
        if not call.is_in:
            self.rests(call)

    def lost(self, call: Sent, now: float, trip: float) -> None:
        """A call was lost on its way, or its reply; of what is not counted less would change nothing."""
        call.is_lost = True
        if self._counts(call):
            self.of(call).halve(now, trip)

    def answered(self, call: Sent, size: int | None) -> None:
        """A call has its reply, with as many bytes. None: it failed, and says nothing of what others will bring."""
        self.rests(call)
        if self._counts(call):
            window = self.of(call)
            if size is not None:
                window.brought(call, size)
            if not call.is_lost:
                window.grow(call, size or 0)

    def rests(self, call: Sent) -> None:
        """Nothing of it is on its way."""
        if call.under_way:
            self.of(call).end(call)


class Stream(Pace):
    """A transport that loses nothing: as much bulk as keeps it busy, for what is urgent waits behind all of it.

    That is what the systems at both ends hold of it, many MiB where a process reads more slowly than another writes.
    How much keeps it busy depends on how far the target is, as its fastest answer tells. All endpoints have it
    together, and what has waited for longer goes first: with as much for each direction, an interrupt transfer beside
    bulk both ways waited three times as long, and the bulk was no faster.
    """

    def __init__(self) -> None:
        super().__init__()
        self._window = Window(1 << 62, 1 << 62)  # until there was an answer
        self.held_since = inf  # something waits for what is under way, or this is when that moved last
        self._is_old = False  # nobody knows how much later that was

    def of(self, call: Sent) -> Window:
        return self._window

    def answered_after(self, seconds: float) -> None:
        """A round trip."""
        self._window.size = min(self._window.size, max(NEAR, int(RATE * seconds)))

    @property
    def is_holding(self) -> bool:
        return self.held_since < inf

    def holds(self, now: float) -> None:
        if not self.is_holding:
            self.held_since, self._is_old = now, True

    def goes_on(self) -> None:
        """Nothing waits any more."""
        self.held_since = inf

    def moves(self, now: float) -> None:
        """Some of what is under way came now; other answers show nothing of it."""
        if self.is_holding:
            self.held_since, self._is_old = now, False

    def is_over(self, now: float) -> bool:
        """Whether what waits goes on though nothing has moved for so long."""
        if self._is_old:
            self.held_since, self._is_old = now, False
            return False
        return True

    def _counts(self, call: Sent) -> bool:
        return call.number == _BULK and call.cost > LONG

    def in_progress(self, call: Sent) -> None:
        """It is at the target, and its device is slower than the transport."""
        self.rests(call)
