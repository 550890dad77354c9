"""Devices that a guest exports with the kernel's own server, usbipd: QEMU's, and how a test talks to them."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tests.kernel.emulated import NET
from tests.kernel.guest import Guest

PORT = 3240
DEVICES = 10  # not counting QEMU's hub, which it adds for more than its controller has ports
DISK_BYTES = 8 << 20
# The kernel says so at error level whenever an importer closes.
CLOSED = r"^usbip-host \S+: recv a header, 0$"


class Known(NamedTuple):
    """A device as the exporting kernel's sysfs has it."""

    name: str
    speed: str
    vendor: str
    product: str
    texts: list[str]
    descriptors: bytes


def guest_options(files: Path, ports: Iterable[int] = ()) -> dict[str, Any]:
    """Options of class Guest: ten devices, whose contents and sockets are in `files`."""
    (files / "disk").write_bytes(os.urandom(DISK_BYTES))
    (files / "mtp").mkdir()
    (files / "mtp" / "noise").write_bytes(os.urandom(100_000))
    return {
        "forward": [PORT, *ports],
        "devices": [
            "usb-storage,drive=disk", "usb-kbd", "usb-mouse", "usb-tablet", "usb-wacom-tablet,id=wacom",
            "usb-audio,audiodev=audio", "usb-serial,chardev=serial,always-plugged=on", "usb-net,netdev=usb",
            "usb-ccid,id=ccid", f"usb-mtp,rootdir={files / 'mtp'}", "ccid-card-passthru,bus=ccid.0,chardev=card",
        ],
        "qemu": [
            "-blockdev", f"raw,node-name=disk,file.driver=file,file.filename={files / 'disk'}",
            "-audiodev", f"wav,id=audio,path={files / 'wav'},out.frequency=48000",
            "-chardev", f"socket,id=serial,path={files / 'serial'},server=on,wait=off",
            "-chardev", f"socket,id=card,path={files / 'card'},server=on,wait=off",
            "-netdev", f"user,id=usb,restrict=on,net={NET}.0/24",
        ],
    }  # fmt: skip


def export(guest: Guest) -> dict[str, Known]:
    """Have the guest export them all; what they are, by bus id."""
    guest.run("modprobe -a xhci_pci usbip-host && usbipd -D").ok()
    shown = guest.run(f"""
        cd /sys/bus/usb/devices
        stub=/sys/bus/usb/drivers/usbip-host
        devices() {{ grep -Lx 09 $(ls -d *-* | grep -v : | sed s,$,/bDeviceClass,) | cut -d/ -f1; }}  # 09: hubs
        until [ $(devices | wc -l) = {DEVICES} ]; do sleep 0.1; done
        for device in $(devices); do
            until [ -e $device:?.0 ]; do sleep 0.1; done  # configured
            cd $device
            echo $device $(cat speed idVendor idProduct) $(od -An -v -tx1 descriptors | tr -d ' \\n')
            cat manufacturer product serial
            cd ..
            echo -n $device >$device/driver/unbind  # from here as `usbip bind`, whose starts take a second each
            echo -n add $device >$stub/match_busid
            echo -n $device >$stub/bind
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


def named(known: dict[str, Known], what: str) -> str:
    """The bus id of the device with this product name, or vendor and product number."""
    (name,) = [one.name for one in known.values() if what in (f"{one.vendor}:{one.product}", one.texts[1])]
    return name
