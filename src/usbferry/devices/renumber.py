"""How the parts of a composite device are numbered anew: interfaces, endpoints and strings, and all that names them.

A part's endpoint keeps its number where that is free, for some host programs take one for granted; so does a string, as
a descriptor that only its class knows may name it. Interfaces follow one another. Sources of what descriptors name:
"CDC" and "PSTN" as in `cdc`, "UAC1" as in `sound.uac`, "UVC" as in `video.uvc`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final, NamedTuple

from ..usb.tree import Association, Configuration, Endpoint, Interface
from . import cdc
from .sound import uac
from .video import uvc

MOST: Final = 15  # endpoints of a direction, beside the default one: USB 2.0 §5.3.1.2
_CS_INTERFACE: Final = 0x24


class _Place(NamedTuple):
    """Where a class-specific descriptor has numbers: from byte `start` on, one of them or all that follow."""

    what: str  # a field of Numbers
    start: int
    is_list: bool = False


# (bInterfaceClass, bInterfaceSubClass, bDescriptorSubtype) of class-specific interface descriptors; None is any
_PLACES: Final[dict[tuple[int, int | None, int], _Place]] = {
    (cdc.COMMUNICATIONS, None, 0x01): _Place("interfaces", 4),  # call management: bDataInterface, PSTN §5.3.1
    (cdc.COMMUNICATIONS, None, 0x06): _Place("interfaces", 3, True),  # union, CDC §5.2.3.2
    (cdc.COMMUNICATIONS, None, 0x0F): _Place("strings", 3),  # Ethernet networking: iMACAddress, ECM §5.4
    (uac.AUDIO, uac.CONTROL, 0x01): _Place("interfaces", 8, True),  # header: baInterfaceNr, UAC1 §4.3.2
    (uvc.VIDEO, uvc.CONTROL, 0x01): _Place("interfaces", 12, True),  # header: baInterfaceNr, UVC §3.7.2
    (uvc.VIDEO, uvc.STREAMING, 0x01): _Place("endpoints", 6),  # input header: bEndpointAddress, UVC §3.9.2.1
    (uvc.VIDEO, uvc.STREAMING, 0x02): _Place("endpoints", 6),  # output header, UVC §3.9.2.2
}


@dataclass(frozen=True, slots=True)
class Numbers:
    """What one part's numbers are in the whole."""

    interfaces: Mapping[int, int]
    endpoints: Mapping[int, int]  # addresses
    strings: Mapping[int, int]

    def own_interface(self, number: int) -> int | None:
        """What the part itself calls an interface of the whole; None for one of another part."""
        return next((own for own, whole in self.interfaces.items() if whole == number), None)

    def interface(self, own: Interface) -> Interface:
        return replace(
            own,
            number=self.interfaces[own.number],
            string=self.strings.get(own.string, own.string),
            extra=tuple(self._specific(own, raw) for raw in own.extra),
            endpoints=tuple(map(self._endpoint, own.endpoints)),
        )

    def _endpoint(self, own: Endpoint) -> Endpoint:
        partner = own.synch_address
        return replace(
            own, address=self.endpoints[own.address], synch_address=self.endpoints.get(partner or 0, partner)
        )

    def association(self, own: Association, before: int) -> Association:
        """`before` is how many interface descriptors stand before this part's."""
        return replace(
            own,
            first=self.interfaces[own.first],
            string=self.strings.get(own.string, own.string),
            before=None if own.before is None else own.before + before,
        )

    def _specific(self, interface: Interface, raw: bytes) -> bytes:
        place = _place_of(interface, raw)
        if place is None:
            return raw
        end = len(raw) if place.is_list else place.start + 1
        known: Mapping[int, int] = getattr(self, place.what)
        return raw[: place.start] + bytes(known.get(n, n) for n in raw[place.start : end]) + raw[end:]


def _place_of(interface: Interface, raw: bytes) -> _Place | None:
    kind, subclass = interface.interface_class, interface.interface_subclass
    if len(raw) < 3 or raw[1] != _CS_INTERFACE:
        return None
    if kind == uac.AUDIO and interface.interface_protocol != uac.PROTOCOLS[1]:
        return None  # version 2 has its interfaces in the association alone
    return _PLACES.get((kind, subclass, raw[2])) or _PLACES.get((kind, None, raw[2]))


class Numbering:
    """Gives out numbers to one part after the other. `texts` are the strings of the whole, which grow."""

    def __init__(self, texts: dict[int, str]) -> None:
        self.texts = texts
        self._interfaces = 0
        self._endpoints: set[int] = set()

    def numbers(self, configuration: Configuration, texts: Mapping[int, str]) -> Numbers:
        """Those of a part with these descriptors and strings. Raises ValueError when no endpoint is left."""
        own = list(dict.fromkeys(i.number for i in configuration.interfaces))
        first, self._interfaces = self._interfaces, self._interfaces + len(own)
        addresses = {e.address: None for i in configuration.interfaces for e in i.endpoints}
        return Numbers(
            {number: first + place for place, number in enumerate(own)},
            self._places(sorted(addresses)),
            {index: self.text(texts[index], index) for index in _named(configuration, texts) if index in texts},
        )

    def _places(self, addresses: list[int]) -> dict[int, int]:
        """Those that are free stay, and the others have what is left."""
        places = {address: address for address in addresses if address not in self._endpoints}
        self._endpoints |= places.keys()
        for address in addresses:
            if address not in places:
                places[address] = self._free(address & 0x80)
                self._endpoints.add(places[address])
        return places

    def _free(self, way: int) -> int:
        for address in range(way + 1, way + MOST + 1):
            if address not in self._endpoints:
                return address
        raise ValueError(f"a device has {MOST} endpoints each way, and they are taken")

    def text(self, text: str, index: int = 1) -> int:
        """The number of a string: one that it has already, or a new one, `index` if that is free."""
        for known, other in self.texts.items():
            if other == text:
                return known
        free = next((i for i in chain((index,), range(4, 256)) if i not in self.texts and i > 3), None)
        if free is None:
            raise ValueError("a device has 255 strings, and they are taken")
        self.texts[free] = text
        return free


def _named(configuration: Configuration, texts: Mapping[int, str]) -> Iterable[int]:
    """The strings that somebody may ask for: those of a part's own, and which of its names its interfaces have."""
    used = {i.string for i in configuration.interfaces} | {a.string for a in configuration.associations}
    return sorted(index for index in texts if index > 3 or index in used)
