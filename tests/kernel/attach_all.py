"""Attaches devices to the kernel of a guest, by one process for all of them: Python starts slowly there.

    python attach_all.py [relay] ADDRESS...

prints "ADDRESS DEVICE" of each. With `relay` it goes on until it is killed, otherwise it leaves them to the kernel.
"""

import asyncio
import sys

from usbferry.local.attach import attach
from usbferry.registry import open_source


async def one(address: str, tasks: asyncio.TaskGroup, relay: bool) -> None:
    source = open_source(address)
    attachment = await attach(source, source.name, tasks, relay=relay)
    sys.stdout.write(f"{address} {attachment.device}\n")
    sys.stdout.flush()
    if not relay:
        attachment.leave()
        await source.close()


async def main(words: list[str]) -> None:
    relay = words[0] == "relay"
    async with asyncio.TaskGroup() as tasks:
        for address in words[relay:]:
            tasks.create_task(one(address, tasks, relay))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
