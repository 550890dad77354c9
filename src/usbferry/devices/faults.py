"""Faults on demand, for people who test drivers: any virtual device misbehaves where and when it is told to.

    device.faults.stall(0x81, after=10)              # the eleventh transfer halts the endpoint
    device.faults.late(0x81, seconds=3, times=2)     # the next two answers come late
    device.faults.vanish(wait=5, away=1, become=(0x1209, 0x0010))

or in its address, as often as wanted: `virtual:disk?image=x&fault=stall:0x81:after=10&fault=vanish:wait=5:away=1`.

A fault stands between an endpoint and its handler, so what it does is what a real device's endpoint does: a stalled one
stays halted until the host clears it, a late one NAKs until its time comes and may be cancelled meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Protocol

from ..device import Device
from ..usb.info import DeviceInfo
from ..usb.transfer import Completion, Transfer
from ..usb.tree import Endpoint
from ..usb.types import Status
from .clock import Clock, Timer
from .fault import FOREVER, NEEDS_IN, Fault, Kind, check
from .pipe import Answer, Handler

log: Final = logging.getLogger(__name__)


class Faulty(Protocol):
    """What faults want of their device; `virtual.VirtualDevice` says what each part means."""

    info: DeviceInfo
    product: str

    @property
    def clock(self) -> Clock: ...
    def kick(self, address: int) -> None: ...
    def halt(self, address: int) -> None: ...
    def later(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]: ...
    def rewire(self) -> None: ...
    def vanish(
        self, reason: str = ..., *, away: float | None = ..., become: tuple[int, int] | Device | None = ...
    ) -> None: ...


class Faults:
    """The faults of one device. Those that can be asked for raise ValueError when they make no sense."""

    def __init__(self, device: Faulty) -> None:
        self._device = device
        self.whole = device  # what leaves with a fault that has it vanish: the composite that it is a part of
        self._faults: list[Fault] = []
        self._timers: dict[Fault, Timer] = {}
        self._since: float | None = None  # when the claim began
        self.noted: Callable[[Fault], object] = lambda fault: None  # hears of each that happens

    # -- for people ---------------------------------------------------------------------------------------------------

    def stall(
        self, endpoint: int, *, after: int = 0, times: int = 1, wait: float = 0.0, request: int | None = None
    ) -> Fault:
        """Halt the endpoint, until the host clears it; of endpoint 0, refuse the request."""
        return self.add(Fault(Kind.STALL, endpoint, after, times, wait, request))

    def short(
        self,
        endpoint: int,
        *,
        size: int | None = None,
        after: int = 0,
        times: int = 1,
        wait: float = 0.0,
        request: int | None = None,
    ) -> Fault:
        """Give only the first `size` bytes, or the first half, and lose the rest."""
        return self.add(Fault(Kind.SHORT, endpoint, after, times, wait, request, size=size))

    def length(
        self,
        endpoint: int,
        *,
        size: int,
        after: int = 0,
        times: int = 1,
        wait: float = 0.0,
        request: int | None = None,
    ) -> Fault:
        """Give exactly `size` bytes, whatever there is: cut, or filled with zeros."""
        return self.add(Fault(Kind.LENGTH, endpoint, after, times, wait, request, size=size))

    def late(
        self,
        endpoint: int,
        *,
        seconds: float,
        after: int = 0,
        times: int = 1,
        wait: float = 0.0,
        request: int | None = None,
    ) -> Fault:
        """Let a transfer wait for `seconds`, infinity included, before the device looks at it."""
        return self.add(Fault(Kind.LATE, endpoint, after, times, wait, request, seconds=seconds))

    def babble(
        self, endpoint: int, *, after: int = 0, times: int = 1, wait: float = 0.0, request: int | None = None
    ) -> Fault:
        """Send more than was asked for."""
        return self.add(Fault(Kind.BABBLE, endpoint, after, times, wait, request))

    def vanish(
        self,
        endpoint: int | None = None,
        *,
        after: int = 0,
        times: int = 1,
        wait: float = 0.0,
        away: float | None = None,
        become: tuple[int, int] | Device | None = None,
        request: int | None = None,
    ) -> Fault:
        """Be unplugged at a transfer, or, with neither `endpoint` nor `after`, as soon as `wait` is over.

        `away` seconds later it is plugged in again; as `become` if that is given, idVendor and idProduct, or another
        virtual device, which is in its place then, without its faults.
        """
        return self.add(Fault(Kind.VANISH, endpoint, after, times, wait, request, away=away, become=become))

    def clear(self) -> None:
        """Behave from now on. What has happened stays: a halted endpoint is halted."""
        faults, self._faults = self._faults, []
        self._stop_timers()
        self._device.rewire()
        for fault in faults:
            if fault.held is not None:
                self._device.kick(fault.held.endpoint)

    def add(self, fault: Fault) -> Fault:
        """Have one more. Faults of one endpoint are tried in the order in which they were added."""
        check(fault, self._endpoints())
        self._faults.append(fault)
        self._device.rewire()
        self._set_timer(fault)
        return fault

    def share(self, fault: Fault) -> None:
        """Count for a fault that another device has too, and that comes by a transfer."""
        self._faults.append(fault)
        self._device.rewire()

    def _endpoints(self) -> dict[int, Endpoint]:
        configurations = self._device.info.configurations
        return {e.address: e for c in configurations for i in c.interfaces for e in i.endpoints}

    # -- for the device -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A claim began."""
        self._since = self._device.clock.now()
        for fault in self._faults:
            self._set_timer(fault)

    def end(self) -> None:
        """The claim ended."""
        self._since = None
        self._stop_timers()
        for fault in self._faults:
            fault.held = None

    def over(self, endpoint: int, handler: Handler) -> Handler:
        """The handler of an endpoint with its faults before it; itself where it has none."""
        endpoint = endpoint if endpoint & 0x0F else 0
        faults = [fault for fault in self._faults if fault.covers(endpoint)]
        return partial(self._handle, faults, handler) if faults else handler

    def _handle(self, faults: list[Fault], handler: Handler, transfer: Transfer) -> Answer:
        fault = next((f for f in faults if self._is_due(f, transfer)), None)
        answer = _ACTIONS[fault.kind](self, fault, handler, transfer) if fault is not None else handler(transfer)
        if answer is not None:
            for other in faults:
                if other is not fault and other.counts(transfer):
                    other.passed += 1
        return answer

    def _is_due(self, fault: Fault, transfer: Transfer) -> bool:
        if fault.held is transfer:
            return True
        if fault.is_spent or fault.passed < fault.after or not fault.counts(transfer):
            return False
        if fault.kind in NEEDS_IN and not transfer.is_in:
            return False
        return self._since is not None and self._device.clock.now() >= self._since + fault.wait

    # -- what happens -------------------------------------------------------------------------------------------------

    def _note(self, fault: Fault, transfer: Transfer | None = None) -> None:
        fault.happens()
        log.info("%s: %s%s", self._device.product, fault.kind.value, f" at {transfer}" if transfer else "")
        self.noted(fault)

    def _stall(self, fault: Fault, handler: Handler, transfer: Transfer) -> Answer:
        self._note(fault, transfer)
        if transfer.endpoint & 0x0F:
            self._device.halt(transfer.endpoint)
        return Completion(Status.STALL)

    def _babble(self, fault: Fault, handler: Handler, transfer: Transfer) -> Answer:
        self._note(fault, transfer)
        return Completion(Status.OVERFLOW, bytes(transfer.length))

    def _vanish(self, fault: Fault, handler: Handler, transfer: Transfer) -> Answer:
        self._go(fault, transfer)
        return Completion(Status.GONE)

    def _late(self, fault: Fault, handler: Handler, transfer: Transfer) -> Answer:
        now = self._device.clock.now()
        if fault.held is not transfer:
            self._note(fault, transfer)
            fault.held, fault.held_until = transfer, now + fault.seconds
            if fault.seconds < FOREVER:
                kick = partial(self._device.kick, transfer.endpoint)
                self._timers[fault] = self._device.clock.call_at(fault.held_until, kick)
        if now < fault.held_until:
            return None
        answer = handler(transfer)
        if answer is not None:
            fault.held = None
        return answer

    def _resize(self, fault: Fault, handler: Handler, transfer: Transfer) -> Answer:
        answer = handler(transfer)
        if answer is None:
            return None
        self._note(fault, transfer)
        if isinstance(answer, asyncio.Future):
            return self._device.later(self._resize_later(fault, transfer, answer))
        return _resized(fault, transfer, answer)

    async def _resize_later(self, fault: Fault, transfer: Transfer, answer: asyncio.Future[Completion]) -> Completion:
        return _resized(fault, transfer, await answer)

    # -- time ---------------------------------------------------------------------------------------------------------

    def _set_timer(self, fault: Fault) -> None:
        """Faults that wait for no transfer come by themselves."""
        if fault.kind is Kind.VANISH and fault.endpoint is None and not fault.after and self._since is not None:
            self._timers[fault] = self._device.clock.call_at(self._since + fault.wait, partial(self._timed, fault))

    def _timed(self, fault: Fault) -> None:
        if fault in self._faults and not fault.is_spent:
            self._go(fault)

    def _go(self, fault: Fault, transfer: Transfer | None = None) -> None:
        self._note(fault, transfer)
        assert not isinstance(fault.become, str)
        self.whole.vanish("a fault asked for", away=fault.away, become=fault.become)

    def _stop_timers(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()


_Action = Callable[[Faults, Fault, Handler, Transfer], Answer]
_ACTIONS: Final[dict[Kind, _Action]] = {
    Kind.STALL: Faults._stall,
    Kind.SHORT: Faults._resize,
    Kind.LENGTH: Faults._resize,
    Kind.LATE: Faults._late,
    Kind.BABBLE: Faults._babble,
    Kind.VANISH: Faults._vanish,
}


def _resized(fault: Fault, transfer: Transfer, completion: Completion) -> Completion:
    if completion.status != Status.OK:
        return completion
    data = bytes(completion.data)
    if fault.kind is Kind.SHORT:
        return Completion(Status.OK, data[: len(data) // 2 if fault.size is None else fault.size])
    assert fault.size is not None
    size = min(fault.size, transfer.length + 1)  # one more is enough to be too many
    data = data[:size].ljust(size, b"\0")
    return Completion(Status.OVERFLOW if len(data) > transfer.length else Status.OK, data[: transfer.length])
