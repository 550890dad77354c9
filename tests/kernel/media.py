"""What the tests do with sound and pictures in a guest, whichever way the device came there."""

import time
from array import array
from itertools import pairwise
from pathlib import Path

from tests.kernel.guest import CHECKOUT, Guest
from usbferry.devices.sound.pcm import Format
from usbferry.devices.sound.sources import counted
from usbferry.devices.sound.wav import head
from usbferry.devices.video import jpeg

# EPERM: the stream ends while a thread of the driver hands back a transfer that it has copied from, and that may no
# longer be submitted (uvc_video_copy_data_work, uvc_video_stop_transfer in drivers/media/usb/uvc/uvc_video.c).
STOPPED = r"uvcvideo \S+: Failed to resubmit video URB \(-1\)"

V4L2 = f"/usr/bin/python3 -I -S {CHECKOUT / 'tests' / 'kernel' / 'v4l2.py'}"
# Of the guest's programs, near the most that the driver has: in an emulated machine they may be late, and the kernel
# gives up on a stream (EIO) when nothing comes for a tenth more than a buffer, by a clock that may run ahead of ours.
BUFFER = "--buffer-time=5000000 --period-time=125000"


def card_of(guest: Guest, device: str) -> int:
    script = f"""
        until card=$(echo /sys/bus/usb/devices/{device}:1.*/sound/card*) && [ -e $card/number ] &&
            [ -e /dev/snd/controlC$(cat $card/number) ]; do sleep 0.05; done
        cat $card/number
    """
    return int(guest.run(script, 30).ok())


def record_command(card: int, file: str, rate: int, seconds: int) -> str:
    return f"arecord -q -D hw:{card},0 -f S16_LE -c 2 -r {rate} -d {seconds} {BUFFER} $SHARED/{file}"


def play_command(card: int, file: str) -> str:
    return f"aplay -q -D hw:{card},0 {BUFFER} $SHARED/{file}"


def counter_file(path: Path, rate: int, seconds: int) -> int:
    """A WAV file of a counter, from 1 up, as 0 is silence; how many frames.

    Silence follows: ALSA ends a stream when the last frame is with the driver, which then takes back its last packets.
    """
    frames = rate * seconds
    tail = bytes(rate)
    path.write_bytes(head(Format(rate), frames * 4 + len(tail)) + counted(1, frames, 4) + tail)
    return frames


def frames_of(path: Path) -> array:
    raw = path.read_bytes()[44:]
    return array("I", raw[: len(raw) // 4 * 4])


def is_counter(frames: array, first: int) -> bool:
    return frames == array("I", range(first, first + len(frames)))


def lost(numbers: array | list[int], first: int | None = None, last: int | None = None) -> float:
    """The part of them that is missing. They are in order, and none is there twice.

    `first` and `last` are what came of them, where it is not known which were sent.
    """
    assert all(a < b for a, b in pairwise(numbers)), "not in order"
    first, last = numbers[0] if first is None else first, numbers[-1] if last is None else last
    assert first <= numbers[0], "more than was sent"
    assert numbers[-1] <= last, "more than was sent"
    return 1 - len(numbers) / (last - first + 1)


def played(path: Path, frames: int, limit: float = 30) -> array:
    """What was played, without the silence before and after: it is all there when the guest has closed the stream."""
    deadline = time.monotonic() + limit
    while True:
        got = frames_of(path)
        if frames in got:
            return got[got.index(1) if 1 in got else 0 : got.index(frames) + 1]
        assert time.monotonic() < deadline, f"{len(got)} frames in {path}, and not the last"
        time.sleep(0.1)


def exchange(guest: Guest, card: int, to: Path, rate: int, seconds: int) -> None:
    """Record and play a counter at the same time; each frame comes once and in order, and nobody tells of an xrun.

    The card is a headset's that hears a counter and writes to `to`.
    """
    count = counter_file(guest.shared / "play.wav", rate, seconds)
    playing = guest.start(play_command(card, "play.wav"), seconds + 60)
    recording = guest.start(record_command(card, "recorded.wav", rate, seconds), seconds + 60)
    assert (playing.wait().ok(), recording.wait().ok()) == ("", "")
    check_recorded(guest.shared / "recorded.wav", rate * seconds)
    check_played(to, count)


def exchange_in_turn(guest: Guest, card: int, to: Path, rate: int, seconds: int) -> None:
    """The same, one after the other: what carries them has one stream at a time."""
    count = counter_file(guest.shared / "play.wav", rate, seconds)
    assert guest.run(play_command(card, "play.wav"), seconds + 60).ok() == ""
    check_played(to, count)
    assert guest.run(record_command(card, "recorded.wav", rate, seconds), seconds + 60).ok() == ""
    check_recorded(guest.shared / "recorded.wav", rate * seconds)


def check_recorded(path: Path, count: int) -> None:
    """So many frames of a counter, from any number on."""
    frames = frames_of(path)
    assert len(frames) == count
    assert is_counter(frames, frames[0]), f"{lost(frames):.2%} of the recorded frames are missing"


def check_played(path: Path, count: int) -> None:
    """The counter of a file with so many frames."""
    frames = played(path, count)
    assert len(frames) == count
    assert is_counter(frames, 1), "played"


def video_of(guest: Guest, device: str) -> str:
    """Its video device: the first of two, as the other one has metadata alone."""
    script = f"""
        until ls -d /sys/bus/usb/devices/{device}:1.0/video4linux/video* >/dev/null 2>&1; do sleep 0.05; done
        first=$(ls -d /sys/bus/usb/devices/{device}:1.0/video4linux/video* | head -1)
        until [ -e /dev/${{first##*/}} ]; do sleep 0.05; done
        echo /dev/${{first##*/}}
    """
    return guest.run(script, 30).ok().strip()


def cut(raw: bytes, code: str, size: tuple[int, int]) -> list[bytes]:
    """The pictures in a file."""
    if code == "YUYV":
        each = 2 * size[0] * size[1]
        return [raw[at : at + each] for at in range(0, len(raw), each)]
    pictures = []
    while raw:
        end = jpeg.end_of(raw)
        assert end, "the last picture is not whole"
        pictures.append(raw[:end])
        raw = raw[end:]
    return pictures
