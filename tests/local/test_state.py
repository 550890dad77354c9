"""What servers publish about themselves: written, kept in step, removed, and read whatever lies there."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from usbferry.backends.virtual import VirtualSource
from usbferry.device import Claimant
from usbferry.local import state, status_file
from usbferry.server.catalog import Catalog
from usbferry.transports.place import Place

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the files of dead processes stay on Windows")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory of the test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "usbferry"


async def catalog() -> Catalog:
    made = Catalog()
    await made.add(VirtualSource("virtual:zero"))
    return made


def written(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{os.getpid()}.json").read_text())
    return found


def plant(folder: Path, name: str, **fields: Any) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps({"schema": state.SCHEMA, "pid": os.getpid(), "listening": [], "devices": [], **fields}))
    return path


def plant_a_file(path: Path) -> None:
    path.write_text("in the way")


def linked(path: Path, target: Path) -> Path:
    target.mkdir()
    path.symlink_to(target)
    return target


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# --- where ------------------------------------------------------------------------------------------------------------


def test_the_users_runtime_directory_is_used(folder: Path) -> None:
    assert state.folder() == folder


@pytest.mark.parametrize("runtime", ["", "/nowhere/at/all"])
def test_without_one_it_is_a_folder_of_the_users_own(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert state.folder() == Path(tempfile.gettempdir()) / f"usbferry-{os.getuid()}"


def test_another_users_runtime_directory_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `su`, which keeps the environment."""
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    assert state.folder() == Path(tempfile.gettempdir()) / f"usbferry-{mine + 1}"


def test_nothing_is_read_from_a_folder_of_somebody_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plant(folder, "1.json")
    assert len(state.read()) == 1
    monkeypatch.setattr(state, "_is_ours", lambda path: path != folder)
    assert state.read() == []
    assert path.exists()


async def test_nothing_is_written_to_a_link_to_another_place(folder: Path, tmp_path: Path) -> None:
    elsewhere = linked(folder, tmp_path / "elsewhere")
    state.Publisher(await catalog(), []).close()
    assert files(elsewhere) == []


# --- writing ----------------------------------------------------------------------------------------------------------


async def test_a_server_publishes_what_it_shares(folder: Path) -> None:
    publisher = state.Publisher(await catalog(), ["127.0.0.1:3240"])
    published = written(folder)
    assert (published["schema"], published["pid"]) == ("usbferry.state/1", os.getpid())
    assert published["listening"] == ["127.0.0.1:3240"]
    [device] = published["devices"]
    assert (device["name"], device["source"], device["holder"]) == ("1-1", "virtual:zero", None)
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert state.read() == [published]
    publisher.close()
    assert files(folder) == []


async def test_who_holds_a_device_is_published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_file, "WRITE_SECONDS", 0.0)
    offered = await catalog()
    publisher = state.Publisher(offered, [])
    offer, _ = await offered.claim("1-1", Claimant("192.0.2.7:51234", "usbip", since=1.5))
    await turns()
    [device] = written(folder)["devices"]
    assert device["holder"] == {"address": "192.0.2.7:51234", "identity": None, "protocol": "usbip", "since": 1.5}
    await offered.release(offer)
    await turns()
    assert written(folder)["devices"][0]["holder"] is None
    publisher.close()
    await offered.close()


async def test_changes_that_come_together_are_written_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[str] = []
    monkeypatch.setattr(state.json, "dumps", lambda value: writes.append("written") or "{}")
    offered = await catalog()
    publisher = state.Publisher(offered, [])
    for _ in range(10):
        publisher._file.write_soon()
    assert len(writes) == 1
    publisher.close()
    await turns()
    assert len(writes) == 1


async def test_after_close_nothing_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_file, "WRITE_SECONDS", 0.0)
    offered = await catalog()
    publisher = state.Publisher(offered, [])
    publisher._file.write_soon()
    publisher.close()
    offer, _ = await offered.claim("1-1", Claimant("local"))
    await turns()
    assert files(folder) == []
    await offered.release(offer)


async def test_a_disk_that_cannot_be_written_does_not_stop_a_server(folder: Path) -> None:
    plant_a_file(folder)
    publisher = state.Publisher(await catalog(), [])
    publisher.close()
    assert state.read() == []


# --- reading ----------------------------------------------------------------------------------------------------------


def test_nobody_serves(folder: Path) -> None:
    assert not folder.exists()
    assert state.read() == []


def test_the_file_of_a_dead_process_is_removed(folder: Path) -> None:
    gone = dead_pid()
    stale, unfinished = plant(folder, f"{gone}.json", pid=gone), plant(folder, f"{gone}.new", pid=gone)
    alive = plant(folder, f"{os.getpid()}.json")
    assert [one["pid"] for one in state.read()] == [os.getpid()]
    assert not stale.exists()
    assert not unfinished.exists()
    assert alive.exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux says when a process started")
def test_another_process_that_got_a_dead_ones_number_is_not_taken_for_it(folder: Path) -> None:
    """In containers, numbers come again soon."""
    stale = plant(folder, f"{os.getpid()}.json", started="1")
    assert state.read() == []
    assert not stale.exists()


def test_servers_come_in_the_order_of_their_numbers(folder: Path) -> None:
    parent = os.getppid()
    plant(folder, "b.json", pid=os.getpid())
    plant(folder, "a.json", pid=parent)
    plant(folder, "c.json", pid=1)
    assert [one["pid"] for one in state.read()] == sorted([1, parent, os.getpid()])


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "7", '"text"', "{}", '{"schema": "usbferry.state/2", "pid": 1}',
     '{"schema": "usbferry.state/1"}', '{"schema": "usbferry.state/1", "pid": "1"}', "\udcff"],
)  # fmt: skip
def test_files_that_are_something_else_are_left_alone(folder: Path, text: str) -> None:
    folder.mkdir()
    path = folder / "1.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert state.read() == []
    assert path.exists()


def test_a_number_that_no_process_can_have(folder: Path) -> None:
    path = plant(folder, "1.json", pid=1 << 80)
    assert state.read() == []
    assert not path.exists()


def test_a_process_of_somebody_else_is_alive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(pid: int, number: int) -> None:
        raise PermissionError

    plant(folder, "1.json", pid=1)
    monkeypatch.setattr(os, "kill", kill)
    assert len(state.read()) == 1


# --- one device as JSON -----------------------------------------------------------------------------------------------


async def test_a_device_has_the_same_keys_in_every_list() -> None:
    [offer] = (await catalog()).list()
    described = state.describe(offer.current())
    assert described == {
        "name": "1-1",
        "vendor_id": "0525",
        "product_id": "a4a0",
        "manufacturer": "usbferry",
        "product": "Gadget Zero",
        "serial": "0123456789.0123456789.0123456789",
        "speed": "high",
        "class": "ff",
        "interfaces": [{"class": "ff", "subclass": "00", "protocol": "00", "name": "vendor specific"}],
        "path": "/usbferry/1-1",
        "drivers": [],
        "holder": None,
    }


# --- other users ------------------------------------------------------------------------------------------------------


@pytest.fixture
def others(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of another user, as root sees it, with one server in it."""
    mine = os.getuid()
    publisher = state.Publisher(asyncio.run(catalog()), ["127.0.0.1:3240"])
    (tmp_path / "run" / "1").mkdir(parents=True)
    theirs = folder.rename(tmp_path / "run" / "1" / "usbferry")
    publisher.close()
    monkeypatch.setattr(state, "_RUNTIMES", tmp_path / "run")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "none"))
    monkeypatch.setattr(state, "sees_all", lambda: True)
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    return theirs


def test_root_reads_what_other_users_share(others: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [found] = state.read()
    assert (found["pid"], found["listening"]) == (os.getpid(), ["127.0.0.1:3240"])
    monkeypatch.setattr(state, "sees_all", lambda: False)
    assert state.read() == []


def test_root_follows_no_link_of_another_user(others: Path, tmp_path: Path) -> None:
    [path] = others.iterdir()
    path.rename(tmp_path / "secret")
    path.symlink_to(tmp_path / "secret")
    os.mkfifo(others / "2.json")
    assert state.read() == []
    path.unlink()
    (tmp_path / "secret").rename(path)
    others.rename(tmp_path / "elsewhere")
    others.symlink_to(tmp_path / "elsewhere")
    assert state.read() == []


@pytest.mark.parametrize(
    "change",
    [
        {"pid": 1 << 70},
        {"pid": -1},
        {"pid": True},
        {"started": "1"},
        {"listening": [3]},
        {"listening": None},
        {"devices": [None]},
        {"devices": [{"name": "1-1"}]},
    ],
)
def test_what_another_user_s_file_lacks_is_not_shown_to_root(others: Path, change: dict[str, Any]) -> None:
    [path] = others.iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert state.read() == []
    assert path.exists()


def test_a_file_of_another_user_that_is_no_state(others: Path) -> None:
    [path] = others.iterdir()
    for text in ("", "[" * 100_000, "3", "\xff"):
        path.write_bytes(text.encode("latin-1"))
        assert state.read() == []


@pytest.mark.parametrize(
    ("place", "listening", "is_in_the_way"),
    [
        (Place("127.0.0.1", 3240), "127.0.0.1:3240", True),
        (Place("", 3240), "127.0.0.1:3240", True),
        (Place("127.0.0.1", 3240), "0.0.0.0:3240", True),
        (Place("127.0.0.1", 3240), "[::]:3240", False),  # asyncio's sockets of IPv6 are of that alone
        (Place("::", 3240), "[::1]:3240", True),
        (Place("localhost", 3240), "[::]:3240", True),
        (Place("", 3240), "localhost:3240", True),
        (Place("::1", 3240), "[::1]:3240", True),
        (Place("127.0.0.2", 3240), "127.0.0.1:3240", False),
        (Place("localhost", 3240), "127.0.0.1:3240", True),
        (Place("localhost", 4000), "usbredir://[::1]:4000", True),
        (Place("127.0.0.1", 3240), "localhost:3240", True),
        (Place("127.0.0.1", 3240), "[::1]:3240", False),
        (Place("localhost", 3240), "192.0.2.1:3240", False),
        (Place("127.0.0.1", 3240), "127.0.0.1:3241", False),
        (Place("127.0.0.1", 4000), "usbredir://127.0.0.1:4000/1-2", True),
        (Place("127.0.0.1", 32740), "ferry+udp://127.0.0.1:32740", False),
        (Place("127.0.0.1", 32740, other="udp"), "ferry+udp://0.0.0.0:32740", True),
        (Place("", 0, "/run/ferry"), "ferry+seqpacket:///run/ferry", True),
        (Place("", 0, "/run/ferry"), "usbredir:///run/other?device=1-2", False),
        (Place("127.0.0.1", 3240), "", False),
    ],
)
def test_which_server_is_in_the_way(folder: Path, place: Place, listening: str, is_in_the_way: bool) -> None:
    plant(folder, f"{os.getpid()}.json", listening=[listening])
    assert (state.listener(place) == os.getpid()) is is_in_the_way
