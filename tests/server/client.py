"""An importer with its hands on the bytes: speaks USB/IP over a real socket, right or wrong as the test wants it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from tests.protocols.usbip import wire

IN, OUT = wire.IN, wire.OUT


@dataclass(frozen=True)
class Reply:
    """One answer: to a submit (command 3) or an unlink (4)."""

    command: int
    seqnum: int
    status: int
    actual: int
    data: bytes


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.devid = 0
        self._reads: set[int] = set()  # seqnums whose replies bring data

    def say(self, raw: bytes) -> None:
        self.writer.write(raw)

    async def list(self) -> list[str]:
        """Ask for the list; the bus ids in it."""
        self.say(wire.op(0x8005))
        version, code, status, count = struct.unpack(">HHII", await self.reader.readexactly(12))
        assert (version, code, status) == (0x0111, 0x0005, 0)
        found = []
        for _ in range(count):
            raw = await self.reader.readexactly(312)
            await self.reader.readexactly(4 * raw[0x137])
            found.append(raw[0x100:0x120].rstrip(b"\0").decode())
        assert await self.closed()
        return found

    async def claim(self, busid: str) -> int:
        """Ask for a device; 0, or why not."""
        self.say(wire.op_import(busid.encode()))
        version, code, status = struct.unpack(">HHI", await self.reader.readexactly(8))
        assert (version, code) == (0x0111, 0x0003)
        if status == 0:
            raw = await self.reader.readexactly(312)
            busnum, devnum = struct.unpack_from(">II", raw, 0x120)
            self.devid = busnum << 16 | devnum
        return int(status)

    def submit(self, seqnum: int, way: int, ep: int, length: int = 0, payload: bytes = b"", **options: object) -> None:
        if way == IN:
            self._reads.add(seqnum)
        size = length if way == IN else len(payload)
        self.say(wire.submit(seqnum, way, ep, size, payload, devid=self.devid, **options))  # type: ignore[arg-type]

    def unlink(self, seqnum: int, target: int) -> None:
        self.say(wire.unlink(seqnum, target, devid=self.devid))

    async def reply(self) -> Reply:
        raw = await self.reader.readexactly(48)
        command, seqnum, status = struct.unpack_from(">II12xi", raw)
        actual = struct.unpack_from(">i", raw, 0x18)[0] if command == 3 else 0
        data = await self.reader.readexactly(actual) if command == 3 and seqnum in self._reads else b""
        return Reply(command, seqnum, status, actual, data)

    async def ask(self, seqnum: int, way: int, ep: int, length: int = 0, payload: bytes = b"") -> Reply:
        """One transfer and its answer."""
        self.submit(seqnum, way, ep, length, payload)
        return await self.reply()

    async def closed(self) -> bool:
        """Wait for the end of the connection; whether nothing came before it."""
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True

    async def hang_up(self) -> None:
        self.writer.close()
        with suppress(OSError):  # it was closed on us
            await self.writer.wait_closed()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield client
    finally:
        await client.hang_up()


@asynccontextmanager
async def importing(port: int, busid: str = "1-1") -> AsyncIterator[Client]:
    """A connection that has a device."""
    async with connected(port) as client:
        assert await client.claim(busid) == 0
        yield client
