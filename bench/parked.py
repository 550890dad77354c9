"""How fast a device is written to over UDP while reads of it wait for data, as those of a network adapter always do,
and how fast something else of it is read, as a modem's serial port.

    python bench/parked.py [--seconds 5] [--reads 60] [--weather near far loss] [--beside writes reads]

It needs root, for it makes network namespaces. A line for each weather and device, one that says nothing and one that
says a packet every 5 ms: writes of 1500 bytes, or reads of 512 bytes of an endpoint that has them, four under way, how
many in a second and how long they took.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.jitter import line, process, say, told_to_stop
from bench.weather import SERVER, Network, Weather, network
from usbferry import aio
from usbferry.backends.virtual import VirtualSource
from usbferry.cli.outlets import Outlet
from usbferry.device import Device
from usbferry.devices.virtual import VirtualDevice, data, endpoint
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.tree import DeviceDescriptor, Interface
from usbferry.usb.types import Status

IN, OUT, SERIAL = 0x81, 0x01, 0x82
READ, WRITE, SHORT = 2048, 1500, 512  # bytes
UNDER_WAY: Final = 4  # writes, or reads beside those that wait
EVERY: Final = 0.005  # seconds between two packets of a device that says something
SEED: Final = 20261121
PORT: Final = 4000
WEATHERS: Final = {
    "near": Weather(),
    "far": Weather(delay=0.01),
    "loss": Weather(delay=0.005, loss=0.01),
}
DEVICES: Final = ("silent", "talks")
BESIDE: Final = ("writes", "reads")


class Adapter(VirtualDevice):
    """Takes every packet at once, and has one to say when `say_one` was called; something else it always says."""

    descriptor = DeviceDescriptor(0x0525, 0xA4A2, device_class=0xFF)
    product = "Adapter"
    waiting = 0  # packets

    def interfaces(self) -> tuple[Interface, ...]:
        return (Interface(0, 0, 0xFF, endpoints=(self.bulk(IN), self.bulk(OUT), self.bulk(SERIAL))),)

    def say_one(self) -> None:
        self.waiting += 1
        self.kick(IN)

    @endpoint(IN)
    def _give(self, transfer: Transfer) -> Completion | None:
        if not self.waiting:
            return None
        self.waiting -= 1
        return data(bytes(WRITE))

    @endpoint(OUT)
    def _take(self, transfer: Transfer) -> Completion:
        return Completion(Status.OK, b"", transfer.length)

    @endpoint(SERIAL)
    def _say(self, transfer: Transfer) -> Completion:
        return data(bytes(transfer.length))


async def serve(where: str, talks: bool) -> None:
    """Until SIGTERM. A line of JSON says where it listens."""
    stop = told_to_stop()
    adapter = Adapter()
    async with serving(Catalog(0.0)) as server:
        await server.offer(VirtualSource("virtual:adapter", adapter))
        say((await Outlet.parse(where, "--on").listen(server))[1])
        while not stop.is_set():
            await asyncio.sleep(EVERY)
            if talks:
                adapter.say_one()


async def use(address: str, beside: str, reads: int, seconds: float) -> None:
    """A line of JSON: transfers a second, and milliseconds that half of them took, and 99 of 100."""
    took, until = list[float](), time.monotonic() + seconds

    async def read(device: Device) -> None:
        while time.monotonic() < until + 5:
            answer = device.submit(Transfer(IN, READ))
            await answer if isinstance(answer, asyncio.Future) else None

    async def go_on(device: Device) -> None:
        while (began := time.monotonic()) < until:
            answer = device.submit(
                Transfer(OUT, WRITE, bytes(WRITE)) if beside == "writes" else Transfer(SERIAL, SHORT)
            )
            await answer if isinstance(answer, asyncio.Future) else None
            took.append(time.monotonic() - began)

    async with await aio.open(address) as handle, asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(read(handle.device)) for _ in range(reads)]
        async with asyncio.TaskGroup() as measured:
            for _ in range(UNDER_WAY):
                measured.create_task(go_on(handle.device))
        for task in reading:
            task.cancel()
    cuts = statistics.quantiles(took, n=100)
    say((round(len(took) / seconds), round(cuts[49] * 1e3, 1), round(cuts[98] * 1e3, 1)))


async def run(net: Network, weather: str, device: str, beside: str, reads: int, seconds: float) -> Any:
    place = f"ferry+udp://{SERVER}:{PORT}"
    with net.carry(WEATHERS[weather], SEED):
        async with process(net.server, "serve", place, device, of=__file__) as server:
            await line(server, 30)
            async with process(net.client, "use", f"{place}/1-1", beside, reads, seconds, of=__file__) as client:
                return await line(client, seconds + 60)


async def main(options: argparse.Namespace) -> None:
    with network() as net:
        for beside, weather, device in itertools.product(options.beside, options.weather, DEVICES):
            rate, median, most = await run(net, weather, device, beside, options.reads, options.seconds)
            said = f"{rate:6} {beside} a second, half in {median} ms, 99 of 100 in {most} ms"
            sys.stdout.write(f"{weather:5} {device:7} {said}\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(sys.argv[2], sys.argv[3] == "talks"))
    elif sys.argv[1:2] == ["use"]:
        asyncio.run(use(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5])))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--seconds", type=float, default=5)
        parser.add_argument("--reads", type=int, default=60, help="that wait")
        parser.add_argument("--weather", nargs="+", choices=WEATHERS, default=WEATHERS)
        parser.add_argument("--beside", nargs="+", choices=BESIDE, default=BESIDE, help="what is measured")
        asyncio.run(main(parser.parse_args()))
