"""The kernel's own tools list what we serve, and its USB core reads the same from the attached device."""

import re

from tests.kernel.steps import HOST, importing, unexpected


def test_usbip_list_shows_each_device_with_name_and_interfaces(guest, serve):
    server = serve("virtual:zero", "virtual:zero?speed=super")
    listed = guest.run(f"usbip --tcp-port {server.port} list -r {HOST}").ok()
    shown = re.split(r"\n\n", listed.partition(f"- {HOST}\n")[2].rstrip())
    names = "Vendor Specific Class / unknown subclass / unknown protocol (ff/00/00)"
    assert [re.sub(r"\n +: +", " | ", device).strip() for device in shown] == [
        # Vendor and product are the tool's own words for 0525:a4a0, from usb.ids.
        f'{busid}: Netchip Technology, Inc. : Linux-USB "Gadget Zero" (0525:a4a0) | /usbferry/{busid} | {names}'
        f" | 0 - {names}"
        for busid in ("1-1", "1-2")
    ]


def test_a_server_lists_devices_that_are_held(guest, serve):
    server = serve("virtual:zero")
    guest.mark()
    with importing(guest, server.port, "1-1"):
        listed = guest.run(f"usbip --tcp-port {server.port} list -r {HOST}").ok()
    assert "1-1: Netchip" in listed
    assert unexpected(guest) == []


def test_the_kernel_reads_the_strings_and_both_settings(guest, serve):
    server = serve("virtual:zero?serial=4711")
    guest.mark()
    with importing(guest, server.port, "1-1") as attached:
        folder = f"/sys/bus/usb/devices/{attached.device}"
        said = guest.run(f"cd {folder}; cat manufacturer product serial idVendor idProduct speed bNumInterfaces").ok()
        shown = guest.run(f"lsusb -v -s {attached.device.partition('-')[0]}: -d 0525:a4a0").ok()
    assert said.split("\n")[:6] == ["usbferry", "Gadget Zero", "4711", "0525", "a4a0", "480"]
    assert re.findall(r"bAlternateSetting +(\d+)", shown) == ["0", "1"]
    assert re.findall(r"bEndpointAddress +0x(\w+)", shown) == ["81", "01", "82", "02"] * 2 + ["83", "84", "03", "04"]
    assert unexpected(guest) == []
