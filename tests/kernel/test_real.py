"""Real devices, as far as a guest has some: QEMU's, on xHCI. Our server exports them, the same guest's vhci has them.

QEMU's disk - xhci - usbfs - libusb - our server - USB/IP - vhci - usb-storage - sd
"""

import hashlib
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.guest import Guest, Step
from tests.kernel.steps import ATTACHED, FREE, STATUS, unexpected

MIB = 1 << 20
SIZE = 2 * MIB
POOL = 6  # threads of asyncio's, which come when two scans meet: two processors and four


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("real") / "stick.img"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture(scope="module")
def guest_options(image: Path) -> dict[str, Any]:
    return {
        "devices": ["usb-storage,id=stick,drive=stick,port=1", "usb-kbd,id=keys,port=2"],
        "qemu": ["-drive", f"id=stick,file={image},format=raw,if=none,cache=writethrough"],
    }


@pytest.fixture(scope="module")
def guest(guest: Guest) -> Guest:
    guest.run("""
        modprobe -a xhci-pci sd_mod usbhid hid-generic vhci-hcd && modprobe usb-storage delay_use=0 || exit
        cd /sys/bus/usb/devices
        until grep -qs HARDDRIVE */product && grep -qs "USB Keyboard" */product; do sleep 0.05; done
    """).ok()
    return guest


def bus_id(guest: Guest, product: str) -> str:
    """Of one of QEMU's devices."""
    return guest.run(f"basename $(dirname $(grep -l '{product}' /sys/bus/usb/devices/*/product))").ok().strip()


def serve(guest: Guest, *words: str) -> Step:
    """Our server in the guest."""
    command = shlex.join([sys.executable, "-m", "usbferry", "serve", "--listen", "127.0.0.1:3240", *words])
    step = guest.start(f"echo $$ >/run/server.pid; exec {command}", 240)
    while "listening on" not in step.output():
        assert not step.is_over(), step.wait().output
        guest.run("sleep 0.1").ok()
    return step


def attach(guest: Guest, name: str) -> str:
    """Import a device of the guest's own server; the disk that it is."""
    script = f"""
        usbip attach -r 127.0.0.1 -b {name} || exit
        until device=$(cat {STATUS} | sed -n "s/^.s .* {ATTACHED} .* //p") && [ -n "$device" ] &&
            block=$(echo /sys/bus/usb/devices/$device/*/host*/target*/*/block/sd*) && [ -e $block/size ] &&
            [ $(cat $block/size) != 0 ] && dd if=/dev/${{block##*/}} of=/dev/null count=1 status=none 2>/dev/null
        do sleep 0.05; done
        echo disk ${{block##*/}}
    """
    found = re.search(r"^disk (\S+)$", guest.run(script, 60).ok(), re.M)
    assert found
    return found[1]


def driver(guest: Guest, name: str) -> str:
    """Who has the device's interface."""
    return guest.run(f"basename $(readlink /sys/bus/usb/devices/{name}:1.0/driver) || true").ok().strip()


def until_driver(guest: Guest, name: str, wanted: str) -> None:
    interface = f"/sys/bus/usb/devices/{name}:1.0"
    guest.run(f'until [ "$(basename "$(readlink {interface}/driver)")" = {wanted} ]; do sleep 0.05; done', 60).ok()


def counted(guest: Guest) -> tuple[int, int]:
    """The server's threads and open files."""
    threads, files = guest.run("cd /proc/$(cat /run/server.pid); ls task | wc -l; ls fd | wc -l").ok().split()
    return int(threads), int(files)


def until_free(guest: Guest) -> None:
    guest.run(f"until ! cat {STATUS} | grep '^.s' | grep -qv ' {FREE} '; do sleep 0.05; done", 60).ok()


def detach_all(guest: Guest) -> None:
    guest.run(
        f"cat {STATUS} | while read hub port state rest; do [ $state = {ATTACHED} ] && usbip detach -p $port; done"
    )


def test_a_disk_and_a_keyboard_through_ourselves(guest, image):
    """The disk is read whole and written to; pulled out under a reader and plugged in again, by one server throughout.

    That one is killed in the end with the keyboard in its hands. Each time the kernel's own driver has it again.
    """
    stick, keyboard = bus_id(guest, "HARDDRIVE"), bus_id(guest, "QEMU USB Keyboard")
    guest.mark()
    server = serve(guest, "--force", "--match", "class=storage", "--match", "class=keyboard")

    disk = attach(guest, stick)
    assert driver(guest, stick) == "usbfs"
    read = guest.run(f"dd if=/dev/{disk} bs=256K iflag=direct status=none | sha256sum", 100).ok().split()[0]
    assert read == hashlib.sha256(image.read_bytes()).hexdigest()
    wrote = guest.run(f"""
        dd if=/dev/urandom of=/run/random bs=64K count=8 status=none
        dd if=/run/random of=/dev/{disk} bs=64K seek=16 oflag=direct conv=fsync status=none || exit
        sha256sum </run/random
    """).ok()
    assert unexpected(guest) == []
    detach_all(guest)
    until_free(guest)
    until_driver(guest, stick, "usb-storage")
    assert hashlib.sha256(image.read_bytes()[MIB : MIB + MIB // 2]).hexdigest() == wrote.split()[0]

    before = counted(guest)
    for _ in range(2):
        disk = attach(guest, stick)
        reading = guest.start(f"while dd if=/dev/{disk} of=/dev/null bs=64K iflag=direct status=none; do :; done")
        guest.run("sleep 0.3").ok()
        guest.monitor("device_del stick")
        reading.wait()
        until_free(guest)
        guest.monitor(f"drive_add 0 id=stick,file={image},format=raw,if=none,cache=writethrough")
        guest.monitor("device_add usb-storage,id=stick,drive=stick,port=1")
        until_driver(guest, stick, "usb-storage")
        guest.run(f"until usbip list -r 127.0.0.1 2>/dev/null | grep -q '{stick}:'; do sleep 0.1; done").ok()
    after = counted(guest)
    assert after[1] <= before[1], f"open files: {before}, {after}"
    assert after[0] <= before[0] + POOL, f"threads: {before}, {after}"

    guest.run(f"usbip attach -r 127.0.0.1 -b {keyboard}").ok()
    until_driver(guest, keyboard, "usbfs")
    guest.run("kill -KILL $(cat /run/server.pid)").ok()
    until_driver(guest, keyboard, "usbhid")
    until_free(guest)
    assert server.wait().rc == 137
    assert "Traceback" not in server.output()
    assert guest.complaints() == []
