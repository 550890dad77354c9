"""`usbferry udev-rule`: one line for each selector, and what cannot stand in one."""

import pytest
from click.testing import CliRunner

from usbferry.cli import main

START, END = 'SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ', 'GROUP="plugdev", MODE="0660", TAG+="uaccess"\n'


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("046d:c52b", 'ATTR{idVendor}=="046d", ATTR{idProduct}=="c52b", '),
        ("usb:046d:*", 'ATTR{idVendor}=="046d", '),
        ("*:*", ""),
        ("serial=AB*,0525:*", 'ATTR{serial}=="AB*", ATTR{idVendor}=="0525", '),
        ("1-2.3", 'KERNEL=="1-2.3", '),
        ("port=1-2.*", 'KERNEL=="1-2.*", '),
        ("class=hid", 'ENV{ID_USB_INTERFACES}=="*:03*", '),
        ("class=03/01", 'ENV{ID_USB_INTERFACES}=="*:0301*", '),
    ],
)
def test_a_selector_as_a_rule(selector, matches):
    done = CliRunner().invoke(main, ["udev-rule", selector])
    assert (done.exit_code, done.output) == (0, START + matches + END)


def test_another_group_and_several_selectors():
    done = CliRunner().invoke(main, ["udev-rule", "--group", "lab", "1209:1", "1209:2"])
    assert done.output.count('GROUP="lab"') == len(done.output.splitlines()) == 2


@pytest.mark.parametrize("arguments", [["serial=a%22b"], ["--group", 'x"', "1209:1"], ["nonsense:1"]])
def test_what_cannot_stand_in_a_rule(arguments):
    done = CliRunner().invoke(main, ["udev-rule", *arguments])
    assert done.exit_code == 2
    assert len(done.output.splitlines()) == 1
