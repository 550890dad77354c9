"""Any bytes to a USB/IP exporter: nothing but ProtocolError, and whatever it says a client can follow.

    python fuzz/exporter.py SECONDS [SEED]

The first four bytes of an input play the device and the network, the rest is what an importer sends. A second, simple
reading of those bytes says what was asked, and every answer is held against it: each submit and each unlink has exactly
one, no RET_SUBMIT follows the RET_UNLINK of its transfer, lengths and packets are those of the command or less.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz import engine
from tests.protocols.usbip import wire
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.events import Cancel, Claim, List, Refusal, Reset, Submit
from usbferry.protocols.limits import Limits
from usbferry.protocols.usbip.exporter import Exporter, State
from usbferry.usb.transfer import Completion, IsoPacket, Transfer
from usbferry.usb.tree import Configuration, Endpoint, Interface
from usbferry.usb.types import Status, TransferType

LIMITS = Limits(
    transfer_bytes=1024, iso_packets=8, transfers=6, bytes_in_flight=3000, cancels=3, early_cancels=3,
    early_cancel_seconds=2, handshake_seconds=5,
)  # fmt: skip
PLAIN = (0x02, 0x82)  # endpoints whose descriptors say that no packets' descriptors follow
INFO = replace(
    wire.INFO,
    configurations=(
        Configuration(1, (Interface(0, endpoints=tuple(Endpoint(e, TransferType.BULK, 64) for e in PLAIN)),)),
    ),
)
ECONNRESET = -104
MOST = 48 + LIMITS.transfer_bytes + 16 * LIMITS.iso_packets  # bytes of a message, either way


class Asked:
    """What the importer's bytes mean, read a second time: one submit, and its end."""

    def __init__(self, way: int, length: int, packets: int, iso: list[tuple[int, int]]) -> None:
        self.way, self.length, self.packets, self.iso = way, length, packets, iso


class Harness:
    """One input."""

    def __init__(self, data: bytes) -> None:
        head, self.sent = data[:4].ljust(4, b"\0"), data[4:]
        self.rng = random.Random(head[0] << 8 | head[1])  # the device's moods
        self.step = (1 << 20, 1, 7, 48, 50, 333)[head[2] % 6]  # bytes that arrive at a time
        self.imported = bool(head[3] & 1)
        self.exporter = Exporter(LIMITS, 0.0)
        self.now = 0.0
        self.waiting: dict[int, Transfer | None] = {}  # tag -> the transfer, None for a reset
        self.heard = bytearray()
        self.consumed = 0

    def run(self) -> None:
        if self.imported:
            self.hear(wire.op_import())
            assert self.exporter.state is State.SERVING, "the device was given"
            self.write()
            self.heard.clear()
            self.consumed = 0
        broken = False
        try:
            for at in range(0, len(self.sent), self.step):
                self.hear(self.sent[at : at + self.step])
                self.live()
            self.rest()
        except ProtocolError:
            broken = True
        self.settle(broken)

    # -- the network --------------------------------------------------------------------------------------------------

    _held = b""

    def hear(self, data: bytes) -> None:
        buffer = bytearray(self._held + data)
        self.exporter.receive(memoryview(buffer), self.now)
        try:
            for event in self.exporter.events():
                self.take(event)
                if self.rng.random() < 0.05:
                    break  # as a pump does when the link is full
        finally:
            used = self.exporter.consumed
            assert 0 <= used <= len(buffer)
            self.consumed += used
            self._held = bytes(buffer[used:])
            buffer[:] = b"\xee" * len(buffer)
        assert 0 < self.exporter.needed <= MOST

    def rest(self) -> None:
        """What was left when a pump went away early."""
        before = -1
        while before != self.consumed:
            before = self.consumed
            self.hear(b"")

    def live(self) -> None:
        """Time passes, transfers end, answers leave."""
        if self.rng.random() < 0.3:
            self.now += self.rng.choice((0.1, 1.0, 3.0))
            self.exporter.tick(self.now)
        deadline = self.exporter.deadline()
        assert deadline is None or deadline > self.now
        for tag in [tag for tag in self.waiting if self.rng.random() < 0.3]:
            self.end(tag)
        self.write()

    def write(self) -> None:
        chunks, self.exporter.outgoing = self.exporter.outgoing, []
        assert sum(len(chunk) for chunk in chunks) == self.exporter.outgoing_bytes
        self.exporter.outgoing_bytes = 0
        for chunk in chunks:
            self.heard += chunk

    # -- the device ---------------------------------------------------------------------------------------------------

    def take(self, event: object) -> None:
        match event:
            case Submit():
                transfer = event.transfer
                assert len(transfer.data) == (0 if transfer.is_in else transfer.length)
                assert transfer.length <= LIMITS.transfer_bytes
                assert event.tag not in self.waiting
                if self.rng.random() < 0.4:
                    self.exporter.complete(event.tag, self.answer(transfer))
                else:
                    self.waiting[event.tag] = transfer
                    assert len(self.waiting) <= LIMITS.transfers + 1
            case Cancel():
                assert self.waiting[event.tag] is event.transfer or self.waiting[event.tag] is None
                if self.rng.random() < 0.6:
                    del self.waiting[event.tag]
                    self.exporter.complete(event.tag, Completion(Status.CANCELLED))
            case Reset():
                self.waiting[event.tag] = None
            case Claim():
                if self.imported or self.rng.random() < 0.8:
                    self.exporter.accept(INFO)
                else:
                    self.exporter.refuse(self.rng.choice(list(Refusal)))
            case List():
                self.exporter.listed([INFO] * self.rng.randrange(3))
            case _:
                raise AssertionError(event)

    def end(self, tag: int) -> None:
        transfer = self.waiting.pop(tag)
        if transfer is None:
            self.exporter.reset_done(tag, self.rng.random() < 0.9)
        else:
            self.exporter.complete(tag, self.answer(transfer))

    def answer(self, transfer: Transfer) -> Completion:
        """What a device may say, and now and then what none should."""
        status = self.rng.choice((Status.OK, Status.OK, Status.OK, Status.STALL, Status.SHORT, Status.CANCELLED, 99))
        if transfer.packets is not None and self.rng.random() < 0.8:
            done = [
                IsoPacket(0, 0, self.rng.randint(0, p.length), self.rng.choice((0, 0, 9))) for p in transfer.packets
            ]
            if self.rng.random() < 0.1:
                done = done[1:]
            actual = sum(packet.actual for packet in done) + (self.rng.random() < 0.1)
            return Completion(status, bytes(actual) if transfer.is_in else b"", actual, done, self.rng.randrange(3))
        actual = self.rng.randint(0, transfer.length + (self.rng.random() < 0.1))
        return Completion(status, b"d" * actual if transfer.is_in else b"", actual)

    # -- what was said, held against what was asked -------------------------------------------------------------------

    def settle(self, broken: bool) -> None:
        """Let everything end; then nothing may be missing, unless the importer broke the protocol."""
        while self.waiting:
            self.end(next(iter(self.waiting)))
        if self.exporter.state is State.SERVING:
            self.exporter.tick(self.now + 100)
        self.write()
        assert not self.exporter.in_flight
        if self.imported:
            self.check(broken)

    def check(self, broken: bool) -> None:
        submits: dict[int, list[Asked]] = {}  # seqnum -> each submit under it, in order
        unlinks: dict[int, list[int]] = {}  # seqnum -> the target of each unlink under it
        for seqnum, meaning in requests(self.sent[: self.consumed]):
            if isinstance(meaning, Asked):
                submits.setdefault(seqnum, []).append(meaning)
            else:
                unlinks.setdefault(seqnum, []).append(meaning)
        if any(len(targets) > 1 for targets in unlinks.values()):
            return  # nobody could say which of two unlinks of the same number was answered
        for command, seqnum, status in self.replies(submits):
            if command == 3:
                submits[seqnum].pop(0)
                continue
            target = unlinks[seqnum].pop(0)
            assert status in (0, ECONNRESET)
            if status:
                assert submits[target].pop(0), "cancelled, and answered before or never asked for"
        if not broken:
            assert not any(unlinks.values()), "an unlink without answer"
            assert not any(submits.values()), "a submit without answer"

    def replies(self, submits: dict[int, list[Asked]]) -> Iterator[tuple[int, int, int]]:
        """Every answer, checked against its command."""
        raw, at = bytes(self.heard), 0
        while at < len(raw):
            command, seqnum, status, actual, _, packets, errors = struct.unpack_from(">II12xiiiii8x", raw, at)
            assert raw[at + 8 : at + 20] == bytes(12)
            assert raw[at + 40 : at + 48] == bytes(8)
            at += 48
            if command == 3:
                assert submits.get(seqnum), f"#{seqnum} was not asked for, or answered before"
                asked = submits[seqnum][0]
                assert 0 <= actual <= max(asked.length, 0)
                assert packets == asked.packets
                at += actual if asked.way else 0
                found = [struct.unpack_from(">IIIi", raw, at + 16 * n) for n in range(len(asked.iso))]
                at += 16 * len(found)
                if found:
                    assert [one[:2] for one in found] == asked.iso
                    assert sum(one[2] for one in found) == actual
                    assert all(done <= length for _, length, done, _ in found)
                    assert errors == sum(one[3] != 0 for one in found)
            else:
                assert command == 4
                assert (actual, packets, errors) == (0, 0, 0)
            yield command, seqnum, status
        assert at == len(raw)


def requests(raw: bytes) -> Iterator[tuple[int, Asked | int]]:
    """The commands in bytes that an exporter took: their seqnum, and what they ask or whom they end."""
    at = 0
    while at + 48 <= len(raw):
        command, seqnum, _, way, ep, target, length, _, packets, _ = struct.unpack_from(">IIIIIIiiii", raw, at)
        at += 48
        if command != 1:
            if command == 2:
                yield seqnum, target
            continue  # another one was the breach, and the last
        at += length if way == 0 else 0
        descriptors = packets if ep and ep | way << 7 not in PLAIN else 0
        iso = [struct.unpack_from(">II", raw, at + 16 * n) for n in range(descriptors)]
        at += 16 * len(iso)
        yield seqnum, Asked(way, length, packets, iso)


def run(data: bytes) -> None:
    """One input; AssertionError, or anything else than ProtocolError, when something is wrong."""
    Harness(data).run()


def seeds() -> list[bytes]:
    """Conversations that mean something."""
    submit, unlink, control, IN, OUT = wire.submit, wire.unlink, wire.control, wire.IN, wire.OUT
    special = (
        "80 06 00 01 00 00 12 00",
        "23 03 04 00 01 00 00 00",
        "00 05 01 00 00 00 00 00",
        "00 09 01 00 00 00 00 00",
    )
    talks = [
        [submit(1, IN, 1, 8), unlink(2, 1), submit(3, IN, 1, 8)],
        [submit(1, OUT, 2, payload=b"payload"), submit(2, OUT, 2, payload=b"", packets=-1)],
        [*(control(n, setup) for n, setup in enumerate(special)), control(4, "4001000000000300", b"abc")],
        [submit(1, IN, 3, 24, iso=[(0, 8), (8, 8), (16, 8)])],
        [submit(2, OUT, 3, payload=bytes(12), iso=[(0, 4), (8, 4)])],
        [unlink(9, 8), unlink(10, 8), submit(8, IN, 1, 8), unlink(11, 50)],
        [*(submit(n, IN, 1, 500) for n in range(12)), *(unlink(100 + n, n) for n in range(12))],
        [submit(0xFFFFFFFF, IN, 1, 8), submit(0, IN, 1, 8), unlink(1, 0xFFFFFFFF), unlink(2, 0)],
        [submit(1, IN, 1, 2000), submit(2, OUT, 16, payload=b"x"), submit(3, IN, 99, 4, iso=[(0, 4)])],
    ]
    found = [bytes([n, n, n, 1]) + b"".join(talk) for n, talk in enumerate(talks)]
    found += [b"\0\0\0\0" + wire.op(0x8005), b"\0\0\1\0" + wire.op_import() + wire.submit(1, IN, 1, 8)]
    return found


if __name__ == "__main__":
    engine.main("exporter", run, seeds(), "usbferry/protocols")
