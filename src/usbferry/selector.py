"""Selectors say which devices are meant, also of those not there yet: `046d:c52b,serial=AB*`. Every verb takes them.

A selector is what stands after the source in an address, `usbip://host/046d:c52b`, or alone where no source is needed:
terms with commas between them, of which a device must meet all.

    VID:PID                     hexadecimal; either may be *
    serial=GLOB                 so are product= and manufacturer=
    class=NAME|HEX[/SUB[/PROTO]]    the device's own class or that of one of its interfaces
    port=GLOB                   its bus id or the path to it: what tells identical devices apart
    1-2.3                       the device of that very bus id

In a GLOB `*` is any text, `?` one character, `[ab]` one of these; upper and lower case are the same. A device without a
serial number meets no `serial=`, not even `*`, and so it is with names. `%XX` stands for any byte, as in every address:
`%2C` is a comma in a value, and `%3F` a question mark, which would begin the options.

A list of another machine's devices carries no strings, and perhaps no classes. `select` opens those that it cannot tell
otherwise, for a moment: only ones that nobody uses, and only ones that meet all the other terms.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, unquote

from .device import DeviceError, NotFound
from .usb.classes import NAMES, class_name
from .usb.info import DeviceInfo

if TYPE_CHECKING:
    from .device import Source

log: Final = logging.getLogger(__name__)
FORMS: Final = "VID:PID, serial=, product=, manufacturer=, class=, port=, or a bus id such as 1-2"
_SAFE: Final = "*[]!@$'()+:;/"  # of a value, what an address may hold as it is
_LISTED: Final = 20  # candidates that an error names


class Ambiguous(DeviceError):
    """Several devices are meant where one is wanted. The text has a line for each."""


class Term(ABC):
    """One condition. `meets` answers None where the info, of a list perhaps, does not say."""

    @abstractmethod
    def meets(self, info: DeviceInfo) -> bool | None: ...

    @abstractmethod
    def __str__(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Identity(Term):
    """VID:PID; None is any."""

    vendor: int | None
    product: int | None

    def meets(self, info: DeviceInfo) -> bool:
        device = info.device
        return self.vendor in (None, device.vendor_id) and self.product in (None, device.product_id)

    def __str__(self) -> str:
        return ":".join("*" if part is None else f"{part:04x}" for part in (self.vendor, self.product))


@dataclass(frozen=True, slots=True)
class Text(Term):
    """One of the device's strings."""

    field: str  # "serial", "product" or "manufacturer"
    glob: str

    def meets(self, info: DeviceInfo) -> bool | None:
        text: str = getattr(info, self.field)
        if not text:  # even * is some text
            return False if info.configurations else None
        return _is_like(text, self.glob)

    def __str__(self) -> str:
        return f"{self.field}={quote(self.glob, safe=_SAFE)}"


@dataclass(frozen=True, slots=True)
class Class(Term):
    """The class of the device, or of an interface in the settings in force."""

    triplet: tuple[int, ...]  # class, and perhaps subclass and protocol
    word: str  # as it was written

    def meets(self, info: DeviceInfo) -> bool | None:
        device, length = info.device, len(self.triplet)
        own = (device.device_class, device.device_subclass, device.device_protocol)
        if any(one[:length] == self.triplet for one in (own, *info.classes)):
            return True
        return False if info.classes or info.configurations else None

    def __str__(self) -> str:
        return f"class={self.word}"


@dataclass(frozen=True, slots=True)
class Port(Term):
    """Where it is plugged in."""

    glob: str

    def meets(self, info: DeviceInfo) -> bool:
        return _is_like(info.name, self.glob) or _is_like(info.path, self.glob)

    def __str__(self) -> str:
        return f"port={quote(self.glob, safe=_SAFE)}"


@dataclass(frozen=True, slots=True)
class Name(Term):
    """The one bus id."""

    name: str

    def meets(self, info: DeviceInfo) -> bool:
        return info.name == self.name

    def __str__(self) -> str:
        return quote(self.name, safe="")


@dataclass(frozen=True, slots=True)
class Selector:
    """Terms of which a device must meet all; without one, every device is meant."""

    terms: tuple[Term, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Selector:
        """The selector that a text is, the empty one for "". Raises ValueError, which names the term that is wrong."""
        if not text:
            return cls()
        terms = tuple(_term(part) for part in text.split(","))
        for kind, word in ((Name, "bus id"), (Identity, "VID:PID")):
            if sum(isinstance(term, kind) for term in terms) > 1:
                raise ValueError(f"{text!r} has more than one {word}: a device must meet all terms of a selector")
        return cls(terms)

    @property
    def name(self) -> str:
        """The bus id that it names, "" where it names none."""
        return next((term.name for term in self.terms if isinstance(term, Name)), "")

    @property
    def is_name(self) -> bool:
        """Whether it is a bus id and nothing else."""
        return len(self.terms) == 1 and bool(self.name)

    @property
    def needs_strings(self) -> bool:
        """Whether what a USB/IP server lists cannot do for it."""
        return any(isinstance(term, Text) for term in self.terms)

    def meets(self, info: DeviceInfo) -> bool | None:
        """Whether a device is meant; None when that cannot be told before it has been opened."""
        answers = [term.meets(info) for term in self.terms]
        return False if False in answers else None if None in answers else True

    def matches(self, info: DeviceInfo) -> bool:
        """Whether a device is meant, for one of which all is known: an open one, or a local source's."""
        return self.meets(info) is True

    def __str__(self) -> str:
        return ",".join(map(str, self.terms))


EVERY: Final = Selector()


class Selection(NamedTuple):
    """What `select` found."""

    found: list[DeviceInfo]  # those that are meant
    unread: list[DeviceError]  # why others, which may be, could not be asked: mostly because somebody uses them


async def select(source: Source, selector: Selector, infos: Iterable[DeviceInfo]) -> Selection:
    """Those of a source's devices that are meant. Where its list does not tell, free ones are read for a moment."""
    selection = Selection([], [])
    for info in infos:
        meant = selector.meets(info)
        if meant is None:
            try:
                info = await source.read(info)
            except DeviceError as error:
                log.info("%s at %s is left alone: %s", info.name, source.address, error)
                selection.unread.append(error)
            meant = selector.matches(info)
        if meant:
            selection.found.append(info)
    return selection


def choose(found: Sequence[DeviceInfo], where: str, at: Callable[[str], str] = "port={}".format) -> DeviceInfo:
    """The one device among `found`, which the text `where` stands for; `at` says how to name one of them instead.

    Raises NotFound, or Ambiguous with a line for each candidate.
    """
    if not found:
        raise NotFound(f"there is no device at {where}")
    if len(found) > 1:
        lines = [f"  {one}" for one in _some(found)]
        text = f"{where} stands for {len(found)} devices; name one by its bus id, such as {at(found[0].name)}"
        raise Ambiguous("\n".join([text, *lines]))
    return found[0]


def described(info: DeviceInfo) -> str:
    """A candidate in one line: its bus id, ids, names, serial number and classes, as far as they are known."""
    words = [info.name, info.ids, info.manufacturer, info.product]
    words += [f"serial {info.serial}"] if info.serial else []
    classes = ", ".join(dict.fromkeys(map(class_name, info.classes)))
    words += [f"({classes})"] if classes else []
    return " ".join(" ".join(words).split())


def listed(infos: Iterable[DeviceInfo], none: str = "none") -> str:
    """Candidates in one line, for errors."""
    return ", ".join(_some([*infos])) or none


def _some(infos: Sequence[DeviceInfo]) -> list[str]:
    """Candidates, no more than a reader takes in."""
    more = [f"and {len(infos) - _LISTED} more"] if len(infos) > _LISTED else []
    return [*map(described, infos[:_LISTED]), *more]


def check_bus_id(name: str) -> None:
    """Raises ValueError for what no device of a machine has as its bus id; those of servers may look like anything."""
    if re.fullmatch(r"\d+-\d+(\.\d+)*", name, re.ASCII):
        return
    ids = re.fullmatch(r"([0-9a-f]{4})([0-9a-f]{4})?", name, re.I)
    meant = f"did you mean {ids[1]}:{ids[2] or '*'}? There are" if ids else "there are"
    raise ValueError(f"{name!r} is no term of a selector; {meant}: {FORMS}")


def _is_like(text: str, glob: str) -> bool:
    return fnmatchcase(text.lower(), glob.lower())


def _term(part: str) -> Term:
    key, equals, value = part.strip().partition("=")
    if not equals:
        return _plain(unquote(key))
    key, value = key.strip().lower(), unquote(value)
    if not value:
        raise ValueError(f"{part!r} has nothing after the =")
    if key in ("serial", "product", "manufacturer"):
        return Text(key, value)
    if key == "port":
        return Port(value)
    if key == "class":
        return _class(value.lower())
    raise ValueError(f"{part!r} is no term of a selector; there are: {FORMS}")


def _plain(text: str) -> Term:
    if not text:
        raise ValueError(f"there is an empty term between two commas; there are: {FORMS}")
    if ":" not in text:
        return Name(text)
    found = re.fullmatch(r"(?:0x)?([0-9a-f]{1,4}|\*):(?:0x)?([0-9a-f]{1,4}|\*)", text, re.I)
    if not found:
        raise ValueError(f"{text!r} is no VID:PID: four hexadecimal digits each, such as 046d:c52b, or *")
    vendor, product = (None if part == "*" else int(part, 16) for part in found.groups())
    return Identity(vendor, product)


def _class(text: str) -> Class:
    first, *rest = text.split("/")
    if first in NAMES:
        start: tuple[int, ...] = NAMES[first]
    elif re.fullmatch("(0x)?[0-9a-f]{1,2}", first):
        start = (int(first, 16),)
    else:
        raise ValueError(f"class={text}: there is no class {first!r}; there are: {', '.join(NAMES)}, or two hex digits")
    if len(start) + len(rest) > 3 or not all(re.fullmatch("(0x)?[0-9a-f]{1,2}", part) for part in rest):
        raise ValueError(f"class={text}: after the class comes a subclass and then a protocol, two hex digits each")
    return Class((*start, *(int(part, 16) for part in rest)), text)
