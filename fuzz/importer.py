"""Any bytes to a USB/IP importer: nothing but ProtocolError, bounded memory, and the same however they are cut.

    python fuzz/importer.py SECONDS [SEED]

An input is a question and what a server says to it:

byte 0      what is asked first: 0 nothing, 1 the list, 2 a device, 3 and above a device that is given at once
byte 1      which of TRANSFERS are in flight, as bits
byte 2      which of those are cancelled, as bits
byte 3      bytes that arrive at a time in the second run, less one
the rest    what the server says
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz import engine
from fuzz.playing import Player
from usbferry.protocols.events import Claimed, Event, Listed, Refused
from usbferry.protocols.limits import Limits
from usbferry.protocols.usbip.importer import Importer, State
from usbferry.protocols.usbip.messages import (
    VERSION,
    Command,
    DeviceRecord,
    IsoDescriptor,
    Op,
    OpHeader,
    RetSubmit,
    RetUnlink,
)
from usbferry.usb.setup import get_descriptor
from usbferry.usb.transfer import IsoPacket, Transfer

LIMITS: Final = Limits(devices_listed=8, interfaces_listed=4)


def transfers() -> list[Transfer]:
    """One of each kind. Their seqnums are 1 to 8, or fewer where not all are in flight; cancels follow."""
    return [
        Transfer(0x81, 64),
        Transfer(0x01, 5, b"hello"),
        Transfer(0x80, 18, b"", get_descriptor(1, length=18).pack()),
        Transfer(0x00, 0, b"", bytes(8)),
        Transfer(0x83, 12, packets=[IsoPacket(0, 4), IsoPacket(4, 4), IsoPacket(8, 4)], interval=1),
        Transfer(0x03, 6, b"abcdef", packets=[IsoPacket(0, 2), IsoPacket(4, 2)], interval=1),
        Transfer(0x82, 1 << 20),
        Transfer(0x83, 0, packets=[], interval=1),
    ]


RECORD: Final = DeviceRecord(b"/sys/1-1", b"1-1", 1, 2, 3, 0x1209, 1, 0x100, 0, 0, 0, 1, 1, 1)
REPLY: Final = OpHeader(VERSION, Op.REP_IMPORT, 0).pack() + RECORD.pack()
LARGEST: Final = RetSubmit.SIZE + max(t.length + IsoDescriptor.SIZE * len(t.packets or ()) for t in transfers())


def ret_submit(seqnum: int, actual: int = 0, packets: int = 0, status: int = 0) -> bytes:
    return RetSubmit(Command.RET_SUBMIT, seqnum, status, actual, 0, packets, 0).pack()


def ret_unlink(seqnum: int, status: int) -> bytes:
    return RetUnlink(Command.RET_UNLINK, seqnum, status).pack()


def seeds() -> list[bytes]:
    """Conversations that mean something, and single messages to splice into others."""
    listed = OpHeader(VERSION, Op.REP_DEVLIST, 0).pack()
    record = RECORD.pack() + b"\x08\x06\x50\0"
    iso = b"".join(IsoDescriptor(0, 4, 2, 0).pack() for _ in range(3))
    replies = ret_submit(1, 3) + b"abc" + ret_submit(2, 5) + ret_submit(5, 6, 3) + b"aabbcc" + iso
    answers = [ret_submit(seqnum, 4 * (seqnum % 2)) for seqnum in range(1, 9)]
    answers += [ret_unlink(seqnum, status) for seqnum in range(2, 18) for status in (-104, 0)]
    return [
        *[b"\x03\xff\xff\x00" + answer for answer in answers],
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x00" + listed,
        b"\x01\x00\x00\x00" + listed + bytes(4),
        b"\x01\x00\x00\x06" + listed + b"\0\0\0\2" + record + record,
        b"\x01\x00\x00\x00" + listed + b"\xff\xff\xff\xff",
        b"\x01\x00\x00\x00" + OpHeader(VERSION, Op.REP_DEVLIST, 1).pack(),
        b"\x02\x00\x00\x2f" + REPLY,
        b"\x02\x00\x00\x00" + OpHeader(VERSION, Op.REP_IMPORT, 4).pack(),
        b"\x02\x00\x00\x00" + OpHeader(0x0100, Op.REP_IMPORT, 0).pack(),
        b"\x03\xff\x00\x00" + replies,
        b"\x03\xff\xff\x10" + b"".join(ret_unlink(seqnum, -104) for seqnum in range(9, 17)),
        b"\x03\xff\xff\x00" + b"".join(ret_unlink(seqnum, 0) for seqnum in range(9, 17)),
        b"\x03\x03\x01\x00" + ret_submit(1, 64) + bytes(64) + ret_unlink(3, 0),
        b"\x03\x01\x01\x00" + ret_unlink(2, -104) + ret_submit(1),
    ]


class Played(Player):
    """One importer, set up as an input wants it."""

    importer: Importer

    def __init__(self, question: int, flying: int, cancelled: int) -> None:
        super().__init__(Importer(LIMITS))
        if question == 1:
            self.importer.list_devices()
        elif question:
            self.importer.claim("1-1")
        if question > 2:
            self.hear(REPLY)
            self.submit(transfers(), flying, cancelled)
        self.said = self.importer.outgoing_bytes

    def check_needs(self, needed: int) -> None:
        assert 0 < needed <= max(LARGEST, DeviceRecord.SIZE + 4 * LIMITS.interfaces_listed + 12)
        assert needed > len(self.held) or self.importer.state is State.DONE, "it has what it needs, and waits"

    def tell(self, event: Event) -> str:
        if isinstance(event, Listed):
            assert len(event.devices) <= LIMITS.devices_listed
            assert all(len(info.interface_classes) <= LIMITS.interfaces_listed for info in event.devices)
            return repr(event.devices)
        if isinstance(event, Claimed):
            assert event.info.name == "1-1"
            return repr(event.info)
        assert isinstance(event, Refused)
        return f"{event.reason} {event.text}"


def run(data: bytes) -> None:
    """One input; AssertionError, or anything else than ProtocolError, when something is wrong."""
    question, flying, cancelled, step = data[:4].ljust(4, b"\0")
    server = data[4:]
    whole, cut = Played(question, flying, cancelled), Played(question, flying, cancelled)
    whole.hear(server)
    for at in range(0, len(server), step + 1):
        if not cut.hear(server[at : at + step + 1]):
            break
    assert whole.told == cut.told, "it matters how the bytes are cut"
    assert whole.importer.outgoing_bytes == whole.said, "nobody asked it to speak"


if __name__ == "__main__":
    engine.main("importer", run, seeds(), "usbferry/protocols")
