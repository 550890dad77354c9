"""Where a transfer's life can be read: bytes in, events out, devices asked, answers back. The same for every protocol.

link --bytes--> exporter --events--> Pump --transfers--> Device
link <--bytes-- exporter <--answers-- Pump <--completions--'
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, cast

from ..device import Busy, Claimant, Device, DeviceError, NotFound, Unavailable
from ..devices.clock import Clock
from ..protocols.errors import ProtocolError
from ..protocols.events import (
    AllocStreams,
    Cancel,
    Claim,
    Describe,
    Event,
    FreeStreams,
    List,
    Note,
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
from ..usb.transfer import Completion, Transfer
from ..usb.types import Status
from .answers import Answer, Answers, Exporter
from .catalog import Catalog, Offer

log: Final = logging.getLogger(__name__)
_REFUSALS: Final = {NotFound: Refusal.NOT_FOUND, Busy: Refusal.BUSY, Unavailable: Refusal.UNAVAILABLE}
_BATCH_BYTES: Final = 512 * 1024  # answers are written when they come to this much, and at the end of each read
_TURN_SECONDS: Final = 0.005  # of work on what one importer sent, before others have their turn
_SLICE_BYTES: Final = 128 * 1024  # of what it sent are looked at between two glances at the clock: 2,700 small messages


class Wider(Exporter, Protocol):
    """What protocols with more words than USB/IP have besides; the pump uses each only after its event."""

    unsent: Callable[[], int]  # bytes that the network has not taken yet

    def released(self) -> None: ...
    def noticed(self) -> None: ...
    def described(self, info: DeviceInfo) -> None: ...
    def set_way(self, way: Link) -> None: ...
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
        *,
        clock: Clock,
    ) -> None:
        self._exporter = exporter
        self._catalog = catalog
        self._sessions = sessions  # of every pump of the server
        self._spawn = spawn  # runs a coroutine in the server's task group
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._out = Answers(exporter, self._end, clock, catalog.refusals)
        self._device: Device | None = None
        self._offer: Offer | None = None
        self._user = ""  # who has the device, for people
        self._unwatch: Callable[[], None] = lambda: None
        self.closed = False

    # -- bytes in -----------------------------------------------------------------------------------------------------

    @property
    def needed(self) -> int:
        return self._exporter.needed

    def opened(self, link: Link) -> None:
        self._out.link = link
        log.debug("%s connected", link.peer)
        if hasattr(self._exporter, "unsent"):
            cast(Wider, self._exporter).unsent = lambda: self._out.unsent
        self._show_way(link)
        self._out.flush()  # some exporters speak first

    def _show_way(self, link: Link) -> None:
        if hasattr(self._exporter, "set_way"):
            link.keep_short()
            cast(Wider, self._exporter).set_way(link)

    def received(self, view: memoryview) -> int:
        exporter = self._exporter
        if self._out.closing:
            return len(view)
        if len(view) > _SLICE_BYTES:
            return self._received_much(view)
        exporter.receive(view, self._loop.time())
        try:
            self._work(exporter)
            self._out.flush()
        except ProtocolError as error:
            self._out.fail(error)
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
                if self._out.link is None or self._out.link.blocked:
                    break
                if self._loop.time() >= now + _TURN_SECONDS:
                    self._out.process_soon()
                    break
            self._out.flush()
        except ProtocolError as error:
            at += exporter.consumed
            self._out.fail(error)
        return at

    def _work(self, exporter: Exporter) -> None:
        device, out, link = self._device, self._out, self._out.link
        assert link is not None
        submit = device.submit if device is not None else _absent
        trace = out.trace = log.isEnabledFor(logging.DEBUG)
        for event in exporter.events():
            if event.__class__ is Submit:
                if trace:
                    log.debug("> %s #%d %s", out.name, event.tag, event.transfer)
                try:
                    answer = submit(event.transfer)
                except Exception:
                    out.fail_transfer(event.tag)
                    continue
                if answer.__class__ is Completion and not trace:
                    exporter.complete(event.tag, answer)
                else:
                    out.give(event.tag, answer)
            else:
                self._handle(event)
                if self._out.link is not link:
                    break  # another pump has it now, and reads on
            if exporter.outgoing_bytes >= _BATCH_BYTES:
                self._out.flush()
                if link.blocked:
                    break  # the rest is read when these bytes are gone: `Link.resume_writing` offers it again

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
                    log.debug("> %s cancel #%d", self._out.name, event.tag)
                    device.cancel(event.transfer)
                case Reset():
                    log.debug("> %s reset #%d", self._out.name, event.tag)
                    self._out.give_reset(event.tag, device.reset())
                case AllocStreams():
                    self._out.give(event.tag, device.alloc_streams(event.endpoints, event.count))
                case FreeStreams():
                    self._out.give(event.tag, device.free_streams(event.endpoints))
                case Suspend():
                    device.suspend()
                case Wake():
                    device.resume()
        except Exception:
            log.exception("%s failed over %s", self._out.name, type(event).__name__)
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
            case Note():
                level = self._catalog.refusals.level(self._peer, event.text, self._loop.time())
                log.log(level, "%s: %s", self._peer, event.text)
            case _:
                raise ProtocolError(f"{type(event).__name__} is not served here")

    async def _give_back(self, exporter: Wider) -> None:
        self._say_released()
        await self._release()
        await self._out.settle()
        self._sessions.pop(self._exporter.session, None)
        if not self.closed:
            exporter.released()
            self._out.flush_and_process()

    def _noticed(self, exporter: Wider) -> None:
        exporter.noticed()
        self._out.flush_soon()

    def _resume(self, session: bytes) -> None:
        """Hand this transport, and what it brought that is not read yet, to the pump that has the session."""
        other, link = self._sessions.get(session), self._out.link
        assert link is not None
        if other is None or other.closed:
            self._exporter.refuse(Refusal.NOT_FOUND)
            return
        if other._out.link is not None:  # its importer knows better than we that this transport is dead
            other._out.link.user = _Nobody()
            other._out.link.abort()
        self._out.link = None
        self._end()
        other._out.link = link
        other._out.closing = False  # as it was if the old transport broke the protocol, by its silence for one
        link.user = other
        other._show_way(link)
        log.info("%s goes on with %s", other._out.name, link.peer)
        other._user = link.peer
        cast(Wider, other._exporter).connected(self._loop.time())
        self._loop.call_soon(other._out.flush_and_process)

    # -- the claim ----------------------------------------------------------------------------------------------------

    @property
    def _peer(self) -> str:
        return self._out.link.peer if self._out.link is not None else "-"

    async def _claim(self, name: str) -> None:
        try:
            await self._open(name)
        except DeviceError as error:
            level = self._catalog.refusals.level(self._peer, f"{name} {error}", self._loop.time())
            what = repr(name) if name else "a device"  # any bytes: it may come from the wire
            log.log(level, "%s may not have %s: %s", self._peer, what, error)
            self._exporter.refuse(_refusal(error))
        except Exception:
            log.exception("%r could not be opened", name)
            self._exporter.refuse(Refusal.FAILED)
        self._out.flush_and_process()

    async def _open(self, name: str) -> None:
        claimant = Claimant(self._peer, self._exporter.protocol)
        self._offer, self._device = await self._catalog.claim(name, claimant)
        if self.closed:  # the importer left while the device was opened
            await self._release()
            return
        self._out.name = self._offer.info.name
        self._user = claimant.address
        log.info("%s imported by %s", self._out.name, self._user)
        self._device.gone.add_done_callback(self._device_gone)
        self._exporter.accept(self._offer.current())
        self._out.set_timer()  # the handshake is over
        if self._exporter.session:
            self._sessions[self._exporter.session] = self

    def _device_gone(self, future: asyncio.Future[str]) -> None:
        if not future.cancelled() and not self.closed:
            log.info("%s is gone: %s", self._out.name, future.result())
            self._spawn(self._say_gone())

    async def _say_gone(self) -> None:
        await self._out.settle()
        if not self.closed:
            self._exporter.gone()
            self._out.flush_or_end()

    async def stop(self) -> None:
        """Take the device from its importer: what is pending is answered, then the connection closes."""
        self._out.closing = True
        try:
            if self._offer is not None and not self.closed:
                await self._release()
                await self._out.settle()
                self._exporter.gone()
                self._out.flush_or_end()
        finally:
            if self._out.link is not None:
                self._out.link.close()

    @property
    def is_unheard(self) -> bool:
        """Whether the importer has said nothing yet, where the protocol has it say hello; False where it has not."""
        return bool(getattr(self._exporter, "is_unheard", False))

    def abort(self) -> None:
        """Close the connection now."""
        if self._out.link is not None:
            self._out.link.abort()

    def lost(self, error: Exception | None) -> None:
        log.debug("%s disconnected: %s", self._peer, error or "closed")
        self._out.link = None
        if self._exporter.disconnected(self._loop.time()):
            if self._offer is not None:
                log.info("%s waits for %s, whose connection is lost", self._out.name, self._user)
            self._out.set_timer()  # the claim waits for its importer, for as long as its protocol says
        else:
            self._end(error)

    def _say_released(self, error: Exception | None = None) -> None:
        if self._offer is not None:
            why = f": {error}" if error and not isinstance(error, BrokenPipeError) else ""  # it closed while we wrote
            log.info("%s released by %s%s", self._out.name, self._user, why)

    def _end(self, error: Exception | None = None) -> None:
        """Nothing more comes for this pump: what it holds is given back."""
        self.closed = True
        self._say_released(error)
        self._unwatch()
        self._sessions.pop(self._exporter.session, None)
        self._out.alarm.stop()
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
