"""The device that describes itself wrongly: each mistake is what it says, and hosts of ours live with it."""

from __future__ import annotations

import asyncio

import pytest

from tests.conformance.chain import chained
from tests.devices.host import ask, opened, read, write
from usbferry.device import Claimant, DeviceError
from usbferry.devices.broken import MISTAKES, Broken
from usbferry.registry import open_source
from usbferry.usb import build
from usbferry.usb.setup import get_descriptor
from usbferry.usb.types import Speed, Status

# At which byte of its descriptor each mistake is, and what is there; None where the length is another too.
AT = {
    "no-configuration": (17, 0),
    "missing-configurations": (17, 3),
    "configuration-type": (1, 4),
    "total-length": (2, 39 + 64),
    "cut": (2, 36),
    "zero-length": (32, 0),
    "interface-count": (4, 3),
    "interface-number": (11, 7),
    "endpoint-count": (13, 5),
    "endpoint-zero": (34, 0),
    "endpoint-twice": (34, 0x81),
    "packet-size": (22, 7),
    "interval": (38, 0),
    "string": (0, 2),
}


def descriptor(device: Broken, kind: int) -> bytes:
    return bytes(ask(device, get_descriptor(kind, length=4096)).data)


@pytest.mark.parametrize("name", MISTAKES)
async def test_one_thing_is_wrong_and_nothing_else(name):
    device = Broken(mistake=name)
    right = {1: build.device(device.info.device), 2: build.configuration(device.info.configurations[0])}
    right[3] = b"\4\3\x09\x04"
    async with opened(device):
        for kind, raw in right.items():
            got = descriptor(device, kind)
            wrong = [at for at, (was, now) in enumerate(zip(raw, got, strict=False)) if was != now]
            if kind != MISTAKES[name].of:
                assert got == raw
            elif name == "packet-size":
                assert (wrong, got[22:24]) == ([22, 23], b"\7\0")
            else:
                assert (wrong, got[AT[name][0]]) == ([AT[name][0]], AT[name][1])
        assert bytes(ask(device, get_descriptor(3, 2, language=0x0409)).data) == build.string("Broken")


def test_every_mistake_is_tried():
    assert list(AT) == list(MISTAKES)


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH])
async def test_it_works(speed):
    async with opened(Broken(mistake="endpoint-count", speed=speed)) as device:
        assert device.submit(write(0x01, b"loop")).status == Status.OK
        assert isinstance(device.submit(write(0x01, b"next")), asyncio.Future)
        assert device.submit(read(0x81, 64)).data == b"loop"
        assert device.submit(read(0x81, 2)).status == Status.OVERFLOW


REFUSED = {  # by importers of ours, as Linux does
    "missing-configurations": "refuses 80 GET_DESCRIPTOR value 0201",
    "configuration-type": "has broken descriptors: descriptor of type 4 where CONFIGURATION was wanted",
}
PROTOCOLS = pytest.mark.parametrize("protocol", ["usbip", "usbredir", "ferry"])


@PROTOCOLS
@pytest.mark.parametrize("name", REFUSED)
async def test_an_importer_that_cannot_have_it_says_why_in_a_line(name, protocol):
    async with chained(open_source(f"virtual:broken?mistake={name}"), protocol) as source:
        (info,) = await source.list()
        with pytest.raises(DeviceError, match=REFUSED[name]) as refused:
            await source.open(info.name, Claimant("local"))
    assert len(str(refused.value).splitlines()) == 1


@PROTOCOLS
@pytest.mark.parametrize("name", [name for name in MISTAKES if name not in REFUSED])
async def test_an_importer_that_has_it_moves_its_data(name, protocol):
    async with chained(open_source(f"virtual:broken?mistake={name}"), protocol) as source:
        (info,) = await source.list()
        device = await source.open(info.name, Claimant("local"))
        is_there = name != "no-configuration"
        expected = {"cut": [0x81, 0x01], "zero-length": [0x81, 0x01], "endpoint-zero": [0x81, 0x01]}
        found = [e.address for setting in device.info.interfaces for e in setting.endpoints]
        assert found[:2] == [0x81, 0x01][: 2 * is_there]
        assert found == expected.get(name, found)
        async with asyncio.timeout(10):
            written = await ended(device.submit(write(0x01, b"loop")))
            if is_there:
                assert (await ended(device.submit(read(0x81, 64)))).data == b"loop"
        assert written.status == (Status.OK if is_there else Status.STALL)
        await device.close()


async def ended(answer):
    return await answer if isinstance(answer, asyncio.Future) else answer


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mistake": "typo"}, "there is no mistake 'typo'; there are: no-configuration, "),
        ({"speed": Speed.SUPER}, "full"),
    ],
)
def test_what_cannot_be(options, says):
    with pytest.raises(ValueError, match=says):
        Broken(**options)
