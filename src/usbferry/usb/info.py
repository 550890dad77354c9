"""What can be said of a device without opening it: the one record that lists, catalogs and protocols share."""

from __future__ import annotations

from dataclasses import dataclass, field

from .descriptors import Configuration, DeviceDescriptor, Interface
from .types import Speed


@dataclass(slots=True)
class DeviceInfo:
    """Identity and descriptors of one device.

    `name` is how its source calls it, stable over re-plugging where the source can tell: a bus id such as "1-2.3".
    `configurations` may be empty where nothing was read yet (a remote list carries no descriptors); then
    `interface_classes` holds the (class, subclass, protocol) triples that the list did carry.
    """

    name: str
    device: DeviceDescriptor
    configurations: tuple[Configuration, ...] = ()
    speed: Speed = Speed.HIGH
    configuration: int = 1  # bConfigurationValue now in force, 0 when unconfigured
    alternates: dict[int, int] = field(default_factory=dict)  # interface -> alternate setting, where not 0
    bus: int = 1  # 1..255, also what USB/IP calls busnum
    address: int = 1  # 1..255, also what USB/IP calls devnum
    path: str = ""  # where the device is in its system, for people
    manufacturer: str = ""
    product: str = ""
    serial: str = ""
    interface_classes: tuple[tuple[int, int, int], ...] = ()
    holder: str = ""  # who has it, for people; empty where nobody has, or its source cannot tell
    drivers: tuple[str, ...] = ()  # of this machine's kernel, that have its interfaces; where the source can tell

    @property
    def active(self) -> Configuration | None:
        """The configuration in force."""
        return next((c for c in self.configurations if c.value == self.configuration), None)

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """The interfaces of the configuration in force, each in its current alternate setting, by number.

        As in Linux, the first of two equal settings counts, and an interface without setting 0 begins in its first.
        """
        active = self.active
        chosen: dict[int, Interface] = {}
        for setting in active.interfaces if active is not None else ():
            best = chosen.get(setting.number)
            if best is None or self._preference(setting) > self._preference(best):
                chosen[setting.number] = setting
        return tuple(chosen[number] for number in sorted(chosen))

    def _preference(self, setting: Interface) -> int:
        current = self.alternates.get(setting.number, 0)
        return 2 if setting.alternate == current else int(setting.alternate == 0)

    @property
    def classes(self) -> tuple[tuple[int, int, int], ...]:
        """(class, subclass, protocol) of each interface of the configuration in force."""
        if self.configurations:
            return tuple((i.interface_class, i.interface_subclass, i.interface_protocol) for i in self.interfaces)
        return self.interface_classes

    @property
    def title(self) -> str:
        """What people call it, "" where it has no names."""
        return title(self.manufacturer, self.product)

    @property
    def ids(self) -> str:
        """Its vendor's and its product's number, as "0525:a4a0"."""
        return f"{self.device.vendor_id:04x}:{self.device.product_id:04x}"

    def __str__(self) -> str:
        return " ".join(word for word in (self.name if self.name != self.ids else "", self.ids, self.title) if word)


def title(manufacturer: str | None, product: str | None) -> str:
    """What people call a device, as far as it says: its maker's name and its own."""
    return " ".join(word for word in (manufacturer, product) if word)
