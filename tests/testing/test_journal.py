"""What a test that fails shows of its devices: a sentence for each transfer."""

from __future__ import annotations

import re

import pytest

import usbferry
from usbferry.testing import plugged
from usbferry.testing.journal import KEPT, Journal, Passed
from usbferry.usb import setup
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status


def control(request: setup.Setup, payload: bytes = b"") -> Transfer:
    length = request.length
    return Transfer(0x80 if request.is_in else 0, length, payload, request.pack())


READING = "reading 64 bytes from endpoint 0x81"
VENDOR = "control request {} value 0000 index 0000 length 1"
STALLED = Completion(Status.STALL)
WRITING = "writing 5 bytes to endpoint 0x01"


@pytest.mark.parametrize(
    ("transfer", "completion", "said"),
    [
        (Transfer(0x01, 5, b"hello"), Completion(actual=5), f"{WRITING} [68 65 6c 6c 6f 'hello']: ok"),
        (Transfer(0x01, 5, b"\x80" * 5), Completion(actual=5), f"{WRITING} [80 80 80 80 80]: ok"),
        (Transfer(0x01, 0), Completion(), "writing 0 bytes to endpoint 0x01: ok"),
        (Transfer(0x81, 64), Completion(data=b"\0\1"), f"{READING} [00 01]"),
        (Transfer(0x81, 64), Completion(data=b"x" * 64), f"{READING} [{'78 ' * 32}{'x' * 32!r} ... (64 bytes)]"),
        (Transfer(0x81, 64), Completion(), f"{READING}: nothing came"),
        (Transfer(0x81, 64), None, f"{READING}: not answered yet"),
        (Transfer(0x81, 64), Completion(Status.GONE), f"{READING}: the device is gone"),
        (
            Transfer(0x81, 64),
            Completion(Status.CANCELLED, b"ab"),
            f"{READING}: it was cancelled, 2 bytes were done [61 62 'ab']",
        ),
    ],
)
def test_a_transfer_is_a_sentence(transfer: Transfer, completion: Completion | None, said: str) -> None:
    passed = Passed(0.0, transfer)
    if completion is not None:
        passed.end(completion, 0.0)
    assert str(passed) == said


@pytest.mark.parametrize(
    ("request_", "completion", "said"),
    [
        (setup.get_descriptor(1, length=18), Completion(data=b"\x12"), "GET_DESCRIPTOR, device, 18 bytes [12]"),
        (setup.get_descriptor(3, 2), Completion(data=b"\6\3A\0\xe9\0"), "GET_DESCRIPTOR, string 2, 255 bytes 'Aé'"),
        (setup.get_descriptor(0x22), STALLED, "GET_DESCRIPTOR, 0x22, 255 bytes: the device refuses it"),
        (setup.set_configuration(1), Completion(), "SET_CONFIGURATION 1: ok"),
        (setup.set_interface(2, 1), Completion(), "SET_INTERFACE 2, alternate setting 1: ok"),
        (setup.clear_halt(0x81), Completion(), "CLEAR_FEATURE, halt of endpoint 0x81: ok"),
        (setup.Setup(0xC0, 2, length=1), Completion(data=b"2"), f"{VENDOR.format('c0 0x02')} [32 '2']"),
        (setup.Setup(0x40, 1, length=1), STALLED, f"{VENDOR.format('40 0x01')} [21 '!']: the device refuses it"),
    ],
)
def test_a_request_has_its_name(request_: setup.Setup, completion: Completion, said: str) -> None:
    test_a_transfer_is_a_sentence(control(request_, b"!" * (not request_.is_in and request_.length)), completion, said)


def test_what_took_long_says_so() -> None:
    passed = Passed(0.0, Transfer(0x81, 64))
    passed.end(Completion(data=b"a"), 0.25)
    assert str(passed) == "reading 64 bytes from endpoint 0x81 [61 'a'], after 0.250 s"


def test_a_payload_that_was_lent_is_copied() -> None:
    buffer = bytearray(b"before")
    passed = Passed(0.0, Transfer(0x01, 6, memoryview(buffer)))
    buffer[:] = b"after!"
    assert passed.data == b"before"
    buffer.extend(b"...")  # nobody holds a view of it


def test_only_the_last_are_kept() -> None:
    journal = Journal()
    for number in range(KEPT + 5):
        journal.end(journal.begin(Transfer(0x81, number)), Completion())
    assert len(journal.transfers) == KEPT
    first, *_, last = journal.lines(2)
    assert first.strip() == f"({KEPT + 3} before)"
    assert f"reading {KEPT + 4} bytes" in last
    assert all(len(passed.data) <= 4096 for passed in journal.transfers)


def test_a_host_may_go_on_while_a_report_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal()
    journal.begin(Transfer(0x81, 1))
    journal.begin(Transfer(0x81, 2))
    monkeypatch.setattr(Passed, "words", property(lambda self: journal.note("meanwhile") or f"read {self.transfer}"))
    assert len(journal.lines(30)) == 2


def test_what_is_alike_is_one_line() -> None:
    journal = Journal()
    journal.note("claimed")
    for data, took in [(b"1", 0.0), *[(b"2", took / 100) for took in range(20)], (b"1", 0.5)]:
        journal.begin(Transfer(0x82, 8)).end(Completion(data=data), took)
    lines = [line.partition(" s  ")[2] for line in journal.lines(30)]
    reading = "reading 8 bytes from endpoint 0x82"
    assert lines == [
        "claimed",
        f"{reading} [31 '1']",
        f"{reading} [32 '2'] (20 times)",
        f"{reading} [31 '1'], after 0.500 s",
    ]
    assert journal.lines(2)[0].strip() == "(2 before)"


def test_a_conversation() -> None:
    with plugged("virtual:zero") as one:
        assert one.report() == "no host has used it"
        one.faults.stall(0x81)
        with one.open() as host:
            host.reset()
            with pytest.raises(usbferry.Stalled):
                host.read(0x81, 64, timeout=10)
        one.wait_until(lambda zero: not zero.is_open)
        lines = [re.sub(r"^ *\d+\.\d{3} s  ", "", line) for line in one.report().splitlines()]
    assert re.fullmatch(r"claimed by 127\.0\.0\.1:\d+ over usbip", lines[0])
    assert lines[1].startswith("GET_DESCRIPTOR, device, 18 bytes [12 01 00 02")
    assert lines[-4:] == [
        "reset by the host",
        "reading 64 bytes from endpoint 0x81: the endpoint is halted, or not there in the settings in force",
        "fault: stall",
        "given back by the host",
    ]
