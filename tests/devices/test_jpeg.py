"""JPEG: where pictures end, how large they are, and the mosaics that we make; Pillow is the other reader."""

from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from usbferry.devices.video import jpeg
from usbferry.devices.video.jpeg import SQUARE, NoPicture


def photograph(size=(40, 30), **options) -> bytes:
    """A real one, by another encoder: with a thumbnail's markers in it, or progressive."""
    picture = Image.effect_noise(size, 60).convert("RGB")
    written = BytesIO()
    picture.save(written, "JPEG", **options)
    return written.getvalue()


PHOTOGRAPHS = [
    photograph(),
    photograph(progressive=True),
    photograph(restart_marker_blocks=2),
    photograph(quality=100, comment=b"\xff\xd9 \xff\xd8"),
]


@pytest.mark.parametrize("data", PHOTOGRAPHS)
def test_a_picture_ends_where_its_end_marker_is_and_not_before(data):
    assert jpeg.end_of(data + b"\xff\xd8more") == len(data)
    assert [n for n in range(len(data)) if jpeg.end_of(data[:n])] == []


@pytest.mark.parametrize("data", PHOTOGRAPHS)
def test_an_end_is_found_as_the_picture_comes_and_no_byte_is_looked_at_twice(data):
    class Counting(bytearray):
        looked = 0

        def find(self, what, start, stop):
            found = super().find(what, start, stop)
            self.looked += (stop if found < 0 else found) - start
            return found

    ending, came = jpeg.Ending(), Counting()
    ends = []
    for byte in data + b"\xff\xd8more":
        came.append(byte)
        ends.append(ending.find(came) if not ends or not ends[-1] else ends[-1])
    assert ends[len(data) - 2 :] == [0] + [len(data)] * 7
    assert came.looked <= len(data)
    assert jpeg.Ending(5).find(bytes(5) + data) == len(data) + 5
    assert jpeg.Ending(5).find(bytes(5) + data, len(data) + 4) == 0


@pytest.mark.parametrize("data", PHOTOGRAPHS)
def test_its_size_is_in_its_frame_header(data):
    assert jpeg.size_of(data) == (40, 30)
    with pytest.raises(NoPicture):
        jpeg.size_of(data[:30])


@pytest.mark.parametrize("data", [b"GIF89a", b"\xff\xd8abcdef", b"\x00\x00"])
def test_what_is_no_picture_is_said_to_be_none(data):
    with pytest.raises(NoPicture):
        jpeg.end_of(data)


@settings(max_examples=200)
@given(data=st.binary(max_size=60), whole=st.booleans())
def test_any_bytes_are_a_picture_or_none_or_not_yet(data, whole):
    data = b"\xff\xd8\xff" * whole + data
    for reader in (jpeg.end_of, jpeg.size_of):
        with suppress(NoPicture):
            reader(data)


COLOUR = st.tuples(*[st.integers(0, 255)] * 3)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), width=st.integers(1, 40), height=st.integers(1, 40))
def test_a_mosaic_is_exactly_what_another_decoder_reads(data, width, height):
    across, down = -(-width // SQUARE), -(-height // SQUARE)
    row = st.lists(COLOUR, min_size=across, max_size=across).map(tuple)
    rows = data.draw(st.lists(row, min_size=down, max_size=down))
    made = jpeg.squares(rows, width, height)
    assert jpeg.size_of(made) == (width, height)
    assert jpeg.end_of(made) == len(made)
    with Image.open(BytesIO(made)) as picture:
        picture.draft("YCbCr", None)
        picture.load()
        assert picture.size == (width, height)
        for row, y in enumerate(range(0, height, SQUARE)):
            for column, x in enumerate(range(0, width, SQUARE)):
                colour = rows[row][column]
                assert picture.getpixel((x, y))[0] == colour[0]
                if x + 8 < width and y + 8 < height:  # decoders blend the colours at the edges of squares
                    assert picture.getpixel((x + 8, y + 8)) == colour


def test_a_mosaic_of_many_rows_counts_its_restarts():
    rows = [((number * 9, 128, 128),) for number in range(20)]
    with Image.open(BytesIO(jpeg.squares(rows, 16, 320))) as picture:
        picture.draft("YCbCr", None)
        assert [picture.getpixel((0, 16 * n))[0] for n in range(20)] == [n * 9 for n in range(20)]
