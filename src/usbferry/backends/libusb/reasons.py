"""Why a device cannot be had, in one line with the remedy."""

from __future__ import annotations

import os
import sys

from ...device import Busy, DeviceError, NotFound
from . import sysfs
from .library import ACCESS, BUSY, IO, NO_DEVICE, NOT_FOUND, NOT_SUPPORTED, LibraryError
from .scan import Plugged


def why_not(error: LibraryError, plugged: Plugged) -> DeviceError:
    """What a user is told of a device that could not be opened. Looks around in the system, so it blocks."""
    on = {"linux": _linux, "darwin": _macos, "win32": _windows}.get(sys.platform)
    if on is not None and (found := on(error.code, plugged)) is not None:
        return found
    if error.code in (NO_DEVICE, NOT_FOUND):
        return NotFound(f"{plugged.name} was unplugged")
    if error.code == BUSY:
        return Busy(f"{plugged.name} is claimed by {_others(plugged)}; end that first")
    return DeviceError(f"{plugged.name} cannot be opened: {error}")


def no_memory(name: str) -> str:
    """What is told of a device whose transfers the kernel does not take."""
    return (
        f"{name}: the kernel has no memory for more transfers; as root: echo 256 > "
        "/sys/module/usbcore/parameters/usbfs_memory_mb"
    )


def asleep(name: str) -> str | None:
    """What is told of a device that the system has suspended and cannot wake; None if it has not. Linux alone."""
    if sysfs.text(name, "power/runtime_status") not in ("suspended", "error"):
        return None
    return (
        f"{name} is asleep and does not wake up; as root: echo on > {sysfs.DEVICES / name}/power/control, "
        "or plug it in again"
    )


def _linux(code: int, plugged: Plugged) -> DeviceError | None:
    name, identity = plugged.name, f"{plugged.vendor_id:04x}:{plugged.product_id:04x}"
    if code == ACCESS:
        return DeviceError(
            f"no permission to use {name} ({sysfs.node(plugged.bus, plugged.address)}); to grant it: "
            f"usbferry udev-rule {identity} | sudo tee /etc/udev/rules.d/70-usbferry.rules, and plug it in again"
        )
    if sysfs.text(name, "authorized") == "0":  # then it has no interfaces, whatever it is told to do
        return DeviceError(
            f"{name} is not authorized, perhaps by USBGuard; as root: echo 1 > {sysfs.DEVICES / name}/authorized"
        )
    text = asleep(name) if code == IO else None
    return DeviceError(text) if text else None


def _macos(code: int, plugged: Plugged) -> DeviceError | None:
    if code != ACCESS:
        return None
    if os.geteuid():
        return DeviceError(f"macOS does not let go of {plugged.name}: its own driver has it; run usbferry as root")
    return DeviceError(
        f"macOS does not let go of {plugged.name}, not for root either, as is its way with keyboards and mice; "
        "share it from Linux"
    )


def _windows(code: int, plugged: Plugged) -> DeviceError | None:
    if code == ACCESS:  # WinUSB lets one program have a device
        return Busy(f"{plugged.name} is claimed by another program; end that first")
    if code in (NOT_SUPPORTED, NOT_FOUND):
        return DeviceError(
            f"{plugged.name} has no driver that libusb can use; give it WinUSB with Zadig, https://zadig.akeo.ie"
        )
    return None


def _others(plugged: Plugged) -> str:
    """Who has it, in words."""
    if sys.platform != "linux":
        return "another program"
    where = sysfs.node(plugged.bus, plugged.address)
    found = [f"{name} (process {pid})" for pid, name in sysfs.openers(where)]
    return " and ".join(found) or "another program"
