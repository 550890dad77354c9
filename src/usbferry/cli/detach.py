"""`usbferry detach`: take devices from this machine's kernel again."""

from __future__ import annotations

import asyncio
import sys

import click

from ..device import DeviceError
from ..local.keep_status import resumes
from ..local.ports import find
from ..local.vhci import Vhci
from . import fail, printable


@click.command()
@click.argument("devices", nargs=-1, metavar="[DEVICE]...")
@click.option("--all", "everything", is_flag=True, help="Every attached device, whoever attached it.")
def command(devices: tuple[str, ...], everything: bool) -> None:
    """Detach each DEVICE. Linux, as root.

    \b
    A DEVICE is, of those that `usbferry ports` lists,
      0                               the one at that port
      usbip://HOST/1-2                the one from there
      046d:c52b,serial=AB*            the one that a selector means

    It does not matter who attached it: us, or the usbip tool. What `usbferry keep` has attached is not attached again
    by itself.
    """
    if not devices and not everything:
        fail("usbferry detach: name a port, as `usbferry ports` shows them, or --all")
    try:
        all_free = asyncio.run(_detach(devices, everything))
    except (DeviceError, ValueError) as error:
        fail(f"usbferry detach: {error}")
    if not all_free:
        sys.exit(1)


async def _detach(devices: tuple[str, ...], everything: bool) -> bool:
    """All are told before one is waited for; whether all came free."""
    vhci = Vhci()
    vhci.check()
    if everything:
        ports = [port for port in vhci.ports() if port.is_attached]
    else:
        ports = list(dict.fromkeys(find(vhci, device) for device in devices))
    kept = [command for port in ports for command in resumes(port.number)]
    for port in ports:
        vhci.remove_record(port.number)  # before: it tells whoever watches the port that this is no accident
        vhci.detach(port.number)
    all_free = True
    for port in ports:
        if await vhci.wait_free(port):
            print(f"port {port.number} is free")
        else:
            all_free = False
    for command in dict.fromkeys(kept):
        print(printable(f"`usbferry keep` leaves it alone now; to resume: {command}"))
    return all_free
