"""`usbferry udev-rule`: the line for udev that grants a user what `usbferry serve usb:...` needs."""

from __future__ import annotations

from typing import Final

import click

from ..selector import Class, Identity, Name, Port, Selector, Term, Text
from . import fail

_DEVICE: Final = ('SUBSYSTEM=="usb"', 'ENV{DEVTYPE}=="usb_device"')


@click.command()
@click.argument("selectors", nargs=-1, required=True, metavar="SELECTOR...")
@click.option("--group", default="plugdev", show_default=True, metavar="GROUP", help="Whose members get the devices.")
def command(selectors: tuple[str, ...], group: str) -> None:
    """Print a udev rule for the USB devices that each SELECTOR means.

    \b
    To install it, and have it hold for devices that are plugged in already:
      usbferry udev-rule 046d:c52b | sudo tee /etc/udev/rules.d/70-usbferry.rules
      sudo udevadm control --reload && sudo udevadm trigger

    It lets the members of GROUP use the devices, and whoever sits at the machine.
    """
    try:
        for selector in selectors:
            print(rule(Selector.parse(selector.removeprefix("usb:")), group))
    except ValueError as error:
        fail(f"usbferry udev-rule: {error}")


def rule(selector: Selector, group: str) -> str:
    """One line of a rules file, udev(7). Raises ValueError for what udev cannot tell by."""
    matches = [match for term in selector.terms for match in _matches(term)]
    grants = (f'GROUP="{_checked(group)}"', 'MODE="0660"', 'TAG+="uaccess"')
    return ", ".join((*_DEVICE, *matches, *grants))


def _matches(term: Term) -> list[str]:
    match term:
        case Identity(vendor, product):
            pairs = (("idVendor", vendor), ("idProduct", product))
            return [f'ATTR{{{name}}}=="{value:04x}"' for name, value in pairs if value is not None]
        case Text(field, glob):
            return [f'ATTR{{{field}}}=="{_checked(glob)}"']
        case Name(name):
            return [f'KERNEL=="{_checked(name)}"']
        case Port(glob):
            return [f'KERNEL=="{_checked(glob)}"']
        case Class(triplet):  # udev's list of interfaces, ":030101:080650:"
            return [f'ENV{{ID_USB_INTERFACES}}=="*:{bytes(triplet).hex()}*"']
    raise ValueError(f"udev does not tell devices by {term}")


def _checked(value: str) -> str:
    """What may stand between the quotes of a rule."""
    if '"' in value or not value.isprintable():
        raise ValueError(f"{value!r} cannot stand in a udev rule")
    return value
