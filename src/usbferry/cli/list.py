"""`usbferry list`: the devices shared here, the ones at other machines, and the ones that could be shared."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Final

import click

from ..device import DeviceError
from ..local import state
from ..registry import DEVICES, open_source

SCHEMA: Final = "usbferry.list/1"


@click.command()
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.option("--json", "as_json", is_flag=True, help=f"Print JSON, schema {SCHEMA}.")
def command(addresses: tuple[str, ...], as_json: bool) -> None:
    """List devices.

    \b
    Without ADDRESS: what this user's servers share on this machine, and who holds it.
    ADDRESS is a machine's name, or usbip://HOST[:PORT], or any address that `serve` takes.

    Exit status 1 when an ADDRESS could not be listed; the others are.
    """
    places = asyncio.run(_remote(addresses)) if addresses else _local()
    report = {"schema": SCHEMA, "places": places}
    if not addresses:
        report["available"] = _available()
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    if any(place["error"] for place in places):
        sys.exit(1)


def _local() -> list[dict[str, Any]]:
    return [
        {"address": " ".join(one["listening"]), "pid": one["pid"], "error": None, "devices": one["devices"]}
        for one in state.read()
    ]


async def _remote(addresses: tuple[str, ...]) -> list[dict[str, Any]]:
    """Every place at once; one that fails does not hide the others."""
    return list(await asyncio.gather(*[_place(address) for address in addresses]))


async def _place(address: str) -> dict[str, Any]:
    if ":" not in address:
        address = f"usbip://{address}"
    place: dict[str, Any] = {"address": address, "pid": None, "error": None, "devices": []}
    try:
        source = open_source(address)
        place["devices"] = [{**state.describe(info), "holder": None} for info in await source.list()]
        await source.close()
    except (DeviceError, ValueError) as error:
        place["error"] = str(error)
    return place


def _available() -> list[dict[str, Any]]:
    """The built-in virtual devices, with their options."""
    from ..backends.virtual import about

    return [about(name) for name in DEVICES]


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    for place in report["places"]:
        pid = f", process {place['pid']}" if place["pid"] else ""
        console.print(f"[bold]{place['address']}[/bold]{pid}")
        if place["error"]:
            console.print(f"  [red]{place['error']}[/red]", soft_wrap=True)
        elif not place["devices"]:
            console.print("  no devices")
        else:
            console.print(_table(place["devices"]))
    if not report["places"]:
        console.print("Nothing is shared here. Try: usbferry serve virtual:zero")
    if "available" in report:
        console.print("\n[bold]Virtual devices that can be served here[/bold]")
        for one in report["available"]:
            options = ", ".join(one["options"])
            console.print(f"  {one['address']:16} {one['about']} [dim]Options: {options}[/dim]", soft_wrap=True)


def _table(devices: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=True, padding=(0, 2, 0, 0))
    for heading in ("DEVICE", "ID", "NAME", "SPEED", "INTERFACES", "USED BY"):
        table.add_column(heading, overflow="fold")
    for one in devices:
        name = " ".join(word for word in (one["manufacturer"], one["product"]) if word) or "-"
        interfaces = ", ".join(i["name"] for i in one["interfaces"]) or "-"
        identity = f"{one['vendor_id']}:{one['product_id']}"
        table.add_row(one["name"] or "-", identity, name, one["speed"], interfaces, _holder(one["holder"]))
    return table


def _holder(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "-"
    from datetime import datetime

    since = datetime.fromtimestamp(holder["since"]).astimezone()
    return f"{holder['identity'] or holder['address']} since {since:%Y-%m-%d %H:%M:%S}"
