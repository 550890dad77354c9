"""A gadget with an interrupt endpoint each way, which no function of the kernel's has: a user of FunctionFS.

    python3 -I -S ffs.py FOLDER      the folder being a mounted functionfs

Prints "ready" once its descriptors are accepted, so that the gadget may be bound. What comes out is thrown away, what
goes in is zeros. Source: include/uapi/linux/usb/functionfs.h, Documentation/usb/functionfs.rst.
"""

import contextlib
import os
import struct
import sys
import threading

INTERFACE = struct.pack("<9B", 9, 4, 0, 0, 2, 0xFF, 0, 0, 1)
IN, OUT = 0x81, 0x02
PACKET = {"full": 64, "high": 512, "super": 1024}
COMPANION = struct.pack("<4BH", 6, 0x30, 0, 0, 1024)  # one packet in each interval
HAS_FS, HAS_HS, HAS_SS = 1, 2, 4  # enum usb_functionfs_flags
DESCRIPTORS, STRINGS = 3, 2  # FUNCTIONFS_DESCRIPTORS_MAGIC_V2, FUNCTIONFS_STRINGS_MAGIC
CHUNK = 1 << 16  # bytes: a whole number of packets at each speed


def descriptors(speed: str) -> bytes:
    interval = 1  # each frame or microframe
    tail = COMPANION if speed == "super" else b""
    return INTERFACE + b"".join(
        struct.pack("<4BHB", 7, 5, address, 3, PACKET[speed], interval) + tail for address in (IN, OUT)
    )


def introduce(ep0: int) -> None:
    speeds = "full", "high", "super"
    counts = struct.pack("<3I", 3, 3, 5)
    body = counts + b"".join(map(descriptors, speeds))
    flags = HAS_FS | HAS_HS | HAS_SS
    os.write(ep0, struct.pack("<3I", DESCRIPTORS, 12 + len(body), flags) + body)
    text = struct.pack("<H", 0x0409) + b"interrupts\0"
    os.write(ep0, struct.pack("<4I", STRINGS, 16 + len(text), 1, 1) + text)


def give(folder: str) -> None:
    file, zeros = os.open(f"{folder}/ep1", os.O_RDWR), bytes(CHUNK)
    while True:
        with contextlib.suppress(OSError):  # the host has reset it
            os.write(file, zeros)


def take(folder: str) -> None:
    file = os.open(f"{folder}/ep2", os.O_RDWR)
    while True:
        with contextlib.suppress(OSError):
            os.read(file, CHUNK)


def main(folder: str) -> None:
    ep0 = os.open(f"{folder}/ep0", os.O_RDWR)
    introduce(ep0)
    for work in (give, take):
        threading.Thread(target=work, args=(folder,), daemon=True).start()
    os.write(1, b"ready\n")
    while True:
        os.read(ep0, 12)  # events; who does not read them stops the gadget


main(sys.argv[1])
