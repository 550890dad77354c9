"""What a capture says of one transfer: that it was submitted, and how it ended. The same for every format."""

from __future__ import annotations

from typing import NamedTuple

from ...usb.transfer import Buffer
from ...usb.types import Status, TransferType


class CaptureError(ValueError):
    """A file that is no capture, or none that can be used. The text is one line for the user."""


class Packet(NamedTuple):
    """One isochronous packet."""

    status: Status
    data: Buffer  # what came, of an IN transfer that ended, or was sent with an OUT transfer


class Event(NamedTuple):
    """One record. `data` is what an OUT transfer sent (on submission) or an IN transfer brought (at its end)."""

    seconds: float  # since the epoch
    device: tuple[int, int]  # bus, address
    transfer: int  # pairs the two; used again once it has ended
    is_end: bool
    type: TransferType
    endpoint: int  # with the direction bit
    status: Status
    length: int  # bytes asked for on submission, done at the end
    data: Buffer = b""
    setup: bytes = b""  # of a control transfer's submission
    packets: tuple[Packet, ...] = ()  # of an isochronous transfer
    is_whole: bool = True  # False where the capture kept only the first bytes
