"""The numbers that a host reads and sets on a sound device: volume, mute, rates; as UAC 1.0 and 2.0 ask for them.

1.0 asks for one number at a time, the current one, the least, the most, the step; 2.0 for the current one, or for a
list of ranges. What is set and does not fit becomes the nearest that does: UAC1 §5.2.1.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from ..chapter9 import Stall
from .uac import Request


class Range(NamedTuple):
    """Values from `least` to `most`, both included, `step` apart; a step of 0 is one value."""

    least: int
    most: int
    step: int

    def nearest(self, value: int) -> int:
        inside = min(max(value, self.least), self.most)
        if not self.step:
            return inside
        up = self.least + (inside - self.least + self.step // 2) // self.step * self.step
        return min(up, self.most)


class Control:
    """One number. `size` is its bytes in UAC 2.0, `size_1` in 1.0; `changed` is called after the host changed it.

    Without ranges it has only a current value; one that is fixed cannot be set.
    """

    def __init__(
        self,
        value: int,
        size: int,
        ranges: tuple[Range, ...] = (),
        *,
        size_1: int = 0,
        fixed: bool = False,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.value = self.initial = value
        self.ranges = ranges
        self._size, self._size_1 = size, size_1 or size
        self._fixed = fixed
        self._changed = changed
        self._signed = any(one.least < 0 for one in ranges)

    def restore(self) -> None:
        """What it was before there was a host."""
        self._become(self.initial)

    def get(self, request: int) -> bytes:
        """The data stage of a request that reads. Raises Stall."""
        if request == Request.CUR:
            return self._bytes(self.value, self._size)
        if request == Request.RANGE and self.ranges:
            numbers = [self._bytes(number, self._size) for one in self.ranges for number in one]
            return len(self.ranges).to_bytes(2, "little") + b"".join(numbers)
        if request == Request.GET_CUR:
            return self._bytes(self.value, self._size_1)
        if request in _BOUNDS and self.ranges:
            return self._bytes(_BOUNDS[request](self.ranges), self._size_1)
        raise Stall

    def set(self, data: bytes) -> None:
        """The host sets it. Raises Stall."""
        if self._fixed or len(data) not in (self._size, self._size_1):
            raise Stall
        value = int.from_bytes(data, "little", signed=self._signed)
        if self.ranges:
            value = min((one.nearest(value) for one in self.ranges), key=lambda near: abs(near - value))
        self._become(value)

    def _become(self, value: int) -> None:
        if value != self.value:
            self.value = value
            self._changed()

    def _bytes(self, value: int, size: int) -> bytes:
        return value.to_bytes(size, "little", signed=self._signed)


_BOUNDS: Final[dict[int, Callable[[tuple[Range, ...]], int]]] = {
    Request.GET_MIN: lambda ranges: min(one.least for one in ranges),
    Request.GET_MAX: lambda ranges: max(one.most for one in ranges),
    Request.GET_RES: lambda ranges: max(1, ranges[0].step),
}
