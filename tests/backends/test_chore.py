"""Work beside an object: its failure is told, its end waited for, and who is cancelled meanwhile stays cancelled."""

from __future__ import annotations

import asyncio

import pytest

from usbferry.backends import news
from usbferry.backends.chore import Chore
from usbferry.device import DeviceError
from usbferry.registry import open_source


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def test_a_failure_is_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise LookupError("oh")

    told: list[str] = []
    chore = Chore(work(), "counting sheep", lambda: told.append("failed"))
    await chore.end()
    await asyncio.sleep(0)
    assert not told  # it was cancelled before it began
    chore = Chore(work(), "counting sheep", lambda: told.append("failed"))
    await asyncio.sleep(0.01)
    assert told == ["failed"]
    assert "counting sheep ended: unexpected LookupError('oh')" in caplog.text
    await chore.end()


async def test_an_end_that_was_asked_for_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    chore = Chore(forever(), "waiting", lambda: told.append("failed"))
    await asyncio.sleep(0)
    await chore.end()
    await chore.end()
    assert (told, caplog.text) == ([], "")


async def test_who_is_cancelled_while_it_ends_stays_cancelled() -> None:
    """A CancelledError of the chore's is not that of who waits for it."""

    async def stubborn() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.05)

    chore = Chore(stubborn(), "resisting", lambda: None)
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await chore.end()
    await chore.end()


async def test_a_watch_that_fails_comes_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to fall silent, and who watched waited for ever."""

    class Broken:
        over = None

        def watch(self) -> None:
            raise AttributeError("a mistake of ours")

        async def close(self) -> None:
            pass

    source = open_source("ferry://127.0.0.1:9")

    async def connect() -> Broken:
        return Broken()

    monkeypatch.setattr(source, "_connect_for_news", connect)
    changes = source.watch()
    async with asyncio.timeout(10):
        assert [change async for change in changes] == []
    await source.close()


async def test_a_server_that_is_not_there_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "RETRY_SECONDS", 0.001)
    source, tries = open_source("ferry://127.0.0.1:9"), asyncio.Semaphore(0)

    async def connect() -> None:
        tries.release()
        raise DeviceError("nobody is there")

    monkeypatch.setattr(source, "_connect_for_news", connect)
    changes = source.watch()
    async with asyncio.timeout(10):
        for _ in range(3):
            await tries.acquire()
    await source.close()
    assert [change async for change in changes] == []
