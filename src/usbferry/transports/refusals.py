"""Who was refused what: a client that waits for a device asks again and again, and the log says it once."""

from __future__ import annotations

import logging
from math import inf
from typing import Final

QUIET_SECONDS: Final = 60.0  # without that refusal, after which it is news again; who waits asks every few seconds
MOST: Final = 256  # that are remembered


class Refusals:
    """Those of one place or server. A client is known by its machine, for each attempt comes from another port."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], float] = {}  # when, by machine and reason; the oldest comes first

    def level(self, peer: str, reason: str, now: float) -> int:
        """At which a refusal is logged."""
        return logging.WARNING if self.is_news(peer, reason, now) else logging.DEBUG

    def is_news(self, peer: str, reason: str, now: float) -> bool:
        """Whether a refusal is to be said. One that is repeated is not, for as long as it is."""
        key = peer.rpartition(":")[0] or peer, reason
        before = self._last.pop(key, -inf)
        self._last[key] = now
        if len(self._last) > MOST:
            del self._last[next(iter(self._last))]
        return now >= before + QUIET_SECONDS
