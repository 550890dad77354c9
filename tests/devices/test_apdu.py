"""Commands to cards: the four cases, short and extended; what is none has a status word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbferry.devices.smartcards.apdu import Command, Refused, Word, answer, parse

HEADER = bytes.fromhex("00a40400")


def built(command: Command) -> bytes:
    """The bytes of a command: the other way round, for tests alone."""
    size = 2 if command.is_extended else 1
    raw = bytes((command.cla, command.ins, command.p1, command.p2))
    if command.is_extended:
        raw += b"\0"
    if command.data:
        raw += len(command.data).to_bytes(size, "big") + command.data
    if command.expected is not None:
        raw += (command.expected % (1 << 8 * size)).to_bytes(size, "big")
    return raw


@pytest.mark.parametrize(
    ("body", "data", "expected", "is_extended"),
    [
        ("", b"", None, False),
        ("00", b"", 256, False),
        ("10", b"", 16, False),
        ("02abcd", b"\xab\xcd", None, False),
        ("02abcd05", b"\xab\xcd", 5, False),
        ("000000", b"", 65536, True),
        ("000102", b"", 258, True),
        ("000002abcd", b"\xab\xcd", None, True),
        ("000002abcd0000", b"\xab\xcd", 65536, True),
        ("0000000000", b"", 65536, True),
    ],
)
def test_cases(body, data, expected, is_extended):
    assert parse(HEADER + bytes.fromhex(body)) == Command(0, 0xA4, 4, 0, data, expected, is_extended)


@pytest.mark.parametrize(
    "raw", ["", "00", "00a404", "00a4040002ab", "00a4040001abcdef", "00a404000000", "00a4040000000301"]
)
def test_lengths_that_are_wrong_have_a_status_word(raw):
    with pytest.raises(Refused) as refused:
        parse(bytes.fromhex(raw))
    assert refused.value.word == Word.WRONG_LENGTH


@given(st.binary(max_size=300))
def test_any_bytes_are_a_command_or_refused(raw):
    try:
        command = parse(raw)
    except Refused:
        return
    assert raw[:4] == bytes((command.cla, command.ins, command.p1, command.p2))
    assert command.data in raw


byte = st.integers(0, 255)


@given(
    st.one_of(
        st.builds(Command, byte, byte, byte, byte, st.binary(max_size=255), st.none() | st.integers(1, 256)),
        st.builds(
            Command,
            byte,
            byte,
            byte,
            byte,
            st.binary(min_size=1, max_size=600),
            st.none() | st.integers(1, 65536),
            st.just(True),
        ),
        st.builds(Command, byte, byte, byte, byte, st.just(b""), st.integers(1, 65536), st.just(True)),
    )
)
def test_what_was_built_is_parsed(command):
    assert parse(built(command)) == command


def test_an_answer():
    assert answer(b"ab") == b"ab\x90\x00"
    assert answer(word=Word.NOT_FOUND) == bytes.fromhex("6a82")
