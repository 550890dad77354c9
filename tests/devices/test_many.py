"""The devices with as many configurations and as many endpoints as there can be."""

from __future__ import annotations

import asyncio

import pytest

from tests.devices.host import ask, opened, read, turn, write
from usbferry.devices.many_configurations import ManyConfigurations
from usbferry.devices.many_endpoints import ManyEndpoints
from usbferry.usb import build, descriptors
from usbferry.usb.setup import get_descriptor, set_configuration
from usbferry.usb.types import Speed, Status


async def test_each_configuration_has_its_interfaces_which_say_so():
    async with opened(ManyConfigurations(count=4, speed=Speed.FULL)) as device:
        assert device.info.device.configurations == 4
        for value in (1, 3, 4, 2):
            assert ask(device, set_configuration(value)).status == Status.OK
            for interface in range(value):
                said = device.submit(read(0x81 + interface, 64))
                assert bytes(said.data) == b"configuration %d, interface %d\n" % (value, interface)
            assert device.submit(read(0x81 + value, 64)).status == Status.STALL
        assert bytes(device.submit(read(0x81, 5)).data) == b"confi"


async def test_each_can_be_asked_for_and_has_a_name():
    async with opened(ManyConfigurations(count=15)) as device:
        for index in range(15):
            raw = ask(device, get_descriptor(2, index, length=4096)).data
            parsed = descriptors.parse_configuration(raw)
            assert (parsed.value, len(parsed.interfaces)) == (index + 1, index + 1)
            name = ask(device, get_descriptor(3, parsed.string, language=0x0409)).data
            assert descriptors.parse_string(name) == f"Configuration {index + 1}"
        assert ask(device, get_descriptor(2, 15)).status == Status.STALL


@pytest.mark.parametrize("count", [0, 16])
def test_counts_that_cannot_be(count):
    with pytest.raises(ValueError, match=f"1 to 15 configurations, not {count}"):
        ManyConfigurations(count=count)


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER])
async def test_thirty_endpoints_are_fifteen_loops(speed):
    device = ManyEndpoints(speed=speed)
    (setting,) = device.info.configurations[0].interfaces
    assert sorted(e.address for e in setting.endpoints) == [*range(1, 16), *range(0x81, 0x90)]
    assert len(build.configuration(device.info.configurations[0])) == 18 + 30 * (13 if speed is Speed.SUPER else 7)
    async with opened(device):
        for number in range(1, 16):
            assert device.submit(write(number, bytes([number]) * 600)).status == Status.OK
        for number in range(15, 0, -1):
            assert device.submit(read(0x80 | number, 1024)).data == bytes([number]) * 600


async def test_a_loop_has_bounds_and_keeps_the_ends_of_transfers():
    async with opened(ManyEndpoints()) as device:
        waiting = device.submit(read(0x83, 64))
        for piece in (b"", b"ab"):
            assert device.submit(write(3, piece)).status == Status.OK
        assert (await waiting).data == b""
        assert device.submit(read(0x83, 1)).status == Status.OVERFLOW
        assert device.submit(write(3, bytes(1 << 20))).status == Status.OK
        more = device.submit(write(3, b"more"))
        assert isinstance(more, asyncio.Future)
        assert device.submit(write(4, b"elsewhere")).status == Status.OK
        assert len(device.submit(read(0x83, 1 << 20)).data) == 1 << 20
        await turn()
        assert more.result().status == Status.OK
        await device.reset()
        assert isinstance(device.submit(read(0x83, 64)), asyncio.Future)
