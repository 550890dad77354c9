"""UAC, the audio device class: its codes, and the descriptors of versions 1.0 and 2.0, one function each.

Both versions say the same of a device in other words: terminals where sound comes in and goes out, a feature unit with
the volume between them, and streaming interfaces. Where 1.0 lists the sampling rates in a stream's format and sets
them at its endpoint, 2.0 has a clock that is asked. Sources: "UAC1" is Universal Serial Bus Device Class Definition
for Audio Devices 1.0, "UAC2" its release 2.0, "Formats" their documents Audio Data Formats, "MIDI10" the definition for
MIDI Devices 1.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from struct import pack
from typing import Final

from .pcm import Format

AUDIO: Final = 0x01  # bInterfaceClass
CONTROL: Final = 0x01  # bInterfaceSubClass
STREAMING: Final = 0x02
MIDI_STREAMING: Final = 0x03
PROTOCOLS: Final = {1: 0x00, 2: 0x20}  # bInterfaceProtocol by version: IP_VERSION_02_00

_CS_INTERFACE: Final = 0x24
_CS_ENDPOINT: Final = 0x25
_PCM: Final = 0x0001  # wFormatTag, Formats 1.0 §A.1.1; the bit of bmFormats, Formats 2.0 §A.2.1
_TYPE_I: Final = 0x01
_READ_WRITE: Final = 0x03  # of a control, in UAC2's pairs of bits
_READ: Final = 0x01
# wChannelConfig and bmChannelConfig: front left, right, centre, LFE, back left, right, ... side left, right.
_PLACES: Final = {2: 0x003, 4: 0x033, 6: 0x03F, 8: 0x63F}


class Request(IntEnum):
    """bRequest. UAC1 §A.9 has the direction and the attribute in it, UAC2 §A.14 the attribute alone."""

    CUR = 0x01  # UAC2; SET_CUR of UAC1
    RANGE = 0x02  # UAC2
    GET_CUR = 0x81
    GET_MIN = 0x82
    GET_MAX = 0x83
    GET_RES = 0x84


class Terminal(IntEnum):
    """wTerminalType, Universal Serial Bus Device Class Definition for Terminal Types."""

    STREAMING = 0x0101
    MICROPHONE = 0x0201
    SPEAKER = 0x0301
    HEADSET = 0x0402


class Category(IntEnum):
    """bCategory of a function, UAC2 §A.7."""

    SPEAKER = 0x01
    MICROPHONE = 0x03
    HEADSET = 0x04


MUTE: Final = 0x01  # control selectors of a feature unit, UAC1 §A.10.2, UAC2 §A.17.7
VOLUME: Final = 0x02
ENDPOINT_RATE: Final = 0x01  # SAMPLING_FREQ_CONTROL of an endpoint, UAC1 §A.10.5
CLOCK_RATE: Final = 0x01  # CS_SAM_FREQ_CONTROL, UAC2 §A.17.1
CLOCK_VALID: Final = 0x02  # CS_CLOCK_VALID_CONTROL
ACTIVE_ALTERNATE: Final = 0x01  # AS_ACT_ALT_SETTING_CONTROL, UAC2 §A.17.9
VALID_ALTERNATES: Final = 0x02


# -- version 1 --------------------------------------------------------------------------------------------------------


def header_1(units: bytes, streams: Sequence[int]) -> bytes:
    """What the control interface begins with, UAC1 §4.3.2; `units` follow it, `streams` are interfaces."""
    length = 8 + len(streams) + len(units)
    return _interface(0x01, pack("<HHB", 0x0100, length, len(streams)) + bytes(streams))


def input_1(number: int, kind: int, partner: int, sound: Format) -> bytes:
    """A terminal where sound comes in, UAC1 §4.3.2.1; `partner` is the other terminal of a headset, or 0."""
    places = _PLACES.get(sound.channels, 0)
    return _interface(0x02, pack("<BHBBHBB", number, kind, partner, sound.channels, places, 0, 0))


def output_1(number: int, kind: int, partner: int, source: int) -> bytes:
    """A terminal where sound goes out, UAC1 §4.3.2.2; it comes from unit `source`."""
    return _interface(0x03, pack("<BHBBB", number, kind, partner, source, 0))


def feature_1(number: int, source: int, channels: int) -> bytes:
    """Mute and volume of all channels together, UAC1 §4.3.2.5."""
    return _interface(0x06, pack("<BBBB", number, source, 1, 0x03) + bytes(channels) + b"\0")


def stream_1(terminal: int, sound: Format, rates: Sequence[int]) -> tuple[bytes, ...]:
    """What a streaming interface carries: UAC1 §4.5.2, and Formats 1.0 §2.2.5 with the rates that there are."""
    kind = pack("<BBBBB", _TYPE_I, sound.channels, sound.sample_bytes, sound.bits, len(rates))
    frequencies = b"".join(rate.to_bytes(3, "little") for rate in rates)
    return _interface(0x01, pack("<BBH", terminal, 1, _PCM)), _interface(0x02, kind + frequencies)


def endpoint_1() -> bytes:
    """The endpoint takes sampling rates, UAC1 §4.6.1.2."""
    return bytes((7, _CS_ENDPOINT, 0x01, 0x01, 0, 0, 0))


# -- version 2 --------------------------------------------------------------------------------------------------------


def header_2(units: bytes, category: int) -> bytes:
    """What the control interface begins with, UAC2 §4.7.2."""
    return _interface(0x01, pack("<HBHB", 0x0200, category, 9 + len(units), 0))


def clock(number: int, terminal: int) -> bytes:
    """An internal clock whose rate can be set, UAC2 §4.7.2.1: programmable, and free of the bus's."""
    return _interface(0x0A, bytes((number, 0x03, _READ_WRITE | _READ << 2, terminal, 0)))


def input_2(number: int, kind: int, partner: int, sound: Format, clock: int) -> bytes:
    """UAC2 §4.7.2.4."""
    places = _PLACES.get(sound.channels, 0)
    return _interface(0x02, pack("<BHBBBIBHB", number, kind, partner, clock, sound.channels, places, 0, 0, 0))


def output_2(number: int, kind: int, partner: int, source: int, clock: int) -> bytes:
    """UAC2 §4.7.2.5."""
    return _interface(0x03, pack("<BHBBBHB", number, kind, partner, source, clock, 0, 0))


def feature_2(number: int, source: int, channels: int) -> bytes:
    """UAC2 §4.7.2.8."""
    controls = pack("<I", _READ_WRITE | _READ_WRITE << 2) + bytes(4 * channels)
    return _interface(0x06, bytes((number, source)) + controls + b"\0")


def stream_2(terminal: int, sound: Format) -> tuple[bytes, ...]:
    """UAC2 §4.9.2 and Formats 2.0 §2.3.1.6."""
    places = _PLACES.get(sound.channels, 0)
    general = pack("<BBBIBIB", terminal, 0, _TYPE_I, _PCM, sound.channels, places, 0)
    return _interface(0x01, general), _interface(0x02, bytes((_TYPE_I, sound.sample_bytes, sound.bits)))


def endpoint_2() -> bytes:
    """UAC2 §4.10.1.2."""
    return bytes((8, _CS_ENDPOINT, 0x01, 0, 0, 0, 0, 0))


# -- MIDI -------------------------------------------------------------------------------------------------------------


def midi_port(from_host: int, from_far: int, to_host: int, to_far: int) -> tuple[bytes, ...]:
    """A MIDI streaming interface with one port, MIDI10 §6.1: an embedded jack and an external one for each way."""
    embedded, external = 0x01, 0x02
    jacks = (
        _interface(0x02, bytes((embedded, from_host, 0))),
        _interface(0x02, bytes((external, from_far, 0))),
        _interface(0x03, bytes((embedded, to_host, 1, from_far, 1, 0))),
        _interface(0x03, bytes((external, to_far, 1, from_host, 1, 0))),
    )
    return _interface(0x01, pack("<HH", 0x0100, 7 + sum(map(len, jacks)))), *jacks


def midi_endpoint(jack: int) -> bytes:
    """The embedded jack that an endpoint belongs to, MIDI10 §6.2.2."""
    return bytes((5, _CS_ENDPOINT, 0x01, 1, jack))


def _interface(subtype: int, body: bytes) -> bytes:
    return bytes((3 + len(body), _CS_INTERFACE, subtype)) + body
