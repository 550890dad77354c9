"""A network adapter, CDC-ECM or CDC-NCM: its cable goes to a TAP interface, to a socket, or to another such adapter.

    adapter = Ethernet(to="tap:ferry0")                # `ip link` shows ferry0 here, and usb0 at the host
    adapter = Ethernet(to="listen://127.0.0.1:9000")   # another usbferry, or QEMU's `-netdev stream`
    adapter = Ethernet(to="unix:/tmp/passt.socket")    # passt gives it a network without root

Over a socket each frame has its length before it, four bytes, big endian, as QEMU and passt have it. While nobody is at
the other end the cable is unplugged: the host is told, and what it sends is lost, as frames are. All frames pass: what
is not meant for it the host's own stack leaves out.

    host --OUT--> framing --> from_host --> bridge     full: the endpoint NAKs
    host <--IN--- framing <-- to_host <---- bridge     full: the bridge stops reading
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import deque
from typing import Final

from ..usb.setup import Recipient, RequestType, Setup
from ..usb.transfer import Completion, Flags, Transfer
from ..usb.tree import Association, Configuration, DeviceDescriptor, Interface
from ..usb.types import Speed, Status
from . import cdc, ncm
from .bridges.bridge import make
from .bridges.frames import MOST, FrameQueue
from .cdc import Request
from .chapter9 import Stall
from .clock import Clock
from .pipe import Answer
from .virtual import VirtualDevice, data, endpoint, request

log: Final = logging.getLogger(__name__)

OUT: Final = 0x01
IN: Final = 0x81
NOTIFY: Final = 0x82
_CONTROL, _DATA = 0, 1  # the interfaces
_ADDRESS_STRING: Final = 4
_TO_INTERFACE: Final = RequestType.CLASS | Recipient.INTERFACE
_FROM_INTERFACE: Final = 0x80 | _TO_INTERFACE
_INTERVALS: Final = {Speed.FULL: 8}  # bInterval of 8 ms, in frames; in microframes it is 7: 2**6 * 125 us
_BITS: Final = {Speed.FULL: 12_000_000, Speed.HIGH: 480_000_000}  # what the host is told of its speed
_FAST: Final = 0xFFFFFFFF  # of those above: as much as 32 bits hold


class Ethernet(VirtualDevice):
    """`to` is where its cable goes: tap:NAME, tcp://HOST:PORT, listen://HOST:PORT, unix:PATH or echo; nothing leaves it
    unplugged. `mode` is ecm or ncm. `mac` is the address that the host takes; without one it is made of the other
    options, and stays the same.
    """

    descriptor = DeviceDescriptor(0x1209, 0x000F, 0x0200, 0xEF, 0x02, 0x01)  # "look for associations"
    product = "Network adapter"

    def __init__(
        self,
        *,
        to: str = "",
        mode: str = "ecm",
        mac: str = "",
        speed: Speed = Speed.HIGH,
        serial: str = "",
        clock: Clock | None = None,
    ) -> None:
        self.speed = speed
        self.serial = serial
        if mode not in ("ecm", "ncm"):
            raise ValueError(f"mode is ecm or ncm, not {mode!r}")
        self.mode = mode
        self._is_ncm = mode == "ncm"
        self.mac = _mac(mac) if mac else _made_mac(f"{to} {mode} {serial}")
        self.strings = {_ADDRESS_STRING: self.mac.replace(":", "").upper()}
        self.bridge = make(to, frames=True) if to else None
        self.to_host, self.from_host = FrameQueue(), FrameQueue()
        self.lost = 0  # frames of the host that were too long, or that nobody could take
        self._packet = self.bulk(IN).packet_size
        self._block_bytes = ncm.BLOCK_BYTES
        self._sequence = 0
        self._block = bytearray()  # of the host, as far as it came
        self._spoiled = False  # it is longer than any
        self._left = b""  # of the block that the host is reading
        self._owes_end = False  # that block's last transfer was full, and has to be followed by an empty one
        self._untold: deque[bytes] = deque()
        super().__init__(clock=clock)

    def configurations(self) -> tuple[Configuration, ...]:
        function = Association(_CONTROL, 2, cdc.COMMUNICATIONS, self._subclass)
        return (Configuration(interfaces=self.interfaces(), associations=(function,)),)

    @property
    def _subclass(self) -> int:
        return cdc.NETWORK_CONTROL if self._is_ncm else cdc.ETHERNET_CONTROL

    def interfaces(self) -> tuple[Interface, ...]:
        """The data interface has two settings: without endpoints, and with them, when the host is ready (ECM §3.3)."""
        functional = [cdc.header(), cdc.union(_CONTROL, _DATA), cdc.ethernet_networking(_ADDRESS_STRING, MOST)]
        protocol = 0
        if self._is_ncm:
            functional.append(cdc.network_control())
            protocol = cdc.NTB_DATA
        return (
            Interface(
                _CONTROL,
                interface_class=cdc.COMMUNICATIONS,
                interface_subclass=self._subclass,
                endpoints=(self.interrupt(NOTIFY, 16, _INTERVALS.get(self.speed, 7)),),
                extra=tuple(functional),
            ),
            Interface(_DATA, interface_class=cdc.DATA, interface_protocol=protocol),
            Interface(
                _DATA, 1, cdc.DATA, interface_protocol=protocol, endpoints=(self.bulk(OUT), self.bulk(IN))
            ),
        )  # fmt: skip

    # -- frames from the host -----------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether its cable is plugged in at both ends."""
        return self.bridge is not None and self.bridge.connected

    @endpoint(OUT)
    def _take(self, transfer: Transfer) -> Answer:
        if self.connected and not self.from_host.room:
            return None
        self._block += transfer.data
        if len(self._block) > self._most:
            self._spoiled = True
            self._block.clear()
        if self._ends(transfer):
            self._send()
        return Completion(Status.OK, b"", transfer.length)

    @property
    def _most(self) -> int:
        """Bytes of one block: a frame may have one byte more, by which drivers avoid a zero-length packet."""
        return ncm.BLOCK_BYTES if self._is_ncm else MOST + 1

    def _ends(self, transfer: Transfer) -> bool:
        """A block ends with a short packet; NCM's also where its header says so."""
        if transfer.length % self._packet or not transfer.length or transfer.flags & Flags.ZERO_PACKET:
            return True
        return self._is_ncm and 0 < ncm.length(self._block) <= len(self._block)

    def _send(self) -> None:
        block, self._block = self._block, bytearray()
        spoiled, self._spoiled = self._spoiled, False
        if spoiled:
            self.lost += 1
            log.warning("%s: the host sent more than a frame may have", self.product)
            return
        try:
            frames = (ncm.parse(block) if self._is_ncm else [bytes(block[:MOST])]) if block else []
        except ValueError as error:
            log.warning("%s: what the host sent is no block of frames: %s", self.product, error)
            return
        for frame in frames:
            if self.connected and len(frame) <= MOST:
                self.from_host.put_frame(frame)
            else:
                self.lost += 1

    # -- frames to the host -------------------------------------------------------------------------------------------

    @endpoint(IN)
    def _give(self, transfer: Transfer) -> Answer:
        if not self._left and not self._owes_end:
            self._left = self._next_block()
            if not self._left:
                return None
        piece, self._left = self._left[: transfer.length], self._left[transfer.length :]
        full = 0 < len(piece) == transfer.length
        self._owes_end = full and not self._left and not transfer.length % self._packet
        return data(piece)

    def _next_block(self) -> bytes:
        frames: list[bytes] = []
        size = 0
        while (frame := self.to_host.next_frame()) is not None:
            if not self._is_ncm:
                self.to_host.drop_frame()
                return frame
            if size + len(frame) + ncm.overhead((*frames, frame)) > self._block_bytes:
                break
            self.to_host.drop_frame()
            frames.append(frame)
            size += len(frame)
        if not frames:
            return b""
        self._sequence += 1
        return ncm.pack(frames, self._sequence - 1)

    # -- requests -----------------------------------------------------------------------------------------------------

    @request(_TO_INTERFACE, Request.SET_ETHERNET_PACKET_FILTER)
    def _set_filter(self, setup: Setup, _: bytes) -> None:
        """ECM §6.2.4: what the host wants to see. A filter may let more through than it must."""
        _check(setup)

    @request(_FROM_INTERFACE, Request.GET_NTB_PARAMETERS)
    def _get_parameters(self, setup: Setup, _: bytes) -> bytes:
        self._check_ncm(setup)
        return ncm.parameters()

    @request(_FROM_INTERFACE, Request.GET_NTB_INPUT_SIZE)
    def _get_input_size(self, setup: Setup, _: bytes) -> bytes:
        self._check_ncm(setup)
        return self._block_bytes.to_bytes(4, "little")

    @request(_TO_INTERFACE, Request.SET_NTB_INPUT_SIZE)
    def _set_input_size(self, setup: Setup, payload: bytes) -> None:
        """NCM §6.2.7: bytes of the longest block that the host reads."""
        self._check_ncm(setup)
        size = int.from_bytes(payload[:4], "little")
        if len(payload) != 4 or not ncm.LEAST_BLOCK_BYTES <= size <= ncm.BLOCK_BYTES:
            raise Stall
        self._block_bytes = size

    def _check_ncm(self, setup: Setup) -> None:
        _check(setup)
        if not self._is_ncm:
            raise Stall

    # -- notifications ------------------------------------------------------------------------------------------------

    @endpoint(NOTIFY)
    def _notify(self, transfer: Transfer) -> Completion | None:
        if not self._untold:
            return None
        told = self._untold.popleft()
        if len(told) > transfer.length:
            return Completion(Status.OVERFLOW, told[: transfer.length])
        return data(told)

    def _tell(self) -> None:
        """The speed, then the connection: by the one the host knows the other (ECM §6.3)."""
        number = self.interface_number(_CONTROL)
        self._untold.clear()
        if self.connected:
            self._untold.append(cdc.connection_speed(number, _BITS.get(self.speed, _FAST)))
        self._untold.append(cdc.network_connection(number, self.connected))
        self.kick(NOTIFY)

    def _connected_changed(self) -> None:
        if not self.connected:
            self.from_host.clear()
            self.to_host.restart()
        self._tell()
        self.kick(OUT)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def plugged(self) -> None:
        self.to_host.filled = lambda: self.kick(IN)
        self.from_host.drained = lambda: self.kick(OUT)
        if self.bridge is not None:
            self.bridge.connected_changed = self._connected_changed
            await self.bridge.start(self.to_host, self.from_host)

    async def unplugged(self) -> None:
        if self.bridge is not None:
            await self.bridge.stop()

    def settings_changed(self) -> None:
        """A host that begins knows nothing of the cable, and frames that came before are not its own."""
        self._block.clear()
        self._spoiled = False
        self._left, self._owes_end = b"", False
        self._untold.clear()
        self.to_host.skip_all()
        if self.info.alternates.get(_DATA):
            self._tell()

    def halt_cleared(self, address: int) -> None:
        if address == IN:
            self._left, self._owes_end = b"", False

    def was_reset(self) -> None:
        self._block_bytes, self._sequence = ncm.BLOCK_BYTES, 0
        self.settings_changed()
        if self.bridge is not None:
            self.bridge.host_left()


def _check(setup: Setup) -> None:
    """All these requests are the control interface's."""
    if setup.index != _CONTROL:
        raise Stall


def _mac(text: str) -> str:
    octets = re.fullmatch(r"[0-9a-f]{2}(?:[:-]?[0-9a-f]{2}){5}", text.lower())
    if octets is None:
        raise ValueError(f"{text!r} is no MAC address; one is written 02:00:00:12:34:56")
    digits = re.sub(r"[:-]", "", octets[0])
    if int(digits[:2], 16) & 1:
        raise ValueError(f"{text} is a group's address, not one adapter's: its first octet must be even")
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


def _made_mac(seed: str) -> str:
    """A locally administered address, the same for the same options."""
    return _mac("02" + hashlib.sha256(seed.encode()).hexdigest()[:10])
