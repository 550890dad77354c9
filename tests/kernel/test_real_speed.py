"""How fast our libusb server is beside the kernel's own, usbip-host: the same devices, client and guest, in turns.

    USBFERRY_SOAK=1 pytest -s tests/kernel/test_real_speed.py     the figures of docs/real-devices.md

Python is emulated here, and so is the kernel: a ratio says something, a MB/s does not.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.kernel import zeros
from tests.kernel.guest import CHECKOUT, Guest
from tests.kernel.steps import usbtest

SOAK = os.environ.get("USBFERRY_SOAK", "") not in ("", "0")
ROUNDS, MIB, DISK_MIB = (5, 64, 32) if SOAK else (1, 8, 1)
# Of usbip-host's throughput, where both came to speed; in one short round most of the time is the first of everything.
# 0.35 is what it should be, and is where the host has time: docs/real-devices.md has the figures and what bounds them.
LEAST = 0.25 if SOAK else 0.03
HERE = "127.0.0.1"
PORTS = {"usbip-host": 3240, "usbferry": 3241}
IMPORT_AT = CHECKOUT / "tests" / "kernel" / "import_at.py"
VHCI = "/sys/devices/platform/vhci_hcd.0"
CHUNK, QUEUE = 65536, 16  # bytes of a transfer; how many usbtest has in flight
CASES = {27: "bulk out", 28: "bulk in"}  # usbtest's
WORKS = (*CASES.values(), "disk write", "disk read")


@pytest.fixture(scope="module")
def guest_options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    image = tmp_path_factory.mktemp("speed") / "disk.img"
    with image.open("wb") as file:
        file.truncate(DISK_MIB << 20)
    return {
        "cpus": 2,
        "devices": ["usb-storage,drive=disk"],
        "qemu": ["-drive", f"id=disk,file={image},format=raw,if=none,cache=unsafe"],
    }


@pytest.fixture(scope="module")
def devices(guest: Guest) -> list[str]:
    """The bus ids of a Gadget Zero on dummy_hcd, and of QEMU's disk on xHCI, both at super speed."""
    zero = zeros.make(guest, pattern=0)["super"]
    disk = guest.run("""
        modprobe -a xhci-pci sd_mod vhci-hcd usbip-host usbtest && modprobe usb-storage delay_use=0 || exit
        cd /sys/bus/usb/devices
        until grep -qs HARDDRIVE */product; do sleep 0.05; done
        usbipd -D
        basename $(dirname $(grep -l HARDDRIVE */product))
    """).ok()
    return [zero, disk.strip()]


@contextmanager
def by_the_kernel(guest: Guest, devices: list[str]) -> Iterator[None]:
    """Exported by usbip-host, as `usbip bind` and `unbind` do it."""
    stub = "/sys/bus/usb/drivers/usbip-host"
    guest.run(f"""
        for device in {" ".join(devices)}; do
            echo -n $device >/sys/bus/usb/devices/$device/driver/unbind
            echo -n add $device >{stub}/match_busid
            echo -n $device >{stub}/bind || exit
        done
    """).ok()
    yield
    guest.run(f"""
        for device in {" ".join(devices)}; do
            echo -n $device >{stub}/unbind
            echo -n del $device >{stub}/match_busid
            echo -n $device >{stub}/rebind
            until [ -e /sys/bus/usb/devices/$device:1.0/driver ]; do sleep 0.05; done
        done
    """).ok()


@contextmanager
def by_us(guest: Guest, devices: list[str]) -> Iterator[None]:
    command = [sys.executable, "-m", "usbferry", "serve", "--listen", f"{HERE}:{PORTS['usbferry']}"]
    command += [f"usb:{device}" for device in devices]
    step = guest.start(f"echo $$ >/run/server.pid; exec {shlex.join(command)}", 600)
    while "listening on" not in step.output():
        assert not step.is_over(), step.wait().output
        guest.run("sleep 0.1").ok()
    yield
    guest.run("kill -TERM $(cat /run/server.pid)").ok()
    result = step.wait()
    assert (result.rc, "Traceback" in result.output) == (0, False), result.output


EXPORTED = {"usbip-host": by_the_kernel, "usbferry": by_us}


def measured(guest: Guest, server: str, devices: list[str]) -> list[float]:
    """MB/s of each work, through one server."""
    with EXPORTED[server](guest, devices):
        command = f"/usr/bin/python3 -I -S {IMPORT_AT} 0 {HERE} {PORTS[server]} {' '.join(devices)}"
        zero, disk = guest.run(command, 120).ok().split()
        count = (MIB << 20) // CHUNK // QUEUE
        words = " ".join(f"{case},iterations={count},length={CHUNK},sglen={QUEUE}" for case in CASES)
        run = usbtest(guest, f"reload=0 device={zero} {words}", 300)
        assert run.passed == list(CASES)
        said = guest.run(
            f"""
            until block=$(echo /sys/bus/usb/devices/{disk}/*/host*/target*/*/block/sd*) && [ -e $block/size ] &&
                [ $(cat $block/size) != 0 ] && (: </dev/${{block##*/}}) 2>/dev/null; do sleep 0.02; done
            disk=/dev/${{block##*/}}
            dd if=/dev/zero of=$disk bs=64K count={DISK_MIB * 16} oflag=direct
            dd if=$disk of=/dev/null bs=64K count={DISK_MIB * 16} iflag=direct
            for port in $(sed -n 's/^.s *\\([0-9]*\\) 006 .*/\\1/p' {VHCI}/status); do
                echo -n $((10#$port)) >{VHCI}/detach
            done
            while grep -q '^.s *[0-9]* 006' {VHCI}/status; do sleep 0.02; done
            """,
            300,
        ).ok()
    seconds = [float(found) for found in re.findall(r"copied, ([0-9.e-]+) s", said)]
    assert len(seconds) == 2, said
    return [(MIB << 20) / run.seconds[case] / 1e6 for case in CASES] + [(DISK_MIB << 20) / s / 1e6 for s in seconds]


@pytest.mark.alone
@pytest.mark.timeout(3600 if SOAK else 300)
def test_64_kib_transfers_beside_the_kernels_own_server(guest, devices):
    """The best of some rounds counts: what else the machine does can only take away from it."""
    rounds: dict[str, list[list[float]]] = {server: [] for server in EXPORTED}
    for _ in range(ROUNDS):
        for server, found in rounds.items():
            found.append(measured(guest, server, devices))
    best = {server: [max(each) for each in zip(*found, strict=True)] for server, found in rounds.items()}
    ratios: dict[str, float] = {}
    print(f"\n{'64 KiB, MB/s':16}{'usbip-host':>12}{'usbferry':>12}{'ratio':>8}")
    for work, theirs, ours in zip(WORKS, best["usbip-host"], best["usbferry"], strict=True):
        ratios[work] = ours / theirs
        print(f"{work:16}{theirs:12.1f}{ours:12.1f}{ratios[work]:8.2f}")
    assert min(ratios[work] for work in CASES.values()) >= LEAST, (ratios, rounds)  # a disk's vary too much
