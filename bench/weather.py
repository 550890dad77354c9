"""A network with weather: two namespaces, and between them packets that are late or lost, by a seed.

    namespace of the server --- tun --- this process --- tun --- namespace of the client

What TCP makes of it is this kernel's. Packets keep their order, as they do in the queue of a busy access point.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

SERVER, CLIENT = "10.198.0.1", "10.198.0.2"
_TUNSETIFF: Final = 0x400454CA  # include/uapi/linux/if_tun.h
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


class Weather(NamedTuple):
    """Of one direction."""

    delay: float = 0.0  # seconds that each packet takes
    jitter: float = 0.0  # seconds more at most, by chance, evenly spread
    loss: float = 0.0  # the part of packets that do not come

    def __str__(self) -> str:
        parts = [f"{self.delay * 1e3:g} ms"] if self.delay else []
        parts += [f"0 to {self.jitter * 1e3:g} ms by chance"] if self.jitter else []
        parts += [f"{self.loss:.0%} lost"] if self.loss else []
        return ", ".join(parts) or "clear"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=10)


class Network:
    """Made by `network`: names of the two namespaces, and the packets between them while `carry` runs."""

    def __init__(self, server: str, client: str, ends: tuple[int, int]) -> None:
        self.server, self.client = server, client
        self.carried = self.lost = 0
        self._ends = ends
        self._last = dict.fromkeys(ends, 0.0)  # when the packet before goes on

    @contextmanager
    def carry(self, weather: Weather, seed: int) -> Iterator[None]:
        """In the running event loop, for the length of a `with`."""
        loop, chance = asyncio.get_running_loop(), random.Random(seed)
        self.carried = self.lost = 0

        def read(here: int, there: int) -> None:
            with suppress(BlockingIOError):
                while True:
                    self._pass(loop, os.read(here, 65536), there, weather, chance)

        here, there = self._ends
        loop.add_reader(here, read, here, there)
        loop.add_reader(there, read, there, here)
        try:
            yield
        finally:
            for end in self._ends:
                loop.remove_reader(end)

    def _pass(
        self, loop: asyncio.AbstractEventLoop, packet: bytes, end: int, weather: Weather, chance: random.Random
    ) -> None:
        self.carried += 1
        if chance.random() < weather.loss:
            self.lost += 1
            return
        due = loop.time() + weather.delay + weather.jitter * chance.random()
        self._last[end] = due = max(due, self._last[end])
        loop.call_at(due, _write, end, packet)


def _write(end: int, packet: bytes) -> None:
    with suppress(OSError):  # the interface is down: the end of the network
        os.write(end, packet)


def _tun(name: str, namespace: str, address: str) -> int:
    """An interface in a namespace; what is sent there is read from the file."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    _ip("link", "set", name, "netns", namespace)
    _ip("-n", namespace, "address", "add", f"{address}/24", "dev", name)
    _ip("-n", namespace, "link", "set", name, "up")
    return end


@contextmanager
def network(number: int = 0) -> Iterator[Network]:
    """A network, which takes root. `number` tells those of one process apart. Raises OSError or SubprocessError."""
    names = [f"ferry-{os.getpid()}-{number}{end}" for end in "sc"]
    ends: list[int] = []
    try:
        for name, address in zip(names, (SERVER, CLIENT), strict=True):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            ends.append(_tun(f"f{os.getpid() % 1000000}x{number}{name[-1]}", name, address))
        yield Network(names[0], names[1], (ends[0], ends[1]))
    finally:
        for end in ends:
            os.close(end)
        for name in names:
            with suppress(subprocess.SubprocessError):
                _ip("netns", "delete", name)
