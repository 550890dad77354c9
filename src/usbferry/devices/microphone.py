"""A microphone, USB Audio: a tone, a WAV file, or what a program writes to a pipe; any rate, volume and mute.

microphone = Microphone(source="tone:440")
microphone.recording.is_running, microphone.recording.format     # what a host does with it
microphone.recording.volume.value, microphone.recording.mute.value
microphone.changed = lambda: print("the host set the volume, or another rate")
"""

from __future__ import annotations

from ..usb.tree import DeviceDescriptor
from ..usb.types import Speed
from .clock import Clock
from .sound import sources
from .sound.device import SoundDevice
from .sound.streams import Recording
from .sound.uac import Category


class Microphone(SoundDevice):
    """`source` is what it hears, see `sound.sources`; a WAV file also decides the rate, the channels and the bits.

    `rates` are Hz, the first is the one it begins with. `bits` are 16, 24 or 32. `buffer` is seconds of sound that wait
    for the host at most. `version` is that of USB Audio, 1 or 2; 1 is at full speed unless `speed` says otherwise.
    """

    descriptor = DeviceDescriptor(0x1209, 0x000A)
    product = "Microphone"
    category = Category.MICROPHONE
    recording: Recording

    def __init__(
        self,
        *,
        source: str = "tone:440",
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
            source=sources.make(source),
            rates=rates,
            channels=channels,
            bits=bits,
            buffer=buffer,
            version=version,
            speed=speed,
            serial=serial,
            clock=clock,
        )
