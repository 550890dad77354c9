"""usbredir 0.7 on the wire: packet types, layouts, capabilities, status tables. All integers little endian, packed.

Sources: usbredir docs/usb-redirection-protocol.md, usbredirparser/usbredirproto.h and usbredirparser.c; for the draft,
the text of version 0.2. Where document and parser differ, the parser is right: `stop_iso_stream` has one byte.

Every layout that a capability changes only grows at its end, the header's id included, so one record declares the
largest form, and a smaller one is its beginning: what is cut off is 0. `sizes` says how much there is.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Annotated, Final, NamedTuple

from ...usb.types import Speed, Status, TransferType
from ..record import LITTLE, Record, record, u8, u16, u32, u64

PORT: Final = 4000  # nobody registered one; the tools' examples use it
MAX_TRANSFER: Final = 128 << 20  # bytes of one bulk transfer, MAX_BULK_TRANSFER_SIZE
MAX_PACKET: Final = MAX_TRANSFER + 1024  # bytes after a header, MAX_PACKET_SIZE

u8x32 = Annotated[bytes, "32s"]


class Type(IntEnum):
    """Packet types. Below 100 they control, from 100 on they carry data."""

    HELLO = 0
    DEVICE_CONNECT = 1
    DEVICE_DISCONNECT = 2
    RESET = 3
    INTERFACE_INFO = 4
    EP_INFO = 5
    SET_CONFIGURATION = 6
    GET_CONFIGURATION = 7
    CONFIGURATION_STATUS = 8
    SET_ALT_SETTING = 9
    GET_ALT_SETTING = 10
    ALT_SETTING_STATUS = 11
    START_ISO_STREAM = 12
    STOP_ISO_STREAM = 13
    ISO_STREAM_STATUS = 14
    START_INTERRUPT_RECEIVING = 15
    STOP_INTERRUPT_RECEIVING = 16
    INTERRUPT_RECEIVING_STATUS = 17
    ALLOC_BULK_STREAMS = 18
    FREE_BULK_STREAMS = 19
    BULK_STREAMS_STATUS = 20
    CANCEL_DATA_PACKET = 21
    FILTER_REJECT = 22
    FILTER_FILTER = 23
    DEVICE_DISCONNECT_ACK = 24
    START_BULK_RECEIVING = 25
    STOP_BULK_RECEIVING = 26
    BULK_RECEIVING_STATUS = 27
    RESET_STATUS = 28  # draft 0.2 alone, which gives no numbers: this one is ours
    CONTROL_PACKET = 100
    BULK_PACKET = 101
    ISO_PACKET = 102
    INTERRUPT_PACKET = 103
    BUFFERED_BULK_PACKET = 104


class Capability(IntEnum):
    """Bits of the words that end a hello. One is in force when both sides have said it."""

    BULK_STREAMS = 0
    CONNECT_DEVICE_VERSION = 1
    FILTER = 2
    DEVICE_DISCONNECT_ACK = 3
    EP_INFO_MAX_PACKET_SIZE = 4
    IDS_64_BITS = 5
    BULK_LENGTH_32_BITS = 6
    BULK_RECEIVING = 7


ALL_CAPABILITIES: Final = frozenset(Capability)


class Sender(Enum):
    """Who may send a packet: the exporter is the protocol's usb-host, the importer its usb-guest."""

    EXPORTER = "usb-host"
    IMPORTER = "usb-guest"
    BOTH = "both"


@record(LITTLE)
class Header(Record):
    """Opens each packet; `length` is what follows. The short form, and every hello, has an id of 32 bits."""

    type: u32
    length: u32
    id: u64


@record(LITTLE)
class Hello(Record):
    """The first packet of both sides, always with the short header and id 0. Words of capabilities follow."""

    version: Annotated[bytes, "64s"]


@record(LITTLE)
class Empty(Record):
    """A packet that is all said by its type and id."""


@record(LITTLE)
class DeviceConnect(Record):
    """There is a device; the infos came before."""

    speed: u8
    device_class: u8
    device_subclass: u8
    device_protocol: u8
    vendor_id: u16
    product_id: u16
    release: u16  # device_version_bcd, with CONNECT_DEVICE_VERSION


@record(LITTLE)
class InterfaceInfo(Record):
    """The interfaces of the configuration in force, in their alternate settings."""

    count: u32
    interface: u8x32
    interface_class: u8x32
    interface_subclass: u8x32
    interface_protocol: u8x32


@record(LITTLE)
class EpInfo(Record):
    """The endpoints in force, by `slot`."""

    type: u8x32
    interval: u8x32  # bInterval
    interface: u8x32
    max_packet_size: Annotated[bytes, "64s"]  # u16 each, bytes, with EP_INFO_MAX_PACKET_SIZE
    max_streams: Annotated[bytes, "128s"]  # u32 each, with BULK_STREAMS


@record(LITTLE)
class SetConfiguration(Record):
    configuration: u8


@record(LITTLE)
class ConfigurationStatus(Record):
    status: u8
    configuration: u8


@record(LITTLE)
class SetAltSetting(Record):
    interface: u8
    alternate: u8


@record(LITTLE)
class GetAltSetting(Record):
    interface: u8


@record(LITTLE)
class AltSettingStatus(Record):
    status: u8
    interface: u8
    alternate: u8


@record(LITTLE)
class StartIsoStream(Record):
    endpoint: u8
    packets_per_urb: u8
    urbs: u8


@record(LITTLE)
class EndpointOnly(Record):
    """Stop an isochronous stream; start or stop an interrupt one."""

    endpoint: u8


@record(LITTLE)
class StreamStatus(Record):
    """Of an isochronous or interrupt stream. Any status but success says that it does not run."""

    status: u8
    endpoint: u8


@record(LITTLE)
class AllocBulkStreams(Record):
    endpoints: u32  # bit `slot`
    count: u32


@record(LITTLE)
class FreeBulkStreams(Record):
    endpoints: u32


@record(LITTLE)
class BulkStreamsStatus(Record):
    endpoints: u32
    count: u32
    status: u8


@record(LITTLE)
class StartBulkReceiving(Record):
    stream_id: u32
    bytes_per_transfer: u32
    endpoint: u8
    transfers: u8


@record(LITTLE)
class StopBulkReceiving(Record):
    stream_id: u32
    endpoint: u8


@record(LITTLE)
class BulkReceivingStatus(Record):
    stream_id: u32
    endpoint: u8
    status: u8


@record(LITTLE)
class ControlPacket(Record):
    endpoint: u8  # 0x80 or 0, and what decides about the direction
    request: u8
    request_type: u8
    status: u8
    value: u16
    index: u16
    length: u16


@record(LITTLE)
class BulkPacket(Record):
    endpoint: u8
    status: u8
    length: u16
    stream_id: u32
    length_high: u16  # with BULK_LENGTH_32_BITS


@record(LITTLE)
class PeriodicPacket(Record):
    """One isochronous or interrupt packet."""

    endpoint: u8
    status: u8
    length: u16


@record(LITTLE)
class BufferedBulkPacket(Record):
    stream_id: u32
    length: u32
    endpoint: u8
    status: u8


@record(LITTLE)
class DraftAllocBulkStreams(Record):
    endpoint: u8
    count: u8


@record(LITTLE)
class DraftBulkStreamsStatus(Record):
    status: u8
    endpoint: u8
    count: u8  # fewer than were asked for, perhaps


@record(LITTLE)
class ResetStatus(Record):
    status: u8


class Row(NamedTuple):
    """What is true of every packet of one type."""

    layout: type[Record]
    sender: Sender
    capability: Capability | None = None  # without it the packet is not sent
    data: bool = False  # bytes may follow the layout


_HOST, _GUEST, _BOTH = Sender.EXPORTER, Sender.IMPORTER, Sender.BOTH
RELEASED: Final[dict[int, Row]] = {
    Type.HELLO: Row(Hello, _BOTH, data=True),
    Type.DEVICE_CONNECT: Row(DeviceConnect, _HOST),
    Type.DEVICE_DISCONNECT: Row(Empty, _HOST),
    Type.RESET: Row(Empty, _GUEST),
    Type.INTERFACE_INFO: Row(InterfaceInfo, _HOST),
    Type.EP_INFO: Row(EpInfo, _HOST),
    Type.SET_CONFIGURATION: Row(SetConfiguration, _GUEST),
    Type.GET_CONFIGURATION: Row(Empty, _GUEST),
    Type.CONFIGURATION_STATUS: Row(ConfigurationStatus, _HOST),
    Type.SET_ALT_SETTING: Row(SetAltSetting, _GUEST),
    Type.GET_ALT_SETTING: Row(GetAltSetting, _GUEST),
    Type.ALT_SETTING_STATUS: Row(AltSettingStatus, _HOST),
    Type.START_ISO_STREAM: Row(StartIsoStream, _GUEST),
    Type.STOP_ISO_STREAM: Row(EndpointOnly, _GUEST),
    Type.ISO_STREAM_STATUS: Row(StreamStatus, _HOST),
    Type.START_INTERRUPT_RECEIVING: Row(EndpointOnly, _GUEST),
    Type.STOP_INTERRUPT_RECEIVING: Row(EndpointOnly, _GUEST),
    Type.INTERRUPT_RECEIVING_STATUS: Row(StreamStatus, _HOST),
    Type.ALLOC_BULK_STREAMS: Row(AllocBulkStreams, _GUEST, Capability.BULK_STREAMS),
    Type.FREE_BULK_STREAMS: Row(FreeBulkStreams, _GUEST, Capability.BULK_STREAMS),
    Type.BULK_STREAMS_STATUS: Row(BulkStreamsStatus, _HOST, Capability.BULK_STREAMS),
    Type.CANCEL_DATA_PACKET: Row(Empty, _GUEST),
    Type.FILTER_REJECT: Row(Empty, _GUEST, Capability.FILTER),
    Type.FILTER_FILTER: Row(Empty, _BOTH, Capability.FILTER, data=True),
    Type.DEVICE_DISCONNECT_ACK: Row(Empty, _GUEST, Capability.DEVICE_DISCONNECT_ACK),
    Type.START_BULK_RECEIVING: Row(StartBulkReceiving, _GUEST, Capability.BULK_RECEIVING),
    Type.STOP_BULK_RECEIVING: Row(StopBulkReceiving, _GUEST, Capability.BULK_RECEIVING),
    Type.BULK_RECEIVING_STATUS: Row(BulkReceivingStatus, _HOST, Capability.BULK_RECEIVING),
    Type.CONTROL_PACKET: Row(ControlPacket, _BOTH, data=True),
    Type.BULK_PACKET: Row(BulkPacket, _BOTH, data=True),
    Type.ISO_PACKET: Row(PeriodicPacket, _BOTH, data=True),
    Type.INTERRUPT_PACKET: Row(PeriodicPacket, _BOTH, data=True),
    Type.BUFFERED_BULK_PACKET: Row(BufferedBulkPacket, _HOST, Capability.BULK_RECEIVING, data=True),
}
_NOT_IN_DRAFT: Final = (
    Type.DEVICE_CONNECT,
    Type.DEVICE_DISCONNECT,
    Type.INTERFACE_INFO,
    Type.EP_INFO,
    Type.START_INTERRUPT_RECEIVING,
    Type.STOP_INTERRUPT_RECEIVING,
    Type.INTERRUPT_RECEIVING_STATUS,
    Type.INTERRUPT_PACKET,
    *(kind for kind, row in RELEASED.items() if row.capability not in (None, Capability.BULK_STREAMS)),
)
DRAFT: Final[dict[int, Row]] = {
    **{kind: row for kind, row in RELEASED.items() if kind not in _NOT_IN_DRAFT},
    Type.RESET_STATUS: Row(ResetStatus, _HOST),
    Type.ALLOC_BULK_STREAMS: Row(DraftAllocBulkStreams, _GUEST, Capability.BULK_STREAMS),
    Type.FREE_BULK_STREAMS: Row(EndpointOnly, _GUEST, Capability.BULK_STREAMS),
    Type.BULK_STREAMS_STATUS: Row(DraftBulkStreamsStatus, _HOST, Capability.BULK_STREAMS),
}


class Dialect(Enum):
    """The two forms of the protocol; they cannot talk to each other."""

    RELEASED = "0.7"
    DRAFT = "0.2"  # the device is implied by the connection, a reset is answered, there are no interrupt packets

    @property
    def rows(self) -> dict[int, Row]:
        return RELEASED if self is Dialect.RELEASED else DRAFT

    @property
    def capabilities(self) -> frozenset[Capability]:
        return ALL_CAPABILITIES if self is Dialect.RELEASED else frozenset((Capability.BULK_STREAMS,))


# What a layout loses at its end without a capability, in bytes.
GROWN: Final[dict[type[Record], tuple[tuple[Capability, int], ...]]] = {
    Header: ((Capability.IDS_64_BITS, 4),),
    DeviceConnect: ((Capability.CONNECT_DEVICE_VERSION, 2),),
    EpInfo: ((Capability.EP_INFO_MAX_PACKET_SIZE, 64), (Capability.BULK_STREAMS, 128)),
    BulkPacket: ((Capability.BULK_LENGTH_32_BITS, 2),),
}


def size_of(layout: type[Record], capabilities: frozenset[Capability]) -> int:
    """Bytes of a layout when these capabilities are in force."""
    return layout.SIZE - sum(size for capability, size in GROWN.get(layout, ()) if capability not in capabilities)


def words_of(capabilities: frozenset[Capability]) -> bytes:
    """The words that say so in a hello."""
    return sum(1 << capability for capability in capabilities).to_bytes(4, "little")


def capabilities_of(words: bytes | memoryview) -> frozenset[Capability]:
    """What a hello's words say. Those after the first "MUST be ignored", as unknown bits; missing ones are 0."""
    bits = int.from_bytes(words[:4], "little") if len(words) >= 4 else 0
    return frozenset(capability for capability in Capability if bits >> capability & 1)


def sensible(said: frozenset[Capability], dialect: Dialect) -> frozenset[Capability]:
    """Without streams where there are no packet sizes: EpInfo has no such form. The reference parser does so too."""
    if dialect is Dialect.RELEASED and Capability.EP_INFO_MAX_PACKET_SIZE not in said:
        return said - {Capability.BULK_STREAMS}
    return said


def slot(address: int) -> int:
    """Where an endpoint has its place in infos and masks: 0 to 15 OUT, 16 to 31 IN."""
    return (address & 0x80) >> 3 | address & 0x0F


def address_of(place: int) -> int:
    """The endpoint of a slot."""
    return (place & 0x10) << 3 | place & 0x0F


class WireStatus(IntEnum):
    """usb_redir_status. Any other number is a general error."""

    SUCCESS = 0
    CANCELLED = 1
    INVAL = 2
    IOERROR = 3
    STALL = 4
    TIMEOUT = 5
    BABBLE = 6


# There is no word for a device that left: a packet says so, after the "cancelled" that usbredirhost has for what was
# pending. SHORT is success, for nobody here may forbid it.
STATUS: Final[dict[int, WireStatus]] = {
    Status.OK: WireStatus.SUCCESS,
    Status.STALL: WireStatus.STALL,
    Status.CANCELLED: WireStatus.CANCELLED,
    Status.GONE: WireStatus.CANCELLED,
    Status.SHUTDOWN: WireStatus.CANCELLED,  # what usbredirhost says of transfers whose endpoint is taken from them
    Status.TIMEOUT: WireStatus.TIMEOUT,
    Status.SHORT: WireStatus.SUCCESS,
    Status.OVERFLOW: WireStatus.BABBLE,
    Status.PROTOCOL: WireStatus.IOERROR,
    Status.CRC: WireStatus.IOERROR,
    Status.NO_RESPONSE: WireStatus.IOERROR,
    Status.UNDERRUN: WireStatus.IOERROR,
    Status.OVERRUN: WireStatus.IOERROR,
    Status.NOT_DONE: WireStatus.IOERROR,
    Status.NO_MEMORY: WireStatus.IOERROR,
    Status.NO_BANDWIDTH: WireStatus.IOERROR,
    Status.INVALID: WireStatus.INVAL,
    Status.BUSY: WireStatus.IOERROR,
    Status.FAILED: WireStatus.IOERROR,
}
_BACK: Final[dict[int, Status]] = {
    WireStatus.SUCCESS: Status.OK,
    WireStatus.CANCELLED: Status.CANCELLED,
    WireStatus.INVAL: Status.INVALID,
    WireStatus.IOERROR: Status.PROTOCOL,  # drivers take it for a passing error of the bus
    WireStatus.STALL: Status.STALL,
    WireStatus.TIMEOUT: Status.TIMEOUT,
    WireStatus.BABBLE: Status.OVERFLOW,
}


def wire_status(status: int) -> WireStatus:
    """The word for one of our statuses, and for a number that is none."""
    return STATUS.get(status, WireStatus.IOERROR)


def status_of(number: int, cancelled: bool = True) -> Status:
    """Our status for theirs. A peer that cancels what nobody asked it to has taken the endpoint away."""
    if number == WireStatus.CANCELLED and not cancelled:
        return Status.SHUTDOWN
    return _BACK.get(number, Status.FAILED)


_SPEEDS: Final[dict[Speed, int]] = {
    Speed.UNKNOWN: 255,
    Speed.LOW: 0,
    Speed.FULL: 1,
    Speed.HIGH: 2,
    Speed.WIRELESS: 2,
    Speed.SUPER: 3,
    Speed.SUPER_PLUS: 3,
}
_SPEEDS_BACK: Final = {0: Speed.LOW, 1: Speed.FULL, 2: Speed.HIGH, 3: Speed.SUPER}
NO_ENDPOINT: Final = 255  # usb_redir_type_invalid, in EpInfo.type


def wire_speed(speed: Speed) -> int:
    return _SPEEDS[speed]


def speed_of(number: int) -> Speed:
    return _SPEEDS_BACK.get(number, Speed.UNKNOWN)


def type_of(number: int) -> TransferType | None:
    """The type of an endpoint in EpInfo; None for a place without endpoint, and for a number that is no type."""
    return TransferType(number) if number in TransferType.__members__.values() else None
