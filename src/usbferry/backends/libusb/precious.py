"""Devices that are not shared by accident: hubs, mounted disks, the only keyboard, what was attached over USB/IP.

Told from what Linux shows in /proc and /sys; elsewhere only hubs are known. All of it blocks, for some milliseconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ...usb.classes import class_name
from ...usb.info import DeviceInfo

_HUB: Final = 0x09  # bDeviceClass
_STORAGE: Final = 0x08  # bInterfaceClass
_BOOT_KEYBOARD: Final = (0x03, 0x01, 0x01)
_REPEATS: Final = 1 << 0x14  # EV_REP of a line `B: EV=`: keyboards repeat, power buttons do not


def why_precious(info: DeviceInfo, root: Path = Path("/")) -> str | None:
    """Why a device should stay here, as the rest of a sentence about it; None for most. `root` has proc and sys."""
    if info.device.device_class == _HUB:
        return "is a hub; share the devices behind it"
    if "/vhci_hcd." in info.path:
        return "is another machine's, attached here over USB/IP; share it from there"
    if any(triplet[0] == _STORAGE for triplet in info.classes):
        places = sorted(place for place, device in _mounted(root) if _is_on(device, info.path, root))
        if places:
            return f"is mounted on {' and '.join(places)}; unmount it first"
    if _BOOT_KEYBOARD in info.classes and info.path:
        keyboards = list(_keyboards(root))
        if keyboards and all(_is_below(one, info.path) for one in keyboards):
            return f"is this machine's only keyboard ({class_name(_BOOT_KEYBOARD)})"
    return None


def _mounted(root: Path) -> Iterator[tuple[str, str]]:
    """Where block devices are mounted or swapped to, and which, as "8:1"."""
    for line in _lines(root / "proc/self/mountinfo"):
        words = line.split()  # proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, ... - type, source
        if len(words) > 6 and "-" in words:
            source = words[words.index("-") + 2]
            yield _plain(words[4]), _number(source) or words[2]  # btrfs has a number that is no device's
    for line in _lines(root / "proc/swaps")[1:]:
        if number := _number(line.split()[0]):
            yield "swap", number


def _is_on(device: str, path: str, root: Path) -> bool:
    """Whether a block device is a USB device's, or lies on one that is: LVM, encryption, RAID."""
    folder = root / "sys/dev/block" / device
    if not path or not folder.exists():
        return False
    if _is_below(os.path.realpath(folder), path):
        return True
    slaves = folder / "slaves"
    below = [(slave / "dev") for slave in slaves.iterdir()] if slaves.is_dir() else []
    return any(_is_on(number, path, root) for one in below for number in _lines(one)[:1])


def _keyboards(root: Path) -> Iterator[str]:
    """Where the machine's keyboards are in sysfs."""
    for block in "\n".join(_lines(root / "proc/bus/input/devices")).split("\n\n"):
        bits = re.search(r"^B: EV=([0-9a-f]+)", block, re.M)
        place = re.search(r"^S: Sysfs=(\S+)", block, re.M)
        handlers = re.search(r"^H: Handlers=(.*)", block, re.M)
        if bits and place and handlers and int(bits[1], 16) & _REPEATS and "kbd" in handlers[1].split():
            yield f"/sys{place[1]}"


def _is_below(path: str, device: str) -> bool:
    return path.startswith(f"{device}/")


def _number(source: str) -> str:
    """The number of a block device's node, "" for what is none."""
    try:
        status = os.stat(source)
    except (OSError, ValueError):
        return ""
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" if source.startswith("/dev/") else ""


def _plain(text: str) -> str:
    """Without the octal escapes of spaces."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
