"""The using side of usbredir against exporters good, odd and hostile. The bytes are made by hand, see `wire`."""

from __future__ import annotations

import struct

import pytest

from tests.protocols.usbredir.wire import (
    ACK,
    ALL,
    CANCELLED,
    FILTER,
    FIRST_INTERFACES,
    INFO,
    INVAL,
    LONG_BULK,
    RECEIVING,
    SETTINGS,
    STALL,
    STREAMS,
    SUCCESS,
    buffered,
    bulk,
    connect,
    control,
    endpoints,
    hello,
    interfaces,
    interrupt,
    iso,
    packet,
)
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.events import Claimed, Completed, Left, Listed, Refusal, Refused
from usbferry.protocols.usbredir import filter as filters
from usbferry.protocols.usbredir.exporter import Exporter
from usbferry.protocols.usbredir.importer import Importer
from usbferry.protocols.usbredir.messages import Capability, Dialect
from usbferry.usb import setup as requests
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion, IsoPacket, Transfer
from usbferry.usb.types import Speed, Status

OK = Status.OK


class Talk:
    """An importer between its user and an exporter, both played by the test."""

    def __init__(self, **options: object) -> None:
        self.importer = Importer(**options)  # type: ignore[arg-type]
        self._held = b""
        self.events: list[object] = []

    def says(self, *messages: bytes, step: int = 0) -> Talk:
        """The exporter sends."""
        data = b"".join(messages)
        size = step or len(data) or 1
        for at in range(0, len(data) or 1, size):
            buffer = bytearray(self._held + data[at : at + size])
            self.importer.receive(memoryview(buffer), 0.0)
            self.events += self.importer.events()
            self._held = bytes(buffer[self.importer.consumed :])
            buffer[:] = b"\xee" * len(buffer)
        return self

    def hears(self, *messages: bytes) -> Talk:
        """What the exporter gets since, every byte."""
        heard, self.importer.outgoing = b"".join(self.importer.outgoing), []
        assert len(heard) == self.importer.outgoing_bytes
        self.importer.outgoing_bytes = 0
        if messages:
            assert heard == b"".join(messages)
        return self

    def ends(self, **expected: object) -> dict[int, tuple[Status, bytes, int]]:
        """The transfers that ended since, by tag."""
        self.says()
        events, self.events = self.events, []
        assert all(isinstance(event, Completed) for event in events), events
        return {e.tag: (Status(e.status), bytes(e.data), e.actual) for e in events}

    def event(self) -> object:
        self.says()
        [event] = self.events
        self.events = []
        return event


def using(caps: int = ALL, **options: object) -> Talk:
    """A connection whose device is claimed. The question about the configuration had the id 1."""
    talk = Talk(**options)
    talk.says(hello((caps,)), SETTINGS, connect())
    talk.importer.claim("")
    talk.hears()
    talk.says(packet(8, 1, b"\0\1"))
    claimed = talk.event()
    assert isinstance(claimed, Claimed)
    assert claimed.info.configuration == 1
    return talk


def setup(text: str) -> bytes:
    return bytes.fromhex(text)


# -- finding the device -----------------------------------------------------------------------------------------------


def test_our_hello_comes_first_and_nothing_before_the_peers():
    talk = Talk()
    talk.hears(hello(version=b"usbferry usb-guest"))
    talk.importer.claim("")
    assert not talk.importer.outgoing


@pytest.mark.parametrize("step", [0, 1, 7])
def test_a_claim_waits_for_the_device_and_asks_for_its_configuration(step):
    talk = Talk()
    talk.importer.claim("whatever")
    talk.hears().says(hello(), SETTINGS, connect(), step=step).hears(packet(7, 1))
    claimed = talk.says(packet(8, 1, b"\0\2"), step=step).event()
    assert isinstance(claimed, Claimed)
    info = claimed.info
    assert (info.name, info.speed, info.configuration) == ("1209:0001", Speed.HIGH, 2)
    assert info.device.release == 0x0512
    assert info.classes == tuple(one[1:] for one in FIRST_INTERFACES)


def test_infos_come_in_either_order():
    talk = Talk()
    talk.importer.list_devices()
    talk.says(hello(), SETTINGS[148:], SETTINGS[:148], connect())
    listed = talk.event()
    assert isinstance(listed, Listed)
    assert listed.devices[0].device.vendor_id == INFO.device.vendor_id


def test_a_second_connect_is_none():
    talk = using()
    talk.says(connect()).hears()
    assert not talk.events


def test_a_device_that_our_filter_denies_is_rejected():
    talk = Talk(rules=filters.parse("3,-1,-1,-1,1"))
    talk.importer.claim("")
    talk.hears().says(hello(), SETTINGS, connect())
    talk.hears(packet(23, 0, b"0x03,-1,-1,-1,1\0"), packet(22, 0))
    refused = talk.event()
    assert isinstance(refused, Refused)
    assert refused.text == "1209:0001 is not wanted: the filter given here does not admit it"


def test_who_knows_no_filter_is_sent_none():
    talk = Talk(rules=filters.parse("3,-1,-1,-1,1"))
    talk.hears().says(hello((ALL & ~FILTER,)), SETTINGS, connect())
    assert not talk.importer.outgoing


# -- requests with packets of their own -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "sent", "answer", "end"),
    [
        ("00 09 02 00 00 00 00 00", packet(6, 2, b"\2"), packet(8, 2, b"\0\2"), (OK, b"", 0)),
        ("00 09 09 00 00 00 00 00", packet(6, 2, b"\t"), packet(8, 2, b"\3\1"), (Status.PROTOCOL, b"", 0)),
        ("80 08 00 00 00 00 01 00", packet(7, 2), packet(8, 2, b"\0\2"), (OK, b"\2", 1)),
        ("01 0b 01 00 00 00 00 00", packet(9, 2, b"\0\1"), packet(11, 2, b"\0\0\1"), (OK, b"", 0)),
        ("01 0b 01 00 05 00 00 00", packet(9, 2, b"\5\1"), packet(11, 2, b"\2\5\xff"), (Status.INVALID, b"", 0)),
        ("81 0a 00 00 00 00 01 00", packet(10, 2, b"\0"), packet(11, 2, b"\0\0\1"), (OK, b"\1", 1)),
    ],
)
def test_settings_have_packets_of_their_own(request_, sent, answer, end):
    talk = using()
    raw = setup(request_)
    is_in = bool(raw[0] & 0x80)
    tag = talk.importer.submit(Transfer(0x80 if is_in else 0, raw[6], b"", raw))
    talk.hears(sent).says(answer)
    assert talk.ends() == {tag: end}


def test_set_address_is_never_sent():
    talk = using()
    tag = talk.importer.submit(Transfer(0, 0, b"", setup("0005070000000000")))
    assert talk.ends() == {tag: (OK, b"", 0)}
    assert not talk.importer.outgoing


def test_a_port_reset_is_a_reset_packet_without_answer():
    talk = using()
    raw = Setup(*requests.SET_PORT_FEATURE, requests.PORT_RESET).pack()
    tag = talk.importer.submit(Transfer(0, 0, b"", raw))
    talk.hears(packet(3, 2))
    assert talk.ends() == {tag: (OK, b"", 0)}


def test_control_both_ways():
    talk = using()
    one = talk.importer.submit(Transfer(0x80, 18, b"", setup("8006000100001200")))
    two = talk.importer.submit(Transfer(0, 3, b"abc", setup("4001020304050300")))
    three = talk.importer.submit(Transfer(0, 0, b"", setup("c001020304050000")))
    talk.hears(
        control(2, "80 06 00 01 00 00 12 00"),
        control(3, "40 01 02 03 04 05 03 00", b"abc"),
        control(4, "c0 01 02 03 04 05 00 00", length=0),
    )
    talk.says(
        control(2, "80 06 00 01 00 00 12 00", b"desc"),
        control(3, "40 01 02 03 04 05 03 00", length=3),
        control(4, "c0 01 02 03 04 05 00 00", length=0, status=STALL),
    )
    assert talk.ends() == {one: (OK, b"desc", 4), two: (OK, b"", 3), three: (Status.STALL, b"", 0)}


# -- bulk and interrupt OUT, cancel -----------------------------------------------------------------------------------


def test_bulk_both_ways():
    talk = using()
    one = talk.importer.submit(Transfer(0x81, 70_000, stream_id=3))
    two = talk.importer.submit(Transfer(0x02, 4, b"data"))
    talk.hears(bulk(2, 0x81, 70_000, stream=3), bulk(3, 0x02, data=b"data"))
    talk.says(bulk(3, 0x02, 2, status=STALL), bulk(2, 0x81, data=b"short", stream=3))
    assert talk.ends() == {one: (OK, b"short", 5), two: (Status.STALL, b"", 2)}


def test_without_long_lengths_larger_transfers_are_refused_here():
    talk = using(ALL & ~LONG_BULK)
    assert talk.importer.largest == 64512
    with pytest.raises(ValueError, match="70000 bytes in one transfer, to a peer that takes 65535"):
        talk.importer.submit(Transfer(0x81, 70_000))
    assert not talk.importer.outgoing
    assert using().importer.largest >= 1 << 20


def test_a_payload_of_another_length_is_a_mistake():
    with pytest.raises(ValueError, match="3 bytes of payload in a transfer of 4"):
        using().importer.submit(Transfer(0x02, 4, b"abc"))
    with pytest.raises(ValueError, match="a transfer of -1 bytes"):
        using().importer.submit(Transfer(0x81, -1))


def test_interrupt_out_goes_in_packets_of_the_endpoints_size():
    """The reference host refuses longer ones."""
    talk = using()
    tag = talk.importer.submit(Transfer(0x04, 20, bytes(range(20)), interval=4))
    payload = bytes(range(20))
    talk.hears(interrupt(2, 4, payload[:8]), interrupt(3, 4, payload[8:16]), interrupt(4, 4, payload[16:]))
    talk.says(interrupt(2, 4, length=8), interrupt(3, 4, length=8))
    assert talk.ends() == {}
    talk.says(interrupt(4, 4, length=4))
    assert talk.ends() == {tag: (OK, b"", 20)}


def test_a_cancel_asks_once_and_the_answer_counts():
    talk = using()
    one, two = talk.importer.submit(Transfer(0x81, 8)), talk.importer.submit(Transfer(0x81, 8))
    talk.hears()
    for tag in (one, one, two, 99):
        talk.importer.cancel(tag)
    talk.hears(packet(21, 2), packet(21, 3))
    talk.says(bulk(2, 0x81, 0, status=CANCELLED), bulk(3, 0x81, data=b"done"))
    assert talk.ends() == {one: (Status.CANCELLED, b"", 0), two: (OK, b"done", 4)}


def test_a_cancel_that_nobody_asked_for_is_an_endpoint_taken_away():
    talk = using()
    tag = talk.importer.submit(Transfer(0x81, 8))
    talk.says(bulk(2, 0x81, 0, status=CANCELLED))
    assert talk.ends() == {tag: (Status.SHUTDOWN, b"", 0)}


@pytest.mark.parametrize("raw", [bulk(77, 0x81, data=b"late"), control(2, "80 06 00 01 00 00 12 00", b"x")])
def test_answers_to_nothing_say_nothing(raw):
    talk = using()
    tag = talk.importer.submit(Transfer(0x81, 8))
    talk.says(raw)
    assert talk.ends() == {}
    talk.says(bulk(2, 0x81, data=b"data"))
    assert talk.ends() == {tag: (OK, b"data", 4)}


@pytest.mark.parametrize(
    ("what", "raw"),
    [
        ("more than was asked for", bulk(2, 0x81, data=bytes(9))),
        ("another endpoint", bulk(2, 0x82, data=b"x")),
        ("OUT with data", bulk(2, 0x02, 1, b"x")),
        ("IN without", bulk(2, 0x81, 1)),
        ("a guest's packet", packet(3, 0)),
        ("no packet", packet(28, 0)),
        ("33 interfaces", packet(4, 0, struct.pack("<I", 33) + bytes(128))),
        ("half an ep_info", packet(5, 0, bytes(160))),
        ("16 MiB nobody asked for", struct.pack("<IIQIIBB", 104, (17 << 20) + 10, 0, 0, 17 << 20, 0x81, 0)),
    ],
)
def test_a_breach_ends_the_connection(what, raw):
    talk = using()
    talk.importer.submit(Transfer(0x81, 8))
    with pytest.raises(ProtocolError):
        talk.says(raw)


def test_a_packet_that_is_announced_and_not_sent_costs_nothing():
    talk = using()
    talk.importer.submit(Transfer(0x81, 8))
    with pytest.raises(ProtocolError, match="134217728 bytes in the answer to #2, a transfer of 8"):
        talk.says(struct.pack("<IIQBBHIH", 101, (128 << 20) + 10, 2, 0x81, 0, 0, 0, 0x800))


# -- interrupt IN -----------------------------------------------------------------------------------------------------


def status(kind: int, number: int, endpoint: int) -> bytes:
    return packet(kind, 0, bytes([number, endpoint]))


def test_interrupt_in_starts_a_stream_whose_packets_are_joined():
    talk = using()
    one = talk.importer.submit(Transfer(0x83, 20, interval=4))
    two = talk.importer.submit(Transfer(0x83, 16, interval=4))
    talk.hears(packet(15, 0, b"\x83"))
    talk.says(status(17, SUCCESS, 0x83), interrupt(0, 0x83, b"12345678"), interrupt(1, 0x83, b"short"))
    assert talk.ends() == {one: (OK, b"12345678short", 13)}
    talk.says(interrupt(2, 0x83, b"abcdefgh"), interrupt(3, 0x83, b"ijklmnop"), interrupt(4, 0x83, b"!"))
    assert talk.ends() == {two: (OK, b"abcdefghijklmnop", 16)}
    three = talk.importer.submit(Transfer(0x83, 8, interval=4))
    assert talk.ends() == {three: (OK, b"!", 1)}


def test_a_streams_numbers_are_not_those_of_what_we_sent():
    """They are the exporter's own: one that is in flight the other way, and shorter, was taken for what is answered."""
    talk = using()
    read = talk.importer.submit(Transfer(0x83, 8, interval=4))
    written = talk.importer.submit(Transfer(0x04, 3, b"abc", interval=4))
    talk.says(status(17, SUCCESS, 0x83), interrupt(written, 0x83, b"12345678"), interrupt(written, 4, length=3))
    assert talk.ends() == {read: (OK, b"12345678", 8), written: (OK, b"", 3)}


def test_interrupt_packets_that_nobody_reads_are_bounded():
    talk = using()
    talk.importer.submit(Transfer(0x83, 8, interval=4))
    talk.says(status(17, SUCCESS, 0x83), *(interrupt(n, 0x83, b"x") for n in range(1500)))
    assert talk.importer.dropped == 1500 - 1001


def test_a_stalled_stream_ends_what_waits_and_is_started_again():
    talk = using()
    one = talk.importer.submit(Transfer(0x83, 8, interval=4))
    talk.hears().says(status(17, SUCCESS, 0x83), status(17, STALL, 0x83))
    assert talk.ends() == {one: (Status.STALL, b"", 0)}
    talk.importer.submit(Transfer(0x83, 8, interval=4))
    talk.hears(packet(15, 0, b"\x83"))


def test_a_stream_that_may_not_start():
    talk = using()
    one = talk.importer.submit(Transfer(0x83, 8, interval=4))
    talk.says(status(17, INVAL, 0x83))
    assert talk.ends() == {one: (Status.INVALID, b"", 0)}


def test_a_cancelled_read_is_over_at_once_with_what_it_has():
    talk = using()
    one, two = (talk.importer.submit(Transfer(0x83, 20, interval=4)) for _ in range(2))
    talk.says(status(17, SUCCESS, 0x83), interrupt(0, 0x83, b"12345678"))
    talk.importer.cancel(two)
    talk.importer.cancel(one)
    assert talk.ends() == {two: (Status.CANCELLED, b"", 0), one: (Status.CANCELLED, b"12345678", 8)}


def test_streams_stop_before_what_takes_their_endpoints():
    """And what still comes of them is not taken for news."""
    talk = using()
    one = talk.importer.submit(Transfer(0x83, 8, interval=4))
    talk.hears().says(status(17, SUCCESS, 0x83))
    talk.importer.submit(Transfer(0, 0, b"", setup("0009010000000000")))
    talk.hears(packet(16, 0, b"\x83"), packet(6, 3, b"\1"))
    assert talk.ends() == {one: (Status.SHUTDOWN, b"", 0)}
    again = talk.importer.submit(Transfer(0x83, 8, interval=4))
    talk.hears(packet(15, 0, b"\x83"))
    talk.says(interrupt(5, 0x83, b"old"), status(17, STALL, 0x83), status(17, SUCCESS, 0x83), packet(8, 3, b"\0\1"))
    assert talk.ends() == {3: (OK, b"", 0)}
    talk.says(status(17, SUCCESS, 0x83), interrupt(0, 0x83, b"new"))
    assert talk.ends() == {again: (OK, b"new", 3)}


def test_an_alternate_setting_stops_the_streams_of_its_interface_alone():
    talk = using()
    talk.importer.submit(Transfer(0x83, 8, interval=4))
    talk.hears()
    talk.importer.submit(Transfer(0, 0, b"", setup("010b000001000000")))
    talk.hears(packet(9, 3, b"\1\0"))


# -- isochronous ------------------------------------------------------------------------------------------------------


def iso_transfer(endpoint: int, count: int, data: bytes = b"") -> Transfer:
    size = len(data) // count if data else 100
    return Transfer(endpoint, count * size, data, packets=[IsoPacket(n * size, size) for n in range(count)], interval=8)


def test_iso_in_gathers_and_then_keeps_its_pace():
    """1 ms packets at high speed: 60 of them are the buffer, 10 make a transfer of the exporter's, 6 of those."""
    talk = using()
    one, two = (talk.importer.submit(iso_transfer(0x85, 4)) for _ in range(2))
    talk.hears(packet(12, 0, b"\x85\x0a\x06"))
    talk.says(status(14, SUCCESS, 0x85), *(iso(n, 0x85, bytes([n])) for n in range(59)))
    assert talk.importer.deadline() is None
    talk.says(iso(59, 0x85, b"!", status=0))
    assert talk.importer.deadline() == 0.0
    talk.importer.tick(10.0)
    assert talk.ends() == {one: (OK, b"\0\1\2\3", 4)}
    assert talk.importer.deadline() == pytest.approx(10.004)
    talk.importer.tick(10.0039)
    assert talk.ends() == {}
    talk.importer.tick(10.0041)
    assert talk.ends() == {two: (OK, b"\4\5\6\7", 4)}


def test_the_buffer_can_be_tuned():
    talk = using(iso_seconds=0.01)
    talk.importer.submit(iso_transfer(0x85, 1))
    talk.hears(packet(12, 0, b"\x85\x0a\x01"))
    talk.says(status(14, SUCCESS, 0x85), *(iso(n, 0x85, b"x") for n in range(10)))
    assert talk.importer.deadline() == 0.0


def test_iso_in_that_overflows_is_dropped_to_its_target():
    talk = using()
    talk.importer.submit(iso_transfer(0x85, 4))
    talk.says(status(14, SUCCESS, 0x85), *(iso(n, 0x85, bytes([n])) for n in range(125)))
    assert talk.importer.dropped == 65
    talk.importer.tick(1.0)
    assert list(talk.ends().values()) == [(OK, bytes([65, 66, 67, 68]), 4)]


def test_iso_in_that_runs_dry_gathers_again():
    talk = using(iso_seconds=0.004)
    one, two = (talk.importer.submit(iso_transfer(0x85, 4)) for _ in range(2))
    talk.says(status(14, SUCCESS, 0x85), *(iso(n, 0x85, bytes([n])) for n in range(5)))
    talk.importer.tick(1.0)
    assert one in talk.ends()
    talk.importer.tick(1.01)
    assert talk.ends() == {}
    assert talk.importer.deadline() is None
    talk.says(*(iso(n, 0x85, bytes([n])) for n in range(5, 8)))
    talk.importer.tick(1.02)
    assert talk.ends() == {two: (OK, b"\4\5\6\7", 4)}


def test_iso_out_is_sent_at_once_and_ends_in_its_time():
    talk = using()
    one = talk.importer.submit(iso_transfer(0x06, 2, b"aabb"))
    two = talk.importer.submit(iso_transfer(0x06, 1, b"cc"))
    talk.hears(packet(12, 0, b"\x06\x0a\x0c"), iso(0, 6, b"aa"), iso(1, 6, b"bb"), iso(2, 6, b"cc"))
    assert talk.importer.deadline() == 0.0
    talk.importer.tick(5.0)
    assert talk.ends() == {}
    assert talk.importer.deadline() == pytest.approx(5.002)
    talk.importer.tick(5.0021)
    assert talk.ends() == {one: (OK, b"", 4)}
    assert talk.importer.deadline() == pytest.approx(5.003)
    talk.importer.tick(5.0031)
    assert talk.ends() == {two: (OK, b"", 2)}


def test_iso_out_that_fails_says_so_in_the_next_packets():
    talk = using()
    one = talk.importer.submit(iso_transfer(0x06, 1, b"aa"))
    talk.says(status(14, SUCCESS, 6), packet(14, 0, b"\3\6"))
    talk.importer.tick(5.0)
    talk.importer.tick(5.1)
    assert talk.ends() == {one: (OK, b"", 0)}
    two = talk.importer.submit(iso_transfer(0x06, 1, b"aa"))
    talk.says(status(14, STALL, 6))
    assert talk.ends() == {two: (Status.STALL, b"", 0)}
    talk.hears()
    talk.importer.submit(iso_transfer(0x06, 1, b"aa"))
    talk.hears(packet(12, 0, b"\x06\x0a\x0c"), iso(0, 6, b"aa"))


def test_a_cancel_of_iso_out_tells_that_it_was_sent():
    talk = using()
    one = talk.importer.submit(iso_transfer(0x06, 1, b"aa"))
    talk.importer.cancel(one)
    assert talk.ends() == {one: (OK, b"", 2)}


def test_a_cancel_of_iso_in_is_over_at_once():
    talk = using()
    one = talk.importer.submit(iso_transfer(0x85, 1))
    talk.importer.cancel(one)
    assert talk.ends() == {one: (Status.CANCELLED, b"", 0)}


def test_iso_on_an_endpoint_that_is_none():
    talk = using()
    one = talk.importer.submit(iso_transfer(0x81, 1))
    assert talk.ends() == {one: (Status.INVALID, b"", 0)}


# -- buffered bulk -----------------------------------------------------------------------------------------------------


def ahead(**options: object) -> Talk:
    """A connection whose bulk IN endpoint is read ahead, and a first read of 100 bytes."""
    talk = using(ahead=frozenset((0x81,)), **options)
    assert talk.importer.submit(Transfer(0x81, 100)) == 2
    talk.hears(packet(25, 0, struct.pack("<IIBB", 0, 512, 0x81, 5)))
    talk.says(packet(27, 0, struct.pack("<IBB", 0, 0x81, SUCCESS)))
    return talk


def receiving(number: int) -> bytes:
    return packet(27, 0, struct.pack("<IBB", 0, 0x81, number))


HALT = packet(26, 0, struct.pack("<IB", 0, 0x81))


def test_what_is_read_ahead_is_a_stream_of_bytes():
    """A packet goes to as many transfers as it fills, and one that is not full ends the transfer."""
    talk = ahead()
    talk.says(buffered(0, 0x81, bytes(range(256)) * 2), buffered(1, 0x81, b""), buffered(2, 0x81, b"end"))
    assert talk.ends() == {2: (OK, bytes(range(100)), 100)}
    rest, nothing, end = (talk.importer.submit(Transfer(0x81, 600)) for _ in range(3))
    assert talk.ends() == {
        rest: (OK, (bytes(range(256)) * 2)[100:], 412),
        nothing: (OK, b"end", 3),
    }
    talk.hears(b"").says(buffered(3, 0x81, b"", status=STALL))
    assert talk.ends() == {end: (Status.STALL, b"", 0)}


def test_a_packet_that_fills_a_transfer_leaves_the_rest_to_the_next():
    talk = ahead()
    for number in range(3):
        talk.says(buffered(number, 0x81, bytes([number]) * 150))
    reads = [2, *(talk.importer.submit(Transfer(0x81, 100)) for _ in range(5))]
    ends = talk.ends()
    assert [ends[tag][1] for tag in reads] == [bytes([n]) * size for n in range(3) for size in (100, 50)]


def test_what_nobody_reads_pauses_the_exporter_and_is_not_lost():
    talk = ahead()
    talk.says(buffered(0, 0x81, b"x" * 100)).ends()
    many = 64 * 1024 // (512 + 64)
    talk.says(*(buffered(n, 0x81, bytes(512)) for n in range(many))).hears(b"")
    talk.says(buffered(many, 0x81, bytes(512))).hears(HALT)
    talk.says(buffered(many + 1, 0x81, bytes(512)))  # it was under way
    talk.says(receiving(SUCCESS)).hears(b"")
    read = talk.importer.submit(Transfer(0x81, (many + 2) * 512))
    assert talk.ends() == {read: (OK, bytes((many + 2) * 512), (many + 2) * 512)}
    talk.hears(packet(25, 0, struct.pack("<IIBB", 0, 512, 0x81, 5)))  # and on
    waits = talk.importer.submit(Transfer(0x81, 8))
    talk.says(receiving(SUCCESS), buffered(0, 0x81, b"new"))
    assert talk.ends() == {waits: (OK, b"new", 3)}
    assert talk.importer.dropped == 0


def test_an_exporter_that_does_not_pause_is_left(monkeypatch):
    monkeypatch.setattr("usbferry.protocols.usbredir.inboxes._UNDER_WAY_BYTES", 128 * 1024)
    talk = ahead()
    many = 128 * 1024 // (512 + 64)
    talk.says(*(buffered(n, 0x81, bytes(512)) for n in range(many))).hears(HALT)
    with pytest.raises(ProtocolError, match="after it was told to stop"):
        talk.says(*(buffered(many + n, 0x81, bytes(512)) for n in range(2)))


def test_more_than_a_transfer_of_the_exporters_has_is_refused():
    with pytest.raises(ProtocolError, match="513 bytes of buffered_bulk_packet, whose transfers have 512"):
        ahead().says(buffered(0, 0x81, bytes(513)))


def test_reading_ahead_stops_with_its_endpoint():
    """What arrives until the stop is answered belongs to the stream before it."""
    talk = ahead()
    talk.says(buffered(0, 0x81, bytes(512))).ends()
    first = talk.importer.submit(Transfer(0x81, 500))
    clear = talk.importer.submit(Transfer(0, 0, b"", requests.clear_halt(0x81).pack()))
    waits = talk.importer.submit(Transfer(0x81, 8))
    assert talk.ends() == {first: (Status.SHUTDOWN, bytes(412), 412)}
    talk.says(buffered(1, 0x81, b"old"), receiving(SUCCESS), receiving(SUCCESS), buffered(0, 0x81, b"new"))
    assert talk.ends() == {waits: (OK, b"new", 3)}
    assert clear


def test_a_cancelled_read_ahead_has_what_came():
    talk = ahead()
    talk.says(buffered(0, 0x81, bytes(512))).ends()
    read = talk.importer.submit(Transfer(0x81, 1000))
    talk.importer.cancel(read)
    assert talk.ends() == {read: (Status.CANCELLED, bytes(412), 412)}


def test_an_exporter_that_reads_nothing_ahead_is_asked_each_time():
    talk = using(ALL & ~RECEIVING, ahead=frozenset((0x81,)))
    read = talk.importer.submit(Transfer(0x81, 100))
    talk.hears(bulk(read, 0x81, 100))


# -- bulk streams -----------------------------------------------------------------------------------------------------


def test_bulk_streams():
    talk = using()
    mask = struct.pack("<I", 1 << 17 | 1 << 2)
    one = talk.importer.alloc_streams((0x81, 0x02), 16)
    talk.hears(packet(18, 2, mask + struct.pack("<I", 16))).says(packet(20, 2, mask + struct.pack("<IB", 16, 0)))
    two = talk.importer.free_streams((0x81, 0x02))
    talk.hears(packet(19, 3, mask)).says(packet(20, 3, mask + struct.pack("<IB", 0, INVAL)))
    assert talk.ends() == {one: (OK, b"", 0), two: (Status.INVALID, b"", 0)}


def test_bulk_streams_where_the_peer_has_none():
    talk = Talk(capabilities=frozenset(Capability) - {Capability.BULK_STREAMS})
    talk.says(hello((ALL,)), interfaces(*FIRST_INTERFACES), endpoints({}, streams=False), connect())
    tag = talk.importer.alloc_streams((0x81,), 4)
    assert talk.ends() == {tag: (Status.INVALID, b"", 0)}


# -- the device leaves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caps", [ALL, ALL & ~ACK])
def test_a_device_that_leaves_ends_everything_and_another_may_come(caps):
    talk = using(caps)
    tags = [
        talk.importer.submit(Transfer(0x81, 8)),
        talk.importer.submit(Transfer(0x83, 8, interval=4)),
        talk.importer.submit(iso_transfer(0x06, 1, b"aa")),
    ]
    talk.hears().says(packet(2, 0), bulk(2, 0x81, data=b"late"), interrupt(0, 0x83, b"late"))
    *ends, left = talk.events
    talk.events = []
    assert isinstance(left, Left)
    assert {event.tag: event.status for event in ends} == dict.fromkeys(tags, Status.GONE)
    assert b"".join(talk.importer.outgoing) == (packet(24, 0) if caps & ACK else b"")
    talk.hears()
    gone = talk.importer.submit(Transfer(0x81, 8))
    assert talk.ends() == {gone: (Status.GONE, b"", 0)}
    talk.importer.claim("")
    talk.says(SETTINGS, connect())
    [question] = [talk.importer.outgoing[0]]
    assert question[:4] == b"\7\0\0\0"
    talk.says(packet(8, int.from_bytes(question[8:16], "little"), b"\0\1"))
    assert isinstance(talk.event(), Claimed)


def test_a_device_that_leaves_before_it_is_claimed_is_waited_for_again():
    talk = Talk()
    talk.importer.claim("")
    talk.says(hello(), SETTINGS, connect(), packet(2, 0), SETTINGS, connect()).hears()
    talk.says(packet(8, 1, b"\0\1"))
    assert not talk.events
    talk.says(packet(8, 2, b"\0\1"))
    assert isinstance(talk.event(), Claimed)


def test_ids_go_round():
    talk = using()
    talk.importer._flights._tag = 0xFFFFFFFE
    tags = [talk.importer.submit(Transfer(0x81, 8)) for _ in range(3)]
    assert tags == [0xFFFFFFFF, 1, 2]
    talk.importer._flights._tag = 0
    assert talk.importer.submit(Transfer(0x81, 8)) == 3


# -- both ends of ours, the draft -------------------------------------------------------------------------------------


class Both:
    """Our importer and our exporter, back to back; the device is played by the test."""

    def __init__(self, dialect: Dialect) -> None:
        self.talk = Talk(dialect=dialect)
        self.exporter = Exporter(dialect=dialect)
        self.asked: list[object] = []
        self._held = b""

    def turn(self) -> Both:
        """What both have said reaches the other."""
        is_first = True
        while is_first or self.talk.importer.outgoing:
            is_first, importer = False, self.talk.importer
            self._held += b"".join(importer.outgoing)
            importer.outgoing, importer.outgoing_bytes = [], 0
            self.exporter.receive(memoryview(self._held), 0.0)
            self.asked += self.exporter.events()
            self._held = self._held[self.exporter.consumed :]
            said = b"".join(self.exporter.outgoing)
            self.exporter.outgoing, self.exporter.outgoing_bytes = [], 0
            self.talk.says(said)
        return self


def test_the_draft_back_to_back():
    both = Both(Dialect.DRAFT)
    talk, exporter = both.talk, both.exporter
    talk.importer.claim("")
    both.turn()
    exporter.accept(INFO)
    both.turn()
    claimed = talk.event()
    assert isinstance(claimed, Claimed)
    assert (claimed.info.speed, claimed.info.configuration) == (Speed.UNKNOWN, 1)
    both.asked.clear()
    raw = Setup(*requests.SET_PORT_FEATURE, requests.PORT_RESET).pack()
    reset = talk.importer.submit(Transfer(0, 0, b"", raw))
    read = talk.importer.submit(Transfer(0x81, 4))
    alloc = talk.importer.alloc_streams((0x81,), 4)
    refused = talk.importer.alloc_streams((0x81, 0x02), 4)
    free = talk.importer.free_streams((0x81,))
    silent = talk.importer.submit(Transfer(0x83, 8, interval=4))
    played = talk.importer.submit(iso_transfer(0x06, 1, b"aa"))
    both.turn()
    assert [type(event).__name__ for event in both.asked] == ["Reset", "Submit", "AllocStreams", "FreeStreams"]
    for event in both.asked:
        if type(event).__name__ == "Reset":
            exporter.reset_done(event.tag, True)
        else:
            exporter.complete(event.tag, Completion(OK, b"data" if type(event).__name__ == "Submit" else b""))
    both.turn()
    talk.importer.tick(1.0)
    talk.importer.tick(2.0)
    assert talk.ends() == {
        reset: (OK, b"", 0),
        read: (OK, b"data", 4),
        alloc: (OK, b"", 0),
        refused: (Status.INVALID, b"", 0),
        free: (OK, b"", 0),
        silent: (Status.INVALID, b"", 0),
        played: (OK, b"", 2),
    }


def test_streams_capability_alone_suffices_for_the_draft():
    both = Both(Dialect.DRAFT)
    both.turn()
    assert both.exporter._codec.in_force == {Capability.BULK_STREAMS}
    assert STREAMS == 1 << Capability.BULK_STREAMS


@pytest.mark.parametrize("version", [b"qemu usb-redir guest 7.2.0", b"usbferry usb-guest", b"guest \x1b[2J"])
@pytest.mark.parametrize("asks_first", [True, False])
def test_a_peer_that_is_no_host_either(version: bytes, asks_first: bool) -> None:
    """Both would wait for ever: a hello does not say whose it is, but by its words."""
    talk = Talk()
    if asks_first:
        talk.importer.list_devices()
    talk.says(hello(version=version))
    if not asks_first:
        talk.importer.claim("1-1")
        talk.says()
    [refused] = talk.events
    assert isinstance(refused, Refused)
    who = f" ({version.decode()})" if b"\x1b" not in version else ""
    assert (refused.reason, refused.text) == (Refusal.UNAVAILABLE, f"it waits for a device itself{who}")


@pytest.mark.parametrize("version", [b"usbredirect 0.13.0", b"usbferry usb-host", b"a host of guests", b""])
def test_who_is_not_known_to_be_a_guest_may_have_a_device(version: bytes) -> None:
    talk = Talk()
    talk.importer.list_devices()
    talk.says(hello(version=version))
    assert talk.events == []
