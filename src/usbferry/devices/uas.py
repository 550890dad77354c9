"""A disk that also speaks UAS, SCSI with many commands under way: by streams at SuperSpeed, by turns below it.

    command (pipe 1) --COMMAND IU--> [data in (3) or data out (4), of the command's tag] --> status (pipe 2): SENSE IU

Alternate setting 0 is the Bulk-Only Transport of `disk`, for hosts that have no UAS; 1 is this. At SuperSpeed a
command's tag is the stream of its data and of its status, so nothing waits for anything else. Without streams the
device says with READ READY and WRITE READY whose turn it is, and takes one command after the other. Sources: "UAS" is
USB Attached SCSI, T10/2095-D revision 4; the commands are those of `scsi`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import partial
from struct import Struct, pack
from typing import Any, Final

from ..usb.transfer import Completion, Transfer
from ..usb.tree import DeviceDescriptor, Endpoint, Interface
from ..usb.types import Status
from .disk import IN, OUT, Disk
from .pipe import Answer
from .storage import scsi, sense
from .storage.bulk_only import Held, Stream
from .storage.sense import Check, Sense
from .virtual import done, endpoint

COMMAND: Final = 0x04
STATUS: Final = 0x83
STREAMS: Final = 5  # bMaxStreams: 2**5 of them, and as many commands at a time
_USAGE: Final = ((COMMAND, 1), (STATUS, 2), (IN, 3), (OUT, 4))  # pipe ids, UAS table 8
_WRITE_BYTES: Final = 1 << 20  # of a data stage that are written in one go
_TASKS: Final = 1 << STREAMS  # under way or waiting for their turn; Linux sends no more where there are no streams
_UNREAD: Final = 4 * _TASKS  # IUs that the host has not come for, before no more of its own are taken
_PENDING_BYTES: Final = 16 << 20  # taken and not yet written, before the endpoint NAKs
_COMMAND: Final = Struct(">2xH4x8s16s").unpack_from  # tag, LUN, CDB: UAS table 12
_MANAGEMENT: Final = Struct(">2xHBxH8s").unpack_from  # tag, function, tag of the task, LUN: UAS table 20
_SENSE: Final = Struct(">BxHHB7xH").pack  # id, tag, status qualifier, status, length of the sense data: UAS table 16
_GOOD, _CHECK_CONDITION, _TASK_SET_FULL = 0x00, 0x02, 0x28  # SAM-4 §5.3.1
_OK: Final = Status.OK


class Iu(IntEnum):
    """Information units, UAS table 10."""

    COMMAND = 0x01
    SENSE = 0x03
    RESPONSE = 0x04
    TASK_MANAGEMENT = 0x05
    READ_READY = 0x06
    WRITE_READY = 0x07


class Response(IntEnum):
    """Of a RESPONSE IU, UAS table 18."""

    COMPLETE = 0x00
    INVALID = 0x02
    NOT_SUPPORTED = 0x04
    OVERLAPPED = 0x0A


_ABORT_TASK: Final = 0x01
_FORGETS_ALL: Final = (0x02, 0x04, 0x08, 0x10)  # ABORT and CLEAR TASK SET, LOGICAL UNIT and I_T NEXUS RESET


@dataclass(slots=True, eq=False)
class Task:
    """One command, from its IU to its status."""

    tag: int
    plan: scsi.Plan = scsi.NOTHING
    stream: Stream | Held | None = None  # of data IN, until all of it is given
    want: int = 0  # bytes of data OUT that are still to come
    chunks: list[bytes] = field(default_factory=list)  # received, and not handed to the storage yet
    gathered: int = 0  # bytes in chunks
    stored: int = 0  # bytes handed to the storage
    jobs: int = 0  # that the storage is at
    failed: Sense | None = None  # the first failure is the one that is told

    @property
    def is_done(self) -> bool:
        return self.stream is None and not self.want and not self.jobs


class Uas(Disk):
    """Its options are the disk's, and its ids are QEMU's for its own (46f4:0003): no list of quirks has them."""

    descriptor = DeviceDescriptor(0x46F4, 0x0003)
    product = "UAS disk"
    _is_uas: bool  # by the alternate setting in force
    _active: dict[int, Task]  # by tag
    _turns: deque[bytes]  # COMMAND IUs that wait for theirs, where there are no streams
    _ready: dict[int, deque[bytes]]  # IUs for the host, by stream; 0 where there are none
    _unread: int  # IUs in there
    _pending: int = 0  # bytes that the storage has not written yet, of forgotten tasks too: it still holds them

    def interfaces(self) -> tuple[Interface, ...]:
        """UAS §5.2.3: the same endpoints move data in both settings, and each has a descriptor that says what for."""
        return *super().interfaces(), Interface(
            0, 1, 0x08, 0x06, 0x62, tuple(map(self._pipe_of, *zip(*_USAGE, strict=True)))
        )

    def _pipe_of(self, address: int, usage: int) -> Endpoint:
        plain = self.bulk(address, burst=15, streams=0 if address == COMMAND else STREAMS)
        return replace(plain, extra=(bytes((4, 0x24, usage, 0)),))

    async def opened(self) -> None:
        self._forget()
        await super().opened()

    def _restart(self) -> None:
        super()._restart()
        self._forget()

    def _forget(self) -> None:
        """No command is under way. What the storage is at goes on, and comes before what is asked of it next."""
        for task in getattr(self, "_active", {}).values():
            _stop(task)
        self._is_uas = self.info.alternates.get(0) == 1
        self._active, self._turns, self._ready, self._unread = {}, deque(), {}, 0

    # -- the endpoints ------------------------------------------------------------------------------------------------

    @endpoint(COMMAND)
    def _take(self, transfer: Transfer) -> Answer:
        if self._unread >= _UNREAD:
            return None  # until the host has come for some
        unit = bytes(transfer.data[:32])
        if len(unit) < 4 or not self._can_answer(int.from_bytes(unit[2:4], "big")):
            self.halt(COMMAND)
            return Completion(Status.STALL)
        if len(unit) >= 32 and unit[0] == Iu.COMMAND:
            self._command_came(unit)
        elif len(unit) >= 16 and unit[0] == Iu.TASK_MANAGEMENT:
            self._manage(*_MANAGEMENT(unit)[:3])
        else:
            self._respond(int.from_bytes(unit[2:4], "big"), Response.INVALID)
        return done(transfer)

    def _can_answer(self, tag: int) -> bool:
        """Whether a host can ever hear of it: with streams, the tag is the number of one."""
        return not self.has_streams(STATUS) or self.has_stream(STATUS, tag)

    @endpoint(STATUS)
    def _tell(self, transfer: Transfer) -> Answer:
        ready = self._ready.get(transfer.stream_id)
        if not ready:
            return None
        unit = ready.popleft()
        if self._unread == _UNREAD:  # later: it may be COMMAND's own handler that brought us here
            asyncio.get_running_loop().call_soon(self.kick, COMMAND)
        self._unread -= 1
        return Completion(_OK, unit) if transfer.length >= len(unit) else Completion(Status.OVERFLOW)

    @endpoint(IN)
    def _in(self, transfer: Transfer) -> Answer:
        return self._give(transfer) if self._is_uas else super()._in(transfer)

    @endpoint(OUT)
    def _out(self, transfer: Transfer) -> Answer:
        return self._receive(transfer) if self._is_uas else super()._out(transfer)

    # -- commands -----------------------------------------------------------------------------------------------------

    def _command_came(self, unit: bytes) -> None:
        tag = _COMMAND(unit)[0]
        if tag in self._active or any(_COMMAND(other)[0] == tag for other in self._turns):
            self._forget()
            self._respond(tag, Response.OVERLAPPED)
        elif len(self._active) + len(self._turns) >= _TASKS:
            self._say(tag, _SENSE(Iu.SENSE, tag, 0, _TASK_SET_FULL, 0))
        elif self._active and not self.has_streams(STATUS):
            self._turns.append(unit)
        else:
            self._begin_task(*_COMMAND(unit))

    def _begin_task(self, tag: int, lun: bytes, block: bytes) -> None:
        task = self._active[tag] = Task(tag)
        try:
            plan = task.plan = self._unit.execute(block, int.from_bytes(lun[:2], "big") & 0x3FFF)
        except Check as check:
            task.failed, plan = check.sense, scsi.NOTHING
        if isinstance(plan, scsi.Reply | scsi.Read):
            task.stream = self._stream_of(task, plan)
        elif isinstance(plan, scsi.Change):
            self._change_for(task, plan)
        else:
            task.want = plan.length
        if task.stream is not None or task.want:
            self._move(task)
        self._end(task)

    def _stream_of(self, task: Task, plan: scsi.Reply | scsi.Read) -> Stream | Held | None:
        if isinstance(plan, scsi.Reply):
            return Held(plan.data) if plan.data else None
        if not plan.length:
            return None
        found = self._storage.peek(plan.offset, plan.length)
        if found is not None:
            return Held(found)
        return Stream(self._storage, plan.offset, plan.length, partial(self._kick_of, IN, task))

    def _move(self, task: Task) -> None:
        """Its data's turn: by streams the host has asked already, or will; otherwise it waits to be told."""
        way, unit = (OUT, Iu.WRITE_READY) if task.want else (IN, Iu.READ_READY)
        if not self.has_streams(STATUS):
            self._say(task.tag, pack(">BxH", unit, task.tag))
        self._kick_of(way, task)

    def _settle_task(self, task: Task) -> None:
        """Its status, and the next one's turn; after the data, which is answered in this turn of the loop."""
        self._end(task)
        self._next_turn()

    def _next_turn(self) -> None:
        """Begin what waits, until one of them takes its time."""
        while self._turns and not self._active:
            self._begin_task(*_COMMAND(self._turns.popleft()))

    def _end(self, task: Task) -> None:
        """Its status, once nothing of it is left to do."""
        if self._active.get(task.tag) is not task or not task.is_done:
            return
        del self._active[task.tag]
        data = b"" if task.failed is None else task.failed.fixed()
        status = _GOOD if task.failed is None else _CHECK_CONDITION
        self._say(task.tag, _SENSE(Iu.SENSE, task.tag, 0, status, len(data)) + data)

    def _say(self, tag: int, unit: bytes) -> None:
        stream = tag if self.has_streams(STATUS) else 0
        self._ready.setdefault(stream, deque()).append(unit)
        self._unread += 1
        if stream:
            self.kick_stream(STATUS, stream)
        else:
            self.kick(STATUS)

    def _kick_of(self, address: int, task: Task) -> None:
        if self.has_streams(address):
            self.kick_stream(address, task.tag)
        else:
            self.kick(address)

    def _task_of(self, transfer: Transfer) -> Task | None:
        """Whose data it is; without streams there is one task at a time."""
        if transfer.stream_id:
            return self._active.get(transfer.stream_id)
        return next(iter(self._active.values()), None)

    # -- task management ----------------------------------------------------------------------------------------------

    def _manage(self, tag: int, function: int, subject: int) -> None:
        if function == _ABORT_TASK:
            self._abort(subject)
        elif function in _FORGETS_ALL:
            self._forget()
        else:
            self._respond(tag, Response.NOT_SUPPORTED)
            return
        self._respond(tag, Response.COMPLETE)
        self._next_turn()

    def _abort(self, tag: int) -> None:
        """One task is over without a status. That it was its turn is not told any more."""
        task = self._active.pop(tag, None)
        if task is not None:
            _stop(task)
        self._turns = deque(unit for unit in self._turns if _COMMAND(unit)[0] != tag)
        told = [pack(">BxH", unit, tag) for unit in (Iu.READ_READY, Iu.WRITE_READY)]
        for stream, ready in self._ready.items():
            kept = self._ready[stream] = deque(unit for unit in ready if unit not in told)
            self._unread -= len(ready) - len(kept)

    def _respond(self, tag: int, response: Response) -> None:
        self._say(tag, pack(">BxH3xB", Iu.RESPONSE, tag, response))

    # -- data ---------------------------------------------------------------------------------------------------------

    def _give(self, transfer: Transfer) -> Answer:
        task = self._task_of(transfer)
        if task is None or task.stream is None:
            return None
        stream = task.stream
        chunk = stream.take(transfer.length)
        if chunk is None and stream.error is None:
            return None  # until the storage has it
        if chunk is None:
            assert isinstance(task.plan, scsi.Read)
            assert stream.error is not None
            at = (task.plan.offset + task.plan.length - stream.left) // self._unit.disk.block
            task.failed, chunk = sense.of_error(stream.error, reading=True).at(at), b""
        if task.failed is not None or not stream.left:
            task.stream = None
            asyncio.get_running_loop().call_soon(self._settle_task, task)
        return Completion(_OK, chunk)

    def _receive(self, transfer: Transfer) -> Answer:
        task = self._task_of(transfer)
        if task is None or not task.want or self._pending > _PENDING_BYTES:
            return None
        chunk = bytes(transfer.data[: task.want])
        task.chunks.append(chunk)
        task.gathered += len(chunk)
        task.want -= len(chunk)
        if task.want and transfer.length % self._packet:  # the host gave less than its command is about
            task.want, task.failed = 0, sense.DATA_PHASE
        if isinstance(task.plan, scsi.Parameters):
            if not task.want and task.failed is None:
                self._take_parameters_of(task, task.plan)
        elif not task.want or task.gathered >= _WRITE_BYTES:
            self._store_of(task)
        asyncio.get_running_loop().call_soon(self._settle_task, task)
        return done(transfer)

    def _take_parameters_of(self, task: Task, plan: scsi.Parameters) -> None:
        try:
            then = plan.then(b"".join(task.chunks))
        except Check as check:
            task.failed = check.sense
            return
        assert isinstance(then, scsi.Change)
        self._change_for(task, then)

    def _store_of(self, task: Task) -> None:
        """Hand what was gathered to the storage; once it is all there, make it last if that was asked for."""
        plan = task.plan
        assert isinstance(plan, scsi.Write | scsi.Compare)
        chunks, task.chunks = task.chunks, []
        size, task.gathered = task.gathered, 0
        work = self._storage.write if isinstance(plan, scsi.Write) else self._storage.compare
        if size and task.failed is None:
            self._job_of(task, size, work, plan.offset + task.stored, chunks)
            task.stored += size
        if isinstance(plan, scsi.Write) and plan.sync and not task.want:
            self._job_of(task, 0, self._storage.sync)

    def _change_for(self, task: Task, plan: scsi.Change) -> None:
        for offset, length in plan.ranges:
            if plan.fill:
                self._job_of(task, 0, self._storage.fill, offset, length, plan.fill)
            else:
                self._job_of(task, 0, self._storage.zero, offset, length)
        if plan.sync:
            self._job_of(task, 0, self._storage.sync)

    # -- work of the storage ------------------------------------------------------------------------------------------

    def _job_of(self, task: Task, size: int, work: Any, *arguments: Any) -> None:
        """Have the storage do something that the task's status waits for; `size` bytes are held until then."""
        try:
            answer = work(*arguments)
        except (OSError, MemoryError) as error:
            _fail(task, sense.of_error(error, reading=False))
            return
        if answer is False:
            _fail(task, sense.MISMATCH)
        elif isinstance(answer, asyncio.Future):
            task.jobs += 1
            self._pending += size
            answer.add_done_callback(partial(self._job_of_done, task, size))

    def _job_of_done(self, task: Task, size: int, future: asyncio.Future[bool | None]) -> None:
        was_full = self._pending > _PENDING_BYTES
        task.jobs -= 1
        self._pending -= size
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is not None:
            _fail(task, sense.of_error(error, reading=isinstance(task.plan, scsi.Compare)))
        elif future.result() is False:
            _fail(task, sense.MISMATCH)
        if was_full:
            self.kick(OUT)
        self._settle_task(task)


def _fail(task: Task, why: Sense) -> None:
    if task.failed is None:
        task.failed = why


def _stop(task: Task) -> None:
    if isinstance(task.stream, Stream):
        task.stream.stop()
