"""The calls of a transport, seen from the target: version, list, claim, watch, resume, heartbeat, hold.

Those of a claim are its `session`'s, which outlives the transport.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from secrets import token_bytes
from struct import error as struct_error
from typing import Final

from ...usb.info import DeviceInfo
from ...usb.transfer import Buffer, Completion
from ..errors import ProtocolError
from ..events import Claim, Event, List, Refusal, Watch
from ..limits import Limits
from ..pending import Entry
from . import infos
from .framing import HEADER, MARKER, PART_BYTES, Way, pack_record, records
from .lanes import BURST, ENOUGH, Lanes
from .ledger import Message
from .messages import (
    CAPABILITIES,
    FIRST,
    REFUSALS,
    SESSION_CALLS,
    TOKEN_BYTES,
    TRANSPORT,
    TRANSPORT_CALLS,
    VERSION,
    Call,
    Code,
    VersionCall,
    VersionReply,
    parse_words,
    words,
)
from .repeats import Repeats
from .session import Session
from .states import TARGET, Target
from .transfers import kept


class Desk(Lanes):
    """Where a controller is received: its calls that are no session's are answered here, as they come."""

    _burst: int  # bytes of records that may go out as they are; 0 where there is no controller, or no stream to it

    def __init__(self, limits: Limits, instance: bytes, token: Callable[[], bytes]) -> None:
        super().__init__()
        self.state = Target.NEW
        self.consumed = 0  # bytes of the last view that are done with
        self._limits = limits
        self._instance = instance
        self._token = token
        self._begins = 0  # where packets may come from anybody: the identifier that the next call has to have
        self._challenge = 0  # the same, until one had it
        self._attached = True  # there is a controller that knows where the session stands
        self._session: Session | None = None
        self._listing: deque[int] = deque()  # identifiers of calls that wait
        self._claim = 0
        self._claimed = b""  # the claim's reply, until the controller shows that it has the token
        self._first = FIRST  # identifier of the next session
        self._spent = 0  # a claim that was released
        self._resuming: tuple[int, int] | None = None  # identifier of a RESUME that was passed on, and where it ends
        self._resumed: tuple[int, int] | None = None  # that of the one that brought this transport, and its answer
        self._watch: int | None = None
        self._changes = 0
        self._hold: int | None = None
        self._unconfirmed: dict[int, None] = {}  # calls of the session that just came, where packets get lost
        self._repeats = Repeats()  # there
        self._is_measuring = False  # there, until something follows the answer to RESUME: a round trip

    # -- what the pump answers ----------------------------------------------------------------------------------------

    @property
    def session(self) -> bytes:
        """The token of the claim; empty while there is none."""
        return self._session.token if self._session is not None else b""

    def listed(self, devices: Iterable[DeviceInfo]) -> None:
        """Answer List (§6.2): of each device the configuration in force, without the others."""
        packed = []
        for info in devices:
            in_force = (info.active,) if info.active is not None else ()
            packed.append(infos.pack(replace(info, configurations=in_force), self._limits))
        body = words([len(packed)]) + b"".join([words([len(one)]) + one for one in packed])
        self._say(self._listing.popleft(), Code.OK, body)

    def accept(self, info: DeviceInfo) -> None:
        """Answer Claim: the controller has the device (§6.3)."""
        self._session = Session(self._limits, self._token(), self._first, self._send)
        self._move("device opened")
        self._claimed = self.session + infos.pack(info, self._limits)
        self._say(self._claim, Code.OK, self._claimed)

    def refuse(self, reason: Refusal) -> None:
        """Answer Claim or Resume: there is no such thing, or it cannot be had."""
        if self._resuming is not None:
            identifier, self.consumed = self._resuming
            self._resuming = None
            self._say(identifier, Code.NO_SESSION)
        else:
            self._move("refused")
            self._say(self._claim, REFUSALS[reason])

    def released(self) -> None:
        """Answer Release: the device is closed, what was pending is answered. The transport goes on."""
        if self._session is not None and self.state is Target.RELEASING:
            self._session.released()
            self._finish_backlog()
            self._first, self._spent = self._session.expected, self._claim
            self._session = None
            self._repeats.clear()
            self._end_hold(Code.OK)
            self._move("device closed")

    def described(self, info: DeviceInfo) -> None:
        """Answer Describe."""
        assert self._session is not None
        self._session.described(info)

    def noticed(self) -> None:
        """Answer Watch: something changed (§6.10)."""
        self._changes += 1
        if self._watch is not None:
            self._say(self._watch, Code.OK, words([self._changes]))
            self._watch = None

    # -- calls --------------------------------------------------------------------------------------------------------

    def _shows(self, identifier: int, number: int) -> bool:
        """Whether a call may come from nobody but who had our answer to VERSION, or is VERSION itself."""
        if identifier == self._challenge:
            self._challenge = 0
            self._way.proven()
        return not self._challenge or number == Call.VERSION

    def _take(self, identifier: int, number: int, body: memoryview) -> Event | None:
        due = Call.VERSION if self.state is Target.NEW else Call.RESUME
        if (self.state is Target.NEW or not self._attached) and number not in (Call.VERSION, due):
            raise ProtocolError(f"call {number} where {due.name} is due")
        handler = _HANDLERS.get(number)
        if handler is None:
            self._say(identifier, Code.MALFORMED if number in SESSION_CALLS else Code.UNKNOWN_CALL)
            return None
        try:
            return handler(self, identifier, body)
        except (struct_error, ValueError):
            self._say(identifier, Code.MALFORMED)
            return None

    def _pass_on(self, message: Message) -> Event | None:
        """A call of the session."""
        if self.state is not Target.CLAIMED:
            if self.state is Target.NEW or not self._attached:
                raise ProtocolError(f"call {message.number} on a transport without version or session")
            self._say(message.identifier, Code.NOT_CLAIMED)
            return None
        assert self._session is not None
        self._claimed = b""
        if self._way.is_lossy and not self._session.ledger.was_received(message.identifier):
            self._unconfirmed[message.identifier] = None
        return self._session.take(message)

    def _confirm(self) -> None:
        """IN_PROGRESS for what waits here: a controller then knows it to be safe, and what is missing before it."""
        if self._session is not None:
            ledger, waiting = self._session.ledger, self._session.pending.entries
            for identifier in self._unconfirmed:
                if identifier in ledger.early:
                    self._say(identifier, Code.IN_PROGRESS)
                    self._repeats.parks(identifier, ledger.early[identifier].endpoint)
                elif identifier in ledger.open:
                    self._say(identifier, Code.IN_PROGRESS)
                    if identifier in waiting:
                        self._repeats.parks(identifier, waiting[identifier].transfer.endpoint)
        self._unconfirmed.clear()

    def _version(self, identifier: int, body: memoryview) -> None:
        call, limits = VersionCall.parse(body), self._limits
        if VERSION not in parse_words(body, VersionCall.SIZE, call.count):
            if self.state is Target.NEW:
                self._move("no common version")
            self._say(identifier, Code.NO_COMMON_VERSION, words([1, VERSION]))
            return
        reply = VersionReply(
            VERSION,
            CAPABILITIES,
            self._instance,
            limits.heartbeat_seconds,
            limits.grace_seconds,
            limits.transfers,
            limits.bytes_in_flight,
            limits.transfer_bytes,
        )
        if self._way.is_lossy and self.state is Target.NEW:
            self._challenge = self._begins = TRANSPORT | int.from_bytes(token_bytes(4), "big")
        self._say(identifier, Code.OK, reply.pack() + (words([self._begins]) if self._way.is_lossy else b""))
        if self.state is Target.NEW:
            self._move("VERSION")

    def _list(self, identifier: int, body: memoryview) -> Event:
        self._listing.append(identifier)
        return List()

    def _claim_device(self, identifier: int, body: memoryview) -> Event | None:
        name = infos.parse_name(body)
        if identifier == self._spent:
            self._say(identifier, Code.FORGOTTEN)
        elif self.state is Target.OPEN:
            self._claim = identifier
            self._move("CLAIM")
            return Claim(name)
        elif identifier != self._claim:
            self._say(identifier, Code.BUSY)
        elif self._claimed:
            self._say(identifier, Code.OK, self._claimed)
        else:
            self._say(identifier, Code.IN_PROGRESS)
        return None

    def _watch_changes(self, identifier: int, body: memoryview) -> Event | None:
        [seen] = parse_words(body, 0, 1)
        is_first = not self._changes
        self._changes = self._changes or 1
        if self._watch is not None and self._watch != identifier:
            self._say(self._watch, Code.OK, words([self._changes]))
        self._watch = identifier if seen == self._changes else None
        if self._watch is None:
            self._say(identifier, Code.OK, words([self._changes]))
        return Watch() if is_first else None

    def _hold_claim(self, identifier: int, body: memoryview) -> None:
        if self.state is Target.CLAIMED:
            self._claimed = b""
            self._hold = identifier
        else:
            self._say(identifier, Code.NOT_CLAIMED)

    def _end_hold(self, code: int) -> None:
        if self._hold is not None:
            self._say(self._hold, code)
            self._hold = None

    def _heartbeat(self, identifier: int, body: memoryview) -> None:
        ends = parse_words(body, 0, len(body) // 8 * 2)
        if self._session is not None:
            self._session.acknowledge(zip(ends[::2], ends[1::2], strict=True))
        self._say(identifier, Code.OK)

    def _resume(self, identifier: int, body: memoryview) -> None:
        """Take up the session where the controller says it stands (§8.2)."""
        count = int.from_bytes(body[TOKEN_BYTES : TOKEN_BYTES + 4], "big")
        outstanding = parse_words(body, TOKEN_BYTES + 4, count)
        if self._session is None or bytes(body[:TOKEN_BYTES]) != self.session or (self.state, "RESUME") not in TARGET:
            self._say(identifier, Code.BUSY)
            return
        if self._resumed is None or self._resumed[0] != identifier:  # or it is a duplicate, and what it says is old
            self._move("RESUME")
            self._attached = True
            self.set_way(self._way)
            self._claimed, self._watch, self._hold = b"", None, None
            self._resumed = (identifier, self._session.expected)
            self._say(identifier, Code.OK, words([self._session.expected]))
            self._session.resume(outstanding)
            for entry in self._session.pending:
                self._repeats.parks(entry.tag, entry.transfer.endpoint)
            self._repeats.trip = 0.0
        else:
            self._say(identifier, Code.OK, words([self._resumed[1]]))
        self._is_measuring = True

    @abstractmethod
    def set_way(self, way: Way) -> None:
        """The transport that there is, or that the session's next controller comes by."""

    # -- replies ------------------------------------------------------------------------------------------------------

    def _say(self, identifier: int, code: int, body: bytes = b"") -> None:
        """A reply that nobody keeps."""
        self._send(identifier, code, body, b"")

    def _send(self, identifier: int, code: int, head: bytes, data: Buffer, is_bulk: bool = False) -> None:
        if self._attached:
            way = self._way
            chunks = records(identifier, code, head, data, Code.PART, way.packet_bytes)
            (self._say_bulk if is_bulk else self._say_records)(chunks)
            if way.is_lossy and code != Code.IN_PROGRESS:
                self._repeats.says(identifier, is_short=HEADER + len(head) + len(data) <= way.packet_bytes)

    def _answer_late(self, session: Session, entry: Entry, completion: Completion) -> None:
        """A transfer that has left `pending`: what nearly all of them are goes a short way, as `exporter` has it."""
        tag, transfer = entry.tag, entry.transfer
        length, size = transfer.length, 0
        data: Buffer = b""
        if transfer.endpoint < 0x80:
            is_plain = completion.actual == length
        else:
            data = completion.data
            size = len(data)
            is_plain = size <= length and size <= PART_BYTES
        before = self.outgoing_bytes
        room = self._burst - self._way.unsent * (BURST // ENOUGH)
        if (
            not is_plain
            or completion.status
            or before >= room
            or self._backlog
            or transfer.setup
            or transfer.packets is not None
            or session.gates.held
        ):
            session.finish(tag, transfer, completion)
            return
        data = kept(data)
        session.ledger.answer(tag, 0, b"", data)
        self.outgoing.append(pack_record(HEADER + size, tag, 0))
        if size:
            self.outgoing.append(data)
        self.outgoing_bytes = before + MARKER + HEADER + size

    def _move(self, what: str) -> None:
        self.state = TARGET[self.state, what]


_HANDLERS: Final[dict[int, Callable[[Desk, int, memoryview], Event | None]]] = {
    Call.VERSION: Desk._version,
    Call.LIST: Desk._list,
    Call.CLAIM: Desk._claim_device,
    Call.WATCH: Desk._watch_changes,
    Call.RESUME: Desk._resume,
    Call.HEARTBEAT: Desk._heartbeat,
    Call.HOLD: Desk._hold_claim,
}
assert set(_HANDLERS) == TRANSPORT_CALLS
