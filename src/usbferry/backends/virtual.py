"""The Source of the built-in virtual devices: `virtual:NAME?option=value&option=value`.

A device's options are its class's keyword arguments; their annotations say how a text becomes a value. Besides, each
takes `fault=...`, any number of times: what it does wrong, see `devices.faults`. `%XX` stands for any byte, `+` for
itself.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, get_type_hints
from urllib.parse import parse_qsl

from ..device import Busy, Change, Claimant, Device, DeviceError, NotFound, Source
from ..devices import fault
from ..devices.clock import Timer
from ..devices.virtual import VirtualDevice
from ..registry import DEVICES, load
from ..usb.info import DeviceInfo
from ..usb.types import Speed

log: Final = logging.getLogger(__name__)
_SUFFIXES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SPEEDS = {"low": Speed.LOW, "full": Speed.FULL, "high": Speed.HIGH, "super": Speed.SUPER, "super+": Speed.SUPER_PLUS}
_YES_NO = {
    "1": True,
    "yes": True,
    "true": True,
    "on": True,
    "": True,
    "0": False,
    "no": False,
    "false": False,
    "off": False,
}


class VirtualSource(Source):
    """One virtual device; it exists from its first use until the source closes, claimed or not.

    Raises ValueError for an unknown device or option, with a text for the user.
    """

    def __init__(self, address: str, device: VirtualDevice | None = None) -> None:
        """The device that `address` describes, or one that a program has made."""
        self.address = address
        if device is None:
            _, _, rest = address.partition(":")
            name, _, query = rest.partition("?")
            options = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)
            faults = [text for key, text in options if key == "fault"]
            device = make(name, {key: text for key, text in options if key != "fault"}, faults)
        self._device = device
        self._is_here = True
        self._returns: Timer | None = None
        self._is_due_back = False
        self._watchers: set[asyncio.Queue[Change]] = set()
        device.left = self._left
        device.freed = self._freed

    @property
    def device(self) -> VirtualDevice:
        """The device itself, for a program that does more with it than serve it."""
        return self._device

    async def list(self) -> list[DeviceInfo]:
        if not self._is_here:
            return []
        await self._device.plug()
        return [self._device.info]

    async def open(self, name: str, claimant: Claimant) -> Device:
        if name != self._device.info.name or not self._is_here:
            raise NotFound(f"{self.address} has no device {name!r}")
        if self._device.is_open:
            raise Busy(f"{self.address} is in use")
        await self._device.plug()
        await self._device.open()
        return self._device

    async def watch(self) -> AsyncIterator[Change]:
        changes: asyncio.Queue[Change] = asyncio.Queue()
        self._watchers.add(changes)
        try:
            while True:
                yield await changes.get()
        finally:
            self._watchers.discard(changes)

    async def close(self) -> None:
        if self._returns is not None:
            self._returns.cancel()
        await self._device.close()
        await self._device.unplug()

    # -- leaving and coming back --------------------------------------------------------------------------------------

    def _left(self, away: float | None) -> None:
        self._is_here = False
        self._tell(Change(self._device.info.name, None))
        if away is not None:
            clock = self._device.clock
            self._returns = clock.call_at(clock.now() + away, self._back)

    def _back(self) -> None:
        """The time is over. Nobody can have it before the claim that it left has ended."""
        self._is_due_back = self._device.is_open
        if self._is_due_back:
            return
        self._is_here = True
        log.info("%s is back: %s", self.address, self._device.info)
        self._tell(Change(self._device.info.name, self._device.info))

    def _freed(self) -> None:
        if self._is_due_back:
            self._back()

    def _tell(self, change: Change) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(change)


def make(name: str, options: Mapping[str, str], faults: Iterable[str] = ()) -> VirtualDevice:
    """A virtual device from the text form of its options and faults. Raises ValueError with a text for the user."""
    factory = load(DEVICES, "virtual device", name)
    known = {key: kind for key, kind in options_of(factory).items() if key != "clock"}
    arguments = {}
    for key, text in options.items():
        if key not in known:
            raise ValueError(f"{name} has no option {key!r}; it has: {', '.join(known)}, fault")
        try:
            arguments[key] = _convert(known[key], text)
        except ValueError as error:
            raise ValueError(f"{name}, option {key}: {error}") from None
    try:
        device: VirtualDevice = factory(**arguments)
    except (TypeError, DeviceError) as error:
        raise ValueError(f"{name}: {error}") from error
    for text in faults:
        device.faults.add(fault.parse(text))
    return device


def options_of(factory: Any) -> dict[str, Any]:
    """The options of a device class and their types, in the order of its signature."""
    hints = get_type_hints(factory.__init__)
    parameters = inspect.signature(factory).parameters
    return {key: hints[key] for key, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def about(name: str) -> dict[str, Any]:
    """A row of DEVICES for people: its address, one sentence, its options with their types and defaults."""
    factory = load(DEVICES, "virtual device", name)
    parameters = inspect.signature(factory).parameters
    module = inspect.getmodule(factory)
    assert module is not None
    first = (module.__doc__ or "").strip().splitlines()[0]
    options = {
        key: {"type": _type_name(kind), "default": _default(parameters[key].default)}
        for key, kind in options_of(factory).items()
        if key != "clock"
    }
    options["fault"] = {"type": "fault", "default": None}
    return {"name": name, "address": f"virtual:{name}", "about": first, "options": options}


def _type_name(kind: Any) -> str:
    return str(kind.__name__ if isinstance(kind, type) else kind).lower().replace("pathlib._local.", "")


def _default(value: object) -> object:
    if isinstance(value, Speed):
        return next(name for name, speed in _SPEEDS.items() if speed is value)
    return value if isinstance(value, str | int | None) else str(value)


def _convert(kind: Any, text: str) -> object:
    if kind is Speed:
        return _choose(_SPEEDS, text)
    if kind is bool:
        return _choose(_YES_NO, text.lower())
    if kind is int:
        return _number(text)
    if kind is float:
        return _decimal(text)
    if kind is Path or kind == Path | None:
        return Path(text).expanduser()
    return text


def _choose(values: dict[str, Any], text: str) -> object:
    if text not in values:
        raise ValueError(f"{text!r} is none of {', '.join(k for k in values if k)}")
    return values[text]


def _number(text: str) -> int:
    """An integer, in any base Python writes, with an optional binary suffix: 64, 0x40, 32M."""
    digits, suffix = (text[:-1], text[-1].lower()) if text[-1:].lower() in _SUFFIXES and text else (text, "")
    try:
        return int(digits, 0) * _SUFFIXES[suffix]
    except ValueError:
        raise ValueError(f"{text!r} is no number; write it as 512, 0x200, or 32M") from None


def _decimal(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number; write it as 2 or 0.5") from None
