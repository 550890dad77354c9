"""A server of one Gadget Zero, or any verb of ours, which says what it holds when it gets SIGUSR2:

    python counted.py zero HOST PORT SERIAL     SIGUSR1: re-enumerate as the other of two ids, after half a second
    python counted.py keep --config FILE

One line of JSON each time, on standard output: {"fds": 9, "threads": 1, "tasks": 4}. The server also says "listening
PORT", and "held SECONDS" or "free SECONDS" by its machine's uptime.
"""

import asyncio
import gc
import json
import os
import signal
import sys
import threading
import time

IDS = (0x1209, 0x0010), (0x1209, 0x0011)
AWAY_SECONDS = 0.5


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def count(*_: object) -> None:
    gc.collect()
    # Not those in which asyncio looks up names: it keeps them for the next time, a few at most.
    threads = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
    tasks, descriptors = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
    say(json.dumps({"fds": descriptors, "threads": len(threads), "tasks": tasks}))


async def zero(host: str, port: str, serial: str) -> None:
    from usbferry.backends.virtual import VirtualSource
    from usbferry.devices.zero import Zero
    from usbferry.registry import load_exporter
    from usbferry.server.catalog import Catalog
    from usbferry.server.listen import serving

    device, catalog, loop = Zero(serial=serial), Catalog(), asyncio.get_running_loop()
    ids = list(IDS)
    held = None

    def become(after: float = AWAY_SECONDS) -> None:
        device.vanish(away=after, become=ids[0])
        ids.reverse()

    def changed() -> None:
        nonlocal held
        now = any(offer.holder for offer in catalog.list())
        if now is not held:
            held = now
            say(f"{'held' if held else 'free'} {time.clock_gettime(time.CLOCK_BOOTTIME)}")

    async with serving(catalog) as server:
        await server.offer(VirtualSource("virtual:zero", device))
        become(0)
        catalog.watch(changed)
        loop.add_signal_handler(signal.SIGUSR1, become)
        stopped = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stopped.set)
        [(_, number)] = await server.listen(host, int(port), load_exporter("usbip"))
        say(f"listening {number}")
        await stopped.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, count)
    if sys.argv[1] == "zero":
        asyncio.run(zero(*sys.argv[2:]))
    else:
        from usbferry.cli import main

        main()
