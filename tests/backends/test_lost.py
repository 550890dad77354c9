"""A program hears in time that its device is gone, whatever it does with it: of a closed connection, and of silence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.backends.losing import WAYS
from tests.network import SERVER, laid
from tests.server.process import ROOT, Process

CLOSED_SECONDS, SILENT_SECONDS = 1.0, 15.0
LOSING = "tests.backends.losing"
DEVICES = ["virtual:zero"] * len(WAYS)


def told(client: subprocess.Popen[str], since: float) -> dict[str, tuple[float, str]]:
    """Way -> seconds until its device was gone, and the words for it."""
    assert client.stdout is not None
    lines = [json.loads(client.stdout.readline()) for _ in WAYS]
    assert client.wait(10) == 0
    return {name: (when - since, words) for name, when, words in lines}


def late(found: dict[str, tuple[float, str]], seconds: float) -> dict[str, tuple[float, str]]:
    return {name: said for name, said in found.items() if not 0 <= said[0] < seconds}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does")
def test_a_closed_connection_is_noticed_within_a_second() -> None:
    """Its server is killed. A machine that is too busy to notice anything within a second may try again."""
    for _ in range(3):
        with Process(*DEVICES) as server:
            command = [sys.executable, "-m", LOSING, "127.0.0.1", str(server.port)]
            with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE) as client:
                assert client.stdout is not None
                assert client.stdout.readline() == "ready\n"
                since = time.monotonic()
                server.process.send_signal(signal.SIGKILL)
                found = told(client, since)
        assert set(found) == set(WAYS)
        assert all(words.endswith(("Connection reset by peer", "connection was closed")) for _, words in found.values())
        if not late(found, CLOSED_SECONDS):
            return
    raise AssertionError(late(found, CLOSED_SECONDS))


@pytest.mark.alone
def test_a_silent_server_is_noticed_within_fifteen_seconds() -> None:
    """By keepalive where nothing is under way, by what is not acknowledged where something is."""
    with laid() as network:
        serve = ("usbferry", "serve", "--listen", f"{SERVER}:3240", *DEVICES)
        with network.run(network.server, *serve, pipe="stderr") as server:
            assert server.stderr is not None
            assert any("listening on" in line for line in server.stderr)
            with network.run(network.client, LOSING, SERVER, "3240") as client:
                assert client.stdout is not None
                assert client.stdout.readline() == "ready\n"
                network.cut(network.server)
                since = time.monotonic()
                found = told(client, since)
    assert set(found) == set(WAYS)
    assert late(found, SILENT_SECONDS) == {}
    assert all(words.endswith("Connection timed out") for _, words in found.values()), found
