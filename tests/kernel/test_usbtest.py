"""The kernel's USB conformance suite passes through us: every case that the usbtest driver has."""

import os

import pytest

from tests.kernel.steps import CASES, PATTERN_CASES, UNLINK_RETRY, importing, unexpected, usbtest

GUEST = {"cpus": 2}  # for races, as of an unlink with its submit

SOAK = os.environ.get("USBFERRY_SOAK", "") not in ("", "0")
ITERATIONS = 1000 if SOAK else 50  # testusb's own default, and a twentieth of it
UNLINKS = 24  # the case in which an unlink can overtake its submit
# Case 14 with realworld=0 reads back 0 bytes as an IN request, which usbcore warns of, once: "BOGUS control dir".
EMPTY_READ = (r"WARNING: .* at drivers/usb/core/urb.c:\d+ usb_submit_urb\+", "Call Trace:$")

# speed -> server's option, what sysfs shows in Mbit/s
SPEEDS = {"high": "480", "super": "5000"}


def words(cases: tuple[int, ...]) -> str:
    return " ".join(f"{case},iterations={ITERATIONS},vary=512" for case in cases)


@pytest.fixture(params=SPEEDS)
def speed(request) -> str:
    return request.param


@pytest.mark.timeout(3600 if SOAK else 300)
def test_all_30_cases_pass(guest, serve, speed):
    server = serve(f"virtual:zero?speed={speed}")
    guest.mark()
    with importing(guest, server.port, "1-1"):
        run = usbtest(guest, f"alt=1 {words(CASES)}", 3500 if SOAK else 240)
    assert (run.speed, run.failed) == (SPEEDS[speed], {})
    assert run.passed == list(CASES)
    assert len(run.passed) == 30
    assert unexpected(guest, UNLINK_RETRY) == []


@pytest.mark.timeout(3600 if SOAK else 300)
def test_the_28_cases_with_a_pattern_pass_under_strict_rules(guest, serve, speed):
    """`pattern=1`: each byte is checked, by the driver and by us. `realworld=0`: no allowance for sloppy hardware."""
    server = serve(f"virtual:zero?speed={speed}&pattern=1")
    guest.mark()
    with importing(guest, server.port, "1-1"):
        run = usbtest(guest, f"alt=1 pattern=1 realworld=0 {words(PATTERN_CASES)}", 3500 if SOAK else 240)
    assert (run.speed, run.failed) == (SPEEDS[speed], {})
    assert run.passed == list(PATTERN_CASES)
    assert len(run.passed) == 28
    assert unexpected(guest, UNLINK_RETRY, *EMPTY_READ) == []


def test_a_wrong_pattern_is_noticed(guest, serve):
    """What the proof above rests on: both sides do look at the bytes."""
    server = serve("virtual:zero")
    guest.mark()
    with importing(guest, server.port, "1-1"):
        run = usbtest(guest, "alt=1 pattern=1 1,iterations=2 2,iterations=2")
    assert (run.passed, run.failed) == ([1], {2: "EINVAL"})
    server = serve("virtual:zero?pattern=1")
    with importing(guest, server.port, "1-1"):
        run = usbtest(guest, "alt=1 pattern=0 1,iterations=2 2,iterations=2")
    assert (run.passed, run.failed) == ([], {1: "EPIPE", 2: "EINVAL"})
    assert [line for line in guest.errors() if "buf" in line] == [
        "usbtest 1-1:1.0: buf[1] = 0 (not 1)",
        "usbtest 1-1:1.0: buf[1] = 1 (not 0)",
    ]


@pytest.mark.timeout(3600 if SOAK else 300)
def test_an_unlink_may_overtake_its_submit_100_times_in_a_row(guest, serve, speed):
    times = 1000 if SOAK else 100
    server = serve(f"virtual:zero?speed={speed}")
    guest.mark()
    with importing(guest, server.port, "1-1"):
        run = usbtest(guest, f"alt=1 {UNLINKS},iterations=10,times={times}", 3500 if SOAK else 240)
    assert (run.speed, run.failed) == (SPEEDS[speed], {})
    assert run.passed == [UNLINKS] * times
    assert unexpected(guest, UNLINK_RETRY) == []
