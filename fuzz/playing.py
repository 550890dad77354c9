"""What the fuzz harnesses of all importers share: one that hears what an input says, and is checked at every step."""

from __future__ import annotations

from typing import Any

from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.events import Completed, Event
from usbferry.protocols.openings import Stranger
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.types import Status


class Player:
    """An importer and its user. A subclass puts it where an input begins, and says what else it may tell."""

    def __init__(self, importer: Any) -> None:
        self.importer = importer
        self.sent: dict[int, Transfer] = {}  # tag -> what waits for its answer
        self.held = bytearray()  # what arrived and was not consumed
        self.told: list[str] = []

    def submit(self, chosen: list[Transfer], flying: int, cancelled: int) -> None:
        """Submit those whose bit is in `flying`, and cancel of these, as they are counted, those in `cancelled`."""
        flown = [transfer for bit, transfer in enumerate(chosen) if flying >> bit & 1]
        self.sent = {self.importer.submit(transfer): transfer for transfer in flown}
        for bit, tag in enumerate(tuple(self.sent)):
            if cancelled >> bit & 1 and self.importer.cancel(tag) is not None:
                del self.sent[tag]

    def hear(self, data: bytes) -> bool:
        """Bytes arrive; whether the connection goes on."""
        importer = self.importer
        self.held += data
        lent = bytearray(self.held)
        importer.receive(memoryview(lent), 0.0)
        try:
            for event in importer.events():
                self.told.append(self._tell(event))
        except ProtocolError as broken:
            text = str(broken)
            assert text
            assert "\n" not in text
            self.told.append("a stranger" if isinstance(broken, Stranger) else f"error: {text}")  # named by all he said
            return False
        finally:
            lent[:] = b"\xee" * len(lent)  # it was lent, and is used again
        assert 0 <= importer.consumed <= len(self.held)
        del self.held[: importer.consumed]
        assert importer.outgoing_bytes == sum(map(len, importer.outgoing))
        self.check_needs(importer.needed)
        return True

    def _tell(self, event: Event) -> str:
        if isinstance(event, Completed):
            return f"{event.tag}: {check(self.sent.pop(event.tag), event)}"
        return self.tell(event)

    def check_needs(self, needed: int) -> None:
        """`needed` bytes are waited for: no more than a message may have, and more than are there."""
        raise NotImplementedError

    def tell(self, event: Event) -> str:
        """Any other event, checked, in words."""
        raise NotImplementedError


def check(transfer: Transfer, completion: Completion) -> str:
    """A completion is what its user may count on, whatever the exporter said."""
    assert isinstance(completion.status, Status)
    assert 0 <= completion.actual <= transfer.length
    assert len(completion.data) == (completion.actual if transfer.is_in else 0)
    if completion.packets:
        asked = transfer.packets or []
        assert [(p.offset, p.length) for p in completion.packets] == [(p.offset, p.length) for p in asked]
        assert all(0 <= p.actual <= p.length and isinstance(p.status, Status) for p in completion.packets)
        assert sum(p.actual for p in completion.packets) == completion.actual
    return f"{completion} {bytes(completion.data).hex()} {completion.packets}"
