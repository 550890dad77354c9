"""Gateways between kernels and QEMU: what one machine exports is another one's, the link cut and mended in between."""

import hashlib
import os
import subprocess
from contextlib import closing

import pytest

from tests.kernel.emulated import DISK, disk_path
from tests.kernel.redir.plugging import device_with, plugged, tell
from tests.kernel.redir.redirected import USBIP, listening, wait_until_it_listens
from tests.kernel.redir.wire import Wire
from tests.kernel.steps import attach, detach, unexpected, wait_until_free

SIZE = 1 << 20
# What the kernel says of a disk that is lost, though nobody uses it.
LOST = (r"\[sd\w\] Synchronize Cache", r"enqueue for inactive port", r"sendmsg failed!, ret=-(32|104)")


@pytest.fixture
def exported(exporting):
    """The bus id of the disk that the exporting machine's usbipd has, for the time of a test."""
    tell(exporting, "device_add usb-storage,id=exported,drive=exported,serial=exported")
    shown = exporting.run("""
        cd /sys/bus/usb/devices
        until device=$(grep -slx exported *-*/serial) && device=${device%/*} && [ -e $device:1.0 ]; do sleep 0.1; done
        echo -n $device >$device/driver/unbind
        echo -n add $device >/sys/bus/usb/drivers/usbip-host/match_busid
        echo -n $device >/sys/bus/usb/drivers/usbip-host/bind
        until usbip list -r 127.0.0.1 2>/dev/null | grep -q $device; do sleep 0.1; done
        echo $device
    """).ok()
    yield shown.split()[-1]
    tell(exporting, "device_del exported")


def write_file(guest, device, payload):
    """A file system on the disk, and a file in it, as the machine does it."""
    (guest.shared / "payload").write_bytes(payload)
    guest.run(f"""
        set -e
        {disk_path(device)}
        mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 $disk
        mount -t ext4 $disk /mnt
        cp $SHARED/payload /mnt/file
        umount /mnt
        sync
    """, 100).ok()  # fmt: skip


def read_file(guest, device):
    """The same file, read by the machine; its digest."""
    return guest.run(f"""
        {disk_path(device)}
        mount -t ext4 $disk /mnt && sha256sum </mnt/file && umount /mnt
    """, 100).ok().split()[0]  # fmt: skip


def has_the_file(image, payload, tmp_path):
    """Whether the image on this machine has it, says a tool that is not ours."""
    found = tmp_path / "found"
    subprocess.run(["/sbin/debugfs", "-R", f"dump /file {found}", image], check=True, capture_output=True, timeout=60)
    return found.read_bytes() == payload


def until_gone(guest, device):
    guest.run(f"while [ -e /sys/bus/usb/devices/{device} ]; do sleep 0.05; done", 60).ok()


def test_a_disk_of_usbipd_is_used_by_qemu(exporting, exported, guest, offer, files, tmp_path):
    """usbipd in one machine, we between them, usb-redir in the other. The device is lost with the link, and back."""
    payload = os.urandom(SIZE)
    with closing(Wire(exporting.ports[USBIP])) as wire:
        server, [port] = offer(f"usbip://127.0.0.1:{wire.port}/{exported}", "-v")
        with plugged(guest, port, debug=2) as plug:
            device = device_with(guest, "exported")
            write_file(guest, device, payload)
            assert has_the_file(files / "exported", payload, tmp_path)
            wire.cut()
            until_gone(guest, device)
            wire.mend()
            device = device_with(guest, "exported")
            assert read_file(guest, device) == hashlib.sha256(payload).hexdigest()
    assert "Traceback" not in server.log()
    assert [line for line in plug.log() if "error" in line] == []
    assert unexpected(guest, *LOST) == []


def test_a_disk_of_usbredirect_is_attached_to_a_kernel(exporting, guest, serve, files, tmp_path):
    """usbredirect in one machine, we between them, vhci_hcd in the other."""
    payload = os.urandom(SIZE)
    with listening(exporting, DISK) as port, closing(Wire(port)) as wire:
        server = serve(f"usbredir://127.0.0.1:{wire.port}", "-v")
        attached = attach(guest, server.port, "1-1")
        write_file(guest, attached.device, payload)
        assert has_the_file(files / "redirected", payload, tmp_path)
        wire.cut()
        wait_until_free(guest, attached)
        wait_until_it_listens(exporting, DISK)
        wire.mend()
        attached = attach(guest, server.port, "1-1")
        assert read_file(guest, attached.device) == hashlib.sha256(payload).hexdigest()
        detach(guest, attached)
    assert "Traceback" not in server.log()
    assert unexpected(guest, *LOST) == []
