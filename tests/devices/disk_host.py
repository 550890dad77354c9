"""A host of USB disks, in few words: Bulk-Only Transport over `Device.submit`, with its recovery from stalls."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass

from tests.devices.host import ask
from usbferry.device import Device
from usbferry.devices.disk import IN, OUT
from usbferry.usb.setup import Setup, clear_halt
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status


@dataclass
class Result:
    """How a command ended: bCSWStatus, the data that came, dCSWDataResidue, and which endpoint had stalled."""

    status: int
    data: bytes
    residue: int
    stalled: int | None = None


def cbw(tag: int, length: int, to_host: bool, cdb: bytes, lun: int = 0) -> bytes:
    return struct.pack("<4sIIBBB16s", b"USBC", tag, length, to_host << 7, lun, len(cdb), cdb)


class Host:
    """Sends a transfer at a time and waits for it; `piece` is bytes of data in one transfer."""

    def __init__(self, device: Device, piece: int = 1 << 20) -> None:
        self.device = device
        self.piece = piece
        self.tag = 0x1000

    async def submit(self, transfer: Transfer) -> Completion:
        answer = self.device.submit(transfer)
        if isinstance(answer, asyncio.Future):
            async with asyncio.timeout(10):
                return await answer
        return answer

    async def out(self, data: bytes) -> Completion:
        """The payload is lent for the length of the call, as from a receive buffer that is then used again."""
        buffer = bytearray(data)
        answer = self.device.submit(Transfer(OUT, len(data), memoryview(buffer)))
        buffer[:] = b"\xee" * len(buffer)
        if isinstance(answer, asyncio.Future):
            async with asyncio.timeout(10):
                return await answer
        return answer

    async def into(self, length: int) -> Completion:
        return await self.submit(Transfer(IN, length))

    async def clear(self, endpoint: int) -> None:
        answer = ask(self.device, clear_halt(endpoint))
        assert isinstance(answer, Completion)
        assert answer.status == Status.OK

    def reset(self) -> Completion | asyncio.Future[Completion]:
        """Bulk-Only Mass Storage Reset."""
        return ask(self.device, Setup(0x21, 0xFF))

    async def recover(self) -> None:
        """Reset Recovery, BOT §5.3.4."""
        answer = self.reset()
        assert isinstance(answer, Completion)
        assert answer.status == Status.OK
        await self.clear(IN)
        await self.clear(OUT)

    async def command(self, cdb: bytes, length: int = 0, data: bytes | None = None, lun: int = 0) -> Result:
        """One command with `length` bytes to us, or `data` to the device."""
        self.tag += 1
        length = length if data is None else len(data)
        sent = await self.out(cbw(self.tag, length, data is None, cdb, lun))
        assert sent.status == Status.OK
        got, stalled = b"", None
        if data is not None:
            stalled = await self._give(data)
        elif length:
            got, stalled = await self._take(length)
        return await self._status(got, stalled)

    async def _give(self, data: bytes) -> int | None:
        for at in range(0, len(data), self.piece):
            if (await self.out(data[at : at + self.piece])).status == Status.STALL:
                await self.clear(OUT)
                return OUT
        return None

    async def _take(self, length: int) -> tuple[bytes, int | None]:
        got = b""
        while len(got) < length:
            asked = min(self.piece, length - len(got))
            answer = await self.into(asked)
            assert len(answer.data) <= asked
            got += answer.data
            if answer.status == Status.STALL:
                await self.clear(IN)
                return got, IN
            assert answer.status == Status.OK
            if len(answer.data) < asked:
                break
        return got, None

    async def _status(self, got: bytes, stalled: int | None) -> Result:
        answer = await self.into(13)
        if answer.status == Status.STALL:  # "if the CSW is stalled, clear it and try once more", BOT figure 2
            await self.clear(IN)
            stalled = IN
            answer = await self.into(13)
        assert answer.status == Status.OK
        signature, tag, residue, status = struct.unpack("<4sIIB", answer.data)
        assert (signature, tag) == (b"USBS", self.tag)
        return Result(status, got, residue, stalled)

    # -- commands -----------------------------------------------------------------------------------------------------

    async def sense(self) -> tuple[int, int, int]:
        """Sense key, additional sense code and its qualifier, by REQUEST SENSE."""
        answer = await self.command(bytes([0x03, 0, 0, 0, 18, 0]), 18)
        assert answer.status == 0
        return answer.data[2] & 0x0F, answer.data[12], answer.data[13]

    async def read(self, block: int, count: int, size: int = 512) -> bytes:
        answer = await self.command(read10(block, count), count * size)
        assert (answer.status, answer.residue) == (0, 0)
        return answer.data

    async def write(self, block: int, data: bytes, size: int = 512) -> None:
        answer = await self.command(write10(block, len(data) // size), data=data)
        assert (answer.status, answer.residue) == (0, 0)


def read10(block: int, count: int) -> bytes:
    return struct.pack(">BBIBHB", 0x28, 0, block, 0, count, 0)


def write10(block: int, count: int, flags: int = 0) -> bytes:
    return struct.pack(">BBIBHB", 0x2A, flags, block, 0, count, 0)


def cdb16(code: int, block: int, count: int, flags: int = 0) -> bytes:
    return struct.pack(">BBQIBB", code, flags, block, count, 0, 0)
