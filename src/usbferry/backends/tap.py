"""`tap:FILE?of=ADDRESS`: the devices of another address, and a capture of all that passes between them and their users.

FILE is pcapng with the records of Linux usbmon, which Wireshark opens and `replay:FILE` plays. It begins with what the
device says of itself, asked by the tap before its user comes, so a tape needs nothing else. `of` is the last option:
all behind it is the other address, its own options included.

A transfer of more than PIECE bytes is recorded as several, as libusb divides it on Linux; no record is longer than
Wireshark takes. Streams have no place in the format: their transfers are recorded as those of their endpoint.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from ..device import Change, Claimant, Device, Source, Through
from ..registry import open_source
from ..usb import setup as requests
from ..usb.info import DeviceInfo
from ..usb.setup import SET_CONFIGURATION, SET_INTERFACE
from ..usb.transfer import Buffer, Completion, IsoPacket, Transfer
from ..usb.tree import DescriptorType
from ..usb.types import Speed, Status, TransferType
from .capture import pcapng, usbmon
from .capture.events import Event, Packet
from .capture.writer import Writer, is_other_file
from .portrait import ask, string_indices

log: Final = logging.getLogger(__name__)
PIECE: Final = 128 << 10  # bytes
_ISO_PIECE: Final = 128  # packets of a record, as many as usbmon keeps
_BITS: Final = {
    Speed.LOW: 1_500_000,
    Speed.FULL: 12_000_000,
    Speed.HIGH: 480_000_000,
    Speed.SUPER: 5_000_000_000,
    Speed.SUPER_PLUS: 10_000_000_000,
}
_SETTINGS: Final = (SET_CONFIGURATION, SET_INTERFACE)
_OK: Final = Status.OK


class Recording:
    """A file with the conversations of any number of devices, each with its bus and address."""

    def __init__(self, path: Path) -> None:
        """Raises DeviceError when the file cannot be written."""
        self.writer = Writer(path)
        self.writer.write(pcapng.section("usbferry"))
        self._interfaces = 0
        self._transfers = 0

    def add(self, info: DeviceInfo) -> int:
        """The number of a new interface, for one claim of a device."""
        about = f"{info.ids} {info.title}".rstrip()
        self.writer.write(pcapng.interface(usbmon.LINKTYPE, f"usbmon{info.bus}", about, _BITS.get(info.speed, 0)))
        self._interfaces += 1
        return self._interfaces - 1

    def number(self) -> int:
        """Of a transfer to come."""
        self._transfers += 1
        return self._transfers

    def close(self) -> None:
        """Write what is missing, and end."""
        dropped = self.writer.dropped
        if dropped and self._interfaces:
            self.writer.write(pcapng.statistics(0, time.time_ns(), dropped))
            self.writer.dropped = dropped
        self.writer.close()


class TapDevice(Through):
    """A device whose transfers are recorded as they pass."""

    def __init__(self, device: Device, recording: Recording) -> None:
        super().__init__(device)
        self.patience = device.patience
        self._recording = recording
        self._write = recording.writer.write
        self._interface = recording.add(device.info)
        self._place = (device.info.bus, device.info.address)
        self._types: dict[int, TransferType] = {}
        self._learn()

    def submit(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        finish = self._begin(transfer)
        answer = self._device.submit(transfer)
        if isinstance(answer, Completion):
            finish(answer)
        else:
            answer.add_done_callback(lambda done: finish(done.result()))
        return answer

    async def close(self) -> None:
        await self._device.close()
        await asyncio.sleep(0)  # what ended with it is recorded in the loop's next turn

    # -- what it is ---------------------------------------------------------------------------------------------------

    async def introduce(self) -> None:
        """Ask what a tape has to say of its device: descriptors and strings. What it refuses is recorded as such."""
        info = self._device.info
        await self._ask(DescriptorType.DEVICE, length=18)
        for index in range(len(info.configurations)):
            await self._ask(DescriptorType.CONFIGURATION, index, length=0xFFFF)
        if info.device.usb >= 0x0201:
            await self._ask(DescriptorType.BOS, length=0xFFFF)
        if info.speed == Speed.HIGH:
            await self._ask(DescriptorType.DEVICE_QUALIFIER, length=10)
        strings = string_indices(info)
        languages = await self._ask(DescriptorType.STRING, length=255) if strings else None
        language = int.from_bytes(languages[2:4], "little") if languages else 0
        for index in strings if languages else ():
            await self._ask(DescriptorType.STRING, index, language=language)

    async def _ask(self, kind: int, index: int = 0, *, language: int = 0, length: int = 255) -> bytes | None:
        setup = requests.get_descriptor(kind, index, language=language, length=length)
        answer = await ask(self, setup)
        return bytes(answer.data) if answer.status == Status.OK else None

    def _learn(self) -> None:
        """The types of the endpoints, which a record says and a transfer does not."""
        info = self._device.info
        everywhere = (i for c in info.configurations for i in c.interfaces)
        self._types = {e.address: e.type for i in (*everywhere, *info.interfaces) for e in i.endpoints}

    # -- records ------------------------------------------------------------------------------------------------------

    def _begin(self, transfer: Transfer) -> Callable[[Completion], None]:
        """Record that it was submitted; what it gives records the end."""
        if transfer.packets is not None:
            return self._begin_packets(transfer, transfer.packets)
        kind = TransferType.CONTROL if transfer.setup else self._types.get(transfer.endpoint, TransferType.BULK)
        size, ns, pieces = transfer.length, time.time_ns(), list[tuple[int, int, int]]()
        payload = b"" if transfer.endpoint & 0x80 else transfer.data
        for at in range(0, size or 1, PIECE):
            number, length = self._recording.number(), min(PIECE, size - at)
            part = payload[at : at + PIECE] if size > PIECE else payload
            begun = self._event(ns, number, False, kind, transfer.endpoint, _OK, length, part, bytes(transfer.setup))
            self._put(ns, begun, transfer)
            pieces.append((number, at, length))
        return lambda done: self._end(transfer, kind, pieces, done)

    def _end(
        self, transfer: Transfer, kind: TransferType, pieces: list[tuple[int, int, int]], completion: Completion
    ) -> None:
        """Each piece gets its share. Those behind a short one were cancelled, as libusb does it."""
        ns, data, total = time.time_ns(), completion.data, completion.actual
        last = min(total // PIECE, len(pieces) - 1)
        for place, (number, at, length) in enumerate(pieces):
            status = _OK if place < last else Status(completion.status) if place == last else Status.CANCELLED
            actual = max(0, min(length, total - at))
            part = data[at : at + length] if len(pieces) > 1 else data
            self._put(ns, self._event(ns, number, True, kind, transfer.endpoint, status, actual, part, b""), transfer)
        if transfer.setup and (transfer.setup[0], transfer.setup[1]) in _SETTINGS:
            self._learn()

    def _begin_packets(self, transfer: Transfer, packets: list[IsoPacket]) -> Callable[[Completion], None]:
        ns, numbers = time.time_ns(), list[int]()
        is_in = bool(transfer.endpoint & 0x80)
        for group in _groups(packets):
            number = self._recording.number()
            sent = [b"" if is_in else bytes(transfer.data[p.offset : p.offset + p.length]) for p in group]
            length = sum(p.length for p in group)
            self._put_packets(ns, number, False, transfer, _OK, length, [Packet(Status.NOT_DONE, d) for d in sent])
            numbers.append(number)
        return lambda done: self._end_packets(transfer, numbers, done)

    def _end_packets(self, transfer: Transfer, numbers: list[int], completion: Completion) -> None:
        ns, at = time.time_ns(), 0
        packets = completion.packets if completion.packets is not None else transfer.packets or []
        for number, group in zip(numbers, _groups(packets), strict=False):
            came = []
            for packet in group:
                size = packet.actual if transfer.endpoint & 0x80 else 0
                came.append(Packet(Status(packet.status), bytes(completion.data[at : at + size])))
                at += size
            actual = sum(packet.actual for packet in group)
            self._put_packets(ns, number, True, transfer, Status(completion.status), actual, came)

    def _put_packets(
        self, ns: int, number: int, is_end: bool, transfer: Transfer, status: Status, length: int, packets: list[Packet]
    ) -> None:
        data = b"".join(bytes(packet.data) for packet in packets)
        kind = TransferType.ISOCHRONOUS
        event = self._event(ns, number, is_end, kind, transfer.endpoint, status, length, data, b"", tuple(packets))
        self._put(ns, event, transfer)

    def _event(
        self,
        ns: int,
        number: int,
        is_end: bool,
        kind: TransferType,
        endpoint: int,
        status: Status,
        length: int,
        data: Buffer,
        setup: bytes,
        packets: tuple[Packet, ...] = (),
    ) -> Event:
        place = self._place
        return Event(ns * 1e-9, place, number, is_end, kind, endpoint, status, length, data, setup, packets)

    def _put(self, ns: int, event: Event, transfer: Transfer) -> None:
        head = usbmon.head(event, transfer.interval, transfer.start_frame, transfer.flags)
        self._write(pcapng.packet(self._interface, ns, head, event.data))


def _groups(packets: list[IsoPacket]) -> Iterator[list[IsoPacket]]:
    """As many packets a record as fit; the same groups on submission and at the end."""
    group, size = list[IsoPacket](), 0
    for packet in packets:
        if group and (len(group) == _ISO_PIECE or size + packet.length > PIECE):
            yield group
            group, size = [], 0
        group.append(packet)
        size += packet.length
    if group:
        yield group


class TapSource(Source):
    """The devices of another source. The file is made by the first claim; later ones add to it, until `close`.

    Raises ValueError for an address that is none.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        bare, of, inner = address.partition(":")[2].partition("?of=")
        if not bare or not of or not inner:
            raise ValueError(f"{address!r}: write it as tap:FILE?of=ADDRESS, such as tap:x.pcapng?of=virtual:zero")
        self.path = Path(unquote(bare)).expanduser()
        if self.path.is_dir() or not self.path.absolute().parent.is_dir():
            raise ValueError(f"{address!r}: {self.path} is no place for a file")
        if is_other_file(self.path):  # told now: pyusb would keep to itself why its device cannot be opened
            raise ValueError(f"{address!r}: {self.path} is there and no capture, and is not overwritten; name another")
        self._source = open_source(inner)
        self._start = address[: -len(inner)]
        self.name, self.has_bus_ids = self._source.name, self._source.has_bus_ids
        self.selector = self._source.selector
        self._recording: Recording | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        return self._source.notes

    @property
    def place(self) -> str:
        return self._start + self._source.place

    async def list(self) -> list[DeviceInfo]:
        return await self._source.list()

    async def find(self) -> builtins.list[DeviceInfo]:
        return await self._source.find()

    async def read(self, info: DeviceInfo) -> DeviceInfo:
        """Not recorded: nobody uses the device."""
        return await self._source.read(info)

    async def open(self, name: str, claimant: Claimant) -> Device:
        return await self._tapped(await self._source.open(name, claimant))

    async def try_open(self, name: str, claimant: Claimant) -> Device:
        return await self._tapped(await self._source.try_open(name, claimant))

    async def _tapped(self, device: Device) -> Device:
        try:
            if self._recording is None:
                self._recording = Recording(self.path)
            tap = TapDevice(device, self._recording)
            await tap.introduce()
        except BaseException:
            await device.close()
            raise
        return tap

    def watch(self) -> AsyncIterator[Change]:
        return self._source.watch()

    def why_not_offered(self, info: DeviceInfo) -> str | None:
        return self._source.why_not_offered(info)

    def at(self, name: str) -> str:
        return self._start + self._source.at(name)

    async def close(self) -> None:
        try:
            await self._source.close()
        finally:
            recording, self._recording = self._recording, None
            if recording is not None:
                await asyncio.get_running_loop().run_in_executor(None, recording.close)
