"""Devices that are plugged in for a test: every way for a host to have them, and all that a test does to them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import usb.core

import usbferry
from usbferry import aio
from usbferry.devices.clock import VirtualClock
from usbferry.devices.virtual import DeviceDescriptor, Interface, Speed, VirtualDevice, data, endpoint
from usbferry.devices.zero import Zero
from usbferry.testing import Plugged, PlugIn, plugged


class Bell(VirtualDevice):
    descriptor = DeviceDescriptor(0x1209, 0x0001)
    product = "Bell"
    rung = 0

    def interfaces(self) -> tuple[Interface, ...]:
        return (Interface(0, endpoints=(self.interrupt(0x81, 8, 4),)),)

    def ring(self, times: int = 1) -> int:
        self.thread = threading.current_thread()
        self.rung += times
        total = self.rung
        self.kick(0x81)
        return total

    async def ring_later(self) -> str:
        await asyncio.sleep(0)
        self.ring()
        return "rung"

    @endpoint(0x81)
    def tell(self, transfer):
        if not self.rung:
            return None
        self.rung -= 1
        return data(b"ding")


@pytest.fixture
def plug() -> Iterator[PlugIn]:
    one = PlugIn()
    yield one
    one.close()


# -- hosts -------------------------------------------------------------------------------------------------------------


def test_a_host_of_our_own(plug: PlugIn) -> None:
    with plug("virtual:zero").open() as device:
        device.write(0x02, b"hello", timeout=10)
        assert device.read(0x82, 64, timeout=10) == b"hello"


async def test_a_host_in_the_loop_of_the_test(plug: PlugIn) -> None:
    one = plug("virtual:zero")
    async with await aio.open(one.usbip) as device:
        one.faults.stall(0x81)
        with pytest.raises(usbferry.Stalled):
            await device.read(0x81, 64, timeout=10)
        assert one.device.info.product == "Gadget Zero"


def test_pyusb(plug: PlugIn) -> None:
    found = usb.core.find(backend=plug("virtual:zero?serial=A1").pyusb())
    assert found.serial_number == "A1"
    assert bytes(found.read(0x81, 4)) == bytes(4)


def test_a_program_in_this_process_finds_it_by_itself() -> None:
    import usb.backend.libusb1

    former = usb.backend.libusb1.get_backend
    with plugged("virtual:zero?serial=A2") as one:
        one.pyusb(default=True)
        assert [found.serial_number for found in usb.core.find(find_all=True)] == ["A2"]
    assert usb.backend.libusb1.get_backend is former


def test_a_program(plug: PlugIn, tmp_path: Path) -> None:
    (tmp_path / "prog.py").write_text(
        "import sys, usb.core\n[found] = usb.core.find(find_all=True)\nprint(found.serial_number, input())\n"
    )
    done = plug("virtual:zero?serial=A3").run("prog.py", input="word", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("A3 word\n", "")


def test_a_program_that_fails_is_shown(plug: PlugIn) -> None:
    words = ("python", "-c", "import sys; print('said'); sys.exit(3)")
    with pytest.raises(AssertionError, match=r"^python -c .* ended with 3:\nsaid\n$"):
        plug("virtual:zero").run(*words)
    assert plug("virtual:zero").run(*words, check=False).returncode == 3


def test_a_program_that_does_not_end(plug: PlugIn) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        plug("virtual:zero").run("python", "-c", "import time; time.sleep(60)", timeout=0.2)


async def test_a_program_of_an_async_test(plug: PlugIn) -> None:
    text = "import usb.core; print(usb.core.find().product)"
    process = await asyncio.create_subprocess_exec(
        "python", "-c", text, env=plug("virtual:zero").environment, stdout=subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert said == b"Gadget Zero\n"


def test_the_words_for_qemu(plug: PlugIn) -> None:
    one = plug("virtual:zero")
    option, chardev, other, device = one.qemu()
    assert (option, other) == ("-chardev", "-device")
    words = dict(word.split("=") for word in chardev.split(",")[1:])
    assert device == f"usb-redir,chardev={words['id']}"
    with usbferry.open(f"usbredir://{words['host']}:{words['port']}") as redirected:
        assert redirected.read(0x81, 4, timeout=10) == bytes(4)
    assert one.qemu() != [option, chardev, other, device]  # for another machine


# -- what a test does --------------------------------------------------------------------------------------------------


def test_what_is_done_to_a_device_is_done_where_it_lives(plug: PlugIn) -> None:
    one = plug(Bell())
    with one.open() as host:
        reading = threading.Thread(target=lambda: host.read(0x81, 8, timeout=10))
        reading.start()
        one.wait_until(lambda bell: one.transfers and one.transfers[-1].completion is None)
        assert one.device.ring() == 1
        reading.join(10)
        assert not reading.is_alive()
        assert one.device.ring(2) == 2
        assert one.device.rung == 2
        one.device.rung = 5
        assert one.device.ring_later() == "rung"
        assert one.device.rung == 6
        assert one.device.thread is not threading.main_thread()
        assert isinstance(one.device, Bell)
        assert one.call(lambda: one.device.rung) == 6  # from where it lives, too


def test_what_a_device_raises_comes_to_the_test(plug: PlugIn) -> None:
    with pytest.raises(TypeError):
        plug(Bell()).device.ring("often")  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="'Bell' object has no attribute 'wring'"):
        plug(Bell()).device.wring()  # type: ignore[attr-defined]


@pytest.mark.timeout(20)
def test_what_fails_where_the_device_lives_is_not_tried_again(plug: PlugIn) -> None:
    one, tries = plug(Bell()), []

    def fail() -> None:
        tries.append(1)
        raise NotImplementedError("not yet")

    with pytest.raises(NotImplementedError, match="not yet"):
        one.call(lambda: one.call(fail))
    assert tries == [1]


def test_faults(plug: PlugIn) -> None:
    one = plug(Zero())
    with one.open() as host:
        one.faults.stall(0x81, after=1)
        host.read(0x81, 4, timeout=10)
        with pytest.raises(usbferry.Stalled):
            host.read(0x81, 4, timeout=10)
        host.clear_halt(0x81)
        one.faults.length(0x81, size=3, times=0)
        assert [len(host.read(0x81, 64, timeout=10)) for _ in range(2)] == [3, 3]
        one.faults.clear()
        assert len(host.read(0x81, 64, timeout=10)) == 64
        with pytest.raises(ValueError, match="there is no endpoint 0x87"):
            one.faults.stall(0x87)


def test_time_is_the_tests(plug: PlugIn) -> None:
    one = plug(Zero(clock=VirtualClock()))
    with one.open() as host:
        one.faults.late(0x81, seconds=3600)
        with pytest.raises(usbferry.TimedOut):
            host.read(0x81, 4, timeout=0.05)
        one.faults.late(0x81, seconds=3600)
        reading = threading.Thread(target=lambda: host.read(0x81, 4, timeout=10))
        reading.start()
        one.wait_until(lambda zero: sum(passed.completion is None for passed in one.transfers) == 1)
        one.device.clock.advance(3600)  # type: ignore[attr-defined]
        reading.join(10)
        assert not reading.is_alive()


def test_a_device_that_is_pulled_out(plug: PlugIn) -> None:
    one = plug("virtual:zero")
    host = one.open()
    one.unplug(away=0.01)
    with pytest.raises(usbferry.DeviceGone):
        host.read(0x81, 4, timeout=10)
    host.close()
    one.wait_until(lambda zero: "gone: unplugged" in one.report() and not zero.is_open)
    back = usbferry.DeviceGone
    for _ in range(1000):
        try:
            with usbferry.open(one.usbip) as again:
                assert again.read(0x81, 4, timeout=10) == bytes(4)
            break
        except usbferry.NotFound as error:
            back = error
    else:
        raise AssertionError(back)


async def test_waiting_in_a_coroutine_for_what_its_own_loop_does(plug: PlugIn) -> None:
    one = plug(Bell())
    async with await aio.open(one.usbip) as host:
        waiting = asyncio.to_thread(
            one.wait_until, lambda bell: len(one.transfers) and one.transfers[-1].data == b"ding"
        )
        one.device.ring()
        _, answer = await asyncio.gather(waiting, host.read(0x81, 8, timeout=10))
        assert answer == b"ding"


def test_waiting_for_what_does_not_come(plug: PlugIn) -> None:
    with pytest.raises(TimeoutError, match=r"^virtual:zero: what was waited for did not come within 0\.05 s$"):
        plug("virtual:zero").wait_until(lambda zero: False, timeout=0.05)


def test_what_cannot_be_plugged_in(plug: PlugIn) -> None:
    with pytest.raises(ValueError, match="no virtual device 'nothing'"):
        plug("virtual:nothing")
    with pytest.raises(TypeError, match="a virtual device or its address is plugged in, not <class"):
        plug(Zero)  # type: ignore[call-overload]


def test_a_device_of_another_kind_has_hosts_and_no_inside(plug: PlugIn) -> None:
    other = plug(plug("virtual:zero").usbip)
    with other.open() as host:
        assert host.read(0x81, 4, timeout=10) == bytes(4)
    with pytest.raises(TypeError, match="is no virtual device, so a test cannot reach into it"):
        other.faults.stall(0x81)


def test_a_recorded_device(plug: PlugIn, tmp_path: Path) -> None:
    recording = tmp_path / "session.pcapng"
    for address in (f"tap:{recording}?of=virtual:zero", f"replay:{recording}"):
        with plugged(address) as one, one.open() as host:
            host.write(0x02, b"hello", timeout=10)
            assert host.read(0x82, 64, timeout=10) == b"hello"


def test_nothing_is_left() -> None:
    """A device whose hosts were not closed, served twice, leaves no socket and no thread of its own."""
    one: Plugged[VirtualDevice] = Plugged("virtual:zero")
    host, backend = one.open(), one.pyusb()
    one.qemu()
    address = one.usbip
    one.close()
    one.close()
    with pytest.raises(usbferry.TransferError):
        host.read(0x81, 4)
    assert list(backend.enumerate_devices()) == []
    with pytest.raises(usbferry.DeviceError):
        usbferry.open(address)


def test_two_devices_are_apart(plug: PlugIn) -> None:
    one, two = plug(Bell()), plug(Bell())
    one.device.ring()
    assert (one.device.rung, two.device.rung) == (1, 0)
    assert one.usbip != two.usbip


def test_it_costs_no_import_until_it_is_used() -> None:
    text = (
        "import sys, usbferry.pytest_plugin; "
        "print([n for n in sys.modules if n.startswith(('usbferry', 'asyncio', 'click'))])"
    )
    said = subprocess.check_output([sys.executable, "-c", text], text=True)
    assert said == "['usbferry', 'usbferry.pytest_plugin']\n"


def test_speeds_are_the_devices(plug: PlugIn) -> None:
    with plug(Zero(speed=Speed.SUPER)).open() as host:
        assert host.info.speed is Speed.SUPER
