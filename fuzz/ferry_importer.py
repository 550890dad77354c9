"""Any bytes to a ferry controller: nothing but ProtocolError, each transfer ends once, the same however they are cut.

    python fuzz/ferry_importer.py SECONDS [SEED]

An input is a question and what a target says to it:

byte 0      what is asked first: 0 nothing, 1 the list, 2 a device, 3 and above a device that is given at once; with
            bit 7 set on a transport that loses packets
byte 1      which of TRANSFERS are in flight, as bits
byte 2      which of those are cancelled, as bits
byte 3      bytes that arrive at a time in the second run, less one
the rest    what the target says; after `CUT` on another transport
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz import engine
from fuzz.ferry_exporter import CUT
from fuzz.importer import transfers
from fuzz.playing import Player
from tests.protocols.ferry.wire import FAILED, INFO, TOKEN, T, device, iso_reply, parts, reply, u32, version_reply
from usbferry.protocols.events import Changed, Claimed, Event, Left, Listed, Refused
from usbferry.protocols.ferry.framing import MARKER, RECORD_BYTES
from usbferry.protocols.ferry.importer import Importer
from usbferry.protocols.ferry.states import Controller
from usbferry.protocols.limits import Limits

LIMITS: Final = Limits(devices_listed=8, interfaces_listed=4)
CLAIMED: Final = version_reply(T) + reply(T + 1, 0, TOKEN + device())


class Played(Player):
    """One importer, set up as an input wants it."""

    importer: Importer

    def __init__(self, question: int, flying: int, cancelled: int) -> None:
        super().__init__(Importer(LIMITS, resends=question > 127))
        question &= 127
        if question == 1:
            self.importer.list_devices()
        elif question:
            self.importer.claim("1-1")
        if question > 2:
            self.hear(CLAIMED)
            self.submit(transfers(), flying, cancelled)

    def change_transport(self) -> None:
        self.importer.disconnected(1.0)
        self.importer.outgoing, self.importer.outgoing_bytes = [], 0
        self.importer.connected(2.0)
        self.held.clear()
        self.told.append("cut")

    def check_needs(self, needed: int) -> None:
        assert len(self.held) < needed <= MARKER + RECORD_BYTES

    def tell(self, event: Event) -> str:
        if isinstance(event, Listed):
            assert len(event.devices) <= LIMITS.devices_listed
            assert all(len(info.interface_classes) <= LIMITS.interfaces_listed for info in event.devices)
            return repr(event.devices)
        if isinstance(event, Claimed):
            return repr(event.info)
        if isinstance(event, Left):
            assert self.importer.state is Controller.OVER
            assert self.importer.ended
        else:
            assert isinstance(event, Refused | Changed)
        return type(event).__name__


def play(played: Played, target: bytes, step: int) -> Played:
    for number, part in enumerate(target.split(CUT)):
        if number:
            played.change_transport()
        for at in range(0, len(part), step):
            if not played.hear(part[at : at + step]):
                break
    return played


def run(data: bytes) -> None:
    """One input; AssertionError, or anything else than ProtocolError, when something is wrong."""
    question, flying, cancelled, step = data[:4].ljust(4, b"\0")
    whole = play(Played(question, flying, cancelled), data[4:], 1 << 30)
    cut = play(Played(question, flying, cancelled), data[4:], step + 1)
    assert whole.told == cut.told, "it matters how the bytes are cut"


def seeds() -> list[bytes]:
    """Conversations that mean something, and single messages to splice into others."""
    one = device(INFO)
    listed = version_reply(T) + reply(T + 1, 0, u32(1, len(one)) + one)
    answers = [reply(n, 0, b"ab") for n in range(1, 9)] + [reply(n, FAILED + n) for n in range(1, 19)]
    iso = iso_reply(5, [(0, 2), (FAILED + 9, 0), (0, 4)], b"aabbbb") + iso_reply(6, [(0, 2), (0, 2)])
    long = b"".join(parts(7, u32(0), bytes(1000), (512, 492), is_reply=True))
    resumed = version_reply(T + 3) + reply(T + 4, 0, u32(3)) + reply(1, 0, b"x") + reply(2)
    return [
        *[b"\x03\xff\xff\x00" + answer for answer in answers],
        b"\x00\x00\x00\x00" + reply(T),
        b"\x01\x00\x00\x00" + listed,
        b"\x01\x00\x00\x05" + version_reply(T) + reply(T + 1, 0, u32(0)),
        b"\x01\x00\x00\x00" + reply(T, 10, u32(1, 7)) + reply(T + 1, 4),
        *[b"\x02\x00\x00\x00" + version_reply(T) + reply(T + 1, code) for code in (1, 2, 3, 11, 12, 13, 77)],
        b"\x02\x00\x00\x2f" + CLAIMED,
        b"\x03\xff\x00\x00" + b"".join(answers[:4]) + iso + long + reply(8),
        b"\x03\xff\xff\x10" + b"".join(reply(n, 5) + reply(n, FAILED + 2) for n in range(1, 17)),
        b"\x83\xff\x00\x00" + b"".join(answers[3::-1]) + long + iso,
        b"\x03\xff\x00\x07" + reply(3, 0, b"x") + long[:40] + CUT + resumed + long + iso,
        b"\x03\xff\x00\x07" + CUT + version_reply(T + 3) + reply(T + 4, 9),
        b"\x03\x01\x00\x00" + reply(T + 2, FAILED + 3),
        b"\x03\x01\x00\x00" + reply(1, FAILED + 6, b"short"),
    ]


if __name__ == "__main__":
    engine.main("ferry_importer", run, seeds(), "usbferry/protocols")
