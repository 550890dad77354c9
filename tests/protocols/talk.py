"""The conversation that all protocols' exporters are tested by; what each protocol says is in its own `wire.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from usbferry.protocols.events import Event, Submit
from usbferry.usb.transfer import Completion, Transfer


class Talk:
    """An exporter between an importer and a device, both played by the test."""

    def __init__(self, exporter: Any, text: Callable[[Event], str]) -> None:
        self.exporter = exporter
        self.now = 0.0
        self.at_once: Callable[[Transfer], Completion | None] = lambda transfer: None  # a device that knows the answer
        self.transfers: dict[int, Transfer] = {}  # tag -> what the device was asked for last under it
        self.payloads: dict[int, bytes] = {}  # what it was lent
        self._text = text  # an event in words
        self.held = b""  # what arrived and was not consumed
        self._asked: list[str] = []

    def says(self, *messages: bytes, step: int = 0) -> Self:
        """The importer sends; `step` bytes arrive at a time, or all."""
        data = b"".join(messages)
        size = step or len(data) or 1
        for at in range(0, len(data) or 1, size):
            self._arrive(data[at : at + size])
        return self

    def goes_on(self) -> Self:
        """The pump looks again, without new bytes."""
        self._arrive(b"")
        return self

    def _arrive(self, data: bytes) -> None:
        buffer = bytearray(self.held + data)
        self.exporter.receive(memoryview(buffer), self.now)
        try:
            for event in self.exporter.events():
                self._take(event)
        finally:
            self.held = bytes(buffer[self.exporter.consumed :])
            buffer[:] = b"\xee" * len(buffer)  # it was lent, and is used again

    def _take(self, event: Event) -> None:
        self._asked.append(self._text(event))
        if isinstance(event, Submit):
            self.transfers[event.tag] = event.transfer
            self.payloads[event.tag] = bytes(event.transfer.data)
            answer = self.at_once(event.transfer)
            if answer is not None:
                self.exporter.complete(event.tag, answer)

    def asks(self, *events: str) -> Self:
        """What the pump was asked for since, all of it."""
        asked, self._asked = self._asked, []
        assert asked == list(events)
        return self

    def does(self, tag: int, completion: Completion) -> Self:
        """The device answers a transfer."""
        self.exporter.complete(tag, completion)
        return self

    def takes(self) -> bytes:
        """What the importer gets since."""
        heard, self.exporter.outgoing = b"".join(self.exporter.outgoing), []
        assert len(heard) == self.exporter.outgoing_bytes
        self.exporter.outgoing_bytes = 0
        return heard

    def hears(self, *messages: bytes) -> Self:
        """What the importer gets since, every byte."""
        assert self.takes() == b"".join(messages)
        return self

    def waits(self, seconds: float) -> Self:
        """Time passes."""
        self.now += seconds
        self.exporter.tick(self.now)
        return self

    @property
    def unread(self) -> int:
        """Bytes that arrived and were not consumed."""
        return len(self.held)
