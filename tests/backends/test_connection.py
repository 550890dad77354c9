"""A connection and its importer's clock; what connections are for, `test_remote` and `test_lasting` show."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from tests.conftest import Run
from usbferry.backends.connection import Connection
from usbferry.protocols.ferry.importer import Importer
from usbferry.transports.link import Link


class Nowhere:
    """A link that takes everything."""

    is_lossy = is_prompt = False

    def write(self, pieces: object, size: int) -> None: ...


class Waiting(Importer):
    """It wants to be called at a time, and notes when it was."""

    def __init__(self, wants: float) -> None:
        super().__init__()
        self.wants: float | None = wants
        self.called: list[float] = []
        self.was_called = asyncio.Event()

    def deadline(self) -> float | None:
        return self.wants

    def tick(self, now: float) -> None:
        self.called.append(now)
        if self.wants is not None and now >= self.wants:
            self.wants = None
            self.was_called.set()


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.0004, 0.01])
def test_an_importer_is_called_once_when_it_wants_to_be(run: Run, seconds: float) -> None:
    """What is due at once is no timer to uvloop, and what is due in less than half a millisecond is so too."""

    async def scene() -> None:
        importer = Waiting(asyncio.get_running_loop().time() + seconds)
        wanted = importer.wants
        assert wanted is not None
        connection = Connection(importer, "the server")
        connection.opened(cast(Link, Nowhere()))
        for _ in range(3):
            assert connection.received(memoryview(b"")) == 0
        await asyncio.wait_for(importer.was_called.wait(), 10)
        assert len(importer.called) == 1
        assert importer.called[0] >= wanted

    run(scene())


def test_the_earlier_of_two_times_counts(run: Run) -> None:
    async def scene() -> None:
        now = asyncio.get_running_loop().time()
        importer = Waiting(now + 100)
        connection = Connection(importer, "the server")
        connection.opened(cast(Link, Nowhere()))
        connection.received(memoryview(b""))
        importer.wants = now
        connection.received(memoryview(b""))
        await asyncio.wait_for(importer.was_called.wait(), 10)

    run(scene())
