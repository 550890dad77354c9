"""Any bytes to a ferry target: nothing but ProtocolError, each call carried out once and answered once, bounded memory.

    python fuzz/ferry_exporter.py SECONDS [SEED]

The first four bytes of an input play the device and the network, the rest is what a controller sends, transport after
transport: `CUT` between them loses one, in the middle of whatever is under way.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz import engine
from tests.protocols.ferry import wire
from tests.protocols.ferry.wire import T
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.events import (
    AllocStreams,
    Cancel,
    Claim,
    Describe,
    Event,
    FreeStreams,
    List,
    Refusal,
    Release,
    Reset,
    Resume,
    Submit,
    Suspend,
    Wake,
    Watch,
)
from usbferry.protocols.ferry.exporter import Exporter
from usbferry.protocols.ferry.framing import MARKER, RECORD_BYTES
from usbferry.protocols.ferry.messages import Code
from usbferry.protocols.ferry.states import Target
from usbferry.protocols.limits import Limits
from usbferry.usb.transfer import Completion, IsoPacket, Transfer
from usbferry.usb.types import Status

LIMITS = Limits(transfer_bytes=2048, iso_packets=8, transfers=6, bytes_in_flight=6000, grace_seconds=8)
CUT = b"--cut here--"
NOT_FINAL = {Code.IN_PROGRESS, Code.PART, Code.FORGOTTEN, Code.NOT_CLAIMED}


class Harness:
    """One input."""

    def __init__(self, data: bytes) -> None:
        head, self.sent = data[:4].ljust(4, b"\0"), data[4:]
        self.rng = random.Random(head[0] << 8 | head[1])  # the device's moods
        self.step = (1 << 20, 1, 7, 48, 50, 333)[head[2] % 6]  # bytes that arrive at a time
        self.now = 0.0
        self.claimed = bool(head[3] & 1)
        self.exporter = self.made()
        self.holder: Exporter | None = None  # that has the session
        self.waiting: dict[int, Transfer | None] = {}  # tag -> the transfer; None for a call that is none
        self.seen: set[int] = set()  # tags of this session
        self.final: dict[int, bytes] = {}  # identifier -> the reply that ended it
        self.held = b""

    def made(self) -> Exporter:
        return Exporter(LIMITS, self.now, instance=wire.INSTANCE, token=lambda: wire.TOKEN)

    def run(self) -> None:
        if self.claimed:
            self.hear(wire.version() + wire.claim() + wire.call(T + 2, 22))
            self.write()
        for number, part in enumerate(self.sent.split(CUT)):
            if number:
                self.lose()
            try:
                for at in range(0, len(part), self.step):
                    self.hear(part[at : at + self.step])
                    self.live()
            except ProtocolError:
                self.lose()
        self.settle()

    # -- the network --------------------------------------------------------------------------------------------------

    def lose(self) -> None:
        """As a pump does: the session waits, or ends; the next transport has an exporter of its own."""
        self.write()
        waits = self.exporter.disconnected(self.now)
        assert waits == (self.exporter.state is Target.DETACHED)
        if not waits and self.exporter is self.holder:
            self.forget()
        self.held = b""
        self.exporter = self.made()

    def forget(self) -> None:
        self.holder = None
        self.waiting.clear()
        self.seen.clear()
        self.final.clear()

    def hear(self, data: bytes) -> None:
        exporter, buffer = self.exporter, bytearray(self.held + data)
        exporter.receive(memoryview(buffer), self.now)
        try:
            for event in exporter.events():
                self.take(event)
                if self.exporter is not exporter or self.rng.random() < 0.05:
                    break
        finally:
            assert 0 <= exporter.consumed <= len(buffer)
            self.held = bytes(buffer[exporter.consumed :])
            buffer[:] = b"\xee" * len(buffer)
        assert 0 < exporter.needed <= MARKER + RECORD_BYTES
        if self.exporter is not exporter:
            self.hear(b"")

    def live(self) -> None:
        """Time passes, transfers end, replies leave."""
        if self.rng.random() < 0.2:
            self.now += self.rng.choice((0.1, 1.0, 4.0))
            self.exporter.tick(self.now)
        for tag in [tag for tag in self.waiting if self.rng.random() < 0.3]:
            self.end(tag)
        if self.exporter.has_events:
            self.hear(b"")
        self.write()

    def write(self) -> None:
        raw = b"".join(self.exporter.outgoing)
        assert len(raw) == self.exporter.outgoing_bytes
        self.exporter.outgoing, self.exporter.outgoing_bytes = [], 0
        while raw:
            size, identifier, status = struct.unpack_from(">III", raw)
            assert 8 <= size <= RECORD_BYTES
            record, raw = raw[4 : 4 + size], raw[4 + size :]
            assert len(record) == size
            if not identifier & T and status not in NOT_FINAL:
                assert self.final.setdefault(identifier, record) == record, "two ends of one call"

    # -- the device ---------------------------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        match event:
            case Submit():
                transfer = event.transfer
                assert len(transfer.data) == (0 if transfer.is_in else transfer.length)
                assert transfer.length <= LIMITS.transfer_bytes
                self.begin(event.tag, transfer)
                if self.rng.random() < 0.4:
                    self.end(event.tag)
            case Reset() | AllocStreams() | FreeStreams():
                self.begin(event.tag, None)
            case Cancel():
                assert self.waiting[event.tag] is event.transfer or self.waiting[event.tag] is None
                if self.rng.random() < 0.6:
                    del self.waiting[event.tag]
                    self.holder_of().complete(event.tag, Completion(Status.CANCELLED))
            case Claim():
                if not self.claimed or self.rng.random() < 0.9:
                    self.exporter.accept(wire.INFO)
                    self.forget()
                    self.holder = self.exporter
                else:
                    self.exporter.refuse(self.rng.choice(list(Refusal)))
            case Resume():
                if self.holder is not None and event.session == self.holder.session and not self.holder.done:
                    self.exporter = self.holder
                    self.exporter.connected(self.now)
                else:
                    self.exporter.refuse(Refusal.NOT_FOUND)
            case Release():
                self.exporter.released()
                self.forget()
            case List():
                self.exporter.listed([wire.INFO] * self.rng.randrange(3))
            case Describe():
                self.exporter.described(wire.INFO)
            case Watch():
                self.exporter.noticed()
            case Suspend() | Wake():
                pass
            case _:
                raise AssertionError(event)

    def holder_of(self) -> Exporter:
        assert self.holder is not None
        return self.holder

    def begin(self, tag: int, transfer: Transfer | None) -> None:
        assert tag not in self.seen, "carried out twice"
        self.seen.add(tag)
        self.waiting[tag] = transfer
        assert len(self.waiting) <= LIMITS.transfers

    def end(self, tag: int) -> None:
        transfer = self.waiting.pop(tag)
        other = Completion(self.rng.choice((Status.OK, Status.GONE)))
        completion = self.answer(transfer) if transfer is not None else other
        self.holder_of().complete(tag, completion)

    def answer(self, transfer: Transfer) -> Completion:
        """What a device may say, and now and then what none should."""
        status = self.rng.choice((Status.OK, Status.OK, Status.OK, Status.STALL, Status.SHORT, Status.CANCELLED))
        actual = self.rng.randint(0, transfer.length + (self.rng.random() < 0.1))
        if transfer.packets is not None and self.rng.random() < 0.8:
            done = [IsoPacket(0, 0, self.rng.randint(0, p.length), self.rng.choice((0, 9))) for p in transfer.packets]
            actual = sum(packet.actual for packet in done) + (self.rng.random() < 0.1)
            return Completion(status, bytes(actual) if transfer.is_in else b"", actual, done, 3)
        return Completion(status, b"d" * actual if transfer.is_in else b"", actual)

    def settle(self) -> None:
        """Let everything end: each call that was carried out has a reply."""
        for _ in range(100):
            if not self.waiting:
                break
            self.end(next(iter(self.waiting)))
            if self.exporter.has_events:
                self.hear(b"")
        self.write()
        if self.holder is None or self.holder._session is None:
            return
        assert self.holder is not self.exporter or not self.holder.in_flight
        ledger = self.holder._session.ledger
        assert len(ledger.replies) <= LIMITS.transfers
        assert ledger.bytes <= LIMITS.bytes_in_flight


def run(data: bytes) -> None:
    Harness(data).run()


def seeds() -> list[bytes]:
    """Conversations that mean something."""
    bulk, unlink, call, u32 = wire.bulk, wire.unlink, wire.call, wire.u32
    back = CUT + wire.version(T + 20) + wire.resume(T + 21, (1, 2, 3))
    long = wire.parts(2, b"\6\2\0\0", u32(1400) + bytes(1400), (512, 512, 380))
    talks = [
        [bulk(1, 0x81, 8), unlink(2, 1), bulk(3, 0x01, data=b"abc"), wire.heartbeat(T + 5, 1, 3)],
        [bulk(n, 0x81, 8, flags=n & 1) for n in range(1, 6)] + [bulk(6, 0x81, 8, flags=0x100)],
        [wire.control(1, "8006000100001200"), wire.control(2, "2303040001000000"), wire.control(3, "0009010000000000")],
        [wire.iso(1, 0x83, (4, 4)), wire.iso(2, 0x03, (2, 1), b"abc"), wire.interrupt(3, 0x84, 8, 10)],
        [call(1, 10), call(2, 11, b"\1"), call(3, 12, b"\0\1"), call(4, 13, b"\x81"), call(5, 14), call(6, 15)],
        [call(1, 16, u32(4) + b"\x81"), call(2, 17, b"\x81"), call(3, 18), call(T + 3, 19, u32(0)), call(T + 4, 2)],
        [bulk(1, 0x81, 8), *long, bulk(3, 0x81, 2000)],
        [bulk(3, 0x81, 8), bulk(2, 0x01, data=b"x"), bulk(2, 0x01, data=b"x"), bulk(1, 0x81, 8), bulk(1, 0x81, 8)],
        [bulk(1, 0x81, 8), bulk(2, 0x01, data=b"payload")[:9], back, bulk(2, 0x01, data=b"payload"), bulk(3, 0x81, 8)],
        [bulk(1, 0x81, 8), call(2, 4), wire.claim(T + 9), bulk(3, 0x81, 8)],
        [bulk(n, 0x81, 600) + wire.heartbeat(T + n, n, n) for n in range(1, 20)],
    ]
    found = [bytes([n, n, n, 1]) + b"".join(talk) for n, talk in enumerate(talks)]
    opening = wire.version(versions=(3, 1)) + call(T + 1, 2) + wire.claim(T + 2) + bulk(1, 0x81, 8)
    return [*found, bytes(4) + opening, bytes(4) + wire.version(versions=(2,)) + opening]


def records() -> Iterator[bytes]:
    """Single calls to splice into others."""
    return (wire.call(n, number) for n in (1, T) for number in range(1, 24))


if __name__ == "__main__":
    engine.main("ferry_exporter", run, [*seeds(), *records()], "usbferry/protocols")
