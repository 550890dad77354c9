"""The exporting side of usbredir against importers good, odd and hostile: each rule of the protocol by its name.

The numbers in brackets are the sections of the protocol's fact sheet.
"""

from __future__ import annotations

import struct

import pytest

from tests.protocols.usbredir.wire import (
    ACK,
    ALL,
    BABBLE,
    CANCELLED,
    FILTER,
    FIRST_ENDPOINTS,
    FIRST_INTERFACES,
    INFO,
    INVAL,
    IOERROR,
    LONG_BULK,
    LONG_IDS,
    RECEIVING,
    SETTINGS,
    SIZES,
    STALL,
    STREAMS,
    SUCCESS,
    VERSION,
    Talk,
    buffered,
    bulk,
    connect,
    connected,
    control,
    endpoints,
    hello,
    interfaces,
    interrupt,
    iso,
    packet,
)
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.events import Refusal
from usbferry.protocols.limits import Limits
from usbferry.protocols.openings import Stranger
from usbferry.protocols.usbredir import filter as filters
from usbferry.protocols.usbredir.exporter import UNWANTED_SECONDS, State
from usbferry.protocols.usbredir.messages import Dialect
from usbferry.usb.info import DeviceInfo
from usbferry.usb.transfer import Completion, IsoPacket
from usbferry.usb.tree import Companion, Configuration, DeviceDescriptor, Endpoint, Interface
from usbferry.usb.types import Speed, Status

OK = Status.OK
CONTROL_IN, CONTROL_OUT = "80 06 00 01 00 00 12 00", "40 01 00 00 00 00 03 00"
GET_CONFIGURATION, DISCONNECT_ACK, RESET = packet(7, 5), packet(24, 0), packet(3, 0)


def cancel(id: int) -> bytes:
    return packet(21, id)


def set_configuration(id: int, value: int) -> bytes:
    return packet(6, id, bytes([value]))


def set_alternate(id: int, interface: int, alternate: int) -> bytes:
    return packet(9, id, bytes([interface, alternate]))


def configuration(id: int, status: int, value: int) -> bytes:
    return packet(8, id, bytes([status, value]))


def alternate(id: int, status: int, interface: int, value: int) -> bytes:
    return packet(11, id, bytes([status, interface, value]))


def start_iso(id: int, endpoint: int, packets: int, urbs: int) -> bytes:
    return packet(12, id, bytes([endpoint, packets, urbs]))


def iso_status(id: int, status: int, endpoint: int) -> bytes:
    return packet(14, id, bytes([status, endpoint]))


def interrupt_status(id: int, status: int, endpoint: int) -> bytes:
    return packet(17, id, bytes([status, endpoint]))


def start_bulk(id: int, endpoint: int, size: int, transfers: int, stream: int = 0) -> bytes:
    return packet(25, id, struct.pack("<IIBB", stream, size, endpoint, transfers))


def bulk_status(id: int, endpoint: int, status: int, stream: int = 0) -> bytes:
    return packet(27, id, struct.pack("<IBB", stream, endpoint, status))


def taken(transfer):
    """A device that answers everything at once."""
    return Completion(OK, b"x" * transfer.length) if transfer.is_in else Completion(OK, b"", transfer.length)


# -- start-up [5] -----------------------------------------------------------------------------------------------------


def test_our_hello_comes_first_and_nothing_before_the_peers():
    talk = Talk()
    talk.hears(hello(version=b"usbferry usb-host"))
    talk.goes_on().asks().hears()


@pytest.mark.parametrize("step", [1, 5, 100])
@pytest.mark.parametrize("raw", [bulk(1, 0x81, 512), control(7, CONTROL_IN, length=18), RESET])
def test_a_machine_that_was_restored_goes_on_where_it_was(raw, step):
    """QEMU says no hello then. Whoever is told of it shall not look for a wrong port."""
    with pytest.raises(ProtocolError, match="came before any hello: a machine that was restored") as raised:
        Talk().says(raw, step=step)
    assert not isinstance(raised.value, Stranger)


@pytest.mark.parametrize("step", [1, 2, 13, 75])
def test_a_hello_in_pieces(step):
    talk = Talk()
    talk.says(hello(), step=step).asks("claim 1-1")
    assert talk.unread == 0


@pytest.mark.parametrize("words", [(), (0,), (ALL, ALL), (ALL, 1, 2, 3, 4), (ALL, *range(4000))])
def test_a_hello_with_any_number_of_capability_words(words):
    talk = Talk()
    talk.says(hello(words)).asks("claim 1-1")
    talk.takes()
    talk.exporter.accept(INFO)
    long = bool(words and words[0])
    assert talk.takes().startswith(struct.pack("<II", 4, 132) + bytes(8 if long else 4) + b"\2\0\0\0")


def test_infos_come_before_connect():
    talk = Talk()
    talk.says(hello()).takes()
    talk.exporter.accept(INFO)
    talk.hears(SETTINGS, connect())
    assert talk.exporter.state is State.SERVING


@pytest.mark.parametrize(
    ("missing", "sizes"),
    [
        (0, (132, 288, 10)),
        (STREAMS, (132, 160, 10)),
        (VERSION, (132, 288, 8)),
        (SIZES, (132, 96, 10)),
        (LONG_IDS, (132, 288, 10)),
    ],
)
def test_a_peer_without_a_capability_gets_shorter_layouts(missing, sizes):
    talk = Talk()
    talk.says(hello((ALL & ~missing,))).takes()
    talk.exporter.accept(INFO)
    raw, header, found = talk.takes(), 12 if missing == LONG_IDS else 16, []
    while raw:
        length = int.from_bytes(raw[4:8], "little")
        found.append(length)
        raw = raw[header + length :]
    assert tuple(found) == sizes


@pytest.mark.parametrize(
    ("what", "raw"),
    [
        ("another packet", packet(3, 0, long=False)),
        ("too short", packet(0, 0, bytes(63), long=False)),
        ("too long", struct.pack("<III", 0, 1 << 20, 0)),
        ("2**32 - 1 bytes", struct.pack("<III", 0, 0xFFFFFFFF, 0)),
    ],
)
def test_a_connection_that_begins_otherwise_ends(what, raw):
    with pytest.raises(ProtocolError):
        Talk().says(raw)


def test_a_second_hello_means_nothing():
    talk = connected()
    talk.says(packet(0, 0, struct.pack("64sI", b"again", 0)), bulk(1, 0x81, 4)).asks("submit #1 in 81 4").hears()


def test_a_second_hello_is_bounded_too():
    with pytest.raises(ProtocolError, match="a hello with 134217728 bytes of capabilities"):
        connected().says(struct.pack("<IIQ64s", 0, (128 << 20) + 64, 0, b"again"))


def test_a_silent_peer_is_let_be_and_a_slow_hello_is_not():
    """QEMU says hello when its machine runs."""
    talk = Talk()
    talk.exporter.tick(10_000.0)
    assert talk.exporter.deadline() is None
    talk.now = 10_000.0
    talk.says(hello()[:5])
    assert talk.exporter.deadline() == 10_010.0
    talk.exporter.tick(10_009.0)
    with pytest.raises(ProtocolError, match="no whole hello within 10 s"):
        talk.exporter.tick(10_010.0)


def test_what_qemu_refuses_a_device_for_is_not_said():
    """usbredir_ep_info: an interval of 0. Bulk receiving: a packet size of 0."""
    odd = Interface(0, endpoints=(Endpoint(0x81, 3, 8, 0), Endpoint(0x82, 1, 8, 0), Endpoint(0x03, 2, 0)))
    for speed, interrupt_interval in ((Speed.HIGH, 7), (Speed.FULL, 10)):
        talk = Talk()
        talk.says(hello()).takes()
        talk.exporter.accept(DeviceInfo("1-1", DeviceDescriptor(1, 2), (Configuration(1, (odd,)),), speed))
        raw = talk.takes()[16 + 132 + 16 :]
        assert raw[32 + 17] == interrupt_interval
        assert raw[32 + 18] == (7 if speed is Speed.HIGH else 4)
        assert raw[96 + 2 * 3] == 1


def test_more_interfaces_than_the_layout_holds():
    many = Configuration(1, tuple(Interface(number) for number in range(40)))
    talk = Talk()
    talk.says(hello()).takes()
    talk.exporter.accept(DeviceInfo("1-1", DeviceDescriptor(1, 2), (many,)))
    assert talk.takes()[16:20] == b"\x20\0\0\0"


def test_streams_of_an_endpoint_are_said():
    endpoint = Endpoint(0x81, 2, 1024, companion=Companion(15, 4))
    talk = Talk()
    talk.says(hello()).takes()
    info = DeviceInfo("1-1", DeviceDescriptor(1, 2), (Configuration(1, (Interface(0, endpoints=(endpoint,)),)),))
    talk.exporter.accept(info)
    assert talk.takes()[16 + 132 + 16 + 160 + 4 * 17 :][:4] == b"\x10\0\0\0"


# -- filters [5], [13] ------------------------------------------------------------------------------------------------

STORAGE = filters.parse("8,-1,-1,-1,1")
UNWANTED = "note the peer does not want 1-1 1209:0001: its filter, or the speed of its ports, does not admit it"


def test_our_filter_is_sent_after_the_hello():
    talk = Talk(rules=STORAGE)
    talk.takes()
    talk.says(hello())
    talk.hears(packet(23, 0, b"0x08,-1,-1,-1,1\0"))


def test_our_filter_is_not_sent_to_who_knows_none():
    talk = Talk(rules=STORAGE)
    talk.takes()
    talk.says(hello((ALL & ~FILTER,))).hears()


def test_a_device_that_our_filter_denies_is_not_offered():
    talk = Talk(rules=STORAGE)
    talk.says(hello()).asks("claim 1-1").takes()
    talk.exporter.accept(INFO)
    talk.goes_on().asks(
        "note 1-1 1209:0001 is not redirected: the filter given here does not admit it", "release"
    ).hears()
    assert talk.exporter.state is State.UNWANTED


def test_a_device_that_our_filter_admits_is_offered():
    talk = Talk(rules=filters.parse("-1,0x1209,-1,-1,1"))
    talk.says(hello()).takes()
    talk.exporter.accept(INFO)
    talk.hears(SETTINGS, connect())


def test_the_peers_filter_is_kept():
    talk = connected()
    talk.says(packet(23, 0, b"0x08,-1,-1,-1,1\0")).asks().hears()
    assert talk.exporter.peer_rules == STORAGE
    talk.says(packet(23, 0, b"nonsense\0"))
    talk.asks("note the peer's filter cannot be read: filter rule 'nonsense' has 1 fields: "
              "write class,vendor,product,version,allow")  # fmt: skip
    assert talk.exporter.peer_rules == STORAGE


@pytest.mark.parametrize("data", [b"", b"8,-1,-1,-1,1"], ids=["nothing", "no NUL"])
def test_a_filter_without_its_nul(data):
    with pytest.raises(ProtocolError):
        connected().says(packet(23, 0, data))


def test_a_peer_that_does_not_want_the_device():
    talk = connected()
    talk.says(packet(22, 0))
    talk.asks(UNWANTED, "release").hears()
    talk.exporter.released()
    talk.exporter.noticed()
    talk.says(bulk(1, 0x81, 512)).asks().hears(bulk(1, 0x81, 0, status=IOERROR))
    assert not talk.exporter.done


def test_a_peer_that_does_not_want_the_device_is_sent_away_after_a_while():
    """QEMU connects again within a second: that often, a real device would be taken from its driver and reset."""
    talk = connected()
    talk.says(packet(22, 0)).asks(UNWANTED, "release").hears()
    talk.exporter.released()
    assert talk.exporter.deadline() == UNWANTED_SECONDS  # the clock stands at 0
    talk.exporter.tick(UNWANTED_SECONDS - 0.01)
    assert not talk.exporter.done
    talk.exporter.tick(UNWANTED_SECONDS)
    assert talk.exporter.done


def test_a_device_that_is_not_wanted_while_its_transfers_are_under_way():
    talk = connected()
    talk.says(bulk(1, 0x81, 512), packet(22, 0)).asks("submit #1 in 81 512", UNWANTED, "release")
    talk.does(1, Completion(Status.GONE)).hears()
    talk.exporter.gone()
    talk.goes_on().asks().hears()


# -- the data rule [6] ------------------------------------------------------------------------------------------------


def test_data_goes_with_in_to_the_guest_and_with_out_to_us():
    talk = connected()
    talk.says(bulk(1, 0x81, 512), bulk(2, 0x02, data=b"hello"))
    talk.asks("submit #1 in 81 512", "submit #2 out 02 5")
    assert talk.payloads[2] == b"hello"
    talk.does(1, Completion(OK, b"abc")).does(2, Completion(OK, b"", 5))
    talk.hears(bulk(1, 0x81, data=b"abc"), bulk(2, 0x02, 5))


@pytest.mark.parametrize("length", [0, 3])
def test_control_both_ways(length):
    setup_in, setup_out = f"c0 01 02 03 04 05 {length:02x} 00", f"40 01 02 03 04 05 {length:02x} 00"
    talk = connected()
    talk.says(control(1, setup_in, length=length), control(2, setup_out, data=bytes(length), length=length))
    way = "in 80" if length else "out 00"
    talk.asks(
        f"submit #1 {way} {length} setup {setup_in.replace(' ', '')}",
        f"submit #2 out 00 {length} setup {setup_out.replace(' ', '')}",
    )
    talk.does(1, Completion(OK, b"xyz"[:length])).does(2, Completion(OK, b"", length))
    talk.hears(
        control(1, setup_in, b"xyz"[:length], length=length),
        control(2, setup_out, length=length),
    )


def test_a_reply_repeats_all_but_status_and_length():
    talk = connected()
    raw = bulk(0x1122334455667788, 0x81, 70_000, stream=9)
    talk.says(raw).does(1, Completion(Status.STALL)).hears(bulk(0x1122334455667788, 0x81, 0, status=STALL, stream=9))


@pytest.mark.parametrize(
    ("what", "raw"),
    [
        ("IN with data", bulk(1, 0x81, 4, b"data")),
        ("OUT without data", bulk(1, 0x02, 4)),
        ("OUT with less", bulk(1, 0x02, 4, b"dat")),
        ("OUT with more", bulk(1, 0x02, 4, b"datas")),
        ("control IN with data", control(1, CONTROL_IN, b"x")),
        ("control OUT without", control(1, CONTROL_OUT)),
        ("iso IN", iso(1, 0x85)),
        ("interrupt IN", interrupt(1, 0x83)),
        ("buffered bulk", buffered(1, 0x81, b"")),
        ("interrupt receiving of OUT", packet(15, 1, b"\x04")),
        ("bulk receiving of OUT", start_bulk(1, 0x02, 512, 1)),
        ("bulk receiving of too much", start_bulk(1, 0x81, (128 << 20) + 1, 1)),
        ("a layout too long", packet(6, 1, b"\1\1")),
        ("a layout too short", packet(9, 1, b"\1")),
        ("data where there is none", packet(21, 1, b"x")),
        ("ours alone: device_connect", connect()),
        ("ours alone: ep_info", endpoints({})),
        ("ours alone: a status", configuration(1, 0, 1)),
        ("no such type", packet(28, 1)),
        ("no such type", packet(99, 1)),
        ("no such type", packet(0xFFFFFFFF, 1)),
        ("over 128 MiB", struct.pack("<IIQ", 101, 0xFFFFFFFF, 1)),
    ],
)
def test_a_breach_ends_the_connection(what, raw):
    with pytest.raises(ProtocolError):
        connected().says(raw)


@pytest.mark.parametrize(
    ("capability", "raw"),
    [
        (STREAMS, packet(18, 1, bytes(8))),
        (STREAMS, packet(19, 1, bytes(4))),
        (FILTER, packet(22, 0)),
        (FILTER, packet(23, 0, b"\0")),
        (ACK, DISCONNECT_ACK),
        (RECEIVING, start_bulk(1, 0x81, 512, 1)),
        (RECEIVING, packet(26, 1, bytes(4) + b"\x81")),
    ],
)
def test_a_packet_without_its_capability_ends_the_connection(capability, raw):
    with pytest.raises(ProtocolError, match="without its capability"):
        connected(caps=ALL & ~capability).says(raw)


def test_bulk_of_65536_bytes_has_a_length_of_two_halves():
    talk = connected()
    talk.says(bulk(1, 0x02, data=bytes(65536)), bulk(2, 0x81, 65536))
    talk.asks("submit #1 out 02 65536", "submit #2 in 81 65536")
    talk.does(1, Completion(OK, b"", 65536)).does(2, Completion(OK, bytes(65536)))
    talk.hears(bulk(1, 0x02, 65536), bulk(2, 0x81, data=bytes(65536)))


def test_without_long_lengths_the_layout_is_shorter():
    talk = connected(caps=ALL & ~LONG_BULK)
    talk.says(packet(101, 1, struct.pack("<BBHI", 0x81, 0, 4, 0))).does(1, Completion(OK, b"abc"))
    talk.hears(packet(101, 1, struct.pack("<BBHI", 0x81, 0, 3, 0), b"abc"))


def test_short_ids_are_copied():
    talk = connected(caps=ALL & ~LONG_IDS)
    raw = packet(101, 0xFFFFFFFF, struct.pack("<BBHIH", 0x81, 0, 4, 0, 0), long=False)
    talk.says(raw).does(1, Completion(OK, b"")).hears(
        packet(101, 0xFFFFFFFF, struct.pack("<BBHIH", 0x81, 0, 0, 0, 0), long=False)
    )


def test_a_device_that_gives_more_than_was_asked_for_babbles():
    talk = connected()
    talk.says(bulk(1, 0x81, 2), bulk(2, 0x02, data=b"ab"))
    talk.does(1, Completion(OK, b"abc")).does(2, Completion(OK, b"", 7))
    talk.hears(bulk(1, 0x81, data=b"ab", status=BABBLE), bulk(2, 0x02, 2, status=BABBLE))


@pytest.mark.parametrize("endpoint", [0x02, 0x83, 0x8F, 0x05, 0xF1])
def test_bulk_on_an_endpoint_that_is_none(endpoint):
    talk = connected()
    data = b"" if endpoint >= 0x80 else b"abc"
    if endpoint == 0x02:
        talk.says(interrupt(1, endpoint, data)).asks().hears(interrupt(1, endpoint, length=0, status=INVAL))
    else:
        raw = bulk(1, endpoint, None if data else 3, data)
        talk.says(raw).asks().hears(bulk(1, endpoint, 0, status=INVAL))


def test_interrupt_out_is_answered_without_data():
    """QEMU sends a guest's transfer as one packet, however long."""
    talk = connected()
    talk.says(interrupt(1, 0x04, bytes(100))).asks("submit #1 out 04 100")
    talk.does(1, Completion(OK, b"", 100)).hears(interrupt(1, 0x04, length=100))


def test_a_control_packet_that_contradicts_itself():
    talk = connected()
    talk.says(control(1, CONTROL_IN, bytes(18), endpoint=0)).asks()
    talk.hears(control(1, CONTROL_IN, length=0, status=INVAL, endpoint=0))


def test_answers_of_one_endpoint_keep_their_order():
    """QEMU asserts it (usb_packet_complete, hw/usb/core.c)."""
    talk = connected()
    talk.says(bulk(1, 0x81, 4), bulk(2, 0x81, 4), bulk(3, 0x02, data=b"x"))
    talk.does(2, Completion(OK, b"two")).hears()
    talk.does(3, Completion(OK, b"", 1)).hears(bulk(3, 0x02, 1))
    talk.does(1, Completion(OK, b"one")).hears(bulk(1, 0x81, data=b"one"), bulk(2, 0x81, data=b"two"))


def test_over_a_limit_the_answer_comes_in_its_order_too():
    talk = connected(Limits(transfers=2))
    talk.says(bulk(1, 0x81, 4), bulk(2, 0x81, 4), bulk(3, 0x81, 4)).asks("submit #1 in 81 4", "submit #2 in 81 4")
    talk.hears().does(1, Completion(OK)).does(2, Completion(OK))
    talk.hears(bulk(1, 0x81, 0), bulk(2, 0x81, 0), bulk(3, 0x81, 0, status=IOERROR))


def test_far_over_a_limit_the_connection_ends():
    talk = connected(Limits(transfers=2))
    with pytest.raises(ProtocolError, match="4 transfers without answer, the limit is 2"):
        talk.says(*(bulk(id, 0x81, 4) for id in range(6)))


def test_bytes_in_flight_are_bounded():
    talk = connected(Limits(bytes_in_flight=1000))
    talk.says(bulk(1, 0x81, 800), bulk(2, 0x81, 300)).asks("submit #1 in 81 800")


def test_an_announced_packet_costs_nothing_until_it_is_there():
    talk = connected()
    with pytest.raises(ProtocolError, match="4294967280 bytes of bulk_packet"):
        talk.says(struct.pack("<IIQ", 101, 0xFFFFFFF0, 1))
    talk = connected()
    with pytest.raises(ProtocolError, match="134217728 bytes in #1, the limit is 16777216"):
        talk.says(struct.pack("<IIQBBHIH", 101, (128 << 20) + 10, 1, 2, 0, 0, 0, 0x800))


# -- configurations, alternate settings, reset [8] --------------------------------------------------------------------


def test_set_configuration_sends_the_infos_before_the_status():
    talk = connected()
    talk.says(set_configuration(7, 2)).asks("submit #1 out 00 0 setup 0009020000000000").hears()
    talk.does(1, Completion(OK))
    talk.hears(interfaces((0, 255, 0, 0)), endpoints({}), configuration(7, SUCCESS, 2))
    talk.says(GET_CONFIGURATION).asks().hears(configuration(5, SUCCESS, 2))


def test_the_same_configuration_again_sends_no_infos():
    talk = connected()
    talk.says(set_configuration(7, 1)).does(1, Completion(OK)).hears(configuration(7, SUCCESS, 1))


def test_the_same_configuration_again_undoes_alternate_settings():
    talk = connected()
    talk.says(set_alternate(6, 0, 1)).does(1, Completion(OK)).takes()
    talk.says(set_configuration(7, 1)).does(2, Completion(OK)).hears(SETTINGS, configuration(7, SUCCESS, 1))


def test_a_configuration_that_is_not_there_is_an_ioerror_with_the_old_one():
    talk = connected()
    talk.says(set_configuration(7, 9)).does(1, Completion(Status.STALL))
    talk.hears(SETTINGS, configuration(7, IOERROR, 1))


def test_set_alt_setting_sends_the_infos_before_the_status():
    talk = connected()
    talk.says(set_alternate(7, 0, 1)).asks("submit #1 out 00 0 setup 010b010000000000")
    talk.does(1, Completion(OK))
    talk.hears(interfaces((0, 8, 6, 0x62), FIRST_INTERFACES[1]), endpoints({}), alternate(7, SUCCESS, 0, 1))
    talk.says(packet(10, 8, b"\0")).hears(alternate(8, SUCCESS, 0, 1))


def test_an_alternate_setting_that_is_refused():
    talk = connected()
    talk.says(set_alternate(7, 0, 9)).does(1, Completion(Status.STALL)).hears(alternate(7, STALL, 0, 0))


def test_an_interface_that_is_not_there():
    talk = connected()
    talk.says(set_alternate(7, 5, 1), packet(10, 8, b"\5")).asks()
    talk.hears(alternate(7, INVAL, 5, 255), alternate(8, INVAL, 5, 255))


@pytest.mark.parametrize(
    ("setup", "settings"),
    [
        ("00 09 02 00 00 00 00 00", interfaces((0, 255, 0, 0)) + endpoints({})),
        ("01 0b 01 00 00 00 00 00", interfaces((0, 8, 6, 0x62), FIRST_INTERFACES[1]) + endpoints({})),
    ],
)
def test_settings_changed_by_control_packets_are_followed(setup, settings):
    talk = connected()
    talk.says(control(1, setup)).does(1, Completion(OK)).hears(settings, control(1, setup))


def test_set_address_never_reaches_the_device():
    talk = connected()
    talk.says(control(1, "00 05 07 00 00 00 00 00")).asks().hears(control(1, "00 05 07 00 00 00 00 00"))


def test_clear_halt_is_the_devices_own():
    talk = connected()
    talk.says(control(1, "02 01 00 00 81 00 00 00")).asks("submit #1 out 00 0 setup 0201000081000000")
    talk.does(1, Completion(OK)).hears(control(1, "02 01 00 00 81 00 00 00"))


def test_reset_has_no_reply_and_is_not_done_twice_in_a_row():
    talk = connected()
    talk.says(RESET, RESET).asks("reset #1")
    talk.exporter.reset_done(1, True)
    talk.hears()
    talk.says(RESET).asks()
    talk.says(bulk(1, 0x81, 4), RESET).asks("submit #2 in 81 4", "reset #3")


@pytest.mark.parametrize(("vendor", "product"), [(0x1210, 0x001C), (0x2798, 0x0001)])
def test_devices_that_do_not_survive_a_reset(vendor, product):
    talk = connected(info=DeviceInfo("1-1", DeviceDescriptor(vendor, product), INFO.configurations))
    talk.says(RESET).asks().hears()


def test_reset_tells_every_stream_that_it_stopped():
    talk = connected()
    talk.says(packet(15, 0, b"\x83"), start_iso(0, 0x85, 1, 1)).takes()
    talk.says(RESET)
    talk.hears(interrupt_status(0, STALL, 0x83), iso_status(0, STALL, 0x85))
    assert talk.exporter.in_flight == 0


def test_a_reset_that_fails_is_a_disconnect():
    talk = connected()
    talk.says(RESET)
    talk.exporter.reset_done(1, False)
    talk.exporter.gone()
    talk.hears(packet(2, 0))


# -- streams [10] -----------------------------------------------------------------------------------------------------


def test_interrupt_receiving_keeps_five_transfers_waiting():
    talk = connected()
    talk.says(packet(15, 3, b"\x83")).hears(interrupt_status(3, SUCCESS, 0x83))
    talk.asks(*(f"submit #{tag} in 83 8" for tag in range(1, 6)))
    talk.does(1, Completion(OK, b"one")).does(2, Completion(OK, b""))
    talk.hears(interrupt(0, 0x83, b"one"), interrupt(1, 0x83))
    assert talk.exporter.has_events
    talk.goes_on().asks("submit #6 in 83 8", "submit #7 in 83 8")
    assert not talk.exporter.has_events


def test_a_stream_that_stops_drops_what_still_comes_and_starts_at_0_again():
    talk = connected()
    talk.says(packet(15, 0, b"\x83")).does(1, Completion(OK, b"one")).goes_on().takes()
    talk.asks(*(f"submit #{tag} in 83 8" for tag in range(1, 7)))
    talk.says(packet(16, 4, b"\x83")).hears(interrupt_status(4, SUCCESS, 0x83))
    talk.asks(*(f"cancel #{tag}" for tag in range(2, 7)))
    talk.does(2, Completion(OK, b"late")).does(3, Completion(Status.CANCELLED)).hears()
    talk.says(packet(15, 0, b"\x83")).does(7, Completion(OK, b"new"))
    talk.hears(interrupt_status(0, SUCCESS, 0x83), interrupt(0, 0x83, b"new"))


@pytest.mark.parametrize("status", [Status.STALL, Status.GONE, Status.SHUTDOWN, Status.CANCELLED])
def test_a_stream_that_ends_by_itself_says_stall_whatever_the_cause(status):
    talk = connected()
    talk.says(packet(15, 0, b"\x83")).takes()
    talk.does(1, Completion(status)).hears(interrupt_status(0, STALL, 0x83))
    talk.says(packet(16, 0, b"\x83")).hears(interrupt_status(0, SUCCESS, 0x83))


def test_a_device_that_always_fails_does_not_keep_us_busy():
    talk = connected()
    talk.at_once = lambda transfer: Completion(Status.CRC)
    talk.says(packet(15, 0, b"\x83"))
    for _ in range(5):
        talk.goes_on()
    errors = b"".join(interrupt(n, 0x83, status=IOERROR) for n in range(8))
    talk.hears(interrupt_status(0, SUCCESS, 0x83), errors, interrupt_status(0, STALL, 0x83))
    assert not talk.exporter.has_events


def test_a_device_that_answers_at_once_gets_one_turn_at_a_time():
    talk = connected()
    talk.at_once = taken
    talk.says(packet(15, 0, b"\x83")).asks(*(f"submit #{tag} in 83 8" for tag in range(1, 6)))
    assert talk.exporter.has_events


def test_receiving_waits_for_the_network():
    """Where the reference host reads on and drops: a device that is not asked keeps what it has."""
    talk = connected()
    waiting = 0
    talk.exporter.unsent = lambda: waiting
    talk.says(packet(15, 0, b"\x83")).takes()
    talk.asks(*(f"submit #{tag} in 83 8" for tag in range(1, 6)))
    waiting = 800 * 28 + 1
    talk.does(1, Completion(OK, b"one")).goes_on().asks()
    assert not talk.exporter.has_events
    assert talk.exporter.deadline() == pytest.approx(0.01)
    waiting = 0
    talk.goes_on().asks("submit #6 in 83 8")
    assert talk.exporter.deadline() is None


@pytest.mark.parametrize("raw", [packet(15, 1, b"\x81"), packet(15, 1, b"\x8f")])
def test_interrupt_receiving_where_there_is_no_such_endpoint(raw):
    connected().says(raw).asks().hears(interrupt_status(1, INVAL, raw[-1]))


def test_iso_in_sends_every_packet_empty_ones_too():
    talk = connected()
    talk.says(start_iso(2, 0x85, 2, 2)).hears(iso_status(2, SUCCESS, 0x85))
    talk.asks("submit #1 iso*2 in 85 200", "submit #2 iso*2 in 85 200")
    done = [IsoPacket(0, 100, 3), IsoPacket(100, 100, 0)]
    talk.does(1, Completion(OK, b"abc", packets=done))
    done = [IsoPacket(0, 100, 0, Status.CRC), IsoPacket(100, 100, 2)]
    talk.does(2, Completion(OK, b"de", packets=done))
    talk.hears(iso(0, 0x85, b"abc"), iso(1, 0x85), iso(2, 0x85, status=IOERROR), iso(3, 0x85, b"de"))
    talk.goes_on().asks("submit #3 iso*2 in 85 200", "submit #4 iso*2 in 85 200")


def test_iso_packets_are_dropped_between_two_marks_and_counted():
    """60 ms of packets at 1 ms and 120 bytes are 7,200 bytes: dropped above three times as much, until below half."""
    talk = connected()
    waiting = 0
    talk.exporter.unsent = lambda: waiting
    talk.says(start_iso(0, 0x85, 1, 1)).takes()

    def one(expected):
        tag = max(talk.transfers)
        talk.does(tag, Completion(OK, b"x", packets=[IsoPacket(0, 100, 1)])).goes_on()
        talk.hears(*expected)

    waiting = 21_600
    one([iso(0, 0x85, b"x")])
    waiting = 21_601
    one([])
    waiting = 3_601
    one([])
    waiting = 3_600
    one([iso(3, 0x85, b"x")])
    assert talk.exporter.dropped == 2


def test_the_target_can_be_tuned():
    talk = connected(iso_seconds=0.12)
    talk.exporter.unsent = lambda: 43_200
    talk.says(start_iso(0, 0x85, 1, 1)).takes()
    talk.does(1, Completion(OK, b"x", packets=[IsoPacket(0, 100, 1)])).hears(iso(0, 0x85, b"x"))


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (start_iso(1, 0x85, 0, 1), STALL),
        (start_iso(1, 0x85, 33, 1), STALL),
        (start_iso(1, 0x85, 1, 0), STALL),
        (start_iso(1, 0x85, 1, 17), STALL),
        (start_iso(1, 0x81, 1, 1), INVAL),
        (start_iso(1, 0x8F, 1, 1), INVAL),
    ],
)
def test_an_iso_stream_of_an_odd_shape(raw, status):
    connected().says(raw).asks().hears(iso_status(1, status, raw[16]))


def test_a_stream_that_runs_is_not_started_again():
    talk = connected()
    talk.says(start_iso(1, 0x85, 1, 1), start_iso(2, 0x85, 1, 1)).asks("submit #1 iso*1 in 85 100")
    talk.hears(iso_status(1, SUCCESS, 0x85), iso_status(2, INVAL, 0x85))


def test_iso_out_begins_when_half_of_it_is_there():
    talk = connected()
    talk.says(start_iso(0, 0x06, 2, 4)).takes()
    talk.says(*(iso(n, 0x06, bytes([n])) for n in range(3))).asks()
    talk.says(iso(3, 0x06, b"\3")).asks("submit #1 iso*2 out 06 2", "submit #2 iso*2 out 06 2")
    assert talk.payloads[1] == b"\0\1"
    talk.says(iso(4, 0x06, b"\4"), iso(5, 0x06, b"\5")).asks("submit #3 iso*2 out 06 2").hears()


def test_iso_out_one_packet_too_many_drops_half():
    talk = connected()
    talk.says(start_iso(0, 0x06, 2, 2)).takes()
    talk.says(*(iso(n, 0x06, bytes([n])) for n in range(4)))
    talk.asks("submit #1 iso*2 out 06 2", "submit #2 iso*2 out 06 2")
    talk.says(*(iso(n, 0x06, bytes([n])) for n in range(4, 7))).asks()
    assert talk.exporter.dropped == 3
    talk.does(1, Completion(OK, b"", 2)).says(iso(7, 0x06, b"\7"), iso(8, 0x06, b"\x08"))
    talk.asks("submit #3 iso*2 out 06 2")
    assert talk.payloads[3] == b"\x07\x08"


def test_iso_out_that_fails_says_so_once_for_a_transfer():
    talk = connected()
    talk.says(start_iso(0, 0x06, 1, 2)).takes()
    talk.says(iso(40, 0x06, b"a"), iso(41, 0x06, b"b"))
    talk.does(1, Completion(OK, packets=[IsoPacket(0, 1, 0, Status.CRC)])).hears(iso_status(40, IOERROR, 0x06))
    talk.does(2, Completion(Status.STALL)).hears(iso_status(0, STALL, 0x06))


def test_iso_packets_that_cross_the_end_of_their_stream_are_not_answered():
    talk = connected()
    talk.says(start_iso(0, 0x06, 1, 1)).takes()
    talk.says(iso(40, 0x06, b"a")).does(1, Completion(Status.STALL)).hears(iso_status(0, STALL, 0x06))
    talk.says(iso(41, 0x06, b"b"), iso(42, 0x06, b"c")).hears()
    assert talk.exporter.dropped == 2
    talk.says(start_iso(1, 0x06, 1, 1)).hears(iso_status(1, SUCCESS, 0x06))
    talk.says(iso(43, 0x06, b"d")).asks("submit #1 iso*1 out 06 1", "submit #2 iso*1 out 06 1").hears()


def test_iso_packets_after_the_importer_stopped_a_stream_that_had_ended():
    talk = connected()
    talk.says(start_iso(0, 0x06, 1, 1), iso(40, 0x06, b"a")).does(1, Completion(Status.STALL)).takes()
    talk.says(packet(13, 1, b"\6")).hears(iso_status(1, SUCCESS, 0x06))
    talk.says(iso(41, 0x06, b"b")).hears(iso_status(41, INVAL, 0x06))


def test_iso_packets_that_cross_a_reset_are_not_answered():
    talk = connected()
    talk.says(start_iso(0, 0x06, 1, 1)).takes()
    talk.says(RESET).hears(iso_status(0, STALL, 0x06))
    talk.says(iso(41, 0x06, b"b")).hears()


def test_iso_out_that_runs_dry_gathers_again():
    talk = connected()
    talk.says(start_iso(0, 0x06, 1, 4)).takes()
    talk.says(iso(0, 0x06, b"a"), iso(1, 0x06, b"b")).asks("submit #1 iso*1 out 06 1", "submit #2 iso*1 out 06 1")
    for tag in (1, 2):
        talk.does(tag, Completion(OK, packets=[IsoPacket(0, 1, 1)]))
    talk.says(iso(2, 0x06, b"c")).asks()
    talk.says(iso(3, 0x06, b"d")).asks("submit #3 iso*1 out 06 1", "submit #4 iso*1 out 06 1").hears()


def test_an_iso_packet_larger_than_the_endpoints():
    talk = connected()
    talk.says(start_iso(0, 0x06, 1, 1)).takes()
    talk.says(iso(9, 0x06, bytes(101))).asks().hears(iso_status(9, INVAL, 0x06))


def test_iso_out_without_a_stream():
    connected().says(iso(9, 0x06, b"x")).asks().hears(iso_status(9, INVAL, 0x06))


def test_buffered_bulk():
    talk = connected()
    talk.says(start_bulk(4, 0x81, 1024, 2, stream=6)).hears(bulk_status(4, 0x81, SUCCESS, 6))
    talk.asks("submit #1 in 81 1024", "submit #2 in 81 1024")
    talk.does(1, Completion(OK, b"abc")).does(2, Completion(Status.STALL))
    talk.hears(buffered(0, 0x81, b"abc", stream=6), bulk_status(0, 0x81, STALL, 6))


@pytest.mark.parametrize(
    "raw",
    [
        start_bulk(1, 0x81, 0, 1),
        start_bulk(1, 0x81, 511, 1),
        start_bulk(1, 0x81, 512, 0),
        start_bulk(1, 0x81, 32 << 20, 1),
        start_bulk(1, 0x81, 16 << 20, 5),
        start_bulk(1, 0x81, 512, 65),
        start_bulk(1, 0x83, 512, 1),
        start_bulk(1, 0x8F, 512, 1),
    ],
)
def test_buffered_bulk_that_makes_no_sense_or_costs_too_much(raw):
    connected().says(raw).asks().hears(bulk_status(1, raw[24], INVAL))


def test_bulk_streams():
    talk = connected()
    mask = struct.pack("<I", 1 << 17 | 1 << 2)
    talk.says(packet(18, 5, mask + struct.pack("<I", 16))).asks("alloc #1 16 02 81")
    talk.does(1, Completion(OK)).hears(packet(20, 5, mask + struct.pack("<IB", 16, SUCCESS)))
    talk.says(bulk(6, 0x81, 4, stream=16)).asks("submit #2 in 81 4")
    assert talk.transfers[2].stream_id == 16
    talk.says(packet(19, 7, mask)).asks("free #3 02 81")
    talk.does(3, Completion(OK)).hears(packet(20, 7, mask + struct.pack("<IB", 0, SUCCESS)))


@pytest.mark.parametrize(
    ("mask", "count"), [(0, 4), (1 << 19, 4), (1 << 17 | 1 << 3, 4), (1 << 17, 0), (1 << 17, 1 << 31)]
)
def test_bulk_streams_are_for_all_endpoints_or_for_none(mask, count):
    raw = packet(18, 5, struct.pack("<II", mask, count))
    connected().says(raw).asks().hears(packet(20, 5, struct.pack("<IIB", mask, count, INVAL)))


# -- cancel [11] ------------------------------------------------------------------------------------------------------


def test_a_cancel_that_wins():
    talk = connected()
    talk.says(bulk(1, 0x81, 4), cancel(1)).asks("submit #1 in 81 4", "cancel #1").hears()
    talk.does(1, Completion(Status.CANCELLED)).hears(bulk(1, 0x81, 0, status=CANCELLED))


def test_a_cancel_that_loses_gets_the_truth():
    talk = connected()
    talk.says(bulk(1, 0x02, data=b"data"), cancel(1)).asks("submit #1 out 02 4", "cancel #1")
    talk.does(1, Completion(OK, b"", 4)).hears(bulk(1, 0x02, 4))


def test_a_cancel_of_what_is_answered_or_unknown_means_nothing():
    talk = connected()
    talk.at_once = taken
    talk.says(bulk(1, 0x02, data=b"data"), cancel(1), cancel(99)).asks("submit #1 out 02 4").hears(bulk(1, 0x02, 4))


def test_a_second_cancel_means_nothing():
    talk = connected()
    talk.says(bulk(1, 0x81, 4), cancel(1), cancel(1)).asks("submit #1 in 81 4", "cancel #1")
    talk.does(1, Completion(Status.CANCELLED)).hears(bulk(1, 0x81, 0, status=CANCELLED))


def test_a_cancelled_answer_that_was_held_back_leaves_at_once():
    talk = connected()
    talk.says(bulk(1, 0x81, 4), bulk(2, 0x81, 4)).does(2, Completion(OK, b"two")).hears()
    talk.says(cancel(2)).asks("submit #1 in 81 4", "submit #2 in 81 4").hears(bulk(2, 0x81, data=b"two"))


def test_a_cancelled_last_of_a_queue_does_not_wait_for_the_first():
    talk = connected()
    talk.says(bulk(1, 0x81, 4), bulk(2, 0x81, 4), cancel(2)).does(2, Completion(Status.CANCELLED))
    talk.hears(bulk(2, 0x81, 0, status=CANCELLED))


def test_an_id_is_used_again_before_its_cancel_is_answered():
    """QEMU: a ring that is stopped and goes on has the same ids. The first answer is the cancelled one's."""
    talk = connected()
    talk.says(bulk(1, 0x81, 4), cancel(1), bulk(1, 0x81, 4))
    talk.asks("submit #1 in 81 4", "cancel #1", "submit #2 in 81 4")
    talk.does(2, Completion(OK, b"new")).hears()
    talk.does(1, Completion(Status.CANCELLED)).hears(bulk(1, 0x81, 0, status=CANCELLED), bulk(1, 0x81, data=b"new"))


def test_streams_are_not_cancelled_by_ids():
    talk = connected()
    talk.says(packet(15, 0, b"\x83"), cancel(0)).asks(*(f"submit #{tag} in 83 8" for tag in range(1, 6)))


# -- disconnect and another device [12] -------------------------------------------------------------------------------


def leave(talk: Talk) -> None:
    talk.exporter.gone()
    talk.hears(packet(2, 0))
    talk.goes_on().asks("release")


def test_a_new_device_waits_for_the_acknowledgement():
    talk = connected()
    leave(talk)
    talk.exporter.released()
    talk.goes_on().asks("watch")
    talk.says(DISCONNECT_ACK).asks("claim 1-1")
    talk.exporter.accept(INFO)
    talk.hears(SETTINGS, connect())


def test_the_acknowledgement_waits_for_the_device_to_be_released():
    talk = connected()
    leave(talk)
    talk.says(DISCONNECT_ACK).asks()
    talk.exporter.released()
    talk.goes_on().asks("watch", "claim 1-1")


def test_without_acknowledgements_nobody_waits_for_one():
    talk = connected(caps=ALL & ~ACK)
    leave(talk)
    talk.exporter.released()
    talk.goes_on().asks("watch", "claim 1-1")


def test_a_connection_without_device_waits_for_one():
    talk = connected(caps=ALL & ~ACK)
    leave(talk)
    talk.exporter.released()
    talk.goes_on().asks("watch", "claim 1-1")
    talk.exporter.refuse(Refusal.NOT_FOUND)
    talk.goes_on().asks()
    talk.exporter.noticed()
    assert talk.exporter.has_events
    talk.goes_on().asks("claim 1-1")
    talk.exporter.accept(INFO)
    talk.hears(SETTINGS, connect())


@pytest.mark.parametrize("reason", [Refusal.NOT_FOUND, Refusal.BUSY])
def test_a_device_that_is_not_there_yet_is_waited_for(reason):
    talk = Talk()
    talk.says(hello()).asks("claim 1-1").takes()
    talk.exporter.refuse(reason)
    talk.goes_on().asks("watch", "claim 1-1")
    talk.exporter.refuse(reason)
    talk.goes_on().asks().hears()
    talk.exporter.noticed()
    talk.goes_on().asks("claim 1-1")


@pytest.mark.parametrize("reason", [Refusal.FAILED, Refusal.UNAVAILABLE])
def test_a_device_that_cannot_be_had_ends_the_connection(reason):
    talk = Talk()
    talk.says(hello()).takes()
    talk.exporter.refuse(reason)
    talk.hears()
    assert talk.exporter.done


def test_a_change_while_the_claim_is_decided_is_not_missed():
    talk = Talk()
    talk.says(hello()).takes()
    talk.exporter.noticed()
    talk.exporter.refuse(Refusal.BUSY)
    talk.asks("claim 1-1").goes_on().asks("watch", "claim 1-1")


def test_everything_is_answered_while_there_is_no_device():
    talk = connected()
    leave(talk)
    talk.says(
        control(1, CONTROL_IN), bulk(2, 0x81, 4), bulk(3, 0x02, data=b"x"), interrupt(4, 0x04, b"y"),
        set_configuration(5, 1), packet(7, 6), set_alternate(7, 0, 1), packet(10, 8, b"\0"),
        start_iso(9, 0x85, 1, 1), packet(13, 10, b"\x85"), packet(15, 11, b"\x83"), packet(16, 12, b"\x83"),
        start_bulk(13, 0x81, 512, 1), packet(26, 14, struct.pack("<IB", 0, 0x81)),
        packet(18, 15, struct.pack("<II", 4, 2)), packet(19, 16, struct.pack("<I", 4)),
        RESET, cancel(1), iso(17, 0x06, b"z"), packet(22, 0),
    )  # fmt: skip
    talk.asks().hears(
        control(1, CONTROL_IN, length=0, status=IOERROR),
        bulk(2, 0x81, 0, status=IOERROR),
        bulk(3, 0x02, 0, status=IOERROR),
        interrupt(4, 0x04, length=0, status=IOERROR),
        configuration(5, IOERROR, 0),
        configuration(6, IOERROR, 0),
        alternate(7, IOERROR, 0, 255),
        alternate(8, IOERROR, 0, 255),
        iso_status(9, IOERROR, 0x85),
        iso_status(10, IOERROR, 0x85),
        interrupt_status(11, IOERROR, 0x83),
        interrupt_status(12, IOERROR, 0x83),
        bulk_status(13, 0x81, IOERROR),
        bulk_status(14, 0x81, IOERROR),
        packet(20, 15, struct.pack("<IIB", 4, 2, IOERROR)),
        packet(20, 16, struct.pack("<IIB", 4, 0, IOERROR)),
    )


def test_a_lost_connection_gives_the_device_back():
    talk = connected()
    assert not talk.exporter.disconnected(1.0)
    assert talk.exporter.done


def test_streams_of_a_device_that_left_are_forgotten():
    talk = connected()
    talk.says(packet(15, 0, b"\x83")).takes()
    talk.exporter.gone()
    talk.does(1, Completion(Status.GONE)).hears(packet(2, 0))


@pytest.mark.parametrize(
    "raw", [bulk(1, 0x81, 4), set_configuration(1, 2), set_alternate(1, 0, 1), packet(18, 1, struct.pack("<II", 4, 2))]
)
def test_what_a_device_says_after_it_left_is_not_passed_on(raw):
    """The importer has given it up, and the next device has nothing to do with it."""
    talk = connected()
    talk.says(raw)
    talk.exporter.gone()
    talk.does(1, Completion(OK)).hears(packet(2, 0))
    assert talk.exporter.in_flight == 0


def test_nothing_is_said_of_a_device_that_was_never_there():
    talk = Talk()
    talk.says(hello()).takes()
    talk.exporter.gone()
    talk.hears()


# -- the draft [15] ---------------------------------------------------------------------------------------------------


def draft(caps: int = STREAMS) -> Talk:
    talk = Talk(dialect=Dialect.DRAFT)
    talk.says(hello((caps,))).asks("claim 1-1").takes()
    talk.exporter.accept(INFO)
    return talk.hears()  # no infos, no connect


def short(kind: int, id: int, body: bytes = b"", data: bytes = b"") -> bytes:
    return packet(kind, id, body, data, long=False)


def test_the_drafts_device_is_its_connection():
    talk = draft()
    talk.says(short(100, 1, bytes.fromhex("80068000 0001 0000 1200"))).asks("submit #1 in 80 18 setup 8006000100001200")
    talk.exporter.gone()
    talk.hears()
    assert talk.exporter.done


def test_the_drafts_reset_is_answered():
    talk = draft()
    talk.says(short(3, 7)).asks("reset #1").hears()
    talk.exporter.reset_done(1, True)
    talk.hears(short(28, 7, b"\0"))
    talk.says(short(3, 8)).asks().hears(short(28, 8, b"\0"))


def test_the_drafts_bulk_streams_are_of_one_endpoint():
    talk = draft()
    talk.says(short(18, 1, b"\x81\4")).asks("alloc #1 4 81").does(1, Completion(OK)).hears(short(20, 1, b"\0\x81\4"))
    talk.says(short(19, 2, b"\x81")).asks("free #2 81").does(2, Completion(OK)).hears(short(20, 2, b"\0\x81\0"))


def test_the_drafts_settings_have_a_status_alone():
    draft().says(short(6, 1, b"\2")).does(1, Completion(OK)).hears(short(8, 1, b"\0\2"))


@pytest.mark.parametrize("raw", [short(15, 1, b"\x83"), short(103, 1, b"\4\0\1\0", b"x"), short(22, 0), short(24, 0)])
def test_the_draft_has_no_interrupts_filters_and_acknowledgements(raw):
    with pytest.raises(ProtocolError, match="which the protocol does not have"):
        draft().says(raw)


def test_a_device_that_is_not_there_ends_the_drafts_connection():
    talk = Talk(dialect=Dialect.DRAFT)
    talk.says(hello((0,)))
    talk.exporter.refuse(Refusal.NOT_FOUND)
    assert talk.exporter.done


def test_the_shapes_of_the_first_settings():
    """What most tests above take for granted."""
    assert interfaces(*FIRST_INTERFACES) + endpoints(FIRST_ENDPOINTS) == SETTINGS
