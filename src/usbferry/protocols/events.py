"""What an exporter tells its pump and an importer its user, the same for every protocol.

    exporter.receive(view)  ->  for event in exporter.events()  ->  the pump answers  ->  exporter.outgoing()

Each event carries a `tag` that the pump hands back with the answer. Events come one at a time, and each is answered, or
taken into work, before the next message is parsed, for what the next bytes mean may depend on the answer. A Submit that
was answered by then is done with: the next one may be the same object.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from ..usb.info import DeviceInfo
from ..usb.transfer import Buffer, Completion, IsoPacket, Transfer
from ..usb.types import Status
from .pending import Entry

LENT_FROM: Final = 4096  # bytes of an IN transfer's data from which an importer lends them: less is copied as fast


class Event:
    """One thing the importer wants."""

    __slots__ = ()


class Submit(Entry, Event):
    """Do a transfer. Answer: `complete(tag, completion)`, once. Until then the exporter keeps it in its `Pending`."""

    __slots__ = ()


class Cancel(Event):
    """End the transfer of `tag` early if possible. No answer of its own: the Submit's answer still comes."""

    __slots__ = ("tag", "transfer")

    def __init__(self, tag: int, transfer: Transfer) -> None:
        self.tag = tag
        self.transfer = transfer


class List(Event):
    """Which devices are there? Answer: `listed(devices)`."""

    __slots__ = ()


class Claim(Event):
    """Open the device `name` for this importer. Answer: `accept(info)` or `refuse(reason)`."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Release(Event):
    """Give the claimed device back; the connection goes on. Answer: `released()`, once it is closed and reset."""

    __slots__ = ()


class Resume(Event):
    """Take up an earlier session on this transport.

    The session's own exporter gets the transport and says so; where there is no such session: `refuse(NOT_FOUND)`.
    """

    __slots__ = ("session",)

    def __init__(self, session: bytes) -> None:
        self.session = session


class Watch(Event):
    """Tell the importer when devices come, go or change hands. Answer: `noticed()`, at each change from now on."""

    __slots__ = ()


class Describe(Event):
    """Say again what the claimed device is: its settings may have changed. Answer: `described(info)`."""

    __slots__ = ()


class Reset(Event):
    """Reset the claimed device. Answer: `reset_done(tag, outcome)`; later transfers wait for it."""

    __slots__ = ("tag",)

    def __init__(self, tag: int) -> None:
        self.tag = tag


class AllocStreams(Event):
    """Set up bulk streams. Answer: `complete(tag, completion)` without data."""

    __slots__ = ("count", "endpoints", "tag")

    def __init__(self, tag: int, endpoints: tuple[int, ...], count: int) -> None:
        self.tag = tag
        self.endpoints = endpoints
        self.count = count


class FreeStreams(Event):
    """Give bulk streams back. Answer: `complete(tag, completion)` without data."""

    __slots__ = ("endpoints", "tag")

    def __init__(self, tag: int, endpoints: tuple[int, ...]) -> None:
        self.tag = tag
        self.endpoints = endpoints


class Suspend(Event):
    """The importer's system put the device to sleep. No answer."""

    __slots__ = ()


class Wake(Event):
    """The importer's system woke the device. No answer."""

    __slots__ = ()


class Note(Event):
    """Something that a person should read, and that is no fault of the protocol's. No answer."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Refusal(Enum):
    """Why a claim failed, in the words every protocol maps to its own."""

    NOT_FOUND = "not found"
    BUSY = "busy"
    FAILED = "failed"
    UNAVAILABLE = "unavailable"  # not now: the server drains, or a limit is reached


# What an importer tells its user. Its questions are method calls; these are the answers.


class Listed(Event):
    """The peer's devices."""

    __slots__ = ("devices",)

    def __init__(self, devices: list[DeviceInfo]) -> None:
        self.devices = devices


class Claimed(Event):
    """The device is ours. `info` is what the peer said of it; its descriptors have yet to be read."""

    __slots__ = ("info",)

    def __init__(self, info: DeviceInfo) -> None:
        self.info = info


class Refused(Event):
    """The peer said no; `text` is its reason in words."""

    __slots__ = ("reason", "text")

    def __init__(self, reason: Refusal, text: str) -> None:
        self.reason = reason
        self.text = text


class Completed(Completion, Event):
    """A transfer ended: its completion, and which it was. One object, for there is one of these for each transfer."""

    __slots__ = ("tag",)

    def __init__(
        self,
        tag: int,
        status: int = Status.OK,
        data: Buffer = b"",
        actual: int = -1,
        packets: list[IsoPacket] | None = None,
        start_frame: int = 0,
    ) -> None:
        self.tag = tag  # the rest as Completion has it, whose own __init__ would be one more call for each transfer
        self.status = status
        self.data = data
        self.actual = len(data) if actual < 0 else actual
        self.packets = packets
        self.start_frame = start_frame

    @classmethod
    def of(cls, tag: int, completion: Completion) -> Completed:
        """That a transfer ended so."""
        one = completion
        return cls(tag, one.status, one.data, one.actual, one.packets, one.start_frame)


class Lent(Completed):
    """The same, with data that is lent, as what it was read from is. Who keeps it copies them."""

    __slots__ = ()


class Changed(Event):
    """Something changed at the peer: its list is worth asking for again."""

    __slots__ = ()


class Left(Event):
    """The device left; the connection goes on, and may see another. What was in flight has ended before."""

    __slots__ = ()
