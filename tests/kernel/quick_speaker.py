"""A speaker whose clock is ahead of its host's, as clocks of real ones are: by its feedback it wants more sent.

usbferry serve virtual:tests/kernel/quick_speaker.py?to=wav:played.wav
"""

import logging

from usbferry.devices.speaker import Speaker
from usbferry.devices.virtual import Completion, Transfer, endpoint

AHEAD = 1.003
log = logging.getLogger("usbferry")


class QuickSpeaker(Speaker):
    """At its end it says how many frames the host sent in how many packets, of a millisecond each."""

    def __init__(self, *, to: str = "null", rates: str = "48000", version: int = 2) -> None:
        super().__init__(to=to, rates=rates, version=version)
        self.playing.sink.pace = lambda: AHEAD
        self.sent = [0, 0]

    @endpoint(0x01)
    def _take(self, transfer: Transfer) -> Completion:
        answer = super()._take(transfer)
        self.sent[0] += answer.actual // self.playing.format.frame_bytes
        self.sent[1] += len(transfer.packets or ())
        return answer

    def interface_set(self, number: int, alternate: int) -> None:
        if self.sent[1] and not alternate:
            log.info("sent %d frames in %d packets", *self.sent)
        super().interface_set(number, alternate)
