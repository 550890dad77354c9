"""`usbferry serve`: offer devices over USB/IP until told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import click

from ..device import DeviceError
from ..local.state import Publisher
from ..registry import load_exporter, open_source
from ..server.catalog import Catalog
from ..server.listen import serving
from . import fail


@click.command()
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.option(
    "--listen",
    default="127.0.0.1:3240",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen; port 0 takes a free one.",
)
@click.option("-v", "--verbose", count=True, help="Say who comes and goes; twice: every transfer.")
def command(addresses: tuple[str, ...], listen: str, verbose: int) -> None:
    """Offer the devices at each ADDRESS to other machines, over USB/IP.

    \b
    An ADDRESS is such as
      virtual:zero                      the conformance device
      virtual:disk?image=stick.img      a disk backed by a file

    It runs on uvloop where that is installed (pip install "usbferry[speed]"); USBFERRY_LOOP=asyncio in the environment
    keeps it on Python's own event loop, USBFERRY_LOOP=uvloop insists.
    """
    logging.basicConfig(
        level=(logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)],
        format="%(levelname).1s %(name)s: %(message)s",
    )
    try:
        run(serve(addresses, parse_endpoint(listen)))
    except (DeviceError, ValueError, OSError) as error:
        fail(f"usbferry serve: {error}")


def parse_endpoint(text: str, default_port: int = 3240) -> tuple[str, int]:
    """HOST:PORT, [IPV6]:PORT, HOST or :PORT, the last for every interface. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(default_port)
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r}: the port is a number up to 65535")
    return host.removeprefix("[").removesuffix("]"), int(port)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, on the event loop that USBFERRY_LOOP names. Raises ValueError where it cannot be had."""
    try:
        factory = loop_factory(os.environ.get("USBFERRY_LOOP", "auto"))
    except ValueError:
        work.close()
        raise
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work)


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop "asyncio", "uvloop", or "auto": uvloop where it is installed. None is asyncio's own."""
    if name not in ("auto", "asyncio", "uvloop"):
        raise ValueError(f"USBFERRY_LOOP={name} is none of auto, asyncio, uvloop")
    if name == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        if name == "uvloop":
            raise ValueError('USBFERRY_LOOP=uvloop needs: pip install "usbferry[speed]"') from None
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def serve(addresses: tuple[str, ...], where: tuple[str, int]) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    catalog = Catalog()
    async with serving(catalog) as server:
        for address in addresses:
            for offer in await server.offer(open_source(address)):
                print(f"{offer.info}  ({address})", file=sys.stderr)
        where_bound = await server.listen(*where, load_exporter("usbip"))
        listening = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in where_bound]
        publisher = Publisher(catalog, listening)
        if not all(ipaddress.ip_address(host).is_loopback for host, _ in where_bound):
            print("note: USB/IP has no passwords; whoever reaches this port can use these devices", file=sys.stderr)
        for one in listening:
            print(f"listening on {one}", file=sys.stderr, flush=True)
        await stop.wait()
        publisher.close()
