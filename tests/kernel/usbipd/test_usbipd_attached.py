"""A kernel imports what it exports itself: our `attach` gives it each device, and its own driver binds and works.

On the way there is the kernel's server, and for some a relay of ours; the tests are at the far sides of the devices.
"""

import os
import re
import shlex
import sys
from collections.abc import Callable

import pytest

from tests.kernel.emulated import (
    AUDIO,
    CARDS,
    DISK,
    EVENTS,
    FILES,
    KEYBOARD,
    MODULES,
    MOUSE,
    NETWORK,
    SERIAL,
    TABLET,
    bring_network_up,
    driver_of,
    events,
    has_the_bytes,
    passes_bytes,
    plays_sound,
    said,
    shows_its_card,
)
from tests.kernel.guest import Guest
from tests.kernel.steps import ATTACH_ALL, unexpected, usbtest
from tests.kernel.usbipd import exported
from tests.kernel.usbipd import gadgets as gadgets_made
from tests.kernel.usbipd.exported import Known, named
from tests.kernel.usbipd.gadgets import PORT

PYTHON = shlex.quote(sys.executable)
# What has no driver in the kernel waits for a program.
BOUND = {
    DISK: "usb-storage", KEYBOARD: "usbhid", MOUSE: "usbhid", TABLET: "usbhid", SERIAL: "ftdi_sio",
    NETWORK: "cdc_ether", AUDIO: "snd-usb-audio", CARDS: "", FILES: "",
    "storage": "usb-storage", "serial": "cdc_acm", "keyboard": "usbhid", "printer": "usblp",
    "zero": "usbtest", "loop": "usbtest",
}  # fmt: skip
EXPECTED = (
    r"^vhci_hcd: vhci_device speed not set$",  # it says so of every full-speed device
    r"^usb usb\d+: Not yet implemented$",  # a frame's number, which the sound driver asks for
    exported.CLOSED,
    *gadgets_made.CLOSED,
)


@pytest.fixture(scope="module")
def address(known: dict[str, Known], gadgets: dict[str, str]) -> Callable[[str], str]:
    """How the guest itself reaches the device that is called or `named` so."""

    def find(what: str) -> str:
        if what in gadgets:
            return f"usbip://127.0.0.1:{PORT}/{gadgets[what]}"
        return f"usbip://127.0.0.1/{named(known, what)}"

    return find


@pytest.fixture(scope="module")
def attached(guest: Guest, address: Callable[[str], str]) -> dict[str, str]:
    """All of them, each one's name on the importing bus."""
    guest.run(f"modprobe -a vhci-hcd {MODULES} cdc_acm usblp && modprobe usbtest pattern=1").ok()
    # Nobody shall find the devices that are exported instead.
    guest.run("for bus in 001 002; do mount -t tmpfs none /dev/bus/usb/$bus; done").ok()
    addresses = {address(what): what for what in BOUND if what != DISK}
    output = guest.run(
        f"""
        {PYTHON} -m usbferry attach usbip://127.0.0.1/{DISK} >$SHARED/disk &
        {ATTACH_ALL} {" ".join(addresses)} && wait $! && cat $SHARED/disk
        """,
        150,
    ).ok()
    *lines, of_disk = output.splitlines()
    devices = {addresses[line.split()[0]]: line.split()[1] for line in lines}
    found = re.fullmatch(
        rf"port \d+: usbip://127\.0\.0\.1/{DISK} is (\S+) here, {DISK} QEMU QEMU USB HARDDRIVE", of_disk
    )
    assert found, of_disk
    devices[DISK] = found[1]
    wait = (f"until [ -e {driver_of(devices[what])} ]; do sleep 0.1; done" for what, driver in BOUND.items() if driver)
    guest.run("\n".join(wait), 60).ok()
    return devices


def test_each_device_has_its_own_driver(guest, attached):
    assert set(attached) == set(BOUND)
    links = " ".join(driver_of(device) for device in attached.values())
    shown = guest.run(f"for link in {links}; do echo $link $(readlink $link); done").ok()
    drivers = {line.split(":")[0].rpartition("/")[2]: line.partition("/drivers/")[2] for line in shown.splitlines()}
    assert {what: drivers[device] for what, device in attached.items()} == BOUND


def test_disks_are_read(guest, attached, files):
    assert has_the_bytes(guest, attached[DISK], files / "disk")
    assert has_the_bytes(guest, attached["storage"], guest.shared / "lun")


def test_keys_and_pointers_are_seen(guest, attached):
    """Each until the guest has seen it: QEMU gives a pointer's moves to the one that was read last."""
    keyboard, mouse, tablet, gadget = (attached[what] for what in (KEYBOARD, MOUSE, TABLET, "keyboard"))
    step = guest.start(f"{EVENTS} {keyboard} {mouse} {tablet} {gadget} until=28", 90)
    report = r"printf '\0\0\5\0\0\0\0\0' >/dev/hidg0; printf '\0\0\0\0\0\0\0\0' >/dev/hidg0"

    def click() -> None:
        guest.monitor("mouse_button 1")
        guest.monitor("mouse_button 0")

    lines = events(
        guest,
        step,
        [
            (lambda: guest.monitor("mouse_move 5 -3"), f"{mouse} 2 1 -3"),  # EV_REL, REL_Y
            (lambda: guest.monitor("sendkey a"), f"{keyboard} 1 30 0"),  # EV_KEY, KEY_A
            (click, f"{tablet} 1 272 0"),  # BTN_LEFT
            (lambda: guest.run(report).ok(), f"{gadget} 1 48 0"),  # KEY_B
            (lambda: guest.monitor("sendkey ret"), f"{keyboard} 1 28 0"),  # KEY_ENTER
        ],
    )
    assert {f"{mouse} 2 0 5", f"{keyboard} 1 30 1", f"{tablet} 1 272 1", f"{gadget} 1 48 1"} <= set(lines)


def test_serial_ports_pass_bytes_both_ways(guest, attached, files):
    assert passes_bytes(guest, attached[SERIAL], files / "serial")
    sent = os.urandom(1000)
    (guest.shared / "sent").write_bytes(sent)
    guest.run(f"""
        port=/dev/$(basename /sys/bus/usb/devices/{attached["serial"]}:1.0/tty/*)
        exec 3<>/dev/ttyGS0 4<>$port
        stty -F /dev/ttyGS0 raw -echo && stty -F $port raw -echo || exit
        cat $SHARED/sent >&3 & head -c {len(sent)} <&4 >$SHARED/came; wait
        cat $SHARED/sent >&4 & head -c {len(sent)} <&3 >$SHARED/went; wait
    """).ok()
    assert (guest.shared / "came").read_bytes() == sent
    assert (guest.shared / "went").read_bytes() == sent


def test_sound_is_played(guest, attached, files):
    assert plays_sound(guest, attached[AUDIO], files / "wav")


def test_a_network_is_there(guest, attached):
    bring_network_up(guest, attached[NETWORK])


def test_a_card_is_seen_by_the_readers_driver(guest, attached, files):
    assert shows_its_card(guest, attached[CARDS], files / "card")


def test_a_page_is_printed(guest, attached):
    page = os.urandom(3000)
    (guest.shared / "sheet").write_bytes(page)
    guest.run(f"""
        head -c {len(page)} /dev/g_printer0 >$SHARED/paper &
        cat $SHARED/sheet >/dev/usb/$(basename /sys/bus/usb/devices/{attached["printer"]}:1.0/usbmisc/lp*)
        wait
    """).ok()
    assert (guest.shared / "paper").read_bytes() == page


def test_a_file_is_read_by_libmtp(guest, attached, files):
    """The kernel leaves that to libmtp, which finds the device among those of usbfs as any other.

    It lists the exported one too, and cannot open it: its file is hidden here. QEMU numbers files in the order in which
    the folder has them, and counts on from the session before unless that was closed, as the first here is.
    """
    told = guest.run("""
        exec 2>&1
        mtp-files >/dev/null
        mtp-files | tee $SHARED/listed
        mtp-getfile $(sed -n 's/^File ID: //p' $SHARED/listed) $SHARED/noise
    """).ok()
    assert "Filename: noise" in told
    assert (guest.shared / "noise").read_bytes() == (files / "mtp" / "noise").read_bytes(), told


def test_the_kernels_suite_moves_data_with_both_of_its_gadgets(guest, attached):
    """The source and the sink check each byte. The loop only takes: each case resets its setting, which empties it."""
    for name, cases in (("zero", [1, 2]), ("loop", [1])):
        run = usbtest(guest, f"reload=0 device={attached[name]} {' '.join(f'{case},iterations=20' for case in cases)}")
        assert (run.passed, run.failed) == (cases, {})


def test_detached_and_attached_again_through_relays(guest, attached, address, files):
    """Now each transfer of the kernel's goes through our exporter and our importer."""
    again = {address(what): what for what in (DISK, KEYBOARD, SERIAL, "storage")}
    guest.run(f"{PYTHON} -m usbferry detach {' '.join(again)}").ok()
    relays = guest.start(f"exec {ATTACH_ALL} relay {' '.join(again)}", 100)
    for where in again:
        said(relays, where, 60)
    devices = {again[line.split()[0]]: line.split()[1] for line in relays.output().splitlines()}
    assert has_the_bytes(guest, devices[DISK], files / "disk")
    assert has_the_bytes(guest, devices["storage"], guest.shared / "lun")
    assert passes_bytes(guest, devices[SERIAL], files / "serial")
    keyboard = devices[KEYBOARD]
    step = guest.start(f"{EVENTS} {keyboard} until=28", 90)
    events(guest, step, [(lambda: guest.monitor("sendkey ret"), f"{keyboard} 1 28 0")])


def test_the_kernel_said_no_more_than_it_has_to(guest):
    assert unexpected(guest, *EXPECTED) == []
