"""One fault that a virtual device is asked for: what happens, where and when, and its text form.

`stall:0x81:after=10`, `late:0x81:seconds=3:times=2`, `vanish:wait=5:away=1:become=1209:0010`. What a fault does is in
`faults.py`. `become` may also be the address of another virtual device, as the last word: it takes what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeVar

from ..device import Device
from ..usb.transfer import Transfer
from ..usb.tree import Endpoint
from ..usb.types import TransferType

FOREVER: Final = float("inf")
T = TypeVar("T")


class Kind(Enum):
    STALL = "stall"  # the endpoint halts; a control request is refused
    SHORT = "short"  # less data than there is, `size` bytes or half of it
    LENGTH = "length"  # exactly `size` bytes, cut or filled with zeros; over what was asked for that is a babble
    LATE = "late"  # NAKs for `seconds` first
    BABBLE = "babble"  # more data than asked for
    VANISH = "vanish"  # unplugged; comes back after `away` seconds, if given, and as `become`, if given


@dataclass(slots=True, eq=False)
class Fault:
    """One fault, as it was asked for and as far as it has come.

    It happens once `wait` seconds of a claim are over and the endpoint has answered `after` other transfers, `times`
    times (0: for ever), with `after` others before each. Endpoint 0 counts control transfers, of all requests or of
    one bRequest; no endpoint stands for all but that.
    """

    kind: Kind
    endpoint: int | None = None
    after: int = 0
    times: int = 1
    wait: float = 0.0
    request: int | None = None
    size: int | None = None
    seconds: float = 0.0
    away: float | None = None
    become: tuple[int, int] | Device | str | None = None  # ids; or another device, its address where it is a text's
    happened: int = 0
    passed: int = field(default=0, repr=False)  # transfers since it happened last
    held: Transfer | None = field(default=None, repr=False)  # the one that is late
    held_until: float = field(default=0.0, repr=False)

    def covers(self, endpoint: int) -> bool:
        """Whether it concerns an endpoint; the two directions of the default one are one."""
        return endpoint == self.endpoint if self.endpoint is not None else endpoint != 0

    def counts(self, transfer: Transfer) -> bool:
        """Whether a transfer of its endpoint is one of those that it counts, and may happen to."""
        return self.request is None or (bool(transfer.setup) and transfer.setup[1] == self.request)

    @property
    def is_spent(self) -> bool:
        return 0 < self.times <= self.happened

    def happens(self) -> None:
        self.happened += 1
        self.passed = 0


NEEDS_IN: Final = {Kind.SHORT, Kind.LENGTH, Kind.BABBLE}  # nothing is sent on OUT endpoints


def check(fault: Fault, endpoints: Mapping[int, Endpoint]) -> None:
    """Raise ValueError, with a text for the user, for a fault that a device with these endpoints cannot have."""
    kind, address = fault.kind.value, fault.endpoint
    if address is None:
        if fault.kind is not Kind.VANISH:
            raise ValueError(f"{kind} needs an endpoint, such as 0x81, or 0 for control requests")
    elif address and address not in endpoints:
        there = ", ".join(f"{a:#04x}" for a in sorted(endpoints))
        raise ValueError(f"{kind}: there is no endpoint {address:#04x}; there are: {there or 'none'}, and 0")
    elif address and endpoints[address].type is TransferType.ISOCHRONOUS and fault.kind is not Kind.VANISH:
        raise ValueError(f"{kind}: endpoint {address:#04x} is isochronous, only vanish can happen there")
    elif fault.kind in NEEDS_IN and address and not address & 0x80:
        raise ValueError(f"{kind}: endpoint {address:#04x} is an OUT endpoint, the device sends nothing there")
    if fault.request is not None and address != 0:
        raise ValueError(f"{kind}: a request is one of endpoint 0")
    if isinstance(fault.become, str):
        raise ValueError(f"{kind}: {fault.become} is an address; a program gives the device itself")
    if fault.become is not None and fault.away is None:
        raise ValueError(f"{kind}: a device that becomes another comes back: how long is it away?")
    numbers = (fault.after, fault.times, fault.wait, fault.seconds, fault.size or 0, fault.away or 0.0)
    if not all(number >= 0 for number in numbers) or FOREVER in (fault.wait, fault.away):
        raise ValueError(f"{kind}: numbers and times are 0 or more")


_COMMON: Final = ("after", "times", "wait", "request")
_WORDS: Final = {
    Kind.STALL: _COMMON,
    Kind.SHORT: (*_COMMON, "size"),
    Kind.LENGTH: (*_COMMON, "size"),
    Kind.LATE: (*_COMMON, "seconds"),
    Kind.BABBLE: _COMMON,
    Kind.VANISH: (*_COMMON, "away", "become"),
}
_REQUIRED: Final = {Kind.LENGTH: "size", Kind.LATE: "seconds"}


def parse(text: str) -> Fault:
    """A fault from its text: `KIND[:ENDPOINT][:WORD=VALUE]...`, such as `vanish:wait=5:away=1:become=1209:0010`.

    Raises ValueError with a text for the user.
    """
    name, *words = text.split(":")
    try:
        kind = Kind(name)
    except ValueError:
        raise ValueError(f"{name!r} is no fault; there are: {', '.join(k.value for k in Kind)}") from None
    endpoint = _value(kind, "endpoint", _number, words.pop(0)) if words and "=" not in words[0] else None
    values: dict[str, Any] = {}
    while words:
        word, equals, value = words.pop(0).partition("=")
        if word not in _WORDS[kind] or not equals:
            raise ValueError(f"{kind.value} has no {word!r}; it has: {', '.join(_WORDS[kind])}")
        if word == "become":
            rest = len(words) if value == "virtual" else 1
            value, words = ":".join([value, *(words[:rest] or [""])]), words[rest:]
        values[word] = _value(kind, word, _VALUES[word], value)
    required = _REQUIRED.get(kind)
    if required is not None and required not in values:
        raise ValueError(f"{kind.value} needs {required}=")
    return Fault(kind, endpoint, **values)


def _value(kind: Kind, word: str, convert: Callable[[str], T], text: str) -> T:
    """Raises ValueError that says which word of which fault makes no sense."""
    try:
        return convert(text)
    except ValueError as error:
        raise ValueError(f"{kind.value}, {word}: {error}") from None


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number of seconds") from None


def _another(text: str) -> tuple[int, int] | str:
    if text.startswith("virtual:"):
        return text
    try:
        vendor, product = (int(word, 16) for word in text.split(":"))
    except ValueError:
        raise ValueError(f"{text!r} is no VENDOR:PRODUCT, such as 1209:0010, nor virtual:NAME") from None
    if not (0 <= vendor <= 0xFFFF and 0 <= product <= 0xFFFF):
        raise ValueError(f"{text!r}: ids have four hexadecimal digits")
    return vendor, product


_VALUES: Final[dict[str, Callable[[str], object]]] = {
    "after": _number,
    "times": _number,
    "request": _number,
    "size": _number,
    "wait": _seconds,
    "seconds": _seconds,
    "away": _seconds,
    "become": _another,
}
