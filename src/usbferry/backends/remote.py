"""Devices at the other end of a stream: `usbip://HOST[:PORT]` is a Source, each device of it an importer on a link.

Device.submit -> importer -> link ~~~ server
futures <- events <- importer <- link ~~~'
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from ..device import Busy, Claimant, Device, DeviceError, NotFound, ResetOutcome, Source, Unavailable
from ..protocols.errors import ProtocolError
from ..protocols.events import Claimed, Completed, Event, Listed, Refusal, Refused
from ..registry import PROTOCOLS, load_importer
from ..transports import tcp
from ..transports.link import Link
from ..usb import setup as requests
from ..usb.descriptors import DescriptorError, parse_configuration, parse_device, parse_languages, parse_string
from ..usb.info import DeviceInfo
from ..usb.setup import Setup
from ..usb.transfer import Buffer, Completion, Transfer
from ..usb.tree import DescriptorType, Endpoint
from ..usb.types import Status

log: Final = logging.getLogger(__name__)
CONNECT_SECONDS: Final = 10.0
REPLY_SECONDS: Final = 30.0  # for a list or a claim: usbipd-win restarts a driver over it
CONTROL_SECONDS: Final = 5.0  # for each request that reads descriptors; USB 2.0 §9.2.6.1 allows as much
BUSY_RETRIES: Final = 5  # a server that resets the device after its last user says busy for a moment
BUSY_SECONDS: Final = 0.2  # before the first retry, doubled each time
_ERRORS: Final = {Refusal.BUSY: Busy, Refusal.NOT_FOUND: NotFound, Refusal.UNAVAILABLE: Unavailable}


class Importer(Protocol):
    """What a remote device wants of its protocol's importer; `protocols.usbip.importer` says what each part means."""

    protocol: str
    consumed: int
    needed: int
    outgoing: list[Buffer]
    outgoing_bytes: int

    def list_devices(self) -> None: ...
    def claim(self, name: str) -> None: ...
    def submit(self, transfer: Transfer) -> int: ...
    def cancel(self, tag: int) -> None: ...
    def receive(self, view: memoryview, now: float) -> None: ...
    def events(self) -> Iterator[Event]: ...


class Connection:
    """One importer on one link: questions become futures."""

    def __init__(self, importer: Importer, server: str) -> None:
        self.importer = importer
        self._server = server  # for messages
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._answer: asyncio.Future[Listed | Claimed] | None = None
        self._flying: dict[int, tuple[Transfer, asyncio.Future[Completion]]] = {}
        self._tags: dict[int, int] = {}  # id(transfer) -> tag
        self._flush_due = False
        self._error: Exception | None = None
        self.lost_future: asyncio.Future[str] = self._loop.create_future()

    async def ask(self, question: Any, *arguments: str) -> Any:
        """Put a question of the importer's and wait for its answer. Raises DeviceError."""
        self._answer = self._loop.create_future()
        question(*arguments)
        self._flush()
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                return await self._answer
        except TimeoutError:
            raise DeviceError(f"{self._server} did not answer within {REPLY_SECONDS:g} s") from None

    def submit(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        """Send a transfer; GONE at once when the connection is."""
        if self._link is None:
            return Completion(Status.GONE)
        if not isinstance(transfer.data, bytes):
            transfer.data = bytes(transfer.data)  # it was lent, and is sent at the end of this turn
        tag = self.importer.submit(transfer)
        future: asyncio.Future[Completion] = self._loop.create_future()
        self._flying[tag] = (transfer, future)
        self._tags[id(transfer)] = tag
        self._flush_soon()
        return future

    def cancel(self, transfer: Transfer) -> None:
        tag = self._tags.get(id(transfer))
        if tag is not None:
            self.importer.cancel(tag)
            self._flush_soon()

    async def close(self, status: Status = Status.SHUTDOWN) -> None:
        """End what is pending with `status`, close, and wait until it is closed."""
        self._end_all(status)
        if self._link is not None:
            self._link.close()
            await asyncio.wait([self.lost_future])

    # -- the link's user ----------------------------------------------------------------------------------------------

    @property
    def needed(self) -> int:
        return self.importer.needed

    def opened(self, link: Link) -> None:
        self._link = link

    def received(self, view: memoryview) -> int:
        importer = self.importer
        importer.receive(view, 0.0)
        try:
            for event in importer.events():
                if isinstance(event, Completed):
                    self._completed(event.tag, event.completion)
                else:
                    self._answered(event)
        except ProtocolError as error:
            log.warning("%s broke %s: %s", self._server, importer.protocol, error)
            self._error = error
            if self._link is not None:
                self._link.abort()
        return importer.consumed

    def lost(self, error: Exception | None) -> None:
        self._link = None
        reason = str(self._error or error or "the connection was closed")
        self._end_all(Status.GONE)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(DeviceError(f"{self._server}: {reason}"))
        if not self.lost_future.done():
            self.lost_future.set_result(reason)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _completed(self, tag: int, completion: Completion) -> None:
        transfer, future = self._flying.pop(tag)
        del self._tags[id(transfer)]
        if not future.done():
            future.set_result(completion)

    def _answered(self, event: Event) -> None:
        if self._answer is None or self._answer.done():
            return
        if isinstance(event, Refused):
            kind = _ERRORS.get(event.reason, DeviceError)
            self._answer.set_exception(kind(event.text))
        elif isinstance(event, Listed | Claimed):
            self._answer.set_result(event)

    def _end_all(self, status: Status) -> None:
        for tag in tuple(self._flying):
            self._completed(tag, Completion(status))

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        importer = self.importer
        if self._link is not None and importer.outgoing:
            pieces, size = importer.outgoing, importer.outgoing_bytes
            importer.outgoing, importer.outgoing_bytes = [], 0
            self._link.write(pieces, size)


class RemoteDevice(Device):
    """A claimed device of another process. Made by `RemoteSource.open`, which also reads its descriptors."""

    def __init__(self, connection: Connection, info: DeviceInfo) -> None:
        self.info = info
        self.gone = connection.lost_future
        self._connection = connection
        self._endpoints: dict[int, Endpoint] = {}

    def submit(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        if transfer.endpoint & 0x0F:
            endpoint = self._endpoints.get(transfer.endpoint)
            if endpoint is None:  # the Linux server would lose the connection over it
                return Completion(Status.GONE if self.gone.done() else Status.STALL)
            transfer.interval = _interval(endpoint)
            return self._connection.submit(transfer)
        answer = self._connection.submit(transfer)
        if isinstance(answer, asyncio.Future) and transfer.setup:
            setup = Setup.parse(transfer.setup)
            if (setup.request_type, setup.request) in (requests.SET_CONFIGURATION, requests.SET_INTERFACE):
                answer.add_done_callback(lambda done: self._note(setup, done))
        return answer

    def cancel(self, transfer: Transfer) -> None:
        self._connection.cancel(transfer)

    def reset(self) -> asyncio.Future[ResetOutcome]:
        """By the port reset request that servers recognise; Linux restores the settings before it answers."""
        outcome: asyncio.Future[ResetOutcome] = asyncio.get_running_loop().create_future()
        raw = Setup(*requests.SET_PORT_FEATURE, value=requests.PORT_RESET).pack()
        answer = self._connection.submit(Transfer(0, 0, b"", raw))
        if isinstance(answer, Completion):
            outcome.set_result(ResetOutcome.GONE)
        else:
            answer.add_done_callback(
                lambda done: outcome.set_result(
                    ResetOutcome.SAME if done.result().status == Status.OK else ResetOutcome.GONE
                )
            )
        return outcome

    async def close(self) -> None:
        await self._connection.close()

    # -- settings -----------------------------------------------------------------------------------------------------

    def _note(self, setup: Setup, done: asyncio.Future[Completion]) -> None:
        """A configuration or alternate setting was asked for: once granted, other endpoints exist."""
        if done.cancelled() or done.result().status != Status.OK:
            return
        if setup.request == requests.Request.SET_CONFIGURATION:
            self.info.configuration = setup.value & 0xFF
            self.info.alternates.clear()
        else:
            self.info.alternates[setup.index] = setup.value
        self.update_endpoints()

    def update_endpoints(self) -> None:
        """Look up the endpoints of the settings in force."""
        self._endpoints = {e.address: e for i in self.info.interfaces for e in i.endpoints}

    # -- descriptors --------------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Read the descriptors, and set the first configuration if none is set. Raises DeviceError."""
        info = self.info
        try:
            info.device = parse_device(await self._descriptor(DescriptorType.DEVICE, 0, 18))
            found = []
            for index in range(info.device.configurations):
                head = await self._descriptor(DescriptorType.CONFIGURATION, index, 9)
                total = int.from_bytes(head[2:4], "little")
                found.append(parse_configuration(await self._descriptor(DescriptorType.CONFIGURATION, index, total)))
        except DescriptorError as error:
            raise DeviceError(f"{info.name} has broken descriptors: {error}") from error
        info.configurations = tuple(found)
        if info.active is None and found:
            await self._control(requests.set_configuration(found[0].value))
        self.update_endpoints()
        language = await self._language()
        info.manufacturer = await self._string(info.device.manufacturer, language)
        info.product = await self._string(info.device.product, language)
        info.serial = await self._string(info.device.serial, language)

    async def _control(self, setup: Setup) -> bytes:
        """A control transfer for our own needs. Raises DeviceError when it fails."""
        is_in = setup.is_in
        transfer = Transfer(0x80 if is_in else 0, setup.length if is_in else 0, b"", setup.pack())
        answer = self.submit(transfer)
        if isinstance(answer, asyncio.Future):
            try:
                async with asyncio.timeout(CONTROL_SECONDS):
                    answer = await asyncio.shield(answer)
            except TimeoutError:
                raise DeviceError(f"{self.info.name} does not answer {setup}") from None
        if answer.status != Status.OK:
            raise DeviceError(f"{self.info.name} answers {setup} with {Status(answer.status).name}")
        return bytes(answer.data)

    async def _descriptor(self, kind: DescriptorType, index: int, length: int) -> bytes:
        return await self._control(requests.get_descriptor(kind, index, length=length))

    async def _language(self) -> int:
        """The first language of its strings; 0 when it has none."""
        try:
            languages = parse_languages(await self._descriptor(DescriptorType.STRING, 0, 255))
        except (DeviceError, DescriptorError):
            return 0
        return languages[0] if languages else 0

    async def _string(self, index: int, language: int) -> str:
        """A string for people: what cannot be read is empty."""
        if not index or not language:
            return ""
        try:
            raw = await self._control(
                requests.get_descriptor(DescriptorType.STRING, index, language=language, length=255)
            )
            return parse_string(raw)
        except (DeviceError, DescriptorError):
            return ""


class RemoteSource(Source):
    """`SCHEME://HOST[:PORT]`: what a server of that protocol offers. Raises ValueError for bad addresses."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.address = address
        self.name = parts.path.strip("/")  # one device of it, where the address names one
        self._scheme = parts.scheme
        self._host = parts.hostname or ""
        self._port = parts.port or PROTOCOLS[parts.scheme].port
        if not self._host:
            raise ValueError(f"{address!r} names no host: write it as {parts.scheme}://HOST[:PORT][/DEVICE]")

    async def list(self) -> list[DeviceInfo]:
        connection = await self._connect()
        try:
            answer: Listed = await connection.ask(connection.importer.list_devices)
        finally:
            await connection.close()
        return [info for info in answer.devices if self.name in ("", info.name)]

    async def open(self, name: str, claimant: Claimant) -> Device:
        wait = BUSY_SECONDS
        for _ in range(BUSY_RETRIES):
            try:
                return await self._open(name)
            except Busy:
                await asyncio.sleep(wait)
                wait *= 2
        return await self._open(name)

    async def _open(self, name: str) -> RemoteDevice:
        connection = await self._connect()
        try:
            answer: Claimed = await connection.ask(connection.importer.claim, name)
            device = RemoteDevice(connection, answer.info)
            await device.prepare()
        except BaseException:
            await connection.close()
            raise
        return device

    async def _connect(self) -> Connection:
        where = f"{self._host}:{self._port}"
        connection = Connection(load_importer(self._scheme)(), where)
        try:
            await tcp.connect(self._host, self._port, connection, CONNECT_SECONDS)
        except TimeoutError:
            raise DeviceError(f"{where} did not accept a connection within {CONNECT_SECONDS:g} s") from None
        except OSError as error:
            raise DeviceError(f"no connection to {where}: {error.strerror or error}") from error
        return connection


def _interval(endpoint: Endpoint) -> int:
    """What USB/IP servers tell endpoint types by: 0 for bulk, the interval for the periodic ones."""
    return max(1, endpoint.interval) if endpoint.is_periodic else 0
