"""Devices that break their specification, each on a usbredir port of its own: what goes to QEMU must be whole.

    python -m tests.kernel.redir.hostile        says "NAME PORT" of each, and serves until it is ended

They are the ids 1209:0010 all. WORDS is what usbfs.py does with them in the guest.
"""

import asyncio
import itertools
import sys
from functools import partial

from usbferry.backends.virtual import VirtualSource
from usbferry.devices.virtual import VirtualDevice, endpoint, request
from usbferry.registry import load_exporter
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving
from usbferry.transports.place import Place
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.tree import Configuration, DeviceDescriptor, Endpoint, Interface
from usbferry.usb.types import Status, TransferType

VENDOR = "1209"
_CALLS = "control:0xc0:0x01:64 control:0x40:0x02:16"
WORDS = {
    "intervals": f"{_CALLS} in:0x81:8 out:0x02:8",
    "sizes": f"{_CALLS} in:0x81:512 out:0x02:512",
    "crowd": _CALLS,
    "babbler": f"{_CALLS} in:0x81:64 in:0x82:8 in:0x81:512",
    "raising": f"{_CALLS} in:0x81:64 out:0x02:64 in:0x81:64",
    "moody": f"{' in:0x81:64 clear:0x81' * 8} {' out:0x02:64 clear:0x02' * 8}",
    "forgetful": _CALLS,
    "leaving": "in:0x81:64 in:0x81:64",
}


class Hostile(VirtualDevice):
    descriptor = DeviceDescriptor(0x1209, 0x0010, device_class=0xFF)
    product = "Hostile"
    ends: tuple[Endpoint, ...] = ()

    def interfaces(self) -> tuple[Interface, ...]:
        return (Interface(0, endpoints=self.ends),)

    @request(0xC0, 0x01)
    def _give(self, setup: Setup, data: bytes) -> bytes:
        return bytes(setup.length)

    @request(0x40, 0x02)
    def _take(self, setup: Setup, data: bytes) -> None:
        """Anything goes."""

    @endpoint(0x81)
    def _in(self, transfer: Transfer) -> Completion:
        return Completion(Status.OK, bytes(transfer.length))

    @endpoint(0x02)
    def _out(self, transfer: Transfer) -> Completion:
        return Completion(Status.OK, b"", transfer.length)


class Intervals(Hostile):
    """QEMU refuses periodic endpoints without an interval, and divides by it."""

    ends = (
        Endpoint(0x81, TransferType.INTERRUPT, 64, 0),
        Endpoint(0x02, TransferType.INTERRUPT, 64, 255),
        Endpoint(0x83, TransferType.ISOCHRONOUS, 1024, 0),
        Endpoint(0x04, TransferType.ISOCHRONOUS, 1024, 200),
    )


class Sizes(Hostile):
    """QEMU divides by the size of bulk packets."""

    ends = (
        Endpoint(0x81, TransferType.BULK, 0),
        Endpoint(0x02, TransferType.BULK, 0xFFFF),
        Endpoint(0x83, TransferType.ISOCHRONOUS, 0x1FFF, 1),
    )


class Crowd(Hostile):
    """More interfaces than the protocol has places for, and all the endpoints that there are."""

    def interfaces(self) -> tuple[Interface, ...]:
        every = [Endpoint(way | n, TransferType.BULK, 512) for way in (0x80, 0) for n in range(1, 16)]
        return tuple(Interface(n, endpoints=(every[n],) if n < len(every) else ()) for n in range(40))


class Babbler(Hostile):
    """It gives more than it was asked for, on every endpoint."""

    ends = (Endpoint(0x81, TransferType.BULK, 512), Endpoint(0x82, TransferType.INTERRUPT, 8, 4))

    @request(0xC0, 0x01)
    def _give(self, setup: Setup, data: bytes) -> bytes:
        return bytes(setup.length + 1000)

    @endpoint(0x81)
    def _in(self, transfer: Transfer) -> Completion:
        return Completion(Status.OK, bytes(transfer.length * 3))

    @endpoint(0x82)
    def _report(self, transfer: Transfer) -> Completion:
        return Completion(Status.OK, bytes(5000))


class Raising(Hostile):
    """Its handlers fail."""

    ends = (Endpoint(0x81, TransferType.BULK, 512), Endpoint(0x02, TransferType.BULK, 512))

    @request(0xC0, 0x01)
    def _give(self, setup: Setup, data: bytes) -> bytes:
        raise RuntimeError("HOSTILE")

    @endpoint(0x81)
    def _in(self, transfer: Transfer) -> Completion:
        raise RuntimeError("HOSTILE")


class Moody(Hostile):
    """Every status there is, with data that does not go with it."""

    ends = (Endpoint(0x81, TransferType.BULK, 512), Endpoint(0x02, TransferType.BULK, 512))

    def __init__(self) -> None:
        super().__init__()
        self._moods = itertools.cycle(Status)

    @endpoint(0x81)
    def _in(self, transfer: Transfer) -> Completion:
        return Completion(next(self._moods), bytes(transfer.length // 2))

    @endpoint(0x02)
    def _out(self, transfer: Transfer) -> Completion:
        return Completion(next(self._moods), b"", transfer.length * 2)


class Forgetful(Hostile):
    """Its descriptors are cut off, and then nonsense."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0

    @request(0x80, 0x06)
    def _descriptors(self, setup: Setup, data: bytes) -> bytes:
        self._asked += 1
        return b"\x12\x01" if self._asked % 2 else b"\xff" * setup.length

    def configurations(self) -> tuple[Configuration, ...]:
        return (Configuration(interfaces=self.interfaces(), tail=b"\x00" * 200),)


class Leaving(Hostile):
    """It leaves in the middle of a transfer, for good."""

    ends = (Endpoint(0x81, TransferType.BULK, 512),)

    @endpoint(0x81)
    def _in(self, transfer: Transfer) -> Completion:
        self.vanish("it would")
        return Completion(Status.OK, bytes(transfer.length))


async def main() -> None:
    devices = {cls.__name__.lower(): cls for cls in Hostile.__subclasses__()}
    exporter = load_exporter("usbredir")
    async with serving(Catalog()) as server:
        for name, device in devices.items():
            [offer] = await server.offer(VirtualSource(f"hostile:{name}", device()))
            [place] = await server.listen_at(Place("127.0.0.1", 0), partial(exporter, name=offer.info.name))
            sys.stdout.write(f"{name} {place.port}\n")
        sys.stdout.write("done\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
