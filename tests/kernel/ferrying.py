"""A ferry server in a thread of the test, and networks that break: one cuts connections, one mistreats packets.

    guest's relay --> Cutter (TCP) or Weather (UDP), on the host --> server --> a Zero, a disk that counts

What breaks is chosen by a seeded random source, so that a failure can be had again.
"""

from __future__ import annotations

import asyncio
import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from tests.pcap import Piece
from usbferry.backends.virtual import VirtualSource
from usbferry.device import Claimant, Device
from usbferry.local.relay import Answer, Counted
from usbferry.protocols.ferry.exporter import Exporter
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving
from usbferry.transports.place import Place
from usbferry.usb.transfer import Transfer

T = TypeVar("T")
N = TypeVar("N", "Cutter", "Weather")
WRITE_10 = 0x2A
_CBW = struct.Struct("<4sIIBBB16s")  # Bulk-Only Transport 1.0, table 5.1


class Written(Counted):
    """A disk that notes each command it is given: the tag that its host gave it, and its block."""

    def __init__(self, device: Device, commands: list[tuple[int, bytes]]) -> None:
        super().__init__(device)
        self._commands = commands

    def submit(self, transfer: Transfer) -> Answer:
        if not transfer.setup and not transfer.is_in and transfer.length == _CBW.size:
            signature, tag, *_, block = _CBW.unpack(bytes(transfer.data))
            if signature == b"USBC":
                self._commands.append((tag, block))
        return super().submit(transfer)


class CountingSource(VirtualSource):
    """A disk. `commands` are those of all who used it."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.commands: list[tuple[int, bytes]] = []

    async def open(self, name: str, claimant: Claimant) -> Device:
        return Written(await super().open(name, claimant), self.commands)

    @property
    def written(self) -> int:
        """Sectors that it was told to write."""
        return sum(int.from_bytes(block[7:9], "big") for _, block in self.commands if block[0] == WRITE_10)

    @property
    def repeated(self) -> list[int]:
        """Tags that came more than once: a kernel counts them up."""
        return [tag for tag, count in Counter(tag for tag, _ in self.commands).items() if count > 1]


class Host:
    """Serves devices over ferry on TCP and UDP, from a thread with a loop of its own."""

    def __init__(self, *sources: VirtualSource) -> None:
        self._sources = sources
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self.ports: dict[str, int] = {}  # by transport
        self._networks: list[Cutter | Weather] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(20), "the server did not start"
        if self._failure is not None:
            raise self._failure

    def do(self, what: Coroutine[Any, Any, T], seconds: float = 60) -> T:
        """Run something in the server's loop."""
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(seconds)

    def behind(self, network: N) -> N:
        """Let it run here, until the end."""
        self.do(network.start())
        self._networks.append(network)
        return network

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with serving(Catalog()) as server:
            for source in self._sources:
                await server.offer(source)
            for transport in ("tcp", "udp"):
                place = Place("127.0.0.1", 0, other="" if transport == "tcp" else transport)
                [place] = await server.listen_at(place, Exporter)
                self.ports[transport] = place.port
            self._ready.set()
            await self._stop.wait()
            for network in self._networks:
                network.close()


class Cutter:
    """A TCP proxy that cuts: in the middle of a record, between an execution and its reply, or silently.

    After a cut nobody gets through for some seconds. It remembers what passed, for Wireshark.
    """

    KINDS = ("mid-record", "before the reply", "silent")

    def __init__(self, server: int, seed: int) -> None:
        self.port = 0
        self.pieces: list[Piece] = []
        self.cuts: list[str] = []
        self.connections = 0
        self._server = server
        self._random = random.Random(seed)
        self._open: list[asyncio.StreamWriter] = []
        self._let = asyncio.Event()
        self._let.set()
        self._left: int | None = None  # bytes to the server until the cut
        self._mute = False  # what the server says is lost
        self._lost = 0  # bytes of that
        self._noticed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._listener = await asyncio.start_server(self._came, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._listener.close()
        self._abort()

    async def cut(self, kind: str, seconds: float) -> None:
        """Wait for traffic, and cut it; let it go on after `seconds`."""
        self._noticed.clear()
        if kind == "mid-record":
            self._left = self._random.randint(1, 3000)
            await self._noticed.wait()
        elif kind == "before the reply":
            self._mute, self._lost = True, 0
            await self._noticed.wait()
        self._let.clear()
        if kind != "silent":
            self._abort()
        await asyncio.sleep(seconds)
        self._abort()
        self._left, self._mute = None, False
        self.cuts.append(kind)
        self._let.set()

    def _abort(self) -> None:
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._let.is_set():
            writer.transport.abort()
            return
        number, self.connections = self.connections, self.connections + 1
        self._open.append(writer)
        there, back = await asyncio.open_connection("127.0.0.1", self._server)
        self._open.append(back)
        ways = [self._carry(reader, back, number, False), self._carry(there, writer, number, True)]
        for task in map(asyncio.ensure_future, ways):  # noqa: TID251 - held until they end
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, from_server: bool
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self._let.wait()
                passing = self._passing(data, from_server)
                if passing:
                    self.pieces.append(Piece(number, from_server, passing, time.time()))
                    writer.write(passing)
                    await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.pieces.append(Piece(number, from_server, b"", time.time()))
            writer.close()

    def _passing(self, data: bytes, from_server: bool) -> bytes:
        if from_server and self._mute:
            self._lost += len(data)
            self._noticed.set()
            return b""
        if not from_server and self._left is not None:
            data, self._left = data[: self._left], max(self._left - len(data), 0)
            if not self._left:
                self._noticed.set()
        return data


class Weather(asyncio.DatagramProtocol):
    """A UDP proxy that loses, doubles and reorders packets, by shares of 1. Each who comes has a port of his own."""

    def __init__(self, server: int, seed: int, lost: float, doubled: float, late: float) -> None:
        self.port = 0
        self.counts: Counter[str] = Counter()
        self._server = server
        self._random = random.Random(seed)
        self._shares = {"lost": lost, "doubled": doubled, "late": late}
        self._peers: dict[Any, asyncio.DatagramTransport] = {}

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", 0))
        self.port = self._transport.get_extra_info("sockname")[1]

    def close(self) -> None:
        for transport in (self._transport, *self._peers.values()):
            transport.close()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        asyncio.get_running_loop().create_task(self._up(data, addr))

    async def _up(self, data: bytes, addr: Any) -> None:
        if addr not in self._peers:
            loop = asyncio.get_running_loop()
            back = _Back(lambda packet: self._through(packet, lambda one: self._transport.sendto(one, addr)))
            self._peers[addr], _ = await loop.create_datagram_endpoint(
                lambda: back, remote_addr=("127.0.0.1", self._server)
            )
        self._through(data, self._peers[addr].sendto)

    def _through(self, packet: bytes, send: Callable[[bytes], None]) -> None:
        what, number = "passed", self._random.random()
        for name, share in self._shares.items():
            if number < share:
                what = name
                break
            number -= share
        self.counts[what] += 1
        if what == "late":
            asyncio.get_running_loop().call_later(self._random.uniform(0.002, 0.03), send, packet)
        else:
            for _ in range({"lost": 0, "doubled": 2}.get(what, 1)):
                send(packet)


class _Back(asyncio.DatagramProtocol):
    def __init__(self, heard: Callable[[bytes], None]) -> None:
        self._heard = heard

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._heard(data)

    def error_received(self, exc: Exception) -> None:
        """The server is not there."""


def disk(folder: Path, size: str) -> CountingSource:
    """A disk whose image is in `folder`."""
    return CountingSource(f"virtual:disk?image={folder / 'disk.img'}&size={size}")
