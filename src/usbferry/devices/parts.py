"""What a composite device is made of: its parts as a text names them, and what they have to agree on.

made("keyboard+serial+serial", {"keyboard.text": "hi", "serial2.to": "pty"}, Speed.HIGH)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from ..backends import options, virtual
from ..registry import DEVICES, load
from ..usb.build import MAX_STRING_UNITS
from ..usb.setup import Recipient, RequestType
from ..usb.types import Speed
from .renumber import MOST
from .virtual import VirtualDevice


def made(text: str, given: Mapping[str, str], speed: Speed | None) -> list[VirtualDevice]:
    """The parts of `text`, each with the options that are its own. Raises ValueError with a text for the user.

    Without a `speed` they are at high speed, or at that of the slowest which knows one alone.
    """
    if "," in text:
        raise ValueError(f"parts={text}: write + between them, as parts={text.replace(',', '+').replace(' ', '')}")
    names = _named(text)
    factories = [load(DEVICES, "virtual device", kind) for kind in _kinds(text)]
    choosing = ["speed" in options.options_of(factory) for factory in factories]
    fixed = [factory.speed for factory, can in zip(factories, choosing, strict=True) if not can]
    usual = options.speed_name(speed or min(fixed, default=Speed.HIGH))
    own: dict[str, dict[str, str]] = {name: {} for name in names}
    for key, value in given.items():
        part, _, option = key.partition(".")
        if part not in own:
            raise ValueError(f"{key}: there is no part {part!r}; there are: {', '.join(own) or 'none'}")
        if option == "fault":
            raise ValueError(
                f"{key}: faults are those of the whole: fault=..., with endpoints as `usbferry info` shows"
            )
        own[part][option] = value
    for name, can in zip(names, choosing, strict=True):
        if can:
            own[name].setdefault("speed", usual)
    return [virtual.make(kind, own[name]) for name, kind in zip(names, _kinds(text), strict=True)]


def _kinds(text: str) -> list[str]:
    return [kind for kind in text.split("+") if kind]


def _named(text: str) -> list[str]:
    """What each part is called: by its kind, the second of a kind with a 2 behind it."""
    seen: Counter[str] = Counter()
    names = []
    for kind in _kinds(text):
        seen[kind] += 1
        names.append(kind if seen[kind] == 1 else f"{kind}{seen[kind]}")
    return names


def check(parts: Sequence[VirtualDevice]) -> None:
    """Raise ValueError, with a text for the user, for parts that cannot be one device."""
    if not parts:
        raise ValueError("it has no parts; name some, as parts=keyboard+serial")
    for part in parts:
        if len(part.info.configurations) != 1:
            count = len(part.info.configurations)
            raise ValueError(f"{title((part,))} has {count} configurations, and a part has one")
        if parts.count(part) > 1:
            raise ValueError(f"{title((part,))} is in it twice: make two of them")
    _check_endpoints(parts)
    _check_requests(parts)


def _check_endpoints(parts: Sequence[VirtualDevice]) -> None:
    for way, name in ((0x80, "IN"), (0x00, "OUT")):
        counts = [sum(address & 0x80 == way for address in _addresses(part)) for part in parts]
        if sum(counts) > MOST:
            each = ", ".join(f"{title((part,))} {count}" for part, count in zip(parts, counts, strict=True))
            said = f"its parts have {sum(counts)} {name} endpoints, and a device has {MOST} at most"
            raise ValueError(f"{said}: leave some out ({each})")


def _addresses(part: VirtualDevice) -> set[int]:
    return {e.address for i in part.info.configurations[0].interfaces for e in i.endpoints}


def _check_requests(parts: Sequence[VirtualDevice]) -> None:
    """Requests to the device as a whole say nothing of who is meant."""
    owner: dict[tuple[int, int], VirtualDevice] = {}
    for part in parts:
        for kind, code in part.requests:
            if kind & 0x1F != Recipient.DEVICE or kind & 0x60 == RequestType.STANDARD:
                continue
            if other := owner.get((kind, code)):
                raise ValueError(
                    f"{title((other,))} and {title((part,))} have the same request of the whole device ({kind:#04x} "
                    f"{code:#04x}), so that only one of them can be in it"
                )
            owner[kind, code] = part


def one_speed(parts: Sequence[VirtualDevice], speed: Speed | None) -> Speed:
    """What all parts are at from now on: `speed`, or the highest of theirs. Raises ValueError."""
    whole = max(part.speed for part in parts) if speed is None else speed
    for part in parts:
        if part.speed != whole:
            try:
                part.change_speed(whole)
            except ValueError as error:
                raise ValueError(
                    f"{title((part,))} is at {options.speed_name(part.speed)} speed, and the whole at "
                    f"{options.speed_name(whole)}: {error}"
                ) from None
    return whole


def title(parts: Sequence[VirtualDevice]) -> str:
    """What parts are called together, as long as a string may be."""
    return " + ".join(part.product or type(part).__name__ for part in parts)[:MAX_STRING_UNITS]


def ids(text: str) -> tuple[int, int]:
    """Of VENDOR:PRODUCT. Raises ValueError with a text for the user."""
    if not re.fullmatch(r"[0-9a-fA-F]{1,4}:[0-9a-fA-F]{1,4}", text):
        raise ValueError(f"id: {text!r} is no VENDOR:PRODUCT, such as 1209:0010")
    vendor, product = (int(word, 16) for word in text.split(":"))
    return vendor, product
