"""Files by which processes know of each other; what is in them is told by the tests of who writes it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from usbferry.local import status_file
from usbferry.local.status_file import StatusFile, header, load, read, replace

SCHEMA = "usbferry.test/1"


async def test_what_is_said_is_read_as_it_was_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_file, "WRITE_SECONDS", 0.0)
    said = {"count": 0}
    file = StatusFile(tmp_path / "made", SCHEMA, lambda: said)
    file.write()
    assert read(tmp_path / "made", SCHEMA) == [{**header(SCHEMA), "count": 0}]
    said["count"] = 7
    file.write_soon()
    await asyncio.sleep(0.01)
    assert [one["count"] for one in read(tmp_path / "made", SCHEMA)] == [7]
    file.close()
    file.close()
    assert os.listdir(tmp_path / "made") == []


async def test_a_folder_that_is_not_good_is_not_written_to(tmp_path: Path) -> None:
    file = StatusFile(tmp_path, SCHEMA, dict, is_good=lambda folder: False)
    file.write()
    assert os.listdir(tmp_path) == []


def test_a_file_is_whole_whenever_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "1.json"
    path.write_text("what was")
    with path.open() as reading:
        replace(path, "what is, and longer")
        assert reading.read() == "what was"
    assert path.read_text() == "what is, and longer"
    assert list(tmp_path.iterdir()) == [path]


def test_they_come_by_number_and_others_schemas_are_none_of_these(tmp_path: Path) -> None:
    mine = header(SCHEMA)
    parent = {**mine, "pid": os.getppid(), "started": None}
    for name, said in (("a", mine), ("b", parent), ("c", {**mine, "schema": "usbferry.test/2"})):
        (tmp_path / f"{name}.json").write_text(json.dumps(said))
    assert read(tmp_path, SCHEMA) == sorted([mine, parent], key=lambda one: one["pid"])
    assert load(tmp_path / "c.json", SCHEMA) is None
    assert load(tmp_path / "d.json", SCHEMA) is None
    assert len(list(tmp_path.iterdir())) == 3
