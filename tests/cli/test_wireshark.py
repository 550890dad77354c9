"""`usbferry wireshark`: prints the dissectors, and installs them where Wireshark says."""

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from usbferry.cli import main, wireshark
from usbferry.wireshark import script


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["wireshark", *words])
    return done.exit_code, done.output


def test_it_prints_one_script():
    code, text = run()
    assert code == 0
    assert text.startswith("-- Wireshark dissectors for ferry and usbredir, by usbferry ")
    assert 'Proto("ferry"' in text
    assert 'Proto("usbredir"' in text


def test_it_installs_where_wireshark_says(tmp_path, monkeypatch):
    """Whatever its version calls that folder."""
    plugins = tmp_path / "plugins of mine"
    program = tmp_path / "tshark"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = '-G folders' ] && printf 'Personal Lua Plugins:\\t%s\\n' '{plugins}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + "/bin")
    code, text = run("--install")
    assert (code, text.split(";")[0]) == (0, f"installed {plugins / 'usbferry.lua'}")
    assert (plugins / "usbferry.lua").read_text("utf-8").startswith("-- Wireshark dissectors")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has another folder")
@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("#!/bin/sh\nexec /bin/sleep 60\n", "it did not answer within 0.2 s"),
        ("#!/no/such/interpreter\n", "No such file or directory"),
        ("\x7fELF of another machine", "Exec format error"),
    ],
)
def test_a_tshark_that_hangs_or_cannot_be_run_counts_as_none(script, why, tmp_path, monkeypatch):
    monkeypatch.setattr(wireshark, "_SECONDS", 0.2)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    program = tmp_path / "tshark"
    program.write_text(script)
    program.chmod(0o755)
    code, text = run("--install")
    assert (code, text.split(";")[0]) == (0, f"{program} cannot be asked for its folder of plugins: {why}")
    assert (tmp_path / ".local/lib/wireshark/plugins/usbferry.lua").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has another folder")
def test_without_wireshark_it_is_the_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert run("--install")[0] == 0
    assert (tmp_path / ".local/lib/wireshark/plugins/usbferry.lua").exists()


def test_another_folder_and_one_that_cannot_be(tmp_path):
    assert run("--install", "--folder", str(tmp_path))[0] == 0
    (tmp_path / "file").write_text("")
    code, text = run("--install", "--folder", str(tmp_path / "file"))
    assert code == 2
    assert text.startswith(f"usbferry wireshark: {tmp_path / 'file' / 'usbferry.lua'}: ")
    assert run("--folder", "x") == (2, "usbferry wireshark: --folder says where to --install\n")


def test_the_script_is_ascii_without_surprises():
    """Wireshark on Windows reads it in the system's own encoding."""
    assert script("1").isascii()
