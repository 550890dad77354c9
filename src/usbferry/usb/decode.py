"""Class-specific descriptors in words, where their class is known: a table of layouts, and raw hex for the rest.

Field names are the specifications'. Sources: HID 1.11 §6.2.1; CDC 1.2 §5.2.3, PSTN 1.2 §5.3, ECM 1.2 §5.4, NCM 1.0
§5.2; Audio 1.0 §4.3 and §4.5; MIDI 1.0 §6.1; Video 1.5 §3.7 and §3.9; DFU 1.1 §4.1.3; CCID 1.1 §5.1; UAS 1.0 §5.2.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import Final

_CS_INTERFACE: Final = 0x24
_CS_ENDPOINT: Final = 0x25

# struct codes: B 8 bits, H 16, I 32; a descriptor shorter than its layout is decoded as far as it goes
_Fields = tuple[tuple[str, str], ...]

# (interface class, interface subclass or None, descriptor type, descriptor subtype or None) -> name, fields after those
_LAYOUTS: Final[dict[tuple[int, int | None, int, int | None], tuple[str, _Fields]]] = {
    (0x03, None, 0x21, None): (
        "HID",
        (
            ("bcdHID", "H"),
            ("bCountryCode", "B"),
            ("bNumDescriptors", "B"),
            ("bDescriptorType", "B"),
            ("wDescriptorLength", "H"),
        ),
    ),
    (0x02, None, _CS_INTERFACE, 0x00): ("CDC Header", (("bcdCDC", "H"),)),
    (0x02, None, _CS_INTERFACE, 0x01): ("CDC Call Management", (("bmCapabilities", "B"), ("bDataInterface", "B"))),
    (0x02, None, _CS_INTERFACE, 0x02): ("CDC ACM", (("bmCapabilities", "B"),)),
    (0x02, None, _CS_INTERFACE, 0x06): ("CDC Union", (("bControlInterface", "B"), ("bSubordinateInterface0", "B"))),
    (0x02, None, _CS_INTERFACE, 0x0F): (
        "CDC Ethernet",
        (
            ("iMACAddress", "B"),
            ("bmEthernetStatistics", "I"),
            ("wMaxSegmentSize", "H"),
            ("wNumberMCFilters", "H"),
            ("bNumberPowerFilters", "B"),
        ),
    ),
    (0x02, None, _CS_INTERFACE, 0x1A): ("CDC NCM", (("bcdNcmVersion", "H"), ("bmNetworkCapabilities", "B"))),
    (0x01, 0x01, _CS_INTERFACE, 0x01): (
        "Audio Control Header",
        (("bcdADC", "H"), ("wTotalLength", "H"), ("bInCollection", "B")),
    ),
    (0x01, 0x01, _CS_INTERFACE, 0x02): (
        "Audio Input Terminal",
        (("bTerminalID", "B"), ("wTerminalType", "H"), ("bAssocTerminal", "B"), ("bNrChannels", "B")),
    ),
    (0x01, 0x01, _CS_INTERFACE, 0x03): (
        "Audio Output Terminal",
        (("bTerminalID", "B"), ("wTerminalType", "H"), ("bAssocTerminal", "B"), ("bSourceID", "B")),
    ),
    (0x01, 0x01, _CS_INTERFACE, 0x06): ("Audio Feature Unit", (("bUnitID", "B"), ("bSourceID", "B"))),
    (0x01, 0x02, _CS_INTERFACE, 0x01): (
        "Audio Streaming",
        (("bTerminalLink", "B"), ("bDelay", "B"), ("wFormatTag", "H")),
    ),
    (0x01, 0x02, _CS_INTERFACE, 0x02): (
        "Audio Format",
        (("bFormatType", "B"), ("bNrChannels", "B"), ("bSubframeSize", "B"), ("bBitResolution", "B")),
    ),
    (0x01, 0x02, _CS_ENDPOINT, 0x01): (
        "Audio Endpoint",
        (("bmAttributes", "B"), ("bLockDelayUnits", "B"), ("wLockDelay", "H")),
    ),
    (0x01, 0x03, _CS_INTERFACE, 0x01): ("MIDI Header", (("bcdMSC", "H"), ("wTotalLength", "H"))),
    (0x0E, 0x01, _CS_INTERFACE, 0x01): (
        "Video Control Header",
        (("bcdUVC", "H"), ("wTotalLength", "H"), ("dwClockFrequency", "I"), ("bInCollection", "B")),
    ),
    (0x0E, 0x02, _CS_INTERFACE, 0x01): (
        "Video Input Header",
        (("bNumFormats", "B"), ("wTotalLength", "H"), ("bEndpointAddress", "B")),
    ),
    (0x0E, 0x02, _CS_INTERFACE, 0x06): ("Video Format MJPEG", (("bFormatIndex", "B"), ("bNumFrameDescriptors", "B"))),
    (0x0E, 0x02, _CS_INTERFACE, 0x07): (
        "Video Frame MJPEG",
        (("bFrameIndex", "B"), ("bmCapabilities", "B"), ("wWidth", "H"), ("wHeight", "H")),
    ),
    (0x0E, 0x02, _CS_INTERFACE, 0x04): (
        "Video Format Uncompressed",
        (("bFormatIndex", "B"), ("bNumFrameDescriptors", "B")),
    ),
    (0x0E, 0x02, _CS_INTERFACE, 0x05): (
        "Video Frame Uncompressed",
        (("bFrameIndex", "B"), ("bmCapabilities", "B"), ("wWidth", "H"), ("wHeight", "H")),
    ),
    (0xFE, 0x01, 0x21, None): (
        "DFU Functional",
        (("bmAttributes", "B"), ("wDetachTimeOut", "H"), ("wTransferSize", "H"), ("bcdDFUVersion", "H")),
    ),
    (0x0B, None, 0x21, None): (
        "CCID",
        (
            ("bcdCCID", "H"),
            ("bMaxSlotIndex", "B"),
            ("bVoltageSupport", "B"),
            ("dwProtocols", "I"),
            ("dwDefaultClock", "I"),
            ("dwMaximumClock", "I"),
        ),
    ),
    (0x08, 0x06, 0x24, None): ("UAS Pipe Usage", (("bPipeID", "B"),)),
}


def decode(interface_class: int, interface_subclass: int, raw: bytes) -> tuple[str, dict[str, int]] | None:
    """Name and fields of a class-specific descriptor; None for one that no table has, or that is too short."""
    if len(raw) < 2:
        return None
    kind, subtype = raw[1], raw[2] if len(raw) > 2 else None
    for subclass in (interface_subclass, None):
        for sub, start in ((subtype, 3), (None, 2)):
            found = _LAYOUTS.get((interface_class, subclass, kind, sub))
            if found is not None:
                return found[0], _fields(found[1], raw, start)
    return None


def _fields(layout: _Fields, raw: bytes, at: int) -> dict[str, int]:
    fields = {}
    for name, code in layout:
        one = Struct("<" + code)
        try:
            (fields[name],) = one.unpack_from(raw, at)
        except StructError:
            break
        at += one.size
    return fields
