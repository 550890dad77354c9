"""A drawing tablet: what each verb does to its report, and mistakes that move nothing."""

from struct import unpack

import pytest

from tests.devices.hid_host import HidHost
from tests.devices.host import opened
from usbferry.devices.clock import VirtualClock
from usbferry.devices.tablet import Tablet

TIP, BARREL, SECOND, INVERT, ERASER, NEAR = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


def decoded(reports):
    """(switches, x, y, pressure, tilt x, tilt y) of each report."""
    return [unpack("<BHHHbb", report) for report in reports]


@pytest.fixture
async def clock():
    return VirtualClock()


@pytest.fixture
async def tablet(clock):
    async with opened(Tablet(delay=0, clock=clock)) as device:
        yield device


@pytest.fixture
async def host(tablet, clock):
    return HidHost(tablet, clock, length=9)


async def test_a_line_is_drawn(tablet, host):
    tablet.hover(10, 20)
    tablet.draw(10, 20, 1)
    tablet.draw(500, 400)
    tablet.hover(500, 400)
    tablet.away()
    assert decoded(await host.run(0.1)) == [
        (NEAR, 10, 20, 0, 0, 0),
        (NEAR | TIP, 10, 20, 4095, 0, 0),
        (NEAR | TIP, 500, 400, 2048, 0, 0),
        (NEAR, 500, 400, 0, 0, 0),
        (0, 500, 400, 0, 0, 0),
    ]


async def test_buttons_and_tilt_stay_while_it_draws(tablet, host):
    tablet.press()
    tablet.press("second")
    tablet.tilt(-90, 45)
    tablet.draw(1, 1, 0)
    tablet.release()
    assert decoded(await host.run(0.1)) == [
        (BARREL, 0, 0, 0, 0, 0),
        (BARREL | SECOND, 0, 0, 0, 0, 0),
        (BARREL | SECOND, 0, 0, 0, -90, 45),
        (BARREL | SECOND | NEAR | TIP, 1, 1, 0, -90, 45),
        (SECOND | NEAR | TIP, 1, 1, 0, -90, 45),
    ]


async def test_the_other_end_erases(tablet, host):
    tablet.erase(7, 8, 0.25)
    assert decoded(await host.run(0.1)) == [(NEAR | INVERT | ERASER, 7, 8, 1024, 0, 0)]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("hover 29700 0", "29700, 0 is beyond the tablet, which goes to 29699, 20999"),
        ("draw 0 0 1.5", "pressure 1.5 is not between 0 and 1"),
        ("tilt 91 0", "a pen leans -90 to 90 degrees"),
        ("press third", "the pen has no button 'third'; it has: barrel, second"),
        ("draw 1", "draw takes 3 words, not 1"),
        ("away now", "away takes 0 words, not 1"),
    ],
)
async def test_a_mistake_is_named_and_moves_nothing(tablet, host, line, text):
    with pytest.raises(ValueError) as refused:  # noqa: PT011  (the text is held against the whole)
        tablet.obey(line)
    assert str(refused.value) == text
    assert await host.run(0.02) == []
