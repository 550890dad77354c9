"""Where played sound goes: checks, files, pipes."""

import asyncio
import os
import time
import wave

import pytest

from usbferry.device import DeviceError
from usbferry.devices.sound.pcm import Format
from usbferry.devices.sound.sinks import Check, Piped, make
from usbferry.devices.sound.sources import counted

STEREO = Format()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("loud", "no place for sound: write null"),
        ("null:x", "write null alone"),
        ("wav:", "needs a path"),
        ("pty", "no place"),
    ],
)
def test_what_is_no_sink(text, why):
    with pytest.raises(ValueError, match=why):
        make(text)


# -- counters -------------------------------------------------------------------------------------------------------


def checked(*pieces: bytes, width: int = 4) -> tuple[int, int]:
    check = make("counter")
    assert isinstance(check, Check)
    check.start(Format(48000, width // 2, 16))
    for piece in pieces:
        check.write(piece)
    check.stop()
    return check.frames, check.gaps


def test_a_counter_in_order_has_no_gap_whatever_it_is_cut_into():
    assert checked(bytes(400), counted(1, 500, 4), counted(501, 1, 4), counted(502, 10, 4), bytes(40)) == (511, 0)


@pytest.mark.parametrize(
    "pieces",
    [
        (counted(1, 10, 4), counted(12, 5, 4)),  # lost
        (counted(1, 10, 4), counted(10, 5, 4)),  # doubled
        (counted(1, 10, 4), bytes(4), counted(11, 5, 4)),  # silence in between
        (counted(1, 10, 4) + counted(12, 5, 4),),
    ],
)
def test_what_is_missing_is_a_gap(pieces):
    assert checked(*pieces)[1] == 1


def test_a_counter_that_wraps_has_no_gap():
    assert checked(counted(65530, 5, 2), counted(65535, 10, 2), counted(65545, 3, 2), width=2) == (18, 0)


# -- files ----------------------------------------------------------------------------------------------------------


def read(path) -> tuple[int, bytes]:
    with wave.open(str(path)) as file:
        return file.getframerate(), file.readframes(1 << 20)


async def test_a_file_holds_all_that_was_played_and_the_next_rate_has_the_next(tmp_path):
    path = tmp_path / "x.wav"
    sink = make(f"wav:{path}")
    await sink.begin(STEREO, 0.2)
    assert read(path) == (48000, b""), "it is there before anything was played"
    for piece in (counted(0, 70_000, 4), counted(70_000, 10, 4)):
        sink.start(STEREO)
        sink.write(memoryview(piece))
        sink.stop()
    for number in (2, 3):
        sink.start(Format(44100 * (number - 1)))
        sink.write(b"abcd")
        sink.stop()
    await sink.end()
    assert read(path) == (48000, counted(0, 70_010, 4))
    assert read(tmp_path / "x-2.wav") == (44100, b"abcd")
    assert read(tmp_path / "x-3.wav") == (88200, b"abcd")


async def test_a_file_is_whole_as_soon_as_the_host_has_stopped(tmp_path):
    path = tmp_path / "x.wav"
    sink = make(f"wav:{path}")
    await sink.begin(STEREO, 0.2)
    sink.start(STEREO)
    sink.write(b"abcd")
    sink.stop()
    async with asyncio.timeout(5):
        while read(path) != (48000, b"abcd"):
            await asyncio.to_thread(time.sleep, 0.001)
    await sink.end()


async def test_each_claim_begins_the_file_anew(tmp_path):
    """Nothing of the claim before is in it: no samples, and no length in its head."""
    path = tmp_path / "x.wav"
    sink = make(f"wav:{path}")
    for played in (bytes(40_000), b"abcd"):
        await sink.begin(STEREO, 0.2)
        sink.start(STEREO)
        sink.write(played)
        sink.lost += 1
        await sink.end()
        assert path.read_bytes()[40:] == len(played).to_bytes(4, "little") + played
    await sink.begin(Format(44100), 0.2)
    assert sink.lost == 0
    sink.start(STEREO)  # nothing was played yet: no second file
    sink.stop()
    await sink.end()
    assert [one.name for one in tmp_path.iterdir()] == ["x.wav"]


async def test_a_first_rate_that_was_not_played_at_leaves_no_empty_file(tmp_path):
    path = tmp_path / "x.wav"
    sink = make(f"wav:{path}")
    await sink.begin(STEREO, 0.2)
    sink.start(Format(44100))
    sink.write(b"abcd")
    await sink.end()
    assert read(path) == (44100, b"abcd")
    assert list(tmp_path.iterdir()) == [path]


async def test_a_file_that_cannot_be_made_is_an_error_of_one_line(tmp_path):
    with pytest.raises(DeviceError, match="cannot be written"):
        await make(f"wav:{tmp_path}/none/x.wav").begin(STEREO, 0.2)


# -- pipes ----------------------------------------------------------------------------------------------------------

SMALL = Format(8000, 1)


async def test_a_fifo_gets_the_samples(tmp_path):
    path = tmp_path / "fifo"
    sink = make(f"fifo:{path}")
    await sink.begin(SMALL, 1.0)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink.start(SMALL)
    sink.write(b"abcd")
    assert os.read(reader, 100) == b"abcd"
    assert sink.pace() == 1.0
    os.close(reader)
    await sink.end()


async def test_a_slow_reader_slows_the_host_down_and_then_loses_what_does_not_fit(tmp_path, caplog):
    path = tmp_path / "fifo"
    sink = make(f"fifo:{path}")
    assert isinstance(sink, Piped)
    sink.bridge.grace = 0.01
    await sink.begin(SMALL, 1.0)
    sink.start(SMALL)
    while not len(sink._queue):
        sink.write(bytes(1600))
    paces = [sink.pace()]
    while not sink.lost:
        sink.write(bytes(1600))
        paces += [sink.pace() for _ in range(200)]
    assert paces[0] > 1, "nearly empty: it may send more"
    assert min(paces) < 1, "nearly full: it is to send less"
    assert sink.lost == 800
    sink.stop()
    sink.stop()
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "800 frames had no room, as too little is taken"
    ]
    await sink.end()
