"""A speaker, USB Audio: what a host plays goes to a WAV file, a pipe or nowhere; it asks for its own pace.

speaker = Speaker(to="wav:played.wav")
speaker.playing.is_running, speaker.playing.format               # what a host does with it
speaker.playing.volume.value, speaker.playing.mute.value
speaker.changed = lambda: print("the host set the volume, or another rate")
"""

from __future__ import annotations

from ..usb.tree import DeviceDescriptor
from ..usb.types import Speed
from .clock import Clock
from .sound import sinks
from .sound.device import SoundDevice
from .sound.streams import Playing
from .sound.uac import Category


class Speaker(SoundDevice):
    """`to` is where the sound goes, see `sound.sinks`; the rest is as with `Microphone`.

    `buffer` is seconds of sound that wait for a far side at most: what does not fit is lost.
    """

    descriptor = DeviceDescriptor(0x1209, 0x000B)
    product = "Speaker"
    category = Category.SPEAKER
    playing: Playing

    def __init__(
        self,
        *,
        to: str = "null",
        rates: str = "48000,44100",
        channels: int = 2,
        bits: int = 16,
        buffer: float = 0.2,
        version: int = 2,
        speed: Speed | None = None,
        serial: str = "",
        clock: Clock | None = None,
    ) -> None:
        super().__init__(
            sink=sinks.make(to),
            rates=rates,
            channels=channels,
            bits=bits,
            buffer=buffer,
            version=version,
            speed=speed,
            serial=serial,
            clock=clock,
        )
