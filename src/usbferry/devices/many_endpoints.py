"""A device with all the endpoints there can be, 15 IN and 15 OUT, for tests: each OUT endpoint loops back to its IN.

What is written to 0x03 is read from 0x83, transfer by transfer, and nowhere else. USB 2.0 §5.3.1.2: "up to 15
additional input endpoints and 15 additional output endpoints".
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Final

from ..usb.transfer import Completion, Transfer
from ..usb.tree import DeviceDescriptor, Interface
from ..usb.types import Speed, Status
from .clock import Clock
from .pipe import Answer, Handler
from .renumber import MOST
from .virtual import VirtualDevice, data, done

_HELD: Final = 1 << 20  # bytes that wait in one of the loops, before its OUT endpoint NAKs
_HELD_TRANSFERS: Final = 1024


class ManyEndpoints(VirtualDevice):
    """All are bulk endpoints, of one interface."""

    descriptor = DeviceDescriptor(0x6666, 0x0002, device_class=0xFF)  # "Prototype product Vendor ID" in usb.ids
    product = "Many endpoints"

    def __init__(self, *, speed: Speed = Speed.HIGH, serial: str = "", clock: Clock | None = None) -> None:
        self.speed = speed
        self.serial = serial
        self._loops: defaultdict[int, deque[bytes]] = defaultdict(deque)  # by number
        super().__init__(clock=clock)

    def interfaces(self) -> tuple[Interface, ...]:
        pairs = ((self.bulk(0x80 | number), self.bulk(number)) for number in range(1, MOST + 1))
        return (Interface(0, endpoints=tuple(one for pair in pairs for one in pair)),)

    def handler_of(self, address: int) -> Handler:
        if not address & 0x0F:
            return super().handler_of(address)
        return self.faults.over(address, self._give if address & 0x80 else self._take)

    def _take(self, transfer: Transfer) -> Answer:
        loop = self._loops[transfer.endpoint]
        if loop and (len(loop) >= _HELD_TRANSFERS or sum(map(len, loop)) + transfer.length > _HELD):
            return None
        loop.append(bytes(transfer.data))
        self.kick(0x80 | transfer.endpoint)
        return done(transfer)

    def _give(self, transfer: Transfer) -> Answer:
        loop = self._loops[transfer.endpoint & 0x0F]
        if not loop:
            return None
        held = loop.popleft()
        self.kick(transfer.endpoint & 0x0F)
        if len(held) > transfer.length:
            return Completion(Status.OVERFLOW, held[: transfer.length])
        return data(held)

    def settings_changed(self) -> None:
        self._loops.clear()

    def was_reset(self) -> None:
        self._loops.clear()
