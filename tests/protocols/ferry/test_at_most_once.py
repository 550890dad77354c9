"""A controller and a target on a transport that loses, doubles, delays and breaks: every transfer ends once, is
carried out at most once, and each queue keeps its order.

On packets each record may be lost, doubled or late, and on small ones what is long goes in many parts; on a stream
bytes come in order, in any pieces, and what is under way is lost with the transport, in the middle of a record too.
"""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests import strategies as usb
from tests.protocols.ferry.reader import Capture
from tests.protocols.ferry.wire import INFO
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.events import Cancel, Claim, Claimed, Completed, Event, Left, Refusal, Resume, Submit
from usbferry.protocols.ferry.exporter import Exporter
from usbferry.protocols.ferry.framing import Stream
from usbferry.protocols.ferry.importer import Importer
from usbferry.protocols.limits import Limits
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion, Flags, Transfer
from usbferry.usb.types import Status

LIMITS = Limits(transfer_bytes=1 << 20, transfers=8, bytes_in_flight=400_000)
LONG = 70_000  # bytes, so that it goes in parts
SOAK = os.environ.get("USBFERRY_SOAK", "") not in ("", "0")
EXAMPLES, STEPS = (3000, 100) if SOAK else (60, 50)
pytestmark = pytest.mark.slow
QUEUES = (0x81, 0x82, 0x01, 0x00)  # bulk and interrupt IN, bulk OUT, control OUT
picks = st.integers(0, 255)
assert usb  # its profile


class World(RuleBasedStateMachine):
    """Everything between the user of a device and the device."""

    packets = True
    way = Stream()
    steps = 0  # of all examples

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.importer = Importer(LIMITS, resends=self.packets)
        self.importer.set_way(self.way)
        self.exporter = self.new_exporter()  # of the transport that there is
        self.holder: Exporter | None = None  # that has the session
        self.linked = True
        self.sessions = Capture()
        self.reader = self.sessions.stream()  # who has read the specification alone listens
        self.up: list[bytes] = []  # under way to the target
        self.down: list[bytes] = []
        self.held = {True: b"", False: b""}  # received and not consumed, up or not
        self.transfers: dict[int, Transfer] = {}  # by tag; each can be told by its length
        self.cancelled: set[int] = set()
        self.ended: dict[int, Completion] = {}
        self.endings: list[int] = []
        self.executed: list[Transfer] = []
        self.results: dict[int, Completion] = {}  # by length
        self.working: dict[int, tuple[Exporter, Transfer]] = {}  # at the device

    def new_exporter(self) -> Exporter:
        exporter = Exporter(LIMITS, self.now)
        exporter.set_way(self.way)
        return exporter

    @initialize()
    def claim(self) -> None:
        self.importer.claim("1-1")
        self.settle_transport()
        assert self.importer.session

    # -- the user -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.transfers) < 60)
    @rule(address=st.sampled_from(QUEUES), is_long=st.integers(0, 9), guards=st.booleans())
    def submit(self, address: int, is_long: int, guards: bool) -> None:
        length = len(self.transfers) + 1 + (0 if is_long or not address else LONG)
        payload = b"" if address & 0x80 else bytes(length)
        flags = Flags.SHORT_NOT_OK if guards and address & 0x80 else 0
        transfer = Transfer(address, length, payload, flags=flags, interval=address == 0x82)
        if not address:
            transfer.setup = Setup(0x40, 1, 0, 0, length).pack()
        self.transfers[self.importer.submit(transfer)] = transfer

    @precondition(lambda self: self.transfers)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        tag = list(self.transfers)[-1 - pick % min(len(self.transfers), 6)]
        completion = self.importer.cancel(tag)
        self.cancelled.add(tag)
        if completion is not None:
            self.end(tag, completion)

    # -- the device ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.working)
    @rule(pick=picks, status=st.sampled_from([Status.OK, Status.OK, Status.STALL, Status.SHORT]))
    def complete(self, pick: int, status: Status) -> None:
        """In their order per endpoint, as devices do."""
        first = self.first_in_queues()
        self.finish(first[pick % len(first)], status)

    def first_in_queues(self) -> list[int]:
        seen: dict[int, int] = {}
        for tag, (_, transfer) in self.working.items():
            seen.setdefault(transfer.endpoint, tag)
        return list(seen.values())

    def finish(self, tag: int, status: Status = Status.OK) -> None:
        exporter, transfer = self.working.pop(tag)
        data = b"x" * (transfer.length // 2 if status else transfer.length) if transfer.is_in else b""
        completion = Completion(status, data, len(data) if transfer.is_in or status else transfer.length)
        self.results[transfer.length] = completion
        exporter.complete(tag, completion)
        self.look()

    def look(self) -> None:
        """As a pump does after an answer."""
        if self.linked and self.exporter.has_events:
            self.hear_up(b"")

    # -- the network --------------------------------------------------------------------------------------------------

    def collect(self) -> None:
        for machine, pipe in ((self.importer, self.up), (self.exporter, self.down)):
            raw = b"".join(machine.outgoing)
            assert machine.outgoing_bytes == len(raw)
            machine.outgoing, machine.outgoing_bytes = [], 0
            while raw and self.linked:
                size = 4 + int.from_bytes(raw[:4], "big")
                pipe.append(raw[:size])
                assert not any(m.malformed for m in self.reader.read(">" if pipe is self.up else "<", raw[:size]))
                raw = raw[size:]

    @precondition(lambda self: self.linked)
    @rule(wanted=st.lists(picks, min_size=1, max_size=8))
    def deliver(self, wanted: list[int]) -> None:
        for pick in wanted:
            self.collect()
            ways = [pipe for pipe in (self.up, self.down) if pipe]
            if ways:
                pipe = ways[pick % len(ways)]
                self.arrive(pipe, self.choose(pick // 2, pipe))

    def choose(self, pick: int, pipe: list[bytes]) -> bytes:
        return pipe.pop(pick % min(len(pipe), 6))

    def arrive(self, pipe: list[bytes], raw: bytes) -> None:
        if pipe is self.up:
            self.hear_up(raw)
        else:
            self.hear_down(raw)

    @precondition(lambda self: self.linked)
    @rule(pick=picks, times=st.sampled_from([0, 2]))
    def lose_or_double(self, pick: int, times: int) -> None:
        self.collect()
        pipe = (self.up, self.down)[pick & 1]
        if pipe:
            pipe += times * [self.choose(pick // 2, pipe)]

    @precondition(lambda self: self.linked)
    @rule()
    def cut(self) -> None:
        self.collect()
        self.linked = False
        self.up.clear()
        self.down.clear()
        self.held = {True: b"", False: b""}
        self.importer.disconnected(self.now)
        waits = self.exporter.disconnected(self.now)
        assert waits == (self.exporter is self.holder and not self.exporter.done)

    @precondition(lambda self: not self.linked and not self.importer.done)
    @rule()
    def reconnect(self) -> None:
        self.linked = True
        self.reader = self.sessions.stream()
        self.exporter = self.new_exporter()
        self.importer.set_way(self.way)
        self.importer.connected(self.now)

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.05, 0.3, 2.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        try:
            self.importer.tick(self.now)
            self.exporter.tick(self.now)
            if self.holder is not None and self.holder is not self.exporter:
                self.holder.tick(self.now)
        except ProtocolError as error:
            if "silent" not in str(error):
                raise
            self.cut()
        if self.holder is not None and self.holder.done:
            self.lose_session()

    def lose_session(self) -> None:
        """As the pump does: the device is closed."""
        for tag in list(self.working):
            self.finish(tag, Status.CANCELLED)
        self.holder = None

    # -- what arrives -------------------------------------------------------------------------------------------------

    def hear_up(self, raw: bytes) -> None:
        buffer = bytearray(self.held[True] + raw)
        exporter = self.exporter
        exporter.receive(memoryview(buffer), self.now)
        for event in exporter.events():
            self.take(event)
            if self.exporter is not exporter:
                break
        self.held[True] = bytes(buffer[exporter.consumed :])
        buffer[:] = b"\xee" * len(buffer)
        if self.exporter is not exporter:
            self.hear_up(b"")

    def take(self, event: Event) -> None:
        match event:
            case Submit():
                self.executed.append(event.transfer)
                self.working[event.tag] = (self.exporter, event.transfer)
            case Cancel():
                if event.tag in self.working:
                    self.finish(event.tag, Status.CANCELLED)
            case Claim():
                self.exporter.accept(INFO)
                self.holder = self.exporter
            case Resume():
                if self.holder is not None and event.session == self.holder.session:
                    self.exporter = self.holder
                    self.exporter.connected(self.now)
                    self.exporter.set_way(self.way)
                else:
                    self.exporter.refuse(Refusal.NOT_FOUND)
            case _:
                raise AssertionError(event)

    def hear_down(self, raw: bytes) -> None:
        buffer = bytearray(self.held[False] + raw)
        self.importer.receive(memoryview(buffer), self.now)
        for event in self.importer.events():
            if isinstance(event, Completed):
                self.end(event.tag, event)
            elif isinstance(event, Left):
                assert self.importer.done
                assert self.holder is None, "the target still has it"
            else:
                assert isinstance(event, Claimed)
        self.held[False] = bytes(buffer[self.importer.consumed :])
        buffer[:] = b"\xee" * len(buffer)

    def end(self, tag: int, completion: Completion) -> None:
        assert tag not in self.ended, "ended twice"
        self.ended[tag] = completion
        self.endings.append(tag)

    def settle_transport(self) -> None:
        """Nothing is lost for a while."""
        for _ in range(200):
            self.collect()
            pipe = self.up or self.down
            if not pipe:
                break
            self.arrive(pipe, pipe.pop(0))

    # -- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_carried_out_twice(self) -> None:
        type(self).steps += 1
        lengths = [transfer.length for transfer in self.executed]
        assert len(lengths) == len(set(lengths))

    @invariant()
    def memory_is_bounded(self) -> None:
        if self.holder is not None and self.holder._session is not None:
            ledger = self.holder._session.ledger
            assert ledger.calls() <= LIMITS.transfers
            assert ledger.bytes <= LIMITS.bytes_in_flight

    def teardown(self) -> None:
        """Let everything come to its end: then each transfer has one, and it is the truth."""
        for _ in range(400):
            if self.importer.done or len(self.ended) == len(self.transfers):
                break
            if not self.linked:
                self.reconnect()
            self.settle_transport()
            for tag in self.first_in_queues():
                self.finish(tag)
            self.settle_transport()
            self.time_passes(0.5)
        if not self.importer.done:
            assert sorted(self.ended) == sorted(self.transfers), "some never end"
        for tag, completion in self.ended.items():
            self.check(tag, self.transfers[tag], completion)
        for address in QUEUES:
            self.check_order(address)

    def check(self, tag: int, transfer: Transfer, completion: Completion) -> None:
        result = self.results.get(transfer.length)
        if result is None:
            assert completion.status == Status.CANCELLED, "it did not happen, and only that may be said"
            stopped = any(r.status == Status.SHORT for r in self.results.values())
            assert tag in self.cancelled or (transfer.is_in and stopped)
        else:
            assert (completion.status, completion.actual) == (result.status, result.actual)
            assert bytes(completion.data) == result.data

    def check_order(self, address: int) -> None:
        mine = [tag for tag, transfer in self.transfers.items() if transfer.endpoint == address]
        done = [transfer.length for transfer in self.executed if transfer.endpoint == address]
        assert done == [self.transfers[tag].length for tag in mine if self.transfers[tag].length in done]
        waited_for = [tag for tag in mine if tag not in self.cancelled]
        assert [tag for tag in self.endings if tag in waited_for] == [tag for tag in waited_for if tag in self.ended]


class OnStream(World):
    """Bytes come in order, or not at all."""

    packets = False

    def choose(self, pick: int, pipe: list[bytes]) -> bytes:
        raw = b"".join(pipe)
        size = (3, 13, 500, 1 << 20)[pick % 4]
        pipe[:] = [raw[size:]] if len(raw) > size else []
        return raw[:size]

    def lose_or_double(self, pick: int, times: int) -> None:
        """No stream does."""


class OnDatagrams(World):
    """Packets as small as those of UDP, and a target that wants to see first that its answers arrive."""

    way = Stream(packet_bytes=1200, is_lossy=True)


@pytest.mark.timeout(3600 if SOAK else 120)
@pytest.mark.parametrize("world", [World, OnDatagrams, OnStream])
def test_one_end_one_execution_and_the_order_of_each_queue(
    world: type[World], capsys: pytest.CaptureFixture[str]
) -> None:
    world.steps = 0
    run_state_machine_as_test(world, settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS))
    with capsys.disabled():
        sys.stdout.write(f"\n{world.__name__}: {world.steps} steps")
    assert world.steps > EXAMPLES * STEPS / 2
