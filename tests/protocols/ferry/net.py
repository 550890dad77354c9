"""A controller and a target on a network of some delay that loses what it shall, in a time that the test passes."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count

from tests.protocols.ferry.wire import INFO
from usbferry.protocols.events import Claim, Completed, Resume, Submit
from usbferry.protocols.ferry.exporter import Exporter
from usbferry.protocols.ferry.framing import Stream
from usbferry.protocols.ferry.importer import Importer
from usbferry.protocols.ferry.messages import Code
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status

UDP = Stream(packet_bytes=1232, is_lossy=True)
BULK_IN, BULK_OUT, READ, OTHER, SERIAL = 0x81, 0x02, 0x83, 0x84, 0x85  # endpoints
PACED = (READ, OTHER)  # interrupt
SEEN = 0.01  # seconds there and back, where nothing else is said


class Net:
    """Both ends, and what is between them. A packet that `loses` says so of does not come."""

    def __init__(self, target: type[Exporter] = Exporter) -> None:
        self.now = 0.0
        self.delay = SEEN / 2
        self.device = 0.0  # seconds until it answers
        self.answers = True
        self.parked: set[int] = set()  # endpoints of the device that have nothing to say
        self.importer = Importer(resends=True)
        self.exporter = self.holder = target()  # of the transport; that has the claim
        self.importer.set_way(UDP)
        self.exporter.set_way(UDP)
        self.loses: Callable[[bytes, bool], bool] = lambda raw, is_up: False
        self.up: list[bytes] = []  # every packet that was sent
        self.down: list[bytes] = []
        self.times: list[float] = []  # of those up
        self.ended: dict[int, float] = {}  # when, by tag
        self.ends: dict[int, Callable[[], None]] = {}  # what to do then
        self._waiting: deque[int] = deque()  # at the device, on endpoints that are parked
        self._unsaid = 0  # what it has to say meanwhile
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._held = {True: b"", False: b""}
        self.importer.connected(0.0)
        self.importer.claim("1-1")
        self.until(1.0)
        assert self.importer.session

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._later, (when, next(self._order), what))

    def until(self, end: float) -> None:
        """Let everything happen that happens until then."""
        self._flush()
        while True:
            happens = self._later[0][0] if self._later else end
            ticking = [(machine.deadline() or end, machine) for machine in (self.importer, self.exporter)]
            deadline, machine = min(ticking, key=lambda one: one[0])
            if min(happens, deadline) >= end:
                break
            if deadline < happens:
                self.now = max(deadline, self.now)
                machine.tick(self.now)
            else:
                self.now, _, what = heapq.heappop(self._later)
                what()
            self._flush()
        self.now = end

    def submit(self, endpoint: int, length: int = 8) -> int:
        interval = 1 if endpoint in PACED else 0
        return self.importer.submit(
            Transfer(endpoint, length, b"" if endpoint & 0x80 else bytes(length), interval=interval)
        )

    def say_one(self) -> None:
        """The device has something to say on what is parked: 8 bytes."""
        if self._waiting:
            self.holder.complete(self._waiting.popleft(), Completion(Status.OK, bytes(8), 8))
            self._flush()
        else:
            self._unsaid += 1

    def move(self) -> None:
        """The transport is lost, with all that is on it, and there is another."""
        assert self.importer.disconnected(self.now)
        self.exporter.disconnected(self.now)
        self._flush()
        self._later = [one for one in self._later if one[2].__name__ != "arrives"]
        heapq.heapify(self._later)
        self._held = {True: b"", False: b""}
        self.exporter = Exporter(now=self.now)
        self.exporter.set_way(UDP)
        self.importer.connected(self.now)
        self.until(self.now + 3 * SEEN)

    def since(self) -> tuple[int, int]:
        """Packets up and down since the last time, but for heartbeats, claims and holds."""
        mine = [raw for raw in self.up if raw[8] in (5, 6, 7, 8, 9, 255)], [raw for raw in self.down if raw[4] < 0x80]
        self.up, self.down, self.times = [], [], []
        return len(mine[0]), len(mine[1])

    def _flush(self) -> None:
        self.importer.leaves(self.now)
        for machine, sent, is_up in ((self.importer, self.up, True), (self.exporter, self.down, False)):
            raw = b"".join(machine.outgoing)
            machine.outgoing, machine.outgoing_bytes = [], 0
            for one in _records(raw):
                sent.append(one)
                if is_up:
                    self.times.append(self.now)
                if not self.loses(one, is_up):
                    self.carry(one, is_up, self.delay)

    def carry(self, raw: bytes, is_up: bool, seconds: float) -> None:
        def arrives() -> None:
            self._arrives(raw, is_up)

        self.at(self.now + seconds, arrives)

    def _arrives(self, raw: bytes, is_up: bool) -> None:
        raw = self._held[is_up] + raw
        if is_up:
            self._held[True] = self._asks(raw)
            return
        self.importer.receive(memoryview(raw), self.now)
        for event in self.importer.events():
            if isinstance(event, Completed):
                assert event.status == Status.OK
                self.ended[event.tag] = self.now
                self.ends.pop(event.tag, lambda: None)()
        self._held[False] = raw[self.importer.consumed :]

    def _asks(self, raw: bytes) -> bytes:
        """What comes to the target; what it does not take of it."""
        exporter = self.exporter
        exporter.receive(memoryview(raw), self.now)
        for event in exporter.events():
            if isinstance(event, Claim):
                exporter.accept(INFO)
                self.holder = exporter
            elif isinstance(event, Submit):
                self._carry_out(event)
            elif isinstance(event, Resume):
                self.exporter = self.holder
                self.exporter.connected(self.now)
                self.exporter.set_way(UDP)
                return self._asks(raw[exporter.consumed :])
        return raw[exporter.consumed :]

    def _carry_out(self, event: Submit) -> None:
        transfer = event.transfer
        data = bytes(transfer.length) if transfer.is_in else b""
        answer = Completion(Status.OK, data, transfer.length)
        if transfer.endpoint in self.parked:
            self._waiting.append(event.tag)
            if self._unsaid:
                self._unsaid -= 1
                self.holder.complete(self._waiting.popleft(), Completion(Status.OK, bytes(8), 8))
            return
        if self.answers and not self.device:
            self.holder.complete(event.tag, answer)
        elif self.answers:
            self.at(self.now + self.device, lambda: self.holder.complete(event.tag, answer))


class Taciturn(Exporter):
    """It says IN_PROGRESS only when it is asked."""

    def _confirm(self) -> None:
        self._unconfirmed.clear()


def _records(raw: bytes) -> Iterator[bytes]:
    while raw:
        size = 4 + int.from_bytes(raw[:4], "big")
        yield raw[:size]
        raw = raw[size:]


class Loses:
    """The packets of these numbers, of those of the session one way, counted from 0."""

    def __init__(self, is_up: bool, *numbers: int, final: bool = False) -> None:
        self.numbers, self.is_up, self.final = numbers, is_up, final
        self._seen = count()

    def __call__(self, raw: bytes, is_up: bool) -> bool:
        if is_up is not self.is_up or raw[4] >= 0x80 or (self.final and raw[11] == Code.IN_PROGRESS):
            return False
        return next(self._seen) in self.numbers


def resubmits(net: Net, endpoint: int, length: int = 8) -> list[float]:
    """As a driver with some reads: another one for each that ends. When they ended."""
    ends: list[float] = []

    def go_on(tag: int) -> None:
        def ended() -> None:
            ends.append(net.now)
            go_on(net.submit(endpoint, length))

        net.ends[tag] = ended

    go_on(net.submit(endpoint, length))
    return ends
