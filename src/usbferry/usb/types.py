"""The small words of USB: speeds, directions, transfer types, and how a transfer ended."""

from __future__ import annotations

from enum import IntEnum


class Speed(IntEnum):
    """Signalling rate of a device. Numbers: enum usb_device_speed, include/uapi/linux/usb/ch9.h."""

    UNKNOWN = 0
    LOW = 1
    FULL = 2
    HIGH = 3
    WIRELESS = 4
    SUPER = 5
    SUPER_PLUS = 6

    @property
    def label(self) -> str:
        """The rate as people write it."""
        return _LABELS[self]

    @property
    def has_microframes(self) -> bool:
        """Whether bInterval counts in 125 us microframes rather than in 1 ms frames (USB 2.0 §9.6.6)."""
        return self >= Speed.HIGH


_LABELS = {
    Speed.UNKNOWN: "unknown speed",
    Speed.LOW: "low speed, 1.5 Mbit/s",
    Speed.FULL: "full speed, 12 Mbit/s",
    Speed.HIGH: "high speed, 480 Mbit/s",
    Speed.WIRELESS: "wireless",
    Speed.SUPER: "SuperSpeed, 5 Gbit/s",
    Speed.SUPER_PLUS: "SuperSpeed+, 10 Gbit/s",
}


class Direction(IntEnum):
    """Bit 7 of an endpoint address and of bmRequestType; IN is towards the importer."""

    OUT = 0x00
    IN = 0x80


class TransferType(IntEnum):
    """Bits 1..0 of an endpoint's bmAttributes (USB 2.0 table 9-13)."""

    CONTROL = 0
    ISOCHRONOUS = 1
    BULK = 2
    INTERRUPT = 3


class Status(IntEnum):
    """How a transfer, or one isochronous packet, ended. Protocols map it in one total table each."""

    OK = 0
    STALL = 1  # the endpoint halted, or the control request was refused
    CANCELLED = 2  # cancelled before it was done; `Completion.actual` bytes were
    GONE = 3  # the device left
    SHUTDOWN = 4  # its endpoint was disabled or reconfigured under it
    TIMEOUT = 5
    SHORT = 6  # less than asked for where SHORT_NOT_OK forbade it; the data is there
    OVERFLOW = 7  # babble: the device sent more than was asked for
    PROTOCOL = 8  # bit stuffing, an unknown PID, no handshake
    CRC = 9
    NO_RESPONSE = 10
    UNDERRUN = 11  # the exporter could not feed the bus in time
    OVERRUN = 12  # the exporter could not take from the bus in time
    NOT_DONE = 13  # an isochronous packet whose frame passed it by
    NO_MEMORY = 14  # over a limit of the exporter
    NO_BANDWIDTH = 15
    INVALID = 16  # a transfer that makes no sense on its endpoint
    BUSY = 17
    FAILED = 18  # none of the above
