"""Wireshark decodes ferry and usbredir by our scripts: every call, packet and status, and each field as it was said.

The sessions are made in memory and written as captures; of those of real kernels see test_ferry.py.
"""

import struct
from collections import Counter
from contextlib import suppress

import pytest

import usbferry
from tests import pcap
from tests.cli.served import served
from tests.kernel.dissected import Dissected, Row
from tests.protocols.ferry import everything
from tests.protocols.ferry.reader import CALLS, STATUSES, Message
from tests.protocols.ferry.test_reader import MESSAGES
from usbferry.protocols.usbredir import messages as redir
from usbferry.protocols.usbredir.codec import Codec, Packet, length_of
from usbferry.protocols.usbredir.messages import Capability, Dialect, Sender, Type

# -- ferry -------------------------------------------------------------------------------------------------------------

# Wireshark's field -> where the value is in what the document's decoder found
NUMBERS = {name: name for name in (
    "capabilities", "version", "heartbeat", "grace", "window_calls", "window_bytes", "transfer_bytes", "streams", "due",
    "change", "interval", "start_frame", "stream", "done",
)}  # fmt: skip
FIELDS = (
    "identifier", "call", "reply_to", "status", "call_frame", "data", "length", "setup", "endpoint", "flags", "name",
    "token", "packet", "actual", "outstanding", "first", "last", "unlinked", "value", "interface", "setting", "text",
    "of_endpoint", "class", "descriptors", "speed", "configuration", "device_bytes", "piece", *NUMBERS,
)  # fmt: skip


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    path = tmp_path_factory.mktemp("ferry") / "session.pcap"
    pcap.write_tcp(path, everything.capture(), everything.PORT)
    return Dissected(path)


@pytest.fixture(scope="module")
def rows(session):
    return session.rows("ferry", [f"ferry.{name}" for name in FIELDS])


def whole(rows: list[Row]) -> list[Row]:
    """Without the parts that did not make a message whole: those that do have its call or status behind their own."""
    return [row for row in rows if "ferry.piece" not in row or len(row.get("ferry.status", row.get("ferry.call"))) > 1]


def test_every_message_is_decoded(session, rows):
    assert len(whole(rows)) == len(MESSAGES)
    calls = {CALLS.get(int(row["ferry.call"][-1])) for row in whole(rows) if "ferry.call" in row}
    assert calls == {*CALLS.values(), None}
    wrong = session.rows("_ws.malformed || _ws.lua || _ws.expert.severity == error", ["ferry.identifier"])
    malformed = Counter(message.identifier for message in MESSAGES if message.malformed)
    assert Counter(int(row["ferry.identifier"][0], 0) for row in wrong) == malformed


def test_each_field_is_as_the_document_has_it(rows):
    for row, message in zip(whole(rows), MESSAGES, strict=True):
        assert int(row["ferry.identifier"][0], 0) == message.identifier
        if message.status is None:
            assert CALLS.get(int(row["ferry.call"][-1]), f"call {row['ferry.call'][-1]}") == message.name
        else:
            assert STATUSES[int(row["ferry.status"][:2][-1 if message.parts else 0])] == message.status
            assert CALLS.get(int(row["ferry.reply_to"][0]), f"call {row['ferry.reply_to'][0]}") == message.name
        if not message.malformed:
            assert_fields(row, message)


def assert_fields(row: Row, message: Message) -> None:
    fields = message.fields
    expected: dict[str, list[object]] = {
        name: [fields[key]] for name, key in NUMBERS.items() if key in fields and name != "done"
    }
    if message.status is None:
        expected |= {"endpoint": [message.endpoint], "flags": [message.flags]}
    expected["data"] = [message.data] if message.data else []
    for name, key in (("setup", "setup"), ("token", "token"), ("value", "configuration"), ("unlinked", "identifier")):
        if key in fields:
            expected[name] = [fields[key]]
    expected |= listed(message)
    for name, values in expected.items():
        shown = row.get(f"ferry.{name}", [])
        assert [same(text, value) for text, value in zip(shown, values, strict=True)] == [True] * len(values), (
            name, row, message,
        )  # fmt: skip


def listed(message: Message) -> dict[str, list[object]]:
    """What there may be several of."""
    fields = message.fields
    found: dict[str, list[object]] = {}
    for name, key in (("packet", "lengths"), ("outstanding", "outstanding"), ("version", "versions")):
        if key in fields:
            found[name] = list(fields[key])
    if "runs" in fields:
        found["first"], found["last"] = ([run[place] for run in fields["runs"]] for place in (0, 1))
    if "packets" in fields:
        found["actual"] = [actual for _, actual in fields["packets"]]
    if message.name in ("CLEAR_HALT", "ALLOC_STREAMS", "FREE_STREAMS") and message.status is None:
        found["of_endpoint"] = fields["endpoints"] if "endpoints" in fields else [fields["endpoint"]]
    devices = fields.get("devices") or ([fields["device"]] if "device" in fields else [])
    if devices:
        for name in ("name", "speed", "configuration"):
            found[name] = [device[name] for device in devices]
        found["device_bytes"] = [device["descriptor"] for device in devices]
        texts = ("path", "manufacturer", "product", "serial", "holder")
        found["text"] = [device[text] for device in devices for text in texts if device[text]]
        found["interface"] = [pair[0] for device in devices for pair in device["settings"]]
        found["setting"] = [pair[1] for device in devices for pair in device["settings"]]
        found["class"] = [int.from_bytes(bytes(one), "big") for device in devices for one in device["classes"]]
        found["descriptors"] = [one for device in devices for one in device["configurations"]]
    return found


def same(text: str, value: object) -> bool:
    if isinstance(value, bytes):
        return text.replace(":", "") == value.hex()
    return text == value if isinstance(value, str) else int(text, 0) == value


def test_a_reply_names_the_frame_of_its_call(session):
    found = session.rows("ferry.call_frame", ["frame.number", "ferry.call_frame", "ferry.identifier"])
    calls = session.rows("ferry.call", ["frame.number", "ferry.identifier"])
    frames = {(row["frame.number"][0], row["ferry.identifier"][0]) for row in calls}
    assert len(found) > 150
    assert {(row["ferry.call_frame"][0], row["ferry.identifier"][0]) for row in found} <= frames


def test_transfers_are_given_to_the_usb_dissectors(session):
    shown = session.rows(
        "usb.urb_type && !ferry.token", ["usb.urb_type", "usb.transfer_type", "usb.endpoint_address", "usb.urb_status"]
    )
    kinds = Counter((row["usb.urb_type"][0], int(row["usb.transfer_type"][0], 0)) for row in shown)
    submits = Counter(m.name for m in MESSAGES if m.status is None and not m.malformed)
    names = {"ISOCHRONOUS": 0, "INTERRUPT": 1, "CONTROL": 2, "BULK": 3}
    assert {name: kinds["'S'", number] for name, number in names.items()} == {name: submits[name] for name in names}
    assert {int(row["usb.urb_status"][0]) for row in shown if row["usb.urb_type"] == ["'C'"]} >= {0, -32, -104, -19}
    requests = session.rows("usb.setup.bRequest == 6", ["usb.setup.wLength"])
    assert [row["usb.setup.wLength"] for row in requests] == [["18"]] * 4  # two are claims' descriptors, one came twice
    claims = session.rows("usb.bConfigurationValue && ferry.token", ["usb.bInterfaceClass", "usb.bConfigurationValue"])
    assert [row["usb.bConfigurationValue"] for row in claims] == [["1"], ["1"]]
    assert all("0x08" in row["usb.bInterfaceClass"] for row in claims)


def test_bytes_in_any_pieces(tmp_path):
    """As TCP brings them: records cut anywhere, and several in one segment."""
    pieces: list[pcap.Piece] = []
    for piece in everything.capture():
        if piece.data and pieces and pieces[-1].from_server == piece.from_server and len(pieces[-1].data) < 700:
            pieces[-1] = pieces[-1]._replace(data=pieces[-1].data + piece.data)
        else:
            pieces.append(piece)
    cut = [
        piece._replace(data=piece.data[at : at + 313])
        for piece in pieces
        for at in range(0, max(len(piece.data), 1), 313)
    ]
    path = tmp_path / "cut.pcap"
    pcap.write_tcp(path, cut, 5555)  # no port that is known: its first bytes tell
    dissected = Dissected(path)
    identifiers = [
        identifier
        for row in dissected.rows("ferry", ["ferry.identifier"])
        for identifier in row.get("ferry.identifier", [])
    ]
    parts = sum(message.parts - 1 for message in MESSAGES if message.parts)
    assert len(identifiers) == len(MESSAGES) + parts + 2  # two parts came twice
    assert Counter(int(i, 0) for i in identifiers).keys() == Counter(m.identifier for m in MESSAGES).keys()


def test_packets_without_markers(tmp_path):
    """As UDP carries them."""
    path = tmp_path / "packets.pcap"
    datagrams = [piece._replace(data=piece.data[4:]) for piece in everything.capture() if piece.data]
    short = [piece for piece in datagrams if len(piece.data) < 60_000]
    pcap.write_udp(path, short, 5555)
    dissected = Dissected(path)
    assert len(dissected.rows("ferry.identifier", ["ferry.identifier"])) == len(short)
    assert len(dissected.wrong()) == sum(bool(message.malformed) for message in MESSAGES)


# -- what passed on real connections -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["ferry", "usbredir"])
def test_what_a_program_does_with_a_disk(protocol, record, tmp_path):
    """Descriptors, and a command of SCSI with its data and status, in transfers that a program made."""
    with served("virtual:disk?size=1M", "--on", f"{protocol}://127.0.0.1:0", runtime=tmp_path) as server:
        recorder = record(int(server.listening[-1].rpartition(":")[2]))
        with usbferry.open(f"{protocol}://127.0.0.1:{recorder.port}") as device:
            device.control(0x80, 6, 0x0200, 0, 255)
            for tag in (1, 2):
                device.write(0x02, struct.pack("<4sIIBBB16s", b"USBC", tag, 36, 0x80, 0, 6, b"\x12\0\0\0\x24"))
                assert len(device.read(0x81, 36)) == 36
                assert device.read(0x81, 13)[:4] == b"USBS"
        recorder.close()
        recorder.write_pieces(tmp_path / "disk.pcap")
    dissected = Dissected(tmp_path / "disk.pcap")
    assert dissected.wrong() == []
    assert len(dissected.rows(f"{protocol} && usb.bInterfaceProtocol == 0x50", ["usb.bInterfaceProtocol"])) >= 1
    assert len(dissected.rows("scsi_sbc.opcode == 0x12 && usbms.dCBWFlags", ["usbms.dCBWTag"])) == 2
    assert len(dissected.rows("scsi.inquiry.vendor_id", ["scsi.inquiry.vendor_id"])) == 2


# -- usbredir ----------------------------------------------------------------------------------------------------------

SETS = [frozenset(), redir.ALL_CAPABILITIES, *(frozenset((one,)) for one in Capability)]
REDIR_FIELDS = {
    name: f"usbredir.{name}"
    for kind, row in redir.RELEASED.items()
    if kind != Type.HELLO
    for name, code in row.layout.FORMATS.items()
    if not code.endswith("s")
}


def packets(side: Sender, in_force: frozenset[Capability]) -> list[Packet]:
    """One of each type that this side may send; its numbers count up, so that none is like its neighbour."""
    found = []
    for kind, row in redir.RELEASED.items():
        if kind == Type.HELLO or row.sender not in (side, Sender.BOTH) or row.capability not in (None, *in_force):
            continue
        values = {
            name: bytes(range(n, n + int(code[:-1]))) if code.endswith("s") else n + 1
            for n, (name, code) in enumerate(row.layout.FORMATS.items(), kind % 16)
        }
        for way in (0x00, 0x80) if "endpoint" in values else (0,):
            data = b""
            if "endpoint" in values:
                values["endpoint"] = way | (kind % 16 if kind != Type.CONTROL_PACKET else 0)
            if kind >= Type.CONTROL_PACKET:
                values["status"] = kind % 7 if side is Sender.EXPORTER else 0
                values["length_high"] = 0
                if kind == Type.CONTROL_PACKET:
                    values["request_type"] = way | 0x40
                values = {name: value for name, value in values.items() if name in row.layout.FORMATS}
                carries = (way == 0x80) == (side is Sender.EXPORTER)
                data = bytes(values["length"]) if carries else b""
            elif kind == Type.FILTER_FILTER:
                data = b"0x03,-1,-1,-1,1\0"
            found.append(Packet(kind, 1 + len(found), row.layout(**values), data))
    return found


@pytest.fixture(scope="module")
def redirection(tmp_path_factory):
    """A connection for each set of capabilities; the packets in the order of their frames."""
    pieces, said, seconds = [], [], 1_700_000_000.0
    for number, capabilities in enumerate(SETS):
        sides = {side: Codec(side, Dialect.RELEASED, capabilities) for side in (Sender.IMPORTER, Sender.EXPORTER)}
        hellos = {side: codec.hello(f"{side.value} {number}") for side, codec in sides.items()}
        for side, other in ((Sender.IMPORTER, Sender.EXPORTER), (Sender.EXPORTER, Sender.IMPORTER)):
            assert sides[other].read(memoryview(hellos[side]), 0) is not None
            pieces.append(pcap.Piece(number, side is Sender.EXPORTER, hellos[side], seconds))
        for side in (Sender.EXPORTER, Sender.IMPORTER):
            for packet in packets(side, sides[side].in_force):
                with suppress(ValueError):  # some go one way alone, and some have endpoints of one direction
                    raw = sides[side].pack(packet.kind, packet.id, packet.body, packet.data)
                    pieces.append(pcap.Piece(number, side is Sender.EXPORTER, raw + bytes(packet.data), seconds))
                    said.append((packet, side, sides[side].in_force))
                seconds += 0.001
    path = tmp_path_factory.mktemp("usbredir") / "session.pcap"
    pcap.write_tcp(path, pieces, 4567)
    return Dissected(path), said


def test_every_packet_is_decoded(redirection):
    dissected, said = redirection
    assert {packet.kind for packet, _, _ in said} == {*redir.RELEASED} - {Type.HELLO}
    names = ["usbredir.type", "usbredir.id", "usbredir.short_id", "usbredir.data", "usbredir.rules"]
    rows = dissected.rows("usbredir && usbredir.type != 0", [*names, *REDIR_FIELDS.values()])
    assert len(rows) == len(said)
    assert dissected.wrong() == []
    for row, (packet, _, in_force) in zip(rows, said, strict=True):
        assert int(row["usbredir.type"][0]) == packet.kind
        long = Capability.IDS_64_BITS in in_force
        assert int(row["usbredir.id" if long else "usbredir.short_id"][0]) == packet.id
        if packet.kind == Type.FILTER_FILTER:
            assert row["usbredir.rules"] == ["0x03,-1,-1,-1,1"]
        else:
            assert "".join(row.get("usbredir.data", [])) == bytes(packet.data).hex()
        assert_layout(row, packet, in_force)


def assert_layout(row: Row, packet: Packet, in_force: frozenset[Capability]) -> None:
    size, at = redir.size_of(type(packet.body), in_force), 0
    for name, code in packet.body.FORMATS.items():
        if at < size and not code.endswith("s"):
            values = row[f"usbredir.{name}"]
            assert int(values[-1], 0) == getattr(packet.body, name), (name, row, packet)
        at += {"B": 1, "H": 2, "I": 4}.get(code) or int(code[:-1])


def test_hellos_are_decoded(redirection):
    dissected, _ = redirection
    rows = dissected.rows("usbredir.type == 0", ["usbredir.version", "usbredir.capabilities"])
    assert [row["usbredir.version"][0] for row in rows[:2]] == ["usb-guest 0", "usb-host 0"]
    words = [int(row["usbredir.capabilities"][0], 0) for row in rows[::2]]
    assert words == [int.from_bytes(redir.words_of(redir.sensible(s, Dialect.RELEASED)), "little") for s in SETS]


def test_packets_are_given_to_the_usb_dissectors(redirection):
    dissected, said = redirection
    rows = dissected.rows("usb.urb_type", ["usb.urb_type", "usb.urb_len", "usb.endpoint_address"])
    data = [(packet, side) for packet, side, _ in said if packet.kind >= Type.CONTROL_PACKET]
    assert len(rows) == len(data)
    for row, (packet, side) in zip(rows, data, strict=True):
        assert row["usb.urb_type"] == ["'C'" if side is Sender.EXPORTER else "'S'"]
        assert int(row["usb.urb_len"][0]) == length_of(packet.body)
        assert int(row["usb.endpoint_address"][0], 0) == packet.body.endpoint
