"""Devices of the user's own, from a file or a module, and what is said of those that cannot be had."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import usbferry
from usbferry.backends import own
from usbferry.backends.virtual import VirtualSource
from usbferry.registry import UnknownName, open_source
from usbferry.usb.types import Speed

ECHO = """\
from usbferry.devices.virtual import DeviceDescriptor, Interface, Speed, VirtualDevice, data, endpoint


class Echo(VirtualDevice):
    descriptor = DeviceDescriptor(0x1209, 0x0001)
    product = "Echo"

    def __init__(self, *, speed: Speed = Speed.HIGH, word: str = "none"):
        self.speed = speed
        self.word = word
        super().__init__()

    def interfaces(self):
        return (Interface(0, endpoints=(self.bulk(0x81),)),)

    @endpoint(0x81)
    def give(self, transfer):
        return data(self.word.encode())
"""


@pytest.fixture(autouse=True)
def forgets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No test leaves a module of its own, or a folder in which modules are looked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name, module in tuple(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def device(address: str) -> object:
    source = open_source(address)
    assert isinstance(source, VirtualSource)
    return source.device


@pytest.mark.parametrize("address", ["virtual:echo.py", "virtual:./echo.py", "virtual:./echo.py:Echo"])
def test_a_file_is_a_device(address: str) -> None:
    Path("echo.py").write_text(ECHO)
    with usbferry.open(f"{address}?word=hello%20you&speed=full") as usb:
        assert usb.info.speed is Speed.FULL
        assert usb.read(0x81, 64) == b"hello you"


def test_it_has_faults() -> None:
    Path("echo.py").write_text(ECHO)
    with usbferry.open("virtual:echo.py?fault=stall:0x81") as usb, pytest.raises(usbferry.Stalled):
        usb.read(0x81, 64)


def test_a_name_of_any_letters(tmp_path: Path) -> None:
    (tmp_path / "what? & why").mkdir()
    (tmp_path / "what? & why" / "echo.py").write_text(ECHO)
    assert device(f"virtual:{tmp_path}/what%3F & why/echo.py?word=x").product == "Echo"  # type: ignore[attr-defined]


def test_a_module_is_a_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "devices.py").write_text(ECHO)
    monkeypatch.syspath_prepend(tmp_path)
    assert type(device("virtual:lab.devices:Echo")).__module__ == "lab.devices"


def test_a_file_that_was_imported_is_not_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Path("echo.py").write_text(ECHO)
    monkeypatch.syspath_prepend(tmp_path)
    import echo  # type: ignore[import-not-found]

    assert isinstance(device("virtual:./echo.py"), echo.Echo)
    assert own.load_file(Path("./echo.py")) is echo


def test_a_file_of_the_name_of_one_that_is_gone(tmp_path: Path) -> None:
    for word in ("first", "second"):
        (tmp_path / word).mkdir()
        (tmp_path / word / "echo.py").write_text(ECHO.replace("none", word))
    assert device(f"virtual:{tmp_path}/first/echo.py").word == "first"
    (tmp_path / "first" / "echo.py").unlink()
    assert device(f"virtual:{tmp_path}/second/echo.py").word == "second"


def test_what_lies_beside_a_file_can_be_imported() -> None:
    Path("words_of_echo.py").write_text("word = 'beside'\n")
    Path("echo.py").write_text(f"import words_of_echo\n{ECHO}".replace('"none"', "words_of_echo.word"))
    assert device("virtual:echo.py").word == "beside"  # type: ignore[attr-defined]


def test_a_base_that_is_not_meant_has_an_underscore() -> None:
    Path("echo.py").write_text(ECHO.replace("Echo(", "_Echo(") + "\n\nclass Loud(_Echo):\n    pass\n")
    assert type(device("virtual:echo.py")).__name__ == "Loud"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("self.word = word", "self.word = wrod"), r"echo\.py:10: NameError: name 'wrod' is not defined"),
        (("class Echo(VirtualDevice):", "class Echo(VirtualDevice:"), r"echo\.py:4: SyntaxError: .+"),
        (("    @endpoint(0x81)", "    @endpiont(0x81)"), r"echo\.py:16: NameError: name 'endpiont' is not defined"),
        (("import Device", "import Devise"), r"echo\.py:1: ImportError: cannot import name 'Devise.*"),
        (("class Echo", "import sys\nsys.exit(3)\nclass Echo"), r"echo\.py:5: SystemExit: 3"),
        (("class Echo", "import json\njson.loads('{')\nclass Echo"), r"echo\.py:5: JSONDecodeError: .*"),
        (("    descriptor = ", "    descriptr = "), r"echo\.py:11: AttributeError: .* no attribute 'descriptor'.*"),
        (("(self.bulk(0x81),)),)", "(self.bulk(0x81),)))"), r"echo\.py:4: TypeError: .*is there a comma missing\?"),
        (("self.speed = speed", "raise ValueError('no such word')"), r"\./echo\.py: no such word"),
        (("(0x1209, 0x0001)", "(0x1209, 0x10001)"), r"\./echo\.py: .*idProduct.*"),
        (("class Echo(VirtualDevice)", "class Echo(object)"), r"\./echo\.py has no virtual device: a class derived .*"),
        (("word: str", "word: list[str]"), r"Echo, option word: .*list.* has no text form; there are: str, .*"),
        (("(VirtualDevice):", "(VirtualDevice): pass\nclass Two(Echo):"), r"\./echo\.py has several devices, .*"),
    ],
)  # fmt: skip
def test_what_does_not_load_names_file_and_line(change: tuple[str, str], said: str) -> None:
    text = ECHO.replace(*change)
    assert text != ECHO
    Path("echo.py").write_text(text)
    with pytest.raises(ValueError, match=f"^{said}$") as caught:
        device("virtual:./echo.py")
    assert "\n" not in str(caught.value)


def test_a_mistake_of_a_module_beside_it_is_told_there() -> None:
    Path("besides_echo.py").write_text("import json\n\n\ndef read():\n    return json.loads('{')\n")
    Path("echo.py").write_text(f"import besides_echo\nbesides_echo.read()\n{ECHO}")
    with pytest.raises(ValueError, match=r"^besides_echo\.py:5: JSONDecodeError: "):
        device("virtual:./echo.py")


@pytest.mark.parametrize(
    "text",
    [
        "from facedancer import *\nclass Gauge(USBDevice): pass\nmain(Gauge())",
        "import facedancer.device as made\nclass Gauge(made.USBBaseDevice): pass",
    ],
)
@pytest.mark.parametrize("end", ["", ":Gauge"])
def test_a_file_for_facedancer_says_so_in_one_line(text: str, end: str, capfd: pytest.CaptureFixture[str]) -> None:
    """And is not run: its `main` would print its own usage for our command line."""
    Path("gauge.py").write_text(text)
    with pytest.raises(ValueError, match=r"^gauge\.py is a program for Facedancer: write facedancer:gauge\.py$"):
        device(f"virtual:./gauge.py{end}")
    assert capfd.readouterr() == ("", "")


def test_a_file_with_devices_for_both_is_ours() -> None:
    pytest.importorskip("facedancer")
    Path("echo.py").write_text(f"{ECHO}\nfrom facedancer import USBDevice\n")
    assert device("virtual:./echo.py").product == "Echo"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("virtual:./nothing.py", "there is no file nothing.py"),
        ("virtual:./nothing.py:Echo", "there is no file nothing.py"),
        ("virtual:./echo.py:Eco", "./echo.py has no class 'Eco'; its devices are: Echo"),
        ("virtual:./echo.py:Interface", "Interface is no virtual device, a class derived from VirtualDevice"),
        ("virtual:nothing.at_all:Echo", "there is no module 'nothing' beside usbferry; a file is written virtual:PATH"),
        ("virtual:./echo:Echo", "'./echo' is neither a module nor a file: a file is written virtual:PATH.py:CLASS"),
        ("virtual::Echo", "'' is neither a module nor a file"),
        ("virtual:./echo.py?wrod=x", "./echo.py has no option 'wrod'; it has: speed, word, fault"),
        ("virtual:echo", "did you mean the file, virtual:echo.py?"),
    ],
)
def test_what_is_not_there_is_said(address: str, said: str) -> None:
    Path("echo.py").write_text(ECHO)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (its text is looked at below)
        device(address)
    assert said in str(caught.value)


def test_a_name_alone_is_an_unknown_one() -> None:
    with pytest.raises(UnknownName):
        device("virtual:echo")


def test_the_command_line_says_it_in_one_line() -> None:
    Path("echo.py").write_text(ECHO.replace("self.word = word", "self.word = wrod"))
    command = [sys.executable, "-m", "usbferry", "info", "virtual:echo.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "usbferry info: echo.py:10: NameError: name 'wrod' is not defined\n"
