"""TCP: listen and connect, with the options that notice a vanished peer within 15 seconds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from .link import SHORT_QUEUE, Link, StreamLink, User

# A silent peer is given up after idle + interval * probes = 11 s; one that owes acknowledgements after 10 s, for
# keepalive does not run while data is unacknowledged.
KEEPALIVE_IDLE: Final = 5  # seconds
KEEPALIVE_INTERVAL: Final = 2  # seconds
KEEPALIVE_PROBES: Final = 3
USER_TIMEOUT_MS: Final = 10_000
BACKLOG: Final = 1024
_NAME_BYTES: Final = 16  # TCP_CA_NAME_MAX
_TRIES: Final = 8  # to find a port that is free at every address


def tune(sock: socket.socket) -> None:
    """Set the options of one connected socket; what this system lacks is left out."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPALIVE", KEEPALIVE_IDLE),  # macOS's name for it
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_MS),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_CONGESTION"):
        _hold_nothing_back(sock)


def _hold_nothing_back(sock: socket.socket) -> None:
    """BBR sends by its own clock. Within one machine nothing is congested, and that costs bulk a third of its rate."""
    with suppress(OSError):  # the system does not say, or the peer has left
        used = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_BYTES)
        if used.startswith(b"bbr") and sock.getsockname()[0] == sock.getpeername()[0]:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")  # which every Linux has, for everybody


class TcpLink(StreamLink):
    """A StreamLink that tunes its socket first."""

    def keep_short(self) -> None:
        super().keep_short()
        if self._transport is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, SHORT_QUEUE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tune(transport.get_extra_info("socket"))
        super().connection_made(transport)


async def listen(host: str, port: int, user: Callable[[], User]) -> asyncio.Server:
    """Accept connections on `host` ("" for every interface), each served by a new user.

    Port 0 is a free one, the same for every address of the host. Raises OSError when the address cannot be had.
    """
    loop = asyncio.get_running_loop()

    async def at(number: int) -> asyncio.Server:
        return await loop.create_server(lambda: TcpLink(user()), host or None, number, backlog=BACKLOG)

    server = await at(port)
    for _ in range(_TRIES):
        if len({sock.getsockname()[1] for sock in server.sockets}) == 1:
            break
        with socket.socket() as free:  # for each address the system has chosen another
            free.bind(("", 0))
            number = free.getsockname()[1]
        with suppress(OSError):  # it is not free everywhere
            server, other = await at(number), server
            other.close()
    return server


async def connect(host: str, port: int, user: User, timeout: float = 10.0) -> Link:
    """Connect; `user` is served from then on. Raises OSError, TimeoutError after `timeout` seconds."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout):
        _, link = await loop.create_connection(lambda: TcpLink(user), host, port)
    return link
