"""The answers of an exporter that are all said by their status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ..record import Record
from .messages import (
    AltSettingStatus,
    BulkReceivingStatus,
    BulkStreamsStatus,
    ConfigurationStatus,
    DraftBulkStreamsStatus,
    StreamStatus,
    Type,
    WireStatus,
)
from .settings import UNKNOWN

Make = Callable[[Any, WireStatus], Record]


def _bulk_streams(count: Callable[[Any], int]) -> Make:
    """As many streams as were asked for, or none; in the draft they are of one endpoint."""

    def make(body: Any, status: WireStatus) -> Record:
        if hasattr(body, "endpoints"):
            return BulkStreamsStatus(body.endpoints, count(body), status)
        return DraftBulkStreamsStatus(status, body.endpoint, count(body))

    return make


def _stream(body: Any, status: WireStatus) -> Record:
    return StreamStatus(status, body.endpoint)


def _receiving(body: Any, status: WireStatus) -> Record:
    return BulkReceivingStatus(body.stream_id, body.endpoint, status)


def _configuration(body: Any, status: WireStatus) -> Record:
    return ConfigurationStatus(status, 0)


def _alternate(body: Any, status: WireStatus) -> Record:
    return AltSettingStatus(status, body.interface, UNKNOWN)


# type of a question -> type of its answer, and what makes that of the question's layout and a status
ANSWERS: Final[dict[int, tuple[Type, Make]]] = {
    Type.SET_CONFIGURATION: (Type.CONFIGURATION_STATUS, _configuration),
    Type.GET_CONFIGURATION: (Type.CONFIGURATION_STATUS, _configuration),
    Type.SET_ALT_SETTING: (Type.ALT_SETTING_STATUS, _alternate),
    Type.GET_ALT_SETTING: (Type.ALT_SETTING_STATUS, _alternate),
    Type.START_ISO_STREAM: (Type.ISO_STREAM_STATUS, _stream),
    Type.STOP_ISO_STREAM: (Type.ISO_STREAM_STATUS, _stream),
    Type.START_INTERRUPT_RECEIVING: (Type.INTERRUPT_RECEIVING_STATUS, _stream),
    Type.STOP_INTERRUPT_RECEIVING: (Type.INTERRUPT_RECEIVING_STATUS, _stream),
    Type.START_BULK_RECEIVING: (Type.BULK_RECEIVING_STATUS, _receiving),
    Type.STOP_BULK_RECEIVING: (Type.BULK_RECEIVING_STATUS, _receiving),
    Type.ALLOC_BULK_STREAMS: (Type.BULK_STREAMS_STATUS, _bulk_streams(lambda body: body.count)),
    Type.FREE_BULK_STREAMS: (Type.BULK_STREAMS_STATUS, _bulk_streams(lambda body: 0)),
}
