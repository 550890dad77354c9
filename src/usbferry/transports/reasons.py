"""Why a connection could not be made, in words for people."""

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
