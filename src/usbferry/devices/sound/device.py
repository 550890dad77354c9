"""The base of the sound devices: a microphone, a speaker, or both, as USB Audio Class 1.0 or 2.0.

    interface 0    control: terminals, volume and mute, in 2.0 also the clocks
    interface 1    what the host plays: nothing (alternate setting 0), or samples and feedback (1)
    interface 2    what the host records: nothing, or samples; it is interface 1 where nothing is played

Streams are asynchronous: the device's clock rules, and the host follows it. Volume acts on the samples, as in a real
device, and at 0 dB each goes through as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ...usb.setup import Setup
from ...usb.transfer import Completion, Transfer
from ...usb.tree import Association, Configuration, Endpoint, Interface
from ...usb.types import Speed
from ..chapter9 import Stall
from ..clock import Clock
from ..virtual import VirtualDevice, endpoint, request
from . import uac
from .controls import Control
from .pcm import Format
from .sinks import Sink
from .sources import Source
from .streams import Playing, Recording, SoundStream
from .uac import Category, Request, Terminal

OUT: Final = 0x01
FEEDBACK: Final = 0x81
IN: Final = 0x82
_CONTROL_INTERFACE: Final = 0
_ASYNCHRONOUS: Final = 0x04  # of bmAttributes, with Isochronous: USB 2.0 §9.6.6
_IS_FEEDBACK: Final = 0x10
# Between two values of feedback, as an exponent of milliseconds: 8 ms. UAC1 §4.6.2.1 has it as bRefresh.
_REFRESH: Final = 3
_BUFFER: Final = 0.2

# Units of a direction, in the order in which sound goes through them: input terminal, feature unit, output terminal.
_PLAYING_UNITS: Final = (1, 2, 3)
_RECORDING_UNITS: Final = (4, 5, 6)
_CLOCKS: Final = {_PLAYING_UNITS: 10, _RECORDING_UNITS: 11}
_PROTOCOL: Final = 0x01  # bDeviceProtocol: look for associations


def rates_of(text: str) -> tuple[int, ...]:
    """The rates of an option, "48000,44100". Raises ValueError with a text for the user."""
    try:
        rates = tuple(int(one) for one in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} are no rates; write them in Hz, as 48000,44100") from None
    if len(set(rates)) != len(rates):
        raise ValueError(f"{text!r} names a rate twice")
    return rates


class SoundDevice(VirtualDevice):
    """`source` and `sink` are its ends; at least one is there. A source that has a format lends it to the device.

    `buffer` is seconds of sound held for a far side, at most.
    """

    category: Category = Category.HEADSET
    input_terminal: Terminal = Terminal.MICROPHONE
    output_terminal: Terminal = Terminal.SPEAKER

    def __init__(
        self,
        *,
        source: Source | None = None,
        sink: Sink | None = None,
        rates: str = "48000,44100",
        channels: int = 2,
        bits: int = 16,
        buffer: float = _BUFFER,
        version: int = 2,
        speed: Speed | None = None,
        serial: str = "",
        clock: Clock | None = None,
    ) -> None:
        if version not in uac.PROTOCOLS:
            raise ValueError(f"there are versions 1 and 2 of USB Audio, not {version}")
        if version == 2:  # it has an association, which the device class says; version 1 leaves all to its interfaces
            self.descriptor = replace(
                self.descriptor, device_class=0xEF, device_subclass=0x02, device_protocol=_PROTOCOL
            )
        if not 0 < buffer <= 10:
            raise ValueError("buffer is over 0 and up to 10 seconds")
        self.speed = speed or (Speed.FULL if version == 1 else Speed.HIGH)
        self.serial = serial
        self.changed: Callable[[], None] | None = None
        self._version = version
        self._buffer = buffer
        named = rates_of(rates)
        sound = Format(named[0], channels, bits)
        for rate in named:
            Format(rate, channels, bits)
        self.playing = None if sink is None else Playing(f"{self.product}, playing", sink, sound, named, self.speed)
        self.recording = None if source is None else self._recording(source, sound, named)
        self._controls: dict[tuple[int, int], Control] = {}  # (entity, selector) of the control interface
        self._streams: dict[int, SoundStream] = {}  # by interface
        for stream, units in ((self.playing, _PLAYING_UNITS), (self.recording, _RECORDING_UNITS)):
            if stream is not None:
                self._add(stream, units)
        super().__init__(clock=clock)

    def _recording(self, source: Source, sound: Format, rates: tuple[int, ...]) -> Recording:
        own = source.format
        if own is not None:
            sound, rates = own, (own.rate,)
        return Recording(f"{self.product}, recording", source, sound, rates, self.speed)

    def _add(self, stream: SoundStream, units: tuple[int, int, int]) -> None:
        stream.changed = self._say_changed
        self._streams[len(self._streams) + 1] = stream
        self._controls[units[1], uac.MUTE] = stream.mute
        self._controls[units[1], uac.VOLUME] = stream.volume
        if self._version == 2:
            self._controls[_CLOCKS[units], uac.CLOCK_RATE] = stream.rate
            self._controls[_CLOCKS[units], uac.CLOCK_VALID] = Control(1, 1, fixed=True)

    def _say_changed(self) -> None:
        if self.changed is not None:
            self.changed()

    # -- descriptors --------------------------------------------------------------------------------------------------

    def configurations(self) -> tuple[Configuration, ...]:
        """Version 2 wants an association, UAC2 §4.6; version 1 knows of none, and lists its interfaces itself."""
        protocol = uac.PROTOCOLS[self._version]
        joined = Association(_CONTROL_INTERFACE, 1 + len(self._streams), uac.AUDIO, 0, protocol)
        return (Configuration(interfaces=self.interfaces(), associations=(joined,) if self._version == 2 else ()),)

    def interfaces(self) -> tuple[Interface, ...]:
        settings = [self._setting(_CONTROL_INTERFACE, 0, uac.CONTROL, extra=self._control_descriptors())]
        for number, stream in self._streams.items():
            endpoints = self._playing_endpoints() if stream is self.playing else self._recording_endpoints()
            settings.append(self._setting(number, 0, uac.STREAMING))
            settings.append(self._setting(number, 1, uac.STREAMING, self._stream_descriptors(stream), endpoints))
        return tuple(settings)

    def _setting(
        self,
        number: int,
        alternate: int,
        subclass: int,
        extra: tuple[bytes, ...] = (),
        endpoints: tuple[Endpoint, ...] = (),
    ) -> Interface:
        protocol = uac.PROTOCOLS[self._version]
        return Interface(number, alternate, uac.AUDIO, subclass, protocol, endpoints, extra=extra)

    def _control_descriptors(self) -> tuple[bytes, ...]:
        headset = self.playing is not None and self.recording is not None
        units: list[bytes] = []
        if self.playing is not None:
            partners = (0, _RECORDING_UNITS[0] if headset else 0)
            kinds = (Terminal.STREAMING, self.output_terminal)
            units += self._units(_PLAYING_UNITS, kinds, partners, self.playing.format)
        if self.recording is not None:
            partners = (_PLAYING_UNITS[2] if headset else 0, 0)
            kinds = (self.input_terminal, Terminal.STREAMING)
            units += self._units(_RECORDING_UNITS, kinds, partners, self.recording.format)
        body = b"".join(units)
        head = uac.header_1(body, tuple(self._streams)) if self._version == 1 else uac.header_2(body, self.category)
        return head, *units

    def _units(
        self, numbers: tuple[int, int, int], kinds: tuple[int, int], partners: tuple[int, int], sound: Format
    ) -> list[bytes]:
        """In, feature, out; in version 2 with their clock ahead of them."""
        first, feature, last = numbers
        if self._version == 1:
            return [
                uac.input_1(first, kinds[0], partners[0], sound),
                uac.feature_1(feature, first, sound.channels),
                uac.output_1(last, kinds[1], partners[1], feature),
            ]
        clock = _CLOCKS[numbers]
        return [
            uac.clock(clock, 0),
            uac.input_2(first, kinds[0], partners[0], sound, clock),
            uac.feature_2(feature, first, sound.channels),
            uac.output_2(last, kinds[1], partners[1], feature, clock),
        ]

    def _stream_descriptors(self, stream: SoundStream) -> tuple[bytes, ...]:
        terminal = _PLAYING_UNITS[0] if stream is self.playing else _RECORDING_UNITS[2]
        if self._version == 1:
            return uac.stream_1(terminal, stream.format, stream.rates)
        return uac.stream_2(terminal, stream.format)

    def _playing_endpoints(self) -> tuple[Endpoint, ...]:
        assert self.playing is not None
        interval = 7 if self.speed.has_microframes else 1  # of the feedback: 2**6 microframes; else bRefresh tells it
        if self._version == 2 and not self.speed.has_microframes:
            interval = 4
        back = self.isochronous(FEEDBACK, self.playing.feedback_bytes, interval, attributes=_IS_FEEDBACK)
        return self._data_endpoint(OUT, self.playing, FEEDBACK), self._audio(back, refresh=_REFRESH)

    def _recording_endpoints(self) -> tuple[Endpoint, ...]:
        assert self.recording is not None
        return (self._data_endpoint(IN, self.recording),)

    def _data_endpoint(self, address: int, stream: SoundStream, partner: int = 0) -> Endpoint:
        size, interval = stream.packet_bytes(self.speed), stream.interval(self.speed)
        plain = self.isochronous(address, size, interval, attributes=_ASYNCHRONOUS)
        extra = uac.endpoint_1() if self._version == 1 else uac.endpoint_2()
        return self._audio(plain, partner=partner, extra=(extra,))

    def _audio(self, plain: Endpoint, refresh: int = 0, partner: int = 0, extra: tuple[bytes, ...] = ()) -> Endpoint:
        """Endpoints of version 1 have two bytes more, UAC1 §4.6.1.1 and §4.6.2.1."""
        if self._version == 1:
            return replace(plain, refresh=refresh, synch_address=partner, extra=extra)
        return replace(plain, extra=extra)

    # -- samples ------------------------------------------------------------------------------------------------------

    @endpoint(OUT)
    def _take(self, transfer: Transfer) -> Completion:
        assert self.playing is not None
        return self.playing.take(transfer)

    @endpoint(FEEDBACK)
    def _feed_back(self, transfer: Transfer) -> Completion:
        assert self.playing is not None
        return self.playing.feed_back(transfer)

    @endpoint(IN)
    def _give(self, transfer: Transfer) -> Completion:
        assert self.recording is not None
        return self.recording.give(transfer)

    # -- controls -----------------------------------------------------------------------------------------------------

    @request(0x21, Request.CUR)
    def _set(self, setup: Setup, data: bytes) -> None:
        self._control_of(setup).set(data)

    @request(0xA1, Request.CUR)
    @request(0xA1, Request.RANGE)
    def _get_2(self, setup: Setup, data: bytes) -> bytes:
        if self._version != 2:
            raise Stall
        number, entity = setup.index & 0xFF, setup.index >> 8
        if number in self._streams and not entity and setup.request == Request.CUR:
            return self._alternates(number, setup.value >> 8)
        return self._control_of(setup).get(setup.request)

    @request(0xA1, Request.GET_CUR)
    @request(0xA1, Request.GET_MIN)
    @request(0xA1, Request.GET_MAX)
    @request(0xA1, Request.GET_RES)
    def _get_1(self, setup: Setup, data: bytes) -> bytes:
        if self._version != 1:
            raise Stall
        return self._control_of(setup).get(setup.request)

    @request(0x22, Request.CUR)
    def _set_endpoint(self, setup: Setup, data: bytes) -> None:
        self._rate_of(setup).set(data)

    @request(0xA2, Request.GET_CUR)
    @request(0xA2, Request.GET_MIN)
    @request(0xA2, Request.GET_MAX)
    @request(0xA2, Request.GET_RES)
    def _get_endpoint(self, setup: Setup, data: bytes) -> bytes:
        return self._rate_of(setup).get(setup.request)

    def _control_of(self, setup: Setup) -> Control:
        """The control of an entity of interface 0; channel 0 is all of them."""
        found = self._controls.get((setup.index >> 8, setup.value >> 8))
        if found is None or setup.index & 0xFF != _CONTROL_INTERFACE or setup.value & 0xFF:
            raise Stall
        return found

    def _rate_of(self, setup: Setup) -> Control:
        """Version 1 has its rates at the endpoints, UAC1 §5.2.3.2.3.1."""
        stream = {OUT: self.playing, IN: self.recording}.get(setup.index)
        if self._version != 1 or stream is None or setup.value >> 8 != uac.ENDPOINT_RATE:
            raise Stall
        return stream.rate

    def _alternates(self, number: int, selector: int) -> bytes:
        """Which setting is in force, and which could be: UAC2 §5.2.6.1."""
        if selector == uac.ACTIVE_ALTERNATE:
            return bytes((self.info.alternates.get(number, 0),))
        if selector == uac.VALID_ALTERNATES:
            return bytes((1, 0b11))
        raise Stall

    # -- life ---------------------------------------------------------------------------------------------------------

    async def plugged(self) -> None:
        if self.recording is not None:
            await self.recording.source.begin(self.recording.format, self._buffer)
        if self.playing is not None:
            try:
                await self.playing.sink.begin(self.playing.format, self._buffer)
            except BaseException:
                await self._end_source()
                raise

    async def unplugged(self) -> None:
        try:
            await self._end_source()
        finally:
            if self.playing is not None:
                await self.playing.sink.end()

    async def _end_source(self) -> None:
        if self.recording is not None:
            await self.recording.source.end()

    def configured(self, value: int) -> None:
        super().configured(value)
        self._stop()

    def interface_set(self, number: int, alternate: int) -> None:
        super().interface_set(number, alternate)
        stream = self._streams.get(number)
        if stream is not None:
            if alternate:
                stream.start()
            else:
                stream.stop()

    def was_reset(self) -> None:
        self._stop()
        for stream in self._streams.values():
            stream.restore()

    def _stop(self) -> None:
        for stream in self._streams.values():
            stream.stop()
