"""A mouse: ways split into steps, buttons, wheels, both protocols, and lines from a pipe."""

import asyncio
import logging
import os
from struct import unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.devices.hid_host import BOOT, GET_IDLE, GET_REPORT, SET_PROTOCOL, HidHost, set_idle
from tests.devices.host import ask, opened
from usbferry.devices.clock import VirtualClock
from usbferry.devices.mouse import BUTTONS, Motion, Mouse
from usbferry.usb.setup import Setup
from usbferry.usb.types import Speed


def decoded(reports):
    """(buttons, x, y, wheel, horizontal wheel) of each report."""
    return [unpack("<Bhhbb", report) for report in reports]


@pytest.fixture
async def clock():
    return VirtualClock()


@pytest.fixture
async def mouse(clock):
    async with opened(Mouse(delay=0, clock=clock)) as device:
        yield device


@pytest.fixture
async def host(mouse, clock):
    return HidHost(mouse, clock)


async def boot_host(mouse, clock):
    host = HidHost(mouse, clock)
    host.ask(Setup(*SET_PROTOCOL, BOOT))
    return host


async def test_one_report_for_each_movement(mouse, host):
    mouse.move(300, -20)
    mouse.move(-1, 1)
    assert decoded(await host.run(0.1)) == [(0, 300, -20, 0, 0), (0, -1, 1, 0, 0)]


async def test_both_wheels(mouse, host):
    mouse.wheel(-1)
    mouse.hwheel(2)
    assert decoded(await host.run(0.1)) == [(0, 0, 0, -1, 0), (0, 0, 0, 0, 2)]


async def test_every_button(mouse, host):
    for name in BUTTONS:
        mouse.click(name)
    pressed = [report[0] for report in decoded(await host.run(0.2))]
    assert pressed == [1, 0, 2, 0, 4, 0, 8, 0, 16, 0]


async def test_dragging_keeps_the_button_down(mouse, host):
    mouse.press()
    mouse.move(10, 0)
    mouse.press("right")
    mouse.release("left")
    assert decoded(await host.run(0.1)) == [(1, 0, 0, 0, 0), (1, 10, 0, 0, 0), (3, 0, 0, 0, 0), (2, 0, 0, 0, 0)]


async def test_a_long_way_goes_straight_in_several_reports(mouse, host):
    mouse.move(100_000, -1000)
    mouse.click()
    reports = decoded(await host.run(0.2))
    assert reports == [
        (0, 25_000, -250, 0, 0),
        (0, 25_000, -250, 0, 0),
        (0, 25_000, -250, 0, 0),
        (0, 25_000, -250, 0, 0),
        (1, 0, 0, 0, 0),
        (0, 0, 0, 0, 0),
    ]


async def test_a_fast_wheel_turns_in_several_reports(mouse, host):
    mouse.wheel(300)
    assert [r[3] for r in decoded(await host.run(0.1))] == [100, 100, 100]


async def test_boot_protocol_has_three_bytes_and_short_steps(mouse, clock):
    host = await boot_host(mouse, clock)
    mouse.move(300, -20)
    mouse.wheel(5)  # has no place there
    mouse.press("forward")  # nor has this
    mouse.press("middle")
    assert [unpack("<Bbb", report) for report in await host.run(0.2)] == [
        (0, 100, -7),
        (0, 100, -6),
        (0, 100, -7),
        (0, 0, 0),
        (0, 0, 0),
        (4, 0, 0),
    ]


async def test_what_is_queued_takes_the_protocol_in_force_when_it_leaves(mouse, clock):
    mouse.move(200, 0)
    ask(mouse, Setup(*SET_PROTOCOL, BOOT))
    host = HidHost(mouse, clock)
    assert [unpack("<Bbb", report) for report in await host.run(0.1)] == [(0, 100, 0), (0, 100, 0)]


ways = st.integers(-100_000, 100_000)


@given(ways, ways, st.integers(-1000, 1000), st.integers(-1000, 1000), st.sampled_from([0, 1]))
def test_no_step_is_lost_or_too_long(x, y, wheel, hwheel, protocol):
    mouse = Mouse()
    mouse.protocol = protocol
    change, total, steps = Motion(1, x, y, wheel, hwheel), [0, 0, 0, 0], 0
    while change is not None:
        report, change = mouse.encode(change)
        buttons, *way = unpack("<Bhhbb" if protocol else "<Bbb", report)
        assert buttons == 1
        assert -128 not in way
        total = [a + b for a, b in zip(total, (*way, 0, 0), strict=False)]
        steps += 1
    assert total == [x, y, wheel * protocol, hwheel * protocol]
    longest = max(abs(x), abs(y)) / (32767 if protocol else 127)
    assert steps <= max(1, longest + 1, (max(abs(wheel), abs(hwheel)) / 127 + 1) * protocol)


async def test_a_way_beyond_reason_is_refused(mouse):
    with pytest.raises(ValueError, match="more than"):
        mouse.move(1 << 30, 0)


async def test_it_never_repeats_a_report_by_itself_nor_a_way(mouse, host):
    assert bytes(host.ask(Setup(*GET_IDLE, 0, 0, 1)).data) == b"\0"
    host.ask(set_idle(5))
    mouse.press()
    mouse.move(9, 9)
    assert decoded(await host.run(0.055)) == [(1, 0, 0, 0, 0), (1, 9, 9, 0, 0), (1, 0, 0, 0, 0), (1, 0, 0, 0, 0)]


async def test_get_report_says_which_buttons_are_down(mouse, host):
    mouse.press("right")
    await host.run(0.02)
    assert decoded([host.ask(Setup(*GET_REPORT, 0x0100, 0, 8)).data]) == [(2, 0, 0, 0, 0)]


async def test_buttons_left_down_are_up_for_the_next_host(clock):
    mouse = Mouse(delay=0, clock=clock)
    async with opened(mouse):
        mouse.press()
        await HidHost(mouse, clock).run(0.02)
    async with opened(mouse):
        mouse.move(1, 1)
        assert decoded(await HidHost(mouse, clock).run(0.02)) == [(0, 1, 1, 0, 0)]


# -- lines ------------------------------------------------------------------------------------------------------------


async def test_lines(mouse, host):
    for line in (
        "move 10 -5",
        "  click   right # opens a menu",
        "# nothing",
        "",
        "press",
        "release left",
        "wheel -1",
        "hwheel +2",
    ):
        mouse.obey(line)
    assert decoded(await host.run(0.2)) == [
        (0, 10, -5, 0, 0),
        (2, 0, 0, 0, 0),
        (0, 0, 0, 0, 0),
        (1, 0, 0, 0, 0),
        (0, 0, 0, 0, 0),
        (0, 0, 0, -1, 0),
        (0, 0, 0, 0, 2),
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("jump 1 2", "'jump' is none of move, wheel, hwheel, click, press, release"),
        ("move 1", "move takes 2 words, not 1"),
        ("wheel", "wheel takes 1 word, not 0"),
        ("wheel up", "'up' is no whole number"),
        ("move 1.5 2", "'1.5' is no whole number"),
        ("click thumb", "no button 'thumb'; there are: left, right, middle, back, forward"),
        ("move 99999999999 0", "more than"),
    ],
)
async def test_lines_that_make_no_sense(mouse, host, line, complaint):
    with pytest.raises(ValueError, match=complaint):
        mouse.obey(line)
    assert await host.run(0.1) == []


async def test_a_pipe_is_obeyed_as_it_comes_and_its_mistakes_are_named(tmp_path, clock, caplog):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with opened(Mouse(pipe=str(fifo), delay=0, clock=clock)) as mouse:
        host = HidHost(mouse, clock)
        fifo.write_text("move 1 2\nmove up\nclick")
        fifo.write_text(" left\n")
        while len(host.reports) < 3:
            await host.run(0.01)
            await asyncio.sleep(0)
    assert decoded(report for _, report in host.reports) == [(0, 1, 2, 0, 0), (1, 0, 0, 0, 0), (0, 0, 0, 0, 0)]
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "Mouse: 'move up': move takes 2 words, not 1"
    ]


async def test_a_file_waits_for_the_delay(tmp_path, clock):
    (tmp_path / "file").write_text("move 5 5")
    async with opened(Mouse(pipe=str(tmp_path / "file"), clock=clock)) as mouse:
        host = HidHost(mouse, clock)
        assert await host.run(0.9) == []
        while not host.reports:
            await host.run(0.01)
            await asyncio.sleep(0)
    assert decoded(report for _, report in host.reports) == [(0, 5, 5, 0, 0)]


async def test_bad_options_are_refused_in_words():
    with pytest.raises(ValueError, match="0 or more"):
        Mouse(delay=-1)
    with pytest.raises(ValueError, match="low, full, high"):
        Mouse(speed=Speed.SUPER)


@pytest.mark.parametrize("speed", [Speed.LOW, Speed.FULL, Speed.HIGH])
def test_what_it_is(speed):
    info = Mouse(speed=speed, serial="1").info
    assert (info.device.vendor_id, info.device.product_id) == (0x1209, 0x0002)
    assert (info.speed, info.classes, info.serial) == (speed, ((3, 1, 2),), "1")
