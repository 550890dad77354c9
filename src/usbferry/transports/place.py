"""Where a transport begins or ends, as text: `//HOST:PORT`, `//:PORT` for every interface, `///PATH` for a socket file.

Which device is meant there stands behind it, as `//HOST:PORT/1-2` or `///PATH?device=1-2`; and who may use a file that
is made, as `///PATH?mode=660`. Before it stands the protocol, and after a plus another transport than TCP and Unix
streams: `ferry+udp://HOST`, `ferry+seqpacket:///PATH`.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import SplitResult, quote, unquote, urlsplit

from ..registry import PROTOCOLS, TRANSPORTS, check_transport, load_transport
from .link import Link, User
from .reasons import is_loopback, no_listening, no_listening_at_file, reason, reason_at_file, with_listening

STREAMS: Final = {False: "tcp", True: "unix"}  # what is meant where no transport is said, by whether it is a file


class Listening(Protocol):
    """What listens at a place."""

    @property
    def sockets(self) -> Sequence[socket.socket]: ...
    def close(self) -> None:
        """Let nobody in any more."""


@dataclass(frozen=True, slots=True)
class Place:
    """A port of a host, or a socket file. `name` is the device that an address means there."""

    host: str
    port: int
    path: str = ""  # of a socket file; then there is neither host nor port
    name: str = ""
    other: str = ""  # transport than a stream
    mode: int | None = None  # of a socket file that is made, as chmod has it; None leaves it to the umask

    def naming(self, name: str) -> Place:
        """The same place, for the device `name`."""
        return replace(self, name=name)

    @property
    def transport(self) -> str:
        """The row of TRANSPORTS."""
        return self.other or STREAMS[bool(self.path)]

    async def listen(self, user: Callable[[], User], opens: Callable[[bytes], bool] = bool) -> Listening:
        """Let peers in, each served by a new user; without connections, by a packet that `opens` something.

        Raises OSError when the place cannot be had.
        """
        module = load_transport(self.transport)
        row = TRANSPORTS[self.transport]
        words: dict[str, object] = {} if row.connects else {"opens": opens}
        if row.at_files:
            words["mode"] = self.mode
        listening: Listening = await module.listen(*self._where, user, **words)
        return listening

    async def connect(self, user: User, timeout: float = 10.0) -> Link:
        """Connect; `user` is served from then on. Raises OSError, TimeoutError after `timeout` seconds."""
        link: Link = await load_transport(self.transport).connect(*self._where, user, timeout)
        return link

    def no_listening(self, error: OSError, another: str = "choose another") -> str:
        """Why nobody can listen here, in words for people; `another` says how to choose another place."""
        return no_listening_at_file(error, self.path, another) if self.path else no_listening(error, another)

    def reason(self, error: OSError) -> str:
        """Why there is no connection, in words for people."""
        return reason_at_file(error, self.path) if self.path else reason(error)

    def no_connection(self, error: OSError, protocol: str) -> str:
        """The same, or the address that was meant if that can be told."""
        if not self.path:
            return with_listening(self.reason(error), error, self.host, f"--on {self.scheme(protocol)}://:{self.port}")
        meant = self._meant(error.errno, protocol)
        if meant is None:
            return self.reason(error)
        address = f"{meant.scheme(protocol)}://{quote(meant.path)}"
        return f"write {address}?device={quote(meant.name)}" if meant.name else f"write {address}"

    def _meant(self, number: int | None, protocol: str) -> Place | None:
        """The socket file that is there, where it is of another kind, or the device was written behind it."""
        if number == errno.EPROTOTYPE:
            other = "seqpacket" if self.transport == "unix" else ""
            return replace(self, other=other) if (other or "unix") in PROTOCOLS[protocol].transports else None
        file, slash, name = self.path.rpartition("/")
        if number == errno.ENOTDIR and slash and PROTOCOLS[protocol].chooses and Path(file).is_socket():
            return replace(self, path=file, name=name)
        return None

    @property
    def _where(self) -> tuple[str] | tuple[str, int]:
        return (self.path,) if self.path else (self.host, self.port)

    def scheme(self, protocol: str) -> str:
        """What stands before the colon."""
        return f"{protocol}+{self.other}" if self.other else protocol

    @property
    def is_of_this_machine(self) -> bool:
        """Whether nobody else can reach it."""
        return bool(self.path) or is_loopback(self.host)

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
        why = "options stand behind a question mark"
        if "&" in parts.netloc:
            raise ValueError(why)
        why = "a port is a number up to 65535"
        return parts, parts.port
    except ValueError as error:  # its text is about Python
        protocol = address.partition(":")[0].partition("+")[0]
        if host_and_port.count(":") > 1 and not set("[]") & set(host_and_port):
            why = f"an IPv6 address stands in brackets, as in [::1]:{PROTOCOLS[protocol].port}"
        raise ValueError(f"{address!r} is no address, write it as {form}: {why}") from error


def check_peer(address: str, form: str, port: int | None) -> None:
    """Raises ValueError where nobody can be: at port 0, which is any free one to who listens."""
    if port == 0:
        raise ValueError(f"{address!r} is no address, write it as {form}: a port is a number from 1 to 65535")


def access(mode: str) -> int:
    """Who may use a file, as chmod has it in figures. Raises ValueError with a text for the user."""
    if not re.fullmatch("0?[0-7]{3}", mode):
        raise ValueError(f"mode={mode} is no access to a file; 660 is its user's and group's, 666 everybody's")
    return int(mode, 8)


def parse(address: str, default_port: int, *, is_made: bool = False) -> Place:
    """The place in `SCHEME://...`; where it `is_made` here, a file may have a mode.

    Raises ValueError with a text for the user.
    """
    scheme = address.partition(":")[0]
    form = _form(scheme)
    parts, port = split(address, form)
    said, is_file = [part.partition("=") for part in parts.query.split("&") if part], not parts.netloc
    if not address.startswith(f"{scheme}://") or parts.fragment or parts.username is not None:
        raise ValueError(f"{address!r} is no address, write it as {form}")
    known = ("device", "mode") if is_made else ("device",)
    options = {key: value for key, equals, value in said if is_file and equals and key in known}
    if len(options) != len(said):  # some are unknown, or said twice
        there = "; options of a socket file are device and mode" if is_file and is_made else ""
        raise ValueError(f"{address!r} is no address, write it as {form}{there}")
    other = _transport(address, scheme, is_file=is_file)
    if not other and STREAMS[is_file] not in PROTOCOLS[scheme.partition("+")[0]].transports:
        raise ValueError(f"{address!r}: {scheme} has no socket files, write it as {scheme}://HOST:PORT")
    if is_file:
        path = unquote(parts.path)
        if len(path) < 2:
            raise ValueError(f"{address!r} is no address, write it as {form}")
        if not hasattr(socket, "AF_UNIX"):
            raise ValueError(f"{address!r}: this system has no socket files, write it as {scheme}://HOST:PORT")
        mode = access(options["mode"]) if "mode" in options else None
        return Place("", 0, path, unquote(options.get("device", "")), other, mode)
    name = unquote(parts.path.strip("/"))
    return Place(parts.hostname or "", default_port if port is None else port, name=name, other=other)


def _form(scheme: str) -> str:
    row = TRANSPORTS.get(scheme.partition("+")[2])
    host, file = f"{scheme}://HOST:PORT", f"{scheme}:///SOCKET-FILE"
    if row is None:
        return f"{host} or {file}"
    return file if row.at_files else host


def _transport(address: str, scheme: str, *, is_file: bool) -> str:
    """The transport that an address names, "" for a stream. Raises ValueError."""
    _, plus, name = scheme.partition("+")
    if not plus:
        return ""
    check_transport(address)
    if TRANSPORTS[name].at_files is not is_file:
        raise ValueError(f"{address!r} is no address, write it as {_form(scheme)}")
    return "" if name == STREAMS[is_file] else name
