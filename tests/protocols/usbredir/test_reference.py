"""Our codec and filters against the reference's: one decodes what the other encodes, and both refuse the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import strategies as usb
from tests.protocols.usbredir import reference
from tests.protocols.usbredir.reference import Reference
from tests.protocols.usbredir.strategies import capabilities, packets, rules
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.usbredir import filter as filters
from usbferry.protocols.usbredir.codec import Codec, Packet
from usbferry.protocols.usbredir.messages import MAX_PACKET, Capability, Dialect, Sender, Type, size_of
from usbferry.usb.info import DeviceInfo
from usbferry.usb.tree import Configuration, DeviceDescriptor, Interface

SIDES = (Sender.EXPORTER, Sender.IMPORTER)
VERSION = "ours"


@contextmanager
def connected(
    side: Sender, ours: frozenset[Capability], theirs: frozenset[Capability]
) -> Iterator[tuple[Codec, Reference]]:
    """Us on `side`, the reference on the other, after both hellos."""
    codec, other = Codec(side, Dialect.RELEASED, ours), SIDES[side is Sender.EXPORTER]
    peer = Reference(other, theirs)
    try:
        assert peer.hear(codec.hello(VERSION))
        hello = peer.take()
        assert codec.read(memoryview(hello), 0) is not None
        assert codec.size == len(hello)
        [(kind, _, version, _)] = peer.heard
        assert (kind, version.rstrip(b"\0").decode()) == (Type.HELLO, VERSION)
        assert codec.peer_version == "reference"
        peer.heard.clear()
        yield codec, peer
        assert not peer.complaints
    finally:
        peer.close()


def in_force(side: Sender, ours: frozenset[Capability], theirs: frozenset[Capability]) -> frozenset[Capability]:
    """What both have said; the reference's usb-guest adds the acknowledgement by itself."""
    if side is Sender.EXPORTER:
        theirs |= {Capability.DEVICE_DISCONNECT_ACK}
    return ours & theirs


def on_the_wire(packet: Packet, codec: Codec) -> bytes:
    """What is sent of a layout. The reference leaves what it does not get as it was in its memory."""
    return packet.body.pack()[: size_of(type(packet.body), codec.in_force)]


def payload(packet: Packet) -> bytes:
    """The data, as `Reference.heard` has it."""
    if packet.kind != Type.FILTER_FILTER:
        return bytes(packet.data)
    rules = filters.parse_wire(packet.data)
    return ",".join(f"{r.device_class},{r.vendor_id},{r.product_id},{r.release},{int(r.allow)}" for r in rules).encode()


@pytest.mark.slow
@pytest.mark.parametrize("side", SIDES)
@settings(max_examples=200)
@given(st.data(), capabilities, capabilities)
def test_it_decodes_what_we_encode(side, data, ours, theirs):
    with connected(side, ours, theirs) as (codec, peer):
        assert codec.in_force == in_force(side, ours, theirs)
        for packet in data.draw(st.lists(packets(side, codec.in_force), min_size=1, max_size=5)):
            raw = codec.pack(packet.kind, packet.id, packet.body, packet.data) + packet.data
            assert peer.hear(raw), (packet, peer.complaints)
            [heard] = peer.heard
            peer.heard.clear()
            body = on_the_wire(packet, codec)
            assert (heard[0], heard[1], heard[2][: len(body)], heard[3]) == (
                packet.kind,
                packet.id,
                body,
                payload(packet),
            )
            peer.take()  # the guest's own acknowledgement


@pytest.mark.slow
@pytest.mark.parametrize("side", SIDES)
@settings(max_examples=200)
@given(st.data(), capabilities, capabilities)
def test_we_decode_what_it_encodes(side, data, ours, theirs):
    with connected(side, ours, theirs) as (codec, peer):
        for packet in data.draw(st.lists(packets(SIDES[side is Sender.EXPORTER], codec.in_force), min_size=1)):
            if packet.kind == Type.DEVICE_DISCONNECT_ACK:
                continue  # it sends that by itself, after a disconnect
            if packet.kind == Type.FILTER_FILTER:
                raw = peer.send_filter(list(filters.parse_wire(packet.data)))
            else:
                raw = peer.send(Type(packet.kind), packet.id, packet.body, packet.data)
            assert raw, peer.complaints
            got = codec.read(memoryview(raw), 0)
            assert got is not None
            assert codec.size == len(raw)
            assert (got.kind, got.id, bytes(got.data)) == (packet.kind, packet.id, packet.data)
            assert on_the_wire(got, codec) == on_the_wire(packet, codec)
            assert not any(got.body.pack()[len(on_the_wire(got, codec)) :])


@pytest.mark.slow
@pytest.mark.parametrize("side", SIDES)
@settings(max_examples=600)
@given(st.data(), capabilities)
def test_malformed_packets_are_refused_by_both(side, data, said):
    """One packet with something changed, from either side, and as many bytes as it then announces.

    Those are there because we refuse from the headers alone, and the reference when it has all.
    """
    with reading(side, said) as (codec, peer):
        sender = data.draw(st.sampled_from(SIDES))
        maker = Codec(sender, Dialect.RELEASED, said)
        assert maker.read(memoryview(Codec(side, Dialect.RELEASED, said).hello(VERSION)), 0)
        packet = data.draw(packets(sender, codec.in_force))
        raw = bytearray(maker.pack(packet.kind, packet.id, packet.body, packet.data) + packet.data)
        change(data, raw)
        length, header = int.from_bytes(raw[4:8], "little"), 16 if Capability.IDS_64_BITS in said else 12
        raw += bytes(max(0, header + length - len(raw))) if length < 200_000 else b""
        fine = peer.hear(bytes(raw))
        assert takes(codec, bytes(raw)) == fine, (packet, peer.complaints)


def change(data: st.DataObject, raw: bytearray) -> None:
    match data.draw(st.integers(0, 3)):
        case 0:
            raw[4:8] = data.draw(st.integers(0, 300) | st.just(MAX_PACKET + 1)).to_bytes(4, "little")
        case 1:
            raw[0] = data.draw(st.sampled_from([*Type, 0x63, 0xFF]))
        case 2:
            del raw[data.draw(st.integers(8, len(raw))) :]
        case _:
            at = data.draw(st.sampled_from([0, 4, *range(8, len(raw))]))
            raw[at] ^= 1 << data.draw(st.integers(0, 7))


@contextmanager
def reading(side: Sender, said: frozenset[Capability]) -> Iterator[tuple[Codec, Reference]]:
    """Us and the reference on the same side, each of a connection of its own, with the same capabilities in force."""
    other = SIDES[side is Sender.EXPORTER]
    ours = said | {Capability.DEVICE_DISCONNECT_ACK} if side is Sender.IMPORTER else said
    peer, codec = Reference(side, said), Codec(side, Dialect.RELEASED, ours)
    hello = Codec(other, Dialect.RELEASED, said).hello(VERSION)
    try:
        assert peer.hear(hello)
        assert codec.read(memoryview(hello), 0)
        yield codec, peer
    finally:
        peer.close()


def takes(codec: Codec, raw: bytes) -> bool:
    """Whether these bytes are packets that are right, the last one perhaps unfinished."""
    at = 0
    try:
        while codec.read(memoryview(raw), at) is not None:
            at += codec.size
    except ProtocolError:
        return False
    return True


# -- filters ----------------------------------------------------------------------------------------------------------

interfaces = st.lists(
    st.builds(
        Interface,
        st.integers(0, 31),
        interface_class=st.sampled_from([3, 3, 8, 0xFF]) | usb.u8,
        interface_subclass=st.sampled_from([0, 0, 1]),
        interface_protocol=st.sampled_from([0, 0, 1]),
    ),
    max_size=5,
    unique_by=lambda one: one.number,
)
devices = st.builds(
    lambda vendor, product, release, device_class, interfaces: DeviceInfo(
        "1-1",
        DeviceDescriptor(vendor, product, device_class=device_class, release=release),
        (Configuration(1, tuple(interfaces)),),
    ),
    st.just(0x1209) | usb.u16,
    st.just(1) | usb.u16,
    st.just(0x100) | usb.u16,
    st.sampled_from([0, 0xEF, 3, 8]) | usb.u8,
    interfaces,
)


@pytest.mark.slow
@settings(max_examples=1000)
@given(rules.filter(bool), devices.filter(lambda info: info.classes), st.booleans(), st.booleans())
def test_filters_judge_alike(rules, info, default_allow, skip_hid):
    ours = filters.check(rules, info, default_allow=default_allow, skip_hid=skip_hid)
    assert ours is reference.check_filter(rules, info, default_allow=default_allow, skip_hid=skip_hid)


@pytest.mark.slow
@settings(max_examples=500)
@given(rules.filter(bool))
def test_filters_print_alike(rules):
    assert filters.text_of(rules) == reference.print_filter(rules)


odd_numbers = ("0", "1", "-1", "08", "0x08", "010", "255", "256", "0xffff", "65536", "-2", "x", "+3", "", " 3")
numbers = st.sampled_from(odd_numbers)
odd_rules = st.lists(st.lists(numbers, min_size=4, max_size=6).map(",".join), max_size=4).map("|".join)
texts = odd_rules | rules.map(filters.text_of) | st.text("0123456789abxX-+,| ", max_size=40)


@pytest.mark.slow
@settings(max_examples=1000)
@given(texts)
def test_filters_are_read_alike(text):
    try:
        ours = list(filters.parse(text))
    except ValueError:
        ours = None
    assert ours == reference.parse_filter(text)
