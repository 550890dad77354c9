"""A network whose cable can be cut: nobody closes a socket, so nobody is told.

namespace of the server --- veth --- namespace of the client: from one moment on, one of them sends and is sent nothing
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import rig

ROOT = Path(__file__).parents[1]
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

    def cut(self, end: str) -> None:
        """Whatever TCP sends to this end, or this end by it, is dropped: acknowledgements, answers to probes, resets.

        Resets of the other end too, whose kernel sends one when its keepalive gives a connection up.
        """
        ip("-n", end, "rule", "add", "pref", "2", "lookup", "local")
        ip("-n", end, "rule", "add", "pref", "1", "ipproto", "tcp", "blackhole")
        ip("-n", end, "rule", "delete", "pref", "0")  # what is for this end itself was looked up here, before all else

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


@contextlib.contextmanager
def laid() -> Iterator[Network]:
    """A network for the length of a `with`; the test is skipped, or fails, where there can be none."""
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
