"""When calls are sent again: a controller and a target on a network of some delay, in a time that the test passes."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from tests.protocols.ferry.wire import INFO, T
from usbferry.protocols.events import Claim, Completed, Resume, Submit
from usbferry.protocols.ferry.exporter import Exporter
from usbferry.protocols.ferry.framing import Stream
from usbferry.protocols.ferry.importer import Importer
from usbferry.protocols.ferry.messages import Call, Code
from usbferry.protocols.ferry.outbox import FIRST_RESEND, LAST_RESEND, Sent
from usbferry.protocols.ferry.pace import FIRST_WINDOW
from usbferry.protocols.ferry.trips import LEAST_RESEND, Trips
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status

UDP = Stream(packet_bytes=1232, is_lossy=True)
BULK_IN, BULK_OUT, READ, OTHER = 0x81, 0x02, 0x83, 0x84  # endpoints; the last two are interrupt
SEEN = 0.01  # seconds there and back, where nothing else is said


class Net:
    """Both ends, and what is between them. A packet that `loses` says so of does not come."""

    def __init__(self, target: type[Exporter] = Exporter) -> None:
        self.now = 0.0
        self.delay = SEEN / 2
        self.device = 0.0  # seconds until it answers
        self.answers = True
        self.importer = Importer(resends=True)
        self.exporter = self.holder = target()  # of the transport; that has the claim
        self.importer.set_way(UDP)
        self.exporter.set_way(UDP)
        self.loses: Callable[[bytes, bool], bool] = lambda raw, is_up: False
        self.up: list[bytes] = []  # every packet that was sent
        self.down: list[bytes] = []
        self.times: list[float] = []  # of those up
        self.ended: dict[int, float] = {}  # when, by tag
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._held = {True: b"", False: b""}
        self.importer.connected(0.0)
        self.importer.claim("1-1")
        self.until(1.0)
        assert self.importer.session

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._later, (when, next(self._order), what))

    def until(self, end: float) -> None:
        """Let everything happen that happens until then."""
        self._flush()
        while True:
            deadline = self.importer.deadline()
            happens = self._later[0][0] if self._later else end
            if min(happens, deadline or end) >= end:
                break
            if deadline is not None and deadline < happens:
                self.now = max(deadline, self.now)
                self.importer.tick(self.now)
            else:
                self.now, _, what = heapq.heappop(self._later)
                what()
            self._flush()
        self.now = end

    def submit(self, endpoint: int, length: int = 8) -> int:
        interval = 1 if endpoint in (READ, OTHER) else 0
        return self.importer.submit(
            Transfer(endpoint, length, b"" if endpoint & 0x80 else bytes(length), interval=interval)
        )

    def move(self) -> None:
        """The transport is lost, with all that is on it, and there is another."""
        assert self.importer.disconnected(self.now)
        self.exporter.disconnected(self.now)
        self._flush()
        self._later = [one for one in self._later if one[2].__name__ != "arrives"]
        heapq.heapify(self._later)
        self._held = {True: b"", False: b""}
        self.exporter = Exporter(now=self.now)
        self.exporter.set_way(UDP)
        self.importer.connected(self.now)
        self.until(self.now + 3 * SEEN)

    def since(self) -> tuple[int, int]:
        """Packets up and down since the last time, but for heartbeats, claims and holds."""
        mine = [raw for raw in self.up if raw[8] in (5, 6, 7, 8, 9, 255)], [raw for raw in self.down if raw[4] < 0x80]
        self.up, self.down, self.times = [], [], []
        return len(mine[0]), len(mine[1])

    def _flush(self) -> None:
        self.importer.leaves(self.now)
        for machine, sent, is_up in ((self.importer, self.up, True), (self.exporter, self.down, False)):
            raw = b"".join(machine.outgoing)
            machine.outgoing, machine.outgoing_bytes = [], 0
            for one in _records(raw):
                sent.append(one)
                if is_up:
                    self.times.append(self.now)
                if not self.loses(one, is_up):
                    self.carry(one, is_up, self.delay)

    def carry(self, raw: bytes, is_up: bool, seconds: float) -> None:
        def arrives() -> None:
            self._arrives(raw, is_up)

        self.at(self.now + seconds, arrives)

    def _arrives(self, raw: bytes, is_up: bool) -> None:
        raw = self._held[is_up] + raw
        if is_up:
            self._held[True] = self._asks(raw)
            return
        self.importer.receive(memoryview(raw), self.now)
        for event in self.importer.events():
            if isinstance(event, Completed):
                assert event.status == Status.OK
                self.ended[event.tag] = self.now
        self._held[False] = raw[self.importer.consumed :]

    def _asks(self, raw: bytes) -> bytes:
        """What comes to the target; what it does not take of it."""
        exporter = self.exporter
        exporter.receive(memoryview(raw), self.now)
        for event in exporter.events():
            if isinstance(event, Claim):
                exporter.accept(INFO)
                self.holder = exporter
            elif isinstance(event, Submit):
                self._carry_out(event)
            elif isinstance(event, Resume):
                self.exporter = self.holder
                self.exporter.connected(self.now)
                self.exporter.set_way(UDP)
                return self._asks(raw[exporter.consumed :])
        return raw[exporter.consumed :]

    def _carry_out(self, event: Submit) -> None:
        transfer = event.transfer
        data = bytes(transfer.length) if transfer.is_in else b""
        answer = Completion(Status.OK, data, transfer.length)
        if self.answers and not self.device:
            self.holder.complete(event.tag, answer)
        elif self.answers:
            self.at(self.now + self.device, lambda: self.holder.complete(event.tag, answer))


class Taciturn(Exporter):
    """It says IN_PROGRESS only when it is asked."""

    def _confirm(self) -> None:
        self._unconfirmed.clear()


def _records(raw: bytes) -> Iterator[bytes]:
    while raw:
        size = 4 + int.from_bytes(raw[:4], "big")
        yield raw[:size]
        raw = raw[size:]


class Loses:
    """The packets of these numbers, of those of the session one way, counted from 0."""

    def __init__(self, is_up: bool, *numbers: int, final: bool = False) -> None:
        self.numbers, self.is_up, self.final = numbers, is_up, final
        self._seen = count()

    def __call__(self, raw: bytes, is_up: bool) -> bool:
        if is_up is not self.is_up or raw[4] >= 0x80 or (self.final and raw[11] == Code.IN_PROGRESS):
            return False
        return next(self._seen) in self.numbers


# -- by time ----------------------------------------------------------------------------------------------------------


def a_call(number: int = Call.BULK, identifier: int = 1) -> Sent:
    call = Sent(number, 0)
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
    net.importer._pace.window, began = FIRST_WINDOW, net.now
    net.loses = lambda raw, is_up: is_up and raw[4] < 0x80
    for step in range(3):
        net.at(began + step * 0.12, lambda: net.submit(BULK_OUT, 1000))
    net.since()
    net.until(began + 0.24 + net.importer._trips.timeout + 0.01)
    assert net.since()[0] == 6, "each was sent again"
    assert net.importer._pace.window == FIRST_WINDOW // 2


# -- by what came -----------------------------------------------------------------------------------------------------


def stream(net: Net, endpoint: int = READ, number: int = 40, length: int = 8) -> list[float]:
    """How long each of some transfers took, of which one begins every 2 ms."""
    began = net.now
    tags: list[int] = []
    for step in range(number):
        net.at(began + step * 0.002, lambda: tags.append(net.submit(endpoint, length)))
    net.until(began + 5.0)
    assert len(net.ended) == number
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
    assert net.since() == (40, 80)


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
