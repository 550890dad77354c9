"""What became of a transfer, in a sentence: for errors that a program or its user reads. Logs have a shorter form."""

from __future__ import annotations

from typing import Final

from .setup import Setup
from .transfer import Completion, Transfer
from .types import Status

_HOW: Final = {
    Status.OK: "it went well",
    Status.STALL: "the endpoint is halted, or not there in the settings in force",
    Status.CANCELLED: "it was cancelled",
    Status.GONE: "the device is gone",
    Status.SHUTDOWN: "the device was closed, or a setting changed, meanwhile",
    Status.TIMEOUT: "it took too long",
    Status.SHORT: "less came than had to",
    Status.OVERFLOW: "the device sent more than was asked for",
    Status.PROTOCOL: "the device's answer was garbled",
    Status.CRC: "the device's answer was garbled (CRC)",
    Status.NO_RESPONSE: "the device did not answer",
    Status.UNDERRUN: "the other side could not feed the bus in time",
    Status.OVERRUN: "the other side could not take from the bus in time",
    Status.NOT_DONE: "its time on the bus had passed",
    Status.NO_MEMORY: "it is more at once than the other side takes",
    Status.NO_BANDWIDTH: "the bus has no bandwidth left for it",
    Status.INVALID: "it makes no sense on this endpoint",
    Status.BUSY: "the endpoint is busy",
    Status.FAILED: "it failed at the other side",
}


def what(transfer: Transfer) -> str:
    """The transfer: "reading 64 bytes from endpoint 0x81"."""
    if len(transfer.setup) == 8:
        return f"control request {Setup.parse(transfer.setup)}"
    unit = f"{len(transfer.packets)} packets" if transfer.packets is not None else f"{transfer.length} bytes"
    verb, way = ("reading", "from") if transfer.is_in else ("writing", "to")
    return f"{verb} {unit} {way} endpoint {transfer.endpoint:#04x}"


def said(transfer: Transfer, completion: Completion, why: str = "") -> str:
    """The transfer and its end; `why` is the reason of a device that is gone."""
    status = Status(completion.status)
    how = "the device refuses it" if status is Status.STALL and not transfer.endpoint & 0x0F else _HOW[status]
    done = f", {completion.actual} bytes were done" if completion.actual and status is not Status.OK else ""
    return f"{what(transfer)}: {how}{f': {why}' if why else ''}{done}"
