"""The controller's side of ferry: transfers out, completions in. No I/O. `states.CONTROLLER` says what may happen when.

    submit -> outbox -> record ~~~ target
    Completed <-------- record <~~~'

What was sent stays in the outbox until its reply is there, so that a new transport can have it again (§8), and so can
one that loses packets (`resends`). Every submit ends exactly once: with its reply, or with the session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from secrets import token_bytes
from struct import Struct
from struct import error as struct_error
from typing import Final

from ...usb.transfer import Completion, Flags, Transfer
from ...usb.types import Status
from ..errors import ProtocolError
from ..events import Changed, Claimed, Completed, Event, Left, Listed, Refusal, Refused
from ..limits import DEFAULT_LIMITS, Limits
from ..pending import Pending
from . import infos
from .framing import HEADER, MARKER, OVERHEAD, RECORD_BYTES, Assembly, Way, part_total, records
from .lanes import ENOUGH, Lanes
from .messages import (
    CAPABILITIES,
    SILENT_HEARTBEATS,
    TOKEN_BYTES,
    TRANSPORT,
    VERSION,
    Call,
    Code,
    VersionReply,
    WireFlags,
    cost,
    parse_words,
    version_call,
    words,
)
from .outbox import NO_IDENTIFIER, Outbox, Sent
from .pace import Pace
from .states import CONTROLLER, Controller
from .transfers import decode_reply, encode

_REPLY: Final = Struct(">III")  # marker, identifier, status
_LEAST: Final = MARKER + HEADER
_BULK: Final = int(Call.BULK)
_USING: Final = Controller.USING
_LIST_BYTES: Final = 16 << 20  # of a list in parts
_LOSSY_BYTES: Final = 64 << 10  # of a transfer where packets get lost: what is lost of it is sent again with all of it
_PART: Final = Call.PART << 24
_EMPTY: Final = memoryview(b"")
_REASONS: Final[dict[int, tuple[Refusal, str]]] = {
    Code.UNKNOWN_DEVICE: (Refusal.NOT_FOUND, "the server has no such device"),
    Code.BUSY: (Refusal.BUSY, "somebody else uses it"),
    Code.NOT_OPENED: (Refusal.FAILED, "the server could not open it"),
    Code.UNAVAILABLE: (Refusal.UNAVAILABLE, "the server takes nobody now"),
    Code.NO_SESSION: (Refusal.NOT_FOUND, "the server has given the device up, or was started again"),
    Code.NO_COMMON_VERSION: (Refusal.FAILED, f"the server speaks no version of ferry known here, which is {VERSION}"),
}


class Importer(Lanes):
    """A controller, from its first transport to its last."""

    protocol = "ferry"
    opening = b"\0"  # what all that a target says begins with: no record is longer than 16 MiB

    def __init__(self, limits: Limits = DEFAULT_LIMITS, *, resends: bool = False) -> None:
        super().__init__()
        self.state = Controller.IDLE
        self.session = b""  # the token of the claim
        self.instance = b""  # of the target's process
        self.ended = ""  # why the claim is over, for people
        self.consumed = 0
        self.needed = _LEAST
        self.releasing = False  # RELEASE has no answer yet
        self._limits = limits
        self._resends = resends
        self._pace = Pace()  # of a transport that loses packets
        self._view: memoryview = _EMPTY
        self._now = self._heard = self._beat = self._lost_at = 0.0
        self._heartbeat, self._grace = limits.heartbeat_seconds, limits.grace_seconds
        self._transfer_bytes = limits.transfer_bytes
        self._linked = True  # there is a transport
        self._greeted = False  # on which VERSION was said
        self._asked: dict[int, Sent] = {}  # calls of the transport without reply
        self._later: list[
            Sent
        ] = []  # that wait for the reply to VERSION or RESUME, where packets may overtake each other
        self._questions = 0
        self._outbox = Outbox(limits.transfers, limits.bytes_in_flight)
        self._tags = 0
        self._flying: dict[int, Sent] = {}  # transfers that have not ended, by tag
        self._unlinking: set[int] = set()  # tags
        self._order = Pending()  # of completions, where replies may overtake each other
        self._ready: deque[Completed] = deque()
        self._stopped: set[tuple[int, int]] = set()  # queues that the next submit has to restart
        self._adopts = False
        self._holds_back = False  # bulk, for the transport has enough

    # -- questions ----------------------------------------------------------------------------------------------------

    def list_devices(self) -> None:
        """Ask for the list; the answer is Listed or Refused."""
        self._move("LIST")
        self._ask(Call.LIST)

    def claim(self, name: str) -> None:
        """Ask for a device; the answer is Claimed or Refused. Raises ValueError for a name that cannot be one."""
        packed = infos.device_name(name)
        self._move("CLAIM")
        self._ask(Call.CLAIM, packed)

    def adopt(self, session: bytes) -> None:
        """Go on with a claim that another process made, on its transport or a new one; Claimed or Refused."""
        self.session, self._adopts = session, True
        self._questions = int.from_bytes(token_bytes(3))  # others than those it had
        self._move("RESUME")
        self._resume()

    def watch(self) -> None:
        """Ask to be told, by Changed, whenever a device comes, goes or changes hands. The first comes at once."""
        self._ask(Call.WATCH, words([0]))

    def release(self) -> None:
        """Give the device back; transfers end no more.

        The transport can be closed once this is written, or where packets get lost, once it is `done`.
        """
        if self.state is Controller.USING:
            self._put(Sent(Call.RELEASE, _word(Call.RELEASE)))
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
        if transfer.length > self._transfer_bytes:
            raise ValueError(f"a transfer of {transfer.length} bytes, the target takes {self._transfer_bytes}")
        if self._stopped:
            flags |= self._restarts(transfer)
        call = Sent(number, number << 24 | endpoint << 16 | flags, head, data, cost(transfer))
        self._tags = tag = self._tags + 1
        call.tag, call.transfer = tag, transfer
        self._flying[tag] = call
        if self._resends:
            self._order.add(tag, transfer)
        elif number == _BULK and self.state is _USING and self._has_room and self._outbox.leaves_at_once(call):
            self._transmit(call)  # as it goes nearly always
            return tag
        self._put(call)
        return tag

    @property
    def _has_room(self) -> bool:
        """Whether the transport wants more bulk; what comes later and is urgent would wait behind it."""
        return self.outgoing_bytes < self._room

    def alloc_streams(self, endpoints: tuple[int, ...], count: int) -> int:
        """Ask for bulk streams; the answer is Completed with this tag."""
        return self._streams(Call.ALLOC_STREAMS, words([count]) + bytes(endpoints))

    def free_streams(self, endpoints: tuple[int, ...]) -> int:
        """Give bulk streams back; the answer is Completed with this tag."""
        return self._streams(Call.FREE_STREAMS, bytes(endpoints))

    def _streams(self, number: Call, body: bytes) -> int:
        call = Sent(number, _word(number), body)
        self._tags += 1
        call.tag, call.transfer = self._tags, Transfer(0, 0)
        self._flying[call.tag] = call
        if self._resends:
            self._order.add(call.tag, call.transfer)
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
        self._put(Sent(Call.UNLINK, _word(Call.UNLINK), words([call.identifier])))
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
        return min(self._transfer_bytes, _LOSSY_BYTES) if self._resends else self._transfer_bytes

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
        self._pace = Pace()
        for call in self._outbox.sent.values():
            call.parts = None
            call.in_progress = call.under_way = False
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
        times = [self._beat + self._heartbeat, self._heard + SILENT_HEARTBEATS * self._heartbeat]
        if self._resends:
            times += [call.due for call in self._unanswered()]
        return min(times)

    def tick(self, now: float) -> None:
        """Let time pass. Raises ProtocolError when the target was silent for too long."""
        self._now = now
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
        if self._resends:
            for call in [call for call in self._unanswered() if call.again(now)]:
                self._transmit(call)

    def _unanswered(self) -> list[Sent]:
        is_sending = self.state is Controller.USING or self.releasing
        return [*self._asked.values(), *(self._outbox.sent.values() if is_sending else ())]

    def _acknowledge(self) -> None:
        self._beat = self._now
        if all(call.number != Call.HEARTBEAT for call in (*self._asked.values(), *self._later)):
            self._ask(Call.HEARTBEAT, self._outbox.acknowledge())

    def _resume(self) -> None:
        outstanding = self._outbox.resuming()
        self._ask(Call.RESUME, self.session + words([len(outstanding), *outstanding]))

    # -- to the target ------------------------------------------------------------------------------------------------

    def _ask(self, number: Call, body: bytes = b"") -> None:
        """A call of the transport; the first of all says which versions are spoken here."""
        if not self._greeted:
            self._greeted = True
            self._ask(Call.VERSION, version_call(CAPABILITIES, (VERSION,)))
        call = Sent(number, _word(number), body)
        if self._resends and any(one.number in (Call.VERSION, Call.RESUME) for one in self._asked.values()):
            self._later.append(call)
        else:
            self._ask_now(call)

    def _ask_now(self, call: Sent) -> None:
        call.identifier = TRANSPORT | self._questions
        self._questions = self._questions + 1 & ~TRANSPORT
        self._asked[call.identifier] = call
        self._transmit(call)

    def _put(self, call: Sent) -> None:
        self._outbox.put(call)
        if self.state is Controller.USING:
            self._send()

    def _send(self) -> None:
        self._holds_back = False
        for call in self._outbox.leaving(self._may_leave):
            self._transmit(call)

    def _may_leave(self, call: Sent) -> bool:
        if self._resends and not self._pace.has_room(call.cost):
            return False
        if call.number == _BULK and not self._has_room:
            self._holds_back = True
            return False
        return True

    def _transmit(self, call: Sent) -> None:
        if self._resends:
            call.due = call.due or self._now + call.wait
            if not call.identifier & TRANSPORT:
                self._pace.sent(call)
        self._say_records(records(call.identifier, call.word, call.head, call.payload, _PART, self._way.packet_bytes))

    # -- from the target ----------------------------------------------------------------------------------------------

    def receive(self, view: memoryview, now: float) -> None:
        """Look at all received bytes that are not consumed yet; `events` reads them and counts up `consumed`."""
        self._view = view
        self._now = self._heard = now
        self.consumed = 0
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
                return
            body = view[at + _LEAST : after]
            self.consumed = at = after
            call = sent.get(identifier) if code == 0 and not self._resends else None
            if call is not None and call.transfer is not None:  # as it goes nearly always
                outbox.answered(identifier)
                del self._flying[call.tag]
                yield Completed(call.tag, decode_reply(call.transfer, 0, body))
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
            if self._resends and identifier in calls:
                self._pace.in_progress(calls[identifier])
                self._proceed()
            return None
        in_parts = code == Code.PART
        if in_parts:
            call = calls.get(identifier)
            if call is None or not self._part(call, body):
                return None
            assert call.parts is not None
            whole = call.parts.whole
            code, body = int.from_bytes(whole[:4], "big"), whole[4:]
        if identifier & TRANSPORT:
            call = self._asked.pop(identifier, None)
            event = self._answered(call.number, code, body) if call is not None else None
            while self._later and all(one.number not in (Call.VERSION, Call.RESUME) for one in self._asked.values()):
                self._ask_now(self._later.pop(0))
            return event
        call = self._outbox.answered(identifier)
        if self._outbox.wants_acknowledgement:
            self._acknowledge()
        if self._resends and call is not None:
            self._pace.answered(call, self._now)
            self._proceed()
        return self._finished(call, code, body, is_lent=not in_parts) if call is not None else None

    def _proceed(self) -> None:
        """There may be room."""
        if self.state is Controller.USING:
            self._send()

    def _part(self, call: Sent, body: memoryview) -> bool:
        """Whether a reply in parts is whole now."""
        if call.parts is None:
            most = call.transfer.length if call.transfer is not None else 0
            call.parts = Assembly(part_total(body, most + OVERHEAD if most else _LIST_BYTES))
        return call.parts.add(body)

    def _finished(self, call: Sent, code: int, body: memoryview, *, is_lent: bool) -> Event | None:
        if call.number == Call.DESCRIBE and self._adopts:
            self._adopts = False
            return Claimed(infos.parse(body, self._limits))
        transfer = call.transfer
        if transfer is None:
            self.releasing = self.releasing and call.number != Call.RELEASE
            return None
        del self._flying[call.tag]
        self._unlinking.discard(call.tag)
        completion = decode_reply(transfer, code, body, is_lent=is_lent)
        if completion.status == Status.SHORT and transfer.flags & Flags.SHORT_NOT_OK:
            self._stopped.add((transfer.endpoint, transfer.stream_id))
        if not self._resends:
            return Completed(call.tag, completion)
        self._ready += [
            Completed(one.tag, one.completion) for one in self._order.finish(call.tag, completion) if one.completion
        ]
        return None

    def _answered(self, number: int, code: int, body: memoryview) -> Event | None:
        """A reply to a call of the transport."""
        try:
            match number:
                case Call.VERSION:
                    return self._agreed(code, body)
                case Call.LIST:
                    return self._listed(code, body)
                case Call.CLAIM:
                    return self._claimed(code, body)
                case Call.RESUME:
                    return self._resumed(code, body)
                case Call.WATCH if code == Code.OK:
                    [changes] = parse_words(body, 0, 1)
                    self._ask(Call.WATCH, words([changes]))
                    return Changed()
                case Call.HEARTBEAT:
                    self._outbox.acknowledged()
                    if self._outbox.wants_acknowledgement:  # of what came meanwhile
                        self._acknowledge()
                    self._proceed()
                case Call.HOLD:
                    return self._end("HOLD answered", "the device has left the server")
        except (struct_error, ValueError) as broken:
            raise ProtocolError(f"the reply to call {number} has {len(body)} bytes: {broken}") from None
        return None

    def _agreed(self, code: int, body: memoryview) -> Event | None:
        if code:
            self._asked.clear()  # what was sent without waiting for this is not answered
            self._later.clear()
            return self._refused(code)
        reply = VersionReply.parse(body)
        if reply.version != VERSION or not reply.heartbeat or not reply.window_calls:
            raise ProtocolError(
                f"version {reply.version}, {reply.window_calls} calls, a heartbeat in {reply.heartbeat} s"
            )
        self.instance = reply.instance
        self._heartbeat, self._grace = reply.heartbeat, reply.grace
        self._outbox.calls, self._outbox.size = reply.window_calls, reply.window_bytes
        self._transfer_bytes = min(reply.transfer_bytes, reply.window_bytes)
        if self._resends and len(body) >= VersionReply.SIZE + 4:
            [self._questions] = parse_words(body[VersionReply.SIZE : VersionReply.SIZE + 4], 0, 1)
            self._questions &= ~TRANSPORT
        return None

    def _refused(self, code: int) -> Event | None:
        reason, text = _REASONS.get(code, (Refusal.FAILED, f"the server gave status {code}"))
        match self.state:
            case Controller.LISTING:
                self._move("answered")
            case Controller.CLAIMING:
                self._move("refused")
            case Controller.RESUMING:
                left = self._end("no session", text)
                if not self._adopts:
                    return left
        return Refused(reason, text)

    def _listed(self, code: int, body: memoryview) -> Event | None:
        if code:
            return self._refused(code)
        count, at, found = int.from_bytes(body[:4], "big"), 4, []
        if count > self._limits.devices_listed:
            raise ProtocolError(f"a list of {count} devices, the limit is {self._limits.devices_listed}")
        for _ in range(count):
            size = int.from_bytes(body[at : at + 4], "big")
            found.append(infos.parse(body[at + 4 : at + 4 + size], self._limits))
            at += 4 + size
        if at != len(body):
            raise ValueError(f"{count} devices in {at} of them")
        self._move("answered")
        return Listed(found)

    def _claimed(self, code: int, body: memoryview) -> Event | None:
        if code:
            return self._refused(code)
        info = infos.parse(body[TOKEN_BYTES:], self._limits)
        self.session = bytes(body[:TOKEN_BYTES])
        self._move("claimed")
        self._ask(Call.HOLD)
        return Claimed(info)

    def _resumed(self, code: int, body: memoryview) -> Event | None:
        if code:
            return self._refused(code)
        [expected] = parse_words(body, 0, 1)
        again = self._outbox.resumed(expected)
        self._move("resumed")
        self._ask(Call.HOLD)
        for call in again:
            self._transmit(call)
        if self._adopts:
            self._outbox.put(Sent(Call.DESCRIBE, _word(Call.DESCRIBE)))
        self._send()
        return None

    def _end(self, what: str, reason: str) -> Event | None:
        """The claim is over, unless it was already."""
        if (self.state, what) not in CONTROLLER:
            return None
        self.ended = reason
        self._move(what)
        return Left()

    def _move(self, what: str) -> None:
        after = CONTROLLER.get((self.state, what))
        if after is None:
            raise ProtocolError(f"{what}, while {self.state.value}")
        self.state = after


def _word(number: int, endpoint: int = 0, flags: int = 0) -> int:
    """The second word of a call."""
    return number << 24 | endpoint << 16 | flags
