"""A disk through usb-redir in a machine: what ours takes beside usbredirect, one after the other."""

import logging
import os
import re
from contextlib import contextmanager

from tests.kernel.emulated import DISK, disk_path, said
from tests.kernel.redir.plugging import plugged
from tests.kernel.redir.redirected import DISK_BYTES, PORTS, listening, wait_until_it_listens
from tests.kernel.redir.test_usbredirect import PYTHON

MIB = DISK_BYTES >> 20
SOAK = os.environ.get("USBFERRY_SOAK", "") not in ("", "0")
log = logging.getLogger(__name__)


@contextmanager
def served_there(guest):
    """Our server beside the same device, in the same emulated machine as usbredirect."""
    step = guest.start(
        f"echo $$; exec {PYTHON} -m usbferry serve usb:{DISK} --on usbredir://0.0.0.0:{PORTS[DISK]}", 600
    )
    said(step, "listening", 90)
    wait_until_it_listens(guest, DISK)
    yield guest.ports[PORTS[DISK]]
    guest.run(f"kill {step.output().split()[0]}").ok()
    step.wait()


def seconds(guest, port):
    """To write and to read the whole of a disk, in the machine's own time: in both directions it is its own clock."""
    with plugged(guest, port, debug=2) as plug:
        found = guest.run(f"""
            cd /sys/bus/usb/devices
            until device=$(grep -slx 46f4 *-*/idVendor) && device=${{device%/*}}; do sleep 0.05; done
            {disk_path("$device")}
            dd if=/dev/zero of=$disk bs=1M count={MIB} oflag=direct conv=fsync
            dd if=$disk of=/dev/null bs=1M count={MIB} iflag=direct
        """, 300).ok()  # fmt: skip
        assert plug.log() == []
    took = [float(text) for text in re.findall(r"copied, ([\d.e-]+) s", found)]
    assert len(took) == 2
    return took


def test_a_disk_is_as_quick_as_usbredirects(exporting, guest, offer):
    """Ours is on the host, as beside a user's device; in `make soak` also where usbredirect is, emulated like it."""
    _, [port] = offer(f"virtual:disk?size={MIB}M&speed=super")
    rows = {"usbferry on the host": seconds(guest, port)}
    with listening(exporting, DISK) as port:
        rows["usbredirect in a guest"] = seconds(guest, port)
    if SOAK:
        with served_there(exporting) as port:
            rows["usbferry in that guest"] = seconds(guest, port)
    for name, (out, back) in rows.items():
        log.warning("%s: %d MiB out %.2f s, in %.2f s", name, MIB, out, back)
    reference = rows["usbredirect in a guest"]
    slow = {name: took for name, took in rows.items() if sum(took) > 1.5 * sum(reference)}
    assert slow == {}, rows
