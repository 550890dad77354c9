"""The test card: its number can be read by programs in each coding, at each size."""

import tracemalloc
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.devices.video_host import luma_of, number_in
from usbferry.devices.video import test_card
from usbferry.devices.video.uvc import Coding

SIZES = [(128, 96), (160, 120), (176, 144), (320, 240), (640, 480), (1280, 720), (1920, 1080)]


@pytest.mark.parametrize("coding", Coding)
@pytest.mark.parametrize("size", SIZES)
def test_the_number_is_read_back(size, coding):
    for number in (0, 1, 0x80000001, 0xFFFFFFFF, 123456, 0x0F0F3355):
        assert number_in(test_card.card(number, *size, coding), size, coding) == number


@settings(max_examples=30, deadline=None)
@given(number=st.integers(0, 0xFFFFFFFF), size=st.sampled_from(SIZES[:4]), coding=st.sampled_from(Coding))
def test_any_number_is_read_back(number, size, coding):
    assert number_in(test_card.card(number, *size, coding), size, coding) == number


@pytest.mark.parametrize("size", SIZES)
def test_yuy2_has_two_bytes_for_each_pixel(size):
    assert len(test_card.card(7, *size, Coding.YUY2)) == 2 * size[0] * size[1]


@pytest.mark.parametrize("coding", Coding)
def test_colours_are_those_of_the_bars(coding):
    luma = luma_of(test_card.card(0, 640, 480, coding), (640, 480), coding)
    assert [luma(40 + 80 * bar, 300) for bar in range(8)] == [y for y, _, _ in test_card.BARS]


def test_yuy2_and_jpeg_show_the_same():
    size = (320, 240)
    yuy2 = test_card.card(99, *size, Coding.YUY2)
    with Image.open(BytesIO(test_card.card(99, *size, Coding.MJPEG))) as picture:
        picture.draft("YCbCr", None)
        for y in range(8, 240, 16):
            for x in range(8, 320, 16):
                at = 2 * (y * 320 + x)
                assert picture.getpixel((x, y)) == (yuy2[at], yuy2[at + 1], yuy2[at + 3])


def test_the_runner_goes_one_step_each_time():
    size = (640, 480)
    seen = []
    for number in range(41):
        luma = luma_of(test_card.card(number, *size, Coding.YUY2), size, Coding.YUY2)
        seen += [column for column in range(40) if luma(16 * column, 479) == 255]
    assert seen == [*range(40), 0]


def test_the_decimal_number_is_the_same_as_a_person_would_write():
    """Squares across the middle line of six digits: 1 has one, 7 one, 4 three, ..."""
    card = test_card.card(740_111, 640, 480, Coding.YUY2)
    luma = luma_of(card, (640, 480), Coding.YUY2)
    row = 16 * (4 + 1 + 3) + 8
    line = "".join("#" if luma(16 * column + 8, row) == 255 else "." for column in range(8, 31))
    assert line == ".#..###.#.#..#...#...#.."[: len(line)]


@pytest.mark.parametrize("size", [(112, 96), (640, 80)])
def test_a_size_without_room_for_the_number_is_refused(size):
    with pytest.raises(ValueError, match="at least 128x96"):
        test_card.check(*size)


@pytest.mark.slow
@pytest.mark.parametrize("coding", Coding)
def test_what_is_kept_of_pictures_is_little(coding):
    """Each picture has rows of its own, its number's and the runner's: what is kept of them must not be all."""
    for number in range(100_000, 100_400):
        test_card.card(number, 640, 480, coding)
    tracemalloc.start()
    try:
        for number in range(200_000, 201_000):
            test_card.card(number, 640, 480, coding)
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 2_000_000
