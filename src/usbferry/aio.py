"""Use a device from Python with asyncio: `async with await aio.open("usbip://host/1-2") as device: ...`.

`usbferry.open` is the same for plain synchronous programs. Neither needs root, a kernel module, or a certain system.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from .device import Claimant, Device, Promise, ResetOutcome, Source
from .registry import open_source
from .selector import choose
from .usb import setup as requests
from .usb.info import DeviceInfo
from .usb.said import said
from .usb.setup import Setup
from .usb.transfer import Buffer, Completion, Flags, IsoPacket, Transfer
from .usb.tree import Configuration, DescriptorType, Interface
from .usb.types import Status
from .watch import Watch

CONTROL_SECONDS: Final = 5.0  # USB 2.0 §9.2.6.1 gives requests with data as long
CANCEL_SECONDS: Final = 5.0  # for a peer to answer a cancel, before it is given up
_LONGEST: Final = 0x7FFF_FFFF  # bytes of a transfer: USB/IP and Linux count them in 32 bits, with a sign
_OK: Final = Status.OK  # found sooner than by attribute, for every transfer


class TransferError(Exception):
    """A transfer that did not end well. `status` says how, `data` is what an IN transfer brought all the same, and
    `actual` how many bytes were moved."""

    def __init__(self, text: str, completion: Completion) -> None:
        super().__init__(text)
        self.status = Status(completion.status)
        self.data = bytes(completion.data)
        self.actual = completion.actual


class Stalled(TransferError):
    """The device refused a request, or an endpoint is halted until `clear_halt`."""


class TimedOut(TransferError, TimeoutError):
    """It took longer than the caller wanted; the transfer was cancelled."""


class DeviceGone(TransferError):
    """The device was unplugged, its server stopped, or the connection to it is lost."""


_ERRORS: Final = {
    Status.STALL: Stalled,
    Status.TIMEOUT: TimedOut,
    Status.GONE: DeviceGone,
    Status.SHUTDOWN: DeviceGone,
}


async def open(address: str) -> Handle:
    """Claim the device at `address`, such as "usbip://host/1-2" or "virtual:zero".

    A selector may say which device is meant: "usbip://host/046d:c52b,serial=AB*". An address that stands for several
    raises Ambiguous, which lists them; one that makes no sense ValueError. Otherwise DeviceError: NotFound, Busy
    (somebody else has it), or with the reason in words.
    """
    source = open_source(address)
    try:
        name = source.name or choose(await source.find(), address, source.at).name
        device = await source.open(name, Claimant("local"))
    except BaseException:
        await source.close()
        raise
    return Handle(device, source)


class Described:
    """What a handle's device is."""

    def __init__(self, device: Device) -> None:
        self._device = device

    @property
    def info(self) -> DeviceInfo:
        """Identity, descriptors, strings and current settings."""
        return self._device.info

    @property
    def configurations(self) -> tuple[Configuration, ...]:
        """Every configuration of the device, with its interfaces and their endpoints."""
        return self._device.info.configurations

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """Those of the configuration in force, each in its current alternate setting."""
        return self._device.info.interfaces

    @property
    def is_gone(self) -> bool:
        """Whether the device left for good."""
        return self._device.gone.done()


class Handle(Described):
    """An open device, until `close`. Any number of calls may be under way at the same time.

    Endpoints are addresses with the direction bit (0x81), lengths bytes, times seconds; no timeout means for ever.
    Every call that moves data may raise TransferError or one of its kinds: Stalled, TimedOut, DeviceGone.
    """

    def __init__(self, device: Device, source: Source | None) -> None:
        """`source` is closed with the device; None leaves that to others."""
        super().__init__(device)
        self.device = device  # the seam itself, for those who need more than this class
        self._source = source
        self._closed = False

    def __repr__(self) -> str:
        info = self.device.info
        where = info.name if self._source is None else self._source.at(info.name)
        state = "closed" if self._closed else f"gone: {self.device.gone.result()}" if self.is_gone else "open"
        return f"<Handle {where}: {state}>"

    async def wait_gone(self) -> str:
        """Wait until the device leaves; why, in words."""
        return await asyncio.shield(self.device.gone)

    # -- transfers ----------------------------------------------------------------------------------------------------

    def submit(self, transfer: Transfer) -> asyncio.Future[Completion]:
        """Start a transfer as it is, and give its Completion, whatever its status. For those who pipeline."""
        answer = self.device.submit(transfer)
        # A future of the caller's own: he may cancel it, as `asyncio.wait_for` does, the device's must not be.
        own: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        if isinstance(answer, Completion):
            own.set_result(answer)
            return own
        if isinstance(answer, Promise) and not answer.done():
            # In this very turn of the loop, or a later transfer that is answered at once would be heard of first.
            answer.hear(lambda completion: None if own.done() else own.set_result(completion))
        else:
            own = asyncio.shield(answer)
        own.add_done_callback(lambda done: self.device.cancel(transfer) if done.cancelled() else None)
        return own

    def cancel(self, transfer: Transfer) -> None:
        """Ask for a transfer's end; its future still ends with the truth."""
        self.device.cancel(transfer)

    async def control(
        self,
        request_type: int,
        request: int,
        value: int = 0,
        index: int = 0,
        data_or_length: Buffer | int = 0,
        *,
        timeout: float | None = CONTROL_SECONDS,
    ) -> bytes:
        """A control request: with a length, what the device gave (IN); with data, sends it (OUT)."""
        transfer = control_transfer(request_type, request, value, index, data_or_length)
        return bytes((await self._do(transfer, timeout)).data)

    async def read(self, endpoint: int, length: int, *, timeout: float | None = None) -> bytes:
        """Up to `length` bytes from a bulk or interrupt IN endpoint; a short packet ends it early.

        A timeout raises TimedOut, with what came until then in its `data`.
        """
        return bytes((await self._do(read_transfer(endpoint, length), timeout)).data)

    async def write(
        self, endpoint: int, data: Buffer, *, timeout: float | None = None, zero_packet: bool = False
    ) -> int:
        """Send `data` to a bulk or interrupt OUT endpoint; the bytes that were taken.

        `zero_packet` ends a transfer of whole packets with an empty one, as some protocols want it.
        """
        return (await self._do(write_transfer(endpoint, data, zero_packet), timeout)).actual

    async def read_packets(
        self, endpoint: int, lengths: Sequence[int], *, timeout: float | None = None
    ) -> list[tuple[Status, bytes]]:
        """One isochronous IN transfer of packets of the given lengths; each one's status and bytes."""
        return packets_read(await self._do(read_packets_transfer(endpoint, lengths), timeout))

    async def write_packets(
        self, endpoint: int, packets: Sequence[Buffer], *, timeout: float | None = None
    ) -> list[tuple[Status, int]]:
        """One isochronous OUT transfer; each packet's status and the bytes that went out."""
        return packets_written(await self._do(write_packets_transfer(endpoint, packets), timeout))

    # -- settings -----------------------------------------------------------------------------------------------------

    async def set_configuration(self, value: int) -> None:
        """Select a configuration by its bConfigurationValue; 0 unconfigures the device."""
        await self.request(requests.set_configuration(value))

    async def set_interface(self, interface: int, alternate: int) -> None:
        """Select an alternate setting."""
        await self.request(requests.set_interface(interface, alternate))

    async def clear_halt(self, endpoint: int) -> None:
        """End an endpoint's halt, and start its data toggle again."""
        await self.request(requests.clear_halt(endpoint))

    async def request(self, setup: Setup) -> bytes:
        """Any control request that sends no data, as a Setup."""
        return bytes((await self._do(request_transfer(setup), CONTROL_SECONDS)).data)

    async def get_descriptor(self, kind: int, index: int = 0, *, language: int = 0, length: int = 255) -> bytes:
        """A descriptor, raw, up to `length` bytes."""
        return await self.request(requests.get_descriptor(kind, index, language=language, length=length))

    async def get_string(self, index: int, language: int = 0x0409) -> str:
        """A string descriptor's text. Raises DescriptorError when it is none."""
        from .usb.descriptors import parse_string

        return parse_string(await self.get_descriptor(DescriptorType.STRING, index, language=language))

    async def reset(self) -> None:
        """Reset the device, and restore its configuration and alternate settings. Raises DeviceGone."""
        outcome = await self.device.reset()
        if outcome is not ResetOutcome.SAME:
            raise DeviceGone(f"after the reset the device is {outcome.value}", Completion(Status.GONE))

    # -- the end ------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Give the device back; what is under way ends with DeviceGone. May be called twice."""
        self._closed = True
        await _close(self.device, self._source)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if not self._closed:
            with suppress(RuntimeError):  # its loop is closed, and so is all that was open there
                loop = self.device.gone.get_loop()
                loop.call_soon_threadsafe(_close_forgotten, loop, self.device, self._source)
            name = self.device.info.name if self._source is None else self._source.address
            warnings.warn(f"{name} was left open", ResourceWarning, source=self, stacklevel=2)

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _do(self, transfer: Transfer, timeout: float | None) -> Completion:
        """The truth about a transfer: one that ended although it was cancelled has ended well."""
        if timeout is not None:
            check_timeout(timeout)
        answer = self.device.submit(transfer)
        if isinstance(answer, asyncio.Future):
            try:
                await (Watch(answer) if timeout is None else _in_time(answer, timeout))
            except asyncio.CancelledError:
                self.device.cancel(transfer)
                raise
            answer = answer.result() if answer.done() else await self._give_up(transfer, answer)
        return answer if answer.status == _OK else checked(self.device, transfer, answer)

    async def _give_up(self, transfer: Transfer, future: asyncio.Future[Completion]) -> Completion:
        self.device.cancel(transfer)
        await _in_time(future, CANCEL_SECONDS)
        return timed_out(future.result() if future.done() else Completion(Status.CANCELLED))


_closings: Final[set[asyncio.Task[None]]] = set()  # a loop itself would not keep them alive


def _close_forgotten(loop: asyncio.AbstractEventLoop, device: Device, source: Source | None) -> None:
    """The program dropped its handle: the device is given back."""
    closing = loop.create_task(_close(device, source))
    _closings.add(closing)
    closing.add_done_callback(_closings.discard)


async def _close(device: Device, source: Source | None) -> None:
    await device.close()
    if source is not None:
        await source.close()


async def _in_time(future: asyncio.Future[Completion], seconds: float) -> None:
    """Wait for a device's future, or for the time to be over."""
    watch = Watch(future)
    timer = future.get_loop().call_later(seconds, watch.leave)
    try:
        await watch
    finally:
        timer.cancel()


# -- what the synchronous handle shares --------------------------------------------------------------------------------


def control_transfer(request_type: int, request: int, value: int, index: int, data_or_length: Buffer | int) -> Transfer:
    is_in = bool(request_type & 0x80)
    if not isinstance(data_or_length, int):
        data_or_length = _data(data_or_length)
    length = data_or_length if isinstance(data_or_length, int) else len(data_or_length)
    if is_in != isinstance(data_or_length, int) and length:
        raise ValueError("an IN request takes a length, an OUT request takes data")
    setup = Setup(request_type, request, value, index, length).pack()
    payload = b"" if isinstance(data_or_length, int) else data_or_length
    return Transfer(0x80 if is_in and length else 0, length, payload, setup)


def request_transfer(setup: Setup) -> Transfer:
    """A request that sends no data."""
    return Transfer(0x80 if setup.is_in else 0, setup.length if setup.is_in else 0, b"", setup.pack())


def read_transfer(endpoint: int, length: int) -> Transfer:
    if not endpoint & 0x80:
        raise ValueError(f"{endpoint:#04x} is an OUT endpoint")
    if not 0 <= length <= _LONGEST:
        raise ValueError(f"{length} bytes cannot be read, only 0 to {_LONGEST}")
    return Transfer(endpoint, length)


def write_transfer(endpoint: int, data: Buffer, zero_packet: bool) -> Transfer:
    if endpoint & 0x80:
        raise ValueError(f"{endpoint:#04x} is an IN endpoint")
    data = _data(data)
    return Transfer(endpoint, len(data), data, b"", Flags.ZERO_PACKET if zero_packet else 0)


def read_packets_transfer(endpoint: int, lengths: Sequence[int]) -> Transfer:
    if any(length < 0 for length in lengths) or sum(lengths) > _LONGEST:
        first = ", ".join(map(str, lengths[:8]))
        raise ValueError(f"packets of {first} bytes cannot be read, only 0 to {_LONGEST} in all")
    return Transfer(endpoint, sum(lengths), flags=Flags.ISO_ASAP, packets=_packets(lengths))


def write_packets_transfer(endpoint: int, packets: Sequence[Buffer]) -> Transfer:
    data = b"".join(packets)
    return Transfer(endpoint, len(data), data, b"", Flags.ISO_ASAP, _packets([len(p) for p in packets]))


def _data(given: Buffer) -> Buffer:
    """What is sent, bytes one by one. Raises TypeError for a text or a list, which would fail far from here."""
    if isinstance(given, bytes | bytearray):
        return given
    try:
        return memoryview(given).cast("B")
    except TypeError:
        raise TypeError(f"data are bytes, such as b'text', and not of type {type(given).__name__}") from None


def packets_read(completion: Completion) -> list[tuple[Status, bytes]]:
    found, at = [], 0
    for packet in completion.packets or ():
        found.append((Status(packet.status), bytes(completion.data[at : at + packet.actual])))
        at += packet.actual
    return found


def packets_written(completion: Completion) -> list[tuple[Status, int]]:
    return [(Status(packet.status), packet.actual) for packet in completion.packets or ()]


def checked(device: Device, transfer: Transfer, completion: Completion) -> Completion:
    """The completion if it is good. Raises TransferError or one of its kinds otherwise."""
    if completion.status == _OK:
        return completion
    status = Status(completion.status)
    why = device.gone.result() if status is Status.GONE and device.gone.done() else ""
    raise _ERRORS.get(status, TransferError)(said(transfer, completion, why), completion)


def check_timeout(seconds: float) -> None:
    """Raises ValueError for what no clock can wait."""
    if not seconds >= 0:
        raise ValueError(f"a timeout of {seconds:g} s: write 0 or more, or None to wait for ever")


def timed_out(completion: Completion) -> Completion:
    """The end of a transfer that was cancelled for its timeout: the cancel may have lost."""
    if completion.status == Status.CANCELLED:
        return Completion(Status.TIMEOUT, completion.data, completion.actual)
    return completion


def _packets(lengths: Sequence[int]) -> list[IsoPacket]:
    packets, offset = [], 0
    for length in lengths:
        packets.append(IsoPacket(offset, length))
        offset += length
    return packets
