"""Where a transfer's life can be read: bytes in, events out, devices asked, answers back. The same for every protocol.

link --bytes--> exporter --events--> Pump --transfers--> Device
link <--bytes-- exporter <--answers-- Pump <--completions--'
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from typing import Any, Final, Protocol, cast

from ..device import Busy, Claimant, Device, DeviceError, NotFound, ResetOutcome, Unavailable
from ..protocols.errors import ProtocolError
from ..protocols.events import (
    AllocStreams,
    Cancel,
    Claim,
    Describe,
    Event,
    FreeStreams,
    List,
    Refusal,
    Release,
    Reset,
    Resume,
    Submit,
    Suspend,
    Wake,
    Watch,
)
from ..transports.link import Link
from ..usb.info import DeviceInfo
from ..usb.transfer import Buffer, Completion, Transfer
from ..usb.types import Status
from .catalog import Catalog, Offer

log: Final = logging.getLogger(__name__)
_REFUSALS: Final = {NotFound: Refusal.NOT_FOUND, Busy: Refusal.BUSY, Unavailable: Refusal.UNAVAILABLE}
_BATCH_BYTES: Final = 512 * 1024  # answers are written when they come to this much, and at the end of each read
_LAST_TURNS: Final = (
    3  # of the loop, in which a closed device's last completions arrive: callbacks, of callbacks at most
)
_TURN_SECONDS: Final = 0.005  # of work on what one importer sent, before others have their turn
_SLICE_BYTES: Final = 128 * 1024  # of what it sent are looked at between two glances at the clock: 2,700 small messages

Answer = Completion | asyncio.Future[Completion]


class Exporter(Protocol):
    """What the pump wants of a protocol's exporter; `protocols.usbip.exporter` says what each part means."""

    protocol: str
    consumed: int
    needed: int
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


class Wider(Exporter, Protocol):
    """What protocols with more words than USB/IP have besides; the pump uses each only after its event."""

    session: bytes  # names the claim to a later transport; empty while there is none

    def released(self) -> None: ...
    def noticed(self) -> None: ...
    def described(self, info: DeviceInfo) -> None: ...
    def connected(self, now: float) -> None: ...


class Pump:
    """One importer's connection to this process, for as long as it lasts."""

    def __init__(
        self,
        exporter: Exporter,
        catalog: Catalog,
        sessions: dict[bytes, Pump],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        ended: Callable[[Pump], None] = lambda pump: None,
    ) -> None:
        self._exporter = exporter
        self._catalog = catalog
        self._sessions = sessions  # of every pump of the server
        self._spawn = spawn  # runs a coroutine in the server's task group
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._device: Device | None = None
        self._offer: Offer | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unwatch: Callable[[], None] = lambda: None
        self._flush_due = self._turn_due = False
        self._deaf = False  # what comes is not looked at any more: the connection is being closed
        self.closed = False

    # -- bytes in -----------------------------------------------------------------------------------------------------

    @property
    def needed(self) -> int:
        return self._exporter.needed

    def opened(self, link: Link) -> None:
        self._link = link
        log.debug("%s connected", link.peer)
        self._set_timer()

    def received(self, view: memoryview) -> int:
        exporter = self._exporter
        if self._deaf:
            return len(view)
        if len(view) > _SLICE_BYTES:
            return self._received_much(view)
        exporter.receive(view, self._loop.time())
        try:
            self._work(exporter)
            self._flush()
        except ProtocolError as error:
            self._fail(error)
        return exporter.consumed

    def _received_much(self, view: memoryview) -> int:
        """Look at a slice at a time, for as long as it is this importer's turn."""
        exporter, now = self._exporter, self._loop.time()
        at, left = 0, len(view)
        try:
            while True:
                size = max(_SLICE_BYTES, exporter.needed)
                exporter.receive(view[at : at + size], now)
                self._work(exporter)
                at += exporter.consumed
                left -= exporter.consumed
                if left < exporter.needed or not (exporter.consumed or exporter.needed > size):
                    break
                if self._link is None or self._link.blocked:
                    break
                if self._loop.time() >= now + _TURN_SECONDS:
                    self._turn_soon()
                    break
            self._flush()
        except ProtocolError as error:
            at += exporter.consumed
            self._fail(error)
        return at

    def _work(self, exporter: Exporter) -> None:
        device, link = self._device, self._link
        assert link is not None
        submit = device.submit if device is not None else _absent
        trace = log.isEnabledFor(logging.DEBUG)
        for event in exporter.events():
            if isinstance(event, Submit):
                if trace:
                    log.debug("> %s #%d %s", self._name, event.tag, event.transfer)
                try:
                    answer = submit(event.transfer)
                except Exception:
                    answer = self._failed(event.tag)
                if isinstance(answer, Completion):
                    self._answer(event.tag, answer) if trace else exporter.complete(event.tag, answer)
                else:
                    answer.add_done_callback(partial(self._later, event.tag))
            else:
                self._handle(event)
                if self._link is not link:
                    break  # another pump has it now, and reads on
            if exporter.outgoing_bytes >= _BATCH_BYTES:
                self._flush()
                if link.blocked:
                    break  # the rest is read when these bytes are gone: `Link.resume_writing` offers it again

    def _turn_soon(self) -> None:
        """Go on with what is not read yet when others have had their turn."""
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        if self._link is not None:
            self._link.process()

    def _handle(self, event: Event) -> None:
        match event:
            case List():
                self._exporter.listed(offer.current() for offer in self._catalog.list())
            case Claim():
                self._spawn(self._claim(event.name))
            case Cancel() | Reset() | AllocStreams() | FreeStreams() | Suspend() | Wake():
                if self._device is not None:
                    self._tell_device(self._device, event)
            case _:
                self._handle_wider(event)

    def _tell_device(self, device: Device, event: Event) -> None:
        """A device that fails over this is an answer too, where there is one to give."""
        try:
            match event:
                case Cancel():
                    log.debug("> %s cancel #%d", self._name, event.tag)
                    device.cancel(event.transfer)
                case Reset():
                    log.debug("> %s reset #%d", self._name, event.tag)
                    device.reset().add_done_callback(partial(self._was_reset, event.tag))
                case AllocStreams():
                    self._give(event.tag, device.alloc_streams(event.endpoints, event.count))
                case FreeStreams():
                    self._give(event.tag, device.free_streams(event.endpoints))
                case Suspend():
                    device.suspend()
                case Wake():
                    device.resume()
        except Exception:
            log.exception("%s failed over %s", self._name, type(event).__name__)
            if isinstance(event, Reset):
                self._exporter.reset_done(event.tag, False)
            elif isinstance(event, AllocStreams | FreeStreams):
                self._exporter.complete(event.tag, Completion(Status.FAILED))

    def _handle_wider(self, event: Event) -> None:
        exporter = cast(Wider, self._exporter)
        match event:
            case Describe():
                assert self._offer is not None
                exporter.described(self._offer.current())
            case Release():
                self._spawn(self._give_back(exporter))
            case Watch():
                self._unwatch()
                self._unwatch = self._catalog.watch(lambda: self._noticed(exporter))
            case Resume():
                self._resume(event.session)
            case _:
                raise ProtocolError(f"{type(event).__name__} is not served here")

    async def _give_back(self, exporter: Wider) -> None:
        await self._release()
        await self._last_turns()
        if not self.closed:
            exporter.released()
            self._flush_and_process()

    def _noticed(self, exporter: Wider) -> None:
        exporter.noticed()
        self._flush_soon()

    def _resume(self, session: bytes) -> None:
        """Hand this transport, and what it brought that is not read yet, to the pump that has the session."""
        other, link = self._sessions.get(session), self._link
        assert link is not None
        if other is None or other.closed:
            self._exporter.refuse(Refusal.NOT_FOUND)
            return
        if other._link is not None:  # its importer knows better than we that this transport is dead
            other._link.user = _Nobody()
            other._link.abort()
        self._link = None
        self._end()
        other._link = link
        link.user = other
        cast(Wider, other._exporter).connected(self._loop.time())
        self._loop.call_soon(other._flush_and_process)

    def _flush_and_process(self) -> None:
        self._flush()
        if self._link is not None:
            self._link.process()

    def _flush_or_end(self) -> None:
        """What has no transport, and waits for none any more, ends."""
        if self._link is None and self._exporter.done:
            self._end()
        else:
            self._flush()

    # -- answers out --------------------------------------------------------------------------------------------------

    def _failed(self, tag: int) -> Completion:
        """A device that fails over a transfer is a failed transfer, not a failed server."""
        log.exception("%s failed over #%d", self._name, tag)
        return Completion(Status.FAILED)

    def _give(self, tag: int, answer: Answer) -> None:
        if isinstance(answer, Completion):
            self._answer(tag, answer)
        else:
            answer.add_done_callback(partial(self._later, tag))

    def _later(self, tag: int, future: asyncio.Future[Completion]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None or future.cancelled():
            log.error("%s failed over #%d", self._name, tag, exc_info=error)
        self._answer(tag, Completion(Status.FAILED) if error is not None or future.cancelled() else future.result())
        self._flush_soon()

    def _answer(self, tag: int, completion: Completion) -> None:
        log.debug("< %s #%d %s", self._name, tag, completion)
        self._exporter.complete(tag, completion)

    def _was_reset(self, tag: int, future: asyncio.Future[ResetOutcome]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            log.error("%s failed over its reset", self._name, exc_info=error)
        same = not future.cancelled() and error is None and future.result() is ResetOutcome.SAME
        self._exporter.reset_done(tag, same)
        if not same:
            self._exporter.gone()
        self._flush_soon()

    def _flush_soon(self) -> None:
        """Write once for all the completions of this turn of the loop."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        exporter, link = self._exporter, self._link
        if link is None:
            return
        if exporter.outgoing:
            pieces, size = exporter.outgoing, exporter.outgoing_bytes
            exporter.outgoing, exporter.outgoing_bytes = [], 0
            link.write(pieces, size)
        if exporter.done:
            self._deaf = True
            link.close()
            return
        deadline = exporter.deadline()
        if deadline is not None and (self._timer is None or deadline < self._timer.when()):
            self._set_timer()

    # -- the claim ----------------------------------------------------------------------------------------------------

    @property
    def _peer(self) -> str:
        return self._link.peer if self._link is not None else "-"

    @property
    def _name(self) -> str:
        return self._offer.info.name if self._offer is not None else "-"

    async def _claim(self, name: str) -> None:
        try:
            await self._open(name)
        except DeviceError as error:
            log.warning("%s may not have %r: %s", self._peer, name, error)  # any bytes: it came from the wire
            self._exporter.refuse(_refusal(error))
        except Exception:
            log.exception("%r could not be opened", name)
            self._exporter.refuse(Refusal.FAILED)
        self._flush_and_process()

    async def _open(self, name: str) -> None:
        claimant = Claimant(self._peer, self._exporter.protocol)
        self._offer, self._device = await self._catalog.claim(name, claimant)
        if self.closed:  # the importer left while the device was opened
            await self._release()
            return
        log.info("%s imported by %s", name, claimant.address)
        self._device.gone.add_done_callback(self._device_gone)
        self._exporter.accept(self._offer.current())
        self._set_timer()  # the handshake is over: a timer that is left makes every turn of the loop dearer
        if session := getattr(self._exporter, "session", b""):
            self._sessions[session] = self

    def _device_gone(self, future: asyncio.Future[str]) -> None:
        if not future.cancelled() and not self.closed:
            log.info("%s is gone: %s", self._name, future.result())
            # Its last completions are callbacks of this same turn of the loop: let them be said first.
            self._loop.call_soon(self._say_gone)

    def _say_gone(self) -> None:
        if not self.closed:
            self._exporter.gone()
            self._flush_or_end()

    async def stop(self) -> None:
        """Take the device from its importer: what is pending is answered, then the connection closes."""
        self._deaf = True
        try:
            if self._offer is not None and not self.closed:
                await self._release()
                await self._last_turns()
                self._exporter.gone()
                self._flush_or_end()
        finally:
            if self._link is not None:
                self._link.close()

    async def _last_turns(self) -> None:
        """Let a closed device's last completions be said."""
        for _ in range(_LAST_TURNS):
            await asyncio.sleep(0)

    def abort(self) -> None:
        """Close the connection now."""
        if self._link is not None:
            self._link.abort()

    def lost(self, error: Exception | None) -> None:
        peer = self._peer
        log.debug("%s disconnected: %s", peer, error or "closed")
        self._link = None
        if self._exporter.disconnected(self._loop.time()):
            self._set_timer()  # the claim waits for its importer, for as long as its protocol says
        else:
            if self._offer is not None:
                log.info("%s released by %s%s", self._name, peer, f": {error}" if error else "")
            self._end()

    def _end(self) -> None:
        """Nothing more comes for this pump: what it holds is given back."""
        self.closed = True
        self._unwatch()
        self._sessions.pop(getattr(self._exporter, "session", b""), None)
        if self._timer is not None:
            self._timer.cancel()
        if self._offer is not None:
            self._spawn(self._release())
        else:
            self._ended(self)

    async def _release(self) -> None:
        offer, self._offer, self._device = self._offer, None, None
        try:
            if offer is not None:
                await self._catalog.release(offer)
        except Exception:
            log.exception("%s could not be closed", offer.info.name if offer else "-")
        if self.closed:
            self._ended(self)

    # -- errors and time ----------------------------------------------------------------------------------------------

    def _fail(self, error: ProtocolError) -> None:
        if self._link is not None and not self._deaf:
            log.warning("%s broke %s: %s", self._link.peer, self._exporter.protocol, error)
            self._flush()
            self._deaf = True
            self._link.close()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._exporter.deadline()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        try:
            self._exporter.tick(self._loop.time())
        except ProtocolError as error:
            self._fail(error)
            return
        if not self.closed:
            self._set_timer()
        self._flush_or_end()


class _Nobody:
    """The user of a link that nobody listens to any more."""

    needed = 1

    def opened(self, link: Link) -> None: ...

    def received(self, view: memoryview) -> int:
        return len(view)

    def lost(self, error: Exception | None) -> None: ...


def _absent(transfer: Transfer) -> Answer:
    """Between a claim's end and its connection's."""
    return Completion(Status.GONE)


def _refusal(error: DeviceError) -> Refusal:
    for kind, reason in _REFUSALS.items():
        if isinstance(error, kind):
            return reason
    return Refusal.FAILED
