"""`usbferry wireshark`: have Wireshark decode ferry and usbredir."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

from .. import __version__
from ..wireshark import NAME, script
from . import fail

_SECONDS: Final = 60.0  # for a program of Wireshark's to start and say something


@click.command()
@click.option("--install", is_flag=True, help="Put it where Wireshark and tshark look for it.")
@click.option("--folder", metavar="FOLDER", help="With --install: there, rather than in your own plugins' folder.")
def command(install: bool, folder: str | None) -> None:
    """Print what makes Wireshark decode ferry and usbredir, or install it.

    It is one script in Lua, which Wireshark and tshark also take once, from any file: -X lua_script:FILE.

    Captured connections are told by their first bytes, whatever their port. What is inside of transfers is given to
    Wireshark's own USB dissectors.
    """
    if folder is not None and not install:
        fail("usbferry wireshark: --folder says where to --install")
    text = script(__version__)
    if not install:
        print(text, end="")
        return
    path = (Path(folder) if folder is not None else plugins()) / NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"usbferry wireshark: {path}: {error.strerror}")
    print(f"installed {path}; a running Wireshark takes it with Analyze > Reload Lua Plugins", file=sys.stderr)


def plugins() -> Path:
    """The folder for a user's own Lua plugins: as Wireshark says, or where it is by default."""
    for program in ("tshark", "wireshark"):
        where = shutil.which(program)
        if where is not None:
            found = re.search(r"^Personal Lua Plugins:\s*(.+)$", _folders(where), re.MULTILINE)
            if found:
                return Path(found[1].strip())
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", Path.home())) / "Wireshark" / "plugins"
    return Path.home() / ".local" / "lib" / "wireshark" / "plugins"  # macOS too


def _folders(program: str) -> str:
    """What a program of Wireshark's says of its folders; nothing, and a line for the user, where it cannot be run."""
    try:
        said = subprocess.run(
            [program, "-G", "folders"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        why = f"it did not answer within {_SECONDS:g} s"
    except OSError as error:
        why = error.strerror or str(error)
    else:
        return said.stdout
    print(f"{program} cannot be asked for its folder of plugins: {why}; see --folder", file=sys.stderr)
    return ""
