"""The 8-byte setup packet, the standard requests of chapter 9, and the few that hosts and bridges must recognise."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from struct import error as struct_error
from typing import Final

_SETUP: Final = Struct("<BBHHH")


class RequestType(IntEnum):
    """Bits 6..5 of bmRequestType."""

    STANDARD = 0x00
    CLASS = 0x20
    VENDOR = 0x40
    RESERVED = 0x60


class Recipient(IntEnum):
    """Bits 4..0 of bmRequestType; other values are reserved."""

    DEVICE = 0
    INTERFACE = 1
    ENDPOINT = 2
    OTHER = 3


class Request(IntEnum):
    """Standard request codes, USB 3.2 table 9-5."""

    GET_STATUS = 0
    CLEAR_FEATURE = 1
    SET_FEATURE = 3
    SET_ADDRESS = 5
    GET_DESCRIPTOR = 6
    SET_DESCRIPTOR = 7
    GET_CONFIGURATION = 8
    SET_CONFIGURATION = 9
    GET_INTERFACE = 10
    SET_INTERFACE = 11
    SYNCH_FRAME = 12
    SET_SEL = 48
    SET_ISOCH_DELAY = 49


class Feature(IntEnum):
    """Feature selectors, USB 3.2 table 9-7. The recipient tells two features of one number apart."""

    ENDPOINT_HALT = 0
    FUNCTION_SUSPEND = 0
    DEVICE_REMOTE_WAKEUP = 1
    TEST_MODE = 2
    U1_ENABLE = 48
    U2_ENABLE = 49
    LTM_ENABLE = 50


@dataclass(frozen=True, slots=True)
class Setup:
    """A setup packet, USB 2.0 §9.3. All fields are unsigned; `length` is bytes."""

    request_type: int  # bmRequestType
    request: int  # bRequest
    value: int = 0  # wValue
    index: int = 0  # wIndex
    length: int = 0  # wLength

    @classmethod
    def parse(cls, raw: bytes | bytearray | memoryview) -> Setup:
        """Decode exactly 8 bytes. Raises ValueError for any other length."""
        if len(raw) != 8:
            raise ValueError(f"a setup packet has 8 bytes, not {len(raw)}")
        return cls(*_SETUP.unpack(raw))

    def pack(self) -> bytes:
        """The 8 bytes on the wire. Raises ValueError when a field does not fit."""
        try:
            return _SETUP.pack(self.request_type, self.request, self.value, self.index, self.length)
        except struct_error as error:
            raise ValueError(f"no setup packet: {self}") from error

    @property
    def is_in(self) -> bool:
        """Whether the data stage goes to the importer. A request without data stage counts as OUT."""
        return bool(self.request_type & 0x80) and self.length > 0

    @property
    def type(self) -> RequestType:
        return RequestType(self.request_type & 0x60)

    @property
    def recipient(self) -> int:
        """0 device, 1 interface, 2 endpoint, 3 other; reserved values come as they are."""
        return self.request_type & 0x1F

    def __str__(self) -> str:
        name = f"{self.request:#04x}"
        if self.type is RequestType.STANDARD:
            name = _REQUEST_NAMES.get(self.request, name)
        return f"{self.request_type:02x} {name} value {self.value:04x} index {self.index:04x} length {self.length}"


_REQUEST_NAMES: Final = {request.value: request.name for request in Request}

# The requests that change what the host's own stack believes, as whole (bmRequestType, bRequest) pairs. A backend
# whose library must hear of them, and a device that holds transfers behind them, compare against these.
SET_ADDRESS: Final = (0x00, Request.SET_ADDRESS)
SET_CONFIGURATION: Final = (0x00, Request.SET_CONFIGURATION)
SET_INTERFACE: Final = (0x01, Request.SET_INTERFACE)
CLEAR_ENDPOINT_FEATURE: Final = (0x02, Request.CLEAR_FEATURE)
SET_PORT_FEATURE: Final = (0x23, Request.SET_FEATURE)
PORT_RESET: Final = 4  # wValue of SET_PORT_FEATURE, USB 2.0 table 11-17


def is_port_reset(setup: Setup) -> bool:
    """Whether this asks the hub above the device to reset its port (usbip-win2 sends it to the device itself)."""
    return (setup.request_type, setup.request) == SET_PORT_FEATURE and setup.value == PORT_RESET


def is_clear_halt(setup: Setup) -> bool:
    """Whether this is CLEAR_FEATURE(ENDPOINT_HALT); the endpoint is `setup.index & 0x8f`."""
    return (setup.request_type, setup.request) == CLEAR_ENDPOINT_FEATURE and setup.value == Feature.ENDPOINT_HALT


def get_descriptor(kind: int, index: int = 0, *, language: int = 0, length: int = 255) -> Setup:
    """GET_DESCRIPTOR of the device; `length` is how many bytes at most."""
    return Setup(0x80, Request.GET_DESCRIPTOR, kind << 8 | index, language, length)


def set_configuration(value: int) -> Setup:
    return Setup(*SET_CONFIGURATION, value=value)


def set_interface(interface: int, alternate: int) -> Setup:
    return Setup(*SET_INTERFACE, value=alternate, index=interface)


def clear_halt(endpoint: int) -> Setup:
    return Setup(*CLEAR_ENDPOINT_FEATURE, value=Feature.ENDPOINT_HALT, index=endpoint)
