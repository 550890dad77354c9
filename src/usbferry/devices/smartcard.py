"""A reader with a smart card in it, CCID: a card with files, or one of yours, a function from command to response.

    reader = Smartcard()
    reader.remove(); reader.insert()             # hosts are told
    reader.insert(Answering(lambda command: bytes.fromhex("9000")))

interrupt 0x83   the card came, or went
bulk 0x01        the host's messages, one at a time; an abort needs one there and a control request
bulk 0x82        what answers them; while the card takes its time, that it does

Lines: `insert`, `remove`. Source: CCID 1.1; see `smartcards.ccid`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import ClassVar, Final

from ..usb.setup import Setup
from ..usb.transfer import Completion, Transfer
from ..usb.tree import DeviceDescriptor, Interface
from ..usb.types import Speed, Status
from .chapter9 import Stall
from .clock import Clock
from .driven import Driven, Verb
from .pipe import Answer
from .smartcards import ccid
from .smartcards.card import Card, Files
from .smartcards.slot import Slot
from .virtual import data, done, endpoint, request

log: Final = logging.getLogger(__name__)
OUT: Final = 0x01
IN: Final = 0x82
INTERRUPT: Final = 0x83
_NOTIFY_SLOT_CHANGE: Final = 0x50  # §6.3.1
_MOST_ANSWERS: Final = 4  # that the host has not fetched, before it may send more


class Smartcard(Driven):
    """`files` is a folder: its files are the card's, see `smartcards.card`. Without it there is a small one.

    `pin` is what writing needs. `inserted` is whether the card is in the reader from the start, `busy` the seconds that
    it takes for each command, and `extended` has the reader take APDUs of extended length. `pipe` is a FIFO, a file, or
    `-` for standard input, with lines as the module has them. Raises ValueError.
    """

    # Drivers of readers go by lists of ids. This is a Gemalto that plainly follows CCID, as QEMU's reader says it is.
    descriptor = DeviceDescriptor(0x08E6, 0x4433)
    product = "Smart card reader"
    verbs: ClassVar = {"insert": Verb(), "remove": Verb()}

    def __init__(
        self,
        *,
        files: Path | None = None,
        pin: str = "1234",
        inserted: bool = True,
        extended: bool = True,
        busy: float = 0.0,
        pipe: str = "",
        speed: Speed = Speed.FULL,
        serial: str = "",
        clock: Clock | None = None,
    ) -> None:
        if not 0 <= busy < 1000:
            raise ValueError("a command takes 0 to 1000 seconds")
        self.speed, self.serial = speed, serial
        card = Files(pin=pin) if files is None else Files.of(files, pin)
        self.slot = Slot(card, extended, busy, lambda: self.clock, self.later, lambda: self.kick(IN))
        self.slot.is_inserted = inserted
        self._is_extended = extended
        self._forget()
        super().__init__(pipe=pipe, clock=clock)

    def interfaces(self) -> tuple[Interface, ...]:
        endpoints = (self.bulk(OUT), self.bulk(IN), self.interrupt(INTERRUPT, 8, 8 if self.speed >= Speed.HIGH else 16))
        return (Interface(0, 0, 0x0B, 0, 0, endpoints, extra=(ccid.descriptor(self._is_extended),)),)

    def _forget(self) -> None:
        """What is half done. A reader that is switched on tells of the card that is in it."""
        self._come = bytearray()  # a message, as far as it has come
        self._unended: bytes | None = None  # what an IN transfer had no room for
        self.slot.restart()
        self._is_changed = self.slot.is_inserted  # and the host has not been told

    # -- the card -----------------------------------------------------------------------------------------------------

    def insert(self, card: Card | None = None) -> None:
        """Put a card in, the one that was taken out last unless another is given; nothing happens if it is there."""
        if card is not None and card is not self.slot.card:
            self.remove()
            self.slot.card = card
        self._turn(True)

    def remove(self) -> None:
        """Take the card out, whatever it is doing."""
        self._turn(False)

    def _turn(self, inserted: bool) -> None:
        if self.slot.turn(inserted):
            self._is_changed = True
            self.kick(INTERRUPT)

    @endpoint(INTERRUPT)
    def _report(self, transfer: Transfer) -> Answer:
        """Of one slot: whether a card is in it, and that this changed."""
        if not self._is_changed:
            return None
        self._is_changed = False
        report = bytes((_NOTIFY_SLOT_CHANGE, 0x02 | self.slot.is_inserted))
        return (
            data(report) if transfer.length >= len(report) else Completion(Status.OVERFLOW, report[: transfer.length])
        )

    # -- the host's messages ------------------------------------------------------------------------------------------

    @endpoint(OUT)
    def _take(self, transfer: Transfer) -> Answer:
        """A message may be several transfers; a short packet ends it, or that all of it is there."""
        if len(self.slot.answers) >= _MOST_ANSWERS:
            return None
        if not transfer.length and not self._come:
            return done(transfer)  # the end of a message that filled its packets
        self._come += transfer.data
        is_short = transfer.length % self.bulk(OUT).packet_size != 0 or not transfer.length
        wanted = ccid.HEADER.size
        if len(self._come) >= wanted:
            wanted += min(ccid.HEADER.unpack_from(self._come)[1], self.slot.room)
        if len(self._come) >= wanted or is_short:
            come, self._come = bytes(self._come), bytearray()
            if len(come) < ccid.HEADER.size:
                log.debug("no message: %s", come.hex())
                self.halt(OUT)
                return Completion(Status.STALL)
            self.slot.receive(come)
        return done(transfer)

    # -- aborts, §5.3.1 -----------------------------------------------------------------------------------------------

    @request(0x21, 0x01)
    def _abort_request(self, setup: Setup, _: bytes) -> None:
        """wValue is the number of the message that ends, and its slot."""
        if setup.index or setup.value & 0xFF:
            raise Stall
        self.slot.abort(setup.value >> 8)

    @request(0xA1, 0x02)
    def _clock_frequencies(self, setup: Setup, _: bytes) -> bytes:
        _check(setup)
        return ccid.CLOCK_KHZ.to_bytes(4, "little")

    @request(0xA1, 0x03)
    def _data_rates(self, setup: Setup, _: bytes) -> bytes:
        _check(setup)
        return ccid.RATE.to_bytes(4, "little")

    # -- answers ------------------------------------------------------------------------------------------------------

    @endpoint(IN)
    def _give(self, transfer: Transfer) -> Answer:
        """One message, ended by a short packet. A transfer that it fills is followed by one with the rest, or none."""
        if self._unended is None:
            if not self.slot.answers:
                return None
            self._unended = self.slot.answers.popleft()
            if len(self.slot.answers) == _MOST_ANSWERS - 1:
                self.kick(OUT)
        given, rest = self._unended[: transfer.length], self._unended[transfer.length :]
        is_over = not rest and (len(given) < transfer.length or transfer.length % self.bulk(IN).packet_size != 0)
        self._unended = None if is_over or not transfer.length else rest
        return data(given)

    # -- life ---------------------------------------------------------------------------------------------------------

    def settings_changed(self) -> None:
        self._forget()

    def was_reset(self) -> None:
        self._forget()


def _check(setup: Setup) -> None:
    if setup.value or setup.index:
        raise Stall
