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

SOON = 10  # seconds for an end to be noticed; on a quiet machine 0.3

# What the kernel says at error level when a connection ends under it, whoever ended it.
ENDED = (
    r"^vhci_hcd: sendmsg failed!, ret=-(32|104) for \d+$",  # EPIPE, ECONNRESET
    r"^usb \S+: enqueue for inactive port \d+$",
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
    expected: tuple[str, ...] = ENDED


def all_endpoints(guest: Guest, attached: Attached) -> Step:
    return guest.start(traffic_command(attached))


def all_endpoints_work(guest: Guest, attached: Attached) -> None:
    output = guest.run(traffic_command(attached, 0.5)).ok()
    assert output.startswith("busy\ntimeout {"), output
    counts = json.loads(output.partition("timeout")[2])
    assert len(counts) == 10
    assert all(counts.values()), counts


def reads_and_writes(guest: Guest, attached: Attached) -> Step:
    disk = disk_of(guest, attached)
    return guest.start(f"""
        dd if=/dev/{disk} of=/dev/null bs=64k iflag=direct &
        dd if=/dev/zero of=/dev/{disk} bs=64k oflag=direct &
        until [ "${{reads:-0}}" -gt 40 ] && [ "${{writes:-0}}" -gt 10 ]; do
            sleep 0.02
            read -r reads _ _ _ writes _ </sys/block/{disk}/stat
        done
        echo busy
        wait
    """)


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


WORKS = {
    "zero-high": Work("virtual:zero", all_endpoints, all_endpoints_work),
    "zero-super": Work("virtual:zero?speed=super", all_endpoints, all_endpoints_work),
    "disk": Work("virtual:disk?image=IMAGE&size=1G", reads_and_writes, reads_and_writes_work, (*ENDED, *DISK_ENDED)),
}


@pytest.fixture(params=WORKS)
def work(request, tmp_path: Path) -> Work:
    return on_file(WORKS[request.param], tmp_path)


def on_file(work: Work, folder: Path) -> Work:
    return work._replace(address=work.address.replace("IMAGE", str(folder / "disk.img")))


DRIVERS = "modprobe -a vhci-hcd sd_mod && modprobe usb-storage delay_use=0"  # a second by default


@pytest.fixture(scope="module")
def guest(guest: Guest) -> Guest:
    guest.run(DRIVERS).ok()
    return guest


def attach_busy(guest: Guest, server: Server, work: Work, name: str = "1-1") -> tuple[Attached, Step]:
    """A device, and what keeps it busy."""
    attached = attach(guest, server.port, name)
    step = work.busy(guest, attached)
    deadline = time.monotonic() + 30
    while "busy\n" not in step.output():
        assert not step.is_over(), step.wait()
        assert time.monotonic() < deadline, step.output()
        time.sleep(0.01)
    return attached, step


def assert_ended(guest: Guest, work: Work, attached: Attached, step: Step) -> None:
    """The work under way noticed, the port is free, and the kernel said no more than it has to."""
    started = time.monotonic()
    output = step.wait().output
    wait_until_free(guest, attached, SOON)
    assert time.monotonic() - started < SOON
    assert "ENODEV" in output or "No such device" in output, output
    assert unexpected(guest, *work.expected) == []


def assert_works(guest: Guest, server: Server, work: Work, name: str = "1-1") -> None:
    """The device can be attached anew, on the port that it had, and works."""
    guest.mark()
    with importing(guest, server.port, name) as attached:
        work.check(guest, attached)
    assert unexpected(guest) == []


def test_detached_in_the_middle(guest, serve, work):
    server = serve(work.address)
    guest.mark()
    attached, step = attach_busy(guest, server, work)
    assert (
        guest.run(f"usbip detach -p {attached.port}").ok() == f"usbip: info: Port {attached.port} is now detached!\n\n"
    )
    assert_ended(guest, work, attached, step)
    assert_works(guest, server, work)


def test_server_killed_in_the_middle(guest, serve, work):
    server = serve(work.address)
    guest.mark()
    attached, step = attach_busy(guest, server, work)
    server.kill()
    assert_ended(guest, work, attached, step)
    again = serve(work.address, port=server.port)
    assert_works(guest, again, work)


def test_server_stopped_in_the_middle(guest, serve, work):
    server = serve(work.address)
    guest.mark()
    attached, step = attach_busy(guest, server, work)
    assert server.terminate(SOON) == 0
    assert_ended(guest, work, attached, step)
    refused = guest.run(usbip_attach(server.port, "1-1"))
    assert (refused.rc, "tcp connect" in refused.output) == (1, True)
    again = serve(work.address, port=server.port)
    assert_works(guest, again, work)


def test_a_second_importer_is_told_busy(guest, serve):
    server = serve("virtual:zero")
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        second = guest.run(usbip_attach(server.port, "1-1"))
        assert second.rc == 1
        assert "Attach Request for 1-1 failed - Device busy (exported)" in second.output
        all_endpoints_work(guest, attached)
        unknown = guest.run(usbip_attach(server.port, "1-2"))
        assert unknown.rc == 1
        assert "Attach Request for 1-2 failed - Device not found" in unknown.output
    guest.run(usbip_attach(server.port, "1-1")).ok()


def test_guest_killed_with_all_its_devices_busy(guest, boot, serve, tmp_path):
    works = {f"1-{number}": on_file(work, tmp_path) for number, work in enumerate(WORKS.values(), 1)}
    server = serve(*(work.address for work in works.values()))
    victim = boot()
    victim.run(DRIVERS).ok()
    steps = [attach_busy(victim, server, work, name)[1] for name, work in works.items()]
    for name in works:
        refused = guest.run(usbip_attach(server.port, name))
        assert (refused.rc, "Device busy" in refused.output) == (1, True)
    assert not any(step.is_over() for step in steps)
    victim.kill()
    for name, work in works.items():
        assert_works(guest, server, work, name)
