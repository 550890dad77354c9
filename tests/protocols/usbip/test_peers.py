"""Peers that cannot be run here, by what their sources say that they send: each vector names its own.

The kernel's client and server, which can, are in tests/kernel.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.protocols.usbip import wire
from tests.vectors.reader import load
from usbferry.protocols.events import Claimed, Completed, Event, Listed, Refusal, Refused
from usbferry.protocols.usbip.importer import Importer
from usbferry.protocols.usbip.messages import OpHeader, OpStatus
from usbferry.usb.descriptors import Configuration, DeviceDescriptor, Interface
from usbferry.usb.info import DeviceInfo
from usbferry.usb.setup import Setup, set_configuration
from usbferry.usb.transfer import Completion, Flags, IsoPacket, Transfer
from usbferry.usb.tree import Endpoint
from usbferry.usb.types import Speed, Status, TransferType

PEERS = Path(__file__).parents[2] / "vectors" / "usbip" / "peers"
BULK, ISO, INTERRUPT = TransferType.BULK, TransferType.ISOCHRONOUS, TransferType.INTERRUPT
DEVICE = bytes.fromhex("12010002ff0102402505a0a4120501020301")
LANGUAGES = bytes.fromhex("04030904")
INFO = DeviceInfo(
    "1-1",
    DeviceDescriptor(0x0525, 0xA4A0),
    (
        Configuration(
            1,
            (
                Interface(0, 0, endpoints=(Endpoint(0x81, BULK, 512), Endpoint(0x01, BULK, 512))),
                Interface(0, 1, endpoints=(Endpoint(0x82, INTERRUPT, 8, 4), Endpoint(0x83, ISO, 8, 1))),
            ),
        ),
    ),
    Speed.HIGH,
    bus=1,
    address=15,
)
STEPS = pytest.mark.parametrize("step", [0, 1, 7], ids=["whole", "byte by byte", "by seven"])


# --- clients ----------------------------------------------------------------------------------------------------------


def device(transfer: Transfer) -> Completion | None:
    """What the device answers at once; of the interrupt endpoint nothing."""
    if transfer.setup:
        setup = Setup.parse(transfer.setup)
        given = {0x100: DEVICE, 0x300: LANGUAGES}.get(setup.value, b"") if setup.is_in else b""
        return Completion(Status.OK, given[: transfer.length])
    if transfer.packets is not None:
        done = [IsoPacket(p.offset, p.length, n) for p, n in zip(transfer.packets, (3, 2), strict=True)]
        return Completion(Status.OK, b"abcAB", packets=done)
    if transfer.endpoint == 0x82:
        return None
    return Completion(Status.OK, b"abc") if transfer.is_in else Completion(Status.OK, b"", transfer.length)


@pytest.mark.parametrize(
    ("peer", "asked"),
    [
        (
            "usbip-win2",
            [
                "submit #3 in 80 18 setup 8006000100001200",
                "submit #5 in 80 4 setup 8006000300000400",
                "submit #6 out 00 0 setup 0009010000000000",
                "submit #8 out 01 4",
                "submit #11 iso*2 in 83 16",
                "submit #13 in 82 8",
                "cancel #13",
            ],
        ),
        ("stale-packets", ["submit #16 out 01 4", "submit #17 in 81 8", "submit #18 out 00 0 setup 0009010000000000"]),
    ],
)
@STEPS
def test_our_exporter_serves(peer: str, asked: list[str], step: int) -> None:
    talk = wire.imported(info=INFO)
    talk.at_once = device
    messages = load(PEERS / f"{peer}.txt")
    for message in messages:
        if message.to_exporter:
            talk.says(message.raw, step=step)
    if talk.exporter.in_flight:
        talk.does(13, Completion(Status.CANCELLED))
    talk.asks(*asked).hears(*(message.raw for message in messages if not message.to_exporter))


def test_packets_of_an_endpoint_that_no_descriptor_has_are_read() -> None:
    """Nobody knows what it is: the client is taken at its word, and refused by the device."""
    talk = wire.imported(info=INFO).says(wire.submit(1, wire.IN, 9, 8, iso=[(0, 8)]))
    talk.asks("submit #1 iso*1 in 89 8")
    assert talk.unread == 0


# --- servers ----------------------------------------------------------------------------------------------------------


class Server:
    """An importer, and a server that says what a vector has it say."""

    def __init__(self, peer: str, step: int = 0) -> None:
        self.importer = Importer()
        self._messages = load(PEERS / f"{peer}.txt")
        self._step = step
        self._unread = b""

    def hears(self) -> None:
        """All that the importer said is what the vector has next, byte for byte."""
        said = b"".join(self.importer.outgoing)
        self.importer.outgoing, self.importer.outgoing_bytes = [], 0
        wanted = b""
        while self._messages and self._messages[0].to_exporter:
            wanted += self._messages.pop(0).raw
        assert said == wanted

    def answers(self, count: int = 1) -> list[Event]:
        """The next messages of the server's, and what the importer makes of them."""
        raw, events = b"", []
        for _ in range(count):
            assert not self._messages[0].to_exporter
            raw += self._messages.pop(0).raw
        for at in range(0, len(raw), self._step or len(raw)):
            self._unread += raw[at : at + (self._step or len(raw))]
            self.importer.receive(memoryview(self._unread), 0.0)
            events += list(self.importer.events())
            self._unread = self._unread[self.importer.consumed :]
        return events

    def completes(self, count: int = 1) -> list[tuple[int, Completion]]:
        return [(event.tag, event) for event in self.answers(count) if isinstance(event, Completed)]


@STEPS
def test_the_list_of_usbipd_win(step: int) -> None:
    server = Server("usbipd-win-list", step)
    server.importer.list_devices()
    server.hears()
    [listed] = server.answers()
    assert isinstance(listed, Listed)
    assert [(i.name, i.path, i.bus, i.address, i.speed, i.configuration, i.classes) for i in listed.devices] == [
        ("2-1", r"USB\VID_1209&PID_0001\0001", 2, 1, Speed.SUPER, 1, ((3, 1, 1),)),
        ("3-14", r"USB\VID_1209&PID_0002\6&é", 3, 14, Speed.UNKNOWN, 0, ()),
    ]


@STEPS
def test_an_import_from_usbipd_win(step: int) -> None:
    server = Server("usbipd-win", step)
    importer = server.importer
    importer.claim("2-1")
    server.hears()
    [claimed] = server.answers()
    assert isinstance(claimed, Claimed)
    assert (claimed.info.name, claimed.info.configuration) == ("2-1", 1)

    importer.submit(Transfer(0, 0, b"", set_configuration(1).pack()))
    server.hears()
    [(_, done)] = server.completes()
    assert done.status == Status.OK

    importer.submit(Transfer(0x81, 8, flags=Flags.SHORT_NOT_OK))
    server.hears()
    [(_, done)] = server.completes()
    assert (done.status, done.data) == (Status.SHORT, b"abc")

    packets = [IsoPacket(0, 3), IsoPacket(3, 2)]
    importer.submit(Transfer(0x03, 5, b"abcAB", b"", Flags.ISO_ASAP, packets, interval=8))
    server.hears()
    [(_, done)] = server.completes()
    assert (done.status, done.actual, done.error_count) == (Status.OK, 3, 1)
    assert done.packets == [IsoPacket(0, 3, 3), IsoPacket(3, 2, 0, Status.PROTOCOL)]


@STEPS
def test_unlinks_of_three_generations_of_usbipd_win(step: int) -> None:
    server = Server("usbipd-win-unlink", step)
    importer = server.importer
    importer.claim("1-2")
    importer.receive(memoryview(wire.op(3) + _record(b"1-2")), 0.0)
    assert [type(event) for event in importer.events()] == [Claimed]
    importer.outgoing, importer.outgoing_bytes = [], 0
    for messages, status in ((1, Status.CANCELLED), (2, Status.STALL), (2, Status.CANCELLED)):
        tag = importer.submit(Transfer(0x82, 8, interval=4))
        importer.cancel(tag)
        server.hears()
        [(ended, done)] = server.completes(messages)
        assert (ended, done.status, done.data) == (tag, status, b"")


def _record(busid: bytes) -> bytes:
    """The body of OP_REP_IMPORT: bus 1, device 15, high speed."""
    raw = bytearray(312)
    raw[256 : 256 + len(busid)] = busid
    raw[0x120:0x12C] = bytes([0, 0, 0, 1, 0, 0, 0, 15, 0, 0, 0, 3])
    return bytes(raw)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (OpStatus.NA, Refusal.UNAVAILABLE),  # VBoxUsbMon is missing, of another version, or did not take the filter
        (OpStatus.DEV_BUSY, Refusal.BUSY),  # attached already, or Windows vetoed its removal
        (OpStatus.DEV_ERR, Refusal.FAILED),  # VBoxUsb did not get it
        (OpStatus.NODEV, Refusal.NOT_FOUND),  # not plugged in, not shared, or no bus id
        (OpStatus.ERROR, Refusal.FAILED),  # all that fails before
    ],
)
def test_refusals_of_usbipd_win(status: OpStatus, reason: Refusal) -> None:
    """Source: dorssel/usbipd-win, Usbipd/ConnectedClient.cs, HandleRequestImportAsync."""
    importer = Importer()
    importer.claim("2-1")
    importer.receive(memoryview(OpHeader(0x0111, 3, status).pack()), 0.0)
    [refused] = importer.events()
    assert isinstance(refused, Refused)
    assert refused.reason is reason
    assert "status" not in refused.text  # it has words for each


def test_every_vector_of_a_peer_is_played() -> None:
    assert {path.stem for path in PEERS.glob("*.txt")} == {
        "usbip-win2", "stale-packets", "usbipd-win-list", "usbipd-win", "usbipd-win-unlink",
    }  # fmt: skip
