"""What each server of this user shares, and who holds it since when: a small file for each, read by `usbferry list`."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ..device import Claimant
from ..server.catalog import Catalog, Offer
from ..transports.place import Place
from ..usb.classes import class_name
from ..usb.info import DeviceInfo
from . import status_file
from .status_file import StatusFile, is_of_living

SCHEMA: Final = "usbferry.state/1"
_RUNTIMES: Final = Path("/run/user")  # with the runtime directory of each user, as systemd has it
_MAX_BYTES: Final = 4 << 20  # of another user's file


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
        self._file = StatusFile(folder(), SCHEMA, self._say, mode=0o700, is_good=_is_ours)
        self._unwatch = catalog.watch(self._file.write_soon)
        self._file.write()

    def close(self) -> None:
        self._unwatch()
        self._file.close()

    def _say(self) -> dict[str, Any]:
        return {"listening": self._listening, "devices": [_offer(offer) for offer in self._catalog.list()]}


def sees_all() -> bool:
    """Whether `read` finds the servers of every user: root may look into their folders."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def read() -> list[dict[str, Any]]:
    """The states of the servers that run now, by process id; to root those of every user.

    A file of this user's whose process died is removed.
    """
    where = folder()
    states = status_file.read(where, SCHEMA) if _is_ours(where) else []
    if sees_all():
        for runtime in (*_RUNTIMES.glob("*/usbferry"), *Path(tempfile.gettempdir()).glob("usbferry-*")):
            states += _of_others(runtime)
    return sorted(states, key=lambda state: int(state["pid"]))


def listener(place: Place) -> int | None:
    """The process of a server, of those that `read` finds, that is in the way of another one at `place`."""
    return next((state["pid"] for state in read() if any(_is_at(place, one) for one in state["listening"])), None)


_EVERY: Final = {"0.0.0.0", "[::]"}  # of its family; "" is every one of both
_LOCAL: Final = {"localhost", "127.0.0.1", "[::1]"}


def _is_at(place: Place, listening: str) -> bool:
    scheme, _, where = listening.rpartition("://")
    if place.path:
        return where.partition("?")[0] == place.path
    host, _, port = where.partition("/")[0].rpartition(":")
    hosts = {host, str(place).rpartition(":")[0]}
    if "localhost" in hosts:
        is_host = "" in hosts or hosts <= _LOCAL | _EVERY
    else:
        is_every = bool(hosts & _EVERY) and len({one.startswith("[") for one in hosts}) == 1
        is_host = len(hosts) == 1 or "" in hosts or is_every
    return port == str(place.port) and is_host and scheme.endswith("+udp") == (place.transport == "udp")


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
                if not _is_whole(state) or not is_of_living(state):
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
