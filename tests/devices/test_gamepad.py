"""A gamepad: what each verb does to its report, the light, and lines from a pipe."""

import os
from struct import unpack

import pytest

from tests.devices.hid_host import GET_REPORT, SET_REPORT, HidHost
from tests.devices.host import opened
from usbferry.devices.clock import VirtualClock
from usbferry.devices.gamepad import BUTTONS, WAYS, Gamepad
from usbferry.usb.setup import Setup
from usbferry.usb.types import Speed

AT_REST = (0, 8, 0, 0, 0, 0, 0, 0)


def decoded(reports):
    """(buttons, direction pad, left x, y, right x, y, left trigger, right trigger) of each report."""
    return [unpack("<HBhhhhBB", report) for report in reports]


@pytest.fixture
async def clock():
    return VirtualClock()


@pytest.fixture
async def gamepad(clock):
    async with opened(Gamepad(delay=0, clock=clock)) as device:
        yield device


@pytest.fixture
async def host(gamepad, clock):
    return HidHost(gamepad, clock, length=13)


async def test_every_button_has_its_bit(gamepad, host):
    for name in BUTTONS:
        gamepad.tap(name)
    pressed = [report[0] for report in decoded(await host.run(0.2))]
    assert pressed == [bits for number in range(15) for bits in (1 << number, 0)]


async def test_buttons_are_held_beside_each_other(gamepad, host):
    gamepad.press("lb")
    gamepad.tap("a")
    gamepad.release("lb")
    assert [report[0] for report in decoded(await host.run(0.1))] == [0x40, 0x41, 0x40, 0]


async def test_sticks_and_triggers_stay_where_they_are_held(gamepad, host):
    gamepad.stick("left", 1, -1)
    gamepad.stick("right", -0.5, 0)
    gamepad.trigger("left", 1)
    gamepad.trigger("right", 0.5)
    assert decoded(await host.run(0.1)) == [
        (0, 8, 32767, -32767, 0, 0, 0, 0),
        (0, 8, 32767, -32767, -16384, 0, 0, 0),
        (0, 8, 32767, -32767, -16384, 0, 255, 0),
        (0, 8, 32767, -32767, -16384, 0, 255, 128),
    ]


async def test_the_direction_pad_goes_round_and_rests_at_its_null_value(gamepad, host):
    for way in WAYS:
        gamepad.dpad(way)
    gamepad.dpad()
    assert [report[1] for report in decoded(await host.run(0.1))] == [0, 1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("press q", f"there is no button 'q'; there are: {', '.join(BUTTONS)}"),
        ("stick middle 0 0", "'middle' is neither left nor right"),
        ("stick left 0 1.5", "1.5 is not between -1 and 1"),
        ("stick left nan 0", "nan is not between -1 and 1"),
        ("trigger left -0.1", "-0.1 is not between 0 and 1"),
        ("trigger left", "trigger takes 2 words, not 1"),
        ("dpad north", f"'north' is none of {', '.join(WAYS)}"),
        ("dpad up up", "dpad takes 1 word, not 2"),
    ],
)
async def test_a_mistake_is_named_and_moves_nothing(gamepad, host, line, text):
    with pytest.raises(ValueError) as refused:  # noqa: PT011  (the text is held against the whole)
        gamepad.obey(line)
    assert str(refused.value) == text
    assert await host.run(0.02) == []


async def test_the_light_is_set_asked_for_and_told(gamepad, host):
    told = []
    gamepad.light_changed = told.append
    assert host.ask(Setup(*SET_REPORT, 0x0200, 0, 1), b"\x01").status == 0
    assert bytes(host.ask(Setup(*GET_REPORT, 0x0200, 0, 1)).data) == b"\x01"
    host.ask(Setup(*SET_REPORT, 0x0200, 0, 1), b"\x01")
    host.ask(Setup(*SET_REPORT, 0x0200, 0, 1), b"\x00")
    assert told == [True, False]
    assert host.ask(Setup(*SET_REPORT, 0x0200, 0, 2), b"\x01\x01").status != 0


async def test_a_pipe_is_obeyed_and_the_next_host_begins_at_rest(tmp_path, clock):
    path = tmp_path / "pad"
    path.write_text("press a   # held\nstick right 0 1\n")
    gamepad = Gamepad(pipe=os.fspath(path), delay=0, clock=clock)
    async with opened(gamepad):
        host = HidHost(gamepad, clock, length=13)
        for _ in range(500):  # a file is read in a thread
            if len(host.reports) == 2:
                break
            await host.run(0.01)
        assert decoded(report for _, report in host.reports) == [(1, 8, 0, 0, 0, 0, 0, 0), (1, 8, 0, 0, 0, 32767, 0, 0)]
    assert decoded([gamepad.current_report()]) == [AT_REST]


def test_a_report_needs_more_than_low_speed_has():
    with pytest.raises(ValueError, match="full, high speed"):
        Gamepad(speed=Speed.LOW)
