"""The side of USB/IP that has the devices: requests in, events out, answers back. No I/O.

    OPERATION --DEVLIST--> LISTING --> DONE
        `------IMPORT----> CLAIMING --accept--> SERVING --gone--> DONE
                               `----refuse--------------------------^

UNLINK strategy. Exactly one terminal answer per seqnum, decided in one place (`_answer`):

- the device reports CANCELLED and nothing done: RET_UNLINK(-ECONNRESET), and never a RET_SUBMIT. vhci_hcd drops the
  whole device on a RET_SUBMIT it no longer knows ("cannot find a urb of seqnum").
- anything else: RET_SUBMIT with the truth, then RET_UNLINK(0). A RET_UNLINK(0) without it would be a false success.
- a second unlink of the same transfer is answered after the first, with 0.
- an unlink of a seqnum newer than the last submit has overtaken it (vhci_tx_loop sends one list after the other): it is
  held, and the submit is not run when it comes.
- an unlink of any other unknown seqnum: RET_UNLINK(0), the answer has been sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto
from typing import Final

from ...usb.info import DeviceInfo
from ...usb.setup import SET_ADDRESS, Setup, is_port_reset
from ...usb.transfer import Buffer, Completion, Flags, IsoPacket, Transfer
from ...usb.types import Status
from ..errors import ProtocolError
from ..events import Cancel, Claim, Event, List, Refusal, Reset, Submit
from ..limits import DEFAULT_LIMITS, Limits
from ..openings import Stranger, spoken_by
from ..pending import Entry, Pending
from .messages import (
    ECONNRESET,
    EPROTO,
    ERRNO,
    FLAGS,
    VERSION,
    CmdSubmit,
    Command,
    ImportRequest,
    IsoDescriptor,
    Op,
    OpHeader,
    OpStatus,
    RetSubmit,
    RetUnlink,
    device_record,
    interface_records,
    iso_packets,
    isochronous_endpoints,
    text,
)

HEADER: Final = CmdSubmit.SIZE  # bytes of every message once a device is imported
_OK: Final = Status.OK
_EMPTY: Final = memoryview(b"")
_CMD_SUBMIT: Final = int(Command.CMD_SUBMIT)
_RET_SUBMIT: Final = int(Command.RET_SUBMIT)
_pack_ret_submit: Final = RetSubmit.STRUCT.pack
_REFUSALS: Final = {
    Refusal.NOT_FOUND: OpStatus.NODEV,
    Refusal.BUSY: OpStatus.DEV_BUSY,
    Refusal.FAILED: OpStatus.DEV_ERR,
    Refusal.UNAVAILABLE: OpStatus.NA,
}


class State(Enum):
    OPERATION = auto()  # waits for the one request
    LISTING = auto()  # waits for `listed`
    CLAIMING = auto()  # waits for `accept` or `refuse`
    SERVING = auto()
    DONE = auto()  # everything said: write what is left and close


_SERVING: Final = State.SERVING


class Exporter:
    """One USB/IP connection, seen from the side that has the devices."""

    protocol = "usbip"
    is_prompt = True
    has_events = False  # only what is read makes any
    session = b""  # its claims end with their connection

    def __init__(self, limits: Limits = DEFAULT_LIMITS, now: float = 0.0) -> None:
        self.state = State.OPERATION
        self.consumed = 0  # bytes of the last view that are done with
        self.needed = OpHeader.SIZE  # bytes that must be there before the next message can be read
        self.outgoing: list[Buffer] = []  # taken and cleared by the pump
        self.outgoing_bytes = 0
        self._limits = limits
        self._view: memoryview = _EMPTY
        self._started = now
        self._now = now
        self._busid = b""
        self._devid = 0
        self._pending = Pending()
        self._has_packets: dict[int, bool] = {}  # endpoint -> whether it is isochronous, where the descriptors say
        self._current: Submit | None = None  # the submit that was just emitted
        self._newest: int | None = None  # newest seqnum submitted so far, modulo 2**32
        self._early: dict[int, tuple[list[int], float]] = {}  # unlinks that overtook their submit, and since when

    # -- what the pump calls ------------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Nothing more will be said: the connection is closed once `outgoing` is written."""
        return self.state is State.DONE

    @property
    def in_flight(self) -> int:
        """Transfers that have no answer yet."""
        return len(self._pending)

    def receive(self, view: memoryview, now: float) -> None:
        """Look at all received bytes that are not consumed yet; `events` reads them and counts up `consumed`."""
        self._view = view
        self._now = now
        self.consumed = 0

    def events(self) -> Iterator[Event]:
        """What the importer wants, message by message. May be left early and called again.

        Raises ProtocolError when the importer breaks the protocol.
        """
        return self._requests() if self.state is _SERVING else self._opening()

    def deadline(self) -> float | None:
        """When `tick` wants to be called."""
        if self.state is State.OPERATION:
            return self._started + self._limits.handshake_seconds
        if self._early:
            return next(iter(self._early.values()))[1] + self._limits.early_cancel_seconds
        return None

    def tick(self, now: float) -> None:
        """Let time pass. Raises ProtocolError when the importer took too long to say what it wants."""
        self._now = now
        if self.state is State.OPERATION and now >= self._started + self._limits.handshake_seconds:
            raise ProtocolError(f"no request within {self._limits.handshake_seconds:g} s")
        while self._early:
            target, (cancels, since) = next(iter(self._early.items()))
            if now < since + self._limits.early_cancel_seconds:
                break
            self._drop_early(target, cancels)

    def listed(self, devices: Iterable[DeviceInfo]) -> None:
        """Answer List. Source: OP_REP_DEVLIST."""
        records = [device_record(info).pack() + interface_records(info) for info in devices]
        self._say(OpHeader(VERSION, Op.REP_DEVLIST, OpStatus.OK).pack() + len(records).to_bytes(4, "big"))
        for packed in records:
            self._say(packed)
        self.state = State.DONE

    def accept(self, info: DeviceInfo) -> None:
        """Answer Claim: the importer has the device. Source: OP_REP_IMPORT, which carries no interface records."""
        device = device_record(info)
        device.busid = self._busid  # the importer compares all 32 bytes with what it asked for
        self._devid = device.busnum << 16 | device.devnum
        self._has_packets = isochronous_endpoints(info)
        self._say(OpHeader(VERSION, Op.REP_IMPORT, OpStatus.OK).pack() + device.pack())
        self.state = State.SERVING
        self.needed = HEADER

    def refuse(self, reason: Refusal) -> None:
        """Answer Claim: the importer cannot have the device."""
        self._say(OpHeader(VERSION, Op.REP_IMPORT, _REFUSALS[reason]).pack())
        self.state = State.DONE

    def complete(self, tag: int, completion: Completion) -> None:
        """Answer the Submit of `tag`, once.

        The reply may wait for earlier transfers on its endpoint. A tag that is not in flight is ignored.
        """
        current, pending = self._current, self._pending
        if current is not None and current.tag == tag:
            self._current = None
            if not pending.entries or not pending.waits_on(current.transfer):
                self._reply(current, completion)
                return
            pending.add(current)
        alone = pending.finish_alone(tag)
        if alone is not None:
            self._reply(alone, completion)
            return
        for entry in pending.finish(tag, completion):
            self._answer(entry)

    def reset_done(self, tag: int, ok: bool) -> None:
        """Answer Reset: the request was a control transfer to the importer."""
        self.complete(tag, Completion(Status.OK if ok else Status.GONE))

    def gone(self) -> None:
        """The device left and everything pending is answered. Closing is USB/IP's only word for it."""
        self.state = State.DONE

    def disconnected(self, now: float) -> bool:
        """The transport is lost; whether the claim waits for another. USB/IP's ends with its connection."""
        self.state = State.DONE
        return False

    # -- the one operation --------------------------------------------------------------------------------------------

    def _opening(self) -> Iterator[Event]:
        if self.state is State.OPERATION:
            event = self._operation()
            if event is not None:
                yield event
        if self.state is State.SERVING:
            yield from self._requests()

    def _operation(self) -> Event | None:
        view, self.needed = self._view, OpHeader.SIZE
        if len(view) < OpHeader.SIZE:
            return None
        header = OpHeader.parse(view)
        if header.version != VERSION:
            if spoken_by(view) != self.protocol:
                raise Stranger(self.protocol, view)
            raise ProtocolError(f"version {header.version:#06x}, spoken here is {VERSION:#06x}")
        if header.status:
            raise ProtocolError(f"status {header.status} in a request, must be 0")
        if header.code == Op.REQ_DEVLIST:
            self.consumed = OpHeader.SIZE
            self.state = State.LISTING
            return List()
        if header.code != Op.REQ_IMPORT:
            raise ProtocolError(f"operation {header.code:#06x}, known are DEVLIST 0x8005 and IMPORT 0x8003")
        self.needed = OpHeader.SIZE + ImportRequest.SIZE
        if len(view) < self.needed:
            return None
        self.consumed = self.needed
        self._busid = bytes(view[OpHeader.SIZE : self.needed])
        self.state = State.CLAIMING
        return Claim(text(self._busid))

    # -- requests on the imported device ------------------------------------------------------------------------------

    def _requests(self) -> Iterator[Event]:
        """The hot loop: what it reads of itself is in locals, and an answer given at once touches no table."""
        view, end, devid, limits = self._view, len(self._view), self._devid, self._limits
        unpack, pending, early = CmdSubmit.STRUCT.unpack_from, self._pending, self._early
        waiting = pending.entries
        at = self.consumed
        while self.state is _SERVING:
            if end - at < HEADER:
                self.needed = HEADER
                return
            command, seqnum, device, direction, ep, flags, length, start_frame, packets, interval, setup = unpack(
                view, at
            )
            if device != devid:
                raise ProtocolError(f"devid {device:#x}, imported is {devid:#x}")
            if command != _CMD_SUBMIT:
                at += HEADER
                self.consumed = at
                event = self._unlink(command, seqnum, flags)
                if event is not None:
                    yield event
                continue
            count = packets
            if packets > 0 and not (ep and self._has_packets.get(ep | direction << 7, True)):
                count = 0  # it means nothing, and is sent back as it came
            if length < 0 or count > limits.iso_packets or direction > 1:
                raise ProtocolError(f"length {length}, direction {direction}, {packets} packets in #{seqnum}")
            payload = at + HEADER
            after = payload if direction else payload + length
            if not direction and length > limits.transfer_bytes:
                raise ProtocolError(f"{length} bytes in #{seqnum}, the limit is {limits.transfer_bytes}")
            descriptors = after
            if count > 0:
                after += count * IsoDescriptor.SIZE
            if end < after:
                self.needed = after - at
                return
            at = self.consumed = after
            transfer = Transfer(
                ep | 0x80 if direction else ep,
                length,
                b"" if direction else view[payload:descriptors],
                b"",
                flags & FLAGS,
                None,
                0,
                interval,
            )
            if seqnum in waiting:
                raise ProtocolError(f"seqnum {seqnum} is in flight already")
            if self._newest is None or 0 < (seqnum - self._newest & 0xFFFFFFFF) < 0x80000000:
                self._newest = seqnum
            if early and seqnum in early:
                self._answer_overtaken(seqnum)
                continue
            if waiting and (len(waiting) >= limits.transfers or pending.bytes + length > limits.bytes_in_flight):
                # Not in its order: behind parked reads it would wait for them, and they for room.
                if count > 0:
                    transfer.packets = iso_packets(view[descriptors:after])
                self._reply(Submit(seqnum, transfer, (start_frame, packets)), Completion(Status.NO_MEMORY))
                continue
            self._current = event = Submit(seqnum, transfer, (start_frame, packets))
            if ep == 0 or count > 0 or ep > 15 or length > limits.transfer_bytes:
                event = self._unusual(event, ep, setup, start_frame, view[descriptors:after])
                if event is None:
                    continue
            try:
                yield event
            finally:
                current = self._current
                if current is not None:  # the device answers later
                    self._current = None
                    pending.add(current)

    def _unusual(
        self,
        asked: Submit,
        ep: int,
        setup: bytes,
        start_frame: int,
        descriptors: memoryview,
    ) -> Event | None:
        """Control and isochronous transfers, and what no device needs to see: None when it was answered here."""
        tag, transfer = asked.tag, asked.transfer
        if len(descriptors):
            transfer.packets = iso_packets(descriptors)
            transfer.start_frame = 0 if transfer.flags & Flags.ISO_ASAP else start_frame
        if ep > 15:
            transfer.endpoint = transfer.endpoint & 0x80 | 0x10  # in the order of no endpoint that there is
            return self._refuse(tag, Status.STALL)
        if transfer.length > self._limits.transfer_bytes:
            return self._refuse(tag, Status.NO_MEMORY)
        if transfer.packets is not None and not _fits(transfer):
            return self._refuse(tag, Status.INVALID)
        return self._control(asked, setup) if ep == 0 else asked

    def _control(self, asked: Submit, raw: bytes) -> Event | None:
        """Where transfer_buffer_length and wLength differ (Windows clients), the smaller counts."""
        tag, transfer = asked.tag, asked.transfer
        setup = Setup.parse(raw)
        length = min(setup.length, transfer.length)
        if length and bool(setup.request_type & 0x80) != transfer.is_in:
            return self._refuse(tag, Status.STALL)
        if (setup.request_type, setup.request) == SET_ADDRESS:
            return self._refuse(tag, Status.OK)  # the bridge's own business, never the device's
        if is_port_reset(setup):
            return Reset(tag)
        if length != setup.length:
            raw = Setup(setup.request_type, setup.request, setup.value, setup.index, length).pack()
        if not transfer.is_in and length < transfer.length:
            transfer.data = transfer.data[:length]
        transfer.endpoint = 0x80 if length and transfer.is_in else 0
        transfer.length = length
        transfer.setup = raw
        return asked

    def _refuse(self, tag: int, status: Status) -> Event | None:
        """Answer without asking the device: there is no event."""
        self.complete(tag, Completion(status))
        return None

    # -- unlink -------------------------------------------------------------------------------------------------------

    def _unlink(self, command: int, seqnum: int, target: int) -> Event | None:
        if command != Command.CMD_UNLINK:
            raise ProtocolError(f"command {command:#x}, known are SUBMIT 1 and UNLINK 2")
        entry = self._pending.cancel(target, seqnum)
        if entry is not None:
            self._bound(target, entry.cancels)
            if entry.completion is None:
                return Cancel(target, entry.transfer)
            self._pending.release(entry)
            self._answer(entry)
        elif target in self._early:
            self._early[target][0].append(seqnum)
            self._bound(target, self._early[target][0])
        elif self._newest is None or 0 < (target - self._newest & 0xFFFFFFFF) < 0x80000000:
            self._hold(target, seqnum)
        else:
            self._say_unlinked(seqnum, 0)
        return None

    def _bound(self, target: int, cancels: Sequence[int]) -> None:
        if len(cancels) > self._limits.cancels:
            raise ProtocolError(f"{len(cancels)} unlinks of #{target}, the limit is {self._limits.cancels}")

    def _hold(self, target: int, seqnum: int) -> None:
        if len(self._early) >= self._limits.early_cancels:
            oldest = next(iter(self._early))
            self._drop_early(oldest, self._early[oldest][0])
        self._early[target] = ([seqnum], self._now)

    def _drop_early(self, target: int, cancels: list[int]) -> None:
        del self._early[target]
        for seqnum in cancels:
            self._say_unlinked(seqnum, 0)

    def _answer_overtaken(self, target: int) -> None:
        first, *rest = self._early.pop(target)[0]
        self._say_unlinked(first, ECONNRESET)
        for seqnum in rest:
            self._say_unlinked(seqnum, 0)

    # -- answers ------------------------------------------------------------------------------------------------------

    def _answer(self, entry: Entry) -> None:
        completion, cancels = entry.completion, entry.cancels
        assert completion is not None
        if cancels and completion.status == Status.CANCELLED and not completion.actual:
            self._say_unlinked(cancels[0], ECONNRESET)
            cancels = cancels[1:]
        else:
            self._reply(entry, completion)
        for seqnum in cancels:
            self._say_unlinked(seqnum, 0)

    def _reply(self, entry: Entry, completion: Completion) -> None:
        """RET_SUBMIT. The number of packets is the command's, whatever it was; data goes with IN alone.

        A device that gave more than was asked for babbled: Status.OVERFLOW, with what fits.
        """
        transfer = entry.transfer
        start_frame, packets = entry.asked
        if transfer.packets is not None:
            self._reply_iso(entry.tag, start_frame, transfer, completion)
            return
        status, length = completion.status, transfer.length
        data = completion.data if transfer.endpoint >= 0x80 else b""
        actual = len(data) or completion.actual
        if actual > length or (transfer.endpoint >= 0x80 and actual != len(data)):
            status, data = Status.OVERFLOW, data[:length]
            actual = len(data) if transfer.endpoint >= 0x80 else length
        number = 0 if status is _OK else ERRNO.get(status, EPROTO)
        self.outgoing.append(_pack_ret_submit(_RET_SUBMIT, entry.tag, number, actual, start_frame, packets, 0))
        self.outgoing_bytes += HEADER + len(data)
        if data:
            self.outgoing.append(data)

    def _reply_iso(self, seqnum: int, start_frame: int, transfer: Transfer, completion: Completion) -> None:
        """Data compact, descriptors with the submitted offsets and lengths, one for each packet whatever happened."""
        asked, status = transfer.packets or [], completion.status
        data = completion.data if transfer.is_in else b""
        if _agree(asked, completion, transfer.is_in):
            done = [(p.actual, p.status) for p in completion.packets or ()]
        else:  # refused or cancelled as a whole, or a device that contradicts itself
            status = Status.FAILED if status == _OK else status
            done, data = [(0, Status.NOT_DONE)] * len(asked), b""
        actual = sum(count for count, _ in done)
        errors = sum(one != _OK for _, one in done)
        number, frame = ERRNO.get(status, EPROTO), completion.start_frame or start_frame
        self._say(_pack_ret_submit(_RET_SUBMIT, seqnum, number, actual, frame, len(asked), errors))
        if data:
            self._say(data)
        pack = IsoDescriptor.STRUCT.pack
        pairs = zip(asked, done, strict=True)
        self._say(b"".join([pack(p.offset, p.length, count, ERRNO.get(one, EPROTO)) for p, (count, one) in pairs]))

    def _say_unlinked(self, seqnum: int, status: int) -> None:
        self._say(RetUnlink(Command.RET_UNLINK, seqnum, status).pack())

    def _say(self, chunk: Buffer) -> None:
        self.outgoing.append(chunk)
        self.outgoing_bytes += len(chunk)


def _fits(transfer: Transfer) -> bool:
    """Whether each packet lies in the buffer, and all together ask for no more than it holds."""
    packets = transfer.packets or ()
    inside = all(p.offset + p.length <= transfer.length for p in packets)
    return inside and sum(p.length for p in packets) <= transfer.length


def _agree(asked: list[IsoPacket], completion: Completion, is_in: bool) -> bool:
    """Whether a device's packets are those it was asked for, none with more than its length, and sum up to its data."""
    given = completion.packets or ()
    if len(given) != len(asked) or not all(0 <= g.actual <= p.length for g, p in zip(given, asked, strict=True)):
        return False
    return not is_in or sum(p.actual for p in given) == len(completion.data)
