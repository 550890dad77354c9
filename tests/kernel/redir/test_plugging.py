"""Devices that a machine may not have, that come and go under load, and that mean ill: QEMU goes on."""

import os
import re
import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.kernel.guest import CHECKOUT
from tests.kernel.redir import hostile
from tests.kernel.redir.plugging import TAKEN_BACK, XHCI, device_with, plugged, wait_for
from tests.kernel.steps import unexpected
from usbferry.backends.virtual import described
from usbferry.protocols.usbredir import filter as filters
from usbferry.protocols.usbredir.filter import Verdict

CYCLES = 50 if os.environ.get("USBFERRY_SOAK") else 10
TRAFFIC = f"/usr/bin/python3 -I -S {CHECKOUT / 'tests' / 'kernel' / 'traffic.py'}"
USBFS = f"/usr/bin/python3 -I -S {CHECKOUT / 'tests' / 'kernel' / 'usbfs.py'}"

DEVICES = {  # by serial number
    "keys": "virtual:keyboard?serial=keys",  # 1209:0001, an interface of HID, boot
    "line": "virtual:serial?serial=line",  # 0525:a4a7, ef with an association; interfaces of 02 and 0a
    "zero": "virtual:zero?serial=zero",  # 0525:a4a0, class ff, version 0100
}
RULES = [
    "-1,-1,-1,-1,1",
    "0x03,-1,-1,-1,1",  # what no rule is about is refused
    "-1,0x0525,-1,-1,0|-1,-1,-1,-1,1",
    "0x02,-1,-1,-1,1|0x0a,-1,-1,-1,1",  # each interface must be allowed
    "0x02,-1,-1,-1,1",
    "-1,0x0525,0xa4a0,0x0100,1",
    "-1,-1,-1,0x0101,1|0xff,-1,-1,-1,0|-1,-1,-1,-1,1",
]
# What it sent before it knew of the disconnect is answered, as by usbredirhost; it has forgotten the endpoint by then.
LATE = "received int packet for non interrupt endpoint 04"
# How a program's transfers end then. A stall: that streams stop is said before the disconnect.
LOST = ("ENODEV", "ESHUTDOWN", "EPROTO", "EHOSTUNREACH", "EPIPE")
# What the kernel says of a device that leaves in the middle of everything.
LEAVING = (
    r"failed to set dtr/rts",
    r"urb \d+ failed submission with -19",
    r"usb \S+: device \S+ error -\d+",
    TAKEN_BACK,
)


def test_a_filter_of_qemu_says_what_ours_says(guest, offer):
    """QEMU refuses what our rules refuse, and we are told; what they admit is there. It writes colons for commas."""
    server, ports = offer(*DEVICES.values(), "-vv")  # it says what it has said within the last minute, too
    for rules in RULES:
        expected = {
            serial: filters.check(filters.parse(rules), described(address).info) is Verdict.ALLOWED
            for serial, address in DEVICES.items()
        }
        assert found_by_qemu(guest, server, ports, rules) == expected, rules


def found_by_qemu(guest, server, ports, rules):
    """Which of the devices it has, by its `filter=`: those that we are not told it does not want."""
    start, admitted = len(server.log()), {}
    with ExitStack() as stack:
        for port in ports:
            stack.enter_context(plugged(guest, port, XHCI, debug=2, filter=rules.replace(",", ":")))
        for number, serial in enumerate(DEVICES, 1):
            word = f"the peer does not want 1-{number} "
            wait_for(lambda word=word, serial=serial: word in server.log()[start:] or is_there(guest, serial))
            admitted[serial] = word not in server.log()[start:]
    return admitted


def is_there(guest, serial):
    return guest.run(f"grep -slx {serial} /sys/bus/usb/devices/*-*/serial").rc == 0


def test_unplugged_and_plugged_in_again_under_load(guest, offer):
    """Each time every endpoint is busy: disconnect, its ack, and a connect, all on one connection."""
    vanish = f"fault=vanish:0x83:after=100:times={CYCLES}:away=0.1"  # after 0.4 seconds of sound
    server, [port] = offer(f"virtual:zero?serial=again&{vanish}", "-v")
    with plugged(guest, port, debug=4) as plug:
        for _ in range(CYCLES):
            said = guest.run(f"{TRAFFIC} {device_with(guest, 'again')} 60", 90).ok()
            ended, counts = said.splitlines()[-1].split(" ", 1)
            assert ended in LOST
            assert all(int(count) for count in re.findall(r": (\d+)", counts)), counts
        said = guest.run(f"{USBFS} {device_with(guest, 'again')} in:0x81:512 out:0x01:64").ok()
    assert said.split() == ["512", "64"]
    log = "\n".join(plug.log())
    assert log.count("attaching") == CYCLES + 1
    assert log.count("detaching device") >= CYCLES
    assert len(set(re.findall(r"1-1 imported by (\S+)", server.log()))) == 1
    assert {line for line in re.findall("error.*", log) if not re.search(LATE, line)} == set()
    assert "Traceback" not in server.log()
    assert unexpected(guest, *LEAVING) == []


@pytest.fixture
def hostile_ports(tmp_path):
    """The port of each hostile device, by its name; their server must live to the end, and complain of them alone."""
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "tests.kernel.redir.hostile"]
        process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=log, text=True)
    with process:
        lines = iter(process.stdout.readline, "done\n")
        yield {name: int(port) for name, port in map(str.split, lines)}
        assert process.poll() is None
        process.kill()
    raised = re.findall(r"^\w*(?:Error|Exception).*", (tmp_path / "log").read_text(), re.M)
    assert set(raised) <= {"RuntimeError: HOSTILE"}


def test_hostile_devices_do_not_end_qemu(guest, hostile_ports, offer):
    """It would abort on a malformed packet. It refuses them, or its guest does, and a good one works afterwards."""
    assert hostile_ports.keys() == hostile.WORDS.keys()
    for name, words in hostile.WORDS.items():
        with plugged(guest, hostile_ports[name], debug=2):
            seen = guest.run(f"""
                for n in $(seq 25); do
                    for device in $(grep -slx {hostile.VENDOR} /sys/bus/usb/devices/*-*/idVendor); do
                        device=$(basename $(dirname $device))
                        [ -e /sys/bus/usb/devices/$device:1.0 ] && {USBFS} $device timeout=300 {words} && exit
                    done
                    dmesg | grep -q 'unable to enumerate USB device' && exit
                    sleep 0.1
                done
            """, 30)  # fmt: skip
        assert "running" in guest.monitor("info status"), (name, seen)
        guest.mark()
    _, [port] = offer("virtual:zero?serial=good")
    with plugged(guest, port, debug=2):
        assert guest.run(f"{USBFS} {device_with(guest, 'good')} in:0x81:512").ok().split() == ["512"]
    assert guest.complaints() == []
