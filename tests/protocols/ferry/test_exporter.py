"""The target's side of ferry: what a controller says, what the pump is asked for, and every byte that goes back."""

from __future__ import annotations

from itertools import permutations

import pytest

from tests.protocols.ferry.wire import (
    FAILED,
    INFO,
    RESTART,
    SHORT_NOT_OK,
    TOKEN,
    T,
    Talk,
    bulk,
    call,
    claim,
    claimed,
    control,
    device,
    heartbeat,
    interrupt,
    iso,
    iso_reply,
    open_,
    parts,
    record,
    reply,
    resume,
    u32,
    unlink,
    version,
    version_reply,
)
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.events import Refusal
from usbferry.protocols.ferry.states import Target
from usbferry.protocols.limits import Limits
from usbferry.usb.info import DeviceInfo
from usbferry.usb.transfer import Completion, IsoPacket
from usbferry.usb.tree import DeviceDescriptor
from usbferry.usb.types import Status

OK, STALL, SHORT, CANCELLED, GONE, SHUTDOWN = (
    Status.OK, Status.STALL, Status.SHORT, Status.CANCELLED, Status.GONE, Status.SHUTDOWN,
)  # fmt: skip
SMALL = Limits(transfer_bytes=1024, iso_packets=4, transfers=4, bytes_in_flight=2048, handshake_seconds=5)


# -- versions, lists, claims ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("versions", [(1,), (3, 1, 2), (0xFFFFFFFF, 1)])
def test_the_version_that_both_speak(versions):
    Talk().says(version(versions=versions)).hears(version_reply())


@pytest.mark.parametrize("versions", [(), (2,), (0, 2, 3)])
def test_no_version_that_both_speak(versions):
    talk = Talk().says(version(versions=versions), claim()).asks().hears(reply(T, 10, u32(1, 1)))
    assert talk.exporter.done


def test_unknown_capabilities_are_ignored():
    Talk().says(version(capabilities=0xFFFFFFFF)).hears(version_reply())


def test_the_version_may_be_asked_again():
    claimed().says(version(T + 9)).hears(version_reply(T + 9))


@pytest.mark.parametrize("early", [claim(), call(T, 2), resume(T), heartbeat(T), bulk(1, 0x81, 8)])
def test_nothing_comes_before_the_version(early):
    with pytest.raises(ProtocolError, match=r"version|VERSION"):
        Talk().says(early)


def test_a_list():
    talk = open_().says(call(T + 1, 2)).asks("list")
    bare = DeviceInfo(
        "1-2", DeviceDescriptor(0x1209, 1), configuration=0, interface_classes=((3, 1, 1),), holder="peer:1"
    )
    talk.exporter.listed([INFO, bare])
    one, two = device(INFO), device(bare)
    talk.hears(reply(T + 1, 0, u32(2) + u32(len(one)) + one + u32(len(two)) + two))
    assert talk.exporter.state is Target.OPEN


def test_lists_are_answered_each():
    talk = open_().says(call(T + 5, 2), call(T + 6, 2)).asks("list", "list")
    talk.exporter.listed([])
    talk.exporter.listed([])
    talk.hears(reply(T + 5, 0, u32(0)), reply(T + 6, 0, u32(0)))


@pytest.mark.parametrize(
    ("reason", "status"),
    [(Refusal.NOT_FOUND, 2), (Refusal.BUSY, 3), (Refusal.UNAVAILABLE, 11), (Refusal.FAILED, 12)],
)
def test_a_refusal_and_another_claim(reason, status):
    talk = open_().says(claim()).asks("claim 1-1")
    talk.exporter.refuse(reason)
    talk.hears(reply(T + 1, status)).says(claim(T + 2)).asks("claim 1-1")
    talk.exporter.accept(INFO)
    talk.hears(reply(T + 2, 0, TOKEN + device()))


def test_a_claim_of_one_who_has_a_claim():
    claimed().says(claim(T + 7)).asks().hears(reply(T + 7, 3))


def test_a_claim_that_comes_twice():
    """As a packet transport may bring it."""
    talk = open_().says(claim(), claim()).asks("claim 1-1").hears(reply(T + 1, 5))
    talk.exporter.accept(INFO)
    answer = reply(T + 1, 0, TOKEN + device())
    talk.hears(answer).says(claim()).asks().hears(answer)
    talk.says(call(T + 2, 22), claim()).hears(reply(T + 1, 5))


@pytest.mark.parametrize("body", [b"", b"\0", b"\4abc", b"\2abc", b"\1\xff"])
def test_a_claim_of_what_is_no_name(body):
    open_().says(call(T + 1, 3, body)).asks().hears(reply(T + 1, 13))


def test_before_the_claim_a_session_has_no_calls():
    open_().says(bulk(1, 0x81, 8), call(2, 4), unlink(3, 1), call(4, 10)).asks().hears(
        reply(1, 4), reply(2, 4), reply(3, 4), reply(4, 4)
    )


def test_unknown_calls_are_answered_and_the_transport_stays():
    claimed().says(call(T + 5, 77), call(1, 78), bulk(2, 0x81, 8)).asks("submit #2 in 81 8").hears(
        reply(T + 5, 1), reply(1, 1)
    )


def test_calls_with_identifiers_of_the_other_kind():
    claimed().says(bulk(T + 5, 0x81, 8), call(1, 2), call(2, 21)).asks().hears(
        reply(T + 5, 13), reply(1, 13), reply(2, 13)
    )


def test_what_is_silent_is_lost():
    with pytest.raises(ProtocolError, match="silent for 10 s"):
        Talk().waits(9.9).waits(0.1)
    talk = claimed().waits(14.9).says(heartbeat(T + 8)).hears(reply(T + 8)).waits(14.9)
    assert talk.exporter.deadline() == 14.9 + 15
    with pytest.raises(ProtocolError, match="silent for 15 s"):
        talk.waits(0.1)


# -- transfers --------------------------------------------------------------------------------------------------------


def test_a_read():
    talk = claimed().says(bulk(1, 0x81, 64)).asks("submit #1 in 81 64").does(1, Completion(OK, b"abc"))
    talk.hears(reply(1, 0, b"abc"))


def test_a_write_that_is_whole_has_no_body():
    talk = claimed().says(bulk(1, 0x02, data=b"hello")).asks("submit #1 out 02 5")
    assert talk.payloads[1] == b"hello"
    talk.does(1, Completion(OK, b"", 5)).hears(reply(1))


@pytest.mark.parametrize("status", [OK, STALL, CANCELLED])
def test_a_write_that_is_not(status):
    talk = claimed().says(bulk(1, 0x02, data=b"hello")).does(1, Completion(status, b"", 3))
    talk.hears(reply(1, status and FAILED + status, u32(3)))


@pytest.mark.parametrize("status", list(Status))
def test_every_status_of_a_read_brings_its_data(status):
    claimed().says(bulk(1, 0x81, 8)).does(1, Completion(status, b"da")).hears(
        reply(1, status and FAILED + status, b"da")
    )


def test_a_device_that_gives_too_much():
    claimed().says(bulk(1, 0x81, 4)).does(1, Completion(OK, b"12345")).hears(
        reply(1, FAILED + Status.OVERFLOW, b"1234")
    )


def test_control_transfers():
    talk = claimed().says(
        control(1, "8006000100001200"), control(2, "2109000203000200", b"xy"), control(3, "0009 0100 0000 0000")
    )
    talk.asks(
        "submit #1 in 80 18 setup 8006000100001200",
        "submit #2 out 00 2 setup 2109000203000200",
        "submit #3 out 00 0 setup 0009010000000000",
    )
    assert talk.payloads[2] == b"xy"


def test_interrupt_transfers_have_an_interval():
    talk = claimed().says(interrupt(1, 0x83, 8, 10)).asks("submit #1 in 83 8")
    assert talk.transfers[1].interval == 10


def test_streams():
    talk = claimed().says(bulk(1, 0x81, 8, stream=5), bulk(2, 0x02, data=b"x", stream=6))
    assert [talk.transfers[n].stream_id for n in (1, 2)] == [5, 6]
    assert talk.payloads[2] == b"x"


def test_flags_of_usbfs_reach_the_device_and_others_do_not():
    talk = claimed().says(bulk(1, 0x02, data=b"x", flags=0xFCFF))
    assert talk.transfers[1].flags == 0x43


def test_isochronous_transfers():
    talk = claimed().says(iso(1, 0x83, (4, 0, 2), frame=-7)).asks("submit #1 iso*3 in 83 6")
    transfer = talk.transfers[1]
    assert (transfer.start_frame, transfer.packets) == (-7, [IsoPacket(0, 4), IsoPacket(4, 0), IsoPacket(4, 2)])
    done = [IsoPacket(0, 4, 3), IsoPacket(4, 0, 0, Status.CRC), IsoPacket(4, 2, 2)]
    talk.does(1, Completion(OK, b"abcde", packets=done, start_frame=9))
    talk.hears(iso_reply(1, [(0, 3), (FAILED + Status.CRC, 0), (0, 2)], b"abcde", frame=9))


def test_isochronous_out_and_no_packets():
    talk = (
        claimed()
        .says(iso(1, 0x03, (2, 1), b"abc", frame=5, flags=2), iso(2, 0x83, ()))
        .asks("submit #1 iso*2 out 03 3", "submit #2 iso*0 in 83 0")
    )
    assert (talk.payloads[1], talk.transfers[1].start_frame) == (b"abc", 0)
    talk.does(1, Completion(OK, b"", 3, [IsoPacket(0, 2, 2), IsoPacket(2, 1, 1)])).does(2, Completion(OK, packets=[]))
    talk.hears(iso_reply(1, [(0, 2), (0, 1)]), iso_reply(2, []))


@pytest.mark.parametrize(
    "completion",
    [
        Completion(STALL),
        Completion(STALL, packets=[IsoPacket(0, 4)]),
        Completion(STALL, b"12345", packets=[IsoPacket(0, 4, 5), IsoPacket(4, 4)]),
        Completion(STALL, b"123", packets=[IsoPacket(0, 4, 4), IsoPacket(4, 4)]),
    ],
)
def test_isochronous_transfers_that_fail_as_a_whole_or_contradict_themselves(completion):
    claimed().says(iso(1, 0x83, (4, 4))).does(1, completion).hears(reply(1, FAILED + STALL))


def test_a_contradiction_that_says_ok_has_failed():
    claimed().says(iso(1, 0x83, (4,))).does(1, Completion(OK, b"12")).hears(reply(1, FAILED + Status.FAILED))


@pytest.mark.parametrize(
    "wrong",
    [
        call(1, 6, b"", endpoint=0x81),
        call(1, 6, u32(8) + b"data", endpoint=0x81),
        call(1, 6, u32(8) + b"data", endpoint=0x01),
        call(1, 6, u32(8), endpoint=0x80),
        call(1, 6, u32(8), endpoint=0x91),
        call(1, 6, u32(8), endpoint=0x81, flags=0x200),
        call(1, 8, u32(8), endpoint=0x81),
        call(1, 7, u32(1, 0), endpoint=0x81),
        call(1, 7, u32(1, 0, 2, 4), endpoint=0x81),
        call(1, 7, u32(1, 0, 1, 4) + b"abc", endpoint=0x01),
        call(1, 7, u32(1, 0, 1025, *[0] * 1025), endpoint=0x81),
        call(1, 5, b"short"),
        control(1, "8006000100001200", b"data"),
        control(1, "2109000200000400", b"abc"),
        control(1, "0005010000000000"),  # SET_ADDRESS
        call(1, 9, b""),
        call(1, 9, u32(1, 2)),
        call(1, 11, b""),
        call(1, 11, b"\1\2"),
        call(1, 12, b"\1"),
        call(1, 13, b""),
        call(1, 16, b"\0\0\0"),
    ],
)
def test_what_is_malformed_is_answered_and_the_transport_stays(wrong):
    claimed().says(wrong, bulk(2, 0x81, 8)).asks("submit #2 in 81 8").hears(reply(1, 13))


@pytest.mark.parametrize(
    "wrong", [call(T + 5, 21, b"1234"), call(T + 5, 19), call(T + 5, 1, b"123"), call(T + 5, 1, u32(0, 9))]
)
def test_what_is_malformed_of_the_transports_calls(wrong):
    claimed().says(wrong, bulk(1, 0x81, 8)).asks("submit #1 in 81 8").hears(reply(T + 5, 13))


def test_explicit_calls_are_the_standard_requests():
    talk = (
        claimed()
        .says(call(1, 11, b"\2"), call(2, 12, b"\3\4"), call(3, 13, b"\x81"))
        .asks(
            "submit #1 out 00 0 setup 0009020000000000",
            "submit #2 out 00 0 setup 010b040003000000",
            "submit #3 out 00 0 setup 0201000081000000",
        )
    )
    talk.does(1).does(2, Completion(STALL)).does(3).hears(reply(1), reply(2, FAILED + STALL), reply(3))


def test_reset_by_its_call_and_by_the_request():
    talk = claimed().says(call(1, 10), control(2, "2303040001000000")).asks("reset #1", "reset #2")
    talk.exporter.reset_done(1, True)
    talk.exporter.reset_done(2, False)
    talk.hears(reply(1), reply(2, FAILED + GONE))


def test_streams_are_allocated_and_freed():
    talk = claimed().says(call(1, 16, u32(16) + b"\x81\x02"), call(2, 17, b"\x81\x02"))
    talk.asks("alloc #1 16 of 8102", "free #2 8102").does(1).does(2, Completion(Status.INVALID))
    talk.hears(reply(1), reply(2, FAILED + Status.INVALID))


def test_suspend_and_wake():
    claimed().says(call(1, 14), call(2, 15)).asks("suspend", "wake").hears(reply(1), reply(2))


def test_describe():
    talk = claimed().says(call(1, 18)).asks("describe")
    talk.exporter.described(INFO)
    talk.hears(reply(1, 0, device()))


def test_more_than_the_target_takes():
    talk = claimed(SMALL).says(bulk(1, 0x81, 1025), bulk(2, 0x01, data=bytes(1025))).asks()
    talk.hears(reply(1, FAILED + Status.NO_MEMORY), reply(2, FAILED + Status.NO_MEMORY, u32(0)))


# -- order and cancels ------------------------------------------------------------------------------------------------


def test_replies_of_one_queue_keep_their_order_and_others_pass():
    talk = claimed().says(bulk(1, 0x81, 8), bulk(2, 0x81, 8), bulk(3, 0x82, 8), bulk(4, 0x81, 8, stream=1))
    talk.does(2).hears().does(3).does(4).hears(reply(3), reply(4)).does(1).hears(reply(1), reply(2))


def test_a_device_that_answers_at_once_behind_one_that_waits():
    talk = claimed().says(bulk(1, 0x81, 8))
    talk.at_once = lambda transfer: Completion(OK, b"x")
    talk.says(bulk(2, 0x81, 8), bulk(3, 0x82, 8)).hears(reply(3, 0, b"x")).does(1).hears(reply(1), reply(2, 0, b"x"))


def test_an_unlink_that_wins():
    talk = claimed().says(bulk(1, 0x81, 8), unlink(2, 1)).asks("submit #1 in 81 8", "cancel #1").hears()
    talk.does(1, Completion(CANCELLED)).hears(reply(1, FAILED + CANCELLED), reply(2))


def test_an_unlink_that_loses():
    talk = claimed().says(bulk(1, 0x81, 8), unlink(2, 1), unlink(3, 1)).does(1, Completion(OK, b"x"))
    talk.hears(reply(1, 0, b"x"), reply(2), reply(3))


def test_an_unlink_that_comes_too_late_or_of_nothing():
    talk = claimed().says(bulk(1, 0x81, 8)).does(1, Completion(OK)).hears(reply(1)).says(unlink(2, 1), unlink(3, 99))
    talk.hears(reply(2, 7), reply(3, 7))


def test_an_unlink_of_a_reply_that_is_held_back():
    talk = claimed().says(bulk(1, 0x81, 8), bulk(2, 0x81, 8)).does(2, Completion(OK, b"x")).says(unlink(3, 2))
    talk.asks("submit #1 in 81 8", "submit #2 in 81 8").hears(reply(2, 0, b"x"), reply(3)).does(1).hears(reply(1))


# -- SHORT_NOT_OK -----------------------------------------------------------------------------------------------------


def short_reads(talk: Talk, *identifiers: int) -> Talk:
    return talk.says(*(bulk(n, 0x81, 8, flags=SHORT_NOT_OK) for n in identifiers))


def test_what_is_behind_a_transfer_that_must_not_be_short_waits_for_it():
    talk = short_reads(claimed(), 1, 2).says(bulk(3, 0x81, 8), bulk(4, 0x81, 8), bulk(5, 0x82, 8))
    talk.asks("submit #1 in 81 8", "submit #5 in 82 8")
    talk.does(1, Completion(OK, b"12345678")).asks("submit #2 in 81 8").hears(reply(1, 0, b"12345678"))
    talk.does(2, Completion(OK, b"12345678")).asks("submit #3 in 81 8", "submit #4 in 81 8")


def test_a_short_one_stops_its_queue_until_the_controller_knows():
    talk = short_reads(claimed(), 1, 2).says(bulk(3, 0x81, 8)).asks("submit #1 in 81 8")
    talk.does(1, Completion(SHORT, b"12")).asks()
    talk.hears(reply(1, FAILED + SHORT, b"12"), reply(2, FAILED + CANCELLED), reply(3, FAILED + CANCELLED))
    talk.says(bulk(4, 0x81, 8), bulk(5, 0x82, 8)).asks("submit #5 in 82 8").hears(reply(4, FAILED + CANCELLED))
    talk.says(bulk(6, 0x81, 8, flags=RESTART), bulk(7, 0x81, 8)).asks("submit #6 in 81 8", "submit #7 in 81 8").hears()


def test_what_is_held_is_not_carried_out_once_the_device_has_left():
    """It was submitted after its own answer."""
    talk = short_reads(claimed(), 1, 2, 3).asks("submit #1 in 81 8")
    talk.exporter.gone()
    talk.hears(*(reply(n, FAILED + Status.GONE) for n in (1, 2, 3, T + 2)))
    assert not talk.exporter.has_events
    talk.goes_on().asks()


def test_what_is_held_does_not_keep_the_pump_going_while_the_claim_is_given_back():
    """There was something to do, for ever, that was never done."""
    talk = short_reads(claimed(), 1, 2).says(call(3, 4)).asks("submit #1 in 81 8", "release")
    talk.exporter.complete(1, Completion(Status.SHUTDOWN))
    assert not talk.exporter.has_events
    talk.goes_on().asks().hears(reply(1, FAILED + Status.SHUTDOWN))
    talk.exporter.released()
    talk.hears(reply(2, FAILED + Status.SHUTDOWN), reply(3), reply(T + 2))


@pytest.mark.parametrize(
    "restart",
    [control(2, "0201000081000000"), call(2, 13, b"\x81"), call(2, 11, b"\1"), call(2, 12, b"\0\1"), call(2, 10)],
)
def test_what_begins_a_queue_anew_restarts_it(restart):
    talk = short_reads(claimed(), 1).does(1, Completion(SHORT)).says(restart, bulk(3, 0x81, 8))
    assert 3 in talk.transfers


def test_another_endpoints_halt_does_not():
    talk = short_reads(claimed(), 1).does(1, Completion(SHORT)).says(call(2, 13, b"\x82"), bulk(3, 0x81, 8))
    assert 3 not in talk.transfers


def test_an_unlink_of_one_that_waits_behind_it():
    talk = short_reads(claimed(), 1).says(bulk(2, 0x81, 8), bulk(3, 0x81, 8), unlink(4, 2)).asks("submit #1 in 81 8")
    talk.hears(reply(2, FAILED + CANCELLED), reply(4)).does(1, Completion(STALL)).asks("submit #3 in 81 8")


def test_a_device_that_answers_at_once_is_held_to_it_too():
    talk = claimed()
    talk.at_once = lambda transfer: Completion(SHORT, b"x")
    short_reads(talk, 1, 2).hears(reply(1, FAILED + SHORT, b"x"), reply(2, FAILED + CANCELLED))


# -- parts ------------------------------------------------------------------------------------------------------------


def test_a_long_write_comes_in_parts_in_any_order_and_twice():
    payload = bytes(range(256)) * 8
    pieces = parts(1, b"\6\2\0\0", u32(len(payload)) + payload, (512, 1024, 520))
    for order in permutations(pieces):
        talk = claimed().says(*order[:2], *order[:2]).asks().says(order[2]).asks(f"submit #1 out 02 {len(payload)}")
        assert talk.payloads[1] == payload
        talk.does(1, Completion(OK, b"", len(payload))).hears(reply(1)).says(order[0]).asks().hears(reply(1))


def test_other_calls_pass_between_parts():
    first, second = parts(1, b"\6\2\0\0", u32(1000) + bytes(1000), (512, 496))
    talk = claimed().says(first, second).asks("submit #1 out 02 1000")
    first, second = parts(2, b"\6\2\0\0", u32(1000) + bytes(1000), (512, 496))
    talk.says(first, heartbeat(T + 4), bulk(3, 0x81, 8)).asks().hears(reply(T + 4))
    talk.says(second).asks("submit #2 out 02 1000", "submit #3 in 81 8")


def test_a_long_read_goes_in_parts():
    data = bytes(range(256)) * 512
    talk = claimed().says(bulk(1, 0x81, len(data))).hears(reply(1, 5)).does(1, Completion(OK, data))
    talk.hears(*parts(1, u32(0), data, (65536, 65536, 4), is_reply=True))
    talk.says(bulk(2, 0x81, 65536)).does(2, Completion(OK, data[:65536])).hears(reply(2, 0, data[:65536]))


@pytest.mark.parametrize("way", [0x81, 0x02])
def test_of_long_bulk_that_waits_at_the_device_it_is_said_once(way):
    """By it a controller knows what waits there and what is on its way."""
    length = 65537
    call_ = (
        [bulk(1, 0x81, length)]
        if way & 0x80
        else parts(1, bytes.fromhex("06020000"), u32(length) + bytes(length), [65536, 9])
    )
    talk = claimed().says(*call_).hears(reply(1, 5))
    talk.says(bulk(2, 0x81, 65536), interrupt(3, 0x82, 8, 1), control(4, "c000000000000800")).hears()
    talk.does(2, Completion(OK, b"")).hears(*([] if way & 0x80 else [reply(2)]))


def test_of_long_bulk_that_is_answered_at_once_it_is_not_said():
    talk = claimed()
    exporter = talk.exporter
    exporter.receive(memoryview(bulk(1, 0x81, 65537)), 0.0)
    for event in exporter.events():
        exporter.complete(event.tag, Completion(OK, b"short"))
    talk.hears(reply(1, 0, b"short"))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "a part of 0 bytes"),
        (u32(3, 0) + b"abc", "3 bytes in parts"),
        (u32(1 << 30, 0) + b"abc", "1073741824 bytes in parts"),
        (u32(2000, 0) + bytes(511), "0..511"),
        (u32(2000, 1) + bytes(511), "1..512"),
        (u32(2000, 1536) + bytes(512), "1536..2048"),
        (u32(2000, 0), "0..0"),
    ],
)
def test_parts_that_cannot_be(body, why):
    with pytest.raises(ProtocolError, match=why):
        claimed().says(call(1, 255, body))


def test_parts_that_disagree_about_the_whole():
    with pytest.raises(ProtocolError, match="of 1500 bytes, in a message of 2000"):
        claimed().says(call(1, 255, u32(2000, 0) + bytes(512)), call(1, 255, u32(1500, 512) + bytes(512)))


def test_parts_of_more_than_was_granted():
    piece = u32(60000, 0) + bytes(512)
    with pytest.raises(ProtocolError, match="2048 bytes granted"):
        claimed(SMALL).says(call(1, 255, piece), call(2, 255, piece))


@pytest.mark.parametrize("size", [0, 7, 65793, 0x80000008, 0xFFFFFFFF])
def test_records_that_cannot_be(size):
    with pytest.raises(ProtocolError, match=f"a record of {size} bytes"):
        claimed().says(u32(size) + bytes(8))


# -- at most once -----------------------------------------------------------------------------------------------------


def test_a_duplicate_of_what_is_being_done():
    claimed().says(bulk(1, 0x02, data=b"x"), bulk(1, 0x02, data=b"x")).asks("submit #1 out 02 1").hears(reply(1, 5))


def test_a_duplicate_of_what_is_answered_gets_the_same_reply():
    talk = claimed().says(bulk(1, 0x81, 8)).does(1, Completion(STALL, b"ab")).hears(reply(1, FAILED + STALL, b"ab"))
    talk.asks("submit #1 in 81 8").says(bulk(1, 0x81, 8)).asks().hears(reply(1, FAILED + STALL, b"ab"))


def test_a_duplicate_of_what_is_acknowledged():
    talk = (
        claimed()
        .says(bulk(1, 0x02, data=b"x"))
        .does(1, Completion(OK, b"", 1))
        .asks("submit #1 out 02 1")
        .hears(reply(1))
    )
    talk.says(heartbeat(T + 5, 1, 1), bulk(1, 0x02, data=b"x")).asks().hears(reply(T + 5), reply(1, 8))


def test_calls_are_carried_out_in_the_order_of_their_identifiers():
    talk = claimed().says(bulk(3, 0x81, 8), bulk(2, 0x02, data=b"two"), bulk(3, 0x81, 8)).asks().hears()
    talk.says(bulk(1, 0x82, 8)).asks("submit #1 in 82 8", "submit #2 out 02 3", "submit #3 in 81 8")
    assert talk.payloads[2] == b"two"


def test_identifiers_begin_again_at_0():
    talk = claimed(SMALL)
    session = talk.exporter._session
    session.ledger.expected = 0x7FFFFFFF
    talk.says(bulk(0x7FFFFFFF, 0x81, 8), bulk(0, 0x81, 8)).does(0x7FFFFFFF).does(0).hears(reply(0x7FFFFFFF), reply(0))
    talk.says(heartbeat(T + 5, 0x7FFFFFFF, 0), bulk(0x7FFFFFFF, 0x81, 8)).hears(reply(T + 5), reply(0x7FFFFFFF, 8))


def test_calls_beyond_the_window():
    with pytest.raises(ProtocolError, match="call #5, due is #1, granted are 4"):
        claimed(SMALL).says(bulk(5, 0x81, 8))


def test_a_window_that_is_not_acknowledged():
    talk = claimed(SMALL).says(*(bulk(n, 0x81, 8) for n in (1, 2, 3, 4))).does(1)
    with pytest.raises(ProtocolError, match="more calls without acknowledgement than the 4"):
        talk.says(bulk(5, 0x81, 8))


def test_bytes_beyond_the_window():
    talk = claimed(SMALL).says(bulk(1, 0x81, 1024), bulk(2, 0x81, 1024)).does(1, Completion(OK))
    with pytest.raises(ProtocolError, match="2049 bytes without acknowledgement, granted are 2048"):
        talk.says(bulk(3, 0x81, 1))


def test_an_acknowledgement_makes_room():
    talk = claimed(SMALL)
    for n in range(1, 40):
        talk.says(bulk(n, 0x81, 1024)).does(n, Completion(OK, bytes(1024))).says(heartbeat(T + 5 + n, n, n))
    assert talk.exporter.in_flight == 0


def test_acknowledgements_of_what_cannot_be():
    talk = claimed(SMALL).says(heartbeat(T + 5, 7, 9)).hears(reply(T + 5))
    with pytest.raises(ProtocolError, match="an acknowledgement of 5 replies"):
        talk.says(heartbeat(T + 6, 1, 5))


def test_the_runs_of_a_heartbeat_are_bounded_together():
    """Each was alone: one record of 8190 times the window took a second of the target's time."""
    talk = claimed(SMALL).says(bulk(1, 0x81, 8)).does(1).hears(reply(1))
    with pytest.raises(ProtocolError, match="an acknowledgement of 32760 replies"):
        talk.says(heartbeat(T + 6, *[1, SMALL.transfers] * 8190))
    talk.loses_transport()
    talk.finds_transport().says(resume(T + 1, [1])).hears(
        reply(T + 1, 0, u32(2)), reply(1)
    )  # nothing was acknowledged by it


def test_early_calls_that_do_not_fit_come_again():
    talk = claimed(SMALL).says(
        bulk(2, 0x02, data=bytes(1000)), bulk(3, 0x02, data=bytes(1000)), bulk(4, 0x02, data=bytes(90))
    )
    talk.says(bulk(1, 0x81, 8)).asks("submit #1 in 81 8", "submit #2 out 02 1000", "submit #3 out 02 1000")


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_goes_on_where_it_was():
    talk = claimed().says(bulk(1, 0x81, 8), bulk(2, 0x02, data=b"x"), bulk(3, 0x83, 8), bulk(4, 0x84, 8))
    talk.asks("submit #1 in 81 8", "submit #2 out 02 1", "submit #3 in 83 8", "submit #4 in 84 8")
    talk.does(3, Completion(OK, b"three")).hears(reply(3, 0, b"three"))
    assert talk.loses_transport()
    talk.does(2, Completion(OK, b"", 1)).does(4, Completion(OK, b"four")).hears()
    talk.finds_transport().says(resume(T, (1, 2, 4))).asks()
    talk.hears(reply(T, 0, u32(5)), reply(2), reply(4, 0, b"four"))
    talk.does(1, Completion(OK, b"one")).hears(reply(1, 0, b"one")).says(bulk(3, 0x83, 8)).hears(reply(3, 8))


def test_calls_that_did_not_come_are_sent_again():
    talk = claimed().says(bulk(1, 0x81, 8), bulk(2, 0x02, data=b"payload")[:-1]).asks("submit #1 in 81 8")
    assert talk.loses_transport()
    talk.finds_transport().says(resume(T, (1, 2))).hears(reply(T, 0, u32(2)))
    talk.says(bulk(2, 0x02, data=b"payload")).asks("submit #2 out 02 7")


def test_parts_of_an_old_transport_count_for_nothing():
    first, second = parts(1, b"\6\2\0\0", u32(1000) + bytes(1000), (512, 496))
    talk = claimed().says(first)
    assert talk.loses_transport()
    talk.finds_transport().says(resume(T, (1,)), second).asks().says(first).asks("submit #1 out 02 1000")


def test_a_session_that_nobody_resumes_ends():
    talk = claimed()
    assert talk.loses_transport()
    assert talk.exporter.deadline() == 30
    assert not talk.waits(29.9).exporter.done
    assert talk.waits(0.1).exporter.done


def test_a_claim_whose_reply_was_lost_does_not_wait():
    """Nobody knows its token."""
    talk = open_().says(claim())
    talk.exporter.accept(INFO)
    assert not talk.loses_transport()
    assert talk.exporter.done


def test_a_call_shows_that_the_token_is_known():
    talk = open_().says(claim())
    talk.exporter.accept(INFO)
    assert talk.says(bulk(1, 0x81, 8)).loses_transport()


@pytest.mark.parametrize(
    "lose", [lambda talk: talk, lambda talk: talk.says(claim()), lambda talk: talk.says(version(T + 4))]
)
def test_without_a_claim_the_transport_is_all(lose):
    talk = lose(open_())
    assert not talk.loses_transport()
    assert talk.exporter.done


def test_only_its_resume_moves_a_session():
    talk = claimed()
    talk.loses_transport()
    with pytest.raises(ProtocolError, match="where RESUME is due"):
        talk.finds_transport().says(heartbeat(T))
    with pytest.raises(ProtocolError, match="without version or session"):
        talk.finds_transport().says(bulk(1, 0x81, 8))
    talk.finds_transport().says(resume(T, token=b"another one here")).hears()
    assert talk.exporter.state is Target.DETACHED


def test_a_transport_that_takes_the_place_of_another():
    talk = claimed().says(bulk(1, 0x81, 8))
    talk.finds_transport().does(1, Completion(OK, b"x")).hears().says(resume(T, (1,)))
    talk.hears(reply(T, 0, u32(2)), reply(1, 0, b"x"))


def test_another_process_goes_on_with_the_same_transport():
    talk = claimed().says(bulk(1, 0x81, 8)).does(1).hears(reply(1))
    talk.says(resume(T), bulk(2, 0x81, 8)).hears(reply(T, 0, u32(2)))


def test_a_resume_goes_to_whom_it_may_concern_unread():
    talk = open_().says(resume(T + 3), call(T + 4, 2)).asks(f"resume {TOKEN!r}")
    assert talk.held == resume(T + 3) + call(T + 4, 2)


def test_a_resume_of_what_is_not_there():
    talk = open_()
    talk.exporter.receive(memoryview(resume(T + 3) + call(T + 4, 2)), 0.0)
    events = talk.exporter.events()
    next(events)
    talk.exporter.refuse(Refusal.NOT_FOUND)
    assert type(next(events)).__name__ == "List"
    talk.hears(reply(T + 3, 9))


def test_a_release():
    talk = claimed().says(bulk(1, 0x81, 8), call(2, 4), bulk(3, 0x81, 8)).asks("submit #1 in 81 8", "release")
    talk.hears(reply(3, 4))
    talk.exporter.released()
    talk.hears(reply(1, FAILED + SHUTDOWN), reply(2), reply(T + 2))
    assert (talk.exporter.state, talk.exporter.session) == (Target.OPEN, b"")
    talk.says(claim(T + 9)).asks("claim 1-1")
    talk.exporter.accept(INFO)
    talk.hears(reply(T + 9, 0, TOKEN + device())).says(bulk(2, 0x81, 8)).asks().hears(reply(2, 8))
    talk.says(bulk(3, 0x81, 8)).asks("submit #3 in 81 8")


def test_nothing_is_carried_out_after_a_release():
    """A call that came early once was."""
    talk = short_reads(claimed(), 1, 2).says(bulk(4, 0x02, data=b"x"), call(3, 4)).asks("submit #1 in 81 8", "release")
    talk.does(1, Completion(OK, b"12345678")).asks()
    talk.exporter.released()
    talk.hears(reply(1, 0, b"12345678"), reply(2, FAILED + SHUTDOWN), reply(3), reply(T + 2))


def test_a_version_that_is_asked_again_and_not_known():
    """It once was a KeyError."""
    claimed().says(version(T + 9, (7,)), bulk(1, 0x81, 8)).asks("submit #1 in 81 8").hears(reply(T + 9, 10, u32(1, 1)))


def test_a_call_beyond_the_window_has_not_begun():
    """On the next transport it once was neither carried out nor answered."""
    talk = claimed(SMALL).says(bulk(1, 0x81, 1024), bulk(2, 0x81, 1024)).does(1)
    with pytest.raises(ProtocolError):
        talk.says(bulk(3, 0x02, data=b"x"))
    talk.hears(reply(1)).loses_transport()
    talk.finds_transport().says(resume(T, (2, 3)), bulk(3, 0x02, data=b"x")).hears(reply(T, 0, u32(3)))
    assert 3 in talk.transfers


def test_a_release_whose_transport_is_lost():
    talk = claimed().says(call(1, 4))
    assert not talk.loses_transport()
    talk.exporter.released()
    talk.hears()


def test_a_device_that_leaves():
    talk = short_reads(claimed(), 1, 2)
    talk.exporter.gone()
    talk.hears(reply(1, FAILED + GONE), reply(2, FAILED + GONE), reply(T + 2, FAILED + GONE))
    assert talk.exporter.done


def test_a_device_that_leaves_while_nobody_is_there():
    talk = claimed().says(bulk(1, 0x81, 8))
    talk.loses_transport()
    talk.exporter.gone()
    assert talk.exporter.done


# -- watch ------------------------------------------------------------------------------------------------------------


def test_changes_are_told_and_none_is_lost():
    talk = open_().says(call(T + 1, 19, u32(0))).asks("watch").hears(reply(T + 1, 0, u32(1)))
    talk.says(call(T + 2, 19, u32(1))).asks().hears()
    talk.exporter.noticed()
    talk.hears(reply(T + 2, 0, u32(2)))
    talk.exporter.noticed()
    talk.hears().says(call(T + 3, 19, u32(2))).hears(reply(T + 3, 0, u32(3)))


def test_one_watch_at_a_time():
    talk = open_().says(
        call(T + 1, 19, u32(0)), call(T + 2, 19, u32(1)), call(T + 2, 19, u32(1)), call(T + 3, 19, u32(1))
    )
    talk.asks("watch").hears(reply(T + 1, 0, u32(1)), reply(T + 2, 0, u32(1)))
    talk.exporter.noticed()
    talk.hears(reply(T + 3, 0, u32(2)))


# -- however it arrives -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 3, 7, 11])
def test_bytes_may_arrive_a_few_at_a_time(step):
    talk = claimed()
    talk.says(
        bulk(1, 0x02, data=b"payload"),
        iso(2, 0x83, (4, 4)),
        control(3, "8006000100001200"),
        heartbeat(T + 5),
        step=step,
    )
    talk.asks("submit #1 out 02 7", "submit #2 iso*2 in 83 8", "submit #3 in 80 18 setup 8006000100001200")
    assert talk.hears(reply(T + 5)).held == b""


def test_a_record_that_is_cut_is_waited_for():
    talk = claimed().says(record(bytes(8))[:5])
    assert (talk.exporter.needed, talk.held) == (12, record(bytes(8))[:5])
    talk = claimed().says(bulk(1, 0x02, data=bytes(100))[:40])
    assert talk.exporter.needed == 4 + 12 + 100


@pytest.mark.parametrize("code", ["8005", "8003"])
def test_a_user_of_usbip_is_turned_away_at_once(code):
    """Of a list it asks with eight bytes, and would wait for as long as it pleases."""
    with pytest.raises(ProtocolError, match="it does not speak ferry but USB/IP"):
        Talk().says(bytes.fromhex(f"0111{code}00000000"))


def test_the_beginning_of_a_record_is_waited_for():
    talk = Talk()
    for byte in version():
        talk.says(bytes([byte]))
    talk.hears(version_reply())
