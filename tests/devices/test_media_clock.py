"""Sound and pictures by the device's clock: in virtual time the same each time, in real time only when it is time."""

import asyncio

import pytest

from tests.devices.host import ask, isochronous, opened, read, turn
from usbferry.devices.camera import Camera
from usbferry.devices.clock import VirtualClock
from usbferry.devices.headset import Headset
from usbferry.devices.video.uvc import Request
from usbferry.devices.virtual import VirtualDevice
from usbferry.usb.setup import Setup, set_interface
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status

Event = tuple[float, int, bytes, list[int]]  # when, endpoint, data, and what each packet had


class Host:
    """Keeps transfers under way on endpoints of a device, and writes down how each ended. `has_seen`: sixty of them."""

    def __init__(self, device: VirtualDevice, *kinds: tuple[int, int, int], count: int = 3) -> None:
        self.seen: list[Event] = []
        self.has_seen = asyncio.Event()
        self._device = device
        for endpoint, size, packets in kinds:
            for _ in range(count):
                self._submit(endpoint, size, packets)

    def _submit(self, endpoint: int, size: int, packets: int) -> None:
        transfer = isochronous(endpoint, [size] * packets)

        def ended(answer: asyncio.Future[Completion]) -> None:
            if answer.result().status == Status.OK:
                self._ended(transfer, answer.result())
                self._submit(endpoint, size, packets)

        self._device.submit(transfer).add_done_callback(ended)

    def _ended(self, transfer: Transfer, answer: Completion) -> None:
        actual = [packet.actual for packet in answer.packets or ()]
        if len(self.seen) == 60:
            self.has_seen.set()
        self.seen.append((self._device.clock.now(), transfer.endpoint, bytes(answer.data), actual))


SOUND = ((0x82, 196, 8), (0x01, 176, 8), (0x81, 4, 1))
PICTURES = ((0x81, 3072, 32),)


def headset(clock: VirtualClock | None = None) -> Headset:
    return Headset(source="tone:997", rates="44100", clock=clock)


def begin(device: VirtualDevice) -> None:
    """Every interface that has a setting 1 streams."""
    for setting in device.info.configurations[0].interfaces:
        if setting.alternate == 1:
            ask(device, set_interface(setting.number, 1))


@pytest.mark.parametrize(("make", "kinds"), [(headset, SOUND), (lambda clock: Camera(clock=clock), PICTURES)])
async def test_under_virtual_time_the_same_happens_at_the_same_time(make, kinds):
    """However the test divides that time."""
    runs = []
    for step in (0.001, 0.001, 0.00025):
        clock = VirtualClock()
        async with opened(make(clock)) as device:
            begin(device)
            host = Host(device, *kinds)
            for _ in range(round(0.25 / step)):
                clock.advance(step)
                await turn()
        runs.append(host.seen)
    assert len(runs[0]) > 60
    assert runs[0] == runs[1]
    contents = [[(endpoint, data, actual) for _, endpoint, data, actual in sorted(run)] for run in runs]
    assert contents[2] == contents[0]


class Turns:
    """How often the running loop has looked for what to do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        selector = asyncio.get_running_loop()._selector
        select = selector.select

        def counted(timeout: float | None = None) -> list:
            self.count += 1
            return select(timeout)

        monkeypatch.setattr(selector, "select", counted)


async def test_a_stream_takes_few_turns_of_the_loop(monkeypatch):
    """Two for each transfer: its time comes, and its end is told."""
    async with opened(headset()) as device:
        begin(device)
        turns, host = Turns(monkeypatch), Host(device, *SOUND)
        await host.has_seen.wait()
        assert turns.count < 3 * len(host.seen) + 10


@pytest.mark.parametrize("device", [headset(), Camera(), Camera(bulk=True, rates="2")])
async def test_whoever_waits_takes_none(monkeypatch, device):
    """For a host that asks for nothing; over bulk for the next picture, which is half a second away."""
    async with opened(device):
        begin(device)
        if device.info.configurations[0].interfaces[-1].alternate == 0:
            usual = bytes(ask(device, Setup(0xA1, Request.GET_DEF, 0x0100, 1, 34)).data)
            ask(device, Setup(0x21, Request.SET_CUR, 0x0200, 1, 34), usual)
            first, second = (device.submit(read(0x81, 1 << 20)) for _ in range(2))
            assert isinstance(first, Completion)
            assert not second.done()
        turns = Turns(monkeypatch)
        await asyncio.sleep(0.2)
        assert turns.count < 6
