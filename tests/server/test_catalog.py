"""What is offered and who holds it: names, claims, what comes and goes."""

import asyncio
import contextlib

import pytest

from tests.devices.host import turn
from tests.server.fakes import Shelf, info
from usbferry.device import Busy, Change, Claimant, DeviceError, NotFound, Unavailable
from usbferry.server.catalog import Catalog
from usbferry.usb.types import Speed

ALICE, BOB = Claimant("192.0.2.1:1", "usbip"), Claimant("192.0.2.2:2", "usbip")


@pytest.fixture
async def shelf():
    return Shelf("zero", "disk")


@pytest.fixture
async def catalog(shelf):
    made = Catalog()
    await made.add(shelf)
    return made


@contextlib.asynccontextmanager
async def following(catalog, source):
    """The catalog hears of the source's changes for the length of a `with`."""
    task = asyncio.get_running_loop().create_task(catalog.follow(source))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def names(catalog):
    return [(offer.info.name, offer.source_name) for offer in catalog.list()]


async def test_names_are_bus_ids_in_the_order_of_adding(catalog):
    await catalog.add(Shelf("keyboard"))
    assert names(catalog) == [("1-1", "zero"), ("1-2", "disk"), ("1-3", "keyboard")]
    assert [(o.info.bus, o.info.address) for o in catalog.list()] == [(1, 2), (1, 3), (1, 4)]
    assert [o.info.path for o in catalog.list()] == ["/usbferry/1-1", "/usbferry/1-2", "/usbferry/1-3"]


async def test_names_are_the_same_for_the_same_sources():
    lists = []
    for _ in range(2):
        catalog = Catalog()
        for source in (Shelf("a", "b"), Shelf("a")):
            await catalog.add(source)
        lists.append(names(catalog))
    assert lists[0] == lists[1]


async def test_a_path_of_its_own_is_kept():
    shelf = Shelf()
    shelf.infos = [info("one", path="/sys/devices/usb1/1-7")]
    catalog = Catalog()
    (offer,) = await catalog.add(shelf)
    assert offer.info.path == "/sys/devices/usb1/1-7"


@pytest.mark.slow
async def test_bus_and_device_numbers_fit_a_byte():
    """The kernel's tools make a devid of 8 bits each."""
    catalog = Catalog()
    await catalog.add(Shelf(*(f"d{number}" for number in range(255 * 127))))
    numbers = {(offer.info.bus, offer.info.address) for offer in catalog.list()}
    assert len(numbers) == 255 * 127
    assert {bus for bus, _ in numbers} == set(range(1, 256))
    assert {address for _, address in numbers} == set(range(2, 129))
    with pytest.raises(DeviceError, match="bus numbers end"):
        await catalog.add(Shelf("one more"))


async def test_one_claimant_per_device(catalog):
    offer, device = await catalog.claim("1-1", ALICE)
    assert (offer.holder, offer.device) == (ALICE, device)
    with pytest.raises(Busy, match=r"in use by 192\.0\.2\.1:1") as caught:
        await catalog.claim("1-1", BOB)
    assert caught.value.holder is ALICE
    await catalog.claim("1-2", BOB)
    assert names(catalog) == [("1-1", "zero"), ("1-2", "disk")], "busy ones are listed"


async def test_an_unknown_name(catalog):
    for name in ("1-3", "", "zero", "9-9"):
        with pytest.raises(NotFound):
            await catalog.claim(name, ALICE)


async def test_a_device_is_busy_while_it_is_opened(catalog, shelf):
    go = asyncio.Event()

    async def opening(name):
        await go.wait()

    shelf.opening = opening
    async with asyncio.TaskGroup() as group:
        first = group.create_task(catalog.claim("1-1", ALICE))
        await turn()
        with pytest.raises(Busy):
            await catalog.claim("1-1", BOB)
        go.set()
    assert (await first)[0].holder is ALICE


@pytest.mark.parametrize("error", [DeviceError("no permission"), OSError("odd"), asyncio.CancelledError()])
async def test_a_device_that_could_not_be_opened_is_free(catalog, shelf, error):
    async def opening(name):
        raise error

    shelf.opening = opening
    with pytest.raises(type(error)):
        await catalog.claim("1-1", ALICE)
    del shelf.opening
    offer, _ = await catalog.claim("1-1", BOB)
    assert offer.holder is BOB


async def test_a_device_stays_busy_until_it_is_closed(catalog):
    offer, device = await catalog.claim("1-1", ALICE)
    go = asyncio.Event()
    close = device.close

    async def slowly():
        await go.wait()
        await close()

    device.close = slowly
    async with asyncio.TaskGroup() as group:
        group.create_task(catalog.release(offer))
        await turn()
        with pytest.raises(Busy):
            await catalog.claim("1-1", BOB)
        go.set()
    assert (offer.holder, offer.device, device.open) == (None, None, False)


async def test_a_device_that_fails_to_close_is_free(catalog):
    offer, device = await catalog.claim("1-1", ALICE)

    async def fail():
        raise OSError("disk full")

    device.close = fail
    with pytest.raises(OSError, match="disk full"):
        await catalog.release(offer)
    await catalog.claim("1-1", BOB)


async def test_no_new_claims_while_it_drains(catalog):
    await catalog.claim("1-1", ALICE)
    catalog.draining = True
    with pytest.raises(Unavailable):
        await catalog.claim("1-2", BOB)
    with pytest.raises(Busy):
        await catalog.claim("1-1", BOB)
    with pytest.raises(NotFound):
        await catalog.claim("1-9", BOB)


async def test_a_held_offer_shows_its_settings_as_they_are(catalog):
    offer, device = await catalog.claim("1-1", ALICE)
    device.info.configuration, device.info.alternates = 2, {0: 1}
    assert (offer.current().configuration, offer.current().alternates) == (2, {0: 1})
    assert offer.current().name == "1-1"
    await catalog.release(offer)
    assert (offer.current().configuration, offer.current().alternates) == (1, {})


# -- what comes and goes --------------------------------------------------------------------------------------------


async def test_what_appears_is_offered_and_what_left_is_not(catalog, shelf):
    async with following(catalog, shelf):
        shelf.changes.put_nowait(Change("zero", None))
        shelf.changes.put_nowait(Change("new", info("new")))
        await turn()
        assert names(catalog) == [("1-2", "disk"), ("1-3", "new")]
        with pytest.raises(NotFound):
            await catalog.claim("1-1", ALICE)
        shelf.changes.put_nowait(Change("zero", info("zero")))
        await turn()
        assert ("1-1", "zero") in names(catalog), "called as before"


async def test_what_never_was_may_leave(catalog, shelf):
    async with following(catalog, shelf):
        shelf.changes.put_nowait(Change("nobody", None))
        await turn()
        assert len(catalog.list()) == 2


async def test_a_held_device_that_is_told_once_more_stays_held(catalog, shelf):
    """Its offer was once replaced by a free one, and a second importer let in."""
    offer, _ = await catalog.claim("1-1", ALICE)
    async with following(catalog, shelf):
        shelf.changes.put_nowait(Change("zero", info("zero", speed=Speed.SUPER)))
        await turn()
    assert (offer.info.speed, catalog.list()[0].holder) == (Speed.SUPER, ALICE)
    with pytest.raises(Busy):
        await catalog.claim("1-1", BOB)


async def test_a_held_device_that_left_is_released_without_a_trace(catalog, shelf):
    offer, device = await catalog.claim("1-1", ALICE)
    async with following(catalog, shelf):
        shelf.changes.put_nowait(Change("zero", None))
        await turn()
    await catalog.release(offer)
    assert (names(catalog), device.open) == ([("1-2", "disk")], False)


async def test_watchers_hear_of_every_change(catalog, shelf):
    heard = []
    unwatch = catalog.watch(lambda: heard.append([offer.holder for offer in catalog.list()]))
    offer, _ = await catalog.claim("1-1", ALICE)
    await catalog.release(offer)
    async with following(catalog, shelf):
        shelf.changes.put_nowait(Change("zero", None))
        await turn()
    assert heard == [[ALICE, None], [None, None], [None]]
    unwatch()
    unwatch()
    await catalog.claim("1-2", BOB)
    assert len(heard) == 3


async def test_closing_closes_every_source_though_one_fails(catalog, shelf, caplog):
    broken, last = Shelf(), Shelf()

    async def fail():
        raise OSError("stuck")

    broken.close = fail
    for source in (broken, last):
        await catalog.add(source)
    await catalog.close()
    assert (shelf.is_closed, last.is_closed) == (True, True)
    assert "test:shelf could not be closed" in caplog.text
