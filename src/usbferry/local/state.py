"""What each server of this user shares, and who holds it since when: one small file per process, for `usbferry list`.

A file rather than a socket: it costs the server nothing when nobody looks, and a reader cannot disturb it.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ..device import Claimant
from ..server.catalog import Catalog, Offer
from ..usb.classes import class_name
from ..usb.info import DeviceInfo

SCHEMA: Final = "usbferry.state/1"
_WRITE_SECONDS: Final = 0.05  # changes that come together are written once


def folder() -> Path:
    """Where the files are: the user's runtime directory, or one of our own in the temporary one."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and _is_ours(Path(runtime)):  # after `su` it may still be another user's
        return Path(runtime) / "usbferry"
    if hasattr(os, "getuid"):
        return Path(tempfile.gettempdir()) / f"usbferry-{os.getuid()}"
    return Path(tempfile.gettempdir()) / "usbferry"  # Windows: the temporary directory is the user's own


def _is_ours(path: Path) -> bool:
    """Whether it is a directory of this user: in a shared temporary one another may have made it first."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid == os.getuid())


def describe(info: DeviceInfo, holder: Claimant | None = None) -> dict[str, Any]:
    """One device as JSON: the same keys in every list."""
    device = info.device
    return {
        "name": info.name,
        "vendor_id": f"{device.vendor_id:04x}",
        "product_id": f"{device.product_id:04x}",
        "manufacturer": info.manufacturer,
        "product": info.product,
        "serial": info.serial,
        "speed": info.speed.name.lower(),
        "class": f"{device.device_class:02x}",
        "interfaces": [
            {"class": f"{c:02x}", "subclass": f"{s:02x}", "protocol": f"{p:02x}", "name": class_name((c, s, p))}
            for c, s, p in info.classes
        ],
        "path": info.path,
        "drivers": list(info.drivers),
        "holder": None
        if holder is None
        else {
            "address": holder.address,
            "identity": holder.identity,
            "protocol": holder.protocol,
            "since": holder.since,
        },
    }


class Publisher:
    """Keeps the file of one server process in step with its catalog; `close` removes it."""

    def __init__(self, catalog: Catalog, listening: list[str]) -> None:
        self._catalog = catalog
        self._listening = listening
        self._path = folder() / f"{os.getpid()}.json"
        self._timer: asyncio.TimerHandle | None = None
        self._unwatch = catalog.watch(self.write_soon)
        self._write()

    def write_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WRITE_SECONDS, self._write)

    def close(self) -> None:
        self._unwatch()
        if self._timer is not None:
            self._timer.cancel()
        with suppress(OSError):
            self._path.unlink()

    def _write(self) -> None:
        self._timer = None
        state = {
            "schema": SCHEMA,
            "pid": os.getpid(),
            "started": start_of(os.getpid()),
            "listening": self._listening,
            "devices": [_offer(offer) for offer in self._catalog.list()],
        }
        fresh = self._path.with_suffix(".new")
        with suppress(OSError):  # a full or read-only disk must not stop a server
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_ours(self._path.parent):
                fresh.write_text(json.dumps(state))
                fresh.replace(self._path)


def read() -> list[dict[str, Any]]:
    """The states of the servers that run now, by process id. A file whose process died is removed."""
    where = folder()
    states = []
    for path in where.glob("*.json") if _is_ours(where) else ():
        try:
            state = json.loads(path.read_text())
        except (OSError, ValueError):
            continue  # gone this moment, or not ours
        if not isinstance(state, dict) or state.get("schema") != SCHEMA or not isinstance(state.get("pid"), int):
            continue
        if is_alive(state["pid"], state.get("started")):
            states.append(state)
        else:
            with suppress(OSError):
                path.unlink()
                path.with_suffix(".new").unlink(missing_ok=True)
    return sorted(states, key=lambda state: int(state["pid"]))


def _offer(offer: Offer) -> dict[str, Any]:
    return {**describe(offer.current(), offer.holder), "source": offer.source.address}


def is_alive(pid: int, started: object) -> bool:
    """Whether the process that wrote a file is there still, and not another one that got its number."""
    if sys.platform == "win32":
        return True  # signal 0 is Ctrl-C there; a stale file is the lesser evil
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return started is None or started == start_of(pid)


def start_of(pid: int) -> str | None:
    """When a process started, in a form that only tells it from others; None where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]  # field 22, proc(5)
