"""The address that a user means, for every verb: what has no scheme is a machine, whose USB/IP server is meant."""

from __future__ import annotations

import re
from typing import Final

from ..registry import DEVICES, SOURCES, with_colon

# What is a selector, or a bus id, without the place where it shall be looked for. 0525:0104 could be a machine's port,
# if machines were called so.
_SELECTORS: Final = (
    r"\d+-\d+(\.\d+)*$",
    r"(serial|product|manufacturer|class|port)=",
    r"(\d[0-9a-f]{3}|\*):([0-9a-f]{4}|\*)(,|$)",
    r"[0-9a-f]{4}:(?!\d+$)([0-9a-f]{4}|\*)(,|$)",
)
_FILE: Final = r"[^?]*\.py(:\w+)?(\?|$)"  # a class in it
# what is a file by its ending, and the address that it is for: no machine is called so
_FILES: Final = {
    r"[^?]*\.(img|iso|raw)$": ("a disk made of an image", "virtual:disk?image={}"),
    r"[^?]*\.(pcap|pcapng)$": ("a recorded device", "replay:{}"),
}


def whole_address(text: str) -> str:
    """The address that a user means: a machine's name alone is its USB/IP server.

    Raises ValueError for what is rather a device than a machine, with its address.
    """
    if text.partition(":")[0].partition("+")[0] in SOURCES and ":" in text:
        return text
    if text.partition("?")[0] in DEVICES:
        raise ValueError(f"{text!r} is no address: write it as virtual:{text}, or usbip://{text} if it is a machine")
    if meant := with_colon(text):
        raise ValueError(f"{text!r} is no address: write it as {meant}")
    if text in SOURCES:
        raise ValueError(f"{text!r} is no address: write it as {text}:..., or usbip://{text} if it is a machine")
    if re.match(_FILE, text):
        raise ValueError(f"{text!r} is no address: a device of your own is virtual:{text}")
    for form, (what, address) in _FILES.items():
        if re.match(form, text, re.IGNORECASE):
            raise ValueError(f"{text!r} is no address: {what} is {address.format(text)}")
    if any(re.match(form, text, re.IGNORECASE) for form in _SELECTORS):
        raise ValueError(f"{text!r} is no address: write it as usb:{text}, or usbip://HOST/{text} at another machine")
    machine, slash, device = text.partition("/")
    if machine.count(":") > 1 and not machine.startswith("["):
        return f"usbip://[{machine}]{slash}{device}"
    if machine.isdecimal():
        raise ValueError(f"{text!r} is no address: a port stands behind its machine, write it as HOST:{text}")
    _, colon, port = machine.partition(":")
    if machine and (not colon or machine.startswith("[") or port.isdecimal()):
        return f"usbip://{text}"
    return text
