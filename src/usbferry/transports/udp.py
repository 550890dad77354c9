"""UDP: datagrams, of which some get lost, doubled or late. Who sends to one port from one port is one peer.

Packets are small enough for any network that there is, so that none is cut on its way: a cut one is lost with any of
its pieces.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from .link import Link, User
from .packets import PacketLink, PacketSocket, begin_alone, own_socket

log: Final = logging.getLogger(__name__)
PACKET_BYTES: Final = 1232  # what fits the least packet of IPv6, 1280 bytes, behind its headers
MAX_UNPROVEN: Final = 256  # peers of a port that have not shown yet whether they are there
QUIET_SECONDS: Final = 60.0  # between two words of those that were not let in: who floods shall not fill logs too
Opens = Callable[[bytes], bool]


class Listener:
    """The ports that are listened on, and their peers; like asyncio's Server as far as it is used here."""

    def __init__(self, socks: list[socket.socket], user: Callable[[], User], opens: Opens) -> None:
        self.sockets = tuple(socks)
        self._ports = [_Port(sock, user, opens) for sock in socks]

    def close(self) -> None:
        """Nobody is let in any more; a port is closed when its last peer is gone."""
        for port in self._ports:
            port.close()


class _Port:
    """One socket, and who sends to it."""

    def __init__(self, sock: socket.socket, user: Callable[[], User], opens: Opens) -> None:
        self._links: dict[Any, PacketLink] = {}
        self._unproven: set[Any] = set()  # their addresses, which may be anybody's
        self._said_full = -QUIET_SECONDS
        self._user = user
        self._opens = opens
        self._is_closed = False
        self._socket = PacketSocket(sock, self._received, self._failed)
        self._socket.drained = self._drained

    def _received(self, came: list[tuple[bytes, Any]]) -> None:
        of_each: dict[Any, list[bytes]] = {}
        for packet, address in came:
            if address in self._links or self._is_let_in(packet, address):
                of_each.setdefault(address, []).append(packet)
        for address, packets in of_each.items():
            if address in self._links:
                self._alone(address, partial(self._links[address].arrived, packets))

    def _alone(self, address: Any, work: Callable[[], None]) -> None:
        """What goes wrong with one peer ends that one, and costs no other what it sent meanwhile."""
        try:
            work()
        except Exception:
            log.exception("%s could not be served", _name(address))
            if address in self._links:
                self._links[address].abort()

    def _is_let_in(self, packet: bytes, address: Any) -> bool:
        """Whether a packet begins something; what is left of earlier peers, and what strays here, does not."""
        if self._is_closed or not self._opens(packet) or self._is_full(address):
            return False
        self._alone(address, partial(self._let_in, address))
        return address in self._links

    def _let_in(self, address: Any) -> None:
        link = PacketLink(self._user(), _name(address), PACKET_BYTES, is_lossy=True)
        self._links[address] = link
        self._unproven.add(address)
        link.begin(self._socket, address, partial(self._leave, address), partial(self._unproven.discard, address))

    def _is_full(self, address: Any) -> bool:
        """Peers that may not exist have places of their own, or they would take those of all that connect."""
        if len(self._unproven) < MAX_UNPROVEN:
            return False
        now = asyncio.get_running_loop().time()
        if now >= self._said_full + QUIET_SECONDS:
            self._said_full = now
            log.warning(
                "%s and perhaps others not let in: %d more have said a first word and no second, as a flood of forged "
                "packets does",
                _name(address),
                MAX_UNPROVEN,
            )
        return True

    def _leave(self, address: Any) -> None:
        self._links.pop(address, None)
        self._unproven.discard(address)
        if self._is_closed and not self._links:
            self._socket.close()

    def _drained(self) -> None:
        for link in self._links.values():
            link.drained()

    def _failed(self, error: Exception | None) -> None:
        self._socket.read(True)  # it is of one of the peers, who cannot be told

    def close(self) -> None:
        self._is_closed = True
        if not self._links:
            self._socket.close()


async def listen(host: str, port: int, user: Callable[[], User], *, opens: Opens = bool) -> Listener:
    """Serve each address that sends a packet to `host` ("" for every interface) by a new user, if `opens` the packet.

    Port 0 is a free one, the same for every address of the host. Raises OSError when the address cannot be had.
    """
    found = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
    )
    socks: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as error:  # no IPv6 here, perhaps
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                continue
            socks.append(sock)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], port, *address[2:]))
            port = port or sock.getsockname()[1]
        return Listener(socks, user, opens)
    except BaseException:
        for sock in socks:
            sock.close()
        raise


async def connect(host: str, port: int, user: User, timeout: float = 10.0) -> Link:
    """A port of our own that sends to `host`; whether somebody is there is not known before there is an answer.

    Where an address turns away what is sent before that, its next one is tried: the user sends again what was lost.
    Raises OSError, TimeoutError after `timeout` seconds.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout):
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    socks = _connected(found)
    sock = next(socks)
    return begin_alone(_Seeking(user, _name(sock.getpeername()), socks), sock)


class _Seeking(PacketLink):
    """A link to the first of a host's addresses where somebody answers, or where nobody turns its packets away."""

    def __init__(self, user: User, peer: str, others: Iterator[socket.socket]) -> None:
        super().__init__(user, peer, PACKET_BYTES, is_lossy=True)
        self._others = others

    def arrived(self, packets: Sequence[bytes]) -> None:
        self._others = iter(())
        super().arrived(packets)

    def failed(self, error: Exception | None) -> None:
        if self._socket is None:
            return  # closed, and it is the rest of the queue that was turned away
        try:
            sock = next(self._others)
        except (OSError, StopIteration):
            super().failed(error)
        else:
            log.debug("%s: %s", self.peer, error)
            self.peer = _name(sock.getpeername())
            self.move(own_socket(self, sock))


def _connected(found: Sequence[Any]) -> Iterator[socket.socket]:
    """A socket for each address that has a way there. At the end it raises the last OSError."""
    last: OSError = OSError("it has no address")
    for family, kind, protocol, _, address in found:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            last = error
            continue
        try:
            sock.connect(address)
        except OSError as error:
            sock.close()
            last = error
            continue
        yield sock
    raise last


def _name(address: Any) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
