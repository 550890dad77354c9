"""Every device class by every path that can carry it: what the path does to descriptors, to the device's own data, to a
stall and to a transfer that is taken back. The rows are those of `works`, the columns those of `paths`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.hosts import Host
from tests.conformance.matrix import address_of, reason
from tests.conformance.paths import PATHS
from tests.conformance.works import FEW, WORKS, Work
from usbferry import aio
from usbferry.backends.virtual import described
from usbferry.registry import DEVICES
from usbferry.usb import build
from usbferry.usb.info import DeviceInfo
from usbferry.usb.tree import Endpoint
from usbferry.usb.types import Status, TransferType

MARKS = {
    "libusb": [pytest.mark.umockdev],
    "relay": [pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has vhci_hcd")],
}
UNKNOWN = (0xC0, 0x7E, 0, 0, 8)  # a vendor request that no device has


def test_every_device_class_has_its_row() -> None:
    rows = {name.partition(",")[0] for name in WORKS}
    assert rows == {*DEVICES}, "a device class needs a row in tests/conformance/works.py, and an exchange"


def cells() -> Iterator[Any]:
    for row, work in WORKS.items():
        for path in PATHS:
            if reason(work, path) is None:
                slow = [] if row in FEW else [pytest.mark.slow]
                yield pytest.param(row, path, id=f"{row}-{path}", marks=MARKS.get(path, []) + slow)


@pytest.mark.parametrize(("row", "path"), [*cells()])
async def test_a_device_by_a_path(row: str, path: str, bench, tmp_path_factory) -> None:
    work, folder = WORKS[row], tmp_path_factory.mktemp("cell")
    (folder / "lines").write_text(work.lines)
    address = address_of(row, folder)
    expected = described(address).info
    async with PATHS[path].use(address, bench if path == "libusb" else None) as host:
        await descriptors_are(host, expected)
        await work.exchange(host, folder)
        await stalls(host, work, expected)
        await takes_back(host, work, expected)
        await descriptors_are(host, expected)


async def descriptors_are(host: Host, info: DeviceInfo) -> None:
    assert await host.control(0x80, 6, 0x0100, 0, 18) == build.device(info.device)
    for index, configuration in enumerate(info.configurations):
        assert await host.control(0x80, 6, 0x0200 | index, 0, 4096) == build.configuration(configuration)


async def stalls(host: Host, work: Work, info: DeviceInfo) -> None:
    """A request that is refused; an endpoint that is halted, until it is not."""
    with pytest.raises(aio.Stalled) as refused:
        await host.control(*UNKNOWN)
    assert (refused.value.status, refused.value.data) == (Status.STALL, b"")
    quiet = endpoint_of(work, info)
    if quiet is None or quiet.type is TransferType.ISOCHRONOUS:
        return
    await host.control(0x02, 3, 0, quiet.address)
    with pytest.raises(aio.Stalled) as halted:
        await host.read(quiet.address, quiet.packet_size)
    assert (halted.value.status, halted.value.data) == (Status.STALL, b"")
    await host.clear_halt(quiet.address)


async def takes_back(host: Host, work: Work, info: DeviceInfo) -> None:
    """A read that nobody answers, or takes long, ends early: cancelled, and with no bytes."""
    quiet = endpoint_of(work, info)
    if quiet is None:
        return
    packets = 400 if quiet.type is TransferType.ISOCHRONOUS else 0
    for _ in range(10):  # FTDI's chips answer now and then
        ended = await host.taken_back(quiet.address, quiet.service_bytes, packets)
        if ended.status == Status.CANCELLED:
            break
    assert ended.status == Status.CANCELLED
    assert packets or ended.actual == 0


def endpoint_of(work: Work, info: DeviceInfo) -> Endpoint | None:
    """The quiet one, in its smallest setting."""
    endpoints = [one for interface in info.configurations[0].interfaces for one in interface.endpoints]
    found = [one for one in endpoints if one.address == work.quiet]
    return min(found, key=lambda one: one.service_bytes, default=None)
