"""Rate matching: a queue between two clocks stays near its target, for hours; and the values of a feedback endpoint."""

import pytest

from usbferry.devices.sound.pcm import Pace
from usbferry.devices.sound.rate_matching import SPAN, Matching, feedback

FRAME = 4
TARGET, FULL = 4800 * FRAME, 9600 * FRAME


def an_hour(ppm: float, chunk: int, *, matched: bool = True) -> tuple[int, int]:
    """The lowest and the highest level, in frames, of a queue that a live far side fills at its own 48 kHz."""
    matching, pace = Matching(TARGET, FULL), Pace(8000)
    level, filled, levels = TARGET, 0.0, []
    for step in range(450_000):  # of 8 ms
        filled += 384 * (1 + ppm / 1e6)
        while filled >= chunk:
            filled -= chunk
            level += chunk * FRAME
        level -= pace.frames(48000 * (matching.factor(level) if matched else 1.0)) * FRAME
        if step > 10_000:
            levels.append(level // FRAME)
        if not 0 < level < FULL:
            return (level // FRAME, level // FRAME)
    return min(levels), max(levels)


@pytest.mark.parametrize("ppm", [-300, 0, 300])
def test_an_hour_of_two_clocks_neither_starves_nor_overflows(ppm):
    lowest, highest = an_hour(ppm, 480)
    assert 3500 < lowest <= highest < 6100


def test_without_it_the_same_hour_runs_over():
    """What the proof above rests on."""
    assert an_hour(300, 480, matched=False)[0] >= 9600


def test_a_far_side_that_waits_for_us_has_no_clock():
    matching = Matching(TARGET, FULL)
    assert [matching.factor(level) for level in (0, FULL, FULL + 4)] == [1, 1, 1]


def test_it_never_asks_for_more_than_a_packet_has_room_for():
    matching = Matching(TARGET, FULL)
    asked = [matching.factor(level) for level in [FULL - 1] * 1000 + [1] * 1000]
    assert max(asked) == pytest.approx(1 + SPAN, rel=1e-4)
    assert min(asked) == pytest.approx(1 - SPAN, rel=1e-4)
    assert 48 * (1 + SPAN) < 49


def test_a_restart_forgets_the_level():
    matching = Matching(TARGET, FULL)
    first = matching.factor(TARGET + 400)
    for _ in range(100):
        matching.factor(FULL - 4)
    matching.restart()
    assert matching.factor(TARGET + 400) == first


@pytest.mark.parametrize(
    ("rate", "full_speed", "value"),
    [(48000, True, "00000c"), (44100, True, "66060b"), (48000, False, "00000600"), (44100, False, "33830500")],
)
def test_feedback_is_frames_of_an_interval_with_binary_places(rate, full_speed, value):
    """10.14 of a frame, 16.16 of a microframe: USB 2.0 §5.12.4.2."""
    assert feedback(rate, full_speed=full_speed).hex() == value
