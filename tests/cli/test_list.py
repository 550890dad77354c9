"""`usbferry list`: what a person reads, what a program reads, and what is shown when a place cannot be listed."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.cli.served import served
from usbferry.backends.libusb import sysfs
from usbferry.cli import list as module
from usbferry.cli.list import SCHEMA, _lines, command
from usbferry.device import Claimant
from usbferry.registry import DEVICES, open_source

DEVICE_KEYS = [
    "address",
    "name",
    "vendor_id",
    "product_id",
    "manufacturer",
    "product",
    "serial",
    "speed",
    "class",
    "interfaces",
    "path",
    "drivers",
    "holder",
]


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def as_json(*arguments: str, status: int = 0) -> Any:
    result = run("--json", *arguments)
    assert result.exit_code == status, result.output
    report = json.loads(result.output)
    assert report["schema"] == SCHEMA == "usbferry.list/1"
    return report


def check(report: Any) -> None:
    """The keys that programs count on, in every place and device."""
    assert list(report) in (["schema", "places"], ["schema", "places", "available"])
    for place in report["places"]:
        assert list(place) == ["address", "pid", "error", "devices"]
        for device in place["devices"]:
            assert [key for key in device if key != "source"] == DEVICE_KEYS
            for interface in device["interfaces"]:
                assert list(interface) == ["class", "subclass", "protocol", "name"]
            if device["holder"] is not None:
                assert list(device["holder"]) == ["address", "identity", "protocol", "since"]
    for one in report.get("available", []):
        assert list(one) == ["name", "address", "about", "options"]
        assert all({"type", "default"} <= set(option) for option in one["options"].values())


# --- this machine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sees_all", "nothing"), [(True, "Nothing"), (False, "Nothing of yours")])
def test_nothing_is_shared(sees_all: bool, nothing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.state, "sees_all", lambda: sees_all)
    monkeypatch.setattr(module.state, "_of_others", lambda folder: [])
    result = run()
    assert result.exit_code == 0
    assert f"{nothing} is shared here. Try:\n  usbferry serve virtual:zero\n" in result.output
    assert f"\n  {', '.join(DEVICES)}\n  usbferry list virtual: says what each is" in result.output
    report = as_json()
    check(report)
    assert report["places"] == []
    assert [one["name"] for one in report["available"]] == list(DEVICES)


def test_the_virtual_devices_alone_in_full() -> None:
    result = run("virtual:")
    assert result.exit_code == 0
    for name in DEVICES:
        assert f"  virtual:{name}" in result.output
    assert "\n  virtual:zero                 Gadget Zero: " in result.output
    assert "options: speed, pattern, serial, fault\n" in result.output
    assert "shared" not in result.output
    report = as_json("virtual:")
    check(report)
    assert (report["places"], report["available"]) == ([], as_json()["available"])


def test_the_virtual_devices_and_another_place() -> None:
    report = as_json("virtual:zero", "virtual:")
    assert [place["address"] for place in report["places"]] == ["virtual:zero"]
    assert len(report["available"]) == len(DEVICES)


def test_what_can_be_served_says_its_options() -> None:
    [zero] = [one for one in as_json()["available"] if one["name"] == "zero"]
    assert zero["address"] == "virtual:zero"
    assert zero["about"].startswith("Gadget Zero")
    assert zero["options"]["pattern"] == {"type": "int", "default": 0}
    assert zero["options"]["speed"]["default"] == "high"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
async def test_two_servers_and_who_uses_their_devices(runtime: Path) -> None:
    with served("virtual:zero", runtime=runtime) as one, served("virtual:zero", "virtual:zero", runtime=runtime) as two:
        device = await open_source(two.address).open("1-2", Claimant("local"))
        try:
            for _ in range(100):  # the server writes what changed a moment later
                report = await asyncio.to_thread(as_json)
                holders = [d["holder"] for place in report["places"] for d in place["devices"]]
                if any(holders):
                    break
                await asyncio.sleep(0.02)
            check(report)
            places = {place["pid"]: place for place in report["places"]}
            assert sorted(places) == [place["pid"] for place in report["places"]]
            [alone] = places[one.process.pid]["devices"]
            free, held = places[two.process.pid]["devices"]
            assert places[one.process.pid]["address"] == one.listening[0]
            assert (alone["address"], held["address"]) == (f"{one.address}/1-1", f"{two.address}/1-2")
            assert (alone["holder"], free["holder"]) == (None, None)
            assert held["holder"]["address"].startswith("127.0.0.1:")
            assert held["holder"]["protocol"] == "usbip"
            text = (await asyncio.to_thread(run)).output
            assert f"{one.listening[0]}, process {one.process.pid}\n" in text
            assert f"{held['holder']['address']} since 20" in text
        finally:
            await device.close()
        one.process.kill()
        await asyncio.to_thread(one.process.wait)
        report = await asyncio.to_thread(as_json)
        assert [place["pid"] for place in report["places"]] == [two.process.pid]
        assert not (runtime / "usbferry" / f"{one.process.pid}.json").exists()


@pytest.mark.parametrize(
    ("listening", "address"),
    [
        (["127.0.0.1:3240"], "usbip://127.0.0.1/1-1"),
        (["127.0.0.1:4000", "[::1]:4000"], "usbip://127.0.0.1:4000/1-1"),
        (["0.0.0.0:3240"], "usbip://127.0.0.1/1-1"),
        (["[::]:4000"], "usbip://[::1]:4000/1-1"),
        (["192.0.2.7:4000"], "usbip://192.0.2.7:4000/1-1"),
        (["ferry://127.0.0.1:32740"], "ferry://127.0.0.1/1-1"),
        (["ferry://[::]:4000", "127.0.0.1:3240"], "usbip://127.0.0.1/1-1"),
        (["usbredir://127.0.0.1:4000", "ferry:///run/a:b", "ferry://[::]:4000"], "ferry://[::1]:4000/1-1"),
        (["ferry:///run/a b"], "ferry:///run/a%20b?device=1-1"),
        (["ferry+seqpacket:///run/usb.sock"], "ferry+seqpacket:///run/usb.sock?device=1-1"),
        (["usbredir:///run/vm.sock?device=1-1"], "usbredir:///run/vm.sock"),
        (["usbredir://0.0.0.0:4000/1-1"], "usbredir://127.0.0.1"),
        (["usbredir://127.0.0.1:4001/1-2", "usbredir://127.0.0.1:4002/1-1"], "usbredir://127.0.0.1:4002"),
        (["usbredir:///run/vm.sock", "usbredir://127.0.0.1:4000"], None),
        ([], None),
    ],
)
def test_the_address_by_which_a_shared_device_is_reached(listening: list[str], address: str | None) -> None:
    assert module._reachable(listening, "1-1") == address


def test_where_no_device_is_named_it_is_the_only_one() -> None:
    """Its address was left out."""
    assert module._reachable(["usbredir:///run/a b"], "1-1", True) == "usbredir:///run/a%20b"
    assert module._reachable(["usbredir://127.0.0.1:4001/1-2"], "1-1", True) is None


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("scheme", ["ferry", "usbredir"])
def test_a_server_without_usbip(runtime: Path, scheme: str) -> None:
    with served("virtual:zero", "--on", f"{scheme}://127.0.0.1:0", runtime=runtime, listen=None) as server:
        [where] = server.listening
        text = run().output
        assert f"{where}, process {server.process.pid}\n" in text
        address = f"{where}/1-1" if scheme == "ferry" else where
        assert f"  {address}  0525:a4a0 " in text
        [device] = as_json()["places"][0]["devices"]
        assert device["address"] == address


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_several_devices_by_usbredir_alone(runtime: Path) -> None:
    places = [f"usbredir://127.0.0.1:0/1-{number}" for number in (2, 1)]
    with served("virtual:zero", "virtual:mouse", "--on", places[0], "--on", places[1], listen=None, runtime=runtime):
        report = as_json()["places"][0]
    ports = dict(reversed(where.rsplit("/", 1)) for where in report["address"].split())
    assert [*ports] == ["1-2", "1-1"]
    assert {device["name"]: device["address"] for device in report["devices"]} == ports


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
async def test_a_server_that_says_who_uses_its_devices(runtime: Path) -> None:
    with served("virtual:zero", "virtual:zero", "--on", "ferry://127.0.0.1:0", runtime=runtime, listen=None) as server:
        [where] = server.listening
        device = await open_source(where).open("1-2", Claimant("local"))
        try:
            report = await asyncio.to_thread(as_json, where)
            text = (await asyncio.to_thread(run, where)).output
        finally:
            await device.close()
    check(report)
    free, held = report["places"][0]["devices"]
    assert free["holder"] is None
    assert held["holder"]["address"].startswith("127.0.0.1:")
    assert {*held["holder"].values()} == {held["holder"]["address"], None}, "no more is known"
    heading, *lines = text.splitlines()[1:]
    assert heading.endswith("  USED BY")
    assert [one.split()[-1] for one in lines] == ["-", held["holder"]["address"]]


def test_what_is_not_plugged_in_is_not_what_nobody_shares() -> None:
    assert "is shared here" not in "\n".join(_lines({"places": [PLUGGED]}, None))
    assert "is shared here. Try:" in "\n".join(_lines({"places": [PLUGGED]}, None, is_of_here=True))


@pytest.mark.parametrize("names", [["1-0:1.0", "1-2", "1-2:1.0", "usb1"], ["1-0:1.0", "usb1"]])
def test_devices_that_cannot_be_read_are_not_left_out_without_a_word(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra for real devices, `usbferry list` was silent of them."""
    need = "devices of this machine need two more packages"

    async def unread(*_: object) -> dict[str, Any]:
        return {**PLUGGED, "error": need}

    monkeypatch.setattr(module, "_place", unread)
    monkeypatch.setattr(sysfs, "DEVICES", tmp_path)
    for name in names:
        (tmp_path / name).touch()
    result = run()
    assert result.exit_code == 0
    assert (f"USB devices of this machine\n  {need}\n" in result.output) is ("1-2" in names)


PLUGGED = {"address": "usb:", "pid": None, "error": None, "devices": []}


# --- other places -----------------------------------------------------------------------------------------------------


def test_a_virtual_device_is_listed_without_serving_it() -> None:
    report = as_json("virtual:zero?speed=super")
    check(report)
    [place] = report["places"]
    [device] = place["devices"]
    assert place["address"] == device["address"] == "virtual:zero?speed=super"
    assert (device["vendor_id"], device["product_id"], device["speed"]) == ("0525", "a4a0", "super")
    assert "available" not in report


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_another_machine(runtime: Path) -> None:
    with served("virtual:zero", "virtual:keyboard", runtime=runtime) as server:
        where = server.listening[0]
        report = as_json(where)
        check(report)
        assert [d["address"] for d in report["places"][0]["devices"]] == [
            f"usbip://{where}/1-1",
            f"usbip://{where}/1-2",
        ]
        [device] = as_json(f"{where}/1-2")["places"][0]["devices"]
        assert (device["address"], device["interfaces"][0]["name"]) == (f"usbip://{where}/1-2", "keyboard")
        [device] = as_json(f"{where}/class=hid,product=*")["places"][0]["devices"]  # read for its strings
        assert (device["address"], device["product"]) == (f"usbip://{where}/1-2", "Keyboard")
        text = run(where).output
        assert f"  usbip://{where}/1-2  1209:" in text
        assert text.splitlines()[1].split() == ["DEVICE", "ID", "SPEED", "INTERFACES"]


def test_a_place_that_fails_does_not_hide_the_others() -> None:
    result = run("127.0.0.1:1", "virtual:zero", "virtual:nothing", "carrier:pigeon", "usbip://host?really")
    assert result.exit_code == 1
    assert "  no connection to 127.0.0.1:1: Connection refused; is a server running there?\n" in result.output
    assert "Gadget Zero" in result.output
    assert "  no virtual device 'nothing'; there are: " in result.output
    assert "'carrier'; there are: " in result.output
    assert "'usbip://host?really' is no address" in result.output
    assert "Traceback" not in result.output
    report = as_json("127.0.0.1:1", "virtual:zero", status=1)
    check(report)
    failed, fine = report["places"]
    assert failed["address"] == "usbip://127.0.0.1:1"
    assert failed["error"].startswith("no connection to 127.0.0.1:1")
    assert (failed["devices"], fine["error"], len(fine["devices"])) == ([], None, 1)


def test_a_device_that_cannot_be_made_is_an_error_of_its_place(tmp_path: Path) -> None:
    for address in (f"virtual:disk?image={tmp_path}/no.img", f"virtual:disk?files={tmp_path}/no"):
        result = run(address)
        assert result.exit_code == 1
        assert str(tmp_path) in result.output
        assert "Traceback" not in result.output


def test_a_place_without_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    class Empty:
        name = ""
        notes = ()

        async def find(self) -> list[object]:
            return []

        async def close(self) -> None:
            pass

    monkeypatch.setattr(module, "open_source", lambda address: Empty())
    result = run("usbip://lab")
    assert (result.exit_code, result.output) == (0, "usbip://lab\n  no devices\n")


# --- how it looks -----------------------------------------------------------------------------------------------------


def a_device(**fields: Any) -> dict[str, Any]:
    return {
        "address": "usbip://lab/1-2",
        "vendor_id": "046d",
        "product_id": "c31c",
        "manufacturer": "Logitech",
        "product": "Keyboard",
        "speed": "low",
        "interfaces": [{"name": "keyboard"}, {"name": "HID"}],
        "holder": None,
        **fields,
    }


def shown(
    *devices: dict[str, Any], width: int | None = None, error: str | None = None, pid: int | None = 7
) -> list[str]:
    place = {"address": "usbip://lab", "pid": pid, "error": error, "devices": list(devices)}
    lines = list(_lines({"places": [place]}, width))
    assert lines[0] == "\x1b[1musbip://lab\x1b[0m" + (", process 7" if pid else "")
    return lines[1:]


HOLDER = {"address": "192.0.2.7:51234", "identity": None, "protocol": "usbip", "since": 0.0}


def test_a_table_lines_up() -> None:
    assert shown(a_device(), a_device(address="usbip://lab/1-10", manufacturer="", product="键盘")) == [
        "  DEVICE            ID         NAME               SPEED  INTERFACES     USED BY",
        "  usbip://lab/1-2   046d:c31c  Logitech Keyboard  low    keyboard, HID  -",
        "  usbip://lab/1-10  046d:c31c  键盘               low    keyboard, HID  -",
    ]


def test_what_is_not_known_is_a_dash() -> None:
    [_, row, _] = shown(a_device(manufacturer="", product="", interfaces=[]), a_device())
    assert row.split() == ["usbip://lab/1-2", "046d:c31c", "-", "low", "-", "-"]


def test_what_is_known_of_none_is_left_out() -> None:
    """USB/IP tells neither names nor users. At a server of this machine, nobody is known to use a device."""
    bare = a_device(manufacturer="", product="", interfaces=[])
    assert shown(bare, bare, pid=None)[:2] == [
        "  DEVICE           ID         SPEED",
        "  usbip://lab/1-2  046d:c31c  low",
    ]
    assert shown(bare)[0].split() == ["DEVICE", "ID", "SPEED", "USED", "BY"]
    assert shown(bare, pid=None, width=20) == ["  usbip://lab/1-2", "    046d:c31c, low speed"]


def test_a_narrow_terminal_gets_lines_and_no_table() -> None:
    assert shown(a_device(holder=HOLDER), width=60)[:3] == [
        "  usbip://lab/1-2",
        "    046d:c31c Logitech Keyboard, low speed, keyboard, HID",
        "    used by 192.0.2.7:51234 since " + shown(a_device(holder=HOLDER))[1].partition("since ")[2],
    ]
    assert all(len(line) <= 60 for line in shown(a_device(holder=HOLDER), width=60))


def test_a_wide_terminal_and_a_pipe_get_the_table() -> None:
    assert shown(a_device(), width=80) == shown(a_device())
    long = a_device(product="x" * 500)
    assert len(shown(long)) == 2
    assert "x" * 500 in shown(long)[1]


def test_an_identity_is_shown_rather_than_an_address() -> None:
    assert "alice since 19" in shown(a_device(holder={**HOLDER, "identity": "alice", "since": 3600 * 24.0}))[1]


def test_names_of_devices_cannot_steer_the_terminal() -> None:
    """They come from whoever made the device: escapes, line ends and markup stay text."""
    [_, row] = shown(a_device(manufacturer="\x1b[2J", product="[red]two\nlines[/]"))
    assert "\ufffd[2J [red]two\ufffdlines[/]" in row
    assert "\x1b" not in row
    [line] = shown(error="\x1b]0;title\x07")
    assert line == "  \x1b[31m\ufffd]0;title\ufffd\x1b[0m"


@pytest.mark.parametrize("width", [20, 40, 79, 80, 81, 200])
def test_every_line_fits_the_terminal(width: int) -> None:
    report = {**as_json(), "places": []}
    for line in _lines(report, width):
        text = line.replace("\x1b[1m", "").replace("\x1b[0m", "")
        assert len(text) <= max(width, 44)


def test_on_a_pipe_there_are_no_colours() -> None:
    result = run("virtual:nothing", "virtual:zero")
    assert "\x1b" not in result.output


@pytest.mark.parametrize(("on", "asked"), [("usbip", "ferry"), ("ferry", "usbip")])
def test_a_port_of_another_protocol_is_asked_by_it(on: str, asked: str, tmp_path: Path) -> None:
    with served("virtual:zero", "--on", f"{on}://127.0.0.1:0", listen=None, runtime=tmp_path) as server:
        place = server.listening[0].removeprefix(f"{on}://")
        result = run(f"{asked}://{place}")
    assert result.output.endswith(f"write {on}://{place}, which answers\n"), result.output
