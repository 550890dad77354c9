"""A device of a test in a QEMU of the test's own: no guest is needed, for a PC's firmware looks at USB devices."""

import subprocess

from usbferry.devices.keyboard import Keyboard
from usbferry.testing import plugged

QEMU = "qemu-system-x86_64 -nodefaults -no-user-config -display none -machine q35,accel=tcg -m 64 -device qemu-xhci"


def test_a_firmware_configures_the_device_of_a_test(kernel_rig):
    with plugged(Keyboard()) as one:
        machine = subprocess.Popen([*QEMU.split(), *one.qemu()], stdin=subprocess.DEVNULL)
        try:
            one.wait_until(lambda keyboard: "SET_CONFIGURATION 1: ok" in map(str, one.transfers), timeout=120)
        finally:
            machine.kill()
            machine.wait()
        one.wait_until(lambda keyboard: not keyboard.is_open, timeout=30)
        report = one.report(1000)
    assert "over usbredir" in report
    assert "GET_DESCRIPTOR, device, 8 bytes [12 01 00 02 00 00 00 " in report
    assert report.endswith("given back by the host")
