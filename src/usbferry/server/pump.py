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
_BATCH_BYTES: Final = 256 * 1024  # answers are written when they come to this much, and at the end of each read

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
        self._flush_due = False
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
        exporter.receive(view, self._loop.time())
        try:
            self._work(exporter)
        except ProtocolError as error:
            self._fail(error)
        return exporter.consumed

    def _work(self, exporter: Exporter) -> None:
        device, link = self._device, self._link
        assert link is not None
        trace = log.isEnabledFor(logging.DEBUG)
        for event in exporter.events():
            if event.__class__ is Submit:
                assert isinstance(event, Submit)
                assert device is not None
                if trace:
                    log.debug("> %s #%d %s", self._name, event.tag, event.transfer)
                answer = self._ask(device, event.transfer)
                if answer.__class__ is Completion:
                    self._answer(event.tag, answer) if trace else exporter.complete(event.tag, answer)
                else:
                    answer.add_done_callback(partial(self._later, event.tag))
            else:
                self._handle(event)
            if exporter.outgoing_bytes >= _BATCH_BYTES:
                self._flush()
                if link.blocked:
                    break  # the rest is read when these bytes are gone: `Link.resume_writing` offers it again
        self._flush()

    def _handle(self, event: Event) -> None:
        device = self._device
        match event:
            case List():
                self._exporter.listed(offer.current() for offer in self._catalog.list())
            case Claim():
                self._spawn(self._claim(event.name))
            case Cancel():
                assert device is not None
                log.debug("> %s cancel #%d", self._name, event.tag)
                device.cancel(event.transfer)
            case Reset():
                assert device is not None
                device.reset().add_done_callback(partial(self._was_reset, event.tag))
            case AllocStreams():
                assert device is not None
                self._give(event.tag, device.alloc_streams(event.endpoints, event.count))
            case FreeStreams():
                assert device is not None
                self._give(event.tag, device.free_streams(event.endpoints))
            case Suspend():
                assert device is not None
                device.suspend()
            case Wake():
                assert device is not None
                device.resume()
            case _:
                self._handle_wider(event)

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
        if other._link is not None:
            other._link.abort()  # its importer knows better than we that this transport is dead
            other._link = None
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

    # -- answers out --------------------------------------------------------------------------------------------------

    def _ask(self, device: Device, transfer: Transfer) -> Any:
        """The device's answer; a device that fails over a transfer is a failed transfer, not a failed server."""
        try:
            return device.submit(transfer)
        except Exception:
            log.exception("%s failed over %s", self._name, transfer)
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
        same = not future.cancelled() and future.exception() is None and future.result() is ResetOutcome.SAME
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
            link.close()
        elif self._timer is None and exporter.deadline() is not None:
            self._set_timer()

    # -- the claim ----------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return self._offer.info.name if self._offer is not None else "-"

    async def _claim(self, name: str) -> None:
        assert self._link is not None
        claimant = Claimant(self._link.peer, self._exporter.protocol)
        try:
            offer, device = await self._catalog.claim(name, claimant)
        except DeviceError as error:
            log.warning("%s may not have %s: %s", claimant.address, name, error)
            self._exporter.refuse(_refusal(error))
            self._flush()
            return
        except Exception:
            log.exception("%s could not be opened", name)
            self._exporter.refuse(Refusal.FAILED)
            self._flush()
            return
        self._offer, self._device = offer, device
        if self.closed:  # the importer left while the device was opened
            await self._release()
            return
        log.info("%s imported by %s", name, claimant.address)
        device.gone.add_done_callback(self._device_gone)
        self._exporter.accept(offer.current())
        if session := getattr(self._exporter, "session", b""):
            self._sessions[session] = self
        self._flush_and_process()

    def _device_gone(self, future: asyncio.Future[str]) -> None:
        if not future.cancelled() and not self.closed:
            log.info("%s is gone: %s", self._name, future.result())
            # Its last completions are callbacks of this same turn of the loop: let them be said first.
            self._loop.call_soon(self._say_gone)

    def _say_gone(self) -> None:
        self._exporter.gone()
        self._flush()

    async def stop(self) -> None:
        """Take the device from its importer: what is pending is answered, then the connection closes."""
        if self._offer is not None and not self.closed:
            await self._release()
            self._exporter.gone()
            self._flush()
        if self._link is not None:
            self._link.close()
        elif not self.closed:
            self._end()

    def lost(self, error: Exception | None) -> None:
        peer = self._link.peer if self._link is not None else "-"
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
        if self._link is not None:
            log.warning("%s broke %s: %s", self._link.peer, self._exporter.protocol, error)
            self._flush()
            self._link.close()

    def _set_timer(self) -> None:
        deadline = self._exporter.deadline()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        try:
            self._exporter.tick(self._loop.time())
        except ProtocolError as error:
            self._fail(error)
            return
        if self._link is None and self._exporter.done:
            self._end()
        else:
            self._flush()


def _refusal(error: DeviceError) -> Refusal:
    for kind, reason in _REFUSALS.items():
        if isinstance(error, kind):
            return reason
    return Refusal.FAILED
