"""What a host did with a device, kept in words for a test that fails: its last transfers, claims and resets.

importer --submit--> Heard --submit--> Device          a Device that wraps a Device, and takes note
                       `--> Journal --lines--> the test's report
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import groupby
from typing import Final

from ..device import Change, Claimant, Device, ResetOutcome, Source, Through
from ..usb.info import DeviceInfo
from ..usb.said import said, what
from ..usb.setup import CLEAR_ENDPOINT_FEATURE, SET_CONFIGURATION, SET_INTERFACE, Request, Setup
from ..usb.transfer import Completion, Transfer
from ..usb.tree import DescriptorType
from ..usb.types import Status

KEPT: Final = 1000  # transfers and events of a device
_KEPT_BYTES: Final = 4096  # of each
_SHOWN_BYTES: Final = 32
_LONG_SECONDS: Final = 0.01  # what took longer says so
_DESCRIPTORS: Final = {int(kind): kind.name.lower().replace("_", " ") for kind in DescriptorType}


class Passed:
    """One transfer, and how it ended: `completion` is None as long as it has not. Its text is a sentence."""

    __slots__ = ("at", "completion", "data", "took", "transfer")

    def __init__(self, at: float, transfer: Transfer) -> None:
        self.at = at  # seconds since the device was plugged in
        t = transfer  # a copy, for its payload was lent
        self.transfer = Transfer(t.endpoint, t.length, b"", bytes(t.setup), t.flags, t.packets, t.stream_id)
        self.data = bytes(transfer.data[:_KEPT_BYTES])  # the first bytes that moved, in either direction
        self.completion: Completion | None = None  # without its data
        self.took = 0.0  # seconds

    def end(self, completion: Completion, took: float) -> None:
        self.completion = Completion(completion.status, b"", completion.actual, completion.packets)
        self.took = took
        if self.transfer.is_in:
            self.data = bytes(completion.data[:_KEPT_BYTES])

    @property
    def words(self) -> str:
        """All but how long it took."""
        is_in, end = self.transfer.is_in, self.completion
        asked = _request(self.transfer) or what(self.transfer)
        sent = "" if is_in else _shown(self.data, self.transfer.length)
        if end is None:
            return f"{asked}{sent}: not answered yet"
        came = _shown(self.data, end.actual) if is_in else ""
        if asked.startswith("GET_DESCRIPTOR, string ") and came:
            came = f" {self.data[2:].decode('utf-16-le', 'replace')!r}"
        if end.status != Status.OK:
            return f"{asked}{sent}{said(self.transfer, end).removeprefix(what(self.transfer))}{came}"
        return f"{asked}{sent}{came or (': nothing came' if is_in else ': ok')}"

    def __str__(self) -> str:
        return f"{self.words}, after {self.took:.3f} s" if self.took > _LONG_SECONDS else self.words


class Journal:
    """The last KEPT things that happened to one device."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._entries: deque[Passed | tuple[float, str]] = deque(maxlen=KEPT)
        self._count = 0
        self.changed: Callable[[], None] = lambda: None  # called in the device's loop after each

    @property
    def transfers(self) -> list[Passed]:
        """Those that are kept, in the order in which they were submitted."""
        return [one for one in tuple(self._entries) if isinstance(one, Passed)]

    def begin(self, transfer: Transfer) -> Passed:
        """A transfer was submitted."""
        passed = Passed(self._now(), transfer)
        self._add(passed)
        return passed

    def end(self, passed: Passed, completion: Completion) -> None:
        """It ended."""
        passed.end(completion, self._now() - passed.at)
        self.changed()

    def note(self, text: str) -> None:
        """Something else happened."""
        self._add((self._now(), text))
        self.changed()

    def lines(self, count: int) -> list[str]:
        """The last `count` of them, the oldest first, a line each with its time; of many that are alike, the last."""
        lines: deque[str] = deque()
        passed_over, entries = self._count, tuple(self._entries)  # hosts may go on while a test asks
        for words, alike in _runs(reversed(entries)):
            if len(lines) == count:
                break
            at, text = alike[0]
            lines.appendleft(f"{at:7.3f} s  {text if len(alike) == 1 else f'{words} ({len(alike)} times)'}")
            passed_over -= len(alike)
        return [*([f"           ({passed_over} before)"] if passed_over else []), *lines]

    def _add(self, entry: Passed | tuple[float, str]) -> None:
        self._entries.append(entry)
        self._count += 1

    def _now(self) -> float:
        return time.monotonic() - self._began


class Heard(Through):
    """A device whose transfers a journal hears of."""

    def __init__(self, device: Device, journal: Journal) -> None:
        super().__init__(device)
        self._journal = journal
        device.gone.add_done_callback(self._left)

    def submit(self, transfer: Transfer) -> Completion | asyncio.Future[Completion]:
        passed = self._journal.begin(transfer)
        answer = self._device.submit(transfer)
        if isinstance(answer, Completion):
            self._journal.end(passed, answer)
        else:
            answer.add_done_callback(lambda done: self._ended(passed, done))
        return answer

    def reset(self) -> asyncio.Future[ResetOutcome]:
        self._journal.note("reset by the host")
        return self._device.reset()

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._journal.note("given back by the host")
        await self._device.close()

    _is_closed = False

    def _ended(self, passed: Passed, done: asyncio.Future[Completion]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._journal.end(passed, done.result())

    def _left(self, gone: asyncio.Future[str]) -> None:
        if not gone.cancelled():
            self._journal.note(f"gone: {gone.result()}")


class HeardSource(Source):
    """A source whose devices a journal hears of."""

    def __init__(self, source: Source, journal: Journal) -> None:
        self._source = source
        self._journal = journal
        self.address = source.address
        self.name = source.name

    async def list(self) -> list[DeviceInfo]:
        return await self._source.list()

    async def open(self, name: str, claimant: Claimant) -> Device:
        device = Heard(await self._source.open(name, claimant), self._journal)
        by = f" over {claimant.protocol}" if claimant.protocol else ""
        self._journal.note(f"claimed by {claimant.address}{by}")
        return device

    def watch(self) -> AsyncIterator[Change]:
        return self._source.watch()

    async def close(self) -> None:
        await self._source.close()


def _runs(entries: Iterable[Passed | tuple[float, str]]) -> Iterator[tuple[str, list[tuple[float, str]]]]:
    """Entries that are alike and follow each other: their words, and the time and the text of each."""
    for words, run in groupby(entries, lambda one: one.words if isinstance(one, Passed) else one[1]):
        yield words, [(one.at, str(one)) if isinstance(one, Passed) else one for one in run]


# -- words -------------------------------------------------------------------------------------------------------------


def _request(transfer: Transfer) -> str:
    """A standard request in the words of the specification; "" for all else."""
    if len(transfer.setup) != 8:
        return ""
    setup = Setup.parse(transfer.setup)
    kind = (setup.request_type, setup.request)
    if kind == (0x80, Request.GET_DESCRIPTOR):
        name = _DESCRIPTORS.get(setup.value >> 8, f"{setup.value >> 8:#04x}")
        number = f" {setup.value & 0xFF}" if setup.value & 0xFF else ""
        return f"GET_DESCRIPTOR, {name}{number}, {setup.length} bytes"
    if kind == SET_CONFIGURATION:
        return f"SET_CONFIGURATION {setup.value}"
    if kind == SET_INTERFACE:
        return f"SET_INTERFACE {setup.index}, alternate setting {setup.value}"
    if kind == CLEAR_ENDPOINT_FEATURE and not setup.value:
        return f"CLEAR_FEATURE, halt of endpoint {setup.index & 0xFF:#04x}"
    return ""


def _shown(data: bytes, count: int) -> str:
    """The first of `count` bytes, as numbers, and as text where they are text; "" where there are none."""
    first = data[:_SHOWN_BYTES]
    text = first.decode("ascii", "replace")
    quoted = f" {text!r}" if text.isprintable() and text.isascii() else ""
    more = f" ... ({count} bytes)" if count > len(first) else ""
    return f" [{first.hex(' ')}{quoted}{more}]" if count else ""
