"""HID devices that people drive: by lines of text from a FIFO, a file or standard input.

    class Dial(DrivenHid[int]):
        verbs = {"turn": Verb(whole)}

        def turn(self, degrees: int) -> None: ...

    echo "turn -5   # to the left" >fifo

A line is a verb, which is a method, and its words; `#` begins a comment. Each line waits until the host has fetched
what the one before did.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import ClassVar, Final, TypeVar

from ..bridges.feed import Feed
from ..clock import Clock
from .device import HidDevice

log: Final = logging.getLogger(__name__)
T = TypeVar("T")


class Verb:
    """What makes each word of a line what the method takes; words beyond the first `least` may be left out."""

    def __init__(self, *kinds: Callable[[str], object], least: int | None = None) -> None:
        self.kinds = kinds
        self.least = len(kinds) if least is None else least


class DrivenHid(HidDevice[T]):
    """`pipe` is a FIFO, a file, or `-` for standard input; `delay` the seconds before a host gets the first change.

    Raises ValueError for a delay that is none. A FIFO's lines wait for the next host; a file begins anew with each.
    """

    verbs: ClassVar[Mapping[str, Verb]] = {}

    def __init__(self, *, pipe: str = "", delay: float = 1.0, clock: Clock | None = None) -> None:
        if not 0 <= delay < float("inf"):
            raise ValueError("delay is 0 or more")
        super().__init__(clock=clock)
        self.delay = delay
        self._pipe = pipe
        self._feed: Feed | None = None

    def obey(self, line: str) -> None:
        """Do what a line of the pipe says. Raises ValueError for one that makes no sense."""
        words = line.partition("#")[0].split()
        if not words:
            return
        name, *values = words
        verb = self.verbs.get(name)
        if verb is None:
            raise ValueError(f"{name!r} is none of {', '.join(self.verbs)}")
        if not verb.least <= len(values) <= len(verb.kinds):
            most = len(verb.kinds)
            raise ValueError(f"{name} takes {most} word{'s' * (most != 1)}, not {len(values)}")
        getattr(self, name)(*(kind(value) for kind, value in zip(verb.kinds, values, strict=False)))

    async def follow(self, feed: Feed) -> None:
        """Obey each line when the host has what the one before did."""
        while (line := await feed.line()) is not None:
            try:
                self.obey(line)
            except ValueError as error:
                log.warning("%s: %r: %s", self.product, line, error)
            else:
                await self.flushed()

    async def plugged(self) -> None:
        self._feed = Feed(self._pipe) if self._pipe else None

    async def unplugged(self) -> None:
        if self._feed is not None:
            self._feed.close()

    async def opened(self) -> None:
        if self._feed is not None:
            self._feed.rewind()
            self.later(self.follow(self._feed))


class StateHid(DrivenHid[T]):
    """One whose changes are whole states: each says everything that the host is told."""

    at_rest: T  # where it begins with each host

    def __init__(self, *, pipe: str = "", delay: float = 1.0, clock: Clock | None = None) -> None:
        self.told = self.now = self.at_rest  # what the host knows, and what it knows once it has fetched the queue
        super().__init__(pipe=pipe, delay=delay, clock=clock)

    def report(self, state: T) -> bytes:
        """The input report of a state."""
        raise NotImplementedError

    def change(self, state: T) -> None:
        """Let the host fetch this state after those before it."""
        self.now = state
        self.queue(state)

    def encode(self, change: T) -> tuple[bytes, None]:
        self.told = change
        return self.report(change), None

    def current_report(self) -> bytes:
        return self.report(self.told)

    async def closed(self) -> None:
        await super().closed()
        self.told = self.now = self.at_rest


def whole(text: str) -> int:
    """A word that is a whole number. Raises ValueError."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None
