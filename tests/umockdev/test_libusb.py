"""Real libusb over virtual devices: what the Device contract leaves open, and what users and other programs see.

The kernel's part is played by usbfs.py; the programs, libusb among them, are as people have them.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.served import served
from tests.devices.host import control, isochronous, read, write
from tests.umockdev import inside
from tests.umockdev.testbed import Testbed, here
from usbferry.backends.libusb import handle as libusb_handle
from usbferry.backends.libusb import source as libusb_source
from usbferry.device import Busy, Claimant, Device, DeviceError, NotFound, ResetOutcome
from usbferry.registry import load_exporter, open_source
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving
from usbferry.usb.setup import (
    PORT_RESET,
    SET_ADDRESS,
    SET_PORT_FEATURE,
    Setup,
    clear_halt,
    get_descriptor,
    set_configuration,
    set_interface,
)
from usbferry.usb.transfer import Completion, Flags
from usbferry.usb.types import Speed, Status

pytestmark = pytest.mark.umockdev
ME = Claimant("local")
PATIENCE = 20.0  # seconds


@pytest.fixture(scope="module")
def machine() -> Iterator[Testbed]:
    assert inside.is_inside()
    with here() as made:
        yield made


@pytest.fixture
def bench(machine) -> Iterator[Testbed]:
    """The machine, with nothing plugged in before and after."""
    yield machine
    for name in reversed(machine.do("names")["names"]):
        machine.do("unplug", name=name)


@asynccontextmanager
async def opened(address: str = "usb:1-1") -> AsyncIterator[Device]:
    source = open_source(address)
    try:
        (info,) = await source.list()
        device = await source.open(info.name, ME)
        try:
            yield device
        finally:
            await device.close()
    finally:
        await source.close()


async def ended(answer: Any) -> Completion:
    if isinstance(answer, Completion):
        return answer
    async with asyncio.timeout(PATIENCE):
        return await asyncio.shield(answer)


async def until(condition: Callable[[], Any]) -> Any:
    give_up = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < give_up, "it does not come about"
        await asyncio.sleep(0.02)
    return found


# -- transfers ------------------------------------------------------------------------------------------------------


async def test_bytes_go_and_come_as_they_are(bench) -> None:
    """A loopback, with transfers cut where packets end: short, whole, none, and larger than usbfs takes at once."""
    bench.plug("1-1")
    async with opened() as device:
        for size in (1, 512, 513, 65536, 200_000):
            sent = os.urandom(size)
            answer = device.submit(read(0x82, size))
            assert (await ended(device.submit(write(0x02, sent)))).actual == size
            assert bytes((await ended(answer)).data) == sent


async def test_an_empty_packet_ends_a_transfer_of_whole_ones(bench) -> None:
    bench.plug("1-1")
    async with opened() as device:
        await ended(device.submit(write(0x02, bytes(1024), Flags.ZERO_PACKET)))
        assert [(await ended(device.submit(read(0x82, 1024)))).actual for _ in range(2)] == [1024, 0]


async def test_an_empty_packet_where_libusb_has_no_word_for_it(bench) -> None:
    """As on macOS: it is sent by itself, behind."""
    bench.plug("1-1")
    bench.do("set", name="1-1", capabilities=0x04)
    async with opened() as device:
        for size, found in ((1024, [1024, 0]), (1000, [1000])):
            assert (await ended(device.submit(write(0x02, bytes(size), Flags.ZERO_PACKET)))).actual == size
            assert [(await ended(device.submit(read(0x82, 2048)))).actual for _ in found] == found


async def test_short_where_it_is_not_ok(bench) -> None:
    bench.plug("1-1")
    async with opened() as device:
        await ended(device.submit(write(0x02, b"abc")))
        completion = await ended(device.submit(read(0x82, 512, Flags.SHORT_NOT_OK)))
        assert (completion.status, bytes(completion.data)) == (Status.SHORT, b"abc")


async def test_a_short_answer_is_one_of_its_length(bench) -> None:
    bench.plug("1-1", "zero", "short:0x81:size=5")
    async with opened() as device:
        found = [await ended(device.submit(read(0x81, 100))) for _ in range(2)]
        assert [(one.status, one.actual, len(one.data)) for one in found] == [(Status.OK, 5, 5), (Status.OK, 100, 100)]


async def test_a_stall_and_its_end(bench) -> None:
    bench.plug("1-1")
    async with opened() as device:
        assert (await ended(device.submit(control(Setup(0x02, 3, 0, 0x81))))).status == Status.OK
        assert (await ended(device.submit(read(0x81, 8)))).status == Status.STALL
        assert (await ended(device.submit(control(clear_halt(0x81))))).status == Status.OK
        assert (await ended(device.submit(read(0x81, 8)))).status == Status.OK
        assert bench.state("1-1")["counts"]["CLEAR_HALT"] == 1
        assert (await ended(device.submit(control(Setup(0xC0, 0x77, 0, 0, 8))))).status == Status.STALL


async def test_a_babble_is_one(bench) -> None:
    bench.plug("1-1", "zero", "babble:0x81")
    async with opened() as device:
        completion = await ended(device.submit(read(0x81, 100)))
        assert (completion.status, completion.actual) == (Status.OVERFLOW, 100)


async def test_a_control_request_that_is_not_answered_times_out(bench, monkeypatch) -> None:
    monkeypatch.setattr("usbferry.backends.libusb.device.CONTROL_SECONDS", 0.1)
    bench.plug("1-1", "zero", "late:0:request=6:seconds=60")
    async with opened() as device:
        assert (await ended(device.submit(control(get_descriptor(1))))).status == Status.TIMEOUT


async def test_isochronous_packets_have_lengths_and_ends_of_their_own(bench) -> None:
    bench.plug("1-1")
    async with opened() as device:
        await ended(device.submit(control(set_interface(0, 1))))
        lengths = [1024, 0, 7, 512]
        completion = await ended(device.submit(isochronous(0x83, lengths)))
        assert completion.packets is not None
        assert [(p.actual, p.status) for p in completion.packets] == [(length, Status.OK) for length in lengths]
        assert (completion.status, completion.actual, len(completion.data)) == (Status.OK, sum(lengths), sum(lengths))
        completion = await ended(device.submit(isochronous(0x03, [100] * 200)))  # more than one URB has
        assert (completion.status, completion.actual, completion.error_count) == (Status.OK, 20000, 0)


async def test_isochronous_packets_with_gaps_between_them(bench) -> None:
    bench.plug("1-1")
    async with opened() as device:
        await ended(device.submit(control(set_interface(0, 1))))
        transfer = isochronous(0x03, [8, 8])
        transfer.packets[1].offset, transfer.length, transfer.data = 100, 108, bytes(108)
        completion = await ended(device.submit(transfer))
        assert (completion.status, completion.actual) == (Status.OK, 16)


async def test_isochronous_packets_whose_frame_never_came_say_so(bench) -> None:
    """Cancelled, and pulled out: what was done is told for each packet."""
    bench.plug("1-1")
    async with opened() as device:
        await ended(device.submit(control(set_interface(0, 1))))
        transfers = [isochronous(0x83, [64] * 128) for _ in range(20)]  # 16 ms each
        answers = [device.submit(one) for one in transfers]
        await ended(answers[0])
        device.cancel(transfers[-1])
        completion = await ended(answers[-1])
        assert completion.status == Status.CANCELLED
        assert {packet.status for packet in completion.packets or ()} == {Status.NOT_DONE}
        answers = [device.submit(isochronous(0x83, [64] * 128)) for _ in range(20)]
        bench.do("unplug", name="1-1")
        completion = await ended(answers[-1])
        assert (completion.status, completion.actual) == (Status.GONE, 0)
        assert {packet.status for packet in completion.packets or ()} <= {Status.NOT_DONE}


@pytest.mark.parametrize("speed", [Speed.SUPER, Speed.FULL])
async def test_other_speeds(bench, speed) -> None:
    bench.plug("1-1", speed={Speed.SUPER: "super", Speed.FULL: "full"}[speed])
    async with opened() as device:
        assert device.info.speed is speed
        assert (await ended(device.submit(read(0x81, 1000)))).actual == 1000


async def test_streams_are_asked_for_and_given_back(bench) -> None:
    bench.plug("1-1", speed="super")
    async with opened() as device:
        completion = await ended(device.alloc_streams((0x81, 0x01), 32))
        assert (completion.status, completion.actual) == (Status.OK, 16)
        answer = device.submit(transfer := read(0x81, 64))
        assert (await ended(answer)).actual == 64
        transfer = read(0x81, 64)
        transfer.stream_id = 3
        assert (await ended(device.submit(transfer))).actual == 64
        assert (await ended(device.free_streams((0x81, 0x01)))).status == Status.OK
        counts = bench.state("1-1")["counts"]
        assert (counts["ALLOC_STREAMS"], counts["FREE_STREAMS"]) == (1, 1)


async def test_a_cancel_that_wins_takes_only_its_own(bench) -> None:
    bench.plug("1-1")
    async with opened() as device:
        reads = [read(0x82, 512) for _ in range(3)]
        answers = [device.submit(one) for one in reads]
        device.cancel(reads[1])
        assert (await ended(answers[1])).status == Status.CANCELLED
        await ended(device.submit(write(0x02, b"one")))
        await ended(device.submit(write(0x02, b"two")))
        assert [bytes((await ended(answers[at])).data) for at in (0, 2)] == [b"one", b"two"]


async def test_a_cancel_that_loses_gives_what_came(bench) -> None:
    """The kernel has finished it, and libusb has not reaped it yet: the bytes are not lost."""
    bench.plug("1-1")
    async with opened() as device:
        for _ in range(50):
            transfer = read(0x81, 64)
            answer = device.submit(transfer)
            device.cancel(transfer)
            completion = await ended(answer)
            assert (completion.status, completion.actual) in ((Status.OK, 64), (Status.CANCELLED, 0))
            assert completion.status == Status.OK, "a source of bytes has answered before it can be cancelled"


async def test_a_future_that_its_caller_cancels_harms_nobody(bench, caplog) -> None:
    bench.plug("1-1")
    async with opened() as device:
        answers = [device.submit(read(0x82, 8)) for _ in range(2)]
        answers[0].cancel()
        await ended(device.submit(write(0x02, b"one")))
        await ended(device.submit(write(0x02, b"two")))
        assert bytes((await ended(answers[1])).data) == b"two"
    assert caplog.records == []


async def test_nobody_waits_for_the_kernel_to_let_go_of_a_transfer(bench, monkeypatch) -> None:
    """It may take its time: what else there is goes on, and the struct lives until libusb has done with it."""
    go, cancel = threading.Event(), libusb_handle._cancel
    monkeypatch.setattr(libusb_handle, "_cancel", lambda transfers: go.wait(PATIENCE) and cancel(transfers))
    bench.plug("1-1")
    async with opened() as device:
        reads = [read(0x82, 8) for _ in range(2)]
        answers = [device.submit(one) for one in reads]
        device.cancel(reads[0])
        await ended(device.submit(write(0x02, b"came")))  # for the first, which nobody could cancel yet
        assert bytes((await ended(answers[0])).data) == b"came"
        device.cancel(reads[1])
        assert not answers[1].done()
        go.set()
        assert (await ended(answers[1])).status == Status.CANCELLED


async def test_many_in_flight(bench) -> None:
    bench.plug("1-1")
    async with opened() as device:
        answers = [device.submit(read(address, 512)) for _ in range(64) for address in (0x81, 0x82)]
        writes = [device.submit(write(0x02, bytes([number]))) for number in range(64)]
        assert [(await ended(one)).status for one in writes] == [Status.OK] * 64
        assert [bytes((await ended(one)).data) for one in answers[1::2]] == [bytes([number]) for number in range(64)]


async def test_a_kernel_without_memory_for_more_is_said_once_and_others_go_on(bench, caplog) -> None:
    bench.plug("1-1")
    bench.do("set", name="1-1", memory=2)
    async with opened() as device:
        reads = [read(0x82, 8) for _ in range(4)]
        answers = [device.submit(one) for one in reads]
        await ended(device.submit(write(0x01, b"")))
        assert not any(answer.done() for answer in answers if not isinstance(answer, Completion)), "in their order"
        for one in reads[:2]:
            device.cancel(one)
        found = [(await ended(answer)).status for answer in answers]
        assert found == [Status.CANCELLED] * 2 + [Status.NO_MEMORY] * 2
    assert caplog.text.count("/sys/module/usbcore/parameters/usbfs_memory_mb") == 1


async def test_a_device_that_sleeps_is_said_once(bench, caplog) -> None:
    bench.plug("1-1")
    async with opened() as device:
        bench.do("sleep", name="1-1")
        for _ in range(2):
            assert (await ended(device.submit(read(0x81, 8)))).status == Status.PROTOCOL
    assert caplog.messages == [
        "1-1 is asleep and does not wake up; as root: echo on > /sys/bus/usb/devices/1-1/power/control, "
        "or plug it in again"
    ]


# -- settings, resets, drivers --------------------------------------------------------------------------------------


async def test_what_libusb_must_hear_of_goes_by_its_calls(bench) -> None:
    bench.plug("1-1")
    async with opened() as device:
        bench.do("forget", name="1-1")
        for setup in (set_configuration(1), Setup(*SET_ADDRESS, 5)):
            assert (await ended(device.submit(control(setup)))).status == Status.OK
        counts = bench.state("1-1")["counts"]
        assert {*counts} <= {"REAPURBNDELAY"}, "the same configuration is none, and an address is never set"
        for setup in (set_interface(0, 1), Setup(*SET_PORT_FEATURE, PORT_RESET, 1)):
            assert (await ended(device.submit(control(setup)))).status == Status.OK
        counts = bench.state("1-1")["counts"]
        assert (counts["SETINTERFACE"], counts["RESET"], counts.get("SUBMITURB")) == (2, 1, None)
        assert bench.state("1-1")["alternates"] == {"0": 1}, "restored after the reset"
        assert (await ended(device.submit(control(set_configuration(1))))).status == Status.OK
        assert bench.state("1-1")["alternates"] == {}
        assert (await ended(device.submit(control(set_interface(0, 9))))).status == Status.STALL


@pytest.mark.parametrize(("row", "driver"), [("keyboard", "usbhid"), ("disk", "usb-storage")])
async def test_the_kernels_driver_gives_the_device_up_and_gets_it_back(bench, row, driver) -> None:
    bench.plug("1-1", row, **({"size": "1M"} if row == "disk" else {}))
    assert bench.state("1-1")["drivers"] == {"0": driver}
    source = open_source("usb:1-1")
    assert [info.drivers for info in await source.list()] == [(driver,)]
    async with opened() as device:
        state = bench.state("1-1")
        assert (state["claims"], state["drivers"]) == ([0], {})
        await ended(device.submit(control(set_configuration(0))))
        assert bench.state("1-1")["claims"] == []
    await until(lambda: bench.state("1-1")["open"] == 0)
    state = bench.state("1-1")
    assert (state["claims"], state["drivers"], state["configuration"]) == ([], {"0": driver}, 1)
    await source.close()


async def test_a_device_that_comes_back_from_a_reset_as_another_is_gone(bench) -> None:
    bench.plug("1-1")
    async with opened() as device:
        bench.do("set", name="1-1", next_reset="another")
        assert await device.reset() is ResetOutcome.ANOTHER
        assert "another device" in await device.gone
        assert (await ended(device.submit(read(0x81, 8)))).status == Status.GONE
    async with opened("usb:1209:b007") as device:
        assert device.info.name == "1-1"


async def test_a_device_that_does_not_come_back_from_a_reset_is_gone(bench, monkeypatch) -> None:
    monkeypatch.setattr(libusb_source, "RETURN_SECONDS", 0.2)
    bench.plug("1-1")
    async with opened() as device:
        bench.do("set", name="1-1", next_reset="gone")
        assert await device.reset() is ResetOutcome.GONE
        assert device.gone.done()


# -- coming and going -----------------------------------------------------------------------------------------------


async def test_pulled_out_in_the_middle_of_it(bench) -> None:
    bench.plug("1-1")
    async with opened() as device:
        answers = [device.submit(read(0x82, 512)) for _ in range(20)]
        bench.do("unplug", name="1-1")
        assert {(await ended(answer)).status for answer in answers} == {Status.GONE}
        async with asyncio.timeout(PATIENCE):
            assert await device.gone == "it was unplugged"


async def test_who_watches_hears_of_every_change(bench, monkeypatch) -> None:
    """The bundled libusb hears nothing here, as in a container: scans find out."""
    monkeypatch.setattr(libusb_source, "SCAN_SECONDS", 0.1)
    source = open_source("usb:0525:*?later")
    changes = source.watch()
    assert await source.list() == []
    for _ in range(2):
        bench.plug("1-4")
        async with asyncio.timeout(PATIENCE):
            change = await anext(changes)
        assert (change.name, change.info is not None and change.info.device.vendor_id) == ("1-4", 0x0525)
        bench.do("unplug", name="1-4")
        async with asyncio.timeout(PATIENCE):
            change = await anext(changes)
        assert (change.name, change.info) == ("1-4", None)
    await source.close()


async def test_plugged_in_again_and_again_it_leaves_no_context_behind(bench) -> None:
    """Where the kernel tells nothing a context knows only what was there before it: each time there is a new one."""
    source = open_source("usb:0525:*?later")
    for _ in range(4):
        bench.plug("1-1")
        await source.list()
        device = await source.open("1-1", ME)
        assert _event_threads() == 1
        bench.do("unplug", name="1-1")
        async with asyncio.timeout(PATIENCE):
            await device.gone
        await device.close()
    await source.close()
    assert _event_threads() == 0


async def test_two_devices_of_contexts_of_their_own(bench) -> None:
    """The older one goes on while its context is no longer the one in use."""
    source = open_source("usb:")
    bench.plug("1-1")
    first = await source.open("1-1", ME)
    bench.plug("1-2")
    second = await source.open("1-2", ME)
    for device in (first, second):
        assert (await ended(device.submit(read(0x81, 8)))).status == Status.OK
    assert _event_threads() == 2
    await first.close()
    assert _event_threads() == 1
    assert (await ended(second.submit(read(0x81, 8)))).status == Status.OK
    await source.close()
    assert _event_threads() == 0


@pytest.fixture
def slow(monkeypatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The calls that open a device say that they have begun, and wait until they may go on."""
    begun, go, opened_ = threading.Event(), threading.Event(), libusb_source._opened

    def slowly(*arguments: Any) -> Any:
        begun.set()
        assert go.wait(PATIENCE)
        return opened_(*arguments)

    monkeypatch.setattr(libusb_source, "_opened", slowly)
    yield begun, go
    go.set()


async def test_a_server_is_stopped_while_it_opens_a_device(bench, slow) -> None:
    begun, go = slow
    bench.plug("1-1", "keyboard")
    loop = asyncio.get_running_loop()
    ports, stop = asyncio.Queue[int](), asyncio.Event()

    async def serve() -> None:
        async with serving(Catalog()) as server:
            await server.offer(open_source("usb:1-1"))
            [(_, port)] = await server.listen("127.0.0.1", 0, load_exporter("usbip"))
            ports.put_nowait(port)
            await stop.wait()

    server = loop.create_task(serve())
    source = open_source(f"usbip://127.0.0.1:{await ports.get()}/1-1")
    importing = loop.create_task(source.open("1-1", ME))
    await until(begun.is_set)
    stop.set()
    with pytest.raises(DeviceError):
        await importing
    await asyncio.wait([server], timeout=0.1)
    assert (server.done(), _contexts()) == (False, 1)
    go.set()
    await server
    assert (_contexts(), _event_threads()) == (0, 0)
    assert bench.state("1-1")["drivers"] == {"0": "usbhid"}
    await source.close()


async def test_closed_while_a_device_is_being_opened(bench, slow) -> None:
    """Its context would end under it. Who asked for it is no more."""
    begun, go = slow
    bench.plug("1-1", "keyboard")
    source = open_source("usb:1-1")
    opening = asyncio.get_running_loop().create_task(source.open("1-1", ME))
    await until(begun.is_set)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    with pytest.raises(Busy):
        await source.open("1-1", ME)
    closing = asyncio.get_running_loop().create_task(source.close())
    await asyncio.wait([closing], timeout=0.1)
    assert (closing.done(), _contexts()) == (False, 1)
    go.set()
    await closing
    assert (_contexts(), _event_threads()) == (0, 0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    state = bench.state("1-1")
    assert (state["open"], state["drivers"]) == (0, {"0": "usbhid"})


async def test_who_is_cancelled_while_a_source_closes_hears_of_it(bench) -> None:
    source = open_source("usb:")
    source.watch()
    await source.list()
    closing = asyncio.get_running_loop().create_task(source.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await source.close()


def _contexts() -> int:
    """libusb's, each with a descriptor of epoll's; the event loop has one too."""
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return sum(link.is_symlink() and str(link.readlink()) == "anon_inode:[eventpoll]" for link in links) - 1


def _event_threads() -> int:
    """Of contexts with a device: a testbed's node is a plain file, which cannot be watched."""
    return sum(thread.name == "libusb events" for thread in threading.enumerate())


async def test_a_device_is_told_by_ids_serial_and_port(bench) -> None:
    bench.plug("1-1", "keyboard")
    bench.do("plug_hub", name="1-2")
    bench.plug("1-2.3", "serial")
    source = open_source("usb:")
    infos = {info.name: info for info in await source.list()}
    assert {*infos} == {"1-1", "1-2", "1-2.3"}
    await source.close()
    for selector in ("1-2.3", "port=1-2.*", "class=cdc", f"{infos['1-2.3'].device.vendor_id:04x}:*,port=1-2.3"):
        source = open_source(f"usb:{selector}")
        assert [info.name for info in await source.list()] == ["1-2.3"], selector
        assert source.at("1-2.3") == "usb:1-2.3"
        await source.close()


# -- refusals -------------------------------------------------------------------------------------------------------


async def test_what_is_not_there_is_named_and_so_is_what_is(bench) -> None:
    bench.plug("1-1")
    source = open_source("usb:1-9")
    with pytest.raises(NotFound, match=r"no USB device '1-9'; it has: 1-1 0525:a4a0"):
        await source.list()
    await source.close()


async def test_no_permission_names_the_rule(bench, monkeypatch) -> None:
    monkeypatch.setattr(libusb_source, "PERMISSION_SECONDS", 0.3)
    bench.plug("1-1")
    bench.do("permit", name="1-1", mode=0)
    source = open_source("usb:1-1")
    await source.list()
    with as_nobody(), pytest.raises(DeviceError, match=r"no permission to use 1-1 .*usbferry udev-rule 0525:a4a0 \|"):
        await source.open("1-1", ME)
    await source.close()


async def test_permission_that_udev_grants_a_moment_later_is_waited_for(bench) -> None:
    bench.plug("1-2")
    source = open_source("usb:1-1?later")
    await source.list()
    bench.plug("1-1")
    bench.do("permit", name="1-1", mode=0)
    with as_nobody():
        opening = asyncio.get_running_loop().create_task(source.open("1-1", ME))
        done, _ = await asyncio.wait([opening], timeout=0.6)
        assert not done
        bench.do("permit", name="1-1", mode=0o666)
        async with asyncio.timeout(PATIENCE):
            device = await opening
    await device.close()
    await source.close()


async def test_claimed_by_another_program(bench, tmp_path) -> None:
    bench.plug("1-1")
    program = (
        "import usb.core, sys; d = usb.core.find(idVendor=0x0525); d.detach_kernel_driver(0); d.read(0x81, 8);"
        "print('has it', flush=True); sys.stdin.read()"
    )
    other = _start(program)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "has it\n"
        source = open_source("usb:1-1")
        with pytest.raises(Busy, match=r"1-1 is claimed by .*end that first"):
            await source.open("1-1", ME)
        await source.close()
        (place,) = _list(tmp_path)["places"]
        assert place["devices"][0]["drivers"][0] in ("usbfs", f"python (process {other.pid})")
    finally:
        other.communicate()


async def test_what_became_precious_since_it_was_offered_stays_here(bench, monkeypatch) -> None:
    """A disk that somebody mounts: nobody else gets it, but for who is on this machine, or was told to with force."""
    bench.plug("1-1", "disk", size="1M")
    sources = [open_source(address) for address in ("usb:1-1", "usb:1-1?force")]
    for source in sources:
        (info,) = await source.list()
        assert source.why_not_offered(info) is None
    monkeypatch.setattr(libusb_source, "why_precious", lambda info: "is mounted on /mnt; unmount it first")
    with pytest.raises(
        DeviceError, match=r"^1-1 is mounted on /mnt; unmount it first; --force shares it all the same$"
    ):
        await sources[0].open("1-1", Claimant("192.0.2.7:5", "usbip"))
    assert bench.state("1-1")["drivers"] == {"0": "usb-storage"}
    await (await sources[0].open("1-1", ME)).close()
    await (await sources[1].open("1-1", Claimant("192.0.2.7:5", "usbip"))).close()
    for source in sources:
        await source.close()


class as_nobody:
    """Without root's rights over files, while a `with` lasts."""

    def __enter__(self) -> None:
        if os.geteuid() == 0:
            os.seteuid(65534)

    def __exit__(self, *_: object) -> None:
        if os.getuid() == 0:
            os.seteuid(0)


# -- other programs -------------------------------------------------------------------------------------------------


def test_lsusb_reads_the_same_descriptors(bench) -> None:
    bench.plug("1-1", "disk", size="1M")
    done = _run("lsusb", "-v", "-s", "001:")
    text = done.stdout
    assert "Couldn't open" not in text + done.stderr
    assert "bInterfaceClass         8 Mass Storage" in text
    assert "iProduct                2 " in text
    assert text.count("Endpoint Descriptor:") == 3, "two, and the root hub's"


async def test_pyusb_plays_with_what_we_gave_back(bench, tmp_path) -> None:
    """Through libusb by itself: writes, reads, a stall, a time-out, alternate settings; then we have it again."""
    bench.plug("1-1")
    async with opened():
        pass
    program = Path(__file__).with_name("pyusb_program.py")
    done = _run(sys.executable, str(program))
    assert (done.stdout.splitlines(), done.returncode) == (
        ["0525:a4a0", "detached", "looped 1000", "alternate 1", "interrupt 64", "stall 32", "timeout"],
        0,
    ), done.stderr
    async with opened() as device:
        assert (await ended(device.submit(read(0x81, 8)))).status == Status.OK


# -- the server -----------------------------------------------------------------------------------------------------


async def test_served_by_its_port_and_imported(bench, tmp_path) -> None:
    bench.do("plug_hub", name="1-2")
    bench.plug("1-2.4")
    bench.plug("1-3", "keyboard")
    with served("usb:1-2.4", runtime=tmp_path) as server:
        async with opened(f"{server.address}/1-2.4") as device:
            assert bytes((await ended(device.submit(read(0x81, 64)))).data)[:4] == bytes(4)
            listed = _list(tmp_path)
            local = {
                one["name"]: one for place in listed["places"] if place["address"] == "usb:" for one in place["devices"]
            }
            assert {name: (one["shared"], one["drivers"]) for name, one in local.items()} == {
                "1-2": (False, ["hub"]),
                "1-2.4": (True, ["usbfs"]),
                "1-3": (False, ["usbhid"]),
            }
            assert local["1-2.4"]["holder"]["protocol"] == "usbip"
        await until(lambda: bench.state("1-2.4")["drivers"] == {"0": "usbtest"})


@pytest.mark.parametrize("library", ["", "libusb-1.0.so.0"])
async def test_what_matches_is_shared_whenever_it_is_plugged_in(bench, tmp_path, library) -> None:
    """With the bundled libusb, and with the system's, which hears of devices from udev."""
    with served("--match", "0525:*", runtime=tmp_path, USBFERRY_LIBUSB=library) as server:
        for _ in range(2 if library else 1):
            bench.plug("1-5")
            await until(lambda: "1-5" in _names(tmp_path, server.address))
            async with opened(f"{server.address}/1-5") as device:
                reading = device.submit(read(0x82, 64))
                bench.do("unplug", name="1-5")
                assert (await ended(reading)).status == Status.GONE
                async with asyncio.timeout(PATIENCE):
                    await device.gone
            await until(lambda: "1-5" not in _names(tmp_path, server.address))


async def test_an_importer_learns_that_a_reset_made_another_device_of_it(bench, tmp_path) -> None:
    """As a loader that starts new firmware. What it is now is offered in its place."""
    bench.plug("1-1")
    with served("usb:1-1", runtime=tmp_path) as server:
        async with opened(f"{server.address}/1-1") as device:
            reading = device.submit(read(0x82, 64))
            bench.do("set", name="1-1", next_reset="another")
            assert await device.reset() is not ResetOutcome.SAME
            assert (await ended(reading)).status in (Status.GONE, Status.SHUTDOWN)
            async with asyncio.timeout(PATIENCE):
                await device.gone

        def offered() -> list[tuple[str, str]]:
            (place,) = _list(tmp_path, server.address)["places"]
            return [(one["name"], f"{one['vendor_id']}:{one['product_id']}") for one in place["devices"]]

        await until(lambda: offered() == [("1-1", "1209:b007")])


async def test_a_hub_is_not_shared_by_accident(bench, tmp_path) -> None:
    bench.do("plug_hub", name="1-7")
    done = _run(sys.executable, "-m", "usbferry", "serve", "--listen", "127.0.0.1:0", "usb:1-7")
    assert (done.returncode, done.stderr) == (
        2,
        "usbferry serve: usb:1-7 is a hub; share the devices behind it; --force shares it all the same\n",
    )
    with served("--match", "port=1-*", runtime=tmp_path) as server:
        assert "1-7" not in _names(tmp_path, server.address)
    with served("--force", "usb:1-7", runtime=tmp_path) as server:
        assert _names(tmp_path, server.address) == ["1-7"]


async def test_killed_with_a_device_it_is_given_back(bench, tmp_path) -> None:
    """Nobody is left to release what was claimed: the driver gets it back all the same."""
    bench.plug("1-1", "keyboard")
    with served("usb:1-1", runtime=tmp_path) as server:
        source = open_source(f"{server.address}/1-1")
        (info,) = await source.list()
        device = await source.open(info.name, ME)
        assert bench.state("1-1")["drivers"] == {}
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        await until(lambda: bench.state("1-1")["drivers"] == {"0": "usbhid"})
        await device.close()
        await source.close()


async def test_a_second_importer_who_is_refused_takes_no_guard_away(bench, tmp_path) -> None:
    """Two names for one device: whoever comes second finds it claimed. Killed then, its driver still gets it back."""
    bench.plug("1-1", "keyboard")
    with served("usb:1-1", "usb:class=keyboard", runtime=tmp_path) as server:
        source = open_source(server.address)
        first, second = [info.name for info in await source.list()]
        device = await source.open(first, ME)
        with pytest.raises(DeviceError):
            await source.open(second, ME)
        assert bench.state("1-1")["drivers"] == {}
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        await until(lambda: bench.state("1-1")["drivers"] == {"0": "usbhid"})
        await device.close()
        await source.close()


async def test_a_guard_that_died_is_followed_by_another(bench, tmp_path) -> None:
    for name in ("1-1", "1-2"):
        bench.plug(name, "keyboard")
    with served("--force", "usb:class=keyboard", runtime=tmp_path) as server:
        source = open_source(server.address)
        devices = [await source.open("1-1", ME)]
        guards = _children(server.process.pid)
        assert len(guards) == 1
        os.kill(guards[0], signal.SIGKILL)
        await until(lambda: _status(guards[0])[0] in ("Z", ""))
        devices.append(await source.open("1-2", ME))
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        for name in ("1-1", "1-2"):
            await until(lambda name=name: bench.state(name)["drivers"] == {"0": "usbhid"})
        for device in devices:
            await device.close()
        await source.close()


def _status(pid: int) -> tuple[str, int]:
    """A process's state, "Z" once it has ended, and its parent; "" and 0 for none."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return words[0], int(words[1])


def _children(pid: int) -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and _status(int(name))[1] == pid]


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=PATIENCE)


def _start(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _list(runtime: Path, *addresses: str) -> Any:
    done = _run(sys.executable, "-m", "usbferry", "list", "--json", *addresses, XDG_RUNTIME_DIR=str(runtime))
    return json.loads(done.stdout)


def _names(runtime: Path, address: str) -> list[str]:
    (place,) = _list(runtime, address)["places"]
    return [device["name"] for device in place["devices"]]
