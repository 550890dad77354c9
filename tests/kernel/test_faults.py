"""Each fault as the kernel sees it: errors of transfers, disconnects, and what its class drivers make of them."""

import hashlib
import re
import time

import pytest

from tests import evdev
from tests.kernel.guest import CHECKOUT
from tests.kernel.steps import HOST, attach, detach, disk_of, importing, unexpected, usbip_attach, wait_until_free
from usbferry.testing import plugged

USBFS = f"/usr/bin/python3 -I -S {CHECKOUT / 'tests' / 'kernel' / 'usbfs.py'}"
EVENTS = f"/usr/bin/python3 -I -S {CHECKOUT / 'tests' / 'kernel' / 'events.py'}"
KEY_ENTER = 28
LATE = "enqueue for inactive port"  # vhci_hcd says so of what is submitted between the loss and the disconnect


def transfers(guest, attached, words):
    """What a program gets for each of the transfers."""
    return guest.run(f"{USBFS} {attached.device} {words}").ok().split()


def faults(*texts):
    return "&".join(f"fault={text}" for text in texts)


def wait_for(condition, limit=30):
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


# -- single transfers -------------------------------------------------------------------------------------------------


def test_stall_short_wrong_length_and_babble(guest, serve):
    server = serve(
        "virtual:zero?"
        + faults(
            *("stall:0x81:after=2", "short:0x81:after=4", "length:0x81:size=100:after=5", "babble:0x81:after=6"),
            *("length:0x81:size=600:after=7", "stall:0x01:after=1", "stall:0:request=0x5c", "short:0:request=0x5c"),
        )
    )
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        said = transfers(guest, attached, "in:0x81:512 " * 4 + "clear:0x81 " + "in:0x81:512 " * 8)
        assert said[:5] == ["512", "512", "EPIPE", "EPIPE", "0"]  # halted until it is cleared
        assert said[5:] == ["512", "256", "100", "EOVERFLOW", "EOVERFLOW", "512", "512", "512"]
        said = transfers(guest, attached, "out:0x01:64 " * 3 + "clear:0x01 out:0x01:64")
        assert said == ["64", "EPIPE", "EPIPE", "0", "64"]
        said = transfers(guest, attached, "control:0x40:0x5b:16 " + "control:0xc0:0x5c:16 " * 3)
        assert said == ["16", "EPIPE", "8", "16"]
    assert unexpected(guest) == []


def test_the_device_of_a_test_gets_its_faults_while_a_kernel_has_it(guest):
    """What pytest's plug-in plugs in, imported by a kernel; and what the report of a failure would say."""
    guest.mark()
    with plugged("virtual:zero") as one:
        port = int(one.usbip.rpartition(":")[2].partition("/")[0])
        with importing(guest, port, "1-1") as attached:
            assert transfers(guest, attached, "in:0x81:512") == ["512"]
            one.faults.stall(0x81)
            one.faults.late(0x82, seconds=60)
            assert transfers(guest, attached, "in:0x81:512 clear:0x81 in:0x81:512") == ["EPIPE", "0", "512"]
            assert transfers(guest, attached, "timeout=500 in:0x82:512") == ["ETIMEDOUT"]
        one.wait_until(lambda zero: not zero.is_open, timeout=30)
        said = [line.partition(" s  ")[2].partition(", after")[0] for line in one.report().splitlines()]
    reading = "reading 512 bytes from endpoint 0x81"
    at = said.index("fault: stall")
    assert said[at - 1] == f"{reading}: the endpoint is halted, or not there in the settings in force"
    assert said[at + 1] == "CLEAR_FEATURE, halt of endpoint 0x81: ok"
    assert said[at + 2].startswith(f"{reading} [00 00 ")
    assert "reading 512 bytes from endpoint 0x82: it was cancelled" in said[at:]
    assert said[-1] == "given back by the host"
    assert unexpected(guest) == []


def test_late_is_a_timeout_and_an_unlink(guest, serve):
    server = serve("virtual:zero?" + faults("late:0x81:seconds=60:after=1", "late:0:seconds=1:request=0x5c"), "-vv")
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        said = transfers(guest, attached, "timeout=500 " + "in:0x81:512 " * 3)
        assert said == ["512", "ETIMEDOUT", "512"]
        said = transfers(guest, attached, "timeout=500 " + "control:0xc0:0x5c:16 " * 3)
        assert said == ["ETIMEDOUT", "0", "0"]
    assert re.search(r"> 1-1 cancel #(\d+)\n.*< 1-1 #\1 cancelled 0", server.log())
    assert unexpected(guest, "USBDEVFS_CONTROL failed") == []


def test_a_device_that_cannot_be_configured(guest, serve):
    server = serve("virtual:zero?" + faults("stall:0:request=9"))
    guest.mark()
    guest.run(f"modprobe vhci-hcd; {usbip_attach(server.port, '1-1')}").ok()
    wait_for(lambda: "can't set config #1, error -32" in guest.console())
    guest.run("usbip detach -p 0").ok()
    assert unexpected(guest, "can't set config #1, error -32") == []


# -- leaving ----------------------------------------------------------------------------------------------------------


def test_vanish_is_a_disconnect(guest, serve):
    server = serve("virtual:zero?" + faults("vanish:0x81:after=3"), "-v")
    guest.mark()
    attached = attach(guest, server.port, "1-1")
    said = transfers(guest, attached, "in:0x81:512 " * 5)
    assert said[:3] == ["512"] * 3
    assert set(said[3:]) <= {"ENODEV", "ESHUTDOWN"}
    wait_until_free(guest, attached)
    assert f"usb {attached.device}: USB disconnect" in guest.console()
    listed = guest.run(f"usbip --tcp-port {server.port} list -r {HOST} 2>&1").output
    assert "1-1" not in listed
    refused = guest.run(usbip_attach(server.port, "1-1"))
    assert refused.rc
    assert "1-1 is gone: a fault asked for" in server.log()
    assert unexpected(guest, LATE) == []


def test_vanish_and_return_with_the_same_name(guest, serve):
    server = serve("virtual:zero?" + faults("vanish:0x01:away=1"), "-v")
    guest.mark()
    attached = attach(guest, server.port, "1-1")
    assert transfers(guest, attached, "in:0x81:512 out:0x01:512")[0] == "512"
    wait_until_free(guest, attached)
    assert f"usb {attached.device}: USB disconnect" in guest.console()
    wait_for(lambda: "is back" in server.log())
    with importing(guest, server.port, "1-1") as attached:
        assert transfers(guest, attached, "in:0x81:512") == ["512"]
    assert unexpected(guest, LATE) == []


def test_return_as_another(guest, serve):
    """As a device whose bootloader takes over, and then its new firmware: with other ids, with other descriptors."""
    guest.run("modprobe -a usbhid hid-generic evdev").ok()
    server = serve(
        "virtual:zero?"
        + faults(
            "vanish:0:request=0x5b:away=0.5:become=1209:0010",
            "vanish:0x81:after=1:away=0.5:become=virtual:mouse?serial=new%26delay=2",
        ),
        "-v",
    )
    guest.mark()
    attached = attach(guest, server.port, "1-1")
    for times, word in ((1, "control:0x40:0x5b:16"), (2, "in:0x81:512 in:0x81:512")):
        assert transfers(guest, attached, word)[-1] in ("ENODEV", "ESHUTDOWN", "EPROTO")
        wait_until_free(guest, attached)
        wait_for(lambda times=times: server.log().count("is back") == times)
        attached = attach(guest, server.port, "1-1")
    known = f"/sys/bus/usb/devices/{attached.device}"
    wait_for(lambda: guest.run(f"ls -d {known}:1.0/*/input").rc == 0)  # the HID driver has it
    said = guest.run(f"cd {known} && cat serial speed bNumInterfaces *:1.0/bInterfaceClass *:1.0/ep_81/type").ok()
    assert said.split() == ["new", "1.5", "1", "03", "Interrupt"]
    detach(guest, attached)
    found = re.findall(r"New USB device found, idVendor=(\w+), idProduct=(\w+)", guest.console())
    assert found[-3:-1] == [("0525", "a4a0"), ("1209", "0010")]
    assert found[-1] not in found[:-1]
    assert unexpected(guest, LATE) == []


# -- class drivers ----------------------------------------------------------------------------------------------------


def test_the_hid_driver_recovers_and_misses_no_key(guest, serve, tmp_path):
    """It clears a halt and asks again after a babble; a stalled poll has taken no report with it."""
    guest.run("modprobe -a usbhid hid-generic evdev").ok()
    server = serve(
        "virtual:keyboard?text=typed%20through%20faults%0A&delay=8&"
        + faults("stall:0x81:after=5", "babble:0x81:after=10", "stall:0x81:after=20", "late:0x81:after=25:seconds=2")
    )
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        output = guest.run(f"{EVENTS} {attached.device} until={KEY_ENTER}").ok()
    typed = [tuple(map(int, line.split()[2:])) for line in output.splitlines() if re.match(r"\S+ 1 \d+ \d+$", line)]
    assert evdev.text("us", typed) == "typed through faults\n"
    assert "input irq status -75 received" in guest.console()
    assert unexpected(guest) == []


@pytest.mark.parametrize(
    "fault", ["stall:0x81:after=30", "babble:0x81:after=31", "short:0x81:after=40", "stall:0x02:after=20"]
)
def test_the_storage_driver_recovers_and_reads_what_is_there(guest, serve, tmp_path, fault):
    image = tmp_path / "image"
    content = hashlib.shake_128(b"faults").digest(4 << 20)
    image.write_bytes(content)
    guest.run("modprobe -a usb-storage sd_mod").ok()
    server = serve(f"virtual:disk?image={image}&fault={fault}", "-v")
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        disk = disk_of(guest, attached)
        read = guest.run(f"dd if=/dev/{disk} bs=64k iflag=direct status=none | sha256sum").ok()
    assert read.split() == [hashlib.sha256(content).hexdigest(), "-"]
    assert f"Virtual disk: {fault.partition(':')[0]} at" in server.log()
    assert unexpected(guest) == []
