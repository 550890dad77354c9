"""A bus id of a server, for `keep`: what became of the device there, and when it may be tried again."""

from __future__ import annotations

import asyncio
import random
from enum import Enum
from typing import Any, Final

from ..device import Source
from ..usb.info import DeviceInfo
from .rules import Rule

BACKOFF_SECONDS: Final = 0.25  # before the second try, doubled each time; a server restarts in about as much
LONGEST_SECONDS: Final = 5.0  # between tries: what is back is found within it
STEADY_SECONDS: Final = 5.0  # what was attached for so long did not fail at once


class State(Enum):
    """What a slot is at."""

    WAITING = "waiting"  # for the device, or for the next try
    ATTACHING = "attaching"
    ATTACHED = "attached"
    STOPPED = "stopped"  # somebody detached it by hand


class Slot:
    """One bus id of a place, and what became of the device there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State.WAITING
        self.rule: Rule | None = None
        self.info: DeviceInfo | None = None  # as it was listed, or attached
        self.listed: object = None  # what it was in the list
        self.port: int | None = None  # of vhci
        self.reason = ""  # why it is not attached
        self.not_before = 0.0  # the loop's time
        self.failures = 0  # in a row
        self.task: asyncio.Task[None] | None = None

    @property
    def is_active(self) -> bool:
        return self.state in (State.ATTACHING, State.ATTACHED)

    def failed(self, now: float, reason: str) -> float:
        """It failed once more; the seconds until it may be tried again."""
        self.state, self.reason = State.WAITING, reason
        wait = backoff(self.failures)
        self.failures += 1
        self.not_before = now + wait
        return wait

    def lost(self, now: float, reason: str, lasted: float) -> None:
        """It was attached and is not any more: to be had again soon, if it does not do that all the time."""
        if lasted >= STEADY_SECONDS:
            self.failures = 0
        self.failed(now, reason)

    def __str__(self) -> str:
        assert self.rule is not None
        assert self.info is not None
        identity = self.info.ids
        return f"{self.rule.name}: {f'{self.name} {identity} {self.info.title}'.strip()}"


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row, never quite the same for two who lost the same server."""
    return min(BACKOFF_SECONDS * 2.0 ** min(failures, 10), LONGEST_SECONDS) * random.uniform(0.8, 1.2)


def identity(info: DeviceInfo) -> object:
    """What tells a device from another one at the same bus id, as far as a list does.

    Not its classes: the kernel's server lists none before somebody has configured the device.
    """
    return (info.device, info.bus, info.address)


def described(slot: Slot, source: Source) -> dict[str, Any]:
    """What there is to know of a slot, for JSON."""
    assert slot.rule is not None
    assert slot.info is not None
    device = slot.info.device
    return {
        "name": slot.name,
        "address": source.at(slot.name),
        "rule": slot.rule.name,
        "vendor_id": f"{device.vendor_id:04x}",
        "product_id": f"{device.product_id:04x}",
        "manufacturer": slot.info.manufacturer,
        "product": slot.info.product,
        "serial": slot.info.serial,
        "state": slot.state.value,
        "port": slot.port,
        "reason": slot.reason or None,
    }
