"""Why there is no connection, whatever asyncio makes of it."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys

import pytest

from usbferry.registry import load_exporter
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving
from usbferry.transports.place import Place
from usbferry.transports.reasons import no_listening, no_listening_at_file, reason, reason_at_file


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            ConnectionRefusedError(111, "Connect call failed ('::1', 9)"),
            "Connection refused; is a server running there?",
        ),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 9), [Errno 101] Connect call failed"),
            "Connection refused; is a server running there?",
        ),
        (
            OSError(113, "Connect call failed ('192.0.2.1', 9)"),
            "No route to host; is that machine on, and the address right?",
        ),
        (OSError(101, "x"), "Network is unreachable; is this machine's network up, and the address right?"),
        (
            socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
            "Temporary failure in name resolution; is this machine on the network?",
        ),
        (socket.gaierror(8, "nodename nor servname provided"), "nodename nor servname provided; is the name right?"),
        (OSError("could not get source address"), "could not get source address"),
        (TimeoutError(), "no answer"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="numbers of errors")
def test_why_there_is_no_connection(error: OSError, text: str) -> None:
    assert reason(error) == text


def test_a_name_that_nobody_has() -> None:
    error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert no_listening(error) == "Name or service not known; is the name right?"


@pytest.mark.skipif(sys.platform != "linux", reason="numbers of errors")
def test_a_socket_file_of_somebody_else() -> None:
    text = reason_at_file(PermissionError(errno.EACCES, "x"), "/run/vms/1.sock")
    assert text == "permission denied; run it as the server's user, or as root"
    gone = ConnectionRefusedError(errno.ECONNREFUSED, "x")
    assert reason_at_file(gone, "/run/vms/1.sock") == "Connection refused; is a server running there?"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EADDRINUSE, "another server listens at this file; choose another"),
        (errno.EEXIST, "the file is there and is no socket; choose another"),
        (errno.EACCES, "this user may make no file in /run/vms; choose another"),
        (errno.EPERM, "this user may make no file in /run/vms; choose another"),
        (errno.ENOENT, "there is no folder /run/vms; choose another, or make it"),
        (errno.ENOSPC, "No space left on device"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="paths and texts")
def test_why_nobody_can_listen_at_a_file(number: int, text: str) -> None:
    """It was told of ports below 1024."""
    error = OSError(number, "No space left on device")
    assert no_listening_at_file(error, "/run/vms/1.sock") == text


@pytest.mark.skipif(sys.platform != "linux", reason="numbers of errors")
async def test_a_server_that_connects_says_it_in_words(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        place = Place(*nobody.getsockname())
        async with serving(Catalog()) as server:
            server.connect_to(place, load_exporter("usbip"))
            for _ in range(1000):
                if caplog.records:
                    break
                await asyncio.sleep(0.01)
    assert caplog.records[0].levelno == logging.WARNING
    said = caplog.records[0].getMessage()
    assert said == f"no connection to {place}, trying on: Connection refused; is a server running there?"
