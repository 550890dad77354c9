"""Two machines for all tests of this folder: one has usb-redir, the other usbredirect and usbipd."""

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kernel.conftest import running
from tests.kernel.guest import Guest
from tests.kernel.redir import redirected
from tests.kernel.redir.plugging import MACHINE
from tests.kernel.server import Server

DRIVERS = "xhci_pci ehci_pci ext4 sd_mod uas usbhid hid-generic evdev cdc-acm"  # by name: there is no udev in the guest


class Offers(NamedTuple):
    """A server of ours, and the port that each of its devices has to itself, in their order."""

    server: Server
    ports: list[int]


@pytest.fixture(scope="package")
def machine(kernel_rig: None) -> Iterator[Guest]:
    with running(Guest(**MACHINE)) as booted:
        booted.run(f"modprobe -a {DRIVERS} && modprobe usb-storage delay_use=0").ok()
        yield booted


@pytest.fixture
def guest(machine: Guest) -> Guest:
    """The machine; what it says counts for the test that runs."""
    machine.mark()
    return machine


@pytest.fixture
def offer(serve: Callable[..., Server]) -> Callable[..., Offers]:
    """Serves devices over usbredir: offer("virtual:zero", ...), with options of `serve` after them."""

    def start(*words: str) -> Offers:
        count = sum(not word.startswith("-") for word in words)
        server = serve(*words, *[f"--on=usbredir://127.0.0.1:0/1-{number}" for number in range(1, count + 1)])
        ports = re.findall(r"listening on usbredir://127\.0\.0\.1:(\d+)", server.log())
        return Offers(server, [int(port) for port in ports])

    return start


@pytest.fixture
def free_port() -> int:
    """A port of the host that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


@pytest.fixture(scope="package")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what the exporting machine's devices have: see `redirected`."""
    return tmp_path_factory.mktemp("redirected")


@pytest.fixture(scope="package")
def exporting(kernel_rig: None, files: Path) -> Iterator[Guest]:
    """The machine whose devices are exported."""
    with running(Guest(**redirected.guest_options(files))) as booted:
        booted.run("modprobe -a xhci_pci usbip-host && usbipd -D").ok()
        yield booted
