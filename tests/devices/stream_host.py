"""The host's side of a byte stream: reads kept in flight as a driver keeps them, and writes one after another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from tests.devices.host import read, write
from usbferry.device import Device
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status

OUT, IN = 0x01, 0x81


class Reader:
    """Keeps `depth` reads of `length` bytes in flight, as cdc_acm its 16 of two packets; `data` is what came."""

    def __init__(self, device: Device, length: int = 1024, depth: int = 16, endpoint: int = IN) -> None:
        self.data = bytearray()
        self.lengths: list[int] = []  # of every transfer that ended well
        self.ends: list[int] = []  # how the last reads ended, once they do no more
        self._device, self._length, self._endpoint = device, length, endpoint
        self._flying: deque[tuple[Transfer, asyncio.Future[Completion]]] = deque()
        self._news = asyncio.Event()
        self._stopped = False
        self._fill(depth)

    def _fill(self, count: int) -> None:
        for _ in range(count):
            transfer = read(self._endpoint, self._length)
            answer = self._device.submit(transfer)
            if isinstance(answer, Completion):
                future = asyncio.get_running_loop().create_future()
                future.set_result(answer)
                answer = future
            self._flying.append((transfer, answer))
            answer.add_done_callback(self._harvest)

    def _harvest(self, _: object) -> None:
        """In the order of submission: an answer at once may come before the callbacks of earlier ones."""
        again = 0
        while self._flying and self._flying[0][1].done():
            completion = self._flying.popleft()[1].result()
            if completion.status == Status.OK:
                self.data += completion.data
                self.lengths.append(completion.actual)
                again += 1
            else:
                self._stopped = True
                self.ends.append(completion.status)
        self._news.set()
        if not self._stopped:
            self._fill(again)

    async def until(self, count: int) -> bytes:
        """All that came, when it is `count` bytes or more."""
        while len(self.data) < count:
            self._news.clear()
            await self._news.wait()
        return bytes(self.data)

    async def stop(self) -> bytes:
        """Cancel what is in flight, the last first as kernels do; all that came."""
        self._stopped = True
        flying = tuple(self._flying)
        for transfer, _ in reversed(flying):
            self._device.cancel(transfer)
        for _, future in flying:
            await future
        await asyncio.sleep(0)
        return bytes(self.data)


async def send(device: Device, data: bytes, sizes: Iterable[int] = (), endpoint: int = OUT) -> int:
    """Write `data` in pieces of `sizes`, the last of which repeats; how many bytes were acknowledged."""
    sizes, at, size = iter(sizes), 0, 4096
    while at < len(data):
        size = next(sizes, size)
        piece = data[at : at + size]
        answer = device.submit(write(endpoint, piece))
        completion = answer if isinstance(answer, Completion) else await answer
        at += completion.actual
        if completion.status != Status.OK:
            break
    return at


def pattern(count: int, seed: int = 0) -> bytes:
    """Bytes in which a lost, doubled or moved one shows."""
    return b"".join((i * 2654435761 + seed & 0xFFFF_FFFF).to_bytes(4, "big") for i in range(count // 4 + 1))[:count]
