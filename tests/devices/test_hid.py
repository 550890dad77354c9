"""What HID devices share: descriptors, requests, idle time, and the queue that the host empties."""

import asyncio

import pytest

from tests.devices.hid_host import (
    BOOT,
    GET_IDLE,
    GET_PROTOCOL,
    GET_REPORT,
    REPORT,
    SET_PROTOCOL,
    SET_REPORT,
    HidHost,
    set_idle,
)
from tests.devices.host import opened, read, turn, write
from usbferry.devices.chapter9 import Stall
from usbferry.devices.clock import VirtualClock
from usbferry.devices.hid.device import HidDevice
from usbferry.devices.hid.reports import INPUT, Page, application, variables
from usbferry.usb import build, descriptors
from usbferry.usb.setup import Setup, clear_halt, set_configuration
from usbferry.usb.tree import DeviceDescriptor
from usbferry.usb.types import Speed, Status

OK, STALL, OVERFLOW, CANCELLED = Status.OK, Status.STALL, Status.OVERFLOW, Status.CANCELLED
MS = 0.001


class Dial(HidDevice[int]):
    """Its report is one number. A change over 100 takes several reports."""

    descriptor = DeviceDescriptor(0x1209, 0x0003)
    report_descriptor = application(Page.DESKTOP, 0x37, variables(INPUT, Page.DESKTOP, (0x37,), high=100, bits=8))
    input_bytes = 1
    output_bytes = 2
    interrupt_out = True
    boot = 1

    def __init__(self, speed=Speed.FULL, **options):
        self.speed = speed
        self.told = 0
        self.outputs = []
        super().__init__(**options)

    def encode(self, change):
        self.told = min(change, 100)
        return self.current_report(), change - 100 if change > 100 else None

    def current_report(self):
        return bytes([self.told])

    def output(self, report):
        if len(report) != 2:
            raise Stall
        self.outputs.append(report)

    def current_output(self):
        return self.outputs[-1] if self.outputs else b"\0\0"


@pytest.fixture
async def clock():
    return VirtualClock()


@pytest.fixture
async def dial(clock):
    async with opened(Dial(clock=clock)) as device:
        yield device


# -- descriptors ------------------------------------------------------------------------------------------------------


async def test_the_interface_has_a_hid_descriptor_before_its_endpoints(dial):
    interface = dial.info.interfaces[0]
    assert interface.extra == (bytes([9, 0x21, 0x11, 0x01, 0, 1, 0x22, len(dial.report_descriptor), 0]),)
    assert (interface.interface_class, interface.interface_subclass, interface.interface_protocol) == (3, 1, 1)
    assert [(e.address, e.max_packet, e.interval) for e in interface.endpoints] == [(0x81, 1, 1), (0x01, 2, 1)]


async def test_a_host_reads_both_descriptors(dial, clock):
    host = HidHost(dial, clock)
    hid = host.ask(Setup(0x81, 6, 0x2100, 0, 9))
    assert bytes(hid.data) == dial.info.interfaces[0].extra[0]
    report = host.ask(Setup(0x81, 6, 0x2200, 0, 255))
    assert bytes(report.data) == dial.report_descriptor
    assert bytes(host.ask(Setup(0x81, 6, 0x2200, 0, 4)).data) == dial.report_descriptor[:4]


@pytest.mark.parametrize(
    "setup",
    [
        Setup(0x81, 6, 0x2300, 0, 9),  # a physical descriptor
        Setup(0x81, 6, 0x2201, 0, 9),  # a second report descriptor
        Setup(0x81, 6, 0x2200, 1, 9),  # of another interface
        Setup(*GET_REPORT, 0x0300, 0, 1),  # a feature report
        Setup(*GET_REPORT, 0x0101, 0, 1),  # a report id
        Setup(*SET_REPORT, 0x0100),  # input
        Setup(*GET_IDLE, 0x0001, 0, 1),
        Setup(0x21, 10, 0x0101),  # SET_IDLE of a report id
        Setup(*SET_PROTOCOL, 2),
        Setup(*GET_PROTOCOL, 0, 1, 1),
        Setup(0x21, 4),  # no request of the class
    ],
    ids=str,
)
async def test_what_it_does_not_have_stalls(dial, clock, setup):
    assert HidHost(dial, clock).ask(setup).status == STALL


async def test_without_a_configuration_it_has_no_interface(dial, clock):
    host = HidHost(dial, clock)
    host.ask(set_configuration(0))
    assert host.ask(Setup(0x81, 6, 0x2200, 0, 9)).status == STALL


@pytest.mark.parametrize(("speed", "interval_us"), [(Speed.LOW, 10_000), (Speed.FULL, 1000), (Speed.HIGH, 1000)])
def test_the_interval_is_what_the_speed_allows(speed, interval_us):
    dial = Dial(speed)
    assert {e.interval_us(speed) for e in dial.info.interfaces[0].endpoints} == {interval_us}
    assert dial.info.device.max_packet0 == (8 if speed is Speed.LOW else 64)


def test_superspeed_is_refused():
    with pytest.raises(ValueError, match="low, full, high"):
        Dial(Speed.SUPER)


def test_its_configuration_can_be_read_back():
    configuration = Dial().info.configurations[0]
    assert descriptors.parse_configuration(build.configuration(configuration)) == configuration


# -- the queue --------------------------------------------------------------------------------------------------------


async def test_nothing_new_is_a_nak(dial, clock):
    host = HidHost(dial, clock)
    assert await host.run(10) == []


async def test_changes_leave_one_by_one_in_the_pace_of_the_endpoint(dial, clock):
    host = HidHost(dial, clock)
    for change in (1, 2, 3):
        dial.queue(change)
    assert await host.run(5 * MS) == [b"\1", b"\2", b"\3"]
    assert [when for when, _ in host.reports] == pytest.approx([0, 1 * MS, 2 * MS])


async def test_what_was_queued_before_a_host_came_waits_for_it(clock):
    dial = Dial(clock=clock)
    dial.queue(7)
    async with opened(dial):
        assert await HidHost(dial, clock).run(1 * MS) == [b"\7"]


async def test_a_change_that_does_not_fit_goes_in_several_reports(dial, clock):
    host = HidHost(dial, clock)
    dial.queue(250)
    dial.queue(1)
    assert await host.run(10 * MS) == [b"\x64", b"\x64", b"\x32", b"\1"]


async def test_a_pause_keeps_the_next_change_back(dial, clock):
    host = HidHost(dial, clock)
    dial.queue(1, pause=0.1)
    dial.queue(2)
    assert await host.run(0.099) == [b"\1"]
    assert await host.run(0.002) == [b"\2"]


async def test_the_first_change_waits_for_the_delay_after_the_first_poll(clock):
    dial = Dial(clock=clock)
    dial.delay = 1.0
    async with opened(dial):
        dial.queue(1)
        clock.advance(60)  # nobody polls
        host = HidHost(dial, clock)
        assert await host.run(0.999) == []
        assert await host.run(0.002) == [b"\1"]
        dial.queue(2)
        assert await host.run(1 * MS) == [b"\2"]


async def test_flushed_waits_for_the_host_to_fetch_everything(dial, clock):
    assert await dial.flushed() is True
    dial.queue(250)
    waiting = dial.later(dial.flushed())
    host = HidHost(dial, clock)
    await host.run(0)
    assert not waiting.done()
    await host.run(2 * MS)
    assert waiting.result() is True


async def test_flushed_tells_that_the_host_left_first(clock):
    dial = Dial(clock=clock)
    await dial.open()
    dial.queue(1)
    ended = []

    async def wait():
        ended.append(await dial.flushed())

    async with asyncio.TaskGroup() as group:
        group.create_task(wait())
        await turn()
        await dial.close()
    assert ended == [False]


async def test_what_the_host_did_not_fetch_is_lost_when_it_leaves(clock):
    dial = Dial(clock=clock)
    async with opened(dial):
        dial.queue(1)
    async with opened(dial):
        assert await HidHost(dial, clock).run(5 * MS) == []


async def test_a_reset_loses_nothing(dial, clock):
    dial.queue(1)
    await dial.reset()
    assert await HidHost(dial, clock).run(1 * MS) == [b"\1"]


async def test_a_host_that_asks_for_too_little_sees_a_babble(dial):
    dial.queue(1)
    completion = await dial.submit(read(0x81, 0))
    assert (completion.status, completion.actual) == (OVERFLOW, 0)


async def test_a_cancelled_poll_takes_no_change_with_it(dial, clock):
    pending = read(0x81, 1)
    answer = dial.submit(pending)
    dial.cancel(pending)
    assert (await answer).status == CANCELLED
    dial.queue(1)
    assert await HidHost(dial, clock).run(1 * MS) == [b"\1"]


# -- idle time --------------------------------------------------------------------------------------------------------


async def test_the_last_report_is_repeated_when_the_idle_time_is_over(dial, clock):
    host = HidHost(dial, clock)
    host.ask(set_idle(5))  # 20 ms
    assert bytes(host.ask(Setup(*GET_IDLE, 0, 0, 1)).data) == b"\5"
    dial.queue(9)
    await host.run(0.065)
    assert host.reports[1:] == [(pytest.approx(t), b"\x09") for t in (0.020, 0.040, 0.060)]


async def test_idle_0_is_for_ever(dial, clock):
    host = HidHost(dial, clock)
    host.ask(set_idle(5))
    await host.run(0.030)
    host.ask(set_idle(0))
    assert await host.run(10) == []


async def test_a_change_begins_the_idle_time_anew(dial, clock):
    host = HidHost(dial, clock)
    host.ask(set_idle(5))
    await host.run(0.015)
    dial.queue(1)
    assert await host.run(0.019) == [b"\1"]
    assert await host.run(0.002) == [b"\1"]


async def test_a_shorter_idle_time_that_is_over_already_reports_at_once(dial, clock):
    host = HidHost(dial, clock)
    host.ask(set_idle(250))  # 1 s
    await host.run(0.500)
    host.ask(set_idle(5))
    assert await host.run(0) == [b"\0"]


async def test_an_idle_time_set_within_4_ms_of_a_report_counts_after_it(dial, clock):
    host = HidHost(dial, clock)
    host.ask(set_idle(5))
    await host.run(0.018)
    host.ask(set_idle(25))  # 100 ms
    await host.run(0.100)
    assert host.reports == [(pytest.approx(0.020), b"\0")]
    await host.run(0.005)
    assert len(host.reports) == 2


async def test_it_starts_with_its_default_idle_time(clock):
    dial = Dial(clock=clock)
    dial.default_idle = 0.5
    async with opened(dial):
        host = HidHost(dial, clock)
        assert bytes(host.ask(Setup(*GET_IDLE, 0, 0, 1)).data) == bytes([125])
        assert len(await host.run(1.1)) == 2
        host.ask(set_idle(0))
        host.ask(set_configuration(1))
        assert bytes(host.ask(Setup(*GET_IDLE, 0, 0, 1)).data) == bytes([125])


# -- reports over control, output, protocols --------------------------------------------------------------------------


async def test_get_report_gives_the_state_that_was_told(dial, clock):
    host = HidHost(dial, clock)
    dial.queue(3)
    dial.queue(4)
    await host.run(0)
    assert bytes(host.ask(Setup(*GET_REPORT, 0x0100, 0, 8)).data) == b"\3"


async def test_output_comes_over_control_and_over_its_endpoint(dial, clock):
    host = HidHost(dial, clock)
    assert host.ask(Setup(*SET_REPORT, 0x0200, 0, 2), b"ab").status == OK
    assert (await dial.submit(write(0x01, b"cd"))).status == OK
    assert dial.outputs == [b"ab", b"cd"]
    assert bytes(host.ask(Setup(*GET_REPORT, 0x0200, 0, 2)).data) == b"cd"


async def test_a_bad_output_report_stalls_and_halts_the_endpoint(dial, clock):
    host = HidHost(dial, clock)
    assert host.ask(Setup(*SET_REPORT, 0x0200, 0, 3), b"abc").status == STALL
    assert (await dial.submit(write(0x01, b"abc"))).status == STALL
    assert dial.submit(write(0x01, b"ab")).status == STALL
    host.ask(clear_halt(0x01))
    assert (await dial.submit(write(0x01, b"ab"))).status == OK


async def test_protocols_switch_and_a_reset_returns_to_report_protocol(dial, clock):
    host = HidHost(dial, clock)
    get = Setup(*GET_PROTOCOL, 0, 0, 1)
    assert bytes(host.ask(get).data) == bytes([REPORT])
    assert host.ask(Setup(*SET_PROTOCOL, BOOT)).status == OK
    assert bytes(host.ask(get).data) == bytes([BOOT])
    await dial.reset()
    assert bytes(host.ask(get).data) == bytes([REPORT])


async def test_without_a_boot_interface_there_are_no_protocols(clock):
    class Plain(Dial):
        boot = 0

    async with opened(Plain(clock=clock)) as plain:
        interface = plain.info.interfaces[0]
        assert (interface.interface_subclass, interface.interface_protocol) == (0, 0)
        host = HidHost(plain, clock)
        assert host.ask(Setup(*GET_PROTOCOL, 0, 0, 1)).status == STALL
        assert host.ask(Setup(*SET_PROTOCOL, BOOT)).status == STALL


async def test_plain_devices_refuse_output(clock):
    class Silent(HidDevice[int]):
        descriptor = DeviceDescriptor(0x1209, 0x0003)
        report_descriptor = Dial.report_descriptor
        speed = Speed.LOW

    async with opened(Silent(clock=clock)) as silent:
        host = HidHost(silent, clock)
        assert host.ask(Setup(*SET_REPORT, 0x0200, 0, 1), b"a").status == STALL
        assert host.ask(Setup(*GET_REPORT, 0x0200, 0, 1)).status == STALL
