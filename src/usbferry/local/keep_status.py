"""What each `usbferry keep` of this machine keeps: one small file per process, for `keep --status` and `detach`.

Keepers are root's, and everybody may know what they keep.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from .state import is_alive, start_of

SCHEMA: Final = "usbferry.keep/1"
FOLDER: Final = Path("/run/usbferry-keep")
_WRITE_SECONDS: Final = 0.05  # changes that come together are written once


class StatusFile:
    """Keeps the file of this process up to date; `close` removes it."""

    def __init__(self, status: Callable[[], dict[str, Any]], folder: Path = FOLDER) -> None:
        self._status = status
        self._path = folder / f"{os.getpid()}.json"
        self._timer: asyncio.TimerHandle | None = None

    def write_soon(self) -> None:
        """Something has changed."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WRITE_SECONDS, self._write)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with suppress(OSError):
            self._path.unlink()

    def _write(self) -> None:
        self._timer = None
        said = {"schema": SCHEMA, "pid": os.getpid(), "started": start_of(os.getpid()), **self._status()}
        fresh = self._path.with_suffix(".new")
        with suppress(OSError):  # a full or read-only disk must not stop a keeper
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            fresh.write_text(json.dumps(said))
            fresh.replace(self._path)


def read(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """What the keepers that run now say, by process id. A file whose process died is removed by who may."""
    found = []
    for path in folder.glob("*.json"):
        try:
            said = json.loads(path.read_text())
            alive = said["schema"] == SCHEMA and is_alive(said["pid"], said["started"])
        except (OSError, ValueError, TypeError, KeyError):
            continue  # gone this moment, or none of ours
        if alive:
            found.append(said)
        else:
            with suppress(OSError):
                path.unlink()
    return sorted(found, key=lambda one: int(one["pid"]))


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
