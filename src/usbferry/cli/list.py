"""`usbferry list`: the devices shared here, the ones at other machines, and the ones that could be shared."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final
from unicodedata import east_asian_width
from urllib.parse import quote

import click

from ..device import DeviceError
from ..local import state
from ..registry import DEVICES, PROTOCOLS, open_source
from ..usb.info import DeviceInfo, title
from . import fail, printable
from .address import whole_address
from .notes import tell_notes
from .waiting import waiting

SCHEMA: Final = "usbferry.list/1"
_VIRTUAL: Final = "virtual:"
_HEADINGS: Final = ("DEVICE", "ID", "NAME", "SPEED", "INTERFACES", "DRIVER", "USED BY")


@click.command()
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.option("--json", "as_json", is_flag=True, help=f"Print JSON, schema {SCHEMA}; with --follow one line a change.")
@click.option("--follow", "follows", is_flag=True, help="Then print what comes, goes and changes hands, until Ctrl-C.")
def command(addresses: tuple[str, ...], as_json: bool, follows: bool) -> None:
    """List devices.

    \b
    Without ADDRESS: what your servers on this machine share (to root,
    everybody's) and who uses it, and what could be shared: this machine's
    USB devices, with the kernel drivers that have them now, and virtual
    ones.
    ADDRESS is a machine (HOST, HOST:PORT, usbip://HOST), one device of it
    (usbip://HOST/1-2), those of a selector (usbip://HOST/046d:*), or
    anything else that `usbferry serve` takes. ferry://HOST says who uses
    them, too. virtual: is all virtual devices, with their options.

    Each device is shown with the address by which the other commands take it.

    Exit status 1 when an ADDRESS could not be listed; the others still are.

    With --follow, ADDRESS is one that tells of changes, at once: ferry://HOST,
    or usb: for this machine's own devices. A server that is gone is looked for
    until it is back: a line on standard error says either, and with --json a
    line whose "what" is "lost" or "back".
    """
    if follows:
        _follow(addresses, as_json)
        return
    others = tuple(address for address in addresses if address != _VIRTUAL)
    places = asyncio.run(_remote(others)) if others else []
    if not addresses:
        places = _local()
        places += asyncio.run(_plugged_in(places))
    report: dict[str, Any] = {"schema": SCHEMA, "places": places}
    if not addresses or others != addresses:
        report["available"] = _available()
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        lines = [*_lines(report, width, is_of_here=not addresses)]
        if "available" in report:
            lines += _virtual(report["available"], width, in_full=bool(addresses))
        for line in lines:
            click.echo(line)
    if addresses and any(place["error"] for place in places):
        sys.exit(1)


def _follow(addresses: tuple[str, ...], as_json: bool) -> None:
    from . import follow
    from .serve import run

    if not addresses:
        fail("usbferry list: --follow needs an ADDRESS, such as ferry://HOST")
    try:
        run(follow.follow(addresses, as_json))
    except (DeviceError, ValueError, OSError) as error:
        fail(f"usbferry list: {error}")


# --- what there is ----------------------------------------------------------------------------------------------------


def _local() -> list[dict[str, Any]]:
    return [
        {
            "address": " ".join(one["listening"]),
            "pid": one["pid"],
            "error": None,
            "devices": [
                {"address": _reachable(one["listening"], device["name"], len(one["devices"]) == 1), **device}
                for device in one["devices"]
            ],
        }
        for one in state.read()
    ]


async def _plugged_in(places: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """This machine's USB devices, and which of them its servers share; nothing where there are none.

    Why they cannot be read is said where there are some.
    """
    from ..backends.libusb import sysfs

    place = await _place("usb:", ["usb:"])
    ours = [device for one in places for device in one["devices"] if device["source"].startswith("usb:")]
    shared = {device["path"]: device for device in ours}  # another machine may have a device at the same path
    for device in place["devices"]:
        offered = shared.get(device["path"])
        device |= {"shared": offered is not None, "holder": offered["holder"] if offered else None}
        if not offered and "usbfs" in device["drivers"]:
            device["drivers"] = [users_of(device["name"]) if one == "usbfs" else one for one in device["drivers"]]
    return [place] if place["devices"] or (place["error"] and sysfs.has_devices()) else []


def users_of(name: str) -> str:
    """Which programs have a device of this machine through usbfs, as far as this user may see."""
    from ..backends.libusb import sysfs

    bus, address = sysfs.text(name, "busnum"), sysfs.text(name, "devnum")
    if not (bus and address):
        return "usbfs"  # it has left
    found = [f"{program} (process {pid})" for pid, program in sysfs.openers(sysfs.node(int(bus), int(address)))]
    return " and ".join(found) or "usbfs"


def _reachable(listening: list[str], name: str, is_only: bool = False) -> str | None:
    """A device of a server on this machine, by the first address that leads to it: USB/IP's come first, then ports of
    others, then socket files. Where nobody can choose, it is the one that is named there, or the only one.
    """
    for where in sorted(listening, key=lambda one: ("://" in one, ":///" in one)):  # USB/IP's are without a scheme
        scheme, _, endpoint = where.rpartition("://")
        scheme = scheme or "usbip"
        protocol, is_file = PROTOCOLS[scheme.partition("+")[0]], endpoint.startswith("/")
        endpoint, _, own = endpoint.partition("?device=" if is_file else "/")
        if not (protocol.chooses or own == name or (is_only and not own)):
            continue
        if is_file:
            return f"{scheme}://{quote(endpoint)}" + (f"?device={quote(name)}" if protocol.chooses else "")
        host, _, port = endpoint.rpartition(":")
        if not host or not port.isdecimal():
            continue
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
        machine = f"{scheme}://{host}{'' if int(port) == protocol.port else f':{port}'}"
        return f"{machine}/{name}" if protocol.chooses else machine
    return None


async def _remote(addresses: tuple[str, ...]) -> list[dict[str, Any]]:
    """Every place at once; one that fails does not hide the others."""
    silent = [*addresses]
    with waiting(lambda: f"asking {', '.join(silent)}"):
        return list(await asyncio.gather(*[_place(address, silent) for address in addresses]))


async def _place(address: str, silent: list[str]) -> dict[str, Any]:
    place: dict[str, Any] = {"address": address, "pid": None, "error": None, "devices": []}
    try:
        place["address"] = whole_address(address)
        source = open_source(place["address"])
        try:
            await tell_notes(source)
            for info in await source.find():
                place["devices"].append({"address": source.at(info.name), **_described(info)})
        finally:
            await source.close()
    except (DeviceError, ValueError, OSError) as error:
        place["error"] = str(error)
    silent.remove(address)
    return place


def _described(info: DeviceInfo) -> dict[str, Any]:
    """As every list has it. A server that says who has a device says no more of him than that."""
    holder = {"address": info.holder, "identity": None, "protocol": None, "since": None}
    return state.describe(info) | ({"holder": holder} if info.holder else {})


def _available() -> list[dict[str, Any]]:
    """The built-in virtual devices, with their options."""
    from ..backends.virtual import about

    return [about(name) for name in DEVICES]


# --- and how it looks -------------------------------------------------------------------------------------------------


def _lines(report: dict[str, Any], width: int | None, is_of_here: bool = False) -> Iterator[str]:
    """The places as text, for a terminal of `width` columns; None is for a pipe, where nothing is broken or cut.

    `is_of_here` is for all that this machine's servers share, which may be nothing.
    """
    for place in report["places"]:
        pid = f", process {place['pid']}" if place["pid"] else ""
        title = "USB devices of this machine" if place["address"] == "usb:" else place["address"] or "no address"
        yield click.style(printable(title), bold=True) + pid
        if place["error"]:
            yield from _wrapped(click.style(printable(place["error"]), fg="red"), width, "  ")
        elif not place["devices"]:
            yield "  no devices"
        else:
            yield from _devices(place["devices"], width, knows_holders=place["pid"] is not None)
    if is_of_here and all(place["address"] == "usb:" for place in report["places"]):
        yield f"Nothing {'' if state.sees_all() else 'of yours '}is shared here. Try:"
        yield "  usbferry serve virtual:zero"


def _virtual(available: list[dict[str, Any]], width: int | None, in_full: bool) -> Iterator[str]:
    """The virtual devices: their names, or with what each is and its options."""
    if not in_full:
        yield ""
        yield click.style("Virtual devices that can be served here", bold=True)
        yield from _wrapped(", ".join(one["name"] for one in available), width, "  ")
        yield "  usbferry list virtual: says what each is, and its options"
        return
    longest = max(len(one["address"]) for one in available)
    indent = " " * (longest + 4 if width is None or width >= 80 else 4)
    for one in available:
        yield from _wrapped(f"{one['address']:{longest}}  {one['about']}", width, "  ", indent)
        yield from _wrapped(f"options: {', '.join(one['options'])}", width, indent, indent)
    own = "virtual:FILE.py"
    yield from _wrapped(f"{own:{longest}}  One of your own: usbferry new NAME writes it.", width, "  ", indent)


def _wrapped(text: str, width: int | None, first: str, others: str = "  ") -> list[str]:
    if width is None:
        return [first + text]
    return textwrap.wrap(
        text,
        max(40, width - 1),
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _devices(devices: list[dict[str, Any]], width: int | None, knows_holders: bool) -> Iterator[str]:
    """A table, or where that is too wide for the terminal, some lines for each. What is known of none is left out."""
    rows = [_row(one) for one in devices]
    columns = [
        (heading, *cells)
        for heading, *cells in zip(_HEADINGS, *rows, strict=True)
        if {*cells} != {"-"} or heading == "DEVICE" or (heading == "USED BY" and knows_holders)
    ]
    lines = list(table(list(zip(*columns, strict=True))))
    if width is None or max(map(_columns, lines)) <= width:
        yield from lines
        return
    for address, identity, name, speed, interfaces, driver, holder in rows:
        yield f"  {address}"
        about = f"{identity} {name}".removesuffix(" -")
        yield from _wrapped(f"{about}, {speed} speed, {interfaces}".removesuffix(", -"), width, "    ", "    ")
        if driver != "-":
            yield from _wrapped(f"driver {driver}", width, "    ", "    ")
        if holder != "-":
            yield from _wrapped(f"used by {holder}", width, "    ", "    ")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    name = title(one["manufacturer"], one["product"])
    interfaces = ", ".join(i["name"] for i in one["interfaces"])
    identity = f"{one['vendor_id']}:{one['product_id']}"
    holder = _holder(one["holder"]) or ("nobody, shared" if one.get("shared") else "")
    cells = (one["address"] or "", identity, name, one["speed"], interfaces, ", ".join(one.get("drivers", ())), holder)
    return tuple(printable(cell) or "-" for cell in cells)


def table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Rows of as many cells each as lines, indented and aligned."""
    widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell + " " * (width - _columns(cell)) for cell, width in zip(row, widths, strict=True))
        yield ("  " + "  ".join(cells)).rstrip()


def _columns(text: str) -> int:
    """How wide a terminal shows it."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def _holder(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return ""
    who: str = holder["identity"] or holder["address"]
    if holder["since"] is None:
        return who
    since = datetime.fromtimestamp(holder["since"]).astimezone()
    return f"{who} since {since:%Y-%m-%d %H:%M:%S}"
