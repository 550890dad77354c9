"""How much a controller has under way, where packets get lost and on a stream; and the challenge that shows whose
address it is.
"""

from __future__ import annotations

import pytest

from tests.protocols.ferry.wire import (
    FAILED,
    INFO,
    TOKEN,
    T,
    Talk,
    bulk,
    call,
    claim,
    claimed,
    control,
    device,
    interrupt,
    parts,
    reply,
    u32,
    version,
    version_reply,
)
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.events import Submit
from usbferry.protocols.ferry.asking import word_of
from usbferry.protocols.ferry.exporter import Exporter
from usbferry.protocols.ferry.importer import Importer
from usbferry.protocols.ferry.messages import Call
from usbferry.protocols.ferry.outbox import Sent
from usbferry.protocols.ferry.pace import FIRST_WINDOW, LARGEST_WINDOW, LEAST_WINDOW, Pace
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status


class Lossy:
    packet_bytes = 1232
    is_lossy = True
    unsent = 0
    is_proven = False

    def proven(self) -> None:
        self.is_proven = True

    @property
    def blocked(self) -> bool:
        return self.unsent >= 1 << 17


def a_call(cost: int, number: Call = Call.BULK, endpoint: int = 0x02) -> Sent:
    return Sent(number, word_of(number, endpoint), cost=cost)


def sent(pace: Pace, cost: int, number: Call = Call.BULK, endpoint: int = 0x02) -> Sent:
    one = a_call(cost, number, endpoint)
    pace.sent(one)
    return one


def size(pace: Pace, endpoint: int = 0x02) -> int:
    """Of a window."""
    return pace.of(a_call(0, endpoint=endpoint)).size


def test_one_call_may_always_be_sent_and_as_many_as_fit() -> None:
    pace = Pace()
    assert pace.has_room(a_call(LARGEST_WINDOW))
    sent(pace, FIRST_WINDOW - 1000)
    assert pace.has_room(a_call(800))
    assert not pace.has_room(a_call(1000))


@pytest.mark.parametrize("number", [Call.ISOCHRONOUS, Call.INTERRUPT])
def test_what_a_device_paces_is_not_held_back_and_holds_nothing_back(number: Call) -> None:
    pace = Pace()
    for _ in range(100):
        assert pace.has_room(a_call(1024, number))
        sent(pace, 1024, number)
    assert pace.has_room(a_call(LARGEST_WINDOW))
    bulk = sent(pace, LARGEST_WINDOW)
    assert pace.has_room(a_call(1024, number))
    assert not pace.has_room(a_call(1))
    pace.rests(bulk)
    for _ in range(100):
        pace.answered(sent(pace, 1024, number), 1024)
    assert size(pace) == FIRST_WINDOW


@pytest.mark.parametrize("number", [Call.ISOCHRONOUS, Call.INTERRUPT, Call.UNLINK])
def test_what_is_not_counted_halves_nothing_when_it_is_lost(number: Call) -> None:
    """An interrupt transfer that only waited, at a target whose word of it was lost, halved what bulk had."""
    pace = Pace()
    for endpoint in (0x81, 0x02):
        lost = sent(pace, 8, number, endpoint)
        pace.lost(lost, 1.0, 0.01)
        assert lost.is_lost
    assert (size(pace), size(pace, 0x81)) == (FIRST_WINDOW, FIRST_WINDOW)


def test_each_endpoint_has_its_own() -> None:
    pace = Pace()
    for endpoint in (0x81, 0x83, 0x02):
        sent(pace, FIRST_WINDOW - 64, endpoint=endpoint)
        assert not pace.has_room(a_call(1, endpoint=endpoint))
    assert pace.has_room(a_call(FIRST_WINDOW, Call.CONTROL, 0x80))
    pace.lost(sent(pace, 1024), 1.0, 0.01)
    assert (size(pace), size(pace, 0x81), size(pace, 0x83)) == (FIRST_WINDOW // 2, FIRST_WINDOW, FIRST_WINDOW)
    pace.lost(sent(pace, 1024, endpoint=0x83), 1.0, 0.01)
    assert size(pace, 0x83) == FIRST_WINDOW // 2, "at the same time, and it is another loss"
    pace.answered(sent(pace, 1024, endpoint=0x83), 1024)
    assert size(pace) == FIRST_WINDOW // 2 < size(pace, 0x83)
    assert size(pace, 0x81) == FIRST_WINDOW


def test_answers_make_it_grow_up_to_its_limit() -> None:
    pace = Pace()
    for _ in range(1000):
        pace.answered(sent(pace, 1024), 1024)
    assert size(pace) == LARGEST_WINDOW


def test_a_loss_halves_it_once_in_a_while_and_never_below_its_least() -> None:
    pace = Pace()
    for now, window in ((1.0, FIRST_WINDOW // 2), (1.05, FIRST_WINDOW // 2), (1.2, FIRST_WINDOW // 4)):
        lost = sent(pace, 1024)
        pace.lost(lost, now, 0.01)
        pace.answered(lost, 0)
        assert size(pace) == window, "and its answer makes it no larger"
    for now in range(2, 20):
        pace.lost(sent(pace, 1024), float(now), 0.01)
    assert size(pace) == LEAST_WINDOW
    pace.answered(sent(pace, 1024), 1024)
    assert LEAST_WINDOW < size(pace) < LEAST_WINDOW + 1024, "after a loss it grows slowly"


def test_far_away_the_losses_of_a_round_trip_are_one() -> None:
    """What was under way at once came down to the least window, in a third of a second."""
    pace = Pace()
    for step in range(6):
        pace.lost(sent(pace, 1024), 1.0 + 0.1 * step, 0.6)
    assert size(pace) == FIRST_WINDOW // 2
    pace.lost(sent(pace, 1024), 1.6, 0.6)
    assert size(pace) == FIRST_WINDOW // 4


def test_what_was_written_is_not_under_way_once_it_is_at_the_target() -> None:
    pace = Pace()
    parked = sent(pace, FIRST_WINDOW)
    assert not pace.has_room(a_call(1))
    pace.in_progress(parked)
    assert pace.has_room(a_call(FIRST_WINDOW - 64))
    pace.answered(parked, 0)
    assert size(pace) > FIRST_WINDOW


def test_what_is_read_is_under_way_until_it_has_waited_for_long() -> None:
    """Its reply is long, and may come any time: many at once are more than the network takes."""
    pace = Pace()
    parked = sent(pace, FIRST_WINDOW, endpoint=0x81)
    pace.in_progress(parked)
    assert not pace.has_room(a_call(1, endpoint=0x81))
    pace.rests(parked)
    assert pace.has_room(a_call(FIRST_WINDOW - 64, endpoint=0x81))
    pace.answered(parked, FIRST_WINDOW)
    pace.rests(parked)
    assert pace.has_room(a_call(FIRST_WINDOW, endpoint=0x81))


def test_it_grows_by_what_came() -> None:
    """Reads of 64 KiB that brought 13 bytes each made it as large as it may be."""
    pace = Pace()
    for _ in range(100):
        pace.answered(sent(pace, 65536, endpoint=0x81), 13)
    assert size(pace, 0x81) == FIRST_WINDOW + 100 * (13 + 64)


def test_a_read_is_taken_for_what_the_last_ones_brought() -> None:
    """Of a network adapter's of 16 KiB, which bring a packet each, two were under way, and one where some were lost."""
    pace = Pace()
    for _ in range(100):
        pace.answered(sent(pace, 16384, endpoint=0x81), 1500)
    for _ in range(10):
        pace.lost(a_call(0, endpoint=0x81), pace.of(a_call(0, endpoint=0x81))._backed_off + 1.0, 0.0)
    assert size(pace, 0x81) == LEAST_WINDOW
    reads = [sent(pace, 16384, endpoint=0x81) for _ in range(2)]
    assert not pace.has_room(a_call(16384, endpoint=0x81))
    pace.answered(reads[0], 16384)
    assert not pace.has_room(a_call(16384, endpoint=0x81)), "now one is full, and the next may be"
    pace.answered(reads[1], 13)
    assert pace.has_room(a_call(16384, endpoint=0x81)), "one is always allowed"


def test_a_short_read_that_is_full_says_nothing_of_longer_ones() -> None:
    """Behind the 13 bytes of a disk's status, reads of 256 KiB were taken for as little, whatever had been lost."""
    pace = Pace()
    for length, brought in ((36, 36), (192, 20), (16384, 16384), (13, 13)):
        pace.answered(sent(pace, length, endpoint=0x81), brought)
    taken = sent(pace, 262144, endpoint=0x81)
    assert taken.under_way == 16384 + 64
    pace.answered(sent(pace, 192, endpoint=0x81), 20)
    assert sent(pace, 262144, endpoint=0x81).under_way == 16384 * 7 // 8 + 64, "nor does one that is short say much"
    pace.answered(sent(pace, 262144, endpoint=0x81), None)
    assert sent(pace, 262144, endpoint=0x81).under_way == 16384 * 7 // 8 + 64, "and one that was cancelled nothing"


def test_should_all_of_them_be_full_it_is_no_more_than_the_largest_window() -> None:
    pace = Pace()
    for _ in range(100):
        pace.answered(sent(pace, 16384, endpoint=0x81), 13)
    for _ in range(LARGEST_WINDOW // 16384):
        assert pace.has_room(a_call(16384, endpoint=0x81))
        sent(pace, 16384, endpoint=0x81)
    assert not pace.has_room(a_call(16384, endpoint=0x81))


def lossy_target() -> Talk:
    talk = Talk()
    talk.exporter.set_way(Lossy())
    return talk


def first_identifier(talk: Talk) -> int:
    """What the reply to VERSION ends with."""
    talk.says(version())
    said = b"".join(talk.exporter.outgoing)
    talk.exporter.outgoing, talk.exporter.outgoing_bytes = [], 0
    assert said.startswith((len(said) - 4).to_bytes(4, "big"))
    assert said[4:-4] == version_reply()[4:]
    assert len(said) - 4 < 4 * (len(version()) - 4), "it must not be of use to who sends in somebody else's name"
    return int.from_bytes(said[-4:], "big")


def test_who_does_not_receive_is_told_nothing_but_the_version() -> None:
    talk = lossy_target()
    begins = first_identifier(talk)
    assert begins & T
    talk.says(call(begins ^ 1, Call.LIST)).asks().hears()
    talk.says(claim(begins + 1)).asks().hears()
    talk.says(bulk(1, 0x81, 8)).asks().hears()
    talk.says(call(begins, Call.LIST)).asks("list")
    talk.says(claim(begins + 1)).asks("claim 1-1")


def test_who_does_not_show_that_it_receives_is_soon_forgotten() -> None:
    """It stayed for 15 s and longer: a forged VERSION prolonged it, and 4096 of them kept out all who connect."""
    talk, way = Talk(), Lossy()
    talk.exporter.set_way(way)
    seconds = talk.limits.proof_seconds
    first_identifier(talk)
    assert talk.exporter.deadline() == seconds <= 2.0
    talk.now = seconds / 2
    first_identifier(talk)
    assert talk.exporter.deadline() == seconds
    talk.exporter.tick(seconds - 0.01)
    assert not talk.exporter.done
    talk.exporter.tick(seconds)
    assert talk.exporter.done
    talk.exporter.tick(seconds + 1)
    talk.hears()
    assert not talk.loses_transport()
    assert not way.is_proven


def test_who_shows_it_stays() -> None:
    talk, way = Talk(), Lossy()
    talk.exporter.set_way(way)
    begins = first_identifier(talk)
    talk.says(call(begins, Call.LIST)).asks("list")
    assert way.is_proven
    deadline = talk.exporter.deadline()
    assert deadline is not None
    assert deadline > 4 * talk.limits.proof_seconds
    talk.exporter.tick(deadline - 0.01)
    assert not talk.exporter.done


def test_silence_on_datagrams_is_the_end_of_who_has_no_claim() -> None:
    """Nobody hears there that a socket was closed: each `usbferry list` was warned of as a broken peer."""
    talk = lossy_target()
    begins = first_identifier(talk)
    talk.says(call(begins, Call.LIST)).asks("list")
    deadline = talk.exporter.deadline()
    assert deadline is not None
    talk.exporter.tick(deadline)
    assert talk.exporter.done
    assert not talk.loses_transport()


def test_silence_on_datagrams_is_a_fault_of_who_has_a_claim() -> None:
    talk = lossy_target()
    begins = first_identifier(talk)
    talk.says(claim(begins)).asks("claim 1-1")
    talk.exporter.accept(INFO)
    deadline = talk.exporter.deadline()
    assert deadline is not None
    with pytest.raises(ProtocolError, match="silent for 15 s"):
        talk.exporter.tick(deadline)


def test_a_duplicate_of_the_first_call_changes_nothing() -> None:
    talk = lossy_target()
    begins = first_identifier(talk)
    assert first_identifier(talk) == begins


def test_the_controller_goes_on_with_the_identifier_that_it_was_told() -> None:
    importer = Importer(resends=True)
    importer.set_way(Lossy())
    importer.connected(0.0)
    importer.list_devices()
    assert b"".join(importer.outgoing) == version(T)
    importer.outgoing, importer.outgoing_bytes = [], 0
    told = version_reply(T)[4:] + (T + 77).to_bytes(4, "big")
    importer.receive(memoryview(len(told).to_bytes(4, "big") + told), 0.0)
    assert list(importer.events()) == []
    assert b"".join(importer.outgoing) == call(T + 77, Call.LIST)


@pytest.mark.parametrize(
    ("packet", "opens"),
    [
        (version()[4:], True),
        (claim()[4:], False),
        (bulk(1, 0x81, 8)[4:], False),
        (reply(1)[4:], False),
        (b"", False),
        (b"\x80\0\0\0\1", False),
    ],
)
def test_only_version_opens_a_transport(packet: bytes, opens: bool) -> None:
    assert Exporter.opens(packet) is opens


def test_on_packets_what_is_long_goes_in_parts_that_fit() -> None:
    talk = lossy_target()
    begins = first_identifier(talk)
    talk.says(call(begins, Call.LIST)).asks("list")
    talk.exporter.listed([])
    talk.hears(reply(begins, 0, bytes(4)))
    talk.says(claim(begins + 1)).asks("claim 1-1")
    talk.exporter.accept(INFO)
    talk.exporter.outgoing, talk.exporter.outgoing_bytes = [], 0
    talk.says(bulk(1, 0x81, 3000)).asks("submit #1 in 81 3000").hears(reply(1, 5))
    talk.exporter.complete(1, Completion(0, bytes(3000)))
    raw = b"".join(bytes(piece) for piece in talk.exporter.outgoing)
    sizes = []
    while raw:
        size = 4 + int.from_bytes(raw[:4], "big")
        sizes.append(size - 4)
        raw = raw[size:]
    assert len(sizes) == 3
    assert max(sizes) <= Lossy.packet_bytes


def claimed_on_packets() -> Talk:
    talk = lossy_target()
    begins = first_identifier(talk)
    talk.says(claim(begins)).asks("claim 1-1")
    talk.exporter.accept(INFO)
    talk.exporter.outgoing, talk.exporter.outgoing_bytes = [], 0
    return talk


def test_what_came_and_is_not_answered_at_once_is_said_to_be_there() -> None:
    talk = claimed_on_packets()
    talk.says(interrupt(1, 0x82, 8, 1), bulk(2, 0x81, 8)).asks("submit #1 in 82 8", "submit #2 in 81 8")
    talk.hears(reply(1, 5), reply(2, 5))
    talk.says(bulk(3, 0x02, data=b"x")).asks("submit #3 out 02 1").hears(reply(3, 5))
    talk.does(3, Completion(Status.OK, b"", 1)).hears(reply(3))
    talk.says(interrupt(1, 0x82, 8, 1)).hears(reply(1, 5))


def test_what_is_answered_at_once_has_its_reply_alone() -> None:
    talk = claimed_on_packets()
    exporter = talk.exporter
    exporter.receive(memoryview(bulk(1, 0x02, data=b"x") + control(2, "0009010000000000")), 0.0)
    for event in exporter.events():
        assert isinstance(event, Submit)
        exporter.complete(event.tag, Completion(Status.OK, b"", event.transfer.length))
    talk.hears(reply(1), reply(2))


def test_what_came_early_is_said_to_be_there_and_what_is_incomplete_is_not() -> None:
    """By the first the controller knows that the call before it was lost."""
    talk = claimed_on_packets()
    first, second = parts(1, bytes.fromhex("06020000"), u32(1000) + bytes(1000), [512, 496])
    talk.says(first).asks().hears()
    talk.says(bulk(2, 0x81, 8)).asks().hears(reply(2, 5))
    talk.says(bulk(2, 0x81, 8)).asks().hears(reply(2, 5))
    talk.says(second).asks("submit #1 out 02 1000", "submit #2 in 81 8").hears(reply(1, 5))


def test_on_a_transport_that_loses_nothing_it_is_not_said() -> None:
    talk = claimed()
    talk.says(interrupt(1, 0x82, 8, 1), bulk(2, 0x81, 8)).asks("submit #1 in 82 8", "submit #2 in 81 8").hears()


# -- streams ----------------------------------------------------------------------------------------------------------

PIECE = 1 << 20


def a_piece(endpoint: int = 0x81) -> Transfer:
    return Transfer(endpoint, PIECE, b"" if endpoint & 0x80 else bytes(PIECE))


class OnStream:
    """A controller whose target answers VERSION after some seconds; the test plays that target."""

    def __init__(self, far: float = 0.001) -> None:
        self.now = 0.0
        self.importer = Importer()
        self.importer.connected(0.0)
        self.importer.claim("1-1")
        self.now = far
        self.hears(version_reply(), reply(T + 1, 0, TOKEN + device()))
        self.leave()

    def hears(self, *messages: bytes) -> None:
        self.importer.receive(memoryview(b"".join(messages)), self.now)
        self.events = list(self.importer.events())

    def leave(self) -> list[int]:
        """The calls of the session that leave; what is in parts counts once."""
        raw, found = b"".join(self.importer.outgoing), dict[int, None]()
        self.importer.outgoing, self.importer.outgoing_bytes = [], 0
        while raw:
            size = 4 + int.from_bytes(raw[:4], "big")
            if raw[4] < 0x80:
                found[int.from_bytes(raw[4:8], "big")] = None
            raw = raw[size:]
        self.importer.receive(memoryview(b""), self.now)  # as a transport that took it all
        return list(found)


def submitted(net: OnStream, number: int, endpoint: int = 0x81) -> list[int]:
    """What leaves of some long transfers."""
    left = []
    for _ in range(number):
        net.importer.submit(a_piece(endpoint))
        left += net.leave()
    return left


@pytest.mark.parametrize("endpoint", [0x81, 0x02])
def test_on_a_near_stream_two_long_transfers_are_under_way(endpoint: int) -> None:
    """16 MiB were, and an interrupt transfer waited behind all that the systems of both ends held of them."""
    net = OnStream()
    assert submitted(net, 16, endpoint) == [1, 2]
    net.importer.submit(Transfer(0x83, 8, interval=1))
    assert net.leave() == [3]
    net.hears(reply(1, FAILED + Status.STALL))
    assert net.leave() == [4]
    net.hears(reply(2, FAILED + Status.STALL), reply(4, FAILED + Status.STALL))
    assert net.leave() + net.leave() == [5, 6]


def test_on_a_stream_the_longest_waiting_goes_first_both_ways() -> None:
    """A read that needs all of the window, behind which writes are put that do not."""
    net = OnStream()
    assert submitted(net, 2, 0x02) == [1, 2]
    net.importer.submit(Transfer(0x81, 4 * PIECE))
    net.importer.submit(Transfer(0x02, 8, bytes(8)))
    net.importer.submit(a_piece(0x02))
    assert net.leave() == [3], "what is short is not counted"
    net.hears(reply(1, FAILED + Status.STALL))
    assert net.leave() == []
    net.hears(reply(2, FAILED + Status.STALL))
    assert net.leave() == [4]
    net.hears(reply(4, 5))
    assert net.leave() == [5]


def test_on_a_far_stream_more_is_under_way() -> None:
    assert len(submitted(OnStream(0.02), 30)) == 10


def test_the_fastest_answer_counts() -> None:
    net = OnStream(1.0)
    net.now = 6.0
    net.importer.tick(6.0)
    net.now = 6.002
    net.hears(reply(T + 3))
    assert len(submitted(net, 16)) == 2


def test_what_waits_at_the_device_is_not_under_way() -> None:
    """Reads of a device that says something now and then: they must not hold up what is written to it."""
    net = OnStream()
    for number in range(1, 31):
        net.importer.submit(a_piece())
        assert net.leave() == [number]
        net.hears(reply(number, 5))
    assert submitted(net, 2, 0x02) == [31, 32]


def test_short_transfers_are_not_counted() -> None:
    net = OnStream()
    assert len(submitted(net, 3)) == 2
    net = OnStream()
    for _ in range(100):
        net.importer.submit(Transfer(0x81, 65536))
    assert len(net.leave()) == 100


def test_a_target_that_says_nothing_holds_nothing_up_for_long() -> None:
    net = OnStream()
    assert submitted(net, 16) == [1, 2]
    began = net.now = 3.0  # nothing was heard for a while, and then this was submitted: how much later, nobody knows
    last = net.importer.deadline()
    assert last is not None
    assert last < began, "it counts from an old time"
    net.importer.tick(net.now)
    assert net.leave() == []
    net.now = began + 0.09
    net.importer.tick(net.now)
    assert net.leave() == []
    deadline = net.importer.deadline()
    assert deadline == pytest.approx(began + 0.1)
    net.now = deadline
    net.importer.tick(net.now)
    assert net.leave() == [3, 4]


def told_of_others(net: OnStream, seconds: float, *meanwhile: bytes) -> list[int]:
    """What leaves while interrupt transfers are answered, one each 10 ms; what else comes each 80 ms."""
    left, end = [], net.now + seconds
    for step in range(round(seconds / 0.01)):
        net.importer.submit(Transfer(0x83, 8, interval=1))
        [number] = net.leave()
        net.now = end - seconds + (step + 1) * 0.01
        net.importer.tick(net.now)
        left += net.leave()
        net.hears(reply(number), *(meanwhile if step % 8 == 7 else ()))
        left += net.leave()
    return left


def test_answers_to_others_are_none_to_what_is_under_way() -> None:
    """Where interrupt transfers were answered all the time, what was long waited for reads of which nothing came."""
    net = OnStream()
    assert submitted(net, 2) == [1, 2]
    assert submitted(net, 1, 0x02) == []
    [number] = told_of_others(net, 0.3)
    assert 3 + 10 <= number <= 3 + 20


@pytest.mark.parametrize("how", ["in parts", "slowly"])
def test_while_an_answer_comes_more_is_not_under_way(how: str) -> None:
    """On a slow network: what is put there would only make others wait."""
    net = OnStream()
    assert submitted(net, 2) == [1, 2]
    assert submitted(net, 1, 0x02) == []
    pieces = parts(1, u32(0), bytes(PIECE), [65536] * 16, is_reply=True)
    if how == "slowly":
        net.importer.receive(memoryview(pieces[0][:1000]), net.now)
        assert list(net.importer.events()) == []
    for piece in pieces[:10]:
        net.now += 0.09
        net.importer.tick(net.now)
        if how == "in parts":
            net.hears(piece)
        else:
            net.importer.receive(memoryview(pieces[0][: 1000 + round(net.now * 100)]), net.now)
            assert list(net.importer.events()) == []
        assert net.leave() == []
    for _ in range(2):
        net.now += 0.1
        net.importer.tick(net.now)
    assert net.leave() == [3]


def test_another_transport_begins_anew() -> None:
    net = OnStream()
    submitted(net, 3)
    net.importer.disconnected(1.0)
    net.importer.connected(1.0)
    net.now = 1.001
    net.hears(version_reply(T + 3), reply(T + 4, 0, u32(2)))
    assert net.leave() == [2, 3]
    assert net.leave() == []
