"""The package itself: what it exports, and that it costs nothing until it is asked for."""

import asyncio
import subprocess
import sys

import pytest

import usbferry
from usbferry import aio, device, selector


def test_the_errors_are_names_of_the_package():
    for module, names in (
        (device, "DeviceError Busy NotFound Unavailable"),
        (selector, "Ambiguous"),
        (aio, "TransferError Stalled TimedOut DeviceGone"),
    ):
        for name in names.split():
            assert getattr(usbferry, name) is getattr(module, name)


def test_everything_can_be_found_and_nothing_is_imported_before():
    text = (
        "import sys, usbferry; print(set(usbferry.__all__) - set(dir(usbferry)), 'asyncio' in sys.modules); "
        "print(usbferry.aio.open.__name__, [n for n in dir(usbferry) if not hasattr(usbferry, n)])"
    )
    assert subprocess.check_output([sys.executable, "-c", text], text=True) == "set() False\nopen []\n"


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        usbferry.nothing  # noqa: B018


@pytest.mark.parametrize("wrong", [5, None, b"virtual:zero"])
def test_what_is_no_address_at_all(wrong):
    with pytest.raises(TypeError, match=r"^an address is a text such as 'usbip://host/1-2', not "):
        usbferry.open(wrong)


def test_a_handle_shows_its_address_and_state():
    with usbferry.open("virtual:zero") as here:
        assert repr(here) == "<Handle virtual:zero: open>"
    assert repr(here) == "<Handle virtual:zero: closed>"


def test_a_handle_shows_why_its_device_is_gone():
    async def shown() -> str:
        async with await aio.open("virtual:zero") as here:
            here._source.device.vanish("unplugged")
            await here.wait_gone()
            return repr(here)

    assert asyncio.run(shown()) == "<Handle virtual:zero: gone: unplugged>"
