"""The importing side of USB/IP against servers good, odd and broken: each corner case of the protocol by its name.

What servers say is written here with `struct`, at the offsets of the kernel's packed structures, so that a layout that
is wrong in the same way at both ends is still found.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import strategies as usb
from tests.vectors.reader import load
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.events import Claimed, Completed, Event, Listed, Refusal, Refused
from usbferry.protocols.limits import DEFAULT_LIMITS, Limits
from usbferry.protocols.usbip import importer as module
from usbferry.protocols.usbip.importer import Importer, State
from usbferry.protocols.usbip.messages import ERRNO
from usbferry.usb.setup import Setup, get_descriptor
from usbferry.usb.transfer import Completion, Flags, IsoPacket, Transfer
from usbferry.usb.types import Speed, Status

CMD_SUBMIT, CMD_UNLINK, RET_SUBMIT, RET_UNLINK = 1, 2, 3, 4
ECONNRESET, EPIPE, EXDEV, EREMOTEIO = -104, -32, -18, -121


# --- what a server says -----------------------------------------------------------------------------------------------


def op(code: int, status: int = 0, version: int = 0x0111) -> bytes:
    return struct.pack(">HHI", version, code, status)


def device(busid: bytes = b"1-2", interfaces: int = 1, **fields: int) -> bytes:
    values = {"busnum": 1, "devnum": 15, "speed": 3, "vendor": 0x0525, "product": 0xA4A0, "configuration": 1, **fields}
    raw = bytearray(312)
    raw[: len(b"/sys/devices/usb1/1-2")] = b"/sys/devices/usb1/1-2"
    raw[256 : 256 + len(busid)] = busid
    struct.pack_into(">III", raw, 0x120, values["busnum"], values["devnum"], values["speed"])
    struct.pack_into(">HHH", raw, 0x12C, values["vendor"], values["product"], 0x0512)
    raw[0x132:0x138] = bytes([0xFF, 0x01, 0x02, values["configuration"], 2, interfaces])
    return bytes(raw)


def ret_submit(
    seqnum: int,
    status: int = 0,
    actual: int = 0,
    packets: int = 0,
    *,
    start_frame: int = 0,
    errors: int = 0,
    echo: tuple[int, int, int] = (0, 0, 0),
) -> bytes:
    return struct.pack(">IIIIIiiiii8x", RET_SUBMIT, seqnum, *echo, status, actual, start_frame, packets, errors)


def ret_unlink(seqnum: int, status: int) -> bytes:
    return struct.pack(">II12xi24x", RET_UNLINK, seqnum, status)


def iso(offset: int, length: int, actual: int = 0, status: int = 0) -> bytes:
    return struct.pack(">IIIi", offset, length, actual, status)


class Talk:
    """One importer, and the bytes that went to it and came from it."""

    def __init__(self, importer: Importer | None = None, chunk: int = 0) -> None:
        self.importer = importer or Importer()
        self.chunk = chunk  # bytes that arrive at a time, 0 for all
        self.held = bytearray()

    def hear(self, data: bytes) -> list[Event]:
        """Bytes from the server arrive; what the importer makes of them."""
        events: list[Event] = []
        step = self.chunk or max(1, len(data))
        for at in range(0, len(data), step):
            self.held += data[at : at + step]
            with memoryview(self.held) as view:
                self.importer.receive(view, 0.0)
                events += self.importer.events()
                self.importer._view = memoryview(b"")
            del self.held[: self.importer.consumed]
            assert self.importer.needed > len(self.held) or self.importer.state is State.DONE
        return events

    def said(self) -> bytes:
        """What the importer has said since this was last asked."""
        importer = self.importer
        raw = b"".join(importer.outgoing)
        assert len(raw) == importer.outgoing_bytes
        importer.outgoing, importer.outgoing_bytes = [], 0
        return raw

    def completions(self, data: bytes) -> list[tuple[int, Completion]]:
        events = self.hear(data)
        assert all(isinstance(event, Completed) for event in events)
        return [(event.tag, event) for event in events if isinstance(event, Completed)]

    def one(self, data: bytes) -> Completion:
        [(_, completion)] = self.completions(data)
        return completion


def using(chunk: int = 0, limits: Limits = DEFAULT_LIMITS, **fields: int) -> Talk:
    """A talk with an imported device, 1-2."""
    talk = Talk(Importer(limits))
    talk.importer.claim("1-2")
    [claimed] = talk.hear(op(3) + device(**fields))
    assert isinstance(claimed, Claimed)
    talk.said()
    talk.chunk = chunk
    return talk


def submitted(talk: Talk, *transfers: Transfer) -> list[int]:
    """The seqnums under which transfers went out."""
    tags = [talk.importer.submit(transfer) for transfer in transfers]
    talk.said()
    return tags


def cancelled(talk: Talk, tag: int) -> int:
    """The seqnum under which the unlink of `tag` went out."""
    talk.importer.cancel(tag)
    command, seqnum, _, _, _, target = struct.unpack_from(">6I", talk.said())
    assert (command, target) == (CMD_UNLINK, tag)
    return int(seqnum)


def iso_in(*lengths: int) -> Transfer:
    packets, offset = [], 0
    for length in lengths:
        packets.append(IsoPacket(offset, length))
        offset += length
    return Transfer(0x83, offset, packets=packets, interval=1)


@pytest.fixture(params=[0, 1, 7], ids=["whole", "byte by byte", "by seven"])
def chunk(request: pytest.FixtureRequest) -> int:
    chunk: int = request.param
    return chunk


# --- the list ---------------------------------------------------------------------------------------------------------


def listing(limits: Limits = DEFAULT_LIMITS, chunk: int = 0) -> Talk:
    talk = Talk(Importer(limits), chunk)
    talk.importer.list_devices()
    assert talk.said() == op(0x8005)
    return talk


def test_a_list_of_devices_and_their_interfaces(chunk: int) -> None:
    first = device(interfaces=2, speed=5) + b"\x08\x06\x50\0" + b"\x03\x01\x01\0"
    second = device(b"usbip-vudc.0", interfaces=0, busnum=0, devnum=0, configuration=0)
    talk = listing(chunk=chunk)
    [listed] = talk.hear(op(5) + struct.pack(">I", 2) + first + second)
    assert isinstance(listed, Listed)
    one, two = listed.devices
    assert (one.name, one.speed, one.bus, one.address) == ("1-2", Speed.SUPER, 1, 15)
    assert one.path == "/sys/devices/usb1/1-2"
    assert one.classes == ((8, 6, 0x50), (3, 1, 1))
    assert (one.device.vendor_id, one.device.product_id, one.device.release) == (0x0525, 0xA4A0, 0x0512)
    assert (one.device.device_class, one.device.device_subclass, one.device.device_protocol) == (0xFF, 1, 2)
    assert (one.configuration, one.device.configurations) == (1, 2)
    assert (two.name, two.configuration, two.classes) == ("usbip-vudc.0", 0, ())  # unconfigured is legal
    assert talk.importer.state is State.DONE


def test_an_empty_list_is_twelve_bytes(chunk: int) -> None:
    talk = listing(chunk=chunk)
    assert talk.hear(op(5) + bytes(3)) == []
    [listed] = talk.hear(b"\0")
    assert isinstance(listed, Listed)
    assert listed.devices == []


def test_a_list_cut_anywhere_waits() -> None:
    raw = op(5) + struct.pack(">I", 1) + device() + b"\x08\x06\x50\0"
    for cut in range(len(raw)):
        talk = listing()
        assert talk.hear(raw[:cut]) == []
        assert talk.importer.state is State.LISTING
        [listed] = talk.hear(raw[cut:])
        assert isinstance(listed, Listed)


def test_bytes_after_the_list_are_ignored() -> None:
    talk = listing()
    [listed] = talk.hear(op(5) + bytes(4) + b"more and more")
    assert isinstance(listed, Listed)
    assert talk.hear(b"of it") == []


@pytest.mark.parametrize("count", [DEFAULT_LIMITS.devices_listed + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_list_that_promises_too_many_devices(count: int) -> None:
    with pytest.raises(ProtocolError, match=f"list of {count} devices, the limit is 4096"):
        listing().hear(op(5) + struct.pack(">I", count))


def test_an_endless_list_ends_where_it_promised() -> None:
    talk = listing(Limits(devices_listed=3))
    events = talk.hear(op(5) + struct.pack(">I", 3))
    for _ in range(100):
        events += talk.hear(device(interfaces=0))
    [listed] = events
    assert isinstance(listed, Listed)
    assert len(listed.devices) == 3


def test_a_device_with_too_many_interfaces() -> None:
    with pytest.raises(ProtocolError, match="33 interfaces, the limit is 32"):
        listing().hear(op(5) + struct.pack(">I", 1) + device(interfaces=33))


def test_a_device_with_as_many_interfaces_as_the_limit_allows() -> None:
    [listed] = listing().hear(op(5) + struct.pack(">I", 1) + device(interfaces=32) + 32 * b"\x03\0\0\0")
    assert isinstance(listed, Listed)
    assert len(listed.devices[0].classes) == 32


def test_a_refused_list_is_eight_bytes(chunk: int) -> None:
    [refused] = listing(chunk=chunk).hear(op(5, status=1))
    assert isinstance(refused, Refused)
    assert "status 1" in refused.text


def test_an_unknown_speed_is_unknown_and_not_an_error() -> None:
    for code in (0, 7, 0xFFFFFFFF):
        [listed] = listing().hear(op(5) + struct.pack(">I", 1) + device(speed=code, interfaces=0))
        assert isinstance(listed, Listed)
        assert listed.devices[0].speed is Speed.UNKNOWN


def test_names_that_are_no_text_are_shown_all_the_same() -> None:
    [listed] = listing().hear(op(5) + struct.pack(">I", 1) + device(b"\xff\xfe-1", interfaces=0))
    assert isinstance(listed, Listed)
    assert listed.devices[0].name == "\ufffd\ufffd-1"


# --- the import -------------------------------------------------------------------------------------------------------


def claiming(chunk: int = 0, name: str = "1-2") -> Talk:
    talk = Talk(chunk=chunk)
    talk.importer.claim(name)
    assert talk.said() == op(0x8003) + name.encode().ljust(32, b"\0")
    return talk


def test_an_import_reply_is_exactly_320_bytes(chunk: int) -> None:
    talk = claiming(chunk)
    reply = op(3) + device()
    assert len(reply) == 320
    assert talk.hear(reply[:-1]) == []
    [claimed] = talk.hear(reply[-1:])
    assert isinstance(claimed, Claimed)
    assert (claimed.info.name, claimed.info.speed, claimed.info.configuration) == ("1-2", Speed.HIGH, 1)
    assert talk.importer.state is State.USING
    assert not talk.held


def test_bytes_that_follow_the_import_reply_belong_to_the_next_message() -> None:
    talk = claiming()
    with pytest.raises(ProtocolError, match="a reply to #9"):  # and not the 12 bytes of an interface record
        talk.hear(op(3) + device() + ret_submit(9))


def test_part_of_a_message_after_the_import_reply_is_kept() -> None:
    talk = claiming()
    [claimed] = talk.hear(op(3) + device() + ret_submit(1)[:20])
    assert isinstance(claimed, Claimed)
    submitted(talk, Transfer(0x01, 0))
    assert talk.one(ret_submit(1)[20:]).status == Status.OK


def test_an_import_reply_has_no_interface_records() -> None:
    """Servers that send them, as in a list, are out of step from there on."""
    talk = claiming()
    [claimed] = talk.hear(op(3) + device(interfaces=2) + b"\x08\x06\x50\0" + b"\x03\x01\x01\0")
    assert isinstance(claimed, Claimed)
    submitted(talk, Transfer(0x01, 0))
    with pytest.raises(ProtocolError, match="command 0x8065000"):
        talk.hear(ret_submit(1))


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (1, Refusal.UNAVAILABLE),  # all that tools before 4.16 say
        (2, Refusal.BUSY),
        (3, Refusal.FAILED),
        (4, Refusal.NOT_FOUND),
        (5, Refusal.FAILED),
        (6, Refusal.FAILED),
        (0xFFFFFFFF, Refusal.FAILED),
    ],
)
def test_a_failed_import_is_eight_bytes_with_any_status(status: int, reason: Refusal, chunk: int) -> None:
    talk = claiming(chunk)
    assert talk.hear(op(3, status)[:7]) == []
    [refused] = talk.hear(op(3, status)[7:])
    assert isinstance(refused, Refused)
    assert refused.reason is reason
    assert refused.text
    assert talk.importer.state is State.DONE
    assert talk.hear(b"and then the connection ends") == []


@pytest.mark.parametrize("other", [b"1-3", b"1-20", b"1-", b"", b"2-1.4"])
def test_the_reply_must_name_the_device_that_was_asked_for(other: bytes) -> None:
    with pytest.raises(ProtocolError, match="asked for was '1-2'"):
        claiming().hear(op(3) + device(other))


def test_bytes_after_the_first_nul_of_a_bus_id_are_ignored() -> None:
    [claimed] = claiming().hear(op(3) + device(b"1-2\0 some rubbish from a stack"))
    assert isinstance(claimed, Claimed)
    assert claimed.info.name == "1-2"


def test_bus_ids_are_compared_as_bytes() -> None:
    with pytest.raises(ProtocolError, match="asked for"):
        claiming(name="\ufffd-1").hear(op(3) + device(b"\xff-1"))


def test_bus_ids_of_31_bytes() -> None:
    name = "a" * 31
    [claimed] = claiming(name=name).hear(op(3) + device(name.encode()))
    assert isinstance(claimed, Claimed)
    assert claimed.info.name == name


@pytest.mark.parametrize("name", ["", "a" * 32, "ä" * 16, "1-2\0", "\udc80"])
def test_a_name_that_cannot_be_a_bus_id(name: str) -> None:
    with pytest.raises(ValueError, match=r"bus id|surrogates"):
        Importer().claim(name)


@pytest.mark.parametrize("ask", [Importer.list_devices, lambda importer: importer.claim("1-2")], ids=["list", "claim"])
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (op(3, version=0x0106), "speaks version 0x0106"),
        (op(5, version=0x1101), "speaks version 0x1101"),
        (op(0x8003), "answer 0x8003"),
        (op(2), "answer 0x0002"),
        (b"HTTP/1.1 400 Bad Request\r\n", "speaks version 0x4854"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "speaks version 0x5353"),
    ],
)
def test_an_answer_to_another_question(ask: Callable[[Importer], None], answer: bytes, text: str) -> None:
    importer = Importer()
    ask(importer)
    with pytest.raises(ProtocolError, match=text):
        Talk(importer).hear(answer)


def test_a_list_for_an_import_and_the_other_way_round() -> None:
    with pytest.raises(ProtocolError, match="answer 0x0005, expected was 0x0003"):
        claiming().hear(op(5) + bytes(4))
    with pytest.raises(ProtocolError, match="answer 0x0003, expected was 0x0005"):
        listing().hear(op(3) + device())


def test_a_server_that_speaks_first() -> None:
    with pytest.raises(ProtocolError, match="before it was asked"):
        Talk().hear(b"\0")


def test_no_bytes_are_no_speech() -> None:
    importer = Importer()
    importer.receive(memoryview(b""), 0.0)
    assert list(importer.events()) == []


# --- what a submit looks like -----------------------------------------------------------------------------------------


def header(raw: bytes) -> dict[str, object]:
    names = ("command", "seqnum", "devid", "direction", "ep", "flags", "length", "start_frame", "packets", "interval")
    return dict(zip((*names, "setup"), struct.unpack_from(">6I4i8s", raw), strict=True))


def sent(talk: Talk, transfer: Transfer) -> tuple[dict[str, object], bytes]:
    """The header and what follows it."""
    talk.importer.submit(transfer)
    raw = talk.said()
    return header(raw), raw[48:]


@pytest.mark.parametrize(
    ("busnum", "devnum", "devid"), [(1, 15, 0x0001000F), (3, 255, 0x000300FF), (0, 0, 0), (0xFFFFFFFF, 1, 0xFFFF0001)]
)
def test_devid_comes_from_bus_and_device_number(busnum: int, devnum: int, devid: int) -> None:
    talk = using(busnum=busnum, devnum=devnum)
    assert sent(talk, Transfer(0x81, 8))[0]["devid"] == devid
    talk.importer.cancel(1)
    assert header(talk.said())["devid"] == devid


def test_a_control_transfer() -> None:
    talk = using()
    setup = get_descriptor(1, length=18).pack()
    asked, rest = sent(talk, Transfer(0x80, 18, setup=setup))
    assert (asked["command"], asked["direction"], asked["ep"], asked["length"]) == (CMD_SUBMIT, 1, 0, 18)
    assert (asked["setup"], asked["interval"], asked["packets"], rest) == (setup, 0, 0, b"")


def test_a_control_transfer_without_data_goes_out_whatever_its_type_says() -> None:
    asked, _ = sent(using(), Transfer(0x80, 0, setup=Setup(0xC0, 1).pack()))
    assert (asked["direction"], asked["flags"]) == (0, 0)


def test_payload_follows_its_header() -> None:
    asked, rest = sent(using(), Transfer(0x02, 5, b"hello"))
    assert (asked["direction"], asked["ep"], asked["length"], rest) == (0, 2, 5, b"hello")
    assert asked["setup"] == bytes(8)


@pytest.mark.parametrize("length", [0, 4, 6])
def test_a_payload_of_another_length_than_the_transfer_never_leaves(length: int) -> None:
    talk = using()
    with pytest.raises(ValueError, match="5 bytes of payload in a transfer of"):
        talk.importer.submit(Transfer(0x02, length, b"hello"))
    assert talk.said() == b""
    assert submitted(talk, Transfer(0x02, 5, b"hello")) == [1]


@pytest.mark.parametrize("flags", [0x1, 0x2, 0x40, 0x43])
def test_flags_that_a_server_honours_are_sent(flags: int) -> None:
    assert sent(using(), Transfer(0x81, 8, flags=flags))[0]["flags"] == flags | 0x200
    assert sent(using(), Transfer(0x01, 1, b"x", flags=flags))[0]["flags"] == flags


def test_flags_of_a_kernel_are_never_sent() -> None:
    """0x40000 (DMA_MAP_SG) to a Linux server makes its device unusable."""
    assert sent(using(), Transfer(0x81, 8, flags=0xFFFFFFFF))[0]["flags"] == 0x243
    assert sent(using(), Transfer(0x01, 0, flags=0xFFFFFFFF))[0]["flags"] == 0x043


def test_intervals_and_frames_are_sent_as_they_are_given() -> None:
    asked, _ = sent(using(), Transfer(0x81, 8, interval=64, start_frame=-1))
    assert (asked["interval"], asked["start_frame"]) == (64, -1)


def test_iso_out_goes_as_header_data_descriptors() -> None:
    packets = [IsoPacket(0, 3), IsoPacket(3, 0), IsoPacket(3, 2)]
    asked, rest = sent(using(), Transfer(0x03, 5, b"abcde", packets=packets, interval=1))
    assert (asked["length"], asked["packets"], asked["interval"]) == (5, 3, 1)
    assert rest == b"abcde" + iso(0, 3) + iso(3, 0) + iso(3, 2)


def test_iso_in_goes_as_header_descriptors() -> None:
    asked, rest = sent(using(), iso_in(192, 192))
    assert (asked["length"], asked["packets"]) == (384, 2)
    assert rest == iso(0, 192) + iso(192, 192)


def test_what_a_packet_did_before_is_not_sent() -> None:
    """Linux adds up `actual_length` in commands too, and drops a server that is told of bytes done."""
    again = Transfer(0x83, 192, packets=[IsoPacket(0, 192, 192, Status.CRC)], interval=1)
    assert sent(using(), again)[1] == iso(0, 192)


def test_gaps_between_iso_packets_are_not_sent() -> None:
    """usbipd-win disconnects over them."""
    packets = [IsoPacket(1, 2), IsoPacket(6, 1)]
    asked, rest = sent(using(), Transfer(0x03, 8, b"-ab---c-", packets=packets, interval=1))
    assert asked["length"] == 3
    assert rest == b"abc" + iso(0, 2) + iso(2, 1)
    asked, rest = sent(using(), Transfer(0x83, 8, packets=packets, interval=1))
    assert asked["length"] == 3
    assert rest == iso(0, 2) + iso(2, 1)


def test_packets_that_come_back_lie_where_they_were_asked_for() -> None:
    talk = using()
    [tag] = submitted(talk, Transfer(0x83, 8, packets=[IsoPacket(1, 2), IsoPacket(6, 1)], interval=1))
    done = talk.one(ret_submit(tag, 0, 3, 2) + b"abc" + iso(0, 2, 2) + iso(2, 1, 1))
    assert done.packets == [IsoPacket(1, 2, 2), IsoPacket(6, 1, 1)]
    assert done.data == b"abc"


@pytest.mark.parametrize("length", [-1, 1 << 31])
def test_a_length_that_cannot_be_never_leaves(length: int) -> None:
    """Servers end the connection over it."""
    talk = using()
    with pytest.raises(ValueError, match=f"^a transfer of {length} bytes$"):
        talk.importer.submit(Transfer(0x81, length))
    assert talk.said() == b""


@pytest.mark.parametrize("packets", [[IsoPacket(0, -4)], [IsoPacket(0, 4), IsoPacket(4, -4)], [IsoPacket(-4, 4)]])
def test_packets_that_cannot_be_never_leave(packets: list[IsoPacket]) -> None:
    talk = using()
    with pytest.raises(ValueError, match="less than no bytes, or before its buffer"):
        talk.importer.submit(Transfer(0x83, 4, packets=packets))
    assert talk.said() == b""


@pytest.mark.parametrize("packets", [[IsoPacket(7, 2)], [IsoPacket(0, 8), IsoPacket(0, 8)], [IsoPacket(0x7FFFFFFF, 1)]])
def test_packets_outside_their_buffer_never_leave(packets: list[IsoPacket]) -> None:
    for transfer in (Transfer(0x83, 8, packets=packets), Transfer(0x03, 8, bytes(8), packets=packets)):
        talk = using()
        with pytest.raises(ValueError, match="packets outside their buffer"):
            talk.importer.submit(transfer)
        assert talk.said() == b""


def test_transfers_go_out_in_the_order_of_submission() -> None:
    talk = using()
    tags = [talk.importer.submit(Transfer(0x02, 1, bytes([n]))) for n in range(3)]
    raw = talk.said()
    assert [header(raw[at:])["seqnum"] for at in (0, 49, 98)] == tags == [1, 2, 3]
    assert raw[48::49] == b"\0\1\2"


def test_the_counter_of_seqnums_stays_positive_and_skips_what_is_in_flight() -> None:
    talk = using()
    parked = talk.importer.submit(Transfer(0x81, 8))
    talk.importer._seqnum = module.MAX_SEQNUM - 1
    assert submitted(talk, Transfer(0x82, 8), Transfer(0x82, 8)) == [0x7FFFFFFF, parked + 1]
    talk.importer._seqnum = module.MAX_SEQNUM - 1
    talk.importer.cancel(parked)  # in flight: 0x7fffffff, 1 and 2
    assert header(talk.said())["seqnum"] == 3
    talk.importer._seqnum = 2
    assert talk.importer.submit(Transfer(0x82, 8)) == 4  # and 3 is an unlink


# --- replies ----------------------------------------------------------------------------------------------------------


def test_replies_split_anywhere() -> None:
    replies = ret_submit(1, 0, 5) + b"hello" + ret_submit(2, 0, 3) + ret_submit(3, 0, 3, 1) + b"abc" + iso(0, 3, 3)
    for cut in range(len(replies) + 1):
        talk = using()
        submitted(talk, Transfer(0x81, 8), Transfer(0x01, 3, b"abc"), iso_in(3))
        done = talk.completions(replies[:cut]) + talk.completions(replies[cut:])
        assert [(tag, c.data) for tag, c in done] == [(1, b"hello"), (2, b""), (3, b"abc")]


def test_every_prefix_of_a_reply_waits_for_the_rest() -> None:
    reply = ret_submit(1, 0, 3, 1) + b"abc" + iso(0, 3, 3)
    for cut in range(len(reply)):
        talk = using()
        submitted(talk, iso_in(3))
        assert talk.hear(reply[:cut]) == []
        assert talk.importer.needed == (48 if cut < 48 else len(reply))


def test_several_replies_in_one_read_in_any_order(chunk: int) -> None:
    talk = using(chunk)
    submitted(talk, *[Transfer(0x81 + n, 8) for n in range(4)])
    done = talk.completions(b"".join(ret_submit(n, 0, n) + bytes(n) for n in (3, 1, 4, 2)))
    assert [(tag, c.actual) for tag, c in done] == [(3, 3), (1, 1), (4, 4), (2, 2)]


@pytest.mark.parametrize("packets", [0, -1, 5, 1024, 0x7FFFFFFF, -0x80000000])
def test_packets_counted_in_a_reply_to_no_iso_transfer_mean_nothing(packets: int) -> None:
    talk = using()
    submitted(talk, Transfer(0x81, 8), Transfer(0x81, 8))
    done = talk.completions(ret_submit(1, 0, 2, packets) + b"ab" + ret_submit(2, 0, 1, packets) + b"c")
    assert [c.data for _, c in done] == [b"ab", b"c"]


def test_devid_direction_and_endpoint_echoed_are_ignored(chunk: int) -> None:
    """The importer goes by its own table: an echo that is wrong must not read as data for OUT, or none for IN."""
    talk = using(chunk)
    submitted(talk, Transfer(0x81, 8), Transfer(0x02, 3, b"abc"))
    replies = ret_submit(1, 0, 2, echo=(0xBAD, 0, 9)) + b"ab" + ret_submit(2, 0, 3, echo=(0x1000F, 1, 1))
    assert [(c.data, c.actual) for _, c in talk.completions(replies)] == [(b"ab", 2), (b"", 3)]


@pytest.mark.parametrize("status", [*Status])
def test_every_status_comes_back(status: Status) -> None:
    talk = using()
    submitted(talk, Transfer(0x81, 8), Transfer(0x01, 3, b"abc"))
    wanted = Status.PROTOCOL if status is Status.FAILED else status
    (_, read), (_, wrote) = talk.completions(ret_submit(1, ERRNO[status], 2) + b"ab" + ret_submit(2, ERRNO[status], 1))
    assert (read.status, read.data) == (wanted, b"ab")  # with an error too, what came is there
    assert (wrote.status, wrote.actual) == (wanted, 1)


@pytest.mark.parametrize(
    ("number", "status"), [(32, Status.STALL), (-2, Status.CANCELLED), (-9999, Status.FAILED), (-115, Status.FAILED)]
)
def test_a_status_of_either_sign_or_unknown(number: int, status: Status) -> None:
    talk = using()
    submitted(talk, Transfer(0x81, 8))
    assert talk.one(ret_submit(1, number)).status == status


def test_a_status_of_the_least_integer() -> None:
    talk = using()
    submitted(talk, Transfer(0x81, 8))
    assert talk.one(ret_submit(1, -0x80000000)).status == Status.FAILED


def test_a_short_read_with_short_not_ok_keeps_its_data() -> None:
    talk = using()
    submitted(talk, Transfer(0x81, 8, flags=Flags.SHORT_NOT_OK))
    done = talk.one(ret_submit(1, EREMOTEIO, 3) + b"abc")
    assert (done.status, done.data) == (Status.SHORT, b"abc")


def test_bytes_accepted_of_an_out_transfer() -> None:
    talk = using()
    submitted(talk, Transfer(0x01, 5, b"hello"))
    done = talk.one(ret_submit(1, 0, 4))
    assert (done.status, done.actual, done.data) == (Status.OK, 4, b"")


@pytest.mark.parametrize("transfer", [Transfer(0x81, 8), Transfer(0x01, 8, bytes(8)), Transfer(0x80, 8), iso_in(8)])
@pytest.mark.parametrize("actual", [-1, 9, 0x7FFFFFFF, -0x80000000])
def test_a_length_that_lies(transfer: Transfer, actual: int) -> None:
    """CVE-2016-3955: more came than the buffer holds."""
    talk = using()
    submitted(talk, transfer)
    with pytest.raises(ProtocolError, match=f"{actual} bytes done of a transfer of 8"):
        talk.hear(ret_submit(1, 0, actual, 1) + bytes(64))


def test_a_length_that_lies_is_found_before_its_bytes_are_waited_for() -> None:
    talk = using()
    submitted(talk, Transfer(0x81, 8))
    with pytest.raises(ProtocolError):
        talk.hear(ret_submit(1, 0, 0x7FFFFFFF))


def test_data_for_an_out_transfer_is_the_next_message() -> None:
    talk = using()
    submitted(talk, Transfer(0x01, 48, bytes(48)))
    assert talk.one(ret_submit(1, 0, 48)).actual == 48
    with pytest.raises(ProtocolError, match="command 0"):
        talk.hear(bytes(48))


@pytest.mark.parametrize("seqnum", [0, 2, 0x7FFFFFFF, 0x80000001, 0xFFFFFFFF])
def test_a_reply_to_a_transfer_that_is_not_in_flight(seqnum: int) -> None:
    talk = using()
    submitted(talk, Transfer(0x81, 8))
    with pytest.raises(ProtocolError, match=f"a reply to #{seqnum}, which is not in flight"):
        talk.hear(ret_submit(seqnum))


def test_a_transfer_answered_twice() -> None:
    talk = using()
    submitted(talk, Transfer(0x81, 8))
    with pytest.raises(ProtocolError, match="a reply to #1"):
        talk.hear(ret_submit(1) + ret_submit(1))


@pytest.mark.parametrize("command", [0, 1, 2, 5, 0xFFFFFFFF])
def test_a_message_that_no_server_sends(command: int) -> None:
    talk = using()
    with pytest.raises(ProtocolError, match=f"command {command:#x}"):
        talk.hear(struct.pack(">I44x", command))


def test_completions_before_a_broken_message_are_told() -> None:
    talk = using()
    submitted(talk, Transfer(0x81, 8))
    talk.importer.receive(memoryview(ret_submit(1, 0, 1) + b"a" + bytes(48)), 0.0)
    events = talk.importer.events()
    assert isinstance(next(events), Completed)
    with pytest.raises(ProtocolError, match="command 0"):
        next(events)


def test_data_is_a_copy_of_what_was_received() -> None:
    talk = using()
    submitted(talk, Transfer(0x81, 8))
    done = talk.one(ret_submit(1, 0, 3) + b"abc")
    assert isinstance(done.data, bytes)


# --- isochronous replies ----------------------------------------------------------------------------------------------


def test_iso_in_comes_compact(chunk: int) -> None:
    talk = using(chunk)
    submitted(talk, iso_in(4, 4, 4, 4))
    descriptors = iso(0, 4, 2) + iso(4, 4, 0, -71) + iso(8, 4, 4) + iso(12, 4, 0, EXDEV)
    done = talk.one(ret_submit(1, 0, 6, 4, start_frame=77, errors=2) + b"abcdef" + descriptors)
    assert (done.status, done.data, done.actual, done.start_frame) == (Status.OK, b"abcdef", 6, 77)
    assert done.packets == [
        IsoPacket(0, 4, 2),
        IsoPacket(4, 4, 0, Status.PROTOCOL),
        IsoPacket(8, 4, 4),
        IsoPacket(12, 4, 0, Status.NOT_DONE),
    ]
    assert done.error_count == 2


def test_offsets_and_lengths_of_iso_replies_are_our_own() -> None:
    talk = using()
    submitted(talk, iso_in(4, 4))
    done = talk.one(ret_submit(1, 0, 3, 2) + b"abc" + iso(0xFFFFFFFF, 0, 1) + iso(0, 0xFFFFFFFF, 2))
    assert done.packets == [IsoPacket(0, 4, 1), IsoPacket(4, 4, 2)]


def test_iso_out_comes_without_data(chunk: int) -> None:
    talk = using(chunk)
    submitted(talk, Transfer(0x03, 5, b"abcde", packets=[IsoPacket(0, 3), IsoPacket(3, 2)], interval=1))
    done = talk.one(ret_submit(1, 0, 3, 2, errors=1) + iso(0, 3, 3) + iso(3, 2, 0, EXDEV))
    assert (done.data, done.actual, done.error_count) == (b"", 3, 1)


def test_empty_iso_packets() -> None:
    talk = using()
    submitted(talk, iso_in(0, 4, 0))
    done = talk.one(ret_submit(1, 0, 0, 3) + 3 * iso(0, 0))
    assert (done.data, [p.actual for p in done.packets or ()]) == (b"", [0, 0, 0])


@pytest.mark.parametrize("header_says", [0, 3, 5, 8])
def test_iso_lengths_must_add_up(header_says: int) -> None:
    talk = using()
    submitted(talk, iso_in(4, 4))
    with pytest.raises(ProtocolError, match=f"packets of 4 bytes with {header_says} bytes of data"):
        talk.hear(ret_submit(1, 0, header_says, 2) + bytes(header_says) + iso(0, 4, 2) + iso(4, 4, 2))


@pytest.mark.parametrize("actual", [5, 0x80000000, 0xFFFFFFFF])
def test_no_iso_packet_is_longer_than_asked(actual: int) -> None:
    for transfer in (iso_in(4, 4), Transfer(0x03, 8, bytes(8), packets=[IsoPacket(0, 4), IsoPacket(4, 4)])):
        talk = using()
        submitted(talk, transfer)
        data = bytes(5) if transfer.is_in else b""
        with pytest.raises(ProtocolError, match=f"{actual} bytes in an isochronous packet of 4"):
            talk.hear(ret_submit(1, 0, 5, 2) + data + iso(0, 4, actual) + iso(4, 4))


@pytest.mark.parametrize("packets", [-1, 0, 1, 3, 1024, 0x7FFFFFFF, -0x80000000])
def test_as_many_iso_packets_come_back_as_were_asked_for(packets: int) -> None:
    """CVE-2026-31607: the number in the reply is the server's."""
    talk = using()
    submitted(talk, iso_in(4, 4))
    with pytest.raises(ProtocolError, match=f"{packets} packets in the reply to a transfer of 2"):
        talk.hear(ret_submit(1, 0, 0, packets))


def test_a_failed_iso_transfer() -> None:
    talk = using()
    submitted(talk, iso_in(4))
    done = talk.one(ret_submit(1, -108, 0, 1) + iso(0, 4, 0, EXDEV))
    assert (done.status, done.data) == (Status.SHUTDOWN, b"")


@pytest.mark.parametrize("packets", [0, -1])
def test_a_transfer_of_no_packets_is_none_of_iso(packets: int) -> None:
    talk = using()
    submitted(talk, Transfer(0x83, 0, packets=[]))
    assert talk.one(ret_submit(1, 0, 0, packets)).status == Status.OK


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_an_unlink_names_its_target() -> None:
    talk = using()
    [tag] = submitted(talk, Transfer(0x83, 8))
    talk.importer.cancel(tag)
    raw = talk.said()
    assert struct.unpack(">6I24s", raw) == (CMD_UNLINK, 2, 0x1000F, 1, 3, tag, bytes(24))


def test_a_cancelled_transfer_has_only_the_answer_to_its_unlink(chunk: int) -> None:
    talk = using(chunk)
    [tag] = submitted(talk, Transfer(0x81, 8))
    seqnum = cancelled(talk, tag)
    assert talk.completions(ret_unlink(seqnum, ECONNRESET))[0][0] == tag
    [tag] = submitted(talk, Transfer(0x01, 2, b"ab"))
    done = talk.one(ret_unlink(cancelled(talk, tag), ECONNRESET))
    assert (done.status, done.actual) == (Status.CANCELLED, 0)


def test_a_transfer_that_completed_before_its_unlink_was_answered(chunk: int) -> None:
    talk = using(chunk)
    [tag] = submitted(talk, Transfer(0x81, 8))
    seqnum = cancelled(talk, tag)
    done = talk.one(ret_submit(tag, 0, 2) + b"ab" + ret_unlink(seqnum, 0))
    assert (done.status, done.data) == (Status.OK, b"ab")


@pytest.mark.parametrize("status", [0, ECONNRESET, EPIPE])
def test_after_the_reply_the_answer_to_the_unlink_says_nothing_new(status: int) -> None:
    talk = using()
    [tag] = submitted(talk, Transfer(0x81, 8))
    seqnum = cancelled(talk, tag)
    assert talk.one(ret_submit(tag, EPIPE)).status == Status.STALL
    assert talk.hear(ret_unlink(seqnum, status)) == []


def test_status_0_without_a_reply_loses_what_came_in() -> None:
    """Linux's server gives the transfer's own status: it is done, and its data is lost."""
    talk = using()
    [tag] = submitted(talk, Transfer(0x81, 8))
    done = talk.one(ret_unlink(cancelled(talk, tag), 0))
    assert (done.status, done.data) == (Status.CANCELLED, b"")


def test_status_0_without_a_reply_means_that_out_data_arrived() -> None:
    talk = using()
    [tag] = submitted(talk, Transfer(0x01, 2, b"ab"))
    done = talk.one(ret_unlink(cancelled(talk, tag), 0))
    assert (done.status, done.actual) == (Status.OK, 2)


def test_status_0_without_a_reply_means_that_iso_out_data_arrived() -> None:
    talk = using()
    [tag] = submitted(talk, Transfer(0x03, 5, b"abcde", packets=[IsoPacket(0, 3), IsoPacket(3, 2)], interval=1))
    done = talk.one(ret_unlink(cancelled(talk, tag), 0))
    assert (done.status, done.actual) == (Status.OK, 5)
    assert done.packets == [IsoPacket(0, 3, 3), IsoPacket(3, 2, 2)]


@pytest.mark.parametrize(("number", "status"), [(EPIPE, Status.STALL), (-108, Status.SHUTDOWN), (-2, Status.CANCELLED)])
def test_another_status_without_a_reply_is_the_transfers_own(number: int, status: Status) -> None:
    talk = using()
    [tag] = submitted(talk, Transfer(0x81, 8))
    assert talk.one(ret_unlink(cancelled(talk, tag), number)).status == status


def test_a_reply_after_the_answer_to_the_unlink_is_dropped_with_its_data(chunk: int) -> None:
    """Old usbipd-win: the kernel drops the device over it, usbip-win2 does not."""
    talk = using(chunk)
    packets = [IsoPacket(0, 3), IsoPacket(3, 2)]
    three = [Transfer(0x81, 8), Transfer(0x02, 3, b"abc"), Transfer(0x83, 5, packets=packets)]
    tags = submitted(talk, *three, Transfer(0x81, 8))
    unlinked = b"".join(ret_unlink(cancelled(talk, tag), ECONNRESET) for tag in tags[:3])
    assert [done.status for _, done in talk.completions(unlinked)] == [Status.CANCELLED] * 3
    late = ret_submit(tags[0], EPIPE, 5) + b"later" + ret_submit(tags[1], 0, 3)
    late += ret_submit(tags[2], 0, 4, 2) + b"late" + iso(0, 3, 3) + iso(3, 2, 1)
    [(tag, done)] = talk.completions(late + ret_submit(tags[3], 0, 2) + b"ok")
    assert (tag, done.status, done.data) == (tags[3], Status.OK, b"ok")


def test_a_reply_after_the_answer_to_the_unlink_comes_once_at_most() -> None:
    talk = using()
    [tag] = submitted(talk, Transfer(0x81, 8))
    seqnum = cancelled(talk, tag)
    with pytest.raises(ProtocolError, match=f"a reply to #{tag}, which is not in flight"):
        talk.hear(ret_unlink(seqnum, ECONNRESET) + ret_submit(tag) + ret_submit(tag))


def test_a_late_reply_must_fit_its_transfer_all_the_same() -> None:
    talk = using()
    [tag] = submitted(talk, Transfer(0x81, 8))
    seqnum = cancelled(talk, tag)
    with pytest.raises(ProtocolError, match="9 bytes done of a transfer of 8"):
        talk.hear(ret_unlink(seqnum, ECONNRESET) + ret_submit(tag, 0, 9))


def test_transfers_kept_for_a_late_reply_are_bounded_and_keep_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LATE", 3)
    talk = using()
    tags = submitted(talk, *[Transfer(0x02, 4, b"data") for _ in range(5)])
    for tag in tags:
        talk.one(ret_unlink(cancelled(talk, tag), ECONNRESET))
    assert [(tag, transfer.data) for tag, transfer in talk.importer._late.items()] == [(tag, b"") for tag in tags[2:]]


def test_an_unlink_answered_twice() -> None:
    talk = using()
    [tag] = submitted(talk, Transfer(0x81, 8))
    seqnum = cancelled(talk, tag)
    with pytest.raises(ProtocolError, match=f"an unlink answered, #{seqnum}"):
        talk.hear(ret_unlink(seqnum, ECONNRESET) + ret_unlink(seqnum, 0))


def test_an_unlink_answered_that_was_not_asked_for() -> None:
    talk = using()
    [tag] = submitted(talk, Transfer(0x81, 8))
    with pytest.raises(ProtocolError, match="an unlink answered, #1,"):
        talk.hear(ret_unlink(tag, ECONNRESET))


def test_an_answer_under_the_targets_number_is_not_the_unlinks() -> None:
    talk = using()
    [tag] = submitted(talk, Transfer(0x81, 8))
    cancelled(talk, tag)
    with pytest.raises(ProtocolError, match="an unlink answered, #1,"):
        talk.hear(ret_unlink(tag, ECONNRESET))


def test_a_submit_answered_under_the_unlinks_number() -> None:
    talk = using()
    [tag] = submitted(talk, Transfer(0x81, 8))
    seqnum = cancelled(talk, tag)
    with pytest.raises(ProtocolError, match=f"a reply to #{seqnum}"):
        talk.hear(ret_submit(seqnum))


def test_a_transfer_is_unlinked_once() -> None:
    talk = using()
    [tag] = submitted(talk, Transfer(0x81, 8))
    seqnum = cancelled(talk, tag)
    talk.importer.cancel(tag)
    assert talk.said() == b""
    assert talk.one(ret_unlink(seqnum, ECONNRESET)).status == Status.CANCELLED


def test_what_has_ended_is_not_unlinked() -> None:
    talk = using()
    [tag] = submitted(talk, Transfer(0x81, 8))
    talk.one(ret_submit(tag))
    talk.importer.cancel(tag)
    talk.importer.cancel(99)
    assert talk.said() == b""


def test_unlinks_of_many_are_answered_in_any_order() -> None:
    talk = using()
    tags = submitted(talk, *[Transfer(0x81, 8) for _ in range(5)])
    seqnums = [cancelled(talk, tag) for tag in reversed(tags)]
    done = talk.completions(b"".join(ret_unlink(seqnum, ECONNRESET) for seqnum in seqnums))
    assert [tag for tag, _ in done] == tags[::-1]


def test_a_server_that_never_answers_unlinks_costs_a_bounded_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_UNANSWERED", 3)
    talk = using()
    for _ in range(10):
        [tag] = submitted(talk, Transfer(0x81, 8))
        cancelled(talk, tag)
        talk.one(ret_submit(tag))
    assert len(talk.importer._unlinks) == len(talk.importer._unlinking) == 3


# --- the vectors that the exporter's tests play too -------------------------------------------------------------------

VECTORS = Path(__file__).parents[2] / "vectors" / "usbip"
REPORT_OUT = bytes.fromhex("ffffffff860008a784ce5ae212376300") + bytes(48)
REPORT_IN = bytes.fromhex("ffffffff860011a784ce5ae2123763612891b10201000004") + bytes(40)


def spoken(name: str) -> tuple[list[bytes], bytes]:
    """What the importer says in a vector, and all that the exporter answers."""
    messages = load(VECTORS / f"{name}.txt")
    asked = [message.raw for message in messages if message.to_exporter]
    return asked, b"".join(message.raw for message in messages if not message.to_exporter)


def hid_exchange() -> Talk:
    """An importer that has just sent the two commands that the kernel's document has captured."""
    talk = using()
    talk.importer._seqnum = 0x0D04
    talk.importer.submit(Transfer(0x81, 64, interval=4, start_frame=-1))
    talk.importer.submit(Transfer(0x01, 64, REPORT_OUT, interval=4, start_frame=-1))
    return talk


def check_hid_answers(done: list[tuple[int, Completion]]) -> None:
    (one, wrote), (two, read) = done
    assert (one, wrote.status, wrote.actual, wrote.data) == (0x0D06, Status.OK, 64, b"")
    assert (two, read.status, read.actual, read.data) == (0x0D05, Status.OK, 64, REPORT_IN)


def test_the_captured_exchange(chunk: int) -> None:
    """np 0 and start_frame -1, against the document's own tables."""
    asked, answers = spoken("kernel-document")
    talk = hid_exchange()
    assert talk.said() == b"".join(asked)
    talk.chunk = chunk
    check_hid_answers(talk.completions(answers))


def test_the_captured_exchange_cut_anywhere_and_with_a_tail() -> None:
    _, answers = spoken("kernel-document")
    for cut in range(len(answers)):
        talk = hid_exchange()
        check_hid_answers(talk.completions(answers[:cut]) + talk.completions(answers[cut:] + answers[:20]))
        assert talk.held == answers[:20]


def test_the_list_of_the_vectors(chunk: int) -> None:
    asked, answers = spoken("list")
    talk = Talk(chunk=chunk)
    talk.importer.list_devices()
    assert [talk.said()] == asked
    [listed] = talk.hear(answers)
    assert isinstance(listed, Listed)
    [info] = listed.devices
    assert (info.name, info.path, info.classes) == ("1-1", "/usbferry", ((8, 6, 0x50), (255, 0, 0)))


def test_the_import_of_the_vectors(chunk: int) -> None:
    asked, answers = spoken("import")
    talk = Talk(chunk=chunk)
    talk.importer.claim("1-1")
    assert [talk.said()] == asked
    [claimed] = talk.hear(answers)
    assert isinstance(claimed, Claimed)
    assert (claimed.info.device.product_id, claimed.info.device.release, claimed.info.configuration) == (
        0xA4A0,
        0x512,
        1,
    )


def test_the_isochronous_transfers_of_the_vectors(chunk: int) -> None:
    (asked_in, _), answers = spoken("isochronous")
    talk = using()
    talk.importer._seqnum = 0x0F
    packets = [IsoPacket(0, 8), IsoPacket(8, 8), IsoPacket(16, 8)]
    talk.importer.submit(Transfer(0x83, 24, flags=Flags.ISO_ASAP, packets=packets, interval=1))
    assert talk.said() == asked_in
    gap = [IsoPacket(0, 4), IsoPacket(8, 4)]  # which an importer of ours does not send
    talk.importer.submit(Transfer(0x03, 12, b"abcd\0\0\0\0efgh", packets=gap, interval=1))
    talk.chunk = chunk
    (_, read), (_, wrote) = talk.completions(answers)
    assert (read.data, read.error_count) == (b"abcABCDEFGH", 1)
    assert wrote.packets == [IsoPacket(0, 4, 4), IsoPacket(8, 4, 4)]


# --- any transfers, any answers ---------------------------------------------------------------------------------------


def answer(tag: int, transfer: Transfer, completion: Completion) -> bytes:
    """RET_SUBMIT as a correct server writes it."""
    packets = completion.packets or []
    descriptors = b"".join(iso(p.offset, p.length, p.actual, ERRNO[Status(p.status)]) for p in packets)
    number = ERRNO[Status(completion.status)]
    head = ret_submit(tag, number, completion.actual, len(packets), start_frame=completion.start_frame)
    return head + bytes(completion.data) + descriptors


@given(st.lists(usb.transfers, min_size=1, max_size=6), st.data(), st.sampled_from([0, 1, 5, 48]))
def test_every_transfer_ends_once_as_the_server_said(transfers: list[Transfer], data: st.DataObject, step: int) -> None:
    talk = using(step)
    flying = dict(zip(submitted(talk, *transfers), transfers, strict=True))
    order = data.draw(st.permutations(list(flying)))
    wanted = {tag: data.draw(usb.completions(flying[tag])) for tag in order}
    done = talk.completions(b"".join(answer(tag, flying[tag], wanted[tag]) for tag in order))
    assert [tag for tag, _ in done] == order
    for tag, completion in done:
        want = wanted[tag]
        status = Status.PROTOCOL if want.status == Status.FAILED else want.status
        assert (completion.status, completion.data, completion.actual) == (status, want.data, want.actual)
        assert completion.start_frame == (want.start_frame if flying[tag].packets else 0)
        for got, meant in zip(completion.packets or (), want.packets or (), strict=True):
            assert (got.offset, got.length, got.actual) == (meant.offset, meant.length, meant.actual)
