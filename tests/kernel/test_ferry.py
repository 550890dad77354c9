"""The kernel uses devices over ferry: it notices nothing of connections that are cut, and of packets that are lost.

On a disk each write happens once: the kernel counts the sectors that it wrote, and the disk those that it was told to
write; and no command came twice.
"""

import hashlib
import os
import random
import re
import shlex
import sys
import time
from contextlib import contextmanager

import pytest

from tests import pcap
from tests.kernel.dissected import Dissected
from tests.kernel.ferrying import Cutter, Host, Weather, disk
from tests.kernel.guest import Guest
from tests.kernel.steps import CASES, HOST, UNLINK_RETRY, Attached, disk_of, unexpected, usbtest
from tests.kernel.test_attach import once_it_says
from usbferry.backends.virtual import VirtualSource

SOAK = os.environ.get("USBFERRY_SOAK", "") not in ("", "0")
CUTS, LONGEST = (10, 10.0) if SOAK else (3, 1.0)  # how often, and for how many seconds at most
USBFERRY = f"env USBFERRY_LOOP=asyncio {shlex.quote(sys.executable)} -m usbferry"
COPIES = 40 if SOAK else 1  # of files, where the weather is bad
ITERATIONS = 100 if SOAK else 3  # of a case of usbtest
SEED = 20080902

# Writes files and reads them again, as long as nobody says that it is enough; how many that were is the last line.
COPYING = """
    set -e
    mkfs.ext4 -q -N 64 /dev/DISK
    mount -t ext4 /dev/DISK /mnt
    echo mounted
    for n in $(seq 10000); do
        dd if=/dev/urandom of=/mnt/file bs=64k count=BLOCKS status=none
        there=$(sha256sum </mnt/file)
        sync /mnt/file
        echo 3 >/proc/sys/vm/drop_caches
        [ "$(sha256sum </mnt/file)" = "$there" ]
        mv /mnt/file /mnt/file$((n % 4))
        echo copied $n
        [ ! -e $SHARED/enough ] || break
    done
    cat /mnt/file? | sha256sum
    umount /mnt
    fsck.ext4 -f -n /dev/DISK >&2
    sync
    dd if=/dev/DISK bs=1M iflag=direct status=none | sha256sum
    read -r _ _ _ _ _ _ sectors _ </sys/block/DISK/stat
    echo written $sectors
"""


@pytest.fixture(scope="module")
def guest(guest: Guest) -> Guest:
    guest.run("modprobe -a vhci-hcd ext4 sd_mod usbtest && modprobe usb-storage delay_use=0").ok()
    return guest


@contextmanager
def serving(*sources):
    host = Host(*sources)
    try:
        yield host
    finally:
        host.close()


@contextmanager
def attached(guest, address):
    """A relay in the guest; its device, once it is there."""
    relay = guest.start(f"exec {USBFERRY} attach -v {address}", 3000)
    said = once_it_says(relay, "it goes through this process")
    there = re.search(r"^port (\d+): .* is (\S+) here", said, re.MULTILINE)
    yield Attached(int(there[1]), there[2])
    guest.run(f"{USBFERRY} detach {there[1]}").ok()
    assert relay.wait().rc == 0


def copied(step):
    return step.output().count("copied ")


def assert_kernel_noticed_nothing(guest, source, step, image):
    output = step.wait().ok()
    _, whole, written = output.splitlines()[-3:]
    assert hashlib.sha256(image.read_bytes()).hexdigest() == whole.split()[0]
    assert source.repeated == []
    assert source.written == int(written.split()[1]) > 200
    assert unexpected(guest) == []


@pytest.mark.timeout(1500 if SOAK else 300)
def test_a_disk_whose_connection_is_cut(guest, tmp_path, capsys):
    """Each kind of cut: what was on its way is sent again, and what was done is not done again."""
    source, chance = disk(tmp_path, "16M" if SOAK else "4M"), random.Random(SEED)
    with serving(source) as host:
        cutter = host.behind(Cutter(host.ports["tcp"], SEED))

        def cuts(work):
            for number in range(CUTS):
                before = copied(work)
                host.do(cutter.cut(Cutter.KINDS[number % len(Cutter.KINDS)], chance.uniform(LONGEST / 2, LONGEST)))
                wait_for_copies(work, before + 1)  # the one that was under way ends well

        copy_files(guest, source, f"ferry://{HOST}:{cutter.port}/1-1", 16 if SOAK else 4, cuts, tmp_path / "disk.img")
    assert len(cutter.cuts) == CUTS
    assert cutter.connections > CUTS
    with capsys.disabled():
        sys.stdout.write(
            f"\n{CUTS} cuts, {cutter.connections} connections, {len(source.commands)} commands of the disk"
        )
    assert_decoded(cutter, tmp_path / "cuts.pcap")


@pytest.mark.timeout(1500 if SOAK else 300)
def test_a_disk_over_a_network_that_loses_packets(guest, tmp_path, capsys):
    source = disk(tmp_path, "16M" if SOAK else "1M")
    with serving(source) as host:
        weather = host.behind(Weather(host.ports["udp"], SEED, lost=0.05, doubled=0.02, late=0.05))
        address = f"ferry+udp://{HOST}:{weather.port}/1-1"
        copy_files(guest, source, address, 1, lambda work: wait_for_copies(work, COPIES), tmp_path / "disk.img")
    with capsys.disabled():
        sys.stdout.write(f"\n{dict(weather.counts)} packets, {len(source.commands)} commands of the disk")
    total = weather.counts.total()
    assert weather.counts["lost"] > total * 0.03
    assert min(weather.counts["doubled"], weather.counts["late"]) > total * 0.01


def copy_files(guest, source, address, blocks, meanwhile, image):
    """Have a file system on the disk written and read, in files of `blocks` of 64 KiB, while something happens."""
    guest.run("rm -f $SHARED/enough").ok()
    guest.mark()
    with attached(guest, address) as device:
        work = guest.start(COPYING.replace("DISK", disk_of(guest, device)).replace("BLOCKS", str(blocks)), 1400)
        try:
            once_it_says(work, "mounted")
            meanwhile(work)
        finally:
            (guest.shared / "enough").touch()
        assert_kernel_noticed_nothing(guest, source, work, image)


def wait_for_copies(work, count, seconds=150):
    deadline = time.monotonic() + seconds
    while copied(work) < count:
        assert not work.is_over(), work.wait()
        assert time.monotonic() < deadline, work.output()
        time.sleep(0.05)


@pytest.mark.timeout(3600 if SOAK else 300)
@pytest.mark.parametrize("transport", ["tcp", "udp"] if SOAK else ["tcp"])
def test_all_30_cases_of_usbtest_pass(guest, transport):
    guest.mark()
    with serving(VirtualSource("virtual:zero")) as host:
        scheme = "ferry" if transport == "tcp" else f"ferry+{transport}"
        assert_usbtest_passes(guest, f"{scheme}://{HOST}:{host.ports[transport]}/1-1")


@pytest.mark.timeout(3600 if SOAK else 300)
@pytest.mark.parametrize("scheme", ["ferry+seqpacket", "ferry"] if SOAK else ["ferry+seqpacket"])
def test_all_30_cases_of_usbtest_pass_through_a_socket_file(guest, scheme):
    """The server is in the guest too, where the file is: both sides are emulated."""
    guest.mark()
    server = guest.start(f"echo $$; exec {USBFERRY} serve virtual:zero --on {scheme}:///run/zero", 3000)
    once_it_says(server, "listening")
    assert_usbtest_passes(guest, f"{scheme}:///run/zero?device=1-1")
    guest.run(f"kill {server.output().split()[0]}").ok()
    assert server.wait().rc == 0


def assert_usbtest_passes(guest, address):
    with attached(guest, address) as device:
        words = " ".join(f"{case},iterations={ITERATIONS},vary=512,length=1024,sglen=4" for case in CASES)
        run = usbtest(guest, f"device={device.device} alt=1 {words}", 3500 if SOAK else 240)
    assert (run.speed, run.failed) == ("480", {})
    assert run.passed == list(CASES)
    assert unexpected(guest, UNLINK_RETRY) == []


def assert_decoded(cutter, path):
    """Wireshark understands all of it, the commands of the disk too."""
    pcap.write_tcp(path, cutter.pieces, 32740)
    dissected = Dissected(path)
    assert dissected.wrong() == []
    rows = dissected.rows("scsi_sbc.opcode == 0x2a || ferry.reply_to == 20", ["scsi_sbc.opcode", "ferry.reply_to"])
    assert sum("20" in row.get("ferry.reply_to", []) for row in rows) >= CUTS
    assert sum("scsi_sbc.opcode" in row for row in rows) > 10
