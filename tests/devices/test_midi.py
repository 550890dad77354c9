"""A MIDI port: packets of every message, running status, realtime bytes in between, and both ways through it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.devices.host import opened, read, write
from usbferry.devices.midi import IN, OUT, Midi, PacketWriter, read_packets
from usbferry.usb.types import Speed, Status


def packets(midi):
    raw = PacketWriter().write(bytes.fromhex(midi))
    return [raw[at : at + 4].hex() for at in range(0, len(raw), 4)]


@pytest.mark.parametrize(
    ("midi", "expected"),
    [
        ("90 3c 40", ["09903c40"]),
        ("80 3c 00 a1 01 02 b2 07 7f e5 00 40", ["08803c00", "0aa10102", "0bb2077f", "0ee50040"]),
        ("c3 05 d4 06", ["0cc30500", "0dd40600"]),
        ("90 3c 40 3e 41", ["09903c40", "09903e41"]),  # running status
        ("f1 22 f2 01 02 f3 03 f6", ["02f12200", "03f20102", "02f30300", "05f60000"]),
        ("f8 fa ff", ["0ff80000", "0ffa0000", "0fff0000"]),
        ("f0 f7", ["06f0f700"]),
        ("f0 01 f7", ["07f001f7"]),
        ("f0 01 02 f7", ["04f00102", "05f70000"]),
        ("f0 01 02 03 f7", ["04f00102", "0603f700"]),
        ("f0 01 02 03 04 f7", ["04f00102", "070304f7"]),
        ("90 3c f8 40", ["0ff80000", "09903c40"]),  # realtime, in the middle of a note
        ("f0 01 fe 02 f7", ["0ffe0000", "04f00102", "05f70000"]),
        ("40 41 90 3c 40", ["09903c40"]),  # data of no message
        ("f4 f5 01 90 3c 40", ["09903c40"]),  # undefined, and they end running status
        ("90 3c 80 3c 00", ["08803c00"]),  # cut short by the next
        ("f0 01 90 3c 40", ["07f001f7", "09903c40"]),  # a system exclusive message that nobody ended
        ("f0 01 02 90 3c 40", ["04f00102", "05f70000", "09903c40"]),
        ("f0 01 f0 02 f7", ["07f001f7", "07f002f7"]),
        ("f7", []),
    ],
)
def test_messages_have_their_packets(midi, expected):
    assert packets(midi) == expected


notes = st.tuples(st.integers(0x80, 0xBF), st.integers(0, 127), st.integers(0, 127)).map(bytes)
programs = st.tuples(st.integers(0xC0, 0xDF), st.integers(0, 127)).map(bytes)
sysex = st.lists(st.integers(0, 127), max_size=20).map(lambda body: bytes((0xF0, *body, 0xF7)))
realtime = st.sampled_from([b"\xf8", b"\xfe"])


@given(st.lists(st.one_of(notes, programs, sysex, realtime)), st.integers(1, 7))
def test_messages_come_through_in_pieces_of_any_size(messages, size):
    midi, writer = b"".join(messages), PacketWriter()
    raw = b"".join(writer.write(midi[at : at + size]) for at in range(0, len(midi), size))
    assert len(raw) % 4 == 0
    assert read_packets(raw) == midi


@given(st.binary(max_size=100))
def test_any_bytes_become_messages_that_read_the_same_again(data):
    once = read_packets(PacketWriter().write(data))
    assert read_packets(PacketWriter().write(once)) == once


def test_packets_of_other_cables_are_read_and_reserved_ones_are_not():
    assert read_packets(bytes.fromhex("59903c40 00010203 01040506 0990")) == bytes.fromhex("903c40")


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER])
async def test_an_echo_plays_back(speed):
    async with opened(Midi(speed=speed)) as port:
        assert port.submit(write(OUT, bytes.fromhex("09903c40 08803c00"))).actual == 8
        assert bytes(port.submit(read(IN, 4)).data).hex() == "09903c40"
        assert bytes(port.submit(read(IN, 512)).data).hex() == "08803c00"
        waiting = port.submit(read(IN, 64))
        port.submit(write(OUT, bytes.fromhex("0cc30500")))
        assert bytes((await waiting).data).hex() == "0cc30500"
        port.submit(write(OUT, bytes.fromhex("0ff80000")))
        assert port.submit(read(IN, 3)).status == Status.OVERFLOW


async def test_a_host_that_does_not_read_holds_itself_back():
    async with opened(Midi(buffer=64)) as port:
        waits = None
        for _ in range(100):
            answer = port.submit(write(OUT, bytes.fromhex("09903c40") * 4))
            if not hasattr(answer, "status"):
                waits = answer
                break
        assert waits is not None
        while not waits.done():
            assert port.submit(read(IN, 64)).status == Status.OK
            if waits.done():
                break
        assert waits.result().status == Status.OK


async def test_the_descriptors_are_those_of_the_example_in_the_specification():
    async with opened(Midi()) as port:
        control, streaming = port.info.interfaces
    assert control.extra == (bytes.fromhex("09 24 01 0001 0900 01 01"),)
    assert b"".join(streaming.extra) == bytes.fromhex(
        "07 24 01 0001 250006 24 02 01 01 0006 24 02 02 02 0009 24 03 01 03 01 02 01 0009 24 03 02 04 01 01 01 00"
    )
    assert [one.extra for one in streaming.endpoints] == [(b"\x05\x25\x01\x01\x01",), (b"\x05\x25\x01\x01\x03",)]
