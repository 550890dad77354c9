"""The pump under protocols with more words than USB/IP: claims given back, changes told, sessions without a link."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.devices.host import turn
from tests.server.fakes import Puppet, Shelf, Wire
from usbferry.devices.clock import LoopClock
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.events import (
    AllocStreams,
    Claim,
    Describe,
    Event,
    FreeStreams,
    Refusal,
    Release,
    Reset,
    Resume,
    Submit,
    Suspend,
    Wake,
    Watch,
)
from usbferry.server.catalog import Catalog
from usbferry.server.pump import Pump
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status


class Script:
    """An exporter of a made-up protocol: each byte is one of the events it was given. `said` is what it was told."""

    protocol = "script"
    needed = 1
    has_events = False

    def __init__(self, session: bytes = b"", patience: float | None = None) -> None:
        self.session, self.patience = session, patience
        self.events_: deque[Event] = deque()
        self.said: list[object] = []
        self.consumed = 0
        self.outgoing: list[bytes] = []
        self.outgoing_bytes = 0
        self.done = False
        self._view = b""
        self._waits_until: float | None = None

    def receive(self, view: memoryview, now: float) -> None:
        self._view, self.consumed = bytes(view), 0

    def events(self) -> Iterator[Event]:
        while self.consumed < len(self._view) and self.events_:
            self.consumed += 1
            yield self.events_.popleft()

    def tell(self, *what: object) -> None:
        self.said.append(what if len(what) > 1 else what[0])
        self.outgoing.append(b".")
        self.outgoing_bytes += 1

    def deadline(self) -> float | None:
        return self._waits_until

    def tick(self, now: float) -> None:
        if self._waits_until is not None and now >= self._waits_until:
            self.done = True

    def accept(self, info: object) -> None:
        self.tell("accepted")

    def refuse(self, reason: Refusal) -> None:
        self.tell("refused", reason)

    def complete(self, tag: int, completion: Completion) -> None:
        self.tell(tag, Status(completion.status))

    def reset_done(self, tag: int, ok: bool) -> None:
        self.tell(tag, ok)

    def gone(self) -> None:
        self.tell("gone")
        self.done = True

    def released(self) -> None:
        self.tell("released")

    def noticed(self) -> None:
        self.tell("noticed")

    def described(self, info: object) -> None:
        self.tell("described", info.configuration)  # type: ignore[attr-defined]

    def connected(self, now: float) -> None:
        self._waits_until = None
        self.tell("connected")

    def disconnected(self, now: float) -> bool:
        if self.patience is None or self.done:
            return False
        self._waits_until = now + self.patience
        return True


class Bench:
    """Pumps that share a catalog and their sessions."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.group, self.catalog, self.shelf = group, Catalog(), Shelf("zero")
        self.sessions: dict[bytes, Pump] = {}
        self.ended: list[Pump] = []

    def connect(self, session: bytes = b"", patience: float | None = None) -> tuple[Script, Wire, Pump]:
        exporter = Script(session, patience)
        pump = Pump(
            exporter, self.catalog, self.sessions, self.group.create_task, self.ended.append, clock=LoopClock(math.inf)
        )
        return exporter, Wire(pump), pump

    async def hears(self, exporter: Script, link: Wire, *events: Event) -> list[object]:
        """What an exporter is told in answer to these events."""
        exporter.events_.extend(events)
        exporter.said.clear()
        link.feed(b"x" * len(events))
        await turn()
        return exporter.said

    @property
    def device(self) -> Puppet:
        return self.shelf.opened[-1]

    @property
    def is_free(self) -> bool:
        return self.catalog.list()[0].holder is None


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with asyncio.TaskGroup() as group:
        made = Bench(group)
        await made.catalog.add(made.shelf)
        yield made
        for pump in set(made.sessions.values()):
            await pump.stop()


async def claimed(bench: Bench, session: bytes = b"", patience: float | None = None) -> tuple[Script, Wire, Pump]:
    exporter, link, pump = bench.connect(session, patience)
    assert await bench.hears(exporter, link, Claim("1-1")) == ["accepted"]
    return exporter, link, pump


# -- words beyond USB/IP --------------------------------------------------------------------------------------------


async def test_a_claim_is_given_back_and_taken_again_on_one_connection(bench):
    exporter, link, _ = await claimed(bench)
    first = bench.device
    assert await bench.hears(exporter, link, Release()) == ["released"]
    assert (bench.is_free, first.log, link.is_closed) == (True, ["close"], False)
    assert await bench.hears(exporter, link, Claim("1-1")) == ["accepted"]
    assert bench.device is not first
    link.close()
    await turn()


async def test_what_is_pending_is_answered_before_the_claim_is_given_back(bench):
    exporter, link, _ = await claimed(bench)
    said = await bench.hears(exporter, link, Submit(1, Transfer(0x81, 8)), Release())
    assert said == [(1, Status.SHUTDOWN), "released"]
    said = await bench.hears(exporter, link, Submit(2, Transfer(0x81, 8)), Reset(3), Suspend())
    assert said == [(2, Status.GONE)], "an exporter does not ask so; it once was an assertion"
    link.close()
    await turn()


async def test_an_importer_that_leaves_while_its_claim_is_given_back(bench):
    exporter, link, pump = await claimed(bench)
    exporter.events_.append(Release())
    link.feed(b"x")
    link.close()
    await turn()
    assert (bench.is_free, bench.device.log, bench.ended[-1]) == (True, ["close"], pump)


async def test_changes_are_told_while_somebody_watches(bench):
    exporter, link, _ = bench.connect()
    await bench.hears(exporter, link, Watch(), Watch())
    _, other_link, _ = await claimed(bench)
    assert exporter.said == ["noticed"]
    other_link.close()
    await turn()
    assert exporter.said == ["noticed"] * 2
    link.close()
    await turn()
    await bench.catalog.add(Shelf("new"))
    assert exporter.said == ["noticed"] * 2


async def test_a_device_is_described_as_it_is_now(bench):
    exporter, link, _ = await claimed(bench)
    bench.device.info.configuration = 3
    assert await bench.hears(exporter, link, Describe()) == [("described", 3)]
    link.close()
    await turn()


async def test_suspend_and_wake_have_no_answer(bench):
    exporter, link, _ = await claimed(bench)
    assert await bench.hears(exporter, link, Suspend(), Wake()) == []
    assert bench.device.log == ["suspend", "resume"]
    link.close()
    await turn()


async def test_streams_are_answered_at_once_later_and_when_the_device_fails(bench, caplog):
    exporter, link, _ = await claimed(bench)
    assert await bench.hears(exporter, link, AllocStreams(1, (0x81,), 4)) == [(1, Status.INVALID)]
    later: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
    bench.device.alloc_streams = lambda endpoints, count: later
    bench.device.free_streams = lambda endpoints: 1 / 0
    assert await bench.hears(exporter, link, AllocStreams(2, (0x81,), 4), FreeStreams(3, (0x81,))) == [
        (3, Status.FAILED)
    ]
    later.set_result(Completion())
    await turn()
    assert exporter.said[-1] == (2, Status.OK)
    assert "1-1 failed over FreeStreams" in caplog.text
    link.close()
    await turn()


# -- sessions -------------------------------------------------------------------------------------------------------


async def test_a_session_outlives_its_link_and_goes_on_with_the_next(bench):
    exporter, link, pump = await claimed(bench, b"key", patience=60)
    exporter.events_.append(Submit(7, Transfer(0x81, 8)))
    link.feed(b"x")
    link.close()
    await turn()
    assert (bench.is_free, pump.closed) == (False, False)
    bench.device.finish(Completion(Status.OK, b"x"))
    newcomer, next_link, passing = bench.connect()
    newcomer.events_.append(Resume(b"key"))
    exporter.events_.append(Submit(8, Transfer(0x81, 8)))
    exporter.said.clear()
    next_link.feed(b"xx")  # the second byte is for the session already
    await turn()
    assert exporter.said == ["connected", (7, Status.OK)]
    assert (len(bench.device.parked), next_link.unread) == (1, 0)
    assert (bench.ended, next_link.user) == ([passing], pump)
    bench.device.finish()
    await turn()
    assert exporter.said[-1] == (8, Status.OK)
    exporter.patience = None
    next_link.close()
    await turn()
    assert bench.is_free


async def test_a_session_takes_a_new_link_while_it_still_has_one(bench):
    """The loss of the old one, which comes later, once took the new one for it."""
    exporter, link, pump = await claimed(bench, b"key", patience=60)
    newcomer, next_link, _ = bench.connect()
    newcomer.events_.append(Resume(b"key"))
    next_link.feed(b"x")
    await turn()
    assert link.is_closed
    assert pump._out.link is next_link
    assert await bench.hears(exporter, next_link, Submit(1, Transfer(0x81, 8))) == []
    bench.device.finish()
    await turn()
    assert (exporter.said, next_link.heard()[-1:]) == ([(1, Status.OK)], b".")
    exporter.patience = None
    next_link.close()
    await turn()


async def test_a_session_whose_link_was_silent_goes_on_with_the_next(bench, caplog):
    """What came on the new link was once not looked at."""
    exporter, link, pump = await claimed(bench, b"key", patience=60)
    pump._out.fail(ProtocolError("silent for 15 s"))
    await turn()
    assert link.is_closed
    newcomer, next_link, _ = bench.connect()
    newcomer.events_.append(Resume(b"key"))
    next_link.feed(b"x")
    await turn()
    assert await bench.hears(exporter, next_link, Submit(1, Transfer(0x81, 8))) == []
    bench.device.finish()
    await turn()
    assert exporter.said == [(1, Status.OK)]
    exporter.patience = None
    next_link.close()
    await turn()


async def test_a_session_that_was_given_back_is_not_found(bench):
    exporter, link, pump = await claimed(bench, b"key", patience=60)
    assert bench.sessions == {b"key": pump}
    assert await bench.hears(exporter, link, Release()) == ["released"]
    assert bench.sessions == {}
    exporter.patience = None
    link.close()
    await turn()


async def test_a_session_that_nobody_resumes_ends(bench):
    _, link, pump = await claimed(bench, b"key", patience=0.01)
    ended = asyncio.Event()
    pump._ended = lambda pump: ended.set()
    link.close()
    await ended.wait()
    assert (bench.is_free, bench.sessions, bench.device.log) == (True, {}, ["close"])


async def test_a_session_that_is_not_there_or_over(bench):
    newcomer, link, _ = bench.connect()
    assert await bench.hears(newcomer, link, Resume(b"key")) == [("refused", Refusal.NOT_FOUND)]
    _, other, pump = await claimed(bench, b"key")
    other.close()
    await turn()
    assert pump.closed
    assert await bench.hears(newcomer, link, Resume(b"key")) == [("refused", Refusal.NOT_FOUND)]
    link.close()
    await turn()


async def test_a_device_that_leaves_while_its_session_waits(bench):
    _, link, pump = await claimed(bench, b"key", patience=60)
    link.close()
    await turn()
    bench.device.vanish("unplugged")
    await turn()
    assert (pump.closed, bench.sessions, bench.is_free) == (True, {}, True)


async def test_stopping_while_a_session_waits(bench):
    _, link, pump = await claimed(bench, b"key", patience=60)
    link.close()
    await turn()
    await pump.stop()
    assert (pump.closed, bench.sessions, bench.is_free) == (True, {}, True)
    assert pump._out.alarm.wakes == math.inf
