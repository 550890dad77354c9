"""One endpoint: order, NAKs, halts, cancels, failures of its handler, and the pace of its service interval."""

import asyncio
import logging
from collections import deque
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbferry.devices.clock import VirtualClock
from usbferry.devices.pipe import Pipe
from usbferry.usb.transfer import Completion, Flags, IsoPacket, Transfer
from usbferry.usb.tree import Companion, Endpoint
from usbferry.usb.types import Speed, Status, TransferType

OK, STALL, CANCELLED, FAILED = Status.OK, Status.STALL, Status.CANCELLED, Status.FAILED


class Handler:
    """Answers from a tape; where the tape is empty, a NAK. `asked` is what it was asked for."""

    def __init__(self, *tape):
        self.tape = deque(tape)
        self.asked = []

    def __call__(self, transfer):
        self.asked.append(transfer)
        answer = self.tape.popleft() if self.tape else None
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer


def bulk(handler, address=0x81):
    return Pipe(Endpoint(address, TransferType.BULK, 512), handler, Speed.HIGH, VirtualClock())


def interrupt(handler, clock, *, interval=1, size=64, speed=Speed.HIGH):
    return Pipe(Endpoint(0x81, TransferType.INTERRUPT, size, interval), handler, speed, clock)


def isochronous(handler, clock, *, interval=1, speed=Speed.HIGH):
    return Pipe(Endpoint(0x81, TransferType.ISOCHRONOUS, 1024, interval), handler, speed, clock)


def read(length=512, flags=0):
    return Transfer(0x81, length, flags=flags)


def stream(packets, size=8):
    """An isochronous read of so many packets."""
    return Transfer(0x81, packets * size, packets=[IsoPacket(i * size, size) for i in range(packets)])


def status_of(answer):
    """How a transfer ended, at once or later; None while it waits."""
    if isinstance(answer, Completion):
        return answer.status
    return answer.result().status if answer.done() else None


def statuses(*answers):
    return [status_of(answer) for answer in answers]


def future():
    return asyncio.get_running_loop().create_future()


async def turn():
    """Let the callbacks of finished futures run."""
    for _ in range(3):
        await asyncio.sleep(0)


# -- order and NAKs -----------------------------------------------------------------------------------------------


async def test_an_answer_at_once_when_nothing_waits():
    answer = Completion(OK, b"abc")
    assert bulk(Handler(answer)).submit(read()) is answer


async def test_a_nak_waits_for_a_kick():
    handler = Handler()
    pipe = bulk(handler)
    first, second = pipe.submit(read()), pipe.submit(read())
    pipe.kick()
    assert statuses(first, second) == [None, None]
    handler.tape += [Completion(OK, b"1"), Completion(OK, b"2")]
    pipe.kick()
    assert (first.result().data, second.result().data) == (b"1", b"2")
    assert len(pipe) == 0


async def test_only_the_head_is_asked():
    handler = Handler()
    pipe = bulk(handler)
    transfers = [read(), read(), read()]
    for transfer in transfers:
        pipe.submit(transfer)
    assert set(handler.asked) == {transfers[0]}


async def test_nothing_overtakes_what_waits():
    """The handler could answer the second transfer at once; it waits for the first."""
    work = future()
    pipe = bulk(Handler(work, Completion(OK, b"2")))
    first, second = pipe.submit(read()), pipe.submit(read())
    assert statuses(first, second) == [None, None]
    work.set_result(Completion(OK, b"1"))
    await turn()
    assert (first.result().data, second.result().data) == (b"1", b"2")
    assert isinstance(pipe.submit(read()), asyncio.Future), "the tape is empty: a NAK"


@pytest.mark.parametrize("how", ["kicked", "cancelled"])
async def test_what_waited_is_heard_of_before_what_is_answered_at_once(how):
    """Both in one turn of the loop, as when a host sends what a loopback gives back and asks for more behind it."""
    heard = []
    handler = Handler()
    pipe = bulk(handler)
    waits = read()
    pipe.submit(waits).hear(lambda completion: heard.append((completion.status, completion.data)))
    if how == "kicked":
        handler.tape += [Completion(OK, b"1"), Completion(OK, b"2")]
        pipe.kick()
    else:
        pipe.cancel(waits)
        handler.tape += [Completion(OK, b"2")]
    answered = pipe.submit(read())
    assert isinstance(answered, Completion)
    assert heard == [(OK, b"1") if how == "kicked" else (Status.CANCELLED, b"")]


async def test_an_empty_pipe_answers_at_once_again():
    work = future()
    pipe = bulk(Handler(work, Completion(OK, b"2")))
    pipe.submit(read())
    work.set_result(Completion(OK, b"1"))
    await turn()
    assert isinstance(pipe.submit(read()), Completion)


@pytest.mark.parametrize("lend", [bytearray, lambda raw: memoryview(bytearray(raw))])
async def test_a_lent_payload_is_copied_by_who_keeps_it(lend):
    handler = Handler()
    pipe = bulk(handler, 0x01)
    buffers = [lend(b"abcd"), lend(b"efgh")]
    for buffer in buffers:
        pipe.submit(Transfer(0x01, 4, buffer))
        buffer[:] = b"????"
    handler.asked.clear()
    handler.tape += [Completion(OK, b"", 4), Completion(OK, b"", 4)]
    pipe.kick()
    assert [transfer.data for transfer in handler.asked] == [b"abcd", b"efgh"]


async def test_a_handler_may_kick_its_own_pipe():
    handler = Handler()
    pipe = bulk(handler)

    def kicked():
        pipe.kick()
        return

    handler.tape += [kicked, Completion(OK, b"1")]
    first = pipe.submit(read())
    assert status_of(first) is None, "the kick came before it had anything to wait"
    handler.tape.clear()
    handler.tape += [kicked, Completion(OK, b"2")]
    pipe.kick()
    assert first.result().data == b"2"


async def test_a_transfer_is_not_submitted_twice():
    pipe, transfer = bulk(Handler()), read()
    pipe.submit(transfer)
    with pytest.raises(ValueError, match="twice"):
        pipe.submit(transfer)


# -- cancel ---------------------------------------------------------------------------------------------------------


async def test_a_waiting_transfer_is_cancelled_and_others_go_on():
    handler = Handler()
    pipe = bulk(handler)
    transfers = [read(), read(), read()]
    answers = [pipe.submit(transfer) for transfer in transfers]
    pipe.cancel(transfers[1])
    assert statuses(*answers) == [None, CANCELLED, None]
    pipe.cancel(transfers[0])
    assert statuses(*answers) == [CANCELLED, CANCELLED, None]
    assert handler.asked[-1] is transfers[2], "it is the head now"
    handler.tape.append(Completion(OK, b"3"))
    pipe.kick()
    assert answers[2].result().data == b"3"


async def test_a_cancelled_transfer_did_nothing():
    pipe, transfer = bulk(Handler()), read()
    answer = pipe.submit(transfer)
    pipe.cancel(transfer)
    assert (answer.result().actual, answer.result().data) == (0, b"")


async def test_what_a_handler_works_on_ends_with_its_real_result():
    work = future()
    pipe, transfer = bulk(Handler(work)), read()
    answer = pipe.submit(transfer)
    pipe.cancel(transfer)
    assert status_of(answer) is None
    work.set_result(Completion(OK, b"it happened"))
    await turn()
    assert answer.result().data == b"it happened"
    assert not work.cancelled()


async def test_a_cancel_of_what_is_done_or_unknown_does_nothing():
    pipe, transfer = bulk(Handler(Completion(OK, b"1"))), read()
    pipe.submit(transfer)
    pipe.cancel(transfer)
    pipe.cancel(read())
    waiting = read()
    answer = pipe.submit(waiting)
    pipe.cancel(waiting)
    pipe.cancel(waiting)
    assert status_of(answer) == CANCELLED


# -- halt -----------------------------------------------------------------------------------------------------------


async def test_a_halt_stalls_what_waits_and_what_comes_until_it_is_cleared():
    handler = Handler()
    pipe = bulk(handler)
    waiting = pipe.submit(read())
    pipe.halt()
    assert statuses(waiting, pipe.submit(read())) == [STALL, STALL]
    pipe.clear()
    handler.tape.append(Completion(OK, b"1"))
    assert statuses(pipe.submit(read())) == [OK]


async def test_clearing_resets_the_toggle_halted_or_not():
    pipe = bulk(Handler())
    pipe.clear()
    pipe.halt()
    pipe.clear()
    assert (pipe.toggle_resets, pipe.halted) == (2, False)


async def test_a_halt_leaves_the_transfer_that_is_worked_on():
    work = future()
    pipe = bulk(Handler(work))
    head, behind = pipe.submit(read()), pipe.submit(read())
    pipe.halt()
    late = pipe.submit(read())
    assert statuses(head, behind, late) == [None, None, None], "in order"
    work.set_result(Completion(OK, b"1"))
    await turn()
    assert statuses(head, behind, late) == [OK, STALL, STALL]


async def test_a_handler_that_halts_and_then_naks_stalled():
    handler = Handler()
    pipe = bulk(handler)
    handler.tape.append(pipe.halt)
    assert statuses(pipe.submit(read())) == [STALL]


# -- handlers that fail -------------------------------------------------------------------------------------------


async def test_a_handler_that_raises_fails_its_transfer_alone(caplog):
    pipe = bulk(Handler(RuntimeError("broken"), Completion(OK, b"2")))
    assert statuses(pipe.submit(read()), pipe.submit(read())) == [FAILED, OK]
    assert "endpoint 81 failed over in 81 512" in caplog.text


async def test_a_handler_that_raises_when_kicked_does_not_wedge_its_endpoint(caplog):
    """Once the exception went to whoever kicked, and the transfer stayed at the head for ever."""
    handler = Handler()
    pipe = bulk(handler)
    first, second = pipe.submit(read()), pipe.submit(read())
    handler.tape += [RuntimeError("broken"), Completion(OK, b"2")]
    pipe.kick()
    assert statuses(first, second) == [FAILED, OK]
    assert "broken" in caplog.text


@pytest.mark.parametrize("failure", [RuntimeError("broken"), None], ids=["raises", "is cancelled"])
async def test_work_that_fails_is_a_result(failure, caplog):
    works = [future(), future()]
    pipe = bulk(Handler(*works))
    first, second = pipe.submit(read()), pipe.submit(read())
    works[0].set_exception(failure) if failure else works[0].cancel()
    await turn()
    works[1].set_result(Completion(OK, b"2"))
    await turn()
    assert statuses(first, second) == [FAILED, OK]


@pytest.mark.parametrize("nonsense", [b"abc", 0, [Completion(OK)]])
async def test_a_handler_that_answers_nonsense_failed(nonsense, caplog):
    pipe = bulk(Handler(nonsense, None))
    first, second = pipe.submit(read()), pipe.submit(read())
    assert statuses(first, second) == [FAILED, None]
    assert repr(nonsense) in caplog.text


async def test_work_that_ends_with_nonsense_failed(caplog):
    work = future()
    pipe = bulk(Handler(work))
    answer = pipe.submit(read())
    work.set_result(b"abc")
    await turn()
    assert status_of(answer) == FAILED


# -- flush and death ----------------------------------------------------------------------------------------------


async def test_a_flush_ends_everything_and_late_work_is_ignored(caplog):
    work = future()
    pipe = bulk(Handler(work, Completion(OK, b"next")))
    answers = [pipe.submit(read()), pipe.submit(read())]
    pipe.flush(Status.SHUTDOWN)
    assert statuses(*answers) == [Status.SHUTDOWN, Status.SHUTDOWN]
    work.set_exception(RuntimeError("too late"))
    await turn()
    assert statuses(pipe.submit(read())) == [OK]


async def test_a_dead_pipe_says_why():
    pipe = bulk(Handler())
    waiting = pipe.submit(read())
    pipe.flush(Status.GONE, dead=True)
    pipe.kick()
    assert statuses(waiting, pipe.submit(read()), pipe.submit(stream(2))) == [Status.GONE] * 3


@pytest.mark.parametrize("answer", [Completion(OK, b"late"), None, future], ids=["answers", "naks", "works"])
@pytest.mark.parametrize("waits", [False, True])
async def test_a_handler_that_kills_its_own_pipe(answer, waits):
    """Unplugged by its own handler: once an IndexError, or a transfer that never ended."""
    handler = Handler()
    pipe = bulk(handler)
    answers = [pipe.submit(read())] if waits else []

    def die():
        pipe.flush(Status.GONE, dead=True)
        return answer() if callable(answer) else answer

    handler.tape.append(die)
    if waits:
        pipe.kick()
    else:
        answers.append(pipe.submit(read()))
    assert status_of(answers[0]) == (Status.OK if not waits and isinstance(answer, Completion) else Status.GONE)
    assert status_of(pipe.submit(read())) == Status.GONE


# -- transfers that do not fit ------------------------------------------------------------------------------------


async def test_packets_are_for_isochronous_endpoints_and_only_for_them():
    clock, handler = VirtualClock(), Handler()
    assert status_of(bulk(handler).submit(stream(2))) == Status.INVALID
    assert status_of(interrupt(handler, clock).submit(stream(2))) == Status.INVALID
    assert status_of(isochronous(handler, clock).submit(read())) == Status.INVALID
    assert handler.asked == []


async def test_a_misfit_is_refused_in_its_order():
    pipe = bulk(Handler())
    head = read()
    waiting, misfit = pipe.submit(head), pipe.submit(stream(2))
    assert statuses(waiting, misfit) == [None, None]
    pipe.cancel(head)
    assert statuses(waiting, misfit) == [CANCELLED, Status.INVALID]


@pytest.mark.parametrize(
    ("got", "flags", "status"),
    [
        (8, Flags.SHORT_NOT_OK, OK),
        (7, Flags.SHORT_NOT_OK, Status.SHORT),
        (0, Flags.SHORT_NOT_OK, Status.SHORT),
        (7, 0, OK),
    ],
)
@pytest.mark.parametrize("waits", [False, True])
async def test_short_not_ok(got, flags, status, waits):
    handler = Handler(*[None] * waits, Completion(OK, bytes(got)))
    pipe = bulk(handler)
    answer = pipe.submit(read(8, flags))
    pipe.kick()
    answer = await answer if waits else answer
    assert (answer.status, answer.actual, len(answer.data)) == (status, got, got)


async def test_short_not_ok_leaves_other_failures_and_out_alone():
    assert status_of(bulk(Handler(Completion(STALL))).submit(read(8, Flags.SHORT_NOT_OK))) == STALL
    out = Transfer(0x01, 8, bytes(8), flags=Flags.SHORT_NOT_OK)
    assert status_of(bulk(Handler(Completion(OK, b"", 4)), 0x01).submit(out)) == OK


# -- pace -----------------------------------------------------------------------------------------------------------

US = 1e-6


async def reports(pipe, clock, seconds, queued=4):
    """Keep some reads queued for so long; the times at which they ended."""
    times = []

    def again(done=None):
        if done is not None:
            times.append(clock.now())
        pipe.submit(read(64)).add_done_callback(again)

    for _ in range(queued):
        again()
    steps = round(seconds / (62.5 * US))
    for _ in range(steps):
        await turn()
        clock.advance(62.5 * US)
    return times


@pytest.mark.parametrize(
    ("speed", "interval", "seconds"),
    [(Speed.HIGH, 1, 125 * US), (Speed.HIGH, 4, 0.001), (Speed.FULL, 1, 0.001), (Speed.SUPER, 2, 250 * US)],
)
@pytest.mark.parametrize("works", [False, True], ids=["at once", "later"])
async def test_an_interrupt_endpoint_answers_once_an_interval(speed, interval, seconds, works):
    """A handler that answers later was not paced at all once."""
    clock = VirtualClock()

    def answer(transfer):
        if not works:
            return Completion(OK, bytes(64))
        work = future()
        work.set_result(Completion(OK, bytes(64)))
        return work

    pipe = interrupt(answer, clock, interval=interval, speed=speed)
    times = await reports(pipe, clock, 0.02)
    assert len(times) == pytest.approx(0.02 / seconds, abs=2)


async def test_an_interrupt_transfer_of_several_packets_takes_as_many_intervals():
    clock = VirtualClock()
    pipe = interrupt(lambda transfer: Completion(OK, bytes(transfer.length)), clock, size=64)
    first, second = pipe.submit(read(640)), pipe.submit(read(640))
    assert statuses(first, second) == [OK, None]
    clock.advance(1249 * US)
    assert status_of(second) is None
    clock.advance(2 * US)
    assert status_of(second) == OK


async def test_a_super_speed_interrupt_endpoint_is_paced_by_its_bytes_per_interval():
    clock = VirtualClock()
    endpoint = Endpoint(0x81, TransferType.INTERRUPT, 1024, 1, Companion(2, 0, 3072))
    pipe = Pipe(endpoint, lambda transfer: Completion(OK, bytes(transfer.length)), Speed.SUPER, clock)
    first, second = pipe.submit(read(3072)), pipe.submit(read(3072))
    clock.advance(125 * US)
    assert statuses(first, second) == [OK, OK]


async def test_an_isochronous_transfer_ends_when_its_last_packet_does():
    clock, handler = VirtualClock(), Handler(*[Completion(OK, b"", packets=[])] * 3)
    pipe = isochronous(handler, clock)
    first, second = pipe.submit(stream(8)), pipe.submit(stream(16))
    clock.advance(0.000999)
    assert statuses(first, second) == [None, None]
    clock.advance(0.000002)
    assert statuses(first, second) == [OK, None]
    clock.advance(0.0019)
    assert status_of(second) is None
    clock.advance(0.0002)
    assert status_of(second) == OK


async def test_an_isochronous_stream_keeps_its_rate():
    clock = VirtualClock()
    pipe = isochronous(lambda transfer: Completion(OK, b"", packets=transfer.packets), clock)
    ended = []

    def again(done=None):
        if done is not None:
            ended.append(clock.now())
        pipe.submit(stream(8)).add_done_callback(again)

    again()
    again()
    for _ in range(1000):
        await turn()
        clock.advance(0.0003)  # the test's own grain, coarse on purpose
    await turn()
    assert len(ended) == pytest.approx(300, abs=2)


async def test_a_long_isochronous_transfer_ends_at_all():
    """Of more than a tenth of a second: it was found late each time its timer rang, and started afresh."""
    clock = VirtualClock()
    pipe = isochronous(lambda transfer: Completion(OK, b"", packets=transfer.packets), clock, speed=Speed.FULL)
    first, second = pipe.submit(stream(1000)), pipe.submit(stream(1000))
    clock.advance(1.001)
    assert statuses(first, second) == [OK, None]
    clock.advance(1.0)
    assert status_of(second) == OK, "and the next one follows it without a gap"


async def test_an_isochronous_endpoint_that_ran_dry_starts_again_now():
    clock = VirtualClock()
    pipe = isochronous(lambda transfer: Completion(OK, b"", packets=transfer.packets), clock)
    pipe.submit(stream(8))
    clock.advance(60)
    late = pipe.submit(stream(8))
    assert status_of(late) is None, "it does not catch up a minute"
    clock.advance(0.0011)
    assert status_of(late) == OK


async def test_the_next_is_not_late_when_a_longer_head_is_cancelled():
    """Its timer rang at the cancelled one's time."""
    clock = VirtualClock()
    pipe = isochronous(lambda transfer: Completion(OK, b"", packets=transfer.packets), clock)
    long, short = stream(700), stream(8)
    answers = [pipe.submit(long), pipe.submit(short)]
    pipe.cancel(long)
    clock.advance(0.002)
    assert statuses(*answers) == [CANCELLED, OK]


async def test_a_flushed_pipe_leaves_no_timer():
    clock, handler = VirtualClock(), Handler()
    pipe = isochronous(handler, clock)
    pipe.submit(stream(8))
    pipe.flush(Status.GONE, dead=True)
    clock.advance(1)
    assert handler.asked == []


# -- whatever happens ---------------------------------------------------------------------------------------------

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from(["answer", "nak", "work", "raise", "halt"])),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.sampled_from(["kick", "halt", "clear", "flush", "turn"]), st.just(0)),
        st.tuples(st.just("finish"), st.integers(0, 5)),
    ),
    max_size=40,
)


@given(OPERATIONS)
def test_every_transfer_ends_once_and_in_order(operations):
    """In order, but for those cancelled; and a transfer that waits has a reason to."""
    logging.disable(logging.CRITICAL)
    try:
        asyncio.run(_live(operations))
    finally:
        logging.disable(logging.NOTSET)


async def _live(operations):
    handler, works, ended, transfers, cancelled = Handler(), [], [], [], set()
    pipe = bulk(handler)

    def work():
        works.append(future())
        return works[-1]

    answers = {
        "answer": Completion(OK, b"x"),
        "nak": None,
        "work": work,
        "raise": RuntimeError("broken"),
        "halt": lambda: pipe.halt(),
    }
    for what, number in operations:
        if what == "submit":
            handler.tape.append(answers[number])
            transfers.append(read())
            answer = pipe.submit(transfers[-1])
            if isinstance(answer, Completion):
                assert len(ended) + len(cancelled) == len(transfers) - 1, "at once only when nothing waits"
                ended.append(len(transfers) - 1)
            else:
                answer.add_done_callback(partial(_note, ended, cancelled, len(transfers) - 1))
        elif what == "cancel" and number < len(transfers):
            pipe.cancel(transfers[number])
        elif what == "finish" and number < len(works) and not works[number].done():
            works[number].set_result(Completion(OK, b"worked"))
        elif what == "flush":
            pipe.flush(Status.SHUTDOWN)
        elif what in ("kick", "halt", "clear"):
            getattr(pipe, what)()
        await turn()
    handler.tape = deque([Completion(OK)] * len(transfers))
    pipe.clear()
    await turn()
    for one in works:
        if not one.done():
            one.set_result(Completion(OK))
        await turn()
    assert sorted([*ended, *cancelled]) == list(range(len(transfers)))
    assert ended == sorted(ended)
    assert len(pipe) == 0


def _note(ended, cancelled, number, done):
    cancelled.add(number) if done.result().status == CANCELLED else ended.append(number)
