"""What Linux says of its USB devices without opening them: strings, drivers, who has a device's node open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

DEVICES: Final = Path("/sys/bus/usb/devices")


def text(name: str, attribute: str) -> str:
    """An attribute of a device or interface, "" where there is none."""
    try:
        return (DEVICES / name / attribute).read_text(errors="replace").strip()
    except OSError:
        return ""


def has_devices() -> bool:
    """Whether this machine has any, besides the hubs of its own controllers."""
    return any(not name.startswith("usb") and ":" not in name for name in _names())


def _names() -> list[str]:
    try:
        return os.listdir(DEVICES)
    except OSError:
        return []


def path(name: str) -> str:
    """Where a device is in sysfs, "" where there is no sysfs."""
    found = DEVICES / name
    return os.path.realpath(found) if found.exists() else ""


def interfaces(name: str) -> list[str]:
    """A device's interfaces as sysfs names them, `1-2:1.0`."""
    try:
        return sorted(one for one in os.listdir(DEVICES / name) if one.startswith(f"{name}:"))
    except OSError:
        return []


def drivers(name: str) -> tuple[str, ...]:
    """The drivers that have a device's interfaces, each once."""
    found = {}
    for interface in interfaces(name):
        try:
            found[os.path.basename(os.readlink(DEVICES / name / interface / "driver"))] = True
        except OSError:
            continue  # nobody has it
    return tuple(found)


def node(bus: int, address: int) -> str:
    """A device's node."""
    return f"/dev/bus/usb/{bus:03}/{address:03}"


def openers(where: str) -> Iterator[tuple[int, str]]:
    """The processes that have a file open, as far as this user may see: number and name."""
    own = os.getpid()
    for process in os.listdir("/proc"):
        if not process.isdecimal() or int(process) == own:
            continue
        try:
            files = Path("/proc", process, "fd").iterdir()
            if any(os.readlink(one) == where for one in files):
                yield int(process), Path("/proc", process, "comm").read_text().strip()
        except OSError:
            continue  # not ours, or gone
