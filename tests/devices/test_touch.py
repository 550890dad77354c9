"""A touch screen: fingers in each report, what is lifted, and mistakes that move nothing."""

from struct import iter_unpack, unpack

import pytest

from tests.devices.hid_host import GET_REPORT, HidHost
from tests.devices.host import opened
from usbferry.devices.clock import VirtualClock
from usbferry.devices.touch import Touch
from usbferry.usb.setup import Setup
from usbferry.usb.types import Status


def decoded(reports):
    """[(tip, finger, x, y) of each finger that counts] of each report."""
    return [list(iter_unpack("<BBHH", report[1:-3]))[: report[-3]] for report in reports]


@pytest.fixture
async def clock():
    return VirtualClock()


@pytest.fixture
async def touch(clock):
    async with opened(Touch(width=800, height=600, fingers=3, delay=0, clock=clock)) as device:
        yield device


@pytest.fixture
async def host(touch, clock):
    return HidHost(touch, clock, length=22)


async def test_a_tap_is_a_touch_and_its_end_at_the_same_place(touch, host):
    touch.tap(799, 599)
    reports = await host.run(0.1)
    assert decoded(reports) == [[(1, 0, 799, 599)], [(0, 0, 799, 599)]]
    assert {(report[0], len(report)) for report in reports} == {(1, 22)}


async def test_fingers_are_told_apart_until_each_is_lifted(touch, host):
    touch.down(0, 10, 20)
    touch.down(2, 30, 40)
    touch.move(2, 31, 41)
    touch.up(0)
    touch.tap(5, 5)
    touch.up(2)
    assert decoded(await host.run(0.1)) == [
        [(1, 0, 10, 20)],
        [(1, 0, 10, 20), (1, 2, 30, 40)],
        [(1, 0, 10, 20), (1, 2, 31, 41)],
        [(1, 2, 31, 41), (0, 0, 10, 20)],
        [(1, 2, 31, 41), (1, 0, 5, 5)],
        [(1, 2, 31, 41), (0, 0, 5, 5)],
        [(0, 2, 31, 41)],
    ]


async def test_a_swipe_goes_evenly_and_ends_where_it_should(touch, host):
    touch.swipe(100, 500, 300, 100)
    places = [report[0][2:] for report in decoded(await host.run(0.2))]
    assert places == [*((100 + 10 * step, 500 - 20 * step) for step in range(21)), (300, 100)]


async def test_the_scan_time_goes_with_the_clock(touch, host):
    touch.down(0, 1, 1)
    await host.run(0.010)
    touch.move(0, 2, 2)
    await host.run(0.010)
    (before, first), (after, second) = host.reports
    assert unpack("<H", second[-2:])[0] - unpack("<H", first[-2:])[0] == round((after - before) * 10_000) > 0


async def test_a_host_learns_how_many_fingers_there_are(host):
    assert bytes(host.ask(Setup(*GET_REPORT, 0x0302, 0, 2)).data) == b"\x02\x03"
    assert host.ask(Setup(*GET_REPORT, 0x0301, 0, 2)).status == Status.STALL
    assert bytes(host.ask(Setup(*GET_REPORT, 0x0101, 0, 64)).data)[:1] == b"\x01"
    assert host.ask(Setup(*GET_REPORT, 0x0102, 0, 64)).status == Status.STALL


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["down 0 800 0"], "800, 0 is beyond the screen, which has 800 by 600 pixels"),
        (["down 3 0 0"], "there is no finger 3; they are 0 to 2"),
        (["down 0 1 1", "down 0 2 2"], "finger 0 is down already"),
        (["move 1 1 1"], "finger 1 is not down"),
        (["up 1"], "finger 1 is not down"),
        (["swipe 0 0 800 0"], "800, 0 is beyond the screen, which has 800 by 600 pixels"),
        (["down 0 1 1", "down 1 1 1", "down 2 1 1", "tap 3 3"], "all fingers are down"),
        (["tap 1 one"], "'one' is no whole number"),
    ],
)
async def test_a_mistake_is_named_and_moves_nothing(touch, host, lines, text):
    *before, last = lines
    for line in before:
        touch.obey(line)
    with pytest.raises(ValueError) as refused:  # noqa: PT011  (the text is held against the whole)
        touch.obey(last)
    assert str(refused.value) == text
    assert len(await host.run(0.05)) == len(before)


@pytest.mark.parametrize("options", [{"fingers": 0}, {"fingers": 11}, {"width": 1}, {"height": 32768}])
def test_a_screen_that_cannot_be(options):
    with pytest.raises(ValueError):  # noqa: PT011
        Touch(**options)
