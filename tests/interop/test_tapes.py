"""Programs of pyusb, unmodified, with a device that is recorded, then with its tape alone: they say the same again.

The device itself is not there when the tape plays: nothing of it is needed.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from tests.interop.test_pyusb_programs import ESCPOS, FTDI, USBTMC, far_side, program
from tests.interop.user import User

pytestmark = pytest.mark.slow

DISK = program(
    """
    import hashlib, struct, usb.core
    disk = usb.core.find()
    def command(words, data):
        disk.write(0x02, struct.pack("<4sIIBBB16s", b"USBC", 7, abs(data), 0x80 * (data > 0), 0, len(words), words))
        got = bytes(disk.read(0x81, data)) if data > 0 else disk.write(0x02, bytes(-data)) if data else b""
        return got, bytes(disk.read(0x81, 13))[12]
    name, _ = command(bytes.fromhex("120000002400"), 36)
    size, _ = command(bytes.fromhex("25000000000000000000"), 8)
    print(name[8:32], struct.unpack(">II", size), command(bytes.fromhex("2a000000000000000800"), -4096))
    for start in (0, 64, 2000):
        data, status = command(struct.pack(">BBIBHB", 0x28, 0, start, 0, 512, 0), 512 * 512)
        print(hashlib.sha256(data).hexdigest(), status)
    """
)


@contextmanager
def far(port: list[str]) -> Iterator[None]:
    """Who is at the other end of a serial port."""
    got = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port.append(f"tcp://127.0.0.1:{listening.getsockname()[1]}")
        thread = threading.Thread(target=far_side, args=(listening, got))
        thread.start()
        yield
        thread.join(30)
    assert bytes(got) == bytes(range(256)) * 64


CASES = {
    "printer": (ESCPOS, "virtual:printer?to=file:paper"),
    "usbtmc": (USBTMC, "virtual:usbtmc?serial=MY1&model=Scope"),
    "ftdi": (FTDI, "virtual:ftdi?serial=FT1&to="),
    "disk": (DISK, "virtual:disk?size=2M&serial=1"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_program_says_the_same_to_a_tape(name: str, user: User) -> None:
    words, address = CASES[name]
    port: list[str] = []
    other: AbstractContextManager[None] = far(port) if name == "ftdi" else nullcontext()
    with other:
        live = user.said(*words, devices=(f"tap:live.pcapng?of={address}{''.join(port)}",))
    assert len(live) > 5
    assert live == user.said(*words, devices=("replay:live.pcapng?check",))
    if shutil.which("tshark") and name in ("disk", "printer"):
        assert not troubles(user.folder / "live.pcapng")


def troubles(capture: Path) -> str:
    """What Wireshark calls malformed or wrong. A printer's text it takes for IPP."""
    wrong = "_ws.malformed || _ws.expert.severity == error"
    command = ["tshark", "-n", "--disable-protocol", "ippusb", "-r", str(capture), "-Y", wrong]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
