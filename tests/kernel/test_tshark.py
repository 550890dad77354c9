"""Wireshark decodes what the kernel and we say to one another: every kind of message, and as we decode it ourselves."""

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.kernel.recorder import Message
from tests.kernel.steps import (
    CASES,
    HOST,
    attach,
    detach,
    disk_of,
    importing,
    once_it_says,
    traffic_command,
    usbip_attach,
    usbtest,
)
from usbferry.protocols.record import Record
from usbferry.protocols.usbip.messages import (
    CmdSubmit,
    CmdUnlink,
    Command,
    DeviceRecord,
    ImportRequest,
    InterfaceRecord,
    IsoDescriptor,
    Op,
    OpHeader,
    RetSubmit,
    RetUnlink,
)

# Case 10 asks for descriptors cut short, which Wireshark calls malformed although they are as long as asked for.
WORDS = " ".join(
    f"{case},iterations=3,length={8192 if case in (15, 16) else 1024},vary=512" for case in CASES if case != 10
)

SUBMIT = {
    "usbip.sequence_no": "seqnum",
    "usbip.devid": "devid",
    "usbip.endpoint_number.direction": "direction",
    "usbip.endpoint_number": "ep",
    "usbip.transfer_flags": "flags",
    "usbip.transfer_buffer_length": "length",
    "usbip.iso.start_frame": "start_frame",
    "usbip.iso.num_of_packets": "packets",
    "usbip.interval": "interval",
    "usbip.setup": "setup",
}
ANSWER = {
    "usbip.sequence_no": "seqnum",
    "usbip.status": "status",
    "usbip.actual_length": "actual",
    "usbip.iso.start_frame": "start_frame",
    "usbip.iso.num_of_packets": "packets",
    "usbip.iso.error_count": "error_count",
}
DEVICE = {
    "usbip.system_path": "path",
    "usbip.busid": "busid",
    "usbip.bus_num": "busnum",
    "usbip.dev_num": "devnum",
    "usbip.speed": "speed",
    "usbip.idVendor": "vendor_id",
    "usbip.idProduct": "product_id",
    "usbip.bcdDevice": "release",
    "usbip.bDeviceClass": "device_class",
    "usbip.bDeviceSubClass": "device_subclass",
    "usbip.bDeviceProtocol": "device_protocol",
    "usbip.bConfigurationValue": "configuration",
    "usbip.bNumConfigurations": "configurations",
    "usbip.bNumInterfaces": "interfaces",
}
PACKET = {
    "usb.iso.iso_off": "offset",
    "usb.iso.iso_len": "length",
    "usb.iso.iso_actual_len": "actual",
    "usb.iso.iso_status": "status",
}
# Wireshark's name of a field -> ours, for each part of a message
NAMES: dict[type[Record], dict[str, str]] = {
    OpHeader: {"usbip.operation": "code", "usbip.status": "status"},
    DeviceRecord: DEVICE,
    ImportRequest: {"usbip.busid": "busid"},
    CmdSubmit: SUBMIT,
    RetSubmit: ANSWER,
    IsoDescriptor: PACKET,
    CmdUnlink: {"usbip.devid": "devid", "usbip.endpoint_number": "ep"},
    RetUnlink: {"usbip.sequence_no": "seqnum", "usbip.status": "status"},
}
FIELDS = tuple(dict.fromkeys(["usbip.urb", *(field for names in NAMES.values() for field in names)]))

Row = dict[str, list[str]]  # field -> its values, in the order of their places in a message


def tshark(capture: Path, port: int, *words: str) -> list[str]:
    command = ["tshark", "-r", str(capture), "-d", f"tcp.port=={port},usbip", "-n", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stdout.splitlines()


def rows(capture: Path, port: int) -> list[Row]:
    """Each message as Wireshark decodes it."""
    names = [word for field in FIELDS for word in ("-e", field)]
    shown = tshark(capture, port, "-Y", "usbip.operation || usbip.urb", "-T", "fields", "-E", "occurrence=a", *names)
    return [
        {field: text.split(",") for field, text in zip(FIELDS, line.split("\t"), strict=True) if text} for line in shown
    ]


@pytest.mark.timeout(200)
def test_tshark_decodes_a_session_with_every_kind_of_message(guest, serve, record, tmp_path):
    server = serve("virtual:zero", f"virtual:disk?image={tmp_path / 'disk.img'}&size=16M")
    recorder = record(server.port)
    guest.run("modprobe -a vhci-hcd sd_mod && modprobe usb-storage delay_use=0").ok()
    port = recorder.port
    guest.run(f"usbip --tcp-port {port} list -r {HOST}").ok()
    with importing(guest, port, "1-1") as zero:
        assert guest.run(usbip_attach(port, "1-1")).rc == 1  # busy
        assert guest.run(usbip_attach(port, "1-9")).rc == 1  # no such device
        assert usbtest(guest, f"alt=1 {WORDS}").failed == {}
        guest.run("modprobe -r usbtest").ok()
        guest.run(f"{traffic_command(zero, 0.3)} | grep timeout").ok()  # what is pending at its end is unlinked
    stick = attach(guest, port, "1-2")
    disk = disk_of(guest, stick)
    guest.run(f"dd if=/dev/{disk} of=/dev/null bs=64k count=4 iflag=direct status=none").ok()
    guest.run(f"dd if=/dev/zero of=/dev/{disk} bs=64k count=4 oflag=direct conv=fsync status=none").ok()
    detach(guest, stick)
    recorder.close()
    capture = tmp_path / "session.pcap"
    recorder.write(capture)
    messages = recorder.messages()

    assert_every_kind(messages)
    assert tshark(capture, server.port, "-Y", "_ws.malformed || _ws.expert.severity == error") == []
    decoded = rows(capture, server.port)
    assert Counter(kind_of(row) for row in decoded) == Counter(message.kind for message in messages)
    for message, row in zip(messages, decoded, strict=True):
        assert_equal(message, row)


def assert_every_kind(messages: list[Message]) -> None:
    """That the session has what it is meant to have: endpoint 0, bulk on 1 and 2, isochronous on 3, interrupt on 4."""
    assert {message.kind for message in messages} == {kind.name for kind in (*Op, *Command)}
    assert {m.head.status for m in messages if m.kind == "REP_IMPORT"} == {0, 2, 4}  # accepted, busy, unknown
    submits = {(m.piece.connection, m.head.seqnum): m.head for m in messages if m.kind == "CMD_SUBMIT"}
    seen: Counter[tuple[str, int, int]] = Counter()
    for message in messages:
        if message.kind == "RET_SUBMIT":
            submit = submits[message.piece.connection, message.head.seqnum]
            seen["in" if submit.direction else "out", submit.ep, message.head.status] += 1
    both_ways = {(way, ep) for way in ("in", "out") for ep in range(5)}
    assert {(way, ep) for way, ep, status in seen if status == 0} == both_ways
    assert any(status == -32 for _, _, status in seen)  # stalled
    assert {m.head.status for m in messages if m.kind == "RET_UNLINK"} == {0, -104}  # too late, in time
    assert max(submit.packets for submit in submits.values()) == 8


def kind_of(row: Row) -> str:
    if "usbip.operation" in row:
        return Op(int(row["usbip.operation"][0], 16)).name
    return Command(int(row["usbip.urb"][0], 16)).name


def parts(message: Message) -> list[Record]:
    """What a message is made of, as we decode it."""
    head, data = message.head, message.data
    found = [head]
    if message.kind == "REQ_IMPORT":
        found.append(ImportRequest.parse(data, OpHeader.SIZE))
    elif message.kind == "REP_IMPORT" and not head.status:
        found.append(DeviceRecord.parse(data, OpHeader.SIZE))
    elif message.kind == "REP_DEVLIST":
        at = OpHeader.SIZE + 4
        while at < len(data):
            found.append(DeviceRecord.parse(data, at))
            at += DeviceRecord.SIZE + found[-1].interfaces * InterfaceRecord.SIZE
    elif message.kind in ("CMD_SUBMIT", "RET_SUBMIT") and head.packets > 0:
        first = len(data) - head.packets * IsoDescriptor.SIZE
        found += [IsoDescriptor.parse(data, at) for at in range(first, len(data), IsoDescriptor.SIZE)]
    return found


def assert_equal(message: Message, row: Row) -> None:
    """What Wireshark makes of one message is what we make of it."""
    expected: dict[str, list[object]] = {}
    for part in parts(message):
        for field, name in NAMES[type(part)].items():
            expected.setdefault(field, []).append(getattr(part, name))
    if isinstance(message.head, CmdUnlink):
        expected["usbip.sequence_no"] = [message.head.seqnum, message.head.target]
    if isinstance(message.head, RetSubmit) and message.head.status:
        for field in PACKET:  # not decoded, of a transfer that failed
            expected.pop(field, None)
    for field, ours in expected.items():
        # Ahead of an answer's own fields Wireshark may show those of its question.
        theirs = row.get(field, [])[-len(ours) :]
        assert [same(text, value) for text, value in zip(theirs, ours, strict=True)] == [True] * len(ours), (
            message,
            row,
        )


def same(text: str, value: object) -> bool:
    if not isinstance(value, bytes):
        return int(text, 0) == value
    return text in (value.hex(), value.split(b"\0")[0].decode(errors="replace"))


# -- the kernel's own captures -----------------------------------------------------------------------------------------

# What a program says to an oscilloscope through the kernel's driver, and what it hears.
TALK = """
    until [ -e /dev/usbtmc0 ]; do sleep 0.02; done
    exec 3<>/dev/usbtmc0
    ask() { echo "$1" >&3; dd bs=8192 count=1 status=none <&3; }
    ask '*IDN?'
    ask 'CHAN1:SCAL 0.5;:WAV:POIN 5000;DATA?' | sha256sum
    ask 'FOO;SYST:ERR?'
    ask '*OPC?'
"""


def test_what_usbmon_captured_plays_to_the_same_driver(guest, serve):
    """A capture that we did not write, of all of the guest's USB; the device itself is not there any more."""
    guest.run("modprobe -a usbmon vhci-hcd usbtmc").ok()
    capture = guest.start("exec dumpcap -q -i usbmon0 -w $SHARED/usbmon.pcapng", 100)
    once_it_says(capture, "File:")
    server = serve("virtual:usbtmc?serial=MY1&model=Scope")
    with importing(guest, server.port, "1-1") as scope:
        live = guest.run(TALK).ok()
        bus, address = guest.run(f"cd /sys/bus/usb/devices/{scope.device} && cat busnum devnum").ok().split()
    guest.run("busybox killall -INT dumpcap").ok()
    capture.wait()
    server.terminate()
    lines = live.splitlines()
    assert lines[0] == "usbferry,Scope,MY1,1.0"
    assert lines[2:] == ['-113,"Undefined header"', "1"]

    server = serve(f"replay:{guest.shared / 'usbmon.pcapng'}?device={bus}.{address}&check")
    with importing(guest, server.port, "1-1"):
        assert guest.run(TALK).ok() == live
    assert "something else than recorded" not in server.log()
