"""The kernel's conformance suite on devices of our libusb server: what passes on a bare device passes through us.

usbtest - vhci - USB/IP - our server - libusb - usbfs - a device of the guest's, all of it in one guest

The devices are Gadget Zeros of the guest's kernel. Those have no isochronous endpoints here, so one of ours is brought
in by USB/IP from the host, exported from the guest, and imported a second time.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import pytest

from tests.kernel import zeros
from tests.kernel.conftest import running
from tests.kernel.guest import CHECKOUT, Guest
from tests.kernel.server import Server
from tests.kernel.steps import (
    CASES,
    HOST,
    PATTERN_CASES,
    UNLINK_RETRY,
    Usbtest,
    unexpected,
    usbtest,
)
from usbferry.cli.udev_rule import rules
from usbferry.selector import Selector

GUEST = {"cpus": 2}  # for races, as of an unlink with its submit

SOAK = os.environ.get("USBFERRY_SOAK", "") not in ("", "0")
ITERATIONS = 1000 if SOAK else 5  # testusb's own default, and a few
IDLE_TIMER = "timer fired with no URBs pending"  # dummy_hcd says so at error level, and goes on; seldom
LIMIT = 3000 if SOAK else 120  # seconds for the cases on one device
HERE, PORT = "127.0.0.1", 3240
IMPORT_AT = CHECKOUT / "tests" / "kernel" / "import_at.py"
MEGABITS = {"high": "480", "super": "5000"}

ISOCHRONOUS, INTERRUPT = (15, 16, 22, 23), (25, 26)
# What a gadget of the kernel can do on dummy_hcd; the driver says ENOTSUP where endpoints are missing.
ZERO = [case for case in CASES if case not in ISOCHRONOUS + INTERRUPT]


class Kind(NamedTuple):
    """A device that is compared."""

    speed: str
    options: str  # of the usbtest driver
    cases: Sequence[int]
    passing: list[int]


OURS = {"ours": "super", **({"ours, high speed": "high"} if SOAK else {})}
KINDS = {
    "high": Kind("high", "", CASES, ZERO),
    "super": Kind("super", "pattern=1", PATTERN_CASES, [case for case in ZERO if case in PATTERN_CASES]),
    "interrupt": Kind("high", "", (0, 9, 10, *INTERRUPT), [0, 9, 10, *INTERRUPT]),
    **{name: Kind(speed, "alt=1", CASES, list(CASES)) for name, speed in OURS.items()},
}


class Compared(NamedTuple):
    """A device, and what passed on it bare."""

    bare: Usbtest | None  # None for ours, which test_usbtest.py proves
    attached: str  # its name in the guest's sysfs, imported from us


def cases_on(guest: Guest, name: str, device: str) -> Usbtest:
    """Run a device's cases."""
    kind = KINDS[name]
    each = " ".join(f"{case},iterations={ITERATIONS},length=4096,vary=1024" for case in kind.cases)
    return usbtest(guest, f"{kind.options} device={device} {each}", LIMIT)


def imported(guest: Guest, controller: int, host: str, port: int, names: Iterable[str]) -> list[str]:
    command = f"/usr/bin/python3 -I -S {IMPORT_AT} {controller} {host} {port} {' '.join(names)}"
    return guest.run(f"modprobe vhci-hcd && {command}", 120).ok().split()


@pytest.fixture(scope="module")
def devices(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The bus id of each in the guest. Ours are imported into vhci's second controller."""
    # Some cases wait once for all of their iterations, and the guest panics over a task that waits longer than this.
    guest.run(f"echo {LIMIT} >/proc/sys/kernel/hung_task_timeout_secs").ok()
    found = zeros.make(guest)
    log = tmp_path_factory.mktemp("brought") / "server.log"
    addresses = tuple(f"virtual:zero?speed={KINDS[name].speed}" for name in OURS)
    with running(Server(addresses, log)) as server:
        names = imported(guest, 1, HOST, server.port, [f"1-{at + 1}" for at in range(len(OURS))])
        yield {**found, **dict(zip(OURS, names, strict=True))}


@pytest.fixture(scope="module")
def compared(guest: Guest, devices: dict[str, str]) -> Iterator[dict[str, Compared]]:
    """The gadgets bare, and then all of them attached through our server in the guest."""
    guest.mark()
    bare = {name: cases_on(guest, name, device) for name, device in devices.items() if name not in OURS}
    assert unexpected(guest, UNLINK_RETRY, IDLE_TIMER) == []
    # What is attached here already is shared only when that is insisted on.
    command = [sys.executable, "-m", "usbferry", "serve", "--force", "--listen", f"{HERE}:{PORT}"]
    command += [f"usb:{device}" for device in devices.values()]
    step = guest.start(f"echo $$ >/run/server.pid; exec {shlex.join(command)}", 7200 if SOAK else 600)
    while "listening on" not in step.output():
        assert not step.is_over(), step.wait().output
        guest.run("sleep 0.1").ok()
    attached = imported(guest, 0, HERE, PORT, devices.values())
    yield {name: Compared(bare.get(name), one) for name, one in zip(devices, attached, strict=True)}
    guest.run("kill -TERM $(cat /run/server.pid)").ok()
    result = step.wait()
    assert (result.rc, "Traceback" in result.output) == (0, False), result.output


@pytest.mark.timeout(7200 if SOAK else 300)
@pytest.mark.parametrize("name", KINDS)
def test_what_passes_on_the_bare_device_passes_through_us(guest, compared, name):
    """Gadgets: 24 cases at high speed, 22 at super speed with each byte checked, interrupts; ours: all 30."""
    kind, (bare, device) = KINDS[name], compared[name]
    guest.mark()
    ours = cases_on(guest, name, device)
    assert (ours.speed, ours.passed) == (MEGABITS[kind.speed], kind.passing)
    assert bare is None or (bare.speed, bare.passed, bare.failed) == (ours.speed, ours.passed, ours.failed)
    assert {*ours.failed.values()} <= {"ENOTSUP"}
    assert unexpected(guest, UNLINK_RETRY, IDLE_TIMER) == []


def test_udev_takes_the_rules_for_the_devices_that_are_meant(guest, devices):
    """`udevadm test` on a gadget whose serial number is "high"."""
    name = devices["high"]
    met = ["0525:A4A0", "serial=HI*", "serial=h[!x-z]g[a-h]", "serial=????", f"port={name}", "class=ff/00", name]
    missed = ["0525:a4a1", "serial=hig", "serial=h[!a-j]gh", "serial=?igh?", "port=9-9", "class=03"]
    lines = [
        f'{line}, ENV{{MET_{number}}}="1"'
        for number, text in enumerate(met + missed)
        for line in rules(Selector.parse(text), "plugdev")
    ]
    (guest.shared / "rules").write_text("\n".join(lines) + "\n")
    said = guest.run(f"""
        mkdir -p /run/udev/rules.d && cp $SHARED/rules /run/udev/rules.d/70-usbferry.rules
        udevadm test --action=add /sys/bus/usb/devices/{name} 2>&1
    """).ok()
    assert sorted(map(int, re.findall(r"^MET_(\d+)=1$", said, re.M))) == list(range(len(met))), said
    assert "70-usbferry.rules:1 MODE 0660" in said
