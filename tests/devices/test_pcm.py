"""Samples: how many go into each packet, how loud they are, and what formats there are."""

from array import array
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbferry.devices.sound.pcm import MUTED, Format, Pace, decibels, packet_frames, scaled

RATES = [8000, 11025, 22050, 44100, 48000, 88200, 96000, 176400, 192000]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("interval_us", [125, 250, 500, 1000])
def test_an_hour_of_packets_holds_exactly_an_hour_of_frames(rate, interval_us):
    pace = Pace(interval_us)
    per_second = 1_000_000 // interval_us
    seconds = [sum(pace.frames(rate) for _ in range(per_second)) for _ in range(5)]
    assert seconds == [rate] * 5


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("interval_us", [125, 1000])
def test_packets_differ_by_one_frame_at_most(rate, interval_us):
    pace = Pace(interval_us)
    exact = Fraction(rate * interval_us, 1_000_000)
    sizes = {pace.frames(rate) for _ in range(10_000)}
    assert sizes <= {int(exact), -(-exact.numerator // exact.denominator)}
    assert max(sizes) < packet_frames(rate, interval_us)


def test_441_is_nine_times_44_and_once_45():
    pace = Pace(1000)
    sizes = [pace.frames(44100) for _ in range(20)]
    assert [sizes.count(44), sizes.count(45)] == [18, 2]


def test_a_rate_a_little_quicker_shows_in_the_long_run_alone():
    pace = Pace(1000)
    assert sum(pace.frames(48000 * 1.0001) for _ in range(10_000)) == 480_048


def test_a_restart_forgets_the_remainder():
    pace = Pace(1000)
    first = [pace.frames(44100) for _ in range(13)]
    pace.restart()
    assert [pace.frames(44100) for _ in range(13)] == first


@pytest.mark.parametrize(
    ("arguments", "why"),
    [((48000, 2, 8), "16, 24 or 32"), ((48000, 9, 16), "1 to 8"), ((48000, 0, 16), "1 to 8"), ((100, 2, 16), "4000")],
)
def test_what_is_no_format(arguments, why):
    with pytest.raises(ValueError, match=why):
        Format(*arguments)


def test_frames_of_a_format():
    assert [(f.sample_bytes, f.frame_bytes) for f in (Format(), Format(96000, 8, 24), Format(8000, 1, 32))] == [
        (2, 4),
        (3, 24),
        (4, 4),
    ]


# -- loudness -------------------------------------------------------------------------------------------------------


def test_0_db_touches_nothing_and_mute_leaves_zeros():
    data = bytes(range(12))
    assert scaled(data, 2, decibels(0)) is data
    assert scaled(data, 2, MUTED) == bytes(12)


@pytest.mark.parametrize("sample_bytes", [2, 3, 4])
@given(data=st.data())
def test_every_sample_is_scaled_towards_zero(sample_bytes, data):
    top = 1 << 8 * sample_bytes - 1
    samples = data.draw(st.lists(st.integers(-top, top - 1), max_size=8))
    raw = b"".join(one.to_bytes(sample_bytes, "little", signed=True) for one in samples)
    got = bytes(scaled(memoryview(raw), sample_bytes, decibels(-20 * 256)))
    parts = [got[at : at + sample_bytes] for at in range(0, len(got), sample_bytes)]
    assert [int.from_bytes(part, "little", signed=True) for part in parts] == [int(one * 0.1) for one in samples]


def test_decibels_are_in_parts_of_256():
    assert [round(decibels(level), 4) for level in (0, -20 * 256, -6 * 256, -60 * 256)] == [1, 0.1, 0.5012, 0.001]


def test_samples_are_little_endian():
    assert (
        bytes(scaled(array("h", [1000]).tobytes() if array("h", b"\1\0")[0] == 1 else b"\xe8\3", 2, 0.5)) == b"\xf4\1"
    )
