"""What is attached to this machine's kernel, by whomever, and where it comes from; and what relays say of theirs.

The kernel knows the ports, the usbip tool's records where a connection leads, and a relay, in a file of its own, which
process it is, whose device it carries, and how much went through.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import quote

from ..device import NotFound
from ..protocols.usbip.messages import PORT
from ..selector import Ambiguous, Selector, described
from ..usb.descriptors import DeviceDescriptor
from ..usb.info import DeviceInfo
from ..usb.types import Speed
from . import status_file
from .relay import Counts
from .vhci import FREE, Port, Record, Vhci

log: Final = logging.getLogger(__name__)
SCHEMA: Final = "usbferry.relay/1"
_WRITE_SECONDS: Final = 1.0  # between two looks at whether the counts have changed


class Note:
    """Keeps the file of one relay, for as long as its port is attached; `close` removes it."""

    def __init__(self, vhci: Vhci, port: int, address: str, counts: Counts) -> None:
        self._path = vhci.note_path(port)
        self._said = {
            **status_file.header(SCHEMA),
            "port": port,
            "since": time.time(),
            "address": address,
        }
        self._counts = counts
        self._written: dict[str, int] | None = None
        self._text = ""  # of the file
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle
        self._write()

    def close(self) -> None:
        self._timer.cancel()
        with suppress(OSError, ValueError):
            if self._path.read_text() == self._text:  # the kernel may have given the port to another relay by now
                self._path.unlink()

    def _write(self) -> None:
        self._timer = self._loop.call_later(_WRITE_SECONDS, self._write)
        counts = asdict(self._counts)
        if counts == self._written:
            return
        self._written = counts
        text = json.dumps({**self._said, "counts": counts})
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            status_file.replace(self._path, text)
            self._text = text
        except OSError as error:  # a full or read-only disk must not stop a relay
            log.debug("%s: %s", self._path, error)


def attached(vhci: Vhci) -> list[dict[str, Any]]:
    """Every attached device as JSON, by port. Raises DeviceError when the kernel's module is not loaded."""
    return [_describe(vhci, port) for port in vhci.ports() if port.is_attached]


def free(vhci: Vhci) -> dict[str, int]:
    """How many ports are free, by hub."""
    ports = vhci.ports()
    hubs = dict.fromkeys(port.hub for port in ports)
    return {hub: sum(port.hub == hub and port.state == FREE for port in ports) for hub in hubs}


def info(vhci: Vhci, port: Port) -> DeviceInfo:
    """What the kernel says of an attached device; its name is its bus id at the server, its path the one here."""

    def number(name: str) -> int:
        return int(vhci.attribute(port, name) or "0", 16)

    device = DeviceDescriptor(
        number("idVendor"),
        number("idProduct"),
        device_class=number("bDeviceClass"),
        device_subclass=number("bDeviceSubClass"),
        device_protocol=number("bDeviceProtocol"),
        release=number("bcdDevice"),
    )
    record = vhci.read_record(port.number)
    found = DeviceInfo(record.name if record else port.device, device, path=port.device)
    found.interface_classes = vhci.interfaces(port)
    found.manufacturer, found.product, found.serial = (
        vhci.attribute(port, name) for name in ("manufacturer", "product", "serial")
    )
    return found


def find(vhci: Vhci, text: str) -> Port:
    """The port that a user means: by its number, by the address of its device, or by a selector.

    Raises NotFound, Ambiguous with a line for each candidate, or ValueError for what is no selector.
    """
    if text.isdecimal():
        return vhci.port(int(text))
    there = [port for port in vhci.ports() if port.is_attached]
    by_address = [port for port in there if _describe(vhci, port)["address"] == text]
    if by_address:
        return by_address[0]
    selector = Selector.parse(text)
    meant = [(port, one) for port in there if selector.matches(one := info(vhci, port))]
    if not meant:
        raise NotFound(f"nothing that is attached is {text}; usbferry ports lists what is")
    if len(meant) > 1:
        lines = [f"  port {port.number}: {described(one)}" for port, one in meant]
        raise Ambiguous("\n".join([f"{text} stands for {len(meant)} attached devices; name one by its port:", *lines]))
    return meant[0][0]


def _describe(vhci: Vhci, port: Port) -> dict[str, Any]:
    relay, record = _note(vhci, port.number), vhci.read_record(port.number)
    said = {name: vhci.attribute(port, name) for name in ("idVendor", "idProduct", "manufacturer", "product", "serial")}
    return {
        "port": port.number,
        "hub": port.hub,
        "device": port.device,
        "address": relay["address"] if relay else _address(record) if record else None,
        "vendor_id": said["idVendor"],
        "product_id": said["idProduct"],
        "manufacturer": said["manufacturer"],
        "product": said["product"],
        "serial": said["serial"],
        "speed": _speed(port).name.lower(),
        "drivers": vhci.drivers(port),
        "remote": {"bus": port.devid >> 16, "address": port.devid & 0xFFFF},
        "relay": relay and {key: relay[key] for key in ("pid", "since")} | relay["counts"],
    }


def _speed(port: Port) -> Speed:
    return Speed(port.speed) if port.speed in Speed.__members__.values() else Speed.UNKNOWN


def _address(record: Record) -> str:
    """Of what the usbip tool has attached, as our commands take it."""
    host = f"[{record.host}]" if ":" in record.host else record.host
    where = host if record.port == str(PORT) else f"{host}:{record.port}"
    return f"usbip://{where}/{quote(record.name, safe='')}"


def _note(vhci: Vhci, number: int) -> dict[str, Any] | None:
    """What a relay says of its port, if its process is there still."""
    said = status_file.load(vhci.note_path(number), SCHEMA)
    return said if said is not None and status_file.is_of_living(said) else None
