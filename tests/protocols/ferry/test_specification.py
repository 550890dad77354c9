"""What docs/protocols/ferry.md says is what the code does: its examples are played by both sides, its tables whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import specification
from tests.protocols.ferry.wire import INSTANCE, TOKEN, T, Talk, version, version_reply
from tests.vectors import reader
from usbferry.protocols.events import Completed
from usbferry.protocols.ferry.importer import Importer
from usbferry.protocols.ferry.messages import TRANSFER, Call, Code, code_of, status_of
from usbferry.usb import build
from usbferry.usb.info import DeviceInfo
from usbferry.usb.setup import get_descriptor
from usbferry.usb.transfer import Completion, Transfer
from usbferry.usb.tree import Configuration, DeviceDescriptor, Interface
from usbferry.usb.types import Status

TEXT = specification.PATH.read_text("utf-8")
CLAIM, BEFORE, AFTER = (
    reader.parse(block, "ferry.md") for block in re.findall(r"^```ferry\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
)
INFO = DeviceInfo(
    "1-1",
    DeviceDescriptor(0x0525, 0xA4A0, device_class=0xFF, release=0x0512),
    (Configuration(1, (Interface(0, 0, 8, 6, 0x50),)),),
    bus=1,
    address=15,
    path="/usbferry/1-1",
    product="Zero",
)
DESCRIPTOR = build.device(INFO.device)


def answer(transfer: Transfer) -> Completion | None:
    """The example's device."""
    if transfer.setup:
        return Completion(Status.OK, DESCRIPTOR)
    return None if transfer.is_in else Completion(Status.OK, b"", transfer.length)


class Target(Talk):
    """Plays the example's target."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once = answer

    def _take(self, event: object) -> None:
        super()._take(event)  # type: ignore[arg-type]
        match type(event).__name__:
            case "Claim":
                self.exporter.accept(INFO)
            case "Cancel":
                self.exporter.complete(event.tag, Completion(Status.CANCELLED))  # type: ignore[attr-defined]


def play(target: Target, messages: list[reader.Message]) -> None:
    """Say what the controller says, and hear what the target should answer."""
    place = 0
    while place < len(messages):
        target.says(messages[place].raw)
        place += 1
        answers = []
        while place < len(messages) and not messages[place].to_exporter:
            answers.append(messages[place].raw)
            place += 1
        target.hears(*answers)


def test_the_target_answers_as_the_examples_say():
    target = Target()
    play(target, CLAIM)
    play(target, BEFORE[:0])
    target.says(BEFORE[0].raw)  # its reply is lost, and the half of the next call
    target.exporter.outgoing, target.exporter.outgoing_bytes = [], 0
    target.says(b"\0\0\0\x0f\0\0")
    assert target.loses_transport()
    target.finds_transport()
    play(target, AFTER)
    assert [t.length for t in target.transfers.values() if not t.is_in] == [5, 3, 3], "each write once"


class ControllerSide:
    """An importer that is fed the target's lines, and must say the controller's."""

    def __init__(self) -> None:
        self.importer = Importer()
        self.completions: list[Completion] = []

    def says(self, raw: bytes) -> None:
        said = b"".join(self.importer.outgoing)
        self.importer.outgoing, self.importer.outgoing_bytes = [], 0
        assert said == raw

    def hears(self, raw: bytes) -> None:
        self.importer.receive(memoryview(bytearray(raw)), 0.0)
        self.completions += [e for e in self.importer.events() if isinstance(e, Completed)]
        assert self.importer.consumed == len(raw)


def raws(messages: list[reader.Message]) -> list[bytes]:
    return [message.raw for message in messages]


def test_the_controller_says_what_the_examples_say():
    side = ControllerSide()
    importer = side.importer
    ask, agreed, claim, claimed, hold, control, described, write, written, read, unlink, ended, unlinked = raws(CLAIM)
    importer.claim("1-1")
    side.says(ask + claim)
    side.hears(agreed + claimed)
    assert (importer.session, importer.instance) == (TOKEN, INSTANCE)
    side.says(hold)
    importer.submit(Transfer(0x80, 18, b"", get_descriptor(1, length=18).pack()))
    side.says(control)
    side.hears(described)
    importer.submit(Transfer(0x01, 5, b"hello"))
    side.says(write)
    side.hears(written)
    tag = importer.submit(Transfer(0x81, 512))
    side.says(read)
    importer.cancel(tag)
    side.says(unlink)
    side.hears(ended + unlinked)
    assert [(c.status, bytes(c.data), c.actual) for c in side.completions] == [
        (Status.OK, DESCRIPTOR, 18),
        (Status.OK, b"", 5),
        (Status.CANCELLED, b"", 0),
    ]

    importer.submit(Transfer(0x01, 3, b"abc"))
    side.says(BEFORE[0].raw)
    importer.submit(Transfer(0x01, 3, b"def"))
    assert importer.disconnected(0.0)
    importer.connected(1.0)
    resume, resumed, first, hold, again, second, heartbeat, beaten = raws(AFTER)
    side.says(version(T + 3) + resume)
    side.hears(version_reply(T + 3) + resumed + first)
    side.says(hold + again)
    side.hears(second)
    importer.tick(6.0)
    side.says(heartbeat)
    side.hears(beaten)
    assert [c.actual for c in side.completions[3:]] == [3, 3]


def test_every_end_of_a_transfer_has_a_status_both_ways():
    for status in Status:
        assert status_of(code_of(status)) is status
        assert f"| {TRANSFER + status if status else 0} | {status.name} |" in TEXT
    for code in (*Code, 14, 255, 256, TRANSFER + max(Status) + 1, 0xFFFFFFFF):
        assert (status_of(code) is Status.OK) == (code == 0)


def test_libusb_says_the_same():
    flight = pytest.importorskip("usbferry.backends.libusb.flight")
    names = ["COMPLETED", "ERROR", "TIMED_OUT", "CANCELLED", "STALL", "NO_DEVICE", "OVERFLOW"]
    for number, status in flight._ENDS.items():
        assert specification.LIBUSB[status] == names[number]


@pytest.mark.parametrize("call", Call)
def test_every_call_is_described(call):
    assert TEXT.count(call.name) > 1


def test_every_point_of_the_thread_is_answered():
    assert [int(n) for n in re.findall(r"^\| (\d+) \| .* \| .+ \|$", TEXT.partition("## 14.")[2], re.MULTILINE)] == [
        *range(1, 36)
    ]


def test_sections_that_the_code_names_are_there():
    sections = set(re.findall(r"^#+ (\d+(?:\.\d+)?)\.? ", TEXT, re.MULTILINE))
    source = Path(specification.PATH.parents[2] / "src" / "usbferry" / "protocols" / "ferry")
    named = {n for path in source.glob("*.py") for n in re.findall(r"\(§([\d.]+)\)", path.read_text("utf-8"))}
    assert named
    assert named <= sections


def test_numbers_in_the_text_are_those_of_the_tables():
    """SHORT was once given another one."""
    named = re.findall(r"\b([A-Z_]{4,}) \((\d{3})\)", TEXT)
    assert {name for name, _ in named} >= {"SHORT", "CANCELLED", "GONE", "NO_MEMORY"}
    assert [(name, int(number)) for name, number in named] == [(name, TRANSFER + Status[name]) for name, _ in named]
