"""A captured session with every call and every status: what a real target answers to a controller made here.

`capture()` has what passed, piece by piece, on four transports: one with a claim, one that it moves to, and two on
which nothing goes well. The device's side of it is in `played()`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

from tests.pcap import Piece
from tests.protocols.ferry.wire import (
    INFO,
    SHORT_NOT_OK,
    T,
    Talk,
    bulk,
    call,
    claim,
    control,
    heartbeat,
    interrupt,
    iso,
    parts,
    resume,
    u32,
    unlink,
    version,
)
from usbferry.protocols.events import Cancel, Claim, Event, List, Refusal, Release, Reset, Resume, Watch
from usbferry.protocols.ferry.exporter import Exporter
from usbferry.usb.transfer import Completion, IsoPacket, Transfer
from usbferry.usb.types import Status

LONG = 150_000  # bytes: three parts
PORT = 32740
DEVICE = replace(
    INFO,
    manufacturer="Ferry\N{LATIN SMALL LETTER E WITH ACUTE}",
    serial="0001",
    holder="somebody",
    alternates={0: 1, 1: 0},
)
REFUSALS = {"busy": Refusal.BUSY, "broken": Refusal.FAILED, "full": Refusal.UNAVAILABLE}


class World(Talk):
    """A target whose transports are all recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[Piece] = []
        self.holder: Exporter | None = None
        self.at_once = self.answer
        self.waiting: list[int] = []
        self.status: int = Status.OK  # of what is asked next
        self.transport = 0
        self.seconds = 1_700_000_000.0

    def say(self, *messages: bytes) -> None:
        """One piece for each message, and the target's answers to it."""
        for message in messages:
            self.add(False, message)
            self.says(message)
            self.hear()

    def hear(self) -> None:
        raw = b"".join(self.exporter.outgoing)
        self.exporter.outgoing, self.exporter.outgoing_bytes = [], 0
        while raw:
            size = 4 + int.from_bytes(raw[:4], "big")
            self.add(True, raw[:size])
            raw = raw[size:]

    def add(self, from_server: bool, data: bytes) -> None:
        self.seconds += 0.001
        self.pieces.append(Piece(self.transport, from_server, data, self.seconds))

    def answer(self, transfer: Transfer) -> Completion | None:
        """All of it with the status that is set; nothing while that is IN_PROGRESS, which no device says."""
        if self.status < 0:
            return None
        if transfer.packets is not None:
            done = [IsoPacket(p.offset, p.length, p.length - n, 13 * (n == 1)) for n, p in enumerate(transfer.packets)]
            data = b"i" * sum(p.actual for p in done) if transfer.is_in else b""
            return Completion(self.status, data, sum(p.actual for p in done), done, start_frame=-7)
        done_bytes = transfer.length // 2 if self.status else transfer.length
        return Completion(self.status, b"d" * done_bytes if transfer.is_in else b"", done_bytes)

    def _take(self, event: Event) -> None:
        super()._take(event)
        match event:
            case List():
                self.exporter.listed([DEVICE, replace(INFO, name="1-2", configurations=())])
            case Claim():
                if event.name == DEVICE.name:
                    self.exporter.accept(DEVICE)
                    self.holder = self.exporter
                else:
                    self.exporter.refuse(REFUSALS.get(event.name, Refusal.NOT_FOUND))
            case Cancel():
                self.exporter.complete(event.tag, Completion(Status.CANCELLED, b"part", 4))
            case Reset():
                self.exporter.reset_done(event.tag, self.status == Status.OK)
            case Release():
                self.exporter.released()
            case Resume():
                if self.holder is not None and event.session == self.holder.session:
                    self.exporter = self.holder
                    self.exporter.connected(self.now)
                    self._arrive(b"")
                else:
                    self.exporter.refuse(Refusal.NOT_FOUND)
            case Watch():
                self.exporter.noticed()
            case _:
                name = type(event).__name__
                if name in ("AllocStreams", "FreeStreams"):
                    self.exporter.complete(event.tag, Completion(self.status))  # type: ignore[attr-defined]
                elif name == "Describe":
                    self.exporter.described(DEVICE)

    def next_transport(self, *, exporter: bool = True) -> None:
        """The connection is cut, or was closed."""
        self.pieces += [Piece(self.transport, way, b"", self.seconds) for way in (False, True)]
        self.loses_transport()
        self.transport += 1
        if exporter:
            self.exporter = Exporter(self.limits, self.now, instance=b"instance", token=lambda: b"abcdefghijklmnop")


def numbered(first: int, messages: Iterable[bytes]) -> Iterable[bytes]:
    """Session calls with the identifiers whose turn it is; their markers are kept."""
    for number, message in enumerate(messages, first):
        yield message[:4] + u32(number) + message[8:]


@cache
def played() -> World:
    world = World()
    say = world.say
    say(
        version(capabilities=0xFF, versions=(1, 2)),
        version(T + 1),
        call(T + 2, 2),
        bulk(7000, 0x81, 8),
        call(T + 3, 22),
    )
    say(*(claim(T + 4 + n, name) for n, name in enumerate((b"nothing", b"busy", b"broken", b"full", b"1-1"))))
    say(call(T + 16, 22), call(T + 17, 19, u32(0)), call(T + 18, 19, u32(0)), claim(T + 19, b"1-2"), call(T + 20, 99))
    say(call(T + 21, 3, b"\5ab"), call(T + 22, 5))
    say(*numbered(1, transfers()))
    last = 1 + len(transfers())
    for status in (*Status, Status.OK):
        world.status = status
        messages = (bulk(0, 0x81, 64), bulk(0, 0x01, data=b"w" * 9), iso(0, 0x84, (8, 8)), call(0, 10),
                    control(0, "2103000000000000"), control(0, "0009010000000000"), call(0, 11, b"\1"))  # fmt: skip
        say(*numbered(last, messages))
        last += len(messages)
        if status == Status.SHORT:
            world.status = Status.OK
    world.status = -1  # from here on the device takes its time
    say(bulk(last, 0x81, 512), bulk(last, 0x81, 512), unlink(last + 1, last), unlink(last + 2, 1))
    say(bulk(last + 3, 0x81, 64), heartbeat(T + 23, 1, 9, 11, last), *[*numbered(1, transfers())][:1])
    world.exporter.noticed()
    world.hear()
    whole = last + 4
    pieces = parts(whole, bytes((6, 1, 0, 0)), u32(LONG) + b"L" * LONG, (65536, 65536, LONG + 8 - 2 * 65536))
    say(pieces[1], interrupt(whole + 1, 0x83, 8, 4), pieces[0])
    lost = pieces[2]  # the transport breaks before
    world.next_transport()
    say(version(T + 30), resume(T + 31, (last + 3, whole, whole + 1), b"0123456789abcdef"))
    say(call(T + 32, 22), pieces[0], pieces[1], lost, interrupt(whole + 1, 0x83, 8, 4), resume(T + 33))
    for tag, transfer in [*world.transfers.items()][-3:]:
        world.exporter.complete(tag, Completion(Status.OK, b"r" * transfer.length * transfer.is_in, transfer.length))
        world.hear()
    world.status = Status.OK
    say(bulk(whole + 2, 0x81, LONG), call(whole + 3, 4), call(T + 34, 2))
    say(claim(T + 35), bulk(whole + 4, 0x81, 1), call(T + 36, 22))
    world.exporter.gone()
    world.hear()
    world.next_transport()
    say(version(T, (2, 3)))
    world.next_transport()
    say(version(T), resume(T + 1, (), b"?" * 16), call(T + 2, 2), call(T + 3, 21))
    world.next_transport(exporter=False)
    return world


def capture() -> list[Piece]:
    """What passed."""
    return played().pieces


def transfers() -> tuple[bytes, ...]:
    """One call of every kind, as a device takes it that answers at once; identifiers come with `numbered`."""
    return (
        control(0, "8006000100001200"),
        control(0, "4000000000000300", b"abc"),
        bulk(0, 0x81, 512, flags=SHORT_NOT_OK),
        bulk(0, 0x01, data=b"hello"),
        bulk(0, 0x81, 16, stream=5),
        bulk(0, 0x01, data=b"stream", stream=6),
        interrupt(0, 0x83, 8, 4),
        interrupt(0, 0x03, 2, 4, b"ab"),
        iso(0, 0x84, (4, 4, 8), frame=-3),
        iso(0, 0x04, (2, 3), b"abcde", flags=2),
        call(0, 10),
        call(0, 11, b"\1"),
        call(0, 12, b"\0\1"),
        call(0, 13, b"\x81"),
        call(0, 14),
        call(0, 15),
        call(0, 16, u32(16) + b"\x81\x01"),
        call(0, 17, b"\x81\x01"),
        call(0, 18),
        call(0, 99, b"what"),
        call(0, 19, u32(0)),
        bulk(0, 0x81, 1 << 26),
        call(0, 13, b"\x81\x02"),
    )
