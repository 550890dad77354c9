"""Errors of transfers are sentences, one for each way that there is."""

from __future__ import annotations

import pytest

from usbferry.usb.said import said
from usbferry.usb.transfer import Completion, IsoPacket, Transfer
from usbferry.usb.types import Status

REQUEST = bytes.fromhex("c0 77 34 12 02 00 01 00")


@pytest.mark.parametrize(
    ("transfer", "completion", "text"),
    [
        (
            Transfer(0x80, 1, b"", REQUEST),
            Completion(Status.STALL),
            "control request c0 0x77 value 1234 index 0002 length 1: the device refuses it",
        ),
        (
            Transfer(0x81, 64),
            Completion(Status.STALL),
            "reading 64 bytes from endpoint 0x81: the endpoint is halted, or not there in the settings in force",
        ),
        (
            Transfer(0x02, 3, b"abc"),
            Completion(Status.TIMEOUT, b"", 2),
            "writing 3 bytes to endpoint 0x02: it took too long, 2 bytes were done",
        ),
        (
            Transfer(0x83, 9, packets=[IsoPacket(0, 9)]),
            Completion(Status.FAILED),
            "reading 1 packets from endpoint 0x83: it failed at the other side",
        ),
    ],
)
def test_a_sentence_for_each(transfer: Transfer, completion: Completion, text: str) -> None:
    assert said(transfer, completion) == text


def test_why_a_device_is_gone_is_in_it() -> None:
    text = said(Transfer(0x81, 1), Completion(Status.GONE), "unplugged")
    assert text == "reading 1 bytes from endpoint 0x81: the device is gone: unplugged"


@pytest.mark.parametrize("status", Status)
def test_every_status_has_its_words(status: Status) -> None:
    text = said(Transfer(0x81, 1), Completion(status))
    assert text.partition(": ")[2]
    assert status.name not in text or status is Status.CRC
