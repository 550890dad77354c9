"""`usbferry serve`: offer devices over USB/IP until told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import click

from ..backends.buffered import MAX_SECONDS
from ..device import DeviceError
from ..extras import install
from ..local.state import Publisher
from ..registry import load_exporter, open_source
from ..selector import Selector, check_bus_id
from ..server.catalog import Catalog
from ..server.listen import Server, serving
from ..transports.place import Place
from . import fail, printable
from .address import whole_address
from .logs import configure_logging
from .outlets import Outlet, cannot_listen
from .waiting import waiting

DEFAULT = "127.0.0.1:3240"
BUFFER_SECONDS: Final = 0.06  # of isochronous packets; docs/jitter.md has what that is good for
_SECONDS: Final = click.FloatRange(0, MAX_SECONDS)
_SECONDS.name = "number of seconds"  # in what is said of another value


@click.command()
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.option(
    "--match",
    "matches",
    multiple=True,
    metavar="SELECTOR",
    help="Offer this machine's USB devices that are meant, now and whenever one is plugged in.",
)
@click.option(
    "--force", is_flag=True, help="Offer what is not shared by accident: hubs, mounted disks, the only keyboard."
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where to listen for USB/IP, 127.0.0.1:3240 where neither --on nor --to is given; :PORT is every interface of "
    "this machine, port 0 a free one.",
)
@click.option(
    "--on",
    multiple=True,
    metavar="PROTOCOL://...",
    help="Listen with another protocol, such as ferry://127.0.0.1, whose users survive lost connections, "
    "usbredir://127.0.0.1:4000 or usbredir:///SOCKET-FILE; may be repeated. With several devices, /1-2 after "
    "usbredir's port, or ?device=1-2 after its file, says which. ferry+udp://127.0.0.1 is for a small network, "
    "ferry:///SOCKET-FILE for this machine; ?mode=660 after a file lets its group use it too.",
)
@click.option(
    "--to",
    multiple=True,
    metavar="PROTOCOL://...",
    help="Connect to who listens, such as usbredir://vm:4000, and again when the connection is lost; may be repeated.",
)
@click.option(
    "--buffer",
    type=_SECONDS,
    default=BUFFER_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How much of sound and pictures waits here for a network's delays, where the device's own bus does not wait; "
    "what is played is later by as much. 0 passes each transfer on as it comes.",
)
@click.option("-v", "--verbose", count=True, help="Say who comes and goes; -vv: every transfer too.")
def command(
    addresses: tuple[str, ...],
    matches: tuple[str, ...],
    force: bool,
    listen: str | None,
    on: tuple[str, ...],
    to: tuple[str, ...],
    buffer: float,
    verbose: int,
) -> None:
    """Offer the devices at each ADDRESS to other machines, over USB/IP or ferry, or to virtual machines, over usbredir.

    \b
    An ADDRESS is such as
      usb:1-2                         the USB device in that port of this machine
      usb:046d:c52b                   the one with these ids, or any selector
      virtual:zero                    Gadget Zero, the conformance device
      virtual:disk?image=stick.img    a disk backed by a file
      usbip://HOST/1-2                a device of another machine, passed on
      usbip://HOST/046d:*             those of it that a selector means
      usbredir://HOST:4000            what a usbredirect has there
      usbredir://:4000                what a usbredirect brings, who connects
      ferry://HOST/1-2                a device of another usbferry
    `usbferry list` shows this machine's USB devices, `usbferry list virtual:`
    the virtual ones and their options.

    Ctrl-C or SIGTERM ends it: nobody new is let in, and who is there is
    disconnected cleanly.

    It runs on uvloop where that is installed; USBFERRY_LOOP=asyncio in the environment
    keeps it on Python's own event loop, USBFERRY_LOOP=uvloop insists.
    """
    configure_logging(verbose)
    try:
        addresses = tuple(map(whole_address, addresses))
        addresses += tuple(map(_matching, matches))
        if not addresses:
            raise ValueError("name an ADDRESS, or say --match SELECTOR; usbferry list shows what there is")
        if force:
            addresses = tuple(_forced(address) for address in addresses)
        if listen is None and not on and not to:
            listen = DEFAULT
        run(serve(addresses, parse_endpoint(listen) if listen is not None else None, on, to, buffer))
    except (DeviceError, ValueError, OSError) as error:
        fail(f"usbferry serve: {error}")


def _matching(selector: str) -> str:
    """The address of `--match`. Raises ValueError in its words, not in the address's."""
    try:
        name = Selector.parse(selector).name
        if name:
            check_bus_id(name)
    except ValueError as error:
        raise ValueError(f"--match {selector}: {error}") from None
    return f"usb:{selector.replace('?', '%3F')}?later"


def _as_written(address: str) -> str:
    """An address, or the `--match` that it stands for."""
    selector, mark, _ = address.removeprefix("usb:").partition("?later")
    return f"--match {selector.replace('%3F', '?')}" if mark and address.startswith("usb:") else address


def _forced(address: str) -> str:
    if not address.startswith("usb:"):
        return address
    return f"{address}{'&' if '?' in address else '?'}force"


def parse_endpoint(text: str, default_port: int = 3240) -> tuple[str, int]:
    """HOST:PORT, [IPV6]:PORT, HOST, IPV6 or :PORT, the last for every interface. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.startswith("[")):
        host, port = text, str(default_port)
    if text.isdecimal():
        raise ValueError(f"--listen {text!r}: write it as :{text} for every interface, or as 127.0.0.1:{text}")
    if not text or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"--listen {text!r}: write it as HOST:PORT, the port being a number up to 65535")
    return host.removeprefix("[").removesuffix("]"), int(port)


_stopped_by: Final[list[int]] = []  # the signal over which `on_signal` cancelled


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, on the event loop that USBFERRY_LOOP names. Raises ValueError where it cannot be had.

    What a signal ends before it waits for one ends the process, with that signal's exit status.
    """
    try:
        factory = loop_factory(os.environ.get("USBFERRY_LOOP", "auto"))
    except ValueError:
        work.close()
        raise
    _stopped_by.clear()
    _keep_what_is_freed()
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(work)
    except asyncio.CancelledError:
        if not _stopped_by:
            raise
        sys.exit(128 + _stopped_by[0])


def _keep_what_is_freed() -> None:
    """Have glibc keep some megabytes that were freed for the next payloads.

    From 128 KiB on it gives the end of the heap back, and a server's payloads are there: it would get a megabyte anew,
    page by page, in each turn. A large block that is freed raises that to twice its size, see M_MMAP_THRESHOLD in
    mallopt(3). Other systems have other rules, and lose nothing by it.
    """
    bytes(16 << 20)


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
            raise ValueError(f"USBFERRY_LOOP=uvloop, and it is not installed: {install('uvloop')}") from None
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def serve(
    addresses: tuple[str, ...],
    where: tuple[str, int] | None,
    on: tuple[str, ...] = (),
    to: tuple[str, ...] = (),
    buffer: float = BUFFER_SECONDS,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `where` is for USB/IP, `on` and `to` are addresses with a protocol."""
    stop = on_signal()
    _allow_connections()
    outlets, calls = [Outlet.parse(one, "--on") for one in on], [Outlet.parse(one, "--to") for one in to]
    catalog = Catalog(buffer)
    async with serving(catalog) as server:
        notes = [line for address in addresses for line in await _offer(server, address)]
        for outlet in (*outlets, *calls):
            outlet.check(catalog)
        listening = await _listen(server, *where) if where is not None else []
        addresses_here = [_endpoint(*one) for one in listening]
        for outlet in outlets:
            said, where_it_is = await outlet.listen(server)
            notes += said
            addresses_here += where_it_is
        notes += [call.connect(server) for call in calls]
        publisher = Publisher(catalog, addresses_here)
        try:
            if not all(ipaddress.ip_address(host).is_loopback for host, _ in listening):
                notes.append("note: USB/IP has no passwords; whoever reaches this port can use these devices")
            for line in (*notes, *[f"listening on {_endpoint(*one)}" for one in listening]):
                print(printable(line), file=sys.stderr, flush=True)
            await stop()
        finally:
            publisher.close()


def _allow_connections() -> None:
    """As many open files as this user may have: a thousand importers do not fit under the usual 1,024."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def on_signal() -> Callable[[], Awaitable[None]]:
    """What waits for SIGTERM or SIGINT. Until it is called, they cancel this task; a second one ends the process."""
    loop, task, stopped, waits = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event(), False
    assert task is not None

    def received(number: int) -> None:
        remove(number)
        if waits:
            stopped.set()
        else:
            _stopped_by.append(number)
            task.cancel()

    def remove(number: int) -> None:
        with suppress(NotImplementedError):
            loop.remove_signal_handler(number)

    async def stop() -> None:
        nonlocal waits
        waits = True
        await stopped.wait()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, received, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda number, frame: loop.call_soon_threadsafe(received, number))
    return stop


async def _offer(server: Server, address: str) -> list[str]:
    """Offer what is at an address, and what appears there; what to tell the user."""
    said = _as_written(address)
    with waiting(f"opening {said}"):
        source = open_source(address)
        offers = await server.offer(source)
    if source.notes:
        return [*[f"{offer.info}  ({address})" for offer in offers], *source.notes]
    if said != address:
        return [f"{offer.info}  ({said})" for offer in offers] or [f"note: there is no device for {said} now"]
    return [f"{offer.info}  ({address})" for offer in offers] or [f"note: there is no device at {address} now"]


async def _listen(server: Server, host: str, port: int) -> list[tuple[str, int]]:
    """The addresses it really has. Raises DeviceError with the remedy."""
    try:
        return await server.listen(host, port, load_exporter("usbip"))
    except OSError as error:
        raise cannot_listen(Place(host, port), error, "--listen") from error


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
