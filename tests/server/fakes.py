"""Small stand-ins for what a server works with: a device that does as it is told, a source of it, a link in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from usbferry.device import Change, Claimant, Device, NotFound, ResetOutcome, Source
from usbferry.usb.descriptors import Configuration, DeviceDescriptor, Interface
from usbferry.usb.info import DeviceInfo
from usbferry.usb.transfer import Buffer, Completion, Transfer
from usbferry.usb.types import Status


def info(name: str = "zero", **fields: Any) -> DeviceInfo:
    return DeviceInfo(name, DeviceDescriptor(0x1209, 0x0001), (Configuration(1, (Interface(0),)),), **fields)


class Puppet(Device):
    """Parks every transfer, unless `answer` says otherwise, and notes what it was told."""

    def __init__(self, name: str = "zero") -> None:
        self.info = info(name)
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.log: list[str] = []
        self.parked: dict[Transfer, asyncio.Future[Completion]] = {}
        self.answer: Callable[[Transfer], Any] = lambda transfer: None
        self.outcome: Any = ResetOutcome.SAME  # or an exception, or a future
        self.open = True

    def submit(self, transfer: Transfer) -> Any:
        answer = self.answer(transfer)
        if answer is None:
            answer = self.parked[transfer] = asyncio.get_running_loop().create_future()
        return answer

    def finish(self, completion: Completion | None = None, *, at: int = 0) -> None:
        """End one parked transfer."""
        transfer = list(self.parked)[at]
        future = self.parked.pop(transfer)
        done = Completion(Status.OK, b"x" * transfer.length if transfer.is_in else b"", transfer.length)
        future.set_result(completion or done)

    def cancel(self, transfer: Transfer) -> None:
        self.log.append("cancel")
        future = self.parked.pop(transfer, None)
        if future is not None:
            future.set_result(Completion(Status.CANCELLED))

    def reset(self) -> asyncio.Future[ResetOutcome]:
        self.log.append("reset")
        if isinstance(self.outcome, asyncio.Future):
            return self.outcome
        future: asyncio.Future[ResetOutcome] = asyncio.get_running_loop().create_future()
        if isinstance(self.outcome, Exception):
            future.set_exception(self.outcome)
        else:
            future.set_result(self.outcome)
        return future

    def suspend(self) -> None:
        self.log.append("suspend")

    def resume(self) -> None:
        self.log.append("resume")

    def vanish(self, reason: str) -> None:
        while self.parked:
            self.finish(Completion(Status.GONE))
        self.gone.set_result(reason)

    async def close(self) -> None:
        self.log.append("close")
        self.open = False
        while self.parked:
            self.finish(Completion(Status.SHUTDOWN))


class Shelf(Source):
    """Puppets by name. `opening` is called with the name and may wait or raise."""

    address = "test:shelf"

    def __init__(self, *names: str) -> None:
        self.infos = [info(name) for name in names]
        self.opened: list[Puppet] = []
        self.claimants: list[Claimant] = []
        self.changes: asyncio.Queue[Change | Exception] = asyncio.Queue()
        self.is_closed = False
        self.make: Callable[[str], Puppet] = Puppet

    async def opening(self, name: str) -> None:
        pass

    async def list(self) -> list[DeviceInfo]:
        return list(self.infos)

    async def open(self, name: str, claimant: Claimant) -> Device:
        await self.opening(name)
        if all(info.name != name for info in self.infos):
            raise NotFound(name)
        self.claimants.append(claimant)
        self.opened.append(self.make(name))
        return self.opened[-1]

    async def watch(self) -> AsyncIterator[Change]:
        while True:
            change = await self.changes.get()
            if isinstance(change, Exception):
                raise change
            yield change

    async def close(self) -> None:
        self.is_closed = True


class Wire:
    """A link in memory: what was received and not consumed, what was written, batch by batch."""

    peer = "192.0.2.7:51234"

    def __init__(self, user: Any) -> None:
        self.user = user
        self.blocked = False
        self.writes: list[bytes] = []
        self.is_closed = False
        self.stirred = asyncio.Event()  # something was written, or it was closed, since the last `heard`
        self.blocks_after = 1 << 62  # bytes of one write after which it is blocked
        self._held = b""
        self._loop = asyncio.get_running_loop()
        user.opened(self)

    def feed(self, data: bytes) -> None:
        """Bytes arrive."""
        self._held += data
        self.process()

    def process(self) -> None:
        lent = bytearray(self._held)
        consumed = self.user.received(memoryview(lent))
        self._held = self._held[consumed:]
        lent[:] = b"\xee" * len(lent)

    @property
    def unread(self) -> int:
        return len(self._held)

    def write(self, pieces: Sequence[Buffer], size: int) -> None:
        assert sum(len(piece) for piece in pieces) == size
        if self.is_closed:
            return
        self.writes.append(b"".join(pieces))
        self.stirred.set()
        self.blocked = self.blocked or size > self.blocks_after

    def unblock(self) -> None:
        self.blocked = False
        self.process()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.stirred.set()
            self._loop.call_soon(self.user.lost, None)

    abort = close

    def heard(self) -> bytes:
        """Everything written since."""
        self.stirred.clear()
        writes, self.writes = self.writes, []
        return b"".join(writes)
