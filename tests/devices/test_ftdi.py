"""The FTDI adapter: status bytes in every packet, the latency timer, divisors, and the pins."""

from __future__ import annotations

import asyncio

import pytest

from tests.devices.host import ask, opened, read, write
from tests.devices.stream_host import pattern
from usbferry.devices.cdc import LineCoding, Lines
from usbferry.devices.clock import VirtualClock
from usbferry.devices.ftdi import Ftdi, Mode, Request
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion
from usbferry.usb.types import Status

IN, OUT = 0x81, 0x02
STATUS = b"\xb1\x60"  # the echo is a far side, so DCD is up


def tell(device: Ftdi, request: Request, value: int = 0, index: int = 0) -> bool:
    completion = ask(device, Setup(0x40, request, value, index, 0))
    assert isinstance(completion, Completion)
    return completion.status == Status.OK


def get(device: Ftdi, request: Request, length: int, index: int = 0) -> bytes:
    completion = ask(device, Setup(0xC0, request, 0, index, length))
    assert isinstance(completion, Completion)
    assert completion.status == Status.OK
    return bytes(completion.data)


def given(device: Ftdi, length: int) -> bytes:
    completion = device.submit(read(IN, length))
    assert isinstance(completion, Completion)
    return bytes(completion.data)


async def test_every_packet_begins_with_the_status():
    async with opened(Ftdi()) as device:
        sent = pattern(62 * 3 + 5)
        device.submit(write(OUT, sent))
        raw = given(device, 512)
        packets = [raw[at : at + 64] for at in range(0, len(raw), 64)]
        assert [len(packet) for packet in packets] == [64, 64, 64, 7]
        assert all(packet.startswith(STATUS) for packet in packets)
        assert b"".join(packet[2:] for packet in packets) == sent


@pytest.mark.parametrize(("length", "data"), [(64, 62), (128, 124), (100, 62 + 34), (66, 62), (3, 1)])
async def test_a_transfer_holds_as_much_as_its_packets_can(length, data):
    async with opened(Ftdi()) as device:
        device.submit(write(OUT, pattern(1000)))
        raw = given(device, length)
        assert len(raw) - 2 * -(-len(raw) // 64) == data
        rest = given(device, 4096)
        assert b"".join(rest[at + 2 : at + 64] for at in range(0, len(rest), 64)) == pattern(1000)[data:]


async def test_without_data_the_status_comes_when_the_latency_timer_runs_out():
    clock = VirtualClock()
    async with opened(Ftdi(clock=clock)) as device:
        waiting = device.submit(read(IN, 512))
        assert isinstance(waiting, asyncio.Future)
        clock.advance(0.015)
        assert not waiting.done()
        clock.advance(0.002)
        assert bytes((await waiting).data) == STATUS
        assert tell(device, Request.SET_LATENCY, 200)
        assert get(device, Request.GET_LATENCY, 1) == b"\xc8"
        waiting = device.submit(read(IN, 512))
        assert isinstance(waiting, asyncio.Future)
        clock.advance(0.1)
        assert not waiting.done()
        device.submit(write(OUT, b"now"))
        assert bytes((await waiting).data) == STATUS + b"now", "data waits for no timer"
        assert not tell(device, Request.SET_LATENCY, 0)


async def test_a_far_side_that_comes_or_goes_is_told_at_once():
    async with opened(Ftdi(clock=VirtualClock())) as device:
        waiting = device.submit(read(IN, 64))
        assert isinstance(waiting, asyncio.Future)
        device.bridge.connected = False
        assert bytes((await waiting).data) == b"\x31\x60"
        assert get(device, Request.MODEM_STATUS, 2) == b"\x31\x60"


@pytest.mark.parametrize(
    ("value", "index", "rate"),
    [
        (0x0000, 0, 3_000_000),
        (0x0001, 0, 2_000_000),
        (0x001A, 0, 115_385),
        (0x4138, 0, 9_600),
        (0x0034, 0, 57_692),
        (0x8003, 1, 800_000),
        (0x2710, 0, 300),
    ],
)
async def test_divisors(value, index, rate):
    async with opened(Ftdi()) as device:
        assert tell(device, Request.BAUD_RATE, value, index)
        assert device.coding.rate == rate


async def test_what_the_chip_cannot_do_is_refused():
    async with opened(Ftdi()) as device:
        assert not tell(device, Request.BAUD_RATE, 0x4000)  # half a divisor
        assert not tell(device, Request.BAUD_RATE, 0x0001, 1)
        assert not tell(device, Request.SET_DATA, 8 | 5 << 8)


async def test_what_the_host_sets_is_there_to_see():
    async with opened(Ftdi()) as device:
        assert tell(device, Request.SET_DATA, 7 | 2 << 8 | 2 << 11 | 0x4000)
        assert (str(device.coding), device.breaking) == ("9600 7E2", True)
        assert tell(device, Request.SET_DATA, 8)
        assert not device.breaking
        assert not tell(device, Request.SET_DATA, 5)
        assert tell(device, Request.MODEM_CONTROL, 0x0303)
        assert tell(device, Request.MODEM_CONTROL, 0x0100)
        assert device.lines == Lines.RTS
        for request in (Request.FLOW_CONTROL, Request.EVENT_CHARACTER, Request.ERROR_CHARACTER):
            assert tell(device, request)
        await device.reset()
        assert (device.coding, device.lines) == (LineCoding(), Lines(0))


async def test_buffers_are_emptied_each_for_itself():
    async with opened(Ftdi(clock=VirtualClock())) as device:
        device.submit(write(OUT, b"echo"))
        assert tell(device, Request.RESET, 2)
        assert given(device, 64) == STATUS + b"echo"
        device.submit(write(OUT, b"echo"))
        assert tell(device, Request.RESET, 1)
        assert isinstance(device.submit(read(IN, 64)), asyncio.Future)
        assert not tell(device, Request.RESET, 3)


async def test_bit_bang():
    async with opened(Ftdi(clock=VirtualClock())) as device:
        device.inputs = 0xA5
        assert tell(device, Request.BIT_MODE, Mode.BIT_BANG << 8 | 0x0F)
        device.submit(write(OUT, b"\x00\xff\x33"))
        assert get(device, Request.READ_PINS, 1) == b"\xa3"
        assert tell(device, Request.BIT_MODE, Mode.SYNCHRONOUS << 8 | 0x0F)
        device.submit(write(OUT, b"\x01\x02"))
        assert given(device, 64)[2:] == b"\xa3\xa1"
        assert tell(device, Request.BIT_MODE, Mode.CBUS << 8 | 0x32)
        assert get(device, Request.READ_PINS, 1) == b"\x06"
        assert not tell(device, Request.BIT_MODE, 0x0200), "no MPSSE in this chip"
        assert tell(device, Request.BIT_MODE, 0)
        device.submit(write(OUT, b"serial"))
        assert given(device, 64)[2:] == b"serial"


async def test_bits_that_nobody_reads_make_the_host_wait():
    async with opened(Ftdi(buffer=100, clock=VirtualClock())) as device:
        assert tell(device, Request.BIT_MODE, Mode.SYNCHRONOUS << 8)
        assert isinstance(device.submit(write(OUT, bytes(100))), Completion)
        waiting = device.submit(write(OUT, b"more"))
        assert isinstance(waiting, asyncio.Future)
        given(device, 64)
        assert (await waiting).status == Status.OK


async def test_the_eeprom_keeps_words():
    async with opened(Ftdi()) as device:
        assert get(device, Request.READ_EEPROM, 2, 3) == b"\xff\xff"
        assert tell(device, Request.WRITE_EEPROM, 0x1234, 3)
        assert get(device, Request.READ_EEPROM, 2, 3) == b"\x34\x12"
        assert not tell(device, Request.WRITE_EEPROM, 0, 64)
        assert tell(device, Request.ERASE_EEPROM)
        assert get(device, Request.READ_EEPROM, 2, 3) == b"\xff\xff"
