"""The devices of this machine as a Source: `usb:` all of them, `usb:1-2` the one at that port, `usb:046d:*`.

What is there is found by scans, which are cheap: every two seconds while somebody watches or has a device, and at once
when libusb says that something came or left. So it works as well where the kernel tells nothing, as in containers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from ...device import Busy, Change, Claimant, Device, DeviceError, NotFound, Source, Unavailable, Watchers, Watching
from ...selector import Selector, check_bus_id, listed
from ...usb.info import DeviceInfo
from .. import options
from .contexts import Lent, borrow, give_back, hold
from .device import LibusbDevice
from .handle import Handle
from .library import ACCESS, LEFT, NO_DEVICE, Context, LibraryError
from .precious import why_precious
from .reasons import why_not
from .scan import Plugged, find, plugged_in

log: Final = logging.getLogger(__name__)
SCAN_SECONDS: Final = 2.0  # between two scans, where nothing calls for one sooner
PERMISSION_SECONDS: Final = 5.0  # after it arrived, until when udev may still be about to give us a device
PERMISSION_RETRY: Final = 0.25
RETURN_SECONDS: Final = 3.0  # for a device that is another one after its reset
T = TypeVar("T")


class LibusbSource(Source):
    """`usb:[SELECTOR][?OPTION]...`. Raises ValueError for bad addresses.

    Options: `later`, it is no error that nothing is there yet; `force`, for what is not shared by accident.
    """

    has_bus_ids = True

    def __init__(self, address: str) -> None:
        self.address = address
        text, _, query = address.partition(":")[2].partition("?")
        try:
            selector = Selector.parse(text)
            if selector.name:
                check_bus_id(selector.name)
            given = options.arguments("usb", _Options, dict(options.split(query)))
        except ValueError as error:
            raise ValueError(f"{address}: {error}") from None
        self.selector: Selector = selector
        self.name = selector.name if selector.is_name else ""
        self._options = _Options(**given)
        self._precious: dict[str, str] = {}  # name -> why it is not offered
        self._devices: dict[str, LibusbDevice] = {}  # those that are open, by name
        self._there: dict[Plugged, DeviceInfo] = {}  # at the last scan
        self._arrived: dict[Plugged, float] = {}  # when, where that was seen
        self._scanning = asyncio.Lock()
        self._lent: Lent | None = None  # whose hints we hear; a device holds the one that it was opened in
        self._opening: dict[str, asyncio.Task[LibusbDevice]] = {}  # by name; each goes on when nobody waits for it
        self._works: set[asyncio.Task[Any]] = set()  # what `close` waits for: those, and what undoes them
        self._is_closed = False
        self._watchers = Watchers()
        self._watch: asyncio.Task[None] | None = None
        self._hint = asyncio.Event()

    # -- the seam -----------------------------------------------------------------------------------------------------

    async def list(self) -> list[DeviceInfo]:
        """Raises NotFound when the address describes a device that is not there."""
        there = await self._scan()
        found = [info for info in there.values() if self.selector.matches(info)]
        if self.selector.terms and not found and not self._options.later:
            raise NotFound(f"this machine has no USB device {str(self.selector)!r}; it has: {listed(there.values())}")
        return found

    def at(self, name: str) -> str:
        return f"usb:{name}"

    def why_not_offered(self, info: DeviceInfo) -> str | None:
        return None if self._options.force else self._precious.get(info.name)

    async def open(self, name: str, claimant: Claimant) -> Device:
        give_up = asyncio.get_running_loop().time() + PERMISSION_SECONDS
        while True:
            plugged, info = await self._find(name)
            if name in self._devices or name in self._opening:
                raise Busy(f"{name} is in use")
            if claimant.protocol and (reason := self.why_not_offered(info)):  # such as mounted since it was offered
                raise DeviceError(f"{name} {reason}; --force shares it all the same")
            try:
                return await self._open(plugged, info)
            except LibraryError as error:
                now = asyncio.get_running_loop().time()
                arrived = self._arrived.get(plugged, now - PERMISSION_SECONDS)
                if error.code != ACCESS or now >= min(give_up, arrived + PERMISSION_SECONDS):
                    raise await asyncio.to_thread(why_not, error, plugged) from error
                await asyncio.sleep(PERMISSION_RETRY)

    def watch(self) -> Watching:
        self._start_watching()
        return self._watchers.watch()

    async def close(self) -> None:
        self._is_closed = True
        self._watchers.close()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
            self._watch = None
        while self._works:  # a context that ends under a device being opened takes the process with it
            await asyncio.wait(self._works)
        for device in tuple(self._devices.values()):
            await device.close()
        if self._lent is not None:
            lent, self._lent = self._lent, None
            await self._leave(lent)

    # -- what is there ------------------------------------------------------------------------------------------------

    async def _find(self, name: str) -> tuple[Plugged, DeviceInfo]:
        there = await self._scan()
        for plugged, info in there.items():
            if plugged.name == name and self.selector.matches(info):
                return plugged, info
        raise NotFound(f"{name} is not there now; this machine has: {listed(there.values())}")

    async def _scan(self) -> dict[Plugged, DeviceInfo]:
        """What is there now. Who watches hears what that changes. Raises DeviceError."""
        async with self._scanning:
            try:
                there, self._precious = await asyncio.to_thread(_look)
            except LibraryError as error:
                raise DeviceError(f"this machine's USB devices cannot be listed: {error}") from error
            self._update(there)
            return there

    def _update(self, there: dict[Plugged, DeviceInfo]) -> None:
        before, self._there = self._there, there
        for device in tuple(self._devices.values()):
            if device.plugged not in there:
                device.left("it was unplugged")
        for plugged in before.keys() - there.keys():
            self._arrived.pop(plugged, None)
            if self.selector.matches(before[plugged]):
                self._watchers.tell(Change(plugged.name, None))
        now = asyncio.get_running_loop().time()
        for plugged in there.keys() - before.keys():
            if before:
                self._arrived[plugged] = now
            if self.selector.matches(there[plugged]):
                self._watchers.tell(Change(plugged.name, there[plugged]))

    def _start_watching(self) -> None:
        if self._watch is None and not self._is_closed:
            self._watch = asyncio.get_running_loop().create_task(self._keep_watching())

    async def _keep_watching(self) -> None:
        with suppress(DeviceError):
            await give_back(await self._borrow())  # for its hints; scans do without
        while True:
            self._hint.clear()
            try:
                await self._scan()
            except DeviceError as error:
                log.warning("%s: %s", self.address, error)
            with suppress(TimeoutError):
                async with asyncio.timeout(SCAN_SECONDS):
                    await self._hint.wait()

    def _plugged(self, event: int, bus: int, address: int) -> None:
        """libusb says that a device came or left."""
        self._hint.set()
        if event == LEFT:
            for device in tuple(self._devices.values()):
                if (device.plugged.bus, device.plugged.address) == (bus, address):
                    device.left("it was unplugged")

    async def _comes_back(self, plugged: Plugged) -> bool:
        """Whether, after a reset that it did not survive, something else is where it was."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + RETURN_SECONDS
        while loop.time() < give_up:
            with suppress(DeviceError):  # not to be read just now
                there = await self._scan()
                if any(one.name == plugged.name and one != plugged for one in there):
                    return True
            await asyncio.sleep(0.1)
        return False

    # -- opening ------------------------------------------------------------------------------------------------------

    async def _open(self, plugged: Plugged, info: DeviceInfo) -> LibusbDevice:
        """Raises LibraryError and DeviceError. Nothing stays open when its caller is cancelled."""
        if self._is_closed:
            raise Unavailable("its source is closed")
        opening = self._opening[plugged.name] = self._start(self._begin(plugged, info))
        opening.add_done_callback(lambda _: self._opening.pop(plugged.name))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            self._start(_undo(opening))
            raise

    async def _begin(self, plugged: Plugged, info: DeviceInfo) -> LibusbDevice:
        loop, lent = asyncio.get_running_loop(), await self._borrow()
        try:
            handle = await loop.run_in_executor(None, _opened, lent.opening.result(), plugged, info)
            if handle is None:  # the context learns nothing from the kernel, and is older than the device
                older, lent = lent, await self._borrow(lent)
                await give_back(older)
                handle = await loop.run_in_executor(None, _opened, lent.opening.result(), plugged, info)
            if handle is None:
                raise LibraryError(NO_DEVICE)
        except BaseException:
            await give_back(lent)
            raise
        device = LibusbDevice(handle, plugged, self._comes_back, partial(self._closed, lent))
        self._devices[plugged.name] = device
        self._start_watching()  # for its end too: libusb may not hear of it
        return device

    async def _closed(self, lent: Lent, device: LibusbDevice) -> None:
        if self._devices.get(device.plugged.name) is device:
            del self._devices[device.plugged.name]
        if not device.is_stuck:
            await give_back(lent)

    async def _borrow(self, stale: Lent | None = None) -> Lent:
        """The loop's context, not `stale`, for who gives it back; we listen to it too. Raises DeviceError."""
        lent = await borrow(stale)
        if lent is not self._lent:
            if self._lent is not None:
                self._start(self._leave(self._lent))
            self._lent = hold(lent)
            lent.opening.result().listeners.add(self._plugged)
        return lent

    async def _leave(self, lent: Lent) -> None:
        lent.opening.result().listeners.discard(self._plugged)
        await give_back(lent)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)
        return task


class _Options:
    """What may be said of the source in its address."""

    def __init__(self, *, force: bool = False, later: bool = False) -> None:
        self.force = force
        self.later = later


def _look() -> tuple[dict[Plugged, DeviceInfo], dict[str, str]]:
    """What is there, and what of it should stay, by name. Blocks. Raises LibraryError."""
    there = plugged_in()
    reasons = {info.name: why_precious(info) for info in there.values()}
    return there, {name: reason for name, reason in reasons.items() if reason}


def _opened(context: Context, plugged: Plugged, info: DeviceInfo) -> Handle | None:
    """Open and claim a device; None when the context does not know it. Blocks. Raises LibraryError."""
    device = find(context.pointer, plugged)
    if device is None:
        if plugged not in plugged_in():
            raise LibraryError(NO_DEVICE)
        return None
    handle = Handle(context, device, info)
    try:
        handle.begin()
    except BaseException:
        handle.close()
        raise
    return handle


async def _undo(opening: asyncio.Task[LibusbDevice]) -> None:
    """Nobody waits for it any more."""
    await asyncio.wait([opening])
    if opening.exception() is None:
        await opening.result().close()
