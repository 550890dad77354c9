"""Who listens for devices is told who else can reach that, whichever verb listens."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from click.testing import CliRunner

from usbferry.backends import redir
from usbferry.cli import main

OPEN = "note: usbredir has no passwords; whoever reaches this port can bring any device\n"


@pytest.mark.parametrize("verb", ["attach", "info", "list"])
def test_who_else_can_reach_it_is_said_before_anybody_is_waited_for(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redir, "VISIT_SECONDS", 0.01)
    said = CliRunner().invoke(main, [verb, "usbredir://:0"]).stderr
    waiting, rest = said.split("\n", 1)
    assert waiting.startswith("waiting at usbredir://")
    assert ":0 " not in waiting, "the port is not the one that it is listened at"
    assert rest.startswith(OPEN)


def test_what_only_this_machine_reaches_needs_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redir, "VISIT_SECONDS", 0.01)
    said = CliRunner().invoke(main, ["list", "usbredir://127.0.0.1:0?listen"]).stderr
    assert said.startswith("waiting at usbredir://127.0.0.1:")
    assert "passwords" not in said


def test_a_place_that_cannot_be_had_is_one_error() -> None:
    said = CliRunner().invoke(main, ["info", "usbredir://192.0.2.1:4000?listen"]).output
    assert said.startswith("usbferry info: cannot listen on 192.0.2.1:4000: ")
    assert said.count("\n") == 1


def test_so_is_who_runs_a_program() -> None:
    words = [sys.executable, "-m", "usbferry", "run", "--device", "usbredir://:4000", "--", sys.executable, "-c", ""]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    assert ended.stderr.endswith(OPEN)


async def test_so_is_who_follows() -> None:
    words = [sys.executable, "-m", "usbferry", "list", "--follow", "usbredir://:0"]
    process = await asyncio.create_subprocess_exec(*words, stderr=subprocess.PIPE)
    assert process.stderr is not None
    async with asyncio.timeout(30):
        await process.stderr.readline()
        assert (await process.stderr.readline()).decode() == OPEN
    process.terminate()
    assert await process.wait() == 0
