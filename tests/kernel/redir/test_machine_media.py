"""Sound and pictures into a virtual machine, by QEMU's usb-redir: each frame in its order, none twice, hardly one lost.

usbredir has isochronous packets come when they come: QEMU keeps 60 ms of them, and drops what is too much, as our own
exporter does. So on a machine that stands still for longer some are lost, and the others are right all the same. Over
bulk endpoints nothing is.
"""

import json
import os
from array import array
from pathlib import Path

import pytest

from tests.devices.video_host import number_in
from tests.kernel.media import (
    STOPPED,
    V4L2,
    card_of,
    counter_file,
    cut,
    frames_of,
    lost,
    play_command,
    record_command,
    video_of,
)
from tests.kernel.redir.plugging import EHCI, TAKEN_BACK, XHCI, device_with, plugged, wait_for
from tests.kernel.steps import unexpected
from usbferry.devices.video.test_card import card
from usbferry.devices.video.uvc import Coding

SOAK = os.environ.get("USBFERRY_SOAK", "") not in ("", "0")
SECONDS = 10 if SOAK else 1
PICTURES = 300 if SOAK else 20
CONTROLLERS = [XHCI, *([EHCI] if SOAK else [])]
MOST_LOST = 0.1  # of all


def played(path: Path, count: int) -> array:
    """The frames of a counter in a file, once its last tenth of a second has begun, and the silence that follows it."""

    def is_over() -> bool:
        frames = frames_of(path)
        return any(frame > count - 4800 for frame in frames) and not frames[-1]

    wait_for(is_over, witness=lambda: len(frames_of(path)))
    return array("I", [frame for frame in frames_of(path) if frame])


def test_what_is_lost_at_either_end_counts():
    """Of sound that had ended too soon, all was said to have come."""
    assert lost([2, 3], 1, 4) == 0.5
    assert lost([1, 2, 3, 4], 1, 4) == lost([7, 8]) == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bus", CONTROLLERS)
def test_sound_both_ways(guest, offer, tmp_path, bus):
    to = tmp_path / "played.wav"
    guest.run("modprobe snd-usb-audio").ok()
    _, [port] = offer(f"virtual:headset?source=counter&to=wav:{to}&serial=headset")
    with plugged(guest, port, bus):
        card = card_of(guest, device_with(guest, "headset"))
        count = counter_file(guest.shared / "play.wav", 48000, SECONDS)
        playing = guest.start(play_command(card, "play.wav"), SECONDS + 60)
        recording = guest.start(record_command(card, "recorded.wav", 48000, SECONDS), SECONDS + 60)
        assert (playing.wait().ok(), recording.wait().ok()) == ("", ""), "neither tells of an xrun"
        recorded = frames_of(guest.shared / "recorded.wav")
        missing = {"recorded": lost(recorded), "played": lost(played(to, count), 1, count)}
    assert len(recorded) == SECONDS * 48000
    assert max(missing.values()) < MOST_LOST, missing
    assert unexpected(guest) == []


@pytest.mark.timeout(300)
def test_pictures_over_a_bulk_endpoint(guest, offer):
    guest.run("modprobe uvcvideo").ok()
    _, [port] = offer("virtual:camera?serial=camera&bulk")
    with plugged(guest, port, XHCI):
        video = video_of(guest, device_with(guest, "camera"))
        done = guest.run(f"{V4L2} {video} MJPG 320 240 30 {PICTURES} 0 $SHARED/pictures", 120).ok()
    assert len(json.loads(done)) == PICTURES
    pictures = cut((guest.shared / "pictures").read_bytes(), "MJPG", (320, 240))
    numbers = [number_in(one, (320, 240), Coding.MJPEG) for one in pictures]
    assert numbers == list(range(PICTURES))
    assert unexpected(guest, STOPPED) == []


if SOAK:

    @pytest.mark.timeout(300)
    @pytest.mark.parametrize(("speed", "most_lost"), [("full", MOST_LOST), ("high", 0.5)])
    def test_pictures_over_an_isochronous_endpoint(guest, offer, speed, most_lost):
        """A picture that lost a packet is thrown away by the driver; the others are whole, and in order.

        The driver has 160 packets under way: 160 ms at full speed, but 20 at high speed.
        """
        guest.run("modprobe uvcvideo").ok()
        _, [port] = offer(f"virtual:camera?serial=camera&sizes=160x120&formats=mjpeg&rates=10&speed={speed}")
        with plugged(guest, port, XHCI):
            video = video_of(guest, device_with(guest, "camera"))
            guest.run(f"{V4L2} {video} MJPG 160 120 10 100 0 $SHARED/pictures", 120).ok()
        pictures = cut((guest.shared / "pictures").read_bytes(), "MJPG", (160, 120))
        numbers = [number_in(one, (160, 120), Coding.MJPEG) for one in pictures]
        assert [n for n, one in zip(numbers, pictures, strict=True) if one != card(n, 160, 120, Coding.MJPEG)] == []
        assert lost(numbers) < most_lost
        assert unexpected(guest, STOPPED, TAKEN_BACK) == []
