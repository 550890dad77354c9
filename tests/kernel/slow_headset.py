"""A headset whose seconds last two of ours, for a host that is emulated: what does not wait gives it more time.

usbferry serve 'virtual:tests/kernel/slow_headset.py?source=counter&to=wav:played.wav'
"""

from collections.abc import Callable

from usbferry.devices.clock import Clock, LoopClock, Timer
from usbferry.devices.headset import Headset

SLOWER = 2


class SlowClock:
    def __init__(self) -> None:
        self._clock = LoopClock()

    def now(self) -> float:
        return self._clock.now() / SLOWER

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return self._clock.call_at(when * SLOWER, callback)


class SlowHeadset(Headset):
    def __init__(self, *, source: str = "counter", to: str = "null") -> None:
        super().__init__(source=source, to=to)

    @property
    def clock(self) -> Clock:
        if self._clock is None:
            self._clock = SlowClock()
        return self._clock
