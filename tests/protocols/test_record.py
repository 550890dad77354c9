"""Layouts declared once: every record there is, round trip by values drawn from its declaration, and cut short."""

import pkgutil
import struct
from importlib import import_module
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbferry import protocols
from usbferry.protocols.record import BIG, LITTLE, Record, i32, pad, record, u8, u16, u32, u64

for found in pkgutil.walk_packages(protocols.__path__, "usbferry.protocols."):
    if found.name.endswith(".messages"):
        import_module(found.name)
RECORDS = sorted(
    (cls for cls in Record.__subclasses__() if hasattr(cls, "STRUCT") and cls.__module__.startswith("usbferry")),
    key=lambda cls: (cls.__module__, cls.__name__),
)

INTEGERS = {
    "B": (0, 8),
    "H": (0, 16),
    "I": (0, 32),
    "Q": (0, 64),
    "b": (1, 8),
    "h": (1, 16),
    "i": (1, 32),
    "q": (1, 64),
}


def values(code: str):
    """What a field of this struct code may hold."""
    if code in INTEGERS:
        signed, bits = INTEGERS[code]
        return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) if signed else st.integers(0, (1 << bits) - 1)
    size = int(code.removesuffix("s") or 1)
    return st.binary(min_size=size, max_size=size)


def instances(cls: type[Record]):
    return st.builds(cls, *(values(cls.FORMATS[name]) for name in cls.NAMES))


def test_there_are_records():
    assert {"OpHeader", "CmdSubmit", "IsoDescriptor"} <= {cls.__name__ for cls in RECORDS}


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_round_trip(cls, data):
    one, before, after = data.draw(instances(cls)), data.draw(st.binary(max_size=3)), data.draw(st.binary(max_size=3))
    raw = one.pack()
    assert len(raw) == cls.SIZE == cls.STRUCT.size
    assert cls.parse(raw) == one
    assert cls.parse(memoryview(before + raw + after), len(before)) == one, "anywhere in a buffer"
    assert cls.STRUCT.unpack_from(raw) == tuple(getattr(one, name) for name in cls.NAMES)


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
def test_every_prefix_is_too_short(cls):
    for size in range(cls.SIZE):
        with pytest.raises(struct.error):
            cls.parse(bytes(size))
    with pytest.raises(struct.error):
        cls.parse(bytes(cls.SIZE), 1)


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
def test_any_bytes_of_the_right_number_are_a_record(cls):
    for byte in (0x00, 0x7F, 0x80, 0xFF):
        raw = bytes([byte]) * cls.SIZE
        again = cls.parse(raw).pack()
        assert cls.parse(again) == cls.parse(raw)


@record(BIG)
class Mixed(Record):
    """One of each kind."""

    first: u8
    second: u16
    gap: Annotated[None, "3x"] = pad()
    third: i32
    name: Annotated[bytes, "4s"]
    last: u64


@record(LITTLE)
class Reversed(Record):
    first: u16
    second: u32


def test_fields_are_on_the_wire_as_declared():
    one = Mixed(1, 0x0203, -2, b"abcd", 5)
    assert one.pack() == bytes.fromhex("01 0203 000000 fffffffe 61626364 0000000000000005")
    assert (Mixed.SIZE, Mixed.NAMES) == (22, ("first", "second", "third", "name", "last"))
    assert Reversed(1, 2).pack() == bytes.fromhex("0100 02000000")


def test_padding_has_no_value_and_is_not_compared():
    one = Mixed.parse(bytes.fromhex("01 0203 eeeeee fffffffe 61626364 0000000000000005"))
    assert one == Mixed(1, 0x0203, -2, b"abcd", 5)
    assert one.pack()[3:6] == bytes(3)
    assert "gap" not in repr(one)


@pytest.mark.parametrize(("field", "value"), [("first", 256), ("second", -1), ("third", 1 << 31), ("last", 1 << 64)])
def test_a_value_that_does_not_fit_is_an_error(field, value):
    one = Mixed(1, 2, 3, b"abcd", 5)
    setattr(one, field, value)
    with pytest.raises(struct.error):
        one.pack()


def test_records_have_slots():
    with pytest.raises(AttributeError):
        Reversed(1, 2).third = 3
