"""A real device: transfers go to libusb and come back from it; what it must hear of goes by its own calls.

    ordinary transfer  -> [held by a barrier?] -> libusb -> answer
    control transfer   -> [behind a request that waits?] -> libusb -> answer
    request (settings, halt, reset) -> behind all control transfers -> what it ends is cancelled -> the handle's thread

A request never goes to the device as it is where libusb has a call for it, or the system's idea of the device would
no longer be the device's. SET_ADDRESS is never sent at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from ...device import Device, Promise, ResetOutcome
from ...devices.gate import DirectGate
from ...usb import setup as requests
from ...usb.setup import Setup
from ...usb.transfer import Completion, Flags, Transfer
from ...usb.tree import Endpoint
from ...usb.types import Status, TransferType
from . import reasons
from .ends import Ends
from .flight import ADD_ZERO_PACKET, Flight, refused
from .handle import Handle
from .library import IO, NO_DEVICE, NO_MEM, NOT_SUPPORTED, STATUSES, LibraryError, library
from .scan import Plugged

log: Final = logging.getLogger(__name__)
CONTROL_SECONDS: Final = 5.0  # for a control transfer; USB 2.0 §9.2.6.1 lets a device take no longer
CANCEL_SECONDS: Final = 10.0  # for all that is in flight to end, before a request or once a device is given back
CONTROL: Final = 0x00  # the key of the default endpoint, whatever the direction
_RESET: Final = Setup(*requests.SET_PORT_FEATURE, requests.PORT_RESET).pack()
_ZERO_PACKET: Final = int(Flags.ZERO_PACKET)
_EVERY: Final = frozenset(number | way for number in range(1, 16) for way in (0x00, 0x80))

Answer = Completion | asyncio.Future[Completion]


class LibusbDevice(Device):
    """A claimed device. Made by `LibusbSource.open` from an opened handle whose settings are known."""

    patience = 0.0

    def __init__(
        self,
        handle: Handle,
        plugged: Plugged,
        comes_back: Callable[[Plugged], Awaitable[bool]],
        closed: Callable[[LibusbDevice], Awaitable[None]],
    ) -> None:
        """`comes_back` tells whether another device is at its port now; `closed` hears that it was given back."""
        self.info = handle.info
        self.plugged = plugged
        self._comes_back = comes_back
        self._closed = closed
        self.gone = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._handle = handle
        self._found = handle.info.configuration
        self._endpoints: dict[int, Endpoint] = {}
        self._kinds: dict[int, TransferType] = {}  # the same ones' types
        self._flights: dict[Transfer, Flight] = {}
        self._last: dict[int, Promise] = {}  # endpoint -> the latest of its flights
        self._gate = DirectGate(self._send, self._gate_moved)
        self._gated: set[int] = set()
        self._waiting: deque[tuple[Transfer, Promise]] = deque()  # control, behind a request
        self._request: Transfer | None = None  # the one at work
        self._over: Status | None = None  # what submits are answered with from the end on
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._told: set[int] = set()  # the errors whose remedy was logged
        self._is_resetting = False
        self._is_another = False  # something else is at its port since a reset
        self._ends = Ends(handle)
        self._limit: asyncio.TimerHandle | None = None  # of the control transfers' time
        self.is_stuck = False  # some transfers never end: its handle, and what libusb keeps it in, stay for good
        self._look_up()

    # -- the seam -----------------------------------------------------------------------------------------------------

    def submit(self, transfer: Transfer) -> Answer:
        if self._over is not None:
            return Completion(self._over)
        if not transfer.endpoint & 0x0F:
            return self._control(transfer)
        if self._gated and transfer.endpoint in self._gated:
            return self._gate.submit(transfer)
        return self._send(transfer)

    def cancel(self, transfer: Transfer) -> None:
        flight = self._flights.get(transfer)
        if flight is not None:
            self._ends.ask_for([flight])
        elif not self._gate.cancel(transfer):
            self._withdraw_control(transfer)

    def reset(self) -> asyncio.Future[ResetOutcome]:
        outcome = self._loop.create_future()
        if self._over is not None:
            outcome.set_result(ResetOutcome.GONE)
            return outcome
        self._end_pending(Status.SHUTDOWN)
        done = self._control(Transfer(CONTROL, 0, b"", _RESET))
        assert isinstance(done, asyncio.Future)
        done.add_done_callback(lambda done: outcome.set_result(self._outcome(done.result())))
        return outcome

    def alloc_streams(self, endpoints: tuple[int, ...], count: int) -> Answer:
        return self._in_thread(self._alloc_streams(endpoints, count))

    def free_streams(self, endpoints: tuple[int, ...]) -> Answer:
        return self._in_thread(self._free_streams(endpoints))

    async def close(self) -> None:
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    # -- transfers ----------------------------------------------------------------------------------------------------

    # One that had to wait has its answer already, which its flight ends: to hand a result on would take a turn of the
    # loop, in which a later transfer that did not wait could come before it.

    def _send(self, transfer: Transfer, answer: Promise | None = None) -> Answer:
        """To libusb, if there is such an endpoint in the settings in force."""
        if self._over is not None:
            return self._behind(transfer.endpoint, Completion(self._over), answer)
        kind = self._kinds.get(transfer.endpoint)
        if kind is None:
            return self._behind(transfer.endpoint, Completion(Status.STALL), answer)
        if (transfer.packets is not None) != (kind is TransferType.ISOCHRONOUS) or transfer.packets == []:
            return self._behind(transfer.endpoint, Completion(Status.INVALID), answer)
        flight = Flight(transfer, answer or Promise(loop=self._loop))
        flags = 0
        if transfer.flags & _ZERO_PACKET and kind is not TransferType.ISOCHRONOUS and not transfer.is_in:
            flags = ADD_ZERO_PACKET
        flight.prepare(self._handle.context, self._handle.address, kind, flags)
        return self._launch(flight, transfer.endpoint, answer)

    def _launch(self, flight: Flight, key: int, answer: Promise | None) -> Answer:
        context, address = self._handle.context, flight.address
        context.flying[address] = lambda: self._landed(flight, key)
        self._flights[flight.transfer] = flight
        code = library().libusb_submit_transfer(flight.pointer)
        if code == NOT_SUPPORTED and flight.leave_zero_packet():
            return self._launch_in_two(flight, key, answer)
        if code < 0:
            del context.flying[address], self._flights[flight.transfer]
            flight.free()
            self._explain(code)
            return self._behind(key, refused(code), answer)
        self._last[key] = flight.future
        return flight.future

    def _launch_in_two(self, flight: Flight, key: int, answer: Promise | None) -> Answer:
        """Where libusb adds no empty packet, as outside Linux: it goes by itself, behind."""
        first = self._launch(flight, key, answer)
        size, length = self._endpoints[key].packet_size or 1, flight.transfer.length
        if isinstance(first, Completion) or not length or length % size:
            return first
        empty = Transfer(key, 0)
        self._send(empty)

        def ended(first: asyncio.Future[Completion]) -> None:
            if first.result().status != Status.OK:
                self.cancel(empty)

        first.add_done_callback(ended)
        return first

    def _landed(self, flight: Flight, key: int) -> None:
        del self._flights[flight.transfer]
        if self._last.get(key) is flight.future:
            del self._last[key]
        completion = flight.end()
        flight.free()
        flight.future.fulfil(completion)
        if completion.status == Status.GONE:
            self.left("it was unplugged")
        if key == CONTROL and self._waiting:
            self._go_on()

    def _behind(self, key: int, completion: Completion, answer: Promise | None) -> Answer:
        """An answer that is known at once, when nothing earlier waits on its endpoint; behind that otherwise."""
        last = self._last.get(key)
        if last is None:
            if answer is not None:
                answer.fulfil(completion)
            return completion
        self._last[key] = later = answer or Promise(loop=self._loop)

        def ended(_: object) -> None:
            if self._last.get(key) is later:
                del self._last[key]
            later.fulfil(completion)
            if key == CONTROL:
                self._go_on()

        last.add_done_callback(ended)
        return later

    def _silence(self, touched: frozenset[int], verdict: Status) -> list[Promise]:
        """Everything in flight on these endpoints is to end; what must be waited for."""
        found = [f for f in self._flights.values() if f.transfer.endpoint in touched]
        for flight in found:
            if not flight.is_cancelled:
                flight.verdict = verdict
        self._ends.ask_for(found)
        return [flight.future for flight in found]

    def _explain(self, code: int) -> None:
        """Once, what a user can do about it."""
        if code == NO_DEVICE:
            self.left("it was unplugged")
        elif code not in self._told and (text := self._remedy(code)):
            self._told.add(code)
            log.warning("%s", text)

    def _remedy(self, code: int) -> str | None:
        if code == NO_MEM:
            return reasons.no_memory(self.info.name)
        return reasons.asleep(self.info.name) if code == IO else None

    # -- control transfers and requests -------------------------------------------------------------------------------

    def _control(self, transfer: Transfer) -> Answer:
        touched = self._touched(transfer.setup)
        if touched is None and self._request is None and not self._waiting:
            return self._send_control(transfer)
        if transfer.data.__class__ is not bytes:
            transfer.data = bytes(transfer.data)
        answer = Promise(loop=self._loop)
        self._waiting.append((transfer, answer))
        if touched:
            self._gate.put_up(transfer, touched)
            self._gate_moved()
        self._go_on()
        return answer

    def _send_control(self, transfer: Transfer, answer: Promise | None = None) -> Answer:
        if not _is_whole(transfer):
            return self._behind(CONTROL, Completion(Status.INVALID), answer)
        flight = Flight(transfer, answer or Promise(loop=self._loop))
        flight.prepare(self._handle.context, self._handle.address, TransferType.CONTROL)
        flight.due = self._loop.time() + CONTROL_SECONDS
        if self._limit is None:  # one timer for all of them, and none that each would have to set and cancel
            self._limit = self._loop.call_at(flight.due, self._end_late)
        return self._launch(flight, CONTROL, answer)

    def _end_late(self) -> None:
        """Ask for the end of control transfers that take too long."""
        self._limit, now, late = None, self._loop.time(), list[Flight]()
        for flight in self._flights.values():
            if flight.due > now:
                self._limit = self._loop.call_at(flight.due, self._end_late)
                break
            if flight.due and not flight.is_cancelled:
                flight.verdict = Status.TIMEOUT
                late.append(flight)
        self._ends.ask_for(late)

    def _go_on(self) -> None:
        """The control transfers that wait, as far as they may go: a request waits for all before it, all behind it."""
        while self._waiting and self._request is None:
            transfer, answer = self._waiting[0]
            touched = self._touched(transfer.setup)
            if touched is not None and CONTROL in self._last:
                return
            self._waiting.popleft()
            if touched is None:
                self._send_control(transfer, answer)
            else:
                self._request = transfer
                self._run(self._perform(transfer, Setup.parse(transfer.setup), touched, answer))

    def _touched(self, raw: bytes) -> frozenset[int] | None:
        """The endpoints that a request changes, of which libusb must hear; None for what goes to the device."""
        if len(raw) != 8:
            return None
        setup = Setup.parse(raw)
        kind = (setup.request_type, setup.request)
        if kind == requests.SET_CONFIGURATION or requests.is_port_reset(setup):
            return _EVERY
        if kind == requests.SET_INTERFACE:
            settings = (i for c in self.info.configurations for i in c.interfaces if i.number == setup.index)
            return frozenset(e.address for i in settings for e in i.endpoints)
        if requests.is_clear_halt(setup) and setup.index & 0x0F:
            return frozenset((setup.index & 0x8F,))
        return frozenset() if kind == requests.SET_ADDRESS else None

    async def _perform(self, transfer: Transfer, setup: Setup, touched: frozenset[int], answer: Promise) -> None:
        status = Status.OK
        try:
            await self._call(setup, touched)
        except LibraryError as error:
            log.debug("%s: %s: %s", self.info.name, setup, error)
            status = self._over or STATUSES.get(error.code, Status.FAILED)
            status = Status.STALL if status in (Status.INVALID, Status.FAILED, Status.BUSY) else status
            self._explain(error.code)
        except TimeoutError as error:
            log.error("%s: %s: %s", self.info.name, setup, error)
            status = Status.FAILED
        except Exception:
            log.exception("%s: %s", self.info.name, setup)
            status = Status.FAILED
        self._request = None
        self._look_up()
        answer.fulfil(Completion(status))
        self._gate.ended(transfer)
        self._go_on()

    async def _call(self, setup: Setup, touched: frozenset[int]) -> None:
        """Do what a request asks for. Raises LibraryError."""
        kind, handle, info = (setup.request_type, setup.request), self._handle, self.info
        if kind == requests.SET_CONFIGURATION:
            value = setup.value & 0xFF
            if value == info.configuration:  # nothing to do, but for what such a request does to interfaces
                for number in tuple(info.alternates):
                    await self._call(requests.set_interface(number, 0), self._touched_by(number))
                return
            await self._quiet(touched)
            await handle.call(handle.set_configuration, value)
        elif kind == requests.SET_INTERFACE:
            await self._quiet(touched)
            await handle.call(handle.set_interface, setup.index, setup.value)
        elif requests.is_clear_halt(setup):
            await handle.call(handle.clear_halt, setup.index & 0x8F)
        elif requests.is_port_reset(setup):
            await self._quiet(touched)
            self._is_resetting = True
            try:
                if await handle.call(handle.reset) is ResetOutcome.SAME:
                    return
                self._is_another = await self._comes_back(self.plugged)
            finally:
                self._is_resetting = False
            self.left("after a reset it is another device" if self._is_another else "it did not survive a reset")
            raise LibraryError(NO_DEVICE)

    def _touched_by(self, number: int) -> frozenset[int]:
        return self._touched(requests.set_interface(number, 0).pack()) or frozenset()

    async def _quiet(self, touched: frozenset[int]) -> None:
        """End what is in flight on endpoints that will not be the same: the kernel would, and call the device gone.

        Raises TimeoutError where it does not end.
        """
        futures = self._silence(touched, Status.SHUTDOWN)
        late = (await asyncio.wait(futures, timeout=CANCEL_SECONDS))[1] if futures else ()
        if late:
            raise TimeoutError(f"{len(late)} transfers do not end")

    def _withdraw_control(self, transfer: Transfer) -> None:
        """One that waits has not begun, so it ends; one at work cannot be stopped."""
        for place, (other, answer) in enumerate(self._waiting):
            if other is transfer:
                del self._waiting[place]
                answer.fulfil(Completion(Status.CANCELLED))
                self._gate.ended(transfer)
                self._go_on()
                return

    def _gate_moved(self) -> None:
        self._gated = self._gate.addresses()

    def _look_up(self) -> None:
        self._endpoints = {e.address: e for i in self.info.interfaces for e in i.endpoints}
        self._kinds = {address: endpoint.type for address, endpoint in self._endpoints.items()}

    def _outcome(self, completion: Completion) -> ResetOutcome:
        if completion.status == Status.OK:
            return ResetOutcome.SAME
        return ResetOutcome.ANOTHER if self._is_another else ResetOutcome.GONE

    # -- streams ------------------------------------------------------------------------------------------------------

    def _in_thread(self, work: Coroutine[Any, Any, Completion]) -> Answer:
        if self._over is not None:
            work.close()
            return Completion(self._over)
        return self._run(work)

    async def _alloc_streams(self, endpoints: tuple[int, ...], count: int) -> Completion:
        try:
            return Completion(actual=await self._handle.call(self._handle.alloc_streams, endpoints, count))
        except LibraryError as error:
            return refused(error.code)

    async def _free_streams(self, endpoints: tuple[int, ...]) -> Completion:
        try:
            await self._handle.call(self._handle.free_streams, endpoints)
        except LibraryError as error:
            return refused(error.code)
        return Completion()

    # -- the end ------------------------------------------------------------------------------------------------------

    def left(self, reason: str) -> None:
        """It is gone: all that waits ends, what comes is answered with GONE. Nothing happens a second time.

        During a reset it may seem so for a moment; then the reset finds out.
        """
        if self._over is None and not self._is_resetting:
            self._over = Status.GONE
            self._end_pending(Status.GONE)
            self.gone.set_result(reason)

    def _end_pending(self, status: Status) -> None:
        """All that waits ends with `status`, and all in flight is asked to."""
        self._gate.flush(status)
        waiting, self._waiting = self._waiting, deque()
        for _, answer in waiting:
            answer.fulfil(Completion(status))
        self._silence(_EVERY | {0x00, 0x80}, status)

    async def _close(self) -> None:
        is_here = self._over is None
        if self._over is None:
            self._over = Status.GONE
            self._end_pending(Status.SHUTDOWN)
        if self._limit is not None:
            self._limit.cancel()
        pending = [flight.future for flight in self._flights.values()]
        late = (await asyncio.wait(pending, timeout=CANCEL_SECONDS))[1] if pending else ()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if late:  # to close the handle under a transfer crashes libusb
            self.is_stuck = True
            log.error("%s stays open: %d transfers do not end", self.info.name, len(late))
        else:
            await self._ends.asked()
            await self._handle.call(self._handle.end, self._found, is_here)
        self._handle.stop()
        await self._closed(self)

    def _run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _is_whole(transfer: Transfer) -> bool:
    """Whether a control transfer's parts fit together."""
    if len(transfer.setup) != 8:
        return False
    setup = Setup.parse(transfer.setup)
    return setup.length == transfer.length and (not setup.length or setup.is_in == transfer.is_in)
