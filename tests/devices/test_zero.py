"""Gadget Zero: sources, sinks, loopback, vendor requests, at every speed."""

import pytest

from tests.devices.host import ask, isochronous, opened, read, turn, write
from usbferry.devices.clock import VirtualClock
from usbferry.devices.zero import Zero
from usbferry.usb.setup import Setup, clear_halt, set_configuration, set_interface
from usbferry.usb.transfer import Completion, Flags
from usbferry.usb.types import Speed, Status, TransferType

OK, STALL = Status.OK, Status.STALL
SPEEDS = [Speed.FULL, Speed.HIGH, Speed.SUPER]


def pattern(length, packet):
    """What usbtest expects with pattern=1."""
    return bytes((i % packet) % 63 for i in range(length))


def status(answer):
    if isinstance(answer, Completion):
        return answer.status
    return answer.result().status if answer.done() else None


@pytest.fixture
async def zero():
    async with opened(Zero(clock=VirtualClock())) as device:
        yield device


@pytest.fixture
async def periodic(zero):
    """In the alternate setting that has every type of endpoint."""
    ask(zero, set_interface(0, 1))
    return zero


@pytest.mark.parametrize("speed", SPEEDS)
def test_its_endpoints(speed):
    bulk, packet = {Speed.FULL: (64, 64), Speed.HIGH: (512, 512), Speed.SUPER: (1024, 1024)}[speed]
    first, second = Zero(speed=speed).info.configurations[0].interfaces
    assert {e.address: (e.type, e.packet_size) for e in first.endpoints} == dict.fromkeys(
        (0x81, 0x01, 0x82, 0x02), (TransferType.BULK, bulk)
    )
    assert {e.address: (e.type, e.packet_size) for e in second.endpoints[4:]} == {
        0x83: (TransferType.ISOCHRONOUS, 1023 if speed is Speed.FULL else 1024),
        0x84: (TransferType.INTERRUPT, packet),
        0x03: (TransferType.ISOCHRONOUS, 1023 if speed is Speed.FULL else 1024),
        0x04: (TransferType.INTERRUPT, packet),
    }


def test_an_unknown_pattern_is_refused():
    with pytest.raises(ValueError, match="pattern 2"):
        Zero(pattern=2)


# -- sources and sinks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 511, 512, 513, 65536, 65537, 1 << 20])
async def test_the_source_gives_zeros_of_any_length(zero, length):
    answer = zero.submit(read(0x81, length))
    assert (answer.status, answer.actual, bytes(answer.data)) == (OK, length, bytes(length))


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 4096, 70001])
async def test_the_source_gives_the_pattern(speed, length):
    async with opened(Zero(pattern=1, speed=speed)) as zero:
        packet = {Speed.FULL: 64, Speed.HIGH: 512, Speed.SUPER: 1024}[speed]
        assert zero.submit(read(0x81, length)).data == pattern(length, packet)


async def test_the_sink_takes_anything(zero):
    for payload in (b"", b"x", bytes(70000)):
        answer = zero.submit(write(0x01, payload))
        assert (answer.status, answer.actual) == (OK, len(payload))


async def test_a_sink_that_expects_the_pattern_halts_at_anything_else():
    async with opened(Zero(pattern=1)) as zero:
        good = pattern(2048, 512)
        assert zero.submit(write(0x01, good)).status == OK
        bad = bytearray(good)
        bad[2047] ^= 1
        assert zero.submit(write(0x01, bytes(bad))).status == STALL
        assert zero.submit(write(0x01, good)).status == STALL, "halted"
        ask(zero, clear_halt(0x01))
        assert zero.submit(write(0x01, good)).status == OK


# -- loopback -------------------------------------------------------------------------------------------------------


async def test_what_was_sent_comes_back_cut_where_it_was_sent(zero):
    for payload in (b"one", b"two" * 300, b""):
        assert zero.submit(write(0x02, payload)).status == OK
    assert [bytes(zero.submit(read(0x82, 4096)).data) for _ in range(3)] == [b"one", b"two" * 300, b""]
    assert status(zero.submit(read(0x82, 4096))) is None, "nothing left: it waits"


async def test_a_reader_that_waits_is_answered(zero):
    waiting = zero.submit(read(0x82, 512))
    zero.submit(write(0x02, b"hello"))
    assert waiting.result().data == b"hello"


async def test_a_short_buffer_gets_a_part_and_the_next_the_rest(zero):
    zero.submit(write(0x02, b"abcdefgh"))
    assert [bytes(zero.submit(read(0x82, length)).data) for length in (3, 0, 4, 4)] == [b"abc", b"", b"defg", b"h"]


@pytest.mark.parametrize(
    ("length", "flags", "zlp"), [(1024, Flags.ZERO_PACKET, True), (1000, Flags.ZERO_PACKET, False), (1024, 0, False)]
)
async def test_a_zero_length_packet_comes_back(zero, length, flags, zlp):
    zero.submit(write(0x02, bytes(length), flags))
    assert zero.submit(read(0x82, 2048)).actual == length
    assert status(zero.submit(read(0x82, 2048))) == (OK if zlp else None)


async def test_it_holds_a_bounded_number_of_bytes(zero):
    answers = [zero.submit(write(0x02, bytes(1 << 16))) for _ in range(20)]
    assert [status(answer) for answer in answers] == [OK] * 16 + [None] * 4
    zero.submit(read(0x82, 1 << 16))
    assert [status(answer) for answer in answers] == [OK] * 17 + [None] * 3


async def test_it_holds_a_bounded_number_of_transfers(zero):
    """Empty ones have no bytes to count: a host that only sent them once filled the memory."""
    answers = [zero.submit(write(0x02, b"")) for _ in range(5000)]
    assert sum(status(answer) == OK for answer in answers) == 4096
    zero.submit(read(0x82, 0))
    assert sum(status(answer) == OK for answer in answers) == 4097


async def test_one_transfer_larger_than_the_bound_goes_round(zero):
    big = bytes(range(256)) * 8192
    assert status(zero.submit(write(0x02, big))) == OK
    assert status(zero.submit(write(0x02, b"next"))) is None
    assert b"".join(bytes(zero.submit(read(0x82, 1 << 19)).data) for _ in range(4)) == big
    await turn()
    assert zero.submit(read(0x82, 8)).data == b"next"


@pytest.mark.parametrize("forget", [set_configuration(1), set_interface(0, 1), None])
async def test_new_settings_and_resets_empty_it(zero, forget):
    zero.submit(write(0x02, b"old"))
    ask(zero, forget) if forget is not None else await zero.reset()
    waiting = zero.submit(read(0x82, 8))
    zero.submit(write(0x02, b"new"))
    assert waiting.result().data == b"new"


# -- periodic endpoints -------------------------------------------------------------------------------------------


async def test_interrupt_source_and_sink_are_paced(periodic):
    reads = [periodic.submit(read(0x84, 512)) for _ in range(5)]
    writes = [periodic.submit(write(0x04, bytes(512))) for _ in range(5)]
    for microframe in range(5):
        assert sum(status(answer) == OK for answer in reads) == microframe + 1
        assert sum(status(answer) == OK for answer in writes) == microframe + 1
        periodic.clock.advance(126e-6)


async def test_an_isochronous_read_takes_its_time_and_is_compact(periodic):
    transfer = isochronous(0x83, [100, 0, 2000, 1024])
    answer = periodic.submit(transfer)
    periodic.clock.advance(499e-6)
    assert status(answer) is None
    periodic.clock.advance(2e-6)
    done = answer.result()
    assert [(p.actual, p.status) for p in done.packets] == [(100, OK), (0, OK), (1024, OK), (1024, OK)]
    assert (done.actual, len(done.data)) == (2148, 2148)


async def test_each_isochronous_packet_begins_the_pattern():
    clock = VirtualClock()
    async with opened(Zero(pattern=1, clock=clock)) as zero:
        ask(zero, set_interface(0, 1))
        answer = zero.submit(isochronous(0x83, [100, 1024, 70]))
        clock.advance(1)
        expected = pattern(100, 1024) + pattern(1024, 1024) + pattern(70, 1024)
        assert answer.result().data == expected


async def test_an_isochronous_write_is_taken_whole(periodic):
    answer = periodic.submit(isochronous(0x03, [192] * 8))
    periodic.clock.advance(0.0011)
    done = answer.result()
    assert (done.actual, [p.actual for p in done.packets], done.error_count) == (1536, [192] * 8, 0)


async def test_periodic_endpoints_belong_to_the_alternate_setting(zero):
    assert [status(zero.submit(t)) for t in (read(0x84, 8), write(0x04, b"x"), isochronous(0x83, [8]))] == [STALL] * 3


# -- vendor requests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 64, 4096, 65535])
async def test_5b_keeps_and_5c_gives(zero, length):
    payload = bytes(i % 251 for i in range(length))
    assert ask(zero, Setup(0x40, 0x5B, length=length), payload).status == OK
    assert ask(zero, Setup(0xC0, 0x5C, length=length)).data == payload


async def test_vendor_requests_have_no_value_and_no_index(zero):
    setups = [Setup(0x40, 0x5B, 1), Setup(0x40, 0x5B, 0, 1), Setup(0xC0, 0x5C, 1, 0, 8), Setup(0xC0, 0x5C, 0, 1, 8)]
    assert [ask(zero, setup).status for setup in [*setups, Setup(0xC0, 0x5D, length=8)]] == [STALL] * 5


async def test_a_reset_forgets_the_vendor_data(zero):
    ask(zero, Setup(0x40, 0x5B, length=4), b"data")
    await zero.reset()
    assert ask(zero, Setup(0xC0, 0x5C, length=4)).data == b""
