"""The kernel takes what we attach: directly, through a relay, at the same time as others, and gives it back."""

import json
import shlex
import sys

import pytest

from tests.kernel.guest import CHECKOUT, Guest
from tests.kernel.liar import Liar, Lie, word
from tests.kernel.steps import HOST, Attached, disk_of, traffic_command, unexpected, usbip_attach, wait_until_free
from tests.kernel.test_interrupted import DISK_ENDED, ENDED

USBFERRY = f"env USBFERRY_LOOP=asyncio {shlex.quote(sys.executable)} -m usbferry"
ATTACHING = f"env USBFERRY_LOOP=asyncio {shlex.quote(sys.executable)} {CHECKOUT}/tests/kernel/attaching.py"
MIB = 1 << 20


@pytest.fixture(scope="module")
def guest(guest: Guest) -> Guest:
    guest.run("modprobe -a vhci-hcd ext4 sd_mod && modprobe usb-storage delay_use=0").ok()
    return guest


def address(port: int, name: str) -> str:
    return f"usbip://{HOST}:{port}/{name}"


def test_what_we_attach_and_what_usbip_attaches_is_seen_by_both(guest, serve):
    server = serve("virtual:zero", "virtual:disk?size=8M")
    guest.mark()
    said = guest.run(f"""
        set -e
        {usbip_attach(server.port, "1-1")} >&2
        {USBFERRY} attach {address(server.port, "1-2")}
        usbip port 2>&1
        until [ -e /sys/block/sd*/size ]; do sleep 0.1; done
        {USBFERRY} ports --json
    """).ok()
    assert f"port 1: {address(server.port, '1-2')} is 1-2 here, 46f4:0001 usbferry Virtual disk\n" in said
    for name in ("1-1", "1-2"):  # `usbip port` shows where both come from
        assert f" {name} -> {address(server.port, name)}\n" in said
    report = json.loads(said[said.index("{") :])
    assert [(one["port"], one["address"], one["product"]) for one in report["ports"]] == [
        (0, address(server.port, "1-1"), "Gadget Zero"),
        (1, address(server.port, "1-2"), "Virtual disk"),
    ]
    assert report["ports"][1]["drivers"] == ["usb-storage"]
    assert report["ports"][1]["relay"] is None
    assert report["free"]["ss"] == 120
    assert guest.run(f"{USBFERRY} detach --all; ls /run/vhci_hcd; usbip port").ok().splitlines()[:2] == [
        "port 0 is free",
        "port 1 is free",
    ]
    assert unexpected(guest, *DISK_ENDED) == []


def test_a_virtual_disk_through_a_relay_without_a_network(guest):
    """Written by the kernel, read from the image; then detached by the other tool in the middle of reading."""
    guest.mark()
    relay = guest.start(f"exec {USBFERRY} attach -v 'virtual:disk?image=/tmp/stick.img&size=48M'", 120)
    guest.run(
        "until grep -qs '^hs  0000 006 .* 1-1$' /sys/devices/platform/vhci_hcd.0/status; do sleep 0.05; done"
    ).ok()
    attached = Attached(0, "1-1")
    disk = disk_of(guest, attached)
    wrote = guest.run(f"""
        set -e
        mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/{disk}
        mount -t ext4 /dev/{disk} /mnt
        dd if=/dev/urandom of=/mnt/random bs=1M count=8 conv=fsync status=none
        sha256sum </mnt/random
        umount /mnt
        debugfs -R 'dump /random /tmp/random' /tmp/stick.img 2>/dev/null
        sha256sum </tmp/random
    """).ok()
    there, in_the_image = wrote.splitlines()
    assert there == in_the_image
    reading = guest.start(f"dd if=/dev/{disk} of=/dev/null bs=64k iflag=direct; echo $?")
    guest.run(
        f"until read -r reads _ </sys/block/{disk}/stat && [ $reads -gt 200 ]; do sleep 0.02; done; usbip detach -p 0"
    ).ok()
    said = relay.wait().ok()
    assert "port 0: virtual:disk" in said
    transfers, _, written, _ = (int(word) for word in said.split() if word.isdecimal())
    assert transfers > 200
    assert written > 8 * MIB
    assert "1" in reading.wait().output
    wait_until_free(guest, attached)
    assert unexpected(guest, *ENDED, *DISK_ENDED) == []


def test_when_the_server_is_killed_in_the_middle_of_traffic_both_ways_end(guest, serve):
    server = serve("virtual:zero", "virtual:zero")
    guest.mark()
    guest.run(f"{USBFERRY} attach {address(server.port, '1-1')}").ok()
    relay = guest.start(f"exec {USBFERRY} attach --relay {address(server.port, '1-2')}", 120)
    guest.run("until [ -e /sys/bus/usb/devices/1-2:1.0 ]; do sleep 0.05; done").ok()
    busy = [guest.start(traffic_command(Attached(n, f"1-{n + 1}"))) for n in (0, 1)]
    for step in busy:
        while "busy" not in step.output():
            assert not step.is_over()
    server.kill()
    for number in (0, 1):
        wait_until_free(guest, Attached(number, f"1-{number + 1}"))
    ended = relay.wait()
    assert ended.rc == 1
    assert f"{address(server.port, '1-2')} is lost: " in ended.output
    assert all("ENODEV" in step.wait().output for step in busy)
    assert unexpected(guest, *ENDED) == []


LIES = (
    Lie(0x81, word(0x18, 0x7FFFFFFF)),  # of how much came
    Lie(0x83, word(0x20, 0x3FFFFFFF)),  # of how many packets
    Lie(0x83, word(-8, 0xFFFFFF00)),  # of what the last packet holds
    Lie(0x81, word(0x04, 0x7FFFFFF0)),  # of which transfer it answers
)


def test_many_at_once_and_a_server_that_lies(guest, serve):
    server = serve(*["virtual:zero"] * 4)
    liar = Liar(server.port, LIES)
    guest.mark()
    try:
        said = guest.run(
            f"{ATTACHING} race {' '.join(address(server.port, f'1-{n}') for n in (1, 2, 3, 4))}"
            f" -- many 16 virtual:zero -- lied-to {len(LIES)} {address(liar.port, '1-1')}"
        ).ok()
    finally:
        liar.close()
    raced, many, lied_to = (json.loads(line) for line in said.splitlines() if line.startswith("{"))
    assert (sorted(raced["ports"]), raced["codes"]) == ([0, 1, 2, 3], [0, 0, 0, 0])
    # A hub has 15 ports: the rest is on the next controller, after this one's SuperSpeed ports.
    assert sorted(many["ports"]) == [*range(15), 30]
    assert many["free"]
    assert all("it broke usbip" in reason for reason, _, _ in lied_to["ends"])
    assert [(by_hand, free) for _, by_hand, free in lied_to["ends"]] == [(False, True)] * len(LIES)
    assert len(liar.told) == len(LIES)
    assert unexpected(guest, r"^vhci_hcd: sendmsg failed!", r"port \d+ already used") == []
