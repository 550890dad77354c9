"""A reader's slot: messages in, answers out, and the card between them, which may take its time.

    message --> refused, or done at once --> answer
            `-> the card works on it: "more time" now and then --> answer

One message at a time; while it waits for its card, a host may ask for the slot's status and abort. Source: CCID 1.1.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from ..clock import Clock, Timer
from . import ccid
from .card import Card
from .ccid import Ask, Chain, Error, Icc, Message, Refused, Tell

log: Final = logging.getLogger(__name__)
_MORE_TIME: Final = 0.5  # seconds after which a host is told that the card needs more: it waits for over one


class Slot:
    """`later` runs what the card takes time for, `answered` is called when there is an answer in `answers`.

    `busy` is the seconds that the card takes for each command besides.
    """

    def __init__(
        self,
        card: Card,
        is_extended: bool,
        busy: float,
        clock: Callable[[], Clock],
        later: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        answered: Callable[[], None],
    ) -> None:
        self.card = card
        self.is_inserted = False
        self._is_extended, self._busy = is_extended, busy
        self._clock, self._later, self._answered_one = clock, later, answered
        self._worked: asyncio.Task[None] | None = None
        self._timer: Timer | None = None
        self.restart()

    def restart(self) -> None:
        """Forget what is half done, and switch the card off."""
        self.answers: deque[bytes] = deque()
        self._command = bytearray()  # an APDU that comes in several messages
        self._response = b""  # one that goes in several
        self._now: Message | None = None  # what the card works on
        self._aborted: int | None = None  # by a control request; its message is to come
        self._aborting: Message | None = None  # the other way round
        self._parameters: dict[int, bytes] = dict(ccid.PARAMETERS)
        self._is_powered = False
        self._stop()

    def turn(self, inserted: bool) -> bool:
        """The card is there from now on, or is not; whether that is news."""
        if self.is_inserted is inserted:
            return False
        self.is_inserted, self._is_powered = inserted, False
        self._command, self._response = bytearray(), b""
        if self._now is not None:
            self._fail(self._now, Error.MUTE)
        return True

    @property
    def state(self) -> Icc:
        if not self.is_inserted:
            return Icc.EMPTY
        return Icc.ACTIVE if self._is_powered else Icc.INACTIVE

    @property
    def room(self) -> int:
        """Bytes of a message's data at most."""
        return ccid.MAX_DATA[self._is_extended]

    # -- messages -----------------------------------------------------------------------------------------------------

    def receive(self, raw: bytes) -> None:
        """A whole message, of ten bytes or more."""
        kind, length, slot, number, own = ccid.HEADER.unpack_from(raw)
        message = Message(kind, slot, number, own, raw[ccid.HEADER.size :])
        try:
            if length != len(message.data) or length > self.room:
                raise Refused(Error.BAD_LENGTH)
            if slot:
                raise Refused(Error.BAD_SLOT)
            self._obey(message)
        except Refused as refused:
            self._fail(message, refused.error)

    def _obey(self, message: Message) -> None:
        if message.kind == Ask.ABORT:
            self._abort(message)
            return
        if self._aborted is not None or self._aborting is not None:
            raise Refused(Error.ABORTED)
        if self._now is not None and message.kind != Ask.GET_SLOT_STATUS:
            raise Refused(Error.SLOT_BUSY)
        does = _OBEYED.get(message.kind)
        if does is None:
            raise Refused(Error.NOT_SUPPORTED)
        does(self, message)

    def _slot_status(self, message: Message) -> None:
        if message.data:
            raise Refused(Error.BAD_LENGTH)
        self._say(message, Tell.STATUS, own=0 if self._is_powered else 1)  # the clock runs, or is stopped low

    def _power_on(self, message: Message) -> None:
        """§6.1.1. A card that is on is switched off and on."""
        if message.data:
            raise Refused(Error.BAD_LENGTH)
        if message.own[0] > 3:
            raise Refused(Error.BAD_OWN)  # no such voltage
        self._need_card()
        self._command, self._response = bytearray(), b""
        self._parameters = dict(ccid.PARAMETERS)
        try:
            self.card.reset()
        except Exception:
            log.exception("the card cannot be switched on")
            raise Refused(Error.MUTE) from None
        self._is_powered = True
        self._say(message, Tell.DATA, self.card.atr)

    def _power_off(self, message: Message) -> None:
        self._is_powered = False
        self._command, self._response = bytearray(), b""
        self._slot_status(message)

    def _clock_command(self, message: Message) -> None:
        """§6.1.8: taken, as its clock goes by itself."""
        if message.own[0] > 1:
            raise Refused(Error.BAD_OWN)
        self._need_card()
        self._slot_status(message)

    def _need_card(self) -> None:
        if not self.is_inserted:
            raise Refused(Error.MUTE)

    def _get_parameters(self, message: Message) -> None:
        self._need_card()
        self._tell_parameters(message)

    def _reset_parameters(self, message: Message) -> None:
        self._need_card()
        self._parameters = dict(ccid.PARAMETERS)
        self._tell_parameters(message)

    def _set_parameters(self, message: Message) -> None:
        """§6.1.7: of the protocol that the card speaks."""
        self._need_card()
        protocol = message.own[0]
        if protocol not in ccid.PARAMETERS or protocol not in ccid.protocols(self.card.atr):
            raise Refused(Error.BAD_OWN)
        if len(message.data) != len(ccid.PARAMETERS[protocol]):
            raise Refused(Error.BAD_LENGTH)
        self._parameters[protocol] = message.data
        self._tell_parameters(message)

    def _tell_parameters(self, message: Message) -> None:
        protocol = next((one for one in ccid.protocols(self.card.atr) if one in self._parameters), 0)
        self._say(message, Tell.PARAMETERS, self._parameters[protocol], protocol)

    # -- APDUs, §6.1.4 ------------------------------------------------------------------------------------------------

    def _transfer(self, message: Message) -> None:
        """Commands and responses may be in parts, where the reader takes extended ones."""
        self._need_card()
        if not self._is_powered:
            raise Refused(Error.HARDWARE)
        level = int.from_bytes(message.own[1:], "little")
        if level == Chain.GO_ON and self._response:
            self._respond(message)
            return
        expected = (Chain.MIDDLE, Chain.LAST) if self._command else (Chain.WHOLE, Chain.FIRST)
        if level not in expected or (level != Chain.WHOLE and not self._is_extended):
            self._command.clear()
            raise Refused(Error.BAD_LEVEL)
        self._command += message.data
        if len(self._command) > ccid.MAX_APDU or not message.data:
            self._command.clear()
            raise Refused(Error.BAD_LENGTH)
        if level in (Chain.FIRST, Chain.MIDDLE):
            self._say(message, Tell.DATA, own=Chain.GO_ON)
            return
        command, self._command = bytes(self._command), bytearray()
        self._ask(message, command)

    def _ask(self, message: Message, command: bytes) -> None:
        """Have the card do it: at once where it can."""
        self._response = b""
        try:
            answer = self.card.apdu(command)
        except Exception:
            log.exception("the card failed over %s", command[:20].hex())
            raise Refused(Error.MUTE) from None
        if self._busy or inspect.isawaitable(answer):
            self._now = message
            self._worked = self._later(self._work(message, answer))
            self._wait_more(message)
        else:
            self._answered(message, answer)

    async def _work(self, message: Message, answer: object) -> None:
        if self._busy:
            await self._pass(self._busy)
        given, has_failed = None, False
        try:
            given = await answer if inspect.isawaitable(answer) else answer
        except Exception:
            log.exception("the card failed")
            has_failed = True
        if message is not self._now:
            return
        self._now = None
        self._stop_timer()
        if has_failed:
            self._fail(message, Error.MUTE)
        else:
            self._answered(message, given)

    async def _pass(self, seconds: float) -> None:
        over = asyncio.Event()
        timer = self._clock().call_at(self._clock().now() + seconds, over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()

    def _answered(self, message: Message, response: object) -> None:
        most = ccid.MAX_APDU if self._is_extended else 258
        if not isinstance(response, bytes):
            log.error("the card answered %r: a response is bytes", response)
            self._fail(message, Error.MUTE)
            return
        if not 2 <= len(response) <= most:
            log.error("the card answered %d bytes: 2 to %d are a response", len(response), most)
            self._fail(message, Error.MUTE)
            return
        self._response = response
        self._respond(message)

    def _respond(self, message: Message) -> None:
        """The next part of the response; the host asks for those behind the first."""
        is_first = int.from_bytes(message.own[1:], "little") != Chain.GO_ON
        piece, self._response = self._response[: self.room], self._response[self.room :]
        if self._response:
            chain = Chain.FIRST if is_first else Chain.MIDDLE
        else:
            chain = Chain.WHOLE if is_first else Chain.LAST
        self._say(message, Tell.DATA, piece, chain)

    def _wait_more(self, message: Message) -> None:
        self._timer = self._clock().call_at(self._clock().now() + _MORE_TIME, lambda: self._more_time(message))

    def _more_time(self, message: Message) -> None:
        """§6.2.1: the host is to wait for as long again; once is enough while it has not heard of it."""
        if not self.answers:
            self._say(message, Tell.DATA, status=ccid.MORE_TIME, error=1)
        self._wait_more(message)

    # -- aborts, §5.3.1 -----------------------------------------------------------------------------------------------

    def abort(self, number: int) -> None:
        """By a control request: what is under way ends, and all fails until the message of this number is there."""
        self._aborted = number
        if self._now is not None:
            self._fail(self._now, Error.ABORTED)
        if self._aborting is not None:
            self._abort(self._aborting)

    def _abort(self, message: Message) -> None:
        """The message to the request, whichever comes first: it is answered when both are there."""
        self._aborting = message
        if self._aborted == message.number:
            self._aborted = self._aborting = None
            self._command, self._response = bytearray(), b""
            self._slot_status(message)

    # -- answers ------------------------------------------------------------------------------------------------------

    def _fail(self, message: Message, error: Error) -> None:
        if message is self._now:
            self._stop()
        protocol = message.kind in (Ask.SET_PARAMETERS, Ask.GET_PARAMETERS, Ask.RESET_PARAMETERS)
        own = ccid.protocols(self.card.atr)[0] if protocol else 0
        self._say(message, ccid.REPLIES.get(message.kind, Tell.STATUS), status=ccid.FAILED, error=error, own=own)

    def _say(
        self, message: Message, kind: Tell, payload: bytes = b"", own: int = 0, *, status: int = 0, error: int = 0
    ) -> None:
        rest = bytes((status | self.state, error, own))
        self.answers.append(ccid.HEADER.pack(kind, len(payload), message.slot, message.number, rest) + payload)
        self._answered_one()

    def _stop(self) -> None:
        """Nobody wants what the card works on."""
        self._now = None
        self._stop_timer()
        if self._worked is not None:
            self._worked.cancel()
            self._worked = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_OBEYED: Final[Mapping[int, Callable[[Slot, Message], None]]] = {
    Ask.GET_SLOT_STATUS: Slot._slot_status,
    Ask.POWER_ON: Slot._power_on,
    Ask.POWER_OFF: Slot._power_off,
    Ask.ICC_CLOCK: Slot._clock_command,
    Ask.GET_PARAMETERS: Slot._get_parameters,
    Ask.RESET_PARAMETERS: Slot._reset_parameters,
    Ask.SET_PARAMETERS: Slot._set_parameters,
    Ask.TRANSFER: Slot._transfer,
}
