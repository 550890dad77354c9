"""An FTDI serial adapter, FT232R: /dev/ttyUSB0, or pyftdi's ftdi:// URLs; bridged as the serial port is.

    port = Ftdi(to="listen://127.0.0.1:7000")
    port.coding, port.lines, port.breaking        # what the host chose: 115200 8N1, DTR and RTS, a break
    port.inputs = 0x04                            # in bit-bang mode: the levels at its pins
    port.pins                                     # as they are: outputs where the host drives them, inputs elsewhere

Each packet to the host begins with two bytes of status, and one of these alone comes whenever the latency timer runs
out. FTDI publishes no protocol; sources: Linux drivers/usb/serial/ftdi_sio.h and its comments, AN232B-05 (baud rates)
and AN232R-01 (bit-bang modes).
"""

from __future__ import annotations

import logging
from enum import IntEnum
from pathlib import Path
from typing import Final

from ..usb.setup import Setup
from ..usb.transfer import Transfer
from ..usb.tree import DeviceDescriptor, Interface
from ..usb.types import Speed
from .bridges.bridge import make
from .bridges.stream import LIMIT, Stream
from .cdc import LineCoding, Lines
from .chapter9 import Stall
from .clock import Clock, Timer
from .pipe import Answer
from .virtual import VirtualDevice, data, done, endpoint, request

log: Final = logging.getLogger(__name__)
IN: Final = 0x81
OUT: Final = 0x02
_PACKET: Final = 64  # it knows full speed alone
_STATUS_BYTES: Final = 2
_LATENCY_MS: Final = 16  # after a reset
_EEPROM_WORDS: Final = 64
_BLANK: Final = 0xFFFF
_ALWAYS: Final = 0x01 | 0x10 | 0x20  # of the first status byte: FTDI's mark; CTS and DSR are up
_DCD: Final = 0x80
_SENT: Final = 0x20 | 0x40  # of the second: the transmitter is empty
_BASE: Final = 24_000_000  # eighths of 3 MHz: what divisors divide
_EIGHTHS: Final = (0, 4, 2, 1, 3, 5, 6, 7)  # of a divisor, by their code
_PARITIES: Final = "NOEMS"
_STOP_BITS: Final = (1, 1.5, 2)
_BREAK: Final = 0x4000


class Request(IntEnum):
    """bRequest, FTDI_SIO_* in ftdi_sio.h."""

    RESET = 0x00
    MODEM_CONTROL = 0x01
    FLOW_CONTROL = 0x02
    BAUD_RATE = 0x03
    SET_DATA = 0x04
    MODEM_STATUS = 0x05
    EVENT_CHARACTER = 0x06
    ERROR_CHARACTER = 0x07
    SET_LATENCY = 0x09
    GET_LATENCY = 0x0A
    BIT_MODE = 0x0B
    READ_PINS = 0x0C
    READ_EEPROM = 0x90
    WRITE_EEPROM = 0x91
    ERASE_EEPROM = 0x92


class Mode(IntEnum):
    """The bit modes that an FT232R has."""

    SERIAL = 0x00
    BIT_BANG = 0x01
    SYNCHRONOUS = 0x04
    CBUS = 0x20


class Ftdi(VirtualDevice):
    """`to`, `link`, `input` and `buffer` are as those of `serial`."""

    descriptor = DeviceDescriptor(0x0403, 0x6001, release=0x0600)  # the release tells drivers which chip it is
    manufacturer = "FTDI"
    product = "FT232R USB UART"
    speed = Speed.FULL

    def __init__(
        self,
        *,
        to: str = "echo",
        link: Path | None = None,
        input: Path | None = None,
        buffer: int = LIMIT,
        serial: str = "UF000001",
        clock: Clock | None = None,
    ) -> None:
        self.serial = serial
        self.bridge = make(to, link=link, input=input)
        self.stream = Stream(self, IN, OUT, _PACKET, buffer)
        self.inputs = 0
        self._eeprom = [_BLANK] * _EEPROM_WORDS
        self._timer: Timer | None = None
        self._start_afresh()
        super().__init__(clock=clock)

    def interfaces(self) -> tuple[Interface, ...]:
        return (Interface(0, 0, 0xFF, 0xFF, 0xFF, (self.bulk(IN), self.bulk(OUT)), string=2),)

    def _start_afresh(self) -> None:
        self.coding = LineCoding()
        self.lines = Lines(0)
        self.breaking = False
        self.mode = Mode.SERIAL
        self._driven = self._outputs = 0
        self._latency = _LATENCY_MS / 1000
        self._is_due = False  # the latency timer has run out, or the status has changed
        self._stop_timer()

    # -- data ---------------------------------------------------------------------------------------------------------

    @property
    def pins(self) -> int:
        """The levels at the data pins, or in CBUS mode at its four."""
        return self._outputs & self._driven | self.inputs & ~self._driven & 0xFF

    @endpoint(OUT)
    def _take(self, transfer: Transfer) -> Answer:
        if self.mode in (Mode.SERIAL, Mode.CBUS):
            return self.stream.take(transfer)
        if not self.stream.to_host.room:
            return None
        for level in bytes(transfer.data):
            if self.mode is Mode.SYNCHRONOUS:
                self.stream.to_host.put(bytes((self.pins,)))  # what was there before
            self._outputs = level
        return done(transfer)

    @endpoint(IN)
    def _give(self, transfer: Transfer) -> Answer:
        """Packets of status and data; of status alone when the timer has run out, which is what else there is."""
        queue = self.stream.to_host
        if not queue and not self._is_due:
            self._start_timer()
            return None
        self._stop_timer()
        self._is_due = False
        whole, rest = divmod(transfer.length, _PACKET)
        room = whole * (_PACKET - _STATUS_BYTES) + max(0, rest - _STATUS_BYTES)
        taken, step = queue.take(room), _PACKET - _STATUS_BYTES
        pieces = [taken[at : at + step] for at in range(0, len(taken), step)] or [bytearray()]
        packets = b"".join(self._status() + piece for piece in pieces)
        self.kick(OUT)
        return data(packets[: transfer.length])

    def _status(self) -> bytes:
        return bytes((_ALWAYS | _DCD * self.bridge.connected, _SENT))

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.clock.call_at(self.clock.now() + self._latency, self._timed)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timed(self) -> None:
        self._timer = None
        self._say_status()

    def _say_status(self) -> None:
        self._is_due = True
        self.kick(IN)

    # -- what the host tells ------------------------------------------------------------------------------------------

    @request(0x40, Request.RESET)
    def _reset_port(self, setup: Setup, data: bytes) -> None:
        """0: all of it; 1: what has come from the far side; 2: what is on the way there. Linux and pyftdi name the two
        from the chip's view."""
        if setup.value > 2:
            raise Stall
        if setup.value in (0, 1):
            self.stream.to_host.clear()
        if setup.value in (0, 2):
            self.stream.from_host.clear()

    @request(0x40, Request.MODEM_CONTROL)
    def _modem_control(self, setup: Setup, data: bytes) -> None:
        """The high byte says which of the lines the low one is about."""
        mask = setup.value >> 8
        self._set_lines(Lines((self.lines & ~mask | setup.value & mask) & (Lines.DTR | Lines.RTS)))

    @request(0x40, Request.BAUD_RATE)
    def _baud_rate(self, setup: Setup, data: bytes) -> None:
        coding = self.coding
        self._set_coding(LineCoding(_rate(setup.value, setup.index), coding.data_bits, coding.parity, coding.stop_bits))

    @request(0x40, Request.SET_DATA)
    def _set_data(self, setup: Setup, data: bytes) -> None:
        bits, parity, stop = setup.value & 0xFF, setup.value >> 8 & 0x07, setup.value >> 11 & 0x07
        if bits not in (7, 8) or parity >= len(_PARITIES) or stop >= len(_STOP_BITS):
            raise Stall
        self._set_coding(LineCoding(self.coding.rate, bits, _PARITIES[parity], _STOP_BITS[stop]))
        self._set_break(bool(setup.value & _BREAK))

    @request(0x40, Request.FLOW_CONTROL)
    def _flow_control(self, setup: Setup, data: bytes) -> None:
        """Nothing flows too fast here."""

    @request(0x40, Request.EVENT_CHARACTER)
    def _event_character(self, setup: Setup, data: bytes) -> None:
        """It would end the wait for the latency timer, and nothing waits for that here."""

    @request(0x40, Request.ERROR_CHARACTER)
    def _error_character(self, setup: Setup, data: bytes) -> None:
        """There are no errors on this line."""

    @request(0xC0, Request.MODEM_STATUS)
    def _modem_status(self, setup: Setup, data: bytes) -> bytes:
        return self._status()

    @request(0x40, Request.SET_LATENCY)
    def _set_latency(self, setup: Setup, data: bytes) -> None:
        """Milliseconds."""
        if not 1 <= setup.value <= 255:
            raise Stall
        self._latency = setup.value / 1000

    @request(0xC0, Request.GET_LATENCY)
    def _get_latency(self, setup: Setup, data: bytes) -> bytes:
        return bytes((round(self._latency * 1000),))

    @request(0x40, Request.BIT_MODE)
    def _bit_mode(self, setup: Setup, data: bytes) -> None:
        """In CBUS mode the low byte has the directions and the levels of four pins, otherwise eight directions."""
        try:
            self.mode = Mode(setup.value >> 8)
        except ValueError:
            raise Stall from None
        self._driven = setup.value & 0xFF
        if self.mode is Mode.CBUS:
            self._driven, self._outputs = setup.value >> 4 & 0x0F, setup.value & 0x0F

    @request(0xC0, Request.READ_PINS)
    def _read_pins(self, setup: Setup, data: bytes) -> bytes:
        return bytes((self.pins & (0x0F if self.mode is Mode.CBUS else 0xFF),))

    @request(0xC0, Request.READ_EEPROM)
    def _read_eeprom(self, setup: Setup, data: bytes) -> bytes:
        """One word; it is blank at first, which drivers take for the chip's own settings."""
        return self._word(setup.index).to_bytes(2, "little")

    @request(0x40, Request.WRITE_EEPROM)
    def _write_eeprom(self, setup: Setup, data: bytes) -> None:
        self._word(setup.index)
        self._eeprom[setup.index] = setup.value

    @request(0x40, Request.ERASE_EEPROM)
    def _erase_eeprom(self, setup: Setup, data: bytes) -> None:
        self._eeprom = [_BLANK] * _EEPROM_WORDS

    def _word(self, index: int) -> int:
        if index >= _EEPROM_WORDS:
            raise Stall
        return self._eeprom[index]

    def _set_coding(self, coding: LineCoding) -> None:
        if coding != self.coding:
            self.coding = coding
            log.info("%s: %s", self.bridge, coding)
            self.bridge.line_coding(coding)

    def _set_lines(self, lines: Lines) -> None:
        if lines != self.lines:
            self.lines = lines
            self.bridge.control_lines(lines)

    def _set_break(self, on: bool) -> None:
        if on != self.breaking:
            self.breaking = on
            self.bridge.send_break(on)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def plugged(self) -> None:
        self.bridge.connected_changed = self._say_status
        await self.bridge.start(self.stream.to_host, self.stream.from_host)

    async def unplugged(self) -> None:
        self._stop_timer()
        await self.bridge.stop()

    def settings_changed(self) -> None:
        self._is_due = False
        self._stop_timer()

    def was_reset(self) -> None:
        """Nobody holds the lines any more. Bytes in both directions are kept, see `bridges`."""
        self._set_lines(Lines(0))
        self._set_break(False)
        self._start_afresh()
        self.bridge.host_left()


def _rate(value: int, index: int) -> int:
    """Bits per second from a divisor of 14 bits, and the code of its eighths in the three above: AN232B-05.

    0 and 1 are special, and "sub-integer divisors between 0 and 2 are not allowed".
    """
    divisor, code = value & 0x3FFF, value >> 14 | (index & 1) << 2
    if divisor <= 1 and code:
        raise Stall
    if divisor <= 1:
        return 2_000_000 if divisor else 3_000_000
    return round(_BASE / (8 * divisor + _EIGHTHS[code]))
