"""Ends in the middle of I/O: detached, server killed or stopped, guest killed. All is free again, and nobody hangs."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kernel.guest import Guest, Step
from tests.kernel.server import Server
from tests.kernel.steps import (
    Attached,
    attach,
    disk_of,
    importing,
    traffic_command,
    unexpected,
    usbip_attach,
    wait_until_free,
)

GUEST = {"cpus": 2}  # for races, as of an unlink with its submit

SOON = 10  # seconds for an end to be noticed; on a quiet machine 0.3
PATIENCE = 250  # seconds for what has no end of its own

# What the kernel says at error level when a connection ends under it, whoever ended it.
ENDED = (
    r"^vhci_hcd: sendmsg failed!, ret=-(32|104) for \d+$",  # EPIPE, ECONNRESET
    r"^usb \S+: enqueue for inactive port \d+$",
    r"^usb \S+: recv (xbuf|iso_frame_descriptor), -?\d+$",  # an answer cut off, ...
    r"^vhci_hcd: received pdu size is \d+, should be 48$",  # ... or its header
    r"^(vhci_hcd: )?vhci_device speed not set$",  # the hub is asked about a port that has just become free
)
# And the disk driver, of what it could not do any more.
DISK_ENDED = (
    r"^I/O error, dev sd\w+, sector \d+ op 0x[01]:\((READ|WRITE)\)",
    r"^Buffer I/O error on dev sd\w+, logical block \d+",
    r"^device offline error, dev sd\w+, sector \d+ op 0x[01]:\((READ|WRITE)\)",
)


class Work(NamedTuple):
    """A device and how a guest keeps it busy until it goes."""

    address: str  # what is served; IMAGE stands for a new file
    busy: Callable[[Guest, Attached], Step]  # says "busy" when it is
    check: Callable[[Guest, Attached], None]  # that it does what it should


def all_endpoints(guest: Guest, attached: Attached) -> Step:
    return guest.start(traffic_command(attached), PATIENCE)


def all_endpoints_work(guest: Guest, attached: Attached) -> None:
    output = guest.run(traffic_command(attached, 0.5)).ok()
    assert output.startswith("busy\ntimeout {"), output
    counts = json.loads(output.partition("timeout")[2])
    assert len(counts) == 10
    assert all(counts.values()), counts


def reads_and_writes(guest: Guest, attached: Attached) -> Step:
    disk = disk_of(guest, attached)
    return guest.start(
        f"""
        dd if=/dev/{disk} of=/dev/null bs=64k iflag=direct &
        dd if=/dev/zero of=/dev/{disk} bs=64k oflag=direct &
        until [ "${{reads:-0}}" -gt 40 ] && [ "${{writes:-0}}" -gt 10 ]; do
            sleep 0.02
            read -r reads _ _ _ writes _ </sys/block/{disk}/stat
        done
        echo busy
        wait
    """,
        PATIENCE,
    )


def reads_and_writes_work(guest: Guest, attached: Attached) -> None:
    disk = disk_of(guest, attached)
    guest.run(f"""
        set -e
        dd if=/dev/urandom of=$SHARED/written bs=1M count=1 status=none
        dd if=$SHARED/written of=/dev/{disk} bs=64k seek=77 oflag=direct conv=fsync status=none
        dd if=/dev/{disk} of=$SHARED/read bs=64k skip=77 count=16 iflag=direct status=none
    """).ok()
    written, read = ((guest.shared / name).read_bytes() for name in ("written", "read"))
    assert len(read) == 1 << 20
    assert read == written


# What one server offers, by bus id.
WORKS = {
    "1-1": Work("virtual:zero", all_endpoints, all_endpoints_work),
    "1-2": Work("virtual:zero?speed=super", all_endpoints, all_endpoints_work),
    "1-3": Work("virtual:disk?image=IMAGE&size=1G", reads_and_writes, reads_and_writes_work),
}
DRIVERS = "modprobe -a vhci-hcd sd_mod && modprobe usb-storage delay_use=0"  # a second by default


@pytest.fixture(scope="module")
def guest(guest: Guest) -> Guest:
    guest.run(DRIVERS).ok()
    return guest


@pytest.fixture
def start(serve, tmp_path: Path) -> Callable[..., Server]:
    """Starts a server with everything, and once more: start(port=old.port)."""
    addresses = [work.address.replace("IMAGE", str(tmp_path / "disk.img")) for work in WORKS.values()]
    return lambda **options: serve(*addresses, **options)


def attach_all_busy(guest: Guest, server: Server) -> dict[str, tuple[Attached, Step]]:
    """Every device, and what keeps it busy."""
    guest.mark()
    found = {}
    for name, work in WORKS.items():
        attached = attach(guest, server.port, name)
        found[name] = attached, work.busy(guest, attached)
    deadline = time.monotonic() + 60
    for _, step in found.values():
        while "busy\n" not in step.output():
            assert not step.is_over(), step.wait()
            assert time.monotonic() < deadline, step.output()
            time.sleep(0.01)
    assert not any(step.is_over() for _, step in found.values())
    return found


def assert_ended(guest: Guest, attached: Attached, step: Step) -> None:
    """The work under way noticed at once, and the port is free."""
    started = time.monotonic()
    output = step.wait().output
    wait_until_free(guest, attached, SOON)
    assert time.monotonic() - started < SOON
    assert "ENODEV" in output or "No such device" in output, output


def assert_all_ended(guest: Guest, busy: dict[str, tuple[Attached, Step]]) -> None:
    for attached, step in busy.values():
        assert_ended(guest, attached, step)
    assert unexpected(guest, *ENDED, *DISK_ENDED) == []


def assert_all_work(guest: Guest, server: Server, busy: dict[str, tuple[Attached, Step]]) -> None:
    """Each device can be attached anew, on the port that it had, and does what it should."""
    guest.mark()
    for name, work in WORKS.items():
        with importing(guest, server.port, name) as attached:
            work.check(guest, attached)
            assert attached.port in {old.port for old, _ in busy.values()}
    assert unexpected(guest) == []


def test_detached_in_the_middle(guest, start):
    server = start()
    busy = attach_all_busy(guest, server)
    while busy:
        _, (attached, step) = busy.popitem()
        assert guest.run(f"usbip detach -p {attached.port}").ok().strip().endswith("is now detached!")
        assert_ended(guest, attached, step)
        assert not any(step.is_over() for _, step in busy.values())  # the others go on
    assert unexpected(guest, *ENDED, *DISK_ENDED) == []
    for name, work in WORKS.items():
        with importing(guest, server.port, name) as attached:
            work.check(guest, attached)


def test_server_killed_in_the_middle(guest, start):
    server = start()
    busy = attach_all_busy(guest, server)
    server.kill()
    assert_all_ended(guest, busy)
    assert_all_work(guest, start(port=server.port), busy)


def test_server_stopped_in_the_middle(guest, start):
    server = start()
    busy = attach_all_busy(guest, server)
    assert server.terminate(SOON) == 0
    assert_all_ended(guest, busy)
    refused = guest.run(usbip_attach(server.port, "1-1"))
    assert (refused.rc, "tcp connect" in refused.output) == (1, True)
    assert_all_work(guest, start(port=server.port), busy)


def test_a_second_importer_is_told_busy(guest, serve):
    server = serve("virtual:zero")
    with importing(guest, server.port, "1-1") as attached:
        second = guest.run(usbip_attach(server.port, "1-1"))
        assert second.rc == 1
        assert "Attach Request for 1-1 failed - Device busy (exported)" in second.output
        all_endpoints_work(guest, attached)
        unknown = guest.run(usbip_attach(server.port, "1-2"))
        assert unknown.rc == 1
        assert "Attach Request for 1-2 failed - Device not found" in unknown.output
    with importing(guest, server.port, "1-1") as attached:
        all_endpoints_work(guest, attached)


def test_guest_killed_in_the_middle(guest, boot, start):
    server = start()
    victim = boot()
    victim.run(DRIVERS).ok()
    busy = attach_all_busy(victim, server)
    for name in WORKS:
        refused = guest.run(usbip_attach(server.port, name))
        assert (refused.rc, "Device busy" in refused.output) == (1, True)
    assert not any(step.is_over() for _, step in busy.values())
    victim.kill()
    assert_all_work(guest, server, busy)
