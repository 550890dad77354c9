"""The kernel's snd-usb-audio records from our microphone and plays to our speaker: every frame once, and in order.

Frame n of the counter is the number n, so what is lost, doubled or late shows. ALSA's own programs record and play, and
say when they were too late (an xrun). The clock is ours; the guest's, which is emulated, only has to keep up.
"""

import os
import re
import time
from array import array
from contextlib import contextmanager
from pathlib import Path
from struct import unpack

import pytest

from tests.kernel.guest import Guest
from tests.kernel.steps import Attached, importing, unexpected
from usbferry.devices.pcm import Format
from usbferry.devices.sound_sources import counted
from usbferry.devices.wav import WavFile, head

SOAK = os.environ.get("USBFERRY_SOAK", "") not in ("", "0")
SECONDS = {2: 30, 1: 30} if SOAK else {2: 5, 1: 2}  # by version
SECONDS_MORE = 5 if SOAK else 1  # at the second rate
SPEEDS = [(2, "high"), (1, "full"), *([(2, "super"), (1, "high"), (2, "full")] if SOAK else [])]
VERSIONS = [2, 1] if SOAK else [1]  # whose volumes are heard
NOISE = ("usb usb.*: Not yet implemented", "vhci_device speed not set")  # vhci_hcd counts no frames, and says so
STEREO = Format()
# Of the guest's programs, near the most that the driver has: in an emulated machine they may be late, and the kernel
# gives up on a stream (EIO) when nothing comes for a tenth more than a buffer, by a clock that may run ahead of ours.
BUFFER = "--buffer-time=5000000 --period-time=125000"


@pytest.fixture(scope="module")
def guest(guest: Guest) -> Guest:
    guest.run("modprobe snd-usb-audio").ok()
    return guest


@contextmanager
def carded(guest: Guest, port: int, name: str):
    """A sound device attached for the length of a `with`, and the number of its card."""
    with importing(guest, port, name) as attached:
        yield card_of(guest, attached)


def card_of(guest: Guest, attached: Attached) -> int:
    script = f"""
        until card=$(echo /sys/bus/usb/devices/{attached.device}:1.0/sound/card*) && [ -e $card/number ] &&
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


def played(path: Path, frames: int, limit: float = 30) -> array:
    """What was played, without the silence before and after: it is all there when the guest has closed the stream."""
    deadline = time.monotonic() + limit
    while True:
        got = frames_of(path)
        if frames in got:
            return got[got.index(1) if 1 in got else 0 : got.index(frames) + 1]
        assert time.monotonic() < deadline, f"{len(got)} frames in {path}, and not the last"
        time.sleep(0.1)


# -- counters -------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("version", "speed"), SPEEDS)
def test_each_frame_is_recorded_and_played_once_and_in_order(guest, serve, tmp_path, version, speed):
    """Both directions at once, first at 48 kHz and then at 44.1 kHz."""
    to = tmp_path / "played.wav"
    server = serve(f"virtual:headset?source=counter&to=wav:{to}&version={version}&speed={speed}")
    guest.mark()
    with carded(guest, server.port, "1-1") as card:
        for rate, seconds, file in ((48000, SECONDS[version], to), (44100, SECONDS_MORE, to.with_stem("played-2"))):
            count = counter_file(guest.shared / "play.wav", rate, seconds)
            playing = guest.start(play_command(card, "play.wav"), seconds + 60)
            recording = guest.start(record_command(card, "recorded.wav", rate, seconds), seconds + 60)
            assert (playing.wait().ok(), recording.wait().ok()) == ("", ""), "neither tells of an xrun"
            recorded = frames_of(guest.shared / "recorded.wav")
            assert len(recorded) == rate * seconds
            assert is_counter(recorded, recorded[0]), "recorded"
            got = played(file, count)
            assert len(got) == count
            assert is_counter(got, 1), "played"
    assert WavFile.read(to).format == STEREO
    assert WavFile.read(to.with_stem("played-2")).format == Format(44100)
    assert unexpected(guest, *NOISE) == []


# -- controls -------------------------------------------------------------------------------------------------------


def peak(path: Path) -> int:
    samples = unpack(f"<{(path.stat().st_size - 44) // 2}h", path.read_bytes()[44:])
    return max(samples, default=0)


@pytest.mark.parametrize("version", VERSIONS)
def test_volume_and_mute_act_on_what_is_heard(guest, serve, version):
    """-20 dB is a tenth; the kernel has found the range, and takes it back."""
    server = serve(f"virtual:microphone?source=tone:1000&version={version}")
    guest.mark()
    with carded(guest, server.port, "1-1") as card:
        amixer = f"amixer -q -c {card} sset Mic"
        shown = guest.run(f"amixer -c {card} sget Mic; cat /proc/asound/card{card}/stream0").ok()
        assert re.search(r"Limits: Capture 0 - 60", shown), shown
        assert re.search(r"Rates: 48000, 44100", shown), shown
        script = f"""
            {record_command(card, "full.wav", 48000, 1)}
            {amixer} -- -20dB && {record_command(card, "tenth.wav", 48000, 1)}
            {amixer} nocap && {record_command(card, "muted.wav", 48000, 1)}
            {amixer} cap 0dB && {record_command(card, "again.wav", 44100, 1)}
        """
        guest.run(script).ok()
    peaks = [peak(guest.shared / f"{name}.wav") for name in ("full", "tenth", "muted", "again")]
    assert [abs(peaks[0] - 16384) < 3, abs(peaks[1] - 1638) < 3, peaks[2], abs(peaks[3] - 16384) < 20] == [1, 1, 0, 1]
    assert unexpected(guest, *NOISE) == []
