"""CDC, the communications device class: its codes, functional descriptors, notifications, and the line coding.

Sources: "CDC" is Class Definitions for Communications Devices 1.2; of its subclass documents, "PSTN" is that for PSTN
devices 1.2, "ECM" that for Ethernet control model devices 1.2, "NCM" that for network control model devices 1.0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

COMMUNICATIONS: Final = 0x02  # bInterfaceClass, CDC §4.2
DATA: Final = 0x0A  # bInterfaceClass, CDC §4.5
ABSTRACT_CONTROL: Final = 0x02  # bInterfaceSubClass, CDC §4.3
ETHERNET_CONTROL: Final = 0x06
NETWORK_CONTROL: Final = 0x0D
NTB_DATA: Final = 0x01  # bInterfaceProtocol of a data interface, NCM §4.2

_CS_INTERFACE: Final = 0x24  # CDC table 12
_NOTIFICATION: Final = Struct("<BBHHH")  # as a setup packet, CDC §6.3
_LINE_CODING: Final = Struct("<IBBB")  # PSTN §6.3.11


class Request(IntEnum):
    """bRequest to the control interface: PSTN §6.3, ECM §6.2, NCM §6.2."""

    SET_LINE_CODING = 0x20
    GET_LINE_CODING = 0x21
    SET_CONTROL_LINE_STATE = 0x22
    SEND_BREAK = 0x23
    SET_ETHERNET_PACKET_FILTER = 0x43
    GET_NTB_PARAMETERS = 0x80
    GET_NTB_INPUT_SIZE = 0x85
    SET_NTB_INPUT_SIZE = 0x86


class Notification(IntEnum):
    """bNotification: CDC §6.3, PSTN §6.5."""

    NETWORK_CONNECTION = 0x00
    SERIAL_STATE = 0x20
    CONNECTION_SPEED_CHANGE = 0x2A


class Signals(IntFlag):
    """What a device tells its host of the line, SERIAL_STATE's bitmap: PSTN table 31. There is no CTS in it."""

    DCD = 0x01  # bRxCarrier: the far side is connected
    DSR = 0x02  # bTxCarrier: the device is ready
    BREAK = 0x04
    RING = 0x08
    FRAMING = 0x10
    PARITY = 0x20
    OVERRUN = 0x40


class Lines(IntFlag):
    """What a host tells its device, wValue of SET_CONTROL_LINE_STATE: PSTN table 18."""

    DTR = 0x01
    RTS = 0x02


@dataclass(frozen=True, slots=True)
class LineCoding:
    """How characters travel on a serial line; `str` gives it as people write it, "9600 8N1"."""

    rate: int = 9600  # dwDTERate, bits per second
    data_bits: int = 8  # bDataBits: 5 to 8, or 16
    parity: str = "N"  # bParityType: none, odd, even, mark, space
    stop_bits: float = 1  # bCharFormat: 1, 1.5 or 2

    @classmethod
    def parse(cls, raw: bytes) -> LineCoding:
        """Decode 7 bytes. Raises ValueError for anything that PSTN §6.3.11 does not name."""
        if len(raw) != _LINE_CODING.size:
            raise ValueError(f"a line coding has 7 bytes, not {len(raw)}")
        rate, stop, parity, bits = _LINE_CODING.unpack(raw)
        if stop >= len(_STOP_BITS) or parity >= len(_PARITIES) or bits not in _DATA_BITS:
            raise ValueError(f"no line coding: {raw.hex()}")
        return cls(rate, bits, _PARITIES[parity], _STOP_BITS[stop])

    def pack(self) -> bytes:
        """The 7 bytes on the wire."""
        stop, parity = _STOP_BITS.index(self.stop_bits), _PARITIES.index(self.parity)
        return _LINE_CODING.pack(self.rate, stop, parity, self.data_bits)

    def __str__(self) -> str:
        return f"{self.rate} {self.data_bits}{self.parity}{self.stop_bits:g}"


_STOP_BITS: Final = (1, 1.5, 2)  # at their codes
_PARITIES: Final = "NOEMS"
_DATA_BITS: Final = (5, 6, 7, 8, 16)


def header() -> bytes:
    """The functional descriptor that comes first, CDC §5.2.3.1."""
    return _functional(0x00, b"\x20\x01")  # bcdCDC 1.20


def call_management(data_interface: int, capabilities: int = 0) -> bytes:
    """PSTN §5.3.1; no capabilities: a serial port handles no calls."""
    return _functional(0x01, bytes((capabilities, data_interface)))


def abstract_control(capabilities: int) -> bytes:
    """PSTN §5.3.2: 0x02 for line coding, control lines and serial state, 0x04 for breaks."""
    return _functional(0x02, bytes((capabilities,)))


def union(control_interface: int, *subordinates: int) -> bytes:
    """Which interfaces are one function, CDC §5.2.3.2."""
    return _functional(0x06, bytes((control_interface, *subordinates)))


def serial_state(interface: int, signals: int) -> bytes:
    """The SERIAL_STATE notification of a control interface, PSTN §6.5.4."""
    return _NOTIFICATION.pack(0xA1, Notification.SERIAL_STATE, 0, interface, 2) + signals.to_bytes(2, "little")


def ethernet_networking(address_string: int, frame_bytes: int) -> bytes:
    """ECM §5.4: the index of the string with the host's MAC address, and the longest frame; no statistics, no filters
    of its own."""
    return _functional(0x0F, struct.pack("<BIHHB", address_string, 0, frame_bytes, 0, 0))


def network_control(capabilities: int = 0) -> bytes:
    """NCM §5.2.1; no capabilities: only the requests that every device has."""
    return _functional(0x1A, b"\x00\x01" + bytes((capabilities,)))


def network_connection(interface: int, connected: bool) -> bytes:
    """The NETWORK_CONNECTION notification of a control interface, CDC §6.3.1."""
    return _NOTIFICATION.pack(0xA1, Notification.NETWORK_CONNECTION, connected, interface, 0)


def connection_speed(interface: int, bits: int) -> bytes:
    """The CONNECTION_SPEED_CHANGE notification, CDC §6.3.3: bits per second, the same both ways."""
    head = _NOTIFICATION.pack(0xA1, Notification.CONNECTION_SPEED_CHANGE, 0, interface, 8)
    return head + struct.pack("<II", bits, bits)


def _functional(subtype: int, body: bytes) -> bytes:
    return bytes((3 + len(body), _CS_INTERFACE, subtype)) + body
