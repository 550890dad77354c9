"""Where a camera's pictures come from: files, folders, films, pipes; and what Pillow makes of them."""

import os
import sys
from io import BytesIO

import pytest
from PIL import Image

from tests.devices.host import turn
from tests.devices.video_host import number_in
from usbferry.device import DeviceError
from usbferry.devices.video import converting, test_card
from usbferry.devices.video.pictures import Film, Live, make
from usbferry.devices.video.uvc import Coding

SIZE = (160, 120)


def card(number: int, size=SIZE) -> bytes:
    return test_card.card(number, *size, Coding.MJPEG)


@pytest.fixture
def without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setattr(converting, "is_there", lambda: False)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("screen", "are no pictures: write card"),
        ("card:x", "are no pictures"),
        ("file:", "needs a path"),
        ("mjpeg:", "needs a path"),
    ],
)
def test_what_are_no_pictures(text, why):
    with pytest.raises(ValueError, match=why):
        make(text)


@pytest.mark.parametrize("coding", Coding)
def test_a_card_counts_from_0_for_each_host(coding):
    source = make("card")
    for _ in range(2):
        source.start(coding, SIZE)
        assert [number_in(source.next(), SIZE, coding) for _ in range(3)] == [0, 1, 2]


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_pillow")
def test_a_jpeg_goes_as_it_is_and_in_its_own_size_without_pillow(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(card(5))
    source = make(f"file:{path}")
    assert (source.codings, source.sizes, source.own_size) == ((Coding.MJPEG,), (SIZE,), SIZE)
    source.start(Coding.MJPEG, SIZE)
    assert [source.next(), source.next()] == [card(5)] * 2


@pytest.mark.usefixtures("without_pillow")
def test_without_pillow_other_pictures_are_refused_with_the_remedy(tmp_path):
    (tmp_path / "a.jpg").write_bytes(card(1))
    (tmp_path / "b.jpg").write_bytes(card(2, (320, 240)))
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    for text, why in (
        (f"file:{tmp_path / 'c.png'}", r"is no JPEG.*other pictures need Pillow: .*install Pillow"),
        (f"directory:{tmp_path}", r"b\.jpg is not as large as .*a\.jpg; other pictures need Pillow"),
    ):
        with pytest.raises(ValueError, match=why):
            make(text)


def test_a_folder_is_shown_by_name_again_and_again(tmp_path):
    for number, name in enumerate(("b.jpg", "c.JPEG", "a.jpg")):
        (tmp_path / name).write_bytes(card(number))
    (tmp_path / "note.txt").write_text("no picture")
    source = make(f"directory:{tmp_path}")
    source.start(Coding.MJPEG, SIZE)
    assert [number_in(source.next(), SIZE, Coding.MJPEG) for _ in range(5)] == [2, 0, 1, 2, 0]


def test_a_large_folder_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("usbferry.devices.video.pictures._HELD", 2 * 2 * 160 * 120)
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(card(number))
    source = make(f"directory:{tmp_path}")
    source.start(Coding.YUY2, SIZE)
    assert [number_in(source.next(), SIZE, Coding.YUY2) for _ in range(8)] == [0, 1, 2, 3] * 2
    assert len(source._shown) == 2


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no pictures"):
        make(f"directory:{tmp_path}")


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp"])
@pytest.mark.parametrize("coding", Coding)
def test_pillow_makes_any_picture_any_size_with_black_around_it(tmp_path, kind, coding):
    """A wide white one in a high frame: black above and below."""
    path = tmp_path / f"x.{kind}"
    Image.new("RGB", (200, 50), "white").save(path)
    source = make(f"file:{path}")
    assert (source.sizes, source.own_size) == (None, (200, 50))
    source.start(coding, (64, 64))
    data = source.next()
    if coding is Coding.MJPEG:
        with Image.open(BytesIO(data)) as shown:
            luma = [shown.convert("L").getpixel((32, y)) for y in (2, 32, 61)]
    else:
        luma = [data[2 * (y * 64 + 32)] for y in (2, 32, 61)]
        assert len(data) == 2 * 64 * 64
    assert [abs(a - b) < 4 for a, b in zip(luma, (0, 255, 0), strict=True)] == [True] * 3
    assert source.next() is data, "converted once"


def test_pillow_colours_are_in_the_right_places(tmp_path):
    path = tmp_path / "x.png"
    Image.new("RGB", (64, 64), (255, 0, 0)).save(path)
    source = make(f"file:{path}")
    source.start(Coding.YUY2, (64, 64))
    assert source.next()[:4] in (bytes((76, 84, 76, 255)), bytes((76, 85, 76, 255)))


def test_what_pillow_does_not_know_is_said(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(b"no picture at all")
    with pytest.raises(ValueError, match="no picture that Pillow knows"):
        make(f"file:{path}")


def padded(number: int) -> bytes:
    """One of the right size, and of more bytes than a host has room for."""
    return card(number)[:2] + b"\xff\xfe\xea\x62" + bytes(60_000) + card(number)[2:]


@pytest.mark.usefixtures("without_pillow")
def test_a_picture_of_too_many_bytes_is_left_out_and_said_once(tmp_path, caplog):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(padded(1) if number == 1 else card(number))
    source = make(f"directory:{tmp_path}")
    source.start(Coding.MJPEG, SIZE)
    assert [source.next() for _ in range(4)] == [card(0), card(2)] * 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / '1.jpg'} is left out: it has {len(padded(1))} bytes, of its size a host takes 38400:"
        " use a lower quality"
    ]


def test_with_pillow_a_picture_of_too_many_bytes_is_made_smaller(tmp_path):
    (tmp_path / "1.jpg").write_bytes(padded(1))
    source = make(f"directory:{tmp_path}")
    source.start(Coding.MJPEG, SIZE)
    assert len(source.next()) < 38400


def test_each_picture_of_a_folder_is_looked_at_and_one_that_ends_early_left_out(tmp_path, caplog):
    (tmp_path / "1.jpg").write_bytes(card(1))
    broken = tmp_path / "2.png"
    broken.write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"2\.png is no picture that Pillow knows"):
        make(f"directory:{tmp_path}")
    whole = BytesIO()
    Image.effect_noise((200, 200), 60).save(whole, "PNG")
    broken.write_bytes(whole.getvalue()[:3000])
    source = make(f"directory:{tmp_path}")
    source.start(Coding.YUY2, SIZE)
    assert [number_in(source.next(), SIZE, Coding.YUY2) for _ in range(4)] == [1] * 4
    assert caplog.text.count("2.png is left out") == 1
    (tmp_path / "1.jpg").unlink()
    source = make(f"directory:{tmp_path}")
    source.start(Coding.YUY2, SIZE)
    assert source.next() is None


# -- films ----------------------------------------------------------------------------------------------------------


async def test_a_film_is_shown_picture_by_picture_and_then_again(tmp_path):
    path = tmp_path / "x.mjpeg"
    path.write_bytes(b"".join(card(n) for n in range(3)) + card(3)[:100])
    source = make(f"mjpeg:{path}")
    assert isinstance(source, Film)
    assert (source.sizes, source.codings) == ((SIZE,), (Coding.MJPEG,))
    await source.begin()
    for _ in range(2):
        source.start(Coding.MJPEG, SIZE)
        assert [number_in(source.next(), SIZE, Coding.MJPEG) for _ in range(5)] == [0, 1, 2, 0, 1]
    await source.end()


async def test_a_film_goes_on_after_a_picture_of_too_many_bytes(tmp_path, caplog):
    path = tmp_path / "x.mjpeg"
    path.write_bytes(card(0) + padded(1) + padded(2) + card(3))
    source = make(f"mjpeg:{path}")
    await source.begin()
    source.start(Coding.MJPEG, SIZE)
    assert [source.next() for _ in range(4)] == [card(0), card(3)] * 2
    assert caplog.text.count("a picture is left out") == 1
    path.write_bytes(padded(1) * 2)
    await source.begin()
    source.start(Coding.MJPEG, SIZE)
    assert [source.next(), source.next()] == [None, None]
    await source.end()


def test_a_picture_with_much_before_its_size_is_measured_too(tmp_path):
    """It was once looked for in the first 64 KiB alone."""
    path = tmp_path / "x.mjpeg"
    comment = b"\xff\xfe\xea\x62" + bytes(60_000)
    path.write_bytes(card(1)[:2] + comment * 3 + card(1)[2:])
    assert make(f"mjpeg:{path}").own_size == SIZE


async def test_a_film_that_is_none_or_left_is_an_error_of_one_line(tmp_path):
    path = tmp_path / "x.mjpeg"
    path.write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="is no JPEG"):
        make(f"mjpeg:{path}")
    path.write_bytes(card(1))
    source = make(f"mjpeg:{path}")
    path.unlink()
    with pytest.raises(DeviceError, match="cannot be read"):
        await source.begin()


# -- live -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def live(tmp_path):
    """A source at a FIFO, and the FIFO's other end."""
    path = tmp_path / "fifo"
    source = make(f"mjpeg:{path}")
    assert isinstance(source, Live)
    await source.begin()
    writer = os.open(path, os.O_WRONLY)
    yield source, writer
    os.close(writer)
    await source.end()


async def test_the_newest_picture_is_shown_and_the_first_is_told(live):
    source, writer = live
    arrived = []
    source.arrived = lambda: arrived.append(True)
    source.start(Coding.MJPEG, SIZE)
    assert source.next() is None
    os.write(writer, card(1)[:50])
    await turn()
    assert source.next() is None
    os.write(writer, card(1)[50:])
    await turn()
    assert (source.next(), source.next(), arrived) == (card(1), card(1), [True])
    os.write(writer, card(2) + card(3))
    await turn()
    assert (source.next(), arrived) == (card(3), [True])


async def test_garbage_between_pictures_is_passed_over(live):
    source, writer = live
    source.start(Coding.MJPEG, SIZE)
    os.write(writer, b"--boundary\r\n\xff\xff" + card(7) + b"\r\n")
    await turn()
    assert source.next() == card(7)


async def test_what_has_an_end_and_no_size_is_no_picture(live):
    source, writer = live
    os.write(writer, bytes.fromhex("ffd8ffda0002ffd9"))
    await turn()
    assert source.next() is None
    source.start(Coding.MJPEG, SIZE)
    os.write(writer, bytes.fromhex("ffd8ffda0002ffd9") + card(4))
    await turn()
    assert source.next() == card(4)


async def test_a_live_picture_of_too_many_bytes_is_left_out_and_told_once(live, caplog):
    source, writer = live
    source.start(Coding.MJPEG, SIZE)
    for piece in (card(1), padded(2), padded(3)):
        at = 0
        while at < len(piece):
            at += os.write(writer, piece[at : at + 4096])
            await turn()
    assert source.next() == card(1)
    assert caplog.text.count(f"left out: it has {len(padded(2))} bytes, of its size a host takes 38400") == 1


async def test_what_never_ends_is_given_up(live, monkeypatch):
    monkeypatch.setattr("usbferry.devices.video.pictures._LARGEST", 4096)
    source, writer = live
    source.start(Coding.MJPEG, SIZE)
    os.write(writer, bytes.fromhex("ffd8ffda0002") + bytes(8000))
    await turn()
    assert len(source._collected) == 2
    os.write(writer, card(4))
    await turn()
    assert source.next() == card(4)


async def test_a_picture_of_another_size_is_left_out_and_told_once(live, caplog):
    source, writer = live
    source.start(Coding.MJPEG, SIZE)
    os.write(writer, card(1, (320, 240)) + card(2, (320, 240)) + card(3))
    await turn()
    assert source.next() == card(3)
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == ["not shown"]
    assert "sends 320x240 where the host has chosen 160x120" in caplog.text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs")
def test_a_film_that_is_not_there_is_not_made_a_fifo_without_a_word(tmp_path, caplog):
    path = tmp_path / "flim.mjpeg"
    make(f"mjpeg:{path}")
    assert caplog.messages == [f"there is no file {path}: it is made a FIFO, for programs to write pictures to"]
    caplog.clear()
    os.mkfifo(path)
    make(f"mjpeg:{path}")
    assert caplog.messages == []
