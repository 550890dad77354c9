"""`usbferry demo`: one process serves virtual devices, another uses them over TCP, and a person can watch.

The client here is not the kernel's but a plain program: it speaks USB mass storage and FAT by itself, without root.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import signal
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ..device import Claimant, Device, DeviceError, Source
from ..devices.storage import fat
from ..registry import open_source
from ..usb.info import DeviceInfo
from ..usb.transfer import Buffer, Completion, Transfer
from ..usb.types import Status
from . import fail, printable

if TYPE_CHECKING:
    from rich.console import Console

_START_SECONDS: Final = 15.0  # for the server to listen
_MEASURE_SECONDS: Final = 1.5  # each of the two directions
_ROUND_TRIPS: Final = 2000
_CHUNK: Final = 64 * 1024
_DEPTH: Final = 16  # transfers in flight
_BLOCK: Final = 512
_READ_BLOCKS: Final = 128  # at most, of one READ(10)

_README: Final = """\
Hello from a USB stick that does not exist.

These bytes are in a FAT file system on a virtual disk in one process.
Another process has just imported the disk over TCP as a USB device,
spoken SCSI to it, and read this file: no hardware, no root.
"""


@click.command()
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where to serve.  [default: this machine alone, a free port; with --stay port 3240]",
)
@click.option("--stay", is_flag=True, help="Keep serving at the end, until Ctrl-C.")
def command(listen: str | None, stay: bool) -> None:
    """See it work: a server process and a client process, virtual devices, no hardware, no root.

    The server exports a disk with files on it and the conformance device Gadget Zero. The client lists them, reads the
    files, and measures throughput and round trip. Takes some seconds.
    """
    try:
        asyncio.run(_demo(listen or ("127.0.0.1:3240" if stay else "127.0.0.1:0"), stay))
    except (DeviceError, ValueError, OSError) as error:
        fail(f"usbferry demo: {error}")


async def _demo(listen: str, stay: bool) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="usbferry-demo-") as folder:
        sums = _make_files(Path(folder))
        addresses = (f"virtual:disk?files={folder}&product=Demo%20disk", "virtual:zero")
        async with _server(addresses, listen) as where:
            console.print(f"[bold]1.[/bold] A server process shares two virtual USB devices on {where}.\n")
            console.print("     usbferry serve 'virtual:disk?files=FOLDER' virtual:zero")
            source = open_source(f"usbip://{where}")
            disk, zero = await _list(console, source)
            await _with_device(source, disk, lambda device: _read_files(console, device, sums))
            await _with_device(source, zero, lambda device: _measure(console, device))
            _attach_lines(console, where, stay)
            if stay:
                await _until_interrupted()


def _make_files(folder: Path) -> dict[str, str]:
    """Fill the folder that becomes the disk; the SHA-256 of each file by its path."""
    (folder / "README.TXT").write_text(_README)
    (folder / "data").mkdir()
    noise = b"".join(hashlib.sha256(i.to_bytes(4, "big")).digest() for i in range(1 << 15))
    (folder / "data" / "one mebibyte.bin").write_bytes(noise)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@asynccontextmanager
async def _server(addresses: tuple[str, ...], listen: str) -> AsyncIterator[str]:
    """A `usbferry serve` process; gives HOST:PORT. It is stopped at the end. Raises DeviceError with what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "usbferry", "serve", *addresses, "--listen", listen),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        where = await _listening(process)
        error: Exception | None = None
        async with asyncio.TaskGroup() as tasks:
            echo = tasks.create_task(_echo(process))  # unread, the pipe would fill and stop the server
            try:
                yield where
            except Exception as raised:
                error = raised  # to come out as it is, not in a group
            finally:
                echo.cancel()
        if error is not None:
            raise error
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def _echo(process: asyncio.subprocess.Process) -> None:
    """What the server says besides, such as who broke the protocol."""
    assert process.stderr is not None
    async for line in process.stderr:
        print(printable(line.decode(errors="replace").rstrip()), file=sys.stderr)


async def _listening(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    said = ""
    try:
        async with asyncio.timeout(_START_SECONDS):
            async for line in process.stderr:
                said = line.decode().strip()
                if said.startswith("listening on "):
                    return said.removeprefix("listening on ")
            # It ends. A signal sent now would reap it before asyncio does, which asyncio reports on the terminal.
            await process.wait()
    except TimeoutError:
        raise DeviceError(f"the server process did not listen within {_START_SECONDS:g} s") from None
    raise DeviceError(said.removeprefix("usbferry serve: "))


async def _list(console: Console, source: Source) -> tuple[DeviceInfo, DeviceInfo]:
    console.print("\n[bold]2.[/bold] This process, the client, asks over TCP what is there.\n")
    devices = await source.list()
    for info in devices:
        identity = info.ids
        console.print(f"     {info.name}  {identity}  {info.speed.label}")
    disk, zero = devices
    return disk, zero


async def _with_device(source: Source, info: DeviceInfo, use: Callable[[Device], Awaitable[None]]) -> None:
    device = await source.open(info.name, Claimant("local"))
    try:
        await use(device)
    finally:
        await device.close()


# -- the disk, as a host sees it --------------------------------------------------------------------------------------


async def _read_files(console: Console, device: Device, sums: dict[str, str]) -> None:
    console.print("\n[bold]3.[/bold] It imports the disk and reads its files: SCSI over USB over TCP.\n")
    host = _DiskHost(device)
    blocks = await host.capacity()
    console.print(f"     {blocks:,} blocks of {_BLOCK} bytes, {blocks * _BLOCK / 2**20:.0f} MiB")
    readme = b""
    for path, content in (await host.read_tree()).items():
        right = hashlib.sha256(content).hexdigest() == sums[path]
        console.print(f"     {path:24} {len(content):9,} bytes   checksum {'right' if right else '[red]WRONG[/red]'}")
        if not right:
            raise DeviceError(f"{path} was not read as it was written")
        if path == "README.TXT":
            readme = content
    console.print()
    for line in readme.decode().splitlines():
        console.print(f"     [dim]│[/dim] {line}")


class _DiskHost:
    """The host's half of USB Mass Storage Bulk-Only Transport 1.0, for reading alone."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._tag = 0
        endpoints = [e.address for i in device.info.interfaces for e in i.endpoints]
        self._in = next(address for address in endpoints if address & 0x80)
        self._out = next(address for address in endpoints if not address & 0x80)

    async def capacity(self) -> int:
        """The number of blocks, by READ CAPACITY(10)."""
        for _ in range(3):  # the first answer may be UNIT ATTENTION: the medium is new to us
            if await self._command(bytes(6), 0) is not None:
                break
            await self._command(struct.pack(">BxxxBx", 0x03, 18), 18)
        answer = await self._command(bytes([0x25]) + bytes(9), 8)
        if answer is None:
            raise DeviceError("the disk does not tell its size")
        last, _ = struct.unpack(">II", answer)
        return int(last) + 1

    async def read(self, lba: int, count: int) -> bytes:
        pieces = []
        for first in range(lba, lba + count, _READ_BLOCKS):
            blocks = min(_READ_BLOCKS, lba + count - first)
            piece = await self._command(struct.pack(">BxIxHx", 0x28, first, blocks), blocks * _BLOCK)
            if piece is None:
                raise DeviceError(f"the disk cannot read block {first}")
            pieces.append(piece)
        return b"".join(pieces)

    async def read_tree(self) -> dict[str, bytes]:
        """Every file of the FAT file system on the disk, by path."""
        walk = fat.read_tree()
        wanted = next(walk)
        try:
            while True:
                wanted = walk.send(await self.read(*wanted))
        except StopIteration as finished:
            files: dict[str, bytes] = finished.value
            return files

    async def _command(self, command: bytes, length: int) -> bytes | None:
        """One SCSI command with `length` bytes to us; None when the disk answers CHECK CONDITION."""
        self._tag += 1
        wrapper = struct.pack("<IIIBBB16s", 0x43425355, self._tag, length, 0x80, 0, len(command), command)
        device = self._device
        sent, got, status = await asyncio.gather(
            _done(device, Transfer(self._out, len(wrapper), wrapper)),
            _done(device, Transfer(self._in, length)) if length else _nothing(),
            _done(device, Transfer(self._in, 13)),
        )
        signature, tag, _, result = struct.unpack("<IIIB", status.data)
        if sent.status or signature != 0x53425355 or tag != self._tag:
            raise DeviceError("the disk's answer is no command status")
        return bytes(got.data) if result == 0 else None


async def _done(device: Device, transfer: Transfer) -> Completion:
    answer = device.submit(transfer)
    completion = await answer if isinstance(answer, asyncio.Future) else answer
    if completion.status != Status.OK:
        raise DeviceError(f"a transfer of {transfer.length} bytes ended with {Status(completion.status).name}")
    return completion


async def _nothing() -> Completion:
    return Completion()


# -- speed ------------------------------------------------------------------------------------------------------------


async def _measure(console: Console, device: Device) -> None:
    console.print("\n[bold]4.[/bold] It imports Gadget Zero, and measures.\n")
    times = []
    for _ in range(_ROUND_TRIPS):
        start = time.perf_counter()
        await _done(device, Transfer(0x81, 64))
        times.append(time.perf_counter() - start)
    into = await _throughput(console, device, "reading", 0x81, b"")
    out = await _throughput(console, device, "writing", 0x01, bytes(_CHUNK))
    console.print(f"     round trip of 64 bytes   {statistics.median(times) * 1e6:7,.0f} µs")
    console.print(f"     reading, 64 KiB each     {into / 1e6:7,.0f} MB/s")
    console.print(f"     writing, 64 KiB each     {out / 1e6:7,.0f} MB/s")


async def _throughput(console: Console, device: Device, what: str, endpoint: int, payload: Buffer) -> float:
    """Bytes per second, with 16 transfers of 64 KiB in flight. Shows progress on a terminal, and nothing elsewhere."""
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("     {task.description}"), BarColumn())
    start = time.perf_counter()
    moved = 0
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=_MEASURE_SECONDS)

        async def stream() -> None:
            nonlocal moved
            while (now := time.perf_counter()) < start + _MEASURE_SECONDS:
                await _done(device, Transfer(endpoint, _CHUNK, payload))
                moved += _CHUNK
                rate = moved / 1e6 / max(now - start, 1e-3)
                progress.update(task, completed=now - start, description=f"{what}, {rate:7,.0f} MB/s")

        await asyncio.gather(*[stream() for _ in range(_DEPTH)])
    return moved / (time.perf_counter() - start)


# -- and then ---------------------------------------------------------------------------------------------------------


def _attach_lines(console: Console, where: str, stay: bool) -> None:
    port = where.rpartition(":")[2] if stay else "3240"
    option = "" if port == "3240" else f" --tcp-port {port}"
    console.print("\n[bold]Done.[/bold] The same devices, in the kernel of another Linux machine:\n")
    again = f"{_program()} demo --stay --listen 0.0.0.0:3240"
    if not stay:
        console.print(f"     {again}    [dim]# here[/dim]")
    console.print(f"     {'sudo modprobe vhci-hcd':{len(again)}}    [dim]# there[/dim]")
    for busid in ("1-1", "1-2"):
        console.print(f"     sudo usbip{option} attach -r {socket.gethostname()} -b {busid}")


def _program() -> str:
    """How this program is typed here: `make demo` runs one that is not on the PATH."""
    path = Path(sys.argv[0])
    if path.name != "usbferry" or shutil.which("usbferry"):
        return "usbferry"
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


async def _until_interrupted() -> None:
    print("\nServing until Ctrl-C.", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
