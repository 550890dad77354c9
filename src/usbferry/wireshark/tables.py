"""The tables of the protocols' modules as Lua source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, Final

from ..protocols.ferry import infos, messages
from ..protocols.ferry.framing import QUANTUM, RECORD_BYTES
from ..protocols.record import Record
from ..protocols.usbip.messages import ERRNO
from ..protocols.usbredir import messages as redir
from ..usb.types import Speed, Status

Value = int | str | bool | Mapping[Any, Any] | tuple[Any, ...]

# Those that stand at the beginning of a message or a body, by their own names.
_FERRY_LAYOUTS: Final = (
    messages.CallHeader,
    messages.ReplyHeader,
    messages.VersionCall,
    messages.VersionReply,
    messages.Part,
    messages.Interrupt,
    messages.Isochronous,
    messages.IsochronousReply,
    messages.IsoResult,
    infos.Fixed,
)


def ferry() -> str:
    """Of ferry."""
    errnos = {messages.code_of(status): ERRNO[status] for status in Status}
    return _locals(
        PORT=messages.PORT,
        TOKEN_BYTES=messages.TOKEN_BYTES,
        RECORD_BYTES=RECORD_BYTES,
        QUANTUM=QUANTUM,
        CALLS=_names(messages.Call),
        TRANSPORT_CALLS={int(call): True for call in sorted(messages.TRANSPORT_CALLS)},
        STATUSES={**{messages.code_of(s): s.name for s in Status}, **_names(messages.Code)},
        ERRNOS=errnos,
        SPEEDS=_names(Speed),
        CAPABILITIES=_bits(messages.Capability),
        FLAGS=_bits(messages.WireFlags),
        LAYOUTS={layout.__name__: _layout(layout) for layout in _FERRY_LAYOUTS},
    )


def usbredir() -> str:
    """Of usbredir 0.7; the draft is not decoded."""
    layouts = {row.layout for row in redir.RELEASED.values()}
    types = {
        int(kind): {
            "name": redir.Type(kind).name,
            "layout": row.layout.__name__,
            "data": row.data,
            **({"sender": row.sender.value} if row.sender is not redir.Sender.BOTH else {}),
        }
        for kind, row in redir.RELEASED.items()
    }
    grown = {
        layout.__name__: tuple((int(capability), size) for capability, size in steps)
        for layout, steps in redir.GROWN.items()
    }
    return _locals(
        PORT=redir.PORT,
        TYPES=types,
        STATUSES=_names(redir.WireStatus),
        ERRNOS={int(number): ERRNO[redir.status_of(number)] for number in redir.WireStatus},
        SPEEDS={redir.wire_speed(speed): speed.name for speed in (Speed.LOW, Speed.FULL, Speed.HIGH, Speed.SUPER)},
        CAPABILITIES={1 << bit: bit.name for bit in redir.Capability},
        GROWN=grown,
        LAYOUTS={layout.__name__: _layout(layout) for layout in sorted(layouts, key=lambda one: one.__name__)},
    )


def _names(members: type[IntEnum]) -> dict[int, str]:
    return {int(member): member.name for member in members}


def _bits(members: Iterable[Any]) -> dict[int, str]:
    return {int(member): member.name for member in members}


def _layout(layout: type[Record]) -> tuple[tuple[str, str], ...]:
    """Fields in wire order, each with its struct code."""
    return tuple(layout.FORMATS.items())


def _locals(**values: Value) -> str:
    return "\n".join(f"local {name} = {_lua(value)}" for name, value in values.items())


def _lua(value: Value) -> str:
    """A value as Lua writes it: mappings and tuples are tables."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(int(value))
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case tuple():
            return "{" + ", ".join(_lua(one) for one in value) + "}"
    return "{" + ", ".join(f"[{_lua(key)}] = {_lua(one)}" for key, one in value.items()) + "}"
