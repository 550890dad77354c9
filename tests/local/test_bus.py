"""The bus of a pyusb backend: what is seen without being taken, shared by those who open it, and told from another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import wraps
from typing import Any

import pytest

from usbferry.device import Busy, Claimant, Device, DeviceError, NotFound, Source
from usbferry.devices.zero import Zero
from usbferry.local import bus as module
from usbferry.local import sync
from usbferry.local.bus import Bus, Port
from usbferry.usb.info import DeviceInfo


class Shelf(Source):
    """A source whose list the test writes, as a server's: without strings and configurations."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.devices: dict[str, Zero] = {}
        self.opens: list[str] = []
        self.busy: set[str] = set()
        self.trouble: DeviceError | None = None
        self.closed = False
        SHELVES[address] = self

    def put(self, name: str, address: int = 2, **others: object) -> None:
        device = Zero()
        device.info.name = name
        device.info.address = address
        device.info.device = replace(device.info.device, **others)  # type: ignore[arg-type]
        self.devices[name] = device

    async def list(self) -> list[DeviceInfo]:
        if self.trouble is not None:
            raise self.trouble
        return [
            replace(d.info, configurations=(), interface_classes=d.info.classes, manufacturer="", product="", serial="")
            for d in self.devices.values()
        ]

    async def open(self, name: str, claimant: Claimant) -> Device:
        self.opens.append(name)
        if name in self.busy:
            raise Busy(f"{name} is in use")
        if name not in self.devices:
            raise NotFound(f"no {name}")
        await self.devices[name].open()
        return self.devices[name]

    async def close(self) -> None:
        self.closed = True


SHELVES: dict[str, Shelf] = {}


def in_its_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Where it is at home: in the loop of synchronous callers."""

    @wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        sync.run(test(*arguments, **named), 20)

    return run


@pytest.fixture
def made(monkeypatch) -> Bus:
    monkeypatch.setattr(module, "open_source", Shelf)
    return Bus(["one", "two"])


def shelf(name: str = "one") -> Shelf:
    return SHELVES[name]


def places(ports: list[Port]) -> list[tuple[int, int]]:
    return [(port.bus, port.address) for port in ports]


@in_its_loop
async def test_what_is_looked_at_is_known_and_given_back_after_a_while(made, monkeypatch):
    monkeypatch.setattr(module, "LINGER_SECONDS", 0.02)
    shelf().put("1-1")
    [port] = await made.ports()
    assert port.is_known
    assert (port.info.product, port.is_held) == ("Gadget Zero", True)
    for _ in range(500):
        if not shelf().devices["1-1"].is_open:
            break
        await asyncio.sleep(0.01)
    assert not shelf().devices["1-1"].is_open
    assert await made.ports() == [port]
    assert shelf().opens == ["1-1"], "it is known already"
    await made.close()


@in_its_loop
async def test_who_opens_at_once_has_what_was_looked_at(made):
    shelf().put("1-1")
    [port] = await made.ports()
    held = await port.acquire()
    assert await port.acquire() is held
    assert shelf().opens == ["1-1"]
    await port.release(held)
    assert shelf().devices["1-1"].is_open
    await port.release(held)
    assert not shelf().devices["1-1"].is_open
    await made.close()
    assert shelf().closed
    assert shelf("two").closed


@in_its_loop
async def test_what_is_in_use_elsewhere_is_as_its_list_says(made):
    shelf().put("1-1")
    shelf().busy.add("1-1")
    [port] = await made.ports()
    assert not port.is_known
    with pytest.raises(Busy):
        await port.acquire()
    shelf().busy.clear()
    assert await made.ports() == [port]
    assert port.is_known, "looked at again"
    await made.close()


@in_its_loop
async def test_one_server_keeps_its_numbers_and_another_has_its_own_bus(made):
    shelf().put("1-1")
    shelf().put("1-2", 3)
    shelf("two").put("1-1")
    ports = await made.ports()
    assert places(ports) == [(1, 2), (1, 3), (2, 2)]
    assert [port.numbers for port in ports] == [(1,), (2,), (1,)]
    assert places(await made.ports()) == [(1, 2), (1, 3), (2, 2)]
    await made.close()


@in_its_loop
async def test_ports_behind_hubs_and_names_that_are_no_bus_ids(made):
    shelf().put("3-1.4.2")
    shelf().put("", 1)
    assert [port.numbers for port in await made.ports()] == [(1, 4, 2), (1,)]
    await made.close()


@in_its_loop
async def test_another_device_in_its_place_has_another_address(made):
    shelf().put("1-1")
    [before] = await made.ports()
    held = await before.acquire()
    shelf().devices["1-1"].vanish()
    await before.release(held)
    shelf().put("1-1", product_id=0x1234)
    [after] = await made.ports()
    assert after is not before
    assert places([before, after]) == [(1, 2), (1, 3)]
    assert not before.is_current
    with pytest.raises(NotFound, match="another device now"):
        await before.acquire()
    await made.close()


@in_its_loop
async def test_one_that_came_back_otherwise_before_anybody_listed_is_found_out(made):
    shelf().put("1-1")
    [port] = await made.ports()
    await port.close()
    shelf().put("1-1", max_packet0=8)
    with pytest.raises(NotFound, match="another device now"):
        await port.acquire()
    assert not shelf().devices["1-1"].is_open
    [after] = await made.ports()
    assert after is not port
    await made.close()


@in_its_loop
async def test_what_is_held_stays_though_its_server_does_not_list_it(made):
    """The kernel's does not list what is in use, not even to who uses it."""
    shelf().put("1-1")
    [port] = await made.ports()
    await port.acquire()
    device = shelf().devices.pop("1-1")
    assert await made.ports() == [port]
    device.vanish()
    assert await made.ports() == []
    await made.close()


@in_its_loop
async def test_what_is_held_stays_whatever_was_set(made):
    shelf().put("1-1")
    [port] = await made.ports()
    held = await port.acquire()
    await held.handle._handle.set_configuration(0)
    assert await made.ports() == [port]
    await made.close()


@in_its_loop
async def test_a_source_that_cannot_be_read_is_told_of_once_and_hides_no_other(made, caplog):
    shelf("two").put("1-1")
    for text in ("no connection", "no connection", "timed out"):
        shelf().trouble = DeviceError(text)
        assert len(await made.ports()) == 1
    shelf().trouble = None
    assert len(await made.ports()) == 1
    shelf().trouble = DeviceError("timed out")
    await made.ports()
    said = [record.getMessage() for record in caplog.records if record.name == module.log.name]
    assert said == ["usbferry: no connection", "usbferry: timed out", "usbferry: timed out"]
    await made.close()
