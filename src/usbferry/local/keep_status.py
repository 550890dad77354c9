"""What each `usbferry keep` of this machine keeps: one small file per process, for `keep --status` and `detach`.

Keepers are root's, and everybody may know what they keep.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from . import status_file
from .status_file import StatusFile

SCHEMA: Final = "usbferry.keep/1"
FOLDER: Final = Path("/run/usbferry-keep")


def status_of(status: Callable[[], dict[str, Any]], folder: Path = FOLDER) -> StatusFile:
    """The file of this process's keeper, whose status it says."""
    return StatusFile(folder, SCHEMA, status)


def read(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """What the keepers that run now say, by process id."""
    return status_file.read(folder, SCHEMA)


def resumes(port: int, folder: Path = FOLDER) -> list[str]:
    """What brings back what a keeper has attached to a port of vhci, once it was detached by hand; else nothing."""
    return [
        resume(device["address"], one["pid"])
        for one in read(folder)
        for place in one["places"]
        for device in place["devices"]
        if device["port"] == port
    ]


def resume(address: str, pid: int) -> str:
    """The command after which a keeper has a device again that was detached by hand.

    A keeper knows what others attached by USB/IP alone, and a virtual device is another one in each process: all
    others it is told to have again, with whatever else it left alone.
    """
    return f"usbferry attach {shlex.quote(address)}" if address.startswith("usbip:") else f"kill -HUP {pid}"
