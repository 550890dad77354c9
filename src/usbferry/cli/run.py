"""`usbferry run`: an unmodified pyusb program, with our devices in place of this machine's."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

import click

from ..registry import open_source
from . import fail
from .address import whole_address
from .notes import say_notes

_PACKAGE: Final = Path(__file__).parents[1]
_LIBUSB: Final = (b"libusb-1.0", b"libusb-0.1")


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--device", "addresses", multiple=True, required=True, metavar="ADDRESS", help="May be given several times."
)
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(addresses: tuple[str, ...], program: str, arguments: tuple[str, ...]) -> None:
    """Run PROGRAM with the devices at each ADDRESS as the only ones that it finds.

    \b
    PROGRAM is any that uses devices by pyusb, in any Python environment:
      usbferry run --device usbip://HOST -- pyfu-usb -l
      usbferry run --device usbip://HOST/1-2 -- python prog.py

    It needs no root, no driver and no libusb, and it is not changed. What it
    starts finds the same devices. Its exit status is that of PROGRAM.
    """
    try:
        addresses = tuple(map(whole_address, addresses))
        sources = [open_source(address) for address in addresses]
    except ValueError as error:
        fail(f"usbferry run: {error}")
    path = _found(program)
    if _is_isolated((program, *arguments)) or _is_isolated(_interpreter(path)):
        fail(f"usbferry run: {program} has its Python ignore PYTHONPATH (-I, -E or -S), so it cannot be given devices")
    for source in sources:
        say_notes(source)  # the program, which is no longer ours, is to list it
    if _uses_libusb(path):
        remedy = "what every program finds is attached: usbferry attach ADDRESS"
        said = f"{program} uses libusb and not pyusb: it finds this machine's own devices, and none of these; {remedy}"
        print(f"usbferry run: {said}", file=sys.stderr, flush=True)
    _execute(path, (program, *arguments), environment(addresses))


def environment(addresses: Sequence[str]) -> dict[str, str]:
    """What makes Python programs find these devices: see `local/hook/sitecustomize.py`."""
    path = os.environ.get("PYTHONPATH")
    hook = str(_PACKAGE / "local" / "hook")
    return {
        **os.environ,
        "PYTHONPATH": hook if not path else os.pathsep.join((hook, path)),
        "USBFERRY_RUN_DEVICES": json.dumps(addresses),
        "USBFERRY_RUN_HOME": str(_PACKAGE.parent),
    }


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is not None:
        return path
    if os.path.isfile(program):  # no more than False for what this user may not see
        fail(f"usbferry run: {program} is not executable; if it is a Python program, write: python {program}")
    fail(f"usbferry run: there is no program {program!r}")


def _uses_libusb(path: str) -> bool:
    """Whether it is a binary that is linked with libusb, as lsusb and dfu-util are. Any other may start a Python."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content[:2] != b"#!" and any(content.find(name) >= 0 for name in _LIBUSB)
    except (OSError, ValueError):  # an empty file is none
        return False


def _interpreter(path: str) -> list[str]:
    """The words of a script's first line, `#!...`; none where it has no such."""
    try:
        with open(path, "rb") as script:
            line = script.readline(256)
    except OSError:
        return []
    return line[2:].decode(errors="replace").split() if line.startswith(b"#!") else []


def _is_isolated(words: Sequence[str]) -> bool:
    """Whether these start a Python that is told to ignore its environment, or to leave out `site`."""
    return any(set(flags) & {"I", "E", "S"} for flags in _python_flags(words))


def _python_flags(words: Sequence[str]) -> Iterator[str]:
    """The one-letter options in front of the script, the module or the text that a Python is to run."""
    if not words or not Path(words[0]).name.startswith("python"):
        return
    for word in words[1:]:
        if not word.startswith("-") or word.startswith(("--", "-c", "-m")):
            return
        yield word


def _execute(path: str, words: tuple[str, ...], environment: dict[str, str]) -> NoReturn:
    """Become the program, so that its exit status and its signals are its own."""
    if sys.platform == "win32":  # there `exec` would leave the terminal to both
        sys.exit(subprocess.run([path, *words[1:]], env=environment).returncode)
    ignored = [getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, name)]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and so would what it becomes
    try:
        os.execve(path, words, environment)
    except OSError as error:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        fail(f"usbferry run: {path} cannot be started: {error.strerror}")
