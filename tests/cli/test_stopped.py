"""A verb that is stopped while it waits ends with the signal's exit status, without a word."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


@pytest.mark.parametrize(
    ("words", "number", "status"),
    [
        (("attach", "usbip://{}"), signal.SIGINT, 130),
        (("attach", "usbip://{}"), signal.SIGTERM, 143),
        (("serve", "usbip://{}/1-1"), signal.SIGINT, 130),
        (("serve", "usbip://{}/1-1"), signal.SIGTERM, 143),
        (("list", "usbip://{}"), signal.SIGINT, 130),
        (("info", "usbip://{}/1-1"), signal.SIGINT, 130),
    ],
)
def test_while_a_server_is_silent(words: tuple[str, ...], number: int, status: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        where = "{}:{}".format(*silent.getsockname())
        process = subprocess.Popen(
            [sys.executable, "-m", "usbferry", *(word.format(where) for word in words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            connection, _ = silent.accept()
            with connection:
                connection.recv(1)  # it has asked
                process.send_signal(number)
                said, _ = process.communicate(timeout=30)
        finally:
            process.kill()
            process.communicate()
    assert (process.returncode, said) == (status, "")
