"""A serial port, CDC-ACM: /dev/ttyACM0, bridged to a terminal, a TCP address, a file or itself.

    port = Serial(to="pty")
    port.coding, port.lines, port.breaking        # what the host chose: 115200 8N1, DTR and RTS, a break
    port.changed = lambda: print(port.lines)      # called after any of these changed
    port.signals |= Signals.RING                  # what the host is told: here, a ring
    port.bridge = MyBridge()                      # a far side in Python, see bridges.Bridge; before the first claim

No rate is a limit here: bytes go as fast as both sides take them, and none is lost when one is slow.
CTS is not the device's to tell: CDC has no word for it, and Linux shows it as always raised.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..usb.setup import Setup
from ..usb.transfer import Completion, Transfer
from ..usb.tree import Association, Configuration, DeviceDescriptor, Interface
from ..usb.types import Speed, Status
from . import cdc
from .bridges.bridge import make
from .bridges.stream import LIMIT, Stream
from .cdc import LineCoding, Lines, Request, Signals
from .chapter9 import Stall
from .clock import Clock, Timer
from .pipe import Answer
from .virtual import VirtualDevice, data, endpoint, request

log: Final = logging.getLogger(__name__)

OUT: Final = 0x01
IN: Final = 0x81
NOTIFY: Final = 0x82
_CONTROL_INTERFACE: Final = 0
_DATA_INTERFACE: Final = 1
_CAPABILITIES: Final = 0x02 | 0x04  # line coding, control lines and serial state; breaks: PSTN §5.3.2
_LASTING: Final = Signals.DCD | Signals.DSR
_UNTOLD: Final = 64  # notifications kept for a host that reads none; the last one is always the truth
_UNTIL_TOLD: Final = 0xFFFF  # milliseconds of a break without end, PSTN §6.3.13
_INTERVALS: Final = {Speed.FULL: 8}  # bInterval of 8 ms, in frames; in microframes it is 7: 2**6 * 125 us


class Serial(VirtualDevice):
    """`to` is the far side: echo, pty, tcp://HOST:PORT, listen://HOST:PORT, file:PATH or fifo:PATH. A pty's path may
    have a `link`; with a file, `input` is what the host reads. `buffer` is bytes held each way; `association` joins the
    two interfaces by a descriptor of its own (for composite drivers) rather than by the device's class.
    """

    # The kernel's own gadget g_serial has this pair, in just this mode: drivers take it by its class, with no quirks.
    descriptor = DeviceDescriptor(0x0525, 0xA4A7)
    product = "Serial port"

    def __init__(
        self,
        *,
        to: str = "echo",
        link: Path | None = None,
        input: Path | None = None,
        buffer: int = LIMIT,
        association: bool = True,
        speed: Speed = Speed.HIGH,
        serial: str = "",
        clock: Clock | None = None,
    ) -> None:
        self.speed = speed
        self.serial = serial
        self.bridge = make(to, link=link, input=input)
        self.stream = Stream(self, IN, OUT, self.bulk(IN).packet_size, buffer)
        self.changed: Callable[[], None] | None = None
        self.coding = LineCoding()
        self.lines = Lines(0)
        self.breaking = False
        self._break_ends: Timer | None = None
        self._signals = Signals.DSR
        self._untold: deque[Signals] = deque()
        self._association = association
        if association:
            # "Look for associations": USB Interface Association Descriptor Device Class Code and Use Model.
            self.descriptor = DeviceDescriptor(0x0525, 0xA4A7, 0x0200, 0xEF, 0x02, 0x01)
        else:
            self.descriptor = DeviceDescriptor(0x0525, 0xA4A7, 0x0200, cdc.COMMUNICATIONS)
        super().__init__(clock=clock)

    def configurations(self) -> tuple[Configuration, ...]:
        function = Association(_CONTROL_INTERFACE, 2, cdc.COMMUNICATIONS, cdc.ABSTRACT_CONTROL)
        return (Configuration(interfaces=self.interfaces(), associations=(function,) * self._association),)

    def interfaces(self) -> tuple[Interface, ...]:
        """Protocol 0 rather than 1: no AT commands, so that nobody's modem manager tries some."""
        return (
            Interface(
                _CONTROL_INTERFACE,
                interface_class=cdc.COMMUNICATIONS,
                interface_subclass=cdc.ABSTRACT_CONTROL,
                endpoints=(self.interrupt(NOTIFY, 16, _INTERVALS.get(self.speed, 7)),),
                extra=(
                    cdc.header(),
                    cdc.call_management(_DATA_INTERFACE),
                    cdc.abstract_control(_CAPABILITIES),
                    cdc.union(_CONTROL_INTERFACE, _DATA_INTERFACE),
                ),
            ),
            Interface(_DATA_INTERFACE, interface_class=cdc.DATA, endpoints=(self.bulk(OUT), self.bulk(IN))),
        )

    # -- data ---------------------------------------------------------------------------------------------------------

    @endpoint(OUT)
    def _take(self, transfer: Transfer) -> Answer:
        return self.stream.take(transfer)

    @endpoint(IN)
    def _give(self, transfer: Transfer) -> Answer:
        return self.stream.give(transfer)

    # -- what the host tells ------------------------------------------------------------------------------------------

    @request(0x21, Request.SET_LINE_CODING)
    def _set_line_coding(self, setup: Setup, data: bytes) -> None:
        _check(setup)
        try:
            coding = LineCoding.parse(data)
        except ValueError:
            raise Stall from None
        self.coding = coding
        log.info("%s: %s", self.bridge, coding)
        self.bridge.line_coding(coding)
        self._say_changed()

    @request(0xA1, Request.GET_LINE_CODING)
    def _get_line_coding(self, setup: Setup, data: bytes) -> bytes:
        _check(setup)
        return self.coding.pack()

    @request(0x21, Request.SET_CONTROL_LINE_STATE)
    def _set_control_lines(self, setup: Setup, data: bytes) -> None:
        _check(setup)
        self._set_lines(Lines(setup.value & (Lines.DTR | Lines.RTS)))  # D15..2 are reserved

    @request(0x21, Request.SEND_BREAK)
    def _send_break(self, setup: Setup, data: bytes) -> None:
        """For so many milliseconds, until told, or, with 0, no longer."""
        _check(setup)
        self._set_break(setup.value != 0)
        if setup.value not in (0, _UNTIL_TOLD):
            self._break_ends = self.clock.call_at(self.clock.now() + setup.value / 1000, lambda: self._set_break(False))

    def _set_lines(self, lines: Lines) -> None:
        if lines != self.lines:
            self.lines = lines
            log.info("%s: DTR %s, RTS %s", self.bridge, _on_off(Lines.DTR in lines), _on_off(Lines.RTS in lines))
            self.bridge.control_lines(lines)
            self._say_changed()

    def _set_break(self, on: bool) -> None:
        if self._break_ends is not None:
            self._break_ends.cancel()
            self._break_ends = None
        if on != self.breaking:
            self.breaking = on
            log.info("%s: break %s", self.bridge, _on_off(on))
            self.bridge.send_break(on)
            self._say_changed()

    def _say_changed(self) -> None:
        if self.changed is not None:
            self.changed()

    # -- what the host is told ----------------------------------------------------------------------------------------

    @property
    def signals(self) -> Signals:
        """The line as the device sees it: each change is told, and DCD follows the bridge's connection.

        DCD and DSR last. The others are events, told once and then down again without a word: PSTN §6.5.4.
        """
        return self._signals

    @signals.setter
    def signals(self, signals: Signals) -> None:
        if signals != self._signals:
            self._signals = signals & _LASTING
            if len(self._untold) >= _UNTOLD:
                self._untold.pop()
            self._untold.append(signals)
            self.kick(NOTIFY)

    @endpoint(NOTIFY)
    def _notify(self, transfer: Transfer) -> Completion | None:
        if not self._untold:
            return None
        state = cdc.serial_state(self.interface_number(_CONTROL_INTERFACE), self._untold.popleft())
        if len(state) > transfer.length:
            return Completion(Status.OVERFLOW, state[: transfer.length])
        return data(state)

    def _connected_changed(self) -> None:
        if self.bridge.connected:
            self.signals |= Signals.DCD
        else:
            self.signals &= ~Signals.DCD

    # -- life ---------------------------------------------------------------------------------------------------------

    async def plugged(self) -> None:
        self.bridge.connected_changed = self._connected_changed
        await self.bridge.start(self.stream.to_host, self.stream.from_host)

    async def unplugged(self) -> None:
        await self.bridge.stop()

    def settings_changed(self) -> None:
        """A host that begins knows nothing of the line, and takes it for dead until told otherwise."""
        self.stream.restart()
        self._untold.clear()
        self._untold.append(self._signals)

    def halt_cleared(self, address: int) -> None:
        if address == IN:
            self.stream.restart()

    def was_reset(self) -> None:
        """Nobody holds the lines any more. Bytes in both directions are kept, see `bridges`."""
        self._set_lines(Lines(0))
        self._set_break(False)
        self.coding = LineCoding()
        self.settings_changed()
        self.bridge.host_left()


def _check(setup: Setup) -> None:
    """All these requests are the control interface's."""
    if setup.index != _CONTROL_INTERFACE:
        raise Stall


def _on_off(is_on: bool) -> str:
    return "on" if is_on else "off"
