"""The target's side of ferry: calls in, events out, replies back. No I/O. `states.TARGET` says what may happen when.

Records come in here. Calls of the transport (version, list, claim, ...) are the `desk`'s; those of a claim are its
`session`'s, which outlives the transport: RESUME hands it another one (§8). Those that nearly all are go a short way,
there and back:

    _short_way   calls whose turn it is, while `session.is_simple`: nothing came early, and no queue is held or stopped
    complete     answers given at once, that nothing on their queue is before: neither a transfer that has not ended
                 (`pending`) nor an answer that waits for the transport (`_backlog`, which an answer before may have
                 filled); and only until `_short_room` is used up, for what is read then would wait behind them
    _answer_late     in `desk`, those given later whose turn it is, while the transport wants more and no queue is held

Both of the last repeat what they share, and what `session.finish` would do: it doubled what each answer costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from secrets import token_bytes
from struct import Struct
from typing import Final

from ...usb.transfer import Buffer, Completion, Transfer
from ...usb.types import Status
from ..errors import ProtocolError
from ..events import Event, Release, Resume, Submit
from ..limits import DEFAULT_LIMITS, Limits
from ..openings import Stranger
from .framing import HEADER, MARKER, PART_BYTES, RECORD_BYTES, Way, pack_record
from .lanes import BURST
from .ledger import Message
from .messages import (
    INSTANCE_BYTES,
    MASK,
    TOKEN_BYTES,
    TRANSPORT,
    Call,
    Code,
    code_of,
)
from .pace import LONG
from .patience import Patience
from .session import NO_TRANSFER, Session
from .states import TARGET, Target
from .transfers import is_bulk, kept

INSTANCE: Final = token_bytes(INSTANCE_BYTES)  # of this process
_CALL: Final = Struct(">IIBBH")  # marker, identifier, number, endpoint, flags
_BULK_CALL: Final = Struct(">IIBBHI")  # and the length, as of a bulk transfer without a stream
_LEAST: Final = MARKER + HEADER
_BULK: Final = int(Call.BULK)
_CONTROL: Final = int(Call.CONTROL)
_CONTROL_IN: Final = HEADER + 8  # bytes of a record without data
_BULK_IN: Final = HEADER + 4
_BULK_LEAST: Final = _BULK_CALL.size
_unpack_bulk: Final = _BULK_CALL.unpack_from
_CLAIMED: Final = Target.CLAIMED
_EMPTY: Final = memoryview(b"")
NO_TAG: Final = -1
_IN, _OUT = "in", "out"
_WAYS: Final = tuple((_IN if at & 0x80 else _OUT) if 0 < at & 0x7F < 16 else "" for at in range(256))  # of bulk
_RESUME: Final = int(Call.RESUME)


def new_token() -> bytes:
    """What names a session; who guesses it has the device."""
    return token_bytes(TOKEN_BYTES)


class Exporter(Patience):
    """One transport seen from the side that has the devices, and the session on it, which may have others later."""

    protocol = "ferry"
    is_prompt = False  # what may have to be sent again is kept
    __slots__ = (  # of more than thirty attributes CPython (3.11 to 3.13) finds none at once that is not named here
        "_bounds",
        "_burst",
        "_event",
        "_heard",
        "_is_simple",
        "_linked",
        "_lost_at",
        "_short_room",
        "_silence",
        "_tag",
        "_transfer",
        "_view",
        "needed",
    )

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        now: float = 0.0,
        *,
        instance: bytes = INSTANCE,
        token: Callable[[], bytes] = new_token,
    ) -> None:
        super().__init__(limits, instance, token, now)
        self.needed = _LEAST  # bytes that must be there before the next record can be read
        self._bounds = (limits.transfer_bytes, limits.bytes_in_flight, limits.transfers)
        self._view: memoryview = _EMPTY
        self._is_simple = False  # the last call went the short way, so the next may
        self._burst = BURST  # where records go out as they are: there is a controller, and a stream to it; else 0
        self._short_room = 0  # bytes of answers that go the short way now
        self._tag = NO_TAG  # the submit that was just emitted on the short way
        self._transfer = NO_TRANSFER
        self._event = Submit(NO_TAG, NO_TRANSFER)  # said so

    @staticmethod
    def opens(packet: bytes) -> bool:
        """Whether a packet from a new address begins a transport: it is VERSION, or comes too late for another."""
        return len(packet) >= HEADER and bool(packet[0] & 0x80) and packet[4] == Call.VERSION

    # -- what the pump calls ------------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Nothing more will be said: the transport is closed once `outgoing` is written."""
        return self.state is Target.OVER

    @property
    def has_events(self) -> bool:
        """Whether `events` has something though nothing came: a queue goes on behind a transfer that ended."""
        if self._backlog and self._may_go_on():
            return True
        return not self._is_simple and self._attached and self._session is not None and self._session.has_more()

    @property
    def in_flight(self) -> int:
        """Calls of the session that have no reply yet."""
        return self._session.in_flight if self._session is not None else 0

    def receive(self, view: memoryview, now: float) -> None:
        """Look at all received bytes that are not consumed yet; `events` reads them and counts up `consumed`."""
        self._view = view
        if self._challenge:
            self._repeats.trip = now - self._heard  # when the last of these shows who sent it
        elif len(view):  # what anybody may have sent prolongs nothing
            if self._is_measuring:
                self._is_measuring = False
                self._repeats.trip += now - self._heard
            self._heard = now
        self.consumed = 0
        if self._backlog or self._way.blocked:
            self._go_on()
            self._short_room = 0 if self._backlog or self._way.blocked else self._burst
        else:
            self._short_room = self._burst

    def events(self) -> Iterator[Event]:
        """What the controller wants, call by call. May be left early and called again.

        Raises ProtocolError when the controller breaks the protocol.
        """
        if self._is_simple:
            return self._short_way(True)
        return self._confirming() if self._way.is_lossy else self._calls()

    def _confirming(self) -> Iterator[Event]:
        """Where packets get lost: say of each call that came and has no reply yet that it came (§7.5)."""
        yield from self._calls()
        self._confirm()

    def _calls(self) -> Iterator[Event]:
        """Everything there is."""
        if self._attached:
            yield from self._follow()
        view, end, at = self._view, len(self._view), self.consumed
        while end - at >= _LEAST and self.state is not Target.OVER:
            if self._may_be_short():
                self._is_simple = not self._way.is_lossy
                yield from self._short_way(False)
                at = self.consumed
                if end - at < self.needed or end - at < _LEAST:
                    return
                self._is_simple = False
            size, identifier, number, endpoint, flags = _CALL.unpack_from(view, at)
            if not HEADER <= size <= RECORD_BYTES:
                raise self._no_record(size)
            after = at + MARKER + size
            if after > end:
                self.needed = after - at
                return
            body = view[at + _LEAST : after]
            if self._challenge and not self._shows(identifier, number):
                self.consumed = at = after  # it may be in somebody else's name: nothing longer is sent there
                continue
            if number == _RESUME and self.state is Target.OPEN:
                self._resuming = (identifier, after)
                yield Resume(bytes(body[:TOKEN_BYTES]))  # it stays unread, for the exporter that has the session
                if self._resuming is not None:
                    return
                at = self.consumed
                continue
            self.consumed = at = after
            if identifier & TRANSPORT:
                event = self._take(identifier, number, body)
            else:
                event = self._pass_on(Message(identifier, number, endpoint, flags, body))
            if event is not None:
                yield from self._emit(event)
            session = self._session
            if session is not None and session.has_more():
                yield from self._follow()
        self.needed = _LEAST
        if MARKER <= end - at < _LEAST:  # who speaks USB/IP here says no more than 8 bytes, and waits
            size = int.from_bytes(view[at : at + MARKER], "big")
            if not HEADER <= size <= RECORD_BYTES:
                raise self._no_record(size)

    def _may_be_short(self) -> bool:
        """Whether calls of the session are carried out as they come, on this transport."""
        session = self._session
        is_served = self.state is _CLAIMED and self._attached and not self._claimed
        return is_served and session is not None and session.is_simple()

    def _short_way(self, goes_on: bool) -> Iterator[Event]:
        """The hot loop: bulk transfers and control IN whose turn it is, until there is something else; then that too,
        if it `goes_on`.

        What it reads of itself is in locals. An event that was answered is given again, for the next transfer: to make
        one costs more than all of the checks.
        """
        session, repeats = self._session, self._repeats if self._way.is_lossy else None
        assert session is not None
        view, ledger, event, (most, room, calls) = self._view, session.ledger, self._event, self._bounds
        unpack, end, at = _unpack_bulk, len(view), self.consumed
        expected, used = ledger.expected, ledger.bytes
        left = calls - len(ledger.open) - len(ledger.replies) - len(ledger.costs)
        self.needed = _LEAST
        while end - at >= _BULK_LEAST and self.state is _CLAIMED:
            size, identifier, number, endpoint, flags, length = unpack(view, at)
            after = at + MARKER + size
            if flags or identifier != expected or size > RECORD_BYTES:
                break
            if number == _BULK:
                way = _WAYS[endpoint]
                if not way or size != (_BULK_IN if way is _IN else _BULK_IN + length) or length > most:
                    break
                if after > end:
                    self.needed = after - at
                    break
                transfer = Transfer(endpoint, length, b"" if way is _IN else view[at + _BULK_LEAST : after])
            elif number == _CONTROL and size == _CONTROL_IN and length & 0x80000000 and after <= end:
                setup = bytes(view[at + _LEAST : after])  # its first bit says IN, so nobody has to hear of it
                length = setup[6] | setup[7] << 8
                if not length:
                    break
                transfer = Transfer(0x80, length, b"", setup)
            else:
                break
            used += length
            left -= 1
            if left < 0 or used > room:
                break
            ledger.bytes = used
            ledger.expected = expected = identifier + 1 & MASK
            self.consumed = at = after
            if repeats is not None:
                repeats.hears(endpoint)
            self._tag = event.tag = identifier
            self._transfer = event.transfer = transfer
            try:
                yield event
            finally:
                if self._tag == identifier:  # the device answers later
                    self._park(session)
            event = self._event
        if end - at >= self.needed and goes_on:
            self._is_simple = False
            yield from self._calls()

    def _park(self, session: Session) -> None:
        tag, transfer, self._tag = self._tag, self._transfer, NO_TAG
        session.ledger.later(tag, transfer.length)
        session.pending.add(self._event)
        self._event = Submit(NO_TAG, NO_TRANSFER)
        if self._way.is_lossy:
            self._unconfirmed[tag] = None
        elif transfer.length > LONG and transfer.endpoint & 0x0F:
            self._confirm_long(tag)

    def _confirm_long(self, tag: int) -> None:
        """Say of bulk that it waits at the device, so that it is not what fills the way there (§9)."""
        if not self._way.is_lossy:  # there all that waits is confirmed at the end
            self._say(tag, Code.IN_PROGRESS)

    def _emit(self, event: Event) -> Iterator[Event]:
        if event.__class__ is Release:
            self._move("RELEASE")
        elif self._way.is_lossy and isinstance(event, Submit):
            self._repeats.hears(event.transfer.endpoint)
        session = self._session
        try:
            yield event
        finally:
            waits = session.emitted() if session is not None else None
            if waits is not None and waits[1].length > LONG and is_bulk(waits[1]):
                self._confirm_long(waits[0])

    def _follow(self) -> Iterator[Event]:
        """What has become possible without being asked for anew."""
        while self._session is not None and self._session.has_more():
            event = self._session.follow()
            if event is not None:
                yield from self._emit(event)

    def complete(self, tag: int, completion: Completion) -> None:
        """Answer the Submit of `tag`, once.

        The reply may wait for earlier transfers on its endpoint. A tag that is not in flight is ignored.
        """
        session = self._session
        if session is None:
            return
        if tag != self._tag:
            entry = session.pending.finish_alone(tag)
            if entry is None:
                session.complete(tag, completion)
            else:
                self._answer_late(session, entry, completion)
            return
        transfer, ledger = self._transfer, session.ledger
        if ledger.open and session.pending.waits_on(transfer):
            self._park(session)
            session.complete(tag, completion)
            return
        self._tag = NO_TAG
        length, size = transfer.length, 0
        data: Buffer = b""
        if transfer.endpoint < 0x80:
            is_plain = completion.actual == length
        else:
            data = completion.data
            size = len(data)
            is_plain = size <= length and size <= PART_BYTES
        before = self.outgoing_bytes
        if not is_plain or completion.status or before >= self._short_room or self._backlog:
            ledger.later(tag, length)
            session.finish(tag, transfer, completion)
            return
        if data.__class__ is not bytes:
            data = kept(data)
        costs, outgoing = ledger.costs, self.outgoing
        if not costs:
            ledger.tail = tag
        costs.append(length)
        ledger.datas.append(data)
        outgoing.append(pack_record(HEADER + size, tag, 0))
        if size:
            outgoing.append(data)
        self.outgoing_bytes = before + _LEAST + size

    def reset_done(self, tag: int, ok: bool) -> None:
        """Answer Reset."""
        self.complete(tag, Completion(Status.OK if ok else Status.GONE))

    def gone(self) -> None:
        """The device left, or is taken from the controller, and everything pending is answered."""
        if self._session is not None:
            self._session.end_all(Status.GONE)
        self._finish_backlog()
        self._end_hold(code_of(Status.GONE))
        self.state = TARGET.get((self.state, "device gone"), Target.OVER)  # in any state, for a server that closes

    def disconnected(self, now: float) -> bool:
        """The transport is lost; whether the claim waits for another (§8)."""
        self._linked = self._attached = self._is_simple = False
        self._burst = self._short_room = 0
        self._clear()
        self._unconfirmed.clear()
        self._repeats.clear()
        if self.state is not Target.OVER:
            self._move("transport lost, token unproven" if self._claimed else "transport lost")
            self._lost_at = now
        return self.state is Target.DETACHED

    def set_way(self, way: Way) -> None:
        """The transport that there is, or that `connected` comes to."""
        self._way = way
        self._burst = BURST if self._attached and not way.packet_bytes else 0
        self._short_room = 0  # until there is something to read

    def connected(self, now: float) -> None:
        """Another transport, on which the RESUME of this session comes next."""
        self._resumed = None
        self._claimed = b""  # for who names the token has it
        if self._linked:
            self.disconnected(now)
        self._linked = True
        self._heard = now
        self.needed = _LEAST

    def _no_record(self, size: int) -> ProtocolError:
        if self.state is Target.NEW:
            return Stranger(self.protocol, self._view[self.consumed :])
        return ProtocolError(f"a record of {size} bytes, allowed are {HEADER} to {RECORD_BYTES}")
