"""Gadgets of usbip-vudc, the kernel's other server, used by our importer on the host."""

import asyncio
import os
import struct
from collections.abc import Callable

import pytest

from tests.kernel.emulated import ended, said
from tests.kernel.guest import Guest, Step
from tests.kernel.steps import unexpected
from tests.kernel.usbipd.gadgets import CLOSED, DISK_BYTES, GADGETS, PORT, PRINTER_ID, ids_of
from usbferry import aio
from usbferry.backends.remote import RemoteSource
from usbferry.usb.transfer import Transfer
from usbferry.usb.types import Speed, Status


@pytest.fixture
def address(guest: Guest, gadgets: dict[str, str]) -> Callable[[str], str]:
    return lambda name: f"usbip://127.0.0.1:{guest.ports[PORT]}/{gadgets[name]}"


async def ok(step: Step) -> str:
    return (await asyncio.to_thread(step.wait)).ok()


async def test_every_gadget_is_listed(guest, gadgets):
    listed = await RemoteSource(f"usbip://127.0.0.1:{guest.ports[PORT]}").list()
    assert {(i.name, i.device.vendor_id, i.device.product_id) for i in listed} == {
        (busid, *ids_of(name)) for name, busid in gadgets.items()
    }
    # It knows little of them, and gives neither bus nor device number: each has devid 0.
    assert {(i.speed, i.configuration, i.bus, i.address, i.classes) for i in listed} == {(Speed.HIGH, 0, 0, 0, ())}


@pytest.mark.parametrize("name", GADGETS)
async def test_every_gadget_is_imported_and_configured(address, name):
    async with await aio.open(address(name)) as gadget:
        assert (gadget.info.manufacturer, gadget.info.product) == ("usbferry", f"a {name}")
        assert gadget.info.configuration == 1
        assert gadget.interfaces


async def test_a_disk_is_read(guest, address):
    async def ask(command: bytes, length: int) -> tuple[bytes, int]:
        block = struct.pack("<4sIIBBB16s", b"USBC", 7, length, 0x80, 0, len(command), command)
        await disk.write(0x01, block, timeout=20)
        data = await disk.read(0x81, length, timeout=20) if length else b""
        status = await disk.read(0x81, 13, timeout=20)
        return data, status[12]

    async with await aio.open(address("storage")) as disk:
        assert await ask(bytes(6), 0) == (b"", 1)  # TEST UNIT READY: it was reset, and says so once
        read = b""
        for at in range(0, DISK_BYTES // 512, 256):
            data, status = await ask(struct.pack(">BBIBHB", 0x28, 0, at, 0, 256, 0), 256 * 512)
            assert status == 0
            read += data
    assert read == (guest.shared / "lun").read_bytes()


async def test_a_serial_port_passes_bytes_both_ways(guest, address):
    there, back = os.urandom(2000), os.urandom(2000)
    (guest.shared / "back").write_bytes(back)
    async with await aio.open(address("serial")) as port:
        step = guest.start("""
            exec 3<>/dev/ttyGS0
            stty -F /dev/ttyGS0 raw -echo
            echo raw
            cat $SHARED/back >&3 &
            head -c 2000 <&3 >$SHARED/there
            wait
        """)
        await asyncio.to_thread(said, step, "raw")
        await port.control(0x21, 0x22, 3)  # SET_CONTROL_LINE_STATE: DTR, RTS
        assert await port.write(0x01, there, timeout=20) == len(there)
        got = b""
        while len(got) < len(back):
            got += await port.read(0x81, 512, timeout=20)
        await ok(step)
    assert got == back
    assert (guest.shared / "there").read_bytes() == there


async def test_reads_of_a_keyboard_are_cancelled_and_reports_pass_both_ways(guest, address):
    async with await aio.open(address("keyboard")) as keyboard:
        for _ in range(50):
            transfer = Transfer(0x81, 8)
            answer = keyboard.submit(transfer)
            await asyncio.sleep(0)
            keyboard.cancel(transfer)
            assert (await ended(answer)).status == Status.CANCELLED
        step = guest.start(r"head -c 1 /dev/hidg0 | od -An -tx1; printf '\0\0\4\0\0\0\0\0' >/dev/hidg0")
        assert await keyboard.write(0x01, b"\5", timeout=20) == 1
        assert await keyboard.read(0x81, 8, timeout=20) == b"\0\0\4\0\0\0\0\0"
        assert (await ok(step)).split() == ["05"]


async def test_the_source_gives_its_pattern_and_the_sink_checks_it(address):
    pattern = bytes(i % 512 % 63 for i in range(65536))  # drivers/usb/gadget/function/f_sourcesink.c
    async with await aio.open(address("zero")) as zero:
        assert await zero.read(0x81, len(pattern), timeout=20) == pattern
        assert await zero.write(0x01, pattern, timeout=20) == len(pattern)


async def test_the_loop_gives_back_what_it_got(address):
    sent = os.urandom(4096)
    async with await aio.open(address("loop")) as loop:
        assert await loop.write(0x01, sent, timeout=20) == len(sent)
        assert await loop.read(0x81, len(sent), timeout=20) == sent


async def test_a_page_is_printed(guest, address):
    page = os.urandom(3000)
    async with await aio.open(address("printer")) as printer:
        told = await printer.control(0xA1, 0x00, 0, 0, 100)  # GET_DEVICE_ID
        # Linux leaves the length's own two bytes out of the length, and so two others out of the answer.
        assert told == struct.pack(">H", len(PRINTER_ID)) + PRINTER_ID.encode()[:-2]
        step = guest.start(f"head -c {len(page)} /dev/g_printer0 >$SHARED/page")
        assert await printer.write(0x01, page, timeout=20) == len(page)
        await ok(step)
    assert (guest.shared / "page").read_bytes() == page


def test_the_exporting_kernel_said_no_more_than_it_has_to(guest):
    assert unexpected(guest, *CLOSED) == []
