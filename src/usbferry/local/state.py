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
_RUNTIMES: Final = Path("/run/user")  # with the runtime directory of each user, as systemd has it
_MAX_BYTES: Final = 4 << 20  # of another user's file
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


def sees_all() -> bool:
    """Whether `read` finds the servers of every user: root may look into their folders."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def read() -> list[dict[str, Any]]:
    """The states of the servers that run now, by process id; to root those of every user.

    A file of this user's whose process died is removed.
    """
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
    if sees_all():
        for runtime in (*_RUNTIMES.glob("*/usbferry"), *Path(tempfile.gettempdir()).glob("usbferry-*")):
            states += _of_others(runtime)
    return sorted(states, key=lambda state: int(state["pid"]))


def _of_others(where: Path) -> list[dict[str, Any]]:
    """What another user's servers say, for root: no link of theirs is followed, and whatever they wrote is only shown.

    A file that cannot be shown, or names a process of somebody else, is left out.
    """
    found = []
    try:
        folder = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return []
    try:
        owner = os.fstat(folder).st_uid
        for name in os.listdir(folder) if owner != os.geteuid() else ():
            if not name.endswith(".json"):
                continue
            with suppress(OSError, ValueError, RecursionError):
                state = json.loads(_contents(name, folder, owner))
                if not _is_whole(state) or not is_alive(state["pid"], state["started"]):
                    continue
                if os.stat(f"/proc/{state['pid']}").st_uid == owner:
                    found.append(state)
    finally:
        os.close(folder)
    return found


def _contents(name: str, folder: int, owner: int) -> bytes:
    """A file in a folder, if it is a plain one of `owner` and of a reasonable size. Raises OSError, ValueError."""
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != owner or status.st_size > _MAX_BYTES:
            raise ValueError(name)
        return file.read(_MAX_BYTES)


def _is_whole(state: Any) -> bool:
    """Whether all that is shown of a server is there, and of its kind."""
    return (
        _has(state, _STATE)
        and state["schema"] == SCHEMA
        and state["pid"] > 0
        and all(isinstance(one, str) for one in state["listening"])
        and all(
            _has(device, _DEVICE)
            and all(_has(one, {"name": str}) for one in device["interfaces"])
            and all(isinstance(one, str) for one in device["drivers"])
            and (device["holder"] is None or _has(device["holder"], _HOLDER))
            and (device["holder"] is None or 0 <= device["holder"]["since"] < 1 << 40)
            for device in state["devices"]
        )
    )


def _has(value: Any, kinds: dict[str, Any]) -> bool:
    return isinstance(value, dict) and all(
        key in value and isinstance(value[key], kind) and not isinstance(value[key], bool)
        for key, kind in kinds.items()
    )


_STATE: Final = {"schema": str, "pid": int, "started": str | None, "listening": list, "devices": list}
_DEVICE: Final = {
    **dict.fromkeys(("name", "vendor_id", "product_id", "speed", "class"), str),
    **dict.fromkeys(("manufacturer", "product", "serial", "path"), str | None),
    **{"interfaces": list, "drivers": list, "holder": dict | None},
}
_HOLDER: Final = {"address": str, "identity": str | None, "protocol": str, "since": int | float}


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
