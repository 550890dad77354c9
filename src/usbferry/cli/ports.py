"""`usbferry ports`: what is attached to this machine's kernel, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import click

from ..device import DeviceError
from ..local import ports
from ..local.vhci import Vhci
from ..usb.info import title
from . import fail, printable
from .list import table

SCHEMA: Final = "usbferry.ports/1"
_HEADINGS: Final = ("PORT", "DEVICE", "ID", "NAME", "SPEED", "DRIVERS", "FROM")


@click.command()
@click.option("--json", "as_json", is_flag=True, help=f"Print JSON, schema {SCHEMA}.")
def command(as_json: bool) -> None:
    """List what is attached to this machine's kernel. Linux.

    Devices that the usbip tool has attached are shown too, and it shows ours.

    Of a device that goes through a process of ours, --json says which process, and what went through.
    """
    vhci = Vhci()
    try:
        report = {"schema": SCHEMA, "ports": ports.attached(vhci), "free": ports.free(vhci)}
    except DeviceError as error:
        fail(f"usbferry ports: {error}")
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        for line in _lines(report):
            click.echo(printable(line))


def _lines(report: dict[str, Any]) -> Iterator[str]:
    if report["ports"]:
        rows = [_HEADINGS, *map(_row, report["ports"])]
        yield from (line.removeprefix("  ") for line in table(rows))
    else:
        yield "nothing is attached"
    yield "free: " + ", ".join(f"{count} {_HUBS[hub]}" for hub, count in report["free"].items())


_HUBS: Final = {"hs": "ports up to high speed", "ss": "SuperSpeed ports"}


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    name = title(one["manufacturer"], one["product"])
    identity = f"{one['vendor_id']}:{one['product_id']}".strip(":")
    relay = f" (process {one['relay']['pid']})" if one["relay"] else ""
    cells = (str(one["port"]), one["device"], identity, name, one["speed"], ", ".join(one["drivers"]))
    return tuple(cell or "-" for cell in (*cells, (one["address"] or "?") + relay))
