"""The vectors of tests/vectors/ferry, played by a target: whole, and a few bytes at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.protocols.ferry.wire import Talk, claimed
from tests.vectors import reader
from usbferry.usb.transfer import Completion, Flags, IsoPacket, Transfer
from usbferry.usb.types import Status

FOLDER = Path(reader.__file__).parent / "ferry"


def answer(transfer: Transfer) -> Completion:
    """Three bytes to each read, one to each isochronous packet; writes are done."""
    if transfer.packets is not None:
        done = [IsoPacket(p.offset, p.length, 1) for p in transfer.packets]
        return Completion(Status.OK, b"x" * len(done), packets=done)
    if not transfer.is_in:
        return Completion(Status.OK, b"", transfer.length)
    return Completion(Status.SHORT if transfer.flags & Flags.SHORT_NOT_OK else Status.OK, b"abc")


def play(path: Path, step: int) -> Talk:
    talk = claimed()
    talk.at_once = answer
    said, expected = b"", b""
    for message in reader.load(path):
        if message.to_exporter and expected:
            talk.says(said, step=step).hears(expected)
            said = expected = b""
        if message.to_exporter:
            said += message.raw
        else:
            expected += message.raw
    return talk.says(said, step=step).hears(expected)


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_a_target_answers_as_the_vector_says(path: Path, step: int) -> None:
    assert play(path, step).exporter.in_flight == 0


def test_each_write_of_the_vectors_was_done_once() -> None:
    talk = play(FOLDER / "transfers.txt", 0)
    writes = [(t.length, t.flags) for t in talk.transfers.values() if not t.is_in and not t.setup]
    assert writes == [(512, Flags.ZERO_PACKET), (1, 0)]
    assert talk.payloads[4] == b"a" * 512
    assert (talk.transfers[1].interval, talk.transfers[2].stream_id) == (10, 5)
