"""What a target keeps of the calls it has answered: at the tail or among the replies, nobody can tell which."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import strategies as usb
from tests.protocols.ferry.wire import T, Talk, bulk, claimed, heartbeat, reply, resume, u32
from usbferry.protocols.events import Submit
from usbferry.protocols.limits import Limits
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status

OK = Status.OK
LIMITS = Limits(transfer_bytes=64, transfers=24, bytes_in_flight=1024)
IN, OUT, STALLED, LATER = 0x81, 0x02, 0x83, 0x84  # what the device does with the transfers of each endpoint
FIRST = 0x7FFFFFFC  # so that identifiers begin again at 0
assert usb  # its profile


class Kept:
    """A conversation, and what its replies are by the simplest table."""

    def __init__(self) -> None:
        self.talk = claimed(LIMITS)
        self.talk.at_once = self.answer
        self.ledger = self.talk.exporter._session.ledger
        self.ledger.expected = FIRST
        self.calls: dict[int, bytes] = {}  # all there ever were
        self.replies: dict[int, bytes] = {}  # that are not acknowledged, in the order in which they were given
        self.open: list[int] = []
        self.heartbeats = 0

    def answer(self, transfer: Transfer) -> Completion | None:
        if transfer.endpoint == IN:
            return Completion(OK, b"abcdefgh"[: transfer.length // 4])
        if transfer.endpoint == OUT:
            return Completion(OK, b"", transfer.length)
        return Completion(Status.STALL) if transfer.endpoint == STALLED else None

    @property
    def next(self) -> int:
        return FIRST + len(self.calls) & 0x7FFFFFFF

    def submit_some(self, endpoints: list[int], length: int) -> None:
        for endpoint in endpoints:
            self.submit(endpoint, length)

    def submit(self, endpoint: int, length: int) -> None:
        number = self.next
        if len(self.replies) + len(self.open) == LIMITS.transfers:
            return
        data = bytes(length) if endpoint == OUT else b""
        self.calls[number] = call = bulk(number, endpoint, length, data=data)
        self.talk.says(call)
        if endpoint == LATER:
            self.open.append(number)
            self.talk.hears()
            return
        said = {IN: reply(number, 0, b"abcdefgh"[: length // 4]), OUT: reply(number), STALLED: reply(number, 257)}
        self.replies[number] = said[endpoint]
        self.talk.hears(said[endpoint])

    def end(self, which: int) -> None:
        """Of one endpoint, so the oldest first."""
        if self.open:
            number = self.open.pop(0)
            self.replies[number] = reply(number, 0, b"x")
            self.talk.does(number, Completion(OK, b"x")).hears(self.replies[number])

    def acknowledge(self, back: int, count: int) -> None:
        """A run that begins so far back, and may have open calls in it, and such as are acknowledged."""
        since = len(self.calls) - back
        count = min(count, back)
        if since >= 0:
            first, last = FIRST + since & 0x7FFFFFFF, FIRST + since + count - 1 & 0x7FFFFFFF
            for number in list(self.calls)[since : since + count]:
                self.replies.pop(number, None)
            self.heartbeats += 1
            self.talk.says(heartbeat(T + 9 + self.heartbeats, first, last)).hears(reply(T + 9 + self.heartbeats))

    def repeat(self, which: int) -> None:
        if self.calls:
            number, call = list(self.calls.items())[which % len(self.calls)]
            again = reply(number, 5) if number in self.open else reply(number, 8)
            self.talk.says(call).hears(self.replies.get(number, again))

    def resume(self, keep: int) -> None:
        """Whose controller has every `keep`th reply not."""
        for at, number in enumerate(list(self.replies)):
            if at % keep:
                del self.replies[number]
        assert self.talk.loses_transport()
        named = sorted([*self.open, *self.replies], key=list(self.calls).index)
        self.talk.finds_transport().says(resume(T, named))
        self.talk.hears(reply(T, 0, u32(self.next)), *self.replies.values())

    def check(self) -> None:
        held = [self.calls[number] for number in (*self.open, *self.replies)]
        assert self.ledger.calls() == len(held)
        assert self.ledger.bytes == sum(int.from_bytes(call[12:16], "big") for call in held)


small = st.integers(0, 40)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just(Kept.submit_some),
            st.lists(st.sampled_from((IN, IN, IN, OUT, OUT, OUT, STALLED, LATER)), min_size=1, max_size=8),
            st.integers(1, 32),
        ),
        st.tuples(st.just(Kept.end), small),
        st.tuples(st.just(Kept.acknowledge), st.integers(1, 16), st.integers(1, 8)),
        st.tuples(st.just(Kept.repeat), small),
        st.tuples(st.just(Kept.resume), st.integers(1, 3)),
    ),
    min_size=8,
    max_size=30,
)


@pytest.mark.slow
@settings(max_examples=200)
@given(steps)
def test_what_is_kept_is_what_was_answered_and_not_acknowledged(steps):
    kept = Kept()
    for step, *how in steps:
        step(kept, *how)
        kept.check()


def answered(count: int) -> Talk:
    """The first calls were answered at once, so they are the tail."""
    talk = claimed()
    talk.at_once = lambda transfer: Completion(OK, b"", transfer.length)
    talk.says(*(bulk(n, OUT, data=bytes(n)) for n in range(1, count + 1))).hears(
        *(reply(n) for n in range(1, count + 1))
    )
    assert len(talk.exporter._session.ledger.costs) == count
    return talk


def test_the_tails_beginning_is_acknowledged():
    talk = answered(5).says(heartbeat(T + 5, 1, 3)).hears(reply(T + 5))
    ledger = talk.exporter._session.ledger
    assert (ledger.tail, ledger.costs, ledger.bytes) == (4, [4, 5], 9)


def test_what_is_in_the_tails_middle_is_acknowledged():
    talk = answered(5).says(heartbeat(T + 5, 2, 3)).hears(reply(T + 5))
    ledger = talk.exporter._session.ledger
    assert (list(ledger.replies), ledger.costs, ledger.bytes) == ([1, 4, 5], [], 10)


def test_what_is_answered_later_comes_behind_the_tail_and_before_the_next():
    talk = claimed().says(bulk(1, LATER, 8))
    talk.at_once = lambda transfer: Completion(OK, b"", transfer.length)
    talk.says(bulk(2, OUT, data=b"2")).does(1, Completion(OK, b"1")).says(bulk(3, OUT, data=b"3"))
    talk.hears(reply(2), reply(1, 0, b"1"), reply(3))
    assert talk.loses_transport()
    talk.finds_transport().says(resume(T, (1, 2, 3)))
    talk.hears(reply(T, 0, u32(4)), reply(2), reply(1, 0, b"1"), reply(3))


def test_an_event_is_given_again_only_once_it_was_answered():
    talk = claimed()
    talk.exporter.receive(memoryview(b"".join([bulk(n, OUT, data=b"x") for n in (1, 2, 3)])), 0.0)
    seen = []
    for event in talk.exporter.events():
        assert isinstance(event, Submit)
        seen.append(event)
        if event.tag == 1:
            talk.exporter.complete(1, Completion(OK, b"", 1))
            talk.exporter.complete(1, Completion(Status.STALL))  # it is ignored
    assert seen[0] is seen[1]
    assert [(event.tag, event.transfer.endpoint) for event in seen[1:]] == [(2, OUT), (3, OUT)]
    assert talk.exporter.in_flight == 2
