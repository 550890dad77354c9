"""Capture files of every kind that Wireshark writes, of either byte order, cut anywhere, and of any other bytes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbferry.backends.capture import pcapng, tape, usbmon, usbpcap
from usbferry.backends.capture.events import CaptureError, Event, Packet
from usbferry.usb.types import Speed, Status, TransferType

SETUP = bytes.fromhex("8006000100001200")


def usbmon_record(
    endian: str, kind: str, *, short: bool = False, number: int = 7, data: bytes = b"", **more: int
) -> bytes:
    """struct mon_bin_hdr, written out by its description."""
    has_setup = kind == "S" and more.get("xfer", 2) == 2
    head = pack(
        endian + "QBBBBHBBqiiII",
        number,
        ord(kind),
        more.get("xfer", 2),
        more.get("endpoint", 0x80),
        5,
        1,
        0 if has_setup else ord("-"),
        0 if data else ord("<"),
        1000,
        500_000,
        more.get("status", 0),
        more.get("length", len(data)),
        len(data),
    )
    tail = SETUP if has_setup else bytes(8)
    return head + tail + (b"" if short else pack(endian + "iiII", 0, 0, 0, more.get("ndesc", 0))) + data


def classic(endian: str, linktype: int, records: list[bytes], *, nanoseconds: bool = False) -> bytes:
    """A pcap file."""
    raw = pack(endian + "IHHiIII", 0xA1B23C4D if nanoseconds else 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, linktype)
    return raw + b"".join(pack(endian + "IIII", 1000, 500, len(one), len(one)) + one for one in records)


def sections(endian: str, linktype: int, records: list[bytes]) -> bytes:
    """A pcapng file whose times are microseconds, with a block that nobody knows, and an interface without options."""

    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        return pack(endian + "II", kind, len(body) + 12) + body + pack(endian + "I", len(body) + 12)

    parts = [block(0x0A0D0D0A, pack(endian + "IHHq", 0x1A2B3C4D, 1, 0, -1)), block(0x0BAD, b"what")]
    parts.append(block(1, pack(endian + "HHI", linktype, 0, 0)))
    time = 1000 * 10**6 + 500
    heads = (pack(endian + "IIIII", 0, time >> 32, time & 0xFFFFFFFF, len(one), len(one)) for one in records)
    return b"".join([*parts, *(block(6, head + one) for head, one in zip(heads, records, strict=True))])


def events(raw: bytes, path: Path) -> list[Event]:
    path.write_bytes(raw)
    [(found, _)] = tape.read(path).values()
    return found


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("file", [classic, sections])
def test_usbmon_of_either_kind_in_either_file(tmp_path: Path, file, endian: str, short: bool) -> None:
    device = bytes(range(18))
    records = [
        usbmon_record(endian, "S", short=short, length=18),
        usbmon_record(endian, "C", short=short, data=device),
        usbmon_record(endian, "E", short=short, number=8, status=-32),
    ]
    found = events(file(endian, 189 if short else 220, records), tmp_path / "x")
    assert [(e.is_end, e.transfer, e.device, e.endpoint) for e in found] == [
        (False, 7, (1, 5), 0x80),
        (True, 7, (1, 5), 0x80),
        (True, 8, (1, 5), 0x80),
    ]
    assert [bytes(e.setup) for e in found] == [SETUP, b"", b""]
    assert [bytes(e.data) for e in found] == [b"", device, b""]
    assert [e.length for e in found] == [18, 18, 0]
    assert found[2].status == Status.STALL
    assert found[0].seconds == pytest.approx(1000.0005)


def test_times_in_nanoseconds(tmp_path: Path) -> None:
    found = events(classic("<", 220, [usbmon_record("<", "S")], nanoseconds=True), tmp_path / "x")
    assert found[0].seconds == pytest.approx(1000.0000005, abs=1e-9)


def test_isochronous_packets_lie_where_their_descriptors_say(tmp_path: Path) -> None:
    """In the kernel's own buffer there is room between them."""
    packets = pack("<iIIIiIIIiIII", 0, 0, 2, 0, -18, 4, 0, 0, 0, 8, 3, 0)
    data = packets + b"ab\0\0\0\0\0\0cde"
    raw = usbmon_record("<", "C", xfer=0, endpoint=0x83, data=data, ndesc=3, length=11)
    [found] = events(classic("<", 220, [raw]), tmp_path / "x")
    assert [(p.status, bytes(p.data)) for p in found.packets] == [
        (Status.OK, b"ab"),
        (Status.NOT_DONE, b""),
        (Status.OK, b"cde"),
    ]


def test_what_a_capture_cut_is_marked(tmp_path: Path) -> None:
    raw = usbmon_record("<", "C", xfer=3, endpoint=0x81, data=b"abc", length=100)
    [found] = events(classic("<", 220, [raw]), tmp_path / "x")
    assert (found.length, bytes(found.data), found.is_whole) == (100, b"abc", False)


def pcap_record(info: int, transfer: int, endpoint: int, data: bytes, *extra: int, status: int = 0) -> bytes:
    """USBPCAP_BUFFER_PACKET_HEADER, written out by its description; `extra` is a control transfer's stage."""
    head = pack("<HQIHBHHBBI", 27 + len(extra), 9, status, 8, info, 1, 5, endpoint, transfer, len(data))
    return head + bytes(extra) + data


def test_usbpcap(tmp_path: Path) -> None:
    device = bytes(range(18))
    iso = pack("<IIIIII", 0, 1, 0, 1, 2, 0)
    records = [
        pcap_record(0, 2, 0x80, SETUP, 0),
        pcap_record(1, 2, 0x80, device, 3),
        pcap_record(0, 2, 0x00, b"\x40\x01\0\0\0\0\x03\0abc", 0),
        pcap_record(1, 2, 0x00, b"", 3, status=0xC0000004),
        pcap_record(0, 3, 0x02, b"out"),
        pcap_record(1, 3, 0x81, b"in"),
        pack("<HQIHBHHBBI", 27 + len(iso), 9, 0, 8, 1, 1, 5, 0x83, 0, 3) + iso + b"xyz",
        pcap_record(0, 0xFE, 0, b""),
    ]
    found = events(classic("<", 249, records), tmp_path / "x")
    assert [(e.is_end, e.type, bytes(e.setup), bytes(e.data), e.status) for e in found] == [
        (False, TransferType.CONTROL, SETUP, b"", 0),
        (True, TransferType.CONTROL, b"", device, 0),
        (False, TransferType.CONTROL, b"\x40\x01\0\0\0\0\x03\0", b"abc", 0),
        (True, TransferType.CONTROL, b"", b"", Status.STALL),
        (False, TransferType.BULK, b"", b"out", 0),
        (True, TransferType.BULK, b"", b"in", 0),
        (True, TransferType.ISOCHRONOUS, b"", b"", 0),
    ]
    assert found[-1].packets == (Packet(Status.OK, b"yz"),)


def test_a_capture_of_something_else_says_so(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="no USB traffic that usbmon or USBPcap saw: its link types are 1"):
        events(classic("<", 1, [b"ethernet"]), tmp_path / "x")
    with pytest.raises(CaptureError, match="it is empty"):
        events(classic("<", 220, []), tmp_path / "x")


# -- any bytes ---------------------------------------------------------------------------------------------------------


def session() -> bytes:
    """A small capture that we wrote."""
    kinds = (TransferType.CONTROL, TransferType.BULK, TransferType.ISOCHRONOUS)
    blocks = [pcapng.section("x"), pcapng.interface(220, "usbmon1", "thing", 480_000_000)]
    for number, kind in enumerate(kinds):
        packets = (Packet(Status.OK, b"ab"), Packet(Status.OK, b"")) if kind is TransferType.ISOCHRONOUS else ()
        setup = SETUP if kind is TransferType.CONTROL else b""
        for is_end in (False, True):
            event = Event(
                1.5, (1, 5), number, is_end, kind, 0x81, Status.OK, 2, b"ab" if is_end else b"", setup, packets
            )
            blocks.append(pcapng.packet(0, 15 * 10**8, usbmon.head(event), event.data))
    return b"".join([*blocks, pcapng.statistics(0, 1, 3)])


SESSIONS = [
    session(),
    classic(">", 189, [usbmon_record(">", "S", short=True), usbmon_record(">", "C", short=True, data=b"abc")]),
    classic("<", 249, [pcap_record(0, 2, 0x80, SETUP, 0), pcap_record(1, 0, 0x81, b"in")]),
]


def read(raw: bytes) -> int:
    """Whatever the bytes, a tape or a CaptureError; how many events there are."""
    try:
        found = tape.devices(raw)
    except CaptureError as error:
        return -("\n" in str(error))
    for one, speed in found.values():
        assert speed in Speed
        tape.of(one, speed)
    return sum(len(one) for one, _ in found.values())


@pytest.mark.parametrize("raw", SESSIONS)
def test_cut_anywhere_it_is_read_up_to_there(raw: bytes) -> None:
    counts = [read(raw[:end]) for end in range(len(raw) + 1)]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] >= 2


@given(st.sampled_from(SESSIONS), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6))
def test_any_bytes_are_a_tape_or_an_error(raw: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(raw)
    for place, value in changes:
        changed[place % len(changed)] = value
    assert read(bytes(changed)) >= 0


@given(st.binary(max_size=200))
def test_a_record_of_any_bytes(raw: bytes) -> None:
    for linktype, decode in ((220, usbmon.event), (189, usbmon.event), (249, usbpcap.event)):
        for endian in "<>":
            try:
                event = decode(pcapng.Record(linktype, endian, 0.0, memoryview(raw), len(raw), 0))
            except CaptureError:
                continue
            assert event is None or (len(event.data) <= len(raw) and event.status in Status)


def test_wireshark_counts_what_is_missing(tmp_path: Path) -> None:
    if not shutil.which("capinfos"):
        pytest.skip("needs Wireshark's capinfos")
    (tmp_path / "x").write_bytes(session())
    said = subprocess.run(
        ["capinfos", str(tmp_path / "x")], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert "Number of packets:   6" in said
    assert "Speed = 480000000" in said
    assert "Number of stat entries = 1" in said
