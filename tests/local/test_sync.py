"""`usbferry.open`: plain calls from any thread, over a real connection to a server in another thread."""

import asyncio
import gc
import threading
from collections.abc import Iterator

import pytest

import usbferry
from tests.local.serving import Served
from usbferry import aio
from usbferry.device import Busy, DeviceError, NotFound
from usbferry.usb.transfer import Transfer
from usbferry.usb.types import Status


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served()
    yield server
    server.stop()


def test_every_kind_of_transfer(served):
    with usbferry.open(f"{served.address}/1-1") as device:
        assert device.info.product == "Gadget Zero"
        assert device.read(0x81, 1000) == bytes(1000)
        assert device.write(0x02, b"around") == 6
        assert device.read(0x82, 64) == b"around"
        assert device.control(0x40, 0x5B, data_or_length=b"kept") == b""
        assert device.control(0xC0, 0x5C, data_or_length=64) == b"kept"
        device.set_interface(0, 1)
        assert device.read_packets(0x83, [10, 0, 20]) == [(Status.OK, bytes(n)) for n in (10, 0, 20)]
        assert device.write_packets(0x03, [b"x" * 5, b"y" * 7]) == [(Status.OK, 5), (Status.OK, 7)]
        assert device.read(0x84, 512) == bytes(512)
        assert device.get_string(2) == "Gadget Zero"


def test_a_timeout_is_told_from_a_stall_and_from_a_refusal(served):
    with usbferry.open(f"{served.address}/1-1") as device:
        with pytest.raises(TimeoutError) as late:
            device.read(0x82, 64, timeout=0.02)
        assert isinstance(late.value, aio.TimedOut)
        with pytest.raises(aio.Stalled):
            device.control(0xC0, 0x77, data_or_length=1)
        with pytest.raises(ValueError, match="IN endpoint"):
            device.write(0x81, b"wrong way")


def test_a_halt_is_seen_and_cleared(served):
    with usbferry.open(f"{served.address}/1-1") as device:
        device.control(0x02, 3, 0, 0x81)
        with pytest.raises(aio.Stalled):
            device.read(0x81, 64)
        device.clear_halt(0x81)
        assert device.read(0x81, 64) == bytes(64)


def test_one_thread_reads_while_another_writes(served):
    with usbferry.open(f"{served.address}/1-1") as device:
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(device.read(0x82, 64)))
        reader.start()
        device.write(0x02, b"from the other thread")
        reader.join(10)
        assert found == [b"from the other thread"]


def test_the_background_thread_does_not_take_the_lead_from_who_wants_it(served, monkeypatch):
    """Without that, callers on a busy machine woke too late each time, and waited for ever."""
    monkeypatch.setattr("usbferry.local.sync._IDLE_SECONDS", 0.0)
    with usbferry.open(f"{served.address}/1-1") as device:
        ended = []

        def calls() -> None:
            for _ in range(200):
                device.read(0x81, 8)
            ended.append(True)

        threads = [threading.Thread(target=calls, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(ended) == 3


def test_a_device_in_use_is_busy_until_it_is_closed(served, monkeypatch):
    monkeypatch.setattr("usbferry.backends.remote.BUSY_SECONDS", 0.001)
    address = f"{served.address}/1-1"
    with usbferry.open(address), pytest.raises(Busy):
        usbferry.open(address)
    usbferry.open(address).close()


def test_an_address_of_several_devices_must_name_one(served):
    with pytest.raises(DeviceError, match=r"stands for 2 devices; name one .*\n  1-1 0525:a4a0\n  1-2 "):
        usbferry.open(served.address)
    with pytest.raises(NotFound):
        usbferry.open(f"{served.address}/7-7")


def test_a_program_that_forgets_its_device_gives_it_back(served):
    device = usbferry.open(f"{served.address}/1-1")
    assert served.holders() == [True, False]
    del device
    gc.collect()
    usbferry.open(f"{served.address}/1-1").close()  # it may be busy for the moment of its reset


def test_a_server_that_stops_ends_what_waits_with_device_gone(served):
    with usbferry.open(f"{served.address}/1-1") as device:
        ended: list[BaseException] = []

        def wait() -> None:
            try:
                device.read(0x82, 64)
            except aio.TransferError as error:
                ended.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        served.stop()
        waiting.join(10)
        assert [type(error) for error in ended] == [aio.DeviceGone]
        with pytest.raises(aio.DeviceGone):
            device.read(0x81, 64)


async def test_a_transfer_whose_task_is_cancelled_is_cancelled_at_the_device():
    async with await aio.open("virtual:zero") as device:
        reading = asyncio.ensure_future(device.read(0x82, 64))  # noqa: TID251 the test ends it itself
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await device.write(0x02, b"next")
        assert await device.read(0x82, 64) == b"next"


async def test_a_handle_left_open_is_warned_of():
    device: aio.Handle | None = await aio.open("virtual:zero")
    inner = device.device
    with pytest.warns(ResourceWarning, match="virtual:zero was left open"):
        device = None
    gc.collect()
    await inner.close()


async def test_a_future_that_its_caller_cancels_harms_no_other_transfer():
    """`asyncio.wait_for` cancels what it is given; the device's own future must not be that."""
    async with await aio.open("virtual:zero") as device:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(device.submit(Transfer(0x82, 64)), 0.01)
        await device.write(0x02, b"for the next")
        assert await device.read(0x82, 64) == b"for the next"
