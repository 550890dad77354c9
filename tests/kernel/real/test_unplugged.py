"""Devices that leave in the middle of it, and come back: QEMU's device_del and device_add, under one server of ours.

Two importers take turns: the guest's own kernel, and our library on the host, which is quicker.
"""

import asyncio
import os
import struct
from collections.abc import Iterator

import pytest

from tests.kernel.emulated import control, disk_path, ended, said, scsi
from tests.kernel.guest import Guest, Step
from tests.kernel.real.machine import PORT, Machine
from usbferry.backends.remote import RemoteSource
from usbferry.device import Claimant, Device
from usbferry.usb.setup import get_descriptor
from usbferry.usb.transfer import Transfer
from usbferry.usb.types import Status

ROUNDS = 50 if os.environ.get("USBFERRY_SOAK") else 10
BY_KERNEL = 5  # every so many rounds
PULLED = ("disk-xhci", "keys-ehci", "disk-uhci", "keys-xhci", "disk-ehci", "serial-uhci")
POOL = 6  # threads of asyncio's, which come when two scans meet: two processors and four
# What a transfer in flight may end with, from when the device leaves until the kernel knows.
LEAVING = {Status.GONE, Status.SHUTDOWN, Status.PROTOCOL}


@pytest.fixture
def whole(machine: Machine) -> Iterator[Machine]:
    """The machine with nothing missing, before and after."""
    machine.plug_all()
    yield machine
    machine.plug_all()


async def use(device: Device, name: str) -> Status:
    """Keep it busy until it leaves; how that was noticed."""
    if not name.startswith("disk"):
        return await keep_reading(device)
    read = struct.pack(">BBIBHB", 0x28, 0, 0, 0, 128, 0)
    try:
        while True:
            await scsi(device, read, 128 * 512)
    except AssertionError:
        return (await ended(device.submit(Transfer(0x81, 512)))).status


async def keep_reading(device: Device) -> Status:
    """Some reads in flight at any time, and control requests between."""
    status = Status.OK
    while status == Status.OK:
        answers = [device.submit(Transfer(0x81, 64)) for _ in range(4)]
        while status == Status.OK and not any(isinstance(one, asyncio.Future) and one.done() for one in answers):
            status = (await control(device, get_descriptor(1, length=18))).status
        found = {(await ended(one)).status for one in answers}
        status = Status.OK if found == {Status.OK} else (found - {Status.OK}).pop()
    return status


async def pulled_by_library(machine: Machine, source: RemoteSource, name: str) -> None:
    device = await source.open(machine.bus_ids[name], Claimant("test"))
    using = asyncio.get_running_loop().create_task(use(device, name))
    await asyncio.sleep(0)
    assert (await control(device, get_descriptor(1, length=18))).actual == 18
    await asyncio.to_thread(machine.unplug, name)
    async with asyncio.timeout(30):
        assert await using in LEAVING
        await device.gone
    assert (await ended(device.submit(Transfer(0x81, 64)))).status == Status.GONE
    await device.close()


def pulled_by_kernel(machine: Machine, name: str) -> None:
    device = machine.attach([name])[name]
    if name.startswith("disk"):
        reading = machine.guest.start(f"""
            {disk_path(device)}
            dd if=$disk of=/dev/null bs=64K count=1 iflag=direct && echo reads
            while dd if=$disk of=/dev/null bs=64K iflag=direct status=none; do :; done
        """)
        said(reading, "reads")
        machine.unplug(name)
        reading.wait()
    else:
        machine.unplug(name)
    machine.until_free()


async def at_rest(machine: Machine) -> tuple[int, int]:
    """The server's threads and open files, without the connections and devices that are being closed."""
    counts = []
    for _ in range(5):
        counts.append(await asyncio.to_thread(machine.counted))
        await asyncio.sleep(0.2)
    return min(threads for threads, _ in counts), min(files for _, files in counts)


async def until_listed(source: RemoteSource, name: str) -> None:
    """Shared again, by the bus id that it had."""
    async with asyncio.timeout(30):
        while name not in {info.name for info in await source.list()}:  # noqa: ASYNC110  # USB/IP tells nobody
            await asyncio.sleep(0.05)


@pytest.mark.timeout(300 + 15 * ROUNDS)
async def test_pulled_out_in_mid_transfer_and_plugged_in_again(guest: Guest, whole: Machine, server: Step) -> None:
    """Each time the importer learns it, its transfers end, the kernel's driver has it, and it is shared again.

    The server holds no more threads and open files in the end than at first.
    """
    machine, source = whole, RemoteSource(f"usbip://127.0.0.1:{guest.ports[PORT]}")
    await source.list()  # from its first connection on, a server's clock has a file
    before = await at_rest(machine)
    for number in range(ROUNDS):
        name = PULLED[number % len(PULLED)]
        bus_id = machine.bus_ids[name]
        if number % BY_KERNEL:
            await pulled_by_library(machine, source, name)
        else:
            await asyncio.to_thread(pulled_by_kernel, machine, name)
        await asyncio.to_thread(machine.plug, name)
        assert machine.bus_ids[name] == bus_id
        await until_listed(source, bus_id)
    after = await at_rest(machine)
    assert after[1] <= before[1], f"open files: {before}, {after}"
    assert after[0] <= before[0] + POOL, f"threads: {before}, {after}"
    assert "Traceback" not in server.output()
    assert guest.complaints() == []


async def test_killed_with_its_hands_full_the_kernels_drivers_have_them_again(guest: Guest, whole: Machine) -> None:
    names = ("keys-uhci", "disk-xhci", "uas-ehci", "sound-uhci", "serial-xhci")
    server = await asyncio.to_thread(whole.serve, *(f"usb:{whole.bus_ids[name]}" for name in names), port=PORT + 1)
    source = RemoteSource(f"usbip://127.0.0.1:{guest.ports[PORT + 1]}")
    devices = [await source.open(whole.bus_ids[name], Claimant("test")) for name in names]
    reading = devices[0].submit(Transfer(0x81, 8))
    assert whole.drivers(whole.bus_ids[name] for name in names) == ["usbfs"] * len(names)
    guest.run(f"kill -KILL $(cat /run/server.{PORT + 1}.pid)").ok()
    assert (await asyncio.to_thread(server.wait)).rc == 137
    assert (await ended(reading)).status in (Status.GONE, Status.SHUTDOWN)
    await asyncio.to_thread(whole.find, names)
    for device in devices:
        await device.close()
    assert guest.complaints() == []
