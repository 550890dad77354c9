"""usbredir's tables: sizes with each capability, both status tables total, the two dialects."""

import pytest

from usbferry.protocols.usbredir import messages as m
from usbferry.protocols.usbredir.messages import Capability, Dialect, Type, size_of
from usbferry.usb.types import Speed, Status

SIZES = {
    Type.HELLO: 64, Type.DEVICE_CONNECT: 8, Type.DEVICE_DISCONNECT: 0, Type.RESET: 0, Type.INTERFACE_INFO: 132,
    Type.EP_INFO: 96, Type.SET_CONFIGURATION: 1, Type.GET_CONFIGURATION: 0, Type.CONFIGURATION_STATUS: 2,
    Type.SET_ALT_SETTING: 2, Type.GET_ALT_SETTING: 1, Type.ALT_SETTING_STATUS: 3, Type.START_ISO_STREAM: 3,
    Type.STOP_ISO_STREAM: 1, Type.ISO_STREAM_STATUS: 2, Type.START_INTERRUPT_RECEIVING: 1,
    Type.STOP_INTERRUPT_RECEIVING: 1, Type.INTERRUPT_RECEIVING_STATUS: 2, Type.ALLOC_BULK_STREAMS: 8,
    Type.FREE_BULK_STREAMS: 4, Type.BULK_STREAMS_STATUS: 9, Type.CANCEL_DATA_PACKET: 0, Type.FILTER_REJECT: 0,
    Type.FILTER_FILTER: 0, Type.DEVICE_DISCONNECT_ACK: 0, Type.START_BULK_RECEIVING: 10, Type.STOP_BULK_RECEIVING: 5,
    Type.BULK_RECEIVING_STATUS: 6, Type.CONTROL_PACKET: 10, Type.BULK_PACKET: 8, Type.ISO_PACKET: 4,
    Type.INTERRUPT_PACKET: 4, Type.BUFFERED_BULK_PACKET: 10,
}  # fmt: skip
GROWTH = {
    (Type.DEVICE_CONNECT, Capability.CONNECT_DEVICE_VERSION): 2,
    (Type.EP_INFO, Capability.EP_INFO_MAX_PACKET_SIZE): 64,
    (Type.EP_INFO, Capability.BULK_STREAMS): 128,
    (Type.BULK_PACKET, Capability.BULK_LENGTH_32_BITS): 2,
}


def test_every_type_has_a_row():
    assert set(m.RELEASED) == set(SIZES) == set(range(28)) | set(range(100, 105))


@pytest.mark.parametrize("kind", SIZES, ids=lambda kind: kind.name)
def test_sizes_with_each_capability(kind):
    layout = m.RELEASED[kind].layout
    assert size_of(layout, frozenset()) == SIZES[kind]
    for capability in Capability:
        assert size_of(layout, frozenset((capability,))) == SIZES[kind] + GROWTH.get((kind, capability), 0)


def test_the_header_with_and_without_long_ids():
    assert size_of(m.Header, frozenset()) == 12
    assert size_of(m.Header, m.ALL_CAPABILITIES) == 16


def test_the_draft_has_no_connect_no_infos_and_no_interrupts():
    """usbredir 0.2: what it lacks, what differs, and one number that is ours."""
    gone = {1, 2, 4, 5, 15, 16, 17, 22, 23, 24, 25, 26, 27, 103, 104}
    assert set(m.DRAFT) == set(m.RELEASED) - gone | {Type.RESET_STATUS}
    differ = {kind for kind in m.DRAFT if m.RELEASED.get(kind) != m.DRAFT[kind]}
    assert differ == {Type.ALLOC_BULK_STREAMS, Type.FREE_BULK_STREAMS, Type.BULK_STREAMS_STATUS, Type.RESET_STATUS}
    assert [m.DRAFT[kind].layout.SIZE for kind in (18, 19, 20, 28)] == [2, 1, 3, 1]
    assert Dialect.DRAFT.capabilities == {Capability.BULK_STREAMS}


def test_streams_without_packet_sizes_count_as_no_streams():
    said = frozenset((Capability.BULK_STREAMS, Capability.FILTER))
    assert m.sensible(said, Dialect.RELEASED) == {Capability.FILTER}
    assert m.sensible(said, Dialect.DRAFT) == said


def test_capability_words():
    assert m.words_of(m.ALL_CAPABILITIES) == b"\xff\0\0\0"
    assert m.capabilities_of(b"\xff\xff\xff\xff" + 4000 * b"\xff") == m.ALL_CAPABILITIES
    assert m.capabilities_of(b"") == m.capabilities_of(b"\xff\xff") == frozenset()
    for capability in Capability:
        assert m.capabilities_of(m.words_of(frozenset((capability,)))) == {capability}


@pytest.mark.parametrize(("address", "place"), [(0x00, 0), (0x0F, 15), (0x80, 16), (0x81, 17), (0x8F, 31)])
def test_slots(address, place):
    assert m.slot(address) == place
    assert m.address_of(place) == address


def test_statuses_are_total_both_ways():
    assert set(m.STATUS) == set(Status)
    assert {m.status_of(number) for number in range(256)} >= {m.status_of(number) for number in m.WireStatus}
    assert {m.status_of(number) for number in range(7, 256)} == {Status.FAILED}
    assert m.wire_status(99) == m.WireStatus.IOERROR


@pytest.mark.parametrize("number", m.WireStatus, ids=lambda number: number.name)
def test_a_status_crosses_and_comes_back(number):
    assert m.wire_status(m.status_of(number)) == number


def test_a_cancel_nobody_asked_for_is_an_endpoint_taken_away():
    assert m.status_of(m.WireStatus.CANCELLED, cancelled=False) is Status.SHUTDOWN
    assert m.wire_status(Status.SHUTDOWN) == m.WireStatus.CANCELLED


def test_speeds():
    assert [m.wire_speed(speed) for speed in Speed] == [255, 0, 1, 2, 2, 3, 3]
    assert [m.speed_of(number) for number in (0, 1, 2, 3, 255, 7)] == [
        Speed.LOW, Speed.FULL, Speed.HIGH, Speed.SUPER, Speed.UNKNOWN, Speed.UNKNOWN,
    ]  # fmt: skip
