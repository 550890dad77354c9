"""`usbredir://HOST[:PORT]` and `usbredir:///SOCKET-FILE`: the device that a usbredir server has, such as usbredirect.

A server has one device, and many end with their connection. So the one that finds the device is kept, opening the
device takes it, and closing the device gives it back: from then on it waits for the next user.

`usbredir://:PORT`, and `?listen` behind any place, is the other way round: whoever has a device connects here, and
again when the connection is lost. See `visitors`. `ahead=0x81` and `buffer=SECONDS` are the importer's options.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, Final

from ..device import Busy, Change, Claimant, Device, NotFound, Source, Unavailable, Watchers
from ..protocols.events import Claimed, Listed
from ..registry import PROTOCOLS, load_importer
from ..transports.place import Place, access, check_peer, parse
from ..usb import setup as requests
from ..usb.info import DeviceInfo
from ..usb.setup import Setup
from ..usb.transfer import Transfer
from .connection import Connection, Importer
from .doubts import Silent, connecting
from .imported import RemoteDevice
from .options import buffer_seconds
from .remote import CONNECT_SECONDS
from .visitors import Visitors

DEVICE_SECONDS: Final = 10.0  # for the server to offer a device, which another one may have till then
LIST_SECONDS: Final = 5.0  # to say which it has: who only looks waits less
MIN_BUFFER_SECONDS, MAX_BUFFER_SECONDS = 0.001, 10.0  # of isochronous packets that wait
VISIT_SECONDS: Final = 60.0  # for somebody to bring a device: a person may have to go there first


class RedirDevice(RemoteDevice):
    """A device whose connection outlives its user. `give_back` is told of the connection for the next one."""

    def __init__(self, connection: Connection, info: DeviceInfo, give_back: Callable[[Connection], None]) -> None:
        super().__init__(connection, info)
        self._give_back: Callable[[Connection], None] | None = give_back

    async def close(self) -> None:
        """Cancel what is pending, and leave the device as a new user wants it: alternate settings first, then reset."""
        give_back, self._give_back = self._give_back, None
        connection = self._connection
        if give_back is None or connection.over is not None:
            await super().close()
            return
        successor = connection.hand_on()
        changed = [requests.set_interface(interface, 0) for interface, now in self.info.alternates.items() if now]
        for setup in (*changed, Setup(*requests.SET_PORT_FEATURE, requests.PORT_RESET)):
            connection.importer.submit(Transfer(0, 0, b"", setup.pack()))
        give_back(successor)


class RedirSource(Source):
    """The one device at the other end of a stream. Raises ValueError for an address that is none."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._scheme = address.partition(":")[0].partition("+")[0]
        self._options: dict[str, Any] = {}  # of the importer
        self._place, listens = self._parse()
        self._kept: Connection | None = None  # to who has the device, which nobody uses now
        self._opened: Device | None = None
        self._asking = asyncio.Lock()  # a connection takes one question at a time
        self._watchers = Watchers()
        self._visitors = Visitors(self._place, self._importer, self._watchers.tell) if listens else None

    def _parse(self) -> tuple[Place, bool]:
        bare, _, query = self.address.partition("?")
        place = parse(bare, PROTOCOLS[self._scheme].port)
        listens, mode = not (place.host or place.path), None
        for option in query.split("&") if query else ():
            key, _, value = option.partition("=")
            if option == "listen":
                listens = True
            elif key == "ahead":
                self._options["ahead"] = frozenset(map(_bulk_in, value.split(",")))
            elif key == "buffer":
                self._options["iso_seconds"] = buffer_seconds(value, MAX_BUFFER_SECONDS, least=MIN_BUFFER_SECONDS)
            elif key == "mode" and place.path:
                mode = access(value)
            else:
                raise self._mistake()
        if place.name or (mode is not None and not listens):
            raise self._mistake()
        if not listens and not place.path:
            check_peer(self.address, f"{self._scheme}://HOST[:PORT]", place.port)
        return replace(place, mode=mode), listens

    def _mistake(self) -> ValueError:
        form = f"{self._scheme}://HOST[:PORT], or {self._scheme}://:PORT to be connected to, without a device"
        options = "options are listen, ahead and buffer, and mode with listen at a socket file"
        return ValueError(f"{self.address!r} is no address, write it as {form}; {options}")

    @property
    def where(self) -> Place:
        """The place. Where it is listened at, with the port that it really has."""
        return self._visitors.place if self._visitors is not None else self._place

    @property
    def notes(self) -> tuple[str, ...]:
        if self._visitors is None:
            return ()
        waits = f"waiting at {self._scheme}://{self.where} for who brings a device"
        if self.where.is_of_this_machine:
            return (waits,)
        return waits, f"note: {self._scheme} has no passwords; whoever reaches this port can bring any device"

    async def list(self) -> list[DeviceInfo]:
        """Raises DeviceError when there is no server, or it has no device now; who brings devices may have none yet."""
        if self._visitors is not None:
            await self._visitors.listen()
            here = self._visitors.here
            return [here.info] if here is not None and here.info is not None else []
        async with self._asking:
            return await self._list()

    async def _list(self) -> builtins.list[DeviceInfo]:
        if self._opened is not None and not self._opened.gone.done():
            return [self._opened.info]
        connection = await self._connection()
        try:
            answer: Listed = await self._ask(LIST_SECONDS, connection, connection.importer.list_devices)
        except BaseException:
            await connection.close()
            raise
        self._kept = connection
        return answer.devices

    async def find(self) -> builtins.list[DeviceInfo]:
        found = await self.list()
        if found or self._visitors is None:
            return found
        if not await self._visitors.wait(VISIT_SECONDS):
            place, port = self.where, self.where.path or f"HOST:{self.where.port}"
            if self._visitors.is_silent:
                raise NotFound(f"who connected to {place} has offered no device within {VISIT_SECONDS:g} s")
            how = f"usbredirect --to {port}, or usbferry serve ADDRESS --to {self._scheme}://{port}"
            raise NotFound(f"nobody connected to {place} within {VISIT_SECONDS:g} s; where the device is, run: {how}")
        return await self.list()

    async def read(self, info: DeviceInfo) -> DeviceInfo:
        if info.configurations:
            return info
        device = await self.open(info.name, Claimant("local"))
        await device.close()
        return device.info

    def watch(self) -> AsyncIterator[Change]:
        """Who comes and goes, where devices are brought; a server does not tell."""
        return self._watchers.watch() if self._visitors is not None else super().watch()

    def at(self, name: str) -> str:
        return self.address  # there is no other

    async def open(self, name: str, claimant: Claimant) -> Device:
        """The device is the only one, whatever its name."""
        async with self._asking:
            if self._opened is not None and not self._opened.gone.done():
                raise Busy(f"the device of {self.where} is in use here")
            self._opened = device = await self._open(name)
        return device

    async def _open(self, name: str) -> RedirDevice:
        connection = await self._connection()
        try:
            answer: Claimed = await self._ask(DEVICE_SECONDS, connection, connection.importer.claim, name)
            device = RedirDevice(connection, answer.info, self._given_back)
            await device.prepare()
        except BaseException:
            await connection.close()
            raise
        connection.in_use = True
        return device

    async def _ask(self, seconds: float, connection: Connection, question: Any, *arguments: str) -> Any:
        """The protocol has no word for a device that is in use: a server of one greets, and says no more."""
        try:
            return await connection.ask(question, *arguments, seconds=seconds, doubt=connection.greeting)
        except Silent as error:
            if not connection.is_greeted:
                raise
            why = f"has offered no device within {seconds:g} s: somebody else uses it, or it is not there"
            raise Unavailable(f"{self.where} {why}") from error
        except Unavailable as error:
            raise Unavailable(
                f"{error}; usbferry serve ADDRESS --to {self._scheme}://{self.where} brings it one"
            ) from None

    async def close(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.close()
        if self._visitors is not None:
            await self._visitors.close()
        self._watchers.close()

    def _given_back(self, connection: Connection) -> None:
        self._opened = None
        if self._visitors is None:
            self._kept = connection

    async def _connection(self) -> Connection:
        """The one that is there, while it lives, or a new one."""
        if self._visitors is not None:
            await self._visitors.listen()
            if self._visitors.here is None:
                raise NotFound(f"nobody has brought a device to {self.where}")
            return self._visitors.here
        kept, self._kept = self._kept, None
        if kept is not None and kept.over is None:
            return kept
        connection = Connection(self._importer(), str(self._place))
        with connecting(self._place, CONNECT_SECONDS, lambda error: self._place.no_connection(error, self._scheme)):
            await self._place.connect(connection, CONNECT_SECONDS)
        return connection

    def _importer(self) -> Importer:
        importer: Importer = load_importer(self._scheme)(**self._options)
        return importer


def _bulk_in(text: str) -> int:
    """An endpoint of `ahead`. Raises ValueError with a text for the user."""
    try:
        endpoint = int(text, 16)
    except ValueError:
        endpoint = 0
    if not 0x81 <= endpoint <= 0x8F:
        raise ValueError(f"ahead={text} is no IN endpoint; write it as 0x81")
    return endpoint
