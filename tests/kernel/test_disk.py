"""The kernel uses our disk: its size, a file system on it, and what was written still there, in the file too."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.kernel.guest import Guest
from tests.kernel.steps import attach, disk_of, importing, unexpected, wait_until_free

MIB = 1 << 20
TIB = 1 << 40


@pytest.fixture(scope="module")
def guest(guest: Guest) -> Guest:
    guest.run("modprobe -a ext4 sd_mod && modprobe usb-storage delay_use=0").ok()  # a second by default
    return guest


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def on_host(*command: str | Path) -> str:
    """Run a tool that is not ours on the image."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize(("speed", "block"), [("high", 512), ("super", 4096)])
def test_a_file_system_and_32_mib_of_random_data_survive(guest, serve, image, tmp_path, speed, block):
    server = serve(f"virtual:disk?image={image}&size=96M&speed={speed}&block={block}")
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        disk = disk_of(guest, attached)
        size, sectors = guest.run(f"cd /sys/block/{disk}; cat size queue/logical_block_size").ok().split()
        assert (int(size) * 512, int(sectors)) == (96 * MIB, block)
        wrote = guest.run(f"""
            set -e
            mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/{disk}
            mount -t ext4 /dev/{disk} /mnt
            dd if=/dev/urandom of=/mnt/random bs=1M count=32 conv=fsync status=none
            sha256sum </mnt/random
            umount /mnt
        """).ok()
    with importing(guest, server.port, "1-1") as attached:
        disk = disk_of(guest, attached)
        read = guest.run(f"""
            set -e
            mount -t ext4 /dev/{disk} /mnt
            sha256sum </mnt/random
            umount /mnt
            fsck.ext4 -f -n /dev/{disk} >&2
        """).ok()
    assert read.split()[0] == wrote.split()[0]
    assert unexpected(guest) == []
    # The same in the file on the host, which keeps its holes.
    on_host("/sbin/e2fsck", "-f", "-n", image)
    on_host("/sbin/debugfs", "-R", f"dump /random {tmp_path / 'random'}", image)
    assert (tmp_path / "random").stat().st_size == 32 * MIB
    assert sha256(tmp_path / "random") == wrote.split()[0]
    assert image.stat().st_size == 96 * MIB
    assert 32 * MIB <= image.stat().st_blocks * 512 < 64 * MIB


def test_what_was_synced_is_in_the_file_when_the_server_is_killed(guest, serve, image):
    server = serve(f"virtual:disk?image={image}&size=8M")
    payload = os.urandom(3 * MIB + 512)
    (guest.shared / "payload").write_bytes(payload)
    attached = attach(guest, server.port, "1-1")
    disk = disk_of(guest, attached)
    guest.run(f"dd if=$SHARED/payload of=/dev/{disk} bs=512 seek=1001 conv=fsync status=none").ok()
    server.kill()
    wait_until_free(guest, attached)
    assert at(image, 1001 * 512, len(payload)) == payload
    assert image.stat().st_size == 8 * MIB


def test_a_read_only_disk_is_write_protected(guest, serve, image, tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "hello").write_text("from the host\n")
    on_host("/sbin/mkfs.ext4", "-q", "-d", tmp_path / "files", image, "8M")
    before = sha256(image)
    server = serve(f"virtual:disk?image={image}&readonly=1")
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        disk = disk_of(guest, attached)
        assert (
            guest.run(f"dmesg | grep '\\[{disk}] Write Protect is on'; cat /sys/block/{disk}/ro").ok().endswith("1\n")
        )
        refused = guest.run(f"dd if=/dev/zero of=/dev/{disk} bs=512 count=1 conv=fsync")
        assert refused.rc == 1
        assert f"failed to open '/dev/{disk}': Read-only file system" in refused.output
        asked_to_write = guest.run(f"mount -t ext4 -o rw /dev/{disk} /mnt && touch /mnt/new; umount /mnt")
        assert "mounted read-only" in asked_to_write.output or "write-protected" in asked_to_write.output
        read = guest.run(f"mount -t ext4 -o ro /dev/{disk} /mnt && cat /mnt/hello && umount /mnt").ok()
        assert read == "from the host\n"
    assert unexpected(guest, f"/dev/{disk}: Can't open blockdev") == []  # said of the mount that asked to write
    assert sha256(image) == before


def test_a_disk_past_2_tib_has_its_size_and_its_last_block(guest, serve, image):
    """It takes READ CAPACITY (16), and 16-byte reads and writes."""
    server = serve(f"virtual:disk?image={image}&size=3T")
    payload = os.urandom(64 * 1024)
    (guest.shared / "payload").write_bytes(payload)
    last = 3 * TIB - len(payload)
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        disk = disk_of(guest, attached)
        assert int(guest.run(f"cat /sys/block/{disk}/size").ok()) * 512 == 3 * TIB
        position = f"bs=64k seek={last >> 16}"
        guest.run(f"dd if=$SHARED/payload of=/dev/{disk} {position} oflag=direct conv=fsync status=none").ok()
        guest.run(f"dd if=/dev/{disk} {position.replace('seek', 'skip')} iflag=direct of=$SHARED/read status=none").ok()
        beyond = guest.run(f"dd if=/dev/zero of=/dev/{disk} bs=64k seek={(last >> 16) + 1} count=1 oflag=direct")
        assert (beyond.rc, "No space left on device" in beyond.output) == (1, True)
    assert (guest.shared / "read").read_bytes() == payload
    assert at(image, last, len(payload)) == payload
    assert image.stat().st_size == 3 * TIB
    assert image.stat().st_blocks * 512 < MIB
    assert unexpected(guest) == []
