"""Attaches devices to the kernel of a guest, by one process for all of them: Python starts slowly there.

    python attach_all.py [relay] ADDRESS...

prints "ADDRESS DEVICE" of each. With `relay` it goes on until it is killed, otherwise it leaves them to the kernel.
"""

import asyncio
import sys

from usbferry.local.attach import attach
from usbferry.registry import open_source

AT_ONCE = 4  # a server answers an import within 30 s, and in a busy emulated machine not a dozen of them


async def one(address: str, tasks: asyncio.TaskGroup, relay: bool, turn: asyncio.Semaphore) -> None:
    source = open_source(address)
    async with turn:
        attachment = await attach(source, source.name, tasks, relay=relay)
    sys.stdout.write(f"{address} {attachment.device}\n")
    sys.stdout.flush()
    if not relay:
        attachment.leave()
        await source.close()


async def main(words: list[str]) -> None:
    relay, turn = words[0] == "relay", asyncio.Semaphore(AT_ONCE)
    async with asyncio.TaskGroup() as tasks:
        for address in words[relay:]:
            tasks.create_task(one(address, tasks, relay, turn))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
