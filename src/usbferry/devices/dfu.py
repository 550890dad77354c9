"""A device whose firmware can be replaced: DFU 1.1, or DfuSe as STMicroelectronics' bootloaders speak it.

    runtime --DETACH--> leaves, and comes back as the bootloader --DNLOAD...--> flash --manifest--> leaves, and comes
    back with the new firmware

Its two lives have different product ids, strings and interfaces. Sources: Device Firmware Upgrade 1.1, where "A.1" is
its state diagram; DfuSe is 1.1a, STMicroelectronics AN3156 and UM0424.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from struct import Struct
from typing import Final

from ..device import ResetOutcome
from ..usb.setup import Setup
from ..usb.tree import DeviceDescriptor, Interface
from ..usb.types import Speed
from .chapter9 import Stall
from .clock import Clock, Timer
from .flash import Flash, FlashError, NotErased
from .virtual import VirtualDevice, request

log: Final = logging.getLogger(__name__)
_VENDOR: Final = 0x1209
_RUNTIME: Final = DeviceDescriptor(_VENDOR, 0x0005, release=0x0100)
_BOOTLOADER: Final = DeviceDescriptor(_VENDOR, 0x0003, release=0x0100)
_FUNCTIONAL: Final = Struct("<BBBHHH")  # table 4.2
_STATUS: Final = Struct("<B3sBB")  # §6.1.2
_LAYOUT_STRING: Final = 4
_DETACH_MS: Final = 1000  # wDetachTimeOut
_AWAY_SECONDS: Final = 0.1  # off the bus between its two lives
_SOON_SECONDS: Final = 0.02  # after a request: its answer goes out first
_MAX_TRANSFER: Final = 4096  # what kernels and libusb take in one control transfer
_DFUSE_DATA: Final = 2  # the block number of the first data; 0 is a command


class State(IntEnum):
    """bState, §6.1.2."""

    APP_IDLE = 0
    APP_DETACH = 1
    IDLE = 2
    DOWNLOAD_SYNC = 3
    DOWNLOAD_BUSY = 4
    DOWNLOAD_IDLE = 5
    MANIFEST_SYNC = 6
    MANIFEST = 7
    MANIFEST_WAIT_RESET = 8
    UPLOAD_IDLE = 9
    ERROR = 10


class Status(IntEnum):
    """bStatus, §6.1.2."""

    OK = 0x00
    TARGET = 0x01
    WRITE = 0x03
    CHECK_ERASED = 0x05
    ADDRESS = 0x08
    NOT_DONE = 0x09
    STALLED = 0x0F


class Request(IntEnum):
    """bRequest, table 3.2."""

    DETACH = 0
    DNLOAD = 1
    UPLOAD = 2
    GETSTATUS = 3
    CLRSTATUS = 4
    GETSTATE = 5
    ABORT = 6


class Command(IntEnum):
    """The first byte of a DfuSe command."""

    GET_COMMANDS = 0x00
    SET_ADDRESS = 0x21
    ERASE = 0x41


_LIVES: Final = (State.APP_IDLE, State.APP_DETACH)  # those of the runtime; all others are the bootloader's


class Dfu(VirtualDevice):
    """`file` holds the firmware, between runs too. `dfuse` speaks DfuSe, with `address` and `page` of its flash.

    It begins as its runtime, or as its `bootloader`. `will_detach` leaves the bus by itself, rather than wait for a
    reset by its host; `tolerant` goes on as the bootloader after a download. `busy` is how long each block takes.
    """

    def __init__(
        self,
        *,
        file: Path | None = None,
        size: int = 64 << 10,
        dfuse: bool = False,
        address: int = 0x0800_0000,
        page: int = 1 << 10,
        transfer: int = 1024,
        bootloader: bool = False,
        will_detach: bool = True,
        tolerant: bool = False,
        busy: float = 0.0,
        serial: str = "",
        speed: Speed = Speed.HIGH,
        clock: Clock | None = None,
    ) -> None:
        if not 8 <= transfer <= _MAX_TRANSFER:
            raise ValueError(f"blocks have 8 to {_MAX_TRANSFER} bytes, not {transfer}")
        if not 0 <= busy < 1000:
            raise ValueError("a block takes 0 to 1000 seconds")
        self.flash = Flash(size, page, address if dfuse else 0, file)
        self.serial = serial
        self.speed = speed
        self._dfuse, self._will_detach, self._tolerant = dfuse, will_detach, tolerant
        self._transfer, self._busy = transfer, busy
        self._timer: Timer | None = None  # what it does by itself next
        self._saving: asyncio.Future[None] | None = None
        self._begin(State.IDLE if bootloader else State.APP_IDLE)
        super().__init__(clock=clock)

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where it is in the state diagram."""
        return self._state

    @property
    def is_bootloader(self) -> bool:
        """Which of its two lives it is in."""
        return self._state not in _LIVES

    def interfaces(self) -> tuple[Interface, ...]:
        """The string of the interface is the memory's layout: for DfuSe it must be, and other tools read it too."""
        own = 2 if self.is_bootloader else 1
        return (Interface(0, 0, 0xFE, 0x01, own, string=_LAYOUT_STRING, extra=(self._functional(),)),)

    def _functional(self) -> bytes:
        attributes = 0x01 | 0x02 | 0x04 * self._tolerant | 0x08 * self._will_detach  # download, upload
        version = 0x011A if self._dfuse else 0x0110
        return _FUNCTIONAL.pack(_FUNCTIONAL.size, 0x21, attributes, _DETACH_MS, self._transfer, version)

    def _begin(self, state: State) -> None:
        """A life begins."""
        self._set_timer(None)
        self._state, self._status = state, Status.OK
        self._block: tuple[int, bytes] | None = None  # downloaded, and done with at the next GETSTATUS
        self._image = bytearray()  # of DFU: what was downloaded so far
        self._pointer = self.flash.address  # of DfuSe
        self._uploaded = 0
        self._busy_until: float | None = None
        self._is_fresh = False  # there is a firmware that the runtime is not yet
        self.descriptor = _BOOTLOADER if self.is_bootloader else _RUNTIME
        self.product = "Bootloader" if self.is_bootloader else "Device with DFU"
        self.strings = {_LAYOUT_STRING: str(self.flash)}

    def _turn(self, state: State) -> None:
        """Leave the bus, and come back in the other life."""
        self._begin(state)
        log.info("%s", self.product)
        self.reappear("it re-enumerates", away=_AWAY_SECONDS)

    def _turn_soon(self, state: State) -> None:
        self._set_timer(lambda: self._turn(state), _SOON_SECONDS)

    def _set_timer(self, callback: Callable[[], None] | None, seconds: float = 0.0) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if callback is None else self.clock.call_at(self.clock.now() + seconds, callback)

    # -- the runtime --------------------------------------------------------------------------------------------------

    @request(0x21, Request.DETACH)
    def _detach(self, setup: Setup, data: bytes) -> None:
        """To the bootloader; from it, where it is idle, back: some hosts end so. wValue is milliseconds for a reset."""
        self._check(setup, State.APP_IDLE, State.IDLE)
        if self._state is State.IDLE:
            self._turn_soon(State.APP_IDLE)
            return
        self._state = State.APP_DETACH
        if self._will_detach:
            self._turn_soon(State.IDLE)
        else:
            self._set_timer(self._undetach, min(setup.value, _DETACH_MS) / 1000)

    def _undetach(self) -> None:
        self._state = State.APP_IDLE

    def reset(self) -> asyncio.Future[ResetOutcome]:
        """By its host. It leads to the other life where that waits for it (A.1), and is no end of an idle bootloader:
        hosts reset what they find."""
        waits = self._state in (State.APP_DETACH, State.MANIFEST_WAIT_RESET) or self._is_fresh
        if not waits or not self.is_present:
            return super().reset()
        self._turn(State.IDLE if self._state is State.APP_DETACH else State.APP_IDLE)
        outcome: asyncio.Future[ResetOutcome] = asyncio.get_running_loop().create_future()
        outcome.set_result(ResetOutcome.ANOTHER)
        return outcome

    # -- the bootloader -----------------------------------------------------------------------------------------------

    @request(0x21, Request.DNLOAD)
    def _download(self, setup: Setup, data: bytes) -> None:
        self._check(setup, State.IDLE, State.DOWNLOAD_IDLE)
        if len(data) > self._transfer:
            self._refuse()
        if not data:
            if self._state is State.IDLE and not self._dfuse:
                self._refuse()
            self._state = State.MANIFEST_SYNC
            return
        if self._state is State.IDLE:
            self._image.clear()
        self._block = (setup.value, data)
        self._state = State.DOWNLOAD_SYNC

    @request(0xA1, Request.UPLOAD)
    def _upload(self, setup: Setup, data: bytes) -> bytes:
        """Until less comes than was asked for. In DfuSe block 0 is the commands, and the others are by number."""
        self._check(setup, State.IDLE, State.UPLOAD_IDLE)
        if setup.length > self._transfer:
            self._refuse()
        if self._dfuse and setup.value < _DFUSE_DATA:
            return bytes(Command)
        if self._state is State.IDLE:
            self._uploaded = 0
        at = (setup.value - _DFUSE_DATA) * self._transfer if self._dfuse else self._uploaded
        piece = self.flash.read((self._pointer if self._dfuse else self.flash.address) + at, setup.length)
        self._uploaded += len(piece)
        self._state = State.UPLOAD_IDLE if len(piece) == setup.length else State.IDLE
        return piece

    @request(0xA1, Request.GETSTATUS)
    def _get_status(self, setup: Setup, data: bytes) -> bytes:
        """What was downloaded is done with now. While it is busy it says so again, though A.1 would have it stall:
        hosts ask earlier than they are told to."""
        self._check(setup)
        wait = 0.0
        if self._state is State.DOWNLOAD_SYNC:
            wait = self._work()
        elif self._state is State.DOWNLOAD_BUSY:
            wait = self._left()
        elif self._state is State.MANIFEST_SYNC:
            self._manifest()
        return _STATUS.pack(self._status, round(wait * 1000).to_bytes(3, "little"), self._state, 0)

    @request(0x21, Request.CLRSTATUS)
    def _clear_status(self, setup: Setup, data: bytes) -> None:
        """Out of an error; tools also send it to an idle device, which does not mind."""
        self._check(setup, State.ERROR, State.IDLE)
        self._state, self._status = State.IDLE, Status.OK

    @request(0xA1, Request.GETSTATE)
    def _get_state(self, setup: Setup, data: bytes) -> bytes:
        self._check(setup)
        return bytes([self._state])

    @request(0x21, Request.ABORT)
    def _abort(self, setup: Setup, data: bytes) -> None:
        self._check(setup, State.IDLE, State.DOWNLOAD_SYNC, State.DOWNLOAD_IDLE, State.MANIFEST_SYNC, State.UPLOAD_IDLE)
        self._state, self._block = State.IDLE, None

    def _check(self, setup: Setup, *states: State) -> None:
        """Refuse what is for no interface of ours, and what does not belong into this state."""
        if setup.index:
            raise Stall
        if states and self._state not in states:
            self._refuse()

    def _refuse(self) -> None:
        if self.is_bootloader:
            self._fail(Status.STALLED)
        raise Stall

    def _fail(self, status: Status) -> None:
        self._state, self._status = State.ERROR, status
        self._block = None

    # -- what is downloaded -------------------------------------------------------------------------------------------

    def _work(self) -> float:
        """Do what the last block asked for; seconds until it is done."""
        assert self._block is not None
        (number, data), self._block = self._block, None
        try:
            if self._dfuse:
                self._dfuse_block(number, data)
            elif len(self._image) + len(data) > self.flash.size:
                self._fail(Status.ADDRESS)
            else:
                self._image += data
        except NotErased:
            self._fail(Status.CHECK_ERASED)
        except FlashError:
            self._fail(Status.ADDRESS)
        if self._state is not State.DOWNLOAD_SYNC:
            return 0.0
        if self._dfuse or self._busy:  # DfuSe hosts want to see it busy once
            self._state = State.DOWNLOAD_BUSY
            self._busy_until = self.clock.now() + self._busy
            return self._busy
        self._state = State.DOWNLOAD_IDLE
        return 0.0

    def _left(self) -> float:
        """Seconds that it is still busy for."""
        assert self._busy_until is not None
        left = self._busy_until - self.clock.now()
        if left <= 0:
            self._state = State.DOWNLOAD_IDLE
        return max(left, 0.0)

    def _dfuse_block(self, number: int, data: bytes) -> None:
        if number >= _DFUSE_DATA:
            self.flash.write(self._pointer + (number - _DFUSE_DATA) * self._transfer, data)
        elif number == 0 and data[0] == Command.ERASE and len(data) == 1:
            self.flash.erase_all()
        elif number == 0 and data[0] == Command.ERASE and len(data) == 5:
            self.flash.erase(int.from_bytes(data[1:], "little"))
        elif number == 0 and data[0] == Command.SET_ADDRESS and len(data) == 5:
            self._pointer = int.from_bytes(data[1:], "little")
        elif number or data[0] != Command.GET_COMMANDS:
            self._fail(Status.TARGET)

    def _manifest(self) -> None:
        """The firmware goes to its file, in a thread, and then is the device's."""
        self._state = State.MANIFEST
        if not self._dfuse:
            self.flash.replace(bytes(self._image))
        self.later(self._manifested(None if self._dfuse else len(self._image)))

    async def _manifested(self, length: int | None) -> None:
        self._saving = asyncio.get_running_loop().run_in_executor(None, self.flash.save, length)
        try:
            await asyncio.shield(self._saving)
        except OSError as error:
            log.error("the firmware is not kept: %s", error)
            self._fail(Status.WRITE)
            return
        if self._tolerant:
            self._state, self._is_fresh = State.IDLE, True
        elif self._will_detach:
            self._turn_soon(State.APP_IDLE)
        else:
            self._state = State.MANIFEST_WAIT_RESET

    # -- life ---------------------------------------------------------------------------------------------------------

    async def closed(self) -> None:
        """A host that goes has it reset: whatever was downloaded in whole is what it runs then."""
        if self._saving is not None:
            await asyncio.wait((self._saving,))
            self._saving = None
        if self._state in (State.MANIFEST, State.MANIFEST_WAIT_RESET) or self._is_fresh:
            self._turn_soon(State.APP_IDLE)

    def was_reset(self) -> None:
        if self.is_bootloader and self._state not in (State.MANIFEST, State.MANIFEST_WAIT_RESET):
            self._state, self._status, self._block = State.IDLE, Status.OK, None
