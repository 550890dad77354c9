"""Which devices may be redirected: rules as text, checked against a device, and printed again.

    class,vendor,product,version,allow|class,vendor,...     decimal or 0x..., -1 for any; the first match decides

Source: usbredirparser/usbredirfilter.h and usbredirfilter.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ...usb.info import DeviceInfo
from ...usb.transfer import Buffer

ANY: Final = -1
_LARGEST: Final = (0xFF, 0xFFFF, 0xFFFF, 0xFFFF)  # of class, vendor, product, version
_NUMBER: Final = re.compile(r"[ \t\n\v\f\r]*([+-]?)(0[xX][0-9a-fA-F]+|[0-9]+)\Z")
_HID: Final = (0x03, 0x00, 0x00)  # one that is no boot device
_PER_INTERFACE: Final = (0x00, 0xEF)  # device classes that say "see the interfaces"


class Verdict(Enum):
    """What rules say of a device."""

    ALLOWED = "allowed"
    DENIED = "denied"
    NO_MATCH = "no rule matches"  # which denies too


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; ANY in a field matches all. Raises ValueError for numbers outside their range."""

    device_class: int  # of the device or one of its interfaces
    vendor_id: int
    product_id: int
    release: int  # device_version_bcd
    allow: bool

    def __post_init__(self) -> None:
        numbers = (self.device_class, self.vendor_id, self.product_id, self.release)
        if not all(ANY <= number <= largest for number, largest in zip(numbers, _LARGEST, strict=True)):
            raise ValueError(f"a filter rule out of range: {self}")

    def matches(self, device_class: int, info: DeviceInfo) -> bool:
        device = info.device
        return (
            self.device_class in (ANY, device_class)
            and self.vendor_id in (ANY, device.vendor_id)
            and self.product_id in (ANY, device.product_id)
            and self.release in (ANY, device.release)
        )

    def __str__(self) -> str:
        def text(number: int, digits: int) -> str:
            return "-1" if number == ANY else f"0x{number:0{digits}x}"

        ids = (text(number, 4) for number in (self.vendor_id, self.product_id, self.release))
        return ",".join((text(self.device_class, 2), *ids, str(int(self.allow))))


def parse(text: str) -> tuple[Rule, ...]:
    """The rules in a text. Empty rules and fields vanish, as the reference's strtok has it. Raises ValueError."""
    return tuple(_rule(one) for one in text.split("|") if one)


def _rule(text: str) -> Rule:
    fields = [field for field in text.split(",") if field]
    if len(fields) != 5:
        raise ValueError(f"filter rule {text!r} has {len(fields)} fields: write class,vendor,product,version,allow")
    numbers = [_number(field, text) for field in fields]
    return Rule(numbers[0], numbers[1], numbers[2], numbers[3], bool(numbers[4]))


def _number(field: str, rule: str) -> int:
    """Decimal, hexadecimal with 0x, and octal with a leading 0, for the reference reads it so."""
    found = _NUMBER.match(field)
    if found is None:
        raise ValueError(f"{field!r} in filter rule {rule!r} is no number")
    sign, digits = found.groups()
    base = 16 if digits[:2].lower() == "0x" else 8 if digits[0] == "0" else 10
    try:
        return int(sign + digits, base)
    except ValueError:
        raise ValueError(f"{field!r} in filter rule {rule!r} is no number") from None


def text_of(rules: Iterable[Rule]) -> str:
    """The text that `parse` reads."""
    return "|".join(map(str, rules))


def parse_wire(data: Buffer) -> tuple[Rule, ...]:
    """The rules of a filter_filter packet, which end with a NUL. Raises ValueError."""
    return parse(bytes(data).split(b"\0", 1)[0].decode("latin-1"))


def wire_of(rules: Iterable[Rule]) -> bytes:
    """The data of a filter_filter packet."""
    return text_of(rules).encode() + b"\0"


def check(rules: Sequence[Rule], info: DeviceInfo, *, default_allow: bool = False, skip_hid: bool = True) -> Verdict:
    """What `rules` say of a device: its own class first, then each of its interfaces; all must be allowed.

    With more than one interface, those of HID that are no boot devices are passed over with `skip_hid` (the volume keys
    of a headset), unless that would leave none.
    """
    classes: list[int] = []
    if info.device.device_class not in _PER_INTERFACE:
        classes.append(info.device.device_class)
    interfaces = info.classes
    counted = [one for one in interfaces if one != _HID]
    if not skip_hid or len(interfaces) <= 1 or not counted:
        counted = list(interfaces)
    classes += [one[0] for one in counted]
    for device_class in classes:
        verdict = _check_class(rules, device_class, info)
        if verdict is Verdict.NO_MATCH and default_allow:
            continue
        if verdict is not Verdict.ALLOWED:
            return verdict
    return Verdict.ALLOWED


def _check_class(rules: Sequence[Rule], device_class: int, info: DeviceInfo) -> Verdict:
    for rule in rules:
        if rule.matches(device_class, info):
            return Verdict.ALLOWED if rule.allow else Verdict.DENIED
    return Verdict.NO_MATCH
