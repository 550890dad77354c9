"""pytest's plug-in: the fixture `usb_device`, and what a test that failed shows of its devices.

    def test_my_driver(usb_device):
        device = usb_device("virtual:zero")          # or one of a class of your own
        backend = device.pyusb()                     # or .run(...), .usbip, .qemu(), .open()

pytest imports this file wherever usbferry is installed, so it imports nothing before the fixture is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from .testing import PlugIn

_PLUGGED: Final = pytest.StashKey["PlugIn"]()


@pytest.fixture
def usb_device(request: pytest.FixtureRequest) -> Iterator[PlugIn]:
    """Plug virtual devices in for this test: `usb_device("virtual:zero")`, `usb_device(MyDevice())`."""
    from .testing import PlugIn

    plug = request.node.stash[_PLUGGED] = PlugIn()
    try:
        yield plug
    finally:
        plug.close()


@pytest.hookimpl(hookwrapper=True)  # the form that every pytest since 7 knows
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """A failure shows the transfers that led there."""
    outcome = yield
    plug, testing = item.stash.get(_PLUGGED, None), sys.modules.get("usbferry.testing")
    if testing is not None and outcome.excinfo is None and (report := outcome.get_result()).failed:
        report.sections.extend(testing.sections(plug))
    if plug is not None and call.when == "teardown":
        del item.stash[_PLUGGED]
