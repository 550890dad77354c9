"""Transfers in flight, against a model: order, who wins a cancel, exactly one answer."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from usbferry.protocols.pending import Entry, Pending
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status


def transfer(endpoint=0x81, length=0, stream_id=0):
    return Transfer(endpoint, length, stream_id=stream_id)


def tags(entries):
    return [entry.tag for entry in entries]


# -- the rules, one at a time -------------------------------------------------------------------------------------


def test_answers_leave_in_the_order_of_submission():
    pending = Pending()
    for tag in (1, 2, 3):
        pending.add(Entry(tag, transfer()))
    assert tags(pending.finish(2, Completion())) == []
    assert tags(pending.finish(3, Completion())) == []
    assert tags(pending.finish(1, Completion())) == [1, 2, 3]
    assert len(pending) == 0


@pytest.mark.parametrize("other", [transfer(0x82), transfer(0x01), transfer(0x81, stream_id=1)])
def test_other_endpoints_and_streams_are_not_held_back(other):
    pending = Pending()
    pending.add(Entry(1, transfer()))
    pending.add(Entry(2, other))
    assert pending.waits_on(transfer())
    assert tags(pending.finish(2, Completion())) == [2]


def test_a_tag_is_in_flight_once():
    pending = Pending()
    pending.add(Entry(1, transfer()))
    with pytest.raises(ValueError, match="in flight already"):
        pending.add(Entry(1, transfer(0x02)))
    pending.finish(1, Completion())
    pending.add(Entry(1, transfer()))


def test_what_is_finished_twice_or_unknown_has_no_answer():
    pending = Pending()
    pending.add(Entry(1, transfer()))
    pending.add(Entry(2, transfer()))
    pending.finish(2, Completion(Status.OK, b"first"))
    assert pending.finish(2, Completion(Status.STALL)) == []
    assert pending.finish(3, Completion()) == []
    assert pending.finish(1, Completion())[1].completion.data == b"first"
    assert pending.finish(1, Completion()) == []


def test_a_cancelled_transfer_leaves_the_order_at_once():
    """Hosts kill the last of a queue first and wait for it: behind a parked one it would never end."""
    pending = Pending()
    for tag in (1, 2, 3):
        pending.add(Entry(tag, transfer()))
    pending.cancel(3, 13)
    (entry,) = pending.finish(3, Completion(Status.CANCELLED))
    assert (entry.tag, entry.cancels) == (3, (13,))
    assert tags(pending.finish(1, Completion())) == [1]


def test_what_waited_for_a_cancelled_transfer_goes_on():
    pending = Pending()
    for tag in (1, 2, 3):
        pending.add(Entry(tag, transfer()))
    pending.finish(2, Completion())
    pending.finish(3, Completion())
    pending.cancel(1, 11)
    assert tags(pending.finish(1, Completion(Status.CANCELLED))) == [1, 2, 3]


def test_a_cancel_of_a_held_back_completion_releases_it_with_its_result():
    pending = Pending()
    for tag in (1, 2, 3):
        pending.add(Entry(tag, transfer()))
    pending.finish(2, Completion(Status.OK, b"done"))
    entry = pending.cancel(2, 12)
    assert entry.completion.data == b"done"
    pending.release(entry)
    assert 2 not in pending
    assert pending.cancel(2, 13) is None, "it has been answered"
    pending.finish(3, Completion())
    assert tags(pending.finish(1, Completion())) == [1, 3]


def test_what_is_held_back_is_no_view_of_what_is_used_again():
    """A gateway lends what it has read until the end of a turn, and an earlier transfer may be parked for minutes."""
    pending, buffer = Pending(), bytearray(b"done")
    for tag in (1, 2):
        pending.add(Entry(tag, transfer()))
    assert pending.finish(2, Completion(Status.OK, memoryview(buffer))) == []
    buffer[:] = b"else"
    _, held = pending.finish(1, Completion())
    assert held.completion.data == b"done"


def test_bytes_are_those_of_what_has_no_answer():
    pending = Pending()
    pending.add(Entry(1, transfer(0x81, 100)))
    pending.add(Entry(2, transfer(0x02, 50)))
    assert pending.bytes == 150
    pending.finish(1, Completion())
    assert pending.bytes == 50
    pending.cancel(2, 12)
    pending.finish(2, Completion(Status.CANCELLED))
    assert pending.bytes == 0


def test_endpoints_that_are_done_with_cost_nothing():
    """A peer that used a new stream for each transfer once left a queue behind for each."""
    pending = Pending()
    for number in range(1000):
        pending.add(Entry(number, transfer(0x81, 1, stream_id=number)))
        pending.finish(number, Completion())
    for number in range(1000):
        pending.add(Entry(number, transfer(0x81, 1, stream_id=number)))
        pending.cancel(number, 10_000 + number)
        pending.finish(number, Completion(Status.CANCELLED))
    assert pending._queues == {}


# -- against a model ------------------------------------------------------------------------------------------------


class Life(RuleBasedStateMachine):
    """The model is a list of what is in flight, in order; each has what the device said and who asked for its end."""

    flying = Bundle("flying")
    over = Bundle("over")

    def __init__(self):
        super().__init__()
        self.pending = Pending()
        self.model = {}  # tag -> [key, completion, cancels], in order of submission
        self.answered = {}  # tag -> (completion, cancels)
        self.next = 0

    def check(self, entries, expected):
        assert tags(entries) == expected
        for entry in entries:
            _, completion, cancels = self.model.pop(entry.tag)
            assert entry.tag not in self.answered, "one answer"
            assert entry.completion is completion, "the device's word is the truth"
            assert list(entry.cancels) == cancels, "each cancel is answered with its transfer, once"
            self.answered[entry.tag] = entry

    @rule(
        target=flying,
        endpoint=st.sampled_from([0x00, 0x01, 0x81]),
        stream=st.sampled_from([0, 0, 1]),
        size=st.integers(0, 9),
    )
    def submit(self, endpoint, stream, size):
        tag, self.next = self.next, self.next + 1
        one = transfer(endpoint, size, stream)
        earlier = any(key == (endpoint, stream) for key, _, _ in self.model.values())
        assert self.pending.waits_on(one) == earlier
        self.pending.add(Entry(tag, one))
        self.model[tag] = [(endpoint, stream), None, []]
        return tag

    @rule(target=over, tag=consumes(flying), status=st.sampled_from([Status.OK, Status.STALL, Status.CANCELLED]))
    def finish(self, tag, status):
        if tag in self.model:
            self.end(tag, status)
        else:
            assert self.pending.finish(tag, Completion(status)) == []
        return tag

    @rule(target=over, tag=consumes(flying))
    def finish_alone(self, tag):
        """What exporters try first: it ends what nobody cancelled, that is next, and that holds nothing back."""
        if tag not in self.model or self.model[tag][1] is not None:
            assert self.pending.finish_alone(tag) is None
            return tag
        key, _, cancels = self.model[tag]
        done = {**self.model, tag: [key, Completion(), cancels]}
        if cancels or self.ready(done, key) != [tag]:
            assert self.pending.finish_alone(tag) is None
            self.end(tag, Status.OK)
        else:
            assert self.pending.finish_alone(tag).tag == tag
            assert tag not in self.pending
            del self.model[tag]
        return tag

    def end(self, tag, status):
        """A cancelled transfer leaves at once, and then those behind it that are done; others leave in order."""
        key, _, cancels = entry = self.model[tag]
        entry[1] = Completion(status)
        if cancels:
            rest = {other: values for other, values in self.model.items() if other != tag}
            expected = [tag, *self.ready(rest, key)]
        else:
            expected = self.ready(self.model, key)
        self.check(self.pending.finish(tag, entry[1]), expected)

    @staticmethod
    def ready(model, key):
        """Those of one endpoint and stream that may leave: the finished ones at the front."""
        found = []
        for tag, (place, completion, _) in model.items():
            if place == key:
                if completion is None:
                    break
                found.append(tag)
        return found

    @rule(tag=st.one_of(flying, over))
    def cancel(self, tag):
        cancel_tag, self.next = self.next, self.next + 1
        entry = self.pending.cancel(tag, cancel_tag)
        if tag not in self.model:
            assert entry is None, "it has been answered"
            return
        self.model[tag][2].append(cancel_tag)
        if entry.completion is None:
            assert self.model[tag][1] is None
        else:
            self.pending.release(entry)
            self.check([entry], [tag])

    @rule(tag=over)
    def finish_again(self, tag):
        if tag not in self.model or self.model[tag][1] is not None:
            assert self.pending.finish(tag, Completion(Status.STALL)) == []

    @precondition(lambda self: self.model)
    @rule(target=over)
    def finish_all(self):
        for tag in list(self.model):
            if tag in self.model and self.model[tag][1] is None:
                self.end(tag, Status.OK)
        assert not self.model
        return multiple()

    @invariant()
    def the_same_are_in_flight(self):
        assert [entry.tag for entry in self.pending] == list(self.model)
        assert len(self.pending) == len(self.model)
        assert all(tag in self.pending for tag in self.model)
        assert not any(tag in self.pending for tag in self.answered)
        assert self.pending.bytes == sum(entry.transfer.length for entry in self.pending)
        assert {key if key[1] else key[0] for key, _, _ in self.model.values()} == set(self.pending._queues)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=40)
