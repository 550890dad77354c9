"""A claimed device of another process: its transfers go to an importer, by way of a gate, whole or in pieces.

    Device.submit -> [behind a barrier?] -> [in pieces?] -> connection -> importer -> link ~~~ server
    futures <----------------------------------------------- events <--- importer <- link ~~~'

Servers differ in what they survive, so what the weakest one does not is never sent: transfers to endpoints that are not
there, odd isochronous packets, more in one transfer than a kernel can allocate.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, NamedTuple

from ..device import Device, Promise, ResetOutcome
from ..devices.gate import DirectGate
from ..usb import setup as requests
from ..usb.info import DeviceInfo
from ..usb.setup import Setup
from ..usb.transfer import Completion, IsoPacket, Transfer
from ..usb.tree import Endpoint
from ..usb.types import Speed, Status, TransferType
from . import enumeration
from .connection import Connection
from .pieces import PIECE, Pieces

log: Final = logging.getLogger(__name__)
ISO_PACKETS: Final = 1024  # of one transfer; USBIP_MAX_ISO_PACKETS, drivers/usb/usbip/usbip_common.h
WHOLE_BYTES: Final = 4 << 20  # of one transfer that cannot go in pieces: about what a kernel allocates at best

Answer = Completion | asyncio.Future[Completion]


class _Pipe(NamedTuple):
    """What counts of an endpoint in the current settings."""

    interval: int  # as Linux's urb->interval; USB/IP servers tell types by it: 0 is bulk
    packet: int  # bytes
    iso: int | None  # bytes of an isochronous packet at most; None for the other types


class RemoteDevice(Device):
    """Made by who has claimed it on the connection, and then prepared."""

    def __init__(self, connection: Connection, info: DeviceInfo) -> None:
        self.info = info
        self.gone = connection.gone
        self._connection = connection
        self._piece = min(PIECE, connection.importer.largest)
        self._whole = min(WHOLE_BYTES, connection.importer.limit)
        self._pipes: dict[int, _Pipe] = {}
        self._plain: dict[int, int] = {}  # endpoint -> interval, of those whose transfers need no second look now
        self._gate = DirectGate(self._go_on, self._gate_moved)
        self._gated: set[int] = set()
        self._touching: dict[Transfer, frozenset[int]] = {}  # barriers that wait at the gate, and what they will touch
        self._in_pieces: dict[tuple[int, int], Pieces] = {}  # by endpoint and stream

    # -- the seam -----------------------------------------------------------------------------------------------------

    def submit(self, transfer: Transfer) -> Answer:
        address = transfer.endpoint
        if address in self._plain and transfer.length <= self._piece and transfer.packets is None:
            transfer.interval = self._plain[address]
            return self._connection.submit(transfer)  # as it goes nearly always
        if not address & 0x0F:
            return self._control(transfer)
        key = (address, transfer.stream_id)
        pieces = self._in_pieces.get(key) if self._in_pieces else None
        if pieces is None:
            pipe = self._pipes.get(address)
            if transfer.length <= self._piece or transfer.packets is not None or pipe is None:
                return self._pass(transfer)
            if pipe.packet > self._piece:  # a server that takes less than a packet of its device: it is refused
                return self._pass(transfer)
            pieces = self._start_pieces(key)
        _check(transfer)
        if key not in self._in_pieces:
            self._in_pieces[key] = pieces
            self._renew_plain()
        return pieces.submit(transfer)

    def cancel(self, transfer: Transfer) -> None:
        pieces = self._in_pieces.get((transfer.endpoint, transfer.stream_id))
        if pieces is None or not pieces.cancel(transfer):
            self._withdraw(transfer)

    def reset(self) -> asyncio.Future[ResetOutcome]:
        """By the port reset request that servers recognise; Linux restores the settings before it answers."""
        outcome: asyncio.Future[ResetOutcome] = asyncio.get_running_loop().create_future()
        answer = self._control(Transfer(0, 0, b"", Setup(*requests.SET_PORT_FEATURE, requests.PORT_RESET).pack()))
        if isinstance(answer, Completion):
            outcome.set_result(ResetOutcome.GONE)
        else:
            answer.add_done_callback(lambda done: outcome.set_result(self._outcome(done.result())))
        return outcome

    def alloc_streams(self, endpoints: tuple[int, ...], count: int) -> Answer:
        return self._connection.streams(endpoints, count) if count > 0 else Completion(Status.INVALID)

    def free_streams(self, endpoints: tuple[int, ...]) -> Answer:
        return self._connection.streams(endpoints, 0)

    async def close(self) -> None:
        await self._connection.close()

    async def prepare(self) -> None:
        """Read what it is, and set a configuration. Raises DeviceError."""
        await enumeration.enumerate_device(self, self._connection.server)
        self.update_pipes()

    # -- the way of a transfer ----------------------------------------------------------------------------------------

    def _start_pieces(self, key: tuple[int, int]) -> Pieces:
        def ended() -> None:
            del self._in_pieces[key]
            self._renew_plain()

        packet = self._pipes[key[0]].packet
        return Pieces(self._pass, self._withdraw, ended, self._piece // packet * packet)

    def _pass(self, transfer: Transfer) -> Answer:
        """Through the gate, where it may have to wait."""
        if self._gated and transfer.endpoint in self._gated:
            _check(transfer)
            return self._gate.submit(transfer)
        return self._send(transfer)

    def _go_on(self, transfer: Transfer, answer: Promise) -> Answer:
        """One that waited at the gate, where a barrier that waited before it may hold it again; later ones do not."""
        if transfer.endpoint & 0x0F:
            is_barred = transfer.endpoint in self._gate.barred()
            return self._gate.submit(transfer, answer) if is_barred else self._send(transfer, answer)
        if self._touching.pop(transfer, None) is not None:
            self._gate_moved()
        return self._control(transfer, answer)

    def _send(self, transfer: Transfer, answer: Promise | None = None) -> Answer:
        """The Linux server loses the connection over an endpoint that is not there, and over odd packets."""
        pipe = self._pipes.get(transfer.endpoint)
        if pipe is None:
            return self._connection.refuse(transfer, Status.STALL, answer)
        if transfer.packets is not None or pipe.iso is not None:
            refusal = _iso_refusal(transfer, transfer.packets, pipe.iso)
            if refusal is not None:
                return self._connection.refuse(transfer, refusal, answer)
        if transfer.length > self._piece and (transfer.length > self._whole or pipe.packet > self._piece):
            return self._connection.refuse(transfer, Status.NO_MEMORY, answer)
        transfer.interval = pipe.interval
        return self._connection.submit(transfer, answer)

    def _withdraw(self, transfer: Transfer) -> None:
        if not self._gate.cancel(transfer):
            self._connection.cancel(transfer)
        elif self._touching.pop(transfer, None) is not None:
            self._gate_moved()

    def _control(self, transfer: Transfer, waits: Promise | None = None) -> Answer:
        """Servers take wLength and the direction in bmRequestType for the transfer's own, or end the connection."""
        if len(transfer.setup) != 8:
            return self._connection.refuse(transfer, Status.INVALID, waits)
        setup = Setup.parse(transfer.setup)
        if setup.length != transfer.length or (setup.length and setup.is_in != transfer.is_in):
            return self._connection.refuse(transfer, Status.INVALID, waits)
        if transfer.length > self._whole:
            return self._connection.refuse(transfer, Status.NO_MEMORY, waits)
        touched = self._touched(setup)
        if self._gated and self._gate.is_holding(control=touched is None):
            _check(transfer)
            if touched is not None:
                self._touching[transfer] = touched
                self._gate_moved()
            return self._gate.submit(transfer, waits)  # what an earlier barrier holds was asked for before this one
        answer = self._connection.submit(transfer, waits)
        if isinstance(answer, asyncio.Future) and touched is not None:
            self._gate.put_up(transfer, touched)
            self._gate_moved()
            answer.add_done_callback(lambda done: self._settled(transfer, setup, done.result()))
        return answer

    def _touched(self, setup: Setup) -> frozenset[int] | None:
        """The endpoints that a request may change, in any configuration; None for one that changes none."""
        kind = (setup.request_type, setup.request)
        if requests.is_clear_halt(setup):
            return frozenset((setup.index & 0x8F,))
        if kind != requests.SET_CONFIGURATION and kind != requests.SET_INTERFACE and not requests.is_port_reset(setup):
            return None
        interfaces = (i for c in self.info.configurations for i in c.interfaces)
        if kind == requests.SET_INTERFACE:
            interfaces = (i for i in interfaces if i.number == setup.index)
        return frozenset(e.address for i in interfaces for e in i.endpoints)

    def _settled(self, transfer: Transfer, setup: Setup, completion: Completion) -> None:
        """A barrier ended: once a setting is granted, other endpoints exist."""
        kind = (setup.request_type, setup.request)
        if completion.status == Status.OK:
            if kind == requests.SET_CONFIGURATION:
                self.info.configuration = setup.value & 0xFF
                self.info.alternates.clear()
            elif kind == requests.SET_INTERFACE:
                self.info.alternates[setup.index] = setup.value
            self.update_pipes()
        self._gate.ended(transfer)

    def _gate_moved(self) -> None:
        self._gated = self._gate.addresses().union(*self._touching.values())
        self._renew_plain()

    def _renew_plain(self) -> None:
        may_wait = {address for address, _ in self._in_pieces} | self._gated
        pipes = self._pipes.items()
        self._plain = {address: p.interval for address, p in pipes if p.iso is None and address not in may_wait}

    def _outcome(self, completion: Completion) -> ResetOutcome:
        if completion.status == Status.STALL:  # usbipd-win: the request went to the device, which knows no ports
            log.warning("%s: its server does not reset devices; it goes on as it was", self.info.name)
            return ResetOutcome.SAME
        return ResetOutcome.SAME if completion.status == Status.OK else ResetOutcome.GONE

    def update_pipes(self) -> None:
        """Look up the endpoints of the settings in force."""
        speed = self.info.speed
        self._pipes = {e.address: _pipe(e, speed) for i in self.info.interfaces for e in i.endpoints}
        self._renew_plain()


def _check(transfer: Transfer) -> None:
    """What the importer checks when a transfer is sent, for one that is to wait first."""
    if not transfer.is_in and len(transfer.data) != transfer.length:
        raise ValueError(f"{len(transfer.data)} bytes of payload in a transfer of {transfer.length}")
    if transfer.length < 0:
        raise ValueError(f"a transfer of {transfer.length} bytes")


def _pipe(endpoint: Endpoint, speed: Speed) -> _Pipe:
    interval = endpoint.interval_us(speed) // (125 if speed.has_microframes else 1000)
    iso = endpoint.service_bytes if endpoint.type is TransferType.ISOCHRONOUS else None
    return _Pipe(interval, endpoint.packet_size or 1, iso)


def _iso_refusal(transfer: Transfer, packets: list[IsoPacket] | None, longest: int | None) -> Status | None:
    """Why an isochronous transfer cannot be sent, or one with packets where they do not belong."""
    if longest is None or not packets or len(packets) > ISO_PACKETS:
        return Status.INVALID
    total = 0
    for packet in packets:
        if not 0 <= packet.length <= longest or packet.offset < 0 or packet.offset + packet.length > transfer.length:
            return Status.INVALID
        total += packet.length
    return Status.INVALID if total > transfer.length else None  # one over another
