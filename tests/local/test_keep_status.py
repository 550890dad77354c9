"""What keepers tell of themselves, by a file each."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from usbferry.local import status_file
from usbferry.local.keep_status import SCHEMA, read, resume, resumes, status_of

DEVICE = {"name": "1-1", "address": "usbip://lab/1-1", "port": 3}
SAID: dict[str, Any] = {"places": [{"address": "usbip://lab", "devices": [DEVICE]}]}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_file, "WRITE_SECONDS", 0)


async def test_a_keeper_is_known_until_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "keepers"
    file = status_of(lambda: SAID, folder)
    assert read(folder) == []
    for _ in range(3):
        file.write_soon()
        await asyncio.sleep(0.01)
    [found] = read(folder)
    assert (found["schema"], found["pid"], found["places"]) == (SCHEMA, os.getpid(), SAID["places"])
    assert stat.S_IMODE(folder.stat().st_mode) & 0o055 == 0o055, "anyone may look"
    assert resumes(3, folder) == ["usbferry attach usbip://lab/1-1"]
    assert resumes(2, folder) == []
    file.write_soon()
    file.close()
    await asyncio.sleep(0.01)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "command"),
    [
        ("usbip://lab/1-1", "usbferry attach usbip://lab/1-1"),
        ("usbip://lab/046d:*", "usbferry attach 'usbip://lab/046d:*'"),
        ("virtual:disk?image=a&size=1M", "kill -HUP 7"),  # another process's would be another disk
        ("ferry://lab/1-1", "kill -HUP 7"),
    ],
)
def test_what_resumes(address: str, command: str) -> None:
    assert resume(address, 7) == command


async def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    file = status_of(lambda: SAID, tmp_path / "file" / "keepers")
    file.write_soon()
    await asyncio.sleep(0.01)
    file.close()


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", json.dumps({"schema": SCHEMA, "pid": "x", "started": None})])
def test_a_file_of_somebody_else_is_left_alone(text: str, tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text(text)
    assert read(tmp_path) == []
    assert (tmp_path / "1.json").exists()


def test_one_that_was_killed_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "9.json").write_text(json.dumps({"schema": SCHEMA, "pid": 1 << 40, "started": "1", **SAID}))
    assert read(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
