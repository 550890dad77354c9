"""The endpoints of a virtual device: one pipe for each of the settings in force, and the barriers before them.

A control request that changes endpoints and is not done at once is a barrier: the gate holds what comes later for the
endpoints that it touches until it is answered.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping
from typing import Final

from ..usb.info import DeviceInfo
from ..usb.setup import CLEAR_ENDPOINT_FEATURE, SET_CONFIGURATION, SET_INTERFACE, Setup
from ..usb.transfer import Completion, Transfer
from ..usb.tree import Bos, Endpoint, Interface
from ..usb.types import Speed, Status, TransferType
from .chapter9 import Chapter9
from .clock import Clock
from .gate import Gate
from .pipe import Handler, Pipe, Waiting
from .streams import Streams

_ENDPOINTS: Final = frozenset(number | way for number in range(1, 16) for way in (0x00, 0x80))


class Endpoints(Chapter9):
    """What a device does with transfers before their handlers see them."""

    def __init__(self, info: DeviceInfo, strings: Mapping[int, str], bos: Bos | None) -> None:
        super().__init__(info, strings, bos)
        self._pipes: dict[int, Pipe] = {}  # of the settings in force
        self._routes: Mapping[int, Pipe | Gate] = self._pipes  # the same, but for endpoints behind a barrier
        self._gate = Gate(self._submit_past_barriers, self._reroute)
        self._control_pipe: Pipe | None = None  # from a claim's start to its end
        self.is_present = False  # claimed, and not gone

    # -- what a subclass has ------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def clock(self) -> Clock:
        """The device's time."""

    @abstractmethod
    def handler_of(self, address: int) -> Handler:
        """Who answers an endpoint's transfers."""

    def settings_changed(self) -> None:
        """A configuration or an alternate setting came into force."""

    def halt_cleared(self, address: int) -> None:
        """CLEAR_FEATURE(ENDPOINT_HALT) came for an endpoint."""

    # -- transfers ----------------------------------------------------------------------------------------------------

    def submit(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        pipe = self._routes.get(transfer.endpoint)
        if pipe is None:
            return self._nowhere()
        return pipe.submit(transfer)

    def cancel(self, transfer: Transfer) -> None:
        pipe = self._pipes.get(transfer.endpoint)
        if not self._gate.cancel(transfer) and pipe is not None:
            pipe.cancel(transfer)

    def _nowhere(self) -> Completion:
        """What is sent to an endpoint that is not there."""
        return Completion(Status.STALL if self.is_present else Status.GONE)

    def kick(self, address: int) -> None:
        """Ask an endpoint's handler again; nothing happens where the current settings lack the endpoint."""
        pipe = self._pipes.get(address)
        if pipe is not None:
            pipe.kick()

    def kick_stream(self, address: int, number: int) -> None:
        """The same of one stream; nothing happens where the endpoint has none."""
        pipe = self._pipes.get(address)
        if isinstance(pipe, Streams):
            pipe.kick_stream(number)

    def halt(self, address: int) -> None:
        """Halt an endpoint: it stalls until the host clears it."""
        self.set_halt(address, True)

    def flush_endpoint(self, address: int, status: Status, *, dead: bool = False) -> None:
        """End all that waits at an endpoint; a dead one answers so until the settings change."""
        pipe = self._pipes.get(address)
        if pipe is not None:
            pipe.flush(status, dead=dead)

    def rewire(self) -> None:
        """Ask the endpoints' handlers by way of the faults as they are now."""
        for address, pipe in self._pipes.items():
            pipe.handler = self.handler_of(address)

    # -- streams ------------------------------------------------------------------------------------------------------

    def alloc_streams(self, endpoints: tuple[int, ...], count: int) -> Completion | asyncio.Future[Completion]:
        """Streams 1 to `count` for all of these bulk endpoints, or INVALID and nothing changed."""
        pipes = [self._pipes.get(address) for address in endpoints]
        if not pipes or not all(pipe is not None and 0 < count <= _streams_of(pipe.endpoint) for pipe in pipes):
            return Completion(Status.INVALID)
        return self._with_streams(endpoints, count)

    def free_streams(self, endpoints: tuple[int, ...]) -> Completion | asyncio.Future[Completion]:
        """They are plain bulk endpoints again. INVALID where one has no streams."""
        if not endpoints or not all(isinstance(self._pipes.get(address), Streams) for address in endpoints):
            return Completion(Status.INVALID)
        return self._with_streams(endpoints, 0)

    def has_streams(self, address: int) -> bool:
        """Whether an endpoint's transfers are of streams now."""
        return isinstance(self._pipes.get(address), Streams)

    def has_stream(self, address: int, number: int) -> bool:
        """Whether an endpoint has this one."""
        pipe = self._pipes.get(address)
        return isinstance(pipe, Streams) and pipe.has(number)

    def _with_streams(self, endpoints: tuple[int, ...], count: int) -> Completion:
        """What waits there has lost its place: it ends."""
        for address in endpoints:
            former = self._pipes[address]
            former.flush(Status.SHUTDOWN, dead=True)
            start = (former.endpoint, former.handler, self.info.speed, self.clock)
            self._pipes[address] = Streams(*start, count) if count else Pipe(*start)
        self._reroute()
        return Completion(Status.OK)

    # -- chapter 9's hooks --------------------------------------------------------------------------------------------

    def configured(self, value: int) -> None:
        self._make_pipes()
        self.settings_changed()

    def interface_set(self, number: int, alternate: int) -> None:
        """Only this interface's endpoints start afresh; transfers on the others go on."""
        active = self.info.active
        assert active is not None
        mine = {e.address for i in active.interfaces if i.number == number for e in i.endpoints}
        for address in mine & self._pipes.keys():
            self._pipes.pop(address).flush(Status.SHUTDOWN, dead=True)
        for interface in self.info.interfaces:
            if interface.number == number:
                self._add_pipes(interface)
        self._reroute()
        self.settings_changed()

    def is_halted(self, endpoint: int) -> bool | None:
        pipe = self._pipes.get(endpoint)
        return None if pipe is None else pipe.halted

    def set_halt(self, endpoint: int, halted: bool) -> None:
        pipe = self._pipes.get(endpoint)
        if pipe is None:
            return
        if halted:
            pipe.halt()
        else:
            pipe.clear()
            self.halt_cleared(endpoint)

    # -- the pipes -----------------------------------------------------------------------------------------------------

    def appear(self) -> None:
        """A claim begins: the default endpoint answers."""
        self.is_present = True
        self._control_pipe = _ControlPipe(self.handler_of(0), self.info.speed, self.clock, self)

    def _make_pipes(self) -> None:
        self._flush(Status.SHUTDOWN, dead=True, control=False)
        assert self._control_pipe is not None
        self._pipes = {0x00: self._control_pipe, 0x80: self._control_pipe}
        for interface in self.info.interfaces:
            self._add_pipes(interface)
        self._reroute()

    def leave(self, status: Status) -> None:
        """All that is pending ends with `status`, and what comes from now on with GONE."""
        self.is_present = False
        self._gate.flush(status)
        self._flush(status, dead=True)
        self._pipes = {}
        self._reroute()

    def _add_pipes(self, interface: Interface) -> None:
        for one in interface.endpoints:
            self._pipes[one.address] = Pipe(one, self.handler_of(one.address), self.info.speed, self.clock)

    def _flush(self, status: Status, *, dead: bool = False, control: bool = True) -> None:
        for address, pipe in self._pipes.items():
            if control or address & 0x0F:
                pipe.flush(status, dead=dead)

    # -- barriers -----------------------------------------------------------------------------------------------------

    def request_waits(self, transfer: Transfer) -> None:
        """A control request is not done yet. If it changes endpoints, nothing later may reach them before it."""
        addresses = self._touched(Setup.parse(transfer.setup))
        if addresses:
            self._gate.put_up(transfer, addresses)
            self._reroute()

    def request_ended(self, transfer: Transfer) -> None:
        """A control request that waited is answered."""
        self._gate.ended(transfer)

    def _touched(self, setup: Setup) -> frozenset[int]:
        kind = (setup.request_type, setup.request)
        if kind == SET_CONFIGURATION:
            return _ENDPOINTS
        if kind == SET_INTERFACE:
            settings = (i for c in self.info.configurations for i in c.interfaces if i.number == setup.index)
            return frozenset(e.address for i in settings for e in i.endpoints)
        if kind == CLEAR_ENDPOINT_FEATURE:
            return frozenset((setup.index & 0x8F,)) & _ENDPOINTS
        return frozenset()

    def _reroute(self) -> None:
        held = self._gate.addresses()
        self._routes = {**self._pipes, **dict.fromkeys(held, self._gate)} if held else self._pipes

    def _submit_past_barriers(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        pipe = self._pipes.get(transfer.endpoint)
        return self._nowhere() if pipe is None else pipe.submit(transfer)


def _streams_of(endpoint: Endpoint) -> int:
    """How many streams a bulk endpoint may have."""
    is_bulk = endpoint.type is TransferType.BULK and endpoint.companion is not None
    return endpoint.companion.streams if is_bulk and endpoint.companion is not None else 0


class _ControlPipe(Pipe):
    """The default endpoint; its device hears of requests that are not done at once, and of their end."""

    def __init__(self, handler: Handler, speed: Speed, clock: Clock, device: Endpoints) -> None:
        super().__init__(Endpoint(0, TransferType.CONTROL, 64), handler, speed, clock)
        self._device = device

    def submit(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        answer = super().submit(transfer)
        if isinstance(answer, asyncio.Future) and not answer.done():
            self._device.request_waits(transfer)
        return answer

    def _finish(self, waiting: Waiting, completion: Completion) -> None:
        super()._finish(waiting, completion)
        self._device.request_ended(waiting.transfer)
