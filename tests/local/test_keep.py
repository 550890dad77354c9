"""What `keep` does about everything that can happen to a device, in virtual time: no kernel, no network, no waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.skipping import run
from usbferry.backends import connection, elsewhere, redir, remote
from usbferry.device import Busy, Change, Claimant, Device, DeviceError, NotFound, Source, Watchers, Watching
from usbferry.local import slot
from usbferry.local.keep import LOOK_SECONDS, Keeper
from usbferry.local.rules import Rule, Rules, Wish
from usbferry.local.slot import LONGEST_SECONDS, backoff
from usbferry.selector import Selector
from usbferry.usb.descriptors import Configuration, DeviceDescriptor, Interface
from usbferry.usb.info import DeviceInfo

BOARD, LOADER, MOUSE = (0x1209, 1), (0x0483, 0xDF11), (0x1209, 7)


def listed(name: str, ids: tuple[int, int], address: int = 2) -> DeviceInfo:
    """As a USB/IP server lists it: no strings, no configuration."""
    return DeviceInfo(name, DeviceDescriptor(*ids), address=address, interface_classes=((255, 0, 0),))


@dataclass
class Over:
    reason: str
    by_hand: bool = False


class Attachment:
    """A device that a kernel has."""

    def __init__(self, kernel: Kernel, port: int, info: DeviceInfo) -> None:
        self.kernel, self.port, self.info = kernel, port, info
        self.over: asyncio.Future[Over] = asyncio.get_running_loop().create_future()

    async def gone(self) -> Over:
        return await asyncio.shield(self.over)

    async def detach(self) -> None:
        self.end("detached", by_hand=True)

    def end(self, reason: str, by_hand: bool = False) -> None:
        if not self.over.done():
            self.over.set_result(Over(reason, by_hand))
            self.kernel.attached.pop((self.kernel.servers[self.port], self.info.name))
            del self.kernel.servers[self.port]


class Kernel:
    """Ports, and servers that may refuse; all in the memory of the test."""

    def __init__(self) -> None:
        self.attached: dict[tuple[Source, str], Attachment] = {}
        self.servers: dict[int, Source] = {}  # by port
        self.others: dict[str, Attachment] = {}  # what was there before
        self.tries: list[tuple[float, str]] = []
        self.refusal: Exception | None = None
        self.takes = 0.0  # seconds for an attach
        self.relays: list[bool] = []

    def existing(self, source: Source) -> dict[str, Attachment]:
        return self.others

    async def attach(self, source: Source, name: str, *, relay: bool) -> Attachment:
        assert isinstance(source, Lab)
        self.tries.append((now(), name))
        self.relays.append(relay)
        await asyncio.sleep(self.takes)
        if self.refusal is not None:
            raise self.refusal
        if source.error is not None:
            raise source.error
        info = next((one for one in source.devices if one.name == name), None)
        if info is None:
            raise NotFound(name)
        assert (source, name) not in self.attached, "attached twice"
        return self.put(source, info)

    def put(self, source: Source, info: DeviceInfo) -> Attachment:
        port = min(set(range(8)) - set(self.servers))
        self.servers[port] = source
        self.attached[source, info.name] = Attachment(self, port, replace(info, interface_classes=()))
        return self.attached[source, info.name]


class Lab(Source):
    """A server that can be down, slow, and have devices with strings that only reading gives."""

    address = "usbip://lab"

    def __init__(self, *devices: DeviceInfo) -> None:
        self.devices = [*devices]
        self.error: Exception | None = None
        self.takes = 0.01  # seconds for a list
        self.looks: list[float] = []
        self.reads: list[str] = []
        self.serials: dict[str, str] = {}
        self.under_way = 0
        self.is_closed = False

    async def list(self) -> list[DeviceInfo]:
        self.looks.append(now())
        self.under_way += 1
        assert self.under_way == 1, "more than one connection"
        try:
            await asyncio.sleep(self.takes)
        finally:
            self.under_way -= 1
        if self.error is not None:
            raise self.error
        return [*self.devices]

    async def read(self, info: DeviceInfo) -> DeviceInfo:
        self.reads.append(info.name)
        if info.name not in self.serials:
            raise Busy(f"{info.name} is in use")
        return replace(info, configurations=(Configuration(1, (Interface(0),)),), serial=self.serials[info.name])

    async def open(self, name: str, claimant: Claimant) -> Device:
        raise NotFound(name)

    async def close(self) -> None:
        self.is_closed = True


class Telling(Lab):
    """One that says when something changes, as a local source does."""

    address = "virtual:lab"

    def __init__(self, *devices: DeviceInfo) -> None:
        super().__init__(*devices)
        self.watchers = Watchers()

    def watch(self) -> Watching:
        return self.watchers.watch()


class Listening(Lab):
    """One that others can reach."""

    notes = ("note: whoever reaches this port can bring any device",)


def now() -> float:
    return asyncio.get_running_loop().time()


class Scene:
    """A keeper at work, its kernel, a server, and what it said."""

    def __init__(self, lab: Lab, rules: Rules) -> None:
        self.lab, self.kernel = lab, Kernel()
        self.said: list[str] = []
        self.keeper = Keeper(rules, self.kernel, self.said.append)
        self.task: asyncio.Task[None] | None = None

    def attached(self, name: str = "1-1") -> Attachment | None:
        return self.kernel.attached.get((self.lab, name))

    async def until(self, condition: Callable[[], object], limit: float = 20.0) -> float:
        """Wait for something to be so; the seconds it took. More than the limit is a failure."""
        start = now()
        while not condition():
            assert now() - start < limit, f"not within {limit:g} s; {self.said}"
            await asyncio.sleep(0.01)
        return now() - start

    async def has(self, name: str = "1-1") -> Attachment:
        await self.until(lambda: self.attached(name))
        found = self.attached(name)
        assert found is not None
        return found

    def heard(self, text: str) -> int:
        """How many lines say that."""
        return sum(text in line for line in self.said)

    def state(self, name: str = "1-1") -> dict[str, Any]:
        [place] = self.keeper.status()["places"]
        [found] = [one for one in place["devices"] if one["name"] == name]
        return dict(found)


def rule(lab: Source, *selectors: str, name: str = "board", **options: Any) -> Rule:
    return Rule(name, tuple(Wish(lab.address, Selector.parse(one), lab) for one in selectors), **options)


def scene(
    *devices: DeviceInfo, wants: tuple[str, ...] = ("1209:0001",), lab: type[Lab] = Lab, **options: Any
) -> Callable[[Callable[[Scene], Awaitable[None]]], Callable[[], None]]:
    """Makes a test of what happens while a keeper is at work. Afterwards nothing is attached, and no task is left."""

    def wrap(body: Callable[[Scene], Awaitable[None]]) -> Callable[[], None]:
        async def play() -> None:
            server = lab(*devices)
            async with keeping(Scene(server, Rules((rule(server, *wants, **options),)))) as one:
                await body(one)
            assert one.kernel.attached == {}
            assert server.is_closed

        def test() -> None:
            run(play())

        test.__name__, test.__doc__ = body.__name__, body.__doc__
        return test

    return wrap


@asynccontextmanager
async def keeping(one: Scene) -> AsyncIterator[Scene]:
    one.task = asyncio.get_running_loop().create_task(one.keeper.run())
    try:
        yield one
    finally:
        one.task.cancel()
        await asyncio.wait([one.task])
        assert one.task.cancelled(), one.task.exception()


# --- what is there, and what is not yet -------------------------------------------------------------------------------


@scene(listed("1-1", BOARD), listed("1-2", MOUSE))
async def test_what_is_wanted_is_attached_and_nothing_else(s: Scene) -> None:
    await s.has()
    await asyncio.sleep(30)
    assert [name for _, name in s.kernel.tries] == ["1-1"]
    assert s.said == ["board: 1-1 1209:0001 attached to port 0"]
    assert s.state()["state"] == "attached"
    assert s.state()["port"] == 0


@scene()
async def test_what_is_not_there_yet_is_attached_when_it_appears(s: Scene) -> None:
    await asyncio.sleep(1000)
    assert s.said == ["board: not there yet, at usbip://lab"]
    s.lab.devices = [listed("1-1", BOARD)]
    assert await s.until(lambda: s.attached()) < 2.5


@scene(listed("1-1", BOARD), listed("1-2", BOARD))
async def test_all_that_fit_are_attached(s: Scene) -> None:
    await s.has("1-1")
    await s.has("1-2")


@scene(listed("1-1", BOARD), relay=True)
async def test_a_relay_is_asked_for(s: Scene) -> None:
    await s.has()
    assert s.kernel.relays == [True]


@scene(listed("1-1", BOARD))
async def test_a_server_is_looked_at_every_few_seconds_by_one_connection(s: Scene) -> None:
    await asyncio.sleep(1000)
    gaps = [b - a for a, b in zip(s.lab.looks, s.lab.looks[1:], strict=False)]
    assert 450 < len(gaps) < 560
    assert len({round(gap, 3) for gap in gaps}) > 50, "no jitter: many keepers would ask at the same moment"
    assert max(gaps) < 2.5


@scene(listed("1-1", BOARD), lab=Telling)
async def test_a_source_that_tells_is_not_polled(s: Scene) -> None:
    assert isinstance(s.lab, Telling)
    await s.has()
    await asyncio.sleep(1000)
    assert len(s.lab.looks) <= 2
    s.lab.devices.append(listed("1-2", BOARD))
    s.lab.watchers.tell(Change("1-2", s.lab.devices[1]))
    assert await s.until(lambda: s.attached("1-2")) < 0.1


# --- what gets lost ---------------------------------------------------------------------------------------------------


@scene(listed("1-1", BOARD))
async def test_a_lost_one_is_attached_again_at_once(s: Scene) -> None:
    for _ in range(20):
        attached = await s.has()
        await asyncio.sleep(60)
        attached.end("the connection to lab was closed")
        assert await s.until(lambda: s.attached()) < 0.5
    assert s.heard("is lost: the connection to lab was closed; looking for it") == 20


@scene(listed("1-1", BOARD))
async def test_a_server_that_restarts(s: Scene) -> None:
    attached = await s.has()
    await asyncio.sleep(60)
    s.lab.error = DeviceError("no connection to lab:3240: Connection refused; is a server running there?")
    attached.end("the connection to lab was closed")
    await asyncio.sleep(3)
    s.lab.error = None
    assert await s.until(lambda: s.attached()) < 6
    assert s.said[1:] == [
        "board: 1-1 1209:0001 is lost: the connection to lab was closed; looking for it",
        "usbip://lab: no connection to lab:3240: Connection refused; trying again",
        "usbip://lab answers again",
        "board: 1-1 1209:0001 attached to port 0",
    ]


@scene(listed("1-1", BOARD))
async def test_a_network_that_is_cut_for_an_hour(s: Scene) -> None:
    """No packet comes back: a list that hangs is given up, and nobody is asked more often than needed."""
    attached = await s.has()
    s.lab.takes = 1e9
    await asyncio.sleep(11)
    attached.end("Connection timed out")
    looks = len(s.lab.looks)
    await asyncio.sleep(3600)
    assert len(s.lab.looks) - looks < 3600 / 7
    assert s.heard("usbip://lab: it did not answer within 12 s; trying again") == 1
    s.lab.takes = 0.01
    assert await s.until(lambda: s.attached()) < 20


def test_a_look_is_longer_than_a_sources_own_limits_and_ends_soon_enough() -> None:
    """What a source itself says is of more use, and a device is to be usable 20 s after the network is back."""
    own = (
        remote.CONNECT_SECONDS + elsewhere.ASK_SECONDS,
        remote.LIST_SECONDS,
        redir.DEVICE_SECONDS,
        connection.GREETING_SECONDS,
    )
    assert max(own) < LOOK_SECONDS
    assert LOOK_SECONDS + 1.2 * LONGEST_SECONDS < 20


@scene(listed("1-1", BOARD), lab=Listening)
async def test_what_a_source_notes_is_said_once(s: Scene) -> None:
    await s.has()
    s.lab.error = DeviceError("gone")
    await asyncio.sleep(30)
    s.lab.error = None
    await s.until(lambda: s.heard("answers again"))
    assert s.said[0] == Listening.notes[0]
    assert s.heard(Listening.notes[0]) == 1


@scene(listed("1-1", BOARD))
async def test_a_server_that_takes_its_time_over_a_list_is_waited_for(s: Scene) -> None:
    s.lab.takes = 9.0  # usbredir's may
    await s.has()
    assert s.said == ["board: 1-1 1209:0001 attached to port 0"]


@scene(listed("1-1", BOARD))
async def test_a_server_that_is_away_is_asked_less_and_less(s: Scene) -> None:
    s.lab.error = DeviceError("gone")
    await asyncio.sleep(300)
    gaps = [b - a for a, b in zip(s.lab.looks, s.lab.looks[1:], strict=False)]
    assert gaps[0] < 2.5
    assert all(3.9 < gap < 6.1 for gap in gaps[8:])
    assert len({round(gap, 3) for gap in gaps[8:]}) > 20
    s.lab.error = None
    await s.has()


@scene(listed("1-1", BOARD))
async def test_one_still_busy_after_a_cut_is_had_within_seconds(s: Scene) -> None:
    """The server has not noticed yet that its last user is gone: it says busy for some seconds."""
    attached = await s.has()
    await asyncio.sleep(60)
    s.kernel.refusal = Busy("1-1 at lab: somebody else uses it")
    attached.end("Connection timed out")
    await asyncio.sleep(12)
    s.kernel.refusal = None
    assert await s.until(lambda: s.attached()) < 7
    assert s.heard("is in use: 1-1 at lab: somebody else uses it; trying again in ") == 1


@scene(listed("1-1", BOARD))
async def test_one_that_never_works_is_not_tried_all_the_time(s: Scene) -> None:
    s.kernel.refusal = DeviceError("device descriptor read/64, error -71")
    await asyncio.sleep(600)
    assert 100 < len(s.kernel.tries) < 200
    assert len(s.said) == 1
    assert s.state()["state"] == "waiting"
    assert s.state()["reason"] == "device descriptor read/64, error -71"


@scene(listed("1-1", BOARD))
async def test_one_that_is_lost_at_once_every_time_is_not_tried_all_the_time(s: Scene) -> None:
    for _ in range(30):
        attached = await s.has()
        attached.end("it broke usbip")
        await asyncio.sleep(0)
    times = [when for when, _ in s.kernel.tries]
    assert times[-1] - times[-2] > 3.9


@scene(listed("1-1", BOARD))
async def test_a_mistake_of_ours_ends_nothing(s: Scene) -> None:
    s.kernel.refusal = ZeroDivisionError("never")
    await asyncio.sleep(10)
    s.kernel.refusal = None
    s.lab.error = ZeroDivisionError("never")
    attached = await s.has() if s.attached() else None
    await asyncio.sleep(30)
    s.lab.error = None
    if attached is not None:
        attached.end("x")
    await s.has()


# --- the same thing under another name --------------------------------------------------------------------------------


@scene(listed("1-1", BOARD), wants=("1209:0001", "0483:df11"))
async def test_a_bootloader_is_caught_within_half_a_second(s: Scene) -> None:
    """It is there for one second only, and then the board is back."""
    for _ in range(20):
        attached = await s.has()
        await asyncio.sleep(60)
        s.lab.devices = []
        attached.end("the device left")
        await asyncio.sleep(1.7)
        s.lab.devices = [listed("1-1", LOADER)]
        assert await s.until(lambda: s.attached()) < 0.5
        assert s.state()["product_id"] == "df11"
        loader = await s.has()
        await asyncio.sleep(0.5)
        s.lab.devices = []
        loader.end("the device left")
        await asyncio.sleep(1)
        s.lab.devices = [listed("1-1", BOARD)]
        assert await s.until(lambda: s.attached()) < 0.5


@scene(listed("1-1", BOARD), wants=("1209:0001", "0483:df11"), within=60.0)
async def test_how_long_it_is_looked_for_all_the_time(s: Scene) -> None:
    attached = await s.has()
    s.lab.devices = []
    attached.end("the device left")
    start = now()
    await asyncio.sleep(120)
    assert 200 < sum(start < look < start + 60 for look in s.lab.looks) < 280
    assert sum(start + 61 < look < start + 120 for look in s.lab.looks) < 40


@scene(listed("1-1", BOARD))
async def test_one_that_becomes_what_nobody_wants_is_not_kept(s: Scene) -> None:
    """It changed between the list and the import."""
    s.kernel.takes = 1.0
    await s.until(lambda: s.kernel.tries)
    s.lab.devices = [listed("1-1", LOADER)]
    await asyncio.sleep(60)
    assert s.attached() is None
    assert len(s.kernel.tries) == 1
    assert s.heard("it is 1-1 0483:df11 now, which no rule wants") == 1


# --- by hand ----------------------------------------------------------------------------------------------------------


@scene(listed("1-1", BOARD))
async def test_detach_stops_it_and_says_how_to_resume(s: Scene) -> None:
    attached = await s.has()
    attached.end("detached", by_hand=True)
    await asyncio.sleep(600)
    assert s.attached() is None
    assert s.said[-1] == (
        "board: 1-1 1209:0001 was detached by hand and is left alone; to resume: usbferry attach usbip://lab/1-1"
    )
    assert s.state()["state"] == "stopped"
    s.kernel.others = {"1-1": s.kernel.put(s.lab, listed("1-1", BOARD))}  # attached by hand
    await s.until(lambda: s.state()["state"] == "attached")
    s.kernel.others.pop("1-1").end("the connection to lab was closed")
    await s.until(lambda: s.attached())


@scene(listed("1-1", BOARD))
async def test_a_reload_resumes_too(s: Scene) -> None:
    (await s.has()).end("detached", by_hand=True)
    await asyncio.sleep(60)
    s.keeper.reload(Rules((rule(s.lab, "1209:0001"),)))
    await s.has()


@scene(listed("1-1", BOARD), listed("1-2", MOUSE))
async def test_other_rules_detach_what_they_do_not_want_and_leave_the_rest(s: Scene) -> None:
    board = await s.has()
    s.keeper.reload(Rules((rule(s.lab, "1209:0001"), rule(s.lab, "1209:0007", name="mouse")), every=0.5))
    await s.has("1-2")
    assert s.attached() is board
    s.keeper.reload(Rules((rule(s.lab, "1209:0007", name="mouse"),)))
    await s.until(lambda: s.attached() is None)
    assert s.heard("board: 1-1 1209:0001 detached") == 1
    await asyncio.sleep(30)
    assert s.attached() is None
    other = Lab()
    s.keeper.reload(Rules((Rule("elsewhere", (Wish("usbip://attic", Selector.parse("1-1"), other),)),)))
    await s.until(lambda: s.attached("1-2") is None)
    await s.until(lambda: other.looks)


def test_what_was_attached_before_is_taken_over() -> None:
    """A keeper that was killed left its device with the kernel: nothing is torn down when the next one starts."""

    async def play() -> None:
        lab = Lab(listed("1-1", BOARD))
        one = Scene(lab, Rules((rule(lab, "1209:0001"),)))
        before = one.kernel.put(lab, listed("1-1", BOARD))
        one.kernel.others = {"1-1": before, "1-2": one.kernel.put(lab, listed("1-2", MOUSE))}
        async with keeping(one):
            await asyncio.sleep(60)
            assert one.said == ["board: 1-1 1209:0001 is attached to port 0"]
            assert one.kernel.tries == []
            one.kernel.others = {}
            before.end("the connection to lab was closed")
            await one.until(lambda: one.attached() not in (None, before))
        assert list(one.kernel.attached) == [(lab, "1-2")]

    run(play())


# --- strings ----------------------------------------------------------------------------------------------------------


@scene(listed("1-1", BOARD), listed("1-2", BOARD), listed("1-3", MOUSE), wants=("1209:0001,serial=AB2",))
async def test_a_serial_number_is_read_once(s: Scene) -> None:
    s.lab.serials = {"1-1": "AB1", "1-2": "AB2", "1-3": "AB2"}
    await s.has("1-2")
    await asyncio.sleep(600)
    assert s.lab.reads == ["1-1", "1-2"]
    assert s.attached("1-1") is None
    s.lab.serials["1-1"] = "AB2"
    s.lab.devices[0] = listed("1-1", BOARD, address=9)  # plugged in anew: another one
    await s.has("1-1")
    assert s.lab.reads == ["1-1", "1-2", "1-1"]


@scene(listed("1-1", BOARD), wants=("serial=AB2",))
async def test_one_that_is_configured_by_being_read_is_not_read_for_that(s: Scene) -> None:
    """The kernel's server lists no classes before; each of its devices was once imported twice."""
    s.lab.serials = {"1-1": "AB1"}
    s.lab.devices[0].interface_classes = ()
    await s.until(lambda: s.lab.reads)
    s.lab.devices[0] = listed("1-1", BOARD)
    await asyncio.sleep(60)
    assert s.lab.reads == ["1-1"]


@scene(listed("1-1", BOARD), wants=("serial=AB1",))
async def test_one_that_cannot_be_asked_is_asked_again_later(s: Scene) -> None:
    await asyncio.sleep(60)
    assert 20 < len(s.lab.reads) < 70
    s.lab.serials = {"1-1": "AB1"}
    await s.has()


@scene(listed("1-1", BOARD), wants=("serial=AB1",), lab=Telling)
async def test_one_that_cannot_be_asked_is_asked_again_though_nothing_is_told(s: Scene) -> None:
    await asyncio.sleep(60)
    assert 20 < len(s.lab.reads) < 70
    s.lab.serials = {"1-1": "AB1"}
    await s.has()
    looks = len(s.lab.looks)
    await asyncio.sleep(600)
    assert len(s.lab.looks) == looks, "it is polled"


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_two_who_lost_the_same_server_do_not_come_back_at_the_same_moment() -> None:
    for failures in range(50):
        waits = [backoff(failures) for _ in range(100)]
        middle = min(slot.BACKOFF_SECONDS * 2.0**failures, slot.LONGEST_SECONDS)
        assert 0.79 * middle < min(waits) < max(waits) < 1.21 * middle
        assert len(set(waits)) > 90


def test_a_place_that_goes_wrong_ends_no_other() -> None:
    async def play() -> None:
        bad, good = Lab(), Lab(listed("1-1", BOARD))
        bad.error = RuntimeError("broken")
        wishes = Wish("usbip://bad", Selector(), bad), Wish("usbip://lab", Selector.parse("1209:*"), good)
        async with keeping(Scene(good, Rules((Rule("all", wishes),)))) as one:
            await one.has()
            assert one.heard("usbip://bad: unexpected RuntimeError('broken'); trying again") == 1

    run(play())


def test_everything_is_in_the_status() -> None:
    async def play() -> None:
        lab = Lab(listed("1-1", BOARD))
        async with keeping(Scene(lab, Rules((rule(lab, "1209:0001"),)))) as one:
            await one.has()
            await asyncio.sleep(1)
            status = one.keeper.status()
        assert status == {
            "every": 2.0,
            "rules": [{"name": "board", "within": 10.0, "relay": False, "places": ["usbip://lab"]}],
            "places": [
                {
                    "address": "usbip://lab",
                    "error": None,
                    "devices": [
                        {
                            "name": "1-1",
                            "address": "usbip://lab/1-1",
                            "rule": "board",
                            "vendor_id": "1209",
                            "product_id": "0001",
                            "manufacturer": "",
                            "product": "",
                            "serial": "",
                            "state": "attached",
                            "port": 0,
                            "reason": None,
                        }
                    ],
                }
            ],
        }

    run(play())


def test_skipping_time_is_honest() -> None:
    """A program that waits for nothing is an error, not a hang."""

    async def stuck() -> None:
        await asyncio.get_running_loop().create_future()

    work: Coroutine[Any, Any, None] = stuck()
    with pytest.raises(RuntimeError, match="nothing is due"):
        run(work)
