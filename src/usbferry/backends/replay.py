"""`replay:FILE`: the device of a capture, as `tap:`, Wireshark, tcpdump and USBPcap write them, played again.

Options: `device=BUS.ADDRESS` where there are several, `speed=` where the capture does not say it, and those of
`devices.player.Player`: timed, ordered, check, end; `fault=...` as of every virtual device.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from ..device import Claimant, Device, DeviceError, Source, Watchers, Watching
from ..devices import fault
from ..devices.player import Player, check_end
from ..usb.info import DeviceInfo
from ..usb.types import Speed
from . import options
from .capture import tape
from .capture.events import CaptureError
from .virtual import VirtualSource

log: Final = logging.getLogger(__name__)


class _Which:
    """What of a capture is played."""

    def __init__(self, *, device: str = "", speed: Speed = Speed.UNKNOWN) -> None:
        self.device = tuple(_numbers(device)) if device else ()
        self.speed = speed


def _numbers(text: str) -> list[int]:
    bus, dot, address = text.partition(".")
    if not dot or not bus.isdecimal() or not address.isdecimal():
        raise ValueError(f"device is {text!r}, write it as BUS.ADDRESS, such as 1.5")
    return [int(bus), int(address)]


class ReplaySource(Source):
    """One device of a capture, read when it is first asked for. Raises ValueError for a bad address, or no file."""

    def __init__(self, address: str) -> None:
        self.address = address
        bare, _, query = address.partition(":")[2].partition("?")
        if not bare:
            raise ValueError(f"{address!r}: write it as replay:FILE, such as replay:session.pcapng")
        self.path = Path(unquote(bare)).expanduser()
        given, self._faults = dict[str, str](), list[fault.Fault]()
        for key, text in options.split(query):
            if key == "fault":
                self._faults.append(fault.parse(text))
            else:
                given[key] = text
        mine = options.options_of(_Which)
        others = {key: text for key, text in given.items() if key not in mine}
        self._options = options.arguments("replay", Player, others, also=(*mine, "fault"))
        check_end(self._options.get("end", "wait"))
        which = options.arguments("replay", _Which, {key: text for key, text in given.items() if key in mine})
        self._which = _Which(**which)
        if not self.path.exists():
            raise ValueError(f"there is no file {self.path}; tap:{bare}?of=ADDRESS records one")
        self._there: VirtualSource | None = None
        self._loading = asyncio.Lock()
        self._watchers = Watchers()

    async def _loaded(self) -> VirtualSource:
        """The device; what is wrong with the file is a DeviceError. A thread reads: long captures take seconds."""
        async with self._loading:
            if self._there is None:
                try:
                    player = Player(await asyncio.to_thread(self._tape), **self._options)
                    for one in self._faults:
                        player.faults.add(one)
                except OSError as error:
                    raise DeviceError(f"{self.path}: {error.strerror}") from error
                except ValueError as error:
                    raise DeviceError(f"{self.path}: {error}") from error
                self._there = VirtualSource(self.address, player, watchers=self._watchers)
        return self._there

    def _tape(self) -> tape.Tape:
        found = tape.read(self.path)
        wanted = [device for device in found if not self._which.device or device == self._which.device]
        tapes = {device: tape.of(found[device][0], self._which.speed or found[device][1]) for device in wanted}
        playable = {device: one for device, one in tapes.items() if one is not None}
        if not playable:
            there = ", ".join(f"{bus}.{address}" for bus, address in found)
            raise CaptureError(
                f"it has no descriptors of {'that device' if self._which.device else 'any device'}, there are {there}; "
                "capture while the device is plugged in"
            )
        if len(playable) > 1:
            these = ", ".join(f"device={b}.{a} ({one.info.ids} {one.info.title})" for (b, a), one in playable.items())
            raise CaptureError(f"it has several devices, choose one: {these}")
        [one] = playable.values()
        if one.cut:
            log.warning("%s: the capture kept only the start of %d transfers; the rest are zeros", self.path, one.cut)
        return one

    async def list(self) -> list[DeviceInfo]:
        return await (await self._loaded()).list()

    async def open(self, name: str, claimant: Claimant) -> Device:
        return await (await self._loaded()).open(name, claimant)

    def watch(self) -> Watching:
        return self._watchers.watch()

    async def close(self) -> None:
        self._watchers.close()
        if self._there is not None:
            await self._there.close()
