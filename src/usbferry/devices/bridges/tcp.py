"""Bridges to a connection: one that is made, again and again, or one that is waited for. Raw bytes, no RFC 2217.

What the host writes while nobody is connected waits, then the host does; so does what a peer sends while no host reads.
What was handed to a connection that then breaks may be lost with it: TCP does not say what its peer got.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

from ...device import DeviceError
from ...transports.reasons import no_listening, reason
from ...transports.tcp import tune
from .bridge import Bridge, BridgeOptions, notes

log: Final = logging.getLogger(__name__)
_CHUNK: Final = 16 * 1024  # bytes handed to the transport at once, and so lost at most besides what the kernel holds
_ESTABLISHED: Final = 1  # TCP_ESTABLISHED of Linux, include/net/tcp_states.h
_LEFT_BEHIND: Final = 16  # connections whose peers have left, with bytes yet to be read, before nobody else may come
FIRST_DELAY: Final = 0.2  # seconds until a connection that failed or ended is made anew
LAST_DELAY: Final = 5.0  # what that doubles to


class _Connection(asyncio.Protocol):
    """One connection of a bridge."""

    def __init__(self, bridge: _Tcp) -> None:
        self._bridge = bridge
        self.ended = asyncio.get_running_loop().create_future()
        self.blocked = False
        self.early = bytearray()  # came, and not passed on yet
        self.is_lost = False
        self._reading = True
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's is none, by inheritance
        sock = transport.get_extra_info("socket")
        self._is_tcp = sock.family != getattr(socket, "AF_UNIX", None)
        if self._is_tcp:
            name = transport.get_extra_info("peername")
            self.peer = "{}:{}".format(*name) if name else "?"  # it left before it was asked
            with suppress(OSError):
                tune(sock)
        else:
            self.peer = str(self._bridge)
        transport.set_write_buffer_limits(high=0)  # blocked as soon as the kernel takes no more
        self._bridge.accepted(self)

    @property
    def is_to_itself(self) -> bool:
        """TCP lets a socket connect to its own port, which who keeps trying one that nobody listens at soon does."""
        sock = self.transport.get_extra_info("socket")
        try:
            return bool(sock.getsockname() == sock.getpeername())
        except OSError:  # it has left
            return False

    @property
    def has_left(self) -> bool:
        """Whether the peer has sent its last: known before all of that was read, where the system tells."""
        option = getattr(socket, "TCP_INFO", None)
        if option is None or not self._is_tcp or self.transport.is_closing():
            return self.transport.is_closing()
        state: bytes = self.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, option, 1)
        return state[0] != _ESTABLISHED

    def data_received(self, data: bytes) -> None:
        self._reading = True  # whatever we said: uvloop begins after `connection_made`
        self._bridge.received(self, data)

    def read_on(self, on: bool) -> None:
        """Begin to read, or stop."""
        if on != self._reading and not self.transport.is_closing():
            self._reading = on
            if on:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self.blocked = False
        self._bridge.took()
        self._bridge.move()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self._bridge.lost(self, error)
        self.ended.set_result(None)


class _Tcp(Bridge):
    """What both ways of connecting share.

    Of several connections the first is read and the last written to; the ones before the last are those of peers that
    have left, and whose bytes wait for a host that reads slowly.
    """

    scheme = ""

    def __init__(self, options: BridgeOptions) -> None:
        super().__init__(options)
        self._connections: list[_Connection] = []
        self.locate(options)

    def locate(self, options: BridgeOptions) -> None:
        """Read the address. Raises ValueError."""
        try:
            parts = urlsplit(f"tcp:{options.address}")
            host, port = parts.hostname, parts.port
        except ValueError:
            port = None
        if port is None or parts.path or parts.query or parts.username is not None:
            raise ValueError(f"{options.address!r} is no address: write //HOST:PORT")
        self.host, self.port = host or "", port

    def accepted(self, connection: _Connection) -> None:
        """A connection was made, by whichever side."""

    def made(self, connection: _Connection) -> None:
        """A connection was made, and is known to stay."""
        if connection.is_to_itself:
            connection.transport.abort()
            return
        staying = [one for one in self._connections if not one.has_left] or self._connections[_LEFT_BEHIND:]
        if staying:
            log.warning("%s: %s turned away, %s is connected", self, connection.peer, staying[0].peer)
            connection.transport.abort()
            return
        log.info("%s: connected with %s", self, connection.peer)
        if self.options.frames:
            self._forget_all()
        self._connections.append(connection)
        self.connected = not connection.is_lost
        self.move()

    def lost(self, connection: _Connection, error: Exception | None) -> None:
        if connection in self._connections:
            log.info("%s: %s disconnected%s", self, connection.peer, f": {error}" if error else "")
            self.connected = not self._connections[-1].is_lost
            if self.options.frames and not self.connected:
                self._forget_all()
            self.move()

    def _forget_all(self) -> None:
        """What those who have left sent, and what is left of a frame of theirs, is not the next one's."""
        self.connected = False
        connections, self._connections = self._connections, []
        for one in connections:
            one.transport.abort()

    def received(self, connection: _Connection, data: bytes) -> None:
        connection.early += data
        self.move()

    def fetch(self) -> None:
        while self._connections:
            first = self._connections[0]
            if self.to_host.room:
                early, first.early = first.early, bytearray()
                self.to_host.put(early)
            if first.early or not first.is_lost:
                break
            del self._connections[0]
        for connection in self._connections:
            connection.read_on(connection is first and self.to_host.room > 0)

    def pass_on(self) -> None:
        connection = self._connections[-1] if self._connections else None
        while connection is not None and self.from_host and not connection.blocked:
            if connection.transport.is_closing():
                return  # the rest is for the next one
            connection.transport.write(self.from_host.take(_CHUNK))
            self.took()

    def unsent(self) -> int:
        return len(self.from_host) + sum(one.transport.get_write_buffer_size() for one in self._connections)

    async def end(self) -> None:
        for connection in tuple(self._connections):
            if connection.is_lost:
                continue
            if connection.transport.get_write_buffer_size():
                connection.transport.abort()
            else:
                connection.transport.close()
            await connection.ended

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Client(_Tcp):
    """Connects, and again when it is lost: soon at first, then every few seconds."""

    scheme = "tcp"

    def locate(self, options: BridgeOptions) -> None:
        super().locate(options)
        if not self.host or not self.port:
            raise ValueError(f"{options.address!r} is nowhere to connect to: write //HOST:PORT")

    async def begin(self) -> None:
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def end(self) -> None:
        self._connecting.cancel()
        await asyncio.gather(self._connecting, return_exceptions=True)
        await super().end()

    async def dial(self) -> _Connection:
        """One attempt. Raises OSError."""
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(lambda: _Connection(self), self.host, self.port))[1]

    async def _connect(self) -> None:
        delay = FIRST_DELAY
        while True:
            try:
                connection = await self.dial()
            except OSError as error:
                level = logging.WARNING if delay == FIRST_DELAY else logging.DEBUG  # said once
                log.log(level, "%s: not connected, trying on: %s", self, reason(error))
                await asyncio.sleep(delay)
                delay = min(2 * delay, LAST_DELAY)
            else:
                self.made(connection)  # here, for uvloop never ends one that `create_connection` was cancelled over
                await asyncio.shield(connection.ended)
                delay = FIRST_DELAY
                await asyncio.sleep(delay)  # a server may accept just to close


class UnixClient(Client):
    """Connects to a Unix socket, in the same way."""

    def locate(self, options: BridgeOptions) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise ValueError("unix: needs Unix; elsewhere take to=tcp://HOST:PORT")
        if not options.address:
            raise ValueError("unix: needs a path, as in to=unix:PATH")
        self._path = Path(options.address).expanduser()

    async def dial(self) -> _Connection:
        loop = asyncio.get_running_loop()
        return (await loop.create_unix_connection(lambda: _Connection(self), os.fspath(self._path)))[1]

    def __str__(self) -> str:
        return f"unix:{self.options.address}"


class Listener(_Tcp):
    """Waits for a connection, of which there is one at a time: who comes second is turned away.

    A peer that has left is followed by the next at once, on Linux; elsewhere when the host has read all it sent.
    """

    scheme = "listen"

    async def begin(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: _Connection(self), self.host or None, self.port)
        except OSError as error:
            raise DeviceError(f"{self}: {no_listening(error)}") from error
        self.port = self._server.sockets[0].getsockname()[1]
        notes.info("%s: listening", self)

    def accepted(self, connection: _Connection) -> None:
        self.made(connection)

    async def end(self) -> None:
        self._server.close()
        await super().end()
