"""NCM blocks: the specification's layout byte for byte, a round trip, and blocks that lie."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbferry.devices import ncm

FRAMES = st.lists(st.binary(min_size=1, max_size=1514), min_size=1, max_size=8)


def test_a_block_is_laid_out_as_the_specification_says():
    assert ncm.pack([b"abc", b"defgh"], 7) == bytes.fromhex(
        "4e434d48 0c00 0700 2900 0c00"  # NCMH, 12 bytes, sequence 7, 41 bytes in all, the NDP at 12
        "4e434d30 1400 0000"  # NCM0, 20 bytes, no other follows
        "2000 0300 2400 0500 0000 0000"  # 3 bytes at 32, 5 at 36, the end
        "616263 00 6465666768"
    )


def test_the_parameters_are_28_bytes_that_begin_with_their_number():
    raw = ncm.parameters()
    assert (len(raw), raw[0], int.from_bytes(raw[4:8], "little")) == (28, 28, ncm.BLOCK_BYTES)


@given(FRAMES, st.integers(0, 1 << 20))
def test_what_is_packed_is_parsed_and_takes_no_more_than_it_said(frames, sequence):
    block = ncm.pack(frames, sequence)
    assert ncm.parse(block) == frames
    assert ncm.length(block) == len(block) <= sum(map(len, frames)) + ncm.overhead(frames)


def test_two_tables_and_crcs_are_read():
    block = bytearray(ncm.pack([b"first"], 0) + bytes(3))
    second = len(block)
    block[18:20] = second.to_bytes(2, "little")  # wNextNdpIndex of the first
    at = second + 16
    block += b"NCM1" + bytes.fromhex("1000 0000") + at.to_bytes(2, "little") + bytes.fromhex("0a00 0000 0000")
    block += b"secondCRC!"
    block[8:10] = len(block).to_bytes(2, "little")
    assert ncm.parse(block) == [b"first", b"second"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda block: block[:11], "a block of 11 bytes"),
        (lambda block: b"XXXX" + block[4:], "no NTH16"),
        (lambda block: block[:-1], "no NTH16"),
        (lambda block: block[:10] + b"\x0d\x00" + block[12:], "an NDP16 at 13"),
        (lambda block: block[:10] + b"\xfc\xff" + block[12:], "an NDP16 at 65532"),
        (lambda block: block[:12] + b"NCMX" + block[16:], "no NDP16"),
        (lambda block: block[:16] + b"\xff\xff" + block[18:], "no NDP16"),
        (lambda block: block[:18] + b"\x0c\x00" + block[20:], "a table at 12 is followed by one at 12"),
        (lambda block: block[:22] + b"\xff\xff" + block[24:], "a frame of 65535 bytes at"),
    ],
)
def test_a_block_that_lies_is_refused(change, text):
    with pytest.raises(ValueError, match=text):
        ncm.parse(change(ncm.pack([b"frame"], 1)))


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_within_them_or_refused(data):
    try:
        frames = ncm.parse(b"NCMH\x0c\x00" + data)
    except ValueError:
        return
    assert all(len(frame) <= len(data) + 6 for frame in frames)


def test_frames_that_overlap_make_no_more_than_there_was():
    pointers = b"\x0c\x00\xff\x0f" * 1000  # a thousand times 4095 bytes, out of 4108
    block = bytearray(
        b"NCMH\x0c\x00\x00\x00\x00\x00\x0c\x00NCM0" + (8 + len(pointers) + 4).to_bytes(2, "little") + b"\0\0"
    )
    block += pointers + bytes(4 + 200)
    with pytest.raises(ValueError, match="1000 frames that overlap"):
        ncm.parse(block)
