"""A printer, /dev/usb/lp0: what a host prints goes to a file, a FIFO, a network printer, or stays in memory.

    printer = Printer()
    printer.paper                                  # what was printed, the last megabyte of it
    printer.status = Port.SELECTED                 # the cover is open: it takes nothing more until that is over
    printer.status = OUT_OF_PAPER                  # the same, and why
    printer.status = READY

Source: Universal Serial Bus Device Class Definition for Printing Devices 1.1. As a thermal printer does, it answers
`DLE EOT n` at once, wherever in the data that is: Epson, ESC/POS command reference.
"""

from __future__ import annotations

import re
from enum import IntEnum, IntFlag
from typing import Final

from ..usb.setup import Setup
from ..usb.transfer import Transfer
from ..usb.tree import DeviceDescriptor, Interface
from ..usb.types import Speed
from .bridges.bridge import Bridge, make
from .bridges.stream import Stream
from .chapter9 import Stall
from .clock import Clock
from .pipe import Answer
from .virtual import VirtualDevice, done, endpoint, request

OUT: Final = 0x01
IN: Final = 0x82  # ESC/POS programs take these two for granted
_KEPT: Final = 1 << 20  # bytes of `paper`
_STATUS_REQUEST: Final = re.compile(rb"\x10\x04([\x01-\x04])")  # DLE EOT n
_STATUS_REQUESTS: Final = re.compile(rb"(\x10\x04[\x01-\x04])+")
_TAIL: Final = 2  # bytes of such a request that the last transfer may have ended with
_ESCPOS: Final = "ESC/POS"


class Protocol(IntEnum):
    """bInterfaceProtocol, table 3."""

    UNIDIRECTIONAL = 1
    BIDIRECTIONAL = 2


class Port(IntFlag):
    """What GET_PORT_STATUS tells, §4.2.2: the pins of a parallel port."""

    NOT_ERROR = 0x08
    SELECTED = 0x10
    PAPER_EMPTY = 0x20


READY: Final = Port.NOT_ERROR | Port.SELECTED
OUT_OF_PAPER: Final = Port.SELECTED | Port.PAPER_EMPTY


class Paper(Bridge):
    """The far side that keeps the end of what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = bytearray()

    async def begin(self) -> None:
        self.connected = True

    def pass_on(self) -> None:
        self.kept += self.from_host.take(len(self.from_host))
        del self.kept[:-_KEPT]

    def __str__(self) -> str:
        return "paper"


class Printer(VirtualDevice):
    """`to` is where the prints go: a file:PATH, fifo:PATH, tcp://HOST:PORT (9100 is a network printer's), or as for
    `serial`; memory where there is none. `language` is the CMD of its device id, by which systems choose a driver;
    `id` replaces all of that. A far side that is no file may answer, unless the printer is not `bidirectional`.
    """

    descriptor = DeviceDescriptor(0x0525, 0xA4A8)  # as Linux's own gadget g_printer
    product = "Printer"

    def __init__(
        self,
        *,
        to: str = "",
        language: str = _ESCPOS,
        id: str = "",
        bidirectional: bool = True,
        product: str = "",
        serial: str = "",
        speed: Speed = Speed.HIGH,
        clock: Clock | None = None,
    ) -> None:
        self.speed = speed
        self.serial = serial
        self.product = product or self.product
        self.id = id or f"MFG:{self.manufacturer};MDL:{self.product};CMD:{language};CLS:PRINTER;"
        if not self.id.isascii():
            raise ValueError(f"a device id is made of ASCII characters, as IEEE 1284 has it: {self.id!r}")
        self.bridge = make(to) if to else Paper()
        self._answers = language == _ESCPOS and bidirectional and to.partition(":")[0] in ("", "file", "fifo")
        self._bidirectional = bidirectional
        self._tail = b""
        self._status = READY
        self.stream = Stream(self, IN, OUT, self.bulk(OUT).packet_size)
        super().__init__(clock=clock)

    def interfaces(self) -> tuple[Interface, ...]:
        back = (self.bulk(IN),) * self._bidirectional
        protocol = Protocol.BIDIRECTIONAL if self._bidirectional else Protocol.UNIDIRECTIONAL
        return (Interface(0, 0, 0x07, 0x01, protocol, (self.bulk(OUT), *back)),)

    # -- for people ---------------------------------------------------------------------------------------------------

    @property
    def paper(self) -> bytes:
        """What was printed, when there is no other place for it: the last megabyte."""
        return bytes(self.bridge.kept) if isinstance(self.bridge, Paper) else b""

    @property
    def status(self) -> Port:
        """What the port says. While it has an error or no paper, or is not selected, the printer takes nothing."""
        return self._status

    @status.setter
    def status(self, status: Port) -> None:
        self._status = status
        self.kick(OUT)

    # -- data ---------------------------------------------------------------------------------------------------------

    @endpoint(OUT)
    def _take(self, transfer: Transfer) -> Answer:
        asked = bytes(transfer.data) if self._answers else b""
        if self._status != READY:
            if not _STATUS_REQUESTS.fullmatch(asked):
                return None
            self._answer(asked)  # thermal printers tell so why they take nothing else
            return done(transfer)
        answer = self.stream.take(transfer)
        if answer is not None and asked:
            self._answer(self._tail + asked)
            self._tail = (self._tail + asked)[-_TAIL:]
        return answer

    @endpoint(IN)
    def _give(self, transfer: Transfer) -> Answer:
        return self.stream.give(transfer)

    def _answer(self, data: bytes) -> None:
        for found in _STATUS_REQUEST.finditer(data):
            if self.stream.to_host.room:
                self.stream.to_host.put(bytes([self._told(found[1][0])]))
                self._tail = b""

    def _told(self, which: int) -> int:
        """One byte of DLE EOT n: 1 printer, 2 why it is offline, 3 errors, 4 paper."""
        is_empty, is_offline = Port.PAPER_EMPTY in self._status, self._status != READY
        bits = {1: 0x08 * is_offline, 2: 0x20 * is_empty | 0x04 * (is_offline and not is_empty), 4: 0x60 * is_empty}
        return 0x12 | bits.get(which, 0)

    # -- requests -----------------------------------------------------------------------------------------------------

    @request(0xA1, 0x00, interface_at=8)
    def _get_device_id(self, setup: Setup, data: bytes) -> bytes:
        """IEEE 1284: its length, which counts itself, is big-endian. wValue is a configuration's index,
        wIndex has the interface in its high byte, and its alternate setting."""
        if setup.value or setup.index:
            raise Stall
        text = self.id.encode("ascii")
        return (len(text) + 2).to_bytes(2, "big") + text

    @request(0xA1, 0x01)
    def _get_port_status(self, setup: Setup, data: bytes) -> bytes:
        _check(setup)
        return bytes([self._status])

    @request(0x23, 0x02)
    def _soft_reset_1_0(self, setup: Setup, data: bytes) -> None:
        """Version 1.0 had another recipient, and Linux tries that first."""
        self._soft_reset(setup, data)

    @request(0x21, 0x02)
    def _soft_reset(self, setup: Setup, data: bytes) -> None:
        """Buffers are emptied and halts end."""
        _check(setup)
        self.stream.from_host.clear()
        self.stream.to_host.clear()
        self._tail = b""
        for address in (OUT, IN)[: 1 + self._bidirectional]:
            self.set_halt(address, False)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def plugged(self) -> None:
        await self.bridge.start(self.stream.to_host, self.stream.from_host)

    async def unplugged(self) -> None:
        await self.bridge.stop()

    def settings_changed(self) -> None:
        self.stream.restart()

    def halt_cleared(self, address: int) -> None:
        if address == IN:
            self.stream.restart()

    def was_reset(self) -> None:
        """What is printed is printed; answers that nobody fetched are for nobody else."""
        self._tail = b""
        if self._answers:
            self.stream.to_host.clear()
        self.stream.restart()
        self.bridge.host_left()


def _check(setup: Setup) -> None:
    """All these are for interface 0."""
    if setup.value or setup.index:
        raise Stall
