"""What a host has not heard of yet: objects that came to folders which it has listed, or left them.

What it did itself is no news to it.
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import Final

from .codes import ROOT, Event, Kind, Operation, Response
from .packing import container
from .responder import Reply, Request

_MOST_FOLDERS: Final = 1000
_MOST_EVENTS: Final = 256  # that it has not fetched
_MOST_OWN: Final = 10_000
_U32: Final = Struct("<I")


class News:
    """Of one host. `events` are containers for it."""

    def __init__(self) -> None:
        self.events: deque[bytes] = deque()
        self._known: dict[int, set[int]] = {}  # what it was told is in each folder
        self._stamps: dict[int, int] = {}  # of the folders, when they were looked at last
        self._own: set[int] = set()  # what it has changed itself

    def folders(self) -> tuple[int, ...]:
        """Those that it knows, 0 is the storage."""
        return tuple(self._known)

    def done(self, command: Request, reply: Reply) -> None:
        """An operation ended: what it told, or did."""
        if reply.code != Response.OK:
            return
        if command.code == Operation.GET_OBJECT_HANDLES:
            self._told(command, reply)
        elif command.code == Operation.SEND_OBJECT_INFO:
            self._own.add(reply.parameters[2])
        elif command.code == Operation.DELETE_OBJECT:
            self._own.add(command.parameters[0])
        if len(self._own) > _MOST_OWN:
            self._own.clear()

    def _told(self, command: Request, reply: Reply) -> None:
        _, format, parent, *_ = (*command.parameters, 0, 0, 0)
        if parent and not format and len(self._known) < _MOST_FOLDERS and isinstance(reply.data, bytes):
            handles = {handle for (handle,) in _U32.iter_unpack(reply.data[4:])}
            self._known[0 if parent == ROOT else parent] = handles

    def stamp(self, parent: int) -> int:
        """That of the last look, 0 where there was none."""
        return self._stamps.get(parent, 0)

    def seen(self, parent: int, stamp: int, now: set[int]) -> None:
        """What is in a folder now."""
        self._stamps[parent] = stamp
        former, self._known[parent] = self._known.get(parent, set()), now
        for event, handles in ((Event.OBJECT_ADDED, now - former), (Event.OBJECT_REMOVED, former - now)):
            for handle in sorted(handles):
                if handle in self._own:
                    self._own.discard(handle)
                elif len(self.events) < _MOST_EVENTS:
                    self.events.append(container(Kind.EVENT, event, 0, handle))
