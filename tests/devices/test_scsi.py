"""The SCSI commands of a disk: what they ask for, what they say, and how they fail."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbferry.devices.storage import pages, sense
from usbferry.devices.storage.pages import Identity
from usbferry.devices.storage.scsi import Change, Compare, Parameters, Read, Reply, Unit, Write
from usbferry.devices.storage.sense import Check, Key

BLOCKS = 2048
TIB = 1 << 40


def make(**shape):
    return Unit(Identity(**{"blocks": BLOCKS, "serial": "0123456789AB", **shape}))


@pytest.fixture
def unit():
    return make()


def run(unit, *cdb, lun=0):
    return unit.execute(bytes(cdb).ljust(16, b"\0"), lun)


def ask(unit, *cdb):
    plan = run(unit, *cdb)
    assert isinstance(plan, Reply)
    return plan.data


def fails(unit, *cdb):
    """(sense key, code, qualifier) of a command that must fail."""
    with pytest.raises(Check) as caught:
        run(unit, *cdb)
    found = caught.value.sense
    return found.key, found.code, found.qualifier


def cdb(code, block, count, flags=0):
    """A command block in the form that its operation code calls for."""
    group = code >> 5
    if group == 0:
        return struct.pack(">IBx", code << 24 | block, count)
    if group in (1, 2):
        return struct.pack(">BBIxHx", code, flags, block, count)
    return struct.pack(">BBQIxx" if group == 4 else ">BBIIxx", code, flags, block, count)


READS, WRITES = (0x08, 0x28, 0xA8, 0x88), (0x0A, 0x2A, 0xAA, 0x8A)
RANGE = (Key.ILLEGAL_REQUEST, 0x21, 0x00)
FIELD = (Key.ILLEGAL_REQUEST, 0x24, 0x00)
OPCODE = (Key.ILLEGAL_REQUEST, 0x20, 0x00)
LIST = (Key.ILLEGAL_REQUEST, 0x26, 0x00)
LENGTH = (Key.ILLEGAL_REQUEST, 0x1A, 0x00)
PROTECTED = (Key.DATA_PROTECT, 0x27, 0x00)
NO_MEDIUM = (Key.NOT_READY, 0x3A, 0x00)


# -- reading and writing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", READS)
def test_read(unit, code):
    assert run(unit, *cdb(code, 5, 3)) == Read(5 * 512, 3 * 512)


@pytest.mark.parametrize("code", WRITES)
def test_write(unit, code):
    assert run(unit, *cdb(code, 5, 3)) == Write(5 * 512, 3 * 512)


def test_a_count_of_0_is_256_blocks_in_the_6_byte_form_and_none_in_others(unit):
    assert run(unit, *cdb(0x08, 5, 0)) == Read(5 * 512, 256 * 512)
    assert run(unit, *cdb(0x28, 5, 0)) == Read(5 * 512, 0)


def test_the_6_byte_form_has_21_bits_of_address():
    unit = make(blocks=1 << 22)
    assert run(unit, 0x08, 0xFF, 0xFF, 0xFF, 1) == Read(0x1FFFFF * 512, 512)


def test_past_2_tib():
    unit = make(blocks=3 * TIB // 512)
    assert run(unit, *cdb(0x88, 1 << 32, 8)) == Read(2 * TIB, 4096)
    assert run(unit, *cdb(0x8A, 3 * TIB // 512 - 1, 1)) == Write(3 * TIB - 512, 512)


def test_blocks_of_4096_bytes():
    assert run(make(block=4096), *cdb(0x28, 7, 2)) == Read(7 * 4096, 8192)


@pytest.mark.parametrize("code", [*READS, *WRITES, 0x2F, 0x8F, 0x35, 0x91, 0x41, 0x93])
@pytest.mark.parametrize(("block", "count"), [(BLOCKS, 1), (BLOCKS - 1, 2)])
def test_out_of_range(unit, code, block, count):
    assert fails(unit, *cdb(code, block, count)) == RANGE


def test_the_block_out_of_range_is_told():
    with pytest.raises(Check) as caught:
        run(make(), *cdb(0x28, BLOCKS - 1, 8))
    assert caught.value.sense.information == BLOCKS


def test_the_end_itself_is_no_error_without_blocks(unit):
    assert run(unit, *cdb(0x28, BLOCKS, 0)) == Read(BLOCKS * 512, 0)


@pytest.mark.parametrize("code", [0x28, 0x2A, 0x88, 0x8A, 0x2F])
def test_there_is_no_protection_information(unit, code):
    assert fails(unit, *cdb(code, 0, 1, 0x20)) == FIELD


def test_forced_unit_access(unit):
    assert run(unit, *cdb(0x2A, 0, 1, 0x08)) == Write(0, 512, sync=True)
    assert run(unit, *cdb(0x28, 0, 1, 0x18)) == Read(0, 512)


@pytest.mark.parametrize("code", [*WRITES, 0x41, 0x93])
def test_a_read_only_disk_refuses_writes(code):
    assert fails(make(readonly=True), *cdb(code, 0, 1)) == PROTECTED


def test_a_read_only_disk_refuses_unmap():
    assert fails(make(readonly=True), 0x42, 0, 0, 0, 0, 0, 0, 0, 24) == PROTECTED


def test_a_read_only_disk_reads_verifies_and_synchronizes():
    unit = make(readonly=True)
    assert run(unit, *cdb(0x28, 0, 1)) == Read(0, 512)
    assert run(unit, *cdb(0x2F, 0, 1)) == Change()
    assert run(unit, *cdb(0x35, 0, 0)) == Change(sync=True)


@pytest.mark.parametrize("code", [0x2F, 0x8F])
def test_verify(unit, code):
    assert run(unit, *cdb(code, 1, 2)) == Change()
    assert run(unit, *cdb(code, 1, 2, 0x02)) == Compare(512, 1024)
    assert fails(unit, *cdb(code, 1, 2, 0x06)) == FIELD


@pytest.mark.parametrize("code", [0x35, 0x91])
def test_synchronize_cache(unit, code):
    assert run(unit, *cdb(code, 0, 0)) == Change(sync=True)
    assert run(unit, *cdb(code, 5, 6, 0x02)) == Change(sync=True)


# -- write same, unmap ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0x41, 0x93])
@pytest.mark.parametrize("flags", [0x00, 0x08])
def test_write_same(unit, code, flags):
    plan = run(unit, *cdb(code, 2, 4, flags))
    assert isinstance(plan, Parameters)
    assert plan.length == 512
    assert plan.then(bytes(512)) == Change([(1024, 2048)])
    assert plan.then(b"\1" * 512) == Change([(1024, 2048)], b"\1" * 512)


def test_write_same_without_data(unit):
    assert run(unit, *cdb(0x93, 2, 4, 0x01)) == Change([(1024, 2048)])


@pytest.mark.parametrize("flags", [0x02, 0x04, 0x10])
def test_write_same_in_its_obsolete_forms(unit, flags):
    assert fails(unit, *cdb(0x41, 0, 1, flags)) == FIELD


def test_write_same_10_has_no_form_without_data(unit):
    assert fails(unit, *cdb(0x41, 0, 1, 0x01)) == FIELD


def test_write_same_of_no_blocks_does_not_mean_all(unit):
    """WSNZ in the block limits page."""
    assert fails(unit, *cdb(0x41, 0, 0)) == FIELD


def test_write_same_is_bounded_as_the_block_limits_page_says():
    unit = make(blocks=TIB // 512)
    most = struct.unpack(">Q", ask(unit, 0x12, 1, 0xB0, 0, 64)[36:44])[0]
    assert isinstance(run(unit, *cdb(0x93, 0, most)), Parameters)
    assert fails(unit, *cdb(0x93, 0, most + 1)) == FIELD


def unmap(unit, *ranges):
    raw = b"".join(struct.pack(">QI4x", *r) for r in ranges)
    plan = run(unit, 0x42, 0, 0, 0, 0, 0, 0, *struct.pack(">H", 8 + len(raw)))
    assert isinstance(plan, Parameters)
    return plan.then(struct.pack(">HH4x", 6 + len(raw), len(raw)) + raw)


def test_unmap(unit):
    assert unmap(unit, (0, 8), (100, 1)) == Change([(0, 4096), (51200, 512)])
    assert unmap(unit) == Change([])


def test_unmap_without_a_list(unit):
    assert run(unit, 0x42) == Change()


def test_unmap_that_is_wrong(unit):
    for ranges in ([(0, 1), (BLOCKS, 1)], [(BLOCKS - 1, 2)]):
        with pytest.raises(Check) as caught:
            unmap(unit, *ranges)
        assert caught.value.sense.code == 0x21
    plan = run(unit, 0x42, 0, 0, 0, 0, 0, 0, 0, 7)
    with pytest.raises(Check) as caught:
        plan.then(bytes(7))
    assert caught.value.sense == sense.LIST_LENGTH
    assert fails(unit, 0x42, 0x01, 0, 0, 0, 0, 0, 0, 24) == FIELD  # ANCHOR


def test_unmap_is_bounded_as_the_block_limits_page_says():
    unit = make(blocks=TIB // 512)
    most, descriptors = struct.unpack(">II", ask(unit, 0x12, 1, 0xB0, 0, 64)[20:28])
    assert unmap(unit, (0, most)).ranges == [(0, most * 512)]
    assert len(unmap(unit, *[(i, 1) for i in range(descriptors)]).ranges) == descriptors
    for ranges in ([(0, most + 1)], [(0, most), (most, 1)], [(i, 1) for i in range(descriptors + 1)]):
        with pytest.raises(Check) as caught:
            unmap(unit, *ranges)
        assert caught.value.sense == sense.INVALID_LIST


# -- what it is -----------------------------------------------------------------------------------------------------


def test_inquiry(unit):
    data = ask(unit, 0x12, 0, 0, 0, 255)
    assert data[:8].hex() == "000006021f000000"
    assert data[8:] == b"usbferryVirtual disk    0001"
    assert ask(unit, 0x12, 0, 0, 0, 5) == data[:5]
    assert ask(make(removable=True), 0x12, 0, 0, 0, 36)[1] == 0x80


def test_vital_product_data(unit):
    listed = ask(unit, 0x12, 1, 0x00, 0, 255)
    assert listed.hex() == "00000006" + "008083b0b1b2"
    for page in listed[4:]:
        data = ask(unit, 0x12, 1, page, 1, 0)
        assert data[1] == page
        assert int.from_bytes(data[2:4], "big") == len(data) - 4
    assert ask(unit, 0x12, 1, 0x80, 0, 255)[4:] == b"0123456789AB"
    assert len(ask(unit, 0x12, 1, 0xB0, 0, 255)) == 64
    assert ask(unit, 0x12, 1, 0xB1, 0, 255)[:6].hex() == "00b1003c0001"  # does not rotate
    assert ask(unit, 0x12, 1, 0xB2, 0, 255).hex() == "00b2000400e40200"  # unmaps in every way, thin


def test_the_identification_page_names_it_and_gives_a_number(unit):
    data = ask(unit, 0x12, 1, 0x83, 0, 255)
    at, found = 4, {}
    while at < len(data):
        found[data[at + 1] & 0x0F] = data[at + 4 : at + 4 + data[at + 3]]
        at += 4 + data[at + 3]
    assert found[1].startswith(b"usbferryVirtual disk")
    assert found[1].endswith(b"0123456789AB")
    assert (found[3][0] >> 4, len(found[3])) == (3, 8)
    other = ask(make(serial="0123456789AC"), 0x12, 1, 0x83, 0, 255)
    assert other[-8:] != data[-8:]


@pytest.mark.parametrize("command", [(0x12, 1, 0x81, 0, 255), (0x12, 0, 0x80, 0, 255), (0x12, 2, 0, 0, 36)])
def test_inquiry_that_is_wrong(unit, command):
    assert fails(unit, *command) == FIELD


@pytest.mark.parametrize(
    ("size", "block", "last"),
    [
        (1 << 30, 512, (1 << 21) - 1),
        (2 * TIB, 512, 0xFFFFFFFF),  # one block more than READ CAPACITY(10) can say for certain
        (2 * TIB - 512, 512, 0xFFFFFFFE),
        (5 * TIB, 512, 0xFFFFFFFF),
        (5 * TIB, 4096, 5 * TIB // 4096 - 1),
    ],
)
def test_read_capacity(size, block, last):
    unit = make(blocks=size // block, block=block)
    assert struct.unpack(">II", ask(unit, 0x25)) == (last, block)
    long = ask(unit, 0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32)
    assert len(long) == 32
    assert struct.unpack(">QI", long[:12]) == (size // block - 1, block)
    assert block << long[13] == 4096  # physical blocks
    assert long[14] == 0xC0  # LBPME, LBPRZ


def test_read_capacity_of_an_address(unit):
    assert fails(unit, 0x25, 0, 0, 0, 0, 1) == FIELD
    assert len(ask(unit, 0x25, 0, 0, 0, 0, 1, 0, 0, 1)) == 8  # PMI
    assert fails(unit, 0x9E, 0x12) == FIELD


def test_read_format_capacities():
    unit = make(removable=True)
    assert ask(unit, 0x23, 0, 0, 0, 0, 0, 0, 0, 252).hex() == "00000008" + "00000800" + "02000200"
    run(unit, 0x1B, 0, 0, 0, 0x02)
    assert ask(unit, 0x23, 0, 0, 0, 0, 0, 0, 0, 252)[8] == 0x03
    large = make(blocks=1 << 33)
    assert ask(large, 0x23, 0, 0, 0, 0, 0, 0, 0, 252)[4:8] == b"\xff" * 4


def test_report_luns(unit):
    assert ask(unit, 0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16) == struct.pack(">I4xQ", 8, 0)
    assert ask(unit, 0xA0, 0, 1, 0, 0, 0, 0, 0, 0, 16) == bytes(8)
    assert fails(unit, 0xA0, 0, 3) == FIELD


def test_unknown_commands(unit):
    known = {0x00, 0x03, 0x08, 0x0A, 0x12, 0x15, 0x1A, 0x1B, 0x1D, 0x1E, 0x23, 0x25, 0x28, 0x2A, 0x2F, 0x35}
    known |= {0x41, 0x42, 0x55, 0x5A, 0x88, 0x8A, 0x8F, 0x91, 0x93, 0x9E, 0xA0, 0xA8, 0xAA}
    for code in set(range(256)) - known:
        assert fails(unit, code) == OPCODE


# -- sense ----------------------------------------------------------------------------------------------------------


def test_request_sense_tells_the_last_failure_once(unit):
    unit.fail(sense.OUT_OF_RANGE.at(0x1234))
    assert ask(unit, 0x03, 0, 0, 0, 252).hex() == "f00005" + "00001234" + "0a00000000210000000000"
    assert ask(unit, 0x03, 0, 0, 0, 252).hex() == "70000000000000" + "0a" + "00" * 10


def test_request_sense_in_descriptor_format(unit):
    unit.fail(sense.OUT_OF_RANGE.at(1 << 33))
    assert ask(unit, 0x03, 1, 0, 0, 252).hex() == "7205210000000" + "00c" + "000a8000" + "0000000200000000"
    unit.fail(sense.INVALID_OPCODE)
    assert ask(unit, 0x03, 1, 0, 0, 252).hex() == "7205200000000000"


def test_a_block_past_32_bits_has_no_room_in_fixed_format():
    raw = sense.OUT_OF_RANGE.at(1 << 32).fixed()
    assert (raw[0], raw[3:7], len(raw)) == (0x70, bytes(4), 18)


def test_another_command_forgets_the_sense(unit):
    unit.fail(sense.INVALID_OPCODE)
    run(unit, 0x00)
    assert ask(unit, 0x03, 0, 0, 0, 18)[2] == 0


def test_unit_attention_after_a_reset(unit):
    unit.reset()
    assert ask(unit, 0x12, 0, 0, 0, 36)  # these do not tell it
    assert ask(unit, 0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16)
    assert fails(unit, 0x00) == (Key.UNIT_ATTENTION, 0x29, 0x00)
    run(unit, 0x00)


def test_unit_attention_told_by_request_sense(unit):
    unit.reset()
    assert ask(unit, 0x03, 0, 0, 0, 18)[2] == Key.UNIT_ATTENTION
    run(unit, 0x00)


def test_a_disk_that_was_plugged_in_has_no_unit_attention(unit):
    run(unit, 0x00)


def test_every_error_has_its_sense():
    full, refused, other = OSError(28, ""), OSError(30, ""), OSError(5, "")
    assert [sense.of_error(e, reading=False) for e in (full, refused, other, ValueError())] == [
        sense.NO_SPACE,
        sense.WRITE_PROTECTED,
        sense.WRITE_ERROR,
        sense.WRITE_ERROR,
    ]
    assert {sense.of_error(e, reading=True) for e in (full, refused, other)} == {sense.READ_ERROR}


# -- mode pages -----------------------------------------------------------------------------------------------------


def test_mode_sense_6(unit):
    data = ask(unit, 0x1A, 0, 0x3F, 0, 192)
    assert data[0] == len(data) - 1
    assert data[1:4] == bytes([0, 0, 8])
    assert struct.unpack(">II", data[4:12]) == (BLOCKS, 512)
    at, found = 12, {}
    while at < len(data):
        found[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    assert list(found) == [0x01, 0x08, 0x0A, 0x1C]
    assert found[0x08][0] == 0x04  # WCE
    assert ask(unit, 0x1A, 0, 0x3F, 0, 4) == data[:4]


def test_mode_sense_10(unit):
    data = ask(unit, 0x5A, 0x08, 0x08, 0, 0, 0, 0, 0, 255)
    assert data.hex() == "001a000000000000" + "0812" + "04" + "00" * 17
    large = make(blocks=1 << 33)
    long = ask(large, 0x5A, 0x10, 0x08, 0, 0, 0, 0, 0, 255)
    assert (long[4], long[6:8]) == (1, b"\0\x10")
    assert struct.unpack(">Q4xI", long[8:24]) == (1 << 33, 512)
    assert ask(large, 0x5A, 0x00, 0x08, 0, 0, 0, 0, 0, 255)[8:12] == b"\xff" * 4


def test_mode_sense_of_a_read_only_disk():
    unit = make(readonly=True)
    assert ask(unit, 0x1A, 0x08, 0x08, 0, 255)[2] == 0x80
    assert ask(unit, 0x5A, 0x08, 0x08, 0, 0, 0, 0, 0, 255)[3] == 0x80
    assert [ask(unit, 0x1A, 0x08, control << 6 | 0x08, 0, 255)[6] for control in range(3)] == [0, 0, 0]


def test_mode_sense_of_other_values(unit):
    current, changeable, default = (ask(unit, 0x1A, 0x08, control << 6 | 0x08, 0, 255)[6] for control in range(3))
    assert (current, changeable, default) == (4, 4, 4)
    assert fails(unit, 0x1A, 0, 0xC8, 0, 255) == (Key.ILLEGAL_REQUEST, 0x39, 0x00)
    assert fails(unit, 0x1A, 0, 0x05, 0, 255) == FIELD
    assert fails(unit, 0x1A, 0, 0x08, 1, 255) == FIELD
    assert ask(unit, 0x1A, 0, 0x08, 0xFF, 255)


def select(unit, data, code=0x15, flags=0x10):
    tail = (0, 0, len(data)) if code == 0x15 else (0, 0, 0, 0, 0, *struct.pack(">H", len(data)))
    plan = run(unit, code, flags, *tail)
    assert isinstance(plan, Parameters)
    assert plan.length == len(data)
    return plan.then(data)


@pytest.mark.parametrize(("code", "head"), [(0x15, bytes(4)), (0x55, bytes(8))])
def test_mode_select_switches_the_write_cache(unit, code, head):
    off, on = (head + bytes([0x08, 0x12, wce]) + bytes(17) for wce in (0, 4))
    assert select(unit, off, code) == Change(sync=True)
    assert run(unit, *cdb(0x2A, 0, 1)) == Write(0, 512, sync=True)
    assert ask(unit, 0x1A, 0x08, 0x08, 0, 255)[6] == 0
    assert ask(unit, 0x1A, 0x08, 0x88, 0, 255)[6] == 4
    assert select(unit, on, code) == Change()
    assert run(unit, *cdb(0x2A, 0, 1)) == Write(0, 512)
    select(unit, off, code)
    unit.reset()
    assert unit.write_cache


@pytest.mark.parametrize("code", [0x15, 0x55])
def test_mode_select_takes_what_mode_sense_gave(unit, code):
    sensed = 0x1A if code == 0x15 else 0x5A
    tail = (0, 0x3F, 0, 255) if code == 0x15 else (0x10, 0x3F, 0, 0, 0, 0, 0, 255)
    data = bytearray(ask(unit, sensed, *tail))
    data[0] = 0  # MODE DATA LENGTH is reserved
    assert select(unit, bytes(data), code) == Change()


def test_mode_select_of_nothing(unit):
    assert run(unit, 0x15, 0x10) == Change()
    assert select(unit, bytes(4)) == Change()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (bytes(3), LENGTH),
        (bytes(4) + b"\x08", LIST),
        (bytes(4) + b"\x08\x12" + bytes(10), LENGTH),
        (bytes(4) + b"\x08\x0a" + bytes(10), LIST),
        (bytes(4) + b"\x05\x0a" + bytes(10), LIST),
        (bytes(4) + b"\x08\x12\x05" + bytes(17), LIST),
        (bytes(4) + b"\x08\x12\x00\x01" + bytes(16), LIST),
        (bytes(4) + b"\x0a\x0a\x01" + bytes(9), LIST),
        (b"\0\0\0\x08" + bytes(4), LENGTH),
        (b"\0\0\0\x04" + bytes(4), LIST),
        (b"\0\0\0\x08" + struct.pack(">II", 0, 4096), LIST),
        (b"\0\0\0\x08" + struct.pack(">II", 1, 512), LIST),
    ],
)
def test_mode_select_that_is_wrong(unit, data, why):
    with pytest.raises(Check) as caught:
        select(unit, data)
    assert (caught.value.sense.key, caught.value.sense.code, caught.value.sense.qualifier) == why


def test_mode_select_that_cannot_be(unit):
    assert fails(unit, 0x15, 0x11, 0, 0, 4) == FIELD  # nothing is saved
    with pytest.raises(Check):
        select(make(readonly=True), bytes(4) + b"\x08\x12\x04" + bytes(17))


# -- starting and removing ------------------------------------------------------------------------------------------


def test_eject_and_load():
    unit = make(removable=True)
    assert run(unit, 0x1B, 0, 0, 0, 0x02) == Change(sync=True)
    for command in ([0x00], [0x25], [0x9E, 0x10], cdb(0x28, 0, 1), cdb(0x2A, 0, 1), cdb(0x2F, 0, 1), cdb(0x35, 0, 0)):
        assert fails(unit, *command) == NO_MEDIUM
    assert fails(unit, 0x42, 0, 0, 0, 0, 0, 0, 0, 24) == NO_MEDIUM
    assert fails(unit, 0x1B, 0, 0, 0, 0x01) == NO_MEDIUM
    assert ask(unit, 0x12, 0, 0, 0, 36)
    assert ask(unit, 0x1A, 0, 0x3F, 0, 255)[3] == 0  # no block descriptor
    assert run(unit, 0x1B, 0, 0, 0, 0x03) == Change()
    assert fails(unit, 0x00) == (Key.UNIT_ATTENTION, 0x28, 0x00)
    run(unit, 0x00)


def test_an_ejected_medium_stays_out_over_a_reset_and_comes_back_with_the_plug():
    unit = make(removable=True)
    run(unit, 0x1B, 0, 0, 0, 0x02)
    unit.reset()
    assert fails(unit, 0x00)[0] == Key.UNIT_ATTENTION
    assert fails(unit, 0x00) == NO_MEDIUM
    unit.plug_in()
    run(unit, 0x00)


def test_a_locked_medium_is_not_ejected():
    unit = make(removable=True)
    run(unit, 0x1E, 0, 0, 0, 0x01)
    assert fails(unit, 0x1B, 0, 0, 0, 0x02) == (Key.ILLEGAL_REQUEST, 0x53, 0x02)
    run(unit, 0x00)
    run(unit, 0x1E, 0, 0, 0, 0x00)
    run(unit, 0x1B, 0, 0, 0, 0x02)
    assert fails(unit, 0x1E, 0, 0, 0, 0x02) == FIELD


def test_a_disk_that_is_not_removable(unit):
    assert fails(unit, 0x1B, 0, 0, 0, 0x02) == FIELD
    assert fails(unit, 0x1E, 0, 0, 0, 0x01) == OPCODE


def test_stop_and_start(unit):
    assert run(unit, 0x1B, 0, 0, 0, 0x00) == Change(sync=True)
    assert fails(unit, *cdb(0x28, 0, 1)) == (Key.NOT_READY, 0x04, 0x02)
    assert run(unit, 0x1B, 0, 0, 0, 0x01) == Change()
    assert run(unit, *cdb(0x28, 0, 1)) == Read(0, 512)
    assert run(unit, 0x1B, 0, 0, 0, 0x30) == Change()  # STANDBY: taken, and nothing changes
    run(unit, 0x00)


def test_self_test(unit):
    assert run(unit, 0x1D, 0x04) == Change()
    assert fails(unit, 0x1D, 0x00) == FIELD
    assert fails(unit, 0x1D, 0x04, 0, 0, 4) == FIELD


# -- any command ----------------------------------------------------------------------------------------------------


@given(st.binary(min_size=16, max_size=16), st.integers(0, 15), st.booleans(), st.sampled_from([512, 4096]))
def test_any_bytes_give_a_plan_within_the_medium_or_a_check(raw, lun, readonly, block):
    unit = make(readonly=readonly, block=block, removable=True)
    try:
        plan = unit.execute(raw, lun)
    except Check:
        return
    size = BLOCKS * block
    if isinstance(plan, (Read, Write, Compare)):
        assert 0 <= plan.offset <= plan.offset + plan.length <= size
        assert not (readonly and isinstance(plan, Write))
    elif isinstance(plan, Change):
        assert all(0 <= offset <= offset + length <= size for offset, length in plan.ranges)
    elif isinstance(plan, Reply):
        assert len(plan.data) < 1024


@given(st.sampled_from([0x15, 0x55, 0x42]), st.binary(max_size=200))
def test_any_parameter_list_is_taken_or_refused(code, data):
    unit = make()
    tail = (0, 0, len(data)) if code == 0x15 else (0, 0, 0, 0, 0, 0, len(data))
    plan = run(unit, code, 0x10 if code != 0x42 else 0, *tail)
    if isinstance(plan, Parameters):
        with suppress(Check):
            assert isinstance(plan.then(data), Change)


def test_names_are_padded_and_cut():
    unit = make(product="A very long name for a disk", revision="1")
    assert ask(unit, 0x12, 0, 0, 0, 36)[16:] == b"A very long name1   "
    assert pages.inquiry(Identity(1, product="ä")).count(b"?") == 1
