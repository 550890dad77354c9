"""What the tests do in a guest again and again."""

import json
from typing import NamedTuple

from tests.kernel.guest import CHECKOUT, Guest

USBTEST = CHECKOUT / "tests" / "kernel" / "usbtest.py"


class Usbtest(NamedTuple):
    """What the kernel's conformance suite said of a device."""

    device: str  # its name in the guest's sysfs, "1-1"
    speed: str  # Mbit/s, as sysfs has it
    passed: list[int]  # cases in the order of their runs, one entry for each run
    failed: dict[int, str]  # case -> error name
    seconds: dict[int, float]  # case -> its last run


def usbtest(guest: Guest, words: str, timeout: float = 120) -> Usbtest:
    """Run cases of the kernel's conformance suite; `words` as usbtest.py has them."""
    result = guest.run(f"/usr/bin/python3 -I -S {USBTEST} {words}", timeout)
    assert result.output.startswith("{"), f"usbtest did not start:\n{result.output}\n{result.console}"
    device, *runs = (json.loads(line) for line in result.output.splitlines())
    return Usbtest(
        device["device"],
        device["speed"],
        [run["case"] for run in runs if run["errno"] == 0],
        {run["case"]: run["error"] for run in runs if run["errno"]},
        {run["case"]: run["seconds"] for run in runs},
    )
