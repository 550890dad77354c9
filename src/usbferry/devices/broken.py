"""A device that describes itself wrongly, for tests of hosts: which mistake it makes is an option.

Apart from that it works: what is written to 0x01 is read from 0x81, and 0x82, an interrupt endpoint, says nothing. The
mistake is in the bytes that GET_DESCRIPTOR brings; what this program itself knows of the device has none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from ..usb.setup import Setup
from ..usb.transfer import Completion, Transfer
from ..usb.tree import DescriptorType, DeviceDescriptor, Interface
from ..usb.types import Speed, Status
from .clock import Clock
from .pipe import Answer
from .virtual import VirtualDevice, data, done, endpoint, request

# Where in the configuration descriptor its parts begin: 9 bytes, those of its interface, and three endpoints.
_INTERFACE, _IN, _INTERRUPT = 9, 18, 32
_LENGTH, _TYPE = 0, 1  # of any descriptor
_TOTAL, _INTERFACES = 2, 4  # of a configuration: wTotalLength, bNumInterfaces
_NUMBER, _ENDPOINTS = 2, 4  # of an interface: bInterfaceNumber, bNumEndpoints
_ADDRESS, _PACKET, _EVERY = 2, 4, 6  # of an endpoint: bEndpointAddress, wMaxPacketSize, bInterval
_CONFIGURATIONS: Final = 17  # of a device: bNumConfigurations


class Mistake(NamedTuple):
    """What is wrong, for people, and how the bytes of a descriptor come to be so."""

    about: str
    of: DescriptorType
    made: Callable[[bytes], bytes]


def _with(at: int, *values: int) -> Callable[[bytes], bytes]:
    """These bytes rather than those that are there."""
    return lambda raw: raw[:at] + bytes(values) + raw[at + len(values) :]


_CONFIGURATION: Final = DescriptorType.CONFIGURATION
MISTAKES: Final[dict[str, Mistake]] = {
    "no-configuration": Mistake(
        "bNumConfigurations of the device is 0", DescriptorType.DEVICE, _with(_CONFIGURATIONS, 0)
    ),
    "missing-configurations": Mistake(
        "bNumConfigurations is 3, and there is one", DescriptorType.DEVICE, _with(_CONFIGURATIONS, 3)
    ),
    "configuration-type": Mistake(
        "bDescriptorType of the configuration is an interface's", _CONFIGURATION, _with(_TYPE, 4)
    ),
    "total-length": Mistake(
        "wTotalLength is that of 64 bytes more than there are",
        _CONFIGURATION,
        lambda raw: _with(_TOTAL, len(raw) + 64)(raw),
    ),
    "cut": Mistake(
        "wTotalLength ends inside of the last endpoint",
        _CONFIGURATION,
        lambda raw: _with(_TOTAL, len(raw) - 3)(raw[:-3]),
    ),
    "zero-length": Mistake("bLength of the interrupt endpoint is 0", _CONFIGURATION, _with(_INTERRUPT + _LENGTH, 0)),
    "interface-count": Mistake("bNumInterfaces is 3, and there is one", _CONFIGURATION, _with(_INTERFACES, 3)),
    "interface-number": Mistake("the one interface has number 7", _CONFIGURATION, _with(_INTERFACE + _NUMBER, 7)),
    "endpoint-count": Mistake(
        "bNumEndpoints is 5, and there are three", _CONFIGURATION, _with(_INTERFACE + _ENDPOINTS, 5)
    ),
    "endpoint-zero": Mistake("the interrupt endpoint has address 0", _CONFIGURATION, _with(_INTERRUPT + _ADDRESS, 0)),
    "endpoint-twice": Mistake(
        "the interrupt endpoint has the address of another", _CONFIGURATION, _with(_INTERRUPT + _ADDRESS, 0x81)
    ),
    "packet-size": Mistake("wMaxPacketSize of the first endpoint is 7", _CONFIGURATION, _with(_IN + _PACKET, 7, 0)),
    "interval": Mistake("bInterval of the interrupt endpoint is 0", _CONFIGURATION, _with(_INTERRUPT + _EVERY, 0)),
    "string": Mistake("the list of languages has bLength 2, and so none", DescriptorType.STRING, lambda raw: b"\2\3"),
}


class Broken(VirtualDevice):
    """`mistake` is the one that it makes, a key of MISTAKES."""

    descriptor = DeviceDescriptor(0x6666, 0x0003, device_class=0xFF)  # "Prototype product Vendor ID" in usb.ids
    product = "Broken"

    def __init__(
        self, *, mistake: str = "string", speed: Speed = Speed.HIGH, serial: str = "", clock: Clock | None = None
    ) -> None:
        if mistake not in MISTAKES:
            raise ValueError(f"there is no mistake {mistake!r}; there are: {', '.join(MISTAKES)}")
        if speed >= Speed.SUPER:
            raise ValueError("its mistakes are those of full and of high speed")
        self.mistake = mistake
        self.speed = speed
        self.serial = serial
        self._held: deque[bytes] = deque()
        super().__init__(clock=clock)

    def interfaces(self) -> tuple[Interface, ...]:
        interrupt = self.interrupt(0x82, 8, 7 if self.speed is Speed.HIGH else 8)
        return (Interface(0, endpoints=(self.bulk(0x81), self.bulk(0x01), interrupt)),)

    @request(0x80, 6)
    def _describe_wrongly(self, setup: Setup, data: bytes) -> bytes:
        """Of strings it is the list of languages that may be wrong."""
        raw, (_, kind, made) = self.standard(setup, data), MISTAKES[self.mistake]
        if setup.value >> 8 == kind and not setup.value & 0xFF:
            return made(raw)
        return raw

    @endpoint(0x01)
    def _take(self, transfer: Transfer) -> Answer:
        if self._held:
            return None
        self._held.append(bytes(transfer.data))
        self.kick(0x81)
        return done(transfer)

    @endpoint(0x81)
    def _give(self, transfer: Transfer) -> Answer:
        if not self._held:
            return None
        held = self._held.popleft()
        self.kick(0x01)
        return data(held) if len(held) <= transfer.length else Completion(Status.OVERFLOW, held[: transfer.length])

    def settings_changed(self) -> None:
        self._held.clear()

    def was_reset(self) -> None:
        self._held.clear()
