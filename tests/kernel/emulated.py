"""QEMU's USB devices, and how a test knows that one works: by its driver in the guest's kernel and by its far side.

QEMU's serial port and smart card reader end in sockets of a folder on the host, where a test is the far side; its sound
card in a file, its network in QEMU itself. Which way the devices come to the kernel is the test's own matter.
"""

import asyncio
import hashlib
import os
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.kernel.guest import Guest, Step
from usbferry import aio
from usbferry.device import Device
from usbferry.local import sync
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion, IsoPacket, Transfer
from usbferry.usb.types import Status

NET = "10.0.7"  # of the adapter; QEMU is .2 there
DISK, AUDIO, SERIAL, CARDS, FILES, NETWORK = (
    "46f4:0001", "46f4:0002", "0403:6001", "08e6:4433", "46f4:0004", "0525:a4a2",
)  # fmt: skip
KEYBOARD, MOUSE, TABLET = "QEMU USB Keyboard", "QEMU USB Mouse", "QEMU USB Tablet"  # one vendor and product for all
EVENTS = "/usr/bin/python3 -I -S tests/kernel/events.py"
PLAYS = 6  # of a sound, before it counts as not heard
SLOWEST = 500_000  # bytes per second of a disk whose server or relay is emulated, on a busy machine
# The modules of their drivers, by name, for there is no udev in the guest.
MODULES = "usb-storage sd_mod usbhid hid-generic evdev ftdi_sio snd-usb-audio cdc_ether"


# -- through the kernel's drivers --------------------------------------------------------------------------------------


def driver_of(device: str) -> str:
    return f"/sys/bus/usb/devices/{device}:1.0/driver"


def disk_path(device: str) -> str:
    """Shell that waits for an attached disk and sets $disk."""
    folder = f"/sys/bus/usb/devices/{device}/*/host*/target*/*/block"
    there = '[ -e "$disk/size" ] && [ $(cat $disk/size) != 0 ]'
    wait = f"until disk=$(echo {folder}/sd*) && {there}; do sleep 0.05; done"
    return f"{wait}; disk=/dev/${{disk##*/}}\n"


def has_the_bytes(guest: Guest, device: str, image: Path) -> bool:
    limit = 60 + image.stat().st_size / SLOWEST
    read = guest.run(disk_path(device) + "sha256sum <$disk", limit).ok()
    return read.split()[0] == hashlib.sha256(image.read_bytes()).hexdigest()


def passes_bytes(guest: Guest, device: str, socket_file: Path) -> bool:
    """Both ways between the guest's port of QEMU's adapter and the host's socket."""
    there, back = os.urandom(2000), os.urandom(2000)
    (guest.shared / "there").write_bytes(there)
    with socket.socket(socket.AF_UNIX) as far:
        far.settimeout(20)
        far.connect(str(socket_file))
        step = guest.start(f"""
            until port=$(echo /sys/bus/usb/devices/{device}/*/ttyUSB*) && [ -e $port ]; do sleep 0.05; done
            exec 3<>/dev/${{port##*/}}
            stty -F /dev/${{port##*/}} 115200 raw -echo
            echo raw
            cat $SHARED/there >&3 &
            head -c {len(back)} <&3 >$SHARED/back
            wait
        """)
        said(step, "raw")
        far.sendall(back)
        got = b""
        while len(got) < len(there):
            got += far.recv(4096) or b"its end"
        step.wait().ok()
    return got == there and (guest.shared / "back").read_bytes() == back


def events(guest: Guest, step: Step, doings: Iterable[tuple[Callable[[], object], str]]) -> list[str]:
    """What the guest's input devices say of things that are done until it is heard of, one after the other."""
    said(step, "ready")
    for do, word in doings:
        deadline = time.monotonic() + 20
        while word not in step.output():
            assert time.monotonic() < deadline, f"no {word!r} in {step.output()}"
            do()
            time.sleep(0.2)
    return step.wait().ok().splitlines()


def plays_sound(guest: Guest, device: str, heard: Path, pieces: int = 1) -> bool:
    """ALSA plays on it, at full volume and so bit for bit; `heard` is QEMU's file, which lacks the last of it.

    A controller that keeps frames, as UHCI does, drops those that an emulated machine is late for: then it is played
    until each of some `pieces` was heard whole.
    """
    samples = b"".join(struct.pack("<hh", -i, i) for i in range(1, 48 * 300 + 1))
    (guest.shared / "sound").write_bytes(samples + bytes(48 * 4 * 100))
    size = len(samples) // pieces
    missing = {samples[at : at + size] for at in range(0, size * pieces, size)}
    for _ in range(PLAYS):
        guest.run(f"""
            card=$(cat /sys/bus/usb/devices/{device}:1.0/sound/card*/number)
            amixer -q -c $card sset 'Audio Output Volume Control' 256 &&
                aplay -q -D hw:$card,0 -t raw -f S16_LE -r 48000 -c 2 $SHARED/sound
        """).ok()
        deadline = time.monotonic() + 5
        while missing and time.monotonic() < deadline:
            written = heard.read_bytes()
            missing = {piece for piece in missing if piece not in written}
            time.sleep(0.05)
        if not missing:
            return True
    return False


def _was_heard(samples: bytes, heard: Path, limit: float = 20) -> bool:
    deadline = time.monotonic() + limit
    while samples not in heard.read_bytes():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def bring_network_up(guest: Guest, device: str) -> None:
    """The adapter has an address, and knows its neighbour's: QEMU has answered."""
    guest.run(f"""
        cd /sys/bus/usb/devices/{device}:?.0/net/* && interface=${{PWD##*/}}
        ip addr add {NET}.15/24 dev $interface && ip link set $interface up
        until ip neigh show dev $interface | grep "^{NET}.2 lladdr"; do
            echo >/dev/udp/{NET}.2/9
            sleep 0.2
        done
    """).ok()


def shows_its_card(guest: Guest, device: str, socket_file: Path) -> bool:
    """libccid, by way of pcscd and usbfs, finds a card that is put into the reader. The kernel has no driver for it."""
    bus = guest.run(f"cat /sys/bus/usb/devices/{device}/busnum /sys/bus/usb/devices/{device}/devnum")
    node = "/dev/bus/usb/{:03}/{:03}".format(*map(int, bus.ok().split()))
    with socket.socket(socket.AF_UNIX) as far:
        far.connect(str(socket_file))
        Card.put(far.sendall)
        step = guest.start("mkdir -p /run/pcscd; echo process $$; exec pcscd --foreground --debug", 90)
        found = " ".join(f"{byte:02X}" for byte in Card.ATR_BYTES)
        said(step, f"Card ATR: {found}", 60)
        guest.run(f"kill {step.output().split()[1]}").ok()
        step.wait()
    return node in step.output()


def said(step: Step, word: str, limit: float = 20) -> None:
    """Wait until a step in the guest has printed a word."""
    deadline = time.monotonic() + limit
    while word not in step.output():
        assert time.monotonic() < deadline, step.output()
        assert not step.is_over(), step.wait()
        time.sleep(0.02)


# -- far sides ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def far_side(path: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """The other end of one of QEMU's sockets."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


class Card:
    """A smart card that answers each command with another one's bytes, put into QEMU's reader over its socket.

    Source: QEMU docs/ccid.txt; libcacard vscard_common.h. Type, reader and length, big endian; then the body.
    """

    INIT, READER_ADD, ATR, APDU = 1, 3, 5, 7
    ATR_BYTES = bytes.fromhex("3b6800005573626665727279")  # T=0, eight historical bytes: "Usbferry"

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.put(writer.write)

    @classmethod
    def put(cls, write: Callable[[bytes], object]) -> None:
        """Put it into the reader: then it has an ATR."""
        write(cls._message(cls.INIT, b"VSCD" + struct.pack(">II", 2, 0)))
        write(cls._message(cls.READER_ADD, b"card"))
        write(cls._message(cls.ATR, cls.ATR_BYTES))

    @staticmethod
    def _message(kind: int, body: bytes) -> bytes:
        return struct.pack(">III", kind, 0, len(body)) + body

    async def serve(self, commands: Iterable[tuple[bytes, bytes]]) -> None:
        """Answer these commands, which must come in this order."""
        for command, answer in commands:
            while True:
                kind, _, length = struct.unpack(">III", await self._reader.readexactly(12))
                body = await self._reader.readexactly(length)
                if kind == self.APDU:
                    break
            assert body == command
            self._writer.write(self._message(self.APDU, answer))


# -- transfers of one's own --------------------------------------------------------------------------------------------


async def mtp(camera: aio.Handle, numbers: Iterator[int], code: int, *values: int) -> bytes:
    """One operation of a camera or phone: the data it brings.

    Source: USB Still Image Capture 1.0 §7 for the containers, ISO 15740 §10 for the operations.
    """
    number = next(numbers)
    request = struct.pack(f"<IHHI{len(values)}I", 12 + 4 * len(values), 1, code, number, *values)
    await camera.write(0x02, request, timeout=20)
    answer = await camera.read(0x81, 1 << 20, timeout=20)
    data = b""
    if answer[4:6] == b"\2\0":  # a data block comes before the response
        assert struct.unpack_from("<IHHI", answer) == (len(answer), 2, code, number)
        data, answer = answer[12:], await camera.read(0x81, 512, timeout=20)
    assert struct.unpack_from("<HHI", answer, 4) == (3, 0x2001, number)  # OK
    return data


async def has_neighbour(adapter: aio.Handle) -> bool:
    """Ask an adapter in its first configuration, CDC ECM, who has QEMU's address; whether QEMU answers."""
    mac, me, there = bytes.fromhex("525400123456"), bytes([10, 0, 7, 15]), bytes([10, 0, 7, 2])  # NET
    who_has = struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, me, bytes(6), there)
    await adapter.set_interface(1, 1)
    await adapter.write(0x02, b"\xff" * 6 + mac + b"\x08\x06" + who_has, timeout=20)
    frame = await adapter.read(0x82, 1514, timeout=20)
    is_ours = (frame[:6], frame[12:14]) == (mac, b"\x08\x06")
    return is_ours and (frame[20:22], frame[28:32]) == (b"\0\2", there)  # it is here


async def ended(answer: Completion | Awaitable[Completion]) -> Completion:
    if isinstance(answer, Completion):
        return answer
    async with asyncio.timeout(20):
        return await answer


async def control(device: Device, setup: Setup, data: bytes = b"") -> Completion:
    return await ended(device.submit(Transfer(0x80 if setup.is_in else 0, setup.length, data, setup.pack())))


async def scsi(device: Device, command: bytes, length: int, data: bytes = b"") -> bytes:
    """One command by Bulk-Only Transport, written here anew: what it read. Source: USB MSC BOT 1.0 §5."""
    block = struct.pack("<4sIIBBB16s", b"USBC", 7, length, 0 if data else 0x80, 0, len(command), command)
    assert (await ended(device.submit(Transfer(0x02, len(block), block)))).status == Status.OK
    moved = await ended(device.submit(Transfer(0x02, length, data) if data else Transfer(0x81, length)))
    assert moved.status == Status.OK
    status = await ended(device.submit(Transfer(0x81, 13)))
    assert bytes(status.data) == struct.pack("<4sIIB", b"USBS", 7, 0, 0)
    return bytes(moved.data)


def inquiry(device: Device) -> Awaitable[bytes]:
    return scsi(device, bytes([0x12, 0, 0, 0, 36, 0]), 36)


def whole_disk(disk: sync.Handle, size: int) -> bytes:
    """All `size` bytes that a disk has, by a synchronous program."""
    blocks, sector, read = 512, 512, bytearray()  # of one command; bytes
    for at in range(0, size // sector, blocks):
        command = struct.pack(">BBIBHB", 0x28, 0, at, 0, blocks, 0)
        disk.write(0x02, struct.pack("<4sIIBBB16s", b"USBC", at, blocks * sector, 0x80, 0, 10, command), timeout=20)
        read += disk.read(0x81, blocks * sector, timeout=20)
        assert disk.read(0x81, 13, timeout=20) == struct.pack("<4sIIB", b"USBS", at, 0, 0)
    return bytes(read)


async def carries_bytes(port: aio.Handle, socket_file: Path) -> bool:
    """QEMU's adapter, both ways: an FTDI chip's, each packet of 64 bytes that it gives begins with two of status."""
    there, back = os.urandom(2000), os.urandom(2000)
    async with far_side(socket_file) as (reader, writer):
        await port.control(0x40, 0x00)  # reset
        await port.control(0x40, 0x01, 0x0101)  # DTR
        assert await port.write(0x02, there, timeout=20) == len(there)
        came = await asyncio.wait_for(reader.readexactly(len(there)), 20)
        writer.write(back)
        got = b""
        while len(got) < len(back):
            packets = await port.read(0x81, 512, timeout=20)
            got += b"".join(packets[at + 2 : at + 64] for at in range(0, len(packets), 64))
    return (came, got) == (there, back)


async def play(speaker: aio.Handle) -> bytes:
    """Play half a second, each sample another one, and silence, for QEMU keeps the last for itself; the samples."""
    size, packets = 192, 8  # bytes of a millisecond; packets of a transfer
    samples = b"".join(struct.pack("<hh", i, -i) for i in range(1, 48 * packets * 60))
    data = samples + bytes(-len(samples) % (size * packets) + 40 * size * packets)
    for channel in (1, 2):
        await speaker.control(0x21, 0x01, 0x0200 | channel, 0x0200, struct.pack("<H", 0x0800))  # SET_CUR: full volume
    await speaker.set_interface(1, 1)
    flying, results = deque[Awaitable[Completion]](), []
    for at in range(0, len(data), size * packets):
        each = [IsoPacket(n * size, size) for n in range(packets)]
        flying.append(speaker.submit(Transfer(0x01, size * packets, data[at : at + size * packets], packets=each)))
        if len(flying) > 8:
            results.append(await ended(flying.popleft()))
    results += [await ended(answer) for answer in flying]
    assert {(r.status, r.actual, r.error_count) for r in results} == {(Status.OK, size * packets, 0)}
    await speaker.set_interface(1, 0)
    return samples


async def is_heard(speaker: aio.Handle, heard: Path) -> bool:
    """Whether QEMU's file has all that is played, bit for bit."""
    return await asyncio.to_thread(_was_heard, await play(speaker), heard)


def heard_frames(path: Path, since: int) -> list[tuple[int, int]]:
    """What QEMU's file has from byte `since` on, left and right of each sample, without the silence."""
    raw = path.read_bytes()[since:]
    return [frame for frame in struct.iter_unpack("<hh", raw[: len(raw) & ~3]) if any(frame)]
