"""The camera: its descriptors, how a host chooses, and its pictures by the device's clock."""

import asyncio
import os
from struct import pack

import pytest

from tests.devices.host import ask, isochronous, opened, read, turn
from tests.devices.video_host import Driver, number_in
from usbferry.backends.virtual import described
from usbferry.devices.camera import Camera, Chosen
from usbferry.devices.clock import VirtualClock
from usbferry.devices.video.test_card import card
from usbferry.devices.video.uvc import Coding, Error, Request
from usbferry.usb import build
from usbferry.usb.descriptors import parse_configuration
from usbferry.usb.setup import Setup, clear_halt, set_interface
from usbferry.usb.types import Speed, Status, TransferType

OK, STALL = Status.OK, Status.STALL
SIZE = (160, 120)
PROBE, COMMIT = 0x0100, 0x0200
USUAL = 333_333


def put(device, selector: int, number: int, index: int, interval: int = USUAL) -> int:
    data = pack("<HBBI", 1, number, index, interval).ljust(34, b"\0")
    return ask(device, Setup(0x21, Request.SET_CUR, selector, 1, len(data)), data).status


def get(device, kind: int, value: int, index: int = 1) -> bytes | None:
    answer = ask(device, Setup(0xA1, kind, value, index, 255))
    return bytes(answer.data) if answer.status == OK else None


# -- descriptors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.1", "1.5"])
@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER])
@pytest.mark.parametrize("bulk", [False, True])
def test_its_interfaces(version, speed, bulk):
    device = Camera(version=version, speed=speed, bulk=bulk)
    tree = parse_configuration(build.configuration(device.info.configurations[0]))
    assert tree == device.info.configurations[0]
    protocol = {"1.1": 0, "1.5": 1}[version]
    assert {(i.interface_class, i.interface_protocol) for i in tree.interfaces} == {(0x0E, protocol)}
    assert [(a.first, a.count, a.function_class, a.function_subclass) for a in tree.associations] == [(0, 2, 0x0E, 3)]
    control, idle, *streaming = tree.interfaces
    assert (control.interface_subclass, control.endpoints, idle.interface_subclass) == (1, (), 2)
    if bulk:
        assert [(e.address, e.type) for e in idle.endpoints] == [(0x81, TransferType.BULK)]
        assert streaming == []
        return
    assert idle.endpoints == ()
    assert [i.alternate for i in streaming] == list(range(1, len(streaming) + 1))
    assert {e.attributes for i in streaming for e in i.endpoints} == {0x05}
    sizes = [e.service_bytes for i in streaming for e in i.endpoints]
    assert sizes == sorted(set(sizes))
    most = {Speed.FULL: 1023, Speed.HIGH: 3072, Speed.SUPER: 49152}[speed]
    assert sizes[-1] == most


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ("speed=high", {"mjpeg": 4, "yuy2": 3}),
        ("speed=full", {"mjpeg": 2, "yuy2": 1}),
        ("speed=super", {"mjpeg": 4, "yuy2": 4}),
        ("speed=full&bulk", {"mjpeg": 4, "yuy2": 4}),
        ("formats=yuy2&sizes=1920x1080&rates=30,5", {"yuy2": 1}),
    ],
)
def test_what_the_bus_has_no_room_for_is_left_out(options, sizes):
    device = described(f"virtual:camera?{options}")
    assert {one.coding.value: len(one.frames) for one in device._formats} == sizes


def test_a_rate_that_does_not_fit_is_left_out_where_another_does():
    device = described("virtual:camera?formats=yuy2&sizes=1280x720,640x480&rates=30,10,5")
    assert [frame.rates for frame in device._formats[0].frames] == [(10, 5), (30, 10, 5)]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("version=1.0", "versions 1.1 and 1.5"),
        ("speed=low", "low speed has no isochronous endpoints .* use full, high or super"),
        ("formats=h264", "no format 'h264'; there are: mjpeg, yuy2"),
        ("sizes=big", "is no size"),
        ("sizes=641x480", "width has to be even"),
        ("sizes=64x64", "at least 128x96"),
        ("rates=fast", "are no rates"),
        ("rates=0", "1 to 240"),
        ("formats=yuy2&sizes=1920x1080", "none of these sizes and rates fits"),
        ("source=listen://127.0.0.1:0&formats=yuy2", "cannot be yuy2"),
        ("source=file:/nothing.jpg", "No such file"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(options, why):
    with pytest.raises(ValueError, match=why):
        described(f"virtual:camera?{options}")


# -- choosing -------------------------------------------------------------------------------------------------------


async def test_a_host_probes_and_commits():
    async with opened(Camera(clock=VirtualClock())) as device:
        assert get(device, Request.GET_LEN, PROBE) == b"\x22\0"
        assert get(device, Request.GET_INFO, PROBE) == b"\3"
        usual = get(device, Request.GET_DEF, PROBE)
        assert get(device, Request.GET_CUR, PROBE) == usual
        assert put(device, PROBE, 2, 3, 700_000) == OK
        got = get(device, Request.GET_CUR, PROBE)
        assert got[2:8] == pack("<BBI", 2, 3, 666_666)
        assert [get(device, kind, PROBE)[4:8] for kind in (Request.GET_MIN, Request.GET_MAX)] == [
            pack("<I", 333_333),
            pack("<I", 666_666),
        ]
        assert get(device, Request.GET_CUR, COMMIT) is None
        assert ask(device, Setup(0x21, Request.SET_CUR, COMMIT, 1, len(got)), got).status == OK
        assert get(device, Request.GET_CUR, COMMIT) == got
        assert device.mode is None, "nothing is sent yet"
        ask(device, set_interface(1, 3))
        assert device.mode == Chosen(Coding.YUY2, 160, 120, 15.0)


async def test_a_refused_request_says_why_until_the_next():
    """§4.2.1.2."""
    async with opened(Camera(clock=VirtualClock())) as device:

        def error() -> int:
            return get(device, Request.GET_CUR, 0x0200, 0)[0]

        assert error() == Error.NONE
        assert put(device, COMMIT, 9, 9) == STALL
        assert error() == Error.OUT_OF_RANGE
        assert put(device, 0x0300, 1, 1) == STALL
        assert error() == Error.INVALID_CONTROL
        assert get(device, Request.GET_MIN, COMMIT) is None
        assert error() == Error.INVALID_REQUEST
        assert put(device, PROBE, 1, 1) == OK
        assert error() == Error.NONE
        assert get(device, Request.GET_CUR, 0x0100, 0) is None


@pytest.mark.parametrize(
    ("options", "mode", "payload"),
    [
        ("", (2, 1, USUAL), 3072),
        ("", (2, 3, USUAL), 192),
        ("", (1, 1, USUAL), 384),
        ("bulk", (2, 3, USUAL), 6 + 160 * 120 * 2),
        ("speed=full", (2, 1, 666_666), 1023),
    ],
)
async def test_the_payload_is_what_the_pictures_need(options, mode, payload):
    async with opened(described(f"virtual:camera?{options}")) as device:
        put(device, PROBE, *mode)
        assert int.from_bytes(get(device, Request.GET_CUR, PROBE)[22:26], "little") == payload


# -- pictures -------------------------------------------------------------------------------------------------------


class Watcher(Driver):
    """What a video driver does: some transfers, submitted again as soon as they end."""

    def __init__(self, device, packets: int = 32, size: int = 3072, count: int = 5) -> None:
        super().__init__()
        self._device, self._lengths = device, [size] * packets
        for _ in range(count):
            self._submit()

    def _submit(self) -> None:
        self._device.submit(isochronous(0x81, self._lengths)).add_done_callback(self._ended)

    def _ended(self, answer: asyncio.Future) -> None:
        completion = answer.result()
        if completion.status == OK:
            self.transfer(completion)
            self._submit()


async def run(clock: VirtualClock, seconds: float) -> None:
    for _ in range(round(seconds * 1000)):
        clock.advance(0.001)
        await turn()


@pytest.mark.parametrize(("number", "coding"), [(1, Coding.MJPEG), (2, Coding.YUY2)])
@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER])
async def test_a_second_of_the_clock_has_its_pictures_once_and_in_order(speed, number, coding):
    clock = VirtualClock()
    async with opened(Camera(sizes="160x120", rates="30,5", speed=speed, clock=clock)) as device:
        rate = 5 if coding is Coding.YUY2 and speed is Speed.FULL else 30
        assert put(device, COMMIT, number, 1, 10_000_000 // rate) == OK
        ask(device, set_interface(1, 4))
        watcher = Watcher(device)
        await run(clock, 1.05)
        assert [number_in(one, SIZE, coding) for one in watcher.pictures] == list(range(len(watcher.pictures)))
        assert rate <= len(watcher.pictures) <= rate + 2
        assert watcher.ids == [n % 2 for n in range(len(watcher.ids))]
        steps = [b - a for a, b in zip(watcher.times, watcher.times[1:], strict=False)]
        assert all(abs(step - 1e6 / rate) < 1500 for step in steps)
        assert device.payloads.sent - len(watcher.pictures) in (0, 1)


async def test_over_bulk_a_picture_comes_at_its_time_and_the_stream_ends_with_the_halt_that_is_cleared():
    clock = VirtualClock()
    async with opened(Camera(bulk=True, sizes="160x120", rates="10", clock=clock)) as device:
        waiting = device.submit(read(0x81, 16384))
        await run(clock, 0.3)
        assert not waiting.done(), "nobody has chosen"
        assert put(device, COMMIT, 1, 1, 1_000_000) == OK
        assert number_in(bytes(waiting.result().data)[6:], SIZE, Coding.MJPEG) == 0
        numbers = []
        for _ in range(5):
            answer = device.submit(read(0x81, 16384))
            assert not answer.done()
            await run(clock, 0.1)
            numbers.append(number_in(bytes(answer.result().data)[6:], SIZE, Coding.MJPEG))
        assert numbers == [1, 2, 3, 4, 5]
        ask(device, clear_halt(0x81))
        assert device.mode is None
        waiting = device.submit(read(0x81, 16384))
        await run(clock, 0.3)
        assert not waiting.done()
        assert put(device, COMMIT, 1, 1, 1_000_000) == OK
        assert number_in(bytes(waiting.result().data)[6:], SIZE, Coding.MJPEG) == 0


async def test_a_bulk_transfer_too_short_for_a_header_overflows():
    async with opened(Camera(bulk=True, clock=VirtualClock())) as device:
        assert device.submit(read(0x81, 5)).status == Status.OVERFLOW


async def test_live_pictures_wake_a_bulk_endpoint(tmp_path):
    clock = VirtualClock()
    device = described(f"virtual:camera?bulk&sizes=160x120&source=mjpeg:{tmp_path / 'fifo'}")
    device._clock = clock
    async with opened(device):
        put(device, COMMIT, 1, 1)
        waiting = device.submit(read(0x81, 16384))
        await run(clock, 0.2)
        assert not waiting.done()
        fifo = os.open(tmp_path / "fifo", os.O_WRONLY)
        os.write(fifo, card(3, *SIZE, Coding.MJPEG))
        os.close(fifo)
        await turn()
        assert number_in(bytes(waiting.result().data)[6:], SIZE, Coding.MJPEG) == 3


async def test_streams_end_with_their_setting_a_reset_and_the_claim():
    device = Camera(clock=VirtualClock())
    told = []
    device.changed = lambda: told.append(device.mode is not None)
    async with opened(device):
        for alternate in (6, 0, 6):
            ask(device, set_interface(1, alternate))
        await device.reset()
        ask(device, set_interface(1, 6))
    assert told == [True, False] * 3
    assert device.mode is None
