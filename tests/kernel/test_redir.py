"""QEMU's usb-redir, connected to us: what we serve over usbredir is plugged into a virtual machine."""

import hashlib
import re

import pytest

from tests.kernel.steps import CASES, UNLINK_RETRY, unexpected, usbtest

MIB = 1 << 20
ISO = (15, 16, 22, 23)
# Its xHCI takes transfers ahead of the one that is under way. When the endpoint is stopped, as Linux does to unlink
# one, it cancels them all and forgets those (xhci_stop_ep, hw/usb/hcd-xhci.c: "data might be lost"), so the guest
# waits for them for ever. Its EHCI does not.
LOST_BY_XHCI = 24
# usbtest counts what QEMU answers while its 60 ms of packets gather, and says so; more than a tenth fails the case.
FIRST_PACKETS = r"during the test, \d+ errors out of \d+"
# QEMU completes interrupt OUT before we have answered, so what ends with a reset or an unlink is only logged.
HARMLESS = r"warning: interrupt output failed status 1 ep 04"


def words(cases):
    """Small counts: an emulated guest. More than this and isochronous packets are late in more than a tenth."""
    return " ".join(f"{n},iterations=10,{'length=32768,sglen=4' if n in ISO else 'vary=512'}" for n in cases)


@pytest.fixture
def machine(boot, serve, tmp_path):
    """A guest with a Gadget Zero behind xHCI and behind EHCI, and a disk; one process serves them, on three sockets."""
    names, image = ("zero", "disk", "slow"), tmp_path / "disk.img"
    sockets = {name: tmp_path / f"{name}.sock" for name in names}
    places = [f"--on=usbredir://{sockets[name]}?device=1-{n}" for n, name in enumerate(names, 1)]
    server = serve("virtual:zero", f"virtual:disk?image={image}&size=64M", "virtual:zero", *places)
    chardevs = [f"socket,id={name},path={path},reconnect=1" for name, path in sockets.items()]
    guest = boot(
        devices=("usb-ehci,id=ehci", "usb-redir,chardev=zero,bus=usb-bus.0,debug=2",
                 "usb-redir,chardev=disk,bus=usb-bus.0,debug=2", "usb-redir,chardev=slow,bus=ehci.0,debug=2"),
        qemu=[word for chardev in chardevs for word in ("-chardev", chardev)],
    )  # fmt: skip
    guest.image, guest.server = image, server
    guest.run("modprobe -a xhci_pci ehci_pci ext4 sd_mod usbtest && modprobe usb-storage delay_use=0").ok()
    return guest


def plugged(guest, controller, vendor):
    """The name of a device behind a controller, once its driver has it."""
    found = guest.run(f"""
        for n in $(seq 300); do
            for device in /sys/bus/usb/devices/[0-9]*-*; do
                [ -e $device/idVendor ] && [ "$(cat $device/idVendor)" = {vendor} ] || continue
                driver=$(basename $(readlink $(readlink -f $device/../..)/driver))
                case $driver in {controller}*) [ -e $device:1.0/driver ] && basename $device && exit;; esac
            done
            sleep 0.1
        done
        lsusb -t; exit 1
    """, 60).ok()  # fmt: skip
    return found.split()[-1]


@pytest.mark.timeout(400)
def test_a_virtual_machine_uses_our_devices(machine):
    guest = machine
    guest.mark()
    fast, slow = plugged(guest, "xhci", "0525"), plugged(guest, "ehci", "0525")
    run = usbtest(guest, f"device={fast} alt=1 {words(c for c in CASES if c != LOST_BY_XHCI)}", 150)
    assert (run.speed, run.failed) == ("480", {})
    assert run.passed == [c for c in CASES if c != LOST_BY_XHCI]
    run = usbtest(guest, f"device={slow} alt=1 {words(CASES)}", 150)
    assert (run.speed, run.failed) == ("480", {})
    assert run.passed == list(CASES)

    disk = plugged(guest, "xhci", "46f4")
    digest = guest.run(f"""
        set -e
        until disk=$(basename $(ls -d /sys/bus/usb/devices/{disk}:1.0/host*/target*/*/block/*)) && [ -e /dev/$disk ]
        do sleep 0.1; done
        mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/$disk
        mount -t ext4 /dev/$disk /mnt
        dd if=/dev/urandom of=/mnt/random bs=1M count=32 conv=fsync status=none
        echo 3 >/proc/sys/vm/drop_caches
        sha256sum </mnt/random
        umount /mnt
        sync
        dd if=/dev/$disk bs=1M iflag=direct status=none | sha256sum
    """, 150).ok().split()  # fmt: skip
    assert len(digest[0]) == 64
    assert hashlib.sha256(guest.image.read_bytes()).hexdigest() == digest[2]
    assert guest.image.stat().st_size == 64 * MIB

    assert unexpected(guest, UNLINK_RETRY, FIRST_PACKETS) == []
    said = [line for line in guest.qemu_said().splitlines() if line.strip() and not re.search(HARMLESS, line)]
    assert said == []
    assert "Traceback" not in guest.server.log()
