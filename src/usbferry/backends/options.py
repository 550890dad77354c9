"""Options as text, `NAME=VALUE&NAME=VALUE`, and the keyword arguments that they are: annotations say how.

`%XX` stands for any byte, `+` for itself, and an option without value is switched on.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints
from urllib.parse import unquote

from ..usb.types import Speed

_SUFFIXES: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SPEEDS: Final = {
    "low": Speed.LOW,
    "full": Speed.FULL,
    "high": Speed.HIGH,
    "super": Speed.SUPER,
    "super+": Speed.SUPER_PLUS,
}
_YES_NO: Final = {
    **dict.fromkeys(("yes", "on", "true", "1", ""), True),
    **dict.fromkeys(("no", "off", "false", "0"), False),
}
_NOT_FOR_USERS: Final = ("clock",)  # what only a program can give


def split(query: str) -> list[tuple[str, str]]:
    """The options of an address in their order, names and values as they are meant."""
    pairs = (part.partition("=") for part in query.split("&") if part)
    return [(unquote(key), unquote(value)) for key, _, value in pairs]


def speed_name(speed: Speed) -> str:
    """How an option has a speed."""
    return next(name for name, one in _SPEEDS.items() if one is speed)


def without_buffer(address: str, most: float) -> tuple[str, float | None]:
    """An address without its `buffer=SECONDS`, and that; None where it has none. Raises ValueError with a text."""
    bare, _, query = address.partition("?")
    parts = query.split("&") if query else []
    given = [part for part in parts if part.startswith("buffer=")]
    rest = "&".join(part for part in parts if part not in given)
    seconds = buffer_seconds(given[-1].removeprefix("buffer="), most) if given else None
    return f"{bare}?{rest}" if rest else bare, seconds


def no_others(address: str, bare: str, form: str, *known: str) -> None:
    """Raises ValueError for an option that is left in `bare`, which is `address` without `buffer`, and is not known."""
    for key, value in split(bare.partition("?")[2]):
        if key not in known and value:
            there = " and ".join((*known, "buffer"))
            raise ValueError(f"{address!r} is no address, write it as {form}: it has no option {key!r}, only {there}")


def buffer_seconds(text: str, most: float, least: float = 0.0) -> float:
    """Of `buffer`. Raises ValueError with a text for the user."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not least <= seconds <= most:
        raise ValueError(f"buffer={text} is no time; write it in seconds, as 0.1, up to {most:g}")
    return seconds


def options_of(factory: Any) -> dict[str, Any]:
    """The options of a class and their types, in the order of its signature; one without a type is text."""
    try:
        hints = get_type_hints(factory.__init__)
    except NameError as error:
        raise ValueError(f"{factory.__name__}: the types of its options cannot be read: {error}") from error
    named = (p.name for p in inspect.signature(factory).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY)
    who = factory.__name__
    return {name: _plain(f"{who}, option {name}", hints.get(name, str)) for name in named if name not in _NOT_FOR_USERS}


def arguments(who: str, factory: Any, texts: Mapping[str, str], also: tuple[str, ...] = ()) -> dict[str, Any]:
    """The keyword arguments for a class. Raises ValueError, which says who has which options, `also` included."""
    known = options_of(factory)
    found: dict[str, Any] = {}
    parameters = inspect.signature(factory).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):  # those of its parts, as they are
        found = {name: text for name, text in texts.items() if "." in name}
        also = (*also, "PART.OPTION")
    for name, text in texts.items():
        if name in found:
            continue
        if name not in known:
            raise ValueError(f"{who} has no option {name!r}; it has: {', '.join((*known, *also))}")
        try:
            found[name] = _convert(known[name], text)
        except ValueError as error:
            raise ValueError(f"{who}, option {name}: {error}") from None
    missing = [n for n in known if n not in found and parameters[n].default is inspect.Parameter.empty]
    if missing:
        raise ValueError(f"{who} needs {' and '.join(f'{n}=...' for n in missing)}")
    return found


def described(factory: Any) -> dict[str, Any]:
    """The options of a class for people and programs: their types and defaults, both as text or JSON's own."""
    parameters = inspect.signature(factory).parameters
    return {
        name: {"type": kind.__name__.lower(), "default": _default(parameters[name].default)}
        for name, kind in options_of(factory).items()
    }


def _plain(which: str, kind: Any) -> type:
    """`int` of `int | None`: an option that is given has a value."""
    is_union = get_origin(kind) in (UnionType, Union)
    plain = [one for one in get_args(kind) if one is not NoneType] if is_union else [kind]
    if len(plain) > 1 or plain[0] not in _CONVERTERS:
        there = ", ".join(one.__name__ for one in _CONVERTERS)
        raise ValueError(f"{which}: the type {kind} has no text form; there are: {there}")
    return plain[0]  # type: ignore[no-any-return]


def _default(value: object) -> object:
    if value is inspect.Parameter.empty or value is None:
        return None
    if isinstance(value, Speed):
        return speed_name(value)
    return value if isinstance(value, str | int | float) else str(value)


def _convert(kind: type, text: str) -> object:
    return _CONVERTERS[kind](text)


def _choose(values: Mapping[str, Any], text: str) -> Any:
    if text.lower() not in values:
        raise ValueError(f"{text!r} is none of {', '.join(name for name in values if name)}")
    return values[text.lower()]


def _number(text: str) -> int:
    """An integer, in any base Python writes, with an optional binary suffix: 64, 0x40, 32M."""
    factor = _SUFFIXES.get(text[-1:].lower(), 1)
    try:
        return int(text[:-1] if factor > 1 else text, 0) * factor
    except ValueError:
        raise ValueError(f"{text!r} is no number; write it as 512, 0x200, or 32M") from None


def _decimal(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is no number; write it as 2 or 0.5")
    return number


def _path(text: str) -> Path:
    if not text:
        raise ValueError("it needs a file's name")
    return Path(text).expanduser()


_CONVERTERS: Final[dict[Any, Any]] = {
    str: str,
    int: _number,
    float: _decimal,
    bool: lambda text: _choose(_YES_NO, text),
    Speed: lambda text: _choose(_SPEEDS, text),
    Path: _path,
}
