"""A folder as a camera or telephone shows it, PTP and MTP: hosts list it, copy from it and, if they may, to it.

bulk 0x01        commands, and what the host sends with them
bulk 0x82        data, and how each command ended
interrupt 0x83   what changed in the folder meanwhile

    idle --command--> [data of the host's] --> at work --> [data] response --> idle

Files go through in the pieces that the host asks for, however large they are. Source: Media Transfer Protocol 1.1
appendix H; USB Still Image Capture Device Definition 1.0, which "SICD" is.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from struct import Struct
from typing import Any, Final, TypeVar

from ..usb.setup import Setup
from ..usb.transfer import Completion, Transfer
from ..usb.tree import DeviceDescriptor, Interface
from ..usb.types import Speed, Status
from .chapter9 import Stall
from .clock import Clock
from .pipe import Answer
from .ptp import packing
from .ptp.codes import TAKES_DATA, Kind, Operation, Response
from .ptp.news import News
from .ptp.packing import HEADER, container, header
from .ptp.responder import About, Piece, Reply, Request, Responder
from .ptp.store import NoObject, Store
from .virtual import VirtualDevice, data, done, endpoint, request

log: Final = logging.getLogger(__name__)
OUT: Final = 0x01
IN: Final = 0x82
INTERRUPT: Final = 0x83
_MOST_COMMAND: Final = HEADER.size + 4 * packing.MOST_PARAMETERS
_MOST_DATA: Final = 64 << 10  # bytes of what a host sends and is no object
_MOST_READ: Final = 1 << 20  # bytes of a file read at once
_LOOK_SECONDS: Final = 2.0  # between two looks at the folder
_VENDOR_CODE: Final = 0x4D  # the request that Microsoft's descriptors come by
_MTP_STRING: Final = 4
_CANCEL: Final = Struct("<HI")  # SICD §5.2.1
_CANCELLATION: Final = 0x4001
# Microsoft's extended compat id: one section, interface 0 is MTP.
_COMPATIBLE: Final = Struct("<IHHB7xBB8s8s6x")
T = TypeVar("T")


class _Out:
    """A container on its way to the host."""

    __slots__ = ("head", "piece", "sent", "size")

    def __init__(self, head: bytes, piece: Piece | None = None) -> None:
        self.head, self.piece, self.sent = head, piece, 0
        self.size = len(head) + (piece.size if piece is not None else 0)


class Mtp(VirtualDevice):
    """`folder` is what it shows; with `write` hosts may also send, rename and delete. Raises ValueError.

    Without a folder it has one of its own, empty at first and written by hosts, which goes when it is unplugged.
    """

    descriptor = DeviceDescriptor(0x1D6B, 0x0100)  # "PTP Gadget": no driver knows it by its ids
    product = "Media device"

    def __init__(
        self,
        *,
        folder: Path | None = None,
        write: bool = False,
        product: str = "Media device",
        serial: str = "0123456789",
        speed: Speed = Speed.HIGH,
        clock: Clock | None = None,
    ) -> None:
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{folder} is no folder")
        self.speed, self.serial, self.product = speed, serial, product
        self.strings = {0xEE: f"MSFT100{chr(_VENDOR_CODE)}", _MTP_STRING: "MTP"}  # hosts know it by these two
        self.store = Store(folder or Path())
        self._is_temporary = folder is None
        self._responder = Responder(self.store, About(self.manufacturer, product, serial), write or folder is None)
        self._news = News()
        self._lock = asyncio.Lock()  # the folder is used by one at a time
        self._shielded: set[asyncio.Task[Any]] = set()  # what goes on in threads, which cannot be cancelled
        self._forget()
        super().__init__(clock=clock)

    def interfaces(self) -> tuple[Interface, ...]:
        endpoints = (self.bulk(OUT), self.bulk(IN), self.interrupt(INTERRUPT, 28, 7 if self.speed >= Speed.HIGH else 8))
        return (Interface(0, 0, 0x06, 0x01, 0x01, endpoints, string=_MTP_STRING),)

    def _forget(self) -> None:
        """What is half done."""
        self._command: Request | None = None  # under way, its data included
        self._come = bytearray()  # the header of a container, and data that is no object
        self._left: int | None = None  # bytes of data to come; None while there is no header yet
        self._is_endless = False  # data whose end is a short packet
        self._is_whole = True  # nothing of the data was missing, or too much
        self._outs: deque[_Out] = deque()
        self._owes_end = False
        self._task: asyncio.Task[None] | None = None

    # -- commands, and data of the host's -----------------------------------------------------------------------------

    @endpoint(OUT)
    def _take(self, transfer: Transfer) -> Answer:
        if self._task is not None or self._outs:
            return None if transfer.length else done(transfer)  # an empty one ends data that filled its packets
        if self._command is None:
            return self._take_command(transfer)
        return self._take_data(transfer)

    def _take_command(self, transfer: Transfer) -> Answer:
        self._come += transfer.data
        if not self._come:
            return done(transfer)
        length = HEADER.unpack_from(self._come)[0] if len(self._come) >= HEADER.size else 0
        is_short = transfer.length % self.bulk(OUT).packet_size != 0
        if len(self._come) < (length or HEADER.size) and not is_short and len(self._come) < _MOST_COMMAND:
            return done(transfer)
        raw, self._come = bytes(self._come), bytearray()
        if not HEADER.size <= len(raw) == length <= _MOST_COMMAND or HEADER.unpack_from(raw)[1] != Kind.COMMAND:
            return self._refuse()
        _, _, code, transaction = HEADER.unpack_from(raw)
        values = tuple(int.from_bytes(raw[at : at + 4], "little") for at in range(HEADER.size, len(raw) - 3, 4))
        self._command = Request(code, transaction, values)
        self._left, self._is_whole = None, True
        if code not in TAKES_DATA:
            self._begin()
        return done(transfer)

    def _take_data(self, transfer: Transfer) -> Answer:
        """The container's header is at the start of the first transfer; a short packet ends what comes."""
        assert self._command is not None
        payload = bytes(transfer.data)
        if self._left is None:
            if not transfer.length:
                return done(transfer)
            if len(payload) < HEADER.size or HEADER.unpack_from(payload)[1] != Kind.DATA:
                return self._refuse()
            length = HEADER.unpack_from(payload)[0]
            self._is_endless = length == packing.UNKNOWN
            self._left = max(0, length - HEADER.size)
            payload = payload[HEADER.size :]
        is_short = transfer.length % self.bulk(OUT).packet_size != 0 or not transfer.length
        if not self._is_endless:
            self._is_whole &= len(payload) <= self._left
            payload = payload[: self._left]
            self._left -= len(payload)
        is_over = is_short if self._is_endless else is_short or not self._left
        if is_over and not self._is_endless:
            self._is_whole &= not self._left
        return self._keep(transfer, payload, is_over)

    def _keep(self, transfer: Transfer, payload: bytes, is_over: bool) -> Answer:
        assert self._command is not None
        if self._command.code == Operation.SEND_OBJECT:
            if payload:
                return self.later(self._write(transfer, payload, is_over))
        elif len(self._come) + len(payload) <= _MOST_DATA:
            self._come += payload
        else:
            self._is_whole = False
        if is_over:
            self._begin()
        return done(transfer)

    async def _write(self, transfer: Transfer, payload: bytes, is_over: bool) -> Completion:
        command = self._command
        await self._uncancelled(self._responder.take(payload))
        if is_over and command is not None and command is self._command:  # else it was given up meanwhile
            self._begin()
        return done(transfer)

    def _refuse(self) -> Completion:
        self._come, self._command = bytearray(), None
        self.halt(OUT)
        return Completion(Status.STALL)

    def _begin(self) -> None:
        assert self._command is not None
        data, self._come = bytes(self._come), bytearray()
        self._task = self.later(self._work(self._command, data))

    async def _work(self, command: Request, data: bytes) -> None:
        log.debug("%s %s", _named(command.code), command.parameters)
        try:
            work = self._responder.done(command, data) if self._is_whole else self._incomplete()
            reply = await self._uncancelled(work)
        except Exception:
            log.exception("%s failed", _named(command.code))
            reply = Reply(Response.GENERAL_ERROR)
        if command is not self._command:
            return  # it was cancelled
        self._command, self._task = None, None
        self._news.done(command, reply)
        self._send(command, reply)

    async def _incomplete(self) -> Reply:
        await self._responder.drop()
        return Reply(Response.INCOMPLETE)

    async def _uncancelled(self, work: Coroutine[Any, Any, T]) -> T:
        """Its threads go on to their end, whatever becomes of who waits; and what comes next waits for them."""
        task = asyncio.get_running_loop().create_task(self._alone(work))
        self._shielded.add(task)
        task.add_done_callback(self._shielded.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps nobody else looks
        return await asyncio.shield(task)

    async def _alone(self, work: Coroutine[Any, Any, T]) -> T:
        async with self._lock:
            return await work

    # -- answers ------------------------------------------------------------------------------------------------------

    def _send(self, command: Request, reply: Reply) -> None:
        if isinstance(reply.data, Piece):
            head = header(Kind.DATA, command.code, command.transaction, reply.data.size)
            self._outs.append(_Out(head, reply.data))
        elif reply.data is not None:
            head = header(Kind.DATA, command.code, command.transaction, len(reply.data))
            self._outs.append(_Out(head + reply.data))
        response = container(Kind.RESPONSE, reply.code, command.transaction, *reply.parameters)
        self._outs.append(_Out(response))
        self.kick(IN)

    @endpoint(IN)
    def _give(self, transfer: Transfer) -> Answer:
        """A container ends with a short packet; where it fills its last one, with one that is empty."""
        if self._owes_end:
            self._owes_end = not transfer.length
            self._next()
            return data(b"")
        if not self._outs:
            return None
        out = self._outs[0]
        if out.piece is not None and out.sent + transfer.length > len(out.head) and out.sent < out.size:
            return self.later(self._read(transfer, out))
        return self._gave(transfer, out, out.head[out.sent : out.sent + transfer.length])

    async def _read(self, transfer: Transfer, out: _Out) -> Completion:
        assert out.piece is not None
        head = out.head[out.sent : out.sent + transfer.length]
        at = max(0, out.sent - len(out.head))
        wanted = min(transfer.length - len(head), out.piece.size - at)
        given = bytearray(head)
        try:
            while len(given) < len(head) + wanted:
                got = len(given) - len(head)
                place = (out.piece.handle, out.piece.offset + at + got, min(wanted - got, _MOST_READ))
                more = await self._uncancelled(_in_thread(self.store.read, *place))
                if not more:
                    break
                given += more
        except (OSError, NoObject) as error:
            log.warning("%s: %s", self.store.folder, error)
        if not self._outs or self._outs[0] is not out:
            return data(b"")  # it was cancelled
        if len(given) < len(head) + wanted:
            self._cut_short(out, out.sent + len(given))
        return self._gave(transfer, out, bytes(given))

    def _cut_short(self, out: _Out, size: int) -> None:
        """The file is not as long as it was: what there is ends early, and the response says so."""
        out.size = size
        head = HEADER.unpack_from(self._outs[1].head)
        self._outs[1] = _Out(container(Kind.RESPONSE, Response.INCOMPLETE, head[3]))

    def _gave(self, transfer: Transfer, out: _Out, given: bytes) -> Completion:
        out.sent += len(given)
        if out.sent >= out.size and transfer.length:
            self._outs.popleft()
            self._owes_end = len(given) == transfer.length and transfer.length % self.bulk(IN).packet_size == 0
            self._next()
        return data(given)

    def _next(self) -> None:
        if not self._outs and not self._owes_end:
            self.kick(OUT)

    # -- the folder changes -------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Look at the folders that the host knows, and tell it what came and went."""
        while True:
            over = asyncio.Event()
            timer = self.clock.call_at(self.clock.now() + _LOOK_SECONDS, over.set)
            try:
                await over.wait()
            finally:
                timer.cancel()
            for parent in self._news.folders():
                await self._look(parent)

    async def _look(self, parent: int) -> None:
        try:
            stamp, now = await self._uncancelled(_in_thread(self.store.look, parent, self._news.stamp(parent)))
        except (OSError, NoObject):
            stamp, now = 0, set()  # it went
        if now is not None:
            self._news.seen(parent, stamp, now)
            self.kick(INTERRUPT)

    @endpoint(INTERRUPT)
    def _tell(self, transfer: Transfer) -> Answer:
        return data(self._news.events.popleft()) if self._news.events else None

    # -- requests of the class, SICD §5.2 -----------------------------------------------------------------------------

    @request(0x21, 0x64)
    def _cancel(self, setup: Setup, data: bytes) -> None:
        """What is under way ends, and has no response."""
        _check(setup)
        if len(data) != _CANCEL.size or _CANCEL.unpack(data)[0] != _CANCELLATION:
            raise Stall
        self._drop()
        self.kick(OUT)

    @request(0xA1, 0x67)
    def _status(self, setup: Setup, data: bytes) -> bytes:
        _check(setup)
        return Struct("<HH").pack(4, Response.BUSY if self._lock.locked() else Response.OK)

    @request(0x21, 0x66)
    def _reset_request(self, setup: Setup, data: bytes) -> None:
        """The session ends too."""
        _check(setup)
        self._drop()
        self._responder.session = 0
        for address in (OUT, IN):
            self.set_halt(address, False)
        self.kick(OUT)

    @request(0xC0, _VENDOR_CODE)
    @request(0xC1, _VENDOR_CODE)
    def _compatible(self, setup: Setup, data: bytes) -> bytes:
        if setup.index != 4:
            raise Stall
        return _COMPATIBLE.pack(_COMPATIBLE.size, 0x0100, 4, 1, 0, 1, b"MTP", b"")

    def _drop(self) -> None:
        task = self._task
        self._forget()
        self._responder.abandon()
        if task is not None:
            task.cancel()

    # -- life ---------------------------------------------------------------------------------------------------------

    def settings_changed(self) -> None:
        self._drop()

    def was_reset(self) -> None:
        self._drop()
        self._responder.session = 0

    async def plugged(self) -> None:
        if self._is_temporary:
            self.store.folder = Path(await _in_thread(tempfile.mkdtemp, "", "usbferry-mtp-"))

    async def unplugged(self) -> None:
        if self._is_temporary:
            await _in_thread(shutil.rmtree, self.store.folder, True)

    async def opened(self) -> None:
        self._lock = asyncio.Lock()
        self._news = News()
        self.later(self._watch())

    async def closed(self) -> None:
        """What was half sent goes."""
        if self._shielded:
            await asyncio.wait(tuple(self._shielded))
        self._responder.session = 0
        await self._responder.drop()


async def _in_thread(work: Callable[..., Any], *words: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, work, *words)


def _named(code: int) -> str:
    return Operation(code).name.lower() if code in tuple(Operation) else f"operation {code:04x}"


def _check(setup: Setup) -> None:
    if setup.value or setup.index:
        raise Stall
