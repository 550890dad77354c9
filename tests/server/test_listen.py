"""A server on real sockets: who gets a device, who frees it, what a limit does, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import struct

import pytest

from tests.devices.host import turn
from tests.protocols.ferry import wire as ferry
from tests.protocols.usbip import wire
from tests.server.client import IN, OUT, connected, importing
from tests.server.process import Process
from usbferry.device import Claimant, Device, Source
from usbferry.devices.virtual import VirtualDevice, done, endpoint
from usbferry.protocols.limits import DEFAULT_LIMITS, Limits
from usbferry.protocols.usbip.exporter import Exporter
from usbferry.registry import load_exporter, open_source
from usbferry.server import listen as module
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving
from usbferry.transports.place import Place
from usbferry.usb.descriptors import DeviceDescriptor, Interface
from usbferry.usb.info import DeviceInfo

DEV_BUSY, NODEV, NA = 2, 4, 1
ECONNRESET, ESHUTDOWN, ENOMEM, ENODEV = -104, -108, -12, -19


class Parrot(VirtualDevice):
    """An interrupt endpoint that never has a report, a sink and a source of bytes, and a diary."""

    descriptor = DeviceDescriptor(0x1209, 0x0001)

    def __init__(self, diary: list[str]) -> None:
        self.diary = diary
        super().__init__()

    def interfaces(self):
        return (Interface(0, endpoints=(self.interrupt(0x81, 8, 4), self.bulk(0x02), self.bulk(0x83))),)

    @endpoint(0x02)
    def sink(self, transfer):
        return done(transfer)

    async def opened(self):
        self.diary.append("opened")

    async def closed(self):
        self.diary.append("closed")

    def was_reset(self):
        self.diary.append("reset")


class One(Source):
    """A source of one device that the test holds."""

    address = "test:one"

    def __init__(self, device: VirtualDevice) -> None:
        self.device = device

    async def list(self) -> list[DeviceInfo]:
        return [self.device.info]

    async def open(self, name: str, claimant: Claimant) -> Device:
        await self.device.open()
        return self.device


class Service:
    """A server in this event loop."""

    def __init__(self, server, port, diary):
        self.server, self.port, self.diary, self.catalog = server, port, diary, server.catalog

    async def freed(self, name="1-1"):
        """Wait until nobody holds a device."""
        changed = asyncio.Event()
        unwatch = self.catalog.watch(changed.set)
        while any(offer.holder for offer in self.catalog.list() if offer.info.name == name):
            changed.clear()
            await changed.wait()
        unwatch()


@contextlib.asynccontextmanager
async def service(limits=DEFAULT_LIMITS, max_connections=100, devices=2):
    """Parrots at 1-1 and on; at its end no task is left."""
    catalog, diary = Catalog(), []
    async with serving(catalog, limits, max_connections) as server:
        for _ in range(devices):
            await server.offer(One(Parrot(diary)))
        ((_, port),) = await server.listen("127.0.0.1", 0, Exporter)
        yield Service(server, port, diary)
    await turn()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
async def parrots():
    async with service() as made:
        yield made


async def until(condition):
    """Wait for what nobody tells of."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


# -- who gets a device ----------------------------------------------------------------------------------------------


async def test_a_forged_packet_is_soon_forgotten_and_not_spoken_of(caplog):
    """Each was a connection of the server's for 15 s, and a warning."""
    async with serving(Catalog(), Limits(proof_seconds=0.05)) as server:
        place = Place("127.0.0.1", 0, other="udp")
        [there] = await server.listen_at(place, load_exporter("ferry"))
        with socket.socket(type=socket.SOCK_DGRAM) as forger:
            forger.sendto(ferry.version()[4:], (there.host, there.port))
            async with asyncio.timeout(5):
                await until(lambda: server.pumps)
                await until(lambda: not server.pumps)
    assert caplog.text == ""


async def test_that_there_is_no_room_is_said_once_until_there_was(caplog):
    said = "turned away: 1 connections are open"
    async with service(max_connections=1) as full:
        for times in (1, 2):
            async with importing(full.port):
                for _ in range(2):
                    async with connected(full.port) as second:
                        assert await second.closed()
                assert caplog.text.count(said) == times
            await until(lambda: not full.server.pumps)


async def test_busy_devices_are_listed_and_told_from_unknown_ones(parrots):
    async with importing(parrots.port, "1-1"), connected(parrots.port) as second, connected(parrots.port) as third:
        assert await second.claim("1-1") == DEV_BUSY
        assert await second.closed()
        assert await third.claim("1-3") == NODEV
        async with connected(parrots.port) as other, importing(parrots.port, "1-2"):
            assert await other.list() == ["1-1", "1-2"]


async def test_one_importer_after_another(parrots):
    for _ in range(3):
        async with importing(parrots.port) as client:
            assert (await client.ask(1, OUT, 2, payload=b"hello")).actual == 5
        await parrots.freed()
    assert parrots.diary == ["opened", "reset", "closed"] * 3


async def test_a_disconnect_cancels_everything_and_resets_the_device(parrots):
    async with importing(parrots.port) as client:
        for seqnum in range(10):
            client.submit(seqnum, IN, 1, 8)
        await client.ask(10, OUT, 2, payload=b"now they wait")
        (offer, _) = parrots.catalog.list()
        pipe = offer.device._pipes[0x81]
        assert len(pipe) == 10
    await parrots.freed()
    assert (len(pipe), parrots.diary) == (0, ["opened", "reset", "closed"])


async def test_an_importer_that_resets_the_connection(parrots):
    async with importing(parrots.port) as client:
        sock = client.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await parrots.freed()


async def test_an_importer_that_says_no_more_but_waits_for_its_answer(parrots):
    """As `nc` does: the request came whole before the end."""
    async with connected(parrots.port) as client:
        client.writer.write(wire.op(0x8005))
        client.writer.write_eof()
        assert len(await client.reader.read()) == 12 + 2 * 316


async def test_everything_in_one_packet(parrots):
    async with connected(parrots.port) as client:
        client.devid = 1 << 16 | 2
        client.say(wire.op_import(b"1-1"))
        client.submit(1, OUT, 2, payload=b"hello")
        await client.reader.readexactly(320)
        assert (await client.reply()).actual == 5


async def test_a_byte_at_a_time(parrots):
    async with importing(parrots.port) as client:
        raw = wire.submit(1, OUT, 2, payload=b"hello", devid=client.devid)
        for at in range(len(raw)):
            client.say(raw[at : at + 1])
            await asyncio.sleep(0)
        assert (await client.reply()).actual == 5


async def test_a_broken_importer_is_closed_and_others_are_not(parrots):
    async with importing(parrots.port, "1-1") as good, importing(parrots.port, "1-2") as bad:
        bad.say(b"\xff" * 48)
        assert await bad.closed()
        await parrots.freed("1-2")
        assert (await good.ask(1, OUT, 2, payload=b"still here")).status == 0


async def test_a_device_that_left(parrots):
    async with importing(parrots.port) as client:
        client.submit(1, IN, 1, 8)
        await client.ask(2, OUT, 2, payload=b"x")
        parrots.catalog.list()[0].device.vanish()
        assert (await client.reply()).status == ENODEV
        assert await client.closed()


@pytest.mark.parametrize("size", [1 << 20, 16 << 20])
async def test_large_transfers(parrots, size):
    async with importing(parrots.port) as client:
        assert (await client.ask(1, OUT, 2, payload=bytes(size))).actual == size


# -- limits -----------------------------------------------------------------------------------------------------------


async def test_the_transfer_limit_full_of_parked_interrupt_reads_which_are_then_unlinked(parrots):
    """Reading goes on, or the unlinks would never be read; from the last to the first, as hosts do it."""
    count = DEFAULT_LIMITS.transfers
    async with importing(parrots.port) as client:
        for seqnum in range(count + 5):
            client.submit(seqnum, IN, 1, 8)
        refused = [await client.reply() for _ in range(5)]
        assert [(r.seqnum, r.status) for r in refused] == [(count + n, ENOMEM) for n in range(5)]
        for seqnum in reversed(range(count)):
            client.unlink(10_000 + seqnum, seqnum)
        ended = [await client.reply() for _ in range(count)]
        assert [(r.command, r.seqnum, r.status) for r in ended] == [
            (4, 10_000 + seqnum, ECONNRESET) for seqnum in reversed(range(count))
        ]
        client.submit(20_000, IN, 1, 8)
        assert (await client.ask(20_001, OUT, 2, payload=b"room again")).status == 0


async def test_bytes_in_flight():
    async with service(Limits(bytes_in_flight=1000)) as parrots, importing(parrots.port) as client:
        client.submit(1, IN, 1, 600)
        assert (await client.ask(2, IN, 1, 401)).status == ENOMEM
        assert (await client.ask(3, OUT, 2, payload=bytes(400))).status == 0


async def test_the_length_of_a_transfer(parrots):
    limit = DEFAULT_LIMITS.transfer_bytes
    async with importing(parrots.port) as client:
        assert (await client.ask(1, IN, 1, limit + 1)).status == ENOMEM
        client.say(wire.submit(2, OUT, 2, limit + 1, devid=client.devid))
        assert await client.closed()


async def test_isochronous_packets(parrots):
    """Of an endpoint that no descriptor has: of others they would mean nothing."""
    async with importing(parrots.port) as client:
        client.say(wire.submit(1, IN, 9, 8, packets=DEFAULT_LIMITS.iso_packets + 1, devid=client.devid))
        assert await client.closed()


async def test_unlinks_that_come_early():
    async with service(Limits(early_cancels=4)) as parrots, importing(parrots.port) as client:
        for target in range(5):
            client.unlink(100 + target, target)
        reply = await client.reply()
        assert (reply.command, reply.seqnum, reply.status) == (4, 100, 0)


async def test_connections():
    async with (
        service(max_connections=2) as parrots,
        connected(parrots.port) as one,
        importing(parrots.port) as two,
    ):
        async with connected(parrots.port) as third:
            assert await third.closed()
        assert (await two.ask(1, OUT, 2, payload=b"x")).status == 0
        await one.hang_up()
        await until(lambda: len(parrots.server.pumps) == 1)
        async with connected(parrots.port) as third:
            assert await third.list() == ["1-1", "1-2"]


@pytest.mark.parametrize("start", [b"", wire.op_import()[:39], b"\x01\x11"])
async def test_the_first_request_must_come_in_time(start):
    async with service(Limits(handshake_seconds=0.05)) as parrots, connected(parrots.port) as slow:
        slow.say(start)
        assert await slow.closed()


async def test_an_importer_has_all_the_time_it_wants():
    async with service(Limits(handshake_seconds=0.05)) as parrots, importing(parrots.port) as client:
        async with connected(parrots.port) as other:
            assert await other.closed()
        assert (await client.ask(1, OUT, 2, payload=b"x")).status == 0


# -- importers that do not read -------------------------------------------------------------------------------------


async def test_an_importer_that_does_not_read_is_not_read_and_disturbs_nobody():
    """What it asked for piles up to a limit and no further."""
    catalog = Catalog()
    async with serving(catalog) as server:
        for _ in range(2):
            await server.offer(open_source("virtual:zero"))
        ((_, port),) = await server.listen("127.0.0.1", 0, Exporter)
        async with importing(port, "1-1") as good, importing(port, "1-2") as flood:
            one = wire.submit(1, IN, 1, 65536, devid=flood.devid)
            flood.writer.transport.pause_reading()
            flood.say(b"".join(one[:4] + n.to_bytes(4, "big") + one[8:] for n in range(20_000)))  # 1.3 GB, if answered
            (link,) = [p._out.link for p in server.pumps if p._out.name == "1-2"]
            while not link.blocked:
                assert (await good.ask(1, IN, 1, 512)).actual == 512
            for seqnum in range(200):
                assert (await good.ask(seqnum, IN, 1, 512)).actual == 512
            assert link._transport.get_write_buffer_size() < 4 << 20
            assert link._paused
            flood.writer.transport.resume_reading()
            received = 0
            while received < 20 << 20:
                received += len(await flood.reader.read(1 << 20))
            assert (await good.ask(1, IN, 1, 512)).actual == 512
            flood.writer.transport.abort()


@pytest.mark.parametrize("mib", [2, 8, 12])
async def test_a_broken_message_behind_answers_that_are_not_read_yet(mib, caplog):
    """It was looked at while the transport said it could write again, and closed there: asyncio lost it twice."""
    catalog = Catalog()
    async with serving(catalog) as server:
        await server.offer(open_source("virtual:zero"))
        ((_, port),) = await server.listen("127.0.0.1", 0, Exporter)
        async with importing(port) as client:
            client.writer.transport.pause_reading()
            client.submit(1, IN, 1, mib << 20)
            client.say(b"\xff" * 48)
            (pump,) = server.pumps
            await until(lambda: pump._out.link.blocked or "broke usbip" in caplog.text)
            client.writer.transport.resume_reading()
            await client.closed()
    assert [record.name for record in caplog.records if record.levelname == "ERROR"] == []


# -- the end ----------------------------------------------------------------------------------------------------------


async def test_a_drain_answers_what_is_pending_and_lets_nobody_in(parrots):
    async with importing(parrots.port) as client, connected(parrots.port) as waiting:
        for seqnum in range(3):
            client.submit(seqnum, IN, 1, 8)
        await client.ask(3, OUT, 2, payload=b"now they wait")
        draining = asyncio.get_running_loop().create_task(parrots.server.drain())
        assert [(await client.reply()).status for _ in range(3)] == [ESHUTDOWN] * 3
        assert await client.closed()
        assert await waiting.closed()
        await draining
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", parrots.port)
    assert parrots.diary == ["opened", "reset", "closed"]
    assert parrots.catalog.list()[0].holder is None


async def test_a_connection_accepted_while_it_drains_is_closed(parrots):
    """It once was served, and never closed."""
    parrots.catalog.draining = True
    async with connected(parrots.port) as late:
        assert await late.closed()
    parrots.catalog.draining = False


async def test_a_device_that_does_not_close_holds_up_the_end_no_longer_than_it_may(parrots, monkeypatch, caplog):
    monkeypatch.setattr(module, "DRAIN_SECONDS", 0.05)

    async def never():
        await asyncio.get_running_loop().create_future()

    async with importing(parrots.port) as client:
        parrots.catalog.list()[0].device.closed = never
        await parrots.server.drain()
        assert await client.closed()
    assert "did not close" in caplog.text
    assert parrots.catalog.list()[0].holder is None


async def test_a_device_that_does_not_open_holds_up_the_end_no_longer_than_it_may(parrots):
    async def never(name, claimant):
        await asyncio.get_running_loop().create_future()

    parrots.catalog.list()[0].source.open = never
    async with connected(parrots.port) as client:
        client.say(wire.op_import(b"1-1"))
        await until(lambda: parrots.catalog.list()[0].holder is not None)
        await parrots.server.drain()
        assert await client.closed()


async def test_a_source_that_fails_ends_nothing_else(parrots, caplog):
    class Broken(One):
        async def watch(self):
            raise OSError("udev is gone")
            yield

    await parrots.server.offer(Broken(Parrot([])))
    await turn()
    assert "udev is gone" in caplog.text
    async with importing(parrots.port, "1-3") as client:
        assert (await client.ask(1, OUT, 2, payload=b"x")).status == 0


async def test_what_the_body_raises_comes_out_as_it_is():
    with pytest.raises(KeyError):
        async with serving(Catalog()):
            raise KeyError("plain")


async def test_a_port_that_is_taken_is_an_error_of_the_caller(parrots):
    with pytest.raises(OSError, match="in use"):
        await parrots.server.listen("127.0.0.1", parrots.port, Exporter)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_sigterm_drains(number):
    """Transfers are answered, connections closed, and the process ends well and soon."""
    with Process("virtual:zero", "virtual:zero") as server:
        async with importing(server.port) as client, connected(server.port) as idle:
            client.submit(1, IN, 2, 8)  # the loopback has nothing: it waits
            await client.ask(2, OUT, 1, payload=b"x")
            async with asyncio.TaskGroup() as group:
                stopping = group.create_task(asyncio.to_thread(server.stop, number))
                assert (await client.reply()).status == ESHUTDOWN
                assert await client.closed()
                assert await idle.closed()
            status, seconds = stopping.result()
            assert status == 0
            assert seconds < 5
