"""`usbferry udev-rule`: the lines for udev that grant a user what `usbferry serve usb:...` needs.

A selector's words are put into udev's, udev(7): there upper and lower case differ, `|` parts alternatives, and a
backslash quotes what follows. A term that can be met in two ways makes two lines.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from itertools import product
from typing import Final

import click

from ..selector import Class, Identity, Name, Port, Selector, Term, Text, check_bus_id
from . import fail

_DEVICE: Final = ('SUBSYSTEM=="usb"', 'ENV{DEVTYPE}=="usb_device"')
_ASCII: Final = [one for one in map(chr, range(128)) if one.isprintable()]
_NEVER: Final = '"|\\'  # they end a value, part it, or quote what follows
_DOUBTFUL: Final = 6  # letters beyond ASCII of one value: each doubles the alternatives


@click.command()
@click.argument("selectors", nargs=-1, required=True, metavar="SELECTOR...")
@click.option("--group", default="plugdev", show_default=True, metavar="GROUP", help="Whose members get the devices.")
def command(selectors: tuple[str, ...], group: str) -> None:
    """Print udev rules for the USB devices that each SELECTOR means.

    \b
    To install them, and have them hold for devices that are plugged in already:
      usbferry udev-rule 046d:c52b | sudo tee /etc/udev/rules.d/70-usbferry.rules
      sudo udevadm control --reload && sudo udevadm trigger

    They let the members of GROUP use the devices, and whoever sits at the machine.
    """
    try:
        lines = [line for one in selectors for line in rules(Selector.parse(one.removeprefix("usb:")), group)]
    except ValueError as error:
        fail(f"usbferry udev-rule: {error}")
    print("\n".join(lines))


def rules(selector: Selector, group: str) -> list[str]:
    """Lines of a rules file, of which a device meets at least one. Raises ValueError for what udev cannot tell by."""
    if not re.fullmatch(r"[\w.-]+", group, re.ASCII):
        raise ValueError(f"{group!r} is no name of a group")
    grants = (f'GROUP="{group}"', 'MODE="0660"', 'TAG+="uaccess"')
    ways = product(*map(_ways, selector.terms))
    return [", ".join((*_DEVICE, *(match for matches in way for match in matches), *grants)) for way in ways]


def _ways(term: Term) -> list[list[str]]:
    """The matches that a term asks for: one of these lists, the whole of it."""
    match term:
        case Identity(vendor, product_id):
            pairs = (("idVendor", vendor), ("idProduct", product_id))
            return [[f'ATTR{{{name}}}=="{value:04x}"' for name, value in pairs if value is not None]]
        case Text(field, glob):
            return [[f'ATTR{{{field}}}=="{pattern(glob)}"']]
        case Name(name):
            check_bus_id(name)
            return [[f'KERNEL=="{name}"']]
        case Port(glob):
            return [[_port(glob)]]
        case Class(triplet):  # of the device, or in udev's list of its interfaces, ":030101:080650:"
            names = ("bDeviceClass", "bDeviceSubClass", "bDeviceProtocol")
            own = [f'ATTR{{{name}}}=="{value:02x}"' for name, value in zip(names, triplet, strict=False)]
            return [own, [f'ENV{{ID_USB_INTERFACES}}=="*:{bytes(triplet).hex()}*"']]
    raise ValueError(f"udev does not tell devices by {term}")


def _port(glob: str) -> str:
    """A bus id, or the path in sysfs that ends in it: what begins with a star is met by the path if by either."""
    if glob.startswith("/"):
        glob = re.sub("^/sys/", "/", glob, flags=re.IGNORECASE)  # udev leaves that out
    return f'{"DEVPATH" if glob.startswith(("*", "/")) else "KERNEL"}=="{pattern(glob)}"'


def pattern(glob: str) -> str:
    """What udev matches by fnmatch(3), and by `|`, for what `glob` is in a selector. Raises ValueError if it cannot."""
    if bad := {one for one in glob if one in _NEVER or not one.isprintable()}:
        raise ValueError(f"{min(bad)!r} cannot stand in a udev rule; put ? or * in its place")
    pieces = [found[0] for found in re.finditer(r"\[!?+.[^]]*\]|.", glob)]
    ways = [_character(piece) if len(piece) == 1 else _set(piece) for piece in pieces]
    if sum(len(way) > 1 for way in ways) > _DOUBTFUL:
        raise ValueError(f"{glob!r} has too many letters beyond ASCII for a udev rule; put * in the place of some")
    return "|".join(map("".join, product(*ways)))


def _character(one: str) -> list[str]:
    """How one can be written. Beyond ASCII it is several bytes to udev, which no set has for a member."""
    if one.isascii():
        return [f"[{_members({one.lower(), one.upper()})}]" if one.isalpha() or one == "[" else one]
    return sorted({one.lower(), *(each for each in one.upper() if each.lower() == one.lower())})


def _set(piece: str) -> list[str]:
    """A set of characters. Theirs knows classes, and ranges by the locale: so each member is named."""
    if not piece.isascii():
        raise ValueError(f"{piece} cannot stand in a udev rule; put ? or * in its place")
    met = {one for one in _ASCII if fnmatchcase(one.lower(), piece.lower())}
    if not piece.startswith("[!"):
        met -= {*_NEVER}
        if not met:
            raise ValueError(f"{piece} matches nothing")
        return sorted(met) if met <= {*"!^"} else [f"[{_members(met)}]"]  # the two would say "none of" in front
    missed = {*_ASCII} - met
    if missed & {*_NEVER}:
        raise ValueError(f"{piece} cannot stand in a udev rule: it leaves out what no rule can name")
    return [f"[!{_members(missed)}]" if missed else "?"]


def _members(characters: set[str]) -> str:
    """What stands in brackets for them, in an order in which none of them means something else."""
    ends = "]", "[!^-"
    middle = "".join(sorted(characters - {*ends[0], *ends[1]}))
    return middle.join("".join(one for one in end if one in characters) for end in ends)
