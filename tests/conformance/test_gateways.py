"""One protocol passed on over another, each to each, and each transport under its protocols: what usbtest asks of a
Gadget Zero, once."""

from __future__ import annotations

from itertools import product

import pytest

from tests.backends.test_redir import ME, iso, use
from tests.conformance.chain import chained
from usbferry.registry import PROTOCOLS, TRANSPORTS, open_source

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
