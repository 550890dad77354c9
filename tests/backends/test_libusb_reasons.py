"""Why a real device cannot be had: each answer of libusb's as one line with the remedy, on each system."""

import os

import pytest

from usbferry.backends.libusb import reasons, sysfs
from usbferry.backends.libusb.library import ACCESS, BUSY, IO, NO_DEVICE, NOT_FOUND, NOT_SUPPORTED, OTHER
from usbferry.backends.libusb.scan import Plugged
from usbferry.device import Busy, DeviceError, NotFound

STICK = Plugged("1-2", 1, 7, 0x1209, 0x0001)


class Failed(Exception):
    """A LibraryError without a library."""

    def __init__(self, code: int) -> None:
        super().__init__("libusb's words")
        self.code = code


def told(monkeypatch, platform: str, code: int) -> DeviceError:
    monkeypatch.setattr("sys.platform", platform)
    error = reasons.why_not(Failed(code), STICK)
    assert "\n" not in str(error)
    return error


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A sysfs with nothing in it."""
    monkeypatch.setattr(sysfs, "DEVICES", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("platform", "code", "kind", "text"),
    [
        (
            "linux",
            ACCESS,
            DeviceError,
            "no permission to use 1-2 (/dev/bus/usb/001/007); to grant it: usbferry udev-rule 1209:0001 | "
            "sudo tee /etc/udev/rules.d/70-usbferry.rules, and plug it in again",
        ),
        ("linux", BUSY, Busy, "1-2 is claimed by another program; end that first"),
        ("linux", NO_DEVICE, NotFound, "1-2 was unplugged"),
        ("linux", NOT_FOUND, NotFound, "1-2 was unplugged"),
        ("linux", IO, DeviceError, "1-2 cannot be opened: libusb's words"),
        ("darwin", BUSY, Busy, "1-2 is claimed by another program; end that first"),
        ("darwin", NO_DEVICE, NotFound, "1-2 was unplugged"),
        ("win32", ACCESS, Busy, "1-2 is claimed by another program; end that first"),
        *(
            (
                "win32",
                code,
                DeviceError,
                "1-2 has no driver that libusb can use; give it WinUSB with Zadig, https://zadig.akeo.ie",
            )
            for code in (NOT_SUPPORTED, NOT_FOUND)
        ),
        ("win32", NO_DEVICE, NotFound, "1-2 was unplugged"),
        ("freebsd14", OTHER, DeviceError, "1-2 cannot be opened: libusb's words"),
    ],
)
def test_each_reason_in_one_line(monkeypatch, platform, code, kind, text):
    error = told(monkeypatch, platform, code)
    assert (type(error), str(error)) == (kind, text)


@pytest.mark.parametrize(
    ("user", "text"),
    [
        (501, "macOS does not let go of 1-2: its own driver has it; run usbferry as root"),
        (
            0,
            "macOS does not let go of 1-2, not for root either, as is its way with keyboards and mice; "
            "share it from Linux",
        ),
    ],
)
def test_a_class_driver_of_macos(monkeypatch, user, text):
    monkeypatch.setattr(os, "geteuid", lambda: user, raising=False)
    assert str(told(monkeypatch, "darwin", ACCESS)) == text


@pytest.mark.parametrize(("state", "is_asleep"), [("suspended", True), ("error", True), ("active", False)])
def test_a_device_that_does_not_wake_up(monkeypatch, machine, state, is_asleep):
    (machine / "1-2/power").mkdir(parents=True)
    (machine / "1-2/power/runtime_status").write_text(f"{state}\n")
    remedy = f"as root: echo on > {machine}/1-2/power/control, or plug it in again"
    asleep, other = f"1-2 is asleep and does not wake up; {remedy}", "1-2 cannot be opened: libusb's words"
    assert str(told(monkeypatch, "linux", IO)) == (asleep if is_asleep else other)


@pytest.mark.parametrize("code", [NOT_FOUND, BUSY, OTHER])
def test_a_device_that_is_not_authorized(monkeypatch, machine, code):
    (machine / "1-2").mkdir()
    (machine / "1-2/authorized").write_text("0\n")
    assert str(told(monkeypatch, "linux", code)) == (
        f"1-2 is not authorized, perhaps by USBGuard; as root: echo 1 > {machine}/1-2/authorized"
    )
