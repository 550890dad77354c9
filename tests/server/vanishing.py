"""Two importers as processes, for `test_vanish`, which runs them in network namespaces.

python -m tests.server.vanishing importers HOST PORT    holds three devices, says "ready", and goes on for ever
python -m tests.server.vanishing successor HOST PORT    waits until it gets each, and says after how many seconds
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from tests.server.client import IN, Client

IDLE, READING, UNREAD = "1-1", "1-2", "1-3"
SIZE, DEPTH = 65536, 16


async def connect(host: str, port: int) -> Client:
    return Client(*await asyncio.open_connection(host, port))


async def importers(host: str, port: int) -> None:
    """One idle with a read parked, one that reads as much as it can, one that asks for much and reads nothing."""
    idle, reading, unread = [await connect(host, port) for _ in range(3)]
    for client, busid in ((idle, IDLE), (reading, READING), (unread, UNREAD)):
        assert await client.claim(busid) == 0
    idle.submit(1, IN, 2, 8)
    unread.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for seqnum in range(1, 1000):
        unread.submit(seqnum, IN, 1, SIZE)
    for seqnum in range(1, DEPTH):
        reading.submit(seqnum, IN, 1, SIZE)
    for seqnum in range(DEPTH, 1 << 31):
        if seqnum == 100 * DEPTH:
            print("ready", flush=True)  # noqa: T201
        assert (await reading.ask(seqnum, IN, 1, SIZE)).actual == SIZE


async def successor(host: str, port: int) -> None:
    """Ask again and again, as somebody would who found it busy."""
    start, waited, last = time.monotonic(), {}, 0.0
    for busid in (IDLE, READING, UNREAD):
        await try_once(host, port, busid, waited, start)
    print("busy" if not waited else f"free at once: {waited}", flush=True)  # noqa: T201
    while len(waited) < 3 and last < 30:
        await asyncio.sleep(0.2)
        for busid in {IDLE, READING, UNREAD} - set(waited):
            await try_once(host, port, busid, waited, start)
        last = time.monotonic() - start
    print(json.dumps(waited), flush=True)  # noqa: T201


async def try_once(host: str, port: int, busid: str, waited: dict[str, float], start: float) -> None:
    client = await connect(host, port)
    if await client.claim(busid) == 0:
        waited[busid] = round(time.monotonic() - start, 1)
        assert (await client.ask(1, IN, 1, 512)).actual == 512
    await client.hang_up()


if __name__ == "__main__":
    role, host, port = sys.argv[1:]
    asyncio.run({"importers": importers, "successor": successor}[role](host, int(port)))
