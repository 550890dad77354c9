"""The base of virtual devices: declared endpoints and requests, answers at once or later, barriers, resets, leaving."""

import asyncio

import pytest

from tests.devices.host import ask, control, opened, read, turn, write
from usbferry.device import Busy, DeviceError, ResetOutcome
from usbferry.devices.chapter9 import Stall
from usbferry.devices.clock import VirtualClock
from usbferry.devices.disk import Disk
from usbferry.devices.virtual import VirtualDevice, data, done, endpoint, request
from usbferry.usb.descriptors import Configuration, DeviceDescriptor, Interface
from usbferry.usb.setup import Setup, clear_halt, get_descriptor, set_configuration, set_interface
from usbferry.usb.types import Speed, Status

OK, GONE, SHUTDOWN, STALL = Status.OK, Status.GONE, Status.SHUTDOWN, Status.STALL
SLOW = Setup(0x40, 1)  # answered when the test says so


class Echo(VirtualDevice):
    """What the module's example says, with requests of every kind."""

    descriptor = DeviceDescriptor(0x1209, 0x0001)
    product = "Echo"

    def __init__(self, **options):
        self.log = []
        self.held = b""
        self.slow = []
        super().__init__(**options)

    def configurations(self):
        setting = (self.bulk(0x01), self.bulk(0x81), self.bulk(0x82))
        interfaces = (Interface(0, 0, endpoints=setting), Interface(0, 1, endpoints=(self.bulk(0x81),)))
        return Configuration(1, (*interfaces, Interface(1, endpoints=(self.bulk(0x84),)))), Configuration(2)

    @endpoint(0x01)
    def take(self, transfer):
        self.held = bytes(transfer.data)
        self.kick(0x81)
        return done(transfer)

    @endpoint(0x81)
    def give(self, transfer):
        held, self.held = self.held, b""
        return data(held) if held else None

    @endpoint(0x84)
    def aside(self, transfer):
        return data(b"aside")

    @request(0xC0, 0)
    def long(self, setup, data):
        return bytes(range(64))

    @request(0x40, 0)
    def store(self, setup, data):
        self.log.append(data)

    @request(0x40, 1)
    def wait(self, setup, data):
        future = asyncio.get_running_loop().create_future()
        self.slow.append(future)
        return future

    @request(0xC0, 2)
    def later_data(self, setup, data):
        return self.later(self.answer(b"later"))

    @request(0xC0, 3)
    def later_stall(self, setup, data):
        return self.later(self.answer(Stall()))

    @request(0xC0, 4)
    def broken(self, setup, data):
        raise RuntimeError("broken at once")

    @request(0xC0, 5)
    def later_broken(self, setup, data):
        return self.later(self.answer(RuntimeError("broken later")))

    @request(0x80, 6)
    def descriptors(self, setup, data):
        """A standard request, taken over for one descriptor."""
        if setup.value == 0x0F00:
            return b"mine"
        return self.standard(setup, data)

    async def answer(self, what):
        await asyncio.sleep(0)
        if isinstance(what, Exception):
            raise what
        return what

    async def opened(self):
        self.log.append("opened")

    async def closed(self):
        self.log.append("closed")

    def was_reset(self):
        self.log.append("reset")

    def settings_changed(self):
        self.log.append((self.info.configuration, dict(self.info.alternates)))


@pytest.fixture
async def echo():
    async with opened(Echo(clock=VirtualClock())) as device:
        device.log.clear()
        yield device


async def finish(device, reply=None):
    device.slow.pop(0).set_result(reply)
    await turn()


def status(answer):
    """How it ended; None while it has not."""
    if isinstance(answer, asyncio.Future):
        return answer.result().status if answer.done() else None
    return answer.status


# -- declaring ----------------------------------------------------------------------------------------------------


def test_what_is_declared_is_described():
    info = Echo().info
    assert (info.device.product, info.device.serial, info.device.manufacturer) == (2, 0, 1)
    assert (info.device.configurations, info.configuration, info.product) == (2, 1, "Echo")


@pytest.mark.parametrize(
    ("speed", "packet", "packet0"),
    [(Speed.FULL, 64, 64), (Speed.HIGH, 512, 64), (Speed.SUPER, 1024, 9), (Speed.SUPER_PLUS, 1024, 9)],
)
def test_endpoints_fit_their_speed(speed, packet, packet0):
    class Fast(Echo):
        pass

    Fast.speed = speed
    info = Fast().info
    assert {e.max_packet for i in info.interfaces for e in i.endpoints} == {packet}
    assert all((e.companion is not None) == (speed >= Speed.SUPER) for i in info.interfaces for e in i.endpoints)
    assert (info.device.max_packet0, info.device.usb >= 0x0300) == (packet0, speed >= Speed.SUPER)


def test_handlers_are_inherited_and_overridden():
    class Loud(Echo):
        @endpoint(0x84)
        def louder(self, transfer):
            return data(b"ASIDE")

    assert Loud._endpoint_handlers == {**Echo._endpoint_handlers, 0x84: "louder"}
    assert Echo._endpoint_handlers[0x84] == "aside"


# -- endpoints ------------------------------------------------------------------------------------------------------


async def test_the_example_echoes(echo):
    waiting = echo.submit(read(0x81, 64))
    assert status(waiting) is None
    assert echo.submit(write(0x01, b"hello")).actual == 5
    assert waiting.result().data == b"hello"


async def test_an_endpoint_that_is_not_there_stalls(echo):
    assert status(echo.submit(read(0x85, 8))) == STALL
    assert status(echo.submit(write(0x05, b"x"))) == STALL


async def test_a_declared_endpoint_without_handler_naks(echo):
    transfer = read(0x82, 8)
    answer = echo.submit(transfer)
    assert status(answer) is None
    echo.cancel(transfer)
    assert status(answer) == Status.CANCELLED


async def test_kicks_and_halts_of_endpoints_that_are_not_there_do_nothing(echo):
    echo.kick(0x8F)
    echo.halt(0x8F)
    echo.cancel(read(0x8F, 8))


# -- control requests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 1024])
async def test_a_reply_is_cut_to_what_was_asked(echo, length):
    answer = ask(echo, Setup(0xC0, 0, length=length))
    assert (bytes(answer.data), answer.actual) == (bytes(range(min(64, length))), min(64, length))


async def test_data_of_a_request_comes_whole(echo):
    answer = ask(echo, Setup(0x40, 0, length=5), b"hello")
    assert (status(answer), answer.actual, echo.log) == (OK, 5, [b"hello"])


async def test_a_standard_request_can_be_taken_over(echo):
    assert ask(echo, get_descriptor(15)).data == b"mine"
    assert len(ask(echo, get_descriptor(1)).data) == 18


async def test_answers_that_come_later(echo):
    answers = [ask(echo, Setup(0xC0, code, length=64)) for code in (2, 3, 5, 0)]
    assert [status(answer) for answer in answers] == [None] * 4
    await asyncio.wait(answers)
    assert [status(answer) for answer in answers] == [OK, STALL, Status.FAILED, OK]
    assert answers[0].result().data == b"later"


async def test_a_handler_that_raises_fails_its_request_alone(echo, caplog):
    assert status(ask(echo, Setup(0xC0, 4, length=8))) == Status.FAILED
    assert "broken at once" in caplog.text
    assert status(ask(echo, get_descriptor(1))) == OK


async def test_requests_are_done_in_order(echo):
    first, second = ask(echo, SLOW), ask(echo, Setup(0x40, 0, length=1), b"x")
    assert echo.log == []
    await finish(echo)
    assert (status(first), status(second), echo.log) == (OK, OK, [b"x"])


async def test_a_cancelled_request_is_not_carried_out_unless_it_is_under_way(echo):
    setups = [SLOW, Setup(0x40, 0, length=1)]
    transfers = [control(setup, b"x" * setup.length) for setup in setups]
    answers = [echo.submit(transfer) for transfer in transfers]
    for transfer in transfers:
        echo.cancel(transfer)
    await turn()
    assert [status(answer) for answer in answers] == [None, Status.CANCELLED]
    await finish(echo)
    assert (status(answers[0]), echo.log) == (OK, [])


# -- barriers -------------------------------------------------------------------------------------------------------


async def test_set_interface_that_waits_is_not_overtaken(echo):
    """Transfers behind it once went to the old setting, or stalled for want of the new one."""
    slow, change = ask(echo, SLOW), ask(echo, set_interface(0, 1))
    late, other = echo.submit(read(0x81, 64)), echo.submit(read(0x84, 64))
    echo.held = b"in the new setting"
    echo.kick(0x81)
    assert status(late) is None
    assert status(other) == OK, "another interface's endpoint is not touched"
    await finish(echo)
    assert [status(answer) for answer in (slow, change)] == [OK, OK]
    assert late.result().data == b"in the new setting"
    assert status(echo.submit(write(0x01, b"x"))) == STALL, "the new setting lacks it"


async def test_what_was_submitted_before_ends_with_the_old_setting(echo):
    early = echo.submit(read(0x81, 64))
    ask(echo, SLOW)
    ask(echo, set_interface(0, 1))
    late = echo.submit(read(0x81, 64))
    await finish(echo)
    assert (status(early), status(late)) == (SHUTDOWN, None)


async def test_set_configuration_that_waits_holds_every_endpoint(echo):
    ask(echo, set_configuration(0))
    ask(echo, SLOW)
    change, late = ask(echo, set_configuration(1)), echo.submit(read(0x84, 64))
    assert (status(change), status(late)) == (None, None), "it is not there yet"
    await finish(echo)
    assert (status(change), late.result().data) == (OK, b"aside")


async def test_clear_halt_that_waits_holds_its_endpoint_alone(echo):
    ask(echo, Setup(0x02, 3, 0, 0x84))
    ask(echo, SLOW)
    ask(echo, clear_halt(0x84))
    late = echo.submit(read(0x84, 64))
    assert echo.submit(write(0x01, b"x")).actual == 1
    await finish(echo)
    assert status(late) == OK


async def test_barriers_behind_each_other(echo):
    ask(echo, SLOW)
    ask(echo, set_interface(0, 1))
    between = echo.submit(write(0x01, b"x"))
    ask(echo, set_interface(0, 0))
    after = echo.submit(write(0x01, b"y"))
    await finish(echo)
    assert (status(between), status(after), echo.held) == (STALL, OK, b"y")


async def test_a_cancelled_barrier_frees_what_it_held(echo):
    ask(echo, SLOW)
    barrier = control(set_interface(0, 1))
    echo.submit(barrier)
    late = echo.submit(write(0x01, b"x"))
    echo.cancel(barrier)
    await turn()
    assert (status(late), echo.held) == (OK, b"x")
    await finish(echo)
    assert echo.info.alternates == {}


async def test_what_waits_behind_a_barrier_can_be_cancelled(echo):
    ask(echo, SLOW)
    ask(echo, set_interface(0, 1))
    transfer = write(0x01, b"x")
    answer = echo.submit(transfer)
    echo.cancel(transfer)
    assert status(answer) == Status.CANCELLED
    await finish(echo)
    assert echo.held == b""


async def test_a_barrier_that_is_done_at_once_costs_nothing(echo):
    ask(echo, set_interface(0, 1))
    assert echo._routes is echo._pipes


@pytest.mark.parametrize("end", [Status.GONE, Status.SHUTDOWN])
async def test_who_waits_behind_a_barrier_ends_with_the_device(end):
    async with opened(Echo()) as echo:
        ask(echo, SLOW)
        answers = [ask(echo, set_interface(0, 1)), echo.submit(read(0x81, 64))]
        echo.vanish() if end is GONE else await echo.reset()
        assert [status(answer) for answer in answers] == [end, end]
        assert status(echo.submit(read(0x84, 8))) == (GONE if end is GONE else OK)


# -- reset, leaving, closing ----------------------------------------------------------------------------------------


async def test_a_reset_ends_what_is_pending_then_restores_the_settings(echo):
    ask(echo, set_interface(0, 1))
    echo.log.clear()
    waiting, slow = echo.submit(read(0x81, 64)), ask(echo, SLOW)
    outcome = echo.reset()
    assert (status(waiting), status(slow), await outcome) == (SHUTDOWN, SHUTDOWN, ResetOutcome.SAME)
    assert (echo.info.configuration, echo.info.alternates, echo.log) == (1, {0: 1}, ["reset"])
    assert status(echo.submit(write(0x01, b"x"))) == STALL
    await finish(echo)
    assert status(ask(echo, get_descriptor(1))) == OK


async def test_after_it_left_everything_is_gone(echo):
    waiting, slow = echo.submit(read(0x81, 64)), ask(echo, SLOW)
    echo.vanish("pulled out")
    echo.vanish("twice")
    assert [status(waiting), status(slow), await echo.gone] == [GONE, GONE, "pulled out"]
    late = [echo.submit(read(0x81, 8)), echo.submit(read(0x8F, 8)), ask(echo, get_descriptor(1))]
    assert [status(answer) for answer in late] == [GONE] * 3, "endpoints that never were there too"
    assert await echo.reset() is ResetOutcome.GONE
    await finish(echo)


async def test_a_device_that_left_can_come_back():
    echo = Echo()
    async with opened(echo):
        echo.vanish()
    async with opened(echo):
        assert not echo.gone.done()
        assert status(ask(echo, get_descriptor(1))) == OK


async def test_closing_ends_what_is_pending_and_is_not_leaving():
    echo = Echo()
    await echo.open()
    ask(echo, set_interface(0, 1))
    answers = [echo.submit(read(0x81, 64)), ask(echo, SLOW), ask(echo, Setup(0xC0, 2, length=8))]
    await echo.close()
    await echo.close()
    assert [status(answer) for answer in answers] == [SHUTDOWN] * 3
    assert not echo.gone.done()
    assert (status(ask(echo, get_descriptor(1))), await echo.reset()) == (GONE, ResetOutcome.GONE)
    echo.vanish()
    assert not echo.gone.done(), "nobody holds it"
    assert echo.log[-2:] == ["reset", "closed"]
    assert (echo.info.configuration, echo.info.alternates) == (1, {}), "as the next one will find it"


async def test_the_next_claim_begins_afresh():
    echo = Echo()
    async with opened(echo):
        ask(echo, set_configuration(2))
    async with opened(echo):
        assert ask(echo, Setup(0x80, 8, length=1)).data == b"\1"


async def test_work_has_ended_when_closed_is_called():
    seen = []

    class Slow(Echo):
        @request(0x40, 9)
        def work(self, setup, data):
            return self.later(self.forever())

        async def forever(self):
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await asyncio.sleep(0)
                seen.append("work ended")

        async def closed(self):
            seen.append("closed")

    async with opened(Slow()) as slow:
        ask(slow, Setup(0x40, 9))
        await turn()
    assert seen == ["work ended", "closed"]


async def test_it_is_held_by_one_from_the_first_step_of_opening_to_the_last_of_closing():
    go = asyncio.Event()

    class Slow(Echo):
        async def opened(self):
            await go.wait()

        closed = opened

    slow = Slow()
    async with asyncio.TaskGroup() as group:
        group.create_task(slow.open())
        await turn()
        with pytest.raises(Busy):
            await slow.open()
        go.set()
    go.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(slow.close())
        await turn()
        with pytest.raises(Busy):
            await slow.open()
        go.set()
    async with opened(slow):
        pass


async def test_a_device_that_cannot_be_opened_can_be_tried_again():
    class Reluctant(Echo):
        tries = 0

        async def opened(self):
            self.tries += 1
            if self.tries == 1:
                raise DeviceError("no image")

    device = Reluctant()
    with pytest.raises(DeviceError, match="no image"):
        await device.open()
    await device.close()
    assert status(device.submit(read(0x81, 8))) == GONE
    async with opened(device):
        assert status(ask(device, get_descriptor(1))) == OK


async def test_a_device_that_fails_to_close_is_free_again():
    class Clumsy(Echo):
        async def closed(self):
            raise OSError("disk full")

    device = Clumsy()
    for _ in range(2):
        await device.open()
        with pytest.raises(OSError, match="disk full"):
            await device.close()


async def test_leaving_by_its_own_handler(echo):
    """An endpoint's handler unplugs the device it belongs to."""

    def leave(transfer):
        echo.vanish("short circuit")

    echo._pipes[0x84].handler = leave
    assert status(echo.submit(read(0x84, 8))) == GONE
    assert await echo.gone == "short circuit"


@pytest.mark.parametrize(("kind", "section"), [("bulk", "5.8.3"), ("isochronous", "5.6.3")])
def test_endpoints_that_low_speed_lacks_are_refused(kind, section):
    class Slow(VirtualDevice):
        descriptor = DeviceDescriptor(0x1209, 0x0001)
        speed = Speed.LOW

        def interfaces(self):
            one = self.bulk(0x81) if kind == "bulk" else self.isochronous(0x81, 8, 1)
            return (Interface(0, endpoints=(one,)),)

    with pytest.raises(ValueError, match=rf"^low speed has no {kind} endpoints \(USB 2.0 §{section}\): use full, high"):
        Slow()


def test_a_disk_that_cannot_be_makes_no_image(tmp_path):
    with pytest.raises(ValueError, match="low speed has no bulk"):
        Disk(image=tmp_path / "image", size=1 << 20, speed=Speed.LOW)
    assert list(tmp_path.iterdir()) == []
