"""A TCP proxy that forges answers: each connection tells one lie, about the first transfer that it fits."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

IMPORT_REQUEST, IMPORT_REPLY, HEADER = 40, 320, 48


class Lie(NamedTuple):
    """What is said of a transfer on one IN endpoint."""

    endpoint: int
    forge: Callable[[bytearray], None]  # changes the reply: its header, the data, the isochronous packets


class Liar:
    """Stands between importers and the server at `port` of the loopback; importers come to `self.port`."""

    def __init__(self, port: int, lies: Sequence[Lie]) -> None:
        self.told: list[Lie] = []
        self._server = port
        self._lies = iter(lies)
        self._threads: list[threading.Thread] = []
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """Accept no more, and wait until those that came have ended."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server))
                self._ends += (client, server)
                asked: dict[int, tuple[int, int, int]] = {}  # seqnum -> endpoint, length, packets
                for work in (
                    partial(self._commands, client, server, asked),
                    partial(self._replies, server, client, asked, next(self._lies)),
                ):
                    ends = (work, client, server)
                    self._threads.append(threading.Thread(target=_until_closed, args=ends, daemon=True))
                    self._threads[-1].start()

    def _commands(self, client: socket.socket, server: socket.socket, asked: dict[int, tuple[int, int, int]]) -> None:
        server.sendall(_read(client, IMPORT_REQUEST))
        while True:
            raw = _read(client, HEADER)
            command, seqnum, _, is_in, ep, _, length, _, packets = struct.unpack_from(">IIIIIIiii", raw)
            if command == 1:
                asked[seqnum] = (ep | is_in << 7, length, max(packets, 0))
                raw += _read(client, (0 if is_in else length) + 16 * max(packets, 0))
            server.sendall(raw)

    def _replies(
        self, server: socket.socket, client: socket.socket, asked: dict[int, tuple[int, int, int]], lie: Lie
    ) -> None:
        client.sendall(_read(server, IMPORT_REPLY))
        is_told = False
        while True:
            raw = bytearray(_read(server, HEADER))
            command, seqnum = struct.unpack_from(">II", raw)
            if command == 3:
                endpoint, _, packets = asked.pop(seqnum)
                (actual,) = struct.unpack_from(">i", raw, 0x18)
                raw += _read(server, (actual if endpoint & 0x80 else 0) + 16 * packets)
                if endpoint == lie.endpoint and not is_told:
                    lie.forge(raw)
                    self.told.append(lie)
                    is_told = True
            client.sendall(raw)


def word(at: int, value: int) -> Callable[[bytearray], None]:
    """A forgery: the 32 bits at an offset, from the end if that is negative."""

    def forge(reply: bytearray) -> None:
        start = at if at >= 0 else len(reply) + at
        reply[start : start + 4] = value.to_bytes(4, "big")

    return forge


def _read(source: socket.socket, size: int) -> bytes:
    """Exactly so many bytes. Raises OSError at the end."""
    found = b""
    while len(found) < size:
        got = source.recv(size - len(found))
        if not got:
            raise ConnectionError
        found += got
    return found


def _until_closed(work: Callable[[], None], *ends: socket.socket) -> None:
    """When one direction ends, so does the other."""
    with contextlib.suppress(OSError):
        work()
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
