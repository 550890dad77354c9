"""`usbferry keep`: what it takes and says; what it does is in tests/local/test_keep.py and the kernel's tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from usbferry.cli import main
from usbferry.local import keep_status, rules

DEVICE = {
    "name": "1-1",
    "address": "usbip://lab/1-1",
    "rule": "board",
    "vendor_id": "1209",
    "product_id": "0001",
    "manufacturer": "Acme",
    "product": "Board\x1b[31m",
    "serial": "",
    "state": "attached",
    "port": 3,
    "reason": None,
}
LOST = {**DEVICE, "name": "1-2", "state": "waiting", "port": None, "reason": "somebody else uses it"}
PLACES = [
    {"address": "usbip://lab", "error": None, "devices": [DEVICE, LOST]},
    {"address": "usbip://attic", "error": "no connection", "devices": []},
]
KEEPER: dict[str, Any] = {
    "schema": keep_status.SCHEMA,
    "pid": 7,
    "started": "1",
    "every": 2.0,
    "rules": [],
    "places": PLACES,
}


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["keep", *words])


@pytest.fixture
def no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keep.toml"
    monkeypatch.setattr(rules, "paths", lambda: [tmp_path / "nothing", path])
    return path


def test_without_rules(no_file: Path) -> None:
    result = run()
    assert result.exit_code == 2
    assert result.stderr == (
        "usbferry keep: name an ADDRESS, such as usbip://HOST/046d:*; "
        f"there is no file of rules at {no_file.parent / 'nothing'} nor at {no_file}\n"
    )


@pytest.mark.parametrize("by_option", [True, False])
def test_a_mistake_in_the_file_is_one_line_with_its_place(no_file: Path, by_option: bool) -> None:
    no_file.write_text('[[rule]]\ndevice = "usbip://lab/vid=1"\n')
    result = run("--config", str(no_file)) if by_option else run()
    assert result.exit_code == 78
    assert f"RestartPreventExitStatus={result.exit_code}\n" in run("--unit").stdout
    assert result.stderr.startswith(
        f"usbferry keep: {no_file}:2:11: 'usbip://lab/vid=1': 'vid=1' is no term of a selec"
    )
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--config", "/nowhere/keep.toml"], "usbferry keep: /nowhere/keep.toml: No such file or directory\n"),
        (
            ["--config", "x", "usbip://lab"],
            "usbferry keep: either ADDRESS or --config: write the address into the file\n",
        ),
        (["lab/046d:"], "usbferry keep: 'usbip://lab/046d:': '046d:' is no VID:PID: "),
    ],
)
def test_what_cannot_be_done(words: list[str], says: str) -> None:
    result = run(*words)
    status = 78 if "/nowhere/keep.toml" in words else 2
    assert (result.exit_code, result.stderr.startswith(says)) == (status, True), result.stderr
    assert result.stderr.count("\n") == 1


def test_where_there_is_no_kernel_for_it_it_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from usbferry.device import DeviceError
    from usbferry.local.vhci import Vhci

    def check(self: Vhci) -> None:
        raise DeviceError("this kernel's USB/IP client is not loaded; as root: modprobe vhci-hcd")

    monkeypatch.setattr(Vhci, "check", check)
    result = run("usbip://lab")
    assert (result.exit_code, result.stderr) == (
        2,
        "usbferry keep: this kernel's USB/IP client is not loaded; as root: modprobe vhci-hcd\n",
    )


def test_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_status, "read", lambda: [KEEPER])
    assert run("--status").stdout.splitlines() == [
        "process 7",
        "  usbip://lab",
        "    1-1  1209:0001  Acme Board\N{REPLACEMENT CHARACTER}[31m  attached  port 3",
        "    1-2  1209:0001  Acme Board\N{REPLACEMENT CHARACTER}[31m  waiting  somebody else uses it",
        "  usbip://attic: no connection",
    ]
    assert json.loads(run("--status", "--json").stdout) == {"schema": "usbferry.keep/1", "keepers": [KEEPER]}


def test_no_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_status, "read", list)
    assert run("--status").stdout == "nothing is kept here\n"
    assert json.loads(run("--status", "--json").stdout) == {"schema": "usbferry.keep/1", "keepers": []}


def test_the_unit_file_runs_this_very_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "usbferry")])
    text = run("--unit").stdout
    assert f"\nExecStart={(tmp_path / 'usbferry').resolve()} keep --config /etc/usbferry/keep.toml\n" in text
    assert "\nExecReload=" in text
    assert text.endswith("WantedBy=multi-user.target\n")


@pytest.mark.parametrize(("name", "written"), [("my.toml", "{}"), ("a b%i.toml", '"{}"')])
def test_the_unit_file_has_the_rules_that_are_meant(name: str, written: str, tmp_path: Path) -> None:
    text = run("--unit", "--config", str(tmp_path / name)).stdout
    meant = written.format(str(tmp_path / name).replace("%", "%%"))
    assert f" keep --config {meant}\n" in text
    assert "/etc/usbferry/keep.toml" not in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--status", "usbip://lab"), "--status shows everything"),
        (("--status", "--config", "x"), "--status shows everything"),
        (("--status", "--unit"), "--status shows everything"),
        (("--json",), "--json is for --status"),
        (("--unit", "--json"), "--json is for --status"),
        (("--unit", "usbip://lab"), "--unit is for a file of rules"),
    ],
)
def test_what_would_be_ignored_is_refused(words: tuple[str, ...], says: str) -> None:
    result = run(*words)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith(f"usbferry keep: {says}")


def test_a_unit_of_python_m_starts_python() -> None:
    text = subprocess.run(
        [sys.executable, "-m", "usbferry", "keep", "--unit"], capture_output=True, text=True, timeout=30
    ).stdout
    assert f"\nExecStart={sys.executable} -m usbferry keep " in text
