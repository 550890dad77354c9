"""What a status becomes from protocol to protocol: the table of the docs is the code's, and total."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from usbferry.protocols.ferry import messages as ferry
from usbferry.protocols.usbip import messages as usbip
from usbferry.protocols.usbredir import messages as usbredir
from usbferry.usb.types import Status

PAGE = Path(__file__).parents[2] / "docs" / "protocols" / "usbredir.md"


def rows() -> dict[str, list[str]]:
    """Our status -> the other cells, as the page has them."""
    section = PAGE.read_text(encoding="utf-8").split("| A device says |")[1].split("\n\n")[0]
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in section.splitlines()[2:]]
    return {first: others for first, *others in cells}


def test_the_table_is_total():
    assert list(rows()) == [status.name.lower() for status in Status]


@pytest.mark.parametrize("status", Status, ids=lambda status: status.name)
def test_a_status_through_each_protocol(status):
    number = usbip.ERRNO[status]
    word = usbredir.wire_status(status)
    assert rows()[status.name.lower()] == [
        "0" if not number else f"-{errno.errorcode[-number]}",
        usbip.status_of(number).name.lower(),
        word.name.lower(),
        usbredir.status_of(word, status is Status.CANCELLED).name.lower(),
    ]
    assert ferry.status_of(ferry.code_of(status)) == status


@pytest.mark.parametrize("status", Status, ids=lambda status: status.name)
def test_a_second_gateway_changes_nothing(status):
    """What was read back from usbredir is said and read alike at the next one, and over USB/IP in between."""

    def crossed(one: Status) -> Status:
        return usbredir.status_of(usbredir.wire_status(one), one is Status.CANCELLED)

    once = crossed(status)
    assert crossed(once) == once
    assert crossed(usbip.status_of(usbip.ERRNO[once])) == once


@pytest.mark.parametrize("status", [Status.OK, Status.STALL, Status.CANCELLED, Status.TIMEOUT, Status.OVERFLOW])
def test_what_drivers_go_by_survives_every_crossing(status):
    assert usbredir.status_of(usbredir.wire_status(status)) == status
    assert usbip.status_of(usbip.ERRNO[status]) == status
