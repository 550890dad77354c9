"""USB/IP v1.1.1 on the wire: layouts, codes, and the status table. All integers big endian, setup and payload raw.

Sources: Linux Documentation/usb/usbip_protocol.rst, drivers/usb/usbip/usbip_common.h, and usbip_network.h of the tools.
Where the document's offsets differ from the packed structures, the structures are right: bcdDevice has two bytes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final

from ...usb.info import DeviceInfo
from ...usb.transfer import Flags, IsoPacket
from ...usb.types import Speed, Status, TransferType
from ..record import BIG, Record, i32, pad, record, u8, u16, u32

VERSION: Final = 0x0111
PORT: Final = 3240
_MAX_INTERFACES: Final = 255  # that a list can say of one device

pad12 = Annotated[None, "12x"]
setup8 = Annotated[bytes, "8s"]


class Op(IntEnum):
    """Operation codes. Bit 15 marks a request; only lists and imports are in use."""

    REP_IMPORT = 0x0003
    REP_DEVLIST = 0x0005
    REQ_IMPORT = 0x8003
    REQ_DEVLIST = 0x8005


class OpStatus(IntEnum):
    """ST_* of tools/usb/usbip/libsrc/usbip_common.h. Peers send others too: any other than 0 is a failure."""

    OK = 0
    NA = 1
    DEV_BUSY = 2
    DEV_ERR = 3
    NODEV = 4
    ERROR = 5


class Command(IntEnum):
    """First word of each message once a device is imported."""

    CMD_SUBMIT = 1
    CMD_UNLINK = 2
    RET_SUBMIT = 3
    RET_UNLINK = 4


@record(BIG)
class OpHeader(Record):
    """op_common: opens each message before the import is done."""

    version: u16
    code: u16
    status: u32  # 0 in requests


@record(BIG)
class ImportRequest(Record):
    """Body of OP_REQ_IMPORT."""

    busid: Annotated[bytes, "32s"]


@record(BIG)
class DeviceRecord(Record):
    """usbip_usb_device: one device in OP_REP_DEVLIST, and the body of OP_REP_IMPORT."""

    path: Annotated[bytes, "256s"]
    busid: Annotated[bytes, "32s"]
    busnum: u32
    devnum: u32
    speed: u32  # enum usb_device_speed
    vendor_id: u16
    product_id: u16
    release: u16  # bcdDevice
    device_class: u8
    device_subclass: u8
    device_protocol: u8
    configuration: u8  # bConfigurationValue in force, 0 when unconfigured
    configurations: u8  # bNumConfigurations
    interfaces: u8  # bNumInterfaces


@record(BIG)
class InterfaceRecord(Record):
    """usbip_usb_interface: follows its DeviceRecord in OP_REP_DEVLIST, and nowhere else."""

    interface_class: u8
    interface_subclass: u8
    interface_protocol: u8
    unused: Annotated[None, "x"] = pad()


@record(BIG)
class CmdSubmit(Record):
    """USBIP_CMD_SUBMIT: struct usbip_header_basic and usbip_header_cmd_submit."""

    command: u32
    seqnum: u32
    devid: u32  # busnum << 16 | devnum
    direction: u32  # 0 OUT, 1 IN
    ep: u32  # without direction bit
    flags: u32  # URB_*; in CMD_UNLINK the seqnum to unlink
    length: i32  # transfer_buffer_length
    start_frame: i32
    packets: i32  # number_of_packets; 0 or -1 when not isochronous
    interval: i32
    setup: setup8


@record(BIG)
class RetSubmit(Record):
    """USBIP_RET_SUBMIT. devid, direction and ep are 0."""

    command: u32
    seqnum: u32
    unused: pad12 = pad()
    status: i32
    actual: i32
    start_frame: i32
    packets: i32  # as in the command
    error_count: i32
    unused_setup: Annotated[None, "8x"] = pad()


@record(BIG)
class CmdUnlink(Record):
    """USBIP_CMD_UNLINK."""

    command: u32
    seqnum: u32
    devid: u32
    direction: u32
    ep: u32
    target: u32  # seqnum of the CMD_SUBMIT to end
    unused: Annotated[None, "24x"] = pad()


@record(BIG)
class RetUnlink(Record):
    """USBIP_RET_UNLINK; seqnum is the CMD_UNLINK's."""

    command: u32
    seqnum: u32
    unused: pad12 = pad()
    status: i32
    unused_rest: Annotated[None, "24x"] = pad()


@record(BIG)
class IsoDescriptor(Record):
    """struct usbip_iso_packet_descriptor."""

    offset: u32
    length: u32
    actual: u32
    status: i32


# The flags that mean something to us; the kernel also sends internal ones (DMA mapping and the like).
FLAGS: Final = int(Flags.SHORT_NOT_OK | Flags.ISO_ASAP | Flags.ZERO_PACKET)
URB_DIR_IN: Final = 0x200

# Linux errno numbers, written out: Python's errno module gives other numbers on other systems.
ERRNO: Final[dict[int, int]] = {
    Status.OK: 0,
    Status.STALL: -32,  # EPIPE
    Status.CANCELLED: -104,  # ECONNRESET
    Status.GONE: -19,  # ENODEV
    Status.SHUTDOWN: -108,  # ESHUTDOWN
    Status.TIMEOUT: -110,  # ETIMEDOUT
    Status.SHORT: -121,  # EREMOTEIO
    Status.OVERFLOW: -75,  # EOVERFLOW
    Status.PROTOCOL: -71,  # EPROTO
    Status.CRC: -84,  # EILSEQ
    Status.NO_RESPONSE: -62,  # ETIME
    Status.UNDERRUN: -63,  # ENOSR
    Status.OVERRUN: -70,  # ECOMM
    Status.NOT_DONE: -18,  # EXDEV
    Status.NO_MEMORY: -12,  # ENOMEM
    Status.NO_BANDWIDTH: -28,  # ENOSPC
    Status.INVALID: -22,  # EINVAL
    Status.BUSY: -16,  # EBUSY
    Status.FAILED: -71,  # EPROTO: drivers take it for a passing error of the bus
}
ECONNRESET: Final = ERRNO[Status.CANCELLED]
EPROTO: Final = ERRNO[Status.FAILED]  # also for a status that is none

_STATUS: Final[dict[int, Status]] = {
    **{number: Status(status) for status, number in ERRNO.items() if status != Status.FAILED},
    -2: Status.CANCELLED,  # ENOENT: killed
    -113: Status.GONE,  # EHOSTUNREACH
}


def status_of(number: int) -> Status:
    """Our status for a Linux errno of either sign (usbip-win2 accepts both too); FAILED for one not in the table."""
    return _STATUS.get(-abs(number), Status.FAILED)


def wire_speed(speed: Speed) -> int:
    """The speed code to send: SuperSpeed+ goes as SuperSpeed, for vhci_hcd before Linux 6.12 refuses 6."""
    return int(min(speed, Speed.SUPER))


def text(raw: bytes) -> str:
    """A NUL-padded string; what follows the first NUL is ignored, bytes that are no UTF-8 are replaced."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def device_record(info: DeviceInfo) -> DeviceRecord:
    """What lists and imports say of a device."""
    device = info.device
    return DeviceRecord(
        path=info.path.encode(errors="replace")[:255],
        busid=info.name.encode(errors="replace")[:31],
        busnum=info.bus,
        devnum=info.address,
        speed=wire_speed(info.speed),
        vendor_id=device.vendor_id,
        product_id=device.product_id,
        release=device.release,
        device_class=device.device_class,
        device_subclass=device.device_subclass,
        device_protocol=device.device_protocol,
        configuration=info.configuration,
        configurations=device.configurations,
        interfaces=min(len(info.classes), _MAX_INTERFACES),
    )


def interface_records(info: DeviceInfo) -> bytes:
    """What follows it in a list, as many records as it promises."""
    return b"".join(InterfaceRecord(*triplet).pack() for triplet in info.classes[:_MAX_INTERFACES])


def isochronous_endpoints(info: DeviceInfo) -> dict[int, bool]:
    """Whether an endpoint is isochronous in any setting: only then do packets' descriptors follow its transfers.

    The number of packets says nothing where they do not: Linux's client sends what a driver that uses one request for
    one type of transfer after another left in it (vhci_tx.c asks the pipe for its type; dorssel/usbipd-win issue 450),
    usbip-win what its memory held (raspberrypi/linux pull 7572). An endpoint that no descriptor has is not in it.
    """
    found: dict[int, bool] = {}
    for endpoint in (e for c in info.configurations for i in c.interfaces for e in i.endpoints):
        found[endpoint.address] = found.get(endpoint.address, False) or endpoint.type is TransferType.ISOCHRONOUS
    return found


def iso_packets(descriptors: memoryview) -> list[IsoPacket]:
    """What is asked for; a command's descriptors say nothing of what was done."""
    return [IsoPacket(offset, length) for offset, length, _, _ in IsoDescriptor.STRUCT.iter_unpack(descriptors)]
