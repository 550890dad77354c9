"""The streams that an exporter runs: started and stopped by the importer, fed from the device, one for an endpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from ...usb.transfer import Completion
from ...usb.types import TransferType
from ..events import Cancel, Event, Submit
from ..limits import Limits
from .codec import Packet
from .messages import BulkReceivingStatus, StreamStatus, Type, WireStatus
from .settings import Settings
from .streams import (
    INTERRUPT_TRANSFERS,
    MAX_BULK_TRANSFERS,
    MAX_ISO_PACKETS,
    MAX_ISO_TRANSFERS,
    Host,
    IsoIn,
    IsoOut,
    Receiving,
    Stream,
)


class Runner:
    """What runs now. `own` takes events for the pump, `tags` gives numbers for transfers."""

    def __init__(
        self,
        host: Host,
        settings: Settings,
        limits: Limits,
        iso_seconds: float,
        tags: Iterator[int],
        own: deque[Event],
    ) -> None:
        self._host = host
        self._settings = settings
        self._limits = limits
        self._iso_seconds = iso_seconds
        self._tags = tags
        self._own = own
        self.running: dict[int, Stream] = {}  # by endpoint
        self.flying: dict[int, Stream] = {}  # tag of a transfer -> its stream, stopped ones too
        self._failed: set[int] = set()  # endpoints whose stream ended by itself, until the importer shows that it knows

    @property
    def is_due(self) -> bool:
        """Whether `events` has transfers to submit."""
        return any(stream.due() > 0 for stream in self.running.values())

    @property
    def is_held(self) -> bool:
        """Whether a stream waits for the network."""
        return any(stream.is_held for stream in self.running.values())

    def events(self) -> Iterator[Event]:
        """One turn of each stream: a device that answers at once does not keep us here."""
        for stream in tuple(self.running.values()):
            for _ in range(stream.due()):
                if not stream.is_running:
                    break
                tag, transfer = next(self._tags), stream.make()
                stream.flying[tag] = transfer
                self.flying[tag] = stream
                yield Submit(tag, transfer)

    def ended(self, tag: int, completion: Completion) -> None:
        """A transfer of a stream ended; what comes after the stream's end means nothing."""
        stream = self.flying.pop(tag)
        transfer = stream.flying.pop(tag)
        if stream.is_running:
            stream.ended(transfer, completion)
            if not stream.is_running:
                self._drop(stream)

    def fail_all(self) -> None:
        """Stop everything, and say so of each stream."""
        for stream in tuple(self.running.values()):
            stream.fail()
            self._drop(stream)

    def forget_all(self) -> None:
        """The device is gone, and its streams with it."""
        for stream in self.running.values():
            stream.is_running = False
        self.running.clear()
        self._failed.clear()

    def _drop(self, stream: Stream) -> None:
        """The stream is over: what it has at the device is cancelled."""
        stream.is_running = False
        self._failed.add(stream.endpoint)
        if self.running.get(stream.endpoint) is stream:
            del self.running[stream.endpoint]
        self._own.extend(Cancel(tag, transfer) for tag, transfer in stream.flying.items())

    # -- packets ------------------------------------------------------------------------------------------------------

    def start_iso(self, packet: Packet) -> None:
        body: Any = packet.body
        endpoint, shape = body.endpoint, (body.packets_per_urb, body.urbs)
        self._failed.discard(endpoint)
        status = WireStatus.SUCCESS
        if not self._is_free(endpoint, TransferType.ISOCHRONOUS):
            status = WireStatus.INVAL
        elif not (1 <= shape[0] <= MAX_ISO_PACKETS and 1 <= shape[1] <= MAX_ISO_TRANSFERS):
            status = WireStatus.STALL
        else:
            pipe, speed = self._settings.pipes[endpoint], self._settings.info.speed
            if endpoint >= 0x80:
                self.running[endpoint] = IsoIn(self._host, endpoint, pipe, speed, shape, self._iso_seconds)
            else:
                self.running[endpoint] = IsoOut(self._host, endpoint, pipe, shape)
        self._host.say(Type.ISO_STREAM_STATUS, packet.id, StreamStatus(status, endpoint))

    def iso(self, packet: Packet) -> None:
        """One that was sent before the importer heard that its stream has ended is dropped: QEMU would take an answer
        for one to the stream that it has begun anew since.
        """
        body: Any = packet.body
        stream = self.running.get(body.endpoint)
        if isinstance(stream, IsoOut):
            stream.take(packet.id, packet.data)
        elif body.endpoint in self._failed:
            self._host.dropped += 1
        else:
            self._host.say(Type.ISO_STREAM_STATUS, packet.id, StreamStatus(WireStatus.INVAL, body.endpoint))

    def start_interrupt(self, packet: Packet) -> None:
        body: Any = packet.body
        endpoint, kind = body.endpoint, TransferType.INTERRUPT
        status = WireStatus.INVAL
        if self._is_free(endpoint, kind):
            status = WireStatus.SUCCESS
            size = self._settings.pipes[endpoint].packet
            self.running[endpoint] = Receiving(self._host, endpoint, kind, size, INTERRUPT_TRANSFERS)
        self._host.say(Type.INTERRUPT_RECEIVING_STATUS, packet.id, StreamStatus(status, endpoint))

    def start_bulk(self, packet: Packet) -> None:
        body: Any = packet.body
        endpoint, size, transfers = body.endpoint, body.bytes_per_transfer, body.transfers
        status = WireStatus.INVAL
        if self._is_free(endpoint, TransferType.BULK) and self._is_sensible(endpoint, size, transfers):
            status = WireStatus.SUCCESS
            kind = TransferType.BULK
            self.running[endpoint] = Receiving(self._host, endpoint, kind, size, transfers, body.stream_id)
        self._host.say(Type.BULK_RECEIVING_STATUS, packet.id, BulkReceivingStatus(body.stream_id, endpoint, status))

    def stop(self, packet: Packet) -> None:
        """One that does not run has been stopped already."""
        body: Any = packet.body
        stream = self.running.get(body.endpoint)
        if stream is not None:
            self._drop(stream)
        self._failed.discard(body.endpoint)

    def _is_free(self, endpoint: int, kind: TransferType) -> bool:
        return self._settings.has_endpoint(endpoint, kind) and endpoint not in self.running

    def _is_sensible(self, endpoint: int, size: int, transfers: int) -> bool:
        """Whole packets, and no more of them than may be in flight."""
        whole = 0 < size <= self._limits.transfer_bytes and not size % self._settings.pipes[endpoint].packet
        return whole and 0 < transfers <= MAX_BULK_TRANSFERS and size * transfers <= self._limits.bytes_in_flight
