"""Where a server is that was not found: its machine may serve another way, by another transport or protocol.

Who types `ferry://HOST` has not heard of UDP, and who types `usbip://HOST` not of ferry. The other ways are asked, for
a moment; only one that answers as a server is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Final

from ..device import DeviceError
from ..registry import PROTOCOLS, TRANSPORTS
from .doubts import Unreached, Wordless

ASK_SECONDS: Final = 1.0  # for an answer: who is told of it waits for that
QUIET_SECONDS: Final = 60.0  # without asking once more: who waits for a server tries every few seconds

Ask = Callable[[str], Awaitable[object]]  # lists what is at an address, or raises DeviceError


class Elsewhere:
    """The other ways to the machine in `address`, a server's with or without a device."""

    def __init__(self, address: str, port: int | None, ask: Ask) -> None:
        """`port` is the one that was written in the address."""
        self._ways = {False: others(address, port), True: foreign(address, port)}  # by `is_foreign`
        self._ask = ask
        self._asked = dict.fromkeys(self._ways, -inf)
        self._found = dict.fromkeys(self._ways, "")

    async def find(self, is_foreign: bool = False) -> str:
        """The address that was meant, if it answers; "" else. `is_foreign`: somebody is there, and says nothing."""
        now = asyncio.get_running_loop().time()
        if now >= self._asked[is_foreign] + QUIET_SECONDS:
            self._asked[is_foreign] = now
            addresses = self._ways[is_foreign]
            answers = await asyncio.gather(*map(self._answers, addresses))
            self._found[is_foreign] = next(
                (one for one, is_there in zip(addresses, answers, strict=True) if is_there), ""
            )
        return self._found[is_foreign]

    async def _answers(self, address: str) -> bool:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await self._ask(address)
        except (DeviceError, TimeoutError):
            return False
        return True

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Where the body reaches nobody, the error says where somebody is."""
        try:
            yield
        except (Unreached, Wordless) as error:
            found = await self.find(is_foreign=isinstance(error, Wordless))
            if not found:
                raise
            what, _, _ = str(error).partition("; ")
            raise type(error)(f"{what}; write {found}, which answers") from error.__cause__


def others(address: str, port: int | None) -> list[str]:
    """The same address by each other way, those of its own protocol first. Socket files have none."""
    scheme, _, rest = address.partition(":")
    if rest.startswith("///"):
        return []
    protocol, _, transport = scheme.partition("+")
    at_hosts = [one for one in PROTOCOLS[protocol].transports if not TRANSPORTS[one].at_files]
    schemes = [protocol if one == "tcp" else f"{protocol}+{one}" for one in at_hosts if one != (transport or "tcp")]
    if port is None:  # each has its own
        schemes += [other for other, row in PROTOCOLS.items() if row.chooses and other != protocol]
    return [f"{one}:{rest}" for one in schemes]


def foreign(address: str, port: int | None) -> list[str]:
    """The same address by each other protocol, where a port was written that may be any one's."""
    scheme, _, rest = address.partition(":")
    protocol = scheme.partition("+")[0]
    return [f"{other}:{rest}" for other, row in PROTOCOLS.items() if port and row.chooses and other != protocol]
