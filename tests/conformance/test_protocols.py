"""Every row of PROTOCOLS, its importer and its exporter back to back in memory: what one says the other understands.

    test --submit, cancel--> importer --bytes--> exporter --Submit, Cancel--> a device drawn by hypothesis
    test <---Completed------ importer <--bytes-- exporter <----complete-------'

The bytes arrive whole, one at a time, or cut anywhere. The device answers at once or later, in any order, and obeys a
cancel or does not. Every transfer ends exactly once, with the status and the data that the device gave.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import strategies as usb
from usbferry.protocols.events import Cancel, Claim, Claimed, Completed, Event, List, Listed, Refusal, Refused, Submit
from usbferry.registry import PROTOCOLS, load_exporter, load_importer
from usbferry.usb.info import DeviceInfo
from usbferry.usb.setup import SET_ADDRESS, Setup, is_port_reset
from usbferry.usb.transfer import Completion, Flags, IsoPacket, Transfer
from usbferry.usb.tree import Configuration, DeviceDescriptor, Endpoint, Interface
from usbferry.usb.types import Speed, Status

every = pytest.mark.parametrize("protocol", PROTOCOLS)

INFO = DeviceInfo(
    "1-2",
    DeviceDescriptor(0x0525, 0xA4A0, device_class=0xFF, release=0x0512),
    (Configuration(1, (Interface(0, interface_class=8, interface_subclass=6, interface_protocol=0x50), Interface(1))),),
    bus=1,
    address=3,
    path="/usbferry/1-2",
)


WHOLE = 1 << 30
# usbredir has one device on a connection, with no name, refusal or flags; its periodic endpoints are streams.
ONE_DEVICE = {name for name, protocol in PROTOCOLS.items() if not protocol.chooses}
BULK = tuple(Endpoint(number | way, 2, 512) for number in range(1, 16) for way in (0x00, 0x80))
BULK_INFO = replace(INFO, configurations=(Configuration(1, (Interface(0, endpoints=BULK),)),))
listing = pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name not in ONE_DEVICE])


class Side:
    """One state machine and the bytes it has received and not consumed."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.held = bytearray()

    def take(self) -> bytes:
        """What it has to say."""
        raw = b"".join(self.machine.outgoing)
        assert self.machine.outgoing_bytes == len(raw)
        self.machine.outgoing, self.machine.outgoing_bytes = [], 0
        return raw

    def hear(self, data: bytes) -> Iterator[Event]:
        """What it makes of more bytes, in a buffer that is used again afterwards, as a link's."""
        self.held += data
        lent = bytearray(self.held)
        self.machine.receive(memoryview(lent), 0.0)
        yield from self.machine.events()
        del self.held[: self.machine.consumed]
        lent[:] = b"\xee" * len(lent)


class Pair:
    """An importer that claims, and an exporter whose device is played by the test."""

    def __init__(self, protocol: str, step: int = WHOLE, data: st.DataObject | None = None) -> None:
        self.protocol = protocol
        self.importer = Side(load_importer(protocol)())
        self.exporter = Side(load_exporter(protocol)())
        self.step = step  # bytes that arrive at a time
        self.data = data  # decides for the device; without it, all waits to be completed by the test
        self.order: list[int] = []  # the importer's tags, in the order of submission
        self.asked: dict[int, Transfer] = {}
        self.ended: dict[int, Completion] = {}
        self.endings: list[int] = []
        self.cancelled: set[int] = set()
        self.arrived: list[int] = []  # the exporter's tags, in the order of arrival
        self.theirs: dict[int, int] = {}  # importer's tag -> exporter's, of what arrived
        self.working: dict[int, Transfer] = {}  # by the exporter's tag
        self.given: dict[int, Completion] = {}  # what the device answered, by the exporter's tag

    def claim(self) -> None:
        self.importer.machine.claim("1-2")
        [claim] = self.forward()
        assert isinstance(claim, Claim)
        assert claim.name == ("" if self.protocol in ONE_DEVICE else "1-2")
        self.exporter.machine.accept(BULK_INFO if self.protocol in ONE_DEVICE else INFO)
        while not (events := self.back()):
            assert self.forward() == []
        [claimed] = events
        assert isinstance(claimed, Claimed)
        assert claimed.info.name == ("0525:a4a0" if self.protocol in ONE_DEVICE else "1-2")
        assert claimed.info.device == INFO.device

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        """Cut; but the middle of much comes as one, for the sake of time."""
        edge = 200 * self.step
        at = 0
        while at < len(raw):
            end = len(raw) - edge if edge <= at < len(raw) - edge else at + self.step
            yield raw[at:end]
            at = end

    def forward(self) -> list[Event]:
        """What the importer said reaches the exporter; the device is asked as each event comes."""
        others = []
        said = self.importer.take()
        while self.importer.machine.has_events:  # there is room again for what it held back
            assert list(self.importer.hear(b"")) == []
            said += self.importer.take()
        for piece in (*self.pieces(said), b""):  # or some wait for a transfer that has just ended
            for event in self.exporter.hear(piece):
                if isinstance(event, Submit):
                    self.submitted(event.tag, event.transfer)
                elif isinstance(event, Cancel):
                    assert event.transfer is self.working[event.tag]
                    self.cancel_reached(event.tag)
                else:
                    others.append(event)
        return others

    def back(self) -> list[Event]:
        """What the exporter said reaches the importer."""
        others: list[Event] = []
        said = more = self.exporter.take()
        while more and self.exporter.machine.has_events:
            for event in self.exporter.hear(b""):
                assert isinstance(event, Submit)
                self.submitted(event.tag, event.transfer)
            more = self.exporter.take()
            said += more
        for piece in self.pieces(said):
            for event in self.importer.hear(piece):
                if isinstance(event, Completed):
                    assert event.tag not in self.ended, "ended twice"
                    event.data = bytes(event.data)  # it may be lent
                    self.ended[event.tag] = event
                    self.endings.append(event.tag)
                else:
                    others.append(event)
        return others

    # -- the device ---------------------------------------------------------------------------------------------------

    def submitted(self, tag: int, transfer: Transfer) -> None:
        for mine in (one for one in self.order if one not in self.theirs and on_one_queue(self.asked[one], transfer)):
            if same(transfer, self.asked[mine], flags=self.protocol not in ONE_DEVICE):
                break
            assert mine in self.cancelled, (transfer, self.asked[mine])
        else:
            raise AssertionError(transfer)
        self.theirs[mine] = tag
        earlier = any(other.endpoint == transfer.endpoint for other in self.working.values())
        self.arrived.append(tag)
        self.working[tag] = transfer
        if not earlier and self.decides():
            self.complete(tag)

    def cancel_reached(self, tag: int) -> None:
        if self.decides():
            self.complete(tag, Completion(Status.CANCELLED))

    def decides(self) -> bool:
        return self.data is not None and self.data.draw(st.booleans())

    def complete(self, tag: int, completion: Completion | None = None) -> None:
        transfer = self.working.pop(tag)
        if completion is None:
            assert self.data is not None
            completion = self.data.draw(usb.completions(transfer))
            completion.status = completion.status and Status.STALL  # the one failure that every protocol has a word for
            for packet in completion.packets or ():
                packet.status = packet.status and Status.PROTOCOL
        self.given[tag] = completion
        self.exporter.machine.complete(tag, completion)

    # -- the importer's user ------------------------------------------------------------------------------------------

    def submit(self, transfer: Transfer) -> None:
        tag = self.importer.machine.submit(transfer)
        assert tag not in self.asked
        self.asked[tag] = transfer
        self.order.append(tag)

    def cancel(self, tag: int) -> None:
        completion = self.importer.machine.cancel(tag)
        if completion is not None:
            self.ended[tag] = completion
            self.endings.append(tag)
        self.cancelled.add(tag)


def on_one_queue(one: Transfer, other: Transfer) -> bool:
    return (one.endpoint, one.stream_id) == (other.endpoint, other.stream_id)


def same(got: Transfer, sent: Transfer, *, flags: bool) -> bool:
    packets = [(p.offset, p.length) for p in got.packets or ()] == [(p.offset, p.length) for p in sent.packets or ()]
    if flags and (got.flags, got.interval) != (sent.flags, sent.interval):
        return False
    return packets and (got.endpoint, got.length, bytes(got.data), bytes(got.setup)) == (
        sent.endpoint,
        sent.length,
        bytes(sent.data),
        bytes(sent.setup),
    )


def is_ordinary(transfer: Transfer) -> bool:
    """Not one of the requests that an exporter answers by itself."""
    if not transfer.setup:
        return True
    setup = Setup.parse(transfer.setup)
    return (setup.request_type, setup.request) != SET_ADDRESS and not is_port_reset(setup)


def told_apart(transfer: Transfer, number: int) -> Transfer:
    """One of a length that no other of its kind has: those that are cancelled early do not arrive."""
    if transfer.is_in and not transfer.setup and transfer.packets is None:
        transfer.length = transfer.length & ~63 | number
    return transfer


def to_the_class(transfer: Transfer) -> Transfer:
    """A standard request as one of a class: standard ones may have a packet of their own."""
    if not transfer.setup[0] & 0x60:
        transfer.setup = bytes((transfer.setup[0] | 0x20, *transfer.setup[1:]))
    return transfer


ordinary_transfers = usb.transfers.filter(is_ordinary)
plain_transfers = (usb.control_transfers().map(to_the_class) | usb.data_transfers()).filter(is_ordinary)
TRANSFERS = dict.fromkeys(ONE_DEVICE, plain_transfers)
actions = st.sampled_from(["submit", "submit", "cancel", "complete", "forward", "back"])


@pytest.mark.slow
@every
@settings(max_examples=300)
@given(st.lists(actions, min_size=6, max_size=40), st.data(), st.sampled_from([WHOLE, 1, 7, 48, 333]))
def test_every_transfer_ends_once_as_the_device_said(
    protocol: str, script: list[str], data: st.DataObject, step: int
) -> None:
    pair = Pair(protocol, step, data)
    pair.claim()
    for action in script:
        if action == "submit":
            pair.submit(told_apart(data.draw(TRANSFERS.get(protocol, ordinary_transfers)), len(pair.order)))
        elif action == "cancel" and pair.order:
            pair.cancel(data.draw(st.sampled_from(pair.order)))
        elif action == "complete" and pair.working:
            pair.complete(data.draw(st.sampled_from(sorted(pair.working))))
        elif action == "forward":
            assert pair.forward() == []
        elif action == "back":
            assert pair.back() == []
    pair.forward()
    while pair.working:
        pair.complete(data.draw(st.sampled_from(sorted(pair.working))))
        assert pair.forward() == []
    assert pair.back() == []

    assert sorted(pair.ended) == sorted(pair.asked)
    for tag in pair.order:
        if tag in pair.theirs:
            check(pair.asked[tag], pair.ended[tag], pair.given[pair.theirs[tag]])
        else:
            assert tag in pair.cancelled
            assert (pair.ended[tag].status, pair.ended[tag].actual) == (Status.CANCELLED, 0)
    for endpoint in {transfer.endpoint for transfer in pair.asked.values()}:
        mine = [tag for tag in pair.order if pair.asked[tag].endpoint == endpoint and tag not in pair.cancelled]
        assert [tag for tag in pair.endings if tag in mine] == mine, "out of order"


def check(transfer: Transfer, got: Completion, gave: Completion) -> None:
    assert (got.status, got.actual, bytes(got.data)) == (gave.status, gave.actual, bytes(gave.data))
    if gave.packets is not None:
        assert got.packets == gave.packets
        assert got.start_frame == gave.start_frame


@every
def test_what_a_cancel_catches_half_done_is_not_lost(protocol: str) -> None:
    pair = Pair(protocol)
    pair.claim()
    pair.submit(Transfer(0x81, 8))
    pair.submit(Transfer(0x01, 8, bytes(8)))
    pair.forward()
    for tag in pair.order:
        pair.cancel(tag)
    pair.forward()
    first, second = pair.arrived
    pair.complete(first, Completion(Status.CANCELLED, b"abc"))
    pair.complete(second, Completion(Status.CANCELLED, b"", 5))
    pair.back()
    done = [pair.ended[tag] for tag in pair.order]
    assert [(c.status, bytes(c.data), c.actual) for c in done] == [
        (Status.CANCELLED, b"abc", 3),
        (Status.CANCELLED, b"", 5),
    ]


@listing
def test_the_list_arrives_as_it_was_given(protocol: str) -> None:
    importer, exporter = Side(load_importer(protocol)()), Side(load_exporter(protocol)())
    bare = DeviceInfo("1-3", DeviceDescriptor(0x1209, 1), speed=Speed.LOW, configuration=0, bus=1, address=4)
    importer.machine.list_devices()
    [question] = exporter.hear(importer.take())
    assert isinstance(question, List)
    exporter.machine.listed([INFO, bare])
    [listed] = importer.hear(exporter.take())
    assert isinstance(listed, Listed)
    one, two = listed.devices
    assert (one.name, one.path, one.classes, one.configuration, one.bus, one.address) == (
        "1-2",
        "/usbferry/1-2",
        ((8, 6, 0x50), (0xFF, 0, 0)),
        1,
        1,
        3,
    )
    assert one.device == INFO.device
    assert (two.name, two.speed, two.configuration, two.classes) == ("1-3", Speed.LOW, 0, ())


@listing
@pytest.mark.parametrize("reason", Refusal)
def test_a_refusal_arrives_with_its_reason(protocol: str, reason: Refusal) -> None:
    importer, exporter = Side(load_importer(protocol)()), Side(load_exporter(protocol)())
    importer.machine.claim("1-2")
    [claim] = exporter.hear(importer.take())
    assert isinstance(claim, Claim)
    exporter.machine.refuse(reason)
    [refused] = importer.hear(exporter.take())
    assert isinstance(refused, Refused)
    assert refused.reason is reason
    assert refused.text


@every
def test_large_payloads_pass_both_ways(protocol: str) -> None:
    pair = Pair(protocol)
    pair.claim()
    payload = bytes(range(256)) * 4096
    pair.submit(Transfer(0x01, len(payload), payload, flags=Flags.ZERO_PACKET))
    pair.submit(Transfer(0x81, len(payload)))
    pair.forward()
    out, read = pair.arrived
    pair.complete(out, Completion(Status.OK, b"", len(payload)))
    pair.complete(read, Completion(Status.OK, memoryview(payload)))
    pair.back()
    assert [pair.ended[tag].actual for tag in pair.order] == 2 * [len(payload)]
    assert pair.ended[pair.order[1]].data == payload


@listing
def test_many_isochronous_packets_pass(protocol: str) -> None:
    pair = Pair(protocol)
    pair.claim()
    payload = bytes(range(256)) * 4096
    packets = [IsoPacket(1024 * n, 1024) for n in range(1024)]
    pair.submit(Transfer(0x83, len(payload), packets=packets, flags=Flags.ISO_ASAP, interval=1))
    pair.forward()
    done = [IsoPacket(p.offset, p.length, p.length) for p in packets]
    pair.complete(pair.arrived[0], Completion(Status.OK, payload, packets=done))
    pair.back()
    assert pair.ended[pair.order[0]].actual == len(payload)
    assert pair.ended[pair.order[0]].data == payload
