"""A guest whose USB devices are QEMU's, on three controllers and behind hubs, and our server in it, which shares them.

    QEMU's device - xHCI, EHCI, UHCI - usbfs - libusb - our server - USB/IP - vhci - the kernel's own driver

A device is called by what it is and where it sits, `disk-ehci`: that is its serial number too, by which all find it.
"""

import os
import re
import shlex
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.kernel.emulated import MODULES, NET
from tests.kernel.guest import Guest, Step
from tests.kernel.steps import ATTACH_ALL, ATTACHED, FREE, STATUS

PORT: Final = 3240
DISK_BYTES: Final = (64 if os.environ.get("USBFERRY_SOAK") else 2) << 20
SLOW_BYTES: Final = DISK_BYTES // 8  # at full speed: UHCI moves a megabyte in a second at best


class Emulated(NamedTuple):
    """One of QEMU's devices."""

    kind: str  # QEMU's name and options
    bus: str
    port: str
    driver: str  # the kernel's for it, "" where it has none

    def options(self, name: str) -> str:
        """What -device and device_add take."""
        return f"{self.kind},id={name},serial={name},bus={self.bus}.0,port={self.port}"


# Keys go to the keyboard that was added last, and to the one before it when that one leaves.
DEVICES: Final = {
    "disk-xhci": Emulated("usb-storage,drive=disk-xhci", "xhci", "1", "usb-storage"),
    "disk-ehci": Emulated("usb-storage,drive=disk-ehci", "ehci", "1", "usb-storage"),
    "disk-uhci": Emulated("usb-storage,drive=disk-uhci", "uhci", "1.1", "usb-storage"),
    "uas-xhci": Emulated("usb-uas", "xhci", "2", "uas"),
    "uas-ehci": Emulated("usb-uas", "ehci", "2", "uas"),
    "keys-uhci": Emulated("usb-kbd", "uhci", "1.2", "usbhid"),
    "keys-ehci": Emulated("usb-kbd", "ehci", "3", "usbhid"),
    "keys-xhci": Emulated("usb-kbd", "xhci", "8.1", "usbhid"),
    "serial-xhci": Emulated("usb-serial,chardev=serial-xhci,always-plugged=on", "xhci", "8.2", "ftdi_sio"),
    "serial-uhci": Emulated("usb-serial,chardev=serial-uhci,always-plugged=on", "uhci", "1.3", "ftdi_sio"),
    "sound-xhci": Emulated("usb-audio,audiodev=sound-xhci", "xhci", "3", "snd-usb-audio"),
    "sound-uhci": Emulated("usb-audio,audiodev=sound-uhci", "uhci", "2", "snd-usb-audio"),
    "card-xhci": Emulated("usb-ccid", "xhci", "4", ""),
    "files-ehci": Emulated("usb-mtp", "ehci", "4", ""),
    "net-xhci": Emulated("usb-net,netdev=net-xhci", "xhci", "5", "cdc_ether"),
}
DISKS: Final = tuple(name for name in DEVICES if name.startswith(("disk", "uas")))
# uas on SuperSpeed needs bulk streams, which vhci has not: `streams` in direct.py has it.
SHARED: Final = tuple(name for name in DEVICES if name != "uas-xhci")


def guest_options(files: Path) -> dict[str, Any]:
    """Options of class Guest. The disks' contents, what is heard, and the far sides' sockets are in `files`."""
    (files / "mtp").mkdir()
    (files / "mtp" / "noise").write_bytes(os.urandom(100_000))
    words = [
        "-device",
        "qemu-xhci,id=xhci,p2=8,p3=8",
        "-device",
        "usb-ehci,id=ehci",
        "-device",
        "piix3-usb-uhci,id=uhci",
    ]
    words += ["-device", "usb-hub,bus=uhci.0,port=1", "-device", "usb-hub,bus=xhci.0,port=8"]
    words += ["-netdev", f"user,id=net-xhci,restrict=on,net={NET}.0/24"]
    for name in DISKS:
        (files / name).write_bytes(os.urandom(SLOW_BYTES if DEVICES[name].bus == "uhci" else DISK_BYTES))
        words += ["-blockdev", f"raw,node-name={name},file.driver=file,file.filename={files / name}"]
    for name, device in DEVICES.items():
        kind = name.partition("-")[0]
        if kind == "sound":
            words += ["-audiodev", f"wav,id={name},path={files / name},out.frequency=48000"]
        if kind in ("serial", "card"):
            words += ["-chardev", f"socket,id={name},path={files / name},server=on,wait=off"]
        options = device.options(name)
        words += ["-device", options.replace("usb-mtp", f"usb-mtp,rootdir={files / 'mtp'}")]
        if kind == "uas":
            words += ["-device", f"scsi-hd,bus={name}.0,drive={name}"]
        if kind == "card":
            words += ["-device", f"ccid-card-passthru,bus={name}.0,chardev={name}"]
    return {"cpus": 2, "qemu": words, "forward": [PORT, PORT + 1]}


class Machine:
    """The guest, once its own drivers have its devices. `bus_ids` by name."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        guest.run(f"""
            modprobe usb-storage delay_use=0 && modprobe -a uas {MODULES} vhci-hcd &&
                modprobe -a xhci-pci ehci-pci uhci-hcd
        """).ok()
        self.bus_ids: dict[str, str] = {}
        self.find(DEVICES)

    def find(self, names: Iterable[str]) -> None:
        """Wait until these are there and their drivers have them; learn their bus ids."""
        lines = "\n".join(f"{name} {DEVICES[name].driver or 'none'}" for name in names)
        found = self.guest.run(
            f"""
            cd /sys/bus/usb/devices
            while read -r name driver; do
                until id=$(grep -lx $name */serial 2>/dev/null) && id=${{id%%/*}} && [ -e $id:1.0 ] &&
                    [ $driver = none -o "$(basename $(readlink $id:?.0/driver) 2>/dev/null)" = $driver ]
                do sleep 0.05; done
                echo $name $id
            done <<'.'
{lines}
.
        """,
            100,
        ).ok()
        self.bus_ids |= dict(line.split() for line in found.splitlines())

    def unplug(self, name: str) -> None:
        self.guest.monitor(f"device_del {name}")

    def plug(self, name: str) -> None:
        """Into the port where it was; its driver has it then."""
        give_up = time.monotonic() + 20
        while "Error" in (answer := self.guest.monitor(f"device_add {DEVICES[name].options(name)}")):
            assert time.monotonic() < give_up, answer  # what it had may not be free yet
            time.sleep(0.05)
        self.find([name])

    def plug_all(self) -> None:
        """What is not there, for a test failed in the middle."""
        there = self.guest.monitor("info usb")
        for name in DEVICES:
            if not re.search(rf"ID: {name}\b", there):
                self.plug(name)

    def drivers(self, devices: Iterable[str]) -> list[str]:
        """Who has the first interface of each, by its name in sysfs; "" for nobody."""
        script = "\n".join(f'echo "$(basename "$(readlink /sys/bus/usb/devices/{one}:?.0/driver)")"' for one in devices)
        return self.guest.run(script).ok().splitlines()

    def serve(self, *words: str, port: int = PORT) -> Step:
        """Our server in the guest."""
        command = shlex.join([sys.executable, "-m", "usbferry", "serve", "--listen", f"0.0.0.0:{port}", *words])
        step = self.guest.start(f"echo $$ >/run/server.{port}.pid; exec {command}", 3600)
        while "listening on" not in step.output():
            assert not step.is_over(), step.wait().output
            time.sleep(0.05)
        return step

    def attach(self, names: Iterable[str]) -> dict[str, str]:
        """Import these from the guest's own server; what they are called on the bus of vhci."""
        addresses = {f"usbip://127.0.0.1/{self.bus_ids[name]}": name for name in names}
        output = self.guest.run(f"{ATTACH_ALL} {' '.join(addresses)}", 150).ok()
        attached = {addresses[line.split()[0]]: line.split()[1] for line in output.splitlines()}
        for name, device in attached.items():
            if driver := DEVICES[name].driver:
                path = f"/sys/bus/usb/devices/{device}:?.0/driver"
                self.guest.run(f'until [ "$(basename $(readlink {path}))" = {driver} ]; do sleep 0.05; done', 60).ok()
        return attached

    def detach_all(self) -> None:
        """Give back what is imported; wait until all is free, and its own drivers have it again."""
        self.guest.run(f"""
            cat {STATUS} | while read hub port state rest; do
                [ $state = {ATTACHED} ] && echo $((10#$port)) >/sys/devices/platform/vhci_hcd.0/detach
            done
        """)
        self.until_free()

    def until_free(self) -> None:
        self.guest.run(f"until ! cat {STATUS} | grep '^.s' | grep -qv ' {FREE} '; do sleep 0.05; done", 60).ok()

    def counted(self) -> tuple[int, int]:
        """The server's threads and open files."""
        shown = self.guest.run(f"cd /proc/$(cat /run/server.{PORT}.pid); ls task | wc -l; ls fd | wc -l").ok()
        threads, files = re.findall(r"\d+", shown)
        return int(threads), int(files)
