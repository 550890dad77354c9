"""The layouts of USB/IP: their sizes, the true offsets, and a status table that is total both ways."""

import pytest

from usbferry.protocols.usbip import messages
from usbferry.protocols.usbip.messages import (
    ERRNO,
    CmdSubmit,
    CmdUnlink,
    DeviceRecord,
    ImportRequest,
    InterfaceRecord,
    IsoDescriptor,
    OpHeader,
    RetSubmit,
    RetUnlink,
    status_of,
    text,
    wire_speed,
)
from usbferry.usb.types import Speed, Status


def test_sizes():
    """usbip.md §2, §3: 8, 40, 320, 48, 16 bytes."""
    assert OpHeader.SIZE == 8
    assert OpHeader.SIZE + ImportRequest.SIZE == 40
    assert OpHeader.SIZE + DeviceRecord.SIZE == 320 == 0x140
    assert {cls.SIZE for cls in (CmdSubmit, CmdUnlink, RetSubmit, RetUnlink)} == {48}
    assert (IsoDescriptor.SIZE, InterfaceRecord.SIZE) == (16, 4)


TRUE_OFFSETS = {
    "path": 0x008,
    "busid": 0x108,
    "busnum": 0x128,
    "devnum": 0x12C,
    "speed": 0x130,
    "vendor_id": 0x134,
    "product_id": 0x136,
    "release": 0x138,  # where the kernel's document goes wrong: it gives bcdDevice one byte
    "device_class": 0x13A,
    "device_subclass": 0x13B,
    "device_protocol": 0x13C,
    "configuration": 0x13D,
    "configurations": 0x13E,
    "interfaces": 0x13F,
}


@pytest.mark.parametrize(("field", "offset"), TRUE_OFFSETS.items())
def test_offsets_in_op_rep_import(field, offset):
    """From the start of the message, as the document counts."""
    values = {name: 0 if code in "BHI" else b"" for name, code in DeviceRecord.FORMATS.items()}
    blank = DeviceRecord(**values).pack()
    values[field] = 0x7F if DeviceRecord.FORMATS[field] in "BHI" else b"\x7f"
    raw = DeviceRecord(**values).pack()
    changed = [at + OpHeader.SIZE for at in range(len(raw)) if raw[at] != blank[at]]
    size = {"B": 1, "H": 2, "I": 4}.get(DeviceRecord.FORMATS[field], 1)
    assert changed == [offset + size - 1], "the low byte of a big-endian field"


@pytest.mark.parametrize(
    ("cls", "offsets"),
    [
        (CmdSubmit, {"flags": 0x14, "length": 0x18, "start_frame": 0x1C, "packets": 0x20, "interval": 0x24}),
        (RetSubmit, {"status": 0x14, "actual": 0x18, "start_frame": 0x1C, "packets": 0x20, "error_count": 0x24}),
        (CmdUnlink, {"command": 0x00, "seqnum": 0x04, "devid": 0x08, "direction": 0x0C, "ep": 0x10, "target": 0x14}),
        (RetUnlink, {"command": 0x00, "seqnum": 0x04, "status": 0x14}),
        (IsoDescriptor, {"offset": 0, "length": 4, "actual": 8, "status": 12}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_offsets_of_urb_messages(cls, offsets):
    blank = {name: 0 if code in "Ii" else bytes(8) for name, code in cls.FORMATS.items() if name in cls.NAMES}
    for field, offset in offsets.items():
        raw = cls(**{**blank, field: 1}).pack()
        assert raw.index(1) == offset + 3, field


def test_the_setup_packet_is_last():
    raw = CmdSubmit(1, 2, 3, 0, 0, 0, 0, 0, 0, 0, b"\x80\x06\x00\x01\x00\x00\x12\x00").pack()
    assert raw[0x28:] == b"\x80\x06\x00\x01\x00\x00\x12\x00"


# -- status -----------------------------------------------------------------------------------------------------------

LINUX = {"ENOENT": 2, "ENXIO": 6, "ENOMEM": 12, "EBUSY": 16, "EXDEV": 18, "ENODEV": 19, "EINVAL": 22, "ENOSPC": 28,
         "EPIPE": 32, "ETIME": 62, "ENOSR": 63, "ECOMM": 70, "EPROTO": 71, "EOVERFLOW": 75, "EILSEQ": 84,
         "ECONNRESET": 104, "ESHUTDOWN": 108, "ETIMEDOUT": 110, "EHOSTUNREACH": 113, "EREMOTEIO": 121}  # fmt: skip


def test_every_status_has_a_number_that_linux_has():
    assert set(ERRNO) == set(Status)
    assert {-number for number in ERRNO.values()} <= {0, *LINUX.values()}


def test_the_numbers_come_back():
    """But for FAILED, which shares EPROTO with PROTOCOL."""
    for status, number in ERRNO.items():
        assert status_of(number) == (Status.PROTOCOL if status == Status.FAILED else status)


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (Status.STALL, "EPIPE"),
        (Status.CANCELLED, "ECONNRESET"),
        (Status.GONE, "ENODEV"),
        (Status.SHUTDOWN, "ESHUTDOWN"),
        (Status.SHORT, "EREMOTEIO"),
        (Status.OVERFLOW, "EOVERFLOW"),
        (Status.NOT_DONE, "EXDEV"),
        (Status.NO_MEMORY, "ENOMEM"),
    ],
)
def test_numbers_that_drivers_act_on(status, name):
    assert ERRNO[status] == -LINUX[name]


def test_nothing_we_send_reads_as_cancelled_that_was_not():
    """-2, ENOENT, is a cancel to clients (usbip.md §5.1)."""
    assert [status for status, number in ERRNO.items() if number in (-2, -104)] == [Status.CANCELLED]


def test_every_number_has_a_status_of_either_sign():
    """usbip-win2 accepts both; what is not in the table is FAILED, whatever it is."""
    assert (status_of(-2), status_of(2), status_of(-113)) == (Status.CANCELLED, Status.CANCELLED, Status.GONE)
    for number in (*range(-200, 200), -(1 << 31), (1 << 31) - 1):
        assert status_of(number) in Status
        assert status_of(number) == status_of(-number)
    assert status_of(-1) == status_of(-4095) == Status.FAILED


# -- speed and text ---------------------------------------------------------------------------------------------------


def test_super_plus_is_sent_as_super():
    """vhci_hcd before Linux 6.12 refuses 6."""
    assert [wire_speed(speed) for speed in Speed] == [0, 1, 2, 3, 4, 5, 5]


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (b"1-1".ljust(32, b"\0"), "1-1"),
        (b"1-1\0garbage after it", "1-1"),
        (bytes(32), ""),
        (b"x" * 32, "x" * 32),
        ("bus№".encode(), "bus№"),
        (b"\xff\xfe1", "��1"),
    ],
)
def test_text_ends_at_the_first_nul(raw, read):
    assert text(raw) == read


def test_codes():
    assert (messages.VERSION, messages.PORT) == (0x0111, 3240)
    assert {code.name: int(code) for code in messages.Op} == {
        "REP_IMPORT": 0x0003, "REP_DEVLIST": 0x0005, "REQ_IMPORT": 0x8003, "REQ_DEVLIST": 0x8005,
    }  # fmt: skip
    assert [int(code) for code in messages.OpStatus] == [0, 1, 2, 3, 4, 5]
    assert [int(code) for code in messages.Command] == [1, 2, 3, 4]
