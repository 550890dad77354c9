"""Reads what /dev/input says of USB devices, in a guest: one line per event, `DEVICE type code value`.

    events.py 1-1 2-1 until=28        # of both, each event, until KEY_ENTER is released; "ready" once it reads
    events.py 1-1 led=1:1 led=1:0     # sets LED_CAPSL and clears it

It grabs the devices, so nothing reaches the console. A device that leaves is `DEVICE gone`, and the end. Few imports:
under emulation each costs. Source: include/uapi/linux/input.h.
"""

import fcntl
import os
import select
import struct
import sys
import time

EVENT = struct.Struct("llHHi")  # time, type, code, value
EVIOCGRAB = 0x40044590
EV_SYN, EV_KEY, EV_LED = 0x00, 0x01, 0x11
NODES = 10.0  # seconds until the driver has made the node


def node_of(device: str) -> str:
    """The event node of a USB device's first interface."""
    folder = f"/sys/bus/usb/devices/{device}:1.0"
    deadline = time.monotonic() + NODES
    while time.monotonic() < deadline:
        for hid in os.listdir(folder) if os.path.isdir(folder) else ():
            if hid.startswith("0003:") and os.path.isdir(f"{folder}/{hid}/input"):
                inputs = os.listdir(f"{folder}/{hid}/input")
                names = [n for n in os.listdir(f"{folder}/{hid}/input/{inputs[0]}") if n.startswith("event")]
                if names and os.path.exists(f"/dev/input/{names[0]}"):
                    return f"/dev/input/{names[0]}"
        time.sleep(0.05)
    raise SystemExit(f"events: no event node of {device}")


def read(files: dict[int, str], until: int) -> None:
    """Print events until a key is released, or a device leaves."""
    while True:
        for file in select.select(list(files), [], [])[0]:
            try:
                raw = os.read(file, 64 * EVENT.size)
            except OSError:
                os.write(1, f"{files[file]} gone\n".encode())
                return
            lines = [(kind, code, value) for _, _, kind, code, value in EVENT.iter_unpack(raw)]
            os.write(1, "".join(f"{files[file]} {k} {c} {v}\n" for k, c, v in lines).encode())
            if (EV_KEY, until, 0) in lines:
                return


def main(words: list[str]) -> None:
    options = [word.partition("=")[::2] for word in words if "=" in word]
    files = {os.open(node_of(word), os.O_RDWR): word for word in words if "=" not in word}
    for file in files:
        fcntl.ioctl(file, EVIOCGRAB, 1)
    os.write(1, b"ready\n")
    leds = [value.split(":") for name, value in options if name == "led"]
    for code, value in leds:
        os.write(next(iter(files)), EVENT.pack(0, 0, EV_LED, int(code), int(value)) + EVENT.pack(0, 0, EV_SYN, 0, 0))
        time.sleep(0.2)  # the driver sends what is lit when its worker runs: changes that come together are one
    if not leds:
        read(files, int(dict(options).get("until", "0")))


if __name__ == "__main__":
    main(sys.argv[1:])
