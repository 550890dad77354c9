"""What a capture says of one device, in the order in which a player needs it: descriptors, answers, data, halts.

events --> Tape: answers   what it replied to each control request, in order
                 reels     what came from each IN endpoint, each piece with what the host had done before it
                 host      what the host did: bytes to OUT endpoints, class and vendor requests
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from ...usb.descriptors import DescriptorError, parse_bos, parse_configuration, parse_device, parse_string
from ...usb.info import DeviceInfo
from ...usb.setup import Request, RequestType, Setup
from ...usb.transfer import Buffer
from ...usb.tree import Bos, Configuration, DescriptorType, Endpoint
from ...usb.types import Speed, Status, TransferType
from . import pcapng, usbmon, usbpcap
from .events import CaptureError, Event, Packet

MAX_FILE: Final = 1 << 30  # bytes of a capture: it is read whole
_SPEEDS: Final = {
    1_500_000: Speed.LOW,
    12_000_000: Speed.FULL,
    480_000_000: Speed.HIGH,
    5_000_000_000: Speed.SUPER,
    10_000_000_000: Speed.SUPER_PLUS,
}
_NOT_THE_DEVICES: Final = {Status.CANCELLED, Status.GONE, Status.SHUTDOWN}  # how a transfer ends by its host's will
_KEY: Final = 6  # bytes of a setup packet without wLength


class Answer(NamedTuple):
    """A reply to a control request, `asked` its wLength; `sent` is what an OUT request brought."""

    status: Status
    data: bytes
    asked: int
    sent: bytes

    @property
    def is_whole(self) -> bool:
        """Whether the device had no more to say."""
        return len(self.data) < self.asked


class Chunk(NamedTuple):
    """What one IN transfer brought."""

    data: Buffer
    size: int  # bytes that came, perhaps more than the capture kept
    status: Status
    is_short: bool  # the transfer ended with it, though the host would have taken more
    after: int  # this many entries of `Tape.host` came before
    request: bytes  # the class or vendor request right before it, without wLength; b"" where that was something else
    delay: float  # seconds since the device could have known all that, or since the chunk before it


class Act(NamedTuple):
    """Bytes that went to an OUT endpoint: `total` is the sum up to and with these."""

    endpoint: int
    total: int


class Refusal(NamedTuple):
    """A transfer to an OUT endpoint that did not end well: what was taken of it, as bytes of the whole."""

    start: int
    end: int
    status: Status


@dataclass(slots=True)
class Tape:
    """One device's part of a capture."""

    info: DeviceInfo
    bos: Bos | None
    strings: dict[int, str]
    answers: dict[bytes, list[Answer]]  # by the setup packet without wLength
    reels: dict[int, list[Chunk]] = field(default_factory=dict)
    packets: dict[int, list[Packet]] = field(default_factory=dict)  # of isochronous IN endpoints
    host: list[Act] = field(default_factory=list)
    refusals: dict[int, list[Refusal]] = field(default_factory=dict)  # by OUT endpoint
    sent: dict[int, bytes] = field(default_factory=dict)  # what went to each OUT endpoint, as far as it was kept
    cut: int = 0  # transfers of which the capture kept only a part


# -- files -------------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[tuple[int, int], tuple[list[Event], Speed]]:
    """The events of each device in a capture file, and the speed where the file says it.

    Raises CaptureError or OSError.
    """
    if not path.is_file() and path.exists():
        raise CaptureError("it is no file")
    if path.stat().st_size > MAX_FILE:
        raise CaptureError(f"it has more than {MAX_FILE >> 30} GiB; editcap (of Wireshark) cuts it")
    return devices(path.read_bytes())


def devices(raw: bytes) -> dict[tuple[int, int], tuple[list[Event], Speed]]:
    """The same of a file's bytes. Raises CaptureError."""
    found: dict[tuple[int, int], list[Event]] = defaultdict(list)
    speeds: dict[tuple[int, int], Speed] = {}
    others: set[int] = set()
    for record in pcapng.records(raw):
        event = _event(record)
        if event is None:
            others.add(record.linktype)
            continue
        found[event.device].append(event)
        speeds[event.device] = _SPEEDS.get(record.bits_per_second, Speed.UNKNOWN)
    if not found:
        what = f"its link types are {', '.join(map(str, sorted(others)))}" if others else "it is empty"
        raise CaptureError(f"it has no USB traffic that usbmon or USBPcap saw: {what}")
    return {device: (events, speeds[device]) for device, events in found.items()}


def _event(record: pcapng.Record) -> Event | None:
    if record.linktype in (usbmon.LINKTYPE, usbmon.SHORT_LINKTYPE):
        return usbmon.event(record)
    return usbpcap.event(record) if record.linktype == usbpcap.LINKTYPE else None


# -- one device --------------------------------------------------------------------------------------------------------


def of(events: Iterable[Event], speed: Speed = Speed.UNKNOWN) -> Tape | None:
    """The tape of one device's events; None where they do not say what it is. Raises CaptureError for nonsense."""
    pairs = list(_paired(events))
    answers = _answers(pairs)
    try:
        raw = _descriptor(answers, DescriptorType.DEVICE)
        device = parse_device(raw)
        configurations = tuple(_configurations(answers, device.configurations))
        bos_raw = _descriptor(answers, DescriptorType.BOS)
        bos = parse_bos(bos_raw) if bos_raw else None
    except DescriptorError:
        return None
    if not configurations:
        return None
    strings = _strings(answers)
    info = DeviceInfo(
        name="",
        device=device,
        configurations=configurations,
        speed=speed or _guess(device.usb, device.max_packet0, configurations, answers),
        configuration=configurations[0].value,
        manufacturer=strings.get(device.manufacturer, ""),
        product=strings.get(device.product, ""),
        serial=strings.get(device.serial, ""),
    )
    tape = Tape(info, bos, strings, answers)
    _Filling(tape, pairs)
    return tape


class _Pair(NamedTuple):
    """An event, the other one of its transfer where the capture has it, and whether it is the first that tells."""

    event: Event
    other: Event | None


def _paired(events: Iterable[Event]) -> Iterator[_Pair]:
    """Every event, in order; a submission with its end, and an end with its submission."""
    ordered = list(events)
    open_: dict[int, int] = {}
    other: dict[int, int] = {}
    for place, event in enumerate(ordered):
        if not event.is_end:
            open_[event.transfer] = place
        elif (begun := open_.pop(event.transfer, None)) is not None:
            other[begun], other[place] = place, begun
    for place, event in enumerate(ordered):
        yield _Pair(event, ordered[other[place]] if place in other else None)


def _answers(pairs: Iterable[_Pair]) -> dict[bytes, list[Answer]]:
    found: dict[bytes, list[Answer]] = defaultdict(list)
    for event, begun in pairs:
        if event.type is TransferType.CONTROL and event.is_end and begun is not None and len(begun.setup) == 8:
            if event.status in _NOT_THE_DEVICES:
                continue
            asked = int.from_bytes(begun.setup[6:], "little")
            found[bytes(begun.setup[:_KEY])].append(Answer(event.status, bytes(event.data), asked, bytes(begun.data)))
    return dict(found)


def best(answers: Iterable[Answer]) -> Answer | None:
    """The one that says the most, of answers that do not change: a refusal only where there is nothing else."""
    return max(answers, key=lambda one: (one.status in (Status.OK, Status.SHORT), len(one.data)), default=None)


def _descriptor(answers: dict[bytes, list[Answer]], kind: int, index: int = 0, language: int = 0) -> bytes:
    """The longest that was given; b"" for none."""
    setup = Setup(0x80, Request.GET_DESCRIPTOR, kind << 8 | index, language).pack()
    found = best(answers.get(setup[:_KEY], ()))
    return found.data if found is not None else b""


def _configurations(answers: dict[bytes, list[Answer]], count: int) -> Iterator[Configuration]:
    for index in range(count):
        raw = _descriptor(answers, DescriptorType.CONFIGURATION, index)
        if len(raw) >= 4 and len(raw) >= int.from_bytes(raw[2:4], "little"):
            yield parse_configuration(raw)


def _strings(answers: dict[bytes, list[Answer]]) -> dict[int, str]:
    found = {}
    for key, replies in answers.items():
        if key[:2] == b"\x80\x06" and key[3] == DescriptorType.STRING and key[2] and (answer := best(replies)):
            try:
                found[key[2]] = parse_string(answer.data)
            except DescriptorError:
                continue
    return found


def _guess(
    usb: int, max_packet0: int, configurations: Iterable[Configuration], answers: dict[bytes, list[Answer]]
) -> Speed:
    """The speed, where only the descriptors tell."""
    if usb >= 0x0300 and max_packet0 == 9:
        return Speed.SUPER
    endpoints = [e for c in configurations for i in c.interfaces for e in i.endpoints]
    sizes = [e.packet_size for e in endpoints if e.type is TransferType.BULK]
    if _descriptor(answers, DescriptorType.DEVICE_QUALIFIER) or (sizes and max(sizes) > 64):
        return Speed.HIGH
    if not sizes and max_packet0 == 8 and all(e.packet_size <= 8 for e in endpoints):
        return Speed.LOW
    return Speed.FULL


# -- what moved --------------------------------------------------------------------------------------------------------


def is_own(setup: bytes) -> bool:
    """Whether a request is one of the device's class or vendor, rather than of every device."""
    return setup[0] & 0x60 in (RequestType.CLASS, RequestType.VENDOR)


class _Filling:
    """Goes through the conversation once, in its order, and fills the tape."""

    def __init__(self, tape: Tape, pairs: list[_Pair]) -> None:
        self._tape = tape
        self._packet_sizes = _packet_sizes(tape.info.configurations)
        self._reels, self._packets = defaultdict[int, list[Chunk]](list), defaultdict[int, list[Packet]](list)
        self._sent: dict[int, list[Buffer]] = defaultdict(list)
        self._lost: set[int] = set()  # OUT endpoints of which some bytes were not kept
        self._totals: dict[int, int] = defaultdict(int)
        self._came: dict[int, float] = {}  # endpoint -> when its last chunk did
        self._acted = pairs[0].event.seconds if pairs else 0.0  # when the host last did something
        self._request = b""  # and what, where it was a request
        for event, other in pairs:
            self._heed(event, other)
        tape.reels, tape.packets = dict(self._reels), dict(self._packets)
        tape.sent = {endpoint: b"".join(parts) for endpoint, parts in self._sent.items()}

    def _heed(self, event: Event, other: Event | None) -> None:
        is_in = bool(event.endpoint & 0x80)
        if event.type is TransferType.CONTROL:
            if not event.is_end and len(event.setup) == 8 and is_own(event.setup):
                self._acted, self._request = event.seconds, bytes(event.setup[:_KEY])
        elif event.type is TransferType.ISOCHRONOUS:
            if is_in and event.is_end:
                self._packets[event.endpoint] += event.packets
        elif not is_in and not event.is_end:
            self._go_out(event, other)
        elif is_in and event.is_end and (event.length or event.status not in _NOT_THE_DEVICES):
            self._come_in(event, other)

    def _go_out(self, event: Event, end: Event | None) -> None:
        tape, endpoint = self._tape, event.endpoint
        status = end.status if end is not None else Status.OK
        size = event.length if status is Status.OK or end is None else min(event.length, end.length)
        start = self._totals[endpoint]
        self._totals[endpoint] += size
        tape.host.append(Act(endpoint, self._totals[endpoint]))
        if status not in {Status.OK, *_NOT_THE_DEVICES}:
            tape.refusals.setdefault(endpoint, []).append(Refusal(start, start + size, status))
        tape.cut += not event.is_whole
        if endpoint not in self._lost:
            self._sent[endpoint].append(event.data[:size])
        if not event.is_whole:
            self._lost.add(endpoint)
        self._acted, self._request = event.seconds, b""

    def _come_in(self, event: Event, begun: Event | None) -> None:
        since = max(self._acted, self._came.get(event.endpoint, 0.0))
        status = Status.OK if event.status in {Status.SHORT, *_NOT_THE_DEVICES} else event.status
        is_short = _is_short(event, begun, self._packet_sizes.get(event.endpoint, 0))
        after, delay = len(self._tape.host), max(0.0, event.seconds - since)
        self._tape.cut += not event.is_whole
        self._reels[event.endpoint].append(
            Chunk(event.data, event.length, status, is_short, after, self._request, delay)
        )
        self._came[event.endpoint], self._request = event.seconds, b""


def _is_short(event: Event, begun: Event | None, packet_size: int) -> bool:
    """Whether the device had no more then. A cancelled transfer was ended by its host."""
    if event.status in _NOT_THE_DEVICES:
        return False
    if event.type is TransferType.INTERRUPT or not packet_size or event.length % packet_size:
        return True
    return not event.length or begun is None or event.length < begun.length  # USBPcap says 0: that tells nothing


def _packet_sizes(configurations: Iterable[Configuration]) -> dict[int, int]:
    everything: Iterable[Endpoint] = (e for c in configurations for i in c.interfaces for e in i.endpoints)
    return {endpoint.address: endpoint.packet_size for endpoint in everything}
