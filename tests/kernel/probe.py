"""Uses the device with a serial number, again and again, as a program without a driver does. In the guest:

    python3 -I -S probe.py FOLDER SERIAL

After each control transfer that ended well, FOLDER/SERIAL says which device it was, and when: "1209:0010 7 123.45", the
last being the machine's uptime. Few imports: under emulation each costs.
"""

import array
import fcntl
import os
import struct
import sys
import time

CONTROL = struct.Struct("=2B3HI4xQ")  # struct usbdevfs_ctrltransfer
USBDEVFS_CONTROL = 3 << 30 | CONTROL.size << 16 | ord("U") << 8
DEVICES = "/sys/bus/usb/devices"
TIMEOUT_MS = 500


def read(name: str, attribute: str) -> str:
    with open(f"{DEVICES}/{name}/{attribute}") as file:
        return file.read().strip()


def use(name: str) -> None:
    """16 bytes of what Gadget Zero stores. Raises OSError."""
    path = f"/dev/bus/usb/{int(read(name, 'busnum')):03}/{int(read(name, 'devnum')):03}"
    file = os.open(path, os.O_RDWR)
    try:
        data = array.array("B", bytes(16))
        packed = CONTROL.pack(0xC0, 0x5C, 0, 0, 16, TIMEOUT_MS, data.buffer_info()[0])
        fcntl.ioctl(file, USBDEVFS_CONTROL, bytearray(packed))
    finally:
        os.close(file)


def main(folder: str, serial: str) -> None:
    while True:
        for name in os.listdir(DEVICES):
            try:
                if read(name, "serial") != serial:
                    continue
                use(name)
                said = f"{read(name, 'idVendor')}:{read(name, 'idProduct')} {read(name, 'devnum')}"
            except OSError:
                continue
            with open(f"{folder}/{serial}.new", "w") as file:
                file.write(f"{said} {time.clock_gettime(time.CLOCK_BOOTTIME)}")
            os.rename(f"{folder}/{serial}.new", f"{folder}/{serial}")
        time.sleep(0.1)


main(*sys.argv[1:])
