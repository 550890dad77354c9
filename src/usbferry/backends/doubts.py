"""What is thought and said of a server that cannot be reached, says nothing, or speaks something else; and of one that
refuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

from ..device import Busy, DeviceError, NotFound, Unavailable
from ..protocols.events import Refusal, Refused
from ..protocols.openings import Stranger, title
from ..registry import PROTOCOLS
from ..transports.reasons import is_refused, reason

DOUBT_SECONDS: Final = 2.0  # without a byte from the server, after which it is doubted
_ERRORS: Final = {Refusal.BUSY: Busy, Refusal.NOT_FOUND: NotFound, Refusal.UNAVAILABLE: Unavailable}

Doubt = Callable[[], Coroutine[Any, Any, None]]  # raises DeviceError over who is no server; may be cancelled


class Silent(DeviceError):
    """A server did not answer in time."""


class Unreached(DeviceError):
    """Nobody is there: connections are refused, or their packets get lost."""


class Wordless(DeviceError):
    """A server closed the connection without a word: it may have heard another protocol than its own."""


@contextmanager
def connecting(where: object, seconds: float, why: Callable[[OSError], str] = reason) -> Iterator[None]:
    """What keeps the body from a connection is a DeviceError; `why` has it in words for people."""
    try:
        yield
    except TimeoutError:
        raise Unreached(f"no connection to {where} within {seconds:g} s") from None
    except OSError as error:
        kind = Unreached if is_refused(error) else DeviceError
        raise kind(f"no connection to {where}: {why(error)}") from error


async def settle(answer: asyncio.Future[Any], doubt: Doubt) -> None:
    """Let `doubt` raise DeviceError, for as long as there is no answer."""
    if answer.done():
        return
    doubting = asyncio.get_running_loop().create_task(doubt())
    try:
        await asyncio.wait([answer, doubting], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            doubting.result()
    finally:
        doubting.cancel()
        await asyncio.gather(doubting, return_exceptions=True)


def remedy(error: Stranger, server: str) -> str:
    """What to do about a server that speaks another protocol; a wrong port number is the most likely reason."""
    if error.spoken in PROTOCOLS:
        return f"write {error.spoken}://{server}"
    return "is the path right?" if server.startswith("/") else "is the port right?"


def doubted(protocol: str, server: str) -> str:
    """What to say of a server that says nothing: the port may be another protocol's."""
    port = server.rpartition(":")[2]
    for other, row in PROTOCOLS.items():
        if port == str(row.port) and other != protocol:
            return f"does it speak {title(protocol)}? {port} is the port of {title(other)}: write {other}://{server}"
    return f"does it speak {title(protocol)}?"


def wordless(protocol: str, server: str, error: Exception | None) -> Wordless:
    """The error of a server that ended the connection, by `error` or None, before it said anything."""
    does_it = doubted(protocol, server)
    if isinstance(error, ConnectionResetError):
        return Wordless(f"{server}: {reason(error)}; {does_it}")
    return Wordless(f"{server}: the connection was closed without an answer; {does_it}")


def refusal(event: Refused, about: str) -> DeviceError:
    """A server's refusal as the error that it is here."""
    kind: type[DeviceError] = _ERRORS.get(event.reason, DeviceError)
    return kind(f"{about}: {event.text}")
