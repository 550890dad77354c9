"""Imports devices into a vhci controller of one's choice: the tool takes the first. In the guest, with any Python 3:

    python3 -I -S import_at.py CONTROLLER HOST PORT [unseen] BUSID...

Prints the name that each has in sysfs, once it is enumerated; with `unseen`, its port, as it may never be. A device
that is imported here, exported from here and imported once more must have two controllers: usb_set_interface,
drivers/usb/core/message.c, holds a lock of its controller's while it asks the device, so on one it would wait for
itself.
"""

import os
import socket
import struct
import sys
import time

DEVICES = "/sys/devices/platform/vhci_hcd.0"
REQUEST, REPLY, VERSION = 0x8003, 0x0003, 0x0111  # OP_REQ_IMPORT, OP_REP_IMPORT: Documentation/usb/usbip_protocol.rst
HEAD, BODY = struct.Struct(">HHI"), struct.Struct(">256s32s3I")  # then what a descriptor says, which is not needed
REST = 12
FREE, USED, SUPER = "004", "006", 5


def exactly(stream: socket.socket, count: int) -> bytes:
    data = stream.recv(count, socket.MSG_WAITALL)
    if len(data) != count:
        raise SystemExit("import_at: the server closed the connection")
    return data


def ports(controller: str) -> list[list[str]]:
    """Rows of hub, port, state, speed, device id, socket, device: drivers/usb/usbip/vhci_sysfs.c."""
    with open(f"{DEVICES}/status.{controller}" if controller != "0" else f"{DEVICES}/status") as file:
        return [line.split() for line in file][1:]


def attach(controller: str, host: str, port: int, name: str) -> str:
    """Import one; its port."""
    stream = socket.create_connection((host, port))
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.sendall(HEAD.pack(VERSION, REQUEST, 0) + struct.pack("32s", name.encode()))
    _, code, status = HEAD.unpack(exactly(stream, HEAD.size))
    if code != REPLY or status:
        raise SystemExit(f"import_at: refused with {status}")
    _, _, bus, address, speed = BODY.unpack(exactly(stream, BODY.size + REST)[: BODY.size])
    hub = "ss" if speed >= SUPER else "hs"
    number = next(row[1] for row in ports(controller) if row[0] == hub and row[2] == FREE)
    with open(f"{DEVICES}/attach", "w") as file:
        file.write(f"{int(number)} {stream.fileno()} {bus << 16 | address} {speed}")
    return number


def enumerated(controller: str, number: str) -> str:
    while True:
        row = next(row for row in ports(controller) if row[1] == number)
        if row[2] == USED and os.path.exists(f"/sys/bus/usb/devices/{row[6]}:1.0"):
            return row[6]
        time.sleep(0.02)


def main(controller: str, host: str, port: str, *names: str) -> None:
    unseen = names[0] == "unseen"
    taken = [attach(controller, host, int(port), name) for name in names[unseen:]]
    for number in taken:
        os.write(1, f"{number if unseen else enumerated(controller, number)}\n".encode())


main(*sys.argv[1:])
