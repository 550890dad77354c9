"""The tables of what there is: protocols, sources and virtual devices, each by name, imported when it is used.

An address is `scheme:rest`, and its scheme is a row of SOURCES: `virtual:disk?image=stick.img`, `usbip://host/1-2`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .device import Source

# name -> (exporter "module:class", default port)
PROTOCOLS: Final[dict[str, tuple[str, int]]] = {
    "usbip": ("usbferry.protocols.usbip.exporter:Exporter", 3240),
}

# scheme of an address -> factory(address) -> Source
SOURCES: Final[dict[str, str]] = {
    "virtual": "usbferry.backends.virtual:VirtualSource",
}

# name in `virtual:NAME?option=value` -> device class; its keyword arguments are the options
DEVICES: Final[dict[str, str]] = {
    "zero": "usbferry.devices.zero:Zero",
}


class UnknownName(ValueError):
    """A name that no table has. The text lists those there are."""


def load(table: dict[str, str], kind: str, name: str) -> Any:
    """The object behind a row. Raises UnknownName."""
    try:
        module, _, attribute = table[name].partition(":")
    except KeyError:
        raise UnknownName(f"no {kind} {name!r}; there are: {', '.join(sorted(table))}") from None
    return getattr(import_module(module), attribute)


def open_source(address: str) -> Source:
    """The Source of an address. Raises UnknownName or ValueError with a text for the user."""
    scheme, colon, _ = address.partition(":")
    if not colon:
        raise UnknownName(f"{address!r} is no address: write it as scheme:rest, such as virtual:zero")
    source: Source = load(SOURCES, "source", scheme)(address)
    return source
