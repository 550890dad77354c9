"""Devices that a guest exports with usbredirect, the reference usb-host over libusb, and one with the kernel's usbipd.

The disk of usbipd is another one, which is there only while it is used: usbredirect takes any that has the ids that it
was told. It ends with its connection; as a service, it is run again.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tests.kernel.emulated import AUDIO, DISK, SERIAL, said
from tests.kernel.guest import Guest
from tests.kernel.steps import HOST

USBIP = 3240
KEYBOARD = "0627:0001"
PORTS = {DISK: 4001, KEYBOARD: 4002, AUDIO: 4003, SERIAL: 4004}  # where usbredirect listens with each, in the guest
DISK_BYTES = (128 if os.environ.get("USBFERRY_SOAK") else 8) << 20


def guest_options(files: Path) -> dict[str, Any]:
    """Options of class Guest: five devices, whose contents and sockets are in `files`."""
    for name in ("redirected", "exported"):
        (files / name).write_bytes(os.urandom(DISK_BYTES))
    return {
        "forward": [USBIP, *PORTS.values()],
        "devices": [
            "usb-storage,drive=redirected", "usb-kbd",
            "usb-audio,audiodev=audio", "usb-serial,chardev=serial,always-plugged=on",
        ],
        "qemu": [
            *_image(files, "redirected"), *_image(files, "exported"),
            "-audiodev", f"wav,id=audio,path={files / 'wav'},out.frequency=48000",
            "-chardev", f"socket,id=serial,path={files / 'serial'},server=on,wait=off",
        ],
    }  # fmt: skip


def _image(files: Path, name: str) -> tuple[str, str]:
    return "-blockdev", f"raw,node-name={name},file.driver=file,file.filename={files / name}"


_AGAIN = """
    read -r _ _ _ _ group _ </proc/$$/stat; echo group $group
    while :; do usbredirect DEVICE; sleep 0.1; done
"""


@contextmanager
def _redirecting(guest: Guest, what: str, options: str) -> Iterator[None]:
    step = guest.start(_AGAIN.replace("DEVICE", f"--device {what} {options}"), 600)
    said(step, "group ")
    try:
        yield
    finally:
        guest.run(f"kill -- -{step.output().split()[1]}").ok()
        step.wait()


@contextmanager
def listening(guest: Guest, what: str) -> Iterator[int]:
    """The port on the host where a usbredirect is reached that listens with a device, for one connection at a time."""
    with _redirecting(guest, what, f"--as 0.0.0.0:{PORTS[what]}"):
        wait_until_it_listens(guest, what)
        yield guest.ports[PORTS[what]]


def wait_until_it_listens(guest: Guest, what: str) -> None:
    """QEMU accepts for a port that it forwards, whether somebody listens there or not."""
    guest.run(f"until ss -ltn | grep -q ':{PORTS[what]} '; do sleep 0.05; done", 30).ok()


def connecting(guest: Guest, what: str, port: int) -> AbstractContextManager[None]:
    """A usbredirect that brings a device to a port of the host, and again when that connection is over."""
    return _redirecting(guest, what, f"--to {HOST}:{port}")
