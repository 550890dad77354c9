"""Transfers in flight: the one place that keeps order per (endpoint, stream) and decides who wins a cancel.

The rules, the same for every protocol:

- Answers of one (endpoint, stream) leave in the order of submission. A completion that comes before an earlier
  transfer's is held back.
- A cancel never changes a result. What the device reports is the truth: CANCELLED means it did not happen (or only
  `actual` bytes of it), anything else means it did.
- A cancelled transfer leaves the order at once. Hosts kill the last of a queue first and wait for it, so an answer held
  back behind an earlier, parked transfer would hang them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from ..usb.transfer import Completion, Transfer


class Entry:
    """One transfer. In flight it has a `queue`, perhaps a `completion` that is held back, and what wants its end."""

    __slots__ = ("asked", "cancels", "completion", "queue", "tag", "transfer")

    cancels: Sequence[int]  # tags of the cancel requests that wait for its end, oldest first
    completion: Completion | None
    queue: deque[Entry]  # of its endpoint and stream

    def __init__(self, tag: int, transfer: Transfer, asked: Any = None) -> None:
        self.tag = tag
        self.transfer = transfer
        self.asked = asked  # what the protocol needs for the answer


class Pending:
    """The transfers of one claim that have no answer yet. Tags are unique among them."""

    __slots__ = ("_queues", "bytes", "entries")

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}  # by tag
        self._queues: dict[int | tuple[int, int], deque[Entry]] = {}  # by `_key`, none of them empty
        self.bytes = 0  # sum of the transfers' lengths

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, tag: int) -> bool:
        return tag in self.entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def waits_on(self, transfer: Transfer) -> bool:
        """Whether an earlier transfer on the same (endpoint, stream) has no answer yet."""
        return _key(transfer) in self._queues

    def add(self, entry: Entry) -> None:
        """Note a transfer. Raises ValueError when its tag is in flight already."""
        tag, transfer = entry.tag, entry.transfer
        if tag in self.entries:
            raise ValueError(f"tag {tag} is in flight already")
        key = _key(transfer) if transfer.stream_id else transfer.endpoint
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = deque()
        self.entries[tag] = entry
        entry.queue, entry.completion, entry.cancels = queue, None, ()
        queue.append(entry)
        self.bytes += transfer.length

    def cancel(self, tag: int, cancel_tag: int) -> Entry | None:
        """Note that `cancel_tag` asks for the end of `tag`; its entry, or None when it has been answered already.

        An entry that comes back with a completion was held back for order: `release` it and answer it now.
        """
        entry = self.entries.get(tag)
        if entry is not None:
            entry.cancels = (*entry.cancels, cancel_tag)
        return entry

    def finish(self, tag: int, completion: Completion) -> list[Entry]:
        """Note the end of a transfer; the entries to answer now, in order. An unknown tag gives none."""
        entry = self.entries.get(tag)
        if entry is None or entry.completion is not None:
            return []
        entry.completion = completion
        queue = entry.queue
        if entry.cancels:
            self.release(entry)
            return [entry, *self._ready(queue)]
        if queue[0] is not entry:
            if completion.data.__class__ is memoryview:  # it may be lent
                completion.data = bytes(completion.data)
            return []
        return self._ready(queue)

    def finish_alone(self, tag: int) -> Entry | None:
        """The same where it is all of what `finish` would give, and nobody cancelled it: as it goes nearly always.

        None, and nothing is noted, where it is not so.
        """
        entry = self.entries.get(tag)
        if entry is None or entry.cancels:
            return None
        queue = entry.queue
        if queue[0] is not entry or (len(queue) > 1 and queue[1].completion is not None):
            return None
        queue.popleft()
        del self.entries[tag]  # from here on as `_forget`, without a call that each transfer would pay for
        transfer = entry.transfer
        self.bytes -= transfer.length
        if not queue:
            del self._queues[_key(transfer)]
        return entry

    def before(self, tag: int) -> Iterator[Entry]:
        """The entries that hold `tag` back, oldest first; none where it has left."""
        entry = self.entries.get(tag)
        return takewhile(lambda one: one is not entry, entry.queue) if entry is not None else iter(())

    def release(self, entry: Entry) -> None:
        """Take one entry out of its order."""
        entry.queue.remove(entry)
        self._forget(entry)

    def _ready(self, queue: deque[Entry]) -> list[Entry]:
        """What may leave now of an endpoint and stream."""
        ready: list[Entry] = []
        while queue and queue[0].completion is not None:
            ready.append(queue.popleft())
            self._forget(ready[-1])
        return ready

    def _forget(self, entry: Entry) -> None:
        """It has left its queue."""
        del self.entries[entry.tag]
        transfer = entry.transfer
        self.bytes -= transfer.length
        if not entry.queue:
            del self._queues[_key(transfer)]


def _key(transfer: Transfer) -> int | tuple[int, int]:
    return (transfer.endpoint, transfer.stream_id) if transfer.stream_id else transfer.endpoint
