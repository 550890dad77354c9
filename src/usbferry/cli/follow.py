"""`usbferry list --follow`: what comes, goes and changes hands, as it does, until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

import click

from ..device import Change, DeviceError, NotFound, Source, Watching
from ..local import state
from ..registry import open_source
from ..usb.info import DeviceInfo
from . import printable
from .address import whole_address
from .notes import tell_notes
from .serve import on_signal

SCHEMA: Final = "usbferry.change/1"
_WORDS: Final = {"here": "=", "arrived": "+", "left": "-", "claimed": "*", "released": "*", "changed": "*"}


async def follow(addresses: tuple[str, ...], as_json: bool) -> None:
    """Print the devices there are, and then each change. Raises ValueError or DeviceError where that cannot be."""
    stop = on_signal()
    sources = [open_source(whole_address(address)) for address in addresses]
    try:
        for source in sources:
            await tell_notes(source)
        followed = [await _begin(source, as_json) for source in sources]
        async with asyncio.TaskGroup() as tasks:
            printing = [tasks.create_task(_print(*one, as_json)) for one in followed]
            await stop()
            for task in printing:
                task.cancel()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        for source in sources:
            await source.close()


async def _begin(source: Source, as_json: bool) -> tuple[Source, AsyncIterator[Change], dict[str, DeviceInfo]]:
    """What is told from now on, and what is there. Raises DeviceError where nothing will be told."""
    changes = source.watch()
    try:
        found = {info.name: info for info in await source.list()}
        why = f"there is no device at {source.address}"
    except NotFound as error:
        found, why = {}, str(error)  # what is meant may come
    if isinstance(changes, Watching) and changes.is_over:
        raise DeviceError(_no_changes(source))
    if not found and not as_json:
        click.echo(printable(f"not there yet: {why}"), err=True)
    if isinstance(changes, Watching):  # from now on: who is not there now is the error, and not tried again
        changes.on_trouble = partial(_say_trouble, source.address, as_json)
    return source, changes, found


def _no_changes(source: Source, more: str = "") -> str:
    return f"{source.address} tells of no {more}changes; usbferry list {source.address} says what is there"


def _say_trouble(address: str, as_json: bool, why: str) -> None:
    """That a server is gone, and that it is there again: no change, so people read it on standard error."""
    if as_json:
        what = {"what": "lost", "address": address, "error": why} if why else {"what": "back", "address": address}
        click.echo(json.dumps({"schema": SCHEMA, "time": time.time(), **what}))
    else:
        text = f"no connection to {address}; trying again" if why else f"{address} answers again"
        click.echo(printable(text), err=True)


async def _print(source: Source, changes: AsyncIterator[Change], known: dict[str, DeviceInfo], as_json: bool) -> None:
    for info in known.values():
        _say(source, "here", info, as_json)
    more = ""
    async for change in changes:
        more = "more "
        before = known.get(change.name)
        shown = change.info or before
        if shown is None or not (source.selector is None or source.selector.matches(shown)):
            continue
        what = _what(before, change.info)
        if change.info is None:
            known.pop(change.name, None)
        else:
            known[change.name] = change.info
        if what:
            _say(source, what, shown, as_json)
    raise DeviceError(_no_changes(source, more))


def _what(before: DeviceInfo | None, after: DeviceInfo | None) -> str:
    """A word for a change; none where there is none."""
    if after is None:
        return "left"
    if before is None:
        return "arrived"
    if before == after:
        return ""
    if before.holder != after.holder:
        return "claimed" if after.holder else "released"
    return "changed"


def _say(source: Source, what: str, info: DeviceInfo, as_json: bool) -> None:
    address = source.at(info.name)
    if as_json:
        device = {**state.describe(info), "holder": info.holder or None}
        line: dict[str, Any] = {"schema": SCHEMA, "time": time.time(), "what": what, "address": address}
        click.echo(json.dumps({**line, "device": device}))
    else:
        by = f" by {info.holder}" if what == "claimed" else ""
        if info.holder and what in ("here", "arrived", "changed"):
            by = f", used by {info.holder}"
        identity = info.ids
        click.echo(printable(f"{_WORDS[what]} {address}  {identity}  {info.title}  {what}{by}"))
