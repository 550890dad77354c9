"""Programs as an ordinary user runs them: root drops to `nobody`, in a folder of his own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import usbferry

_SECONDS = 60


def _nobody() -> dict[str, Any]:
    """How to start a process without rights; nothing where we have none ourselves."""
    if not hasattr(os, "geteuid") or os.geteuid():
        return {}
    import pwd

    entry = pwd.getpwnam("nobody")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@cache
def python() -> str:
    """A Python of our version that this user may run: root's own may be hidden in root's home."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for candidate in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        try:
            subprocess.run([candidate, "-c", "import json"], check=True, capture_output=True, **_nobody())
        except (OSError, subprocess.CalledProcessError):
            continue
        return candidate
    return ""


class User:
    """Runs Python programs with what is installed here. `folder` is his."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        places = (str(Path(usbferry.__file__).parents[1]), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(places)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": "ignore",  # the programs' own
        }

    def run(self, *words: str, devices: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """`python WORDS`, with `usbferry run` before it where it is to have devices."""
        command = [python(), *words]
        if devices:
            options = [word for device in devices for word in ("--device", device)]
            command = [python(), "-m", "usbferry", "run", *options, "--", *command]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            **_nobody(),
        )

    def said(self, *words: str, devices: tuple[str, ...]) -> str:
        """What a program that ends well prints."""
        done = self.run(*words, devices=devices)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextmanager
def ordinary_user() -> Iterator[User]:
    folder = Path(tempfile.mkdtemp(prefix="usbferry-"))
    try:
        if rights := _nobody():
            shutil.chown(folder, rights["user"], rights["group"])
        yield User(folder)
    finally:
        shutil.rmtree(folder)
