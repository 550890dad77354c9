"""A decoder of ferry that was written from docs/protocols/ferry.md alone: it imports nothing of ours, and must not.

It reads what both sides of a transport wrote and says what it means, or raises `Unreadable` where the document does
not allow it. Each function names the section that it was written from. What it had to guess became a sentence of the
document.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

CALLS = {  # section 5.3
    **{1: "VERSION", 2: "LIST", 3: "CLAIM", 4: "RELEASE", 5: "CONTROL", 6: "BULK", 7: "ISOCHRONOUS", 8: "INTERRUPT"},
    **{9: "UNLINK", 10: "RESET", 11: "SET_CONFIGURATION", 12: "SET_INTERFACE", 13: "CLEAR_HALT", 14: "SUSPEND"},
    **{15: "WAKE", 16: "ALLOC_STREAMS", 17: "FREE_STREAMS", 18: "DESCRIBE", 19: "WATCH", 20: "RESUME"},
    **{21: "HEARTBEAT", 22: "HOLD"},
}
OF_TRANSPORT = {"VERSION", "LIST", "CLAIM", "WATCH", "RESUME", "HEARTBEAT", "HOLD"}
TRANSFERS = {"CONTROL", "BULK", "ISOCHRONOUS", "INTERRUPT"}
STATUSES = {  # section 11
    **{0: "OK", 1: "UNKNOWN_CALL", 2: "UNKNOWN_DEVICE", 3: "BUSY", 4: "NOT_CLAIMED", 5: "IN_PROGRESS", 6: "PART"},
    **{7: "NO_SUCH_CALL", 8: "FORGOTTEN", 9: "NO_SESSION", 10: "NO_COMMON_VERSION", 11: "UNAVAILABLE"},
    **{12: "NOT_OPENED", 13: "MALFORMED", 257: "STALL", 258: "CANCELLED", 259: "GONE", 260: "SHUTDOWN"},
    **{261: "TIMEOUT", 262: "SHORT", 263: "OVERFLOW", 264: "PROTOCOL", 265: "CRC", 266: "NO_RESPONSE"},
    **{267: "UNDERRUN", 268: "OVERRUN", 269: "NOT_DONE", 270: "NO_MEMORY", 271: "NO_BANDWIDTH", 272: "INVALID"},
    **{273: "BUSY", 274: "FAILED"},
}
RECORD_LIMIT = 65792  # section 4.1
PART_CALL, PART_STATUS, STEP, BESIDE_DATA = 255, 6, 512, 65536  # section 4.4
STREAM = 0x0200  # section 6.5


class Unreadable(Exception):
    """What the document does not allow, or does not explain."""


@dataclass
class Message:
    """A call or a reply. `fields` has what its section names, `data` what a transfer carries."""

    sender: str  # ">" controller, "<" target
    identifier: int
    name: str
    status: str | None = None  # of a reply
    endpoint: int = 0
    flags: int = 0
    fields: dict[str, object] = field(default_factory=dict)
    data: bytes = b""
    parts: int = 0  # how many records it came in, if more than one
    malformed: str = ""  # why a call should be answered so


@dataclass
class Session:
    """The calls of one claim, which replies do not name, and which outlive a transport."""

    calls: dict[int, Message] = field(default_factory=dict)
    ended: bool = False


class Body:
    """The bytes of a body, taken from the front. All must be taken: section 4.3."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise Unreadable(f"{size} bytes wanted at {self.at} of {self.data.hex()}")
        self.at += size
        return self.data[self.at - size : self.at]

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def i32(self) -> int:
        return int.from_bytes(self.take(4), "big", signed=True)

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def end(self) -> None:
        if self.at != len(self.data):
            raise Unreadable(f"{len(self.data) - self.at} bytes too many: {self.data[self.at :].hex()}")


class Capture:
    """All transports of one capture, which share sessions."""

    def __init__(self) -> None:
        self.sessions: dict[bytes, Session] = {}

    def stream(self) -> Reader:
        return Reader(self, marked=True)

    def packets(self) -> Reader:
        return Reader(self, marked=False)


class Reader:
    """One transport. `read` takes what one side wrote: any piece of a stream, or one packet."""

    def __init__(self, capture: Capture, marked: bool) -> None:
        self.capture, self.marked = capture, marked
        self.waiting = {">": b"", "<": b""}
        self.calls: dict[int, Message] = {}
        self.session = Session()  # before a claim: whoever calls it anyway is told NOT_CLAIMED
        self.pieces: dict[tuple[str, int], dict[int, bytes]] = {}

    def read(self, sender: str, data: bytes) -> Iterator[Message]:
        for record in self.records(sender, data) if self.marked else [data]:
            if not 8 <= len(record) <= RECORD_LIMIT:
                raise Unreadable(f"a record of {len(record)} bytes")
            yield from self.message(sender, record)

    def records(self, sender: str, data: bytes) -> Iterator[bytes]:
        """Section 4.1."""
        waiting = self.waiting[sender] + data
        while len(waiting) >= 4:
            (marker,) = struct.unpack_from(">I", waiting)
            if marker >> 31:
                raise Unreadable("a record that is to be continued")
            if len(waiting) < 4 + marker:
                break
            yield waiting[4 : 4 + marker]
            waiting = waiting[4 + marker :]
        self.waiting[sender] = waiting

    def message(self, sender: str, record: bytes) -> Iterator[Message]:
        """Section 4.3; parts: 4.4."""
        body = Body(record)
        identifier = body.u32()
        is_part = record[4] == PART_CALL if sender == ">" else record[4:8] == struct.pack(">I", PART_STATUS)
        if not is_part:
            yield self.whole(sender, identifier, body)
            return
        body.take(4)
        whole = self.part(sender, identifier, total=body.u32(), offset=body.u32(), piece=body.rest())
        if whole is not None:
            data, count = whole
            message = self.whole(sender, identifier, Body(data))
            message.parts = count
            yield message

    def part(self, sender: str, identifier: int, total: int, offset: int, piece: bytes) -> tuple[bytes, int] | None:
        """The whole from its second word on, and in how many parts it came; or nothing, while some are missing."""
        end = offset + len(piece)
        if not piece or offset % STEP or end > total or (end % STEP and end != total):
            raise Unreadable(f"part {offset} to {end} of {total}")
        if sender == ">" and identifier >> 31:
            raise Unreadable("a call of the transport in parts")
        pieces = self.pieces.setdefault((sender, identifier), {})
        pieces[offset] = piece
        if sum(map(len, pieces.values())) < total:
            return None
        del self.pieces[sender, identifier]
        return b"".join(pieces[at] for at in sorted(pieces)), len(pieces)

    def whole(self, sender: str, identifier: int, body: Body) -> Message:
        calls = self.calls if identifier >> 31 else self.session.calls
        if sender == ">":
            message = self.call(identifier, body)
            calls[identifier] = message
        elif identifier in calls:
            message = self.reply(calls[identifier], body)
        else:
            raise Unreadable(f"a reply to {identifier:#x}, which nobody called")
        body.end()
        return message

    def call(self, identifier: int, body: Body) -> Message:
        number, endpoint, flags = body.u8(), body.u8(), body.u16()
        name = CALLS.get(number)
        if name is None:
            return Message(">", identifier, f"call {number}", fields={"body": body.rest()})
        message = Message(">", identifier, name, None, endpoint, flags)
        try:
            if (name in OF_TRANSPORT) != bool(identifier >> 31):
                raise Unreadable(f"{name} with the identifier {identifier:#x}: section 4.2")
            if name in TRANSFERS:
                submit(message, body)
            else:
                message.fields = dict(call_fields(name, body))
            body.end()
        except Unreadable as problem:
            message.malformed = str(problem)
            body.rest()
        return message

    def reply(self, call: Message, body: Body) -> Message:
        number = body.u32()
        if number not in STATUSES:
            raise Unreadable(f"status {number}")
        message = Message("<", call.identifier, call.name, STATUSES[number], call.endpoint, call.flags)
        if call.name in TRANSFERS:
            if number == 0 or number > 255:
                answer(call, message, body)
        elif number == 0:
            message.fields = dict(reply_fields(call.name, body))
            self.follow(call, message)
        elif STATUSES[number] == "NO_COMMON_VERSION":
            message.fields = dict(versions(body))
        return message

    def follow(self, call: Message, reply: Message) -> None:
        """Which session this transport has: sections 6.3, 6.4, 8.2."""
        sessions = self.capture.sessions
        if call.name == "CLAIM":
            self.session = sessions[bytes(reply.fields["token"])] = Session()  # type: ignore[call-overload]
        elif call.name == "RESUME":
            self.session = sessions.setdefault(bytes(call.fields["token"]), Session())  # type: ignore[call-overload]
        elif call.name == "RELEASE":
            self.session.ended = True


def versions(body: Body) -> Iterator[tuple[str, object]]:
    yield "versions", [body.u32() for _ in range(body.u32())]


def call_fields(name: str, body: Body) -> Iterator[tuple[str, object]]:
    """Sections 6.1 to 6.12, but for submits."""
    match name:
        case "VERSION":
            yield "capabilities", body.u32()
            yield from versions(body)
        case "CLAIM":
            yield "name", name_of(body)
        case "UNLINK":
            yield "identifier", body.u32()
        case "SET_CONFIGURATION":
            yield "configuration", body.u8()
        case "SET_INTERFACE":
            yield from (("interface", body.u8()), ("setting", body.u8()))
        case "CLEAR_HALT":
            yield "endpoint", body.u8()
        case "ALLOC_STREAMS":
            yield from (("streams", body.u32()), ("endpoints", list(body.rest())))
        case "FREE_STREAMS":
            yield "endpoints", list(body.rest())
        case "WATCH":
            yield "change", body.u32()
        case "HEARTBEAT":
            numbers = [number for (number,) in struct.iter_unpack(">I", body.rest())]
            yield "runs", list(zip(numbers[::2], numbers[1::2], strict=True))
        case "RESUME":
            yield from (("token", body.take(16)), ("outstanding", [body.u32() for _ in range(body.u32())]))


def reply_fields(name: str, body: Body) -> Iterator[tuple[str, object]]:
    match name:
        case "VERSION":
            yield from (("version", body.u32()), ("capabilities", body.u32()), ("instance", body.take(8)))
            yield from (("heartbeat", body.u16()), ("grace", body.u16()))
            yield from (("window_calls", body.u32()), ("window_bytes", body.u32()), ("transfer_bytes", body.u32()))
            body.rest()  # what later versions append
        case "LIST":
            records = [Body(body.take(body.u32())) for _ in range(body.u32())]
            yield "devices", [dict(device(record)) for record in records]
        case "CLAIM":
            yield from (("token", body.take(16)), ("device", dict(device(body))))
        case "DESCRIBE":
            yield "device", dict(device(body))
        case "WATCH":
            yield "change", body.u32()
        case "RESUME":
            yield "due", body.u32()


def name_of(body: Body) -> str:
    size = body.u8()
    if not size:
        raise Unreadable("an empty name")
    return body.take(size).decode("ascii")


def text(body: Body) -> str:
    size = body.u16()
    if size > 1024:
        raise Unreadable(f"a text of {size} bytes")
    return body.take(size).decode("utf-8")


def device(body: Body) -> Iterator[tuple[str, object]]:
    """A device record: section 6.3."""
    yield "name", name_of(body)
    yield from (("speed", body.u8()), ("configuration", body.u8()), ("bus", body.u16()), ("address", body.u16()))
    yield "descriptor", body.take(18)
    for name in ("path", "manufacturer", "product", "serial", "holder"):
        yield name, text(body)
    yield "settings", [(body.u8(), body.u8()) for _ in range(body.u8())]
    yield "classes", [tuple(body.take(3)) for _ in range(body.u8())]
    yield "configurations", [body.take(body.u16()) for _ in range(body.u8())]
    body.rest()


def submit(message: Message, body: Body) -> None:
    """Section 6.5: the call."""
    fields = message.fields
    match message.name:
        case "CONTROL":
            fields["setup"] = body.take(8)
            fields["length"] = int.from_bytes(body.data[body.at - 2 : body.at], "little")
        case "BULK":
            fields["length"] = body.u32()
        case "INTERRUPT":
            fields["length"], fields["interval"] = body.u32(), body.u32()
        case "ISOCHRONOUS":
            fields["interval"], fields["start_frame"] = body.u32(), body.i32()
            fields["lengths"] = [body.u32() for _ in range(body.u32())]
            fields["length"] = sum(fields["lengths"])  # type: ignore[call-overload]
    if message.flags & STREAM and message.name in ("BULK", "INTERRUPT"):
        fields["stream"] = body.u32()
    if not message.endpoint & 0x80:
        message.data = body.take(fields["length"])  # type: ignore[arg-type]


def answer(call: Message, message: Message, body: Body) -> None:
    """Section 6.5: the reply."""
    is_in = bool(call.endpoint & 0x80)
    if call.name == "ISOCHRONOUS":
        if body.at == len(body.data):
            return
        message.fields["start_frame"] = body.i32()
        packets = [(body.u32(), body.u32()) for _ in range(body.u32())]
        if len(packets) != len(call.fields["lengths"]):  # type: ignore[arg-type]
            raise Unreadable(f"{len(packets)} packets for those of {call.fields}")
        message.fields["packets"] = [(STATUSES[status], actual) for status, actual in packets]
        if is_in:
            message.data = body.take(sum(actual for _, actual in packets))
    elif is_in:
        message.data = body.rest()
    elif body.at < len(body.data):
        message.fields["done"] = body.u32()
    elif message.status == "OK" or not call.fields["length"]:
        message.fields["done"] = call.fields["length"]
    else:
        raise Unreadable(f"{message.status} of an OUT transfer that does not say how much was done")
