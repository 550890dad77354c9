"""The kernel's cdc_acm drives our serial port: bytes, line coding, modem lines, breaks, serial state, leaving it."""

import asyncio
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.devices.stream_host import pattern
from tests.kernel.guest import CHECKOUT, Guest, Step
from tests.kernel.steps import attach, importing, unexpected, wait_until_free
from usbferry.backends.virtual import VirtualSource
from usbferry.devices.cdc import Lines, Signals
from usbferry.devices.serial import Serial
from usbferry.registry import load_exporter
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving

MIB = 1 << 20
TTY = "/dev/ttyACM0"
SPEEDS = {"full": "12", "high": "480", "super": "5000"}  # as sysfs has them
RAW = f"stty -F {TTY} raw -echo"
# What the kernel says when a device leaves that is in use.
LEAVING = (r"failed to set dtr/rts", r"urb \d+ failed submission with -19", r"sendmsg failed!, ret=-(32|104)")
NOISE = "vhci_device speed not set"  # vhci_hub_control says so of every full-speed device: it knows high and low


@pytest.fixture(scope="module")
def guest(guest: Guest) -> Guest:
    guest.run("modprobe cdc-acm").ok()
    return guest


class Served:
    """A serial port served by this process, in a thread of its own, so that a test can look at the device."""

    def __init__(self, address: str) -> None:
        self.port = 0
        self.device: Serial
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(address)))
        self._thread.start()
        assert self._started.wait(20)

    async def _serve(self, address: str) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        source = VirtualSource(address)
        assert isinstance(source.device, Serial)
        self.device = source.device
        async with serving(Catalog()) as server:
            await server.offer(source)
            ((_, self.port),) = await server.listen("127.0.0.1", 0, load_exporter("usbip"))
            self._started.set()
            await self._stop.wait()

    def do(self, work: Callable[[], None]) -> None:
        """Run it in the device's event loop."""
        self._loop.call_soon_threadsafe(work)

    def close(self) -> None:
        self.do(self._stop.set)
        self._thread.join()


@contextmanager
def served(options: str = "") -> Iterator[Served]:
    with closing(Served(f"virtual:serial?{options}")) as one:
        yield one


def port_command(verb: str) -> str:
    return f"/usr/bin/python3 -I -S {CHECKOUT / 'tests' / 'kernel' / 'port.py'} {TTY} {verb}"


def both_ways(guest: Guest, out: bytes, count: int) -> Step:
    """Write `out` to the port and read `count` bytes from it, at once, into $SHARED/got.

    The far side had better write nothing before it was written to: the port starts cooked, and would echo.
    """
    (guest.shared / "out").write_bytes(out)
    return guest.start(
        f"""
        exec 3<>{TTY}; {RAW}
        head -c {count} <&3 >/tmp/got &
        cat $SHARED/out >&3
        wait
        cp /tmp/got $SHARED/got
        """,
        100,
    )


def until(condition: Callable[[], bool], witness: Callable[[], object] = lambda: "", limit: float = 20) -> None:
    """Wait for something that the guest does; `witness` is what to show if it does not."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, witness()
        time.sleep(0.02)


def differs(got: bytes, wanted: bytes) -> str | None:
    """Where two long runs of bytes part."""
    if got == wanted:
        return None
    at = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))
    return f"{len(got)} bytes for {len(wanted)}, at {at}: {got[at : at + 32]!r} for {wanted[at : at + 32]!r}"


# -- bytes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_mebibyte_both_ways_at_once_through_an_echo(guest, serve, speed):
    server = serve(f"virtual:serial?speed={speed}&association={'no' if speed == 'full' else 'yes'}")
    data = pattern(MIB)
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        assert guest.run(f"cat /sys/bus/usb/devices/{attached.device}/speed").ok().strip() == SPEEDS[speed]
        both_ways(guest, data, MIB).wait().ok()
    assert differs((guest.shared / "got").read_bytes(), data) is None
    assert unexpected(guest, NOISE) == []


def test_a_mebibyte_both_ways_at_once_through_tcp(guest, serve):
    out, back = pattern(MIB, 1), pattern(MIB, 2)
    guest.mark()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        server = serve(f"virtual:serial?to=tcp://127.0.0.1:{listening.getsockname()[1]}")
        with closing(listening.accept()[0]) as peer, importing(guest, server.port, "1-1"):
            peer.settimeout(100)
            step = both_ways(guest, out, MIB)
            got = peer.recv(65536)
            sending = threading.Thread(target=peer.sendall, args=(back,))
            sending.start()
            while len(got) < MIB:
                got += peer.recv(65536)
            sending.join()
            step.wait().ok()
    assert differs(got, out) is None
    assert differs((guest.shared / "got").read_bytes(), back) is None
    assert unexpected(guest) == []


def test_a_mebibyte_both_ways_at_once_through_a_terminal_whose_path_is_printed(guest, serve, tmp_path):
    out, back = pattern(MIB, 1), pattern(MIB, 2)
    link = tmp_path / "ttyLAB"
    server = serve(f"virtual:serial?to=pty&link={link}")
    assert f"pty {link} -> {os.readlink(link)}" in server.log()
    guest.mark()
    terminal = os.open(link, os.O_RDWR | os.O_NOCTTY)
    try:
        with importing(guest, server.port, "1-1"):
            step = both_ways(guest, out, MIB)
            got = os.read(terminal, 65536)
            sending = threading.Thread(target=_write_all, args=(terminal, back))
            sending.start()
            while len(got) < MIB:
                got += os.read(terminal, 65536)
            sending.join()
            step.wait().ok()
    finally:
        os.close(terminal)
    assert differs(got, out) is None
    assert differs((guest.shared / "got").read_bytes(), back) is None
    assert unexpected(guest) == []
    assert server.terminate() == 0
    assert not link.is_symlink()


def _write_all(fd: int, data: bytes) -> None:
    at = 0
    while at < len(data):
        at += os.write(fd, data[at : at + 4096])


def test_a_slow_far_side_holds_the_guest_back_and_gets_every_byte(guest, serve):
    data = pattern(MIB)
    guest.mark()
    (guest.shared / "out").write_bytes(data)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(60)
        server = serve(f"virtual:serial?to=tcp://127.0.0.1:{listening.getsockname()[1]}&buffer=4k")
        with closing(listening.accept()[0]) as peer, importing(guest, server.port, "1-1"):
            peer.settimeout(60)
            writing = guest.start(f"exec 3<>{TTY}; {RAW}; cat $SHARED/out >&3", 100)
            got = bytearray()
            while len(got) < MIB:
                got += peer.recv(10_000)
                time.sleep(0.005)
            writing.wait().ok()
    assert differs(got, data) is None
    assert unexpected(guest) == []


# -- the line -------------------------------------------------------------------------------------------------------


def test_settings_lines_and_breaks_of_the_guest_are_seen_by_the_device(guest):
    seen = []
    guest.mark()
    with served() as port, importing(guest, port.port, "1-1"):
        port.device.changed = lambda: seen.append((str(port.device.coding), port.device.lines, port.device.breaking))
        guest.run(f"""
            stty -F {TTY} 57600 cs7 parenb -parodd cstopb
            stty -F {TTY} 115200 cs8 -parenb -cstopb
            stty -F {TTY} 2400 cs5 parenb parodd
            {port_command("act")}
        """).ok()
        until(lambda: seen[-1][1:] == (Lines(0), False))
    both = Lines.DTR | Lines.RTS
    codings = list(dict.fromkeys(coding for coding, _, _ in seen))
    assert codings == ["9600 8N1", "57600 7E2", "115200 8N1", "2400 5O1"]
    acted = [(lines, breaking) for _, lines, breaking in seen[-7:]]
    assert acted == [
        (both, False),  # opened
        (Lines.DTR, False),
        (Lines(0), False),
        (Lines.RTS, False),
        (Lines.RTS, True),
        (Lines.RTS, False),
        (Lines(0), False),  # closed
    ]
    assert unexpected(guest) == []


def test_serial_state_of_the_device_is_seen_by_the_guest(guest):
    guest.mark()
    with served("to=listen://127.0.0.1:0") as port, importing(guest, port.port, "1-1"), ExitStack() as stack:
        watching = guest.start(port_command("watch"))

        def states() -> list[dict]:
            return [json.loads(line) for line in watching.output().splitlines(keepends=True) if line.endswith("\n")]

        def shown(**expected: object) -> bool:
            return any(expected.items() <= state.items() for state in states())

        def tell(events: Signals) -> None:
            port.do(lambda: setattr(port.device, "signals", port.device.signals | events))

        open_ = ["CTS", "DSR", "DTR", "RTS"]  # CTS: cdc_acm says so of every port
        until(lambda: shown(lines=open_, dsr=1, dcd=0), watching.output)
        bridge = port.device.bridge
        peer = stack.enter_context(socket.create_connection(("127.0.0.1", bridge.port)))
        until(lambda: shown(lines=sorted([*open_, "CAR"]), dcd=1), watching.output)
        tell(Signals.RING)
        until(lambda: shown(lines=sorted([*open_, "CAR", "RNG"]), rng=1), watching.output)
        tell(Signals.FRAMING)
        tell(Signals.PARITY | Signals.OVERRUN)
        until(lambda: shown(lines=sorted([*open_, "CAR"]), rng=1, frame=1, parity=1, overrun=1), watching.output)
        peer.close()
        until(lambda: shown(lines=open_, dcd=2), watching.output)
        tell(Signals.BREAK)
        watching.wait().ok()
        assert shown(dsr=1, rng=1, dcd=2, frame=1, parity=1, overrun=1, brk=1)
    assert unexpected(guest) == []


def test_a_far_side_that_hangs_up_hangs_up_a_terminal_that_minds(guest):
    """`-clocal`: who reads gets the end, as on a real modem line."""
    guest.mark()
    with served("to=listen://127.0.0.1:0") as port, importing(guest, port.port, "1-1"):
        with socket.create_connection(("127.0.0.1", port.device.bridge.port)) as peer:
            peer.sendall(b"hello\n")
            reading = guest.start(f"exec 3<>{TTY}; {RAW} -clocal; echo reading; cat <&3; echo over")
            until(lambda: "hello" in reading.output())
        assert reading.wait().ok() == "reading\nhello\nover\n"
    assert unexpected(guest) == []


# -- leaving --------------------------------------------------------------------------------------------------------


def test_detached_while_transferring_and_attached_again_five_times(guest):
    """What the far side got of each guest is what that wrote, from its start, with no hole."""
    guest.mark()
    with (
        served("to=listen://127.0.0.1:0") as port,
        socket.create_connection(("127.0.0.1", port.device.bridge.port)) as peer,
        flooding(peer),
    ):
        for number in range(5):
            attached = attach(guest, port.port, "1-1")
            # What the far side has sent already is echoed until the port is raw.
            script = f"exec 3<>{TTY}; {RAW}; cat <&3 >/dev/null & (echo BEGIN {number}; seq 1 9999999) >&3; wait"
            moving = guest.start(script)
            got = received(peer, f"BEGIN {number}\n".encode())
            while len(got) < 100_000:
                got += peer.recv(10_000)
            guest.run(f"usbip detach -p {attached.port}").ok()
            wait_until_free(guest, attached)
            moving.wait()
            got += rest(peer)  # what the guest was told is taken still comes
            got = got.lstrip(b"^@")  # the end of the echo of zeros, which the terminal held until it was written to
            written = b"".join(b"%d\n" % line for line in range(1, got.count(b"\n") + 2))
            assert differs(got, written[: len(got)]) is None
            assert port.device.lines == Lines(0)
        with importing(guest, port.port, "1-1"):
            guest.run(f"exec 3<>{TTY}; {RAW}; echo OVER >&3").ok()
            received(peer, b"OVER\n")
    assert unexpected(guest, *LEAVING) == []


@contextmanager
def flooding(peer: socket.socket) -> Iterator[None]:
    """Sends for as long as the peer is connected, and waits whenever nobody takes it."""
    with peer.dup() as sending:
        sending.settimeout(300)  # its own, not the other's
        thread = threading.Thread(target=_flood, args=(sending,))
        thread.start()
        try:
            yield
        finally:
            peer.shutdown(socket.SHUT_RDWR)
            thread.join()


def _flood(sending: socket.socket) -> None:
    with suppress(OSError):
        while True:
            sending.sendall(bytes(65536))


def received(peer: socket.socket, marker: bytes) -> bytes:
    """What came after the marker."""
    got = b""
    peer.settimeout(60)
    while marker not in got:
        got += peer.recv(65536)
    return got.partition(marker)[2]


def rest(peer: socket.socket) -> bytes:
    """All that comes until nothing has come for a while."""
    got = b""
    peer.settimeout(0.5)
    with suppress(TimeoutError):
        while True:
            got += peer.recv(65536)
    return got


def test_an_echo_is_used_by_one_guest_after_the_other(guest, serve):
    server = serve("virtual:serial")
    guest.mark()
    for number in range(3):
        with importing(guest, server.port, "1-1"):
            data = pattern(10_000, number)
            both_ways(guest, data, len(data)).wait().ok()
            assert (guest.shared / "got").read_bytes() == data
    assert unexpected(guest) == []


def test_lsusb_reads_the_functional_descriptors(guest, serve):
    server = serve("virtual:serial")
    with importing(guest, server.port, "1-1") as attached:
        shown = guest.run(f"lsusb -v -s {attached.device.partition('-')[0]}: -d 0525:a4a7").ok()
    wanted = ["bcdCDC 1.20", "bmCapabilities 0x06", "bMasterInterface 0", "bSlaveInterface 1", "bFunctionClass 2"]
    words = re.sub(r" +", " ", shown)
    assert [text for text in wanted if text not in words] == []
    assert Path(TTY).exists() is False  # the port is the guest's, not ours


# -- a device that was written for Facedancer --------------------------------------------------------------------------

ECHO = """
import asyncio
from facedancer import main
from facedancer.devices.ftdi import FTDIDevice

device = FTDIDevice()
called = asyncio.Event()

async def greet():
    await called.wait()
    device.transmit(b"hello ")

def hear(data):
    if data == b"who?":
        called.set()
    else:
        device.transmit(data.upper())

device.handle_serial_data_received = hear
main(device, greet())
"""


def test_facedancers_own_serial_port_is_driven_by_the_kernel(guest, serve, tmp_path):
    """Its coroutine waits to be called; what the host sends then comes back, larger than a packet."""
    pytest.importorskip("facedancer")
    (tmp_path / "echo.py").write_text(ECHO)
    text = "usb over the wire " * 40
    server = serve(f"facedancer:{tmp_path / 'echo.py'}")
    guest.run("modprobe ftdi_sio").ok()
    with importing(guest, server.port, "1-1"):
        script = f"""
            until [ -c /dev/ttyUSB0 ]; do sleep 0.02; done
            exec 3<>/dev/ttyUSB0
            stty -F /dev/ttyUSB0 raw -echo 9600
            printf 'who?' >&3; head -c 6 <&3; printf '{text}' >&3; head -c {len(text)} <&3
        """
        assert guest.run(script, 40).ok() == "hello " + text.upper()
