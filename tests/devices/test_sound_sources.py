"""Where recorded sound comes from: counters, tones, files, pipes."""

import asyncio
import math
import os
from array import array
from contextlib import suppress

import pytest

from tests.devices.host import turn
from usbferry.device import DeviceError
from usbferry.devices.sound.pcm import Format
from usbferry.devices.sound.sources import Piped, counted, make
from usbferry.devices.sound.wav import head

STEREO = Format()


def samples(data) -> list[int]:
    return list(array("h", bytes(data)))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("noise", "no source of sound: write silence"),
        ("silence:x", "write silence alone"),
        ("tone:a", "no pitch"),
        ("tone:0", "at least 1 Hz"),
        ("wav:", "needs a path"),
        ("fifo:", "needs a path"),
    ],
)
def test_what_is_no_source(text, why):
    with pytest.raises(ValueError, match=why):
        make(text)


def test_silence_is_zeros():
    source = make("silence")
    source.start(STEREO)
    assert source.read(10) == bytes(40)


@pytest.mark.parametrize("width", [2, 3, 4, 6, 8])
def test_each_frame_of_a_counter_is_its_number(width):
    raw = counted(65534, 4, width)
    got = [int.from_bytes(raw[at : at + width], "little") for at in range(0, len(raw), width)]
    assert got == [number % (1 << 8 * width) for number in (65534, 65535, 65536, 65537)]


def test_a_counter_begins_anew_with_each_recording():
    source = make("counter")
    for _ in range(2):
        source.start(STEREO)
        assert source.read(3) + source.read(2) == counted(0, 5, 4)


@pytest.mark.parametrize("rate", [48000, 44100])
def test_a_tone_has_its_pitch_and_goes_on_without_a_seam(rate):
    source = make("tone:441")
    source.start(Format(rate, 1))
    got = [one for count in (1, 100, 7, rate * 2) for one in samples(source.read(count))]
    exact = [16384 * math.sin(2 * math.pi * 441 * n / rate) for n in range(len(got))]
    assert max(abs(a - b) for a, b in zip(got, exact, strict=True)) <= 0.51


async def test_a_file_decides_the_format_and_is_repeated(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(head(Format(44100, 1), 6) + b"abcdef" + b"junk after")
    source = make(f"wav:{path}")
    assert source.format == Format(44100, 1)
    await source.begin(source.format, 0.2)
    for _ in range(2):
        source.start(source.format)
        assert [bytes(source.read(count)) for count in (2, 2, 5, 1)] == [b"abcd", b"efab", b"cdefabcdef", b"ab"]
    await source.end()


async def test_a_file_without_samples_or_that_left_is_an_error_of_one_line(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(head(STEREO, 3) + b"abc")
    source = make(f"wav:{path}")
    with pytest.raises(DeviceError, match="no samples"):
        await source.begin(source.format, 0.2)
    path.unlink()
    with pytest.raises(DeviceError, match="cannot be read"):
        await source.begin(source.format, 0.2)
    with pytest.raises(FileNotFoundError):
        make(f"wav:{path}")


# -- pipes ----------------------------------------------------------------------------------------------------------

SECOND = 1.0
SMALL = Format(8000, 1)  # 16000 bytes in a second


@pytest.fixture
async def piped(tmp_path):
    """A source with half a second to fill, and the FIFO's other end."""
    path = tmp_path / "fifo"
    source = make(f"fifo:{path}")
    assert isinstance(source, Piped)
    await source.begin(SMALL, SECOND)
    writer = os.open(path, os.O_WRONLY)
    source.start(SMALL)
    yield source, writer
    os.close(writer)
    await source.end()


async def arrived(source: Piped, count: int) -> None:
    async with asyncio.timeout(5):
        while len(source._queue) < count:
            await turn()


async def test_there_is_silence_until_the_queue_is_half_full_and_then_no_more(piped):
    source, writer = piped
    assert source.read(100) == bytes(200)
    os.write(writer, b"\1" * 7998)
    await arrived(source, 7998)
    assert source.read(100) == bytes(200)
    os.write(writer, b"\1" * 4000)
    await arrived(source, 11998)
    assert bytes(source.read(5999)) == b"\1" * 11998
    assert source.silent == 0


async def test_a_sound_shorter_than_that_is_heard_too(piped):
    source, writer = piped
    os.write(writer, b"\2" * 200)
    await arrived(source, 200)
    assert bytes(source.read(4000)) == bytes(8000)
    assert bytes(source.read(100)) == b"\2" * 200


async def test_when_it_runs_empty_there_is_one_gap_and_it_is_counted(piped):
    source, writer = piped
    os.write(writer, b"\1" * 8000)
    await arrived(source, 8000)
    assert bytes(source.read(4010)) == b"\1" * 8000 + bytes(20)
    assert source.silent == 10
    os.write(writer, b"\1" * 4000)
    await arrived(source, 4000)
    assert source.read(10) == bytes(20), "it fills again first"
    assert source.silent == 10


async def test_half_a_frame_waits_for_its_other_half(piped):
    source, writer = piped
    os.write(writer, b"\1" * 8001)
    await arrived(source, 8001)
    assert bytes(source.read(4001)) == b"\1" * 8000 + bytes(2)
    os.write(writer, b"\1" * 8001)
    await arrived(source, 8002)
    assert bytes(source.read(4001)) == b"\1" * 8002


async def test_a_program_that_writes_too_much_waits(piped):
    source, writer = piped
    os.set_blocking(writer, False)
    written = 0
    with suppress(BlockingIOError):
        while True:
            written += os.write(writer, b"\1" * 4000)
            await turn()
    assert len(source._queue) == 16000
    assert source.pace() == 1.0, "it waits for us: it has no clock of its own"
    got = 0
    while got < written:
        got += len(source.read(1000))
        await turn()
    assert source.silent == 0


async def test_a_fifo_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "x"
    path.touch()
    with pytest.raises(DeviceError, match="is no FIFO"):
        await make(f"fifo:{path}").begin(SMALL, SECOND)
