"""Programs that are to a device what a driver is find ours as any other: libfido2, pcscd, libmtp."""

import json
import os
import shlex
import sys

import pytest

from tests.kernel.guest import CHECKOUT
from tests.kernel.steps import importing, once_it_says, unexpected
from usbferry.devices.smartcards.card import Card

SOAK = os.environ.get("USBFERRY_SOAK", "") not in ("", "0")
FIDO_HOST = f"{sys.executable} {CHECKOUT / 'tests' / 'devices' / 'fido_host.py'}"
FULL_SPEED = "vhci_device speed not set"  # vhci_hcd says so at error level of every full-speed device


@pytest.fixture(scope="module", autouse=True)
def drivers(guest):
    guest.run("modprobe -a vhci-hcd usbhid hid-generic").ok()


# -- security keys -----------------------------------------------------------------------------------------------------

# libfido2 makes a credential, checks its attestation, signs with it, and checks that; `$1` is the key, -h its secrets.
LIBFIDO2 = """
    cd $(mktemp -d); number() { head -c 32 /dev/urandom | base64; }
    (number; echo example.org; echo ann; number) >asked
    fido2-token -I $1 | grep -A 99 caps
    fido2-cred -M -h -i asked -o made $1 && fido2-cred -V -h -i made -o known || exit 1
    (number; echo example.org; head -1 known; number) >asked
    tail -n +2 known >public.pem
    fido2-assert -G -h -i asked $1 >signed && fido2-assert -V -h -i signed public.pem || exit 2
    sed -n 5p signed | base64 -d | wc -c  # the secret for a disk
    sed -i '4s/^..../AAAA/' signed  # the signature
    fido2-assert -V -h -i signed public.pem 2>/dev/null && exit 3
    echo checked
"""


def test_a_security_key_registers_and_authenticates(guest, serve):
    """Through the kernel's hidraw, with libfido2. The quick tests have python-fido2, which starts slowly here."""
    server = serve("virtual:security-key")
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        find = (
            f"until set -- /sys/bus/usb/devices/{attached.device}:1.0/*/hidraw/hidraw*; [ -e $1 ]; do sleep 0.1; done"
        )
        said = guest.run(f"{find}\nset -- /dev/${{1##*/}}\n{LIBFIDO2}", 60).ok()
        assert "FIDO_2_0" in said
        assert "aaguid: 7573626665727279" in said
        assert said.endswith("32\nchecked\n")
        if SOAK:
            told = json.loads(guest.run(FIDO_HOST, 90).ok())
            assert (told["named"], told["found"], told["u2f"]) == (True, True, "U2F_V2")
    assert unexpected(guest, FULL_SPEED) == []


# -- cards -------------------------------------------------------------------------------------------------------------

# pcscd finds the reader, pyscard uses it by way of pcscd: files by short and extended APDUs, the PIN, a card that goes.
PYSCARD = """
import time
from smartcard.scard import (
    SCARD_SCOPE_SYSTEM, SCARD_STATE_EMPTY, SCARD_STATE_PRESENT, SCARD_STATE_UNAWARE,
    SCardEstablishContext, SCardGetStatusChange, SCardListReaders,
)
from smartcard.System import readers

while (begun := SCardEstablishContext(SCARD_SCOPE_SYSTEM))[0]:
    time.sleep(0.05)  # pcscd is starting
context = begun[1]


def until(state, now=SCARD_STATE_UNAWARE):
    while True:
        _, names = SCardListReaders(context, [])
        if names:
            _, [(_, now, _)] = SCardGetStatusChange(context, 1000, [(names[0], now)])
            if now & state:
                return
        else:
            time.sleep(0.05)


until(SCARD_STATE_PRESENT)
connection = readers()[0].createConnection()
connection.connect()
print("atr", bytes(connection.getATR()).hex(), flush=True)
for command in COMMANDS:
    data, sw1, sw2 = connection.transmit(list(bytes.fromhex(command)))
    print(f"{len(data)} {bytes(data[:20]).hex()} {sw1:02x}{sw2:02x}", flush=True)
print("remove it", flush=True)
until(SCARD_STATE_EMPTY)
print("insert it", flush=True)
until(SCARD_STATE_PRESENT)
print("there", flush=True)
"""
COMMANDS = {
    "00a4040c05a000000001": "0  9000",
    "00b0810000": f"4 {b'text'.hex()} 9000",
    "00a4000c020102": "0  9000",
    "00d6000004deadbeef": "0  6982",
    "0020000104" + b"1234".hex(): "0  9000",
    "00d60000" + "002710" + "5a" * 10000: "0  9000",
    "00b00000" + "000000": f"20000 {'5a' * 20} 9000",
}


def test_a_card_is_read_and_written_by_way_of_pcscd(guest, serve, fifo, tmp_path):
    application = tmp_path / "card" / "A000000001"
    application.mkdir(parents=True)
    (application / "0101").write_bytes(b"text")
    (application / "0102").write_bytes(bytes(20000))
    server = serve(f"virtual:smartcard?files={application.parent}&pipe={fifo}")
    program = PYSCARD.replace("COMMANDS", repr(list(COMMANDS)))
    guest.mark()
    with importing(guest, server.port, "1-1"):
        using = f"/usr/bin/python3 -c {shlex.quote(program)}"
        script = f"mkdir -p /run/pcscd; pcscd --foreground & {using}; kill %1; wait"
        step = guest.start(script, 90)
        once_it_says(step, "remove it")
        fifo.write_text("remove\n")
        once_it_says(step, "insert it")
        fifo.write_text("insert\n")
        said = step.wait().output.splitlines()
    start = said.index(f"atr {Card.atr.hex()}")
    assert said[start + 1 :][: len(COMMANDS)] == list(COMMANDS.values())
    assert "there" in said
    assert unexpected(guest, FULL_SPEED) == []


# -- media -------------------------------------------------------------------------------------------------------------

# libmtp, by way of usbfs. The tools say a lot on standard error about ids that they do not know.
MTP = """
    cd $(mktemp -d)
    mtp-files 2>/dev/null | grep -A 1 "^File ID" >listed; cat listed
    mtp-getfile $(grep -B 1 noise listed | sed -n "s/^File ID: //p") $SHARED/got >/dev/null 2>&1 || exit 1
    mtp-sendfile $SHARED/sent.bin sent.bin >/dev/null 2>&1 || exit 2
"""


def test_a_folder_is_listed_copied_and_written_by_libmtp(guest, serve, tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "noise").write_bytes(os.urandom(300_000))
    (folder / "sub" / "photo.jpg").write_bytes(b"jpeg")
    (guest.shared / "sent.bin").write_bytes(os.urandom(200_000))
    server = serve(f"virtual:mtp?folder={folder}&write")
    guest.mark()
    with importing(guest, server.port, "1-1"):
        said = guest.run(MTP, 90).ok()
    assert sorted(line.split()[-1] for line in said.splitlines() if "Filename" in line) == ["noise", "photo.jpg"]
    assert (guest.shared / "got").read_bytes() == (folder / "noise").read_bytes()
    assert (folder / "sent.bin").read_bytes() == (guest.shared / "sent.bin").read_bytes()
    assert unexpected(guest) == []
