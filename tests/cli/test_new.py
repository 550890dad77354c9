"""`usbferry new`: what it writes works as it is, and what it cannot write is said."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from usbferry.cli import main
from usbferry.cli.new import write
from usbferry.extras import install, python


def new(*words: str) -> Result:
    return CliRunner().invoke(main, ["new", *words])


def checked(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to be in. Modules of its files are none of those that other tests find."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}
    yield tmp_path
    for name in {*sys.modules} - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_it_says_what_it_wrote_and_what_to_do(here: Path) -> None:
    result = new("heat-pump")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "heat-pump/heat_pump.py       the device: change it",
        "heat-pump/test_heat_pump.py  its test",
        "Try it:",
        "  cd heat-pump",
        f"  {python()} -m pytest",
        "  usbferry info virtual:./heat_pump.py",
        "  usbferry serve virtual:./heat_pump.py",
    ]
    text = (here / "heat-pump" / "heat_pump.py").read_text()
    assert text.startswith('"""Heat pump: a USB device')
    assert "class HeatPump(VirtualDevice):" in text
    for file in (here / "heat-pump").iterdir():
        assert "my_device" not in file.read_text().lower().replace(" ", "_")


def test_who_has_no_pytest_is_told_how_to_get_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usbferry.cli.new.util.find_spec", lambda name: None if name == "pytest" else find_spec(name))
    lines = new("thermometer").output.splitlines()
    assert lines[4:6] == [f"  {install('pytest')}", f"  {python()} -m pytest"]


@pytest.mark.slow
def test_its_style_and_its_types_pass(here: Path) -> None:
    """As its author may have them checked, with no settings of ours, and with ours."""
    folder = here / "thermometer"
    write(folder)
    for length in ("88", "120"):
        checked(folder, "ruff", "format", "--check", "--isolated", "--line-length", length, ".")
        checked(
            folder, "ruff", "check", "--isolated", "--select", "E,F,W,I,UP,B,SIM,C4,RUF", "--line-length", length, "."
        )
    checked(folder, "mypy", "--strict", "--config-file", "", ".")


@pytest.mark.slow
def test_its_own_test_passes(here: Path) -> None:
    write(here / "thermometer")
    alone = [
        word for name in ("asyncio", "hypothesispytest", "xdist", "rerunfailures") for word in ("-p", f"no:{name}")
    ]
    assert "4 passed" in checked(here / "thermometer", "pytest", "-q", "-W", "error", *alone, "--rootdir", ".")


def test_its_device_can_be_opened(here: Path) -> None:
    write(here / "thermometer")
    result = CliRunner().invoke(main, ["info", "virtual:./thermometer/thermometer.py?level=7"])
    assert "device  1209:0001  Me Thermometer" in result.output, result.output


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("5x", "'5x' cannot be a Python module's name"),
        ("a.b", "'a.b' cannot be a Python module's name"),
        ("class", "'class' cannot be a Python module's name"),
        ("usb", "'usb': there is a Python module of that name already, which it would hide"),
        ("json", "'json': there is a Python module of that name already, which it would hide"),
        ("speed", "'speed': Speed is a name that its file needs for something else"),
        ("plug-in", "'plug-in': PlugIn is a name that its file needs for something else"),
        ("there", "there is there already; choose another name, or take it away"),
        ("a-file", "a-file is there already; choose another name, or take it away"),
        ("a-file/inside", "a-file/inside: Not a directory"),
    ],
)
def test_what_cannot_be_written_is_said_in_one_line(name: str, said: str, here: Path) -> None:
    (here / "there").mkdir()
    (here / "a-file").write_text("mine")
    result = new(name)
    assert result.exit_code == 2
    assert said in result.output
    assert result.output.startswith("usbferry new: ")
    assert result.output.count("\n") == 1
    assert sorted(path.name for path in here.rglob("*")) == ["a-file", "there"]


@pytest.mark.parametrize("word", ["create", "init"])
def test_what_others_call_it(word: str) -> None:
    assert "; did you mean 'new'?" in CliRunner().invoke(main, [word, "x"]).output


# -- like another ------------------------------------------------------------------------------------------------------


def test_one_that_is_like_another_says_what_that_says(here: Path) -> None:
    result = new("my-mouse", "--like", "virtual:mouse?serial=7")
    assert result.exit_code == 0
    assert result.output.splitlines()[0].split() == ["my-mouse/my_mouse.py", "the", "device:", "change", "it"]
    told = {
        address: CliRunner().invoke(main, ["info", "--json", address]).output.replace(address, "")
        for address in ("virtual:mouse?serial=7", "virtual:./my-mouse/my_mouse.py")
    }
    assert len(set(told.values())) == 1, told
    assert '"""Mouse' not in (here / "my-mouse" / "my_mouse.py").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("address", ["virtual:headset", "virtual:keyboard", "virtual:uas?size=1M"])
def test_its_own_test_and_its_types_pass(here: Path, address: str) -> None:
    write(here / "copy-of-it", address)
    command = ("pytest", "-q", "-W", "error", "-p", "no:asyncio", "--rootdir", ".")
    assert "1 passed" in checked(here / "copy-of-it", *command)
    checked(here / "copy-of-it", "mypy", "--strict", "--config-file", "", ".")


@pytest.mark.parametrize("address", ["virtual:nothing", "usbip://127.0.0.1:1/1-1", "zero"])
def test_what_it_cannot_be_like_is_said_and_nothing_is_written(here: Path, address: str) -> None:
    result = new("copy-of-it", "--like", address)
    assert result.exit_code == 2
    assert result.output.startswith("usbferry new: ")
    assert result.output.count("\n") == 1
    assert list(here.iterdir()) == []
