"""`usbferry wireshark`: have Wireshark decode ferry and usbredir."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click

from .. import __version__
from ..wireshark import NAME, script
from . import fail


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
            said = subprocess.run([where, "-G", "folders"], capture_output=True, text=True, timeout=60, check=False)
            found = re.search(r"^Personal Lua Plugins:\s*(.+)$", said.stdout, re.MULTILINE)
            if found:
                return Path(found[1].strip())
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", Path.home())) / "Wireshark" / "plugins"
    return Path.home() / ".local" / "lib" / "wireshark" / "plugins"  # macOS too
