"""What the three info packets say of a device: from our descriptors, and back as far as they tell."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from ...usb.descriptors import DeviceDescriptor
from ...usb.info import DeviceInfo
from ...usb.tree import Endpoint, Interface
from ...usb.types import Speed, TransferType
from .messages import NO_ENDPOINT, DeviceConnect, EpInfo, InterfaceInfo, address_of, slot, speed_of, type_of, wire_speed

SLOTS: Final = 32
_MAX_INTERFACES: Final = 32
_CONTROL_SLOTS: Final = (0, 16)


class Pipe(NamedTuple):
    """One endpoint in force: what a transfer to it must respect."""

    type: TransferType
    packet: int  # bytes; of an isochronous endpoint, in one service interval
    interval: int  # bInterval, never 0 for a periodic endpoint
    interface: int
    streams: int = 0  # at most

    def interval_us(self, speed: Speed) -> int:
        """Microseconds between two packets of a periodic endpoint."""
        exponent = self.interval - 1
        if self.type is TransferType.INTERRUPT and not speed.has_microframes:
            return 1000 * self.interval
        return (125 if speed.has_microframes else 1000) << min(exponent, 15)


def pipes_of(info: DeviceInfo) -> dict[int, Pipe]:
    """The endpoints of the settings in force, by address; none outside the protocol's 30 places."""
    return {
        endpoint.address: _pipe(endpoint, interface, info.speed)
        for interface in info.interfaces
        for endpoint in interface.endpoints
    }


def _pipe(endpoint: Endpoint, interface: Interface, speed: Speed) -> Pipe:
    """Values that no peer chokes on.

    QEMU refuses a device over an interval of 0 (usbredir_ep_info), and divides by the packet size of a bulk endpoint.
    """
    kind = endpoint.type
    size = endpoint.service_bytes if kind is TransferType.ISOCHRONOUS else endpoint.packet_size or 1
    streams = endpoint.companion.streams if kind is TransferType.BULK and endpoint.companion else 0
    interval = endpoint.interval
    if endpoint.is_periodic and not interval:
        frames = endpoint.interval_us(speed) // (125 if speed.has_microframes else 1000)
        counts_frames = kind is TransferType.INTERRUPT and not speed.has_microframes
        interval = frames if counts_frames else frames.bit_length()
    return Pipe(kind, min(size, 0xFFFF), interval, interface.number, streams)


def device_connect(info: DeviceInfo) -> DeviceConnect:
    device = info.device
    return DeviceConnect(
        wire_speed(info.speed),
        device.device_class,
        device.device_subclass,
        device.device_protocol,
        device.vendor_id,
        device.product_id,
        device.release,
    )


def interface_info(info: DeviceInfo) -> InterfaceInfo:
    """The interfaces in force, the first 32 of them."""
    there = info.interfaces[:_MAX_INTERFACES]
    return InterfaceInfo(
        len(there),
        bytes(one.number for one in there),
        bytes(one.interface_class for one in there),
        bytes(one.interface_subclass for one in there),
        bytes(one.interface_protocol for one in there),
    )


def ep_info(pipes: dict[int, Pipe]) -> EpInfo:
    """The endpoints in force; every other place says that there is none, and endpoint 0 has two."""
    kinds, intervals, interfaces = bytearray([NO_ENDPOINT]) * SLOTS, bytearray(SLOTS), bytearray(SLOTS)
    sizes, streams = [0] * SLOTS, [0] * SLOTS
    for place in _CONTROL_SLOTS:
        kinds[place] = TransferType.CONTROL
    for address, pipe in pipes.items():
        place = slot(address)
        kinds[place], intervals[place], interfaces[place] = pipe.type, pipe.interval, pipe.interface
        sizes[place], streams[place] = pipe.packet, pipe.streams
    return EpInfo(
        bytes(kinds),
        bytes(intervals),
        bytes(interfaces),
        struct.pack(f"<{SLOTS}H", *sizes),
        struct.pack(f"<{SLOTS}I", *streams),
    )


# -- the way back -----------------------------------------------------------------------------------------------------


def device_info(connect: DeviceConnect, interfaces: InterfaceInfo | None) -> DeviceInfo:
    """What a peer said of its device; its descriptors have yet to be read."""
    device = DeviceDescriptor(
        connect.vendor_id,
        connect.product_id,
        device_class=connect.device_class,
        device_subclass=connect.device_subclass,
        device_protocol=connect.device_protocol,
        release=connect.release,
    )
    return DeviceInfo(
        name=f"{connect.vendor_id:04x}:{connect.product_id:04x}",
        device=device,
        speed=speed_of(connect.speed),
        configuration=0,  # not said: it is asked for
        interface_classes=interface_classes(interfaces) if interfaces is not None else (),
    )


def interface_classes(info: InterfaceInfo) -> tuple[tuple[int, int, int], ...]:
    """(class, subclass, protocol) of each interface."""
    found = zip(info.interface_class, info.interface_subclass, info.interface_protocol, strict=True)
    return tuple(found)[: info.count]


def peer_pipes(info: EpInfo) -> dict[int, Pipe]:
    """The endpoints that a peer has in force. Sizes are 0 where it does not say them."""
    sizes = struct.unpack(f"<{SLOTS}H", info.max_packet_size)
    streams = struct.unpack(f"<{SLOTS}I", info.max_streams)
    found = {}
    for place in range(SLOTS):
        kind = type_of(info.type[place])
        if kind is not None and kind is not TransferType.CONTROL and place not in _CONTROL_SLOTS:
            interval = info.interval[place]
            found[address_of(place)] = Pipe(kind, sizes[place], interval, info.interface[place], streams[place])
    return found
