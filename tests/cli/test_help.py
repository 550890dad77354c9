"""What a person sees first: help that fits a terminal, and starts without loading what it does not need."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from usbferry.cli import _OTHERS, VERBS, main, printable

READY = ["info", "list", "run", "serve"]


def said(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_every_verb_has_a_line() -> None:
    text = said("--help")
    for verb, line in VERBS.items():
        assert f"  {verb}" in text
        assert line in text
    assert said("-h") == text


def test_the_verb_list_does_not_hide_pythons_list() -> None:
    """Importing `usbferry.cli.list` makes it a name in the package."""
    said("list", "--help")
    assert "Commands:" in said("--help")


@pytest.mark.parametrize("verb", READY)
def test_help_of_a_verb_fits_a_terminal(verb: str) -> None:
    text = said(verb, "--help")
    assert text.startswith(f"Usage: main {verb} [OPTIONS]")
    assert "ADDRESS" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_the_version() -> None:
    assert said("--version") == f"usbferry, version {version('usbferry')}\n"


def test_a_verb_that_is_not_there() -> None:
    result = CliRunner().invoke(main, ["lst"])
    assert result.exit_code == 2
    assert "There is no command 'lst'. Did you mean 'list'?" in result.output


@pytest.mark.parametrize(
    ("word", "meant"), [("atach", "attach"), ("ports?", "ports"), ("udevrule", "udev-rule"), ("bind", "serve")]
)
def test_a_mistyped_verb_and_one_of_another_tool(word: str, meant: str) -> None:
    result = CliRunner().invoke(main, [word])
    assert result.exit_code == 2
    assert f"Did you mean {meant!r}?" in result.output


def test_what_is_like_no_verb_lists_them() -> None:
    output = CliRunner().invoke(main, ["frobnicate"]).output
    assert "There are: attach, demo, " in output


def test_what_other_tools_say_is_a_verb_here() -> None:
    assert set(_OTHERS.values()) <= set(VERBS)
    assert not set(_OTHERS) & set(VERBS)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], []])
def test_a_cold_start_loads_little(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from usbferry.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print('modules:', *sys.modules)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    said, _, modules = process.stdout.rpartition("modules: ")
    loaded = set(modules.split())
    if arguments:  # without one, newer versions of click end with an exception
        assert process.returncode == 0, process.stderr
        assert said
        assert "click" in loaded
    heavy = {"asyncio", "rich", "uvloop", "ssl", "hypothesis"}
    own = {name for name in loaded if name.startswith("usbferry")}
    assert loaded & heavy == set()
    assert own <= {"usbferry", "usbferry.cli"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Gadget Zero", "Gadget Zero"),
        ("Tastatur für Zürich 键盘", "Tastatur für Zürich 键盘"),
        ("\x1b[31mred\x1b[0m", "\ufffd[31mred\ufffd[0m"),
        ("two\nlines\r", "two\ufffdlines\ufffd"),
        ("\u202eleft to right", "\ufffdleft to right"),
    ],
)
def test_texts_from_devices_cannot_steer_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
