"""Where a stream begins or ends, as text: `//HOST:PORT`, `//:PORT` for every interface, `///PATH` for a socket file.

Which device is meant there stands behind it, as `//HOST:PORT/1-2` or `///PATH?device=1-2`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import SplitResult, quote, unquote, urlsplit

from . import tcp, unix
from .link import Link, User


@dataclass(frozen=True, slots=True)
class Place:
    """A TCP port of a host, or a socket file. `name` is the device that an address means there."""

    host: str
    port: int
    path: str = ""  # of a socket file; then there is neither host nor port
    name: str = ""

    def naming(self, name: str) -> Place:
        """The same place, for the device `name`."""
        return replace(self, name=name)

    async def listen(self, user: Callable[[], User]) -> asyncio.Server:
        """Accept connections, each served by a new user. Raises OSError when the place cannot be had."""
        if self.path:
            return await unix.listen(self.path, user)
        return await tcp.listen(self.host, self.port, user)

    async def connect(self, user: User, timeout: float = 10.0) -> Link:
        """Connect; `user` is served from then on. Raises OSError, TimeoutError after `timeout` seconds."""
        if self.path:
            return await unix.connect(self.path, user, timeout)
        return await tcp.connect(self.host, self.port, user, timeout)

    @property
    def is_of_this_machine(self) -> bool:
        """Whether nobody else can reach it; a name other than localhost may be anything."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def whole(self) -> str:
        """With the device, as behind a scheme."""
        if not self.name:
            return str(self)
        return f"{self}?device={quote(self.name)}" if self.path else f"{self}/{quote(self.name)}"

    def __str__(self) -> str:
        return self.path or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")


def split(address: str, form: str) -> tuple[SplitResult, int | None]:
    """The parts of an address and its port. Raises ValueError with a text for the user, of what `form` shows."""
    host_and_port, why = address.partition("://")[2].partition("/")[0], "what is in brackets is an IPv6 address"
    try:
        parts = urlsplit(address)
        why = "a port is a number up to 65535"
        return parts, parts.port
    except ValueError as error:  # its text is about Python
        if host_and_port.count(":") > 1 and not set("[]") & set(host_and_port):
            why = "an IPv6 address stands in brackets, as in [::1]:3240"
        raise ValueError(f"{address!r} is no address, write it as {form}: {why}") from error


def parse(address: str, default_port: int) -> Place:
    """The place in `SCHEME://...`. Raises ValueError with a text for the user."""
    scheme = address.partition(":")[0]
    form = f"{scheme}://HOST:PORT or {scheme}:///SOCKET-FILE"
    parts, port = split(address, form)
    query, is_file = parts.query, not parts.netloc
    if not address.startswith(f"{scheme}://") or parts.fragment or parts.username is not None:
        raise ValueError(f"{address!r} is no address, write it as {form}")
    if query and not (is_file and query.startswith("device=")):
        raise ValueError(f"{address!r} is no address, write it as {form}")
    if is_file:
        path = unquote(parts.path)
        if len(path) < 2:
            raise ValueError(f"{address!r} is no address, write it as {form}")
        if not hasattr(socket, "AF_UNIX"):
            raise ValueError(f"{address!r}: this system has no socket files, write it as {scheme}://HOST:PORT")
        return Place("", 0, path, unquote(query.removeprefix("device=")))
    return Place(parts.hostname or "", default_port if port is None else port, name=unquote(parts.path.strip("/")))
