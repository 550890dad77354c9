"""`virtual:` addresses: which device they make, what is wrong with them, and a device as a Source has it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from usbferry.backends.virtual import VirtualSource, about, make
from usbferry.device import Busy, Claimant, NotFound
from usbferry.devices.zero import Zero
from usbferry.registry import DEVICES, UnknownName, open_source
from usbferry.usb.types import Speed

ME = Claimant("local")


def test_an_address_makes_a_device() -> None:
    source = open_source("virtual:zero?speed=super+&pattern=0x1&serial=A%20B")
    assert isinstance(source, VirtualSource)
    assert isinstance(source.device, Zero)
    assert (source.device.info.speed, source.device.info.serial) == (Speed.SUPER_PLUS, "A B")
    assert source.address == "virtual:zero?speed=super+&pattern=0x1&serial=A%20B"


@pytest.mark.parametrize("address", ["virtual:zero", "virtual:zero?", "virtual:zero?&"])
async def test_options_may_be_left_out(address: str) -> None:
    [info] = await VirtualSource(address).list()
    assert (info.device.vendor_id, info.device.product_id, info.name) == (0x0525, 0xA4A0, "")


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("virtual:", "no virtual device ''; there are: "),
        ("virtual:nothing", "no virtual device 'nothing'; there are: "),
        ("virtual:thermometer", "no virtual device 'thermometer'; there are: "),  # ethernet is not so close
        ("virtual:zero?speed=warp", "zero, option speed: 'warp' is none of low, full, high, super, super"),
        ("virtual:zero?pattern=many", "zero, option pattern: 'many' is no number"),
        ("virtual:zero?pattern=7", "zero: pattern 7 is unknown"),
        ("virtual:zero?pattern=0&pattern=1", "pattern is given twice"),
        ("virtual:zero?clock=1", "zero has no option 'clock'; it has: speed, pattern, serial, fault"),
        ("virtual:zero?=1", "zero has no option ''; it has: "),
        ("virtual:zero?fault=explode", "zero: .*explode"),
        ("virtual:disk", "disk: a disk needs image=FILE"),
    ],
)
def test_an_address_that_makes_none_says_why(address: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        VirtualSource(address)
    assert "\n" not in str(caught.value)


def test_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `usbferry new` has written one."""
    monkeypatch.chdir(tmp_path)
    Path("thermometer.py").touch()
    with pytest.raises(UnknownName, match=r"did you mean the file, virtual:thermometer\.py\?$"):
        VirtualSource("virtual:thermometer")


def test_an_unknown_device_names_those_there_are() -> None:
    with pytest.raises(UnknownName) as caught:
        make("nothing", {})
    for name in DEVICES:
        assert name in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "stick.img"))

    monkeypatch.setattr(Zero, "__init__", locked)
    monkeypatch.setattr("usbferry.backends.options.arguments", lambda *args, **kwargs: {})
    with pytest.raises(ValueError, match=r"^zero: .*stick\.img: Permission denied$"):
        make("zero", {})


async def test_a_device_is_opened_by_one_at_a_time() -> None:
    source = VirtualSource("virtual:zero")
    device = await source.open("", ME)
    with pytest.raises(Busy, match=r"^virtual:zero is in use$"):
        await source.open("", ME)
    await device.close()
    assert await source.open("", ME) is device
    await source.close()


async def test_two_at_the_same_time_do_not_both_get_it() -> None:
    source = VirtualSource("virtual:zero")
    got = await asyncio.gather(*[source.open("", ME) for _ in range(3)], return_exceptions=True)
    assert sorted(type(one).__name__ for one in got) == ["Busy", "Busy", "Zero"]
    await source.close()


async def test_a_device_of_another_name() -> None:
    source = VirtualSource("virtual:zero")
    with pytest.raises(NotFound, match=r"^virtual:zero has no device '1-1'$"):
        await source.open("1-1", ME)


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_says_what_it_is(name: str) -> None:
    row = about(name)
    assert (row["name"], row["address"]) == (name, f"virtual:{name}")
    assert row["about"].endswith(".")
    assert len(row["about"]) <= 120
    assert row["options"]["fault"] == {"type": "fault", "default": None}


def test_no_two_devices_have_the_same_ids() -> None:
    """The mouse was taken for a device with DFU by programs that look for one."""
    needed = {"composite": "?parts=serial", "disk": "?size=1M", "uas": "?size=1M"}
    addresses = [f"virtual:{name}{needed.get(name, '')}" for name in DEVICES]
    made = [VirtualSource(address).device.info.device for address in (*addresses, "virtual:dfu?bootloader")]
    assert len({(one.vendor_id, one.product_id) for one in made}) == len(made)
