"""The kernel's snd-usb-audio and uvcvideo: each frame of sound and each picture arrives once, and in order.

Frame n of a counter, and picture n of the test card, say the number n, so what is lost, doubled or late shows. ALSA's
own programs record and play, and say when they were too late (an xrun); pictures are taken as programs take them. The
clock is ours; the guest's, which is emulated, only has to keep up.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from struct import unpack

import pytest

from tests.devices.video_host import BARS, bars_in, number_in
from tests.kernel import quick_speaker, slow_headset
from tests.kernel.guest import Guest
from tests.kernel.media import (
    STOPPED,
    V4L2,
    card_of,
    check_played,
    counter_file,
    cut,
    exchange,
    exchange_in_turn,
    frames_of,
    play_command,
    record_command,
    video_of,
)
from tests.kernel.steps import HOST, importing, once_it_says, unexpected
from usbferry.devices.sound.pcm import Format
from usbferry.devices.sound.wav import WavFile
from usbferry.devices.video import test_card
from usbferry.devices.video.lens import Lens
from usbferry.devices.video.looks import Looks
from usbferry.devices.video.uvc import Coding

USBFERRY = f"env USBFERRY_LOOP=asyncio {shlex.quote(sys.executable)} -m usbferry"
SOAK = os.environ.get("USBFERRY_SOAK", "") not in ("", "0")
SECONDS = {2: 30, 1: 30} if SOAK else {2: 3, 1: 2}  # by version
SECONDS_MORE = 5 if SOAK else 1  # at the second rate
SPEEDS = [(2, "high"), (1, "full"), *([(2, "super"), (1, "high"), (2, "full")] if SOAK else [])]
VERSIONS = [2, 1] if SOAK else [1]  # whose volumes are heard
NOISE = ("usb usb.*: Not yet implemented", "vhci_device speed not set")  # vhci_hcd counts no frames, and says so
STEREO = Format()


@pytest.fixture(scope="module")
def guest(guest: Guest) -> Guest:
    guest.run("modprobe -a vhci-hcd snd-usb-audio uvcvideo").ok()
    return guest


@contextmanager
def carded(guest: Guest, port: int, name: str):
    """A sound device attached for the length of a `with`, and the number of its card."""
    with importing(guest, port, name) as attached:
        yield card_of(guest, attached.device)


# -- sound -------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("version", "speed"), SPEEDS)
def test_each_frame_is_recorded_and_played_once_and_in_order(guest, serve, tmp_path, version, speed):
    """Both directions at once, first at 48 kHz and then at 44.1 kHz."""
    to = tmp_path / "played.wav"
    server = serve(f"virtual:headset?source=counter&to=wav:{to}&version={version}&speed={speed}", "-v")
    guest.mark()
    with carded(guest, server.port, "1-1") as card:
        for rate, seconds, file in ((48000, SECONDS[version], to), (44100, SECONDS_MORE, to.with_stem("played-2"))):
            exchange(guest, card, file, rate, seconds)
        sets_its_volumes(guest, card, server.log)
    assert WavFile.read(to).format == STEREO
    assert WavFile.read(to.with_stem("played-2")).format == Format(44100)
    assert unexpected(guest, *NOISE) == []


def sets_its_volumes(guest: Guest, card: int, log: Callable[[], str]) -> None:
    """What `amixer` sets, a headset has, in each direction."""
    for control, way, words in (("PCM", "playing", "-20dB mute"), ("Headset", "recording", "-10dB nocap")):
        guest.run(f"amixer -q -c {card} sset {control} -- {words}").ok()
        decibels = words.partition("dB")[0]
        assert re.findall(rf"Headset, {way}: (\S+ dB.*)", log())[-2:] == [f"{decibels} dB", f"{decibels} dB, muted"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_kernel_sends_what_the_feedback_asks_for(guest, serve, tmp_path, version):
    """A device whose clock is 0.3 % ahead is sent 0.3 % more, and none of it is lost."""
    to, ahead = tmp_path / "played.wav", quick_speaker.AHEAD
    server = serve(f"virtual:{quick_speaker.__file__}?to=wav:{to}&version={version}", "-v")
    guest.mark()
    with carded(guest, server.port, "1-1") as card:
        count = counter_file(guest.shared / "play.wav", 48000, 1)
        shown = f"/proc/asound/card{card}/stream0"
        script = f"""
            {play_command(card, "play.wav")} & playing=$!
            until grep -q 'Momentary freq = {48000 * ahead:.0f} Hz' {shown}; do
                kill -0 $playing && sleep 0.02 || exit
            done
            wait $playing
        """
        assert guest.run(script, 60).ok() == "", "the frequency is seen while it plays, and there is no xrun"
        check_played(to, count)
        shown = guest.run(f"cat {shown}").ok()
    assert re.search(r"Sync Endpoint: 0x81", shown), shown
    frames, packets = map(int, re.search(r"sent (\d+) frames in (\d+) packets", server.log()).groups())
    assert 48 * (ahead - 0.0005) < frames / packets < 48 * (ahead + 0.0005)
    assert unexpected(guest, *NOISE) == []


WAYS = ["gateway", *(["relay", "ferry", "ferry+udp"] if SOAK else [])]
DELAYS = "tc qdisc {} dev $(basename /sys/class/net/e*) root netem"


@contextmanager
def attached_by_us(guest: Guest, words: str):
    """A device that our own `attach` carries, for the length of a `with`; its name in the guest's sysfs."""
    relay = guest.start(f"exec {USBFERRY} attach {words}", 240)
    there = re.search(r"^port (\d+): .* is (\S+) here", once_it_says(relay, "Ctrl-C"), re.M)
    assert there, relay.output()
    yield there[2]
    guest.run(f"usbip detach -p {there[1]}").ok()
    relay.wait().ok()


@contextmanager
def delays(guest: Guest):
    """What the guest sends is up to 20 ms late; with a rate, netem keeps its order."""
    guest.run(f"modprobe sch_netem && {DELAYS.format('add')} delay 10ms 10ms rate 100mbit").ok()
    try:
        yield
    finally:
        guest.run(DELAYS.format("del")).ok()


def words_of(way: str, serve, device: str) -> str:
    """What `attach` is told for a device of ours.

    `relay`: USB/IP, checked by a process of ours in the guest; `buffered`: the same, which runs streams ahead. `ferry`:
    our own protocol, into such a process. `gateway`: USB/IP to a second server of ours, and on by ferry.
    """
    if way in ("relay", "buffered"):
        address = f"usbip://{HOST}:{serve(device).port}/1-1"
        return f"--relay {address}" if way == "relay" else f"{address}?buffer=0.5"
    if way == "gateway":
        device = f"usbip://127.0.0.1:{serve(device).port}/1-1"
    protocol = "ferry" if way == "gateway" else way
    log = serve(device, f"--on={protocol}://127.0.0.1:0").log()
    port = re.findall(rf"listening on {re.escape(protocol)}://127\.0\.0\.1:(\d+)", log)[-1]
    return f"{protocol}://{HOST}:{port}/1-1"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", WAYS)
def test_sound_comes_whole_through_all_that_may_lie_between(guest, serve, tmp_path, way):
    to = tmp_path / "played.wav"
    words = words_of(way, serve, f"virtual:headset?source=counter&to=wav:{to}")
    guest.mark()
    with attached_by_us(guest, words) as name:
        exchange(guest, card_of(guest, name), to, 48000, 10 if SOAK else 2)
    assert unexpected(guest, *NOISE) == []


@pytest.mark.timeout(300)
def test_sound_comes_whole_through_delays(guest, serve, tmp_path):
    """Of up to 20 ms, which is more than the kernel asks for ahead: `buffer` does.

    A microphone does not wait for a buffered relay. That of an emulated machine, on a busy one, was a third slower than
    sound is: here the device is slow, too.
    """
    to = tmp_path / "played.wav"
    words = words_of("buffered", serve, f"virtual:{slow_headset.__file__}?to=wav:{to}")
    guest.mark()
    with delays(guest), attached_by_us(guest, words) as name:
        exchange_in_turn(guest, card_of(guest, name), to, 48000, 10 if SOAK else 1)
    assert unexpected(guest, *NOISE) == []


if SOAK:

    def test_a_file_is_recorded_as_it_is(guest, serve, tmp_path):
        """Its samples, from its start, again and again: a second of it in two seconds."""
        path = tmp_path / "source.wav"
        count = counter_file(path, 32000, 1)
        server = serve(f"virtual:microphone?source=wav:{path}")
        guest.mark()
        with carded(guest, server.port, "1-1") as card:
            guest.run(record_command(card, "recorded.wav", 32000, 2), 60).ok()
        file, recorded = frames_of(path), frames_of(guest.shared / "recorded.wav")
        assert len(file) == count + 8000
        assert recorded == (file + file)[:64000]
        assert unexpected(guest, *NOISE) == []

    @pytest.mark.parametrize("kind", ["file", "directory", "mjpeg"])
    def test_pictures_of_files_are_captured_as_they_are(guest, serve, tmp_path, kind):
        """One again and again, those of a folder by name, and those of a film, to the last byte."""
        size, count = (320, 240), 1 if kind == "file" else 7
        there = [test_card.card(100 + number, *size, Coding.MJPEG) for number in range(count)]
        for number, picture in enumerate(there):
            (tmp_path / f"{number}.jpg").write_bytes(picture)
        (tmp_path / "film").write_bytes(b"".join(there))
        where = {"file": tmp_path / "0.jpg", "directory": tmp_path, "mjpeg": tmp_path / "film"}[kind]
        server = serve(f"virtual:camera?source={kind}:{where}")
        guest.mark()
        with importing(guest, server.port, "1-1") as attached:
            video = video_of(guest, attached.device)
            guest.run(f"{V4L2} {video} MJPG {size[0]} {size[1]} 30 30 0 $SHARED/pictures", 120).ok()
        captured = cut((guest.shared / "pictures").read_bytes(), "MJPG", size)
        assert captured == [there[number % count] for number in range(30)]
        assert unexpected(guest, *NOISE, STOPPED) == []


# -- its controls -----------------------------------------------------------------------------------------------------


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


# -- pictures -------------------------------------------------------------------------------------------------------

PICTURES = 300 if SOAK else 45
CODINGS = {"MJPG": Coding.MJPEG, "YUYV": Coding.YUY2}
CAMERAS = [("", "MJPG", (640, 480)), ("version=1.5&bulk", "YUYV", (160, 120))]
if SOAK:
    CAMERAS += [
        ("", "YUYV", (320, 240)),
        ("bulk", "MJPG", (1280, 720)),
        ("version=1.5", "YUYV", (160, 120)),
        ("speed=super", "MJPG", (1280, 720)),
        ("speed=full", "MJPG", (320, 240)),
    ]


def longest_pauses(captured: list[list[float]]) -> list[str]:
    """How long the program waited before which pictures: away for more than its 32 buffers, it loses the next ones."""
    pauses = ((after[3] - before[3], after[1]) for before, after in pairwise(captured))
    return [f"{seconds:.2f} s before picture {number}" for seconds, number in sorted(pauses)[-3:]]


@pytest.mark.parametrize(("options", "code", "size"), CAMERAS)
def test_each_picture_is_captured_once_and_in_order(guest, serve, options, code, size):
    server = serve(f"virtual:camera?{options}", "-v")
    guest.mark()
    other = (320, 240) if size != (320, 240) else (160, 120)
    with importing(guest, server.port, "1-1") as attached:
        video = video_of(guest, attached.device)
        shown = json.loads(guest.run(f"{V4L2} {video} list").ok())
        assert 30.0 in shown[code]["x".join(map(str, size))], shown
        capture(guest, video, code, size, PICTURES)
        capture(guest, video, code, other, 4, rate=15)
        assert f"{CODINGS[code].value} {other[0]}x{other[1]}, 15 per second" in server.log()
        if SOAK or not options:
            is_compliant(guest, video)
        heeds_its_controls(guest, video, code, size)
    assert unexpected(guest, *NOISE, STOPPED) == []


# What v4l2-compliance calls failures and is none of ours. What is automatic cannot be set: the device says "Wrong
# state", as UVC §4.2.2.1.4 has it, and the driver EACCES. A stream without buffers is EBUSY to uvc_has_privileges
# (drivers/media/usb/uvc/uvc_v4l2.c), and the program wants EINVAL.
NO_FAILURES = {
    "VIDIOC_G/S_CTRL",
    "VIDIOC_G/S/TRY_EXT_CTRLS",
    *(f"MMAP ({way})" for way in ("no poll", "select", "epoll")),
}
COMPLIANT = 48  # tests of 53


def is_compliant(guest: Guest, video: str) -> None:
    """The kernel's own judge of video devices, which streams too, finds nothing else."""
    said = guest.run(f"v4l2-compliance -d {video} -s 10", 100).output
    failed = re.findall(r"^\s*test (.*): FAIL", said, re.M)
    total, passed = map(int, re.search(r"^Total for .*: (\d+), Succeeded: (\d+)", said, re.M).groups())
    assert set(failed) <= NO_FAILURES, said
    assert total - len(failed) == passed >= COMPLIANT, said


# What there is and what is set: least, most, usual and new value, as V4L2 has them; its exposure modes are a menu.
LOOKS = {
    "brightness": [-100, 100, 0, -20],
    "contrast": [0, 200, 100, 120],
    "saturation": [0, 200, 100, 50],
    "hue": [-180, 180, 0, 90],
}
LENS = {
    "exposure_mode": [0, 3, 3, 1],
    "exposure": [1, 10000, 333, 250],
    "focus_auto": [0, 1, 1, 0],
    "focus": [100, 10000, 1000, 2000],
    "zoom": [100, 400, 100, 200],
    "pan": [-36000, 36000, 0, 3600],
    "tilt": [-36000, 36000, 0, -7200],
}


def heeds_its_controls(guest: Guest, video: str, code: str, size: tuple[int, int]) -> None:
    """The kernel knows the controls, and what they do is seen."""
    there = LOOKS | LENS
    told = json.loads(guest.run(f"{V4L2} {video} controls").ok())
    assert told == {name: [least, most, usual, usual] for name, (least, most, usual, _) in there.items()}
    words = " ".join(f"{name} {new}" for name, (*_, new) in there.items())
    assert json.loads(guest.run(f"{V4L2} {video} controls {words}").ok()) == there
    guest.run(f"{V4L2} {video} {code} {size[0]} {size[1]} 30 1 0 $SHARED/heeding").ok()
    looks, lens = Looks(), Lens()
    looks.values.update({name: new for name, (*_, new) in LOOKS.items()})
    lens.values.update({name: new for name, (*_, new) in LENS.items()})
    assert (guest.shared / "heeding").read_bytes() == test_card.card(0, *size, CODINGS[code], looks, lens)


def capture(guest: Guest, video: str, code: str, size: tuple[int, int], count: int, rate: int = 30) -> None:
    """Take pictures of the test card: each is there once, in order, and to the last byte; one is looked at.

    The driver throws away what it has no buffer for. The program's 32 last a second: a machine, or a server, that
    stands still for two loses nothing, a program that does so for 1.1 s loses pictures.
    """
    done = guest.run(f"{V4L2} {video} {code} {size[0]} {size[1]} {rate} {count} 0 $SHARED/pictures", 120).ok()
    captured = json.loads(done)
    got = [(sequence, flags & 0x40) for _, sequence, flags, _ in captured]
    assert got == [(n, 0) for n in range(count)], longest_pauses(captured)
    pictures = cut((guest.shared / "pictures").read_bytes(), code, size)
    assert [len(picture) for picture in pictures] == [used for used, *_ in captured]
    coding = CODINGS[code]
    assert [number_in(picture, size, coding) for picture in pictures] == list(range(count))
    assert [n for n in range(count) if pictures[n] != test_card.card(n, *size, coding)] == [], "not as they were sent"
    assert bars_in(pictures[-1], size, coding) == BARS


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("way", "options"),
    [(WAYS[0], ""), *([(w, o) for w in WAYS for o in ("", "bulk")][1:] if SOAK else [])],
)
def test_pictures_come_whole_through_all_that_may_lie_between(guest, serve, way, options):
    words = words_of(way, serve, f"virtual:camera?{options}")
    guest.mark()
    with attached_by_us(guest, words) as name:
        capture(guest, video_of(guest, name), "MJPG", (320, 240), 300 if SOAK else 30)
    assert unexpected(guest, *NOISE, STOPPED) == []
