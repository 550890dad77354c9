"""A device that does what a recorded one did: it plays a tape, `backends.capture.tape`, to whoever claims it.

    control request   the recorded answers to the same request, in order, the last of them for ever
    IN endpoint       what came, in order, each piece once the host has done what it had done before it
    OUT endpoint      takes everything; what differs from the tape is told

Each claim plays the tape from its start. Descriptors and settings are the device's own affair, as of any other.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from functools import partial
from typing import Final

from ..backends.capture.events import Packet
from ..backends.capture.tape import Chunk, Refusal, Tape, best, is_own
from ..usb.setup import Request, Setup
from ..usb.transfer import Completion, Transfer
from ..usb.tree import Configuration
from ..usb.types import Status
from .clock import Clock, Timer
from .pipe import Answer, Handler
from .virtual import VirtualDevice, data, done

log: Final = logging.getLogger(__name__)
ENDS: Final = ("wait", "again", "leave")
_POLL_SECONDS: Final = 0.001  # between answers that mean "nothing", at least
_MOST_TOLD: Final = 200  # differences of one claim
_KEY: Final = 6  # bytes of a setup packet without wLength


class _Reel:
    """How far one IN endpoint has played."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self.chunks = chunks
        self.rewind()

    def rewind(self) -> None:
        self.place = self.offset = 0
        self.seen: set[bytes] = set()  # requests since the last chunk
        self.given: list[Chunk] = []  # the last two
        self.given_at = 0.0
        self.due: float | None = None  # of the chunk at the head
        self.timer: Timer | None = None
        self.has_complained = False

    @property
    def head(self) -> Chunk | None:
        return self.chunks[self.place] if self.place < len(self.chunks) else None

    @property
    def poll(self) -> Chunk | None:
        """What says that there is nothing, where the device says so: two short answers alike, one after the other."""
        if len(self.given) < 2 or self.offset:
            return None
        before, last = self.given
        is_poll = last.is_short and 0 < last.size <= 8 and last.status == Status.OK
        return last if is_poll and bytes(before.data) == bytes(last.data) else None

    def take(self, room: int) -> bytes:
        """Up to `room` bytes of the head; zeros where the capture did not keep them."""
        head = self.chunks[self.place]
        size = min(room, head.size - self.offset)
        piece = bytes(head.data[self.offset : self.offset + size]).ljust(size, b"\0")
        self.offset += size
        return piece

    def next(self, now: float) -> Chunk:
        """The head is given: go on to the next."""
        head = self.chunks[self.place]
        self.place, self.offset, self.due, self.given_at = self.place + 1, 0, None, now
        self.given = [*self.given[-1:], head]
        self.seen.clear()
        return head

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


def check_end(end: str) -> None:
    """Raises ValueError for an `end` that there is not, which an address is told before its file is read."""
    if end not in ENDS:
        raise ValueError(f"replay, option end: {end!r} is none of {', '.join(ENDS)}")


class Player(VirtualDevice):
    """The device of a tape."""

    def __init__(
        self,
        tape: Tape,
        *,
        timed: bool = False,
        ordered: bool = True,
        check: bool = False,
        end: str = "wait",
        clock: Clock | None = None,
    ) -> None:
        """`timed`: data comes as long after what it answers as it did, otherwise at once. `ordered`: it waits for what
        the host had done before. `check`: a host that sends something else is refused. `end`: whether an endpoint that
        has played all its data waits, plays it again, or the device leaves when all have.

        Raises ValueError.
        """
        check_end(end)
        info = tape.info
        self.tape, self.timed, self.ordered, self.check, self.end = tape, timed, ordered, check, end
        self.descriptor, self.speed, self.bos = info.device, info.speed, tape.bos
        self.manufacturer, self.product, self.serial = info.manufacturer, info.product, info.serial
        self._reels = {address: _Reel(chunks) for address, chunks in tape.reels.items()}
        super().__init__(clock=clock)
        self.redescribe(info, tape.strings)
        self._rewind()

    def configurations(self) -> tuple[Configuration, ...]:
        return self.tape.info.configurations

    # -- the tape -----------------------------------------------------------------------------------------------------

    def _rewind(self) -> None:
        for reel in self._reels.values():
            reel.stop_timer()
            reel.rewind()
        self._asked: dict[bytes, int] = defaultdict(int)  # request -> how often
        self._sent: dict[int, int] = defaultdict(int)  # OUT endpoint -> bytes
        self._refused: dict[int, int] = defaultdict(int)  # OUT endpoint -> how many transfers
        self._packets: dict[int, int] = defaultdict(int)  # isochronous endpoint -> packets
        self._acts = 0  # how many of the tape's the host has done
        self._acted_at = 0.0
        self._told: set[object] = set()  # differences

    async def opened(self) -> None:
        self._rewind()
        self._acted_at = self.clock.now()

    async def closed(self) -> None:
        self._rewind()

    def _tell(self, what: object, text: str) -> None:
        """A difference between the tape and its host, once a claim."""
        if what not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(what)
            log.warning("replay: %s", text)

    def handler_of(self, address: int) -> Handler:
        if address & 0x0F == 0:
            return super().handler_of(address)
        return self.faults.over(address, partial(self._give, address) if address & 0x80 else self._take)

    # -- control requests ---------------------------------------------------------------------------------------------

    def _control(self, transfer: Transfer) -> Answer:
        setup = Setup.parse(transfer.setup)
        answer = self._recorded(setup, bytes(transfer.setup), transfer)
        return super()._control(transfer) if answer is None else answer

    def _recorded(self, setup: Setup, raw: bytes, transfer: Transfer) -> Completion | None:
        """The tape's answer; None where the device itself knows better, or nobody does."""
        key = raw[:_KEY]
        answers = self.tape.answers.get(key)
        if not is_own(raw):
            return self._described(setup, raw)
        if not answers:
            self._tell(key, f"the recording has no answer to {setup}: refused")
            return Completion(Status.STALL)
        place = self._asked[key]
        self._asked[key] += 1
        answer = answers[min(place, len(answers) - 1)]
        if not setup.is_in and answer.sent != bytes(transfer.data):
            self._tell((key, "sent"), f"the host sends something else than recorded with {setup}")
            if self.check:
                return Completion(Status.STALL)
        self._acted(key)
        if answer.status not in (Status.OK, Status.SHORT):
            return Completion(answer.status)
        return data(answer.data[: transfer.length]) if setup.is_in else done(transfer)

    def _described(self, setup: Setup, raw: bytes) -> Completion | None:
        """A descriptor as the device itself gave it, where the tape has as much of it as is wanted."""
        if setup.request_type not in (0x80, 0x81) or setup.request != Request.GET_DESCRIPTOR:
            return None
        answer = best(self.tape.answers.get(raw[:_KEY], ()))
        if answer is None or (len(answer.data) < setup.length and not answer.is_whole):
            return None
        if answer.status not in (Status.OK, Status.SHORT):
            return Completion(answer.status)
        return data(answer.data[: setup.length])

    # -- what the host sends ------------------------------------------------------------------------------------------

    def _take(self, transfer: Transfer) -> Answer:
        if transfer.packets is not None:
            for packet in transfer.packets:
                packet.actual = packet.length
            return Completion(Status.OK, b"", transfer.length, transfer.packets)
        address, at = transfer.endpoint, self._sent[transfer.endpoint]
        kept = self.tape.sent.get(address, b"")
        if bytes(transfer.data) != kept[at : at + transfer.length] and at < len(kept):
            self._tell(address, f"the host sends something else than recorded to endpoint {address:#04x}, byte {at}")
            if self.check:
                self.halt(address)
                return Completion(Status.STALL)
        elif at >= len(kept):
            self._tell((address, "more"), f"the host sends more than recorded to endpoint {address:#04x}")
        refused = self._refusal(address, at, transfer.length)
        self._sent[address] = refused.end if refused is not None else at + transfer.length
        self._acted(b"")
        if refused is None:
            return done(transfer)
        if refused.status == Status.STALL:
            self.halt(address)
        return Completion(refused.status, b"", min(transfer.length, refused.end - at))

    def _refusal(self, address: int, at: int, length: int) -> Refusal | None:
        """What became of the transfer at this byte, where that did not end well."""
        refusals, place = self.tape.refusals.get(address, []), self._refused[address]
        if place == len(refusals) or not at <= refusals[place].start < at + max(1, length):
            return None
        self._refused[address] += 1
        return refusals[place]

    def _acted(self, request: bytes) -> None:
        """The host has done something: data may have waited for it."""
        acts = self.tape.host
        while self._acts < len(acts) and acts[self._acts].total <= self._sent[acts[self._acts].endpoint]:
            self._acts += 1
        self._acted_at = self.clock.now()
        for address, reel in self._reels.items():
            if request:
                reel.seen.add(request)
            reel.has_complained = False
            self.kick(address)

    # -- what it gets -------------------------------------------------------------------------------------------------

    def _give(self, address: int, transfer: Transfer) -> Answer:
        if transfer.packets is not None:
            return self._give_packets(address, transfer)
        reel = self._reels.get(address)
        if reel is None:
            return None
        found = bytearray()
        while (head := self._ready(reel, address)) is not None:
            if head.status not in (Status.OK, Status.SHORT):
                return data(found) if found else self._fail(reel, address, head)
            found += reel.take(transfer.length - len(found))
            if reel.offset < head.size:
                return data(found)
            reel.next(self.clock.now())
            if head.is_short or len(found) >= transfer.length:
                return self._given(found)
        return self._given(found) if found else self._idle(reel, address, transfer)

    def _given(self, found: bytearray) -> Completion:
        if self.end == "leave" and all(reel.head is None for reel in self._reels.values()):
            self.clock.call_at(self.clock.now(), partial(self.vanish, "its recording ended"))
        return data(found)

    def _fail(self, reel: _Reel, address: int, head: Chunk) -> Completion:
        reel.next(self.clock.now())
        if head.status == Status.STALL:
            self.halt(address)
        return Completion(head.status)

    def _ready(self, reel: _Reel, address: int) -> Chunk | None:
        """The chunk at the head, once it may be given."""
        if reel.head is None and self.end == "again" and reel.chunks:
            reel.place = 0
        head = reel.head
        if head is None or reel.offset:
            return head
        if self.ordered and (head.after > self._acts or (head.request and head.request not in reel.seen)):
            if not reel.has_complained:
                reel.has_complained = True
                log.debug("endpoint %#04x waits: the host had done more by now", address)
            return None
        if not self.timed:
            return head
        now = self.clock.now()
        if reel.due is None:
            reel.due = max(self._acted_at, reel.given_at) + head.delay
        if reel.due > now:
            self._wait(reel, address, reel.due)
            return None
        return head

    def _wait(self, reel: _Reel, address: int, until: float) -> None:
        """Ask again then."""
        reel.stop_timer()

        def due() -> None:
            reel.timer = None
            self.kick(address)

        reel.timer = self.clock.call_at(until, due)

    def _idle(self, reel: _Reel, address: int, transfer: Transfer) -> Answer:
        """Nothing to give now: a NAK, or what the device says instead."""
        poll, now = reel.poll, self.clock.now()
        if poll is None or reel.timer is not None:
            return None
        due = reel.given_at + max(poll.delay, _POLL_SECONDS)
        if due > now:
            self._wait(reel, address, due)
            return None
        reel.given_at = now
        return data(bytes(poll.data[: transfer.length]))

    def _give_packets(self, address: int, transfer: Transfer) -> Completion:
        """The next packets; empty ones at the end, for there an isochronous endpoint has no NAK."""
        packets, found = self.tape.packets.get(address, []), bytearray()
        for packet in transfer.packets or ():
            recorded = self._next_packet(address, packets)
            piece = bytes(recorded.data[: packet.length]) if recorded is not None else b""
            packet.actual, packet.status = len(piece), recorded.status if recorded is not None else Status.OK
            found += piece
        return Completion(Status.OK, bytes(found), packets=transfer.packets)

    def _next_packet(self, address: int, packets: list[Packet]) -> Packet | None:
        place = self._packets[address]
        if place >= len(packets) and self.end == "again":
            place = 0
        self._packets[address] = place + 1
        return packets[place] if place < len(packets) else None
