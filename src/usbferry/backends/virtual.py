"""The Source of the built-in virtual devices: `virtual:NAME?option=value&option=value`.

A device's options are its class's keyword arguments; their annotations say how a text becomes a value.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import parse_qsl

from ..device import Busy, Claimant, Device, DeviceError, NotFound, Source
from ..devices.virtual import VirtualDevice
from ..registry import DEVICES, load
from ..usb.info import DeviceInfo
from ..usb.types import Speed

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
    """One virtual device; it exists from its first listing until the source closes, claimed or not.

    Raises ValueError for an unknown device or option, with a text for the user.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        _, _, rest = address.partition(":")
        name, _, query = rest.partition("?")
        self._device = make(name, dict(parse_qsl(query, keep_blank_values=True)))
        self._holder: Claimant | None = None

    @property
    def device(self) -> VirtualDevice:
        """The device itself, for a program that does more with it than serve it."""
        return self._device

    async def list(self) -> list[DeviceInfo]:
        await self._device.plug()
        return [self._device.info]

    async def open(self, name: str, claimant: Claimant) -> Device:
        if name != self._device.info.name:
            raise NotFound(f"{self.address} has no device {name!r}")
        if self._device.is_open:
            raise Busy(f"{self.address} is in use")
        await self._device.open()
        return self._device

    async def close(self) -> None:
        await self._device.close()
        await self._device.unplug()


def make(name: str, options: dict[str, str]) -> VirtualDevice:
    """A virtual device from the text form of its options. Raises ValueError with a text for the user."""
    factory = load(DEVICES, "virtual device", name)
    known = {key: kind for key, kind in options_of(factory).items() if key != "clock"}
    arguments = {}
    for key, text in options.items():
        if key not in known:
            raise ValueError(f"{name} has no option {key!r}; it has: {', '.join(known)}")
        try:
            arguments[key] = _convert(known[key], text)
        except ValueError as error:
            raise ValueError(f"{name}, option {key}: {error}") from None
    try:
        device: VirtualDevice = factory(**arguments)
    except (TypeError, DeviceError) as error:
        raise ValueError(f"{name}: {error}") from error
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
