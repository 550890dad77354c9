"""Any bytes to a usbredir importer: nothing but ProtocolError, bounded memory, and the same however they are cut.

    python fuzz/redir_importer.py SECONDS [SEED]

An input is what an exporter sends, after four bytes that play the user:

byte 0      what is there when the input begins: 0 nothing, 1 the hello, 2 and above a claimed device; 0x40 the draft's
byte 1      which of TRANSFERS are in flight, as bits
byte 2      which of those are cancelled, as bits
byte 3      bytes that arrive at a time in the second run, less one
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Final

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz import engine
from fuzz.playing import Player
from tests.protocols.usbredir import wire
from usbferry.protocols.events import Claimed, Event, Left, Listed, Refused
from usbferry.protocols.limits import Limits
from usbferry.protocols.usbredir.importer import Importer
from usbferry.protocols.usbredir.messages import Dialect
from usbferry.usb.setup import get_descriptor
from usbferry.usb.transfer import IsoPacket, Transfer

LIMITS: Final = Limits(transfer_bytes=4096)
MOST: Final = 64 * 1024 + 100  # bytes of a message that may be waited for: a hello, a filter


def transfers() -> list[Transfer]:
    """One of each kind; their ids are 2 to 9, or fewer where not all are in flight."""
    return [
        Transfer(0x81, 64),
        Transfer(0x02, 5, b"hello"),
        Transfer(0x80, 18, b"", get_descriptor(1, length=18).pack()),
        Transfer(0x00, 0, b"", bytes.fromhex("0009020000000000")),
        Transfer(0x83, 20, interval=4),
        Transfer(0x04, 20, bytes(20), interval=4),
        Transfer(0x85, 200, packets=[IsoPacket(0, 100), IsoPacket(100, 100)], interval=8),
        Transfer(0x06, 6, b"abcdef", packets=[IsoPacket(0, 2), IsoPacket(4, 2)], interval=8),
    ]


class Played(Player):
    """One importer, set up as an input wants it."""

    importer: Importer

    def __init__(self, state: int, flying: int, cancelled: int) -> None:
        dialect = Dialect.DRAFT if state == 0x40 else Dialect.RELEASED
        super().__init__(Importer(LIMITS, dialect=dialect))
        self.importer.claim("")
        if dialect is Dialect.DRAFT:
            self.hear(wire.hello((1,)) + wire.packet(8, 1, b"\0\1", long=False))
        elif state:
            self.hear(wire.hello())
        if state > 1 and dialect is Dialect.RELEASED:
            self.hear(wire.SETTINGS + wire.connect() + wire.packet(8, 1, b"\0\1"))
        if state > 1:
            self.submit(transfers(), flying, cancelled)
            self.hear(b"")

    def check_needs(self, needed: int) -> None:
        assert len(self.held) < needed <= MOST + 64

    def tell(self, event: Event) -> str:
        if isinstance(event, Claimed):
            return repr(event.info)
        assert isinstance(event, Left | Listed | Refused)
        return type(event).__name__

    def settle(self) -> None:
        """Time passes, and the device leaves: then nothing waits any more."""
        for now in (1.0, 2.0, 3.0):
            self.importer.tick(now)
        self.hear(b"")


def run(data: bytes) -> None:
    """One input; AssertionError, or anything else than ProtocolError, when something is wrong."""
    state, flying, cancelled, step = data[:4].ljust(4, b"\0")
    exporter = data[4:]
    whole, cut = Played(state, flying, cancelled), Played(state, flying, cancelled)
    goes_on = whole.hear(exporter)
    for at in range(0, len(exporter), step + 1):
        if not cut.hear(exporter[at : at + step + 1]):
            break
    assert whole.told == cut.told, "it matters how the bytes are cut"
    if goes_on:
        whole.settle()


def seeds() -> list[bytes]:
    """Conversations that mean something, and single messages to splice into others."""
    packet, bulk, control, interrupt, iso = wire.packet, wire.bulk, wire.control, wire.interrupt, wire.iso
    answers = [
        bulk(2, 0x81, data=b"abc"),
        bulk(2, 0x81, 0, status=4),
        bulk(3, 0x02, 5),
        control(4, "80 06 00 01 00 00 12 00", bytes(18)),
        packet(8, 5, b"\0\2"),
        packet(17, 0, b"\0\x83") + interrupt(0, 0x83, b"12345678") + interrupt(1, 0x83, b"x"),
        packet(17, 0, b"\4\x83"),
        interrupt(7, 4, length=8) + interrupt(8, 4, length=8) + interrupt(9, 4, length=4),
        packet(14, 0, b"\0\x85") + b"".join(iso(n, 0x85, b"x") for n in range(70)),
        packet(14, 0, b"\0\6") + packet(14, 0, b"\4\6"),
        wire.SETTINGS,
        packet(2, 0) + wire.SETTINGS + wire.connect(),
        packet(20, 2, struct.pack("<IIB", 1, 2, 0)),
        packet(104, 0, struct.pack("<IIBB", 0, 3, 0x81, 0), b"abc"),
        packet(23, 0, b"-1,-1,-1,-1,1\0"),
        struct.pack("<IIQBBHIH", 101, (128 << 20) + 10, 2, 0x81, 0, 0, 0, 0x800),
    ]
    found = [b"\2\xff" + bytes([n % 2 * 0xFF, n]) + answer for n, answer in enumerate(answers)]
    found += [
        b"\0\0\0\0" + wire.hello() + wire.SETTINGS + wire.connect() + packet(8, 1, b"\0\1"),
        b"\0\0\0\6" + wire.hello((0xFF,) * 40),
        b"\1\0\0\0" + wire.connect() + packet(2, 0),
        b"\x40\xff\0\0" + packet(28, 5, b"\0", long=False) + packet(20, 6, b"\0\x81\4", long=False),
    ]
    return found


if __name__ == "__main__":
    engine.main("redir_importer", run, seeds(), "usbferry/protocols")
