"""usbredirect, the reference usb-host, with QEMU's devices in a guest: our importer uses them, both ways round."""

import asyncio
import shlex
import struct
import sys

import pytest

import usbferry
from tests.kernel.emulated import (
    AUDIO,
    DISK,
    PLAYS,
    SERIAL,
    carries_bytes,
    ended,
    has_the_bytes,
    heard_frames,
    inquiry,
    play,
    said,
    whole_disk,
)
from tests.kernel.redir.plugging import wait_for
from tests.kernel.redir.redirected import DISK_BYTES, KEYBOARD, connecting, listening, wait_until_it_listens
from tests.kernel.steps import HOST
from usbferry import aio
from usbferry.usb.transfer import Transfer
from usbferry.usb.types import Status

PYTHON = shlex.quote(sys.executable)
KEY_A = bytes([0, 0, 4, 0, 0, 0, 0, 0])


def test_a_disk_is_read_from_one_that_listens(exporting, files):
    with listening(exporting, DISK) as port:
        with usbferry.open(f"usbredir://127.0.0.1:{port}") as disk:
            assert disk.info.product == "QEMU USB HARDDRIVE"
            assert whole_disk(disk, DISK_BYTES) == (files / "redirected").read_bytes()
        wait_until_it_listens(exporting, DISK)  # it ends with its connection: this is another one


def test_a_disk_is_read_from_one_that_connects(exporting, files, tmp_path, free_port):
    with connecting(exporting, DISK, free_port), usbferry.open(f"usbredir://127.0.0.1:{free_port}?listen") as disk:
        assert whole_disk(disk, DISK_BYTES) == (files / "redirected").read_bytes()


async def test_a_keyboard_reports_keys_and_its_reads_are_cancelled(exporting):
    with listening(exporting, KEYBOARD) as port:
        async with await aio.open(f"usbredir://127.0.0.1:{port}") as keyboard:
            for _ in range(50):
                transfer = Transfer(0x81, 8)
                answer = keyboard.submit(transfer)
                keyboard.cancel(transfer)
                assert (await ended(answer)).status == Status.CANCELLED
            answer = keyboard.submit(Transfer(0x81, 8))
            while not answer.done():
                await asyncio.to_thread(exporting.monitor, "sendkey a")
                await asyncio.wait([answer], timeout=1)
            assert bytes((await answer).data) == KEY_A


async def test_a_stalled_endpoint_goes_on(exporting):
    """With no command there is nothing to read, says QEMU's disk."""
    with listening(exporting, DISK) as port:
        async with await aio.open(f"usbredir://127.0.0.1:{port}") as disk:
            for _ in range(3):
                with pytest.raises(aio.Stalled):
                    await disk.read(0x81, 512, timeout=20)
                await disk.clear_halt(0x81)
                assert (await inquiry(disk))[8:12] == b"QEMU"
            await disk.reset()
            assert (await inquiry(disk))[8:12] == b"QEMU"


async def test_a_serial_port_passes_bytes_both_ways(exporting, files):
    with listening(exporting, SERIAL) as port:
        async with await aio.open(f"usbredir://127.0.0.1:{port}") as serial:
            assert await carries_bytes(serial, files / "serial")


async def played_and_heard(speaker, heard):
    """What is played once, and what QEMU's file has of it."""
    since = max(44, heard.stat().st_size & ~3)  # past the header of the file, and the times before
    samples = [*struct.iter_unpack("<hh", await play(speaker))]
    await asyncio.to_thread(wait_for, lambda: len(heard_frames(heard, since)) >= len(samples) // 4)
    await asyncio.sleep(0.3)  # what follows that, if it does
    return samples, heard_frames(heard, since)


async def test_sound_is_played_isochronously(exporting, files):
    """usbredirect drops packets while its machine is late with those before: it is played until all was heard.

    What QEMU hears is ours each time, bit for bit and in its order.
    """
    found = set()
    with listening(exporting, AUDIO) as port:
        async with await aio.open(f"usbredir://127.0.0.1:{port}") as speaker:
            for _ in range(PLAYS):
                samples, frames = await played_and_heard(speaker, files / "wav")
                assert set(frames) <= set(samples)
                assert frames == sorted(set(frames))
                found |= set(frames)
                if len(found) == len(samples):
                    break
    assert len(found) == len(samples), f"{len(found)} of {len(samples)} samples"


@pytest.mark.timeout(700)  # a soak's disk is larger, and usbferry is emulated here
def test_it_becomes_a_device_of_another_kernel(exporting, machine, files):
    """The other machine's `usbferry attach` connects to it, and its own driver has the disk."""
    machine.run("modprobe vhci-hcd").ok()
    with listening(exporting, DISK) as port:
        attaching = machine.start(f"echo $$; exec {PYTHON} -m usbferry attach usbredir://{HOST}:{port}", 600)
        said(attaching, " here", 60)
        device = attaching.output().split(" is ")[1].split()[0]
        assert has_the_bytes(machine, device, files / "redirected")
        machine.run(f"kill {attaching.output().split()[0]}").ok()  # which detaches
        assert attaching.wait().rc == 0
        machine.run(f"while [ -e /sys/bus/usb/devices/{device} ]; do sleep 0.05; done", 20).ok()
