"""One guest for all tests of this folder: it exports QEMU's devices by usbip-host, its own gadgets by usbip-vudc."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.conftest import running
from tests.kernel.guest import Guest
from tests.kernel.usbipd import exported
from tests.kernel.usbipd import gadgets as made
from tests.kernel.usbipd.exported import Known


@pytest.fixture(scope="package")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what QEMU's devices have: see `exported`."""
    return tmp_path_factory.mktemp("devices")


@pytest.fixture(scope="package")
def guest(kernel_rig: None, files: Path) -> Iterator[Guest]:
    with running(Guest(**exported.guest_options(files, [made.PORT]))) as booted:
        yield booted


@pytest.fixture(scope="package")
def known(guest: Guest) -> dict[str, Known]:
    """QEMU's devices, by bus id."""
    return exported.export(guest)


@pytest.fixture(scope="package")
def gadgets(guest: Guest) -> dict[str, str]:
    """The bus id of each gadget."""
    return made.export(guest)


@pytest.fixture(scope="module", autouse=True)
def marked(guest: Guest) -> None:
    """What the kernel says counts for the file whose tests it says it of."""
    guest.mark()
