"""Why a device cannot be had, in one line with the remedy."""

from __future__ import annotations

import sys

from ...device import Busy, DeviceError, NotFound
from . import sysfs
from .library import ACCESS, BUSY, NO_DEVICE, NOT_FOUND, NOT_SUPPORTED, LibraryError
from .scan import Plugged


def why_not(error: LibraryError, plugged: Plugged) -> DeviceError:
    """What a user is told of a device that could not be opened. Looks around in the system, so it blocks."""
    name, identity = plugged.name, f"{plugged.vendor_id:04x}:{plugged.product_id:04x}"
    if error.code in (NO_DEVICE, NOT_FOUND):
        return NotFound(f"{name} was unplugged")
    if error.code == BUSY:
        return Busy(f"{name} is claimed by {_others(plugged)}; end that first")
    if error.code == ACCESS and sys.platform == "linux":
        return DeviceError(
            f"no permission to use {name} ({sysfs.node(plugged.bus, plugged.address)}); to grant it: "
            f"usbferry udev-rule {identity} | sudo tee /etc/udev/rules.d/70-usbferry.rules, and plug it in again"
        )
    if error.code == ACCESS and sys.platform == "darwin":
        return DeviceError(f"macOS does not let go of {name}: its own driver has the device; run usbferry as root")
    if error.code == NOT_SUPPORTED and sys.platform == "win32":
        return DeviceError(
            f"{name} has no driver that libusb can use; give it WinUSB with Zadig, https://zadig.akeo.ie"
        )
    return DeviceError(f"{name} cannot be opened: {error}")


def _others(plugged: Plugged) -> str:
    """Who has it, in words."""
    if sys.platform != "linux":
        return "another program"
    where = sysfs.node(plugged.bus, plugged.address)
    found = [f"{name} (process {pid})" for pid, name in sysfs.openers(where)]
    return " and ".join(found) or "another program"
