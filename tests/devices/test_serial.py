"""The serial port: descriptors, requests and notifications of CDC-ACM; bytes between its host and its far side."""

import asyncio
import hashlib
import logging
import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.devices.host import ask, opened, read, turn, write
from tests.devices.stream_host import Reader, pattern, send
from usbferry.backends.virtual import VirtualSource
from usbferry.device import Claimant, DeviceError
from usbferry.devices.bridges.bridge import Bridge
from usbferry.devices.cdc import LineCoding, Lines, Signals
from usbferry.devices.clock import VirtualClock
from usbferry.devices.serial import IN, NOTIFY, OUT, Serial
from usbferry.usb.descriptors import parse_configuration
from usbferry.usb.setup import Setup, clear_halt, get_descriptor, set_configuration
from usbferry.usb.transfer import Completion
from usbferry.usb.types import Speed, Status

ME = Claimant("test")
SET_LINE_CODING, GET_LINE_CODING, SET_LINES, SEND_BREAK = 0x20, 0x21, 0x22, 0x23
MEBIBYTE = 1 << 20


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
async def port(clock):
    async with opened(Serial(clock=clock)) as device:
        yield device


def set_lines(port, value, interface=0):
    return ask(port, Setup(0x21, SET_LINES, value, interface)).status


def send_break(port, milliseconds):
    return ask(port, Setup(0x21, SEND_BREAK, milliseconds)).status


def set_coding(port, raw):
    return ask(port, Setup(0x21, SET_LINE_CODING, 0, 0, len(raw)), raw).status


def get_coding(port):
    return ask(port, Setup(0xA1, GET_LINE_CODING, 0, 0, 7)).data


class Host:
    """Reads the notifications of a port, as often as its interval allows."""

    def __init__(self, port, clock):
        self.port, self.clock = port, clock
        self.asked = None

    def states(self):
        """Every state told since last time."""
        states = []
        while True:
            self.clock.advance(1)
            if self.asked is None:
                self.asked = self.port.submit(read(NOTIFY, 16))
            if not self.asked.done():
                return states
            raw, self.asked = bytes(self.asked.result().data), None
            assert raw[:8] == bytes.fromhex("a1 20 0000 0000 0200")
            states.append(Signals(int.from_bytes(raw[8:], "little")))


# -- descriptors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("speed", "packet"), [(Speed.FULL, 64), (Speed.HIGH, 512), (Speed.SUPER, 1024)])
@pytest.mark.parametrize("association", [True, False])
async def test_the_descriptors_are_those_of_an_abstract_control_model(speed, packet, association):
    async with opened(Serial(speed=speed, association=association)) as port:
        raw = bytes(ask(port, get_descriptor(2, length=255)).data)
        device = bytes(ask(port, get_descriptor(1)).data)
    configuration = parse_configuration(raw)
    control, data = configuration.interfaces
    assert (control.interface_class, control.interface_subclass, control.interface_protocol) == (2, 2, 0)
    assert control.extra == (
        bytes.fromhex("05 24 00 2001"),
        bytes.fromhex("05 24 01 00 01"),
        bytes.fromhex("04 24 02 06"),
        bytes.fromhex("05 24 06 00 01"),
    )
    assert [(e.address, e.max_packet) for e in control.endpoints] == [(NOTIFY, 16)]
    assert control.endpoints[0].interval_us(speed) == 8000
    assert (data.interface_class, data.interface_subclass, data.interface_protocol) == (10, 0, 0)
    assert [(e.address, e.max_packet) for e in data.endpoints] == [(OUT, packet), (IN, packet)]
    if association:
        (joined,) = configuration.associations
        assert (joined.first, joined.count, joined.function_class, joined.function_subclass) == (0, 2, 2, 2)
        assert device[4:7] == bytes((0xEF, 2, 1))
    else:
        assert configuration.associations == ()
        assert device[4:7] == bytes((2, 0, 0))


def test_low_speed_is_refused_with_its_reason():
    with pytest.raises(ValueError, match=r"low speed has no bulk endpoints .* use full, high or super"):
        VirtualSource("virtual:serial?speed=low")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("to=nowhere", "is no far side"),
        ("link=/tmp/x", "link goes with to=pty"),
        ("buffer=0", "holds nothing"),
        ("baud=9600", "no option 'baud'; it has: to, link, input, buffer"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_words(options, text):
    with pytest.raises(ValueError, match=text):
        VirtualSource(f"virtual:serial?{options}")


# -- the line coding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("80250000 00 00 08", "9600 8N1"),
        ("00c20100 02 02 07", "115200 7E2"),
        ("10270000 01 01 05", "10000 5O1.5"),
        ("ffffffff 00 03 06", "4294967295 6M1"),
        ("00000000 00 04 10", "0 16S1"),
    ],
)
async def test_a_line_coding_is_taken_shown_and_given_back(port, raw, text):
    raw = bytes.fromhex(raw)
    assert set_coding(port, raw) == Status.OK
    assert str(port.coding) == text
    assert get_coding(port) == raw


@given(st.binary(max_size=9))
def test_a_line_coding_is_what_its_bytes_say_or_nothing(raw):
    try:
        assert LineCoding.parse(raw).pack() == raw
    except ValueError:
        assert len(raw) != 7 or raw[4] > 2 or raw[5] > 4 or raw[6] not in (5, 6, 7, 8, 16)


@pytest.mark.parametrize("raw", ["", "8025000000000", "80250000030008", "80250000000508", "80250000000009"])
async def test_a_line_coding_that_is_none_stalls_and_changes_nothing(port, raw):
    raw = bytes.fromhex(raw if len(raw) % 2 == 0 else raw[:-1])
    assert set_coding(port, raw) == Status.STALL
    assert str(port.coding) == "9600 8N1"


async def test_requests_to_another_interface_stall(port):
    assert set_lines(port, 3, interface=1) == Status.STALL
    assert port.lines == Lines(0)


@pytest.mark.parametrize("code", [0x00, 0x01, 0x02, 0x03, 0x04, 0x24])
async def test_requests_the_descriptors_do_not_promise_stall(port, code):
    assert ask(port, Setup(0x21, code)).status == Status.STALL
    assert ask(port, Setup(0xA1, code, 0, 0, 2)).status == Status.STALL


# -- lines and breaks -----------------------------------------------------------------------------------------------


async def test_dtr_and_rts_are_seen_told_and_logged_once_for_each_change(port, caplog):
    caplog.set_level(logging.INFO, "usbferry.devices.serial")
    seen = []
    port.changed = lambda: seen.append(port.lines)
    for value in (3, 3, 1, 0xFFF1, 0):
        assert set_lines(port, value) == Status.OK
    assert seen == [Lines.DTR | Lines.RTS, Lines.DTR, Lines(0)]
    assert [r.getMessage() for r in caplog.records] == [
        "echo: DTR on, RTS on",
        "echo: DTR on, RTS off",
        "echo: DTR off, RTS off",
    ]


async def test_a_break_lasts_until_told(port, clock, caplog):
    caplog.set_level(logging.INFO, "usbferry.devices.serial")
    assert send_break(port, 0xFFFF) == Status.OK
    clock.advance(1000)
    assert port.breaking
    assert send_break(port, 0) == Status.OK
    assert not port.breaking
    assert [r.getMessage() for r in caplog.records] == ["echo: break on", "echo: break off"]


async def test_a_break_lasts_its_milliseconds_and_a_later_one_its_own(port, clock):
    send_break(port, 250)
    clock.advance(0.2)
    send_break(port, 250)
    clock.advance(0.2)
    assert port.breaking
    clock.advance(0.05)
    assert not port.breaking


class Recorder(Bridge):
    """A far side in Python."""

    def __init__(self):
        super().__init__()
        self.heard = []
        self.got = b""

    async def begin(self):
        self.heard.append("begin")

    async def end(self):
        self.heard.append("end")

    def pass_on(self):
        self.got += self.from_host.take(len(self.from_host))

    def host_left(self):
        self.heard.append("left")

    def line_coding(self, coding):
        self.heard.append(str(coding))

    def control_lines(self, lines):
        self.heard.append(lines)

    def send_break(self, on):
        self.heard.append(on)


async def test_a_bridge_hears_what_its_host_does():
    port = Serial()
    port.bridge = Recorder()
    async with opened(port):
        set_coding(port, bytes.fromhex("00c20100 000008"))
        set_lines(port, 3)
        send_break(port, 0xFFFF)
        port.submit(write(OUT, b"hello"))
    assert port.bridge.heard == ["begin", "115200 8N1", Lines(3), True, Lines(0), False, "left", "end"]
    assert port.bridge.got == b"hello"


# -- serial state ---------------------------------------------------------------------------------------------------


async def test_the_first_thing_told_is_the_state_of_the_line(port, clock):
    assert Host(port, clock).states() == [Signals.DSR | Signals.DCD]


async def test_every_change_is_told_in_order_and_nothing_else(port, clock):
    host = Host(port, clock)
    host.states()
    port.signals |= Signals.DSR
    port.signals &= ~Signals.DCD
    port.signals &= ~Signals.DCD
    assert host.states() == [Signals.DSR]
    assert host.states() == []


async def test_events_are_told_each_time_and_once(port, clock):
    host, lasting = Host(port, clock), Signals.DSR | Signals.DCD
    host.states()
    port.signals |= Signals.RING
    port.signals |= Signals.RING
    port.signals |= Signals.BREAK | Signals.FRAMING
    port.signals &= ~Signals.DSR
    S = Signals
    assert host.states() == [lasting | S.RING, lasting | S.RING, lasting | S.BREAK | S.FRAMING, S.DCD]
    assert port.signals == Signals.DCD


async def test_a_notification_longer_than_its_transfer_is_babble(port, clock):
    answer = port.submit(read(NOTIFY, 8))
    clock.advance(1.0)
    completion = await answer
    assert (completion.status, completion.actual) == (Status.OVERFLOW, 8)


async def test_a_host_that_reads_no_notifications_costs_no_memory_and_learns_the_truth(port, clock):
    for _ in range(10_000):
        port.signals |= Signals.RING
    port.signals = Signals.DCD
    states = Host(port, clock).states()
    assert len(states) < 100
    assert states[-1] == Signals.DCD


async def test_a_new_configuration_begins_with_the_state(port, clock):
    host = Host(port, clock)
    host.states()
    ask(port, set_configuration(1))
    await turn()
    assert host.asked.result().status == Status.SHUTDOWN
    host.asked = None
    assert host.states() == [Signals.DSR | Signals.DCD]


async def test_dcd_follows_the_connection():
    source = VirtualSource("virtual:serial?to=listen://127.0.0.1:0")
    await source.list()
    port = await source.open("", ME)
    told = asyncio.Event()
    port.bridge.connected_changed, before = lambda: (before(), told.set()), port.bridge.connected_changed
    assert port.signals == Signals.DSR
    with socket.create_connection(("127.0.0.1", port.bridge.port)):
        await told.wait()
        assert port.signals == Signals.DSR | Signals.DCD
        told.clear()
    await told.wait()
    assert port.signals == Signals.DSR
    await source.close()


# -- data -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER])
async def test_a_mebibyte_comes_back_from_an_echo(speed):
    data = pattern(MEBIBYTE)
    async with opened(Serial(speed=speed)) as port:
        packet = {Speed.FULL: 64, Speed.HIGH: 512, Speed.SUPER: 1024}[speed]
        reader = Reader(port, 2 * packet)
        assert await send(port, data, [20 * packet]) == len(data)
        got = await reader.until(len(data))
        await reader.stop()
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


async def test_an_echo_whose_host_does_not_read_takes_two_buffers_and_then_waits():
    async with opened(Serial(buffer=1000)) as port:
        taken = 0
        while isinstance(port.submit(write(OUT, bytes(100))), Completion):
            taken += 100
        assert taken == 2000
        reader = Reader(port)
        assert len(await reader.until(2100)) == 2100  # the one that waited too
        await reader.stop()


@settings(max_examples=20)
@given(
    writes=st.lists(st.integers(0, 3000), max_size=20),
    length=st.sampled_from([64, 128, 512, 4096]),
    depth=st.integers(1, 16),
    buffer=st.integers(1, 4096),
)
def test_any_sizes_through_an_echo(writes, length, depth, buffer):
    async def run():
        data = pattern(sum(writes))
        async with opened(Serial(speed=Speed.FULL, buffer=buffer)) as port:
            reader = Reader(port, length, depth)
            assert await send(port, data, [size for size in writes if size]) == len(data)
            assert await reader.until(len(data)) == data
            await turn()
            assert all(size < length for size in reader.lengths[-1:])  # whoever reads to a short packet got one
            assert await reader.stop() == data

    asyncio.run(run())


async def test_clearing_a_halt_owes_no_end(port):
    port.submit(write(OUT, bytes(512)))
    assert port.submit(read(IN, 512)).actual == 512
    ask(port, clear_halt(IN))
    assert not port.submit(read(IN, 512)).done()


# -- claims ---------------------------------------------------------------------------------------------------------


async def test_the_next_host_sees_nothing_of_the_last():
    source = VirtualSource("virtual:serial")
    port = await source.open("", ME)
    port.submit(write(OUT, b"secret"))
    set_lines(port, 3)
    set_coding(port, bytes.fromhex("00c20100 000008"))
    send_break(port, 0xFFFF)
    await port.close()
    assert (port.lines, port.breaking) == (Lines(0), False)
    port = await source.open("", ME)
    answer = port.submit(read(IN, 512))
    await turn()
    assert not answer.done()
    assert get_coding(port) == bytes.fromhex("80250000 000008")
    await port.close()
    await source.close()


async def test_a_terminal_is_there_before_the_first_host_and_until_the_source_closes(tmp_path):
    link = tmp_path / "tty"
    source = VirtualSource(f"virtual:serial?to=pty&link={link}")
    assert not link.exists()
    await source.list()
    path = os.readlink(link)
    for _ in range(2):
        port = await source.open("", ME)
        assert os.readlink(link) == path
        await port.close()
        assert os.readlink(link) == path
    await source.close()
    assert not link.is_symlink()


async def test_a_device_opened_by_itself_lives_for_its_claim(tmp_path):
    link = tmp_path / "tty"
    port = Serial(to="pty", link=link)
    for _ in range(2):
        async with opened(port):
            assert link.exists()
        assert not link.is_symlink()


async def test_a_far_side_that_cannot_be_is_told_when_listed_and_when_opened():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        source = VirtualSource(f"virtual:serial?to=listen://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(DeviceError, match="listen://"):
            await source.list()
        with pytest.raises(DeviceError, match="listen://"):
            await source.open("", ME)
        with pytest.raises(DeviceError, match="listen://"):
            await source.device.open()
        assert not source.device.is_open
    port = await source.open("", ME)  # the address is free now
    await port.close()
    await source.close()


async def test_a_host_that_leaves_in_the_middle_loses_nothing_that_was_acknowledged(tmp_path):
    """What it wrote reaches the far side after it left; what the far side sent waits for the next host."""
    source = VirtualSource("virtual:serial?to=listen://127.0.0.1:0&buffer=4096")
    await source.list()
    data, back = pattern(MEBIBYTE, 1), pattern(MEBIBYTE, 2)
    with socket.create_connection(("127.0.0.1", source.device.bridge.port)) as peer:
        peer.settimeout(30)
        loop = asyncio.get_running_loop()
        sending = loop.create_task(asyncio.to_thread(peer.sendall, back))
        receiving = loop.create_task(asyncio.to_thread(_receive, peer))
        sent, got = 0, b""
        while len(got) < len(back) or sent < len(data):
            port = await source.open("", ME)
            reader = Reader(port, 1024, 4)
            writing = loop.create_task(send(port, data[sent : sent + 300_000], [1000]))
            await reader.until(min(300_000, len(back) - len(got)))
            if len(got) == len(back):
                await asyncio.wait((writing,))
            await port.close()
            sent += await writing
            await turn()
            got += reader.data
        await sending
        await source.close()  # the peer has it all, and then the end
        assert await receiving == data
    assert got == back


def _receive(peer):
    got = bytearray()
    while piece := peer.recv(65536):
        got += piece
    return bytes(got)


async def test_each_host_reads_a_file_from_its_start(tmp_path):
    path, log = tmp_path / "in", tmp_path / "out"
    path.write_bytes(pattern(100_000))
    source = VirtualSource(f"virtual:serial?to=file:{log}&input={path}")
    for _ in range(2):
        port = await source.open("", ME)
        reader = Reader(port)
        assert await reader.until(100_000) == pattern(100_000)
        await send(port, b"line\n")
        await port.close()
    await source.close()
    assert log.read_bytes() == b"line\n" * 2
