"""A client that vanishes, without a word, frees its device: idle, under load, and with answers it never read.

Only the server's own clocks can find out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.network import SERVER, Network, laid

SECONDS = 15  # after which a device must be free


@pytest.fixture
def network() -> Iterator[Network]:
    with laid() as made:
        yield made


@pytest.mark.alone
def test_a_vanished_client_frees_its_devices(network: Network) -> None:
    """All three ways at the same time: by keepalive, by data unacknowledged, and by a window that stays shut."""
    serve = ("usbferry", "serve", "--listen", f"{SERVER}:3240", *["virtual:zero"] * 3)
    peers = ("tests.server.vanishing",)
    with network.run(network.server, *serve, pipe="stderr") as server:
        assert any("listening on" in line for line in server.stderr)
        with network.run(network.client, *peers, "importers", SERVER, "3240") as importers:
            assert importers.stdout.readline() == "ready\n"
            network.cut(network.client)
            with network.run(network.server, *peers, "successor", SERVER, "3240") as successor:
                assert successor.stdout.readline() == "busy\n", "nobody has told the server"
                waited = json.loads(successor.stdout.readline())
            assert importers.poll() is None, "it still believes in its connections"
    assert set(waited) == {"1-1", "1-2", "1-3"}
    assert max(waited.values()) < SECONDS, waited
