"""Payloads that are lent: views of what a link read, which is used again as soon as its turn is over.

Here the buffer is overwritten after each turn, so whoever kept a view of it shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from tests.protocols.usbip.test_importer import device, op, ret_submit
from usbferry.backends.connection import Connection
from usbferry.device import Promise
from usbferry.devices.clock import VirtualClock
from usbferry.protocols.events import LENT_FROM
from usbferry.protocols.ferry import exporter as ferry
from usbferry.protocols.usbip import exporter as usbip
from usbferry.protocols.usbip.importer import Importer
from usbferry.server.answers import Answers, Exporter
from usbferry.transports import turn
from usbferry.transports.link import Link
from usbferry.transports.refusals import Refusals
from usbferry.usb.transfer import Buffer, Completion, IsoPacket, Transfer

SIZE = LENT_FROM
IN, OUT = 0x81, 0x02
PAYLOAD = bytes(range(256)) * (SIZE // 256)


class Prompt:
    """A link that takes all at once; what it was given, as it was then and as it is."""

    is_lossy, is_prompt = False, True

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.pieces: list[Buffer] = []

    def write(self, pieces: list[Buffer], size: int) -> None:
        self.written.append(b"".join(pieces))
        self.pieces += pieces
        assert len(self.written[-1]) == size

    def process(self) -> None: ...


class Slow(Prompt):
    """As TLS's: what it was given must not change for a while."""

    is_prompt = False


class Borrower:
    """Who is through with what it hears at the end of the turn."""

    def __init__(self) -> None:
        self.data: list[Buffer] = []
        self.then: list[bytes] = []

    def borrows(self) -> bool:
        return True

    def heard(self, tag: int, completion: Completion) -> None:
        self.data.append(completion.data)
        self.then.append(bytes(completion.data))


class Bench:
    """A connection that has a device, and the buffer that all comes in."""

    def __init__(self, link: Prompt) -> None:
        self.link = link
        self.buffer = bytearray(1 << 16)
        importer = Importer()
        self.connection = Connection(importer, "the server")
        self.connection.opened(cast(Link, link))
        importer.claim("1-2")
        self.reads(op(0x0003) + device())

    def reads(self, raw: bytes) -> None:
        """A turn, after which the buffer has something else."""
        self.buffer[: len(raw)] = raw
        view = memoryview(self.buffer)[: len(raw)]
        turn.take(lambda: self.connection.received(view))
        self.buffer[:] = b"\xff" * len(self.buffer)

    def writes(self, transfer: Transfer, *, in_turn: bool = True) -> None:
        """As a server does that read the transfer into the same buffer."""
        self.buffer[:SIZE] = PAYLOAD
        transfer.data = memoryview(self.buffer)[:SIZE]
        if in_turn:
            turn.take(lambda: self.connection.submit(transfer))
        else:
            self.connection.submit(transfer)
        self.buffer[:] = b"\xff" * len(self.buffer)

    def asks(self) -> Promise:
        answer = self.connection.submit(Transfer(IN, SIZE))
        assert isinstance(answer, Promise)
        return answer


async def made(link: Prompt) -> Bench:
    """One that has nothing more to say, but for what the test does."""
    bench = Bench(link)
    await asyncio.sleep(0)
    return bench


@pytest.fixture
async def bench() -> Bench:
    return await made(Prompt())


REPLY = ret_submit(1, actual=SIZE) + PAYLOAD


async def test_who_borrows_is_given_what_was_read(bench: Bench) -> None:
    """The proof that the others are no accident."""
    answer, borrower = bench.asks(), Borrower()
    answer.listener, answer.tag = borrower, 7
    bench.reads(REPLY)
    assert borrower.then == [PAYLOAD]
    assert isinstance(borrower.data[0], memoryview)
    assert borrower.data[0].obj is bench.buffer


async def test_who_waits_has_it_for_good(bench: Bench) -> None:
    answer = bench.asks()
    waiting = asyncio.gather(answer)
    bench.reads(REPLY)
    [completion] = await waiting
    assert completion.data == PAYLOAD


async def test_who_looks_later_has_it_for_good(bench: Bench) -> None:
    answer = bench.asks()
    bench.reads(REPLY)
    assert answer.result().data == PAYLOAD


async def test_who_hears_of_it_may_keep_it(bench: Bench) -> None:
    answer, heard = bench.asks(), list[Completion]()
    answer.hear(heard.append)
    bench.reads(REPLY)
    assert heard[0].data == PAYLOAD


@pytest.mark.parametrize("first", ["the borrower", "who waits"])
async def test_one_who_waits_beside_a_borrower_has_it_for_good(bench: Bench, first: str) -> None:
    """As a tap between a gateway's server and its device."""
    answer, borrower, done = bench.asks(), Borrower(), list[Completion]()
    if first == "who waits":
        answer.add_done_callback(lambda future: done.append(future.result()))
    answer.listener, answer.tag = borrower, 7
    if first == "the borrower":
        answer.add_done_callback(lambda future: done.append(future.result()))
    bench.reads(REPLY)
    await asyncio.sleep(0)
    assert done[0].data == PAYLOAD
    assert borrower.data == [PAYLOAD]


async def test_what_is_written_in_its_turn_is_not_copied_and_not_kept(bench: Bench) -> None:
    transfer = Transfer(OUT, SIZE)
    bench.writes(transfer)
    assert bench.link.written[-1].endswith(PAYLOAD)
    assert bench.link.pieces[-1] == b"\xff" * SIZE, "it was lent"
    assert transfer.data == b"", "or a parked transfer would keep a whole buffer"


async def test_what_is_written_later_is_copied(bench: Bench) -> None:
    bench.writes(Transfer(OUT, SIZE), in_turn=False)
    await asyncio.sleep(0)
    assert bench.link.written[-1].endswith(PAYLOAD)


async def test_what_comes_while_something_waits_to_be_written_is_copied(bench: Bench) -> None:
    """The write that is due already comes a turn of the loop later, whenever the one before it came."""
    parked = Transfer(IN, SIZE)
    turn.take(lambda: bench.connection.submit(parked))
    bench.connection.cancel(parked)
    bench.writes(Transfer(OUT, SIZE))
    await asyncio.sleep(0)
    assert bench.link.written[-1].endswith(PAYLOAD)


async def test_a_link_that_keeps_what_it_is_given_gets_a_copy() -> None:
    bench = await made(Slow())
    bench.writes(Transfer(OUT, SIZE))
    assert bench.link.pieces[-1] == PAYLOAD


async def test_packets_are_copied(bench: Bench) -> None:
    """They may be put together anew."""
    packets = [IsoPacket(0, SIZE // 2), IsoPacket(SIZE // 2, SIZE // 2)]
    transfer = Transfer(OUT, SIZE, packets=packets, interval=1)
    bench.writes(transfer)
    assert transfer.data == PAYLOAD


# -- on its way to another link ---------------------------------------------------------------------------------------


def in_a_turn(what: Callable[[], bool]) -> bool:
    said: list[bool] = []
    turn.take(lambda: said.append(what()))
    return said[0]


def answers(link: Prompt | None = None, exporter: type[Exporter] = usbip.Exporter) -> Answers:
    made = Answers(exporter(), lambda: None, VirtualClock(), Refusals())
    made.link = cast(Link | None, link)
    return made


async def test_a_server_borrows_what_it_writes_in_the_same_turn() -> None:
    assert in_a_turn(answers(Prompt()).borrows)


@pytest.mark.parametrize(
    "made",
    [lambda: answers(Slow()), lambda: answers(Prompt(), ferry.Exporter), answers],
    ids=["TLS", "ferry keeps it", "no link"],
)
async def test_a_server_that_keeps_it_does_not(made: Callable[[], Answers]) -> None:
    assert not in_a_turn(made().borrows)


async def test_a_server_that_writes_later_does_not() -> None:
    outside = answers(Prompt())
    assert not outside.borrows()
    assert not in_a_turn(outside.borrows), "that write is still due"
    await asyncio.sleep(0)
    assert in_a_turn(outside.borrows)
