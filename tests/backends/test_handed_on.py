"""A claim made by one process and used by another on the same socket, as a kernel would that a program hands it to."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import pytest

from tests.backends.test_lasting import SECONDS
from usbferry.protocols.events import Claimed, Event
from usbferry.protocols.ferry.importer import Importer
from usbferry.registry import load_exporter, open_source
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving

CHILD = """
import socket, sys
from usbferry.protocols.ferry.importer import Importer
from usbferry.usb.transfer import Transfer

sock, importer, held = socket.socket(fileno=int(sys.argv[1])), Importer(), b""

def event():
    global held
    while True:
        importer.receive(memoryview(held), 0.0)
        found = next(importer.events(), None)
        held = held[importer.consumed:]
        if found is not None:
            return found
        pieces, importer.outgoing, importer.outgoing_bytes = importer.outgoing, [], 0
        sock.sendall(b"".join(pieces))
        held += sock.recv(4096)

importer.adopt(bytes.fromhex(sys.argv[2]))
print(event().info.product)
importer.submit(Transfer(0x02, 5, b"child"))
event()
importer.submit(Transfer(0x82, 64))
print(bytes(event().data).decode())
importer.release()
sock.sendall(b"".join(importer.outgoing))
"""


async def claim(sock: socket.socket, importer: Importer) -> Event:
    """Ask, and read what is answered; here that comes at once and alone."""
    loop, held = asyncio.get_running_loop(), b""
    while True:
        pieces, importer.outgoing, importer.outgoing_bytes = importer.outgoing, [], 0
        await loop.sock_sendall(sock, b"".join(pieces))
        held += await loop.sock_recv(sock, 65536)
        importer.receive(memoryview(held), 0.0)
        for event in importer.events():
            held = held[importer.consumed :]
            assert not held
            return event
        held = held[importer.consumed :]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="sockets cannot be handed on here")
async def test_another_process_goes_on_with_the_socket() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    async with asyncio.timeout(SECONDS), serving(Catalog()) as server:
        await server.offer(open_source("virtual:zero"))
        await server.adopt(theirs, load_exporter("ferry"))
        importer = Importer()
        importer.claim("1-1")
        assert isinstance(await claim(ours, importer), Claimed)
        await asyncio.get_running_loop().sock_sendall(ours, b"".join(importer.outgoing))  # HOLD
        ours.setblocking(True)
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            CHILD,
            str(ours.fileno()),
            importer.session.hex(),
            pass_fds=[ours.fileno()],
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        ours.close()
        said, _ = await child.communicate()
        assert said.decode().split("\n") == ["Gadget Zero", "child", ""]
