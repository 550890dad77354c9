"""The generated parts of protocols/ferry.md: tables of layouts, calls and codes, and diagrams of states, from the code.

They stand between `<!-- generated: WHAT -->` and `<!-- end -->`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from struct import calcsize
from typing import Any, Final

from usbferry.protocols.ferry import framing, infos, messages, states
from usbferry.protocols.ferry.messages import TRANSFER, Call, Code
from usbferry.protocols.usbip.messages import ERRNO
from usbferry.protocols.usbredir.messages import STATUS
from usbferry.usb.types import Status

PATH: Final = Path(__file__).parent / "protocols" / "ferry.md"
_PLACE: Final = re.compile(r"(<!-- generated: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)

# Linux's names of the numbers that stand in ERRNO: Python's `errno` has others on other systems.
_ERRNO_NAMES: Final = {
    0: "0", -12: "ENOMEM", -16: "EBUSY", -18: "EXDEV", -19: "ENODEV", -22: "EINVAL", -28: "ENOSPC", -32: "EPIPE",
    -62: "ETIME", -63: "ENOSR", -70: "ECOMM", -71: "EPROTO", -75: "EOVERFLOW", -84: "EILSEQ", -104: "ECONNRESET",
    -108: "ESHUTDOWN", -110: "ETIMEDOUT", -121: "EREMOTEIO",
}  # fmt: skip

# enum libusb_transfer_status: 0 COMPLETED, 1 ERROR, 2 TIMED_OUT, 3 CANCELLED, 4 STALL, 5 NO_DEVICE, 6 OVERFLOW
LIBUSB: Final[dict[Status, str]] = {
    **dict.fromkeys(Status, "ERROR"),
    Status.OK: "COMPLETED",
    Status.STALL: "STALL",
    Status.CANCELLED: "CANCELLED",
    Status.GONE: "NO_DEVICE",
    Status.SHUTDOWN: "CANCELLED",
    Status.TIMEOUT: "TIMED_OUT",
    Status.SHORT: "COMPLETED",
    Status.OVERFLOW: "OVERFLOW",
}


def page() -> str:
    """The document with its generated parts made anew."""
    return _PLACE.sub(lambda found: found[1] + _part(found[2]) + found[3], PATH.read_text(encoding="utf-8"))


def _part(what: str) -> str:
    kind, *names = what.split()
    return "\n".join(_PARTS[kind](*names)) + "\n"


def _states(name: str) -> Iterator[str]:
    """A diagram of one side."""
    table: dict[tuple[Enum, str], Enum] = getattr(states, name.upper())
    kind: Any = getattr(states, name.capitalize())
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {next(iter(kind)).value}"
    for (before, what), after in table.items():
        yield f"    {before.value} --> {after.value}: {what}"
    yield "```"


def _layout(*names: str) -> Iterator[str]:
    """Byte by byte, one layout after another."""
    yield "| Offset | Size | Field | |"
    yield "| --- | --- | --- | --- |"
    offset = 0
    for name in names:
        layout: Any = getattr(messages, name, None) or getattr(infos, name)
        comments = _comments(layout)
        for field, code in layout.FORMATS.items():
            yield f"| {offset} | {calcsize('>' + code)} | {field} | {comments.get(field, '')} |".replace("  ", " ")
            offset += calcsize(">" + code)


def _calls() -> Iterator[str]:
    yield "| Number | Call | Belongs to | |"
    yield "| --- | --- | --- | --- |"
    comments = _comments(Call)
    for call in Call:
        owner = "session" if call in messages.SESSION_CALLS else "transport" if call != Call.PART else "either"
        yield f"| {call.value} | {call.name} | {owner} | {comments.get(call.name, '')} |".replace("  ", " ")


def _codes() -> Iterator[str]:
    yield "| Status | Name | |"
    yield "| --- | --- | --- |"
    comments = _comments(Code)
    for code in Code:
        yield f"| {code.value} | {code.name} | {comments.get(code.name, '')} |".replace("  ", " ")


def _statuses() -> Iterator[str]:
    """Total: every way in which a transfer ends."""
    yield "| Status | Name | Linux errno, USB/IP | usbredir | libusb | |"
    yield "| --- | --- | --- | --- | --- | --- |"
    comments = _comments(Status)
    for one in Status:
        number = TRANSFER + one if one else 0
        names = (_ERRNO_NAMES[ERRNO[one]], STATUS[one].name.lower(), LIBUSB[one])
        yield f"| {number} | {one.name} | {' | '.join(names)} | {comments.get(one.name, '')} |".replace("  ", " ")


def _limits() -> Iterator[str]:
    yield "| Name | Value |"
    yield "| --- | --- |"
    for name, value in (
        ("data in one record", framing.PART_BYTES),
        ("record, without its marker", framing.RECORD_BYTES),
        ("step of the offsets of parts", framing.QUANTUM),
        ("what a message in parts may have besides its data", framing.OVERHEAD),
        ("heartbeats that may be missing", messages.SILENT_HEARTBEATS),
    ):
        yield f"| {name} | {value} |"


def _comments(owner: type) -> dict[str, str]:
    """What stands beside the fields of a class."""
    found = re.findall(r"^    (\w+)(?::[^=#\n]*)?(?: = [^#\n]*)?  # (.*)$", inspect.getsource(owner), re.MULTILINE)
    return {name: text.replace("|", "\\|") for name, text in found}


_PARTS: Final[dict[str, Callable[..., Iterator[str]]]] = {
    "states": _states,
    "layout": _layout,
    "calls": _calls,
    "codes": _codes,
    "statuses": _statuses,
    "limits": _limits,
}
