"""A device on a bus that does not wait, for `jitter`: what is late here is lost, as it is with real ones.

A headset's interfaces, and one with a bulk source and sink. In every millisecond its microphone has a packet that says
the millisecond's end and number, and its speaker takes one; a millisecond in which no transfer is there passes all the
same. The speaker's packets begin with the time at which they were made, and their number.
"""

from __future__ import annotations

import asyncio
import math
import struct
import time
from typing import Final

from usbferry.backends.virtual import VirtualSource
from usbferry.device import Claimant, Device, Promise, ResetOutcome
from usbferry.devices.headset import Headset
from usbferry.devices.virtual import endpoint
from usbferry.usb.transfer import Completion, IsoPacket, Transfer
from usbferry.usb.tree import Interface
from usbferry.usb.types import Status

STAMP: Final = struct.Struct("<dI")  # the time, by this machine's monotonic clock, and a number
PACKET: Final = 192  # bytes of a millisecond: 48 kHz, stereo
INTERVAL: Final = 1e-3
OUT, IN, FEEDBACK = 0x01, 0x82, 0x81
BULK_OUT, BULK_IN = 0x03, 0x83

Answer = Completion | asyncio.Future[Completion]


class Pipe:
    """One endpoint: when its last transfer is over, and what it has moved."""

    def __init__(self) -> None:
        self.free = 0  # the first interval without a transfer
        self.flying: dict[Transfer, tuple[Promise, asyncio.TimerHandle]] = {}


class Bus(Device):
    """`heard` has of each packet that was played: its interval, its number, and the seconds that it took to come."""

    patience = 0.0

    def __init__(self, device: Device) -> None:
        self.info, self.gone = device.info, device.gone
        self.heard: list[tuple[int, int, float]] = []
        self._device = device
        self._loop = asyncio.get_running_loop()
        self._pipes = {OUT: Pipe(), IN: Pipe(), FEEDBACK: Pipe()}

    def submit(self, transfer: Transfer) -> Answer:
        pipe = self._pipes.get(transfer.endpoint)
        if pipe is None or transfer.packets is None:
            return self._device.submit(transfer)
        transfer.data = bytes(transfer.data)
        start = max(pipe.free, math.ceil(time.monotonic() / INTERVAL))
        pipe.free = start + len(transfer.packets)
        promise = Promise()
        wait = pipe.free * INTERVAL - time.monotonic()
        pipe.flying[transfer] = promise, self._loop.call_later(wait, self._over, pipe, transfer, start)
        return promise

    def _over(self, pipe: Pipe, transfer: Transfer, start: int) -> None:
        promise, _ = pipe.flying.pop(transfer)
        packets = transfer.packets or []
        data = b""
        for number, packet in enumerate(packets, start):
            if transfer.is_in:
                packet.actual = min(packet.length, PACKET)
                data += STAMP.pack((number + 1) * INTERVAL, number).ljust(PACKET)[: packet.actual]
            else:
                packet.actual = packet.length
                self._play(number, transfer, packet)
        promise.fulfil(Completion(Status.OK, data, sum(p.actual for p in packets), packets))

    def _play(self, interval: int, transfer: Transfer, packet: IsoPacket) -> None:
        if packet.length >= STAMP.size:
            made, number = STAMP.unpack_from(transfer.data, packet.offset)
            self.heard.append((interval, number, interval * INTERVAL - made))

    def cancel(self, transfer: Transfer) -> None:
        for pipe in self._pipes.values():
            if transfer in pipe.flying:
                promise, timer = pipe.flying.pop(transfer)
                timer.cancel()
                promise.fulfil(Completion(Status.CANCELLED, packets=transfer.packets))
                return
        self._device.cancel(transfer)

    def _cancel_all(self) -> None:
        for pipe in self._pipes.values():
            for transfer in tuple(pipe.flying):
                self.cancel(transfer)

    def reset(self) -> asyncio.Future[ResetOutcome]:
        self._cancel_all()
        return self._device.reset()

    async def close(self) -> None:
        self._cancel_all()
        await self._device.close()


class _Headset(Headset):
    def interfaces(self) -> tuple[Interface, ...]:
        return *super().interfaces(), Interface(3, 0, 0xFF, endpoints=(self.bulk(BULK_IN), self.bulk(BULK_OUT)))

    @endpoint(BULK_IN)
    def _pour(self, transfer: Transfer) -> Completion:
        return Completion(Status.OK, bytes(transfer.length))

    @endpoint(BULK_OUT)
    def _drink(self, transfer: Transfer) -> Completion:
        return Completion(Status.OK, b"", transfer.length)


class BusSource(VirtualSource):
    """Offers one; `last` is the one that was opened last."""

    last: Bus | None = None

    def __init__(self) -> None:
        super().__init__("virtual:headset?rates=48000", _Headset(rates="48000"))

    async def open(self, name: str, claimant: Claimant) -> Device:
        self.last = Bus(await super().open(name, claimant))
        return self.last
