"""`usbferry attach`: give a device to this machine's kernel, whose own driver then takes it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import click

from ..device import DeviceError
from ..local.attach import Attachment, attach
from ..registry import open_source
from ..selector import choose
from . import fail, printable
from .address import whole_address
from .logs import configure_logging
from .notes import tell_notes
from .serve import on_signal, run
from .waiting import waiting


@click.command()
@click.argument("address")
@click.option(
    "--relay", is_flag=True, help="Carry a USB/IP server's device through this process, which checks all of it."
)
@click.option("-v", "--verbose", count=True, help="Say what went through this process; -vv: every transfer.")
def command(address: str, relay: bool, verbose: int) -> None:
    """Attach the device at ADDRESS to this machine's kernel, for its own drivers. Linux, as root.

    \b
    ADDRESS is such as
      usbip://HOST/1-2                a device of another machine
      usbip://HOST/046d:c52b          the one device there of that kind
      virtual:disk?image=stick.img    a virtual device, without any network

    The connection to a USB/IP server is handed to the kernel and the command ends; `usbferry detach PORT` gives the
    device back. Everything else goes through this process, which stays: Ctrl-C or SIGTERM detaches.

    Exit status 1 when a device that went through this process was lost.
    """
    configure_logging(verbose)
    lost: list[str] = []
    try:
        run(_attach(whole_address(address), relay, lost))
    except (DeviceError, ValueError, OSError) as error:
        fail(f"usbferry attach: {error}")
    if lost:
        print(printable(f"usbferry attach: {lost[0]}"), file=sys.stderr)
        sys.exit(1)


async def _attach(address: str, relay: bool, lost: list[str]) -> None:
    """Attach, and stay for as long as that takes; `lost` is told how it ended where nobody wanted that."""
    stop = on_signal()
    source = open_source(address)
    error: Exception | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            try:
                await tell_notes(source)
                with waiting(f"attaching {address}"):
                    name = source.name or choose(await source.find(), address, source.at).name
                    attachment = await attach(source, name, tasks, relay=relay)
            except (DeviceError, ValueError, OSError) as raised:
                error = raised  # as it is, not in a group
            else:
                _say(attachment)
                if attachment.is_relayed:
                    leaving = tasks.create_task(_detach(attachment, stop))
                    ended = await attachment.gone()
                    leaving.cancel()
                    if ended.by_hand:
                        print(f"port {attachment.port} is free", file=sys.stderr)
                    else:
                        lost.append(f"{attachment.address} is lost: {ended.reason}")
                else:
                    attachment.leave()
    finally:
        await source.close()
    if error is not None:
        raise error


def _say(attachment: Attachment) -> None:
    what = f"{attachment.info.ids} {attachment.info.title}".rstrip()
    print(printable(f"port {attachment.port}: {attachment.address} is {attachment.device} here, {what}"), flush=True)
    if attachment.is_relayed:
        print("it goes through this process; Ctrl-C detaches it", file=sys.stderr, flush=True)


async def _detach(attachment: Attachment, stop: Callable[[], Awaitable[None]]) -> None:
    await stop()
    await attachment.detach()
