"""What is said of a package that is missing is a command that there is."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from usbferry import extras
from usbferry.extras import install


def told(monkeypatch: pytest.MonkeyPatch, modules: set[str], programs: set[str], prefix: str = "/home/me/.venv") -> str:
    """What is said in an environment with these modules and programs; its own Python is not the first on the PATH."""
    monkeypatch.setattr(extras, "find_spec", lambda name: name if name in modules else None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in programs else None)
    monkeypatch.setattr(sys, "prefix", prefix)
    monkeypatch.setattr(sys, "executable", f"{prefix}/bin/python")
    return install("one", "two")


@pytest.mark.parametrize(
    ("modules", "programs", "command"),
    [
        ({"pip"}, {"uv"}, "/home/me/.venv/bin/python -m pip install one two"),
        (set(), {"uv"}, "uv pip install --python /home/me/.venv/bin/python one two"),
        (
            {"ensurepip"},
            set(),
            "/home/me/.venv/bin/python -m ensurepip && /home/me/.venv/bin/python -m pip install one two",
        ),
    ],
)
def test_it_goes_by_what_there_is(
    modules: set[str], programs: set[str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(monkeypatch, modules, programs) == command


def test_pipx_puts_it_beside_usbferry(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, {"pip"}, set(), "/root/.local/pipx/venvs/usbferry") == "pipx inject usbferry one two"


def test_a_system_without_any_is_told_where_pip_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert told(monkeypatch, {"ensurepip"}, set(), "/usr").startswith("apt install python3-pip")


def test_the_python_that_is_found_first_goes_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: str(Path(sys.executable)))
    assert install("one") == f"{Path(sys.executable).name} -m pip install one"
