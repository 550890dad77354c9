"""The pump between one importer and one device: answers, failures, leaving, stopping, and whose turn it is."""

import asyncio
import contextlib
import logging
import math

import pytest

from tests.devices.host import turn
from tests.protocols.usbip.wire import (
    ECONNRESET,
    ENODEV,
    EPROTO,
    ESHUTDOWN,
    IN,
    OUT,
    control,
    op,
    op_import,
    ret_submit,
    ret_unlink,
    unlink,
)
from tests.protocols.usbip.wire import submit as _submit
from tests.server.fakes import Puppet, Shelf, Wire
from usbferry.device import Busy, DeviceError, NotFound, Promise, ResetOutcome, Unavailable
from usbferry.devices.clock import LoopClock
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.events import AllocStreams, FreeStreams, Note, Suspend, Wake, Watch
from usbferry.protocols.limits import Limits
from usbferry.protocols.usbip.exporter import Exporter
from usbferry.server import pump as module
from usbferry.server.catalog import Catalog
from usbferry.server.pump import Pump
from usbferry.usb.transfer import Completion
from usbferry.usb.types import Status

DEVID = 1 << 16 | 2
PORT_RESET = "23 03 04 00 01 00 00 00"


def submit(*args, **options):
    return _submit(*args, devid=DEVID, **options)


def request(seqnum, setup):
    return control(seqnum, setup).replace(bytes.fromhex("0001000f"), DEVID.to_bytes(4, "big"))


def cut(seqnum, target):
    return unlink(seqnum, target, devid=DEVID)


class Bench:
    """A pump, the link it is on, and the device behind it."""

    def __init__(self, group, limits, shelf):
        self.shelf, self.catalog, self.ended = shelf, Catalog(), []
        self.pump = Pump(
            Exporter(limits, group._loop.time()),
            self.catalog,
            {},
            group.create_task,
            self.ended.append,
            clock=LoopClock(math.inf),
        )
        self.link = Wire(self.pump)

    @property
    def device(self):
        return self.shelf.opened[-1]

    async def import_(self):
        self.link.feed(op_import())
        await turn()
        assert len(self.link.heard()) == 320


@contextlib.asynccontextmanager
async def working(limits=None, *, imported=True):
    async with asyncio.TaskGroup() as group:
        bench = Bench(group, limits or Limits(), Shelf("zero"))
        await bench.catalog.add(bench.shelf)
        if imported:
            await bench.import_()
        yield bench
        bench.link.close()
        await turn()


@pytest.fixture
async def bench():
    async with working() as made:
        yield made


@pytest.fixture
async def fresh():
    """Connected, and nothing asked yet."""
    async with working(imported=False) as made:
        yield made


def taken(transfer):
    return Completion(Status.OK, b"x" * transfer.length if transfer.is_in else b"", transfer.length)


# -- answers --------------------------------------------------------------------------------------------------------


async def test_answers_at_once_leave_in_one_write(bench):
    bench.device.answer = taken
    bench.link.feed(b"".join(submit(n, IN, 1, 1) for n in range(3)))
    assert bench.link.writes == [b"".join(ret_submit(n, data=b"x") for n in range(3))]


async def test_a_promise_that_is_kept_already_is_said_in_its_order(bench):
    def kept(transfer):
        bench.device.answer = taken  # the one behind it is known at once
        promise = Promise()
        promise.fulfil(taken(transfer))
        return promise

    bench.device.answer = kept
    bench.link.feed(submit(1, IN, 1, 1) + submit(2, IN, 1, 1))
    await turn()
    assert bench.link.heard() == ret_submit(1, data=b"x") + ret_submit(2, data=b"x")
    assert not bench.pump._out._awaited


async def test_answers_of_one_turn_leave_in_one_write(bench):
    bench.link.feed(b"".join(submit(n, IN, n, 1) for n in (1, 2, 3)))
    assert bench.link.writes == []
    for _ in range(3):
        bench.device.finish(at=-1)
    await turn()
    assert bench.link.writes == [b"".join(ret_submit(n, data=b"x") for n in (3, 2, 1))]


async def test_many_bytes_leave_as_they_come(bench, monkeypatch):
    monkeypatch.setattr(module, "_BATCH_BYTES", 100)
    bench.device.answer = taken
    bench.link.feed(b"".join(submit(n, IN, 1, 60) for n in range(4)))
    assert bench.link.writes == [ret_submit(n, data=b"x" * 60) for n in range(4)]


async def test_a_list_names_what_there_is_and_closes(fresh):
    fresh.link.feed(op(0x8005))
    assert fresh.link.heard()[:12] == op(0x0005, (1).to_bytes(4, "big"))
    assert fresh.link.is_closed


async def test_each_way_one_line(bench, caplog):
    caplog.set_level(logging.DEBUG, "usbferry.server")
    bench.device.answer = taken
    bench.link.feed(submit(42, IN, 1, 13))
    bench.device.answer = lambda transfer: None
    bench.link.feed(submit(43, IN, 1, 8) + cut(44, 43) + request(45, PORT_RESET))
    await turn()
    lines = [record.getMessage() for record in caplog.records if record.getMessage()[0] in "<>"]
    assert lines == [
        "> 1-1 #42 in 81 13",
        "< 1-1 #42 ok 13",
        "> 1-1 #43 in 81 8",
        "> 1-1 cancel #43",
        "> 1-1 reset #45",
        "< 1-1 #43 cancelled 0",
    ]


async def test_a_cancel_is_a_request(bench):
    bench.link.feed(submit(1, IN, 1, 8) + cut(2, 1))
    await turn()
    assert (bench.device.log, bench.link.heard()) == (["cancel"], ret_unlink(2, ECONNRESET))


async def test_a_cancel_that_comes_too_late(bench):
    bench.link.feed(submit(1, IN, 1, 4))
    bench.device.finish(Completion(Status.OK, b"done"))
    bench.link.feed(cut(2, 1))
    await turn()
    assert bench.link.heard() == ret_submit(1, data=b"done") + ret_unlink(2)


# -- devices that fail ----------------------------------------------------------------------------------------------


async def test_a_device_that_raises_over_a_transfer_failed_it_alone(bench, caplog):
    def fail(transfer):
        raise RuntimeError("broken")

    bench.device.answer = fail
    bench.link.feed(submit(1, IN, 1, 8))
    bench.device.answer = taken
    bench.link.feed(submit(2, IN, 1, 1))
    assert bench.link.heard() == ret_submit(1, EPROTO) + ret_submit(2, data=b"x")
    assert "1-1 failed over #1" in caplog.text


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_future_that_fails_is_a_failed_transfer(bench, caplog, cancelled):
    bench.link.feed(submit(1, IN, 1, 8))
    (future,) = bench.device.parked.values()
    future.cancel() if cancelled else future.set_exception(RuntimeError("broken"))
    await turn()
    assert bench.link.heard() == ret_submit(1, EPROTO)
    assert "failed over #1" in caplog.text
    bench.device.parked.clear()


@pytest.mark.parametrize("kind", [Promise, asyncio.Future])
async def test_an_exporter_that_fails_over_a_completion_is_owed_nothing(bench, caplog, monkeypatch, kind):
    """It was counted as not answered for ever, so each close waited for it and told of it."""

    def fail(tag, completion):
        raise RuntimeError("broken")

    lost = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: lost.append(context["exception"]))
    future = kind()
    bench.device.answer = lambda transfer: future
    bench.link.feed(submit(1, IN, 1, 1))
    monkeypatch.setattr(bench.pump._out._exporter, "complete", fail)
    future.fulfil(Completion()) if kind is Promise else future.set_result(Completion())
    await turn()
    async with asyncio.timeout(0.5):
        await bench.pump._out.settle()
    assert ("a completion was not taken" in caplog.text) == (kind is Promise)
    assert [str(error) for error in lost] == ([] if kind is Promise else ["broken"])
    assert "owes" not in caplog.text


async def test_a_device_that_raises_over_a_cancel_still_answers(bench, caplog):
    def fail(transfer):
        raise RuntimeError("broken")

    bench.device.cancel = fail
    bench.link.feed(submit(1, IN, 1, 1) + cut(2, 1))
    bench.device.finish()
    await turn()
    assert bench.link.heard() == ret_submit(1, data=b"x") + ret_unlink(2)
    assert "broken" in caplog.text


async def test_a_device_that_raises_over_a_reset_is_lost(bench, caplog):
    def fail():
        raise RuntimeError("broken")

    bench.device.reset = fail
    bench.link.feed(request(1, PORT_RESET))
    assert bench.link.heard() == ret_submit(1, ENODEV)


# -- the log --------------------------------------------------------------------------------------------------------


async def test_what_an_importer_makes_us_note_is_said_once(bench, caplog):
    for _ in range(3):
        bench.pump._handle(Note("it does not want the device"))
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"{bench.link.peer}: it does not want the device"
    ]


@pytest.mark.parametrize(("error", "said"), [(BrokenPipeError(32, "Broken pipe"), ""), (OSError("odd"), ": odd")])
async def test_an_importer_that_closes_while_it_is_written_to_has_released_the_device(bench, caplog, error, said):
    caplog.set_level(logging.INFO)
    bench.pump.lost(error)
    await turn()
    assert caplog.messages[-1] == f"1-1 released by {bench.link.peer}{said}"


# -- resets ---------------------------------------------------------------------------------------------------------


async def test_a_reset_is_answered_when_it_is_done(bench):
    bench.device.outcome = asyncio.get_running_loop().create_future()
    bench.link.feed(request(1, PORT_RESET))
    await turn()
    assert bench.link.heard() == b""
    bench.device.outcome.set_result(ResetOutcome.SAME)
    await turn()
    assert (bench.link.heard(), bench.link.is_closed) == (ret_submit(1), False)


@pytest.mark.parametrize("outcome", [ResetOutcome.GONE, ResetOutcome.ANOTHER, RuntimeError("broken")], ids=str)
async def test_a_reset_that_lost_the_device_closes(bench, outcome, caplog):
    bench.device.outcome = outcome
    bench.link.feed(request(1, PORT_RESET))
    await turn()
    assert (bench.link.heard(), bench.link.is_closed) == (ret_submit(1, ENODEV), True)


async def test_what_a_reset_ended_is_said_before_it(bench):
    """The device ends everything pending, then it is done."""
    bench.link.feed(submit(1, IN, 1, 8) + submit(2, IN, 2, 8))

    def reset():
        for _ in range(2):
            bench.device.finish(Completion(Status.SHUTDOWN))
        return Puppet.reset(bench.device)

    bench.device.reset = reset
    bench.link.feed(request(3, PORT_RESET))
    await turn()
    assert bench.link.heard() == ret_submit(1, ESHUTDOWN) + ret_submit(2, ESHUTDOWN) + ret_submit(3)


# -- claims -----------------------------------------------------------------------------------------------------------


async def test_an_import_names_its_claimant(bench):
    (claimant,) = bench.shelf.claimants
    assert (claimant.address, claimant.protocol, claimant.identity) == ("192.0.2.7:51234", "usbip", None)
    assert claimant.since > 1.6e9


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("no"), 4),
        (Busy("no"), 2),
        (DeviceError("no permission"), 3),
        (Unavailable("full"), 1),
        (RuntimeError("bug"), 3),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_why_an_import_failed(fresh, error, status, caplog):
    async def opening(name):
        raise error

    fresh.shelf.opening = opening
    fresh.link.feed(op_import())
    await turn()
    assert (fresh.link.heard(), fresh.link.is_closed) == (op(0x0003, status=status), True)
    assert str(error) in caplog.text
    assert fresh.catalog.list()[0].holder is None


async def test_a_device_that_is_not_here(fresh):
    fresh.link.feed(op_import(b"9-9"))
    await turn()
    assert fresh.link.heard() == op(0x0003, status=4)


async def test_a_name_cannot_write_lines_into_the_log(fresh, caplog):
    fresh.link.feed(op_import(b"1-1\nW all is well\x1b[2J"))
    await turn()
    assert fresh.link.heard() == op(0x0003, status=4)
    assert len(caplog.text.splitlines()) == 1
    assert "\x1b" not in caplog.text


async def test_an_importer_that_leaves_while_its_device_is_opened(fresh):
    """Nobody will use it: it is closed and free again."""
    go = asyncio.Event()

    async def opening(name):
        await go.wait()

    fresh.shelf.opening = opening
    fresh.link.feed(op_import())
    await turn()
    assert fresh.catalog.list()[0].holder is not None
    fresh.link.close()
    await turn()
    go.set()
    await turn()
    assert (fresh.device.log, fresh.catalog.list()[0].holder) == (["close"], None)
    assert fresh.ended[-1] is fresh.pump


async def test_a_device_that_cannot_be_described_is_refused_and_free_again(fresh, caplog):
    """It once took the server with it."""

    def make(name):
        device = Puppet(name)
        device.info.configuration = 1 << 20  # no byte
        return device

    fresh.shelf.make = make
    fresh.link.feed(op_import())
    await turn()
    assert (fresh.link.heard(), fresh.link.is_closed) == (op(0x0003, status=3), True)
    await turn()
    assert (fresh.device.open, fresh.catalog.list()[0].holder) == (False, None)


async def test_commands_that_came_with_the_import(fresh):
    fresh.link.feed(op_import() + submit(1, IN, 1, 4))
    await turn()
    assert len(fresh.link.heard()) == 320
    assert len(fresh.device.parked) == 1


# -- leaving ----------------------------------------------------------------------------------------------------------


async def test_a_lost_importer_frees_its_device(bench):
    bench.link.feed(submit(1, IN, 1, 8))
    bench.link.close()
    await turn()
    assert (bench.device.log, bench.device.parked) == (["close"], {})
    assert (bench.catalog.list()[0].holder, bench.ended) == (None, [bench.pump])


async def test_a_device_stays_busy_until_it_is_closed(bench):
    go = asyncio.Event()

    async def close():
        await go.wait()

    bench.device.close = close
    bench.link.close()
    await turn()
    assert bench.catalog.list()[0].holder is not None
    go.set()
    await turn()
    assert bench.catalog.list()[0].holder is None


async def test_a_device_that_fails_to_close_is_free_again(bench, caplog):
    async def close():
        raise OSError("disk full")

    bench.device.close = close
    bench.link.close()
    await turn()
    assert bench.catalog.list()[0].holder is None
    assert "disk full" in caplog.text


async def test_a_device_that_left_is_said_by_its_transfers_then_by_closing(bench):
    bench.link.feed(submit(1, IN, 1, 8) + submit(2, IN, 2, 8))
    bench.device.vanish("unplugged")
    await turn()
    assert bench.link.heard() == ret_submit(1, ENODEV) + ret_submit(2, ENODEV)
    assert bench.link.is_closed
    await turn()
    assert bench.device.log == ["close"]


async def test_stopping_answers_what_is_pending_and_closes(bench):
    """The connection was once closed first, and the answers lost."""
    bench.link.feed(submit(1, IN, 1, 8) + submit(2, IN, 2, 8))
    await bench.pump.stop()
    assert bench.link.heard() == ret_submit(1, ESHUTDOWN) + ret_submit(2, ESHUTDOWN)
    assert (bench.link.is_closed, bench.device.log) == (True, ["close"])


async def test_commands_while_it_stops_are_not_looked_at(bench):
    """The device is being closed; they once hit an assertion."""
    go = asyncio.Event()

    async def close():
        await go.wait()

    bench.device.close = close
    async with asyncio.TaskGroup() as group:
        group.create_task(bench.pump.stop())
        await turn()
        bench.link.feed(submit(1, IN, 1, 8) + b"rubbish, too")
        go.set()
    assert (bench.link.heard(), bench.link.is_closed, bench.device.parked) == (b"", True, {})


async def test_stopping_before_anything_was_asked(fresh):
    await fresh.pump.stop()
    await turn()
    assert (fresh.link.is_closed, fresh.ended) == (True, [fresh.pump])


async def test_answers_that_come_after_the_importer_left_are_dropped(bench):
    bench.link.feed(submit(1, IN, 1, 8))
    (future,) = bench.device.parked.values()
    bench.device.parked.clear()
    bench.link.close()
    await turn()
    future.set_result(Completion(Status.OK, b"x"))
    await turn()
    assert bench.link.heard() == b""


# -- broken protocols ---------------------------------------------------------------------------------------------


async def test_a_broken_protocol_closes_after_the_answers_before_it(bench, caplog):
    bench.device.answer = taken
    bench.link.feed(submit(1, IN, 1, 1) + b"\xff" * 48 + submit(2, IN, 1, 1))
    assert (bench.link.heard(), bench.link.is_closed) == (ret_submit(1, data=b"x"), True)
    assert "192.0.2.7:51234 broke usbip: devid" in caplog.text


async def test_a_broken_protocol_is_said_once(bench, caplog):
    bench.link.feed(b"\xff" * 48)
    bench.link.process()
    bench.link.feed(b"\xff" * 48)
    assert caplog.text.count("broke usbip") == 1


async def test_an_event_that_nobody_serves_is_refused(bench):
    class Odd(Watch):
        pass

    with pytest.raises(ProtocolError):
        bench.pump._handle_wider(Suspend())


async def test_other_events_reach_the_device(bench):
    """Those of protocols with more words than USB/IP."""
    for event in (Suspend(), Wake()):
        bench.pump._handle(event)
    assert bench.device.log == ["suspend", "resume"]
    bench.pump._handle(AllocStreams(1, (0x81,), 4))
    bench.pump._handle(FreeStreams(2, (0x81,)))


# -- turns and time ---------------------------------------------------------------------------------------------------


async def test_a_blocked_link_is_read_no_further(bench, monkeypatch):
    monkeypatch.setattr(module, "_BATCH_BYTES", 100)
    bench.device.answer = taken
    bench.link.blocks_after = 100
    bench.link.feed(b"".join(submit(n, IN, 1, 60) for n in range(3)))
    assert bench.link.heard() == ret_submit(0, data=b"x" * 60)
    assert bench.link.unread == 96
    bench.link.blocks_after = 1 << 62
    bench.link.unblock()
    assert bench.link.heard() == b"".join(ret_submit(n, data=b"x" * 60) for n in (1, 2))


@pytest.fixture
def short_turns(monkeypatch):
    """Two commands, and it is somebody else's turn."""
    monkeypatch.setattr(module, "_SLICE_BYTES", 96)
    monkeypatch.setattr(module, "_TURN_SECONDS", 0.0)


@pytest.mark.usefixtures("short_turns")
async def test_a_flood_gives_others_their_turn(bench):
    """All that one importer had sent was once worked off before anybody else was looked at."""
    bench.device.answer = taken
    bench.link.feed(b"".join(submit(n, IN, 1, 1) for n in range(7)))
    seen = []
    while bench.link.unread:
        seen.append(bench.link.unread)
        await asyncio.sleep(0)
    assert seen == [5 * 48, 3 * 48, 48]
    assert bench.link.heard() == b"".join(ret_submit(n, data=b"x") for n in range(7))


@pytest.mark.usefixtures("short_turns")
@pytest.mark.parametrize("size", [47, 48, 49, 96, 97, 1000])
async def test_messages_larger_than_a_slice(bench, size):
    seen = []
    bench.device.answer = lambda transfer: seen.append(bytes(transfer.data)) or taken(transfer)
    payload = bytes(range(256)) * 4
    bench.link.feed(b"".join(submit(n, OUT, 1, payload=payload[:size]) for n in range(3)) + b"\0\0\0\1")
    for _ in range(3):
        await turn()
    assert (seen, bench.link.unread) == ([payload[:size]] * 3, 4)


@pytest.mark.usefixtures("short_turns")
async def test_much_that_waits_for_a_claim_is_looked_at_once(fresh):
    fresh.link.feed(op_import() + b"".join(submit(n, IN, 1, 1) for n in range(10)))
    assert fresh.link.unread == 480
    await turn()
    assert len(fresh.device.parked) == 10


async def test_a_broken_message_in_the_third_slice(bench, monkeypatch):
    monkeypatch.setattr(module, "_SLICE_BYTES", 96)
    bench.device.answer = taken
    good = b"".join(submit(n, IN, 1, 1) for n in range(5))
    bench.link.feed(good + b"\xff" * 48 + good)
    assert bench.link.heard() == b"".join(ret_submit(n, data=b"x") for n in range(5))
    assert bench.link.is_closed


@pytest.mark.usefixtures("short_turns")
async def test_a_turn_that_is_due_when_the_importer_leaves(bench):
    bench.device.answer = taken
    bench.link.feed(b"".join(submit(n, IN, 1, 1) for n in range(7)))
    bench.link.close()
    await turn()
    assert len(bench.link.heard()) <= 4 * 49


async def test_the_first_request_must_come_in_time(caplog):
    async with working(Limits(handshake_seconds=0.01), imported=False) as slow:
        slow.link.feed(op_import()[:39])
        await slow.link.stirred.wait()
        assert slow.link.is_closed
    assert "no request within 0.01 s" in caplog.text


async def test_a_held_unlink_is_answered_in_time_though_the_handshake_timer_still_runs():
    """There is one timer; it was not set anew for what is due earlier."""
    async with working(Limits(handshake_seconds=3600, early_cancel_seconds=0.01)) as bench:
        bench.link.feed(cut(2, 1))
        assert bench.link.heard() == b""
        await bench.link.stirred.wait()
        assert bench.link.heard() == ret_unlink(2)


async def test_an_ended_pump_leaves_no_timer():
    async with working(Limits(handshake_seconds=0.01), imported=False) as slow:
        slow.link.close()
        await turn()
        assert slow.pump._out.alarm.wakes == math.inf


async def test_out_payloads_reach_the_device_as_they_were_sent(bench):
    seen = []
    bench.device.answer = lambda transfer: seen.append(bytes(transfer.data)) or taken(transfer)
    bench.link.feed(submit(1, OUT, 1, payload=b"payload") + submit(2, OUT, 1, payload=b""))
    assert seen == [b"payload", b""]
    assert bench.link.heard() == ret_submit(1, actual=7) + ret_submit(2)
