"""One exchange for each virtual device, by which its own data goes through a path: what its driver would do, once.

An exchange asserts what came. It has a folder, which the device's options may name too, for what is seen outside.
The bytes are those of the devices' specifications, written here anew.
"""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

from tests.conformance.hosts import PATIENCE, Host, Ours

PAYLOAD = bytes(i * 7 & 0xFF for i in range(4096))
FRAME = bytes.fromhex("02005e100001 02005e100002 88b5") + PAYLOAD[:100]  # to, from, a type for experiments
NOTE = bytes.fromhex("90 3c 40 80 3c 00")  # one of a piano


def content(path: Path) -> bytes:
    """Of a file that is perhaps not made yet."""
    return path.read_bytes() if path.exists() else b""


# -- disks -------------------------------------------------------------------------------------------------------------


async def blocks(host: Host, folder: Path, out: int = 0x02, back: int = 0x81) -> None:
    """blocks written, and read again: Bulk-Only Transport"""
    for tag, command in ((1, "2a 00 00000007 00 0008 00"), (2, "28 00 00000007 00 0008 00")):
        is_in = tag == 2
        length, raw = len(PAYLOAD), bytes.fromhex(command)
        head = struct.pack("<4sIIBBB16s", b"USBC", tag, length, is_in << 7, 0, len(raw), raw)
        assert await host.write(out, head) == len(head)
        if is_in:
            assert await host.read(back, length) == PAYLOAD
        else:
            assert await host.write(out, PAYLOAD) == length
        assert await host.read(back, 13) == struct.pack("<4sIIB", b"USBS", tag, 0, 0)


async def uas(host: Host, folder: Path) -> None:
    """blocks written, and read again: UAS, by turns"""
    await host.set_interface(0, 1)
    await _uas(host, 1, bytes.fromhex("2a 00 00000007 00 0008 00"), PAYLOAD)
    assert await _uas(host, 2, bytes.fromhex("28 00 00000007 00 0008 00"), len(PAYLOAD)) == PAYLOAD


async def _uas(host: Host, tag: int, command: bytes, moved: bytes | int) -> bytes:
    await host.write(0x04, struct.pack(">BxH12x16s", 1, tag, command))
    ready = 6 if isinstance(moved, int) else 7
    assert await host.read(0x83, 128) == struct.pack(">BxH", ready, tag)
    if isinstance(moved, int):
        data = await host.read(0x81, moved)
    else:
        data = b""
        assert await host.write(0x02, moved) == len(moved)
    assert await host.read(0x83, 128) == struct.pack(">BxH12x", 3, tag)
    return data


async def uas_streams(host: Host, folder: Path) -> None:
    """two commands at a time, answered in the other order: UAS, by bulk streams"""
    from usbferry.usb.transfer import Completion, Transfer

    assert isinstance(host, Ours)
    await host.set_interface(0, 1)
    granted = host.device.alloc_streams((0x81, 0x02, 0x83), 16)
    assert (granted if isinstance(granted, Completion) else await granted).status == 0
    for number in (0, 1):
        await host.write(0x04, struct.pack(">BxH12x16s", 1, 1 + number, struct.pack(">BxIBHx", 0x2A, 8 * number, 0, 8)))
    for number in (1, 0):
        data = PAYLOAD[number:] + PAYLOAD[:number]
        stream = 1 + number
        assert (await host.submit(Transfer(0x02, len(data), data, stream_id=stream))).actual == len(data)
        ended = await host.submit(Transfer(0x83, 128, stream_id=stream))
        assert bytes(ended.data) == struct.pack(">BxH12x", 3, stream)
    await host.write(0x04, struct.pack(">BxH12x16s", 1, 9, bytes.fromhex("28 00 00000008 00 0008 00")))
    read = await host.submit(Transfer(0x81, 4096, stream_id=9))
    assert bytes(read.data) == PAYLOAD[1:] + PAYLOAD[:1]


# -- input -------------------------------------------------------------------------------------------------------------


async def keys(host: Host, folder: Path) -> None:
    """ "aB" typed, and the lights set"""
    reports = [(await host.read(0x81, 8)).hex() for _ in range(4)]
    assert reports == ["0000040000000000", "0000000000000000", "0200050000000000", "0000000000000000"]
    await host.control(0x21, 9, 0x0200, 0, b"\x02")
    assert await host.control(0xA1, 1, 0x0200, 0, 1) == b"\x02"


def reports(length: int, *expected: str):
    """What lines of a pipe come to, as far as it is said here: a touch screen also tells the time."""

    async def exchange(host: Host, folder: Path) -> None:
        got = [(await host.read(0x81, length)).hex(" ") for _ in expected]
        assert [report[: len(all_of_it)] for report, all_of_it in zip(got, expected, strict=True)] == list(expected)

    exchange.__doc__ = "what it reports of these lines"
    return exchange


# -- bytes -------------------------------------------------------------------------------------------------------------


async def serial(host: Host, folder: Path) -> None:
    """the line's settings, and an echo"""
    coding = struct.pack("<IBBB", 115200, 0, 0, 8)
    await host.control(0x21, 0x20, 0, 0, coding)
    assert await host.control(0xA1, 0x21, 0, 0, 7) == coding
    await host.control(0x21, 0x22, 3, 0)
    await echo(host, PAYLOAD)


async def midi(host: Host, folder: Path) -> None:
    """a note, and its echo"""
    await echo(host, bytes.fromhex("09 903c40 08 803c00"))


async def media(host: Host, folder: Path) -> None:
    """a file sent, and copied back: MTP"""
    root, ok = 0xFFFF_FFFF, 0x2001
    info = struct.pack("<IHHI40x", 0, 0x3000, 0, len(PAYLOAD)) + b"\x02a\0\0\0" + bytes(3)  # "a", and no times
    assert await _mtp(host, 1, 0x1002, (1,)) == (ok, b"")
    assert await _mtp(host, 2, 0x100C, (0, root), info) == (ok, b"")
    assert await _mtp(host, 3, 0x100D, (), PAYLOAD) == (ok, b"")
    assert await _mtp(host, 4, 0x1009, (1,)) == (ok, PAYLOAD)


async def _mtp(
    host: Host, number: int, code: int, values: tuple[int, ...], sent: bytes | None = None
) -> tuple[int, bytes]:
    """An operation: the code of its response, and its data."""
    await host.write(0x01, struct.pack(f"<IHHI{len(values)}I", 12 + 4 * len(values), 1, code, number, *values))
    if sent is not None:
        await host.write(0x01, struct.pack("<IHHI", 12 + len(sent), 2, code, number) + sent)
    got = await host.read(0x82, 8192)
    response = got if got[4] == 3 else await host.read(0x82, 512)
    assert struct.unpack_from("<IH2xI", response) == (len(response), 3, number)
    return int.from_bytes(response[6:8], "little"), b"" if response is got else got[12:]


async def echo(host: Host, data: bytes, out: int = 0x01, back: int = 0x81) -> None:
    assert await host.write(out, data) == len(data)
    got = b""
    while len(got) < len(data):
        got += await host.read(back, 512)
    assert got == data


async def ftdi(host: Host, folder: Path) -> None:
    """a baud rate, and an echo, each packet of it behind two bytes of status"""
    await host.control(0x40, 0x03, 0x001A, 0)
    await host.control(0x40, 0x09, 255, 0)  # a read is answered after so many ms
    assert await host.control(0xC0, 0x0A, 0, 0, 1) == b"\xff"
    assert await host.write(0x02, PAYLOAD[:500]) == 500
    got = b""
    while len(got) < 500:
        raw = await host.read(0x81, 512)
        got += b"".join(raw[at + 2 : at + 64] for at in range(0, len(raw), 64))
    assert got == PAYLOAD[:500]


async def prints(host: Host, folder: Path) -> None:
    """its device id, its status, and what is printed, in a file"""
    name = await host.control(0xA1, 0, 0, 0, 1023)
    assert int.from_bytes(name[:2], "big") == len(name)
    assert b"CMD:ESC/POS;" in name
    assert await host.control(0xA1, 1, 0, 0, 1) == b"\x18"
    assert await host.write(0x01, PAYLOAD) == len(PAYLOAD)
    async with asyncio.timeout(PATIENCE):
        while content(folder / "paper") != PAYLOAD:  # noqa: ASYNC110  (a thread writes it, and tells nobody)
            await asyncio.sleep(0.005)


async def question(host: Host, folder: Path) -> None:
    """*IDN? asked, and answered"""
    await host.write(0x01, bytes.fromhex("01 01 fe 00 05000000 01 000000") + b"*IDN?\0\0\0")
    await host.write(0x01, bytes.fromhex("02 02 fd 00 00040000 00 000000"))
    text = b"usbferry,Oscilloscope,US00000001,1.0\n"
    answer = await host.read(0x82, 1024)
    assert answer[:12] == bytes.fromhex("02 02 fd 00") + struct.pack("<IBxxx", len(text), 1)
    assert answer[12:].rstrip(b"\0") == text


async def firmware(host: Host, folder: Path) -> None:
    """downloaded in blocks, and uploaded again: DFU"""
    for number, at in enumerate((0, 1024, 2048, 3072)):
        await host.control(0x21, 1, number, 0, PAYLOAD[at : at + 1024])
        assert (await host.control(0xA1, 3, 0, 0, 6))[4] == 5  # dfuDNLOAD-IDLE
    await host.control(0x21, 1, 4, 0)
    async with asyncio.timeout(PATIENCE):
        while (await host.control(0xA1, 3, 0, 0, 6))[4] != 2:  # noqa: ASYNC110  (dfuIDLE; nobody tells)
            await asyncio.sleep(0.005)
    assert b"".join([await host.control(0xA1, 2, number, 0, 1024) for number in range(4)]) == PAYLOAD


async def frames(host: Host, folder: Path) -> None:
    """the cable is told to be in, and a frame comes back: CDC-ECM"""
    await _cable(host)
    await echo(host, FRAME)


async def ncm_frames(host: Host, folder: Path) -> None:
    """the cable is told to be in, and two frames come back in a block: CDC-NCM"""
    await _cable(host)
    size = 0x30 + 2 * len(FRAME)  # the header, the table, and behind it the frames
    table = struct.pack("<4sHHHHHHHH", b"NCM0", 20, 0, 0x30, len(FRAME), 0x30 + len(FRAME), len(FRAME), 0, 0)
    block = (struct.pack("<4sHHHH", b"NCMH", 12, 0, size, 12) + table).ljust(0x30, b"\0") + 2 * FRAME
    assert await host.write(0x01, block) == size
    got: list[bytes] = []
    while len(got) < 2:
        back = await host.read(0x81, 16384)
        at = int.from_bytes(back[10:12], "little") + 8
        for start, length in struct.iter_unpack("<HH", back[at : at + len(back[at:]) // 4 * 4]):
            if not length:
                break
            got.append(back[start : start + length])
    assert got == [FRAME, FRAME]


async def _cable(host: Host) -> None:
    """NETWORK_CONNECTION and CONNECTION_SPEED_CHANGE, once the data interface is in use."""
    await host.set_interface(1, 1)
    told = {(await host.read(0x82, 16))[1]: True for _ in range(2)}
    assert told == {0x00: True, 0x2A: True}


# -- keys and cards ----------------------------------------------------------------------------------------------------


async def security_key(host: Host, folder: Path) -> None:
    """a channel, a ping of two packets, and what it can: CTAPHID"""
    nonce = b"12345678"
    reply = await _ctaphid(host, b"\xff\xff\xff\xff", 0x06, nonce)
    assert (reply[:8], len(reply)) == (nonce, 17)
    channel = reply[8:12]
    assert await _ctaphid(host, channel, 0x01, PAYLOAD[:100]) == PAYLOAD[:100]
    can = await _ctaphid(host, channel, 0x10, b"\x04")  # authenticatorGetInfo
    assert can[0] == 0
    assert b"FIDO_2_0" in can


async def _ctaphid(host: Host, channel: bytes, command: int, data: bytes) -> bytes:
    """A message there, and one back: CTAP 2.1 §11.2.4."""
    packets = [struct.pack(">BH", 0x80 | command, len(data)) + data[:57]]
    packets += [bytes([number]) + data[at : at + 59] for number, at in enumerate(range(57, len(data), 59))]
    for packet in packets:
        assert await host.write(0x01, (channel + packet).ljust(64, b"\0")) == 64
    head = await host.read(0x81, 64)
    assert head[:5] == channel + bytes([0x80 | command])
    size, got, number = int.from_bytes(head[5:7], "big"), head[7:], 0
    while len(got) < size:
        packet = await host.read(0x81, 64)
        assert packet[:5] == channel + bytes([number])
        got, number = got + packet[5:], number + 1
    return got[:size]


async def smartcard(host: Host, folder: Path) -> None:
    """the card switched on, its answer to reset, and an APDU answered: CCID"""
    steps = (
        ("62 00000000 00 01 000000", "80 0c000000 00 01 000000 3b8801 75736266 65727279 97"),
        ("6f 05000000 00 02 000000 00a4000c00", "80 02000000 00 02 000000 9000"),  # SELECT the card's own folder
    )
    for sent, expected in steps:
        await host.write(0x01, bytes.fromhex(sent))
        assert await host.read(0x82, 271) == bytes.fromhex(expected)


# -- several ---------------------------------------------------------------------------------------------------------


async def dock(host: Host, folder: Path) -> None:
    """what a keyboard, a serial port and a disk do each"""
    await keys(host, folder)
    await echo(host, PAYLOAD, 0x01, 0x83)
    await blocks(host, folder, 0x02, 0x84)


# -- for tests ---------------------------------------------------------------------------------------------------------


async def everything(host: Host, folder: Path) -> None:
    """control, bulk, interrupt and isochronous transfers both ways, and a loopback"""
    await host.set_interface(0, 1)
    await host.control(0x40, 0x5B, 0, 0, PAYLOAD)
    assert await host.control(0xC0, 0x5C, 0, 0, len(PAYLOAD)) == PAYLOAD
    for out, back in ((0x01, 0x81), (0x04, 0x84)):
        assert await host.write(out, PAYLOAD) == len(PAYLOAD)
        assert await host.read(back, len(PAYLOAD)) == bytes(len(PAYLOAD))
    sent = [PAYLOAD[n : n + 1024] for n in range(8)]
    assert sum(actual for _, actual in await host.write_packets(0x03, sent)) == 8 * 1024
    assert b"".join(data for _, data in await host.read_packets(0x83, 8 * [1024])) == bytes(8 * 1024)
    assert await host.write(0x02, PAYLOAD) == len(PAYLOAD)
    assert await host.read(0x82, len(PAYLOAD)) == PAYLOAD


async def loop(host: Host, folder: Path) -> None:
    """an echo, whatever it says of itself"""
    await echo(host, PAYLOAD[:512])


async def loops(host: Host, folder: Path) -> None:
    """fifteen echoes, all written to before any is read"""
    for number in range(1, 16):
        await host.write(number, PAYLOAD[number : number + 100])
    for number in range(15, 0, -1):
        assert await host.read(0x80 | number, 512) == PAYLOAD[number : number + 100]


async def configurations(host: Host, folder: Path) -> None:
    """which configuration it is in, in its own words"""
    assert await host.read(0x81, 64) == b"configuration 1, interface 0\n"
