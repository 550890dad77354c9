"""What a real device's transfers and requests come to where libusb or the kernel is slow, or fails; both are played."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.backends.hand import CONFIGURATIONS, info
from tests.devices.host import turn
from usbferry.backends.libusb import device as module
from usbferry.backends.libusb import reasons
from usbferry.backends.libusb.device import LibusbDevice
from usbferry.backends.libusb.library import IO, NO_MEM
from usbferry.usb.setup import Setup, clear_halt, set_configuration, set_interface
from usbferry.usb.transfer import Transfer
from usbferry.usb.types import Status


class Handle:
    """Notes what libusb would be asked for. A cancel is asked for, and nothing ends by it."""

    def __init__(self) -> None:
        self.info = info()
        self.info.configurations = CONFIGURATIONS
        self.context = self.pointer = None
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.called.append(name)

    def call(self, work: Callable[..., None], *arguments: Any) -> asyncio.Future[None]:
        return self._done(work(*arguments))

    def cancel(self, transfers: Any) -> asyncio.Future[None]:
        return self._done(None)

    def _done(self, result: None) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        future.set_result(result)
        return future


@pytest.fixture
async def device(monkeypatch: pytest.MonkeyPatch) -> LibusbDevice:
    made = Handle()
    plugged: Any = SimpleNamespace(name="1-1")
    return LibusbDevice(made, plugged, lambda plugged: asyncio.sleep(0, True), lambda device: asyncio.sleep(0))  # type: ignore[arg-type]


def park(device: LibusbDevice) -> SimpleNamespace:
    """A read that is with libusb, and stays there."""
    transfer = Transfer(0x81, 512)
    future = asyncio.get_running_loop().create_future()
    flight = SimpleNamespace(
        transfer=transfer, future=future, verdict=None, is_cancelled=False, is_over=False, ask=list, asked=list
    )
    device._flights[transfer] = flight  # type: ignore[assignment]
    return flight


def control(setup: Setup) -> Transfer:
    return Transfer(0, 0, b"", setup.pack())


@pytest.mark.parametrize("request_", [set_interface(0, 1), set_configuration(2)])
async def test_a_cancelled_transfer_that_does_not_end_holds_no_request_up_for_ever(
    device: LibusbDevice, request_: Setup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "CANCEL_SECONDS", 0.01)
    stuck = park(device)
    asked, behind = device.submit(control(request_)), device.submit(control(clear_halt(0x82)))
    assert isinstance(asked, asyncio.Future)
    assert isinstance(behind, asyncio.Future)
    async with asyncio.timeout(5):
        assert ((await asked).status, (await behind).status) == (Status.FAILED, Status.OK)
    assert stuck.is_cancelled
    assert device._handle.called == ["clear_halt"]  # type: ignore[attr-defined]
    [line] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "1 transfers do not end" in line.getMessage()
    assert line.exc_info is None


async def test_a_request_waits_for_what_it_ends(device: LibusbDevice) -> None:
    flight = park(device)
    asked = device.submit(control(set_interface(0, 1)))
    assert isinstance(asked, asyncio.Future)
    await turn()
    assert flight.is_cancelled
    assert device._handle.called == []  # type: ignore[attr-defined]
    flight.future.set_result(None)
    async with asyncio.timeout(5):
        assert (await asked).status == Status.OK
    assert device._handle.called == ["set_interface"]  # type: ignore[attr-defined]


async def test_a_remedy_is_told_once_and_not_lost_before(
    device: LibusbDevice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the bus came first, and nothing was told of a device that fell asleep later."""
    texts = [None, "1-1 is asleep", "1-1 is asleep"]
    monkeypatch.setattr(reasons, "asleep", lambda name: texts.pop(0))
    for code in (IO, IO, IO, NO_MEM, NO_MEM):
        device._explain(code)
    assert [record.getMessage() for record in caplog.records] == ["1-1 is asleep", reasons.no_memory("1-1")]
