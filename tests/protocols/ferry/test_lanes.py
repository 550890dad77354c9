"""Who goes first where a transport has enough to do: everything but bulk, on both sides."""

from __future__ import annotations

from collections.abc import Iterable

from tests.protocols.ferry.wire import INFO, TOKEN, T, bulk, claimed, device, heartbeat, interrupt, reply, unlink
from tests.protocols.ferry.wire import version_reply as granted
from usbferry.protocols.events import Claimed
from usbferry.protocols.ferry.importer import Importer
from usbferry.protocols.ferry.lanes import BURST, ENOUGH
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status

BLOCK = 64 * 1024
FIT = BURST // BLOCK  # replies of a block that go to the transport before it has enough


class Way:
    """A transport that the test keeps busy."""

    packet_bytes = 0
    is_lossy = False
    unsent = 0

    @property
    def blocked(self) -> bool:
        return self.unsent >= 1 << 17


def identifiers(pieces: Iterable[object]) -> list[int]:
    """Of the records, in their order."""
    raw, found = b"".join(bytes(piece) for piece in pieces), []
    while raw:
        size = 4 + int.from_bytes(raw[:4], "big")
        found.append(int.from_bytes(raw[4:8], "big"))
        raw = raw[size:]
    return found


def take(machine: object) -> list[int]:
    said, machine.outgoing, machine.outgoing_bytes = machine.outgoing, [], 0
    return identifiers(said)


def look(machine: object) -> list[object]:
    machine.receive(memoryview(b""), 0.0)
    return list(machine.events())


def parked(lengths: Iterable[tuple[int, int]]):
    """A target with these reads at the device: endpoint and length, identifiers from 1 on."""
    talk, exporter, way = claimed(), None, Way()
    exporter = talk.exporter
    exporter.set_way(way)
    for number, (endpoint, length) in enumerate(lengths, 1):
        is_interrupt = endpoint == 0x82
        talk.says(interrupt(number, endpoint, length, 8) if is_interrupt else bulk(number, endpoint, length))
    return exporter, way


def done(length: int) -> Completion:
    return Completion(Status.OK, bytes(length))


def test_an_interrupt_reply_passes_bulk_ones() -> None:
    exporter, way = parked([*[(0x81, BLOCK)] * (FIT + 3), (0x82, 8)])
    for number in range(1, FIT + 4):
        exporter.complete(number, done(BLOCK))
    exporter.complete(FIT + 4, done(8))
    assert take(exporter) == [*range(1, FIT + 1), FIT + 4]
    way.unsent = ENOUGH
    assert not exporter.has_events
    look(exporter)
    assert take(exporter) == []
    way.unsent = 0
    assert exporter.has_events
    look(exporter)
    assert take(exporter) == [FIT + 1, FIT + 2, FIT + 3]


def test_it_passes_between_the_parts_of_one() -> None:
    exporter, _ = parked([(0x81, 2 * BURST), (0x82, 8)])
    exporter.complete(1, done(2 * BURST))
    exporter.complete(2, done(8))
    first = take(exporter)
    assert first[-1] == 2
    assert set(first[:-1]) == {1}
    assert exporter.has_events
    look(exporter)
    assert set(take(exporter)) == {1}


def test_bulk_replies_that_are_given_at_once_wait_too() -> None:
    talk, way = claimed(), Way()
    exporter = talk.exporter
    exporter.set_way(way)
    way.unsent = ENOUGH
    raw = b"".join(bulk(number, 0x81, 8) for number in (1, 2)) + interrupt(3, 0x82, 8, 8)
    exporter.receive(memoryview(raw), 0.0)
    for event in exporter.events():
        exporter.complete(event.tag, done(8))
    assert take(exporter) == [3]
    way.unsent = 0
    look(exporter)
    assert take(exporter) == [1, 2]


def test_an_answer_given_at_once_does_not_pass_a_long_one_of_its_queue() -> None:
    """It did where both came in one batch: what the first had left behind was not looked at."""
    talk, way = claimed(), Way()
    talk.exporter.set_way(way)
    way.unsent = 100_000
    long = BURST // 2
    talk.at_once = lambda transfer: done(transfer.length)
    talk.says(bulk(1, 0x81, long) + bulk(2, 0x81, 512))
    said = take(talk.exporter)
    assert said
    assert talk.exporter._backlog, "else nothing is shown"
    assert set(said) == {1}
    way.unsent = 0
    look(talk.exporter)
    assert take(talk.exporter)[-1] == 2


def test_an_unlink_s_reply_stays_behind_that_of_its_transfer() -> None:
    exporter, way = parked([(0x81, BLOCK)])
    way.unsent = ENOUGH
    exporter.receive(memoryview(unlink(2, 1)), 0.0)
    assert len(list(exporter.events())) == 1
    exporter.complete(1, Completion(Status.CANCELLED))
    assert take(exporter) == []
    way.unsent = 0
    look(exporter)
    assert take(exporter) == [1, 2]


def test_the_end_of_a_claim_comes_after_what_waited() -> None:
    exporter, way = parked([(0x81, 8), (0x81, 8)])
    exporter.receive(memoryview(bytes.fromhex("00000008 80000009 16000000")), 0.0)
    assert list(exporter.events()) == []
    way.unsent = ENOUGH
    exporter.complete(1, done(8))
    exporter.gone()
    assert take(exporter) == [1, 2, T + 9]


def test_what_waited_is_not_lost_with_its_transport() -> None:
    exporter, way = parked([(0x81, 8), (0x81, 8)])
    way.unsent = ENOUGH
    exporter.complete(1, done(8))
    assert exporter.disconnected(1.0)
    assert not exporter.has_events
    assert set(exporter._session.ledger.replies) == {1}


def a_controller() -> tuple[Importer, Way]:
    importer, way = Importer(), Way()
    importer.set_way(way)
    importer.claim("1-1")
    importer.receive(memoryview(granted() + reply(T + 1, 0, TOKEN + device(INFO))), 0.0)
    [claimed_] = list(importer.events())
    assert isinstance(claimed_, Claimed)
    take(importer)
    return importer, way


def test_an_interrupt_call_passes_bulk_that_has_not_left() -> None:
    importer, way = a_controller()
    for _ in range(FIT + 3):
        importer.submit(Transfer(0x01, BLOCK, bytes(BLOCK)))
    importer.submit(Transfer(0x82, 8, interval=8))
    # The first of each block fills what the transport wants; identifiers are given when a call leaves.
    assert take(importer) == list(range(1, FIT + 2))
    assert importer.outgoing == []
    way.unsent = ENOUGH
    assert not importer.has_events
    way.unsent = 0
    assert importer.has_events
    assert look(importer) == []
    assert take(importer) == [FIT + 2, FIT + 3, FIT + 4]
    assert not importer.has_events


def test_what_is_held_back_can_be_cancelled_and_does_not_outlive_its_transport() -> None:
    importer, way = a_controller()
    way.unsent = ENOUGH
    assert look(importer) == []
    tag = importer.submit(Transfer(0x01, 8, bytes(8)))
    assert take(importer) == []
    assert importer.cancel(tag).status == Status.CANCELLED
    importer.submit(Transfer(0x01, 8, bytes(8)))
    importer.disconnected(1.0)
    assert not importer.has_events
    assert heartbeat(T) == bytes.fromhex("00000008 80000000 15000000")
