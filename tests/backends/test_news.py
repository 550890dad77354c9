"""What is told of a server over ferry, on real sockets: what comes, goes and changes hands."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.backends.test_lasting import ME, SECONDS, ferried, until
from usbferry.backends import news, remote
from usbferry.device import Busy, Change, Source
from usbferry.registry import load_exporter, open_source
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving


@contextlib.asynccontextmanager
async def watched(where: str) -> AsyncIterator[tuple[Source, AsyncIterator[Change]]]:
    source = open_source(where)
    try:
        yield source, source.watch()
    finally:
        await source.close()


async def following(changes: AsyncIterator[Change]) -> Change:
    async with asyncio.timeout(SECONDS):
        return await anext(changes)


def text(change: Change) -> tuple[str, str | None]:
    """The device, and who has it; None when it left."""
    return change.name, None if change.info is None else change.info.holder.partition(":")[0]


async def test_what_comes_goes_and_changes_hands() -> None:
    async with ferried() as (server, proxy), watched(proxy.where) as (source, changes):
        assert text(await following(changes)) == ("1-1", "")
        device = await source.open("1-1", ME)
        assert text(await following(changes)) == ("1-1", "127.0.0.1")
        await device.close()
        assert text(await following(changes)) == ("1-1", "")
        await server.offer(open_source("virtual:keyboard"))
        assert text(await following(changes)) == ("1-2", "")
        zero = server.catalog.list()[0]
        zero.source.device.vanish("unplugged")  # type: ignore[attr-defined]
        assert text(await following(changes)) == ("1-1", None)


async def test_who_has_a_device_is_told_to_who_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BUSY_SECONDS", 0.0)
    async with ferried() as (_, proxy):
        source = open_source(proxy.where)
        device = await source.open("1-1", ME)
        [info] = await source.list()
        with pytest.raises(Busy, match=rf"^1-1 at .*: somebody else uses it, {info.holder}$"):
            await source.open("1-1", ME)
        assert info.holder.startswith("127.0.0.1:")
        await device.close()


async def test_what_changed_while_there_was_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "RETRY_SECONDS", 0.01)
    async with ferried() as (server, proxy), watched(proxy.where) as (_, changes):
        assert text(await following(changes)) == ("1-1", "")
        proxy.refuses = True
        proxy.cut()
        await server.offer(open_source("virtual:keyboard"))
        proxy.refuses = False
        assert text(await following(changes)) == ("1-2", "")


async def test_only_what_is_meant_is_told() -> None:
    async with ferried() as (server, proxy), watched(f"{proxy.where}/1209:*") as (_, changes):
        await server.offer(open_source("virtual:keyboard"))
        assert text(await following(changes)) == ("1-2", "")


async def test_who_drops_what_he_got_watches_no_longer() -> None:
    async with ferried() as (server, proxy):
        source: Any = open_source(proxy.where)
        changes = source.watch()
        await following(changes)
        del changes
        await until(lambda: not server.pumps)
        await source.close()


async def test_who_is_collected_in_another_thread_is_let_go_in_the_loops_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage is collected in whichever thread allocates; a task may be cancelled in its loop's thread alone."""
    threads: list[int] = []
    cancel = news.Chore.cancel

    def noted(chore: news.Chore) -> None:
        threads.append(threading.get_ident())
        cancel(chore)

    monkeypatch.setattr(news.Chore, "cancel", noted)
    async with ferried() as (server, proxy):
        source: Any = open_source(proxy.where)
        held = [source.watch()]
        await following(held[0])
        await asyncio.to_thread(held.clear)
        await until(lambda: not server.pumps)
        assert threads == [threading.get_ident()]
        await source.close()


def test_who_is_collected_after_the_loop_was_closed_does_no_harm() -> None:
    """What a finalizer raises is told by pytest."""

    async def watching() -> Any:
        source = open_source("ferry://127.0.0.1:1")
        return source.watch()

    changes = asyncio.run(watching())
    del changes
    gc.collect()


async def test_a_gateway_offers_what_appears_later() -> None:
    async with ferried() as (server, proxy), serving(Catalog()) as gateway:
        await gateway.offer(open_source(proxy.where))
        [(_, port)] = await gateway.listen("127.0.0.1", 0, load_exporter("usbip"))
        await server.offer(open_source("virtual:keyboard"))
        await until(lambda: len(gateway.catalog.list()) == 2)
        found = await open_source(f"usbip://127.0.0.1:{port}").list()
        assert [info.device.vendor_id for info in found] == [0x0525, 0x1209]
