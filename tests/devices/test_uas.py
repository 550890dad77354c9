"""UAS as hosts speak it: by streams, many commands at a time and answered as they end; without them, by turns."""

from __future__ import annotations

import asyncio
import struct
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.devices.disk_host import Host as BulkOnlyHost
from tests.devices.disk_host import read10, write10
from tests.devices.host import ask, opened, turn
from usbferry.devices.disk import IN, OUT
from usbferry.devices.storage.memory import Memory
from usbferry.devices.uas import COMMAND, STATUS, STREAMS, Uas
from usbferry.usb.setup import set_interface
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Speed, Status

MIB = 1 << 20
PIPES = (STATUS, IN, OUT)
INQUIRY = bytes([0x12, 0, 0, 0, 36, 0])
GOOD, CHECK_CONDITION = 0, 2
COMPLETE, INVALID, NOT_SUPPORTED, OVERLAPPED = 0x00, 0x02, 0x04, 0x0A
ABORT_TASK, RESET_UNIT, QUERY = 0x01, 0x08, 0x80


@dataclass
class Result:
    status: int
    data: bytes = b""
    sense: tuple[int, int, int] | None = None  # key, additional code, qualifier


def command_iu(tag: int, cdb: bytes, lun: int = 0) -> bytes:
    return struct.pack(">BxHBxBxHHI16s", 1, tag, 0, 0, lun, 0, 0, cdb)


class Host:
    """One that has a stream for each command, or none."""

    def __init__(self, device: Uas, streams: int) -> None:
        self.device = device
        self.streams = streams

    def submit(self, endpoint: int, length: int = 0, data: bytes = b"", tag: int = 0) -> asyncio.Future[Completion]:
        transfer = Transfer(endpoint, len(data) or length, data, stream_id=tag if self.streams else 0)
        answer = self.device.submit(transfer)
        if isinstance(answer, Completion):
            future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
            future.set_result(answer)
            return future
        return answer

    async def unit(self, tag: int = 0) -> bytes:
        """The next information unit."""
        answer = await asyncio.wait_for(self.submit(STATUS, 128, tag=tag), 10)
        assert answer.status == Status.OK
        return bytes(answer.data)

    def send(self, unit: bytes) -> None:
        answer = self.device.submit(Transfer(COMMAND, len(unit), unit))
        assert isinstance(answer, Completion)
        assert (answer.status, answer.actual) == (Status.OK, len(unit))

    async def command(self, tag: int, cdb: bytes, length: int = 0, data: bytes = b"", lun: int = 0) -> Result:
        """As Linux does it: status and data are asked for before the command is sent."""
        moved = None
        if self.streams and (length or data):
            moved = self.submit(OUT if data else IN, length, data, tag)
        unit = asyncio.ensure_future(self.unit(tag))  # noqa: TID251
        await turn()
        self.send(command_iu(tag, cdb, lun))
        got = await unit
        if not self.streams and got[0] in (6, 7):
            assert got == struct.pack(">BxH", 7 if data else 6, tag)
            moved = self.submit(OUT if data else IN, length, data)
            got = await self.unit()
        kind, its, status, size = struct.unpack_from(">BxH2xB7xH", got)
        assert (kind, its, len(got)) == (3, tag, 16 + size)
        answer = Completion(Status.OK)
        if moved is not None and status == GOOD:
            answer = await asyncio.wait_for(moved, 10)
            assert answer.status == Status.OK
        elif moved is not None:
            self.device.cancel(Transfer(IN, 0))
        return Result(status, bytes(answer.data), (got[18] & 15, got[28], got[29]) if size else None)

    async def manage(self, tag: int, function: int, subject: int = 0) -> int:
        """A task management function; its response code."""
        self.send(struct.pack(">BxHBxH8s", 5, tag, function, subject, bytes(8)))
        kind, its, code = struct.unpack(">BxH3xB", await self.unit(tag))
        assert (kind, its) == (4, tag)
        return code


@asynccontextmanager
async def hosted(speed: Speed = Speed.SUPER, backing: Memory | None = None, streams: int = 1 << STREAMS):
    device = Uas(backing or Memory(MIB), speed=speed)
    async with opened(device):
        answer = ask(device, set_interface(0, 1))
        assert isinstance(answer, Completion)
        assert answer.status == Status.OK
        if speed < Speed.SUPER:
            streams = 0
        else:
            assert device.alloc_streams(PIPES, streams).status == Status.OK
        yield Host(device, streams)


EVERY = pytest.mark.parametrize("speed", [Speed.HIGH, Speed.SUPER])


@EVERY
async def test_a_disk_is_asked_written_and_read(speed):
    payload = bytes(range(256)) * 256
    async with hosted(speed) as host:
        assert (await host.command(1, INQUIRY, 36)).data[8:32] == b"usbferryUAS disk        "
        capacity = await host.command(2, bytes([0x25, *bytes(9)]), 8)
        assert struct.unpack(">II", capacity.data) == (MIB // 512 - 1, 512)
        assert (await host.command(3, write10(7, 128), data=payload)) == Result(GOOD)
        assert (await host.command(3, read10(7, 128), len(payload))) == Result(GOOD, payload)
        assert (await host.command(4, bytes([0x35, *bytes(9)]))) == Result(GOOD)  # SYNCHRONIZE CACHE
        assert (await host.command(5, bytes(6))) == Result(GOOD)


@EVERY
async def test_a_failure_comes_with_its_sense(speed):
    async with hosted(speed) as host:
        assert (await host.command(1, b"\xfe")) == Result(CHECK_CONDITION, sense=(5, 0x20, 0))
        assert (await host.command(2, read10(MIB // 512, 1), 0)) == Result(CHECK_CONDITION, sense=(5, 0x21, 0))
        assert (await host.command(3, bytes(6), lun=1)).sense == (5, 0x25, 0)
        assert (await host.command(4, bytes(6))) == Result(GOOD)  # and is over with it


async def test_many_commands_are_under_way_and_end_as_they_can():
    """The first read waits for a slow medium; the commands that have no need of it do not."""
    backing = _Slow(MIB)
    async with hosted(backing=backing) as host:
        slow = asyncio.ensure_future(host.command(1, read10(0, 8), 4096))  # noqa: TID251
        await turn()
        for tag in range(2, 1 << STREAMS):
            assert (await host.command(tag, INQUIRY, 36)).status == GOOD
        assert not slow.done()
        backing.gate.set()
        assert await slow == Result(GOOD, bytes(4096))


async def test_without_streams_the_next_command_waits_for_its_turn():
    async with hosted(Speed.HIGH) as host:
        for tag in (1, 2):
            host.send(command_iu(tag, INQUIRY))
        said = []
        for _ in (1, 2):
            said.append(await host.unit())
            assert len((await host.submit(IN, 36)).data) == 36
            said.append(await host.unit())
    assert [(unit[0], unit[3]) for unit in said] == [(6, 1), (3, 1), (6, 2), (3, 2)]


async def test_a_write_whose_medium_is_full_fails_with_the_reason():
    backing = _Slow(MIB)
    backing.error = OSError(28, "No space left on device")
    backing.gate.set()
    async with hosted(backing=backing) as host:
        assert (await host.command(1, write10(0, 1), data=bytes(512))).sense == (7, 0x27, 7)


async def test_a_host_that_gives_less_than_it_promised_is_told():
    async with hosted() as host:
        moved = host.submit(OUT, data=bytes(512), tag=1)
        host.send(command_iu(1, write10(0, 8)))
        assert (await moved).status == Status.OK
        unit = await host.unit(1)
        assert (unit[6], unit[18] & 15, unit[28]) == (CHECK_CONDITION, 0x0B, 0x4B)


@EVERY
async def test_task_management(speed):
    backing = _Slow(MIB)
    async with hosted(speed, backing) as host:
        for function, code in ((QUERY, NOT_SUPPORTED), (RESET_UNIT, COMPLETE), (ABORT_TASK, COMPLETE)):
            host.send(command_iu(1, read10(0, 1)))
            if speed is Speed.HIGH:
                assert (await host.unit())[0] == 6
            assert await host.manage(2, function, 1) == code
            if code == NOT_SUPPORTED:
                assert await host.manage(2, ABORT_TASK, 1) == COMPLETE
        backing.gate.set()
        assert (await host.command(1, read10(0, 1), 512)) == Result(GOOD, bytes(512))


async def test_a_tag_that_is_used_twice_and_units_that_are_none():
    backing = _Slow(MIB)
    async with hosted(backing=backing) as host:
        for _ in (1, 2):
            host.send(command_iu(9, read10(0, 1)))
        assert struct.unpack(">BxH3xB", await host.unit(9)) == (4, 9, OVERLAPPED)
        host.send(struct.pack(">BxH", 1, 3))  # too short
        assert struct.unpack(">BxH3xB", await host.unit(3)) == (4, 3, INVALID)
        short = host.device.submit(Transfer(COMMAND, 2, b"\1\0"))
        assert isinstance(short, Completion)
        assert short.status == Status.STALL
        backing.gate.set()


async def test_without_streams_an_abort_passes_the_turn_on():
    """The task's READY is not told any more, and what waited comes before what is new."""
    async with hosted(Speed.HIGH) as host:
        for tag in (1, 2, 3):
            host.send(command_iu(tag, write10(0, 8) if tag == 1 else bytes(6)))
        assert await host.manage(9, ABORT_TASK, 1) == COMPLETE
        assert [(unit[0], unit[3], unit[6]) for unit in [await host.unit() for _ in "23"]] == [(3, 2, 0), (3, 3, 0)]


@EVERY
async def test_what_an_aborted_write_held_is_free_once_it_is_written(speed, monkeypatch):
    monkeypatch.setattr("usbferry.devices.uas._PENDING_BYTES", 4095)
    backing = _Slow(MIB)
    async with hosted(speed, backing) as host:
        host.send(command_iu(1, write10(0, 8)))
        assert (await host.submit(OUT, data=bytes(4096), tag=1)).status == Status.OK
        if speed is Speed.HIGH:
            assert (await host.unit())[0] == 7
        assert await host.manage(2, ABORT_TASK, 1) == COMPLETE
        later = asyncio.ensure_future(host.command(3, write10(8, 8), data=b"x" * 4096))  # noqa: TID251
        await turn()
        assert not later.done(), "the storage still holds what came before"
        backing.gate.set()
        assert await asyncio.wait_for(later, 10) == Result(GOOD)


async def test_a_queue_of_commands_has_an_end_and_is_gone_through_one_after_the_other():
    async with hosted(Speed.HIGH) as host:
        host.send(command_iu(1, read10(0, 1)) + bytes(MIB))
        for tag in range(2, 41):
            host.send(command_iu(tag, bytes(6)) + bytes(MIB))
        assert sum(map(len, host.device._turns)) == 31 * 32
        said = [await host.unit() for _ in range(9)]
        assert said[0][0] == 6
        assert [(unit[3], unit[6]) for unit in said[1:]] == [(tag, 0x28) for tag in range(33, 41)]  # TASK SET FULL
        assert (await host.submit(IN, 512)).status == Status.OK
        assert [(await host.unit())[3] for _ in range(32)] == list(range(1, 33))
        host.send(command_iu(50, read10(0, 1)))
        for _ in (1, 2):
            host.send(command_iu(51, bytes(6)))
        assert await host.unit() == struct.pack(">BxH3xB", 4, 51, OVERLAPPED)


async def test_a_host_that_does_not_hear_is_not_listened_to():
    async with hosted(Speed.HIGH) as host:
        for tag in range(1, 129):
            host.send(command_iu(tag, bytes(6)))
        late = host.submit(COMMAND, data=command_iu(129, bytes(6)))
        await turn()
        assert not late.done()
        for tag in range(1, 130):
            assert (await host.unit())[3] == tag
        assert late.done()


@pytest.mark.parametrize("tag", [0, 33])
async def test_a_tag_without_a_stream_is_refused(tag):
    async with hosted() as host:
        answer = host.device.submit(Transfer(COMMAND, 32, command_iu(tag, bytes(6))))
        assert answer.status == Status.STALL
        host.device.set_halt(COMMAND, False)
        assert (await host.command(32, bytes(6))) == Result(GOOD)


async def test_streams_are_given_whole_or_not_at_all():
    async with hosted() as host:
        device = host.device
        assert device.alloc_streams((COMMAND,), 2).status == Status.INVALID  # it has none
        assert device.alloc_streams((*PIPES, 0x05), 2).status == Status.INVALID
        assert device.alloc_streams(PIPES, 33).status == Status.INVALID
        assert device.alloc_streams((), 2).status == Status.INVALID
        assert device.submit(Transfer(IN, 8)).status == Status.INVALID  # there is no stream 0
        assert device.submit(Transfer(IN, 8, stream_id=33)).status == Status.INVALID
        waiting = host.submit(IN, 8, tag=5)
        assert device.free_streams(PIPES).status == Status.OK
        assert (await waiting).status == Status.SHUTDOWN
        assert device.free_streams(PIPES).status == Status.INVALID


async def test_a_halt_is_of_the_endpoint_a_cancel_of_one_transfer():
    async with hosted() as host:
        waiting = [Transfer(IN, 8, stream_id=number) for number in (1, 2, 3)]
        answers = [host.device.submit(transfer) for transfer in waiting]
        host.device.cancel(waiting[1])
        assert [answer.done() for answer in answers] == [False, True, False]
        assert answers[1].result().status == Status.CANCELLED
        host.device.halt(IN)
        assert {answers[n].result().status for n in (0, 2)} == {Status.STALL}
        assert host.device.is_halted(IN)
        host.device.set_halt(IN, False)
        assert (await host.command(1, INQUIRY, 36)).status == GOOD


async def test_a_reset_takes_the_streams_and_what_is_under_way_and_leaves_the_setting():
    backing = _Slow(MIB)
    async with hosted(backing=backing) as host:
        waiting = [host.submit(STATUS, 128, tag=1), host.submit(IN, 512, tag=1)]
        host.send(command_iu(1, read10(0, 1)))
        await host.device.reset()
        assert [(await answer).status for answer in waiting] == [Status.SHUTDOWN] * 2
        backing.gate.set()
        assert not host.device.has_streams(STATUS)
        assert host.device.alloc_streams(PIPES, 4).status == Status.OK
        assert (await host.command(1, bytes(6))).sense == (6, 0x29, 0)  # it was reset, and says so once
        assert (await host.command(2, read10(0, 1), 512)) == Result(GOOD, bytes(512))


async def test_the_other_setting_is_bulk_only_transport():
    async with hosted() as host:
        assert (await host.command(1, write10(3, 1), data=bytes(range(256)) * 2)) == Result(GOOD)
        assert ask(host.device, set_interface(0, 0)).status == Status.OK
        assert await BulkOnlyHost(host.device).read(3, 1) == bytes(range(256)) * 2


class _Slow(Memory):
    """A backing that answers once its gate is open."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.is_quick = False
        self.gate = threading.Event()
        self.error: OSError | None = None

    def peek(self, offset, length):
        return super().peek(offset, length) if self.gate.is_set() else None

    def read(self, offset, length):
        assert self.gate.wait(10)
        return super().read(offset, length)

    def write(self, offset, pieces):
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        super().write(offset, pieces)
