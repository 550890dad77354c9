"""What a kernel has already, from the files that it and the usbip tool keep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.local.kernel import Kernel as FileKernel
from usbferry.backends.virtual import VirtualSource
from usbferry.local import kernel, rules, vhci
from usbferry.local.keep import Keeper
from usbferry.local.kernel import Adopted, Kernel
from usbferry.local.rules import Rules
from usbferry.local.vhci import Record, Vhci
from usbferry.registry import load_exporter, open_source
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving

HEAD = "hub port sta spd dev      sockfd local_busid\n"
FREE_ROW = "hs  {:04} 004 000 00000000 000000 0-0\n"
USED_ROW = "hs  {:04} 006 003 {:08x} 000003 {}\n"


class Machine:
    """Ports 0 and 1 of a kernel, as files. What is written to `detach` takes the device away."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "sys/devices/platform/vhci_hcd.0"
        self.folder.mkdir(parents=True)
        for name in ("attach", "detach"):
            (self.folder / name).write_text("")
        self.rows = [FREE_ROW.format(0), FREE_ROW.format(1)]
        self.vhci = Vhci(root)
        self.write()

    def write(self) -> None:
        (self.folder / "status").write_text(HEAD + "".join(self.rows))

    def plug(self, port: int, device: str, record: Record | None, **attributes: str) -> None:
        self.rows[port] = USED_ROW.format(port, 0x10002 + port, device)
        self.write()
        folder = self.root / "sys/bus/usb/devices" / device
        folder.mkdir(parents=True)
        for name, text in attributes.items():
            (folder / name).write_text(text + "\n")
        if record is not None:
            self.vhci.write_record(port, record)

    def unplug(self, port: int, device: str) -> None:
        self.rows[port] = FREE_ROW.format(port)
        self.write()
        for path in (folder := self.root / "sys/bus/usb/devices" / device).iterdir():
            path.unlink()
        folder.rmdir()


LAB = Record("lab", "3240", "1-7")
ZERO = {
    "idVendor": "1209",
    "idProduct": "0a10",
    "bDeviceClass": "ff",
    "bcdDevice": "0102",
    "product": "Zero",
    "serial": "AB",
}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(kernel, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(vhci, "_POLL_SECONDS", 0.001)
    return Machine(tmp_path)


def existing(machine: Machine, address: str) -> dict[str, Adopted]:
    return Kernel(None, machine.vhci).existing(open_source(address))  # type: ignore[arg-type]


def test_what_the_kernel_has_of_a_server(machine: Machine) -> None:
    machine.plug(0, "1-1", LAB, **ZERO)
    machine.plug(1, "1-2", None)
    assert list(existing(machine, "usbip://lab")) == ["1-7"]
    assert list(existing(machine, "usbip://lab:3240/046d:*")) == ["1-7"]
    assert existing(machine, "usbip://lab:3241") == existing(machine, "usbip://attic") == {}
    info = existing(machine, "usbip://lab")["1-7"].info
    assert (info.name, info.device.vendor_id, info.device.product_id) == ("1-7", 0x1209, 0x0A10)
    assert (info.device.device_class, info.device.release) == (0xFF, 0x0102)
    assert (info.product, info.serial, info.manufacturer) == ("Zero", "AB", "")


def test_a_record_that_was_left_behind_is_nothing(machine: Machine) -> None:
    machine.vhci.write_record(0, LAB)
    assert existing(machine, "usbip://lab") == {}


def test_of_a_virtual_device_nothing_outlives_its_relay(machine: Machine) -> None:
    machine.plug(0, "1-1", LAB)
    assert Kernel(None, machine.vhci).existing(VirtualSource("virtual:zero")) == {}  # type: ignore[arg-type]


async def test_one_whose_connection_ends_is_lost(machine: Machine) -> None:
    machine.plug(0, "1-1", LAB)
    waiting = asyncio.get_running_loop().create_task(existing(machine, "usbip://lab")["1-7"].gone())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    machine.unplug(0, "1-1")
    assert await waiting == ("the connection to lab was closed", False)
    assert machine.vhci.read_record(0) is None


async def test_one_that_a_tool_detached_is_not(machine: Machine) -> None:
    machine.plug(0, "1-1", LAB)
    waiting = asyncio.get_running_loop().create_task(existing(machine, "usbip://lab")["1-7"].gone())
    machine.vhci.remove_record(0)
    machine.unplug(0, "1-1")
    assert (await waiting).by_hand


async def test_a_port_that_another_device_has_by_now(machine: Machine) -> None:
    machine.plug(0, "1-1", LAB)
    adopted = existing(machine, "usbip://lab")["1-7"]
    machine.rows[0] = USED_ROW.format(0, 0x30009, "1-3")
    machine.write()
    await adopted.gone()
    await adopted.detach()
    assert (machine.folder / "detach").read_text() == ""


async def test_detach(machine: Machine) -> None:
    machine.plug(0, "1-1", LAB)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(existing(machine, "usbip://lab")["1-7"].detach())
        await asyncio.sleep(0.01)
        assert (machine.folder / "detach").read_text() == "0"
        machine.unplug(0, "1-1")
    assert machine.vhci.read_record(0) is None


async def test_a_module_that_is_unloaded_is_no_hang(machine: Machine) -> None:
    machine.plug(0, "1-1", LAB)
    adopted = existing(machine, "usbip://lab")["1-7"]
    for path in machine.folder.iterdir():
        path.unlink()
    await adopted.gone()


# --- a keeper at work -------------------------------------------------------------------------------------------------


class Said(list[str]):
    """What a keeper says; who waits for a line is woken."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def tell(self, text: str) -> None:
        self.append(text)
        self._more.set()

    async def has(self, text: str, times: int = 1) -> None:
        async with asyncio.timeout(20):
            while sum(text in line for line in self) < times:
                self._more.clear()
                await self._more.wait()


@asynccontextmanager
async def keeping(made: FileKernel, wanted: Rules) -> AsyncIterator[Said]:
    said = Said()
    async with asyncio.TaskGroup() as tasks:
        keeper = Keeper(wanted, Kernel(tasks, made.vhci), said.tell)
        running = tasks.create_task(keeper.run())
        try:
            yield said
        finally:
            running.cancel()
            await asyncio.wait([running])
    assert [port.state for port in made.ports] == [vhci.FREE] * len(made.ports)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileKernel:
    made = FileKernel(tmp_path)
    monkeypatch.setattr(vhci, "_write", made.write)
    return made


async def test_a_device_in_this_process_comes_back_as_another(files: FileKernel) -> None:
    wanted = rules.from_addresses(["virtual:zero"])
    source = wanted.rules[0].wishes[0].source
    assert isinstance(source, VirtualSource)
    async with keeping(files, wanted) as said:
        await said.has("virtual:zero: 0525:a4a0 usbferry Gadget Zero attached to port 0")
        source.device.vanish(away=0.1, become=(0x1209, 0x0010))
        await said.has("virtual:zero: 0525:a4a0 usbferry Gadget Zero is lost: unplugged; looking for it")
        await said.has("virtual:zero: 1209:0010 usbferry Gadget Zero attached to port 0")
    assert said[-1].endswith(" detached")


async def test_a_relayed_device_that_the_kernel_drops_is_attached_again_until_a_person_detaches(
    files: FileKernel,
) -> None:
    async with keeping(files, rules.from_addresses(["virtual:zero"])) as said:
        await said.has("attached to port 0")
        files.drop(0)
        await said.has("is lost: the kernel dropped it; `dmesg` may say why; looking for it")
        await said.has("attached to port 0", 2)
        files.vhci.remove_record(0)
        files.vhci.detach(0)
        await said.has("was detached by hand and is left alone; to resume: kill -HUP ")


async def test_a_server_restarts_and_a_person_detaches(files: FileKernel) -> None:
    async with serving(Catalog()) as server:
        await server.offer(open_source("virtual:zero"))
        [(host, port)] = await server.listen("127.0.0.1", 0, load_exporter("usbip"))
        async with keeping(files, rules.from_addresses([f"usbip://{host}:{port}/0525:*"])) as said:
            await said.has("attached to port 0")
            record = Record("127.0.0.1", str(port), "1-1")
            assert files.vhci.read_record(0) == record
            [pump] = server.pumps
            pump.abort()
            await said.has(" is lost: the connection to 127.0.0.1 was closed; looking for it")
            await said.has("attached to port 0", 2)
            files.vhci.remove_record(0)
            files.vhci.detach(0)
            await said.has(f"is left alone; to resume: usbferry attach usbip://{host}:{port}/1-1")
            assert said[-1].startswith(f"usbip://{host}:{port}/0525:*: 1-1 0525:a4a0 ")


async def test_a_ferry_server_tells_what_appears_and_is_not_polled(files: FileKernel) -> None:
    """Only looks that follow news: the next one by the clock would be in an hour."""
    async with serving(Catalog()) as server:
        [(host, port)] = await server.listen("127.0.0.1", 0, load_exporter("ferry"))
        wanted = rules.from_addresses([f"ferry://{host}:{port}/0525:*"])._replace(every=3600.0)
        async with keeping(files, wanted) as said:
            await said.has("not there yet")
            await server.offer(open_source("virtual:zero"))
            await said.has("0525:a4a0 usbferry Gadget Zero attached to port 0")
            server.catalog.list()[0].source.device.vanish("unplugged", away=0.1)  # type: ignore[attr-defined]
            await said.has("is lost: the device has left the server; looking for it")
            await said.has("attached to port 0", 2)
