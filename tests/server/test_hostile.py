"""Ten thousand connections that make no sense, and clients that take without giving: the server stays as it is."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import statistics
import struct
import sys
import time
from itertools import pairwise

import pytest

from fuzz import engine
from fuzz import exporter as harness
from tests.protocols.usbip import wire
from tests.server import flooding
from tests.server.client import IN, OUT, connected, importing
from tests.server.process import ROOT, Process

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
CONNECTIONS, AT_A_TIME = 10_000, 50
MIB = 1 << 20
KEPT = 32 * MIB  # of what large payloads had


def rubbish(rng: random.Random, pool: list[bytes]) -> bytes:
    """What one of them sends: noise, a broken operation, or an import and then a broken conversation."""
    match rng.randrange(6):
        case 0:
            return rng.randbytes(rng.randrange(200))
        case 1:
            return wire.op(rng.choice((0x8003, 0x8005, 0x8002, 0xFFFF)), rng.randbytes(32), rng.randrange(2))
        case 2:
            return wire.op(0x8005)[: rng.randrange(9)]
        case 3:
            return wire.op_import(rng.choice((b"1-1", b"1-3", b"\xff" * 32)))
    devid = (1 << 16 | 3).to_bytes(4, "big")  # that of 1-2
    body = engine.mutate(rng, pool)[4:].replace(wire.DEVID.to_bytes(4, "big"), devid)
    return wire.op_import(b"1-2") + body


async def knock(port: int, seed: int, pool: list[bytes]) -> None:
    """One connection; how it ends varies too."""
    rng = random.Random(seed)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(rubbish(rng, pool))
        match rng.randrange(3):
            case 0:
                linger = struct.pack("ii", 1, 0)  # a reset instead of an end
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            case 1:
                writer.write_eof()
                await reader.read()
    except OSError:
        pass  # it is gone already
    finally:
        writer.transport.abort() if rng.random() < 0.5 else writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def steady(port: int, stop: asyncio.Event) -> list[float]:
    """An importer at work beside it all: the seconds of each of its round trips."""
    took = []
    async with importing(port, "1-1") as client:
        for seqnum in range(1, 1 << 31):
            before = time.perf_counter()
            reply = await client.ask(seqnum, IN, 1, 512)
            took.append(time.perf_counter() - before)
            assert (reply.seqnum, reply.status, reply.data) == (seqnum, 0, bytes(512))
            if stop.is_set():
                return took
            await asyncio.sleep(0.001)
    raise AssertionError


def assert_flat(memory: list[int]) -> None:
    """That nothing leaks: what is left of each connection adds up little by little. What a large payload had comes
    at once, and is kept for those to come (`_keep_what_is_freed` of cli.serve).
    """
    steps = [after - before for before, after in pairwise(memory)]
    assert sum(step for step in steps if abs(step) < MIB) < 8 * MIB, memory
    assert max(memory) < memory[0] + KEPT + 8 * MIB, memory


@pytest.mark.alone
async def test_ten_thousand_random_connections() -> None:
    """Memory stays flat, the server alive, and another importer undisturbed throughout."""
    pool = [data for _, data in engine.corpus("exporter")] + harness.seeds()
    with Process("virtual:zero", "virtual:zero", "virtual:zero") as server:
        stop, memory = asyncio.Event(), []
        async with asyncio.TaskGroup() as group:
            beside = group.create_task(steady(server.port, stop))
            files = server.files()
            for start in range(0, CONNECTIONS, AT_A_TIME):
                async with asyncio.TaskGroup() as knocking:
                    for seed in range(start, start + AT_A_TIME):
                        knocking.create_task(knock(server.port, seed, pool))
                memory.append(server.memory())
            stop.set()
        took = beside.result()
        assert_flat(memory[len(memory) // 5 :])
        assert len(took) > 100
        assert statistics.median(took) < 0.1
        assert server.process.poll() is None
        assert not server.trouble()
        async with importing(server.port, "1-2") as client, connected(server.port) as other:
            assert (await client.ask(1, OUT, 1, payload=b"as ever")).actual == 7
            assert await other.list() == ["1-1", "1-2", "1-3"]
        assert server.files() <= files + 2, "and no connection is left"


@pytest.mark.alone
async def test_clients_that_ask_and_do_not_read() -> None:
    """Of each kind one: what they asked for is not made before they take it, and the others go on."""
    with Process(*["virtual:zero"] * (1 + len(flooding.FLOODS))) as server:
        stop, before = asyncio.Event(), server.memory()
        command = [sys.executable, "-m", "tests.server.flooding", str(server.port)]
        pipe = asyncio.subprocess.PIPE
        flood = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe)
        try:
            async with asyncio.TaskGroup() as group:
                beside = group.create_task(steady(server.port, stop))
                assert await flood.stdout.readline() == b"stuck\n"
                stop.set()
            took = beside.result()
            assert server.memory() < before + 32 * MIB
            async with importing(server.port, "1-1") as client:
                assert (await client.ask(1, OUT, 1, payload=b"as ever")).actual == 7
        finally:
            flood.kill()
            await flood.communicate()
        assert not server.trouble()
        assert len(took) > 20
        assert statistics.median(took) < 0.2, statistics.quantiles(took)
