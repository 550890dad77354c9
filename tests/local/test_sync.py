"""`usbferry.open`: plain calls from any thread, over a real connection to a server in another thread."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from array import array
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

import usbferry
from tests.local.serving import Served
from usbferry import aio
from usbferry.device import Busy, DeviceError, NotFound
from usbferry.local import sync
from usbferry.local.shared_loop import LOOP, SharedLoop
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


@pytest.mark.parametrize("where", ["virtual:zero", "usbip", "asyncio"])
def test_what_cannot_be_a_length_or_a_timeout_is_the_callers_mistake(where, served):
    """A length below 0 reached the server, which ended the connection; or came back as data; or as struct.error."""
    wrong = [
        ("read", (0x81, -1), {}),
        ("read", (0x81, 1 << 31), {}),
        ("read", (0x81, 8), {"timeout": -1}),
        ("read", (0x81, 8), {"timeout": float("nan")}),
        ("write", (0x02, b"x"), {"timeout": -1}),
        ("control", (0xC0, 0x5C, 0, 0, -1), {}),
        ("read_packets", (0x83, [-4]), {}),
        ("read_packets", (0x83, [4, -4]), {}),
        ("read_packets", (0x83, [1 << 30] * 2), {}),
    ]

    async def each_with_asyncio() -> None:
        async with await aio.open("virtual:zero") as device:
            for name, arguments, named in wrong:
                with pytest.raises(ValueError, match=r"-1|-4|214|107|nan"):
                    await getattr(device, name)(*arguments, **named)

    if where == "asyncio":
        asyncio.run(each_with_asyncio())
        return
    with usbferry.open(where if where != "usbip" else f"{served.address}/1-1") as device:
        for name, arguments, named in wrong:
            with pytest.raises(ValueError, match=r"-1|-4|214|107|nan"):
                getattr(device, name)(*arguments, **named)
        assert device.read(0x81, 8, timeout=5) == bytes(8)


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
    monkeypatch.setattr("usbferry.local.shared_loop._IDLE_SECONDS", 0.0)
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


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_background_thread_sleeps_while_another_waits(served, monkeypatch):
    """It used to look every few milliseconds, for as long as a read could take."""
    looked = []
    look = SharedLoop._until_background_leads
    monkeypatch.setattr(SharedLoop, "_until_background_leads", lambda loop: looked.append(True) or look(loop))
    with usbferry.open(f"{served.address}/1-1") as device:
        device.read(0x81, 8)  # this thread took the lead
        reader = threading.Thread(target=device.read, args=(0x82, 64))
        reader.start()
        until(lambda: LOOP._asleep)
        before = len(looked)
        time.sleep(0.1)
        assert len(looked) == before
        device.write(0x02, b"wake")
        reader.join(20)
        until(lambda: LOOP._leader == LOOP._background.ident)  # it leads again, though nobody calls


def test_a_lost_connection_is_noticed_after_a_long_wait_though_nobody_calls(served):
    with usbferry.open(f"{served.address}/1-1") as device:
        with pytest.raises(aio.TimedOut):
            device.read(0x82, 64, timeout=0.05)
        served.stop()
        until(lambda: device.is_gone)


@pytest.mark.parametrize("follows", [False, True])
def test_a_mistake_is_raised_at_who_made_it(served, follows):
    """It used to be told as a transfer that FAILED."""
    mistaken = Transfer(0x01, 5, b"four")
    with usbferry.open(f"{served.address}/1-1") as device, LOOP.following() if follows else nullcontext():
        if follows:
            until(lambda: LOOP._leader == LOOP._background.ident)
        with pytest.raises(ValueError, match="4 bytes of payload in a transfer of 5"):
            device._do(mistaken, None)
        assert device.read(0x81, 8) == bytes(8)


def test_who_calls_without_a_pause_keeps_nobody_from_being_served(served):
    """Virtual devices may answer at once, without a turn of the loop; their clocks and bridges need turns."""
    with usbferry.open("virtual:zero") as device:
        served_at = []
        LOOP._get().call_soon_threadsafe(lambda: device._device.clock.call_at(0.0, lambda: served_at.append(1)))
        until(lambda: device.control(0x80, 6, 0x0100, 0, 18) and served_at)


FORGETFUL = """
import sys, usbferry
device = usbferry.open(sys.argv[1])
assert device.read(0x81, 8) == bytes(8)
other = usbferry.open(sys.argv[2])
"""


def test_a_program_that_ends_without_a_close_gives_its_devices_back(served):
    command = [sys.executable, "-W", "error", "-c", FORGETFUL]
    ran = subprocess.run(
        [*command, f"{served.address}/1-1", f"{served.address}/1-2"], capture_output=True, text=True, timeout=30
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    for name in ("1-1", "1-2"):
        usbferry.open(f"{served.address}/{name}").close()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux counts open files so")
def test_devices_that_are_forgotten_again_and_again_leave_nothing(served, monkeypatch):
    monkeypatch.setattr("usbferry.backends.remote.BUSY_SECONDS", 0.001)
    usbferry.open(f"{served.address}/1-1").close()
    files, threads, opened = len(os.listdir("/proc/self/fd")), threading.active_count(), len(LOOP._open)
    for _ in range(10):
        device = usbferry.open(f"{served.address}/1-1")
        device.read(0x81, 8)
        del device
        gc.collect()
    until(lambda: not any(served.holders()) and not LOOP._started)
    assert threading.active_count() == threads
    assert len(LOOP._open) <= opened  # what other tests forgot may have gone as well
    until(lambda: len(os.listdir("/proc/self/fd")) <= files)


def test_a_device_in_use_is_busy_until_it_is_closed(served, monkeypatch):
    monkeypatch.setattr("usbferry.backends.remote.BUSY_SECONDS", 0.001)
    address = f"{served.address}/1-1"
    with usbferry.open(address), pytest.raises(Busy):
        usbferry.open(address)
    usbferry.open(address).close()


def test_an_address_of_several_devices_must_name_one(served):
    with pytest.raises(
        DeviceError, match=r"stands for 2 devices; name one .*\n  1-1 0525:a4a0 \(vendor specific\)\n  1-2 "
    ):
        usbferry.open(served.address)
    with pytest.raises(NotFound, match="it has: 1-1 0525:a4a0"):
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


async def test_a_handle_left_open_gives_its_device_back(served):
    """In a program that goes on; a socket that nobody has any more would stay open as long as its loop."""
    device: aio.Handle | None = await aio.open(f"{served.address}/1-1")
    gone = device.device.gone
    with pytest.warns(ResourceWarning, match="/1-1 was left open"):
        device = None
    gc.collect()
    await asyncio.sleep(0)
    await asyncio.gather(*aio._closings)
    assert not gone.done()  # it was closed, not lost
    async with await aio.open(f"{served.address}/1-1") as again:
        assert await again.read(0x81, 8) == bytes(8)


async def test_a_future_that_its_caller_cancels_harms_no_other_transfer():
    """`asyncio.wait_for` cancels what it is given; the device's own future must not be that."""
    async with await aio.open("virtual:zero") as device:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(device.submit(Transfer(0x82, 64)), 0.01)
        await device.write(0x02, b"for the next")
        assert await device.read(0x82, 64) == b"for the next"


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals to a thread are Unix's")
def test_ctrl_c_cancels_what_is_waited_for():
    """Otherwise a device would be opened that nobody has."""
    ended = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def is_waiting() -> bool:
        return any(frame.name == "result" for frame in traceback.extract_stack(sys._current_frames()[main]))

    async def work() -> None:
        try:
            while not is_waiting():  # noqa: ASYNC110 another thread, which tells of nothing
                await asyncio.sleep(0.001)
            signal.pthread_kill(main, signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            ended.set()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            sync.run(work())
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.wait(10)


@pytest.mark.parametrize("data", ["text", [1, 2], None, 1.5])
def test_what_is_no_data_is_told_at_once(data):
    """A text was taken by some endpoints, and failed at the far side of others."""
    with usbferry.open("virtual:zero") as device:
        with pytest.raises(TypeError, match=r"^data are bytes, such as b'text', and not of type "):
            device.write(0x01, data)
        with pytest.raises(TypeError, match=r"^data are bytes, such as b'text', and not of type "):
            device.control(0x40, 0x5B, data_or_length=data)


def test_larger_numbers_are_written_whole():
    numbers = array("H", [1, 2])
    with usbferry.open("virtual:zero") as device:
        assert device.write(0x02, numbers) == 4
        assert device.read(0x82, 64) == numbers.tobytes()
