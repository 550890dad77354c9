"""Calls of a session seen from the target: each is carried out at most once and answered exactly once (§7).

    early     came before an earlier one did: waits, for calls are carried out in the order of their identifiers
    open      is being carried out: a duplicate is told so
    replies   answered: a duplicate gets the same reply again, until the controller says that it has it
    tail      the same of what was answered last, where it went well, and nothing came between: an entry in two lists
              each, which costs a fourth of one in a table. `fold` makes replies of it, when something else is answered

Together they are the window that the controller was granted. Who goes beyond it breaks the protocol, so none of this
grows. A session is these tables; a new transport leaves `open` and `replies` as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from ...usb.transfer import Buffer
from ..errors import ProtocolError
from ..limits import Limits
from .framing import OVERHEAD, Assembly, part_total
from .messages import FIRST, MASK, Code

Reply = tuple[int, int, bytes, Buffer]  # bytes of the window; its code, what its body begins with, and its data
_BEHIND: Final = MASK // 2  # further ahead than this is behind


class Message(NamedTuple):
    """A call of the session, whole."""

    identifier: int
    number: int
    endpoint: int
    flags: int
    body: memoryview


class Ledger:
    """One session."""

    def __init__(self, limits: Limits, first: int = FIRST) -> None:
        self.expected = first  # identifier of the call that is carried out next
        self.open: dict[int, int] = {}  # identifier -> bytes of the window
        self.replies: dict[int, Reply] = {}  # by identifier
        self.tail = first  # identifier of the first of those that were answered last, plainly: one after the other
        self.costs: list[int] = []  # of each of them, bytes of the window
        self.datas: list[Buffer] = []  # and its data
        self.bytes = 0  # of the window in use
        self.early: dict[int, Message] = {}
        self.parts: dict[int, Assembly] = {}
        self._limits = limits
        self._early_bytes = 0

    def was_received(self, identifier: int) -> bool:
        """Whether a call of that identifier had its turn. Raises ProtocolError for one beyond the window."""
        ahead = identifier - self.expected & MASK
        if ahead > _BEHIND:
            return True
        if ahead >= self._limits.transfers:
            raise ProtocolError(f"call #{identifier}, due is #{self.expected}, granted are {self._limits.transfers}")
        return False

    def calls(self) -> int:
        """How many of the window are in use."""
        return len(self.open) + len(self.replies) + len(self.costs)

    def fold(self) -> None:
        """Put the tail among the replies."""
        for at, (cost, data) in enumerate(zip(self.costs, self.datas, strict=True), self.tail):
            self.replies[at & MASK] = (cost, 0, b"", data)
        self.costs.clear()  # in place, for the exporter goes on with them
        self.datas.clear()

    def again(self, identifier: int) -> Reply | Code:
        """What to say to a duplicate."""
        self.fold()
        if identifier in self.replies:
            return self.replies[identifier]
        return Code.IN_PROGRESS if identifier in self.open else Code.FORGOTTEN

    def join(self, identifier: int, body: memoryview) -> Message | None:
        """Put a PART in its place; the call, once it is whole. Raises ProtocolError."""
        if identifier in self.early:
            return None
        assembly = self.parts.get(identifier)
        if assembly is None:
            total = part_total(body, self._limits.transfer_bytes + OVERHEAD)
            if total + sum(one.total for one in self.parts.values()) > self._limits.bytes_in_flight + OVERHEAD:
                raise ProtocolError(f"calls in parts of more than the {self._limits.bytes_in_flight} bytes granted")
            assembly = self.parts[identifier] = Assembly(total)
        if not assembly.add(body):
            return None
        del self.parts[identifier]
        whole = assembly.whole
        return Message(identifier, whole[0], whole[1], int.from_bytes(whole[2:4], "big"), whole[4:])

    def is_early(self, message: Message) -> bool:
        """Whether a call came before its turn; then it is kept, where there is room, or comes once more."""
        if message.identifier == self.expected:
            return False
        size = self._early_bytes + len(message.body)
        if message.identifier not in self.early and size <= self._limits.bytes_in_flight:
            self.early[message.identifier] = message._replace(body=memoryview(bytes(message.body)))
            self._early_bytes = size
        return True

    def has_next(self) -> bool:
        """Whether the call whose turn it is came before."""
        return bool(self.early) and self.expected in self.early

    def take_next(self) -> Message:
        message = self.early.pop(self.expected)
        self._early_bytes -= len(message.body)
        return message

    def begin(self, identifier: int) -> None:
        """A call's turn has come. Raises ProtocolError when it is one more than was granted."""
        if self.calls() >= self._limits.transfers:
            raise ProtocolError(f"more calls without acknowledgement than the {self._limits.transfers} granted")
        if self.parts:
            self.parts.pop(identifier, None)  # of a duplicate
        self.expected = identifier + 1 & MASK
        self.later(identifier, 0)

    def later(self, identifier: int, cost: int) -> None:
        """A call is answered later, so what is answered before it is not at the tail any more."""
        if self.costs:
            self.fold()
        self.open[identifier] = cost

    def charge(self, identifier: int, cost: int) -> None:
        """A transfer takes this many bytes of the window. Raises ProtocolError when there are not as many.

        Then its call has not begun: another transport may bring it again, when there is room.
        """
        used = self.bytes + cost
        if used > self._limits.bytes_in_flight:
            del self.open[identifier]
            self.expected = identifier
            raise ProtocolError(f"{used} bytes without acknowledgement, granted are {self._limits.bytes_in_flight}")
        self.bytes = used
        self.open[identifier] = cost

    def answer(self, identifier: int, code: int, head: bytes, data: Buffer) -> None:
        """A call has its reply."""
        if self.costs:
            self.fold()
        self.replies[identifier] = (self.open.pop(identifier), code, head, data)

    def acknowledge(self, runs: Iterable[tuple[int, int]]) -> None:
        """The controller has these replies, of each run the first and last. Raises ProtocolError for more than can be:
        what one heartbeat costs is bounded by what was granted, not by what fits a record.
        """
        counted = [(first, (last - first & MASK) + 1) for first, last in runs]
        named = sum(count for _, count in counted)
        if named > self._limits.transfers:
            raise ProtocolError(f"an acknowledgement of {named} replies, granted are {self._limits.transfers}")
        for first, count in counted:
            if self.costs:
                self._acknowledge_tail(first, count)
            if self.replies:
                self._acknowledge_replies(range(first, first + count))

    def _acknowledge_tail(self, first: int, count: int) -> None:
        """From its beginning on, as it goes nearly always."""
        ahead = self.tail - first & MASK  # of the tail's first, in the run
        if ahead < count:
            done = min(count - ahead, len(self.costs))
            self.bytes -= sum(self.costs[:done])
            self.tail = self.tail + done & MASK
            del self.costs[:done], self.datas[:done]
        elif first - self.tail & MASK < len(self.costs):
            self.fold()

    def _acknowledge_replies(self, run: range) -> None:
        replies, freed = self.replies, 0
        for number in run:
            reply = replies.pop(number & MASK, None)
            if reply is not None:
                freed += reply[0]
        self.bytes -= freed

    def resume(self, outstanding: tuple[int, ...]) -> list[int]:
        """The controller has a new transport, and all replies but these; those among them that it will never get."""
        self.fold()
        self.early, self._early_bytes, self.parts = {}, 0, {}
        for identifier in self.replies.keys() - set(outstanding):
            self.bytes -= self.replies.pop(identifier)[0]
        known = self.replies.keys() | self.open.keys()
        return [one for one in outstanding if one not in known and one - self.expected & MASK > _BEHIND]
