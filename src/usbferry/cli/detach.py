"""`usbferry detach`: take devices from this machine's kernel again."""

from __future__ import annotations

import asyncio

import click

from ..device import DeviceError
from ..local.keep_status import resumes
from ..local.vhci import Vhci
from . import fail, printable


@click.command()
@click.argument("ports", nargs=-1, type=click.IntRange(0), metavar="[PORT]...")
@click.option("--all", "everything", is_flag=True, help="Every attached device, whoever attached it.")
def command(ports: tuple[int, ...], everything: bool) -> None:
    """Detach the device at each PORT, as `usbferry ports` numbers them. Linux, as root.

    It does not matter who attached it: us, or the usbip tool.
    """
    if not ports and not everything:
        fail("usbferry detach: name a port, as `usbferry ports` shows them, or --all")
    try:
        asyncio.run(_detach(ports, everything))
    except DeviceError as error:
        fail(f"usbferry detach: {error}")


async def _detach(numbers: tuple[int, ...], everything: bool) -> None:
    """All are told before one is waited for."""
    vhci = Vhci()
    vhci.check()
    if everything:
        numbers = tuple(port.number for port in vhci.ports() if port.is_attached)
    ports = [vhci.port(number) for number in dict.fromkeys(numbers)]
    kept = [command for port in ports for command in resumes(port.number)]
    for port in ports:
        vhci.remove_record(port.number)  # before: it tells whoever watches the port that this is no accident
        vhci.detach(port.number)
    for port in ports:
        await vhci.wait_free(port)
        print(f"port {port.number} is free")
    for command in kept:
        print(printable(f"`usbferry keep` leaves it alone now; to resume: {command}"))
