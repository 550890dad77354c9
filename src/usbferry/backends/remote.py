"""Devices at the other end of a stream: `usbip://HOST[:PORT]` is a Source, each device of it an importer on a link.

    Device.submit -> [behind a barrier?] -> [in pieces?] -> connection -> importer -> link ~~~ server
    futures <----------------------------------------------- events <--- importer <- link ~~~'

Servers differ in what they survive, so what the weakest one does not is never sent: transfers to endpoints that are not
there, odd isochronous packets, more in one transfer than a kernel can allocate.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar
from urllib.parse import quote

from ..device import Busy, Claimant, Device, DeviceError, NotFound, ResetOutcome, Source
from ..devices.gate import DirectGate
from ..protocols.events import Claimed, Listed
from ..registry import PROTOCOLS, load_importer
from ..selector import Selector, described, listed, select
from ..transports import tcp
from ..transports.place import check_peer, split
from ..transports.reasons import reason
from ..usb import setup as requests
from ..usb.descriptors import DescriptorError, parse_configuration, parse_device, parse_languages, parse_string
from ..usb.info import DeviceInfo
from ..usb.setup import Setup
from ..usb.transfer import Completion, IsoPacket, Transfer
from ..usb.tree import Configuration, DescriptorType, Endpoint
from ..usb.types import Speed, Status, TransferType
from .connection import Connection, Silent
from .pieces import PIECE, Pieces

log: Final = logging.getLogger(__name__)
CONNECT_SECONDS: Final = 10.0
LIST_SECONDS: Final = 5.0  # a list takes no server longer than a moment
CLAIM_SECONDS: Final = 30.0  # usbipd-win restarts a driver over it
PREPARE_SECONDS: Final = 30.0  # for reading all the descriptors of a device
CONTROL_SECONDS: Final = 5.0  # for one request of these; USB 2.0 §9.2.6.1 allows as much
BUSY_RETRIES: Final = 5  # a server that resets the device after its last user says busy for a moment
BUSY_SECONDS: Final = 0.2  # before the first retry, doubled each time
MAX_CONFIGURATIONS: Final = 8  # as Linux: USB_MAXCONFIG, drivers/usb/core/config.c
ISO_PACKETS: Final = 1024  # of one transfer; USBIP_MAX_ISO_PACKETS, drivers/usb/usbip/usbip_common.h
WHOLE_BYTES: Final = 4 << 20  # of one transfer that cannot go in pieces: about what a kernel allocates at best

Answer = Completion | asyncio.Future[Completion]
C = TypeVar("C", bound=Connection)


class _Pipe(NamedTuple):
    """What counts of an endpoint in the current settings."""

    interval: int  # as Linux's urb->interval; USB/IP servers tell types by it: 0 is bulk
    packet: int  # bytes
    iso: int | None  # bytes of an isochronous packet at most; None for the other types


class RemoteDevice(Device):
    """A claimed device of another process. Made by `RemoteSource.open`, which also reads its descriptors."""

    def __init__(self, connection: Connection, info: DeviceInfo) -> None:
        self.info = info
        self.gone = connection.gone
        self._connection = connection
        self._piece = min(PIECE, connection.importer.largest)
        self._whole = min(WHOLE_BYTES, connection.importer.limit)
        self._pipes: dict[int, _Pipe] = {}
        self._gate = DirectGate(self._go_on, self._gate_moved)
        self._gated: set[int] = set()
        self._touching: dict[Transfer, frozenset[int]] = {}  # barriers that wait at the gate, and what they will touch
        self._in_pieces: dict[tuple[int, int], Pieces] = {}  # by endpoint and stream

    # -- the seam -----------------------------------------------------------------------------------------------------

    def submit(self, transfer: Transfer) -> Answer:
        address = transfer.endpoint
        if not address & 0x0F:
            return self._control(transfer)
        if not (self._gated or self._in_pieces or transfer.length > self._piece):
            return self._send(transfer)  # as it goes nearly always
        key = (address, transfer.stream_id)
        pieces = self._in_pieces.get(key) if self._in_pieces else None
        if pieces is None:
            pipe = self._pipes.get(address)
            if transfer.length <= self._piece or transfer.packets is not None or pipe is None:
                return self._pass(transfer)
            if pipe.packet > self._piece:  # a server that takes less than a packet of its device: it is refused
                return self._pass(transfer)
            pieces = self._start_pieces(key)
        _check(transfer)
        self._in_pieces[key] = pieces
        return pieces.submit(transfer)

    def cancel(self, transfer: Transfer) -> None:
        pieces = self._in_pieces.get((transfer.endpoint, transfer.stream_id))
        if pieces is None or not pieces.cancel(transfer):
            self._withdraw(transfer)

    def reset(self) -> asyncio.Future[ResetOutcome]:
        """By the port reset request that servers recognise; Linux restores the settings before it answers."""
        outcome: asyncio.Future[ResetOutcome] = asyncio.get_running_loop().create_future()
        answer = self._control(Transfer(0, 0, b"", Setup(*requests.SET_PORT_FEATURE, requests.PORT_RESET).pack()))
        if isinstance(answer, Completion):
            outcome.set_result(ResetOutcome.GONE)
        else:
            answer.add_done_callback(lambda done: outcome.set_result(self._outcome(done.result())))
        return outcome

    def alloc_streams(self, endpoints: tuple[int, ...], count: int) -> Answer:
        return self._connection.streams(endpoints, count) if count > 0 else Completion(Status.INVALID)

    def free_streams(self, endpoints: tuple[int, ...]) -> Answer:
        return self._connection.streams(endpoints, 0)

    async def close(self) -> None:
        await self._connection.close()

    # -- the way of a transfer ----------------------------------------------------------------------------------------

    def _start_pieces(self, key: tuple[int, int]) -> Pieces:
        def ended() -> None:
            del self._in_pieces[key]

        packet = self._pipes[key[0]].packet
        return Pieces(self._pass, self._withdraw, ended, self._piece // packet * packet)

    def _pass(self, transfer: Transfer) -> Answer:
        """Through the gate, where it may have to wait."""
        if self._gated and transfer.endpoint in self._gated:
            _check(transfer)
            return self._gate.submit(transfer)
        return self._send(transfer)

    def _go_on(self, transfer: Transfer, answer: asyncio.Future[Completion]) -> Answer:
        """One that waited at the gate, where a barrier that waited before it may hold it again; later ones do not."""
        if transfer.endpoint & 0x0F:
            is_barred = transfer.endpoint in self._gate.barred()
            return self._gate.submit(transfer, answer) if is_barred else self._send(transfer, answer)
        if self._touching.pop(transfer, None) is not None:
            self._gate_moved()
        return self._control(transfer, answer)

    def _send(self, transfer: Transfer, answer: asyncio.Future[Completion] | None = None) -> Answer:
        """The Linux server loses the connection over an endpoint that is not there, and over odd packets."""
        pipe = self._pipes.get(transfer.endpoint)
        if pipe is None:
            return self._connection.refuse(transfer, Status.STALL, answer)
        if transfer.packets is not None or pipe.iso is not None:
            refusal = _iso_refusal(transfer, transfer.packets, pipe.iso)
            if refusal is not None:
                return self._connection.refuse(transfer, refusal, answer)
        if transfer.length > self._piece and (transfer.length > self._whole or pipe.packet > self._piece):
            return self._connection.refuse(transfer, Status.NO_MEMORY, answer)
        transfer.interval = pipe.interval
        return self._connection.submit(transfer, answer)

    def _withdraw(self, transfer: Transfer) -> None:
        if not self._gate.cancel(transfer):
            self._connection.cancel(transfer)
        elif self._touching.pop(transfer, None) is not None:
            self._gate_moved()

    def _control(self, transfer: Transfer, waits: asyncio.Future[Completion] | None = None) -> Answer:
        """Servers take wLength and the direction in bmRequestType for the transfer's own, or end the connection."""
        if len(transfer.setup) != 8:
            return self._connection.refuse(transfer, Status.INVALID, waits)
        setup = Setup.parse(transfer.setup)
        if setup.length != transfer.length or (setup.length and setup.is_in != transfer.is_in):
            return self._connection.refuse(transfer, Status.INVALID, waits)
        if transfer.length > self._whole:
            return self._connection.refuse(transfer, Status.NO_MEMORY, waits)
        touched = self._touched(setup)
        if self._gated and self._gate.is_holding(control=touched is None):
            _check(transfer)
            if touched is not None:
                self._touching[transfer] = touched
                self._gate_moved()
            return self._gate.submit(transfer, waits)  # what an earlier barrier holds was asked for before this one
        answer = self._connection.submit(transfer, waits)
        if isinstance(answer, asyncio.Future) and touched is not None:
            self._gate.put_up(transfer, touched)
            self._gate_moved()
            answer.add_done_callback(lambda done: self._settled(transfer, setup, done.result()))
        return answer

    def _touched(self, setup: Setup) -> frozenset[int] | None:
        """The endpoints that a request may change, in any configuration; None for one that changes none."""
        kind = (setup.request_type, setup.request)
        if requests.is_clear_halt(setup):
            return frozenset((setup.index & 0x8F,))
        if kind != requests.SET_CONFIGURATION and kind != requests.SET_INTERFACE and not requests.is_port_reset(setup):
            return None
        interfaces = (i for c in self.info.configurations for i in c.interfaces)
        if kind == requests.SET_INTERFACE:
            interfaces = (i for i in interfaces if i.number == setup.index)
        return frozenset(e.address for i in interfaces for e in i.endpoints)

    def _settled(self, transfer: Transfer, setup: Setup, completion: Completion) -> None:
        """A barrier ended: once a setting is granted, other endpoints exist."""
        kind = (setup.request_type, setup.request)
        if completion.status == Status.OK:
            if kind == requests.SET_CONFIGURATION:
                self.info.configuration = setup.value & 0xFF
                self.info.alternates.clear()
            elif kind == requests.SET_INTERFACE:
                self.info.alternates[setup.index] = setup.value
            self.update_pipes()
        self._gate.ended(transfer)

    def _gate_moved(self) -> None:
        self._gated = self._gate.addresses().union(*self._touching.values())

    def _outcome(self, completion: Completion) -> ResetOutcome:
        if completion.status == Status.STALL:  # usbipd-win: the request went to the device, which knows no ports
            log.warning("%s: its server does not reset devices; it goes on as it was", self.info.name)
            return ResetOutcome.SAME
        return ResetOutcome.SAME if completion.status == Status.OK else ResetOutcome.GONE

    def update_pipes(self) -> None:
        """Look up the endpoints of the settings in force."""
        speed = self.info.speed
        self._pipes = {e.address: _pipe(e, speed) for i in self.info.interfaces for e in i.endpoints}

    # -- descriptors --------------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Read the descriptors and set a configuration. Raises DeviceError."""
        try:
            async with asyncio.timeout(PREPARE_SECONDS):
                await self._read_descriptors()
                await self._configure()
                self.update_pipes()
                await self._read_strings()
        except DescriptorError as error:
            raise DeviceError(f"{self._where} has broken descriptors: {error}") from error
        except TimeoutError:
            raise DeviceError(f"{self._where} took longer than {PREPARE_SECONDS:g} s over its descriptors") from None

    @property
    def _where(self) -> str:
        return f"{self.info.name} at {self._connection.server}"

    async def _read_descriptors(self) -> None:
        info = self.info
        info.device = parse_device(await self._descriptor(DescriptorType.DEVICE, 0, 18))
        found: list[Configuration] = []
        for index in range(min(info.device.configurations, MAX_CONFIGURATIONS)):
            head = await self._descriptor(DescriptorType.CONFIGURATION, index, 9)
            total = int.from_bytes(head[2:4], "little")
            if total < 9:
                raise DescriptorError(f"configuration {index} says it has {total} bytes")
            found.append(parse_configuration(await self._descriptor(DescriptorType.CONFIGURATION, index, total)))
        info.configurations = tuple(found)
        if info.speed is Speed.UNKNOWN and info.device.usb >= 0x0300:
            info.speed = Speed.SUPER_PLUS  # Linux's tools have no word for it

    async def _configure(self) -> None:
        """Set the configuration that is in force at the server, or the first: kernels do so with each new device.

        usbipd-win has no endpoints before (VBoxUsb opens them then), and what an earlier user left, halts and alternate
        settings of which the server says nothing, is over.
        """
        info = self.info
        if not info.configurations:
            return
        active = info.active
        try:
            await self._request(requests.set_configuration((active or info.configurations[0]).value))
        except _Stalled as error:
            if active is None:
                raise
            log.debug("%s; it stays as it is", error)

    async def _read_strings(self) -> None:
        """What people call it. What cannot be read stays empty; after a request without answer no other is tried."""
        info = self.info
        try:
            languages = parse_languages(await self._descriptor(DescriptorType.STRING, 0, 255))
            language = languages[0] if languages else 0
            info.manufacturer = await self._string(info.device.manufacturer, language)
            info.product = await self._string(info.device.product, language)
            info.serial = await self._string(info.device.serial, language)
        except (_Failed, DescriptorError) as error:
            log.debug("%s has no strings: %s", self._where, error)

    async def _string(self, index: int, language: int) -> str:
        if not index:
            return ""
        try:
            wanted = requests.get_descriptor(DescriptorType.STRING, index, language=language, length=255)
            return parse_string(await self._request(wanted))
        except (_Stalled, DescriptorError):
            return ""

    async def _descriptor(self, kind: DescriptorType, index: int, length: int) -> bytes:
        return await self._request(requests.get_descriptor(kind, index, length=length))

    async def _request(self, setup: Setup) -> bytes:
        """A control transfer without OUT data, for our own needs. Raises DeviceError when it fails."""
        transfer = Transfer(0x80 if setup.is_in else 0, setup.length, b"", setup.pack())
        answer = self.submit(transfer)
        if isinstance(answer, asyncio.Future):
            done, _ = await asyncio.wait([answer], timeout=CONTROL_SECONDS)
            if not done:
                self.cancel(transfer)
                raise _Failed(f"{self._where} does not answer {setup}")
            answer = answer.result()
        if answer.status == Status.STALL:
            raise _Stalled(f"{self._where} refuses {setup}")
        if self.gone.done():
            raise DeviceError(f"{self._connection.server}: {self._connection.reason}")
        if answer.status != Status.OK:
            raise _Failed(f"{self._where} answers {setup} with {Status(answer.status).name}")
        return bytes(answer.data)


class _Failed(DeviceError):
    """A request of ours to the device failed; the connection lives."""


class _Stalled(_Failed):
    """The device refused it."""


class RemoteSource(Source):
    """`SCHEME://HOST[:PORT][/DEVICE]`: what a server of that protocol offers; DEVICE is a bus id, or any selector.

    Raises ValueError for bad addresses.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        form = f"{address.partition(':')[0]}://HOST[:PORT][/DEVICE]"
        parts, port = split(address, form)
        if not parts.hostname or parts.query or parts.fragment or parts.username is not None:
            raise ValueError(f"{address!r} is no address, write it as {form}")
        check_peer(address, form, port)
        self.scheme = parts.scheme.partition("+")[0]
        self.host = parts.hostname
        self.port = port or PROTOCOLS[self.scheme].port
        self._select(parts.path.strip("/"))

    def _select(self, device: str) -> None:
        """Which devices are meant. Raises ValueError."""
        try:
            selector = Selector.parse(device)
        except ValueError as error:
            raise ValueError(f"{self.address!r}: {error}") from None
        self.selector: Selector = selector
        self.name = selector.name if selector.is_name else ""

    @property
    def where(self) -> str:
        """The server's name in messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def list(self) -> list[DeviceInfo]:
        """Raises NotFound when the address names or describes a device that is not there."""
        devices = await self._listed()
        found, unread = await select(self, self.selector, devices)
        if self.selector.terms and not found:
            unknown = f"; not asked: {', '.join(map(str, unread))}" if unread else ""
            there = listed(devices, "none that is free")
            raise NotFound(f"{self.where} lists no device {str(self.selector)!r}; it has: {there}{unknown}")
        return found

    async def _listed(self) -> Sequence[DeviceInfo]:
        """All that the server lists."""
        connection = await self._connect()
        try:
            answer: Listed = await connection.ask(connection.importer.list_devices, seconds=LIST_SECONDS)
        finally:
            await connection.close()
        return answer.devices

    async def doubt(self) -> None:
        """Raise DeviceError if this is no server: one that is silent over a claim.

        An import may take long, a list takes none of them long. Only one that is silent over both is given up, for some
        have a single connection and refuse a second one.
        """
        try:
            await self._listed()
        except Silent:
            raise
        except DeviceError as error:
            log.debug("%s is silent, and does not list: %s", self.where, error)

    async def with_others(self, error: NotFound) -> NotFound:
        """An error over a device that the server does not have, with what it has."""
        try:
            return NotFound(f"{error}; it has: {listed(await self._listed(), 'none that is free')}")
        except DeviceError:
            return error

    async def read(self, info: DeviceInfo) -> DeviceInfo:
        """By an import that ends at once. The server takes the device from its own driver for it, and resets it."""
        if info.configurations:
            return info
        device = await self._open(info.name)
        await device.close()
        return device.info

    def at(self, name: str) -> str:
        return f"{self.place}/{quote(name)}"

    @property
    def place(self) -> str:
        """The same for the same server, whether its port was said or left out."""
        if self.port != PROTOCOLS[self.scheme].port:
            return f"{self.scheme}://{self.where}"
        return f"{self.scheme}://[{self.host}]" if ":" in self.host else f"{self.scheme}://{self.host}"

    async def open(self, name: str, claimant: Claimant) -> Device:
        device = await self._patiently(name)
        if self.selector.terms and not self.selector.is_name and not self.selector.matches(device.info):
            await device.close()
            raise NotFound(f"{self.where}: {described(device.info)} is no longer {self.selector}")
        return device

    async def _patiently(self, name: str) -> RemoteDevice:
        wait = BUSY_SECONDS
        for _ in range(BUSY_RETRIES):
            try:
                return await self._open(name)
            except Busy:
                await asyncio.sleep(wait)
                wait *= 2
        return await self._open(name)

    async def try_open(self, name: str, claimant: Claimant) -> Device:
        return await self._open(name)

    async def _open(self, name: str) -> RemoteDevice:
        connection = await self._connect()
        try:
            question = connection.importer.claim
            answer: Claimed = await connection.ask(question, name, seconds=CLAIM_SECONDS, doubt=self.doubt)
            device = RemoteDevice(connection, answer.info)
            await device.prepare()
        except ValueError as error:
            await connection.close()
            raise NotFound(f"{self.where}: {error}") from error
        except NotFound as error:
            await connection.close()
            raise await self.with_others(error) from None
        except BaseException:
            await connection.close()
            raise
        connection.in_use = True
        return device

    async def _connect(self) -> Connection:
        return await self._connected(Connection(load_importer(self.scheme)(), self.where))

    async def _to(self, connection: Connection, seconds: float) -> None:
        """One attempt. Raises OSError or TimeoutError."""
        await tcp.connect(self.host, self.port, connection, seconds)

    async def _connected(self, connection: C) -> C:
        """A connection, once it is one. Raises DeviceError."""
        try:
            await self._to(connection, CONNECT_SECONDS)
        except TimeoutError:
            raise DeviceError(f"no connection to {self.where} within {CONNECT_SECONDS:g} s") from None
        except OSError as error:
            raise DeviceError(f"no connection to {self.where}: {self._why(error)}") from error
        return connection

    def _why(self, error: OSError) -> str:
        """Why there is no connection, for people."""
        return reason(error)


def _check(transfer: Transfer) -> None:
    """What the importer checks when a transfer is sent, for one that is to wait first."""
    if not transfer.is_in and len(transfer.data) != transfer.length:
        raise ValueError(f"{len(transfer.data)} bytes of payload in a transfer of {transfer.length}")
    if transfer.length < 0:
        raise ValueError(f"a transfer of {transfer.length} bytes")


def _pipe(endpoint: Endpoint, speed: Speed) -> _Pipe:
    interval = endpoint.interval_us(speed) // (125 if speed.has_microframes else 1000)
    iso = endpoint.service_bytes if endpoint.type is TransferType.ISOCHRONOUS else None
    return _Pipe(interval, endpoint.packet_size or 1, iso)


def _iso_refusal(transfer: Transfer, packets: list[IsoPacket] | None, longest: int | None) -> Status | None:
    """Why an isochronous transfer cannot be sent, or one with packets where they do not belong."""
    if longest is None or not packets or len(packets) > ISO_PACKETS:
        return Status.INVALID
    total = 0
    for packet in packets:
        if not 0 <= packet.length <= longest or packet.offset < 0 or packet.offset + packet.length > transfer.length:
            return Status.INVALID
        total += packet.length
    return Status.INVALID if total > transfer.length else None  # one over another
