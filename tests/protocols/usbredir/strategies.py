"""Random usbredir packets, and the capabilities under which they are sent."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from tests import strategies as usb
from tests.protocols.usbredir.reference import WITHOUT_ID
from usbferry.protocols.usbredir import messages as m
from usbferry.protocols.usbredir.codec import Packet
from usbferry.protocols.usbredir.filter import Rule, wire_of
from usbferry.protocols.usbredir.messages import Capability, Sender, Type

RECEIVING = {*range(Type.START_INTERRUPT_RECEIVING, 18), *range(Type.START_BULK_RECEIVING, 28)}

capabilities = st.frozensets(st.sampled_from(Capability)).map(lambda said: m.sensible(said, m.Dialect.RELEASED))
rules = st.lists(
    st.builds(
        Rule,
        st.just(-1) | st.sampled_from([0, 3, 8, 0xEF, 0xFF]) | usb.u8,
        st.just(-1) | st.just(0x1209) | usb.u16,
        st.just(-1) | st.just(1) | usb.u16,
        st.just(-1) | st.just(0x100) | usb.u16,
        st.booleans(),
    ),
    max_size=6,
)


def ids(in_force: frozenset[Capability]) -> st.SearchStrategy[int]:
    return st.integers(0, 2**64 - 1 if Capability.IDS_64_BITS in in_force else 2**32 - 1)


def field(code: str) -> st.SearchStrategy[int] | st.SearchStrategy[bytes]:
    if code.endswith("s"):
        return st.binary(min_size=struct.calcsize(code), max_size=struct.calcsize(code))
    return {"B": usb.u8, "H": usb.u16, "I": usb.u32}[code]


@st.composite
def packets(draw: st.DrawFn, sender: Sender, in_force: frozenset[Capability]) -> Packet:
    """Any packet that this side may send now, but for the hello."""
    kinds = [
        kind
        for kind, row in m.RELEASED.items()
        if kind != Type.HELLO and row.sender in (sender, Sender.BOTH) and row.capability in (None, *in_force)
    ]
    kind = draw(st.sampled_from(kinds))
    layout = m.RELEASED[kind].layout
    values = {name: draw(field(code)) for name, code in layout.FORMATS.items()}
    data = b""
    if kind == Type.INTERFACE_INFO:
        values["count"] = draw(st.integers(0, 32))
    elif kind == Type.FILTER_FILTER:
        data = wire_of(draw(rules.filter(bool)))
    elif kind in RECEIVING:
        values["endpoint"] |= 0x80  # type: ignore[operator]
        if kind == Type.START_BULK_RECEIVING:
            values["bytes_per_transfer"] = draw(st.integers(0, m.MAX_TRANSFER))
    elif kind >= Type.CONTROL_PACKET:
        data = draw(payloads(kind, sender, values, in_force))
    id = 0 if kind in WITHOUT_ID else draw(ids(in_force))
    return Packet(kind, id, layout(**values), data)


@st.composite
def payloads(
    draw: st.DrawFn, kind: Type, sender: Sender, values: dict[str, int], in_force: frozenset[Capability]
) -> bytes:
    """The data of a packet, and endpoint and length to go with it."""
    from_host = sender is Sender.EXPORTER
    if kind in (Type.ISO_PACKET, Type.BUFFERED_BULK_PACKET) or (kind == Type.INTERRUPT_PACKET and not from_host):
        values["endpoint"] = values["endpoint"] & 0x7F | from_host << 7
    carries = (values["endpoint"] >= 0x80) == from_host
    data = draw(st.binary(max_size=64) | st.just(bytes(70_000))) if carries else b""
    length = draw(st.integers(0, m.MAX_TRANSFER))
    is_long = kind == Type.BULK_PACKET and Capability.BULK_LENGTH_32_BITS in in_force
    if kind != Type.BUFFERED_BULK_PACKET and not is_long:
        length, data = length & 0xFFFF, data[:0xFFFF]
    if carries:
        length = len(data)
    values["length"] = length
    if kind == Type.BULK_PACKET:
        values["length"], values["length_high"] = length & 0xFFFF, length >> 16
    return data
