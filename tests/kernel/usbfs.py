"""A few transfers to a device in a guest, as a program without a driver does them: one line each, a number or an errno.

    usbfs.py 1-1 in:0x81:512 out:0x01:64 control:0xc0:0x5c:16 clear:0x81 timeout=500 unlink:0x01:512:8:4:6

Bytes done, or the error's name; `clear` clears a halt. `unlink` queues eight OUT transfers, unlinks those at 4 and 6,
and has a line for each: "lost" where nothing came of it in time. Standard library alone, and little of it: under
emulation each import costs. Source: include/uapi/linux/usbdevice_fs.h.
"""

import array
import errno
import fcntl
import os
import struct
import sys
import time

BULK = struct.Struct("=3I4xQ")  # endpoint, length, timeout in ms, data
CONTROL = struct.Struct("=2B3HI4xQ")  # bRequestType, bRequest, wValue, wIndex, wLength, timeout in ms, data
URB = struct.Struct("=BB2xiI4xQiiiiiIQ")  # struct usbdevfs_urb, a type of 3 is bulk


def _code(way: int, number: int, size: int) -> int:
    return way << 30 | size << 16 | ord("U") << 8 | number


USBDEVFS_CONTROL = _code(3, 0, CONTROL.size)
USBDEVFS_BULK = _code(3, 2, BULK.size)
USBDEVFS_SUBMITURB = _code(2, 10, URB.size)
USBDEVFS_DISCARDURB = _code(0, 11, 0)
USBDEVFS_REAPURBNDELAY = _code(1, 13, 8)
USBDEVFS_CLAIMINTERFACE = _code(2, 15, 4)
USBDEVFS_CLEAR_HALT = _code(2, 21, 4)


def do(file: int, word: str, timeout: int) -> int:
    """One transfer; its bytes. Raises OSError."""
    verb, *texts = word.split(":")
    numbers = [int(text, 0) for text in texts]
    if verb == "clear":
        return fcntl.ioctl(file, USBDEVFS_CLEAR_HALT, bytearray(struct.pack("=I", *numbers)))
    length = numbers[-1]
    data = array.array("B", bytes(length))
    if verb == "control":
        packed = CONTROL.pack(*numbers[:2], 0, 0, length, timeout, data.buffer_info()[0])
        return fcntl.ioctl(
            file, USBDEVFS_CONTROL, bytearray(packed)
        )  # of bytes it would give the bytes, not the result
    packed = BULK.pack(numbers[0], length, timeout, data.buffer_info()[0])
    return fcntl.ioctl(file, USBDEVFS_BULK, bytearray(packed))


def unlink(file: int, timeout: int, endpoint: int, length: int, count: int, *unlinked: int) -> list[str]:
    """Queue transfers, unlink some of them; what came of each."""
    data = array.array("B", bytes(length))
    packed = URB.pack(3, endpoint, 0, 0, data.buffer_info()[0], length, 0, 0, 0, 0, 0, 0)
    # fcntl.ioctl hands a copy to the kernel, which remembers its address, unless the buffer is above 1024 bytes.
    urbs = [array.array("B", packed + bytes(1024)) for _ in range(count)]
    places = [urb.buffer_info()[0] for urb in urbs]
    for urb in urbs:
        fcntl.ioctl(file, USBDEVFS_SUBMITURB, urb)
    for number in unlinked:
        fcntl.ioctl(file, USBDEVFS_DISCARDURB, urbs[number])
    said = ["lost"] * count
    until = time.monotonic() + timeout / 1000
    place = bytearray(8)
    while "lost" in said and time.monotonic() < until:
        try:
            fcntl.ioctl(file, USBDEVFS_REAPURBNDELAY, place)
        except BlockingIOError:
            time.sleep(0.01)
            continue
        number = places.index(int.from_bytes(place, "little"))
        status, done = struct.unpack_from("=i", urbs[number], 4)[0], struct.unpack_from("=i", urbs[number], 28)[0]
        said[number] = errno.errorcode[-status] if status else str(done)
    return said


def read(path: str) -> int:
    with open(path) as file:
        return int(file.read())


def main(words: list[str]) -> None:
    folder = f"/sys/bus/usb/devices/{words[0]}"
    file = os.open(f"/dev/bus/usb/{read(folder + '/busnum'):03}/{read(folder + '/devnum'):03}", os.O_RDWR)
    fcntl.ioctl(file, USBDEVFS_CLAIMINTERFACE, struct.pack("=I", 0))
    timeout = 1000
    for word in words[1:]:
        if word.startswith("timeout="):
            timeout = int(word.partition("=")[2])
            continue
        try:
            if word.startswith("unlink:"):
                numbers = [int(text, 0) for text in word.split(":")[1:]]
                said = "\n".join(unlink(file, timeout, *numbers))
            else:
                said = str(do(file, word, timeout))
        except OSError as error:
            said = errno.errorcode.get(error.errno or 0, str(error))
        os.write(1, f"{said}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
