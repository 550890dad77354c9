"""Socket files that keep the borders of what is sent (SOCK_SEQPACKET): listen and connect, on Linux and its like."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from .link import Link, User
from .packets import PacketLink, begin_alone
from .unix import OwnFile, made

log: Final = logging.getLogger(__name__)
PACKET_BYTES: Final = 96 * 1024  # of one packet; Linux's socket buffers hold twice that from the start
BACKLOG: Final = 128
AGAIN_SECONDS: Final = 1.0  # before others are let in where the system has no room for one more, as in asyncio
_NO_ROOM: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Listener:
    """A socket file that is listened on; like asyncio's Server as far as it is used here."""

    def __init__(self, sock: socket.socket, user: Callable[[], User]) -> None:
        self.sockets = (sock,)
        self._user = user
        self._file = OwnFile(sock.getsockname())
        self._again: asyncio.TimerHandle | None = None
        self._let_in()

    def _let_in(self) -> None:
        self._again = None
        asyncio.get_running_loop().add_reader(self.sockets[0], self._accept)

    def _accept(self) -> None:
        try:
            connected, _ = self.sockets[0].accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._wait(error)
            return
        try:
            link = PacketLink(self._user(), "local", PACKET_BYTES, is_lossy=False)
        except BaseException:
            connected.close()
            raise
        begin_alone(link, connected)

    def _wait(self, error: OSError) -> None:
        """Who knocks goes on knocking: without a pause the loop would do nothing but look."""
        loop = asyncio.get_running_loop()
        log.error("nobody is let in for %g s: %s", AGAIN_SECONDS, os.strerror(error.errno or 0))
        loop.remove_reader(self.sockets[0])
        self._again = loop.call_later(AGAIN_SECONDS, self._let_in)

    def close(self) -> None:
        """Nobody is let in any more, and the file goes; who is there stays."""
        [sock] = self.sockets
        if self._again is not None:
            self._again.cancel()
        if sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(sock)
            self._file.remove()
            sock.close()


async def listen(path: str, user: Callable[[], User], mode: int | None = None) -> Listener:
    """Accept connections on a socket file, each served by a new user. One that nobody listens on is replaced.

    `mode` is that of `made`. Raises OSError when the file cannot be had, with EADDRINUSE when somebody listens there.
    """
    sock = made(path, _kind(), mode)
    try:
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return Listener(sock, user)


async def connect(path: str, user: User, timeout: float = 10.0) -> Link:
    """Connect; `user` is served from then on. Raises OSError, TimeoutError after `timeout` seconds."""
    sock = socket.socket(socket.AF_UNIX, _kind())
    try:
        sock.setblocking(False)
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_connect(sock, path)
    except BaseException:
        sock.close()
        raise
    return begin_alone(PacketLink(user, path, PACKET_BYTES, is_lossy=False), sock)


def _kind() -> int:
    kind: int | None = getattr(socket, "SOCK_SEQPACKET", None) if hasattr(socket, "AF_UNIX") else None
    if kind is None:
        raise OSError(errno.EPROTONOSUPPORT, "this system has no socket files that keep borders")
    return kind
