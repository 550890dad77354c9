"""Rate matching: a queue between two clocks stays near its target, for hours; and the values of a feedback endpoint."""

import asyncio
from collections.abc import Callable

import pytest

from tests.devices.host import ask, isochronous, opened
from usbferry.devices.bridges.bridge import Bridge
from usbferry.devices.bridges.stream import ByteQueue
from usbferry.devices.clock import VirtualClock
from usbferry.devices.microphone import Microphone
from usbferry.devices.sound import sinks
from usbferry.devices.sound.pcm import Pace
from usbferry.devices.sound.rate_matching import SPAN, Matching, feedback
from usbferry.devices.sound.sources import Piped
from usbferry.devices.speaker import Speaker
from usbferry.usb.setup import set_interface
from usbferry.usb.transfer import Completion
from usbferry.usb.types import Status

FRAME = 4
TARGET, FULL = 4800 * FRAME, 9600 * FRAME


def an_hour(ppm: float, chunk: int, *, matched: bool = True) -> tuple[int, int]:
    """The lowest and the highest level, in frames, of a queue that a live far side fills at its own 48 kHz."""
    matching, pace = Matching(TARGET, FULL), Pace(8000)
    level, filled, levels = TARGET, 0.0, []
    for step in range(450_000):  # of 8 ms
        filled += 384 * (1 + ppm / 1e6)
        while filled >= chunk:
            filled -= chunk
            level += chunk * FRAME
        level -= pace.frames(48000 * (matching.factor(level) if matched else 1.0)) * FRAME
        if step > 10_000:
            levels.append(level // FRAME)
        if not 0 < level < FULL:
            return (level // FRAME, level // FRAME)
    return min(levels), max(levels)


@pytest.mark.slow
@pytest.mark.parametrize("ppm", [-300, 0, 300])
def test_an_hour_of_two_clocks_neither_starves_nor_overflows(ppm):
    lowest, highest = an_hour(ppm, 480)
    assert 3500 < lowest <= highest < 6100


def test_without_it_the_same_hour_runs_over():
    """What the proof above rests on."""
    assert an_hour(300, 480, matched=False)[0] >= 9600


def test_a_far_side_that_waits_for_us_has_no_clock():
    matching = Matching(TARGET, FULL)
    assert [matching.factor(level) for level in (0, FULL, FULL + 4)] == [1, 1, 1]


def test_it_never_asks_for_more_than_a_packet_has_room_for():
    matching = Matching(TARGET, FULL)
    asked = [matching.factor(level) for level in [FULL - 1] * 1000 + [1] * 1000]
    assert max(asked) == pytest.approx(1 + SPAN, rel=1e-4)
    assert min(asked) == pytest.approx(1 - SPAN, rel=1e-4)
    assert 48 * (1 + SPAN) < 49


def test_a_restart_forgets_the_level():
    matching = Matching(TARGET, FULL)
    first = matching.factor(TARGET + 400)
    for _ in range(100):
        matching.factor(FULL - 4)
    matching.restart()
    assert matching.factor(TARGET + 400) == first


@pytest.mark.parametrize(
    ("rate", "full_speed", "value"),
    [(48000, True, "00000c"), (44100, True, "66060b"), (48000, False, "00000600"), (44100, False, "33830500")],
)
def test_feedback_is_frames_of_an_interval_with_binary_places(rate, full_speed, value):
    """10.14 of a frame, 16.16 of a microframe: USB 2.0 §5.12.4.2."""
    assert feedback(rate, full_speed=full_speed).hex() == value


# -- the devices ------------------------------------------------------------------------------------------------------


class FarSide(Bridge):
    """Two queues, filled and emptied by a test."""

    async def start(self, to_host: ByteQueue, from_host: ByteQueue) -> None:
        self.to_host, self.from_host = to_host, from_host

    async def stop(self) -> None:
        pass


async def a_minute(clock: VirtualClock, every_8_ms: Callable[[], None]) -> None:
    for _ in range(7500):
        every_8_ms()
        clock.advance(0.008)
        for _ in range(3):
            await asyncio.sleep(0)


@pytest.mark.parametrize("ahead", [-0.002, 0.002])
async def test_a_microphone_keeps_up_with_a_program_that_has_another_clock(ahead):
    """Which would have starved its queue of a tenth of a second in 25 s, or waited."""
    clock = VirtualClock()
    device = Microphone(buffer=0.1, clock=clock)
    source = device.recording.source = Piped(FarSide())
    bridge, filled, levels = source.bridge, 0.0, []
    async with opened(device):
        ask(device, set_interface(1, 1))

        def step() -> None:
            nonlocal filled
            filled += 384 * (1 + ahead)
            frames = int(filled)
            filled -= frames
            bridge.to_host.put(bytes(frames * FRAME))
            levels.append(len(bridge.to_host) // FRAME)
            device.submit(isochronous(0x82, [196] * 8))

        await a_minute(clock, step)
    assert source.silent == 0
    assert 1000 < min(levels[1000:]) <= max(levels[1000:]) < 4000, "of 4800"


@pytest.mark.parametrize("ahead", [-0.002, 0.002])
async def test_a_speaker_has_its_host_keep_up_with_a_program_that_has_another_clock(ahead):
    """The host sends what the feedback says, as Linux does."""
    clock = VirtualClock()
    device = Speaker(buffer=0.1, clock=clock)
    sink = device.playing.sink = sinks.Piped(FarSide())
    bridge, levels, asked = sink.bridge, [], 6 << 16
    taken = sent = 0.0
    async with opened(device):
        ask(device, set_interface(1, 1))

        def heard(answer: asyncio.Future[Completion]) -> None:
            nonlocal asked
            if answer.result().status == Status.OK:
                asked = int.from_bytes(answer.result().data, "little")

        def step() -> None:
            nonlocal taken, sent
            lengths = []
            for _ in range(8):
                sent += asked * 8 / (1 << 16)
                lengths.append(int(sent) * FRAME)
                sent -= int(sent)
            device.submit(isochronous(0x01, lengths))
            device.submit(isochronous(0x81, [4])).add_done_callback(heard)
            levels.append(len(bridge.from_host) // FRAME)
            if levels[-1] > 2400 or taken:  # it begins when half is there
                taken += 384 * (1 + ahead)
                bridge.from_host.take(int(taken) * FRAME)
                taken -= int(taken) - 1e-9

        await a_minute(clock, step)
    assert sink.lost == 0
    assert 1000 < min(levels[1000:]) <= max(levels[1000:]) < 4000, "of 4800"
