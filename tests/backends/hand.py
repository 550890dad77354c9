"""USB/IP servers played by hand: a correct one whose device is the test, and ones that break in a given way.

They run on real sockets in the test's own event loop. Each waits at its end until the client has closed its socket, so
a client that leaves one open fails its test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import cast

from usbferry.protocols.events import Cancel, Claim, Event, List, Reset, Submit
from usbferry.protocols.usbip.exporter import Exporter
from usbferry.protocols.usbip.messages import CmdSubmit
from usbferry.usb import build
from usbferry.usb.descriptors import Configuration, DescriptorType, DeviceDescriptor, Interface
from usbferry.usb.info import DeviceInfo
from usbferry.usb.setup import Request, Setup
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.tree import Companion, Endpoint
from usbferry.usb.types import Status, TransferType

BULK, ISO, INTERRUPT = TransferType.BULK, TransferType.ISOCHRONOUS, TransferType.INTERRUPT

# Interface 0 has a second setting with periodic endpoints; a second configuration has another endpoint.
CONFIGURATIONS = (
    Configuration(
        1,
        (
            Interface(0, 0, endpoints=(Endpoint(0x81, BULK, 512), Endpoint(0x01, BULK, 512))),
            Interface(
                0,
                1,
                endpoints=(
                    Endpoint(0x81, BULK, 512),
                    Endpoint(0x01, BULK, 512),
                    Endpoint(0x83, ISO, 1024, 1),
                    Endpoint(0x03, ISO, 192, 4),
                    Endpoint(0x84, INTERRUPT, 64, 7),
                ),
            ),
            Interface(1, 0, endpoints=(Endpoint(0x82, BULK, 512), Endpoint(0x85, INTERRUPT, 8, 4))),
        ),
    ),
    Configuration(2, (Interface(0, 0, endpoints=(Endpoint(0x86, BULK, 512),)),)),
)
DEVICE = DeviceDescriptor(0x1209, 0x0001, manufacturer=1, product=2, serial=3, configurations=2)
STRINGS = {1: "Hand", 2: "Made", 3: "0001"}
SUPER = Configuration(
    1,
    (
        Interface(
            0,
            endpoints=(
                Endpoint(0x81, ISO, 1024, 1, companion=Companion(15, 2, 49152)),
                Endpoint(0x82, INTERRUPT, 64, 16, companion=Companion(0, 0, 64)),
            ),
        ),
    ),
)


def info(**fields: object) -> DeviceInfo:
    """What the server says of the device when it is imported."""
    values: dict[str, object] = {"name": "1-1", "configuration": 1, "bus": 1, "address": 2, **fields}
    return DeviceInfo(device=DEVICE, **values)  # type: ignore[arg-type]


def descriptors(
    device: DeviceDescriptor = DEVICE, configurations: Iterable[Configuration] = CONFIGURATIONS
) -> dict[tuple[int, int], bytes]:
    """What GET_DESCRIPTOR gives, by type and index."""
    table = {(int(DescriptorType.DEVICE), 0): build.device(device)}
    for index, configuration in enumerate(configurations):
        table[DescriptorType.CONFIGURATION, index] = build.configuration(configuration)
    table[DescriptorType.STRING, 0] = build.languages((0x0409,))
    for index, text in STRINGS.items():
        table[DescriptorType.STRING, index] = build.string(text)
    return table


class Hand(asyncio.Protocol):
    """One connection of a correct server: descriptors are answered here, all else is the test's."""

    def __init__(self, owner: HandServer) -> None:
        self.owner = owner
        self.exporter = Exporter()
        self.held = bytearray()
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.lost = asyncio.Event()
        self.requests: list[Setup] = []  # those answered here

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self.owner.hands.put_nowait(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        self.held += data
        exporter = self.exporter
        while True:  # an accepted claim makes sense of bytes that are there already
            state = exporter.state
            exporter.receive(memoryview(bytes(self.held)), 0.0)
            for event in exporter.events():
                if isinstance(event, Submit | Cancel):
                    event.transfer.data = bytes(event.transfer.data)
                if not self.handle(event):
                    self.events.put_nowait(event)
            del self.held[: exporter.consumed]
            if exporter.state is state:
                break
        self.flush()

    def handle(self, event: Event) -> bool:
        if isinstance(event, List):
            self.exporter.listed([self.owner.info])
        elif isinstance(event, Claim):
            self.exporter.accept(self.owner.info)
        elif isinstance(event, Submit) and event.transfer.setup:
            setup = Setup.parse(event.transfer.setup)
            if setup.request_type == 0x80 and setup.request == Request.GET_DESCRIPTOR:
                raw = self.owner.table.get((setup.value >> 8, setup.value & 0xFF))
                answer = Completion(Status.STALL) if raw is None else Completion(Status.OK, raw[: setup.length])
            elif self.owner.configures and (setup.request_type, setup.request) == (0, Request.SET_CONFIGURATION):
                answer = Completion()
            else:
                return False
            self.requests.append(setup)
            self.exporter.complete(event.tag, answer)
        else:
            return False
        return True

    def flush(self) -> None:
        pieces, self.exporter.outgoing, self.exporter.outgoing_bytes = self.exporter.outgoing, [], 0
        if not self.transport.is_closing():
            self.transport.writelines(pieces)
            if self.exporter.done:
                self.transport.close()

    # -- for the test -------------------------------------------------------------------------------------------------

    async def submit(self) -> Submit:
        """The next transfer that reaches the device."""
        event = await self.events.get()
        assert isinstance(event, Submit), event
        return event

    async def transfer(self) -> Transfer:
        return (await self.submit()).transfer

    async def cancel(self) -> Cancel:
        event = await self.events.get()
        assert isinstance(event, Cancel), event
        return event

    async def reset(self) -> Reset:
        event = await self.events.get()
        assert isinstance(event, Reset), event
        return event

    def complete(self, tag: int, completion: Completion | None = None) -> None:
        self.exporter.complete(tag, completion or Completion())
        self.flush()


class HandServer:
    def __init__(self, table: dict[tuple[int, int], bytes] | None = None, **fields: object) -> None:
        self.table = descriptors() if table is None else table
        self.info = info(**fields)
        self.configures = True  # SET_CONFIGURATION is answered without the test
        self.hands: asyncio.Queue[Hand] = asyncio.Queue()
        self.port = 0

    @property
    def address(self) -> str:
        return f"usbip://127.0.0.1:{self.port}"


@asynccontextmanager
async def hand_server(table: dict[tuple[int, int], bytes] | None = None, **fields: object) -> AsyncIterator[HandServer]:
    """A correct server of one device, 1-1, that the test plays."""
    owner, made = HandServer(table, **fields), []

    def make() -> Hand:
        made.append(Hand(owner))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    owner.port = server.sockets[0].getsockname()[1]
    try:
        yield owner
        await closed([hand.lost.wait() for hand in made])
    finally:
        server.close()
        for hand in made:
            hand.transport.abort()
        await asyncio.gather(*[hand.lost.wait() for hand in made])


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def bad_server(script: Script) -> AsyncIterator[str]:
    """A server that does what `script` says on each connection, then reads until the client closes; its address."""
    over: list[asyncio.Event] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over.append(asyncio.Event())
        mine = over[-1]
        with suppress(OSError, asyncio.IncompleteReadError):
            await script(reader, writer)
            await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        mine.set()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"usbip://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await closed([event.wait() for event in over])
    finally:
        server.close()


async def closed(waits: list[Awaitable[object]]) -> None:
    """Wait until the client has closed all its sockets."""
    try:
        async with asyncio.timeout(5):
            await asyncio.gather(*waits)
    except TimeoutError:
        raise AssertionError("the client left a socket open") from None


class Peer:
    """A script's words: the answers of a server up to the point where it goes wrong."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def imported(self, **fields: object) -> None:
        """Answer an import."""
        await self.reader.readexactly(40)
        exporter = Exporter()
        exporter._busid = b"1-1".ljust(32, b"\0")
        exporter.accept(info(**fields))
        self.writer.writelines(exporter.outgoing)

    async def request(self) -> tuple[int, Setup]:
        """The next control request: its seqnum and its setup."""
        raw = CmdSubmit.parse(await self.reader.readexactly(CmdSubmit.SIZE))
        return raw.seqnum, Setup.parse(raw.setup)

    async def described(self, count: int = 1 << 30, table: dict[tuple[int, int], bytes] | None = None) -> None:
        """Answer `count` requests for descriptors, and all that are no such requests."""
        table = descriptors() if table is None else table
        while count:
            seqnum, setup = await self.request()
            data = b""
            if setup.request == Request.GET_DESCRIPTOR:
                data = table.get((setup.value >> 8, setup.value & 0xFF), b"")[: setup.length]
                count -= 1
            self.writer.write(ret_submit(seqnum, data))


def ret_submit(seqnum: int, data: bytes = b"", *, status: int = 0, actual: int = -1) -> bytes:
    head = (3, seqnum, 0, 0, 0, status & 0xFFFFFFFF, len(data) if actual < 0 else actual)
    return b"".join(word.to_bytes(4, "big") for word in head) + bytes(20) + data
