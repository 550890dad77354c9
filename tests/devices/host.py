"""What a host does with a device, in few words: for the tests of devices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from usbferry.device import Device
from usbferry.devices.virtual import VirtualDevice
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion, IsoPacket, Transfer


@asynccontextmanager
async def opened(device: VirtualDevice) -> AsyncIterator[VirtualDevice]:
    """The device, claimed for the length of a `with`."""
    await device.open()
    try:
        yield device
    finally:
        await device.close()


def control(setup: Setup, data: bytes = b"") -> Transfer:
    """A control transfer; `setup.length` is right already."""
    return Transfer(0x80 if setup.is_in else 0x00, setup.length, data, setup.pack())


def ask(device: Device, setup: Setup, data: bytes = b"") -> Completion | asyncio.Future[Completion]:
    """Submit a control request."""
    return device.submit(control(setup, data))


def read(endpoint: int, length: int, flags: int = 0) -> Transfer:
    return Transfer(endpoint, length, flags=flags)


def write(endpoint: int, data: bytes, flags: int = 0) -> Transfer:
    return Transfer(endpoint, len(data), data, flags=flags)


def isochronous(endpoint: int, lengths: list[int]) -> Transfer:
    """One transfer of packets that adjoin each other."""
    packets, offset = [], 0
    for length in lengths:
        packets.append(IsoPacket(offset, length))
        offset += length
    return Transfer(endpoint, offset, b"" if endpoint & 0x80 else bytes(offset), packets=packets)


async def turn() -> None:
    """Let what is due in the event loop run: callbacks of finished futures, and what they call for."""
    for _ in range(5):
        await asyncio.sleep(0)
