"""The other direction: our importer uses what the kernel's own server exports, ten devices that QEMU makes."""

import asyncio
import os
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.kernel.guest import Guest
from tests.kernel.steps import unexpected
from usbferry.backends import remote
from usbferry.backends.remote import RemoteSource
from usbferry.device import Busy, Claimant, Device, NotFound, ResetOutcome
from usbferry.usb import build
from usbferry.usb.setup import SET_INTERFACE, Setup
from usbferry.usb.transfer import Completion, IsoPacket, Transfer
from usbferry.usb.types import Speed, Status

PORT = 3240
DEVICES = 10  # not counting QEMU's hub, which it adds for more than its controller has ports
DISK, KEYBOARD, AUDIO = "46f4:0001", "QEMU USB Keyboard", "46f4:0002"

# The kernel says so at error level whenever an importer closes.
CLOSED = r"^usbip-host \S+: recv a header, 0$"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("devices")
    (folder / "disk").write_bytes(os.urandom(8 << 20))
    (folder / "mtp").mkdir()
    return folder


@pytest.fixture(scope="module")
def guest_options(files: Path) -> dict[str, Any]:
    return {
        "forward": [PORT],
        "devices": [
            "usb-storage,drive=disk", "usb-kbd,id=keyboard", "usb-mouse,id=mouse", "usb-tablet", "usb-wacom-tablet",
            "usb-audio,audiodev=audio", "usb-serial,chardev=null,always-plugged=on", "usb-net,netdev=usb", "usb-ccid",
            f"usb-mtp,rootdir={files / 'mtp'}",
        ],
        "qemu": [
            "-blockdev", f"raw,node-name=disk,file.driver=file,file.filename={files / 'disk'}",
            "-audiodev", f"wav,id=audio,path={files / 'wav'},out.frequency=48000",
            "-chardev", "null,id=null", "-netdev", "user,id=usb,restrict=on",
        ],
    }  # fmt: skip


class Known(NamedTuple):
    """A device as the exporting kernel's sysfs has it."""

    name: str
    speed: str
    vendor: str
    product: str
    texts: list[str]
    descriptors: bytes


@pytest.fixture(scope="module")
def known(guest: Guest) -> dict[str, Known]:
    """What the guest exports, by bus id."""
    guest.run("modprobe -a xhci_pci usbip-host && usbipd -D").ok()
    shown = guest.run(f"""
        cd /sys/bus/usb/devices
        devices() {{ grep -Lx 09 $(ls -d *-* | grep -v : | sed s,$,/bDeviceClass,) | cut -d/ -f1; }}  # 09: hubs
        until [ $(devices | wc -l) = {DEVICES} ]; do sleep 0.1; done
        for device in $(devices); do
            until [ -e $device:?.0 ]; do sleep 0.1; done  # configured
            cd $device
            echo $device $(cat speed idVendor idProduct) $(od -An -v -tx1 descriptors | tr -d ' \\n')
            cat manufacturer product serial
            cd ..
            usbip bind -b $device &>/dev/null || echo not bound
        done
        until usbip list -r 127.0.0.1 &>/dev/null; do sleep 0.1; done
    """).ok()
    lines = shown.splitlines()
    found = {}
    for at in range(0, len(lines), 4):
        name, speed, vendor, product, raw = lines[at].split()
        found[name] = Known(name, speed, vendor, product, lines[at + 1 : at + 4], bytes.fromhex(raw))
    assert len(found) == DEVICES, shown
    return found


@pytest.fixture
def source(guest: Guest, known: dict[str, Known]) -> RemoteSource:
    return RemoteSource(f"usbip://127.0.0.1:{guest.ports[PORT]}")


@asynccontextmanager
async def opened(source: RemoteSource, name: str) -> AsyncIterator[Device]:
    device = await source.open(name, Claimant("test"))
    try:
        yield device
    finally:
        await device.close()


def wait_until_it_has(path: Path, what: bytes, limit: float = 20) -> None:
    deadline = time.monotonic() + limit
    while what not in path.read_bytes():
        assert time.monotonic() < deadline, f"{path} lacks it"
        time.sleep(0.05)


def named(known: dict[str, Known], what: str) -> str:
    """The bus id of the device with this product name, or vendor and product number."""
    (name,) = [one.name for one in known.values() if what in (f"{one.vendor}:{one.product}", one.texts[1])]
    return name


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


async def test_every_device_is_listed(source, known):
    speeds = {"12": Speed.FULL, "480": Speed.HIGH, "5000": Speed.SUPER}
    listed = await source.list()
    assert {(i.name, f"{i.device.vendor_id:04x}", f"{i.device.product_id:04x}", i.speed) for i in listed} == {
        (one.name, one.vendor, one.product, speeds[one.speed]) for one in known.values()
    }
    assert len(listed) == DEVICES
    assert all(info.path.endswith("/" + info.name) for info in listed)


async def test_every_device_is_imported_and_its_descriptors_and_strings_read(source, known):
    for one in known.values():
        async with opened(source, one.name) as device:
            info = device.info
            built = build.device(info.device) + b"".join(build.configuration(c) for c in info.configurations)
            assert built == one.descriptors
            assert [info.manufacturer, info.product, info.serial] == one.texts
            assert info.active is not None


async def test_a_disk_is_asked_read_and_written_over_bulk(source, known, files):
    content = (files / "disk").read_bytes()
    written = os.urandom(128 * 1024)
    async with opened(source, named(known, DISK)) as device:
        assert (await inquiry(device))[8:32] == b"QEMU    QEMU HARDDISK   "
        capacity = await scsi(device, bytes([0x25, *bytes(9)]), 8)
        assert struct.unpack(">II", capacity) == ((8 << 20) // 512 - 1, 512)
        read = [
            await scsi(device, struct.pack(">BBIBHB", 0x28, 0, at, 0, 256, 0), 256 * 512) for at in range(0, 4096, 256)
        ]
        assert b"".join(read) == content[: 4096 * 512]
        await scsi(device, struct.pack(">BBIBHB", 0x2A, 0, 5000, 0, 256, 0), len(written), written)
        assert await scsi(device, struct.pack(">BBIBHB", 0x28, 0, 5000, 0, 256, 0), len(written)) == written
    assert (files / "disk").read_bytes() == content[: 5000 * 512] + written + content[5000 * 512 + len(written) :]


async def test_200_interrupt_reads_are_cancelled_and_a_key_still_arrives(guest, source, known, record):
    recorder = record(guest.ports[PORT])
    source = RemoteSource(f"usbip://127.0.0.1:{recorder.port}")
    async with opened(source, named(known, KEYBOARD)) as device:
        for _ in range(200):
            transfer = Transfer(0x81, 8)
            answer = device.submit(transfer)
            await asyncio.sleep(0)
            device.cancel(transfer)
            assert (await ended(answer)).status == Status.CANCELLED
        answer = device.submit(Transfer(0x81, 8))
        while not answer.done():
            await asyncio.to_thread(guest.monitor, "sendkey a")
            await asyncio.wait([answer], timeout=1)
        assert bytes((await answer).data) == bytes([0, 0, 4, 0, 0, 0, 0, 0])
    recorder.close()
    unlinked = [m.head.status for m in recorder.messages() if m.kind == "RET_UNLINK"]
    assert unlinked == [-104] * 200


async def test_what_is_pending_ends_when_the_device_is_closed(source, known):
    device = await source.open(named(known, KEYBOARD), Claimant("test"))
    answers = [device.submit(Transfer(0x81, 8)) for _ in range(10)]
    await device.close()
    assert [(await ended(answer)).status for answer in answers] == [Status.SHUTDOWN] * 10
    assert not device.gone.done()


async def test_a_held_device_is_busy_and_free_again_after_close(guest, source, known, monkeypatch):
    monkeypatch.setattr(remote, "BUSY_RETRIES", 1)
    name = named(known, DISK)
    async with opened(source, name) as device:
        with pytest.raises(Busy):
            await source.open(name, Claimant("another"))
        assert name not in {info.name for info in await source.list()}  # usbipd lists what is free
        assert (await inquiry(device))[8:12] == b"QEMU"
    for _ in range(5):  # at once: usbip-host resets the device after each, and says busy meanwhile
        async with opened(source, name) as device:
            assert (await inquiry(device))[8:12] == b"QEMU"
    status = f"until [ $(cat /sys/bus/usb/devices/{name}/usbip_status) = 1 ]; do sleep 0.05; done"  # available
    await asyncio.to_thread(lambda: guest.run(status, 10).ok())
    assert name in {info.name for info in await source.list()}


async def test_no_such_device(source):
    with pytest.raises(NotFound):
        await source.open("9-9", Claimant("test"))


async def test_a_reset_device_goes_on(source, known):
    async with opened(source, named(known, DISK)) as device:
        assert (await inquiry(device))[8:12] == b"QEMU"
        # In the middle of a command, which the reset makes the device forget.
        block = struct.pack("<4sIIBBB16s", b"USBC", 8, 36, 0x80, 0, 6, bytes([0x12, 0, 0, 0, 36, 0]))
        assert (await ended(device.submit(Transfer(0x02, len(block), block)))).status == Status.OK
        async with asyncio.timeout(20):
            assert await device.reset() is ResetOutcome.SAME
        assert (await inquiry(device))[8:12] == b"QEMU"


async def test_sound_is_played_isochronously(source, known, files):
    """QEMU writes down what it hears, and the samples are ours: half a second, each of them another one."""
    size, packets = 192, 8  # bytes of a millisecond; packets of a transfer
    samples = b"".join(struct.pack("<hh", i, -i) for i in range(1, 48 * packets * 60))
    data = samples + bytes(-len(samples) % (size * packets) + 40 * size * packets)  # QEMU keeps the last for itself
    async with opened(source, named(known, AUDIO)) as device:
        for channel in (1, 2):
            volume = Setup(0x21, 0x01, 0x0200 | channel, 0x0200, 2)  # SET_CUR of the feature unit
            assert (await control(device, volume, struct.pack("<H", 0x0800))).status == Status.OK  # full
        assert (await control(device, Setup(*SET_INTERFACE, 1, 1))).status == Status.OK
        flying, results = deque[Any](), []
        for at in range(0, len(data), size * packets):
            each = [IsoPacket(n * size, size) for n in range(packets)]
            flying.append(device.submit(Transfer(0x01, size * packets, data[at : at + size * packets], packets=each)))
            if len(flying) > 8:
                results.append(await ended(flying.popleft()))
        results += [await ended(answer) for answer in flying]
        assert {(r.status, r.actual, r.error_count) for r in results} == {(Status.OK, size * packets, 0)}
        assert (await control(device, Setup(*SET_INTERFACE, 0, 1))).status == Status.OK
    await asyncio.to_thread(wait_until_it_has, files / "wav", samples)


async def test_an_unplugged_device_is_gone(guest, source, known):
    async with opened(source, named(known, "QEMU USB Mouse")) as device:
        answer = device.submit(Transfer(0x81, 4))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(guest.monitor, "device_del mouse")
        async with asyncio.timeout(20):
            await device.gone
        assert (await ended(answer)).status in (Status.GONE, Status.SHUTDOWN)  # the kernel answers it with ESHUTDOWN
        assert (await ended(device.submit(Transfer(0x81, 4)))).status == Status.GONE


def test_the_exporting_kernel_said_no_more_than_it_has_to(guest):
    assert unexpected(guest, CLOSED) == []
