"""The table of the paths by which a device may be used, made of those of protocols and transports; each opens it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from tests.conformance.chain import chained
from tests.conformance.hosts import Host, Kernel, OfPyusb, Ours
from tests.umockdev.testbed import Testbed
from usbferry.backends import handover
from usbferry.backends.options import split
from usbferry.device import Claimant, Device, Source
from usbferry.local.relay import NAME, Relay
from usbferry.registry import PROTOCOLS, open_source

ME: Final = Claimant("local")
PORT: Final = "1-1"  # of the machine that umockdev plays


Use = Callable[[str, Testbed | None], AbstractAsyncContextManager[Host]]


class Path(NamedTuple):
    """A column: `use` has the device of an address in use, `lacks` what the path cannot carry, and why."""

    about: str
    use: Use
    lacks: Mapping[str, str] = {}


@asynccontextmanager
async def plugged(address: str, bench: Testbed) -> AsyncIterator[None]:
    """The virtual device of an address is in a port of the bench."""
    row, _, options = address.removeprefix("virtual:").partition("?")
    bench.plug(PORT, row, **dict(split(options)))
    try:
        yield
    finally:
        bench.do("unplug", name=PORT, missing_ok=True)


@asynccontextmanager
async def _handle(source: Source) -> AsyncIterator[Ours]:
    """The one device of a source, open. The source is closed with it."""
    async with Ours(await _open(source), source) as host:
        yield host


async def _open(source: Source) -> Device:
    [info] = await source.find()
    return await source.open(info.name, ME)


def over(way: str) -> Use:
    """By servers, one behind the other."""

    @asynccontextmanager
    async def use(address: str, bench: Testbed | None) -> AsyncIterator[Host]:
        async with chained(open_source(address), way) as source, _handle(source) as host:
            yield host

    return use


@asynccontextmanager
async def libusb(address: str, bench: Testbed | None) -> AsyncIterator[Host]:
    assert bench is not None
    async with plugged(address, bench), _handle(open_source(f"usb:{PORT}")) as host:
        yield host


@asynccontextmanager
async def tap(address: str, bench: Testbed | None) -> AsyncIterator[Host]:
    with TemporaryDirectory() as folder:
        async with _handle(open_source(f"tap:{folder}/tape?of={address}")) as host:
            yield host


@asynccontextmanager
async def relay(address: str, bench: Testbed | None) -> AsyncIterator[Host]:
    """Configured, as the kernel has it before a driver comes."""
    source = open_source(address)
    served = Relay(address, await _open(source))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(served.run())
        with served.theirs as end:
            kernel = Kernel(end, await handover.claim_on(end, NAME, "the relay"))
            await kernel.control(0x00, 9, 1)
            try:
                yield kernel
            finally:
                served.stop()
    await source.close()


@asynccontextmanager
async def pyusb(address: str, bench: Testbed | None) -> AsyncIterator[Host]:
    import usb.core
    import usb.util

    import usbferry

    backend = await asyncio.to_thread(usbferry.pyusb_backend, address)
    device = await asyncio.to_thread(usb.core.find, backend=backend)
    assert device is not None
    try:
        await asyncio.to_thread(device.set_configuration)
        yield OfPyusb(device)
    finally:
        await asyncio.to_thread(usb.util.dispose_resources, device)


# What a protocol has no words for, and why; a gateway lacks what either of its protocols does.
_LACKS: Final = {"usbip": {"streams": "USB/IP has no bulk streams"}}

_PLAYED: Final = {
    "streams": "umockdev plays no streams",
    "extras": "umockdev's side runs in Debian's Python, where our extras are not",
}


def _protocols() -> dict[str, Path]:
    """Each over each of its transports."""
    return {
        f"{name}+{one}" if one != "tcp" else name: Path(
            f"served and imported over {one}", over(f"{name}+{one}"), _LACKS.get(name, {})
        )
        for name, row in PROTOCOLS.items()
        for one in row.transports
    }


def _gateways() -> dict[str, Path]:
    """Each protocol once on each side."""
    names = [*PROTOCOLS]
    return {
        f"{first}>{second}": Path(
            f"served over {first}, imported, served on over {second}, and imported",
            over(f"{first}>{second}"),
            _LACKS.get(first, {}) | _LACKS.get(second, {}),
        )
        for first, second in zip(names, names[1:] + names[:1], strict=True)
    }


PATHS: Final = {
    **_protocols(),
    **_gateways(),
    "relay": Path("as `attach --relay` has it: the test is the kernel at the other end", relay, _LACKS["usbip"]),
    "libusb": Path("plugged in, to libusb: umockdev plays the kernel", libusb, _PLAYED),
    "tap": Path("in one process, with all that passes recorded", tap),
    "pyusb": Path(
        "a pyusb program, with the device in its own process", pyusb, {"streams": "pyusb has no bulk streams"}
    ),
}
