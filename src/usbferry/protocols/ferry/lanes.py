"""Records on their way out: while the transport has enough to do, bulk ones wait here, and all others pass them.

bulk reply in parts --> backlog --[room]--> outgoing --> transport
any other ------------------------------------^
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ...usb.transfer import Buffer
from .framing import MARKER, STREAM, Way

ENOUGH: Final = 128 * 1024  # bytes that the transport has not sent: more would only make others wait
BURST: Final = 1024 * 1024  # given to one that has sent all; less in proportion to what it has not


class Lanes:
    """What one side has to say on one transport."""

    __slots__ = ("_backlog", "_room", "_way", "outgoing", "outgoing_bytes")

    def __init__(self) -> None:
        self.outgoing: list[Buffer] = []  # taken and cleared by the pump
        self.outgoing_bytes = 0
        self._way: Way = STREAM
        self._room = BURST  # for bulk in `outgoing`
        self._backlog: deque[tuple[int, list[Buffer]]] = deque()  # records and their bytes

    def _clear(self) -> None:
        """The transport is lost, with all that was to go there."""
        self.outgoing, self.outgoing_bytes = [], 0
        self._backlog.clear()

    def _say_records(self, chunks: list[Buffer]) -> None:
        """What nobody wants to wait for."""
        self.outgoing += chunks
        self.outgoing_bytes += sum(map(len, chunks))

    def _say_bulk(self, chunks: list[Buffer]) -> None:
        """Records that let others pass."""
        record, missing = list[Buffer](), 0
        for chunk in chunks:
            if not missing:
                size = missing = MARKER + int.from_bytes(chunk[:MARKER], "big")
            record.append(chunk)
            missing -= len(chunk)
            if not missing:
                self._backlog.append((size, record))
                record = []
        self._go_on()

    def _go_on(self) -> None:
        """Let as much of the backlog go as there is room for."""
        self._measure()
        room = self._room
        backlog = self._backlog
        while backlog and self.outgoing_bytes < room:
            size, chunks = backlog.popleft()
            self.outgoing += chunks
            self.outgoing_bytes += size

    def _measure(self) -> None:
        """How much bulk the transport wants now."""
        self._room = BURST - self._way.unsent * (BURST // ENOUGH)

    def _may_go_on(self) -> bool:
        """Whether there is room for the backlog."""
        return self._way.unsent < ENOUGH

    def _finish_backlog(self) -> None:
        """What comes next is said after all that."""
        for size, chunks in self._backlog:
            self.outgoing += chunks
            self.outgoing_bytes += size
        self._backlog.clear()
