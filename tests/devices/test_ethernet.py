"""A network adapter: frames both ways in both modes, notifications, and a cable that is pulled."""

import asyncio
import contextlib
import os
import socket

import pytest

from tests.devices.host import ask, opened, read, turn, write
from usbferry.backends.virtual import VirtualSource
from usbferry.device import Claimant
from usbferry.devices import ncm
from usbferry.devices.bridges.bridge import Bridge
from usbferry.devices.bridges.frames import FrameQueue
from usbferry.devices.clock import VirtualClock
from usbferry.devices.ethernet import IN, NOTIFY, OUT, Ethernet
from usbferry.usb.setup import Setup, set_interface
from usbferry.usb.transfer import Flags
from usbferry.usb.types import Status

UP, DOWN = bytes.fromhex("a1 00 0100 0000 0000"), bytes.fromhex("a1 00 0000 0000 0000")
FULL_FRAME = bytes(range(250)) * 6 + bytes(14)


class Far(Bridge):
    """The other end, played by the test: `frames` are what came; it gives what it is told to."""

    def __init__(self, reads=True):
        super().__init__()
        self.frames, self.reads = [], reads

    async def begin(self):
        self.connected = True

    def pass_on(self):
        while self.reads and (frame := self.from_host.take_frame()) is not None:
            self.frames.append(frame)

    def unsent(self):
        return 0


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture(params=["ecm", "ncm"])
def mode(request):
    return request.param


@pytest.fixture
async def adapter(clock, mode):
    device = Ethernet(mode=mode, clock=clock)
    device.bridge = Far()
    async with opened(device):
        assert ask(device, set_interface(1, 1)).status == Status.OK
        yield device


def sent(adapter, frames, flags=0):
    """The host sends frames, as its driver does in this mode."""
    blocks = frames if adapter.mode == "ecm" else [ncm.pack(frames, 0)]
    for block in blocks:
        assert adapter.submit(write(OUT, block, flags)).status == Status.OK


def got(adapter, length=2048):
    """The frames of the next IN transfer that is there already."""
    block = bytes(adapter.submit(read(IN, length)).data)
    return ncm.parse(block) if adapter.mode == "ncm" else [block]


async def test_frames_of_the_host_arrive_whole_and_in_order(adapter):
    sent(adapter, [b"a" * 60, FULL_FRAME, b"c" * 61])
    assert adapter.bridge.frames == [b"a" * 60, FULL_FRAME, b"c" * 61]


async def test_frames_for_the_host_arrive_whole_and_in_order(adapter):
    waiting = adapter.submit(read(IN, 16384))
    adapter.to_host.put_frame(b"x" * 60)
    block = bytes((await waiting).data)
    assert (ncm.parse(block) if adapter.mode == "ncm" else [block]) == [b"x" * 60]
    for frame in (b"y" * 64, FULL_FRAME):
        adapter.to_host.put_frame(frame)
    found = got(adapter, 16384)
    if len(found) < 2:
        found += got(adapter, 16384)
    assert found == [b"y" * 64, FULL_FRAME]


async def test_a_frame_of_whole_packets_has_its_end_and_is_no_part_of_the_next(clock):
    """By ZERO_PACKET, by an empty transfer, or by a byte more than it has."""
    device = Ethernet(clock=clock)
    device.bridge = Far()
    async with opened(device):
        ask(device, set_interface(1, 1))
        device.submit(write(OUT, b"a" * 512, Flags.ZERO_PACKET))
        device.submit(write(OUT, b"b" * 512))
        device.submit(write(OUT, b""))
        device.submit(write(OUT, b"c" * 512))
        device.submit(write(OUT, b"c" * 100))
        assert [(frame[:1], len(frame)) for frame in device.bridge.frames] == [(b"a", 512), (b"b", 512), (b"c", 612)]
        device.to_host.put_frame(b"d" * 512)
        assert [len(device.submit(read(IN, 512)).data) for _ in range(2)] == [512, 0]


async def test_too_long_a_frame_is_lost_and_the_next_is_not(clock, caplog):
    device = Ethernet(clock=clock)
    device.bridge = Far()
    async with opened(device):
        ask(device, set_interface(1, 1))
        device.submit(write(OUT, b"x" * 1516))
        device.submit(write(OUT, b"y" * 60))
        assert device.bridge.frames == [b"y" * 60]
        device.to_host.put_frame(b"x" * 1600)
        device.to_host.put_frame(b"z" * 60)
        assert bytes(device.submit(read(IN, 2048)).data) == b"z" * 60
    assert "more than a frame may have" in caplog.text


async def test_a_block_that_lies_is_lost_and_the_next_is_not(clock, caplog):
    device = Ethernet(mode="ncm", clock=clock)
    device.bridge = Far()
    async with opened(device):
        ask(device, set_interface(1, 1))
        device.submit(write(OUT, b"NCMH" + bytes(40)))
        device.submit(write(OUT, ncm.pack([b"y" * 60], 1)))
        assert device.bridge.frames == [b"y" * 60]
    assert "no block of frames" in caplog.text


async def test_blocks_are_no_longer_than_the_host_reads(clock):
    device = Ethernet(mode="ncm", clock=clock)
    device.bridge = Far()
    async with opened(device):
        ask(device, set_interface(1, 1))
        assert bytes(ask(device, Setup(0xA1, 0x80, 0, 0, 28)).data) == ncm.parameters()
        assert ask(device, Setup(0x21, 0x86, 0, 0, 4), (2048).to_bytes(4, "little")).status == Status.OK
        assert bytes(ask(device, Setup(0xA1, 0x85, 0, 0, 4)).data) == (2048).to_bytes(4, "little")
        for size in (2047, 1 << 20):
            assert ask(device, Setup(0x21, 0x86, 0, 0, 4), size.to_bytes(4, "little")).status == Status.STALL
        for _ in range(4):
            device.to_host.put_frame(FULL_FRAME)
        blocks = [bytes(device.submit(read(IN, 2048)).data) for _ in range(4)]
        assert [len(ncm.parse(block)) for block in blocks] == [1, 1, 1, 1]
        assert [block[6] for block in blocks] == [0, 1, 2, 3]


async def test_a_far_side_that_does_not_read_holds_the_host_back(adapter):
    adapter.bridge.reads = False
    for _ in range(1000):
        block = ncm.pack([FULL_FRAME], 0) if adapter.mode == "ncm" else FULL_FRAME
        answer = adapter.submit(write(OUT, block))
        if isinstance(answer, asyncio.Future):
            break
    assert len(adapter.from_host) < 300_000
    adapter.bridge.reads = True
    adapter.bridge.move()
    assert (await answer).status == Status.OK


class Notified:
    """What the host is told, as often as its interval allows."""

    def __init__(self, device, clock):
        self.device, self.clock, self.asked = device, clock, None

    def news(self):
        told = []
        while True:
            self.clock.advance(1)
            self.asked = self.asked or self.device.submit(read(NOTIFY, 16))
            if not self.asked.done():
                return told
            told.append(bytes(self.asked.result().data))
            self.asked = None


async def test_the_host_is_told_of_its_cable(adapter, clock):
    host = Notified(adapter, clock)
    speed = bytes.fromhex("a1 2a 0000 0000 0800") + (480_000_000).to_bytes(4, "little") * 2
    assert host.news() == [speed, UP]
    adapter.bridge.connected = False
    assert host.news() == [DOWN]
    sent(adapter, [b"a" * 60])
    assert (adapter.bridge.frames, adapter.lost) == ([], 1)
    adapter.bridge.connected = True
    assert host.news() == [speed, UP]


async def test_without_a_cable_the_host_is_told_so(clock):
    async with opened(Ethernet(clock=clock)) as device:
        ask(device, set_interface(1, 1))
        assert Notified(device, clock).news() == [DOWN]


async def test_a_host_that_begins_gets_no_frame_of_the_one_before(adapter):
    adapter.to_host.put_frame(b"old" * 20)
    ask(adapter, set_interface(1, 0))
    ask(adapter, set_interface(1, 1))
    adapter.to_host.put_frame(b"new" * 20)
    assert got(adapter) == [b"new" * 20]


async def test_its_address_is_the_string_it_names(adapter):
    raw = bytes(ask(adapter, Setup(0x80, 6, 0x0304, 0x0409, 255)).data)
    assert raw[2:].decode("utf-16-le") == adapter.mac.replace(":", "").upper()


def test_addresses_stay_and_differ():
    assert Ethernet().mac == Ethernet().mac != Ethernet(serial="2").mac
    assert int(Ethernet().mac[:2], 16) & 3 == 2  # locally administered, one adapter's
    assert Ethernet(mac="52-54-00-AB-CD-EF").mac == "52:54:00:ab:cd:ef"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("mac=1:2:3", "is no MAC address"),
        ("mac=01:00:00:00:00:01", "is a group's address"),
        ("mode=rndis", "mode is ecm or ncm, not 'rndis'"),
        ("to=pty", "write echo, tcp://HOST:PORT, listen://HOST:PORT, unix:PATH or tap:NAME"),
        ("to=tap:", "is no interface's name"),
        ("to=tap:a-name-much-too-long", "at most 15 characters"),
        ("to=unix:", "needs a path"),
        ("speed=low", "low speed has no bulk endpoints"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_words(options, text):
    with pytest.raises(ValueError, match=text):
        VirtualSource(f"virtual:ethernet?{options}")


async def test_two_adapters_joined_by_a_unix_socket_as_qemu_speaks_it(tmp_path):
    """Each frame has its length before it, in pieces of any size."""
    path = os.fspath(tmp_path / "net")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        listening.setblocking(False)
        source = VirtualSource(f"virtual:ethernet?to=unix:{path}")
        device = await source.open(source.device.info.name, Claimant("test"))
        loop = asyncio.get_running_loop()
        peer, _ = await loop.sock_accept(listening)
        with peer:
            ask(device, set_interface(1, 1))
            while not source.device.connected:
                await turn()
            device.submit(write(OUT, b"h" * 60))
            assert await loop.sock_recv(peer, 100) == b"\0\0\0\x3c" + b"h" * 60
            waiting = device.submit(read(IN, 2048))
            for piece in (b"\0\0", b"\0\x3d" + b"g" * 30, b"g" * 31):
                await loop.sock_sendall(peer, piece)
                await turn()
            assert bytes((await waiting).data) == b"g" * 61
        await device.close()
        await source.close()


def test_a_stream_that_has_no_lengths_is_named_once(caplog):
    queue = FrameQueue()
    for _ in range(2):
        queue.put(b"SSH-2.0-OpenSSH_9.2\r\n")
        assert queue.next_frame() is None
    assert len(queue) == 0
    assert caplog.text.count("does not send lengths") == 1


async def test_a_peer_that_leaves_in_the_middle_of_a_frame_spoils_none_of_the_next(tmp_path):
    source = VirtualSource("virtual:ethernet?to=listen://127.0.0.1:0")
    device = await source.open(source.device.info.name, Claimant("test"))
    where = ("127.0.0.1", source.device.bridge.port)
    ask(device, set_interface(1, 1))
    with socket.create_connection(where) as first:
        first.setblocking(False)
        frames = b"\0\0\5\xdc" + b"a" * 1500
        sent = asyncio.get_running_loop().sock_sendall(first, frames * 200 + frames[:500])  # nobody reads them
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(sent, 0.5)
        while not source.device.bridge.connected:  # noqa: ASYNC110 - the bridge has had no turn yet, and nobody tells
            await asyncio.sleep(0)
    _, second = await asyncio.open_connection(*where)
    second.write(b"\0\0\0\x3c" + b"b" * 60)
    assert bytes((await device.submit(read(IN, 2048))).data) == b"b" * 60
    second.close()
    await second.wait_closed()
    await device.close()
    await source.close()
