"""When calls are sent again, and what waits for what meanwhile."""

from __future__ import annotations

import pytest

from tests.protocols.ferry.net import BULK_IN, BULK_OUT, OTHER, READ, SEEN, SERIAL, Loses, Net, Taciturn, resubmits
from tests.protocols.ferry.wire import T
from usbferry.protocols.ferry.asking import word_of
from usbferry.protocols.ferry.messages import Call
from usbferry.protocols.ferry.outbox import FIRST_RESEND, LAST_RESEND, Sent
from usbferry.protocols.ferry.pace import FIRST_WINDOW
from usbferry.protocols.ferry.repeats import TIMES
from usbferry.protocols.ferry.trips import LEAST_RESEND, Trips
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Transfer

# -- by time ----------------------------------------------------------------------------------------------------------


def a_call(number: int = Call.BULK, identifier: int = 1, endpoint: int = BULK_OUT) -> Sent:
    call = Sent(number, word_of(number, endpoint))
    call.identifier = identifier
    return call


def a_trip(trips: Trips, seconds: float, identifier: int = 1, now: float = 0.0) -> None:
    call = a_call(identifier=identifier)
    trips.sent(call, now)
    trips.heard(call, now + seconds)


def test_until_there_is_a_measurement_it_takes_a_tenth_of_a_second() -> None:
    call = a_call()
    Trips().sent(call, 5.0)
    assert call.due == 5.0 + FIRST_RESEND


def test_the_timeout_is_that_of_rfc_6298() -> None:
    trips = Trips()
    a_trip(trips, 0.1)
    assert trips.timeout == pytest.approx(0.1 + 4 * 0.05)
    a_trip(trips, 0.2, now=0.05)
    assert trips.timeout == pytest.approx(0.1 + 4 * 0.05), "it was sent before that was known"
    a_trip(trips, 0.2, now=0.1)
    assert trips.timeout == pytest.approx((0.1 * 7 + 0.2) / 8 + 4 * (0.05 * 3 + 0.1) / 4)


def test_it_is_neither_very_short_nor_very_long() -> None:
    trips = Trips()
    a_trip(trips, 0.0001)
    assert trips.timeout == LEAST_RESEND
    a_trip(trips, 60.0, now=1.0)
    assert trips.timeout == LAST_RESEND


def test_what_was_sent_twice_measures_nothing() -> None:
    """Nobody knows which of both the word is about (Karn)."""
    trips, call = Trips(), a_call()
    a_trip(trips, 0.1)
    timeout = trips.timeout
    trips.sent(call, 0.0)
    assert trips.again(call, call.due)
    longer = trips.timeout
    assert longer == 2 * timeout, "and all wait longer until there is a measurement"
    trips.heard(call, 5.0)
    assert trips.timeout == longer
    a_trip(trips, 0.1, identifier=2, now=6.0)
    assert trips.timeout < timeout


def test_each_time_that_it_was_too_short_it_is_doubled() -> None:
    """For all: where a network has become slow, each call would find that out for itself, and send several times."""
    trips, call = Trips(), a_call()
    a_trip(trips, 0.01)
    first = trips.timeout
    trips.sent(call, 0.0)
    for times in (2, 4, 8):
        assert trips.again(call, call.due)
        assert trips.timeout == times * first
    later = a_call(identifier=2)
    trips.sent(later, 1.0)
    assert later.due == 1.0 + 8 * first


@pytest.mark.parametrize("word", ["at the target", "waits there", "of the transport"])
def test_what_takes_long_by_its_nature_says_nothing_of_the_network(word: str) -> None:
    trips, call = Trips(), a_call(*((Call.HOLD, T) if word == "of the transport" else (Call.BULK, 1)))
    trips.sent(call, 0.0)
    if word != "of the transport":
        trips.is_at_target(call, 0.01)
    if word == "waits there":
        assert trips.rests(call, call.due)
    before = trips.timeout
    for _ in range(3):
        trips.again(call, call.due)
    assert trips.timeout == before


@pytest.mark.parametrize("number", [Call.CLAIM, Call.HOLD, Call.WATCH])
def test_calls_of_the_transport_that_wait_measure_nothing(number: Call) -> None:
    trips, call = Trips(), a_call(number, T)
    a_trip(trips, 0.01)
    timeout = trips.timeout
    trips.sent(call, 0.0)
    assert call.due == FIRST_RESEND
    trips.heard(call, 3.0)
    assert trips.timeout == timeout


def test_a_lost_call_is_sent_again_after_its_time_and_then_later_and_later() -> None:
    net = Net()
    net.loses = lambda raw, is_up: is_up and raw[4] < 0x80
    net.since()
    began = net.now
    net.submit(READ)
    net.until(began + 2.0)
    after = [round(when - began, 3) for when, raw in zip(net.times, net.up, strict=True) if raw[8] == Call.INTERRUPT]
    timeout = after[1]
    assert LEAST_RESEND <= timeout < 0.05
    assert after == pytest.approx([(2**n - 1) * timeout for n in range(len(after))])
    assert len(after) == 7


def test_a_network_that_becomes_slow_is_learned() -> None:
    """Where only what was sent once is measured, and all is sent twice, nothing would be."""
    net = Net()
    net.delay = 0.15
    net.since()
    for _ in range(50):
        tag = net.submit(READ)
        while tag not in net.ended:
            net.until(net.now + 0.01)
    up, _ = net.since()
    assert up <= 50 + 4, "the first was sent some times, and the others once"


def test_losses_of_one_round_trip_halve_the_window_once() -> None:
    net = Net()
    net.delay = 0.15
    for _ in range(50):
        tag = net.submit(READ)
        while tag not in net.ended:
            net.until(net.now + 0.01)
    began = net.now
    net.loses = lambda raw, is_up: is_up and raw[4] < 0x80
    for step in range(3):
        net.at(began + step * 0.12, lambda: net.submit(BULK_OUT, 1000))
    net.since()
    net.until(began + 0.24 + net.importer._trips.timeout + 0.01)
    assert net.since()[0] == 6, "each was sent again"
    assert net.importer._pace.of(a_call()).size == FIRST_WINDOW // 2


# -- by what came -----------------------------------------------------------------------------------------------------


def stream(net: Net, endpoint: int = READ, number: int = 40, length: int = 8) -> list[float]:
    """How long each of some transfers took, of which one begins every 2 ms."""
    began = net.now
    tags: list[int] = []
    for step in range(number):
        net.at(began + step * 0.002, lambda: tags.append(net.submit(endpoint, length)))
    net.until(began + 5.0)
    assert len(net.ended.keys() & set(tags)) == number
    return [net.ended[tag] - began - step * 0.002 for step, tag in enumerate(tags)]


@pytest.mark.parametrize("device", [0.0, 0.02])
def test_a_lost_call_is_missed_when_there_is_a_word_of_the_next(device: float) -> None:
    net = Net()
    net.device = device
    net.loses = Loses(True, 10)
    took = stream(net)
    assert max(took) == pytest.approx(device + SEEN + 0.002 + SEEN + SEEN / 4, abs=0.0015)
    assert net.since()[0] == 41


@pytest.mark.parametrize("device", [0.0, 0.02])
def test_a_lost_reply_is_missed_when_the_next_one_of_its_queue_came(device: float) -> None:
    net = Net()
    net.device = device
    net.loses = Loses(False, 10, final=True)
    took = stream(net)
    assert max(took) == pytest.approx(device + SEEN + 0.002 + SEEN + SEEN / 4, abs=0.0015)
    assert net.since()[0] == 41


def test_what_is_overtaken_a_little_is_not_sent_again() -> None:
    net = Net()
    late = Loses(True, 10, 20)

    def loses(raw: bytes, is_up: bool) -> bool:
        is_late = late(raw, is_up)
        if is_late:
            net.carry(raw, is_up, net.delay + 0.003)
        return is_late

    net.loses = loses
    stream(net)
    assert net.since()[0] == 40


@pytest.mark.parametrize("is_up", [True, False])
def test_a_part_that_is_lost_is_sent_again_soon(is_up: bool) -> None:
    """It took a tenth of a second, of which a disk has one transfer under way."""
    net = Net()
    stream(net)
    net.ended.clear()
    net.loses = Loses(is_up, 30)
    began = net.now
    tag = net.submit(BULK_OUT if is_up else BULK_IN, 64 * 1024)
    net.until(net.now + 5.0)
    assert net.ended[tag] - began < 2 * SEEN + 0.03


# -- what takes long --------------------------------------------------------------------------------------------------


def test_a_device_that_answers_late_costs_one_word_more_and_nothing_is_sent_again() -> None:
    net = Net()
    net.device = 0.09
    stream(net)
    assert net.since() == (40, 80 + TIMES), "but for the last reply, after which no call shows that it has come"


def test_a_read_that_waits_for_minutes_costs_no_more_than_with_a_fixed_time() -> None:
    """Those were sent again, and answered, after 0.1, 0.3, 0.7, 1.5 s, and then every 2 s."""
    net = Net()
    net.answers = False
    net.since()
    began = net.now
    net.submit(READ)
    packets = 0
    fixed = [0.1, 0.3, 0.7, 1.5, *(3.1 + 2 * n for n in range(100))]
    for step in range(1, 181):
        net.until(began + step)
        packets += sum(net.since())
        assert packets <= 2 + 2 * len([one for one in fixed if one < step])
    assert net.importer.in_flight == 1


def test_the_first_call_after_a_pause_is_sent_once() -> None:
    """It was waited for from when something had come last, and so it was sent again at once."""
    net = Net()
    for _ in range(3):
        net.submit(READ)
        net.until(net.now + 4.0)
    assert net.since() == (3, 3)


def test_a_target_that_does_not_say_that_a_call_came_is_asked_once_more_and_no_flood() -> None:
    net = Net(Taciturn)
    net.device = 0.09
    stream(net)
    up, _ = net.since()
    assert up <= 80


def test_reads_that_wait_let_bulk_pass_after_a_while() -> None:
    """More than the first window, which fills the network: as today, a tenth of a second each."""
    net = Net()
    net.answers = False
    for _ in range(3):
        net.submit(BULK_IN, 30_000)
    net.until(net.now + 0.05)
    assert net.since()[0] == 1
    net.until(net.now + 0.25)
    assert net.since()[0] == 2


@pytest.mark.parametrize(("reads", "length"), [(16, 4096), (60, 2048), (300, 1518)])
def test_reads_that_wait_do_not_hold_up_writes(reads: int, length: int) -> None:
    """A serial port's and a network adapter's: each write waited up to a tenth of a second for each window of reads."""
    net = Net()
    net.parked = {BULK_IN}
    for _ in range(reads):
        net.submit(BULK_IN, length)
    took = stream(net, BULK_OUT, 40, 1500)
    assert max(took) == pytest.approx(SEEN, abs=0.0015)


@pytest.mark.parametrize(("reads", "length"), [(16, 4096), (60, 2048), (200, 1518)])
def test_reads_that_wait_do_not_hold_up_those_of_another_endpoint(reads: int, length: int) -> None:
    """A modem's: its network, and a serial port of it that always has something to say."""
    net = Net()
    net.parked = {BULK_IN}
    for _ in range(reads):
        net.submit(BULK_IN, length)
    assert max(stream(net, SERIAL, 40, 512)) == pytest.approx(SEEN, abs=0.0015)


def test_nor_do_those_that_are_renewed_all_the_time() -> None:
    """Each that brings something is followed by one that counts for a tenth of a second, in what losses left."""
    net = Net()
    net.parked = {BULK_IN}
    for _ in range(60):
        resubmits(net, BULK_IN, 2048)
    for step in range(400):
        net.at(net.now + step * 0.005, net.say_one)
    net.until(net.now + 0.5)
    for _ in range(4):
        net.importer._pace.lost(a_call(endpoint=BULK_IN), net.now, SEEN)
        net.until(net.now + 0.11)
    took = stream(net, SERIAL, 40, 512)
    assert max(took) == pytest.approx(SEEN, abs=0.0015)


def test_more_reads_than_were_granted_leave_some_of_it_to_writes() -> None:
    """Writes waited for ever beside those of usbnet at SuperSpeed. What they have of it is acknowledged soon enough."""
    net = Net()
    net.parked = {BULK_IN}
    for _ in range(300):
        net.submit(BULK_IN, 1518)
    net.until(net.now + 20.0)
    assert max(stream(net, BULK_OUT, 400, 1500)) < 3 * SEEN


def test_more_reads_than_were_granted_leave_one_to_each_other_endpoint() -> None:
    """Nothing was ever read of a modem's serial port beside its network, where that had nothing to say."""
    net = Net()
    net.parked = {BULK_IN}
    for _ in range(300):
        net.submit(BULK_IN, 1518)
    net.until(net.now + 20.0)
    for endpoint in range(SERIAL, 0x90):
        began = net.now
        tags = [net.submit(endpoint, 512) for _ in range(4)]
        net.until(began + 1.0)
        assert max(net.ended.get(tag, 99.0) - began for tag in tags) < 10 * SEEN
    for endpoint in (SERIAL, SERIAL + 1, SERIAL + 2):
        net.parked.add(endpoint)
        net.submit(endpoint, 512)
    assert max(stream(net, BULK_OUT, 40, 1500)) < 3 * SEEN


def test_writes_do_not_hold_up_reads() -> None:
    """More of them than are under way in a second."""
    net = Net()
    for _ in range(100):
        net.submit(BULK_OUT, 30_000)
    began = net.now
    tags = [net.submit(BULK_IN, 512) for _ in range(40)]
    net.until(began + 0.05)
    assert [net.ended.get(tag, 0) - began for tag in tags] == pytest.approx([SEEN] * 40, abs=0.0015)
    assert len(net.ended) < 70


@pytest.mark.parametrize("way", ["in", "out"])
def test_bulk_does_not_hold_up_control_transfers_and_what_is_behind_them(way: str) -> None:
    """They waited in the window that it had filled, and so did an interrupt transfer behind them, which is in none."""
    net = Net()
    net.parked = {BULK_IN}
    for _ in range(100):
        net.submit(BULK_IN if way == "in" else BULK_OUT, FIRST_WINDOW - 64)
    for _ in range(10):
        began = net.now
        setup = Setup(0xC0, 1, 0, 0, 8) if way == "in" else Setup(0x40, 1, 0, 0, 8)
        control = Transfer(0x80 if way == "in" else 0, 8, b"" if way == "in" else bytes(8), setup.pack())
        tags = [net.importer.submit(control), net.submit(READ)]
        net.until(began + 0.05)
        assert [net.ended.get(tag, 0) - began for tag in tags] == pytest.approx([SEEN, SEEN], abs=0.0015)


def test_control_transfers_wait_for_one_another_and_bulk_for_them() -> None:
    """Unless little of them is under way: nothing is sent without bound."""
    net = Net()
    began = net.now
    tags = [net.importer.submit(Transfer(0, 20_000, bytes(20_000), Setup(0x40, 1, 0, 0, 20_000).pack())) for _ in "12"]
    tags.append(net.submit(BULK_OUT, 20_000))
    net.until(began + 1.0)
    assert [net.ended[tag] - began for tag in tags] == pytest.approx([SEEN, 2 * SEEN, 2 * SEEN], abs=0.0015)


def test_writes_that_came_do_not_hold_up_others() -> None:
    net = Net()
    net.answers = False
    for _ in range(4):
        net.submit(BULK_OUT, 30_000)
    net.until(net.now + 0.06)
    assert {int.from_bytes(raw[4:8], "big") for raw in net.up if raw[4] < 0x80} == {1, 2, 3, 4}


# -- another transport ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.3, 60.0])
def test_what_a_target_has_from_an_earlier_transport_is_not_asked_for_at_once(seconds: float) -> None:
    """It was, by all of up to 301 calls that had waited there for long."""
    net = Net()
    net.device = seconds
    for _ in range(20):
        net.submit(OTHER)
    net.until(net.now + 0.1)
    net.move()
    net.since()
    began = net.now
    net.until(began + 0.5 * FIRST_RESEND)
    assert net.since() == (0, 0)
    net.until(began + 1.0)
    assert len(net.ended) == (20 if seconds < 1 else 0)


def test_what_is_sent_on_a_new_transport_is_missed_as_on_the_first() -> None:
    net = Net()
    net.loses = lambda raw, is_up: is_up and raw[4] < 0x80
    first = net.submit(READ)
    net.until(net.now + 1.0)
    net.loses = lambda raw, is_up: False
    net.move()
    assert net.ended[first]
    net.since()
    net.ended.clear()
    net.loses = Loses(True, 10)
    assert max(stream(net)) == pytest.approx(SEEN + 0.002 + SEEN + SEEN / 4, abs=0.0015)
