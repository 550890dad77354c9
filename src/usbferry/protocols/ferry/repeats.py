"""Late replies where packets get lost: a target says them again, until there is a sign that they have come.

    IN_PROGRESS -> parked --[reply, one packet]--> said --[a call of its endpoint, or an acknowledgement]--> forgotten
                                                    '--[time]--> said again, some times

A controller asks seldom for what it knows to wait here. That a reply was lost it learns from the next one of its queue,
and where that does not come, as of a keyboard whose one read is answered, it would miss it for up to 2 s.

Who gets an answer submits the next transfer, mostly: so each call of an endpoint stands for the oldest of its replies.
That is a sign and no proof. Where it deceives, the controller asks in the end; where it is missing, some packets are
sent that nobody needed. Of each endpoint the newest reply is enough: by that one those before it are missed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from math import inf
from typing import Final

from .trips import LEAST_RESEND

TIMES: Final = 3


class _Said:
    """Replies of one endpoint that have perhaps not come, oldest first."""

    __slots__ = ("due", "identifiers", "times", "wait")

    def __init__(self) -> None:
        self.identifiers: deque[int] = deque()
        self.due = inf  # inf while nobody knows when the last one left
        self.wait = 0.0
        self.times = 0  # that it was said again


class Repeats:
    """Those of one transport."""

    def __init__(self) -> None:
        self.trip = 0.0  # a round trip, seconds
        self._parked: dict[int, int] = {}  # endpoint of each call whose controller knows that it is here
        self._said: dict[int, _Said] = {}  # by endpoint

    def clear(self) -> None:
        """The transport is lost, or the claim is over."""
        self._parked.clear()
        self._said.clear()

    def parks(self, identifier: int, endpoint: int) -> None:
        """Its controller was told that a call is here."""
        self._parked[identifier] = endpoint

    def says(self, identifier: int, is_short: bool) -> None:
        """Its reply leaves now; of a long one a part may come, and then the controller misses the others."""
        endpoint = self._parked.pop(identifier, None)
        if endpoint is None or not is_short:
            return
        said = self._said.get(endpoint)
        if said is None:
            said = self._said[endpoint] = _Said()
        said.identifiers.append(identifier)
        said.due, said.wait, said.times = inf, max(2 * self.trip, LEAST_RESEND), 0

    def hears(self, endpoint: int) -> None:
        """A call of an endpoint came."""
        said = self._said.get(endpoint)
        if said is not None:
            said.identifiers.popleft()
            if not said.identifiers:
                del self._said[endpoint]

    def deadline(self, heard: float) -> float:
        """When `due` wants to be called; what left since then is counted from when something was `heard` last."""
        return min([said.due if said.due < inf else heard + said.wait for said in self._said.values()], default=inf)

    def due(self, now: float, heard: float, kept: Container[int]) -> list[int]:
        """The replies to say again now, of those that are still `kept`."""
        found = []
        for endpoint, said in tuple(self._said.items()):
            if said.due == inf and now >= heard + said.wait:
                said.due = now + said.wait  # nobody knows how old `heard` is
            elif now >= said.due:
                while said.identifiers and said.identifiers[0] not in kept:
                    said.identifiers.popleft()
                if said.identifiers:
                    found.append(said.identifiers[-1])
                said.times += 1
                said.wait *= 2
                said.due = now + said.wait
                if said.times == TIMES or not said.identifiers:
                    del self._said[endpoint]
        return found
