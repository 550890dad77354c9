"""Descriptors, bytes to tree: real devices, sloppy devices, and bytes that are no descriptors at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from usb_protocol.types.descriptors import standard as oracle

from tests import strategies as usb
from tests.usb import vectors
from usbferry.usb import build
from usbferry.usb import descriptors as d
from usbferry.usb.types import Speed, TransferType

PARSERS: list[Callable[[bytes], object]] = [
    d.parse_device,
    d.parse_configuration,
    d.parse_qualifier,
    d.parse_bos,
    d.parse_string,
    d.parse_languages,
    lambda raw: list(d.split(raw)),
]

CONFIGURATION = "09 02 {:02x} 00 01 01 00 80 32 "
INTERFACE = "09 04 00 00 00 ff 00 00 00 "
ENDPOINT = "07 05 81 02 40 00 00 "


def configuration(*parts: str) -> bytes:
    """A configuration of these hexadecimal parts, with the right wTotalLength."""
    rest = bytes.fromhex(" ".join(parts))
    return bytes.fromhex(CONFIGURATION.format(len(rest) + 9)) + rest


# --- real devices ---------------------------------------------------------------------------------------------------


def test_keyboard_device() -> None:
    device = d.parse_device(vectors.KEYBOARD_DEVICE)
    assert device == d.DeviceDescriptor(
        vendor_id=0x046D,
        product_id=0xC31C,
        usb=0x0110,
        max_packet0=8,
        release=0x6410,
        manufacturer=1,
        product=2,
        serial=0,
        configurations=1,
    )
    assert d.parse_device(vectors.KEYBOARD_DEVICE + b"more") == device


def test_keyboard_configuration() -> None:
    keys, media = d.parse_configuration(vectors.KEYBOARD).interfaces
    assert (keys.number, keys.interface_class, keys.interface_subclass, keys.interface_protocol) == (0, 3, 1, 1)
    assert keys.string == 2
    assert keys.extra == (bytes.fromhex("09 21 10 01 00 01 22 41 00"),)
    assert keys.endpoints == (d.Endpoint(0x81, 0x03, 8, 10),)
    assert media.endpoints[0].interval_us(Speed.LOW) == 255_000


def test_webcam_associations_stand_in_front_of_their_first_interfaces() -> None:
    camera = d.parse_configuration(vectors.WEBCAM)
    assert camera.associations == (d.Association(0, 2, 0x0E, 3, 0, 5), d.Association(2, 2, 0x01, 2, 0, 6))
    assert [(i.number, i.alternate) for i in camera.interfaces] == [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1)]
    assert camera.interfaces[0].endpoints[0].extra == (bytes.fromhex("05 25 03 10 00"),)
    stream = camera.interfaces[2].endpoints[0]
    assert (stream.packet_size, stream.transactions, stream.service_bytes) == (1024, 3, 3072)
    assert stream.interval_us(Speed.HIGH) == 125


def test_storage_companions() -> None:
    bulk_only, uas = d.parse_configuration(vectors.STORAGE).interfaces
    assert [e.companion for e in bulk_only.endpoints] == [d.Companion(15)] * 2
    assert [e.companion.streams for e in uas.endpoints if e.companion] == [32, 32, 32, 0]
    assert uas.endpoints[0].extra == (bytes.fromhex("04 24 03 00"),)
    assert bulk_only.endpoints[0].service_bytes == 16 * 1024


def test_storage_bos() -> None:
    assert d.parse_bos(vectors.STORAGE_BOS) == d.Bos(
        (
            d.UsbExtension(0x06),
            d.SuperSpeedCapability(0, 0x0E, 1, 10, 2047),
            d.ContainerId(bytes.fromhex("00112233445566778899aabbccddeeff")),
            d.SuperSpeedPlus(0x01, 0x1100, (0x000A4030, 0x000A40B0)),
        )
    )


def test_audio_endpoints_have_nine_bytes() -> None:
    sink, feedback = d.parse_configuration(vectors.AUDIO).interfaces[2].endpoints
    assert (sink.refresh, sink.synch_address) == (0, 0x82)
    assert sink.extra == (bytes.fromhex("07 25 01 00 00 00 00"),)
    assert (feedback.refresh, feedback.synch_address, feedback.type) == (4, 0, TransferType.ISOCHRONOUS)
    assert sink.interval_us(Speed.FULL) == 1000


@pytest.mark.parametrize("raw", vectors.CONFIGURATIONS.values(), ids=vectors.CONFIGURATIONS)
class TestConfigurationVectors:
    def test_round_trip(self, raw: bytes) -> None:
        assert build.configuration(d.parse_configuration(raw)) == raw

    def test_tail_and_views(self, raw: bytes) -> None:
        assert d.parse_configuration(memoryview(bytearray(raw + b"\0tail"))) == d.parse_configuration(raw)

    def test_every_prefix_is_refused(self, raw: bytes) -> None:
        for length in range(len(raw)):
            with pytest.raises(d.DescriptorError):
                d.parse_configuration(raw[:length])

    def test_every_prefix_that_claims_to_be_whole(self, raw: bytes) -> None:
        for length in range(9, len(raw)):
            cut = raw[:2] + length.to_bytes(2, "little") + raw[4:length]
            try:
                tree = d.parse_configuration(cut)
            except d.DescriptorError:
                continue
            assert len(build.configuration(tree)) == length

    def test_other_speed(self, raw: bytes) -> None:
        other = raw[:1] + b"\x07" + raw[2:]
        assert d.parse_configuration(other) == d.parse_configuration(raw)
        assert build.other_speed(d.parse_configuration(raw)) == other


# --- what cannot be walked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "CONFIGURATION descriptor needs 9 bytes"),
        (bytes.fromhex("08 02 09 00 01 01 00 80 32"), "CONFIGURATION descriptor needs 9 bytes"),
        (vectors.KEYBOARD_DEVICE, "type 1 where CONFIGURATION"),
        (bytes.fromhex("09 02 0a 00 01 01 00 80 32"), "wTotalLength is 10"),
        (bytes.fromhex("09 02 08 00 01 01 00 80 32"), "wTotalLength is 8"),
        (configuration(INTERFACE, "00"), "descriptor of 0 bytes at offset 18, where 1 are left"),
        (configuration(INTERFACE, "01 24"), "descriptor of 1 bytes at offset 18"),
        (configuration(INTERFACE, "03 24"), "descriptor of 3 bytes at offset 18, where 2 are left"),
        (configuration(ENDPOINT, INTERFACE), "endpoint 0x81 before any interface"),
    ],
)
def test_refused_configurations(raw: bytes, message: str) -> None:
    with pytest.raises(d.DescriptorError, match=message):
        d.parse_configuration(raw)


@given(st.sampled_from(PARSERS), st.binary(max_size=300))
def test_any_bytes_raise_nothing_else(parse: Callable[[bytes], object], raw: bytes) -> None:
    with suppress(d.DescriptorError):
        parse(raw)


@given(st.sampled_from(PARSERS), st.sampled_from([1, 2, 3, 6, 7, 15]), st.binary(min_size=2, max_size=300))
def test_any_bytes_behind_a_right_header_raise_nothing_else(
    parse: Callable[[bytes], object], kind: int, raw: bytes
) -> None:
    with suppress(d.DescriptorError):
        parse(bytes([raw[0], kind]) + len(raw).to_bytes(2, "little") + raw[2:])


def test_the_longest_configuration() -> None:
    """Nothing but descriptors of two bytes: as many steps as there can be, and no loop over a loop."""
    raw = bytes.fromhex("09 02 ff ff 01 01 00 80 32 09 04 00 00 00 ff 00 00 00") + b"\x02\x24" * 32757 + b"\x03\x24\0"
    assert len(raw) == 0xFFFF
    (interface,) = d.parse_configuration(raw).interfaces
    assert len(interface.extra) == 32758


# --- what devices get wrong -----------------------------------------------------------------------------------------

# Descriptors of all kinds in any order: some that make sense somewhere, some too short, some too long.
_kinds = st.sampled_from([4, 5, 11, 48, 49, 0x21, 0x25, 1, 2])
_odd = st.builds(lambda kind, body: bytes([len(body) + 2, kind]) + body, _kinds, st.binary(max_size=12))
_sound = st.sampled_from(
    [
        bytes.fromhex(text)
        for text in (
            INTERFACE,
            "09 04 01 01 00 ff 00 00 00",
            ENDPOINT,
            "09 05 02 01 40 00 01 02 83",
            "06 30 0f 05 00 00",
            "08 31 00 00 40 00 01 00",
            "08 0b 00 02 ff 00 00 00",
            "08 0b 01 01 ff 00 00 00",
        )
    ]
)


@settings(max_examples=300)
@given(st.lists(_odd | _sound, min_size=3, max_size=20).map(b"".join), st.booleans())
def test_what_is_understood_comes_out_as_it_came_in(body: bytes, has_interface: bool) -> None:
    body = bytes.fromhex(INTERFACE) + body if has_interface else body
    raw = bytes([9, 2]) + (9 + len(body)).to_bytes(2, "little") + bytes([0, 1, 0, 0x80, 50]) + body
    try:
        tree = d.parse_configuration(raw)
    except d.DescriptorError:
        return
    again = build.configuration(tree)
    assert d.parse_configuration(again) == tree
    assert _without_counts(again) == _without_counts(raw)


def _without_counts(raw: bytes) -> bytes:
    """Blank what is worked out anew: the counts, and the reserved field of 49."""
    data, offset = bytearray(raw), 0
    for descriptor in d.split(raw):
        if descriptor[1] in (2, 4) and len(descriptor) > 4:
            data[offset + 4] = 0
        if descriptor[1] == 49 and len(descriptor) >= 8:
            data[offset + 2 : offset + 4] = bytes(2)
        offset += len(descriptor)
    return bytes(data)


def test_wrong_counts_are_corrected() -> None:
    raw = bytearray(vectors.KEYBOARD)
    raw[4], raw[13] = 7, 3  # bNumInterfaces, bNumEndpoints of the first interface
    assert build.configuration(d.parse_configuration(raw)) == vectors.KEYBOARD


def test_gaps_duplicates_and_bandwidth_in_setting_0_are_kept() -> None:
    raw = configuration(
        "09 04 05 00 03 ff 00 00 00",
        "07 05 81 05 00 04 01",
        "07 05 81 05 00 04 01",
        "07 05 01 01 ff 03 01",
        "09 04 02 00 00 ff 00 00 00",
        "09 04 02 00 00 ff 00 00 00",
    )
    tree = d.parse_configuration(raw)
    assert [(i.number, i.alternate) for i in tree.interfaces] == [(5, 0), (2, 0), (2, 0)]
    assert [e.address for e in tree.interfaces[0].endpoints] == [0x81, 0x81, 0x01]
    assert build.configuration(tree)[9:] == raw[9:]


@pytest.mark.parametrize("bad", ["07 05 00 03 08 00 0a", "07 05 91 03 08 00 0a", "06 05 81 03 08 00", "02 05"])
def test_an_invalid_endpoint_is_kept_raw(bad: str) -> None:
    raw = configuration("09 04 00 00 01 ff 00 00 00", bad, ENDPOINT, bad)
    (interface,) = d.parse_configuration(raw).interfaces
    assert interface.extra == (bytes.fromhex(bad),)
    assert interface.endpoints == (d.Endpoint(0x81, 2, 64, extra=(bytes.fromhex(bad),)),)
    assert build.configuration(d.parse_configuration(raw)) == raw


def test_endpoints_of_a_short_interface_are_not_given_to_the_one_before() -> None:
    raw = configuration("09 04 00 00 01 ff 00 00 00", ENDPOINT, "08 04 01 00 01 ff 00 00", ENDPOINT)
    (interface,) = d.parse_configuration(raw).interfaces
    (endpoint,) = interface.endpoints
    assert len(endpoint.extra) == 2
    assert build.configuration(d.parse_configuration(raw)) == raw


def test_bytes_beyond_the_specified_length_are_kept() -> None:
    raw = bytes.fromhex(
        "0a 02 4b 00 01 01 00 80 32 aa"
        "09 0b 00 01 ff 00 00 00 bb"
        "0b 04 00 00 03 ff 00 00 00 cc cc"
        "08 05 81 02 00 04 00 dd"
        "07 30 0f 05 00 00 ee"
        "0a 05 82 01 00 04 01 00 00 ff"
        "06 30 0f 80 01 00 09 31 00 00 00 80 01 00 99"
        "05 24 01 02 03"
    )
    tree = d.parse_configuration(raw)
    bulk, iso = tree.interfaces[0].endpoints
    assert (tree.tail, tree.associations[0].tail, tree.interfaces[0].tail) == (b"\xaa", b"\xbb", b"\xcc\xcc")
    assert (bulk.tail, bulk.refresh, bulk.companion) == (b"\xdd", None, d.Companion(15, 5, 0, b"\xee"))
    assert (iso.tail, iso.refresh, iso.ssp_companion) == (b"\xff", 0, d.SspIsoCompanion(0x18000, b"\x99"))


def test_a_companion_out_of_place_is_raw() -> None:
    companion = bytes.fromhex("06 30 00 00 00 00")
    raw = configuration("09 04 00 00 01 ff 00 00 00", companion.hex(), ENDPOINT, "02 25", companion.hex())
    (interface,) = d.parse_configuration(raw).interfaces
    assert interface.extra == (companion,)
    assert interface.endpoints[0].companion is None
    assert interface.endpoints[0].extra == (b"\x02\x25", companion)


# --- associations ---------------------------------------------------------------------------------------------------


def test_associations_gathered_at_the_front_keep_their_place() -> None:
    raw = configuration(
        "03 09 03",  # OTG
        "08 0b 00 01 03 00 00 00",
        "08 0b 01 01 08 00 00 00",
        "02 41",
        "09 04 00 00 00 03 00 00 00",
        "09 04 01 00 00 08 00 00 00",
    )
    raw = raw[:4] + b"\x02" + raw[5:]
    tree = d.parse_configuration(raw)
    assert tree.extra == (b"\x03\x09\x03",)
    first, second = tree.associations
    assert (first.before, second.before, second.extra) == (None, 0, (b"\x02\x41",))
    assert build.configuration(tree) == raw


def test_an_association_behind_its_interface_or_for_none_is_still_one() -> None:
    raw = configuration(INTERFACE, "08 0b 00 01 03 00 00 00", "08 0b 09 01 03 00 00 00", "09 04 01 00 00 08 00 00 00")
    raw = raw[:4] + b"\x02" + raw[5:]
    tree = d.parse_configuration(raw)
    assert [(a.first, a.before) for a in tree.associations] == [(0, 1), (9, 1)]
    assert build.configuration(tree) == raw


@pytest.mark.parametrize(
    "place", [(INTERFACE, "{}", ENDPOINT), (INTERFACE, ENDPOINT, "{}", ENDPOINT), (INTERFACE, "{}")]
)
def test_an_association_in_front_of_no_interface_is_raw(place: tuple[str, ...]) -> None:
    association = "08 0b 00 01 03 00 00 00"
    raw = configuration(*(part.format(association) for part in place))
    tree = d.parse_configuration(raw)
    assert tree.associations == ()
    assert build.configuration(tree)[18:] == raw[18:]


# --- endpoints ------------------------------------------------------------------------------------------------------


@given(usb.endpoints(), usb.speeds)
def test_properties_hold_for_any_endpoint(endpoint: d.Endpoint, speed: Speed) -> None:
    assert endpoint.number | (0x80 if endpoint.is_in else 0) == endpoint.address
    assert endpoint.type == endpoint.attributes & 3
    assert endpoint.is_periodic == (endpoint.type in (TransferType.ISOCHRONOUS, TransferType.INTERRUPT))
    assert 0 <= endpoint.packet_size <= 2047
    assert 1 <= endpoint.transactions <= 3
    assert 0 <= endpoint.service_bytes <= 312_500
    interval = endpoint.interval_us(speed)
    assert 125 <= interval <= 1000 << 15 if endpoint.is_periodic else interval == 0


ISO, BULK, INT = TransferType.ISOCHRONOUS, TransferType.BULK, TransferType.INTERRUPT


@pytest.mark.parametrize(
    ("kind", "speed", "interval", "expected"),
    [
        (INT, Speed.LOW, 10, 10_000),
        (INT, Speed.FULL, 1, 1_000),
        (INT, Speed.FULL, 255, 255_000),
        (INT, Speed.UNKNOWN, 8, 8_000),
        (INT, Speed.FULL, 0, 10_000),  # nonsense: 10 ms
        (INT, Speed.HIGH, 1, 125),
        (INT, Speed.HIGH, 4, 1_000),
        (INT, Speed.SUPER, 16, 4_096_000),
        (INT, Speed.HIGH, 0, 8_000),  # nonsense: 8 ms
        (INT, Speed.HIGH, 32, 32_000),  # meant in milliseconds
        (INT, Speed.SUPER_PLUS, 255, 128_000),
        (ISO, Speed.FULL, 1, 1_000),
        (ISO, Speed.FULL, 16, 32_768_000),
        (ISO, Speed.FULL, 0, 8_000),
        (ISO, Speed.HIGH, 1, 125),
        (ISO, Speed.SUPER, 4, 1_000),
        (ISO, Speed.HIGH, 200, 8_000),
        (BULK, Speed.HIGH, 1, 0),
        (TransferType.CONTROL, Speed.FULL, 10, 0),
    ],
)
def test_service_interval(kind: TransferType, speed: Speed, interval: int, expected: int) -> None:
    assert d.Endpoint(0x81, kind, 8, interval).interval_us(speed) == expected


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        (d.Endpoint(0x81, INT, 0x0040), 64),
        (d.Endpoint(0x81, ISO, 0x0BFC), 2 * 1020),  # high bandwidth
        (d.Endpoint(0x81, INT, 0x1C00), 3 * 1024),  # reserved: four transactions
        (d.Endpoint(0x81, BULK, 0x1A00), 512),  # bits 12..11 mean nothing for bulk
        (d.Endpoint(0x81, BULK, 1024, companion=d.Companion(3)), 4 * 1024),
        (d.Endpoint(0x81, ISO, 1024, companion=d.Companion(15, 2, 45_000)), 45_000),
        (d.Endpoint(0x81, ISO, 1024, companion=d.Companion(0, 1, 45_000)), 2 * 1024),  # more than its packets hold
        (d.Endpoint(0x81, ISO, 1024, companion=d.Companion(0, 3, 45_000)), 3 * 1024),  # Mult 3 is reserved
        (d.Endpoint(0x81, ISO, 1024, companion=d.Companion(15, 0, 0)), 0),  # no bandwidth
        (d.Endpoint(0x81, ISO, 1024, 1, d.Companion(15, 0x80, 1), d.SspIsoCompanion(98_304)), 98_304),
        (d.Endpoint(0x81, ISO, 1024, 1, d.Companion(15, 0x80, 1), d.SspIsoCompanion(0xFFFF_FFFF)), 312_500),
        (d.Endpoint(0x81, INT, 1024, companion=d.Companion(2, 0, 2500)), 2500),
        (d.Endpoint(0x81, INT, 64, companion=d.Companion(0, 0, 2500)), 64),
        (d.Endpoint(0x81, INT, 64, companion=d.Companion(0, 0, 0)), 64),  # it must carry something
        (d.Endpoint(0x81, INT, 1024, companion=d.Companion(255, 0, 60_000)), 16 * 1024),
    ],
)
def test_service_bytes(endpoint: d.Endpoint, expected: int) -> None:
    assert endpoint.service_bytes == expected


@pytest.mark.parametrize(("attributes", "streams"), [(0, 0), (1, 2), (5, 32), (16, 65536), (31, 65536), (0x20, 0)])
def test_streams(attributes: int, streams: int) -> None:
    assert d.Companion(0, attributes).streams == streams


# --- device, qualifier, BOS, strings --------------------------------------------------------------------------------


def test_a_qualifier_may_lack_its_reserved_byte() -> None:
    expected = d.Qualifier(0x0200, 0xEF, 2, 1, 64, 1)
    assert d.parse_qualifier(bytes.fromhex("0a 06 00 02 ef 02 01 40 01 00")) == expected
    assert d.parse_qualifier(bytes.fromhex("09 06 00 02 ef 02 01 40 01")) == expected


@pytest.mark.parametrize("length", range(18))
def test_a_short_device_descriptor_is_refused(length: int) -> None:
    with pytest.raises(d.DescriptorError):
        d.parse_device(vectors.KEYBOARD_DEVICE[:length])


def test_bos_tolerates_what_it_does_not_know() -> None:
    raw = bytes.fromhex(
        "05 0f 21 00 09"  # counts nine
        "07 10 02 06 00 00 00"
        "03 10 ff"  # unknown and empty
        "06 10 02 06 00 00"  # an extension that is too short
        "02 24"  # no capability
        "02 10"  # not even a type
        "08 10 0a 00 00 00 00 00"  # SuperSpeedPlus without sublinks
        "ff ff"  # beyond wTotalLength
    )
    assert d.parse_bos(raw) == d.Bos(
        (
            d.UsbExtension(6),
            d.RawCapability(0xFF),
            d.RawCapability(2, bytes.fromhex("06 00 00")),
            d.RawCapability(10, bytes(5)),
        )
    )


def test_every_prefix_of_a_bos_is_refused() -> None:
    for length in range(len(vectors.STORAGE_BOS)):
        with pytest.raises(d.DescriptorError):
            d.parse_bos(vectors.STORAGE_BOS[:length])


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\x02\x03", ""),
        (b"\x06\x03A\0b\0", "Ab"),
        (b"\x06\x03A\0b\0c\0", "Ab"),  # bLength counts
        (b"\xff\x03A\0b\0", "Ab"),  # as far as there are bytes
        (b"\x05\x03A\0b", "A"),  # half a character
        (b"\x03\x03A", ""),
        (b"\x0a\x03A\0\0\0b\0c\0", "A"),  # ends at NUL
        (b"\x06\x03\x3d\xd8\x00\xde", "\N{GRINNING FACE}"),
        (b"\x06\x03\x3d\xd8A\0", "\N{REPLACEMENT CHARACTER}A"),  # a lone surrogate
        (b"\x06\x03\x00\xdeA\0", "\N{REPLACEMENT CHARACTER}A"),
        (b"\x04\x03\x3d\xd8", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_strings(raw: bytes, text: str) -> None:
    assert d.parse_string(raw) == text


@pytest.mark.parametrize("raw", [b"", b"\x02", b"\x00\x03A\0", b"\x01\x03", b"\x04\x02A\0"])
def test_refused_strings(raw: bytes) -> None:
    with pytest.raises(d.DescriptorError, match="no string descriptor"):
        d.parse_string(raw)


def test_languages() -> None:
    assert d.parse_languages(bytes.fromhex("06 03 09 04 07 04")) == (0x0409, 0x0407)
    assert d.parse_languages(bytes.fromhex("02 03")) == ()


def test_split() -> None:
    assert list(d.split(b"")) == []
    assert [len(raw) for raw in d.split(vectors.KEYBOARD)] == [9, 9, 9, 7, 9, 9, 7]


# --- a second opinion -----------------------------------------------------------------------------------------------


@given(usb.endpoints())
def test_endpoint_agrees_with_usb_protocol(endpoint: d.Endpoint) -> None:
    raw = next(iter(d.split(build.endpoint(endpoint))))
    if endpoint.tail:
        return
    parsed = oracle.EndpointDescriptor.parse(raw)
    assert (parsed.bEndpointAddress, parsed.bmAttributes) == (endpoint.address, endpoint.attributes)
    assert (parsed.wMaxPacketSize, parsed.bInterval) == (endpoint.max_packet, endpoint.interval)
    assert (parsed.bRefresh, parsed.bSynchAddress) == (endpoint.refresh, endpoint.synch_address)


@pytest.mark.parametrize("raw", vectors.CONFIGURATIONS.values(), ids=vectors.CONFIGURATIONS)
def test_configurations_agree_with_usb_protocol(raw: bytes) -> None:
    tree = d.parse_configuration(raw)
    first, *others = d.split(raw)
    parsed = oracle.ConfigurationDescriptor.parse(first)
    assert (parsed.bConfigurationValue, parsed.iConfiguration) == (tree.value, tree.string)
    assert (parsed.bmAttributes, parsed.bMaxPower) == (tree.attributes, tree.max_power)
    settings = [oracle.InterfaceDescriptor.parse(other) for other in others if other[1] == 4]
    assert [
        (s.bInterfaceNumber, s.bAlternateSetting, s.bNumEndpoints, s.bInterfaceClass, s.bInterfaceSubclass)
        for s in settings
    ] == [(i.number, i.alternate, len(i.endpoints), i.interface_class, i.interface_subclass) for i in tree.interfaces]
    functions = [oracle.InterfaceAssociationDescriptor.parse(other) for other in others if other[1] == 11]
    assert [(f.bFirstInterface, f.bInterfaceCount, f.bFunctionClass) for f in functions] == [
        (a.first, a.count, a.function_class) for a in tree.associations
    ]
