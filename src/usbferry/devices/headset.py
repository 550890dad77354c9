"""A headset, USB Audio: a microphone and a speaker in one device, each at a rate of its own."""

from __future__ import annotations

from ..usb.tree import DeviceDescriptor
from ..usb.types import Speed
from .clock import Clock
from .sound import sinks, sources
from .sound.device import SoundDevice
from .sound.streams import Playing, Recording
from .sound.uac import Category, Terminal


class Headset(SoundDevice):
    """`source` is what it hears, see `sound.sources`, and `to` where the host's sound goes, see `sound.sinks`."""

    descriptor = DeviceDescriptor(0x1209, 0x000C)
    product = "Headset"
    category = Category.HEADSET
    input_terminal = output_terminal = Terminal.HEADSET
    playing: Playing
    recording: Recording

    def __init__(
        self,
        *,
        source: str = "tone:440",
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
            source=sources.make(source),
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
