"""libvirt's `<redirdev>`, as the tour has it: its XML, `virsh`, and restarts of either side."""

import re
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.kernel.redir.libvirt import NAME, Virsh
from usbferry.protocols.usbredir.exporter import UNWANTED_SECONDS

BOUND = "<redirdev bus='usb' type='unix'><source mode='bind' path='{}'/></redirdev>"
MET = """
<redirdev bus='usb' type='tcp'>
  <source mode='connect' host='127.0.0.1' service='{}'><reconnect enabled='yes' timeout='1'/></source>
  <protocol type='raw'/>
</redirdev>
"""
HOT = "<redirdev bus='usb' type='unix'><source mode='connect' path='{}'/></redirdev>"
FILTER = """
<redirfilter>
  <usbdev vendor='0x0525' product='0xa4a0' allow='no'/>
  <usbdev allow='yes'/>
</redirfilter>
"""
UNWANTED = "the peer does not want 1-4 0525:a4a0"


@pytest.fixture
def virsh(kernel_rig: None) -> Iterator[Virsh]:
    with closing(Virsh()) as one:
        yield one


def test_what_libvirt_plugs_in(virsh, serve):
    """At its start and while it runs, by sockets of its own and of ours; a server that ends is connected to again."""
    bound, ours, late = (virsh.folder / name for name in ("bound", "ours", "late"))

    def devices(which, *ports):
        kinds = ("tablet", "mouse", "keyboard", "zero")
        return serve(
            *[f"virtual:{kind}?serial={which}-{kind}" for kind in kinds], "-v",
            f"--to=usbredir://{bound}?device=1-1", f"--on=usbredir://127.0.0.1:{ports[0]}/1-2",
            f"--on=usbredir://{ours}?device=1-3", f"--on=usbredir://127.0.0.1:{ports[1]}/1-4",
        )  # fmt: skip

    server = devices("first", 0, 0)
    ports = re.findall(r"listening on usbredir://127\.0\.0\.1:(\d+)", server.log())
    virsh.start(BOUND.format(bound) + "".join(map(MET.format, ports)) + FILTER)
    sees(virsh, "first-tablet", "first-mouse")
    virsh.wait_for(lambda: UNWANTED in server.log(), "refused")
    refused = time.monotonic()

    plug = virsh.file("hot", HOT.format(ours))
    virsh(f"attach-device {NAME} {plug} --live")
    sees(virsh, "first-keyboard")
    virsh(f"detach-device {NAME} {plug} --live")
    virsh.wait_for(lambda: "1-3 released by" in server.log(), "detached")
    lost(virsh, 1)
    virsh(f"attach-device {NAME} {plug} --live")
    virsh.wait_for(lambda: virsh.console().count("SerialNumber: first-keyboard") == 2, "attached again")
    late_plug = virsh.file("late", BOUND.format(late))
    virsh(f"attach-device {NAME} {late_plug} --live")

    server.kill()
    lost(virsh, 4)
    # QEMU would connect again each second.
    assert server.log().count("1-4 imported by") <= 1 + (time.monotonic() - refused) / (UNWANTED_SECONDS - 1)
    server = devices("second", *ports)
    other = serve("virtual:gamepad?serial=late", f"--to=usbredir://{late}")
    sees(virsh, "second-tablet", "second-mouse", "late")
    assert "zero" not in virsh.console()
    assert "Traceback" not in server.log() + other.log()


def test_what_a_machine_has_that_is_saved_and_restored(virsh, serve):
    """It takes the first connection for the one that it had, and is silent: nobody sends the device anything."""
    bound, saved = virsh.folder / "bound", virsh.folder / "saved"
    server = serve("virtual:tablet?serial=tablet", "-v", f"--to=usbredir://{bound}")
    virsh.start(BOUND.format(bound))
    sees(virsh, "tablet")
    virsh(f"save {NAME} {saved}")
    virsh(f"restore {saved}")  # which begins its console anew
    lost(virsh, 1)
    sees(virsh, "tablet")
    assert server.log().count("1-1 imported by") == 2
    assert "Traceback" not in server.log()


def sees(virsh, *serials):
    virsh.wait_for(
        lambda: all(f"SerialNumber: {one}\n" in virsh.console().replace("\r", "") for one in serials), serials
    )


def lost(virsh, count):
    """So many devices have left, since it runs."""
    virsh.wait_for(lambda: virsh.console().count("USB disconnect") == count, f"{count} lost")
