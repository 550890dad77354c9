"""Who has only read the specification can read what we say: `reader` decodes a session with everything in it."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.pcap import Piece
from tests.protocols.ferry.everything import DEVICE, LONG, capture, played
from tests.protocols.ferry.reader import CALLS, STATUSES, Capture, Message, Unreadable
from tests.protocols.ferry.wire import bulk, call, reply, u32, version
from usbferry.protocols.ferry.messages import Call, Code, code_of
from usbferry.usb import build
from usbferry.usb.types import Status


def read(pieces: list[Piece], step: int = 0) -> list[Message]:
    """What passed, `step` bytes at a time, or each piece whole."""
    sessions = Capture()
    readers = {piece.connection: sessions.stream() for piece in pieces}
    found: list[Message] = []
    for piece in pieces:
        for at in range(0, len(piece.data), step or 1 << 30):
            data = piece.data[at : at + (step or 1 << 30)]
            found += readers[piece.connection].read("<" if piece.from_server else ">", data)
    assert not any(reader.waiting["<"] or reader.waiting[">"] for reader in readers.values())
    return found


MESSAGES = read(capture())
SUBMITS = {m.identifier: m for m in MESSAGES if m.sender == ">" and m.name in ("CONTROL", "BULK", "ISOCHRONOUS")}


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 1000])
def test_it_makes_no_difference_how_the_bytes_come(step):
    assert read(capture(), step) == MESSAGES


def test_every_call_and_every_status_is_there():
    assert {m.name for m in MESSAGES if m.sender == ">"} == {*CALLS.values(), "call 99"}
    assert {m.status for m in MESSAGES if m.sender == "<"} == {*STATUSES.values()} - {"PART"}
    assert {m.parts for m in MESSAGES} == {0, 3}


def test_the_document_has_the_numbers_of_the_code():
    assert {member.value: member.name for member in Call if member is not Call.PART} == CALLS
    assert {int(c): c.name for c in Code} | {code_of(s): s.name for s in Status} == STATUSES


def test_the_calls_that_are_malformed_are_those_that_were_answered_so():
    answered = Counter(m.identifier for m in MESSAGES if m.status == "MALFORMED")
    assert Counter(m.identifier for m in MESSAGES if m.malformed) == answered
    assert answered.total() == 4


def test_every_call_is_answered_once():
    final = Counter(m.identifier for m in MESSAGES if m.status not in (None, "IN_PROGRESS"))
    session = {number for number in final if not number >> 31}
    assert session == {m.identifier for m in MESSAGES if m.sender == ">" and not m.identifier >> 31}
    assert [number for number in session if final[number] > 1] == [1]  # a duplicate was forgotten


def test_a_submit_is_what_the_device_was_asked_for():
    world = played()
    assert len(world.transfers) > 100
    for tag, transfer in world.transfers.items():
        if tag not in SUBMITS:
            continue  # an explicit call, or an interrupt transfer, below
        submit = SUBMITS[tag]
        assert (submit.endpoint, submit.fields["length"]) == (transfer.endpoint, transfer.length)
        assert submit.data == world.payloads[tag]
        assert submit.fields.get("setup", b"") == transfer.setup
        assert submit.fields.get("stream", 0) == transfer.stream_id
        assert submit.fields.get("lengths") == (transfer.packets and [p.length for p in transfer.packets])


def test_interrupt_and_isochronous_calls():
    found = [(m.endpoint, m.fields, m.data) for m in MESSAGES if m.sender == ">" and m.name == "INTERRUPT"]
    assert found[:2] == [(0x83, {"length": 8, "interval": 4}, b""), (0x03, {"length": 2, "interval": 4}, b"ab")]
    calls = [m for m in MESSAGES if m.sender == ">" and m.name == "ISOCHRONOUS"][:2]
    assert [(m.flags, m.data, m.fields) for m in calls] == [
        (0, b"", {"interval": 1, "start_frame": -3, "lengths": [4, 4, 8], "length": 16}),
        (2, b"abcde", {"interval": 1, "start_frame": 0, "lengths": [2, 3], "length": 5}),
    ]
    replies = [m for m in MESSAGES if m.sender == "<" and m.name == "ISOCHRONOUS"][:2]
    assert [(m.data, m.fields) for m in replies] == [
        (b"i" * 13, {"start_frame": -7, "packets": [("OK", 4), ("NOT_DONE", 3), ("OK", 6)]}),
        (b"", {"start_frame": -7, "packets": [("OK", 2), ("NOT_DONE", 2)]}),
    ]


@pytest.mark.parametrize("status", [status for status in Status if status])
def test_a_reply_is_what_the_device_said(status):
    """Its 64 bytes of IN, of which half came, and 9 of OUT."""
    replies = [m for m in MESSAGES if m.status == status.name and m.name == "BULK"]
    assert next(m.data for m in replies if m.endpoint == 0x81) == b"d" * (0 if status == Status.NO_MEMORY else 32)
    assert [m.fields["done"] for m in replies if m.endpoint == 0x01] == [4]


def test_a_transfer_in_parts():
    [submit] = [m for m in MESSAGES if m.parts and m.sender == ">"]
    assert (submit.name, submit.endpoint, submit.data) == ("BULK", 1, b"L" * LONG)
    [reply] = [m for m in MESSAGES if m.parts and m.sender == "<"]
    assert (reply.name, reply.endpoint, reply.data) == ("BULK", 0x81, b"d" * LONG)


def test_a_device():
    claimed = next(m for m in MESSAGES if m.name == "CLAIM" and m.status == "OK")
    described = next(m for m in MESSAGES if m.name == "DESCRIBE" and m.status == "OK")
    listed = next(m for m in MESSAGES if m.name == "LIST" and m.status == "OK")
    device = {
        "name": "1-1", "speed": 3, "configuration": 1, "bus": 1, "address": 15,
        "descriptor": build.device(DEVICE.device), "path": "/usbferry/1-1", "manufacturer": DEVICE.manufacturer,
        "product": "Zero", "serial": "0001", "holder": "somebody", "settings": [(0, 1), (1, 0)],
        "classes": [(8, 6, 0x50)], "configurations": [build.configuration(DEVICE.configurations[0])],
    }  # fmt: skip
    assert claimed.fields == {"token": b"0123456789abcdef", "device": device}
    assert described.fields == {"device": device}
    devices = listed.fields["devices"]
    assert isinstance(devices, list)
    assert [one["name"] for one in devices] == ["1-1", "1-2"]
    assert devices[0] == device


def test_a_session_that_moved():
    resumed = [m for m in MESSAGES if m.name == "RESUME" and m.status is not None]
    assert [m.status for m in resumed] == ["OK", "OK", "NO_SESSION"]
    due = resumed[0].fields["due"]
    after = MESSAGES[MESSAGES.index(resumed[0]) :]
    assert next(m.identifier for m in after if m.sender == ">" and not m.identifier >> 31) == due


@pytest.mark.parametrize(
    "wrong",
    [
        b"\x80\0\0\x08" + bytes(8),  # to be continued
        b"\0\0\0\x07" + bytes(7),
        reply(5),  # that nobody called
        call(1, 255, u32(600, 100) + bytes(500)),  # a part that begins in the middle
        call(1, 255, u32(600, 0)),
    ],
)
def test_what_the_document_forbids_is_noticed(wrong):
    reader = Capture().stream()
    with pytest.raises(Unreadable):
        list(reader.read("<" if wrong == reply(5) else ">", wrong))


def test_a_body_that_does_not_fit_is_noticed():
    reader = Capture().stream()
    assert [m.malformed for m in reader.read(">", version() + bulk(1, 0x81, 8))] == ["", ""]
    with pytest.raises(Unreadable, match="too many"):
        list(reader.read("<", reply(0x80000000, 4, b"?")))
