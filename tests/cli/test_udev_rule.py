"""`usbferry udev-rule`: the lines for each selector, which match by udev's rules what the selector means by ours."""

import ctypes
import sys
from fnmatch import fnmatchcase

import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from usbferry.cli import main
from usbferry.cli.udev_rule import pattern

START, END = 'SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ', 'GROUP="plugdev", MODE="0660", TAG+="uaccess"\n'


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("046d:c52b", ['ATTR{idVendor}=="046d", ATTR{idProduct}=="c52b", ']),
        ("usb:046D:*", ['ATTR{idVendor}=="046d", ']),
        ("*:*", [""]),
        ("serial=aB7*,0525:*", ['ATTR{serial}=="[Aa][Bb]7*", ATTR{idVendor}=="0525", ']),
        ("1-2.3", ['KERNEL=="1-2.3", ']),
        ("port=1-2.*", ['KERNEL=="1-2.*", ']),
        ("port=*/usb1/1-2", ['DEVPATH=="*/[Uu][Ss][Bb]1/1-2", ']),
        ("port=/sys/devices/*", ['DEVPATH=="/[Dd][Ee][Vv][Ii][Cc][Ee][Ss]/*", ']),
        ("class=hid", ['ATTR{bDeviceClass}=="03", ', 'ENV{ID_USB_INTERFACES}=="*:03*", ']),
        (
            "class=e0/01,serial=7",
            [
                'ATTR{bDeviceClass}=="e0", ATTR{bDeviceSubClass}=="01", ATTR{serial}=="7", ',
                'ENV{ID_USB_INTERFACES}=="*:e001*", ATTR{serial}=="7", ',
            ],
        ),
    ],
)
def test_a_selector_as_a_rule(selector, matches):
    done = CliRunner().invoke(main, ["udev-rule", selector])
    assert (done.exit_code, done.output) == (0, "".join(START + one + END for one in matches))


def test_another_group_and_several_selectors():
    done = CliRunner().invoke(main, ["udev-rule", "--group", "lab", "1209:1", "1209:2"])
    assert done.output.count('GROUP="lab"') == len(done.output.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["serial=a%22b"], "'\"' cannot stand in a udev rule; put ? or * in its place"),
        (["serial=a|b"], "'|' cannot stand"),
        (["serial=a\\b"], r"'\\' cannot stand"),
        (["serial=[!a-~]"], "[!a-~] cannot stand"),
        (["serial=[z-a]"], "[z-a] matches nothing"),
        (["serial=[é]"], "[é] cannot stand"),
        (["product=éàüöäßéàü"], "too many letters beyond ASCII"),
        (["1-*"], "'1-*' is no term of a selector; there are: VID:PID, "),
        (["046dc52b"], "'046dc52b' is no term of a selector; did you mean 046d:c52b? There are: VID:PID, "),
        (["usb:foo"], "'foo' is no term of a selector; "),
        (["--group", 'x"', "1209:1"], "is no name of a group"),
        (["nonsense:1"], "'nonsense:1' is no VID:PID"),
    ],
)
def test_what_cannot_stand_in_a_rule(arguments, why):
    done = CliRunner().invoke(main, ["udev-rule", *arguments])
    assert (done.exit_code, len(done.output.splitlines())) == (2, 1)
    assert why in done.output


def udev_matches(value: str, text: str) -> bool:
    """As udev(7) has it: any of what `|` parts; by fnmatch(3) where there is one of its signs, else the same."""
    fnmatch = ctypes.CDLL(None).fnmatch
    return any(
        fnmatch(one.encode(), text.encode(), 0) == 0 if {*one} & {*"*?["} else one == text for one in value.split("|")
    )


SIGNS = st.text("abAB19z_*?[]!^-:.=,~", max_size=8)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has udev, and its fnmatch")
@given(SIGNS, SIGNS)
@example("[!^]", "^")
@example("[^!]", "!")
@example("[]", "[]")
@example("[!]", "[!]")
@example("[[:a]", ":")
@example("[a-c]x", "BX")
@example("[!a-c]", "B")
@example("[*]", "*")
@example("ÉÄ*", "éÄß")
def test_a_rule_matches_what_the_selector_means(glob, text):
    """glibc's own fnmatch, which is udev's, is the judge; upper and lower case are the same to a selector."""
    try:
        value = pattern(glob)
    except ValueError:
        return
    assert udev_matches(value, text) == fnmatchcase(text.lower(), glob.lower()), value
