"""One guest for all tests of this folder, with one server of ours in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.conftest import running
from tests.kernel.guest import Guest, Step
from tests.kernel.real import machine as made
from tests.kernel.real.machine import Machine


@pytest.fixture(scope="package")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what QEMU's devices have: see `machine`."""
    return tmp_path_factory.mktemp("devices")


@pytest.fixture(scope="package")
def guest(kernel_rig: None, files: Path) -> Iterator[Guest]:
    with running(Guest(**made.guest_options(files))) as booted:
        yield booted


@pytest.fixture(scope="package")
def machine(guest: Guest) -> Machine:
    return Machine(guest)


@pytest.fixture(scope="package")
def server(machine: Machine) -> Step:
    """Shares everything that has one of our names, and so no hub."""
    machine.guest.mark()
    return machine.serve("--match", "serial=*-?hci")
