"""The kernel's drivers for what has no test of its own here: usblp, ftdi_sio, usbtmc, dfu-util's; and several at once.

Each driver binds by itself, bytes go both ways, and are the same at both ends.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

from tests import evdev
from tests.devices.stream_host import pattern
from tests.kernel.guest import CHECKOUT, Guest, Step
from tests.kernel.media import card_of, frames_of, is_counter, record_command
from tests.kernel.steps import FREE, HOST, STATUS, Attached, disk_of, importing, unexpected
from tests.kernel.test_hid import KEY_ENTER, Reader, keys
from usbferry.devices import broken
from usbferry.devices.oscilloscope import Oscilloscope

KIB = 1 << 10
SOAK = os.environ.get("USBFERRY_SOAK", "") not in ("", "0")
TIMES = 16 if SOAK else 1  # as many bytes
REPEATED = 2  # of a key that is held: by the kernel itself, whose clock runs ahead when it has much to do
# vhci_hcd says so of every full-speed device, and whenever a driver asks for the number of a frame.
NOISE = ("vhci_device speed not set", "usb usb.*: Not yet implemented")


@pytest.fixture(scope="module")
def guest(guest: Guest) -> Guest:
    modules = "usbhid hid-generic evdev cdc-acm sd_mod snd-usb-audio usblp ftdi_sio usbtmc"
    guest.run(f"modprobe -a vhci-hcd {modules} && modprobe usb-storage delay_use=0").ok()
    return guest


def drivers(guest: Guest, attached: Attached, count: int) -> list[str]:
    """Of each interface, once all of them have one."""
    script = f"""
        cd /sys/bus/usb/devices
        until [ $(ls -d {attached.device}:1.*/driver 2>/dev/null | wc -l) = {count} ]; do sleep 0.05; done
        for one in {attached.device}:1.*; do basename $(readlink $one/driver); done
    """
    return guest.run(script, 30).ok().split()


def to_and_from(guest: Guest, terminal: str, payload: bytes) -> Step:
    """Write to a terminal whose far side is an echo, and read as much, at the same time, into $SHARED/echoed."""
    (guest.shared / "payload").write_bytes(payload)
    return guest.start(f"""
        set -e
        until [ -e {terminal} ]; do sleep 0.05; done
        exec 3<>{terminal}; stty -F {terminal} raw -echo
        head -c {len(payload)} <&3 >$SHARED/echoed & cat $SHARED/payload >&3
        wait $!
    """, 60)  # fmt: skip


def test_four_functions_of_one_device_are_busy_at_once(guest: Guest, serve, tmp_path: Path) -> None:
    """A keyboard types, a port echoes, a disk is written and read, a microphone records: no byte is another's."""
    fifo, image = tmp_path / "keys", tmp_path / "disk.img"
    payload, stored = pattern(32 * KIB * TIMES), os.urandom(1024 * KIB)
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)
    (guest.shared / "stored").write_bytes(stored)
    server = serve(
        "virtual:composite?parts=keyboard+serial+disk+microphone&product=Dock"
        f"&keyboard.pipe={fifo}&keyboard.delay=0&disk.image={image}&disk.size=8M&microphone.source=counter"
    )
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        bound = drivers(guest, attached, 6)
        assert bound == ["usbhid", "cdc_acm", "cdc_acm", "usb-storage", "snd-usb-audio", "snd-usb-audio"]
        name = disk_of(guest, attached)
        reader = Reader(guest, f"{attached.device} until={KEY_ENTER}")
        steps = [
            guest.start(record_command(card_of(guest, attached.device), "heard.wav", 48000, 1), 90),
            to_and_from(guest, "/dev/ttyACM0", payload),
            guest.start(f"""
                set -e
                dd if=$SHARED/stored of=/dev/{name} bs=64k oflag=direct conv=fsync status=none
                dd if=/dev/{name} bs=64k count={len(stored) >> 16} iflag=direct status=none | sha256sum
            """, 90),
        ]  # fmt: skip
        fifo.write_text("all of this is typed meanwhile\n")
        pressed = [(key, value) for key, value in keys(reader.events()) if value != REPEATED]
        said = [step.wait().ok() for step in steps]
    os.close(held)
    assert evdev.text("us", pressed) == "all of this is typed meanwhile\n"
    assert (guest.shared / "echoed").read_bytes() == payload
    assert said[2].split()[0] == hashlib.sha256(stored).hexdigest()
    assert image.read_bytes()[: len(stored)] == stored
    heard = frames_of(guest.shared / "heard.wav")
    assert len(heard) == 48000
    assert is_counter(heard, heard[0])
    assert unexpected(guest, *NOISE) == []


def test_a_printer_prints_and_answers(guest: Guest, serve, tmp_path: Path) -> None:
    """As a part behind another: usblp asks for its id with the interface's number in another place than all others."""
    paper, page = tmp_path / "paper", pattern(100 * KIB * TIMES)
    (guest.shared / "page").write_bytes(page)
    server = serve(f"virtual:composite?parts=keyboard+printer&printer.to=file:{paper}&printer.product=LP")
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        assert drivers(guest, attached, 2) == ["usbhid", "usblp"]
        said = guest.run(f"""
            set -e
            until [ -e /dev/usb/lp0 ]; do sleep 0.05; done
            cat /sys/bus/usb/devices/{attached.device}:1.1/ieee1284_id; echo
            cat $SHARED/page >/dev/usb/lp0
            exec 3<>/dev/usb/lp0; printf '\\x10\\x04\\x01' >&3; head -c 1 <&3 | od -An -tx1
        """, 60).ok()  # fmt: skip
    assert said.splitlines()[0] == "MFG:usbferry;MDL:LP;CMD:ESC/POS;CLS:PRINTER;"
    assert said.splitlines()[-1].split() == ["12"]
    assert paper.read_bytes() == page + b"\x10\x04\x01"
    assert unexpected(guest, *NOISE) == []


def test_an_ftdi_adapter_echoes(guest: Guest, serve) -> None:
    server = serve("virtual:ftdi?serial=FT0001", "-v")
    payload = pattern(32 * KIB * TIMES)
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        assert drivers(guest, attached, 1) == ["ftdi_sio"]
        to_and_from(guest, "/dev/ttyUSB0", payload).wait().ok()
        guest.run("stty -F /dev/ttyUSB0 115200 cs7 parenb cstopb").ok()
    assert (guest.shared / "echoed").read_bytes() == payload
    assert "115385 7E2" in server.log()  # the nearest that its divisor can
    assert unexpected(guest, *NOISE) == []


def test_an_oscilloscope_is_asked_through_the_kernels_driver(guest: Guest, serve) -> None:
    server = serve("virtual:usbtmc?serial=MY1234")
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        assert drivers(guest, attached, 1) == ["usbtmc"]
        guest.run("""
            set -e
            until [ -e /dev/usbtmc0 ]; do sleep 0.05; done
            exec 3<>/dev/usbtmc0
            printf '*IDN?\\n' >&3; dd bs=64k count=1 <&3 of=$SHARED/identity status=none
            printf ':WAV:POIN 20000\\n:WAV:DATA?\\n' >&3; dd bs=64k count=1 <&3 of=$SHARED/wave status=none
        """).ok()
    scope = Oscilloscope("usbferry,Oscilloscope,MY1234,1.0")
    scope.message(b":WAV:POIN 20000\n:WAV:DATA?\n")
    assert (guest.shared / "identity").read_bytes() == b"usbferry,Oscilloscope,MY1234,1.0\n"
    assert (guest.shared / "wave").read_bytes() == scope.take(1 << 16, None)
    assert unexpected(guest, *NOISE) == []


@pytest.mark.parametrize("dfuse", [False, True] if SOAK else [False])
def test_dfu_util_writes_a_firmware_and_reads_it_back(guest: Guest, serve, tmp_path: Path, dfuse: bool) -> None:
    kept, firmware = tmp_path / "firmware", os.urandom(20_000)
    (guest.shared / "new.bin").write_bytes(firmware)
    place = "-s 0x08000000" if dfuse else ""
    reading = f"-s 0x08000000:{len(firmware)}" if dfuse else ""
    options = "&dfuse&page=2K" if dfuse else "&tolerant"
    server = serve(f"virtual:dfu?file={kept}&bootloader&size=32K&will_detach=no{options}")
    guest.mark()
    with importing(guest, server.port, "1-1"):
        said = guest.run(f"""
            rm -f $SHARED/read.bin
            dfu-util -a 0 {place} -D $SHARED/new.bin; echo wrote $?
            dfu-util -a 0 {reading} -U $SHARED/read.bin; echo read $?
        """, 90).ok()  # fmt: skip
        assert "wrote 0" in said, said
        assert "read 0" in said, said
    assert (guest.shared / "read.bin").read_bytes()[: len(firmware)] == firmware
    if not dfuse:
        assert kept.read_bytes() == firmware
    assert unexpected(guest, *NOISE) == []


# -- odd ones ---------------------------------------------------------------------------------------------------------

USBFS = f"/usr/bin/python3 -S {CHECKOUT / 'tests' / 'kernel' / 'usbfs.py'}"
LOOPS = f"/usr/bin/python3 -S {CHECKOUT / 'tests' / 'kernel' / 'loops.py'}"


def test_each_configuration_is_taken_in_its_turn(guest: Guest, serve) -> None:
    server = serve("virtual:many-configurations?count=9")
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        said = guest.run(f"""
            set -e
            cd /sys/bus/usb/devices/{attached.device}
            for value in 3 8 1; do
                echo $value >bConfigurationValue
                echo $(cat configuration), $(ls -d {attached.device}:$value.* | wc -l) interfaces
            done
            cat bNumConfigurations
            dmesg --notime | grep 'too many configurations'
            {USBFS} {attached.device} in:0x81:64
        """, 60).ok()  # fmt: skip
    assert said.splitlines() == [
        "Configuration 3, 3 interfaces",
        "Configuration 8, 8 interfaces",
        "Configuration 1, 1 interfaces",
        "8",
        f"usb {attached.device}: too many configurations: 9, using maximum allowed: 8",
        str(len("configuration 1, interface 0\n")),
    ]
    assert unexpected(guest, *NOISE) == []


@pytest.mark.parametrize("speed", ["high", "super"] if SOAK else ["high"])
def test_thirty_endpoints_move_data(guest: Guest, serve, speed: str) -> None:
    server = serve(f"virtual:many-endpoints?speed={speed}")
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        said = guest.run(f"{LOOPS} {attached.device} 5000", 60).ok()
    assert said.split() == [str(number) for number in range(1, 16)]
    assert unexpected(guest, *NOISE) == []


# What Linux says of each mistake, and whether it has the device in spite of it: drivers/usb/core/config.c, message.c.
MISTAKES = {
    "no-configuration": ("no configurations", False),
    "missing-configurations": (r"unable to read config index 1 descriptor/start: -32", False),
    "configuration-type": (r"unable to read config index 0 descriptor/start: -61", False),
    "total-length": (r"config index 0 descriptor too short \(expected 103, got 39\)", True),
    "cut": ("config 1 has an invalid descriptor of length 7, skipping remainder of the config", True),
    "zero-length": ("config 1 has an invalid descriptor of length 0, skipping remainder of the config", True),
    "interface-count": ("config 1 has 1 interface, different from the descriptor's value: 3", True),
    "interface-number": ("config 1 has an invalid interface number: 7 but max is 0", True),
    "endpoint-count": ("has 3 endpoint descriptors, different from the interface descriptor's value: 5", True),
    "endpoint-zero": ("has an invalid (endpoint with address 0x0|descriptor for endpoint zero), skipping", True),
    "endpoint-twice": ("has a duplicate endpoint with address 0x81, skipping", True),
    "packet-size": ("bulk endpoint 0x81 has invalid maxpacket 7", True),
    "interval": ("endpoint 0x82 has an invalid bInterval 0, changing to 7", True),
    "string": ("language id specifier not provided by device, defaulting to English", True),
}
HAS_IT, GAVE_UP = "SerialNumber=0", "unable to enumerate USB device"
IMPORT = f"/usr/bin/python3 -I -S {CHECKOUT / 'tests' / 'kernel' / 'import_at.py'}"  # usbip's own minds what failed
PORTS = 7  # at a time; vhci_hcd has eight for high speed


def mistaken(guest: Guest, port: int, first: int, count: int) -> dict[int, str]:
    """What the kernel says of so many devices of the server, by their port: they come one right after the other."""
    names = " ".join(f"1-{first + number}" for number in range(count))
    vhci = "/sys/devices/platform/vhci_hcd.0"
    said = guest.run(f"""
        modprobe vhci-hcd
        dmesg --clear
        {IMPORT} 0 {HOST} {port} unseen {names} >/dev/null
        until [ $(dmesg | grep -cE '{HAS_IT}|{GAVE_UP}') = {count} ]; do sleep 0.2; done
        dmesg --notime
        for number in $(seq 0 {count - 1}); do echo $number >{vhci}/detach; done
        while cat {STATUS} | grep "^hs" | grep -qv "^hs *[0-9]* {FREE}"; do sleep 0.1; done
    """, 120).ok()  # fmt: skip
    found: dict[int, str] = {}
    for number, line in re.findall(r"^usb (?:\d+-|usb\d+-port)(\d+): (.*)$", said, re.M):
        found[int(number)] = found.get(int(number), "") + f"{line}\n"
    return found


def test_what_the_kernel_says_of_each_mistake(guest: Guest, serve) -> None:
    assert list(MISTAKES) == list(broken.MISTAKES)
    names = list(MISTAKES)
    server = serve(*(f"virtual:broken?mistake={name}" for name in names))
    guest.mark()
    for first in range(0, len(names), PORTS):
        some = names[first : first + PORTS]
        heard = mistaken(guest, server.port, first + 1, len(some))
        for port, name in enumerate(some, 1):
            says, has_it = MISTAKES[name]
            assert re.search(says, heard[port]), f"{name}: {heard[port]}"
            assert (HAS_IT in heard[port], GAVE_UP in heard[port]) == (has_it, not has_it), f"{name}: {heard[port]}"
    assert guest.complaints() == []
