"""Faults on demand: what each does to the endpoint that it stands before, when it happens, and how it is written."""

import asyncio
import re

import pytest

from tests.devices.host import ask, opened, read, turn, write
from usbferry.backends.virtual import VirtualSource
from usbferry.device import Busy, Change, Claimant, NotFound
from usbferry.devices.clock import VirtualClock
from usbferry.devices.fault import Fault, Kind, parse
from usbferry.devices.virtual import VirtualDevice, data, done, endpoint, request
from usbferry.devices.zero import Zero
from usbferry.server.catalog import Catalog
from usbferry.usb.descriptors import DescriptorType, DeviceDescriptor, Interface
from usbferry.usb.setup import Setup, clear_halt, get_descriptor, set_configuration
from usbferry.usb.transfer import Completion, Flags
from usbferry.usb.types import Speed, Status

OK, STALL, GONE, OVERFLOW, CANCELLED, SHORT = (
    Status.OK,
    Status.STALL,
    Status.GONE,
    Status.OVERFLOW,
    Status.CANCELLED,
    Status.SHORT,
)
GET_STATUS = Setup(0x82, 0, 0, 0x81, 2)
LOCAL = Claimant("local")


class Source(VirtualDevice):
    """Ten bytes at once at 0x81, a sink at 0x01, at 0x82 what a test puts there, later at 0x83."""

    descriptor = DeviceDescriptor(0x1209, 0x0004)
    product = "Source"

    def __init__(self, **options):
        self.held = b""
        self.slow = []
        super().__init__(**options)

    def interfaces(self):
        bulk = [self.bulk(address) for address in (0x81, 0x01, 0x82, 0x83)]
        return (Interface(0, endpoints=(*bulk, self.isochronous(0x84, 64, 1))),)

    @endpoint(0x81)
    def give(self, transfer):
        return data(bytes(range(10)))

    @endpoint(0x01)
    def take(self, transfer):
        return done(transfer)

    @endpoint(0x82)
    def give_held(self, transfer):
        held, self.held = self.held, b""
        return data(held) if held else None

    @endpoint(0x83)
    def give_later(self, transfer):
        self.slow.append(asyncio.get_running_loop().create_future())
        return self.slow[-1]

    @request(0xC0, 5)
    def say(self, setup, data):
        return b"0123456789"


@pytest.fixture
async def clock():
    return VirtualClock()


@pytest.fixture
async def device(clock):
    async with opened(Source(clock=clock)) as device:
        yield device


def at_once(device, transfer) -> Completion:
    answer = device.submit(transfer)
    assert isinstance(answer, Completion), "it waits"
    return answer


def bytes_of(device, length=64, address=0x81) -> bytes:
    completion = at_once(device, read(address, length))
    assert completion.status == OK
    return bytes(completion.data)


# -- stall ------------------------------------------------------------------------------------------------------------


async def test_a_stalled_endpoint_is_halted_until_the_host_clears_it(device):
    device.faults.stall(0x81)
    assert at_once(device, read(0x81, 64)).status == STALL
    assert at_once(device, read(0x81, 64)).status == STALL
    assert bytes(ask(device, GET_STATUS).data) == b"\1\0"
    ask(device, clear_halt(0x81))
    assert bytes_of(device) == bytes(range(10))


async def test_an_out_endpoint_stalls_too(device):
    device.faults.stall(0x01)
    assert at_once(device, write(0x01, b"x")).status == STALL


async def test_a_stalled_control_request_is_refused_and_the_next_is_not(device):
    device.faults.stall(0)
    say = Setup(0xC0, 5, 0, 0, 10)
    assert [ask(device, say).status for _ in range(2)] == [STALL, OK]


async def test_one_request_alone_may_be_meant(device):
    device.faults.stall(0, request=5, after=1)
    say = Setup(0xC0, 5, 0, 0, 10)
    answers = [ask(device, s).status for s in (GET_STATUS, say, GET_STATUS, say, say)]
    assert answers == [OK, OK, OK, STALL, OK]


# -- when -------------------------------------------------------------------------------------------------------------


async def test_so_many_come_before(device):
    fault = device.faults.babble(0x81, after=3)
    assert [at_once(device, read(0x81, 9)).status for _ in range(5)] == [OK, OK, OK, OVERFLOW, OK]
    assert fault.happened == 1


async def test_it_happens_so_often_with_others_before_each(device):
    device.faults.babble(0x81, after=1, times=2)
    assert [at_once(device, read(0x81, 64)).status for _ in range(6)] == [OK, OVERFLOW, OK, OVERFLOW, OK, OK]


async def test_times_0_is_for_ever(device):
    device.faults.babble(0x81, times=0)
    assert {at_once(device, read(0x81, 64)).status for _ in range(100)} == {OVERFLOW}


async def test_it_waits_for_its_time(device, clock):
    device.faults.babble(0x81, wait=2.0)
    assert at_once(device, read(0x81, 64)).status == OK
    clock.advance(2)
    assert at_once(device, read(0x81, 64)).status == OVERFLOW


async def test_time_counts_from_the_claim(clock):
    device = Source(clock=clock)
    device.faults.babble(0x81, wait=1.0, times=0)
    for _ in range(2):
        clock.advance(10)
        async with opened(device):
            assert at_once(device, read(0x81, 64)).status == OK
            clock.advance(1)
            assert at_once(device, read(0x81, 64)).status == OVERFLOW


async def test_other_endpoints_go_on(device):
    device.faults.babble(0x82, times=0)
    device.faults.stall(0x01)
    assert bytes_of(device) == bytes(range(10))


async def test_two_faults_of_one_endpoint_take_turns(device):
    device.faults.babble(0x81, after=1)
    device.faults.short(0x81, after=2)
    answers = [at_once(device, read(0x81, 64)) for _ in range(4)]
    assert [(a.status, a.actual) for a in answers] == [(OK, 10), (OVERFLOW, 64), (OK, 5), (OK, 10)]


async def test_a_new_configuration_keeps_them(device):
    device.faults.babble(0x81, after=1)
    assert at_once(device, read(0x81, 64)).status == OK
    ask(device, set_configuration(1))
    assert at_once(device, read(0x81, 64)).status == OVERFLOW


async def test_clear_makes_it_behave(device):
    device.faults.babble(0x81, times=0)
    device.faults.late(0x82, seconds=float("inf"))
    device.held = b"held"
    waiting = device.submit(read(0x82, 64))
    device.faults.clear()
    assert bytes_of(device) == bytes(range(10))
    assert bytes((await waiting).data) == b"held"


# -- data -------------------------------------------------------------------------------------------------------------


async def test_short_is_half_or_what_was_asked_for(device):
    device.faults.short(0x81)
    device.faults.short(0x81, size=2)
    device.faults.short(0x81, size=20)
    assert [bytes_of(device) for _ in range(4)] == [
        bytes(range(5)),
        bytes(range(2)),
        bytes(range(10)),
        bytes(range(10)),
    ]


async def test_short_breaks_short_not_ok(device):
    device.faults.short(0x81)
    assert at_once(device, read(0x81, 10, Flags.SHORT_NOT_OK)).status == SHORT
    assert at_once(device, read(0x81, 10, Flags.SHORT_NOT_OK)).status == OK


async def test_a_wrong_length_is_cut_filled_or_too_long(device):
    device.faults.length(0x81, size=3)
    device.faults.length(0x81, size=12)
    device.faults.length(0x81, size=1 << 40)
    assert bytes_of(device) == bytes(range(3))
    assert bytes_of(device) == bytes(range(10)) + b"\0\0"
    completion = at_once(device, read(0x81, 11))
    assert (completion.status, bytes(completion.data)) == (OVERFLOW, bytes(range(10)) + b"\0")


async def test_a_descriptor_may_have_the_wrong_length(device):
    device.faults.length(0, request=6, size=9, after=1)
    whole = get_descriptor(DescriptorType.CONFIGURATION, length=255)
    assert [len(ask(device, whole).data) for _ in range(3)] == [53, 9, 53]


async def test_what_has_no_data_yet_is_asked_for_again(device):
    device.faults.short(0x82)
    waiting = device.submit(read(0x82, 64))
    await turn()
    assert not waiting.done()
    device.held = b"abcd"
    device.kick(0x82)
    assert bytes((await waiting).data) == b"ab"


async def test_an_answer_that_comes_later_is_changed_when_it_comes(device):
    device.faults.short(0x83)
    waiting = device.submit(read(0x83, 64))
    await turn()
    assert not waiting.done()
    device.slow[0].set_result(data(b"abcd"))
    assert bytes((await waiting).data) == b"ab"


async def test_a_failure_is_no_shorter(device):
    device.faults.short(0x83)
    waiting = device.submit(read(0x83, 64))
    device.slow[0].set_result(Completion(Status.FAILED))
    assert (await waiting).status == Status.FAILED


async def test_babble_gives_what_fits(device):
    device.faults.babble(0x81)
    completion = at_once(device, read(0x81, 64))
    assert (completion.status, completion.actual) == (OVERFLOW, 64)


async def test_control_data_may_be_short_but_only_that_which_comes(device):
    device.faults.short(0)
    assert ask(device, set_configuration(1)).status == OK
    assert bytes(ask(device, Setup(0xC0, 5, 0, 0, 10)).data) == b"01234"


# -- late -------------------------------------------------------------------------------------------------------------


async def test_a_late_answer_comes_when_its_time_does(device, clock):
    device.faults.late(0x81, seconds=3.0)
    waiting = device.submit(read(0x81, 64))
    clock.advance(2.9)
    await turn()
    assert not waiting.done()
    clock.advance(0.1)
    assert bytes((await waiting).data) == bytes(range(10))
    assert bytes_of(device) == bytes(range(10))


async def test_those_behind_a_late_one_wait_too(device, clock):
    device.faults.late(0x81, seconds=3.0)
    waiting = [device.submit(read(0x81, length)) for length in (8, 9)]
    await turn()
    assert not any(w.done() for w in waiting)
    clock.advance(3)
    await turn()
    assert [w.result().actual for w in waiting] == [10, 10]


async def test_a_late_one_may_be_cancelled_and_the_next_is_not_late(device, clock):
    device.faults.late(0x81, seconds=3.0)
    transfer = read(0x81, 64)
    waiting = device.submit(transfer)
    device.cancel(transfer)
    assert (await waiting).status == CANCELLED
    assert bytes_of(device) == bytes(range(10))
    clock.advance(10)


async def test_late_for_ever(device, clock):
    device.faults.late(0x01, seconds=float("inf"))
    waiting = device.submit(write(0x01, b"x"))
    clock.advance(1e6)
    await turn()
    assert not waiting.done()


async def test_a_late_control_request(device, clock):
    device.faults.late(0, seconds=1.0, request=5)
    waiting = ask(device, Setup(0xC0, 5, 0, 0, 10))
    clock.advance(1)
    assert bytes((await waiting).data) == b"0123456789"


async def test_a_late_set_configuration_holds_what_comes_behind_it(device, clock):
    device.faults.late(0, seconds=1.0, request=9)
    waiting = ask(device, set_configuration(1))
    behind = device.submit(read(0x81, 64))
    await turn()
    assert not behind.done()
    clock.advance(1)
    assert (await waiting).status == OK
    assert (await behind).actual == 10


async def test_a_late_one_ends_with_the_claim(clock):
    device = Source(clock=clock)
    device.faults.late(0x81, seconds=3.0, times=0)
    await device.open()
    waiting = device.submit(read(0x81, 64))
    await device.close()
    assert (await waiting).status == Status.SHUTDOWN
    async with opened(device):
        assert not device.submit(read(0x81, 64)).done()
        clock.advance(10)


# -- vanish -----------------------------------------------------------------------------------------------------------


async def test_it_vanishes_in_the_middle_of_a_transfer(device):
    parked = device.submit(read(0x82, 64))
    device.faults.vanish(0x81, after=1)
    assert at_once(device, read(0x81, 64)).status == OK
    assert at_once(device, read(0x81, 64)).status == GONE
    assert (await parked).status == GONE
    assert device.gone.done()


async def test_it_vanishes_with_transfers_in_flight(device):
    device.faults.vanish(0x82)
    first, second = (device.submit(read(0x83, 64)) for _ in range(2))
    assert at_once(device, read(0x82, 64)).status == GONE
    assert [(await one).status for one in (first, second)] == [GONE, GONE]


async def test_it_vanishes_after_so_many_transfers_of_any_endpoint(device):
    device.faults.vanish(after=2)
    ask(device, GET_STATUS)  # control does not count
    assert at_once(device, write(0x01, b"x")).status == OK
    assert at_once(device, read(0x81, 64)).status == OK
    assert at_once(device, read(0x81, 64)).status == GONE


async def test_it_vanishes_when_its_time_has_come(device, clock):
    device.faults.vanish(wait=5)
    clock.advance(4.9)
    assert not device.gone.done()
    clock.advance(0.1)
    assert device.gone.done()
    assert at_once(device, read(0x81, 64)).status == GONE


async def test_it_vanishes_at_a_control_request(device):
    device.faults.vanish(0, request=5)
    assert ask(device, Setup(0xC0, 5, 0, 0, 10)).status == GONE
    assert device.gone.done()


async def test_it_vanishes_from_each_claim(clock):
    device = Source(clock=clock)
    device.faults.vanish(wait=1, times=2, away=0)
    for vanishes in (True, True, False):
        async with opened(device):
            clock.advance(2)
            assert device.gone.done() is vanishes


# -- its source, and the catalog --------------------------------------------------------------------------------------


@pytest.fixture
async def catalog(clock):
    """A catalog that follows a source; `catalog.source` and `catalog.device` are those."""
    catalog = Catalog()
    device = Source(clock=clock)
    source = VirtualSource("virtual:source", device)
    await catalog.add(source)
    following = asyncio.get_running_loop().create_task(catalog.follow(source))
    await turn()
    catalog.source, catalog.device = source, device
    yield catalog
    following.cancel()
    await asyncio.wait([following])
    await catalog.close()


def names(catalog):
    return [(o.info.name, f"{o.info.device.vendor_id:04x}:{o.info.device.product_id:04x}") for o in catalog.list()]


async def test_who_vanished_is_offered_no_more(catalog, clock):
    offer, device = await catalog.claim("1-1", LOCAL)
    device.vanish()
    await turn()
    assert names(catalog) == []
    await catalog.release(offer)
    clock.advance(1e6)
    await turn()
    assert names(catalog) == []
    assert await catalog.source.list() == []
    with pytest.raises(NotFound):
        await catalog.claim("1-1", LOCAL)
    with pytest.raises(NotFound):
        await catalog.source.open("", LOCAL)


async def test_who_returns_has_its_old_name(catalog, clock):
    offer, device = await catalog.claim("1-1", LOCAL)
    device.vanish(away=1.0)
    await turn()
    assert names(catalog) == []
    await catalog.release(offer)
    clock.advance(1)
    await turn()
    assert names(catalog) == [("1-1", "1209:0004")]
    offer, device = await catalog.claim("1-1", LOCAL)
    assert bytes_of(device) == bytes(range(10))
    await catalog.release(offer)


async def test_who_returns_as_another_has_the_old_name_and_new_ids(catalog, clock):
    offer, device = await catalog.claim("1-1", LOCAL)
    before = ask(device, get_descriptor(DescriptorType.DEVICE, length=18)).data
    assert bytes(before[8:12]) == b"\x09\x12\x04\x00"
    device.faults.vanish(0x81, away=1.0, become=(0x1209, 0x0010))
    assert at_once(device, read(0x81, 64)).status == GONE
    await catalog.release(offer)
    clock.advance(1)
    await turn()
    assert names(catalog) == [("1-1", "1209:0010")]
    offer, device = await catalog.claim("1-1", LOCAL)
    descriptor = ask(device, get_descriptor(DescriptorType.DEVICE, length=18)).data
    assert bytes(descriptor[8:12]) == b"\x09\x12\x10\x00"
    await catalog.release(offer)


class Bootloader(VirtualDevice):
    """What a Source becomes. It notes when it comes into being, and when it ceases to be."""

    descriptor = DeviceDescriptor(0x1209, 0x0010, 0xFE)
    product = "Bootloader"
    speed = Speed.FULL

    def __init__(self, **options):
        self.life = []
        super().__init__(**options)

    def interfaces(self):
        return (Interface(0, 0, 0xFE, 0x01, 0x02),)

    async def plugged(self):
        self.life.append("plugged")

    async def unplugged(self):
        self.life.append("unplugged")


async def test_who_returns_as_another_device_is_that_device(catalog, clock):
    bootloader = Bootloader(clock=clock)
    offer, device = await catalog.claim("1-1", LOCAL)
    device.faults.vanish(0x81, away=1.0, become=bootloader)
    device.faults.stall(0, request=6, times=0)
    assert at_once(device, read(0x81, 64)).status == GONE
    await catalog.release(offer)
    assert bootloader.life == []
    clock.advance(1)
    await turn()
    assert names(catalog) == [("1-1", "1209:0010")]
    assert catalog.source.device is bootloader
    offer, held = await catalog.claim("1-1", LOCAL)
    assert held is bootloader
    assert bootloader.life == ["plugged"]
    assert offer.current().speed is Speed.FULL
    configuration = ask(held, get_descriptor(DescriptorType.CONFIGURATION, length=255)).data
    assert bytes(configuration[9:]) == b"\x09\x04\x00\x00\x00\xfe\x01\x02\x00"
    assert at_once(held, read(0x81, 64)).status == STALL  # an endpoint that it does not have
    await catalog.release(offer)


async def test_two_devices_may_become_each_other_again_and_again(catalog, clock):
    device, bootloader = catalog.device, Bootloader(clock=clock)
    for now, then in ((device, bootloader), (bootloader, device)) * 2:
        offer, held = await catalog.claim("1-1", LOCAL)
        assert held is now
        now.vanish(away=1.0, become=then)
        now.vanish(away=9.0)  # it has left: this is forgotten
        await catalog.release(offer)
        clock.advance(1)
        await turn()
        assert catalog.source.device is then
    assert bootloader.life == ["plugged", "unplugged"] * 2
    clock.advance(100)
    await turn()
    assert names(catalog) == [("1-1", "1209:0004")]


async def test_what_was_there_before_is_gone_when_the_other_one_comes_into_being(clock):
    """Both may want the same name in the file system, or the same port."""
    order = []

    class Slow(Bootloader):
        async def unplugged(self):
            await turn()
            order.append("the one is unplugged")

    class Other(Bootloader):
        async def plugged(self):
            order.append("the other is plugged")

    source = VirtualSource("virtual:slow", Slow(clock=clock))
    await source.list()
    source.device.vanish(away=1.0, become=Other(clock=clock))
    clock.advance(1)
    assert [info.device.product_id for info in await source.list()] == [0x0010]
    assert order == ["the one is unplugged", "the other is plugged"]
    await source.close()


async def test_one_that_cannot_be_unplugged_harms_nobody_else(clock, caplog):
    class Broken(Bootloader):
        async def unplugged(self):
            raise OSError("no")

    source = VirtualSource("virtual:broken", Broken(clock=clock))
    await source.list()
    source.device.vanish(away=0.0, become=Bootloader(clock=clock))
    clock.advance(1)
    assert len(await source.list()) == 1
    await source.close()
    assert "virtual:broken: what was here before could not be unplugged" in caplog.text


async def test_nobody_gets_it_before_the_claim_that_it_left_has_ended(catalog, clock):
    offer, device = await catalog.claim("1-1", LOCAL)
    device.vanish(away=0.5)
    clock.advance(1)
    await turn()
    assert names(catalog) == []
    with pytest.raises(NotFound):
        await catalog.claim("1-1", LOCAL)
    await catalog.release(offer)
    await turn()
    assert names(catalog) == [("1-1", "1209:0004")]


async def test_it_may_vanish_while_nobody_has_it(catalog, clock):
    catalog.device.vanish(away=1.0)
    await turn()
    assert names(catalog) == []
    clock.advance(1)
    await turn()
    assert names(catalog) == [("1-1", "1209:0004")]


async def test_it_vanishes_once_until_it_is_back(catalog, clock):
    offer, device = await catalog.claim("1-1", LOCAL)
    device.vanish(away=1.0)
    device.vanish(away=100.0)
    await catalog.release(offer)
    catalog.device.vanish(away=100.0)
    clock.advance(1)
    await turn()
    assert names(catalog) == [("1-1", "1209:0004")]


async def test_a_source_tells_each_of_its_watchers(clock):
    source = VirtualSource("virtual:source", Source(clock=clock))
    watchers = [source.watch() for _ in range(2)]
    waiting = [asyncio.get_running_loop().create_task(anext(w)) for w in watchers]
    await turn()
    source.device.vanish(away=1.0)
    assert [await w for w in waiting] == [Change("", None)] * 2
    clock.advance(1)
    assert await anext(watchers[0]) == Change("", source.device.info)
    for watcher in watchers:
        await watcher.aclose()
    source.device.vanish()
    await source.close()


async def test_a_source_that_closes_waits_for_nobody(clock):
    source = VirtualSource("virtual:source", Source(clock=clock))
    source.device.vanish(away=1.0)
    await source.close()
    clock.advance(1)
    assert await source.list() == []


async def test_a_held_device_is_busy(catalog):
    offer, _ = await catalog.claim("1-1", LOCAL)
    with pytest.raises(Busy):
        await catalog.source.open("", LOCAL)
    await catalog.release(offer)


# -- what makes sense -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask_for", "complaint"),
    [
        (lambda f: f.stall(0x85), "stall: there is no endpoint 0x85; there are: 0x01, 0x81, 0x82, 0x83, 0x84, and 0"),
        (lambda f: f.short(0x01), "short: endpoint 0x01 is an OUT endpoint"),
        (lambda f: f.babble(0x01), "babble: endpoint 0x01 is an OUT endpoint"),
        (lambda f: f.length(0x01, size=1), "length: endpoint 0x01 is an OUT endpoint"),
        (lambda f: f.stall(0x84), "stall: endpoint 0x84 is isochronous"),
        (lambda f: f.stall(0x81, request=5), "stall: a request is one of endpoint 0"),
        (lambda f: f.vanish(become=(1, 2)), "how long is it away"),
        (lambda f: f.vanish(away=1, become="virtual:zero"), "virtual:zero is an address; a program gives the device"),
        (lambda f: f.vanish(away=-1), "0 or more"),
        (lambda f: f.vanish(away=float("inf")), "0 or more"),
        (lambda f: f.late(0x81, seconds=float("nan")), "0 or more"),
        (lambda f: f.stall(0x81, after=-1), "0 or more"),
        (lambda f: f.add(Fault(Kind.STALL)), "stall needs an endpoint"),
    ],
)
async def test_what_makes_no_sense_is_refused(device, ask_for, complaint):
    with pytest.raises(ValueError, match=complaint):
        ask_for(device.faults)
    assert bytes_of(device) == bytes(range(10))


async def test_vanish_may_happen_at_an_isochronous_endpoint(device):
    device.faults.vanish(0x84)


# -- text -------------------------------------------------------------------------------------------------------------


def fields(fault):
    return (fault.kind, fault.endpoint, fault.after, fault.times, fault.wait)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("stall:0x81", Fault(Kind.STALL, 0x81)),
        ("stall:0x81:after=10:times=0", Fault(Kind.STALL, 0x81, 10, 0)),
        ("stall:0:request=0x5c", Fault(Kind.STALL, 0, request=0x5C)),
        ("short:129:size=3", Fault(Kind.SHORT, 0x81, size=3)),
        ("length:0x81:size=3", Fault(Kind.LENGTH, 0x81, size=3)),
        ("late:0x01:seconds=2.5:wait=1", Fault(Kind.LATE, 1, wait=1.0, seconds=2.5)),
        ("late:0x01:seconds=inf", Fault(Kind.LATE, 1, seconds=float("inf"))),
        ("babble:0x81", Fault(Kind.BABBLE, 0x81)),
        ("vanish", Fault(Kind.VANISH)),
        ("vanish:wait=5:away=1", Fault(Kind.VANISH, wait=5.0, away=1.0)),
        ("vanish:0x81:away=1:become=1209:0010:after=2", Fault(Kind.VANISH, 0x81, 2, away=1.0, become=(0x1209, 0x10))),
        ("vanish:away=1:become=virtual:zero", Fault(Kind.VANISH, away=1.0, become="virtual:zero")),
        (
            "vanish:away=1:become=virtual:zero?fault=vanish:away=2:become=1209:0010",
            Fault(Kind.VANISH, away=1.0, become="virtual:zero?fault=vanish:away=2:become=1209:0010"),
        ),
    ],
)
def test_text(text, fault):
    assert repr(parse(text)) == repr(fault)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is no fault; there are: stall, short, length, late, babble, vanish"),
        ("explode:0x81", "'explode' is no fault"),
        ("stall:x81", "^stall, endpoint: 'x81' is no number"),
        ("stall:0x81:10", "stall has no '10'; it has: after, times, wait, request"),
        ("stall:0x81:size=3", "stall has no 'size'"),
        ("stall:0x81:after=many", "^stall, after: 'many' is no number"),
        ("late:0x81", "late needs seconds="),
        ("length:0x81", "length needs size="),
        ("late:0x81:seconds=soon", "^late, seconds: 'soon' is no number of seconds"),
        ("vanish:away=1:become=1209", "^vanish, become: '1209:' is no VENDOR:PRODUCT"),
        ("vanish:away=1:become=1209:x", "'1209:x' is no VENDOR:PRODUCT"),
        ("vanish:away=1:become=12090:1", "four hexadecimal digits"),
    ],
)
def test_text_that_makes_no_sense(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse(text)


async def test_the_address_of_any_device_takes_faults():
    address = "virtual:zero?pattern=1&fault=stall:0x81:after=1&fault=short:0x82&speed=super+"
    device = VirtualSource(address).device
    assert isinstance(device, Zero)
    assert device.info.speed is Speed.SUPER_PLUS  # the plus is meant as it is
    async with opened(device):
        assert [at_once(device, read(0x81, 64)).status for _ in range(2)] == [OK, STALL]


async def test_an_address_may_name_what_the_device_becomes():
    source = VirtualSource("virtual:zero?pattern=1&fault=vanish:0x81:away=0:become=virtual:mouse?serial=9%26delay=2")
    changes = source.watch()
    offered = await source.open("", LOCAL)
    assert at_once(offered, read(0x81, 64)).status == GONE
    await offered.close()
    assert await anext(changes) == Change("", None)
    assert (await anext(changes)).info == source.device.info
    await changes.aclose()
    assert [(info.product, info.serial) for info in await source.list()] == [("Mouse", "9")]
    await source.close()


@pytest.mark.parametrize(
    ("become", "complaint"),
    [
        ("virtual:mous", "no virtual device 'mous'; did you mean mouse? There are: "),
        ("virtual:mouse?colour=red", "mouse has no option 'colour'"),
        ("virtual:zero?fault=stall", "zero: stall needs an endpoint"),
        ("virtual:", "no virtual device ''; there are"),
    ],
)
def test_what_a_device_cannot_become_is_told_at_once(become, complaint):
    with pytest.raises(ValueError, match=f"zero: .*{re.escape(complaint)}"):
        VirtualSource(f"virtual:zero?fault=vanish:away=0:become={become}")


def test_a_bad_fault_in_an_address_is_explained():
    with pytest.raises(ValueError, match="there is no endpoint 0x85; there are: 0x01, 0x02, 0x03"):
        VirtualSource("virtual:zero?fault=stall:0x85")
    with pytest.raises(ValueError, match="zero has no option 'faults'; it has: speed, pattern, serial, fault"):
        VirtualSource("virtual:zero?faults=stall:0x85")
