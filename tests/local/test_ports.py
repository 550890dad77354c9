"""What is said of attached devices: by relays of theirs, and by files of processes that are no more."""

from __future__ import annotations

import json
import os
import sys

import pytest

from tests.local.test_attach import RELAYED, attached, get_device
from usbferry.local import ports
from usbferry.local.relay import Counts
from usbferry.local.vhci import Record, until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has vhci_hcd")


async def test_a_relay_says_whose_it_is_and_what_went_through(kernel, monkeypatch):
    monkeypatch.setattr(ports, "_WRITE_SECONDS", 0.01)
    async with attached(kernel, "virtual:zero", ""):
        [said] = ports.attached(kernel.vhci)
        assert (said["address"], said["device"]) == ("virtual:zero", "1-1")
        assert said["relay"].pop("since") > 1.7e9
        assert said["relay"] == {"pid": os.getpid(), "transfers": 0, "bytes_in": 0, "bytes_out": 0, "errors": 0}
        await kernel.ports[0].says(get_device(1, RELAYED))
        await kernel.ports[0].hears(66)
        assert await until(lambda: ports.attached(kernel.vhci)[0]["relay"]["transfers"] == 1, 10)
        assert ports.attached(kernel.vhci)[0]["relay"]["bytes_in"] == 18
    assert list(kernel.vhci.note_path(0).parent.iterdir()) == []


async def test_a_relay_that_ends_leaves_the_file_of_the_ports_next_one(kernel):
    first = ports.Note(kernel.vhci, 0, "virtual:zero", Counts())
    second = ports.Note(kernel.vhci, 0, "virtual:disk", Counts())
    first.close()
    assert json.loads(kernel.vhci.note_path(0).read_text())["address"] == "virtual:disk"
    second.close()
    assert not kernel.vhci.note_path(0).exists()


async def test_a_relay_whose_file_cannot_be_written_goes_on(kernel):
    kernel.vhci.note_path(0).parent.parent.mkdir()
    kernel.vhci.note_path(0).parent.write_text("in the way")
    async with attached(kernel, "virtual:zero", ""):
        [said] = ports.attached(kernel.vhci)
        assert (said["address"], said["relay"]) == (None, None)


@pytest.mark.parametrize(
    "change",
    [{"schema": "another/1"}, {"pid": 1 << 30}, {"started": "1"}, {"pid": None}],
    ids=lambda change: next(iter(change)),
)
def test_a_file_that_a_dead_process_left_counts_for_nothing(kernel, change):
    path = kernel.vhci.note_path(0)
    path.parent.mkdir(parents=True)
    said = {
        "schema": ports.SCHEMA,
        "port": 0,
        "pid": os.getpid(),
        "started": None,
        "address": "virtual:zero",
        "since": 1,
    }
    kernel.take(0)
    kernel.vhci.write_record(0, Record("host", "3240", "1-2"))
    path.write_text(json.dumps({**said, "counts": {}}))
    assert ports.attached(kernel.vhci)[0]["address"] == "virtual:zero"
    path.write_text(json.dumps({**said, "counts": {}, **change}))
    assert ports.attached(kernel.vhci)[0]["address"] == "usbip://host/1-2"


def test_a_file_that_is_no_json_counts_for_nothing(kernel):
    kernel.take(0)
    path = kernel.vhci.note_path(0)
    path.parent.mkdir(parents=True)
    for text in ("", "[]", "{", "7"):
        path.write_text(text)
        assert ports.attached(kernel.vhci)[0]["relay"] is None
