"""What a user types to have an optional package in the very Python that runs usbferry, be there a pip or not."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path


def install(*packages: str) -> str:
    """The command that installs them here, by what there is: pip, pipx, uv, or what brings pip first."""
    words = " ".join(packages)
    home = Path(sys.prefix)
    if home.parent.name == "venvs" and home.parent.parent.name == "pipx":
        return f"pipx inject {home.name} {words}"
    if find_spec("pip") is not None:
        return f"{python()} -m pip install {words}"
    if shutil.which("uv"):
        return f"uv pip install --python {python()} {words}"
    if find_spec("ensurepip") is not None and sys.prefix != sys.base_prefix:
        return f"{python()} -m ensurepip && {python()} -m pip install {words}"
    return f"apt install python3-pip (or what your system has), then: {python()} -m pip install {words}"


def python() -> str:
    """This Python as it can be typed: by its name where that is the one found first."""
    name = Path(sys.executable).name
    found = shutil.which(name)
    return name if found is not None and Path(found) == Path(sys.executable) else sys.executable
