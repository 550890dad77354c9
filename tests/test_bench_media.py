"""What sound, pictures and reports cost: the measurement runs, and nothing grows."""

import os
import sys

import pytest

from bench import media

SOAK = os.environ.get("USBFERRY_SOAK", "") not in ("", "0")
SECONDS = 3600 if SOAK else 2
HEADSET = "virtual:headset?source=tone:440&rates=48000"

pytestmark = [
    pytest.mark.alone,
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


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize(
    ("address", "begin"),
    [(HEADSET, media.sound), ("virtual:camera", media.pictures)],
    ids=["sound", "pictures"],
)
def test_nothing_grows(address, begin):
    """The server's memory, once it has begun: over seconds here, over an hour in `make soak`."""
    row = media.cost(address, [address], begin, SECONDS, "")
    assert row.grown_kib < 1024, row
