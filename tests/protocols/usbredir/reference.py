"""libusbredirparser, by ctypes: what QEMU and usbredirect read and write with. Debian: libusbredirparser1.

The order of its callbacks and its signatures are the interface that its header declares (usbredirparser.h, 0.13).
"""

from __future__ import annotations

import ctypes
import os
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_int, c_uint8, c_uint32, c_uint64, c_void_p
from typing import Any

import pytest

from usbferry.protocols.record import Record
from usbferry.protocols.usbredir.filter import Rule, Verdict
from usbferry.protocols.usbredir.messages import RELEASED, Capability, Empty, Sender, Type, words_of
from usbferry.usb.info import DeviceInfo

LIBRARY = "libusbredirparser.so.1"
_USB_HOST, _BLOCKED, _BROKEN = 1, 0, -2
_EPERM, _EINVAL, _ENOENT = 1, 22, 2

# The callbacks in the order of the structure, after priv, log, read and write. "*" is one that we do not need.
_ORDER = (
    *(kind for kind in Type if Type.HELLO < kind <= Type.CANCEL_DATA_PACKET),
    *(kind for kind in Type if Type.CONTROL_PACKET <= kind <= Type.INTERRUPT_PACKET),
    *"****",  # locks
    Type.HELLO,
    Type.FILTER_REJECT,
    Type.FILTER_FILTER,
    Type.DEVICE_DISCONNECT_ACK,
    Type.START_BULK_RECEIVING,
    Type.STOP_BULK_RECEIVING,
    Type.BULK_RECEIVING_STATUS,
    Type.BUFFERED_BULK_PACKET,
)
WITHOUT_ID = {
    Type.HELLO,
    Type.DEVICE_CONNECT,
    Type.DEVICE_DISCONNECT,
    Type.RESET,
    Type.INTERFACE_INFO,
    Type.EP_INFO,
    Type.FILTER_REJECT,
    Type.FILTER_FILTER,
    Type.DEVICE_DISCONNECT_ACK,
}


class _Rule(ctypes.Structure):
    _fields_ = [(name, c_int) for name in ("device_class", "vendor", "product", "version", "allow")]


def library() -> Any:
    """The library; where it is missing the test is skipped, or fails where nothing may be missing."""
    try:
        found = ctypes.CDLL(LIBRARY)
    except OSError:
        reason = f"{LIBRARY} is missing; as root: apt-get install libusbredirparser1"
        if os.environ.get("USBFERRY_REQUIRE_KERNEL", "") not in ("", "0"):
            pytest.fail(reason)
        pytest.skip(reason)
    found.usbredirparser_create.restype = c_void_p
    found.usbredirfilter_rules_to_string.restype = c_void_p
    return found


def _signature(kind: Type) -> list[Any]:
    """Of a callback after priv, and of the sending function after the parser."""
    if kind is Type.FILTER_FILTER:
        return [POINTER(_Rule), c_int]
    row = RELEASED[kind]
    parts: list[Any] = [] if kind in WITHOUT_ID else [c_uint64]
    if row.layout is not Empty:
        parts.append(c_void_p)
    if row.data and kind >= Type.CONTROL_PACKET:
        parts += [c_void_p, c_int]
    return parts


_LOG = CFUNCTYPE(None, c_void_p, c_int, c_char_p)
_MOVE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_FUNCTIONS = {kind: CFUNCTYPE(None, c_void_p, *_signature(kind)) for kind in RELEASED}


class _Parser(ctypes.Structure):
    _fields_ = [
        ("priv", c_void_p),
        ("log", _LOG),
        ("read", _MOVE),
        ("write", _MOVE),
        *((f"f{n}", c_void_p if kind == "*" else _FUNCTIONS[kind]) for n, kind in enumerate(_ORDER)),
    ]


class Reference:
    """One parser on one side of a connection. `heard` is what it made of the bytes: (kind, id, layout, data)."""

    def __init__(self, side: Sender, capabilities: frozenset[Capability]) -> None:
        self.heard: list[tuple[Type, int, bytes, bytes]] = []
        self.complaints: list[str] = []
        self._library = library()
        self._incoming = b""
        self._outgoing = bytearray()
        self._parser = c_void_p(self._library.usbredirparser_create())
        self._fill(ctypes.cast(self._parser, POINTER(_Parser)).contents)
        words = (c_uint32 * 1)(int.from_bytes(words_of(capabilities), "little"))
        flags = _USB_HOST if side is Sender.EXPORTER else 0
        self._library.usbredirparser_init(self._parser, b"reference", words, 1, flags)

    def close(self) -> None:
        self._library.usbredirparser_destroy(self._parser)

    def _fill(self, parser: _Parser) -> None:
        self._kept: list[Any] = [_LOG(self._log), _MOVE(self._read), _MOVE(self._write)]
        parser.log, parser.read, parser.write = self._kept
        for place, kind in enumerate(_ORDER):
            if kind != "*":
                callback = _FUNCTIONS[kind](self._callback(Type(kind)))
                self._kept.append(callback)
                setattr(parser, f"f{place}", callback)

    def _log(self, priv: int, level: int, text: bytes) -> None:
        if level <= 2:
            self.complaints.append(text.decode())

    def _read(self, priv: int, buffer: int, count: int) -> int:
        taken, self._incoming = self._incoming[:count], self._incoming[count:]
        ctypes.memmove(buffer, taken, len(taken))
        return len(taken)

    def _write(self, priv: int, buffer: int, count: int) -> int:
        self._outgoing += ctypes.string_at(buffer, count)
        return count

    def _callback(self, kind: Type) -> Any:
        def heard(priv: int, *arguments: Any) -> None:
            rest = list(arguments)
            if kind is Type.FILTER_FILTER:
                rules = ",".join(str(getattr(rest[0][n], name)) for n in range(rest[1]) for name, _ in _Rule._fields_)
                self.heard.append((kind, 0, b"", rules.encode()))
                self._library.usbredirfilter_free(rest[0])
                return
            id = 0 if kind in WITHOUT_ID else rest.pop(0)
            layout, data = RELEASED[kind].layout, b""
            body = b"" if layout is Empty else ctypes.string_at(rest.pop(0), layout.SIZE)
            if rest:
                data = ctypes.string_at(rest[0], rest[1]) if rest[1] else b""
                self._library.usbredirparser_free_packet_data(self._parser, c_void_p(rest[0]))
            self.heard.append((kind, id, body, data))

        return heard

    def hear(self, data: bytes) -> bool:
        """Whether it takes all these bytes for packets that are right."""
        self._incoming += data
        answer = self._library.usbredirparser_do_read(self._parser)
        assert answer in (_BLOCKED, _BROKEN)
        return answer == _BLOCKED

    def take(self) -> bytes:
        """What it has to say."""
        self._library.usbredirparser_do_write(self._parser)
        said = bytes(self._outgoing)
        self._outgoing.clear()
        return said

    def send(self, kind: Type, id: int, body: Record, data: bytes = b"") -> bytes:
        """The bytes it makes of a packet; none, and a complaint, where it refuses to send it."""
        send = getattr(self._library, f"usbredirparser_send_{kind.name.lower()}")
        send.argtypes = [c_void_p, *_signature(kind)]
        arguments: list[Any] = [] if kind in WITHOUT_ID else [id]
        if RELEASED[kind].layout is not Empty:
            packed = body.pack()
            arguments.append(ctypes.cast(ctypes.create_string_buffer(packed, len(packed)), c_void_p))
        if kind >= Type.CONTROL_PACKET:
            buffer = ctypes.create_string_buffer(data, len(data)) if data else None
            arguments += [ctypes.cast(buffer, c_void_p) if buffer else None, len(data)]
        send(self._parser, *arguments)
        return self.take()

    def send_filter(self, rules: list[Rule]) -> bytes:
        send = self._library.usbredirparser_send_filter_filter
        send.argtypes = [c_void_p, POINTER(_Rule), c_int]
        send(self._parser, _rules(rules), len(rules))
        return self.take()


# -- its filter functions ---------------------------------------------------------------------------------------------


def _rules(rules: list[Rule]) -> Any:
    made = [_Rule(r.device_class, r.vendor_id, r.product_id, r.release, int(r.allow)) for r in rules]
    return (_Rule * max(1, len(made)))(*made)


def parse_filter(text: str) -> list[Rule] | None:
    """Its reading of a text; None where it refuses."""
    found, rules, count = library(), POINTER(_Rule)(), c_int()
    answer = found.usbredirfilter_string_to_rules(text.encode(), b",", b"|", byref(rules), byref(count))
    if answer:
        assert answer == -_EINVAL
        return None
    parsed = [Rule(r.device_class, r.vendor, r.product, r.version, bool(r.allow)) for r in rules[: count.value]]
    found.usbredirfilter_free(rules)
    return parsed


def print_filter(rules: list[Rule]) -> str:
    found = library()
    text = found.usbredirfilter_rules_to_string(_rules(rules), len(rules), b",", b"|")
    assert text
    printed = ctypes.string_at(text).decode()
    found.usbredirfilter_free(c_void_p(text))
    return printed


def check_filter(rules: list[Rule], info: DeviceInfo, *, default_allow: bool, skip_hid: bool) -> Verdict:
    device, classes = info.device, info.classes
    columns = [(c_uint8 * 32)(*column) for column in zip(*classes, strict=True)] or [(c_uint8 * 32)()] * 3
    answer = library().usbredirfilter_check(
        _rules(rules), len(rules),
        device.device_class, device.device_subclass, device.device_protocol, *columns, len(classes),
        device.vendor_id, device.product_id, device.release, int(default_allow) | (not skip_hid) << 1,
    )  # fmt: skip
    return {0: Verdict.ALLOWED, -_EPERM: Verdict.DENIED, -_ENOENT: Verdict.NO_MATCH}[answer]
