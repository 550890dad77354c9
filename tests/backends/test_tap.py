"""`tap:`: what passes is recorded whole, by Wireshark's own reading, and nothing that passes is changed by it."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest

from tests.devices.host import ask, read, turn, write
from usbferry import aio
from usbferry.backends.capture import pcapng, tape, writer
from usbferry.backends.capture.events import Event
from usbferry.backends.tap import PIECE, TapSource
from usbferry.device import Busy, Claimant, DeviceError, NotFound
from usbferry.registry import open_source
from usbferry.usb import build
from usbferry.usb.setup import get_descriptor
from usbferry.usb.types import Speed, Status, TransferType

ME = Claimant("local")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "session.pcapng"


def events(file: Path) -> list[Event]:
    [(found, speed)] = tape.read(file).values()
    assert speed is Speed.HIGH
    return found


def tshark(file: Path, *words: str) -> list[list[str]]:
    """The values of fields, or what a filter finds, as Wireshark reads the file."""
    if not shutil.which("tshark"):
        pytest.skip("needs tshark")
    command = ["tshark", "-n", "-r", str(file), *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return [line.split("\t") for line in done.stdout.splitlines()]


async def converse(file: Path) -> None:
    """One of every kind of transfer, and of their ends."""
    async with await aio.open(f"tap:{file}?of=virtual:zero") as device:
        await device.write(0x02, b"abc")
        assert await device.read(0x82, 64) == b"abc"
        await device.set_interface(0, 1)
        assert len(await device.read_packets(0x83, [512] * 4)) == 4
        await device.write_packets(0x03, [b"1" * 100, b"", b"3" * 200])
        await device.read(0x84, 64)
        await device.write(0x04, bytes(64))
        with pytest.raises(aio.Stalled):
            await device.control(0xC0, 0x77, 1, 2, 3)
        await device.control(0x40, 0x5B, 0, 0, b"kept")
        assert await device.control(0xC0, 0x5C, 0, 0, 64) == b"kept"
        with pytest.raises(aio.TimedOut):
            await device.read(0x82, 64, timeout=0.01)


@pytest.mark.slow
async def test_wireshark_reads_all_of_it(file: Path) -> None:
    """Numbers of types: 0 isochronous, 1 interrupt, 2 control, 3 bulk."""
    await converse(file)
    names = ["usb.urb_type", "usb.transfer_type", "usb.endpoint_address", "usb.urb_status", "usb.urb_len"]
    rows = tshark(file, "-T", "fields", *[word for name in names for word in ("-e", name)])
    ends = [(int(t, 16), e, int(s), int(n)) for kind, t, e, s, n in rows if kind in ("'C'", "C", "67")]
    assert len(rows) == 2 * len(ends)
    for row in [
        (3, "0x02", 0, 3),
        (3, "0x82", 0, 3),
        (0, "0x83", 0, 2048),
        (0, "0x03", 0, 300),
        (1, "0x84", 0, 64),
        (1, "0x04", 0, 64),
        (2, "0x80", -32, 0),
        (2, "0x00", 0, 4),
        (2, "0x80", 0, 4),
        (3, "0x82", -104, 0),
    ]:
        assert row in ends
    assert tshark(file, "-Y", "_ws.malformed || _ws.expert.severity == error") == []
    assert tshark(file, "-Y", "usb.bString", "-T", "fields", "-e", "usb.bString")[1] == ["Gadget Zero"]
    [lengths] = tshark(
        file, "-Y", "usb.urb_type == 'C' && usb.endpoint_address == 3", "-T", "fields", "-e", "usb.iso.iso_len"
    )
    assert lengths[0] in ("0,0,0", "100,0,200")


async def test_it_says_what_the_device_is_and_what_passed(file: Path) -> None:
    await converse(file)
    found = events(file)
    device = open_source("virtual:zero")
    [info] = await device.list()
    first = [event for event in found if event.is_end][:2]
    assert [bytes(event.data) for event in first] == [
        build.device(info.device),
        build.configuration(info.configurations[0]),
    ]
    kinds = {event.type for event in found}
    assert kinds == set(TransferType)
    sent = [e for e in found if e.type is TransferType.ISOCHRONOUS and not e.is_end and e.endpoint == 3]
    assert [[len(p.data) for p in e.packets] for e in sent] == [[100, 0, 200]]
    came = [e for e in found if e.type is TransferType.ISOCHRONOUS and e.is_end and e.endpoint == 0x83]
    assert [[bytes(p.data) for p in e.packets] for e in came] == [[bytes(512)] * 4]
    assert all(one.seconds <= other.seconds for one, other in pairwise(found))
    await device.close()


async def test_answers_are_the_devices_own(file: Path) -> None:
    """One that was at once stays at once, one that waits the device's own future, and a cancel goes through."""
    source = open_source(f"tap:{file}?of=virtual:zero")
    device = await source.open("", ME)
    assert ask(device, get_descriptor(1, length=18)).status == Status.OK
    waiting = device.submit(one := read(0x82, 64))
    assert not waiting.done()
    device.cancel(one)
    await turn()
    assert waiting.result().status == Status.CANCELLED
    assert device.submit(write(0x0F, b"x")).status == Status.STALL
    assert device.submit(read(0x81, 0)).status == Status.OK
    await device.close()
    await source.close()
    assert [e.status for e in events(file) if e.is_end][-3:] == [Status.CANCELLED, Status.STALL, Status.OK]


@pytest.mark.parametrize("size", [PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 100])
async def test_what_is_longer_than_a_record_may_be_is_several(file: Path, size: int) -> None:
    """Over 256 KiB Wireshark takes the file for broken. What ended early ends as libusb has it."""
    payload = os.urandom(size)
    async with await aio.open(f"tap:{file}?of=virtual:zero") as device:
        await device.write(0x02, payload)
        assert await device.read(0x82, 4 * PIECE) == payload
    ends = [e for e in events(file) if e.is_end and e.endpoint == 0x82]
    assert b"".join(e.data for e in ends) == payload
    assert len(ends) == 4
    whole = size // PIECE
    assert [e.status for e in ends] == [Status.OK] * (whole + 1) + [Status.CANCELLED] * (3 - whole)
    sent = [e for e in events(file) if not e.is_end and e.endpoint == 0x02]
    assert b"".join(e.data for e in sent) == payload
    assert max(e.length for e in sent) <= PIECE


async def test_many_isochronous_packets_are_several_records(file: Path) -> None:
    async with await aio.open(f"tap:{file}?of=virtual:zero") as device:
        await device.set_interface(0, 1)
        await device.write_packets(0x03, [bytes([n]) for n in range(200)])
    sent = [e for e in events(file) if e.type is TransferType.ISOCHRONOUS and not e.is_end]
    assert [len(e.packets) for e in sent] == [128, 72]
    assert b"".join(bytes(p.data) for e in sent for p in e.packets) == bytes(range(200))


async def test_later_claims_add_to_the_file_and_another_source_begins_anew(file: Path) -> None:
    source = open_source(f"tap:{file}?of=virtual:zero")
    for _ in range(2):
        device = await source.open("", ME)
        await device.close()
    await source.close()
    both = len(events(file))
    async with await aio.open(f"tap:{file}?of=virtual:zero"):
        pass
    assert both == 2 * len(events(file)) > 4


async def test_it_is_the_other_source_in_everything_else(file: Path) -> None:
    source = open_source(f"tap:{file}?of=virtual:zero?speed=full&serial=7")
    [info] = await source.list()
    assert (info.speed, info.serial) == (Speed.FULL, "7")
    assert source.at("") == source.address
    device = await source.open("", ME)
    with pytest.raises(Busy):
        await source.open("", ME)
    with pytest.raises(NotFound):
        await source.open("other", ME)
    assert (await device.reset()).value == "same"
    changes = source.watch()
    source._source.device.vanish("pulled")
    assert await device.gone == "pulled"
    assert (await anext(changes)).info is None
    assert ask(device, get_descriptor(1)).status == Status.GONE
    await device.close()
    await source.close()
    assert open_source(f"tap:{file}?of=usbip://host:3241/1-2").name == "1-2"
    buffered = open_source(f"tap:{file}?of=usbip://host/1-2?buffer=0.1")._source
    assert (buffered.name, buffered.buffer) == ("1-2", 0.1)


@pytest.mark.parametrize(
    "address",
    ["tap:", "tap:x", "tap:?of=virtual:zero", "tap:x?of=", "tap:x?to=virtual:zero", "tap:/no/such/x?of=virtual:zero"],
)
def test_an_address_that_makes_no_sense_says_why(address: str) -> None:
    with pytest.raises(ValueError, match="tap:") as caught:
        TapSource(address)
    assert "\n" not in str(caught.value)


# -- files that make trouble -------------------------------------------------------------------------------------------


async def test_what_is_no_capture_is_not_overwritten(tmp_path: Path) -> None:
    precious = tmp_path / "disk.img"
    source = open_source(f"tap:{precious}?of=virtual:zero")
    precious.write_bytes(b"precious")  # since then
    with pytest.raises(DeviceError, match="not overwritten"):
        await source.open("", ME)
    assert precious.read_bytes() == b"precious"
    device = await source._source.open("", ME)  # it was given back
    await device.close()
    await source.close()


async def test_two_do_not_record_to_one_file(file: Path) -> None:
    pytest.importorskip("fcntl")
    async with await aio.open(f"tap:{file}?of=virtual:zero") as device:
        with pytest.raises(DeviceError, match="is being recorded to already"):
            await aio.open(f"tap:{file}?of=virtual:mouse")
        await device.write(0x01, b"goes on")
    assert [bytes(e.data) for e in events(file) if e.endpoint == 0x01 and not e.is_end] == [b"goes on"]


def test_what_is_no_capture_is_told_before_a_program_runs(tmp_path: Path) -> None:
    precious = tmp_path / "prog.py"
    precious.write_text("raise SystemExit(7)")
    words = ["run", "--device", f"tap:{precious}?of=virtual:zero", "--", sys.executable, str(precious)]
    done = subprocess.run([sys.executable, "-m", "usbferry", *words], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("prog.py is there and no capture, and is not overwritten; name another\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_an_empty_file_a_capture_and_a_fifo_are_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "capture").write_bytes(pcapng.section("test"))
    os.mkfifo(tmp_path / "fifo")
    for name in ("empty", "capture", "fifo"):
        assert open_source(f"tap:{tmp_path / name}?of=virtual:zero").path == tmp_path / name


async def test_a_file_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    source = open_source(f"tap:{tmp_path / 'x' / 'y'}?of=virtual:zero")
    (tmp_path / "x").rmdir()
    with pytest.raises(DeviceError, match="cannot be recorded to: No such file"):
        await source.open("", ME)
    await source.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
async def test_a_full_disk_ends_the_recording_and_not_the_device(caplog: pytest.LogCaptureFixture) -> None:
    async with await aio.open("tap:/dev/full?of=virtual:zero") as device:
        for _ in range(50):
            await device.write(0x01, bytes(512))
    assert [r.message for r in caplog.records] == [
        "/dev/full: No space left on device; the recording ends here, the device goes on"
    ]


def test_a_disk_that_takes_a_part_gets_the_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Reluctant(io.BytesIO):
        taken: ClassVar = bytearray()

        def write(self, piece: memoryview) -> int:
            self.taken += piece[:3]
            return min(3, len(piece))

    monkeypatch.setattr(writer, "_opened", lambda path: Reluctant())
    one = writer.Writer(tmp_path / "x.pcapng")
    one.write(b"a block of a capture")
    one.close()
    assert Reluctant.taken == b"a block of a capture"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
@pytest.mark.parametrize(
    ("reads", "said"),
    [
        (False, "nobody reads it; the recording ends here, the device goes on"),
        (True, "Broken pipe; the recording ends here, the device goes on"),
    ],
)
async def test_a_fifo_that_nobody_reads_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reads: bool, said: str
) -> None:
    """Neither one that never had a reader, nor one whose reader went; more is recorded than a FIFO holds."""
    monkeypatch.setattr(writer, "_READER_SECONDS", 60.0)
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK) if reads else None
    async with await aio.open(f"tap:{tmp_path / 'fifo'}?of=virtual:zero") as device:
        for _ in range(8):
            await device.write(0x01, bytes(64 << 10))
        if reader is not None:
            os.close(reader)
    assert [record.message for record in caplog.records] == [f"{tmp_path / 'fifo'}: {said}"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
async def test_a_reader_that_takes_nothing_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "_READER_SECONDS", 0.1)
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    async with await aio.open(f"tap:{tmp_path / 'fifo'}?of=virtual:zero") as device:
        for _ in range(8):
            await device.write(0x01, bytes(64 << 10))
    assert "takes nothing any more: the end of the recording is lost" in caplog.text
    os.close(reader)  # and so its thread ends


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
async def test_who_reads_a_fifo_later_has_it_from_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    async with await aio.open(f"tap:{tmp_path / 'fifo'}?of=virtual:zero") as device:
        await device.write(0x01, bytes(64 << 10))
        reading = asyncio.get_running_loop().run_in_executor(None, (tmp_path / "fifo").read_bytes)
        await device.write(0x01, bytes(64 << 10))
    (tmp_path / "got").write_bytes(await reading)
    assert len([e for e in events(tmp_path / "got") if e.endpoint == 1 and not e.is_end]) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
async def test_a_disk_that_is_too_slow_costs_packets_and_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A FIFO that nobody reads for now is such a disk."""
    monkeypatch.setattr(writer, "MAX_WAITING", 1 << 20)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    source = open_source(f"tap:{fifo}?of=virtual:zero")
    device = await source.open("", ME)
    for _ in range(100):
        device.submit(write(0x01, bytes(64 << 10)))
    waiting = source._recording.writer
    assert waiting._bytes <= 1 << 20
    assert 60 < waiting.dropped < 100
    with os.fdopen(reader, "rb") as far:
        reading = asyncio.get_running_loop().run_in_executor(None, far.read)
        await device.close()
        await source.close()
        got = await reading
    (tmp_path / "got").write_bytes(got)
    assert 0 < len([e for e in events(tmp_path / "got") if e.endpoint == 1 and not e.is_end]) < 40
    assert "packets are missing, the disk did not keep up" in caplog.text
