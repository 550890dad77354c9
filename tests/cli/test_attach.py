"""`usbferry attach`, `detach` and `ports`, with a kernel made of files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.cli.served import served
from tests.local.kernel import Kernel
from usbferry.cli import main, ports
from usbferry.local import vhci
from usbferry.local.ports import attached
from usbferry.local.vhci import FREE, USED, Record

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has vhci_hcd")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel(tmp_path)
    monkeypatch.setattr(vhci, "_write", made.write)
    for module in ("usbferry.local.attach", "usbferry.cli.detach", "usbferry.cli.ports"):
        monkeypatch.setattr(f"{module}.Vhci", lambda: made.vhci)
    return made


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def when_attached(kernel: Kernel, then: Callable[[], object]) -> threading.Thread:
    """Do something once the first port is in use, while the command runs."""

    def wait() -> None:
        deadline = time.monotonic() + 10
        while not attached(kernel.vhci) and time.monotonic() < deadline:
            time.sleep(0.01)
        then()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_relay_stays_until_it_is_told_to_end(kernel, number):
    waiting = when_attached(kernel, lambda: os.kill(os.getpid(), number))
    result = run("attach", "virtual:zero")
    waiting.join()
    assert result.exit_code == 0, result.output
    assert result.stdout == "port 0: virtual:zero is 1-1 here, 0525:a4a0 usbferry Gadget Zero\n"
    assert result.stderr == "it goes through this process; Ctrl-C detaches it\nport 0 is free\n"
    assert kernel.ports[0].state == FREE


def test_a_server_s_device_is_left_to_the_kernel(kernel, tmp_path):
    with served("virtual:zero", runtime=tmp_path) as server:
        result = run("attach", f"{server.address}/0525:a4a0")
        assert result.exit_code == 0, result.output
        assert result.output == f"port 0: {server.address}/0525:a4a0 is 1-1 here, 0525:a4a0 Hand Made\n"
        assert kernel.ports[0].state == USED
        kernel.ports[0].connection.close()


def test_a_relay_that_loses_its_server_says_so_with_status_1(kernel, tmp_path):
    with served("virtual:zero", runtime=tmp_path) as server:
        waiting = when_attached(kernel, server.process.kill)
        result = run("attach", "--relay", f"{server.address}/1-1")
        waiting.join()
        server.process.wait(10)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"usbferry attach: {server.address}/1-1 is lost: the connection was closed"
    assert kernel.ports[0].state == FREE


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("attach", "nowhere:1"), "no connection to nowhere:1"),
        (("attach", "virtual:nothing"), "no virtual device 'nothing'"),
        (("attach", "usbip://127.0.0.1:1/1-1"), "no connection to 127.0.0.1:1"),
        (("detach",), "name a port"),
        (("detach", "99"), "there is no port 99"),
        (("detach", "1"), "nothing is attached to port 1"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(kernel, words, text):
    result = run(*words)
    assert result.exit_code == 2
    assert text in result.stderr
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("words", [("attach", "virtual:zero"), ("detach", "0"), ("ports",)])
def test_a_missing_module_is_one_line_with_its_remedy(kernel, words):
    shutil.rmtree(kernel.root / "sys")
    result = run(*words)
    assert result.exit_code == 2
    assert result.stderr.endswith("load vhci-hcd where they are, as root\n")  # there are no modules in that tree
    assert result.output.count("\n") == 1


def test_ports_shows_what_the_usbip_tool_attached(kernel):
    kernel.take(0)
    kernel.take(4, devid=0x30007, speed=5)
    kernel.vhci.write_record(4, Record("fe80::1", "3241", "3-7"))
    lines = run("ports").output.splitlines()
    assert [line.split() for line in lines[:-1]] == [
        ["PORT", "DEVICE", "ID", "NAME", "SPEED", "DRIVERS", "FROM"],
        ["0", "1-1", "1209:0001", "Hand", "Made", "high", "usbhid", "?"],
        ["4", "2-2", "1209:0001", "Hand", "Made", "super", "usbhid", "usbip://[fe80::1]:3241/3-7"],
    ]
    assert lines[-1] == "free: 5 ports up to high speed, 5 SuperSpeed ports"
    report = json.loads(run("ports", "--json").output)
    assert report["schema"] == ports.SCHEMA == "usbferry.ports/1"
    assert report["free"] == {"hs": 5, "ss": 5}
    assert report["ports"][1] == {
        "port": 4,
        "hub": "ss",
        "device": "2-2",
        "address": "usbip://[fe80::1]:3241/3-7",
        "vendor_id": "1209",
        "product_id": "0001",
        "manufacturer": "Hand",
        "product": "Made",
        "serial": "0001",
        "speed": "super",
        "drivers": ["usbhid"],
        "remote": {"bus": 3, "address": 7},
        "relay": None,
    }


def test_ports_with_nothing_attached(kernel):
    assert run("ports").output.splitlines()[0] == "nothing is attached"


def test_detach_takes_several_and_forgets_where_they_came_from(kernel):
    for number in (0, 2, 5):
        kernel.take(number)
        kernel.vhci.write_record(number, Record("host", "3240", "1-1"))
    assert run("detach", "2", "0", "2").output == "port 2 is free\nport 0 is free\n"
    assert [kernel.ports[number].state for number in (0, 2, 5)] == [FREE, FREE, USED]
    assert [kernel.vhci.read_record(number) is None for number in (0, 2, 5)] == [True, True, False]
    assert run("detach", "--all").output == "port 5 is free\n"


def test_a_port_that_stays_taken_is_not_said_to_be_free(kernel, monkeypatch):
    kernel.take(0)
    monkeypatch.setattr(kernel, "_detach", lambda number: None)
    monkeypatch.setattr("usbferry.local.vhci.FREE_SECONDS", 0.05)
    done = run("detach", "0")
    assert (done.exit_code, done.stdout) == (1, "")


def describe(kernel, number: int, serial: str, interface_class: str) -> None:
    folder = kernel.root / "sys/bus/usb/devices" / kernel.ports[number].device
    (folder / "serial").write_text(serial + "\n")
    for name, text in (("Class", interface_class), ("SubClass", "01"), ("Protocol", "02")):
        (folder / f"{folder.name}:1.0" / f"bInterface{name}").write_text(text + "\n")


@pytest.mark.parametrize(
    ("device", "freed"),
    [
        ("usbip://lab/3-1", 1),
        ("usbip://lab:3241/3-1", 2),
        ("serial=AB1", 1),
        ("1209:0001,serial=*2", 2),
        ("class=mouse", 2),
        ("3-1,class=storage", 1),
        ("port=1-1", 0),
        ("1-1", 0),
    ],
)
def test_detach_by_what_a_device_is_or_where_it_comes_from(kernel, device, freed):
    for number, serial, kind in ((0, "", "ff"), (1, "AB1", "08"), (2, "AB2", "03")):
        kernel.take(number)
        describe(kernel, number, serial, kind)
    kernel.vhci.write_record(1, Record("lab", "3240", "3-1"))
    kernel.vhci.write_record(2, Record("lab", "3241", "3-1"))
    result = run("detach", device)
    assert result.output == f"port {freed} is free\n"
    assert [number for number in range(3) if kernel.ports[number].state == FREE] == [freed]


def test_detach_of_one_that_could_be_several_lists_them(kernel):
    for number in (0, 2):
        kernel.take(number)
    kernel.vhci.write_record(2, Record("lab", "3240", "3-1"))
    result = run("detach", "1209:*")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "usbferry detach: 1209:* stands for 2 attached devices; name one by its port:",
        "  port 0: 1-1 1209:0001 Hand Made serial 0001",
        "  port 2: 3-1 1209:0001 Hand Made serial 0001",
    ]
    assert [kernel.ports[number].state for number in (0, 2)] == [USED, USED]


@pytest.mark.parametrize(
    ("device", "text"),
    [
        ("046d:*", "nothing that is attached is 046d:*; usbferry ports lists what is"),
        ("vid=1", "'vid=1' is no term of a selector"),
    ],
)
def test_detach_of_what_is_not_there(kernel, device, text):
    kernel.take(0)
    result = run("detach", device)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert text in result.stderr
    assert kernel.ports[0].state == USED


def test_detach_says_how_to_resume_what_a_keeper_kept(kernel, monkeypatch):
    kernel.take(0)
    monkeypatch.setattr("usbferry.cli.detach.resumes", lambda port: [f"usbferry attach usbip://lab/{port}"])
    assert run("detach", "0").output.splitlines() == [
        "port 0 is free",
        "`usbferry keep` leaves it alone now; to resume: usbferry attach usbip://lab/0",
    ]


def test_one_that_is_wrong_detaches_none(kernel):
    kernel.take(0)
    assert run("detach", "0", "99").exit_code == 2
    assert kernel.ports[0].state == USED


def test_a_device_s_name_does_not_steer_the_terminal(kernel):
    kernel.take(0)
    (kernel.root / "sys/bus/usb/devices/1-1/product").write_text("\x1b[2Jgone\n")
    assert "\x1b" not in run("ports").output
