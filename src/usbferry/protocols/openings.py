"""What conversations begin with: who speaks another protocol than the one expected is told by his first bytes.

Both sides of each are here, for either may come to the wrong port: a client that was given it, a server that is
listening there. Each protocol knows what it is strict about by itself; this is for people.
"""

from __future__ import annotations

import re
from typing import Final

from .errors import ProtocolError

SHOWN: Final = 40  # bytes that are looked at, and characters that are shown of them
_TITLES: Final = {"usbip": "USB/IP", "tls": "TLS", "spice": "SPICE"}  # the others as they are
# How both sides begin, by the protocol's row or another name; who begins with a line of text is quoted instead. Each is
# long enough not to be met by accident, and no longer than what a client says before it waits.
_OPENINGS: Final = rb"""(?xs)
    (?P<usbip>    \x01. [\x00\x80][\x03\x05])                      # a version, and the two operations both ways
  | (?P<usbredir> \x00{4} ..[\x00\x01]\x00)                        # hello, and its length: little endian
  | (?P<ferry>    \x00[\x00\x01].. [\x80-\xff]...                  # the marker, an identifier of the transport
                  (?: \x01\x00\x00\x00 | \x00\x00\x00[\x00\x0a]))  # VERSION, or its answer: OK, no common version
  | (?P<tls>      [\x15\x16]\x03[\x00-\x04])                       # an alert or a handshake
  | (?P<spice>    REDQ)                                           # what usbredir is often a channel of
"""


class Stranger(ProtocolError):
    """The peer does not speak `protocol` at all: what it `said` first is nothing that begins such a conversation."""

    def __init__(self, protocol: str, said: bytes | memoryview) -> None:
        self.spoken = spoken_by(said)  # instead: a protocol's row, another name, or "" where that cannot be told
        words = f" but {title(self.spoken)}" if self.spoken else _words(bytes(said[:SHOWN]))
        super().__init__(f"it does not speak {title(protocol)}{words}")


def check(protocol: str, opening: bytes, said: bytes | memoryview) -> None:
    """Raises Stranger for what no server of `protocol` begins with; all of them begin with `opening`."""
    if not opening.startswith(bytes(said[: len(opening)])) or spoken_by(said) not in ("", protocol):
        raise Stranger(protocol, said)


def spoken_by(said: bytes | memoryview) -> str:
    """The protocol of who begins so: a row of PROTOCOLS, or one that is none of ours; "" if it cannot be told."""
    found = re.match(_OPENINGS, said[:SHOWN])
    return found.lastgroup or "" if found else ""


def title(protocol: str) -> str:
    """The name of a protocol, for people."""
    return _TITLES.get(protocol, protocol)


def _words(said: bytes) -> str:
    """A line of text, with which many servers begin, and some clients."""
    line = said.decode("latin-1").splitlines()[0] if b" " < said[:1] < b"\x7f" else ""
    return f", it says {line!r}" if len(line) > 2 and line.isprintable() else ""
