"""Microseconds that a transfer costs the libusb backend, on this machine, with no USB in it.

    umockdev-wrapper .venv/bin/python -m tests.umockdev.speed [--profile]

Three figures for each work. `ours`: CPU time of the event loop's thread, from `Device.submit` to the answer, while
libusb's own call is replaced by one that ends the transfer at once; all that Python does, and nothing else.
`process`: CPU time of the whole process with the real libusb, whose ioctls umockdev carries to another process.
`wall`: until that has answered, which says nothing of a kernel.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import ctypes
import pstats
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.devices.host import control, isochronous, read, write
from tests.umockdev.testbed import here
from usbferry.backends.libusb.library import library
from usbferry.device import Claimant, Device
from usbferry.registry import open_source
from usbferry.usb.setup import get_descriptor, set_interface
from usbferry.usb.transfer import Transfer

DEPTH: Final = 32  # transfers in flight
ROUNDS: Final = 5  # of which the best counts
OUT: Final = memoryview(bytearray(65536))  # lent, as what comes from a connection is
WORKS: Final[dict[str, Callable[[], Transfer]]] = {
    "512 B bulk in": lambda: read(0x81, 512),
    "512 B bulk out": lambda: write(0x01, OUT[:512]),
    "64 KiB bulk in": lambda: read(0x81, 65536),
    "64 KiB bulk out": lambda: write(0x01, OUT),
    "GET_DESCRIPTOR": lambda: control(get_descriptor(1)),
    "8 isochronous packets in": lambda: isochronous(0x83, [1024] * 8),
}


async def run(device: Device, make: Callable[[], Transfer], count: int) -> None:
    for _ in range(count // DEPTH):
        for answer in [device.submit(make()) for _ in range(DEPTH)]:
            await answer  # type: ignore[misc]


async def best(device: Device, make: Callable[[], Transfer], count: int, clock: Callable[[], float]) -> float:
    """Microseconds of a transfer by a clock, in the best of some rounds."""
    found = []
    for _ in range(ROUNDS):
        started = clock()
        await run(device, make, count)
        found.append((clock() - started) / count * 1e6)
    return min(found)


@contextmanager
def ending_at_once(device: Any) -> Iterator[None]:
    """libusb's call that submits a transfer is one that has done all of it."""
    lib, completed = library(), device._handle.context._completed
    real = lib.libusb_submit_transfer

    def submit(pointer: Any) -> int:
        struct = pointer.contents
        struct.actual_length = struct.length
        completed(ctypes.addressof(struct))
        return 0

    lib.libusb_submit_transfer = submit
    try:
        yield
    finally:
        lib.libusb_submit_transfer = real


async def measure(with_profile: bool) -> None:
    source = open_source("usb:1-1")
    device = await source.open("1-1", Claimant("speed"))
    await device.submit(control(set_interface(0, 1)))  # type: ignore[misc]
    print(f"{'':26}{'ours':>8}{'process':>9}{'wall':>8}  us")
    for work, make in WORKS.items():
        process = await best(device, make, 2 * DEPTH, time.process_time)
        wall = await best(device, make, 2 * DEPTH, time.perf_counter)
        with ending_at_once(device):
            ours = await best(device, make, 64 * DEPTH, time.thread_time)
        print(f"{work:26}{ours:8.1f}{process:9.0f}{wall:8.0f}")
    if with_profile:
        profile = cProfile.Profile()
        with ending_at_once(device):
            profile.enable()
            await run(device, WORKS["512 B bulk in"], 500 * DEPTH)
            profile.disable()
        pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(20)
    await device.close()
    await source.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="store_true", help="where the time of `512 B bulk in` goes")
    arguments = parser.parse_args()
    with here() as testbed:
        testbed.plug("1-1")
        asyncio.run(measure(arguments.profile))


if __name__ == "__main__":
    main()
