"""Two clocks that nobody tunes: the device's, and that of a program at the far side of a pipe.

    bytes in the queue    below the target       at it       above it
    the stream goes       a little slower        as named    a little quicker       (what a host plays: the reverse)

A recording device says by the length of its packets how quick it is; a playing one by its feedback endpoint. So the
queue stays near its target, however long it goes on. A far side that waits for us has no clock of its own: a queue
that is full of what a file brings, or empty because all is taken at once, asks for nothing.
"""

from __future__ import annotations

from typing import Final

SPAN: Final = 0.004  # of the rate, at most: clocks are 0.0001 off, and a packet has room for one frame more
_WEIGHT: Final = 1 / 32  # of the newest level among those before: what comes in pieces is no drift


class Matching:
    """Follows one queue; `target` and `full` are levels of it, in bytes."""

    def __init__(self, target: int, full: int) -> None:
        self._target, self._full = target, full
        self._level: float | None = None

    def restart(self) -> None:
        """What was seen belongs to an earlier stream."""
        self._level = None

    def factor(self, level: int) -> float:
        """What the rate of whoever empties the queue is multiplied by, seeing it at `level`; who fills it divides."""
        if not 0 < level < self._full:
            self._level = None
            return 1.0
        self._level = level if self._level is None else self._level + (level - self._level) * _WEIGHT
        away = (self._level - self._target) / self._target
        return 1 + SPAN * min(max(away, -1.0), 1.0)


def feedback(rate: float, *, full_speed: bool) -> bytes:
    """What a feedback endpoint gives: frames in a bus interval, with binary places, USB 2.0 §5.12.4.2.

    At full speed 10.14 in three bytes, of a frame; else 16.16 in four, of a microframe.
    """
    if full_speed:
        return round(rate * (1 << 14) / 1000).to_bytes(3, "little")
    return round(rate * (1 << 16) / 8000).to_bytes(4, "little")
