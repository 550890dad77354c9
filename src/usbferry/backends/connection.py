"""One importer on one link: questions become answers or errors, transfers become futures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from math import inf
from typing import Any, Final, Protocol, cast, runtime_checkable

from ..device import DeviceError, Promise
from ..devices.clock import Alarm, LoopClock
from ..protocols.errors import ProtocolError
from ..protocols.events import Claimed, Completed, Event, Left, Lent, Listed, Refused
from ..protocols.openings import Stranger, check
from ..transports import turn
from ..transports.link import Link
from ..transports.reasons import reason
from ..usb.transfer import Buffer, Completion, Transfer
from ..usb.types import Status
from .doubts import DOUBT_SECONDS, Doubt, Silent, Unreached, doubted, refusal, remedy, settle, wordless

log: Final = logging.getLogger(__name__)
GREETING_SECONDS: Final = 5.0  # for the first byte of a server that speaks first


class Importer(Protocol):
    """What a connection wants of its protocol's importer; `protocols.usbip.importer` says what each part means."""

    protocol: str
    is_prompt: bool  # a transfer that has no packets is in `outgoing` when `submit` returns, and nowhere else
    opening: bytes
    limit: int
    consumed: int
    needed: int
    outgoing: list[Buffer]
    outgoing_bytes: int

    @property
    def largest(self) -> int: ...
    @property
    def has_events(self) -> bool: ...
    def list_devices(self) -> None: ...
    def claim(self, name: str) -> None: ...
    def submit(self, transfer: Transfer) -> int: ...
    def cancel(self, tag: int) -> Completion | None: ...
    def receive(self, view: memoryview, now: float) -> None: ...
    def events(self) -> Iterator[Event]: ...
    def deadline(self) -> float | None: ...
    def tick(self, now: float) -> None: ...


class Resending(Importer, Protocol):
    """An importer for links that lose what is sent."""

    def leaves(self, now: float) -> None: ...


@runtime_checkable
class Streaming(Importer, Protocol):
    """An importer whose protocol has bulk streams. Both return the tag of the Completed that answers."""

    def alloc_streams(self, endpoints: tuple[int, ...], count: int) -> int: ...
    def free_streams(self, endpoints: tuple[int, ...]) -> int: ...


class Connection:
    """An importer and its link, from the connection to its end. `server` is its name in messages."""

    def __init__(self, importer: Importer, server: str) -> None:
        self.importer = importer
        self.server = server
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # as `Device.gone`
        self.in_use = False  # nobody waits for an answer who would be told of an error: it is logged
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self.over: Status | None = None  # what transfers end with once there is no connection
        self._error: ProtocolError | None = None
        self._answer: asyncio.Future[Listed | Claimed] | None = None
        self._about = server  # what was asked for, for messages
        self._flying: dict[int, Promise] = {}  # by the importer's tags
        self._behind: dict[int, list[tuple[Promise, Completion]]] = {}  # what was refused, by the tag
        self._flush_due = False
        self._may_lend = False  # what is to be flushed will be before its lender uses it again
        self._clock = LoopClock(inf)  # nothing here waits in the loop, whose turns that would make dearer
        self._alarm = Alarm(self._clock, self._tick)  # the importer's, whose `deadline` sets it
        self._lost = asyncio.Event()
        self._lost_by: Exception | None = None
        self._heard = False  # the server has said something
        self._is_known = False  # some of it made sense: later bytes are no opening, and may look like any

    @property
    def reason(self) -> str:
        """Why it ended, for people."""
        return self.gone.result() if self.gone.done() else "the connection was closed"

    @property
    def is_greeted(self) -> bool:
        """Whether the server has said something, all of it by the protocol."""
        return self._heard

    async def ask(self, question: Any, *arguments: str, seconds: float, doubt: Doubt | None = None) -> Any:
        """Put a question of the importer's and wait for its answer. Raises DeviceError, or what the question does.

        While not a byte has come, `doubt` may find out whether this is a server at all, and raise DeviceError.
        """
        if self.over is not None:  # it was hung up on us, or spoke out of turn
            raise self._unanswered(self.reason, self._lost_by)
        question(*arguments)
        self._about = " at ".join(filter(None, (*arguments, self.server)))
        self._answer = self._loop.create_future()
        self._flush()
        try:
            async with asyncio.timeout(seconds):
                if doubt is not None and not self._heard:
                    await asyncio.wait([self._answer], timeout=DOUBT_SECONDS)
                    if not self._heard:
                        await settle(self._answer, doubt)
                return await self._answer
        except TimeoutError:
            raise self.silent(seconds) from None
        finally:
            self._answer.cancel()

    async def greeting(self) -> None:
        """The doubt over a server that speaks first: wait for it some more. Raises DeviceError."""
        assert self._answer is not None
        await asyncio.wait([self._answer], timeout=GREETING_SECONDS - DOUBT_SECONDS)
        if not self._heard:
            raise self.silent(GREETING_SECONDS)

    def silent(self, seconds: float) -> Silent:
        """The error of a server that has not answered for so long."""
        asked = "" if self._heard else f"; {doubted(self.importer.protocol, self.server)}"
        return Silent(f"{self.server} did not answer within {seconds:g} s{asked}")

    def submit(self, transfer: Transfer, answer: Promise | None = None) -> Completion | asyncio.Future[Completion]:
        """Send a transfer, to end `answer` if there is one already; once the connection is over, it comes at once.

        Raises ValueError for one whose parts do not fit together.
        """
        if self.over is not None:
            return Completion(self.over)
        if not self._flush_due:
            self._flush_due = True
            self._may_lend = turn.defer(self._flush) and self._is_prompt
        is_lent = transfer.data.__class__ is not bytes
        if is_lent and (not self._may_lend or transfer.packets is not None):
            transfer.data = bytes(transfer.data)
            is_lent = False
        tag = self.importer.submit(transfer)
        if is_lent:
            transfer.data = b""  # it is sent at the end of this turn; a view that is kept would keep a whole buffer
        future = answer
        if future is None:
            future = Promise(loop=self._loop)
            future.listener, future.is_awaited = None, False
        self._flying[tag] = future
        future.transfer = transfer
        transfer.number = tag
        return future

    def refuse(
        self, transfer: Transfer, status: Status, answer: Promise | None = None
    ) -> Completion | asyncio.Future[Completion]:
        """End a transfer that is not sent with `status`, behind those that were sent to its endpoint before."""
        completion = Completion(status if self.over is None else self.over)
        queue = _queue(transfer)
        before = [tag for tag, other in self._flying.items() if _queue(other.transfer) == queue]
        if not before:
            return completion
        future = answer if answer is not None else Promise(loop=self._loop)
        self._behind.setdefault(before[-1], []).append((future, completion))
        return future

    def cancel(self, transfer: Transfer) -> None:
        tag = getattr(transfer, "number", 0)
        flying = self._flying.get(tag)
        if flying is not None and flying.transfer is transfer:
            completion = self.importer.cancel(tag)
            if completion is not None:  # it never left
                self._completed(tag, completion)
            self._flush_soon()

    def streams(self, endpoints: tuple[int, ...], count: int) -> Completion | asyncio.Future[Completion]:
        """Set up `count` bulk streams on each endpoint, 0 for none. INVALID where the protocol has none."""
        importer = self.importer
        if self.over is not None:
            return Completion(self.over)
        if not isinstance(importer, Streaming):
            return Completion(Status.INVALID)
        tag = importer.alloc_streams(endpoints, count) if count else importer.free_streams(endpoints)
        future = Promise(loop=self._loop)
        self._flying[tag] = future
        future.transfer = Transfer(0, 0)
        self._flush_soon()
        return future

    async def close(self) -> None:
        """End what is pending with SHUTDOWN, close, and wait until it is closed. May be called twice."""
        self._end(Status.SHUTDOWN)
        if self._link is not None:
            self._link.close()
            await self._lost.wait()

    def hand_on(self) -> Connection:
        """End what is in flight with SHUTDOWN, and leave the link to another, which this returns: the next user's.

        What is still answered of this one's transfers, nobody hears.
        """
        for tag in tuple(self._flying):
            self.importer.cancel(tag)
        self._end(Status.SHUTDOWN)
        self._end_alarm()
        other = self._successor()
        other._heard, other._is_known = self._heard, self._is_known
        if self._link is not None:
            other._link, self._link = self._link, None
            other._link.user = other
        self._lost.set()
        other._flush_soon()
        return other

    # -- the link's user ----------------------------------------------------------------------------------------------

    @property
    def needed(self) -> int:
        return self.importer.needed

    def opened(self, link: Link) -> None:
        self._link = link
        link.reads_while_blocked = True

    def received(self, view: memoryview) -> int:
        importer, flying, wakes = self.importer, self._flying, False
        importer.receive(view, self._loop.time())
        try:
            if not self._is_known:
                check(importer.protocol, importer.opening, view)
                self._heard = self._heard or len(view) > 0
            for event in importer.events():
                if event.__class__ is Completed or event.__class__ is Lent:
                    future = flying.pop(event.tag, None)
                    if future is not None:
                        if event.__class__ is Lent and not future.may_borrow:
                            event.data = bytes(event.data)
                        if future.fulfil(event):
                            wakes = True
                        if self._behind and event.tag in self._behind:
                            self._end_behind(event.tag)
                elif isinstance(event, Left):
                    self._leave("the device was unplugged")
                else:
                    self._answered(event)
        except ProtocolError as error:
            self._error = error
            if self._link is not None:
                self._link.abort()
        if not self._is_known:
            self._is_known = importer.consumed > 0
        if wakes or importer.outgoing or importer.has_events:
            self._flush_soon()  # behind those who are woken now: what they submit goes out in their own turn
        self._set_timer()
        return importer.consumed

    def lost(self, error: Exception | None) -> None:
        self._link = None
        if isinstance(error, (BrokenPipeError, ConnectionAbortedError)):  # they had closed it when we wrote
            error = None
        self._lost_by, why = error, self._reason(error)
        if self._error is not None and self.in_use:
            log.log(self.level(why), "%s: %s", self.server, why)
        self._end_alarm()
        self._leave(why)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(self._unanswered(why, error))
        self._lost.set()

    def level(self, why: str) -> int:
        """At which is logged why its peer is not heard any more, as one that breaks the protocol."""
        return logging.WARNING

    # -- inside -------------------------------------------------------------------------------------------------------

    @property
    def _is_prompt(self) -> bool:
        """Whether what is submitted now is sent, or copied, by the flush that comes next."""
        return self._link is not None and self._link.is_prompt and self.importer.is_prompt

    def _successor(self) -> Connection:
        return Connection(self.importer, self.server)

    def _reason(self, error: Exception | None) -> str:
        """Why the link is lost, for people."""
        if isinstance(self._error, Stranger):
            return f"{self._error}; {self._remedy(self._error)}"
        if self._error is not None:
            return f"it broke {self.importer.protocol}: {self._error}"
        text = "" if error is None else reason(error) if isinstance(error, OSError) else str(error)
        return text or "the connection was closed"

    def _remedy(self, error: Stranger) -> str:
        return remedy(error, self.server)

    def _unanswered(self, why: str, error: Exception | None) -> DeviceError:
        """The same, for who waits for an answer."""
        if isinstance(error, ConnectionRefusedError):  # said of the first packet, where there are no connections
            return Unreached(f"no connection to {self.server}: {why}")
        if not self._heard and self._error is None and (error is None or isinstance(error, ConnectionResetError)):
            return wordless(self.importer.protocol, self.server, error)
        return DeviceError(f"{self.server}: {why}")

    def _completed(self, tag: int, completion: Completion) -> None:
        future = self._flying.pop(tag, None)
        if future is not None:
            future.fulfil(completion)
            if self._behind and tag in self._behind:
                self._end_behind(tag)

    def _end_behind(self, tag: int) -> None:
        for future, completion in self._behind.pop(tag):
            future.fulfil(completion)

    def _answered(self, event: Event) -> None:
        if self._answer is None or self._answer.done():
            return
        if isinstance(event, Refused):
            self._answer.set_exception(refusal(event, self._about))
        elif isinstance(event, Listed | Claimed):
            self._answer.set_result(event)

    def _leave(self, reason: str) -> None:
        """The device is no longer there."""
        if self.over is None:
            self._end(Status.GONE)
            self.gone.set_result(reason)

    def _end(self, status: Status) -> None:
        """No transfer is sent from now on, and those in flight end."""
        if self.over is None:
            self.over = status
        for tag in tuple(self._flying):
            self._completed(tag, Completion(status))

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due, self._may_lend = True, False
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        importer = self.importer
        if self._link is not None and importer.outgoing:
            pieces, size = importer.outgoing, importer.outgoing_bytes
            importer.outgoing, importer.outgoing_bytes = [], 0
            if self._link.is_lossy:
                cast(Resending, importer).leaves(self._loop.time())
            self._link.write(pieces, size)
        if importer.has_events and self._link is not None:
            self._link.process()  # what it answers by itself
        self._set_timer()

    def _set_timer(self) -> None:
        """Call the importer when it wants to be called."""
        if self._link is not None:
            self._alarm.set(self.importer.deadline())

    def _end_alarm(self) -> None:
        self._alarm.stop()
        self._clock.close()

    def _tick(self, now: float) -> None:
        self.importer.tick(now)
        self._flush()


def _queue(transfer: Transfer) -> tuple[int, int]:
    """Transfers of one queue end in the order in which they were submitted."""
    return (transfer.endpoint if transfer.endpoint & 0x0F else 0, transfer.stream_id)
