"""Any bytes to a usbredir exporter: nothing but ProtocolError, and whatever it says a guest can read.

    python fuzz/redir_exporter.py SECONDS [SEED]

An input is what an importer sends, after four bytes that play the rest:

byte 0, 1   the device's moods
byte 2      how many bytes arrive at a time
byte 3      the capabilities of the importer's hello; 0x40 alone is the draft; 0xff leaves the hello to the input

What it says is read as a guest reads it, where one invalid packet is the end of a QEMU. Each data packet, and each
question about settings, is answered once, and not before it was asked.
"""

from __future__ import annotations

import random
import struct
import sys
from collections import Counter
from pathlib import Path
from typing import Final

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz import engine
from tests.protocols.usbredir import wire
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.events import (
    AllocStreams,
    Cancel,
    Claim,
    Event,
    FreeStreams,
    Note,
    Refusal,
    Release,
    Reset,
    Submit,
    Watch,
)
from usbferry.protocols.limits import Limits
from usbferry.protocols.usbredir.codec import Codec, Packet
from usbferry.protocols.usbredir.exporter import Exporter, State
from usbferry.protocols.usbredir.messages import ALL_CAPABILITIES, Dialect, Sender, Type
from usbferry.usb.transfer import Completion, IsoPacket, Transfer
from usbferry.usb.types import Status

LIMITS: Final = Limits(transfer_bytes=1024, transfers=6, bytes_in_flight=3000, handshake_seconds=5)
MOST: Final = 16 + 64 + 64 * 1024  # bytes of a message that may be waited for: a hello, a filter
ANSWER: Final = {
    Type.SET_CONFIGURATION: Type.CONFIGURATION_STATUS,
    Type.GET_CONFIGURATION: Type.CONFIGURATION_STATUS,
    Type.SET_ALT_SETTING: Type.ALT_SETTING_STATUS,
    Type.GET_ALT_SETTING: Type.ALT_SETTING_STATUS,
    Type.ALLOC_BULK_STREAMS: Type.BULK_STREAMS_STATUS,
    Type.FREE_BULK_STREAMS: Type.BULK_STREAMS_STATUS,
    Type.CONTROL_PACKET: Type.CONTROL_PACKET,
    Type.BULK_PACKET: Type.BULK_PACKET,
}


class Harness:
    """One input."""

    def __init__(self, data: bytes) -> None:
        head, self.sent = data[:4].ljust(4, b"\0"), data[4:]
        self.rng = random.Random(head[0] << 8 | head[1])
        self.step = (1 << 20, 1, 7, 16, 26, 333)[head[2] % 6]
        dialect = Dialect.DRAFT if head[3] == 0x40 else Dialect.RELEASED
        if head[3] != 0xFF:
            self.sent = wire.hello((1 if dialect is Dialect.DRAFT else head[3],)) + self.sent
        self.exporter = Exporter(LIMITS, 0.0, dialect=dialect)
        self.exporter.unsent = lambda: self.rng.choice((0, 0, 0, 1 << 30))
        self.asking = Codec(Sender.EXPORTER, dialect, ALL_CAPABILITIES)  # reads what came a second time
        self.hearing: Codec | None = None  # a guest with the capabilities of the input's
        self.waiting: dict[int, Transfer | None] = {}  # tag -> the transfer, None for what is none
        self.asked: Counter[tuple[int, int]] = Counter()
        self.answered: Counter[tuple[int, int]] = Counter()
        self.heard = bytearray()
        self.said_bytes = self.now = 0
        self.read_bytes = self.came = 0

    def run(self) -> None:
        broken = False
        try:
            for at in range(0, len(self.sent), self.step):
                self.came = min(len(self.sent), at + self.step)
                self.look()
                self.live()
        except ProtocolError as error:
            broken, text = True, str(error)
            assert text
            assert "\n" not in text
        self.settle(broken)

    # -- the network --------------------------------------------------------------------------------------------------

    def look(self) -> None:
        view = memoryview(bytes(self.sent[self.read_bytes : self.came]))
        exporter = self.exporter
        exporter.receive(view, self.now)
        try:
            for event in exporter.events():
                self.take(event)
        finally:
            self.count(self.sent[self.read_bytes : self.read_bytes + exporter.consumed])
            self.read_bytes += exporter.consumed
        assert 0 < exporter.needed <= MOST
        self.hear()

    def count(self, raw: bytes) -> None:
        """What the importer asked in bytes that were taken."""
        at = 0
        try:
            while (packet := self.asking.read(memoryview(raw), at)) is not None:
                at += self.asking.size
                if packet.kind in ANSWER or is_interrupt(packet):
                    self.asked[ANSWER.get(packet.kind, packet.kind), packet.id] += 1
        except ProtocolError:
            return
        assert at == len(raw)

    def hear(self) -> None:
        """Whatever is said can be read, to the last byte."""
        exporter = self.exporter
        self.heard += b"".join(exporter.outgoing)
        exporter.outgoing, exporter.outgoing_bytes = [], 0
        if self.hearing is None:
            if not self.asking.greeted:
                return
            self.hearing = Codec(Sender.IMPORTER, self.asking.dialect, self.asking.in_force)
        at = 0
        while (packet := self.hearing.read(memoryview(bytes(self.heard)), at)) is not None:
            at += self.hearing.size
            if packet.kind in ANSWER.values() or is_interrupt(packet):
                self.answered[packet.kind, packet.id] += 1
        assert at == len(self.heard), "half a packet"
        self.heard.clear()
        for key, count in self.answered.items():
            assert count <= self.asked[key], f"{key} was not asked, or is answered again"

    # -- the pump and the device --------------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        mood = self.rng.random()
        match event:
            case Claim():
                if mood < 0.1 and self.exporter.state is not State.HELLO:
                    self.exporter.refuse(self.rng.choice((Refusal.BUSY, Refusal.NOT_FOUND)))
                else:
                    self.exporter.accept(wire.INFO)
            case Submit():
                assert event.tag not in self.waiting
                self.waiting[event.tag] = event.transfer
                if mood < 0.4 and not self.is_behind(event.tag):
                    self.end(event.tag)
            case Cancel():
                if event.tag in self.waiting and mood < 0.7:
                    self.end(event.tag, Status.CANCELLED)
            case Reset() | AllocStreams() | FreeStreams():
                self.waiting[event.tag] = None
                if isinstance(event, Reset):
                    del self.waiting[event.tag]
                    self.exporter.reset_done(event.tag, True)
            case Release():
                self.exporter.released()
            case _:
                assert isinstance(event, Watch | Note)

    def is_behind(self, tag: int) -> bool:
        mine = self.waiting[tag]
        return any(o is not None and mine is not None and o.endpoint == mine.endpoint and n < tag
                   for n, o in self.waiting.items())  # fmt: skip

    def end(self, tag: int, status: Status | None = None) -> None:
        transfer = self.waiting.pop(tag)
        if status is None:
            status = self.rng.choice((Status.OK, Status.OK, Status.OK, Status.STALL, Status.CRC, Status.SHUTDOWN))
        self.exporter.complete(tag, self.completion(transfer, status))

    def completion(self, transfer: Transfer | None, status: Status) -> Completion:
        if transfer is None:
            return Completion(status)
        if transfer.packets is not None:
            done = [IsoPacket(p.offset, p.length, self.rng.randint(0, p.length)) for p in transfer.packets]
            total = sum(p.actual for p in done)
            return Completion(status, bytes(total) if transfer.is_in else b"", total, done)
        actual = self.rng.randint(0, transfer.length + (self.rng.random() < 0.1))
        return Completion(status, b"d" * actual if transfer.is_in else b"", actual)

    def live(self) -> None:
        """Time passes, things end, the device may leave and come again."""
        while self.waiting and self.rng.random() < 0.5:
            self.end(next(iter(self.waiting)))
        if self.rng.random() < 0.02 and self.exporter.state is State.SERVING:
            for tag in tuple(self.waiting):
                self.end(tag, Status.GONE)
            self.exporter.gone()
        if self.rng.random() < 0.1:
            self.exporter.noticed()
        if self.exporter.has_events:
            self.look()
        self.hear()

    def settle(self, broken: bool) -> None:
        """Let everything end; then nothing may be missing, unless the importer broke the protocol."""
        while self.waiting:
            self.end(next(iter(self.waiting)))
        self.hear()
        assert not self.exporter.in_flight
        if not broken and self.exporter.state is State.SERVING:
            assert self.answered == +self.asked, self.asked - self.answered


def is_interrupt(packet: Packet) -> bool:
    """An OUT one, or its answer: IN ones are of a stream."""
    return packet.kind == Type.INTERRUPT_PACKET and packet.body.endpoint < 0x80  # type: ignore[attr-defined]


def run(data: bytes) -> None:
    """One input; AssertionError, or anything else than ProtocolError, when something is wrong."""
    Harness(data).run()


def seeds() -> list[bytes]:
    """Conversations that mean something."""
    packet, bulk, control, interrupt, iso = wire.packet, wire.bulk, wire.control, wire.interrupt, wire.iso
    cancel, reset = packet(21, 1), packet(3, 0)
    talks = [
        [bulk(1, 0x81, 64), cancel, bulk(1, 0x81, 64)],
        [bulk(1, 0x02, data=b"payload"), bulk(2, 0x81, 70_000), bulk(3, 0x8F, 3)],
        [control(1, "80 06 00 01 00 00 12 00"), control(2, "40 01 00 00 00 00 03 00", b"abc"), reset, reset],
        [control(1, "00 09 02 00 00 00 00 00"), control(2, "01 0b 01 00 00 00 00 00")],
        [control(1, "00 05 02 00 00 00 00 00"), control(2, "80 06 00 01 00 00 12 00", bytes(18), endpoint=0)],
        [packet(6, 5, b"\2"), packet(7, 6), packet(9, 7, b"\0\1"), packet(10, 8, b"\0"), packet(9, 9, b"\5\1")],
        [packet(15, 0, b"\x83"), packet(16, 0, b"\x83"), packet(15, 0, b"\x83"), reset],
        [packet(12, 0, b"\x85\2\2"), packet(13, 0, b"\x85"), packet(12, 0, b"\x85\2\2")],
        [packet(12, 0, b"\6\2\2"), *(iso(n, 6, b"abc") for n in range(9)), packet(13, 0, b"\6")],
        [packet(25, 1, struct.pack("<IIBB", 0, 512, 0x81, 2)), packet(26, 2, struct.pack("<IB", 0, 0x81))],
        [packet(18, 1, struct.pack("<II", 1 << 17, 4)), packet(19, 2, struct.pack("<I", 1 << 17))],
        [interrupt(1, 4, b"12345678"), interrupt(2, 4, bytes(100))],
        [packet(23, 0, b"0x08,-1,-1,-1,1\0"), packet(22, 0)],
        [packet(24, 0), packet(0, 0, bytes(68))],
        [*(bulk(n, 0x81, 500) for n in range(12)), *(packet(21, n) for n in range(12))],
        [struct.pack("<IIQ", 101, 0xFFFFFFFF, 1)],
    ]
    found = [bytes([n, n, n, caps]) + b"".join(talk) for n, talk in enumerate(talks) for caps in (0xFE, 0xBF)]
    short = b"".join(wire.packet(kind, 1, body, long=False) for kind, body in
                     ((18, b"\x81\4"), (19, b"\x81"), (3, b""), (6, b"\2"), (13, b"\6")))  # fmt: skip
    greeting = b"\1\1\1\xff" + wire.hello()
    return [*found, b"\0\0\0\x40" + short, greeting + bulk(1, 0x81, 3), b"\0\0\0\xff" + wire.hello((1,) * 99)]


if __name__ == "__main__":
    engine.main("redir_exporter", run, seeds(), "usbferry/protocols")
