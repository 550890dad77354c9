"""CTAPHID: messages in packets of 64 bytes, by channels; one message at a time, whatever channel it is on.

    idle --first packet--> gathering --the last one--> working --> answer, idle
              INIT of a channel ends what is under way on it; others meanwhile get CHANNEL_BUSY

    first packet    channel (4)  0x80 | command  length (2)  57 bytes
    those behind    channel (4)  0, 1, 2...                  59 bytes

Source: Client to Authenticator Protocol 2.1 §11.2, where the sections named here are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

from ..clock import Clock, Timer

PACKET: Final = 64
_FIRST: Final = Struct(">IBH")
_NEXT: Final = Struct(">IB")
_INITIALISED: Final = Struct(">8sIBBBBB")  # nonce, channel, protocol, version of the device, capabilities: §11.2.9.1.3
_IS_FIRST: Final = 0x80
_NONCE_BYTES: Final = 8
_PROTOCOL: Final = 2
_VERSION: Final = (1, 0, 0)
BROADCAST: Final = 0xFFFF_FFFF
MAX_MESSAGE: Final = PACKET - _FIRST.size + 128 * (PACKET - _NEXT.size)  # 7609 bytes
_PATIENCE: Final = 3.0  # seconds for a message's next packet, §11.2.5.2: half a second to three
_KEEPALIVE: Final = 0.1  # seconds between two of them, §11.2.9.1.7


class Command(IntEnum):
    """§11.2.9"""

    PING = 0x01
    MSG = 0x03
    INIT = 0x06
    WINK = 0x08
    CBOR = 0x10
    CANCEL = 0x11
    KEEPALIVE = 0x3B
    ERROR = 0x3F


class Error(IntEnum):
    """§11.2.9.1.6"""

    INVALID_CMD = 0x01
    INVALID_LEN = 0x03
    INVALID_SEQ = 0x04
    MSG_TIMEOUT = 0x05
    CHANNEL_BUSY = 0x06
    INVALID_CHANNEL = 0x0B
    OTHER = 0x7F


class Capability(IntFlag):
    """§11.2.9.1.3"""

    WINK = 0x01
    CBOR = 0x04
    NMSG = 0x08  # it has no MSG


class Status(IntEnum):
    """What keeps an answer waiting, §11.2.9.1.7."""

    PROCESSING = 1
    TOUCH_NEEDED = 2  # STATUS_UPNEEDED


@dataclass(slots=True, eq=False)
class Message:
    """One that comes, or is worked on."""

    channel: int
    command: int
    length: int
    payload: bytearray = field(default_factory=bytearray)
    packets: int = 0  # beyond the first
    status: Status | None = None  # once it is worked on


def packets(channel: int, command: int, payload: bytes) -> Iterator[bytes]:
    """A message of at most MAX_MESSAGE bytes as it goes over the wire."""
    at = PACKET - _FIRST.size
    yield (_FIRST.pack(channel, _IS_FIRST | command, len(payload)) + payload[:at]).ljust(PACKET, b"\0")
    number = 0
    while at < len(payload):
        piece = payload[at : at + PACKET - _NEXT.size]
        yield (_NEXT.pack(channel, number) + piece).ljust(PACKET, b"\0")
        at, number = at + len(piece), number + 1


class Channels:
    """The device's side. `send` takes packets, `work` a message of MSG or CBOR; `answer` or `fail` ends that.

    `cancelled` is called when the host wants no answer any more but the one that says so, `dropped` when it wants none.
    """

    def __init__(
        self,
        clock: Callable[[], Clock],
        send: Callable[[bytes], None],
        work: Callable[[Message], None],
        cancelled: Callable[[], None],
        dropped: Callable[[int], None],
    ) -> None:
        self._clock, self._send, self._work = clock, send, work
        self._cancelled, self._dropped = cancelled, dropped
        self._last = 0  # the channels that were given out: 1 to this one
        self._now: Message | None = None
        self._timer: Timer | None = None
        self.winks = 0

    @property
    def is_idle(self) -> bool:
        """Whether no message comes or is worked on."""
        return self._now is None

    def restart(self) -> None:
        """No channel is open, nothing under way."""
        self._end()
        self._last = 0

    # -- packets of the host ------------------------------------------------------------------------------------------

    def receive(self, packet: bytes) -> None:
        """A packet came, as long as it may be."""
        packet = packet[:PACKET].ljust(PACKET, b"\0")
        channel, kind = _NEXT.unpack_from(packet)
        if not kind & _IS_FIRST:
            self._gather(channel, kind, packet[_NEXT.size :])
            return
        length = _FIRST.unpack_from(packet)[2]
        self._first(channel, kind & ~_IS_FIRST, length, packet[_FIRST.size :])

    def _first(self, channel: int, command: int, length: int, piece: bytes) -> None:
        now = self._now
        if command == Command.INIT:
            self._init(channel, length, piece)
        elif not 0 < channel <= self._last:
            self._refuse(channel, Error.INVALID_CHANNEL)
        elif command == Command.CANCEL:
            if now is not None and now.channel == channel and now.status is not None:
                self._cancelled()  # §11.2.9.1.5: no answer of its own
        elif now is not None and now.channel == channel and now.status is None:
            self._end()
            self._refuse(channel, Error.INVALID_SEQ)
        elif now is not None:
            self._refuse(channel, Error.CHANNEL_BUSY)
        elif length > MAX_MESSAGE:
            self._refuse(channel, Error.INVALID_LEN)
        else:
            self._now = Message(channel, command, length)
            self._take(self._now, piece)

    def _gather(self, channel: int, number: int, piece: bytes) -> None:
        """A packet that belongs to nothing is ignored, §11.2.4."""
        now = self._now
        if now is None or now.channel != channel or now.status is not None:
            return
        if number != now.packets:
            self._end()
            self._refuse(channel, Error.INVALID_SEQ)
            return
        now.packets += 1
        self._take(now, piece)

    def _take(self, message: Message, piece: bytes) -> None:
        message.payload += piece[: message.length - len(message.payload)]
        if len(message.payload) == message.length:
            self._whole(message)
        else:
            self._set_timer(_PATIENCE, lambda: self.fail(message, Error.MSG_TIMEOUT))

    def _init(self, channel: int, length: int, piece: bytes) -> None:
        """A channel is given out, or begins anew. Of another one under way the first takes no notice."""
        if channel != BROADCAST and not 0 < channel <= self._last:
            self._refuse(channel, Error.INVALID_CHANNEL)
        elif length != _NONCE_BYTES:
            self._refuse(channel, Error.INVALID_LEN)
        else:
            if channel == BROADCAST:
                self._last = given = self._last % (BROADCAST - 1) + 1
            else:
                given = channel
                if self._now is not None and self._now.channel == channel:
                    self._end()
                self._dropped(channel)
            said = (piece[:_NONCE_BYTES], given, _PROTOCOL, *_VERSION, Capability.WINK | Capability.CBOR)
            self._say(channel, Command.INIT, _INITIALISED.pack(*said))

    # -- messages -----------------------------------------------------------------------------------------------------

    def _whole(self, message: Message) -> None:
        message.status = Status.PROCESSING
        self._set_timer(_KEEPALIVE, lambda: self._keep_alive(message))
        if message.command == Command.PING:
            self.answer(message, bytes(message.payload))
        elif message.command == Command.WINK:
            self._wink(message)
        elif message.command in (Command.MSG, Command.CBOR) and message.length:
            self._work(message)
        else:
            known = message.command in (Command.MSG, Command.CBOR)
            self.fail(message, Error.INVALID_LEN if known else Error.INVALID_CMD)

    def _wink(self, message: Message) -> None:
        if message.length:
            self.fail(message, Error.INVALID_LEN)
            return
        self.winks += 1
        self.answer(message, b"")

    def answer(self, message: Message, payload: bytes) -> None:
        """End a message; one that the host has dropped is not answered."""
        if message is self._now:
            self._end()
            self._say(message.channel, message.command, payload)

    def fail(self, message: Message, error: Error) -> None:
        """The same, with an error of CTAPHID."""
        if message is self._now:
            self._end()
            self._refuse(message.channel, error)

    def wait_for_touch(self, needed: bool) -> None:
        """Whether the message that is worked on waits for a person: the host is told when that changes."""
        now = self._now
        if now is not None and now.status is not None:
            now.status = Status.TOUCH_NEEDED if needed else Status.PROCESSING
            if needed:
                self._keep_alive(now)

    def _keep_alive(self, message: Message) -> None:
        assert message.status is not None
        self._say(message.channel, Command.KEEPALIVE, bytes((message.status,)))
        self._set_timer(_KEEPALIVE, lambda: self._keep_alive(message))

    def _say(self, channel: int, command: int, payload: bytes) -> None:
        for packet in packets(channel, command, payload):
            self._send(packet)

    def _refuse(self, channel: int, error: Error) -> None:
        self._say(channel, Command.ERROR, bytes((error,)))

    def _end(self) -> None:
        self._now = None
        self._set_timer(None)

    def _set_timer(self, seconds: float | None, callback: Callable[[], None] = lambda: None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        clock = self._clock()
        self._timer = None if seconds is None else clock.call_at(clock.now() + seconds, callback)
