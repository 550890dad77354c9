"""`usbferry info`: everything a device says of itself, as a tree or as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Final

import click

from ..device import Claimant, DeviceError
from ..local.state import describe
from ..registry import open_source
from ..selector import choose
from ..usb.classes import CLASSES, class_name
from ..usb.decode import decode
from ..usb.info import DeviceInfo, title
from ..usb.tree import Association, Companion, Configuration, Endpoint, Interface
from ..usb.types import Speed, TransferType
from . import fail, printable
from .address import whole_address
from .notes import tell_notes
from .waiting import waiting

SCHEMA: Final = "usbferry.info/2"
_SYNCHRONISATION: Final = ("unsynchronised", "asynchronous", "adaptive", "synchronous")
_USAGE: Final = ("data", "feedback", "implicit feedback data", "reserved")


@click.command()
@click.argument("address")
@click.option("--json", "as_json", is_flag=True, help=f"Print JSON, schema {SCHEMA}.")
def command(address: str, as_json: bool) -> None:
    """Show everything a device says of itself.

    \b
    ADDRESS is such as usbip://HOST/1-2, usbip://HOST/046d:c52b or
    virtual:zero.

    The device is claimed for a moment: one that somebody uses is not shown.

    --json has the numbers of the descriptors as numbers, by the names of the
    specification, such as bEndpointAddress, and names for people beside them.
    """
    try:
        info = asyncio.run(_read(whole_address(address)))
    except (DeviceError, ValueError) as error:
        fail(f"usbferry info: {error}")
    report = tree(info)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(map(printable, _lines(report))))


async def _read(address: str) -> DeviceInfo:
    source = open_source(address)
    try:
        await tell_notes(source)
        with waiting(f"asking {address}"):
            name = source.name or choose(await source.find(), address, source.at).name
            device = await source.open(name, Claimant("local"))
            try:
                return device.info
            finally:
                await device.close()
    finally:
        await source.close()


def tree(info: DeviceInfo) -> dict[str, Any]:
    """The device as nested dictionaries: the JSON, and what the text is made of.

    What is a number in a descriptor is one here, by the specification's name; names for people stand beside.
    """
    device = info.device
    return {
        "schema": SCHEMA,
        **{key: value for key, value in describe(info).items() if key not in ("holder", "interfaces", "class")},
        "descriptor": {
            "bcdUSB": device.usb,
            "bDeviceClass": device.device_class,
            "class_name": CLASSES.get(device.device_class),
            "bDeviceSubClass": device.device_subclass,
            "bDeviceProtocol": device.device_protocol,
            "bMaxPacketSize0": 1 << device.max_packet0 if info.speed >= Speed.SUPER else device.max_packet0,
            "idVendor": device.vendor_id,
            "idProduct": device.product_id,
            "bcdDevice": device.release,
            "bNumConfigurations": device.configurations,
        },
        "configuration": info.configuration,
        "configurations": [_configuration(info, one) for one in info.configurations],
    }


def _configuration(info: DeviceInfo, one: Configuration) -> dict[str, Any]:
    unit = 8 if info.speed >= Speed.SUPER else 2
    return {
        "bConfigurationValue": one.value,
        "self_powered": bool(one.attributes & 0x40),
        "remote_wakeup": bool(one.attributes & 0x20),
        "max_power_ma": one.max_power * unit,
        "associations": [_association(each) for each in one.associations],
        "interfaces": [_interface(info, each) for each in one.interfaces],
        "extra": [raw.hex(" ") for raw in one.extra],
    }


def _association(one: Association) -> dict[str, Any]:
    triplet = (one.function_class, one.function_subclass, one.function_protocol)
    return {"first": one.first, "count": one.count, **_triplet("bFunction", triplet)}


def _interface(info: DeviceInfo, one: Interface) -> dict[str, Any]:
    triplet = (one.interface_class, one.interface_subclass, one.interface_protocol)
    return {
        "bInterfaceNumber": one.number,
        "bAlternateSetting": one.alternate,
        **_triplet("bInterface", triplet),
        "descriptors": [_class_specific(one, raw) for raw in one.extra],
        "endpoints": [_endpoint(info.speed, one, each) for each in one.endpoints],
    }


def _endpoint(speed: Speed, interface: Interface, one: Endpoint) -> dict[str, Any]:
    said: dict[str, Any] = {
        "bEndpointAddress": one.address,
        "direction": "in" if one.is_in else "out",
        "type": one.type.name.lower(),
        "wMaxPacketSize": one.packet_size,
        "transactions": one.transactions,
        "bInterval": one.interval,
        "interval_us": one.interval_us(speed),
    }
    if one.type is TransferType.ISOCHRONOUS:
        said["synchronisation"] = _SYNCHRONISATION[one.attributes >> 2 & 3]
        said["usage"] = _USAGE[one.attributes >> 4 & 3]
    if one.companion is not None:
        said["companion"] = _companion(one.type, one.companion)
    said["descriptors"] = [_class_specific(interface, raw) for raw in one.extra]
    return said


def _companion(kind: TransferType, one: Companion) -> dict[str, Any]:
    said = {"bMaxBurst": one.max_burst, "wBytesPerInterval": one.bytes_per_interval}
    if kind is TransferType.BULK:
        said["streams"] = one.streams
    return said


def _class_specific(interface: Interface, raw: bytes) -> dict[str, Any]:
    found = decode(interface.interface_class, interface.interface_subclass, raw)
    said: dict[str, Any] = {"raw": raw.hex(" ")}
    return said if found is None else {"name": found[0], **found[1], **said}


def _triplet(prefix: str, triplet: tuple[int, int, int]) -> dict[str, Any]:
    parts = zip(("Class", "SubClass", "Protocol"), triplet, strict=True)
    return {**{f"{prefix}{part}": value for part, value in parts}, "class_name": class_name(triplet)}


def _bcd(value: int) -> str:
    return f"{value >> 8:x}.{value & 0xFF:02x}"


# -- as text ----------------------------------------------------------------------------------------------------------


def _lines(report: dict[str, Any]) -> Iterator[str]:
    name = title(report["manufacturer"], report["product"])
    ids = f"{report['vendor_id']}:{report['product_id']}"
    yield "  ".join((ids, name) if report["name"] == ids else (report["name"] or "device", ids, name))
    yield f"  speed                {report['speed']}"
    if report["serial"]:
        yield f"  serial               {report['serial']}"
    for key, value in report["descriptor"].items():
        if key not in ("idVendor", "idProduct", "class_name"):  # in the first line, and beside the class
            yield f"  {key:20} {_device_field(key, value, report['descriptor']['class_name'])}"
    for configuration in report["configurations"]:
        yield from _configuration_lines(configuration, report["configuration"])


def _device_field(key: str, value: int, class_name: str | None) -> str:
    if key == "bDeviceClass":
        return f"{value:02x} {class_name or ''}".rstrip()
    return _bcd(value) if key.startswith("bcd") else str(value)


def _class_field(one: dict[str, Any], prefix: str) -> str:
    numbers = "/".join(f"{one[f'{prefix}{part}']:02x}" for part in ("Class", "SubClass", "Protocol"))
    return f"{numbers} {one['class_name']}"


def _configuration_lines(one: dict[str, Any], current: int) -> Iterator[str]:
    marks = [f"{one['max_power_ma']} mA"]
    marks += [text for key, text in (("self_powered", "self powered"), ("remote_wakeup", "remote wakeup")) if one[key]]
    marks += ["in force"] if one["bConfigurationValue"] == current else []
    yield f"  Configuration {one['bConfigurationValue']}  ({', '.join(marks)})"
    yield from (f"    raw {raw}" for raw in one["extra"])
    for each in one["associations"]:
        last = each["first"] + each["count"] - 1
        yield f"    Function  interfaces {each['first']} to {last}  {_class_field(each, 'bFunction')}"
    for interface in one["interfaces"]:
        setting = f"{interface['bInterfaceNumber']}.{interface['bAlternateSetting']}"
        yield f"    Interface {setting}  {_class_field(interface, 'bInterface')}"
        yield from _descriptor_lines(interface["descriptors"], "      ")
        for endpoint in interface["endpoints"]:
            yield f"      Endpoint {endpoint['bEndpointAddress']:02x}  {_endpoint_line(endpoint)}"
            yield from _descriptor_lines(endpoint["descriptors"], "        ")


def _endpoint_line(one: dict[str, Any]) -> str:
    words = [f"{one['type']} {one['direction']}", f"{one['wMaxPacketSize']} bytes"]
    if one["transactions"] > 1:
        words[-1] += f" x {one['transactions']}"
    if one["interval_us"]:
        words.append(f"every {one['interval_us'] / 1000:g} ms")
    if "synchronisation" in one:
        words.append(f"{one['synchronisation']} {one['usage']}")
    for key, value in one.get("companion", {}).items():
        words.append(f"{key} {value}")
    return ", ".join(words)


def _descriptor_lines(descriptors: list[dict[str, Any]], indent: str) -> Iterator[str]:
    for one in descriptors:
        fields = ", ".join(f"{key} {_field(key, value)}" for key, value in one.items() if key not in ("name", "raw"))
        yield f"{indent}{one['name']}: {fields}" if "name" in one else f"{indent}raw {one['raw']}"


def _field(key: str, value: Any) -> str:
    if key.startswith("bcd"):
        return _bcd(value)
    return f"{value:#x}" if key.startswith("bm") or key == "wTerminalType" else str(value)
