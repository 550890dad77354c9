"""The controller's side of ferry: transfers out, completions in. No I/O. `states.CONTROLLER` says what may happen when.

    submit -> outbox -> record ~~~ target
    Completed <-------- record <~~~'

What was sent stays in the outbox until its reply is there, so that a new transport can have it again (§8), and so can
one that loses packets (`resends`). Every submit ends exactly once: with its reply, or with the session. Calls that are
no session's are `asking`'s; `sending` says what leaves when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from struct import Struct
from typing import Final

from ...usb.transfer import Completion, Flags, Transfer
from ...usb.types import Status
from ..errors import ProtocolError
from ..events import Claimed, Completed, Event
from ..limits import DEFAULT_LIMITS, Limits
from ..pending import Entry, Pending
from . import infos
from .asking import word_of
from .framing import HEADER, MARKER, OVERHEAD, RECORD_BYTES, Assembly, Way, part_total
from .lanes import ENOUGH
from .messages import (
    SILENT_HEARTBEATS,
    TRANSPORT,
    Call,
    Code,
    WireFlags,
    cost,
    words,
)
from .outbox import NO_IDENTIFIER, Sent
from .pace import LONG
from .sending import Sending
from .states import CONTROLLER, Controller
from .transfers import decode_reply, encode

_REPLY: Final = Struct(">III")  # marker, identifier, status
_LEAST: Final = MARKER + HEADER
_BULK: Final = int(Call.BULK)
_USING: Final = Controller.USING
_LIST_BYTES: Final = 16 << 20  # of a list in parts
_LOSSY_BYTES: Final = 64 << 10  # of a transfer where packets get lost: what is lost of it is sent again with all of it
_EMPTY: Final = memoryview(b"")


class Importer(Sending):
    """A controller, from its first transport to its last."""

    protocol = "ferry"
    is_prompt = False  # what may have to be sent again is kept
    opening = b"\0"  # what all that a target says begins with: no record is longer than 16 MiB

    def __init__(self, limits: Limits = DEFAULT_LIMITS, *, resends: bool = False) -> None:
        super().__init__(limits, resends=resends)
        self.consumed = 0
        self.needed = _LEAST
        self._view: memoryview = _EMPTY
        self._heard = self._lost_at = 0.0
        self._linked = True  # there is a transport
        self._tags = 0
        self._flying: dict[int, Sent] = {}  # transfers that have not ended, by tag
        self._unlinking: set[int] = set()  # tags
        self._order = Pending()  # of completions, where replies may overtake each other
        self._ready: deque[Completed] = deque()
        self._stopped: set[tuple[int, int]] = set()  # queues that the next submit has to restart

    def release(self) -> None:
        """Give the device back; transfers end no more.

        The transport can be closed once this is written, or where packets get lost, once it is `done`.
        """
        if self.state is Controller.USING:
            self._put(Sent(Call.RELEASE, word_of(Call.RELEASE)))
            self._move("RELEASE")
            self.releasing = True

    # -- transfers ----------------------------------------------------------------------------------------------------

    def submit(self, transfer: Transfer) -> int:
        """Send a transfer, or keep it until it can be; the answer is Completed with the tag that this returns.

        `transfer.interval` is not 0 for interrupt endpoints, and 0 for bulk. The payload must not change until the
        transfer has ended. Gaps between isochronous packets are not sent.

        Raises ValueError for what does not fit together, or is longer than the target takes.
        """
        number, endpoint, flags, head, data = encode(transfer)
        if transfer.length > self.limit:
            raise ValueError(f"a transfer of {transfer.length} bytes, the target takes {self.limit}")
        if self._stopped:
            flags |= self._restarts(transfer)
        call = Sent(number, number << 24 | endpoint << 16 | flags, head, data, cost(transfer))
        self._tags = tag = self._tags + 1
        call.tag, call.transfer = tag, transfer
        self._flying[tag] = call
        if self._resends:
            self._order.add(Entry(tag, transfer))
        elif (
            number == _BULK
            and self.state is _USING
            and self._has_room
            and (call.cost <= LONG or self._stream.has_room(call))
            and self._outbox.leaves_at_once(call)
        ):  # as it goes nearly always
            self._transmit(call)
            return tag
        self._put(call)
        return tag

    def alloc_streams(self, endpoints: tuple[int, ...], count: int) -> int:
        """Ask for bulk streams; the answer is Completed with this tag."""
        return self._streams(Call.ALLOC_STREAMS, words([count]) + bytes(endpoints))

    def free_streams(self, endpoints: tuple[int, ...]) -> int:
        """Give bulk streams back; the answer is Completed with this tag."""
        return self._streams(Call.FREE_STREAMS, bytes(endpoints))

    def _streams(self, number: Call, body: bytes) -> int:
        call = Sent(number, word_of(number), body)
        self._tags += 1
        call.tag, call.transfer = self._tags, Transfer(0, 0)
        self._flying[call.tag] = call
        if self._resends:
            self._order.add(Entry(call.tag, call.transfer))
        self._put(call)
        return call.tag

    def cancel(self, tag: int) -> Completion | None:
        """Ask for a transfer's end; its Completed still comes, unless it never left or waits for its turn.

        Then this is its completion. An unknown tag is ignored: it has ended.
        """
        entry = self._order.cancel(tag, 0) if self._resends else None
        if entry is not None and entry.completion is not None:
            self._order.release(entry)
            return entry.completion
        call = self._flying.get(tag)
        if call is None or tag in self._unlinking:
            return None
        if call.identifier == NO_IDENTIFIER:
            assert call.transfer is not None
            if call.word & WireFlags.RESTART:
                self._stopped.add((call.transfer.endpoint, call.transfer.stream_id))
            self._outbox.withdraw(call)
            del self._flying[tag]
            if entry is not None:
                self._order.release(entry)
            return Completion(Status.CANCELLED)
        self._unlinking.add(tag)
        self._put(Sent(Call.UNLINK, word_of(Call.UNLINK), words([call.identifier])))
        return None

    def _restarts(self, transfer: Transfer) -> int:
        """RESTART, where this is the first transfer of its queue after the news that the queue stopped."""
        key = (transfer.endpoint, transfer.stream_id)
        if key not in self._stopped:
            return 0
        self._stopped.discard(key)
        return WireFlags.RESTART

    # -- time and transports ------------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """The claim is over, and no transport can bring it back."""
        return self.state is Controller.OVER and not (self.releasing and self._resends)

    @property
    def largest(self) -> int:
        """Bytes of the largest transfer that the target takes, or that should be sent on this transport."""
        return min(self.limit, _LOSSY_BYTES) if self._resends else self.limit

    @property
    def has_events(self) -> bool:
        """Whether `events` has something though nothing came."""
        return bool(self._ready) or (self._holds_back and self._way.unsent < ENOUGH)

    @property
    def in_flight(self) -> int:
        """Transfers that have not ended."""
        return len(self._flying)

    def disconnected(self, now: float) -> bool:
        """The transport is lost; whether the claim waits for another, which `connected` brings."""
        if self.state is Controller.USING:
            self._lost_at = now
        self._now = now
        if (self.state, "transport lost") in CONTROLLER:
            self._move("transport lost")
        self._linked = self._greeted = self.releasing = False
        self._clear()
        self._holds_back = False
        self._asked.clear()
        self._later.clear()
        self._begin()
        for call in self._outbox.sent.values():
            call.lose_transport()
        return self.state is Controller.LOST

    def set_way(self, way: Way) -> None:
        """What `connected` comes to."""
        self._way = way

    def connected(self, now: float) -> None:
        """There is a transport: the first one, or another."""
        self._now = self._heard = self._beat = now
        self._linked = True
        self.needed = _LEAST
        if self.state is Controller.LOST:
            self._move("RESUME")
            self._resume()

    def deadline(self) -> float | None:
        """When `tick` wants to be called."""
        if not self._linked:
            return self._lost_at + self._grace if self.state is Controller.LOST else None
        if not self._greeted:
            return None
        return min(self._beat + self._heartbeat, self._heard + SILENT_HEARTBEATS * self._heartbeat, self._due())

    def tick(self, now: float) -> None:
        """Let time pass. Raises ProtocolError when the target was silent for too long."""
        self._now = now
        self.leaves(now)
        if not self._linked:
            if self.state is Controller.LOST and now >= self._lost_at + self._grace:
                self.ended = f"no connection to the server for {self._grace:g} s"
                self._move("grace over")
            return
        if not self._greeted:
            return
        if now >= self._heard + SILENT_HEARTBEATS * self._heartbeat:
            raise ProtocolError(f"silent for {SILENT_HEARTBEATS * self._heartbeat:g} s")
        if now >= self._beat + self._heartbeat:
            self._acknowledge()
        self._look_again()

    # -- from the target ----------------------------------------------------------------------------------------------

    def receive(self, view: memoryview, now: float) -> None:
        """Look at all received bytes that are not consumed yet; `events` reads them and counts up `consumed`."""
        self._view = view
        self._now = self._heard = now
        self.consumed = 0
        if self._leaving:
            self.leaves(now)
        self._measure()
        if self._holds_back:
            self._proceed()

    def events(self) -> Iterator[Event]:
        """What the target answered, reply by reply. Raises ProtocolError when it breaks the protocol."""
        view, end, at, outbox, sent = self._view, len(self._view), self.consumed, self._outbox, self._outbox.sent
        while end - at >= _LEAST:
            size, identifier, code = _REPLY.unpack_from(view, at)
            if not HEADER <= size <= RECORD_BYTES:
                raise ProtocolError(f"a record of {size} bytes, allowed are {HEADER} to {RECORD_BYTES}")
            after = at + MARKER + size
            if after > end:
                self.needed = after - at
                self._stream.moves(self._now)
                return
            body = view[at + _LEAST : after]
            self.consumed = at = after
            call = sent.get(identifier) if code == 0 and not self._resends else None
            if call is not None and call.transfer is not None:  # as it goes nearly always
                outbox.answered(identifier)
                del self._flying[call.tag]
                yield decode_reply(call.tag, call.transfer, 0, body, lends=True)
                if call.under_way:
                    self._arrived(call)
                if outbox.wants_acknowledgement:
                    self._acknowledge()
                if self._unlinking:
                    self._unlinking.discard(call.tag)
                continue
            event = self._take(identifier, code, body)
            if event is not None:
                yield event
            while self._ready:
                yield self._ready.popleft()
        self.needed = _LEAST

    def _take(self, identifier: int, code: int, body: memoryview) -> Event | None:
        calls = self._asked if identifier & TRANSPORT else self._outbox.sent
        if code == Code.IN_PROGRESS:
            if identifier in calls:
                self._is_at_target(calls[identifier])
            return None
        in_parts = code == Code.PART
        if in_parts:
            call = calls.get(identifier)
            if call is not None and self._resends:
                self._trips.has_part(call, self._now)
            elif call is not None and call.under_way:
                self._stream.moves(self._now)
            if call is None or not self._part(call, body):
                return None
            assert call.parts is not None
            whole = call.parts.whole
            code, body = int.from_bytes(whole[:4], "big"), whole[4:]
        if identifier & TRANSPORT:
            call = self._asked.pop(identifier, None)
            if call is not None:
                self._was_answered(call, len(body))
            event = self._answered(call.number, code, body) if call is not None else None
            while self._later and all(one.number not in (Call.VERSION, Call.RESUME) for one in self._asked.values()):
                self._ask_now(self._later.pop(0))
            return event
        call = self._outbox.answered(identifier)
        if self._outbox.wants_acknowledgement:
            self._acknowledge()
        if call is None:
            return None
        self._was_answered(call, None if code and not body else len(body))
        return self._finished(call, code, body, is_lent=not in_parts)

    def _part(self, call: Sent, body: memoryview) -> bool:
        """Whether a reply in parts is whole now."""
        if call.parts is None:
            most = call.transfer.length if call.transfer is not None else 0
            call.parts = Assembly(part_total(body, most + OVERHEAD if most else _LIST_BYTES))
        return call.parts.add(body)

    def _finished(self, call: Sent, code: int, body: memoryview, *, is_lent: bool) -> Event | None:
        if call.number == Call.DESCRIBE and self._adopts:
            self._adopts = False
            if code:
                return self._refused(code)
            return Claimed(infos.parse(body, self._limits))
        transfer = call.transfer
        if transfer is None:
            self.releasing = self.releasing and call.number != Call.RELEASE
            return None
        del self._flying[call.tag]
        self._unlinking.discard(call.tag)
        completion = decode_reply(call.tag, transfer, code, body, is_lent=is_lent)
        if completion.status == Status.SHORT and transfer.flags & Flags.SHORT_NOT_OK:
            self._stopped.add((transfer.endpoint, transfer.stream_id))
        if not self._resends:
            return completion
        ended = self._order.finish(call.tag, completion)
        self._ready += [one.completion for one in ended if isinstance(one.completion, Completed)]  # they all are
        for one in self._order.before(call.tag):  # the target gives answers in order
            if one.completion is None:
                self._trips.is_overtaken(self._flying[one.tag], self._now)
        return None
