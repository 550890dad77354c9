"""What the tests do in a guest again and again."""

import json
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.kernel.guest import CHECKOUT, Guest, Step

HOST = "10.0.2.2"  # the host's loopback, seen from a guest
USBTEST = CHECKOUT / "tests" / "kernel" / "usbtest.py"
ATTACH_ALL = f"{shlex.quote(sys.executable)} {shlex.quote(str(CHECKOUT / 'tests' / 'kernel' / 'attach_all.py'))}"
TRAFFIC = CHECKOUT / "tests" / "kernel" / "traffic.py"

# The kernel's client says what it has imported in status files, a row for each port:
# hub port sta spd dev sockfd local_busid. Source: drivers/usb/usbip/vhci_sysfs.c.
STATUS = "/sys/devices/platform/vhci_hcd.0/status*"
ATTACHED = "006"  # VDEV_ST_USED: the device has an address
FREE = "004"  # VDEV_ST_NULL

CASES = tuple(range(30))  # of the kernel's conformance suite, the usbtest driver
PATTERN_CASES = tuple(case for case in CASES if case not in (27, 28))  # those two know no pattern
UNLINK_RETRY = "unlink retry"  # usbtest says so at error level of what it expects to happen


class Attached(NamedTuple):
    """A device that the guest's kernel has imported."""

    port: int  # of vhci, as `usbip detach` counts
    device: str  # its name in the guest's sysfs, "1-1"


class Usbtest(NamedTuple):
    """What the kernel's conformance suite said of a device."""

    device: str  # its name in the guest's sysfs, "1-1"
    speed: str  # Mbit/s, as sysfs has it
    passed: list[int]  # cases in the order of their runs, one entry for each run
    failed: dict[int, str]  # case -> error name
    seconds: dict[int, float]  # case -> its last run


def usbip_attach(port: int, name: str, host: str = HOST) -> str:
    """The command that imports a device from the server at `port`, of the host unless another is named."""
    return f"usbip --tcp-port {port} attach -r {host} -b {name}"


def attach(guest: Guest, port: int, name: str, host: str = HOST) -> Attached:
    """Import the device `name` from the server at `port`, as a user would; wait until it is enumerated."""
    script = f"""
        modprobe vhci-hcd && {usbip_attach(port, name, host)} || exit
        cd /run/vhci_hcd
        record=$(grep -l " {port} {name}$" $(ls -t) | head -1)  # the tool's note of it; an old one may have stayed
        number=${{record#port}}
        until [ -n "$device" ] && [ -e /sys/bus/usb/devices/$device:1.0 ]; do  # the tool does not wait
            sleep 0.02
            device=$(cat {STATUS} | sed -n "s/^.s *$(printf %04d $number) {ATTACHED} .* //p")
        done
        echo attached $number $device
    """
    output = guest.run(script, 20).ok()
    found = re.search(r"^attached (\d+) (\S+)$", output, re.M)
    assert found, output
    return Attached(int(found[1]), found[2])


def detach(guest: Guest, attached: Attached) -> None:
    """Give it back, as a user would; wait until its port is free again."""
    guest.run(f"usbip detach -p {attached.port}").ok()
    wait_until_free(guest, attached)


@contextmanager
def importing(guest: Guest, port: int, name: str) -> Iterator[Attached]:
    """A device that is attached for the length of a `with`."""
    attached = attach(guest, port, name)
    yield attached
    detach(guest, attached)


def wait_until_free(guest: Guest, attached: Attached, limit: float = 20) -> None:
    """Wait until the port is free, and its device gone from the guest's bus."""
    script = f"""
        until cat {STATUS} | grep -q "{attached.port:04} {FREE}" && ! [ -e /sys/bus/usb/devices/{attached.device} ]; do
            sleep 0.02
        done
    """
    guest.run(script, limit).ok()


def disk_of(guest: Guest, attached: Attached) -> str:
    """The name of the disk that the attached device is, such as "sda", once the kernel has read its size."""
    script = f"""
        until block=$(echo /sys/bus/usb/devices/{attached.device}/*/host*/target*/*/block/sd*) &&
            [ -e "$block/size" ] && [ $(cat $block/size) != 0 ] && (: </dev/${{block##*/}}) 2>/dev/null
        do sleep 0.02; done
        echo ${{block##*/}}
    """
    return guest.run(script, 20).ok().strip()


def once_it_says(step: Step, text: str) -> str:
    """What a step has written, once that has `text`."""
    while text not in step.output():
        assert not step.is_over(), step.output()
        time.sleep(0.05)
    return step.output()


def traffic_command(attached: Attached, seconds: float | str = "") -> str:
    """The command that keeps every endpoint of a `zero` busy, until it leaves or `seconds` have passed."""
    return f"/usr/bin/python3 -I -S {TRAFFIC} {attached.device} {seconds}"


def usbtest_command(words: str) -> str:
    """The command that runs cases of the kernel's conformance suite; `words` as usbtest.py has them."""
    return f"/usr/bin/python3 -I -S {USBTEST} {words}"


def usbtest_result(step: Step) -> Usbtest:
    """What such a command said, when it has ended."""
    result = step.wait()
    assert result.output.startswith("{"), f"usbtest did not start:\n{result.output}\n{result.console}"
    device, *runs = (json.loads(line) for line in result.output.splitlines())
    return Usbtest(
        device["device"],
        device["speed"],
        [run["case"] for run in runs if run["errno"] == 0],
        {run["case"]: run["error"] for run in runs if run["errno"]},
        {run["case"]: run["seconds"] for run in runs},
    )


def usbtest(guest: Guest, words: str, timeout: float = 120) -> Usbtest:
    """Run cases to their end."""
    return usbtest_result(guest.start(usbtest_command(words), timeout))


def unexpected(guest: Guest, *expected: str) -> list[str]:
    """What the kernel logged as errors since the mark, and what tells of a crash, beyond these regular expressions."""
    said = guest.errors() + guest.complaints()
    return [line for line in said if not any(re.search(pattern, line) for pattern in expected)]
