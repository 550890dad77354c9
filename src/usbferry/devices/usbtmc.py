"""A measuring instrument, USBTMC with USB488: a small oscilloscope, or any instrument of yours that speaks SCPI.

    device = Usbtmc()
    device.instrument = MyMeter()        # a class derived from scpi.Instrument, rather than the oscilloscope
    device.request_service()             # SRQ, over the interrupt endpoint

    host --DEV_DEP_MSG_OUT--> a program message, perhaps in parts, until its end is marked --> instrument.message()
    host --REQUEST_DEV_DEP_MSG_IN--> what the bulk IN endpoint then gives: part of the answer, when there is one

Sources: "TMC" is USB Test and Measurement Class 1.0, "488" its USB488 subclass 1.0.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

from ..usb.setup import Setup
from ..usb.transfer import Completion, Transfer
from ..usb.tree import DeviceDescriptor, Interface
from ..usb.types import Speed
from ..usb.types import Status as Ended
from .chapter9 import Stall
from .clock import Clock
from .oscilloscope import Oscilloscope
from .pipe import Answer
from .scpi import Instrument
from .virtual import VirtualDevice, data, done, endpoint, request

log: Final = logging.getLogger(__name__)
OUT: Final = 0x01
IN: Final = 0x82
INTERRUPT: Final = 0x83
_HEADER: Final = Struct("<BBBx")  # MsgID, bTag, bTagInverse: TMC table 1
_OUT_HEADER: Final = Struct("<BBBxIB3x")  # TransferSize, bmTransferAttributes: TMC table 3
_REQUEST: Final = Struct("<BBBxIBB2x")  # TransferSize, bmTransferAttributes, TermChar: TMC table 4
_IN_HEADER: Final = Struct("<BBBxIB3x")  # TMC table 9
_END: Final = 0x01  # of bmTransferAttributes
_TERM_CHAR: Final = 0x02
_MAX_MESSAGE: Final = 1 << 20  # bytes of a program message
_MAX_NOTES: Final = 16  # interrupt reports that nobody has read
_BCD: Final = b"\x00\x01"  # 1.00
_CAPABILITIES: Final = b"\x04\x01" + bytes(6)  # it can pulse an indicator; it knows TermChar: TMC table 37
_CAPABILITIES_488: Final = b"\x07\x0f" + bytes(8)  # 488.2, REN, trigger; SCPI, SR1, RL1, DT1: 488 table 8


class MessageId(IntEnum):
    """MsgID, TMC table 2 and 488 table 1."""

    DEV_DEP_MSG_OUT = 1
    DEV_DEP_MSG_IN = 2  # asked for, and given
    TRIGGER = 128


class Status(IntEnum):
    """USBTMC_status, TMC table 16 and 488 table 12."""

    SUCCESS = 0x01
    INTERRUPT_IN_BUSY = 0x20
    FAILED = 0x80
    TRANSFER_NOT_IN_PROGRESS = 0x81


class Request(IntEnum):
    """bRequest, TMC table 15 and 488 table 9."""

    INITIATE_ABORT_BULK_OUT = 1
    CHECK_ABORT_BULK_OUT_STATUS = 2
    INITIATE_ABORT_BULK_IN = 3
    CHECK_ABORT_BULK_IN_STATUS = 4
    INITIATE_CLEAR = 5
    CHECK_CLEAR_STATUS = 6
    GET_CAPABILITIES = 7
    INDICATOR_PULSE = 64
    READ_STATUS_BYTE = 128
    REN_CONTROL = 160
    GO_TO_LOCAL = 161
    LOCAL_LOCKOUT = 162


@dataclass(slots=True)
class _Asked:
    """A REQUEST_DEV_DEP_MSG_IN that is not answered yet."""

    tag: int
    size: int
    term_char: int | None


class Usbtmc(VirtualDevice):
    """`model` and `serial` are part of what *IDN? answers, too."""

    descriptor = DeviceDescriptor(0x1209, 0x0004)

    def __init__(
        self,
        *,
        model: str = "Oscilloscope",
        serial: str = "US00000001",
        speed: Speed = Speed.HIGH,
        clock: Clock | None = None,
    ) -> None:
        self.speed = speed
        self.serial = serial
        self.product = model
        self.instrument: Instrument = Oscilloscope(f"{self.manufacturer},{model},{serial},1.0")
        self.is_remote = False  # whether its host has locked its front panel: REN
        self.pulses = 0  # of its indicator
        self._forget()
        super().__init__(clock=clock)

    def interfaces(self) -> tuple[Interface, ...]:
        endpoints = (self.bulk(OUT), self.bulk(IN), self.interrupt(INTERRUPT, 2, 7 if self.speed >= Speed.HIGH else 8))
        return (Interface(0, 0, 0xFE, 0x03, 0x01, endpoints),)

    def request_service(self) -> None:
        """Tell the host, by way of the interrupt endpoint, that the instrument wants something: 488 §3.4.1."""
        self._note(bytes((0x81, self.instrument.status_byte | 0x40)))

    def _forget(self) -> None:
        """What is half done."""
        self._transfer = bytearray()  # a bulk OUT transfer, as far as it has come
        self._wanted = 0  # bytes of it
        self._program = bytearray()  # a program message, as far as it has come
        self._out_tag = 0
        self._asked: _Asked | None = None
        self._unended = b""  # what an IN transfer had no room for
        self._owes_end = False
        self._notes: deque[bytes] = deque()

    # -- messages of the host -----------------------------------------------------------------------------------------

    @endpoint(OUT)
    def _take(self, transfer: Transfer) -> Answer:
        """A transfer of the class may be several of USB's; a short packet ends it, or that all of it is there."""
        if not transfer.length and not self._wanted:
            return done(transfer)  # the end of a message that filled its packets
        self._transfer += transfer.data
        if not self._wanted and not self._begin():
            return self._refuse()
        is_short = transfer.length % self.bulk(OUT).packet_size != 0
        if len(self._transfer) >= self._wanted or is_short:
            message, self._transfer = bytes(self._transfer), bytearray()
            wanted, self._wanted = self._wanted, 0
            if not self._whole(message, wanted):
                return self._refuse()
        return done(transfer)

    def _begin(self) -> bool:
        """Look at a header; whether it makes sense."""
        if len(self._transfer) < _REQUEST.size:
            return False
        kind, tag, inverse = _HEADER.unpack_from(self._transfer)
        if not tag or tag ^ inverse != 0xFF:
            return False
        self._out_tag, self._wanted = tag, _REQUEST.size
        if kind == MessageId.DEV_DEP_MSG_OUT:
            size = _OUT_HEADER.unpack_from(self._transfer)[3]
            self._wanted += size + -size % 4
            return bool(0 < size <= _MAX_MESSAGE)
        return kind in (MessageId.DEV_DEP_MSG_IN, MessageId.TRIGGER)

    def _whole(self, message: bytes, wanted: int) -> bool:
        """Do what a message asks for; whether it was all there. Some hosts leave out the bytes that align it."""
        kind, tag, _ = _HEADER.unpack_from(message)
        if kind == MessageId.TRIGGER:
            self.instrument.trigger()
        elif kind == MessageId.DEV_DEP_MSG_IN:
            _, _, _, size, attributes, term_char = _REQUEST.unpack_from(message)
            self._asked = _Asked(tag, size, term_char if attributes & _TERM_CHAR else None)
            self._unended, self._owes_end = b"", False
            self.kick(IN)
        else:
            _, _, _, size, attributes = _OUT_HEADER.unpack_from(message)
            if len(message) < _OUT_HEADER.size + size or len(self._program) + size > _MAX_MESSAGE:
                return False
            self._program += message[_OUT_HEADER.size : _OUT_HEADER.size + size]
            if attributes & _END:
                program, self._program = bytes(self._program), bytearray()
                log.debug("%r", program[:80])
                self.instrument.message(program)
                self.kick(IN)
        return True

    def _refuse(self) -> Completion:
        """What is no message halts the endpoint: TMC §3.2.2.1."""
        self._transfer, self._wanted, self._program = bytearray(), 0, bytearray()
        self.halt(OUT)
        return Completion(Ended.STALL)

    # -- answers ------------------------------------------------------------------------------------------------------

    @endpoint(IN)
    def _give(self, transfer: Transfer) -> Answer:
        """The answer to a request: header, bytes, alignment; a short packet ends it. None while there is nothing."""
        if self._unended or self._owes_end:
            return self._cut(transfer, self._unended)
        asked, instrument = self._asked, self.instrument
        if asked is None or not instrument.output:
            return None
        self._asked = None
        payload = instrument.take(asked.size, asked.term_char)
        attributes = _END * (not instrument.output)
        if asked.term_char is not None and payload[-1:] == bytes((asked.term_char,)):
            attributes |= _TERM_CHAR
        header = _IN_HEADER.pack(MessageId.DEV_DEP_MSG_IN, asked.tag, asked.tag ^ 0xFF, len(payload), attributes)
        return self._cut(transfer, header + payload + bytes(-len(payload) % 4))

    def _cut(self, transfer: Transfer, answer: bytes) -> Completion:
        """As much as a transfer has room for. One that is filled, by whole packets, does not say that this is all."""
        given, self._unended = answer[: transfer.length], answer[transfer.length :]
        is_full = len(given) == transfer.length
        self._owes_end = is_full and not self._unended and transfer.length % self.bulk(IN).packet_size == 0
        return data(given)

    # -- aborts and clear ---------------------------------------------------------------------------------------------

    @request(0xA2, Request.INITIATE_ABORT_BULK_OUT)
    def _abort_out(self, setup: Setup, data: bytes) -> bytes:
        _check(setup, OUT)
        if not self._wanted and not self._program:
            return bytes((Status.FAILED, 0))
        if setup.value != self._out_tag:
            return bytes((Status.TRANSFER_NOT_IN_PROGRESS, self._out_tag))
        self._transfer, self._wanted, self._program = bytearray(), 0, bytearray()
        return bytes((Status.SUCCESS, setup.value))

    @request(0xA2, Request.CHECK_ABORT_BULK_OUT_STATUS)
    def _abort_out_status(self, setup: Setup, data: bytes) -> bytes:
        _check(setup, OUT)
        return bytes((Status.SUCCESS,)) + bytes(7)

    @request(0xA2, Request.INITIATE_ABORT_BULK_IN)
    def _abort_in(self, setup: Setup, data: bytes) -> bytes:
        """The transfer ends with a short packet, which a host may fetch, or not: the next request does away with it."""
        _check(setup, IN)
        if self._asked is None and not self._unended:
            return bytes((Status.FAILED, 0))
        if self._asked is not None and setup.value != self._asked.tag:
            return bytes((Status.TRANSFER_NOT_IN_PROGRESS, self._asked.tag))
        self._asked, self._unended, self._owes_end = None, b"", True
        self.kick(IN)
        return bytes((Status.SUCCESS, setup.value))

    @request(0xA2, Request.CHECK_ABORT_BULK_IN_STATUS)
    def _abort_in_status(self, setup: Setup, data: bytes) -> bytes:
        _check(setup, IN)
        return bytes((Status.SUCCESS, 0)) + bytes(6)

    @request(0xA1, Request.INITIATE_CLEAR)
    def _clear(self, setup: Setup, data: bytes) -> bytes:
        """Everything half done is forgotten; bulk OUT is halted until the host has seen that: TMC §4.2.1.6."""
        _check(setup, 0)
        notes = self._notes
        self._forget()
        self._notes = notes
        self.instrument.clear()
        self.halt(OUT)
        return bytes((Status.SUCCESS,))

    @request(0xA1, Request.CHECK_CLEAR_STATUS)
    def _clear_status(self, setup: Setup, data: bytes) -> bytes:
        _check(setup, 0)
        return bytes((Status.SUCCESS, 0))

    # -- the rest -----------------------------------------------------------------------------------------------------

    @request(0xA1, Request.GET_CAPABILITIES)
    def _get_capabilities(self, setup: Setup, data: bytes) -> bytes:
        _check(setup, 0)
        return bytes((Status.SUCCESS, 0)) + _BCD + _CAPABILITIES + _BCD + _CAPABILITIES_488

    @request(0xA1, Request.INDICATOR_PULSE)
    def _pulse(self, setup: Setup, data: bytes) -> bytes:
        _check(setup, 0)
        self.pulses += 1
        return bytes((Status.SUCCESS,))

    @request(0xA1, Request.READ_STATUS_BYTE)
    def _read_status_byte(self, setup: Setup, data: bytes) -> bytes:
        """With an interrupt endpoint the byte comes there: 488 §4.3.1."""
        _check(setup, 0)
        if not 2 <= setup.value <= 127:
            raise Stall
        if len(self._notes) >= _MAX_NOTES:
            return bytes((Status.INTERRUPT_IN_BUSY, setup.value, 0))
        self._note(bytes((0x80 | setup.value, self.instrument.status_byte)))
        return bytes((Status.SUCCESS, setup.value, 0))

    @request(0xA1, Request.REN_CONTROL)
    def _remote_enable(self, setup: Setup, data: bytes) -> bytes:
        _check(setup, 0)
        self.is_remote = bool(setup.value & 1)
        return bytes((Status.SUCCESS,))

    @request(0xA1, Request.GO_TO_LOCAL)
    def _go_to_local(self, setup: Setup, data: bytes) -> bytes:
        _check(setup, 0)
        self.is_remote = False
        return bytes((Status.SUCCESS,))

    @request(0xA1, Request.LOCAL_LOCKOUT)
    def _local_lockout(self, setup: Setup, data: bytes) -> bytes:
        _check(setup, 0)
        return bytes((Status.SUCCESS,))

    @endpoint(INTERRUPT)
    def _report(self, transfer: Transfer) -> Answer:
        return data(self._notes.popleft()) if self._notes else None

    def _note(self, report: bytes) -> None:
        if len(self._notes) < _MAX_NOTES:
            self._notes.append(report)
            self.kick(INTERRUPT)

    # -- life ---------------------------------------------------------------------------------------------------------

    def settings_changed(self) -> None:
        self._forget()

    def was_reset(self) -> None:
        self._forget()
        self.instrument.clear()
        self.is_remote = False


def _check(setup: Setup, index: int) -> None:
    """Which interface or endpoint a request is for."""
    if setup.index != index:
        raise Stall
