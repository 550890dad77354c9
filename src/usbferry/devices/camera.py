"""A camera, USB Video: a test card, pictures of files, or a stream of JPEGs, as MJPEG or YUY2; any sizes and rates.

camera = Camera(source="card")
camera.mode                  # what a host has chosen, or None: format, size, pictures per second
camera.payloads.sent         # pictures of this stream so far
camera.looks.values          # brightness and the like, as the host has set them
camera.lens.values           # exposure, focus, zoom, pan and tilt

interface 0    control: a lens, what makes pictures brighter and the like, and a way out; a test card heeds both
interface 1    pictures: isochronous (alternate settings 1 and up, by bandwidth), or with `bulk` in setting 0
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from ..usb.setup import Setup
from ..usb.transfer import Completion, Transfer
from ..usb.tree import Association, Companion, Configuration, DeviceDescriptor, Endpoint, Interface
from ..usb.types import Speed, Status
from .chapter9 import Stall
from .clock import Clock, Timer
from .video import pictures, uvc
from .video.lens import Lens
from .video.looks import Looks
from .video.payloads import Payloads
from .video.pictures import Pictures, Size
from .video.probe import Mode, Negotiation, seconds
from .video.units import Refused, Unit
from .video.uvc import HEADER_BYTES, Coding, Error, Format, Frame, Request
from .virtual import VirtualDevice, endpoint, request

log: Final = logging.getLogger(__name__)

IN: Final = 0x81
_CONTROL_INTERFACE: Final = 0
_STREAMING_INTERFACE: Final = 1
_SIZES: Final = ((640, 480), (320, 240), (160, 120), (1280, 720))
_ASYNCHRONOUS: Final = 0x04

# The bytes that the packets of an interval can hold, for each alternate setting from 1: wMaxPacketSize, and at
# SuperSpeed the packets of a burst and the bursts. A host takes the smallest that is enough.
_FULL_PACKETS: Final = (128, 256, 512, 1023)
_HIGH_PACKETS: Final = (192, 384, 512, 1024, 2048, 3072)
_SUPER_PACKETS: Final = (1024, 2048, 4096, 8192, 16384, 32768, 49152)
# What a JPEG is reckoned with when bandwidth is: a fourth of the pixels. Larger ones come too, and take longer.
_PIXELS_PER_BYTE: Final = 4


class Chosen(NamedTuple):
    """What a host has chosen."""

    coding: Coding
    width: int
    height: int
    rate: float  # pictures per second

    def __str__(self) -> str:
        return f"{self.coding.value} {self.width}x{self.height}, {self.rate:g} per second"


class Camera(VirtualDevice):
    """`source` is what it sees, see `pictures`. `formats` are mjpeg and yuy2, `sizes` such as 640x480,1280x720, `rates`
    pictures per second; the first of each is the usual one. What the bus has no room for at `speed` is left out.

    `bulk` has pictures sent by a bulk endpoint. `version` is that of USB Video, 1.1 or 1.5.
    """

    descriptor = DeviceDescriptor(0x1209, 0x000D, 0x0200, 0xEF, 0x02, 0x01)
    product = "Camera"

    def __init__(
        self,
        *,
        source: str = "card",
        formats: str = "",
        sizes: str = "",
        rates: str = "30,15",
        bulk: bool = False,
        version: str = "1.1",
        speed: Speed = Speed.HIGH,
        serial: str = "",
        clock: Clock | None = None,
    ) -> None:
        if version not in uvc.PROTOCOLS:
            raise ValueError(f"there are versions {' and '.join(uvc.PROTOCOLS)} of USB Video, not {version!r}")
        self.speed = speed
        self.serial = serial
        self.pictures: Pictures = pictures.make(source)
        self.pictures.arrived = lambda: self.kick(IN)
        self.lens = self.pictures.lens = Lens(self._number_set)
        self.looks = self.pictures.looks = Looks(self._number_set)
        self.changed: Callable[[], None] | None = None
        self.mode: Chosen | None = None
        self._bulk, self._version = bulk, version
        self._formats = self._made(_codings(formats, self.pictures), _sizes(sizes, self.pictures), _rates(rates))
        self._negotiation = Negotiation(version, self._formats, self._payload_bytes)
        self._error = Error.NONE
        self._timer: Timer | None = None
        self.payloads = Payloads(self.pictures.next)
        super().__init__(clock=clock)

    # -- what it can ---------------------------------------------------------------------------------------------------

    def _made(self, codings: tuple[Coding, ...], sizes: tuple[Size, ...], rates: tuple[int, ...]) -> tuple[Format, ...]:
        made = []
        for coding in codings:
            frames = (Frame(*size, tuple(r for r in rates if self._fits(coding, size, r))) for size in sizes)
            if fitting := tuple(frame for frame in frames if frame.rates):
                made.append(Format(coding, fitting))
        if not made:
            raise ValueError("none of these sizes and rates fits this speed: take smaller ones, or speed=high")
        return tuple(made)

    def _fits(self, coding: Coding, size: Size, rate: int) -> bool:
        if coding is Coding.YUY2 and size[0] % 2:
            return False
        return self._bulk or _needed(coding, size, rate, self._interval) <= self._packets[-1]

    @property
    def _packets(self) -> tuple[int, ...]:
        if self.speed >= Speed.SUPER:
            return _SUPER_PACKETS
        return _HIGH_PACKETS if self.speed is Speed.HIGH else _FULL_PACKETS

    @property
    def _interval(self) -> float:
        """Between isochronous packets, in seconds."""
        return 125e-6 if self.speed.has_microframes else 1e-3

    def _payload_bytes(self, coding: Coding, frame: Frame, interval: int) -> int:
        """dwMaxPayloadTransferSize: by it a host chooses an alternate setting."""
        if self._bulk:
            return HEADER_BYTES + frame.most_bytes
        needed = _needed(coding, (frame.width, frame.height), 1 / seconds(interval), self._interval)
        return next((size for size in self._packets if size >= needed), self._packets[-1])

    # -- descriptors ---------------------------------------------------------------------------------------------------

    def configurations(self) -> tuple[Configuration, ...]:
        joined = Association(_CONTROL_INTERFACE, 2, uvc.VIDEO, uvc.COLLECTION)
        return (Configuration(interfaces=self.interfaces(), associations=(joined,)),)

    def interfaces(self) -> tuple[Interface, ...]:
        protocol = uvc.PROTOCOLS[self._version]
        bits = (Lens.bits, Looks.bits) if self.pictures.heeds else (0, 0)
        units = uvc.control(self._version, _STREAMING_INTERFACE, *bits)
        control = Interface(_CONTROL_INTERFACE, 0, uvc.VIDEO, uvc.CONTROL, protocol, extra=units)
        idle = Interface(
            _STREAMING_INTERFACE,
            0,
            uvc.VIDEO,
            uvc.STREAMING,
            protocol,
            endpoints=(self.bulk(IN),) if self._bulk else (),
            extra=uvc.streaming(IN, self._formats),
        )
        if self._bulk:
            return control, idle
        sized = (self._endpoint(size) for size in self._packets)
        return (
            control,
            idle,
            *(replace(idle, alternate=number, endpoints=(one,), extra=()) for number, one in enumerate(sized, 1)),
        )

    def _endpoint(self, size: int) -> Endpoint:
        """An isochronous endpoint with `size` bytes in an interval."""
        one = self.isochronous(IN, size, 1, attributes=_ASYNCHRONOUS)
        packets = -(-size // 1024)
        if self.speed >= Speed.SUPER:
            bursts = -(-packets // 16)
            return replace(one, max_packet=1024, companion=Companion(min(packets, 16) - 1, bursts - 1, size))
        return one if size < 1024 else replace(one, max_packet=1024 | packets - 1 << 11)

    # -- pictures ------------------------------------------------------------------------------------------------------

    @endpoint(IN)
    def _give(self, transfer: Transfer) -> Completion | None:
        now = self.clock.now()
        if not self._bulk:
            most = self._pipes[IN].endpoint.service_bytes
            return self.payloads.isochronous(transfer, now, self._interval, most)
        if transfer.length < HEADER_BYTES:
            return Completion(Status.OVERFLOW)
        if self.mode is None:
            return None
        answer = self.payloads.bulk(transfer, now)
        if answer is None:
            self._ask_again(max(self.payloads.due, now))
        return answer

    def _ask_again(self, when: float) -> None:
        """Nothing is due, or there is no picture yet: one that arrives asks by itself."""
        if self._timer is None and when > self.clock.now():
            self._timer = self.clock.call_at(when, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self.kick(IN)

    def _start(self) -> None:
        committed = self._negotiation.committed or self._negotiation.default
        one, frame = self._negotiation.of(committed)
        interval = seconds(committed.interval)
        self.mode = Chosen(one.coding, frame.width, frame.height, round(1 / interval, 3))
        log.info("%s: %s", self.product, self.mode)
        self.pictures.start(one.coding, (frame.width, frame.height))
        most = self._payload_bytes(one.coding, frame, committed.interval)
        self.payloads.start(self.clock.now(), interval, most)
        self._say_changed()
        self.kick(IN)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.mode is not None:
            self.mode = None
            self._say_changed()

    def _say_changed(self) -> None:
        if self.changed is not None:
            self.changed()

    # -- controls ------------------------------------------------------------------------------------------------------

    @request(0x21, Request.SET_CUR)
    def _set(self, setup: Setup, data: bytes) -> None:
        try:
            if (unit := self._unit_of(setup)) is not None:
                unit.set(setup.value >> 8, data)
            elif self._streaming_control(setup) == uvc.PROBE:
                self._negotiation.probe(data)
            else:
                self._negotiation.commit(data)
                self._committed()
        except ValueError as error:
            log.info("%s: %s", self.product, error)
            raise self._refused(error.error if isinstance(error, Refused) else Error.OUT_OF_RANGE) from None

    def _committed(self) -> None:
        if self._bulk:
            self._stop()
            self._start()

    @request(0xA1, Request.GET_CUR)
    @request(0xA1, Request.GET_MIN)
    @request(0xA1, Request.GET_MAX)
    @request(0xA1, Request.GET_RES)
    @request(0xA1, Request.GET_DEF)
    @request(0xA1, Request.GET_LEN)
    @request(0xA1, Request.GET_INFO)
    def _get(self, setup: Setup, data: bytes) -> bytes:
        if setup.index == _CONTROL_INTERFACE:
            return self._last_error(setup)
        if (unit := self._unit_of(setup)) is not None:
            try:
                return unit.get(setup.request, setup.value >> 8)
            except Refused as error:
                raise self._refused(error.error) from None
        selector = self._streaming_control(setup)
        if setup.request == Request.GET_RES:
            raise self._refused(Error.INVALID_REQUEST)  # numbers of a mode have no steps
        if setup.request == Request.GET_LEN:
            return self._negotiation.length.to_bytes(2, "little")
        if setup.request == Request.GET_INFO:
            return b"\x03"  # it can be read and set
        return self._negotiation.pack(self._asked(setup.request, selector))

    def _asked(self, kind: int, selector: int) -> Mode:
        one = self._negotiation
        if selector == uvc.COMMIT:
            if kind != Request.GET_CUR or one.committed is None:
                raise self._refused(Error.INVALID_REQUEST)
            return one.committed
        if kind == Request.GET_CUR:
            return one.probed
        return one.default if kind == Request.GET_DEF else one.least() if kind == Request.GET_MIN else one.most()

    def _streaming_control(self, setup: Setup) -> int:
        """The selector, of a control that there is."""
        selector = setup.value >> 8
        if setup.index != _STREAMING_INTERFACE or selector not in (uvc.PROBE, uvc.COMMIT) or setup.value & 0xFF:
            raise self._refused(Error.INVALID_CONTROL)
        self._error = Error.NONE
        return selector

    def _unit_of(self, setup: Setup) -> Unit | None:
        """The unit that a request is for, which has the control that it names; None for an interface's own."""
        entity, number = setup.index >> 8, setup.index & 0xFF
        if not entity or number != _CONTROL_INTERFACE:
            return None
        units: dict[int, Unit] = {uvc.CAMERA_UNIT: self.lens, uvc.PROCESSING_UNIT: self.looks}
        unit = units.get(entity) if self.pictures.heeds else None
        if unit is None or not unit.has(setup.value >> 8) or setup.value & 0xFF:
            raise self._refused(Error.INVALID_CONTROL)
        self._error = Error.NONE
        return unit

    def _number_set(self, name: str, value: int) -> None:
        log.info("%s: %s %d", self.product, name, value)
        self._say_changed()

    def _last_error(self, setup: Setup) -> bytes:
        if setup.value >> 8 != uvc.ERROR_CODE or setup.request != Request.GET_CUR:
            raise self._refused(Error.INVALID_CONTROL)
        return bytes((self._error,))

    def _refused(self, error: Error) -> Stall:
        self._error = error
        return Stall()

    # -- life ----------------------------------------------------------------------------------------------------------

    async def plugged(self) -> None:
        await self.pictures.begin()

    async def unplugged(self) -> None:
        await self.pictures.end()

    def configured(self, value: int) -> None:
        super().configured(value)
        self._stop()
        self._negotiation.restart()

    def interface_set(self, number: int, alternate: int) -> None:
        super().interface_set(number, alternate)
        if number == _STREAMING_INTERFACE:
            self._stop()
            if alternate:
                self._start()

    def halt_cleared(self, address: int) -> None:
        """So a host ends a stream over bulk: the class has no word for it, and Windows and Linux agree on this one."""
        if address == IN and self._bulk:
            self._stop()

    def was_reset(self) -> None:
        self._stop()
        self._negotiation.restart()
        self.lens.restore()
        self.looks.restore()
        self._error = Error.NONE


def _needed(coding: Coding, size: Size, rate: float, interval: float) -> int:
    """Bytes that each packet has to hold."""
    pixels = size[0] * size[1]
    whole = 2 * pixels if coding is Coding.YUY2 else pixels // _PIXELS_PER_BYTE
    return HEADER_BYTES + 1 + int(whole * rate * interval)


def _codings(text: str, source: Pictures) -> tuple[Coding, ...]:
    if not text:
        return source.codings
    known = {one.value: one for one in Coding}
    for name in text.split(","):
        if name not in known:
            raise ValueError(f"there is no format {name!r}; there are: {', '.join(known)}")
        if known[name] not in source.codings:
            raise ValueError(f"these pictures cannot be {name}; with Pillow, those of files can")
    return tuple(dict.fromkeys(known[name] for name in text.split(",")))


def _sizes(text: str, source: Pictures) -> tuple[Size, ...]:
    if not text:
        return (source.own_size,) if source.own_size else _SIZES
    sizes = []
    for one in text.split(","):
        width, x, height = one.partition("x")
        if not x or not (width + height).isdecimal() or not 0 < int(width) < 8192 or not 0 < int(height) < 8192:
            raise ValueError(f"{one!r} is no size; write it in pixels, as 640x480")
        size = int(width), int(height)
        if size[0] % 2:
            raise ValueError(f"{one}: the width has to be even")
        source.check(size)
        if source.sizes is not None and size not in source.sizes:
            raise ValueError(f"these pictures are {'x'.join(map(str, source.sizes[0]))}; with Pillow they can be {one}")
        sizes.append(size)
    return tuple(dict.fromkeys(sizes))


def _rates(text: str) -> tuple[int, ...]:
    try:
        rates = tuple(dict.fromkeys(int(one) for one in text.split(",")))
    except ValueError:
        raise ValueError(f"{text!r} are no rates; write them in pictures per second, as 30,15") from None
    if not all(1 <= rate <= 240 for rate in rates):
        raise ValueError("rates are 1 to 240 pictures per second")
    return rates
