"""What the user of a source should know of it, such as who else can reach it: on stderr, for every verb."""

from __future__ import annotations

import sys
from contextlib import suppress

from ..device import DeviceError, Source
from . import printable


async def tell_notes(source: Source) -> None:
    """Say it before anything is waited for. What cannot be listened at is left to who lists it next to say."""
    if source.notes:
        with suppress(DeviceError):
            await source.list()  # from then on it knows its own port
            say_notes(source)


def say_notes(source: Source) -> None:
    """The same of a source that somebody else is to list, or that was."""
    for line in source.notes:
        print(printable(line), file=sys.stderr, flush=True)
