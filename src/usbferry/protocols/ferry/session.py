"""The claim of one device, seen from the target: calls in, events out, replies back. It outlives its transports.

    call -> ledger: at most once, in order -> gates: SHORT_NOT_OK -> Submit -> pending: replies in order -> ledger

What a transport is told goes through `say`, which the exporter gives; while there is none, replies wait in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import error as struct_error
from typing import Final

from ...usb.info import DeviceInfo
from ...usb.setup import Setup, is_port_reset
from ...usb.transfer import Buffer, Completion, Transfer
from ...usb.types import Status
from ..events import AllocStreams, Cancel, Describe, Event, FreeStreams, Release, Reset, Submit, Suspend, Wake
from ..limits import Limits
from ..pending import Entry, Pending
from . import infos
from .gates import Gates
from .ledger import Ledger, Message
from .messages import (
    SESSION_CALLS,
    TRANSPORT_CALLS,
    Call,
    Code,
    WireFlags,
    cost,
    parse_words,
    standard_request,
)
from .transfers import decode, encode_reply, is_bulk

_PART: Final = int(Call.PART)
_RESTART: Final = int(WireFlags.RESTART)
NO_TRANSFER: Final = Transfer(0, 0)  # stands for calls that are none, in the order of control transfers


class Session:
    """One claim, from its acceptance to its end."""

    def __init__(self, limits: Limits, token: bytes, first: int, say: Callable[..., None]) -> None:
        self.token = token
        self.gates = Gates()
        self.ledger = Ledger(limits, first)
        self.pending = Pending()
        self._limits = limits
        self._say = say
        self._current: Submit | None = None  # the submit that was just emitted
        self._describe = 0  # identifiers of calls that wait
        self._release: int | None = None
        self._is_over = False  # by RELEASE, or with the device: nothing is carried out after it

    @property
    def in_flight(self) -> int:
        """Calls that have no reply yet."""
        return len(self.ledger.open)

    @property
    def expected(self) -> int:
        """Identifier of the call that is due next."""
        return self.ledger.expected

    # -- calls --------------------------------------------------------------------------------------------------------

    def take(self, message: Message) -> Event | None:
        """What a call leads to; `follow` has what waited for it. Raises ProtocolError for one beyond the window."""
        if self.ledger.was_received(message.identifier):
            self._again(message.identifier)
            return None
        whole: Message | None = message
        if message.number == _PART:
            whole = self.ledger.join(message.identifier, message.body)
        return None if whole is None or self.ledger.is_early(whole) else self._carry_out(whole)

    def is_simple(self) -> bool:
        """Whether calls are carried out as they come: nothing came early or in parts, no queue waits or is stopped."""
        gates, ledger = self.gates, self.ledger
        return not (gates.ready or gates.held or gates.stopped or ledger.early or ledger.parts)

    def has_more(self) -> bool:
        """Whether `follow` has something."""
        return bool(self.gates.ready or self.ledger.has_next()) and not self._is_over

    def follow(self) -> Event | None:
        """What has become possible: a submit that waited for its queue, a call that came too early."""
        if self.gates.ready:
            return Submit(*self.gates.ready.popleft())
        return self._carry_out(self.ledger.take_next())

    def emitted(self) -> tuple[int, Transfer] | None:
        """What `take` or `follow` gave is at the device, and answered by now, or later: a transfer is returned then."""
        waits, self._current = self._current, None
        if waits is None:
            return None
        self.pending.add(waits)
        return waits.tag, waits.transfer

    def _again(self, identifier: int) -> None:
        """A call that was received before."""
        answer = self.ledger.again(identifier)
        self._say(identifier, *((answer, b"", b"") if isinstance(answer, Code) else answer[1:]))

    def _carry_out(self, message: Message) -> Event | None:
        """A call whose turn has come."""
        self.ledger.begin(message.identifier)
        handler = _HANDLERS.get(message.number)
        if handler is None:
            code = Code.MALFORMED if message.number in TRANSPORT_CALLS else Code.UNKNOWN_CALL
            self._final(message.identifier, code)
            return None
        try:
            return handler(self, message)
        except (struct_error, ValueError):
            self._final(message.identifier, Code.MALFORMED)
            return None

    def _transfer(self, message: Message) -> Event | None:
        """CONTROL, BULK, ISOCHRONOUS, INTERRUPT."""
        transfer = decode(*message[1:], self._limits)
        if transfer.setup:
            setup = Setup.parse(transfer.setup)
            if is_port_reset(setup):
                return self._reset(message)
            self.gates.heard(setup)
        if transfer.length > self._limits.transfer_bytes:
            self._final(message.identifier, *encode_reply(transfer, Completion(Status.NO_MEMORY)))
            return None
        self.ledger.charge(message.identifier, cost(transfer))
        if message.flags & _RESTART:
            self.gates.restart(transfer)
        return self._submit(message.identifier, transfer)

    def _standard(self, message: Message) -> Event | None:
        """SET_CONFIGURATION, SET_INTERFACE, CLEAR_HALT: the same as the standard requests."""
        setup = standard_request(message.number, message.body)
        self.gates.heard(setup)
        return self._submit(message.identifier, Transfer(0, 0, b"", setup.pack()))

    def _submit(self, identifier: int, transfer: Transfer) -> Event | None:
        if self.gates.passes(identifier, transfer):
            self._current = Submit(identifier, transfer)
            return self._current
        transfer.data = bytes(transfer.data)  # it was lent, and waits
        self.pending.add(Entry(identifier, transfer))
        if self.gates.is_stopped(transfer):
            self.complete(identifier, Completion(Status.CANCELLED))
        return None

    def _unlink(self, message: Message) -> Event | None:
        [target] = parse_words(message.body, 0, 1)
        entry = self.pending.cancel(target, message.identifier)
        if entry is None:
            self._final(message.identifier, Code.NO_SUCH_CALL)
        elif entry.completion is not None:  # held back for its order
            self.pending.release(entry)
            self._finish_entry(entry)
        elif self.gates.withdraw(target, entry.transfer):
            self.complete(target, Completion(Status.CANCELLED))
        else:
            return Cancel(target, entry.transfer)
        return None

    def _reset(self, message: Message) -> Event:
        self.gates.restart_all()
        self.pending.add(Entry(message.identifier, NO_TRANSFER))
        return Reset(message.identifier)

    def _alloc_streams(self, message: Message) -> Event:
        [count] = parse_words(message.body[:4], 0, 1)
        self.pending.add(Entry(message.identifier, NO_TRANSFER))
        return AllocStreams(message.identifier, tuple(message.body[4:]), count)

    def _free_streams(self, message: Message) -> Event:
        self.pending.add(Entry(message.identifier, NO_TRANSFER))
        return FreeStreams(message.identifier, tuple(message.body))

    def _suspend(self, message: Message) -> Event:
        self._final(message.identifier, Code.OK)
        return Suspend()

    def _wake(self, message: Message) -> Event:
        self._final(message.identifier, Code.OK)
        return Wake()

    def _release_claim(self, message: Message) -> Event:
        self._release, self._is_over = message.identifier, True
        return Release()

    def _describe_device(self, message: Message) -> Event:
        self._describe = message.identifier
        return Describe()

    # -- answers ------------------------------------------------------------------------------------------------------

    def complete(self, tag: int, completion: Completion) -> None:
        """A transfer ended. The reply may wait for earlier ones on its endpoint; an unknown tag is ignored."""
        current = self._current
        if current is not None and current.tag == tag:
            self._current = None
            if not self.pending.waits_on(current.transfer):
                self.finish(tag, current.transfer, completion)
                return
            self.pending.add(current)
        alone = self.pending.finish_alone(tag)
        if alone is not None:
            self.finish(tag, alone.transfer, completion)
            return
        for entry in self.pending.finish(tag, completion):
            self._finish_entry(entry)

    def described(self, info: DeviceInfo) -> None:
        """Answer DESCRIBE."""
        self._final(self._describe, Code.OK, infos.pack(info, self._limits))

    def released(self) -> None:
        """Answer RELEASE, after all that is pending."""
        assert self._release is not None
        self.end_all(Status.SHUTDOWN)
        self._final(self._release, Code.OK)

    def end_all(self, status: Status) -> None:
        """End what a device that left has not answered, and what never got to it."""
        self._is_over = True
        self.gates.clear()
        for entry in tuple(self.pending):
            self.complete(entry.tag, Completion(status))

    def acknowledge(self, runs: Iterable[tuple[int, int]]) -> None:
        """The controller has these replies, by the first and last of each run. Raises ProtocolError for too many."""
        self.ledger.acknowledge(runs)

    def resume(self, outstanding: tuple[int, ...]) -> None:
        """Say on a new transport, whose controller lacks the replies to `outstanding`, those there are."""
        lost = self.ledger.resume(outstanding)
        for identifier, reply in self.ledger.replies.items():
            self._say(identifier, *reply[1:], True)  # in the order in which they were given
        for identifier in lost:
            self._say(identifier, Code.FORGOTTEN, b"", b"")

    def _finish_entry(self, entry: Entry) -> None:
        """A transfer's reply comes before those of the unlinks that wanted its end."""
        assert entry.completion is not None
        self.finish(entry.tag, entry.transfer, entry.completion)
        for identifier in entry.cancels:
            self._final(identifier, Code.OK, bulk=is_bulk(entry.transfer))

    def finish(self, identifier: int, transfer: Transfer, completion: Completion) -> None:
        """A transfer's reply, whose turn it is."""
        self._final(identifier, *encode_reply(transfer, completion), bulk=is_bulk(transfer))
        for behind in self.gates.ended(identifier, transfer, completion.status):
            self.complete(behind, Completion(Status.CANCELLED))

    def _final(self, identifier: int, code: int, head: bytes = b"", data: Buffer = b"", *, bulk: bool = False) -> None:
        """A call's reply, kept until it is acknowledged."""
        self.ledger.answer(identifier, code, head, data)
        self._say(identifier, code, head, data, bulk)


_HANDLERS: Final[dict[int, Callable[[Session, Message], Event | None]]] = {
    Call.RELEASE: Session._release_claim,
    Call.CONTROL: Session._transfer,
    Call.BULK: Session._transfer,
    Call.ISOCHRONOUS: Session._transfer,
    Call.INTERRUPT: Session._transfer,
    Call.UNLINK: Session._unlink,
    Call.RESET: Session._reset,
    Call.SET_CONFIGURATION: Session._standard,
    Call.SET_INTERFACE: Session._standard,
    Call.CLEAR_HALT: Session._standard,
    Call.SUSPEND: Session._suspend,
    Call.WAKE: Session._wake,
    Call.ALLOC_STREAMS: Session._alloc_streams,
    Call.FREE_STREAMS: Session._free_streams,
    Call.DESCRIBE: Session._describe_device,
}
assert set(_HANDLERS) == SESSION_CALLS
