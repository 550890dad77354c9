"""A device with several configurations, for tests: configuration N has N interfaces, and each says which one it is.

Reading the IN endpoint of interface M, which is 0x81 + M, gives `configuration N, interface M` and a new line; nothing
is there in the others. Linux looks at eight configurations and no more: USB_MAXCONFIG in drivers/usb/core/config.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..usb.transfer import Transfer
from ..usb.tree import Configuration, DeviceDescriptor, Interface
from ..usb.types import Speed
from .clock import Clock
from .pipe import Answer, Handler
from .virtual import VirtualDevice, data

_MOST: Final = 15  # one IN endpoint for each interface of the last


class ManyConfigurations(VirtualDevice):
    """`count` is how many, up to 15."""

    descriptor = DeviceDescriptor(0x6666, 0x0001, device_class=0xFF)  # "Prototype product Vendor ID" in usb.ids
    product = "Many configurations"

    def __init__(
        self, *, count: int = 3, speed: Speed = Speed.HIGH, serial: str = "", clock: Clock | None = None
    ) -> None:
        if not 1 <= count <= _MOST:
            raise ValueError(f"it can have 1 to {_MOST} configurations, not {count}")
        self.count = count
        self.speed = speed
        self.serial = serial
        self.strings = {3 + value: f"Configuration {value}" for value in range(1, count + 1)}
        super().__init__(clock=clock)

    def configurations(self) -> tuple[Configuration, ...]:
        return tuple(
            Configuration(
                value=value,
                interfaces=tuple(Interface(m, endpoints=(self.bulk(0x81 + m),)) for m in range(value)),
                string=3 + value,
            )
            for value in range(1, self.count + 1)
        )

    def handler_of(self, address: int) -> Handler:
        if not address & 0x0F:
            return super().handler_of(address)
        return self.faults.over(address, self._named(address - 0x81))

    def _named(self, interface: int) -> Callable[[Transfer], Answer]:
        def tell(transfer: Transfer) -> Answer:
            text = f"configuration {self.info.configuration}, interface {interface}\n"
            return data(text.encode()[: transfer.length])

        return tell
