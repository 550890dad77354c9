"""The way back: what devices answer goes to the exporter, and what the exporter has to say goes out in one write.

A device answers at once or by a future; a future's completion is said in the turn of the loop in which it ends, and all
completions of one turn are written together. The exporter's clock is kept here too, for what it says by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Final, Protocol, runtime_checkable

from ..device import Promise, ResetOutcome
from ..devices.clock import Alarm, Clock
from ..protocols.errors import ProtocolError
from ..protocols.events import Event, Refusal
from ..protocols.openings import Stranger
from ..registry import PROTOCOLS
from ..transports import turn
from ..transports.link import Link
from ..transports.refusals import Refusals
from ..usb.info import DeviceInfo
from ..usb.transfer import Buffer, Completion
from ..usb.types import Status

log: Final = logging.getLogger(__name__)
SETTLE_SECONDS: Final = 1.0  # for the last answers of a device that is closed or gone: it owes them at once

Answer = Completion | asyncio.Future[Completion]


class Exporter(Protocol):
    """What the pump wants of a protocol's exporter; `protocols.usbip.exporter` says what each part means."""

    protocol: str
    is_prompt: bool  # a completion's data is in `outgoing` when `complete` returns, and nowhere else
    consumed: int
    needed: int
    session: bytes  # names the claim to a later transport; empty while there is none, and always in USB/IP
    has_events: bool  # without more bytes, as of streams that it runs by itself; never in USB/IP
    outgoing: list[Buffer]
    outgoing_bytes: int

    @property
    def done(self) -> bool: ...
    def receive(self, view: memoryview, now: float) -> None: ...
    def events(self) -> Iterator[Event]: ...
    def deadline(self) -> float | None: ...
    def tick(self, now: float) -> None: ...
    def listed(self, devices: Iterable[DeviceInfo]) -> None: ...
    def accept(self, info: DeviceInfo) -> None: ...
    def refuse(self, reason: Refusal) -> None: ...
    def complete(self, tag: int, completion: Completion) -> None: ...
    def reset_done(self, tag: int, ok: bool) -> None: ...
    def gone(self) -> None: ...
    def disconnected(self, now: float) -> bool: ...


@runtime_checkable
class OnPackets(Protocol):
    """The class of an exporter whose protocol also runs where nobody connects before the first packet."""

    @staticmethod
    def opens(packet: bytes) -> bool:
        """Whether a packet from a new address begins a transport; what does not is dropped."""


class Answers:
    """All that goes from one pump to its importer."""

    def __init__(self, exporter: Exporter, end: Callable[[], None], clock: Clock, refusals: Refusals) -> None:
        self.link: Link | None = None
        self.name = "-"  # of the claimed device, for people
        self.closing = False  # what comes is not looked at any more: the connection is being closed
        self.trace = False  # whether answers are logged: asking the logger each time would cost as much as an answer
        self._exporter = exporter
        self._end = end  # the pump's: nothing more comes for it
        self._refusals = refusals
        self._loop = asyncio.get_running_loop()
        self._flush_due = self._turn_due = False
        self._may_borrow = False  # the next flush comes before what is lent now is used again
        self._awaited = 0  # futures that have not ended
        self._settled: asyncio.Event | None = None  # set when they have
        self.alarm = Alarm(clock, self._tick)  # the exporter's, whose `deadline` sets it

    # -- from the device ----------------------------------------------------------------------------------------------

    def give(self, tag: int, answer: Answer) -> None:
        """Take a device's answer, or the promise of one."""
        if answer.__class__ is Promise:
            self._awaited += 1
            if answer.done():  # it tells no listener any more, and what came before it has been said
                self._later(tag, answer)
                return
            answer.listener, answer.tag = self, tag
        elif isinstance(answer, Completion):
            self._say(tag, answer)
        else:
            self._awaited += 1
            answer.add_done_callback(partial(self._later, tag))

    def give_reset(self, tag: int, future: asyncio.Future[ResetOutcome]) -> None:
        """Take the promise of a reset's outcome."""
        self._awaited += 1
        future.add_done_callback(partial(self._was_reset, tag))

    def fail_transfer(self, tag: int) -> None:
        """In an `except`: a device that fails over a transfer is a failed transfer, not a failed server."""
        log.exception("%s failed over #%d", self.name, tag)
        self._say(tag, Completion(Status.FAILED))

    async def settle(self) -> None:
        """Let a closed or vanished device's last completions be said."""
        if self._awaited:
            self._settled = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_SECONDS):
                    await self._settled.wait()
            if self._awaited:
                log.error("%s owes %d answers", self.name, self._awaited)

    def borrows(self) -> bool:
        """Whether a promise's data is written in this turn, and copied nowhere."""
        if not self._flush_due:
            self.flush_soon()
        return self._may_borrow and self._exporter.is_prompt

    def heard(self, tag: int, completion: Completion) -> None:
        """Take a promise that was kept."""
        if self.trace:
            log.debug("< %s #%d %s", self.name, tag, completion)
        try:
            self._exporter.complete(tag, completion)
        finally:
            self._awaited -= 1
            if not self._flush_due or not self._awaited:
                self._went()

    def _later(self, tag: int, future: asyncio.Future[Completion]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None or future.cancelled():
            log.error("%s failed over #%d", self.name, tag, exc_info=error)
        try:
            self._say(tag, Completion(Status.FAILED) if error is not None or future.cancelled() else future.result())
        finally:
            self._one_less()

    def _say(self, tag: int, completion: Completion) -> None:
        if self.trace:
            log.debug("< %s #%d %s", self.name, tag, completion)
        self._exporter.complete(tag, completion)

    def _was_reset(self, tag: int, future: asyncio.Future[ResetOutcome]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            log.error("%s failed over its reset", self.name, exc_info=error)
        same = not future.cancelled() and error is None and future.result() is ResetOutcome.SAME
        try:
            self._exporter.reset_done(tag, same)
            if not same:
                self._exporter.gone()
        finally:
            self._one_less()

    def _one_less(self) -> None:
        self._awaited -= 1
        self._went()

    def _went(self) -> None:
        if not self._awaited and self._settled is not None:
            self._settled.set()
        if not self._flush_due:
            self.flush_soon()

    # -- to the link --------------------------------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """Bytes that the network has not taken yet."""
        return self.link.unsent if self.link is not None else 0

    def flush_soon(self) -> None:
        """Write once for all the completions of this turn."""
        if not self._flush_due:
            self._flush_due = True
            self._may_borrow = turn.defer(self.flush) and self.link is not None and self.link.is_prompt

    def flush(self) -> None:
        """Write what the exporter has to say, and close the connection when that was the last."""
        self._flush_due = False
        exporter, link = self._exporter, self.link
        if link is None:
            return
        if exporter.outgoing:
            pieces, size = exporter.outgoing, exporter.outgoing_bytes
            exporter.outgoing, exporter.outgoing_bytes = [], 0
            link.write(pieces, size)
        if exporter.done:
            self.closing = True
            link.close()
            return
        if exporter.has_events:
            self.process_soon()
        self.alarm.set(exporter.deadline())

    def flush_and_process(self) -> None:
        """Write, then look at what has come meanwhile."""
        self.flush()
        if self.link is not None:
            self.link.process()

    def process_soon(self) -> None:
        """Go on with what is not read or not done yet when others have had their turn."""
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        if self.link is not None:
            self.link.process()

    def flush_or_end(self) -> None:
        """What has no transport, and waits for none any more, ends."""
        if self.link is None and self._exporter.done:
            self._end()
        else:
            self.flush()

    def fail(self, error: ProtocolError) -> None:
        """The importer broke its protocol: close, once what it is owed is written."""
        if self.link is not None and not self.closing:
            if isinstance(error, Stranger):
                text = f": {error}; {_remedy(self._exporter.protocol, error.spoken)}"
            else:
                text = f" broke {self._exporter.protocol}: {error}"
            level = self._refusals.level(self.link.peer, text, self._loop.time())  # some connect for ever
            log.log(level, "%s%s", self.link.peer, text)
            self.flush()
            self.closing = True
            self.link.close()

    # -- time ---------------------------------------------------------------------------------------------------------

    def set_timer(self) -> None:
        """Call the exporter when it wants to be called now, whatever it wanted before."""
        self.alarm.stop()
        self.alarm.set(self._exporter.deadline())

    def _tick(self, now: float) -> None:
        try:
            self._exporter.tick(now)
        except ProtocolError as error:
            self.fail(error)
            return
        self.alarm.set(self._exporter.deadline())
        self.flush_or_end()


def _remedy(protocol: str, spoken: str) -> str:
    """What to do about a client that speaks another protocol."""
    if spoken in PROTOCOLS:
        return f"write {protocol}:// there, or serve it --on {spoken}://HOST here"
    return "is the port right there?"
