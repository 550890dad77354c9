"""Attaches by way of the program's own interface. In the guest, as root, with the Python of the tests:

    python attaching.py race ADDRESS...          a process for each, all at the same moment; all are detached then
    python attaching.py many ADDRESS...          all in one process, and all there at the same time
    python attaching.py lied-to COUNT ADDRESS    a relay, one time after the other, while every endpoint is busy
    python attaching.py full ADDRESS             when every port for its speed is taken, by connections without a device

Prints a line of JSON: the ports of each, and for `lied-to` how each ended. Several may stand in one command, parted by
"--": under emulation a start of Python costs two seconds.
"""

import asyncio
import json
import os
import socket
import sys
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path

from usbferry.device import Busy
from usbferry.local.attach import Attachment, attach
from usbferry.local.vhci import FREE, Vhci
from usbferry.registry import open_source
from usbferry.usb.types import Speed

TRAFFIC = Path(__file__).parent / "traffic.py"


async def attached(stack: AsyncExitStack, tasks: asyncio.TaskGroup, address: str, *, relay: bool = False) -> Attachment:
    source = open_source(address)
    stack.push_async_callback(source.close)
    return await attach(source, source.name, tasks, relay=relay)


async def attach_and_leave(address: str) -> int:
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        attachment = await attached(stack, tasks, address)
        attachment.leave()
        return attachment.port


def race(*addresses: str) -> dict[str, object]:
    """They wait for one another at a pipe, so that nobody is ahead by more than a moment."""
    start, started = os.pipe()
    results, ends = [], []
    for address in addresses:
        result, end = os.pipe()
        if os.fork() == 0:
            os.close(started)
            os.read(start, 1)
            os.write(end, str(asyncio.run(attach_and_leave(address))).encode())
            os._exit(0)
        results.append(result)
        ends.append(end)
    for end in (started, *ends):
        os.close(end)
    ports = [int(os.read(result, 10) or -1) for result in results]
    codes = [os.wait()[1] for _ in addresses]
    asyncio.run(detach(ports))
    return {"ports": ports, "codes": codes}


async def detach(numbers: list[int]) -> None:
    vhci = Vhci()
    ports = [vhci.port(number) for number in numbers]
    for number in numbers:
        vhci.detach(number)
    for port in ports:
        await vhci.wait_free(port)


async def many(*addresses: str) -> dict[str, object]:
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        made = await asyncio.gather(*[attached(stack, tasks, address) for address in addresses])
        ports = [one.port for one in made]
        await asyncio.gather(*[one.detach() for one in made])
        return {"ports": ports, "free": all(Vhci().port(port).state == FREE for port in ports)}


async def lied_to(count: str, address: str) -> dict[str, object]:
    ends = []
    for _ in range(int(count)):
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            attachment = await attached(stack, tasks, address, relay=True)
            command = ("/usr/bin/python3", "-I", "-S", str(TRAFFIC), attachment.device)
            traffic = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
            ended = await attachment.gone()
            await traffic.wait()
            ends.append((ended.reason, ended.by_hand, Vhci().port(attachment.port).state == FREE))
    return {"ends": ends}


async def full(address: str) -> dict[str, object]:
    """Nobody answers the kernel on these connections: it waits, and the port is taken."""
    vhci, taken = Vhci(), []
    with ExitStack() as stack:

        def take(speed: Speed) -> int:
            ends = [stack.enter_context(end) for end in socket.socketpair()]
            return vhci.attach(ends[0].fileno(), 0x10002, speed)

        with suppress(Busy):
            while True:
                taken.append(take(Speed.HIGH))
        try:
            async with AsyncExitStack() as devices, asyncio.TaskGroup() as tasks:
                await attached(devices, tasks, address)
        except* Busy as group:
            error = str(group.exceptions[0])
        faster = take(Speed.SUPER)
        freed = taken[len(taken) // 2]
        await detach([freed])
        again = take(Speed.HIGH)
        await detach([*taken, faster])
    async with AsyncExitStack() as devices, asyncio.TaskGroup() as tasks:
        attachment = await attached(devices, tasks, address)
        await attachment.detach()
    return {
        "taken": taken,
        "error": error,
        "faster": faster,
        "freed": freed,
        "again": again,
        "at_last": attachment.port,
    }


def main(words: list[str]) -> None:
    verb, *rest = words
    result = (
        race(*rest) if verb == "race" else asyncio.run({"many": many, "lied-to": lied_to, "full": full}[verb](*rest))
    )
    os.write(1, json.dumps(result).encode() + b"\n")


line: list[str] = []
for one in (*sys.argv[1:], "--"):
    if one == "--":
        main(line)
        line = []
    else:
        line.append(one)
