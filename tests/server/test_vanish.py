"""A client that vanishes, without a word, frees its device: idle, under load, and with answers it never read.

    namespace of the server --- veth --- namespace of the client: from one moment on it sends nothing any more

Nobody closes a socket, so neither end is told; only the server's own clocks can find out.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import rig

ROOT = Path(__file__).parents[2]
SECONDS = 15  # after which a device must be free
SERVER, CLIENT = "10.197.0.1", "10.197.0.2"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=10)


class Network:
    """Two namespaces and a cable between them."""

    def __init__(self) -> None:
        self.server, self.client = (f"usbferry-{os.getpid()}-{end}" for end in ("server", "client"))

    def lay(self) -> None:
        for name in (self.server, self.client):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", self.server, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", self.client)
        for name, address in ((self.server, SERVER), (self.client, CLIENT)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "veth0")
            ip("-n", name, "link", "set", "veth0", "up")

    def cut(self) -> None:
        """Whatever the client's side sends from now on is dropped: acknowledgements, answers to probes, resets."""
        ip("-n", self.client, "rule", "add", "blackhole")

    def remove(self) -> None:
        for name in (self.server, self.client):
            with contextlib.suppress(subprocess.SubprocessError):
                ip("netns", "delete", name)

    @contextlib.contextmanager
    def run(self, where: str, *arguments: str, pipe: str = "stdout") -> Iterator[subprocess.Popen[str]]:
        """A Python process in one of the namespaces, ended with the `with`."""
        command = ["ip", "netns", "exec", where, sys.executable, "-m", *arguments]
        with subprocess.Popen(command, cwd=ROOT, text=True, **{pipe: subprocess.PIPE}) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def network() -> Iterator[Network]:
    made = Network()
    try:
        reason = "it takes Linux, root and `ip`" if os.geteuid() or not shutil.which("ip") else None
        if reason is None:
            try:
                made.lay()
            except subprocess.SubprocessError as error:
                reason = f"no network namespaces: {getattr(error, 'stderr', '') or error}"
        if reason:
            pytest.fail(f"required here: {reason}") if rig.is_required() else pytest.skip(reason)
        yield made
    finally:
        made.remove()


@pytest.mark.slow
def test_a_vanished_client_frees_its_devices(network: Network) -> None:
    """All three ways at the same time: by keepalive, by data unacknowledged, and by a window that stays shut."""
    serve = ("usbferry", "serve", "--listen", f"{SERVER}:3240", *["virtual:zero"] * 3)
    peers = ("tests.server.vanishing",)
    with network.run(network.server, *serve, pipe="stderr") as server:
        assert any("listening on" in line for line in server.stderr)
        with network.run(network.client, *peers, "importers", SERVER, "3240") as importers:
            assert importers.stdout.readline() == "ready\n"
            network.cut()
            with network.run(network.server, *peers, "successor", SERVER, "3240") as successor:
                assert successor.stdout.readline() == "busy\n", "nobody has told the server"
                waited = json.loads(successor.stdout.readline())
            assert importers.poll() is None, "it still believes in its connections"
    assert set(waited) == {"1-1", "1-2", "1-3"}
    assert max(waited.values()) < SECONDS, waited
