"""Programs of pyusb that were not written here, unmodified, by an ordinary user, over TCP; bytes seen at the far end.

Without us each of them fails for lack of a device: `ALONE` runs the same program by itself.
"""

from __future__ import annotations

import hashlib
import re
import socket
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from tests.cli.served import served
from usbferry.devices.oscilloscope import Oscilloscope

pytestmark = pytest.mark.slow
FIRMWARE = hashlib.sha256(b"firmware").digest() * 300


def program(text: str) -> tuple[str, str]:
    return "-c", textwrap.dedent(text)


def eventually(path: Path, content: bytes) -> None:
    """The far end's file, which a server writes after it has said that it took the bytes."""
    end = time.monotonic() + 20
    while not path.exists() or path.read_bytes() != content:
        assert time.monotonic() < end, path.read_bytes() if path.exists() else "no file"
        time.sleep(0.01)


def test_the_user_has_no_rights(user):
    assert (
        user.run(*program("import os; print(os.geteuid() != 0 if hasattr(os, 'geteuid') else True)")).stdout == "True\n"
    )


# -- each program ------------------------------------------------------------------------------------------------------

ESCPOS = program(
    """
    from escpos.printer import Usb
    printer = Usb(0x0525, 0xA4A8)
    printer.set(bold=True, align="center")
    printer.text("Receipt 1\\n")
    printer.barcode("4006381333931", "EAN13", 64, 2, "", "")
    printer.qr("usbferry", native=True)
    printer.cut()
    print(printer.is_online(), printer.paper_status())
    printer.close()
    """
)


def test_python_escpos_prints(user, tmp_path):
    """Its own `Dummy` printer says which bytes are right."""
    from escpos.printer import Dummy

    expected = Dummy()
    expected.set(bold=True, align="center")
    expected.text("Receipt 1\n")
    expected.barcode("4006381333931", "EAN13", 64, 2, "", "")
    expected.qr("usbferry", native=True)
    expected.cut()
    paper = tmp_path / "paper"
    with served(f"virtual:printer?to=file:{paper}", runtime=tmp_path) as server:
        assert user.said(*ESCPOS, devices=(server.address,)).splitlines()[-1] == "True 2"
        eventually(paper, expected.output + b"\x10\x04\x01" + b"\x10\x04\x04")


DETACH = program(
    """
    import time, usb.core
    runtime = usb.core.find(idVendor=0x1209, idProduct=5)
    before = (runtime.bus, runtime.address, runtime.product)
    runtime.ctrl_transfer(0x21, 0, 1000, 0)
    while (boot := usb.core.find(idVendor=0x1209, idProduct=3)) is None:
        time.sleep(0.01)
    assert (boot.bus, boot.address) != before[:2]
    print(before[2], boot.product, [i.bInterfaceProtocol for i in boot[0]])
    """
)
RUNTIME = program(
    """
    import time, usb.core
    while (runtime := usb.core.find(idVendor=0x1209, idProduct=5)) is None:
        time.sleep(0.01)
    print(runtime.product)
    """
)


def test_pyfu_usb_flashes_a_device_that_re_enumerates(user, tmp_path):
    firmware = tmp_path / "device.bin"
    (user.folder / "new.bin").write_bytes(FIRMWARE)
    with served(f"virtual:dfu?file={firmware}", runtime=tmp_path) as server:
        here = (server.address,)
        assert user.said(*DETACH, devices=here) == "Device with DFU Bootloader [2]\n"
        assert not firmware.exists()
        assert "100%" in user.said("-m", "pyfu_usb", "-D", "new.bin", "-d", "1209:0003", devices=here)
        eventually(firmware, FIRMWARE)
        assert user.said(*RUNTIME, devices=here) == "Device with DFU\n"


def test_pyfu_usb_flashes_by_dfuse(user, tmp_path):
    """At an address in the midst of the flash, the pages there erased."""
    firmware = tmp_path / "device.bin"
    firmware.write_bytes(bytes(64 << 10))
    (user.folder / "new.bin").write_bytes(FIRMWARE)
    with served(f"virtual:dfu?file={firmware}&dfuse&bootloader&page=2K", runtime=tmp_path) as server:
        said = user.said("-m", "pyfu_usb", "-D", "new.bin", "-a", "0x08001000", devices=(server.address,))
        assert said.count("Erasing page") == 5
        rest = bytes(64 << 10)[0x1000 + 5 * 2048 :]
        eventually(firmware, bytes(0x1000) + FIRMWARE.ljust(5 * 2048, b"\xff") + rest)


def test_pyfu_usb_lists_devices_that_are_not_dfuse_too(user, tmp_path):
    """It takes the interface's string for the layout, and fails where there is none."""
    with served("virtual:dfu?bootloader", "virtual:dfu?dfuse", runtime=tmp_path) as server:
        said = user.said("-m", "pyfu_usb", "-l", devices=(server.address,))
        assert said.count("64 pages of 1024 bytes") == 2
        assert "ID 1209:0003" in said
        assert "ID 1209:0005" in said


USBTMC = program(
    """
    import usbtmc
    scope = usbtmc.Instrument(0x1209, 0x0004, "MY1")
    print(scope.ask("*IDN?"))
    scope.write("CHAN1:SCAL 0.5;:WAV:POIN 5000;DATA?")
    print(scope.read_raw().hex())
    print(scope.read_stb(), scope.ask("FOO;SYST:ERR?"))
    scope.timeout = 0.1
    try:
        scope.read()
    except usbtmc.usbtmc.usb.core.USBTimeoutError as error:
        print(error.errno)
    scope.timeout = 5
    print(scope.ask("*OPC?"))
    scope.close()
    """
)


def waveform() -> bytes:
    scope = Oscilloscope("")
    scope.message(b"CHAN1:SCAL 0.5;:WAV:POIN 5000")
    return scope.samples(1)


def test_python_usbtmc_reads_a_waveform(user, tmp_path):
    with served("virtual:usbtmc?serial=MY1&model=Scope", runtime=tmp_path) as server:
        lines = user.said(*USBTMC, devices=(server.address,)).splitlines()
        assert lines[0] == "usbferry,Scope,MY1,1.0"
        assert bytes.fromhex(lines[1]) == b"#45000" + waveform() + b"\n"
        assert lines[2:] == ['0 -113,"Undefined header"', "110", "1"]


VISA = program(
    """
    import pyvisa
    manager = pyvisa.ResourceManager("@py")
    [name] = manager.list_resources("USB?*")
    print(name)
    scope = manager.open_resource(name)
    print(scope.query("*IDN?").strip())
    scope.write("CHAN1:SCAL 0.5;:WAV:POIN 5000")
    print(bytes(scope.query_binary_values(":WAV:DATA?", datatype="B")).hex())
    scope.timeout = 100
    try:
        scope.read()
    except pyvisa.errors.VisaIOError as error:
        print(error.abbreviation)
    scope.timeout = 5000
    print(scope.query("*OPC?").strip())
    """
)


def test_pyvisa_reads_a_waveform(user, tmp_path):
    with served("virtual:usbtmc?serial=MY1&model=Scope", runtime=tmp_path) as server:
        lines = user.said(*VISA, devices=(server.address,)).splitlines()
        assert lines[:2] == ["USB0::4617::4::MY1::0::INSTR", "usbferry,Scope,MY1,1.0"]
        assert bytes.fromhex(lines[2]) == waveform()
        assert lines[3:] == ["VI_ERROR_TMO", "1"]


FTDI = program(
    """
    from pyftdi.serialext import serial_for_url
    port = serial_for_url("ftdi://ftdi:232r:FT1/1", baudrate=115200, timeout=20)
    port.write(bytes(range(256)) * 64)
    got = port.read(20000)
    print(len(got), got == bytes(i * 7 & 0xFF for i in range(20000)), port.cts)
    port.close()
    """
)


def far_side(listening: socket.socket, got: bytearray) -> None:
    """Takes 16 KiB, and sends 20,000 bytes: pyftdi forgets what came before it has opened its port."""
    with listening.accept()[0] as far:
        far.settimeout(30)
        while len(got) < 256 * 64:
            got += far.recv(65536)
        far.sendall(bytes(i * 7 & 0xFF for i in range(20000)))
        far.recv(1)


def test_pyftdi_talks_to_a_far_side(user, tmp_path):
    """With two bytes of status in each packet that it reads."""
    got = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        to = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        far = threading.Thread(target=far_side, args=(listening, got))
        far.start()
        with served(f"virtual:ftdi?to={to}&serial=FT1", runtime=tmp_path) as server:
            assert user.said(*FTDI, devices=(server.address,)) == "20000 True True\n"
        far.join(30)
    assert bytes(got) == bytes(range(256)) * 64


# -- and without us ----------------------------------------------------------------------------------------------------

LACK = "No backend available|not found|No devices? found|No USB device|not enough values to unpack"
ALONE = {
    "escpos": ESCPOS,
    "pyfu-usb": ("-m", "pyfu_usb", "-D", "new.bin", "-d", "1209:0003"),
    "usbtmc": USBTMC,
    "pyvisa": VISA,
    "pyftdi": FTDI,
}


@pytest.mark.parametrize("name", ALONE)
def test_without_us_it_fails_for_lack_of_a_device(name, user):
    (user.folder / "new.bin").write_bytes(FIRMWARE)
    done = user.run(*ALONE[name])
    said = " ".join((done.stdout + done.stderr).replace("__main__.py:146", "").split())
    assert done.returncode != 0, said
    assert re.search(LACK, said), said


# -- several, and at the same time -------------------------------------------------------------------------------------


def test_one_program_has_devices_of_two_servers(user, tmp_path):
    text = """
        import usb.core
        found = sorted((d.bus, d.idProduct) for d in usb.core.find(find_all=True))
        print(found, len({d for d in usb.core.find(find_all=True)}))
        """
    with (
        served("virtual:printer", runtime=tmp_path) as one,
        served("virtual:ftdi", "virtual:usbtmc", runtime=tmp_path) as other,
    ):
        said = user.said(*program(text), devices=(one.address, other.address))
        assert said == f"[(1, {0xA4A8}), (2, 4), (2, {0x6001})] 3\n"


def test_a_program_that_is_killed_leaves_its_device_to_the_next(user, tmp_path):
    text = """
        import os, usb.core
        usb.core.find().read(0x81, 64)
        os.kill(os.getpid(), 9)
        """
    with served("virtual:zero", runtime=tmp_path) as server:
        for _ in range(2):
            assert user.run(*program(text), devices=(server.address,)).returncode == -9
        assert user.said(
            *program("import usb.core; print(len(usb.core.find().read(0x81, 64)))"), devices=(server.address,)
        )


def test_nothing_of_a_program_stays_open(user, tmp_path):
    """It neither closes nor forgets its device, and ends with a transfer under way in another thread."""
    text = """
        import threading, usb.core
        device = usb.core.find()
        threading.Thread(target=lambda: device.read(0x82, 64, timeout=0), daemon=True).start()
        device.write(0x01, b"x")
        """
    with served("virtual:zero", runtime=tmp_path) as server:
        before = open_files(server.process.pid)
        for _ in range(3):
            assert user.said(*program(text), devices=(server.address,)) == ""
        end = time.monotonic() + 20
        timers = sys.platform == "linux"  # a file that the server has from its first connection on
        while open_files(server.process.pid) != before + timers:
            assert time.monotonic() < end
            time.sleep(0.01)


def open_files(pid: int) -> int:
    """Of another process; 0 where the system does not say."""
    folder = Path(f"/proc/{pid}/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0
