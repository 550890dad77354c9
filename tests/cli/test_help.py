"""What a person sees first: help that fits a terminal, and starts without loading what it does not need."""

from __future__ import annotations

import os
import re
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
    assert result.output == "usbferry: there is no command 'lst'; did you mean 'list'?\n"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("atach", "attach"),
        ("ports?", "ports"),
        ("udevrule", "udev-rule"),
        ("bind", "serve"),
        ("follow", "list --follow"),
    ],
)
def test_a_mistyped_verb_and_one_of_another_tool(word: str, meant: str) -> None:
    result = CliRunner().invoke(main, [word])
    assert result.exit_code == 2
    assert f"; did you mean {meant!r}?" in result.output


def test_what_is_like_no_verb_lists_them() -> None:
    output = CliRunner().invoke(main, ["frobnicate"]).output
    assert "; there are: attach, demo, " in output


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--bogus", "usbferry: no such option '--bogus'; usbferry --help has them all"),
        ("serve --lisen :1 virtual:zero", "usbferry serve: no such option '--lisen'; did you mean '--listen'?"),
        ("serve -q virtual:zero", "usbferry serve: no such option '-q'; usbferry serve --help has them all"),
        ("serve --buffer", "usbferry serve: option '--buffer' requires an argument; see usbferry serve --help"),
        (
            "serve --buffer x",
            "usbferry serve: invalid value for '--buffer': 'x' is not a valid number of seconds; "
            "see usbferry serve --help",
        ),
        ("attach", "usbferry attach: missing argument 'ADDRESS'; write it as usbferry attach [OPTIONS] ADDRESS"),
        ("ports 0", "usbferry ports: got unexpected extra argument (0); write it as usbferry ports [OPTIONS]"),
    ],
)
def test_wrong_words_are_told_in_one_line(words: str, line: str) -> None:
    """click says them in four, of which the last is what is wrong. Its versions differ in marks alone."""
    result = CliRunner().invoke(main, words.split())
    assert result.exit_code == 2
    assert re.sub(r"[':]", "", result.output) == re.sub(r"[':]", "", line) + "\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_an_output_cannot_say_ends_no_command(encoding: str) -> None:
    """The demo ended in the middle where its output went to a file on Windows."""
    done = subprocess.run(
        [sys.executable, "-m", "usbferry", "info", "virtual:zero?serial=\u00e4\u2502"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    [line] = [line for line in done.stdout.splitlines() if b" serial " in line]
    assert line.endswith("\u00e4\u2502".encode(encoding, "replace"))


def test_without_a_verb_the_help_is_shown() -> None:
    result = CliRunner().invoke(main, [])
    assert "Commands:" in result.output


def test_what_other_tools_say_is_a_verb_here() -> None:
    assert {meant.split()[0] for meant in _OTHERS.values()} <= set(VERBS)
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
