"""Sockets of the file system: listen and connect, for peers on this machine such as a virtual machine of libvirt's."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable
from contextlib import closing, suppress

from .link import Link, StreamLink, User


class Listener:
    """A socket file that is listened on; like asyncio's Server as far as it is used here."""

    def __init__(self, server: asyncio.Server, file: OwnFile) -> None:
        self.sockets = server.sockets
        self._server = server
        self._file = file

    def close(self) -> None:
        """Nobody is let in any more, and the file goes; who is there stays."""
        self._file.remove()
        self._server.close()


class OwnFile:
    """A socket file of ours, from when it is bound. Another server may have replaced it meanwhile."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._made = _identity(self._path)

    def remove(self) -> None:
        """Unless it is no longer ours. While the socket is open, no other file has its number."""
        with suppress(OSError):
            if self._made is not None and self._made == _identity(self._path):
                os.unlink(self._path)
        self._made = None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        there = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return there.st_dev, there.st_ino


async def listen(path: str, user: Callable[[], User], mode: int | None = None) -> Listener:
    """Accept connections on a socket file, each served by a new user. One that nobody listens on is replaced.

    `mode` is that of `made`. Raises OSError when the file cannot be had, with EADDRINUSE when somebody listens there.
    """
    loop, sock = asyncio.get_running_loop(), made(path, socket.SOCK_STREAM, mode)
    file = OwnFile(path)
    try:
        server = await loop.create_unix_server(lambda: StreamLink(user()), sock=sock, start_serving=False)
        await server.start_serving()
    except BaseException:
        file.remove()
        sock.close()
        raise
    return Listener(server, file)


async def connect(path: str, user: User, timeout: float = 10.0) -> Link:
    """Connect; `user` is served from then on. Raises OSError, TimeoutError after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        _, link = await asyncio.get_running_loop().create_unix_connection(lambda: StreamLink(user), path)
    return link


def made(path: str, kind: int, mode: int | None) -> socket.socket:
    """A socket with its file, on which nobody listens yet; one on which nobody listens any more is replaced.

    `mode` is who may use it, as of chmod; None leaves that to the umask. Raises OSError, as `listen` does.
    """
    _make_room(path)
    sock = socket.socket(socket.AF_UNIX, kind)
    umask = None if mode is None else os.umask(0o777 & ~mode)  # chmod would follow a link that somebody put there since
    try:
        sock.setblocking(False)
        sock.bind(path)
    except BaseException:
        sock.close()
        raise
    finally:
        if umask is not None:
            os.umask(umask)
    return sock


def _make_room(path: str) -> None:
    """Remove a socket that nobody listens on. Raises OSError: EADDRINUSE when somebody does, EEXIST when it is none."""
    if _is_listened_on(path):
        raise OSError(errno.EADDRINUSE, "somebody listens there already")
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "what is there is no socket file")
        os.unlink(path)


def _is_listened_on(path: str) -> bool:
    """Whether somebody listens there, with sockets of whatever kind. Raises PermissionError where it cannot be told."""
    with closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # its queue is full
        except PermissionError:
            raise  # it may be another one's: only who may use it can tell that nobody does
        except OSError as error:
            return error.errno == errno.EPROTOTYPE  # it keeps the borders of packets
        return True
