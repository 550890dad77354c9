"""The side of USB/IP that uses a device: questions out, answers in as events. No I/O.

    IDLE --list_devices--> LISTING --Listed or Refused--> DONE
      `----claim----> CLAIMING --Claimed--> USING
                         `-----Refused----> DONE

Everything the server says is checked against what was asked: it is as likely to be wrong as any client. In replies,
devid, direction, ep and the packets' offsets and lengths count for nothing: some servers echo them, most give 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import Final

from ...usb.descriptors import DeviceDescriptor
from ...usb.info import DeviceInfo
from ...usb.transfer import Buffer, IsoPacket, Transfer
from ...usb.types import Speed, Status
from ..errors import ProtocolError
from ..events import LENT_FROM, Claimed, Completed, Event, Lent, Listed, Refusal, Refused
from ..limits import DEFAULT_LIMITS, Limits
from .isochronous import completion_of, descriptors, without_gaps
from .messages import (
    FLAGS,
    URB_DIR_IN,
    VERSION,
    CmdSubmit,
    CmdUnlink,
    Command,
    DeviceRecord,
    InterfaceRecord,
    IsoDescriptor,
    Op,
    OpHeader,
    OpStatus,
    RetSubmit,
    status_of,
    text,
)

MAX_SEQNUM: Final = 0x7FFFFFFF  # Linux servers until 2025 mixed up the sign of larger ones
_LONGEST: Final = 0x7FFFFFFF  # bytes of a transfer: the field has a sign
_COUNT: Final = 4  # bytes of the number of devices in OP_REP_DEVLIST
_UNANSWERED: Final = 65536  # unlinks kept for a server that may yet answer them
_LATE: Final = 1024  # transfers kept that ended with their unlink, and that an old server answers once more
_HEADER: Final = CmdSubmit.SIZE
_CMD_SUBMIT: Final = int(Command.CMD_SUBMIT)
_RET_SUBMIT: Final = int(Command.RET_SUBMIT)
_RET_UNLINK: Final = int(Command.RET_UNLINK)
_OK: Final = Status.OK
_REASONS: Final[dict[int, tuple[Refusal, str]]] = {
    OpStatus.NA: (Refusal.UNAVAILABLE, "the server cannot export it, its log should say why"),
    OpStatus.DEV_BUSY: (Refusal.BUSY, "somebody else uses it"),
    OpStatus.DEV_ERR: (Refusal.FAILED, "the server could not open it, its log should say why"),
    OpStatus.NODEV: (Refusal.NOT_FOUND, "the server has no such device"),
    OpStatus.ERROR: (Refusal.FAILED, "the server failed over it, its log should say why"),
}
_EMPTY: Final = memoryview(b"")
_pack_submit: Final = CmdSubmit.STRUCT.pack


class State(Enum):
    IDLE = auto()
    LISTING = auto()
    CLAIMING = auto()
    USING = auto()
    DONE = auto()


_USING: Final = State.USING


class Importer:
    """One USB/IP connection, seen from the side that uses the device."""

    protocol = "usbip"
    is_prompt = True
    opening = VERSION.to_bytes(2, "big")[:1]  # what all that a server says begins with; older versions are told apart
    largest = limit = 0x7FFFFFFF  # bytes of a transfer in one message
    has_events = False  # only what is read makes any

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.state = State.IDLE
        self.consumed = 0
        self.needed = OpHeader.SIZE
        self.outgoing: list[Buffer] = []
        self.outgoing_bytes = 0
        self._limits = limits
        self._view: memoryview = _EMPTY
        self._busid = b""
        self._devid = 0
        self._seqnum = 0
        self._unused = MAX_SEQNUM  # up to here no number was ever given
        self._flying: dict[int, Transfer] = {}
        self._unlinks: dict[int, int] = {}  # seqnum of a CMD_UNLINK without answer -> its target
        self._unlinking: set[int] = set()  # those targets
        self._late: dict[int, Transfer] = {}  # what they were, without their data, once an unlink has ended them
        self._devices: list[DeviceInfo] = []
        self._expected = -1  # devices in the list that is being read

    # -- questions ----------------------------------------------------------------------------------------------------

    def list_devices(self) -> None:
        """Ask for the list; the answer is Listed or Refused, and the connection is of no more use then."""
        self.state = State.LISTING
        self.needed = OpHeader.SIZE + _COUNT
        self._say(OpHeader(VERSION, Op.REQ_DEVLIST, 0).pack())

    def claim(self, name: str) -> None:
        """Ask for a device; the answer is Claimed or Refused. Raises ValueError for a name that cannot be one."""
        busid = name.encode()
        if not 0 < len(busid) < 32 or 0 in busid:
            raise ValueError(f"{name!r} is no bus id: it has 1 to 31 bytes")
        self.state = State.CLAIMING
        self._busid = busid.ljust(32, b"\0")
        self._say(OpHeader(VERSION, Op.REQ_IMPORT, 0).pack() + self._busid)

    def submit(self, transfer: Transfer) -> int:
        """Send a transfer; the answer is Completed with the tag that this returns.

        `transfer.interval` must be non-zero for interrupt and isochronous endpoints and 0 for the others: servers tell
        their types by it. The endpoint must exist: the Linux server loses the connection over one that does not.
        Its payload must not change until it is sent. Gaps between isochronous packets are not sent: usbipd-win takes
        them for an error.

        Raises ValueError when the payload is not as long as the transfer says, or packets do not fit in it, and for a
        length below 0, over which servers end the connection.
        """
        assert self.state is _USING
        direction, packets = transfer.endpoint >> 7, transfer.packets
        if not 0 <= transfer.length <= _LONGEST:
            raise ValueError(f"a transfer of {transfer.length} bytes")
        if not direction and len(transfer.data) != transfer.length:
            raise ValueError(f"{len(transfer.data)} bytes of payload in a transfer of {transfer.length}")
        if not transfer.length and not transfer.endpoint & 0x0F:
            direction = 0  # whatever bmRequestType says: a control transfer without data is OUT to Linux
        if packets:
            transfer = without_gaps(transfer, packets)
        tag = self._seqnum + 1
        if tag <= self._unused:
            self._seqnum = tag
        else:
            tag = self._next()
        header = _pack_submit(
            _CMD_SUBMIT,
            tag,
            self._devid,
            direction,
            transfer.endpoint & 0x0F,
            transfer.flags & FLAGS | direction * URB_DIR_IN,
            transfer.length,
            transfer.start_frame,
            len(packets) if packets else 0,
            transfer.interval,
            transfer.setup,
        )
        self._flying[tag] = transfer
        self.outgoing.append(header)
        if direction or not transfer.length:
            self.outgoing_bytes += _HEADER
        else:
            self.outgoing.append(transfer.data)
            self.outgoing_bytes += _HEADER + transfer.length
        if packets:
            self._say(descriptors(packets))
        return tag

    def cancel(self, tag: int) -> None:
        """Ask for a transfer's end; its Completed still comes. An unknown tag is ignored: it has ended."""
        transfer = self._flying.get(tag)
        if transfer is None or tag in self._unlinking:
            return
        if len(self._unlinks) >= _UNANSWERED:
            self._forget_unlink(next(iter(self._unlinks)))
        seqnum = self._next()
        self._unlinks[seqnum] = tag
        self._unlinking.add(tag)
        ep, direction = transfer.endpoint & 0x0F, transfer.endpoint >> 7
        self._say(CmdUnlink(Command.CMD_UNLINK, seqnum, self._devid, direction, ep, tag).pack())

    def deadline(self) -> float | None:
        """When `tick` wants to be called: never, nothing here takes its time."""
        return None

    def tick(self, now: float) -> None:
        """Let time pass."""

    # -- answers ------------------------------------------------------------------------------------------------------

    def receive(self, view: memoryview, now: float) -> None:
        """Look at all received bytes that are not consumed yet; `events` reads them and counts up `consumed`."""
        self._view = view
        self.consumed = 0

    def events(self) -> Iterator[Event]:
        """What the server answered, message by message. Raises ProtocolError when it breaks the protocol."""
        if self.state is State.LISTING:
            yield from self._list()
        elif self.state is State.CLAIMING:
            yield from self._import()
        if self.state is State.USING:
            yield from self._replies()
        elif self.state is State.IDLE and len(self._view):
            raise ProtocolError("the server spoke before it was asked")

    def _operation(self, code: Op) -> OpHeader | None:
        view = self._view
        if len(view) < OpHeader.SIZE:
            return None
        header = OpHeader.parse(view)
        if header.version != VERSION:
            raise ProtocolError(f"the server speaks version {header.version:#06x}, known is {VERSION:#06x}")
        if header.code != code:
            raise ProtocolError(f"answer {header.code:#06x}, expected was {code:#06x}")
        return header

    def _list(self) -> Iterator[Event]:
        view = self._view
        if self._expected < 0:
            header = self._operation(Op.REP_DEVLIST)
            if header is not None and header.status:
                self.consumed = OpHeader.SIZE
                self.state = State.DONE
                yield Refused(
                    Refusal.UNAVAILABLE, f"the server does not list its devices, it gave status {header.status}"
                )
                return
            if len(view) < self.needed:
                return
            self._expected = int.from_bytes(view[OpHeader.SIZE : self.needed], "big")
            if self._expected > self._limits.devices_listed:
                raise ProtocolError(f"a list of {self._expected} devices, the limit is {self._limits.devices_listed}")
            self.consumed = self.needed
        while len(self._devices) < self._expected:
            if not self._list_one():
                return
        self.needed = 1
        self.state = State.DONE
        yield Listed(self._devices)

    def _list_one(self) -> bool:
        view, at = self._view, self.consumed
        self.needed = DeviceRecord.SIZE
        if len(view) - at < self.needed:
            return False
        record = DeviceRecord.parse(view, at)
        if record.interfaces > self._limits.interfaces_listed:
            raise ProtocolError(f"{record.interfaces} interfaces, the limit is {self._limits.interfaces_listed}")
        self.needed += record.interfaces * InterfaceRecord.SIZE
        if len(view) - at < self.needed:
            return False
        first = at + DeviceRecord.SIZE
        found = [InterfaceRecord.parse(view, first + i * InterfaceRecord.SIZE) for i in range(record.interfaces)]
        classes = tuple((i.interface_class, i.interface_subclass, i.interface_protocol) for i in found)
        self._devices.append(_device_info(record, classes))
        self.consumed = at + self.needed
        return True

    def _import(self) -> Iterator[Event]:
        header = self._operation(Op.REP_IMPORT)
        if header is None:
            return
        if header.status:
            self.consumed = OpHeader.SIZE
            self.state = State.DONE
            yield Refused(*_REASONS.get(header.status, (Refusal.FAILED, f"the server gave status {header.status}")))
            return
        self.needed = OpHeader.SIZE + DeviceRecord.SIZE
        if len(self._view) < self.needed:
            return
        record = DeviceRecord.parse(self._view, OpHeader.SIZE)
        if record.busid.partition(b"\0")[0] != self._busid.rstrip(b"\0"):
            raise ProtocolError(f"the server gave {text(record.busid)!r}, asked for was {text(self._busid)!r}")
        # The kernel's tools build it from 8 bits each, and servers compare it with theirs.
        self._devid = (record.busnum << 16 | record.devnum) & 0xFFFFFFFF
        self.consumed = self.needed
        self.needed = RetSubmit.SIZE
        self.state = State.USING
        yield Claimed(_device_info(record, ()))

    def _replies(self) -> Iterator[Event]:
        view, end, flying = self._view, len(self._view), self._flying
        unpack, head, at = RetSubmit.STRUCT.unpack_from, RetSubmit.SIZE, self.consumed
        while end - at >= head:
            command, seqnum, status, actual, start_frame, packets, _ = unpack(view, at)
            if command == _RET_SUBMIT:
                transfer = flying.get(seqnum) or self._late.get(seqnum)
                if transfer is None:
                    raise ProtocolError(f"a reply to #{seqnum}, which is not in flight")
                is_plain = 0 <= actual <= transfer.length and not transfer.packets
                size = (actual if transfer.endpoint >= 0x80 else 0) if is_plain else _payload(transfer, actual, packets)
                body = at + head
                after = body + size
                if after > end:
                    self.needed = head + size
                    return
                at = self.consumed = after
                if flying.pop(seqnum, None) is None:
                    del self._late[seqnum]  # usbipd-win before 3.2, see `_unlinked`
                elif is_plain:
                    code = status_of(status) if status else _OK
                    if size >= LENT_FROM:
                        yield Lent(seqnum, code, view[body:after], actual)
                    else:
                        yield Completed(seqnum, code, bytes(view[body:after]) if size else b"", actual)
                else:
                    given = view[body:after]
                    yield Completed.of(seqnum, completion_of(transfer, status, actual, start_frame, given))
            elif command == _RET_UNLINK:
                at = self.consumed = at + head
                event = self._unlinked(seqnum, status)
                if event is not None:
                    yield event
            else:
                raise ProtocolError(f"command {command:#x}, known are RET_SUBMIT 3 and RET_UNLINK 4")
        self.needed = head

    def _unlinked(self, seqnum: int, status: int) -> Event | None:
        """RET_UNLINK. Without an earlier RET_SUBMIT, Linux's server gives the transfer's own status here.

        Then an OUT transfer did happen; what an IN transfer brought is lost, which only CANCELLED says truly.

        It is the last word, but not to usbipd-win before 3.2, which sends the RET_SUBMIT as well (issues 300 and 538,
        pull 684). Linux's client drops the device over it; usbip-win2 drops the reply, and so does this one.
        """
        if seqnum not in self._unlinks:
            raise ProtocolError(f"an unlink answered, #{seqnum}, that was not asked for")
        target = self._forget_unlink(seqnum)
        transfer = self._flying.pop(target, None)
        if transfer is None:
            return None  # it completed first
        self._late[target] = Transfer(transfer.endpoint, transfer.length, packets=transfer.packets)
        if len(self._late) > _LATE:
            del self._late[next(iter(self._late))]
        if status:
            return Completed(target, status_of(status))
        if transfer.is_in:
            return Completed(target, Status.CANCELLED)
        done = transfer.packets and [IsoPacket(p.offset, p.length, p.length) for p in transfer.packets]
        return Completed(target, _OK, b"", transfer.length, done)

    def _forget_unlink(self, seqnum: int) -> int:
        target = self._unlinks.pop(seqnum)
        self._unlinking.discard(target)
        return target

    def _next(self) -> int:
        """The next number that is free: a parked read may be older than the last turn of the counter."""
        if self._seqnum == MAX_SEQNUM:
            self._unused = 0
        seqnum = self._seqnum % MAX_SEQNUM + 1
        while seqnum in self._flying or seqnum in self._unlinks or seqnum in self._late:
            seqnum = seqnum % MAX_SEQNUM + 1
        self._seqnum = seqnum
        return seqnum

    def _say(self, chunk: Buffer) -> None:
        self.outgoing.append(chunk)
        self.outgoing_bytes += len(chunk)


def _payload(transfer: Transfer, actual: int, packets: int) -> int:
    """Bytes that follow a RET_SUBMIT. Raises ProtocolError when it says what cannot be."""
    if not 0 <= actual <= transfer.length:
        raise ProtocolError(f"{actual} bytes done of a transfer of {transfer.length}")
    size = actual if transfer.endpoint & 0x80 else 0
    if transfer.packets:
        if packets != len(transfer.packets):
            raise ProtocolError(f"{packets} packets in the reply to a transfer of {len(transfer.packets)}")
        size += packets * IsoDescriptor.SIZE
    return size


def _device_info(record: DeviceRecord, classes: tuple[tuple[int, int, int], ...]) -> DeviceInfo:
    return DeviceInfo(
        name=text(record.busid),
        device=DeviceDescriptor(
            record.vendor_id,
            record.product_id,
            device_class=record.device_class,
            device_subclass=record.device_subclass,
            device_protocol=record.device_protocol,
            release=record.release,
            configurations=record.configurations,
        ),
        speed=Speed(record.speed) if record.speed in Speed.__members__.values() else Speed.UNKNOWN,
        configuration=record.configuration,
        bus=record.busnum,
        address=record.devnum,
        path=text(record.path),
        interface_classes=classes,
    )
