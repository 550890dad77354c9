"""SCPI: commands as instruments take them, their answers, the status registers and the error queue. No USB.

    class Meter(Instrument):
        identity = "ACME,Meter,1,1.0"

        @scpi("MEASure:VOLTage?")
        def _voltage(self):
            return "1.5"

        @scpi("RANGe<n>")                # RANG2 3.0; what is in <> is the method's first argument
        def _range(self, n, value): ...

Sources: "488.2" is IEEE 488.2-1992, "SCPI" is SCPI-1999 volume 1.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from enum import IntFlag
from typing import Any, ClassVar, Final, TypeVar

MAX_UNITS: Final = 64  # commands and queries of one message
MAX_OUTPUT: Final = 1 << 20  # bytes of answers to one message, after which no more is asked
_QUEUED: Final = 30  # errors kept; the last place is for the overflow, SCPI §21.8.1
_ERRORS: Final = {
    0: "No error",
    -100: "Command error",
    -108: "Parameter not allowed",
    -109: "Missing parameter",
    -113: "Undefined header",
    -222: "Data out of range",
    -223: "Too much data",
    -224: "Illegal parameter value",
    -225: "Out of memory",
    -350: "Queue overflow",
    -410: "Query INTERRUPTED",
    -420: "Query UNTERMINATED",
}
F = TypeVar("F", bound=Callable[..., Any])
Answer = str | bytes | None


class ScpiError(Exception):
    """A command that cannot be carried out; `code` is SCPI's."""

    def __init__(self, code: int) -> None:
        super().__init__(f'{code},"{_ERRORS[code]}"')
        self.code = code


class Event(IntFlag):
    """The standard event status register, 488.2 §11.5.1."""

    OPERATION_COMPLETE = 0x01
    QUERY_ERROR = 0x04
    DEVICE_ERROR = 0x08
    EXECUTION_ERROR = 0x10
    COMMAND_ERROR = 0x20
    POWER_ON = 0x80


class StatusByte(IntFlag):
    """What a serial poll or *STB? tells, 488.2 §11.2 and SCPI §20.1."""

    ERROR_QUEUE = 0x04
    MESSAGE_AVAILABLE = 0x10
    EVENT = 0x20
    REQUEST_SERVICE = 0x40


def scpi(header: str) -> Callable[[F], F]:
    """Mark a method as what carries out a command, or with `?` answers a query; capitals are the short form."""

    def mark(method: F) -> F:
        method._headers = (*getattr(method, "_headers", ()), header)  # type: ignore[attr-defined]
        return method

    return mark


def _pattern(header: str) -> re.Pattern[str]:
    """`CHANnel<n>:SCALe?` matches CHAN2:SCALE?, a colon in front or not."""
    parts = []
    for part in re.split(r"(<n>|[A-Z]+[a-z]*)", header):
        short = part.rstrip("abcdefghijklmnopqrstuvwxyz")
        if part == "<n>":
            parts.append("([0-9]{0,9})")
        elif short != part:
            parts.append(f"{short}(?:{part[len(short) :]})?")
        else:
            parts.append(re.escape(part))
    return re.compile(":?" + "".join(parts), re.IGNORECASE)


class Instrument:
    """Carries out messages. A subclass marks its commands with `scpi`, which raise ScpiError for what cannot be."""

    identity = "usbferry,Instrument,0,1.0"
    _commands: ClassVar[list[tuple[re.Pattern[str], str]]] = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = [(h, name) for name, value in vars(cls).items() for h in getattr(value, "_headers", ())]
        cls._commands = [(_pattern(header), name) for header, name in own] + cls._commands

    def __init__(self) -> None:
        self.output = b""  # the answer to the last message, as far as it was not fetched
        self._errors: deque[int] = deque()
        self._events = Event.POWER_ON
        self._event_enable = self._service_enable = 0
        self.reset()

    # -- for the bus --------------------------------------------------------------------------------------------------

    def message(self, data: bytes) -> None:
        """Carry out one whole program message; its answer, if it has one, is then in `output`."""
        if self.output:
            self.output = b""
            self.error(-410)
        answers, path, size = [], "", 0
        for count, unit in enumerate(_units(data.decode("latin-1"))):
            header = unit.partition(" ")[0]
            if count == MAX_UNITS or size > MAX_OUTPUT:  # the rest would keep all other devices waiting
                self.error(-223 if count == MAX_UNITS else -225)
                break
            try:
                answer = self._carry_out(unit, path)
                if ":" in header:
                    path = header.rpartition(":")[0] + ":"
            except ScpiError as error:
                self.error(error.code)
            else:
                if answer is not None:
                    answers.append(answer.encode("latin-1", "replace") if isinstance(answer, str) else answer)
                    size += len(answers[-1])
        if answers:
            self.output = b";".join(answers) + b"\n"

    def take(self, count: int, end: int | None = None) -> bytes:
        """Fetch up to `count` bytes of the answer, no further than the first byte `end`."""
        at = self.output.find(end) if end is not None else -1
        count = min(count, at + 1) if at >= 0 else count
        taken, self.output = self.output[:count], self.output[count:]
        return taken

    def clear(self) -> None:
        """A device clear: what was asked and not answered is forgotten, settings and status are not."""
        self.output = b""

    def error(self, code: int) -> None:
        """Note an error in the queue and in the event register."""
        if len(self._errors) < _QUEUED:
            self._errors.append(code)
        else:
            self._errors[-1] = -350
        for limit, event in _EVENTS:
            if code <= limit:
                self._events |= event
                return

    @property
    def status_byte(self) -> StatusByte:
        """As a serial poll reads it."""
        status = StatusByte(0)
        if self._errors:
            status |= StatusByte.ERROR_QUEUE
        if self.output:
            status |= StatusByte.MESSAGE_AVAILABLE
        if self._events & self._event_enable:
            status |= StatusByte.EVENT
        if status & self._service_enable:
            status |= StatusByte.REQUEST_SERVICE
        return status

    # -- what a subclass may do ---------------------------------------------------------------------------------------

    def reset(self) -> None:
        """*RST: settings as they are after power-on."""

    def trigger(self) -> None:
        """*TRG, or the bus's trigger."""

    # -- 488.2 --------------------------------------------------------------------------------------------------------

    def _carry_out(self, unit: str, path: str) -> Answer:
        """`path` is that of the unit before, where the header may go on: SCPI §6.2.4."""
        header, _, rest = unit.partition(" ")
        parameters = [one.strip() for one in rest.split(",")] if rest.strip() else []
        for whole in (path + header, header) if header[0] not in ":*" else (header,):
            for pattern, name in self._commands:
                found = pattern.fullmatch(whole)
                if found is not None:
                    numbers = [int(number or 1) for number in found.groups()]
                    return _called(getattr(self, name), numbers, parameters)
        raise ScpiError(-113)

    @scpi("*IDN?")
    def _identify(self) -> str:
        return self.identity

    @scpi("*RST")
    def _reset(self) -> None:
        self.reset()

    @scpi("*CLS")
    def _clear_status(self) -> None:
        self._errors.clear()
        self._events = Event(0)

    @scpi("*TRG")
    def _trigger(self) -> None:
        self.trigger()

    @scpi("*TST?")
    def _test(self) -> str:
        return "0"

    @scpi("*OPC?")
    def _is_complete(self) -> str:
        return "1"

    @scpi("*OPC")
    def _complete(self) -> None:
        self._events |= Event.OPERATION_COMPLETE

    @scpi("*WAI")
    def _wait(self) -> None:
        """Every command is done when the next begins."""

    @scpi("*ESE")
    def _enable_events(self, value: str) -> None:
        self._event_enable = number(value, 0, 255)

    @scpi("*ESE?")
    def _enabled_events(self) -> str:
        return str(self._event_enable)

    @scpi("*ESR?")
    def _read_events(self) -> str:
        events, self._events = self._events, Event(0)
        return str(int(events))

    @scpi("*SRE")
    def _enable_service(self, value: str) -> None:
        self._service_enable = number(value, 0, 255) & ~int(StatusByte.REQUEST_SERVICE)

    @scpi("*SRE?")
    def _enabled_service(self) -> str:
        return str(self._service_enable)

    @scpi("*STB?")
    def _read_status_byte(self) -> str:
        return str(int(self.status_byte))

    @scpi("SYSTem:ERRor?")
    @scpi("SYSTem:ERRor:NEXT?")
    def _next_error(self) -> str:
        return str(ScpiError(self._errors.popleft() if self._errors else 0))

    @scpi("SYSTem:VERSion?")
    def _version(self) -> str:
        return "1999.0"


Instrument._commands = [
    (_pattern(header), name) for name, value in vars(Instrument).items() for header in getattr(value, "_headers", ())
]
_EVENTS: Final = (
    (-400, Event.QUERY_ERROR),
    (-300, Event.DEVICE_ERROR),
    (-200, Event.EXECUTION_ERROR),
    (-100, Event.COMMAND_ERROR),
)


def _units(message: str) -> list[str]:
    return [unit.strip() for line in message.split("\n") for unit in line.split(";") if unit.strip()]


def _called(method: Callable[..., Answer], numbers: list[int], parameters: list[str]) -> Answer:
    code = method.__code__
    wanted = code.co_argcount - 1 - len(numbers)
    if len(parameters) != wanted:
        raise ScpiError(-109 if len(parameters) < wanted else -108)
    return method(*numbers, *parameters)


def number(text: str, low: float, high: float) -> int:
    """A whole number. Raises ScpiError."""
    return round(decimal(text, low, high))


def decimal(text: str, low: float, high: float) -> float:
    """A number such as 1, 2.5 or 1E-3. Raises ScpiError."""
    try:
        value = float(text)
    except ValueError:
        raise ScpiError(-224) from None
    if not low <= value <= high:
        raise ScpiError(-222)
    return value


def block(data: bytes) -> bytes:
    """A definite length block, 488.2 §8.7.9."""
    length = str(len(data)).encode()
    return b"#%d" % len(length) + length + data
