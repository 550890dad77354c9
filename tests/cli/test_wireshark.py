"""`usbferry wireshark`: prints the dissectors, and installs them where Wireshark says."""

import os
import shutil
import struct
import subprocess
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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tshark") is None, reason="it is Wireshark that takes it")
def test_it_may_be_installed_and_given_besides(tmp_path):
    """Each script of Wireshark's has globals of its own: what two of them know of one another is in `_G`."""
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    folders = subprocess.run(["tshark", "-G", "folders"], env=home, capture_output=True, text=True, timeout=60).stdout
    [where] = [line.split(":", 1)[1].strip() for line in folders.splitlines() if line.startswith("Personal Lua")]
    assert run("--install", "--folder", where)[0] == 0
    other, capture = tmp_path / "other.lua", tmp_path / "none.pcap"
    other.write_text(run()[1])
    capture.write_bytes(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 101))
    for words in ([], ["-X", f"lua_script:{other}"]):
        command = ["tshark", "-r", str(capture), "-Y", "ferry || usbredir", *words]
        done = subprocess.run(command, env=home, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, "Lua" in done.stderr) == (0, "", False), done.stderr


def test_the_script_is_ascii_without_surprises():
    """Wireshark on Windows reads it in the system's own encoding."""
    assert script("1").isascii()
