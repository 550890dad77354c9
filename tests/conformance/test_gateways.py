"""One protocol passed on over another, each to each, and each transport under its protocols: what usbtest asks of a
Gadget Zero, once."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from tests.backends.test_redir import ME, iso, use
from tests.backends.test_remote import pending
from tests.conformance.chain import chained
from tests.conftest import Run
from usbferry.registry import PROTOCOLS, TRANSPORTS, open_source
from usbferry.usb.transfer import Transfer
from usbferry.usb.types import Status

TRANSPORTED = [f"{name}+{one}" for name, row in PROTOCOLS.items() for one in row.transports]
GATEWAYS = [f"{first}>{second}" for first, second in product(PROTOCOLS, PROTOCOLS)]


def test_every_transport_is_under_some_protocol() -> None:
    assert {way.partition("+")[2] for way in TRANSPORTED} == set(TRANSPORTS)


@pytest.mark.parametrize("way", [*TRANSPORTED, *GATEWAYS, "ferry+udp>usbip>ferry+seqpacket"])
async def test_everything_that_gadget_zero_can(way: str) -> None:
    async with chained(open_source("virtual:zero"), way) as source:
        [info] = await source.list()
        device = await source.open(info.name, ME)
        try:
            await use(device)
            await iso(device)
        finally:
            await device.close()
            await source.close()


@pytest.mark.parametrize("way", GATEWAYS)
def test_a_flood_comes_out_as_it_went_in(run: Run, way: str) -> None:
    """Payloads are lent from the buffers they were read into to those they are written from, which are used again.

    uvloop writes what it is given when all of its turn is over, so there they are not.
    """
    run(flood(way))


async def flood(way: str) -> None:
    random = Random(1)
    sent = [random.randbytes(random.randrange(1, 65536)) for _ in range(200)]
    async with chained(open_source("virtual:zero"), way) as source:
        [info] = await source.list()
        device = await source.open(info.name, ME)
        try:
            reads = [pending(device.submit(Transfer(0x82, 65536))) for _ in sent]
            writes = [pending(device.submit(Transfer(0x02, len(data), data))) for data in sent]
            for written in writes:
                assert (await written).status == Status.OK
            for data, read in zip(sent, reads, strict=True):
                assert (await read).data == data
        finally:
            await device.close()
            await source.close()
