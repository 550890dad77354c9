"""The other direction: our importer uses what the kernel's own server exports, ten devices that QEMU makes."""

import asyncio
import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count, cycle
from typing import Any

import pytest

import usbferry
from tests.kernel.emulated import (
    AUDIO,
    CARDS,
    DISK,
    FILES,
    KEYBOARD,
    MOUSE,
    NETWORK,
    SERIAL,
    TABLET,
    Card,
    carries_bytes,
    control,
    ended,
    far_side,
    has_neighbour,
    inquiry,
    is_heard,
    mtp,
    scsi,
    whole_disk,
)
from tests.kernel.guest import Guest
from tests.kernel.steps import unexpected
from tests.kernel.usbipd.exported import CLOSED, DEVICES, DISK_BYTES, PORT, Known, named
from usbferry import aio
from usbferry.backends import remote
from usbferry.backends.remote import RemoteSource
from usbferry.device import Busy, Claimant, Device, NotFound, ResetOutcome
from usbferry.usb import build
from usbferry.usb.setup import get_descriptor
from usbferry.usb.transfer import Transfer
from usbferry.usb.types import Speed, Status


@pytest.fixture
def source(guest: Guest, known: dict[str, Known]) -> RemoteSource:
    return RemoteSource(f"usbip://127.0.0.1:{guest.ports[PORT]}")


@pytest.fixture
def address(guest: Guest, known: dict[str, Known]) -> Callable[[str], str]:
    """The address of the device that is `named` so."""
    return lambda what: f"usbip://127.0.0.1:{guest.ports[PORT]}/{named(known, what)}"


@asynccontextmanager
async def opened(source: RemoteSource, name: str) -> AsyncIterator[Device]:
    device = await source.open(name, Claimant("test"))
    try:
        yield device
    finally:
        await device.close()


async def test_every_device_is_listed(source, known):
    speeds = {"12": Speed.FULL, "480": Speed.HIGH, "5000": Speed.SUPER}
    listed = await source.list()
    assert {(i.name, f"{i.device.vendor_id:04x}", f"{i.device.product_id:04x}", i.speed) for i in listed} == {
        (one.name, one.vendor, one.product, speeds[one.speed]) for one in known.values()
    }
    assert len(listed) == DEVICES
    assert all(info.path.endswith("/" + info.name) for info in listed)


async def test_every_device_is_imported_and_its_descriptors_and_strings_read(source, known):
    for one in known.values():
        async with opened(source, one.name) as device:
            info = device.info
            built = build.device(info.device) + b"".join(build.configuration(c) for c in info.configurations)
            assert built == one.descriptors
            assert [info.manufacturer, info.product, info.serial] == one.texts
            assert info.active is not None


@pytest.mark.parametrize(
    ("selector", "what"),
    [
        ("0627:0001,product=*keyboard", KEYBOARD),
        ("class=mouse,product=*mouse", MOUSE),
        (f"{DISK},class=storage/06/50", DISK),
        (SERIAL, SERIAL),
    ],
)
async def test_a_device_is_found_by_what_it_is(guest, known, selector, what):
    """Three of QEMU's have the same ids: their names, which no list has, tell them apart."""
    [found] = await RemoteSource(f"usbip://127.0.0.1:{guest.ports[PORT]}/{selector}").list()
    assert found.name == named(known, what)


async def test_a_disk_is_asked_read_and_written_over_bulk(source, known, files):
    content = (files / "disk").read_bytes()
    written = os.urandom(128 * 1024)
    async with opened(source, named(known, DISK)) as device:
        assert (await inquiry(device))[8:32] == b"QEMU    QEMU HARDDISK   "
        capacity = await scsi(device, bytes([0x25, *bytes(9)]), 8)
        assert struct.unpack(">II", capacity) == ((8 << 20) // 512 - 1, 512)
        read = [
            await scsi(device, struct.pack(">BBIBHB", 0x28, 0, at, 0, 256, 0), 256 * 512) for at in range(0, 4096, 256)
        ]
        assert b"".join(read) == content[: 4096 * 512]
        await scsi(device, struct.pack(">BBIBHB", 0x2A, 0, 5000, 0, 256, 0), len(written), written)
        assert await scsi(device, struct.pack(">BBIBHB", 0x28, 0, 5000, 0, 256, 0), len(written)) == written
    assert (files / "disk").read_bytes() == content[: 5000 * 512] + written + content[5000 * 512 + len(written) :]


def test_a_whole_disk_is_read_by_a_synchronous_program(address, files):
    with usbferry.open(address(DISK)) as disk:
        read = whole_disk(disk, DISK_BYTES)
    assert hashlib.sha256(read).digest() == hashlib.sha256((files / "disk").read_bytes()).digest()


async def test_200_interrupt_reads_are_cancelled_and_a_key_still_arrives(guest, source, known, record):
    """None in the moment when it ends by itself: usbip-host of Linux 6.1 then touches what it freed, and crashes."""
    recorder = record(guest.ports[PORT])
    source = RemoteSource(f"usbip://127.0.0.1:{recorder.port}")
    async with opened(source, named(known, KEYBOARD)) as device:
        for n in range(200):
            transfer = Transfer(0x81, 8)
            answer = device.submit(transfer)
            between = await control(device, get_descriptor(1, length=n % 19))
            assert bytes(between.data) == known[device.info.name].descriptors[: n % 19]
            device.cancel(transfer)
            assert (await ended(answer)).status == Status.CANCELLED
        answer = device.submit(Transfer(0x81, 8))
        while not answer.done():
            await asyncio.to_thread(guest.monitor, "sendkey a")
            await asyncio.wait([answer], timeout=1)
        assert bytes((await answer).data) == bytes([0, 0, 4, 0, 0, 0, 0, 0])
    recorder.close()
    unlinked = [m.head.status for m in recorder.messages() if m.kind == "RET_UNLINK"]
    assert unlinked == [-104] * 200


@pytest.mark.parametrize(
    ("product", "words", "report"),
    [(MOUSE, ["mouse_move 5 -3"], bytes([0, 5, 256 - 3])), (TABLET, ["mouse_button 0", "mouse_button 1"], b"\1")],
    ids=["mouse", "tablet"],
)
async def test_pointers_report_what_the_monitor_does(guest, address, product, words, report):
    """QEMU gives what its monitor does to the pointer that was read last, and reports of buttons only their changes."""
    async with await aio.open(address(product)) as pointer, asyncio.timeout(20):
        answer = pointer.submit(Transfer(0x81, 8))
        for word in cycle(words):
            await asyncio.to_thread(guest.monitor, word)
            await asyncio.wait([answer], timeout=0.5)
            if answer.done() and bytes((await answer).data).startswith(report):
                break
            if answer.done():
                answer = pointer.submit(Transfer(0x81, 8))


async def test_a_serial_port_passes_bytes_both_ways(address, files):
    async with await aio.open(address(SERIAL)) as port:
        assert await carries_bytes(port, files / "serial")


async def test_a_card_is_put_into_a_reader_and_answers(address, files):
    """By CCID: the card's ATR, then a command of its own language. Source: USB CCID 1.1 §6."""

    async def asked(kind, body=b"") -> bytes:
        """The data that a command brings."""
        await reader.write(0x03, struct.pack("<BIBB3x", kind, len(body), 0, 9) + body, timeout=20)
        answer = await reader.read(0x82, 600, timeout=20)
        assert struct.unpack_from("<BIBBBB", answer) == (0x80, len(answer) - 10, 0, 9, 0, 0)  # RDR_to_PC_DataBlock
        return answer[10:]

    select, found = bytes.fromhex("00a4040006d2760000850100"), b"usbferry\x90\x00"
    async with await aio.open(address(CARDS)) as reader, far_side(files / "card") as streams:
        card = Card(*streams)
        assert await reader.read(0x81, 2, timeout=20) == b"\x50\x03"  # RDR_to_PC_NotifySlotChange: present
        assert await asked(0x62) == Card.ATR_BYTES  # PC_to_RDR_IccPowerOn
        async with asyncio.TaskGroup() as group:
            group.create_task(card.serve([(select, found)]))
            assert await asked(0x6F, select) == found  # PC_to_RDR_XfrBlock


async def test_a_file_is_read_over_mtp(address, files):
    async with await aio.open(address(FILES)) as camera:
        does = partial(mtp, camera, count())
        await does(0x1002, 1)  # OpenSession
        root = await does(0x1007, 0xFFFFFFFF, 0, 0xFFFFFFFF)  # GetObjectHandles
        (one,) = struct.unpack("<I", root[4:])
        assert "noise".encode("utf-16-le") in await does(0x1008, one)  # GetObjectInfo
        assert await does(0x1009, one) == (files / "mtp" / "noise").read_bytes()  # GetObject


async def test_a_network_is_asked_who_has_an_address(address):
    """The second configuration: Ethernet frames as they are, CDC ECM; the first is RNDIS."""
    async with await aio.open(address(NETWORK)) as adapter:
        assert [c.value for c in adapter.configurations] == [2, 1]
        await adapter.set_configuration(1)
        assert await has_neighbour(adapter)


async def test_what_is_pending_ends_when_the_device_is_closed(source, known):
    device = await source.open(named(known, KEYBOARD), Claimant("test"))
    answers = [device.submit(Transfer(0x81, 8)) for _ in range(10)]
    await device.close()
    assert [(await ended(answer)).status for answer in answers] == [Status.SHUTDOWN] * 10
    assert not device.gone.done()


async def test_a_held_device_is_busy_and_free_again_after_close(guest, source, known, monkeypatch):
    monkeypatch.setattr(remote, "BUSY_RETRIES", 1)
    name = named(known, DISK)
    async with opened(source, name) as device:
        with pytest.raises(Busy):
            await source.open(name, Claimant("another"))
        assert name not in {info.name for info in await source.list()}  # usbipd lists what is free
        assert (await inquiry(device))[8:12] == b"QEMU"
    for _ in range(5):  # at once: usbip-host resets the device after each, and says busy meanwhile
        async with opened(source, name) as device:
            assert (await inquiry(device))[8:12] == b"QEMU"
    status = f"until [ $(cat /sys/bus/usb/devices/{name}/usbip_status) = 1 ]; do sleep 0.05; done"  # available
    await asyncio.to_thread(lambda: guest.run(status, 10).ok())
    assert name in {info.name for info in await source.list()}


def usbferry_says(*words: str) -> Any:
    """What the command prints, as JSON."""
    return json.loads(subprocess.check_output([sys.executable, "-m", "usbferry", *words, "--json"], timeout=60))


def test_the_command_lists_them_and_tells_all_of_one_that_is_selected(address, known):
    server = address(DISK).rpartition("/")[0]
    (place,) = usbferry_says("list", server)["places"]
    assert {d["address"]: f"{d['vendor_id']}:{d['product_id']}" for d in place["devices"]} == {
        f"{server}/{one.name}": f"{one.vendor}:{one.product}" for one in known.values()
    }
    # Three have one vendor and product: told apart by their strings, which no list has.
    info = usbferry_says("info", f"{server}/0627:0001,product=*tablet")
    assert (info["name"], info["product"], info["configuration"]) == (named(known, TABLET), TABLET, 1)


async def test_no_such_device(source):
    with pytest.raises(NotFound):
        await source.open("9-9", Claimant("test"))


async def test_a_reset_device_goes_on(source, known):
    async with opened(source, named(known, DISK)) as device:
        assert (await inquiry(device))[8:12] == b"QEMU"
        # In the middle of a command, which the reset makes the device forget.
        block = struct.pack("<4sIIBBB16s", b"USBC", 8, 36, 0x80, 0, 6, bytes([0x12, 0, 0, 0, 36, 0]))
        assert (await ended(device.submit(Transfer(0x02, len(block), block)))).status == Status.OK
        async with asyncio.timeout(20):
            assert await device.reset() is ResetOutcome.SAME
        assert (await inquiry(device))[8:12] == b"QEMU"


async def test_sound_is_played_isochronously(address, files):
    async with await aio.open(address(AUDIO)) as speaker:
        assert await is_heard(speaker, files / "wav")


async def test_an_unplugged_device_is_gone(guest, source, known):
    async with opened(source, named(known, "Wacom PenPartner")) as device:
        answer = device.submit(Transfer(0x81, 8))
        while (await asyncio.wait([answer], timeout=0.2))[0]:  # it may have something to say first
            answer = device.submit(Transfer(0x81, 8))
        await asyncio.to_thread(guest.monitor, "device_del wacom")
        async with asyncio.timeout(20):
            await device.gone
        assert (await ended(answer)).status in (Status.GONE, Status.SHUTDOWN)  # the kernel answers it with ESHUTDOWN
        assert (await ended(device.submit(Transfer(0x81, 4)))).status == Status.GONE


def test_the_exporting_kernel_said_no_more_than_it_has_to(guest):
    assert unexpected(guest, CLOSED) == []
