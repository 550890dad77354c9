"""A Python file from a device: its descriptors and strings, readable, as a virtual device that can be served at once.

    text = await clone("usb:1-2")      # then: usbferry serve virtual:./FILE.py

What a device says of itself is all there: configurations, alternate settings, class-specific descriptors, strings,
BOS, HID reports. What it does is for its author to write: its endpoints take everything and give nothing, and requests
of its class or vendor are refused.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, Final

from ..usb.decode import decode
from ..usb.info import DeviceInfo
from ..usb.tree import Endpoint, Interface
from ..usb.types import TransferType
from .portrait import REPORT_DESCRIPTOR, Portrait, portray

_WIDTH: Final = 120
_BYTES_A_LINE: Final = 28


async def clone(address: str, name: str = "") -> str:
    """The text of a Python file, its class called `name`. Raises DeviceError, or ValueError for a bad address."""
    return text(await portray(address), address, name)


def text(portrait: Portrait, origin: str, name: str = "") -> str:
    """The file. `origin` says where the device was, for people; the class is called `name`, or as the device is."""
    parts = [*_head(portrait, name or class_name(portrait.info)), *_class_body(portrait)]
    body = "\n".join(parts)
    return f"{_opening(portrait, origin)}\n\n{_imports(body)}\n\n\n{body}\n"


def _opening(portrait: Portrait, origin: str) -> str:
    info = portrait.info
    what = _plain(f"{info.title} ({info.ids})".strip())
    return f'''"""{_short(what)}, cloned from
{_short(_plain(origin))}.

Its descriptors are what that device says of itself. What it does is yours to write: a handler of an OUT endpoint
gets what a host sends, that of an IN endpoint gives what a host reads, or None while there is nothing; then
`self.kick(address)` once there is. Requests of its class or vendor are methods marked `@request(type, number)`.
"""'''


def _short(words: str) -> str:
    return words if len(words) < _WIDTH else f"{words[: _WIDTH - 3]}..."


def _plain(words: str) -> str:
    """Text that cannot end a docstring, or a comment."""
    return "".join(c if c.isprintable() else "?" for c in words).replace("\\", "/").replace('"', "'")


_FROM_VIRTUAL: Final = (
    "Answer",
    "Completion",
    "Configuration",
    "DeviceDescriptor",
    "Endpoint",
    "Interface",
    "Setup",
    "Speed",
    "Stall",
    "Status",
    "Transfer",
    "VirtualDevice",
    "done",
    "endpoint",
    "request",
)
_FROM_TREE: Final = (
    "Association",
    "Bos",
    "Companion",
    "ContainerId",
    "PlatformCapability",
    "RawCapability",
    "SspIsoCompanion",
    "SuperSpeedCapability",
    "SuperSpeedPlus",
    "UsbExtension",
)
_FROM_TYPES: Final = ("TransferType",)


def _imports(body: str) -> str:
    """Those names that the file uses."""
    lines = []
    for module, names in (
        ("usbferry.devices.virtual", _FROM_VIRTUAL),
        ("usbferry.usb.tree", _FROM_TREE),
        ("usbferry.usb.types", _FROM_TYPES),
    ):
        if mine := [name for name in names if re.search(rf"\b{name}\b", body)]:
            line = f"from {module} import {', '.join(mine)}"
            long = f"from {module} import (\n{''.join(f'    {name},' + chr(10) for name in mine)})"
            lines.append(line if len(line) <= _WIDTH else long)
    return "\n".join(lines)


def class_name(info: DeviceInfo) -> str:
    """A name for its class, from what it is called."""
    words = re.findall(r"[A-Za-z0-9]+", info.product) or ["Clone"]
    name = "".join(word[:1].upper() + word[1:] for word in words)
    if not name[0].isalpha() or name in {
        *_FROM_VIRTUAL,
        *_FROM_TREE,
        *_FROM_TYPES,
        *dir(builtins),
        *keyword.kwlist,
    }:
        name = f"Device{name}"
    return name


def _head(portrait: Portrait, name: str) -> Iterator[str]:
    info = portrait.info
    device = info.device
    yield f"class {name}(VirtualDevice):"
    at_usual = {1: device.manufacturer, 2: device.product, 3: device.serial}
    names = {1: info.manufacturer, 2: info.product, 3: info.serial}
    implied = {place for place, text in names.items() if at_usual[place] == (place if text else 0)}
    shown = replace(
        device,
        manufacturer=0 if 1 in implied else device.manufacturer,
        product=0 if 2 in implied else device.product,
        serial=0 if 3 in implied else device.serial,
        configurations=1,  # counted
    )
    yield f"    descriptor = {_value(shown, 4, len('descriptor ='))}"
    yield f"    speed = Speed.{info.speed.name}" if info.speed else "    speed = Speed.HIGH"
    for attribute, words in (("manufacturer", info.manufacturer), ("product", info.product), ("serial", info.serial)):
        yield f"    {attribute} = {_quoted(words)}"
    others = {index: text for index, text in portrait.strings.items() if index not in implied or text != names[index]}
    if others:
        yield "    strings = {  # by their indices"
        yield from (f"        {index}: {_quoted(text)}," for index, text in sorted(others.items()))
        yield "    }"
    if portrait.bos is not None:
        yield f"    bos = {_value(portrait.bos, 4, len('bos ='))}"
    yield ""


def _class_body(portrait: Portrait) -> Iterator[str]:
    info = portrait.info
    yield "    def configurations(self) -> tuple[Configuration, ...]:"
    configurations = ",".join("\n            " + _value(c, 12) for c in info.configurations)
    yield f"        return ({configurations},\n        )" if configurations else "        return ()"
    everything = [e for c in info.configurations for i in c.interfaces for e in i.endpoints]
    for one in {e.address: e for e in everything}.values():
        yield from _handler(one)
    if portrait.reports:
        yield from _reports(portrait.reports)


def _handler(one: Endpoint) -> Iterator[str]:
    kind = one.type.name.lower()
    yield ""
    yield f"    @endpoint(0x{one.address:02X})"
    yield f"    def _{'in' if one.is_in else 'out'}_{one.address & 15}(self, transfer: Transfer) -> Answer:"
    yield f"        {_sentence(kind, one)}"
    if one.type is TransferType.ISOCHRONOUS and one.is_in:
        yield '        return Completion(Status.OK, b"", packets=transfer.packets)'
    elif one.type is TransferType.ISOCHRONOUS:
        yield "        for packet in transfer.packets or ():"
        yield "            packet.actual = packet.length"
        yield '        return Completion(Status.OK, b"", transfer.length, transfer.packets)'
    else:
        yield f"        return {'None' if one.is_in else 'done(transfer)'}"


def _sentence(kind: str, one: Endpoint) -> str:
    what = "the host sent transfer.data"
    if one.is_in:
        what = "the host reads up to transfer.length bytes"
    if one.type is TransferType.ISOCHRONOUS:
        what = "each packet has its length, and gets its actual"
    return f'"""{kind.capitalize()}, {one.packet_size} bytes a packet: {what}."""'


def _reports(reports: dict[int, bytes]) -> Iterator[str]:
    yield ""
    yield "    @request(0x81, 6)"
    yield "    def _report_descriptor(self, setup: Setup, payload: bytes) -> bytes:"
    yield '        """GET_DESCRIPTOR of an interface: what its HID reports look like."""'
    yield "        reports = {"
    for interface, raw in sorted(reports.items()):
        yield f"            {interface}: {_hex(raw, 12, len(str(interface)) + 2)},"
    yield "        }"
    yield f"        if setup.value != {REPORT_DESCRIPTOR << 8:#06x} or setup.index not in reports:"
    yield "            raise Stall"
    yield "        return reports[setup.index]"


# -- values ------------------------------------------------------------------------------------------------------------

_HEX: Final = {  # fields that people read in hexadecimal, and their digits
    "vendor_id": 4,
    "product_id": 4,
    "usb": 4,
    "release": 4,
    "device_class": 2,
    "device_subclass": 2,
    "device_protocol": 2,
    "interface_class": 2,
    "interface_subclass": 2,
    "interface_protocol": 2,
    "function_class": 2,
    "function_subclass": 2,
    "function_protocol": 2,
    "address": 2,
    "attributes": 2,
    "max_packet": 4,
    "synch_address": 2,
}


def _value(value: Any, indent: int, prefix: int = 0) -> str:
    """A descriptor as Python has it: what is usual is left out, and what is long stands on lines of its own."""
    parts = [*_arguments(value, indent + 4)]
    line = f"{type(value).__name__}({', '.join(parts)})"
    if len(line) + indent + prefix < _WIDTH and "\n" not in line and "#" not in line:
        return line
    pad = " " * (indent + 4)
    return f"{type(value).__name__}(\n{''.join(f'{pad}{part},' + chr(10) for part in parts)}{' ' * indent})"


def _arguments(value: Any, indent: int) -> Iterator[str]:
    named = False  # once one is left out, the rest have names
    owner = value if isinstance(value, Interface) else None
    for one in fields(value):
        given = getattr(value, one.name)
        if one.default is not MISSING and given == one.default:
            named = True
            continue
        words = _field(one.name, given, indent, owner, is_endpoint=isinstance(value, Endpoint))
        named = named or one.default is not MISSING
        yield f"{one.name}={words}" if named else words


def _field(name: str, value: Any, indent: int, owner: Interface | None, *, is_endpoint: bool) -> str:
    if isinstance(value, bytes):
        return _hex(value, indent, len(name) + 1)
    if isinstance(value, tuple):
        return _tuple(name, value, indent, owner)
    if is_dataclass(value):
        return _value(value, indent, len(name) + 1)
    if is_endpoint and name == "attributes" and value < len(TransferType):
        return f"TransferType.{TransferType(value).name}"
    if is_endpoint and name == "max_packet" and value < 1 << 11:
        return str(value)
    return f"0x{value:0{_HEX[name]}X}" if name in _HEX and isinstance(value, int) else repr(value)


def _tuple(name: str, values: tuple[Any, ...], indent: int, owner: Interface | None) -> str:
    pad = " " * (indent + 4)
    lines = []
    only = _item(values[0], 0) if len(values) == 1 and not (name == "extra" and _known(values[0], owner)) else "\n"
    if "\n" not in only and len(only) + indent + len(name) + 4 < _WIDTH:
        return f"({only},)"
    for one in values:
        if name == "extra" and (known := _known(one, owner)):
            fits = len(pad) + len(known) + 2 <= _WIDTH
            lines.append(f"{pad}# {known if fits else known.partition(':')[0]}\n")
        lines.append(f"{pad}{_item(one, indent + 4)},\n")
    return f"(\n{''.join(lines)}{' ' * indent})"


def _item(one: Any, indent: int) -> str:
    if isinstance(one, bytes):
        return _hex(one, indent)
    return _value(one, indent) if is_dataclass(one) else f"0x{one:X}"


def _known(raw: bytes, owner: Interface | None) -> str:
    """What a class-specific descriptor is, where that is known."""
    found = decode(owner.interface_class, owner.interface_subclass, raw) if owner is not None else None
    if found is None:
        return ""
    name, values = found
    return f"{name}: {', '.join(f'{key} {value:#x}' for key, value in values.items())}".removesuffix(": ")


def _hex(raw: bytes, indent: int, prefix: int = 0) -> str:
    line = f'bytes.fromhex("{raw.hex(" ")}")'
    if len(line) + indent + prefix < _WIDTH:
        return line
    pad = " " * (indent + 4)
    whole = f'"{raw.hex(" ")}"'
    if len(whole) + indent + 4 <= _WIDTH:
        return f"bytes.fromhex(\n{pad}{whole}\n{' ' * indent})"
    lines = [raw[at : at + _BYTES_A_LINE].hex(" ") for at in range(0, len(raw), _BYTES_A_LINE)]
    return "bytes.fromhex(\n" + "".join(f'{pad}"{line} "\n' for line in lines) + " " * indent + ")"


def _quoted(words: str) -> str:
    found = ascii(words) if not words.isprintable() else repr(words)
    return f'"{found[1:-1]}"' if found.startswith("'") and '"' not in found else found
