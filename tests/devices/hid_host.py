"""What a host does with a HID device: it keeps one transfer pending on interrupt IN, by the device clock."""

from __future__ import annotations

import asyncio

from tests.devices.host import ask, read, turn
from usbferry.devices.clock import VirtualClock
from usbferry.devices.virtual import VirtualDevice
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion, Transfer

GET_REPORT, GET_IDLE, GET_PROTOCOL = (0xA1, 1), (0xA1, 2), (0xA1, 3)
SET_REPORT, SET_IDLE, SET_PROTOCOL = (0x21, 9), (0x21, 10), (0x21, 11)
BOOT, REPORT = 0, 1


def set_idle(units: int) -> Setup:
    """In units of 4 ms."""
    return Setup(*SET_IDLE, units << 8)


class HidHost:
    """Polls from its making on; `reports` are what came, each with the time when it did."""

    def __init__(self, device: VirtualDevice, clock: VirtualClock, length: int = 8) -> None:
        self.reports: list[tuple[float, bytes]] = []
        self._device, self._clock, self._length = device, clock, length
        self._pending: Transfer | None = None
        self._poll()

    def _poll(self) -> None:
        self._pending = read(0x81, self._length)
        answer = self._device.submit(self._pending)
        assert isinstance(answer, asyncio.Future)  # periodic endpoints are always asked through their queue
        answer.add_done_callback(lambda done: self._polled(done.result()))

    def _polled(self, completion: Completion) -> None:
        self._pending = None
        if completion.status == 0:
            self.reports.append((self._clock.now(), bytes(completion.data)))
            self._poll()

    async def run(self, seconds: float) -> list[bytes]:
        """Let time pass, millisecond by millisecond; the reports that came meanwhile."""
        before = len(self.reports)
        await turn()
        for _ in range(round(seconds * 1000)):
            self._clock.advance(0.001)
            await turn()
        return [report for _, report in self.reports[before:]]

    def stop(self) -> None:
        """Take the pending transfer back, as a driver that is unbound."""
        if self._pending is not None:
            self._device.cancel(self._pending)

    def ask(self, setup: Setup, data: bytes = b"") -> Completion:
        """A control request that is answered at once."""
        answer = ask(self._device, setup, data)
        assert isinstance(answer, Completion)
        return answer
