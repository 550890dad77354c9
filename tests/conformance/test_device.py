"""The rules at the top of `device.py`, checked on every row of DEVICES: here, by each protocol over each transport, on
the way from one protocol to another, by libusb, while it is recorded, and played from its tape; and on two devices that
Facedancer ships.

A new device needs a line in ADDRESSES only if it cannot be opened without options.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.conformance.chain import chained
from tests.conformance.paths import PORT, plugged
from tests.conformance.works import FEW
from tests.devices.host import control, isochronous, turn
from tests.umockdev import testbed
from usbferry.backends.buffered import Buffered
from usbferry.backends.virtual import VirtualSource
from usbferry.device import Claimant, Device, DeviceError, ResetOutcome, Source
from usbferry.registry import DEVICES, PROTOCOLS, open_source
from usbferry.usb import build
from usbferry.usb.descriptors import Endpoint
from usbferry.usb.setup import Setup, clear_halt, get_descriptor, set_configuration, set_interface
from usbferry.usb.transfer import Completion, Flags, Transfer
from usbferry.usb.types import Status, TransferType

ADDRESSES = {
    "composite": "virtual:composite?parts=keyboard+serial+disk+microphone&disk.size=1M",
    "disk": "virtual:disk?size=1M",
    "uas": "virtual:uas?size=1M",
}
OTHER_TRANSPORTS = [f"ferry+{name}" for name in PROTOCOLS["ferry"].transports if name != "tcp"]
GATEWAYS = ("usbip>ferry", "ferry>usbip", "ferry>ferry")
HERE = ("here", "libusb", "tap", "tape", "buffered", "facedancer")  # without any protocol
ME = Claimant("local")
PATIENCE = 10.0  # seconds for an answer that must come


class Place:
    """A device and how it was reached."""

    def __init__(self, source: Source, name: str, device: Device, vanish: Callable[[str], object]) -> None:
        self.source, self.name, self.device = source, name, device
        self.vanish = vanish  # unplugs it, perhaps at the far end
        self.way = ""

    async def again(self) -> Device:
        """Claim it once more; at the far end it may take a moment until it is free."""
        for _ in range(1000):
            try:
                self.device = await self.source.open(self.name, ME)
                return self.device
            except DeviceError:
                await asyncio.sleep(0.001)
        raise AssertionError("it does not become free")


class Ahead(VirtualSource):
    """A virtual device whose isochronous streams run ahead of their user."""

    async def open(self, name: str, claimant: Claimant) -> Device:
        return Buffered(await super().open(name, claimant), 0.06)


@contextlib.asynccontextmanager
async def reached(row: str, way: str, bench: testbed.Testbed | None) -> AsyncIterator[Place]:
    address = ADDRESSES.get(row, f"virtual:{row}")
    async with contextlib.AsyncExitStack() as stack:
        if bench is not None:
            await stack.enter_async_context(plugged(address, bench))
            source, vanish = open_source(f"usb:{PORT}"), lambda reason: bench.do("unplug", name=PORT)
        elif way == "facedancer":
            source = open_source(f"facedancer:facedancer.devices.{row}")
            vanish = source._load().device.vanish
        elif way == "tape":
            source = open_source(f"replay:{await recorded(address, stack)}")
            vanish = (await source._loaded()).device.vanish
        else:
            source = near = Ahead(address) if way == "buffered" else open_source(address)
            vanish = near.device.vanish
            if way == "tap":
                source = open_source(f"tap:{folder(stack) / 'tape'}?of={address}")
                vanish = source._source.device.vanish
        source = await stack.enter_async_context(chained(source, "" if way in HERE else way))
        (info,) = await source.list()
        place = Place(source, info.name, await source.open(info.name, ME), vanish)
        try:
            yield place
        finally:
            await place.device.close()
            await source.close()
            await turn()


def folder(stack: contextlib.AsyncExitStack) -> Path:
    return Path(stack.enter_context(TemporaryDirectory()))


async def recorded(address: str, stack: contextlib.AsyncExitStack) -> Path:
    """A tape of a claim in which nothing happened: what plays it is its device all the same."""
    tape = folder(stack) / "tape"
    source = open_source(f"tap:{tape}?of={address}")
    await (await source.open("", ME)).close()
    await source.close()
    return tape


def places() -> Iterator[Any]:
    """Every row here and imported; by the other ways those that differ in the transfers they have."""
    rows = dict.fromkeys(("here", "usbip", "ferry"), tuple(sorted(DEVICES)))
    rows |= dict.fromkeys((*OTHER_TRANSPORTS, *GATEWAYS), ("disk", "zero"))
    rows |= {"buffered": ("camera", "headset", "zero")}
    rows |= dict.fromkeys(("tap", "tape"), ("disk", "headset", "keyboard", "zero"))
    for way, all_rows in rows.items():
        few = {"here": all_rows, "usbip": FEW, "ferry": FEW}.get(way, ("zero",))  # for who cannot wait
        for row in all_rows:
            yield pytest.param((row, way), id=f"{row}-{way}", marks=() if row in few else pytest.mark.slow)
    for row in ("ftdi:FTDIDevice", "keyboard:USBKeyboardDevice"):
        yield pytest.param((row, "facedancer"), id=f"{row}-facedancer")
    for row in ("disk", "keyboard", "serial", "zero"):
        yield pytest.param((row, "libusb"), id=f"{row}-libusb", marks=pytest.mark.umockdev)


@pytest.fixture(params=places())
async def place(request, bench) -> AsyncIterator[Place]:
    row, way = request.param
    async with reached(row, way, bench if way == "libusb" else None) as made:
        made.way = way
        yield made


@pytest.fixture
async def device(place) -> Device:
    return place.device


# -- what a host may ask --------------------------------------------------------------------------------------------


def endpoints(device: Device) -> list[Endpoint]:
    """Of the settings in force."""
    return [endpoint for interface in device.info.interfaces for endpoint in interface.endpoints]


def transfer_for(rng: random.Random, endpoint: Endpoint) -> Transfer:
    """Something that makes sense on the endpoint, if perhaps not to the device."""
    size = rng.choice((0, 1, 8, 31, 64, 512, 4096))
    if endpoint.type is TransferType.ISOCHRONOUS:
        return isochronous(endpoint.address, [min(size, endpoint.service_bytes)] * rng.randint(1, 8))
    if endpoint.is_in:
        return Transfer(endpoint.address, size, flags=rng.choice((0, Flags.SHORT_NOT_OK)))
    return Transfer(endpoint.address, size, rng.randbytes(size), flags=rng.choice((0, Flags.ZERO_PACKET)))


def request_for(rng: random.Random, device: Device) -> Transfer:
    """A control request: the standard ones, well or badly, and what nobody knows."""
    interfaces = [i.number for i in device.info.interfaces] or [0]
    addresses = [e.address for e in endpoints(device)] or [0x81]
    return control(
        rng.choice(
            (
                get_descriptor(rng.randrange(1, 16), rng.randrange(3), length=rng.choice((0, 8, 18, 255))),
                Setup(0x80, 0, length=2),
                Setup(0x82, 0, 0, rng.choice(addresses), 2),
                Setup(0x81, 10, 0, rng.choice(interfaces), 1),
                Setup(0x02, 3, 0, rng.choice(addresses)),
                clear_halt(rng.choice(addresses)),
                set_interface(rng.choice(interfaces), rng.randrange(3)),
                set_configuration(rng.choice((1, 1, 1, 0, 9))),
                Setup(0xC0, rng.randrange(256), 0, 0, 8),
            )
        )
    )


def status_of(answer: Any) -> Any:
    """How a transfer ended; None while it has not."""
    if isinstance(answer, Completion):
        return answer.status
    return answer.result().status if answer.done() else None


async def ended(answer: Any) -> Completion:
    if isinstance(answer, Completion):
        return answer
    async with asyncio.timeout(PATIENCE):
        return await asyncio.shield(answer)


async def ask(device: Device, setup: Setup) -> Completion:
    return await ended(device.submit(control(setup)))


async def parked(device: Device) -> list[tuple[Transfer, asyncio.Future[Completion]]]:
    """Reads that nobody answers, one on each endpoint that has nothing to say."""
    found = []
    for endpoint in endpoints(device):
        if endpoint.is_in and endpoint.type is not TransferType.ISOCHRONOUS:
            transfer = Transfer(endpoint.address, endpoint.packet_size)
            answer = device.submit(transfer)
            await ask(device, get_descriptor(1))  # where it is far, its answer would have come by now
            await turn()
            if isinstance(answer, asyncio.Future) and not answer.done():
                found.append((transfer, answer))
    return found


def check(transfer: Transfer, completion: Completion) -> None:
    """What every completion keeps to."""
    assert isinstance(completion, Completion)
    assert completion.status in Status
    assert 0 <= completion.actual <= transfer.length
    assert len(completion.data) == (completion.actual if transfer.is_in else 0)
    if transfer.packets is not None and completion.packets is not None:
        assert sum(packet.actual for packet in completion.packets) == completion.actual


# -- the rules ------------------------------------------------------------------------------------------------------


class Host:
    """Submits, and holds every answer against the rules as it comes."""

    def __init__(self, device: Device, *unordered: Status) -> None:
        self.device = device
        self.unordered = {Status.CANCELLED, Status.SHUTDOWN, Status.GONE, Status.NO_MEMORY, *unordered}
        self.waiting: dict[Transfer, asyncio.Future[Completion]] = {}
        self.queues: dict[int, list[Transfer]] = defaultdict(list)  # endpoint -> what waits there, in order
        self.cancelled: set[Transfer] = set()
        self.wrong: list[str] = []  # what a callback found: nobody hears what it raises
        self.count = 0

    def submit(self, transfer: Transfer) -> None:
        key = transfer.endpoint & 0x8F if transfer.endpoint & 0x0F else 0
        answer = self.device.submit(transfer)
        self.count += 1
        if isinstance(answer, Completion):
            waiting = [other for other in self.queues[key] if not self.waiting[other].done()]
            assert not waiting, "at once only when nothing earlier waits"
            check(transfer, answer)
            return
        self.waiting[transfer] = answer
        self.queues[key].append(transfer)
        answer.add_done_callback(lambda done: self.heard(key, transfer, done))

    def heard(self, key: int, transfer: Transfer, done: asyncio.Future[Completion]) -> None:
        try:
            self.done(key, transfer, done)
        except AssertionError as error:
            self.wrong.append(f"{transfer}: {done.result()}: {error}")

    def done(self, key: int, transfer: Transfer, done: asyncio.Future[Completion]) -> None:
        completion = done.result()
        before = self.queues[key][: self.queues[key].index(transfer)]
        self.queues[key].remove(transfer)
        del self.waiting[transfer]
        check(transfer, completion)
        if completion.status not in self.unordered:
            assert set(before) <= self.cancelled, "in the order of submission"

    def cancel(self, transfer: Transfer) -> None:
        self.cancelled.add(transfer)
        self.device.cancel(transfer)

    async def settle(self) -> None:
        """All that is waiting is asked to end, and does."""
        for transfer in list(self.waiting):
            self.cancel(transfer)
        if self.waiting:
            _, late = await asyncio.wait(list(self.waiting.values()), timeout=PATIENCE)
            assert not late, "a transfer that was cancelled did not end"
        await turn()
        assert self.wrong == []


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_asked_each_transfer_ends_once_and_in_order(place, seed) -> None:
    """An importer refuses by itself what its settings lack; what it sent before them may still be at the far end."""
    rng, device = random.Random(seed), place.device
    host = Host(device, *([Status.STALL] if place.way not in HERE else []))
    for _ in range(150):
        match rng.randrange(10):
            case 0 | 1:
                host.submit(request_for(rng, device))
            case 2:
                await turn()
            case 3 if host.waiting:
                host.cancel(rng.choice(list(host.waiting)))
            case 4 if rng.random() < 0.1:
                assert await device.reset() is ResetOutcome.SAME
            case _ if endpoints(device):
                host.submit(transfer_for(rng, rng.choice(endpoints(device))))
            case _:
                host.submit(control(set_configuration(1)))
    await host.settle()
    assert host.count > 100
    assert (await ask(device, get_descriptor(1))).status == Status.OK


async def test_it_is_opened_configured_and_is_what_it_says(device) -> None:
    info = device.info
    assert info.configuration == info.configurations[0].value
    assert (await ask(device, get_descriptor(1))).data == build.device(info.device)
    assert (await ask(device, Setup(0x80, 8, length=1))).data == bytes([info.configuration])
    for index, configuration in enumerate(info.configurations):
        raw = (await ask(device, get_descriptor(2, index, length=4096))).data
        assert raw == build.configuration(configuration)


@pytest.mark.parametrize("size", [0, 1, 31, 512, 20000])
async def test_out_payloads_are_lent(device, size) -> None:
    """No view of one is kept: a buffer that somebody still looks at cannot change its size."""
    for endpoint in endpoints(device):
        if endpoint.is_in or endpoint.type is TransferType.ISOCHRONOUS:
            continue
        for _ in range(3):  # at once, and when others wait
            buffer = bytearray(size)
            transfer = Transfer(endpoint.address, size, memoryview(buffer))
            answer = device.submit(transfer)
            if isinstance(answer, Completion):
                transfer.data = b""  # ours
            buffer.append(0)
            assert len(transfer.data) in (0, size)


async def test_a_control_payload_is_lent(device) -> None:
    for _ in range(2):
        buffer = bytearray(8)
        transfer = Transfer(0x00, 8, memoryview(buffer), Setup(0x40, 0x5B, length=8).pack())
        answer = device.submit(transfer)
        if isinstance(answer, Completion):
            transfer.data = b""
        buffer.append(0)
        await ended(answer)


async def test_a_parked_read_is_cancelled_and_nobody_else(device) -> None:
    reads = await parked(device)
    for transfer, answer in reads:
        second = Transfer(transfer.endpoint, transfer.length)
        other = device.submit(second)
        device.cancel(transfer)
        assert (await ended(answer)).status == Status.CANCELLED
        assert status_of(other) is None
        device.cancel(transfer)
        device.cancel(second)
        assert (await ended(other)).status == Status.CANCELLED


async def test_a_cancel_of_what_ended_or_never_was_does_nothing(device) -> None:
    transfer = control(get_descriptor(1))
    await ended(device.submit(transfer))
    device.cancel(transfer)
    device.cancel(Transfer(0x81, 8))
    device.cancel(Transfer(0x8F, 8))


async def test_an_endpoint_that_is_not_there_stalls(device) -> None:
    taken = {endpoint.address for endpoint in endpoints(device)}
    absent = next((number for number in range(1, 16) if not {number, number | 0x80} & taken), None)
    if absent is None:  # all there can be are there
        assert (await ask(device, set_configuration(0))).status == Status.OK
        absent = 1
    assert (await ended(device.submit(Transfer(absent | 0x80, 8)))).status == Status.STALL
    assert (await ended(device.submit(Transfer(absent, 3, b"abc")))).status == Status.STALL


def readable(device: Device) -> int:
    """An endpoint to read, the same in every setting of it."""
    found = [e.address for e in endpoints(device) if e.type is not TransferType.ISOCHRONOUS and e.is_in]
    return found[0] if found else pytest.skip("it has no endpoint to read")


@pytest.mark.parametrize("configured", [True, False])
async def test_settings_are_barriers(device, configured) -> None:
    """Sent one behind the other without waiting: the read finds the settings of those before it."""
    value, address = device.info.configuration, readable(device)
    settings = [0, value] if configured else [0, value, 0]
    changes = [device.submit(control(set_configuration(setting))) for setting in settings]
    transfer = Transfer(address, 64)
    answer = device.submit(transfer)
    assert [(await ended(change)).status for change in changes] == [Status.OK] * len(changes)
    if configured:
        await ask(device, get_descriptor(1))
        device.cancel(transfer)
        assert (await ended(answer)).status in (Status.OK, Status.CANCELLED)
    else:
        assert (await ended(answer)).status == Status.STALL


async def test_a_barrier_comes_behind_what_an_earlier_one_held(device) -> None:
    """A read between two changes of settings belongs to the first."""
    value, address = device.info.configuration, readable(device)
    answers = []
    for setting in (0, value, 0):
        answers += [device.submit(control(set_configuration(setting))), device.submit(Transfer(address, 64))]
    found = [await ended(answer) for answer in answers]
    assert [one.status for one in found[::2]] == [Status.OK] * 3
    assert (found[1].status, found[5].status) == (Status.STALL, Status.STALL), "unconfigured"
    assert found[3].status in (Status.OK, Status.SHUTDOWN), "it was there: answered, or ended with its configuration"


async def test_a_halt_is_cleared_before_what_comes_behind_it(place) -> None:
    device = place.device
    if place.way == "facedancer":
        pytest.skip("Facedancer's endpoints refuse to be halted by a host; tests of `facedancing` have the rest")
    for endpoint in endpoints(device):
        if endpoint.type is TransferType.ISOCHRONOUS or not endpoint.is_in:
            continue
        assert (await ask(device, Setup(0x02, 3, 0, endpoint.address))).status == Status.OK
        assert (await ended(device.submit(Transfer(endpoint.address, 64)))).status == Status.STALL
        cleared = device.submit(control(clear_halt(endpoint.address)))
        transfer = Transfer(endpoint.address, 64)
        answer = device.submit(transfer)
        assert (await ended(cleared)).status == Status.OK
        device.cancel(transfer)
        assert (await ended(answer)).status in (Status.OK, Status.CANCELLED)


async def test_a_reset_ends_what_is_pending_first_and_restores_the_settings(device) -> None:
    for interface in device.info.configurations[0].interfaces:
        if interface.alternate:
            assert (await ask(device, set_interface(interface.number, interface.alternate))).status == Status.OK
    before = (device.info.configuration, dict(device.info.alternates))
    reads = await parked(device)
    ends: list[Any] = []
    for _, answer in reads:
        answer.add_done_callback(lambda done: ends.append(done.result().status))
    outcome = device.reset()
    outcome.add_done_callback(lambda done: ends.append(done.result()))
    assert await outcome is ResetOutcome.SAME
    await turn()
    assert len(ends) == len(reads) + 1
    assert ends[-1] is ResetOutcome.SAME
    assert Status.OK not in ends[:-1]
    assert (device.info.configuration, device.info.alternates) == before
    assert (await ask(device, Setup(0x80, 8, length=1))).data == bytes([before[0]])
    for number, alternate in before[1].items():
        assert (await ask(device, Setup(0x81, 10, 0, number, 1))).data == bytes([alternate])


async def test_a_transfer_behind_a_reset_comes_after_it(device) -> None:
    outcome, answer = device.reset(), device.submit(control(get_descriptor(1)))
    assert await outcome is ResetOutcome.SAME
    assert (await ended(answer)).status == Status.OK


async def test_once_it_is_gone_everything_is(place) -> None:
    device = place.device
    reads = await parked(device)
    place.vanish("pulled out")
    async with asyncio.timeout(PATIENCE):
        assert await device.gone
    assert [(await ended(answer)).status for _, answer in reads] == [Status.GONE] * len(reads)
    late = [Transfer(e.address, 8, b"" if e.is_in else bytes(8)) for e in endpoints(device)]
    for transfer in [
        *late,
        Transfer(0x8F, 8),
        Transfer(0x0F, 1, b"x"),
        control(get_descriptor(1)),
        control(clear_halt(1)),
    ]:
        assert (await ended(device.submit(transfer))).status == Status.GONE
        device.cancel(transfer)
    assert await device.reset() is ResetOutcome.GONE


async def test_closing_ends_everything_once_and_is_not_leaving(place) -> None:
    device = place.device
    reads = await parked(device)
    await device.close()
    await device.close()
    await turn()
    assert all(status_of(answer) not in (None, Status.OK) for _, answer in reads)
    assert not device.gone.done()
    for transfer in (Transfer(0x81, 8), control(get_descriptor(1))):
        assert (await ended(device.submit(transfer))).status in (Status.GONE, Status.SHUTDOWN)
    assert await device.reset() is ResetOutcome.GONE
    device.cancel(Transfer(0x81, 8))


async def test_who_comes_next_finds_it_as_new(place) -> None:
    before = place.device.info.configuration
    await ask(place.device, set_configuration(0))
    await place.device.close()
    device = await place.again()
    assert device.info.configuration == before
    assert device.info.alternates == {}
    assert (await ask(device, Setup(0x80, 8, length=1))).data == bytes([before])


async def test_it_is_held_by_one(place) -> None:
    if place.way not in HERE:
        pytest.skip("an importer asks again for some seconds: tests of the server and of the importer have it")
    with pytest.raises(DeviceError):
        await place.source.open(place.name, ME)
