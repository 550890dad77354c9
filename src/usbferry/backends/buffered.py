"""A device whose isochronous streams have a buffer, for users behind a network: see `ahead` for what that does.

    transfers --> [of an isochronous endpoint?] --> its stream ahead --> device
                           `--> [held by a barrier?] ---------------------^

A request that ends a stream, SET_INTERFACE for one, waits until the device has played what its user was told of. What
is submitted for the same endpoints after it waits too.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from ..device import Device, Promise, ResetOutcome, Through
from ..devices.clock import Clock, LoopClock, Timer
from ..usb import setup as requests
from ..usb.setup import Setup
from ..usb.transfer import Completion, Transfer
from ..usb.tree import Endpoint
from ..usb.types import Status, TransferType
from .ahead import AheadIn, AheadOut, Answer, Counts, result_of, undone

log: Final = logging.getLogger(__name__)
MAX_SECONDS: Final = 0.5  # of a buffer; host controllers plan no more than a second ahead
_LATE_SECONDS: Final = 1.0  # more than its buffer that a device may take to play it


class Buffered(Through):
    """Another device, with `seconds` of its isochronous packets kept here and there."""

    def __init__(self, device: Device, seconds: float, clock: Clock | None = None) -> None:
        super().__init__(device)
        self.counts = Counts()
        self._seconds = seconds
        self._clock = clock or LoopClock()
        self._streams: dict[int, AheadIn | AheadOut] = {}
        self._held: dict[Transfer, Promise] = {}  # behind the barrier, the first of them, in their order
        self._holds: frozenset[int] = frozenset()  # endpoints that are not reached now
        self._draining: list[AheadOut] = []  # what the barrier waits for
        self._passed: dict[
            Transfer, tuple[Promise, Answer]
        ] = {}  # what was held, in its order, and the device's answer
        self._timer: Timer | None = None

    # -- the seam -----------------------------------------------------------------------------------------------------

    def submit(self, transfer: Transfer) -> Answer:
        if self._held and (not transfer.endpoint & 0x0F or transfer.endpoint in self._holds):
            return self._hold(transfer)
        if not self._passed:
            return self._go(transfer)
        self._settle()
        if all(earlier.endpoint & 0x8F != transfer.endpoint & 0x8F for earlier in self._passed):
            return self._go(transfer)
        promise = Promise()  # what was held before it ends before it
        self._pass(transfer, promise)
        return promise

    def cancel(self, transfer: Transfer) -> None:
        stream = self._streams.get(transfer.endpoint)
        promise = self._held.pop(transfer, None)
        if promise is not None:
            promise.fulfil(undone(transfer, Status.CANCELLED) if transfer.packets else Completion(Status.CANCELLED))
            self._drained()
        elif stream is None or not stream.cancel(transfer):
            self._device.cancel(transfer)

    def reset(self) -> asyncio.Future[ResetOutcome]:
        self._stop()
        return self._device.reset()

    async def close(self) -> None:
        self._stop()
        if self.counts.dropped or self.counts.dry:
            log.info(
                "%s: %d isochronous packets came for nobody, %d times it had nothing to play",
                self.info.name, self.counts.dropped, self.counts.dry,
            )  # fmt: skip
        await self._device.close()

    # -- the way of a transfer ----------------------------------------------------------------------------------------

    def _pass(self, transfer: Transfer, promise: Promise) -> None:
        """Let one go on that has waited, or that comes after such a one."""
        answer = self._go(transfer, promise)
        if answer is promise:
            return  # it is held again
        self._passed[transfer] = promise, answer
        if isinstance(answer, asyncio.Future):
            answer.add_done_callback(self._settle)
        self._settle()

    def _settle(self, _: object = None) -> None:
        """End those of them that have ended, in their order."""
        for transfer, (promise, answer) in tuple(self._passed.items()):
            if isinstance(answer, Completion) or answer.done():
                self._passed.pop(transfer, None)
                promise.fulfil(answer if isinstance(answer, Completion) else result_of(answer))

    def _go(self, transfer: Transfer, promise: Promise | None = None) -> Answer:
        """Through its stream, or to the device; what has to be held ends with `promise`."""
        address = transfer.endpoint
        if not address & 0x0F:
            return self._control(transfer, promise)
        if not transfer.packets:
            return self._device.submit(transfer)
        stream = self._streams.get(address) or self._begin(address)
        return self._device.submit(transfer) if stream is None else stream.submit(transfer)

    def _begin(self, address: int) -> AheadIn | AheadOut | None:
        """The stream of an endpoint; None for one that is not there, or not isochronous: the device will say so."""
        found = self._endpoint(address)
        if found is None or found.type is not TransferType.ISOCHRONOUS:
            return None
        interval = found.interval_us(self.info.speed) * 1e-6
        stream: AheadIn | AheadOut
        if address & 0x80:
            stream = AheadIn(self._device, address, interval, self._seconds, self.counts)
        else:
            stream = AheadOut(self._device, interval, self._seconds, self.counts, self._clock, self._drained)
        self._streams[address] = stream
        return stream

    def _endpoint(self, address: int) -> Endpoint | None:
        return next((e for i in self.info.interfaces for e in i.endpoints if e.address == address), None)

    # -- barriers -----------------------------------------------------------------------------------------------------

    def _control(self, transfer: Transfer, promise: Promise | None = None) -> Answer:
        touched = self._touched(transfer)
        ending = {address: stream for address, stream in self._streams.items() if address in touched}
        self._draining = [one for one in ending.values() if isinstance(one, AheadOut) and one.drain()]
        if self._draining:
            self._holds = touched
            self._timer = self._clock.call_at(self._clock.now() + self._seconds + _LATE_SECONDS, self._late)
            return self._hold(transfer, promise)
        for address, stream in ending.items():
            del self._streams[address]
            stream.stop()
        return self._device.submit(transfer)

    def _touched(self, transfer: Transfer) -> frozenset[int]:
        """The endpoints whose streams a request ends."""
        if len(transfer.setup) != 8:
            return frozenset()
        setup = Setup.parse(transfer.setup)
        kind = (setup.request_type, setup.request)
        if requests.is_clear_halt(setup):
            return frozenset((setup.index & 0x8F,))
        if kind == requests.SET_CONFIGURATION or requests.is_port_reset(setup):
            return frozenset(self._streams)
        if kind != requests.SET_INTERFACE or self.info.active is None:
            return frozenset()
        mine = (i for i in self.info.active.interfaces if i.number == setup.index)
        return frozenset(e.address for i in mine for e in i.endpoints)

    def _hold(self, transfer: Transfer, promise: Promise | None = None) -> Promise:
        """Its payload was lent: what waits owns a copy."""
        if transfer.data.__class__ is not bytes:
            transfer.data = bytes(transfer.data)
        self._holds |= {transfer.endpoint}  # what comes after it does not overtake it
        self._held[transfer] = promise = promise or Promise()
        return promise

    def _drained(self) -> None:
        """All was played: what was held goes on, until the next barrier."""
        if not all(stream.is_idle for stream in self._draining):
            return
        self._free()
        held, self._held = self._held, {}
        while held:
            transfer = next(iter(held))
            promise = held.pop(transfer)
            if self._held:
                self._hold(transfer, promise)
            else:
                self._pass(transfer, promise)

    def _free(self) -> None:
        self._holds, self._draining = frozenset(), []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        """A device that does not play what it has is not waited for."""
        for stream in self._draining:
            stream.stop()
        self._drained()

    def _stop(self) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.stop()
        self._drained()
