"""The card reader: CCID's messages with the bytes of its specification, aborts, chains; and the card with files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.devices.host import ask, opened, read, turn, write
from usbferry.backends.virtual import make
from usbferry.devices.clock import VirtualClock
from usbferry.devices.smartcard import Smartcard
from usbferry.devices.smartcards import ccid
from usbferry.devices.smartcards.apdu import Word
from usbferry.devices.smartcards.card import Answering, Card, Files
from usbferry.devices.smartcards.ccid import Ask, Chain, Error, Icc, Tell
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion
from usbferry.usb.types import Speed, Status

OUT, IN, INTERRUPT = 0x01, 0x82, 0x83


def message(kind: int, payload: bytes = b"", number: int = 0, own: bytes = bytes(3), slot: int = 0) -> bytes:
    return ccid.HEADER.pack(kind, len(payload), slot, number, own) + payload


class Said:
    """An answer of the reader."""

    def __init__(self, raw: bytes) -> None:
        self.kind, length, self.slot, self.number, rest = ccid.HEADER.unpack_from(raw)
        self.status, self.error, self.own = rest
        self.data = raw[ccid.HEADER.size :]
        assert len(self.data) == length

    @property
    def ended(self) -> tuple[int, int, int]:
        """How: 0 well, 1 not, 2 not yet; what is in the slot; the error."""
        return self.status >> 6, self.status & 3, self.error


def send(device: Smartcard, raw: bytes) -> None:
    answer = device.submit(write(OUT, raw))
    assert isinstance(answer, Completion)
    assert answer.status == Status.OK


def heard(device: Smartcard, length: int = 70000) -> Said:
    answer = device.submit(read(IN, length))
    assert isinstance(answer, Completion)
    return Said(bytes(answer.data))


def does(device: Smartcard, kind: int, payload: bytes = b"", own: bytes = bytes(3), number: int = 7) -> Said:
    send(device, message(kind, payload, number, own))
    said = heard(device)
    assert said.number == number
    return said


def on(device: Smartcard) -> Said:
    return does(device, Ask.POWER_ON)


def apdu(device: Smartcard, text: str) -> str:
    return does(device, Ask.TRANSFER, bytes.fromhex(text)).data.hex()


# -- messages ----------------------------------------------------------------------------------------------------------


async def test_the_bytes_of_a_session():
    async with opened(Smartcard()) as device:
        steps = [
            ("62000000000000010000", "800c0000000000000000" + "3b8801" + b"usbferry".hex() + "97"),
            ("6f050000000001000000" + "00a4000c00", "80020000000001000000" + "9000"),
            ("63000000000002000000", "81000000000002010001"),
        ]
        for sent, expected in steps:
            send(device, bytes.fromhex(sent))
            answer = device.submit(read(IN, 271))
            assert isinstance(answer, Completion)
            assert bytes(answer.data).hex() == expected


async def test_the_card_is_off_until_it_is_switched_on():
    async with opened(Smartcard()) as device:
        assert does(device, Ask.GET_SLOT_STATUS).ended == (0, Icc.INACTIVE, 0)
        assert does(device, Ask.TRANSFER, bytes(5)).ended == (1, Icc.INACTIVE, Error.HARDWARE)
        said = on(device)
        assert (said.kind, said.ended, said.data) == (Tell.DATA, (0, Icc.ACTIVE, 0), Card.atr)
        assert does(device, Ask.GET_SLOT_STATUS).ended == (0, Icc.ACTIVE, 0)
        assert does(device, Ask.POWER_OFF).ended == (0, Icc.INACTIVE, 0)


@pytest.mark.parametrize("kind", [Ask.POWER_ON, Ask.TRANSFER, Ask.GET_PARAMETERS, Ask.SET_PARAMETERS, Ask.ICC_CLOCK])
async def test_without_a_card(kind):
    async with opened(Smartcard(inserted=False)) as device:
        assert does(device, kind).ended == (1, Icc.EMPTY, Error.MUTE)
        assert does(device, Ask.GET_SLOT_STATUS).ended == (0, Icc.EMPTY, 0)


async def test_hosts_are_told_of_cards_that_come_and_go():
    async with opened(Smartcard()) as device:

        async def told() -> str:
            return bytes((await asyncio.wait_for(device.submit(read(INTERRUPT, 8)), 5)).data).hex()

        assert await told() == "5003", "there was one when the reader was switched on"
        waiting = device.submit(read(INTERRUPT, 8))
        on(device)
        await turn()
        assert not waiting.done()
        device.remove()
        assert bytes((await asyncio.wait_for(waiting, 5)).data).hex() == "5002"
        device.insert()
        device.insert()
        assert await told() == "5003"
        assert does(device, Ask.GET_SLOT_STATUS).ended == (0, Icc.INACTIVE, 0), "it has to be switched on again"


async def test_another_card_is_put_in():
    async with opened(Smartcard()) as device:
        on(device)
        device.insert(Answering(lambda command: command[::-1] + b"\x90\x00", b"\x3b\x00"))
        assert on(device).data == b"\x3b\x00"
        assert apdu(device, "0102030405") == "05040302019000"


async def test_parameters():
    async with opened(Smartcard()) as device:
        on(device)
        said = does(device, Ask.GET_PARAMETERS)
        assert (said.kind, said.own, said.data) == (Tell.PARAMETERS, 1, ccid.PARAMETERS[1])
        new = bytes.fromhex("18100045002000")
        assert does(device, Ask.SET_PARAMETERS, new, b"\1\0\0").data == new
        assert does(device, Ask.GET_PARAMETERS).data == new
        assert does(device, Ask.RESET_PARAMETERS).data == ccid.PARAMETERS[1]
        assert does(device, Ask.SET_PARAMETERS, new[:5], b"\1\0\0").ended == (1, Icc.ACTIVE, Error.BAD_LENGTH)
        assert does(device, Ask.SET_PARAMETERS, bytes(5), b"\0\0\0").ended == (1, Icc.ACTIVE, Error.BAD_OWN)


@pytest.mark.parametrize(
    ("raw", "kind", "error"),
    [
        (message(0x6B, b"\x02"), Tell.ESCAPE, Error.NOT_SUPPORTED),
        (message(0x69, bytes(5)), Tell.DATA, Error.NOT_SUPPORTED),
        (message(0x73, bytes(8)), Tell.RATE, Error.NOT_SUPPORTED),
        (message(0x71), Tell.STATUS, Error.NOT_SUPPORTED),
        (message(0x6A), Tell.STATUS, Error.NOT_SUPPORTED),
        (message(0xFF), Tell.STATUS, Error.NOT_SUPPORTED),
        (message(Ask.GET_SLOT_STATUS, slot=1), Tell.STATUS, Error.BAD_SLOT),
        (message(Ask.GET_SLOT_STATUS, b"x"), Tell.STATUS, Error.BAD_LENGTH),
        (message(Ask.POWER_ON, own=b"\4\0\0"), Tell.DATA, Error.BAD_OWN),
        (message(Ask.ICC_CLOCK, own=b"\2\0\0"), Tell.STATUS, Error.BAD_OWN),
        (message(Ask.TRANSFER, bytes(5), own=b"\0\5\0"), Tell.DATA, Error.BAD_LEVEL),
        (message(Ask.TRANSFER, bytes(5), own=b"\0\2\0"), Tell.DATA, Error.BAD_LEVEL),
        (message(Ask.TRANSFER), Tell.DATA, Error.BAD_LENGTH),
        (message(Ask.TRANSFER, bytes(5))[:-1], Tell.DATA, Error.BAD_LENGTH),
        (bytes.fromhex("6fffffffff0000000000") + bytes(8), Tell.DATA, Error.BAD_LENGTH),
    ],
)
async def test_messages_that_are_refused(raw, kind, error):
    async with opened(Smartcard()) as device:
        on(device)
        send(device, raw)
        said = heard(device)
        assert (said.kind, said.ended[0], said.error) == (kind, 1, error)
        assert does(device, Ask.GET_SLOT_STATUS).ended[0] == 0


async def test_what_is_no_message_halts_the_endpoint():
    async with opened(Smartcard()) as device:
        for _ in range(2):
            answer = device.submit(write(OUT, b"short"))
            assert isinstance(answer, Completion)
            assert answer.status == Status.STALL
        device.set_halt(OUT, False)
        assert does(device, Ask.GET_SLOT_STATUS).ended[0] == 0


@pytest.mark.parametrize("size", [64, 128, 500])
async def test_a_message_in_several_transfers(size):
    async with opened(Smartcard()) as device:
        on(device)
        device.slot.card = Answering(lambda command: command + b"\x90\x00")
        raw = message(Ask.TRANSFER, bytes(range(256)) * 2)
        for at in range(0, len(raw), size // 64 * 64):
            send(device, raw[at : at + size // 64 * 64])
        assert heard(device).data == bytes(range(256)) * 2 + b"\x90\x00"


@pytest.mark.parametrize("length", [64, 128])
async def test_an_answer_in_several_transfers(length):
    """One that fills its last packet is ended by an empty one."""
    async with opened(Smartcard()) as device:
        on(device)
        for size in range(100, 150):
            device.slot.card = Answering(lambda command, size=size: bytes(size - 12) + b"\x90\x00")
            send(device, message(Ask.TRANSFER, bytes(5)))
            got, last = b"", None
            while last is None or len(last) == length:
                answer = device.submit(read(IN, length))
                assert isinstance(answer, Completion)
                last = bytes(answer.data)
                got += last
            assert len(got) == size


async def test_answers_that_nobody_fetches_hold_up_the_host():
    async with opened(Smartcard()) as device:
        sent = [device.submit(write(OUT, message(Ask.GET_SLOT_STATUS, number=n))) for n in range(10)]
        assert not isinstance(sent[-1], Completion)
        assert [heard(device).number for _ in range(10)] == list(range(10))
        assert all(isinstance(one, Completion) or one.result().status == Status.OK for one in sent)


async def test_a_reset_switches_the_card_off():
    async with opened(Smartcard(speed=Speed.HIGH)) as device:
        on(device)
        send(device, message(Ask.GET_SLOT_STATUS))
        await device.reset()
        assert not isinstance(device.submit(read(IN, 64)), Completion), "nobody else's answer"
        assert device.slot.state is Icc.INACTIVE


async def test_class_requests():
    async with opened(Smartcard()) as device:
        for code, value in ((2, ccid.CLOCK_KHZ), (3, ccid.RATE)):
            answer = ask(device, Setup(0xA1, code, 0, 0, 4))
            assert isinstance(answer, Completion)
            assert int.from_bytes(answer.data, "little") == value
            assert ask(device, Setup(0xA1, code, 0, 1, 4)).status == Status.STALL  # type: ignore[union-attr]


# -- chains ------------------------------------------------------------------------------------------------------------


async def test_long_commands_and_responses_go_in_parts():
    async with opened(Smartcard()) as device:
        on(device)
        device.slot.card = Answering(lambda command: command[7:] + b"\x90\x00")
        command = bytes.fromhex("00d6000000") + (10000).to_bytes(2, "big") + os.urandom(10000)
        pieces = [command[at : at + 4096] for at in range(0, len(command), 4096)]
        levels = (Chain.FIRST, Chain.MIDDLE, Chain.LAST)
        for piece, level in zip(pieces[:-1], levels, strict=False):
            said = does(device, Ask.TRANSFER, piece, bytes((0, level, 0)))
            assert (said.data, said.own) == (b"", Chain.GO_ON)
        said = does(device, Ask.TRANSFER, pieces[-1], bytes((0, Chain.LAST, 0)))
        got, owns = said.data, [said.own]
        while said.own in (Chain.FIRST, Chain.MIDDLE):
            said = does(device, Ask.TRANSFER, b"", bytes((0, Chain.GO_ON, 0)))
            got += said.data
            owns.append(said.own)
        assert got == command[7:] + b"\x90\x00"
        assert owns == [Chain.FIRST, Chain.MIDDLE, Chain.LAST]
        assert does(device, Ask.TRANSFER, b"", bytes((0, Chain.GO_ON, 0))).error == Error.BAD_LEVEL


async def test_a_command_without_end_is_given_up():
    async with opened(Smartcard()) as device:
        on(device)
        level = Chain.FIRST
        for _ in range(17):
            said = does(device, Ask.TRANSFER, bytes(4096), bytes((0, level, 0)))
            level = Chain.MIDDLE
        assert said.error == Error.BAD_LENGTH
        assert does(device, Ask.TRANSFER, bytes(5)).ended[0] == 0


async def test_a_reader_for_short_apdus_takes_no_chains():
    async with opened(Smartcard(extended=False)) as device:
        on(device)
        assert does(device, Ask.TRANSFER, bytes(5), b"\0\1\0").error == Error.BAD_LEVEL
        assert apdu(device, "00a4000c00") == "9000"
        device.slot.card = Answering(lambda command: bytes(259))
        assert does(device, Ask.TRANSFER, bytes(5)).error == Error.MUTE


@pytest.mark.parametrize(("extended", "features", "longest"), [(True, 0x4047A, 4106), (False, 0x2047A, 271)])
async def test_the_descriptor_says_so(extended, features, longest):
    [raw] = Smartcard(extended=extended).interfaces()[0].extra
    assert (len(raw), raw[0], raw[1]) == (54, 54, 0x21)
    assert int.from_bytes(raw[40:44], "little") == features
    assert int.from_bytes(raw[44:48], "little") == longest


# -- a card that takes its time ----------------------------------------------------------------------------------------


class Slow(Card):
    """It answers when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[bytes]] = []

    def apdu(self, command: bytes) -> Awaitable[bytes]:
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]


async def test_the_host_is_asked_for_more_time():
    clock, card = VirtualClock(), Slow()
    async with opened(Smartcard(clock=clock)) as device:
        device.slot.card = card
        on(device)
        send(device, message(Ask.TRANSFER, bytes(5), number=3))
        await turn()
        for _ in range(3):
            clock.advance(0.5)
            said = heard(device)
            assert (said.number, said.status >> 6, said.error) == (3, 2, 1)
        send(device, message(Ask.TRANSFER, bytes(5), number=4))
        assert heard(device).ended == (1, Icc.ACTIVE, Error.SLOT_BUSY)
        assert does(device, Ask.GET_SLOT_STATUS).ended == (0, Icc.ACTIVE, 0)
        card.waiting[0].set_result(b"\x90\x00")
        await turn()
        said = heard(device)
        assert (said.number, said.data) == (3, b"\x90\x00")
        clock.advance(5)
        assert not isinstance(device.submit(read(IN, 64)), Completion)


async def test_a_card_that_is_always_slow():
    clock = VirtualClock()
    async with opened(Smartcard(busy=0.3, clock=clock)) as device:
        on(device)
        send(device, message(Ask.TRANSFER, bytes.fromhex("00a4000c00")))
        waiting = device.submit(read(IN, 64))
        await turn()
        clock.advance(0.29)
        await turn()
        assert not waiting.done()
        clock.advance(0.02)
        await turn()
        assert Said(bytes(waiting.result().data)).data == b"\x90\x00"


@pytest.mark.parametrize("message_first", [False, True])
async def test_an_abort_is_a_request_and_a_message(message_first):
    card = Slow()
    async with opened(Smartcard()) as device:
        device.slot.card = card
        on(device)
        send(device, message(Ask.TRANSFER, bytes(5), number=3))
        await turn()
        if message_first:
            send(device, message(Ask.ABORT, number=9))
        assert ask(device, Setup(0x21, 1, 9 << 8)).status == Status.OK  # type: ignore[union-attr]
        said = heard(device)
        assert (said.number, said.ended) == (3, (1, Icc.ACTIVE, Error.ABORTED))
        if not message_first:
            send(device, message(Ask.TRANSFER, bytes(5), number=5))
            assert heard(device).error == Error.ABORTED
            send(device, message(Ask.ABORT, number=9))
        said = heard(device)
        assert (said.kind, said.number, said.ended) == (Tell.STATUS, 9, (0, Icc.ACTIVE, 0))
        device.insert(Files())
        on(device)
        assert apdu(device, "00a4000c00") == "9000"


async def test_a_card_that_is_pulled_out_at_work():
    card = Slow()
    async with opened(Smartcard()) as device:
        device.slot.card = card
        on(device)
        send(device, message(Ask.TRANSFER, bytes(5)))
        await turn()
        device.remove()
        assert heard(device).ended == (1, Icc.EMPTY, Error.MUTE)


@pytest.mark.parametrize(
    "given", [b"", b"\x90", bytes(70000), None, "9000"], ids=["none", "half", "too long", "nothing", "text"]
)
async def test_a_card_that_answers_nonsense_is_mute(given, caplog):
    async def later(command: bytes) -> bytes:
        return given

    async with opened(Smartcard()) as device:
        on(device)
        device.slot.card = Answering(lambda command: given)
        assert does(device, Ask.TRANSFER, bytes(5)).error == Error.MUTE
        device.slot.card = Answering(later)
        send(device, message(Ask.TRANSFER, bytes(5)))
        await turn()
        assert heard(device).error == Error.MUTE
    assert [record.message.startswith("the card answered ") for record in caplog.records] == [True, True]


async def test_a_card_of_a_protocol_that_has_no_parameters():
    async with opened(Smartcard()) as device:
        device.slot.card = Answering(lambda command: b"\x90\x00", bytes.fromhex("3b800e"))
        on(device)
        assert does(device, Ask.SET_PARAMETERS, bytes(5), b"\x0e\0\0").error == Error.BAD_OWN
        assert does(device, Ask.GET_PARAMETERS).data == ccid.PARAMETERS[0]


async def test_a_card_that_fails_is_mute(caplog):
    def failing(command: bytes) -> bytes:
        raise ZeroDivisionError

    async def failing_later(command: bytes) -> bytes:
        raise ZeroDivisionError

    async with opened(Smartcard()) as device:
        on(device)
        device.slot.card = Answering(failing)
        assert does(device, Ask.TRANSFER, bytes(5)).error == Error.MUTE
        device.slot.card = Answering(failing_later)
        send(device, message(Ask.TRANSFER, bytes(5)))
        await turn()
        assert heard(device).error == Error.MUTE
    assert caplog.text.count("the card failed") == 2


async def test_a_card_that_cannot_be_switched_on(caplog):
    class Broken(Card):
        def reset(self) -> None:
            raise ZeroDivisionError

    async with opened(Smartcard()) as device:
        device.slot.card = Broken()
        assert on(device).ended == (1, Icc.INACTIVE, Error.MUTE)
        device.insert(Files())
        assert on(device).ended == (0, Icc.ACTIVE, 0)
    assert "the card cannot be switched on" in caplog.text


async def test_lines_of_a_pipe(tmp_path, monkeypatch, caplog):
    lines = tmp_path / "lines"
    lines.write_text("remove\nshake\ninsert # again\n\nremove\n")
    device, seen = Smartcard(pipe=str(lines)), []
    last = asyncio.Event()

    def turn(inserted: bool) -> None:
        seen.append(inserted)
        if len(seen) == 3:
            last.set()

    monkeypatch.setattr(device, "_turn", turn)
    async with opened(device):
        await asyncio.wait_for(last.wait(), 20)
    assert seen == [False, True, False]
    assert "'shake' is none of insert, remove" in caplog.text


# -- anything ----------------------------------------------------------------------------------------------------------

some = st.binary(max_size=80)
messages = st.builds(
    message,
    st.sampled_from([*Ask, 0x6B, 0x69]) | st.integers(0, 255),
    some,
    st.integers(0, 3),
    st.binary(min_size=3, max_size=3),
)


async def survives(sent: list[bytes | int]) -> None:
    async with opened(Smartcard()) as device:
        for one in sent:
            if isinstance(one, int):
                ask(device, Setup(0x21, 1, one << 8))
                continue
            answer = device.submit(write(OUT, one))
            if isinstance(answer, Completion) and answer.status == Status.STALL:
                device.set_halt(OUT, False)
            while device.slot.answers:
                heard(device)
        await device.reset()
        assert on(device).data == Card.atr


@given(st.lists(some | messages | st.integers(0, 3), max_size=20))
def test_any_messages_leave_it_usable(sent):
    asyncio.run(survives(sent))


# -- the card with files -----------------------------------------------------------------------------------------------

TREE = {
    "2F00": b"directory",
    "A000000001": {"0101": b"text", "0102": bytes(300)},
    "A000000002": {"0101": b"other"},
    "7F10": {"6F3A": b"deep", "5F01": {"4F02": b"deeper"}},
}


@pytest.fixture
def card() -> Files:
    return Files(TREE, "1234")


def play(card: Files, script: str) -> None:
    """Lines of commands and their answers."""
    for line in script.strip().splitlines():
        command, _, expected = line.partition("->")
        got = card.apdu(bytes.fromhex(command)).hex()
        assert got == "".join(expected.split()), line


@pytest.mark.parametrize(
    "script",
    [
        """
        00 a4 04 0c 05 a000000001   -> 9000
        00 b0 81 00 00              -> 74657874 9000
        00 b0 00 02 02              -> 7874 9000
        00 b0 00 02 09              -> 7874 6282
        00 b0 00 04 00              -> 9000
        00 b0 00 05 00              -> 6b00
        00 a4 04 0c 05 a000000002   -> 9000
        00 b0 81 00 00              -> 6f74686572 9000
        """,
        """
        00 a4 04 00 02 a000 00      -> 620a820138 8405a000000001 9000
        00 a4 00 00 02 0101 00      -> 620b820101 80020004 83020101 9000
        00 a4 04 0c 02 ffff         -> 6a82
        00 b0 00 00 04              -> 74657874 9000
        """,
        """
        00 b0 00 00 00              -> 6986
        00 a4 00 0c 02 2f00         -> 9000
        00 b0 00 00 00              -> 6469726563746f7279 9000
        00 a4 00 0c 02 7f10         -> 9000
        00 a4 02 0c 02 6f3a         -> 9000
        00 b0 00 00 00              -> 64656570 9000
        00 a4 01 0c 02 5f01         -> 9000
        00 a4 01 0c 02 4f02         -> 6a82
        00 a4 02 0c 02 4f02         -> 9000
        00 a4 03 0c                 -> 9000
        00 a4 08 0c 06 7f105f014f02 -> 9000
        00 b0 00 00 00              -> 646565706572 9000
        00 a4 09 0c 02 4f02         -> 9000
        00 a4 08 0c 04 7f10ffff     -> 6a82
        00 a4 00 0c 02 3f00         -> 9000
        00 a4 03 0c                 -> 6a82
        """,
        """
        00 20 00 01                 -> 63c3
        00 20 00 01 04 30303030     -> 63c2
        00 20 00 01 04 31323334     -> 9000
        00 20 00 01                 -> 9000
        00 24 00 01 08 3132333435363738 -> 9000
        00 20 00 01 04 31323334     -> 63c2
        00 20 00 81 04 31323334     -> 63c1
        00 20 00 01 04 31323334     -> 63c0
        00 20 00 01 04 35363738     -> 6983
        00 20 00 01                 -> 6983
        00 24 00 01 08 3132333435363738 -> 6983
        """,
        """
        00 a4 00 0c 02 2f00         -> 9000
        00 d6 00 00 02 4141         -> 6982
        00 20 00 01 04 31323334     -> 9000
        00 d6 00 00 02 4141         -> 9000
        00 d6 00 08 02 4141         -> 6b00
        00 d6 00 00                 -> 6700
        00 b0 00 00 00              -> 4141726563746f7279 9000
        """,
        """
        80 a4 04 00                 -> 6e00
        00 ff 00 00                 -> 6d00
        00 a4                       -> 6700
        00 a4 05 00 02 3f00         -> 6a86
        00 a4 00 02 02 3f00         -> 6a86
        00 b0 9f 00 00              -> 6a82
        00 b0 c0 00 00              -> 6a86
        00 b0 00 00                 -> 6986
        00 84 00 01 08              -> 6a86
        00 84 00 00                 -> 6700
        00 20 00 02 04 31323334     -> 6a88
        00 20 01 01 04 31323334     -> 6a86
        00 24 00 01 04 31323334     -> 6700
        """,
    ],
    ids=["application", "answers", "paths", "pin", "writing", "refused"],
)
def test_sessions_of_a_card(card, script):
    play(card, script)


def test_extended_lengths_read_more_at_once(card):
    play(card, "00 a4 04 0c 05 a000000001 -> 9000\n00 a4 00 0c 02 0102 -> 9000")
    assert card.apdu(bytes.fromhex("00b0000000")) == bytes(256) + b"\x90\x00"
    assert card.apdu(bytes.fromhex("00b00000000000")) == bytes(300) + b"\x90\x00"
    assert card.apdu(bytes.fromhex("00b0000000012d")) == bytes(300) + Word.END_OF_FILE.to_bytes(2, "big")


def test_challenges_differ(card):
    first, second = (card.apdu(bytes.fromhex("0084000010")) for _ in range(2))
    assert len(first) == len(second) == 18
    assert first != second


def test_a_reset_forgets_who_was_verified(card):
    play(card, "00 20 00 01 04 31323334 -> 9000\n00 a4 00 0c 02 2f00 -> 9000")
    card.reset()
    play(card, "00 20 00 01 -> 63c3\n00 b0 00 00 00 -> 6986")


@given(
    st.lists(
        st.binary(max_size=40)
        | st.builds(
            lambda ins, rest: bytes((0, ins)) + rest,
            st.sampled_from((0x20, 0x24, 0x84, 0xA4, 0xB0, 0xD6)),
            st.binary(max_size=20),
        ),
        max_size=8,
    )
)
def test_any_command_has_an_answer(commands):
    card = Files(TREE)
    for command in commands:
        assert len(card.apdu(command)) >= 2


def test_a_folder_is_a_card(tmp_path):
    folder = tmp_path / "card" / "A000000001"
    folder.mkdir(parents=True)
    (folder / "0101").write_bytes(b"text")
    (tmp_path / "card" / ".hidden").write_bytes(b"")
    device = make("smartcard", {"files": str(tmp_path / "card"), "pin": "9999"})
    assert isinstance(device, Smartcard)
    card = device.slot.card
    assert isinstance(card, Files)
    play(card, "00 a4 04 0c 05 a000000001 -> 9000\n00 b0 81 00 00 -> 74657874 9000\n00 20 00 01 04 39393939 -> 9000")


@pytest.mark.parametrize(
    ("name", "size", "text"),
    [
        ("readme.txt", 1, "'readme.txt' is no name on a card: four hexadecimal digits"),
        ("A000000001", 1, "a file's id has four hexadecimal digits"),
        ("0101", 0x8001, "a card's file has at most 32768 bytes"),
    ],
)
def test_a_folder_that_is_none_is_told_why(tmp_path: Path, name, size, text):
    (tmp_path / name).write_bytes(bytes(size))
    with pytest.raises(ValueError, match=text):
        make("smartcard", {"files": str(tmp_path)})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pin": "12"}, "4 to 16"),
        ({"busy": "-1"}, "0 to 1000"),
        ({"speed": "low"}, "use full"),
        ({"files": "/nowhere"}, "/nowhere: No such file"),
    ],
)
def test_options_that_make_no_sense(options, text):
    with pytest.raises(ValueError, match=text):
        make("smartcard", options)


@pytest.mark.parametrize(
    ("atr", "spoken"),
    [
        ("3b00", (0,)),
        ("3b8001", (1,)),
        ("3b88017573626665727279", (1,)),
        ("3b80800101", (0, 1)),
        ("3bf0", (0,)),
        ("3b", (0,)),
    ],
)
def test_what_an_atr_speaks(atr, spoken):
    assert ccid.protocols(bytes.fromhex(atr)) == spoken
