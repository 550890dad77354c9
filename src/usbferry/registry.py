"""The tables of what there is: protocols, sources and virtual devices, each by name, imported when it is used.

An address is `scheme:rest`, and its scheme is a row of SOURCES: `virtual:disk?image=stick.img`, `usbip://host/1-2`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from .device import Source


class Protocol(NamedTuple):
    """A row of PROTOCOLS: where its two sides are, as "module:class", its default port, and what it runs on.

    An importer that cannot choose gets the one device that its place was set up for. Where an exporter `connects`, it
    may do so to an importer that listens, as `serve --to` does.
    """

    exporter: str
    importer: str
    port: int
    transports: tuple[str, ...]
    chooses: bool = True  # the importer names the device that it wants
    connects: bool = False
    has_streams: bool = False  # its exporter keeps isochronous streams going, as the importer tells it to


_FERRY: Final = "usbferry.protocols.ferry"

PROTOCOLS: Final[dict[str, Protocol]] = {
    "ferry": Protocol(
        f"{_FERRY}.exporter:Exporter", f"{_FERRY}.importer:Importer", 32740, ("tcp", "unix", "seqpacket", "udp")
    ),
    "usbip": Protocol(
        "usbferry.protocols.usbip.exporter:Exporter", "usbferry.protocols.usbip.importer:Importer", 3240, ("tcp",)
    ),
    "usbredir": Protocol(
        "usbferry.protocols.usbredir.exporter:Exporter",
        "usbferry.protocols.usbredir.importer:Importer",
        4000,
        ("tcp", "unix"),
        chooses=False,
        connects=True,
        has_streams=True,
    ),
}


class Transport(NamedTuple):
    """A row of TRANSPORTS: the module with its `listen` and `connect`, and what its places are.

    Where nobody connects before the first packet, `listen` also takes `opens`: whether a packet begins something. Of a
    file it takes `mode`: who may use it.
    """

    module: str
    at_files: bool  # socket files; else ports of hosts
    about: str  # for people
    connects: bool = True


# What stands behind a protocol in an address, `ferry+udp://host`. Without it, tcp is meant at a host, unix at a file.
# All that carries streams has room for TLS between its socket and its link.
TRANSPORTS: Final[dict[str, Transport]] = {
    "seqpacket": Transport("usbferry.transports.seqpacket", True, "socket files that keep the borders of records"),
    "tcp": Transport("usbferry.transports.tcp", False, "streams between machines"),
    "udp": Transport(
        "usbferry.transports.udp", False, "datagrams on a small network, which may lose some", connects=False
    ),
    "unix": Transport("usbferry.transports.unix", True, "streams through a socket file"),
}

# scheme of an address -> factory(address) -> Source
SOURCES: Final[dict[str, str]] = {
    "facedancer": "usbferry.backends.facedancing:FacedancerSource",
    "ferry": "usbferry.backends.ferry:FerrySource",
    "replay": "usbferry.backends.replay:ReplaySource",
    "tap": "usbferry.backends.tap:TapSource",
    "usb": "usbferry.backends.libusb.source:LibusbSource",
    "usbip": "usbferry.backends.remote:RemoteSource",
    "usbredir": "usbferry.backends.redir:RedirSource",
    "virtual": "usbferry.backends.virtual:VirtualSource",
}

# name in `virtual:NAME?option=value` -> device class; its keyword arguments are the options
DEVICES: Final[dict[str, str]] = {
    "broken": "usbferry.devices.broken:Broken",
    "camera": "usbferry.devices.camera:Camera",
    "composite": "usbferry.devices.composite:Composite",
    "dfu": "usbferry.devices.dfu:Dfu",
    "disk": "usbferry.devices.disk:Disk",
    "ethernet": "usbferry.devices.ethernet:Ethernet",
    "ftdi": "usbferry.devices.ftdi:Ftdi",
    "gamepad": "usbferry.devices.gamepad:Gamepad",
    "headset": "usbferry.devices.headset:Headset",
    "keyboard": "usbferry.devices.keyboard:Keyboard",
    "many-configurations": "usbferry.devices.many_configurations:ManyConfigurations",
    "many-endpoints": "usbferry.devices.many_endpoints:ManyEndpoints",
    "microphone": "usbferry.devices.microphone:Microphone",
    "midi": "usbferry.devices.midi:Midi",
    "mouse": "usbferry.devices.mouse:Mouse",
    "mtp": "usbferry.devices.mtp:Mtp",
    "printer": "usbferry.devices.printer:Printer",
    "security-key": "usbferry.devices.security_key:SecurityKey",
    "serial": "usbferry.devices.serial:Serial",
    "smartcard": "usbferry.devices.smartcard:Smartcard",
    "speaker": "usbferry.devices.speaker:Speaker",
    "tablet": "usbferry.devices.tablet:Tablet",
    "touch": "usbferry.devices.touch:Touch",
    "uas": "usbferry.devices.uas:Uas",
    "usbtmc": "usbferry.devices.usbtmc:Usbtmc",
    "zero": "usbferry.devices.zero:Zero",
}


class UnknownName(ValueError):
    """A name that no table has. The text lists those there are."""


def load(table: dict[str, str], kind: str, name: str) -> Any:
    """The object behind a row. Raises UnknownName."""
    try:
        where = table[name]
    except KeyError:
        raise UnknownName(f"no {kind} {name!r}; {_meant(table, name)}: {', '.join(sorted(table))}") from None
    return _import(where)


def _meant(table: dict[str, str], name: str) -> str:
    from difflib import get_close_matches  # here alone: every start would pay for it

    close = get_close_matches(name.lower(), table, 1, 0.66)
    return f"did you mean {close[0]}? There are" if close else "there are"


def load_exporter(protocol: str) -> Any:
    """The exporter class of a protocol."""
    return _import(PROTOCOLS[protocol].exporter)


def load_importer(protocol: str) -> Any:
    """The importer class of a protocol."""
    return _import(PROTOCOLS[protocol].importer)


def load_transport(name: str) -> Any:
    """The module of a transport."""
    return import_module(TRANSPORTS[name].module)


def _import(where: str) -> Any:
    module, _, attribute = where.partition(":")
    return getattr(import_module(module), attribute)


def check_transport(address: str) -> None:
    """Whether a `PROTOCOL+TRANSPORT:...` is one. Raises UnknownName."""
    scheme = address.partition(":")[0]
    protocol, _, transport = scheme.partition("+")
    known = PROTOCOLS[protocol].transports if protocol in PROTOCOLS else ()
    if transport not in known:
        there = ", ".join(f"{protocol}+{one}" for one in known) or "none"
        raise UnknownName(f"{address!r}: there is no {scheme}; there are: {there}")


def open_source(address: str) -> Source:
    """The Source of an address. Raises UnknownName or ValueError with a text for the user."""
    if not isinstance(address, str):
        raise TypeError(f"an address is a text such as 'usbip://host/1-2', not {address!r}")
    scheme, colon, _ = address.partition(":")
    if not colon:
        machine = f"usbip://{address} if it is a machine, or as " if address else ""
        other = f"{machine}scheme:rest, such as virtual:zero"
        raise UnknownName(f"{address!r} is no address: write it as {with_colon(address) or other}")
    protocol, plus, _ = scheme.partition("+")
    if plus:
        check_transport(address)
    try:
        source: Source = load(SOURCES, "kind of address", protocol)(address)
    except ValueError as error:
        mistake = _without_question_mark(address)
        if mistake is None:
            raise
        raise mistake from error
    return source


def with_colon(address: str) -> str:
    """What is meant by an address whose colon was left out, as usbip//host; "" where none was."""
    scheme, slashes, rest = address.partition("//")
    return f"{scheme}://{rest}" if slashes and scheme.partition("+")[0] in SOURCES else ""


def _without_question_mark(address: str) -> ValueError | None:
    """What is wrong with an address whose first option stands behind `&`, as the further ones do."""
    what, joint, options = address.partition("&")
    if not joint or "?" in what or not options.partition("=")[0].partition("&")[0].isidentifier():
        return None
    return ValueError(f"{address!r}: options stand behind a question mark, write it as {what}?{options}")
