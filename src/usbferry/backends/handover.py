"""A claimed USB/IP device as a bare socket, for whoever speaks the rest of the protocol: this machine's kernel.

Nothing that follows the answer to the import may be read here: it reads as many bytes as the importer needs.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from ..device import DeviceError, NotFound
from ..protocols.errors import ProtocolError
from ..protocols.events import Claimed, Completed, Event, Refused
from ..protocols.openings import Stranger, check
from ..protocols.usbip.importer import Importer, State
from ..transports import tcp
from ..usb import setup as requests
from ..usb.descriptors import DescriptorError, parse_device
from ..usb.info import DeviceInfo
from ..usb.transfer import Transfer
from ..usb.tree import DescriptorType
from ..usb.types import Speed
from .doubts import DOUBT_SECONDS, Doubt, connecting, refusal, remedy, settle, wordless
from .remote import CLAIM_SECONDS, CONNECT_SECONDS, RemoteSource

_ADDRESSES: Final = 8  # of one name, tried one after the other


async def claim(source: RemoteSource, name: str) -> tuple[socket.socket, DeviceInfo]:
    """Import `name` and hand out the connection, which the caller closes; what the server said of the device.

    One that is busy is tried again for as long as a server takes to reset it. Raises DeviceError.
    """
    try:
        async with source.elsewhere.told():
            return await source.patiently(lambda: _claim_once(source, name))
    except NotFound as error:
        raise await source.with_others(error) from None


async def _claim_once(source: RemoteSource, name: str) -> tuple[socket.socket, DeviceInfo]:
    connected = await _connect(source)
    try:
        return connected, await claim_on(connected, name, source.where, source.doubt)
    except BaseException:
        connected.close()
        raise


async def claim_on(connected: socket.socket, name: str, server: str, doubt: Doubt | None = None) -> DeviceInfo:
    """Import `name` on a connected socket that does not block; `server` is its name in messages. Raises DeviceError.

    `doubt` is that of `Connection.ask`.
    """
    importer = Importer()
    try:
        importer.claim(name)
    except ValueError as error:
        raise NotFound(f"{server}: {error}") from error
    about = f"{name} at {server}"
    try:
        async with asyncio.timeout(CLAIM_SECONDS):
            event = await _first_answer(connected, importer, server, doubt)
            if isinstance(event, Refused):
                raise refusal(event, about)
            assert isinstance(event, Claimed)
            if event.info.speed is Speed.UNKNOWN:
                event.info.speed = await _speed(connected, importer, about)
            return event.info
    except TimeoutError:
        raise DeviceError(f"{server} did not answer within {CLAIM_SECONDS:g} s") from None
    except Stranger as error:
        raise DeviceError(f"{server}: {error}; {remedy(error, server)}") from error
    except ProtocolError as error:
        raise DeviceError(f"{server}: it broke usbip: {error}") from error
    except OSError as error:
        raise DeviceError(f"{server}: {error.strerror or error}") from error


async def _first_answer(connected: socket.socket, importer: Importer, server: str, doubt: Doubt | None) -> Event:
    answering = asyncio.get_running_loop().create_task(_answer(connected, importer, server))
    try:
        if doubt is not None:
            await asyncio.wait([answering], timeout=DOUBT_SECONDS)
            await settle(answering, doubt)
        return await answering
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)


async def _answer(connected: socket.socket, importer: Importer, server: str) -> Event:
    """What the server says to what the importer has to say. Not a byte beyond that is read."""
    loop = asyncio.get_running_loop()
    pieces, importer.outgoing = importer.outgoing, []
    with suppress(ConnectionError):  # what they said before they closed it, or that they did, is read
        await loop.sock_sendall(connected, b"".join(pieces))
    held = b""
    while True:
        got, lost = b"", None
        try:
            got = await loop.sock_recv(connected, importer.needed - len(held))
        except ConnectionResetError as error:
            lost = error
        if not got:
            if held or importer.state is not State.CLAIMING:
                raise lost or ConnectionError("the connection was closed")
            raise wordless(importer.protocol, server, lost) from lost
        held += got
        if importer.state is State.CLAIMING:
            check(importer.protocol, importer.opening, held)
        importer.receive(memoryview(held), 0.0)
        for event in importer.events():
            return event
        held = held[importer.consumed :]


async def _speed(connected: socket.socket, importer: Importer, about: str) -> Speed:
    """Of a device of which a server says 0, as Linux's do of SuperSpeed+, for which the tools have no word."""
    asked = requests.get_descriptor(DescriptorType.DEVICE, length=18)
    importer.submit(Transfer(0x80, asked.length, b"", asked.pack()))
    event = await _answer(connected, importer, about)
    assert isinstance(event, Completed)
    try:
        device = parse_device(bytes(event.data))
    except DescriptorError as error:
        raise DeviceError(f"{about} has broken descriptors: {error}") from error
    if device.usb < 0x0300:
        raise DeviceError(f"{about}: the server does not say how fast it is")
    return Speed.SUPER


async def _connect(source: RemoteSource) -> socket.socket:
    loop = asyncio.get_running_loop()
    with connecting(source.where, CONNECT_SECONDS):
        async with asyncio.timeout(CONNECT_SECONDS):
            found = await loop.getaddrinfo(source.host, source.port, type=socket.SOCK_STREAM)
            return await _first(found[:_ADDRESSES])


async def _first(addresses: Sequence[tuple[int, int, int, str, Any]]) -> socket.socket:
    """The first that can be connected to. Raises the OSError of the last."""
    last: OSError = OSError("it has no address")
    for family, kind, protocol, _, address in addresses:
        try:
            connected = socket.socket(family, kind, protocol)
        except OSError as error:  # no IPv6 here, perhaps
            last = error
            continue
        try:
            connected.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connected, address)
            tcp.tune(connected)
            return connected
        except OSError as error:
            connected.close()
            last = error
        except BaseException:
            connected.close()
            raise
    raise last
