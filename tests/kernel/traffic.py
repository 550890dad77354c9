"""Keeps every endpoint of a Gadget Zero busy, through usbfs. In the guest, with any Python 3, as root:

    python3 -I -S traffic.py DEVICE [SECONDS]

DEVICE is its name in sysfs, such as 1-1. The reads of its isochronous endpoint begin last, when a transfer has ended on
each other one: a device that leaves after so many of them leaves in the middle of all. Prints "busy" once one has ended
there too, and goes on until the device leaves, or for SECONDS. Then prints how it ended and how many transfers ended
well on each endpoint:

    busy
    ENODEV {"00": 52, "80": 52, "01": 211, "81": 210, ...}

usbtest cannot do this: its driver waits for transfers with the device's lock held, which the kernel's disconnect wants
too. Source: include/uapi/linux/usbdevice_fs.h. Few imports: under emulation each costs.
"""

import array
import errno
import fcntl
import os
import struct
import sys
import time

URB = struct.Struct("=BB2xiI4xQiiiiiIQ")  # struct usbdevfs_urb up to its packets
PACKET = struct.Struct("=III")  # struct usbdevfs_iso_packet_desc
SUBMITURB, REAPURBNDELAY = 2 << 30 | URB.size << 16 | 0x550A, 1 << 30 | 8 << 16 | 0x550D
SETINTERFACE, CLAIMINTERFACE = 2 << 30 | 8 << 16 | 0x5504, 2 << 30 | 4 << 16 | 0x550F
ISO, INTERRUPT, CONTROL, BULK = range(4)
ISO_ASAP = 0x02

LAST = 0x83
PACKETS, PACKET_SIZE, DEPTH = 8, 1024, 4  # of an isochronous transfer; transfers queued on each endpoint
# address -> type, bytes; 02 and 82 are a loopback, in step because they move as much as one another
ENDPOINTS = {
    0x01: (BULK, 16384),
    0x81: (BULK, 16384),
    0x02: (BULK, 4096),
    0x82: (BULK, 4096),
    0x03: (ISO, PACKETS * PACKET_SIZE),
    0x83: (ISO, PACKETS * PACKET_SIZE),
    0x04: (INTERRUPT, 64),
    0x84: (INTERRUPT, 1024),  # whole packets at every speed: usb-redir has no others
    0x00: (CONTROL, 512),
    0x80: (CONTROL, 512),
}


class Urb:
    """One transfer that is submitted again whenever it ends."""

    def __init__(self, address: int) -> None:
        self.address = address
        kind, size = ENDPOINTS[address]
        buffer = bytearray(size)
        if kind == CONTROL:  # 5b stores what 5c gives back
            buffer = struct.pack("<BBHHH", 0xC0 if address else 0x40, 0x5C if address else 0x5B, 0, 0, size) + buffer
        self.buffer = array.array("B", buffer)
        packets = PACKET.pack(PACKET_SIZE, 0, 0) * PACKETS if kind == ISO else b""
        where = self.buffer.buffer_info()[0]
        number, flags = (PACKETS, ISO_ASAP) if kind == ISO else (0, 0)
        endpoint = 0 if kind == CONTROL else address
        head = URB.pack(kind, endpoint, 0, flags, where, len(self.buffer), 0, 0, number, 0, 0, 0)
        # fcntl.ioctl hands a copy to the kernel, which remembers its address, unless the buffer is above 1024 bytes.
        self.urb = array.array("B", head + packets + bytes(1024))
        self.where = self.urb.buffer_info()[0]

    def submit(self, device: int) -> None:
        fcntl.ioctl(device, SUBMITURB, self.urb)

    def status(self) -> int:
        return struct.unpack_from("=i", self.urb, 4)[0]


def read(path: str) -> int:
    with open(path) as file:
        return int(file.read())


def main(name: str, seconds: str = "1e9") -> None:
    folder = f"/sys/bus/usb/devices/{name}"
    device = os.open(f"/dev/bus/usb/{read(folder + '/busnum'):03}/{read(folder + '/devnum'):03}", os.O_RDWR)
    counts = dict.fromkeys(ENDPOINTS, 0)
    ended = "timeout"
    until = float("inf")
    try:
        fcntl.ioctl(device, CLAIMINTERFACE, struct.pack("=I", 0))
        fcntl.ioctl(device, SETINTERFACE, struct.pack("=II", 0, 1))
        # More reads of the loopback than writes: some wait at any time, and are cancelled in the end.
        urbs = [Urb(address) for address in (*ENDPOINTS, 0x82, 0x82) for _ in range(DEPTH)]
        by_place = {urb.where: urb for urb in urbs}
        last = [urb for urb in urbs if urb.address == LAST]
        for urb in urbs:
            if urb not in last:
                urb.submit(device)
        place = bytearray(8)
        while time.monotonic() < until:
            try:
                fcntl.ioctl(device, REAPURBNDELAY, place)
            except BlockingIOError:
                time.sleep(0.001)
                continue
            urb = by_place[int.from_bytes(place, "little")]
            if urb.status() == 0:
                counts[urb.address] += 1
            elif urb.status() not in (-errno.ENODEV, -errno.ESHUTDOWN, -errno.ENOENT, -errno.EPROTO):
                raise OSError(-urb.status(), f"endpoint {urb.address:02x}")
            urb.submit(device)
            if last and all(count for address, count in counts.items() if address != LAST):
                for urb in last:
                    urb.submit(device)
                last = []
            if until == float("inf") and all(counts.values()):
                until = time.monotonic() + float(seconds)
                os.write(1, b"busy\n")
    except OSError as error:
        ended = errno.errorcode.get(error.errno or 0, "")
    shown = ", ".join(f'"{address:02x}": {count}' for address, count in counts.items())
    os.write(1, f"{ended} {{{shown}}}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
