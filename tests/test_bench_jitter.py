"""What a bad network does to sound: the measurement runs, and what the page says of it was measured."""

import json
import os
import subprocess
import sys
from pathlib import Path
from subprocess import SubprocessError

import pytest

from bench import jitter
from bench.weather import network

DATA = Path(__file__).parents[1] / "docs" / "jitter.json"
CELLS = [("usbip kernel", "loss", 200), ("gateway", "loss", 200)]


def test_the_page_has_every_run():
    rows = json.loads(DATA.read_text())
    assert [(row["path"], row["weather"], row["buffer_ms"]) for row in rows] == [
        (path, weather, buffer) for path in jitter.PATHS for weather in jitter.WEATHERS for buffer in jitter.BUFFERS_MS
    ]
    assert {tuple(row) for row in rows} == {jitter.Row._fields}


def test_what_the_defaults_are_argued_from():
    """60 ms of a server's are enough for packets that are lost, and 20 are not; beyond that it is the importer's."""
    lost = {
        (r["path"], r["weather"], r["buffer_ms"]): max(r["in_lost"], r["out_lost"])
        for r in map(dict, json.loads(DATA.read_text()))
    }
    assert lost["usbip kernel", "loss", 20] > 0.01
    assert lost["usbip kernel", "loss", 60] == 0
    assert lost["usbip kernel", "jitter", 200] > 0.1
    assert {lost[path, "jitter", 200] for path in ("usbip", "ferry", "relay", "gateway")} == {0}
    assert lost["usbredir", "jitter", 60] == lost["usbredir", "loss", 60] == 0 < lost["usbredir", "jitter", 20]


def test_who_is_told_twice_to_end_says_nothing_of_it():
    """A second SIGTERM while the loop closed was "Exception ignored when trying to write to the signal wakeup fd"."""
    command = [sys.executable, jitter.__file__, "serve", "usbip://127.0.0.1:0", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
        assert json.loads(process.stdout.readline())
        process.terminate()
        assert json.loads(process.stdout.readline()) == [1.0, 0.0, 0.0]
        while process.poll() is None:
            process.terminate()
        assert (process.returncode, process.stderr.read()) == (0, b"")


@pytest.fixture
def root() -> None:
    if os.geteuid() or not Path("/dev/net/tun").exists():
        pytest.skip("it takes root and /dev/net/tun")
    try:
        with network(9):
            pass
    except (OSError, SubprocessError) as error:
        pytest.skip(f"no network namespaces: {error}")


@pytest.mark.alone
async def test_a_run(root):
    """What is lost depends on the machine too: that most is not, and that it is late by the buffer, does not."""
    rows = [row async for row in jitter.measure(CELLS, 1, 2)]
    assert {tuple(row[:3]) for row in rows} == set(CELLS)
    assert all(row.in_lost < 0.5 and row.out_lost < 0.5 for row in rows), rows
    assert all(row.out_p50 > 100 for row in rows), rows


def test_a_network_is_forgotten(root):
    """Its namespaces go with it."""
    with network(7) as net:
        assert Path("/run/netns", net.server).exists()
    assert not Path("/run/netns", net.server).exists()
    assert not Path("/run/netns", net.client).exists()
