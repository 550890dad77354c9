"""The exporting side of USB/IP against importers good, odd and hostile: each corner case of the protocol by its name.

The numbers in brackets are those of the list of interoperability tests in the protocol's fact sheet.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import strategies as usb
from tests.protocols.usbip.wire import (
    DEVID,
    ECONNRESET,
    EINVAL,
    ENODEV,
    ENOMEM,
    EOVERFLOW,
    EPIPE,
    EPROTO,
    EREMOTEIO,
    ESHUTDOWN,
    EXDEV,
    IN,
    INFO,
    OUT,
    Talk,
    control,
    imported,
    op,
    op_import,
    ret_submit,
    ret_unlink,
    submit,
    unlink,
)
from tests.vectors.reader import load
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.events import Refusal
from usbferry.protocols.limits import Limits
from usbferry.protocols.usbip.exporter import Exporter, State
from usbferry.usb.descriptors import Configuration, DeviceDescriptor, Interface
from usbferry.usb.info import DeviceInfo
from usbferry.usb.transfer import Completion, Flags, IsoPacket
from usbferry.usb.types import Speed, Status

OK, STALL, CANCELLED = Status.OK, Status.STALL, Status.CANCELLED
VECTORS = {path.stem: load(path) for path in (Path(__file__).parents[2] / "vectors" / "usbip").glob("*.txt")}


def taken(transfer):
    """A device that answers everything at once."""
    return Completion(OK, b"x" * transfer.length) if transfer.is_in else Completion(OK, b"", transfer.length)


def prompt(limits=None):
    talk = imported(limits or Limits())
    talk.at_once = taken
    return talk


# -- the one operation: lists and imports -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        op(0x8005, status=1),
        op(0x8003, bytes(32), status=1),
        op(0x8005, version=0x0110),
        op(0x8005, version=0x1101),
        op(0x8005, version=0),
        op(0x8000),
        op(0x8002, bytes(32)),
        op(0x8004, bytes(16)),
        op(0x8006, bytes(312)),
        op(0x8007, bytes(312)),
        op(0x0005),
        op(0x0003),
        op(0xFFFF),
    ],
    ids=lambda raw: raw[:8].hex(),
)
def test_a_bad_operation_is_closed_without_a_reply(request_):
    """[1] Status set, another version, an unknown code, a reply as a request."""
    talk = Talk()
    with pytest.raises(ProtocolError):
        talk.says(request_)
    talk.asks().hears()


def test_op_rep_import_is_320_bytes_and_a_failure_8():
    """[2] Interface records do not follow."""
    talk = Talk().says(op_import()).asks("claim 1-1")
    talk.exporter.accept(INFO)
    assert talk.exporter.outgoing_bytes == 320
    for reason, status in (
        (Refusal.NOT_FOUND, 4),
        (Refusal.BUSY, 2),
        (Refusal.FAILED, 3),
        (Refusal.UNAVAILABLE, 1),
    ):
        talk = Talk().says(op_import()).asks("claim 1-1")
        talk.exporter.refuse(reason)
        talk.hears(op(0x0003, status=status))
        assert talk.exporter.done


def test_no_byte_before_a_command_comes():
    """After the reply to the import the server is silent until it is asked."""
    imported().hears().waits(3600).hears()


def listed(*infos):
    talk = Talk().says(op(0x8005)).asks("list")
    talk.exporter.listed(infos)
    assert talk.exporter.done
    return b"".join(talk.exporter.outgoing)


def test_an_empty_list_is_12_bytes():
    """[3]"""
    assert listed() == op(0x0005, bytes(4))


def test_a_list_with_unconfigured_devices_and_devices_without_interfaces():
    """[3] bConfigurationValue 0 and bNumInterfaces 0 are legal, and no records follow then."""
    unconfigured = DeviceInfo("1-1", INFO.device, INFO.configurations, configuration=0)
    bare = DeviceInfo("1-2", DeviceDescriptor(1, 2), (Configuration(1),))
    raw = listed(unconfigured, bare, INFO)
    assert len(raw) == 12 + 3 * 312 + 2 * 4
    assert raw[:12] == op(0x0005, (3).to_bytes(4, "big"))
    assert [raw[12 + at * 312 + 0x135 : 12 + at * 312 + 0x138] for at in range(3)] == [b"\0\1\0", b"\1\1\0", b"\1\1\2"]
    assert raw[-8:] == bytes([8, 6, 0x50, 0, 0xFF, 0, 0, 0])


def test_text_of_other_systems_is_cut_and_padded():
    """Windows instance ids, too long a path, bytes that were no UTF-8: nothing breaks a list for the others."""
    raw = listed(
        DeviceInfo("1-1", INFO.device, path="USB\\VID_046D\\№"),
        DeviceInfo("1-2", INFO.device, path="x" * 300),
        DeviceInfo("n" * 40, INFO.device, path="/dev/\udcff"),
    )
    paths = [raw[12 + at * 312 :][:256] for at in range(3)]
    assert paths[0] == "USB\\VID_046D\\№".encode().ljust(256, b"\0")
    assert paths[1] == b"x" * 255 + b"\0"
    assert paths[2] == b"/dev/?".ljust(256, b"\0")
    assert raw[12 + 2 * 312 + 0x100 :][:32] == b"n" * 31 + b"\0"


def test_a_device_with_more_interfaces_than_the_list_can_say():
    """256 numbers do not fit bNumInterfaces; once the whole list failed."""
    many = DeviceInfo("1-1", INFO.device, (Configuration(1, tuple(Interface(n) for n in range(256))),))
    raw = listed(many)
    assert (raw[12 + 0x137], len(raw)) == (255, 12 + 312 + 255 * 4)


def test_super_speed_plus_is_said_as_super_speed():
    raw = listed(DeviceInfo("1-1", INFO.device, speed=Speed.SUPER_PLUS))
    assert raw[12 + 0x128 : 12 + 0x12C] == (5).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("busid", "name"),
    [
        (b"1-1\0rubbish after the end", "1-1"),
        (b"x" * 32, "x" * 32),
        (b"", ""),
        (b"usbip-vudc.0", "usbip-vudc.0"),
        (b"\xff\xff", "\ufffd\ufffd"),
    ],
)
def test_a_busid_is_opaque_and_ends_at_its_nul(busid, name):
    """And its 32 bytes come back as they came: the importer compares them."""
    talk = Talk().says(op_import(busid)).asks(f"claim {name}")
    talk.exporter.accept(INFO)
    reply = b"".join(talk.exporter.outgoing)
    assert reply[0x108:0x128] == busid.ljust(32, b"\0")


def test_commands_sent_with_the_import_wait_for_its_answer():
    talk = Talk().says(op_import() + submit(1, IN, 1, 8)).asks("claim 1-1")
    assert talk.unread == 48
    talk.exporter.accept(INFO)
    talk.says(b"").asks("submit #1 in 81 8")


def test_nothing_is_read_after_a_list_or_a_refusal():
    talk = Talk().says(op(0x8005) + b"anything").asks("list")
    talk.exporter.listed([])
    talk.says(b"more").asks()
    talk = Talk().says(op_import() + b"anything")
    talk.exporter.refuse(Refusal.BUSY)
    talk.says(b"more").asks("claim 1-1")


def test_the_first_request_must_come_in_time():
    talk = Talk(Limits(handshake_seconds=10))
    assert talk.exporter.deadline() == 10
    talk.says(op_import()[:39]).waits(9.9)
    with pytest.raises(ProtocolError, match="10 s"):
        talk.waits(0.2)


def test_an_import_has_all_the_time_it_needs():
    """usbipd-win restarts a driver for it."""
    talk = Talk().says(op_import())
    assert talk.exporter.deadline() is None
    talk.waits(60)
    talk.exporter.accept(INFO)
    talk.waits(3600)
    assert talk.exporter.deadline() is None


# -- framing ------------------------------------------------------------------------------------------------------

SCRIPT = b"".join(
    [
        submit(1, IN, 1, 5),
        submit(2, OUT, 2, payload=b"payload"),
        control(3, "80 06 00 01 00 00 12 00"),
        submit(4, OUT, 3, payload=bytes(12), iso=[(0, 4), (8, 4)]),
        unlink(5, 1),
        submit(6, IN, 3, 8, iso=[(0, 4), (4, 4)]),
    ]
)
SCRIPT_EVENTS = [
    "submit #1 in 81 5",
    "submit #2 out 02 7",
    "submit #3 in 80 18 setup 8006000100001200",
    "submit #4 iso*2 out 03 12",
    "cancel #1",
    "submit #6 iso*2 in 83 8",
]


@pytest.mark.parametrize("step", [0, 1, 2, 3, 7, 16, 47, 48, 49, 100])
def test_messages_split_over_many_reads_and_many_in_one(step):
    """[4]"""
    talk = imported().says(SCRIPT, step=step).asks(*SCRIPT_EVENTS)
    assert (talk.payloads[2], talk.payloads[4], talk.unread) == (b"payload", bytes(12), 0)


@pytest.mark.parametrize("cut", range(len(SCRIPT) + 1))
def test_cut_anywhere(cut):
    imported().says(SCRIPT[:cut]).says(SCRIPT[cut:]).asks(*SCRIPT_EVENTS)


def test_what_is_needed_next_is_never_more_than_the_message():
    talk = imported()
    for message in (submit(1, OUT, 1, payload=bytes(100)), submit(2, OUT, 3, payload=bytes(8), iso=[(0, 8)])):
        assert talk.exporter.needed == 48
        talk.says(message[:48])
        assert talk.exporter.needed == len(message)
        talk.says(message[48:])


def test_a_pump_may_leave_early_and_come_back():
    """As it does when too much is unsent: nothing is lost, nothing is done twice."""
    talk, seen, view, at = imported(), [], memoryview(SCRIPT), 0
    while at < len(view):
        talk.exporter.receive(view[at:], 0.0)
        for event in talk.exporter.events():
            seen.append(event)
            break
        at += talk.exporter.consumed
    assert [type(event).__name__ for event in seen] == ["Submit"] * 4 + ["Cancel", "Submit"]
    assert talk.exporter.in_flight == 5


@pytest.mark.parametrize("command", [0, 3, 4, 5, 0x8003, 0x01118005, 0xFFFFFFFF])
def test_an_unknown_command_loses_the_framing(command):
    with pytest.raises(ProtocolError, match="command"):
        imported().says(command.to_bytes(4, "big") + submit(1, IN, 1, 8)[4:])


@pytest.mark.parametrize("message", [submit(1, IN, 1, 8, devid=DEVID + 1), unlink(1, 2, devid=0)])
def test_a_wrong_devid_closes(message):
    with pytest.raises(ProtocolError, match="devid"):
        imported().says(message)


def test_a_direction_that_is_none():
    with pytest.raises(ProtocolError, match="direction 2"):
        imported().says(submit(1, 2, 1, 8))


# -- sequence numbers (§4.1) ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1, 0x7FFFFFFE, 0x80000000, 0xFFFFFFFD])
def test_seqnums_are_32_bits_and_wrap(first):
    """[6]"""
    numbers = [(first + at) & 0xFFFFFFFF for at in range(6)]
    talk = imported().says(*(submit(n, IN, 1, 1) for n in numbers))
    talk.asks(*(f"submit #{n} in 81 1" for n in numbers))
    for number in numbers:
        talk.does(number, Completion(OK, b"x")).hears(ret_submit(number, data=b"x"))


@pytest.mark.parametrize("first", [2, 0x7FFFFFF0, 0xFFFFFFF0])
def test_the_parity_scheme_of_usbip_win2(first):
    """[6] Bit 0 is the direction, and it relies on getting the number back; unlinks of either kind are found."""
    numbers = [(first + at * 2 & 0xFFFFFFFF, at % 2) for at in range(12)]
    talk = imported()
    for number, way in numbers:
        talk.says(
            submit(number | way, way, 1, 4, packets=-1) if way else submit(number, way, 1, payload=b"data", packets=-1)
        )
    for number, way in numbers:
        tag = number | way
        talk.says(unlink(tag ^ 0x40000000, tag)).does(tag, Completion(CANCELLED))
        talk.hears(ret_unlink(tag ^ 0x40000000, ECONNRESET))


def test_a_seqnum_in_flight_twice_closes():
    """usbipd-win does the same; there would be two answers to one number."""
    talk = imported().says(submit(7, IN, 1, 8))
    with pytest.raises(ProtocolError, match="seqnum 7 is in flight"):
        talk.says(submit(7, IN, 2, 8))


def test_a_seqnum_is_free_again_once_answered():
    talk = prompt()
    for _ in range(3):
        talk.says(submit(7, IN, 1, 1)).hears(ret_submit(7, data=b"x"))


# -- number_of_packets (§4.2), flags (§4.4), interval ---------------------------------------------------------------


@pytest.mark.parametrize("packets", [0, -1, -2, -(1 << 31)])
@pytest.mark.parametrize("later", [False, True])
def test_the_number_of_packets_is_echoed(packets, later):
    """[5] Linux says 0, usbip-win2 says -1, and both want their own back."""
    talk = imported() if later else prompt()
    talk.says(submit(1, IN, 1, 1, packets=packets, start_frame=-1))
    if later:
        talk.does(1, Completion(OK, b"x"))
    talk.hears(ret_submit(1, data=b"x", packets=packets, start_frame=-1))


def test_flags_that_are_the_kernels_own_are_masked():
    talk = imported().says(submit(1, IN, 1, 8, flags=0xFFFFFFFF), submit(2, IN, 1, 8, flags=0x00F803FE & ~0x42))
    assert talk.transfers[1].flags == Flags.SHORT_NOT_OK | Flags.ISO_ASAP | Flags.ZERO_PACKET
    assert talk.transfers[2].flags == Flags.NONE


def test_the_direction_is_the_headers_not_the_flags():
    """usbip-win2 never sets URB_DIR_IN; old kernels leak it."""
    imported().says(submit(1, IN, 1, 8, flags=0), submit(2, OUT, 1, payload=b"x", flags=0x200)).asks(
        "submit #1 in 81 8", "submit #2 out 01 1"
    )


def test_the_interval_is_handed_on_and_never_judged():
    talk = imported()
    for tag, interval in enumerate((0, -1, 1, 1 << 30)):
        talk.says(submit(tag, IN, 1, 8, interval=interval))
        assert talk.transfers[tag].interval == interval


# -- lengths (§4.5) and limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [IN, OUT])
@pytest.mark.parametrize("length", [-1, -(1 << 31)])
def test_a_negative_length_closes(way, length):
    """[12]"""
    talk = imported()
    with pytest.raises(ProtocolError, match="length"):
        talk.says(submit(1, way, 1, length))
    talk.asks()
    assert talk.exporter.needed <= 48


@pytest.mark.parametrize("length", [0x7FFFFFFF, (16 << 20) + 1])
def test_a_huge_out_length_closes_before_anything_is_allocated(length):
    """[12] CVE-2017-16913."""
    talk = imported()
    with pytest.raises(ProtocolError, match=str(length)):
        talk.says(submit(1, OUT, 1, length))
    assert talk.exporter.needed <= 48


@pytest.mark.parametrize("length", [0x7FFFFFFF, (16 << 20) + 1])
def test_a_huge_in_length_is_refused_and_the_link_stays(length):
    """[12] Nothing follows it, so the framing is not lost."""
    talk = imported().says(submit(1, IN, 1, length), submit(2, IN, 1, 8)).hears(ret_submit(1, ENOMEM))
    talk.asks("submit #2 in 81 8")


def test_the_largest_transfer_is_served():
    talk = prompt(Limits(transfer_bytes=100)).says(submit(1, OUT, 1, payload=bytes(100)), submit(2, IN, 1, 100))
    talk.hears(ret_submit(1, actual=100), ret_submit(2, data=b"x" * 100))


@pytest.mark.parametrize("packets", [1025, 0x7FFFFFFF])
def test_too_many_packets_close(packets):
    """[12] CVE-2017-16913."""
    talk = imported()
    with pytest.raises(ProtocolError, match="packets"):
        talk.says(submit(1, IN, 1, 0, packets=packets))
    assert talk.exporter.needed <= 48


def test_a_payload_for_a_missing_endpoint_is_consumed():
    """[8] The reply is -32 and the stream stays in step; the Linux server drops it and loses its place."""
    talk = imported().says(submit(1, OUT, 9, payload=b"nobody wants this"), submit(2, IN, 1, 8))
    talk.does(1, Completion(STALL)).hears(ret_submit(1, EPIPE)).asks("submit #1 out 09 17", "submit #2 in 81 8")


@pytest.mark.parametrize("ep", [16, 0x81, 0x100, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("waiting", [False, True])
def test_an_endpoint_number_over_15(ep, waiting):
    """CVE-2017-16912. No device sees it, and it waits for nobody: once, 0x81 OUT waited for reads of endpoint 1."""
    talk = imported()
    if waiting:
        talk.says(submit(1, IN, 1, 8), submit(2, OUT, 1, payload=b"x"), control(3, "00 09 01 00 00 00 00 00")).asks(
            "submit #1 in 81 8", "submit #2 out 01 1", "submit #3 out 00 0 setup 0009010000000000"
        )
    talk.says(submit(10, OUT, ep, payload=b"gone"), submit(11, IN, ep, 8)).asks()
    talk.hears(ret_submit(10, EPIPE), ret_submit(11, EPIPE))
    talk.says(submit(12, IN, ep, 8, iso=[(0, 8)])).hears(ret_submit(12, EPIPE, iso=[(0, 8, 0, EXDEV)], errors=1))


def test_over_the_number_of_transfers_a_submit_is_refused_and_reading_goes_on():
    limits = Limits(transfers=3)
    talk = imported(limits).says(*(submit(n, IN, 1, 8) for n in range(5)))
    talk.hears(ret_submit(3, ENOMEM), ret_submit(4, ENOMEM))
    talk.says(unlink(10, 0)).does(0, Completion(CANCELLED)).hears(ret_unlink(10, ECONNRESET))
    talk.says(submit(5, IN, 1, 8)).hears()
    assert talk.exporter.in_flight == 3


def test_over_the_bytes_in_flight_a_submit_is_refused():
    talk = imported(Limits(bytes_in_flight=100)).says(submit(1, IN, 1, 60), submit(2, OUT, 2, payload=bytes(41)))
    talk.hears(ret_submit(2, ENOMEM))
    talk.says(submit(3, IN, 1, 40)).hears()
    talk.does(1, Completion(OK, b"x")).hears(ret_submit(1, data=b"x"))
    talk.says(submit(4, IN, 1, 60)).hears()


def test_one_transfer_alone_may_have_all_the_bytes():
    imported(Limits(bytes_in_flight=100)).says(submit(1, IN, 1, 1000)).asks("submit #1 in 81 1000").hears()


def test_an_isochronous_transfer_over_the_limit_is_refused_with_its_descriptors():
    talk = imported(Limits(transfers=1)).says(submit(1, IN, 1, 8), submit(2, IN, 3, 8, iso=[(0, 4), (4, 4)]))
    talk.hears(ret_submit(2, ENOMEM, iso=[(0, 4, 0, EXDEV), (4, 4, 0, EXDEV)], errors=2))


def test_an_answer_at_once_is_never_over_the_limit():
    talk = prompt(Limits(transfers=1, bytes_in_flight=1))
    for tag in range(10):
        talk.says(submit(tag, IN, 1, 8)).hears(ret_submit(tag, data=b"x" * 8))


# -- control transfers: setup and header ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "asked"),
    [(18, 18), (255, 18), (8, 8), (0, 0)],
    ids=["equal", "buffer larger", "buffer smaller", "no buffer"],
)
def test_where_the_buffer_and_wlength_differ_the_smaller_counts_in(length, asked):
    """[10] Windows clients send this; the Linux server kills the connection over it."""
    talk = imported().says(control(1, "80 06 00 01 00 00 12 00", length=length))
    way = "in 80" if asked else "out 00"
    talk.asks(f"submit #1 {way} {asked} setup 800600010000{asked:02x}00")
    talk.does(1, Completion(OK, b"d" * asked)).hears(ret_submit(1, data=b"d" * asked))


@pytest.mark.parametrize("payload", [b"1234", b"12345678", b""])
def test_where_the_buffer_and_wlength_differ_the_smaller_counts_out(payload):
    talk = imported().says(control(1, "40 01 00 00 00 00 06 00", payload), submit(2, IN, 1, 8))
    size = min(6, len(payload))
    talk.asks(f"submit #1 out 00 {size} setup 400100000000{size:02x}00", "submit #2 in 81 8")
    assert talk.payloads[1] == payload[:size]
    talk.does(1, Completion(OK, b"", size)).hears(ret_submit(1, actual=size))


@pytest.mark.parametrize(
    ("setup", "way", "payload"),
    [("80 06 00 01 00 00 12 00", OUT, b"x" * 18), ("40 01 00 00 00 00 06 00", IN, b"")],
)
def test_a_direction_that_contradicts_the_setup_stalls(setup, way, payload):
    """The payload is consumed."""
    talk = imported().says(control(1, setup, payload, length=len(payload) or 6, way=way), submit(2, IN, 1, 8))
    talk.hears(ret_submit(1, EPIPE)).asks("submit #2 in 81 8")


@pytest.mark.parametrize("way", [IN, OUT])
def test_an_in_request_without_data_stage_is_out(way):
    """The kernel warns of a "bogus control dir" over it."""
    talk = imported().says(control(1, "c0 01 00 00 00 00 00 00", way=way))
    talk.asks("submit #1 out 00 0 setup c001000000000000").does(1, Completion()).hears(ret_submit(1))


@pytest.mark.parametrize("flags", [0, 1])
def test_control_in_with_less_than_wlength(flags):
    """[9] The device decides on SHORT_NOT_OK; the data goes with either status."""
    setup = bytes.fromhex("80060003ff00ff00")
    talk = imported().says(submit(1, IN, 0, 255, setup=setup, flags=flags))
    assert talk.transfers[1].flags == flags
    status = Status.SHORT if flags else OK
    talk.does(1, Completion(status, b"four")).hears(ret_submit(1, EREMOTEIO if flags else 0, b"four"))


def test_packets_on_the_control_endpoint_mean_nothing():
    """No descriptors follow: the pipe's type decides that, see isochronous_endpoints."""
    setup = bytes.fromhex("8006000100001200")
    talk = imported().says(submit(1, IN, 0, 18, setup=setup, packets=0x41414141))
    talk.asks("submit #1 in 80 18 setup 8006000100001200").does(1, Completion(OK, b"abc"))
    talk.hears(ret_submit(1, data=b"abc", packets=0x41414141))


# -- special requests (§5.3) ----------------------------------------------------------------------------------------


def test_set_address_is_answered_here():
    """[13] The bridge's own business; the device must not hear of it."""
    imported().says(control(1, "00 05 0c 00 00 00 00 00")).asks().hears(ret_submit(1))


def test_set_address_keeps_its_place_in_the_order():
    talk = imported().says(control(1, "00 09 01 00 00 00 00 00"), control(2, "00 05 0c 00 00 00 00 00")).hears()
    talk.does(1, Completion()).hears(ret_submit(1), ret_submit(2))


@pytest.mark.parametrize(
    "setup",
    ["0009010000000000", "0009020000000000", "0009000000000000", "010b010000000000", "0201000081000000"],
    ids=["SET_CONFIGURATION", "of another", "of none", "SET_INTERFACE", "CLEAR_HALT"],
)
def test_requests_that_change_settings_go_to_the_device(setup):
    """[13] As the control transfers they are; the device makes barriers of them."""
    talk = imported().says(control(1, setup)).asks(f"submit #1 out 00 0 setup {setup}")
    talk.does(1, Completion()).hears(ret_submit(1))


@pytest.mark.parametrize("port", ["00", "01", "ff"])
def test_port_reset_is_a_reset_and_later_commands_come_behind_it(port):
    """[13] usbip-win2 sends it; whatever the port, it means this device."""
    talk = imported().says(
        control(1, f"23 03 04 00 {port} 00 00 00"), submit(2, IN, 1, 8), control(3, "80 06 00 01 00 00 12 00")
    )
    talk.asks("reset #1", "submit #2 in 81 8", "submit #3 in 80 18 setup 8006000100001200").hears()
    talk.exporter.reset_done(1, True)
    talk.hears(ret_submit(1))


def test_a_reset_that_lost_the_device_closes():
    talk = imported().says(control(1, "23 03 04 00 01 00 00 00"))
    talk.exporter.reset_done(1, False)
    talk.exporter.gone()
    talk.hears(ret_submit(1, ENODEV))
    assert talk.exporter.done


@pytest.mark.parametrize("setup", ["2303010001000000", "2303080001000000", "2301040001000000", "0303040001000000"])
def test_other_requests_to_ports_are_none_of_ours(setup):
    imported().says(control(1, setup)).asks(f"submit #1 out 00 0 setup {setup}")


# -- answers (§3.3, §5.4) -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [s for s in Status if s is not OK])
def test_an_error_carries_its_data_in(status):
    talk = imported().says(submit(1, IN, 1, 8))
    talk.does(1, Completion(status, b"part"))
    heard = b"".join(talk.exporter.outgoing)
    assert (heard[24:28], heard[48:]) == ((4).to_bytes(4, "big"), b"part")
    assert int.from_bytes(heard[20:24], "big", signed=True) < 0


def test_out_has_no_data_and_says_how_much_was_taken():
    talk = imported().says(submit(1, OUT, 1, payload=b"12345678"))
    talk.does(1, Completion(STALL, b"what is this?", 3)).hears(ret_submit(1, EPIPE, actual=3))


@pytest.mark.parametrize("later", [False, True])
def test_a_device_that_babbles_is_cut(later):
    """CVE-2016-3955: a client that trusted actual_length wrote past its buffer; ours never says more than was asked."""
    talk = imported()
    completion = Completion(OK, b"123456789")
    if not later:
        talk.at_once = lambda transfer: completion
    talk.says(submit(1, IN, 1, 8))
    if later:
        talk.does(1, completion)
    talk.hears(ret_submit(1, EOVERFLOW, b"12345678"))


def test_a_device_that_claims_more_than_it_gave():
    talk = imported().says(submit(1, IN, 1, 8), submit(2, OUT, 1, payload=b"x"))
    talk.does(1, Completion(OK, b"", 5)).hears(ret_submit(1, EOVERFLOW))
    talk.does(2, Completion(OK, b"", 5)).hears(ret_submit(2, EOVERFLOW, actual=1))


def test_a_status_that_is_none_is_an_error_of_the_bus():
    imported().says(submit(1, IN, 1, 8)).does(1, Completion(99, b"x")).hears(ret_submit(1, EPROTO, b"x"))


def test_a_reply_without_its_data_is_short_not_padded():
    """CVE-2017-16914: length without a buffer."""
    imported().says(submit(1, IN, 1, 512)).does(1, Completion()).hears(ret_submit(1))


def test_order_is_kept_within_an_endpoint():
    talk = imported().says(submit(1, IN, 1, 8), submit(2, IN, 1, 8), submit(3, IN, 1, 8))
    talk.does(3, Completion(OK, b"3")).does(2, Completion(OK, b"2")).hears()
    talk.does(1, Completion(OK, b"1"))
    talk.hears(ret_submit(1, data=b"1"), ret_submit(2, data=b"2"), ret_submit(3, data=b"3"))


def test_an_answer_at_once_still_waits_for_what_was_before_it():
    """A device may not do that; the order holds even so."""
    talk = imported().says(submit(1, IN, 1, 1))
    talk.at_once = taken
    talk.says(submit(2, IN, 1, 1)).hears()
    talk.does(1, Completion(OK, b"1")).hears(ret_submit(1, data=b"1"), ret_submit(2, data=b"x"))


def test_endpoints_do_not_wait_for_each_other():
    """A parked interrupt read holds nobody up; nor do the two directions of one number."""
    talk = imported().says(submit(1, IN, 1, 8), submit(2, OUT, 1, payload=b"x"), submit(3, IN, 2, 8))
    talk.does(3, Completion(OK, b"3")).hears(ret_submit(3, data=b"3"))
    talk.does(2, Completion(OK, b"", 1)).hears(ret_submit(2, actual=1))


def test_an_interrupt_read_is_left_pending_for_ever():
    imported().says(submit(1, IN, 1, 8)).waits(1e6).hears()


def test_an_answer_to_an_unknown_or_answered_tag_is_ignored():
    talk = imported().says(submit(1, IN, 1, 8)).does(1, Completion(OK, b"1")).hears(ret_submit(1, data=b"1"))
    talk.does(1, Completion(OK, b"again")).does(99, Completion()).hears()


def test_unplugged_with_transfers_pending():
    """[14] All are answered, then the socket closes: USB/IP's only word for it."""
    talk = imported().says(*(submit(n, IN, n, 8) for n in (1, 2, 3)))
    for tag in (1, 2, 3):
        talk.does(tag, Completion(Status.GONE))
    talk.exporter.gone()
    talk.hears(*(ret_submit(tag, ENODEV) for tag in (1, 2, 3)))
    assert talk.exporter.done
    assert talk.exporter.disconnected(0.0) is False


def test_taken_away_with_transfers_pending():
    imported().says(submit(1, IN, 1, 8)).does(1, Completion(Status.SHUTDOWN)).hears(ret_submit(1, ESHUTDOWN))


def test_nothing_is_read_once_the_device_is_gone():
    talk = imported()
    talk.exporter.gone()
    talk.says(submit(1, IN, 1, 8)).asks().hears()


# -- unlink, row by row (§5.5) --------------------------------------------------------------------------------------


def test_unlink_of_a_pending_transfer():
    """RET_UNLINK(-104), with the unlink's seqnum, and no RET_SUBMIT ever."""
    talk = imported().says(submit(1, IN, 1, 8), unlink(2, 1)).asks("submit #1 in 81 8", "cancel #1").hears()
    talk.does(1, Completion(CANCELLED)).hears(ret_unlink(2, ECONNRESET))
    talk.does(1, Completion(OK, b"too late")).hears()


def test_unlink_of_what_was_answered_already():
    talk = prompt().says(submit(1, IN, 1, 1)).hears(ret_submit(1, data=b"x"))
    talk.says(unlink(2, 1)).hears(ret_unlink(2))


def test_unlink_while_it_completes_by_itself():
    """The false-success trap: RET_UNLINK(0) alone would give the driver a success without its data."""
    talk = imported().says(submit(1, IN, 1, 8), unlink(2, 1))
    talk.does(1, Completion(OK, b"it came")).hears(ret_submit(1, data=b"it came"), ret_unlink(2))


@pytest.mark.parametrize("status", [s for s in Status if s not in (OK, CANCELLED)])
def test_unlink_while_it_fails_by_itself(status):
    talk = imported().says(submit(1, IN, 1, 8), unlink(2, 1)).does(1, Completion(status))
    heard = b"".join(talk.exporter.outgoing)
    assert (heard[:8], heard[48:]) == (ret_submit(1)[:8], ret_unlink(2))


def test_unlink_when_a_part_was_done():
    """What was executed is not reported as cancelled without a word: the bytes are told first."""
    talk = imported().says(submit(1, IN, 1, 8), unlink(2, 1))
    talk.does(1, Completion(CANCELLED, b"part")).hears(ret_submit(1, ECONNRESET, b"part"), ret_unlink(2))
    talk.says(submit(3, OUT, 1, payload=b"12345678"), unlink(4, 3))
    talk.does(3, Completion(CANCELLED, b"", 5)).hears(ret_submit(3, ECONNRESET, actual=5), ret_unlink(4))


def test_unlink_twice_before_the_end():
    """The second is answered after the first: its 0 before that would be a false success."""
    talk = imported().says(submit(1, IN, 1, 8), unlink(2, 1), unlink(3, 1)).hears()
    talk.does(1, Completion(CANCELLED)).hears(ret_unlink(2, ECONNRESET), ret_unlink(3))


def test_unlink_twice_after_the_end():
    talk = imported().says(submit(1, IN, 1, 8), unlink(2, 1)).does(1, Completion(CANCELLED))
    talk.says(unlink(3, 1)).hears(ret_unlink(2, ECONNRESET), ret_unlink(3))


def test_unlinks_of_one_transfer_are_bounded():
    """A peer could fill the memory with them while a device takes its time."""
    talk = imported(Limits(cancels=3)).says(submit(1, IN, 1, 8), *(unlink(n, 1) for n in (2, 3, 4)))
    with pytest.raises(ProtocolError, match="unlinks of #1"):
        talk.says(unlink(5, 1))
    talk = imported(Limits(cancels=3)).says(*(unlink(n, 1) for n in (2, 3, 4)))
    with pytest.raises(ProtocolError, match="unlinks of #1"):
        talk.says(unlink(5, 1))


def test_unlink_of_a_held_back_completion():
    """It is done, but waits for its order: now it leaves, with its result."""
    talk = imported().says(submit(1, IN, 1, 8), submit(2, IN, 1, 8)).does(2, Completion(OK, b"2")).hears()
    talk.says(unlink(3, 2)).hears(ret_submit(2, data=b"2"), ret_unlink(3))
    talk.asks("submit #1 in 81 8", "submit #2 in 81 8")
    talk.does(1, Completion(OK, b"1")).hears(ret_submit(1, data=b"1"))


def test_unlink_frees_what_was_held_back_behind_it():
    talk = imported().says(submit(1, IN, 1, 8), submit(2, IN, 1, 8), unlink(3, 1)).does(2, Completion(OK, b"2")).hears()
    talk.does(1, Completion(CANCELLED)).hears(ret_unlink(3, ECONNRESET), ret_submit(2, data=b"2"))


def test_unlink_of_another_endpoints_transfer():
    """The header's endpoint and direction are not looked at: a transfer is its seqnum."""
    talk = (
        imported()
        .says(submit(1, IN, 1, 8), submit(2, IN, 2, 8), unlink(3, 2, way=OUT, ep=1))
        .asks("submit #1 in 81 8", "submit #2 in 82 8", "cancel #2")
    )
    talk.does(2, Completion(CANCELLED)).hears(ret_unlink(3, ECONNRESET))
    talk.does(1, Completion(OK, b"1")).hears(ret_submit(1, data=b"1"))


def test_unlinks_from_the_last_to_the_first():
    """As hosts kill a queue, waiting for each: none may be held back behind those still parked."""
    talk = imported().says(*(submit(n, IN, 1, 8) for n in range(1, 9)))
    for target in range(8, 0, -1):
        talk.says(unlink(100 + target, target)).does(target, Completion(CANCELLED))
        talk.hears(ret_unlink(100 + target, ECONNRESET))


def test_unlink_is_no_disconnect():
    """jiegec/usbip issue 39."""
    talk = (
        imported()
        .says(submit(1, IN, 1, 8), unlink(2, 1))
        .does(1, Completion(CANCELLED))
        .hears(ret_unlink(2, ECONNRESET))
    )
    talk.says(submit(3, IN, 1, 8)).does(3, Completion(OK, b"3")).hears(ret_submit(3, data=b"3"))


def test_unlink_of_a_special_request():
    talk = imported().says(control(1, "23 03 04 00 01 00 00 00"), unlink(2, 1)).asks("reset #1", "cancel #1")
    talk.exporter.reset_done(1, True)
    talk.hears(ret_submit(1), ret_unlink(2))


@pytest.mark.parametrize("first", [None, 0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_an_unlink_that_overtook_its_submit_is_held(first):
    """[7] vhci sends one list after the other. The submit is not run; only the unlink is answered."""
    talk, target = imported(), 1 if first is None else (first + 1) & 0xFFFFFFFF
    if first is not None:
        talk.says(submit(first, IN, 2, 8)).asks(f"submit #{first} in 82 8")
    talk.says(unlink((target + 1) & 0xFFFFFFFF, target)).hears()
    talk.says(submit(target, IN, 1, 8)).asks().hears(ret_unlink((target + 1) & 0xFFFFFFFF, ECONNRESET))
    talk.says(submit((target + 2) & 0xFFFFFFFF, IN, 1, 8))
    assert len(talk.transfers) == 1 + (first is not None)


def test_an_overtaken_submit_with_a_payload_stays_in_step():
    talk = imported().says(submit(1, IN, 1, 8), unlink(3, 2)).asks("submit #1 in 81 8")
    talk.says(submit(2, OUT, 3, payload=bytes(8), iso=[(0, 8)]), submit(4, IN, 1, 8)).asks("submit #4 in 81 8")
    talk.hears(ret_unlink(3, ECONNRESET))


def test_an_overtaking_unlink_twice():
    talk = imported().says(unlink(3, 2), unlink(4, 2)).hears()
    talk.says(submit(2, IN, 1, 8)).asks().hears(ret_unlink(3, ECONNRESET), ret_unlink(4))


def test_an_unlink_of_an_old_unknown_seqnum_is_answered_at_once():
    imported().says(submit(100, IN, 1, 8), unlink(101, 50)).hears(ret_unlink(101))


def test_an_unlink_whose_submit_never_comes_is_answered_in_the_end():
    """[7] An unknown seqnum that looks new."""
    talk = imported(Limits(early_cancel_seconds=5)).says(unlink(3, 2)).waits(1).says(unlink(5, 4))
    assert talk.exporter.deadline() == 5
    talk.waits(3.9).hears()
    talk.waits(0.2).hears(ret_unlink(3))
    assert talk.exporter.deadline() == 6
    talk.waits(1).hears(ret_unlink(5))
    assert talk.exporter.deadline() is None


def test_held_unlinks_are_bounded():
    """Over the limit the oldest is answered: it names nothing."""
    talk = imported(Limits(early_cancels=3)).says(*(unlink(1000 + n, n) for n in range(1, 6)))
    talk.hears(ret_unlink(1001), ret_unlink(1002))


@given(st.data())
def test_never_a_ret_submit_after_its_ret_unlink(data):
    """[7] Whatever the order of submits, unlinks and completions: one terminal answer each, and none lost.

    The unlink of a transfer ends with -104 and nothing else, or with 0 after the transfer's own answer.
    """
    talk, rng = imported(Limits(transfers=8)), random.Random(data.draw(st.integers(0, 1 << 32)))
    start = data.draw(st.sampled_from([1, 0x7FFFFFF8, 0xFFFFFFF0]))
    number, submitted, unlinks, overtaken = start, [], [], []
    for _ in range(data.draw(st.integers(1, 40))):
        what = rng.random()
        if what < 0.4:
            tag = overtaken.pop() if overtaken and rng.random() < 0.7 else number
            number += tag == number
            submitted.append(tag & 0xFFFFFFFF)
            talk.says(submit(tag & 0xFFFFFFFF, IN, rng.randrange(1, 4), 4))
        elif what < 0.7 and submitted:
            talk.says(unlink(number & 0xFFFFFFFF, rng.choice(submitted)))
            unlinks.append(number & 0xFFFFFFFF)
            number += 1
        elif what < 0.75 and not overtaken:
            overtaken.append(number)
            talk.says(unlink((number + 1) & 0xFFFFFFFF, number & 0xFFFFFFFF))
            unlinks.append((number + 1) & 0xFFFFFFFF)
            number += 2
        elif talk.transfers:
            tag = rng.choice(list(talk.transfers))
            talk.does(tag, Completion(rng.choice([OK, CANCELLED, STALL]), b"" if rng.random() < 0.5 else b"data"))
    for tag in list(talk.transfers):
        talk.does(tag, Completion(CANCELLED))
    talk.waits(10)
    replies = list(_replies(b"".join(talk.exporter.outgoing)))
    ended = [seqnum for command, seqnum, _ in replies if command == 3]
    assert len(set(ended)) == len(ended)
    assert sorted(seqnum for command, seqnum, _ in replies if command == 4) == sorted(unlinks)
    assert talk.exporter.in_flight == 0
    assert set(ended) <= set(submitted)
    silent = [tag for tag in submitted if tag not in ended]
    assert sum(status == ECONNRESET for command, _, status in replies if command == 4) == len(silent)


def _replies(raw: bytes):
    at = 0
    while at < len(raw):
        command, seqnum = int.from_bytes(raw[at : at + 4], "big"), int.from_bytes(raw[at + 4 : at + 8], "big")
        status = int.from_bytes(raw[at + 20 : at + 24], "big", signed=True)
        actual = int.from_bytes(raw[at + 24 : at + 28], "big") if command == 3 else 0
        at += 48 + actual
        yield command, seqnum, status
    assert at == len(raw)


# -- isochronous (§7) -----------------------------------------------------------------------------------------------


def iso_done(*pairs, data=b"", status=OK, start_frame=0):
    """What a device did with each packet: bytes and status. It knows nothing of offsets."""
    packets = [IsoPacket(0, 0, actual, one) for actual, one in pairs]
    return Completion(status, data, sum(actual for actual, _ in pairs), packets, start_frame)


def test_iso_in_is_compact():
    """[11] Empty and short packets; the descriptors keep the submitted offsets and lengths."""
    talk = imported().says(submit(1, IN, 3, 24, iso=[(0, 8), (8, 8), (16, 8)])).asks("submit #1 iso*3 in 83 24")
    talk.does(1, iso_done((3, OK), (0, OK), (8, OK), data=b"abcABCDEFGH"))
    talk.hears(ret_submit(1, data=b"abcABCDEFGH", iso=[(0, 8, 3, 0), (8, 8, 0, 0), (16, 8, 8, 0)]))


def test_iso_out_has_gaps():
    """[11] The whole buffer travels, and the device gets it whole."""
    payload = b"aaaa....bbbb"
    talk = imported().says(submit(1, OUT, 3, payload=payload, iso=[(0, 4), (8, 4)]))
    assert talk.payloads[1] == payload
    assert talk.transfers[1].packets == [IsoPacket(0, 4), IsoPacket(8, 4)]
    talk.does(1, iso_done((4, OK), (4, OK)))
    talk.hears(ret_submit(1, actual=8, iso=[(0, 4, 4, 0), (8, 4, 4, 0)]))


def test_iso_errors_are_counted_and_the_whole_is_ok():
    talk = imported().says(submit(1, IN, 3, 24, iso=[(0, 8), (8, 8), (16, 8)]))
    talk.does(1, iso_done((0, Status.NOT_DONE), (2, Status.CRC), (1, OK), data=b"xyz"))
    talk.hears(ret_submit(1, 0, b"xyz", errors=2, iso=[(0, 8, 0, EXDEV), (8, 8, 2, -84), (16, 8, 1, 0)]))


@pytest.mark.parametrize("status", [STALL, Status.GONE, Status.SHUTDOWN, CANCELLED])
def test_an_iso_transfer_that_fails_as_a_whole_still_has_its_descriptors(status):
    talk = imported().says(submit(1, IN, 3, 16, iso=[(0, 8), (8, 8)])).does(1, Completion(status))
    number = {STALL: EPIPE, Status.GONE: ENODEV, Status.SHUTDOWN: ESHUTDOWN, CANCELLED: ECONNRESET}[status]
    talk.hears(ret_submit(1, number, errors=2, iso=[(0, 8, 0, EXDEV), (8, 8, 0, EXDEV)]))


def test_a_cancelled_iso_transfer():
    talk = imported().says(submit(1, IN, 3, 16, iso=[(0, 8), (8, 8)]), unlink(2, 1))
    talk.does(1, Completion(CANCELLED)).hears(ret_unlink(2, ECONNRESET))


def test_a_cancelled_iso_transfer_that_was_half_done_carries_descriptors():
    talk = imported().says(submit(1, IN, 3, 16, iso=[(0, 8), (8, 8)]), unlink(2, 1))
    talk.does(1, iso_done((8, OK), (0, Status.NOT_DONE), data=b"halfdone", status=CANCELLED))
    talk.hears(ret_submit(1, ECONNRESET, b"halfdone", errors=1, iso=[(0, 8, 8, 0), (8, 8, 0, EXDEV)]), ret_unlink(2))


@pytest.mark.parametrize(
    "iso",
    [
        [(0, 9)],
        [(8, 1)],
        [(0xFFFFFFFF, 1)],
        [(0, 0xFFFFFFFF)],
        [(0xFFFFFFFF, 0xFFFFFFFF)],
        [(0, 8), (0, 8)],
        [(0, 8)] * 1024,
    ],
    ids=lambda iso: f"{len(iso)} of {iso[0]}",
)
@pytest.mark.parametrize("way", [IN, OUT])
def test_packets_that_do_not_fit_their_buffer_are_refused(iso, way):
    """[12] Beyond it, or together more than it: overlapping ones once asked for a gigabyte in a buffer of one MiB."""
    talk = imported().says(submit(1, way, 3, 8 if way == IN else None, b"" if way == IN else bytes(8), iso=iso))
    talk.asks().hears(ret_submit(1, EINVAL, errors=len(iso), iso=[(*one, 0, EXDEV) for one in iso]))


def test_packets_of_no_bytes():
    talk = imported().says(submit(1, IN, 3, 0, iso=[(0, 0), (0, 0)]))
    talk.does(1, iso_done((0, OK), (0, OK))).hears(ret_submit(1, iso=[(0, 0, 0, 0), (0, 0, 0, 0)]))


def test_as_many_packets_as_there_may_be():
    iso = [(n * 4, 4) for n in range(1024)]
    talk = imported().says(submit(1, IN, 3, 4096, iso=iso), step=1000)
    talk.does(1, iso_done(*[(1, OK)] * 1024, data=b"x" * 1024))
    talk.hears(ret_submit(1, data=b"x" * 1024, iso=[(*one, 1, 0) for one in iso]))


@pytest.mark.parametrize(
    "completion",
    [
        iso_done((8, OK), data=b"12345678"),
        iso_done((8, OK), (9, OK), data=b"x" * 17),
        iso_done((8, OK), (8, OK), data=b"x" * 15),
        iso_done((8, OK), (8, OK), data=b"x" * 17),
        Completion(OK, b"x" * 16),
        iso_done((-1, OK), (9, OK), data=b"x" * 8),
    ],
    ids=["a packet too few", "babble", "data short", "data long", "no packets", "negative"],
)
def test_a_device_that_contradicts_itself_did_nothing(completion):
    """Clients kill the connection over a sum that is wrong."""
    talk = imported().says(submit(1, IN, 3, 16, iso=[(0, 8), (8, 8)])).does(1, completion)
    talk.hears(ret_submit(1, EPROTO, errors=2, iso=[(0, 8, 0, EXDEV), (8, 8, 0, EXDEV)]))


@pytest.mark.parametrize(("flags", "asked"), [(0, 77), (2, 0)])
def test_the_start_frame(flags, asked):
    """The device hears of it unless ISO_ASAP is set; it comes back, or what the device says instead."""
    talk = imported().says(submit(1, IN, 3, 8, flags=flags, start_frame=77, iso=[(0, 8)]))
    assert talk.transfers[1].start_frame == asked
    talk.does(1, iso_done((0, OK))).hears(ret_submit(1, start_frame=77, iso=[(0, 8, 0, 0)]))
    talk.says(submit(2, IN, 3, 8, start_frame=77, iso=[(0, 8)]))
    talk.does(2, iso_done((0, OK), start_frame=90)).hears(ret_submit(2, start_frame=90, iso=[(0, 8, 0, 0)]))


def test_what_a_command_says_was_done_is_not_believed():
    """actual_length and status are 0 in a command; a server that summed them up was led astray."""
    raw = bytearray(submit(1, IN, 3, 8, iso=[(0, 8)]))
    raw[-8:] = b"\xff" * 8
    talk = imported().says(bytes(raw))
    assert talk.transfers[1].packets == [IsoPacket(0, 8)]


@given(st.data())
def test_iso_answers_are_consistent(data):
    """What a client checks: the sum, each length, the submitted offsets."""
    transfer = data.draw(usb.iso_transfers())
    iso = [(p.offset, p.length) for p in transfer.packets]
    talk = imported().says(
        submit(1, transfer.endpoint >> 7, transfer.endpoint & 15, transfer.length, bytes(transfer.data), iso=iso)
    )
    done = data.draw(usb.completions(transfer))
    talk.does(1, done)
    raw = b"".join(talk.exporter.outgoing)
    actual, count, errors = (int.from_bytes(raw[at : at + 4], "big") for at in (24, 32, 36))
    size = actual if transfer.is_in else 0
    assert len(raw) == 48 + size + 16 * count
    packets = [raw[48 + size + 16 * n :][:16] for n in range(count)]
    assert [(int.from_bytes(p[:4], "big"), int.from_bytes(p[4:8], "big")) for p in packets] == iso
    sizes = [int.from_bytes(p[8:12], "big") for p in packets]
    assert sum(sizes) == actual
    assert all(got <= length for got, (_, length) in zip(sizes, iso, strict=True))
    assert errors == sum(p[12:] != bytes(4) for p in packets)


# -- vectors --------------------------------------------------------------------------------------------------------

FIRST = ("import", "list")
OTHERS = sorted(set(VECTORS) - set(FIRST))

REPORT = bytes.fromhex("ffffffff860011a784ce5ae2123763612891b10201000004") + bytes(40)
DEVICES = {
    "kernel-document": lambda transfer: None,
    "isochronous": lambda transfer: (
        iso_done((3, OK), (0, Status.NOT_DONE), (8, OK), data=b"abcABCDEFGH")
        if transfer.is_in
        else iso_done((4, OK), (4, OK))
    ),
    "unlink": lambda transfer: None,
}


def play(name, step=0, tail=b""):
    """Feed a vector's requests and give what it answers."""
    talk = Talk() if name in FIRST else imported()
    talk.at_once = DEVICES.get(name, lambda transfer: None)
    for message in VECTORS[name]:
        if message.to_exporter:
            talk.says(message.raw, step=step)
            if name == "unlink" and message.raw[3] == 2:
                talk.does(0x7FFFFFFF, Completion(CANCELLED))
    talk.says(tail)
    if name == "list":
        talk.exporter.listed([INFO])
    if name == "import":
        talk.exporter.accept(INFO)
    if name == "kernel-document":
        talk.does(0xD06, Completion(OK, b"", 64)).does(0xD05, Completion(OK, REPORT))
    return talk


def test_every_vector_is_played():
    assert set(VECTORS) == {*FIRST, *DEVICES}


@pytest.mark.parametrize("name", sorted(VECTORS))
@pytest.mark.parametrize("step", [0, 1, 5], ids=["whole", "byte by byte", "five bytes"])
def test_vector(name, step):
    play(name, step).hears(*(message.raw for message in VECTORS[name] if not message.to_exporter))


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_vector_with_a_tail(name):
    tail = submit(0x99, IN, 1, 8)[:20]
    talk = play(name, tail=tail)
    talk.hears(*(message.raw for message in VECTORS[name] if not message.to_exporter))
    assert talk.unread == len(tail)


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_every_prefix_of_a_vector_waits_for_more(name):
    """And asks for nothing that is not whole."""
    raw = b"".join(message.raw for message in VECTORS[name] if message.to_exporter)
    lengths, at = [], 0
    for message in VECTORS[name]:
        if message.to_exporter:
            at += len(message.raw)
            lengths.append(at)
    for cut in range(len(raw)):
        talk = Talk() if name in FIRST else imported()
        talk.says(raw[:cut])
        whole = max([0, *(length for length in lengths if length <= cut)])
        assert talk.unread == cut - whole
        assert talk.exporter.needed > talk.unread


def test_the_captured_exchange_means_what_it_says():
    talk = play("kernel-document").asks("submit #3333 in 81 64", "submit #3334 out 01 64")
    assert talk.payloads[0xD06] == bytes.fromhex("ffffffff860008a784ce5ae212376300") + bytes(48)


# -- hostile lengths ------------------------------------------------------------------------------------------------

FIELDS = {"seqnum": 4, "devid": 8, "direction": 12, "ep": 16, "flags": 20, "length": 24, "start_frame": 28,
          "packets": 32, "interval": 36, "wLength": 44}  # fmt: skip


@pytest.mark.parametrize("value", [0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0x10000, 0xFFFF])
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "message", [submit(1, IN, 1, 8), submit(1, OUT, 1, 8), submit(1, IN, 0, 8), submit(1, OUT, 3, 8, iso=[(0, 8)])[:48]]
)
def test_extreme_values_in_each_field(message, field, value):
    """An error or an answer, and no promise of more than the limits."""
    raw = bytearray(message)
    raw[FIELDS[field] : FIELDS[field] + 4] = value.to_bytes(4, "big")
    talk = prompt()
    try:
        talk.says(bytes(raw))
    except ProtocolError:
        return
    limits = Limits()
    assert talk.exporter.needed <= 48 + limits.transfer_bytes + 16 * limits.iso_packets
    assert talk.exporter.outgoing_bytes <= 48 + limits.transfer_bytes


@pytest.mark.parametrize("value", [0xFFFFFFFF, 0x7FFFFFFF, 0x80000000])
@pytest.mark.parametrize("at", [0, 4, 8, 12], ids=["offset", "length", "actual_length", "status"])
@pytest.mark.parametrize("way", [IN, OUT])
def test_extreme_values_in_each_packet_descriptor(value, at, way):
    raw = bytearray(
        submit(1, way, 3, None if way == OUT else 16, b"" if way == IN else bytes(16), iso=[(0, 8), (8, 8)])
    )
    raw[-16 + at : len(raw) - 12 + at] = value.to_bytes(4, "big")
    talk = imported().says(bytes(raw), submit(2, IN, 1, 8))
    assert talk.exporter.in_flight == (1 if at < 8 else 2)


def test_the_state_machine_has_no_way_back():
    talk = imported()
    assert talk.exporter.state is State.SERVING
    with pytest.raises(ProtocolError):
        talk.says(op(0x8005) + bytes(40))


def test_an_exporter_is_silent_before_it_is_spoken_to():
    exporter = Exporter()
    assert (exporter.outgoing, exporter.done, exporter.needed, exporter.in_flight) == ([], False, 8, 0)
