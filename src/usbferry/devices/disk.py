"""A USB disk: mass storage by Bulk-Only Transport, in front of an image file, memory, or a folder's files.

    COMMAND --CBW--> DATA_IN or DATA_OUT --all moved--> STATUS --CSW--> COMMAND

The host says in the CBW how much it will move and which way, the command itself says it too, and the thirteen ways in
which the two can relate (BOT 1.0 §6.7) are decided in one place, `_begin`. Sources: "BOT" is the Universal Serial Bus
Mass Storage Class, Bulk-Only Transport, revision 1.0; what the commands do is in `scsi`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from struct import Struct
from typing import Any, Final

from ..usb.setup import Setup
from ..usb.transfer import Completion, Transfer
from ..usb.tree import DeviceDescriptor, Interface
from ..usb.types import Speed, Status
from .chapter9 import Stall
from .clock import Clock
from .pipe import Answer
from .storage import medium, scsi, sense
from .storage.bulk_only import Backing, Held, Storage, Stream
from .storage.pages import Identity
from .storage.sense import Check, Sense
from .virtual import VirtualDevice, done, endpoint, request

IN: Final = 0x81
OUT: Final = 0x02
_CBW: Final = Struct("<4sIIBBB16s")  # signature, tag, transfer length, flags, LUN, CB length, CB: BOT §5.1
_CSW: Final = Struct("<4sIIB").pack  # signature, tag, residue, status: BOT §5.2
_PASSED, _FAILED, _PHASE_ERROR = 0, 1, 2  # bCSWStatus
_WRITE_BYTES: Final = 256 << 10  # of a data stage that are written in one go
_PENDING_BYTES: Final = 4 << 20  # taken and not yet written, before the endpoint NAKs


class Phase(Enum):
    """Where the transport stands."""

    COMMAND = "command"  # waits for a CBW
    DATA_IN = "in"
    DATA_OUT = "out"
    STATUS = "status"  # the CSW is next, when the command's work is done


_COMMAND, _DATA_IN, _DATA_OUT, _STATUS = Phase  # found sooner than by attribute, several times a command
_OK: Final = Status.OK


@dataclass(slots=True, eq=False)
class _Command:
    """One command from its CBW to its CSW."""

    tag: int = 0
    length: int = 0  # dCBWDataTransferLength
    residue: int = 0
    status: int = _PASSED
    plan: scsi.Plan = scsi.NOTHING
    stream: Stream | Held | None = None  # of data IN
    want: int = 0  # bytes of data OUT that the command is about
    received: int = 0  # bytes of data OUT
    chunks: list[bytes] = field(default_factory=list)  # received, and not handed to the storage yet
    gathered: int = 0  # bytes in chunks
    written: int = 0  # bytes handed to the storage
    jobs: int = 0  # that the storage is at
    pending: int = 0  # bytes that those hold


class Disk(VirtualDevice):
    """`image` is made with `size` bytes if it does not exist; without one the disk is in memory.

    `files` serves a folder's files on a FAT file system; what the host writes there stays in memory and is forgotten
    with the disk. Vendor and product are QEMU's for its USB disk (46f4:0001): every system drives it by its class, and
    no list of quirks has an entry for it.
    """

    descriptor = DeviceDescriptor(0x46F4, 0x0001)
    product = "Virtual disk"

    def __init__(
        self,
        backing: Backing | None = None,
        *,
        image: Path | None = None,
        size: int = 0,
        readonly: bool = False,
        files: Path | None = None,
        block: int = 512,
        removable: bool = False,
        serial: str = "",
        product: str = "",
        speed: Speed = Speed.HIGH,
        clock: Clock | None = None,
    ) -> None:
        if block not in (512, 4096):
            raise ValueError(f"a block has 512 or 4096 bytes, not {block}")
        self.speed = speed
        self._packet = self.bulk(OUT).packet_size
        if backing is None:
            backing = medium.choose(image, files, size, readonly, block)
        if backing.size % block:
            raise ValueError(f"{backing.size} bytes are no whole number of {block}-byte blocks")
        self.product = medium.printable("product", product) or self.product
        self.serial = medium.printable("serial", serial) or medium.serial_of(image or files)
        self._storage = Storage(backing)
        shape = (backing.size // block, block, removable, readonly or backing.readonly)
        self._unit = scsi.Unit(Identity(*shape, product=self.product, serial=self.serial))
        self._phase = _COMMAND
        self._command = _Command()
        self._in_waits = self._out_waits = False  # a transfer may be parked there
        self._broken = False  # an invalid CBW came: both endpoints stall until Reset Recovery
        super().__init__(clock=clock)

    def interfaces(self) -> tuple[Interface, ...]:
        """SCSI transparent command set over Bulk-Only Transport."""
        return (Interface(0, 0, 0x08, 0x06, 0x50, (self.bulk(IN, burst=15), self.bulk(OUT, burst=15))),)

    async def opened(self) -> None:
        await self._storage.open()
        self._unit.plug_in()

    async def closed(self) -> None:
        await self._storage.close()

    # -- class requests (BOT §3) --------------------------------------------------------------------------------------

    @request(0xA1, 0xFE)
    def _get_max_lun(self, setup: Setup, data: bytes) -> bytes:
        if setup.value or setup.index or setup.length != 1:
            raise Stall
        return b"\0"

    @request(0x21, 0xFF)
    def _bulk_only_reset(self, setup: Setup, data: bytes) -> None:
        """Ready for the next CBW; halts and toggles stay as they are. The host is not told of this reset by a unit
        attention: Linux gives up on a removable disk that has one it did not expect.
        """
        if setup.value or setup.index or setup.length:
            raise Stall
        self._restart()

    def was_reset(self) -> None:
        self._restart()
        self._unit.reset()

    def settings_changed(self) -> None:
        self._restart()

    def _kick_in(self) -> None:
        self._in_waits = False
        self.kick(IN)

    def _kick_out(self) -> None:
        self._out_waits = False
        self.kick(OUT)

    def _restart(self) -> None:
        """Forget the command under way. What the storage is at goes on, and comes before what is asked of it next."""
        if isinstance(self._command.stream, Stream):
            self._command.stream.stop()
        self._phase = _COMMAND
        self._command = _Command()
        self._broken = False
        self._kick_out()

    def halt_cleared(self, address: int) -> None:
        """BOT §6.6.1: an invalid CBW is got over by Reset Recovery alone."""
        if self._broken:
            self.halt(address)

    # -- the bulk endpoints -------------------------------------------------------------------------------------------

    @endpoint(OUT)
    def _out(self, transfer: Transfer) -> Answer:
        if self._phase is _COMMAND:
            return self._take_command(transfer)
        if self._phase is _DATA_OUT:
            return self._take_data(transfer)
        self._out_waits = True  # the next command: after the CSW of this one
        return None

    @endpoint(IN)
    def _in(self, transfer: Transfer) -> Answer:
        if self._phase is _DATA_IN:
            return self._give_data(transfer)
        command = self._command
        if self._phase is _STATUS and not command.jobs:
            self._phase = _COMMAND
            if self._out_waits:
                self._kick_out()
            csw = _CSW(b"USBS", command.tag, command.residue, command.status)
            return Completion(_OK, csw) if transfer.length >= len(csw) else Completion(Status.OVERFLOW)
        self._in_waits = True
        return None

    def _take_command(self, transfer: Transfer) -> Answer:
        """BOT §6.2: valid is a CBW of 31 bytes with its signature; meaningful, one with no reserved bits."""
        if transfer.length != 31:
            return self._break()
        signature, tag, length, flags, lun, size, block = _CBW.unpack(transfer.data)
        if signature != b"USBC" or flags & 0x7F or lun & 0xF0 or not 1 <= size <= 16:
            return self._break()
        self._begin(_Command(tag, length, length), bool(flags), lun, block)
        return Completion(_OK, b"", 31)

    def _break(self) -> Answer:
        self._broken = True
        self.halt(IN)
        self.halt(OUT)
        return Completion(Status.STALL)

    # -- a command ----------------------------------------------------------------------------------------------------

    def _begin(self, command: _Command, to_host: bool, lun: int, block: bytes) -> None:
        """The thirteen cases of BOT §6.7: H is what the host means to move, D the device; i IN, o OUT, n nothing."""
        self._command = command
        try:
            plan = command.plan = self._unit.execute(block, lun)
        except Check as check:
            self._unit.fail(check.sense)
            command.status = _FAILED
            plan = scsi.NOTHING
        host = command.length
        if isinstance(plan, (scsi.Read, scsi.Reply)):
            size = plan.length if isinstance(plan, scsi.Read) else len(plan.data)
            if size and (size > host or not to_host):  # 2 Hn<Di, 7 Hi<Di, 10 Ho<>Di
                self._disagree(to_host)
            elif size:  # 5 Hi>Di, 6 Hi=Di
                self._phase = _DATA_IN
                command.stream = self._stream(plan)
            else:
                self._no_data(to_host)
        elif isinstance(plan, scsi.Change):
            self._no_data(to_host)
            self._change(plan)
        elif plan.length and (plan.length > host or to_host):  # 3 Hn<Do, 8 Hi<>Do, 13 Ho<Do
            self._disagree(to_host)
        elif plan.length:  # 11 Ho>Do, 12 Ho=Do
            self._phase = _DATA_OUT
            command.want = plan.length
        else:
            self._no_data(to_host)
        if self._in_waits:
            self._kick_in()

    def _no_data(self, to_host: bool) -> None:
        """1 Hn=Dn: on to the status; 4 Hi>Dn, 9 Ho>Dn: by way of a stall, so that the host stops moving data."""
        self._phase = _STATUS
        if self._command.length:
            self.halt(IN if to_host else OUT)

    def _disagree(self, to_host: bool) -> None:
        """Phase error. Nothing was done and nothing is moved."""
        self._command.status = _PHASE_ERROR
        self._no_data(to_host)

    def _stream(self, plan: scsi.Read | scsi.Reply) -> Stream | Held:
        if isinstance(plan, scsi.Reply):
            return Held(plan.data)
        found = self._storage.peek(plan.offset, plan.length)
        if found is not None:
            return Held(found)
        return Stream(self._storage, plan.offset, plan.length, self._kick_in)

    # -- data to the host ---------------------------------------------------------------------------------------------

    def _give_data(self, transfer: Transfer) -> Answer:
        command = self._command
        stream = command.stream
        assert stream is not None
        chunk = stream.take(transfer.length)
        if chunk is None:
            if stream.error is None:
                self._in_waits = True
                return None
            self._read_failed(command, stream.error)
            return Completion(Status.STALL)
        command.residue -= len(chunk)
        if not stream.left:
            self._phase = _STATUS
            command.stream = None
            if command.residue:  # 5 Hi>Di: the short packet ends this transfer, a stall any that the host has queued
                self.halt(IN)
        return Completion(_OK, chunk)

    def _read_failed(self, command: _Command, error: OSError) -> None:
        assert isinstance(command.plan, scsi.Read)
        at = command.plan.offset + command.length - command.residue
        self._fail(command, sense.of_error(error, reading=True).at(at // self._unit.disk.block))
        self._phase = _STATUS
        command.stream = None
        self.halt(IN)

    # -- data from the host -------------------------------------------------------------------------------------------

    def _take_data(self, transfer: Transfer) -> Answer:
        command = self._command
        if command.pending > _PENDING_BYTES:
            self._out_waits = True
            return None  # until some of it is written
        left = command.want - command.received
        command.received += transfer.length
        if left > 0 and command.status == _PASSED:
            chunk = bytes(transfer.data) if transfer.length <= left else bytes(transfer.data[:left])
            command.chunks.append(chunk)
            command.gathered += len(chunk)
            command.residue -= len(chunk)
        is_short = transfer.length % self._packet or not transfer.length
        if command.received >= command.length or is_short:
            self._received(command)
        elif command.gathered >= _WRITE_BYTES and not isinstance(command.plan, scsi.Parameters):
            self._store(command)
        return done(transfer)

    def _received(self, command: _Command) -> None:
        """The data stage is over, or the host ended it early with a short packet."""
        self._phase = _STATUS
        plan = command.plan
        if isinstance(plan, scsi.Parameters):
            self._take_parameters(command, plan)
        else:
            self._store(command)
            if isinstance(plan, scsi.Write) and plan.sync:
                self._job(command, self._storage.sync)
        if command.received < command.want:
            self._fail(command, sense.DATA_PHASE)
        if self._in_waits:
            self._kick_in()

    def _store(self, command: _Command) -> None:
        """Hand what was gathered to the storage."""
        chunks, command.chunks = command.chunks, []
        size, command.gathered = command.gathered, 0
        plan = command.plan
        if not size or command.status != _PASSED:
            return
        assert isinstance(plan, (scsi.Write, scsi.Compare))
        work = self._storage.write if isinstance(plan, scsi.Write) else self._storage.compare
        self._job(command, work, plan.offset + command.written, chunks, size=size)
        command.written += size

    def _take_parameters(self, command: _Command, plan: scsi.Parameters) -> None:
        if command.received < command.want:
            return
        try:
            then = plan.then(b"".join(command.chunks))
        except Check as check:
            self._fail(command, check.sense)
            return
        assert isinstance(then, scsi.Change)
        self._change(then)

    # -- work of the storage ------------------------------------------------------------------------------------------

    def _change(self, plan: scsi.Change) -> None:
        for offset, length in plan.ranges:
            if plan.fill:
                self._job(self._command, self._storage.fill, offset, length, plan.fill)
            else:
                self._job(self._command, self._storage.zero, offset, length)
        if plan.sync:
            self._job(self._command, self._storage.sync)

    def _job(self, command: _Command, work: Any, *arguments: Any, size: int = 0) -> None:
        """Have the storage do something that the command's status waits for."""
        try:
            answer = work(*arguments)
        except (OSError, MemoryError) as error:
            self._fail(command, sense.of_error(error, reading=False))
            return
        if answer is False:
            self._fail(command, sense.MISMATCH)
        elif isinstance(answer, asyncio.Future):
            command.jobs += 1
            command.pending += size
            answer.add_done_callback(partial(self._job_done, command, size))

    def _job_done(self, command: _Command, size: int, future: asyncio.Future[bool | None]) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if self._command is not command:
            return  # reset meanwhile
        command.jobs -= 1
        command.pending -= size
        if error is not None:
            self._fail(command, sense.of_error(error, reading=isinstance(command.plan, scsi.Compare)))
        elif future.result() is False:
            self._fail(command, sense.MISMATCH)
        if self._phase is _DATA_OUT:
            self._kick_out()
        else:
            self._kick_in()

    def _fail(self, command: _Command, why: Sense) -> None:
        """The first failure of a command is the one that is told."""
        if command.status == _PASSED:
            command.status = _FAILED
            self._unit.fail(why)
