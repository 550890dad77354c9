"""A late reply is said again until there is a sign that it has come: what would be missed for 2 s is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.protocols.ferry.net import BULK_IN, BULK_OUT, OTHER, READ, SEEN, Loses, Net, resubmits
from usbferry.protocols.ferry.messages import Call, Code
from usbferry.protocols.ferry.repeats import TIMES, Repeats
from usbferry.protocols.ferry.trips import LEAST_RESEND

FOUND = 2 * LEAST_RESEND + SEEN  # seconds after which a lost reply is here


@pytest.mark.parametrize("waited", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("endpoint", [READ, BULK_IN])
def test_a_lost_reply_to_a_read_that_waited_alone_is_soon_here(endpoint: int, waited: float) -> None:
    """A key was missed until the controller asked, which it does after up to 2 s."""
    net = Net()
    net.device = waited
    began = net.now
    net.loses = Loses(False, 0, final=True)
    ends = resubmits(net, endpoint)
    net.until(began + waited + 3.0)
    assert ends[0] - began - waited < FOUND


def test_one_of_several_reads_whose_reply_is_the_last_of_a_burst() -> None:
    """The call that the one before it brings shows nothing of this one."""
    net = Net()
    net.parked = {BULK_IN}
    every = [resubmits(net, BULK_IN) for _ in range(16)]
    net.until(net.now + 5.0)
    began = net.now
    net.loses = Loses(False, 2, final=True)
    for number in range(3):
        net.at(began + number * 0.001, net.say_one)
    net.until(began + 1.0)
    ends = sorted(one for ends in every for one in ends)
    assert len(ends) == 3
    assert ends[2] - began < FOUND + 0.002


@pytest.mark.parametrize("reads", [1, 4])
@pytest.mark.parametrize("every", [0.004, 0.008, 0.05, 0.5])
def test_nothing_is_said_again_while_each_reply_brings_a_call(every: float, reads: int) -> None:
    net = Net()
    net.parked = {READ}
    for _ in range(reads):
        resubmits(net, READ)
    for number in range(40):
        net.at(2.0 + number * every, net.say_one)
    net.until(3.0 + 40 * every)
    final = [raw[4:8] for raw in net.down if raw[4] < 0x80 and raw[11] != Code.IN_PROGRESS]
    assert len(final) == len(set(final)) == 40


def test_a_reply_after_which_nothing_comes_is_said_again_a_few_times() -> None:
    net = Net()
    net.device = 0.05
    net.submit(READ)
    net.until(net.now + 30.0)
    assert net.since() == (1, 2 + TIMES)


def test_what_is_acknowledged_is_not_said_again() -> None:
    net = Net()
    net.device = 0.05
    net.submit(READ)
    net.until(net.now + 0.05 + SEEN)
    net.importer._acknowledge()
    net.until(net.now + 30.0)
    assert net.since() == (1, 2)


@pytest.mark.parametrize(("endpoint", "device", "length"), [(READ, 0.0, 8), (BULK_OUT, 0.0, 8), (BULK_IN, 0.05, 4000)])
def test_what_is_answered_at_once_or_in_parts_is_not_said_again(endpoint: int, device: float, length: int) -> None:
    """Of that the controller misses what does not come."""
    net = Net()
    net.device = device
    net.submit(endpoint, length)
    net.until(net.now + 1.0)
    assert net.since() == (1, 1 if not device else 1 + 4)


def test_calls_of_another_endpoint_are_no_sign() -> None:
    net = Net()
    net.parked = {READ}
    ends = resubmits(net, READ)
    net.until(net.now + 5.0)
    net.loses = Loses(False, 0, final=True)
    began = net.now
    net.say_one()
    for number in range(100):
        net.at(began + number * 0.005, lambda: net.submit(OTHER))
    net.until(began + 1.0)
    assert ends
    assert ends[0] - began < FOUND


def test_when_those_are_lost_too_the_controller_asks_in_the_end() -> None:
    net = Net()
    net.device = 10.0
    net.loses = Loses(False, *range(1 + TIMES), final=True)
    ends = resubmits(net, READ)
    began = net.now
    net.until(began + 13.0)
    assert 10.1 < ends[0] - began < 12.1


def test_what_waits_is_said_again_on_another_transport_too() -> None:
    net = Net()
    net.device = 2.0
    began = net.now
    first, ends = net.submit(OTHER), resubmits(net, READ)
    net.until(net.now + 1.0)
    net.move()
    net.loses = Loses(False, 0, 1, final=True)
    net.until(began + 3.0)
    assert ends[0] - began - 2.0 < FOUND
    assert net.ended[first] == pytest.approx(ends[0])


@pytest.mark.parametrize("delay", [0.04, 0.25])
def test_another_transport_has_its_own_round_trip(delay: float) -> None:
    """From a wire to a far network, each rare answer came three or four times. At the longer one RESUME comes again."""
    net = Net()
    net.parked = {READ}
    ends = resubmits(net, READ)
    net.until(net.now + 1.0)
    net.delay = delay
    net.move()
    net.until(net.now + 5.0)
    assert ([raw[8] for raw in net.up].count(Call.RESUME) > 1) is (delay > 0.1)
    assert net.exporter._repeats.trip == pytest.approx(2 * delay)
    net.since()
    net.say_one()
    net.until(net.now + 5.0)
    assert len(ends) == 1
    assert len([raw for raw in net.down if raw[4] < 0x80 and raw[11] != Code.IN_PROGRESS]) == 1


def far(seconds: float) -> Callable[[Repeats], float]:
    """After how long the one reply is said again, where a round trip takes some seconds."""

    def waited(repeats: Repeats) -> float:
        repeats.trip = seconds
        repeats.parks(1, READ)
        repeats.says(1, is_short=True)
        due = repeats.deadline(0.0)
        assert repeats.due(due, 0.0, {1}) == [], "nobody knows when it left"
        again = repeats.deadline(0.0) - due
        assert repeats.due(due + again, 0.0, {1}) == [1]
        return again

    return waited


def test_far_away_it_takes_longer() -> None:
    assert far(0.001)(Repeats()) == LEAST_RESEND
    assert far(0.2)(Repeats()) == 0.4
