"""Hypothesis strategies for the vocabulary of USB, and the profile under which all property tests run.

Trees drawn here are well-formed: `parse(build(tree)) == tree`. The profile, which `conftest` brings in: the same
examples in every run, and no deadline and no health check that a busy machine would miss. `make check` takes fewer.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from usbferry.usb.descriptors import (
    Association,
    Bos,
    Capability,
    Companion,
    Configuration,
    ContainerId,
    DeviceDescriptor,
    Endpoint,
    Interface,
    PlatformCapability,
    Qualifier,
    RawCapability,
    SspIsoCompanion,
    SuperSpeedCapability,
    SuperSpeedPlus,
    UsbExtension,
)
from usbferry.usb.setup import Setup
from usbferry.usb.transfer import Completion, Flags, IsoPacket, Transfer
from usbferry.usb.types import Speed, Status

settings.register_profile("usbferry", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("usbferry"), max_examples=20)  # for --hypothesis-profile=quick
settings.load_profile("usbferry")

u8 = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFF_FFFF)

speeds = st.sampled_from(Speed)
statuses = st.sampled_from(Status)

endpoint_numbers = st.integers(1, 15)
endpoint_addresses = st.builds(lambda number, way: number | way, endpoint_numbers, st.sampled_from([0x00, 0x80]))

# --- setups and transfers -------------------------------------------------------------------------------------------

setups = st.builds(Setup, u8, u8, u16, u16, u16)


@st.composite
def iso_packets(draw: st.DrawFn) -> list[IsoPacket]:
    """Adjoining packets, not yet done."""
    packets, offset = [], 0
    for length in draw(st.lists(st.integers(0, 3072), min_size=1, max_size=8)):
        packets.append(IsoPacket(offset, length))
        offset += length
    return packets


@st.composite
def control_transfers(draw: st.DrawFn) -> Transfer:
    setup = draw(st.builds(Setup, u8, u8, u16, u16, st.integers(0, 64)))
    data = b"" if setup.is_in else draw(st.binary(min_size=setup.length, max_size=setup.length))
    return Transfer(0x80 if setup.is_in else 0x00, setup.length, data, setup.pack())


@st.composite
def data_transfers(draw: st.DrawFn) -> Transfer:
    """Bulk or interrupt."""
    endpoint = draw(endpoint_addresses)
    length = draw(st.integers(0, 2048))
    data = b"" if endpoint & 0x80 else draw(st.binary(min_size=length, max_size=length))
    flags = draw(st.sampled_from([Flags.NONE, Flags.SHORT_NOT_OK if endpoint & 0x80 else Flags.ZERO_PACKET]))
    return Transfer(endpoint, length, data, flags=flags)


@st.composite
def iso_transfers(draw: st.DrawFn) -> Transfer:
    endpoint = draw(endpoint_addresses)
    packets = draw(iso_packets())
    length = sum(packet.length for packet in packets)
    data = b"" if endpoint & 0x80 else bytes(length)
    return Transfer(endpoint, length, data, flags=Flags.ISO_ASAP, packets=packets, interval=1)


transfers: SearchStrategy[Transfer] = control_transfers() | data_transfers() | iso_transfers()


@st.composite
def completions(draw: st.DrawFn, transfer: Transfer) -> Completion:
    """An answer that `transfer` may get."""
    if transfer.packets is not None:
        return draw(_iso_completions(transfer, transfer.packets))
    status = draw(statuses)
    done = draw(st.integers(0, transfer.length))
    if transfer.is_in:
        return Completion(status, draw(st.binary(min_size=done, max_size=done)))
    return Completion(status, actual=done)


@st.composite
def _iso_completions(draw: st.DrawFn, transfer: Transfer, packets: list[IsoPacket]) -> Completion:
    done = [IsoPacket(p.offset, p.length, draw(st.integers(0, p.length)), draw(statuses)) for p in packets]
    actual = sum(packet.actual for packet in done)
    data = bytes(actual) if transfer.is_in else b""
    return Completion(Status.OK, data, actual, done, draw(st.integers(0, 0x7FF)))


# --- descriptors ----------------------------------------------------------------------------------------------------

devices = st.builds(DeviceDescriptor, u16, u16, u16, u8, u8, u8, u8, u16, u8, u8, u8, u8)
qualifiers = st.builds(Qualifier, u16, u8, u8, u8, u8, u8)

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=63)  # 126 units at most
language_ids = st.lists(u16, max_size=126).map(tuple)

# Interface, endpoint, association and companions mean something where they stand, so they are not among the raw ones.
_raw_types = u8.filter(lambda kind: kind not in (4, 5, 11, 48, 49))
raw_descriptors = st.builds(lambda kind, body: bytes([len(body) + 2, kind]) + body, _raw_types, st.binary(max_size=30))
extras = st.lists(raw_descriptors, max_size=3).map(tuple)
tails = st.just(b"") | st.binary(max_size=3)  # mostly none

companions = st.builds(Companion, u8, u8, u16, tails)
ssp_companions = st.builds(SspIsoCompanion, u32, tails)


@st.composite
def endpoints(draw: st.DrawFn) -> Endpoint:
    companion = draw(st.none() | companions)
    audio = draw(st.booleans())
    return Endpoint(
        draw(endpoint_addresses),
        draw(u8),
        draw(u16),
        draw(u8),
        companion,
        draw(st.none() | ssp_companions) if companion is not None else None,
        draw(u8) if audio else None,
        draw(u8) if audio else None,
        draw(extras),
        draw(tails if audio else st.binary(max_size=1)),  # with two bytes more it would be the audio form
    )


interfaces = st.builds(Interface, u8, u8, u8, u8, u8, st.lists(endpoints(), max_size=4).map(tuple), u8, extras, tails)


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    settings_ = tuple(draw(st.lists(interfaces, max_size=5)))
    places = sorted(draw(st.lists(st.integers(0, len(settings_) - 1), max_size=4))) if settings_ else []
    return Configuration(
        draw(u8),
        settings_,
        draw(u8),
        draw(u8),
        draw(u8),
        tuple(draw(associations(settings_, place)) for place in places),
        draw(extras),
        draw(tails),
    )


@st.composite
def associations(draw: st.DrawFn, settings_: tuple[Interface, ...], place: int) -> Association:
    """An association in front of descriptor `place`, which often is the first of its first interface."""
    first = draw(st.just(settings_[place].number) | u8)
    usual = next((index for index, setting in enumerate(settings_) if setting.number == first), None)
    before = None if usual == place else place
    return Association(first, draw(u8), draw(u8), draw(u8), draw(u8), draw(u8), draw(extras), before, draw(tails))


_uuids = st.binary(min_size=16, max_size=16)


@st.composite
def superspeed_plus(draw: st.DrawFn) -> SuperSpeedPlus:
    sublinks = tuple(draw(st.lists(u32, min_size=1, max_size=32)))
    return SuperSpeedPlus(draw(u32) & ~0x1F | len(sublinks) - 1, draw(u16), sublinks)


capabilities: SearchStrategy[Capability] = st.one_of(
    st.builds(UsbExtension, u32),
    st.builds(SuperSpeedCapability, u8, u16, u8, u8, u16),
    superspeed_plus(),
    st.builds(ContainerId, _uuids),
    st.builds(PlatformCapability, _uuids, st.binary(max_size=30)),
    st.builds(RawCapability, u8.filter(lambda kind: kind not in (2, 3, 4, 5, 10)), st.binary(max_size=30)),
)
stores = st.lists(capabilities, max_size=6).map(lambda drawn: Bos(tuple(drawn)))
