"""Transfers and completions: their defaults, their text, and the strategies that everything else draws them from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import strategies as usb
from usbferry.usb.setup import Setup, get_descriptor
from usbferry.usb.transfer import Completion, Flags, IsoPacket, Transfer
from usbferry.usb.types import Status


def test_flags_are_numbered_as_in_linux() -> None:
    assert (Flags.SHORT_NOT_OK, Flags.ISO_ASAP, Flags.ZERO_PACKET) == (0x01, 0x02, 0x40)


@pytest.mark.parametrize(
    ("transfer", "text"),
    [
        (Transfer(0x81, 512), "in 81 512"),
        (Transfer(0x02, 5, b"hello"), "out 02 5"),
        (Transfer(0x80, 18, setup=get_descriptor(1, length=18).pack()), "in 80 18 setup 8006000100001200"),
        (Transfer(0x00, 0, setup=memoryview(Setup(0, 9, 1).pack())), "out 00 0 setup 0009010000000000"),  # type: ignore[arg-type]
        (Transfer(0x83, 384, packets=[IsoPacket(0, 192), IsoPacket(192, 192)]), "iso*2 in 83 384"),
        (Transfer(0x03, 0, packets=[]), "iso*0 out 03 0"),
    ],
)
def test_transfer_text(transfer: Transfer, text: str) -> None:
    assert str(transfer) == repr(transfer) == text


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        (Completion(), "ok 0"),
        (Completion(data=b"hello"), "ok 5"),
        (Completion(0, memoryview(b"hello")), "ok 5"),
        (Completion(Status.OK, actual=512), "ok 512"),
        (Completion(Status.CANCELLED, b"he"), "cancelled 2"),
        (Completion(Status.NO_RESPONSE), "no_response 0"),
    ],
)
def test_completion_text(completion: Completion, text: str) -> None:
    assert str(completion) == text
    assert repr(completion) == f"Completion({text})"


def test_a_status_that_no_protocol_knows_can_still_be_logged() -> None:
    assert str(Completion(99)) == "status 99 0"


def test_transfers_are_told_apart_by_identity() -> None:
    one, other = Transfer(0x81, 8), Transfer(0x81, 8)
    assert one != other
    assert len({one, other}) == 2


def test_packets_are_compared_by_value() -> None:
    assert IsoPacket(0, 8, 4, Status.CRC) == IsoPacket(0, 8, 4, Status.CRC)
    assert IsoPacket(0, 8) != IsoPacket(0, 8, 1)
    assert IsoPacket(0, 8) != (0, 8, 0, 0)
    with pytest.raises(TypeError, match="unhashable"):
        hash(IsoPacket(0, 8))
    assert repr(IsoPacket(0, 8)) == "IsoPacket(0, 8, 0, <Status.OK: 0>)"


def test_error_count() -> None:
    packets = [IsoPacket(0, 8), IsoPacket(8, 8, 0, Status.CRC), IsoPacket(16, 8, 0, Status.NOT_DONE)]
    assert Completion(packets=packets).error_count == 2
    assert Completion(Status.STALL).error_count == 0


@given(usb.transfers)
def test_drawn_transfers_are_sound(transfer: Transfer) -> None:
    assert transfer.is_in is bool(transfer.endpoint & 0x80)
    assert len(transfer.data) == (0 if transfer.is_in else transfer.length)
    if transfer.setup:
        assert Setup.parse(transfer.setup).is_in is transfer.is_in
    assert transfer.packets is None or sum(packet.length for packet in transfer.packets) == transfer.length


@given(usb.transfers, st.data())
def test_drawn_completions_answer_their_transfer(transfer: Transfer, data: st.DataObject) -> None:
    completion = data.draw(usb.completions(transfer))
    assert 0 <= completion.actual <= transfer.length
    assert len(completion.data) == (completion.actual if transfer.is_in else 0)
    assert str(completion).endswith(f" {completion.actual}")
