"""The tree of descriptors that a device describes itself with, and the arithmetic of endpoints, all frozen values.

Fields called `tail` hold what a descriptor has beyond its specified length: "the extra bytes are ignored by the host"
(USB 2.0 §9.5), and kept here. Raw descriptors are whole, with their length and type bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from .types import Speed, TransferType


class DescriptorType(IntEnum):
    """bDescriptorType, USB 3.2 table 9-6."""

    DEVICE = 1
    CONFIGURATION = 2
    STRING = 3
    INTERFACE = 4
    ENDPOINT = 5
    DEVICE_QUALIFIER = 6
    OTHER_SPEED_CONFIGURATION = 7
    INTERFACE_POWER = 8
    OTG = 9
    DEBUG = 10
    INTERFACE_ASSOCIATION = 11
    BOS = 15
    DEVICE_CAPABILITY = 16
    SS_ENDPOINT_COMPANION = 48
    SSP_ISO_ENDPOINT_COMPANION = 49


class CapabilityType(IntEnum):
    """bDevCapabilityType of the capabilities that have a class here, USB 3.2 table 9-14."""

    USB_2_EXTENSION = 2
    SUPERSPEED = 3
    CONTAINER_ID = 4
    PLATFORM = 5
    SUPERSPEED_PLUS = 10


@dataclass(frozen=True, slots=True)
class DeviceDescriptor:
    """USB 2.0 §9.6.1. Strings are indices, 0 for none."""

    vendor_id: int  # idVendor
    product_id: int  # idProduct
    usb: int = 0x0200  # bcdUSB
    device_class: int = 0  # bDeviceClass
    device_subclass: int = 0  # bDeviceSubClass
    device_protocol: int = 0  # bDeviceProtocol
    max_packet0: int = 64  # bMaxPacketSize0, raw: bytes up to high speed, log2 of bytes (9) at SuperSpeed
    release: int = 0x0100  # bcdDevice
    manufacturer: int = 0  # iManufacturer
    product: int = 0  # iProduct
    serial: int = 0  # iSerialNumber
    configurations: int = 1  # bNumConfigurations


@dataclass(frozen=True, slots=True)
class Qualifier:
    """What the device descriptor would say at the other speed, USB 2.0 §9.6.2."""

    usb: int  # bcdUSB
    device_class: int  # bDeviceClass
    device_subclass: int  # bDeviceSubClass
    device_protocol: int  # bDeviceProtocol
    max_packet0: int  # bMaxPacketSize0
    configurations: int  # bNumConfigurations


@dataclass(frozen=True, slots=True)
class Companion:
    """SuperSpeed endpoint companion, USB 3.2 §9.6.7."""

    max_burst: int = 0  # bMaxBurst, packets in a burst less one, 0..15
    attributes: int = 0  # bmAttributes
    bytes_per_interval: int = 0  # wBytesPerInterval, of periodic endpoints
    tail: bytes = b""

    @property
    def streams(self) -> int:
        """How many streams a bulk endpoint offers, 0 when it has none. Meaningless for other types."""
        exponent = min(self.attributes & 0x1F, 16)
        return 1 << exponent if exponent else 0

    @property
    def mult(self) -> int:
        """Bursts in a service interval less one, 0..2, of an isochronous endpoint. Meaningless for other types."""
        return min(self.attributes & 0x03, 2)


@dataclass(frozen=True, slots=True)
class SspIsoCompanion:
    """SuperSpeedPlus isochronous endpoint companion, USB 3.2 §9.6.8."""

    bytes_per_interval: int  # dwBytesPerInterval
    tail: bytes = b""


_MAX_INTERVAL_BYTES: Final = 20_000_000_000 // 8 // 8000  # what 20 Gbit/s carry in one bus interval of 125 us


@dataclass(frozen=True, slots=True)
class Endpoint:
    """USB 2.0 §9.6.6, USB 3.2 §9.6.6. `extra` are the raw descriptors after it, its companions excluded."""

    address: int  # bEndpointAddress, with the direction bit
    attributes: int  # bmAttributes
    max_packet: int  # wMaxPacketSize, raw
    interval: int = 0  # bInterval, raw
    companion: Companion | None = None
    ssp_companion: SspIsoCompanion | None = None  # only after a companion
    refresh: int | None = None  # bRefresh of the 9-byte form, USB Audio 1.0 §4.6.1.1
    synch_address: int | None = None  # bSynchAddress of the 9-byte form
    extra: tuple[bytes, ...] = ()
    tail: bytes = b""

    @property
    def number(self) -> int:
        return self.address & 0x0F

    @property
    def is_in(self) -> bool:
        return bool(self.address & 0x80)

    @property
    def type(self) -> TransferType:
        return TransferType(self.attributes & 0x03)

    @property
    def is_periodic(self) -> bool:
        """Whether it is isochronous or interrupt, and so has a service interval."""
        return bool(self.attributes & 0x01)

    @property
    def packet_size(self) -> int:
        """Bytes in its largest packet, wMaxPacketSize bits 10..0."""
        return self.max_packet & 0x07FF

    @property
    def transactions(self) -> int:
        """Packets in a microframe, 1..3: above 1 only for periodic endpoints at high speed, bits 12..11."""
        if self.companion is not None or not self.is_periodic:
            return 1
        return min(self.max_packet >> 11 & 0x03, 2) + 1

    @property
    def service_bytes(self) -> int:
        """Bytes that it may carry in one service interval; for bulk and control, in one burst.

        With a companion that is wBytesPerInterval, or dwBytesPerInterval if there is one, as far as the endpoint's
        packets can hold it (USB 3.2 §9.6.7). An interrupt endpoint that claims 0 there is taken by its packets.
        """
        companion = self.companion
        if companion is None:
            return self.packet_size * self.transactions
        if self.type is TransferType.ISOCHRONOUS and self.ssp_companion is not None:
            return min(self.ssp_companion.bytes_per_interval, _MAX_INTERVAL_BYTES)
        burst = self.packet_size * (min(companion.max_burst, 15) + 1)
        if self.type is TransferType.ISOCHRONOUS:
            return min(companion.bytes_per_interval, burst * (companion.mult + 1))
        if self.type is TransferType.INTERRUPT and companion.bytes_per_interval:
            return min(companion.bytes_per_interval, burst)
        return burst

    def interval_us(self, speed: Speed) -> int:
        """Its service interval at `speed`, in microseconds; 0 for bulk and control, which have none.

        bInterval outside its range becomes what Linux makes of it (usb_parse_endpoint, drivers/usb/core/config.c): a
        high-speed interrupt endpoint meant milliseconds, others get 8 or 10 ms. A feedback endpoint of USB Audio 1.0 is
        polled every frame by its bInterval, and yet has something new only every 2**bRefresh ms (§4.6.2.1).
        """
        if not self.is_periodic:
            return 0
        if self.refresh and self.refresh <= 9 and self.type is TransferType.ISOCHRONOUS:
            return 1000 << self.refresh
        interrupt = self.type is TransferType.INTERRUPT
        if interrupt and not speed.has_microframes:
            return 1000 * (self.interval if 1 <= self.interval <= 255 else 10)
        exponent = self.interval
        if not 1 <= exponent <= 16:
            exponent = 7 if speed.has_microframes else 4  # 8 ms
            if interrupt and 17 <= self.interval <= 255:
                exponent = (self.interval * 8).bit_length()  # 16 to 128 ms
        return (125 if speed.has_microframes else 1000) << exponent - 1


@dataclass(frozen=True, slots=True)
class Interface:
    """One alternate setting, USB 2.0 §9.6.5. `extra` are the raw descriptors between it and its first endpoint."""

    number: int  # bInterfaceNumber
    alternate: int = 0  # bAlternateSetting
    interface_class: int = 0xFF  # bInterfaceClass
    interface_subclass: int = 0  # bInterfaceSubClass
    interface_protocol: int = 0  # bInterfaceProtocol
    endpoints: tuple[Endpoint, ...] = ()
    string: int = 0  # iInterface
    extra: tuple[bytes, ...] = ()
    tail: bytes = b""


@dataclass(frozen=True, slots=True)
class Association:
    """Interface association: interfaces `first` to `first + count - 1` are one function, USB 3.2 §9.6.4.

    It stands in front of interface `first`, after other raw descriptors there; `extra` are those between it and what
    follows. `before` is for devices that put it elsewhere: the index in `Configuration.interfaces` it is in front of.
    """

    first: int  # bFirstInterface
    count: int  # bInterfaceCount
    function_class: int  # bFunctionClass
    function_subclass: int = 0  # bFunctionSubClass
    function_protocol: int = 0  # bFunctionProtocol
    string: int = 0  # iFunction
    extra: tuple[bytes, ...] = ()
    before: int | None = None
    tail: bytes = b""


@dataclass(frozen=True, slots=True)
class Configuration:
    """USB 2.0 §9.6.3. `extra` are the raw descriptors between it and its first association or interface."""

    value: int = 1  # bConfigurationValue
    interfaces: tuple[Interface, ...] = ()  # every alternate setting, in the device's order
    attributes: int = 0x80  # bmAttributes: 0x40 self-powered, 0x20 remote wakeup
    max_power: int = 50  # bMaxPower, raw: units of 2 mA, of 8 mA at SuperSpeed
    string: int = 0  # iConfiguration
    associations: tuple[Association, ...] = ()
    extra: tuple[bytes, ...] = ()
    tail: bytes = b""


@dataclass(frozen=True, slots=True)
class UsbExtension:
    """USB 3.2 §9.6.2.1."""

    attributes: int  # bmAttributes; 0x02 is link power management


@dataclass(frozen=True, slots=True)
class SuperSpeedCapability:
    """USB 3.2 §9.6.2.2."""

    attributes: int  # bmAttributes
    speeds: int  # wSpeedsSupported: bit 0 low, 1 full, 2 high, 3 Gen 1
    functionality: int  # bFunctionalitySupport: the lowest speed, as a bit number, with all functions
    u1_latency_us: int  # bU1DevExitLat
    u2_latency_us: int  # wU2DevExitLat


@dataclass(frozen=True, slots=True)
class SuperSpeedPlus:
    """USB 3.2 §9.6.2.5. There is one more of `sublinks` than bits 4..0 of `attributes` say."""

    attributes: int  # bmAttributes
    functionality: int  # wFunctionalitySupport
    sublinks: tuple[int, ...]  # bmSublinkSpeedAttr


@dataclass(frozen=True, slots=True)
class ContainerId:
    """USB 3.2 §9.6.2.3."""

    uuid: bytes  # ContainerID, 16 bytes


@dataclass(frozen=True, slots=True)
class PlatformCapability:
    """USB 3.2 §9.6.2.4; WebUSB and Microsoft OS 2.0 descriptors announce themselves with it."""

    uuid: bytes  # PlatformCapabilityUUID, 16 bytes
    data: bytes = b""  # CapabilityData


@dataclass(frozen=True, slots=True)
class RawCapability:
    """Any other device capability, or one of the above with an unspecified length."""

    kind: int  # bDevCapabilityType
    data: bytes = b""  # what follows it


Capability = UsbExtension | SuperSpeedCapability | SuperSpeedPlus | ContainerId | PlatformCapability | RawCapability


@dataclass(frozen=True, slots=True)
class Bos:
    """Binary device object store, USB 3.2 §9.6.2."""

    capabilities: tuple[Capability, ...] = ()
