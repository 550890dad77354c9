"""Who uses a device at the end of a path: a program of ours, one of pyusb, or the kernel at its end of a relay.

All have the calls of `usbferry.aio.Handle` that an exchange needs, and fail as it does.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, TypeVar

from tests.local.strict import Asked, Strict
from tests.protocols.usbip import wire
from usbferry import aio
from usbferry.usb.info import DeviceInfo
from usbferry.usb.setup import Setup, clear_halt, set_interface
from usbferry.usb.transfer import Completion
from usbferry.usb.types import Status

T = TypeVar("T")
Packets = list[tuple[Status, bytes]]
PATIENCE = 10.0  # seconds for an answer that must come


class Host(Protocol):
    """As `aio.Handle`: the same arguments, bytes and errors."""

    async def control(
        self, request_type: int, request: int, value: int = 0, index: int = 0, data_or_length: bytes | int = 0
    ) -> bytes: ...

    async def read(self, endpoint: int, length: int) -> bytes: ...

    async def write(self, endpoint: int, data: bytes) -> int: ...

    async def read_packets(self, endpoint: int, lengths: Sequence[int]) -> Packets:
        """Perhaps in one piece: pyusb does not tell where packets ended."""

    async def write_packets(self, endpoint: int, packets: Sequence[bytes]) -> list[tuple[Status, int]]: ...

    async def set_interface(self, interface: int, alternate: int) -> None: ...

    async def clear_halt(self, endpoint: int) -> None: ...

    async def taken_back(self, endpoint: int, length: int, packets: int = 0) -> Completion:
        """A read that is cancelled when it has arrived; of so many packets where it is isochronous."""


class Ours(aio.Handle):
    """A program that uses our Python API."""

    async def control(self, *request: Any, **more: Any) -> bytes:
        return await super().control(*request, **{"timeout": PATIENCE, **more})

    async def read(self, endpoint: int, length: int, *, timeout: float | None = PATIENCE) -> bytes:
        return await super().read(endpoint, length, timeout=timeout)

    async def taken_back(self, endpoint: int, length: int, packets: int = 0) -> Completion:
        transfer = (
            aio.read_packets_transfer(endpoint, [length] * packets) if packets else aio.read_transfer(endpoint, length)
        )
        answer = self.submit(transfer)
        await self.get_descriptor(1)  # where it is far, an answer would have come by now
        self.cancel(transfer)
        return await asyncio.wait_for(answer, PATIENCE)


class OfPyusb:
    """A program of pyusb, whose calls block."""

    def __init__(self, device: Any) -> None:
        self.device = device

    async def control(
        self, request_type: int, request: int, value: int = 0, index: int = 0, data_or_length: bytes | int = 0
    ) -> bytes:
        return bytes(await _apart(self.device.ctrl_transfer, request_type, request, value, index, data_or_length))

    async def read(self, endpoint: int, length: int) -> bytes:
        return bytes(await _apart(self.device.read, endpoint, length, 1000 * PATIENCE))

    async def write(self, endpoint: int, data: bytes) -> int:
        return await _apart(self.device.write, endpoint, data, 1000 * PATIENCE)

    async def read_packets(self, endpoint: int, lengths: Sequence[int]) -> Packets:
        return [(Status.OK, await self.read(endpoint, sum(lengths)))]

    async def write_packets(self, endpoint: int, packets: Sequence[bytes]) -> list[tuple[Status, int]]:
        return [(Status.OK, await self.write(endpoint, b"".join(packets)))]

    async def set_interface(self, interface: int, alternate: int) -> None:
        await _apart(self.device.set_interface_altsetting, interface, alternate)

    async def clear_halt(self, endpoint: int) -> None:
        await _apart(self.device.clear_halt, endpoint)

    async def taken_back(self, endpoint: int, length: int, packets: int = 0) -> Completion:
        """Its only way to take one back is a timeout, which is an error only where there were no bytes."""
        length *= max(packets, 1)
        try:
            data = bytes(await _apart(self.device.read, endpoint, length, 20))
        except aio.TimedOut:
            return Completion(Status.CANCELLED)
        return Completion(Status.CANCELLED if packets and len(data) < length else Status.OK, data)


async def _apart(call: Callable[..., T], *arguments: Any) -> T:
    """In a thread of its own, with pyusb's errors as ours."""
    import usb.core

    try:
        return await asyncio.to_thread(call, *arguments)
    except usb.core.USBTimeoutError as error:
        raise aio.TimedOut(str(error), Completion(Status.TIMEOUT)) from error
    except usb.core.USBError as error:
        if error.errno != errno.EPIPE:
            raise
        raise aio.Stalled(str(error), Completion(Status.STALL)) from error


@dataclass(frozen=True)
class Reply:
    """What came for a URB, or for an unlink."""

    number: int
    status: int
    actual: int
    data: bytes
    packets: list[tuple[int, int]]  # bytes of each, and its error number


class Kernel:
    """What vhci_hcd does with its end of a relay's socket pair: its URBs are written byte by byte, one after the other,
    and each answer is held against what a kernel may be told."""

    def __init__(self, end: socket.socket, info: DeviceInfo) -> None:
        self._end = end
        self._devid = info.bus << 16 | info.address
        self._strict = Strict()
        self._numbers = count(1)

    async def control(
        self, request_type: int, request: int, value: int = 0, index: int = 0, data_or_length: bytes | int = 0
    ) -> bytes:
        is_in = isinstance(data_or_length, int) and bool(request_type & 0x80)
        length = data_or_length if isinstance(data_or_length, int) else len(data_or_length)
        payload = b"" if isinstance(data_or_length, int) else data_or_length
        setup = Setup(request_type, request, value, index, length).pack()
        return (await self._urb(0x80 if is_in else 0, Asked(is_in, length), payload, setup)).data

    async def read(self, endpoint: int, length: int) -> bytes:
        return (await self._urb(endpoint, Asked(True, length))).data

    async def write(self, endpoint: int, data: bytes) -> int:
        return (await self._urb(endpoint, Asked(False, len(data)), data)).actual

    async def read_packets(self, endpoint: int, lengths: Sequence[int]) -> Packets:
        done = await self._urb(endpoint, Asked(True, sum(lengths), _adjoining(lengths)))
        assert not any(error for _, error in done.packets)
        return [(Status.OK, done.data)]

    async def write_packets(self, endpoint: int, packets: Sequence[bytes]) -> list[tuple[Status, int]]:
        data, lengths = b"".join(packets), [len(packet) for packet in packets]
        done = await self._urb(endpoint, Asked(False, len(data), _adjoining(lengths)), data)
        assert not any(error for _, error in done.packets)
        return [(Status.OK, actual) for actual, _ in done.packets]

    async def set_interface(self, interface: int, alternate: int) -> None:
        await self._request(set_interface(interface, alternate))

    async def clear_halt(self, endpoint: int) -> None:
        await self._request(clear_halt(endpoint))

    async def _request(self, setup: Setup) -> None:
        await self._urb(0, Asked(False, 0), b"", setup.pack())

    async def taken_back(self, endpoint: int, length: int, packets: int = 0) -> Completion:
        asked = Asked(True, length * max(packets, 1), _adjoining([length] * packets))
        number = await self._submit(endpoint, asked)
        await self.control(0x80, 6, 0x0100, 0, 18)
        unlink = next(self._numbers)
        self._strict.unlinks.add(unlink)
        await self._say(wire.unlink(unlink, number, devid=self._devid))
        answer = await self._reply()
        if answer.number == number:  # it had ended before, or some of it was done
            assert (await self._reply()).status == 0
            return Completion(Status.CANCELLED if answer.status == wire.ECONNRESET else Status.OK, answer.data)
        assert (answer.number, answer.status) == (unlink, wire.ECONNRESET)
        del self._strict.asked[number]  # no reply to what was unlinked
        return Completion(Status.CANCELLED)

    # -- bytes --------------------------------------------------------------------------------------------------------

    async def _urb(self, endpoint: int, asked: Asked, payload: bytes = b"", setup: bytes = bytes(8)) -> Reply:
        number = await self._submit(endpoint, asked, payload, setup)
        answer = await self._reply()
        assert answer.number == number
        if answer.status == wire.EPIPE:
            raise aio.Stalled("-EPIPE", Completion(Status.STALL, answer.data, answer.actual))
        assert answer.status == 0
        return answer

    async def _submit(self, endpoint: int, asked: Asked, payload: bytes = b"", setup: bytes = bytes(8)) -> int:
        number = next(self._numbers)
        self._strict.asked[number] = asked
        head = (number, wire.IN if asked.is_in else wire.OUT, endpoint & 15, asked.length, payload)
        await self._say(wire.submit(*head, setup=setup, devid=self._devid, iso=asked.packets, interval=1))
        return number

    async def _say(self, raw: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._end, raw)

    async def _reply(self) -> Reply:
        """The next one, as vhci_rx reads it: its payload, then the descriptors of its packets."""
        head = await self._exactly(48)
        command, number, status, actual, _, count = struct.unpack_from(">II12xiiii", head)
        asked = self._strict.asked.get(number)
        data = described = b""
        if command == 3 and asked is not None:
            data = await self._exactly(actual if asked.is_in else 0)
            described = await self._exactly(16 * max(count, 0))
        self._strict.feed(head + data + described)
        packets = [(done, -said) for _, _, done, said in struct.iter_unpack(">IIIi", described)]
        return Reply(number, status, actual, data, packets)

    async def _exactly(self, size: int) -> bytes:
        got = b""
        async with asyncio.timeout(PATIENCE):
            while len(got) < size:
                piece = await asyncio.get_running_loop().sock_recv(self._end, size - len(got))
                assert piece, "the relay hung up"
                got += piece
        return got


def _adjoining(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    offset, found = 0, []
    for length in lengths:
        found.append((offset, length))
        offset += length
    return tuple(found)
