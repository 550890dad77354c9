"""Servers that go wrong in use, seen by a program: one clear error each, the connection closed, no memory taken.

What they do wrong before that, over lists, imports and descriptors, is in `test_remote`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.backends.hand import Peer, bad_server, descriptors, ret_submit
from usbferry import aio
from usbferry.backends.remote import RemoteSource
from usbferry.device import DeviceError
from usbferry.protocols.usbip.messages import CmdSubmit
from usbferry.usb.setup import Setup

MIB = 1 << 20
PARKED = 0x82  # reads here are not answered


async def header(peer: Peer) -> CmdSubmit:
    """The next message that is no transfer to be left alone: of an unlink, the target is in `flags`."""
    while True:
        found = CmdSubmit.parse(await peer.reader.readexactly(CmdSubmit.SIZE))
        if found.ep != PARKED & 0x0F:
            return found


def ret_unlink(seqnum: int, status: int = 0) -> bytes:
    return b"".join((number & 0xFFFFFFFF).to_bytes(4, "big") for number in (4, seqnum, 0, 0, 0, status)) + bytes(24)


Wrong = Callable[[Peer, CmdSubmit], Awaitable[None]]


def instead(make: Callable[[int], bytes]) -> Wrong:
    """Says this instead of the answer to a submit with this seqnum."""

    async def wrong(peer: Peer, submit: CmdSubmit) -> None:
        peer.writer.write(make(submit.seqnum))

    return wrong


async def closes_in_the_middle(peer: Peer, submit: CmdSubmit) -> None:
    peer.writer.write(ret_submit(submit.seqnum, bytes(512))[:300])
    peer.writer.close()


async def answers_twice_after_the_unlink(peer: Peer, submit: CmdSubmit) -> None:
    """Once is forgiven: older versions of usbipd-win do it."""
    unlink = await header(peer)
    assert (unlink.command, unlink.flags) == (2, submit.seqnum)
    peer.writer.write(ret_unlink(unlink.seqnum, -104) + 2 * ret_submit(submit.seqnum, bytes(512)))


async def answers_the_unlink_twice(peer: Peer, submit: CmdSubmit) -> None:
    unlink = await header(peer)
    peer.writer.write(2 * ret_unlink(unlink.seqnum, -104))


# What it does with a read of 512 bytes -> what the program is told.
READS: dict[str, tuple[Wrong, str]] = {
    "a reply to an unknown seqnum": (instead(lambda n: ret_submit(n + 7)), r"a reply to #\d+, which is not in flight"),
    "a reply twice": (instead(lambda n: 2 * ret_submit(n, bytes(512))), r"a reply to #\d+, which is not in flight"),
    "a byte too many": (instead(lambda n: ret_submit(n, bytes(513))), "513 bytes done of a transfer of 512"),
    "2 GiB promised": (
        instead(lambda n: ret_submit(n, actual=0x7FFFFFFF)),
        "2147483647 bytes done of a transfer of 512",
    ),
    "a length below 0": (instead(lambda n: ret_submit(n, actual=0xFFFFFFFF)), "-1 bytes done of a transfer of 512"),
    "an unlink that was not asked for": (instead(ret_unlink), r"an unlink answered, #\d+, that was not asked for"),
    "a command": (instead(lambda n: b"\0\0\0\1" + bytes(44)), "command 0x1, known are RET_SUBMIT 3 and RET_UNLINK 4"),
    "garbage": (instead(lambda n: b"\xff" * 48), "command 0xffffffff, known are RET_SUBMIT 3 and RET_UNLINK 4"),
}
# What it does once a read has been cancelled.
CANCELLED: dict[str, tuple[Wrong, str]] = {
    "replies after the unlink": (answers_twice_after_the_unlink, r"a reply to #\d+, which is not in flight"),
    "an unlink answered twice": (answers_the_unlink_twice, r"an unlink answered, #\d+, that was not asked for"),
}


@asynccontextmanager
async def used(wrong: Wrong) -> AsyncIterator[aio.Handle]:
    """A device whose server does something wrong with the first transfer behind the descriptors."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer, table = Peer(reader, writer), descriptors()
        await peer.imported()
        while (submit := await header(peer)).ep == 0:
            setup = Setup.parse(submit.setup)
            answer = table.get((setup.value >> 8, setup.value & 0xFF), b"")
            peer.writer.write(ret_submit(submit.seqnum, answer[: setup.length]))
        await wrong(peer, submit)

    async with bad_server(script) as server, await aio.open(f"{server}/1-1") as device:
        yield device


async def reason(device: aio.Handle, use: Awaitable[object]) -> str:
    """Why the device went, which is what all are told who had something under way, and who come later."""
    first, parked = await asyncio.gather(use, device.read(PARKED, 64), return_exceptions=True)
    with pytest.raises(aio.DeviceGone) as later:
        await device.read(0x81, 8)
    told = await device.wait_gone()
    assert "\n" not in told
    assert isinstance(parked, aio.DeviceGone)
    assert str(parked).endswith(f": the device is gone: {told}")
    assert str(later.value).endswith(f": the device is gone: {told}")
    assert not isinstance(first, Exception) or isinstance(first, aio.DeviceGone | aio.TimedOut | aio.Stalled), first
    return told


@pytest.mark.parametrize("case", [*READS, *CANCELLED])
async def test_a_server_that_breaks_the_protocol(case: str, caplog: pytest.LogCaptureFixture) -> None:
    wrong, text = {**READS, **CANCELLED}[case]
    async with used(wrong) as device:
        told = await reason(device, device.read(0x81, 512, timeout=0.02 if case in CANCELLED else None))
    assert re.fullmatch(f"it broke usbip: {text}", told)
    [line] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert re.fullmatch(rf"127\.0\.0\.1:\d+: {re.escape(told)}", line)


@pytest.mark.parametrize("status", [0, -32])
async def test_data_for_out(status: int) -> None:
    """Whatever its reply says, no data follows it: what does is the next message, and none."""

    async def wrong(peer: Peer, submit: CmdSubmit) -> None:
        await peer.reader.readexactly(submit.length)
        peer.writer.write(ret_submit(submit.seqnum, b"y" * 512, status=status))

    async with used(wrong) as device:
        told = await reason(device, device.write(0x01, b"x" * 512))
    assert told == "it broke usbip: command 0x79797979, known are RET_SUBMIT 3 and RET_UNLINK 4"


async def test_more_done_of_out_than_was_sent() -> None:
    async def wrong(peer: Peer, submit: CmdSubmit) -> None:
        await peer.reader.readexactly(submit.length)
        peer.writer.write(ret_submit(submit.seqnum, actual=513))

    async with used(wrong) as device:
        told = await reason(device, device.write(0x01, b"x" * 512))
    assert told == "it broke usbip: 513 bytes done of a transfer of 512"


async def test_a_connection_closed_in_the_middle_of_a_reply() -> None:
    async with used(closes_in_the_middle) as device:
        assert await reason(device, device.read(0x81, 512)) == "the connection was closed"


# -- silence ----------------------------------------------------------------------------------------------------------


async def test_a_server_that_answers_neither_a_transfer_nor_its_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller is told in time; the device stays open, and what comes late harms nothing."""
    monkeypatch.setattr(aio, "CANCEL_SECONDS", 0.02)
    late = asyncio.Event()

    async def wrong(peer: Peer, submit: CmdSubmit) -> None:
        unlink = await header(peer)
        await late.wait()
        peer.writer.write(ret_submit(submit.seqnum, bytes(512)) + ret_unlink(unlink.seqnum))
        submit = await header(peer)
        peer.writer.write(ret_submit(submit.seqnum, b"later"))

    async with used(wrong) as device:
        with pytest.raises(aio.TimedOut):
            await device.read(0x81, 512, timeout=0.02)
        late.set()
        assert await device.read(0x81, 512) == b"later"
        assert not device.is_gone


async def test_a_silent_server_does_not_hold_up_a_close() -> None:
    async def wrong(peer: Peer, submit: CmdSubmit) -> None:
        await peer.reader.read()

    async with used(wrong) as device:
        reading = asyncio.gather(device.read(0x81, 512), device.read(PARKED, 8), return_exceptions=True)
        await asyncio.sleep(0)
        async with asyncio.timeout(1):
            await device.close()
        assert [type(error) for error in await reading] == 2 * [aio.DeviceGone]


# -- memory -----------------------------------------------------------------------------------------------------------


def floods(first: bytes, then: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Says something, and then something else for ever."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(first)
        while True:
            writer.write(then * (65536 // len(then)))
            await writer.drain()

    return script


RECORD = bytes(256) + b"1-1".ljust(32, b"\0") + bytes(20) + b"\1\1\1\1"
FLOODS = {
    "a list without end": (bytes.fromhex("0111 0005 00000000 00001000"), RECORD + b"\3\0\0\0"),
    "a list of many interfaces": (bytes.fromhex("0111 0005 00000000 00001000"), RECORD[:-1] + b"\x20" + bytes(128)),
    "a refusal, and more": (bytes.fromhex("0111 0005 00000001"), b"more"),
    "an answer to nothing": (b"", bytes(48)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", FLOODS)
async def test_a_flood_takes_no_memory(case: str) -> None:
    """The largest list that is taken costs 1 to 3 KiB for each of its devices; what comes after it, a buffer."""
    first, then = FLOODS[case]
    async with bad_server(floods(first, then)) as server:
        tracemalloc.start()
        try:
            found = await asyncio.gather(RemoteSource(server).list(), return_exceptions=True)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert isinstance(found[0], DeviceError) if "list" not in case else len(found[0]) == 4096
    assert peak < 16 * MIB
