"""Names of USB classes for people. Source: USB-IF, Defined Class Codes."""

from __future__ import annotations

from typing import Final

CLASSES: Final = {
    0x00: "by interface",
    0x01: "audio",
    0x02: "communications",
    0x03: "HID",
    0x05: "physical",
    0x06: "image",
    0x07: "printer",
    0x08: "mass storage",
    0x09: "hub",
    0x0A: "CDC data",
    0x0B: "smart card",
    0x0D: "content security",
    0x0E: "video",
    0x0F: "personal healthcare",
    0x10: "audio/video",
    0x11: "billboard",
    0x12: "type-C bridge",
    0x13: "bulk display",
    0x14: "MCTP",
    0x3C: "I3C",
    0xDC: "diagnostic",
    0xE0: "wireless",
    0xEF: "miscellaneous",
    0xFE: "application specific",
    0xFF: "vendor specific",
}

# (class, subclass, protocol) whose own name says more than its class's
_SPECIAL: Final = {
    (0x03, 1, 1): "keyboard",
    (0x03, 1, 2): "mouse",
    (0x02, 2, 0): "serial (CDC-ACM)",
    (0x02, 2, 1): "serial (CDC-ACM)",
    (0x08, 6, 0x50): "disk",
    (0x08, 6, 0x62): "disk (UAS)",
    (0xE0, 1, 1): "Bluetooth",
    (0xFE, 1, 1): "DFU",
    (0xFE, 1, 2): "DFU",
    (0xFE, 3, 1): "USBTMC",
}

# What people write for a class: in a selector, `class=hid`
NAMES: Final[dict[str, tuple[int, ...]]] = {
    "audio": (0x01,),
    "cdc": (0x02,),
    "hid": (0x03,),
    "keyboard": (0x03, 1, 1),
    "mouse": (0x03, 1, 2),
    "physical": (0x05,),
    "image": (0x06,),
    "printer": (0x07,),
    "storage": (0x08,),
    "hub": (0x09,),
    "cdc-data": (0x0A,),
    "smartcard": (0x0B,),
    "security": (0x0D,),
    "video": (0x0E,),
    "healthcare": (0x0F,),
    "av": (0x10,),
    "billboard": (0x11,),
    "typec": (0x12,),
    "diagnostic": (0xDC,),
    "wireless": (0xE0,),
    "bluetooth": (0xE0, 1, 1),
    "misc": (0xEF,),
    "application": (0xFE,),
    "dfu": (0xFE, 1),
    "usbtmc": (0xFE, 3),
    "vendor": (0xFF,),
}


def class_name(triplet: tuple[int, int, int]) -> str:
    """What an interface with this class, subclass and protocol is called."""
    return _SPECIAL.get(triplet) or CLASSES.get(triplet[0], f"class {triplet[0]:02x}")
