"""Listening on TCP. What goes over it is in test_link.py."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.transports.test_link import Taker
from usbferry.transports import tcp


async def test_a_free_port_is_the_same_for_every_address() -> None:
    for _ in range(5):
        server = await tcp.listen("", 0, Taker)
        ports = [sock.getsockname()[1] for sock in server.sockets]
        server.close()
        await server.wait_closed()
        if len(ports) == 1:
            pytest.skip("there is no IPv6 here")
        assert len(set(ports)) == 1


class Far(socket.socket):
    """One whose peer is another machine, as far as it says."""

    def getpeername(self) -> tuple[str, int]:
        return ("192.0.2.7", 3240)


class Reticent(socket.socket):
    """One of a system that lacks the option: its name is the C library's."""

    def getsockopt(self, *args: int) -> bytes:  # type: ignore[override]
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as sock:
        yield sock


@pytest.fixture
def paced(server: socket.socket) -> Iterator[socket.socket]:
    """A connected socket whose packets BBR holds back."""
    with closing(socket.create_connection(server.getsockname())) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
        except OSError:
            pytest.skip("this system has no BBR, or not for everybody")
        yield sock


def congestion_control(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


@pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="only Linux says what it uses")
class TestBbr:
    def test_within_a_machine_nothing_is_held_back(self, paced: socket.socket) -> None:
        tcp.tune(paced)
        assert congestion_control(paced) == b"reno"

    def test_between_machines_the_systems_choice_stays(self, paced: socket.socket) -> None:
        far = Far(fileno=paced.detach())
        with closing(far):
            tcp.tune(far)
            assert congestion_control(far) == b"bbr"

    def test_a_peer_that_has_left_is_no_error(self, server: socket.socket, paced: socket.socket) -> None:
        server.close()  # which resets whom it has not accepted
        with pytest.raises(OSError, match="not connected"):
            paced.getpeername()
        tcp.tune(paced)

    def test_where_the_system_does_not_say_nothing_is_changed(self, server: socket.socket) -> None:
        with closing(Reticent()) as sock:
            sock.connect(server.getsockname())
            tcp.tune(sock)
