"""HID devices that people drive by lines of text, see `devices.driven`; and those whose changes are whole states."""

from __future__ import annotations

from typing import TypeVar

from ..clock import Clock
from ..driven import Driven
from .device import HidDevice

T = TypeVar("T")


class DrivenHid(HidDevice[T], Driven):
    """`pipe` is a FIFO, a file, or `-` for standard input; `delay` the seconds before a host gets the first change.

    Raises ValueError for a delay that is none. A FIFO's lines wait for the next host; a file begins anew with each.
    """

    def __init__(self, *, pipe: str = "", delay: float = 1.0, clock: Clock | None = None) -> None:
        if not 0 <= delay < float("inf"):
            raise ValueError("delay is 0 or more")
        super().__init__(clock=clock)
        self.delay = delay
        self._pipe = pipe


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
