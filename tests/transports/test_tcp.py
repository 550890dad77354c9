"""Listening on TCP. What goes over it is in test_link.py."""

from __future__ import annotations

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
