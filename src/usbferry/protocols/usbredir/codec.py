"""Packets on one connection: the hello, what it settles, and every rule of form, for both sides and both ways.

Whatever breaks a rule of form is a ProtocolError when it comes and a ValueError when we are about to send it: QEMU
aborts over bytes that are left in its buffer after an invalid packet (usbredir_chardev_read, hw/usb/redirect.c).
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct, calcsize
from typing import Any, Final, NamedTuple

from ...usb.transfer import Buffer
from ..errors import ProtocolError
from ..openings import Stranger, spoken_by
from ..record import Record
from .messages import (
    MAX_PACKET,
    MAX_TRANSFER,
    BulkPacket,
    Capability,
    Dialect,
    Empty,
    Header,
    Hello,
    Sender,
    Type,
    capabilities_of,
    sensible,
    size_of,
    words_of,
)

_SHORT: Final = Struct("<III")
_LONG: Final = Header.STRUCT
_MAX_HELLO: Final = Hello.SIZE + 64 * 1024  # capability words by the thousand are let pass, and cost nothing
_MAX_FILTER: Final = 64 * 1024  # bytes of rules
_BULK: Final = int(Type.BULK_PACKET)
_SHORT_BULK: Final = Struct("<BBHI")
LONG_BULK: Final = Struct("<" + "".join((*Header.FORMATS.values(), *BulkPacket.FORMATS.values())))
"""A bulk packet but for its data where ids have 64 bits and lengths 32, header and layout in one."""
HELLO: Final = Type.HELLO.to_bytes(4, "little")  # what all that either side says begins with
_TYPES: Final = frozenset(Type)
_DATA: Final = Type.CONTROL_PACKET  # from here on packets carry data
_RECEIVING: Final = frozenset(
    (
        Type.START_INTERRUPT_RECEIVING,
        Type.STOP_INTERRUPT_RECEIVING,
        Type.INTERRUPT_RECEIVING_STATUS,
        Type.START_BULK_RECEIVING,
        Type.STOP_BULK_RECEIVING,
        Type.BULK_RECEIVING_STATUS,
    )
)
_EMPTY: Final = Empty()
_NOTHING: Final = memoryview(b"")


class Packet:
    """One packet: its type, id, layout and data, which is a view that is lent."""

    __slots__ = ("body", "data", "id", "kind")

    def __init__(self, kind: int, id: int, body: Record, data: Buffer = b"") -> None:
        self.kind = kind
        self.id = id
        self.body = body
        self.data = data

    def __repr__(self) -> str:
        name = Type(self.kind).name.lower()
        return f"{name} #{self.id} {self.body!r}" + (f" and {len(self.data)} bytes" if len(self.data) else "")


class _Form(NamedTuple):
    """A row of the table of types, as it is with the capabilities in force."""

    size: int  # bytes of the layout
    unpack: Callable[..., tuple[Any, ...]]
    layout: type[Record]
    missing: tuple[int | bytes, ...]  # values of the fields that are cut off
    sender: Sender
    capability: Capability | None
    data: bool


_Readable = tuple[int, Callable[..., tuple[Any, ...]], Any, tuple[int | bytes, ...], bool]  # of a _Form


def length_of(body: Any) -> int:
    """The bytes that a data packet says it has, or wants."""
    length: int = body.length
    return body.length_high << 16 | length if body.__class__ is BulkPacket else length


class Codec:
    """One side's view of the connection. `side` is who it is; `admit` may refuse a packet before its data has come."""

    def __init__(
        self,
        side: Sender,
        dialect: Dialect,
        capabilities: frozenset[Capability],
        admit: Callable[[int, int, Record], None] = lambda kind, id, body: None,
    ) -> None:
        self.dialect = dialect
        self.peer_version = ""
        self.in_force: frozenset[Capability] = frozenset()  # until the peer's hello came
        self.greeted = False
        self.needed = _SHORT.size  # bytes that must be there before `read` can say more
        self.size = 0  # bytes of the packet that was read last
        self._side = side
        self._is_host = side is Sender.EXPORTER
        self._ours = sensible(capabilities & dialect.capabilities, dialect)
        self._admit = admit
        self.has_long_bulk = False  # whether bulk packets are as LONG_BULK has them
        self._has_long_lengths = False
        self._header = _SHORT
        self._forms: dict[int, _Form] = {}
        self._readable: dict[int, _Readable] = {}  # what the peer may send now

    def hello(self, version: str) -> bytes:
        """The first bytes of the connection. Nothing else may be sent until the peer's hello came."""
        text = version.encode()[:63]
        return self._framed(Type.HELLO, 0, Hello(text).pack(), 4) + words_of(self._ours)

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, view: memoryview, at: int) -> Packet | None:
        """The packet at `at`; None until `needed` bytes are there. Raises ProtocolError."""
        left = len(view) - at
        header = self._header
        if left < header.size:
            # Who speaks USB/IP says no more than 8 bytes.
            if not self.greeted and not self._may_begin(view[at : at + 4]):
                raise Stranger("usbredir", view[at:])
            self.needed = header.size
            return None
        kind, length, id = header.unpack_from(view, at)
        if not self.greeted:
            return self._greet(view, at, kind, length, id)
        readable = self._readable.get(kind)
        if readable is None:
            raise self._unreadable(kind)
        size, unpack, layout, missing, data_allowed = readable
        body_at = at + header.size
        if length < size or length > MAX_PACKET or (length > size and not data_allowed):
            raise ProtocolError(f"{length} bytes of {Type(kind).name.lower()}, whose layout has {size}")
        if left < header.size + size:
            self.needed = header.size + size
            return None
        body = layout(*unpack(view, body_at), *missing)
        self._check(kind, body, length - size, self._side is Sender.IMPORTER)
        self._admit(kind, id, body)
        if left < header.size + length:
            self.needed = header.size + length
            return None
        data = view[body_at + size : body_at + length] if length > size else _NOTHING
        if kind == Type.FILTER_FILTER and (not data or data[-1]):
            raise ProtocolError("a filter that does not end with a NUL")
        self.size = header.size + length
        self.needed = header.size
        return Packet(kind, id, body, data)

    def _unreadable(self, kind: int) -> ProtocolError:
        form = self._forms.get(kind)
        if form is None:
            return ProtocolError(f"a packet of type {kind}, which the protocol does not have")
        name = Type(kind).name.lower()
        if form.sender is self._side:
            both = "both sides offer a device: " if kind in _OFFERING else ""
            return ProtocolError(f"{both}{name} came from the {_other(self._side)}, that may not send it")
        assert form.capability is not None
        return ProtocolError(f"{name} without its capability, {form.capability.name.lower()}")

    def _may_begin(self, said: memoryview) -> bool:
        """Whether a conversation begins with these bytes, or goes on with them: see `_no_hello`."""
        if said == HELLO[: len(said)]:
            return True
        return self._is_host and any(kind.to_bytes(4, "little").startswith(bytes(said)) for kind in _TYPES)

    def _no_hello(self, said: memoryview, kind: int, length: int) -> ProtocolError:
        """What is wrong with a peer that begins with another packet.

        A QEMU whose machine was restored, or migrated to it, goes on with the conversation that its state is of:
        usbredirparser_fl_no_hello in usbredir_create_parser, hw/usb/redirect.c. Its next one begins as it should.
        """
        if not self._is_host or kind not in _TYPES or length > MAX_PACKET or spoken_by(said):
            return Stranger("usbredir", said)
        return ProtocolError(
            f"{Type(kind).name.lower()} came before any hello: a machine that was restored goes on where it was, "
            "until it connects again"
        )

    def _greet(self, view: memoryview, at: int, kind: int, length: int, id: int) -> Packet | None:
        """The peer's hello; from then on there are packets, of the size that both hellos settle."""
        if kind != Type.HELLO:
            raise self._no_hello(view[at:], kind, length)
        if not Hello.SIZE <= length <= _MAX_HELLO:
            raise ProtocolError(f"a hello of {length} bytes, the limits are {Hello.SIZE} and {_MAX_HELLO}")
        self.needed = self.size = _SHORT.size + length
        if len(view) - at < self.size:
            return None
        hello = Hello.parse(view, at + _SHORT.size)
        theirs = sensible(capabilities_of(view[at + _SHORT.size + Hello.SIZE : at + self.size]), self.dialect)
        self._settle(hello, self._ours & theirs)
        return Packet(kind, id, hello)

    def _settle(self, hello: Hello, in_force: frozenset[Capability]) -> None:
        self.peer_version = hello.version.split(b"\0", 1)[0].decode("utf-8", "replace")
        self.greeted, self.in_force = True, in_force
        self._has_long_lengths = Capability.BULK_LENGTH_32_BITS in in_force
        self.has_long_bulk = self._has_long_lengths and Capability.IDS_64_BITS in in_force
        self._header = _LONG if Capability.IDS_64_BITS in in_force else _SHORT
        self.needed = self._header.size
        for kind, row in self.dialect.rows.items():
            size = size_of(row.layout, in_force)
            struct, missing = _beginning(row.layout, size)
            self._forms[kind] = _Form(
                size, struct.unpack_from, row.layout, missing, row.sender, row.capability, row.data
            )
            if row.sender is not self._side and self.has(kind):
                self._readable[kind] = (size, struct.unpack_from, row.layout, missing, row.data)

    def _check(self, kind: int, body: Any, data: int, from_host: bool) -> None:
        """The rules about a layout's values, and the one about data that is most often broken.

        Data goes with IN endpoints from the usb-host and with OUT endpoints from the usb-guest, as much as `length`
        says. The other way there is none, and `length` is the number wanted or done.
        """
        if kind < _DATA:
            _check_control(kind, body, data)
            return
        endpoint, length = body.endpoint, length_of(body)
        if length > MAX_TRANSFER:
            raise ProtocolError(f"{length} bytes in a transfer, the limit is {MAX_TRANSFER}")
        carries = (endpoint >= 0x80) == from_host
        if data != (length if carries else 0):
            with_it = f"{length} bytes of data must come with it" if carries else "no data may come with it"
            raise ProtocolError(f"{data} bytes of data in {_name(kind, body)}: {with_it}")
        if not carries and (
            kind in (Type.ISO_PACKET, Type.BUFFERED_BULK_PACKET) or (kind == Type.INTERRUPT_PACKET and not from_host)
        ):
            raise ProtocolError(f"{_name(kind, body)} goes the wrong way")

    # -- writing ------------------------------------------------------------------------------------------------------

    def has(self, kind: int) -> bool:
        """Whether packets of this type may be sent now, as far as the dialect and the capabilities go."""
        form = self._forms.get(kind)
        return form is not None and (form.capability is None or form.capability in self.in_force)

    def pack(self, kind: int, id: int, body: Record = _EMPTY, data: Buffer = b"") -> bytes:
        """A packet but for its data, which follows. Raises ValueError for what no peer may be sent."""
        form = self._forms.get(kind)
        if form is None or not self.has(kind) or form.sender not in (self._side, Sender.BOTH):
            raise ValueError(f"{Packet(kind, id, body)!r} may not be sent")
        packed = body.pack()
        if len(packed) > form.size:
            if any(packed[form.size :]) and body.__class__ is BulkPacket:
                raise ValueError(f"{length_of(body)} bytes in one transfer, to a peer that takes 65535")
            packed = packed[: form.size]
        try:
            self._check(kind, body, len(data), self._side is Sender.EXPORTER)
        except ProtocolError as error:
            raise ValueError(str(error)) from error
        return self._framed(kind, id, packed, len(data))

    def pack_bulk(self, id: int, endpoint: int, status: int, length: int, stream_id: int, data: int) -> bytes:
        """A bulk packet but for its `data` bytes: `pack`, for what nearly all packets are.

        Raises ValueError as that does.
        """
        if data != (length if (endpoint >= 0x80) == self._is_host else 0) or length > MAX_TRANSFER:
            raise ValueError(f"{data} bytes of data with {length} on endpoint {endpoint:02x}")
        if self.has_long_bulk:
            size = BulkPacket.SIZE + data
            return LONG_BULK.pack(_BULK, size, id, endpoint, status, length & 0xFFFF, stream_id, length >> 16)
        if self._has_long_lengths:
            body = BulkPacket.STRUCT.pack(endpoint, status, length & 0xFFFF, stream_id, length >> 16)
        elif length <= 0xFFFF:
            body = _SHORT_BULK.pack(endpoint, status, length, stream_id)
        else:
            raise ValueError(f"{length} bytes in one transfer, to a peer that takes 65535")
        return self._header.pack(_BULK, len(body) + data, id) + body

    def _framed(self, kind: int, id: int, packed: bytes, more: int) -> bytes:
        return self._header.pack(kind, len(packed) + more, id) + packed


def _check_control(kind: int, body: Any, data: int) -> None:
    if kind == Type.HELLO:
        if data > _MAX_HELLO:
            raise ProtocolError(f"a hello with {data} bytes of capabilities")
    elif kind == Type.INTERFACE_INFO:
        if body.count > 32:
            raise ProtocolError(f"{body.count} interfaces, the limit is 32")
    elif kind == Type.FILTER_FILTER:
        if not 0 < data <= _MAX_FILTER:
            raise ProtocolError(f"a filter of {data} bytes, the limits are 1 and {_MAX_FILTER}")
    elif kind in _RECEIVING:
        if body.endpoint < 0x80:
            raise ProtocolError(f"{Type(kind).name.lower()} of endpoint {body.endpoint:#04x}, which is OUT")
        if kind == Type.START_BULK_RECEIVING and body.bytes_per_transfer > MAX_TRANSFER:
            raise ProtocolError(f"{body.bytes_per_transfer} bytes in a transfer, the limit is {MAX_TRANSFER}")


def _beginning(layout: type[Record], size: int) -> tuple[Struct, tuple[int | bytes, ...]]:
    """The first `size` bytes of a layout, and the values of the fields after them."""
    if size == layout.SIZE:
        return layout.STRUCT, ()
    codes = list(layout.FORMATS.values())
    kept = next(n for n in range(len(codes)) if calcsize("<" + "".join(codes[:n])) == size)
    missing = tuple(bytes(calcsize(code)) if code.endswith("s") else 0 for code in codes[kept:])
    return Struct("<" + "".join(codes[:kept])), missing


def _name(kind: int, body: Any) -> str:
    return f"{Type(kind).name.lower()} on endpoint {body.endpoint:02x}"


_OFFERING: Final = (Type.INTERFACE_INFO, Type.EP_INFO, Type.DEVICE_CONNECT)  # what says that there is a device


def _other(side: Sender) -> str:
    other: str = (Sender.IMPORTER if side is Sender.EXPORTER else Sender.EXPORTER).value
    return other
