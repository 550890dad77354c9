"""The Source of the virtual devices: `virtual:NAME?option=value&option=value`, or `virtual:FILE.py:CLASS?...`.

A device's options are its class's keyword arguments, as `options` reads them. Besides, each takes `fault=...`, any
number of times: what it does wrong, see `devices.faults`. Classes of the user's own are found by `own`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from ..device import Busy, Change, Claimant, Device, DeviceError, NotFound, Source, Watchers, Watching
from ..devices import fault
from ..devices.clock import Timer
from ..devices.virtual import VirtualDevice
from ..registry import DEVICES, UnknownName, load
from ..usb.info import DeviceInfo
from . import options, own

log: Final = logging.getLogger(__name__)


class VirtualSource(Source):
    """One virtual device; it exists from its first use until the source closes, claimed or not.

    Raises ValueError for an unknown device or option, with a text for the user.
    """

    def __init__(self, address: str, device: VirtualDevice | None = None, *, watchers: Watchers | None = None) -> None:
        """The device that `address` describes, or one that a program has made; `watchers` may be there before it."""
        self.address = address
        self._is_here = True
        self._returns: Timer | None = None
        self._is_due_back = False
        self._next: VirtualDevice | None = None  # what comes back in the place of the device that left
        self._unplugging: set[asyncio.Task[None]] = set()
        self._watchers = Watchers() if watchers is None else watchers
        self._adopt(described(address) if device is None else device)

    @property
    def device(self) -> VirtualDevice:
        """The device itself, for a program that does more with it than serve it. It may become another one."""
        return self._device

    async def list(self) -> list[DeviceInfo]:
        if not self._is_here:
            return []
        await self._plug()
        return [self._device.info]

    async def open(self, name: str, claimant: Claimant) -> Device:
        if name != self._device.info.name or not self._is_here:
            raise NotFound(f"{self.address} has no device {name!r}")
        if self._device.is_open:
            raise Busy(f"{self.address} is in use")
        await self._plug()
        await self._device.open()
        return self._device

    def watch(self) -> Watching:
        return self._watchers.watch()

    async def close(self) -> None:
        if self._returns is not None:
            self._returns.cancel()
        self._watchers.close()
        await self._device.close()
        await self._device.unplug()
        await self._former_gone()

    async def _plug(self) -> None:
        """What was here before may have what this one needs, a name in the file system or a port."""
        await self._former_gone()
        await self._device.plug()

    async def _former_gone(self) -> None:
        if self._unplugging:
            await asyncio.wait(self._unplugging)

    # -- leaving and coming back --------------------------------------------------------------------------------------

    def _adopt(self, device: VirtualDevice) -> None:
        self._device = device
        device.left = self._left
        device.freed = self._freed

    def _left(self, away: float | None, become: Device | None) -> None:
        assert become is None or isinstance(become, VirtualDevice)
        if not self._is_here:
            return
        self._is_here, self._next = False, become
        self._watchers.tell(Change(self._device.info.name, None))
        if away is not None:
            clock = self._device.clock
            self._returns = clock.call_at(clock.now() + away, self._back)

    def _back(self) -> None:
        """The time is over. Nobody can have it before the claim that it left has ended."""
        self._is_due_back = self._device.is_open
        if self._is_due_back:
            return
        if self._next is not None:
            self._replace(self._next)
        self._is_here = True
        log.info("%s is back: %s", self.address, self._device.info)
        self._watchers.tell(Change(self._device.info.name, self._device.info))

    def _replace(self, device: VirtualDevice) -> None:
        """Another device is here from now on; the one that was ceases to be."""
        former, self._next = self._device, None
        self._adopt(device)
        if former is not device:
            task = asyncio.get_running_loop().create_task(self._unplug(former))
            self._unplugging.add(task)
            task.add_done_callback(self._unplugging.discard)

    async def _unplug(self, device: VirtualDevice) -> None:
        try:
            await device.unplug()
        except Exception:
            log.exception("%s: what was here before could not be unplugged", self.address)

    def _freed(self) -> None:
        if self._is_due_back:
            self._back()


def described(address: str) -> VirtualDevice:
    """The device that a `virtual:` address stands for. Raises ValueError with a text for the user."""
    _, _, rest = address.partition(":")
    name, _, query = rest.partition("?")
    given: dict[str, str] = {}
    faults = []
    for key, text in options.split(query):
        if key == "fault":
            faults.append(text)
        elif key in given:
            raise ValueError(f"{address}: {key} is given twice")
        else:
            given[key] = text
    return make(unquote(name), given, faults)


def make(name: str, given: Mapping[str, str], faults: Iterable[str] = ()) -> VirtualDevice:
    """A virtual device from the text form of its options and faults. Raises ValueError with a text for the user."""
    factory = own.load(name) if own.is_own(name) else _built_in(name)
    arguments = options.arguments(name, factory, given, also=("fault",))
    try:
        device: VirtualDevice = factory(**arguments)
        if own.is_own(name):
            own.check(device)
        for text in faults:
            device.faults.add(_fault(text))
    except OSError as error:
        raise ValueError(f"{name}: {error.filename}: {error.strerror}") from error
    except (ValueError, DeviceError) as error:
        raise ValueError(f"{name}: {error}") from error
    except Exception as error:
        if not own.is_own(name):
            raise
        raise ValueError(own.failed(factory, error)) from error
    return device


def _built_in(name: str) -> Any:
    try:
        return load(DEVICES, "virtual device", name)
    except UnknownName as error:
        if Path(f"{name}.py").is_file():
            raise UnknownName(f"no virtual device {name!r}; did you mean the file, virtual:{name}.py?") from None
        raise UnknownName(f"{error}; one of your own is virtual:FILE.py") from None


def _fault(text: str) -> fault.Fault:
    found = fault.parse(text)
    if isinstance(found.become, str):
        found.become = described(found.become)
    return found


def about(name: str) -> dict[str, Any]:
    """A row of DEVICES for people: its address, one sentence, its options with their types and defaults."""
    factory = load(DEVICES, "virtual device", name)
    module = inspect.getmodule(factory)
    assert module is not None
    first = (module.__doc__ or "").strip().splitlines()[0]
    described = {**options.described(factory), "fault": {"type": "fault", "default": None}}
    return {"name": name, "address": f"virtual:{name}", "about": first, "options": described}
