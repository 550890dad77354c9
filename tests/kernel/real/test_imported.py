"""Emulated devices on xHCI, EHCI and UHCI, exported by our server in a guest, imported by the same guest's kernel.

Each works through the kernel's own driver, or a program of its own where there is none.
"""

import asyncio
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.emulated import (
    EVENTS,
    Card,
    bring_network_up,
    disk_path,
    events,
    far_side,
    passes_bytes,
    plays_sound,
    shows_its_card,
)
from tests.kernel.guest import Guest
from tests.kernel.real.machine import DEVICES, DISKS, SHARED, Machine
from tests.kernel.steps import unexpected

DIRECT = f"{shlex.quote(sys.executable)} -m tests.kernel.real.direct"
PAIRS = 500 if os.environ.get("USBFERRY_SOAK") else 50  # of submit and unlink
STREAMS = 16  # of QEMU's UAS disk
EXPECTED = (
    r"^vhci_hcd: vhci_device speed not set$",  # it says so of every full-speed device
    r"^usb usb\d+: Not yet implemented$",  # a frame's number, which the sound driver asks for
    r"^usb \S+: enqueue for inactive port \d+$",  # a driver had one more transfer when its port was detached
    r"^debugfs: File 'stream_\w+' in directory 'ep\d\d' already present!$",  # streams allocated a second time
)


@pytest.fixture(scope="module")
def attached(machine: Machine, server: object) -> Iterator[dict[str, str]]:
    """All that is shared, each one's name on the importing bus. What was attached before one failed goes, too."""
    try:
        yield machine.attach(SHARED)
    finally:
        machine.detach_all()


@pytest.fixture
def direct(guest: Guest, machine: Machine) -> Any:
    """What direct.py says of these words, whose names of devices are looked up."""

    def run(*words: str) -> list[Any]:
        return [json.loads(line) for line in guest.run(f"{DIRECT} {' '.join(words)}", 200).ok().splitlines()]

    return run


def test_each_is_lent_and_has_a_driver_on_the_other_side(machine, attached):
    assert set(attached) == {*SHARED}
    has_driver = [name for name in SHARED if DEVICES[name].driver]
    assert machine.drivers(attached[name] for name in has_driver) == [DEVICES[name].driver for name in has_driver]
    assert machine.drivers(machine.bus_ids[name] for name in SHARED) == ["usbfs"] * len(SHARED)
    assert machine.drivers([machine.bus_ids["uas-xhci"]]) == ["uas"]  # nobody asked for it


@pytest.mark.timeout(700)  # for 64 MiB there and back, with everything emulated
@pytest.mark.parametrize("name", [name for name in DISKS if name in SHARED])
def test_a_disk_is_read_and_written(guest, attached, files, name):
    image = files / name
    before = hashlib.sha256(image.read_bytes()).hexdigest()
    done = guest.run(
        f"""
        {disk_path(attached[name])}
        sha256sum <$disk
        head -c {image.stat().st_size} /dev/urandom >/run/noise && sha256sum </run/noise
        dd if=/run/noise of=$disk bs=64K oflag=direct conv=fsync status=none && rm /run/noise
        """,
        600,
    )
    read, written = [line.split()[0] for line in done.ok().splitlines()]
    assert read == before
    assert written == hashlib.sha256(image.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", [name for name in SHARED if name.startswith("serial")])
def test_a_serial_port_passes_bytes_both_ways(guest, attached, files, name):
    assert passes_bytes(guest, attached[name], files / name)


@pytest.mark.parametrize("name", [name for name in SHARED if name.startswith("sound")])
def test_sound_is_played(guest, attached, files, name):
    assert plays_sound(guest, attached[name], files / name, pieces=10 if DEVICES[name].bus == "uhci" else 1)


def test_a_network_answers(guest, attached):
    bring_network_up(guest, attached["net-xhci"])
    guest.run("busybox ping -c 3 10.0.7.2").ok()


def test_a_card_is_seen_by_the_readers_driver(guest, attached, files):
    assert shows_its_card(guest, attached["card-xhci"], files / "card-xhci")


async def test_what_has_no_driver_is_used_by_programs(guest, machine, attached, files, direct):
    """With our libusb backend on the importing side too, over vhci; the streams on the emulated controller itself."""
    command, found = bytes.fromhex("00a4040006d2760000850100"), b"usbferry\x90\x00"
    keyboards = [name for name in SHARED if name.startswith("keys")]
    words = [f"cancels {attached[name]} {PAIRS}" for name in keyboards]
    words += [
        f"files {attached['files-ehci']}",
        f"streams {machine.bus_ids['uas-xhci']}",
        f"network {attached['net-xhci']}",
        f"card {attached['card-xhci']}",
    ]
    async with far_side(files / "card-xhci") as streams, asyncio.TaskGroup() as group:
        group.create_task(Card(*streams).serve([(command, found)]))
        *cancelled, noise, streamed, network, card = await asyncio.to_thread(direct, *words)
    assert [one["ends"] for one in cancelled] == [{"CANCELLED": PAIRS}] * len(keyboards)
    assert noise["sha256"] == hashlib.sha256((files / "mtp" / "noise").read_bytes()).hexdigest()
    assert network == {"seen": [[2, ["0.0", "1.0"]], [1, ["0.0", "1.0"]]], "neighbour": True}
    assert card == {"atr": Card.ATR_BYTES.hex(), "answer": found.hex()}
    blocks = (files / "uas-xhci").read_bytes()[512 : 512 * (STREAMS + 1)]
    assert streamed == {
        "allocated": STREAMS,
        "sha256": hashlib.sha256(blocks).hexdigest(),
        "senses": [[3, tag, 0] for tag in range(1, STREAMS + 1)],
        "freed": "OK",
        "again": 2,
    }


def test_keys_are_seen(guest, machine, attached):
    """QEMU gives them to the keyboard that was added last, whichever that is by now; it is pulled out with its own."""
    keyboards = {attached[name]: name for name in SHARED if name.startswith("keys")}
    while keyboards:
        step = guest.start(f"{EVENTS} {' '.join(keyboards)} until=28", 90)
        lines = events(
            guest,
            step,
            [
                (lambda: guest.monitor("sendkey a"), " 1 30 0"),  # EV_KEY, KEY_A
                (lambda: guest.monitor("sendkey ret"), " 1 28 0"),  # KEY_ENTER
            ],
        )
        keyboard, *_ = next(line for line in lines if line.endswith(" 1 30 1")).split()
        assert {f"{keyboard} 1 {key} {is_down}" for key in (30, 28) for is_down in (0, 1)} <= set(lines)
        assert not any(line.startswith(f"{other} ") for other in keyboards.keys() - {keyboard} for line in lines)
        machine.unplug(keyboards.pop(keyboard))
        guest.run(f"while [ -e /sys/bus/usb/devices/{keyboard} ]; do sleep 0.05; done").ok()
    machine.plug_all()


def test_given_back_they_have_their_own_drivers_again(machine, attached):
    machine.detach_all()
    machine.find(SHARED)


def test_the_kernel_said_no_more_than_it_has_to(guest, server):
    assert unexpected(guest, *EXPECTED) == []
    assert "Traceback" not in server.output()
