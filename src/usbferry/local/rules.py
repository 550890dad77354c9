"""The rules of `usbferry keep`: devices to be attached whenever they are there, from a file or the command line.

    every = 2.0                              # seconds between two looks at a server

    [[rule]]
    device = "usbip://lab/046d:c52b"         # any address, with any selector

    [[rule]]
    name = "board"                           # what events call it
    device = ["usbip://lab/1209:0001", "usbip://lab/0483:df11"]   # itself, and its bootloader
    within = 30                              # seconds in which it is looked for all the time, after it left

A mistake is told as `FILE:LINE:COLUMN: what is wrong`. TOML's parser keeps no positions, so that the text is cut into
statements first: the fewest lines that the parser takes.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..device import Source
from ..registry import open_source
from ..selector import EVERY, Selector

EVERY_SECONDS: Final = 2.0  # a look costs a connection and some hundred bytes
WITHIN_SECONDS: Final = 10.0
_SHORTEST: Final = 0.1  # seconds between looks that a file may ask for
_RULE_KEYS: Final = {
    "name": "a text",
    "device": "an address, or a list of them",
    "within": "seconds",
    "relay": "a yes or no",
}


class Wish(NamedTuple):
    """An address of a rule: a place, and which of its devices."""

    place: str
    selector: Selector
    source: Source  # of that place


@dataclass(frozen=True, slots=True)
class Rule:
    """Devices to be attached whenever they are there: those of any of its wishes."""

    name: str
    wishes: tuple[Wish, ...]
    within: float = WITHIN_SECONDS
    relay: bool = False


class Rules(NamedTuple):
    """All that `keep` is told."""

    rules: tuple[Rule, ...]
    every: float = EVERY_SECONDS


def paths() -> list[Path]:
    """Where the file is looked for: the user's own, then the machine's."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return [Path(config) / "usbferry" / "keep.toml", Path("/etc/usbferry/keep.toml")]


def read(path: Path) -> Rules:
    """The rules of a file. Raises ValueError: `FILE:LINE:COLUMN: what is wrong`, and OSError."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: it is no UTF-8 text: {error.reason} at byte {error.start}") from None
    try:
        return parse(text)
    except _Mistake as mistake:
        raise ValueError(f"{path}:{mistake.line}:{mistake.column}: {mistake}") from None


def from_addresses(addresses: Sequence[str], *, relay: bool = False) -> Rules:
    """A rule for each address. Raises ValueError."""
    sources: dict[str, Source] = {}
    return Rules(tuple(Rule(address, (_wish(address, sources),), relay=relay) for address in addresses))


def _wish(address: str, sources: dict[str, Source]) -> Wish:
    """One source a place: a virtual device, for one, comes into being with its source."""
    source = sources.get(address) or open_source(address)
    place = source.place
    if place not in sources:
        sources[place] = source if place == source.address else open_source(place)
    return Wish(place, source.selector or EVERY, sources[place])


# -- the file ----------------------------------------------------------------------------------------------------------


class _Mistake(ValueError):
    """What is wrong, and where; both count from 1."""

    def __init__(self, text: str, line: int, column: int) -> None:
        super().__init__(text)
        self.line = line
        self.column = column


class _Statement(NamedTuple):
    """A table's header, or a key with its value, as it stands in the text."""

    line: int  # its first
    text: str
    found: dict[str, Any]  # what it alone means

    def mistake(self, text: str, part: str = "") -> _Mistake:
        """Something is wrong with `part` of it, or with all of it."""
        start = len(self.text) - len(self.text.lstrip())
        at = self.text.find(part, self.text.find("=") + 1) if part else start
        before = self.text[: at if at >= 0 else start]
        return _Mistake(text, self.line + before.count("\n"), len(before) - (before.rfind("\n") + 1) + 1)


def parse(text: str) -> Rules:
    """The rules of a file's text. Raises ValueError, with the place as `read` tells it."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax(text, str(error)) from None
    sources: dict[str, Source] = {}
    tables: list[tuple[_Statement, list[_Statement]]] = []
    every = EVERY_SECONDS
    for statement in _statements(text):
        is_header = statement.text.lstrip().startswith("[")
        if is_header and statement.found == {"rule": [{}]}:
            tables.append((statement, []))
        elif is_header:
            raise statement.mistake(f"there is no table {statement.text.strip()}, only [[rule]]")
        elif tables:
            tables[-1][1].append(statement)
        else:
            every = _of_file(statement)
    rules = tuple(_rule(header, keys, sources) for header, keys in tables)
    if not rules:
        raise _Mistake("there is no [[rule]] in it", 1, 1)
    return Rules(rules, every)


def _syntax(text: str, said: str) -> _Mistake:
    """What TOML's parser says, "Expected '=' after a key in a key/value pair (at line 3, column 8)"."""
    reason, _, where = said.rpartition(" (at ")
    words = where.rstrip(")").replace(",", "").split()
    if words[:1] == ["line"]:
        return _Mistake(reason, int(words[1]), int(words[3]))
    lines = text.split("\n")
    return _Mistake(reason or said, len(lines), len(lines[-1]) + 1)  # "at end of document"


def _statements(text: str) -> Iterator[_Statement]:
    """The statements of a text that is known to be TOML."""
    lines = text.split("\n")
    first = 0
    while first < len(lines):
        for last in range(first + 1, len(lines) + 1):
            piece = "\n".join(lines[first:last])
            try:
                found = tomllib.loads(piece)
            except tomllib.TOMLDecodeError:
                continue
            if found:
                yield _Statement(first + 1, piece, found)
            break
        first = last


def _of_file(statement: _Statement) -> float:
    [(key, value)] = statement.found.items()
    if key != "every":
        raise statement.mistake(f"there is no {key!r} here; there are: every (seconds), and [[rule]] tables")
    return _seconds(statement, key, value, _SHORTEST)


def _rule(header: _Statement, keys: Sequence[_Statement], sources: dict[str, Source]) -> Rule:
    fields: dict[str, Any] = {}
    for statement in keys:
        [(key, value)] = statement.found.items()
        if key not in _RULE_KEYS:
            known = ", ".join(f"{name} ({form})" for name, form in _RULE_KEYS.items())
            raise statement.mistake(f"a rule has no {key!r}; it has: {known}")
        fields[key] = _KINDS[key](statement, key, value, sources)
    if "device" not in fields:
        raise header.mistake('this rule has no device = "ADDRESS", such as usbip://HOST/046d:c52b')
    wishes, first = fields.pop("device")
    return Rule(fields.pop("name", first), wishes, **fields)


def _device(statement: _Statement, key: str, value: object, sources: dict[str, Source]) -> tuple[tuple[Wish, ...], str]:
    addresses: list[Any] = value if isinstance(value, list) else [value]
    if not addresses or not all(isinstance(one, str) and one for one in addresses):
        raise statement.mistake(f"{key} is {_RULE_KEYS[key]}, each in quotes")
    wishes = []
    for address in addresses:
        try:
            wishes.append(_wish(address, sources))
        except ValueError as error:
            raise statement.mistake(str(error), address) from None
    return tuple(wishes), addresses[0]


def _text(statement: _Statement, key: str, value: object, sources: object) -> str:
    if not isinstance(value, str) or not value:
        raise statement.mistake(f"{key} is {_RULE_KEYS[key]}, in quotes")
    return value


def _yes(statement: _Statement, key: str, value: object, sources: object) -> bool:
    if not isinstance(value, bool):
        raise statement.mistake(f"{key} is true or false, without quotes")
    return value


def _seconds(statement: _Statement, key: str, value: object, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise statement.mistake(f"{key} is a number of seconds, {least:g} or more, without quotes")
    return float(value)


_KINDS: Final[dict[str, Callable[..., Any]]] = {
    "name": _text,
    "device": _device,
    "within": lambda statement, key, value, sources: _seconds(statement, key, value, 0),
    "relay": _yes,
}
