"""`usbferry demo`, as a person starts it."""

import os
import re
import signal
import subprocess
import sys

import pytest

from usbferry.cli import demo

DEMO = [sys.executable, "-m", "usbferry", "demo"]


@pytest.mark.slow
def test_it_serves_lists_reads_and_measures_and_is_plain_on_a_pipe():
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=55, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    text = done.stdout
    assert "46f4:0001" in text
    assert "0525:a4a0" in text
    assert text.count("checksum right") == 2
    assert "Hello from a USB stick that does not exist." in text
    assert re.search(r"round trip of 64 bytes +[\d,]+ µs", text)
    assert len(re.findall(r"64 KiB each +[\d,]+ MB/s", text)) == 2
    assert "attach -r" in text
    assert "\x1b" not in text
    assert "\r" not in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_it_says_how_it_is_typed_here(monkeypatch, tmp_path):
    """`make demo` named a command that nobody's shell knew."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo.shutil, "which", lambda name: None)
    for argument, typed in (
        (tmp_path / ".venv" / "bin" / "usbferry", os.path.join(".venv", "bin", "usbferry")),
        ("/opt/bin/usbferry", "/opt/bin/usbferry"),
        ("/opt/usbferry/__main__.py", "usbferry"),
    ):
        monkeypatch.setattr(demo.sys, "argv", [str(argument)])
        assert demo._program() == typed
    monkeypatch.setattr(demo.shutil, "which", lambda name: "/usr/bin/usbferry")
    monkeypatch.setattr(demo.sys, "argv", ["/opt/bin/usbferry"])
    assert demo._program() == "usbferry"


@pytest.mark.slow
def test_stay_serves_until_it_is_told_to_stop():
    arguments = [*DEMO, "--stay", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as demo:
        assert demo.stdout is not None
        text = ""
        for line in demo.stdout:
            text += line
            if line.startswith("Serving until"):
                break
        port = re.search(r"devices on 127\.0\.0\.1:(\d+)", text)
        assert port is not None
        assert f"--tcp-port {port[1]} attach" in text
        listing = subprocess.run(
            [sys.executable, "-m", "usbferry", "list", f"usbip://127.0.0.1:{port[1]}"],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert "0525:a4a0" in listing.stdout
        os.kill(demo.pid, signal.SIGTERM)
        assert demo.wait(20) == 0


@pytest.mark.slow
def test_a_port_in_use_is_one_line_with_the_remedy():
    with subprocess.Popen(
        [sys.executable, "-m", "usbferry", "serve", "virtual:zero", "--listen", "127.0.0.1:0"],
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stderr is not None
        where = next(line for line in server.stderr if line.startswith("listening on")).split()[-1]
        done = subprocess.run([*DEMO, "--listen", where], capture_output=True, text=True, timeout=30)
        server.terminate()
    assert done.returncode == 2
    assert "--listen" in done.stderr
    assert done.stderr.count("\n") == 1
