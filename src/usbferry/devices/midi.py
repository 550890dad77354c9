"""A MIDI port, as keyboards and synthesizers have it: bytes of MIDI go to a far side, and come from there.

    port = Midi(to="listen://127.0.0.1:9001")      # raw MIDI bytes, as other programs read and write them
    port = Midi()                                  # an echo: what the host plays comes back to it

USB carries MIDI in packets of four bytes, one for each message or three bytes of a system exclusive one. Running status
is spelled out, realtime bytes pass in the middle of anything, and what is no message is left out. Source: "MIDI10" is
Universal Serial Bus Device Class Definition for MIDI Devices 1.0; the messages: MIDI 1.0 Detailed Specification.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from ..usb.transfer import Buffer, Completion, Transfer
from ..usb.tree import DeviceDescriptor, Endpoint, Interface
from ..usb.types import Speed, Status
from .bridges.bridge import make
from .bridges.stream import LIMIT, ByteQueue
from .clock import Clock
from .pipe import Answer
from .sound import uac
from .virtual import VirtualDevice, data, endpoint

OUT: Final = 0x01
IN: Final = 0x81
_FROM_HOST, _FROM_FAR, _TO_HOST, _TO_FAR = 1, 2, 3, 4  # jacks
_PACKET: Final = 4
# Bytes of MIDI in a packet by its code index number, MIDI10 table 4-1; 0 and 1 are reserved.
_SIZES: Final = (0, 0, 2, 3, 3, 1, 2, 3, 3, 3, 3, 3, 2, 2, 3, 1)
_SYSEX, _SYSEX_END, _REALTIME = 0xF0, 0xF7, 0xF8
_COMMON: Final = {0xF1: 2, 0xF2: 3, 0xF3: 2, 0xF6: 1}  # bytes of system common messages
_GOES_ON: Final = 0x04  # the code of a system exclusive message that starts or goes on; those of its ends follow it
_ONE_BYTE: Final = 0x0F


class Midi(VirtualDevice):
    """`to` is the far side, as of a serial port; with a file, `input` is what the host hears. `buffer` is bytes held
    each way.
    """

    descriptor = DeviceDescriptor(0x1209, 0x000E)
    product = "MIDI port"

    def __init__(
        self,
        *,
        to: str = "echo",
        link: Path | None = None,
        input: Path | None = None,
        buffer: int = LIMIT,
        product: str = "MIDI port",
        speed: Speed = Speed.FULL,
        serial: str = "",
        clock: Clock | None = None,
    ) -> None:
        self.speed = speed
        self.product = product
        self.serial = serial
        self.bridge = make(to, link=link, input=input)
        self.to_host, self.from_host = ByteQueue(buffer), ByteQueue(buffer)
        self._writer = PacketWriter()
        self._packets = bytearray()  # for the host, and not read yet
        super().__init__(clock=clock)

    def change_speed(self, speed: Speed) -> None:
        self.speed = speed
        self.describe_again()

    def interfaces(self) -> tuple[Interface, ...]:
        """Audio control, which has to be there, and the port: a jack at each end of both ways (MIDI10 appendix B)."""
        control = Interface(0, 0, uac.AUDIO, uac.CONTROL, extra=(uac.header_1(b"", (1,)),))
        ways = (self._way(OUT, _FROM_HOST), self._way(IN, _TO_HOST))
        port = uac.midi_port(_FROM_HOST, _FROM_FAR, _TO_HOST, _TO_FAR)
        return (control, Interface(1, 0, uac.AUDIO, uac.MIDI_STREAMING, endpoints=ways, extra=port))

    def _way(self, address: int, jack: int) -> Endpoint:
        """A bulk endpoint in the audio class's form, and the jack it belongs to (MIDI10 §6.2)."""
        bulk = self.bulk(address)
        return replace(bulk, refresh=0, synch_address=0, extra=(uac.midi_endpoint(jack),))

    # -- data ---------------------------------------------------------------------------------------------------------

    @endpoint(OUT)
    def _take(self, transfer: Transfer) -> Answer:
        if not self.from_host.room:
            return None
        self.from_host.put(read_packets(transfer.data))
        return Completion(Status.OK, b"", transfer.length)

    @endpoint(IN)
    def _give(self, transfer: Transfer) -> Answer:
        while self.to_host and len(self._packets) < transfer.length:
            self._packets += self._writer.write(self.to_host.take(transfer.length))
        count = min(len(self._packets), transfer.length) // _PACKET * _PACKET
        if not count:
            return None if transfer.length >= _PACKET else Completion(Status.OVERFLOW)
        packets, self._packets = self._packets[:count], self._packets[count:]
        return data(packets)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def plugged(self) -> None:
        self.to_host.filled = lambda: self.kick(IN)
        self.from_host.drained = lambda: self.kick(OUT)
        await self.bridge.start(self.to_host, self.from_host)

    async def unplugged(self) -> None:
        await self.bridge.stop()

    def was_reset(self) -> None:
        """The next host hears messages from their beginning."""
        self._packets.clear()
        self._writer = PacketWriter()
        self.bridge.host_left()


def read_packets(packets: Buffer) -> bytes:
    """The bytes of MIDI in packets, of whichever cable; reserved ones have none."""
    found = bytearray()
    for at in range(0, len(packets) - _PACKET + 1, _PACKET):
        size = _SIZES[packets[at] & 0x0F]
        found += packets[at + 1 : at + 1 + size]
    return bytes(found)


class PacketWriter:
    """Bytes of MIDI, in pieces of any size, into packets of cable 0."""

    def __init__(self) -> None:
        self._message = bytearray()  # as far as it came
        self._status = 0  # running status, or 0
        self._in_sysex = False

    def write(self, midi: Buffer) -> bytes:
        """The packets of all messages that end here."""
        packets = bytearray()
        for byte in midi:
            packets += self._take(byte)
        return bytes(packets)

    def _take(self, byte: int) -> bytes:
        if byte >= _REALTIME:
            return _packet(_ONE_BYTE, bytes((byte,)))
        if byte & 0x80:
            return self._begin(byte)
        if self._in_sysex:
            self._message.append(byte)
            return self._whole(_GOES_ON) if len(self._message) == 3 else b""
        if not self._message:
            if not self._status:
                return b""  # of no message
            self._message.append(self._status)
        self._message.append(byte)
        return self._end_if_whole()

    def _begin(self, status: int) -> bytes:
        """A status byte: it ends a system exclusive message, whatever it is, and cuts any other short."""
        ended = b""
        if self._in_sysex:
            self._message.append(_SYSEX_END)
            ended = self._whole(_GOES_ON + len(self._message))
        self._in_sysex = status == _SYSEX
        if status == _SYSEX_END:
            return ended
        self._status = status if status < _SYSEX else 0
        self._message = bytearray((status,))
        return ended if self._in_sysex else ended + self._end_if_whole()

    def _end_if_whole(self) -> bytes:
        status = self._message[0]
        if status >= _SYSEX:
            size = _COMMON.get(status, 0)
            if not size:
                self._message.clear()  # undefined
                return b""
            code = {1: 0x05, 2: 0x02, 3: 0x03}[size]
        else:
            code = status >> 4
            size = _SIZES[code]
        return self._whole(code) if len(self._message) == size else b""

    def _whole(self, code: int) -> bytes:
        message, self._message = self._message, bytearray()
        return _packet(code, message)


def _packet(code: int, midi: Buffer) -> bytes:
    return bytes((code, *midi)).ljust(_PACKET, b"\0")
