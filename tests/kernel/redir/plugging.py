"""QEMU's usb-redir, plugged into a machine that runs and out of it again, on either of its controllers."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from tests.kernel.guest import Guest

XHCI, EHCI = "usb-bus.0", "ehci.0"
MACHINE = {"devices": ("usb-ehci,id=ehci",)}  # options of class Guest: beside its xHCI, an EHCI

# Of QEMU's xHCI, which tells of transfers that its guest has taken back: see test_machine.py on xhci_stop_ep.
TAKEN_BACK = r"xhci_hcd \S+: (ERROR Transfer event TRB DMA ptr not part of current TD|Looking for event-dma)"

_numbers = count(1)


class Plug:
    """A usb-redir on one of the controllers, connected to a port of the host, or to a socket file."""

    def __init__(self, guest: Guest, where: int | Path, bus: str = XHCI, **properties: object) -> None:
        """`debug` says how much it logs: errors (1), warnings, and so on up to each packet (4)."""
        self.name = f"redir{next(_numbers)}"
        self._guest = guest
        self._from = len(guest.qemu_said())
        place = f"path={where}" if isinstance(where, Path) else f"host=127.0.0.1,port={where}"
        words = "".join(f",{word}={value}" for word, value in properties.items())
        tell(guest, f"chardev-add socket,id={self.name},{place},reconnect=1")
        tell(guest, f"device_add usb-redir,id={self.name},chardev={self.name},bus={bus}{words}")

    def pull(self) -> None:
        """Out with it, which ends its connection too."""
        tell(self._guest, f"device_del {self.name}")
        wait_for(lambda: f"{self.name}:" not in self._guest.monitor("info chardev"))

    def log(self) -> list[str]:
        """What QEMU has said since it was plugged in, of this one and of others."""
        return [line for line in self._guest.qemu_said()[self._from :].splitlines() if line.strip()]


@contextmanager
def plugged(guest: Guest, where: int | Path, bus: str = XHCI, **properties: object) -> Iterator[Plug]:
    plug = Plug(guest, where, bus, **properties)
    try:
        yield plug
    finally:
        plug.pull()


def tell(guest: Guest, command: str) -> None:
    """A command to the monitor, which has to carry it out. What usb-redir logs meanwhile is said here too."""
    said = guest.monitor(command)
    assert "Error" not in said, said


def wait_for(condition: Callable[[], object], limit: float = 30, witness: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, witness()
        time.sleep(0.05)


def device_with(guest: Guest, serial: str, limit: float = 60) -> str:
    """The name in the guest's sysfs of the device with this serial number, once it is configured."""
    found = guest.run(f"""
        cd /sys/bus/usb/devices
        until device=$(grep -slx '{serial}' [0-9]*-*/serial) && [ -e ${{device%/*}}:1.0 ]; do sleep 0.05; done
        echo ${{device%/*}}
    """, limit).ok()  # fmt: skip
    return found.strip()
