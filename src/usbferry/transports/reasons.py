"""Why a connection could not be made, or a place not be listened at, in words for people."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import Final

_REMEDIES: Final = {
    errno.ECONNREFUSED: "is a server running there?",
    errno.EHOSTUNREACH: "is that machine on, and the address right?",
    errno.ENETUNREACH: "is this machine's network up, and the address right?",
}


def reason(error: OSError) -> str:
    """Why there is no connection. asyncio puts the addresses it tried where the reason should be."""
    number = _number(error)
    if isinstance(error, socket.gaierror):
        return _no_name(error)
    if number is None:
        return error.strerror or str(error) or "no answer"  # a TimeoutError is one without a word
    text, remedy = os.strerror(number), _REMEDIES.get(number)
    return f"{text}; {remedy}" if remedy else text


def is_refused(error: OSError) -> bool:
    """Whether the machine is there, and nobody listens at its port."""
    return _number(error) == errno.ECONNREFUSED


def _number(error: OSError) -> int | None:
    if error.errno is None and (found := re.search(r"\[Errno (\d+)\]", str(error))):
        return int(found[1])
    return error.errno


def with_listening(text: str, error: OSError, host: str, option: str) -> str:
    """The reason `text`, with the option that lets other machines in: a server listens to its own alone."""
    if not is_refused(error) or is_loopback(host):
        return text
    return f"{text.removesuffix('?')}, and listening to other machines (usbferry serve {option})?"


def is_loopback(host: str) -> bool:
    """Whether nobody else can reach it; a name other than localhost may be anything."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reason_at_file(error: OSError, path: str) -> str:
    """Why there is no connection to a socket file."""
    there = Path(path).absolute()
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        missing = "socket file" if there.parent.is_dir() else f"folder {there.parent}"
        return f"there is no {missing}; is the path right, and a server running?"
    if error.errno == errno.ECONNREFUSED and there.exists() and not there.is_socket():
        return "the file is no socket; is the path right?"
    if error.errno == errno.EPROTOTYPE:
        return "a socket of another kind is there; is the path right?"
    if error.errno == errno.EACCES:
        return "permission denied; run it as the server's user, or as root"
    return reason(error)


def no_listening(error: OSError, another: str = "choose another") -> str:
    """Why nobody can listen there, and what to do; `another` says how to choose another port."""
    if error.errno == errno.EADDRINUSE:
        return f"the port is in use; {another}, 0 for any free one"
    if error.errno == errno.EACCES:
        return f"ports below 1024 are the administrator's; {another}"
    if error.errno in (errno.EADDRNOTAVAIL, None):  # None is asyncio's, since Python 3.13
        return "this machine has no such address"
    if isinstance(error, socket.gaierror):
        return _no_name(error)
    return os.strerror(error.errno)


def no_listening_at_file(error: OSError, path: str, another: str = "choose another") -> str:
    """The same of a socket file; `another` says how to choose another one."""
    folder = os.path.dirname(os.path.abspath(path))
    if error.errno == errno.EADDRINUSE:
        return f"another server listens at this file; {another}"
    if error.errno == errno.EEXIST:
        return f"the file is there and is no socket; {another}"
    if error.errno in (errno.EACCES, errno.EPERM):
        if os.path.lexists(path):
            return f"the file is there, and this user may not use it; {another}, or remove it if its server has ended"
        return f"this user may make no file in {folder}; {another}"
    if error.errno == errno.ENOENT:
        return f"there is no folder {folder}; {another}, or make it"
    return error.strerror or str(error)


def _no_name(error: socket.gaierror) -> str:
    """Why a name stands for no address. Its numbers are others than those of OSError."""
    is_unasked = error.errno == socket.EAI_AGAIN  # no name server answered
    return f"{error.strerror or error}; {'is this machine on the network?' if is_unasked else 'is the name right?'}"
