"""`usbferry list --follow`: one line for each change, soon after it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from click.testing import CliRunner

from tests.backends.test_lasting import ME, SECONDS, ferried, until
from tests.backends.test_remote import free_port
from usbferry.cli import main
from usbferry.cli.follow import _begin, _print, follow
from usbferry.device import Change, DeviceError, Watching
from usbferry.registry import load_exporter, open_source
from usbferry.server.catalog import Catalog
from usbferry.server.listen import serving

SOON = 0.1  # seconds from a change to its line, on a machine that has nothing else to do


@asynccontextmanager
async def following(*words: str) -> AsyncIterator[asyncio.StreamReader]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "usbferry", "list", "--follow", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        yield process.stdout
        process.terminate()
        assert await process.wait() == 0, await process.stderr.read()
        assert await process.stderr.read() == b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def line(reader: asyncio.StreamReader) -> str:
    async with asyncio.timeout(SECONDS):
        return (await reader.readline()).decode()


async def test_what_comes_goes_and_changes_hands_is_a_line_each() -> None:
    async with ferried() as (server, proxy), following(proxy.where) as said:
        assert (await line(said)).split()[:5] == ["=", f"{proxy.where}/1-1", "0525:a4a0", "usbferry", "Gadget"]
        source = open_source(proxy.where)
        device = await source.open("1-1", ME)
        assert "  claimed by 127.0.0.1" in await line(said)
        await device.close()
        assert (await line(said)).endswith("  released\n")
        await server.offer(open_source("virtual:keyboard"))
        assert (await line(said)).split()[:2] == ["+", f"{proxy.where}/1-2"]
        server.catalog.list()[1].source.device.vanish("unplugged")  # type: ignore[attr-defined]
        assert (await line(said)).split()[:2] == ["-", f"{proxy.where}/1-2"]
        await source.close()


async def test_who_has_a_device_when_it_begins() -> None:
    async with ferried() as (_, proxy):
        source = open_source(proxy.where)
        device = await source.open("1-1", ME)
        async with following(proxy.where) as said:
            assert "  here, used by 127.0.0.1" in await line(said)
            await device.close()
            assert (await line(said)).endswith("  released\n")
        await source.close()


async def test_as_json_and_soon() -> None:
    """The best of some changes of each kind: other work on the machine makes one or the other late."""
    async with ferried() as (server, proxy), following("--json", proxy.where) as said:
        first = json.loads(await line(said))
        assert (first["schema"], first["what"], first["device"]["holder"]) == ("usbferry.change/1", "here", None)
        source = open_source(proxy.where)
        loop, delays = asyncio.get_running_loop(), dict[str, float]()

        async def told(what: str, since: float) -> dict[str, Any]:
            change: dict[str, Any] = json.loads(await line(said))
            assert change["what"] == what
            delays[what] = min(delays.get(what, 9.0), loop.time() - since)
            return change

        for _ in range(5):
            device = await source.open("1-1", ME)
            change = await told("claimed", loop.time())
            assert change["device"]["holder"].startswith("127.0.0.1")
            await device.close()
            await told("released", loop.time())
            [offer] = await server.offer(open_source("virtual:keyboard"))
            await told("arrived", loop.time())
            offer.source.device.vanish("unplugged")  # type: ignore[attr-defined]
            change = await told("left", loop.time())
            assert change["device"]["interfaces"][0]["name"] == "keyboard"
        await source.close()
    assert max(delays.values()) < SOON, delays


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [False, True])
async def test_a_server_that_is_gone_and_back_is_said_once_each(as_json: bool) -> None:
    async with ferried() as (_, proxy):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "usbferry", "list", "--follow", *["--json"] * as_json, proxy.where),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        told = process.stdout if as_json else process.stderr
        try:
            assert proxy.where in await line(process.stdout)
            proxy.refuses = True
            proxy.cut()
            lost = await line(told)
            proxy.refuses = False
            back = await line(told)
            process.terminate()
            assert await process.wait() == 0
            assert (await process.stderr.read(), await process.stdout.read()) == (b"", b"")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if as_json:
        assert [json.loads(one)["what"] for one in (lost, back)] == ["lost", "back"]
        assert {json.loads(one)["address"] for one in (lost, back)} == {proxy.where}
    else:
        assert lost == f"no connection to {proxy.where}; trying again\n"
        assert back == f"{proxy.where} answers again\n"


async def test_a_server_that_never_was_there_is_said_once() -> None:
    """It was tried again, by one line, and given up by the next."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "usbferry", "list", "--follow", f"ferry://127.0.0.1:{free_port()}"),
        stderr=subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    [line] = said.decode().splitlines()
    assert line.startswith("usbferry list: no connection to 127.0.0.1:")


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["list", "--follow", *words])
    return done.exit_code, done.output


async def test_a_source_that_tells_no_more_and_one_that_never_did(capsys: pytest.CaptureFixture[str]) -> None:
    source = open_source("virtual:zero")
    changes = Watching()
    changes.tell(None)
    with pytest.raises(DeviceError, match=r"^virtual:zero tells of no changes; usbferry list virtual:zero says"):
        await _print(source, changes, {}, False)
    [info] = await source.list()
    changes = Watching()
    for change in (Change(info.name, info), None):
        changes.tell(change)
    with pytest.raises(DeviceError, match=r"^virtual:zero tells of no more changes; "):
        await _print(source, changes, {}, False)
    assert "arrived" in capsys.readouterr().out
    await source.close()


@pytest.mark.parametrize("as_json", [False, True])
async def test_what_is_not_there_yet_is_said(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    async with ferried() as (server, proxy):
        named, whole = open_source(f"{proxy.where}/9-9"), open_source(proxy.where)
        assert (await _begin(named, as_json))[2] == {}
        server.catalog.list()[0].source.device.vanish("unplugged")  # type: ignore[attr-defined]
        await until(lambda: not server.catalog.list())
        assert (await _begin(whole, as_json))[2] == {}
        await named.close()
        await whole.close()
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines == [] if as_json else "lists no device '9-9'; it has: 1-1" in lines[0]
    assert lines[1:] == ([] if as_json else [f"not there yet: there is no device at {proxy.where}"])


async def test_who_tells_of_no_changes_is_refused_before_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    """What is there was printed first, and of what is not that it may come."""
    async with serving(Catalog()) as server, asyncio.timeout(SECONDS):
        await server.offer(open_source("virtual:zero"))
        [(host, port)] = await server.listen("127.0.0.1", 0, load_exporter("usbip"))
        for name in ("", "/1-1", "/9-9"):
            where = f"usbip://{host}:{port}{name}"
            with pytest.raises(DeviceError) as raised:
                await follow((where,), False)
            assert str(raised.value) == f"{where} tells of no changes; usbferry list {where} says what is there"
    assert capsys.readouterr() == ("", "")


def test_what_cannot_be_followed() -> None:
    assert run() == (2, "usbferry list: --follow needs an ADDRESS, such as ferry://HOST\n")
    code, text = run("ferry://127.0.0.1:1")
    assert (code, text.startswith("usbferry list: ")) == (2, True)
