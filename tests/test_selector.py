"""Which devices a selector means, what it says of one that is only listed, and its text."""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbferry.device import Busy, Claimant, Device, NotFound, Source
from usbferry.selector import EVERY, Ambiguous, Selector, choose, listed, select
from usbferry.usb.classes import NAMES
from usbferry.usb.descriptors import Configuration, DeviceDescriptor, Interface
from usbferry.usb.info import DeviceInfo

CONFIGURATION = Configuration(1, (Interface(0, 0, 0x03, 1, 1), Interface(1, 0, 0x08, 6, 0x50)))
OPEN = DeviceInfo(
    "1-2.3",
    DeviceDescriptor(0x046D, 0xC52B),
    (CONFIGURATION,),
    path="/sys/devices/pci0/usb1/1-2/1-2.3",
    manufacturer="Acme, Inc.",
    product="USB Receiver [2]",
    serial="AB12",
)
LISTED = replace(
    OPEN, configurations=(), manufacturer="", product="", serial="", interface_classes=((3, 1, 1), (8, 6, 0x50))
)
BARE = replace(LISTED, interface_classes=())  # unconfigured at its server


@pytest.mark.parametrize(
    "text",
    [
        "",
        "046d:c52b",
        "46D:C52B",
        "0x046d:0xc52b",
        "*:c52b",
        "046d:*",
        "*:*",
        "1-2.3",
        "serial=AB12",
        "serial=ab*",
        "serial=?B1[0-9]",
        "serial=%3FB12",
        "manufacturer=Acme%2C Inc.",
        "manufacturer=acme%2c%20*",
        "product=usb receiver [[]2]",
        "class=hid",
        "class=HID",
        "class=keyboard",
        "class=storage/06/50",
        "class=08/6",
        "class=0x03",
        "class=00",
        "port=1-*",
        "port=*/usb1/*",
        "046d:c52b,serial=AB*,class=storage,port=1-2.3",
        " 046d:* , class=hid ",
    ],
)
def test_meant(text: str) -> None:
    selector = Selector.parse(text)
    assert selector.matches(OPEN)
    assert Selector.parse(str(selector)) == selector


@pytest.mark.parametrize(
    "text",
    [
        "046d:c52c",
        "046e:*",
        "1-2",
        "1-2.*",
        "serial=AB1",
        "serial=B12",
        "product=USB Receiver [2]",
        "class=video",
        "class=mouse",
        "class=storage/06/62",
        "port=1-3*",
        "046d:c52b,serial=XX",
        "serial=AB12,class=video",
    ],
)
def test_not_meant(text: str) -> None:
    assert Selector.parse(text).meets(OPEN) is False


@pytest.mark.parametrize(
    ("text", "listed", "bare"),
    [
        ("046d:c52b", True, True),
        ("1-2.3", True, True),
        ("046e:*", False, False),
        ("serial=*", None, None),
        ("046e:*,serial=*", False, False),
        ("046d:*,serial=*", None, None),
        ("class=hid", True, None),
        ("class=video", False, None),
        ("class=video,serial=*", False, None),
        ("class=00", True, True),
    ],
)
def test_what_a_list_tells(text: str, listed: bool | None, bare: bool | None) -> None:
    selector = Selector.parse(text)
    assert (selector.meets(LISTED), selector.meets(BARE)) == (listed, bare)
    assert selector.matches(LISTED) is bool(listed)
    assert selector.needs_strings is ("serial" in text)


@pytest.mark.parametrize("text", ["serial=AB*", "serial=*", "product=*", "manufacturer=*", "serial=[!A]*"])
def test_a_device_without_a_serial_number_or_a_name_is_none_of_those_with_any(text: str) -> None:
    nameless = replace(OPEN, manufacturer="", product="", serial="")
    assert Selector.parse(text).meets(nameless) is False


@pytest.mark.parametrize(
    ("text", "name", "is_name"),
    [
        ("", "", False),
        ("1-2", "1-2", True),
        ("1-2,class=hid", "1-2", False),
        ("046d:*", "", False),
        ("a b", "a b", True),
    ],
)
def test_a_bus_id(text: str, name: str, is_name: bool) -> None:
    selector = Selector.parse(text)
    assert (selector.name, selector.is_name) == (name, is_name)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("046d:", "'046d:' is no VID:PID: four hexadecimal digits each, such as 046d:c52b, or *"),
        ("046d:c52bb", "'046d:c52bb' is no VID:PID"),
        ("1-1,wat:c52b", "'wat:c52b' is no VID:PID"),
        ("046d:c52b,vid=1", "'vid=1' is no term of a selector; there are: VID:PID, serial=, product="),
        ("serial=", "'serial=' has nothing after the ="),
        ("046d:c52b,", "there is an empty term between two commas; there are: VID:PID"),
        ("1-1,1-2", "'1-1,1-2' has more than one bus id: a device must meet all terms"),
        ("046d:c52b,046d:c077", "has more than one VID:PID"),
        ("class=webcam", "class=webcam: there is no class 'webcam'; there are: audio, cdc, hid, "),
        ("class=08/06/50/00", "class=08/06/50/00: after the class comes a subclass and then a protocol"),
        ("class=keyboard/1", "class=keyboard/1: after the class comes"),
        ("class=08/", "class=08/: after the class comes"),
        ("class=08/bulk", "class=08/bulk: after the class comes"),
    ],
)
def test_what_makes_no_sense_names_the_term(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)) as caught:
        Selector.parse(text)
    assert "\n" not in str(caught.value)


def test_a_name_of_a_class_is_no_number() -> None:
    """`class=cdc` must not be taken for a hexadecimal number, whatever is added to the table."""
    assert [name for name in NAMES if len(name) <= 2 and not set(name) - set("0123456789abcdef")] == []


words = st.text(min_size=1, max_size=20)


@given(st.lists(st.tuples(st.sampled_from(["serial", "product", "manufacturer", "port"]), words), min_size=1))
def test_any_value_has_a_text(pairs: list[tuple[str, str]]) -> None:
    selector = Selector.parse(",".join(f"{key}={quote(value, safe='')}" for key, value in pairs))
    assert Selector.parse(str(selector)) == selector
    assert not set(str(selector)) & set("?#% ") - {"%"}


@given(st.text())
def test_any_text_is_a_selector_or_a_clear_error(text: str) -> None:
    try:
        selector = Selector.parse(text)
    except ValueError:
        return
    assert Selector.parse(str(selector)) == selector


# --- among the devices of a source ------------------------------------------------------------------------------------


class Shelf(Source):
    """Devices that are listed bare, and read as OPEN with a serial number of their own; some are in use."""

    address = "test:shelf"

    def __init__(self, *busy: str) -> None:
        self.busy = busy
        self.asked: list[str] = []

    async def list(self) -> list[DeviceInfo]:
        return [replace(LISTED, name=f"1-{n}") for n in (1, 2, 3)]

    async def read(self, info: DeviceInfo) -> DeviceInfo:
        self.asked.append(info.name)
        if info.name in self.busy:
            raise Busy(f"{info.name} is in use")
        return replace(OPEN, name=info.name, serial=f"S{info.name}")

    async def open(self, name: str, claimant: Claimant) -> Device:
        raise NotFound(name)


async def chosen(shelf: Shelf, text: str) -> tuple[list[str], list[str]]:
    found, unread = await select(shelf, Selector.parse(text), await shelf.list())
    return [info.name for info in found], [str(error) for error in unread]


async def test_only_candidates_are_read() -> None:
    shelf = Shelf()
    assert await chosen(shelf, "046d:*,port=1-[12],serial=S1-*") == (["1-1", "1-2"], [])
    assert shelf.asked == ["1-1", "1-2"]


async def test_nothing_is_read_without_need() -> None:
    shelf = Shelf()
    assert await chosen(shelf, "046d:c52b,class=hid") == (["1-1", "1-2", "1-3"], [])
    assert await select(shelf, EVERY, await shelf.list()) == (await shelf.list(), [])
    assert shelf.asked == []


async def test_one_in_use_is_not_among_them_and_ends_nothing() -> None:
    assert await chosen(Shelf("1-1"), "serial=S*") == (["1-2", "1-3"], ["1-1 is in use"])


def test_one_is_chosen() -> None:
    assert choose([OPEN], "usbip://host") is OPEN


def test_none_is_an_error() -> None:
    with pytest.raises(NotFound, match=r"^there is no device at usbip://host$"):
        choose([], "usbip://host")


def test_several_are_an_error_with_a_line_for_each() -> None:
    twins = [replace(OPEN, name=f"1-{n}", product="USB\nReceiver") for n in range(1, 23)]
    with pytest.raises(Ambiguous) as caught:
        choose(twins, "046d:*")
    lines = str(caught.value).split("\n")
    assert lines[0] == "046d:* stands for 22 devices; name one by its bus id, such as port=1-1"
    assert lines[1:3] == [f"  1-{n} 046d:c52b Acme, Inc. USB Receiver serial AB12 (keyboard, disk)" for n in (1, 2)]
    assert lines[-1] == "  and 2 more"
    assert len(lines) == 22
    assert listed(twins).split(", ")[-1] == "and 2 more"
    assert (listed(twins[:20]).count("Receiver"), listed([])) == (20, "none")
