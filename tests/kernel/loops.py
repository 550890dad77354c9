"""Writes to each OUT endpoint of a device in a guest, by usbfs, and reads the same number's IN: `loops.py 1-1 600`.

Prints the numbers at which the same came back. All are written to before any is read. Few imports: under emulation each
costs. Source: include/uapi/linux/usbdevice_fs.h.
"""

import array
import fcntl
import os
import struct
import sys

from usbfs import BULK, USBDEVFS_BULK, USBDEVFS_CLAIMINTERFACE, read

TIMEOUT = 10_000  # ms


def bulk(file: int, address: int, data: array.array) -> int:
    return fcntl.ioctl(file, USBDEVFS_BULK, bytearray(BULK.pack(address, len(data), TIMEOUT, data.buffer_info()[0])))


def main(device: str, size: int) -> None:
    folder = f"/sys/bus/usb/devices/{device}"
    file = os.open(f"/dev/bus/usb/{read(folder + '/busnum'):03}/{read(folder + '/devnum'):03}", os.O_RDWR)
    fcntl.ioctl(file, USBDEVFS_CLAIMINTERFACE, struct.pack("=I", 0))
    sent = {number: array.array("B", os.urandom(size)) for number in range(1, 16)}
    for number, data in sent.items():
        assert bulk(file, number, data) == size
    for number, data in sent.items():
        got = array.array("B", bytes(size))
        if bulk(file, 0x80 | number, got) == size and got == data:
            os.write(1, b"%d\n" % number)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
