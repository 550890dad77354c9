"""The seam's own parts: how a source tells what changes."""

from __future__ import annotations

import asyncio
import gc

from usbferry.backends.remote import RemoteSource
from usbferry.backends.virtual import VirtualSource
from usbferry.device import Change, Watchers
from usbferry.devices.clock import VirtualClock
from usbferry.devices.zero import Zero
from usbferry.server.catalog import Catalog

CAME, LEFT = Change("1-1", None), Change("1-2", None)


async def test_each_watcher_hears_everything_from_its_call_on() -> None:
    watchers = Watchers()
    first = watchers.watch()
    watchers.tell(CAME)
    second = watchers.watch()
    watchers.tell(LEFT)
    watchers.close()
    assert [change async for change in first] == [CAME, LEFT]
    assert [change async for change in second] == [LEFT]
    assert [change async for change in second] == []


async def test_who_closes_hears_no_more() -> None:
    watchers = Watchers()
    watching = watchers.watch()
    await watching.aclose()
    assert [change async for change in watching] == []


async def test_who_is_forgotten_is_told_nothing() -> None:
    watchers = Watchers()
    watchers.watch()
    gc.collect()
    assert not watchers._all


async def test_a_source_that_never_changes_tells_nothing() -> None:
    assert [change async for change in RemoteSource("usbip://host").watch()] == []


async def test_what_happens_between_listing_and_following_is_not_lost() -> None:
    """A catalog listed first and watched later: a device that left meanwhile was offered for ever."""
    clock = VirtualClock()
    source = VirtualSource("virtual:zero", Zero(clock=clock))
    catalog = Catalog()
    [offer] = await catalog.add(source)
    source.device.vanish(away=1.0)
    assert catalog.list() == [offer]
    following = asyncio.get_running_loop().create_task(catalog.follow(source))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert catalog.list() == []
    clock.advance(1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(catalog.list()) == 1
    await catalog.close()
    await following  # the source has closed, and its changes end
