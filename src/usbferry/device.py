"""The one seam: a Source offers devices, a Device answers transfers. Every protocol, backend and tool meets here.

A Device is opened for one claimant and belongs to one event loop. Its rules, which the conformance tests check:

- `submit` answers with a Completion at once, or with a future that ends with exactly one Completion. At once only when
  nothing earlier waits on that endpoint, so that completions of one (endpoint, stream) come in the order of submission.
- The payload of an OUT transfer is lent until `submit` returns. Who answers with a future copies what it needs.
- The data of a completion is its taker's, but where a promise's listener borrows it: then to the end of the turn.
- `cancel` asks. The future still ends, with CANCELLED and the bytes done, or with the real result. Nobody calls
  `Future.cancel()` on it.
- SET_CONFIGURATION, SET_INTERFACE, CLEAR_FEATURE(HALT) and reset are barriers: the Device holds later transfers of the
  endpoints they touch until they end.
- A device that stalls, times out or vanishes is a result, never an exception. After `gone` every submit gives GONE.

Who keeps in step with a Source watches first and lists second, or loses what happens in between:

    changes = source.watch()               # subscribed from here on
    for info in await source.list(): ...
    async for change in changes: ...       # may tell once more what the list had: to apply it twice must do no harm
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextvars import Context
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakSet

from .usb.info import DeviceInfo
from .usb.transfer import Completion, Transfer
from .usb.types import Status

if TYPE_CHECKING:
    from .selector import Selector

log: Final = logging.getLogger(__name__)


class ResetOutcome(Enum):
    """What a port reset led to."""

    SAME = "same"  # the same device, its configuration and alternate settings restored
    GONE = "gone"  # it did not come back
    ANOTHER = "another"  # something else enumerated in its place


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who holds a device: shown to people now, checked against permissions later."""

    address: str  # "192.0.2.7:51234", or "local"
    protocol: str = ""  # "usbip", "usbredir", "ferry", or "" for a caller in this process
    identity: str | None = None  # an authenticated name
    since: float = field(default_factory=time.time)  # seconds since the epoch


class Listener(Protocol):
    """Who hears of promises."""

    def heard(self, tag: int, completion: Completion) -> None:
        """The promise of `tag` was kept."""

    def borrows(self) -> bool:
        """Whether it is through with a completion's data at the end of this turn: see `transports.turn`."""


class _Hearing:
    """A function that hears of one promise, and may keep what it hears."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[Completion], object]) -> None:
        self._call = call

    def heard(self, tag: int, completion: Completion) -> None:
        self._call(completion)

    def borrows(self) -> bool:
        return False


class Promise(asyncio.Future[Completion]):
    """A device's answer to come, whose `listener` hears of it before `fulfil` returns, not a turn of the loop later.

    That saves each transfer of a gateway most of what a future costs. Everybody else waits as for any future. Slots
    without a default, for no more is done at its making than for any future; but to find one unset costs four times as
    much as to set it, so who makes one for each transfer sets `listener` and `is_awaited`.
    """

    __slots__ = ("is_awaited", "listener", "tag", "transfer")

    is_awaited: bool  # somebody looks at it later; set then, or never
    listener: Listener | None  # set by who got it from `submit`, at once or never
    tag: int  # the listener's name for it, set with it
    transfer: Transfer  # what it answers, where its device notes that

    def hear(self, listener: Callable[[Completion], object]) -> None:
        """Have `listener(completion)` called by `fulfil`. For who got it from `submit`, at once or never."""
        self.listener, self.tag = _Hearing(listener), 0

    @property
    def may_borrow(self) -> bool:
        """Whether the data of its completion has to last for this turn only."""
        try:
            listener, is_awaited = self.listener, self.is_awaited
        except AttributeError:
            return False
        return listener is not None and not is_awaited and listener.borrows()

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        self.is_awaited = True
        super().add_done_callback(fn, context=context)

    def fulfil(self, completion: Completion) -> bool:
        """End it. Whether nobody listens: who waits is woken in the loop's next turn."""
        try:
            self.set_result(completion)
            listener = self.listener
        except (asyncio.InvalidStateError, AttributeError):  # it has ended, or nobody listens
            return True
        if listener is None:
            return True
        try:
            listener.heard(self.tag, completion)
        except Exception:  # the listener's affair: who fulfils has others to tell
            log.exception("a completion was not taken: %s", completion)
        return False


class Device(ABC):
    """One opened, exclusively claimed device. The module's rules bind every implementation."""

    info: DeviceInfo
    gone: asyncio.Future[str]
    """Ends with the reason, in words, once the device has left for good; never by `close`."""
    patience: float = math.inf
    """Seconds that its isochronous endpoints wait for a transfer that is late; on a real bus that is 0."""

    @abstractmethod
    def submit(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        """Start one transfer."""

    @abstractmethod
    def cancel(self, transfer: Transfer) -> None:
        """Ask for a pending transfer to end early; nothing happens when it has ended."""

    @abstractmethod
    def reset(self) -> asyncio.Future[ResetOutcome]:
        """Reset the device as a port reset does: everything pending ends first, then settings are restored."""

    @abstractmethod
    async def close(self) -> None:
        """Give the device back: cancel what is pending, reset it, release the claim. May be called twice."""

    def alloc_streams(self, endpoints: tuple[int, ...], count: int) -> Completion | asyncio.Future[Completion]:
        """Set up `count` bulk streams on each endpoint. INVALID where the device has none."""
        return Completion(Status.INVALID)

    def free_streams(self, endpoints: tuple[int, ...]) -> Completion | asyncio.Future[Completion]:
        """Undo `alloc_streams`."""
        return Completion(Status.INVALID)

    def suspend(self) -> None:
        """The importer's system suspended the device."""

    def resume(self) -> None:
        """The importer's system woke the device."""


class Through(Device):
    """Another device, passed on as it is: what a wrapper does not change. It says itself how patient it is."""

    def __init__(self, device: Device) -> None:
        self._device = device

    @property
    def info(self) -> DeviceInfo:  # type: ignore[override]  # the device's own, which it may replace
        return self._device.info

    @property
    def gone(self) -> asyncio.Future[str]:  # type: ignore[override]
        return self._device.gone

    def cancel(self, transfer: Transfer) -> None:
        self._device.cancel(transfer)

    def reset(self) -> asyncio.Future[ResetOutcome]:
        return self._device.reset()

    async def close(self) -> None:
        await self._device.close()

    def alloc_streams(self, endpoints: tuple[int, ...], count: int) -> Completion | asyncio.Future[Completion]:
        return self._device.alloc_streams(endpoints, count)

    def free_streams(self, endpoints: tuple[int, ...]) -> Completion | asyncio.Future[Completion]:
        return self._device.free_streams(endpoints)

    def suspend(self) -> None:
        self._device.suspend()

    def resume(self) -> None:
        self._device.resume()


class DeviceError(Exception):
    """A device could not be opened. The text is one line that a user can act on."""


class NotFound(DeviceError):
    """No such device here."""


class Unavailable(DeviceError):
    """Not now: the server is closing, or full."""


class Busy(DeviceError):
    """Somebody holds it. `holder` says who, where that is known."""

    def __init__(self, text: str, holder: Claimant | None = None) -> None:
        super().__init__(text)
        self.holder = holder


@dataclass(frozen=True, slots=True)
class Change:
    """What `Source.watch` tells: a device appeared (`info`) or left (None)."""

    name: str
    info: DeviceInfo | None


class Watching(AsyncIterator[Change]):
    """The changes since it was made, in their order; ends with `aclose`, its own or that of all."""

    def __init__(self) -> None:
        self._changes: asyncio.Queue[Change | None] = asyncio.Queue()
        self.on_trouble: Callable[[str], None] | None = None  # hears why nothing can be told now; "" when it can again
        self.is_over = False  # nothing more is told than what it has by now

    def tell(self, change: Change | None) -> None:
        """One more; None is the end."""
        self.is_over = self.is_over or change is None
        self._changes.put_nowait(change)

    async def __anext__(self) -> Change:
        change = await self._changes.get()
        if change is None:
            self.tell(None)  # for whoever asks again
            raise StopAsyncIteration
        return change

    async def aclose(self) -> None:
        """Tell nothing any more."""
        self.tell(None)


class Watchers:
    """Those who watch a source: what its `watch` returns is made here, and what happens is told here.

    Who drops what `watch` gave him watches no longer.
    """

    def __init__(self) -> None:
        self._all: WeakSet[Watching] = WeakSet()

    def watch(self) -> Watching:
        """One watcher more, from this moment on."""
        watching = Watching()
        self._all.add(watching)
        return watching

    def tell(self, change: Change) -> None:
        """Tell everyone."""
        for watching in tuple(self._all):
            watching.tell(change)

    def close(self) -> None:
        """The source has closed: nothing changes any more."""
        for watching in tuple(self._all):
            watching.tell(None)


class Source(ABC):
    """A place where devices come from."""

    address: str
    """Its address as the user wrote it."""
    name: str = ""
    """The one device that the address names, where it names one."""
    has_bus_ids: bool = False
    """Whether its names are bus ids that tell this machine's ports; servers offer its devices by them."""
    selector: Selector | None = None
    """Which of the place's devices the address stands for; None is all."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What somebody who uses or offers its devices should know, a line each; once it was listed."""
        return ()

    @property
    def place(self) -> str:
        """The address of all devices there are where these are: what stands before the selector."""
        return self.address

    @abstractmethod
    async def list(self) -> list[DeviceInfo]:
        """The devices there now that the address stands for, held or not, in a stable order."""

    async def find(self) -> builtins.list[DeviceInfo]:
        """The same for who came for a device: where devices come by themselves, the first is waited for.

        Raises DeviceError when none comes.
        """
        return await self.list()

    async def read(self, info: DeviceInfo) -> DeviceInfo:
        """All that can be known of a device that `list` gave: where that lacks strings, it is opened for a moment.

        Raises as `open` does: one that somebody uses is left alone.
        """
        return info

    @abstractmethod
    async def open(self, name: str, claimant: Claimant) -> Device:
        """Claim and open one device, configured: the first configuration is set if none is.

        One that is busy for the moment of its reset is waited for. Raises NotFound, Busy, or DeviceError.
        """

    async def try_open(self, name: str, claimant: Claimant) -> Device:
        """The same for who can do without: what is busy now is Busy."""
        return await self.open(name, claimant)

    def watch(self) -> AsyncIterator[Change]:
        """Every change from this call on, not only from the first `anext`: see the module's pattern, and `Watchers`.

        A source whose devices never change tells nothing, and ends at once.
        """
        nothing = Watching()
        nothing.tell(None)
        return nothing

    def why_not_offered(self, info: DeviceInfo) -> str | None:
        """Why a device should not be offered to others by accident, as the rest of a sentence; None for most."""
        return None

    def at(self, name: str) -> str:
        """The address of one of its devices."""
        return self.address if self.name or not name else f"{self.address.rstrip('/')}/{name}"

    async def close(self) -> None:
        """Let go of what the source holds; its devices are closed first."""
