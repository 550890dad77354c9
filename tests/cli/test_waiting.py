"""What takes long says so on a terminal, and nowhere else."""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from usbferry.cli import waiting as module
from usbferry.cli.waiting import waiting

LISTED = bytes.fromhex("0111 0005 00000000 00000000")


class Terminal(io.StringIO):
    """`wrote` is set at each line that is complete."""

    def __init__(self) -> None:
        super().__init__()
        self.wrote = threading.Event()

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        self.wrote.set()

    def await_line(self) -> None:
        self.wrote.clear()
        assert self.wrote.wait(20)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AFTER", 0.01)
    monkeypatch.setattr(module, "_EVERY", 0.01)


@pytest.mark.usefixtures("quick")
def test_a_line_that_is_gone_in_the_end() -> None:
    terminal, left = Terminal(), ["a", "b"]
    with waiting(lambda: f"asking {', '.join(left)}", terminal):
        terminal.await_line()
        left.remove("a")
        terminal.await_line()
        terminal.await_line()
    said = terminal.getvalue().split("\r\x1b[K")
    assert said[0] == said[-1] == ""
    assert re.fullmatch(r"asking a, b \.\.\. \d+ s\r", said[1])
    assert re.fullmatch(r"asking b \.\.\. \d+ s\r", said[-2])


@pytest.mark.usefixtures("quick")
def test_it_is_gone_after_an_error_too() -> None:
    terminal = Terminal()

    def fail() -> None:
        with waiting("asking", terminal):
            terminal.await_line()
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert not any("_tell" in thread.name for thread in threading.enumerate())


@pytest.mark.usefixtures("quick")
def test_a_long_line_and_one_that_would_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    terminal = Terminal()
    with waiting("asking \x1b[2J\n" + "x" * 100, terminal):
        terminal.await_line()
    first = terminal.getvalue().split("\r\x1b[K")[1]
    assert first == "asking \N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}xxxxxxx\r"


def test_what_is_quick_says_nothing() -> None:
    terminal = Terminal()
    with waiting("asking", terminal):
        pass
    assert terminal.getvalue() == ""


@pytest.mark.usefixtures("quick")
def test_nothing_on_a_pipe() -> None:
    stream, before = io.StringIO(), threading.active_count()
    with waiting("asking", stream):
        assert threading.active_count() == before
    assert stream.getvalue() == ""


# -- the commands -----------------------------------------------------------------------------------------------------


def slow_server(answer: Callable[[socket.socket], None]) -> tuple[int, threading.Thread]:
    """A server of one connection; its port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listening, listening.accept()[0] as connection:
            connection.recv(40)
            answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    return listening.getsockname()[1], thread


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there are no ptys")
@pytest.mark.parametrize("verb", ["list", "info", "serve"])
def test_who_waits_for_another_machine_is_told(verb: str) -> None:
    """The machine answers once the terminal shows that it is waited for."""
    shown = threading.Event()

    def answer(connection: socket.socket) -> None:
        assert shown.wait(20)
        connection.sendall(LISTED)

    port, thread = slow_server(answer)
    here, there = os.openpty()
    address = f"usbip://127.0.0.1:{port}" + ("/1-1" if verb == "serve" else "")
    with subprocess.Popen([sys.executable, "-m", "usbferry", verb, address], stdout=subprocess.PIPE, stderr=there):
        os.close(there)
        said = b""
        while not re.search(rb"(asking|opening) usbip://127\.0\.0\.1:\d+\S* \.\.\. \d+ s\r", said):
            said += os.read(here, 1000)
        shown.set()
        while True:
            try:
                said += os.read(here, 1000)
            except OSError:  # the terminal's last user has gone
                break
    os.close(here)
    thread.join(20)
    assert said.count(b"\r\x1b[K") >= 2
    error = said.rpartition(b"\r\x1b[K")[2].decode().strip()
    assert {"list": error == "", "info": "there is no device" in error, "serve": "lists no device" in error}[verb], (
        error
    )
