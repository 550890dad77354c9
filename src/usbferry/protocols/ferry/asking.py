"""The calls of a transport, seen from the controller: version, list, claim, watch, resume, heartbeat, hold, and what
becomes of them.

Transfers are the `importer`'s; here it is decided whose they are, and whether there is anybody to send them to.
"""

from __future__ import annotations

from abc import abstractmethod
from secrets import token_bytes
from struct import error as struct_error
from typing import Final

from ...usb.types import Status
from ..errors import ProtocolError
from ..events import Changed, Claimed, Event, Left, Listed, Refusal, Refused
from ..limits import Limits
from . import infos
from .framing import HEADER, RECORD_BYTES
from .lanes import Lanes
from .messages import (
    CAPABILITIES,
    TOKEN_BYTES,
    TRANSPORT,
    VERSION,
    Call,
    Code,
    VersionReply,
    code_of,
    parse_words,
    version_call,
    words,
)
from .outbox import Outbox, Sent
from .states import CONTROLLER, Controller

LEAST_TRANSFER: Final = 1024  # bytes that a target takes in one: the largest bulk packet, USB 3.2 §9.6.6
_REASONS: Final[dict[int, tuple[Refusal, str]]] = {
    Code.UNKNOWN_DEVICE: (Refusal.NOT_FOUND, "the server has no such device"),
    Code.BUSY: (Refusal.BUSY, "somebody else uses it"),
    Code.NOT_OPENED: (Refusal.FAILED, "the server could not open it, its log should say why"),
    Code.UNAVAILABLE: (Refusal.UNAVAILABLE, "the server takes nobody now; try later"),
    Code.NO_SESSION: (Refusal.NOT_FOUND, "the server has given the device up, or was started again"),
    code_of(Status.GONE): (Refusal.NOT_FOUND, "the device has left the server"),
    Code.NO_COMMON_VERSION: (
        Refusal.FAILED,
        f"the server speaks no version of ferry known here, which is {VERSION}; update the older",
    ),
}


class Asking(Lanes):
    """What a controller asks of a target besides transfers."""

    def __init__(self, limits: Limits, *, resends: bool) -> None:
        super().__init__()
        self.state = Controller.IDLE
        self.session = b""  # the token of the claim
        self.instance = b""  # of the target's process
        self.ended = ""  # why the claim is over, for people
        self._limits = limits
        self._resends = resends
        self._heartbeat, self._grace = limits.heartbeat_seconds, limits.grace_seconds
        self.limit = limits.transfer_bytes  # of one transfer, that the target takes at all
        self._greeted = False  # VERSION was said on this transport
        self._asked: dict[int, Sent] = {}  # calls of the transport without reply
        self._later: list[Sent] = []  # that wait for VERSION's or RESUME's, where packets may overtake each other
        self._questions = 0
        self._outbox = Outbox(limits.transfers, limits.bytes_in_flight)
        self._adopts = False

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

    def _resume(self) -> None:
        outstanding = self._outbox.resuming()
        self._ask(Call.RESUME, self.session + words([len(outstanding), *outstanding]))

    def _ask(self, number: Call, body: bytes = b"") -> None:
        """A call of the transport; the first of all says which versions are spoken here."""
        if not self._greeted:
            self._greeted = True
            self._ask(Call.VERSION, version_call(CAPABILITIES, (VERSION,)))
        call = Sent(number, word_of(number), body)
        if self._resends and any(one.number in (Call.VERSION, Call.RESUME) for one in self._asked.values()):
            self._later.append(call)
        else:
            self._ask_now(call)

    def _ask_now(self, call: Sent) -> None:
        call.identifier = TRANSPORT | self._questions
        self._questions = self._questions + 1 & ~TRANSPORT
        self._asked[call.identifier] = call
        self._transmit(call)

    @property
    def _longest(self) -> int:
        """Bytes in the body of a call that is not cut."""
        return min(self._way.packet_bytes or RECORD_BYTES, RECORD_BYTES) - HEADER

    @abstractmethod
    def _transmit(self, call: Sent) -> None:
        """Send a call, for the first time on this transport."""

    @abstractmethod
    def _send(self) -> None:
        """Send what there is room for."""

    @abstractmethod
    def _proceed(self) -> None:
        """There may be room."""

    @abstractmethod
    def _resumed_at(self, expected: int) -> None:
        """Send what the target never had. Raises ProtocolError for what cannot be expected."""

    @abstractmethod
    def _acknowledge(self) -> None:
        """Say which replies are here."""

    # -- answers ------------------------------------------------------------------------------------------------------

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
                    if code:  # nothing is acknowledged by it: RESUME does that
                        raise ProtocolError(f"the server gave a heartbeat the status {code}")
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
        granted = min(reply.transfer_bytes, reply.window_bytes)
        if reply.version != VERSION or not reply.heartbeat or not reply.window_calls or granted < LEAST_TRANSFER:
            raise ProtocolError(
                f"version {reply.version}, {reply.window_calls} calls, {granted} bytes of a transfer, "
                f"a heartbeat in {reply.heartbeat} s"
            )
        self._heartbeat, self._grace = reply.heartbeat, reply.grace
        # no more may be outstanding than one RESUME names, for it is never cut (§8.2)
        named = (self._longest - TOKEN_BYTES - 4) // 4
        self._outbox.grant(min(reply.window_calls, named), reply.window_bytes)
        if not self.instance:  # a claim keeps what it was granted: transfers may have been cut to it
            self.limit = granted
        self.instance = reply.instance
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
            case Controller.USING:  # a claim that was taken over, and then its device was not there to be described
                self._end("HOLD answered", text)
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
        self._move("resumed")
        self._ask(Call.HOLD)
        self._resumed_at(expected)
        if self._adopts:
            self._outbox.put(Sent(Call.DESCRIBE, word_of(Call.DESCRIBE)))
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


def word_of(number: int, endpoint: int = 0, flags: int = 0) -> int:
    """The second word of a call."""
    return number << 24 | endpoint << 16 | flags
