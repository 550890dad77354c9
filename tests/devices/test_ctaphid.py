"""Packets and channels of CTAPHID: what its specification, and the conformance tests of U2F, ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbferry.devices.clock import VirtualClock
from usbferry.devices.fido.ctaphid import BROADCAST, MAX_MESSAGE, PACKET, Channels, Command, Error, Message, packets

NONCE = bytes(range(8))


class Host:
    """Talks to channels, and has what they say."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.sent: list[bytes] = []
        self.work: list[Message] = []
        self.cancelled = 0
        self.dropped: list[int] = []
        self.channels = Channels(
            lambda: self.clock, self.sent.append, self.work.append, self._cancelled, self.dropped.append
        )

    def _cancelled(self) -> None:
        self.cancelled += 1

    def send(self, channel: int, command: int, payload: bytes = b"") -> None:
        for packet in packets(channel, command, payload):
            self.channels.receive(packet)

    def heard(self) -> list[tuple[int, int, bytes]]:
        """(channel, command, payload) of each message so far; every packet is whole."""
        found, self.sent[:] = list(self.sent), []
        messages = []
        while found:
            first = found.pop(0)
            assert len(first) == PACKET
            assert first[4] & 0x80
            length = int.from_bytes(first[5:7], "big")
            payload = first[7:]
            number = 0
            while len(payload) < length:
                packet = found.pop(0)
                assert packet[:5] == first[:4] + bytes((number,))
                payload, number = payload + packet[5:], number + 1
            messages.append((int.from_bytes(first[:4], "big"), first[4] & 0x7F, payload[:length]))
        return messages

    def opened(self) -> int:
        self.send(BROADCAST, Command.INIT, NONCE)
        [(channel, command, payload)] = self.heard()
        assert (channel, command, payload[:8], len(payload)) == (BROADCAST, Command.INIT, NONCE, 17)
        assert payload[12] == 2, "the protocol's version"
        assert payload[16] == 0x01 | 0x04, "it winks, it knows CBOR, and it has MSG"
        return int.from_bytes(payload[8:12], "big")

    def error(self, channel: int, error: Error) -> bool:
        return self.heard() == [(channel, Command.ERROR, bytes((error,)))]


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.mark.parametrize("size", [0, 1, 57, 58, 116, 117, 1000, MAX_MESSAGE])
def test_pings_come_back(host, size):
    channel = host.opened()
    payload = bytes(at % 251 for at in range(size))
    host.send(channel, Command.PING, payload)
    assert host.heard() == [(channel, Command.PING, payload)]


def test_each_host_has_a_channel_of_its_own(host):
    assert len({host.opened() for _ in range(50)} - {0, BROADCAST}) == 50


@pytest.mark.parametrize("channel", [0, 7, BROADCAST])
def test_no_channel_but_those_given_out(host, channel):
    host.opened()
    host.send(channel, Command.PING, b"x")
    assert host.error(channel, Error.INVALID_CHANNEL)


def test_a_channel_that_was_never_given_out_cannot_be_begun_anew(host):
    host.send(5, Command.INIT, NONCE)
    assert host.error(5, Error.INVALID_CHANNEL)


@pytest.mark.parametrize("nonce", [b"", b"short", bytes(9), bytes(100)])
def test_an_init_has_a_nonce_of_eight_bytes(host, nonce):
    host.channels.receive(next(iter(packets(BROADCAST, Command.INIT, nonce))))
    assert host.error(BROADCAST, Error.INVALID_LEN)


@pytest.mark.parametrize("command", [0x00, 0x02, 0x04, 0x05, 0x3B, 0x3F, 0x40, 0x7F])
def test_commands_that_it_does_not_know(host, command):
    channel = host.opened()
    host.send(channel, command, b"x")
    assert host.error(channel, Error.INVALID_CMD)


@pytest.mark.parametrize("command", [Command.MSG, Command.CBOR])
def test_nothing_is_no_message(host, command):
    channel = host.opened()
    host.send(channel, command)
    assert host.error(channel, Error.INVALID_LEN)


def test_a_message_that_is_too_long_is_refused_by_its_first_packet(host):
    channel = host.opened()
    host.channels.receive(next(packets(channel, Command.PING, bytes(MAX_MESSAGE + 1))))
    assert host.error(channel, Error.INVALID_LEN)


def test_it_winks(host):
    channel = host.opened()
    host.send(channel, Command.WINK)
    assert host.heard() == [(channel, Command.WINK, b"")]
    host.send(channel, Command.WINK, b"x")
    assert host.error(channel, Error.INVALID_LEN)
    assert host.channels.winks == 1


def test_a_packet_out_of_its_turn_ends_the_message(host):
    channel = host.opened()
    first, _, third = packets(channel, Command.PING, bytes(150))
    host.channels.receive(first)
    host.channels.receive(third)
    assert host.error(channel, Error.INVALID_SEQ)
    host.channels.receive(third)
    assert host.heard() == [], "it belongs to nothing"


def test_a_message_within_a_message(host):
    channel = host.opened()
    host.channels.receive(next(packets(channel, Command.PING, bytes(100))))
    host.send(channel, Command.PING, b"x")
    assert host.error(channel, Error.INVALID_SEQ)
    host.send(channel, Command.PING, b"x")
    assert host.heard() == [(channel, Command.PING, b"x")]


def test_a_packet_that_belongs_to_nothing_is_ignored(host):
    channel = host.opened()
    host.channels.receive(channel.to_bytes(4, "big") + b"\0x")
    assert host.heard() == []


def test_a_message_that_does_not_go_on_is_given_up(host):
    channel = host.opened()
    host.channels.receive(next(packets(channel, Command.PING, bytes(100))))
    host.clock.advance(2.9)
    assert host.heard() == []
    host.clock.advance(0.2)
    assert host.error(channel, Error.MSG_TIMEOUT)
    host.clock.advance(10)
    assert host.heard() == []


def test_the_patience_is_for_each_packet(host):
    channel = host.opened()
    for packet in packets(channel, Command.PING, bytes(300)):
        host.channels.receive(packet)
        host.clock.advance(2.5)
    assert host.heard() == [(channel, Command.PING, bytes(300))]


def test_others_are_told_that_it_is_busy_and_disturb_nothing(host):
    one, two = host.opened(), host.opened()
    first, second = packets(one, Command.PING, bytes(100))
    host.channels.receive(first)
    host.send(two, Command.PING, b"x")
    assert host.error(two, Error.CHANNEL_BUSY)
    host.channels.receive(two.to_bytes(4, "big") + b"\0stray")
    assert host.opened() not in (one, two)
    host.channels.receive(second)
    assert host.heard() == [(one, Command.PING, bytes(100))]


def test_init_ends_what_is_under_way_on_its_channel(host):
    channel = host.opened()
    first, second = packets(channel, Command.PING, bytes(100))
    host.channels.receive(first)
    host.send(channel, Command.INIT, NONCE)
    [(_, command, payload)] = host.heard()
    assert (command, payload[8:12]) == (Command.INIT, channel.to_bytes(4, "big"))
    host.channels.receive(second)
    assert host.heard() == []
    assert host.dropped == [channel]


def test_what_it_works_on(host):
    """Keepalives each tenth of a second, busy to everybody, an answer at the end."""
    one, two = host.opened(), host.opened()
    host.send(one, Command.CBOR, b"\x04")
    [message] = host.work
    assert (bytes(message.payload), message.command) == (b"\x04", Command.CBOR)
    for channel in (one, two):
        host.send(channel, Command.PING, b"x")
        assert host.error(channel, Error.CHANNEL_BUSY)
    host.clock.advance(0.25)
    assert host.heard() == [(one, Command.KEEPALIVE, b"\x01")] * 2
    host.channels.wait_for_touch(True)
    host.clock.advance(0.15)
    assert host.heard() == [(one, Command.KEEPALIVE, b"\x02")] * 2
    host.channels.answer(message, b"done" * 30)
    host.clock.advance(1)
    assert host.heard() == [(one, Command.CBOR, b"done" * 30)]
    host.channels.answer(message, b"again")
    assert host.heard() == []


def test_a_cancel_has_no_answer_of_its_own(host):
    one, two = host.opened(), host.opened()
    host.send(one, Command.CANCEL)
    assert (host.heard(), host.cancelled) == ([], 0)
    host.send(one, Command.CBOR, b"\x01")
    host.send(two, Command.CANCEL)
    assert (host.heard(), host.cancelled) == ([], 0)
    host.send(one, Command.CANCEL)
    assert (host.heard(), host.cancelled) == ([], 1)


def test_a_restart_forgets_every_channel(host):
    channel = host.opened()
    host.send(channel, Command.CBOR, b"\x01")
    host.channels.restart()
    host.clock.advance(10)
    assert host.heard() == []
    host.send(channel, Command.PING, b"x")
    assert host.error(channel, Error.INVALID_CHANNEL)


@given(
    st.lists(
        st.binary(max_size=70) | st.tuples(st.integers(0, 3), st.integers(0, 255), st.integers(0, 200)), max_size=40
    )
)
def test_any_packets_leave_it_usable(sent):
    host = Host()
    channels = [host.opened(), host.opened(), 0, BROADCAST]
    for one in sent:
        if isinstance(one, tuple):
            channel, kind, size = one
            one = channels[channel].to_bytes(4, "big") + bytes((kind, 0, size)) + bytes(57)
        host.channels.receive(one)
        host.clock.advance(0.05)
    host.heard()
    host.send(channels[0], Command.INIT, NONCE)
    host.send(channels[1], Command.INIT, NONCE)
    host.heard()
    host.send(channels[0], Command.PING, b"still here")
    assert host.heard() == [(channels[0], Command.PING, b"still here")]
