"""Never lose a device: attach what rules want as soon as it appears, and again after everything that can happen to it.

    rules ──> Keeper ──> a Place per server: looks ──> a Slot per bus id: wanted ──> attaching ──> attached
                                              ^                             ^            │            │
                                              │   backoff                   ├────────────┘ failed     │
                                              └── looked for all the time ──┴──────────── lost ───────┤
                                                                               stopped <── by hand ───┘

USB/IP has no event for a device that appears: a place is looked at every few seconds, by one connection however many
rules it has, and more often for a while after it lost a device: a bootloader may be there for a second only. A source
that tells of changes, such as a ferry server, is looked at when it does. A slot belongs to its bus id, and its device
is whatever wanted one enumerates there: a board and its bootloader are one.

It knows the kernel as an `Attacher` alone, and time as the event loop's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from ..device import Busy, DeviceError, Source
from ..selector import Selector
from ..usb.info import DeviceInfo
from .keep_status import resume
from .rules import Rule, Rules
from .slot import Slot, State, backoff, described, identity

log: Final = logging.getLogger(__name__)
LOOK_SECONDS: Final = 12.0  # for a source to list what it has: its own limits, of up to 10, come first and say more
READ_SECONDS: Final = 10.0  # for a device's strings
READ_AGAIN_SECONDS: Final = 1.0  # before one that could not be read is asked again
HUNT_SECONDS: Final = 0.25  # between looks, while one that left is looked for


class Ended(Protocol):
    """How an attachment came to its end."""

    @property
    def reason(self) -> str: ...
    @property
    def by_hand(self) -> bool: ...


class Attached(Protocol):
    """A device that the kernel has. `local.attach.Attachment` is one."""

    @property
    def port(self) -> int: ...
    @property
    def info(self) -> DeviceInfo: ...
    async def gone(self) -> Ended: ...
    async def detach(self) -> None: ...


class Attacher(Protocol):
    """What can give devices to the kernel."""

    async def attach(self, source: Source, name: str, *, relay: bool) -> Attached:
        """Raises DeviceError."""

    def existing(self, source: Source) -> Mapping[str, Attached]:
        """What the kernel has of this source already, by bus id: of a run before this one, or by another's hand."""


class Keeper:
    """Keeps what the rules want attached, until it is cancelled: then it detaches what it keeps.

    `tell` gets a line for each event; what `status` says has changed by then.
    """

    def __init__(self, rules: Rules, attacher: Attacher, tell: Callable[[str], None]) -> None:
        self.attacher = attacher
        self.tell = tell
        self.every = rules.every
        self._rules = rules
        self._places: dict[str, Place] = {}
        self._reloaded = asyncio.Event()

    async def run(self) -> None:
        """Ends by being cancelled alone. What goes wrong at one place ends no other."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    self._reloaded.clear()
                    await self._apply(tasks)
                    await self._reloaded.wait()
        finally:
            for place in self._places.values():
                await place.source.close()

    def reload(self, rules: Rules) -> None:
        """Other rules from now on; devices that they want too stay attached, and what was stopped by hand resumes."""
        self._rules, self.every = rules, rules.every
        self._reloaded.set()

    async def _apply(self, tasks: asyncio.TaskGroup) -> None:
        wanted: dict[str, tuple[Source, list[tuple[Rule, Selector]]]] = {}
        for rule in self._rules.rules:
            for wish in rule.wishes:
                wanted.setdefault(wish.place, (wish.source, []))[1].append((rule, wish.selector))
        for address in [address for address in self._places if address not in wanted]:
            await self._places.pop(address).end()
        for address, (source, wishes) in wanted.items():
            place = self._places.get(address)
            if place is None:
                place = self._places[address] = Place(address, source, self)
                place.wishes = wishes
                place.task = tasks.create_task(place.run())
            else:
                place.apply(wishes)
                await source.close()  # it has one already

    def status(self) -> dict[str, Any]:
        """Everything there is to know, for JSON."""
        return {
            "every": self.every,
            "rules": [
                {
                    "name": rule.name,
                    "within": rule.within,
                    "relay": rule.relay,
                    "places": [w.place for w in rule.wishes],
                }
                for rule in self._rules.rules
            ],
            "places": [place.status() for place in self._places.values()],
        }


class Place:
    """One server, or another source: looks what is there, and has a slot for each bus id."""

    def __init__(self, address: str, source: Source, keeper: Keeper) -> None:
        self.address = address
        self.source = source
        self.wishes: list[tuple[Rule, Selector]] = []
        self.task: asyncio.Task[None] | None = None
        self._keeper = keeper
        self._tell = keeper.tell
        self._now = asyncio.get_running_loop().time
        self._slots: dict[str, Slot] = {}
        self._stir = asyncio.Event()
        self._error = ""  # why it could not be listed
        self._failures = 0
        self._has_answered = False
        self._hunts_until = 0.0
        self._has_events = True  # until `watch` ends
        self._read: dict[str, tuple[object, DeviceInfo | None, float]] = {}  # bus id -> whom, strings, not before
        self._tasks: asyncio.TaskGroup

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._listen())
            while True:
                self._stir.clear()
                try:
                    await self._look()
                except Exception as error:
                    log.exception("unexpected")
                    self._failed(f"unexpected {error!r}")
                await self._pause()

    async def end(self) -> None:
        """Detach what is kept here, and forget the place."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        await self.source.close()

    def apply(self, wishes: list[tuple[Rule, Selector]]) -> None:
        """Other rules."""
        self.wishes = wishes
        for slot in self._slots.values():
            if slot.state is State.STOPPED:
                slot.state = State.WAITING
            elif slot.task is not None and slot.info is not None and self._sure_rule(slot.info) is None:
                slot.task.cancel()  # which detaches it
        self._stir.set()

    # -- looking ------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        try:
            async for _ in self.source.watch():
                self._stir.set()
        except Exception:
            log.exception("%s tells no more of changes", self.address)
        self._has_events = False
        self._stir.set()

    async def _pause(self) -> None:
        """Until the next look is due."""
        try:
            async with asyncio.timeout(self._until_next()):
                await self._stir.wait()
        except TimeoutError:
            pass

    def _until_next(self) -> float | None:
        now = self._now()
        if self._failures:
            return backoff(self._failures - 1)
        tries = [s.not_before - now for s in self._slots.values() if not s.is_active and s.not_before > now]
        tries += [not_before - now for _, read, not_before in self._read.values() if not read and not_before > now]
        if not self._has_events:
            every = HUNT_SECONDS if now < self._hunts_until else self._keeper.every
            tries.append(every * random.uniform(0.9, 1.1))
        return min(tries) if tries else None

    async def _look(self) -> None:
        try:
            self._take_over()
            async with asyncio.timeout(LOOK_SECONDS):
                infos = await self.source.list()
        except TimeoutError:
            self._failed(f"it did not answer within {LOOK_SECONDS:g} s")
        except (DeviceError, OSError) as error:
            self._failed(str(error))
        else:
            for info in infos:
                await self._consider(info)
            self._answered()

    def _take_over(self) -> None:
        """See through what the kernel has already: a keeper before this one left it, or somebody attached it."""
        for name, attached in self._keeper.attacher.existing(self.source).items():
            slot = self._slot(name)
            rule = None if slot.is_active else self._sure_rule(attached.info)
            if rule is not None:
                self._start(slot, rule, attached.info, attached)

    def _failed(self, reason: str) -> None:
        self._failures += 1
        if not self._error:
            self._error = reason
            # What to do about it is for one that never was there.
            why = reason.partition("; ")[0] if self._has_answered else reason
            self._tell(f"{self.address}: {why}; trying again")
        self._error = reason

    def _answered(self) -> None:
        if not self._has_answered:
            self._has_answered = True
            for note in self.source.notes:
                self._tell(note)
            found = [slot.rule for slot in self._slots.values()]
            for name in dict.fromkeys(rule.name for rule, _ in self.wishes if rule not in found):
                self._tell(f"{name}: not there yet, at {self.address}")
        if self._error:
            self._error = ""
            self._tell(f"{self.address} answers again")
        self._failures = 0

    async def _consider(self, info: DeviceInfo) -> None:
        """One that is listed: attach it, if it is wanted and its time has come."""
        slot = self._slot(info.name)
        if slot.is_active or slot.state is State.STOPPED:
            return
        is_another = slot.listed != identity(info)
        if self._now() < slot.not_before and not is_another:
            return
        rule = await self._rule(info)
        if rule is not None:
            if is_another:
                slot.failures = 0
            slot.listed = identity(info)
            self._start(slot, rule, info)

    def _slot(self, name: str) -> Slot:
        return self._slots.setdefault(name, Slot(name))

    # -- what is wanted -----------------------------------------------------------------------------------------------

    def _sure_rule(self, info: DeviceInfo) -> Rule | None:
        """The first rule that wants a device, or may want it, as far as is known."""
        return next((rule for rule, selector in self.wishes if selector.meets(info) is not False), None)

    async def _rule(self, info: DeviceInfo) -> Rule | None:
        """The first rule that wants a device; its strings are read where that takes them."""
        for rule, selector in self.wishes:
            meant = selector.meets(info)
            if meant is None:
                read = await self._strings(info)
                meant = read is not None and selector.matches(read)
            if meant:
                return rule
        return None

    async def _strings(self, info: DeviceInfo) -> DeviceInfo | None:
        """The device with its strings, read once for as long as it stays the same; None where it cannot be read now."""
        whom, read, not_before = self._read.get(info.name, (None, None, 0.0))
        if whom == identity(info) and (read is not None or self._now() < not_before):
            return read
        read = None
        try:
            async with asyncio.timeout(READ_SECONDS):
                read = await self.source.read(info)
        except (DeviceError, TimeoutError) as error:
            log.info("%s at %s cannot be asked what it is: %s", info.name, self.address, error)
        self._read[info.name] = (identity(info), read, self._now() + READ_AGAIN_SECONDS)
        return read

    # -- attaching ----------------------------------------------------------------------------------------------------

    def _start(self, slot: Slot, rule: Rule, info: DeviceInfo, attached: Attached | None = None) -> None:
        slot.state, slot.rule, slot.info = State.ATTACHING, rule, info
        slot.task = self._tasks.create_task(self._keep(slot, rule, attached))

    async def _keep(self, slot: Slot, rule: Rule, attached: Attached | None) -> None:
        """Attach a device and see it through to its end; one that is `attached` already is seen through alone."""
        try:
            verb = "is attached to" if attached is not None else "attached to"
            if attached is None:
                attached = await self._keeper.attacher.attach(self.source, slot.name, relay=rule.relay)
            await self._hold(slot, rule, attached, verb)
        except (DeviceError, OSError) as error:
            self._could_not(slot, error)
        except Exception as error:
            log.exception("unexpected")
            self._could_not(slot, error)
        finally:
            slot.port, slot.task = None, None
            if slot.is_active:  # cancelled
                slot.state = State.WAITING
            self._stir.set()

    async def _hold(self, slot: Slot, rule: Rule, attached: Attached, verb: str) -> None:
        started = self._now()
        try:
            if self._sure_rule(attached.info) is None:  # it became another between the list and the import
                raise DeviceError(f"it is {attached.info} now, which no rule wants")
            slot.state, slot.port, slot.reason = State.ATTACHED, attached.port, ""
            slot.info = replace(attached.info)  # as it is now, whatever a virtual one becomes
            self._tell(f"{slot} {verb} port {attached.port}")
            ended = await attached.gone()
        except BaseException:
            await attached.detach()
            self._tell(f"{slot} detached")
            raise
        now = self._now()
        if ended.by_hand:
            slot.state, slot.reason = State.STOPPED, "detached by hand"
            command = resume(self.source.at(slot.name), os.getpid())
            self._tell(f"{slot} was detached by hand and is left alone; to resume: {command}")
            return
        slot.lost(now, ended.reason, now - started)
        self._hunts_until = max(self._hunts_until, now + rule.within)
        self._tell(f"{slot} is lost: {ended.reason}; looking for it")

    def _could_not(self, slot: Slot, error: Exception) -> None:
        known, reason = slot.reason, str(error)
        wait = slot.failed(self._now(), reason)
        if known != reason:
            what = "is in use" if isinstance(error, Busy) else "cannot be attached"
            self._tell(f"{slot} {what}: {reason}; trying again in {wait:.1f} s, and so on")

    # -- for people ---------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        devices = [slot for slot in self._slots.values() if slot.rule is not None and slot.info is not None]
        return {
            "address": self.address,
            "error": self._error or None,
            "devices": [described(slot, self.source) for slot in devices],
        }
