"""What sound, pictures and reports cost: the measurement runs, and in `make soak` nothing grows in minutes."""

import os
import sys

import pytest

from bench import media

SOAK = os.environ.get("USBFERRY_SOAK", "") not in ("", "0")
HEADSET = "virtual:headset?source=tone:440&rates=48000"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


@pytest.mark.timeout(120)
def test_every_row_is_measured():
    rows = list(media.measure(0.5))
    assert [row.work for row in rows] == [
        "stereo sound both ways",
        "the same of eight devices",
        "1080p30 MJPEG",
        "reports at 1000 Hz",
        "reports at 8000 Hz",
    ]
    assert all(0 <= row.cpu_percent < 110 for row in rows)
    assert all("a second" in row.more for row in rows)


@pytest.mark.skipif(not SOAK, reason="ten minutes for both: make soak")
@pytest.mark.timeout(1000)
@pytest.mark.parametrize(
    ("address", "begin"),
    [(HEADSET, media.sound), ("virtual:camera", media.pictures)],
    ids=["sound", "pictures"],
)
def test_nothing_grows_in_five_minutes(address, begin):
    row = media.cost(address, [address], begin, 300, "")
    assert row.grown_kib < 1024, row
