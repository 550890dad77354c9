"""Plays with the modem lines of a serial port. In the guest, with any Python 3:

    python3 -I -S port.py DEVICE act      raise and lower what a host can, once
    python3 -I -S port.py DEVICE watch    print TIOCMGET and TIOCGICOUNT, again whenever they change, until a break
                                          was counted: {"lines": ["CAR", "CTS", ...], "dsr": 1, "rng": 0, ...}

Source: Linux include/uapi/asm-generic/termios.h, include/uapi/linux/serial.h. Few imports: under emulation each costs.
"""

import fcntl
import json
import os
import struct
import sys
import time

TIOCMGET, TIOCMBIS, TIOCMBIC, TIOCSBRK, TIOCCBRK, TIOCGICOUNT = 0x5415, 0x5416, 0x5417, 0x5427, 0x5428, 0x545D
LINES = {"DTR": 0x002, "RTS": 0x004, "CTS": 0x020, "CAR": 0x040, "RNG": 0x080, "DSR": 0x100}
ICOUNT = struct.Struct("20i")  # struct serial_icounter_struct
COUNTS = ("cts", "dsr", "rng", "dcd", "rx", "tx", "frame", "overrun", "parity", "brk")


def act(port: int) -> None:
    fcntl.ioctl(port, TIOCMBIC, struct.pack("i", LINES["RTS"]))
    fcntl.ioctl(port, TIOCMBIC, struct.pack("i", LINES["DTR"]))
    fcntl.ioctl(port, TIOCMBIS, struct.pack("i", LINES["RTS"]))
    fcntl.ioctl(port, TIOCSBRK)
    fcntl.ioctl(port, TIOCCBRK)


def state(port: int) -> dict:
    (bits,) = struct.unpack("i", fcntl.ioctl(port, TIOCMGET, bytes(4)))
    counts = dict(zip(COUNTS, ICOUNT.unpack(fcntl.ioctl(port, TIOCGICOUNT, bytes(ICOUNT.size))), strict=False))
    names = ("dsr", "rng", "dcd", "frame", "overrun", "parity", "brk")
    return {
        "lines": sorted(name for name, bit in LINES.items() if bits & bit),
        **{name: counts[name] for name in names},
    }


def watch(port: int) -> None:
    shown = None
    while shown is None or not shown["brk"]:
        now = state(port)
        if now != shown:
            shown = now
            sys.stdout.write(json.dumps(now) + "\n")
            sys.stdout.flush()
        time.sleep(0.02)


def main(path: str, verb: str) -> None:
    port = os.open(path, os.O_RDWR | os.O_NOCTTY)
    {"act": act, "watch": watch}[verb](port)
    os.close(port)


main(*sys.argv[1:])
