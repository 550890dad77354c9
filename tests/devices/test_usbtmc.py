"""USBTMC: messages in parts, answers in parts, aborts, clear, the status byte; the bytes of the specification."""

from __future__ import annotations

import asyncio

import pytest

from tests.devices.host import ask, opened, read, write
from usbferry.devices.scpi import Instrument, scpi
from usbferry.devices.usbtmc import Request, Usbtmc
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion
from usbferry.usb.types import Speed, Status

OUT, IN, INTERRUPT = 0x01, 0x82, 0x83


class Parrot(Instrument):
    """Answers what it is told, of any length."""

    heard: list[bytes]

    def __init__(self) -> None:
        super().__init__()
        self.heard = []
        self.triggered = 0

    def message(self, data: bytes) -> None:
        self.heard.append(data)
        self.output = data if data.startswith(b"?") else b""

    def trigger(self) -> None:
        self.triggered += 1

    @scpi("NONE")
    def _none(self) -> None: ...


def parrot() -> Usbtmc:
    device = Usbtmc()
    device.instrument = Parrot()
    return device


def heard(device: Usbtmc) -> list[bytes]:
    assert isinstance(device.instrument, Parrot)
    return device.instrument.heard


def header(kind: int, tag: int, size: int, attributes: int = 0, term: int = 0) -> bytes:
    return bytes((kind, tag, tag ^ 0xFF, 0)) + size.to_bytes(4, "little") + bytes((attributes, term, 0, 0))


def out(data: bytes, tag: int = 1, *, end: bool = True) -> bytes:
    return header(1, tag, len(data), end) + data + bytes(-len(data) % 4)


def send(device: Usbtmc, data: bytes) -> Status:
    completion = device.submit(write(OUT, data))
    assert isinstance(completion, Completion)
    return Status(completion.status)


def fetch(device: Usbtmc, length: int = 4096) -> bytes:
    completion = device.submit(read(IN, length))
    assert isinstance(completion, Completion)
    return bytes(completion.data)


def get(device: Usbtmc, request: int, length: int, value: int = 0, index: int = 0, kind: int = 0xA1) -> bytes:
    completion = ask(device, Setup(kind, request, value, index, length))
    assert isinstance(completion, Completion)
    assert completion.status == Status.OK
    return bytes(completion.data)


# -- messages ----------------------------------------------------------------------------------------------------------


async def test_a_question_and_its_answer():
    async with opened(Usbtmc(serial="X1")) as device:
        assert send(device, bytes.fromhex("01 01 fe 00 05 00 00 00 01 00 00 00 2a 49 44 4e 3f 00 00 00")) == Status.OK
        assert send(device, bytes.fromhex("02 02 fd 00 00 04 00 00 00 00 00 00")) == Status.OK
        text = b"usbferry,Oscilloscope,X1,1.0\n"
        expected = bytes.fromhex("02 02 fd 00 1d 00 00 00 01 00 00 00") + text + bytes(3)
        assert fetch(device) == expected


async def test_an_answer_may_be_asked_for_before_its_question():
    async with opened(parrot()) as device:
        send(device, header(2, 1, 100))
        waiting = device.submit(read(IN, 4096))
        assert isinstance(waiting, asyncio.Future)
        send(device, out(b"?now", 2))
        assert bytes((await waiting).data)[12:] == b"?now"


async def test_a_program_message_in_several_of_the_class():
    async with opened(parrot()) as device:
        send(device, out(b"one ", 1, end=False))
        send(device, out(b"two", 2))
        assert heard(device) == [b"one two"]


@pytest.mark.parametrize("sizes", [(512, 512), (1024,), (512,)])
async def test_a_transfer_of_the_class_in_several_of_usb(sizes):
    message = out(b"x" * 1500)
    async with opened(parrot()) as device:
        at = 0
        for size in sizes:
            send(device, message[at : at + size])
            at += size
        assert heard(device) == []
        send(device, message[at:])
        assert heard(device) == [b"x" * 1500]


async def test_an_empty_packet_after_a_whole_message_is_nothing():
    async with opened(parrot()) as device:
        assert send(device, out(b"x" * 500)) == Status.OK
        assert send(device, b"") == Status.OK
        assert send(device, out(b"y", 2)) == Status.OK
        assert heard(device) == [b"x" * 500, b"y"]


async def test_alignment_may_be_left_out():
    async with opened(parrot()) as device:
        send(device, out(b"x")[:13])
        assert heard(device) == [b"x"]


@pytest.mark.parametrize(
    "message",
    [
        b"short",
        header(9, 1, 0),
        header(1, 0, 4) + b"data",
        bytes((1, 1, 1, 0)) + out(b"data")[4:],
        header(1, 1, 0, 1),
        header(1, 1, 2 << 20, 1),
        header(1, 1, 100, 1) + b"less",
    ],
    ids=["short", "kind", "tag 0", "inverse", "empty", "too long", "less"],
)
async def test_what_is_no_message_halts_the_endpoint_until_it_is_cleared(message):
    async with opened(parrot()) as device:
        assert send(device, message) == Status.STALL
        assert send(device, out(b"x")) == Status.STALL
        device.set_halt(OUT, False)
        assert send(device, out(b"fine")) == Status.OK
        assert heard(device) == [b"fine"]


async def test_a_message_that_never_ends_has_an_end():
    async with opened(parrot()) as device:
        assert send(device, out(bytes(1 << 20), end=False)) == Status.OK
        assert send(device, out(b"x", 2)) == Status.STALL


# -- answers -----------------------------------------------------------------------------------------------------------


async def test_an_answer_in_as_many_parts_as_are_asked_for():
    async with opened(parrot()) as device:
        send(device, out(b"?" + b"x" * 99))
        found = b""
        for tag, size, last in ((2, 40, 0), (3, 40, 0), (4, 40, 1)):
            send(device, header(2, tag, size))
            raw = fetch(device)
            length = int.from_bytes(raw[4:8], "little")
            assert (raw[1], length, raw[8]) == (tag, min(size, 100 - len(found)), last)
            found += raw[12 : 12 + length]
        assert found == b"?" + b"x" * 99


async def test_a_part_ends_at_the_character_that_the_host_wants():
    async with opened(parrot()) as device:
        send(device, out(b"?one\ntwo"))
        send(device, header(2, 2, 100, 2, ord("\n")))
        raw = fetch(device)
        assert (raw[8], raw[12:17]) == (2, b"?one\n")
        send(device, header(2, 3, 100, 2, ord("\n")))
        raw = fetch(device)
        assert (raw[8], raw[12:15]) == (1, b"two")


async def test_an_answer_in_several_transfers_of_usb_and_its_empty_end():
    async with opened(parrot()) as device:
        send(device, out(b"?" + b"x" * 1011))  # with its header two packets
        send(device, header(2, 2, 4096))
        assert [len(fetch(device, 512)), len(fetch(device, 512)), len(fetch(device, 512))] == [512, 512, 0]
        send(device, out(b"?" + b"x" * 1011, 3))
        send(device, header(2, 4, 4096))
        assert [len(fetch(device, 4096))] == [1024]
        assert isinstance(device.submit(read(IN, 512)), asyncio.Future), "that was short"


# -- control -----------------------------------------------------------------------------------------------------------


async def test_capabilities_are_those_of_the_specification():
    async with opened(Usbtmc()) as device:
        assert get(device, Request.GET_CAPABILITIES, 24).hex(" ", 12) == (
            "010000010401000000000000 0001070f0000000000000000"
        )
        [interface] = device.info.interfaces
        assert (interface.interface_class, interface.interface_subclass, interface.interface_protocol) == (0xFE, 3, 1)


async def test_the_status_byte_comes_over_the_interrupt_endpoint():
    async with opened(Usbtmc()) as device:
        send(device, out(b"*IDN?"))
        assert get(device, Request.READ_STATUS_BYTE, 3, value=5) == b"\x01\x05\x00"
        waiting = device.submit(read(INTERRUPT, 2))
        completion = waiting if isinstance(waiting, Completion) else await waiting
        assert bytes(completion.data) == b"\x85\x10"
        device.request_service()
        waiting = device.submit(read(INTERRUPT, 2))
        completion = waiting if isinstance(waiting, Completion) else await waiting
        assert bytes(completion.data) == b"\x81\x50"
        for tag in range(2, 18):
            assert get(device, Request.READ_STATUS_BYTE, 3, value=tag)[0] == 1
        assert get(device, Request.READ_STATUS_BYTE, 3, value=20) == b"\x20\x14\x00", "nobody reads them"


async def test_a_question_without_an_answer_is_aborted_and_the_next_one_is_answered():
    async with opened(parrot()) as device:
        send(device, header(2, 7, 100))
        reading = read(IN, 512)
        waiting = device.submit(reading)
        assert isinstance(waiting, asyncio.Future)
        device.cancel(reading)
        assert (await waiting).status == Status.CANCELLED
        abort = Request.INITIATE_ABORT_BULK_IN
        assert get(device, abort, 2, value=6, index=IN, kind=0xA2) == b"\x81\x07", "another one"
        assert get(device, abort, 2, value=7, index=IN, kind=0xA2) == b"\x01\x07"
        assert get(device, abort, 2, value=7, index=IN, kind=0xA2) == b"\x80\x00", "none any more"
        assert get(device, Request.CHECK_ABORT_BULK_IN_STATUS, 8, index=IN, kind=0xA2) == b"\x01" + bytes(7)
        assert fetch(device, 512) == b"", "the short packet that ends it"
        send(device, out(b"?next", 8))
        send(device, header(2, 9, 100))
        assert fetch(device, 512)[12:17] == b"?next"


async def test_the_end_of_an_aborted_answer_is_not_taken_for_the_next_one():
    """python-usbtmc does not fetch it."""
    async with opened(parrot()) as device:
        send(device, header(2, 7, 100))
        assert get(device, Request.INITIATE_ABORT_BULK_IN, 2, value=7, index=IN, kind=0xA2) == b"\x01\x07"
        send(device, out(b"?next", 8))
        send(device, header(2, 9, 100))
        assert fetch(device, 512)[12:17] == b"?next"


async def test_a_message_is_aborted():
    async with opened(parrot()) as device:
        abort = Request.INITIATE_ABORT_BULK_OUT
        assert get(device, abort, 2, value=1, index=OUT, kind=0xA2) == b"\x80\x00"
        send(device, out(b"half", 3, end=False))
        assert get(device, abort, 2, value=4, index=OUT, kind=0xA2) == b"\x81\x03"
        assert get(device, abort, 2, value=3, index=OUT, kind=0xA2) == b"\x01\x03"
        assert get(device, Request.CHECK_ABORT_BULK_OUT_STATUS, 8, index=OUT, kind=0xA2) == b"\x01" + bytes(7)
        send(device, out(b"whole", 5))
        assert heard(device) == [b"whole"]


async def test_a_clear_forgets_what_is_half_done_and_halts_until_it_was_seen():
    async with opened(parrot()) as device:
        send(device, out(b"?lost"))
        send(device, out(b"half", 2, end=False))
        assert get(device, Request.INITIATE_CLEAR, 1) == b"\x01"
        assert send(device, out(b"x")) == Status.STALL
        assert get(device, Request.CHECK_CLEAR_STATUS, 2) == b"\x01\x00"
        device.set_halt(OUT, False)
        send(device, out(b"?new", 3))
        send(device, header(2, 4, 100))
        assert fetch(device)[12:16] == b"?new"
        assert heard(device) == [b"?lost", b"?new"]


async def test_trigger_remote_and_pulse():
    async with opened(parrot()) as device:
        assert send(device, header(128, 1, 0)) == Status.OK
        assert isinstance(device.instrument, Parrot)
        assert device.instrument.triggered == 1
        assert get(device, Request.REN_CONTROL, 1, value=1) == b"\x01"
        assert device.is_remote
        assert get(device, Request.LOCAL_LOCKOUT, 1) == b"\x01"
        assert get(device, Request.GO_TO_LOCAL, 1) == b"\x01"
        assert not device.is_remote
        assert get(device, Request.INDICATOR_PULSE, 1) == b"\x01"
        assert device.pulses == 1


@pytest.mark.parametrize(("request_code", "index"), [(Request.GET_CAPABILITIES, 1), (Request.READ_STATUS_BYTE, 0)])
async def test_requests_without_sense_are_refused(request_code, index):
    async with opened(Usbtmc()) as device:
        completion = ask(device, Setup(0xA1, request_code, 1, index, 24))
        assert isinstance(completion, Completion)
        assert completion.status == Status.STALL


def test_low_speed_has_no_bulk_endpoints():
    with pytest.raises(ValueError, match="low speed"):
        Usbtmc(speed=Speed.LOW)
