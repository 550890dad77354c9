"""What a card reader and its host say to each other: CCID's messages, each with a header of ten bytes.

    out   type  length (4)  slot  number  three of its own      data
    in    type  length (4)  slot  number  status  error  one    data

Source: Specification for Integrated Circuit(s) Cards Interface Devices 1.1, where the sections named here are.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

HEADER: Final = Struct("<BIBB3s")  # both ways, §6.1 and §6.2
DESCRIPTOR: Final = Struct("<BBHBBIIIBIIBIIIIIBBHBB")  # §5.1
CLOCK_KHZ: Final = 4000
RATE: Final = 10753  # bits per second at that clock, of a card that was just switched on
MAX_DATA: Final = {False: 261, True: 4096}  # bytes of a message's data, by whether it takes extended APDUs
MAX_APDU: Final = 4 + 3 + 65535 + 2


class Ask(IntEnum):
    """bMessageType, table 6.1-1."""

    SET_PARAMETERS = 0x61
    POWER_ON = 0x62
    POWER_OFF = 0x63
    GET_SLOT_STATUS = 0x65
    GET_PARAMETERS = 0x6C
    RESET_PARAMETERS = 0x6D
    ICC_CLOCK = 0x6E
    TRANSFER = 0x6F  # XfrBlock
    ABORT = 0x72


class Tell(IntEnum):
    """bMessageType, table 6.2-1."""

    DATA = 0x80
    STATUS = 0x81
    PARAMETERS = 0x82
    ESCAPE = 0x83
    RATE = 0x84


# What answers a message that is refused: §6.1 says of each type which. Any other has a slot's status.
REPLIES: Final = {
    Ask.POWER_ON: Tell.DATA,
    Ask.TRANSFER: Tell.DATA,
    Ask.SET_PARAMETERS: Tell.PARAMETERS,
    Ask.GET_PARAMETERS: Tell.PARAMETERS,
    Ask.RESET_PARAMETERS: Tell.PARAMETERS,
    0x69: Tell.DATA,  # Secure
    0x6B: Tell.ESCAPE,
    0x73: Tell.RATE,  # SetDataRateAndClockFrequency
}


class Error(IntEnum):
    """bError, table 6.2-2; those below 0x80 are the offset of what is wrong in the message, 0 is its type."""

    NOT_SUPPORTED = 0
    BAD_LENGTH = 1
    BAD_SLOT = 5
    BAD_OWN = 7  # the first byte of the type's own
    BAD_LEVEL = 8
    SLOT_BUSY = 0xE0
    HARDWARE = 0xFB
    MUTE = 0xFE  # no card, or one that says nothing
    ABORTED = 0xFF


class Icc(IntEnum):
    """What is in a slot: bmICCStatus, table 6.2-3."""

    ACTIVE = 0
    INACTIVE = 1
    EMPTY = 2


class Chain(IntEnum):
    """wLevelParameter and bChainParameter, §6.1.4 and §6.2.1."""

    WHOLE = 0
    FIRST = 1
    LAST = 2
    MIDDLE = 3
    GO_ON = 0x10


FAILED: Final = 0x40  # bmCommandStatus
MORE_TIME: Final = 0x80

_FEATURES: Final = 0x0000047A  # parameters, voltage, clock, rate, PPS and IFSD are its own affair
_PROTOCOLS: Final = 0x03  # T=0 and T=1
_SHORT: Final = 0x0002_0000
_EXTENDED: Final = 0x0004_0000

# Of T=0 and T=1, by bProtocolNum: as ISO 7816-3 has them when nothing else was said, §6.2.3.
PARAMETERS: Final = {0: bytes.fromhex("1100000a00"), 1: bytes.fromhex("11100045002000")}


@dataclass(frozen=True, slots=True)
class Message:
    """One of the host's."""

    kind: int
    slot: int
    number: int
    own: bytes
    data: bytes


class Refused(Exception):
    """A message that fails."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.name)
        self.error = error


def descriptor(is_extended: bool) -> bytes:
    features = _FEATURES | (_EXTENDED if is_extended else _SHORT)
    longest = HEADER.size + MAX_DATA[is_extended]
    clocks = (CLOCK_KHZ, CLOCK_KHZ, 0, RATE, RATE, 0)
    return DESCRIPTOR.pack(
        DESCRIPTOR.size, 0x21, 0x0110, 0, 0x07, _PROTOCOLS, *clocks, 254, 0, 0, features, longest, 0xFF, 0xFF, 0, 0, 1
    )


def protocols(atr: bytes) -> tuple[int, ...]:
    """T of what a card speaks, the first one first: the lower halves of the TD bytes, ISO/IEC 7816-3 §8.2.3."""
    found: list[int] = []
    at, indicator = 1, atr[1] if len(atr) > 1 else 0
    while indicator & 0x80:
        at += (indicator >> 4).bit_count()
        if at >= len(atr):
            break
        indicator = atr[at]
        if indicator & 0x0F not in found and indicator & 0x0F < 15:
            found.append(indicator & 0x0F)
    return tuple(found) or (0,)


def checked(atr: bytes) -> bytes:
    """TS and T0 as they are, with the check byte that all but T=0 need. For who writes a card."""
    check = 0
    for byte in atr[1:]:
        check ^= byte
    return atr + bytes((check,)) if protocols(atr) != (0,) else atr
