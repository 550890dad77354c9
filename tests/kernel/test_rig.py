"""The rig itself: a guest boots, does as it is told, and dies well. No server of ours takes part."""

import time

import pytest

from tests.kernel.guest import Guest, GuestError
from tests.kernel.steps import usbtest

# A Gadget Zero of the kernel's own, on the kernel's own virtual bus: proves usbtest.py without us.
GADGET_ZERO = """
set -e
modprobe -a dummy_hcd libcomposite usb_f_ss_lb
mountpoint -q /sys/kernel/config || mount -t configfs config /sys/kernel/config
gadget=/sys/kernel/config/usb_gadget/zero
mkdir $gadget
cd $gadget
echo 0x0525 >idVendor
echo 0xa4a0 >idProduct
mkdir -p strings/0x409 configs/only.1 functions/SourceSink.0
echo rig >strings/0x409/manufacturer
echo zero >strings/0x409/product
echo 1 >strings/0x409/serialnumber
ln -s functions/SourceSink.0 configs/only.1/
echo dummy_udc.0 >UDC
"""


def test_a_step_gives_its_exit_code_and_output(guest: Guest):
    result = guest.run("echo here; echo there >&2; exit 7")
    assert (result.rc, result.output) == (7, "here\nthere\n")


def test_the_guest_has_the_checkout_and_shares_a_folder(guest: Guest):
    (guest.shared / "question").write_text("which kernel?")
    guest.run(f"test -f {__file__}; test -f pyproject.toml; cat $SHARED/question; uname -s >$SHARED/answer").ok()
    assert (guest.shared / "answer").read_text() == "Linux\n"


def test_the_kernel_client_of_usbip_is_there(guest: Guest):
    result = guest.run("modprobe vhci-hcd && usbip port")
    assert "Imported USB devices" in result.ok()
    assert "vhci_hcd vhci_hcd.0: USB/IP Virtual Host Controller" in result.console
    assert guest.errors() == []
    assert guest.complaints() == []


def test_steps_overlap_and_the_host_acts_between_them(guest: Guest):
    waiting = guest.start("until [ -e $SHARED/go ]; do sleep 0.05; done; echo gone")
    assert guest.run("echo meanwhile").ok() == "meanwhile\n"
    assert not waiting.is_over()
    (guest.shared / "go").touch()
    assert waiting.wait().ok() == "gone\n"


def test_a_step_past_its_limit_is_an_error_and_the_guest_goes_on(guest: Guest):
    with pytest.raises(GuestError, match="not over after 1 s:\nbefore"):
        guest.run("echo before; sleep 100", timeout=1)
    assert guest.run("true").rc == 0


def test_a_guest_killed_in_the_middle_is_an_error_for_its_steps(boot):
    guest = boot(cpus=1)
    step = guest.start("sleep 100")
    guest.kill()
    started = time.monotonic()
    with pytest.raises(GuestError, match="the guest is gone"):
        step.wait()
    with pytest.raises(GuestError, match="the guest is gone"):
        guest.run("true")
    assert time.monotonic() - started < 5


def test_a_kernel_crash_is_an_error_at_once(boot):
    guest = boot(cpus=1)
    with pytest.raises(GuestError, match="Kernel panic"):
        guest.run("echo c >/proc/sysrq-trigger")
    assert any("sysrq triggered crash" in line for line in guest.complaints())


def test_a_guest_that_does_not_boot_is_switched_on_once_more_and_then_an_error(boot, caplog):
    with pytest.raises(GuestError, match="not booted after 1 s"):
        boot(boot_limit=1)
    assert caplog.text.count("once more") == 1


def test_the_kernel_conformance_suite_runs_on_a_kernel_gadget(guest: Guest):
    guest.run(GADGET_ZERO).ok()
    cases = "".join(f" {case},iterations=20,vary=512" for case in range(11))
    run = usbtest(guest, "alt=0" + cases)
    assert run.passed == list(range(11)), run.failed
    assert run.speed == "480"
    # A case that needs an endpoint this device lacks is reported, not skipped.
    assert usbtest(guest, "15").failed == {15: "ENOTSUP"}
    assert guest.complaints() == []
