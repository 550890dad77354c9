"""Gadget Zero: the conformance device that usbtest and other test programs know (0525:a4a0).

Interface 0, alternate setting 0: a bulk source (0x81) and sink (0x01), a loopback (0x02 to 0x82).
Alternate setting 1 adds isochronous and interrupt sources and sinks, so that one setting serves every case of usbtest.
Behaviour: Linux drivers/usb/gadget/function/f_sourcesink.c and drivers/usb/misc/usbtest.c.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ..usb.setup import Setup
from ..usb.transfer import Completion, Flags, Transfer
from ..usb.tree import DeviceDescriptor, Endpoint, Interface
from ..usb.types import Speed, Status
from .chapter9 import Stall
from .clock import Clock
from .pipe import Answer
from .virtual import VirtualDevice, done, endpoint, request

_LOOPBACK_BYTES: Final = 1 << 20  # held for the loopback before its OUT endpoint NAKs
_RUN_BYTES: Final = 1 << 20  # of a pattern that are kept for the next transfer
_LOOPBACK_TRANSFERS: Final = 4096  # and of these, for some have no bytes


_OK: Final = Status.OK


class Zero(VirtualDevice):
    """`pattern` 0 gives zeros, 1 the bytes (i % maxpacket) % 63 of usbtest, and the sink then checks what it gets."""

    descriptor = DeviceDescriptor(0x0525, 0xA4A0, device_class=0xFF)
    product = "Gadget Zero"
    serial = "0123456789.0123456789.0123456789"

    def __init__(
        self, *, speed: Speed = Speed.HIGH, pattern: int = 0, serial: str = "", clock: Clock | None = None
    ) -> None:
        if pattern not in (0, 1):
            raise ValueError(f"pattern {pattern} is unknown, there are 0 (zeros) and 1 (counting)")
        self.speed = speed
        self.serial = serial or self.serial
        self._pattern = pattern
        self._vendor_data = b""
        self._looped: deque[memoryview] = deque()
        self._looped_bytes = 0
        self._sources: dict[int, memoryview] = {}  # packet size -> a run of the pattern, as long as was ever asked for
        super().__init__(clock=clock)

    def interfaces(self) -> tuple[Interface, ...]:
        bulk = (self.bulk(0x81), self.bulk(0x01), self.bulk(0x82), self.bulk(0x02))
        periodic = (*self._periodic(0x83), *self._periodic(0x03))
        return Interface(0, 0, endpoints=bulk), Interface(0, 1, endpoints=bulk + periodic)

    def _periodic(self, address: int) -> tuple[Endpoint, ...]:
        full = self.speed is Speed.FULL
        interval = 1  # as often as the bus can
        iso = self.isochronous(address, 1023 if full else 1024, interval)
        return iso, self.interrupt(address + 1, 64 if full else 1024 if self.speed >= Speed.SUPER else 512, interval)

    # -- sources and sinks --------------------------------------------------------------------------------------------

    def _bytes(self, transfer: Transfer) -> memoryview:
        """As many bytes of the pattern as asked for; a slice of one run that every transfer shares."""
        packet = self._pipes[transfer.endpoint].endpoint.packet_size if self._pattern else 0
        run = self._sources.get(packet)
        if run is None or len(run) < transfer.length:
            size = max(65536, 1 << (transfer.length - 1).bit_length())
            one = bytes(i % 63 for i in range(packet)) if packet else bytes(1024)
            run = memoryview(one * (size // len(one) + 1))
            if size <= _RUN_BYTES:
                self._sources[packet] = run
        return run[: transfer.length]

    @endpoint(0x81)
    def _source(self, transfer: Transfer) -> Answer:
        return Completion(_OK, self._bytes(transfer))

    @endpoint(0x01)
    def _sink(self, transfer: Transfer) -> Answer:
        if self._pattern and not self._is_expected(transfer):
            self.halt(transfer.endpoint)
            return Completion(Status.STALL)
        return Completion(_OK, b"", transfer.length)

    def _is_expected(self, transfer: Transfer) -> bool:
        return transfer.data == self._bytes(transfer)

    @endpoint(0x84)
    def _interrupt_source(self, transfer: Transfer) -> Answer:
        return Completion(Status.OK, self._bytes(transfer))

    @endpoint(0x04)
    def _interrupt_sink(self, transfer: Transfer) -> Answer:
        return self._sink(transfer)

    @endpoint(0x83)
    def _iso_source(self, transfer: Transfer) -> Answer:
        assert transfer.packets is not None
        size = self._pipes[0x83].endpoint.service_bytes
        total = 0
        for one in transfer.packets:
            one.actual = min(one.length, size)
            total += one.actual
        if self._pattern:  # it starts anew in each packet
            run = self._bytes(Transfer(transfer.endpoint, size))
            return Completion(
                Status.OK, b"".join([run[: p.actual] for p in transfer.packets]), packets=transfer.packets
            )
        return Completion(Status.OK, self._bytes(Transfer(transfer.endpoint, total)), packets=transfer.packets)

    @endpoint(0x03)
    def _iso_sink(self, transfer: Transfer) -> Answer:
        assert transfer.packets is not None
        for packet in transfer.packets:
            packet.actual = packet.length
        return Completion(Status.OK, b"", sum(p.length for p in transfer.packets), packets=transfer.packets)

    # -- loopback -----------------------------------------------------------------------------------------------------

    @endpoint(0x02)
    def _loop_out(self, transfer: Transfer) -> Answer:
        """A transfer's end is kept: what comes back is cut where it was sent, a zero-length packet included."""
        full = self._looped_bytes + transfer.length > _LOOPBACK_BYTES or len(self._looped) >= _LOOPBACK_TRANSFERS
        if full and self._looped:
            return None
        self._looped.append(memoryview(bytes(transfer.data)))
        self._looped_bytes += transfer.length
        if transfer.flags & Flags.ZERO_PACKET and transfer.length and not transfer.length % self._packet(0x02):
            self._looped.append(memoryview(b""))
        self.kick(0x82)
        return done(transfer)

    @endpoint(0x82)
    def _loop_in(self, transfer: Transfer) -> Answer:
        if not self._looped:
            return None
        held = self._looped.popleft()
        if len(held) > transfer.length:
            self._looped.appendleft(held[transfer.length :])
            held = held[: transfer.length]
        self._looped_bytes -= len(held)
        self.kick(0x02)
        return Completion(Status.OK, held)

    def _packet(self, address: int) -> int:
        return self._pipes[address].endpoint.packet_size

    # -- control ------------------------------------------------------------------------------------------------------

    @request(0x40, 0x5B)
    def _write(self, setup: Setup, data: bytes) -> None:
        """Keep up to 64 KiB for 0x5c, as the Intel test firmware that usbtest was written for."""
        if setup.value or setup.index:
            raise Stall
        self._vendor_data = data

    @request(0xC0, 0x5C)
    def _read(self, setup: Setup, data: bytes) -> bytes:
        if setup.value or setup.index:
            raise Stall
        return self._vendor_data

    def was_reset(self) -> None:
        self._vendor_data = b""
        self._looped.clear()
        self._looped_bytes = 0

    def settings_changed(self) -> None:
        self._looped.clear()
        self._looped_bytes = 0
