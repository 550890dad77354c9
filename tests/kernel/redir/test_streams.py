"""Bulk streams: Linux's uas driver on QEMU's xHCI, through usb-redir, uses our disk by a stream for each command."""

import hashlib
import re

from tests.kernel.redir.plugging import EHCI, device_with, plugged
from tests.kernel.steps import unexpected

MIB = 1 << 20


def test_the_uas_driver_reads_and_writes_by_streams(guest, offer, tmp_path):
    image = tmp_path / "disk.img"
    server, [port] = offer(f"virtual:uas?image={image}&size=16M&speed=super&serial=streams", "-vv")
    with plugged(guest, port, debug=4) as plug:
        disk = device_with(guest, "streams")
        said = guest.run(f"""
            set -e
            cd /sys/bus/usb/devices/{disk}:1.0
            until disk=$(basename host*/target*/*/block/*) && [ -b "/dev/$disk" ]; do sleep 0.1; done
            echo $(basename $(readlink driver)) $(cat ../speed)
            mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/$disk
            mount -t ext4 /dev/$disk /mnt
            for file in 1 2 3 4; do dd if=/dev/urandom of=/mnt/$file bs=256k count=4 conv=fsync status=none & done
            wait
            sha256sum /mnt/? | cut -d' ' -f1
            echo 3 >/proc/sys/vm/drop_caches
            for file in 1 2 3 4; do sha256sum </mnt/$file >/tmp/sum$file & done
            wait
            cat /tmp/sum?
            umount /mnt
            dd if=/dev/$disk bs=1M iflag=direct status=none | sha256sum
        """, 150).ok()  # fmt: skip
        guest.run(f"echo {disk}:1.0 >/sys/bus/usb/drivers/uas/unbind").ok()  # which gives the streams back
    driver, *lines = said.splitlines()
    digests = [line.split()[0] for line in lines]
    assert driver == "uas 5000"
    assert digests[:4] == digests[4:8]
    assert digests[8] == hashlib.sha256(image.read_bytes()).hexdigest()
    used = {int(number) for number in re.findall(r"bulk-(?:in|out) ep \w\w stream (\d+)", "\n".join(plug.log()))}
    assert len(used - {0}) > 4
    assert [line for line in plug.log() if re.search("error|warning", line, re.I)] == []
    assert unexpected(guest) == []
    assert "Traceback" not in server.log()


def test_below_super_speed_it_takes_turns(guest, offer, tmp_path):
    """On EHCI, where there are no streams: READ READY and WRITE READY."""
    image = tmp_path / "disk.img"
    _, [port] = offer(f"virtual:uas?image={image}&size=16M&serial=turns")
    with plugged(guest, port, EHCI, debug=2) as plug:
        disk = device_with(guest, "turns")
        said = guest.run(f"""
            set -e
            cd /sys/bus/usb/devices/{disk}:1.0
            until disk=$(basename host*/target*/*/block/*) && [ -b "/dev/$disk" ]; do sleep 0.1; done
            basename $(readlink driver)
            dd if=/dev/urandom of=/dev/$disk bs=256k count=16 oflag=direct conv=fsync status=none
            dd if=/dev/$disk bs=256k iflag=direct status=none | sha256sum
        """, 60).ok()  # fmt: skip
    driver, digest = said.splitlines()
    assert (driver, digest.split()[0]) == ("uas", hashlib.sha256(image.read_bytes()).hexdigest())
    assert plug.log() == []
    assert unexpected(guest) == []
