"""Devices that people drive: by lines of text from a FIFO, a file or standard input.

    class Dial(DrivenHid[int]):
        verbs = {"turn": Verb(whole)}

        def turn(self, degrees: int) -> None: ...

    echo "turn -5   # to the left" >fifo

A line is a verb, which is a method, and its words; `#` begins a comment. Each line waits until the host has fetched
what the one before did, where a device can tell.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import ClassVar, Final

from .bridges.feed import Feed
from .clock import Clock
from .virtual import VirtualDevice

log: Final = logging.getLogger(__name__)


class Verb:
    """What makes each word of a line what the method takes; words beyond the first `least` may be left out."""

    def __init__(self, *kinds: Callable[[str], object], least: int | None = None) -> None:
        self.kinds = kinds
        self.least = len(kinds) if least is None else least


class Driven(VirtualDevice):
    """`pipe` is a FIFO, a file, or `-` for standard input. A FIFO's lines wait for the next host; a file begins anew
    with each."""

    verbs: ClassVar[Mapping[str, Verb]] = {}

    def __init__(self, *, pipe: str = "", clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
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

    async def flushed(self) -> object:
        """Wait until the host has what was done so far."""

    async def plugged(self) -> None:
        self._feed = Feed(self._pipe) if self._pipe else None

    async def unplugged(self) -> None:
        if self._feed is not None:
            self._feed.close()

    async def opened(self) -> None:
        if self._feed is not None:
            self._feed.rewind()
            self.later(self.follow(self._feed))


def whole(text: str) -> int:
    """A word that is a whole number. Raises ValueError."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None
