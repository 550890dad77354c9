"""Transfers behind barriers: what waits, in which order it goes on, and what ends it early."""

import asyncio

import pytest

from usbferry.devices.gate import DirectGate, Gate
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status

A, B = frozenset({0x81}), frozenset({0x81, 0x02})


class Bench:
    """A gate, the requests it waits for, and what went on."""

    def __init__(self):
        self.gone_on, self.moves = [], 0
        self.gate = Gate(self.go, self.moved)

    def go(self, transfer):
        self.gone_on.append(transfer)
        return Completion(Status.OK, b"", transfer.length)

    def moved(self):
        self.moves += 1

    def barrier(self, addresses):
        request = Transfer(0x00, 0)
        self.gate.put_up(request, addresses)
        return request


def transfers(count):
    return [Transfer(0x02, number, bytes(number)) for number in range(count)]


async def test_what_came_behind_a_barrier_goes_on_in_order_when_it_ends():
    bench = Bench()
    request, many = bench.barrier(B), transfers(3)
    answers = [bench.gate.submit(transfer) for transfer in many]
    assert (bench.gone_on, bench.gate.addresses()) == ([], {0x81, 0x02})
    bench.gate.ended(request)
    assert (bench.gone_on, bench.gate.addresses(), bench.moves) == (many, set(), 1)
    assert [answer.result().actual for answer in answers] == [0, 1, 2]


async def test_each_waits_for_the_last_barrier_before_it():
    bench = Bench()
    first, one, two = bench.barrier(A), *transfers(2)
    bench.gate.submit(one)
    second = bench.barrier(B)
    bench.gate.submit(two)
    bench.gate.ended(first)
    assert (bench.gone_on, bench.gate.addresses()) == ([one], {0x81, 0x02})
    bench.gate.ended(second)
    assert bench.gone_on == [one, two]


async def test_what_a_later_barrier_holds_is_not_overtaken_once_its_own_has_ended():
    bench = Bench()
    first, second = bench.barrier(A), bench.barrier(frozenset({0x02}))
    bench.gate.submit(Transfer(0x81, 8))
    bench.gate.ended(first)
    assert (bench.gone_on, bench.gate.addresses(), bench.gate.barred()) == ([], {0x81, 0x02}, {0x02})
    bench.gate.ended(second)
    assert (len(bench.gone_on), bench.gate.addresses()) == (1, set())


async def test_a_barrier_that_is_cancelled_before_its_turn_frees_nothing():
    bench = Bench()
    first, one, two = bench.barrier(A), *transfers(2)
    bench.gate.submit(one)
    second = bench.barrier(B)
    bench.gate.submit(two)
    bench.gate.ended(second)
    assert (bench.gone_on, bench.gate.barred()) == ([], {0x81})
    assert bench.gate.addresses() == {0x81, 0x02}, "or a later transfer would come before those"
    bench.gate.ended(first)
    assert bench.gone_on == [one, two]


async def test_a_held_transfer_is_cancelled():
    bench = Bench()
    request, (one, two) = bench.barrier(A), transfers(2)
    answers = [bench.gate.submit(transfer) for transfer in (one, two)]
    assert [bench.gate.cancel(t) for t in (one, one, Transfer(0x81, 0))] == [True, False, False]
    assert answers[0].result().status == Status.CANCELLED
    bench.gate.ended(request)
    assert bench.gone_on == [two]


async def test_a_flush_ends_all_and_late_ends_are_ignored():
    bench = Bench()
    requests = [bench.barrier(A), bench.barrier(B)]
    answer = bench.gate.submit(Transfer(0x81, 0))
    bench.gate.flush(Status.GONE)
    assert (answer.result().status, bench.gate.addresses()) == (Status.GONE, set())
    for request in requests:
        bench.gate.ended(request)
    assert (bench.gone_on, bench.moves) == ([], 1)


async def test_a_held_payload_is_copied():
    bench = Bench()
    request, buffer = bench.barrier(A), bytearray(b"abcd")
    bench.gate.submit(Transfer(0x02, 4, memoryview(buffer)))
    buffer[:] = b"????"
    bench.gate.ended(request)
    assert bench.gone_on[0].data == b"abcd"


async def test_who_goes_on_may_still_wait():
    bench = Bench()
    work = asyncio.get_running_loop().create_future()
    bench.gate._go = lambda transfer: work
    request = bench.barrier(A)
    answer = bench.gate.submit(Transfer(0x81, 8))
    bench.gate.ended(request)
    assert not answer.done()
    work.set_result(Completion(Status.OK, b"12345678"))
    await asyncio.sleep(0)
    assert answer.result().data == b"12345678"


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("error", [ValueError("its parts do not fit"), RuntimeError("broken")])
async def test_what_is_wrong_with_one_that_waited_ends_it_alone(direct, error, caplog):
    def go(transfer, answer=None):
        if transfer.length == 1:
            raise error
        return Completion(Status.OK, b"", transfer.length)

    bench = Bench()
    bench.gate = (DirectGate if direct else Gate)(go, bench.moved)
    request = bench.barrier(B)
    answers = [bench.gate.submit(transfer) for transfer in transfers(3)]
    bench.gate.ended(request)
    assert [answer.result().status for answer in answers] == [Status.OK, Status.INVALID, Status.OK]
    assert ("broken" in caplog.text) == isinstance(error, RuntimeError)
