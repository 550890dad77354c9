"""Why a connection could not be made, or a place not be listened at, in words for people."""

from __future__ import annotations

import errno
import os
import re
import socket


def reason(error: OSError) -> str:
    """Why there is no connection. asyncio puts the addresses it tried where the reason should be."""
    number = error.errno
    if number is None and (found := re.search(r"\[Errno (\d+)\]", str(error))):
        number = int(found[1])
    if number is None or isinstance(error, socket.gaierror):  # its numbers are others
        return error.strerror or str(error) or "no answer"  # a TimeoutError is one without a word
    text = os.strerror(number)
    return f"{text}; is a server running there?" if number == errno.ECONNREFUSED else text


def no_listening(error: OSError, another: str = "choose another") -> str:
    """Why nobody can listen there, and what to do; `another` says how to choose another port."""
    if error.errno == errno.EADDRINUSE:
        return f"the port is in use; {another}, 0 for any free one"
    if error.errno == errno.EACCES:
        return f"ports below 1024 are the administrator's; {another}"
    if error.errno in (errno.EADDRNOTAVAIL, None):  # None is asyncio's, since Python 3.13
        return "this machine has no such address"
    if isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)


def no_listening_at_file(error: OSError, path: str, another: str = "choose another") -> str:
    """The same of a socket file; `another` says how to choose another one."""
    folder = os.path.dirname(os.path.abspath(path))
    if error.errno == errno.EADDRINUSE:
        return f"another server listens at this file; {another}"
    if error.errno == errno.EEXIST:
        return f"the file is there and is no socket; {another}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"permission denied: {folder}"
    if error.errno == errno.ENOENT:
        return f"there is no folder {folder}"
    return error.strerror or str(error)
