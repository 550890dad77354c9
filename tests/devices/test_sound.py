"""Microphone, speaker and headset: their descriptors, what a host sets, and their packets by the device's clock."""

import asyncio
from struct import pack, unpack

import pytest

from tests.devices.host import ask, isochronous, opened, turn
from usbferry.backends.virtual import described
from usbferry.devices.clock import VirtualClock
from usbferry.devices.headset import Headset
from usbferry.devices.microphone import Microphone
from usbferry.devices.sound import uac
from usbferry.devices.sound.pcm import Format
from usbferry.devices.sound.sources import counted
from usbferry.devices.speaker import Speaker
from usbferry.usb import build
from usbferry.usb.descriptors import parse_configuration
from usbferry.usb.setup import Setup, set_interface
from usbferry.usb.transfer import Transfer
from usbferry.usb.tree import Configuration, Endpoint
from usbferry.usb.types import Speed, Status

CASES = [(1, Speed.FULL), (1, Speed.HIGH), (2, Speed.FULL), (2, Speed.HIGH), (2, Speed.SUPER)]
OK, STALL = Status.OK, Status.STALL
MINUS_20_DB = (-20 * 256).to_bytes(2, "little", signed=True)


def parsed(device) -> Configuration:
    """Its configuration, through bytes and back."""
    return parse_configuration(build.configuration(device.info.configurations[0]))


def endpoints(device) -> dict[int, Endpoint]:
    return {e.address: e for i in parsed(device).interfaces for e in i.endpoints}


# -- descriptors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "speed"), CASES)
def test_a_headset_has_three_interfaces_and_three_endpoints(version, speed):
    device = Headset(version=version, speed=speed)
    tree = parsed(device)
    assert tree == device.info.configurations[0], "every descriptor survives the bytes"
    shown = [
        (i.number, i.alternate, i.interface_class, i.interface_subclass, i.interface_protocol) for i in tree.interfaces
    ]
    protocol = {1: 0x00, 2: 0x20}[version]
    assert shown == [(0, 0, 1, 1, protocol)] + [(n, a, 1, 2, protocol) for n in (1, 2) for a in (0, 1)]
    assert [[e.address for e in i.endpoints] for i in tree.interfaces] == [[], [], [0x01, 0x81], [], [0x82]]
    assert [(a.first, a.count) for a in tree.associations] == ([(0, 3)] if version == 2 else [])


@pytest.mark.parametrize(("version", "speed"), CASES)
def test_data_is_asynchronous_and_feedback_says_that_it_is(version, speed):
    """bmAttributes, USB 2.0 table 9-13: 0x05 is isochronous, asynchronous, data; 0x11 isochronous, feedback."""
    found = endpoints(Headset(version=version, speed=speed))
    assert {address: e.attributes for address, e in found.items()} == {0x01: 0x05, 0x81: 0x11, 0x82: 0x05}
    assert found[0x81].packet_size == (3 if speed is Speed.FULL else 4)
    assert [found[address].interval_us(speed) for address in (0x01, 0x82, 0x81)] == [1000, 1000, 8000]
    if version == 1:
        assert [(e.refresh, e.synch_address) for e in found.values()] == [(0, 0x81), (3, 0), (0, 0)]
    else:
        assert {e.refresh for e in found.values()} == {None}


@pytest.mark.parametrize("version", [1, 2])
def test_the_units_lead_from_terminal_to_terminal(version):
    """Each unit's source is there, both ends of the headset name each other, and wTotalLength is their length."""
    control = parsed(Headset(version=version)).interfaces[0]
    header, *units = control.extra
    length = int.from_bytes(header[5:7] if version == 1 else header[6:8], "little")
    assert length == sum(map(len, control.extra))
    numbers = {unit[3]: unit[2] for unit in units}
    assert len(numbers) == len(units)
    sources = {unit[3]: unit[4] if unit[2] == 0x06 else unit[7] for unit in units if unit[2] in (0x03, 0x06)}
    assert sources == {2: 1, 3: 2, 5: 4, 6: 5}
    partners = {unit[3]: unit[6] for unit in units if unit[2] in (0x02, 0x03)}
    assert partners == {1: 0, 3: 4, 4: 3, 6: 0}
    kinds = {unit[3]: int.from_bytes(unit[4:6], "little") for unit in units if unit[2] in (0x02, 0x03)}
    assert kinds == {1: 0x0101, 3: 0x0402, 4: 0x0402, 6: 0x0101}


@pytest.mark.parametrize(
    ("options", "interval_us", "size"),
    [
        ("rates=48000", 1000, 49 * 4),
        ("rates=48000,44100&bits=24", 1000, 49 * 6),
        ("rates=44100", 1000, 46 * 4),
        ("rates=192000&bits=32", 500, 97 * 8),
        ("rates=192000&channels=8&bits=24", 125, 25 * 24),
    ],
)
def test_a_packet_has_room_for_one_frame_more_and_comes_as_often_as_it_must(options, interval_us, size):
    found = endpoints(described(f"virtual:microphone?{options}"))[0x82]
    assert (found.interval_us(Speed.HIGH), found.packet_size) == (interval_us, size)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("version=3", "versions 1 and 2"),
        ("speed=low", "low speed has no isochronous"),
        ("version=1&rates=192000&channels=8", "do not fit a packet at this speed"),
        ("rates=fast", "are no rates"),
        ("rates=48000,48000", "names a rate twice"),
        ("rates=48000,99", "4000 to 384000"),
        ("bits=8", "16, 24 or 32"),
        ("buffer=0", "buffer"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(options, why):
    with pytest.raises(ValueError, match=why):
        described(f"virtual:microphone?{options}")


# -- controls -------------------------------------------------------------------------------------------------------


def put(device, request_type: int, value: int, index: int, data: bytes) -> int:
    return ask(device, Setup(request_type, uac.Request.CUR, value, index, len(data)), data).status


def get(device, request_type: int, request: int, value: int, index: int) -> bytes | None:
    answer = ask(device, Setup(request_type, request, value, index, 255))
    return bytes(answer.data) if answer.status == OK else None


@pytest.mark.parametrize("version", [1, 2])
async def test_volume_and_mute_are_set_and_read_and_end_with_the_host(version):
    cur = uac.Request.GET_CUR if version == 1 else uac.Request.CUR
    device = Headset(version=version, clock=VirtualClock())
    told = []
    device.changed = lambda: told.append((device.playing.volume.value, device.recording.mute.value))
    async with opened(device):
        assert put(device, 0x21, 0x0200, 0x0200, MINUS_20_DB) == OK
        assert put(device, 0x21, 0x0100, 0x0500, b"\1") == OK
        assert get(device, 0xA1, cur, 0x0200, 0x0200) == MINUS_20_DB
        assert get(device, 0xA1, cur, 0x0200, 0x0500) == b"\0\0"
        assert get(device, 0xA1, cur, 0x0100, 0x0500) == b"\1"
    assert told == [(-5120, 0), (-5120, 1), (0, 1), (0, 0)]


async def test_version_1_has_its_rate_at_the_endpoint():
    async with opened(Headset(version=1, clock=VirtualClock())) as device:
        assert get(device, 0xA2, uac.Request.GET_CUR, 0x0100, 0x82) == (48000).to_bytes(3, "little")
        assert put(device, 0x22, 0x0100, 0x82, (44100).to_bytes(3, "little")) == OK
        assert (device.recording.format.rate, device.playing.format.rate) == (44100, 48000)
        assert put(device, 0x22, 0x0200, 0x82, bytes(3)) == STALL
        assert put(device, 0x22, 0x0100, 0x81, bytes(3)) == STALL


async def test_version_2_has_its_rate_at_the_clock():
    async with opened(Headset(clock=VirtualClock())) as device:
        ranges = get(device, 0xA1, uac.Request.RANGE, 0x0100, 0x0B00)
        assert ranges[:2] == b"\2\0"
        assert put(device, 0x21, 0x0100, 0x0B00, (44100).to_bytes(4, "little")) == OK
        assert (device.recording.format.rate, device.playing.format.rate) == (44100, 48000)
        assert get(device, 0xA1, uac.Request.CUR, 0x0200, 0x0B00) == b"\1", "the clock is valid"
        assert put(device, 0x21, 0x0200, 0x0B00, b"\0") == STALL


async def test_version_2_says_which_settings_are_in_force():
    async with opened(Headset(clock=VirtualClock())) as device:
        ask(device, set_interface(2, 1))
        assert [get(device, 0xA1, uac.Request.CUR, 0x0100, n) for n in (1, 2)] == [b"\0", b"\1"]
        assert get(device, 0xA1, uac.Request.CUR, 0x0200, 1) == b"\1\3"


@pytest.mark.parametrize("version", [1, 2])
async def test_what_is_not_there_is_refused(version):
    """Entities, selectors, channels, interfaces, and the other version's requests."""
    mine, other = (uac.Request.GET_CUR, uac.Request.CUR)[:: 1 if version == 1 else -1]
    async with opened(Microphone(version=version, clock=VirtualClock())) as device:
        assert get(device, 0xA1, mine, 0x0100, 0x0500) == b"\0"
        refused = [
            (mine, 0x0100, 0x0200),
            (mine, 0x0300, 0x0500),
            (mine, 0x0101, 0x0500),
            (mine, 0x0100, 0x0501),
            (mine, 0x0300, 0x0001),
            (other, 0x0100, 0x0500),
        ]
        assert [get(device, 0xA1, *one) for one in refused] == [None] * len(refused)


# -- packets --------------------------------------------------------------------------------------------------------


class Recorder:
    """What a driver does: a few transfers of some packets each, submitted again as soon as they end."""

    def __init__(self, device, size: int, packets: int = 8, count: int = 3) -> None:
        self.data = b""
        self.sizes: list[int] = []
        self._device, self._size, self._packets = device, size, packets
        for _ in range(count):
            self._submit()

    def _submit(self) -> None:
        answer = self._device.submit(isochronous(0x82, [self._size] * self._packets))
        answer.add_done_callback(self._ended)

    def _ended(self, answer: asyncio.Future) -> None:
        completion = answer.result()
        if completion.status == OK:
            self.data += bytes(completion.data)
            self.sizes += [packet.actual for packet in completion.packets]
            self._submit()


async def run(clock: VirtualClock, seconds: float) -> None:
    for _ in range(round(seconds * 1000)):
        clock.advance(0.001)
        await turn()


@pytest.mark.parametrize(("version", "speed"), CASES)
@pytest.mark.parametrize("rate", [48000, 44100])
async def test_time_of_the_clock_is_as_much_sound(version, speed, rate):
    clock = VirtualClock()
    async with opened(
        Microphone(source="counter", rates=f"{rate}", version=version, speed=speed, clock=clock)
    ) as device:
        ask(device, set_interface(1, 1))
        recorder = Recorder(device, endpoints(device)[0x82].packet_size)
        await run(clock, 0.2001)
        frames = len(recorder.data) // 4
        assert recorder.data == counted(0, frames, 4)
        assert frames == rate * len(recorder.sizes) // 1000
        assert 192 <= len(recorder.sizes) <= 200, "no packet before its time, and none late by more than a transfer"
        assert max(recorder.sizes) - min(recorder.sizes) <= 4


async def test_a_host_that_is_late_loses_nothing_of_a_counter():
    clock = VirtualClock()
    async with opened(Microphone(source="counter", clock=clock)) as device:
        ask(device, set_interface(1, 1))
        recorder = Recorder(device, 196, count=1)
        for late in (0.008, 0.05, 0.3, 0.008, 1.0):
            clock.advance(late)
            await turn()
        assert len(recorder.data) >= 5 * 8 * 48 * 4
        assert recorder.data == counted(0, len(recorder.data) // 4, 4)


async def test_packets_that_are_too_small_delay_frames_and_lose_none():
    clock = VirtualClock()
    async with opened(Microphone(source="counter", clock=clock)) as device:
        ask(device, set_interface(1, 1))
        recorder = Recorder(device, 42)
        await run(clock, 0.1)
        assert set(recorder.sizes) == {40}
        assert recorder.data == counted(0, len(recorder.data) // 4, 4)


async def test_volume_and_mute_act_on_the_samples():
    clock = VirtualClock()
    async with opened(Microphone(source="tone:1000", clock=clock)) as device:
        ask(device, set_interface(1, 1))
        recorder = Recorder(device, 196)

        async def peak() -> int:
            recorder.data = b""
            await run(clock, 0.05)
            raw = recorder.data
            return max(int.from_bytes(raw[at : at + 2], "little", signed=True) for at in range(0, len(raw), 2))

        loud = await peak()
        put(device, 0x21, 0x0200, 0x0500, MINUS_20_DB)
        await run(clock, 0.05)
        quiet = await peak()
        put(device, 0x21, 0x0100, 0x0500, b"\1")
        await run(clock, 0.05)
        assert (loud, quiet, await peak()) == (16384, 1638, 0)


def play(device, lengths: list[int], data: bytes) -> asyncio.Future:
    transfer = isochronous(0x01, lengths)
    transfer.data = data
    return device.submit(transfer)


async def test_what_is_played_arrives_whole_also_from_packets_apart_from_each_other():
    clock = VirtualClock()
    async with opened(Speaker(to="counter", clock=clock)) as device:
        ask(device, set_interface(1, 1))
        first = play(device, [40, 0, 80], counted(1, 30, 4))
        apart = Transfer(
            0x01, 100, counted(31, 10, 4) + bytes(20) + counted(41, 10, 4), packets=isochronous(0x01, [40, 40]).packets
        )
        apart.packets[1].offset = 60
        second = device.submit(apart)
        await run(clock, 0.01)
        assert [packet.actual for packet in first.result().packets] == [40, 0, 80]
        assert (second.result().status, second.result().actual) == (OK, 80)
        assert (device.playing.sink.frames, device.playing.sink.gaps) == (50, 0)


async def test_volume_and_mute_act_on_what_is_played(tmp_path):
    device = Speaker(to=f"wav:{tmp_path / 'played.wav'}", clock=VirtualClock())
    async with opened(device):
        ask(device, set_interface(1, 1))
        for request, data in ((0x0200, MINUS_20_DB), (0x0100, b"\1"), (0x0100, b"\0"), (0x0200, b"\0\0")):
            play(device, [4], pack("<2h", 16000, -16000))
            await run(device.clock, 0.002)
            assert put(device, 0x21, request, 0x0200, data) == OK
    played = (tmp_path / "played.wav").read_bytes()[44:]
    assert unpack("<8h", played) == (16000, -16000, 1600, -1600, 0, 0, 1600, -1600)


@pytest.mark.parametrize(("version", "speed"), CASES)
async def test_feedback_comes_every_8_ms_and_is_the_rate_that_the_host_chose(version, speed):
    clock = VirtualClock()
    async with opened(Speaker(version=version, speed=speed, clock=clock)) as device:
        if version == 1:
            put(device, 0x22, 0x0100, 0x01, (44100).to_bytes(3, "little"))
        else:
            put(device, 0x21, 0x0100, 0x0A00, (44100).to_bytes(4, "little"))
        ask(device, set_interface(1, 1))
        size = 3 if speed is Speed.FULL else 4
        answers = [device.submit(isochronous(0x81, [size])) for _ in range(4)]
        await run(clock, 0.0245)
        assert [answer.done() for answer in answers] == [True, True, True, False]
        value = int.from_bytes(answers[0].result().data, "little")
        assert value / (1 << 14) if speed is Speed.FULL else 8 * value / (1 << 16) == pytest.approx(44.1, abs=0.001)


async def test_a_rate_that_is_changed_in_the_middle_counts_from_then_on():
    clock = VirtualClock()
    async with opened(Microphone(source="silence", clock=clock)) as device:
        ask(device, set_interface(1, 1))
        recorder = Recorder(device, 196)
        await run(clock, 0.1)
        put(device, 0x21, 0x0100, 0x0B00, (44100).to_bytes(4, "little"))
        recorder.sizes.clear()
        await run(clock, 0.08)
        assert {size // 4 for size in recorder.sizes} == {44, 45}


async def test_streams_begin_and_end_with_their_setting():
    device = Headset(clock=VirtualClock())
    async with opened(device):
        running = []
        for interface, alternate in ((1, 1), (2, 1), (1, 0), (2, 1), (2, 0), (1, 1)):
            ask(device, set_interface(interface, alternate))
            running.append((device.playing.is_running, device.recording.is_running))
        assert running == [(1, 0), (1, 1), (0, 1), (0, 1), (0, 0), (1, 0)]
        await device.reset()
        assert not device.playing.is_running
        ask(device, set_interface(1, 1))
    assert not device.playing.is_running, "the claim ended"


async def test_a_file_decides_what_the_microphone_is(tmp_path):
    import wave

    path = tmp_path / "x.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 22050, 0, "NONE", ""))
        file.writeframes(bytes(100))
    device = described(f"virtual:headset?source=wav:{path}")
    assert isinstance(device, Headset)
    assert (device.recording.format, device.playing.format) == (Format(22050, 1), Format())


async def test_a_sink_that_cannot_begin_leaves_nothing_open(tmp_path):
    from usbferry.device import DeviceError

    device = Headset(source=f"fifo:{tmp_path / 'fifo'}", to=f"wav:{tmp_path}/none/x.wav", clock=VirtualClock())
    with pytest.raises(DeviceError, match="cannot be written"):
        await device.open()
