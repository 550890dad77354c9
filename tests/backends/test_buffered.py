"""Isochronous streams that are kept going ahead of their user, on a bus that does not wait."""

from __future__ import annotations

import asyncio
import struct
from collections import deque

import pytest

from usbferry import aio
from usbferry.backends.buffered import Buffered
from usbferry.backends.options import without_buffer
from usbferry.device import Claimant, Device, Promise, ResetOutcome
from usbferry.devices.clock import VirtualClock
from usbferry.registry import open_source
from usbferry.server.catalog import Catalog
from usbferry.usb import setup as requests
from usbferry.usb.info import DeviceInfo
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion, IsoPacket, Transfer
from usbferry.usb.tree import Configuration, DeviceDescriptor, Endpoint, Interface
from usbferry.usb.types import Speed, Status, TransferType

ISO, BULK = TransferType.ISOCHRONOUS, TransferType.BULK
IN, OUT, PIPE = 0x82, 0x01, 0x83
ENDPOINTS = (Endpoint(OUT, ISO, 192, 4), Endpoint(IN, ISO, 192, 4))  # each millisecond
SETTINGS = (
    Interface(0, 0, endpoints=(Endpoint(PIPE, BULK, 512),)),
    Interface(1, 0),
    Interface(1, 1, endpoints=ENDPOINTS),
)
BUFFER = 0.06
LIKE = 4  # packets of a transfer here


class Bus(Device):
    """In every millisecond its microphone says which it is, and its speaker plays what is there, or nothing."""

    def __init__(self, clock: VirtualClock) -> None:
        self.info = DeviceInfo("1-1", DeviceDescriptor(0x1209, 1), (Configuration(1, SETTINGS),), speed=Speed.HIGH)
        self.info.configuration = 1
        self.info.alternates[1] = 1
        self.gone = asyncio.get_running_loop().create_future()
        self.clock = clock
        self.played: dict[int, int] = {}  # number by millisecond
        self.flying: dict[int, deque[tuple[int, Transfer, Promise]]] = {IN: deque(), OUT: deque()}
        self.said: list[Setup] = []
        self.answers: dict[int, int] = {}  # statuses for transfers of an endpoint, instead of doing them

    def submit(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        if transfer.endpoint in self.answers:
            return Completion(self.answers[transfer.endpoint])
        if not transfer.endpoint & 0x0F:
            self.said.append(Setup.parse(transfer.setup))
            return Completion(Status.OK)
        queue = self.flying.get(transfer.endpoint)
        if queue is None or transfer.packets is None:
            return Completion(Status.OK, b"bulk")
        start = max(round(self.clock.now() * 1000), queue[-1][0] if queue else 0)
        promise = Promise()
        queue.append((start + len(transfer.packets), transfer, promise))
        self.clock.call_at((start + len(transfer.packets)) / 1000, lambda: self._over(transfer.endpoint))
        return promise

    def _over(self, endpoint: int) -> None:
        queue, now = self.flying[endpoint], round(self.clock.now() * 1000)
        while queue and queue[0][0] <= now:
            end, transfer, promise = queue.popleft()
            packets, data = transfer.packets or [], b""
            for number, packet in enumerate(packets, end - len(packets)):
                packet.actual = 4
                if transfer.is_in:
                    data += struct.pack("<I", number)
                else:
                    self.played[number] = struct.unpack_from("<I", transfer.data, packet.offset)[0]
            promise.fulfil(Completion(Status.OK, data, 4 * len(packets), packets))

    def cancel(self, transfer: Transfer) -> None:
        queue = self.flying[transfer.endpoint]
        for entry in queue:
            if entry[1] is transfer:
                queue.remove(entry)
                entry[2].fulfil(Completion(Status.CANCELLED))
                return

    def reset(self) -> asyncio.Future[ResetOutcome]:
        done = asyncio.get_running_loop().create_future()
        done.set_result(ResetOutcome.SAME)
        return done

    async def close(self) -> None:
        pass


class Desk:
    """A buffered Bus, and its user."""

    def __init__(self, seconds: float = BUFFER) -> None:
        self.clock = VirtualClock()
        self.bus = Bus(self.clock)
        self.device = Buffered(self.bus, seconds, self.clock)
        self.heard: list[int] = []
        self.statuses: list[int] = []
        self._next = 1

    def fetch(self, count: int = 1) -> list[Transfer]:
        made = []
        for _ in range(count):
            made.append(Transfer(IN, LIKE * 192, packets=[IsoPacket(n * 192, 192) for n in range(LIKE)]))
            self._take(self.device.submit(made[-1]))
        return made

    def play(self, count: int = 1) -> list[Transfer]:
        made = []
        for _ in range(count):
            data = b"".join(struct.pack("<I", self._next + n) for n in range(LIKE))
            self._next += LIKE
            made.append(Transfer(OUT, len(data), memoryview(data), packets=[IsoPacket(n * 4, 4) for n in range(LIKE)]))
            self._take(self.device.submit(made[-1]))
        return made

    def control(self, setup: Setup) -> Completion | asyncio.Future[Completion]:
        return self.device.submit(Transfer(0, 0, b"", setup.pack()))

    def _take(self, answer: Completion | asyncio.Future[Completion]) -> None:
        if isinstance(answer, asyncio.Future):
            if not answer.done():
                assert isinstance(answer, Promise)
                answer.hear(self._took)
                return
            answer = answer.result()
        self._took(answer)

    def _took(self, completion: Completion) -> None:
        self.statuses.append(completion.status)
        data = bytes(completion.data)
        self.heard += [number for (number,) in struct.iter_unpack("<I", data)]

    def wait(self, ms: int) -> None:
        """Each millisecond by itself, as a timer of the bus would have it."""
        for _ in range(ms):
            self.clock.advance(0.001 + 1e-9)  # past the millisecond, however it was rounded


# -- recording ---------------------------------------------------------------------------------------------------------


async def test_what_a_user_fetches_late_is_there() -> None:
    """A gap of 40 ms in what it asks for: without a buffer as many packets would be lost."""
    desk = Desk()
    desk.fetch(2)
    desk.wait(8)
    assert desk.heard == list(range(8))
    desk.wait(40)
    desk.fetch(12)
    assert desk.heard == list(range(48)), "all that had come, at once"
    desk.wait(8)
    assert desk.heard == list(range(56))


async def test_what_nobody_fetches_for_longer_than_the_buffer_is_dropped_the_oldest_first() -> None:
    desk = Desk()
    desk.fetch(1)
    desk.wait(204)
    desk.fetch(1)
    assert desk.heard[:4] == [0, 1, 2, 3]
    assert desk.heard[4:] == [144, 145, 146, 147]
    assert desk.device.counts.dropped == 140


async def test_the_device_is_not_asked_for_ever_for_nobody() -> None:
    desk = Desk()
    desk.fetch(1)
    desk.wait(3000)
    assert not desk.bus.flying[IN]
    desk.fetch(1)
    desk.wait(4)
    assert desk.heard[4:] == [3000, 3001, 3002, 3003]


async def test_a_user_who_takes_all_back_ends_the_stream() -> None:
    desk = Desk()
    first, second = desk.fetch(2)
    desk.device.cancel(second)
    assert desk.statuses == [Status.CANCELLED]
    desk.wait(4)
    assert desk.heard == [0, 1, 2, 3]
    [third] = desk.fetch(1)
    desk.device.cancel(first)  # it has ended
    desk.device.cancel(third)
    assert not desk.bus.flying[IN]
    assert desk.statuses == [Status.CANCELLED, Status.OK, Status.CANCELLED]


async def test_an_endpoint_that_fails_tells_all_who_wait() -> None:
    desk = Desk()
    desk.bus.answers[IN] = Status.STALL
    desk.fetch(1)
    assert desk.statuses == [Status.STALL]
    del desk.bus.answers[IN]
    desk.fetch(1)
    desk.wait(4)
    assert desk.statuses == [Status.STALL, Status.OK]


# -- playing -----------------------------------------------------------------------------------------------------------


async def test_a_user_may_be_ahead_by_the_buffer_and_no_further() -> None:
    """It is told at once while there is room; then one transfer for each that the device has played."""
    desk = Desk()
    desk.play(20)
    assert len(desk.bus.flying[OUT]) == 20
    assert len(desk.statuses) == 15
    desk.wait(4)
    assert len(desk.statuses) == 16
    desk.wait(100)
    assert list(desk.bus.played.values()) == list(range(1, 81))
    assert desk.statuses == [Status.OK] * 20


async def test_what_comes_late_is_played_without_a_gap() -> None:
    """A driver has 20 ms under way, and for 40 ms nothing of it comes."""
    desk = Desk()
    given = told = 0
    for ms in range(300):
        told = len(desk.statuses)
        if not 150 <= ms < 190:
            desk.play(max(0, 5 - (given - told)))
            given = max(given, told + 5)
        desk.wait(1)
    there = sorted(desk.bus.played)
    assert there == list(range(there[0], there[-1] + 1)), "no gap"
    assert [desk.bus.played[ms] for ms in there] == list(range(1, len(there) + 1))
    assert desk.device.counts.dry == 0


async def test_while_it_gathers_its_user_is_told_at_the_pace_of_the_packets() -> None:
    desk = Desk()
    desk.play(2)
    assert desk.statuses == []
    desk.wait(4)
    assert len(desk.statuses) == 1
    desk.wait(4)
    assert len(desk.statuses) == 2
    assert not desk.bus.flying[OUT]


async def test_a_short_sound_is_played_though_the_buffer_is_never_full() -> None:
    desk = Desk()
    desk.play(2)
    desk.wait(80)
    assert list(desk.bus.played.values()) == list(range(1, 9))


async def test_a_device_that_ran_dry_gathers_again() -> None:
    desk = Desk()
    desk.play(15)
    desk.wait(100)
    desk.play(15)
    desk.wait(100)
    assert list(desk.bus.played.values()) == list(range(1, 121))
    assert desk.device.counts.dry == 1


async def test_a_transfer_that_the_device_has_not_is_cancelled_and_another_is_not_told_twice() -> None:
    desk = Desk()
    _, second = desk.play(2)
    desk.device.cancel(second)
    assert desk.statuses == [Status.CANCELLED]
    desk.device.cancel(second)
    desk.wait(80)
    assert list(desk.bus.played.values()) == [1, 2, 3, 4]
    assert desk.statuses == [Status.CANCELLED, Status.OK]
    later = desk.play(20)[-1]
    desk.device.cancel(later)  # the device has it, and gives it back
    assert desk.statuses.count(Status.CANCELLED) == 2


async def test_an_endpoint_that_is_gone_tells_who_was_not_told() -> None:
    desk = Desk()
    desk.play(14)
    desk.bus.answers[OUT] = Status.GONE
    desk.play(6)
    assert desk.statuses == [Status.GONE] * 15
    desk.wait(80)
    assert desk.statuses[15:] == [Status.OK] * 5, "what came after that gathers, as before a first transfer"


# -- barriers ----------------------------------------------------------------------------------------------------------


async def test_a_setting_changes_when_all_was_played() -> None:
    """What the user was told of is heard to its end, and what comes after the request stays after it."""
    desk = Desk()
    desk.play(15)
    barrier = desk.control(requests.set_interface(1, 0))
    after = desk.control(requests.get_descriptor(1))
    assert desk.device.submit(Transfer(PIPE, 512)).data == b"bulk", "other endpoints do not wait"
    desk.wait(59)
    assert desk.bus.said == []
    desk.wait(1)
    assert [setup.request for setup in desk.bus.said] == [requests.Request.SET_INTERFACE, 6]
    assert list(desk.bus.played.values()) == list(range(1, 61))
    for answer in (barrier, after):
        assert isinstance(answer, asyncio.Future)
        assert answer.result().status == Status.OK


async def test_a_device_that_plays_nothing_holds_nobody_up() -> None:
    desk = Desk()
    desk.play(15)
    barrier = desk.control(requests.set_interface(1, 0))
    desk.bus.flying[OUT].clear()  # it forgot all
    desk.wait(1100)
    assert isinstance(barrier, asyncio.Future)
    assert barrier.result().status == Status.OK


async def test_a_request_that_is_cancelled_while_it_is_held_is_not_done() -> None:
    desk = Desk()
    desk.play(15)
    transfer = Transfer(0, 0, b"", requests.set_interface(1, 0).pack())
    barrier = desk.device.submit(transfer)
    desk.device.cancel(transfer)
    assert isinstance(barrier, asyncio.Future)
    assert barrier.result().status == Status.CANCELLED
    desk.wait(100)
    assert desk.bus.said == []


@pytest.mark.parametrize("setup", [requests.set_configuration(1), requests.clear_halt(IN)])
async def test_a_stream_ends_with_what_ends_its_endpoint(setup: Setup) -> None:
    desk = Desk()
    desk.fetch(2)
    assert isinstance(desk.control(setup), Completion)
    assert desk.statuses == [Status.SHUTDOWN] * 2
    assert not desk.bus.flying[IN]


async def test_reset_and_close_end_all() -> None:
    desk = Desk()
    desk.fetch(1)
    desk.play(15)
    assert (await desk.device.reset()) is ResetOutcome.SAME
    assert not desk.bus.flying[IN]
    assert not desk.bus.flying[OUT]
    desk.fetch(1)
    await desk.device.close()
    assert not desk.bus.flying[IN]


async def test_what_is_not_isochronous_goes_through_as_it_is() -> None:
    desk = Desk()
    assert desk.device.submit(Transfer(PIPE, 512)).data == b"bulk"
    nowhere = desk.device.submit(Transfer(0x85, 192, packets=[IsoPacket(0, 192)]))
    assert isinstance(nowhere, Completion), "the device answers for it"


# -- where it is asked for ---------------------------------------------------------------------------------------------


def test_the_option_of_an_address() -> None:
    assert without_buffer("usbip://host/1-1?buffer=0.1", 0.5) == ("usbip://host/1-1", 0.1)
    assert without_buffer("ferry:///run/x?device=1-1&buffer=0.1", 0.5) == ("ferry:///run/x?device=1-1", 0.1)
    assert without_buffer("ferry:///run/x?device=1-1", 0.5) == ("ferry:///run/x?device=1-1", None)
    assert open_source("ferry:///run/x?device=1-1&buffer=0.1").name == "1-1"
    assert open_source("usbip://host/1-1?buffer=0.1").name == "1-1"


@pytest.mark.parametrize(
    ("address", "key", "there"),
    [
        ("usbip://host/1-1?bufer=0.1", "bufer", "buffer"),
        ("ferry://host?device=1-1", "device", "buffer"),
        ("ferry:///run/x?device=1-1&bufer=0.1", "bufer", "device and buffer"),
    ],
)
def test_an_option_that_there_is_not(address: str, key: str, there: str) -> None:
    with pytest.raises(ValueError, match=f"is no address, write it as .*: it has no option '{key}', only {there}$"):
        open_source(address)


@pytest.mark.parametrize("text", ["0.6", "-1", "soon", "nan", ""])
def test_what_is_no_buffer(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no time; write it in seconds, as 0.1, up to 0.5"):
        open_source(f"usbip://host/1-1?buffer={text}")


@pytest.mark.parametrize(
    ("protocol", "seconds", "is_buffered"),
    [("usbip", 0.2, True), ("ferry", 0.2, True), ("usbredir", 0.2, False), ("usbip", 0.06, False), ("", 0.2, False)],
)
async def test_a_server_buffers_for_who_does_not(protocol: str, seconds: float, is_buffered: bool) -> None:
    """usbredir's exporters run streams by themselves; and a virtual device waits a while for who is late."""
    catalog = Catalog(seconds)
    [offer] = await catalog.add(open_source("virtual:headset"))
    _, device = await catalog.claim(offer.info.name, Claimant("here", protocol))
    assert isinstance(device, Buffered) is is_buffered
    await catalog.release(offer)
    await catalog.close()


async def test_a_program_hears_in_order_what_comes_now_and_at_once() -> None:
    """Of transfers under way some end later and some at once; a future more between them would turn them round."""
    desk = Desk()
    handle, heard = aio.Handle(desk.device, None), list[int]()

    def fetch() -> None:
        transfer = Transfer(IN, LIKE * 192, packets=[IsoPacket(n * 192, 192) for n in range(LIKE)])
        handle.submit(transfer).add_done_callback(came)

    def came(done: asyncio.Future[Completion]) -> None:
        if done.result().status != Status.OK:
            return
        heard.extend(number for (number,) in struct.iter_unpack("<I", bytes(done.result().data)))
        fetch()

    for _ in range(3):
        fetch()
    for ms in range(1, 200):
        desk.wait(1)
        if not ms % 7:  # the program has its turn now and then
            await asyncio.sleep(0)
    await handle.close()
    assert len(heard) > 150
    assert heard == sorted(heard)
