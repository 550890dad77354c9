"""The exchanges of devices whose data has a time: sound and pictures. As those of `exchanges`."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

from tests.conformance.exchanges import content
from tests.conformance.hosts import PATIENCE, Host


def numbers(samples: bytes) -> list[int]:
    """Of a counter's frames."""
    return [number for (number,) in struct.iter_unpack("<I", samples)]


async def recording(host: Host, folder: Path) -> None:
    """16 ms of a counter recorded, no frame lost"""
    await _records(host, 1)


async def _records(host: Host, interface: int) -> None:
    await host.set_interface(interface, 1)
    got = numbers(b"".join(data for _, data in await host.read_packets(0x82, 16 * [196])))
    assert len(got) >= 15 * 48
    assert got == list(range(got[0], got[0] + len(got)))


async def playing(host: Host, folder: Path) -> None:
    """16 ms played, every sample in a file"""
    await host.set_interface(1, 1)
    written = b""
    async with asyncio.timeout(PATIENCE):
        while len(played := content(folder / "played")) < 16 * 192:  # some is held back until there is more
            first = len(written) // 4
            packets = [struct.pack("<48I", *range(at, at + 48)) for at in range(first, first + 16 * 48, 48)]
            assert sum(actual for _, actual in await host.write_packets(0x01, packets)) == 16 * 192
            written += b"".join(packets)
            await asyncio.sleep(0.005)  # a thread writes the file
    assert written.startswith(played)


async def both_ways(host: Host, folder: Path) -> None:
    """16 ms recorded, and 16 ms played"""
    await _records(host, 2)
    await playing(host, folder)


SIDES = (160, 120)
PICTURE_BYTES = 2 * SIDES[0] * SIDES[1]  # YUY2


async def picture(host: Host, folder: Path) -> None:
    """a picture of the test card, by isochronous packets"""
    await _choose(host)
    await host.set_interface(1, 4)
    raw = b"".join([data for _, data in await host.read_packets(0x81, 64 * [1024])])
    card, at = b"", 0
    while len(card) < PICTURE_BYTES:
        size = min(1024 - 6, PICTURE_BYTES - len(card))
        _is_payload(raw[at:], is_last=len(card) + size == PICTURE_BYTES)
        card += raw[at + 6 :][:size]
        at += 6 + size
    _is_card(card)


async def picture_in_bulk(host: Host, folder: Path) -> None:
    """a picture of the test card, by a bulk transfer"""
    await _choose(host)
    raw = await host.read(0x81, 6 + PICTURE_BYTES)
    _is_payload(raw, is_last=True)
    _is_card(raw[6:])


async def _choose(host: Host) -> None:
    """Probe and commit."""
    await host.control(0x21, 0x01, 0x0100, 1, struct.pack("<HBBI", 1, 1, 1, 333_333).ljust(34, b"\0"))
    agreed = await host.control(0xA1, 0x81, 0x0100, 1, 34)
    assert (len(agreed), agreed[2:4]) == (34, b"\1\1")
    await host.control(0x21, 0x01, 0x0200, 1, agreed)


def _is_payload(raw: bytes, *, is_last: bool) -> None:
    """Its header: a time, the end of the picture or not, of the first picture."""
    assert (raw[0], raw[1]) == (6, 0x86 if is_last else 0x84)


def _is_card(raw: bytes) -> None:
    from tests.devices.video_host import number_in
    from usbferry.devices.video.uvc import Coding

    assert len(raw) == PICTURE_BYTES
    assert number_in(raw, SIDES, Coding.YUY2) == 0
