"""Uses USB devices of the guest through our own libusb backend. In the guest, from the checkout:

    python -m tests.kernel.real.direct cancels 1-2 50 streams 3-1 ...

`cancels BUS_ID COUNT`, and `streams`, `files`, `card` and `network` with a BUS_ID, as many as there are; a line of JSON
for each. One process for several: under emulation a start of Python costs seconds.
"""

import asyncio
import hashlib
import json
import os
import struct
import sys
import time
from collections import Counter
from functools import partial
from itertools import count
from typing import Any

from tests.kernel.emulated import ended, has_neighbour, mtp
from usbferry import aio
from usbferry.device import Claimant
from usbferry.registry import open_source
from usbferry.usb.setup import get_descriptor
from usbferry.usb.transfer import Transfer

BLOCK = 512  # bytes
STATUS_PIPE, IN_PIPE, OUT_PIPE, COMMAND_PIPE = 0x82, 0x83, 0x04, 0x01  # QEMU's


async def cancels(name: str, number: str) -> dict[str, Any]:
    """Interrupt reads that are submitted and cancelled, a control request after each: how they ended."""
    found: Counter[str] = Counter()
    async with await aio.open(f"usb:{name}") as device:
        started = time.monotonic()
        for _ in range(int(number)):
            transfer = Transfer(0x81, 8)
            answer = device.submit(transfer)
            between = await device.request(get_descriptor(1, length=18))
            assert len(between) == 18
            device.cancel(transfer)
            found[(await ended(answer)).status.name] += 1
        return {"ends": found, "seconds": round(time.monotonic() - started, 3)}


async def streams(name: str) -> dict[str, Any]:
    """As many reads of a UAS disk as it has streams, one on each, begun in the opposite order; then they are freed.

    Source: USB Attached SCSI (T10 2095-D) §6.2.2, COMMAND IU; §6.2.4, SENSE IU.
    """
    source = open_source(f"usb:{name}")
    device = await source.open(name, Claimant("test"))
    pipes = (STATUS_PIPE, IN_PIPE, OUT_PIPE)
    allocated = await ended(device.alloc_streams(pipes, 16))
    tags = range(1, allocated.actual + 1)
    ends = {tag: device.submit(Transfer(STATUS_PIPE, 96, stream_id=tag)) for tag in tags}
    reads = {tag: device.submit(Transfer(IN_PIPE, BLOCK, stream_id=tag)) for tag in tags}
    for tag in reversed(tags):
        block = struct.pack(">BBIBHB6x", 0x28, 0, tag, 0, 1, 0)  # READ(10) of block `tag`
        command = struct.pack(">BBHBBBB8s", 1, 0, tag, 0, 0, 0, 0, bytes(8)) + block
        sent = await ended(device.submit(Transfer(COMMAND_PIPE, len(command), command)))
        assert sent.actual == 32, sent
    data = b"".join([bytes((await ended(reads[tag])).data) for tag in tags])
    senses = [bytes((await ended(ends[tag])).data) for tag in tags]
    freed = await ended(device.free_streams(pipes))
    again = await ended(device.alloc_streams(pipes, 2))
    await device.close()
    await source.close()
    return {
        "allocated": len(tags),
        "sha256": hashlib.sha256(data).hexdigest(),
        "senses": [struct.unpack_from(">BxH2xB", sense) for sense in senses],  # kind, tag, SCSI status
        "freed": freed.status.name,
        "again": again.actual,
    }


async def files(name: str) -> dict[str, Any]:
    """The one file of an MTP device."""
    async with await aio.open(f"usb:{name}") as camera:
        does = partial(mtp, camera, count())
        await does(0x1002, 1)  # OpenSession
        root = await does(0x1007, 0xFFFFFFFF, 0, 0xFFFFFFFF)  # GetObjectHandles
        (one,) = struct.unpack("<I", root[4:])
        return {"sha256": hashlib.sha256(await does(0x1009, one)).hexdigest()}  # GetObject


async def network(name: str) -> dict[str, Any]:
    """From one configuration to the other and back: each has other interfaces and endpoints; then it must work."""
    async with await aio.open(f"usb:{name}") as adapter:
        seen = []
        for value in (2, 1):
            await adapter.set_configuration(value)
            (now,) = await adapter.control(0x80, 8, 0, 0, 1)  # GET_CONFIGURATION
            seen.append([now, [f"{i.number}.{i.alternate}" for i in adapter.interfaces]])
        return {"seen": seen, "neighbour": await has_neighbour(adapter)}


async def card(name: str) -> dict[str, Any]:
    """A card's ATR, and its answer to a command. Source: USB CCID 1.1 §6."""

    async def asked(kind: int, body: bytes = b"") -> bytes:
        await reader.write(0x03, struct.pack("<BIBB3x", kind, len(body), 0, 9) + body, timeout=20)
        answer = await reader.read(0x82, 600, timeout=20)
        assert struct.unpack_from("<BIBBBB", answer) == (0x80, len(answer) - 10, 0, 9, 0, 0)  # RDR_to_PC_DataBlock
        return answer[10:]

    async with await aio.open(f"usb:{name}") as reader:
        change = await reader.read(0x81, 2, timeout=20)
        assert change[0] == 0x50  # RDR_to_PC_NotifySlotChange
        assert change[1] & 1  # present
        atr = await asked(0x62)  # PC_to_RDR_IccPowerOn
        answer = await asked(0x6F, bytes.fromhex("00a4040006d2760000850100"))  # PC_to_RDR_XfrBlock
        return {"atr": atr.hex(), "answer": answer.hex()}


VERBS = {
    "cancels": (cancels, 2),
    "streams": (streams, 1),
    "files": (files, 1),
    "card": (card, 1),
    "network": (network, 1),
}


async def main(words: list[str]) -> None:
    while words:
        verb, number = VERBS[words.pop(0)]
        given, words = words[:number], words[number:]
        os.write(1, json.dumps(await verb(*given)).encode() + b"\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
