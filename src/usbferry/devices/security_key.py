"""A security key for tests, FIDO2 and U2F: it registers and authenticates, with keys that are in memory alone.

    key = SecurityKey(wait=True)
    key.touch()              # as a person would; before it is asked for, or when it is
    key.refuse()             # the person goes away
    key.keys.counter         # signatures so far

Lines: `touch`, `refuse`. It protects nothing: whoever runs this process can use its keys, and when the process ends
they are lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from struct import unpack_from
from typing import ClassVar, Final

from ..device import DeviceError
from ..usb.setup import Setup
from ..usb.transfer import Transfer
from ..usb.tree import DeviceDescriptor
from ..usb.types import Speed
from .chapter9 import Stall
from .clock import Clock
from .driven import Verb
from .fido import keys, u2f
from .fido import pin as pins
from .fido.codes import Code, Refused
from .fido.ctap2 import Authenticator
from .fido.ctaphid import MAX_MESSAGE, PACKET, Channels, Command, Error, Message
from .hid.device import OUT
from .hid.driven import DrivenHid
from .hid.reports import INPUT, OUTPUT, Page, application, data
from .pipe import Answer
from .virtual import done, endpoint, request

_TOUCH_SECONDS: Final = 30.0  # for a person to do it
_MOST_WAITING: Final = 2 * MAX_MESSAGE // PACKET  # packets that the host has not fetched, before it may send more


class SecurityKey(DrivenHid[bytes]):
    """A person touches it at once, or with `wait` when told to: by `touch`, or a line of `pipe`.

    `verify` has it know the person, as by a fingerprint, and `pin` is how else it does; hosts may change that. `pipe`
    is a FIFO, a file, or `-` for standard input, with lines as the module has them. Raises ValueError for a PIN that
    none can be, and DeviceError, once somebody uses it, where `cryptography` or `cbor2` is missing.
    """

    descriptor = DeviceDescriptor(0x1209, 0x0006)
    product = "Security key for tests"
    report_descriptor = application(
        Page.FIDO, 0x01, data(INPUT, Page.FIDO, 0x20, PACKET), data(OUTPUT, Page.FIDO, 0x21, PACKET)
    )
    input_bytes = output_bytes = PACKET
    interrupt_out = True
    speeds = (Speed.FULL, Speed.HIGH)  # low speed has packets of 8 bytes
    verbs: ClassVar = {"touch": Verb(), "refuse": Verb()}

    def __init__(
        self,
        *,
        wait: bool = False,
        verify: bool = False,
        pin: str = "",
        pipe: str = "",
        speed: Speed = Speed.FULL,
        serial: str = "",
        clock: Clock | None = None,
    ) -> None:
        self.speed = speed
        self.serial = serial
        super().__init__(pipe=pipe, delay=0.0, clock=clock)
        self.keys = keys.Keys()
        self._waits, self._verifies, self._has_pin = wait or bool(pipe), verify, bool(pin)
        if pin:
            self.keys.set_pin(_digest(pin))
        self._authenticator: Authenticator | None = None
        self._done: deque[bool] = deque()  # touches, and refusals, that nobody has asked for yet
        self._asked: asyncio.Future[bool] | None = None
        self._working: asyncio.Task[None] | None = None
        self._last = bytes(PACKET)
        self.channels = Channels(lambda: self.clock, self.queue, self._begin, self._cancelled, self._dropped)

    # -- a person -----------------------------------------------------------------------------------------------------

    def touch(self) -> None:
        """A person touches it; where nobody is asked to, that counts for who is next."""
        self._decide(True)

    def refuse(self) -> None:
        """A person does not want what is asked for."""
        self._decide(False)

    @property
    def is_waiting(self) -> bool:
        """Whether it blinks: a host waits for a touch."""
        return self._asked is not None

    def _decide(self, touched: bool) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(touched)
        else:
            self._done.append(touched)

    async def _person(self) -> None:
        """Wait for a person. Raises Refused."""
        if not self._waits:
            return
        if not self._done:
            await self._ask()
        elif not self._done.popleft():
            raise Refused(Code.OPERATION_DENIED)

    async def _ask(self) -> None:
        self._asked = asked = asyncio.get_running_loop().create_future()
        timer = self.clock.call_at(self.clock.now() + _TOUCH_SECONDS, lambda: _give_up(asked, Code.USER_ACTION_TIMEOUT))
        self.channels.wait_for_touch(True)
        try:
            if not await asked:
                raise Refused(Code.OPERATION_DENIED)
        finally:
            timer.cancel()
            self._asked = None
            self.channels.wait_for_touch(False)

    def _is_touched(self) -> bool:
        """For U2F, which does not wait."""
        return not self._waits or (bool(self._done) and self._done.popleft())

    # -- messages -----------------------------------------------------------------------------------------------------

    def _begin(self, message: Message) -> None:
        self._working = self.later(self._work(message))

    async def _work(self, message: Message) -> None:
        payload = bytes(message.payload)
        try:
            if message.command == Command.MSG:
                answer = u2f.answered(payload, self.keys, self._is_touched)
            else:
                assert self._authenticator is not None
                answer = await self._authenticator.answered(payload)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self.channels.fail(message, Error.OTHER)
            raise
        self.channels.answer(message, answer)

    def _cancelled(self) -> None:
        """By the host, CTAPHID_CANCEL: what does not wait for a person goes on."""
        if self._asked is not None:
            _give_up(self._asked, Code.KEEPALIVE_CANCEL)

    def _dropped(self, channel: int) -> None:
        """Nobody wants what is under way on a channel."""
        if self._working is not None and self.channels.is_idle:
            self._working.cancel()
        self._queue = deque(one for one in self._queue if unpack_from(">I", one[0])[0] != channel)

    # -- packets ------------------------------------------------------------------------------------------------------

    def encode(self, change: bytes) -> tuple[bytes, None]:
        self._last = change
        if len(self._queue) == _MOST_WAITING:
            self.kick(OUT)
        return change, None

    def current_report(self) -> bytes:
        return self._last

    def output(self, report: bytes) -> None:
        if len(self._queue) > _MOST_WAITING:
            raise Stall
        for at in range(0, len(report), PACKET):
            self.channels.receive(report[at : at + PACKET])

    @endpoint(OUT)
    def _take(self, transfer: Transfer) -> Answer:
        """A host that does not fetch its answers has to wait before it sends more."""
        if len(self._queue) > _MOST_WAITING:
            return None
        self.output(bytes(transfer.data))
        return done(transfer)

    @request(0x21, 0x0A)
    def _set_idle(self, setup: Setup, _: bytes) -> None:
        """A packet is not sent twice: there are no idle reports, but for hosts that want none either."""
        self._check_interface(setup)
        if setup.value:
            raise Stall

    # -- life ---------------------------------------------------------------------------------------------------------

    async def plugged(self) -> None:
        if remedy := keys.remedy():
            raise DeviceError(remedy)
        await super().plugged()

    async def opened(self) -> None:
        if not keys.is_loaded():
            await asyncio.to_thread(keys.load)  # not at the first request: meanwhile no other device would answer
        self._authenticator = Authenticator(self.keys, self._person, self.clock.now, self._verifies, self._has_pin)
        await super().opened()

    def _start_over(self) -> None:
        super()._start_over()
        self.channels.restart()
        if self._working is not None:
            self._working.cancel()
        self._queue.clear()


def _digest(text: str) -> bytes:
    try:
        return pins.digest(text.encode())
    except Refused:
        raise ValueError("a PIN has 4 to 63 bytes") from None


def _give_up(asked: asyncio.Future[bool], code: Code) -> None:
    if not asked.done():
        asked.set_exception(Refused(code))
