"""Machines without a guest: a PC's firmware looks at USB devices, and a machine's state can be saved."""

import subprocess
from contextlib import contextmanager

from tests.kernel.guest import told
from tests.kernel.redir.plugging import wait_for
from usbferry.devices.keyboard import Keyboard
from usbferry.testing import plugged

QEMU = "qemu-system-x86_64 -nodefaults -no-user-config -display none -machine q35,accel=tcg -m 64 -device qemu-xhci"
REDIR = "-monitor unix:{0}/monitor,server=on,wait=off -chardev socket,id=redir,path={0}/redir,server=on,wait=off"


@contextmanager
def machine(*words):
    process = subprocess.Popen([*QEMU.split(), *words], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_a_firmware_configures_the_device_of_a_test(kernel_rig):
    with plugged(Keyboard()) as one:
        with machine(*one.qemu()):
            one.wait_until(lambda keyboard: "SET_CONFIGURATION 1: ok" in map(str, one.transfers), timeout=120)
        one.wait_until(lambda keyboard: not keyboard.is_open, timeout=30)
        report = one.report(1000)
    assert "over usbredir" in report
    assert "GET_DESCRIPTOR, device, 8 bytes [12 01 00 02 00 00 00 " in report
    assert report.endswith("given back by the host")


def test_a_machine_that_was_restored_has_its_device_again(kernel_rig, serve, tmp_path):
    """It takes who connects while it is being restored for who was there when it was saved, and says nothing."""
    monitor, saved = tmp_path / "monitor", tmp_path / "saved"
    server = serve("virtual:zero", "-v", f"--to=usbredir://{tmp_path / 'redir'}")
    words = [*REDIR.format(tmp_path).split(), "-device", "usb-redir,chardev=redir"]

    def said(text, count):
        wait_for(lambda: server.log().count(text) == count, 60, server.log)

    with machine(*words):
        said("imported by", 1)
        wait_for(lambda: "USB Redirection Device" in told(monitor, "info usb"))
        assert "Error" not in told(monitor, f'migrate "exec:cat >{saved}"')
    said("released by", 1)
    with machine(*words, "-incoming", "defer"):
        said("connected to", 2)
        wait_for(lambda: "disconnected" not in told(monitor, "info chardev"))
        assert "Error" not in told(monitor, f'migrate_incoming "exec:cat {saved}"')
        said("imported by", 2)
    assert "Traceback" not in server.log()
